//! What has to be remembered about a node between looks.
//!
//! All of it may be forgotten, by a restart or a new leader: then waits begin anew, and a port that was
//! noticed to be bad is noticed again. Nothing is decided differently, only later.

use std::collections::{BTreeMap, BTreeSet};

use kuryr_api::kuryrnode::CheckpointRef;
use kuryr_types::{ClassId, Generation, PodIdentity, PortId};

use super::{inputs::Millis, nested::TrunkMemory};
use crate::demand::Arrivals;

/// What is remembered about one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// Ports that nobody uses, since when.
    resting: BTreeMap<PortId, Rest>,
    /// Ports that must not be offered again.
    pub(super) spoiled: BTreeSet<PortId>,
    /// Ports of pods that Neutron does not list, since when.
    pub(super) missing: BTreeMap<PortId, Millis>,
    /// Ports that have been offered.
    pub(super) offered: BTreeSet<PortId>,
    /// Since when there are more free ports than wanted, without demand.
    pub(super) surplus_since: Option<Millis>,
    /// Since when the Node is absent, or another: its UID, and what its agent had last told then.
    pub(super) strange: Option<(Option<Heard>, Millis)>,
    /// Of the node's trunk.
    pub(super) trunk: TrunkMemory,
    /// Pods that were told in the agent's place why they wait, and the reason.
    pub(super) told: BTreeMap<PodIdentity, String>,
    /// What the node has lived through, by class of the pods.
    pub(super) arrivals: BTreeMap<ClassId, Arrivals>,
}

/// Another Node, and how far its agent's word for the former one goes.
pub(super) type Heard = (String, Option<CheckpointRef>);

/// Why a port rests; another reason begins another rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RestReason {
    /// The agent returned this generation.
    Returned(Generation),
    /// It is cut off in Neutron.
    Cut,
    /// It is going to be deleted and no record names it.
    Condemned,
    /// No record speaks for it.
    Orphaned,
    /// It was found, and nobody knows whether it was used.
    Found,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rest {
    reason: RestReason,
    /// Something still refers to the address.
    held: bool,
    since: Millis,
}

impl Memory {
    /// Knows nothing but that these ports may have been offered.
    pub(super) fn with_offered(ports: &BTreeSet<PortId>) -> Self {
        Self { offered: ports.clone(), ..Self::default() }
    }

    /// Notes that `id` rests for `reason`, and tells since when nothing refers to it; `None` while something
    /// does.
    pub(super) fn resting_since(
        &mut self,
        id: &PortId,
        reason: RestReason,
        held: bool,
        now: Millis,
    ) -> Option<Millis> {
        let fresh = Rest { reason, held, since: now };
        let rest = self.resting.entry(id.clone()).or_insert_with(|| fresh.clone());
        // Between two looks the last reference may have gone at any moment, so the rest begins with the first
        // look that sees none.
        if rest.reason != reason || rest.held || held {
            *rest = fresh;
        }
        (!rest.held).then_some(rest.since)
    }

    /// Forgets ports for which `keep` is false.
    pub(super) fn retain(&mut self, keep: impl Fn(&PortId) -> bool) {
        self.resting.retain(|id, _| keep(id));
        self.spoiled.retain(|id| keep(id));
        self.missing.retain(|id, _| keep(id));
        self.offered.retain(|id| keep(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_begins_when_nothing_refers_any_more() {
        let first = RestReason::Returned(Generation { epoch: 1, counter: 1 });
        let second = RestReason::Returned(Generation { epoch: 1, counter: 2 });
        let mut memory = Memory::default();
        let mut look = |reason, held, now| memory.resting_since(&"p".into(), reason, held, now);
        assert_eq!(look(first, true, 0), None);
        assert_eq!(look(first, false, 50), Some(50), "it may have been held until just now");
        assert_eq!(look(first, false, 60), Some(50));
        assert_eq!(look(first, true, 70), None);
        assert_eq!(look(first, false, 80), Some(80));
        assert_eq!(look(second, false, 90), Some(90), "another offer, another rest");
    }
}
