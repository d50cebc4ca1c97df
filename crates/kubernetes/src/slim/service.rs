//! Services: where their clients send to, and how these are to be treated.
//!
//! Source: Kubernetes API reference, Service v1.

use bitcode::{Decode, Encode};
use k8s_openapi::apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString};
use serde::{Deserialize, Deserializer};

/// Says that another proxy than the cluster's own serves a Service.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";

/// A Service.
#[derive(kube::Resource, Deserialize, Debug, Clone, PartialEq)]
#[resource(inherit = k8s_openapi::api::core::v1::Service)]
pub struct Service {
    /// Trimmed metadata.
    #[serde(deserialize_with = "super::metadata::trimmed")]
    pub metadata: ObjectMeta,
    /// What was asked for, with the addresses that the API server gave.
    #[serde(default)]
    pub spec: ServiceSpec,
    /// What load balancers tell.
    #[serde(default)]
    pub status: ServiceStatus,
}

/// What was asked for, with the addresses that the API server gave.
#[derive(Deserialize, Encode, Decode, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Addresses of both families, or `None` for a headless Service.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    /// `IPv4` and `IPv6`, the primary one first.
    pub ip_families: Vec<String>,
    /// The address that a load balancer is asked to have.
    #[serde(rename = "loadBalancerIP")]
    pub load_balancer_ip: Option<String>,
    /// Who makes the load balancer; none means whoever does by default.
    pub load_balancer_class: Option<String>,
    /// The only clients of the load balancer; empty: all.
    pub load_balancer_source_ranges: Vec<String>,
    /// The ports.
    pub ports: Vec<ServicePort>,
    /// `None` or `ClientIP`.
    pub session_affinity: String,
    /// How long clients keep their endpoint.
    pub session_affinity_config: Option<SessionAffinityConfig>,
    /// `Cluster` or `Local`.
    pub internal_traffic_policy: String,
    /// `Cluster` or `Local`.
    pub external_traffic_policy: String,
    /// Where load balancers ask a node whether it has endpoints; 0 if nowhere.
    pub health_check_node_port: u16,
    /// Addresses that the author asks for, which the network brings to nodes.
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<String>,
}

/// What load balancers tell.
#[derive(Deserialize, Encode, Decode, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// Where clients outside send to.
    pub load_balancer: LoadBalancerStatus,
}

/// Where clients outside send to.
#[derive(Deserialize, Encode, Decode, Debug, Clone, Default, PartialEq, Eq)]
#[serde(default)]
pub struct LoadBalancerStatus {
    /// Each way.
    pub ingress: Vec<LoadBalancerIngress>,
}

/// One way by which clients outside come.
#[derive(Deserialize, Encode, Decode, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerIngress {
    /// An address.
    pub ip: Option<String>,
    /// A host name.
    pub hostname: Option<String>,
    /// `VIP`: what arrives is what clients sent; `Proxy`: it is not.
    pub ip_mode: Option<String>,
}

/// A port of a Service.
#[derive(Deserialize, Encode, Decode, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Name; may be empty if there is only one.
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Number.
    pub port: u16,
    /// Number at the addresses of nodes; 0 if there is none.
    pub node_port: u16,
    /// Number of the endpoints' port, or its name; empty: as `port`.
    #[serde(deserialize_with = "number_or_name")]
    pub target_port: String,
}

/// How long clients keep their endpoint.
#[derive(Deserialize, Encode, Decode, Debug, Clone, Default, PartialEq, Eq)]
#[serde(default)]
pub struct SessionAffinityConfig {
    /// Of clients told by address.
    #[serde(rename = "clientIP")]
    pub client_ip: ClientIpConfig,
}

/// How long clients told by address keep their endpoint.
#[derive(Deserialize, Encode, Decode, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientIpConfig {
    /// Seconds since the last use.
    pub timeout_seconds: Option<u32>,
}

impl Service {
    /// The proxy that a label names in the place of the cluster's own.
    #[must_use]
    pub fn proxy_name(&self) -> Option<&str> {
        self.metadata.labels.as_ref()?.get(PROXY_NAME).map(String::as_str)
    }

    /// Seconds for which clients keep their endpoint, where it is said.
    #[must_use]
    pub fn affinity_seconds(&self) -> Option<u32> {
        self.spec.session_affinity_config.as_ref()?.client_ip.timeout_seconds
    }
}

fn number_or_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Option::<IntOrString>::deserialize(deserializer)? {
        Some(IntOrString::Int(number)) => number.to_string(),
        Some(IntOrString::String(name)) => name,
        None => String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_service_with_much_and_one_with_little() {
        let service: Service = serde_json::from_str(
            r#"{"metadata":{"name":"web","namespace":"d","labels":{"service.kubernetes.io/service-proxy-name":"x"}},
                "spec":{"type":"ClusterIP","clusterIP":"10.96.0.7","clusterIPs":["10.96.0.7","fd00:96::7"],
                        "ports":[{"name":"http","protocol":"TCP","port":80,"targetPort":"web","nodePort":30080}],
                        "sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":60}},
                        "internalTrafficPolicy":"Local","externalTrafficPolicy":"Cluster","healthCheckNodePort":30090,"externalIPs":["203.0.113.9"],
                        "selector":{"app":"web"}},
                "status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.7","ipMode":"VIP"}]}}}"#,
        )
        .unwrap();
        assert_eq!(service.spec.cluster_ips, ["10.96.0.7", "fd00:96::7"]);
        let port = &service.spec.ports[0];
        assert_eq!((port.name.as_str(), port.protocol.as_str(), port.port), ("http", "TCP", 80));
        assert_eq!(
            (port.node_port, service.spec.external_ips.as_slice()),
            (30080, &["203.0.113.9".to_owned()][..])
        );
        assert_eq!((service.proxy_name(), service.affinity_seconds()), (Some("x"), Some(60)));
        assert_eq!(port.target_port, "web");
        assert_eq!(service.spec.internal_traffic_policy, "Local");
        assert_eq!(
            (service.spec.external_traffic_policy.as_str(), service.spec.health_check_node_port),
            ("Cluster", 30090)
        );
        let ingress = &service.status.load_balancer.ingress[0];
        assert_eq!((ingress.ip.as_deref(), ingress.ip_mode.as_deref()), (Some("203.0.113.7"), Some("VIP")));

        let bare: Service = serde_json::from_str(r#"{"metadata":{"name":"x"}}"#).unwrap();
        assert_eq!((bare.spec.clone(), bare.proxy_name()), (ServiceSpec::default(), None));
        assert_eq!(bare.affinity_seconds(), None);
    }
}
