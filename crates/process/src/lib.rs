//! The world that starts us: how a process begins and ends.
//!
//! - [`run`]: configuration, logging, threads, then the work, then the exit code;
//! - [`command_line`]: what may be written behind the name of a program;
//! - [`memory`]: what is free goes back to the system;
//! - [`precedence`]: what somebody waits for goes before other work;
//! - [`first_panic`]: a task that ends by a bug is noticed.
//!
//! This is the shared part of every `main` that serves, and the only place that reads the environment. What a program
//! does between begin and end it brings itself.

mod run;

mod command_line;

mod logging;

mod memory;

pub mod precedence;

mod tasks;

pub use run::{Program, Purpose, run};
pub use tasks::first_panic;
