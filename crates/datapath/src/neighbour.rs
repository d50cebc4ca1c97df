//! Permanent neighbours: who has which address on a link, without asking.
//!
//! Both ends of the local path know each other this way, so no ARP and no neighbour discovery has to pass between
//! a pod and the node.
//!
//! Source: rtnetlink(7).

use std::net::IpAddr;

use kuryr_types::MacAddr;
use netlink_packet_route::{
    RouteNetlinkMessage,
    neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::RouteType,
};
use rustix::io::Errno;

use crate::{
    address::family,
    error::{Step, Subject},
    netlink::Request,
};

/// Makes `address` a permanent neighbour at `mac` on `link`.
#[must_use]
pub fn set(link: u32, address: IpAddr, mac: MacAddr) -> Request {
    let mut message = message(link, address);
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    let subject = Subject::Neighbour(address, Some(mac), link);
    Request::new(Step::Set, subject, &RouteNetlinkMessage::NewNeighbour(message)).replacing()
}

/// Removes a neighbour; one that does not exist is success.
#[must_use]
pub fn remove(link: u32, address: IpAddr) -> Request {
    let message = RouteNetlinkMessage::DelNeighbour(message(link, address));
    Request::new(Step::Remove, Subject::Neighbour(address, None, link), &message)
        .tolerating(&[Errno::NOENT, Errno::NODEV])
}

fn message(link: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = link;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    message
}
