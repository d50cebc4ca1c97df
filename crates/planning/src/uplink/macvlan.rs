//! Ports of a node that sends the frames of all its pods by its own interface as they are (mode `nested-macvlan`): which
//! macvlans there have to be, and what is ready.
//!
//! A port's uplink is a macvlan on the node's interface, with the port's hardware address; its pod is joined to it as to
//! any uplink. A port is offered only once the cloud lets it send from there, so it is ready as soon as its macvlan is
//! there. Macvlans go with their interface: when that was taken away and put back, others are made, and pods that are
//! connected are joined to those (see [`misjoined`](super::shared::misjoined)).
//!
//! What is on the node is removed only if the record, meant for this agent, wants it no more and no pod claims it.
//!
//! Example: ports `p1` and `p2` are offered and `eth0` is there: two macvlans are made. `p1` is claimed and the record
//! forgets both: the macvlan of `p2` is removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kuryr_api::{kuryrnode::Mode, names};
use kuryr_types::{Generation, MacAddr, PortId};

use crate::claim::{Ledger, Offer, Ready};

/// What the plan is made from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The record, if it is meant for this agent.
    pub offer: Option<Offer<'a>>,
    /// What the agent holds.
    pub ledger: &'a Ledger,
    /// Index of the node's interface; none while there is none that can be used.
    pub lower: Option<u32>,
    /// The macvlans there are, by name.
    pub present: &'a BTreeMap<String, Macvlan>,
    /// What was ready at the last look.
    pub before: &'a BTreeMap<PortId, Ready>,
    /// Time since the agent started.
    pub now: Duration,
}

/// A macvlan of ours as found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Macvlan {
    /// Its index.
    pub index: u32,
    /// Hardware address.
    pub mac: MacAddr,
    /// Index of the interface below it.
    pub lower: Option<u32>,
    /// Whether it is up.
    pub up: bool,
}

/// A macvlan to be made, or to be brought up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Make {
    /// Name.
    pub ifname: String,
    /// Hardware address, the port's.
    pub mac: MacAddr,
    /// Index of the interface below it.
    pub lower: u32,
}

/// What to do, and what holds now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be removed first: others of these names are wanted.
    pub replace: Vec<String>,
    /// To be made.
    pub make: Vec<Make>,
    /// To be removed; nobody waits for that.
    pub remove: Vec<String>,
    /// Ports that a pod can use now, claimed ones included.
    pub ready: BTreeMap<PortId, Ready>,
    /// Index of the macvlan of each of those.
    pub uplinks: BTreeMap<PortId, u32>,
    /// Known ports of which nothing is left on the node: the ledger may forget them.
    pub gone: Vec<PortId>,
}

/// Plans.
#[must_use]
pub fn plan(inputs: &Inputs<'_>) -> Plan {
    let mut plan = Plan::default();
    let wanted = wanted(inputs);
    for (port, (mac, generation)) in &wanted {
        let ifname = names::uplink_name(port.as_str());
        let found = inputs.present.get(&ifname);
        let Some(lower) = inputs.lower else { continue };
        match found {
            Some(found) if found.mac == *mac && found.lower == Some(lower) && found.up => {
                plan.ready.insert(port.clone(), since(inputs, port, *generation));
                plan.uplinks.insert(port.clone(), found.index);
                continue;
            }
            Some(found) if found.mac != *mac || found.lower != Some(lower) => {
                plan.replace.push(ifname.clone())
            }
            Some(_) | None => {}
        }
        plan.make.push(Make { ifname, mac: *mac, lower });
    }
    if let Some(offer) = inputs.offer {
        let kept: BTreeSet<String> = wanted.keys().map(|port| names::uplink_name(port.as_str())).collect();
        plan.remove = inputs.present.keys().filter(|name| !kept.contains(*name)).cloned().collect();
        let is_gone = |port: &&PortId| {
            !offer.spec().ports.contains_key(*port)
                && !wanted.contains_key(*port)
                && !inputs.present.contains_key(&names::uplink_name(port.as_str()))
        };
        plan.gone = inputs.ledger.known.keys().filter(is_gone).cloned().collect();
    }
    plan
}

/// Every port that the node should have an uplink for. A claim speaks of the generation it was made by.
fn wanted(inputs: &Inputs<'_>) -> BTreeMap<PortId, (MacAddr, Generation)> {
    let usable = inputs.offer.iter().flat_map(|offer| offer.usable(inputs.ledger));
    let offered = usable.map(|(port, entry)| (port.clone(), (entry.mac, entry.generation)));
    let claims = inputs.ledger.claims.iter().filter(|(_, claim)| claim.links.vlan.is_none());
    let claimed = claims.map(|(port, claim)| (port.clone(), (claim.links.mac, claim.generation)));
    offered.chain(claimed).collect()
}

fn since(inputs: &Inputs<'_>, port: &PortId, generation: Generation) -> Ready {
    let before = inputs.before.get(port).filter(|before| before.generation == generation);
    Ready { generation, since: before.map_or(inputs.now, |before| before.since) }
}

