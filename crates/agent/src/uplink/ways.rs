//! Ways of packets that were translated for clients outside, and of the node's answers to pods of others, see
//! [`kuryr_planning::uplink::ways`].
//!
//! The node's routes are the operator's, and may change: they are looked at again and again.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use kuryr_api::{kuryrnode::KuryrNodeSpec, names};
use kuryr_datapath::{NodeRoute, Side};
use kuryr_planning::uplink::ways::{self, Ways};

use crate::{error::Result, node::NodeState, wiring::World};

/// A route that comes or goes is followed within this time.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Ways as they were set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Led {
    /// When, since the agent started.
    at: Duration,
    /// For what.
    by: By,
    /// Networks of pods that no route of the node leads to.
    pub(crate) missing: Vec<IpNet>,
}

/// What ways follow from, beside the node's routes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct By {
    is_nested: bool,
    has_own_port: bool,
    /// Networks of the record.
    networks: Vec<IpNet>,
    /// Addresses of the node with which it answers pods of others past its own port.
    from: Vec<IpAddr>,
}

impl By {
    /// None: the node's addresses are not known yet, and an agent before has set what it knew.
    fn of(spec: &KuryrNodeSpec, addresses: &[IpAddr]) -> Option<Self> {
        let is_nested = spec.mode.is_nested();
        let own_port = spec.own_port.as_ref().filter(|_| !is_nested);
        let networks = spec.subnets.values().map(|subnet| subnet.cidr.trunc()).collect();
        let from = own_port.map_or(Vec::new(), |port| ways::past_own_port(port, addresses));
        let is_known = own_port.is_none() || !addresses.is_empty();
        is_known.then_some(Self { is_nested, has_own_port: own_port.is_some(), networks, from })
    }
}

/// Brings the ways towards what the record and the node's routes say.
pub(super) async fn reconcile(world: &World, state: &NodeState) -> Result<()> {
    let Some(spec) = state.offer().map(|offer| offer.spec()) else { return Ok(()) };
    let Some(by) = By::of(spec, &state.node_addresses) else { return Ok(()) };
    let now = world.state.now();
    let is_led = |led: &Led| led.by == by && now.saturating_sub(led.at) < LOOK_AGAIN;
    if world.memory().ways.as_ref().is_some_and(is_led) {
        return Ok(());
    }
    let mut missing = Vec::new();
    if by.has_own_port {
        let (routes, own) = look(world).await?;
        let Some(own) = own else { return Ok(()) };
        let to_clients = ways::to_clients(spec, &routes, own);
        set(world, Side::ToClients, to_clients, by.from.clone()).await?;
    } else {
        let mut to_pods = Ways::default();
        if by.is_nested && world.config.serves_services {
            to_pods = ways::to_pods(spec, &look(world).await?.0);
        }
        missing = to_pods.missing;
        // Also where there are to be none: an agent before may have had others.
        set(world, Side::ToPods, to_pods.ways, Vec::new()).await?;
        set(world, Side::ToClients, Vec::new(), Vec::new()).await?;
    }
    world.memory().ways = Some(Led { at: now, by, missing });
    Ok(())
}

/// The node's routes, and the index of its own port's interface.
async fn look(world: &World) -> Result<(Vec<ways::NodeRoute>, Option<u32>)> {
    let look = world.kernel.urgent("look at the node's routes", |node| {
        Ok((node.routes()?, node.interface_named(names::NODE_INTERFACE)?))
    });
    let (routes, own) = look.await?;
    Ok((routes.into_iter().map(planned).collect(), own.map(|own| own.index)))
}

async fn set(world: &World, side: Side, ways: Vec<ways::NodeRoute>, from: Vec<IpAddr>) -> Result<()> {
    let ways: Vec<NodeRoute> = ways.into_iter().map(kernels).collect();
    world.kernel.urgent("lead packets", move |node| node.set_ways(side, &ways, &from)).await
}

