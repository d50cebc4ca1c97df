//! A bridge between a port's tap and the integration bridge, as Neutron's iptables firewall wants it.
//!
//! Needs root.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod world;

use std::net::IpAddr;

use kuryr_datapath::{Error, HybridSpec, Offloads, OwnPortSpec, UplinkSpec};
use world::{Space, TestNode, mac, pod_links, uplink_spec};

fn hybrid(number: u8) -> HybridSpec {
    HybridSpec {
        bridge: format!("qbr{number}"),
        inner: format!("qvb{number}"),
        outer: format!("qvo{number}"),
    }
}

fn spec(number: u8) -> UplinkSpec {
    UplinkSpec { hybrid: Some(hybrid(number)), ..uplink_spec(number) }
}

fn taps(node: &TestNode) -> Vec<Option<String>> {
    node.within(|node| node.uplinks()).unwrap().into_iter().map(|uplink| uplink.tap).collect()
}

#[test]
fn pods_talk_over_the_bridge_in_between_and_rules_on_its_ports_hold() {
    let node = TestNode::new();
    let uplink = node.within(|node| node.prepare_uplink(&spec(1))).unwrap();
    assert_eq!(uplink.tap.as_deref(), Some("qvo1"));
    node.space.sh("ip link set qvo1 master br-test");
    let one = node.attach(pod_links(1, uplink.ifindex));
    let two = node.pod(2);
    for to in [two.v4(), two.v6()] {
        assert_eq!(one.space.ping(to, 3), 3, "{to}");
        assert!(one.space.tcp(&two.space, to), "{to}");
    }
    assert_eq!(two.space.ping(one.v4(), 3), 3);
    // The names by which Neutron's agent filters: the tap for what the pod sends and gets.
    for (rule, what) in [("iif", "from"), ("oif", "to")] {
        node.space.sh(&format!(
            "nft add table bridge t; nft add chain bridge t c '{{ type filter hook forward priority 0; }}'
             nft add rule bridge t c {rule}name tap1 ip protocol icmp drop"
        ));
        assert_eq!(two.space.ping(one.v4(), 1), 0, "{what} the pod");
        node.space.sh("nft delete table bridge t");
    }
    assert_eq!(two.space.ping(one.v4(), 3), 3);
}

#[test]
fn the_bridge_passes_on_and_is_nobody_itself() {
    let node = TestNode::new();
    node.within(|node| node.prepare_uplink(&spec(1))).unwrap();
    let shown = node.space.sh("ip -d link show qbr1");
    for expect in ["NOARP", "stp_state 0", "ageing_time 0", "mcast_snooping 0", "forward_delay 0"] {
        assert!(shown.contains(expect), "{expect} in {shown}");
    }
    for name in ["qbr1", "qvb1", "qvo1", "tap1"] {
        assert_eq!(
            node.space.sh(&format!("cat /proc/sys/net/ipv6/conf/{name}/disable_ipv6")).trim(),
            "1",
            "{name}"
        );
    }
    let ports = node.space.sh("ip -o link show master qbr1");
    assert!(ports.contains("tap1@") && ports.contains("qvb1@") && ports.lines().count() == 2, "{ports}");
}

#[test]
fn what_is_missing_is_made_and_all_of_it_goes() {
    let node = TestNode::new();
    let before = node.space.links();
    // A plain uplink whose port is filtered from now on.
    node.within(|node| node.prepare_uplink(&uplink_spec(1))).unwrap();
    assert_eq!(taps(&node), [Some("tap1".to_owned())]);
    for damage in ["true", "ip link del qvb1", "ip link del qbr1", "ip link set tap1 nomaster"] {
        node.space.sh(damage);
        node.within(|node| node.prepare_uplink(&spec(1))).unwrap();
        node.space.sh("ip link set qvo1 master br-test");
        assert_eq!(taps(&node), [Some("qvo1".to_owned())], "after {damage}");
        let made = node.space.sh("ip -o link show master qbr1");
        assert_eq!(made.lines().count(), 2, "after {damage}: {made}");
    }
    node.within(|node| node.remove_uplink("qvo1")).unwrap();
    node.within(|node| node.remove_uplink("qvo1")).unwrap();
    assert_eq!(node.space.links(), before);
    // Half of it.
    node.within(|node| node.prepare_uplink(&spec(1))).unwrap();
    node.space.sh("ip link del qvb1");
    assert_eq!(taps(&node), [Some("tap1".to_owned())]);
    node.within(|node| node.remove_uplink("tap1")).unwrap();
    assert_eq!(node.space.links(), before);
}

#[test]
fn links_of_others_are_not_touched() {
    let node = TestNode::new();
    node.space.sh("ip link add qbr1 type bridge");
    let taken = node.within(|node| node.prepare_uplink(&spec(1))).unwrap_err();
    assert!(matches!(&taken, Error::LinkTaken { name } if name == "qbr1"), "{taken}");
    node.space.sh("ip link del qbr1; ip link add qvb1 type veth peer name other");
    let taken = node.within(|node| node.prepare_uplink(&spec(1))).unwrap_err();
    assert!(matches!(&taken, Error::LinkTaken { name } if name == "qvb1"), "{taken}");
    // A bridge of others that a tap is on stays when the tap goes.
    node.uplink(2);
    node.within(|node| node.remove_uplink("tap2")).unwrap();
    node.space.sh("ip link show br-test");
}

#[test]
fn the_nodes_own_port_has_such_a_bridge_too() {
    let node = TestNode::new();
    let spec = OwnPortSpec {
        tap: "tapown".into(),
        hybrid: Some(HybridSpec { bridge: "qbrown".into(), inner: "qvbown".into(), outer: "qvoown".into() }),
        ifname: "own0".into(),
        mac: mac(200),
        mtu: 1442,
        offloads: Offloads::Off,
        addresses: vec!["10.1.0.200/24".parse().unwrap()],
        routes: vec![],
        apart: vec![],
    };
    for _ in 0..2 {
        node.within(|node| node.prepare_own_port(&spec)).unwrap();
    }
    node.space.sh("ip link set qvoown master br-test");
    let remote = Space::new("remote");
    node.space.sh(&format!(
        "ip link add far0 type veth peer name eth0 netns {}; ip link set far0 master br-test; ip link set far0 up",
        remote.name
    ));
    remote.sh("ip addr add 10.1.0.50/24 dev eth0; ip link set eth0 up");
    assert_eq!(node.space.ping("10.1.0.50".parse::<IpAddr>().unwrap(), 3), 3);
    assert_eq!(remote.ping("10.1.0.200".parse::<IpAddr>().unwrap(), 3), 3);
    node.space.sh("ip link set qvoown down; ip link set qbrown down; ip link set own0 down");
    let mut down = node.within(|node| node.all_uplinks("own0")).unwrap().down;
    down.sort();
    assert_eq!(down, ["own0", "qbrown", "qvoown"]);
    node.within(|node| node.bring_up(&down)).unwrap();
    assert_eq!(node.within(|node| node.all_uplinks("own0")).unwrap().down, [""; 0]);
    node.within(|node| node.remove_own_port("own0")).unwrap();
    let names = |links: Vec<(u32, String)>| links.into_iter().map(|(_, name)| name).collect::<Vec<_>>();
    let left = names(node.space.links());
    for name in ["qbrown", "qvbown", "qvoown", "tapown", "own0"] {
        assert!(!left.contains(&name.to_owned()), "{name} in {left:?}");
    }
}
