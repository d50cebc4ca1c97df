//! What the agent asks of its node: uplinks, pods attached and cut off, and what there is.
//!
//! Terms: an *uplink* is the interface through which a pod's frames reach its Neutron port: the other end of a veth
//! plugged on the integration bridge, or the node's own interface with a VLAN or a macvlan per pod. A *host end* is the
//! node's side of a pod's veth. The *local path* is how the node and its own pods talk directly.
//!
//! Everything here blocks, for about a millisecond in the path of a pod, and belongs to the network namespace of the
//! thread that opened the [`Node`]: ask from threads of the same namespace.
//!
//! Order of an attachment: link, programs, entries, host end up, the pod's side up. Whatever is missing, the pod is
//! closed. A step that fails leaves what was done; asking again carries on from there.
//!
//! Nothing here decides: which port, which addresses, which routes come from the caller.

mod hybrid;
mod interface;
mod macvlan;
mod own_port;
mod pod;
mod sub_interface;
mod uplink;
mod ways;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use ipnet::IpNet;
use kuryr_ebpf_maps::PodCounters;
use kuryr_types::MacAddr;

pub use hybrid::HybridSpec;
pub use interface::NodeInterface;
pub use macvlan::{MacvlanSpec, ObservedMacvlan};
pub use own_port::OwnPortSpec;
pub use ways::{NodeRoute, Side};

use crate::{
    address,
    announce::{Announcement, Announcer},
    error::{Error, Result},
    guard::{self, Marks},
    joint::{Entry, Hook, Joint, Owed},
    link::{self, Link, SubInterface},
    neighbour,
    netlink::{Request, Socket},
    netns::{Netns, NetnsId},
    route::{self, Route},
    trial::{self, Making},
};

/// A node's kernel, ready to attach pods.
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
    identity: NetnsId,
    joining: Joining,
    joint: Option<Mutex<Joint>>,
    /// The kernel takes the guard's table.
    guarded: bool,
    socket: Mutex<Socket>,
    announcer: Announcer,
}

/// What a node is opened with.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Directory for pins, on a bpffs, of this node alone.
    pub bpf_dir: PathBuf,
    /// How pods are joined to uplinks.
    pub joining: JoinChoice,
    /// Mark of packets on the local path.
    pub local_mark: u32,
    /// Group of pods' host ends.
    pub pod_group: u32,
    /// Group of prepared uplinks' ends.
    pub uplink_group: u32,
    /// Group of bridges between taps and the integration bridge.
    pub bridge_group: u32,
    /// The `nft` program.
    pub nft: PathBuf,
}

impl NodeConfig {
    /// The usual values, with pins under `bpf_dir`.
    pub fn new(bpf_dir: impl Into<PathBuf>) -> Self {
        Self {
            bpf_dir: bpf_dir.into(),
            joining: JoinChoice::Auto,
            local_mark: guard::LOCAL_MARK,
            pod_group: guard::POD_GROUP,
            uplink_group: guard::UPLINK_GROUP,
            bridge_group: guard::BRIDGE_GROUP,
            nft: PathBuf::from("nft"),
        }
    }

    fn marks(&self) -> Marks {
        Marks { local: self.local_mark, pods: self.pod_group, uplinks: self.uplink_group }
    }
}

/// How pods are to be joined to uplinks. Not to be changed while there are pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum JoinChoice {
    /// By eBPF if the kernel can, else by interfaces of its own.
    #[default]
    Auto,
    /// By eBPF; a kernel that cannot is an error.
    Ebpf,
    /// By interfaces of the kernel's own on the uplink.
    SubInterface,
}

/// How pods are joined to uplinks on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joining {
    /// By eBPF programs.
    Ebpf,
    /// By an interface of the kernel's own on the uplink: no local path, no counters, nothing to cut.
    SubInterface {
        /// How macvlans in mode passthru are made, for prepared uplinks.
        macvlan: Making,
        /// How VLAN interfaces (8021q) are made, for an interface of the node.
        vlan: Making,
        /// Why not by eBPF.
        why: String,
    },
}

/// A prepared uplink to be made: a veth pair in the node's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UplinkSpec {
    /// Name of the end towards the integration bridge, which is plugged there unless there is a bridge in between.
    pub tap: String,
    /// The bridge in between, if there is one.
    pub hybrid: Option<HybridSpec>,
    /// Name of the end that pods are joined to.
    pub peer: String,
    /// Hardware address of the port; the end that pods are joined to carries it.
    pub mac: MacAddr,
    /// MTU of the port's network.
    pub mtu: u32,
    /// What the bridge's datapath needs.
    pub offloads: Offloads,
}

