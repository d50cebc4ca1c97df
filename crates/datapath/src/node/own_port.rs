//! The node's own port: an interface of the node's stack on the pods' network.
//!
//! A veth pair like an uplink's, whose one end is plugged on the integration bridge. The other carries the port's
//! hardware address, its addresses and routes, and belongs to the node's stack: by it host processes reach pods of other
//! nodes.

use std::net::IpAddr;

use ipnet::IpNet;
use kuryr_types::MacAddr;

use super::{
    HybridSpec, Node, Offloads,
    uplink::{other_end, tap_mac},
    ways::{Side, rule_requests},
};
use crate::{
    address,
    error::{Error, Result},
    guard::OWN_PORT_GROUP,
    link::{self, Link, VethEnd},
    netlink::{Request, Socket},
    offload,
    route::{self, Route},
    rule::{self, Packets, Rule},
    sysctl::{self, Setting},
};

/// The node's own interface to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnPortSpec {
    /// Name of the end towards the integration bridge, which is plugged there unless there is a bridge in between.
    pub tap: String,
    /// The bridge in between, if there is one.
    pub hybrid: Option<HybridSpec>,
    /// Name of the interface.
    pub ifname: String,
    /// Hardware address of the port.
    pub mac: MacAddr,
    /// MTU of the port's network.
    pub mtu: u32,
    /// What the bridge's datapath needs.
    pub offloads: Offloads,
    /// Addresses with the prefix lengths of their subnets, which are reached on the link.
    pub addresses: Vec<IpNet>,
    /// Routes to other subnets. Their source is the first address of their family.
    pub routes: Vec<Route>,
    /// Those of its addresses that are not on the local path: the node's own pods reach them by the network.
    pub apart: Vec<IpAddr>,
}

impl Node {
    /// Makes the node's own interface, or brings the one that exists into the form asked for. An interface of that
    /// name whose other end has another name is one of an older port and is replaced.
    ///
    /// Of what is there already nothing is set again: the kernel would tell everybody of a change, and Open vSwitch's
    /// userspace datapath then reads all routes anew and loses what it would send through a tunnel meanwhile.
    ///
    /// # Errors
    ///
    /// `InterfaceName`, `LinkTaken` if the name belongs to something else, else what the kernel refused.
    pub fn prepare_own_port(&self, spec: &OwnPortSpec) -> Result<u32> {
        link::check_name(&spec.tap)?;
        link::check_name(&spec.ifname)?;
        let (own, tap) = self.own_pair(spec)?;
        sysctl::set(&spec.tap, &[Setting::DisableIpv6(true)], false)?;
        let has_ipv6 = spec.addresses.iter().any(|address| address.addr().is_ipv6());
        let settings = [Setting::DisableIpv6(false), Setting::AcceptDad(false), Setting::AcceptRa(false)];
        sysctl::set(&spec.ifname, &settings, has_ipv6)?;
        if spec.offloads == Offloads::Off {
            offload::finish_packets(own.index)?;
        }
        if let Some(hybrid) = &spec.hybrid {
            let links = link::list(&mut self.socket())?;
            if self.plugged_end(&tap, &links).name != hybrid.outer {
                self.prepare_hybrid(hybrid, tap.index, (spec.mac, spec.mtu))?;
            }
        }
        let mut socket = self.socket();
        let mut requests = vec![link::bring_up(own.index), link::bring_up(tap.index)];
        requests.extend(address_requests(&mut socket, spec, own.index)?);
        socket.apply(&requests)?;
        // Only now: with an address its routes go.
        let mut requests = route_requests(&mut socket, spec, own.index)?;
        requests.extend(way_requests(&mut socket, spec, own.index)?);
        socket.apply(&requests)?;
        sysctl::loosen_reverse_path(&spec.ifname)?;
        Ok(own.index)
    }

    /// Deletes the node's own interface; one that does not exist is success. Slow.
    ///
    /// # Errors
    ///
    /// `InterfaceName`, `Kernel`.
    pub fn remove_own_port(&self, ifname: &str) -> Result<()> {
        link::check_name(ifname)?;
        self.remove_rules()?;
        self.set_ways(Side::ToClients, &[], &[])?;
        let links = link::list(&mut self.socket())?;
        let Some(own) = links.iter().find(|link| link.name == ifname) else { return Ok(()) };
        if let Some(tap) = links.iter().find(|link| Some(link.index) == own.peer) {
            self.remove_hybrid(tap, &links)?;
        }
        self.socket().apply(&[link::delete(own.index)])
    }

    fn remove_rules(&self) -> Result<()> {
        let mut socket = self.socket();
        let present = rule::list(&mut socket)?;
        socket.apply(&present.into_iter().map(rule::remove).collect::<Vec<_>>())
    }

