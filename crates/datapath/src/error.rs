//! What can go wrong on the node, named by the thing it went wrong with.
//!
//! The operating system's own error is the `source` and is not repeated in the text.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitStatus,
    time::Duration,
};

use ipnet::IpNet;
use kuryr_types::{Blame, MacAddr, Retry};
use rustix::io::Errno;

/// The result of asking something of the node.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the node did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // ---- what was asked is not possible
    /// An interface name that the kernel would refuse or interpret.
    #[error("`{name}` cannot name an interface: {fault}")]
    InterfaceName {
        /// The name as given.
        name: String,
        /// What is wrong with it.
        fault: NameFault,
    },
    /// A VLAN id outside 1 to 4094.
    #[error("{vlan} is not a VLAN id")]
    VlanId {
        /// The id as given.
        vlan: u16,
    },
    /// The path names a file that is no network namespace, perhaps no longer one.
    #[error("{} is not a network namespace", path.display())]
    NotANamespace {
        /// The path as given.
        path: PathBuf,
    },
    /// A pod's namespace was expected and the node's own was given.
    #[error("{} is the node's own network namespace", path.display())]
    OwnNamespace {
        /// The path as given.
        path: PathBuf,
    },
    /// An interface that is needed does not exist.
    #[error("there is no interface `{name}`")]
    LinkMissing {
        /// Its name, or its index where only that is known.
        name: String,
    },
    /// An interface of this name exists and is not what was asked for.
    #[error("interface `{name}` exists already and belongs to something else")]
    LinkTaken {
        /// Its name.
        name: String,
    },
    /// Without eBPF the kernel has to have interfaces of a kind that this one does not have.
    #[error("this kernel has no {kind} interfaces, by which pods are joined without eBPF")]
    NoSubInterface {
        /// Which kind.
        kind: &'static str,
    },
    /// Pods are joined to macvlans by eBPF only: the node could not reach its own pods otherwise.
    #[error(
        "pods can share an interface without VLANs only where the kernel lets eBPF programs be used; use mode nested-vlan, or a \
         kernel with them"
    )]
    NoJoint,
    /// The VLAN of an uplink has an interface already, perhaps in a namespace that is only just being taken down.
    #[error("VLAN {vlan} of interface {uplink} has another interface already")]
    VlanTaken {
        /// VLAN id.
        vlan: u16,
        /// Index of the uplink.
        uplink: u32,
    },

    // ---- namespaces
    /// A namespace could not be opened, entered, or made.
    #[error("cannot {step} the network namespace {}", path.display())]
    Namespace {
        /// What was tried.
        step: NamespaceStep,
        /// Where it is, or was to be.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },

    // ---- netlink
    /// The kernel refused a change or a question.
    #[error("cannot {step} {subject}{}", in_brackets(detail))]
    Kernel {
        /// What was tried.
        step: Step,
        /// With what.
        subject: Box<Subject>,
        /// The kernel's own words, if it had any.
        detail: Option<String>,
        /// The error number.
        #[source]
        source: io::Error,
    },
    /// A netlink or packet socket failed as such.
    #[error("cannot {step} a {kind} socket")]
    Socket {
        /// What was tried.
        step: SocketStep,
        /// What kind of socket.
        kind: SocketKind,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// The kernel did not answer in time.
    #[error("the kernel did not answer when asked to {step} {subject} within {waited:?}")]
    KernelSilent {
        /// What was tried.
        step: Step,
        /// With what.
        subject: Box<Subject>,
        /// How long was waited.
        waited: Duration,
    },
    /// An answer of the kernel could not be read.
    #[error("cannot read the kernel's answer when asked to {step} {subject}: {why}")]
    Garbled {
        /// What was tried.
        step: Step,
        /// With what.
        subject: Box<Subject>,
        /// What was not understood.
        why: String,
    },
    /// The kernel's tables changed under each attempt to list them.
    #[error("{subject} changed during each of {attempts} attempts to list")]
    Restless {
        /// What was listed.
        subject: Box<Subject>,
        /// How often.
        attempts: u32,
    },
    /// A setting under `/proc/sys/net` could not be written.
    #[error("cannot set {} to {value}", path.display())]
    Sysctl {
        /// Which one.
        path: PathBuf,
        /// To what.
        value: String,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },

    // ---- eBPF
    /// The directory for pins is not on a bpffs.
    #[error("{} is not on a bpffs: mount one there (mount -t bpf bpf DIRECTORY)", path.display())]
    NotBpffs {
        /// The directory.
        path: PathBuf,
    },
    /// The kernel did not load the programs: it is too old or lacks a feature.
    #[error("the eBPF programs cannot be loaded")]
    ProgramsUnusable {
        /// The loader's error, with the verifier's words.
        #[source]
        source: Box<aya::EbpfError>,
    },
    /// A program could not be verified and loaded.
    #[error("cannot load eBPF program {program}")]
    Program {
        /// Which one.
        program: &'static str,
        /// The loader's error.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// The embedded object lacks a program or map, or has it with another type.
    #[error("the eBPF object has no usable {what}")]
    ObjectIncomplete {
        /// What is missing.
        what: &'static str,
    },
    /// A map could not be read or written.
    #[error("cannot access eBPF map {map}")]
    Map {
        /// Which one.
        map: &'static str,
        /// The loader's error.
        #[source]
        source: Box<aya::maps::MapError>,
    },
    /// The directory for pins could not be used.
    #[error("cannot use {} for pins", path.display())]
    PinDirectory {
        /// The directory.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// The number of processors, which sizes per-processor values, is not known.
    #[error("cannot tell the number of processors")]
    Processors {
        /// The operating system's error.
        #[source]
        source: io::Error,
    },

    // ---- cgroups
    /// There is no hierarchy of version 2, on which programs see what processes connect to.
    #[error(
        "no cgroup2 file system is mounted, to which programs for Services are attached: mount one (mount -t cgroup2 cgroup2 \
         DIRECTORY), or have the machine's /sys/fs/cgroup mounted in the agent's container"
    )]
    NoCgroup2,
    /// The mounted hierarchy begins below the machine's root: it does not have the node's processes.
    #[error(
        "{} shows the cgroup of the agent's container only, not those of the node's processes: mount the machine's \
         /sys/fs/cgroup there, or set [cni_daemon] cgroup_dir",
        path.display()
    )]
    PrivateCgroups {
        /// Where it is mounted.
        path: PathBuf,
    },
    /// The directory that is configured is none of a hierarchy of version 2.
    #[error("{} is no directory of a cgroup2 file system", path.display())]
    NotCgroup2 {
        /// The directory.
        path: PathBuf,
    },
    /// A cgroup, or what lists the mounts, could not be read.
    #[error("cannot read {}", path.display())]
    Cgroup {
        /// What was read.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// A program could not be attached to a cgroup, replaced there or kept.
    #[error("cannot {step} eBPF program {program}")]
    CgroupLink {
        /// What was tried.
        step: &'static str,
        /// Which program.
        program: &'static str,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },

    /// A socket that was closed for a trial is as it was, or what it remembers was not told.
    #[error(
        "the kernel does not {lacks}; it needs CONFIG_INET_UDP_DIAG, CONFIG_INET_DIAG_DESTROY and eBPF iterators over socket \
         storage"
    )]
    CannotClose {
        /// What did not happen.
        lacks: &'static str,
    },

    /// What sockets remember of Services could not be read.
    #[error("cannot read what sockets remember of Services")]
    SocketMemory {
        /// The operating system's error.
        #[source]
        source: io::Error,
    },

    // ---- nftables
    /// The `nft` program could not be run.
    #[error("cannot run {}", program.display())]
    NftTool {
        /// The program.
        program: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// `nft` refused a table.
    #[error("nft refused {what} ({status}): {message}")]
    NftRefused {
        /// The table.
        what: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        message: String,
    },
    /// `nft` did not end in time and was stopped.
    #[error("nft did not end within {waited:?}")]
    NftSilent {
        /// How long was waited.
        waited: Duration,
    },

    // ---- Open vSwitch
    /// There is no connection to the Open vSwitch database now.
    #[error("not connected to the Open vSwitch database {}", socket.display())]
    OvsdbDisconnected {
        /// Its socket.
        socket: PathBuf,
    },
    /// The connection to the Open vSwitch database failed.
    #[error("cannot {step} the Open vSwitch database {}", socket.display())]
    OvsdbConnection {
        /// What was tried.
        step: SocketStep,
        /// Its socket.
        socket: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// The database did not answer in time; the transaction may have been carried out.
    #[error("the Open vSwitch database did not answer within {waited:?}")]
    OvsdbSilent {
        /// How long was waited.
        waited: Duration,
    },
    /// The database refused a transaction or a call.
    #[error("the Open vSwitch database refused: {error}{}", in_brackets(details))]
    OvsdbRefused {
        /// The error's name (RFC 7047, section 3.1).
        error: String,
        /// The server's words.
        details: Option<String>,
    },
    /// Something that is no OVSDB message was received.
    #[error("the Open vSwitch database sent what cannot be read: {why}")]
    OvsdbGarbled {
        /// What was not understood.
        why: String,
    },
    /// The integration bridge does not exist.
    #[error("there is no bridge `{bridge}`")]
    BridgeMissing {
        /// Its name.
        bridge: String,
    },
}

impl Error {
    /// When the same work may succeed.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::InterfaceName { .. }
            | Self::VlanId { .. }
            | Self::NotANamespace { .. }
            | Self::OwnNamespace { .. }
            | Self::ObjectIncomplete { .. } => Retry::Never,
            _ => Retry::Backoff,
        }
    }

    /// Who has to act for the work to succeed.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::InterfaceName { .. }
            | Self::VlanId { .. }
            | Self::ObjectIncomplete { .. }
            | Self::Garbled { .. } => Blame::Us,
            _ => Blame::Node,
        }
    }

    /// The error with its causes in one line, for a person.
    #[must_use]
    pub fn explain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }

    /// Whether the kernel said that it does not have what was asked for.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::Kernel { source, .. } if Errno::from_io_error(source) == Some(Errno::OPNOTSUPP))
    }

    /// Whether the kernel said that there is one already.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Kernel { source, .. } if Errno::from_io_error(source) == Some(Errno::EXIST))
    }

    /// Whether the pod's namespace has gone: there is nothing at its path any more, or no namespace.
    #[must_use]
    pub fn is_namespace_gone(&self) -> bool {
        match self {
            Self::NotANamespace { .. } => true,
            Self::Namespace { step: NamespaceStep::Open, source, .. } => {
                source.kind() == io::ErrorKind::NotFound
            }
            _ => false,
        }
    }
}

