//! The node's side: its own port on the pods' network, and the addresses of the local path.
//!
//! By the own port host processes reach pods on other nodes. Its interface carries the port's addresses with
//! their subnets' prefixes and, for every other prefix of the record, a route through its own subnet's gateway of
//! that family. Pods of this node are reached by their host routes, which are longer and therefore win.
//!
//! The local path (kubelet probes, and a pod to its node) needs addresses that the node really has: those of
//! `Node.status.addresses`, of which an external one may exist in a translator only. The first of each family is what the
//! node talks to its pods from.
//!
//! An address of the own port is on the local path only where the node has no other of its family. Otherwise pods of
//! this node reach it by the network, as all others do: by it arrives what comes to the node from outside for a pod, and
//! security groups have to see both directions of it.

use std::net::IpAddr;

use ipnet::IpNet;
use kuryr_api::kuryrnode::{KuryrNodeSpec, OwnPort};
use kuryr_types::MacAddr;

use super::links::{Incomplete, Route, mtu, with_prefix};

/// What the node's own interface must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLinks {
    /// Hardware address, the port's.
    pub mac: MacAddr,
    /// MTU in bytes.
    pub mtu: u32,
    /// Addresses with the prefix lengths of their subnets.
    pub addresses: Vec<IpNet>,
    /// Routes to the record's other prefixes.
    pub routes: Vec<Route>,
    /// There is a bridge between it and the integration bridge.
    pub hybrid: bool,
    /// Those of its addresses that are not on the local path.
    pub apart: Vec<IpAddr>,
}

impl NodeLinks {
    /// Describes the interface of the node's own port. `mtu_cap` 0 means no cap; `local` are the addresses of the local
    /// path.
    ///
    /// # Errors
    ///
    /// The record names a network or subnet that it does not describe, or no address.
    pub fn of(
        port: &OwnPort,
        spec: &KuryrNodeSpec,
        mtu_cap: u32,
        local: &[IpAddr],
    ) -> Result<Self, Incomplete> {
        let mut addresses = Vec::new();
        let mut gateways: Vec<IpAddr> = Vec::new();
        let mut connected: Vec<IpNet> = Vec::new();
        for address in &port.addresses {
            let subnet = spec
                .subnets
                .get(&address.subnet)
                .ok_or_else(|| Incomplete::Subnet(address.subnet.clone()))?;
            addresses.push(with_prefix(address.address, subnet.cidr.prefix_len()));
            connected.push(subnet.cidr.trunc());
            gateways.extend(subnet.gateway);
        }
        if addresses.is_empty() {
            return Err(Incomplete::NoAddress);
        }
        let gateway = |dst: &IpNet| gateways.iter().find(|gateway| gateway.is_ipv4() == dst.addr().is_ipv4());
        let routes = spec
            .subnets
            .values()
            .map(|subnet| subnet.cidr.trunc())
            .filter(|dst| !connected.contains(dst))
            .filter_map(|dst| Some(Route { dst, via: Some(*gateway(&dst)?) }))
            .collect();
        let mtu = mtu(&port.network, &spec.networks, mtu_cap)?;
        let apart = addresses.iter().map(IpNet::addr).filter(|address| !local.contains(address)).collect();
        Ok(Self { mac: port.mac, mtu, addresses, routes, hybrid: port.hybrid, apart })
    }
}

/// Addresses by which pods and their node talk directly, preferred source first within each family.
///
/// `node` are the addresses of `Node.status` with their types; only internal and external ones count, and of
/// those only the ones that `is_local`.
#[must_use]
pub fn local_addresses(
    node: &[(String, String)],
    own_port: Option<&OwnPort>,
    is_local: impl Fn(IpAddr) -> bool,
) -> Vec<IpAddr> {
    let of_kind = |kind: &'static str| {
        node.iter().filter(move |(k, _)| k == kind).filter_map(|(_, address)| address.parse::<IpAddr>().ok())
    };
    let own = own_port.into_iter().flat_map(|port| &port.addresses).map(|address| address.address);
    let mut found: Vec<IpAddr> = Vec::new();
    let of_node = of_kind("InternalIP").chain(of_kind("ExternalIP")).filter(|address| is_local(*address));
    for address in of_node {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    let lacks = |address: &IpAddr| !found.iter().any(|one| one.is_ipv4() == address.is_ipv4());
    let own: Vec<IpAddr> = own.filter(lacks).collect();
    found.extend(own);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attachment::links::tests::spec;
    use serde_json::json;

    fn own_port(addresses: &[(&str, &str)]) -> OwnPort {
        let addresses: Vec<_> =
            addresses.iter().map(|(subnet, ip)| json!({ "subnet": subnet, "address": ip })).collect();
        serde_json::from_value(json!({
            "id": "own", "mac": "fa:16:3e:00:00:01", "network": "net", "addresses": addresses,
        }))
        .unwrap()
    }

    #[test]
    fn other_prefixes_go_through_the_gateway_of_their_family() {
        let links = NodeLinks::of(
            &own_port(&[("four", "10.128.6.3"), ("six", "fd10::3")]),
            &spec(),
            0,
            &["fd10::3".parse().unwrap()],
        )
        .unwrap();
        let routes: Vec<String> =
            links.routes.iter().map(|route| format!("{} {}", route.dst, route.via.unwrap())).collect();
        assert_eq!(routes, ["192.0.2.0/24 10.128.6.1", "10.129.0.0/16 10.128.6.1"]);
        let alone = NodeLinks::of(&own_port(&[("alone", "192.0.2.3")]), &spec(), 1400, &[]).unwrap();
        assert_eq!((alone.routes.len(), alone.mtu), (0, 1400));
        assert_eq!(NodeLinks::of(&own_port(&[]), &spec(), 0, &[]), Err(Incomplete::NoAddress));
    }

    #[test]
    fn only_addresses_that_the_node_has() {
        let node: Vec<(String, String)> = [
            ("Hostname", "node1"),
            ("ExternalIP", "203.0.113.5"),
            ("ExternalIP", "198.51.100.5"),
            ("InternalIP", "10.199.0.11"),
            ("InternalIP", "not an address"),
        ]
        .map(|(kind, address)| (kind.to_owned(), address.to_owned()))
        .into();
        let own = own_port(&[("four", "10.128.6.3"), ("six", "fd10::3")]);
        let not_translated = |address: IpAddr| address.to_string() != "203.0.113.5";
        let got: Vec<String> =
            local_addresses(&node, Some(&own), not_translated).iter().map(ToString::to_string).collect();
        assert_eq!(got, ["10.199.0.11", "198.51.100.5", "fd10::3"], "of IPv6 the node has no other");
    }
}
