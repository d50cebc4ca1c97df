//! Pods joined to uplinks by eBPF, on a real kernel: they reach each other, and nothing passes that they are not.
//!
//! Needs root.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod world;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kuryr_datapath::{Announcement, Entry, Error, PodCounters, PodLinks, Route};
use kuryr_types::MacAddr;
use world::{Space, TestNode, mac, node_addresses, pod_links, until, uplink_spec};

#[test]
fn pods_reach_each_other_in_both_families() {
    let node = TestNode::new();
    let (one, two) = (node.pod(1), node.pod(2));
    for address in [two.v4(), two.v6()] {
        assert_eq!(one.space.ping(address, 5), 5, "{address}");
        assert!(one.space.tcp(&two.space, address), "{address}");
    }
    let counters = node.counters(&one);
    assert_eq!((counters.spoofed, counters.refused, counters.foreign), (0, 0, 0), "{counters:?}");
    assert!(counters.tx_packets > 10 && counters.rx_packets > 10, "{counters:?}");
    assert!(counters.tx_bytes > 1 << 20 && counters.rx_bytes > 1 << 20, "{counters:?}");
}

#[test]
fn an_attached_interface_is_what_was_asked_for() {
    let node = TestNode::new();
    let pod = node.pod(1);
    let observed = node.within(|node| node.observe(&pod.links.netns, "eth0")).unwrap().unwrap();
    assert_eq!((observed.mac, observed.mtu, observed.up), (pod.links.mac, pod.links.mtu, true));
    assert_eq!(observed.ifindex, pod.attached.ifindex);
    for address in &pod.links.addresses {
        assert!(observed.addresses.contains(address), "{address} in {:?}", observed.addresses);
    }
    for route in &pod.links.routes {
        assert!(observed.routes.contains(route), "{route:?} in {:?}", observed.routes);
    }
    for address in node_addresses() {
        assert!(observed.routes.contains(&Route { dst: address.into(), via: None }), "{address}");
    }
    // Usable at once: nothing is tentative, nothing listens to routers, loopback is up.
    assert!(!pod.space.sh("ip -6 addr show dev eth0").contains("tentative"));
    assert_eq!(pod.space.sh("cat /proc/sys/net/ipv6/conf/eth0/accept_ra").trim(), "0");
    assert_eq!(pod.space.sh("cat /proc/sys/net/ipv6/conf/eth0/accept_dad").trim(), "0");
    assert_eq!(pod.space.ping(Ipv4Addr::LOCALHOST, 1), 1);
    assert_eq!(pod.space.ping(Ipv6Addr::LOCALHOST, 1), 1);
    assert_eq!(node.within(|node| node.observe(&pod.links.netns, "eth1")).unwrap(), None);
}

#[test]
fn whoever_knew_another_card_for_the_addresses_is_told() {
    let node = TestNode::new();
    let other = node.pod(2);
    let addresses: Vec<IpAddr> = pod_links(1, 0).addresses.iter().map(|address| address.addr()).collect();
    for address in &addresses {
        other.space.sh(&format!("ip neigh replace {address} lladdr 02:00:00:00:00:99 dev eth0 nud stale"));
    }
    // The kernel does not believe a change within a second of the last one.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let pod = node.pod(1);
    for address in &addresses {
        until("the neighbour is known anew", || {
            other.space.sh(&format!("ip neigh show {address}")).contains(&pod.links.mac.to_string())
        });
    }
}

