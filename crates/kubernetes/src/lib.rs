//! The Kubernetes world: everything that talks to the API server, and nothing that decides.
//!
//! In the order in which a change passes through a process:
//!
//! - [`client`]: a connection to the API server from options of kuryr.conf, a kubeconfig or the pod's own
//!   account;
//! - [`slim`]: the objects we watch, reduced to the fields we read;
//! - [`mod@watch`]: lists, watches and their recovery; every change lands in a [`store`] first and is told
//!   afterwards;
//! - [`index`]: the same objects by another key;
//! - [`latest`]: a value, and those who wait for the next one, in order;
//! - [`queue`]: keys waiting for a reconciler, with fairness, back-off and a panic guard; [`outcome`] is what a
//!   reconciler answers, [`backoff`] how long failing keys wait;
//! - [`objects`] and [`patch`]: typed calls with a bound on time and errors that can be told apart;
//! - [`event`]: what the user sees on the object;
//! - [`lease`]: which replica may act;
//! - [`clock`]: the time of day that both tell.
//!
//! Nothing here retries a call: a call reports, the queue tries again. The exceptions are the loops whose whole
//! purpose is to stay connected (a watch, a lease), each with a bounded back-off.
//!
//! Sources: Kubernetes API concepts ("Efficient detection of changes", "Streaming lists", "Patch"),
//! API reference of `coordination.k8s.io/v1` Lease and core `v1` Event.

// From the API server to the store.
pub mod client;
pub mod slim;
pub mod watch;

pub mod store;

pub mod index;

pub mod latest;
// From the store to the reconciler.
pub mod backoff;
pub mod outcome;
pub mod queue;
// Back to the API server.
pub mod event;
pub mod objects;
pub mod patch;
// Who may act.
pub mod lease;
// When that was, for people.
pub mod clock;
// What can go wrong.
pub mod error;

pub use error::{Call, Error, Result};
pub use outcome::{Failure, Outcome};
