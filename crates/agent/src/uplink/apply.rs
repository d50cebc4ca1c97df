//! Carries out steps, in order.

use std::collections::{BTreeMap, BTreeSet};

use kuryr_api::names;
use kuryr_datapath::{BridgeRow, HybridSpec, Offloads, OwnPortSpec, PortSpec, Route, UplinkSpec};
use kuryr_planning::{
    attachment::NodeLinks,
    uplink::{Plug, Step},
};
use kuryr_types::PortId;

use super::observe::is_own_interface;
use crate::{
    error::{Error, Result, with_causes},
    wiring::World,
};

/// What a transaction plugged.
#[derive(Debug, Default)]
pub(super) struct Plugged(pub(super) Vec<PortId>);

/// Ports whose uplinks could not be made, and the first failure of a look.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) missing: BTreeSet<PortId>,
    pub(super) result: Result<()>,
}

impl Default for Prepared {
    fn default() -> Self {
        Self { missing: BTreeSet::new(), result: Ok(()) }
    }
}

/// Carries out one step, under this start of the switch. Uplinks are made before, by [`prepare`]; what is `missing` of them
/// is not plugged. Removing links is left to others: it is slow.
pub(super) async fn step(
    world: &World,
    step: &Step,
    missing: &BTreeSet<PortId>,
    start: Option<&str>,
) -> Result<Plugged> {
    match step {
        Step::Unplug(taps) => {
            tracing::info!(taps = taps.join(" "), "unplugging");
            world.switch.del_ports(taps).await.map_err(switch("unplug ports"))?;
            Ok(Plugged::default())
        }
        Step::Plug(plugs) => {
            let plugs: Vec<&Plug> = plugs.iter().filter(|plug| !missing.contains(&plug.port)).collect();
            if plugs.is_empty() {
                return Ok(Plugged::default());
            }
            let taps: Vec<&str> = plugs.iter().map(|plug| plug.tap.as_str()).collect();
            tracing::info!(taps = taps.join(" "), "plugging");
            let ports: Vec<PortSpec> = plugs.iter().map(|plug| port_spec(plug, start)).collect();
            world.switch.add_ports(&ports).await.map_err(switch("plug ports"))?;
            Ok(Plugged(plugs.iter().map(|plug| plug.port.clone()).collect()))
        }
        Step::Prepare(_) | Step::Remove(_) => Ok(Plugged::default()),
    }
}

/// Makes the uplinks of these ports, one by one, so that a pod that is attached meanwhile does not wait for all of them. Goes
/// on after a failure: one port that cannot have its name would keep all others of the node from being plugged.
pub(super) async fn prepare(world: &World, plugs: &[Plug], mut prepared: Prepared) -> Prepared {
    let offloads = offloads(world);
    // The node's own interface is made by `own_port`.
    for plug in plugs.iter().filter(|plug| !is_own_interface(&plug.peer)) {
        let spec = UplinkSpec {
            tap: names::tap_name(plug.port.as_str()),
            hybrid: plug.hybrid.then(|| hybrid(&plug.port)),
            peer: plug.peer.clone(),
            mac: plug.mac,
            mtu: plug.mtu,
            offloads,
        };
        let made =
            world.kernel.urgent("prepare an uplink", move |node| node.prepare(&spec).map(|_| ())).await;
        if let Err(error) = made {
            tracing::warn!(port = %plug.port, "cannot make the uplink of a port: {}", with_causes(&error));
            prepared.missing.insert(plug.port.clone());
            prepared.result = prepared.result.and(Err(error));
        }
    }
    prepared
}

/// Brings up what is down on the way to the switch, before a port is called ready: nothing goes through it. Each by itself: one
/// that stays down is its port's trouble and nobody else's. Tells which do, with why, and the first failure.
pub(super) async fn bring_up(world: &World, down: &[String]) -> (BTreeMap<String, String>, Result<()>) {
    let (mut stays_down, mut result) = (BTreeMap::new(), Ok(()));
    if !down.is_empty() {
        tracing::warn!(interfaces = down.join(" "), "interfaces of ports were down; bringing them up");
    }
    for ifname in down {
        let one = [ifname.clone()];
        let done = world.kernel.urgent("bring an interface up", move |node| node.bring_up(&one)).await;
        if let Err(error) = done {
            let why = with_causes(&error);
            tracing::warn!(ifname, "cannot bring an interface up: {why}");
            stays_down.insert(ifname.clone(), why);
            result = result.and(Err(error));
        }
    }
    (stays_down, result)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{checkpoint::tests::in_memory, kernel::fake::FakeKernel, wiring::fake::FakeWorld};

    fn plug(port: &str) -> Plug {
        Plug {
            port: port.into(),
            tap: names::tap_name(port),
            hybrid: false,
            peer: names::uplink_name(port),
            mac: "fa:16:3e:00:00:01".parse().unwrap(),
            mtu: 1442,
            generation: None,
        }
    }

    #[tokio::test]
    async fn an_uplink_that_cannot_be_made_keeps_no_others_from_being_made() {
        let kernel = FakeKernel::default();
        kernel.contents.lock().unwrap().taken.insert("tapp1".to_owned());
        let world = FakeWorld::new(in_memory(), kernel, vec![]);
        let before = Prepared { missing: ["own".into()].into(), ..Prepared::default() };
        let prepared = prepare(&world.world, &["p0", "p1", "p2"].map(plug), before).await;
        assert_eq!(world.kernel.changes(), ["prepare tapp0", "prepare tapp2"]);
        assert_eq!(prepared.missing, ["own".into(), "p1".into()].into());
        assert!(prepared.result.is_err());
    }
}
