//! The switch as found.
//!
//! Sources: OVN `ovn-controller(8)`; Neutron 2024.1 and later, `ovs_neutron_agent.py` (`process_network_ports`,
//! `_bind_devices`: filters, then the tag, then the report that the port is up) and `plugins/ml2/rpc.py`
//! (`_get_new_status`: BUILD when the agent asks for a port's details).

use std::collections::BTreeMap;

use kuryr_types::PortId;

/// The switch of the node, connected and with its integration bridge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Switch {
    /// The start of ovs-vswitchd; none while it does not run.
    pub start: Option<Start>,
    /// Rows by the name of the interface.
    pub rows: BTreeMap<String, Row>,
    /// What tells that a port works.
    pub sign: Sign,
}

/// What tells on a node that a plugged port works.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sign {
    /// ovn-controller, on the row of the interface (`ovn-installed`).
    #[default]
    OvnInstalled,
    /// Neutron, which calls the port ACTIVE when its Open vSwitch agent on this node has reported it. Whether that is
    /// about this plug the agent's VLAN id on the row tells: before it gives a row one, it has had Neutron call the port
    /// BUILD.
    Active,
}

impl Sign {
    /// Tells it by the identifiers of the switch: those of ovn-controller are what it is configured by.
    #[must_use]
    pub fn of_switch<'a>(external_ids: impl IntoIterator<Item = &'a str>) -> Self {
        let is_chassis = external_ids.into_iter().any(|key| key.starts_with(OVN_KEYS));
        if is_chassis { Self::OvnInstalled } else { Self::Active }
    }
}

/// How keys begin that ovn-controller reads and writes: `ovn-remote`, `ovn-encap-ip`, `ovn-bridge-mappings`.
const OVN_KEYS: &str = "ovn-";
/// VLAN id by which the agent marks a port that must carry nothing (`DEAD_VLAN_TAG`).
const DEAD_VLAN: u16 = 4095;

/// One start of ovs-vswitchd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Another value is another start.
    pub id: String,
    /// When, in milliseconds since 1970 by the node's clock.
    pub at_ms: u64,
}

/// An interface's row in the switch's database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// Another value is another row.
    pub uuid: String,
    /// Port that it is plugged for (`iface-id`).
    pub port: Option<PortId>,
    /// It bears the mark of Kuryr (`vm-uuid`), which upstream's rows do as well.
    pub ours: bool,
    /// It bears a generation, which only this agent writes.
    pub has_generation: bool,
    /// Start of ovs-vswitchd under which this agent plugged it; older agents did not tell.
    pub start: Option<String>,
    /// The switch has given it a number.
    pub has_ofport: bool,
    /// Its flows were installed (`ovn-installed`).
    pub installed: bool,
    /// When, in milliseconds since 1970; older versions do not tell.
    pub installed_at_ms: Option<u64>,
    /// VLAN id that the Open vSwitch agent of Neutron gave it.
    pub tag: Option<u16>,
    /// What the switch says is wrong.
    pub error: Option<String>,
}

impl Row {
    /// Tells whether whoever drives the switch has dealt with this row, under whatever start.
    #[must_use]
    pub fn is_served(&self, sign: Sign) -> bool {
        match sign {
            Sign::OvnInstalled => self.installed,
            Sign::Active => self.tag.is_some_and(|tag| tag != DEAD_VLAN),
        }
    }

    /// Tells whether that was under this start, as far as the row shows it: it was plugged under it or, where a row does not
    /// tell, the flag is younger. Where it tells no time counts: the clock may have gone back since the flag was set.
    #[must_use]
    pub fn is_of(&self, start: &Start) -> bool {
        match &self.start {
            Some(plugged_under) => *plugged_under == start.id,
            None => self.installed && self.installed_at_ms.is_some_and(|at| at >= start.at_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chassis_of_ovn_is_told_by_its_identifiers() {
        for (keys, expect) in [
            (&["hostname", "system-id", "ovn-remote", "ovn-encap-ip"][..], Sign::OvnInstalled),
            (&["hostname", "system-id", "rundir"], Sign::Active),
            (&[], Sign::Active),
        ] {
            assert_eq!(Sign::of_switch(keys.iter().copied()), expect, "{keys:?}");
        }
    }

    #[test]
    fn a_row_is_served_by_who_drives_the_switch() {
        for (installed, tag, sign, expect) in [
            (true, None, Sign::OvnInstalled, true),
            (false, Some(3), Sign::OvnInstalled, false),
            (true, None, Sign::Active, false),
            (false, Some(3), Sign::Active, true),
            (false, Some(4095), Sign::Active, false),
        ] {
            let row = Row { installed, tag, ..Row::default() };
            assert_eq!(row.is_served(sign), expect, "{row:?} {sign:?}");
        }
    }

    #[test]
    fn a_flag_is_of_the_start_it_was_plugged_under_or_younger_where_nobody_told() {
        let start = Start { id: "s2".into(), at_ms: 1000 };
        for (plugged_under, installed_at_ms, expect) in [
            (Some("s2"), None, true),
            (Some("s1"), None, false),
            (Some("s1"), Some(1000), false),
            (None, Some(1000), true),
            (None, Some(999), false),
            (None, None, false),
        ] {
            let start_of_row = plugged_under.map(str::to_owned);
            let row = Row { installed: true, start: start_of_row, installed_at_ms, ..Row::default() };
            assert_eq!(row.is_of(&start), expect, "{row:?}");
        }
    }
}