fn in_brackets(words: &Option<String>) -> String {
    words.as_ref().map(|words| format!(" ({words})")).unwrap_or_default()
}

/// What is wrong with an interface name (`dev_valid_name` in the kernel, and more).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameFault {
    /// No character at all.
    Empty,
    /// More than 15 bytes.
    TooLong,
    /// `.` or `..`.
    Dots,
    /// A slash, colon, percent sign (a pattern to the kernel), space, or what is not printable ASCII.
    Character,
}

impl fmt::Display for NameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "it is empty",
            Self::TooLong => "it is longer than 15 bytes",
            Self::Dots => "it is a folder's name",
            Self::Character => "it has a character that is not allowed",
        })
    }
}

/// What was tried with a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamespaceStep {
    /// Opening its file.
    Open,
    /// Reading what it is.
    Identify,
    /// Starting a thread for it.
    StartThread,
    /// Moving a thread into it.
    Enter,
    /// Making a new one.
    Create,
}

impl fmt::Display for NamespaceStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Identify => "identify",
            Self::StartThread => "start a thread for",
            Self::Enter => "enter",
            Self::Create => "create",
        })
    }
}

/// What was tried by netlink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Making something.
    Create,
    /// Making it or making it so.
    Set,
    /// Bringing a link up.
    BringUp,
    /// Moving a link to another namespace.
    Move,
    /// Looking something up.
    Read,
    /// Listing all of a kind.
    List,
    /// Taking something away.
    Remove,
    /// Ending a socket of somebody else's.
    Close,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Set => "set",
            Self::BringUp => "bring up",
            Self::Move => "move",
            Self::Read => "read",
            Self::List => "list",
            Self::Remove => "remove",
            Self::Close => "close",
        })
    }
}

