//! Recorded traces, and traffic made up for one rule each, against the plans of today.

use kuryr_planning::pool::targets::Rule;
use replay::{Model, Score, Setting, Trace, replay};

#[path = "../replay/mod.rs"]
mod replay;

/// The defaults.
const DEFAULT: Setting =
    Setting { rule: Rule::Learned { least: 20, most: 80 }, looks_ahead: true, forgets: false };

const ROLLOUT: &str = include_str!("../traces/rolling-update-60.trace");
const JOB: &str = include_str!("../traces/job-200.trace");
const NIGHT: &str = include_str!("../traces/quiet-night-60.trace");

fn score(text: &str, setting: Setting) -> Score {
    let trace = Trace::read(text).unwrap_or_else(|line| panic!("no event: {line}"));
    replay(&trace, setting, Model::LAB)
}

/// As it was recorded, with a new leader that has learned nothing, and as on a machine that starts pods so many times as
/// fast.
fn check(text: &str, pods: usize, times_as_fast: u64) {
    for (faster, forgets) in [(1, false), (1, true), (times_as_fast, false)] {
        let mut trace = Trace::read(text).unwrap_or_else(|line| panic!("no event: {line}"));
        trace.hurry(faster);
        let got = replay(&trace, Setting { forgets, ..DEFAULT }, Model::LAB);
        assert_eq!(got.hits + got.misses, pods);
        assert!(got.hit_rate() >= 99.0, "{faster} times as fast, forgets: {forgets}: {got:?}");
    }
}

#[test]
fn a_rolling_update_of_60_pods() {
    check(ROLLOUT, 60, 4);
}

#[test]
fn a_job_of_200_pods() {
    check(JOB, 200, 2);
}

#[test]
fn a_quiet_night_with_a_burst() {
    check(NIGHT, 60, 2);
}

/// So many pods at once, in turn on two nodes, an ADD every 130 ms.
fn burst(pods: usize) -> String {
    let mut text = String::from("nodes node1 node2\n0 count\n");
    let all = || 0..pods;
    all().for_each(|pod| text += &format!("{} pod p{pod} web\n", pod * 10));
    let start = pods * 10;
    all().for_each(|pod| text += &format!("{} node p{pod} node{}\n", start + pod * 10, pod % 2 + 1));
    all().for_each(|pod| text += &format!("{} add p{pod}\n", 2 * start + 300 + pod * 130));
    text
}

#[test]
fn a_burst_that_the_pools_serve_makes_no_port_while_it_runs() {
    // With as many ports ready as pods come.
    let fifteen = Setting { rule: Rule::Learned { least: 15, most: 80 }, ..DEFAULT };
    for setting in [DEFAULT, fifteen] {
        let got = score(&burst(30), setting);
        assert_eq!((got.hits, got.misses, got.creates_in_burst), (30, 0, 0), "{got:?}");
        assert!(got.creates > 0, "afterwards the pools are filled again: {got:?}");
    }
}

#[test]
fn a_burst_beyond_the_pools_is_served_as_fast_as_neutron_makes_ports() {
    let got = score(&burst(100), DEFAULT);
    // 40 are ready, and 60 are made at three a second.
    assert!(got.misses <= 60 && got.longest_wait < 15_000, "{got:?}");
}

#[test]
fn steady_churn_asks_neutron_for_next_to_nothing() {
    // Each second a pod comes and lives for a minute. Ports begin to come back after a minute and a half.
    let mut lines = vec![(150_000, "count".to_owned())];
    for pod in 0..900u64 {
        let at = pod * 1_000;
        let scheduled = format!("node p{pod} node{}", pod % 2 + 1);
        let life = [(0, "pod", " web"), (200, "add", ""), (60_000, "going", ""), (60_500, "del", "")];
        let life = life.into_iter().chain([(61_000, "gone", "")]);
        lines.extend(life.map(|(after, what, more)| (at + after, format!("{what} p{pod}{more}"))));
        lines.push((at + 10, scheduled));
    }
    lines.sort_by_key(|(at, _)| *at);
    let text: String = lines.iter().map(|(at, what)| format!("{at} {what}\n")).collect();
    let got = score(&format!("nodes node1 node2\n{text}"), DEFAULT);
    assert!(
        got.hit_rate() >= 99.0 && got.calls_per_pod() <= 0.05,
        "{} calls a pod: {got:?}",
        got.calls_per_pod()
    );
}
