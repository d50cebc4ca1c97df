//! Services at the socket: eBPF programs on the cgroup of the node's processes, and the tables by which they bring
//! clients to endpoints.
//!
//! Terms: see `kuryr-ebpf` (the programs) and `kuryr-ebpf-maps` (the maps).
//!
//! Maps are pinned as `<directory>/services/v<layout>/<map>`, links of programs as `<directory>/services/links/<program>`.
//! Both outlive this process. The next one takes the maps over and, when they are filled, puts its programs in the place
//! of those that are linked, one by one and in place; with another layout it fills other maps meanwhile. Maps of other
//! layouts are removed then. Sockets of before such a change keep their connections and are told the address of their
//! endpoint as that of their peer.
//!
//! The *probe* is an address of each family that no network has, at which a Service without endpoints is. A socket that
//! connects there is refused if, and only if, the programs run for it and find their maps.
//!
//! Nothing here decides what is at an address.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, MapData, PerCpuArray},
    programs::{CgroupAttachMode, CgroupSockAddr, ProgramError, links::FdLink},
};
use kuryr_ebpf_maps::{
    SERVICE_LAYOUT_VERSION,
    service::{MemberKey, NodeKey, Outcome, Row, RowKey, Service, ServiceKey, UDP},
};

use crate::{
    cgroup,
    error::{Error, Result},
    map_access::{check_bpffs, create_directory, map_failed, pairs, put, take},
    netns::Netns,
    pinned_link::PinnedLink,
};

/// Addresses for discarding (RFC 7600: the IPv4 dummy address; RFC 6666: the discard prefix).
const PROBE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);
const PROBE_V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 8);
/// The port for discarding (RFC 863).
const PROBE_PORT: u16 = 9;

/// The loaded programs and open maps of a node.
#[derive(Debug)]
pub struct Services {
    programs: Ebpf,
    maps: Maps,
    directory: PathBuf,
    layout: PathBuf,
    cgroup: PathBuf,
    tells_refusal: bool,
}

/// What they are opened with.
#[derive(Debug, Clone)]
pub struct ServicesConfig {
    /// Directory for pins, on a bpffs, of this node alone.
    pub bpf_dir: PathBuf,
    /// The directory of a cgroup2 file system under which the node's processes run; none: all of the machine's.
    pub cgroup_dir: Option<PathBuf>,
    /// Whether to try to have programs say why they refuse; kernels before 5.18 do not let them.
    pub tells_refusal: bool,
    /// Version of the layout under which maps are pinned; that of the programs, unless the change between two is what is
    /// looked at.
    pub layout: u32,
}

impl ServicesConfig {
    /// The usual values, with pins under `bpf_dir`.
    pub fn new(bpf_dir: impl Into<PathBuf>) -> Self {
        Self {
            bpf_dir: bpf_dir.into(),
            cgroup_dir: None,
            tells_refusal: true,
            layout: SERVICE_LAYOUT_VERSION,
        }
    }
}

/// Everything the tables hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceContents {
    /// What clients find, by where they send to.
    pub services: BTreeMap<ServiceKey, Service>,
    /// Backends, some in a row.
    pub rows: BTreeMap<RowKey, Row>,
    /// Slots of endpoints.
    pub members: BTreeMap<MemberKey, u32>,
    /// Whose addresses of nodes are, as numbers of [`NodeKind`](kuryr_ebpf_maps::service::NodeKind).
    pub nodes: BTreeMap<NodeKey, u32>,
}

/// How often what became of clients' attempts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// An endpoint was chosen.
    pub chosen: u64,
    /// An endpoint was kept.
    pub kept: u64,
    /// There was none.
    pub refused: u64,
    /// The tables changed during every try to read them.
    pub unsettled: u64,
}

impl Services {
    /// Loads the programs, taking over the maps of the process before. They do nothing before [`Services::attach`]. The
    /// node's network namespace is that of the calling thread.
    ///
    /// # Errors
    ///
    /// `NoCgroup2`, `PrivateCgroups`, `NotCgroup2`; `NotBpffs`, `PinDirectory`; `ProgramsUnusable` or `Program` if the
    /// kernel does not take the programs.
    pub fn open(config: &ServicesConfig) -> Result<Self> {
        let cgroup = cgroup::find(config.cgroup_dir.as_deref())?;
        check_bpffs(&config.bpf_dir)?;
        let directory = pins(&config.bpf_dir);
        let layout = directory.join(folder(config.layout));
        create_directory(&layout)?;
        create_directory(&links(&directory))?;
        let loaded = if config.tells_refusal { load(&layout, true) } else { load(&layout, false) };
        let (mut programs, tells_refusal) = match loaded {
            Ok(programs) => (programs, config.tells_refusal),
            // An older kernel may lack just that.
            Err(error) if config.tells_refusal => (load(&layout, false).map_err(|_| error)?, false),
            Err(error) => return Err(error),
        };
        let maps = Maps::open(&mut programs)?;
        let mut services = Self { programs, maps, directory, layout, cgroup, tells_refusal };
        for key in probes() {
            services.put_service(key, Service::default())?;
        }
        Ok(services)
    }

