//! Taking back what a node had that is gone.
//!
//! A watch may be behind and not know it: a Node that it does not show may have been made anew, and its agent and pods may be
//! there. So nothing is done before the API server was asked for all three. As nobody waits for a watch then, it is done
//! when the grace period is over.
//!
//! Whether its agent still runs is not known, so nothing is asked of it. A port whose address a pod tells that runs on
//! another Node of the name is left alone: its agent, or one before, has given it to the pod and has not heard of that Node.
//! Every other port is doomed, then cut off in Neutron (unbound, or taken off its trunk), so that traffic of a machine that
//! runs on unseen is dropped; only after the rest of its address it is deleted, and forgotten. The node's own port is
//! forgotten first, then condemned, cut off and deleted. When the record names nothing any more it is deleted, or, if
//! another Node of the name stands there, waits for the agent of that one.

use kuryr_api::kuryrnode::PortEntry;

use super::{
    desired::Draft,
    inputs::{PodFacts, Presence},
    memory::RestReason,
    step::{CloudStep, RecordStep},
};
use crate::ownership::{OurPort, Purpose};

pub(super) fn take_back(draft: &mut Draft<'_>) {
    draft.out.node_is_gone = true;
    for (id, entry) in &draft.record.spec.ports {
        if has_pod(draft, entry) {
            continue;
        }
        draft.doom(id);
        if !entry.doomed || draft.inputs.cloud.ports.is_none() {
            continue;
        }
        match draft.ports.get(id).copied() {
            None => draft.forget_lost(id, entry),
            Some(port) => free_address(draft, port, RestReason::Cut),
        }
    }
    if draft.inputs.cloud.ports.is_some() {
        take_back_own_port(draft);
        take_back_unpublished(draft);
        finish_record(draft);
    }
}

/// Whether a pod of the Node that stands there now has been connected by this port.
fn has_pod(draft: &Draft<'_>, entry: &PortEntry) -> bool {
    let of_entry = |pod: &&PodFacts| entry.addresses.iter().any(|one| pod.addresses.contains(&one.address));
    let mut running = draft.inputs.pods.iter().filter(|pod| !pod.ended && !pod.host_network);
    matches!(draft.presence(), Presence::Present { .. }) && running.any(|pod| of_entry(&pod))
}

/// Cuts a port off, and deletes it after its rest.
fn free_address(draft: &mut Draft<'_>, port: &OurPort, reason: RestReason) {
    if !draft.detach(port) {
        return;
    }
    // A host that we did not bind it to means nothing once it is off its trunk, or its server's port.
    if port.host.is_some() && !port.goes_unbound() {
        draft.out.cloud.push(CloudStep::Cut { id: port.id.clone() });
    } else if draft.has_rested(port, reason) {
        draft.delete(&port.id);
    }
}

/// A call that cuts it off may come late, when another leader serves the node again by this port. So the record gives it up
/// first, and it goes as ports go that no record names: whoever serves the node then takes no port that is condemned.
fn take_back_own_port(draft: &mut Draft<'_>) {
    draft.out.spec.own_port = None;
}

fn take_back_unpublished(draft: &mut Draft<'_>) {
    let unpublished = [draft.unpublished(Purpose::Pool), draft.unpublished(Purpose::Node)].concat();
    let condemn = |port: &OurPort| CloudStep::Condemn { id: port.id.clone() };
    draft.out.cloud.extend(unpublished.into_iter().map(condemn));
    for port in draft.unpublished(Purpose::Condemned) {
        free_address(draft, port, RestReason::Condemned);
    }
}

