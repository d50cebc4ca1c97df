//! Offload features of a prepared uplink's end, by the kernel's ethtool netlink family.
//!
//! With the userspace datapath of Open vSwitch, which reads the other end through a packet socket, packets must
//! leave complete: with checksums and no longer than the MTU. Left on, offloads make TCP stall while ping works.
//! The pod's own offloads may stay on: the kernel finishes its packets when they reach the uplink's end.
//!
//! Sources: kernel documentation, "Netlink interface for ethtool" (`FEATURES_SET`) and "Generic Netlink".

use netlink_packet_core::{NlasIterator, parse_u16};

use crate::{
    error::{Result, Step, Subject},
    netlink::{Request, Socket, attribute, find_attribute, text},
};

/// What is switched off if the link has it: checksums and everything that makes packets longer than the MTU. A pattern
/// with a star stands for what the kernel names in several ways.
const OFF: [&str; 6] = [
    "tx-checksum-*",
    "tx-tcp-*",
    "tx-tcp6-*",
    "tx-udp-segmentation",
    "tx-sctp-segmentation",
    "tx-generic-segmentation",
];
/// What is switched on: received packets are merged again before they go on to the pod.
const ON: [&str; 1] = ["rx-gro"];

const FAMILY: &str = "ethtool";

/// Switches transmit offloads of link `index` off and receive merging on, in the namespace of the calling thread.
///
/// # Errors
///
/// `Kernel` if there is no such link, or the kernel has no ethtool netlink (before 5.6).
pub fn finish_packets(index: u32) -> Result<()> {
    let mut socket = Socket::generic()?;
    let family = resolve(&mut socket)?;
    let request = Request::raw(Step::Read, Subject::Offloads(index), family, features_get(index));
    let answer = socket.ask(&request)?.ok_or_else(|| request.garbled("there is none"))?;
    let changes: Vec<(String, bool)> = changeable(&answer.payload)
        .into_iter()
        .filter_map(|feature| wanted(&feature).map(|on| (feature, on)))
        .collect();
    let payload = features_set(index, &changes);
    socket.apply(&[Request::raw(Step::Set, Subject::Offloads(index), family, payload)])
}

/// Whether a feature is to be on or off; `None`: as it is.
fn wanted(feature: &str) -> Option<bool> {
    let matches = |pattern: &&str| match pattern.strip_suffix('*') {
        Some(start) => feature.starts_with(start),
        None => feature == *pattern,
    };
    if OFF.iter().any(matches) {
        return Some(false);
    }
    ON.contains(&feature).then_some(true)
}

/// Asks the controller of generic netlink for the family's number.
fn resolve(socket: &mut Socket) -> Result<u16> {
    const GENL_ID_CTRL: u16 = 0x10;
    const CTRL_CMD_GETFAMILY: u8 = 3;
    const CTRL_VERSION: u8 = 2;
    const CTRL_ATTR_FAMILY_ID: u16 = 1;
    const CTRL_ATTR_FAMILY_NAME: u16 = 2;

    let mut payload = header(CTRL_CMD_GETFAMILY, CTRL_VERSION);
    attribute(&mut payload, CTRL_ATTR_FAMILY_NAME, &text(FAMILY));
    let request = Request::raw(Step::Read, Subject::Family(FAMILY), GENL_ID_CTRL, payload);
    let answer = socket.ask(&request)?;
    answer
        .as_ref()
        .and_then(|answer| find_attribute(answer.payload.get(GENL_HEADER..)?, CTRL_ATTR_FAMILY_ID))
        .and_then(|number| parse_u16(&number).ok())
        .ok_or_else(|| request.garbled("there is no number in the answer"))
}

const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
const ETHTOOL_MSG_FEATURES_SET: u8 = 12;
const ETHTOOL_VERSION: u8 = 1;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_HW: u16 = 2;
const ETHTOOL_A_FEATURES_WANTED: u16 = 3;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;
const ETHTOOL_A_BITSET_BIT_VALUE: u16 = 3;

/// A question for a link's features.
fn features_get(index: u32) -> Vec<u8> {
    let mut payload = header(ETHTOOL_MSG_FEATURES_GET, ETHTOOL_VERSION);
    attribute(&mut payload, ETHTOOL_A_FEATURES_HEADER | NESTED, &device(index, 0));
    payload
}

