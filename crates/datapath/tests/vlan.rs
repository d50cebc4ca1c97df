//! Pods on VLANs of a shared uplink: two nodes, the trunk between them, and a pod on each.
//!
//! The node on the far side pushes and pops tags by the same programs. Needs root.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod world;

use std::net::IpAddr;

use kuryr_datapath::{Error, JoinChoice, Joining, Making, PodLinks, Uplink, announce::Announcer};
use world::{TestNode, TestPod, mac, pod_links, until};

struct Trunk {
    near: TestNode,
    far: TestNode,
    near_uplink: Uplink,
    far_uplink: Uplink,
}

fn trunk(foreign_vlans: bool) -> Trunk {
    let (near, far) = (TestNode::new(), TestNode::new());
    wire(&near, &far);
    let share =
        |node: &TestNode| node.within(|node| node.adopt_shared_uplink("trunk0", foreign_vlans)).unwrap();
    let (near_uplink, far_uplink) = (share(&near), share(&far));
    Trunk { near, far, near_uplink, far_uplink }
}

/// The trunk between two nodes, with addresses of theirs.
fn wire(near: &TestNode, far: &TestNode) {
    near.space.sh(&format!(
        "ip link add trunk0 type veth peer name trunk0 netns {}
         ip addr add 172.31.0.1/24 dev trunk0; ip addr add fd00:31::1/64 dev trunk0 nodad; ip link set trunk0 up",
        far.space.name
    ));
    far.space.sh(
        "ip addr add 172.31.0.2/24 dev trunk0; ip addr add fd00:31::2/64 dev trunk0 nodad; ip link set trunk0 up",
    );
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
    count_passed(&far, "vlan id 101 vlan type arp");
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
fn a_packet_as_long_as_the_uplinks_mtu_passes_with_its_tag() {
    let Trunk { near, far, near_uplink, far_uplink } = trunk(false);
    let full = |node: &TestNode, uplink: &Uplink, number| {
        node.attach(PodLinks { vlan: Some(101), mtu: 1500, ..pod_links(number, uplink.ifindex) })
    };
    let (one, two) = (full(&near, &near_uplink, 1), full(&far, &far_uplink, 2));
    const HEADERS: u32 = 28;
    one.space.sh(&format!("ping -n -q -c 2 -W 2 -M do -s {} {}", 1500 - HEADERS, two.v4()));
    assert!(one.space.tcp(&two.space, two.v4()));
}

/// Counts frames that the programs of `trunk0` let through to the node's stack.
fn count_passed(node: &TestNode, what: &str) {
    node.space.sh(&format!(
        "nft add table netdev t
         nft add chain netdev t c '{{ type filter hook ingress device trunk0 priority 0; }}'
         nft add rule netdev t c {what} counter"
    ));
}

#[test]
fn a_priority_without_a_vlan_is_the_nodes() {
    let Trunk { near, far, near_uplink, .. } = trunk(false);
    let _pod = pod(&near, &near_uplink, 1, 101);
    count_passed(&near, "vlan id 0 vlan type arp");
    let index = far.space.links().iter().find(|(_, name)| name == "trunk0").unwrap().0;
    let arp = [&[0xff; 6][..], &mac(9).0, &[0x81, 0, 0x60, 0, 8, 6], &[0; 42]].concat();
    far.space.within(|| Announcer::open().unwrap().send(index, &arp).unwrap());
    until("the frame is counted", || near.space.sh("nft list table netdev t").contains("packets 1 "));
}

/// Echo requests of the node to the far one while `work` goes on; tells how many were lost of at least a thousand.
fn lost_meanwhile(trunk: &mut Trunk, to: &str, mut work: impl FnMut(&mut Trunk)) -> u32 {
    const COUNT: u32 = 1000;
    let netns = trunk.near.space.netns();
    std::thread::scope(|scope| {
        let pings = scope.spawn(move || {
            let ping = format!("ping -n -q -i 0.002 -W 2 -c {COUNT} {to}");
            netns.run(|| std::process::Command::new("sh").args(["-c", &ping]).output()).unwrap().unwrap()
        });
        while !pings.is_finished() {
            work(trunk);
        }
        let output = String::from_utf8(pings.join().unwrap().stdout).unwrap();
        let received = output.split(" received").next().and_then(|text| text.rsplit(' ').next());
        COUNT - received.unwrap().parse::<u32>().unwrap()
    })
}

#[test]
fn neither_node_nor_pods_notice_a_loader_that_comes_and_goes() {
    let mut trunk = trunk(true);
    let one = pod(&trunk.near, &trunk.near_uplink, 1, 101);
    let two = pod(&trunk.far, &trunk.far_uplink, 2, 101);
    let lost = lost_meanwhile(&mut trunk, "172.31.0.2", |trunk| {
        trunk.near.node = None;
        assert_eq!(one.space.ping(two.v4(), 2), 2, "nobody is there");
        trunk.near.open();
        let uplink = trunk.near.within(|node| node.adopt_shared_uplink("trunk0", true)).unwrap();
        assert_eq!(uplink, trunk.near_uplink);
        assert_eq!(one.space.ping(two.v4(), 2), 2, "the next has come");
    });
    assert_eq!(lost, 0);
    assert!(trunk.near.within(|node| node.is_joined("krp1", one.host_ifindex, &one.links.netns)).unwrap());
}

#[test]
fn the_nodes_traffic_goes_on_when_everything_of_ours_is_deleted() {
    let mut trunk = trunk(true);
    let (one, two) =
        (pod(&trunk.near, &trunk.near_uplink, 1, 101), pod(&trunk.far, &trunk.far_uplink, 2, 101));
    trunk.near.node = None;
    let lost = lost_meanwhile(&mut trunk, "fd00:31::2", |trunk| {
        // Uninstalled, pins and all, and installed again.
        for entry in std::fs::read_dir(trunk.near.pins.path()).unwrap().map(Result::unwrap) {
            // The kernel has files of its own there.
            if entry.file_type().unwrap().is_dir() {
                std::fs::remove_dir_all(entry.path()).unwrap();
            }
        }
        trunk.near.open();
        trunk.near.within(|node| node.adopt_shared_uplink("trunk0", true)).unwrap();
        trunk.near.node = None;
    });
    assert_eq!(lost, 0);
    // What nobody knows of is closed.
    assert_eq!(one.space.ping(two.v4(), 1), 0);
}

fn promiscuous(node: &TestNode) -> bool {
    node.space.sh("ip -d link show trunk0").contains("PROMISC")
}

#[test]
fn an_interface_that_is_given_back_is_as_it_was() {
    for before in [false, true] {
        let (near, far) = (TestNode::new(), TestNode::new());
        wire(&near, &far);
        if before {
            near.space.sh("ip link set trunk0 promisc on");
        }
        let uplink = near.within(|node| node.adopt_shared_uplink("trunk0", false)).unwrap();
        let one = pod(&near, &uplink, 1, 101);
        assert!(promiscuous(&near));
        // Again, also by another loader, is the same.
        near.within(|node| node.adopt_shared_uplink("trunk0", false)).unwrap();
        count_passed(&near, "vlan id 101");
        near.within(|node| node.abandon_shared_uplinks(Some(uplink.ifindex))).unwrap();
        assert!(near.space.sh("tc filter show dev trunk0 ingress").contains("uplink_in"), "it was kept");
        near.within(|node| node.abandon_shared_uplinks(None)).unwrap();
        assert_eq!(promiscuous(&near), before);
        assert_eq!(near.space.sh("tc filter show dev trunk0 ingress").trim(), "");
        assert_eq!(near.space.ping(address("172.31.0.2"), 3), 3);
        assert_eq!(near.space.ping(one.v4(), 2), 2, "the local path needs no uplink");
        // Nothing is left to be given back.
        near.within(|node| node.abandon_shared_uplinks(None)).unwrap();
    }
}

#[test]
fn pods_are_joined_to_the_interface_that_takes_the_place_of_theirs() {
    let Trunk { near, far, near_uplink, far_uplink } = trunk(false);
    let (one, two) = (pod(&near, &near_uplink, 1, 101), pod(&far, &far_uplink, 2, 101));
    assert_eq!(one.space.ping(two.v4(), 2), 2);
    // Both ends go, and come back under other indexes.
    near.space.sh("ip link del trunk0");
    assert_eq!(near.space.ping(one.v4(), 2), 2, "the local path needs no uplink");
    wire(&near, &far);
    for (node, pod, before) in [(&near, &one, &near_uplink), (&far, &two, &far_uplink)] {
        let uplink = node.within(|node| node.adopt_shared_uplink("trunk0", false)).unwrap();
        assert_ne!(uplink.ifindex, before.ifindex);
        let links = PodLinks { uplink: uplink.ifindex, ..pod.links.clone() };
        let attached = node.within(|node| node.attach(&links)).unwrap();
        assert_eq!(attached, pod.attached, "the pod keeps its interface");
        node.within(|node| node.abandon_shared_uplinks(Some(uplink.ifindex))).unwrap();
        let entries = node.within(|node| node.entries()).unwrap();
        assert_eq!(entries.iter().map(|entry| entry.uplink).collect::<Vec<_>>(), [uplink.ifindex]);
    }
    for to in [two.v4(), two.v6()] {
        assert_eq!(one.space.ping(to, 3), 3, "{to}");
    }
    assert_eq!(near.space.ping(address("172.31.0.2"), 3), 3);
}

#[test]
fn a_program_that_somebody_took_away_is_put_back() {
    let Trunk { near, far, near_uplink, far_uplink } = trunk(false);
    let (one, two) = (pod(&near, &near_uplink, 1, 101), pod(&far, &far_uplink, 2, 101));
    near.detach("trunk0");
    near.space.sh("ip link set trunk0 promisc off");
    assert_eq!(one.space.ping(two.v4(), 1), 0);
    near.within(|node| node.adopt_shared_uplink("trunk0", false)).unwrap();
    assert_eq!(one.space.ping(two.v4(), 3), 3);
    assert!(promiscuous(&near));
}

/// Set where the kernel is known to have VLAN interfaces.
const HAS_VLANS: &str = "KURYR_TEST_HAS_8021Q";

/// On a kernel with VLAN interfaces pods are joined by them; on one without it is said.
#[test]
fn without_ebpf_pods_get_a_vlan_interface_if_the_kernel_has_them() {
    let without = |config: &mut kuryr_datapath::NodeConfig| config.joining = JoinChoice::SubInterface;
    let (near, far) = (TestNode::with(without), TestNode::with(without));
    wire(&near, &far);
    let Joining::SubInterface { vlan, .. } = near.within(|node| node.joining().clone()) else { panic!() };
    let adopted = near.within(|node| node.adopt_shared_uplink("trunk0", false));
    if vlan == Making::Impossible {
        assert!(
            std::env::var_os(HAS_VLANS).is_none(),
            "{HAS_VLANS} is set, and this kernel has no VLAN interfaces"
        );
        assert!(matches!(adopted, Err(Error::NoSubInterface { .. })), "{adopted:?}");
        let space = world::Space::new("pod");
        let links = PodLinks { netns: space.path(), vlan: Some(5), ..pod_links(1, 2) };
        let attached = near.within(|node| node.attach(&links));
        assert!(matches!(attached, Err(Error::NoSubInterface { .. })), "{attached:?}");
        println!("this kernel has no VLAN interfaces: only the refusal was tested");
        return;
    }
    let far_uplink = far.within(|node| node.adopt_shared_uplink("trunk0", false)).unwrap();
    let near_uplink = adopted.unwrap();
    let (one, two) = (pod(&near, &near_uplink, 1, 101), pod(&far, &far_uplink, 2, 101));
    let three = pod(&near, &near_uplink, 3, 102);
    for to in [two.v4(), two.v6()] {
        assert_eq!(one.space.ping(to, 5), 5, "{to}");
        assert!(one.space.tcp(&two.space, to), "{to}");
        assert_eq!(three.space.ping(to, 1), 0, "{to}");
    }
    assert_eq!(near.space.ping(address("172.31.0.2"), 3), 3);
    assert_eq!((one.attached.host_ifindex, one.attached.host_mac), (near_uplink.ifindex, near_uplink.mac));
    // Again is the same; the VLAN is taken as long as the pod is there, and free when its namespace has gone.
    assert_eq!(near.within(|node| node.attach(&one.links)).unwrap(), one.attached);
    let space = world::Space::new("next");
    let links = PodLinks { netns: space.path(), ..one.links.clone() };
    let taken = near.within(|node| node.attach(&links));
    assert!(matches!(taken, Err(Error::VlanTaken { vlan: 101, .. })), "{taken:?}");
    drop(one);
    until("the VLAN can be used again", || near.within(|node| node.attach(&links)).is_ok());
    assert_eq!(space.ping(two.v4(), 3), 3);
}
