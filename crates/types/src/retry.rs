//! What an error says about trying again.
//!
//! Retries happen in one place, the work queue; every other layer only classifies.

use std::time::Duration;

/// When the same work may succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Not before something changes: a bad request, a missing permission.
    Never,
    /// Later, with growing distance: the other side is down, busy or in an intermediate state.
    Backoff,
    /// Not before this much time has passed; the other side said so (`Retry-After`).
    After(Duration),
}

/// Who has to act for the work to succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The Kubernetes API or an object in it.
    Kubernetes,
    /// The cloud: its API, a quota, a permission.
    OpenStack,
    /// The node: kernel, Open vSwitch, disk.
    Node,
    /// This program.
    Us,
}
