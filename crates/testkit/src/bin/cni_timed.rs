//! Times a CNI plugin as its runtime sees it.
//!
//! Installed in the plugin's place, with the plugin beside it under the same name and `.real`. It runs the
//! plugin with the same input, environment and output, and appends one JSON line to `cni-timings.jsonl` in
//! the directory above the plugins': when, verb, plugin, microseconds from before the start to the exit,
//! exit code, pod. What it costs itself is not in the figure, and is the same for every plugin measured.

use std::{
    env,
    ffi::OsString,
    fs::OpenOptions,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::json;

/// Exit code when the plugin itself cannot be started or timed.
const BROKEN: u8 = 97;

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let _ = writeln!(io::stderr(), "cni-timed: {error}");
            ExitCode::from(BROKEN)
        }
    }
}

fn run() -> io::Result<u8> {
    let plugin = installed_as()?;
    let mut real = plugin.clone().into_os_string();
    real.push(".real");
    let started_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let start = Instant::now();
    let status = Command::new(PathBuf::from(real)).status()?;
    let microseconds = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(BROKEN);
    let line = json!({
        "at": started_at.as_secs_f64(),
        "verb": variable("CNI_COMMAND"),
        "plugin": plugin.file_name().map(|name| name.to_string_lossy()),
        "us": microseconds,
        "exit": code,
        "container": variable("CNI_CONTAINERID"),
        "pod": pod(&variable("CNI_ARGS")),
    });
    append(&log_beside(&plugin), &line.to_string())?;
    Ok(code)
}

/// The path under which the runtime called, not where a link leads: the link's name says which plugin.
fn installed_as() -> io::Result<PathBuf> {
    let called: OsString = env::args_os().next().unwrap_or_default();
    if Path::new(&called).is_absolute() { Ok(called.into()) } else { env::current_exe() }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

fn pod(arguments: &str) -> String {
    let value = |key: &str| {
        let found =
            arguments.split(';').filter_map(|part| part.split_once('=')).find(|(name, _)| *name == key);
        found.map_or("", |(_, value)| value)
    };
    format!("{}/{}", value("K8S_POD_NAMESPACE"), value("K8S_POD_NAME"))
}

fn log_beside(plugin: &Path) -> PathBuf {
    let directory = plugin.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    directory.join("cni-timings.jsonl")
}

/// One write per line: calls run side by side.
fn append(log: &Path, line: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(log)?;
    file.write_all(format!("{line}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_pod_and_the_log() {
        assert_eq!(pod("A=b;K8S_POD_NAMESPACE=team-a;K8S_POD_NAME=web-0"), "team-a/web-0");
        assert_eq!(pod(""), "/");
        assert_eq!(log_beside(Path::new("/x/cni/bin/ptp")), Path::new("/x/cni/cni-timings.jsonl"));
    }
}
