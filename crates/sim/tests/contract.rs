//! The servers in memory answer as real ones did, and what does not is found.
#![expect(clippy::unwrap_used, reason = "this is a test")]

use kuryr_sim::contract::{RECORDED, differences, record_fakes};
use serde_json::{Value, json};
use tokio::runtime::Builder;

fn recorded() -> Value {
    serde_json::from_str(RECORDED).unwrap()
}

fn of_fakes() -> Value {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(record_fakes())
}

#[test]
fn the_servers_in_memory_answer_as_real_ones() {
    let now = of_fakes();
    std::fs::write(concat!(env!("CARGO_TARGET_TMPDIR"), "/contract.json"), format!("{now:#}\n")).unwrap();
    let found = differences(&recorded(), &now);
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}

/// The step that is called so, in a recording.
fn step<'a>(recording: &'a mut Value, called: &str) -> &'a mut Value {
    let steps = recording.as_array_mut().unwrap();
    steps.iter_mut().find(|step| step["step"].as_str().unwrap().ends_with(called)).unwrap()
}

/// What is changed of a recording, and what has to be found then.
type Case = (fn(&mut Value), &'static str);

#[test]
fn a_difference_names_the_step_the_call_and_the_field() {
    let changes: [Case; 6] = [
        (
            |now| step(now, "made by one call")["calls"][0]["answer"]["ports"][1]["status"] = json!("BUILD"),
            "Neutron: two ports with addresses that were asked for are made by one call: POST /v2.0/ports: \
             answer.ports[1].status: \"DOWN\" was recorded, \"BUILD\" is answered",
        ),
        (
            |now| step(now, "Neutron: it is not found")["calls"][0]["status"] = json!(200),
            "Neutron: it is not found: GET /v2.0/ports/<port 2>: status: 404 was recorded, 200 is answered",
        ),
        (
            |now| step(now, "a tag is added")["calls"].as_array_mut().unwrap().truncate(1),
            "Neutron: a tag is added: GET /v2.0/ports/<port 2>: is not made",
        ),
        (
            |now| step(now, "an address that a port has is refused")["outcome"] = json!("done"),
            "Neutron: an address that a port has is refused: outcome: \"AddressInUse\" was recorded, \"done\" is answered",
        ),
        (
            |now| step(now, "it is deleted, and stays")["step"] = json!("another step"),
            "\"Kubernetes: it is deleted, and stays\": is not done",
        ),
        (
            |now| step(now, "it is deleted, and stays")["step"] = json!("another step"),
            "\"another step\": is not recorded (\"done\")",
        ),
    ];
    for (change, expect) in changes {
        let mut now = recorded();
        change(&mut now);
        let found = differences(&recorded(), &now);
        assert!(found.iter().any(|difference| difference == expect), "{expect}\n{}", found.join("\n"));
    }
    assert_eq!(differences(&recorded(), &recorded()), Vec::<String>::new());
}

#[test]
fn nothing_of_a_run_is_in_the_recording() {
    let is_id = |word: &str| word.len() == 36 && word.matches('-').count() == 4 && !word.ends_with("dead");
    let text = recorded().to_string();
    let words = text.split(|sign: char| !sign.is_ascii_hexdigit() && sign != '-');
    assert_eq!(words.filter(|word| is_id(word)).collect::<Vec<_>>(), Vec::<&str>::new());
    assert!(!text.contains("fa:16:3e"), "a MAC");
    assert_eq!(of_fakes(), of_fakes());
}

#[test]
fn every_step_has_a_name_of_its_own() {
    let recorded = recorded();
    let mut names: Vec<&str> =
        recorded.as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    assert!(!names.iter().any(|name| name.ends_with("the script ends early")), "it came to its end");
}
