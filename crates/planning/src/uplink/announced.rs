//! Ready ports and claims in, of what the network is told out.
//!
//! 1. Of a port that is ready and free, its addresses: when its pod comes there is nothing left to say.
//! 2. Of a connected pod, the multicast groups of its addresses, once, in the place of the reports that were held: when the
//!    containers of the last pods have started, or when it is high time.

use std::{collections::BTreeMap, time::Duration};

use kuryr_types::PortId;

use crate::{
    attachment::Links,
    claim::{Ledger, Offer, Ready},
};

/// After the time in which a pod's own reports are held: from then on switches that learn from reports wait no longer.
pub const HIGH_TIME: Duration = Duration::from_secs(5);

/// A port of which the network is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// Index of its uplink.
    pub uplink: u32,
    /// What is known of it.
    pub links: Links,
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
        Some(Announced { uplink, links })
    });
    announced.collect()
}

/// Whether a report is due that was held until so long ago; `None`: it may be held still.
#[must_use]
pub fn is_due(since: Option<Duration>, is_calm: bool) -> bool {
    since.is_some_and(|since| is_calm || since >= HIGH_TIME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::{Claim, Own};
    use serde_json::json;

    fn ledger() -> Ledger {
        let claim: Claim = serde_json::from_value(json!({
            "generation": "1.1", "pod": {"namespace": "team-a", "name": "web-0"}, "identity": "a",
            "links": {"mac": "fa:16:3e:00:00:00", "mtu": 1442, "addresses": []},
        }))
        .unwrap();
        let mut ledger = Ledger::default();
        ledger.claims.insert("claimed".into(), claim);
        ledger.returned.insert("given-back".into(), "1.1".parse().unwrap());
        ledger
    }

    const PORTS: [&str; 5] = ["claimed", "free", "given-back", "offered-anew", "wanted-back"];

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
            (PortId::from(*name), Ready { generation, since: Duration::ZERO })
        });
        let offer = Offer::accept(&spec, &own).unwrap();
        let told = waiting(&offer, &ledger(), &ready.collect(), &uplinks(), 0);
        let told: Vec<_> = told.iter().map(|port| (port.uplink, port.links.addresses.len())).collect();
        assert_eq!(told, [(1, 1)]);
    }

    #[test]
    fn a_report_is_due_when_pods_have_started_or_when_it_is_high_time() {
        for (since, is_calm, expect) in [
            (None, true, false),
            (Some(0), true, true),
            (Some(0), false, false),
            (Some(4), false, false),
            (Some(5), false, true),
        ] {
            assert_eq!(is_due(since.map(Duration::from_secs), is_calm), expect, "{since:?} {is_calm}");
        }
    }
}
