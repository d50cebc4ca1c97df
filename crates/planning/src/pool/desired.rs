//! A node's record as it should be, and the calls to Neutron that go with it.
//!
//! For a node whose agent is in step:
//!
//! 1. The record serves the incarnation that reported, in the mode that was decided (`mode`, `way`).
//! 2. Every published port is judged by its holder. A pod keeps its port, whatever is wrong with it, unless somebody
//!    deleted it (`lost`). The agent
//!    is asked to give back what is faulty. What is the controller's and faulty is doomed; what is not rests,
//!    and is then a candidate.
//! 3. Unpublished ports of the node are offered while there are not most: at once if we made them just now, after
//!    a rest if they were found. Others are condemned. A port that the agent claims without an entry (somebody
//!    deleted the record) is published as it is claimed, and withdrawn.
//! 4. Candidates are offered again, with a new generation, while there are not enough to keep; the rest is
//!    doomed.
//! 5. Surplus is withdrawn after a while without demand: ports that are not ready first.
//! 6. In mode `ovs` the node has one port of its own.
//! 7. Ports are made if there are too few: one request at a time.
//! 8. Otherwise ports that are doomed or condemned, and rested, are deleted: few a plan, and none in a burst, so
//!    that demand never waits behind them.
//! 9. A port that the cloud did not let us change or delete is left alone for a while, and told of; others do not wait.
//!
//! Faulty: not in Neutron, broken, bound to another host or not on the node's trunk, of another class than
//! ordinary pods get now, or stuck according to the agent. What is special about trunks is in `nested`, about address
//! pairs in `pairs`, about security groups in `open`, about ports of pods that somebody deleted in `lost`, about those that were
//! found in `half_made`.

use std::collections::{BTreeMap, BTreeSet};

use kuryr_api::{
    kuryrnode::{KuryrNodeSpec, KuryrNodeStatus, OwnPort, PlugId, PortAddress, PortEntry, Problem},
    names::{NODE_DEVICE_OWNER, PAIR_DEVICE_OWNER, POD_DEVICE_OWNER, SUBPORT_DEVICE_OWNER},
};
use kuryr_types::{Generation, PodIdentity, PortId};

use super::{
    Generations, class,
    from_kubernetes::{self, Footing, Holder, Report},
    gone,
    inputs::{DefaultClass, Inputs, Millis, Presence, Record},
    memory::{Memory, RestReason},
    nested::{Readiness, TrunkWork},
    pairs::PairWork,
    step::{CloudStep, PortRequest, RecordStep},
    targets::{Expected, Refill, Supply},
    trunk::HeldUp,
    way::{Place, Way},
};
use crate::{
    demand::Urgency,
    ownership::{self, OurPort, PortCondition, Purpose},
};

/// Deletions in one plan. Neutron takes about half a second for each; a node's demand is looked at between
/// plans.
const DELETES_AT_ONCE: usize = 4;

/// The record as it should be, and what to do in Neutron.
#[derive(Debug)]
pub struct Desired {
    /// Whether the record has to go.
    pub record: RecordStep,
    /// The record.
    pub spec: KuryrNodeSpec,
    /// Calls.
    pub cloud: Vec<CloudStep>,
    /// Plugs that Neutron is to be asked about.
    pub awaited: BTreeMap<PortId, PlugId>,
    /// Pods to tell why they wait, as their agent cannot.
    pub told: Vec<(PodIdentity, Problem)>,
    /// When to look again.
    pub wake_at: Option<Millis>,
    /// What the node had is being taken back.
    pub node_is_gone: bool,
    /// It would be, and the API server has to be asked first.
    pub asks: bool,
}

pub(super) fn desired(
    inputs: &Inputs<'_>,
    record: Record<'_>,
    memory: &mut Memory,
    generations: &mut Generations,
) -> Desired {
    let footing = from_kubernetes::footing(inputs, record, memory);
    let mut draft = Draft::new(inputs, record, memory, generations);
    match (footing, record.status) {
        (Footing::InStep(report), Some(status)) => {
            draft.serve(&report, status);
            draft.tell_pods(status);
        }
        (Footing::InStep(_), None) => {}
        (Footing::Waiting(until), _) => draft.wake(until),
        (Footing::Gone, _) if !inputs.asked => draft.out.asks = true,
        (Footing::Gone, _) => gone::take_back(&mut draft),
    }
    draft.finish()
}

