//! Taking back what a node had that is gone.
//!
//! Whether its agent still runs is not known, so nothing is asked of it. Every port is doomed, then cut off in
//! Neutron (unbound, or taken off its trunk), so that traffic of a machine that runs on unseen is dropped; only after the rest of its address it
//! is deleted, and forgotten. When the record names nothing any more it is deleted, or, if another Node of the
//! name stands there, waits for the agent of that one.

use super::{
    desired::Draft,
    inputs::Presence,
    memory::RestReason,
    step::{CloudStep, RecordStep},
};
use crate::ownership::{OurPort, Purpose};

pub(super) fn take_back(draft: &mut Draft<'_>) {
    draft.out.node_is_gone = true;
    for (id, entry) in &draft.record.spec.ports {
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

fn take_back_own_port(draft: &mut Draft<'_>) {
    let Some(own) = &draft.record.spec.own_port else { return };
    match draft.ports.get(&own.id).copied() {
        Some(port) if port.host.is_some() => draft.out.cloud.push(CloudStep::Cut { id: own.id.clone() }),
        _ => draft.out.spec.own_port = None,
    }
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
