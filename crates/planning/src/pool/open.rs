//! Which ports let everything in: of those, clients outside may be led to pods past the switch
//! (`docs/adr/0018-clients-outside-enter-by-the-nodes-own-port.md`).
//!
//! 1. A port is offered as open if its only group is the one of ours that lets everything in and out. Other groups may do
//!    so today; what they do tomorrow nobody tells.
//! 2. One that was offered as open, and was seen with other groups since, is guarded. Nothing undoes that but a new offer.
//! 3. Where ordinary pods get groups of the operator's choice nobody keeps ours as it has to be: no port is open.

use super::{class, desired::Draft};
use crate::ownership::OurPort;

impl Draft<'_> {
    /// Tells whether a port is open, as it was listed; none: it is not known.
    pub(super) fn is_open(&self, port: &OurPort) -> Option<bool> {
        let default = self.inputs.cloud.default.as_ref()?;
        Some(default.open && class::class_of(port).1.security_groups == default.entry.security_groups)
    }
}

#[cfg(test)]
mod tests {
    use kuryr_api::kuryrnode::{KuryrNodeSpec, PortEntry};
    use kuryr_types::Generation;

    use super::super::{Cloud, DefaultClass, Generations, Memory, Record, SpecStep, fixtures, plan};
    use crate::ownership::pool_port_name;

    /// What becomes of the entry of port `a`, which a pod has, or that is offered now.
    fn after(before: Option<PortEntry>, groups: &[&str], default: Option<DefaultClass>) -> Option<PortEntry> {
        let mut spec = KuryrNodeSpec { epoch: 1, node_uid: "u".into(), ..KuryrNodeSpec::default() };
        let mut status = fixtures::status("u", "c");
        if let Some(entry) = before {
            status.claims.insert("a".into(), fixtures::claim("pod", entry.generation));
            spec.ports.insert("a".into(), entry);
        }
        let mut listed = fixtures::listed("a", &pool_port_name("w1"), Some("h"), [10, 0, 0, 1], "");
        listed.security_groups = groups.iter().map(|group| (*group).into()).collect();
        let ports = fixtures::owner().admit(listed).into_iter().collect();
        let cloud = Cloud { ports: Some(ports), fresh: ["a".into()].into(), default, ..Cloud::default() };
        let inputs = fixtures::look(Record { spec: &spec, status: Some(&status) }, &cloud);
        let steps: Vec<SpecStep> = plan(&inputs, &mut Memory::default(), &mut Generations::of_epoch(1)).spec;
        let mut reached = spec.clone();
        steps.iter().for_each(|step| step.apply(&mut reached).unwrap());
        reached.ports.remove("a")
    }

    fn class(open: bool) -> Option<DefaultClass> {
        Some(DefaultClass { open, ..fixtures::default_class(fixtures::GROUP) })
    }

    #[test]
    fn a_port_is_offered_as_open_with_our_own_group_only() {
        for (default, groups, expect) in [
            (class(true), &[fixtures::GROUP][..], Some(true)),
            (class(false), &[fixtures::GROUP], Some(false)),
            // Of another class than ordinary pods get.
            (class(true), &[fixtures::GROUP, "more"], None),
            (class(true), &[], None),
        ] {
            let entry = after(None, groups, default);
            assert_eq!(entry.as_ref().map(|entry| entry.open), expect, "{groups:?}");
            assert!(entry.is_none_or(|entry| !entry.guarded));
        }
    }

    #[test]
    fn a_port_that_is_seen_with_other_groups_is_guarded_from_then_on() {
        let generation = Generation { epoch: 1, counter: 1 };
        let open = || PortEntry { open: true, ..fixtures::entry(generation) };
        for (before, groups, default, expect) in [
            (open(), &[fixtures::GROUP][..], class(true), false),
            (open(), &[fixtures::GROUP, "more"], class(true), true),
            (open(), &["other"], class(true), true),
            (open(), &[], class(true), true),
            (open(), &[fixtures::GROUP], class(false), true),
            (PortEntry { guarded: true, ..open() }, &[fixtures::GROUP], class(true), true),
            // What ordinary pods get is not known.
            (open(), &["other"], None, false),
            (fixtures::entry(generation), &["other"], class(true), false),
        ] {
            let (was_open, entry) = (before.open, after(Some(before), groups, default).unwrap());
            assert_eq!((entry.open, entry.guarded), (was_open, expect), "{groups:?}");
        }
    }
}
