//! From the command line to the exit code.
//!
//! 1. Read the files and the environment, and resolve them into what the program needs. What is wrong with them is
//!    told in plain text: how to log is not known yet.
//! 2. Set up logging, and tell which files were read and what was written without effect.
//! 3. Do the work. Its failure is a log line.
//!
//! The exit code is 0 when the work ended as it was meant to, 1 when something failed, 2 for a command line that is
//! none.

use std::{collections::BTreeMap, error::Error, io::Write, path::PathBuf, process::ExitCode};

use anyhow::Context;
use kuryr_conf::{Conf, Sources};
use kuryr_telemetry::logging;

use crate::{command_line::Arguments, logging::log_config, memory};

/// Our processes wait for answers, they do not compute; more threads only cost memory.
const WORKER_THREADS_MAX: usize = 4;

/// What differs from program to program.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Its name, on the command line and in messages.
    pub name: &'static str,
    /// What it is, in one sentence.
    pub about: &'static str,
    /// Upper bound of threads for calls that block.
    pub blocking_threads: usize,
    /// What `--dry-run` does, in one sentence; absent: there is no such option.
    pub dry_run: Option<&'static str>,
}

/// What a process was started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To work until it is told to end.
    Serve,
    /// To tell what it would do, and end.
    DryRun,
}

/// Runs `work` with what `resolve` makes of the configuration, until it ends.
pub fn run<C, E, F, W>(
    program: &Program,
    resolve: impl FnOnce(&Conf) -> Result<C, E>,
    work: impl FnOnce(C, Purpose) -> W,
) -> ExitCode
where
    E: Error + Send + Sync + 'static,
    F: Error + Send + Sync + 'static,
    W: Future<Output = Result<(), F>>,
{
    memory::bound();
    let arguments = Arguments::parse(program);
    let purpose = if arguments.dry_run { Purpose::DryRun } else { Purpose::Serve };
    let config = match begin(arguments, environment(), resolve) {
        Ok(config) => config,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{}: {error:#}", program.name);
            return ExitCode::FAILURE;
        }
    };
    match until_end(program, work(config, purpose)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Everything before the work.
fn begin<C, E>(
    arguments: Arguments,
    environment: BTreeMap<String, String>,
    resolve: impl FnOnce(&Conf) -> Result<C, E>,
) -> anyhow::Result<C>
where
    E: Error + Send + Sync + 'static,
{
    let reading = "reading the configuration";
    let sources = Sources { files: arguments.config_files, dirs: arguments.config_dirs, environment };
    let conf = Conf::load(&sources).context(reading)?;
    let config = resolve(&conf).context(reading)?;
    let log = log_config(&conf, arguments.debug).context(reading)?;
    logging::init(&log).context("setting up logging")?;
    tracing::info!("configuration: {}", read_from(conf.files()));
    for warning in conf.warnings() {
        tracing::warn!("configuration: {warning}");
    }
    Ok(config)
}

/// Which files the configuration is from, for people who wonder why theirs has no effect.
fn read_from(files: &[PathBuf]) -> String {
    match files {
        [] => "no file was found, see docs/configuration.md for where they are looked for".to_owned(),
        files => {
            let names: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
            format!("read from {}", names.join(", "))
        }
    }
}

fn until_end<F>(program: &Program, work: impl Future<Output = Result<(), F>>) -> anyhow::Result<()>
where
    F: Error + Send + Sync + 'static,
{
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.clamp(1, WORKER_THREADS_MAX))
        .max_blocking_threads(program.blocking_threads)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.spawn(memory::give_back());
    runtime.block_on(work).context("running")
}

/// What is not text is nobody's option.
fn environment() -> BTreeMap<String, String> {
    let variables = std::env::vars_os();
    variables
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kuryr_conf::options::vif_pool;

    use super::*;

    fn check(file: &str, environment: &[(&str, &str)], expect: Result<u32, &str>) {
        let arguments = Arguments { config_files: vec![file.into()], ..Arguments::default() };
        let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let got = begin(arguments, environment, |conf| conf.get(&vif_pool::PORTS_POOL_MIN));
        match (got, expect) {
            (Ok(got), Ok(expect)) => assert_eq!(got, expect),
            (Err(error), Err(expect)) => assert!(format!("{error:#}").contains(expect), "{error:#}"),
            (got, expect) => panic!("{got:?} instead of {expect:?}"),
        }
    }

    #[test]
    fn says_which_files_were_read() {
        assert!(read_from(&[]).starts_with("no file was found"));
        assert_eq!(read_from(&["/a/b.conf".into(), "c".into()]), "read from /a/b.conf, c");
    }

    #[test]
    fn says_which_part_of_the_configuration_is_wrong() {
        let none = Path::new("/nonexistent/kuryr.conf").to_str().unwrap();
        check(none, &[], Err("reading the configuration: cannot read /nonexistent/kuryr.conf"));
        let many = [("OS_VIF_POOL__PORTS_POOL_MIN", "many")];
        check("/dev/null", &many, Err("reading the configuration: $OS_VIF_POOL__PORTS_POOL_MIN"));
        check("/dev/null", &[("OS_DEFAULT__LOG_FILTER", "a=loud")], Err("setting up logging: `a=loud`"));
        check("/dev/null", &[("OS_VIF_POOL__PORTS_POOL_MIN", "7")], Ok(7));
    }
}
