//! What to plug and what is ready.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kuryr_api::{
    kuryrnode::{KuryrNodeSpec, PlugId, PortEntry, StuckEntry},
    names,
};
use kuryr_types::{Generation, MacAddr, PortId};

use super::{
    found::{Row, Sign, Start, Switch},
    memory::{Earned, Memory},
};
use crate::{
    attachment::links::mtu,
    claim::{Ledger, Offer, Ready},
};

/// A port that is not ready after this long, while another became ready, is stuck.
pub const STUCK_AFTER: Duration = Duration::from_secs(30);

/// A port that is not ready after this long is stuck also if no other one became ready since; one at a time, and so long after the one
/// before.
pub const PROBE_AFTER: Duration = Duration::from_secs(300);

/// What the plan is made from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The record; none while it is not known: then nothing is removed.
    pub spec: Option<&'a KuryrNodeSpec>,
    /// The record, if it is meant for this agent: then its ports are plugged.
    pub offer: Option<Offer<'a>>,
    /// What the agent holds.
    pub ledger: &'a Ledger,
    /// The switch; none while it is not connected or has no integration bridge.
    pub switch: Option<&'a Switch>,
    /// Names of the prepared taps in the node.
    pub taps: &'a BTreeSet<String>,
    /// Interfaces on the way to the switch that are down and could not be brought up, with why.
    pub down: &'a BTreeMap<String, String>,
    /// Time since the agent started.
    pub now: Duration,
    /// Upper bound of MTUs in bytes; 0 for none.
    pub mtu_cap: u32,
}

/// One change of the node. Each kind comes at most once per plan, in the order of the variants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Remove taps from the bridge, in one transaction.
    Unplug(Vec<String>),
    /// Make the veth pairs of these uplinks.
    Prepare(Vec<Plug>),
    /// Plug taps on the bridge, in one transaction.
    Plug(Vec<Plug>),
    /// Delete the veth pairs of these taps; slow.
    Remove(Vec<String>),
}

/// A port on its way to the bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plug {
    /// Neutron port.
    pub port: PortId,
    /// End on the integration bridge: the tap, or with a bridge in between that bridge's outer end.
    pub tap: String,
    /// There is a bridge in between.
    pub hybrid: bool,
    /// End that waits for a pod; for the node's own port its interface.
    pub peer: String,
    /// Hardware address.
    pub mac: MacAddr,
    /// MTU in bytes.
    pub mtu: u32,
    /// Offer it is plugged for; none for the node's own port.
    pub generation: Option<Generation>,
}

/// What to do, and what holds now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Changes, in order.
    pub steps: Vec<Step>,
    /// Ports that a pod can use now, claimed ones included.
    pub ready: BTreeMap<PortId, Ready>,
    /// Whether the node's own port is ready.
    pub own_port_ready: bool,
    /// Ports that are plugged and wait for Neutron to call them ACTIVE, with the row that it has to be about.
    pub plugged: BTreeMap<PortId, PlugId>,
    /// Ports that alone do not become ready.
    pub stuck: BTreeMap<PortId, StuckEntry>,
    /// Known ports of which nothing is left on the node: the ledger may forget them.
    pub gone: Vec<PortId>,
    /// What to remember for the next look.
    pub memory: Memory,
}

/// Plans. The memory is the last plan's, with [`Memory::plugged`] noted after each transaction that succeeded.
#[must_use]
pub fn plan(inputs: &Inputs<'_>, memory: &Memory) -> Plan {
    let wanted = wanted(inputs);
    let mut plan = Plan { memory: remembered(memory, inputs), ..Plan::default() };
    if let Some(switch) = inputs.switch {
        evaluate(&wanted, switch, inputs, &mut plan);
        plan.steps = steps(&wanted, switch, inputs, memory, &mut plan.gone);
    } else {
        // Earned anew once the switch is back; a row that is unchanged proves it at once.
        plan.memory.ready.clear();
    }
    plan.stuck = stuck(inputs, &plan);
    probe(inputs, &mut plan);
    plan
}

/// A port that the node should have.
struct Wanted {
    plug: Plug,
    /// A pod is connected: nothing may interrupt it.
    in_use: bool,
    /// Plug it if it is not; otherwise only keep it.
    plug_it: bool,
}

/// Everything that stays or comes: usable ports, claimed ones, withdrawn ones that are plugged, the own port.
fn wanted(inputs: &Inputs<'_>) -> Vec<Wanted> {
    let Some(spec) = inputs.spec else { return claimed_only(inputs) };
    let usable: BTreeSet<&PortId> =
        inputs.offer.iter().flat_map(|offer| offer.usable(inputs.ledger)).map(|(port, _)| port).collect();
    let of_entries = spec.ports.iter().filter_map(|(port, entry)| {
        let claim = inputs.ledger.claims.get(port);
        // What has a VLAN id goes by another way.
        let elsewhere = claim.map_or(entry.vlan, |claim| claim.links.vlan).is_some();
        if elsewhere || (entry.doomed && claim.is_none()) {
            return None;
        }
        let mtu = match claim {
            Some(claim) => claim.links.mtu,
            None => mtu(&entry.network, &spec.networks, inputs.mtu_cap).ok()?,
        };
        let hybrid = claim.map_or(entry.hybrid, |claim| claim.links.hybrid);
        let plug = plug(port, entry.mac, mtu, hybrid, Some(entry.generation));
        let in_use = claim.is_some_and(|claim| claim.sandbox.is_some());
        Some(Wanted { plug, in_use, plug_it: claim.is_some() || usable.contains(port) })
    });
    let own = spec.own_port.iter().filter(|_| inputs.offer.is_some()).filter_map(|own| {
        let mtu = mtu(&own.network, &spec.networks, inputs.mtu_cap).ok()?;
        let mut plug = plug(&own.id, own.mac, mtu, own.hybrid, None);
        names::NODE_INTERFACE.clone_into(&mut plug.peer);
        Some(Wanted { plug, in_use: true, plug_it: true })
    });
    let mut wanted: Vec<Wanted> = of_entries.chain(own).collect();
    // A claim whose entry is missing stays: the record is wrong, the pod is real.
    wanted.extend(claimed_only(inputs).into_iter().filter(|one| !spec.ports.contains_key(&one.plug.port)));
    wanted
}

