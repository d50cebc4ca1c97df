//! Ports of a node that is a server of the cloud with a trunk: subports of that.
//!
//! 1. A port is made unbound, put on the trunk in a batch with others under a VLAN id of ours to choose, and offered
//!    once Neutron shows it ACTIVE; the VLAN id is part of the offer. On the way there it counts as free, so that a
//!    trunk that is slow does not have more and more of them made.
//! 2. A port that is on the trunk and in no entry (the answer was lost, or the leader) is found there and offered, or
//!    condemned. One that is on another trunk is condemned.
//! 3. It is taken off when it is doomed and returned, or condemned; then it rests, then it is deleted.
//! 4. If somebody else takes off a port that a pod has, it is put back under its VLAN id. A free one is withdrawn
//!    and replaced.
//! 5. A port that does not become ACTIVE while others are is replaced; if none does, nothing is replaced and that is
//!    told.
//! 6. Whatever another user of the trunk does meanwhile makes Neutron refuse the change as a whole. It is planned anew
//!    from what is there then, after a wait that is one for the trunk.

use std::collections::{BTreeMap, BTreeSet};

use kuryr_api::kuryrnode::{PortEntry, Problem};
use kuryr_types::{PortId, TrunkId};

use super::{
    desired::Draft,
    inputs::Millis,
    step::CloudStep,
    trunk::{Attachment, Trunk, TrunkCondition},
    vlan,
    way::{Place, Way},
};
use crate::ownership::{OurPort, PortCondition, Purpose};

/// Ports that are put on a trunk by one request. Neutron wires them one after the other and answers after the last.
const ATTACH_AT_ONCE: usize = 10;
/// Ports that are taken off by one request.
const DETACH_AT_ONCE: usize = 10;
/// Ports that are looked at again by one request.
const LOOK_AT_ONCE: usize = 100;
/// First and greatest distance between looks at ports that are about to become ACTIVE.
const LOOK_FIRST: Millis = 500;
const LOOK_MOST: Millis = 30_000;
/// How long a trunk may be DOWN: any change makes it so for a moment.
const DOWN_SETTLES: Millis = 10_000;
/// How long a port may take to become ACTIVE on a trunk whose parent is.
const ACTIVE_WITHIN: Millis = 60_000;

/// What is to be done about trunks, collected while ports are judged.
#[derive(Debug, Default)]
pub(super) struct TrunkWork {
    /// Ports to put on the node's trunk, under their VLAN id if they have one.
    attach: BTreeMap<PortId, Option<u16>>,
    /// Ports to take off, by trunk.
    detach: BTreeMap<TrunkId, Vec<PortId>>,
    /// Ports that are on the trunk and not ACTIVE.
    pending: BTreeSet<PortId>,
}

impl TrunkWork {
    /// Tells whether ports still have to be taken off.
    pub(super) fn detaches(&self) -> bool {
        !self.detach.is_empty()
    }
}

/// What has to be remembered about a trunk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TrunkMemory {
    /// The VLAN id that was chosen last.
    last_vlan: u16,
    /// When to look again, and how often it was looked in vain.
    look: Option<(Millis, u32)>,
    /// Since when the trunk is DOWN for no reason that shows.
    down_since: Option<Millis>,
    /// Since when ports are on the trunk without being ACTIVE.
    pending: BTreeMap<PortId, Millis>,
}

/// What became of a port that is to be offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readiness {
    /// It can be offered now.
    Ready,
    /// It is on its way.
    Soon,
    /// It will not do.
    Bad,
}

