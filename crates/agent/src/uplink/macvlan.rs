//! The node's own interface as what carries the frames of all pods without VLANs: a macvlan for each port.
//!
//! Which there have to be, and what is ready, is [`kuryr_planning::uplink::macvlan`]'s to say.

use std::{collections::BTreeMap, time::Duration};

use kuryr_datapath::{MacvlanSpec, NodeInterface};
use kuryr_planning::uplink::macvlan::{Inputs, Macvlan, Make, Plan, plan};
use kuryr_types::PortId;

use crate::{
    error::{Result, with_causes},
    node::SharedUplink,
    uplink::observe,
    wiring::World,
};

/// Macvlans and interfaces that somebody took away are noticed within this time, by looking.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Macvlans deleted in a row, at 17 ms each, before others have their turn.
const REMOVED_AT_ONCE: usize = 16;
const SOON: Duration = Duration::from_millis(100);

/// Brings the node towards what is offered; tells when to look again.
pub(super) async fn reconcile(world: &World, present: &BTreeMap<String, Macvlan>) -> Result<Duration> {
    let mut uplink = usable(world.state.get().interface.as_ref(), world);
    let plan = plan_for(world, &uplink, present);
    remove(world, &plan.replace).await?;
    let made = make(world, &plan.make).await;
    if let (Err(error), SharedUplink::Adopted(_)) = (&made, &uplink) {
        let ifname = world.state.get().interface.as_ref().map(|found| found.name.clone()).unwrap_or_default();
        uplink = SharedUplink::Refused { ifname, why: with_causes(error) };
    }
    let changed = !plan.make.is_empty() || !plan.replace.is_empty();
    let plan = if changed { plan_for(world, &uplink, &observe::found(world).await?.macvlans) } else { plan };
    publish(world, &uplink, &plan);
    forget(world, &plan.gone);
    // What another mode left on the interface.
    world.kernel.urgent("give the node's interface back", |node| node.abandon(None)).await?;
    remove(world, &plan.remove).await?;
    Ok(if plan.remove.len() > REMOVED_AT_ONCE { SOON } else { LOOK_AGAIN })
}

/// Whether pods' frames can leave by the node's interface.
fn usable(interface: Option<&NodeInterface>, world: &World) -> SharedUplink {
    match interface {
        None => SharedUplink::Missing { named: world.config.link_iface.clone() },
        Some(interface) if !interface.up => SharedUplink::Down { ifname: interface.name.clone() },
        Some(interface) => SharedUplink::Adopted(interface.index),
    }
}

fn plan_for(world: &World, uplink: &SharedUplink, present: &BTreeMap<String, Macvlan>) -> Plan {
    let state = world.state.get();
    let ledger = world.checkpoint.look(|_, ledger| ledger.clone());
    plan(&Inputs {
        offer: state.offer(),
        ledger: &ledger,
        lower: uplink.index(),
        present,
        before: &state.ready,
        now: world.state.now(),
    })
}

/// Makes macvlans, one by one, so that a pod that is attached meanwhile does not wait for all of them. Goes on after a
/// failure, and tells the first.
async fn make(world: &World, wanted: &[Make]) -> Result<()> {
    let mut result = Ok(());
    for make in wanted {
        let spec = MacvlanSpec { ifname: make.ifname.clone(), lower: make.lower, mac: make.mac };
        let made = world.kernel.urgent("prepare a macvlan", move |node| node.prepare_macvlan(&spec)).await;
        if let Err(error) = &made {
            tracing::warn!(ifname = make.ifname, "cannot make the macvlan of a port: {}", with_causes(error));
        }
        result = result.and(made);
    }
    result
}

/// Removes some of these.
async fn remove(world: &World, ifnames: &[String]) -> Result<()> {
    for ifname in ifnames.iter().take(REMOVED_AT_ONCE) {
        let ifname = ifname.clone();
        world.kernel.patient("remove a macvlan", move |node| node.remove_macvlan(&ifname)).await?;
    }
    Ok(())
}

fn publish(world: &World, uplink: &SharedUplink, plan: &Plan) {
    world.state.update(|state| {
        state.uplinks = plan.uplinks.clone();
        state.ready = plan.ready.clone();
        state.shared_uplink = uplink.clone();
        state.stuck = BTreeMap::new();
        state.own_port_ready = None;
    });
}

/// Has the ledger forget ports of which nothing is left.
pub(super) fn forget(world: &World, gone: &[PortId]) {
    if !gone.is_empty() {
        world.checkpoint.change_if(|ledger| gone.iter().fold(false, |any, port| ledger.unknow(port) | any));
    }
}