fn claimed_only(inputs: &Inputs<'_>) -> Vec<Wanted> {
    let claims = inputs.ledger.claims.iter().filter(|(_, claim)| claim.links.vlan.is_none());
    let one = claims.map(|(port, claim)| Wanted {
        plug: plug(port, claim.links.mac, claim.links.mtu, claim.links.hybrid, Some(claim.generation)),
        in_use: claim.sandbox.is_some(),
        plug_it: true,
    });
    one.collect()
}

fn plug(port: &PortId, mac: MacAddr, mtu: u32, hybrid: bool, generation: Option<Generation>) -> Plug {
    let [tap, outer] = ends(port);
    Plug {
        port: port.clone(),
        tap: if hybrid { outer } else { tap },
        hybrid,
        peer: names::uplink_name(port.as_str()),
        mac,
        mtu,
        generation,
    }
}

/// The names that a port's end on the integration bridge may have.
fn ends(port: &PortId) -> [String; 2] {
    [names::tap_name(port.as_str()), names::hybrid_outer_name(port.as_str())]
}

/// Keeps what still speaks of an offer, and notes new ones.
fn remembered(memory: &Memory, inputs: &Inputs<'_>) -> Memory {
    let mut next = memory.clone();
    if let Some(spec) = inputs.spec {
        let offered =
            |port: &PortId| spec.ports.contains_key(port) || inputs.ledger.claims.contains_key(port);
        let own = |port: &PortId| spec.own_port.as_ref().is_some_and(|own| own.id == *port);
        next.first_seen.retain(|port, (generation, _)| {
            spec.ports.get(port).is_some_and(|e| e.generation == *generation)
        });
        next.plugged_under.retain(|port, _| offered(port) || own(port));
        next.ready.retain(|port, _| offered(port) || own(port));
    }
    for (port, entry) in inputs.offer.iter().flat_map(|offer| offer.usable(inputs.ledger)) {
        next.first_seen.entry(port.clone()).or_insert((entry.generation, inputs.now));
    }
    let stopped = next.first_seen.keys().filter(|port| down_on_the_way(port, inputs).is_some());
    let since = |port: &PortId| memory.down_since.get(port).copied().unwrap_or(inputs.now);
    next.down_since = stopped.map(|port| (port.clone(), since(port))).collect();
    next
}

/// The interface between a pod and the switch that keeps the port from carrying anything, with why.
fn down_on_the_way<'a>(port: &PortId, inputs: &Inputs<'a>) -> Option<(&'a String, &'a String)> {
    let id = port.as_str();
    let [tap, outer] = ends(port);
    let inner = [names::hybrid_bridge_name(id), names::hybrid_inner_name(id)];
    let own = inputs.spec.and_then(|spec| spec.own_port.as_ref()).filter(|own| own.id == *port);
    let interface = own.map(|_| names::NODE_INTERFACE.to_owned());
    let mut all = [tap, outer, names::uplink_name(id)].into_iter().chain(inner).chain(interface);
    all.find_map(|name| inputs.down.get_key_value(&name))
}

/// Finds out what is ready, and remembers it.
fn evaluate(wanted: &[Wanted], switch: &Switch, inputs: &Inputs<'_>, plan: &mut Plan) {
    let now = inputs.now;
    let earned_before = std::mem::take(&mut plan.memory.ready);
    for one in wanted {
        let port = &one.plug.port;
        let Some((row, start)) = served(&one.plug, switch) else { continue };
        let before =
            earned_before.get(port).filter(|earned| earned.row == row.uuid && earned.start == start.id);
        if down_on_the_way(port, inputs).is_some() {
            plan.memory.ready.extend(before.map(|earned| (port.clone(), earned.clone())));
            continue;
        }
        let plugged_now = plan.memory.plugged_under.get(port) == Some(&start.id);
        // A pod that talks keeps its port usable: plugging it anew would only interrupt it.
        if before.is_none() && !plugged_now && !row.is_of(start) && !one.in_use {
            continue;
        }
        if before.is_none() && !one.in_use && switch.sign == Sign::Active && !is_wired(port, row, inputs.spec)
        {
            plan.plugged.insert(port.clone(), row.uuid.clone());
            continue;
        }
        let since = before.map_or(now, |earned| earned.since);
        if before.is_none() {
            plan.memory.last_ready = Some(now);
        }
        let earned = Earned { row: row.uuid.clone(), start: start.id.clone(), since };
        plan.memory.ready.insert(port.clone(), earned);
        match one.plug.generation {
            Some(generation) => drop(plan.ready.insert(port.clone(), Ready { generation, since })),
            None => plan.own_port_ready = true,
        }
    }
}

