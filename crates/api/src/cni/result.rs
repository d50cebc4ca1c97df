//! Results of ADD, in the shape of each version.
//!
//! The agent answers with an [`Attachment`]; the CNI binary prints it in the version the configuration asks
//! for.

use std::net::IpAddr;

use ipnet::IpNet;
use kuryr_types::MacAddr;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::config::Version;

/// An interface that a container got, with its addresses, without a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// Name inside the container.
    pub ifname: String,
    /// Hardware address, the Neutron port's.
    pub mac: MacAddr,
    /// MTU in bytes.
    pub mtu: u32,
    /// Path of the container's network namespace.
    pub sandbox: String,
    /// Name of the node's end of the link; absent when there is none (macvlan).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ifname: Option<String>,
    /// One or more per family, each with its gateway.
    pub addresses: Vec<AttachedAddress>,
    /// Routes besides the default ones.
    #[serde(default)]
    pub routes: Vec<AttachedRoute>,
    /// Name servers of the subnets.
    #[serde(default)]
    pub nameservers: Vec<IpAddr>,
}

/// An address of the interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachedAddress {
    /// Address with the prefix length of its subnet.
    pub address: IpNet,
    /// Gateway of the subnet, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// A route of the interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttachedRoute {
    /// Destination.
    pub dst: IpNet,
    /// Next hop; none means on link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
}

impl Attachment {
    /// The result object of `version`.
    ///
    /// Source: CNI specification, "Success" of ADD; 0.3.1 and 0.4.0 name the family of each address, 1.1.0
    /// adds the MTU.
    #[must_use]
    pub fn to_result(&self, version: Version) -> Value {
        let mut result = json!({
            "cniVersion": version.as_str(),
            "interfaces": self.interfaces(version),
            "ips": self.ips(version),
            "routes": self.all_routes(),
            "dns": {},
        });
        if !self.nameservers.is_empty() {
            result["dns"] = json!({ "nameservers": self.nameservers });
        }
        result
    }

    /// The container's interface first, so that `ips[].interface` is 0.
    fn interfaces(&self, version: Version) -> Value {
        let mut inner = json!({ "name": self.ifname, "mac": self.mac, "sandbox": self.sandbox });
        if version >= Version::V1_1_0 {
            inner["mtu"] = json!(self.mtu);
        }
        let outer = self.host_ifname.iter().map(|name| json!({ "name": name }));
        std::iter::once(inner).chain(outer).collect()
    }

    fn ips(&self, version: Version) -> Value {
        let one = |address: &AttachedAddress| {
            let mut ip = json!({ "interface": 0, "address": address.address });
            if version < Version::V1_0_0 {
                ip["version"] = json!(if address.address.addr().is_ipv4() { "4" } else { "6" });
            }
            if let Some(gateway) = address.gateway {
                ip["gateway"] = json!(gateway);
            }
            ip
        };
        self.addresses.iter().map(one).collect()
    }

    fn all_routes(&self) -> Value {
        let default = |gateway: IpAddr| {
            let dst = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            json!({ "dst": dst, "gw": gateway })
        };
        let mut seen_families = [false, false];
        let mut routes = Vec::new();
        for gateway in self.addresses.iter().filter_map(|address| address.gateway) {
            let seen = &mut seen_families[usize::from(gateway.is_ipv6())];
            if !*seen {
                routes.push(default(gateway));
            }
            *seen = true;
        }
        routes.extend(self.routes.iter().map(|route| json!(route)));
        Value::Array(routes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment() -> Attachment {
        let address = |net: &str, gateway: &str| AttachedAddress {
            address: net.parse().unwrap(),
            gateway: Some(gateway.parse().unwrap()),
        };
        Attachment {
            ifname: "eth0".into(),
            mac: "fa:16:3e:4b:9c:07".parse().unwrap(),
            mtu: 1442,
            sandbox: "/run/netns/cni-1".into(),
            host_ifname: Some("krpc4e1a7d2-90".into()),
            addresses: vec![address("10.128.6.23/26", "10.128.6.1"), address("fd10::17/64", "fd10::1")],
            routes: vec![AttachedRoute {
                dst: "169.254.169.254/32".parse().unwrap(),
                gw: "10.128.6.2".parse().ok(),
            }],
            nameservers: vec!["10.0.0.3".parse().unwrap()],
        }
    }

    #[test]
    fn each_version_has_its_shape() {
        for version in super::super::SUPPORTED_VERSIONS {
            let result = attachment().to_result(version);
            assert_eq!(result["cniVersion"], version.as_str());
            assert_eq!(result["ips"][0]["version"].is_string(), version < Version::V1_0_0, "{version:?}");
            assert_eq!(result["interfaces"][0]["mtu"].is_number(), version >= Version::V1_1_0, "{version:?}");
            assert_eq!(result["ips"][1]["address"], "fd10::17/64");
            assert_eq!(result["routes"][0]["dst"], "0.0.0.0/0");
            assert_eq!(result["routes"][1]["dst"], "::/0");
            assert_eq!(result["routes"][2]["gw"], "10.128.6.2");
        }
    }

    /// For a pod with one address, but for what the specification wants otherwise: the sandbox is the path of the namespace,
    /// where upstream names the container, and the default route is a route.
    #[test]
    fn has_upstreams_shape() {
        let mut golden: Value =
            serde_json::from_str(include_str!("../../golden/cni-result-0.3.1.json")).unwrap();
        let sandbox = &mut golden["interfaces"][0]["sandbox"];
        assert!(sandbox.as_str().is_some_and(|sandbox| sandbox.len() == 64));
        *sandbox = json!("/run/netns/cni-1");
        let default = json!({ "dst": "0.0.0.0/0", "gw": "10.128.6.1" });
        golden["routes"].as_array_mut().unwrap().insert(0, default);
        let mut attachment = Attachment { host_ifname: None, ..attachment() };
        attachment.addresses.truncate(1);
        assert_eq!(attachment.to_result(Version::V0_3_1), golden);
    }
}
