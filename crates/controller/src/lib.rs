//! `kuryr-controller`, the control-plane process.
//!
//! It keeps ports ready for every node, and takes them back. The way of a port: [`wiring`] watches nodes, pods and
//! records; [`pool`] plans for one node at a time; [`loadbalancer`] does for one Service; [`cloud`] knows what pods get and which ports are ours. Only the
//! holder of the Lease writes, see [`lead`] and [`term`].
//!
//! A library, so that the same controller runs as a process and in a simulation: [`Outside`] is what it is put on.

// Set up once.
mod config;
mod wiring;
// From the Lease to the loops.
mod lead;
// One look at what is left over, and no change.
mod dry_run;
// One leadership: what is written is written under its epoch.
mod term;
// What pods get in the cloud, and which ports there are ours.
mod cloud;
// Ports of nodes.
mod pool;
// Load balancers of Services.
mod loadbalancer;
// Pods that are about to come.
mod demand;
// Views of pods that have ended.
mod kuryrport;
// What others look at.
mod metrics;
// What can go wrong.
mod error;

use std::process::ExitCode;

use kuryr_process::{Program, Purpose};

pub use cloud::Connect;
pub use config::Config;
pub use error::{Error, Result};
pub use wiring::{Controller, Outside};

const PROGRAM: Program = Program {
    name: config::COMPONENT,
    about: "The control-plane process of Kuryr.",
    blocking_threads: config::BLOCKING_THREADS,
    dry_run: Some(
        "Tell once, on standard output, what is left over and would be collected, and change nothing",
    ),
};

/// The process, from its command line to its exit code.
#[must_use]
pub fn main() -> ExitCode {
    kuryr_process::run(&PROGRAM, config::Config::resolve, |config, purpose| async move {
        match purpose {
            Purpose::Serve => wiring::run(config).await,
            Purpose::DryRun => dry_run::run(config).await,
        }
    })
}