impl Draft<'_> {
    /// Tells what is wrong with the node's trunk.
    pub(super) fn tell_trunk(&mut self) {
        let (Way::Trunk(_), Some(trunk)) = (self.way, self.trunk()) else { return };
        let memory = &mut self.memory.trunk;
        let is_down = trunk.condition == TrunkCondition::Down && trunk.parent_active && trunk.enabled;
        let since = is_down.then(|| *memory.down_since.get_or_insert(self.inputs.now));
        memory.down_since = since;
        let stays = since.is_some_and(|since| self.inputs.now >= since + DOWN_SETTLES);
        self.tell(trunk.problem(stays));
        let held_up = self.inputs.cloud.trunks.as_ref().and_then(|trunks| trunks.held_up.get(&trunk.id));
        self.tell(held_up.and_then(|held_up| held_up.problem.clone()));
    }

    /// Tells whether a trunk may be changed now, or looks again when it may. What is known to be refused is not asked
    /// for; a disabled trunk is looked at again anyway.
    fn is_free(&mut self, trunk: &TrunkId) -> bool {
        if self.trunk().is_some_and(|known| known.id == *trunk && !known.enabled) {
            return false;
        }
        let held_up = self.inputs.cloud.trunks.as_ref().and_then(|trunks| trunks.held_up.get(trunk));
        let until = held_up.map(|held_up| held_up.until).filter(|until| self.inputs.now < *until);
        self.wake(until);
        until.is_none()
    }

    /// Brings a port of this node a step closer to being offered. In mode `ovs` there is nothing to do.
    pub(super) fn make_ready(&mut self, port: &OurPort) -> Readiness {
        match (self.way, self.place(port)) {
            (Way::Host(_), _) => Readiness::Ready,
            (Way::Server(_), _) => self.make_paired(port),
            (Way::Closed, _) | (Way::Trunk(_), Place::Unknown) => Readiness::Soon,
            (Way::Trunk(_), Place::Free) => {
                self.trunk_work.attach.insert(port.id.clone(), None);
                Readiness::Soon
            }
            (Way::Trunk(_), Place::On(_)) if port.condition == PortCondition::Active => Readiness::Ready,
            (Way::Trunk(_), Place::On(_)) => self.wait_for_active(port),
        }
    }

    fn wait_for_active(&mut self, port: &OurPort) -> Readiness {
        let now = self.inputs.now;
        let due = *self.memory.trunk.pending.entry(port.id.clone()).or_insert(now) + ACTIVE_WITHIN;
        let others_are = self.ports.values().any(|port| {
            port.purpose() == Purpose::Pool
                && port.condition == PortCondition::Active
                && matches!(self.place(port), Place::On(_))
        });
        if now >= due && others_are && self.trunk().is_some_and(|trunk| trunk.parent_active) {
            return Readiness::Bad;
        }
        if now < due {
            self.wake(Some(due));
        }
        self.trunk_work.pending.insert(port.id.clone());
        Readiness::Soon
    }

    /// Puts a port that a pod has back on the trunk, if somebody took it off.
    pub(super) fn repair_subport(&mut self, port: Option<&OurPort>, entry: &PortEntry) {
        let (Some(port), Some(vlan), Way::Trunk(own)) = (port, entry.vlan, self.way) else { return };
        match self.place(port) {
            Place::Free if port.may_be_subport() => {}
            // Not to be fought with, but to be told.
            Place::On(at) if at.vlan != vlan || own != Some(&at.trunk) => {
                return self.tell(Some(moved(port, vlan, at)));
            }
            _ => return,
        }
        match self.trunk().and_then(|trunk| trunk.subports.get(&vlan).map(|other| (trunk, other))) {
            None => {
                self.trunk_work.attach.insert(port.id.clone(), Some(vlan));
            }
            Some((trunk, other)) => self.tell(Some(vlan_taken(trunk, vlan, port, other))),
        }
    }

    /// Takes a port off the trunk it is on, or its pairs off the server's port; tells whether it is off.
    pub(super) fn detach(&mut self, port: &OurPort) -> bool {
        if port.is_for_pairs() {
            return self.unpair(port);
        }
        match self.place(port) {
            Place::Unknown => false,
            Place::Free => true,
            Place::On(at) => {
                self.trunk_work.detach.entry(at.trunk.clone()).or_default().push(port.id.clone());
                false
            }
        }
    }

    /// For how many more ports the trunk has room; `making` are under way already. Without bound in mode `ovs`.
    pub(super) fn trunk_room(&mut self, making: usize) -> usize {
        let Way::Trunk(_) = self.way else { return usize::MAX };
        let Some(trunk) = self.trunk().filter(|trunk| trunk.takes_ports()) else { return 0 };
        let range = &self.inputs.limits.vlans;
        let taken = self.taken(trunk);
        let promised = self.trunk_work.attach.values().filter(|vlan| vlan.is_none()).count() + making;
        let room = vlan::room(range, &taken).saturating_sub(promised);
        if room == 0 {
            let ours = self.out.spec.ports.values().filter(|entry| entry.vlan.is_some()).count();
            self.tell(Some(vlan::exhausted(range, &trunk.id, &taken, ours)));
        }
        room
    }

    /// VLAN ids that cannot be given to another port.
    fn taken(&self, trunk: &Trunk) -> BTreeSet<u16> {
        let entries = self.record.spec.ports.values().chain(self.out.spec.ports.values());
        let promised = self.trunk_work.attach.values().flatten().copied();
        entries.filter_map(|entry| entry.vlan).chain(trunk.subports.keys().copied()).chain(promised).collect()
    }

    /// The steps for what was collected: ports are put on before others are taken off, and those are not taken off
    /// while `urgent` work waits.
    pub(super) fn change_trunks(&mut self, urgent: bool) {
        self.look_again();
        if let Some(step) = self.add_subports() {
            // Before whatever else takes its time.
            self.out.cloud.insert(0, step);
        }
        if !urgent && self.out.cloud.iter().all(|step| !step.provides()) {
            for (trunk, mut ports) in std::mem::take(&mut self.trunk_work.detach) {
                ports.truncate(DETACH_AT_ONCE);
                if self.is_free(&trunk) {
                    self.out.cloud.push(CloudStep::RemoveSubports { trunk, ports });
                }
            }
        }
    }

    fn add_subports(&mut self) -> Option<CloudStep> {
        let trunk = self.trunk().filter(|trunk| trunk.takes_ports())?;
        if self.trunk_work.attach.is_empty() || !self.is_free(&trunk.id) {
            return None;
        }
        // Pods first: those ports have their id already.
        let mut ports: Vec<_> = std::mem::take(&mut self.trunk_work.attach).into_iter().collect();
        ports.sort_by_key(|(id, vlan)| (vlan.is_none(), id.clone()));
        ports.truncate(ATTACH_AT_ONCE);
        let mut taken = self.taken(trunk);
        taken.extend(ports.iter().filter_map(|(_, vlan)| *vlan));
        let wanted = ports.iter().filter(|(_, vlan)| vlan.is_none()).count();
        let memory = &mut self.memory.trunk;
        let chosen = vlan::choose(&self.inputs.limits.vlans, &taken, memory.last_vlan, wanted);
        memory.last_vlan = chosen.last().copied().unwrap_or(memory.last_vlan);
        let mut chosen = chosen.into_iter();
        let subports: Vec<(PortId, u16)> =
            ports.into_iter().filter_map(|(id, vlan)| Some((id, vlan.or_else(|| chosen.next())?))).collect();
        (!subports.is_empty()).then(|| CloudStep::AddSubports { trunk: trunk.id.clone(), subports })
    }

    /// Looks again at what is about to change by itself, at growing distance.
    fn look_again(&mut self) {
        let pending = std::mem::take(&mut self.trunk_work.pending);
        let now = self.inputs.now;
        let memory = &mut self.memory.trunk;
        memory.pending.retain(|id, _| pending.contains(id));
        let late = memory.pending.values().filter(|since| now >= **since + ACTIVE_WITHIN).count();
        let (Way::Trunk(_), Some(trunk)) = (self.way, self.trunk()) else { return };
        if pending.is_empty() && trunk.problem(true).is_none() {
            self.memory.trunk.look = None;
            return;
        }
        if late > 0 && trunk.parent_active {
            self.tell(Some(not_active(trunk, late)));
        }
        let (at, times) = self.memory.trunk.look.unwrap_or((now + LOOK_FIRST, 0));
        if now < at {
            self.memory.trunk.look = Some((at, times));
            return self.wake(Some(at));
        }
        let next = now + (LOOK_FIRST << times.min(10)).min(LOOK_MOST);
        self.memory.trunk.look = Some((next, times + 1));
        self.wake(Some(next));
        let ports = pending.into_iter().take(LOOK_AT_ONCE).collect();
        self.out.cloud.push(CloudStep::LookAtTrunk { trunk: trunk.id.clone(), ports });
    }
}

