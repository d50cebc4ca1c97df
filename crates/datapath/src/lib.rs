//! Talks to the Linux node: network namespaces, links, eBPF, netfilter, and Open vSwitch's database.
//!
//! - [`node`]: what the agent asks for, in one place; the rest serves it;
//! - [`netns`]: namespaces, and threads in them; [`live`]: the interfaces in all of them;
//! - [`netlink`], [`link`], [`address`], [`route`], [`rule`], [`neighbour`]: the kernel's network configuration;
//! - [`sysctl`], [`offload`]: settings of links;
//! - [`announce`]: telling a network where a pod's addresses are; [`groups`]: and which multicast groups that makes it listen to;
//! - [`joint`], [`classifier`], [`trial`]: eBPF programs and maps, and whether this kernel takes them; `map_access` is
//!   how maps are read and written;
//! - [`guard`]: netfilter rules for when programs are missing; [`nft`]: how they are changed;
//! - [`service`], [`cgroup`], [`pinned_link`]: Services at the sockets of the node's processes; [`translated`], [`sock_diag`]:
//!   sockets that send to endpoints which are gone, `remembered` tells what they remember;
//! - [`inbound`]: Services for clients that are no processes of the node; [`conntrack`]: what the kernel remembers of them;
//! - [`ovsdb`]: ports of the integration bridge;
//! - [`error`]: what can go wrong.
//!
//! Nothing here decides what a pod gets, and nothing here knows Kubernetes or `OpenStack`.

// what the agent asks for
pub mod node;
// where it happens
pub mod live;
pub mod netns;
// the kernel's network configuration
pub mod address;
pub mod link;
pub mod neighbour;
pub mod netlink;
pub mod route;
pub mod rule;
// settings of links
pub mod offload;
pub mod sysctl;
// telling the network
pub mod announce;
pub mod groups;
// the joint and the guard
pub mod classifier;
pub mod guard;
pub mod joint;
mod map_access;
pub mod nft;
pub mod trial;
// Services
mod bpf;
pub mod cgroup;
pub mod pinned_link;
pub mod service;
mod remembered;
pub mod sock_diag;
pub mod translated;
// Services for clients outside the node
pub mod conntrack;
pub mod inbound;
// the integration bridge
pub mod ovsdb;
// what can go wrong
pub mod error;

pub use announce::Announcement;
pub use conntrack::Flow;
pub use error::{Error, Result};
pub use inbound::{Affinity, Arrival, Departures, Entry as InboundEntry, Inbound, Lead, Transport};
pub use joint::{Entry, Owed};
pub use kuryr_ebpf_maps::PodCounters;
pub use netns::{Netns, NetnsId};
pub use node::{
    Attached, FoundUplinks, HybridSpec, JoinChoice, Joining, MacvlanSpec, Node, NodeConfig, NodeInterface,
    NodeRoute, ObservedLinks, ObservedMacvlan, Offloads, OwnPortSpec, PodLinks, Side, Swept, Uplink,
    UplinkSpec,
};
pub use ovsdb::{BridgeRow, InterfaceRow, Ovsdb, OvsdbConfig, PortSpec, SwitchRow, SwitchStart, SwitchState};
pub use route::Route;
pub use service::{Outcomes, ServiceContents, Services, ServicesConfig};
pub use translated::{Reached, TranslatedSocket, TranslatedSockets};
pub use trial::Making;
