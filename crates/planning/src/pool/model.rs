//! A small world to hold plans against: Neutron, the API server, an agent, pods and time.
//!
//! The world checks what must hold of it at the moment it would be broken: the agent's promises are those of
//! `kuryr_api::kuryrnode`, Neutron hands out the lowest free address at once, answers get lost, calls arrive
//! late, leaders change, nodes come and go. The trunk is in `model_trunk`, the server's port in `model_pairs`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kuryr_api::{
    kuryrnode::{KuryrNodeSpec, KuryrNodeStatus, Mode, PortEntry, StuckEntry},
    names::{PAIR_DEVICE_OWNER, SUBPORT_DEVICE_OWNER, TRUNK_SUBPORT_OWNER},
};
use kuryr_types::{Epoch, Generation, PodIdentity, PortId, TrunkId};

use super::{
    Cloud, CloudStep, Generations, Held, Inputs, Limits, Memory, Millis, NodeFacts, Plan, PodFacts,
    PortRequest, Presence, Record, RecordStep, SpecStep, fixtures,
    model_pairs::{Pairs, pairs_of_listed, server},
    model_trunk::{self, Segments},
    orphans::{self, Carriers},
    plan,
    targets::{Expected, Rule},
    trunk::HeldUp,
};
use crate::demand::Coming;
use crate::ownership::{ListedPort, OurPort, PortCondition, condemned_name};

pub(super) const NODE: &str = "w1";
/// Pods of the node at a time; more tell nothing new.
const MOST_PODS: usize = 30;

/// How a call to Neutron ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// Refused, nothing happened.
    Refused,
    /// Done, and nobody heard of it.
    AnswerLost,
    /// Not done yet, nobody hears of it, and it will be done later.
    Late,
    /// Neutron ended in the middle, and nobody heard of it: ports are written down, and the network was not told of them.
    HalfDone,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Millis,
    pub(super) limits: Limits,
    pub(super) neutron: BTreeMap<PortId, ListedPort>,
    pub(super) segments: Segments,
    pub(super) pairs: Pairs,
    /// The node is a host of the cloud.
    is_host: bool,
    /// The Node's label.
    pub(super) label: Option<Mode>,
    /// With the revision of the server's port that the caller knew.
    late: Vec<(CloudStep, Option<usize>)>,
    created: u32,
    /// Ports that Neutron has and no switch will know: it ended after it had written them down. On a trunk they look good.
    half_made: BTreeSet<PortId>,
    /// Addresses of ports that somebody else deleted. A real Neutron hands them out again while a pod may have
    /// them; that is nobody's fault here.
    lost: BTreeSet<IpAddr>,
    /// Group of ordinary pods.
    pub(super) group: &'static str,
    node: Option<String>,
    nodes_made: u32,
    pub(super) record: Option<(KuryrNodeSpec, Option<KuryrNodeStatus>)>,
    pub(super) pods: BTreeMap<PodIdentity, Pod>,
    pods_made: u32,
    /// Addresses that `EndpointSlice`s still name, and until when.
    slices: BTreeMap<IpAddr, Millis>,
    pub(super) agent: Agent,
    leader: Leader,
    // What happened.
    record_was_lost: bool,
    referred: BTreeMap<IpAddr, Millis>,
    offered: BTreeSet<(PortId, Generation)>,
    generations: BTreeSet<Generation>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Pod {
    address: Option<IpAddr>,
    ended: bool,
}

/// The agent of the node, as it keeps its promises.
#[derive(Debug, Clone, Default)]
pub(super) struct Agent {
    alive: bool,
    node_uid: String,
    checkpoint: u32,
    claims: BTreeMap<PortId, (PodIdentity, Generation)>,
    returned: BTreeMap<PortId, Generation>,
    stuck: BTreeMap<PortId, Generation>,
    seen: KuryrNodeSpec,
}

/// A controller that leads, with what it knows.
#[derive(Debug)]
struct Leader {
    generations: Generations,
    memory: Memory,
    orphans: Memory,
    index: Option<BTreeMap<PortId, ListedPort>>,
    segments: Option<Segments>,
    held_up: BTreeMap<TrunkId, HeldUp>,
    pairs: Option<Pairs>,
    pairs_held_up: BTreeMap<PortId, HeldUp>,
    fresh: BTreeSet<PortId>,
    status: Option<KuryrNodeStatus>,
}

impl Leader {
    fn of_epoch(epoch: Epoch, status: Option<KuryrNodeStatus>) -> Self {
        Self {
            generations: Generations::of_epoch(epoch),
            memory: Memory::default(),
            orphans: Memory::default(),
            index: None,
            segments: None,
            held_up: BTreeMap::new(),
            pairs: None,
            pairs_held_up: BTreeMap::new(),
            fresh: BTreeSet::new(),
            status,
        }
    }
}

