//! The multicast groups to which a pod's addresses belong, and the report that it listens to them.
//!
//! Whoever looks for an IPv6 address asks the solicited-node group that its last 24 bits name. A switch that learns who
//! listens to what (RFC 4541, section 3) sends the question there only.
//!
//! Sources: RFC 4291 section 2.7.1 (groups), RFC 3810 section 5.2 (reports), RFC 2711 (router alert), RFC 2464 section 7.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use kuryr_types::MacAddr;

use crate::{address::link_local, announce::checksum};

/// Groups that a report has room for in the smallest packet that every link takes, 1280 bytes.
pub const MOST: usize = 60;

/// The groups of a pod's addresses, of which one is link-local as soon as there is another; IPv4 has none.
pub fn of(mac: MacAddr, addresses: impl IntoIterator<Item = IpAddr>) -> BTreeSet<Ipv6Addr> {
    let mut groups: BTreeSet<Ipv6Addr> = addresses.into_iter().filter_map(solicited_node).collect();
    if !groups.is_empty() {
        groups.extend(solicited_node(link_local(mac).addr().into()));
    }
    groups
}

fn solicited_node(address: IpAddr) -> Option<Ipv6Addr> {
    let IpAddr::V6(address) = address else { return None };
    let [.., a, b, c] = address.octets();
    let mut group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0).octets();
    group[13..].copy_from_slice(&[a, b, c]);
    Some(group.into())
}

/// A frame that says from now on to listen to these groups, from whomever; none for no groups, and for more than a frame holds.
#[must_use]
pub fn report(mac: MacAddr, groups: &BTreeSet<Ipv6Addr>) -> Option<Vec<u8>> {
    const ALL_MLD_V2_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
    const ICMPV6: u8 = 58;
    // Next header; length; router alert, of which 0 means MLD; padding of two bytes.
    const HOP_BY_HOP: [u8; 8] = [ICMPV6, 0, 5, 2, 0, 0, 1, 0];
    const REPORT: u8 = 143;
    const CHANGE_TO_EXCLUDE: u8 = 4;

    let count = u8::try_from(groups.len()).ok().filter(|_| (1..=MOST).contains(&groups.len()))?;
    let mut message = vec![REPORT, 0, 0, 0, 0, 0, 0, count];
    for group in groups {
        message.extend([CHANGE_TO_EXCLUDE, 0, 0, 0]);
        message.extend(group.octets());
    }
    let ends = [link_local(mac).addr().octets(), ALL_MLD_V2_ROUTERS.octets()].concat();
    let checksum = checksum(&ends, ICMPV6, &message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());

    let length = u16::try_from(HOP_BY_HOP.len() + message.len()).ok()?.to_be_bytes();
    // Version 6; next header 0, hop by hop; hop limit 1.
    let ip = [0x60, 0, 0, 0, length[0], length[1], 0, 1];
    Some(
        [&[0x33, 0x33, 0, 0, 0, 0x16][..], &mac.0, &[0x86, 0xdd], &ip, &ends, &HOP_BY_HOP, &message].concat(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([0xfa, 0x16, 0x3e, 0x4b, 0x9c, 0x07]);

    #[test]
    fn each_address_names_a_group() {
        for (what, addresses, expect) in [
            ("none", &[][..], &[][..]),
            ("of IPv4 there are none", &["10.1.0.5"], &[]),
            ("one, and the link-local address", &["fd00:1::5"], &["ff02::1:ff00:5", "ff02::1:ff4b:9c07"]),
            ("the same group", &["fd00:1::4b:9c07", "fd00:2::4b:9c07"], &["ff02::1:ff4b:9c07"]),
        ] {
            let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
            let expect: BTreeSet<Ipv6Addr> = expect.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(of(MAC, addresses), expect, "{what}");
        }
    }

    #[test]
    fn a_report_names_the_groups_and_has_a_right_checksum() {
        let frame = report(MAC, &["ff02::1:ff00:5".parse().unwrap()].into()).unwrap();
        #[rustfmt::skip]
        let expect = [
            0x33, 0x33, 0x00, 0x00, 0x00, 0x16, 0xfa, 0x16, 0x3e, 0x4b, 0x9c, 0x07, 0x86, 0xdd,
            0x60, 0x00, 0x00, 0x00, 0x00, 0x24, 0x00, 0x01,
            0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0xf8, 0x16, 0x3e, 0xff, 0xfe, 0x4b, 0x9c, 0x07,
            0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x16,
            0x3a, 0x00, 0x05, 0x02, 0x00, 0x00, 0x01, 0x00,
            0x8f, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01,
            0x04, 0x00, 0x00, 0x00,
            0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0xff, 0x00, 0x00, 0x05,
        ];
        let mut without = frame.clone();
        without[64..66].fill(0);
        assert_eq!(without, expect);
        // A receiver sums everything, the checksum included, to nothing.
        assert_eq!(checksum(&frame[22..54], 58, &frame[62..]), 0);
        assert_eq!(report(MAC, &BTreeSet::new()), None);
    }
}