/// A record while it is being thought over.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pub(super) inputs: &'a Inputs<'a>,
    pub(super) record: Record<'a>,
    pub(super) memory: &'a mut Memory,
    generations: &'a mut Generations,
    /// Our ports of this node; empty while they are not known.
    pub(super) ports: BTreeMap<&'a PortId, &'a OurPort>,
    pub(super) out: Desired,
    /// What carries ports to the node.
    pub(super) way: Way<'a>,
    /// What is to be done about trunks.
    pub(super) trunk_work: TrunkWork,
    /// What is to be done about address pairs.
    pub(super) pair_work: PairWork,
    /// Ports that could be deleted now.
    deletable: Vec<PortId>,
    /// Ports that should be called otherwise.
    renames: Vec<CloudStep>,
    /// What is expected of the node.
    expected: Expected,
    /// When it is calm, if it is not.
    calm_at: Millis,
}

impl<'a> Draft<'a> {
    fn new(
        inputs: &'a Inputs<'a>,
        record: Record<'a>,
        memory: &'a mut Memory,
        generations: &'a mut Generations,
    ) -> Self {
        let ports = inputs.cloud.ports.iter().flatten().map(|port| (&port.id, port)).collect();
        let out = Desired {
            record: RecordStep::Keep,
            spec: record.spec.clone(),
            cloud: Vec::new(),
            awaited: BTreeMap::new(),
            told: Vec::new(),
            wake_at: None,
            node_is_gone: false,
            asks: false,
        };
        let expected = Expected { is_calm: true, ..Expected::default() };
        Self {
            inputs,
            record,
            memory,
            generations,
            ports,
            out,
            way: Way::Closed,
            trunk_work: TrunkWork::default(),
            pair_work: PairWork::default(),
            deletable: Vec::new(),
            renames: Vec::new(),
            expected,
            calm_at: 0,
        }
    }

    fn serve(&mut self, report: &Report, status: &'a KuryrNodeStatus) {
        let spec = &mut self.out.spec;
        spec.node_uid.clone_from(&report.node_uid);
        spec.checkpoint = Some(report.checkpoint.clone());
        spec.problems =
            self.inputs.cloud.problems.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
        self.wire(status);
        // Without a list nothing can be judged, and without a class nothing offered.
        if !self.choose_way(status) || self.inputs.cloud.ports.is_none() {
            return;
        }
        self.tell_trunk();
        self.tell_server();
        self.memory.offered.extend(self.record.spec.ports.keys().cloned());
        let judged = self.judge_published(status);
        if let Some(class) = self.inputs.cloud.default.as_ref() {
            let mut supply = self.expect(class, status, judged.free.len());
            self.publish(status, &mut supply);
            self.offer_again(judged.candidates, &mut supply);
            self.shrink(judged.free, status, supply);
            self.own_port(class);
            self.create(class, supply);
        }
        self.delete_condemned(status);
        self.renames = self.names(status);
        self.describe();
    }

    /// Notes who is here and what that lets expect.
    fn expect(&mut self, class: &DefaultClass, status: &KuryrNodeStatus, free: usize) -> Supply {
        let Inputs { now, pods, coming, limits, facts, .. } = *self.inputs;
        let waiting = from_kubernetes::waiting(pods, status);
        // However many pods somebody has bound to the node: those beyond that never run.
        let count = waiting.len().min(facts.pods_most.unwrap_or(usize::MAX));
        let claimed = status.claims.values().map(|claim| claim.identity.clone());
        let present = claimed.chain(waiting.iter().map(|identity| Clone::clone(*identity))).collect();
        self.memory.arrivals.retain(|id, _| *id == class.id || self.record.spec.classes.contains_key(id));
        let arrivals = self.memory.arrivals.entry(class.id.clone()).or_default();
        arrivals.look(now, present, count, || limits.levels.peak_of(free));
        self.expected = Expected::new(arrivals, coming, now);
        if !self.expected.is_calm {
            self.calm_at = arrivals.calm_at();
        }
        let making = self.inputs.cloud.making.filter(|(purpose, _)| *purpose == Purpose::Pool);
        Supply { free, waiting: count, making: making.map_or(0, |(_, count)| count), resting: 0 }
    }

