//! Steps of a plan as calls. No choices are left: each step is one change of a patch, or one call.

use kuryr_api::kuryrnode::{KuryrNode, Problem};
use kuryr_kubernetes::patch::{JsonPatch, pointer};
use kuryr_openstack::{
    Error as CloudError,
    neutron::port::{OwnedPort, PortUpdate, Precondition},
};
use kuryr_planning::{
    ownership,
    pool::{CloudStep, Millis, Plan, RecordStep, SpecStep, step::Flags},
};
use kuryr_types::{Epoch, PortId, with_causes};
use serde_json::json;

use super::{creations, observe::Look, servers, trunks};
use crate::{
    cloud::{facts::Access, problem},
    error::{Error, Result},
    term::Term,
    wiring::World,
};

/// Brings the record of a node to what the plan says.
pub(super) async fn record(node: &str, look: &Look, plan: &Plan, world: &World, term: &Term) -> Result<()> {
    match &plan.record {
        RecordStep::Keep => {}
        RecordStep::Create(spec) => {
            term.check()?;
            let made = world.record_calls.create(&KuryrNode::new(node, (**spec).clone())).await?;
            term.state().wrote(node, made);
        }
        RecordStep::Delete => {
            term.check()?;
            let uid = look.record.as_ref().and_then(|record| record.metadata.uid.as_deref());
            world.record_calls.delete(node, uid).await?;
            term.state().forget(node);
            return Ok(());
        }
    }
    if plan.spec.is_empty() {
        return Ok(());
    }
    let Some(record) = &look.record else { return Ok(()) };
    let patch = patch(&plan.spec, record, term.epoch);
    term.check()?;
    match world.record_calls.patch(node, &patch).await {
        Ok(written) => {
            let kept = kept(node, record, &written);
            term.state().wrote(node, written);
            kept
        }
        // The look was old: look again, at what the server has.
        Err(error) if error.is_conflict() || error.is_not_found() => look_again(node, world, term).await,
        Err(error) => Err(error.into()),
    }
}

/// Every patch changes something. An API server that does not know a field leaves it out without a word, and the same patch
/// would be sent again at once, for ever.
fn kept(node: &str, before: &KuryrNode, written: &KuryrNode) -> Result<()> {
    if written.spec == before.spec { Err(Error::NotKept { node: node.to_owned() }) } else { Ok(()) }
}

async fn look_again(node: &str, world: &World, term: &Term) -> Result<()> {
    match world.record_calls.get(node).await? {
        Some(record) => term.state().wrote(node, record),
        None => term.state().forget(node),
    }
    Ok(())
}

/// One patch of all changes. It holds only under our epoch, only for the spec that was looked at (a patch of ours whose answer
/// was lost may have changed it, and the watch be behind), and each change of an entry only for the generation it was
/// planned for.
fn patch(steps: &[SpecStep], record: &KuryrNode, epoch: Epoch) -> JsonPatch {
    let start = if steps.iter().any(|step| matches!(step, SpecStep::SetEpoch { .. })) {
        JsonPatch::new()
    } else {
        let start = JsonPatch::new().test("/spec/epoch", &epoch);
        // The API server counts changes of the spec in it.
        let changes = record.metadata.generation;
        changes.iter().fold(start, |start, changes| start.test("/metadata/generation", changes))
    };
    steps.iter().fold(start, |patch, step| change(patch, step, record))
}

