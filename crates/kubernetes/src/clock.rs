//! The time of day.
//!
//! It is told to people, in Leases, Events and conditions, and held against times that others wrote. It may jump, by hours, and those
//! of two machines differ: how long something lasts is counted on the monotonic clock.

use std::{fmt, sync::Arc};

use k8s_openapi::jiff::Timestamp;

/// Tells the time of day; clones tell the same.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The clock of this machine.
    #[must_use]
    pub fn of_machine() -> Self {
        Self::telling(Timestamp::now)
    }

    /// A clock that tells this.
    pub fn telling(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Tells the time of day.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}