    fn judge_published(&mut self, status: &KuryrNodeStatus) -> Judged {
        let mut judged = Judged::default();
        for (id, entry) in &self.record.spec.ports {
            let stuck = status.stuck.get(id).is_some_and(|stuck| stuck.generation == entry.generation);
            if stuck {
                self.memory.spoiled.insert(id.clone());
            }
            let port = self.ports.get(id).copied();
            let faulty = stuck || !self.usable(port, Some(entry)) || self.memory.spoiled.contains(id);
            let is_guarded = entry.open && port.is_some_and(|port| self.is_open(port) == Some(false));
            let next = self.out.spec.ports.get_mut(id);
            if let (Some(next), Some(port)) = (next, port) {
                next.active |= port.condition == PortCondition::Active;
                next.guarded |= is_guarded;
            }
            let holder = from_kubernetes::holder(id, entry, status);
            if let (Holder::Pod | Holder::Agent, Some(port)) = (holder, port) {
                self.repair_pairs(port);
            }
            match holder {
                Holder::Pod => {
                    self.repair_subport(port, entry);
                    self.notice_loss(id, entry, port.is_none());
                }
                Holder::Agent if faulty => self.withdraw(id),
                Holder::Agent if !entry.withdrawn && entry.for_pod.is_none() => judged.free.push(id.clone()),
                Holder::Agent => {}
                Holder::Controller if entry.doomed => self.delete_or_forget(id, entry),
                Holder::Controller if faulty => self.doom(id),
                Holder::Controller => judged.candidates.push((id.clone(), entry.generation)),
            }
        }
        judged
    }

    /// Tells whether a port of ours could serve ordinary pods of this node; `entry` is what the record says of it.
    fn usable(&self, port: Option<&OurPort>, entry: Option<&PortEntry>) -> bool {
        let of_default = |port: &OurPort| {
            let default = self.inputs.cloud.default.as_ref();
            default.is_none_or(|default| class::class_of(port).0 == default.id)
        };
        port.is_some_and(|port| {
            port.purpose() == Purpose::Pool
                && port.condition != PortCondition::Broken
                && !port.addresses.is_empty()
                && self.reaches(port, entry)
                && of_default(port)
        })
    }

    fn publish(&mut self, status: &KuryrNodeStatus, supply: &mut Supply) {
        for port in self.unpublished(Purpose::Pool) {
            if let Some(claim) = status.claims.get(&port.id) {
                self.offer_claimed(port, claim.generation);
            } else if !self.usable(Some(port), None)
                || self.inputs.limits.levels.is_full(*supply, self.expected)
            {
                self.out.cloud.push(CloudStep::Condemn { id: port.id.clone() });
            } else if self.may_be_half_made(port) {
                self.condemn_half_made(port);
            } else {
                let is_free = self.is_free_of_others(port);
                match self.make_ready(port) {
                    Readiness::Bad => self.out.cloud.push(CloudStep::Condemn { id: port.id.clone() }),
                    _ if !is_free => supply.resting += 1,
                    Readiness::Ready => self.offer_free(port, supply),
                    Readiness::Soon => supply.free += 1,
                }
            }
        }
    }

    /// Names a port again that the agent claims, as it is claimed, and asks for it: the pod may be gone by now, and its
    /// release forgotten together with the entry.
    fn offer_claimed(&mut self, port: &OurPort, generation: Generation) {
        let has_vlan = matches!(self.place(port), Place::On(at) if !self.is_promised(at.vlan));
        if matches!(self.way, Way::Trunk(_)) && !has_vlan {
            // Nobody knows under which VLAN id the pod sends. The port is left alone until it is given back.
            return;
        }
        self.offer(port, generation);
        self.withdraw(&port.id);
    }

