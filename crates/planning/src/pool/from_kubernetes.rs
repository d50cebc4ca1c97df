//! The record and the pods, read: on which footing the node is, who owns which port, which pods wait.
//!
//! Sources: `kuryr_api::kuryrnode`; Kubernetes API, Pod `status.phase`, `metadata.deletionTimestamp`.

use std::collections::BTreeSet;

use kuryr_api::kuryrnode::{KuryrNodeStatus, PortEntry};
use kuryr_types::{PodIdentity, PortId};

use super::{
    inputs::{Inputs, Millis, PodFacts, Presence, Record},
    memory::Memory,
};

/// On which footing controller and agent are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Footing {
    /// The agent reported completely, and its words count.
    InStep(Report),
    /// Nothing may be changed yet; look again then.
    Waiting(Option<Millis>),
    /// The node is gone: what it had is taken back.
    Gone,
}

/// Which incarnation of the node reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// UID of the Node.
    pub node_uid: String,
    /// Id of the agent's durable record.
    pub checkpoint: String,
}

/// Tells the footing.
///
/// 1. The Node exists and its agent reported for this very Node: in step, also if it is another Node or
///    another durable record than before. The report then says which ports are in use and which it returns.
/// 2. The Node exists and its agent has not reported: waiting.
/// 3. The Node is absent, or another Node stands there whose agent is silent: waiting, and gone after the
///    grace period. That begins anew when another Node appears: the machine may be the same, and its agent has not heard of
///    it; and with each report that the agent makes for the former Node, since it will hear.
pub(super) fn footing(inputs: &Inputs<'_>, record: Record<'_>, memory: &mut Memory) -> Footing {
    if let Presence::Present { uid } = inputs.presence {
        if let Some(report) = complete_report(record.status, uid) {
            memory.strange = None;
            return Footing::InStep(report);
        }
        if *uid == record.spec.node_uid {
            memory.strange = None;
            return Footing::Waiting(None);
        }
    }
    let gone_at = strange_since(inputs, record, memory) + inputs.limits.node_grace;
    if inputs.now >= gone_at { Footing::Gone } else { Footing::Waiting(Some(gone_at)) }
}

/// Since when nothing has been heard that could make an end of it.
fn strange_since(inputs: &Inputs<'_>, record: Record<'_>, memory: &mut Memory) -> Millis {
    let heard = match inputs.presence {
        Presence::Absent => None,
        Presence::Present { uid } => {
            Some((uid.clone(), record.status.map(|status| status.checkpoint.clone())))
        }
    };
    let strange = memory.strange.get_or_insert_with(|| (heard.clone(), inputs.now));
    if strange.0 != heard && heard.is_some() {
        *strange = (heard, inputs.now);
    }
    strange.1
}

fn complete_report(status: Option<&KuryrNodeStatus>, uid: &str) -> Option<Report> {
    let status = status.filter(|status| status.node_uid == uid && !status.checkpoint.id.is_empty())?;
    Some(Report { node_uid: uid.to_owned(), checkpoint: status.checkpoint.id.clone() })
}

/// Who owns a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// The agent, and a pod uses it or may use it again.
    Pod,
    /// The agent.
    Agent,
    /// The controller: the agent will not touch this generation again.
    Controller,
}

/// Tells who owns the port of `entry`, by the words of an agent that is in step.
///
/// A claim wins over everything: if the report contradicts itself, the pod keeps its port.
#[must_use]
pub fn holder(id: &PortId, entry: &PortEntry, status: &KuryrNodeStatus) -> Holder {
    if status.claims.contains_key(id) {
        Holder::Pod
    } else if status.returned.get(id) == Some(&entry.generation) {
        Holder::Controller
    } else {
        Holder::Agent
    }
}

