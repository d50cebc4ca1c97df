//! Ports of nodes: one key per node, and one for ports that belong to no node.
//!
//! The story is in [`reconcile`]: look ([`observe`]), plan (`kuryr_planning::pool`), act ([`apply`]), tell
//! ([`status`]). Keys carry no news; what they are about is looked at anew each time.

// The story.
pub(crate) mod reconcile;
// One look.
mod observe;
// Steps -> calls.
mod apply;
// Creations, each in its turn.
pub(crate) mod creations;
// Full lists of our ports.
pub(crate) mod listing;
// Looks at ports that Neutron is to call ACTIVE.
pub(crate) mod plugs;
// When trunks and ports of servers are looked at.
mod looks;
// Trunks: looks at them, and changes.
pub(crate) mod trunks;
// Ports of servers: looks at them, and changes of their pairs.
pub(crate) mod servers;
// What people are told.
mod status;

pub(crate) use reconcile::reconcile;
pub(crate) use trunks::UNREACHABLE_TAINT;

/// What is reconciled.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// The ports of the node of that name.
    Node(String),
    /// Ports that belong to no node.
    Orphans,
}
