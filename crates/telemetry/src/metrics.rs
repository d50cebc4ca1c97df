//! One registry of metrics per process.
//!
//! A component describes its metrics in its own `metrics.rs` and adds them here by [`Metrics::register`],
//! under a prefix of its choice. Counters are shown with the suffix `_total`, which must not be part of their
//! name.
//!
//! Source: OpenMetrics 1.0.

use std::sync::{Arc, PoisonError, RwLock};

use prometheus_client::{encoding::text, registry::Registry};

use crate::{Error, Result};

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of this process; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    registry: Arc<RwLock<Registry>>,
}

impl Metrics {
    /// No metrics yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the metrics of a component; returns what `add` does, usually handles to count with.
    pub fn register<T>(&self, add: impl FnOnce(&mut Registry) -> T) -> T {
        add(&mut self.registry.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes all metrics in the text form of OpenMetrics.
    ///
    /// # Errors
    ///
    /// [`Error::Metrics`] if a metric fails to write itself.
    pub fn encode(&self) -> Result<String> {
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        text::encode(&mut text, &registry).map_err(Error::Metrics)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn shows_what_components_add() {
        let metrics = Metrics::new();
        let events: Counter = metrics.register(|registry| {
            let counter = Counter::default();
            registry.sub_registry_with_prefix("kuryr").register("events", "Events written", counter.clone());
            counter
        });
        events.inc();
        let expect =
            "# HELP kuryr_events Events written.\n# TYPE kuryr_events counter\nkuryr_events_total 1\n# EOF\n";
        assert_eq!(metrics.encode().unwrap(), expect);
    }
}