fn change(patch: JsonPatch, step: &SpecStep, record: &KuryrNode) -> JsonPatch {
    match step {
        SpecStep::SetEpoch { from, to } => patch.test("/spec/epoch", from).replace("/spec/epoch", to),
        SpecStep::Serve { node_uid, checkpoint, mode, host, trunk, server_port } => {
            let before = &record.spec;
            let patch = patch.add("/spec/nodeUid", node_uid).add("/spec/mode", mode);
            let patch = optional(patch, "/spec/checkpoint", checkpoint.as_ref(), before.checkpoint.is_some());
            let patch = optional(patch, "/spec/host", host.as_ref(), before.host.is_some());
            let patch = optional(patch, "/spec/trunk", trunk.as_ref(), before.trunk.is_some());
            optional(patch, "/spec/serverPort", server_port.as_ref(), before.server_port.is_some())
        }
        SpecStep::SetNetworks(networks) => patch.add("/spec/networks", networks),
        SpecStep::SetSubnets(subnets) => patch.add("/spec/subnets", subnets),
        SpecStep::SetClasses(classes) => patch.add("/spec/classes", classes),
        SpecStep::SetDefaultClass(class) => {
            optional(patch, "/spec/defaultClass", class.as_ref(), record.spec.default_class.is_some())
        }
        SpecStep::SetOwnPort(port) => {
            optional(patch, "/spec/ownPort", port.as_ref(), record.spec.own_port.is_some())
        }
        SpecStep::SetWired(wired) => patch.add("/spec/wired", wired),
        SpecStep::SetProblems(problems) => patch.add("/spec/problems", problems),
        SpecStep::Offer { id, entry, replaces } => {
            let patch = match replaces {
                // The whole entry: `doomed` may have been set within its generation.
                Some(former) => patch.test(port(id), former),
                None => patch,
            };
            patch.add(port(id), entry)
        }
        SpecStep::Mark { id, generation, flags } => {
            mark(patch.test(field(id, "generation"), generation), id, *flags)
        }
        SpecStep::Forget { id, entry } => patch.test(port(id), entry).remove(port(id)),
    }
}

fn mark(patch: JsonPatch, id: &PortId, flags: Flags) -> JsonPatch {
    let flags = [
        ("withdrawn", flags.withdrawn),
        ("doomed", flags.doomed),
        ("active", flags.active),
        ("guarded", flags.guarded),
        ("lost", flags.lost),
    ];
    let set = flags.into_iter().filter(|(_, set)| *set);
    set.fold(patch, |patch, (name, _)| patch.add(field(id, name), &json!(true)))
}

fn optional<T: serde::Serialize>(
    patch: JsonPatch,
    path: &str,
    value: Option<&T>,
    is_there: bool,
) -> JsonPatch {
    match value {
        Some(value) => patch.add(path, value),
        None if is_there => patch.remove(path),
        None => patch,
    }
}

fn port(id: &PortId) -> String {
    pointer(&["spec", "ports", id.as_str()])
}

fn field(id: &PortId, name: &str) -> String {
    pointer(&["spec", "ports", id.as_str(), name])
}

/// Makes the calls to Neutron, one after the other; creations are only begun. A failure ends them, unless it is one port's;
/// the rest is planned anew. Tells when to ask again for a turn to create, if it was not ours.
pub(super) async fn cloud(
    node: &str,
    steps: &[CloudStep],
    world: &World,
    term: &Term,
) -> Result<Option<Millis>> {
    let known = world.known();
    let Some(access) = &known.access else { return Ok(None) };
    let mut ask_again = None;
    for step in steps {
        term.check()?;
        match step {
            CloudStep::CreatePorts { request, count, urgency } => {
                ask_again = creations::begin(node, request, (*count, *urgency), access, world, term);
            }
            CloudStep::AddSubports { trunk, subports } => {
                trunks::add(trunk, subports, access, world, term).await;
            }
            CloudStep::RemoveSubports { trunk, ports } => {
                trunks::remove(trunk, ports, access, world, term).await;
            }
            CloudStep::AddPairs { server, ports } => {
                servers::add(server, ports, access, world, term).await;
            }
            CloudStep::RemovePairs { server, ports } => {
                servers::remove(server, ports, access, world, term).await;
            }
            CloudStep::LookAtTrunk { trunk, ports } => {
                trunks::read(trunk, ports, access, world, term).await;
            }
            step => write(node, step, access, world, term).await?,
        }
    }
    world.figures.ports.set(i64::try_from(term.ports.len()).unwrap_or(i64::MAX));
    Ok(ask_again)
}

