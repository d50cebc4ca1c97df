//! Which port a pod takes and when it gives it back.
//!
//! Terms: an *offer* is the controller's record of a node, as far as it speaks to this agent's checkpoint; a port
//! is *usable* while it is offered and neither withdrawn nor returned; a *claim* ties a usable port to the
//! identity of one pod; the claim is *joined* while a sandbox of that pod is connected to the port and *cut*
//! otherwise; a port is *returned* at a generation once the agent will never touch that generation again.
//!
//! Rules, each a line of the property test:
//! - a port is claimed by one identity at a time, and an identity claims one port per interface;
//! - an identity that holds a claim gets that port again, whatever happened to its sandbox, unless somebody deleted the port;
//! - DEL only cuts; a claim ends when it is cut **and** the pod is known to be gone, ended or on its way out, or the port was
//!   deleted;
//! - a generation that was returned is never claimed.
//!
//! Example: pod `7d9b` takes port `p1` at `3.17`. Its sandbox restarts: DEL cuts, ADD joins `p1` again. The pod is
//! deleted: DEL cuts, the watch shows it absent, the claim ends and `p1` is returned at `3.17`. The controller
//! offers `p1` at `3.21` some time later, and another pod may take it.
//!
//! What it does not do: nothing here waits, writes or looks; the agent brings what it sees and carries out what
//! comes back.

// What the agent holds: claims, returned generations, known ports.
pub mod ledger;
// The controller's record, as far as it is meant for this agent.
pub mod offer;
// Whether the pod of an ADD may have a network here.
pub mod admission;
// Which port the pod takes, or what it waits for.
pub mod choice;
// When a claim is cut and when it ends.
pub mod release;
// Whether the checkpoint on disk may be believed.
pub mod record;
// At start: claims against the kernel; without a checkpoint: what live namespaces prove.
pub mod restart;

pub use admission::{PodSeen, Refusal, Verdict, admit};
pub use choice::{Choice, Need, Ready, Wait, choose};
pub use ledger::{Claim, Ledger, Sandbox};
pub use offer::{Offer, Own};
pub use record::{Loss, RecordFacts, Trust, trust};
pub use release::{Decision, PodState, decide};

#[cfg(test)]
mod properties;
