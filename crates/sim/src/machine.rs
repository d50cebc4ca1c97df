//! A node's machine: its kernel, its switch with OVN behind it, and the disk of its agent.
//!
//! A reboot takes everything of the kernel; indexes and namespaces are numbered from the same begin again, so that what
//! was recorded before looks like what is there now. Rows of the switch's database stay, with the sign that their flows
//! were installed. A tap whose row is older than itself is taken by the switch at once, which takes it down by mistake.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use kuryr_agent::{Answering, Datapath, Storage, SwitchDatabase};
use kuryr_api::kuryrnode::CheckpointRef;
use kuryr_datapath::{
    Announcement, Attached, Entry, Error, FoundUplinks, MacvlanSpec, NodeInterface, NodeRoute, ObservedLinks,
    Owed, OwnPortSpec, PodLinks, PortSpec, Result, Side as Way, Swept, Uplink, UplinkSpec,
    ovsdb::{BridgeRow, InterfaceRow, SwitchRow, SwitchStart, SwitchState},
};
use kuryr_planning::claim::restart::LiveInterface;
use kuryr_types::MacAddr;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::{
    faults::{Caller, Fault, Meets, Side},
    tables::Tables,
    world::World,
};

/// A machine.
#[derive(Debug)]
pub(crate) struct Machine {
    /// What the switch names it.
    pub(crate) host: String,
    pub(crate) address: IpAddr,
    /// Counts its starts, and those of its switch.
    boots: u64,
    /// When the switch last started, by the machine's clock, in nanoseconds since 1970.
    started_ns: i128,
    /// When the switch last started while the machine went on.
    switch_restarted: Option<Instant>,
    pub(crate) sandboxes: BTreeMap<String, Sandbox>,
    /// Connected pods, by the index of the host end.
    pub(crate) joints: BTreeMap<u32, Joint>,
    uplinks: BTreeMap<String, Uplink>,
    own: Option<String>,
    /// Taps that are down.
    pub(crate) down: BTreeSet<String>,
    pub(crate) rows: BTreeMap<String, InterfaceRow>,
    /// Rows whose flows were installed since the machine started, with their ports; a row's own sign may be older.
    pub(crate) installed: BTreeMap<String, String>,
    switch: watch::Sender<Arc<SwitchState>>,
    pub(crate) tables: Tables,
    pub(crate) slots: [Vec<u8>; 2],
    /// What was in them before, the latest last.
    backups: VecDeque<[Vec<u8>; 2]>,
    /// Nothing can be written before then.
    pub(crate) disk_full_until: Instant,
    next_index: u32,
    next_netns: u64,
    rows_made: u64,
}

/// A pod's network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sandbox {
    /// As the kernel names it.
    pub(crate) id: String,
    /// UID of its pod.
    pub(crate) pod: String,
    /// Its ADD was answered with success, and nobody has asked for its end.
    pub(crate) established: bool,
    /// When it was made or, if that was so, answered.
    pub(crate) since: Instant,
}

/// A pod's connection.
#[derive(Debug, Clone)]
pub(crate) struct Joint {
    host_ifname: String,
    pub(crate) netns: String,
    netns_id: String,
    pub(crate) mac: MacAddr,
    mtu: u32,
    pub(crate) addresses: Vec<IpNet>,
    pub(crate) uplink: u32,
    vlan: Option<u16>,
}

const SECOND_NS: i128 = 1_000_000_000;
const FIRST_INDEX: u32 = 10;
const FIRST_NETNS: u64 = 4_026_532_000;
/// An agent knows after this long that its switch started anew, also if a look at the kernel fails and is repeated.
const KNOWN_WITHIN: Duration = Duration::from_secs(2);
/// States of a disk that can be restored.
const BACKUPS: usize = 60;
/// Pods that were connected since then may not be proven: what a watch tells of them may be late.
const UNPROVEN: Duration = Duration::from_secs(15);

