//! The record of this node: what the controller offers, what the agent makes of it, what it reports.
//!
//! The controller writes `spec`, this agent writes `status`, in few writes: a change after quiet is told at once,
//! further ones are gathered.

// What the agent knows of its node, in one value for everybody.
pub(crate) mod state;
// The record as watched; never an older one than was seen.
pub(crate) mod observe;
// Whether the checkpoint may be believed; claims against the kernel.
pub(crate) mod start;
// What is reported.
pub(crate) mod status;
// Reports written.
pub(crate) mod report;

pub(crate) use state::{NodeState, SharedUplink, State, SwitchHealth};