/// Changes or deletes one port. If the cloud does not let us, the port is read again and left alone for a while, and the
/// others need not wait.
async fn write(node: &str, step: &CloudStep, access: &Access, world: &World, term: &Term) -> Result<()> {
    let Some(id) = step.port() else { return Ok(()) };
    let error = match write_port(step, access, world, term).await {
        Ok(()) => {
            term.ports.let_go(id);
            return Ok(());
        }
        Err(Error::OpenStack(error)) => error,
        Err(error) => return Err(error),
    };
    if error.outcome_unknown() || problem::is_of_one_port(&error) {
        let known = match term.ports.owned(id) {
            Some(port) => reread(&port, access, term).await,
            None => Ok(()),
        };
        if known.is_err() && error.outcome_unknown() {
            term.ports.doubt(node);
            world.list_soon.notify_one();
        }
        // Somebody, or Neutron itself, changed the port meanwhile.
        let others = matches!(error, CloudError::Stale { .. });
        let problem = told(&format!("{} port {id}", what(step)), &error, known.is_ok());
        if others {
            tracing::info!(node, "{}", problem.message);
        } else {
            tracing::warn!(node, reason = problem.reason, "{}", problem.message);
        }
        term.ports.hold_up(id, world.now(), others, problem);
        known?;
    }
    if problem::is_of_one_port(&error) { Ok(()) } else { Err(error.into()) }
}

/// What to tell about `error`. A cloud that `answers` otherwise is not away.
fn told(what: &str, error: &CloudError, answers: bool) -> Problem {
    if matches!(error, CloudError::Stale { .. }) {
        let advice = "others change the same port at the same time; this is tried again";
        return problem::new("PortShared", format!("{what}: {}; {advice}", with_causes(error)));
    }
    if !answers || !error.outcome_unknown() {
        return problem::of(what, error);
    }
    let advice = "this is tried again; look for the request id in Neutron's log";
    problem::new("PortNotChanged", format!("{what}: {}; {advice}", with_causes(error)))
}

/// What is done to a port, for people.
const fn what(step: &CloudStep) -> &'static str {
    match step {
        CloudStep::SetGroups { .. } => "setting the security groups of",
        CloudStep::Cut { .. } => "unbinding",
        CloudStep::Name { .. } | CloudStep::Condemn { .. } => "renaming",
        CloudStep::Delete { .. } => "deleting",
        _ => "changing",
    }
}