/// Whether ports reach this node so. As long as the controller has not said how, macvlans that were made before tell it.
#[must_use]
pub fn is_meant(mode: Option<Mode>, present: &BTreeMap<String, Macvlan>) -> bool {
    mode.map_or(!present.is_empty(), |mode| mode == Mode::NestedMacvlan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::{
        ledger::tests::claim,
        offer::tests::{offered, own},
    };
    use kuryr_api::kuryrnode::KuryrNodeSpec;

    const LOWER: u32 = 2;

    /// Ports `a` and `b`.
    fn spec() -> KuryrNodeSpec {
        offered(&[("a", "1.1"), ("b", "1.2")])
    }

    fn found(spec: &KuryrNodeSpec, ports: &[&str]) -> BTreeMap<String, Macvlan> {
        let macvlan = |port: &&str| {
            let mac = spec.ports.get(*port).map_or(MacAddr([2; 6]), |entry| entry.mac);
            (names::uplink_name(port), Macvlan { index: 7, mac, lower: Some(LOWER), up: true })
        };
        ports.iter().map(macvlan).collect()
    }

    fn plan_with(
        spec: &KuryrNodeSpec,
        ledger: &Ledger,
        lower: Option<u32>,
        present: &BTreeMap<String, Macvlan>,
    ) -> Plan {
        plan(&Inputs {
            offer: Offer::accept(spec, &own()),
            ledger,
            lower,
            present,
            before: &BTreeMap::new(),
            now: Duration::from_secs(9),
        })
    }

    fn names_of(plan: &Plan) -> [Vec<&str>; 3] {
        [
            plan.replace.iter().map(String::as_str).collect(),
            plan.make.iter().map(|make| make.ifname.as_str()).collect(),
            plan.remove.iter().map(String::as_str).collect(),
        ]
    }

    #[test]
    fn what_is_offered_is_made_and_then_ready() {
        let (spec, ledger) = (spec(), Ledger::default());
        let (a, b) = (names::uplink_name("a"), names::uplink_name("b"));
        let check = |lower, present: &BTreeMap<String, Macvlan>, changes: [Vec<&str>; 3], ready: &[&str]| {
            let plan = plan_with(&spec, &ledger, lower, present);
            assert_eq!(names_of(&plan), changes, "{present:?}");
            assert_eq!(plan.ready.keys().map(PortId::as_str).collect::<Vec<_>>(), ready);
            assert_eq!(plan.uplinks.keys().map(PortId::as_str).collect::<Vec<_>>(), ready);
        };
        check(Some(LOWER), &BTreeMap::new(), [vec![], vec![&a, &b], vec![]], &[]);
        check(Some(LOWER), &found(&spec, &["a"]), [vec![], vec![&b], vec![]], &["a"]);
        check(Some(LOWER), &found(&spec, &["a", "b", "x"]), [vec![], vec![], vec!["krux"]], &["a", "b"]);
        check(None, &found(&spec, &["a", "b"]), [vec![], vec![], vec![]], &[]);
        // The interface was put back under another index; somebody changed an address; somebody took one down.
        check(Some(3), &found(&spec, &["a", "b"]), [vec![&a, &b], vec![&a, &b], vec![]], &[]);
        let mut other = found(&spec, &["a", "b"]);
        other.get_mut(&a).unwrap().mac = MacAddr([4; 6]);
        other.get_mut(&b).unwrap().up = false;
        check(Some(LOWER), &other, [vec![&a], vec![&a, &b], vec![]], &[]);
    }

    #[test]
    fn a_pod_keeps_its_uplink_whatever_the_record_says() {
        let mut ledger = Ledger::default();
        ledger.claim(&"a".into(), claim("pod-1", "1.1", Some("c1")));
        ledger.known.insert("a".into(), "1.1".parse().unwrap());
        ledger.known.insert("old".into(), "1.0".parse().unwrap());
        ledger.known.insert("b".into(), "1.2".parse().unwrap());
        let mut spec = spec();
        let present = found(&spec, &["a", "b"]);
        spec.ports.clear();
        let plan = plan_with(&spec, &ledger, Some(LOWER), &present);
        assert_eq!(names_of(&plan), [vec![], vec![], vec!["krub"]]);
        assert_eq!(plan.ready.keys().map(PortId::as_str).collect::<Vec<_>>(), ["a"]);
        assert_eq!(plan.gone, ["old".into()], "the other has its macvlan yet");
        // A record of others says nothing.
        spec.node_uid = "another".into();
        let plan = plan_with(&spec, &ledger, Some(LOWER), &present);
        assert_eq!((names_of(&plan), plan.gone.len()), ([vec![], vec![], vec![]], 0));
        assert!(plan.ready.contains_key("a"));
    }

    #[test]
    fn macvlans_tell_the_way_where_the_controller_does_not() {
        let some = found(&spec(), &["a"]);
        for (mode, present, expect) in [
            (None, &BTreeMap::new(), false),
            (None, &some, true),
            (Some(Mode::NestedMacvlan), &BTreeMap::new(), true),
            (Some(Mode::NestedVlan), &some, false),
            (Some(Mode::Ovs), &some, false),
        ] {
            assert_eq!(is_meant(mode, present), expect, "{mode:?}");
        }
    }
}
