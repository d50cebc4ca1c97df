//! Namespaces: their labels, annotations, and whether they are going away.
//!
//! Source: Kubernetes API reference, Namespace v1.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

/// A namespace.
#[derive(kube::Resource, Deserialize, Debug, Clone, PartialEq)]
#[resource(inherit = k8s_openapi::api::core::v1::Namespace)]
pub struct Namespace {
    /// Trimmed metadata.
    #[serde(deserialize_with = "super::metadata::trimmed")]
    pub metadata: ObjectMeta,
    /// Where it is in its life.
    #[serde(default)]
    pub status: NamespaceStatus,
}

/// Where a namespace is in its life.
#[derive(Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(default)]
pub struct NamespaceStatus {
    /// The phase.
    pub phase: NamespacePhase,
}

/// The phase of a namespace.
#[derive(Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NamespacePhase {
    /// In use.
    #[default]
    Active,
    /// Being deleted with all it holds.
    Terminating,
    /// A word of a later release.
    #[serde(other)]
    Unknown,
}

impl Namespace {
    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// Whether nothing can be created in it any more.
    #[must_use]
    pub fn is_terminating(&self) -> bool {
        self.metadata.deletion_timestamp.is_some() || self.status.phase == NamespacePhase::Terminating
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_whether_it_goes_away() {
        for (text, expect) in [
            (r#"{"metadata":{"name":"a"}}"#, false),
            (r#"{"metadata":{"name":"a"},"status":{"phase":"Active"}}"#, false),
            (r#"{"metadata":{"name":"a"},"status":{"phase":"Terminating"}}"#, true),
            (r#"{"metadata":{"name":"a","deletionTimestamp":"2026-11-01T00:00:00Z"}}"#, true),
        ] {
            let namespace: Namespace = serde_json::from_str(text).unwrap();
            assert_eq!(namespace.is_terminating(), expect, "{text}");
        }
    }
}
