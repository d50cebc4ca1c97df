//! What the agent remembers between two looks; nothing of it needs to survive a restart.

use std::{collections::BTreeMap, time::Duration};

use kuryr_types::{Generation, PortId};

/// Remembered facts. All times are since the agent started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// When each offer was first seen.
    pub first_seen: BTreeMap<PortId, (Generation, Duration)>,
    /// The start of the switch under which each port was plugged by this agent.
    pub plugged_under: BTreeMap<PortId, String>,
    /// Ports that are ready, with the row that proves it and since when.
    pub ready: BTreeMap<PortId, Earned>,
    /// Since when an offered port has an interface that is down and cannot be brought up.
    pub down_since: BTreeMap<PortId, Duration>,
    /// When a port last became ready.
    pub last_ready: Option<Duration>,
    /// Since when an offered port is not ready while others are.
    pub late_since: BTreeMap<PortId, Duration>,
    /// The port that was last told to be stuck without another that became ready to show it, and since when.
    pub probed: Option<(PortId, Duration)>,
}

/// Readiness that was earned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earned {
    /// Row that it holds for.
    pub row: String,
    /// Start of the switch that it holds for.
    pub start: String,
    /// Since when.
    pub since: Duration,
}

impl Memory {
    /// Notes that these ports were plugged under this start.
    pub fn plugged<'a>(&mut self, ports: impl IntoIterator<Item = &'a PortId>, start: &str) {
        self.plugged_under.extend(ports.into_iter().map(|port| (port.clone(), start.to_owned())));
    }
}
