//! Pods: where they run, whether they still run, which addresses they report.
//!
//! Sources: Kubernetes API reference, Pod v1; kubelet, "static pods" (mirror annotations).

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kuryr_types::{PodIdentity, PodRef};
use serde::{Deserialize, Deserializer};

/// Present on the API object that stands for a static pod.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// The UID that the kubelet gives a static pod towards the container runtime.
const STATIC_UID: &str = "kubernetes.io/config.hash";

/// A pod.
#[derive(kube::Resource, Deserialize, Debug, Clone, PartialEq)]
#[resource(inherit = k8s_openapi::api::core::v1::Pod)]
pub struct Pod {
    /// Trimmed metadata.
    #[serde(deserialize_with = "super::metadata::trimmed")]
    pub metadata: ObjectMeta,
    /// What was asked for.
    #[serde(default)]
    pub spec: PodSpec,
    /// What the kubelet reports.
    #[serde(default)]
    pub status: PodStatus,
}

/// What was asked for.
#[derive(Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// The node the scheduler chose; none before.
    pub node_name: Option<String>,
    /// Whether the pod shares the node's network namespace.
    pub host_network: bool,
    /// `Always`, `OnFailure` or `Never`.
    pub restart_policy: Option<String>,
    /// Ports of containers that are to be reached on the node.
    #[serde(rename = "containers", deserialize_with = "host_ports")]
    pub host_ports: Vec<HostPort>,
    /// The same of initial containers that go on running.
    #[serde(rename = "initContainers", deserialize_with = "host_ports_of_sidecars")]
    pub sidecar_host_ports: Vec<HostPort>,
}

/// A port of a container that is to be reached on the node.
#[derive(Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct HostPort {
    /// Address of the node; none or empty means all of them.
    #[serde(rename = "hostIP")]
    pub host_ip: Option<String>,
    /// Number on the node; 0 if there is none.
    pub host_port: u16,
    /// Number in the pod.
    pub container_port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// What the kubelet reports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodStatus {
    /// Where the pod is in its life.
    pub phase: PodPhase,
    /// Addresses of both families, the primary one first; text that is no address is left out.
    pub pod_ips: Vec<IpAddr>,
    /// Whether the scheduler found no node, or does not look for one yet (`PodScheduled` is `False`).
    pub is_held_back: bool,
}

/// Where a pod is in its life.
#[derive(Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PodPhase {
    /// Accepted, not all containers started.
    #[default]
    Pending,
    /// At least one container runs or is being restarted.
    Running,
    /// All containers ended well and stay so.
    Succeeded,
    /// All containers ended, one of them badly, and stay so.
    Failed,
    /// The node could not be asked, or a word of a later release.
    #[serde(other)]
    Unknown,
}

impl PodSpec {
    /// Ports that are to be reached on the node.
    pub fn all_host_ports(&self) -> impl Iterator<Item = &HostPort> {
        self.host_ports.iter().chain(&self.sidecar_host_ports)
    }
}

impl Pod {
    /// Namespace and name.
    #[must_use]
    pub fn pod_ref(&self) -> PodRef {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        PodRef::new(text(&self.metadata.namespace), text(&self.metadata.name))
    }

    /// Which life of the pod this is: its UID, or for a static pod's mirror the UID the runtime sees.
    ///
    /// The annotation counts only together with the one that marks a mirror, which the API server does not let
    /// anybody add to an existing pod.
    #[must_use]
    pub fn identity(&self) -> PodIdentity {
        let annotation = |name: &str| self.metadata.annotations.as_ref()?.get(name);
        let static_uid = annotation(MIRROR).and_then(|_| annotation(STATIC_UID));
        PodIdentity::from(static_uid.or(self.metadata.uid.as_ref()).cloned().unwrap_or_default())
    }