    fn offer_free(&mut self, port: &OurPort, supply: &mut Supply) {
        let generation = self.generations.next();
        self.offer(port, generation);
        supply.free += 1;
    }

    fn offer_again(&mut self, candidates: Vec<(PortId, Generation)>, supply: &mut Supply) {
        for (id, generation) in candidates {
            let Some(port) = self.ports.get(&id).copied() else { continue };
            if !self.has_rested(port, RestReason::Returned(generation)) {
                supply.resting += 1;
                continue;
            }
            if supply.spare() >= self.inputs.limits.levels.keep(self.expected) {
                self.doom(&id);
                continue;
            }
            match self.make_ready(port) {
                Readiness::Ready => self.offer_free(port, supply),
                Readiness::Soon => supply.free += 1,
                Readiness::Bad => self.doom(&id),
            }
        }
    }

    fn shrink(&mut self, mut free: Vec<PortId>, status: &KuryrNodeStatus, supply: Supply) {
        let surplus = self.inputs.limits.levels.surplus(supply, self.expected);
        if surplus == 0 || supply.waiting > 0 {
            self.memory.surplus_since = None;
            return;
        }
        let since = *self.memory.surplus_since.get_or_insert(self.inputs.now);
        let due = since + self.inputs.limits.shrink_delay;
        if self.inputs.now < due {
            self.wake(Some(due));
            return;
        }
        free.sort_by_key(|id| (status.ready.contains_key(id), id.clone()));
        for id in free.iter().take(surplus) {
            self.withdraw(id);
        }
    }

    fn own_port(&mut self, class: &DefaultClass) {
        let host = match self.way {
            Way::Host(host) => Some(host),
            // The node has its own address already, and pods are reached by routing or on the same network.
            Way::Trunk(_) | Way::Server(_) => None,
            Way::Closed => return,
        };
        let fits = |port: &OurPort| {
            let (_, entry) = class::class_of(port);
            port.purpose() == Purpose::Node
                && port.condition != PortCondition::Broken
                && host.is_some_and(|host| port.is_bound_to(host))
                && entry.subnets == class.entry.subnets
        };
        let named = self.record.spec.own_port.as_ref();
        let mut found = named.and_then(|own| self.ports.get(&own.id).copied()).filter(|port| fits(port));
        for port in self.unpublished(Purpose::Node) {
            let may_be_half_made = self.may_be_half_made(port);
            if named.is_none() && found.is_none() && fits(port) && !may_be_half_made {
                found = Some(port);
            } else if named.is_none() && may_be_half_made {
                self.condemn_half_made(port);
            } else {
                self.out.cloud.push(CloudStep::Condemn { id: port.id.clone() });
            }
        }
        self.out.spec.own_port = found.map(own_port_of);
        match found {
            Some(port) => self.own_port_groups(port, class),
            // What stood in the record is taken out of it first.
            None if named.is_some() => {}
            None if host.is_none() => {}
            None if self.inputs.cloud.making.is_some() => self.tell_blocked(),
            None => self.request(own_port_request(self.inputs.node, host, class), 1, Urgency::Urgent),
        }
    }

    fn own_port_groups(&mut self, port: &OurPort, class: &DefaultClass) {
        let wanted = &class.entry.security_groups;
        if class::class_of(port).1.security_groups != *wanted {
            let step = CloudStep::SetGroups { id: port.id.clone(), security_groups: wanted.clone() };
            self.out.cloud.push(step);
        }
    }

