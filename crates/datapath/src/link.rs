//! Links: veth pairs, bridges, macvlan and VLAN interfaces, and what can be changed of them.
//!
//! Creating a link directly in the namespace where it is to be costs a third of a millisecond. Moving or deleting
//! one waits for all processors to forget it, 16 ms and more, so neither happens while somebody waits.
//!
//! Sources: kernel `net/core/rtnetlink.c`, `drivers/net/veth.c`, `drivers/net/macvlan.c`,
//! `net/8021q/vlan_netlink.c`.

use std::os::fd::{AsRawFd, BorrowedFd};

use kuryr_types::MacAddr;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, InfoBridge, InfoData, InfoKind,
        InfoMacVlan, InfoVeth, InfoVlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
        MacVlanMode,
    },
    nsid::{NsidAttribute, NsidMessage},
};
use rustix::io::Errno;

use crate::{
    error::{Error, NameFault, Result, Step, Subject},
    netlink::{Answer, Request, Socket, attributes},
};

/// A link as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index in its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Hardware address, if it is an Ethernet one.
    pub mac: Option<MacAddr>,
    /// Greatest packet in bytes, without the Ethernet header.
    pub mtu: u32,
    /// Whether it is up administratively.
    pub up: bool,
    /// Whether it takes frames for all hardware addresses because somebody asked for it.
    pub promiscuous: bool,
    /// Kind, such as `veth`, `bond` or `bridge`; `None`: a device.
    pub kind: Option<String>,
    /// Group, 0 by default.
    pub group: u32,
    /// Index of the veth's other end or of the lower device, in the namespace that `peer_namespace` tells.
    pub peer: Option<u32>,
    /// Index of the bridge that it is a port of.
    pub master: Option<u32>,
    /// Id of the other end's namespace as this one numbers them; `None`: the same namespace.
    pub peer_namespace: Option<i32>,
}

/// Refuses names that the kernel would refuse or take for a pattern; they come from outside.
///
/// # Errors
///
/// `InterfaceName`.
pub fn check_name(name: &str) -> Result<()> {
    const LONGEST: usize = 15;
    let fault = match name {
        "" => NameFault::Empty,
        "." | ".." => NameFault::Dots,
        _ if name.len() > LONGEST => NameFault::TooLong,
        _ if name.bytes().any(|byte| !byte.is_ascii_graphic() || b"/:%".contains(&byte)) => {
            NameFault::Character
        }
        _ => return Ok(()),
    };
    Err(Error::InterfaceName { name: name.to_owned(), fault })
}

/// Looks a link up by name.
///
/// # Errors
///
/// `Kernel` for anything but that it does not exist.
pub fn find(socket: &mut Socket, name: &str) -> Result<Option<Link>> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    read(socket, Subject::Link(name.to_owned()), message)
}

/// Tells the index of the link of that name; `None`: there is none. Unlike [`find`] it does not wait for the kernel's
/// configuration, which others may have locked.
///
/// # Errors
///
/// `Socket`.
pub fn index_of(socket: &Socket, name: &str) -> Result<Option<u32>> {
    socket.index_of(name)
}

/// Looks a link up by index.
///
/// # Errors
///
/// `Kernel` for anything but that it does not exist.
pub fn find_by_index(socket: &mut Socket, index: u32) -> Result<Option<Link>> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    read(socket, Subject::LinkIndex(index), message)
}

/// Has the kernel take notice at once that the other end of a veth has come up. It would by itself, but later, and
/// drop what the link is to send until then.
///
/// Asking for a link does that since Linux 6.8 (`linkwatch_sync_dev`); before, the first packets may be lost.
///
/// # Errors
///
/// `Kernel`.
pub fn settle(socket: &mut Socket, index: u32) -> Result<()> {
    find_by_index(socket, index).map(drop)
}

/// Lists all links of the namespace.
///
/// # Errors
///
/// `Kernel` or `Restless`.
pub fn list(socket: &mut Socket) -> Result<Vec<Link>> {
    let mut message = LinkMessage::default();
    message.attributes.push(without_counters());
    let request = Request::new(Step::List, Subject::Links, &RouteNetlinkMessage::GetLink(message));
    let garbled = || request.garbled("a link is shorter than it says");
    socket.list(&request)?.iter().map(|answer| from_answer(answer).ok_or_else(garbled)).collect()
}

