//! Pods on VLANs of a shared uplink: two nodes, the trunk between them, and a pod on each.
//!
//! The node on the far side pushes and pops tags by the same programs. Needs root.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod world;

use std::net::IpAddr;

use kuryr_datapath::{Error, JoinChoice, PodLinks, Uplink};
use world::{TestNode, TestPod, mac, pod_links, until};

struct Trunk {
    near: TestNode,
    far: TestNode,
    near_uplink: Uplink,
    far_uplink: Uplink,
}

fn trunk(foreign_vlans: bool) -> Trunk {
    let (near, far) = (TestNode::new(), TestNode::new());
    near.space.sh(&format!(
        "ip link add trunk0 type veth peer name trunk0 netns {}
         ip addr add 172.31.0.1/24 dev trunk0; ip addr add fd00:31::1/64 dev trunk0 nodad; ip link set trunk0 up",
        far.space.name
    ));
    far.space.sh(
        "ip addr add 172.31.0.2/24 dev trunk0; ip addr add fd00:31::2/64 dev trunk0 nodad; ip link set trunk0 up",
    );
    let share =
        |node: &TestNode| node.within(|node| node.adopt_shared_uplink("trunk0", foreign_vlans)).unwrap();
    let (near_uplink, far_uplink) = (share(&near), share(&far));
    Trunk { near, far, near_uplink, far_uplink }
}

fn pod(node: &TestNode, uplink: &Uplink, number: u8, vlan: u16) -> TestPod {
    node.attach(PodLinks { vlan: Some(vlan), mtu: 1400, ..pod_links(number, uplink.ifindex) })
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn pods_of_one_vlan_reach_each_other_and_nobody_else() {
    let Trunk { near, far, near_uplink, far_uplink } = trunk(false);
    let (one, two) = (pod(&near, &near_uplink, 1, 101), pod(&far, &far_uplink, 2, 101));
    let (three, four) = (pod(&near, &near_uplink, 3, 102), pod(&far, &far_uplink, 4, 102));
    for (a, b) in [(&one, &two), (&three, &four)] {
        for to in [b.v4(), b.v6()] {
            assert_eq!(a.space.ping(to, 5), 5, "{to}");
            assert!(a.space.tcp(&b.space, to), "{to}");
        }
    }
    for (a, b) in [(&one, &four), (&one, &three), (&three, &two)] {
        assert_eq!(a.space.ping(b.v4(), 2), 0);
        assert_eq!(a.space.ping(b.v6(), 2), 0);
    }
    for (node, pod) in [(&near, &one), (&far, &two)] {
        let counters = node.counters(pod);
        assert_eq!((counters.spoofed, counters.foreign), (0, 0), "{counters:?}");
    }
    assert_eq!(near.space.ping(one.v4(), 3), 3, "the local path does not care for VLANs");
}

#[test]
fn the_nodes_own_untagged_traffic_goes_on() {
    let Trunk { near, far, near_uplink, far_uplink } = trunk(false);
    let _pods = (pod(&near, &near_uplink, 1, 101), pod(&far, &far_uplink, 2, 101));
    for to in ["172.31.0.2", "fd00:31::2"] {
        assert_eq!(near.space.ping(address(to), 3), 3, "{to}");
    }
    assert!(near.space.tcp(&far.space, address("172.31.0.2")));
    drop(far);
}

#[test]
fn frames_on_the_trunk_are_tagged() {
    let Trunk { near, far, near_uplink, .. } = trunk(false);
    let one = pod(&near, &near_uplink, 1, 101);
    // A pod of the far node that is not attached: what arrives stays tagged and is nobody's.
    far.space.sh("nft add table netdev t");
    far.space.sh("nft add chain netdev t c '{ type filter hook ingress device trunk0 priority 0; }'");
    far.space.sh("nft add rule netdev t c vlan id 101 vlan type arp counter");
    let arp =
        [&[0xff; 6][..], &mac(1).0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac(1).0, &[10, 1, 0, 1], &[0; 10]]
            .concat();
    one.send(&vec![arp.clone(); 3]);
    // Only ARP is counted: the pod's own IPv6 reports its groups whenever it likes.
    // Ingress rules of netfilter see what the programs let through; with foreign VLANs refused that is nothing.
    assert!(far.space.sh("nft list table netdev t").contains("packets 0"));
    far.within(|node| node.adopt_shared_uplink("trunk0", true)).unwrap();
    one.send(&vec![arp; 3]);
    // Frames may still be on their way when the sender is done.
    until("the frames are counted", || far.space.sh("nft list table netdev t").contains("packets 3 "));
}

#[test]
fn a_vlan_that_passes_to_another_pod_is_that_pods() {
    let Trunk { near, far, near_uplink, far_uplink } = trunk(false);
    let two = pod(&far, &far_uplink, 2, 101);
    let one = pod(&near, &near_uplink, 1, 101);
    assert_eq!(one.space.ping(two.v4(), 2), 2);
    near.within(|node| node.cut(one.host_ifindex)).unwrap();
    let next = pod(&near, &near_uplink, 5, 101);
    assert_eq!(next.space.ping(two.v4(), 2), 2);
    assert_eq!(one.space.ping(two.v4(), 2), 0);
    // Cutting the first once more does not cut the next.
    near.within(|node| node.cut(one.host_ifindex)).unwrap();
    assert_eq!(next.space.ping(two.v4(), 2), 2);
}

#[test]
fn without_ebpf_there_are_no_vlans() {
    let node = TestNode::with(|config| config.joining = JoinChoice::Macvlan);
    let shared = node.within(|node| node.adopt_shared_uplink("lan0", false));
    assert!(matches!(shared, Err(Error::NeedsJoint { .. })), "{shared:?}");
    let space = world::Space::new("pod");
    let links = PodLinks { netns: space.path(), vlan: Some(5), ..pod_links(1, 2) };
    let attached = node.within(|node| node.attach(&links));
    assert!(matches!(attached, Err(Error::NeedsJoint { .. })), "{attached:?}");
}