fn finish_record(draft: &mut Draft<'_>) {
    let spec = draft.record.spec;
    if !spec.ports.is_empty() || spec.own_port.is_some() || !draft.ports.is_empty() {
        return;
    }
    match draft.presence() {
        Presence::Absent => draft.out.record = RecordStep::Delete,
        Presence::Present { uid } => {
            let next = &mut draft.out.spec;
            next.node_uid.clone_from(uid);
            (next.checkpoint, next.host, next.trunk, next.server_port) = (None, None, None, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use kuryr_api::kuryrnode::{KuryrNodeSpec, PortAddress};
    use kuryr_types::Generation;

    use super::super::{
        Cloud, Generations, Held, Inputs, Memory, NodeFacts, Record, SpecStep, fixtures, plan,
    };
    use super::*;
    use crate::{demand::Coming, ownership::pool_port_name};

    /// Ports of a node that is gone which are doomed, where these pods are; another Node stands there, or none.
    fn doomed(another: bool, pods: &[PodFacts]) -> Vec<String> {
        let entry = |last: u8| {
            let address = PortAddress { subnet: fixtures::SUBNET.into(), address: [10, 0, 0, last].into() };
            let generation = Generation { epoch: 1, counter: last.into() };
            PortEntry { addresses: vec![address], ..fixtures::entry(generation) }
        };
        let spec = KuryrNodeSpec {
            epoch: 1,
            node_uid: "u".into(),
            ports: [("a".into(), entry(1)), ("b".into(), entry(2))].into(),
            ..KuryrNodeSpec::default()
        };
        let port = |id: &str| fixtures::port(id, &pool_port_name("w1"), Some("h"));
        let cloud = Cloud { ports: Some(vec![port("a"), port("b")]), ..Cloud::default() };
        let limits = fixtures::limits();
        let presence = if another { Presence::Present { uid: "v".into() } } else { Presence::Absent };
        let (mut memory, status) = (Memory::default(), fixtures::status("u", "c"));
        let mut steps = Vec::new();
        for now in [0, limits.node_grace] {
            let inputs = Inputs {
                now,
                node: "w1",
                in_sync: true,
                presence: &presence,
                facts: &NodeFacts::default(),
                record: Some(Record { spec: &spec, status: Some(&status) }),
                pods,
                asked: true,
                coming: Coming::default(),
                held: Held { addresses: &BTreeSet::new(), told_since: Some(0) },
                cloud: &cloud,
                limits: &limits,
            };
            steps = plan(&inputs, &mut memory, &mut Generations::of_epoch(1)).spec;
        }
        let doomed = steps.into_iter().filter_map(|step| match step {
            SpecStep::Mark { id, flags, .. } if flags.doomed => Some(id.to_string()),
            _ => None,
        });
        doomed.collect()
    }

    #[test]
    fn no_watch_is_believed_alone_that_a_node_is_gone() {
        let limits = fixtures::limits();
        let entry = fixtures::entry(Generation { epoch: 1, counter: 1 });
        let spec = KuryrNodeSpec {
            epoch: 1,
            node_uid: "u".into(),
            ports: [("a".into(), entry)].into(),
            ..KuryrNodeSpec::default()
        };
        let cloud = Cloud {
            ports: Some(vec![fixtures::port("a", &pool_port_name("w1"), Some("h"))]),
            ..Cloud::default()
        };
        let (former, new) = (fixtures::status("u", "c"), fixtures::status("v", "c"));
        let absent = Presence::Absent;
        let present = Presence::Present { uid: "v".into() };
        let mut memory = Memory::default();
        let mut look = |now, asked, presence: &Presence, status| {
            let record = Record { spec: &spec, status: Some(status) };
            let inputs = Inputs { now, asked, presence, ..fixtures::look(record, &cloud) };
            plan(&inputs, &mut memory, &mut Generations::of_epoch(1))
        };
        let is_doomed = |plan: &super::super::Plan| {
            plan.spec.iter().any(|step| matches!(step, SpecStep::Mark { flags, .. } if flags.doomed))
        };
        assert!(!look(0, false, &absent, &former).asks, "its grace has just begun");
        let plan = look(limits.node_grace, false, &absent, &former);
        assert!(plan.asks && plan.is_empty() && plan.wake_at.is_none(), "{plan:?}");
        // It was made anew, and its agent serves it.
        let plan = look(limits.node_grace, true, &present, &new);
        assert!(!plan.asks && !is_doomed(&plan), "{plan:?}");
        // The watch has still not heard of that.
        assert!(!look(limits.node_grace, false, &absent, &new).asks, "its grace begins anew");
        let plan = look(2 * limits.node_grace, true, &absent, &former);
        assert!(is_doomed(&plan), "{plan:?}");
    }

    #[test]
    fn the_own_port_is_cut_off_only_when_no_leader_would_use_it() {
        let limits = fixtures::limits();
        let own = fixtures::own_port("own");
        let node_port = crate::ownership::own_port_name("w1");
        let condemned = crate::ownership::condemned_name(&node_port);
        let mut memory = Memory::default();
        let mut look = |now, is_named: bool, name: &str| {
            let own_port = is_named.then(|| own.clone());
            let spec = KuryrNodeSpec { epoch: 1, node_uid: "u".into(), own_port, ..KuryrNodeSpec::default() };
            let status = fixtures::status("u", "c");
            let cloud =
                Cloud { ports: Some(vec![fixtures::port("own", name, Some("h"))]), ..Cloud::default() };
            let record = Record { spec: &spec, status: Some(&status) };
            let presence = Presence::Absent;
            let inputs = Inputs { now, presence: &presence, ..fixtures::look(record, &cloud) };
            let plan = plan(&inputs, &mut memory, &mut Generations::of_epoch(1));
            (plan.spec, plan.cloud)
        };
        let id = || own.id.clone();
        assert_eq!(look(0, true, &node_port), (vec![], vec![]));
        let now = limits.node_grace;
        assert_eq!(look(now, true, &node_port), (vec![SpecStep::SetOwnPort(None)], vec![]));
        assert_eq!(look(now, false, &node_port), (vec![], vec![CloudStep::Condemn { id: id() }]));
        assert_eq!(look(now, false, &condemned), (vec![], vec![CloudStep::Cut { id: id() }]));
    }

    #[test]
    fn a_port_of_a_pod_that_runs_on_another_node_of_the_name_is_left_alone() {
        let pod = |ended| PodFacts { ended, addresses: vec![[10, 0, 0, 2].into()], ..fixtures::pod("p") };
        assert_eq!(doomed(true, &[]), ["a", "b"]);
        assert_eq!(doomed(true, &[pod(false)]), ["a"]);
        assert_eq!(doomed(true, &[pod(true)]), ["a", "b"], "its address is free");
        assert_eq!(doomed(false, &[pod(false)]), ["a", "b"], "pods of a Node that is deleted go with it");
    }
}
