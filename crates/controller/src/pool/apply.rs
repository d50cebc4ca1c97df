//! Steps of a plan as calls. No choices are left: each step is one change of a patch, or one call.

use std::time::Duration;

use kuryr_api::kuryrnode::KuryrNode;
use kuryr_kubernetes::patch::{JsonPatch, pointer};
use kuryr_openstack::{
    Error as CloudError,
    neutron::port::{FixedIpRequest, OwnedPort, PortCreate, PortUpdate, Precondition},
};
use kuryr_planning::{
    ownership,
    pool::{CloudStep, Plan, PortRequest, RecordStep, SpecStep, step::Flags},
};
use kuryr_types::{Epoch, PortId};
use serde_json::json;

use super::observe::Look;
use crate::{
    cloud::{facts::Access, problem},
    error::{Error, Result},
    term::{Term, Trouble},
    wiring::World,
};

/// Distances between creations that fail.
const CREATE_AGAIN_FIRST: Duration = Duration::from_secs(1);
const CREATE_AGAIN_MOST: Duration = Duration::from_secs(20);

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
            term.state().wrote(node, written);
            Ok(())
        }
        // The look was old: look again, at what the server has.
        Err(error) if error.is_conflict() || error.is_not_found() => look_again(node, world, term).await,
        Err(error) => Err(error.into()),
    }
}

async fn look_again(node: &str, world: &World, term: &Term) -> Result<()> {
    match world.record_calls.get(node).await? {
        Some(record) => term.state().wrote(node, record),
        None => term.state().forget(node),
    }
    Ok(())
}

/// One patch of all changes. It holds only under our epoch, and each change of an entry only for the generation it was
/// planned for.
fn patch(steps: &[SpecStep], record: &KuryrNode, epoch: Epoch) -> JsonPatch {
    let takes_over = steps.iter().any(|step| matches!(step, SpecStep::SetEpoch { .. }));
    let start = JsonPatch::new();
    let start = if takes_over { start } else { start.test("/spec/epoch", &epoch) };
    steps.iter().fold(start, |patch, step| change(patch, step, record))
}

