//! The node's routes and the pods' networks in, the ways of packets that were translated for clients outside out.
//!
//! 1. On a server of the cloud such packets go to each network of pods as the node's other packets do, by the longest
//!    of its routes that holds all of the network, of two as long the first. The node's routes to its own pods, which are
//!    the local path, hold none.
//! 2. Where a network is the link's own, they go by its gateway: what a macvlan on the node's interface is for does
//!    not come back by that interface otherwise.
//! 3. With a port of its own the node sends them by it, and answers to clients that are on such a network themselves not
//!    by it: that is no address of the port. They go by the longest of the node's other routes.
//! 4. So does what the node answers with another address than the port's: a pod of another node asked at the node's
//!    address. To its own pods it speaks by the local path with any address.
//! 5. What it begins goes by the port and has the port's address, whatever address the process is bound to: the way of 4 is
//!    one back only, by which most routers do not lead anybody to pods. But to a network that the node is on with that
//!    address, and only where something translates ([`Departures`]).
//! 6. A network that no route holds has no way, which is told.
//!
//! Example: the node has `default via 192.0.2.254 dev 2` and `10.1.0.7 dev 9`, its own pod, and the record the subnet
//! `10.1.0.0/24`: the way is `10.1.0.0/24 via 192.0.2.254 dev 2`.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use kuryr_api::kuryrnode::{KuryrNodeSpec, OwnPort};

/// A route of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeRoute {
    /// Destination.
    pub dst: IpNet,
    /// Next hop; `None`: the destination is on the link.
    pub via: Option<IpAddr>,
    /// Index of the link.
    pub link: u32,
}

/// Ways to networks of pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ways {
    /// One for each network that has one.
    pub ways: Vec<NodeRoute>,
    /// Networks that have none.
    pub missing: Vec<IpNet>,
}

/// What the node begins from one of these addresses to one of these networks, and says with its own port's address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Departures {
    /// Addresses of the node that its own port has not, of families that the port has.
    pub from: BTreeSet<IpAddr>,
    /// Networks. None contains another.
    pub to: BTreeSet<IpNet>,
}

/// Ways of a server of the cloud to the networks of the record.
#[must_use]
pub fn to_pods(spec: &KuryrNodeSpec, routes: &[NodeRoute]) -> Ways {
    let mut ways = Ways::default();
    for subnet in spec.subnets.values() {
        let network = subnet.cidr.trunc();
        match holding(&network, routes) {
            Some(route) => {
                let via = route.via.or(subnet.gateway);
                ways.ways.push(NodeRoute { dst: network, via, link: route.link });
            }
            None => ways.missing.push(network),
        }
    }
    ways
}

/// Ways back to clients on the networks of the record, of a node that has a port of its own over link `own`.
#[must_use]
pub fn to_clients(spec: &KuryrNodeSpec, routes: &[NodeRoute], own: u32) -> Vec<NodeRoute> {
    let others: Vec<NodeRoute> = routes.iter().copied().filter(|route| route.link != own).collect();
    let networks = spec.subnets.values().map(|subnet| subnet.cidr.trunc());
    networks
        .filter_map(|network| holding(&network, &others).map(|route| NodeRoute { dst: network, ..*route }))
        .collect()
}

/// Those of the node's addresses that its own port has not.
#[must_use]
pub fn past_own_port(port: &OwnPort, addresses: &[IpAddr]) -> Vec<IpAddr> {
    let is_ports = |address: &&IpAddr| port.addresses.iter().any(|one| one.address == **address);
    addresses.iter().filter(|address| !is_ports(address)).copied().collect()
}

/// Tells what is to have the own port's address; on a node without one, nothing.
#[must_use]
pub fn departures(spec: &KuryrNodeSpec, addresses: &[IpAddr]) -> Departures {
    let Some(port) = spec.own_port.as_ref().filter(|_| !spec.mode.is_nested()) else {
        return Departures::default();
    };
    let has_family =
        |address: &IpAddr| port.addresses.iter().any(|one| one.address.is_ipv4() == address.is_ipv4());
    let mut from = past_own_port(port, addresses);
    from.retain(has_family);
    let networks = spec.subnets.values().map(|subnet| subnet.cidr.trunc());
    let is_on = |network: &IpNet| from.iter().any(|address| network.contains(address));
    let to: Vec<IpNet> = networks.filter(|network| !is_on(network)).collect();
    Departures { to: IpNet::aggregate(&to).into_iter().collect(), from: from.into_iter().collect() }
}