impl World {
    pub(super) fn new(rule: Rule, is_host: bool) -> Self {
        let mut limits = fixtures::limits();
        limits.levels.rule = rule;
        let mut world = Self {
            now: 1000,
            limits,
            neutron: BTreeMap::new(),
            segments: Segments::new(),
            pairs: Pairs::new(),
            is_host,
            label: None,
            late: vec![],
            created: 0,
            half_made: BTreeSet::new(),
            lost: BTreeSet::new(),
            group: fixtures::GROUP,
            node: None,
            nodes_made: 0,
            record: None,
            pods: BTreeMap::new(),
            pods_made: 0,
            slices: BTreeMap::new(),
            agent: Agent::default(),
            leader: Leader::of_epoch(1, None),
            record_was_lost: false,
            referred: BTreeMap::new(),
            offered: BTreeSet::new(),
            generations: BTreeSet::new(),
        };
        // A stranger copied name and tags of ours.
        let name = crate::ownership::pool_port_name(NODE);
        let stranger = fixtures::listed("stranger", &name, Some("h"), [10, 0, 9, 9], fixtures::GROUP);
        world.neutron.insert("stranger".into(), ListedPort { project: "other".into(), ..stranger });
        world.make_node();
        world
    }

    // ---- time and nodes

    pub(super) fn pass(&mut self, time: Millis) {
        self.note_references();
        self.now += time;
        let now = self.now;
        self.slices.retain(|_, until| *until > now);
    }

    pub(super) fn make_node(&mut self) {
        if self.node.is_none() {
            self.nodes_made += 1;
            let uid = format!("node-{}", self.nodes_made);
            self.node = Some(uid.clone());
            // The machine may be the same, but for another Node it begins another durable record.
            self.agent.alive = true;
            self.agent.node_uid = uid;
            self.begin_checkpoint(|_| false);
        }
    }

    /// The Node is deleted, and the pod garbage collector deletes its pods. The machine may run on.
    pub(super) fn delete_node(&mut self) {
        self.node = None;
        self.agent.alive = false;
        for identity in self.pods.keys().cloned().collect::<Vec<_>>() {
            self.delete_pod(&identity);
        }
    }

    pub(super) fn has_node(&self) -> bool {
        self.node.is_some()
    }

    /// Somebody deletes the record by force, past admission, while no call is on its way. The agent is told.
    pub(super) fn lose_record(&mut self) {
        self.all_late_calls_arrive();
        self.record = None;
        self.record_was_lost = true;
        self.leader.status = None;
        self.agent_looks();
    }

    // ---- pods

    pub(super) fn make_pod(&mut self) {
        if self.node.is_some() && self.pods.len() < MOST_PODS {
            self.pods_made += 1;
            self.pods.insert(format!("pod-{}", self.pods_made).as_str().into(), Pod::default());
        }
    }

    pub(super) fn pod_number(&self, number: usize) -> Option<PodIdentity> {
        let index = number.checked_rem(self.pods.len())?;
        self.pods.keys().nth(index).cloned()
    }

    /// The pod's object goes; an `EndpointSlice` names its address a little longer.
    pub(super) fn delete_pod(&mut self, identity: &PodIdentity) {
        self.note_references();
        let gone = self.pods.remove(identity).filter(|pod| !pod.ended);
        self.slices.extend(gone.and_then(|pod| pod.address).map(|address| (address, self.now + 7)));
    }

    pub(super) fn end_pod(&mut self, identity: &PodIdentity) {
        self.note_references();
        if let Some(pod) = self.pods.get_mut(identity).filter(|pod| !pod.ended) {
            pod.ended = true;
            self.slices.extend(pod.address.map(|address| (address, self.now + 7)));
        }
    }

    fn held(&self) -> BTreeSet<IpAddr> {
        let pods = self.pods.values().filter(|pod| !pod.ended).filter_map(|pod| pod.address);
        pods.chain(self.slices.keys().copied()).collect()
    }

    fn note_references(&mut self) {
        for address in self.held() {
            self.referred.insert(address, self.now);
        }
    }

    fn assert_rested(&self, address: IpAddr, what: &str) {
        let referred = self.referred.get(&address).copied();
        let rested = referred.is_none_or(|last| self.now >= last + self.limits.cool_down);
        assert!(rested && !self.held().contains(&address), "{what} {address}, named at {referred:?}");
    }

    // ---- the agent

    /// The agent sees the record, and gives back what it is asked for.
    pub(super) fn agent_looks(&mut self) {
        if !self.agent.alive {
            return;
        }
        let spec = self.record.as_ref().map(|(spec, _)| spec.clone()).unwrap_or_default();
        let agent = &mut self.agent;
        agent.seen = spec.clone();
        agent
            .returned
            .retain(|id, generation| spec.ports.get(id).is_some_and(|entry| entry.generation == *generation));
        agent
            .stuck
            .retain(|id, generation| spec.ports.get(id).is_some_and(|entry| entry.generation == *generation));
        for (id, entry) in &spec.ports {
            if entry.withdrawn && !agent.claims.contains_key(id) {
                agent.returned.insert(id.clone(), entry.generation);
            }
        }
    }

