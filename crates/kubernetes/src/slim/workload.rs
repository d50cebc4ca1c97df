//! What makes pods: Deployments and their `ReplicaSets`, `StatefulSets`, Jobs; as far as they say how many there
//! should be and where they may run.
//!
//! Sources: Kubernetes API reference, Deployment v1, ReplicaSet v1, StatefulSet v1 (apps), Job v1 (batch),
//! PodTemplateSpec.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString};
use serde::Deserialize;

/// The revision of a Deployment that a `ReplicaSet` is.
const REVISION: &str = "deployment.kubernetes.io/revision";

/// A Deployment.
#[derive(kube::Resource, Deserialize, Debug, Clone, PartialEq)]
#[resource(inherit = k8s_openapi::api::apps::v1::Deployment)]
pub struct Deployment {
    /// Trimmed metadata.
    #[serde(deserialize_with = "super::metadata::trimmed")]
    pub metadata: ObjectMeta,
    /// What was asked for.
    #[serde(default)]
    pub spec: DeploymentSpec,
    /// What its controller reports.
    #[serde(default)]
    pub status: DeploymentStatus,
}

/// What was asked for.
#[derive(Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(default)]
pub struct DeploymentSpec {
    /// Pods wanted; the API server fills in 1.
    pub replicas: Option<u32>,
    /// No rollout goes on.
    pub paused: bool,
    /// How pods are replaced.
    pub strategy: Strategy,
}

/// How pods are replaced.
#[derive(Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Strategy {
    /// `RollingUpdate` or `Recreate`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Present with `RollingUpdate`.
    pub rolling_update: Option<RollingUpdate>,
}

/// How many pods are replaced at once.
#[derive(Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct RollingUpdate {
    /// Pods beyond those wanted; a percentage is rounded up.
    pub max_surge: Option<IntOrString>,
    /// Pods that may be missing; a percentage is rounded down.
    pub max_unavailable: Option<IntOrString>,
}

/// What its controller reports.
#[derive(Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(default)]
pub struct DeploymentStatus {
    conditions: Vec<Condition>,
}

/// What its controller reports.
#[derive(Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(default)]
pub struct ReplicaSetStatus {
    conditions: Vec<Condition>,
}

#[derive(Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

/// A `ReplicaSet`, of a Deployment or alone.
#[derive(kube::Resource, Deserialize, Debug, Clone, PartialEq)]
#[resource(inherit = k8s_openapi::api::apps::v1::ReplicaSet)]
pub struct ReplicaSet {
    /// Trimmed metadata.
    #[serde(deserialize_with = "super::metadata::trimmed")]
    pub metadata: ObjectMeta,
    /// What was asked for.
    #[serde(default)]
    pub spec: ReplicaSetSpec,
    /// What its controller reports.
    #[serde(default)]
    pub status: ReplicaSetStatus,
}

/// What was asked for.
#[derive(Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(default)]
pub struct ReplicaSetSpec {
    /// Pods wanted; the API server fills in 1.
    pub replicas: Option<u32>,
    /// What its pods are like.
    pub template: Template,
}

/// A `StatefulSet`.
#[derive(kube::Resource, Deserialize, Debug, Clone, PartialEq)]
#[resource(inherit = k8s_openapi::api::apps::v1::StatefulSet)]
pub struct StatefulSet {
    /// Trimmed metadata.
    #[serde(deserialize_with = "super::metadata::trimmed")]
    pub metadata: ObjectMeta,
    /// What was asked for.
    #[serde(default)]
    pub spec: StatefulSetSpec,
}

/// What was asked for.
#[derive(Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct StatefulSetSpec {
    /// Pods wanted; the API server fills in 1.
    pub replicas: Option<u32>,
    /// `OrderedReady` or `Parallel`.
    pub pod_management_policy: String,
    /// What its pods are like.
    pub template: Template,
}

/// A Job.
#[derive(kube::Resource, Deserialize, Debug, Clone, PartialEq)]
#[resource(inherit = k8s_openapi::api::batch::v1::Job)]
pub struct Job {
    /// Trimmed metadata.
    #[serde(deserialize_with = "super::metadata::trimmed")]
    pub metadata: ObjectMeta,
    /// What was asked for.
    #[serde(default)]
    pub spec: JobSpec,
    /// What its controller reports.
    #[serde(default)]
    pub status: JobStatus,
}

/// What was asked for.
#[derive(Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(default)]
pub struct JobSpec {
    /// Pods at the same time; the API server fills in 1.
    pub parallelism: Option<u32>,
    /// Pods that have to succeed in all.
    pub completions: Option<u32>,
    /// No pods are made now.
    pub suspend: bool,
    /// What its pods are like.
    pub template: Template,
}

/// What its controller reports.
#[derive(Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct JobStatus {
    /// Pods that succeeded.
    pub succeeded: u32,
    conditions: Vec<Condition>,
}

/// What pods are like.
#[derive(Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(default)]
pub struct Template {
    /// Its `spec`.
    pub spec: TemplateSpec,
}

/// What pods are like, as far as it says where they may run.
#[derive(Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct TemplateSpec {
    /// Labels that a node must have.
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Taints that do not keep them away.
    pub tolerations: Vec<Toleration>,
    /// Whether they share the node's network namespace.
    pub host_network: bool,
}

/// A taint that does not keep pods away.
#[derive(Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(default)]
pub struct Toleration {
    /// Its key; none: all.
    pub key: Option<String>,
}