    fn create(&mut self, class: &DefaultClass, supply: Supply) {
        if matches!(self.way, Way::Closed) {
            return;
        }
        let levels = &self.inputs.limits.levels;
        // Also while a request is under way that may end as the last one did.
        if levels.refill(Supply { making: 0, ..supply }, self.expected) != Refill::Nothing {
            self.tell_blocked();
        }
        let (short, urgency) = match levels.refill(supply, self.expected) {
            Refill::Nothing => return,
            Refill::WhenCalm => return self.wake(Some(self.calm_at)),
            Refill::Now(short, urgency) => (short, urgency),
        };
        let room = levels.cap.saturating_sub(self.out.spec.ports.len() + supply.making);
        if room == 0 {
            self.out.spec.problems.push(too_many_ports(levels.cap));
        }
        let is_free = self.inputs.cloud.making.is_none() && self.out.cloud.iter().all(|step| !step.creates());
        let of_way = match self.way {
            Way::Server(_) => self.server_room(supply.making, class),
            _ => self.trunk_room(supply.making),
        };
        let count = short.min(room).min(of_way);
        if count > 0 && is_free {
            let mut request = pool_port_request(self.inputs.node, self.way, class);
            if self.inputs.limits.names_pods {
                request.tags.push(ownership::node_tag(self.inputs.node));
            }
            self.request(request, count, urgency);
        }
    }

    fn request(&mut self, request: PortRequest, count: usize, urgency: Urgency) {
        self.tell_blocked();
        match &self.inputs.cloud.blocked {
            Some(blocked) if self.inputs.now < blocked.until => self.wake(Some(blocked.until)),
            _ => self.out.cloud.push(CloudStep::CreatePorts { request, count, urgency }),
        }
    }

    /// Tells why ports that are wanted are not made.
    fn tell_blocked(&mut self) {
        let problems = &mut self.out.spec.problems;
        let blocked = self.inputs.cloud.blocked.as_ref().map(|blocked| &blocked.problem);
        if let Some(problem) = blocked.filter(|problem| !problems.contains(problem)) {
            problems.push(problem.clone());
        }
    }

    /// Deletes condemned ports that have rested.
    pub(super) fn delete_condemned(&mut self, status: &KuryrNodeStatus) {
        for port in self.unpublished(Purpose::Condemned) {
            if let Some(claim) = status.claims.get(&port.id) {
                // Condemned by a call that came late, after the port was offered, and somebody deleted the record.
                self.offer_claimed(port, claim.generation);
            } else if self.detach(port) && self.has_rested(port, RestReason::Condemned) {
                self.deletable.push(port.id.clone());
            }
        }
    }

    /// Of a doomed port that its agent gave back: takes it off its trunk, deletes it after its rest, then forgets it.
    fn delete_or_forget(&mut self, id: &PortId, entry: &PortEntry) {
        match self.ports.get(id).copied() {
            None => self.forget_lost(id, entry),
            Some(port) => {
                let is_off = self.detach(port);
                if is_off && self.has_rested(port, RestReason::Returned(entry.generation)) {
                    self.delete(id);
                }
            }
        }
    }

    /// Forgets a port that somebody deleted, once nothing is left of it elsewhere.
    pub(super) fn forget_lost(&mut self, id: &PortId, entry: &PortEntry) {
        if self.unpair_entry(id, entry) {
            self.forget(id);
        }
    }

    pub(super) fn delete(&mut self, id: &PortId) {
        self.deletable.push(id.clone());
    }

    pub(super) fn forget(&mut self, id: &PortId) {
        self.out.spec.ports.remove(id);
    }

    fn withdraw(&mut self, id: &PortId) {
        if let Some(entry) = self.out.spec.ports.get_mut(id) {
            entry.withdrawn = true;
        }
    }

    pub(super) fn doom(&mut self, id: &PortId) {
        if let Some(entry) = self.out.spec.ports.get_mut(id) {
            entry.withdrawn = true;
            entry.doomed = true;
        }
    }

    fn offer(&mut self, port: &OurPort, generation: Generation) {
        let (class, _) = class::class_of(port);
        let vlan = match (self.way, self.place(port)) {
            (Way::Trunk(_), Place::On(at)) => Some(at.vlan),
            _ => None,
        };
        let entry = PortEntry {
            generation,
            class,
            mac: port.mac,
            network: port.network.clone(),
            addresses: addresses(port),
            vlan,
            for_pod: None,
            withdrawn: false,
            doomed: false,
            // Nobody plugs a port that is only there for its addresses.
            active: port.condition == PortCondition::Active || matches!(self.way, Way::Server(_)),
            hybrid: port.hybrid,
            open: self.is_open(port) == Some(true),
            guarded: false,
            lost: false,
        };
        self.out.spec.ports.insert(port.id.clone(), entry);
    }

