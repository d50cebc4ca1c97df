//! Views of pods that have ended.
//!
//! A `KuryrPort` is owned by its pod, so the garbage collector removes it with the pod. A pod that has ended and was not
//! deleted (a finished Job) keeps its object: its view is removed here, for the address is no longer the pod's. So is the
//! view of a pod that has ended and is being deleted, if that takes long: normally it is gone in a moment.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kuryr_api::{kuryrport::KuryrPort, names};
use kuryr_kubernetes::{
    Outcome,
    objects::Objects,
    patch::JsonPatch,
    slim,
    store::{ObjectKey, Presence},
};
use kuryr_types::PodRef;

use crate::{config::COMPONENT, error::Result, wiring::World};

/// How long the deletion of a pod that has ended may take before its view goes first.
const DELETED_WITHIN: Duration = Duration::from_secs(15);

/// Removes the view of `pod` if the pod has ended.
///
/// # Errors
///
/// A call failed.
pub(crate) async fn reconcile(pod: PodRef, world: &World) -> Result<Outcome> {
    let Presence::Present(found) = world.pods.presence(&ObjectKey::from(&pod)) else {
        return Ok(Outcome::Done);
    };
    if !found.has_ended() {
        return Ok(Outcome::Done);
    }
    if is_going(&found, world.clock.now()) {
        return Ok(Outcome::again(DELETED_WITHIN, "the pod to be gone, and its view with it"));
    }
    let api = kube::Api::<KuryrPort>::namespaced(world.client.clone(), &pod.namespace);
    let views = Objects::new(api, COMPONENT);
    let Some(view) = views.get(&pod.name).await? else { return Ok(Outcome::Done) };
    // The name may be another pod's by now.
    if view.spec.pod_uid != found.identity().as_str()
        && Some(&view.spec.pod_uid) != found.metadata.uid.as_ref()
    {
        return Ok(Outcome::Done);
    }
    release_upstreams_finalizer(&views, &view).await?;
    views.delete(&pod.name, view.metadata.uid.as_deref()).await?;
    Ok(Outcome::Done)
}

/// Whether the deletion of a pod is under way and not overdue. The time of deletion is that by which it should be gone.
fn is_going(pod: &slim::Pod, now: Timestamp) -> bool {
    let deletion = pod.metadata.deletion_timestamp.as_ref();
    let within = SignedDuration::try_from(DELETED_WITHIN).unwrap_or(SignedDuration::MAX);
    deletion.is_some_and(|Time(at)| now.duration_since(*at) < within)
}

/// Upstream's controller waited for its own finalizer; there is nobody else to remove it now.
async fn release_upstreams_finalizer(views: &Objects<KuryrPort>, view: &KuryrPort) -> Result<()> {
    let finalizers = view.metadata.finalizers.iter().flatten();
    let Some(at) = finalizers.clone().position(|name| name == names::KURYRPORT_FINALIZER) else {
        return Ok(());
    };
    let path = format!("/metadata/finalizers/{at}");
    let patch = JsonPatch::new().test(&path, &names::KURYRPORT_FINALIZER).remove(&path);
    let name = view.metadata.name.as_deref().unwrap_or_default();
    views.patch(name, &patch).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_that_should_be_gone_by_now_is_waited_for_a_while() {
        let at: Timestamp = "2026-11-01T00:00:30Z".parse().unwrap();
        let pod = |metadata| -> slim::Pod { serde_json::from_value(json!({"metadata": metadata})).unwrap() };
        let deleted = pod(json!({"deletionTimestamp": at.to_string()}));
        let after = |seconds: i64| at + SignedDuration::from_secs(seconds);
        for (pod, now, expect) in [
            (&deleted, after(-25), true),
            (&deleted, after(14), true),
            (&deleted, after(15), false),
            (&pod(json!({})), after(0), false),
        ] {
            assert_eq!(is_going(pod, now), expect, "{now}");
        }
    }
}
