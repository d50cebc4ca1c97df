//! Octavia's resources, one file each: the fields we use, the calls we make.
//!
//! A load balancer and all below it is one thing to Octavia: while one part is being changed (`PENDING_*`), every other
//! change is refused ([`Error::Immutable`]). So a load balancer is made whole by one call, the members of a pool are
//! replaced by one call, and everything is deleted by one call.
//!
//! What is ours is told as of ports: by project *and* tags ([`OwnedLoadBalancer`]). Listeners, pools and members belong to
//! the load balancer that carries them, ours or another of our project ([`Carrier`]), and a call that changes one takes
//! it as well. Which of them are ours the caller has to tell by their names and tags.
//!
//! Source: Load Balancer API v2 (Octavia).

pub mod api;
pub mod health_monitor;
pub mod listener;
pub mod load_balancer;
pub mod member;
pub mod pool;

#[cfg(test)]
mod fixtures;

pub use api::{ApiVersion, Octavia};
pub use health_monitor::{HealthMonitor, HealthMonitorCreate, HealthMonitorUpdate};
pub use listener::{Listener, ListenerCreate, ListenerUpdate, Timeout};
pub use load_balancer::{
    AdditionalVip, Carrier, Guest, LoadBalancer, LoadBalancerCreate, OwnedLoadBalancer, ProvisioningStatus,
};
pub use member::{Member, MemberCreate};
pub use pool::{LbPool, PoolCreate, PoolUpdate, SessionPersistence};
