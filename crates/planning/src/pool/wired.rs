//! Ports of which only Neutron tells whether they work: those of hosts without ovn-controller.
//!
//! 1. The agent tells which ports the switch's driver has dealt with, and as which plug (`status.plugged`).
//! 2. Neutron is asked for these ports from then on. An answer that was had before says nothing: the port may have been
//!    ACTIVE by an earlier plug.
//! 3. Once a port was ACTIVE in such an answer, the record names the plug (`spec.wired`), as long as it names the port.
//!
//! Why ACTIVE cannot be of an earlier plug in 3. is told in `uplink::found`.

use kuryr_api::kuryrnode::{KuryrNodeSpec, KuryrNodeStatus};
use kuryr_types::PortId;

use super::desired::Draft;

impl Draft<'_> {
    /// Notes which plugs Neutron has called ACTIVE, and what is to be asked for.
    pub(super) fn wire(&mut self, status: &KuryrNodeStatus) {
        let spec = &mut self.out.spec;
        for (port, plug) in status.plugged.iter().filter(|(port, _)| is_named(port, self.record.spec)) {
            if self.inputs.cloud.active.get(port) == Some(plug) {
                spec.wired.insert(port.clone(), plug.clone());
            } else if spec.wired.get(port) != Some(plug) {
                self.out.awaited.insert(port.clone(), plug.clone());
            }
        }
    }

    /// Forgets plugs of ports that the record does not name any more.
    pub(super) fn forget_wired(&mut self) {
        let mut wired = std::mem::take(&mut self.out.spec.wired);
        wired.retain(|port, _| is_named(port, &self.out.spec));
        self.out.spec.wired = wired;
    }
}

/// Tells whether the record has an entry of the port, or names it as the node's own.
pub(super) fn is_named(port: &PortId, spec: &KuryrNodeSpec) -> bool {
    spec.ports.contains_key(port) || spec.own_port.as_ref().is_some_and(|own| own.id == *port)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kuryr_api::kuryrnode::PlugId;
    use kuryr_types::Generation;

    use super::super::{
        Cloud, Generations, Memory, Plan, Record, SpecStep,
        fixtures::{self, entry},
        plan,
    };
    use super::*;
    use crate::ownership::pool_port_name;

    type Plugs<'a> = &'a [(&'a str, &'a str)];

    fn map(plugs: Plugs<'_>) -> BTreeMap<PortId, PlugId> {
        plugs.iter().map(|(port, plug)| ((*port).into(), (*plug).to_owned())).collect()
    }

    /// A plan for a record that has port `a`.
    fn plan_with(wired: Plugs<'_>, plugged: Plugs<'_>, active: Plugs<'_>, is_listed: bool) -> Plan {
        let generation = Generation { epoch: 1, counter: 1 };
        let spec = KuryrNodeSpec {
            epoch: 1,
            node_uid: "u".into(),
            ports: [("a".into(), entry(generation))].into(),
            wired: map(wired),
            ..KuryrNodeSpec::default()
        };
        let status = KuryrNodeStatus { plugged: map(plugged), ..fixtures::status("u", "c") };
        let cloud = Cloud {
            ports: is_listed.then(|| vec![fixtures::port("a", &pool_port_name("w1"), Some("h"))]),
            active: map(active),
            default: Some(fixtures::default_class(fixtures::GROUP)),
            ..Cloud::default()
        };
        let inputs = fixtures::look(Record { spec: &spec, status: Some(&status) }, &cloud);
        plan(&inputs, &mut Memory::default(), &mut Generations::of_epoch(1))
    }

    #[test]
    fn a_plug_is_wired_when_neutron_called_it_active_after_it_was_told() {
        // Wired, plugged, active; what the record says afterwards, what is asked for.
        let table: &[(Plugs<'_>, Plugs<'_>, Plugs<'_>, Plugs<'_>, Plugs<'_>)] = &[
            (&[], &[], &[], &[], &[]),
            (&[], &[("a", "1")], &[], &[], &[("a", "1")]),
            (&[], &[("a", "1")], &[("a", "1")], &[("a", "1")], &[]),
            // The answer is about an earlier plug.
            (&[], &[("a", "2")], &[("a", "1")], &[], &[("a", "2")]),
            (&[("a", "1")], &[("a", "2")], &[("a", "1")], &[("a", "1")], &[("a", "2")]),
            (&[("a", "1")], &[("a", "2")], &[("a", "2")], &[("a", "2")], &[]),
            // The agent has not seen the record yet, or waits no more.
            (&[("a", "1")], &[("a", "1")], &[], &[("a", "1")], &[]),
            (&[("a", "1")], &[], &[("a", "1")], &[("a", "1")], &[]),
            // Ports that the record does not name.
            (&[("b", "1")], &[("b", "2"), ("a", "1")], &[("b", "2")], &[], &[("a", "1")]),
        ];
        for (wired, plugged, active, expect, awaited) in table {
            for is_listed in [true, false] {
                let plan = plan_with(wired, plugged, active, is_listed);
                let after = plan.spec.iter().find_map(|step| match step {
                    SpecStep::SetWired(wired) => Some(wired.clone()),
                    _ => None,
                });
                assert_eq!(
                    after.unwrap_or_else(|| map(wired)),
                    map(expect),
                    "{wired:?} {plugged:?} {active:?}"
                );
                assert_eq!(plan.awaited, map(awaited), "{wired:?} {plugged:?} {active:?}");
            }
        }
    }
}
