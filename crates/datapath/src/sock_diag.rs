//! Connected UDP sockets of a network namespace, and their end.
//!
//! A socket is named by its addresses and the kernel's cookie, which no other socket ever has: one that was closed, or
//! connected to another peer meanwhile, is not found. A socket that is closed this way is not connected any more; its
//! process gets `ECONNABORTED` from the call that waits, and `EDESTADDRREQ` from the next that sends.
//!
//! Bound to the namespace in which the netlink socket was opened.
//!
//! Sources: `sock_diag(7)`; kernel `include/uapi/linux/inet_diag.h`, `include/uapi/linux/sock_diag.h`, `net/ipv4/udp_diag.c`
//! (`udp_diag_destroy`), `net/core/sock_diag.c` (`sock_diag_save_cookie`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::io::Errno;

use crate::{
    error::{Error, Result, Step, Subject},
    netlink::{AF_INET, AF_INET6, Request, Socket, UDP},
};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// The state of a UDP socket that is connected (`TCP_ESTABLISHED`), as a bit.
const CONNECTED: u32 = 1 << 1;
const ANY_STATE: u32 = u32::MAX;

/// `struct inet_diag_sockid`: ports, addresses, interface, cookie.
const SOCKET_ID: usize = 48;
/// Where `struct inet_diag_msg` has it.
const ID_AT: usize = 4;

/// What tells a socket from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketId {
    family: u8,
    bytes: [u8; SOCKET_ID],
}

/// A connected socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// Which one.
    pub id: SocketId,
    /// To whom it is connected.
    pub peer: SocketAddr,
    /// The kernel's cookie.
    pub cookie: u64,
}

/// Lists the sockets of both families.
///
/// # Errors
///
/// `Kernel`, `KernelSilent`, `Garbled`, `Restless`, `Socket`.
pub fn connected(socket: &mut Socket) -> Result<Vec<Connected>> {
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let payload = request(family, CONNECTED, &[0; SOCKET_ID]);
        let request = Request::raw(Step::List, Subject::UdpSockets, SOCK_DIAG_BY_FAMILY, payload);
        for answer in socket.list(&request)? {
            found.push(read(&answer.payload).ok_or_else(|| request.garbled("it is too short"))?);
        }
    }
    Ok(found)
}

/// Closes a socket of somebody else's; tells whether it was there.
///
/// # Errors
///
/// As [`connected`].
pub fn close(socket: &mut Socket, one: &Connected) -> Result<bool> {
    let payload = request(one.id.family, ANY_STATE, &one.id.bytes);
    match socket.apply(&[Request::raw(Step::Close, Subject::UdpSocket(one.peer), SOCK_DESTROY, payload)]) {
        Ok(()) => Ok(true),
        // Another cookie is a stale handle.
        Err(Error::Kernel { source, .. })
            if matches!(Errno::from_io_error(&source), Some(Errno::NOENT | Errno::STALE)) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// `struct inet_diag_req_v2`.
fn request(family: u8, states: u32, id: &[u8; SOCKET_ID]) -> Vec<u8> {
    [&[family, UDP, 0, 0][..], &states.to_ne_bytes(), id].concat()
}

fn read(payload: &[u8]) -> Option<Connected> {
    let family = *payload.first()?;
    let bytes: [u8; SOCKET_ID] = payload.get(ID_AT..ID_AT + SOCKET_ID)?.try_into().ok()?;
    let id = SocketId { family, bytes };
    Some(Connected { id, peer: id.peer()?, cookie: id.cookie()? })
}

impl SocketId {
    /// Two words, the lower one first.
    fn cookie(&self) -> Option<u64> {
        let word = |at: usize| Some(u32::from_ne_bytes(self.bytes.get(at..at + 4)?.try_into().ok()?));
        Some(u64::from(word(40)?) | u64::from(word(44)?) << 32)
    }

    fn peer(&self) -> Option<SocketAddr> {
        let port = u16::from_be_bytes(self.bytes.get(2..4)?.try_into().ok()?);
        let octets: [u8; 16] = self.bytes.get(20..36)?.try_into().ok()?;
        let address = match self.family {
            AF_INET => IpAddr::V4(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3])),
            // IPv4 by a socket of the other family.
            _ => Ipv6Addr::from(octets).to_canonical(),
        };
        Some(SocketAddr::new(address, port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(family: u8, peer: &[u8]) -> Vec<u8> {
        let mut id = vec![0x12, 0x34, 0, 53];
        id.extend_from_slice(&[0; 16]);
        id.extend_from_slice(peer);
        id.extend_from_slice(&[0; 4]);
        id.extend_from_slice(&7u32.to_ne_bytes());
        id.extend_from_slice(&1u32.to_ne_bytes());
        // What follows is of no interest.
        [&[family, 1, 0, 0][..], &id, &[0; 20]].concat()
    }

    #[test]
    fn sockets_are_read_in_both_families() {
        let v6: Ipv6Addr = "fd00::4".parse().unwrap();
        let mapped: Ipv6Addr = "::ffff:10.1.0.4".parse().unwrap();
        let v4 = [[10, 1, 0, 4].as_slice(), &[0; 12]].concat();
        for (family, peer, expect) in [
            (AF_INET, v4.as_slice(), "10.1.0.4:53"),
            (AF_INET6, &v6.octets(), "[fd00::4]:53"),
            (AF_INET6, &mapped.octets(), "10.1.0.4:53"),
        ] {
            let one = read(&message(family, peer)).unwrap();
            assert_eq!((one.peer.to_string().as_str(), one.cookie), (expect, 1 << 32 | 7));
            // Asked for as it was told.
            let asked = request(one.id.family, ANY_STATE, &one.id.bytes);
            assert_eq!((asked[0], &asked[8..]), (family, &one.id.bytes[..]));
        }
        assert_eq!(read(&[AF_INET, 1, 0]), None);
    }
}
