//! The local path: the node and its own pods talk directly, and nobody else by it.
//!
//! Needs root.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod world;

use std::net::IpAddr;

use kuryr_datapath::{Error, JoinChoice, Node};
use world::{NODE_V4, NODE_V6, OUTSIDE_V4, OUTSIDE_V6, TestNode, TestPod, node_addresses, uplink_spec};

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn node_and_pod_talk_directly_in_both_families() {
    let node = TestNode::new();
    let pod = node.pod(1);
    for (mine, the_pods) in [(address(NODE_V4), pod.v4()), (address(NODE_V6), pod.v6())] {
        assert_eq!(node.space.ping(the_pods, 5), 5, "node to {the_pods}");
        assert_eq!(pod.space.ping(mine, 5), 5, "pod to {mine}");
        assert!(node.space.tcp(&pod.space, the_pods), "node to {the_pods}");
        assert!(pod.space.tcp(&node.space, mine), "pod to {mine}");
    }
    let counters = node.counters(&pod);
    assert!(counters.local_rx_packets > 20 && counters.local_tx_packets > 20, "{counters:?}");
    assert_eq!((counters.spoofed, counters.refused, counters.foreign), (0, 0, 0), "{counters:?}");
    // The node's packets came from the address that the pod knows a way back to.
    let routes = node.space.sh("ip route get 10.1.0.1; ip -6 route get fd00:1::1");
    assert!(
        routes.contains(&format!("src {NODE_V4}")) && routes.contains(&format!("src {NODE_V6}")),
        "{routes}"
    );
}