impl Machine {
    pub(crate) fn new(name: &str, number: usize) -> Self {
        let machine = Self {
            host: format!("host-of-{name}"),
            address: format!("192.0.2.{}", number + 1).parse().unwrap(),
            boots: 1,
            started_ns: SECOND_NS,
            switch_restarted: None,
            sandboxes: BTreeMap::new(),
            joints: BTreeMap::new(),
            uplinks: BTreeMap::new(),
            own: None,
            down: BTreeSet::new(),
            rows: BTreeMap::new(),
            installed: BTreeMap::new(),
            switch: watch::Sender::default(),
            tables: Tables::default(),
            slots: [Vec::new(), Vec::new()],
            backups: VecDeque::new(),
            disk_full_until: Instant::now(),
            next_index: FIRST_INDEX,
            next_netns: FIRST_NETNS,
            rows_made: 0,
        };
        machine.publish();
        machine
    }

    /// Loses what a kernel loses. What time it is then is known where a run is harsh.
    pub(crate) fn reboot(&mut self, now_ns: Option<i128>) {
        self.sandboxes.clear();
        self.joints.clear();
        self.uplinks.clear();
        self.own = None;
        self.down.clear();
        self.installed.clear();
        self.tables = Tables::default();
        (self.next_index, self.next_netns) = (FIRST_INDEX, FIRST_NETNS);
        for row in self.rows.values_mut() {
            row.ofport = None;
            row.error = Some("could not open network device".to_owned());
        }
        self.start_switch(now_ns);
    }

    /// The switch starts anew, while pods go on: it has no flows any more, and its rows keep the sign that they had. Returns the names of
    /// the rows that it has to deal with again, with their identifiers.
    pub(crate) fn restart_switch(&mut self, now_ns: Option<i128>) -> Vec<(String, String)> {
        self.installed.clear();
        self.switch_restarted = Some(Instant::now());
        self.start_switch(now_ns);
        let rows = self.rows.iter().filter(|(tap, _)| self.has_interface(tap));
        rows.map(|(tap, row)| (tap.clone(), row.uuid.clone())).collect()
    }

    fn start_switch(&mut self, now_ns: Option<i128>) {
        self.boots += 1;
        self.started_ns = now_ns.unwrap_or(i128::from(self.boots) * SECOND_NS);
        self.publish();
    }

    /// Whether the switch lost the flows of a sandbox that was there already, or so recently that its agent need not know.
    pub(crate) fn lost_flows_of(&self, sandbox: &Sandbox) -> bool {
        self.has_just_lost_flows() || self.switch_restarted.is_some_and(|at| sandbox.since <= at)
    }

    /// Whether its agent need not know yet that the switch has lost its flows.
    pub(crate) fn has_just_lost_flows(&self) -> bool {
        self.switch_restarted.is_some_and(|at| at.elapsed() < KNOWN_WITHIN)
    }

    fn publish(&self) {
        let mut state = SwitchState::default();
        state.connected = true;
        state.bridge = Some(BridgeRow { uuid: "bridge".to_owned(), datapath_type: "system".to_owned() });
        state.switch = Some(SwitchRow {
            uuid: "switch".to_owned(),
            hostname: Some(self.host.clone()),
            system_id: Some(self.host.clone()),
            ovs_version: None,
            external_ids: [("ovn-remote".to_owned(), "unix:x".to_owned())].into(),
            cur_cfg: 1,
            next_cfg: 1,
        });
        state.start = Some(SwitchStart { pid: 1, inode: self.boots, changed_ns: self.started_ns });
        state.interfaces = self.rows.clone();
        self.switch.send_replace(Arc::new(state));
    }

    /// Makes a namespace for a pod.
    pub(crate) fn make_sandbox(&mut self, path: &str, pod: &str) {
        let id = format!("4:{}", self.next_netns);
        self.next_netns += 1;
        let (pod, since) = (pod.to_owned(), Instant::now());
        self.sandboxes.insert(path.to_owned(), Sandbox { id, pod, established: false, since });
    }

    /// The pod of a sandbox begins.
    pub(crate) fn establish(&mut self, path: &str) {
        let sandbox = self.sandboxes.get_mut(path).unwrap();
        (sandbox.established, sandbox.since) = (true, Instant::now());
    }

    /// Whether the kernel and the API server prove all pods that are connected, also to who hears of them late.
    pub(crate) fn is_proven(&self) -> bool {
        self.sandboxes.values().all(|sandbox| !sandbox.established || sandbox.since.elapsed() > UNPROVEN)
    }

