//! Object metadata without the parts that nobody here reads: managed fields, the last applied manifest, owners
//! other than the controller.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde::{Deserialize, Deserializer};

/// The whole manifest once more, as an annotation: often the largest part of an object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Reads metadata and keeps what is used; for `#[serde(deserialize_with)]`.
pub(super) fn trimmed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    Kept::deserialize(deserializer).map(Kept::into_metadata)
}

/// UID of the object that controls this one: the `ReplicaSet` of a pod, the Deployment of a `ReplicaSet`.
#[must_use]
pub fn controller_of(metadata: &ObjectMeta) -> Option<&str> {
    metadata.owner_references.as_ref()?.first().map(|owner| owner.uid.as_str())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    deletion_grace_period_seconds: Option<i64>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    finalizers: Option<Vec<String>>,
    #[serde(default)]
    owner_references: Vec<OwnerReference>,
}

impl Kept {
    fn into_metadata(self) -> ObjectMeta {
        let annotations = self.annotations.map(|mut annotations| {
            annotations.remove(LAST_APPLIED);
            annotations
        });
        let controller = self.owner_references.into_iter().find(|owner| owner.controller == Some(true));
        ObjectMeta {
            name: self.name,
            namespace: self.namespace,
            uid: self.uid,
            resource_version: self.resource_version,
            generation: self.generation,
            creation_timestamp: self.creation_timestamp,
            deletion_timestamp: self.deletion_timestamp,
            deletion_grace_period_seconds: self.deletion_grace_period_seconds,
            labels: self.labels,
            annotations,
            finalizers: self.finalizers,
            owner_references: controller.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_read_and_drops_the_rest() {
        let text = r#"{"name":"a","namespace":"b","uid":"u","resourceVersion":"7","generation":2,
            "creationTimestamp":"2026-11-01T00:00:00Z","deletionTimestamp":"2026-11-01T00:00:30Z",
            "deletionGracePeriodSeconds":30,"labels":{"l":"1"},"finalizers":["f"],
            "annotations":{"x":"y","kubectl.kubernetes.io/last-applied-configuration":"{}"},
            "ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n","uid":"w"},
                {"apiVersion":"v1","kind":"ReplicaSet","name":"r","uid":"v","controller":true}],
            "managedFields":[{"manager":"kubectl","fieldsV1":{"f:spec":{}}}]}"#;
        let kept = trimmed(&mut serde_json::Deserializer::from_str(text)).unwrap();
        assert_eq!(kept.name.as_deref(), Some("a"));
        assert_eq!(kept.resource_version.as_deref(), Some("7"));
        assert_eq!(kept.deletion_grace_period_seconds, Some(30));
        assert!(kept.deletion_timestamp.is_some());
        assert_eq!(kept.annotations.unwrap().into_keys().collect::<Vec<_>>(), ["x"]);
        assert_eq!(kept.owner_references.unwrap().len(), 1, "the controller");
        assert_eq!(kept.managed_fields, None);
    }
}
