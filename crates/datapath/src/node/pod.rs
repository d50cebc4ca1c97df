//! Attaching a pod by a veth pair and the joint.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
    os::fd::AsFd,
};

use ipnet::IpNet;
use kuryr_types::MacAddr;

use super::{Attached, Node, PodLinks, delete};
use crate::{
    address,
    announce::Announcement,
    error::{Error, Result},
    groups,
    joint::{Entry, Hook},
    link::{self, Link, VethEnd},
    neighbour,
    netlink::{Request, Socket},
    netns::Netns,
    route::{self, Found, Route, Setting},
    sysctl,
};

/// Index of the loopback interface, the first of every namespace.
const LOOPBACK: u32 = 1;

pub(super) fn attach(node: &Node, pod: &PodLinks, netns: &Netns) -> Result<Attached> {
    let host_mac = host_mac(pod.mac);
    let host_end = create(node, pod, netns, host_mac)?;
    node.attach_programs(&Hook::OF_HOST_END, host_end)?;
    let entry = Entry {
        host_ifindex: host_end,
        uplink: pod.uplink,
        vlan: pod.vlan,
        mac: pod.mac,
        host_mac,
        addresses: pod.addresses.iter().map(IpNet::addr).collect(),
    };
    node.joint().map_or(Ok(()), |mut joint| joint.admit(&entry, &told_groups(pod)))?;
    bring_up_host_end(node, pod, host_end)?;
    let ifindex = netns.run(|| bring_up_inside(pod, Some(host_mac)))??;
    link::settle(&mut node.socket(), host_end)?;
    announce(node, pod)?;
    Ok(Attached { host_ifindex: host_end, host_mac, ifindex, netns: netns.id() })
}

/// The multicast groups of which this node tells the network in the pod's place: those that a report has room for.
fn told_groups(pod: &PodLinks) -> BTreeSet<Ipv6Addr> {
    let groups = groups::of(pod.mac, pod.addresses.iter().map(IpNet::addr));
    if groups.len() <= groups::MOST { groups } else { BTreeSet::new() }
}

/// Makes the veth pair, its other end directly in the pod's namespace, or finds the one made before; tells the index of the
/// host end.
fn create(node: &Node, pod: &PodLinks, netns: &Netns, host_mac: MacAddr) -> Result<u32> {
    match make(node, pod, netns, host_mac) {
        Err(error) if error.is_taken() => {}
        made => return made,
    }
    let found = link::find(&mut node.socket(), &pod.host_ifname)?;
    // If it is not the host end's name that is taken, it is the other.
    let Some(link) = found else {
        return Err(Error::LinkTaken { name: pod.ifname.clone() });
    };
    if !node.is_host_end(&link) {
        return Err(Error::LinkTaken { name: pod.host_ifname.clone() });
    }
    if reaches(&mut node.socket(), &link, netns)? {
        return Ok(link.index);
    }
    // The host end of this port's last pod, whose namespace is only just being taken down.
    node.cut(link.index)?;
    node.clear(link.index)?;
    delete(link.index)?;
    make(node, pod, netns, host_mac).map_err(|error| taken(error, &pod.ifname))
}

fn make(node: &Node, pod: &PodLinks, netns: &Netns, host_mac: MacAddr) -> Result<u32> {
    let end = VethEnd {
        name: &pod.host_ifname,
        mac: host_mac,
        mtu: pod.mtu,
        group: node.config.pod_group,
        arp: false,
        netns: None,
    };
    let inside =
        VethEnd { name: &pod.ifname, mac: pod.mac, group: 0, arp: true, netns: Some(netns.as_fd()), ..end };
    let mut socket = node.socket();
    socket.apply(&[link::create_veth(end, inside)])?;
    link::index_of(&socket, &pod.host_ifname)?.ok_or(Error::LinkMissing { name: pod.host_ifname.clone() })
}

/// Whether the other end of a host end is in `netns`.
pub(super) fn reaches(socket: &mut Socket, link: &Link, netns: &Netns) -> Result<bool> {
    let id = link::namespace_id(socket, netns.as_fd())?;
    Ok(id.is_some() && link.peer_namespace == id)
}

/// Says which name was taken, where only one can be.
pub(super) fn taken(error: Error, ifname: &str) -> Error {
    if error.is_taken() { Error::LinkTaken { name: ifname.to_owned() } } else { error }
}

/// The host end: no addresses of its own, and for each address of the pod a route and a neighbour.
fn bring_up_host_end(node: &Node, pod: &PodLinks, index: u32) -> Result<()> {
    use sysctl::Setting::{AcceptDad, AcceptRa, DisableIpv6};
    let settings = [DisableIpv6(false), AcceptDad(false), AcceptRa(false)];
    sysctl::set(&pod.host_ifname, &settings, has_ipv6(pod))?;
    let mut requests = vec![link::no_generated_addresses(index), link::bring_up(index)];
    for route in ways_to(pod.addresses.iter().map(IpNet::addr), &pod.node_addresses, index) {
        requests.extend(way_requests(&route, pod.mac));
    }
    node.socket().apply(&requests)
}