    /// Its disk is a new one.
    pub(crate) fn reimage(&mut self) {
        self.slots = [Vec::new(), Vec::new()];
    }

    /// Its disk is as it was before, with a checkpoint that is older than the one that was told; tells whether there was one.
    pub(crate) fn restore(&mut self, told: &CheckpointRef) -> bool {
        let is_older = |slots: &[Vec<u8>; 2]| {
            let newest = slots.iter().filter_map(|slot| written(slot)).max_by_key(|record| record.sequence);
            newest.is_some_and(|record| record.id == told.id && record.sequence < told.sequence)
        };
        let older = self.backups.iter().rev().find(|slots| is_older(slots)).cloned();
        let is_there = older.is_some();
        self.slots = older.unwrap_or_else(|| self.slots.clone());
        is_there
    }

    /// Deletes a namespace, and its interfaces with it; what was noted of them stays.
    pub(crate) fn remove_sandbox(&mut self, path: &str) {
        self.sandboxes.remove(path);
    }

    /// The sandbox that a connection leads to, if that is still there.
    pub(crate) fn behind(&self, joint: &Joint) -> Option<&Sandbox> {
        self.sandboxes.get(&joint.netns).filter(|sandbox| sandbox.id == joint.netns_id)
    }

    /// The row of the uplink that a connection leads to.
    pub(crate) fn row_of(&self, joint: &Joint) -> Option<&InterfaceRow> {
        let uplink = self.uplinks.values().find(|uplink| uplink.ifindex == joint.uplink)?;
        self.rows.get(uplink.tap.as_ref()?)
    }

    /// Whether there is an interface of that name on which the switch can have a port.
    fn has_interface(&self, tap: &str) -> bool {
        self.uplinks.contains_key(tap) || self.own.as_deref() == Some(tap)
    }

    /// Pods that talk by the uplink whose tap this is.
    fn users(&self, tap: &str) -> Vec<&Sandbox> {
        let Some(uplink) = self.uplinks.get(tap) else { return Vec::new() };
        let of = self.joints.values().filter(|joint| joint.uplink == uplink.ifindex);
        of.filter_map(|joint| self.behind(joint)).filter(|sandbox| sandbox.established).collect()
    }
}

/// A machine, as the agent on it reaches it; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Reach {
    pub(crate) world: Arc<World>,
    pub(crate) caller: Caller,
    pub(crate) node: String,
}

impl Reach {
    /// A call that only looks.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Machine) -> T) -> Result<T> {
        if !self.caller.is_alive() {
            return Err(refused());
        }
        Ok(look(&self.world.state().machines[&self.node]))
    }

    /// The same, where it may fail.
    pub(crate) fn look_at<T>(&self, line: &str, look: impl FnOnce(&Machine) -> T) -> Result<T> {
        if self.world.faults.meet_look(&self.caller, line) != Meets::Nothing {
            return Err(refused());
        }
        Ok(look(&self.world.state().machines[&self.node]))
    }

    /// A call that changes something.
    pub(crate) fn change<T>(&self, line: &str, change: impl FnOnce(&mut Machine) -> Result<T>) -> Result<T> {
        let met = self.world.faults.meet(&self.caller, Side::Kernel, line, true);
        if !matches!(met, Meets::Nothing | Meets::Fault(Fault::KillAfter)) {
            return Err(refused());
        }
        let result = {
            let state = &mut *self.world.state();
            // These are made now and then to see whether there is something to do.
            if !["sweep", "clear", "attach programs"].iter().any(|kind| line.starts_with(kind)) {
                state.changed = Instant::now();
            }
            change(state.machines.get_mut(&self.node).unwrap())
        };
        if met != Meets::Nothing {
            self.world.faults.kill(&self.caller);
        }
        result
    }

    /// A change that nothing here shows; it may fail where a run is harsh.
    fn change_unseen(&self, line: &str) -> Result<()> {
        if !self.world.setup.is_harsh {
            return Ok(());
        }
        match self.world.faults.meet(&self.caller, Side::Kernel, line, true) {
            Meets::Nothing => Ok(()),
            Meets::Fault(Fault::KillAfter) => {
                self.world.faults.kill(&self.caller);
                Ok(())
            }
            _ => Err(refused()),
        }
    }

    fn broken(&self, what: String) {
        self.world.broken(what);
    }
}

