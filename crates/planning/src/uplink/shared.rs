//! Ports of a node whose own interface is the uplink of all its pods (mode `nested-vlan`): which interface it is, what is
//! ready, and which pods have to be joined anew.
//!
//! Nothing is plugged here. A port is offered only once its subport is ACTIVE, so it is ready as soon as the interface is
//! adopted. An interface that was taken away and put back has another index; pods that are connected are joined to the
//! new one.
//!
//! Example: ports `p1` with VLAN id 101 and `p2` with 102 are offered, `ens3` is adopted: both are ready. The card is
//! taken out: none is. It comes back as index 9, and the pod of `p1` was joined to 3: both are ready, `p1` is joined
//! anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kuryr_api::kuryrnode::{KuryrNodeSpec, Mode, StuckEntry};
use kuryr_types::{Generation, MacAddr, PortId};

use crate::claim::{Claim, Ledger, Offer, Ready};

/// VLAN ids that there are.
const VLANS: std::ops::RangeInclusive<u16> = 1..=4094;

/// Interfaces that the kernel makes of others, or of nothing. A trunk's frames do not arrive there: they arrive at the
/// device below.
const WITHOUT_TRUNK: [&str; 10] =
    ["bridge", "vlan", "vrf", "dummy", "vxlan", "geneve", "macvlan", "ipvlan", "wireguard", "openvswitch"];

/// What the plan is made from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The record, if it is meant for this agent.
    pub offer: Option<Offer<'a>>,
    /// What the agent holds.
    pub ledger: &'a Ledger,
    /// Index of the adopted interface; none while there is none.
    pub uplink: Option<u32>,
    /// What was ready at the last look.
    pub before: &'a BTreeMap<PortId, Ready>,
    /// Time since the agent started.
    pub now: Duration,
}

/// What holds now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Ports that a pod can use now, claimed ones included.
    pub ready: BTreeMap<PortId, Ready>,
    /// Ports that never get ready as they are offered.
    pub stuck: BTreeMap<PortId, StuckEntry>,
    /// Known ports that are neither offered nor claimed any more: the ledger may forget them.
    pub gone: Vec<PortId>,
}

/// Plans.
#[must_use]
pub fn plan(inputs: &Inputs<'_>) -> Plan {
    let mut plan = Plan { gone: gone(inputs), ..Plan::default() };
    let mut taken = BTreeMap::new();
    let ready = |plan: &mut Plan, port: &PortId, generation| {
        if inputs.uplink.is_some() {
            plan.ready.insert(port.clone(), since(inputs, port, generation));
        }
    };
    // A claim speaks of the generation it was made by, whatever the record says of the port since.
    for (port, claim) in &inputs.ledger.claims {
        if let Some(vlan) = claim.links.vlan {
            taken.insert(vlan, port);
            ready(&mut plan, port, claim.generation);
        }
    }
    for (port, entry) in inputs.offer.iter().flat_map(|offer| offer.usable(inputs.ledger)) {
        if inputs.ledger.claims.contains_key(port) {
            continue;
        }
        match vlan(entry.vlan, &taken) {
            Ok(vlan) => {
                taken.insert(vlan, port);
                ready(&mut plan, port, entry.generation);
            }
            Err(reason) => {
                plan.stuck.insert(port.clone(), StuckEntry { generation: entry.generation, reason });
            }
        }
    }
    plan
}

/// The VLAN id of an offer, unless it cannot be used.
fn vlan(vlan: Option<u16>, taken: &BTreeMap<u16, &PortId>) -> Result<u16, String> {
    let vlan = vlan.ok_or("the node's record has no VLAN id for the port")?;
    if !VLANS.contains(&vlan) {
        return Err(format!("{vlan} is not a VLAN id"));
    }
    match taken.get(&vlan) {
        Some(other) => Err(format!("VLAN id {vlan} is that of port {other}")),
        None => Ok(vlan),
    }
}

fn since(inputs: &Inputs<'_>, port: &PortId, generation: Generation) -> Ready {
    let before = inputs.before.get(port).filter(|before| before.generation == generation);
    Ready { generation, since: before.map_or(inputs.now, |before| before.since) }
}

fn gone(inputs: &Inputs<'_>) -> Vec<PortId> {
    let Some(offer) = inputs.offer else { return Vec::new() };
    let known = inputs.ledger.known.keys();
    let held =
        |port: &PortId| offer.spec().ports.contains_key(port) || inputs.ledger.claims.contains_key(port);
    known.filter(|port| !held(port)).cloned().collect()
}

