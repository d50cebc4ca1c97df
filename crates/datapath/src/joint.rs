//! The joint between pods and uplinks: eBPF programs on links, and the maps that tell them what belongs together.
//!
//! Terms: see `kuryr-ebpf` (the programs) and `kuryr-ebpf-maps` (the maps).
//!
//! Maps are pinned as `<directory>/v<layout>/<map>` and outlive this process, as the attached programs do. The next
//! process takes the maps over with their entries and replaces each attached program by its own, in place, so no
//! packet meets an interface without one. A new layout has a new directory.
//!
//! A change goes through in the order that keeps things closed: a pod's entry is complete before the uplink points to
//! it, and is the first to go.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv6Addr},
    os::fd::AsFd,
    path::Path,
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, MapData, MapError, PerCpuHashMap, PerCpuValues},
    programs::{ProgramError, SchedClassifier},
    util::nr_cpus,
};
use kuryr_ebpf_maps::{
    LAYOUT_VERSION, Pod, PodAddress, PodCounters, UplinkFlags, UplinkKey, UplinkTarget, address_bytes,
};
use kuryr_types::MacAddr;
use rustix::{
    io::Errno,
    time::{ClockId, clock_gettime},
};

use crate::{
    classifier::{self, Direction},
    error::{Error, Result},
    map_access::{check_bpffs, create_directory, keys, map_failed, map_os_error, pairs, put, take},
    netlink::{Request, Socket},
};

/// The loaded programs and open maps of a node.
#[derive(Debug)]
pub struct Joint {
    programs: Ebpf,
    maps: Maps,
}

/// Where a program goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// What arrives at an uplink.
    UplinkIn,
    /// What a pod sends.
    PodOut,
    /// What the node sends to a pod.
    PodIn,
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::UplinkIn, Self::PodOut, Self::PodIn];
    /// Those of an uplink.
    pub const OF_UPLINK: [Self; 1] = [Self::UplinkIn];
    /// Those of a pod's host end.
    pub const OF_HOST_END: [Self; 2] = [Self::PodOut, Self::PodIn];

    /// Tells the number of the program that is attached to link `index` here; `None`: none of ours.
    ///
    /// # Errors
    ///
    /// `Kernel`, `Garbled`.
    pub fn attached(self, socket: &mut Socket, index: u32) -> Result<Option<u32>> {
        classifier::attached(socket, index, self.direction())
    }

    fn program(self) -> &'static str {
        match self {
            Self::UplinkIn => kuryr_ebpf::UPLINK_IN,
            Self::PodOut => kuryr_ebpf::POD_OUT,
            Self::PodIn => kuryr_ebpf::POD_IN,
        }
    }

    fn direction(self) -> Direction {
        match self {
            Self::UplinkIn | Self::PodOut => Direction::Ingress,
            Self::PodIn => Direction::Egress,
        }
    }
}

/// A pod as the maps hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Index of the pod's host end.
    pub host_ifindex: u32,
    /// Index of the uplink.
    pub uplink: u32,
    /// VLAN id on the uplink, if any.
    pub vlan: Option<u16>,
    /// Hardware address of the port.
    pub mac: MacAddr,
    /// Hardware address of the host end.
    pub host_mac: MacAddr,
    /// Addresses from which the pod may send.
    pub addresses: Vec<IpAddr>,
}

/// How long a new pod's reports about the groups of its addresses are held, from the time it is admitted. Its kernel reports when
/// the interface joins, when an address is added, and when it has been found to be unique, and each again within a second
/// (RFC 3810, section 9.11).
const HELD_FOR: Duration = Duration::from_secs(5);

/// A report that was held and has to be made in the pod's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    /// Interface index of the pod's host end.
    pub host_end: u32,
    /// Interface index of its uplink.
    pub uplink: u32,
    /// VLAN id there, if any.
    pub vlan: Option<u16>,
    /// Hardware address of the pod's port.
    pub mac: MacAddr,
    /// The groups.
    pub groups: BTreeSet<Ipv6Addr>,
    /// For how long nothing has been held any more; `None`: something may be.
    pub since: Option<Duration>,
}

