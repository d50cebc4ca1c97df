//! Recorded traces against the plans of today: at least 99 of 100 pods find a port ready.

use kuryr_planning::pool::targets::Rule;
use replay::{Model, Score, Setting, Trace, replay};

#[path = "../replay/mod.rs"]
mod replay;

/// The defaults.
const DEFAULT: Setting =
    Setting { rule: Rule::Learned { least: 20, most: 60 }, looks_ahead: true, forgets: false };

fn score(text: &str, setting: Setting) -> Score {
    replay(&Trace::read(text).expect("a trace"), setting, Model::LAB)
}

/// A burst that the ready ports serve: so many pods, all at once, in turn on two nodes, an ADD every 130 ms.
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
    let got = score(&burst(30), DEFAULT);
    assert_eq!((got.hits, got.misses, got.creates_in_burst), (30, 0, 0), "{got:?}");
    assert!(got.creates > 0, "afterwards the pools are filled again: {got:?}");
}

#[test]
fn a_burst_beyond_the_pools_is_served_as_fast_as_neutron_makes_ports() {
    let got = score(&burst(100), DEFAULT);
    assert!(got.misses <= 60 && got.longest_wait < 20_000, "{got:?}");
}
