//! `kuryr-daemon`, the agent of one node.
//!
//! It plugs the ports that the controller offers, gives one to each pod when the runtime asks, keeps it for that pod,
//! and tells the API server. The way of a pod: [`server`] takes the plugin's request, [`sandbox`] finds the pod,
//! claims a port that [`uplink`] has made ready, has the claim made durable by [`checkpoint`], attaches it through
//! [`kernel`] and answers. After that [`node`] reports the claim and [`kuryrport`] posts the view of it; [`release`]
//! ends the claim when the pod is gone.
//!
//! Beside that [`service`] brings clients on this node to the endpoints of Services.
//!
//! No OpenStack credentials come here, and nothing here talks to OpenStack.
//!
//! A library, so that the same agent runs as a process and in a simulation: [`Outside`] is what it is put on.

// Set up once.
mod config;
mod wiring;
// What is held, and where it is kept.
mod checkpoint;
mod kernel;
mod switch;
// The record of this node and what the agent reports of it.
mod node;
// Offered ports -> ready ports.
mod uplink;
// Services -> tables of the programs at sockets.
mod service;
// ADD, DEL, CHECK, GC.
mod calm;
mod pods;
mod sandbox;
mod server;
// The end of claims.
mod release;
// What others look at.
mod conflist;
mod kuryrport;
mod metrics;
mod probes;
// What can go wrong.
mod error;

use std::process::ExitCode;

use kuryr_process::Program;

pub use checkpoint::{Checkpoint, Storage};
pub use config::Config;
pub use error::{Error, Result};
pub use kernel::{Datapath, Kernel};
pub use service::Forwarder;
pub use switch::{Answering, SwitchDatabase};
pub use wiring::{Agent, Outside};

const PROGRAM: Program = Program {
    name: config::COMPONENT,
    about: "The agent of one node.",
    blocking_threads: config::BLOCKING_THREADS,
    dry_run: None,
};

/// The process, from its command line to its exit code.
#[must_use]
pub fn main() -> ExitCode {
    kuryr_process::run(&PROGRAM, config::Config::resolve, |config, _| wiring::run(config))
}