#[test]
fn ports_are_announced_before_their_pods_come_and_then_no_more() {
    let node = TestNode::new();
    let other = node.pod(9);
    let ports: Vec<Announcement> = (1..=3)
        .map(|number| {
            let links = pod_links(number, node.uplink(number).ifindex);
            let addresses = links.addresses.iter().map(|address| address.addr()).collect();
            Announcement { uplink: links.uplink, vlan: None, mac: links.mac, addresses }
        })
        .collect();
    let addresses = || ports.iter().flat_map(|port| port.addresses.iter().map(move |at| (at, port.mac)));
    let knows = |wrong: &str| {
        for (address, _) in addresses() {
            other.space.sh(&format!("ip neigh replace {address} lladdr {wrong} dev eth0 nud stale"));
        }
        // The kernel does not believe a change within a second of the last one.
        std::thread::sleep(std::time::Duration::from_millis(1500));
    };
    let knew = |address: &IpAddr| other.space.sh(&format!("ip neigh show {address}"));

    knows("02:00:00:00:00:99");
    let announce = || node.within(|node| node.announce(&ports, 2)).unwrap();
    assert_eq!([announce(), announce(), announce()], [true, false, false], "two, then the third");
    for (address, mac) in addresses() {
        until("the neighbour is known anew", || knew(address).contains(&mac.to_string()));
    }
    knows("02:00:00:00:00:98");
    let pods: Vec<_> = (1..).zip(&ports).map(|(n, port)| node.attach(pod_links(n, port.uplink))).collect();
    // In the time in which the first three were heard, if there is anything to hear.
    std::thread::sleep(std::time::Duration::from_millis(500));
    for (address, _) in addresses() {
        assert!(knew(address).contains("02:00:00:00:00:98"), "{address}: {}", knew(address));
    }
    drop(pods);
}

#[test]
fn a_router_outside_every_prefix_is_reached_on_the_link() {
    let node = TestNode::new();
    let uplink = node.uplink(1);
    let route = |dst: &str, via: &str| Route { dst: dst.parse().unwrap(), via: Some(via.parse().unwrap()) };
    let routes =
        vec![route("0.0.0.0/0", "172.31.0.1"), route("::/0", "fd00:99::1"), route("fd00:5::/48", "fe80::1")];
    let pod = node.attach(PodLinks {
        addresses: vec!["10.1.0.1/32".parse().unwrap(), "fd00:1::1/128".parse().unwrap()],
        routes: routes.clone(),
        ..pod_links(1, uplink.ifindex)
    });
    let observed = node.within(|node| node.observe(&pod.links.netns, "eth0")).unwrap().unwrap();
    for route in routes {
        assert!(observed.routes.contains(&route), "{route:?} in {:?}", observed.routes);
    }
}

/// An Ethernet frame with a payload of an address family.
fn frame(source: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&[0xff; 6][..], &source, &kind.to_be_bytes(), payload].concat()
}

fn arp(hardware: [u8; 6], sender: Ipv4Addr) -> Vec<u8> {
    [&[0, 1, 8, 0, 6, 4, 0, 1][..], &hardware, &sender.octets(), &[0; 6], &[10, 1, 0, 2]].concat()
}

fn ipv4(source: Ipv4Addr) -> Vec<u8> {
    // UDP without data to port 9
    [
        &[0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0][..],
        &source.octets(),
        &[10, 1, 0, 2],
        &[0, 9, 0, 9, 0, 8, 0, 0],
    ]
    .concat()
}

fn ipv6(source: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let source: Ipv6Addr = source.parse().unwrap();
    let to: Ipv6Addr = "ff02::1".parse().unwrap();
    let length = u8::try_from(payload.len()).unwrap();
    [&[0x60, 0, 0, 0, 0, length, next, 255][..], &source.octets(), &to.octets(), payload].concat()
}

/// A neighbour advertisement or solicitation with one option.
fn ndp(kind: u8, target: &str, option: u8, hardware: [u8; 6]) -> Vec<u8> {
    let target: Ipv6Addr = target.parse().unwrap();
    [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), &[option, 1], &hardware].concat()
}

/// A report of multicast memberships in the form of version 2: type of the records, and their groups.
fn report(kind: u8, groups: &[&str]) -> Vec<u8> {
    const HOP_BY_HOP_ALERT: [u8; 8] = [58, 0, 5, 2, 0, 0, 1, 0];
    let count = u8::try_from(groups.len()).unwrap();
    let record = |group: &&str| [&[kind, 0, 0, 0][..], &group.parse::<Ipv6Addr>().unwrap().octets()].concat();
    let records: Vec<u8> = groups.iter().flat_map(record).collect();
    [&HOP_BY_HOP_ALERT[..], &[143, 0, 0, 0, 0, 0, 0, count], &records].concat()
}

