//! Chores of the repository, called as `cargo xtask <chore>`.
//!
//! - `tidy`: holds the tree against the rules of the house and prints one line per finding;
//! - `codegen`: writes the files that are generated from the types.
//!
//! It talks to the working tree, to `git` and to `cargo`.

// The rules of the house.
mod tidy;
// What is generated, and from what.
mod codegen;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};

const USAGE: &str = "\
usage: cargo xtask <chore>
  tidy      check the tree against the rules of the house; exit code 1 if anything was found
  codegen   write the generated files (custom resource definitions, references)
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let chore: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match chore.as_slice() {
        ["tidy"] => tidy_command(),
        ["codegen"] => codegen_command(),
        [] | ["help" | "--help" | "-h"] => say(USAGE).map(|()| ExitCode::SUCCESS),
        _ => say(USAGE).map(|()| ExitCode::from(2)),
    };
    outcome.unwrap_or_else(|error| {
        // Nobody is left to tell when standard error is closed.
        let _ = writeln!(io::stderr(), "xtask: {error:#}");
        ExitCode::from(2)
    })
}

fn tidy_command() -> Result<ExitCode> {
    let findings = tidy::tidy(&repository()?)?;
    for finding in &findings {
        say(&format!("{finding}\n"))?;
    }
    match findings.len() {
        0 => say("tidy: nothing found\n").map(|()| ExitCode::SUCCESS),
        count => say(&format!("tidy: {count} found\n")).map(|()| ExitCode::FAILURE),
    }
}

fn codegen_command() -> Result<ExitCode> {
    let root = repository()?;
    codegen::write_tables(&root)?;
    for change in codegen::write(&root, &codegen::all(&root)?)? {
        say(&format!("{change}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Finds the root of the repository: the folder above this package.
fn repository() -> Result<PathBuf> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package.parent().context("this package lies in no folder")?;
    if !root.join("Cargo.toml").is_file() {
        bail!("{} is not the root of the repository", root.display());
    }
    Ok(root.to_owned())
}

fn say(text: &str) -> Result<()> {
    io::stdout().lock().write_all(text.as_bytes()).context("standard output")
}
