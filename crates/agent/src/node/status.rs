//! What is reported of this node: a value composed of what is durable and what is known.
//!
//! Conditions: `Ready` (pods can be wired), `SwitchReady` (in nested modes `UplinkReady`), `PortsProvided` (what the
//! controller says), `ServicesReady` (once it is known). The degradation level is the greatest that applies; that the API server is away can only be told
//! afterwards, so it is in the agent's own health and log.

use std::collections::BTreeMap;

use kuryr_api::kuryrnode::{
    CheckpointRef, Degradation, KuryrNodeStatus, Mode, NodeCondition, NodeUplink, Problem,
};
use kuryr_planning::uplink::shared::exceeding_mtu;
use kuryr_types::PortId;

use super::state::{NodeState, SwitchHealth};
use crate::checkpoint::Durable;

/// What a status is made from.
pub(crate) struct Facts<'a> {
    /// What is on disk.
    pub(crate) durable: &'a Durable,
    /// What is known.
    pub(crate) state: &'a NodeState,
    /// Why the kernel cannot be used.
    pub(crate) kernel_trouble: Option<String>,
    /// Why pods are connected in a way that can less.
    pub(crate) fallback: Option<String>,
    /// Pods that wait.
    pub(crate) waiting: usize,
    /// The status before, whose times of transition are kept.
    pub(crate) before: &'a KuryrNodeStatus,
    /// Now, RFC 3339.
    pub(crate) now: String,
}

/// Composes the status; none before there is anything to report.
pub(crate) fn compose(facts: &Facts<'_>) -> Option<KuryrNodeStatus> {
    let (state, ledger) = (facts.state, &facts.durable.ledger);
    let own = state.own.as_ref()?;
    let record = facts.durable.facts.as_ref().filter(|record| record.id == own.checkpoint)?;
    let ready: BTreeMap<_, _> = state
        .offer()
        .iter()
        .flat_map(|offer| offer.usable(ledger))
        .filter(|(port, _)| !ledger.claims.contains_key(*port))
        .filter_map(|(port, entry)| {
            let ready = state.ready.get(port).filter(|ready| ready.generation == entry.generation)?;
            Some((port.clone(), ready.generation))
        })
        .collect();
    let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let epoch = state.spec.as_ref().map_or(0, |spec| spec.epoch);
    Some(KuryrNodeStatus {
        node_uid: own.node_uid.clone(),
        checkpoint: CheckpointRef { id: record.id.clone(), sequence: record.sequence },
        epoch_seen: epoch.max(facts.before.epoch_seen),
        host: state.host.clone(),
        uplink: state.interface.as_ref().map(|found| NodeUplink { name: found.name.clone(), mac: found.mac }),
        claims: ledger.told_claims(),
        ports_ready: count(ready.len()),
        ports_claimed: count(ledger.claims.len()),
        degradation: degradation(facts, ready.is_empty()),
        ready,
        returned: ledger.returned.clone(),
        plugged: state.plugged.clone(),
        stuck: state.stuck.clone(),
        policy_version: None,
        conditions: conditions(facts),
    })
}

/// Whether the second status has something that the controller waits for.
pub(crate) fn is_urgent(before: &KuryrNodeStatus, now: &KuryrNodeStatus) -> bool {
    before.checkpoint.id != now.checkpoint.id
        || before.node_uid != now.node_uid
        || before.host != now.host
        || before.uplink != now.uplink
        || before.epoch_seen != now.epoch_seen
        || before.stuck != now.stuck
        || before.conditions != now.conditions
        // A port rests for half a minute before it is anybody's again.
        || (now.degradation == Degradation::PoolEmpty && fresh(&now.returned, &before.returned))
        || fresh(&now.plugged, &before.plugged)
}

fn degradation(facts: &Facts<'_>, none_ready: bool) -> Degradation {
    if wiring_trouble(facts).is_some() {
        Degradation::CannotWire
    } else if none_ready && facts.waiting > 0 {
        Degradation::PoolEmpty
    } else if !facts.state.kubernetes_in_sync {
        Degradation::KubernetesUnreachable
    } else if facts.state.problems().iter().any(is_unreachable) {
        Degradation::CloudUnreachable
    } else {
        Degradation::None
    }
}