/// What a netlink request was about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// All links.
    Links,
    /// A link by name.
    Link(String),
    /// A link by index.
    LinkIndex(u32),
    /// Offload features of a link.
    Offloads(u32),
    /// The eBPF programs attached to a link.
    Classifier(u32),
    /// All addresses.
    Addresses,
    /// An address on a link.
    Address(IpNet, u32),
    /// All routes.
    Routes,
    /// A route over a link.
    Route(IpNet, u32),
    /// All rules that choose a table of routes.
    Rules,
    /// A rule that chooses the table of routes for a mark, or for packets from this address.
    Rule(Option<IpAddr>),
    /// A neighbour on a link.
    Neighbour(IpAddr, Option<MacAddr>, u32),
    /// Connections that the kernel keeps track of.
    Flows,
    /// One of them, to this address.
    Flow(SocketAddr),
    /// The id of a namespace as this one sees it.
    NamespaceId,
    /// A family of generic netlink.
    Family(&'static str),
    /// Connected UDP sockets.
    UdpSockets,
    /// A UDP socket that is connected to this address.
    UdpSocket(SocketAddr),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Links => f.write_str("interfaces"),
            Self::Link(name) => write!(f, "interface `{name}`"),
            Self::LinkIndex(index) => write!(f, "interface {index}"),
            Self::Offloads(index) => write!(f, "offloads of interface {index}"),
            Self::Classifier(index) => write!(f, "eBPF programs of interface {index}"),
            Self::Addresses => f.write_str("addresses"),
            Self::Address(address, index) => write!(f, "address {address} of interface {index}"),
            Self::Routes => f.write_str("routes"),
            Self::Route(destination, index) => write!(f, "route {destination} over interface {index}"),
            Self::Neighbour(address, Some(mac), index) => {
                write!(f, "neighbour {address} at {mac} on interface {index}")
            }
            Self::Neighbour(address, None, index) => write!(f, "neighbour {address} on interface {index}"),
            Self::Rules => f.write_str("routing rules"),
            Self::Rule(None) => f.write_str("the routing rule for translated packets"),
            Self::Rule(Some(address)) => write!(f, "the routing rule for packets from {address}"),
            Self::Flows => f.write_str("tracked connections"),
            Self::Flow(asked) => write!(f, "a tracked connection to {asked}"),
            Self::NamespaceId => f.write_str("a namespace's id"),
            Self::Family(name) => write!(f, "generic netlink family `{name}`"),
            Self::UdpSockets => f.write_str("connected UDP sockets"),
            Self::UdpSocket(peer) => write!(f, "a UDP socket that is connected to {peer}"),
        }
    }
}