impl Deployment {
    /// How many pods a rollout replaces at once.
    #[must_use]
    pub fn step(&self) -> usize {
        let replicas = count(self.spec.replicas);
        let Some(RollingUpdate { max_surge, max_unavailable }) = &self.spec.strategy.rolling_update else {
            return replicas;
        };
        // The API server bounds no percentage of `maxSurge`.
        let surge = share(max_surge.as_ref(), |percent| replicas.saturating_mul(percent).div_ceil(100));
        let unavailable = share(max_unavailable.as_ref(), |percent| replicas.saturating_mul(percent) / 100);
        surge.saturating_add(unavailable).max(1)
    }

    /// Whether its rollout is paused, or makes no progress any more.
    #[must_use]
    pub fn is_halted(&self) -> bool {
        let stalled = |condition: &Condition| condition.kind == "Progressing" && condition.status == "False";
        self.spec.paused || self.status.conditions.iter().any(stalled)
    }

    /// Whether its pods are refused, as by a quota.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.status.conditions.iter().any(Condition::is_replica_failure)
    }
}

impl Condition {
    fn is_replica_failure(&self) -> bool {
        self.kind == "ReplicaFailure" && self.status == "True"
    }
}

impl ReplicaSet {
    /// Whether its pods are refused, as by a quota.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.status.conditions.iter().any(Condition::is_replica_failure)
    }

    /// Which revision of its Deployment it is; 0 without one.
    #[must_use]
    pub fn revision(&self) -> u64 {
        let annotations = self.metadata.annotations.as_ref();
        annotations.and_then(|all| all.get(REVISION)?.parse().ok()).unwrap_or(0)
    }
}

impl Job {
    /// Whether it makes no more pods: it is complete, failed or suspended.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        let ended = |condition: &Condition| {
            condition.status == "True" && matches!(&*condition.kind, "Complete" | "Failed" | "FailureTarget")
        };
        self.spec.suspend || self.status.conditions.iter().any(ended)
    }
}

/// A number of pods as it was written, or the 1 that it is without.
#[must_use]
pub fn count(written: Option<u32>) -> usize {
    usize::try_from(written.unwrap_or(1)).unwrap_or(usize::MAX)
}

/// A number as it is, a percentage by `of`; the API server fills in 25 % each.
fn share(value: Option<&IntOrString>, of: impl Fn(usize) -> usize) -> usize {
    match value {
        Some(IntOrString::Int(number)) => usize::try_from(*number).unwrap_or(0),
        Some(IntOrString::String(text)) => of(text.trim_end_matches('%').parse().unwrap_or(0)),
        None => of(25),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_replaces_so_many_at_once() {
        let rolling = |surge, unavailable| {
            format!(r#"{{"type":"RollingUpdate","rollingUpdate":{{{surge}{unavailable}}}}}"#)
        };
        for (replicas, strategy, expect) in [
            (60, rolling(r#""maxSurge":"25%","#, r#""maxUnavailable":"25%""#), 30),
            (10, rolling(r#""maxSurge":"25%","#, r#""maxUnavailable":"25%""#), 5),
            (10, rolling(r#""maxSurge":1,"#, r#""maxUnavailable":0"#), 1),
            (3, rolling("", ""), 1),
            (10, r#"{"type":"Recreate"}"#.to_owned(), 10),
            (
                2,
                rolling(r#""maxSurge":"18446744073709551615%","#, r#""maxUnavailable":7"#),
                usize::MAX.div_ceil(100) + 7,
            ),
        ] {
            let text =
                format!(r#"{{"metadata":{{}},"spec":{{"replicas":{replicas},"strategy":{strategy}}}}}"#);
            let deployment: Deployment = serde_json::from_str(&text).unwrap();
            assert_eq!(deployment.step(), expect, "{text}");
        }
    }

    #[test]
    fn reads_workloads_with_much_and_with_little() {
        let halted: Deployment = serde_json::from_str(
            r#"{"metadata":{},"status":{"replicas":3,"conditions":[{"type":"Progressing","status":"False","reason":"x"}]}}"#,
        )
        .unwrap();
        assert!(halted.is_halted());
        let set: ReplicaSet = serde_json::from_str(
            r#"{"metadata":{"annotations":{"deployment.kubernetes.io/revision":"7"},
                "ownerReferences":[{"apiVersion":"apps/v1","kind":"Deployment","name":"d","uid":"u","controller":true}]},
                "spec":{"replicas":2,"template":{"metadata":{"labels":{}},"spec":{"nodeSelector":{"a":"b"},
                "tolerations":[{"operator":"Exists"},{"key":"k","value":"v"}],"containers":[]}}}}"#,
        )
        .unwrap();
        assert!(!halted.is_refused() && !set.is_refused());
        let refused = r#"{"metadata":{},"status":{"conditions":[{"type":"ReplicaFailure","status":"True","reason":"FailedCreate"}]}}"#;
        assert!(serde_json::from_str::<Deployment>(refused).unwrap().is_refused());
        assert!(serde_json::from_str::<ReplicaSet>(refused).unwrap().is_refused());
        assert_eq!((set.revision(), super::super::controller_of(&set.metadata)), (7, Some("u")));
        let keys: Vec<_> = set.spec.template.spec.tolerations.iter().map(|one| one.key.as_deref()).collect();
        assert_eq!(keys, [None, Some("k")]);
        let job: Job = serde_json::from_str(
            r#"{"metadata":{},"spec":{"parallelism":4},"status":{"conditions":[{"type":"Complete","status":"True"}]}}"#,
        )
        .unwrap();
        assert!(job.is_at_rest() && job.spec.completions.is_none());
        let bare: StatefulSet = serde_json::from_str(r#"{"metadata":{}}"#).unwrap();
        assert_eq!((count(bare.spec.replicas), bare.spec.pod_management_policy.as_str()), (1, ""));
    }
}
