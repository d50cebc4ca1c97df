//! `kuryr-controller`, the control-plane process.
//!
//! It keeps ports ready for every node, and takes them back. The way of a port: [`wiring`] watches nodes, pods and
//! records; [`pool`] plans for one node at a time; [`cloud`] knows what pods get and which ports are ours. Only the
//! holder of the Lease writes, see [`term`].

// Set up once.
mod config;
mod wiring;
// One leadership: what is written is written under its epoch.
mod term;
// What pods get in the cloud, and which ports there are ours.
mod cloud;
// Ports of nodes.
mod pool;
// Views of pods that have ended.
mod kuryrport;
// What others look at.
mod metrics;
// What can go wrong.
mod error;

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Parser;

/// The control-plane process of Kuryr.
#[derive(Debug, Parser)]
#[command(name = "kuryr-controller", version)]
struct Arguments {
    /// A configuration file; of several the later ones win.
    #[arg(long = "config-file", value_name = "FILE")]
    config_files: Vec<PathBuf>,
    /// A folder of configuration files (*.conf), read in order of their names.
    #[arg(long = "config-dir", value_name = "FOLDER")]
    config_dirs: Vec<PathBuf>,
    /// Log decisions with their inputs.
    #[arg(long, short)]
    debug: bool,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Logging may not be set up yet.
            let _ = writeln!(std::io::stderr(), "kuryr-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let sources =
        kuryr_conf::Sources { files: arguments.config_files, dirs: arguments.config_dirs, environment };
    let conf = kuryr_conf::Conf::load(&sources).context("reading the configuration")?;
    let config = config::Config::resolve(&conf, sources.environment, arguments.debug)
        .context("reading the configuration")?;
    kuryr_telemetry::logging::init(&config.log).context("setting up logging")?;
    for warning in conf.warnings() {
        tracing::warn!("configuration: {warning}");
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.worker_threads)
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(wiring::run(config))
        .context("running")
}
