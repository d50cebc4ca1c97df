//! The time of day, as each machine has it: a node, or the machine of a controller.
//!
//! In the begin all agree, and it goes as the paused clock does. One may jump, to the time of a machine whose clock was set wrong or is
//! set right; what others wrote stays as it is.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kuryr_kubernetes::clock::Clock;

use crate::{faults::Caller, world::World};

/// When a run begins, in milliseconds since 1970: 2026-01-01T00:00:00Z.
const START_MS: i64 = 1_767_225_600_000;
/// Whose time is on objects that others than programs delete.
pub(crate) const API_SERVER: &str = "api-server";

/// By how much clocks are wrong, by machine.
pub(crate) type Skews = BTreeMap<String, SignedDuration>;

impl World {
    /// The clock of a machine.
    pub(crate) fn clock_of(self: &Arc<Self>, machine: &str) -> Clock {
        let (world, machine) = (Arc::clone(self), machine.to_owned());
        Clock::telling(move || world.time_of(&machine))
    }

    /// What time of day it is on a machine.
    pub(crate) fn time_of(&self, machine: &str) -> Timestamp {
        let elapsed = i64::try_from(self.faults.elapsed()).unwrap();
        let skew = self.skews().get(machine).copied().unwrap_or_default();
        Timestamp::from_millisecond(START_MS + elapsed).unwrap() + skew
    }

    /// The same in nanoseconds since 1970, where a run is harsh.
    pub(crate) fn now_ns(&self, machine: &str) -> Option<i128> {
        self.setup.is_harsh.then(|| self.time_of(machine).as_nanosecond())
    }

    /// The clock of a machine jumps by so many hours.
    pub(crate) fn jump(&self, machine: &str, hours: i16) {
        self.note(format!("the clock of {machine} jumps by {hours} h"));
        *self.skews().entry(machine.to_owned()).or_default() += SignedDuration::from_hours(hours.into());
    }
}

/// The machine on which a program runs.
pub(crate) fn machine_of(caller: &Caller) -> &str {
    let program = caller.name().split('.').next().unwrap_or_default();
    program.strip_prefix("agent-").unwrap_or(program)
}
