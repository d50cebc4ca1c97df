//! Runs on paused time: faults at every call of small scenarios, and scenarios that are drawn from seeds.
//!
//! `cargo test` runs some of them, `make sim SEEDS=1000 FIRST=1` all calls and as many seeds. What fails says how it is run
//! once more with its story: `make sim SEED=7`, `make sim SCENARIO=coming CALL=63 FAULT=KillBefore`.
#![expect(clippy::unwrap_used, reason = "this is a test")]
#![expect(clippy::print_stderr, reason = "what failed is told to whoever replays it")]

use std::{env, fs, future::Future, path::Path, time::Duration};

use kuryr_sim::{
    Fault, Plan,
    members::members,
    scenario::{Outcome, coming, losses, random, restarts, scarce, thefts, upgrades},
    services::{self, services},
};
use rayon::prelude::*;
use tokio::runtime::Builder;

fn run(scenario: impl Future<Output = Outcome>) -> Outcome {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(scenario)
}

/// Whether nothing was broken; if something was, leaves the story and tells how to run it again.
fn passes(again: &str, outcome: &Outcome) -> bool {
    let Some(what) = outcome.broken.first() else { return true };
    let name: String = again.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '=').collect();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, &outcome.story).unwrap();
    eprintln!("make sim {again}    # story in {}\n    {what}", path.display());
    false
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|text| !text.is_empty())
}

fn number(name: &str, default: u64) -> u64 {
    variable(name).map_or(default, |text| text.parse().unwrap())
}

/// What is drawn from a seed: pods, or Services; as it was before more was added to what can happen, or with that.
fn drawn(scenario: Option<&str>, seed: u64) -> Outcome {
    match scenario {
        Some("services") => run(services::random(seed, true)),
        Some("services-before") => run(services::random(seed, false)),
        Some("before") => run(random(seed, false)),
        _ => run(random(seed, true)),
    }
}

/// A run has one thread and shares nothing with others: as many are made at a time as there are processors.
fn seeds(scenario: Option<&str>, first: u64, count: u64) {
    let of = scenario.map(|name| format!(" SCENARIO={name}")).unwrap_or_default();
    let ran = (first..first + count).into_par_iter().map(|seed| {
        let outcome = drawn(scenario, seed);
        let bad = (!passes(&format!("SEED={seed}{of}"), &outcome)).then_some(seed);
        (bad, outcome.pods_run_after, outcome.settled_after)
    });
    let ran: Vec<(Option<u64>, Duration, Duration)> = ran.collect();
    let pods = ran.iter().map(|(_, pods, _)| *pods).max().unwrap_or_default();
    let all = ran.iter().map(|(_, _, all)| *all).max().unwrap_or_default();
    eprintln!("{count} seeds{of}: pods run within {pods:?} of the last fault, all is settled within {all:?}");
    let bad: Vec<u64> = ran.iter().filter_map(|(bad, ..)| *bad).collect();
    assert!(bad.is_empty(), "{} of {count} seeds fail: {bad:?}", bad.len());
}

/// Those that are the same each time, with the millisecond from which on their calls meet faults: up to then others are like them.
const SCENARIOS: [(&str, u128); 8] = [
    ("coming", 0),
    ("restarts", 0),
    ("thefts", 0),
    ("losses", 25_000),
    ("scarce", 8_000),
    ("upgrades", 12_000),
    ("services", 0),
    ("members", 0),
];

fn scenario(name: &str, plan: Plan) -> Outcome {
    match name {
        "coming" => run(coming(plan)),
        "restarts" => run(restarts(plan)),
        "thefts" => run(thefts(plan)),
        "losses" => run(losses(plan)),
        "scarce" => run(scarce(plan)),
        "upgrades" => run(upgrades(plan)),
        "services" => run(services(plan)),
        "members" => run(members(plan)),
        other => panic!("no scenario {other}; there are {SCENARIOS:?}"),
    }
}

/// Every call of a scenario with every fault that it can meet.
fn cases(name: &str) -> Vec<(usize, Fault)> {
    let calm = scenario(name, Plan::Never);
    assert!(passes(name, &calm), "without faults");
    let of = |number: usize, faults: Vec<Fault>| faults.into_iter().map(move |fault| (number, fault));
    let from = SCENARIOS.iter().find(|(known, _)| *known == name).map_or(0, |(_, from)| *from);
    let made = calm.made.iter().enumerate().filter(|(_, made)| made.at >= from);
    made.flat_map(|(number, made)| of(number, made.faults())).collect()
}

/// One in `step` of them.
fn every(name: &str, step: usize, offset: usize) {
    let again = |number, fault| format!("SCENARIO={name} CALL={number} FAULT='{fault:?}'");
    let is_bad = |(number, fault): &(usize, Fault)| {
        !passes(&again(*number, *fault), &scenario(name, Plan::At(*number, *fault)))
    };
    let some: Vec<_> = cases(name).into_iter().skip(offset).step_by(step).collect();
    let (count, bad): (usize, Vec<_>) = (some.len(), some.into_par_iter().filter(is_bad).collect());
    eprintln!("{name}: {count} runs with one fault each");
    assert!(bad.is_empty(), "{} calls fail: {bad:?}", bad.len());
}

