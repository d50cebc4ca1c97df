//! Announcing a pod's addresses: gratuitous ARP and unsolicited neighbour advertisements, and reports of their groups.
//!
//! An address may have been another pod's a minute ago; whoever remembers that pod's hardware address learns the new
//! one at once instead of when its cache entry ages.
//!
//! The frames leave by the pod's uplink, as if the pod had sent them, from one packet socket in the node's namespace.
//! What was announced once is not announced again: the same port, on the same uplink, has the same hardware address for its
//! next pod, so that nobody has anything to learn. A virtual switch sends such a frame to every port of the network, which
//! takes it longer than all else that a pod's start asks of it; so a port is best announced while it waits for its first pod.
//!
//! Reports of the multicast groups of a pod's addresses are made in its place by the same socket ([`crate::groups`]).
//!
//! A socket of the pod's own would have to be closed, and closing a packet socket waits until all processors have let
//! go of it: 4 to 16 ms.
//!
//! Sources: RFC 5227 section 2.3 (ARP announcement), RFC 4861 sections 4.4 and 7.2.6, RFC 2464 section 7,
//! IEEE 802.1Q, packet(7).

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
    sync::{Mutex, PoisonError},
};

use kuryr_types::MacAddr;
use rustix::{
    io::Errno,
    net::{AddressFamily, SendFlags, SocketFlags, SocketType, sendto, socket_with},
};

use crate::{
    error::{Error, Result, SocketKind, SocketStep},
    groups,
    joint::Owed,
};

/// Sends whole Ethernet frames on links of the namespace in which it was opened.
#[derive(Debug)]
pub struct Announcer {
    socket: OwnedFd,
    told: Mutex<BTreeSet<Told>>,
}

/// What is to be known of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Index of the link that it is reached by.
    pub uplink: u32,
    /// VLAN id there, if any.
    pub vlan: Option<u16>,
    /// Hardware address.
    pub mac: MacAddr,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
}

/// An announcement: index of the link, VLAN id, hardware address, address.
type Told = (u32, Option<u16>, MacAddr, IpAddr);

/// Announcements that are remembered: far more than a node has ports at a time.
const REMEMBERED: usize = 16_384;

impl Announcer {
    /// Opens it in the calling thread's namespace.
    ///
    /// # Errors
    ///
    /// `Socket`.
    pub fn open() -> Result<Self> {
        // Protocol 0: this socket receives nothing.
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .map_err(failed(SocketStep::Open))?;
        Ok(Self { socket, told: Mutex::default() })
    }

    /// Announces a port, whose link is up; what this has told before, it does not repeat. Tells whether there was anything to
    /// say.
    ///
    /// # Errors
    ///
    /// `Socket`.
    pub fn announce(&self, port: &Announcement) -> Result<bool> {
        let Announcement { uplink, vlan, mac, .. } = *port;
        let mut is_new = false;
        for address in &port.addresses {
            let told = (uplink, vlan, mac, *address);
            if self.remembers(&told) {
                continue;
            }
            is_new = true;
            self.send(uplink, &tagged(frame(mac, *address), vlan))?;
            self.remember(told);
        }
        Ok(is_new)
    }

    /// Announces ports until there were `most` of which something was new. Tells whether there may be more.
    ///
    /// # Errors
    ///
    /// `Socket`: the first, once nothing else is left to be told.
    pub fn announce_some(&self, ports: &[Announcement], most: usize) -> Result<bool> {
        let (mut told, mut failure) = (0, Ok(()));
        for port in ports {
            if told == most {
                return Ok(true);
            }
            match self.announce(port) {
                Ok(is_new) => told += usize::from(is_new),
                Err(error) => failure = failure.and(Err(error)),
            }
        }
        failure.map(|()| false)
    }

    /// Reports the groups of a pod in its place.
    ///
    /// # Errors
    ///
    /// `Socket`.
    pub fn report(&self, owed: &Owed) -> Result<()> {
        groups::report(owed.mac, &owed.groups)
            .map_or(Ok(()), |report| self.send(owed.uplink, &tagged(report, owed.vlan)))
    }

    fn remembers(&self, told: &Told) -> bool {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).contains(told)
    }

    fn remember(&self, announcement: Told) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= REMEMBERED {
            told.clear();
        }
        told.insert(announcement);
    }

    /// Sends a frame on link `index`.
    ///
    /// # Errors
    ///
    /// `Socket`.
    pub fn send(&self, index: u32, frame: &[u8]) -> Result<()> {
        sendto(&self.socket, frame, SendFlags::empty(), &packet::Address::of_link(index))
            .map_err(failed(SocketStep::Send))?;
        Ok(())
    }
}

fn failed(step: SocketStep) -> impl Fn(Errno) -> Error {
    move |errno| Error::Socket { step, kind: SocketKind::Packet, source: errno.into() }
}

/// The frame with a tag behind its hardware addresses.
fn tagged(mut frame: Vec<u8>, vlan: Option<u16>) -> Vec<u8> {
    const ADDRESSES: usize = 12;
    if let Some(vlan) = vlan {
        let [high, low] = vlan.to_be_bytes();
        frame.splice(ADDRESSES..ADDRESSES, [0x81, 0x00, high, low]);
    }
    frame
}

fn frame(mac: MacAddr, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => gratuitous_arp(mac, address).to_vec(),
        IpAddr::V6(address) => unsolicited_advertisement(mac, address).to_vec(),
    }
}