/// The controller says so by the reason.
fn is_unreachable(problem: &Problem) -> bool {
    problem.reason.ends_with("Unreachable")
}

/// Whether something is there that was not, or was another.
fn fresh<T: PartialEq>(now: &BTreeMap<PortId, T>, before: &BTreeMap<PortId, T>) -> bool {
    now.iter().any(|(port, value)| before.get(port) != Some(value))
}

/// Why nothing can be wired: a word and a sentence.
fn wiring_trouble(facts: &Facts<'_>) -> Option<(String, String)> {
    if let Some(why) = &facts.kernel_trouble {
        return Some(("KernelNotUsable".to_owned(), why.clone()));
    }
    let way = facts.state.way();
    (!way.good).then_some((way.reason, way.message))
}

fn conditions(facts: &Facts<'_>) -> Vec<NodeCondition> {
    let state = facts.state;
    let ready = match wiring_trouble(facts) {
        Some((reason, message)) => (false, reason, message),
        None if facts.durable.failure.is_some() => {
            let why = facts.durable.failure.as_deref().unwrap_or_default();
            (false, "CheckpointNotWritable".to_owned(), format!("claims cannot be made durable: {why}"))
        }
        None if state.offer().is_none() => {
            let message = "the controller has not offered ports to this agent's checkpoint yet";
            (false, "NoOffer".to_owned(), message.to_owned())
        }
        None => match &facts.fallback {
            None => (true, "PodsCanBeWired".to_owned(), "pods can be wired".to_owned()),
            Some(why) => {
                let message = format!(
                    "pods are wired by interfaces on their uplinks, so the node does not reach its own directly: {why}"
                );
                (true, "Fallback".to_owned(), message)
            }
        },
    };
    let (kind, way) = if state.mode().is_some_and(Mode::is_nested) {
        ("UplinkReady", uplink(state))
    } else {
        let switch = &state.switch;
        ("SwitchReady", (*switch == SwitchHealth::Ready, switch.reason().to_owned(), switch.to_string()))
    };
    let provided = match state.problems() {
        [] => (true, "Provided".to_owned(), "the controller tells of no problem".to_owned()),
        problems => {
            let messages: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
            (false, problems[0].reason.clone(), messages.join("; "))
        }
    };
    let health = &state.services;
    let services = health.good().map(|good| (good, health.reason().to_owned(), health.to_string()));
    [
        ("Ready", Some(ready)),
        (kind, Some(way)),
        ("PortsProvided", Some(provided)),
        ("ServicesReady", services),
    ]
    .into_iter()
    .filter_map(|(kind, told)| Some((kind, told?)))
    .map(|(kind, (is_true, reason, message))| condition(facts, kind, is_true, reason, message))
    .collect()
}

/// The interface that is the uplink of all pods. A small MTU is told and no reason not to use it.
fn uplink(state: &NodeState) -> (bool, String, String) {
    let way = state.way();
    let interface = state.interface.as_ref().filter(|_| way.good);
    let exceeding = interface
        .zip(state.spec.as_ref())
        .and_then(|(interface, spec)| Some((interface, exceeding_mtu(spec, interface.mtu)?)));
    match exceeding {
        Some((interface, mtu)) => {
            let (ifname, own) = (&interface.name, interface.mtu);
            let message = format!(
                "{ifname} has an MTU of {own}, the pods' network one of {mtu}: pods get {own} and lose longer packets of \
                 others; set the MTU of {ifname} to {mtu} or more"
            );
            (true, "MtuBelowNetwork".to_owned(), message)
        }
        None => (way.good, way.reason, way.message),
    }
}

