//! Carries out steps, in order.

use kuryr_api::names;
use kuryr_datapath::{BridgeRow, HybridSpec, Offloads, OwnPortSpec, PortSpec, Route, UplinkSpec};
use kuryr_planning::{
    attachment::NodeLinks,
    uplink::{Plug, Step},
};
use kuryr_types::PortId;

use super::observe::is_own_interface;
use crate::{
    error::{Error, Result},
    wiring::World,
};

/// What a transaction plugged.
#[derive(Debug, Default)]
pub(super) struct Plugged(pub(super) Vec<PortId>);

/// Carries out one step, under this start of the switch. Removing links is left to others: it is slow.
pub(super) async fn step(world: &World, step: &Step, start: Option<&str>) -> Result<Plugged> {
    match step {
        Step::Unplug(taps) => {
            tracing::info!(taps = taps.join(" "), "unplugging");
            world.switch.del_ports(taps).await.map_err(switch("unplug ports"))?;
            Ok(Plugged::default())
        }
        Step::Prepare(plugs) => prepare(world, plugs).await,
        Step::Plug(plugs) => {
            let taps: Vec<&str> = plugs.iter().map(|plug| plug.tap.as_str()).collect();
            tracing::info!(taps = taps.join(" "), "plugging");
            let ports: Vec<PortSpec> = plugs.iter().map(|plug| port_spec(plug, start)).collect();
            world.switch.add_ports(&ports).await.map_err(switch("plug ports"))?;
            Ok(Plugged(plugs.iter().map(|plug| plug.port.clone()).collect()))
        }
        Step::Remove(_) => Ok(Plugged::default()),
    }
}

async fn prepare(world: &World, plugs: &[Plug]) -> Result<Plugged> {
    let offloads = offloads(world);
    let specs: Vec<UplinkSpec> = plugs
        .iter()
        // The node's own interface is made by `own_port`.
        .filter(|plug| !is_own_interface(&plug.peer))
        .map(|plug| UplinkSpec {
            tap: names::tap_name(plug.port.as_str()),
            hybrid: plug.hybrid.then(|| hybrid(&plug.port)),
            peer: plug.peer.clone(),
            mac: plug.mac,
            mtu: plug.mtu,
            offloads,
        })
        .collect();
    // One by one, so that a pod that is attached meanwhile does not wait for all of them.
    for spec in specs {
        world.kernel.urgent("prepare an uplink", move |node| node.prepare(&spec).map(|_| ())).await?;
    }
    Ok(Plugged::default())
}

/// Makes the node's own interface, or brings it into this form.
pub(super) async fn own_port(world: &World, port: &PortId, links: &NodeLinks) -> Result<()> {
    let spec = OwnPortSpec {
        tap: names::tap_name(port.as_str()),
        hybrid: links.hybrid.then(|| hybrid(port)),
        ifname: names::NODE_INTERFACE.to_owned(),
        mac: links.mac,
        mtu: links.mtu,
        offloads: offloads(world),
        addresses: links.addresses.clone(),
        routes: links.routes.iter().map(|route| Route { dst: route.dst, via: route.via }).collect(),
        apart: links.apart.clone(),
    };
    tracing::info!(%port, addresses = ?links.addresses, "making the node's own interface");
    world.kernel.urgent("make the node's own interface", move |node| node.prepare_own_port(&spec)).await
}

fn hybrid(port: &PortId) -> HybridSpec {
    HybridSpec {
        bridge: names::hybrid_bridge_name(port.as_str()),
        inner: names::hybrid_inner_name(port.as_str()),
        outer: names::hybrid_outer_name(port.as_str()),
    }
}

fn port_spec(plug: &Plug, start: Option<&str>) -> PortSpec {
    PortSpec {
        name: plug.tap.clone(),
        port: plug.port.clone(),
        mac: plug.mac,
        generation: plug.generation,
        start: start.map(str::to_owned),
    }
}

/// A bridge that is a process wants packets finished.
fn offloads(world: &World) -> Offloads {
    let is_process = |bridge: &BridgeRow| bridge.datapath_type == "netdev";
    if world.switch.state().bridge.as_ref().is_some_and(is_process) { Offloads::Off } else { Offloads::Keep }
}

fn switch(what: &'static str) -> impl FnOnce(kuryr_datapath::Error) -> Error {
    move |source| Error::Kernel { what, source: Box::new(source) }
}