    /// Our ports of this node that the record, as it is, does not name.
    pub(super) fn unpublished(&self, purpose: Purpose) -> Vec<&'a OurPort> {
        let spec = self.record.spec;
        let named = |id: &PortId| {
            spec.ports.contains_key(id) || spec.own_port.as_ref().is_some_and(|own| own.id == *id)
        };
        let ports = self.ports.values().copied();
        ports
            .filter(|port| port.purpose() == purpose && port.is_of_node(self.inputs.node) && !named(&port.id))
            .collect()
    }

    /// Tells whether nothing has referred to the port's addresses for long enough.
    pub(super) fn has_rested(&mut self, port: &OurPort, reason: RestReason) -> bool {
        let Inputs { held, now, .. } = *self.inputs;
        let since = self.memory.resting_since(&port.id, reason, held.has(port), now);
        match held.free_since(since) {
            Some(since) => {
                let due = since + self.inputs.limits.cool_down;
                if now < due {
                    self.wake(Some(due));
                }
                now >= due
            }
            None => {
                self.wake_after_rest();
                false
            }
        }
    }

    /// Tells whether nobody can have had the address lately: nothing refers to it, and we made the port just now
    /// or it has rested.
    fn is_free_of_others(&mut self, port: &OurPort) -> bool {
        let is_fresh = self.inputs.cloud.fresh.contains(&port.id) && !self.memory.offered.contains(&port.id);
        if is_fresh && !self.inputs.held.has(port) { true } else { self.has_rested(port, RestReason::Found) }
    }

    /// Who refers to an address may stop without this node being told.
    fn wake_after_rest(&mut self) {
        self.wake(Some(self.inputs.now + self.inputs.limits.cool_down.max(1)));
    }

    pub(super) fn wake(&mut self, at: Option<Millis>) {
        self.out.wake_at = self.out.wake_at.into_iter().chain(at).min();
    }

    /// Describes what the entries name, and nothing else.
    fn describe(&mut self) {
        let default = self.inputs.cloud.default.as_ref();
        let before = self.record.spec;
        let spec = &mut self.out.spec;
        spec.default_class = default.map(|class| class.id.clone()).or_else(|| before.default_class.clone());

        let (mut networks, mut subnets, mut classes) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let entry_classes = spec.ports.values().map(|entry| &entry.class);
        for id in entry_classes.chain(&spec.default_class) {
            let known = default.filter(|class| class.id == *id).map(|class| class.entry.clone());
            let listed =
                || self.ports.values().map(|port| class::class_of(port)).find(|(class, _)| class == id);
            let entry = known
                .or_else(|| before.classes.get(id).cloned())
                .or_else(|| listed().map(|(_, entry)| entry));
            classes.extend(entry.map(|entry| (id.clone(), entry)));
        }
        let of_ports = spec.ports.values().map(|entry| (&entry.network, &entry.addresses));
        let of_own = spec.own_port.iter().map(|own| (&own.network, &own.addresses));
        for (network, addresses) in of_ports.chain(of_own) {
            let known = default.and_then(|class| class.networks.get(network));
            let entry = known.or_else(|| before.networks.get(network));
            networks.extend(entry.map(|entry| (network.clone(), entry.clone())));
            for PortAddress { subnet, .. } in addresses {
                let known = default.and_then(|class| class.subnets.get(subnet));
                let entry = known.or_else(|| before.subnets.get(subnet));
                subnets.extend(entry.map(|entry| (subnet.clone(), entry.clone())));
            }
        }
        (spec.networks, spec.subnets, spec.classes) = (networks, subnets, classes);
    }

    fn finish(mut self) -> Desired {
        // Where no ports are offered, pods wait until the last one is gone.
        let is_closed = matches!(self.way, Way::Closed);
        let is_burst = !is_closed && !self.expected.is_calm && self.expected.stream.is_none();
        self.change_trunks(is_burst);
        self.change_pairs(is_burst);
        if is_burst && !self.renames.is_empty() {
            self.wake(Some(self.calm_at));
        } else {
            self.out.cloud.append(&mut self.renames);
        }
        self.heed_hold_ups();
        let takes_off = self.trunk_work.detaches() || self.pair_work.removes();
        if is_burst && (!self.deletable.is_empty() || takes_off) {
            self.wake(Some(self.calm_at));
        } else if self.out.cloud.iter().all(|step| !step.provides()) {
            let few = self.deletable.drain(..).take(DELETES_AT_ONCE);
            self.out.cloud.extend(few.map(|id| CloudStep::Delete { id }));
        }
        self.forget_wired();
        if self.inputs.cloud.ports.is_some() {
            let (ports, spec) = (&self.ports, self.record.spec);
            self.memory.retain(|id| ports.contains_key(id) || spec.ports.contains_key(id));
        }
        self.out
    }

    /// Leaves alone for now what the cloud did not let us change, and tells of it.
    fn heed_hold_ups(&mut self) {
        let (now, held_up) = (self.inputs.now, &self.inputs.cloud.held_up);
        let wanted = self.deletable.iter().chain(self.out.cloud.iter().filter_map(CloudStep::port));
        let concerned: Vec<&HeldUp> = wanted.filter_map(|id| held_up.get(id)).collect();
        // One stands for all: where a permission is missing there are many.
        self.tell(concerned.first().and_then(|one| one.problem.clone()));
        for one in concerned {
            self.wake(Some(one.until).filter(|until| now < *until));
        }
        let is_free = |id: &PortId| held_up.get(id).is_none_or(|held_up| now >= held_up.until);
        self.deletable.retain(is_free);
        self.out.cloud.retain(|step| step.port().is_none_or(is_free));
    }

    pub(super) const fn presence(&self) -> &'a Presence {
        self.inputs.presence
    }
}