/// Whether packets have to be finished before they reach the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offloads {
    /// The bridge is in the kernel and finishes them itself.
    Keep,
    /// The bridge is a process that wants them finished (Open vSwitch, `datapath_type=netdev`).
    Off,
}

/// An uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// The end that is plugged on the integration bridge; `None` for an interface of the node itself.
    pub tap: Option<String>,
    /// Name of the end that pods are joined to.
    pub ifname: String,
    /// Its index.
    pub ifindex: u32,
    /// Its hardware address.
    pub mac: MacAddr,
}

/// Uplinks that there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoundUplinks {
    /// Prepared ones.
    pub prepared: Vec<Uplink>,
    /// Macvlans on an interface of the node, by name.
    pub macvlans: BTreeMap<String, ObservedMacvlan>,
    /// Names of interfaces between pods, or the node's own port, and the integration bridge that are down.
    ///
    /// Somebody may have done that, and Open vSwitch does by mistake: it sets a flag of an interface that it takes by
    /// writing all flags as it last knew them, and takes one at once whose row is older than the interface.
    pub down: Vec<String>,
}

/// A pod's interface to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodLinks {
    /// Path of the pod's network namespace.
    pub netns: PathBuf,
    /// Name of the interface in the pod.
    pub ifname: String,
    /// Name of the host end.
    pub host_ifname: String,
    /// Hardware address of the port.
    pub mac: MacAddr,
    /// MTU of the port's network.
    pub mtu: u32,
    /// Addresses of the port with the prefix lengths of their subnets.
    pub addresses: Vec<IpNet>,
    /// Default and further routes. A router outside every prefix is reached on the link.
    pub routes: Vec<Route>,
    /// Index of the uplink.
    pub uplink: u32,
    /// VLAN id on the uplink.
    pub vlan: Option<u16>,
    /// Addresses of the node for the local path. The first of each family is the node's source address towards
    /// the pod and so must be one that the node has.
    pub node_addresses: Vec<IpAddr>,
}

/// A pod's interface that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    /// Index of the host end; without eBPF: of the uplink.
    pub host_ifindex: u32,
    /// Hardware address of the same.
    pub host_mac: MacAddr,
    /// Index of the interface in the pod.
    pub ifindex: u32,
    /// The pod's namespace.
    pub netns: NetnsId,
}

/// A pod's interface as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedLinks {
    /// Index in the pod.
    pub ifindex: u32,
    /// Hardware address.
    pub mac: MacAddr,
    /// MTU.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// Addresses, with the link-local one.
    pub addresses: Vec<IpNet>,
    /// Routes over it, with those that follow from addresses and those to the node.
    pub routes: Vec<Route>,
}

/// What was swept away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Host ends deleted.
    pub links: usize,
    /// Pods' entries removed from the maps that had no link any more.
    pub entries: usize,
}

impl Node {
    /// Opens the node of the calling thread's network namespace: finds out what the kernel can do, loads the
    /// programs or takes over those of the process before, and installs the guard. A kernel that has neither eBPF nor
    /// nftables can do without a guard, as it has no host ends; it has no prepared uplinks then, either.
    ///
    /// # Errors
    ///
    /// `NotBpffs`; with [`JoinChoice::Ebpf`] whatever keeps the kernel from it; the guard's errors.
    pub fn open(config: NodeConfig) -> Result<Self> {
        let identity = Netns::own()?.id();
        let socket = Mutex::new(Socket::route()?);
        let announcer = Announcer::open()?;
        let guard = guard::install(&config.nft, config.marks());
        let (joining, joint) = choose(&config)?;
        let guarded = match guard {
            Err(Error::NftRefused { .. }) if joint.is_none() => false,
            guard => guard.map(|()| true)?,
        };
        let joint = joint.map(Mutex::new);
        let node = Self { config, identity, joining, joint, guarded, socket, announcer };
        node.replace_programs()?;
        Ok(node)
    }

