//! Ports of a node that is a server of the cloud, by the server's own port: their addresses are its allowed address pairs.
//!
//! 1. A port is made unbound, its pairs are added to the server's port in a batch with others', and it is offered when
//!    they are there. Nothing becomes ACTIVE: nobody plugs it. On the way there it counts as free.
//! 2. Pairs are taken off when their port is doomed and returned, or condemned; then it rests, then it is deleted. Of
//!    a port that somebody deleted, they are taken off by what the record says of it.
//! 3. If somebody takes off a pair of a published port, it is added again.
//! 4. If Neutron lets the server's port have no more pairs, no more ports are made than fit, and that is told with the
//!    figures. What was made beyond it is condemned.
//! 5. Whatever another user of the server's port does meanwhile makes Neutron refuse the change as a whole. It is planned
//!    anew from what is there then, after a wait that is one for the port.

use std::collections::BTreeMap;

use kuryr_api::kuryrnode::{Mode, PortEntry};
use kuryr_types::PortId;

use super::{
    desired::Draft,
    inputs::DefaultClass,
    nested::Readiness,
    server::{self, Pair, ServerPort, pairs_of, pairs_of_entry},
    step::CloudStep,
    way::Way,
};
use crate::ownership::{OurPort, Purpose};

/// Ports of one request. The list of pairs is written as a whole anyway.
const AT_ONCE: usize = 50;

/// What is to be done about pairs, collected while ports are judged.
#[derive(Debug, Default)]
pub(super) struct PairWork {
    /// To add to the node's port.
    add: BTreeMap<PortId, Vec<Pair>>,
    /// To take off, by the server's port.
    remove: BTreeMap<PortId, BTreeMap<PortId, Vec<Pair>>>,
}

impl PairWork {
    /// Tells whether pairs still have to be taken off.
    pub(super) fn removes(&self) -> bool {
        !self.remove.is_empty()
    }
}