/// Whether Neutron has called the port ACTIVE as it is plugged now.
fn is_wired(port: &PortId, row: &Row, spec: Option<&KuryrNodeSpec>) -> bool {
    spec.and_then(|spec| spec.wired.get(port)) == Some(&row.uuid)
}

/// The row of a plug that was dealt with, under whatever start.
fn served<'a>(plug: &Plug, switch: &'a Switch) -> Option<(&'a Row, &'a Start)> {
    let row = switch.rows.get(&plug.tap).filter(|row| row.port.as_ref() == Some(&plug.port))?;
    let start = switch.start.as_ref()?;
    (row.is_served(switch.sign) && row.has_ofport).then_some((row, start))
}

fn steps(
    wanted: &[Wanted],
    switch: &Switch,
    inputs: &Inputs<'_>,
    memory: &Memory,
    gone: &mut Vec<PortId>,
) -> Vec<Step> {
    let mut unplug = Vec::new();
    let (mut prepare, mut plugs, mut remove) = (Vec::new(), Vec::new(), Vec::new());
    for one in wanted.iter().filter(|one| one.plug_it) {
        let has_links = inputs.taps.contains(&one.plug.tap);
        let row = switch.rows.get(&one.plug.tap);
        let anew = row.is_some_and(|row| must_plug_anew(one, row, has_links, switch, memory));
        if anew {
            unplug.push(one.plug.tap.clone());
        }
        if !has_links {
            prepare.push(one.plug.clone());
        }
        if anew || row.is_none() {
            plugs.push(one.plug.clone());
        }
    }
    if inputs.spec.is_some() {
        leftovers(wanted, switch, inputs, &mut unplug, &mut remove, gone);
    }
    let mut steps = Vec::new();
    let mut push = |step: Step, is_empty: bool| {
        if !is_empty {
            steps.push(step);
        }
    };
    push(Step::Unplug(unplug.clone()), unplug.is_empty());
    push(Step::Prepare(prepare.clone()), prepare.is_empty());
    push(Step::Plug(plugs.clone()), plugs.is_empty());
    push(Step::Remove(remove.clone()), remove.is_empty());
    steps
}

/// A row is replaced when it speaks of another port or of links that are gone, or when its flag may be stale.
fn must_plug_anew(one: &Wanted, row: &Row, has_links: bool, switch: &Switch, memory: &Memory) -> bool {
    if row.port.as_ref() != Some(&one.plug.port) || !has_links {
        return true;
    }
    let Some(start) = &switch.start else { return false };
    let plugged_now = memory.plugged_under.get(&one.plug.port) == Some(&start.id);
    let earned = memory.ready.get(&one.plug.port).is_some_and(|e| e.row == row.uuid && e.start == start.id);
    row.is_served(switch.sign) && !one.in_use && !plugged_now && !earned && !row.is_of(start)
}

/// What this agent plugged and the record wants no more.
fn leftovers(
    wanted: &[Wanted],
    switch: &Switch,
    inputs: &Inputs<'_>,
    unplug: &mut Vec<String>,
    remove: &mut Vec<String>,
    gone: &mut Vec<PortId>,
) {
    let kept: BTreeSet<&str> = wanted.iter().map(|one| one.plug.tap.as_str()).collect();
    let known: BTreeSet<String> = inputs.ledger.known.keys().flat_map(ends).collect();
    for (name, row) in &switch.rows {
        // The node's own port has no generation, and is not known any more when the node is another now.
        let bears_our_keys = row.has_generation || row.start.is_some();
        let plugged_by_us = row.ours && (bears_our_keys || known.contains(name));
        if plugged_by_us && !kept.contains(name.as_str()) {
            unplug.push(name.clone());
        }
    }
    remove.extend(inputs.taps.iter().filter(|tap| !kept.contains(tap.as_str())).cloned());
    gone.extend(
        inputs
            .ledger
            .known
            .keys()
            .filter(|port| {
                let offered = inputs.spec.is_some_and(|spec| spec.ports.contains_key(*port));
                let is_there = |end: &String| {
                    kept.contains(end.as_str()) || switch.rows.contains_key(end) || inputs.taps.contains(end)
                };
                !offered && !ends(port).iter().any(is_there)
            })
            .cloned(),
    );
}

fn stuck(inputs: &Inputs<'_>, plan: &Plan) -> BTreeMap<PortId, StuckEntry> {
    let Some(last_ready) = plan.memory.last_ready else { return BTreeMap::new() };
    let mut stuck = BTreeMap::new();
    for (port, entry) in waiting(inputs, &plan.ready) {
        let Some((_, seen)) = plan.memory.first_seen.get(port) else { continue };
        let (since, others_are_ready) = match plan.memory.down_since.get(port) {
            // It may have been ready before.
            Some(since) => (since, !plan.ready.is_empty()),
            None => (seen, last_ready > *seen),
        };
        if others_are_ready && inputs.now.saturating_sub(*since) >= STUCK_AFTER {
            stuck.insert(port.clone(), told(port, entry, inputs, plan));
        }
    }
    stuck
}

