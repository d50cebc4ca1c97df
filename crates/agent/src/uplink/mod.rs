//! Offered ports become ready ports: links made, taps plugged, flows seen.
//!
//! What to do is [`kuryr_planning::uplink`]'s.

// Record, switch and kernel -> what planning looks at.
pub(crate) mod observe;
// Steps -> kernel and switch.
mod apply;
// The story of a node whose own interface is the uplink of all its pods.
pub(crate) mod shared;
// What is ready -> the network is told where that is.
pub(crate) mod announce;
// The same without VLANs.
mod macvlan;
// Ways of packets that were translated for clients outside.
pub(crate) mod ways;
// The story.
pub(crate) mod reconcile;
