//! What a pod sees of its port.
//!
//! Every address brings the prefix length of its subnet, so that neighbours in the subnet are on link. The first
//! gateway of each family is the default route; a second subnet of the same family adds none, because two
//! default routes of the same metric are refused by the kernel. Host routes of the subnets follow, without the
//! ones to everywhere.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use kuryr_api::kuryrnode::{KuryrNodeSpec, NetworkEntry, PortEntry, SubnetEntry};
use kuryr_types::{MacAddr, NetworkId, SubnetId};
use serde::{Deserialize, Serialize};

/// What the pod's interface must look like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Links {
    /// Hardware address, the port's.
    pub mac: MacAddr,
    /// MTU in bytes.
    pub mtu: u32,
    /// Addresses, in the port's order.
    pub addresses: Vec<Address>,
    /// Routes besides the default ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Name servers of the subnets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<IpAddr>,
    /// VLAN id towards the uplink, in nested modes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// There is a bridge between the uplink and the integration bridge.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hybrid: bool,
}

/// An address of the interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Address with the prefix length of its subnet.
    pub address: IpNet,
    /// Gateway of the subnet, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// A route; without a next hop the destination is on link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    /// Destination.
    pub dst: IpNet,
    /// Next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
}

/// What the controller's record lacks to attach a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incomplete {
    /// `spec.networks` does not have the port's network.
    Network(NetworkId),
    /// `spec.subnets` does not have the subnet of an address.
    Subnet(SubnetId),
    /// The port has no address.
    NoAddress,
}

impl fmt::Display for Incomplete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(id) => write!(f, "the node's record has no network {id}"),
            Self::Subnet(id) => write!(f, "the node's record has no subnet {id}"),
            Self::NoAddress => f.write_str("the port has no address"),
        }
    }
}

impl std::error::Error for Incomplete {}

impl Links {
    /// Describes the interface for an offered port. `mtu_cap` 0 means no cap.
    ///
    /// # Errors
    ///
    /// The record names a network or subnet that it does not describe, or no address.
    pub fn of(entry: &PortEntry, spec: &KuryrNodeSpec, mtu_cap: u32) -> Result<Self, Incomplete> {
        let subnets = subnets_of(entry, &spec.subnets)?;
        let first = || Incomplete::NoAddress;
        let addresses: Vec<Address> = entry
            .addresses
            .iter()
            .zip(&subnets)
            .map(|(port, subnet)| Address {
                address: with_prefix(port.address, subnet.cidr.prefix_len()),
                gateway: subnet.gateway,
            })
            .collect();
        addresses.first().ok_or_else(first)?;
        let mut nameservers: Vec<IpAddr> = Vec::new();
        for server in subnets.iter().flat_map(|subnet| &subnet.nameservers) {
            if !nameservers.contains(server) {
                nameservers.push(*server);
            }
        }
        Ok(Self {
            mac: entry.mac,
            mtu: mtu(&entry.network, &spec.networks, mtu_cap)?,
            addresses,
            routes: host_routes(&subnets),
            nameservers,
            vlan: entry.vlan,
            hybrid: entry.hybrid,
        })
    }

    /// All routes, default ones first.
    #[must_use]
    pub fn all_routes(&self) -> Vec<Route> {
        let mut routes: Vec<Route> = Vec::new();
        for gateway in self.addresses.iter().filter_map(|address| address.gateway) {
            let dst = everywhere(gateway);
            if !routes.iter().any(|route| route.dst == dst) {
                routes.push(Route { dst, via: Some(gateway) });
            }
        }
        routes.extend(self.routes.iter().cloned());
        routes
    }
}

/// MTU of a network in bytes, at most `mtu_cap` unless that is 0.
///
/// # Errors
///
/// The record does not have the network.
pub fn mtu(
    network: &NetworkId,
    networks: &BTreeMap<NetworkId, NetworkEntry>,
    mtu_cap: u32,
) -> Result<u32, Incomplete> {
    let entry = networks.get(network).ok_or_else(|| Incomplete::Network(network.clone()))?;
    Ok(if mtu_cap == 0 { entry.mtu } else { entry.mtu.min(mtu_cap) })
}

/// An address with the length of its subnet's prefix; a length that the family does not have is cut to a host's.
pub(super) fn with_prefix(address: IpAddr, length: u8) -> IpNet {
    let host: IpNet = address.into();
    IpNet::new(address, length).unwrap_or(host)
}

/// The default destination of the family of `address`.
pub(super) fn everywhere(address: IpAddr) -> IpNet {
    if address.is_ipv4() { Ipv4Net::default().into() } else { Ipv6Net::default().into() }
}