fn condition(facts: &Facts<'_>, kind: &str, is_true: bool, reason: String, message: String) -> NodeCondition {
    let status = if is_true { "True" } else { "False" };
    let before = facts.before.conditions.iter().find(|condition| condition.kind == kind);
    let since =
        before.filter(|before| before.status == status).map(|before| before.last_transition_time.clone());
    NodeCondition {
        kind: kind.to_owned(),
        status: status.to_owned(),
        reason,
        message,
        last_transition_time: since.unwrap_or_else(|| facts.now.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::Arc, time::Duration};

    use crate::{node::SharedUplink, service::ServiceHealth};
    use kuryr_api::kuryrnode::KuryrNodeSpec;
    use kuryr_datapath::NodeInterface;
    use kuryr_planning::claim::{Ledger, Own, Ready, RecordFacts};
    use kuryr_types::Generation;
    use serde_json::json;

    fn generation() -> Generation {
        "1.1".parse().unwrap()
    }

    fn durable() -> Durable {
        let facts =
            RecordFacts { id: "point".into(), sequence: 3, node_uid: "node".into(), replaces: String::new() };
        let ledger = Ledger { returned: [("p2".into(), generation())].into(), ..Ledger::default() };
        let mut durable = Durable::default();
        (durable.facts, durable.ledger) = (Some(facts), Arc::new(ledger));
        durable
    }

    fn state() -> NodeState {
        let port = json!({"generation": "1.1", "class": "c", "mac": "fa:16:3e:00:00:01", "network": "n", "addresses": []});
        let spec: KuryrNodeSpec = serde_json::from_value(json!({
            "nodeUid": "node", "checkpoint": "point", "epoch": 4, "ports": {"p1": port, "p2": port, "p3": port},
        }))
        .unwrap();
        let ready = Ready { generation: generation(), since: Duration::ZERO };
        NodeState {
            own: Some(Own { node_uid: "node".into(), checkpoint: "point".into() }),
            surveyed: true,
            spec: Some(Arc::new(spec)),
            ready: [("p1".into(), ready), ("p2".into(), ready)].into(),
            switch: SwitchHealth::Ready,
            host: Some("node1.example".into()),
            kubernetes_in_sync: true,
            ..NodeState::default()
        }
    }

    fn compose_with(change: impl FnOnce(&mut NodeState), waiting: usize) -> KuryrNodeStatus {
        let mut state = state();
        change(&mut state);
        let facts = Facts {
            durable: &durable(),
            state: &state,
            kernel_trouble: None,
            fallback: None,
            waiting,
            before: &KuryrNodeStatus::default(),
            now: "2026-01-01T00:00:00Z".into(),
        };
        compose(&facts).unwrap()
    }

    #[test]
    fn reports_what_is_durable_and_ready() {
        let status = compose_with(|_| {}, 0);
        assert_eq!(
            status.ready.keys().map(ToString::to_string).collect::<Vec<_>>(),
            ["p1"],
            "p2 was returned"
        );
        assert_eq!((status.checkpoint.sequence, status.epoch_seen, status.ports_ready), (3, 4, 1));
        assert_eq!(status.conditions.iter().map(|c| c.status.as_str()).collect::<Vec<_>>(), ["True"; 3]);
        assert_eq!(status.degradation, Degradation::None);
    }

    #[test]
    fn says_what_is_wrong() {
        let check = |change: &dyn Fn(&mut NodeState), waiting, condition: usize, reason: &str, level| {
            let status = compose_with(change, waiting);
            let condition = &status.conditions[condition];
            assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", reason));
            assert_eq!(status.degradation, level, "{reason}");
        };
        let problem = |reason: &str| {
            let reason = reason.to_owned();
            move |state: &mut NodeState| {
                let mut spec = KuryrNodeSpec::clone(state.spec.as_ref().unwrap());
                spec.problems.push(Problem { reason: reason.clone(), message: "m".into() });
                state.spec = Some(Arc::new(spec));
            }
        };
        let bridge = |state: &mut NodeState| {
            state.switch = SwitchHealth::BridgeMissing { bridge: "br-int".into() };
        };
        check(&bridge, 0, 1, "BridgeMissing", Degradation::CannotWire);
        check(&bridge, 0, 0, "BridgeMissing", Degradation::CannotWire);
        check(&problem("QuotaExceeded"), 0, 2, "QuotaExceeded", Degradation::None);
        check(&problem("NeutronUnreachable"), 0, 2, "NeutronUnreachable", Degradation::CloudUnreachable);
        let other = |state: &mut NodeState| state.own.as_mut().unwrap().node_uid = "other".into();
        check(&other, 0, 0, "NoOffer", Degradation::None);
        assert_eq!(compose_with(|state| state.ready.clear(), 1).degradation, Degradation::PoolEmpty);
        assert_eq!(compose_with(|state| state.ready.clear(), 0).degradation, Degradation::None);
    }

    #[test]
    fn services_are_told_of_once_something_is_known() {
        let check = |health: ServiceHealth, expect: Option<(&str, &str)>| {
            let status = compose_with(|state| state.services = health.clone(), 0);
            let told = status.conditions.iter().find(|condition| condition.kind == "ServicesReady");
            assert_eq!(told.map(|told| (told.status.as_str(), told.reason.as_str())), expect);
            assert_eq!(status.conditions[0].status, "True", "pods are wired all the same");
        };
        check(ServiceHealth::Starting, None);
        check(ServiceHealth::Off, Some(("True", "LeftToOthers")));
        check(ServiceHealth::NotUsable { why: "x".into() }, Some(("False", "KernelNotUsable")));
        let served = ServiceHealth::Served {
            problems: vec![],
            tells_refusal: true,
            leaves_sockets: None,
            inbound: crate::service::inbound::InboundHealth::Served,
        };
        check(served, Some(("True", "Served")));
    }

    #[test]
    fn a_server_of_the_cloud_tells_of_its_interface_and_not_of_a_switch() {
        let check = |uplink: SharedUplink, mtu, ready: &str, reason: &str| {
            let status = compose_with(
                |state| {
                    let mut spec = KuryrNodeSpec::clone(state.spec.as_ref().unwrap());
                    spec.mode = Mode::NestedVlan;
                    let network = json!({"name": "pods", "mtu": 1442});
                    spec.networks.insert("n".into(), serde_json::from_value(network).unwrap());
                    state.spec = Some(Arc::new(spec));
                    state.switch = SwitchHealth::NotRunning;
                    state.shared_uplink = uplink.clone();
                    state.interface = Some(NodeInterface {
                        name: "ens3".into(),
                        index: 3,
                        mac: "fa:16:3e:00:00:99".parse().unwrap(),
                        mtu,
                        up: true,
                        kind: None,
                    });
                },
                0,
            );
            let told = |number: usize| {
                let condition: &NodeCondition = &status.conditions[number];
                (condition.kind.as_str(), condition.status.as_str(), condition.reason.as_str())
            };
            assert_eq!(told(1), ("UplinkReady", ready, reason));
            assert_eq!(told(0).1, ready);
            assert_eq!(status.uplink.unwrap().name, "ens3");
        };
        check(SharedUplink::Adopted(3), 1442, "True", "Adopted");
        check(SharedUplink::Adopted(3), 1400, "True", "MtuBelowNetwork");
        check(SharedUplink::Down { ifname: "ens3".into() }, 1400, "False", "UplinkDown");
    }

    #[test]
    fn nothing_is_reported_before_the_checkpoint_counts() {
        let facts = |own| NodeState { own, ..state() };
        for own in [None, Some(Own { node_uid: "node".into(), checkpoint: "other".into() })] {
            let state = facts(own);
            let facts = Facts {
                durable: &durable(),
                state: &state,
                kernel_trouble: None,
                fallback: None,
                waiting: 0,
                before: &KuryrNodeStatus::default(),
                now: String::new(),
            };
            assert!(compose(&facts).is_none());
        }
    }

    #[test]
    fn the_controller_waits_for_plugged_ports_and_where_pods_wait_for_returns() {
        let before = compose_with(|_| {}, 0);
        let mut claimed = before.clone();
        claimed.ready.clear();
        claimed.checkpoint.sequence += 1;
        assert!(!is_urgent(&before, &claimed));
        assert!(!is_urgent(&claimed, &before), "an offered port is one, whether it is ready or not");
        let mut returned = before.clone();
        returned.returned.insert("p9".into(), generation());
        assert!(!is_urgent(&before, &returned), "it rests anyway");
        returned.degradation = Degradation::PoolEmpty;
        assert!(is_urgent(&before, &returned));
        let plugged = compose_with(|state| drop(state.plugged.insert("p2".into(), "row".into())), 0);
        assert!(is_urgent(&before, &plugged) && !is_urgent(&plugged, &before));
    }
}