fn refused() -> Error {
    Error::LinkMissing { name: "injected".to_owned() }
}

impl Datapath for Reach {
    /// Nobody here believes what is announced.
    fn announce(&self, _: &[Announcement], _: usize) -> Result<bool> {
        self.look_at("announce", |_| false)
    }

    fn owed_reports(&self) -> Result<Vec<Owed>> {
        self.look_at("owed reports", |_| Vec::new())
    }

    fn report_groups(&self, _: &[Owed], _: usize) -> Result<usize> {
        Ok(0)
    }

    fn sandbox(&self, path: &Path) -> Result<Option<String>> {
        self.look_at("look at a sandbox", |machine| {
            machine.sandboxes.get(&text(path)).map(|sandbox| sandbox.id.clone())
        })
    }

    fn attach(&self, pod: &PodLinks) -> Result<Attached> {
        let netns = text(&pod.netns);
        let mut attached = None;
        let result = self.change(&format!("attach {} {netns}", pod.host_ifname), |machine| {
            let gone = || Error::NotANamespace { path: pod.netns.clone() };
            let sandbox = machine.sandboxes.get(&netns).cloned().ok_or_else(gone)?;
            if !machine.uplinks.values().any(|uplink| uplink.ifindex == pod.uplink) {
                return Err(Error::LinkMissing { name: pod.uplink.to_string() });
            }
            let same = |joint: &Joint| joint.host_ifname == pod.host_ifname && joint.netns_id == sandbox.id;
            let present = machine.joints.iter().find(|(_, joint)| same(joint)).map(|(index, _)| *index);
            let index = present.unwrap_or(machine.next_index);
            machine.next_index = machine.next_index.max(index + 1);
            // The host end of a former connection by this port makes room.
            machine.joints.retain(|_, joint| joint.host_ifname != pod.host_ifname);
            let joint = Joint {
                host_ifname: pod.host_ifname.clone(),
                netns: netns.clone(),
                netns_id: sandbox.id.clone(),
                mac: pod.mac,
                mtu: pod.mtu,
                addresses: pod.addresses.clone(),
                uplink: pod.uplink,
                vlan: pod.vlan,
            };
            attached = Some((joint.clone(), sandbox.clone()));
            machine.joints.insert(index, joint);
            let netns = sandbox.id.parse().unwrap();
            Ok(Attached { host_ifindex: index, host_mac: pod.mac, ifindex: 2, netns })
        });
        if let Some((joint, sandbox)) = attached {
            self.world.judge_attachment(&self.node, &joint, &sandbox);
        }
        result
    }

    fn cut(&self, host_ifindex: u32) -> Result<()> {
        let mut lost = None;
        let result = self.change(&format!("cut {host_ifindex}"), |machine| {
            if let Some(joint) = machine.joints.remove(&host_ifindex) {
                lost = machine.behind(&joint).filter(|sandbox| sandbox.established).cloned();
            }
            Ok(())
        });
        if let Some(sandbox) = lost.filter(|sandbox| self.world.is_wanted(&sandbox.pod)) {
            self.broken(format!("a pod that nobody wants gone is cut off: {} on {}", sandbox.pod, self.node));
        }
        result
    }

    fn clear(&self, host_ifindex: u32) -> Result<()> {
        self.change(&format!("clear {host_ifindex}"), |_| Ok(()))
    }

    fn clear_all(&self) -> Result<()> {
        self.change("clear all", |_| Ok(()))
    }

    fn observe(&self, netns: &Path, _: &str) -> Result<Option<ObservedLinks>> {
        self.look_at("observe", |machine| {
            let netns = text(netns);
            let joint = machine.joints.values().find(|joint| joint.netns == netns)?;
            machine.behind(joint)?;
            let (mac, mtu, addresses) = (joint.mac, joint.mtu, joint.addresses.clone());
            Some(ObservedLinks { ifindex: 2, mac, mtu, up: true, addresses, routes: Vec::new() })
        })
    }

