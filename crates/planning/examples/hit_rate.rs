//! Replays recorded traces against the plans of today and prints how many pods found a port ready.
//!
//!     cargo run --release -p kuryr-planning --example hit_rate [-- --json] crates/planning/traces/*.trace
//!
//! With `--json` one JSON object a line, for `bench`.

use std::{fs, io::Write, process::ExitCode};

use kuryr_planning::pool::targets::Rule;
use replay::{Model, Score, Setting, Trace, replay};

#[path = "../replay/mod.rs"]
mod replay;

/// What the pools are kept by, with names for the table, and how many times as fast everything happens.
const SETTINGS: [(&str, Rule, bool, bool, u64); 5] = [
    ("default", DEFAULT, true, false, 1),
    ("default, twice as fast", DEFAULT, true, false, 2),
    ("default, all forgotten", DEFAULT, true, true, 1),
    ("default, without workloads", DEFAULT, false, true, 1),
    ("upstream's 5, 10", Rule::Upstream { min: 5, batch: 10, max: 0 }, false, false, 1),
];
const DEFAULT: Rule = Rule::Learned { least: 20, most: 80 };

fn main() -> ExitCode {
    let (flags, files): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|word| word.starts_with("--"));
    let json = flags.iter().any(|flag| flag == "--json");
    match print(&files, json) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "hit_rate: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(files: &[String], json: bool) -> Result<(), Box<dyn std::error::Error>> {
    let mut out = std::io::stdout().lock();
    if !json {
        writeln!(
            out,
            "| trace | pools | pods | ready | longest wait | requests | ports made | deleted | calls a pod |"
        )?;
        writeln!(out, "|---|---|---|---|---|---|---|---|---|")?;
    }
    for file in files {
        let trace = Trace::read(&fs::read_to_string(file)?).map_err(|line| format!("{file}: {line}"))?;
        let name = file.rsplit('/').next().unwrap_or(file).trim_end_matches(".trace");
        for (setting, rule, looks_ahead, forgets, times) in SETTINGS {
            let mut trace = trace.clone();
            trace.hurry(times);
            let score = replay(&trace, Setting { rule, looks_ahead, forgets }, Model::LAB);
            let line = if json { object(name, setting, &score) } else { row(name, setting, &score) };
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

fn row(name: &str, setting: &str, score: &Score) -> String {
    format!(
        "| {name} | {setting} | {} | {:.1} % | {:.1} s | {} | {} | {} | {:.3} |",
        score.hits + score.misses,
        score.hit_rate(),
        seconds(score),
        score.creates,
        score.created,
        score.deleted,
        score.calls_per_pod()
    )
}

fn object(name: &str, setting: &str, score: &Score) -> String {
    serde_json::json!({
        "trace": name, "pools": setting, "pods": score.hits + score.misses, "ready_percent": score.hit_rate(),
        "longest_wait_seconds": seconds(score), "requests": score.creates, "created": score.created,
        "deleted": score.deleted, "calls_per_pod": score.calls_per_pod(), "requests_in_burst": score.creates_in_burst,
    })
    .to_string()
}

fn seconds(score: &Score) -> f64 {
    f64::from(u32::try_from(score.longest_wait).unwrap_or(u32::MAX)) / 1000.0
}
