//! Pods of a server of the cloud without VLANs: each by a macvlan on the server's own interface.
//!
//! Needs root.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod world;

use std::net::IpAddr;

use kuryr_datapath::{Error, JoinChoice, MacvlanSpec, PodLinks, Uplink};
use world::{NODE_V4, NODE_V6, OUTSIDE_V4, OUTSIDE_V6, TestNode, TestPod, mac, pod_links};

/// A link-local network of its own, which node, outside and pods share.
fn node() -> TestNode {
    TestNode::new()
}

fn lower(node: &TestNode) -> u32 {
    node.space.links().into_iter().find(|(_, name)| name == "lan0").unwrap().0
}

fn macvlan(node: &TestNode, number: u8) -> Uplink {
    let spec = MacvlanSpec { ifname: format!("kru{number}"), lower: lower(node), mac: mac(number) };
    node.within(|node| node.prepare_macvlan(&spec)).unwrap()
}

/// A pod in the network that the node and the outside are in.
fn links(number: u8, uplink: u32) -> PodLinks {
    let address = |text: String| text.parse().unwrap();
    PodLinks {
        addresses: vec![
            address(format!("192.0.2.1{number}/24")),
            address(format!("2001:db8:1::1{number}/64")),
        ],
        routes: vec![],
        mtu: 1400,
        ..pod_links(number, uplink)
    }
}

fn pod(node: &TestNode, number: u8) -> TestPod {
    node.attach(links(number, macvlan(node, number).ifindex))
}

#[test]
fn pods_reach_the_network_each_other_and_their_node() {
    let node = node();
    let (one, two) = (pod(&node, 1), pod(&node, 2));
    for (outside, the_node, ones, twos) in
        [(OUTSIDE_V4, NODE_V4, one.v4(), two.v4()), (OUTSIDE_V6, NODE_V6, one.v6(), two.v6())]
    {
        let [outside, the_node]: [IpAddr; 2] = [outside.parse().unwrap(), the_node.parse().unwrap()];
        assert_eq!(one.space.ping(outside, 5), 5, "pod to {outside}");
        assert_eq!(node.outside.ping(ones, 5), 5, "outside to {ones}");
        assert!(one.space.tcp(&node.outside, outside) && node.outside.tcp(&one.space, ones), "{ones}");
        assert_eq!(one.space.ping(twos, 5), 5, "pod to {twos}");
        assert!(one.space.tcp(&two.space, twos), "pod to {twos}");
        assert_eq!(node.space.ping(ones, 5), 5, "node to {ones}");
        assert!(node.space.tcp(&one.space, ones), "node to {ones}");
        assert_eq!(one.space.ping(the_node, 5), 5, "pod to {the_node}");
        assert_eq!(node.space.ping(outside, 3), 3, "the node's own traffic goes on");
    }
    let counters = node.counters(&one);
    assert!(counters.local_rx_packets > 10 && counters.rx_packets > 10, "{counters:?}");
    assert_eq!((counters.spoofed, counters.foreign), (0, 0), "{counters:?}");
    // The outside knows the pod by its port's hardware address.
    let neighbours = node.outside.sh("ip neigh show 192.0.2.11; ip neigh show 2001:db8:1::11");
    assert_eq!(neighbours.matches(&mac(1).to_string()).count(), 2, "{neighbours}");
}

#[test]
fn a_pod_that_is_cut_off_is_silent_and_the_others_go_on() {
    let node = node();
    let (one, two) = (pod(&node, 1), pod(&node, 2));
    node.within(|node| node.cut(one.host_ifindex)).unwrap();
    for to in [OUTSIDE_V4.parse().unwrap(), two.v4(), NODE_V4.parse().unwrap()] {
        assert_eq!(one.space.ping(to, 2), 0, "{to}");
    }
    assert_eq!(node.outside.ping(one.v4(), 2), 0);
    assert_eq!(node.space.ping(one.v6(), 2), 0);
    assert_eq!(two.space.ping(OUTSIDE_V4.parse::<IpAddr>().unwrap(), 2), 2);
}

#[test]
fn a_pod_sends_under_its_own_addresses_only() {
    let node = node();
    let (one, two) = (pod(&node, 1), pod(&node, 2));
    one.space.sh("ip addr add 192.0.2.99/24 dev eth0");
    assert_eq!(one.space.try_sh("ping -c 2 -i 0.1 -W 1 -I 192.0.2.99 192.0.2.2").status.code(), Some(1));
    assert!(node.counters(&one).spoofed > 0, "{:?}", node.counters(&one));
    assert_eq!(two.space.ping(one.v4(), 2), 2);
}

#[test]
fn macvlans_outlive_the_process_and_are_found_by_the_next() {
    let mut node = node();
    let one = pod(&node, 1);
    let before = node.within(|node| node.macvlans()).unwrap();
    assert_eq!(before.len(), 1);
    let found = before["kru1"];
    assert_eq!((found.mac, found.lower, found.up), (mac(1), Some(lower(&node)), true));
    assert_eq!(node.within(|node| node.uplinks()).unwrap(), [], "none is plugged on a bridge");
    node.node = None;
    assert_eq!(one.space.ping(OUTSIDE_V4.parse::<IpAddr>().unwrap(), 2), 2, "without any process");
    node.open();
    assert_eq!(macvlan(&node, 1).ifindex, found.ifindex, "again is the same");
    assert!(node.within(|node| node.is_joined("krp1", one.host_ifindex, &one.links.netns)).unwrap());
    assert_eq!(one.space.ping(OUTSIDE_V6.parse::<IpAddr>().unwrap(), 2), 2);
    // A name that is somebody else's is left alone.
    node.space.sh("ip link add kru7 type veth peer name kru8");
    let spec = MacvlanSpec { ifname: "kru7".into(), lower: lower(&node), mac: mac(7) };
    assert!(matches!(node.within(|node| node.prepare_macvlan(&spec)), Err(Error::LinkTaken { .. })));
    assert!(matches!(node.within(|node| node.remove_macvlan("kru7")), Err(Error::LinkTaken { .. })));
    node.within(|node| node.remove_macvlan("kru1")).unwrap();
    node.within(|node| node.remove_macvlan("kru1")).unwrap();
    assert_eq!(one.space.ping(OUTSIDE_V4.parse::<IpAddr>().unwrap(), 1), 0);
}

#[test]
fn without_programs_it_is_refused() {
    let node = TestNode::with(|config| config.joining = JoinChoice::SubInterface);
    let spec = MacvlanSpec { ifname: "kru1".into(), lower: lower(&node), mac: mac(1) };
    assert!(matches!(node.within(|node| node.prepare_macvlan(&spec)), Err(Error::NoJoint)));
}
