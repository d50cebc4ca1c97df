//! Views of pods that have ended.
//!
//! A `KuryrPort` is owned by its pod, so the garbage collector removes it with the pod. A pod that has ended and was not
//! deleted (a finished Job) keeps its object: its view is removed here, for the address is no longer the pod's.

use kuryr_api::{kuryrport::KuryrPort, names};
use kuryr_kubernetes::{
    Outcome,
    objects::Objects,
    patch::JsonPatch,
    store::{ObjectKey, Presence},
};
use kuryr_types::PodRef;

use crate::{config::COMPONENT, error::Result, wiring::World};

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
