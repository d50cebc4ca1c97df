//! Whatever the node looks like, the plan settles, settles once, and touches nobody's rows but its own.

use std::time::Duration;

use kuryr_types::PortId;
use proptest::prelude::*;

use super::{
    found::{Row, Sign, Start},
    plan::tests::Node,
};
use crate::claim::ledger::tests::claim;

#[derive(Debug, Clone)]
struct PortCase {
    withdrawn: bool,
    doomed: bool,
    in_record: bool,
    has_tap: bool,
    has_row: bool,
    installed: bool,
    installed_at_ms: Option<u64>,
    claimed: bool,
    joined: bool,
    tag: Option<u16>,
    of_this_start: bool,
    wired: bool,
}

fn port_case() -> impl Strategy<Value = PortCase> {
    let tag = prop::option::of(prop::sample::select(vec![1u16, 4095]));
    (any::<[bool; 10]>(), prop::option::of(0u64..2000), tag).prop_map(|(bits, installed_at_ms, tag)| {
        PortCase {
            withdrawn: bits[0],
            doomed: bits[1],
            in_record: bits[2],
            has_tap: bits[3],
            has_row: bits[4],
            installed: bits[5],
            installed_at_ms,
            claimed: bits[6],
            joined: bits[7],
            tag,
            of_this_start: bits[8],
            wired: bits[9],
        }
    })
}

fn node(cases: &[PortCase], sign: Sign) -> Node {
    let ids: Vec<String> = (0..cases.len()).map(|number| format!("p{number}")).collect();
    let offers: Vec<(&str, &str)> = ids.iter().map(|id| (id.as_str(), "1.1")).collect();
    let mut node = Node::new(&offers);
    node.switch.start = Some(Start { id: "s1".into(), at_ms: 1000 });
    node.switch.sign = sign;
    for (id, case) in ids.iter().zip(cases) {
        let port = PortId::from(id.as_str());
        let tap = format!("tap{id}");
        let entry = node.spec.ports.get_mut(&port).unwrap();
        (entry.withdrawn, entry.doomed) = (case.withdrawn, case.doomed);
        node.ledger.known.insert(port.clone(), entry.generation);
        if case.claimed {
            node.ledger.claim(&port, claim(id, "1.1", case.joined.then_some("c")));
        }
        if !case.in_record {
            node.spec.ports.remove(&port);
        }
        if case.has_tap {
            node.taps.insert(tap.clone());
        }
        if case.has_row {
            let row = Row {
                uuid: format!("row-{id}"),
                port: Some(port),
                ours: true,
                has_ofport: case.has_tap,
                installed: case.installed,
                installed_at_ms: case.installed_at_ms,
                tag: case.tag,
                start: Some(if case.of_this_start { "s1" } else { "s0" }.to_owned()),
                ..Row::default()
            };
            node.switch.rows.insert(tap, row);
            let plug = if case.wired { format!("row-{id}") } else { "an earlier plug".to_owned() };
            node.spec.wired.insert(id.as_str().into(), plug);
        }
    }
    node.switch.rows.insert("tapforeign".into(), Row { port: Some("f".into()), ..Row::default() });
    node
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn settles_with_what_is_wanted_ready(
        cases in prop::collection::vec(port_case(), 0..6),
        sign in prop::sample::select(vec![Sign::OvnInstalled, Sign::Active]),
    ) {
        let mut node = node(&cases, sign);
        let undisturbed: Vec<String> = node
            .ledger
            .claims
            .iter()
            .filter(|(_, claim)| claim.sandbox.is_some())
            .map(|(port, _)| format!("tap{port}"))
            .filter(|tap| node.taps.contains(tap) && node.switch.rows.contains_key(tap))
            .collect();
        let rows_before: Vec<String> =
            undisturbed.iter().map(|tap| node.switch.rows[tap].uuid.clone()).collect();
        node.settle(3000);
        node.now += Duration::from_secs(1);
        let plan = node.settle(3000);
        prop_assert!(plan.steps.is_empty());
        prop_assert!(plan.stuck.is_empty());
        for (number, case) in cases.iter().enumerate() {
            let port = PortId::from(format!("p{number}"));
            let usable = case.in_record && !case.withdrawn && !case.doomed;
            if usable || case.claimed {
                prop_assert!(plan.ready.contains_key(&port), "{port} {case:?}");
            } else if !case.in_record || case.doomed {
                let tap = format!("tap{port}");
                prop_assert!(!node.taps.contains(&tap));
                prop_assert!(!node.switch.rows.contains_key(&tap));
            }
        }
        prop_assert!(node.switch.rows.contains_key("tapforeign"));
        // A pod that talks is not interrupted.
        let rows_after: Vec<String> =
            undisturbed.iter().map(|tap| node.switch.rows[tap].uuid.clone()).collect();
        prop_assert_eq!(rows_before, rows_after);
    }
}
