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

/// After what calls for a view, which then waits until pods have started.
pub(crate) const POST_AFTER: Duration = Duration::from_secs(1);
/// How long pods that come one after the other hold views back.
const POST_WITHIN: Duration = Duration::from_secs(10);
/// The view of another life of the pod goes with that life's object.
const OLD_LIFE_GOES: Duration = Duration::from_secs(5);
/// The watch may be behind a pod that was found by asking.
const WATCH_MAY_LAG: Duration = Duration::from_secs(2);

/// Posts the view of a claim, unless it is there.
pub(crate) async fn reconcile(world: &World, port: &PortId) -> Result<Outcome> {
    let claim = world.checkpoint.look(|_, ledger| ledger.claims.get(port).cloned());
    let Some(claim) = claim.filter(|claim| claim.sandbox.is_some()) else { return Ok(Outcome::Done) };
    if let Some(pause) = world.sandboxes.pause(POST_WITHIN) {
        return Ok(Outcome::again(pause, "no pods to be connected"));
    }
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
    let vif = told::vif(port, entry, spec, &world.config.bridge, state.mtu_cap(world.config.mtu_cap))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkpoint::tests::in_memory,
        kernel::fake::FakeKernel,
        pods::fake::{pod, pod_json},
        wiring::fake::FakeWorld,
    };
    use std::sync::Arc;

    use kuryr_api::kuryrnode::KuryrNodeSpec;
    use kuryr_kubernetes::slim;
    use serde_json::json;

    /// An agent on which `web-0` with identity `a` is connected by port `p0`.
    fn world(pods: Vec<slim::Pod>) -> FakeWorld {
        let world = FakeWorld::new(in_memory(), FakeKernel::default(), pods);
        let spec: KuryrNodeSpec = serde_json::from_value(json!({
            "ports": {"p0": {
                "generation": "1.1", "class": "c", "mac": "fa:16:3e:00:00:01", "network": "n",
                "addresses": [{"subnet": "s", "address": "10.0.0.10"}],
            }},
            "networks": {"n": {"name": "pods", "mtu": 1442}}, "subnets": {"s": {"cidr": "10.0.0.0/24"}},
        }))
        .unwrap();
        world.world.state.update(|state| state.spec = Some(Arc::new(spec)));
        let claim = json!({
            "generation": "1.1", "pod": {"namespace": "team-a", "name": "web-0"}, "identity": "a",
            "links": {"mac": "fa:16:3e:00:00:01", "mtu": 1442, "addresses": []},
            "sandbox": {
                "containerId": "c1", "ifname": "eth0", "netns": "/run/netns/c1", "netnsId": "4:1",
                "hostIfname": "krpp0",
            },
        });
        let claim: Claim = serde_json::from_value(claim).unwrap();
        world.world.checkpoint.change(|ledger| (true, ledger.claim(&"p0".into(), claim)));
        world
    }

    async fn writes(world: &FakeWorld) -> Vec<(String, String, serde_json::Value)> {
        reconcile(&world.world, &"p0".into()).await.unwrap();
        std::mem::take(&mut *world.server.writes.lock().unwrap())
    }

    #[tokio::test]
    async fn posted_once_and_again_when_it_is_missing() {
        let world = world(vec![pod("web-0", "a")]);
        let (method, path, body) = writes(&world).await.remove(0);
        assert_eq!(
            (method.as_str(), path.as_str()),
            ("POST", "/apis/openstack.org/v1/namespaces/team-a/kuryrports")
        );
        assert_eq!(body["spec"], json!({"podUid": "a", "podNodeName": "node1", "podStatic": false}));
        assert_eq!(body["status"]["vifs"]["eth0"]["vif"]["versioned_object.data"]["active"], true);
        world.world.views.apply(serde_json::from_value(body).unwrap());
        assert!(writes(&world).await.is_empty());
        world.world.views.delete(&ObjectKey::namespaced("team-a", "web-0"));
        assert_eq!(writes(&world).await.len(), 1);
    }

    #[tokio::test]
    async fn a_static_pod_is_told_by_its_object() {
        let mut mirror = pod_json("web-0", "uid-of-the-object");
        mirror["metadata"]["annotations"] =
            json!({"kubernetes.io/config.mirror": "a", "kubernetes.io/config.hash": "a"});
        let world = world(vec![serde_json::from_value(mirror).unwrap()]);
        let (_, _, body) = writes(&world).await.remove(0);
        assert_eq!(body["spec"]["podUid"], "uid-of-the-object");
        assert_eq!(body["spec"]["podStatic"], true);
        assert_eq!(body["metadata"]["ownerReferences"][0]["uid"], "uid-of-the-object");
    }

    #[tokio::test]
    async fn a_view_of_the_former_life_is_not_touched() {
        let world = world(vec![pod("web-0", "a")]);
        let former = json!({
            "apiVersion": "openstack.org/v1", "kind": "KuryrPort",
            "metadata": {"namespace": "team-a", "name": "web-0"},
            "spec": {"podUid": "former", "podNodeName": "node1"}, "status": {"vifs": {}},
        });
        world.world.views.apply(serde_json::from_value(former).unwrap());
        assert!(writes(&world).await.is_empty());
        // A pod that leaves needs no view.
        let mut leaving = pod_json("web-0", "a");
        leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        world.world.pods.store().apply(serde_json::from_value(leaving).unwrap());
        world.world.views.delete(&ObjectKey::namespaced("team-a", "web-0"));
        assert!(writes(&world).await.is_empty());
    }
}