/// The features that can be changed, from the answer to the question.
fn changeable(payload: &[u8]) -> Vec<String> {
    let attributes = payload.get(GENL_HEADER..).unwrap_or_default();
    let bits = find_attribute(attributes, ETHTOOL_A_FEATURES_HW)
        .and_then(|bitset| find_attribute(&bitset, ETHTOOL_A_BITSET_BITS));
    NlasIterator::new(bits.unwrap_or_default().as_slice())
        .map_while(Result::ok)
        .filter_map(|bit| find_attribute(bit.value(), ETHTOOL_A_BITSET_BIT_NAME))
        .map(|name| String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned())
        .collect()
}

/// A request to change features and leave all others as they are.
fn features_set(index: u32, features: &[(String, bool)]) -> Vec<u8> {
    const ETHTOOL_FLAG_OMIT_REPLY: u32 = 2;

    let mut bits = Vec::new();
    for (name, on) in features {
        let mut bit = Vec::new();
        attribute(&mut bit, ETHTOOL_A_BITSET_BIT_NAME, &text(name));
        if *on {
            attribute(&mut bit, ETHTOOL_A_BITSET_BIT_VALUE, &[]);
        }
        attribute(&mut bits, ETHTOOL_A_BITSET_BITS_BIT | NESTED, &bit);
    }
    let mut bitset = Vec::new();
    attribute(&mut bitset, ETHTOOL_A_BITSET_BITS | NESTED, &bits);

    let mut payload = header(ETHTOOL_MSG_FEATURES_SET, ETHTOOL_VERSION);
    attribute(&mut payload, ETHTOOL_A_FEATURES_HEADER | NESTED, &device(index, ETHTOOL_FLAG_OMIT_REPLY));
    attribute(&mut payload, ETHTOOL_A_FEATURES_WANTED | NESTED, &bitset);
    payload
}

/// The header that every request of the family begins with.
fn device(index: u32, flags: u32) -> Vec<u8> {
    const ETHTOOL_A_HEADER_DEV_INDEX: u16 = 1;
    const ETHTOOL_A_HEADER_FLAGS: u16 = 3;

    let mut device = Vec::new();
    attribute(&mut device, ETHTOOL_A_HEADER_DEV_INDEX, &index.to_ne_bytes());
    attribute(&mut device, ETHTOOL_A_HEADER_FLAGS, &flags.to_ne_bytes());
    device
}

const GENL_HEADER: usize = 4;
const NESTED: u16 = netlink_packet_core::NLA_F_NESTED;

fn header(command: u8, version: u8) -> Vec<u8> {
    vec![command, version, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_makes_packets_unfinished_goes_off() {
        for (feature, expect) in [
            ("tx-checksum-ip-generic", Some(false)),
            ("tx-tcp-segmentation", Some(false)),
            ("tx-tcp-ecn-segmentation", Some(false)),
            ("tx-tcp6-segmentation", Some(false)),
            ("tx-generic-segmentation", Some(false)),
            ("rx-gro", Some(true)),
            ("rx-gro-list", None),
            ("tx-scatter-gather", None),
            ("tx-vlan-hw-insert", None),
        ] {
            assert_eq!(wanted(feature), expect, "{feature}");
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_request_names_the_link_and_each_feature() {
        let payload = features_set(7, &[("gro".into(), true), ("tso".into(), false)]);
        #[rustfmt::skip]
        let expect = [
            12, 1, 0, 0,
            // header: device 7, no reply
            20, 0, 1, 0x80, 8, 0, 1, 0, 7, 0, 0, 0, 8, 0, 3, 0, 2, 0, 0, 0,
            // wanted: a list of bits
            40, 0, 3, 0x80, 36, 0, 3, 0x80,
            // the first has a value and so is on, the second has none
            16, 0, 1, 0x80, 8, 0, 2, 0, b'g', b'r', b'o', 0, 4, 0, 3, 0,
            12, 0, 1, 0x80, 8, 0, 2, 0, b't', b's', b'o', 0,
        ];
        let expect: Vec<u8> = {
            // The lengths of the two enclosing attributes follow from what they hold.
            let mut bytes = expect.to_vec();
            let bits = u8::try_from(bytes.len() - 28).unwrap();
            bytes[24] = bits + 4;
            bytes[28] = bits;
            bytes
        };
        assert_eq!(payload, expect);
    }
}
