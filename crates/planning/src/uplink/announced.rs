//! Ready ports and claims in, of what the network is told out.
//!
//! 1. Of a port that is ready and free, its addresses: when its pod comes there is nothing left to say.
//! 2. Of a pod that is connected, the multicast groups of its addresses. Its own reports of them are held at first.

use std::collections::BTreeMap;

use kuryr_types::PortId;

use crate::{
    attachment::Links,
    claim::{Ledger, Offer, Ready},
};

/// A port of which the network is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// Index of its uplink.
    pub uplink: u32,
    /// What is known of it.
    pub links: Links,
    /// Index of the host end of the pod that has it; `None`: it waits for a pod.
    pub host_end: Option<u32>,
}

/// Ports that are ready as they are offered and that nobody has. `mtu_cap` in bytes, 0 for none.
#[must_use]
pub fn waiting(
    offer: &Offer<'_>,
    ledger: &Ledger,
    ready: &BTreeMap<PortId, Ready>,
    uplinks: &BTreeMap<PortId, u32>,
    mtu_cap: u32,
) -> Vec<Announced> {
    let free = offer.usable(ledger).filter(|(port, _)| !ledger.claims.contains_key(*port));
    let announced = free.filter_map(|(port, entry)| {
        let is_ready = ready.get(port).is_some_and(|ready| ready.generation == entry.generation);
        let uplink = *uplinks.get(port).filter(|_| is_ready)?;
        // What the record describes incompletely is told when a pod takes it.
        let links = Links::of(entry, offer.spec(), mtu_cap).ok()?;
        Some(Announced { uplink, links, host_end: None })
    });
    announced.collect()
}

/// Ports of pods that are connected.
#[must_use]
pub fn connected(ledger: &Ledger, uplinks: &BTreeMap<PortId, u32>) -> Vec<Announced> {
    let announced = ledger.claims.iter().filter_map(|(port, claim)| {
        let host_end = claim.sandbox.as_ref()?.host_ifindex?;
        Some(Announced { uplink: *uplinks.get(port)?, links: claim.links.clone(), host_end: Some(host_end) })
    });
    announced.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::{Claim, Own};
    use serde_json::json;

    fn ledger() -> Ledger {
        let claim = |host_end: Option<u32>| -> Claim {
            serde_json::from_value(json!({
                "generation": "1.1", "pod": {"namespace": "team-a", "name": "web-0"}, "identity": "a",
                "links": {"mac": "fa:16:3e:00:00:00", "mtu": 1442, "addresses": []},
                "sandbox": {"containerId": "c", "ifname": "eth0", "netns": "/n", "hostIfname": "h", "hostIfindex": host_end},
            }))
            .unwrap()
        };
        let mut ledger = Ledger::default();
        ledger.claims.insert("connected".into(), claim(Some(7)));
        ledger.claims.insert("connecting".into(), claim(None));
        ledger.claims.insert("no-uplink".into(), claim(Some(8)));
        ledger.claims.insert("cut".into(), Claim { sandbox: None, ..claim(None) });
        ledger.returned.insert("given-back".into(), "1.1".parse().unwrap());
        ledger
    }

    const PORTS: [&str; 7] =
        ["connected", "connecting", "cut", "free", "given-back", "offered-anew", "wanted-back"];

    fn uplinks() -> BTreeMap<PortId, u32> {
        PORTS.iter().zip(0..).map(|(port, uplink)| (PortId::from(*port), uplink)).collect()
    }

    #[test]
    fn addresses_are_told_of_ports_that_are_ready_and_free() {
        let port = |name: &str| {
            json!({
                "generation": "1.1", "class": "c", "mac": "fa:16:3e:00:00:01", "network": "n",
                "addresses": [{"subnet": "s", "address": "10.0.0.9"}], "withdrawn": name == "wanted-back",
            })
        };
        let ports: BTreeMap<&str, _> =
            PORTS.iter().chain(&["not-ready"]).map(|name| (*name, port(name))).collect();
        let spec = serde_json::from_value(json!({
            "nodeUid": "node", "checkpoint": "x", "ports": ports,
            "networks": {"n": {"name": "pods", "mtu": 1442}}, "subnets": {"s": {"cidr": "10.0.0.0/24"}},
        }))
        .unwrap();
        let own = Own { node_uid: "node".into(), checkpoint: "x".into() };
        let ready = PORTS.iter().map(|name| {
            let generation = if *name == "offered-anew" { "1.0" } else { "1.1" }.parse().unwrap();
            (PortId::from(*name), Ready { generation, since: std::time::Duration::ZERO })
        });
        let offer = Offer::accept(&spec, &own).unwrap();
        let told = waiting(&offer, &ledger(), &ready.collect(), &uplinks(), 0);
        let told: Vec<_> =
            told.iter().map(|port| (port.uplink, port.links.addresses.len(), port.host_end)).collect();
        assert_eq!(told, [(3, 1, None)]);
    }

    #[test]
    fn groups_are_told_of_pods_that_are_connected() {
        let told = connected(&ledger(), &uplinks());
        let told: Vec<_> = told.iter().map(|port| (port.uplink, port.host_end)).collect();
        assert_eq!(told, [(0, Some(7))]);
    }
}
