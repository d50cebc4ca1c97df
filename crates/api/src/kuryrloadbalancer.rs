//! `KuryrLoadBalancer`: upstream's record of a Service's load balancer, kept as a view for people and tools.
//!
//! Group `openstack.org`, version `v1`, no status subresource: a POST with `status` keeps it. The controller writes it from
//! what it has found in the cloud; nobody believes it. What other writers put there is read as far as it can be compared.
//!
//! What upstream writes and this does not: `targetRef.uid` and `.resourceVersion`, which say nothing about the load
//! balancer; members of `securityGroups`, since Services have no groups here.
//!
//! Source: Kuryr-Kubernetes 10.0, `kubernetes_crds/kuryr_crds/kuryrloadbalancer.yaml`.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::{Deserialize, Serialize};

use crate::{names, upstream_kind::upstream_kind};

/// A Service's load balancer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KuryrLoadBalancer {
    /// Always `openstack.org/v1`.
    #[serde(default = "api_version")]
    pub api_version: String,
    /// Always `KuryrLoadBalancer`.
    #[serde(default = "kind")]
    pub kind: String,
    /// Named after the Service, in its namespace.
    pub metadata: ObjectMeta,
    /// The Service, as upstream's controller asked for its load balancer.
    #[serde(default)]
    pub spec: KuryrLoadBalancerSpec,
    /// What there is in the cloud.
    #[serde(default)]
    pub status: KuryrLoadBalancerStatus,
}

/// A Service, as far as its load balancer depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KuryrLoadBalancerSpec {
    /// The Service's first ClusterIP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// `spec.loadBalancerIP`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lb_ip: Option<String>,
    /// Ports.
    pub ports: Vec<PortSpec>,
    /// Project of the load balancer.
    pub project_id: String,
    /// Security groups; none.
    pub security_groups_ids: Vec<String>,
    /// Subnet of the VIP.
    pub subnet_id: String,
    /// Type of the Service.
    #[serde(rename = "type")]
    pub kind: String,
    /// Provider of Octavia.
    pub provider: String,
    /// Milliseconds; 0 is Octavia's default.
    pub timeout_client_data: u32,
    /// Milliseconds; 0 is Octavia's default.
    pub timeout_member_data: u32,
    /// Endpoints that take new clients.
    #[serde(rename = "endpointSlices", skip_serializing_if = "Vec::is_empty")]
    pub endpoint_slices: Vec<EndpointSlice>,
}

/// A port of the Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortSpec {
    /// Name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Number.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Number or name.
    pub target_port: String,
}

/// Endpoints with the same ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointSlice {
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Their ports.
    pub ports: Vec<EndpointPort>,
}

/// An endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Its address.
    pub addresses: Vec<String>,
    /// Always ready.
    pub conditions: EndpointConditions,
    /// Its pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
}

/// Whether an endpoint takes new clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    /// It does.
    pub ready: bool,
}

/// The object behind an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TargetRef {
    /// Always `Pod`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
}

/// A port of endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointPort {
    /// Name of the Service's port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Number.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// What there is in the cloud; upstream's users write `{}` to have it looked for again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KuryrLoadBalancerStatus {
    /// The load balancer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loadbalancer: Option<LoadBalancer>,
    /// Its listeners.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<Listener>,
    /// Its pools.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<Pool>,
    /// Members of the pools.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<Member>,
    /// The floating IP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_pub_ip_info: Option<PublicIp>,
}

/// A load balancer of Octavia.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadBalancer {
    /// Its id.
    pub id: String,
    /// Its VIP.
    pub ip: String,
    /// Its name.
    pub name: String,
    /// The port with the VIP.
    pub port_id: String,
    /// Its project.
    pub project_id: String,
    /// What implements it.
    pub provider: String,
    /// Security groups; none.
    pub security_groups: Vec<String>,
    /// Subnet of the VIP.
    pub subnet_id: String,
}

/// A listener.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Listener {
    /// Its id.
    pub id: String,
    /// Its load balancer.
    pub loadbalancer_id: String,
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: u16,
    /// Its project.
    pub project_id: String,
    /// Its protocol.
    pub protocol: String,
    /// Milliseconds, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_client_data: Option<u32>,
    /// Milliseconds, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_member_data: Option<u32>,
}

/// A pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pool {
    /// Its id.
    pub id: String,
    /// Its listener.
    pub listener_id: String,
    /// Its load balancer.
    pub loadbalancer_id: String,
    /// Its name.
    pub name: String,
    /// Its project.
    pub project_id: String,
    /// Its protocol.
    pub protocol: String,
}

/// A member.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Member {
    /// Its id.
    pub id: String,
    /// Its address.
    pub ip: String,
    /// Its name.
    pub name: String,
    /// Its pool.
    pub pool_id: String,
    /// Its port.
    pub port: u16,
    /// Its project.
    pub project_id: String,
    /// The subnet by which it is reached.
    pub subnet_id: String,
}

