//! The real controller and real agents, their library code, against a Kubernetes API, a Neutron and nodes in memory.
//!
//! One thread, paused time, one seed: a run repeats itself. What fails is found by [`rules`], which look at every write
//! at the moment it is made, and by [`settled`], which holds the whole world against what it should be once it is quiet.
//!
//! - [`world`]: everything that is outside of the programs, and the programs themselves, as they live and die;
//! - [`clocks`]: what time of day it is there;
//! - [`faults`]: every call that a program makes passes here, is counted, and may meet a fault;
//! - [`kubernetes`], [`cloud`], [`octavia`], [`machine`]: the sides that are called;
//! - [`kubelet`]: pods that come and go, and the runtime's requests;
//! - [`services`]: Services and endpoints that come and go; [`served`]: what must come of them;
//! - [`members`]: pods behind a load balancer;
//! - [`scenario`]: what happens in a run;
//! - [`contract`]: that those who are called answer as the real ones do.
//!
//! Not here: nodes that are servers of the cloud; clients of Services that are no processes of their node, and sockets;
//! the switch's protocol and the kernel itself, which tests of `datapath` try on real ones.
#![expect(clippy::unwrap_used, reason = "a world that is misused should fail its run")]

// What happens.
pub mod members;
pub mod scenario;
pub mod services;
// Where it happens.
pub mod world;
// When it happens, for people.
mod clocks;
// What goes wrong.
mod faults;
// Who is called.
mod cloud;
mod floating;
mod kubernetes;
mod machine;
mod octavia;
mod tables;
// Who calls.
mod kubelet;
mod programs;
// What is true of the sides that are called.
pub mod contract;
// What must hold.
mod rules;
mod served;
mod settled;
// Chance that repeats itself.
mod chance;

pub use faults::{Fault, Plan};