    /// Whether all containers have ended for good: the addresses are no longer in use.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.status.phase, PodPhase::Succeeded | PodPhase::Failed)
    }

    /// Whether deletion was requested.
    #[must_use]
    pub fn is_terminating(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Whether nothing differs but the version and how far its containers are: on its way to run, and while it runs, the
    /// kubelet writes a pod's status several times, and most of that concerns nobody here.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let (one, two) = (&self.metadata, &other.metadata);
        one.uid == two.uid
            && one.deletion_timestamp.is_some() == two.deletion_timestamp.is_some()
            && (&one.labels, &one.annotations, &one.owner_references)
                == (&two.labels, &two.annotations, &two.owner_references)
            && self.spec == other.spec
            && self.has_ended() == other.has_ended()
            && self.status.pod_ips == other.status.pod_ips
            && self.status.is_held_back == other.status.is_held_back
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct WireContainer {
    ports: Option<Vec<HostPort>>,
    restart_policy: Option<String>,
}

fn host_ports<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<HostPort>, D::Error> {
    let containers = Option::<Vec<WireContainer>>::deserialize(deserializer)?;
    Ok(on_the_node(containers.into_iter().flatten()))
}

fn host_ports_of_sidecars<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<HostPort>, D::Error> {
    let containers = Option::<Vec<WireContainer>>::deserialize(deserializer)?;
    let goes_on = |container: &WireContainer| container.restart_policy.as_deref() == Some("Always");
    Ok(on_the_node(containers.into_iter().flatten().filter(goes_on)))
}

fn on_the_node(containers: impl Iterator<Item = WireContainer>) -> Vec<HostPort> {
    containers.filter_map(|one| one.ports).flatten().filter(|port| port.host_port != 0).collect()
}

impl<'de> Deserialize<'de> for PodStatus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize, Default)]
        #[serde(rename_all = "camelCase", default)]
        struct Wire {
            phase: Option<PodPhase>,
            #[serde(rename = "podIP")]
            pod_ip: Option<String>,
            #[serde(rename = "podIPs")]
            pod_ips: Option<Vec<WireIp>>,
            conditions: Option<Vec<WireCondition>>,
        }
        #[derive(Deserialize)]
        struct WireCondition {
            #[serde(rename = "type", default)]
            kind: String,
            #[serde(default)]
            status: String,
        }
        #[derive(Deserialize)]
        struct WireIp {
            #[serde(default)]
            ip: String,
        }
        let wire = Wire::deserialize(deserializer)?;
        // podIP repeats the first of podIPs, except in very old objects, where it is all there is.
        let mut texts: Vec<String> = wire.pod_ips.unwrap_or_default().into_iter().map(|ip| ip.ip).collect();
        if texts.is_empty() {
            texts.extend(wire.pod_ip);
        }
        let pod_ips = texts.iter().filter_map(|text| text.parse().ok()).collect();
        let held_back =
            |condition: &WireCondition| condition.kind == "PodScheduled" && condition.status == "False";
        let is_held_back = wire.conditions.iter().flatten().any(held_back);
        Ok(Self { phase: wire.phase.unwrap_or_default(), pod_ips, is_held_back })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(text: &str) -> Pod {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn reads_a_pod_with_much_and_one_with_little() {
        let full = pod(r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"b","uid":"u"},
                "spec":{"nodeName":"n1","hostNetwork":true,"restartPolicy":"Never","containers":[{"name":"c"}]},
                "status":{"phase":"Succeeded","podIP":"10.0.0.3","podIPs":[{"ip":"10.0.0.3"},{"ip":"fd00::3"}]}}"#);
        assert_eq!(full.pod_ref(), PodRef::new("b", "a"));
        assert_eq!(full.spec.node_name.as_deref(), Some("n1"));
        assert!(full.spec.host_network && full.has_ended() && !full.is_terminating());
        assert_eq!(full.status.pod_ips, ["10.0.0.3", "fd00::3"].map(|ip| ip.parse::<IpAddr>().unwrap()));

        let bare = pod(r#"{"metadata":{"name":"a"}}"#);
        assert_eq!((bare.spec, bare.status), (PodSpec::default(), PodStatus::default()));
    }

    #[test]
    fn reads_ports_on_the_node_of_what_goes_on_running() {
        let ports = |host_port: u16| {
            format!(
                r#"[{{"containerPort":80}},{{"containerPort":81,"hostPort":{host_port},"hostIP":"127.0.0.1","protocol":"UDP"}}]"#
            )
        };
        let spec = pod(&format!(
            r#"{{"metadata":{{}},"spec":{{"containers":[{{"name":"a","ports":{}}},{{"name":"b","ports":null}}],
                "initContainers":[{{"ports":{}}},{{"ports":{},"restartPolicy":"Always"}}]}}}}"#,
            ports(1),
            ports(2),
            ports(3)
        ))
        .spec;
        let read: Vec<u16> = spec.all_host_ports().map(|port| port.host_port).collect();
        assert_eq!(read, [1, 3]);
        let expect = HostPort {
            host_ip: Some("127.0.0.1".into()),
            host_port: 1,
            container_port: 81,
            protocol: "UDP".into(),
        };
        assert_eq!(spec.host_ports, [expect]);
    }

    #[test]
    fn reads_odd_statuses() {
        for (status, phase, addresses) in [
            (r"{}", PodPhase::Pending, 0),
            (r#"{"phase":"Hibernated"}"#, PodPhase::Unknown, 0),
            (r#"{"phase":null,"podIP":"10.0.0.1"}"#, PodPhase::Pending, 1),
            (r#"{"podIPs":[{"ip":""},{"ip":"10.0.0.1"}]}"#, PodPhase::Pending, 1),
        ] {
            let read = pod(&format!(r#"{{"metadata":{{}},"status":{status}}}"#)).status;
            assert_eq!((read.phase, read.pod_ips.len()), (phase, addresses), "{status}");
        }
    }

    #[test]
    fn a_pod_without_a_node_may_be_held_back() {
        for (conditions, expect) in [
            ("[]", false),
            (r#"[{"type":"PodScheduled","status":"True"}]"#, false),
            (r#"[{"type":"Ready","status":"False"},{"type":"PodScheduled","status":"False"}]"#, true),
        ] {
            let pod = pod(&format!(r#"{{"metadata":{{}},"status":{{"conditions":{conditions}}}}}"#));
            assert_eq!(pod.status.is_held_back, expect, "{conditions}");
        }
    }

    #[test]
    fn how_far_containers_are_makes_no_difference() {
        let one = |change: &str, status: &str| {
            let metadata = format!(r#"{{"name":"a","uid":"u","resourceVersion":"1"{change}}}"#);
            pod(&format!(r#"{{"metadata":{metadata},"spec":{{"nodeName":"n"}},"status":{status}}}"#))
        };
        let before = one("", r#"{"phase":"Pending"}"#);
        for (change, status, expect) in [
            (r#","generation":2"#, r#"{"phase":"Running"}"#, true),
            ("", r#"{"phase":"Running","podIPs":[{"ip":"10.0.0.1"}]}"#, false),
            ("", r#"{"phase":"Failed"}"#, false),
            ("", r#"{"conditions":[{"type":"PodScheduled","status":"False"}]}"#, false),
            (r#","deletionTimestamp":"2026-11-01T00:00:30Z""#, r#"{"phase":"Pending"}"#, false),
            (r#","labels":{"a":"b"}"#, r#"{"phase":"Pending"}"#, false),
            (r#","annotations":{"a":"b"}"#, r#"{"phase":"Pending"}"#, false),
        ] {
            assert_eq!(one(change, status).is_like(&before), expect, "{change} {status}");
        }
        let other =
            Pod { spec: PodSpec { node_name: Some("m".into()), ..before.spec.clone() }, ..before.clone() };
        assert!(!other.is_like(&before));
    }

    #[test]
    fn a_static_pod_is_known_by_the_uid_that_the_runtime_sees() {
        for (annotations, expect) in [
            (r"{}", "u"),
            (r#"{"kubernetes.io/config.hash":"h"}"#, "u"),
            (r#"{"kubernetes.io/config.mirror":"h","kubernetes.io/config.hash":"h"}"#, "h"),
        ] {
            let pod = pod(&format!(r#"{{"metadata":{{"uid":"u","annotations":{annotations}}}}}"#));
            assert_eq!(pod.identity().as_str(), expect, "{annotations}");
        }
    }
}
