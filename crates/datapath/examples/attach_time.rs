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
    for (what, joining) in [("ebpf", JoinChoice::Ebpf), ("macvlan", JoinChoice::SubInterface)] {
        let node = TestNode::with(|config| config.joining = joining);
        measure(what, &node, runs);
    }
    contended(&TestNode::new(), runs.min(80));
}

/// Cuts pods off while others are attached, the namespaces of others go, and links of others are deleted: what happens
/// on a node from which many pods go at once.
fn contended(node: &TestNode, runs: u8) {
    let attach = |numbers: std::ops::RangeInclusive<u8>| -> Vec<_> {
        numbers.map(|number| node.pod(number)).collect()
    };
    let leaving = attach(1..=runs);
    let (left_over, going) = (attach(runs + 1..=runs + 20), attach(runs + 21..=runs + 40));
    let coming: Vec<(Space, PodLinks)> = (runs + 41..=runs + 80)
        .map(|number| {
            let uplink = node.uplink(number);
            let space = Space::new("pod");
            let links = PodLinks { netns: space.path(), ..pod_links(number, uplink.ifindex) };
            (space, links)
        })
        .collect();
    let of =
        |pods: &[world::TestPod]| pods.iter().map(|pod| pod.links.host_ifname.clone()).collect::<Vec<_>>();
    let keep = [of(&leaving), of(&going)].concat();
    let keep = keep.into_iter().chain(coming.iter().map(|(_, links)| links.host_ifname.clone())).collect();
    let mut times = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| node.within(|node| node.sweep(&keep)).unwrap());
        scope.spawn(|| drop(going));
        scope.spawn(|| node.within(|node| coming.iter().for_each(|(_, links)| drop(node.attach(links)))));
        node.within(|node| {
            for pod in &leaving {
                std::thread::sleep(Duration::from_millis(5));
                times.push(timed(|| node.cut(pod.host_ifindex).unwrap()).1);
            }
        });
    });
    drop(left_over);
    print("ebpf: cut while others come and go", times);
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
