//! `KuryrPort`: upstream's record of a pod's interfaces, kept as a view for people and tools.
//!
//! Group `openstack.org`, version `v1`, no status subresource: a POST with `status` keeps it. The agent of the
//! pod's node posts it after the pod has its network; nobody believes it unless the claim agrees.
//!
//! Source: Kuryr-Kubernetes 10.0, `kubernetes_crds/kuryr_crds/kuryrport.yaml`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kuryr_types::{PodIdentity, PodRef};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{names, upstream_kind::upstream_kind};

/// A pod's interfaces.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KuryrPort {
    /// Always `openstack.org/v1`.
    #[serde(default = "api_version")]
    pub api_version: String,
    /// Always `KuryrPort`.
    #[serde(default = "kind")]
    pub kind: String,
    /// Named after the pod, in its namespace.
    pub metadata: ObjectMeta,
    /// Which pod.
    pub spec: KuryrPortSpec,
    /// Its interfaces.
    #[serde(default)]
    pub status: KuryrPortStatus,
}

/// Which pod a `KuryrPort` is of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KuryrPortSpec {
    /// UID of the pod object.
    pub pod_uid: String,
    /// Node of the pod.
    pub pod_node_name: String,
    /// Whether the pod is static (its UID in the runtime is not that of the object).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_static: Option<bool>,
}

/// Interfaces of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KuryrPortStatus {
    /// By interface name; see [`crate::vif`].
    pub vifs: Map<String, Value>,
}

impl KuryrPort {
    /// The view of `pod` on `node` with one interface. The owner is the pod, so that the garbage collector
    /// removes what nobody else does; no finalizers.
    #[must_use]
    pub fn of_pod(pod: &PodRef, uid: &str, is_static: bool, node: &str, vifs: Map<String, Value>) -> Self {
        let owner = OwnerReference {
            api_version: "v1".into(),
            kind: "Pod".into(),
            name: pod.name.clone(),
            uid: uid.to_owned(),
            ..OwnerReference::default()
        };
        Self {
            api_version: api_version(),
            kind: kind(),
            metadata: ObjectMeta {
                name: Some(pod.name.clone()),
                namespace: Some(pod.namespace.clone()),
                labels: Some([(names::NODE_NAME_LABEL.to_owned(), node.to_owned())].into()),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            },
            spec: KuryrPortSpec {
                pod_uid: uid.to_owned(),
                pod_node_name: node.to_owned(),
                pod_static: Some(is_static),
            },
            status: KuryrPortStatus { vifs },
        }
    }

    /// Identity of the pod as the object tells it.
    #[must_use]
    pub fn identity(&self) -> PodIdentity {
        self.spec.pod_uid.as_str().into()
    }
}

fn api_version() -> String {
    "openstack.org/v1".to_owned()
}

fn kind() -> String {
    "KuryrPort".to_owned()
}

upstream_kind!(KuryrPort, "kuryrports", KuryrPortSpec);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vif;
    use serde_json::json;

    /// But for its finalizer, which is recognised and never added, and the version of the port profile, which old daemons know.
    #[test]
    fn equals_upstreams_of_a_pod_that_runs() {
        let vif = vif::tests::plugged(vif::tests::four()).to_primitive();
        let uid = "7d9b1c52-64a0-4c1e-9a55-6c0b4a2f7710";
        let view = KuryrPort::of_pod(
            &PodRef::new("team-a", "web-0"),
            uid,
            false,
            "worker-1",
            vif::primary_vifs(&vif),
        );
        let mut golden: Value =
            serde_json::from_str(include_str!("../golden/kuryrport-active.json")).unwrap();
        assert_eq!(golden["metadata"]["finalizers"], json!([names::KURYRPORT_FINALIZER]));
        golden["metadata"].as_object_mut().unwrap().retain(|name, _| name != "finalizers");
        vif::tests::with_older_profile(&mut golden["status"]["vifs"]["eth0"]["vif"]);
        let written = serde_json::to_value(&view).unwrap();
        assert_eq!(written, golden);
        assert_eq!(written.to_string(), golden.to_string());
    }

    /// Objects of upstream's, before and after it asked for VIFs, and with several interfaces.
    #[test]
    fn reads_what_upstream_wrote_and_loses_nothing() {
        for (golden, vifs) in [
            (include_str!("../golden/upstream-kuryrport-created.json"), &[][..]),
            (include_str!("../golden/upstream-kuryrport-requested.json"), &["eth0"]),
            (include_str!("../golden/upstream-kuryrport-several-vifs.json"), &["eth0", "eth1"]),
        ] {
            let golden: Value = serde_json::from_str(golden).unwrap();
            let view: KuryrPort = serde_json::from_value(golden.clone()).unwrap();
            assert_eq!(view.identity().as_str(), "7d9b1c52-64a0-4c1e-9a55-6c0b4a2f7710");
            assert_eq!(
                view.metadata.finalizers.as_deref(),
                Some(&[names::KURYRPORT_FINALIZER.to_owned()][..])
            );
            assert_eq!(view.status.vifs.keys().collect::<Vec<_>>(), vifs);
            assert_eq!(serde_json::to_value(&view).unwrap(), golden);
        }
    }

    #[test]
    fn has_upstreams_shape() {
        let vifs = crate::vif::primary_vifs(&json!({"a": 1}));
        let port = KuryrPort::of_pod(&PodRef::new("team-a", "web-0"), "7d9b", false, "worker-1", vifs);
        assert_eq!(
            serde_json::to_value(&port).unwrap(),
            json!({
                "apiVersion": "openstack.org/v1",
                "kind": "KuryrPort",
                "metadata": {
                    "name": "web-0", "namespace": "team-a",
                    "labels": {"kuryr.openstack.org/nodeName": "worker-1"},
                    "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "web-0", "uid": "7d9b"}],
                },
                "spec": {"podUid": "7d9b", "podNodeName": "worker-1", "podStatic": false},
                "status": {"vifs": {"eth0": {"default": true, "vif": {"a": 1}}}},
            })
        );
    }
}