    /// The interface and its tap.
    fn own_pair(&self, spec: &OwnPortSpec) -> Result<(Link, Link)> {
        let mut socket = self.socket();
        if let Some(found) = link::find(&mut socket, &spec.ifname)? {
            let tap = other_end(&mut socket, &found)?;
            let tap = tap.ok_or(Error::LinkTaken { name: spec.ifname.clone() })?;
            if tap.name == spec.tap {
                // One of an agent before has none.
                if found.group != OWN_PORT_GROUP {
                    socket.apply(&[link::set_group(found.index, OWN_PORT_GROUP)])?;
                }
                if found.mac != Some(spec.mac) || found.mtu != spec.mtu {
                    socket.apply(&[link::set_mac_and_mtu(found.index, spec.mac, spec.mtu)])?;
                }
                return Ok((found, tap));
            }
            socket.apply(&[link::delete(found.index)])?;
        }
        let own = VethEnd {
            name: &spec.ifname,
            mac: spec.mac,
            mtu: spec.mtu,
            group: OWN_PORT_GROUP,
            arp: true,
            netns: None,
        };
        let tap = VethEnd { name: &spec.tap, mac: tap_mac(spec.mac), group: 0, arp: false, ..own };
        socket.apply(&[link::create_veth(own, tap)])?;
        let mut find =
            |name: &str| link::find(&mut socket, name)?.ok_or(Error::LinkMissing { name: name.to_owned() });
        let (own, tap) = (find(&spec.ifname)?, find(&spec.tap)?);
        socket.apply(&[link::no_generated_addresses(own.index)])?;
        Ok((own, tap))
    }
}

/// Addresses that are wanted, and the end of those that are not: the interface is ours alone.
fn address_requests(socket: &mut Socket, spec: &OwnPortSpec, index: u32) -> Result<Vec<Request>> {
    let mut wanted = spec.addresses.clone();
    if wanted.iter().any(|address| address.addr().is_ipv6()) {
        wanted.push(address::link_local(spec.mac).into());
    }
    let present = address::list(socket, index)?;
    let unwanted = present.iter().filter(|address| !wanted.contains(address));
    let missing = wanted.iter().filter(|address| !present.contains(address));
    let remove = unwanted.map(|one| address::remove(index, *one));
    Ok(remove.chain(missing.map(|one| address::set(index, *one))).collect())
}

/// Routes that are wanted, and the end of those that are not. Those to the addresses' own prefixes are the kernel's.
fn route_requests(socket: &mut Socket, spec: &OwnPortSpec, index: u32) -> Result<Vec<Request>> {
    let connected: Vec<IpNet> = spec.addresses.iter().map(IpNet::trunc).collect();
    let present = route::list(socket, index)?;
    let unwanted =
        present.iter().filter(|route| !connected.contains(&route.dst) && !spec.routes.contains(route));
    let missing = spec.routes.iter().filter(|route| !present.contains(route));
    let remove = unwanted.map(|one| route::remove(*one, index));
    let set = missing.map(|one| {
        let source = spec.addresses.iter().map(IpNet::addr).find(|own| same_family(*own, one.dst.addr()));
        route::set(&route::Setting { source, ..route::Setting::new(*one, index) })
    });
    Ok(remove.chain(set).collect())
}

/// The routes over the interface once more in a table without the node's routes to its own pods, and the rules by which
/// packets go by that table: those that were translated for a pod, which the local path is not for, and those from
/// addresses that are not on the local path.
fn way_requests(socket: &mut Socket, spec: &OwnPortSpec, index: u32) -> Result<Vec<Request>> {
    let table = Side::ToPods.table();
    let connected = spec.addresses.iter().map(|address| Route { dst: address.trunc(), via: None });
    let wanted: Vec<Route> = connected.chain(spec.routes.iter().copied()).collect();
    let present = route::list_all_in(socket, table)?;
    // Also what another mode of the node has left.
    let unwanted = present.iter().filter(|found| found.link != index || !wanted.contains(&found.route));
    let mut requests: Vec<Request> =
        unwanted.map(|one| route::remove_from(one.route, one.link, table)).collect();
    let is_there = |route: &Route| present.iter().any(|found| found.link == index && found.route == *route);
    let missing = wanted.iter().filter(|route| !is_there(route));
    requests
        .extend(missing.map(|one| route::set(&route::Setting { table, ..route::Setting::new(*one, index) })));
    requests.extend(rule_requests(socket, Side::ToPods, &rules(spec))?);
    Ok(requests)
}

fn rules(spec: &OwnPortSpec) -> Vec<Rule> {
    let apart = spec.apart.iter().copied().map(Packets::From);
    let apart = apart.map(|of| Rule::new(of, Side::ToPods.table()));
    Side::ToPods.rules(spec.addresses.iter().map(IpNet::addr)).into_iter().chain(apart).collect()
}

fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}
