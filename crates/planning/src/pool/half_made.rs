//! Ports that Neutron may have made only half.
//!
//! Neutron commits a port to its database first, and tells the network of it afterwards. When its process ends in between,
//! nobody does it later: the port is listed, has addresses and can be bound or put on a trunk, and no switch ever knows it. For a
//! port on a trunk OVN's driver then says whatever status the parent has, so it looks ACTIVE, and it takes note of the new
//! revision, so that Neutron's own search for differences passes over it.
//!
//! 1. A port whose creation was answered is whole. Of a port that was found, by a leader after the one that asked for it, or
//!    after an answer that was lost, nobody knows: of its request at most that Neutron has begun it.
//! 2. One that was found and is to go on a trunk is not offered but condemned. So is one that is to be bound to a host and that no
//!    driver has bound, as the network is told before.
//! 3. While a request of ours is under way for the node its answer is waited for.
//!
//! A port that a pod has was offered before, and is named again as it is claimed.
//!
//! Source: Neutron, `plugins/ml2/plugin.py`, `_create_port_bulk`, `_after_create_port`; `services/trunk/drivers/ovn/trunk_driver.py`,
//! `_set_binding_profile`.

use super::{desired::Draft, step::CloudStep, way::Way};
use crate::ownership::{OurPort, PortCondition};

impl Draft<'_> {
    /// Tells whether nobody knows that Neutron has told the network of a port that no record names.
    pub(super) fn may_be_half_made(&self, port: &OurPort) -> bool {
        let shows_it = match self.way {
            Way::Trunk(_) => false,
            Way::Host(_) => port.condition != PortCondition::Unbound,
            // No network has to know it, or nothing is offered.
            Way::Server(_) | Way::Closed => true,
        };
        !shows_it && !self.inputs.cloud.fresh.contains(&port.id)
    }

    /// Condemns such a port, unless an answer that is on its way may tell that it is whole.
    pub(super) fn condemn_half_made(&mut self, port: &OurPort) {
        if self.inputs.cloud.making.is_none() {
            self.out.cloud.push(CloudStep::Condemn { id: port.id.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use kuryr_api::kuryrnode::KuryrNodeSpec;

    use super::{
        super::{Cloud, Generations, Inputs, Memory, Record, SpecStep, fixtures, plan},
        *,
    };
    use crate::ownership::{ListedPort, Purpose, own_port_name, pool_port_name};

    /// What becomes of port `a` of host `h`, which no record names, until what was found has rested.
    fn fate(name: &str, condition: PortCondition, is_fresh: bool, is_making: bool) -> &'static str {
        let spec = KuryrNodeSpec { epoch: 1, node_uid: "u".into(), ..KuryrNodeSpec::default() };
        let status = fixtures::status("u", "c");
        let listed = fixtures::listed("a", name, Some("h"), [10, 0, 0, 1], fixtures::GROUP);
        let cloud = Cloud {
            ports: fixtures::owner().admit(ListedPort { condition, ..listed }).map(|port| vec![port]),
            fresh: is_fresh.then(|| "a".into()).into_iter().collect(),
            making: is_making.then_some((Purpose::Pool, 1)),
            default: Some(fixtures::default_class(fixtures::GROUP)),
            ..Cloud::default()
        };
        let (mut memory, mut generations) = (Memory::default(), Generations::of_epoch(1));
        for now in [0, fixtures::limits().cool_down] {
            let inputs =
                Inputs { now, ..fixtures::look(Record { spec: &spec, status: Some(&status) }, &cloud) };
            let plan = plan(&inputs, &mut memory, &mut generations);
            let is_used =
                |step: &SpecStep| matches!(step, SpecStep::Offer { .. } | SpecStep::SetOwnPort(Some(_)));
            if plan.spec.iter().any(is_used) {
                return "used";
            }
            if plan.cloud.contains(&CloudStep::Condemn { id: "a".into() }) {
                return "condemned";
            }
        }
        "left"
    }

    #[test]
    fn a_port_that_was_found_and_that_no_driver_has_bound_is_not_used() {
        use PortCondition::{Active, Down, Unbound};
        for name in [pool_port_name("w1"), own_port_name("w1")] {
            for (condition, is_fresh, is_making, expect) in [
                (Down, false, false, "used"),
                (Active, false, false, "used"),
                (Unbound, false, false, "condemned"),
                // Its answer may be on the way.
                (Unbound, false, true, "left"),
                // Neutron answered, and binds it when it is at it.
                (Unbound, true, false, "used"),
            ] {
                assert_eq!(
                    fate(&name, condition, is_fresh, is_making),
                    expect,
                    "{name} {condition:?} {is_fresh} {is_making}"
                );
            }
        }
    }
}