fn change(patch: JsonPatch, step: &SpecStep, record: &KuryrNode) -> JsonPatch {
    match step {
        SpecStep::SetEpoch { from, to } => patch.test("/spec/epoch", from).replace("/spec/epoch", to),
        SpecStep::Serve { node_uid, checkpoint, host } => {
            let patch = patch.add("/spec/nodeUid", node_uid);
            let patch =
                optional(patch, "/spec/checkpoint", checkpoint.as_ref(), record.spec.checkpoint.is_some());
            optional(patch, "/spec/host", host.as_ref(), record.spec.host.is_some())
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
    let flags = [("withdrawn", flags.withdrawn), ("doomed", flags.doomed), ("active", flags.active)];
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

/// Makes the calls to Neutron, one after the other. A failure ends them; the rest is planned anew.
pub(super) async fn cloud(node: &str, steps: &[CloudStep], world: &World, term: &Term) -> Result<()> {
    let known = world.known();
    let Some(access) = &known.access else { return Ok(()) };
    for step in steps {
        term.check()?;
        match step {
            CloudStep::CreatePorts { request, count } => {
                create(node, request, *count, access, world, term).await?;
            }
            step => {
                let done = write(step, access, world, term).await;
                if let Err(Error::OpenStack(error)) = &done {
                    // Our picture of this port is wrong: a list corrects it.
                    if error.outcome_unknown() || error.retry() != kuryr_types::Retry::Never {
                        term.ports.doubt();
                        world.list_soon.notify_one();
                    }
                }
                done?;
            }
        }
    }
    world.figures.ports.set(i64::try_from(term.ports.len()).unwrap_or(i64::MAX));
    Ok(())
}

/// Makes ports. Where the cloud has room for fewer, fewer are made.
async fn create(
    node: &str,
    request: &PortRequest,
    count: usize,
    access: &Access,
    world: &World,
    term: &Term,
) -> Result<()> {
    // Closed only when the process ends.
    let Ok(_turn) = world.creations.acquire().await else { return Err(Error::NotLeader) };
    let mut count = count;
    loop {
        term.check()?;
        match access.client.create_ports(&access.ownership, &vec![new_port(request); count]).await {
            Ok(ports) => {
                world.figures.created.inc_by(ports.len() as u64);
                tracing::info!(node, count = ports.len(), "made ports");
                term.ports.made(&access.owner, ports);
                // Also if they were fewer than wanted: the next creation tells.
                term.state().trouble.remove(node);
                return Ok(());
            }
            // They exist, and only their name tells that they are ours.
            Err(CloudError::Untagged { .. }) => return adopt(&request.name, access, term).await,
            Err(CloudError::QuotaExceeded { .. } | CloudError::NoFreeAddress { .. }) if count > 1 => {
                count /= 2
            }
            Err(error) => return Err(trouble(node, request, error, world, term)),
        }
    }
}

/// Makes ports ours that were made but could not be tagged.
async fn adopt(name: &str, access: &Access, term: &Term) -> Result<()> {
    for port in access.client.ports_named(access.owner.project(), name).await? {
        let adopted = access.client.adopt_port(&access.ownership, &port).await?;
        term.ports.insert(&access.owner, adopted);
    }
    Ok(())
}

/// Notes what went wrong, for the node's record and for the next creation.
fn trouble(node: &str, request: &PortRequest, error: CloudError, world: &World, term: &Term) -> Error {
    if error.outcome_unknown() {
        term.ports.doubt();
        world.list_soon.notify_one();
    }
    let subnets = request.subnets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let what = format!("making ports in subnets {subnets} for host {}", request.host);
    let mut state = term.state();
    let times = state.trouble.get(node).map_or(0, |trouble| trouble.times);
    let wait = (CREATE_AGAIN_FIRST * 2u32.saturating_pow(times.min(16))).min(CREATE_AGAIN_MOST);
    let trouble = Trouble {
        problem: problem::of(&what, &error),
        times: times + 1,
        until: world.now() + crate::config::millis(wait),
    };
    tracing::warn!(node, reason = trouble.problem.reason, "{}", trouble.problem.message);
    state.trouble.insert(node.to_owned(), trouble);
    error.into()
}

fn new_port(request: &PortRequest) -> PortCreate {
    let subnet =
        |subnet: &kuryr_types::SubnetId| FixedIpRequest { subnet_id: subnet.clone(), ip_address: None };
    PortCreate {
        fixed_ips: request.subnets.iter().map(subnet).collect(),
        security_groups: request.security_groups.clone(),
        host: Some(request.host.clone()),
        device_owner: request.device_owner.to_owned(),
        ..PortCreate::on(request.network.clone(), request.name.clone())
    }
}

/// Changes or deletes one port.
async fn write(step: &CloudStep, access: &Access, world: &World, term: &Term) -> Result<()> {
    let (id, update) = match step {
        CloudStep::CreatePorts { .. } => return Ok(()),
        CloudStep::SetGroups { id, security_groups } => {
            (id, PortUpdate { security_groups: Some(security_groups.clone()), ..PortUpdate::default() })
        }
        CloudStep::Cut { id } => (id, PortUpdate { host: Some(String::new()), ..PortUpdate::default() }),
        CloudStep::Condemn { id } => {
            let name = term.ports.owned(id).map(|port| ownership::condemned_name(&port.name));
            (id, PortUpdate { name, ..PortUpdate::default() })
        }
        CloudStep::Delete { id } => return delete(id, access, world, term).await,
    };
    let Some(port) = term.ports.owned(id) else { return Ok(()) };
    match access.client.update_port(&port, &update, Precondition::Unchanged).await {
        Ok(port) => term.ports.insert(&access.owner, port),
        Err(error) if error.is_not_found() => term.ports.remove(id),
        Err(CloudError::Stale { .. }) => reread(&port, access, term).await?,
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Somebody, or Neutron itself, changed the port meanwhile.
async fn reread(port: &OwnedPort, access: &Access, term: &Term) -> Result<()> {
    match access.client.owned_port(&access.ownership, &port.id).await {
        Ok(port) => term.ports.insert(&access.owner, port),
        Err(error) if error.is_not_found() => term.ports.remove(&port.id),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

async fn delete(id: &PortId, access: &Access, world: &World, term: &Term) -> Result<()> {
    let Some(port) = term.ports.owned(id) else { return Ok(()) };
    access.client.delete_port(&port).await?;
    term.ports.remove(id);
    world.figures.deleted.inc();
    tracing::info!(port = %id, name = port.name, "deleted port");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kuryr_api::kuryrnode::KuryrNodeSpec;
    use kuryr_types::Generation;

    fn check(steps: &[SpecStep], expect: &serde_json::Value) {
        let record =
            KuryrNode::new("n", KuryrNodeSpec { host: Some("h".into()), ..KuryrNodeSpec::default() });
        assert_eq!(patch(steps, &record, 7).to_value(), *expect);
    }

    #[test]
    fn every_patch_holds_only_under_its_epoch_and_generation() {
        let generation = Generation { epoch: 7, counter: 3 };
        let flags = Flags { withdrawn: true, doomed: true, active: false };
        check(
            &[SpecStep::Mark { id: "p/1".into(), generation, flags }],
            &json!([
                {"op": "test", "path": "/spec/epoch", "value": 7},
                {"op": "test", "path": "/spec/ports/p~11/generation", "value": "7.3"},
                {"op": "add", "path": "/spec/ports/p~11/withdrawn", "value": true},
                {"op": "add", "path": "/spec/ports/p~11/doomed", "value": true},
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
            &[SpecStep::Serve { node_uid: "u".into(), checkpoint: None, host: None }],
            &json!([
                {"op": "test", "path": "/spec/epoch", "value": 7},
                {"op": "add", "path": "/spec/nodeUid", "value": "u"},
                {"op": "remove", "path": "/spec/host"},
            ]),
        );
    }
}
