//! `kuryr-daemon`, the agent of one node.
//!
//! It plugs the ports that the controller offers, gives one to each pod when the runtime asks, keeps it for that pod,
//! and tells the API server. The way of a pod: [`server`] takes the plugin's request, [`sandbox`] finds the pod,
//! claims a port that [`uplink`] has made ready, has the claim made durable by [`checkpoint`], attaches it through
//! [`kernel`] and answers. After that [`node`] reports the claim and [`kuryrport`] posts the view of it; [`release`]
//! ends the claim when the pod is gone.
//!
//! No OpenStack credentials come here, and nothing here talks to OpenStack.

// Set up once.
mod config;
mod wiring;
// What is held, and where it is kept.
mod checkpoint;
mod kernel;
// The record of this node and what the agent reports of it.
mod node;
// Offered ports -> ready ports.
mod uplink;
// ADD, DEL, CHECK, GC.
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

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Parser;

/// The agent of one node.
#[derive(Debug, Parser)]
#[command(name = "kuryr-daemon", version)]
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
            tracing::error!("{error:#}");
            // Before logging is set up nothing else would be seen.
            let _ =
                std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("kuryr-daemon: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let sources = kuryr_conf::Sources {
        files: arguments.config_files,
        dirs: arguments.config_dirs,
        environment: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
    };
    let conf = kuryr_conf::Conf::load(&sources).context("reading the configuration")?;
    let config = config::Config::resolve(&conf, arguments.debug).context("reading the configuration")?;
    kuryr_telemetry::logging::init(&config.log).context("setting up logging")?;
    for warning in conf.warnings() {
        tracing::warn!("configuration: {warning}");
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.worker_threads)
        .max_blocking_threads(config::BLOCKING_THREADS)
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(wiring::run(config))
        .context("running")
}