    /// Takes everything away that a process before has left: programs and maps. Nothing there is success.
    ///
    /// # Errors
    ///
    /// `PinDirectory`.
    pub fn remove(bpf_dir: &Path) -> Result<()> {
        let directory = pins(bpf_dir);
        // Programs first, or clients would be refused for a moment.
        for folder in [links(&directory), directory] {
            remove_folder(&folder)?;
        }
        Ok(())
    }

    /// The directory of the cgroup to which programs are attached.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Whether clients that are refused are told `ECONNREFUSED`; else `EPERM`.
    #[must_use]
    pub fn tells_refusal(&self) -> bool {
        self.tells_refusal
    }

    // ---- programs

    /// Has these programs run for the processes under the cgroup, in the place of those of the process before; again is
    /// success. Removes maps of other layouts, which nobody reads any more.
    ///
    /// # Errors
    ///
    /// `Cgroup`, `CgroupLink`, `Program`, `PinDirectory`.
    pub fn attach(&mut self) -> Result<()> {
        let failed = |source| Error::Cgroup { path: self.cgroup.clone(), source };
        let cgroup = fs::File::open(&self.cgroup).map_err(failed)?;
        let number = cgroup.metadata().map_err(failed)?.ino();
        for name in kuryr_ebpf::SERVICE_PROGRAMS {
            self.attach_one(name, &cgroup, number)?;
        }
        self.remove_other_layouts()
    }

    fn attach_one(&mut self, name: &'static str, cgroup: &fs::File, number: u64) -> Result<()> {
        let failed = |step| move |source| Error::CgroupLink { step, program: name, source };
        let pin = links(&self.directory).join(name);
        let program = program(&mut self.programs, name)?;
        if let Some(link) = PinnedLink::open(&pin).map_err(failed("open the link of"))? {
            let about = link.about().map_err(failed("look at the link of"))?;
            if about.cgroup == number {
                let own = program.info().map_err(program_failed(name))?.id();
                let fd = program.fd().map_err(program_failed(name))?;
                // What is in its place already stays.
                let replace =
                    || link.replace(fd.as_fd()).map_err(failed("put into the place of the one before"));
                return if about.program == own { Ok(()) } else { replace() };
            }
            // Another cgroup was configured, or this one was made anew.
            fs::remove_file(&pin).map_err(failed("take away the link of"))?;
        }
        let id = program.attach(cgroup, CgroupAttachMode::Single).map_err(program_failed(name))?;
        let link = program.take_link(id).map_err(program_failed(name))?;
        let link: FdLink =
            link.try_into().map_err(|error| failed("keep attached")(io::Error::other(error)))?;
        link.pin(&pin).map_err(|error| failed("keep attached")(io::Error::other(error)))?;
        Ok(())
    }

    fn remove_other_layouts(&self) -> Result<()> {
        let failed = |source| Error::PinDirectory { path: self.directory.clone(), source };
        let links = links(&self.directory);
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path != links && path != self.layout {
                remove_folder(&path)?;
            }
        }
        Ok(())
    }

    /// The kernel's number of a program that is loaded here.
    ///
    /// # Errors
    ///
    /// `Program`.
    pub fn program_id(&mut self, name: &'static str) -> Result<u32> {
        Ok(program(&mut self.programs, name)?.info().map_err(program_failed(name))?.id())
    }

    /// Whether the programs run for this process, in every family that the node has. A process that is not under the
    /// cgroup cannot tell.
    #[must_use]
    pub fn answer(&self) -> bool {
        probes().iter().all(|probe| self.is_refused(probe))
    }

    fn is_refused(&self, probe: &ServiceKey) -> bool {
        let any: IpAddr = match probe.address() {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let refusal = if self.tells_refusal { libc::ECONNREFUSED } else { libc::EPERM };
        match UdpSocket::bind((any, 0)) {
            Ok(socket) => {
                let connected = socket.connect((probe.address(), probe.port()));
                connected.is_err_and(|error| error.raw_os_error() == Some(refusal))
            }
            // The node has no such family.
            Err(_) => true,
        }
    }

    // ---- tables

    /// Reads everything but what is the module's own.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn read(&self) -> Result<ServiceContents> {
        let mut services: BTreeMap<_, _> = pairs(&self.maps.services, "services")?.into_iter().collect();
        for probe in probes() {
            services.remove(&probe);
        }
        Ok(ServiceContents {
            services,
            rows: pairs(&self.maps.backends, "backends")?.into_iter().collect(),
            members: pairs(&self.maps.members, "members")?.into_iter().collect(),
            nodes: pairs(&self.maps.nodes, "nodes")?.into_iter().collect(),
        })
    }

    /// Writes what clients find at an address.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn put_service(&mut self, key: ServiceKey, service: Service) -> Result<()> {
        put(&mut self.maps.services, "services", key, service)
    }

    /// Deletes what clients find at an address: it is as if there never was a Service.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn delete_service(&mut self, key: &ServiceKey) -> Result<()> {
        take(&mut self.maps.services, "services", key)
    }

    /// Writes backends, some in a row.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn put_row(&mut self, key: RowKey, row: Row) -> Result<()> {
        put(&mut self.maps.backends, "backends", key, row)
    }

    /// Deletes a row of backends.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn delete_row(&mut self, key: &RowKey) -> Result<()> {
        take(&mut self.maps.backends, "backends", key)
    }

    /// Writes the slot of an endpoint.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn put_member(&mut self, key: MemberKey, slot: u32) -> Result<()> {
        put(&mut self.maps.members, "members", key, slot)
    }

    /// Deletes the slot of an endpoint.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn delete_member(&mut self, key: &MemberKey) -> Result<()> {
        take(&mut self.maps.members, "members", key)
    }

    /// Writes whose an address of a node is: a number of [`NodeKind`](kuryr_ebpf_maps::service::NodeKind).
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn put_node(&mut self, key: NodeKey, kind: u32) -> Result<()> {
        put(&mut self.maps.nodes, "nodes", key, kind)
    }

    /// Deletes an address of a node: ports of nodes are not served there any more.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn delete_node(&mut self, key: &NodeKey) -> Result<()> {
        take(&mut self.maps.nodes, "nodes", key)
    }

    /// Reads how often what became of clients' attempts, since the maps were made.
    ///
    /// # Errors
    ///
    /// `Map`.
    pub fn outcomes(&self) -> Result<Outcomes> {
        let count = |outcome: Outcome| {
            let values = self.maps.outcomes.get(&(outcome as u32), 0).map_err(map_failed("outcomes"))?;
            Ok(values.iter().sum())
        };
        Ok(Outcomes {
            chosen: count(Outcome::Chosen)?,
            kept: count(Outcome::Kept)?,
            refused: count(Outcome::Refused)?,
            unsettled: count(Outcome::Unsettled)?,
        })
    }
}

