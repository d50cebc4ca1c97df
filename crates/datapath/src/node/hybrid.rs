//! A bridge between a tap and the integration bridge, on which Neutron's agent filters with iptables.
//!
//! Terms, with the names that Nova gives them: the tap is a port of a bridge of its own (`qbr...`), of which the *inner*
//! end of another veth pair (`qvb...`) is a port, too; the *outer* end (`qvo...`) is plugged on the integration bridge in
//! the place of the tap. The agent's rules go by the names of tap and inner end.
//!
//! The bridge only passes frames on. It is told from bridges of others by its group.
//!
//! Sources: Neutron, `iptables_firewall.py` (`OVSHybridIptablesFirewallDriver`); os-vif, `vif_plug_ovs`, `ovs.py`
//! (`_plug_bridge`) and `linux_net.py` (ageing 0, no multicast snooping, no IPv6).

use kuryr_types::MacAddr;

use super::{Node, delete, uplink::other_end};
use crate::{
    error::{Error, Result},
    link::{self, Link, VethEnd},
    sysctl::{self, Setting},
};

/// The bridge between a tap and the integration bridge to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HybridSpec {
    /// Name of the bridge.
    pub bridge: String,
    /// Name of the end of the second veth pair that is a port of it.
    pub inner: String,
    /// Name of the end that is plugged on the integration bridge.
    pub outer: String,
}

impl Node {
    /// Makes bridge and second veth pair, all up, or what is missing of them, and puts the tap on the bridge.
    pub(super) fn prepare_hybrid(&self, spec: &HybridSpec, tap: u32, port: (MacAddr, u32)) -> Result<()> {
        for name in [&spec.bridge, &spec.inner, &spec.outer] {
            link::check_name(name)?;
        }
        let bridge = self.hybrid_bridge(spec, port)?;
        let (inner, outer) = self.hybrid_pair(spec, port)?;
        for name in [&spec.bridge, &spec.inner, &spec.outer] {
            sysctl::set(name, &[Setting::DisableIpv6(true)], false)?;
        }
        let mut socket = self.socket();
        socket.apply(&[
            link::put_on(tap, bridge.index),
            link::put_on(inner.index, bridge.index),
            link::bring_up(bridge.index),
            link::bring_up(inner.index),
            link::bring_up(outer.index),
        ])?;
        link::settle(&mut socket, inner.index)
    }

    fn hybrid_bridge(&self, spec: &HybridSpec, (mac, mtu): (MacAddr, u32)) -> Result<Link> {
        let mut socket = self.socket();
        if let Some(found) = link::find(&mut socket, &spec.bridge)? {
            let is_ours = found.group == self.config.bridge_group && found.kind.as_deref() == Some(BRIDGE);
            return if is_ours { Ok(found) } else { Err(Error::LinkTaken { name: spec.bridge.clone() }) };
        }
        let mac = of_ours(mac, OF_BRIDGE);
        socket.apply(&[link::create_bridge(&spec.bridge, mac, mtu, self.config.bridge_group)])?;
        let missing = || Error::LinkMissing { name: spec.bridge.clone() };
        link::find(&mut socket, &spec.bridge)?.ok_or_else(missing)
    }

    fn hybrid_pair(&self, spec: &HybridSpec, (mac, mtu): (MacAddr, u32)) -> Result<(Link, Link)> {
        let mut socket = self.socket();
        if link::find(&mut socket, &spec.inner)?.is_none() {
            let end = |name, first| VethEnd {
                name,
                mac: of_ours(mac, first),
                mtu,
                group: 0,
                arp: false,
                netns: None,
            };
            let (inner, outer) = (end(&spec.inner, OF_INNER), end(&spec.outer, OF_OUTER));
            socket.apply(&[link::create_veth(inner, outer)])?;
        }
        let missing = || Error::LinkMissing { name: spec.inner.clone() };
        let inner = link::find(&mut socket, &spec.inner)?.ok_or_else(missing)?;
        match other_end(&mut socket, &inner)? {
            Some(outer) if outer.name == spec.outer => Ok((inner, outer)),
            _ => Err(Error::LinkTaken { name: spec.inner.clone() }),
        }
    }

    /// What of `tap` is plugged on the integration bridge: the outer end if the tap is on a bridge of ours, else the tap.
    /// Where the outer end is missing, the tap.
    pub(super) fn plugged_end<'a>(&self, tap: &'a Link, links: &'a [Link]) -> &'a Link {
        let Some(bridge) = self.bridge_of(tap, links) else { return tap };
        let inner = links.iter().find(|link| link.master == Some(bridge.index) && link.index != tap.index);
        let outer = inner.and_then(|inner| links.iter().find(|link| Some(link.index) == inner.peer));
        outer.unwrap_or(tap)
    }

    /// The tap behind what is plugged on the integration bridge.
    pub(super) fn tap_of<'a>(&self, plugged: &'a Link, links: &'a [Link]) -> &'a Link {
        let inner = links.iter().find(|link| Some(link.index) == plugged.peer);
        let bridge = inner.and_then(|inner| self.bridge_of(inner, links));
        let is_tap = |link: &&Link| link.master == bridge.map(|bridge| bridge.index) && Some(*link) != inner;
        bridge.and_then(|_| links.iter().find(is_tap)).unwrap_or(plugged)
    }

    /// Indexes of what is between `tap` and the integration bridge, if anything is: bridge, inner and outer end.
    pub(super) fn hybrid_links(&self, tap: &Link, links: &[Link]) -> Vec<u32> {
        let Some(bridge) = self.bridge_of(tap, links) else { return Vec::new() };
        let ports: Vec<&Link> = links.iter().filter(|link| link.master == Some(bridge.index)).collect();
        let outer = ports.iter().filter(|port| port.index != tap.index).filter_map(|inner| inner.peer);
        ports.iter().map(|port| port.index).chain(outer).chain([bridge.index]).collect()
    }

    /// Deletes the bridge that `tap` is on, if it is one of ours, and its other port. Slow.
    pub(super) fn remove_hybrid(&self, tap: &Link, links: &[Link]) -> Result<()> {
        let Some(bridge) = self.bridge_of(tap, links) else { return Ok(()) };
        let ports = links.iter().filter(|link| link.master == Some(bridge.index) && link.index != tap.index);
        for link in ports.chain([bridge]) {
            delete(link.index)?;
        }
        Ok(())
    }

    fn bridge_of<'a>(&self, link: &Link, links: &'a [Link]) -> Option<&'a Link> {
        links
            .iter()
            .find(|bridge| Some(bridge.index) == link.master && bridge.group == self.config.bridge_group)
    }
}

const BRIDGE: &str = "bridge";
/// First bytes of hardware addresses that are no port's: local ones, each another than the tap's.
const OF_BRIDGE: u8 = 0xee;
const OF_INNER: u8 = 0xea;
const OF_OUTER: u8 = 0xe6;

fn of_ours(port: MacAddr, first: u8) -> MacAddr {
    let mut mac = port;
    mac.0[0] = first;
    mac
}