/// Ports that a pod could take, if they were ready.
fn waiting<'a>(
    inputs: &'a Inputs<'_>,
    ready: &'a BTreeMap<PortId, Ready>,
) -> impl Iterator<Item = (&'a PortId, &'a PortEntry)> {
    let usable = inputs.offer.iter().flat_map(|offer| offer.usable(inputs.ledger));
    usable.filter(|(port, _)| !ready.contains_key(*port) && !inputs.ledger.claims.contains_key(*port))
}

fn told(port: &PortId, entry: &PortEntry, inputs: &Inputs<'_>, plan: &Plan) -> StuckEntry {
    let reason = match down_on_the_way(port, inputs) {
        Some((ifname, why)) => format!("{ifname} is down and cannot be brought up: {why}"),
        None => reason(port, inputs.switch, plan.plugged.contains_key(port)),
    };
    StuckEntry { generation: entry.generation, reason }
}

/// Where nothing shows whether it is the port or the node, has one port replaced, while others are ready: when its successor becomes ready, that
/// shows it of all that wait, and if it does not, the node makes one port in this time and no more.
fn probe(inputs: &Inputs<'_>, plan: &mut Plan) {
    let now = inputs.now;
    let Memory { late_since, probed, .. } = &mut plan.memory;
    let late: BTreeMap<&PortId, &PortEntry> =
        waiting(inputs, &plan.ready).filter(|_| !plan.ready.is_empty()).collect();
    late_since.retain(|port, _| late.contains_key(port));
    for port in late.keys() {
        late_since.entry((*port).clone()).or_insert(now);
    }
    let is_long = |since: &Duration| now.saturating_sub(*since) >= PROBE_AFTER;
    let last = probed.take().filter(|(port, at)| late_since.contains_key(port) || !is_long(at));
    let oldest = || late_since.iter().filter(|(_, since)| is_long(since)).min_by_key(|(_, since)| **since);
    *probed = last.or_else(|| oldest().map(|(port, _)| (port.clone(), now)));
    let told_of = probed.as_ref().and_then(|(port, _)| late.get_key_value(port));
    if let (Some((port, entry)), true) = (told_of, plan.stuck.is_empty()) {
        let told = ((*port).clone(), told(port, entry, inputs, plan));
        plan.stuck.extend([told]);
    }
}

