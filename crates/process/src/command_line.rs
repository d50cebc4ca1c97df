//! What may be written behind the name of a program; the same for each, and `--dry-run` where the program has it.
//!
//! Sources: oslo.config 10, `--config-file`, `--config-dir`; oslo.log, `--debug`.

use std::path::PathBuf;

use clap::{Arg, ArgAction, CommandFactory, FromArgMatches, Parser};

use crate::Program;

const DRY_RUN: &str = "dry-run";

/// What was written.
#[derive(Debug, Default, PartialEq, Eq, Parser)]
#[command(version)]
pub(crate) struct Arguments {
    /// A configuration file; of several the later ones win.
    #[arg(long = "config-file", value_name = "FILE")]
    pub(crate) config_files: Vec<PathBuf>,
    /// A folder of configuration files (*.conf), read in order of their names.
    #[arg(long = "config-dir", value_name = "FOLDER")]
    pub(crate) config_dirs: Vec<PathBuf>,
    /// Log decisions with their inputs.
    #[arg(long, short)]
    pub(crate) debug: bool,
    /// Of programs that have it.
    #[arg(skip)]
    pub(crate) dry_run: bool,
}

impl Arguments {
    /// Reads the command line of this process; ends it after `--help` and `--version`, and when it cannot be read.
    pub(crate) fn parse(program: &Program) -> Self {
        let read = Self::read(program, std::env::args_os());
        read.unwrap_or_else(|error| error.exit())
    }

    fn read(
        program: &Program,
        words: impl IntoIterator<Item = std::ffi::OsString>,
    ) -> Result<Self, clap::Error> {
        let command = Self::command().name(program.name).about(program.about);
        let Some(help) = program.dry_run else {
            return Self::from_arg_matches(&command.try_get_matches_from(words)?);
        };
        let option = Arg::new(DRY_RUN).long(DRY_RUN).help(help).action(ArgAction::SetTrue);
        let matches = command.arg(option).try_get_matches_from(words)?;
        Ok(Self { dry_run: matches.get_flag(DRY_RUN), ..Self::from_arg_matches(&matches)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(words: &[&str], expect: Result<Arguments, &str>) {
        check_of(None, words, expect);
    }

    fn check_of(dry_run: Option<&'static str>, words: &[&str], expect: Result<Arguments, &str>) {
        let program = Program { name: "kuryr-test", about: "A test.", blocking_threads: 1, dry_run };
        let got = Arguments::read(&program, ["kuryr-test"].iter().chain(words).map(Into::into));
        match (got, expect) {
            (Ok(got), Ok(expect)) => assert_eq!(got, expect, "{words:?}"),
            (Err(error), Err(expect)) => assert!(error.to_string().contains(expect), "{error}"),
            (got, expect) => panic!("{words:?}: {got:?} instead of {expect:?}"),
        }
    }

    #[test]
    fn reads_what_upstreams_programs_read() {
        check(&[], Ok(Arguments::default()));
        let files = ["--config-file", "a", "--config-file=b", "--config-dir", "c", "-d"];
        let expect = Arguments {
            config_files: vec!["a".into(), "b".into()],
            config_dirs: vec!["c".into()],
            debug: true,
            dry_run: false,
        };
        check(&files, Ok(expect));
        check(&["--config-fil", "a"], Err("--config-fil"));
        check(&["--help"], Err("A test.\n\nUsage: kuryr-test"));
        check(&["--dry-run"], Err("--dry-run"));
        let has_it = Some("Tells and changes nothing");
        check_of(has_it, &[], Ok(Arguments::default()));
        check_of(has_it, &["--dry-run"], Ok(Arguments { dry_run: true, ..Arguments::default() }));
        check_of(has_it, &["--help"], Err("Tells and changes nothing"));
        check(&["--version"], Err(concat!("kuryr-test ", env!("CARGO_PKG_VERSION"))));
    }
}