async fn write_port(step: &CloudStep, access: &Access, world: &World, term: &Term) -> Result<()> {
    let (id, update) = match step {
        CloudStep::CreatePorts { .. }
        | CloudStep::AddSubports { .. }
        | CloudStep::RemoveSubports { .. }
        | CloudStep::AddPairs { .. }
        | CloudStep::RemovePairs { .. }
        | CloudStep::LookAtTrunk { .. } => return Ok(()),
        CloudStep::SetGroups { id, security_groups } => {
            (id, PortUpdate { security_groups: Some(security_groups.clone()), ..PortUpdate::default() })
        }
        CloudStep::Cut { id } => (id, PortUpdate { host: Some(String::new()), ..PortUpdate::default() }),
        CloudStep::Condemn { id } => {
            let name = term.ports.owned(id).map(|port| ownership::condemned_name(&port.name));
            (id, PortUpdate { name, ..PortUpdate::default() })
        }
        CloudStep::Name { id, name, tag } => {
            add_tag(id, tag, access, term).await?;
            (id, PortUpdate { name: Some(name.clone()), ..PortUpdate::default() })
        }
        CloudStep::Delete { id } => return delete(id, access, world, term).await,
    };
    let Some(port) = term.ports.owned(id) else { return Ok(()) };
    match access.client.update_port(&port, &update, Precondition::Unchanged).await {
        Ok(port) => term.ports.insert(&access.owner, port),
        Err(error) if error.is_not_found() => term.ports.remove(id),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Gives the port a tag, if it has it not.
async fn add_tag(id: &PortId, tag: &str, access: &Access, term: &Term) -> Result<()> {
    let lacks_it = |port: &OwnedPort| port.tags.iter().all(|found| found != tag);
    let Some(port) = term.ports.owned(id).filter(lacks_it) else { return Ok(()) };
    match access.client.tag_port(&access.ownership, &port, tag).await {
        Ok(port) => term.ports.insert(&access.owner, port),
        Err(error) if error.is_not_found() => term.ports.remove(id),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Takes over how the port is in the cloud.
async fn reread(port: &OwnedPort, access: &Access, term: &Term) -> Result<()> {
    match access.client.owned_port(&access.ownership, &port.id).await {
        Ok(port) => term.ports.insert(&access.owner, port),
        Err(error) if error.is_not_found() || matches!(error, CloudError::Foreign { .. }) => {
            term.ports.remove(&port.id);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

async fn delete(id: &PortId, access: &Access, world: &World, term: &Term) -> Result<()> {
    let Some(port) = term.ports.owned(id) else { return Ok(()) };
    match access.client.delete_port(&port).await {
        // It is on a trunk after all: a change arrived late.
        Err(CloudError::Trunk { .. }) => {
            term.trunks.doubt_all();
            world.trunks_soon.notify_one();
            return Ok(());
        }
        done => done?,
    }
    term.ports.remove(id);
    world.figures.deleted.inc();
    if ownership::is_condemned(&port.name) {
        world.figures.collected.inc();
    }
    tracing::info!(port = %id, name = port.name, "deleted port");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kuryr_api::kuryrnode::{KuryrNodeSpec, Mode};
    use kuryr_types::Generation;

    fn check(steps: &[SpecStep], expect: &serde_json::Value) {
        let mut record =
            KuryrNode::new("n", KuryrNodeSpec { host: Some("h".into()), ..KuryrNodeSpec::default() });
        record.metadata.generation = Some(4);
        assert_eq!(patch(steps, &record, 7).to_value(), *expect);
    }

    #[test]
    fn a_record_that_leaves_out_what_is_written_is_told() {
        let before =
            KuryrNode::new("n", KuryrNodeSpec { host: Some("h".into()), ..KuryrNodeSpec::default() });
        let mut written = before.clone();
        // The server counts a write that changes nothing, or may.
        written.metadata.resource_version = Some("2".into());
        let told = kept("n", &before, &written).unwrap_err().to_string();
        assert!(told.contains("KuryrNode n") && told.contains("deploy/crds"), "{told}");
        written.spec.host = Some("other".into());
        assert!(kept("n", &before, &written).is_ok());
    }

    #[test]
    fn every_patch_holds_only_for_what_was_looked_at() {
        let generation = Generation { epoch: 7, counter: 3 };
        let flags = Flags { withdrawn: true, doomed: true, guarded: true, ..Flags::default() };
        check(
            &[SpecStep::Mark { id: "p/1".into(), generation, flags }],
            &json!([
                {"op": "test", "path": "/spec/epoch", "value": 7},
                {"op": "test", "path": "/metadata/generation", "value": 4},
                {"op": "test", "path": "/spec/ports/p~11/generation", "value": "7.3"},
                {"op": "add", "path": "/spec/ports/p~11/withdrawn", "value": true},
                {"op": "add", "path": "/spec/ports/p~11/doomed", "value": true},
                {"op": "add", "path": "/spec/ports/p~11/guarded", "value": true},
            ]),
        );
        check(
            &[SpecStep::SetEpoch { from: 6, to: 7 }],
            &json!([
                {"op": "test", "path": "/spec/epoch", "value": 6},
                {"op": "replace", "path": "/spec/epoch", "value": 7},
            ]),
        );
        check(
            &[SpecStep::Serve {
                node_uid: "u".into(),
                checkpoint: None,
                mode: Mode::NestedVlan,
                host: None,
                trunk: Some("t".into()),
                server_port: Some("p".into()),
            }],
            &json!([
                {"op": "test", "path": "/spec/epoch", "value": 7},
                {"op": "test", "path": "/metadata/generation", "value": 4},
                {"op": "add", "path": "/spec/nodeUid", "value": "u"},
                {"op": "add", "path": "/spec/mode", "value": "nested-vlan"},
                {"op": "remove", "path": "/spec/host"},
                {"op": "add", "path": "/spec/trunk", "value": "t"},
                {"op": "add", "path": "/spec/serverPort", "value": "p"},
            ]),
        );
    }
}