impl Joint {
    /// Loads the programs, taking over the maps pinned under `directory`.
    ///
    /// # Errors
    ///
    /// `NotBpffs`, `PinDirectory`; `ProgramsUnusable` or `Program` if the kernel does not take the programs.
    pub fn open(directory: &Path, local_mark: u32) -> Result<Self> {
        check_bpffs(directory)?;
        let pins = directory.join(format!("v{LAYOUT_VERSION}"));
        create_directory(&pins)?;
        let mut programs = EbpfLoader::new()
            .default_map_pin_directory(&pins)
            .override_global(kuryr_ebpf::LOCAL_MARK, &local_mark, true)
            .load(kuryr_ebpf::OBJECT)
            .map_err(|error| Error::ProgramsUnusable { source: Box::new(error) })?;
        for hook in Hook::ALL {
            program(&mut programs, hook)?.load().map_err(failed(hook))?;
        }
        let maps = Maps::open(&mut programs)?;
        Ok(Self { programs, maps })
    }

    // ---- attachments

    /// Requests that attach the programs of `hooks` to link `index`, or replace those that are there.
    ///
    /// # Errors
    ///
    /// `Program` if one is not loaded.
    pub fn attach(&self, hooks: &[Hook], index: u32) -> Result<Vec<Request>> {
        let mut requests = vec![classifier::prepare(index)];
        for hook in hooks {
            let program = self.program(*hook)?.fd().map_err(failed(*hook))?;
            requests.push(classifier::attach(index, hook.direction(), program.as_fd(), hook.program()));
        }
        Ok(requests)
    }

    /// Requests that take the programs of `hooks` from link `index`.
    #[must_use]
    pub fn detach(hooks: &[Hook], index: u32) -> Vec<Request> {
        hooks.iter().map(|hook| classifier::detach(index, hook.direction())).collect()
    }

    /// The kernel's number of a program.
    ///
    /// # Errors
    ///
    /// `Program`.
    pub fn program_id(&self, hook: Hook) -> Result<u32> {
        Ok(self.program(hook)?.info().map_err(failed(hook))?.id())
    }

    fn program(&self, hook: Hook) -> Result<&SchedClassifier> {
        self.programs
            .program(hook.program())
            .and_then(|program| program.try_into().ok())
            .ok_or(Error::ObjectIncomplete { what: hook.program() })
    }

    // ---- entries

    /// Admits a pod: from now on its frames pass, if the programs are attached. A new pod's reports that it listens to `told`
    /// groups, and to no others, do not for five seconds: somebody else tells of them.
    ///
    /// # Errors
    ///
    /// `Map`, `Processors`.
    pub fn admit(&mut self, entry: &Entry, told: &BTreeSet<Ipv6Addr>) -> Result<()> {
        self.maps.admit(entry, told)
    }

    /// Lists the reports that are owed for pods that are admitted, the oldest first. Like all that is in maps, they outlive this
    /// process.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn owed(&self) -> Result<Vec<Owed>> {
        self.maps.owed()
    }

    /// Notes that a report was made.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn reported(&mut self, owed: &Owed) -> Result<()> {
        self.maps.reported(owed)
    }

    /// Cuts a pod off. Its addresses stay listed until [`Joint::forget`].
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn cut(&mut self, host_ifindex: u32) -> Result<()> {
        self.maps.cut(host_ifindex)
    }

    /// Tells which addresses a pod had that was cut off; `None`: it is admitted, perhaps again.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn left_by(&self, host_ifindex: u32) -> Result<Option<Vec<IpAddr>>> {
        if self.maps.is_admitted(host_ifindex)? {
            return Ok(None);
        }
        let addresses = self.maps.addresses_of(host_ifindex)?;
        Ok(Some(addresses.iter().map(|key| ip(key.address)).collect()))
    }

    /// Removes what is left of a pod that was cut off; of one that is admitted, nothing.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn forget(&mut self, host_ifindex: u32) -> Result<()> {
        if self.maps.is_admitted(host_ifindex)? { Ok(()) } else { self.maps.forget(host_ifindex) }
    }

    /// Lists all pods in the maps, also those that are no longer complete.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        self.maps.entries()
    }

    /// Lists the indexes of all host ends that anything in the maps mentions.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn mentioned(&self) -> Result<Vec<u32>> {
        self.maps.mentioned()
    }

    /// Sets which addresses the node has, for the local path.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn set_node_addresses(&mut self, addresses: &[IpAddr]) -> Result<()> {
        self.maps.set_node_addresses(addresses)
    }

    /// Has these addresses of pods on the straight way, and of those that are there the ones that may be.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn set_straight(&mut self, led: &BTreeSet<IpAddr>, may: &BTreeSet<IpAddr>) -> Result<()> {
        self.maps.set_straight(led, may)
    }

    /// Lets frames of nobody's on an uplink go on to the node's own stack.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn share_uplink(&mut self, uplink: u32, flags: UplinkFlags) -> Result<()> {
        put(&mut self.maps.shared_uplinks, "shared_uplinks", uplink, flags)
    }

    /// Lists the uplinks that the node shares with its pods, by index.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn shared_uplinks(&self) -> Result<BTreeMap<u32, UplinkFlags>> {
        Ok(pairs(&self.maps.shared_uplinks, "shared_uplinks")?.into_iter().collect())
    }

    /// Forgets everything about an uplink that is no more.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn forget_uplink(&mut self, uplink: u32) -> Result<()> {
        take(&mut self.maps.shared_uplinks, "shared_uplinks", &uplink)?;
        for key in keys(&self.maps.uplinks, "uplinks")? {
            if key.uplink == uplink {
                take(&mut self.maps.uplinks, "uplinks", &key)?;
            }
        }
        Ok(())
    }

    /// Reads the counters of one pod; `None` if it has none.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn counters(&self, host_ifindex: u32) -> Result<Option<PodCounters>> {
        match self.maps.counters.get(&host_ifindex, 0) {
            Ok(values) => Ok(Some(sum(&values))),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(map_failed("counters")(error)),
        }
    }

    /// Reads the counters of all pods.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn all_counters(&self) -> Result<Vec<(u32, PodCounters)>> {
        self.maps
            .counters
            .iter()
            .map(|item| {
                let (host_end, values) = item.map_err(map_failed("counters"))?;
                Ok((host_end, sum(&values)))
            })
            .collect()
    }
}

