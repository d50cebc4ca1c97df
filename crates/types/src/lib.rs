//! Nouns that every crate shares, without behaviour beyond parsing and printing.
//!
//! - [`ids`]: one type per kind of identifier, so that a port id is never passed for a subnet id;
//! - [`mac`]: hardware addresses;
//! - [`generation`]: epochs and generations of port entries;
//! - [`pod`]: how a pod is named and identified;
//! - [`retry`]: what an error says about trying again;
//! - [`causes`]: an error with its causes, in one line.
//!
//! Nothing here performs I/O, knows the time, or knows an API of somebody else.

pub mod generation;
pub mod ids;
pub mod mac;
pub mod pod;
pub mod retry;

pub mod causes;

pub use causes::with_causes;
pub use generation::{Epoch, Generation};
pub use ids::{
    ClassId, FloatingIpId, LbPoolId, ListenerId, LoadBalancerId, MemberId, MonitorId, NetworkId, PortId,
    ProjectId, SecurityGroupId, SubnetId, TrunkId,
};
pub use mac::MacAddr;
pub use pod::{PodIdentity, PodRef};
pub use retry::{Blame, Retry};