/// Claimed ports whose pods are joined to another uplink than the port's present one, which takes its place.
///
/// `joints` are those of the kernel: hardware address of the port, index of the interface it is joined to. `uplinks`
/// are the ports' present ones.
#[must_use]
pub fn misjoined(
    ledger: &Ledger,
    joints: &BTreeSet<(MacAddr, u32)>,
    uplinks: &BTreeMap<PortId, u32>,
) -> Vec<(PortId, u32)> {
    let connected =
        |claim: &Claim| claim.sandbox.as_ref().is_some_and(|sandbox| sandbox.host_ifindex.is_some());
    let elsewhere = |claim: &Claim, uplink: u32| {
        joints.iter().any(|(mac, joined)| *mac == claim.links.mac && *joined != uplink)
    };
    let claims = ledger.claims.iter().filter(|(_, claim)| connected(claim));
    let moved = claims.filter_map(|(port, claim)| {
        let uplink = *uplinks.get(port)?;
        elsewhere(claim, uplink).then(|| (port.clone(), uplink))
    });
    moved.collect()
}

/// Whether the node's own interface is the uplink of its pods. As long as the controller has not said how ports reach the
/// node, claims that were made before tell it.
#[must_use]
pub fn is_shared(mode: Option<Mode>, ledger: &Ledger) -> bool {
    mode.map_or_else(|| has_subports(ledger), |mode| mode == Mode::NestedVlan)
}

/// Whether any claim is of a subport.
#[must_use]
pub fn has_subports(ledger: &Ledger) -> bool {
    ledger.claims.values().any(|claim| claim.links.vlan.is_some())
}

/// Whether a trunk's frames can arrive at an interface of this kind (`None`: a device).
#[must_use]
pub fn can_carry_trunk(kind: Option<&str>) -> bool {
    kind.is_none_or(|kind| !WITHOUT_TRUNK.contains(&kind))
}

/// Upper bound of pods' MTUs in bytes, 0 for none: the configured one (0 for none), and on servers of the cloud what the
/// interface that all pods share can carry. A VLAN tag does not count there.
#[must_use]
pub fn mtu_cap(mode: Option<Mode>, interface: Option<u32>, configured: u32) -> u32 {
    let shared = interface.filter(|_| mode.is_some_and(Mode::is_nested));
    shared.into_iter().chain((configured > 0).then_some(configured)).min().unwrap_or_default()
}