fn vlan_of(pod: &Pod) -> Option<u16> {
    u16::try_from(pod.vlan).ok().filter(|vlan| *vlan != 0)
}

/// What `bpf_ktime_get_ns` would tell a program now.
fn monotonic_nanoseconds() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// The maps, each with the types of its layout.
struct Maps {
    uplinks: HashMap<MapData, UplinkKey, UplinkTarget>,
    shared_uplinks: HashMap<MapData, u32, UplinkFlags>,
    pods: HashMap<MapData, u32, Pod>,
    pod_addresses: HashMap<MapData, PodAddress, u32>,
    node_addresses: HashMap<MapData, [u8; 16], u32>,
    straight_pods: HashMap<MapData, [u8; 16], u32>,
    told_groups: HashMap<MapData, PodAddress, u64>,
    counters: PerCpuHashMap<MapData, u32, PodCounters>,
    /// How many processors there may be.
    processors: usize,
}

const PRESENT: u32 = 1;

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Maps")
    }
}

impl Maps {
    fn open(programs: &mut Ebpf) -> Result<Self> {
        let mut map =
            |name: &'static str| programs.take_map(name).ok_or(Error::ObjectIncomplete { what: name });
        let (uplinks, shared_uplinks, pods) = (map("uplinks")?, map("shared_uplinks")?, map("pods")?);
        let (pod_addresses, node_addresses) = (map("pod_addresses")?, map("node_addresses")?);
        let (straight_pods, told_groups) = (map("straight_pods")?, map("told_groups")?);
        let counters = map("counters")?;
        let processors = nr_cpus().map_err(|(_, source)| Error::Processors { source })?;
        Ok(Self {
            processors,
            uplinks: uplinks.try_into().map_err(map_failed("uplinks"))?,
            shared_uplinks: shared_uplinks.try_into().map_err(map_failed("shared_uplinks"))?,
            pods: pods.try_into().map_err(map_failed("pods"))?,
            pod_addresses: pod_addresses.try_into().map_err(map_failed("pod_addresses"))?,
            node_addresses: node_addresses.try_into().map_err(map_failed("node_addresses"))?,
            straight_pods: straight_pods.try_into().map_err(map_failed("straight_pods"))?,
            told_groups: told_groups.try_into().map_err(map_failed("told_groups"))?,
            counters: counters.try_into().map_err(map_failed("counters"))?,
        })
    }