/// A floating IP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PublicIp {
    /// Its id.
    pub ip_id: String,
    /// The address.
    pub ip_addr: String,
    /// `pool`: made for the Service; `user`: given by the user.
    pub alloc_method: String,
}

impl KuryrLoadBalancer {
    /// Addresses of the members that it tells.
    pub fn member_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.status.members.iter().filter_map(|member| member.ip.parse().ok())
    }

    /// The view of a Service with this UID. The owner is the Service, so that the garbage collector removes what nobody
    /// else does; no finalizers.
    #[must_use]
    pub fn of_service(
        namespace: &str,
        name: &str,
        uid: &str,
        spec: KuryrLoadBalancerSpec,
        status: KuryrLoadBalancerStatus,
    ) -> Self {
        let owner = OwnerReference {
            api_version: "v1".into(),
            kind: "Service".into(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            ..OwnerReference::default()
        };
        Self {
            api_version: api_version(),
            kind: kind(),
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(namespace.to_owned()),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            },
            spec,
            status,
        }
    }

    /// Whether this is as `other`, but for what the API server writes and labels that people put there.
    #[must_use]
    pub fn tells_the_same(&self, other: &Self) -> bool {
        let owners = |view: &Self| view.metadata.owner_references.clone().unwrap_or_default();
        self.spec == other.spec
            && self.status == other.status
            && owners(self) == owners(other)
            && self.upstreams_finalizer() == other.upstreams_finalizer()
    }

    /// Where upstream's finalizer is among the finalizers.
    #[must_use]
    pub fn upstreams_finalizer(&self) -> Option<usize> {
        let mut finalizers = self.metadata.finalizers.iter().flatten();
        finalizers.position(|name| name == names::KURYRLOADBALANCER_FINALIZER)
    }
}

fn api_version() -> String {
    "openstack.org/v1".to_owned()
}

fn kind() -> String {
    "KuryrLoadBalancer".to_owned()
}

upstream_kind!(KuryrLoadBalancer, "kuryrloadbalancers", KuryrLoadBalancerSpec);

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Upstream's objects at each stage of their life.
    const CREATED: &str = include_str!("../golden/kuryrloadbalancer-created.json");
    const PROVISIONED: &str = include_str!("../golden/kuryrloadbalancer-provisioned.json");
    const RESET: &str = include_str!("../golden/kuryrloadbalancer-reset.json");

    /// What upstream writes and we do not.
    fn without_what_is_left_out(mut object: Value) -> Value {
        object["metadata"].as_object_mut().unwrap().remove("finalizers");
        let slices = object.pointer_mut("/spec/endpointSlices").and_then(Value::as_array_mut);
        for slice in slices.into_iter().flatten() {
            for endpoint in slice["endpoints"].as_array_mut().into_iter().flatten() {
                let target = endpoint["targetRef"].as_object_mut().unwrap();
                target.retain(|name, _| name != "uid" && name != "resourceVersion");
            }
        }
        object
    }

    #[test]
    fn has_upstreams_shape() {
        for golden in [CREATED, PROVISIONED, RESET] {
            let object: Value = serde_json::from_str(golden).unwrap();
            let read: KuryrLoadBalancer = serde_json::from_value(object.clone()).unwrap();
            assert_eq!(read.upstreams_finalizer(), Some(0));
            let KuryrLoadBalancer { mut spec, status, .. } = read;
            // Upstream gives its load balancers groups.
            let groups = std::mem::take(&mut spec.security_groups_ids);
            let uid = "a0b1c2d3-e4f5-4678-9abc-def012345678";
            let view = KuryrLoadBalancer::of_service("team-a", "web", uid, spec, status);
            let mut written = serde_json::to_value(&view).unwrap();
            assert_eq!(written["spec"]["security_groups_ids"], json!([]));
            written["spec"]["security_groups_ids"] = json!(groups);
            assert_eq!(written, without_what_is_left_out(object));
        }
    }

    #[test]
    fn what_others_wrote_can_be_compared() {
        let read = |text| serde_json::from_value::<KuryrLoadBalancer>(text).unwrap();
        let bare = read(json!({"metadata": {"name": "web"}}));
        assert_eq!(
            bare,
            KuryrLoadBalancer { metadata: bare.metadata.clone(), ..read(json!({"metadata": {}})) }
        );
        let view = KuryrLoadBalancer::of_service("d", "web", "u", bare.spec.clone(), bare.status.clone());
        let mut stored = view.clone();
        stored.metadata.resource_version = Some("7".into());
        stored.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        assert!(view.tells_the_same(&stored));
        stored.metadata.finalizers = Some(vec![names::KURYRLOADBALANCER_FINALIZER.to_owned()]);
        assert!(!view.tells_the_same(&stored));
        let other = KuryrLoadBalancer::of_service("d", "web", "v", view.spec.clone(), view.status.clone());
        assert!(!view.tells_the_same(&other));
    }
}
