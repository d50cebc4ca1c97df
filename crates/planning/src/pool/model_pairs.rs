//! The server's port of the model world, with Neutron's own rules: a change is made only by who has read what is there,
//! as a whole or not at all, and up to a bound.
//!
//! Source: neutron `extensions/allowedaddresspairs.py`, `services/revisions/revision_plugin.py`.

use std::collections::{BTreeMap, BTreeSet};

use kuryr_api::{kuryrnode::KuryrNodeSpec, names::PAIR_DEVICE_OWNER};
use kuryr_types::{MacAddr, PortId};

use super::{
    fixtures,
    inputs::Millis,
    server::{Limit, Pair, ServerPort, Servers, pairs_of_entry},
    trunk::HeldUp,
};
use crate::ownership::ListedPort;

/// How long a bound that was hit is believed.
const LIMIT_HOLDS: Millis = 40;

/// The port of the server that the node is.
#[derive(Debug, Clone)]
pub(super) struct Pairs {
    pub(super) revision: usize,
    pairs: BTreeSet<Pair>,
    foreign: BTreeSet<Pair>,
    /// Most pairs.
    most: usize,
    /// What the leader has learnt of that.
    learnt: Option<Limit>,
}

pub(super) fn server() -> PortId {
    "server".into()
}

pub(super) fn pairs_of_listed(port: &ListedPort) -> Vec<Pair> {
    port.addresses.iter().map(|(_, address)| Pair { address: *address, mac: port.mac }).collect()
}

impl Pairs {
    pub(super) fn new() -> Self {
        let (pairs, foreign) = (BTreeSet::new(), BTreeSet::new());
        Self { revision: 1, pairs, foreign, most: usize::MAX, learnt: None }
    }

    pub(super) fn seen(&self, held_up: BTreeMap<PortId, HeldUp>) -> Servers {
        let port = ServerPort {
            network: fixtures::NETWORK.into(),
            enabled: true,
            active: true,
            pairs: self.pairs.clone(),
            prefixes: 0,
            limit: self.learnt,
        };
        Servers { node: Ok(server()), ports: [(server(), port)].into(), held_up }
    }

    /// Changes the pairs for somebody who knows them by `revision`; tells whether that was done.
    pub(super) fn change(&mut self, revision: usize, add: &[Pair], remove: &[Pair]) -> bool {
        let mut next = self.pairs.clone();
        next.retain(|pair| !remove.contains(pair));
        next.extend(add);
        if revision != self.revision || (next.len() > self.most && !add.is_empty()) {
            return false;
        }
        (self.pairs, self.revision) = (next, self.revision + 1);
        true
    }

    /// What the leader learns by a refusal.
    pub(super) fn learn(&mut self, now: Millis, known: Option<Limit>) {
        let limit = Limit { pairs: self.most, holds_until: now + LIMIT_HOLDS };
        self.learnt = if self.most < usize::MAX { Some(limit) } else { known };
    }

    pub(super) const fn learnt(&self) -> Option<Limit> {
        self.learnt
    }

    pub(super) fn remember(&mut self, learnt: Option<Limit>) {
        // More than the bound is proof that it was raised.
        self.learnt = learnt.filter(|limit| self.pairs.len() <= limit.pairs);
    }

    pub(super) fn has_any(&self, pairs: &[Pair]) -> bool {
        pairs.iter().any(|pair| self.pairs.contains(pair))
    }

    pub(super) fn has_all(&self, pairs: &[Pair]) -> bool {
        pairs.iter().all(|pair| self.pairs.contains(pair))
    }

    // ---- what others do

    pub(super) fn others_add(&mut self, last: u8) {
        let pair = Pair { address: [192, 0, 2, last].into(), mac: MacAddr([2, 0, 0, 9, 9, last]) };
        self.foreign.insert(pair);
        self.pairs.insert(pair);
        self.revision += 1;
    }

    pub(super) fn others_leave(&mut self) {
        let foreign = std::mem::take(&mut self.foreign);
        self.pairs.retain(|pair| !foreign.contains(pair));
        self.revision += 1;
    }

    pub(super) fn take_off(&mut self, port: &ListedPort) {
        let pairs = pairs_of_listed(port);
        self.pairs.retain(|pair| !pairs.contains(pair));
        self.revision += 1;
    }

    pub(super) fn bound(&mut self, most: usize) {
        self.most = most;
    }

    // ---- quiet

    pub(super) fn heal(&mut self) {
        self.most = usize::MAX;
    }

    pub(super) fn check_settled(&self, spec: &KuryrNodeSpec, ports: &BTreeMap<PortId, ListedPort>) {
        assert_eq!(spec.server_port, Some(server()), "the record names the port");
        assert!(
            self.foreign.iter().all(|pair| self.pairs.contains(pair)),
            "what others put there is left alone"
        );
        // The record was lost while a pod had a port of another mode: it keeps that.
        let is_for_pairs =
            |id: &PortId| ports.get(id).is_some_and(|port| port.device_owner == PAIR_DEVICE_OWNER);
        for (id, entry) in spec.ports.iter().filter(|(id, _)| is_for_pairs(id)) {
            assert!(self.has_all(&pairs_of_entry(entry)), "{id} has its pairs");
        }
        let ours =
            ports.iter().filter(|(id, port)| port.project.as_str() == "k8s" && !spec.ports.contains_key(*id));
        for (id, port) in ours {
            assert!(!self.has_any(&pairs_of_listed(port)), "{id} has no pairs any more");
        }
    }
}