/// Removes what is left in other modes, some at a time.
pub(super) async fn abandon(world: &World, present: &BTreeMap<String, Macvlan>) -> Result<()> {
    let names: Vec<String> = present.keys().cloned().collect();
    remove(world, &names).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkpoint::tests::in_memory, kernel::fake::FakeKernel, uplink::reconcile::reconcile,
        wiring::fake::FakeWorld,
    };
    use kuryr_api::kuryrnode::{KuryrNode, KuryrNodeSpec, Mode};
    use kuryr_planning::claim::{Claim, Own, Sandbox};
    use serde_json::json;

    const MAC: &str = "fa:16:3e:00:00:01";

    /// An agent on a server of the cloud with a record of one port in mode `nested-macvlan`, and no switch at all.
    fn world(kernel: FakeKernel) -> FakeWorld {
        let world = FakeWorld::new(in_memory(), kernel, vec![]);
        let checkpoint = world.world.checkpoint.look(|facts, _| facts.unwrap().id);
        let spec = serde_json::from_value(json!({
            "nodeUid": "node", "checkpoint": checkpoint, "mode": "nested-macvlan", "serverPort": "server",
            "ports": {"p0": {
                "generation": "1.1", "class": "c", "mac": MAC, "network": "n", "active": true,
                "addresses": [{"subnet": "s", "address": "10.0.0.10"}],
            }},
            "networks": {"n": {"name": "pods", "mtu": 1442}}, "subnets": {"s": {"cidr": "10.0.0.0/24"}},
        }));
        world.records.reset(vec![KuryrNode::new("node1", spec.unwrap())], BTreeMap::new());
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1", "uid": "node"},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.7"}]},
        });
        world.nodes.reset(vec![serde_json::from_value(node).unwrap()], BTreeMap::new());
        world.world.state.update(|state| {
            state.own = Some(Own { node_uid: "node".into(), checkpoint });
            state.surveyed = true;
        });
        world
    }

    fn interface(kernel: &FakeKernel, index: u32, up: bool) {
        let mac = "fa:16:3e:00:00:99".parse().unwrap();
        let found = NodeInterface { name: "ens3".into(), index, mac, mtu: 1400, up, kind: None };
        kernel.contents.lock().unwrap().interface = Some((found, "10.0.0.7".parse().unwrap()));
    }

    fn record(world: &FakeWorld, change: &dyn Fn(&mut KuryrNodeSpec)) {
        let mut spec = (**world.world.state.get().spec.as_ref().unwrap()).clone();
        change(&mut spec);
        world.records.reset(vec![KuryrNode::new("node1", spec)], BTreeMap::new());
    }

    #[tokio::test]
    async fn each_port_gets_a_macvlan_and_is_ready_with_it() {
        let world = world(FakeKernel::default());
        reconcile(&world.world).await.unwrap();
        let told = || world.world.sandboxes.status().unwrap_err().to_string();
        assert!(told().contains("[binding] link_iface"), "{}", told());
        interface(&world.kernel, 3, false);
        reconcile(&world.world).await.unwrap();
        assert!(told().contains("ens3, is down"), "{}", told());
        interface(&world.kernel, 3, true);
        reconcile(&world.world).await.unwrap();
        let state = world.world.state.get();
        assert_eq!(state.mode(), Some(Mode::NestedMacvlan));
        assert_eq!(state.uplinks, [("p0".into(), 300)].into());
        assert!(state.ready.contains_key("p0") && state.way().good, "{state:?}");
        world.world.sandboxes.status().unwrap();
        assert_eq!((state.mtu_cap(0), state.mtu_cap(1300)), (1400, 1300), "the interface bounds the MTU");
        reconcile(&world.world).await.unwrap();
        assert_eq!(world.kernel.changes(), ["macvlan krup0 on 3"]);
        // Wanted back, it goes.
        record(&world, &|spec| spec.ports.get_mut("p0").unwrap().withdrawn = true);
        reconcile(&world.world).await.unwrap();
        assert_eq!(world.kernel.changes()[1..], ["remove krup0"]);
        assert!(world.world.state.get().ready.is_empty());
    }

    #[tokio::test]
    async fn a_pod_is_joined_to_the_macvlan_that_took_the_place_of_its_own() {
        let world = world(FakeKernel::with_sandboxes(&["c1"]));
        interface(&world.kernel, 3, true);
        reconcile(&world.world).await.unwrap();
        let links = json!({"mac": MAC, "mtu": 1400, "addresses": [{"address": "10.0.0.10/24"}]});
        let sandbox = Sandbox {
            container_id: "c1".into(),
            ifname: "eth0".into(),
            netns: "/run/netns/c1".into(),
            netns_id: Some("4:0".into()),
            host_ifname: "krpp0".into(),
            host_ifindex: None,
        };
        let claim = Claim {
            generation: "1.1".parse().unwrap(),
            pod: kuryr_types::PodRef::new("team-a", "web-0"),
            identity: "a".into(),
            links: serde_json::from_value(links).unwrap(),
            sandbox: Some(sandbox),
        };
        world.world.checkpoint.change(|ledger| (true, ledger.claim(&"p0".into(), claim.clone())));
        world.world.sandboxes.rejoin(&"p0".into(), &claim, 300).await.unwrap();
        reconcile(&world.world).await.unwrap();
        assert_eq!(world.kernel.contents.lock().unwrap().uplinks[&1], (300, None));
        // The card was taken out, and its macvlans with it; it came back under another index.
        world.kernel.contents.lock().unwrap().macvlans.clear();
        interface(&world.kernel, 9, true);
        reconcile(&world.world).await.unwrap();
        assert_eq!(world.kernel.contents.lock().unwrap().uplinks[&1], (900, None));
        // Without a record the macvlans tell how the pod was attached.
        world.world.state.update(|state| state.spec = None);
        world.records.missed_changes();
        reconcile(&world.world).await.unwrap();
        assert!(world.world.state.get().ready.contains_key("p0"));
    }

    #[tokio::test]
    async fn another_mode_leaves_no_macvlan() {
        let world = world(FakeKernel::default());
        interface(&world.kernel, 3, true);
        reconcile(&world.world).await.unwrap();
        record(&world, &|spec| {
            spec.mode = Mode::Ovs;
            spec.ports.clear();
        });
        reconcile(&world.world).await.unwrap();
        assert_eq!(world.kernel.changes(), ["macvlan krup0 on 3", "remove krup0"]);
    }
}