    pub(super) fn agent_reports(&mut self) {
        let Some((_, status)) = self.record.as_mut().filter(|_| self.agent.alive) else { return };
        let agent = &self.agent;
        let mut report = fixtures::status(&agent.node_uid, &format!("checkpoint-{}", agent.checkpoint));
        report.returned = agent.returned.clone();
        report.host = report.host.filter(|_| self.is_host);
        report.uplink = Some(model_trunk::uplink());
        for (id, (identity, generation)) in &agent.claims {
            report.claims.insert(id.clone(), fixtures::claim(identity.as_str(), *generation));
        }
        for (id, generation) in &agent.stuck {
            let entry = StuckEntry { generation: *generation, reason: "never installed".into() };
            report.stuck.insert(id.clone(), entry);
        }
        *status = Some(report);
    }

    /// Every pod that waits takes a free port, if the agent knows one.
    pub(super) fn agent_claims(&mut self) {
        let served: BTreeSet<_> = self.agent.claims.values().map(|(identity, _)| identity.clone()).collect();
        let waits = |(identity, pod): &(&PodIdentity, &Pod)| !pod.ended && !served.contains(*identity);
        let waiting: Vec<_> = self.pods.iter().filter(waits).map(|(identity, _)| identity.clone()).collect();
        for identity in waiting {
            let Some((id, generation)) = self.agent.free().next() else { return };
            self.agent.claims.insert(id.clone(), (identity.clone(), generation));
            self.use_port(&id, generation, &identity);
        }
    }

    fn use_port(&mut self, id: &PortId, generation: Generation, identity: &PodIdentity) {
        self.note_references();
        let address = self.agent.seen.ports[id].addresses[0].address;
        self.assert_rested(address, "a pod gets an address that is not free:");
        let record = self.record.as_ref().map(|(spec, _)| spec);
        let entry = record.and_then(|spec| spec.ports.get(id));
        assert!(
            entry.is_some_and(|entry| entry.generation == generation && !entry.doomed),
            "a pod gets port {id} {generation} and the record says {entry:?}"
        );
        if let Some(pod) = self.pods.get_mut(identity) {
            pod.address = Some(address);
        }
    }

    /// The pod's sandbox is lost and made anew: by the same port, unless the record says that it is lost.
    pub(super) fn pod_restarts(&mut self, identity: &PodIdentity) {
        self.note_references();
        let agent = &mut self.agent;
        let held = agent.claims.iter().find(|(_, (holder, _))| holder == identity);
        let Some((id, generation)) = held.map(|(id, (_, generation))| (id.clone(), *generation)) else {
            return;
        };
        let is_lost =
            agent.seen.ports.get(&id).is_some_and(|entry| entry.lost && entry.generation == generation);
        if is_lost && agent.alive {
            agent.claims.remove(&id);
            agent.returned.insert(id, generation);
            if let Some(pod) = self.pods.get_mut(identity) {
                pod.address = None;
            }
        }
    }