/// Tells by which id the socket's namespace knows `netns`; `None`: it has no link to it.
///
/// # Errors
///
/// `Kernel`.
pub fn namespace_id(socket: &mut Socket, netns: BorrowedFd<'_>) -> Result<Option<i32>> {
    let mut message = NsidMessage::default();
    message.attributes.push(NsidAttribute::Fd(netns.as_raw_fd().cast_unsigned()));
    let request = Request::new(Step::Read, Subject::NamespaceId, &RouteNetlinkMessage::GetNsId(message));
    let Some(answer) = socket.ask(&request)? else {
        return Ok(None);
    };
    let RouteNetlinkMessage::NewNsId(message) = answer.route(&request)? else {
        return Ok(None);
    };
    Ok(message.attributes.iter().find_map(|attribute| match attribute {
        NsidAttribute::Id(id) if *id >= 0 => Some(*id),
        _ => None,
    }))
}

/// One end of a veth pair to be made.
#[derive(Debug, Clone, Copy)]
pub struct VethEnd<'a> {
    /// Name in its namespace.
    pub name: &'a str,
    /// Hardware address. Given for both ends always: an address that the kernel invents is one that a device
    /// manager likes to replace.
    pub mac: MacAddr,
    /// Greatest packet in bytes.
    pub mtu: u32,
    /// Group, 0 by default.
    pub group: u32,
    /// Whether it resolves neighbours by itself (ARP and neighbour discovery).
    pub arp: bool,
    /// The namespace to make it in; `None`: the socket's.
    pub netns: Option<BorrowedFd<'a>>,
}

/// Makes a veth pair, both ends down.
#[must_use]
pub fn create_veth(end: VethEnd<'_>, peer: VethEnd<'_>) -> Request {
    let mut message = end.message();
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer.message()))),
    ]));
    create(end.name, message)
}

impl VethEnd<'_> {
    fn message(&self) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.attributes.extend([
            LinkAttribute::IfName(self.name.to_owned()),
            LinkAttribute::Address(self.mac.0.to_vec()),
            LinkAttribute::Mtu(self.mtu),
            LinkAttribute::Group(self.group),
            // It uses one of each by default, too, but has as many as there are processors; to put the others out of
            // use, the kernel waits for all processors, for each end.
            LinkAttribute::NumTxQueues(1),
            LinkAttribute::NumRxQueues(1),
        ]);
        if !self.arp {
            message.header.flags = LinkFlags::Noarp;
            message.header.change_mask = LinkFlags::Noarp;
        }
        message.attributes.extend(self.netns.map(|netns| LinkAttribute::NetNsFd(netns.as_raw_fd())));
        message
    }
}

/// A macvlan in mode bridge to be made on the link with index `lower`, in the socket's namespace, down: frames for its
/// hardware address come to it, those for everybody to all, and macvlans of one link reach each other.
#[derive(Debug, Clone, Copy)]
pub struct MacvlanEnd<'a> {
    /// Index of the lower device.
    pub lower: u32,
    /// Name.
    pub name: &'a str,
    /// Hardware address.
    pub mac: MacAddr,
    /// Group.
    pub group: u32,
}

/// Makes a macvlan in mode bridge that resolves no neighbours by itself, with its lower device's MTU.
#[must_use]
pub fn create_macvlan(end: &MacvlanEnd<'_>) -> Request {
    let mut message = LinkMessage::default();
    message.header.flags = LinkFlags::Noarp;
    message.header.change_mask = LinkFlags::Noarp;
    message.attributes.extend([
        LinkAttribute::IfName(end.name.to_owned()),
        LinkAttribute::Address(end.mac.0.to_vec()),
        LinkAttribute::Link(end.lower),
        LinkAttribute::Group(end.group),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::MacVlan),
            LinkInfo::Data(InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Bridge)])),
        ]),
    ]);
    create(end.name, message)
}

/// An interface on another one, its lower device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubInterface {
    /// A macvlan in mode passthru: it takes the lower device's hardware address, and all of its frames.
    Macvlan,
    /// The frames of one VLAN (8021q), with a hardware address of its own.
    Vlan {
        /// VLAN id.
        id: u16,
        /// Hardware address.
        mac: MacAddr,
    },
}