    fn admit(&mut self, entry: &Entry, told: &BTreeSet<Ipv6Addr>) -> Result<()> {
        // Counters are the first to come and the last to go, so they tell whether there is anything older.
        let is_new = self.start_counters(entry.host_ifindex)?;
        let wanted: Vec<PodAddress> = entry
            .addresses
            .iter()
            .map(|address| PodAddress { host_end: entry.host_ifindex, address: address_bytes(*address) })
            .collect();
        for key in &wanted {
            put(&mut self.pod_addresses, "pod_addresses", *key, PRESENT)?;
        }
        if !is_new {
            self.withdraw_others(entry, &wanted)?;
        } else {
            self.hold(entry.host_ifindex, told)?;
        }
        let key = uplink_key(entry);
        let pod = Pod { uplink: key.uplink, vlan: key.vlan, mac: entry.mac.0, host_mac: entry.host_mac.0 };
        put(&mut self.pods, "pods", entry.host_ifindex, pod)?;
        let target = UplinkTarget { host_end: entry.host_ifindex, mac: entry.mac.0, pad: [0; 2] };
        put(&mut self.uplinks, "uplinks", key, target)
    }

    fn hold(&mut self, host_end: u32, told: &BTreeSet<Ipv6Addr>) -> Result<()> {
        let until = monotonic_nanoseconds() + u64::try_from(HELD_FOR.as_nanos()).unwrap_or(u64::MAX);
        for group in told {
            let key = PodAddress { host_end, address: group.octets() };
            put(&mut self.told_groups, "told_groups", key, until)?;
        }
        Ok(())
    }

    fn owed(&self) -> Result<Vec<Owed>> {
        let mut groups: BTreeMap<(u64, u32), BTreeSet<Ipv6Addr>> = BTreeMap::new();
        for (key, until) in pairs(&self.told_groups, "told_groups")? {
            groups.entry((until, key.host_end)).or_default().insert(key.address.into());
        }
        let now = monotonic_nanoseconds();
        let mut owed = Vec::new();
        for ((until, host_end), groups) in groups {
            let pod = match self.pods.get(&host_end, 0) {
                Ok(pod) => pod,
                // Cut off, and soon forgotten.
                Err(MapError::KeyNotFound) => continue,
                Err(error) => return Err(map_failed("pods")(error)),
            };
            let since = now.checked_sub(until).map(Duration::from_nanos);
            owed.push(Owed {
                host_end,
                uplink: pod.uplink,
                vlan: vlan_of(&pod),
                mac: MacAddr(pod.mac),
                groups,
                since,
            });
        }
        Ok(owed)
    }

    fn reported(&mut self, owed: &Owed) -> Result<()> {
        for group in &owed.groups {
            let key = PodAddress { host_end: owed.host_end, address: group.octets() };
            take(&mut self.told_groups, "told_groups", &key)?;
        }
        Ok(())
    }

    /// Makes counters at zero, and tells whether there were none.
    fn start_counters(&mut self, host_end: u32) -> Result<bool> {
        const BPF_NOEXIST: u64 = 1;
        let zero = PerCpuValues::try_from(vec![PodCounters::default(); self.processors])
            .map_err(|source| Error::Processors { source })?;
        match self.counters.insert(host_end, zero, BPF_NOEXIST) {
            Ok(()) => Ok(true),
            Err(error) if map_os_error(&error) == Some(Errno::EXIST) => Ok(false),
            Err(error) => Err(map_failed("counters")(error)),
        }
    }

    /// Takes back what an older entry of the same host end allowed and this one does not.
    fn withdraw_others(&mut self, entry: &Entry, wanted: &[PodAddress]) -> Result<()> {
        for key in self.addresses_of(entry.host_ifindex)? {
            if !wanted.contains(&key) {
                take(&mut self.pod_addresses, "pod_addresses", &key)?;
            }
        }
        for key in self.uplinks_of(entry.host_ifindex)? {
            if key != uplink_key(entry) {
                take(&mut self.uplinks, "uplinks", &key)?;
            }
        }
        Ok(())
    }

    fn cut(&mut self, host_end: u32) -> Result<()> {
        for key in self.uplinks_of(host_end)? {
            take(&mut self.uplinks, "uplinks", &key)?;
        }
        take(&mut self.pods, "pods", &host_end)
    }

    fn is_admitted(&self, host_end: u32) -> Result<bool> {
        match self.pods.get(&host_end, 0) {
            Ok(_) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(error) => Err(map_failed("pods")(error)),
        }
    }

