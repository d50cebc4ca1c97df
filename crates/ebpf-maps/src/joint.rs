//! The maps of the joint between pods and uplinks.
//!
//! | map | key | value | kind |
//! |---|---|---|---|
//! | `uplinks` | [`UplinkKey`] | [`UplinkTarget`] | hash |
//! | `shared_uplinks` | interface index | [`UplinkFlags`] | hash |
//! | `pods` | index of the host end | [`Pod`] | hash |
//! | `pod_addresses` | [`PodAddress`] | `u32`, always 1 | hash |
//! | `node_addresses` | 16 bytes, see [`address_bytes`] | `u32`, always 1 | hash |
//! | `straight_pods` | 16 bytes, see [`address_bytes`] | `u32`, always 1 | hash |
//! | `told_groups` | [`PodAddress`], a multicast group | `u64`, until when reports of it are held: nanoseconds of CLOCK_MONOTONIC | hash |
//! | `counters` | index of the host end | [`PodCounters`] | per-CPU hash |
//! | `ways` | [`WayKey`] | [`Way`] | hash, the least recently used goes |
//!
//! `ways` is the programs' own.
//!
//! All integers are in host byte order, addresses in network byte order.

use core::net::IpAddr;

/// Greatest number of joined pods, and of VLANs on all uplinks of one node.
pub const MAX_PODS: u32 = 8192;
/// Greatest number of addresses of all pods of one node.
pub const MAX_POD_ADDRESSES: u32 = 65536;
/// Greatest number of addresses of the node itself.
pub const MAX_NODE_ADDRESSES: u32 = 512;

/// Greatest number of conversations of pods with their node that go by the network.
pub const MAX_WAYS: u32 = 32768;

/// Mark of packets of the node's stack to pods in `straight_pods` and back, past uplinks and with clients' own addresses.
pub const STRAIGHT_MARK: u32 = 0x6b75_0004;

/// Where a frame arrives: an uplink and the VLAN it is tagged with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct UplinkKey {
    /// Interface index of the uplink.
    pub uplink: u32,
    /// VLAN id, 0 for untagged frames.
    pub vlan: u32,
}

/// To whom a frame from an uplink belongs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UplinkTarget {
    /// Interface index of the pod's host end.
    pub host_end: u32,
    /// Hardware address of the pod's port.
    pub mac: [u8; 6],
    /// Zero.
    pub pad: [u8; 2],
}

/// What may pass an uplink that the node itself uses as well.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UplinkFlags(pub u32);

impl UplinkFlags {
    /// Untagged frames of nobody's go on to the node's own stack.
    pub const PASS_UNTAGGED: Self = Self(1);
    /// Frames with a VLAN id of nobody's go on to the node's own stack as well: the operator has VLAN
    /// interfaces of their own on this uplink.
    pub const PASS_UNKNOWN_VLANS: Self = Self(2);

    /// The interface was not promiscuous before it was taken for an uplink. Programs do not read this.
    pub const MADE_PROMISCUOUS: Self = Self(4);

    /// Both flags.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether `flag` is among these.
    #[must_use]
    pub const fn has(self, flag: Self) -> bool {
        self.0 & flag.0 == flag.0
    }
}

/// A joined pod, found by the index of its host end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Interface index of the uplink.
    pub uplink: u32,
    /// VLAN id, 0 for none.
    pub vlan: u32,
    /// Hardware address of the pod's port: the only source address that passes.
    pub mac: [u8; 6],
    /// Hardware address of the host end: the destination address of the local path.
    pub host_mac: [u8; 6],
}

/// An address from which a pod may send, or a group to which one belongs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PodAddress {
    /// Interface index of the pod's host end.
    pub host_end: u32,
    /// The address, see [`address_bytes`].
    pub address: [u8; 16],
}

/// A conversation of a pod with its node, or on the straight way with a client, who stands in the place of the node.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct WayKey {
    /// Interface index of the pod's host end.
    pub host_end: u32,
    /// The node's address, see [`address_bytes`].
    pub node: [u8; 16],
    /// The pod's address.
    pub pod: [u8; 16],
    /// The node's port in network byte order.
    pub node_port: [u8; 2],
    /// The pod's port.
    pub pod_port: [u8; 2],
    /// Number of the protocol; 0: later fragments of a datagram, whose id stands in the place of the ports.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// By whom the node's side of a conversation came, if not by the local path; zeros: the straight way.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// Hardware address.
    pub router: [u8; 6],
    /// Zero.
    pub pad: [u8; 2],
}