fn moved(port: &OurPort, vlan: u16, at: &Attachment) -> Problem {
    Problem {
        reason: "SubportMoved".into(),
        message: format!(
            "port {} of a running pod was moved to trunk {} under VLAN id {}, and its node still takes it for VLAN id \
             {vlan}: the pod has no network; delete the pod, or take the port off that trunk to have it put back",
            port.id, at.trunk, at.vlan
        ),
    }
}

fn vlan_taken(trunk: &Trunk, vlan: u16, port: &OurPort, other: &PortId) -> Problem {
    Problem {
        reason: "VlanTaken".into(),
        message: format!(
            "port {} of a running pod was taken off trunk {} of this node, and its VLAN id {vlan} was given to port {other}: \
             the pod has no network; take {other} off the trunk, or delete the pod",
            port.id, trunk.id
        ),
    }
}

fn not_active(trunk: &Trunk, late: usize) -> Problem {
    Problem {
        reason: "SubportsDown".into(),
        message: format!(
            "{late} ports on trunk {} of this node are not ACTIVE in Neutron after {} seconds, although the parent port {} is: \
             look into the log of the network agent on the server's hypervisor",
            trunk.id,
            ACTIVE_WITHIN / 1000,
            trunk.parent
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kuryr_api::{
        kuryrnode::{KuryrNodeSpec, KuryrNodeStatus, Mode, NodeUplink},
        names::TRUNK_SUBPORT_OWNER,
    };
    use kuryr_types::{Generation, MacAddr};

    use super::super::{
        Cloud, Generations, Inputs, Memory, Plan, Record, SpecStep, fixtures, plan,
        trunk::{HeldUp, Sight, Trunks},
    };
    use super::*;
    use crate::ownership::{ListedPort, pool_port_name};

    /// A node on trunk `t`, looked at once and again.
    struct Node {
        now: Millis,
        spec: KuryrNodeSpec,
        status: KuryrNodeStatus,
        cloud: Cloud,
        memory: Memory,
        generations: Generations,
    }

    impl Node {
        fn new(subports: &[(u16, &str)]) -> Self {
            let trunk = Trunk {
                id: "t".into(),
                parent: "parent".into(),
                parent_enabled: true,
                parent_active: true,
                enabled: true,
                condition: TrunkCondition::Good,
                subports: subports.iter().map(|(vlan, port)| (*vlan, PortId::from(*port))).collect(),
            };
            let attached = subports
                .iter()
                .map(|(vlan, port)| (PortId::from(*port), Attachment { trunk: "t".into(), vlan: *vlan }));
            let attached = attached.filter(|(port, _)| port.as_str() != "foreign").collect();
            let uplink = NodeUplink { name: "eth0".into(), mac: MacAddr([2, 0, 0, 0, 0, 9]) };
            let spec = KuryrNodeSpec {
                node_uid: "u".into(),
                checkpoint: Some("c".into()),
                epoch: 1,
                mode: Mode::NestedVlan,
                trunk: Some("t".into()),
                ..KuryrNodeSpec::default()
            };
            let status = KuryrNodeStatus { host: None, uplink: Some(uplink), ..fixtures::status("u", "c") };
            let cloud = Cloud {
                ports: Some(vec![]),
                default: Some(fixtures::default_class(fixtures::GROUP)),
                trunks: Some(Trunks { node: Sight::Trunk(trunk), attached, held_up: BTreeMap::new() }),
                ..Cloud::default()
            };
            let (memory, generations) = (Memory::default(), Generations::of_epoch(1));
            Self { now: 1000, spec, status, cloud, memory, generations }
        }

        /// A port of the pool that we made just now.
        fn port(&mut self, id: &str, condition: PortCondition) {
            let last = u8::try_from(self.cloud.fresh.len()).unwrap() + 1;
            let listed = fixtures::listed(id, &pool_port_name("w1"), None, [10, 0, 0, last], fixtures::GROUP);
            let device_owner = TRUNK_SUBPORT_OWNER.to_owned();
            let port = fixtures::owner().admit(ListedPort { condition, device_owner, ..listed });
            self.cloud.fresh.insert(id.into());
            self.cloud.ports.get_or_insert_default().extend(port);
        }

        /// An entry of a port that a pod has.
        fn claimed(&mut self, id: &str, vlan: u16) {
            self.port(id, PortCondition::Down);
            let generation = Generation { epoch: 1, counter: 1000 + u64::from(vlan) };
            let entry = PortEntry { vlan: Some(vlan), active: true, ..fixtures::entry(generation) };
            self.spec.ports.insert(id.into(), entry);
            self.status.claims.insert(id.into(), fixtures::claim("pod", generation));
        }

        fn trunk(&mut self) -> &mut Trunks {
            self.cloud.trunks.as_mut().unwrap()
        }

        fn plan(&mut self) -> Plan {
            let record = Record { spec: &self.spec, status: Some(&self.status) };
            let inputs = Inputs { now: self.now, ..fixtures::look(record, &self.cloud) };
            plan(&inputs, &mut self.memory, &mut self.generations)
        }

        fn added(&mut self) -> Vec<(String, u16)> {
            let steps = self.plan().cloud;
            let added = steps.into_iter().find_map(|step| match step {
                CloudStep::AddSubports { subports, .. } => Some(subports),
                _ => None,
            });
            added.into_iter().flatten().map(|(id, vlan)| (id.to_string(), vlan)).collect()
        }

        fn told(&mut self) -> Vec<String> {
            let steps = self.plan().spec;
            let problems = steps.into_iter().find_map(|step| match step {
                SpecStep::SetProblems(problems) => Some(problems),
                _ => None,
            });
            problems.into_iter().flatten().map(|problem| problem.reason).collect()
        }
    }

    fn ids(expect: &[(&str, u16)]) -> Vec<(String, u16)> {
        expect.iter().map(|(id, vlan)| ((*id).to_owned(), *vlan)).collect()
    }

    #[test]
    fn ids_of_others_and_of_entries_are_left_alone() {
        let mut node = Node::new(&[(100, "foreign"), (102, "foreign2")]);
        node.claimed("c", 101);
        // Somebody deleted the port, and its pod still sends.
        node.claimed("gone", 103);
        node.cloud.ports.as_mut().unwrap().retain(|port| port.id.as_str() != "gone");
        node.port("a", PortCondition::Down);
        node.port("b", PortCondition::Down);
        assert_eq!(node.added(), ids(&[("c", 101), ("a", 104), ("b", 105)]), "the pod's own id first");
    }

    #[test]
    fn a_trunk_that_was_changed_by_others_is_left_alone_for_a_while() {
        let mut node = Node::new(&[]);
        node.port("a", PortCondition::Down);
        let held_up = HeldUp { until: 1200, problem: None };
        node.trunk().held_up.insert("t".into(), held_up);
        assert_eq!(node.added(), ids(&[]));
        assert_eq!(node.plan().wake_at, Some(1200));
        node.now = 1200;
        assert_eq!(node.added(), ids(&[("a", 100)]));
    }

    #[test]
    fn a_port_is_offered_when_it_is_active_and_looked_at_until_it_is() {
        let mut node = Node::new(&[(100, "a"), (107, "b")]);
        node.port("a", PortCondition::Down);
        node.port("b", PortCondition::Active);
        let offers = |plan: &Plan| {
            let offers = plan.spec.iter().filter_map(|step| match step {
                SpecStep::Offer { id, entry, .. } => Some((id.to_string(), entry.vlan, entry.active)),
                _ => None,
            });
            offers.collect::<Vec<_>>()
        };
        let looks = |plan: &Plan| {
            plan.cloud.iter().any(
                |step| matches!(step, CloudStep::LookAtTrunk { ports, .. } if *ports == [PortId::from("a")]),
            )
        };
        let first = node.plan();
        assert_eq!(offers(&first), [("b".to_owned(), Some(107), true)]);
        assert_eq!((looks(&first), first.wake_at), (false, Some(1000 + LOOK_FIRST)));
        let mut distances = vec![];
        for _ in 0..7 {
            node.now = node.plan().wake_at.unwrap();
            let plan = node.plan();
            assert!(looks(&plan));
            distances.push(node.memory.trunk.look.unwrap().0 - node.now);
        }
        assert_eq!(distances, [500, 1000, 2000, 4000, 8000, 16_000, 30_000]);
        // Others are ACTIVE: this one is replaced.
        node.now = node.plan().wake_at.unwrap();
        assert_eq!(node.now, 1000 + ACTIVE_WITHIN);
        let condemned = |plan: &Plan| plan.cloud.contains(&CloudStep::Condemn { id: "a".into() });
        assert!(condemned(&node.plan()));
    }

    #[test]
    fn a_port_that_was_found_is_not_offered_as_neutron_may_have_made_it_half() {
        let mut node = Node::new(&[(100, "a")]);
        node.port("a", PortCondition::Active);
        node.port("b", PortCondition::Down);
        node.cloud.fresh.clear();
        // An answer is on the way.
        node.cloud.making = Some((Purpose::Pool, 1));
        let plan = node.plan();
        assert_eq!(plan.cloud, [], "{plan:?}");
        node.cloud.making = None;
        let plan = node.plan();
        for id in ["a", "b"] {
            assert!(plan.cloud.contains(&CloudStep::Condemn { id: id.into() }), "{plan:?}");
        }
        assert!(plan.spec.iter().all(|step| !matches!(step, SpecStep::Offer { .. })));
    }

    #[test]
    fn what_stands_on_another_trunk_is_not_offered() {
        let mut node = Node::new(&[]);
        node.port("a", PortCondition::Active);
        let elsewhere = Attachment { trunk: "other".into(), vlan: 101 };
        node.trunk().attached.insert("a".into(), elsewhere);
        let plan = node.plan();
        assert!(plan.cloud.contains(&CloudStep::Condemn { id: "a".into() }), "{plan:?}");
        assert!(plan.spec.iter().all(|step| !matches!(step, SpecStep::Offer { .. })));
    }

    #[test]
    fn before_anybody_has_looked_nothing_is_decided_about_subports() {
        let mut node = Node::new(&[]);
        node.port("a", PortCondition::Active);
        node.claimed("c", 101);
        node.port("d", PortCondition::Down);
        let doomed = Generation { epoch: 1, counter: 7 };
        let entry = PortEntry { withdrawn: true, doomed: true, vlan: Some(102), ..fixtures::entry(doomed) };
        node.spec.ports.insert("d".into(), entry);
        node.status.returned.insert("d".into(), doomed);
        node.cloud.trunks = None;
        for _ in 0..3 {
            let plan = node.plan();
            assert!(plan.cloud.is_empty(), "{plan:?}");
            assert!(plan.spec.iter().all(|step| !matches!(step, SpecStep::Offer { .. })));
            node.now += 1000;
        }
    }

    #[test]
    fn what_others_did_to_the_port_of_a_pod_is_told() {
        let attached = |trunk: &str, vlan| Attachment { trunk: trunk.into(), vlan };
        for (subports, at, expect) in [
            (&[][..], None, None),
            (&[(101, "foreign")], None, Some("VlanTaken")),
            (&[], Some(attached("t", 102)), Some("SubportMoved")),
            (&[], Some(attached("other", 101)), Some("SubportMoved")),
            (&[], Some(attached("t", 101)), None),
        ] {
            let mut node = Node::new(subports);
            node.claimed("c", 101);
            node.trunk().attached.extend(at.map(|at| ("c".into(), at)));
            let told = node.told();
            assert_eq!(told.first().map(String::as_str), expect, "{told:?}");
        }
    }

    #[test]
    fn a_full_trunk_is_told_with_its_figures() {
        let all: Vec<(u16, String)> = (100..=4094).map(|vlan| (vlan, format!("f{vlan}"))).collect();
        let all: Vec<(u16, &str)> = all.iter().map(|(vlan, id)| (*vlan, id.as_str())).collect();
        let mut node = Node::new(&all);
        let plan = node.plan();
        assert!(plan.cloud.is_empty(), "{plan:?}");
        assert_eq!(node.told(), ["NoFreeVlan"]);
        let mut node = Node::new(&all[1..]);
        let made = node.plan().cloud.iter().find_map(|step| match step {
            CloudStep::CreatePorts { count, request, .. } => Some((*count, request.host.clone())),
            _ => None,
        });
        assert_eq!(made, Some((1, None)), "one id is left, and the port is made unbound");
    }

    #[test]
    fn a_trunk_that_takes_no_ports_is_told_and_gets_none() {
        for (change, expect) in [
            ((|trunk| trunk.enabled = false) as fn(&mut Trunk), "TrunkDisabled"),
            (|trunk| trunk.condition = TrunkCondition::Error, "TrunkInError"),
        ] {
            let mut node = Node::new(&[]);
            node.port("a", PortCondition::Down);
            let Sight::Trunk(trunk) = &mut node.trunk().node else { panic!() };
            change(trunk);
            assert_eq!((node.told(), node.added()), (vec![expect.to_owned()], vec![]));
            assert!(node.plan().cloud.iter().all(|step| !step.creates()));
        }
    }
}