impl Draft<'_> {
    /// Tells what is wrong with the node's port.
    pub(super) fn tell_server(&mut self) {
        let (Way::Server(_), Some((id, port))) = (self.way, self.server()) else { return };
        let network = self.inputs.cloud.default.as_ref().map(|class| &class.network);
        self.tell(port.problem(id, network));
        let held_up = self.inputs.cloud.servers.as_ref().and_then(|servers| servers.held_up.get(id));
        self.tell(held_up.and_then(|held_up| held_up.problem.clone()));
    }

    /// Brings a port of this node a step closer to being offered.
    pub(super) fn make_paired(&mut self, port: &OurPort) -> Readiness {
        let Some((_, server)) = self.server() else { return Readiness::Soon };
        let pairs = pairs_of(port);
        let missing = missing(&pairs, server);
        match self.pair_room(server, pairs.len()) {
            _ if port.network != server.network => Readiness::Bad,
            _ if missing.is_empty() => Readiness::Ready,
            Some(room) if room < missing.len() => Readiness::Bad,
            _ => {
                self.pair_work.add.insert(port.id.clone(), missing);
                Readiness::Soon
            }
        }
    }

    /// Adds pairs of a published port again that somebody took off.
    pub(super) fn repair_pairs(&mut self, port: &OurPort) {
        let (Way::Server(_), Some((_, server))) = (self.way, self.server()) else { return };
        let missing = missing(&pairs_of(port), server);
        if port.is_for_pairs() && !missing.is_empty() {
            self.pair_work.add.insert(port.id.clone(), missing);
        }
    }

    /// Takes the pairs of a port of ours off whatever server's port has them; tells whether they are off.
    pub(super) fn unpair(&mut self, port: &OurPort) -> bool {
        self.take_off(&port.id, &pairs_of(port))
    }

    /// The same for a port that does not exist any more.
    pub(super) fn unpair_entry(&mut self, id: &PortId, entry: &PortEntry) -> bool {
        self.record.spec.mode != Mode::NestedMacvlan || self.take_off(id, &pairs_of_entry(entry))
    }

    fn take_off(&mut self, id: &PortId, pairs: &[Pair]) -> bool {
        let Some(servers) = &self.inputs.cloud.servers else { return false };
        let mut is_off = true;
        for (server, found) in servers.with_any(pairs) {
            self.pair_work.remove.entry(server.clone()).or_default().insert(id.clone(), found);
            is_off = false;
        }
        is_off
    }

    /// For how many more ports of `class` the node's port has room; `making` are under way already.
    pub(super) fn server_room(&mut self, making: usize, class: &DefaultClass) -> usize {
        let Some((id, port)) = self.server() else { return 0 };
        if port.network != class.network {
            return 0;
        }
        let each = class.entry.subnets.len().max(1);
        let Some(room) = self.pair_room(port, each) else { return usize::MAX };
        let room = (room / each).saturating_sub(making);
        if room == 0 {
            let of_ours = |port: &&OurPort| port.purpose() == Purpose::Pool && port.is_for_pairs();
            let ours: Vec<Pair> = self.ports.values().copied().filter(of_ours).flat_map(pairs_of).collect();
            let ours = ours.iter().filter(|pair| port.pairs.contains(pair)).count();
            let limit = port.limit.map_or(0, |limit| limit.pairs);
            // Somebody may raise it, and nobody tells of that.
            self.wake(port.limit.map(|limit| limit.holds_until).filter(|until| self.inputs.now < *until));
            self.tell(Some(server::exhausted(id, port, limit, ours)));
        }
        room
    }

    /// How many more pairs fit beside those that are to be added; `None` if no bound is known.
    fn pair_room(&self, port: &ServerPort, each: usize) -> Option<usize> {
        let promised: usize = self.pair_work.add.values().map(Vec::len).sum();
        Some(port.room(each, self.inputs.now)?.saturating_sub(promised))
    }

    /// The steps for what was collected: pairs are added before others are taken off, and those are not taken off
    /// while `urgent` work waits.
    pub(super) fn change_pairs(&mut self, urgent: bool) {
        if let Some(step) = self.add_pairs() {
            // Before whatever else takes its time.
            self.out.cloud.insert(0, step);
        }
        if !urgent && self.out.cloud.iter().all(|step| !step.provides()) {
            for (server, ports) in std::mem::take(&mut self.pair_work.remove) {
                if self.is_at_rest(&server) {
                    let ports = ports.into_iter().take(AT_ONCE).collect();
                    self.out.cloud.push(CloudStep::RemovePairs { server, ports });
                }
            }
        }
    }

    fn add_pairs(&mut self) -> Option<CloudStep> {
        let (id, server) = self.server()?;
        if self.pair_work.add.is_empty() || !self.is_at_rest(id) {
            return None;
        }
        // Ports that pods have are first.
        let named = |id: &PortId| !self.record.spec.ports.contains_key(id);
        let mut ports: Vec<_> = std::mem::take(&mut self.pair_work.add).into_iter().collect();
        ports.sort_by_key(|(id, _)| (named(id), id.clone()));
        ports.truncate(AT_ONCE);
        // What is there may be more than what fits, if somebody took pairs of ours off to put others there.
        let each = ports.iter().map(|(_, pairs)| pairs.len()).max().unwrap_or_default();
        let mut room = server.room(each, self.inputs.now).unwrap_or(usize::MAX);
        ports.retain(|(_, pairs)| {
            let fits = pairs.len() <= room;
            room -= if fits { pairs.len() } else { 0 };
            fits
        });
        (!ports.is_empty()).then(|| CloudStep::AddPairs { server: id.clone(), ports })
    }

    /// Tells whether a server's port may be changed now, or looks again when it may.
    fn is_at_rest(&mut self, server: &PortId) -> bool {
        let held_up = self.inputs.cloud.servers.as_ref().and_then(|servers| servers.held_up.get(server));
        let until = held_up.map(|held_up| held_up.until).filter(|until| self.inputs.now < *until);
        self.wake(until);
        until.is_none()
    }
}

fn missing(pairs: &[Pair], server: &ServerPort) -> Vec<Pair> {
    pairs.iter().filter(|pair| !server.pairs.contains(pair)).copied().collect()
}
