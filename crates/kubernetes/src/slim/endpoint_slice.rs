//! `EndpointSlice`s: which addresses something in the cluster still sends to.
//!
//! Source: Kubernetes API reference, EndpointSlice discovery.k8s.io/v1.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

/// Endpoints of a Service.
#[derive(kube::Resource, Deserialize, Debug, Clone, PartialEq)]
#[resource(inherit = k8s_openapi::api::discovery::v1::EndpointSlice)]
pub struct EndpointSlice {
    /// Trimmed metadata.
    #[serde(deserialize_with = "super::metadata::trimmed")]
    pub metadata: ObjectMeta,
    /// The endpoints.
    #[serde(default)]
    pub endpoints: Option<Vec<Endpoint>>,
}

/// One endpoint.
#[derive(Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(default)]
pub struct Endpoint {
    /// Addresses, or host names where the slice is of type FQDN.
    pub addresses: Vec<String>,
}

impl EndpointSlice {
    /// All addresses; host names are left out.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let endpoints = self.endpoints.iter().flatten();
        endpoints.flat_map(|endpoint| &endpoint.addresses).filter_map(|address| address.parse().ok())
    }
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
            assert_eq!(slice.addresses().count(), 0);
        }
    }
}