    /// Ports of pods that are gone or ended are given back.
    pub(super) fn agent_releases(&mut self) {
        if !self.agent.alive {
            return;
        }
        let pods = &self.pods;
        let lives = |identity: &PodIdentity| pods.get(identity).is_some_and(|pod| !pod.ended);
        let (kept, released): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut self.agent.claims)
            .into_iter()
            .partition(|(_, (identity, _))| lives(identity));
        self.agent.claims = kept;
        self.agent.returned.extend(released.into_iter().map(|(id, (_, generation))| (id, generation)));
    }

    /// One of the free ports does not get ready.
    pub(super) fn agent_finds_stuck(&mut self, number: usize) {
        let free: Vec<_> = self.agent.free().collect();
        if let Some((id, generation)) = number.checked_rem(free.len()).map(|index| free[index].clone()) {
            self.agent.stuck.insert(id, generation);
        }
    }

    /// The durable record is lost. What namespaces prove stays claimed; with `reimaged` there are none.
    pub(super) fn agent_loses_checkpoint(&mut self, reimaged: bool) {
        if self.agent.alive {
            let pods: BTreeSet<_> = self.pods.keys().cloned().collect();
            self.begin_checkpoint(|identity| !reimaged && pods.contains(identity));
        }
    }

    fn begin_checkpoint(&mut self, proved: impl Fn(&PodIdentity) -> bool) {
        let spec = self.record.as_ref().map(|(spec, _)| spec.clone()).unwrap_or_default();
        let agent = &mut self.agent;
        agent.checkpoint += 1;
        agent.claims.retain(|_, (identity, _)| proved(identity));
        agent.stuck.clear();
        let returned = spec.ports.iter().filter(|(id, _)| !agent.claims.contains_key(*id));
        agent.returned = returned.map(|(id, entry)| (id.clone(), entry.generation)).collect();
        agent.seen = spec;
    }

    /// Who has which port, by which offer.
    pub(super) fn claims(&self) -> BTreeMap<PortId, (PodIdentity, Generation)> {
        self.agent.claims.clone()
    }

    // ---- leaders

    pub(super) fn leader_hears_status(&mut self) {
        self.leader.status = self.record.as_ref().and_then(|(_, status)| status.clone());
    }

    /// The former leader's plans end here; its calls may still be on their way.
    pub(super) fn change_leader(&mut self) {
        let epoch = self.leader.generations.epoch() + 1;
        let status = self.record.as_ref().and_then(|(_, status)| status.clone());
        self.leader = Leader::of_epoch(epoch, status);
    }

    pub(super) fn leader_lists(&mut self) {
        self.leader.index = Some(self.neutron.clone());
        self.leader.segments = Some(self.segments.clone());
        self.leader_reads_pairs();
    }

    /// What was learnt of the bound outlives a reading.
    fn leader_reads_pairs(&mut self) {
        let learnt = self.leader.pairs.as_ref().and_then(Pairs::learnt);
        let mut pairs = self.pairs.clone();
        pairs.remember(learnt);
        self.leader.pairs = Some(pairs);
    }

    /// One look, one plan, carried out. Returns the plan.
    pub(super) fn reconcile(&mut self, fault: Fault) -> Plan {
        self.note_references();
        let plan = self.make_plan();
        self.carry_out_record(&plan.record);
        let patched = self.patch(&plan.spec);
        assert!(patched, "the leader's patch is refused: {:?}", plan.spec);
        for step in &plan.cloud {
            self.call(step, fault);
        }
        plan
    }

    /// A patch of a leader that was deposed arrives after its successor wrote: it must not change anything.
    pub(super) fn former_leader_patches(&mut self) {
        let Some((spec, _)) = self.record.clone() else { return };
        if spec.epoch != self.leader.generations.epoch() {
            return;
        }
        let doom = spec.ports.iter().map(|(id, entry)| SpecStep::Mark {
            id: id.clone(),
            generation: entry.generation,
            flags: super::step::Flags { withdrawn: true, doomed: true, ..super::step::Flags::default() },
        });
        let former = SpecStep::SetEpoch { from: spec.epoch - 1, to: spec.epoch - 1 };
        let steps: Vec<_> = std::iter::once(former).chain(doom).collect();
        assert!(!self.patch(&steps), "the epoch fences");
        assert_eq!(self.record.as_ref().map(|(now, _)| now), Some(&spec));
    }

    fn make_plan(&mut self) -> Plan {
        let presence = match &self.node {
            Some(uid) => Presence::Present { uid: uid.clone() },
            None => Presence::Absent,
        };
        let pods: Vec<_> = self
            .pods
            .iter()
            .map(|(identity, pod)| PodFacts {
                ended: pod.ended,
                addresses: pod.address.into_iter().collect(),
                ..fixtures::pod(identity.as_str())
            })
            .collect();
        let addresses = self.held();
        let held = Held { addresses: &addresses, told_since: Some(0) };
        let leader = &mut self.leader;
        let ours = leader.index.as_ref().map(|index| ours(index.values()));
        if self.record.is_none() {
            let ports = ours.clone().unwrap_or_default();
            let none = BTreeMap::new();
            let trunks = leader.segments.as_ref().map(|segments| segments.seen(leader.held_up.clone()));
            let servers = leader.pairs.as_ref().map(|pairs| pairs.seen(leader.pairs_held_up.clone()));
            let (cloud, wake_at) = orphans::plan(
                self.now,
                &ports,
                &none,
                held,
                Carriers { trunks: trunks.as_ref(), servers: servers.as_ref(), held_up: None },
                &self.limits,
                &mut leader.orphans,
            );
            if presence == Presence::Absent {
                return Plan { cloud, wake_at, ..Plan::default() };
            }
        }
        let cloud = Cloud {
            ports: ours,
            fresh: leader.fresh.clone(),
            default: Some(fixtures::default_class(self.group)),
            active: BTreeMap::new(),
            blocked: None,
            making: None,
            held_up: BTreeMap::new(),
            trunks: leader.segments.as_ref().map(|segments| segments.seen(leader.held_up.clone())),
            servers: leader.pairs.as_ref().map(|pairs| pairs.seen(leader.pairs_held_up.clone())),
            problems: vec![],
        };
        let label = self.label.map(|mode| mode.as_str().to_owned());
        let facts = NodeFacts { label, ..NodeFacts::default() };
        let inputs = Inputs {
            now: self.now,
            node: NODE,
            in_sync: true,
            presence: &presence,
            facts: &facts,
            record: self.record.as_ref().map(|(spec, _)| Record { spec, status: leader.status.as_ref() }),
            pods: &pods,
            asked: true,
            coming: Coming::default(),
            held,
            cloud: &cloud,
            limits: &self.limits,
        };
        plan(&inputs, &mut leader.memory, &mut leader.generations)
    }

    fn carry_out_record(&mut self, step: &RecordStep) {
        match step {
            RecordStep::Keep => {}
            RecordStep::Create(spec) => {
                self.record = Some(((**spec).clone(), None));
                self.leader.status = None;
            }
            RecordStep::Delete => {
                let (spec, _) = self.record.take().unwrap();
                assert!(spec.ports.is_empty() && spec.own_port.is_none(), "admission refuses this deletion");
                self.leader.memory = Memory::default();
            }
        }
    }

    /// The API server: all steps of a patch or none.
    fn patch(&mut self, steps: &[SpecStep]) -> bool {
        let Some((before, _)) = self.record.clone() else { return steps.is_empty() };
        let mut after = before.clone();
        let done = steps.iter().all(|step| step.apply(&mut after).is_ok());
        if !done || after.epoch < before.epoch {
            return false;
        }
        self.check_offers(&before, &after);
        if let Some((spec, _)) = self.record.as_mut() {
            *spec = after;
        }
        true
    }

    fn check_offers(&mut self, before: &KuryrNodeSpec, after: &KuryrNodeSpec) {
        assert!(after.ports.len() <= self.limits.levels.cap, "bounded: {}", after.ports.len());
        for (id, entry) in &after.ports {
            if before.ports.get(id).is_some_and(|former| former.generation == entry.generation) {
                continue;
            }
            if self.record_was_lost && !before.ports.contains_key(id) && entry.withdrawn {
                // What the agent claimed is named again as it was, for nobody else.
                continue;
            }
            assert!(self.offered.insert((id.clone(), entry.generation)), "{id} is offered twice as the same");
            assert!(self.generations.insert(entry.generation), "{} is used twice", entry.generation);
            assert!(!self.agent.claims.contains_key(id), "{id} is offered again while a pod has it");
            assert!(before.ports.get(id).is_none_or(|former| !former.doomed), "{id} is un-doomed");
            assert_eq!(
                entry.vlan.is_some(),
                after.mode == Mode::NestedVlan,
                "{id} has a VLAN id on a trunk only"
            );
            // Of others the agent tells that they do not come up.
            let shows_it = entry.vlan.is_none();
            assert!(shows_it || !self.half_made.contains(id), "{id} is offered, and no switch knows it");
            if after.mode == Mode::NestedMacvlan {
                assert_eq!(after.server_port, Some(server()), "{id} is offered and nobody knows where it is");
            }
            for address in &entry.addresses {
                self.assert_rested(address.address, "an address is offered that is not free:");
            }
        }
    }

    // ---- Neutron

    fn call(&mut self, step: &CloudStep, fault: Fault) {
        match fault {
            Fault::Refused => return,
            Fault::Late => {
                let revision = self.leader.pairs.as_ref().map(|pairs| pairs.revision);
                self.late.push((step.clone(), revision));
                self.leader.forgets();
                return;
            }
            Fault::HalfDone => {
                let before: BTreeSet<PortId> = self.neutron.keys().cloned().collect();
                if let CloudStep::CreatePorts { .. } = step {
                    self.carry_out(step, None);
                }
                let made = self.neutron.keys().filter(|id| !before.contains(*id)).cloned();
                self.half_made.extend(made);
                self.leader.forgets();
                return;
            }
            Fault::None | Fault::AnswerLost => {
                let known = self.leader.pairs.as_ref().map(|pairs| pairs.revision);
                let done = self.carry_out(step, known);
                if !done && fault == Fault::None {
                    // Neutron refuses: somebody else was faster.
                    if let CloudStep::AddSubports { trunk, .. } | CloudStep::RemoveSubports { trunk, .. } =
                        step
                    {
                        let held_up = HeldUp { until: self.now + 3, problem: None };
                        self.leader.held_up.insert(trunk.clone(), held_up);
                        self.leader.segments = None;
                    } else if let CloudStep::AddPairs { server, .. } | CloudStep::RemovePairs { server, .. } =
                        step
                    {
                        let held_up = HeldUp { until: self.now + 3, problem: None };
                        self.leader.pairs_held_up.insert(server.clone(), held_up);
                        let known = self.leader.pairs.as_ref().and_then(Pairs::learnt);
                        let mut pairs = self.pairs.clone();
                        pairs.learn(self.now, known);
                        self.leader.pairs = Some(pairs);
                    } else {
                        self.leader.segments = None;
                    }
                    return;
                }
            }
        }
        if fault == Fault::AnswerLost {
            self.leader.forgets();
            return;
        }
        if matches!(step, CloudStep::AddPairs { .. } | CloudStep::RemovePairs { .. }) {
            self.leader_reads_pairs();
        }
        if matches!(step, CloudStep::AddSubports { .. } | CloudStep::LookAtTrunk { .. }) {
            self.leader.segments = Some(self.segments.clone());
        } else if let (CloudStep::RemoveSubports { .. }, Some(_)) = (step, &self.leader.segments) {
            self.leader.segments = Some(self.segments.clone());
        }
        if let Some(index) = self.leader.index.as_mut() {
            // The index is kept by what the answers say.
            if matches!(step, CloudStep::CreatePorts { .. }) {
                let made = self.neutron.keys().filter(|id| !index.contains_key(*id));
                self.leader.fresh.extend(made.cloned());
            }
            *index = self.neutron.clone();
        }
    }

    /// A call that was on its way arrives, perhaps a second time.
    pub(super) fn late_call_arrives(&mut self, again: bool) {
        let Some((step, known)) = self.late.pop() else { return };
        self.carry_out(&step, known);
        if again && !matches!(step, CloudStep::CreatePorts { .. }) {
            self.carry_out(&step, known);
        }
    }

    fn all_late_calls_arrive(&mut self) {
        while !self.late.is_empty() {
            self.late_call_arrives(false);
        }
    }

    pub(super) fn late_calls(&self) -> usize {
        self.late.len()
    }

    /// Tells whether Neutron did it; `known` is the revision of the server's port that the caller knew.
    fn carry_out(&mut self, step: &CloudStep, known: Option<usize>) -> bool {
        match step {
            CloudStep::CreatePorts { request, count, .. } => (0..*count).for_each(|_| self.create(request)),
            CloudStep::AddSubports { trunk, subports } => {
                return self.segments.add(trunk, subports, &mut self.neutron);
            }
            CloudStep::RemoveSubports { trunk, ports } => {
                ports.iter().for_each(|id| self.check_announced(id, "taken off its trunk"));
                return self.segments.remove(trunk, ports, &mut self.neutron);
            }
            CloudStep::AddPairs { ports, .. } => {
                let pairs: Vec<_> = ports.iter().flat_map(|(_, pairs)| pairs.clone()).collect();
                return self.pairs.change(known.unwrap_or_default(), &pairs, &[]);
            }
            CloudStep::RemovePairs { ports, .. } => {
                ports.iter().for_each(|(id, _)| self.check_announced(id, "taken off the server's port"));
                let pairs: Vec<_> = ports.iter().flat_map(|(_, pairs)| pairs.clone()).collect();
                return self.pairs.change(known.unwrap_or_default(), &[], &pairs);
            }
            CloudStep::LookAtTrunk { .. } => {}
            CloudStep::SetGroups { id, security_groups } => self.change(id, |port| {
                port.security_groups.clone_from(security_groups);
            }),
            CloudStep::Cut { id } => self.change(id, |port| port.host = None),
            // Only if the port is as it was read, so nothing undoes what was condemned since.
            CloudStep::Name { id, name, tag } => self.change(id, |port| {
                if !port.name.starts_with("kuryr-condemned/") {
                    port.name.clone_from(name);
                    port.tags.push(tag.clone());
                }
            }),
            CloudStep::Condemn { id } => self.change(id, |port| {
                if !port.name.starts_with("kuryr-condemned/") {
                    port.name = condemned_name(&port.name);
                }
            }),
            CloudStep::Delete { id } => return self.delete(id),
        }
        true
    }

    fn create(&mut self, request: &PortRequest) {
        self.created += 1;
        let of_ports = self.neutron.values().flat_map(|port| port.addresses.iter().map(|(_, ip)| *ip));
        let taken: BTreeSet<IpAddr> = of_ports.chain(self.lost.iter().copied()).collect();
        let free = (1..=250u8).map(|last| [10, 0, 0, last]).find(|ip| !taken.contains(&IpAddr::from(*ip)));
        // Neutron says that there is no free address.
        let Some(address) = free else { return };
        let id = format!("port-{:04}", self.created);
        let listed = fixtures::listed(&id, &request.name, request.host.as_deref(), address, self.group);
        let tags = listed.tags.iter().chain(&request.tags).cloned().collect();
        let port = ListedPort { device_owner: request.device_owner.to_owned(), tags, ..listed };
        assert_eq!(
            port.host.is_none(),
            [SUBPORT_DEVICE_OWNER, PAIR_DEVICE_OWNER].contains(&port.device_owner.as_str()),
            "ports of servers are made unbound"
        );
        self.neutron.insert(id.as_str().into(), port);
    }

    fn change(&mut self, id: &PortId, change: impl FnOnce(&mut ListedPort)) {
        if let Some(port) = self.neutron.get_mut(id) {
            assert_eq!(port.project.as_str(), "k8s", "a stranger's port is touched");
            change(port);
        }
    }

    fn delete(&mut self, id: &PortId) -> bool {
        self.note_references();
        self.check_announced(id, "deleted");
        if self.neutron.get(id).is_some_and(|port| port.device_owner == TRUNK_SUBPORT_OWNER) {
            return false;
        }
        let pairs = self.neutron.get(id).map(pairs_of_listed).unwrap_or_default();
        let has_pairs = self.neutron.get(id).is_some_and(|port| port.device_owner == PAIR_DEVICE_OWNER);
        assert!(
            !has_pairs || !self.late.is_empty() || !self.pairs.has_any(&pairs),
            "{id} is deleted and has pairs"
        );
        let Some(port) = self.neutron.remove(id) else { return true };
        let used = self.agent.claims.contains_key(id);
        assert!(!used || port.host.is_none(), "{id} is freed before it was cut off");
        for (_, address) in &port.addresses {
            self.assert_rested(*address, "an address is freed that is not free:");
        }
        true
    }

    fn check_announced(&self, id: &PortId, what: &str) {
        let Some(port) = self.neutron.get(id) else { return };
        assert_eq!(port.project.as_str(), "k8s", "a stranger's port is {what}");
        let entry = self.record.as_ref().and_then(|(spec, _)| spec.ports.get(id));
        let announced = entry.is_some_and(|entry| entry.doomed) || port.name.starts_with("kuryr-condemned/");
        assert!(announced, "{id} is {what}, and nobody could know");
        let used = self.agent.claims.contains_key(id);
        assert!(!used || !self.agent.alive, "{id} is {what} while a pod has it");
    }

    /// A port of ours by number, if there are any.
    pub(super) fn our_port(&self, number: usize) -> Option<PortId> {
        let ours: Vec<_> = self.neutron.values().filter(|port| port.project.as_str() == "k8s").collect();
        number.checked_rem(ours.len()).map(|index| ours[index].id.clone())
    }

    /// A label makes a host of the cloud a server of it, and back. A server is never a host.
    pub(super) fn change_label(&mut self, label: Option<Mode>) {
        self.label = label.filter(|mode| self.is_host || *mode != Mode::Ovs);
    }

    /// Somebody does something to the trunk.
    pub(super) fn meddle_with_trunk(
        &mut self,
        change: impl FnOnce(&mut Segments, &mut BTreeMap<PortId, ListedPort>),
    ) {
        change(&mut self.segments, &mut self.neutron);
    }

    /// Somebody deletes a port of ours in Neutron, or breaks the binding of one that is free.
    pub(super) fn meddle(&mut self, number: usize, breaks: bool) {
        let claims = &self.agent.claims;
        let is_meant =
            |port: &&ListedPort| port.project.as_str() == "k8s" && !(breaks && claims.contains_key(&port.id));
        let candidates: Vec<PortId> =
            self.neutron.values().filter(is_meant).map(|port| port.id.clone()).collect();
        let Some(index) = number.checked_rem(candidates.len()) else { return };
        let id = &candidates[index];
        if breaks {
            self.change(id, |port| port.condition = PortCondition::Broken);
        } else if let Some(port) = self.neutron.remove(id) {
            self.segments.forget(id);
            self.lost.extend(port.addresses.iter().map(|(_, ip)| *ip));
        }
    }

    // ---- quiet

    /// Everything arrives and nothing goes wrong, until nothing is left to do. Panics if that does not happen.
    pub(super) fn settle(&mut self) {
        self.all_late_calls_arrive();
        // A port that is alone on its trunk is not replaced: nothing shows that another would do.
        let troubled = usize::from(self.bounds().1 > 0);
        self.segments.heal(troubled, &mut self.neutron);
        self.pairs.heal();
        for round in 0..900 {
            self.leader_lists();
            self.agent_looks();
            self.pods.keys().cloned().collect::<Vec<_>>().iter().for_each(|pod| self.pod_restarts(pod));
            self.agent_releases();
            self.agent_claims();
            self.agent_reports();
            self.leader_hears_status();
            let plan = self.reconcile(Fault::None);
            // A pod that lost its port keeps the address from being freed, and waits for a port of the other mode.
            let is_stuck = self.changes_mode() && round > 400;
            if plan.is_empty() && (plan.wake_at.is_none() || is_stuck) && round > 3 {
                return self.check_settled();
            }
            let wait = plan.wake_at.map_or(0, |at| at.saturating_sub(self.now));
            self.pass(if plan.is_empty() { wait.max(1) } else { 1 });
        }
        panic!("does not come to rest: {:?}", self.make_plan());
    }

    /// Everything arrives at once and no time passes to speak of, until every pod has a port. Panics if that does not
    /// happen: then somebody waits for a timer.
    pub(super) fn serve_at_once(&mut self, pods: usize) {
        let begin = self.now;
        for _ in 0..200 {
            self.leader_lists();
            self.agent_looks();
            self.agent_claims();
            self.agent_reports();
            self.leader_hears_status();
            if self.agent.claims.len() == pods {
                return;
            }
            self.reconcile(Fault::None);
            self.pass(1);
        }
        panic!(
            "{} of {pods} pods have a port after {} ms: {:?}",
            self.agent.claims.len(),
            self.now - begin,
            self.make_plan()
        );
    }

    /// The controller is started with another rule about pools.
    pub(super) fn change_rule(&mut self, rule: Rule) {
        self.limits.levels.rule = rule;
        self.change_leader();
    }

    /// Fewest and most free ports of a node at rest.
    pub(super) fn bounds(&self) -> (usize, usize) {
        let levels = self.limits.levels;
        let all = Expected { coming: Coming { pods: 0, wave: 0 }, peak: 1000, stream: None, is_calm: true };
        match levels.rule {
            Rule::Learned { least, .. } => (least, levels.most(all)),
            Rule::Upstream { min, .. } => (min, levels.most(all)),
        }
    }

    /// The record is of another mode than the one wanted.
    fn changes_mode(&self) -> bool {
        let mode = self.record.as_ref().map(|(spec, _)| spec.mode);
        self.label.is_some_and(|wanted| mode.is_some_and(|mode| mode != wanted))
    }

    fn check_settled(&self) {
        let ours: Vec<_> = self.neutron.values().filter(|port| port.project.as_str() == "k8s").collect();
        assert!(self.neutron.contains_key("stranger"), "the stranger's port is gone");
        if self.node.is_none() {
            assert!(self.record.is_none() && ours.is_empty(), "a node that is gone leaves nothing: {ours:?}");
            return;
        }
        let (spec, _) = self.record.as_ref().unwrap();
        if self.changes_mode() {
            // Running pods keep what they have; everybody else waits for them to go.
            let lives = |identity: &PodIdentity| self.pods.get(identity).is_some_and(|pod| !pod.ended);
            let held = self.held();
            let is_kept = |(id, entry): (&PortId, &PortEntry)| {
                self.agent.claims.get(id).is_some_and(|(identity, _)| lives(identity))
                    || (entry.doomed && held.contains(&entry.addresses[0].address))
            };
            assert!(!spec.ports.is_empty() && spec.ports.iter().all(is_kept), "nothing else keeps the mode");
            return;
        }
        assert_eq!(
            spec.own_port.is_some(),
            spec.mode == Mode::Ovs,
            "the node has its own port on its bridge"
        );
        if spec.mode == Mode::NestedVlan {
            self.segments.check_settled(spec, &self.neutron);
        }
        if spec.mode == Mode::NestedMacvlan {
            self.pairs.check_settled(spec, &self.neutron);
        }
        let own_port = spec.own_port.as_ref().map(|port| &port.id);
        let named = |id: &PortId| spec.ports.contains_key(id) || own_port == Some(id);
        // The record was lost, and somebody took the port of a pod off the trunk: nobody knows its VLAN id any more.
        let attached = self.segments.attached();
        let is_lost = |id: &PortId| {
            spec.mode == Mode::NestedVlan && self.agent.claims.contains_key(id) && !attached.contains_key(id)
        };
        let known = |id: &PortId| named(id) || is_lost(id);
        assert!(ours.iter().all(|port| known(&port.id)), "every port is named by the record: {ours:?}");
        let there = |id: &PortId| self.neutron.contains_key(id);
        assert!(spec.ports.keys().all(there), "every entry has its port");
        let lives = |identity: &PodIdentity| self.pods.get(identity).is_some_and(|pod| !pod.ended);
        let served: BTreeSet<_> = self.agent.claims.values().map(|(identity, _)| identity.clone()).collect();
        let waiting = self.pods.keys().filter(|identity| lives(identity) && !served.contains(*identity));
        assert_eq!(waiting.count(), 0, "every pod has a port");
        let is_free =
            |(id, entry): &(&PortId, &PortEntry)| !entry.withdrawn && !self.agent.claims.contains_key(*id);
        let free = spec.ports.iter().filter(is_free).count();
        let (least, most) = self.bounds();
        assert!((least..=most).contains(&free), "{free} ports are free");
        assert!(spec.ports.values().all(|entry| !entry.doomed), "nothing is left doomed");
    }
}

impl Leader {
    /// The outcome of a call is unknown.
    fn forgets(&mut self) {
        (self.index, self.segments, self.pairs) = (None, None, None);
    }
}

impl Agent {
    /// Ports that a pod could take now.
    fn free(&self) -> impl Iterator<Item = (PortId, Generation)> {
        let seen = &self.seen;
        let served = self.alive
            && seen.node_uid == self.node_uid
            && seen.checkpoint.as_deref() == Some(&*format!("checkpoint-{}", self.checkpoint));
        let free = seen.ports.iter().filter(move |(id, entry)| {
            served
                && !entry.withdrawn
                && !entry.doomed
                && self.returned.get(*id) != Some(&entry.generation)
                && !self.claims.contains_key(*id)
                && !self.stuck.contains_key(*id)
        });
        free.map(|(id, entry)| (id.clone(), entry.generation))
    }
}

fn ours<'a>(ports: impl Iterator<Item = &'a ListedPort>) -> Vec<OurPort> {
    ports.filter_map(|port| fixtures::owner().admit(port.clone())).collect()
}