/// An ARP request for one's own address, to everybody.
fn gratuitous_arp(mac: MacAddr, address: Ipv4Addr) -> [u8; 42] {
    let mut frame = [0; 42];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac.0);
    frame[12..14].copy_from_slice(&[0x08, 0x06]);
    // Ethernet, IPv4, lengths 6 and 4, request
    frame[14..22].copy_from_slice(&[0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&mac.0);
    frame[28..32].copy_from_slice(&address.octets());
    // The target's hardware address stays zero.
    frame[38..].copy_from_slice(&address.octets());
    frame
}

/// A neighbour advertisement that overrides older entries, to all nodes.
fn unsolicited_advertisement(mac: MacAddr, address: Ipv6Addr) -> [u8; 86] {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const ICMPV6: u8 = 58;
    const PAYLOAD: u8 = 32;

    let mut frame = [0; 86];
    frame[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
    frame[6..12].copy_from_slice(&mac.0);
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    // Version 6; hop limit 255 shows that no router has passed it on.
    frame[14] = 0x60;
    frame[19..22].copy_from_slice(&[PAYLOAD, ICMPV6, 255]);
    frame[22..38].copy_from_slice(&address.octets());
    frame[38..54].copy_from_slice(&ALL_NODES.octets());
    // Advertisement, override; then the target and its hardware address.
    frame[54] = 136;
    frame[58] = 0x20;
    frame[62..78].copy_from_slice(&address.octets());
    frame[78..80].copy_from_slice(&[2, 1]);
    frame[80..].copy_from_slice(&mac.0);
    let checksum = checksum(&frame[22..54], ICMPV6, &frame[54..]);
    frame[56..58].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// The internet checksum over the IPv6 pseudo header and `payload` (RFC 4443, section 2.3).
pub(crate) fn checksum(addresses: &[u8], protocol: u8, payload: &[u8]) -> u16 {
    let words = addresses.chunks(2).chain(payload.chunks(2));
    let mut sum: u32 =
        words.map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0))).sum();
    sum += u32::from(protocol) + u32::try_from(payload.len()).unwrap_or(0);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Folded to 16 bits above.
    !u16::try_from(sum).unwrap_or(0)
}

mod packet {
    //! The address of a packet socket, which rustix does not know.
    #![allow(unsafe_code)]

    use std::{mem::size_of, ptr};

    use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};

    /// `struct sockaddr_ll`.
    #[repr(C)]
    #[derive(Debug, Clone, Copy)]
    pub(super) struct Address {
        family: u16,
        protocol: u16,
        link: i32,
        hardware: u16,
        kind: u8,
        length: u8,
        mac: [u8; 8],
    }

    impl Address {
        pub(super) fn of_link(index: u32) -> Self {
            const AF_PACKET: u16 = 17;
            Self {
                family: AF_PACKET,
                protocol: 0,
                link: index.cast_signed(),
                hardware: 0,
                kind: 0,
                length: 0,
                mac: [0; 8],
            }
        }
    }

    const _: () = assert!(size_of::<Address>() == 20);

    // SAFETY: the pointer is to a whole `sockaddr_ll`, readable for the length passed with it.
    unsafe impl SocketAddrArg for Address {
        unsafe fn with_sockaddr<R>(
            &self,
            call: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
        ) -> R {
            const LENGTH: SocketAddrLen = 20;
            call(ptr::from_ref(self).cast(), LENGTH)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([0xfa, 0x16, 0x3e, 0x4b, 0x9c, 0x07]);

    #[test]
    fn a_tag_goes_behind_the_hardware_addresses() {
        let frame = frame(MAC, [10, 1, 0, 5].into());
        let tagged = tagged(frame.clone(), Some(0x0165));
        assert_eq!(tagged[..12], frame[..12]);
        assert_eq!(tagged[12..16], [0x81, 0, 0x01, 0x65]);
        assert_eq!(tagged[16..], frame[12..]);
    }

    #[test]
    fn a_gratuitous_arp_is_a_request_for_ones_own_address() {
        #[rustfmt::skip]
        let expect = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfa, 0x16, 0x3e, 0x4b, 0x9c, 0x07, 0x08, 0x06,
            0x00, 0x01, 0x08, 0x00, 0x06, 0x04, 0x00, 0x01,
            0xfa, 0x16, 0x3e, 0x4b, 0x9c, 0x07, 10, 1, 0, 5,
            0, 0, 0, 0, 0, 0, 10, 1, 0, 5,
        ];
        assert_eq!(frame(MAC, [10, 1, 0, 5].into()), expect);
    }

    #[test]
    fn an_unsolicited_advertisement_overrides_and_has_a_right_checksum() {
        let address: Ipv6Addr = "fd00:1::5".parse().unwrap();
        let frame = frame(MAC, address.into());
        #[rustfmt::skip]
        let expect = [
            0x33, 0x33, 0x00, 0x00, 0x00, 0x01, 0xfa, 0x16, 0x3e, 0x4b, 0x9c, 0x07, 0x86, 0xdd,
            0x60, 0x00, 0x00, 0x00, 0x00, 0x20, 0x3a, 0xff,
            0xfd, 0x00, 0x00, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x05,
            0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01,
            0x88, 0x00, 0x00, 0x00, 0x20, 0x00, 0x00, 0x00,
            0xfd, 0x00, 0x00, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x05,
            0x02, 0x01, 0xfa, 0x16, 0x3e, 0x4b, 0x9c, 0x07,
        ];
        let mut without = frame.clone();
        without[56..58].fill(0);
        assert_eq!(without, expect);
        // A receiver sums everything, the checksum included, to nothing.
        assert_eq!(checksum(&frame[22..54], 58, &frame[54..]), 0);
    }
}
