//! Ways of packets that were translated for clients outside, see [`kuryr_planning::uplink::ways`].
//!
//! The node's routes are the operator's, and may change: they are looked at again and again.

use std::time::Duration;

use ipnet::IpNet;
use kuryr_api::names;
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
    /// Networks of the record.
    networks: Vec<IpNet>,
    /// To pods or, where the node has a port of its own, back to clients.
    side: Side,
    /// Networks of pods that no route of the node leads to.
    pub(crate) missing: Vec<IpNet>,
}

/// Brings the ways towards what the record and the node's routes say.
pub(super) async fn reconcile(world: &World, state: &NodeState) -> Result<()> {
    let Some(spec) = state.offer().map(|offer| offer.spec()) else { return Ok(()) };
    let side = match (spec.mode.is_nested(), spec.own_port.is_some()) {
        (true, _) => Side::ToPods,
        (false, true) => Side::ToClients,
        (false, false) => return Ok(()),
    };
    let networks: Vec<IpNet> = spec.subnets.values().map(|subnet| subnet.cidr.trunc()).collect();
    let now = world.state.now();
    let is_new = world.memory().ways.as_ref().is_none_or(|led| {
        led.side != side || led.networks != networks || now.saturating_sub(led.at) >= LOOK_AGAIN
    });
    if !is_new || !world.config.serves_services {
        return Ok(());
    }
    let look = world.kernel.urgent("look at the node's routes", |node| {
        Ok((node.routes()?, node.interface_named(names::NODE_INTERFACE)?))
    });
    let (routes, own) = look.await?;
    let routes: Vec<ways::NodeRoute> = routes.into_iter().map(planned).collect();
    let Ways { ways, missing } = match (side, own) {
        (Side::ToPods, _) => ways::to_pods(spec, &routes),
        (Side::ToClients, Some(own)) => {
            Ways { ways: ways::to_clients(spec, &routes, own.index), missing: Vec::new() }
        }
        (Side::ToClients, None) => return Ok(()),
    };
    let ways: Vec<NodeRoute> = ways.into_iter().map(kernels).collect();
    world.kernel.urgent("lead what is translated", move |node| node.set_ways(side, &ways)).await?;
    world.memory().ways = Some(Led { at: now, networks, side, missing });
    Ok(())
}

fn planned(NodeRoute { dst, via, link }: NodeRoute) -> ways::NodeRoute {
    ways::NodeRoute { dst, via, link }
}

fn kernels(ways::NodeRoute { dst, via, link }: ways::NodeRoute) -> NodeRoute {
    NodeRoute { dst, via, link }
}
