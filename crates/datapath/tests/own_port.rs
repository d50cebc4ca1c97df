//! The node's own port beside its pods', and finding pods by their namespaces.
//!
//! Needs root.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod world;

use std::{
    net::IpAddr,
    path::Path,
    process::{Child, Command},
};

use ipnet::IpNet;
use kuryr_datapath::{Offloads, OwnPortSpec, Route, live};
use world::{Space, TestNode, mac, pod_links, until};

fn spec(addresses: &[&str]) -> OwnPortSpec {
    let net = |text: &str| -> IpNet { text.parse().unwrap() };
    OwnPortSpec {
        tap: "tapown".into(),
        hybrid: None,
        ifname: "own0".into(),
        mac: mac(200),
        mtu: 1442,
        offloads: Offloads::Off,
        addresses: addresses.iter().map(|text| net(text)).collect(),
        routes: vec![Route { dst: net("10.2.0.0/16"), via: Some("10.1.0.254".parse().unwrap()) }],
        apart: addresses.iter().map(|text| net(text).addr()).collect(),
    }
}

/// A machine on the same network that is no pod of this node.
fn remote(node: &TestNode) -> Space {
    let space = Space::new("remote");
    node.space.sh(&format!(
        "ip link add far0 type veth peer name eth0 netns {}; ip link set far0 master br-test; ip link set far0 up",
        space.name
    ));
    space.sh(
        "ip addr add 10.1.0.50/24 dev eth0; ip addr add fd00:1::50/64 dev eth0 nodad; ip link set eth0 up",
    );
    space
}

#[test]
fn the_node_reaches_remote_pods_by_its_own_port_and_its_own_directly() {
    let node = TestNode::new();
    let (remote, pod) = (remote(&node), node.pod(1));
    let addresses = ["10.1.0.200/24", "fd00:1::c8/64"];
    let index = node.within(|node| node.prepare_own_port(&spec(&addresses))).unwrap();
    node.space.sh("ip link set tapown master br-test");
    for to in ["10.1.0.50", "fd00:1::50"] {
        let to: IpAddr = to.parse().unwrap();
        assert_eq!(node.space.ping(to, 3), 3, "{to}");
        assert!(node.space.tcp(&remote, to), "{to}");
    }
    assert_eq!(remote.ping("10.1.0.200".parse::<IpAddr>().unwrap(), 3), 3);
    let before = node.counters(&pod).local_rx_packets;
    for to in [pod.v4(), pod.v6()] {
        assert_eq!(node.space.ping(to, 3), 3, "{to}");
    }
    assert!(node.counters(&pod).local_rx_packets >= before + 6, "by the local path");
    assert!(node.space.sh("ip route show dev own0").contains("10.2.0.0/16 via 10.1.0.254"));

    // Again is the same; other addresses replace these; it can be removed, twice.
    assert_eq!(node.within(|node| node.prepare_own_port(&spec(&addresses))).unwrap(), index);
    assert_eq!(node.within(|node| node.prepare_own_port(&spec(&["10.1.0.201/24"]))).unwrap(), index);
    let shown = node.space.sh("ip addr show dev own0");
    assert!(shown.contains("10.1.0.201/24") && !shown.contains("10.1.0.200"), "{shown}");
    assert!(!shown.contains("fd00:1::c8"), "{shown}");
    assert!(node.space.sh("ip route show dev own0").contains("10.2.0.0/16 via 10.1.0.254"));
    node.within(|node| node.remove_own_port("own0")).unwrap();
    node.within(|node| node.remove_own_port("own0")).unwrap();
}

#[test]
fn pods_are_found_by_their_namespaces() {
    let node = TestNode::new();
    let uplink = node.uplink(1);
    let pod = node.attach(pod_links(1, uplink.ifindex));
    let found = node.within(|_| live::interfaces(Path::new("/run/netns"))).unwrap();
    let ours: Vec<_> = found.iter().filter(|found| found.netns == pod.links.netns).collect();
    assert_eq!(ours.len(), 1, "{found:?}");
    assert_eq!(
        (ours[0].ifname.as_str(), ours[0].mac, ours[0].id),
        ("eth0", pod.links.mac, pod.attached.netns)
    );
}

/// Open vSwitch's userspace datapath reads all routes anew after any change of links, addresses or routes, and loses
/// what it would send through a tunnel meanwhile.
#[test]
fn an_own_port_that_is_as_asked_for_is_not_touched() {
    let node = TestNode::new();
    let spec = spec(&["10.1.0.200/24", "fd01::200/64"]);
    node.within(|node| node.prepare_own_port(&spec)).unwrap();
    let told = changes_during(&node, || {
        node.within(|node| node.prepare_own_port(&spec)).unwrap();
    });
    assert_eq!(told, Vec::<String>::new());
}

/// `ip monitor`; it ends with the test, also when that fails.
struct Monitor(Child);

impl Drop for Monitor {
    fn drop(&mut self) {
        // One that has ended by itself cannot be killed, and has nothing to say any more.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What the kernel tells of links, addresses and routes of the node while `work` runs.
fn changes_during(node: &TestNode, work: impl FnOnce()) -> Vec<String> {
    let log = tempfile::NamedTempFile::new().unwrap();
    let log_file = log.reopen().unwrap();
    let _monitor = Monitor(node.space.within(|| {
        let mut command = Command::new("ip");
        command.args(["-o", "monitor", "link", "address", "route"]).stdout(log_file).spawn().unwrap()
    }));
    let read = || std::fs::read_to_string(log.path()).unwrap();
    // The monitor hears these; what lies between them came from the work.
    let mark = |dst: &str| {
        until("the monitor hears", || {
            // Deleted again each time: of a route that is there already the kernel tells nothing.
            node.space.sh(&format!("ip route add {dst} dev lan0; ip route del {dst} dev lan0"));
            read().contains(dst)
        });
    };
    mark("203.0.113.1");
    let before = read().lines().count();
    work();
    mark("203.0.113.2");
    let lines: Vec<String> = read().lines().skip(before).map(str::to_owned).collect();
    lines.into_iter().filter(|line| !line.contains("203.0.113.")).collect()
}
