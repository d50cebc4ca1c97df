//! Nodes: their addresses, and what an operator says about them.
//!
//! Sources: Kubernetes API reference, Node v1; "Well-Known Labels, Annotations and Taints".

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Deserializer};

/// A node.
#[derive(kube::Resource, Deserialize, Debug, Clone, PartialEq)]
#[resource(inherit = k8s_openapi::api::core::v1::Node)]
pub struct Node {
    /// Trimmed metadata.
    #[serde(deserialize_with = "super::metadata::trimmed")]
    pub metadata: ObjectMeta,
    /// What the operator and the cloud say.
    #[serde(default)]
    pub spec: NodeSpec,
    /// What the kubelet reports.
    #[serde(default)]
    pub status: NodeStatus,
}

/// What the operator and the cloud say.
#[derive(Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    /// Whether new pods are kept away (`kubectl cordon`).
    pub unschedulable: bool,
    /// Marks that keep pods away or evict them.
    pub taints: Vec<Taint>,
    /// The machine as the cloud names it, for example `openstack:///<server id>`.
    #[serde(rename = "providerID")]
    pub provider_id: Option<String>,
}

/// A mark that keeps pods away or evicts them.
#[derive(Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Taint {
    /// Its name.
    pub key: String,
    /// Its value; often empty.
    #[serde(default)]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// What the kubelet reports.
#[derive(Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(default)]
pub struct NodeStatus {
    /// Addresses and host names.
    pub addresses: Vec<NodeAddress>,
    /// What pods can have of it.
    pub allocatable: Allocatable,
}

/// What pods can have of a node.
#[derive(Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(default)]
pub struct Allocatable {
    /// How many pods the kubelet runs at most; none where it does not tell, or not as a plain number.
    #[serde(deserialize_with = "plain_number")]
    pub pods: Option<u32>,
}

fn plain_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let quantity = serde_json::Value::deserialize(deserializer)?;
    Ok(quantity.as_str().and_then(|text| text.parse().ok()))
}

/// An address or host name of a node.
#[derive(Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname`, `InternalDNS` or `ExternalDNS`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The address or name.
    pub address: String,
}

impl Node {
    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// Whether a taint of this key is set, whatever its effect.
    #[must_use]
    pub fn has_taint(&self, key: &str) -> bool {
        self.spec.taints.iter().any(|taint| taint.key == key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_node_with_much_and_one_with_little() {
        let node: Node = serde_json::from_str(
            r#"{"kind":"Node","metadata":{"name":"n1"},
                "spec":{"unschedulable":true,"providerID":"openstack:///x","podCIDR":"10.1.0.0/24",
                        "taints":[{"key":"node.kubernetes.io/out-of-service","effect":"NoExecute"}]},
                "status":{"addresses":[{"type":"InternalIP","address":"192.0.2.4"}],"images":[{"names":["x"]}],
                          "allocatable":{"cpu":"2","pods":"110"}}}"#,
        )
        .unwrap();
        assert_eq!(node.status.allocatable.pods, Some(110));
        assert_eq!((node.name(), node.spec.unschedulable), ("n1", true));
        assert!(node.has_taint("node.kubernetes.io/out-of-service"));
        assert_eq!(node.status.addresses[0].address, "192.0.2.4");

        let bare: Node = serde_json::from_str(r#"{"metadata":{"name":"n2"}}"#).unwrap();
        assert_eq!((bare.spec, bare.status), (NodeSpec::default(), NodeStatus::default()));
        let odd = r#"{"metadata":{"name":"n3"},"status":{"allocatable":{"pods":"1k"}}}"#;
        let odd: Node = serde_json::from_str(odd).unwrap();
        assert_eq!(odd.status.allocatable.pods, None);
    }
}
