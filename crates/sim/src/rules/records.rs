//! Records: what controllers offer to nodes, and what agents report.

use kuryr_api::kuryrnode::{KuryrNode, KuryrNodeStatus, PortEntry};
use kuryr_planning::pool::invariants::violations;
use kuryr_types::PortId;
use serde_json::Value;

use super::{connected, mac_of};
use crate::{
    faults::Caller,
    world::{RECORDS, State, World},
};

impl World {
    /// A program wrote an object.
    pub(crate) fn note_write(
        &self,
        (caller, is_late): (&Caller, bool),
        path: &str,
        before: Option<&Value>,
        after: Option<&Value>,
    ) {
        let Some(node) = path.strip_prefix(RECORDS).map(|rest| rest.trim_matches('/')) else { return };
        let read = |value: Option<&Value>| -> Option<KuryrNode> {
            value.map(|value| serde_json::from_value(value.clone()).unwrap())
        };
        let (before, after) = (read(before), read(after));
        let Some(after) = after else {
            let ports = before.map_or(0, |before| before.spec.ports.len());
            if ports > 0 {
                self.broken(format!("the record of {node} is deleted with {ports} ports"));
            }
            return;
        };
        let old = before.clone().unwrap_or_default();
        if after.spec != old.spec {
            self.judge_offers(caller, node, &old, &after);
        }
        if after.status != old.status {
            self.judge_report((caller, is_late), node, &old, &after);
        }
    }

    fn judge_offers(&self, caller: &Caller, node: &str, old: &KuryrNode, new: &KuryrNode) {
        let is_gone = self.node_uid(node).is_none_or(|uid| uid != old.spec.node_uid);
        let mut found: Vec<String> = violations(&old.spec, old.status.as_ref(), &new.spec, is_gone)
            .into_iter()
            .map(|violation| format!("{violation:?}"))
            .collect();
        if !caller.name().starts_with("controller") {
            found.push("its author is no controller".to_owned());
        }
        {
            let state = &mut *self.state();
            let is_new = |id: &PortId, entry: &PortEntry| {
                old.spec.ports.get(id).is_none_or(|former| former.generation != entry.generation)
            };
            for (id, entry) in new.spec.ports.iter().filter(|(id, entry)| is_new(id, entry)) {
                if !state.rules.generations.insert(entry.generation) {
                    found.push(format!("generation {} of {id} was used before", entry.generation));
                }
                found.extend(offer_objections(state, node, id.as_str(), entry));
            }
        }
        found
            .into_iter()
            .for_each(|why| self.broken(format!("{} writes what {node} is offered: {why}", caller.name())));
    }

    fn judge_report(&self, (caller, is_late): (&Caller, bool), node: &str, old: &KuryrNode, new: &KuryrNode) {
        let mut found = Vec::new();
        if !caller.name().starts_with(&format!("agent-{node}.")) {
            found.push("its author is another".to_owned());
        }
        let nothing = KuryrNodeStatus::default();
        let (before, now) =
            (old.status.as_ref().unwrap_or(&nothing), new.status.as_ref().unwrap_or(&nothing));
        // A report that arrives late is an old one; the agent sees that and reports again.
        let same_record = before.checkpoint.id == now.checkpoint.id;
        if same_record && now.checkpoint.sequence < before.checkpoint.sequence && !is_late {
            found.push(format!("the checkpoint goes back to {}", now.checkpoint.sequence));
        }
        {
            let state = self.state();
            for (id, generation) in &now.returned {
                let entry = new.spec.ports.get(id).filter(|entry| entry.generation == *generation);
                let Some(entry) = entry else { continue };
                let users =
                    connected(&state).filter(|(_, joint, pod)| joint.mac == entry.mac && pod.established);
                found.extend(
                    users.map(|(_, _, pod)| {
                        format!("{id} is given back while {} is connected by it", pod.pod)
                    }),
                );
            }
        }
        found.into_iter().for_each(|why| self.broken(format!("{} reports: {why}", caller.name())));
    }
}

/// What speaks against an offer to a node.
fn offer_objections(state: &State, node: &str, id: &str, entry: &PortEntry) -> Vec<String> {
    let mut found = Vec::new();
    let held = entry.addresses.iter().filter_map(|address| state.rules.objection(address.address, ""));
    found.extend(held.map(|why| format!("{id} is offered and {why}")));
    let Some(port) = state.cloud.ports.get(id) else {
        // Somebody may have deleted it since it was looked at.
        return found;
    };
    let host = state.machines[node].host.as_str();
    if port["binding:host_id"] != host {
        found.push(format!("{id} is offered and bound to {}", port["binding:host_id"]));
    }
    if port["security_groups"].as_array().is_none_or(Vec::is_empty) {
        found.push(format!("{id} is offered without groups"));
    }
    if mac_of(port) != Some(entry.mac) {
        found.push(format!("{id} is offered as {} and is {}", entry.mac, port["mac_address"]));
    }
    for (other, joint, pod) in connected(state) {
        if joint.mac == entry.mac {
            found.push(format!("{id} is offered while {} on {other} is connected by it", pod.pod));
        }
    }
    found
}
