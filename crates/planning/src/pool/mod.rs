//! Which ports a node should be offered, and what has to happen in the cloud for that.
//!
//! [`plan`] takes one consistent look at a node and returns steps: changes of its `KuryrNode` and calls to
//! Neutron. Steps of one plan do not build on each other: what needs the outcome of a step is part of a later
//! plan, made from a later look. So a call that is lost, repeated or late changes nothing about the rules:
//!
//! 1. A port belongs to the node's agent from its offer until the agent returned that generation of it; only
//!    then is it offered again, doomed or changed.
//! 2. Generations are never repeated; within one only flags are set.
//! 3. A port is deleted in Neutron, or taken off its trunk or its server's port, only after everybody can see that it is going to be:
//!    `doomed` in the record or, where no record names it, by its name. Nothing undoes that.
//! 4. An address is neither offered nor freed again before nothing refers to it (a pod that has not ended, an `EndpointSlice`, a
//!    member of a load balancer) and a cool-down is over.
//! 5. Of a node whose agent has not reported completely, nothing is changed. A node that is gone is cut off
//!    in Neutron first; its addresses become free later. That it is gone, no watch is believed alone.
//! 6. What was made is found again by name and tags, and offered or deleted. It is not offered where nobody knows whether the
//!    network was told of it.
//! 7. A node's mode changes only while its record has no entries. On a trunk, a port is offered once it is ACTIVE, with
//!    its VLAN id, which no other entry has. Otherwise on a server, a port is offered once its addresses are allowed
//!    address pairs of the server's port.
//!
//! Terms: a node's *record* is its `KuryrNode`; an *entry* is a port in it; a port is *published* if the
//! record has an entry of it; *spare* are free ports minus pods that wait.
//!
//! Rooms, in the order of the flow:

// What is looked at.
pub mod inputs;
// What has to be remembered between looks, and is safe to forget.
pub mod memory;
// What makes ports interchangeable.
pub mod class;
// Security groups that were made twice.
pub mod doubles;
// The record and the pods, read: on which footing the node is, who owns which port.
pub mod from_kubernetes;
// How many ports there should be.
pub mod targets;
// What a node is in the cloud, and what is on its trunk.
pub mod trunk;
// Ports of servers and their allowed address pairs.
pub mod server;
// How ports reach a node.
pub mod mode;
// Which VLAN ids subports get.
pub mod vlan;
// The record as it should be, and the calls to Neutron.
pub mod desired;
// What carries ports to the node, in one plan.
mod way;
// Of a node that is a server of the cloud with a trunk.
mod nested;
// Of a host where only Neutron tells that a port works.
mod wired;
// Of a node that is a server of the cloud without.
mod pairs;
// What ports are called.
mod naming;
// Whose security groups let everything in.
mod open;
// What Neutron may have made only half.
mod half_made;
// What somebody deleted while a pod has it.
mod lost;
// Of a node that nobody hears of.
mod unreachable;
// Of a node that is gone.
mod gone;
// From the record as it is to the record as it should be.
pub mod diff;
// The steps.
pub mod step;
// What must hold whatever happens.
pub mod invariants;
// Ports that no record speaks for.
pub mod orphans;
// What is left over, for people.
pub mod garbage;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod model;
#[cfg(test)]
mod model_pairs;
#[cfg(test)]
mod model_trunk;
#[cfg(test)]
mod properties;

use std::collections::BTreeMap;

use kuryr_api::kuryrnode::{KuryrNodeSpec, PlugId, Problem};
use kuryr_types::{Epoch, Generation, PodIdentity, PortId};

pub use inputs::{Cloud, DefaultClass, Held, Inputs, Limits, Millis, NodeFacts, PodFacts, Presence, Record};
pub use memory::Memory;
pub use server::Servers;
pub use step::{CloudStep, PortRequest, RecordStep, SpecStep};
pub use trunk::Trunks;

/// What to do about one node now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Whether the record itself has to come or go.
    pub record: RecordStep,
    /// Changes of the record, for one patch.
    pub spec: Vec<SpecStep>,
    /// Calls to Neutron, independent of each other and of the patch.
    pub cloud: Vec<CloudStep>,
    /// Ports that Neutron is to be asked for until it calls them ACTIVE, with the plug that has to be about. These
    /// replace those of the plan before.
    pub awaited: BTreeMap<PortId, PlugId>,
    /// Pods to tell why they wait, as their agent cannot. Telling changes nothing, so it counts as nothing to do.
    pub told: Vec<(PodIdentity, Problem)>,
    /// When to look again even if nothing happens.
    pub wake_at: Option<Millis>,
    /// By what watches tell the node is gone: before anything is done about that, the API server has to be asked
    /// ([`Inputs::asked`]).
    pub asks: bool,
}

impl Plan {
    /// Tells whether nothing is to be done now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.record == RecordStep::Keep && self.spec.is_empty() && self.cloud.is_empty()
    }

    /// Tells whether ports are to be made, and nothing else is to be done.
    #[must_use]
    pub fn only_creates(&self) -> bool {
        let plan = Self { cloud: vec![], ..self.clone() };
        plan.is_empty() && !self.cloud.is_empty() && self.cloud.iter().all(CloudStep::creates)
    }
}

/// Numbers offers within one leadership; one of it for all nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generations {
    epoch: Epoch,
    counter: u64,
}

impl Generations {
    /// The first numbers of `epoch`.
    #[must_use]
    pub const fn of_epoch(epoch: Epoch) -> Self {
        Self { epoch, counter: 0 }
    }

    /// The epoch.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(crate) const fn next(&mut self) -> Generation {
        self.counter += 1;
        Generation { epoch: self.epoch, counter: self.counter }
    }
}

/// Decides what to do about one node.
///
/// # Panics
/// When the plan itself would break a rule of this module: a fault of ours, never of what was looked at.
#[must_use]
pub fn plan(inputs: &Inputs<'_>, memory: &mut Memory, generations: &mut Generations) -> Plan {
    let Some(record) = inputs.record else { return without_record(inputs, memory, generations.epoch()) };
    if record.spec.epoch > generations.epoch() || !inputs.in_sync {
        // A later leader has written, or what we see may be old: look again when told.
        return Plan::default();
    }
    if record.spec.epoch < generations.epoch() {
        // Everything else is decided from the answer to this.
        let step = SpecStep::SetEpoch { from: record.spec.epoch, to: generations.epoch() };
        return Plan { spec: vec![step], ..Plan::default() };
    }
    let desired = desired::desired(inputs, record, memory, generations);
    invariants::assert_allowed(record, &desired);
    Plan {
        record: desired.record,
        spec: diff::diff(record.spec, &desired.spec),
        cloud: desired.cloud,
        awaited: desired.awaited,
        told: desired.told,
        wake_at: desired.wake_at,
        asks: desired.asks,
    }
}

fn without_record(inputs: &Inputs<'_>, memory: &mut Memory, epoch: Epoch) -> Plan {
    // There may have been a record, and an agent that took ports by it: whatever is there now rests anew.
    *memory = Memory::with_offered(&inputs.cloud.fresh);
    let record = match &inputs.presence {
        Presence::Present { uid } if inputs.in_sync => {
            let spec = KuryrNodeSpec { node_uid: uid.clone(), epoch, ..KuryrNodeSpec::default() };
            RecordStep::Create(Box::new(spec))
        }
        _ => RecordStep::Keep,
    };
    Plan { record, ..Plan::default() }
}