/// Puts an upper header behind an extension header that says nothing.
fn extended(next: u8, payload: &[u8]) -> Vec<u8> {
    [&[next, 0, 1, 4, 0, 0, 0, 0], payload].concat()
}

#[test]
fn what_a_pod_is_not_is_dropped_and_counted_exactly() {
    const ARP: u16 = 0x0806;
    const IPV4: u16 = 0x0800;
    const IPV6: u16 = 0x86dd;
    const ICMPV6: u8 = 58;
    const OPTIONS: u8 = 60;
    const OWN6: &str = "fd00:1::1";
    const LINK_LOCAL: &str = "fe80::f816:3eff:fe10:2001";
    const OTHER6: &str = "fd00:1::9";
    let (own, other) = (Ipv4Addr::new(10, 1, 0, 1), Ipv4Addr::new(10, 1, 0, 9));
    let (me, else_) = (mac(1).0, mac(9).0);
    let (tx, spoofed, refused) = ((1, 0, 0), (0, 1, 0), (0, 0, 1));

    let node = TestNode::new();
    let pod = node.pod(1);
    // What the pod's kernel has to say by itself when an interface comes up, it has said.
    let mut last = PodCounters::default();
    until("the pod is silent", || {
        let before = std::mem::replace(&mut last, node.counters(&pod));
        std::thread::sleep(std::time::Duration::from_millis(1500));
        before == last
    });
    assert_eq!((last.spoofed, last.refused), (0, 0), "the pod's own kernel is no spoofer");

    for (what, frame, expect) in [
        ("its own ARP", frame(me, ARP, &arp(me, own)), tx),
        ("an ARP probe", frame(me, ARP, &arp(me, Ipv4Addr::UNSPECIFIED)), tx),
        ("another hardware address", frame(else_, ARP, &arp(me, own)), spoofed),
        ("another in the ARP", frame(me, ARP, &arp(else_, own)), spoofed),
        ("another's address in ARP", frame(me, ARP, &arp(me, other)), spoofed),
        ("ARP cut short", frame(me, ARP, &arp(me, own)[..20]), refused),
        ("its own IPv4", frame(me, IPV4, &ipv4(own)), tx),
        ("another's IPv4", frame(me, IPV4, &ipv4(other)), spoofed),
        ("no IPv4 address", frame(me, IPV4, &ipv4(Ipv4Addr::UNSPECIFIED)), spoofed),
        ("IPv4 of another card", frame(else_, IPV4, &ipv4(own)), spoofed),
        ("its own IPv6", frame(me, IPV6, &ipv6(OWN6, 17, &[0; 8])), tx),
        ("its link-local", frame(me, IPV6, &ipv6(LINK_LOCAL, 17, &[0; 8])), tx),
        ("another's IPv6", frame(me, IPV6, &ipv6(OTHER6, 17, &[0; 8])), spoofed),
        ("another's link-local", frame(me, IPV6, &ipv6("fe80::1", 17, &[0; 8])), spoofed),
        ("IPv6 from nowhere", frame(me, IPV6, &ipv6("::", 17, &[0; 8])), spoofed),
        ("address detection", frame(me, IPV6, &ipv6("::", ICMPV6, &ndp(135, OWN6, 14, [0; 6]))), tx),
        ("an advertisement", frame(me, IPV6, &ipv6(OWN6, ICMPV6, &ndp(136, OWN6, 2, me))), tx),
        ("of another's address", frame(me, IPV6, &ipv6(OWN6, ICMPV6, &ndp(136, OTHER6, 2, me))), spoofed),
        ("of another card", frame(me, IPV6, &ipv6(OWN6, ICMPV6, &ndp(136, OWN6, 2, else_))), spoofed),
        ("a solicitation", frame(me, IPV6, &ipv6(OWN6, ICMPV6, &ndp(135, OTHER6, 1, me))), tx),
        ("from another card", frame(me, IPV6, &ipv6(OWN6, ICMPV6, &ndp(135, OTHER6, 1, else_))), spoofed),
        ("a router's words", frame(me, IPV6, &ipv6(OWN6, ICMPV6, &ndp(134, OWN6, 1, me))), spoofed),
        ("a redirect", frame(me, IPV6, &ipv6(OWN6, ICMPV6, &ndp(137, OWN6, 2, me))), spoofed),
        (
            "hidden behind options",
            frame(me, IPV6, &ipv6(OWN6, OPTIONS, &extended(ICMPV6, &ndp(136, OTHER6, 2, me)))),
            spoofed,
        ),
        ("behind options, its own", frame(me, IPV6, &ipv6(OWN6, OPTIONS, &extended(17, &[0; 8]))), tx),
        (
            "too many extensions",
            {
                let nested = (0..7).fold(vec![0; 8], |inner, _| extended(OPTIONS, &inner));
                frame(me, IPV6, &ipv6(OWN6, OPTIONS, &nested))
            },
            refused,
        ),
        ("a VLAN tag", frame(me, 0x8100, &[&[0, 5, 8, 0][..], &ipv4(own)].concat()), refused),
        ("MPLS", frame(me, 0x8847, &[0; 46]), refused),
        ("spanning tree", frame(me, 38, &[0x42; 46]), refused),
    ] {
        let before = node.counters(&pod);
        pod.send(&[frame.clone(), frame.clone(), frame]);
        let after = node.counters(&pod);
        let got = (
            after.tx_packets - before.tx_packets,
            after.spoofed - before.spoofed,
            after.refused - before.refused,
        );
        let (passed, spoofs, refusals) = expect;
        assert_eq!(got, (3 * passed, 3 * spoofs, 3 * refusals), "{what}");
    }
}