    fn is_joined(&self, host_ifname: &str, host_ifindex: u32, netns: &Path) -> Result<bool> {
        self.look_at("is joined", |machine| {
            let joint = machine.joints.get(&host_ifindex);
            let is_it = |joint: &&Joint| {
                joint.host_ifname == host_ifname
                    && joint.netns == text(netns)
                    && machine.behind(joint).is_some()
            };
            joint.filter(is_it).is_some()
        })
    }

    fn entries(&self) -> Result<Vec<Entry>> {
        let entry = |(index, joint): (&u32, &Joint)| Entry {
            host_ifindex: *index,
            uplink: joint.uplink,
            vlan: joint.vlan,
            mac: joint.mac,
            host_mac: joint.mac,
            addresses: joint.addresses.iter().map(IpNet::addr).collect(),
        };
        self.look_at("entries", |machine| machine.joints.iter().map(entry).collect())
    }

    fn has_entries(&self) -> bool {
        true
    }

    fn fallback(&self) -> Option<String> {
        None
    }

    fn interfaces(&self, _: &Path) -> Result<Vec<LiveInterface>> {
        self.look_at("interfaces", |machine| {
            let live = |joint: &Joint| {
                let sandbox = machine.behind(joint)?;
                let (netns, netns_id, mac) = (joint.netns.clone(), sandbox.id.clone(), joint.mac);
                Some(LiveInterface { netns, netns_id, ifname: "eth0".to_owned(), mac })
            };
            machine.joints.values().filter_map(live).collect()
        })
    }

    fn prepare(&self, spec: &UplinkSpec) -> Result<Uplink> {
        let mut appeared = None;
        let result = self.change(&format!("prepare {}", spec.tap), |machine| {
            if let Some(uplink) = machine.uplinks.get(&spec.tap) {
                return Ok(uplink.clone());
            }
            let ifindex = machine.next_index;
            machine.next_index += 2;
            let (tap, ifname) = (Some(spec.tap.clone()), spec.peer.clone());
            let uplink = Uplink { tap, ifname, ifindex, mac: spec.mac };
            machine.uplinks.insert(spec.tap.clone(), uplink.clone());
            appeared = machine.rows.get(&spec.tap).map(|row| row.uuid.clone());
            machine.down.extend(appeared.as_ref().map(|_| spec.tap.clone()));
            Ok(uplink)
        });
        if let Some(row) = appeared {
            self.wire(spec.tap.clone(), row);
        }
        result
    }

    fn uplinks(&self) -> Result<FoundUplinks> {
        self.look_at("uplinks", |machine| FoundUplinks {
            prepared: machine.uplinks.values().cloned().collect(),
            macvlans: BTreeMap::new(),
            down: machine.down.iter().cloned().collect(),
        })
    }

    fn bring_up(&self, ifnames: &[String]) -> Result<()> {
        self.change(&format!("bring up {}", ifnames.join(" ")), |machine| {
            machine.down.retain(|tap| !ifnames.contains(tap));
            Ok(())
        })
    }

    fn remove(&self, tap: &str) -> Result<()> {
        let mut lost = Vec::new();
        let result = self.change(&format!("remove {tap}"), |machine| {
            lost = machine.users(tap).into_iter().cloned().collect();
            machine.uplinks.remove(tap);
            machine.down.remove(tap);
            Ok(())
        });
        lost.iter()
            .for_each(|pod| self.broken(format!("the uplink {tap} of a connected pod is deleted: {pod:?}")));
        result
    }

    fn interface_named(&self, ifname: &str) -> Result<Option<NodeInterface>> {
        self.look_at("interface named", |_| Some(interface()).filter(|found| found.name == ifname))
    }

    fn interface_with(&self, addresses: &[IpAddr]) -> Result<Option<NodeInterface>> {
        self.look_at("interface with", |machine| addresses.contains(&machine.address).then(interface))
    }

    fn adopt(&self, _: &str) -> Result<Uplink> {
        Err(refused())
    }

    fn abandon(&self, _: Option<u32>) -> Result<()> {
        self.change_unseen("give interfaces back")
    }

    fn prepare_macvlan(&self, _: &MacvlanSpec) -> Result<()> {
        Err(refused())
    }

