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
///    grace period.
pub(super) fn footing(inputs: &Inputs<'_>, record: Record<'_>, memory: &mut Memory) -> Footing {
    if let Presence::Present { uid } = inputs.presence {
        if let Some(report) = complete_report(record.status, uid) {
            memory.strange_since = None;
            return Footing::InStep(report);
        }
        if *uid == record.spec.node_uid {
            memory.strange_since = None;
            return Footing::Waiting(None);
        }
    }
    let gone_at = *memory.strange_since.get_or_insert(inputs.now) + inputs.limits.node_grace;
    if inputs.now >= gone_at { Footing::Gone } else { Footing::Waiting(Some(gone_at)) }
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
    use super::super::fixtures::{self, entry, status};
    use super::*;
    use kuryr_types::Generation;

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