/// A node that would forward, and a machine outside that sends it what is for the pod.
fn forwarding(node: &TestNode) {
    node.space.sh("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
         echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter; echo 0 > /proc/sys/net/ipv4/conf/default/rp_filter");
    node.outside
        .sh(&format!("ip route add 10.1.0.0/24 via {NODE_V4}; ip -6 route add fd00:1::/64 via {NODE_V6}"));
}

#[test]
fn what_the_node_forwards_does_not_reach_a_pod() {
    let node = TestNode::new();
    forwarding(&node);
    let pod = node.pod(1);
    assert_eq!(node.outside.ping(address(NODE_V4), 1), 1);
    for to in [pod.v4(), pod.v6()] {
        assert_eq!(node.outside.ping(to, 4), 0, "{to}");
    }
    assert_eq!(node.guarded("oifgroup"), 8, "the guard drops first");

    // Without the guard the program does it.
    node.space.sh("nft delete table inet kuryr");
    for to in [pod.v4(), pod.v6()] {
        assert_eq!(node.outside.ping(to, 4), 0, "{to}");
    }
    assert_eq!(node.counters(&pod).foreign, 8);

    // And it can be had back.
    node.within(|node| node.ensure_guard()).unwrap();
    assert_eq!(node.outside.ping(pod.v4(), 2), 0);
    assert_eq!(node.guarded("oifgroup"), 2);
    assert_eq!(node.space.ping(pod.v4(), 2), 2);
}

#[test]
fn what_is_translated_on_the_node_does_not_reach_a_pod() {
    let node = TestNode::new();
    let pod = node.pod(1);
    node.space.sh("nft add table ip t; nft add chain ip t out '{ type nat hook output priority -100; }'
         nft add rule ip t out ip daddr 198.51.100.1 dnat to 10.1.0.1
         ip route add 198.51.100.0/24 via 192.0.2.2");
    // A connected socket's packet has a destination that the socket does not know of.
    let output = node.space.try_sh(
        "timeout 3 bash -c 'echo hello > /dev/tcp/198.51.100.1/9'; timeout 10 bash -c 'echo hello > /dev/udp/198.51.100.1/9'",
    );
    drop(output);
    let counters = node.counters(&pod);
    assert!(counters.foreign >= 2, "{counters:?}");
    assert_eq!(counters.local_rx_packets, 0, "{counters:?}");
}

#[test]
fn a_pod_reaches_nothing_but_node_addresses_by_its_host_end() {
    let node = TestNode::new();
    forwarding(&node);
    let pod = node.pod(1);
    let counted = |pod: &TestPod| node.counters(pod).refused;
    // The way to the outside machine, by the host end's hardware address.
    let host_mac = pod.attached.host_mac;
    for (to, family) in [(OUTSIDE_V4, "-4"), (OUTSIDE_V6, "-6")] {
        let host_route = if family == "-4" { "32" } else { "128" };
        pod.space.sh(&format!(
            "ip {family} neigh replace {to} lladdr {host_mac} dev eth0 nud permanent
             ip {family} route add {to}/{host_route} dev eth0"
        ));
        let before = counted(&pod);
        assert_eq!(pod.space.ping(address(to), 3), 0, "{to}");
        assert_eq!(counted(&pod) - before, 3, "{to}");
    }
    // A node address that is not in the set is one like any other.
    node.within(|node| node.set_node_addresses(&[address(NODE_V6)])).unwrap();
    let before = counted(&pod);
    assert_eq!(pod.space.ping(address(NODE_V4), 3), 0);
    assert_eq!(counted(&pod) - before, 3);
    assert_eq!(pod.space.ping(address(NODE_V6), 3), 3);
    node.within(|node| node.set_node_addresses(&node_addresses())).unwrap();
    assert_eq!(pod.space.ping(address(NODE_V4), 3), 3);
}

#[test]
fn a_pod_without_its_program_is_closed_by_the_guard() {
    let node = TestNode::new();
    forwarding(&node);
    let pod = node.pod(1);
    assert_eq!(pod.space.ping(address(NODE_V4), 3), 3);
    assert_eq!(node.guarded("iifgroup 27509 meta mark"), 0);

    node.detach("krp1");
    for to in [NODE_V4, NODE_V6, OUTSIDE_V4] {
        pod.space.sh(&format!(
            "ip route replace {to} dev eth0; ip neigh replace {to} lladdr {} dev eth0",
            pod.attached.host_mac
        ));
        assert_eq!(pod.space.ping(address(to), 3), 0, "{to}");
    }
    // The pod's kernel may have had something to say by itself.
    assert!(node.guarded("iifgroup 27509 meta mark") >= 9);
    assert_eq!(node.outside.ping(pod.v4(), 3), 0, "nor does the node forward to it");
    let netns = pod.links.netns.clone();
    assert!(!node.within(|node| node.is_joined("krp1", pod.host_ifindex, &netns)).unwrap());

    // Attaching again heals it.
    node.within(|node| node.attach(&pod.links)).unwrap();
    assert_eq!(pod.space.ping(address(NODE_V4), 3), 3);
    assert!(node.within(|node| node.is_joined("krp1", pod.host_ifindex, &netns)).unwrap());
}

#[test]
fn an_uplink_without_its_program_is_closed_by_the_guard() {
    let node = TestNode::new();
    forwarding(&node);
    let (one, two) = (node.pod(1), node.pod(2));
    // Known to each other, so that nothing waits for an answer to ARP.
    assert_eq!(one.space.ping(two.v4(), 1), 1);
    node.detach("kru2");
    assert_eq!(one.space.ping(two.v4(), 3), 0);
    // What arrives goes to the port's hardware address, which the uplink's end has: the node would take it.
    assert!(node.guarded("iifgroup 27510") >= 3);
    assert_eq!(node.guarded("oifgroup"), 0);
}

#[test]
fn the_mark_is_the_configured_one() {
    const MARK: u32 = 0x0000_0800;
    let node = TestNode::with(|config| config.local_mark = MARK);
    let pod = node.pod(1);
    node.space.sh("nft add table inet t; nft add chain inet t c '{ type filter hook input priority 0; }'");
    node.space.sh("nft add rule inet t c meta mark 0x800 counter");
    assert_eq!(pod.space.ping(address(NODE_V4), 3), 3);
    assert!(node.space.sh("nft list table inet t").contains("counter packets 3"));
}

#[test]
fn a_family_without_a_node_address_has_no_local_path() {
    let node = TestNode::new();
    let uplink = node.uplink(1);
    let links = world::pod_links(1, uplink.ifindex);
    let pod = node.attach(kuryr_datapath::PodLinks { node_addresses: vec![address(NODE_V4)], ..links });
    assert_eq!(node.space.ping(pod.v4(), 2), 2);
    assert_eq!(node.space.ping(pod.v6(), 2), 0);
}

#[test]
fn a_node_address_that_was_away_for_a_moment_has_its_routes_again() {
    let node = TestNode::new();
    let (one, two) = (node.pod(1), node.pod(2));
    let restore = || node.within(|node| node.restore_local_path(&node_addresses())).unwrap();
    assert_eq!(restore(), 0);
    node.space.sh(&format!("ip addr del {NODE_V4}/24 dev lan0; ip addr del {NODE_V6}/64 dev lan0"));
    node.space.sh(&format!("ip addr add {NODE_V4}/24 dev lan0; ip addr add {NODE_V6}/64 dev lan0 nodad"));
    assert_eq!(node.space.ping(one.v4(), 1), 0, "the kernel does not bring them back");
    assert_eq!(restore(), 4);
    assert_eq!(restore(), 0);
    // One that is cut off gets none.
    node.within(|node| node.cut(two.host_ifindex)).unwrap();
    node.within(|node| node.clear(two.host_ifindex)).unwrap();
    assert_eq!(restore(), 0);
    for to in [one.v4(), one.v6()] {
        assert_eq!(node.space.ping(to, 3), 3, "{to}");
    }
}

/// Stands in for `nft` on a kernel without some families: refuses rules that name one, and hands others on.
fn nft_without(families: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("nft");
    let script = format!(
        "#!/bin/sh\nrules=$(cat)\nif echo \"$rules\" | grep -qE '^table ({families}) '; then exit 1; fi\n\
         echo \"$rules\" | exec nft \"$@\"\n"
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    (folder, program)
}

#[test]
fn a_kernel_without_a_family_for_both_has_a_guard_for_each() {
    let (_folder, nft) = nft_without("inet");
    let node = TestNode::with(|config| (config.joining, config.nft) = (JoinChoice::Ebpf, nft));
    forwarding(&node);
    let pod = node.pod(1);
    for to in [pod.v4(), pod.v6()] {
        assert_eq!(node.outside.ping(to, 4), 0, "{to}");
    }
    assert_eq!(node.guarded("oifgroup"), 8, "four by each");
    node.within(|node| node.ensure_guard()).unwrap();
    assert_eq!(node.guarded("oifgroup"), 0, "made anew, not twice");
}

#[test]
fn a_kernel_without_any_family_is_refused_where_the_guard_is_needed() {
    let (_folder, nft) = nft_without("inet|ip|ip6");
    let node =
        TestNode::with(|config| (config.joining, config.nft) = (JoinChoice::SubInterface, nft.clone()));
    node.within(|node| node.ensure_guard()).unwrap();
    let uplink = node.within(|node| node.prepare_uplink(&uplink_spec(1)));
    assert!(matches!(uplink, Err(Error::NftRefused { .. })), "{uplink:?}");
    let mut config = node.config.clone();
    config.joining = JoinChoice::Ebpf;
    let other = node.space.within(|| Node::open(config));
    assert!(matches!(other, Err(Error::NftRefused { .. })), "{other:?}");
}