/// The greatest MTU in bytes of the networks of offered ports, if it is greater than that of the interface: then pods
/// get less than others in their network have.
#[must_use]
pub fn exceeding_mtu(spec: &KuryrNodeSpec, interface: u32) -> Option<u32> {
    let networks = spec.ports.values().filter_map(|entry| spec.networks.get(&entry.network));
    networks.map(|network| network.mtu).max().filter(|mtu| *mtu > interface)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::{
        ledger::tests::claim,
        offer::tests::{offered, own},
    };

    /// Ports `a` and `b` on VLANs 101 and 102.
    fn spec() -> KuryrNodeSpec {
        let mut spec = offered(&[("a", "1.1"), ("b", "1.2")]);
        for (port, vlan) in [("a", 101), ("b", 102)] {
            spec.ports.get_mut(port).unwrap().vlan = Some(vlan);
        }
        spec
    }

    fn on_vlan(vlan: u16) -> Claim {
        let mut held = claim("pod-1", "1.1", Some("c1"));
        held.links.vlan = Some(vlan);
        held
    }

    fn plan_with(spec: &KuryrNodeSpec, ledger: &Ledger, uplink: Option<u32>) -> Plan {
        let before =
            [("a".into(), Ready { generation: "1.1".parse().unwrap(), since: Duration::from_secs(1) })];
        plan(&Inputs {
            offer: Offer::accept(spec, &own()),
            ledger,
            uplink,
            before: &before.into(),
            now: Duration::from_secs(9),
        })
    }

    fn ids<'a>(ports: impl IntoIterator<Item = &'a PortId>) -> Vec<&'a str> {
        ports.into_iter().map(PortId::as_str).collect()
    }

    #[test]
    fn what_is_offered_is_ready_once_the_interface_is_adopted() {
        let spec = spec();
        let plan = plan_with(&spec, &Ledger::default(), Some(7));
        assert_eq!(ids(plan.ready.keys()), ["a", "b"]);
        let since: Vec<u64> = plan.ready.values().map(|ready| ready.since.as_secs()).collect();
        assert_eq!(since, [1, 9]);
        assert_eq!(plan_with(&spec, &Ledger::default(), None), Plan::default());
    }

    #[test]
    fn a_vlan_id_belongs_to_one_port() {
        let check = |vlan: Option<u16>, claimed: Option<u16>, expect: &str| {
            let mut spec = spec();
            spec.ports.get_mut("b").unwrap().vlan = vlan;
            let mut ledger = Ledger::default();
            if let Some(vlan) = claimed {
                // Of a port that the record has no more.
                ledger.claim(&"x".into(), on_vlan(vlan));
            }
            let plan = plan_with(&spec, &ledger, Some(7));
            let reason = plan.stuck.get("b").map_or("", |stuck| stuck.reason.as_str());
            assert_eq!(reason, expect, "{vlan:?} {claimed:?}");
            assert_eq!(plan.ready.contains_key("b"), expect.is_empty());
            assert!(plan.ready.contains_key("a"));
        };
        check(Some(102), None, "");
        check(Some(4094), Some(102), "");
        check(None, None, "the node's record has no VLAN id for the port");
        check(Some(0), None, "0 is not a VLAN id");
        check(Some(4095), None, "4095 is not a VLAN id");
        check(Some(101), None, "VLAN id 101 is that of port a");
        check(Some(102), Some(102), "VLAN id 102 is that of port x");
    }

    #[test]
    fn a_claim_is_ready_by_its_own_generation_without_the_record() {
        let mut ledger = Ledger::default();
        ledger.claim(&"a".into(), on_vlan(101));
        ledger.known.insert("old".into(), "1.0".parse().unwrap());
        let mut spec = spec();
        spec.ports.clear();
        let plan = plan_with(&spec, &ledger, Some(7));
        assert_eq!((ids(plan.ready.keys()), ids(&plan.gone)), (vec!["a"], vec!["old"]));
        spec.node_uid = "another".into();
        let plan = plan_with(&spec, &ledger, Some(7));
        assert_eq!(plan.gone, [], "a record of others says nothing");
    }

    #[test]
    fn pods_move_to_the_interface_that_took_the_place_of_theirs() {
        for (host_end, uplink, expect) in [
            (Some(3), Some(7), None),
            (Some(3), Some(8), Some(8)),
            (None, Some(8), None),
            (Some(3), None, None),
        ] {
            let mut held = on_vlan(101);
            held.sandbox.as_mut().unwrap().host_ifindex = host_end;
            let joints = [(held.links.mac, 7)].into();
            let mut ledger = Ledger::default();
            ledger.claim(&"a".into(), held);
            let uplinks = uplink.map(|uplink| ("a".into(), uplink)).into_iter().collect();
            let expect: Vec<_> = expect.map(|uplink| ("a".into(), uplink)).into_iter().collect();
            assert_eq!(misjoined(&ledger, &joints, &uplinks), expect, "{host_end:?} {uplink:?}");
        }
    }

    #[test]
    fn the_interface_bounds_the_mtu_where_pods_share_it() {
        for (mode, interface, configured, expect) in [
            (Some(Mode::NestedVlan), Some(1400), 0, 1400),
            (Some(Mode::NestedVlan), Some(1400), 1300, 1300),
            (Some(Mode::NestedVlan), Some(1400), 9000, 1400),
            (Some(Mode::NestedVlan), None, 1300, 1300),
            (Some(Mode::NestedMacvlan), Some(1400), 0, 1400),
            (Some(Mode::Ovs), Some(1400), 0, 0),
            (None, Some(1400), 1300, 1300),
        ] {
            assert_eq!(mtu_cap(mode, interface, configured), expect, "{mode:?} {interface:?} {configured}");
        }
        let spec = spec();
        assert_eq!(exceeding_mtu(&spec, 1442), None);
        assert_eq!(exceeding_mtu(&spec, 1441), Some(1442));
    }

    #[test]
    fn claims_tell_the_way_where_the_controller_does_not() {
        let mut ledger = Ledger::default();
        for (claimed, mode, expect) in [
            (false, None, false),
            (false, Some(Mode::NestedVlan), true),
            (true, None, true),
            (true, Some(Mode::Ovs), false),
            (true, Some(Mode::NestedMacvlan), false),
        ] {
            if claimed {
                ledger.claim(&"a".into(), on_vlan(101));
            }
            assert_eq!(is_shared(mode, &ledger), expect, "{claimed} {mode:?}");
        }
    }

    #[test]
    fn a_trunk_arrives_at_devices() {
        for (kind, expect) in [
            (None, true),
            (Some("veth"), true),
            (Some("bond"), true),
            (Some("bridge"), false),
            (Some("vlan"), false),
        ] {
            assert_eq!(can_carry_trunk(kind), expect, "{kind:?}");
        }
    }
}
