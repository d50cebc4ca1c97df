//! What must hold whatever happens.
//!
//! [`violations`] compares a record as it is with a record as it should be, under the report of its agent; a
//! violation is a fault of ours, and the plan is not carried out. [`assert_allowed`] is called for every plan.
//!
//! 1. An epoch does not decrease.
//! 2. A new offer of a published port has a new generation of this epoch; the agent returned the former one,
//!    and the port was not doomed.
//! 3. Within a generation, only flags are set.
//! 4. A port is doomed only if its agent returned it, or the node is gone.
//! 5. An entry disappears only after it was doomed.
//! 6. No two entries have the same generation.
//! 7. The mode changes only while there are no entries. No two entries have the same VLAN id, and what is offered on a
//!    trunk has one and is ACTIVE.
//! 8. A plug that the record begins to name as wired is one that the agent tells of, of a port that the record names.
//! 9. Neutron is told to delete, or to take off a trunk or a server's port, only what was doomed or condemned before this plan, and
//!    never what a pod of a living node has.

use std::collections::BTreeSet;

use kuryr_api::kuryrnode::{KuryrNodeSpec, KuryrNodeStatus, Mode, PlugId, PortEntry};
use kuryr_types::PortId;

use super::{
    desired::Desired,
    from_kubernetes::{Holder, holder},
    inputs::Record,
    step::CloudStep,
    wired::is_named,
};

/// A rule that a plan would break, and for which port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The port, if it is about one.
    pub port: Option<PortId>,
    /// The rule.
    pub rule: &'static str,
}

/// Stops a plan that would break a rule.
///
/// # Panics
/// When there are violations.
pub(super) fn assert_allowed(record: Record<'_>, desired: &Desired) {
    let mut found = violations(record.spec, record.status, &desired.spec, desired.node_is_gone);
    found.extend(take_away_violations(record, desired));
    assert!(found.is_empty(), "a plan breaks rules: {found:?}");
}

/// The rules that the step from `before` to `after` breaks; `gone` tells that the node is.
#[must_use]
pub fn violations(
    before: &KuryrNodeSpec,
    status: Option<&KuryrNodeStatus>,
    after: &KuryrNodeSpec,
    gone: bool,
) -> Vec<Violation> {
    let mut found = Vec::new();
    if after.epoch < before.epoch {
        found.push(Violation { port: None, rule: "an epoch does not decrease" });
    }
    for (id, entry) in &before.ports {
        let returned = status.is_some_and(|status| holder(id, entry, status) == Holder::Controller);
        let rule = match after.ports.get(id) {
            Some(next) => entry_rule(entry, next, after, returned, gone),
            None => (!entry.doomed).then_some("an entry disappears only after it was doomed"),
        };
        found.extend(rule.map(|rule| Violation { port: Some(id.clone()), rule }));
    }
    if after.mode != before.mode && !before.ports.is_empty() {
        found.push(Violation { port: None, rule: "the mode changes only while there are no entries" });
    }
    found.extend(vlan_violations(before, after));
    found.extend(wired_violations(before, status, after));
    let mut generations = BTreeSet::new();
    let repeated = after.ports.iter().filter(|(_, entry)| !generations.insert(entry.generation));
    found.extend(repeated.map(|(id, _)| Violation {
        port: Some(id.clone()),
        rule: "no two entries have the same generation",
    }));
    found
}

fn vlan_violations(before: &KuryrNodeSpec, after: &KuryrNodeSpec) -> Vec<Violation> {
    let mut vlans = BTreeSet::new();
    let rule = |(id, entry): (&PortId, &PortEntry)| {
        let is_new = before.ports.get(id).is_none_or(|former| former.generation != entry.generation);
        let is_offer = is_new && !entry.withdrawn && after.mode == Mode::NestedVlan;
        let rule = match entry.vlan {
            Some(vlan) if !vlans.insert(vlan) => Some("no two entries have the same VLAN id"),
            None if is_offer => Some("what is offered on a trunk has a VLAN id"),
            _ if is_offer && !entry.active => Some("what is offered on a trunk is ACTIVE"),
            _ => None,
        };
        rule.map(|rule| Violation { port: Some(id.clone()), rule })
    };
    after.ports.iter().filter_map(rule).collect()
}