    fn remove_macvlan(&self, _: &str) -> Result<()> {
        Err(refused())
    }

    fn prepare_own_port(&self, port: &OwnPortSpec) -> Result<()> {
        let mut appeared = None;
        let result = self.change(&format!("prepare own {}", port.tap), |machine| {
            machine.own = Some(port.tap.clone());
            appeared = machine.rows.get(&port.tap).map(|row| row.uuid.clone());
            machine.down.extend(appeared.as_ref().map(|_| port.tap.clone()));
            Ok(())
        });
        if let Some(row) = appeared {
            self.wire(port.tap.clone(), row);
        }
        result
    }

    fn remove_own_port(&self, ifname: &str) -> Result<()> {
        self.change(&format!("remove own {ifname}"), |machine| {
            let own = machine.own.take();
            machine.down.retain(|tap| Some(tap) != own.as_ref());
            Ok(())
        })
    }

    fn routes(&self) -> Result<Vec<NodeRoute>> {
        self.look_at("routes", |_| Vec::new())
    }

    fn set_ways(&self, _: Way, _: &[NodeRoute], _: &[IpAddr]) -> Result<()> {
        self.change_unseen("set ways")
    }

    fn set_node_addresses(&self, _: &[IpAddr]) -> Result<()> {
        self.change_unseen("set addresses of the node")
    }

    fn set_straight(&self, _: &BTreeSet<IpAddr>, _: &BTreeSet<IpAddr>) -> Result<()> {
        self.change_unseen("set straight ways")
    }

    fn restore_local_path(&self, _: &[IpAddr]) -> Result<usize> {
        self.look_at("restore local path", |_| 0)
    }

    fn sweep(&self, keep: &BTreeSet<String>) -> Result<Swept> {
        let mut lost = Vec::new();
        let result = self.change("sweep", |machine| {
            let swept: Vec<u32> = machine
                .joints
                .iter()
                .filter(|(_, joint)| !keep.contains(&joint.host_ifname))
                .map(|(index, _)| *index)
                .collect();
            for index in &swept {
                let joint = machine.joints.remove(index);
                lost.extend(
                    joint.and_then(|joint| machine.behind(&joint).filter(|pod| pod.established).cloned()),
                );
            }
            Ok(Swept { entries: swept.len(), ..Swept::default() })
        });
        lost.retain(|pod| self.world.is_wanted(&pod.pod));
        lost.iter().for_each(|pod| self.broken(format!("a connected pod is swept up: {pod:?}")));
        result
    }

    fn ensure_guard(&self) -> Result<()> {
        self.change_unseen("install the guard")
    }
}

