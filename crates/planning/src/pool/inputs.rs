//! What is looked at before a node's ports are planned.
//!
//! Everything is given: the time, what the watches hold, what the cloud listed. Nothing here is read from
//! anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use kuryr_api::kuryrnode::{
    ClassEntry, KuryrNodeSpec, KuryrNodeStatus, Mode, NetworkEntry, PlugId, Problem, SubnetEntry,
};
use kuryr_types::{ClassId, NetworkId, PodIdentity, PortId, SubnetId};

use super::{
    server::Servers,
    targets::Levels,
    trunk::{HeldUp, Trunks},
};
use crate::{
    demand::{Coming, governor::Blocked},
    ownership::{OurPort, Purpose},
};

/// Time in milliseconds since some moment that stays the same as long as a [`Memory`](super::Memory) lives.
pub type Millis = u64;

/// One look at a node.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Now.
    pub now: Millis,
    /// Name of the node.
    pub node: &'a str,
    /// Whether what is known of Nodes, Pods and `EndpointSlice`s is complete and recent.
    pub in_sync: bool,
    /// Whether the Node exists.
    pub presence: &'a Presence,
    /// What the Node says of how ports reach it.
    pub facts: &'a NodeFacts,
    /// The node's record, the newest that is known.
    pub record: Option<Record<'a>>,
    /// Pods that are scheduled there.
    pub pods: &'a [PodFacts],
    /// The API server was asked just now for the Node, its record and its pods. Otherwise they are what watches tell, and one
    /// of those may be behind without knowing it.
    pub asked: bool,
    /// Pods that are not scheduled yet, and what could come.
    pub coming: Coming,
    /// What refers to addresses.
    pub held: Held<'a>,
    /// The cloud.
    pub cloud: &'a Cloud,
    /// Bounds and waits.
    pub limits: &'a Limits,
}

/// To which addresses something refers, as far as watches tell.
#[derive(Debug, Clone, Copy)]
pub struct Held<'a> {
    /// Those, of all that matter here, to which something in the cluster refers, or a member of a load balancer.
    pub addresses: &'a BTreeSet<IpAddr>,
    /// Since when changes of pods and `EndpointSlice`s have been told as they happened; `None` while they are not. Something may
    /// have referred to an address before, and nobody here knows.
    pub told_since: Option<Millis>,
}

impl Held<'_> {
    /// Whether something refers to an address of `port`.
    pub(super) fn has(&self, port: &OurPort) -> bool {
        port.ips().any(|address| self.addresses.contains(&address))
    }

    /// Since when it is certain that nothing does, of what has been seen to be free `since` then.
    pub(super) fn free_since(&self, since: Option<Millis>) -> Option<Millis> {
        Some(since?.max(self.told_since?))
    }
}

/// A node's record.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Written by us.
    pub spec: &'a KuryrNodeSpec,
    /// Written by the agent; `None` before its first report.
    pub status: Option<&'a KuryrNodeStatus>,
}

/// Whether a Node exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// It does, with this UID.
    Present {
        /// UID of the object.
        uid: String,
    },
    /// It does not.
    Absent,
}

/// What a Node says of how ports reach it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The label that names the mode, as written.
    pub label: Option<String>,
    /// `InternalIP`s.
    pub addresses: Vec<IpAddr>,
    /// Kubernetes has not heard of it for a while: whoever runs there can tell nobody anything.
    pub unreachable: bool,
    /// How many pods its kubelet runs at most, where it tells.
    pub pods_most: Option<usize>,
}

/// A pod, as far as ports are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFacts {
    /// Which life of which pod.
    pub identity: PodIdentity,
    /// It uses the node's own network.
    pub host_network: bool,
    /// Its containers ended for good.
    pub ended: bool,
    /// Somebody deleted it.
    pub terminating: bool,
    /// Addresses that its status tells.
    pub addresses: Vec<IpAddr>,
}

/// What is known of the cloud.
#[derive(Debug, Clone, Default)]
pub struct Cloud {
    /// Our ports that were made for the node, or that its record names; `None` until a complete list was had
    /// in this leadership, and while the outcome of a write is unknown.
    pub ports: Option<Vec<OurPort>>,
    /// Ports that this leader made itself and heard the answer. Of others it is not known whether somebody had
    /// them before, so they rest before they are offered.
    pub fresh: BTreeSet<PortId>,
    /// Ports of the node that were ACTIVE in a look that began after the agent had told of this plug.
    pub active: BTreeMap<PortId, PlugId>,
    /// What ordinary pods get; `None` while it is not known or not right.
    pub default: Option<DefaultClass>,
    /// Why the last creation failed, and when the next one is tried.
    pub blocked: Option<Blocked>,
    /// Ports that are being made for the node, by a request that is under way, and what for.
    pub making: Option<(Purpose, usize)>,
    /// Ports whose last change or deletion failed, and when the next one is tried.
    pub held_up: BTreeMap<PortId, HeldUp>,
    /// What is known of trunks; `None` while nobody has looked, and while the outcome of a change is unknown.
    pub trunks: Option<Trunks>,
    /// What is known of ports of servers; `None` as for trunks.
    pub servers: Option<Servers>,
    /// What keeps us from providing ports.
    pub problems: Vec<Problem>,
}

/// What ordinary pods get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultClass {
    /// Hash of `entry`.
    pub id: ClassId,
    /// Subnets and groups.
    pub entry: ClassEntry,
    /// Its only group is the one of ours that lets everything in and out.
    pub open: bool,
    /// The network of all of the subnets.
    pub network: NetworkId,
    /// Description of the network.
    pub networks: BTreeMap<NetworkId, NetworkEntry>,
    /// Description of the subnets.
    pub subnets: BTreeMap<SubnetId, SubnetEntry>,
}

/// Bounds and waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// How many ports.
    pub levels: Levels,
    /// How long an address rests after nothing refers to it.
    pub cool_down: Millis,
    /// How long surplus is kept.
    pub shrink_delay: Millis,
    /// How long a Node must be absent before it is gone.
    pub node_grace: Millis,
    /// How ports reach all nodes, if that is configured.
    pub mode: Option<Mode>,
    /// VLAN ids that subports may have.
    pub vlans: RangeInclusive<u16>,
    /// Whether ports are named after the pods that have them.
    pub names_pods: bool,
}
