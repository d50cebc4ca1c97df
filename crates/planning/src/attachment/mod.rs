//! A claimed port and its subnets in, what the pod's interface must look like out.
//!
//! Terms: *links* are what the pod sees of its port (hardware address, MTU, addresses, routes); the *host end*
//! is the node's end of the pod's link. Nothing here knows how links are made: the same description serves the
//! eBPF joint and a macvlan.
//!
//! Example: a port `c4e1a7d2-90...` with `10.128.6.23` in `10.128.6.0/26` (gateway `.1`, host route to
//! `169.254.169.254`) on a network with MTU 1442 becomes `10.128.6.23/26`, routes `0.0.0.0/0 via 10.128.6.1` and
//! `169.254.169.254/32 via 10.128.6.2`, MTU 1442.
//!
//! Sources: Neutron Networking API (`fixed_ips`, `gateway_ip`, `host_routes`); upstream Kuryr (MTU is the network's,
//! capped by `network_device_mtu`; the default route is the subnet's gateway).

// Port entry, network, subnets -> links of the pod.
pub mod links;
// What a pod's interface should be against what it is: CHECK.
pub mod difference;
// Links -> the CNI result and upstream's VIF.
pub mod told;
// The node's own port and the addresses by which pods and their node talk directly.
pub mod node;

pub use difference::{Difference, Observed};
pub use links::{Address, Incomplete, Links, Route};
pub use node::{NodeLinks, local_addresses};
