//! From the record as it is to the record as it should be.
//!
//! `apply(diff(actual, desired), actual) == desired`, and nothing is said about what is the same.

use kuryr_api::kuryrnode::{KuryrNodeSpec, Mode, PortEntry};
use kuryr_types::{PortId, TrunkId};

use super::step::{Flags, SpecStep};

/// The changes that make `desired` of `actual`.
///
/// # Panics
/// When an entry would change within its generation other than by a flag that is set: a fault of ours.
#[must_use]
pub fn diff(actual: &KuryrNodeSpec, desired: &KuryrNodeSpec) -> Vec<SpecStep> {
    let mut steps = Vec::new();
    if actual.epoch != desired.epoch {
        steps.push(SpecStep::SetEpoch { from: actual.epoch, to: desired.epoch });
    }
    if served(actual) != served(desired) {
        steps.push(SpecStep::Serve {
            node_uid: desired.node_uid.clone(),
            checkpoint: desired.checkpoint.clone(),
            mode: desired.mode,
            host: desired.host.clone(),
            trunk: desired.trunk.clone(),
            server_port: desired.server_port.clone(),
        });
    }
    // Descriptions first: an offer may rest on them.
    if actual.networks != desired.networks {
        steps.push(SpecStep::SetNetworks(desired.networks.clone()));
    }
    if actual.subnets != desired.subnets {
        steps.push(SpecStep::SetSubnets(desired.subnets.clone()));
    }
    if actual.classes != desired.classes {
        steps.push(SpecStep::SetClasses(desired.classes.clone()));
    }
    if actual.default_class != desired.default_class {
        steps.push(SpecStep::SetDefaultClass(desired.default_class.clone()));
    }
    if actual.own_port != desired.own_port {
        steps.push(SpecStep::SetOwnPort(desired.own_port.clone()));
    }
    if actual.wired != desired.wired {
        steps.push(SpecStep::SetWired(desired.wired.clone()));
    }
    if actual.problems != desired.problems {
        steps.push(SpecStep::SetProblems(desired.problems.clone()));
    }
    let gone = actual.ports.iter().filter(|(id, _)| !desired.ports.contains_key(*id));
    steps.extend(gone.map(|(id, entry)| SpecStep::Forget { id: id.clone(), entry: Box::new(entry.clone()) }));
    steps.extend(desired.ports.iter().filter_map(|(id, entry)| port(id, actual.ports.get(id), entry)));
    steps
}

type Served<'a> =
    (&'a str, Option<&'a String>, Mode, Option<&'a String>, Option<&'a TrunkId>, Option<&'a PortId>);

fn served(spec: &KuryrNodeSpec) -> Served<'_> {
    let (trunk, server_port) = (spec.trunk.as_ref(), spec.server_port.as_ref());
    (&spec.node_uid, spec.checkpoint.as_ref(), spec.mode, spec.host.as_ref(), trunk, server_port)
}

fn port(id: &PortId, actual: Option<&PortEntry>, desired: &PortEntry) -> Option<SpecStep> {
    if actual == Some(desired) {
        return None;
    }
    match actual.filter(|actual| actual.generation == desired.generation) {
        Some(actual) => Some(SpecStep::Mark {
            id: id.clone(),
            generation: desired.generation,
            flags: flags(actual, desired),
        }),
        None => Some(SpecStep::Offer {
            id: id.clone(),
            entry: Box::new(desired.clone()),
            replaces: actual.cloned().map(Box::new),
        }),
    }
}