fn subnets_of<'a>(
    entry: &PortEntry,
    subnets: &'a BTreeMap<SubnetId, SubnetEntry>,
) -> Result<Vec<&'a SubnetEntry>, Incomplete> {
    let find = |id: &SubnetId| subnets.get(id).ok_or_else(|| Incomplete::Subnet(id.clone()));
    entry.addresses.iter().map(|address| find(&address.subnet)).collect()
}

fn host_routes(subnets: &[&SubnetEntry]) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    for route in subnets.iter().flat_map(|subnet| &subnet.routes) {
        let one = Route { dst: route.destination.trunc(), via: Some(route.nexthop) };
        // Two routes to one destination are refused by the kernel; the first subnet wins.
        if one.dst.prefix_len() > 0 && !routes.iter().any(|known| known.dst == one.dst) {
            routes.push(one);
        }
    }
    routes
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    /// A record with two dual-stack subnet pairs.
    pub(crate) fn spec() -> KuryrNodeSpec {
        serde_json::from_value(json!({
            "networks": { "net": { "name": "pods", "mtu": 1442 } },
            "subnets": {
                "four": {
                    "cidr": "10.128.6.0/26", "gateway": "10.128.6.1", "nameservers": ["10.0.0.3"],
                    "routes": [
                        { "destination": "169.254.169.254/32", "nexthop": "10.128.6.2" },
                        { "destination": "0.0.0.0/0", "nexthop": "10.128.6.9" },
                    ],
                },
                "six": { "cidr": "fd10::/64", "gateway": "fd10::1", "nameservers": ["10.0.0.3", "fd10::3"] },
                "alone": { "cidr": "192.0.2.0/24" },
                "second": { "cidr": "10.129.0.0/16", "gateway": "10.129.0.1" },
            },
        }))
        .unwrap()
    }

    /// A port with these addresses.
    pub(crate) fn entry(addresses: &[(&str, &str)]) -> PortEntry {
        let addresses: Vec<_> =
            addresses.iter().map(|(subnet, ip)| json!({ "subnet": subnet, "address": ip })).collect();
        serde_json::from_value(json!({
            "generation": "1.1", "class": "plain", "mac": "fa:16:3e:4b:9c:07", "network": "net",
            "addresses": addresses,
        }))
        .unwrap()
    }

    fn check(addresses: &[(&str, &str)], mtu_cap: u32, expect: Result<(&[&str], &[&str], u32), Incomplete>) {
        let got = Links::of(&entry(addresses), &spec(), mtu_cap).map(|links| {
            let via = |route: &Route| route.via.map_or(String::new(), |via| format!(" via {via}"));
            let routes =
                links.all_routes().iter().map(|r| format!("{}{}", r.dst, via(r))).collect::<Vec<_>>();
            let addresses = links.addresses.iter().map(|a| a.address.to_string()).collect::<Vec<_>>();
            (addresses, routes, links.mtu)
        });
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(got, expect.map(|(addresses, routes, mtu)| (owned(addresses), owned(routes), mtu)));
    }

    #[test]
    fn both_families_with_their_routes() {
        check(
            &[("four", "10.128.6.23"), ("six", "fd10::17")],
            0,
            Ok((
                &["10.128.6.23/26", "fd10::17/64"],
                &["0.0.0.0/0 via 10.128.6.1", "::/0 via fd10::1", "169.254.169.254/32 via 10.128.6.2"],
                1442,
            )),
        );
        check(&[("alone", "192.0.2.7")], 1400, Ok((&["192.0.2.7/24"], &[], 1400)));
        check(&[("alone", "192.0.2.7")], 9000, Ok((&["192.0.2.7/24"], &[], 1442)));
        check(
            &[("second", "10.129.0.5"), ("four", "10.128.6.5")],
            0,
            Ok((
                &["10.129.0.5/16", "10.128.6.5/26"],
                &["0.0.0.0/0 via 10.129.0.1", "169.254.169.254/32 via 10.128.6.2"],
                1442,
            )),
        );
    }

    #[test]
    fn says_what_the_record_lacks() {
        check(&[("none", "192.0.2.7")], 0, Err(Incomplete::Subnet("none".into())));
        check(&[], 0, Err(Incomplete::NoAddress));
        let mut unknown = entry(&[("alone", "192.0.2.7")]);
        unknown.network = "other".into();
        assert_eq!(Links::of(&unknown, &spec(), 0), Err(Incomplete::Network("other".into())));
    }

    #[test]
    fn name_servers_once_each() {
        let links = Links::of(&entry(&[("four", "10.128.6.23"), ("six", "fd10::17")]), &spec(), 0).unwrap();
        let expect: Vec<IpAddr> = vec!["10.0.0.3".parse().unwrap(), "fd10::3".parse().unwrap()];
        assert_eq!(links.nameservers, expect);
    }
}