#[test]
fn of_a_new_pods_groups_the_node_tells_the_network_and_not_the_pod() {
    let node = TestNode::new();
    let other = node.pod(9);
    node.within(|node| node.report_groups(&node.owed_reports().unwrap(), 1)).unwrap();
    other.space.sh(
        "nft 'add table ip6 t; add chain ip6 t c { type filter hook prerouting priority 0; }; add rule ip6 t c ip6 saddr fe80::f816:3eff:fe10:2001 icmpv6 type 143 counter'",
    );
    let heard = || -> u64 {
        let told = other.space.sh("nft list chain ip6 t c");
        told.split("packets ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
    };
    let pod = node.pod(1);
    let reports = || -> u64 {
        let told = pod.space.sh("cat /proc/net/dev_snmp6/eth0");
        let line = told.lines().find(|line| line.starts_with("Icmp6OutMLDv2Reports")).unwrap();
        line.split_whitespace().last().unwrap().parse().unwrap()
    };
    // Each at once, and again within a second.
    until("the pod's kernel has reported", || reports() >= 4);
    assert_eq!((node.counters(&pod).tx_packets, heard()), (0, 0));
    let owed = || node.within(|node| node.owed_reports()).unwrap();
    let [one] = &owed()[..] else { panic!("{:?}", owed()) };
    let groups: Vec<String> = one.groups.iter().map(ToString::to_string).collect();
    assert_eq!((one.host_end, one.mac, one.uplink), (pod.host_ifindex, pod.links.mac, pod.links.uplink));
    assert_eq!(groups, ["ff02::1:ff00:1", "ff02::1:ff10:2001"]);
    assert_eq!(node.within(|node| node.report_groups(&owed(), 1)).unwrap(), 1);
    assert_eq!(owed(), [], "once");
    until("the report is heard", || heard() == 1);
}

#[test]
fn only_reports_of_a_new_pods_own_addresses_are_held() {
    const OWN: &str = "ff02::1:ff00:1";
    const ANOTHER_ADDRESS: &str = "ff02::1:ff00:99";
    const NO_ADDRESS: &str = "ff02::1:3";
    const NOW_WANTED: u8 = 4;
    const ANSWER: u8 = 2;

    let node = TestNode::new();
    let pods = [
        ("of its address", report(NOW_WANTED, &[OWN]), 0),
        ("an answer to a question", report(ANSWER, &[OWN]), 3),
        ("of another address it has made for itself", report(NOW_WANTED, &[OWN, ANOTHER_ADDRESS]), 3),
        ("of a group that is no address's", report(NOW_WANTED, &[NO_ADDRESS, OWN]), 3),
        ("of nothing", report(NOW_WANTED, &[]), 3),
        ("of more groups than addresses have", report(NOW_WANTED, &[OWN; 9]), 3),
        ("cut short", report(NOW_WANTED, &[OWN, OWN])[..40].to_vec(), 3),
    ]
    .into_iter()
    .zip(1..)
    .map(|((what, report, expect), number)| {
        let uplink = node.uplink(number);
        let space = Space::new("pod");
        // The pod's own kernel has nothing to say.
        space.sh(
            "nft 'add table ip6 t; add chain ip6 t c { type filter hook output priority 0; policy drop; }'",
        );
        let addresses = vec!["fd00:1::1/64".parse().unwrap()];
        let links = PodLinks { netns: space.path(), addresses, ..pod_links(number, uplink.ifindex) };
        let attached = node.within(|node| node.attach(&links)).unwrap();
        let pod = world::TestPod { space, links, host_ifindex: attached.host_ifindex, attached };
        assert_eq!(reported(&node, &pod, &report), expect, "{what}");
        pod
    });
    let pods: Vec<_> = pods.collect();
    for pod in &pods {
        until("nothing is held any more", || reported(&node, pod, &report(NOW_WANTED, &[OWN])) == 3);
    }
    let owed = node.within(|node| node.owed_reports()).unwrap();
    assert_eq!(owed.len(), pods.len(), "what has been held is owed still");
    assert!(owed.iter().all(|owed| owed.since.is_some()), "{owed:?}");
}

/// How many of three frames with a report passed.
fn reported(node: &TestNode, pod: &world::TestPod, report: &[u8]) -> u64 {
    let mac = pod.links.mac.0;
    let source = format!("fe80::f816:3eff:fe10:20{:02x}", mac[5]);
    let before = node.counters(pod);
    pod.send(&vec![frame(mac, 0x86dd, &ipv6(&source, 0, report)); 3]);
    let after = node.counters(pod);
    assert_eq!((after.spoofed, after.refused), (0, 0));
    after.tx_packets - before.tx_packets
}

#[test]
fn frames_for_somebody_else_do_not_reach_a_pod() {
    let node = TestNode::new();
    let (one, two) = (node.pod(1), node.pod(2));
    assert_eq!(one.space.ping(two.v4(), 1), 1);
    // Many, so that what kernels say by themselves meanwhile does not matter.
    const MANY: u64 = 200;
    let arrived = |to: MacAddr| {
        let frame = [&to.0[..], &mac(1).0, &[8, 0], &ipv4(Ipv4Addr::new(10, 1, 0, 1))].concat();
        let before = node.counters(&two).rx_packets;
        one.send(&vec![frame; usize::try_from(MANY).unwrap()]);
        node.counters(&two).rx_packets - before
    };
    assert!(arrived(mac(2)) >= MANY, "its own");
    // Flooded by a bridge that does not know where that is.
    assert!(arrived(mac(77)) < MANY / 2, "a stranger's");
}

#[test]
fn a_cut_pod_neither_sends_nor_receives_and_keeps_its_links() {
    let node = TestNode::new();
    let (one, two) = (node.pod(1), node.pod(2));
    assert_eq!(one.space.ping(two.v4(), 1), 1);
    let links = (node.space.links(), one.space.links());
    node.within(|node| node.cut(one.host_ifindex)).unwrap();
    assert_eq!(one.space.ping(two.v4(), 3), 0);
    assert_eq!(one.space.ping(node_addresses()[0], 3), 0);
    assert_eq!(two.space.ping(one.v6(), 3), 0);
    assert_eq!(node.space.ping(one.v4(), 3), 0);
    assert_eq!((node.space.links(), one.space.links()), links, "no link has come or gone");
    let routes = || node.space.sh("ip route; ip -6 route; ip neigh; ip -6 neigh");
    assert!(routes().contains("krp1"), "left for later: {}", routes());
    node.within(|node| node.clear(one.host_ifindex)).unwrap();
    assert!(!routes().contains("krp1"), "{}", routes());
    assert_eq!(node.within(|node| node.counters(one.host_ifindex)).unwrap(), None);
    // Twice is once, and of nobody is nothing.
    node.within(|node| node.cut(one.host_ifindex)).unwrap();
    node.within(|node| node.cut(4_000_000)).unwrap();

    // Attached again it is the same pod with the same links.
    let again = node.within(|node| node.attach(&one.links)).unwrap();
    assert_eq!(again, one.attached);
    assert_eq!(one.space.ping(two.v4(), 3), 3);
    assert_eq!((node.space.links(), one.space.links()), links);
}

#[test]
fn attaching_twice_is_once() {
    let node = TestNode::new();
    let (one, two) = (node.pod(1), node.pod(2));
    let again = node.within(|node| node.attach(&one.links)).unwrap();
    assert_eq!(again, one.attached);
    assert_eq!(one.space.ping(two.v6(), 3), 3);
    let entries = node.within(|node| node.entries()).unwrap();
    let entry = |pod: &world::TestPod| Entry {
        host_ifindex: pod.host_ifindex,
        uplink: pod.links.uplink,
        vlan: None,
        mac: pod.links.mac,
        host_mac: pod.attached.host_mac,
        addresses: vec![pod.v4(), pod.v6()],
    };
    assert_eq!(entries, [entry(&one), entry(&two)]);
}

#[test]
fn no_link_is_moved_or_deleted_while_somebody_waits() {
    use std::{
        io::BufRead,
        process::{Command, Stdio},
    };
    let node = TestNode::new();
    let uplink = node.uplink(1);
    let mut monitor = node.space.within(|| {
        let monitor = Command::new("ip").args(["-o", "monitor", "link"]).stdout(Stdio::piped()).spawn();
        monitor.unwrap()
    });
    // It says nothing until there is something to say, so give it that.
    let mut lines = std::io::BufReader::new(monitor.stdout.take().unwrap()).lines();
    node.space.sh("sleep 0.2; ip link set lan0 alias ready");
    assert!(lines.any(|line| line.unwrap().contains("lan0")));

    let pod = node.attach(pod_links(1, uplink.ifindex));
    node.within(|node| node.cut(pod.host_ifindex)).unwrap();
    node.space.sh("ip link set lan0 alias done; ip link set lan0 mtu 1400; sleep 0.2");
    monitor.kill().unwrap();
    monitor.wait().unwrap();
    let seen: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(seen.iter().any(|line| line.contains("krp1")), "the monitor saw the host end: {seen:#?}");
    assert!(!seen.iter().any(|line| line.contains("Deleted")), "{seen:#?}");
}

#[test]
fn links_go_with_the_pods_namespace() {
    let node = TestNode::new();
    let one = node.pod(1);
    let (host, netns) = (one.host_ifindex, one.links.netns.clone());
    let joined = || node.within(|node| node.is_joined("krp1", host, &netns)).unwrap();
    assert!(joined());
    assert!(!node.within(|node| node.is_joined("krp2", host, &netns)).unwrap(), "another name");
    assert!(!node.within(|node| node.is_joined("krp1", host + 1, &netns)).unwrap(), "another index");
    let other = Space::new("other");
    assert!(!node.within(|node| node.is_joined("krp1", host, &other.path())).unwrap(), "another namespace");

    drop(one);
    until("the host end is gone", || !node.space.links().iter().any(|(_, name)| name == "krp1"));
    assert!(!joined());
    let swept = node.within(|node| node.sweep(&["krp1".to_owned()].into())).unwrap();
    assert_eq!((swept.links, swept.entries), (0, 1));
    assert_eq!(node.within(|node| node.entries()).unwrap(), []);
}

#[test]
fn a_port_whose_last_pods_links_linger_is_attached_to_the_next_pod() {
    let node = TestNode::new();
    let (one, two) = (node.pod(1), node.pod(2));
    let next = node.attach(one.links.clone());
    assert_ne!(next.host_ifindex, one.host_ifindex);
    assert_eq!(next.space.ping(two.v4(), 3), 3);
    assert!(!one.space.links().iter().any(|(_, name)| name == "eth0"), "the last pod has lost it");
}

#[test]
fn a_sweep_takes_what_nobody_keeps() {
    let node = TestNode::new();
    let (one, two) = (node.pod(1), node.pod(2));
    let swept = node.within(|node| node.sweep(&["krp2".to_owned()].into())).unwrap();
    assert_eq!((swept.links, swept.entries), (1, 0));
    let names: Vec<String> = node.space.links().into_iter().map(|(_, name)| name).collect();
    assert!(!names.contains(&"krp1".to_owned()) && names.contains(&"krp2".to_owned()), "{names:?}");
    assert!(names.contains(&"kru1".to_owned()), "uplinks are not swept: {names:?}");
    assert_eq!(two.space.ping(node_addresses()[0], 3), 3);
    assert_eq!(one.space.ping(node_addresses()[0], 1), 0);
    assert_eq!(node.within(|node| node.sweep(&["krp2".to_owned()].into())).unwrap(), Default::default());
}

#[test]
fn what_comes_from_outside_is_checked() {
    let node = TestNode::new();
    let uplink = node.uplink(1);
    let space = Space::new("pod");
    let good = PodLinks { netns: space.path(), ..pod_links(1, uplink.ifindex) };
    let own = node.space.path();
    let bad = [
        (PodLinks { netns: own, ..good.clone() }, "is the node's own network namespace"),
        (PodLinks { netns: "/proc/thread-self/ns/net".into(), ..good.clone() }, "is the node's own"),
        (PodLinks { netns: "/proc/self/ns/uts".into(), ..good.clone() }, "is not a network namespace"),
        (PodLinks { netns: "/etc/passwd".into(), ..good.clone() }, "is not a network namespace"),
        (PodLinks { netns: "/run/netns/nothing-here".into(), ..good.clone() }, "cannot open"),
        (PodLinks { netns: "".into(), ..good.clone() }, "cannot open"),
        (PodLinks { ifname: "eth%d".into(), ..good.clone() }, "cannot name an interface"),
        (PodLinks { ifname: "../../x".into(), ..good.clone() }, "cannot name an interface"),
        (PodLinks { host_ifname: "much-too-long-a-name".into(), ..good.clone() }, "cannot name an interface"),
        (PodLinks { vlan: Some(4095), ..good.clone() }, "is not a VLAN id"),
        (PodLinks { vlan: Some(0), ..good.clone() }, "is not a VLAN id"),
        (PodLinks { host_ifname: "lan0".into(), ..good.clone() }, "belongs to something else"),
        (PodLinks { ifname: "lo".into(), ..good.clone() }, "`lo` exists already"),
    ];
    let (before, empty) = (node.space.links(), space.links());
    for (links, expect) in bad {
        let error = node.within(|node| node.attach(&links)).unwrap_err();
        assert!(error.to_string().contains(expect), "{error} instead of {expect}");
    }
    assert_eq!((node.space.links(), space.links()), (before, empty), "and nothing was made");
    let foreign = PodLinks { node_addresses: vec!["203.0.113.7".parse().unwrap()], ..good.clone() };
    let error = node.within(|node| node.attach(&foreign)).unwrap_err();
    assert!(matches!(error, Error::Kernel { .. }), "a source that is not the node's: {error}");
    // And from there on it is carried on with.
    node.within(|node| node.attach(&good)).unwrap();
    assert_eq!(space.ping(node_addresses()[0], 3), 3);
}

#[test]
fn uplinks_are_prepared_once_and_live_apart() {
    let node = TestNode::new();
    let uplink = node.uplink(1);
    assert_eq!(node.uplink(1), uplink, "asking twice is asking once");
    assert_eq!((uplink.tap.as_deref(), uplink.ifname.as_str(), uplink.mac), (Some("tap1"), "kru1", mac(1)));
    assert_eq!(node.within(|node| node.uplinks()).unwrap(), std::slice::from_ref(&uplink));
    let link = node.space.sh("ip -d link show kru1");
    assert!(link.contains("NOARP") && link.contains(",UP") && link.contains("mtu 1442"), "{link}");
    for name in ["kru1", "tap1"] {
        assert_eq!(node.space.sh(&format!("ip -6 addr show dev {name}")), "", "{name} has no IPv6");
    }
    // Another size, as after a change of the network.
    let spec = kuryr_datapath::UplinkSpec { mtu: 1400, ..uplink_spec(1) };
    assert_eq!(node.within(|node| node.prepare_uplink(&spec)).unwrap(), uplink);
    assert!(node.space.sh("ip link show kru1").contains("mtu 1400"));
    // Not ours to take.
    let spec = kuryr_datapath::UplinkSpec { peer: "lan0".into(), ..uplink_spec(2) };
    assert!(matches!(node.within(|node| node.prepare_uplink(&spec)), Err(Error::LinkTaken { .. })));
    assert!(matches!(node.within(|node| node.remove_uplink("lan0")), Err(Error::LinkTaken { .. })));

    node.within(|node| node.remove_uplink("tap1")).unwrap();
    node.within(|node| node.remove_uplink("tap1")).unwrap();
    assert_eq!(node.within(|node| node.uplinks()).unwrap(), []);
}

#[test]
fn what_is_down_on_the_way_to_the_switch_is_found_and_brought_up() {
    let node = TestNode::new();
    let pods = [node.pod(1), node.pod(2)];
    let down = || node.within(|node| node.all_uplinks("own0")).unwrap().down;
    assert_eq!(down(), [""; 0]);
    // As Open vSwitch does it, which takes an interface while it comes up.
    node.space.sh("ip link set tap1 down; ip link set kru2 down");
    assert_eq!(pods[0].space.ping(pods[1].v4(), 1), 0);
    let mut found = down();
    found.sort();
    assert_eq!(found, ["kru2", "tap1"]);
    // Another has gone meanwhile.
    found.push("tap3".to_owned());
    node.within(|node| node.bring_up(&found)).unwrap();
    assert_eq!(down(), [""; 0]);
    until("a pod reaches the other", || pods[0].space.tcp(&pods[1].space, pods[1].v4()));
}

#[test]
fn offloads_go_off_where_the_bridge_is_a_process() {
    let node = TestNode::new();
    let spec = kuryr_datapath::UplinkSpec { offloads: kuryr_datapath::Offloads::Off, ..uplink_spec(1) };
    node.within(|node| node.prepare_uplink(&spec)).unwrap();
    let features = node.space.sh("ethtool -k kru1");
    for (feature, expect) in [
        ("tx-checksum-ip-generic", "off"),
        ("tcp-segmentation-offload", "off"),
        ("generic-segmentation-offload", "off"),
        ("generic-receive-offload", "on"),
    ] {
        let line = features.lines().find(|line| line.trim().starts_with(&format!("{feature}:"))).unwrap();
        assert!(line.contains(&format!(": {expect}")), "{line}");
    }
    node.space.sh("ip link set tap1 master br-test");
    let uplink = node.within(|node| node.uplinks()).unwrap().remove(0);
    let one = node.attach(pod_links(1, uplink.ifindex));
    let two = node.pod(2);
    assert!(one.space.tcp(&two.space, two.v4()));
    assert!(two.space.tcp(&one.space, one.v6()));
}

#[test]
fn a_directory_that_is_no_bpffs_is_a_clear_error() {
    let space = Space::new("node");
    let directory = tempfile::tempdir().unwrap();
    let config = kuryr_datapath::NodeConfig::new(directory.path());
    let error = space.within(|| kuryr_datapath::Node::open(config)).unwrap_err();
    assert!(matches!(error, Error::NotBpffs { .. }), "{error}");
}

#[test]
fn addresses_can_change() {
    let node = TestNode::new();
    let (one, two) = (node.pod(1), node.pod(2));
    let links = PodLinks {
        addresses: vec!["10.1.0.77/24".parse().unwrap(), one.links.addresses[1]],
        ..one.links.clone()
    };
    node.within(|node| node.attach(&links)).unwrap();
    let from = |address: IpAddr| {
        let output = one.space.try_sh(&format!("ping -n -q -I {address} -c 2 -W 1 {}", two.v4()));
        output.status.success()
    };
    assert!(from("10.1.0.77".parse().unwrap()), "the new address");
    assert!(!from(one.v4()), "the one before");
}