/// Pods that wait for a port: scheduled here, on the pods' network, neither ended nor deleted, and without a
/// claim.
#[must_use]
pub fn waiting<'a>(pods: &'a [PodFacts], status: &KuryrNodeStatus) -> BTreeSet<&'a PodIdentity> {
    let claimed: BTreeSet<&PodIdentity> = status.claims.values().map(|claim| &claim.identity).collect();
    let waits = |pod: &&PodFacts| {
        !pod.host_network && !pod.ended && !pod.terminating && !claimed.contains(&pod.identity)
    };
    pods.iter().filter(waits).map(|pod| &pod.identity).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{
        Cloud, Generations, Held, SpecStep,
        fixtures::{self, entry, status},
        step::Flags,
    };
    use super::*;
    use crate::ownership::pool_port_name;
    use kuryr_api::kuryrnode::{KuryrNodeSpec, StuckEntry};
    use kuryr_types::Generation;

    /// A look at node `w1` at this time.
    fn look<R>(
        now: Millis,
        node_uid: Option<&str>,
        record: Record<'_>,
        cloud: &Cloud,
        then: impl FnOnce(&Inputs<'_>) -> R,
    ) -> R {
        let presence = node_uid.map_or(Presence::Absent, |uid| Presence::Present { uid: uid.to_owned() });
        then(&Inputs { now, presence: &presence, ..fixtures::look(record, cloud) })
    }

    #[test]
    fn a_node_is_gone_only_after_its_grace() {
        let spec = KuryrNodeSpec { node_uid: "u".into(), ..KuryrNodeSpec::default() };
        let report = |node_uid: &str| Report { node_uid: node_uid.into(), checkpoint: "c".into() };
        let waiting = |until| Footing::Waiting(Some(until));
        let mut memory = Memory::default();
        // The grace of the fixtures is 60.
        for (now, present, reported, expect) in [
            (0, Some("u"), None, Footing::Waiting(None)),
            (10, Some("u"), Some("u"), Footing::InStep(report("u"))),
            (20, None, Some("u"), waiting(80)),
            (79, None, Some("u"), waiting(80)),
            (80, None, Some("u"), Footing::Gone),
            // It comes back, and the next absence begins anew.
            (85, Some("u"), Some("u"), Footing::InStep(report("u"))),
            (90, None, Some("u"), waiting(150)),
            (100, Some("u"), None, Footing::Waiting(None)),
            (110, None, None, waiting(170)),
            // Another Node of the name, whose agent is silent.
            (120, Some("v"), Some("u"), waiting(180)),
            (150, Some("v"), Some("u"), waiting(180)),
            (160, Some("w"), Some("u"), waiting(220)),
            (220, Some("w"), Some("u"), Footing::Gone),
            (230, Some("w"), Some("w"), Footing::InStep(report("w"))),
            (240, Some("x"), Some("w"), waiting(300)),
            // It is away at times, as before.
            (250, None, Some("w"), waiting(300)),
            (260, Some("x"), Some("w"), waiting(300)),
        ] {
            let status = reported.map(|uid| status(uid, "c"));
            let record = Record { spec: &spec, status: status.as_ref() };
            let got =
                look(now, present, record, &Cloud::default(), |inputs| footing(inputs, record, &mut memory));
            assert_eq!(got, expect, "at {now}: {present:?} {reported:?}");
        }
    }

    #[test]
    fn an_agent_that_reports_for_the_former_node_is_waited_for() {
        let spec = KuryrNodeSpec { node_uid: "u".into(), ..KuryrNodeSpec::default() };
        let mut memory = Memory::default();
        let mut at = |now, sequence| {
            let mut status = status("u", "c");
            status.checkpoint.sequence = sequence;
            let record = Record { spec: &spec, status: Some(&status) };
            look(now, Some("v"), record, &Cloud::default(), |inputs| footing(inputs, record, &mut memory))
        };
        assert_eq!(at(0, 1), Footing::Waiting(Some(60)));
        assert_eq!(at(50, 2), Footing::Waiting(Some(110)));
        assert_eq!(at(109, 2), Footing::Waiting(Some(110)));
        assert_eq!(at(110, 2), Footing::Gone);
    }

    #[test]
    fn a_port_that_was_stuck_is_not_offered_again() {
        let generation = Generation { epoch: 1, counter: 1 };
        let cloud = Cloud {
            ports: Some(vec![fixtures::port("a", &pool_port_name("w1"), Some("h"))]),
            default: Some(fixtures::default_class(fixtures::GROUP)),
            ..Cloud::default()
        };
        let stuck = StuckEntry { generation, reason: "no flows".into() };
        let mut memory = Memory::default();
        let mut flags = |now, withdrawn, status: &KuryrNodeStatus| {
            let entry = PortEntry { withdrawn, ..entry(generation) };
            let spec = KuryrNodeSpec {
                epoch: 1,
                node_uid: "u".into(),
                ports: [("a".into(), entry)].into(),
                ..KuryrNodeSpec::default()
            };
            let record = Record { spec: &spec, status: Some(status) };
            let mut generations = Generations::of_epoch(1);
            let plan = look(now, Some("u"), record, &cloud, |inputs| {
                super::super::plan(inputs, &mut memory, &mut generations)
            });
            let mark = plan.spec.iter().find_map(|step| match step {
                SpecStep::Mark { flags, .. } => Some(*flags),
                _ => None,
            });
            assert!(!plan.spec.iter().any(|step| matches!(step, SpecStep::Offer { .. })), "{plan:?}");
            mark
        };
        let noticed = KuryrNodeStatus { stuck: [("a".into(), stuck)].into(), ..status("u", "c") };
        let returned = KuryrNodeStatus { returned: [("a".into(), generation)].into(), ..status("u", "c") };
        let withdrawn = Flags { withdrawn: true, ..Flags::default() };
        let doomed = Flags { doomed: true, ..Flags::default() };
        assert_eq!(flags(0, false, &noticed), Some(withdrawn));
        // With the port the agent has forgotten what was wrong with it.
        assert_eq!(flags(10, true, &returned), Some(doomed));
    }

    #[test]
    fn an_address_rests_only_while_somebody_would_tell_who_has_it() {
        let generation = Generation { epoch: 0, counter: 1 };
        let cloud = Cloud {
            ports: Some(vec![fixtures::port("a", &pool_port_name("w1"), Some("h"))]),
            default: Some(fixtures::default_class(fixtures::GROUP)),
            ..Cloud::default()
        };
        let spec = KuryrNodeSpec {
            epoch: 1,
            node_uid: "u".into(),
            ports: [("a".into(), entry(generation))].into(),
            ..KuryrNodeSpec::default()
        };
        let returned = KuryrNodeStatus { returned: [("a".into(), generation)].into(), ..status("u", "c") };
        let record = Record { spec: &spec, status: Some(&returned) };
        let rest = fixtures::limits().cool_down;
        let mut memory = Memory::default();
        let mut is_offered = |now, told_since| {
            let plan = look(now, Some("u"), record, &cloud, |inputs| {
                let inputs = Inputs { held: Held { told_since, ..inputs.held }, ..*inputs };
                super::super::plan(&inputs, &mut memory, &mut Generations::of_epoch(1))
            });
            plan.spec.iter().any(|step| matches!(step, SpecStep::Offer { .. }))
        };
        assert!(!is_offered(0, Some(0)));
        assert!(!is_offered(rest, None), "a watch has ended");
        assert!(!is_offered(rest, Some(rest - 1)), "somebody may have had it until then");
        assert!(!is_offered(2 * rest - 2, Some(rest - 1)));
        assert!(is_offered(2 * rest - 1, Some(rest - 1)));
    }

    #[test]
    fn a_claim_wins_and_another_generation_returns_nothing() {
        let g = |counter| Generation { epoch: 1, counter };
        let entry = entry(g(2));
        for (claims, returned, expect) in [
            (&[][..], None, Holder::Agent),
            (&[("p", 2)], None, Holder::Pod),
            (&[], Some(g(2)), Holder::Controller),
            (&[], Some(g(1)), Holder::Agent),
            (&[("p", 2)], Some(g(2)), Holder::Pod),
            (&[("p", 1)], None, Holder::Pod),
        ] {
            let mut status = status("u", "c");
            for (identity, counter) in claims {
                status.claims.insert("a".into(), fixtures::claim(identity, g(*counter)));
            }
            status.returned.extend(returned.map(|generation| ("a".into(), generation)));
            assert_eq!(holder(&"a".into(), &entry, &status), expect, "{claims:?} {returned:?}");
        }
    }

    #[test]
    fn pods_wait_until_they_have_a_claim() {
        let mut status = status("u", "c");
        status.claims.insert("a".into(), fixtures::claim("served", Generation { epoch: 1, counter: 1 }));
        let pod = |identity: &str| fixtures::pod(identity);
        let pods = [
            pod("served"),
            pod("new"),
            PodFacts { host_network: true, ..pod("host") },
            PodFacts { ended: true, ..pod("job") },
            PodFacts { terminating: true, ..pod("going") },
        ];
        assert_eq!(waiting(&pods, &status), [&"new".into()].into());
    }
}
