//! Addresses of links.
//!
//! IPv6 addresses are set without duplicate address detection: Neutron gave the address to this port alone, and
//! the second that detection takes would be a second in which the pod cannot use it.
//!
//! Sources: rtnetlink(7), RFC 4862 section 5.4, RFC 4291 appendix A.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use kuryr_types::MacAddr;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope},
};
use rustix::io::Errno;

use crate::{
    error::{Result, Step, Subject},
    netlink::{Request, Socket},
};

/// Gives link `index` the address `address`, which keeps its prefix length; one it has already is success.
#[must_use]
pub fn set(index: u32, address: IpNet) -> Request {
    let mut message = message(index, address);
    match address {
        IpNet::V4(address) if address.prefix_len() < 31 => {
            message.attributes.push(AddressAttribute::Broadcast(address.broadcast()));
        }
        IpNet::V4(_) => {}
        IpNet::V6(address) => {
            message.header.flags = AddressHeaderFlags::Nodad;
            if address.addr().is_unicast_link_local() {
                message.header.scope = AddressScope::Link;
            }
        }
    }
    Request::new(Step::Set, Subject::Address(address, index), &RouteNetlinkMessage::NewAddress(message))
        .replacing()
}

/// Takes an address from link `index`; one that it does not have is success.
#[must_use]
pub fn remove(index: u32, address: IpNet) -> Request {
    let message = RouteNetlinkMessage::DelAddress(message(index, address));
    Request::new(Step::Remove, Subject::Address(address, index), &message)
        .tolerating(&[Errno::ADDRNOTAVAIL, Errno::NODEV])
}

fn message(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.family = family(address.addr());
    message.header.prefix_len = address.prefix_len();
    message
        .attributes
        .extend([AddressAttribute::Address(address.addr()), AddressAttribute::Local(address.addr())]);
    message
}

/// Lists the addresses of link `index`, both families, in the kernel's order.
///
/// # Errors
///
/// `Kernel` or `Restless`.
pub fn list(socket: &mut Socket, index: u32) -> Result<Vec<IpNet>> {
    // The kernel lists those of all links whatever the message asks for.
    let all = list_all(socket)?;
    Ok(all.into_iter().filter(|(of, _)| *of == index).map(|(_, address)| address).collect())
}

/// Lists the addresses of all links with the links' indexes, both families, in the kernel's order.
///
/// # Errors
///
/// `Kernel` or `Restless`.
pub fn list_all(socket: &mut Socket) -> Result<Vec<(u32, IpNet)>> {
    let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let request = Request::new(Step::List, Subject::Addresses, &message);
    let mut addresses = Vec::new();
    for answer in socket.list(&request)? {
        if let RouteNetlinkMessage::NewAddress(message) = answer.route(&request)? {
            addresses.extend(from_message(&message).map(|address| (message.header.index, address)));
        }
    }
    Ok(addresses)
}

/// The link-local address that a host makes of its hardware address.
#[must_use]
pub fn link_local(mac: MacAddr) -> Ipv6Net {
    let [a, b, c, d, e, f] = mac.0;
    let mut octets = [0; 16];
    octets[0] = 0xfe;
    octets[1] = 0x80;
    octets[8..].copy_from_slice(&[a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    Ipv6Net::new_assert(Ipv6Addr::from(octets), 64)
}

pub(crate) fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn from_message(message: &AddressMessage) -> Option<IpNet> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            // With a point-to-point address `Address` is the other side's; `Local` is always ours.
            AddressAttribute::Local(address) => found = Some(*address),
            AddressAttribute::Address(address) => found = found.or(Some(*address)),
            _ => {}
        }
    }
    IpNet::new(found?, message.header.prefix_len).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_local_address_follows_the_hardware_address() {
        for (mac, expect) in [
            ("fa:16:3e:4b:9c:07", "fe80::f816:3eff:fe4b:9c07/64"),
            ("00:00:5e:00:53:01", "fe80::200:5eff:fe00:5301/64"),
        ] {
            assert_eq!(link_local(mac.parse().unwrap()).to_string(), expect, "{mac}");
        }
    }
}