fn interface() -> NodeInterface {
    let mac = "52:54:00:00:00:01".parse().unwrap();
    NodeInterface { name: "ens3".to_owned(), index: 2, mac, mtu: 1500, up: true, kind: None }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

impl SwitchDatabase for Reach {
    fn watch(&self) -> watch::Receiver<Arc<SwitchState>> {
        self.world.state().machines[&self.node].switch.subscribe()
    }

    fn add_ports<'a>(&'a self, ports: &'a [PortSpec]) -> Answering<'a> {
        Box::pin(async move {
            let taps: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
            let line = format!("plug {}", taps.join(" "));
            self.transact(Side::Plug, &line, |machine| plug(machine, ports)).await
        })
    }

    fn del_ports<'a>(&'a self, names: &'a [String]) -> Answering<'a> {
        Box::pin(async move {
            let mut lost = Vec::new();
            let line = format!("unplug {}", names.join(" "));
            let result = self.transact(Side::Switch, &line, |machine| {
                let users = names.iter().flat_map(|name| machine.users(name));
                lost = users.cloned().collect::<Vec<_>>();
                let rows: Vec<_> = names.iter().filter_map(|name| machine.rows.remove(name)).collect();
                rows.into_iter()
                    .filter_map(|row| row.iface_id)
                    .map(|port| Changed::Unplugged(port.to_string()))
                    .collect()
            });
            let result = result.await;
            lost.iter()
                .for_each(|pod| self.broken(format!("the port of a connected pod is unplugged: {pod:?}")));
            result
        })
    }
}

/// What a transaction changed.
enum Changed {
    /// A row that is to be wired: its name and identifier.
    Plugged(String, String),
    /// A port that is on the switch no more.
    Unplugged(String),
}

fn plug(machine: &mut Machine, ports: &[PortSpec]) -> Vec<Changed> {
    let mut changed = Vec::new();
    for port in ports {
        machine.rows_made += 1;
        let made = format!("row-{}", machine.rows_made);
        let row = machine.rows.entry(port.name.clone()).or_insert_with(|| InterfaceRow {
            uuid: made,
            name: port.name.clone(),
            iface_id: None,
            generation: None,
            start: None,
            ours: true,
            tag: None,
            ofport: None,
            ovn_installed: false,
            ovn_installed_ts: None,
            mac_in_use: None,
            error: None,
        });
        (row.iface_id, row.generation, row.start) =
            (Some(port.port.clone()), port.generation, port.start.clone());
        changed.push(Changed::Plugged(port.name.clone(), row.uuid.clone()));
    }
    changed
}

impl Reach {
    async fn transact(
        &self,
        side: Side,
        line: &str,
        change: impl FnOnce(&mut Machine) -> Vec<Changed>,
    ) -> Result<()> {
        let takes = self.world.state().chance.millis(1, 5);
        sleep(takes).await;
        let met = self.world.faults.meet(&self.caller, side, line, true);
        if !matches!(
            met,
            Meets::Nothing | Meets::Fault(Fault::KillAfter | Fault::Lost | Fault::Slow(_) | Fault::Stuck)
        ) {
            return Err(Error::OvsdbDisconnected { socket: "memory".into() });
        }
        let changed = {
            let state = &mut *self.world.state();
            state.changed = Instant::now();
            let machine = state.machines.get_mut(&self.node).unwrap();
            let changed = change(machine);
            machine.publish();
            for port in changed.iter().filter_map(|one| match one {
                Changed::Unplugged(port) => Some(port),
                Changed::Plugged(..) => None,
            }) {
                state.cloud.set_status(port, "DOWN");
            }
            changed
        };
        if met == Meets::Fault(Fault::Stuck) {
            self.stick(&changed);
        }
        let slow = if let Meets::Fault(Fault::Slow(seconds)) = met { seconds.into() } else { 0 };
        for one in changed {
            if let Changed::Plugged(tap, row) = one {
                self.wire_after(Duration::from_secs(slow), tap, row);
            }
        }
        match met {
            Meets::Fault(Fault::KillAfter) => {
                self.world.faults.kill(&self.caller);
                Ok(())
            }
            Meets::Fault(Fault::Lost) => Err(Error::OvsdbSilent { waited: Duration::from_secs(10) }),
            _ => Ok(()),
        }
    }

    /// Has the first of the ports that were plugged stay DOWN for good. Of one that is plugged alone nobody could tell whether it
    /// is the port or the node that fails.
    fn stick(&self, changed: &[Changed]) {
        let state = &mut *self.world.state();
        let rows = &state.machines[&self.node].rows;
        let plugged = changed.iter().filter_map(|one| match one {
            Changed::Plugged(tap, _) => rows.get(tap)?.iface_id.as_ref(),
            Changed::Unplugged(_) => None,
        });
        let plugged: Vec<_> = plugged.collect();
        if let [first, _, ..] = plugged.as_slice() {
            state.cloud.stuck.insert(first.to_string());
        }
    }

    fn wire(&self, tap: String, row: String) {
        self.wire_after(Duration::ZERO, tap, row);
    }

    /// The switch of the node starts anew, and OVN deals with it.
    pub(crate) fn restart_switch(world: &Arc<World>, node: &str) {
        world.note(format!("the switch of {node} starts anew"));
        let now = world.now_ns(node);
        let rows = world.state().machines.get_mut(node).unwrap().restart_switch(now);
        let reach = Self { world: Arc::clone(world), caller: Caller::new("nobody"), node: node.to_owned() };
        rows.into_iter().for_each(|(tap, row)| reach.wire(tap, row));
    }

    /// Has the switch give a row a number, and OVN install its flows and call its port ACTIVE, as long as it is that row.
    fn wire_after(&self, slow: Duration, tap: String, row: String) {
        let (world, node) = (Arc::clone(&self.world), self.node.clone());
        let (number, flows) = {
            let state = &mut *world.state();
            let most = state.wiring_most;
            let stuck = most > 1000 && state.chance.one_in(12);
            (state.chance.millis(2, 30), state.chance.millis(20, if stuck { 90_000 } else { most }))
        };
        self.world.spawn(async move {
            sleep(number).await;
            change_row(&world, &node, &tap, &row, |row| (row.ofport, row.error) = (Some(1), None));
            let due = Instant::now() + flows + slow;
            while Instant::now() < due && !world.state().is_quiet {
                sleep((due - Instant::now()).min(Duration::from_secs(1))).await;
            }
            while !install(&world, &node, &tap, &row) {
                sleep(Duration::from_secs(1)).await;
            }
        });
    }
}

fn change_row(world: &World, node: &str, tap: &str, uuid: &str, change: impl FnOnce(&mut InterfaceRow)) {
    let state = &mut *world.state();
    let Some(machine) = state.machines.get_mut(node) else { return };
    let there = machine.has_interface(tap);
    if let Some(row) = machine.rows.get_mut(tap).filter(|row| row.uuid == uuid && there) {
        change(row);
        machine.publish();
    }
}

/// Installs the flows of a row whose port is bound here; tells whether there is nothing more to do.
fn install(world: &World, node: &str, tap: &str, uuid: &str) -> bool {
    let now = world.setup.is_harsh.then(|| world.time_of(node).as_millisecond());
    let state = &mut *world.state();
    let Some(machine) = state.machines.get_mut(node) else { return true };
    let there = machine.has_interface(tap);
    let Some(row) = machine.rows.get_mut(tap).filter(|row| row.uuid == uuid && there) else { return true };
    let Some(port) = row.iface_id.as_ref().map(ToString::to_string) else { return true };
    let is_stuck = state.cloud.stuck.contains(&port) || state.cloud.half_made.contains(&port);
    let bound = !is_stuck
        && state.cloud.ports.get(&port).is_some_and(|port| port["binding:host_id"] == machine.host.as_str());
    if bound {
        (row.ovn_installed, row.ovn_installed_ts) = (true, now.and_then(|now| u64::try_from(now).ok()));
        machine.installed.insert(uuid.to_owned(), port.clone());
        machine.publish();
        state.cloud.set_status(&port, "ACTIVE");
    }
    bound
}

/// What a slot tells of its record.
#[derive(Debug, serde::Deserialize)]
struct Written {
    id: String,
    sequence: u64,
}

/// The record of a slot, if it is whole: a line, and then JSON.
fn written(slot: &[u8]) -> Option<Written> {
    let end = slot.iter().position(|byte| *byte == b'\n')?;
    serde_json::from_slice(&slot[end + 1..]).ok()
}

/// The disk of an agent.
#[derive(Debug)]
pub(crate) struct Disk(pub(crate) Reach);

impl Storage for Disk {
    fn write(&mut self, slot: usize, bytes: &[u8]) -> io::Result<()> {
        let Reach { world, caller, node } = &self.0;
        let met = world.faults.meet(caller, Side::Disk, "write", true);
        let state = &mut *world.state();
        let machine = state.machines.get_mut(node).unwrap();
        let is_full = machine.disk_full_until > Instant::now();
        match met {
            Meets::Dead | Meets::Stalled(_) => return Err(io::ErrorKind::BrokenPipe.into()),
            Meets::Nothing | Meets::Fault(Fault::KillAfter) if !is_full => {
                machine.backups.push_back(machine.slots.clone());
                if machine.backups.len() > BACKUPS {
                    machine.backups.pop_front();
                }
                machine.slots[slot] = bytes.to_vec();
            }
            // Half of it is there.
            _ => machine.slots[slot] = bytes[..bytes.len() / 2].to_vec(),
        }
        match met {
            Meets::Fault(Fault::KillAfter | Fault::Torn) => world.faults.kill(caller),
            Meets::Nothing if !is_full => {}
            _ => return Err(io::ErrorKind::StorageFull.into()),
        }
        Ok(())
    }
}
