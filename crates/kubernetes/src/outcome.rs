//! What a reconciler answers, and what the queue has to know of its failures.
//!
//! An outcome says *why* the key will be seen again: because something is awaited, because time has to pass, or
//! because it failed. It is data, not a sleep: nothing blocks while a key waits.

use std::{borrow::Cow, fmt, time::Duration};

use kuryr_types::Retry;

/// What became of one look at a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The world is as it should be; the key comes again when something changes.
    Done,
    /// Something is awaited that will be told by a change of an object.
    Wait {
        /// The key comes again after this time even if nothing was told.
        at_most: Duration,
        /// What is awaited, for people.
        why: Cow<'static, str>,
    },
    /// Nothing will tell; look again after a while.
    Again {
        /// Time until the next look.
        after: Duration,
        /// Why another look is needed, for people.
        why: Cow<'static, str>,
    },
}

impl Outcome {
    /// Awaits a change, and looks again after `at_most` at the latest.
    pub fn wait(at_most: Duration, why: impl Into<Cow<'static, str>>) -> Self {
        Self::Wait { at_most, why: why.into() }
    }

    /// Looks again after this time.
    pub fn again(after: Duration, why: impl Into<Cow<'static, str>>) -> Self {
        Self::Again { after, why: why.into() }
    }
}

/// A reconciler's error, as the queue sees it.
pub trait Failure: fmt::Display + Send + 'static {
    /// When the same work may succeed.
    fn retry(&self) -> Retry;
}

impl Failure for crate::Error {
    fn retry(&self) -> Retry {
        self.retry()
    }
}