/// What came of judging the published ports.
#[derive(Debug, Default)]
struct Judged {
    /// The agent's, and free.
    free: Vec<PortId>,
    /// The controller's, and good.
    candidates: Vec<(PortId, Generation)>,
}

fn addresses(port: &OurPort) -> Vec<PortAddress> {
    let address =
        |(subnet, address): &(_, _)| PortAddress { subnet: Clone::clone(subnet), address: *address };
    port.addresses.iter().map(address).collect()
}

fn own_port_of(port: &OurPort) -> OwnPort {
    OwnPort {
        id: port.id.clone(),
        mac: port.mac,
        network: port.network.clone(),
        addresses: addresses(port),
        hybrid: port.hybrid,
    }
}

fn pool_port_request(node: &str, way: Way<'_>, class: &DefaultClass) -> PortRequest {
    let (device_owner, host) = match way {
        Way::Host(host) => (POD_DEVICE_OWNER, Some(host.to_owned())),
        Way::Server(_) => (PAIR_DEVICE_OWNER, None),
        Way::Trunk(_) | Way::Closed => (SUBPORT_DEVICE_OWNER, None),
    };
    PortRequest {
        name: ownership::pool_port_name(node),
        tags: Vec::new(),
        device_owner,
        host,
        network: class.network.clone(),
        subnets: class.entry.subnets.clone(),
        security_groups: class.entry.security_groups.clone(),
    }
}

fn own_port_request(node: &str, host: Option<&str>, class: &DefaultClass) -> PortRequest {
    PortRequest {
        name: ownership::own_port_name(node),
        device_owner: NODE_DEVICE_OWNER,
        host: host.map(str::to_owned),
        ..pool_port_request(node, Way::Closed, class)
    }
}

fn too_many_ports(cap: usize) -> Problem {
    Problem {
        reason: "TooManyPorts".into(),
        message: format!(
            "this node has {cap} ports, in use and resting, and no more are made: raise [vif_pool] \
             ports_per_node_max, or run fewer pods on the node"
        ),
    }
}