/// The maps that user space has to do with, each with the types of its layout.
struct Maps {
    services: HashMap<MapData, ServiceKey, Service>,
    backends: HashMap<MapData, RowKey, Row>,
    members: HashMap<MapData, MemberKey, u32>,
    nodes: HashMap<MapData, NodeKey, u32>,
    outcomes: PerCpuArray<MapData, u64>,
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Maps")
    }
}

impl Maps {
    fn open(programs: &mut Ebpf) -> Result<Self> {
        let mut map =
            |name: &'static str| programs.take_map(name).ok_or(Error::ObjectIncomplete { what: name });
        let (services, backends) = (map("services")?, map("backends")?);
        let (members, nodes, outcomes) = (map("members")?, map("nodes")?, map("outcomes")?);
        Ok(Self {
            services: services.try_into().map_err(map_failed("services"))?,
            backends: backends.try_into().map_err(map_failed("backends"))?,
            members: members.try_into().map_err(map_failed("members"))?,
            nodes: nodes.try_into().map_err(map_failed("nodes"))?,
            outcomes: outcomes.try_into().map_err(map_failed("outcomes"))?,
        })
    }
}

fn load(layout: &Path, tells_refusal: bool) -> Result<Ebpf> {
    // 0 is no namespace's.
    let node_netns = Netns::own_cookie().unwrap_or_default();
    let mut programs = EbpfLoader::new()
        .default_map_pin_directory(layout)
        .override_global(kuryr_ebpf::NODE_NETNS, &node_netns, true)
        .override_global(kuryr_ebpf::TELLS_REFUSAL, &u32::from(tells_refusal), true)
        .load(kuryr_ebpf::SERVICE_OBJECT)
        .map_err(|error| Error::ProgramsUnusable { source: Box::new(error) })?;
    for name in kuryr_ebpf::SERVICE_PROGRAMS {
        program(&mut programs, name)?.load().map_err(program_failed(name))?;
    }
    Ok(programs)
}

fn program<'a>(programs: &'a mut Ebpf, name: &'static str) -> Result<&'a mut CgroupSockAddr> {
    programs
        .program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(Error::ObjectIncomplete { what: name })
}

fn program_failed(name: &'static str) -> impl Fn(ProgramError) -> Error {
    move |error| Error::Program { program: name, source: Box::new(error) }
}

fn probes() -> [ServiceKey; 2] {
    [IpAddr::from(PROBE_V4), PROBE_V6.into()].map(|address| ServiceKey::new(address, PROBE_PORT, UDP))
}

pub(crate) fn pins(bpf_dir: &Path) -> PathBuf {
    bpf_dir.join("services")
}

fn links(directory: &Path) -> PathBuf {
    directory.join("links")
}

pub(crate) fn layout() -> String {
    folder(SERVICE_LAYOUT_VERSION)
}

fn folder(layout: u32) -> String {
    format!("v{layout}")
}

fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::PinDirectory { path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_to_remove_is_success() {
        Services::remove(Path::new("/nonexistent")).unwrap();
    }
}