/// What passed and what did not, per pod. Each processor counts for itself; [`PodCounters::add`] sums up.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodCounters {
    /// Packets from the uplink into the pod.
    pub rx_packets: u64,
    /// Bytes of these, with Ethernet headers.
    pub rx_bytes: u64,
    /// Packets of the pod to the uplink.
    pub tx_packets: u64,
    /// Bytes of these, with Ethernet headers.
    pub tx_bytes: u64,
    /// Packets from the node's own stack into the pod.
    pub local_rx_packets: u64,
    /// Bytes of these.
    pub local_rx_bytes: u64,
    /// Packets of the pod to the node's own stack.
    pub local_tx_packets: u64,
    /// Bytes of these.
    pub local_tx_bytes: u64,
    /// Packets of the pod refused because they carry a source that is not the pod's.
    pub spoofed: u64,
    /// Packets of the pod refused for other reasons: neither IP nor ARP, tagged, or to the host end but not to a
    /// node address.
    pub refused: u64,
    /// Packets through the node's stack refused because the node did not generate them itself.
    pub foreign: u64,
}

impl PodCounters {
    /// The sum of two processors' counts.
    #[must_use]
    pub const fn add(self, other: Self) -> Self {
        Self {
            rx_packets: self.rx_packets.wrapping_add(other.rx_packets),
            rx_bytes: self.rx_bytes.wrapping_add(other.rx_bytes),
            tx_packets: self.tx_packets.wrapping_add(other.tx_packets),
            tx_bytes: self.tx_bytes.wrapping_add(other.tx_bytes),
            local_rx_packets: self.local_rx_packets.wrapping_add(other.local_rx_packets),
            local_rx_bytes: self.local_rx_bytes.wrapping_add(other.local_rx_bytes),
            local_tx_packets: self.local_tx_packets.wrapping_add(other.local_tx_packets),
            local_tx_bytes: self.local_tx_bytes.wrapping_add(other.local_tx_bytes),
            spoofed: self.spoofed.wrapping_add(other.spoofed),
            refused: self.refused.wrapping_add(other.refused),
            foreign: self.foreign.wrapping_add(other.foreign),
        }
    }
}

/// An address of either family as 16 bytes: IPv4 is mapped (`::ffff:a.b.c.d`), so that one map serves both.
#[must_use]
pub const fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(feature = "aya")]
mod loader {
    //! Promises to the loader that any bytes of the right size are a value, and that a value has no
    //! byte that is not initialised.
    #![allow(unsafe_code)]

    use super::{Pod, PodAddress, PodCounters, UplinkFlags, UplinkKey, UplinkTarget};

    // SAFETY: `repr(C)` of two u32, no padding, any bit pattern is valid.
    unsafe impl aya::Pod for UplinkKey {}
    // SAFETY: `repr(C)` of u32 and bytes filled up to a multiple of 4, any bit pattern is valid.
    unsafe impl aya::Pod for UplinkTarget {}
    // SAFETY: a transparent u32.
    unsafe impl aya::Pod for UplinkFlags {}
    // SAFETY: `repr(C)` of u32 and bytes that end on a multiple of 4, any bit pattern is valid.
    unsafe impl aya::Pod for Pod {}
    // SAFETY: `repr(C)` of u32 and 16 bytes, no padding, any bit pattern is valid.
    unsafe impl aya::Pod for PodAddress {}
    // SAFETY: `repr(C)` of u64 only, any bit pattern is valid.
    unsafe impl aya::Pod for PodCounters {}
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    /// The same figures stand as `_Static_assert` in `joint.h`.
    #[test]
    fn layouts_are_those_of_the_programs() {
        for (name, got, expect) in [
            ("uplink_key", size_of::<UplinkKey>(), 8),
            ("uplink_key.vlan", offset_of!(UplinkKey, vlan), 4),
            ("uplink_target", size_of::<UplinkTarget>(), 12),
            ("uplink_target.mac", offset_of!(UplinkTarget, mac), 4),
            ("uplink flags", size_of::<UplinkFlags>(), 4),
            ("pod", size_of::<Pod>(), 20),
            ("pod.vlan", offset_of!(Pod, vlan), 4),
            ("pod.mac", offset_of!(Pod, mac), 8),
            ("pod.host_mac", offset_of!(Pod, host_mac), 14),
            ("pod_address", size_of::<PodAddress>(), 20),
            ("pod_address.address", offset_of!(PodAddress, address), 4),
            ("way_key", size_of::<WayKey>(), 44),
            ("way_key.node_port", offset_of!(WayKey, node_port), 36),
            ("way_key.protocol", offset_of!(WayKey, protocol), 40),
            ("way", size_of::<Way>(), 8),
            ("pod_counters", size_of::<PodCounters>(), 88),
            ("pod_counters.local_rx_packets", offset_of!(PodCounters, local_rx_packets), 32),
            ("pod_counters.spoofed", offset_of!(PodCounters, spoofed), 64),
            ("pod_counters.foreign", offset_of!(PodCounters, foreign), 80),
        ] {
            assert_eq!(got, expect, "{name}");
        }
    }

    #[test]
    fn one_form_serves_both_families() {
        let v4 = address_bytes([10, 0, 0, 5].into());
        assert_eq!(v4, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 5]);
        let v6 = address_bytes([0xfd00, 0, 0, 0, 0, 0, 0, 5].into());
        assert_eq!(v6, [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
    }
}
