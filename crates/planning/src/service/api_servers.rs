//! Where the API servers are by themselves, and which of them a node asks first.
//!
//! 1. They are the ready endpoints of their own Service, `default/kubernetes`, over TCP.
//! 2. A node begins with one of them by its own name and goes on with those after it, so that not all nodes ask the same
//!    one.
//!
//! Source: Kubernetes documentation, "Accessing the Kubernetes API from a Pod".

use std::{collections::BTreeSet, net::SocketAddr};

use super::{desired::Protocol, inputs::Slice};

/// Tells their addresses by the slices of `default/kubernetes`, in the order in which this node asks them.
#[must_use]
pub fn api_servers(slices: &[Slice<'_>], node_name: &str) -> Vec<SocketAddr> {
    let found: BTreeSet<SocketAddr> = slices.iter().flat_map(of_slice).collect();
    let mut servers: Vec<SocketAddr> = found.into_iter().collect();
    if let Some(first) = node_name.bytes().map(usize::from).sum::<usize>().checked_rem(servers.len()) {
        servers.rotate_left(first);
    }
    servers
}

fn of_slice(slice: &Slice<'_>) -> Vec<SocketAddr> {
    let is_tcp = |protocol: &str| Protocol::of(protocol) == Some(Protocol::Tcp);
    let numbers = slice.ports.iter().filter(|port| is_tcp(port.protocol)).filter_map(|port| port.port);
    let ready = slice.endpoints.iter().filter(|endpoint| endpoint.ready != Some(false));
    let addresses: Vec<_> = ready.filter_map(|endpoint| endpoint.address).collect();
    numbers.flat_map(|port| addresses.iter().map(move |address| SocketAddr::new(*address, port))).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::inputs::{Endpoint, SlicePort},
        *,
    };

    fn slice(addresses: &[(&str, Option<bool>)]) -> Slice<'static> {
        let endpoint = |(address, ready): &(&str, Option<bool>)| Endpoint {
            address: address.parse().ok(),
            ready: *ready,
            ..Endpoint::default()
        };
        let port = |protocol, port| SlicePort { name: "https", protocol, port };
        Slice {
            address_type: "IPv4",
            ports: vec![port("TCP", Some(6443)), port("UDP", Some(1)), port("TCP", None)],
            endpoints: addresses.iter().map(endpoint).collect(),
        }
    }

    fn told(slices: &[Slice<'_>], node: &str) -> String {
        let servers: Vec<String> = api_servers(slices, node).iter().map(ToString::to_string).collect();
        servers.join(" ")
    }

    #[test]
    fn they_are_the_ready_endpoints_each_once() {
        let one =
            slice(&[("192.0.2.2", None), ("192.0.2.1", Some(true)), ("192.0.2.3", Some(false)), ("x", None)]);
        let two = slice(&[("192.0.2.1", None), ("2001:db8::1", None)]);
        assert_eq!(told(&[one, two], ""), "192.0.2.1:6443 192.0.2.2:6443 [2001:db8::1]:6443");
        assert_eq!(told(&[slice(&[])], "node1"), "");
    }

    #[test]
    fn nodes_begin_with_different_ones() {
        let three = [slice(&[("192.0.2.1", None), ("192.0.2.2", None), ("192.0.2.3", None)])];
        let first = |node| told(&three, node).split(' ').next().unwrap().to_owned();
        let firsts: BTreeSet<String> = ["node1", "node2", "node3"].map(first).into();
        assert_eq!(firsts.len(), 3, "{firsts:?}");
    }
}