fn flags(actual: &PortEntry, desired: &PortEntry) -> Flags {
    let same_otherwise = PortEntry {
        withdrawn: actual.withdrawn,
        doomed: actual.doomed,
        active: actual.active,
        guarded: actual.guarded,
        lost: actual.lost,
        ..desired.clone()
    };
    let none_unset = actual.withdrawn <= desired.withdrawn
        && actual.doomed <= desired.doomed
        && actual.active <= desired.active
        && actual.guarded <= desired.guarded
        && actual.lost <= desired.lost;
    assert!(same_otherwise == *actual && none_unset, "an entry changes only by flags that are set");
    Flags {
        withdrawn: desired.withdrawn && !actual.withdrawn,
        doomed: desired.doomed && !actual.doomed,
        active: desired.active && !actual.active,
        guarded: desired.guarded && !actual.guarded,
        lost: desired.lost && !actual.lost,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{entry, own_port};
    use super::*;
    use kuryr_api::kuryrnode::Problem;
    use kuryr_types::Generation;
    use proptest::prelude::*;

    fn entries() -> impl Strategy<Value = Option<PortEntry>> {
        let one = (1..3u64, any::<[bool; 5]>()).prop_map(
            |(counter, [withdrawn, doomed, active, guarded, lost])| {
                let entry = entry(Generation { epoch: 1, counter });
                PortEntry { withdrawn, doomed, active, guarded, lost, ..entry }
            },
        );
        proptest::option::of(one)
    }

    fn specs() -> impl Strategy<Value = KuryrNodeSpec> {
        let ports = proptest::collection::vec(entries(), 3);
        (ports, 0..2u8, proptest::option::of(Just("c".to_owned()))).prop_map(|(ports, few, checkpoint)| {
            let ports = ports.into_iter().enumerate();
            let problem = || Problem { reason: "Why".into(), message: "because".into() };
            KuryrNodeSpec {
                epoch: few.into(),
                node_uid: "u".into(),
                checkpoint,
                own_port: (few > 0).then(|| own_port("o")),
                problems: (0..few).map(|_| problem()).collect(),
                default_class: (few > 0).then(|| "c-1".into()),
                wired: (0..few).map(|number| (format!("p{number}").into(), "row".to_owned())).collect(),
                ports: ports.filter_map(|(i, entry)| Some((format!("p{i}").into(), entry?))).collect(),
                ..KuryrNodeSpec::default()
            }
        })
    }

    /// Makes `desired` reachable from `actual`: within a generation flags are only set.
    fn reachable(actual: &KuryrNodeSpec, mut desired: KuryrNodeSpec) -> KuryrNodeSpec {
        for (id, entry) in &mut desired.ports {
            let same = actual.ports.get(id).filter(|actual| actual.generation == entry.generation);
            if let Some(actual) = same {
                entry.withdrawn |= actual.withdrawn;
                entry.doomed |= actual.doomed;
                entry.active |= actual.active;
                entry.guarded |= actual.guarded;
                entry.lost |= actual.lost;
            }
        }
        desired
    }

    proptest! {
        #[test]
        fn leads_from_actual_to_desired(actual in specs(), desired in specs()) {
            let desired = reachable(&actual, desired);
            let mut reached = actual.clone();
            for step in diff(&actual, &desired) {
                prop_assert_eq!(step.apply(&mut reached), Ok(()));
            }
            prop_assert_eq!(&reached, &desired);
            prop_assert!(diff(&desired, &desired).is_empty());
        }
    }

    #[test]
    fn a_step_that_is_outdated_changes_nothing() {
        let generation = Generation { epoch: 1, counter: 1 };
        let mut doomed = KuryrNodeSpec::default();
        doomed.ports.insert("p".into(), PortEntry { doomed: true, ..entry(generation) });
        let next = Box::new(entry(Generation { epoch: 1, counter: 2 }));
        // Planned before the port was doomed.
        let replaces = Some(Box::new(entry(generation)));
        let offer = SpecStep::Offer { id: "p".into(), entry: next, replaces };
        let mut spec = doomed.clone();
        assert!(offer.apply(&mut spec).is_err());
        assert_eq!(spec, doomed);
    }

    #[test]
    #[should_panic(expected = "only by flags")]
    fn nothing_undooms() {
        let generation = Generation { epoch: 1, counter: 1 };
        let with = |doomed| {
            let ports = [("p".into(), PortEntry { doomed, ..entry(generation) })];
            KuryrNodeSpec { ports: ports.into(), ..KuryrNodeSpec::default() }
        };
        let _ = diff(&with(true), &with(false));
    }
}