    fn forget(&mut self, host_end: u32) -> Result<()> {
        for key in self.addresses_of(host_end)? {
            take(&mut self.pod_addresses, "pod_addresses", &key)?;
        }
        for key in keys(&self.told_groups, "told_groups")? {
            if key.host_end == host_end {
                take(&mut self.told_groups, "told_groups", &key)?;
            }
        }
        match self.counters.remove(&host_end) {
            Err(error) if map_os_error(&error) != Some(Errno::NOENT) => Err(map_failed("counters")(error)),
            _ => Ok(()),
        }
    }

    fn entries(&self) -> Result<Vec<Entry>> {
        let mut addresses: BTreeMap<u32, Vec<IpAddr>> = BTreeMap::new();
        for key in keys(&self.pod_addresses, "pod_addresses")? {
            addresses.entry(key.host_end).or_default().push(ip(key.address));
        }
        let mut entries = Vec::new();
        for (host_ifindex, pod) in pairs(&self.pods, "pods")? {
            let mut addresses = addresses.remove(&host_ifindex).unwrap_or_default();
            addresses.sort();
            entries.push(Entry {
                host_ifindex,
                uplink: pod.uplink,
                vlan: vlan_of(&pod),
                mac: MacAddr(pod.mac),
                host_mac: MacAddr(pod.host_mac),
                addresses,
            });
        }
        entries.sort_by_key(|entry| entry.host_ifindex);
        Ok(entries)
    }

    fn mentioned(&self) -> Result<Vec<u32>> {
        let mut mentioned = keys(&self.pods, "pods")?;
        mentioned.extend(pairs(&self.uplinks, "uplinks")?.iter().map(|(_, target)| target.host_end));
        mentioned.extend(keys(&self.told_groups, "told_groups")?.iter().map(|key| key.host_end));
        mentioned.extend(keys(&self.pod_addresses, "pod_addresses")?.iter().map(|key| key.host_end));
        for key in self.counters.keys() {
            mentioned.push(key.map_err(map_failed("counters"))?);
        }
        mentioned.sort_unstable();
        mentioned.dedup();
        Ok(mentioned)
    }

    fn set_node_addresses(&mut self, addresses: &[IpAddr]) -> Result<()> {
        let wanted: Vec<[u8; 16]> = addresses.iter().map(|address| address_bytes(*address)).collect();
        for key in &wanted {
            put(&mut self.node_addresses, "node_addresses", *key, PRESENT)?;
        }
        for key in keys(&self.node_addresses, "node_addresses")? {
            if !wanted.contains(&key) {
                take(&mut self.node_addresses, "node_addresses", &key)?;
            }
        }
        Ok(())
    }

    fn set_straight(&mut self, led: &BTreeSet<IpAddr>, may: &BTreeSet<IpAddr>) -> Result<()> {
        for key in keys(&self.straight_pods, "straight_pods")? {
            if !may.contains(&ip(key)) {
                take(&mut self.straight_pods, "straight_pods", &key)?;
            }
        }
        for address in led.intersection(may) {
            put(&mut self.straight_pods, "straight_pods", address_bytes(*address), PRESENT)?;
        }
        Ok(())
    }

    fn uplinks_of(&self, host_end: u32) -> Result<Vec<UplinkKey>> {
        let mut uplinks = pairs(&self.uplinks, "uplinks")?;
        uplinks.retain(|(_, target)| target.host_end == host_end);
        Ok(uplinks.into_iter().map(|(key, _)| key).collect())
    }

    fn addresses_of(&self, host_end: u32) -> Result<Vec<PodAddress>> {
        let mut addresses = keys(&self.pod_addresses, "pod_addresses")?;
        addresses.retain(|key| key.host_end == host_end);
        Ok(addresses)
    }
}

fn uplink_key(entry: &Entry) -> UplinkKey {
    UplinkKey { uplink: entry.uplink, vlan: entry.vlan.map_or(0, u32::from) }
}

fn ip(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}

fn sum(values: &PerCpuValues<PodCounters>) -> PodCounters {
    values.iter().fold(PodCounters::default(), |sum, value| sum.add(*value))
}

// ---- programs

fn program(programs: &mut Ebpf, hook: Hook) -> Result<&mut SchedClassifier> {
    programs
        .program_mut(hook.program())
        .and_then(|program| program.try_into().ok())
        .ok_or(Error::ObjectIncomplete { what: hook.program() })
}

fn failed(hook: Hook) -> impl Fn(ProgramError) -> Error {
    move |error| Error::Program { program: hook.program(), source: Box::new(error) }
}
