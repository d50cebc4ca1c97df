//! Ports of servers: what they may send from besides their own address.
//!
//! In mode `nested-macvlan` a node is a server whose pods send through the server's own port, each under hardware address
//! and addresses of a Neutron port of its own. That port only keeps the addresses; what lets the pod's packets pass is
//! that they are *allowed address pairs* of the server's port.
//!
//! A node is found as in [`trunk`](super::trunk): by its address and the MAC of the interface that carries it. The
//! server's port is not ours: pairs that others put there are left alone, and count where Neutron bounds their number
//! (`max_allowed_address_pair`). That bound is not told by any call; it is learnt when it is hit.
//!
//! Sources: Networking API v2.0, "Allowed address pairs"; neutron `conf/extensions/allowedaddresspairs.py` (10 by
//! default).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kuryr_api::kuryrnode::{PortEntry, Problem};
use kuryr_types::{MacAddr, NetworkId, PortId};

use super::{
    inputs::Millis,
    trunk::{HeldUp, Sight},
};
use crate::ownership::OurPort;

/// What may be sent from a port besides its own address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// Address.
    pub address: IpAddr,
    /// With this hardware address.
    pub mac: MacAddr,
}

/// What is known of servers, for one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Servers {
    /// Which port is the node's.
    ///
    /// # Errors
    /// What was found instead.
    pub node: Result<PortId, Sight>,
    /// Ports of servers that are known: the node's, and others that have pairs of its ports.
    pub ports: BTreeMap<PortId, ServerPort>,
    /// Ports of servers whose last change failed, and when the next one is tried.
    pub held_up: BTreeMap<PortId, HeldUp>,
}

/// The port of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerPort {
    /// Its network.
    pub network: NetworkId,
    /// Whether it may carry packets: it is administratively up.
    pub enabled: bool,
    /// Whether it may, and Neutron shows it ACTIVE.
    pub active: bool,
    /// Its pairs of one address each, ours and others'.
    pub pairs: BTreeSet<Pair>,
    /// Further pairs, of prefixes.
    pub prefixes: usize,
    /// How many pairs Neutron lets it have, if that was hit.
    pub limit: Option<Limit>,
}

/// A bound that was hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Pairs.
    pub pairs: usize,
    /// From then on one more port is tried, in case somebody has raised it.
    pub holds_until: Millis,
}

/// The pairs of a port of ours.
#[must_use]
pub fn pairs_of(port: &OurPort) -> Vec<Pair> {
    port.ips().map(|address| Pair { address, mac: port.mac }).collect()
}

/// The pairs of a port that a record names.
#[must_use]
pub fn pairs_of_entry(entry: &PortEntry) -> Vec<Pair> {
    entry.addresses.iter().map(|one| Pair { address: one.address, mac: entry.mac }).collect()
}

impl Servers {
    /// The node's port, if it is known.
    #[must_use]
    pub fn of_node(&self) -> Option<(&PortId, &ServerPort)> {
        self.node.as_ref().ok().and_then(|id| self.ports.get_key_value(id))
    }

    /// Ports of servers that have any of `pairs`, and which.
    pub fn with_any<'a>(&'a self, pairs: &'a [Pair]) -> impl Iterator<Item = (&'a PortId, Vec<Pair>)> {
        let some_of = |port: &ServerPort| -> Vec<Pair> {
            pairs.iter().filter(|pair| port.pairs.contains(pair)).copied().collect()
        };
        let found = self.ports.iter().map(move |(id, port)| (id, some_of(port)));
        found.filter(|(_, pairs)| !pairs.is_empty())
    }
}

impl ServerPort {
    /// How many more pairs fit, of ports with `each`; `None` if no bound is known.
    #[must_use]
    pub fn room(&self, each: usize, now: Millis) -> Option<usize> {
        let limit = self.limit?;
        let room = limit.pairs.saturating_sub(self.pairs.len() + self.prefixes);
        Some(if now >= limit.holds_until { room.max(each) } else { room })
    }