    /// Puts our programs in the place of those of the process before.
    fn replace_programs(&self) -> Result<()> {
        let Some(joint) = self.joint() else {
            return Ok(());
        };
        let shared = joint.shared_uplinks()?;
        // Nobody else is there yet.
        let mut socket = self.socket();
        let mut requests = Vec::new();
        for link in link::list(&mut socket)? {
            let hooks: &[Hook] = if self.is_host_end(&link) {
                &Hook::OF_HOST_END
            } else if link.group == self.config.uplink_group || shared.contains_key(&link.index) {
                &Hook::OF_UPLINK
            } else {
                continue;
            };
            // It may go while we look.
            let attach = joint.attach(hooks, link.index)?;
            requests.extend(attach.into_iter().map(Request::tolerating_absence));
        }
        socket.apply(&requests)
    }

    /// Tells how pods are joined to uplinks.
    #[must_use]
    pub fn joining(&self) -> &Joining {
        &self.joining
    }

    /// Tells which network namespace is the node's.
    #[must_use]
    pub fn identity(&self) -> NetnsId {
        self.identity
    }

    /// Announces ports that wait for pods, `most` of those that have not been announced. Tells whether there may be more.
    ///
    /// # Errors
    ///
    /// `Socket`, once nothing else is left.
    pub fn announce(&self, ports: &[Announcement], most: usize) -> Result<bool> {
        self.announcer.announce_some(ports, most)
    }

