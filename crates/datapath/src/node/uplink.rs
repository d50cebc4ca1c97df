//! Uplinks: made ahead of the pods that will use them.
//!
//! A prepared uplink is a veth pair in the node's namespace. One end is plugged on the integration bridge; the other
//! carries the port's hardware address and waits for a pod. That end lives apart from the node's own stack: it
//! answers no ARP, has no IPv6, and the guard drops what would reach the stack from it.

use std::{collections::BTreeMap, slice};

use kuryr_ebpf_maps::UplinkFlags;
use kuryr_types::MacAddr;

use super::{FoundUplinks, Node, Offloads, Uplink, UplinkSpec, delete};
use crate::{
    error::{Error, Result},
    joint::{Hook, Joint},
    link::{self, Link, SubInterface, VethEnd},
    netlink::{Request, Socket},
    offload,
    sysctl::{self, Setting},
};

impl Node {
    /// Makes a prepared uplink, both ends up, or brings one that exists into the state asked for.
    ///
    /// # Errors
    ///
    /// `InterfaceName`, `LinkTaken` if there is an interface of that name that is no uplink, `NftRefused` if there is no
    /// guard to keep its frames from the node's stack, else what the kernel refused.
    pub fn prepare_uplink(&self, spec: &UplinkSpec) -> Result<Uplink> {
        self.need_guard()?;
        link::check_name(&spec.tap)?;
        link::check_name(&spec.peer)?;
        let peer = self.uplink_pair(spec)?;
        let tap = peer.peer.ok_or(Error::LinkTaken { name: spec.peer.clone() })?;
        for name in [&spec.tap, &spec.peer] {
            sysctl::set(name, &[Setting::DisableIpv6(true)], false)?;
        }
        if spec.offloads == Offloads::Off {
            offload::finish_packets(peer.index)?;
        }
        // The program comes before the link is up, so no frame finds it without.
        self.attach_programs(&Hook::OF_UPLINK, peer.index)?;
        if let Some(hybrid) = &spec.hybrid {
            self.prepare_hybrid(hybrid, tap, (spec.mac, spec.mtu))?;
        }
        let mut socket = self.socket();
        socket.apply(&[link::bring_up(peer.index), link::bring_up(tap)])?;
        link::settle(&mut socket, peer.index)?;
        Ok(Uplink {
            tap: Some(spec.hybrid.as_ref().map_or(&spec.tap, |hybrid| &hybrid.outer).clone()),
            ifname: spec.peer.clone(),
            ifindex: peer.index,
            mac: spec.mac,
        })
    }

    /// Takes an interface of the node itself for an uplink: frames of pods' VLANs go to the pods, untagged ones on to
    /// the node; with `foreign_vlans` also those with VLAN ids of nobody's. One that is taken already is left as it is.
    ///
    /// The interface becomes promiscuous: a network card, a virtual one too, may hold back frames for hardware
    /// addresses and VLANs that nobody told it of, and by no other means can VLANs be admitted without an interface for
    /// each.
    ///
    /// # Errors
    ///
    /// `LinkMissing`, `Map`, `Program`; without eBPF `NoSubInterface` if the kernel has no VLAN interfaces.
    pub fn adopt_shared_uplink(&self, ifname: &str, foreign_vlans: bool) -> Result<Uplink> {
        link::check_name(ifname)?;
        let missing = || Error::LinkMissing { name: ifname.to_owned() };
        let link = link::find(&mut self.socket(), ifname)?.ok_or_else(missing)?;
        let mac = link.mac.ok_or_else(missing)?;
        if self.joint.is_some() {
            self.share(&link, foreign_vlans)?;
        } else {
            self.making(SubInterface::Vlan { id: 1, mac })?;
        }
        Ok(Uplink { tap: None, ifname: link.name, ifindex: link.index, mac })
    }

