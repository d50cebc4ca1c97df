//! The story of one Service, on one screen.

use std::{sync::Arc, time::Duration};

use kuryr_kubernetes::{Outcome, store::ObjectKey};
use kuryr_openstack::Error as CloudError;
use kuryr_planning::loadbalancer::{Memory, Plan, Step, plan, view};
use kuryr_types::with_causes;

use super::{
    apply,
    guests::service_of,
    observe::{self, Look},
    status,
    view::note,
};
use crate::{
    cloud::facts::Access,
    error::{Error, Result},
    term::Term,
    wiring::World,
};

/// After a change, until the next look at what came of it: about as long as Octavia needs at least.
const LOOK_AFTER: Duration = Duration::from_millis(200);
/// While something changes the load balancer, or the Service, that is not us.
const BUSY: Duration = Duration::from_secs(1);
/// While the cloud or the lists of the cluster are not known.
const UNKNOWN: Duration = Duration::from_secs(2);

/// Brings the load balancer of one Service closer to what it should be.
///
/// # Errors
///
/// A call failed, or the leadership is over.
pub(crate) async fn reconcile(service: ObjectKey, world: Arc<World>, term: Arc<Term>) -> Result<Outcome> {
    term.check()?;
    let object = world.services.get(&service);
    match look_and_act(&service, &world, &term).await {
        Err(Error::OpenStack(CloudError::Immutable { .. })) => {
            Ok(Outcome::again(BUSY, "the load balancer is being changed"))
        }
        Err(Error::Kubernetes(error)) if error.is_conflict() => {
            // The watch shows it, and brings it forward.
            Ok(Outcome::again(BUSY, "somebody else changed the Service"))
        }
        Err(Error::OpenStack(error)) => {
            status::tell_failure(object.as_deref(), &error, &world);
            Err(Error::OpenStack(error))
        }
        Err(Error::Gone { step, source }) => {
            if !term.balancers.with_memory(&service, Memory::found_gone) {
                tracing::info!(%service, step, "what was looked at is gone");
                return Ok(Outcome::again(BUSY, "what was looked at is gone"));
            }
            status::tell_failure(object.as_deref(), &source, &world);
            Err(Error::Gone { step, source })
        }
        other => other,
    }
}

async fn look_and_act(service: &ObjectKey, world: &World, term: &Term) -> Result<Outcome> {
    let known = world.known();
    let Some(access) = &known.access else {
        return Ok(Outcome::again(UNKNOWN, "the cloud is not known yet"));
    };
    let Some(look) = observe::look(service, &known, access, world, term).await? else {
        return Ok(Outcome::again(UNKNOWN, "lists of Services and endpoint slices, and the pods' subnets"));
    };
    let plan = term.balancers.with_memory(service, |memory| plan(&look.inputs(), memory));
    term.balancers.with_members(|members| members.note(service, look.inputs().actual, &plan.steps));
    status::tell(&look, &plan, world);
    if plan.is_empty() {
        return Ok(match plan.wake_after {
            Some(after) => Outcome::again(Duration::from_millis(after.max(1)), "what is under way"),
            None => {
                term.balancers.with_memory(service, Memory::carried_out);
                note(service, view(&look.inputs(), access.owner.project()), world, term);
                if look.is_over() {
                    term.balancers.forget(service);
                }
                Outcome::Done
            }
        });
    }
    tracing::debug!(%service, ?plan, "planned");
    let floating = carry_out(&plan, &look, access, world, term).await?;
    if let Some(ingress) = &plan.tell {
        term.check()?;
        status::write(&look, ingress, world).await?;
    }
    if let Err(error) = floating {
        return or_go_on(error, &plan, service, world);
    }
    term.balancers.with_memory(service, Memory::carried_out);
    Ok(Outcome::again(LOOK_AFTER, "look at what came of it"))
}

/// Of a failure about a floating IP: what else was done is looked at as if nothing had failed, and what else is to be done in a
/// moment does not wait for longer.
fn or_go_on(error: Error, plan: &Plan, service: &ObjectKey, world: &World) -> Result<Outcome> {
    let after = match plan.wake_after {
        _ if !plan.steps.iter().all(Step::is_about_floating) => LOOK_AFTER,
        Some(after) => Duration::from_millis(after.max(1)),
        None => return Err(error),
    };
    if let Error::OpenStack(error) = &error {
        status::tell_failure(world.services.get(service).as_deref(), error, world);
    }
    Ok(Outcome::again(after, "what else there is to do"))
}

/// Carries the steps of a plan out. Tells of the first that failed of those about floating IPs, for which no other waits.
async fn carry_out(
    plan: &Plan,
    look: &Look,
    access: &Access,
    world: &World,
    term: &Term,
) -> Result<Result<()>> {
    let (service, mut floating) = (look.key(), Ok(()));
    for step in &plan.steps {
        term.check()?;
        match apply::step(step, look, access, world).await.map_err(|error| of_step(step, error)) {
            Err(error) if step.is_about_floating() => {
                tracing::warn!(%service, step = step.name(), "failed: {}", with_causes(&error));
                floating = floating.and(Err(error));
                continue;
            }
            done => done?,
        }
        world.figures.balancer_step(step.name());
        tracing::info!(%service, step = step.name(), balancer = ?step.balancer(), "done");
        let others = concerned(step, look, access, term).into_iter().filter(|other| *other != service);
        others.for_each(|other| world.balancers.add(other));
    }
    Ok(floating)
}

fn of_step(step: &Step, error: Error) -> Error {
    match error {
        Error::OpenStack(gone @ CloudError::NotFound { .. }) if step.is_about_what_was_seen() => {
            Error::Gone { step: step.name(), source: Box::new(gone) }
        }
        other => other,
    }
}

/// Services that share a load balancer and may find another by a step: a port that is free, nobody else on it, another
/// floating IP.
fn concerned(step: &Step, look: &Look, access: &Access, term: &Term) -> Vec<ObjectKey> {
    let ids: Vec<_> = match step {
        Step::DeleteListener { balancer, .. } | Step::DeletePool { balancer, .. } => vec![balancer],
        Step::CreateFloating { .. }
        | Step::AdoptFloating { .. }
        | Step::Associate { .. }
        | Step::KeepFloating { .. }
        | Step::DeleteFloating { .. } => look.balancers.iter().map(|own| &own.id).collect(),
        _ => return vec![],
    };
    let is_it = |found: &&kuryr_openstack::octavia::Carrier| ids.contains(&&found.id);
    let ours = look.shared.iter().filter(is_it).filter(|found| access.owner.has_marked(&found.tags));
    let owners = ours.filter_map(|found| service_of(&found.name));
    owners.chain(ids.iter().flat_map(|id| term.balancers.guests.on(id))).collect()
}
