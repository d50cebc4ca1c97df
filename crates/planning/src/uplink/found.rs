//! The switch as found.

use std::collections::BTreeMap;

use kuryr_types::PortId;

/// The switch of the node, connected and with its integration bridge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Switch {
    /// The start of ovs-vswitchd; none while it does not run.
    pub start: Option<Start>,
    /// Rows by the name of the interface.
    pub rows: BTreeMap<String, Row>,
}

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
    /// The switch has given it a number.
    pub has_ofport: bool,
    /// Its flows were installed (`ovn-installed`).
    pub installed: bool,
    /// When, in milliseconds since 1970; older versions do not tell.
    pub installed_at_ms: Option<u64>,
    /// What the switch says is wrong.
    pub error: Option<String>,
}

impl Row {
    /// Tells whether the flows were installed under this start, as far as the time shows it.
    #[must_use]
    pub fn is_installed_since(&self, start: &Start) -> bool {
        self.installed && self.installed_at_ms.is_some_and(|at| at >= start.at_ms)
    }
}