/// Makes an interface on the link with index `lower`, in `netns` (`None`: the socket's namespace), down.
#[must_use]
pub fn create_on(
    lower: u32,
    kind: SubInterface,
    name: &str,
    mtu: u32,
    netns: Option<BorrowedFd<'_>>,
) -> Request {
    let mut message = LinkMessage::default();
    message.attributes.extend([
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::Link(lower),
    ]);
    let info = match kind {
        SubInterface::Macvlan => vec![
            LinkInfo::Kind(InfoKind::MacVlan),
            LinkInfo::Data(InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Passthrough)])),
        ],
        SubInterface::Vlan { id, mac } => {
            message.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
            vec![LinkInfo::Kind(InfoKind::Vlan), LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(id)]))]
        }
    };
    message.attributes.push(LinkAttribute::LinkInfo(info));
    message.attributes.extend(netns.map(|netns| LinkAttribute::NetNsFd(netns.as_raw_fd())));
    create(name, message)
}

/// Makes a bridge that only passes frames on, down: it learns nothing, so that every frame reaches the other side, runs
/// no spanning tree, keeps no multicast groups, and answers no ARP for the node.
#[must_use]
pub fn create_bridge(name: &str, mac: MacAddr, mtu: u32, group: u32) -> Request {
    let mut message = LinkMessage::default();
    message.attributes.extend([
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Address(mac.0.to_vec()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::Group(group),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![
                InfoBridge::StpState(BridgeStpState::Disabled),
                InfoBridge::ForwardDelay(0),
                InfoBridge::AgeingTime(0),
                InfoBridge::MulticastSnooping(false),
            ])),
        ]),
    ]);
    message.header.flags = LinkFlags::Noarp;
    message.header.change_mask = LinkFlags::Noarp;
    create(name, message)
}

/// Makes a link a port of the bridge with index `bridge`.
#[must_use]
pub fn put_on(index: u32, bridge: u32) -> Request {
    set(index, [LinkAttribute::Controller(bridge)])
}

fn create(name: &str, message: LinkMessage) -> Request {
    Request::new(Step::Create, Subject::Link(name.to_owned()), &RouteNetlinkMessage::NewLink(message))
        .creating()
}

/// Brings a link up.
#[must_use]
pub fn bring_up(index: u32) -> Request {
    let mut message = by_index(index);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    Request::new(Step::BringUp, Subject::LinkIndex(index), &RouteNetlinkMessage::SetLink(message))
}

/// Has a link take frames for all hardware addresses and VLANs, or no longer.
#[must_use]
pub fn set_promiscuous(index: u32, on: bool) -> Request {
    let mut message = by_index(index);
    message.header.flags = if on { LinkFlags::Promisc } else { LinkFlags::empty() };
    message.header.change_mask = LinkFlags::Promisc;
    Request::new(Step::Set, Subject::LinkIndex(index), &RouteNetlinkMessage::SetLink(message))
}

/// Has a link take frames for all groups.
#[must_use]
pub fn set_all_multicast(index: u32) -> Request {
    let mut message = by_index(index);
    message.header.flags = LinkFlags::Allmulti;
    message.header.change_mask = LinkFlags::Allmulti;
    Request::new(Step::Set, Subject::LinkIndex(index), &RouteNetlinkMessage::SetLink(message))
}

/// Sets hardware address and MTU of a link.
#[must_use]
pub fn set_mac_and_mtu(index: u32, mac: MacAddr, mtu: u32) -> Request {
    set(index, [LinkAttribute::Address(mac.0.to_vec()), LinkAttribute::Mtu(mtu)])
}

/// Sets the group of a link.
#[must_use]
pub fn set_group(index: u32, group: u32) -> Request {
    set(index, [LinkAttribute::Group(group)])
}

/// Keeps the kernel from giving the link an IPv6 link-local address of its own when it comes up. Takes effect
/// only if asked before that.
#[must_use]
pub fn no_generated_addresses(index: u32) -> Request {
    let inet6 = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    // Not supported: a kernel without IPv6 has nothing to keep back.
    set(index, [LinkAttribute::AfSpecUnspec(vec![inet6])]).tolerating(&[Errno::AFNOSUPPORT, Errno::OPNOTSUPP])
}

