//! Attaching a pod without eBPF: a macvlan in mode passthru on its uplink.
//!
//! The interface in the pod takes the uplink's hardware address, which is the port's. There is no host end and so no
//! local path: the node reaches its own pods like anybody else. When the pod's namespace goes, the
//! interface goes with it and the uplink is free again.

use std::os::fd::AsFd;

use super::{Attached, Joining, Node, PodLinks, pod};
use crate::{
    error::{Error, Result},
    link,
    netns::Netns,
};

pub(super) fn attach(node: &Node, links: &PodLinks, netns: &Netns) -> Result<Attached> {
    if links.vlan.is_some() {
        return Err(Error::NeedsJoint { what: "a VLAN on a shared uplink" });
    }
    let missing = || Error::LinkMissing { name: links.uplink.to_string() };
    let uplink = link::find_by_index(&mut node.socket(), links.uplink)?.ok_or_else(missing)?;
    if node.observe(&links.netns, &links.ifname)?.is_none() {
        create(node, links, netns)?;
    }
    let ifindex = netns.run(|| pod::bring_up_inside(links, None))??;
    pod::announce(node, links)?;
    let host_mac = uplink.mac.unwrap_or(links.mac);
    Ok(Attached { host_ifindex: uplink.index, host_mac, ifindex, netns: netns.id() })
}

fn create(node: &Node, pod: &PodLinks, netns: &Netns) -> Result<()> {
    let mut socket = node.socket();
    if matches!(node.joining, Joining::Macvlan { direct: true, .. }) {
        let create = link::create_macvlan(&pod.ifname, pod.uplink, pod.mtu, Some(netns.as_fd()));
        return socket.apply(&[create]).map_err(|error| pod::taken(error, &pod.ifname));
    }
    // Under the host end's name, which nobody else uses; one that was made and not moved is moved now.
    let made = match link::find(&mut socket, &pod.host_ifname)? {
        Some(link) => link,
        None => {
            socket.apply(&[link::create_macvlan(&pod.host_ifname, pod.uplink, pod.mtu, None)])?;
            let missing = || Error::LinkMissing { name: pod.host_ifname.clone() };
            link::find(&mut socket, &pod.host_ifname)?.ok_or_else(missing)?
        }
    };
    socket.apply(&[link::move_to(made.index, &pod.ifname, netns.as_fd())])
}