/// The longest route that holds all of a network, the first of those.
fn holding<'a>(network: &IpNet, routes: &'a [NodeRoute]) -> Option<&'a NodeRoute> {
    // Of equal ones the last is taken.
    routes.iter().rev().filter(|route| route.dst.contains(network)).max_by_key(|route| route.dst.prefix_len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec() -> KuryrNodeSpec {
        serde_json::from_value(json!({"subnets": {
            "a": {"cidr": "10.1.0.0/24", "gateway": "10.1.0.254"},
            "b": {"cidr": "fd00:1::/64", "gateway": "fd00:1::fe"},
            "c": {"cidr": "10.2.0.0/16"},
        }}))
        .unwrap()
    }

    fn routes(text: &str) -> Vec<NodeRoute> {
        let route = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            NodeRoute {
                dst: words[0].parse().unwrap(),
                via: words[1].parse().ok(),
                link: words[2].parse().unwrap(),
            }
        };
        text.split(", ").map(route).collect()
    }

    fn told(ways: &[NodeRoute]) -> String {
        let one = |way: &NodeRoute| {
            let via = way.via.map_or("-".to_owned(), |via| via.to_string());
            format!("{} {via} {}", way.dst, way.link)
        };
        ways.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn networks_are_reached_as_the_node_reaches_others() {
        for (have, ways, missing) in [
            (
                // The own pod's route is no way to its network; the first of two defaults counts.
                "0.0.0.0/0 192.0.2.254 2, 0.0.0.0/0 198.51.100.1 3, 10.1.0.7/32 - 9, ::/0 fe80::1 2, fd00:1::7/128 - 9",
                "10.1.0.0/24 192.0.2.254 2, fd00:1::/64 fe80::1 2, 10.2.0.0/16 192.0.2.254 2",
                0,
            ),
            (
                // A longer one goes before it; on the network itself by its gateway.
                "0.0.0.0/0 192.0.2.254 2, 10.0.0.0/8 192.0.2.9 3, 10.1.0.0/24 - 4, fd00:1::/64 - 4",
                "10.1.0.0/24 10.1.0.254 4, fd00:1::/64 fd00:1::fe 4, 10.2.0.0/16 192.0.2.9 3",
                0,
            ),
            ("10.1.0.0/25 192.0.2.9 3, 10.2.0.0/16 - 3", "10.2.0.0/16 - 3", 2),
        ] {
            let found = to_pods(&spec(), &routes(have));
            assert_eq!((told(&found.ways).as_str(), found.missing.len()), (ways, missing), "{have}");
        }
    }

    #[test]
    fn clients_on_a_network_of_pods_are_answered_by_another_link_than_the_nodes_port() {
        let have = "10.1.0.0/24 - 7, 10.2.0.0/16 10.1.0.254 7, fd00:1::/64 - 7, 10.0.0.0/8 192.0.2.9 3, ::/0 fe80::1 2";
        assert_eq!(
            told(&to_clients(&spec(), &routes(have), 7)),
            "10.1.0.0/24 192.0.2.9 3, fd00:1::/64 fe80::1 2, 10.2.0.0/16 192.0.2.9 3"
        );
        assert_eq!(told(&to_clients(&spec(), &routes("10.1.0.0/24 - 7"), 7)), "");
    }

    #[test]
    fn addresses_of_the_node_that_its_port_has_are_the_ports() {
        let port = json!({
            "id": "p", "mac": "fa:16:3e:00:00:01", "network": "n",
            "addresses": [{"subnet": "a", "address": "10.1.0.200"}, {"subnet": "b", "address": "fd00:1::c8"}],
        });
        let addresses = ["192.0.2.1", "10.1.0.200", "2001:db8::1"].map(|text| text.parse().unwrap());
        let past = past_own_port(&serde_json::from_value(port).unwrap(), &addresses);
        assert_eq!(past, [addresses[0], addresses[2]]);
    }

    #[test]
    fn what_the_node_begins_has_the_ports_address_but_where_the_node_is_itself() {
        let of = |own: &[(&str, &str)], mode: &str, addresses: &[&str]| {
            let own: Vec<_> =
                own.iter().map(|(subnet, address)| json!({"subnet": subnet, "address": address})).collect();
            let port = json!({"id": "p", "mac": "fa:16:3e:00:00:01", "network": "n", "addresses": own});
            let mut spec = spec();
            spec.own_port =
                Some(port).filter(|_| !own.is_empty()).map(|port| serde_json::from_value(port).unwrap());
            spec.mode = serde_json::from_value(json!(mode)).unwrap();
            let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
            let Departures { from, to } = departures(&spec, &addresses);
            let from = from.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            format!("{from} to {}", to.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        let (four, six) = (("a", "10.1.0.200"), ("b", "fd00:1::c8"));
        let all = ["192.0.2.1", "10.1.0.200", "2001:db8::1"];
        assert_eq!(
            of(&[four, six], "ovs", &all),
            "192.0.2.1 2001:db8::1 to 10.1.0.0/24 10.2.0.0/16 fd00:1::/64"
        );
        assert_eq!(of(&[four], "ovs", &all), "192.0.2.1 to 10.1.0.0/24 10.2.0.0/16 fd00:1::/64");
        // It has a leg there, by which it goes.
        assert_eq!(
            of(&[four], "ovs", &["192.0.2.1", "10.2.0.1"]),
            "10.2.0.1 192.0.2.1 to 10.1.0.0/24 fd00:1::/64"
        );
        for (own, mode) in [(&[][..], "ovs"), (&[four], "nested-vlan")] {
            assert_eq!(of(own, mode, &all), " to ", "{mode}");
        }
    }
}
