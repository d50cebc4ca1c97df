//! Attaching a pod without eBPF: an interface of the kernel's own on the uplink, in the pod's namespace.
//!
//! On a prepared uplink, which is the pod's alone, it is a macvlan in mode passthru: it takes the uplink's hardware
//! address, which is the port's. On the node's own interface it is one for the pod's VLAN (8021q), with the port's
//! hardware address. There is no host end and so no local path: the node reaches its own pods like anybody else. When
//! the pod's namespace goes, the interface goes with it and the uplink, or its VLAN, is free again.

use std::os::fd::AsFd;

use super::{Attached, Joining, Node, PodLinks, pod};
use crate::{
    error::{Error, Result},
    link::{self, SubInterface},
    netlink::Socket,
    netns::Netns,
    trial::Making,
};

pub(super) fn attach(node: &Node, links: &PodLinks, netns: &Netns) -> Result<Attached> {
    let making = node.making(kind(links))?;
    let missing = || Error::LinkMissing { name: links.uplink.to_string() };
    let uplink = link::find_by_index(&mut node.socket(), links.uplink)?.ok_or_else(missing)?;
    if node.observe(&links.netns, &links.ifname)?.is_none() {
        create(links, netns, making).map_err(|error| taken(error, links))?;
    }
    let ifindex = netns.run(|| pod::bring_up_inside(links, None))??;
    pod::announce(node, links)?;
    let host_mac = uplink.mac.unwrap_or(links.mac);
    Ok(Attached { host_ifindex: uplink.index, host_mac, ifindex, netns: netns.id() })
}

impl Node {
    /// How an interface of this kind gets into a pod's namespace.
    pub(super) fn making(&self, kind: SubInterface) -> Result<Making> {
        let Joining::SubInterface { macvlan, vlan, .. } = &self.joining else { return Ok(Making::Direct) };
        match (kind, macvlan, vlan) {
            (SubInterface::Macvlan, Making::Impossible, _) => Err(Error::NoSubInterface { kind: "macvlan" }),
            (SubInterface::Vlan { .. }, _, Making::Impossible) => {
                Err(Error::NoSubInterface { kind: "VLAN (8021q)" })
            }
            (SubInterface::Macvlan, making, _) | (SubInterface::Vlan { .. }, _, making) => Ok(*making),
        }
    }
}

/// What a pod gets.
fn kind(pod: &PodLinks) -> SubInterface {
    pod.vlan.map_or(SubInterface::Macvlan, |id| SubInterface::Vlan { id, mac: pod.mac })
}

/// No interface of that name is in the pod, so it is the VLAN or the uplink that is taken.
fn taken(error: Error, pod: &PodLinks) -> Error {
    match pod.vlan {
        Some(vlan) if error.is_taken() => Error::VlanTaken { vlan, uplink: pod.uplink },
        _ => pod::taken(error, &pod.ifname),
    }
}

fn create(pod: &PodLinks, netns: &Netns, making: Making) -> Result<()> {
    // Its own: a move takes 16 ms, in which nobody else has to wait.
    let mut socket = Socket::route()?;
    if making == Making::Direct {
        return socket.apply(&[link::create_on(
            pod.uplink,
            kind(pod),
            &pod.ifname,
            pod.mtu,
            Some(netns.as_fd()),
        )]);
    }
    // Under the host end's name, which nobody else uses; one that was made and not moved is moved now.
    let made = match link::find(&mut socket, &pod.host_ifname)? {
        Some(link) => link,
        None => {
            socket.apply(&[link::create_on(pod.uplink, kind(pod), &pod.host_ifname, pod.mtu, None)])?;
            let missing = || Error::LinkMissing { name: pod.host_ifname.clone() };
            link::find(&mut socket, &pod.host_ifname)?.ok_or_else(missing)?
        }
    };
    socket.apply(&[link::move_to(made.index, &pod.ifname, netns.as_fd())])
}