/// The node's routes to addresses of a pod. Without a node address of the family there is no local path in it.
fn ways_to(
    addresses: impl IntoIterator<Item = IpAddr>,
    node_addresses: &[IpAddr],
    index: u32,
) -> impl Iterator<Item = Found> {
    addresses.into_iter().filter_map(move |address| {
        let source = node_addresses.iter().find(|node| same_family(**node, address))?;
        let route = Route { dst: address.into(), via: None };
        Some(Found { route, link: index, source: Some(*source) })
    })
}

fn way_requests(way: &Found, mac: MacAddr) -> [Request; 2] {
    [
        neighbour::set(way.link, way.route.dst.addr(), mac),
        route::set(&Setting { source: way.source, ..Setting::new(way.route, way.link) }),
    ]
}

/// Sets the node's routes to its pods that are missing; tells how many were.
pub(super) fn restore_ways(node: &Node, node_addresses: &[IpAddr]) -> Result<usize> {
    // Held from the look to the end: whoever clears a pod meanwhile does so afterwards.
    let mut socket = node.socket();
    let entries = node.entries()?;
    let present = route::list_all(&mut socket)?;
    let mut requests = Vec::new();
    for entry in &entries {
        let ways = ways_to(entry.addresses.iter().copied(), node_addresses, entry.host_ifindex);
        let missing = ways.filter(|way| !present.contains(way));
        requests
            .extend(missing.flat_map(|way| way_requests(&way, entry.mac)).map(Request::tolerating_absence));
    }
    socket.apply(&requests)?;
    Ok(requests.len() / 2)
}

/// The pod's side, on a thread of its namespace. `host_mac`: where node addresses are reached, if there is a local
/// path. Tells the interface's index.
pub(super) fn bring_up_inside(pod: &PodLinks, host_mac: Option<MacAddr>) -> Result<u32> {
    use sysctl::Setting::{AcceptDad, AcceptRa, DisableIpv6};
    let mut socket = Socket::route()?;
    let missing = || Error::LinkMissing { name: pod.ifname.clone() };
    let link = link::find(&mut socket, &pod.ifname)?.ok_or_else(missing)?;
    if link.mac != Some(pod.mac) {
        return Err(Error::LinkTaken { name: pod.ifname.clone() });
    }
    if has_ipv6(pod) {
        // A runtime may have switched IPv6 off for all interfaces of the pod.
        sysctl::set(&pod.ifname, &[DisableIpv6(false)], true)?;
    }
    sysctl::set(&pod.ifname, &[AcceptDad(false), AcceptRa(false)], has_ipv6(pod))?;
    let mut requests = inside_requests(pod, link.index);
    if let Some(host_mac) = host_mac {
        requests.extend(local_path_requests(pod, link.index, host_mac));
    }
    socket.apply(&requests)?;
    Ok(link.index)
}

/// Tells the network behind the uplink where the pod's addresses are.
pub(super) fn announce(node: &Node, pod: &PodLinks) -> Result<()> {
    let addresses = pod.addresses.iter().map(IpNet::addr).collect();
    let port = Announcement { uplink: pod.uplink, vlan: pod.vlan, mac: pod.mac, addresses };
    node.announcer.announce(&port).map(|_| ())
}

fn inside_requests(pod: &PodLinks, index: u32) -> Vec<Request> {
    let mut requests =
        vec![link::bring_up(LOOPBACK), link::no_generated_addresses(index), link::bring_up(index)];
    if has_ipv6(pod) {
        requests.push(address::set(index, address::link_local(pod.mac).into()));
    }
    requests.extend(pod.addresses.iter().map(|address| address::set(index, *address)));
    requests.extend(pod.routes.iter().map(|route| {
        let onlink = route.via.is_some_and(|via| !pod.addresses.iter().any(|address| address.contains(&via)));
        route::set(&Setting { onlink, ..Setting::new(*route, index) })
    }));
    requests
}

fn local_path_requests(pod: &PodLinks, index: u32, host_mac: MacAddr) -> impl Iterator<Item = Request> {
    let usable = |node: &&IpAddr| pod.addresses.iter().any(|address| same_family(**node, address.addr()));
    pod.node_addresses.iter().filter(usable).flat_map(move |node| {
        let route = Route { dst: (*node).into(), via: None };
        [neighbour::set(index, *node, host_mac), route::set(&Setting::new(route, index))]
    })
}

/// A hardware address for the host end, which only its pod ever sees: locally administered, and another than the
/// port's.
fn host_mac(port: MacAddr) -> MacAddr {
    const LOCAL: u8 = 0x02;
    const GROUP: u8 = 0x01;
    let mut mac = port;
    mac.0[0] = (port.0[0] ^ 0x10 | LOCAL) & !GROUP;
    mac
}

fn has_ipv6(pod: &PodLinks) -> bool {
    pod.addresses.iter().any(|address| address.addr().is_ipv6())
}

fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_ends_hardware_address_is_local_and_not_the_ports() {
        for (port, expect) in
            [("fa:16:3e:4b:9c:07", "ea:16:3e:4b:9c:07"), ("00:00:5e:00:53:01", "12:00:5e:00:53:01")]
        {
            assert_eq!(host_mac(port.parse().unwrap()).to_string(), expect, "{port}");
        }
    }
}
