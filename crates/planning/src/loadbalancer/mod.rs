//! What a Service of type `LoadBalancer`, or one whose ClusterIPs Octavia serves, is in the cloud: one load balancer of
//! Octavia whose members are pods.
//!
//! [`plan`] takes one look at a Service, its endpoints and what is in the cloud, and returns steps. At most one of them
//! changes the load balancer, since Octavia refuses every other change until one is done; what follows it is part of a
//! later plan, made from a later look. Rules:
//!
//! 1. Nothing is made before the Service has our finalizer; it is removed when nothing is left.
//! 2. A load balancer is made whole by one call: listeners, pools, members. It is found again by its name and tags.
//! 3. Nothing is asked of a load balancer that is being changed (`PENDING_*`): the key waits, others go on.
//! 4. Members of a pool are replaced by one call, the first change at once, those that follow it together.
//! 5. A new port gets its pool, then the members, then the listener: no connection meets an empty pool. A port that is
//!    gone loses its listener first.
//! 6. A load balancer in state `ERROR`, or one that cannot become what is wanted, is deleted with all below it and made
//!    anew, with the addresses that clients know as long as they can be had: the one that is remembered, else the one
//!    that the Service's status tells.
//! 7. A floating IP that was made for the Service goes before the load balancer whose port it leads to: later it could
//!    not be found. One that the user gave is taken off, never deleted. While the Service
//!    has a load balancer, nothing else waits for a call about a floating IP that fails, and its end waits for five minutes only where
//!    the full lists find the floating IP again; before a load balancer is made anew the Service tells the address of one that
//!    could not be tagged and has no mark ([`mark`]). What is left all the same is nobody's ([`strays`]).
//! 8. What a provider cannot do is refused, and told, before anything is exposed that should not be.
//! 9. A load balancer may be shared ([`sharing`]): what others have on it is left alone, and it stays as long as they do.
//!
//! Worked example: Service `d/web`, port 80 to pods at 10.1.0.7 and 10.1.0.8, provider ovn. Plan 1: the finalizer.
//! Plan 2: `CreateBalancer` `d/web` with listener and pool `d/web:TCP:80` and two members. Octavia answers
//! `PENDING_CREATE`: plan 3 waits. `ACTIVE`: plan 4 makes the floating IP on the VIP's port. Plan 5 tells its address
//! in the Service's status. Plan 6 is empty.
//!
//! Sources: Kubernetes, "Service" (type: LoadBalancer), `EndpointSlice` conditions; Load Balancer API v2; Kuryr-Kubernetes
//! 10.0 (names, annotations, finalizer); cloud-provider-openstack, "Exposing applications using services of
//! LoadBalancer type" (annotations).
//!
//! Rooms, in the order of the flow:

// What is looked at.
pub mod inputs;
// What has to be remembered between looks, and is safe to forget.
pub mod memory;
// What users may write on a Service.
pub mod annotations;
// What providers can do.
pub mod provider;
// The subnet of a floating IP that is described by words.
pub mod external;
// Where it is served, and whose is what there.
pub mod sharing;
// The Service, read: what is wished, what is refused.
pub mod from_kubernetes;
// The load balancer as it should be.
pub mod desired;
// From the load balancer as it is to the load balancer as it should be.
pub mod diff;
// Its floating IP.
mod floating;
// Whose it is before it is tagged.
pub mod mark;
// Floating IPs that nobody needs any more.
pub mod strays;
// The steps.
pub mod step;
// Which addresses its members have.
pub mod members;
// Of which Services nobody has told them.
pub mod unseen;
// What people and upstream's tools are told of it.
pub mod view;
// What must hold whatever happens.
pub mod invariants;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod model;
#[cfg(test)]
mod properties;

use kuryr_api::kuryrnode::Problem;

pub use annotations::{Asked, asked};
pub use desired::{BalancerSpec, ListenerSpec, MemberSpec, MonitorSpec, PoolSpec, Protocol};
pub use external::ExternalSubnet;
pub use from_kubernetes::{Concern, Wish, concerns_us};
pub use inputs::{
    Actual, Balancer, EndpointFacts, External, Floating, FoundListener, FoundMember, FoundMonitor, FoundPool,
    Ingress, Inputs, MonitorSettings, Named, NamedPort, OtherListener, Others, PortFacts, ServiceFacts,
    Settings, State, Stranger,
};
pub use members::Members;
pub use memory::Memory;
pub use provider::MemberMode;
pub use sharing::Place;
pub use step::Step;
pub use unseen::Unseen;
pub use view::{View, view};

use crate::pool::Millis;

/// What to do about one Service now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// To be carried out one after the other; a failure ends them, unless it is of a step about a floating IP.
    pub steps: Vec<Step>,
    /// What the Service's status should tell; `None`: what it tells already, or not known yet.
    pub tell: Option<Vec<Ingress>>,
    /// What the user should know.
    pub problems: Vec<Problem>,
    /// When to look again even if nothing happens.
    pub wake_after: Option<Millis>,
}

impl Plan {
    /// Tells whether nothing is to be done now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.tell.is_none()
    }
}

/// What to do about a Service, from one look at it.
///
/// # Panics
/// If the plan breaks a rule of [`invariants`].
#[must_use]
pub fn plan(inputs: &Inputs<'_>, memory: &mut Memory) -> Plan {
    let placed = sharing::place(inputs);
    let (wish, problems) =
        from_kubernetes::read(inputs.service, inputs.settings, inputs.is_so_already(), placed.place);
    let mut plan = match wish {
        Wish::Untouched => Plan::default(),
        Wish::Nothing => diff::towards_nothing(inputs, memory),
        Wish::Closed => diff::towards_closed(inputs, memory),
        Wish::Balancer(intent) => {
            let (desired, more) = desired::desired(&intent, inputs.endpoints, inputs.settings);
            let mut plan = match placed.place {
                Place::Shared(found) => {
                    diff::towards_shared(&desired, &intent, (found, placed.later), inputs, memory)
                }
                Place::Own | Place::Nowhere => diff::towards(&desired, &intent, placed.later, inputs, memory),
            };
            plan.problems.extend(more);
            plan
        }
    };
    plan.problems.extend(problems);
    plan.problems.extend(placed.problems);
    plan.wake_after = plan.wake_after.into_iter().chain(placed.wake_after).min();
    diff::delete_once(&mut plan, inputs, memory);
    diff::follow_leaving(&mut plan, inputs, memory);
    invariants::check(&plan, inputs.actual);
    plan
}
