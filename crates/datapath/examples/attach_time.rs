//! Measures what attaching a pod costs: `cargo run --release -p kuryr-datapath --example attach_time [RUNS]`.
//!
//! Needs root. Prints the time of each call in microseconds: median, 90th percentile and maximum.

#![allow(clippy::unwrap_used, reason = "a measurement ends at the first surprise")]
#![allow(clippy::print_stdout, reason = "that is what it is for")]

#[path = "../tests/world/mod.rs"]
mod world;

use std::time::{Duration, Instant};

use kuryr_datapath::{JoinChoice, PodLinks};
use world::{Space, TestNode, pod_links};

fn main() {
    let runs: u8 = std::env::args().nth(1).map_or(50, |runs| runs.parse().unwrap());
    for (what, joining) in [("ebpf", JoinChoice::Ebpf), ("macvlan", JoinChoice::Macvlan)] {
        let node = TestNode::with(|config| config.joining = joining);
        measure(what, &node, runs);
    }
}

fn measure(joining: &str, node: &TestNode, runs: u8) {
    let pods: Vec<(Space, PodLinks)> = (1..=runs)
        .map(|number| {
            let uplink = node.uplink(number);
            let space = Space::new("pod");
            let links = PodLinks { netns: space.path(), ..pod_links(number, uplink.ifindex) };
            (space, links)
        })
        .collect();
    let (mut attach, mut again, mut cut) = (Vec::new(), Vec::new(), Vec::new());
    node.within(|node| {
        for (_, links) in &pods {
            let (attached, took) = timed(|| node.attach(links).unwrap());
            attach.push(took);
            again.push(timed(|| node.attach(links).unwrap()).1);
            cut.push(timed(|| node.cut(attached.host_ifindex).unwrap()).1);
        }
    });
    for (what, times) in [("attach", attach), ("attach again", again), ("cut", cut)] {
        print(&format!("{joining}: {what}"), times);
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_micros();
    println!("{what}: p50 {} us, p90 {} us, max {} us, n {}", at(50), at(90), at(100), times.len());
}
