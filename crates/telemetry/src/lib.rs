//! What a process shows of itself: logs, metrics, health.
//!
//! - [`logging`]: text or JSON lines on standard error;
//! - [`metrics`]: one registry that each component adds its own to;
//! - [`reference()`]: that registry as a table for people;
//! - [`health`]: named checks that components set, shown under Kubernetes' and upstream's paths;
//! - [`server`]: a small HTTP server with bounds, for the two above and for debug pages.
//!
//! Nothing here knows what is being logged, counted or checked.

pub mod logging;
pub mod metrics;
mod reference;

pub mod health;

mod places;
pub mod server;

pub mod error;

pub use error::{Error, Result};
pub use reference::reference;
