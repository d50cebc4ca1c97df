//! Pods without eBPF: a macvlan on the prepared uplink.
//!
//! Needs root.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod world;

use kuryr_datapath::{JoinChoice, Joining, PodLinks};
use world::{TestNode, node_addresses, pod_links, until};

#[test]
fn pods_reach_each_other_by_macvlan() {
    let node = TestNode::with(|config| config.joining = JoinChoice::SubInterface);
    let joining = node.within(|node| node.joining().clone());
    assert!(matches!(joining, Joining::SubInterface { ref why, .. } if why == "configured"), "{joining:?}");
    let (one, two) = (node.pod(1), node.pod(2));
    for to in [two.v4(), two.v6()] {
        assert_eq!(one.space.ping(to, 5), 5, "{to}");
        assert!(one.space.tcp(&two.space, to), "{to}");
    }
    let observed = node.within(|node| node.observe(&one.links.netns, "eth0")).unwrap().unwrap();
    assert_eq!((observed.mac, observed.mtu, observed.up), (one.links.mac, one.links.mtu, true));
    assert!(one.links.addresses.iter().all(|address| observed.addresses.contains(address)));
    assert!(one.links.routes.iter().all(|route| observed.routes.contains(route)));
    assert_eq!(one.attached.host_ifindex, one.links.uplink);

    // Again is the same, there is nothing to cut, and there is no local path.
    assert_eq!(node.within(|node| node.attach(&one.links)).unwrap(), one.attached);
    node.within(|node| node.cut(one.host_ifindex)).unwrap();
    assert_eq!(one.space.ping(two.v4(), 2), 2);
    assert_eq!(node.space.ping(one.v4(), 1), 0);
    assert_eq!(one.space.ping(node_addresses()[0], 1), 0);
    assert_eq!(node.within(|node| node.counters(one.host_ifindex)).unwrap(), None);
    assert_eq!(node.within(|node| node.entries()).unwrap(), []);
    assert!(node.within(|node| node.is_joined("krp1", one.host_ifindex, &one.links.netns)).unwrap());
}

#[test]
fn the_uplink_is_free_when_the_pods_namespace_is_gone() {
    let node = TestNode::with(|config| config.joining = JoinChoice::SubInterface);
    let two = node.pod(2);
    let uplink = node.uplink(1);
    let first = node.attach(pod_links(1, uplink.ifindex));
    assert_eq!(first.space.ping(two.v4(), 2), 2);
    drop(first);
    let space = world::Space::new("next");
    let links = PodLinks { netns: space.path(), ..pod_links(1, uplink.ifindex) };
    until("the uplink can be used again", || node.within(|node| node.attach(&links)).is_ok());
    assert_eq!(space.ping(two.v4(), 3), 3);
}
