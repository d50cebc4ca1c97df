//! `EndpointSlice`s: to whom the clients of a Service are sent, and which addresses something in the cluster still
//! sends to.
//!
//! Source: Kubernetes API reference, EndpointSlice discovery.k8s.io/v1.

use std::net::IpAddr;

use bitcode::{Decode, Encode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Deserializer};

/// Names the Service that a slice is of.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Endpoints of a Service.
#[derive(kube::Resource, Deserialize, Debug, Clone, PartialEq)]
#[resource(inherit = k8s_openapi::api::discovery::v1::EndpointSlice)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    /// What tells the slice from others, and the label that names its Service: there are thousands of slices.
    #[serde(deserialize_with = "identity")]
    pub metadata: ObjectMeta,
    /// `IPv4`, `IPv6` or `FQDN`.
    #[serde(default)]
    pub address_type: String,
    /// The endpoints.
    #[serde(default)]
    pub endpoints: Option<Vec<Endpoint>>,
    /// The ports that each of them has.
    #[serde(default)]
    pub ports: Option<Vec<EndpointPort>>,
}

/// One endpoint.
#[derive(Deserialize, Encode, Decode, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Addresses; host names, in a slice of type FQDN, are left out.
    #[serde(deserialize_with = "addresses")]
    pub addresses: Vec<IpAddr>,
    /// In which state it is.
    pub conditions: EndpointConditions,
    /// The node it is on.
    pub node_name: Option<Box<str>>,
    /// For whom it is meant.
    pub hints: Option<EndpointHints>,
}

/// In which state an endpoint is.
#[derive(Deserialize, Encode, Decode, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[serde(default)]
pub struct EndpointConditions {
    /// Whether it takes new clients; none means yes.
    pub ready: Option<bool>,
    /// Whether it answers; none means as `ready`.
    pub serving: Option<bool>,
    /// Whether it is about to go; none means no.
    pub terminating: Option<bool>,
}

/// For whom an endpoint is meant.
#[derive(Deserialize, Encode, Decode, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointHints {
    /// Clients in these zones.
    pub for_zones: Option<Vec<Named>>,
    /// Clients on these nodes.
    pub for_nodes: Option<Vec<Named>>,
}

/// A zone or node.
#[derive(Deserialize, Encode, Decode, Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// Its name.
    pub name: String,
}

/// A port of endpoints.
#[derive(Deserialize, Encode, Decode, Debug, Clone, Default, PartialEq, Eq)]
#[serde(default)]
pub struct EndpointPort {
    /// Name of the Service's port.
    pub name: Option<String>,
    /// `TCP`, `UDP` or `SCTP`; none means TCP.
    pub protocol: Option<String>,
    /// Number; none means no certain one, or one that no endpoint can have.
    #[serde(deserialize_with = "port")]
    pub port: Option<u16>,
}

impl EndpointSlice {
    /// All addresses; host names are left out.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.endpoints.iter().flatten().flat_map(|endpoint| endpoint.addresses.iter().copied())
    }

    /// Name of the Service, in the same namespace.
    #[must_use]
    pub fn service_name(&self) -> Option<&str> {
        self.metadata.labels.as_ref()?.get(SERVICE_NAME).map(String::as_str)
    }
}

fn identity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let all = super::metadata::trimmed(deserializer)?;
    let service = all.labels.and_then(|mut labels| labels.remove_entry(SERVICE_NAME));
    Ok(ObjectMeta {
        name: all.name,
        namespace: all.namespace,
        uid: all.uid,
        resource_version: all.resource_version,
        labels: service.map(|label| [label].into()),
        ..ObjectMeta::default()
    })
}

fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpAddr>, D::Error> {
    let texts = Vec::<std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
    Ok(texts.iter().filter_map(|text| text.parse().ok()).collect())
}

/// The API server does not look at it (Kubernetes 1.36, `discovery/validation`: `validatePorts`). One that cannot be must
/// not make the slice unreadable: its other ports would stay as they were.
fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    let number = Option::<i64>::deserialize(deserializer)?;
    Ok(number.and_then(|number| u16::try_from(number).ok()).filter(|port| *port != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_and_no_host_names() {
        let text = r#"{"metadata":{"name":"a"},"endpoints":[{"addresses":["10.0.0.1"]},{"addresses":["fd00::1","x.test"]}]}"#;
        let slice: EndpointSlice = serde_json::from_str(text).unwrap();
        let got: Vec<_> = slice.addresses().map(|address| address.to_string()).collect();
        assert_eq!(got, ["10.0.0.1", "fd00::1"]);
        for empty in [r#"{"metadata":{"name":"a"},"endpoints":null}"#, r#"{"metadata":{"name":"a"}}"#] {
            let slice: EndpointSlice = serde_json::from_str(empty).unwrap();
            assert_eq!((slice.addresses().count(), slice.service_name()), (0, None));
        }
    }

    #[test]
    fn a_port_that_no_endpoint_can_have_hides_no_other() {
        for number in ["70000", "-1", "0", "2147483647"] {
            let text = format!(
                r#"{{"metadata":{{"name":"a"}},"ports":[{{"name":"odd","port":{number}}},{{"name":"http","port":80}}]}}"#
            );
            let slice: EndpointSlice = serde_json::from_str(&text).unwrap();
            let ports: Vec<_> = slice.ports.unwrap().iter().map(|port| port.port).collect();
            assert_eq!(ports, [None, Some(80)], "{number}");
        }
    }

    #[test]
    fn reads_what_a_proxy_has_to_know() {
        let text = r#"{"metadata":{"name":"web-x","namespace":"d","labels":{"kubernetes.io/service-name":"web","x":"y"},
                "annotations":{"x":"y"},"ownerReferences":[{"apiVersion":"v1","kind":"Service","name":"web","uid":"u","controller":true}]},
            "addressType":"IPv4","ports":[{"name":"http","protocol":"TCP","port":8080},{"name":null,"port":null}],
            "endpoints":[{"addresses":["10.0.0.1"],"conditions":{"ready":false,"serving":true,"terminating":true},
                "nodeName":"n1","zone":"a","targetRef":{"kind":"Pod","name":"web-0"},
                "hints":{"forZones":[{"name":"a"}],"forNodes":[{"name":"n1"}]}},{"addresses":["10.0.0.2"]}]}"#;
        let slice: EndpointSlice = serde_json::from_str(text).unwrap();
        assert_eq!((slice.service_name(), slice.address_type.as_str()), (Some("web"), "IPv4"));
        let labels = slice.metadata.labels.unwrap_or_default();
        assert_eq!(
            (labels.len(), slice.metadata.owner_references, slice.metadata.annotations),
            (1, None, None)
        );
        let ports = slice.ports.unwrap();
        assert_eq!((ports[0].name.as_deref(), ports[0].port), (Some("http"), Some(8080)));
        assert_eq!(ports[1], EndpointPort::default());
        let endpoints = slice.endpoints.unwrap();
        let expect = EndpointConditions { ready: Some(false), serving: Some(true), terminating: Some(true) };
        assert_eq!((endpoints[0].conditions, endpoints[0].node_name.as_deref()), (expect, Some("n1")));
        let hints = endpoints[0].hints.as_ref().unwrap();
        assert_eq!(
            (hints.for_zones.as_ref().unwrap()[0].name.as_str(), hints.for_nodes.as_ref().unwrap().len()),
            ("a", 1)
        );
        assert_eq!((endpoints[1].conditions, &endpoints[1].hints), (EndpointConditions::default(), &None));
    }
}