    fn share(&self, link: &Link, foreign_vlans: bool) -> Result<()> {
        let mut flags = UplinkFlags::PASS_UNTAGGED;
        if foreign_vlans {
            flags = flags.with(UplinkFlags::PASS_UNKNOWN_VLANS);
        }
        let before = self.shared_uplinks()?.get(&link.index).copied();
        let made_before = before.is_some_and(|before| before.has(UplinkFlags::MADE_PROMISCUOUS));
        if made_before || !link.promiscuous {
            flags = flags.with(UplinkFlags::MADE_PROMISCUOUS);
        }
        let in_effect = self.has_programs(&Hook::OF_UPLINK, link.index)?;
        if before == Some(flags) && in_effect && link.promiscuous {
            return Ok(());
        }
        // First, or the node would be cut off between the two.
        self.joint().map_or(Ok(()), |mut joint| joint.share_uplink(link.index, flags))?;
        self.attach_programs(&Hook::OF_UPLINK, link.index)?;
        self.socket().apply(&[link::set_promiscuous(link.index, true)])
    }

    fn shared_uplinks(&self) -> Result<BTreeMap<u32, UplinkFlags>> {
        self.joint().map_or(Ok(BTreeMap::new()), |joint| joint.shared_uplinks())
    }

    /// Gives the interfaces of the node back that were taken for uplinks, but the one with index `keep`, and forgets
    /// those that are no more. Pods that are still joined to one of them are cut off from the network behind it.
    ///
    /// # Errors
    ///
    /// `Map`, `Kernel`.
    pub fn abandon_shared_uplinks(&self, keep: Option<u32>) -> Result<()> {
        let others = self.shared_uplinks()?.into_iter().filter(|(index, _)| Some(*index) != keep);
        for (index, flags) in others {
            let mut socket = self.socket();
            let of_ours = [self.config.pod_group, self.config.uplink_group];
            let link = link::find_by_index(&mut socket, index)?.filter(|link| !of_ours.contains(&link.group));
            if let Some(link) = link {
                // First the program: without its entry it would cut the node off.
                let mut requests = Joint::detach(&Hook::OF_UPLINK, link.index);
                if flags.has(UplinkFlags::MADE_PROMISCUOUS) {
                    requests.push(link::set_promiscuous(link.index, false));
                }
                socket.apply(&requests)?;
            }
            self.forget_uplink(index)?;
        }
        Ok(())
    }

    pub(super) fn forget_uplink(&self, index: u32) -> Result<()> {
        self.joint().map_or(Ok(()), |mut joint| joint.forget_uplink(index))
    }

    /// Lists the prepared uplinks that there are.
    ///
    /// # Errors
    ///
    /// `Kernel` or `Restless`.
    pub fn uplinks(&self) -> Result<Vec<Uplink>> {
        Ok(self.uplinks_among(&link::list(&mut self.socket())?))
    }

    /// Lists the uplinks of both kinds that there are, by one look, and what of them and of the node's own port is down.
    /// `own` is the name of the own port's interface.
    ///
    /// # Errors
    ///
    /// `Kernel` or `Restless`.
    pub fn all_uplinks(&self, own: &str) -> Result<FoundUplinks> {
        let links = link::list(&mut self.socket())?;
        let (prepared, down) = (self.uplinks_among(&links), self.down_among(&links, own));
        Ok(FoundUplinks { prepared, macvlans: self.macvlans_among(links), down })
    }

    /// Interfaces between pods, or the node, and the integration bridge that are down.
    fn down_among(&self, links: &[Link], own: &str) -> Vec<String> {
        let is_end = |link: &&Link| {
            link.name == own || (link.group == self.config.uplink_group && !self.is_macvlan(link))
        };
        let ends = links.iter().filter(is_end).filter(|link| link.peer_namespace.is_none());
        let of_uplink = |end: &Link| -> Vec<String> {
            let tap = links.iter().find(|link| Some(link.index) == end.peer);
            let between = tap.map(|tap| self.hybrid_links(tap, links)).unwrap_or_default();
            let all = links.iter().filter(|link| {
                link.index == end.index || Some(link.index) == end.peer || between.contains(&link.index)
            });
            all.filter(|link| !link.up).map(|link| link.name.clone()).collect()
        };
        ends.flat_map(of_uplink).collect()
    }