/// Why a port is not ready, as far as the node can tell.
fn reason(port: &PortId, switch: Option<&Switch>, is_plugged: bool) -> String {
    let has_row = |end: &&String| switch.is_some_and(|switch| switch.rows.contains_key(*end));
    let ends = ends(port);
    let tap = ends.iter().find(has_row).unwrap_or(&ends[0]);
    let sign = switch.map_or_else(Sign::default, |switch| switch.sign);
    match switch.and_then(|switch| switch.rows.get(tap)) {
        None => format!("{tap} is not on the integration bridge"),
        Some(Row { error: Some(error), .. }) => format!("{tap}: {error}"),
        Some(row) if !row.has_ofport => format!("ovs-vswitchd has not accepted {tap}"),
        Some(_) if is_plugged => {
            format!("Neutron does not call the port ACTIVE although its agent has dealt with {tap}")
        }
        Some(row) if sign == Sign::Active && !row.is_served(sign) => format!(
            "the Open vSwitch agent of Neutron has not dealt with {tap}; is the port bound to this host, does \
             neutron-openvswitch-agent run?"
        ),
        Some(row) if !row.is_served(sign) => format!(
            "ovn-controller has not installed flows for {tap}; is the port bound to this host, does ovn-controller run?"
        ),
        Some(_) => format!("flows of {tap} are from before ovs-vswitchd was started"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::claim::{
        ledger::tests::claim,
        offer::tests::{offered, own},
    };

    /// A node whose parts can be changed.
    pub(crate) struct Node {
        pub(crate) spec: KuryrNodeSpec,
        pub(crate) ledger: Ledger,
        pub(crate) switch: Switch,
        pub(crate) taps: BTreeSet<String>,
        pub(crate) down: BTreeMap<String, String>,
        pub(crate) memory: Memory,
        pub(crate) now: Duration,
    }

    impl Node {
        pub(crate) fn new(ports: &[(&str, &str)]) -> Self {
            let start = Start { id: "s1".into(), at_ms: 1000 };
            Self {
                spec: offered(ports),
                ledger: Ledger::default(),
                switch: Switch { start: Some(start), ..Switch::default() },
                taps: BTreeSet::new(),
                down: BTreeMap::new(),
                memory: Memory::default(),
                now: Duration::from_secs(100),
            }
        }

        pub(crate) fn plan(&self) -> Plan {
            let inputs = Inputs {
                spec: Some(&self.spec),
                offer: Offer::accept(&self.spec, &own()),
                ledger: &self.ledger,
                switch: Some(&self.switch),
                taps: &self.taps,
                down: &self.down,
                now: self.now,
                mtu_cap: 0,
            };
            plan(&inputs, &self.memory)
        }

        /// The same node with a switch that Neutron's own agent drives.
        pub(crate) fn of_neutrons_agent(mut self) -> Self {
            self.switch.sign = Sign::Active;
            self
        }

        /// Neutron calls ACTIVE what waits for it, and the controller passes it on.
        pub(crate) fn wire(&mut self, plan: &Plan) {
            self.spec.wired.extend(plan.plugged.clone());
        }

        /// Carries out the steps as the node would.
        pub(crate) fn apply(&mut self, plan: &Plan) {
            self.memory = plan.memory.clone();
            let start = self.switch.start.as_ref().map(|start| start.id.clone());
            for step in &plan.steps {
                match step {
                    Step::Unplug(taps) => {
                        for tap in taps {
                            self.switch.rows.remove(tap);
                        }
                    }
                    Step::Prepare(plugs) => self.taps.extend(plugs.iter().map(|plug| plug.tap.clone())),
                    Step::Plug(plugs) => {
                        for plug in plugs {
                            assert!(self.taps.contains(&plug.tap), "links come before the plug");
                            let count = self.switch.rows.len();
                            let row = Row {
                                uuid: format!("{}-{count}-{:?}", plug.tap, self.now),
                                port: Some(plug.port.clone()),
                                ours: true,
                                has_generation: true,
                                has_ofport: true,
                                start: start.clone(),
                                ..Row::default()
                            };
                            assert!(self.switch.rows.insert(plug.tap.clone(), row).is_none());
                        }
                        let start = start.clone().unwrap_or_default();
                        self.memory.plugged(plugs.iter().map(|plug| &plug.port), &start);
                    }
                    Step::Remove(taps) => {
                        for tap in taps {
                            self.taps.remove(tap);
                        }
                    }
                }
            }
            for port in &plan.gone {
                self.ledger.unknow(port);
            }
            if let Some(offer) = Offer::accept(&self.spec, &own()) {
                self.ledger.notice(&offer);
            }
        }

        /// Whoever drives the switch deals with what is plugged.
        pub(crate) fn install(&mut self, at_ms: u64) {
            if self.switch.sign == Sign::Active {
                let alive = |row: &Row| row.tag.filter(|tag| *tag != 4095).unwrap_or(1);
                self.switch.rows.values_mut().for_each(|row| row.tag = Some(alive(row)));
                return;
            }
            for row in self.switch.rows.values_mut().filter(|row| !row.installed) {
                row.installed = true;
                row.installed_at_ms = Some(at_ms);
            }
        }

        /// Plans and applies until nothing changes.
        pub(crate) fn settle(&mut self, installed_at_ms: u64) -> Plan {
            for _ in 0..8 {
                let plan = self.plan();
                self.apply(&plan);
                self.install(installed_at_ms);
                self.wire(&plan);
                if plan.steps.is_empty() && plan.memory == self.plan().memory {
                    return self.plan();
                }
            }
            panic!("does not settle: {:?}", self.plan().steps);
        }
    }

    fn names_of(plan: &Plan) -> Vec<String> {
        let names = |plugs: &[Plug]| plugs.iter().map(|plug| plug.tap.clone()).collect::<Vec<_>>().join(" ");
        plan.steps
            .iter()
            .map(|step| match step {
                Step::Unplug(taps) => format!("unplug {}", taps.join(" ")),
                Step::Prepare(plugs) => format!("prepare {}", names(plugs)),
                Step::Plug(plugs) => format!("plug {}", names(plugs)),
                Step::Remove(taps) => format!("remove {}", taps.join(" ")),
            })
            .collect()
    }

    #[test]
    fn offered_ports_are_plugged_together_and_become_ready() {
        let mut node = Node::new(&[("p1", "1.1"), ("p2", "1.2")]);
        let first = node.plan();
        assert_eq!(names_of(&first), ["prepare tapp1 tapp2", "plug tapp1 tapp2"]);
        assert!(first.ready.is_empty());
        node.apply(&first);
        assert!(node.plan().ready.is_empty(), "plugged is not ready");
        node.install(2000);
        let plan = node.plan();
        assert_eq!(plan.ready.len(), 2);
        assert_eq!(names_of(&plan), Vec::<String>::new());
    }

    #[test]
    fn nothing_is_plugged_for_another_checkpoint() {
        let mut node = Node::new(&[("p1", "1.1")]);
        node.spec.checkpoint = Some("older".into());
        assert_eq!(names_of(&node.plan()), Vec::<String>::new());
    }

    #[test]
    fn what_is_gone_or_doomed_is_unplugged_unless_claimed() {
        let mut node = Node::new(&[("p1", "1.1"), ("p2", "1.2"), ("p3", "1.3"), ("p4", "1.4")]);
        node.settle(2000);
        node.ledger.claim(&"p3".into(), claim("a", "1.3", Some("c1")));
        node.spec.ports.remove("p1");
        node.spec.ports.get_mut("p2").unwrap().doomed = true;
        node.spec.ports.get_mut("p3").unwrap().doomed = true;
        node.spec.ports.get_mut("p4").unwrap().withdrawn = true;
        let plan = node.plan();
        assert_eq!(names_of(&plan), ["unplug tapp1 tapp2", "remove tapp1 tapp2"]);
        assert!(plan.ready.contains_key("p3"));
        node.apply(&plan);
        let plan = node.plan();
        assert_eq!((names_of(&plan), plan.gone.as_slice()), (vec![], ["p1".into()].as_slice()));
    }

    #[test]
    fn what_has_a_vlan_id_is_not_plugged() {
        let mut node = Node::new(&[("p1", "1.1"), ("p2", "1.2")]);
        node.settle(2000);
        for (port, vlan) in [("p1", 101), ("p2", 102)] {
            node.spec.ports.get_mut(port).unwrap().vlan = Some(vlan);
        }
        let mut nested = claim("a", "1.2", Some("c1"));
        nested.links.vlan = Some(102);
        node.ledger.claim(&"p2".into(), nested);
        assert_eq!(names_of(&node.plan()), ["unplug tapp1 tapp2", "remove tapp1 tapp2"]);
        assert!(node.plan().ready.is_empty());
    }

    #[test]
    fn a_record_that_is_not_known_removes_nothing() {
        let mut node = Node::new(&[("p1", "1.1")]);
        node.settle(2000);
        let inputs = Inputs {
            spec: None,
            offer: None,
            ledger: &node.ledger,
            switch: Some(&node.switch),
            taps: &node.taps,
            down: &node.down,
            now: node.now,
            mtu_cap: 0,
        };
        assert_eq!(plan(&inputs, &node.memory).steps, []);
    }

    #[test]
    fn with_a_bridge_in_between_its_outer_end_is_plugged() {
        let mut node = Node::new(&[("p1", "1.1"), ("p2", "1.2")]).of_neutrons_agent();
        node.spec.ports.get_mut("p1").unwrap().hybrid = true;
        let first = node.plan();
        assert_eq!(names_of(&first), ["prepare qvop1 tapp2", "plug qvop1 tapp2"]);
        assert_eq!(node.settle(0).ready.len(), 2);
        let mut talking = claim("a", "1.1", Some("c1"));
        talking.links.hybrid = true;
        node.ledger.claim(&"p1".into(), talking);
        node.spec.ports.clear();
        assert_eq!(names_of(&node.plan()), ["unplug tapp2", "remove tapp2"], "the pod keeps what it has");
        node.ledger.claims.clear();
        node.apply(&node.plan());
        assert!(node.switch.rows.is_empty() && node.taps.is_empty());
        assert_eq!(node.plan().gone, ["p1".into(), "p2".into()]);
    }

    #[test]
    fn a_port_that_gets_a_bridge_in_between_is_plugged_anew() {
        let mut node = Node::new(&[("p1", "1.1")]).of_neutrons_agent();
        node.settle(0);
        node.spec.ports.get_mut("p1").unwrap().hybrid = true;
        assert_eq!(names_of(&node.plan()), ["unplug tapp1", "prepare qvop1", "plug qvop1", "remove tapp1"]);
    }

    #[test]
    fn rows_of_others_are_not_touched() {
        let mut node = Node::new(&[]);
        let row = Row { port: Some("x".into()), has_ofport: true, ..Row::default() };
        node.switch.rows.insert("tapforeign".into(), row.clone());
        node.switch.rows.insert("tapupstream".into(), Row { ours: true, ..row.clone() });
        assert_eq!(names_of(&node.plan()), Vec::<String>::new());
        node.switch.rows.insert("tapours".into(), Row { ours: true, has_generation: true, ..row.clone() });
        node.switch.rows.insert("tapknown".into(), Row { ours: true, ..row.clone() });
        // The node's own port of a former life of the node.
        node.switch.rows.insert("tapown".into(), Row { ours: true, start: Some("s0".into()), ..row });
        node.ledger.known.insert("known".into(), "1.1".parse().unwrap());
        assert_eq!(names_of(&node.plan()), ["unplug tapknown tapours tapown"]);
    }

    #[test]
    fn readiness_is_earned_for_each_start_of_the_switch() {
        let mut node = Node::new(&[("p1", "1.1"), ("p2", "1.2")]);
        assert_eq!(node.settle(2000).ready.len(), 2);
        node.ledger.claim(&"p2".into(), claim("a", "1.2", Some("c1")));
        node.switch.start = Some(Start { id: "s2".into(), at_ms: 5000 });
        let plan = node.plan();
        assert_eq!(plan.ready.keys().map(PortId::as_str).collect::<Vec<_>>(), ["p2"], "its pod goes on");
        assert_eq!(names_of(&plan), ["unplug tapp1", "plug tapp1"]);
        node.apply(&plan);
        // Even if the clock went back: the plug was made under this start.
        node.install(10);
        let plan = node.plan();
        assert_eq!((plan.ready.len(), names_of(&plan)), (2, vec![]));
        // A claim without a sandbox is plugged anew like a free port.
        node.ledger.cut(&"p2".into());
        node.switch.start = Some(Start { id: "s3".into(), at_ms: 9000 });
        assert_eq!(names_of(&node.plan()), ["unplug tapp1 tapp2", "plug tapp1 tapp2"]);
    }

    #[test]
    fn a_clock_that_went_back_makes_no_port_ready() {
        let mut node = Node::new(&[("p1", "1.1")]);
        let at_ms = 9_000_000;
        assert_eq!(node.settle(at_ms).ready.len(), 1);
        node.switch.start = Some(Start { id: "s2".into(), at_ms: 5_000_000 });
        for memory in [node.memory.clone(), Memory::default()] {
            node.memory = memory;
            let plan = node.plan();
            let anew = vec!["unplug tapp1".to_owned(), "plug tapp1".into()];
            assert_eq!((plan.ready.len(), names_of(&plan)), (0, anew));
        }
    }

    #[test]
    fn after_a_restart_of_the_agent_the_time_of_the_flag_counts() {
        let mut node = Node::new(&[("p1", "1.1")]);
        node.settle(2000);
        node.memory = Memory::default();
        // As an agent plugged it that did not write the start.
        node.switch.rows.get_mut("tapp1").unwrap().start = None;
        assert_eq!(node.plan().ready.len(), 1);
        node.switch.rows.get_mut("tapp1").unwrap().installed_at_ms = Some(999);
        let plan = node.plan();
        assert_eq!(
            (plan.ready.len(), names_of(&plan)),
            (0, vec!["unplug tapp1".into(), "plug tapp1".into()])
        );
        node.switch.rows.get_mut("tapp1").unwrap().installed_at_ms = None;
        assert_eq!(node.plan().ready.len(), 0);
    }

    #[test]
    fn where_only_neutron_tells_a_port_is_ready_when_it_was_active_as_it_is_plugged() {
        let mut node = Node::new(&[("p1", "1.1"), ("p2", "1.2")]).of_neutrons_agent();
        node.apply(&node.plan());
        let plan = node.plan();
        assert_eq!((plan.ready.len(), plan.plugged.len()), (0, 0), "Neutron's agent has not seen it");
        node.switch.rows.values_mut().for_each(|row| row.tag = Some(4095));
        assert_eq!(node.plan().plugged.len(), 0, "a port that carries nothing");
        node.switch.rows.values_mut().for_each(|row| row.tag = Some(3));
        let plan = node.plan();
        let uuid = |node: &Node, tap: &str| node.switch.rows[tap].uuid.clone();
        let expect = [("p1".into(), uuid(&node, "tapp1")), ("p2".into(), uuid(&node, "tapp2"))];
        assert_eq!((plan.ready.len(), plan.plugged), (0, expect.into()));
        node.spec.wired.insert("p1".into(), uuid(&node, "tapp1"));
        node.spec.wired.insert("p2".into(), "an earlier plug".into());
        let plan = node.plan();
        assert_eq!(plan.ready.keys().map(PortId::as_str).collect::<Vec<_>>(), ["p1"]);
        assert_eq!(plan.plugged.keys().map(PortId::as_str).collect::<Vec<_>>(), ["p2"]);
    }

    #[test]
    fn where_only_neutron_tells_readiness_is_of_one_plug_and_one_start() {
        let mut node = Node::new(&[("p1", "1.1"), ("p2", "1.2")]).of_neutrons_agent();
        assert_eq!(node.settle(0).ready.len(), 2);
        // Neither the agent's restart nor a record without the plug makes a port unready that is not plugged anew.
        let (memory, wired) = (node.memory.clone(), node.spec.wired.clone());
        node.memory = Memory::default();
        assert_eq!((node.plan().ready.len(), names_of(&node.plan())), (2, vec![]));
        node.memory = memory;
        node.spec.wired.clear();
        assert_eq!(node.plan().ready.len(), 2);
        node.spec.wired = wired;
        // Another start of the switch: the VLAN id is in its database, the flows are not. A pod goes on.
        node.ledger.claim(&"p2".into(), claim("a", "1.2", Some("c1")));
        node.switch.start = Some(Start { id: "s2".into(), at_ms: 5000 });
        node.now += Duration::from_secs(1);
        let plan = node.plan();
        assert_eq!(plan.ready.keys().map(PortId::as_str).collect::<Vec<_>>(), ["p2"]);
        assert_eq!(names_of(&plan), ["unplug tapp1", "plug tapp1"]);
        node.apply(&plan);
        node.install(0);
        let plan = node.plan();
        assert_eq!(
            plan.plugged.keys().map(PortId::as_str).collect::<Vec<_>>(),
            ["p1"],
            "wired is of the former plug"
        );
        node.wire(&plan);
        assert_eq!(node.plan().ready.len(), 2);
    }

    #[test]
    fn where_only_neutron_tells_the_own_port_does_not_wait_for_it() {
        let mut node = Node::new(&[]).of_neutrons_agent();
        node.spec.own_port = serde_json::from_value(serde_json::json!({
            "id": "own", "mac": "fa:16:3e:00:00:09", "network": "net", "addresses": [],
        }))
        .unwrap();
        node.apply(&node.plan());
        node.install(0);
        let plan = node.plan();
        assert!(plan.own_port_ready && plan.plugged.is_empty());
    }

    #[test]
    fn links_that_vanished_are_made_and_plugged_anew() {
        let mut node = Node::new(&[("p1", "1.1")]);
        node.settle(2000);
        node.taps.clear();
        assert_eq!(names_of(&node.plan()), ["unplug tapp1", "prepare tapp1", "plug tapp1"]);
    }

    #[test]
    fn no_switch_no_readiness() {
        let mut node = Node::new(&[("p1", "1.1")]);
        node.settle(2000);
        let inputs = Inputs {
            spec: Some(&node.spec),
            offer: Offer::accept(&node.spec, &own()),
            ledger: &node.ledger,
            switch: None,
            taps: &node.taps,
            down: &node.down,
            now: node.now,
            mtu_cap: 0,
        };
        let without = plan(&inputs, &node.memory);
        assert_eq!((without.ready.len(), without.steps.len()), (0, 0));
        node.memory = without.memory;
        assert_eq!(node.plan().ready.len(), 1);
        node.switch.start = None;
        assert_eq!(node.plan().ready.len(), 0);
    }

    #[test]
    fn the_own_port_is_plugged_and_is_no_pods() {
        let mut node = Node::new(&[]);
        node.spec.own_port = serde_json::from_value(serde_json::json!({
            "id": "own", "mac": "fa:16:3e:00:00:09", "network": "net", "addresses": [],
        }))
        .unwrap();
        let first = node.plan();
        assert_eq!(names_of(&first), ["prepare tapown", "plug tapown"]);
        let Step::Prepare(plugs) = &first.steps[0] else { panic!() };
        assert_eq!((plugs[0].peer.as_str(), plugs[0].generation), ("kuryr0", None));
        let plan = node.settle(2000);
        assert!(plan.own_port_ready && plan.ready.is_empty());
    }

    #[test]
    fn stuck_is_only_who_falls_behind() {
        let seconds = Duration::from_secs;
        let mut node = Node::new(&[("p1", "1.1")]);
        node.apply(&node.plan());
        node.now += seconds(60);
        assert!(node.plan().stuck.is_empty(), "none is ready: the node's fault");
        node.spec.ports.extend(offered(&[("p2", "1.2")]).ports);
        node.apply(&node.plan());
        node.switch.rows.get_mut("tapp2").unwrap().installed = true;
        node.switch.rows.get_mut("tapp2").unwrap().installed_at_ms = Some(2000);
        node.now += seconds(1);
        let plan = node.plan();
        assert_eq!(plan.stuck.keys().map(PortId::as_str).collect::<Vec<_>>(), ["p1"]);
        assert!(plan.stuck["p1"].reason.contains("ovn-controller"), "{}", plan.stuck["p1"].reason);
        node.switch.rows.get_mut("tapp1").unwrap().error = Some("could not open network device".into());
        assert!(node.plan().stuck["p1"].reason.contains("could not open"));
        node.spec.ports.get_mut("p1").unwrap().withdrawn = true;
        assert!(node.plan().stuck.is_empty());
    }

    #[test]
    fn a_port_with_an_interface_that_stays_down_is_not_ready_and_stuck_after_a_while() {
        let mut node = Node::new(&[("p1", "1.1"), ("p2", "1.2")]);
        assert_eq!(node.settle(2000).ready.len(), 2);
        node.down = [(names::uplink_name("p1"), "no memory".to_owned())].into();
        node.now += Duration::from_secs(600);
        let plan = node.plan();
        assert_eq!(plan.ready.keys().map(PortId::as_str).collect::<Vec<_>>(), ["p2"]);
        assert!(plan.steps.is_empty() && plan.stuck.is_empty(), "it may come up: {plan:?}");
        node.apply(&plan);
        node.now += STUCK_AFTER;
        let reason = &node.plan().stuck["p1"].reason;
        assert!(reason.starts_with(&names::uplink_name("p1")) && reason.contains("no memory"), "{reason}");
        node.down.insert(names::tap_name("p2"), "no memory".to_owned());
        assert!(node.plan().stuck.is_empty(), "none is ready: the node's fault");
        node.down.clear();
        let plan = node.plan();
        assert_eq!((plan.ready.len(), plan.steps.len(), plan.memory.down_since.len()), (2, 0, 0));
    }

    #[test]
    fn where_only_neutron_tells_the_reason_says_who_is_late() {
        let mut node = Node::new(&[("p1", "1.1"), ("p2", "1.2")]).of_neutrons_agent();
        node.apply(&node.plan());
        node.now += Duration::from_secs(40);
        node.switch.rows.get_mut("tapp2").unwrap().tag = Some(1);
        let plan = node.plan();
        node.wire(&plan);
        node.apply(&node.plan());
        let reason = |node: &Node| node.plan().stuck["p1"].reason.clone();
        assert!(reason(&node).contains("neutron-openvswitch-agent"), "{}", reason(&node));
        node.switch.rows.get_mut("tapp1").unwrap().tag = Some(1);
        assert!(reason(&node).contains("ACTIVE"), "{}", reason(&node));
    }

    #[test]
    fn a_port_offered_after_the_others_were_ready_has_its_time() {
        let mut node = Node::new(&[("p1", "1.1")]);
        node.settle(2000);
        node.now += Duration::from_secs(600);
        node.spec.ports.extend(offered(&[("p2", "1.2")]).ports);
        node.apply(&node.plan());
        node.now += PROBE_AFTER - Duration::from_secs(1);
        assert!(node.plan().stuck.is_empty(), "nothing became ready since");
    }

    #[test]
    fn where_nothing_shows_whose_fault_it_is_one_port_at_a_time_is_replaced() {
        let mut node = Node::new(&[("p1", "1.1")]);
        node.settle(2000);
        let look = |node: &mut Node| {
            let plan = node.plan();
            node.apply(&plan);
            plan.stuck.into_keys().map(|port| port.to_string()).collect::<Vec<_>>()
        };
        for (port, generation) in [("p2", "1.2"), ("p3", "1.3")] {
            node.spec.ports.extend(offered(&[(port, generation)]).ports);
            assert_eq!(look(&mut node), [""; 0]);
            node.now += Duration::from_secs(10);
        }
        node.now += PROBE_AFTER;
        assert_eq!(look(&mut node), ["p2"], "the oldest");
        node.now += Duration::from_secs(100);
        assert_eq!(look(&mut node), ["p2"], "until it is taken back");
        node.spec.ports.remove("p2");
        node.spec.ports.extend(offered(&[("p4", "1.4")]).ports);
        assert_eq!(look(&mut node), [""; 0], "its successor has its time");
        node.now += PROBE_AFTER - Duration::from_secs(100);
        assert_eq!(look(&mut node), ["p3"]);
        // The successor of a port becomes ready: the others are stuck.
        node.switch.rows.get_mut("tapp4").unwrap().installed = true;
        node.switch.rows.get_mut("tapp4").unwrap().installed_at_ms = Some(2000);
        assert_eq!(look(&mut node), ["p3"]);
    }
}