    /// What is wrong with it.
    #[must_use]
    pub fn problem(&self, id: &PortId, network: Option<&NetworkId>) -> Option<Problem> {
        let (reason, message) = match network {
            Some(network) if *network != self.network => (
                "NetworkDiffers",
                format!(
                    "mode nested-macvlan: port {id} of this node is on network {}, and pods' subnets are on network {network}: \
                     frames of pods leave by the node's own port, so both have to be the same; name subnets of that \
                     network in [neutron_defaults] pod_subnets, or use mode nested-vlan",
                    self.network
                ),
            ),
            _ if !self.enabled => (
                "ServerPortDisabled",
                format!(
                    "port {id} of this node is administratively down: neither the node nor its pods have a network: \
                     `openstack port set --enable {id}`"
                ),
            ),
            _ if !self.active => (
                "ServerPortDown",
                format!(
                    "port {id} of this node is not ACTIVE in Neutron: pods have no network beyond the node until it is; \
                     see that the server runs, and the network agent on its hypervisor"
                ),
            ),
            _ => return None,
        };
        Some(Problem { reason: reason.to_owned(), message })
    }
}

/// Tells that no more pairs fit; `ours` are those of our own ports.
#[must_use]
pub fn exhausted(id: &PortId, port: &ServerPort, limit: usize, ours: usize) -> Problem {
    let present = port.pairs.len() + port.prefixes;
    Problem {
        reason: "AddressPairsExhausted".into(),
        message: format!(
            "port {id} of this node has {present} allowed address pairs, {ours} of them of ports of this cluster, and \
             Neutron lets a port have {limit}: no more ports are made for this node; raise max_allowed_address_pair in \
             neutron.conf, remove pairs that nobody needs, or run fewer pods on the node (each takes a pair per address)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(last: u8) -> Pair {
        Pair { address: [10, 0, 0, last].into(), mac: MacAddr([2, 0, 0, 0, 0, last]) }
    }

    fn port(pairs: &[u8], limit: Option<(usize, Millis)>) -> ServerPort {
        ServerPort {
            network: "n".into(),
            enabled: true,
            active: true,
            pairs: pairs.iter().map(|last| pair(*last)).collect(),
            prefixes: 1,
            limit: limit.map(|(pairs, holds_until)| Limit { pairs, holds_until }),
        }
    }

    #[test]
    fn a_bound_that_was_hit_holds_for_a_while() {
        for (limit, now, expect) in [
            (None, 0, None),
            (Some((10, 50)), 0, Some(7)),
            (Some((3, 50)), 49, Some(0)),
            (Some((2, 50)), 49, Some(0)),
            (Some((3, 50)), 50, Some(2)),
            (Some((10, 50)), 50, Some(7)),
        ] {
            assert_eq!(port(&[1, 2], limit).room(2, now), expect, "{limit:?} {now}");
        }
    }

    #[test]
    fn a_pair_is_address_and_mac() {
        let one = pair(1);
        let other = Pair { mac: MacAddr([2, 0, 0, 0, 0, 9]), ..one };
        let ports = [("s".into(), port(&[1, 2], None)), ("t".into(), port(&[3], None))].into();
        let servers = Servers { node: Ok("s".into()), ports, held_up: BTreeMap::new() };
        let found = |pairs: &[Pair]| -> Vec<(String, usize)> {
            servers.with_any(pairs).map(|(id, pairs)| (id.to_string(), pairs.len())).collect()
        };
        assert_eq!(found(&[one, pair(2), pair(3)]), [("s".to_owned(), 2), ("t".to_owned(), 1)]);
        assert_eq!(found(&[other]), []);
    }

    #[test]
    fn each_fault_of_a_servers_port_has_its_name() {
        let good = port(&[], None);
        let down = ServerPort { active: false, ..good.clone() };
        let disabled = ServerPort { enabled: false, ..down.clone() };
        for (port, network, expect) in [
            (&good, Some("n"), None),
            (&good, None, None),
            (&good, Some("m"), Some("NetworkDiffers")),
            (&down, Some("n"), Some("ServerPortDown")),
            (&disabled, Some("n"), Some("ServerPortDisabled")),
            (&down, Some("m"), Some("NetworkDiffers")),
        ] {
            let network = network.map(NetworkId::from);
            let told = port.problem(&"s".into(), network.as_ref()).map(|problem| problem.reason);
            assert_eq!(told.as_deref(), expect, "{port:?} {network:?}");
        }
        let told = exhausted(&"s".into(), &port(&[1, 2], None), 3, 1).message;
        for words in ["has 3 allowed", "1 of them", "have 3", "max_allowed_address_pair"] {
            assert!(told.contains(words), "{words} in {told}");
        }
    }
}
