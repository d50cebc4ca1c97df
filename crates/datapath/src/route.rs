//! Routes of both families, in the main table or one of our own.
//!
//! Setting a route replaces one to the same destination with the same metric, over whichever link it goes: a
//! pod that comes back with its old address takes over the node's route to it.
//!
//! Sources: rtnetlink(7); kernel `net/ipv4/fib_semantics.c`, `net/ipv6/route.c`.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
};
use rustix::io::Errno;

use crate::{
    address::family,
    error::{Result, Step, Subject},
    netlink::{Request, Socket},
};

/// The table that everybody's routes are in.
pub const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// Where packets to a destination go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// The destination; of length 0 it is the default route.
    pub dst: IpNet,
    /// The router; `None`: the destination is on the link itself.
    pub via: Option<IpAddr>,
}

/// A route with what only the one who sets it knows.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Destination and router.
    pub route: Route,
    /// The link's index.
    pub link: u32,
    /// Takes the router for reachable on the link although no address of the link has it in its prefix.
    pub onlink: bool,
    /// Source address for packets that have none yet; must be one of the namespace's.
    pub source: Option<IpAddr>,
    /// Metric; `None`: the family's default.
    pub metric: Option<u32>,
    /// The table.
    pub table: u32,
}

impl Setting {
    /// A route over `link` without anything special.
    #[must_use]
    pub fn new(route: Route, link: u32) -> Self {
        Self { route, link, onlink: false, source: None, metric: None, table: MAIN }
    }
}

/// Sets a route.
#[must_use]
pub fn set(setting: &Setting) -> Request {
    let mut message = message(setting.route, setting.link, setting.table);
    if setting.onlink && setting.route.via.is_some() {
        message.header.flags = RouteFlags::Onlink;
    }
    message.attributes.extend(setting.source.map(|source| RouteAttribute::PrefSource(source.into())));
    message.attributes.extend(setting.metric.map(RouteAttribute::Priority));
    let subject = Subject::Route(setting.route.dst, setting.link);
    Request::new(Step::Set, subject, &RouteNetlinkMessage::NewRoute(message)).replacing()
}

/// Removes a route over `link` from the main table; one that does not exist is success.
#[must_use]
pub fn remove(route: Route, link: u32) -> Request {
    remove_from(route, link, MAIN)
}

/// Removes a route over `link` from a table; one that does not exist is success.
#[must_use]
pub fn remove_from(route: Route, link: u32, table: u32) -> Request {
    let message = RouteNetlinkMessage::DelRoute(message(route, link, table));
    Request::new(Step::Remove, Subject::Route(route.dst, link), &message).tolerating(&[
        Errno::SRCH,
        Errno::NODEV,
        Errno::NETDOWN,
    ])
}

/// Lists the routes over `link` in the main table, both families, without those to multicast and link-local
/// destinations that every link has.
///
/// # Errors
///
/// `Kernel` or `Restless`.
pub fn list(socket: &mut Socket, link: u32) -> Result<Vec<Route>> {
    list_in(socket, link, MAIN)
}

/// Lists the routes over `link` in a table as [`list`] does.
///
/// # Errors
///
/// `Kernel` or `Restless`.
pub fn list_in(socket: &mut Socket, link: u32, table: u32) -> Result<Vec<Route>> {
    let found = list_over(socket, Some(link), table)?;
    Ok(found.into_iter().filter(|found| found.link == link).map(|found| found.route).collect())
}

/// Lists the routes over all links as [`list`] does.
///
/// # Errors
///
/// `Kernel` or `Restless`.
pub fn list_all(socket: &mut Socket) -> Result<Vec<Found>> {
    list_all_in(socket, MAIN)
}

/// Lists the routes over all links in a table as [`list`] does.
///
/// # Errors
///
/// `Kernel` or `Restless`.
pub fn list_all_in(socket: &mut Socket, table: u32) -> Result<Vec<Found>> {
    list_over(socket, None, table)
}

/// A route as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Destination and router.
    pub route: Route,
    /// The link's index.
    pub link: u32,
    /// Source address for packets that have none yet.
    pub source: Option<IpAddr>,
}

fn list_over(socket: &mut Socket, link: Option<u32>, table: u32) -> Result<Vec<Found>> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        in_table(&mut message, table);
        message.attributes.extend(link.map(RouteAttribute::Oif));
        let request = Request::new(Step::List, Subject::Routes, &RouteNetlinkMessage::GetRoute(message))
            // A table that nothing was ever put into does not exist.
            .tolerating(&[Errno::NOENT]);
        for answer in socket.list(&request)? {
            if let RouteNetlinkMessage::NewRoute(message) = answer.route(&request)? {
                routes.extend(from_message(&message, table));
            }
        }
    }
    Ok(routes)
}

/// Numbers up to 255 fit into the header, where all kernels look for them.
fn in_table(message: &mut RouteMessage, table: u32) {
    match u8::try_from(table) {
        Ok(table) => message.header.table = table,
        Err(_) => message.attributes.push(RouteAttribute::Table(table)),
    }
}

fn message(route: Route, link: u32, table: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.dst.addr());
    message.header.destination_prefix_length = route.dst.prefix_len();
    in_table(&mut message, table);
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Unicast;
    message.header.scope = match route {
        Route { dst: IpNet::V4(_), via: None } => RouteScope::Link,
        _ => RouteScope::Universe,
    };
    if route.dst.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(route.dst.network().into()));
    }
    message.attributes.extend(route.via.map(|via| RouteAttribute::Gateway(via.into())));
    message.attributes.push(RouteAttribute::Oif(link));
    message
}

fn from_message(message: &RouteMessage, table: u32) -> Option<Found> {
    let (mut destination, mut via, mut over, mut source) = (None, None, None, None);
    let mut of_table = u32::from(message.header.table);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::Gateway(address) => via = ip(address),
            RouteAttribute::Oif(index) => over = Some(*index),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Table(found) => of_table = *found,
            _ => {}
        }
    }
    let ours = of_table == table && message.header.kind == RouteType::Unicast;
    let everything = match message.header.address_family {
        AddressFamily::Inet => IpNet::V4(Ipv4Net::default()),
        _ => IpNet::V6(Ipv6Net::default()),
    };
    let destination = destination.unwrap_or(everything.addr());
    if !ours || is_of_every_link(destination) {
        return None;
    }
    let dst = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
    Some(Found { route: Route { dst, via }, link: over?, source })
}

fn is_of_every_link(destination: IpAddr) -> bool {
    match destination {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local() || address.is_multicast(),
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}