fn wired_violations(
    before: &KuryrNodeSpec,
    status: Option<&KuryrNodeStatus>,
    after: &KuryrNodeSpec,
) -> Vec<Violation> {
    let told = |port: &PortId| status.and_then(|status| status.plugged.get(port));
    let rule = |(port, plug): (&PortId, &PlugId)| match () {
        () if !is_named(port, after) => Some("what is wired is a port of the record"),
        () if before.wired.get(port) != Some(plug) && told(port) != Some(plug) => {
            Some("what becomes wired is what the agent has plugged")
        }
        () => None,
    };
    let violation =
        |wired: (&PortId, &PlugId)| rule(wired).map(|rule| Violation { port: Some(wired.0.clone()), rule });
    after.wired.iter().filter_map(violation).collect()
}

fn entry_rule(
    before: &PortEntry,
    next: &PortEntry,
    after: &KuryrNodeSpec,
    returned: bool,
    gone: bool,
) -> Option<&'static str> {
    if next.generation == before.generation {
        let flags_aside = |entry: &PortEntry| PortEntry {
            withdrawn: false,
            doomed: false,
            active: false,
            guarded: false,
            lost: false,
            ..entry.clone()
        };
        let unset = (before.withdrawn && !next.withdrawn)
            || (before.doomed && !next.doomed)
            || (before.active && !next.active)
            || (before.guarded && !next.guarded)
            || (before.lost && !next.lost);
        if unset || flags_aside(before) != flags_aside(next) {
            return Some("within a generation only flags are set");
        }
        let dooms = next.doomed && !before.doomed;
        return (dooms && !returned && !gone).then_some("a port is doomed only if it was returned");
    }
    if !returned {
        return Some("a port is offered again only if it was returned");
    }
    if before.doomed {
        return Some("nothing undoes a doom");
    }
    let new = next.generation.epoch == after.epoch && next.generation > before.generation;
    (!new).then_some("a new offer has a new generation of this epoch")
}

