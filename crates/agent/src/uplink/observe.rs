//! One look at record, switch and node.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use kuryr_api::names;
use kuryr_datapath::{FoundUplinks, InterfaceRow, ObservedMacvlan, SwitchState, Uplink};
use kuryr_kubernetes::{slim, store::Presence};
use kuryr_planning::{
    attachment::local_addresses,
    uplink::{Row, Sign, Switch, found::Start, macvlan::Macvlan},
};

use crate::{
    config::Config,
    error::{Result, with_causes},
    kernel::Datapath,
    node::{NodeState, SwitchHealth},
    wiring::{Work, World},
};

/// Nanoseconds in a millisecond.
const NANOS: i128 = 1_000_000;

/// What the node has.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The switch, if ports can be plugged.
    pub(crate) switch: Option<Switch>,
    /// Taps of prepared uplinks.
    pub(crate) taps: BTreeSet<String>,
    /// Index of the other end, by its name.
    pub(crate) ends: BTreeMap<String, u32>,
    /// Macvlans on the node's interface, by name.
    pub(crate) macvlans: BTreeMap<String, Macvlan>,
    /// Interfaces on the way to the switch that are down.
    pub(crate) down: Vec<String>,
}

/// Publishes what watches and switch tell, before anything is decided by it.
pub(crate) fn publish(world: &World) {
    let record = world.watched.record();
    let switch = world.switch.state();
    let node = world.watched.node();
    let in_sync = world.watched.in_sync() && world.pods.store().in_sync();
    world.state.update(|state| {
        match &record {
            Presence::Present(record) if state.spec.as_deref() == Some(&record.spec) => {}
            Presence::Present(record) => state.spec = Some(Arc::new(record.spec.clone())),
            // The controller has taken the node's record away, and with it all offers.
            Presence::Absent => state.spec = None,
            // What was offered holds while the API server is away.
            Presence::Unknown => {}
        }
        state.switch = health(&switch, world);
        if switch.connected {
            state.host = host(&switch, &world.config);
        }
        state.kubernetes_in_sync = in_sync;
        if let Some(node) = &node {
            state.node_addresses = node_addresses(node, state);
        }
    });
}

/// How often the node's addresses and the routes that hang on them are looked at: probes fail while they are missing.
const LOOK_AFTER_ADDRESSES: Duration = Duration::from_secs(2);

/// Keeps the local path when an address of the node goes and comes back, of which nobody tells; until the agent stops.
pub(crate) async fn keep_local_path(world: World) {
    loop {
        tokio::time::sleep(LOOK_AFTER_ADDRESSES).await;
        let (state, node) = (world.state.get(), world.watched.node());
        let Some(node) = node else { continue };
        let addresses = node_addresses(&node, &state);
        if addresses != state.node_addresses {
            world.queue.add(Work::Uplinks);
            continue;
        }
        let restore = move |node: &dyn Datapath| node.restore_local_path(&addresses);
        match world.kernel.patient("restore routes to pods", restore).await {
            Ok(0) => {}
            Ok(routes) => tracing::info!(routes, "restored routes to pods"),
            Err(error) => tracing::debug!("routes to pods cannot be looked at: {}", with_causes(&error)),
        }
    }
}

/// Looks at switch and kernel.
pub(crate) async fn found(world: &World) -> Result<Found> {
    let FoundUplinks { prepared: uplinks, macvlans, down } =
        world.kernel.urgent("list uplinks", |node| node.uplinks()).await?;
    let state = world.switch.state();
    let usable = state.connected && state.bridge.is_some();
    let ends = uplinks.iter().map(|uplink| (uplink.ifname.clone(), uplink.ifindex)).collect();
    Ok(Found {
        switch: usable.then(|| switch(&state)),
        taps: uplinks.iter().filter_map(complete).collect(),
        ends,
        macvlans: macvlans.into_iter().map(|(name, found)| (name, macvlan(&found))).collect(),
        down,
    })
}

fn macvlan(found: &ObservedMacvlan) -> Macvlan {
    Macvlan { index: found.ifindex, mac: found.mac, lower: found.lower, up: found.up }
}

/// The tap of an uplink; one that has lost it counts as not there.
fn complete(uplink: &Uplink) -> Option<String> {
    uplink.tap.clone()
}

/// The host that ports are bound to, where there is the integration bridge and a chassis: a switch without is there for
/// something else. Neutron's own agent takes the name of the machine where nothing else is configured.
fn host(state: &SwitchState, config: &Config) -> Option<String> {
    let (_, row) = state.bridge.as_ref().zip(state.switch.as_ref())?;
    row.system_id.as_ref().filter(|id| !id.is_empty())?;
    let told = row.hostname.clone().filter(|name| !name.is_empty());
    let machine = || config.machine.clone().filter(|_| sign(state) == Sign::Active);
    config.ovs_host.clone().or(told).or_else(machine)
}

fn sign(state: &SwitchState) -> Sign {
    let keys = state.switch.iter().flat_map(|row| row.external_ids.keys());
    Sign::of_switch(keys.map(String::as_str))
}