#[test]
fn some_seeds() {
    seeds(None, 1, 6);
    seeds(Some("services"), 1, 3);
}

#[test]
fn seeds_that_found_something_in_pods() {
    // The own port of a Node that was made anew, cut off late; addresses offered too soon after a watch had ended.
    [490, 778, 888].into_iter().for_each(|seed| seeds(Some("before"), seed, 1));
}

#[test]
fn faults_that_found_something_in_pods() {
    // The security group is made by a leader, whose call comes late, and by the next one.
    let (call, fault) = ("POST /v2.0/security-groups", Fault::Stalled(25));
    let calm = scenario("restarts", Plan::Never);
    let number = calm.made.iter().position(|made| made.line == call).unwrap();
    let outcome = scenario("restarts", Plan::At(number, fault));
    assert!(passes(&format!("SCENARIO=restarts CALL={number} FAULT='{fault:?}'"), &outcome));
}

#[test]
fn ports_that_neutron_made_half_go_and_others_come() {
    let (name, fault) = ("coming", Fault::HalfMade);
    let found: Vec<(usize, Fault)> = cases(name).into_iter().filter(|(_, one)| *one == fault).collect();
    assert!(!found.is_empty());
    for (number, fault) in found {
        let outcome = scenario(name, Plan::At(number, fault));
        assert!(passes(&format!("SCENARIO={name} CALL={number} FAULT='{fault:?}'"), &outcome));
    }
}

#[test]
fn seeds_that_found_something_in_services() {
    // A floating IP without Service and load balancer; another Service of the name; views that nobody took away.
    [70, 91, 199, 408].into_iter().for_each(|seed| seeds(Some("services-before"), seed, 1));
    // Members that stay and are wanted again: asked for while the next are deleted, they took twice as long.
    seeds(Some("services"), 108, 1);
}

#[test]
fn faults_that_found_something_in_services() {
    // A floating IP is made and not tagged, and its load balancer goes by another way.
    for (call, fault) in
        [("POST /v2.0/floatingips", Fault::Late(20)), ("PUT /v2.0/floatingips/", Fault::Unanswered)]
    {
        let calm = scenario("services", Plan::Never);
        let number = calm.made.iter().position(|made| made.line.starts_with(call)).unwrap();
        let outcome = scenario("services", Plan::At(number, fault));
        assert!(passes(&format!("SCENARIO=services CALL={number} FAULT='{fault:?}'"), &outcome));
    }
}

#[test]
fn some_faults_at_some_calls() {
    every("coming", 61, 7);
    every("restarts", 197, 11);
    every("thefts", 149, 3);
    every("losses", 181, 5);
    every("scarce", 167, 9);
    every("upgrades", 241, 15);
    every("services", 211, 13);
    every("members", 211, 17);
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in number("FIRST", 3)..number("FIRST", 3) + number("SEEDS", 1) {
        for scenario in [None, Some("services")] {
            let (one, two) = (drawn(scenario, seed).story, drawn(scenario, seed).story);
            let differ = one.lines().zip(two.lines()).find(|(one, two)| one != two);
            assert_eq!(differ, None, "seed {seed}");
            assert_eq!(one.len(), two.len(), "seed {seed}");
        }
    }
}

#[test]
#[ignore = "takes minutes: make sim"]
fn all_seeds() {
    seeds(None, number("FIRST", 1), number("SEEDS", 100));
}

#[test]
#[ignore = "takes minutes: make sim"]
fn all_seeds_of_services() {
    seeds(Some("services"), number("FIRST", 1), number("SEEDS", 100));
}

#[test]
#[ignore = "takes minutes: make sim"]
fn every_fault_at_every_call() {
    let wanted = variable("SIM_SCENARIO");
    let step = usize::try_from(number("STEP", 1)).unwrap();
    let offset = usize::try_from(number("OFFSET", 0)).unwrap();
    let names = SCENARIOS.into_iter().map(|(name, _)| name);
    let some = names.filter(|name| wanted.as_ref().is_none_or(|wanted| wanted == name));
    some.for_each(|name| every(name, step, offset));
}

#[test]
#[ignore = "replays what SIM_SEED, or SIM_SCENARIO, SIM_CALL and SIM_FAULT, name"]
fn one_run() {
    let outcome = match variable("SIM_SEED") {
        Some(seed) => drawn(variable("SIM_SCENARIO").as_deref(), seed.parse().unwrap()),
        None => {
            let name = variable("SIM_SCENARIO").unwrap_or_else(|| SCENARIOS[0].0.to_owned());
            let (call, fault) = (number("SIM_CALL", 0), variable("SIM_FAULT").unwrap());
            let wanted =
                |(number, one): &(usize, Fault)| *number as u64 == call && format!("{one:?}") == fault;
            let (number, fault) = cases(&name).into_iter().find(wanted).unwrap();
            scenario(&name, Plan::At(number, fault))
        }
    };
    eprintln!("{}settled after {:?}", outcome.story, outcome.settled_after);
    assert_eq!(outcome.broken, Vec::<String>::new());
}
