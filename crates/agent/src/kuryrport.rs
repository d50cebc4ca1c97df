//! The view of a pod's interface for people and old tools: one `KuryrPort` per pod, posted after the answer.
//!
//! Nobody believes it unless the claim agrees, so a post that fails harms nothing: it is tried again, and again when the
//! view is found missing, for as long as the claim lasts. The controller and the garbage collector take it away.

use std::time::Duration;

use kube::Api;
use kuryr_api::{kuryrport::KuryrPort, vif::primary_vifs};
use kuryr_kubernetes::{Outcome, objects::Objects, store::ObjectKey};
use kuryr_planning::{attachment::told, claim::Claim};
use kuryr_types::PortId;

use crate::{
    config::COMPONENT,
    error::{Error, Result},
    wiring::World,
};

/// The view of another life of the pod goes with that life's object.
const OLD_LIFE_GOES: Duration = Duration::from_secs(5);
/// The watch may be behind a pod that was found by asking.
const WATCH_MAY_LAG: Duration = Duration::from_secs(2);

/// Posts the view of a claim, unless it is there.
pub(crate) async fn reconcile(world: &World, port: &PortId) -> Result<Outcome> {
    let claim = world.checkpoint.look(|_, ledger| ledger.claims.get(port).cloned());
    let Some(claim) = claim.filter(|claim| claim.sandbox.is_some()) else { return Ok(Outcome::Done) };
    let Some(pod) = world.pods.store().get(&ObjectKey::from(&claim.pod)) else {
        return Ok(Outcome::wait(WATCH_MAY_LAG, "the watch to show the pod"));
    };
    if pod.identity() != claim.identity || pod.is_terminating() || pod.has_ended() {
        return Ok(Outcome::Done);
    }
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let Some(view) = view(world, port, &claim, &uid)? else {
        return Ok(Outcome::wait(OLD_LIFE_GOES, "the record to describe the port"));
    };
    let posted = world.views.get(&ObjectKey::from(&claim.pod));
    match posted {
        Some(posted) if posted.spec == view.spec && posted.status == view.status => Ok(Outcome::Done),
        Some(posted) if posted.spec.pod_uid == view.spec.pod_uid => replace(world, &posted, view).await,
        Some(_) => Ok(Outcome::wait(OLD_LIFE_GOES, "the view of the pod's former life to go")),
        None => create(world, &view).await,
    }
}

/// The view as it should be; none while the record does not describe the port.
fn view(world: &World, port: &PortId, claim: &Claim, uid: &str) -> Result<Option<KuryrPort>> {
    let state = world.state.get();
    let Some(spec) = state.spec.as_ref() else { return Ok(None) };
    let Some(entry) = spec.ports.get(port) else { return Ok(None) };
    let vif = told::vif(port, entry, spec, &world.config.bridge, world.config.mtu_cap)
        .map_err(|source| Error::Incomplete { port: port.clone(), source })?;
    let is_static = claim.identity.as_str() != uid;
    let vifs = primary_vifs(&vif.to_primitive());
    Ok(Some(KuryrPort::of_pod(&claim.pod, uid, is_static, &world.config.node_name, vifs)))
}

async fn create(world: &World, view: &KuryrPort) -> Result<Outcome> {
    match written(world, objects(world, view).create(view).await) {
        Ok(_) => Ok(Outcome::Done),
        // Posted before, and the watch is behind; or of a former life. The watch will tell.
        Err(kuryr_kubernetes::Error::AlreadyExists { .. }) => {
            Ok(Outcome::wait(WATCH_MAY_LAG, "the watch to show the view"))
        }
        // The pod's namespace or the pod itself goes.
        Err(
            kuryr_kubernetes::Error::NamespaceTerminating { .. } | kuryr_kubernetes::Error::NotFound { .. },
        ) => Ok(Outcome::Done),
        Err(error) => Err(error.into()),
    }
}

async fn replace(world: &World, posted: &KuryrPort, mut view: KuryrPort) -> Result<Outcome> {
    view.metadata = posted.metadata.clone();
    match written(world, objects(world, &view).replace(&view).await) {
        Ok(_) => Ok(Outcome::Done),
        Err(error) if error.is_conflict() || error.is_not_found() => {
            Ok(Outcome::wait(WATCH_MAY_LAG, "the watch to show the view"))
        }
        Err(error) => Err(error.into()),
    }
}

fn written<T>(world: &World, result: kuryr_kubernetes::Result<T>) -> kuryr_kubernetes::Result<T> {
    world.metrics.kuryrport_written(result.is_ok());
    result
}

fn objects(world: &World, view: &KuryrPort) -> Objects<KuryrPort> {
    let namespace = view.metadata.namespace.clone().unwrap_or_default();
    Objects::new(Api::namespaced(world.client.clone(), &namespace), COMPONENT)
}