fn health(state: &SwitchState, world: &World) -> SwitchHealth {
    if !state.connected {
        let Some(why) = state.failure.clone() else { return SwitchHealth::Unknown };
        return SwitchHealth::NotConnected { socket: world.config.ovsdb_socket.display().to_string(), why };
    }
    if state.bridge.is_none() {
        return SwitchHealth::BridgeMissing { bridge: world.config.bridge.clone() };
    }
    if state.start.is_none() {
        return SwitchHealth::NotRunning;
    }
    if host(state, &world.config).is_none() {
        return SwitchHealth::NoHostname;
    }
    SwitchHealth::Ready
}

fn switch(state: &SwitchState) -> Switch {
    Switch {
        start: state.start.map(|start| Start {
            id: format!("{}-{}-{}", start.pid, start.inode, start.changed_ns),
            at_ms: u64::try_from(start.changed_ns / NANOS).unwrap_or_default(),
        }),
        rows: state.interfaces.iter().map(|(name, row)| (name.clone(), row_of(row))).collect(),
        sign: sign(state),
    }
}

fn row_of(row: &InterfaceRow) -> Row {
    Row {
        uuid: row.uuid.clone(),
        port: row.iface_id.clone(),
        ours: row.ours,
        has_generation: row.generation.is_some(),
        start: row.start.clone(),
        has_ofport: row.ofport.is_some(),
        installed: row.ovn_installed,
        installed_at_ms: row.ovn_installed_ts,
        tag: row.tag,
        error: row.error.clone(),
    }
}

fn node_addresses(node: &slim::Node, state: &NodeState) -> Vec<IpAddr> {
    let own_port = state.offer().and_then(|offer| offer.spec().own_port.as_ref());
    let told: Vec<(String, String)> =
        node.status.addresses.iter().map(|address| (address.kind.clone(), address.address.clone())).collect();
    local_addresses(&told, own_port, is_local)
}

/// Whether the node has this address: only then can something be bound to it.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// Whether a name is that of the node's own interface.
pub(crate) fn is_own_interface(name: &str) -> bool {
    name == names::NODE_INTERFACE
}

#[cfg(test)]
mod tests {
    use super::*;
    use kuryr_datapath::{BridgeRow, SwitchRow, SwitchStart};

    #[test]
    fn the_switch_as_planning_sees_it() {
        let row = InterfaceRow {
            uuid: "u1".into(),
            name: "tapp1".into(),
            iface_id: Some("p1".into()),
            generation: None,
            start: Some("9-3-5".into()),
            ours: true,
            tag: Some(4),
            ofport: Some(7),
            ovn_installed: true,
            ovn_installed_ts: Some(12),
            mac_in_use: None,
            error: None,
        };
        let mut state = SwitchState::default();
        state.start = Some(SwitchStart { pid: 9, inode: 3, changed_ns: 5_999_999 });
        state.interfaces = [("tapp1".to_owned(), row)].into();
        let switch = switch(&state);
        let start = switch.start.unwrap();
        assert_eq!((start.id.as_str(), start.at_ms), ("9-3-5999999", 5));
        let row = &switch.rows["tapp1"];
        assert!(row.ours && row.has_ofport && row.installed && !row.has_generation);
        assert_eq!((row.start.as_deref(), row.tag, switch.sign), (Some("9-3-5"), Some(4), Sign::Active));
    }

    #[test]
    fn a_host_has_an_integration_bridge_and_a_chassis() {
        let config = |ovs_host: &str| {
            let text = format!("[cni_daemon]\nnode_name = n\n[neutron_defaults]\novs_host = {ovs_host}\n");
            let conf = kuryr_conf::Conf::from_texts(&[("kuryr.conf", &text)]).unwrap();
            Config { machine: Some("machine".into()), ..Config::resolve(&conf).unwrap() }
        };
        let ovn = ["ovn-remote"].as_slice();
        for (bridge, hostname, system_id, keys, configured, expect) in [
            (true, Some("node1"), Some("id"), ovn, "", Some("node1")),
            (false, Some("node1"), Some("id"), ovn, "", None),
            (true, Some(""), Some("id"), ovn, "", None),
            (true, Some("node1"), None, ovn, "", None),
            (true, Some("node1"), Some("id"), ovn, "other", Some("other")),
            // ML2/OVS.
            (true, Some("node1"), Some("id"), &[], "", Some("node1")),
            (true, None, Some("id"), &[], "", Some("machine")),
            (true, None, Some("id"), &[], "other", Some("other")),
            (false, None, Some("id"), &[], "other", None),
        ] {
            let mut state = SwitchState::default();
            state.bridge = bridge.then(|| BridgeRow { uuid: "b".into(), datapath_type: String::new() });
            state.switch = Some(SwitchRow {
                uuid: "s".into(),
                hostname: hostname.map(Into::into),
                system_id: system_id.map(Into::into),
                ovs_version: None,
                external_ids: keys.iter().map(|key| ((*key).to_owned(), String::new())).collect(),
                cur_cfg: 0,
                next_cfg: 0,
            });
            assert_eq!(
                host(&state, &config(configured)).as_deref(),
                expect,
                "{bridge} {hostname:?} {keys:?}"
            );
        }
        assert_eq!(host(&SwitchState::default(), &config("")), None);
    }

    #[test]
    fn only_own_addresses_can_be_bound() {
        assert!(is_local("127.0.0.1".parse().unwrap()));
        assert!(!is_local("192.0.2.77".parse().unwrap()));
    }
}
