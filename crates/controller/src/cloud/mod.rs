//! What pods get in the cloud, and which ports there are ours.
//!
//! [`facts`] asks for what the configuration names and goes on asking: a cloud that is down or a subnet that does not
//! exist is a problem that nodes are told of, never the end of the process. [`ports`] holds our ports as the last list
//! and our own writes since tell them. [`trunks`] and [`servers`] do the same for what carries ports to nodes that are
//! servers of the cloud, with [`hold_ups`] after changes that failed. [`plugs`] holds what Neutron is to call ACTIVE.
//! [`problem`] puts errors into words for people.

// What pods get.
pub(crate) mod facts;
// Our ports.
pub(crate) mod ports;
// Trunks of nodes that are servers of the cloud.
pub(crate) mod trunks;
// Ports that are plugged and wait for Neutron to call them ACTIVE.
pub(crate) mod plugs;
// Ports of such nodes themselves.
pub(crate) mod servers;
// What is left alone after a change that failed.
mod hold_ups;
// Errors for people.
pub(crate) mod problem;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod fake_octavia;

pub use facts::Connect;
pub(crate) use facts::{Facts, Known};
pub(crate) use plugs::PlugIndex;
pub(crate) use ports::{PortIndex, our_ports};
pub(crate) use servers::ServerIndex;
pub(crate) use trunks::TrunkIndex;
