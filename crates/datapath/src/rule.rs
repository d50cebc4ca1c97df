//! Rules that choose the table of routes for some packets, both families.
//!
//! Three priorities are ours, and tables that no other program uses: what stands there is what we have set. Rules of others
//! before them count first.
//!
//! Sources: rtnetlink(7), ip-rule(8); kernel `net/core/fib_rules.c`.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    rule::{RuleAction, RuleAttribute, RuleMessage},
};
use rustix::io::Errno;

use crate::{
    address::family,
    error::{Result, Step, Subject},
    netlink::{Request, Socket},
    route::MAIN,
};

/// Priority of our rules, before that of the main table (32766).
const PRIORITY: u32 = 27_509;
/// Priority of those that leave some routes out: what they do lead is led before the others are asked.
const SELECTIVE_PRIORITY: u32 = 27_508;
/// Priority of those that lead past all of them, by everybody's routes.
const PASSING_PRIORITY: u32 = 27_507;

/// A rule: these packets go by this table, and by the next one if it has no route for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Which packets.
    pub of: Packets,
    /// The table.
    pub table: u32,
    /// Where the table's route is over a link of this group, it has none.
    pub but_over_group: Option<u32>,
}

/// Which packets a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packets {
    /// Those with this mark; of IPv4 or of IPv6.
    Marked {
        /// The mark.
        mark: u32,
        /// Of IPv4.
        ipv4: bool,
    },
    /// Those from this address.
    From(IpAddr),
    /// Those from this address to this network, of one family.
    Between(IpAddr, IpNet),
}

/// Sets a rule; one that is there already is success.
#[must_use]
pub fn set(rule: Rule) -> Request {
    let message = RouteNetlinkMessage::NewRule(message(rule));
    Request::new(Step::Set, rule.subject(), &message).creating().tolerating(&[Errno::EXIST])
}

/// Removes a rule; one that does not exist is success.
#[must_use]
pub fn remove(rule: Rule) -> Request {
    let message = RouteNetlinkMessage::DelRule(message(rule));
    Request::new(Step::Remove, rule.subject(), &message).tolerating(&[Errno::NOENT])
}

/// Lists our rules of both families.
///
/// # Errors
///
/// `Kernel` or `Restless`.
pub fn list(socket: &mut Socket) -> Result<Vec<Rule>> {
    let mut rules = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RuleMessage::default();
        message.header.family = family;
        let request = Request::new(Step::List, Subject::Rules, &RouteNetlinkMessage::GetRule(message));
        for answer in socket.list(&request)? {
            if let RouteNetlinkMessage::NewRule(message) = answer.route(&request)? {
                rules.extend(from_message(&message));
            }
        }
    }
    Ok(rules)
}

impl Rule {
    /// A rule without exception.
    #[must_use]
    pub const fn new(of: Packets, table: u32) -> Self {
        Self { of, table, but_over_group: None }
    }

    const fn priority(self) -> u32 {
        match self.but_over_group {
            Some(_) => SELECTIVE_PRIORITY,
            None if self.table == MAIN => PASSING_PRIORITY,
            None => PRIORITY,
        }
    }

    fn subject(self) -> Subject {
        Subject::Rule(match self.of {
            Packets::Marked { .. } => None,
            Packets::From(address) | Packets::Between(address, _) => Some(address),
        })
    }
}

fn message(rule: Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.action = RuleAction::ToTable;
    match rule.of {
        Packets::Marked { mark, ipv4 } => {
            message.header.family = if ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
            message.attributes.push(RuleAttribute::FwMark(mark));
        }
        Packets::From(address) => put_source(&mut message, address),
        Packets::Between(address, network) => {
            put_source(&mut message, address);
            message.header.dst_len = network.prefix_len();
            message.attributes.push(RuleAttribute::Destination(network.network()));
        }
    }
    message.attributes.push(RuleAttribute::Priority(rule.priority()));
    message.attributes.push(RuleAttribute::Table(rule.table));
    message.attributes.extend(rule.but_over_group.map(RuleAttribute::SuppressIfGroup));
    message
}

fn put_source(message: &mut RuleMessage, address: IpAddr) {
    message.header.family = family(address);
    message.header.src_len = if address.is_ipv4() { 32 } else { 128 };
    message.attributes.push(RuleAttribute::Source(address));
}

fn from_message(message: &RuleMessage) -> Option<Rule> {
    let (mut mark, mut source, mut destination) = (None, None, None);
    let (mut priority, mut table, mut but_over_group) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::Source(address) => source = Some(*address),
            RuleAttribute::Destination(address) => destination = Some(*address),
            RuleAttribute::Priority(value) => priority = Some(*value),
            RuleAttribute::Table(value) => table = Some(*value),
            RuleAttribute::SuppressIfGroup(value) => but_over_group = Some(*value),
            _ => {}
        }
    }
    let ipv4 = message.header.family == AddressFamily::Inet;
    let network = destination.and_then(|address| IpNet::new(address, message.header.dst_len).ok());
    let of = match (mark, source, network) {
        (_, Some(address), Some(network)) => Packets::Between(address, network),
        (_, Some(address), None) => Packets::From(address),
        (Some(mark), None, _) => Packets::Marked { mark, ipv4 },
        (None, None, _) => return None,
    };
    let rule = Rule { of, table: table?, but_over_group };
    (priority == Some(rule.priority())).then_some(rule)
}
