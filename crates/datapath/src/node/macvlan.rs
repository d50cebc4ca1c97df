//! Uplinks on an interface of the node itself, without VLANs: a macvlan for each port.
//!
//! The macvlan has the port's hardware address and stays in the node's namespace, apart from the node's own stack as any
//! prepared uplink; a pod is joined to it by a veth pair and the joint. So making and deleting it never stands in the path
//! of a pod, and the pod has the local path, the cut, the counters and the check of its addresses that all pods have. A
//! macvlan in the pod itself would have none of those: it cannot talk to the interface below it, which is the node's, and
//! pods of one interface talk past everybody.
//!
//! Neighbour discovery reaches a macvlan only if it takes frames for all groups: which of them its pod is in, it cannot
//! know.
//!
//! Source: kernel `drivers/net/macvlan.c`.

use std::collections::BTreeMap;

use kuryr_types::MacAddr;

use super::{Node, Uplink, delete};
use crate::{
    error::{Error, Result},
    joint::Hook,
    link::{self, Link, MacvlanEnd},
    netlink::Request,
    sysctl::{self, Setting},
};

/// Kind of such links.
const KIND: &str = "macvlan";

/// An uplink to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MacvlanSpec {
    /// Name.
    pub ifname: String,
    /// Index of the interface of the node.
    pub lower: u32,
    /// Hardware address of the port.
    pub mac: MacAddr,
}

/// An uplink of this kind as found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObservedMacvlan {
    /// Its index.
    pub ifindex: u32,
    /// Hardware address.
    pub mac: MacAddr,
    /// Index of the interface below it.
    pub lower: Option<u32>,
    /// Whether it is up.
    pub up: bool,
}

impl Node {
    /// Makes a macvlan on an interface of the node, or brings one that exists up.
    ///
    /// # Errors
    ///
    /// `NoJoint` without eBPF, `InterfaceName`, `LinkTaken` if there is an interface of that name that is another, else
    /// what the kernel refused.
    pub fn prepare_macvlan(&self, spec: &MacvlanSpec) -> Result<Uplink> {
        link::check_name(&spec.ifname)?;
        if self.joint.is_none() {
            return Err(Error::NoJoint);
        }
        let link = self.macvlan(spec)?;
        sysctl::set(&spec.ifname, &[Setting::DisableIpv6(true)], false)?;
        // The program comes before the link is up, so no frame finds it without.
        self.attach_programs(&Hook::OF_UPLINK, link.index)?;
        self.socket().apply(&[link::set_all_multicast(link.index), link::bring_up(link.index)])?;
        Ok(Uplink { tap: None, ifname: link.name, ifindex: link.index, mac: spec.mac })
    }

    fn macvlan(&self, spec: &MacvlanSpec) -> Result<Link> {
        let mut socket = self.socket();
        let is_it = |link: &Link| {
            self.is_macvlan(link) && link.mac == Some(spec.mac) && link.peer == Some(spec.lower)
        };
        match link::find(&mut socket, &spec.ifname)? {
            Some(found) if is_it(&found) => return Ok(found),
            Some(found) => return Err(Error::LinkTaken { name: found.name }),
            None => {}
        }
        let group = self.config.uplink_group;
        let end = MacvlanEnd { lower: spec.lower, name: &spec.ifname, mac: spec.mac, group };
        let make: [Request; 1] = [link::create_macvlan(&end)];
        socket.apply(&make)?;
        let missing = || Error::LinkMissing { name: spec.ifname.clone() };
        link::find(&mut socket, &spec.ifname)?.ok_or_else(missing)
    }

    /// Lists the macvlans that are uplinks, by name.
    ///
    /// # Errors
    ///
    /// `Kernel` or `Restless`.
    pub fn macvlans(&self) -> Result<BTreeMap<String, ObservedMacvlan>> {
        Ok(self.macvlans_among(link::list(&mut self.socket())?))
    }

    pub(super) fn macvlans_among(&self, links: Vec<Link>) -> BTreeMap<String, ObservedMacvlan> {
        let observed = |link: Link| {
            let found =
                ObservedMacvlan { ifindex: link.index, mac: link.mac?, lower: link.peer, up: link.up };
            Some((link.name, found))
        };
        links.into_iter().filter(|link| self.is_macvlan(link)).filter_map(observed).collect()
    }

    /// Deletes a macvlan that is an uplink; one that does not exist is success. Slow: not while somebody waits.
    ///
    /// # Errors
    ///
    /// `LinkTaken` if it is none, `Kernel`, `Map`.
    pub fn remove_macvlan(&self, ifname: &str) -> Result<()> {
        link::check_name(ifname)?;
        let Some(link) = link::find(&mut self.socket(), ifname)? else { return Ok(()) };
        if !self.is_macvlan(&link) {
            return Err(Error::LinkTaken { name: link.name });
        }
        delete(link.index)?;
        self.forget_uplink(link.index)
    }

    pub(super) fn is_macvlan(&self, link: &Link) -> bool {
        link.group == self.config.uplink_group && link.kind.as_deref() == Some(KIND)
    }
}