/// Kinds of sockets to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketKind {
    /// `NETLINK_ROUTE`.
    Route,
    /// `NETLINK_GENERIC`.
    Generic,
    /// `NETLINK_SOCK_DIAG`.
    Diagnosis,
    /// `NETLINK_NETFILTER`.
    Netfilter,
    /// `AF_PACKET`.
    Packet,
    /// `AF_INET`, for datagrams.
    Udp,
}

impl fmt::Display for SocketKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Route => "route netlink",
            Self::Generic => "generic netlink",
            Self::Diagnosis => "socket diagnosis netlink",
            Self::Netfilter => "netfilter netlink",
            Self::Packet => "packet",
            Self::Udp => "UDP",
        })
    }
}

/// What was tried with a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketStep {
    /// Opening or connecting it.
    Open,
    /// Setting an option.
    Configure,
    /// Sending.
    Send,
    /// Receiving.
    Receive,
}

impl fmt::Display for SocketStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Configure => "configure",
            Self::Send => "send to",
            Self::Receive => "receive from",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_names_the_thing_and_leaves_the_cause_to_the_source() {
        let error = Error::Kernel {
            step: Step::Set,
            subject: Box::new(Subject::Route("10.0.0.5/32".parse().unwrap(), 7)),
            detail: Some("Invalid prefsrc address".into()),
            source: io::Error::from_raw_os_error(22),
        };
        assert_eq!(
            error.to_string(),
            "cannot set route 10.0.0.5/32 over interface 7 (Invalid prefsrc address)"
        );
        assert_eq!(error.explain(), format!("{error}: Invalid argument (os error 22)"));
    }

    #[test]
    fn a_gone_namespace_is_told_from_a_broken_one() {
        let open = |kind| Error::Namespace {
            step: NamespaceStep::Open,
            path: "/run/netns/x".into(),
            source: io::Error::from(kind),
        };
        for (error, gone) in [
            (open(io::ErrorKind::NotFound), true),
            (open(io::ErrorKind::PermissionDenied), false),
            (Error::NotANamespace { path: "/run/netns/x".into() }, true),
            (Error::OwnNamespace { path: "/run/netns/x".into() }, false),
        ] {
            assert_eq!(error.is_namespace_gone(), gone, "{error}");
        }
    }
}