    /// Lists the reports of groups that are owed to the network, the oldest first. Without the joint pods' kernels make them.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn owed_reports(&self) -> Result<Vec<Owed>> {
        self.joint().map_or(Ok(Vec::new()), |joint| joint.owed())
    }

    /// Makes reports of groups in the place of pods, `most` of these. Tells how many.
    ///
    /// # Errors
    ///
    /// `Map`; `Socket` of the first that could not be made, if so few could.
    pub fn report_groups(&self, owed: &[Owed], most: usize) -> Result<usize> {
        let (mut made, mut failure) = (0, Ok(()));
        for report in owed {
            if made == most {
                return Ok(made);
            }
            match self.announcer.report(report) {
                Ok(()) => made += 1,
                Err(error) => {
                    failure = failure.and(Err(error));
                    continue;
                }
            }
            self.joint().map_or(Ok(()), |mut joint| joint.reported(report))?;
        }
        failure.map(|()| made)
    }

    /// Installs the guard again, in case somebody removed it. Does nothing where the kernel refused it at the start.
    ///
    /// # Errors
    ///
    /// `NftTool`, `NftRefused`, `NftSilent`.
    pub fn ensure_guard(&self) -> Result<()> {
        if self.guarded { guard::install(&self.config.nft, self.config.marks()) } else { Ok(()) }
    }

    /// Passes if there is a guard; else tells again why there is none.
    fn need_guard(&self) -> Result<()> {
        if self.guarded { Ok(()) } else { guard::install(&self.config.nft, self.config.marks()) }
    }

    /// Sets which addresses are the node's: what pods may reach on the local path, and whence the node may reach
    /// pods on it. Does nothing without eBPF.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn set_node_addresses(&self, addresses: &[IpAddr]) -> Result<()> {
        self.joint().map_or(Ok(()), |mut joint| joint.set_node_addresses(addresses))
    }

    /// Has pods with addresses in `led` reached with clients' own addresses by what [`Inbound`](crate::Inbound) leads straight,
    /// past their uplinks; those that were and are not in `may` are not any more, from now on. Does nothing without eBPF.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn set_straight(&self, led: &BTreeSet<IpAddr>, may: &BTreeSet<IpAddr>) -> Result<()> {
        self.joint().map_or(Ok(()), |mut joint| joint.set_straight(led, may))
    }

    /// Sets the node's routes to its pods anew that are missing or have another source; tells how many. With a node's
    /// address that goes, its kernel takes the routes that have it for their source, and does not bring them back with
    /// it. Does nothing without eBPF.
    ///
    /// # Errors
    ///
    /// `Map`, `Kernel`.
    pub fn restore_local_path(&self, node_addresses: &[IpAddr]) -> Result<usize> {
        pod::restore_ways(self, node_addresses)
    }

    /// Attaches a pod, or carries on with an attachment that was not finished.
    ///
    /// # Errors
    ///
    /// `InterfaceName`, `VlanId`, `NotANamespace`, `OwnNamespace` for what cannot be; `LinkTaken` if the pod has
    /// another interface of that name; else what the kernel refused.
    pub fn attach(&self, pod: &PodLinks) -> Result<Attached> {
        pod.check()?;
        let netns = self.pod_namespace(&pod.netns)?;
        if self.joint.is_some() {
            pod::attach(self, pod, &netns)
        } else {
            sub_interface::attach(self, pod, &netns)
        }
    }

    /// Cuts a pod off: from now on nothing passes. Takes the entries only, and so never waits for the kernel's
    /// configuration, which others may have locked for tens of milliseconds. The node's routes stay until
    /// [`Node::clear`], the links until their namespace goes or [`Node::sweep`] takes them. A pod that is not there is
    /// success; without eBPF there is nothing to do.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn cut(&self, host_ifindex: u32) -> Result<()> {
        self.joint().map_or(Ok(()), |mut joint| joint.cut(host_ifindex))
    }

    /// Takes the node's routes and neighbours of a pod that was cut off. One that has been attached again keeps them.
    ///
    /// # Errors
    ///
    /// `Map`, `Kernel`.
    pub fn clear(&self, host_ifindex: u32) -> Result<()> {
        // Held from the look to the end: whoever attaches the pod meanwhile sets its routes afterwards.
        let mut socket = self.socket();
        let Some(addresses) = self.joint().map_or(Ok(None), |joint| joint.left_by(host_ifindex))? else {
            return Ok(());
        };
        let requests: Vec<_> = addresses
            .iter()
            .flat_map(|address| {
                let route = Route { dst: (*address).into(), via: None };
                [route::remove(route, host_ifindex), neighbour::remove(host_ifindex, *address)]
            })
            .collect();
        socket.apply(&requests)?;
        // Last: what failed halfway finds the addresses again.
        self.joint().map_or(Ok(()), |mut joint| joint.forget(host_ifindex))
    }

    /// Clears all pods that were cut off and not cleared yet.
    ///
    /// # Errors
    ///
    /// `Map`, `Kernel`.
    pub fn clear_all(&self) -> Result<()> {
        self.mentioned()?.into_iter().try_for_each(|index| self.clear(index))
    }

    /// Looks at a pod's interface; `None` if there is none of that name.
    ///
    /// # Errors
    ///
    /// `NotANamespace`, `OwnNamespace`, `Namespace`, `Kernel`.
    pub fn observe(&self, netns: &Path, ifname: &str) -> Result<Option<ObservedLinks>> {
        link::check_name(ifname)?;
        self.pod_namespace(netns)?.run(|| {
            let mut socket = Socket::route()?;
            let Some(link) = link::find(&mut socket, ifname)? else {
                return Ok(None);
            };
            Ok(Some(ObservedLinks {
                ifindex: link.index,
                mac: link.mac.unwrap_or(MacAddr([0; 6])),
                mtu: link.mtu,
                up: link.up,
                addresses: address::list(&mut socket, link.index)?,
                routes: route::list(&mut socket, link.index)?,
            }))
        })?
    }

    /// Lists the pods that the maps hold; none without eBPF.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        self.joint().map_or(Ok(Vec::new()), |joint| joint.entries())
    }

    /// Whether a pod is attached as it was recorded: its host end has this name and index, the other end is in the
    /// namespace at `netns`, and the programs are in effect. Indexes and paths alone are reused.
    ///
    /// # Errors
    ///
    /// `Namespace`, `Kernel`, `Program`.
    pub fn is_joined(&self, host_ifname: &str, host_ifindex: u32, netns: &Path) -> Result<bool> {
        let netns = match self.pod_namespace(netns) {
            Ok(netns) => netns,
            Err(error) if error.is_namespace_gone() => return Ok(false),
            Err(error) => return Err(error),
        };
        if self.joint.is_none() {
            return Ok(link::find_by_index(&mut self.socket(), host_ifindex)?.is_some());
        }
        let Some(link) = link::find(&mut self.socket(), host_ifname)? else {
            return Ok(false);
        };
        Ok(link.index == host_ifindex
            && pod::reaches(&mut self.socket(), &link, &netns)?
            && self.has_programs(&Hook::OF_HOST_END, host_ifindex)?)
    }

    /// Deletes host ends whose name is not in `keep`, and what maps hold of links that are no more. Slow: not while
    /// somebody waits.
    ///
    /// # Errors
    ///
    /// `Kernel`, `Map`.
    pub fn sweep(&self, keep: &BTreeSet<String>) -> Result<Swept> {
        let links = link::list(&mut self.socket())?;
        let mut swept = Swept::default();
        for leftover in links.iter().filter(|link| self.is_host_end(link) && !keep.contains(&link.name)) {
            self.cut(leftover.index)?;
            self.clear(leftover.index)?;
            delete(leftover.index)?;
            swept.links += 1;
        }
        let kept = |index: u32| {
            links
                .iter()
                .any(|link| link.index == index && self.is_host_end(link) && keep.contains(&link.name))
        };
        for index in self.mentioned()?.into_iter().filter(|index| !kept(*index)) {
            self.cut(index)?;
            self.clear(index)?;
            swept.entries += 1;
        }
        Ok(swept)
    }

    /// Reads a pod's counters; `None` if the maps do not hold it.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn counters(&self, host_ifindex: u32) -> Result<Option<PodCounters>> {
        self.joint().map_or(Ok(None), |joint| joint.counters(host_ifindex))
    }

    /// Reads the counters of all pods, by the index of their host end.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn all_counters(&self) -> Result<Vec<(u32, PodCounters)>> {
        self.joint().map_or(Ok(Vec::new()), |joint| joint.all_counters())
    }

    fn is_host_end(&self, link: &Link) -> bool {
        link.group == self.config.pod_group
    }

    /// Opens a path from outside, which could be the node's own namespace.
    fn pod_namespace(&self, path: &Path) -> Result<Netns> {
        let netns = Netns::open(path)?;
        if netns.id() == self.identity {
            return Err(Error::OwnNamespace { path: path.to_owned() });
        }
        Ok(netns)
    }

    /// Indexes of all host ends that anything in the maps mentions.
    fn mentioned(&self) -> Result<Vec<u32>> {
        self.joint().map_or(Ok(Vec::new()), |joint| joint.mentioned())
    }

    /// Attaches the programs of `hooks` to link `index`; without eBPF there are none.
    fn attach_programs(&self, hooks: &[Hook], index: u32) -> Result<()> {
        let requests = self.joint().map_or(Ok(Vec::new()), |joint| joint.attach(hooks, index))?;
        self.socket().apply(&requests)
    }

    /// Whether our programs of `hooks` are in effect on link `index`.
    fn has_programs(&self, hooks: &[Hook], index: u32) -> Result<bool> {
        for hook in hooks {
            let ours = self.joint().map_or(Ok(None), |joint| joint.program_id(*hook).map(Some))?;
            if hook.attached(&mut self.socket(), index)? != ours {
                return Ok(false);
            }
        }
        Ok(true)
    }

    // Locks: the socket may be held while the joint is taken, never the other way round: who holds the socket may have to
    // wait for the kernel's configuration, and who cuts a pod off must not.
    //
    // A panic while a lock was held left the kernel in one of the states that asking again carries on from.

    fn socket(&self) -> MutexGuard<'_, Socket> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn joint(&self) -> Option<MutexGuard<'_, Joint>> {
        self.joint.as_ref().map(|joint| joint.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Deletes a link by a socket of its own: the answer takes 16 ms, in which nobody else has to wait.
fn delete(index: u32) -> Result<()> {
    Socket::route()?.apply(&[link::delete(index)])
}

fn choose(config: &NodeConfig) -> Result<(Joining, Option<Joint>)> {
    let why =
        match config.joining {
            JoinChoice::SubInterface => "configured".to_owned(),
            JoinChoice::Auto | JoinChoice::Ebpf => match open_joint(config) {
                Ok(joint) => return Ok((Joining::Ebpf, Some(joint))),
                // A directory that is not on a bpffs is a mistake in the setup, not a limit of the kernel.
                Err(
                    error @ (Error::ProgramsUnusable { .. } | Error::Program { .. } | Error::Kernel { .. }),
                ) if config.joining == JoinChoice::Auto => error.explain(),
                Err(error) => return Err(error),
            },
        };
    let vlan = SubInterface::Vlan { id: 1, mac: MacAddr([2, 0, 0, 0, 0, 3]) };
    Ok((
        Joining::SubInterface {
            macvlan: trial::making(SubInterface::Macvlan)?,
            vlan: trial::making(vlan)?,
            why,
        },
        None,
    ))
}

fn open_joint(config: &NodeConfig) -> Result<Joint> {
    let joint = Joint::open(&config.bpf_dir, config.local_mark)?;
    trial::attaching(&joint)?;
    Ok(joint)
}

impl PodLinks {
    fn check(&self) -> Result<()> {
        const VLANS: std::ops::RangeInclusive<u16> = 1..=4094;
        link::check_name(&self.ifname)?;
        link::check_name(&self.host_ifname)?;
        match self.vlan {
            Some(vlan) if !VLANS.contains(&vlan) => Err(Error::VlanId { vlan }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_shared_by_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Node>();
    }
}