    /// Brings interfaces up; one that has gone is success.
    ///
    /// # Errors
    ///
    /// `InterfaceName`, `Socket`, `Kernel`.
    pub fn bring_up(&self, ifnames: &[String]) -> Result<()> {
        let mut socket = self.socket();
        let mut requests = Vec::new();
        for ifname in ifnames {
            link::check_name(ifname)?;
            requests.extend(link::index_of(&socket, ifname)?.map(link::bring_up));
        }
        let requests: Vec<_> = requests.into_iter().map(Request::tolerating_absence).collect();
        socket.apply(&requests)
    }

    fn uplinks_among(&self, links: &[Link]) -> Vec<Uplink> {
        let tap = |peer: &Link| links.iter().find(|link| Some(link.index) == peer.peer);
        links
            .iter()
            .filter(|link| link.group == self.config.uplink_group && !self.is_macvlan(link))
            .filter_map(|link| {
                Some(Uplink {
                    tap: tap(link).map(|tap| self.plugged_end(tap, links).name.clone()),
                    ifname: link.name.clone(),
                    ifindex: link.index,
                    mac: link.mac?,
                })
            })
            .collect()
    }

    /// Deletes a prepared uplink by the name of its end on the integration bridge, and what is in between; one that does
    /// not exist is success. Slow: not while somebody waits.
    ///
    /// # Errors
    ///
    /// `LinkTaken` if it is no prepared uplink, `Kernel`.
    pub fn remove_uplink(&self, tap: &str) -> Result<()> {
        link::check_name(tap)?;
        let links = link::list(&mut self.socket())?;
        let Some(plugged) = links.iter().find(|link| link.name == tap) else {
            return Ok(());
        };
        let tap = self.tap_of(plugged, &links);
        let is_peer = |link: &&Link| Some(link.index) == tap.peer && tap.peer_namespace.is_none();
        match links.iter().find(is_peer) {
            Some(peer) if peer.group == self.config.uplink_group => {
                self.remove_hybrid(tap, &links)?;
                delete(tap.index)?;
                self.forget_uplink(peer.index)
            }
            _ => Err(Error::LinkTaken { name: tap.name.clone() }),
        }
    }

    /// The end that pods are joined to.
    fn uplink_pair(&self, spec: &UplinkSpec) -> Result<Link> {
        let mut socket = self.socket();
        let Some(found) = link::find(&mut socket, &spec.peer)? else {
            socket.apply(slice::from_ref(&self.create_uplink(spec)))?;
            let missing = || Error::LinkMissing { name: spec.peer.clone() };
            return link::find(&mut socket, &spec.peer)?.ok_or_else(missing);
        };
        let tap = other_end(&mut socket, &found)?;
        if found.group != self.config.uplink_group || tap.is_none_or(|tap| tap.name != spec.tap) {
            return Err(Error::LinkTaken { name: spec.peer.clone() });
        }
        if found.mac != Some(spec.mac) || found.mtu != spec.mtu {
            socket.apply(&[link::set_mac_and_mtu(found.index, spec.mac, spec.mtu)])?;
        }
        Ok(found)
    }

    fn create_uplink(&self, spec: &UplinkSpec) -> Request {
        let peer = VethEnd {
            name: &spec.peer,
            mac: spec.mac,
            mtu: spec.mtu,
            group: self.config.uplink_group,
            arp: false,
            netns: None,
        };
        let tap = VethEnd { name: &spec.tap, mac: tap_mac(spec.mac), group: 0, ..peer };
        link::create_veth(peer, tap)
    }
}

/// The other end of a veth of which both are in the node's namespace.
pub(super) fn other_end(socket: &mut Socket, link: &Link) -> Result<Option<Link>> {
    match link.peer {
        Some(peer) if link.peer_namespace.is_none() => link::find_by_index(socket, peer),
        _ => Ok(None),
    }
}

/// The end on the bridge needs some hardware address that is not the port's; `fe` is what tap devices of virtual
/// machines have for the same reason.
pub(super) fn tap_mac(port: MacAddr) -> MacAddr {
    let mut mac = port;
    mac.0[0] = if port.0[0] == 0xfe { 0xf2 } else { 0xfe };
    mac
}