/// Moves a link to another namespace under a new name. Slow.
#[must_use]
pub fn move_to(index: u32, name: &str, netns: BorrowedFd<'_>) -> Request {
    let mut message = by_index(index);
    message
        .attributes
        .extend([LinkAttribute::NetNsFd(netns.as_raw_fd()), LinkAttribute::IfName(name.to_owned())]);
    Request::new(Step::Move, Subject::LinkIndex(index), &RouteNetlinkMessage::SetLink(message))
}

/// Deletes a link, and with a veth its other end; one that does not exist is success. Slow.
#[must_use]
pub fn delete(index: u32) -> Request {
    let message = RouteNetlinkMessage::DelLink(by_index(index));
    Request::new(Step::Remove, Subject::LinkIndex(index), &message).tolerating(&[Errno::NODEV])
}

fn set(index: u32, attributes: impl IntoIterator<Item = LinkAttribute>) -> Request {
    let mut message = by_index(index);
    message.attributes.extend(attributes);
    Request::new(Step::Set, Subject::LinkIndex(index), &RouteNetlinkMessage::SetLink(message))
}

fn by_index(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn read(socket: &mut Socket, subject: Subject, mut message: LinkMessage) -> Result<Option<Link>> {
    message.attributes.push(without_counters());
    let request =
        Request::new(Step::Read, subject, &RouteNetlinkMessage::GetLink(message)).tolerating(&[Errno::NODEV]);
    let Some(answer) = socket.ask(&request)? else {
        return Ok(None);
    };
    from_answer(&answer).ok_or_else(|| request.garbled("the answer is no link")).map(Some)
}

/// Most of what the kernel says of a link is what it has counted there, in many forms.
fn without_counters() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

/// Reads what is needed of a message; a node has hundreds of links, and each has hundreds of attributes.
fn from_answer(answer: &Answer) -> Option<Link> {
    const RTM_NEWLINK: u16 = 16;
    // `struct ifinfomsg`: family, padding, type, index, flags, mask.
    let (header, rest) = answer.parts::<16>(RTM_NEWLINK)?;
    let number = |bytes: &[u8]| Some(u32::from_ne_bytes(bytes.try_into().ok()?));
    let flags = LinkFlags::from_bits_retain(number(&header[8..12])?);
    let mut link = Link {
        index: number(&header[4..8])?,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        promiscuous: flags.contains(LinkFlags::Promisc),
        kind: None,
        group: 0,
        peer: None,
        master: None,
        peer_namespace: None,
    };
    for (kind, value) in attributes(rest) {
        match kind {
            IFLA_ADDRESS => link.mac = value.try_into().ok().map(MacAddr),
            IFLA_IFNAME => link.name = name_in(value),
            IFLA_MTU => link.mtu = number(value)?,
            IFLA_LINK => link.peer = number(value),
            IFLA_MASTER => link.master = number(value),
            IFLA_GROUP => link.group = number(value)?,
            IFLA_LINK_NETNSID => link.peer_namespace = number(value).map(u32::cast_signed),
            IFLA_LINKINFO => {
                let name = |(kind, value): (u16, &[u8])| (kind == IFLA_INFO_KIND).then(|| name_in(value));
                link.kind = attributes(value).find_map(name);
            }
            _ => {}
        }
    }
    Some(link)
}

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_GROUP: u16 = 27;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;

/// A name as the kernel writes it, with a zero at its end.
fn name_in(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_would_interpret_are_refused() {
        for (name, expect) in [
            ("eth0", None),
            ("tap0123456789ab", None),
            ("net1.100", None),
            ("", Some(NameFault::Empty)),
            ("..", Some(NameFault::Dots)),
            ("tap0123456789abc", Some(NameFault::TooLong)),
            ("eth%d", Some(NameFault::Character)),
            ("../eth0", Some(NameFault::Character)),
            ("eth0:1", Some(NameFault::Character)),
            ("eth 0", Some(NameFault::Character)),
            ("eth\n", Some(NameFault::Character)),
            ("é", Some(NameFault::Character)),
        ] {
            let got = match check_name(name) {
                Ok(()) => None,
                Err(Error::InterfaceName { fault, .. }) => Some(fault),
                Err(error) => panic!("{error}"),
            };
            assert_eq!(got, expect, "{name}");
        }
    }
}
