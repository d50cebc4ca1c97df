//! Where the time of an ADD goes.

use std::time::{Duration, Instant};

/// Parts of an ADD, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Finding out which pod it is, and waiting for its turn.
    Pod,
    /// Waiting for a ready port and claiming it.
    Port,
    /// Making the claim durable.
    Durable,
    /// Attaching.
    Attach,
}

impl Stage {
    /// All stages.
    pub(crate) const ALL: [Self; 4] = [Self::Pod, Self::Port, Self::Durable, Self::Attach];

    /// The stage as metrics and logs name it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Port => "port",
            Self::Durable => "durable",
            Self::Attach => "attach",
        }
    }
}

/// A stop watch with laps.
#[derive(Debug, Clone)]
pub(crate) struct Stages {
    started: Instant,
    last: Instant,
    laps: Vec<(Stage, Duration)>,
}

impl Stages {
    /// Starts.
    pub(crate) fn start() -> Self {
        let now = Instant::now();
        Self { started: now, last: now, laps: Vec::with_capacity(Stage::ALL.len()) }
    }

    /// Ends a stage.
    pub(crate) fn end(&mut self, stage: Stage) {
        let now = Instant::now();
        self.laps.push((stage, now - self.last));
        self.last = now;
    }

    /// The stages that ended, with their times.
    pub(crate) fn laps(&self) -> &[(Stage, Duration)] {
        &self.laps
    }

    /// Time since the start.
    pub(crate) fn total(&self) -> Duration {
        self.started.elapsed()
    }
}

impl std::fmt::Display for Stages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (stage, time) in &self.laps {
            write!(f, "{} {} us, ", stage.name(), time.as_micros())?;
        }
        write!(f, "total {} us", self.total().as_micros())
    }
}
