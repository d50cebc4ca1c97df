//! Connections of UDP that netfilter keeps track of, and their end.
//!
//! What the kernel remembers of a client's datagrams goes on for as long as the client sends, also when the endpoint that
//! they were brought to has gone. A connection is deleted by its addresses and the kernel's id, so that one which has
//! begun since is not met.
//!
//! Bound to the namespace in which the netlink socket was opened.
//!
//! Sources: kernel `include/uapi/linux/netfilter/nfnetlink_conntrack.h`, `net/netfilter/nf_conntrack_netlink.c`.

use std::net::{IpAddr, SocketAddr};

use rustix::io::Errno;

use crate::{
    error::{Result, Step, Subject},
    netlink::{AF_INET, AF_INET6, Request, Socket, UDP, attribute, attributes, find_attribute},
};

/// `NFNL_SUBSYS_CTNETLINK`, with `IPCTNL_MSG_CT_GET` and `IPCTNL_MSG_CT_DELETE`.
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;

const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const MARK: u16 = 8;
const ID: u16 = 12;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const V4_SRC: u16 = 1;
const V4_DST: u16 = 2;
const V6_SRC: u16 = 3;
const V6_DST: u16 = 4;
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
const NESTED: u16 = 1 << 15;

/// `struct nfgenmsg`.
const HEADER: usize = 4;

/// A connection of UDP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Whom the client sends to.
    pub asked: SocketAddr,
    /// Who answers: the endpoint, if it was translated.
    pub answered_by: SocketAddr,
    /// Its mark.
    pub mark: u32,
    family: u8,
    tuple: Vec<u8>,
    id: Vec<u8>,
}

/// Lists those of both families.
///
/// # Errors
///
/// `Kernel`, `KernelSilent`, `Garbled`, `Restless`, `Socket`.
pub fn udp_flows(socket: &mut Socket) -> Result<Vec<Flow>> {
    let mut flows = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let request = Request::raw(Step::List, Subject::Flows, GET, header(family));
        let answers = socket.list(&request)?;
        flows.extend(answers.iter().filter_map(|answer| read(family, answer.payload.get(HEADER..)?)));
    }
    Ok(flows)
}

/// Ends them; one that has ended is success.
///
/// # Errors
///
/// As [`udp_flows`].
pub fn end(socket: &mut Socket, flows: &[Flow]) -> Result<()> {
    let request = |flow: &Flow| {
        let mut payload = header(flow.family);
        attribute(&mut payload, TUPLE_ORIG | NESTED, &flow.tuple);
        attribute(&mut payload, ID, &flow.id);
        Request::raw(Step::Close, Subject::Flow(flow.asked), DELETE, payload).tolerating(&[Errno::NOENT])
    };
    socket.apply(&flows.iter().map(request).collect::<Vec<_>>())
}

fn header(family: u8) -> Vec<u8> {
    vec![family, 0, 0, 0]
}

/// `None` of what is not UDP.
fn read(family: u8, message: &[u8]) -> Option<Flow> {
    let tuple = find_attribute(message, TUPLE_ORIG)?;
    let asked = end_of(&tuple, V4_DST, V6_DST, PROTO_DST_PORT)?;
    let answered_by = end_of(&find_attribute(message, TUPLE_REPLY)?, V4_SRC, V6_SRC, PROTO_SRC_PORT)?;
    let mark =
        find_attribute(message, MARK).and_then(|bytes| Some(u32::from_be_bytes(bytes.try_into().ok()?)));
    let id = find_attribute(message, ID)?;
    Some(Flow { asked, answered_by, mark: mark.unwrap_or_default(), family, tuple, id })
}

/// One end of a direction of UDP.
fn end_of(tuple: &[u8], v4: u16, v6: u16, port: u16) -> Option<SocketAddr> {
    let protocol = find_attribute(tuple, TUPLE_PROTO)?;
    if find_attribute(&protocol, PROTO_NUM)? != [UDP] {
        return None;
    }
    let port = u16::from_be_bytes(find_attribute(&protocol, port)?.try_into().ok()?);
    let addresses = find_attribute(tuple, TUPLE_IP)?;
    let address = attributes(&addresses).find_map(|(kind, value)| {
        if kind == v4 {
            Some(IpAddr::from(<[u8; 4]>::try_from(value).ok()?))
        } else if kind == v6 {
            Some(IpAddr::from(<[u8; 16]>::try_from(value).ok()?))
        } else {
            None
        }
    })?;
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a kernel tells it: attributes that contain others are marked as such.
    fn direction(protocol: u8, source: (&str, u16), destination: (&str, u16)) -> Vec<u8> {
        let (mut addresses, mut ports, mut tuple) = (Vec::new(), Vec::new(), Vec::new());
        for (text, v4, v6) in [(source.0, V4_SRC, V6_SRC), (destination.0, V4_DST, V6_DST)] {
            match text.parse::<IpAddr>().unwrap() {
                IpAddr::V4(address) => attribute(&mut addresses, v4, &address.octets()),
                IpAddr::V6(address) => attribute(&mut addresses, v6, &address.octets()),
            }
        }
        attribute(&mut ports, PROTO_NUM, &[protocol]);
        attribute(&mut ports, PROTO_SRC_PORT, &source.1.to_be_bytes());
        attribute(&mut ports, PROTO_DST_PORT, &destination.1.to_be_bytes());
        attribute(&mut tuple, TUPLE_IP | NESTED, &addresses);
        attribute(&mut tuple, TUPLE_PROTO | NESTED, &ports);
        tuple
    }

    #[test]
    fn a_flow_is_told_by_whom_it_asks_and_who_answers() {
        for (protocol, client, node, endpoint, own, expect) in [
            (UDP, "192.0.2.2", "192.0.2.1", "10.1.0.4", "10.1.0.200", true),
            (UDP, "2001:db8::2", "2001:db8::1", "fd00::4", "fd00::c8", true),
            (6, "192.0.2.2", "192.0.2.1", "10.1.0.4", "10.1.0.200", false),
        ] {
            let mut message = Vec::new();
            let asked = direction(protocol, (client, 4000), (node, 30080));
            attribute(&mut message, TUPLE_ORIG | NESTED, &asked);
            let answer = direction(protocol, (endpoint, 8080), (own, 5000));
            attribute(&mut message, TUPLE_REPLY | NESTED, &answer);
            attribute(&mut message, MARK, &0x6b75_0002_u32.to_be_bytes());
            attribute(&mut message, ID, &[1, 2, 3, 4]);
            let flow = read(AF_INET, &message);
            assert_eq!(flow.is_some(), expect, "{flow:?}");
            if let Some(flow) = flow {
                assert_eq!(flow.asked, SocketAddr::new(node.parse().unwrap(), 30080));
                assert_eq!(flow.answered_by, SocketAddr::new(endpoint.parse().unwrap(), 8080));
                assert_eq!((flow.mark, flow.tuple, flow.id), (0x6b75_0002, asked, vec![1, 2, 3, 4]));
            }
        }
        assert_eq!(read(AF_INET, &[1, 2, 3]), None);
    }
}
