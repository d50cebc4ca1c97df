//! Ways of packets that were translated for clients outside: to pods past the local path, and back to clients past the
//! node's own port.
//!
//! Each side has a mark, a table of routes, and in each family a rule that leads what carries the mark there. What has no
//! route in the table goes by the node's other routes. Tables and rules are ours alone.
//!
//! What the node says with an address that its own port has not goes back to clients the same way. Rules ask for the address,
//! which a packet has that answers, and one of a socket that was bound to it; who connects and leaves the choice to the kernel
//! has none yet, goes by the own port, and gets its address. First the node's routes are asked without those of the own port: pods
//! of the node are reached by the local path. What such a socket begins carries a mark of its own where there are tables of
//! netfilter ([`Departures`](crate::Departures)), and by the mark it goes as who leaves the choice to the kernel.
//!
//! Which routes there are to be is the caller's to say.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use super::Node;
use crate::{
    error::Result,
    guard::OWN_PORT_GROUP,
    inbound, link,
    netlink::{Request, Socket},
    route::{self, Found, MAIN, Route, Setting},
    rule::{self, Packets, Rule},
    sysctl,
};

/// Where packets go that were translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// To an endpoint.
    ToPods,
    /// Back to a client.
    ToClients,
}

/// A route of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeRoute {
    /// Destination.
    pub dst: IpNet,
    /// Next hop; `None`: the destination is on the link.
    pub via: Option<IpAddr>,
    /// Index of the link.
    pub link: u32,
}

impl Side {
    pub(super) const fn table(self) -> u32 {
        match self {
            Self::ToPods => 27_509,
            Self::ToClients => 27_510,
        }
    }

    const fn mark(self) -> u32 {
        match self {
            Self::ToPods => inbound::MARK,
            Self::ToClients => inbound::ANSWER_MARK,
        }
    }

    /// The rules by which marked packets of the families of `destinations` go by the side's table.
    pub(super) fn rules(self, destinations: impl IntoIterator<Item = IpAddr>) -> Vec<Rule> {
        let families: BTreeSet<bool> = destinations.into_iter().map(|address| address.is_ipv4()).collect();
        let marked = families.into_iter().map(|ipv4| Packets::Marked { mark: self.mark(), ipv4 });
        marked.map(|of| Rule::new(of, self.table())).collect()
    }

    /// The rules by which packets from these addresses to these networks go by the side's table, but to where the node's routes
    /// lead them over another link than the own port. To other networks the operator's rules hold.
    fn rules_from(self, addresses: &[IpAddr], networks: &[IpNet]) -> impl Iterator<Item = Rule> {
        let between = addresses.iter().flat_map(|from| {
            let of_family = networks.iter().filter(|to| to.addr().is_ipv4() == from.is_ipv4());
            of_family.map(|to| Packets::Between(*from, *to))
        });
        between.flat_map(move |of| {
            [Rule { of, table: MAIN, but_over_group: Some(OWN_PORT_GROUP) }, Rule::new(of, self.table())]
        })
    }

    /// The rules by which what the node begins with one of these addresses goes as what has no address yet.
    fn rules_of_departures(addresses: &[IpAddr], networks: &[IpNet]) -> impl Iterator<Item = Rule> {
        [true, false].into_iter().filter_map(|ipv4| {
            let has = addresses.iter().any(|from| from.is_ipv4() == ipv4)
                && networks.iter().any(|to| to.addr().is_ipv4() == ipv4);
            let of = Packets::Marked { mark: inbound::DEPARTURE_MARK, ipv4 };
            has.then_some(Rule::new(of, MAIN))
        })
    }

    fn has(self, rule: &Rule) -> bool {
        rule.table == self.table() || self == Self::ToClients && rule.table == MAIN
    }
}

impl Node {
    /// Lists the routes of the node that all its packets go by, of equal destinations the better first.
    ///
    /// # Errors
    ///
    /// `Kernel` or `Restless`.
    pub fn routes(&self) -> Result<Vec<NodeRoute>> {
        Ok(route::list_all(&mut self.socket())?.into_iter().map(node_route).collect())
    }

    /// Has translated packets of a side go by these routes, and so what the node says with the addresses `from` to their
    /// destinations, but not to where its routes lead past its own port. Packets of pods that answer are let in by the links of [`Side::ToPods`] although the
    /// local path leads to those pods.
    ///
    /// What is there already is not set again.
    ///
    /// # Errors
    ///
    /// `Kernel`, `Restless`, `Sysctl`.
    pub fn set_ways(&self, side: Side, wanted: &[NodeRoute], from: &[IpAddr]) -> Result<()> {
        let mut socket = self.socket();
        let present: Vec<NodeRoute> =
            route::list_all_in(&mut socket, side.table())?.into_iter().map(node_route).collect();
        let unwanted = present.iter().filter(|one| !wanted.contains(one));
        let mut requests: Vec<Request> =
            unwanted.map(|one| route::remove_from(one.route(), one.link, side.table())).collect();
        let missing = wanted.iter().filter(|one| !present.contains(one));
        requests.extend(missing.map(|one| {
            // The router was found by another table.
            let setting =
                Setting { onlink: true, table: side.table(), ..Setting::new(one.route(), one.link) };
            route::set(&setting)
        }));
        let networks: Vec<IpNet> = wanted.iter().map(|one| one.dst.trunc()).collect();
        let of_node = side.rules_from(from, &networks).chain(Side::rules_of_departures(from, &networks));
        let rules: Vec<Rule> =
            side.rules(networks.iter().map(IpNet::addr)).into_iter().chain(of_node).collect();
        requests.extend(rule_requests(&mut socket, side, &rules)?);
        socket.apply(&requests)?;
        if side == Side::ToPods {
            let links: BTreeSet<u32> = wanted.iter().map(|one| one.link).collect();
            for index in links {
                if let Some(link) = link::find_by_index(&mut socket, index)? {
                    sysctl::loosen_reverse_path(&link.name)?;
                }
            }
        }
        Ok(())
    }
}

/// What makes of a side's rules those that are wanted.
pub(super) fn rule_requests(socket: &mut Socket, side: Side, wanted: &[Rule]) -> Result<Vec<Request>> {
    let mut present = rule::list(socket)?;
    present.retain(|rule| side.has(rule));
    let unwanted = present.iter().filter(|rule| !wanted.contains(rule)).map(|rule| rule::remove(*rule));
    let missing = wanted.iter().filter(|rule| !present.contains(rule)).map(|rule| rule::set(*rule));
    Ok(unwanted.chain(missing).collect())
}

fn node_route(found: Found) -> NodeRoute {
    NodeRoute { dst: found.route.dst, via: found.route.via, link: found.link }
}

impl NodeRoute {
    fn route(&self) -> Route {
        Route { dst: self.dst, via: self.via }
    }
}
