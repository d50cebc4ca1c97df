//! Talks to the cloud: Keystone for tokens, Neutron for networks, subnets, ports, security groups and floating IPs,
//! Octavia for load balancers.
//!
//! It knows HTTP, JSON and the rules of these APIs, and decides nothing: which port to create or delete is
//! the caller's business. It makes no second attempt either, with one exception: a call that is answered
//! with 401 is sent again once with a new token. Retries belong to the caller's work queue, which learns
//! from [`Error::retry`] whether one makes sense and from [`Error::outcome_unknown`] whether a write may
//! have happened although its answer is missing.
//!
//! Terms: *session*, a token with the catalogue that came with it; *operation*, the name of one kind of
//! call, used in errors, logs and metrics; *ours*, in our project **and** carrying all our tags
//! ([`Ownership`]). A port or security group can be changed or deleted only through a value that proves
//! that it is ours, because the role `service`, which binding ports to hosts needs, shows and may change
//! the ports of all tenants.
//!
//! Sources: Identity API v3, Networking API v2.0, Load Balancer API v2, "Keystone authentication" options of keystoneauth,
//! `clouds.yaml` of openstacksdk.

// From the outside in: who we are, how a request travels, what came back.
pub mod credentials; // options, clouds.yaml or environment -> credentials
pub mod ownership; // what is ours
pub mod client; // one typed call: a place, a session, an exchange, a result
mod paging; // lists that come in pages
mod auth; // tokens: password or application credential, renewal, single flight
mod catalogue; // which URL a service has
mod exchange; // one request and its answer, within a deadline
mod query; // percent-encoding
pub mod transport; // bytes over the wire, or a simulated cloud
mod fault; // an answer that is no success -> error
pub mod error; // what can fail

// What Neutron offers, one file per resource.
pub mod neutron;
// What Octavia offers, the same.
pub mod octavia;

#[cfg(test)]
mod recorded; // a transport that answers from a list and remembers what was asked

pub use client::{Client, Observe, Options};
pub use credentials::Credentials;
pub use error::{Call, Error, TrunkConflict};
pub use ownership::Ownership;
pub use transport::{HyperTransport, Transport, TransportError};
