//! Services and `EndpointSlice`s in, the tables by which clients on this node reach endpoints out.
//!
//! Terms: a *frontend* is where clients send to: an address of a Service or of nodes, a port, a protocol. Its *targets*
//! are the addresses and ports of the endpoints that a client on this node may be given. The *tables* are the kernel's:
//! a frontend's *value* names a *generation*, whose *backends* are in *slots* 0 to count - 1, [`ROW`] slots in a *row*,
//! which is one entry; a *member* tells the slot of an endpoint, for frontends whose clients keep theirs. Frontends of
//! one *set* lead to the same generation.
//!
//! Rules:
//! - A change is written in an order in which a client finds the old targets or the new ones, never a mixture: backends
//!   of a new generation, the value, then the old generation goes. A frontend that goes loses its value first.
//! - Numbers survive restarts: they are read back from the tables. The number of a set is not used again for another,
//!   and an endpoint keeps its number in all generations.
//! - A frontend is written by one Service or pod at a time: the one that has it keeps it.
//! - What no Service asks for is deleted only when both lists are complete; the caller knows when.
//!
//! Example: a Service `web` with ClusterIP `10.96.0.7`, port 80, target port 8080 and ready endpoints `10.1.0.4`,
//! `10.1.0.5` becomes the row `(1, 1, 0) -> 10.1.0.4:8080, 10.1.0.5:8080` and then
//! `10.96.0.7:80/TCP -> number 1, generation 1, 2 backends`.
//!
//! What does not come from a socket of this node finds the same endpoints by tables of another kind: [`inbound`].
//!
//! Sources: Kubernetes documentation, "Service", "Virtual IPs and Service Proxies", "EndpointSlices", "Topology Aware
//! Routing", "Traffic distribution"; kube-proxy 1.36, `pkg/proxy/topology.go`, `pkg/proxy/nftables`.

// What is looked at.
pub mod inputs;
// Which external addresses may be served.
pub mod external;
// Which Services are served, and where.
mod from_kubernetes;
// Which endpoints a client on this node may be given.
mod endpoints;
// Service and slices -> frontends and targets.
pub mod desired;
// Who tells that clients' addresses are lost.
mod client_address;
// Pods' ports on the node -> frontends and targets.
mod host_ports;
// What the kernel has.
pub mod tables;
// Addresses of nodes, in the tables.
pub mod nodes;
// Frontends and tables -> writes, in order.
pub mod diff;
// What becomes of sockets whose endpoint goes.
pub mod sockets;
// Clients that are no processes of this node.
pub mod inbound;
// Which pods see their addresses.
pub mod straight;
// Where the API servers are by themselves.
mod api_servers;

pub use api_servers::api_servers;
pub use desired::{At, Desired, Family, Frontend, HealthCheck, Problem, Protocol, Target, Wanted, desired};
pub use diff::{Change, Plan, diff, leftovers};
pub use external::{ExternalRanges, Refusal};
pub use from_kubernetes::LeftAlone;
pub use host_ports::host_ports;
pub use inputs::{
    Cluster, Endpoint, HostPort, NodeFacts, Owner, OwnerKind, Pod, Service, ServicePort, Slice, SlicePort,
};
pub use nodes::NodeKind;
pub use sockets::{Fate, Socket, fate};
pub use tables::{Backend, Contents, Member, Place, ROW, Size, Step, Tables, Value};

#[cfg(test)]
mod properties;