fn planned(NodeRoute { dst, via, link }: NodeRoute) -> ways::NodeRoute {
    ways::NodeRoute { dst, via, link }
}

fn kernels(ways::NodeRoute { dst, via, link }: ways::NodeRoute) -> NodeRoute {
    NodeRoute { dst, via, link }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{checkpoint::tests::in_memory, kernel::fake::FakeKernel, wiring::fake::FakeWorld};
    use kuryr_api::kuryrnode::KuryrNode;
    use kuryr_datapath::NodeInterface;
    use kuryr_planning::claim::Own;
    use serde_json::{Value, json};

    /// An agent whose node has a default route over link 2, and an interface of the own port with number 7.
    fn world() -> FakeWorld {
        let kernel = FakeKernel::default();
        let route =
            NodeRoute { dst: "::/0".parse().unwrap(), via: Some("fe80::1".parse().unwrap()), link: 2 };
        kernel.contents.lock().unwrap().routes = vec![route];
        let own = NodeInterface {
            name: names::NODE_INTERFACE.into(),
            index: 7,
            mac: "fa:16:3e:00:00:99".parse().unwrap(),
            mtu: 1400,
            up: true,
            kind: None,
        };
        kernel.contents.lock().unwrap().interface = Some((own, "fd00:1::c8".parse().unwrap()));
        let world = FakeWorld::new(in_memory(), kernel, vec![]);
        let checkpoint = world.world.checkpoint.look(|facts, _| facts.unwrap().id);
        world.world.state.update(|state| {
            state.own = Some(Own { node_uid: "node".into(), checkpoint });
            state.surveyed = true;
        });
        world
    }

    async fn led(world: &FakeWorld, own_port: Option<Value>, addresses: &[&str]) {
        let checkpoint = world.world.checkpoint.look(|facts, _| facts.unwrap().id);
        let spec = json!({
            "nodeUid": "node", "checkpoint": checkpoint, "ports": {}, "ownPort": own_port,
            "networks": {"n": {"name": "pods", "mtu": 1442}}, "subnets": {"s": {"cidr": "fd00:1::/64"}},
        });
        let spec: KuryrNodeSpec = serde_json::from_value(spec).unwrap();
        world.records.reset(vec![KuryrNode::new("node1", spec.clone())], BTreeMap::new());
        world.world.state.update(|state| {
            state.spec = Some(std::sync::Arc::new(spec));
            state.node_addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        });
        reconcile(&world.world, &world.world.state.get()).await.unwrap();
    }

    fn told(world: &FakeWorld) -> String {
        let contents = world.kernel.contents.lock().unwrap();
        let of =
            |side| format!("{:?} {:?}", contents.ways.get(&side).map(Vec::len), contents.led_from.get(&side));
        format!("{}, {}", of(Side::ToPods), of(Side::ToClients))
    }

    #[tokio::test]
    async fn what_the_node_says_with_addresses_that_its_own_port_has_not_goes_past_it() {
        let port = json!({
            "id": "p", "mac": "fa:16:3e:00:00:99", "network": "n",
            "addresses": [{"subnet": "s", "address": "fd00:1::c8"}],
        });
        let world = world();
        led(&world, Some(port.clone()), &[]).await;
        assert_eq!(told(&world), "None None, None None", "it may have been set by an agent before");
        led(&world, Some(port.clone()), &["2001:db8::1"]).await;
        assert_eq!(told(&world), "None None, Some(1) Some([2001:db8::1])");
        // Addresses are followed at once; one of the port is the port's.
        led(&world, Some(port), &["2001:db8::2", "fd00:1::c8"]).await;
        assert_eq!(told(&world), "None None, Some(1) Some([2001:db8::2])");
        led(&world, None, &["2001:db8::2"]).await;
        assert_eq!(told(&world), "Some(0) Some([]), Some(0) Some([])");
    }
}