fn take_away_violations(record: Record<'_>, desired: &Desired) -> Vec<Violation> {
    let taken_away = desired.cloud.iter().flat_map(|step| match step {
        CloudStep::Delete { id } => vec![id],
        CloudStep::RemoveSubports { ports, .. } => ports.iter().collect(),
        CloudStep::RemovePairs { ports, .. } => ports.iter().map(|(id, _)| id).collect(),
        _ => vec![],
    });
    let claimed = |id: &PortId| {
        record.status.is_some_and(|status| status.claims.contains_key(id)) && !desired.node_is_gone
    };
    let named = |id: &PortId| record.spec.own_port.as_ref().is_some_and(|port| port.id == *id);
    let undoomed = |id: &PortId| record.spec.ports.get(id).is_some_and(|entry| !entry.doomed);
    let rule = |id: &PortId| match () {
        () if claimed(id) => Some("a port that a pod has is not taken away"),
        () if undoomed(id) || named(id) => Some("a port is taken away only after it was doomed"),
        () => None,
    };
    taken_away.filter_map(|id| rule(id).map(|rule| Violation { port: Some(id.clone()), rule })).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{claim, entry, status};
    use super::*;
    use kuryr_types::Generation;

    fn g(counter: u64) -> Generation {
        Generation { epoch: 2, counter }
    }

    fn spec(entry: Option<PortEntry>) -> KuryrNodeSpec {
        let ports = entry.map(|entry| ("p".into(), entry));
        KuryrNodeSpec { epoch: 2, ports: ports.into_iter().collect(), ..KuryrNodeSpec::default() }
    }

    #[test]
    fn a_trunk_has_its_rules() {
        let with = |vlan, active| PortEntry { vlan, active, ..entry(g(1)) };
        let other = |vlan| PortEntry { vlan, active: true, withdrawn: true, ..entry(g(2)) };
        for (before, mode, one, two, allowed) in [
            (None, Mode::NestedVlan, with(Some(7), true), other(Some(8)), true),
            (None, Mode::NestedVlan, with(Some(7), true), other(None), true),
            (None, Mode::NestedVlan, with(Some(7), true), other(Some(7)), false),
            (None, Mode::NestedVlan, with(Some(7), false), other(Some(8)), false),
            (None, Mode::NestedVlan, with(None, true), other(Some(8)), false),
            (None, Mode::Ovs, with(None, false), other(None), true),
            (Some(with(Some(7), false)), Mode::NestedVlan, with(Some(7), false), other(None), false),
        ] {
            let before = spec(before);
            let ports = [("p".into(), one), ("q".into(), two)].into();
            let after = KuryrNodeSpec { epoch: 2, mode, ports, ..KuryrNodeSpec::default() };
            let found = violations(&before, None, &after, false);
            assert_eq!(found.is_empty(), allowed, "{before:?} -> {after:?}: {found:?}");
        }
    }

    #[test]
    fn what_is_wired_has_its_rules() {
        for (before, plugged, port, after, allowed) in [
            (None, Some("1"), "p", "1", true),
            (None, None, "p", "1", false),
            (None, Some("2"), "p", "1", false),
            (Some("1"), None, "p", "1", true),
            (Some("1"), None, "p", "2", false),
            (None, Some("1"), "q", "1", false),
        ] {
            let wired = |port: &str, plug: &str| (PortId::from(port), plug.to_owned());
            let mut from = spec(Some(entry(g(1))));
            from.wired.extend(before.map(|plug| wired("p", plug)));
            let after_spec = KuryrNodeSpec { wired: [wired(port, after)].into(), ..from.clone() };
            let mut status = status("u", "c");
            status.plugged.extend(plugged.map(|plug| wired(port, plug)));
            let found = violations(&from, Some(&status), &after_spec, false);
            assert_eq!(found.is_empty(), allowed, "{before:?} {plugged:?} {after}: {found:?}");
        }
    }

    #[test]
    fn each_rule_can_fail() {
        let doomed = |counter| PortEntry { withdrawn: true, doomed: true, ..entry(g(counter)) };
        let old = Generation { epoch: 1, counter: 9 };
        // Before, returned, claimed, after, gone, allowed.
        for (before, returned, claimed, after, gone, allowed) in [
            (entry(g(1)), None, false, Some(entry(g(1))), false, true),
            (entry(g(1)), None, false, Some(PortEntry { withdrawn: true, ..entry(g(1)) }), false, true),
            (entry(g(1)), None, false, Some(doomed(1)), false, false),
            (entry(g(1)), None, false, Some(doomed(1)), true, true),
            (entry(g(1)), Some(1), false, Some(doomed(1)), false, true),
            (entry(g(1)), Some(1), true, Some(doomed(1)), false, false),
            (doomed(1), Some(1), false, Some(entry(g(1))), false, false),
            (doomed(1), Some(1), false, Some(entry(g(2))), false, false),
            (entry(g(1)), Some(1), false, Some(entry(g(2))), false, true),
            (entry(g(1)), None, false, Some(entry(g(2))), false, false),
            (entry(g(1)), Some(1), false, Some(entry(old)), false, false),
            (entry(g(1)), Some(1), false, None, false, false),
            (doomed(1), Some(1), false, None, false, true),
        ] {
            let mut status = status("u", "c");
            status.returned.extend(returned.map(|counter| ("p".into(), g(counter))));
            if claimed {
                status.claims.insert("p".into(), claim("pod", g(1)));
            }
            let (before, after) = (spec(Some(before)), spec(after));
            let found = violations(&before, Some(&status), &after, gone);
            assert_eq!(found.is_empty(), allowed, "{before:?} -> {after:?}: {found:?}");
        }
    }
}
