//! The `KuryrLoadBalancer` of a Service: a view for people and upstream's tools.
//!
//! A look at a Service whose load balancer is settled notes what the view should be; it is written some time later, so
//! that endpoints that come one after the other cost one write. Nobody believes it, but that an address which it tells as a
//! member's is kept from reuse until the Service has been looked at: one that somebody has changed is written again, and a
//! write that fails harms nothing. The garbage collector takes it away with its Service; upstream's
//! finalizer, for which nobody else waits any more, is removed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kube::Api;
use kuryr_api::{kuryrloadbalancer::KuryrLoadBalancer, names::KURYRLOADBALANCER_FINALIZER};
use kuryr_kubernetes::{
    Error as KubernetesError, Outcome,
    objects::Objects,
    patch::JsonPatch,
    store::{ObjectKey, Presence},
    watch::Change,
};
use kuryr_planning::loadbalancer::View;

use super::concerns_us;
use crate::{config::COMPONENT, error::Result, term::Term, wiring::World};

/// After what calls for a view, so that what follows it at once is in the same write.
const WRITE_AFTER: Duration = Duration::from_secs(1);
/// The watch may be behind our own write.
const WATCH_MAY_LAG: Duration = Duration::from_secs(2);

/// What views should be, by Service, as far as a leadership knows; none: there should be none.
pub(super) type Views = BTreeMap<ObjectKey, Option<Arc<KuryrLoadBalancer>>>;

/// Notes what the view of a Service should be.
pub(super) fn note(service: &ObjectKey, view: View, world: &World, term: &Term) {
    let wanted: Option<Arc<KuryrLoadBalancer>> = match view {
        View::Unsettled => return,
        View::Nothing => None,
        View::Is(view) => Some(Arc::from(view)),
    };
    let is_so = match (&wanted, world.views.get(service)) {
        (Some(wanted), Some(posted)) => wanted.tells_the_same(&posted),
        (None, None) => true,
        _ => false,
    };
    term.balancers.with_views(|views| views.insert(service.clone(), wanted));
    if !is_so {
        world.view_keys.add_after(service.clone(), WRITE_AFTER);
    }
}

/// A view has changed, by us or by somebody else.
pub(crate) fn follow(change: &Change<KuryrLoadBalancer>, world: &World) {
    for view in change.touched() {
        let key = ObjectKey::of(view.as_ref());
        if view.status.loadbalancer.is_none() && world.services.get(&key).is_some() {
            // Upstream's users write `{}` there to have everything looked for again.
            world.look_at_balancer(key.clone());
        }
        world.look_at_view_after(key, WRITE_AFTER);
    }
}

/// Brings the view of one Service closer to what it should be.
///
/// # Errors
///
/// A call failed, or the leadership is over.
pub(crate) async fn reconcile(key: ObjectKey, world: Arc<World>, term: Arc<Term>) -> Result<Outcome> {
    term.check()?;
    let posted = world.views.get(&key);
    let views = Objects::new(Api::namespaced(world.client.clone(), &key.namespace), COMPONENT);
    if let Some(leaving) = posted.as_ref().filter(|view| view.metadata.deletion_timestamp.is_some()) {
        return settled(release(&views, leaving).await);
    }
    // Of a Service that is gone the garbage collector takes it away, and comes by here if it has to wait for us.
    let Presence::Present(service) = world.services.presence(&key) else { return Ok(Outcome::Done) };
    let Some(wanted) = term.balancers.with_views(|views| views.get(&key).cloned()) else {
        // Who led before ended between the finalizer and the view, and nobody else would look at this Service.
        if !concerns_us(&service, &world) {
            world.look_at_balancer(key);
        }
        return Ok(Outcome::Done);
    };
    match (wanted, posted) {
        (None, None) => Ok(Outcome::Done),
        (None, Some(posted)) => settled(remove(&views, &posted).await),
        (Some(wanted), Some(posted)) if wanted.tells_the_same(&posted) => Ok(Outcome::Done),
        (Some(wanted), Some(posted)) => settled(views.replace(&in_the_place_of(&posted, &wanted)).await),
        (Some(wanted), None) => settled(views.create(&wanted).await),
    }
}

/// The object as it should be, with the labels and annotations that people gave it and others' finalizers.
fn in_the_place_of(posted: &KuryrLoadBalancer, wanted: &KuryrLoadBalancer) -> KuryrLoadBalancer {
    let mut view = wanted.clone();
    let owners = view.metadata.owner_references.take();
    view.metadata = posted.metadata.clone();
    view.metadata.owner_references = owners;
    view.metadata.finalizers.iter_mut().for_each(|all| all.retain(|it| it != KURYRLOADBALANCER_FINALIZER));
    view
}

async fn remove(
    views: &Objects<KuryrLoadBalancer>,
    posted: &KuryrLoadBalancer,
) -> kuryr_kubernetes::Result<()> {
    release(views, posted).await?;
    let name = posted.metadata.name.as_deref().unwrap_or_default();
    views.delete(name, posted.metadata.uid.as_deref()).await.map(drop)
}

/// Removes upstream's finalizer.
async fn release(
    views: &Objects<KuryrLoadBalancer>,
    posted: &KuryrLoadBalancer,
) -> kuryr_kubernetes::Result<()> {
    let Some(at) = posted.upstreams_finalizer() else { return Ok(()) };
    let path = format!("/metadata/finalizers/{at}");
    let patch = JsonPatch::new().test(&path, &KURYRLOADBALANCER_FINALIZER).remove(&path);
    views.patch(posted.metadata.name.as_deref().unwrap_or_default(), &patch).await.map(drop)
}

/// What became of a write; the watch tells what somebody else did meanwhile.
fn settled<T>(written: kuryr_kubernetes::Result<T>) -> Result<Outcome> {
    match written {
        Ok(_) => Ok(Outcome::Done),
        // Its namespace goes, or it is gone.
        Err(KubernetesError::NamespaceTerminating { .. } | KubernetesError::NotFound { .. }) => {
            Ok(Outcome::Done)
        }
        Err(KubernetesError::AlreadyExists { .. }) => {
            Ok(Outcome::wait(WATCH_MAY_LAG, "the watch to show the view"))
        }
        Err(error) if error.is_conflict() => Ok(Outcome::wait(WATCH_MAY_LAG, "the watch to show the view")),
        Err(error) => Err(error.into()),
    }
}
