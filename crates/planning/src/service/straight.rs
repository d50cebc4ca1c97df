//! Which endpoints clients outside reach straight: on their own node, past its uplinks, with the client's own address.
//!
//! 1. Nothing asks security groups on that way. So a port has to be open: all that it has is the group of ours that lets
//!    everything in and out, as far as the controller knows.
//! 2. In mode `nested-macvlan` the groups of the node's port count, which are not looked at: no pod is open.
//! 3. The pod answers by its route to the client, so its subnet has a gateway.
//! 4. All of a frontend's endpoints are reached so, or none: they are open pods of this node or the node itself, which sees
//!    clients' addresses anyway. And the node has an address of the family, without which it has no way to its pods.
//! 5. Only under `externalTrafficPolicy: Local`, where Kubernetes promises the client's address.
//!
//! Why so: `docs/adr/0018-clients-outside-enter-by-the-nodes-own-port.md`.

use std::{collections::BTreeSet, net::IpAddr};

use kuryr_api::kuryrnode::{KuryrNodeSpec, Mode, PortAddress};

use super::{
    desired::Family,
    inbound::{Inbound, Lead},
};

/// The addresses of ports of the node that are open.
#[must_use]
pub fn open(spec: &KuryrNodeSpec) -> BTreeSet<IpAddr> {
    if spec.mode == Mode::NestedMacvlan {
        return BTreeSet::new();
    }
    let is_left =
        |one: &&PortAddress| spec.subnets.get(&one.subnet).is_some_and(|found| found.gateway.is_some());
    let ports = spec.ports.values().filter(|entry| entry.open && !entry.guarded);
    ports.flat_map(|entry| entry.addresses.iter().filter(is_left)).map(|one| one.address).collect()
}

/// Whether clients are led straight, on a node that has addresses `own` and pods with ports that are open.
pub(super) fn is_straight(inbound: &Inbound, own: &[IpAddr], open: &BTreeSet<IpAddr>) -> bool {
    let Lead::Targets(targets) = &inbound.lead else { return false };
    let has_family = |address| own.iter().any(|one| Family::of(*one) == Family::of(address));
    inbound.is_local
        && targets.iter().any(|target| open.contains(&target.address))
        && targets.iter().all(|target| {
            own.contains(&target.address) || (open.contains(&target.address) && has_family(target.address))
        })
}

#[cfg(test)]
mod tests {
    use super::super::desired::Target;
    use super::*;
    use serde_json::json;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn ports_are_open_that_have_no_other_group_and_a_gateway() {
        let port = |address: &str, subnet: &str, open: bool, guarded: bool| {
            json!({
                "generation": "1.1", "class": "c", "mac": "fa:16:3e:00:00:01", "network": "n", "open": open,
                "guarded": guarded, "addresses": [{"subnet": subnet, "address": address}],
            })
        };
        let spec = |mode: &str| -> KuryrNodeSpec {
            serde_json::from_value(json!({
                "mode": mode,
                "subnets": {
                    "a": {"cidr": "10.1.0.0/24", "gateway": "10.1.0.254"},
                    "b": {"cidr": "fd00:1::/64", "gateway": "fd00:1::fe"},
                    "c": {"cidr": "10.2.0.0/24"},
                },
                "ports": {
                    "1": port("10.1.0.1", "a", true, false), "2": port("fd00:1::2", "b", true, false),
                    "3": port("10.1.0.3", "a", true, true), "4": port("10.1.0.4", "a", false, false),
                    "5": port("10.2.0.5", "c", true, false), "6": port("10.3.0.6", "d", true, false),
                },
            }))
            .unwrap()
        };
        for (mode, expect) in [
            ("ovs", &["10.1.0.1", "fd00:1::2"][..]),
            ("nested-vlan", &["10.1.0.1", "fd00:1::2"]),
            ("nested-macvlan", &[]),
        ] {
            assert_eq!(open(&spec(mode)), addresses(expect).into_iter().collect(), "{mode}");
        }
    }

    #[test]
    fn all_endpoints_of_a_frontend_are_reached_straight_or_none() {
        let open: BTreeSet<IpAddr> = addresses(&["10.1.0.1", "10.1.0.2", "fd00:1::1"]).into_iter().collect();
        let own = addresses(&["192.0.2.1"]);
        for (is_local, targets, expect) in [
            (true, &["10.1.0.1"][..], true),
            (true, &["10.1.0.1", "10.1.0.2"], true),
            (true, &["10.1.0.1", "192.0.2.1"], true),
            (false, &["10.1.0.1"], false),
            (true, &["10.1.0.1", "10.1.0.3"], false),
            (true, &["10.1.0.3"], false),
            // It sees clients anyway.
            (true, &["192.0.2.1"], false),
            // The node has no address of this family.
            (true, &["fd00:1::1"], false),
        ] {
            let targets: BTreeSet<Target> =
                addresses(targets).into_iter().map(|address| Target { address, port: 80 }).collect();
            let inbound = Inbound { lead: Lead::Targets(targets.clone()), is_local, ..Inbound::default() };
            assert_eq!(is_straight(&inbound, &own, &open), expect, "{is_local} {targets:?}");
        }
        let dropped = Inbound { lead: Lead::Dropped, is_local: true, ..Inbound::default() };
        assert!(!is_straight(&dropped, &own, &open));
    }
}
