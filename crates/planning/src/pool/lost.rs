//! Ports that somebody deleted in Neutron while a pod has them.
//!
//! 1. A pod's port that Neutron does not list is missing. It is lost once it has been missing for as long as addresses rest, ten
//!    seconds at least: the first list of a leader may be older than a port of the leader before, and others follow soon.
//! 2. That a port is lost stands in the record, and nothing undoes it but a new offer. The pod keeps the port as long as its
//!    sandbox lasts; its next sandbox gets another, and the agent gives the lost one back, which is then forgotten.

use kuryr_api::kuryrnode::PortEntry;
use kuryr_types::PortId;

use super::{desired::Draft, inputs::Millis};

/// Also where addresses need no rest: a list that was asked for before the port was made is not the last.
const LEAST: Millis = 10_000;

impl Draft<'_> {
    /// Notes whether a port that a pod has is missing in Neutron.
    pub(super) fn notice_loss(&mut self, id: &PortId, entry: &PortEntry, is_missing: bool) {
        if entry.lost || !is_missing {
            self.memory.missing.remove(id);
            return;
        }
        let since = *self.memory.missing.entry(id.clone()).or_insert(self.inputs.now);
        let due = since + self.inputs.limits.cool_down.max(LEAST);
        if self.inputs.now < due {
            self.wake(Some(due));
        } else if let Some(next) = self.out.spec.ports.get_mut(id) {
            next.lost = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use kuryr_api::kuryrnode::{KuryrNodeSpec, PortEntry};
    use kuryr_types::Generation;

    use super::{
        super::{Cloud, Generations, Inputs, Memory, Record, SpecStep, fixtures, plan},
        LEAST, Millis,
    };
    use crate::ownership::pool_port_name;

    const GENERATION: Generation = Generation { epoch: 1, counter: 1 };

    /// Looks once at a node whose pod has port `a`; tells what is changed about its entry.
    fn look(now: Millis, is_listed: bool, entry: &PortEntry, memory: &mut Memory) -> Vec<SpecStep> {
        let mut status = fixtures::status("u", "c");
        status.claims.insert("a".into(), fixtures::claim("pod", GENERATION));
        let spec = KuryrNodeSpec {
            epoch: 1,
            node_uid: "u".into(),
            ports: [("a".into(), entry.clone())].into(),
            ..KuryrNodeSpec::default()
        };
        let port = fixtures::port("a", &pool_port_name("w1"), Some("h"));
        let cloud =
            Cloud { ports: Some(is_listed.then_some(port).into_iter().collect()), ..Cloud::default() };
        let record = Record { spec: &spec, status: Some(&status) };
        let inputs = Inputs { now, ..fixtures::look(record, &cloud) };
        let steps = plan(&inputs, memory, &mut Generations::of_epoch(1)).spec;
        steps
            .into_iter()
            .filter(|step| matches!(step, SpecStep::Mark { .. } | SpecStep::Forget { .. }))
            .collect()
    }

    #[test]
    fn a_pods_port_that_stays_missing_is_lost() {
        // Longer than addresses rest here.
        let (entry, rest) = (fixtures::entry(GENERATION), LEAST);
        assert!(rest > fixtures::limits().cool_down);
        let mut memory = Memory::default();
        let mut is_lost = |now, is_listed| match look(now, is_listed, &entry, &mut memory).as_slice() {
            [] => false,
            [SpecStep::Mark { flags, .. }] => flags.lost && !flags.doomed && !flags.withdrawn,
            other => panic!("{other:?}"),
        };
        assert!(!is_lost(0, true));
        assert!(!is_lost(10, false));
        assert!(!is_lost(10 + rest - 1, false));
        // The list was older than the port.
        assert!(!is_lost(10 + rest, true));
        assert!(!is_lost(20 + rest, false), "it is missing anew");
        assert!(is_lost(20 + 2 * rest, false));
    }

    #[test]
    fn a_loss_is_told_once() {
        let entry = PortEntry { lost: true, ..fixtures::entry(GENERATION) };
        assert_eq!(look(0, false, &entry, &mut Memory::default()), []);
        assert_eq!(look(1000, true, &entry, &mut Memory::default()), [], "and stands");
    }
}
