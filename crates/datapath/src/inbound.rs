//! Clients that are no processes of this node: what arrives at the node for a Service or a pod's port is translated to an
//! endpoint by tables of netfilter, and leaves with an address of the node, so that the answer comes back through it.
//!
//! There is a table `kuryr-services` in the families `ip` and `ip6`, owned by us alone. It has a fixed number of chains and
//! maps, and is the same for one Service and for ten thousand:
//!
//! 1. `arriving` looks an arrival (address, protocol, port) up in `frontends`, once for each connection, and goes to the
//!    chain for its number of endpoints: `one_of_3`, or `keep_3_60` where a client keeps its endpoint for 60 seconds.
//! 2. There a slot is drawn, and `endpoints` tells address and port for (arrival, slot). A client that keeps its endpoint
//!    has the endpoint's number in `affinity`, by a hash of the Service's number and its own address; `numbers` tells the
//!    number in a slot, and `members` the endpoint of a number, if it still is one.
//! 3. The connection is marked with [`MARK`], and so is each of its packets towards the endpoint: by the mark they go by
//!    a table of routes that has no local path ([`Node::set_ways`](crate::Node::set_ways),
//!    [`Node::prepare_own_port`](crate::Node::prepare_own_port)). Packets back carry [`ANSWER_MARK`].
//! 4. `leaving` gives them the address of the interface by which they leave.
//!    What is led straight to pods of this node keeps its client's: its chains (`straight_one_of_3`) mark it with
//!    [`STRAIGHT_MARK`], which the joint takes ([`Node::set_straight`](crate::Node::set_straight)). Such connections go from
//!    and to host ends, and nothing else does.
//! 5. Arrivals without an endpoint are in `without`: refused or dropped. Those that only some clients may reach are in
//!    `restricted`, and who may in `admitted`.
//! 6. What processes of the node begin with an address that the own port has not ([`Departures`]), `departing` marks with
//!    [`DEPARTURE_MARK`]: by the mark it goes as what has no address yet ([`Node::set_ways`](crate::Node::set_ways)), and
//!    where that is by the own port, `leaving` gives it the port's address. What the node answers is left alone, and so is a
//!    connection of TCP whose beginning nobody saw, and what carries a mark of somebody else's.
//!
//! What comes from pods of this node is left alone: their sockets have got an endpoint already.
//!
//! One call is one transaction: of changed arrivals, what differs; in the first of a process all elements, while the memory
//! of `affinity` stays. Connections go on meanwhile, as each is translated once. Numbers of endpoints are hashes of
//! their addresses, so they mean the same to the next process.
//!
//! Nothing here decides what is at an arrival.
//!
//! Sources: nft(8); kernel `net/netfilter/nft_dynset.c`, `nft_numgen.c`; kube-proxy 1.36, `pkg/proxy/nftables`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use ipnet::IpNet;

use crate::{
    conntrack::{self, Flow},
    error::{Error, Result},
    guard::{OWN_PORT_GROUP, POD_GROUP},
    netlink::Socket,
    nft,
};

pub use kuryr_ebpf_maps::joint::STRAIGHT_MARK;

/// Mark of connections that were translated here, and of their packets towards the endpoint.
pub const MARK: u32 = 0x6b75_0002;
/// Mark of packets of such connections back to the client.
pub const ANSWER_MARK: u32 = 0x6b75_0003;
/// Mark of connections that the node began with an address which its own port has not, and of their packets.
pub const DEPARTURE_MARK: u32 = 0x6b75_0005;

/// The table, as errors name it.
const WHAT: &str = "the tables for clients outside the node";
const TABLE: &str = "kuryr-services";
/// How many clients' endpoints are remembered in each family. Who comes after those is served, and not remembered.
const AFFINITIES: u32 = 65_536;
/// Of the hash of clients, the same for every process.
const SEED: u32 = 0x6b75;
/// Elements of one command.
const AT_ONCE: usize = 1000;

/// Where packets arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrival {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Protocol.
    pub transport: Transport,
}

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What becomes of what arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is led.
    pub lead: Lead,
    /// From which addresses; empty: from all. No range contains another.
    pub admitted: Vec<IpNet>,
    /// Its endpoints are pods of this node that are reached straight, with clients' own addresses, or the node itself.
    pub is_straight: bool,
}

/// Where packets are led.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lead {
    /// To one of these, each connection to one of its own, uniformly chosen.
    Endpoints {
        /// The endpoints, of the arrival's family; not empty.
        endpoints: Vec<SocketAddr>,
        /// Whether a client keeps its endpoint.
        affinity: Option<Affinity>,
    },
    /// Nowhere; the client is told.
    Refused,
    /// Nowhere; the client is told nothing.
    Dropped,
}

/// That a client keeps its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Affinity {
    /// For how many seconds after it has connected last.
    pub seconds: u32,
    /// Arrivals of the same number lead a client to the same endpoint.
    pub service: u32,
}

/// What of the node's own leaves by its own port with the port's address, whatever address it was begun with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Departures {
    /// Addresses of the node that its own port has not.
    pub from: BTreeSet<IpAddr>,
    /// Networks. None contains another.
    pub to: BTreeSet<IpNet>,
}

/// The tables of this node.
#[derive(Debug)]
pub struct Inbound {
    nft: PathBuf,
    /// What they hold; none before the first call, and after one that failed.
    held: Option<(BTreeMap<Arrival, Entry>, Departures)>,
    /// The chains that they have, in each family.
    chains: BTreeSet<(Family, Chain)>,
}

impl Inbound {
    /// Tables that are changed by the program `nft`. Does nothing yet.
    #[must_use]
    pub fn new(nft: impl Into<PathBuf>) -> Self {
        Self { nft: nft.into(), held: None, chains: BTreeSet::new() }
    }

    /// Has the tables of the calling thread's namespace hold this and nothing else; tells whether anything was changed.
    ///
    /// # Errors
    ///
    /// `NftTool`, `NftRefused`, `NftSilent`.
    pub fn set(&mut self, wanted: &BTreeMap<Arrival, Entry>, departures: &Departures) -> Result<bool> {
        let next = || Some((wanted.clone(), departures.clone()));
        if let Some((held, departed)) = self.held.take() {
            let (commands, chains) = changes((&held, &departed), (wanted, departures), &self.chains);
            if commands.is_empty() || nft::run(&self.nft, WHAT, &commands).is_ok() {
                self.chains.extend(chains);
                self.held = next();
                return Ok(!commands.is_empty());
            }
            // They are not as they were left; written anew, they are right again, or it is told why not.
        }
        let (commands, chains) = whole(wanted, departures);
        match nft::run(&self.nft, WHAT, &commands) {
            // Maps of another version of ours may have another form.
            Err(Error::NftRefused { .. }) => {
                nft::run(&self.nft, WHAT, &(deletion() + &commands))?;
            }
            done => done?,
        }
        self.chains = chains;
        self.held = next();
        Ok(true)
    }

    /// Looks whether the tables are still there; if not, the next [`Inbound::set`] makes them anew.
    pub fn look_after(&mut self) {
        let look: String =
            Family::BOTH.iter().map(|family| format!("list chain {family} {TABLE} arriving\n")).collect();
        if self.held.is_some() && nft::run(&self.nft, WHAT, &look).is_err() {
            self.held = None;
        }
    }

    /// Takes the tables away; that there are none is success, and so is that there is no program to make them.
    ///
    /// # Errors
    ///
    /// `NftRefused`, `NftSilent`.
    pub fn remove(&mut self) -> Result<()> {
        self.held = None;
        let is_there =
            |family: &Family| nft::run(&self.nft, WHAT, &format!("list table {family} {TABLE}\n")).is_ok();
        match nft::run(&self.nft, WHAT, &deletion()) {
            Err(Error::NftTool { .. }) => Ok(()),
            // A kernel without such tables has none of ours.
            Err(Error::NftRefused { .. }) if !Family::BOTH.iter().any(is_there) => Ok(()),
            done => done,
        }
    }

    /// Lists the connections of UDP that the kernel keeps track of in the calling thread's namespace.
    ///
    /// # Errors
    ///
    /// `Kernel`, `KernelSilent`, `Garbled`, `Restless`, `Socket`.
    pub fn udp_flows() -> Result<Vec<Flow>> {
        conntrack::udp_flows(&mut Socket::netfilter()?)
    }

    /// Has the kernel forget connections, so that the next datagram of each client is led anew.
    ///
    /// # Errors
    ///
    /// As [`Inbound::udp_flows`].
    pub fn end_flows(flows: &[Flow]) -> Result<()> {
        conntrack::end(&mut Socket::netfilter()?, flows)
    }
}

/// A family of addresses, as nft names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    Ip,
    Ip6,
}

impl Family {
    const BOTH: [Self; 2] = [Self::Ip, Self::Ip6];

    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ip } else { Self::Ip6 }
    }

    fn address_type(self) -> &'static str {
        match self {
            Self::Ip => "ipv4_addr",
            Self::Ip6 => "ipv6_addr",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        })
    }
}

impl fmt::Display for Arrival {
    /// As nft has it in keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        write!(f, "{} . {transport} . {}", self.address, self.port)
    }
}

/// A chain that chooses among endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Chain {
    endpoints: usize,
    /// 0: clients do not keep theirs.
    seconds: u32,
    is_straight: bool,
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.way())?;
        match self {
            Self { endpoints, seconds: 0, .. } => write!(f, "one_of_{endpoints}"),
            Self { endpoints, seconds, .. } => write!(f, "keep_{endpoints}_{seconds}"),
        }
    }
}

impl Chain {
    fn of(entry: &Entry) -> Option<Self> {
        match &entry.lead {
            Lead::Endpoints { endpoints, affinity } => Some(Self {
                endpoints: endpoints.len(),
                seconds: affinity.map_or(0, |kept| kept.seconds),
                is_straight: entry.is_straight,
            }),
            Lead::Refused | Lead::Dropped => None,
        }
    }

    /// What names of chains begin with.
    fn way(self) -> &'static str {
        if self.is_straight { "straight_" } else { "" }
    }

    /// The commands that make it, in a table where it may have been before.
    fn commands(self, family: Family, to: &mut String) {
        let arrival = format!("{family} daddr . meta l4proto . th dport");
        let slot = match self.endpoints {
            1 => "0".to_owned(),
            more => format!("numgen random mod {more}"),
        };
        let ours = format!("ct mark set {:#x}", if self.is_straight { STRAIGHT_MARK } else { MARK });
        let translate = |map: &str| format!("dnat to {arrival} . meta mark map @{map}");
        if self.seconds == 0 {
            // What changes while a packet looks is met again by the next one.
            let rules = [format!("meta mark set {slot}"), ours, translate("endpoints"), "drop".to_owned()];
            return chain(family, &self.to_string(), &rules, to);
        }
        let kept = format!("{}kept_{}", self.way(), self.seconds);
        // By its hash, as nft 1.0.6 makes a wrong rule of a key and a value of more than 16 bytes. Two clients of the same
        // hash keep the same endpoint.
        let client = [
            format!("ct mark set {arrival} map @services"),
            format!("ct mark set jhash ct mark . {family} saddr mod {} seed {SEED:#x}", u32::MAX),
        ];
        let remember = format!("update @affinity {{ ct mark timeout {}s : meta mark }}", self.seconds);
        // Where the endpoint is none any more, this comes back.
        let rules = [&[remember.clone(), ours.clone(), translate("members")], &client[..]].concat();
        chain(family, &kept, &rules, to);
        let choice = [
            format!("meta mark set ct mark map @affinity jump {kept}"),
            format!("meta mark set {slot}"),
            format!("meta mark set {arrival} . meta mark map @numbers"),
            // An update of what is there leaves the endpoint as it was.
            "delete @affinity { ct mark : meta mark }".to_owned(),
            remember,
            ours,
            translate("members"),
            "drop".to_owned(),
        ];
        chain(family, &self.to_string(), &[&client[..], &choice].concat(), to);
    }
}

/// A chain with these rules and no others.
fn chain(family: Family, name: &str, rules: &[String], to: &mut String) {
    let _ = writeln!(to, "add chain {family} {TABLE} {name}\nflush chain {family} {TABLE} {name}");
    for rule in rules {
        let _ = writeln!(to, "add rule {family} {TABLE} {name} {rule}");
    }
}

fn base_chain(family: Family, (name, hook): (&str, &str), rules: &[String], to: &mut String) {
    let _ = writeln!(to, "add chain {family} {TABLE} {name} {{ type {hook}; policy accept; }}");
    for rule in rules {
        let _ = writeln!(to, "add rule {family} {TABLE} {name} {rule}");
    }
}

fn deletion() -> String {
    Family::BOTH
        .iter()
        .map(|family| format!("table {family} {TABLE}\ndelete table {family} {TABLE}\n"))
        .collect()
}

/// The commands that make the tables whatever they held before, and the chains that they have then.
fn whole(wanted: &BTreeMap<Arrival, Entry>, departures: &Departures) -> (String, BTreeSet<(Family, Chain)>) {
    let mut text = String::new();
    for family in Family::BOTH {
        // Rules only; what was remembered stays.
        let _ = writeln!(text, "table {family} {TABLE}\nflush table {family} {TABLE}");
        maps(family, &mut text);
        fixed_chains(family, &mut text);
    }
    let nothing = (BTreeMap::new(), Departures::default());
    let (commands, chains) = changes((&nothing.0, &nothing.1), (wanted, departures), &BTreeSet::new());
    (text + &commands, chains)
}

fn maps(family: Family, to: &mut String) {
    let address = family.address_type();
    let arrival = format!("{address} . inet_proto . inet_service");
    let target = format!("{address} . inet_service");
    for (kind, name, form) in [
        ("map", "frontends", format!("{arrival} : verdict")),
        ("map", "endpoints", format!("{arrival} . mark : {target}")),
        ("map", "services", format!("{arrival} : mark")),
        ("map", "numbers", format!("{arrival} . mark : mark")),
        ("map", "members", format!("{arrival} . mark : {target}")),
        ("map", "without", format!("{arrival} : verdict")),
        ("set", "restricted", arrival.clone()),
        ("set", "admitted", format!("{arrival} . {address}; flags interval")),
        ("set", "departing_from", address.to_owned()),
        ("set", "departing_to", format!("{address}; flags interval")),
    ] {
        let _ = writeln!(to, "add {kind} {family} {TABLE} {name} {{ type {form}; }}");
        let _ = writeln!(to, "flush {kind} {family} {TABLE} {name}");
    }
    let _ = writeln!(
        to,
        "add map {family} {TABLE} affinity {{ type mark : mark; flags dynamic,timeout; size {AFFINITIES}; }}"
    );
}

fn fixed_chains(family: Family, to: &mut String) {
    let arrival = format!("{family} daddr . meta l4proto . th dport");
    let unreachable = match family {
        Family::Ip => "icmp type port-unreachable",
        Family::Ip6 => "icmpv6 type port-unreachable",
    };
    let refuse = ["meta l4proto tcp reject with tcp reset".to_owned(), format!("reject with {unreachable}")];
    chain(family, "refuse", &refuse, to);
    let admit = [format!("ct state new {arrival} @restricted {arrival} . {family} saddr != @admitted drop")];
    base_chain(family, ("admitting", "filter hook prerouting priority -110"), &admit, to);
    let arrive = [format!("iifgroup {POD_GROUP} return"), format!("{arrival} vmap @frontends")];
    base_chain(family, ("arriving", "nat hook prerouting priority -100"), &arrive, to);
    // After the translation, before the choice of the route.
    let steer = [
        (MARK, "original", MARK),
        (MARK, "reply", ANSWER_MARK),
        (STRAIGHT_MARK, "original", STRAIGHT_MARK),
        (STRAIGHT_MARK, "reply", ANSWER_MARK),
    ]
    .map(|(of, direction, mark)| format!("ct mark {of:#x} ct direction {direction} meta mark set {mark:#x}"));
    base_chain(family, ("steering", "filter hook prerouting priority -90"), &steer, to);
    let refuse = [format!("ct state new {arrival} vmap @without")];
    base_chain(family, ("delivered", "filter hook input priority -10"), &refuse, to);
    // The guard lets marks pass. Answers come by the way of the question only; what has no host end any more goes nowhere.
    let straight = [
        format!("iifgroup {POD_GROUP} ct mark != {STRAIGHT_MARK:#x} drop"),
        format!("oifgroup != {POD_GROUP} ct mark {STRAIGHT_MARK:#x} ct direction original drop"),
    ];
    base_chain(
        family,
        ("forwarded", "filter hook forward priority -10"),
        &[&straight[..], &refuse[..]].concat(),
        to,
    );
    base_chain(family, ("departing", "route hook output priority -90"), &departing(family), to);
    let leave = [
        format!("ct mark {MARK:#x} masquerade fully-random"),
        // With the port that the process has, if no other has it there.
        format!("oifgroup {OWN_PORT_GROUP} ct mark {DEPARTURE_MARK:#x} masquerade"),
    ];
    base_chain(family, ("leaving", "nat hook postrouting priority 100"), &leave, to);
}

/// After translations of others, as what arrives.
fn departing(family: Family) -> [String; 4] {
    let between =
        format!("ct state new meta mark 0 {family} saddr @departing_from {family} daddr @departing_to");
    let ours = format!("ct mark set {DEPARTURE_MARK:#x}");
    [
        format!("oifgroup {POD_GROUP} return"),
        // An answer in a connection that the kernel has not kept track of looks new as well.
        format!("tcp flags & (fin | syn | rst | ack) == syn {between} {ours}"),
        format!("meta l4proto != tcp {between} {ours}"),
        format!("ct mark {DEPARTURE_MARK:#x} ct direction original meta mark set {DEPARTURE_MARK:#x}"),
    ]
}

/// An element of a map, or of a set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Element {
    key: String,
    value: Option<String>,
}

type Elements = BTreeMap<(Family, &'static str), BTreeSet<Element>>;

/// The commands that make of what is held what is wanted, and the chains that come with it.
fn changes(
    (held, departed): (&BTreeMap<Arrival, Entry>, &Departures),
    (wanted, departures): (&BTreeMap<Arrival, Entry>, &Departures),
    chains: &BTreeSet<(Family, Chain)>,
) -> (String, BTreeSet<(Family, Chain)>) {
    let (mut before, mut after, mut needed) = (Elements::new(), Elements::new(), BTreeSet::new());
    departed.elements(&mut before);
    departures.elements(&mut after);
    for (arrival, entry) in held.iter().filter(|(arrival, entry)| wanted.get(arrival) != Some(entry)) {
        elements(arrival, entry, &mut before);
    }
    for (arrival, entry) in wanted.iter().filter(|(arrival, entry)| held.get(arrival) != Some(entry)) {
        elements(arrival, entry, &mut after);
        needed.extend(Chain::of(entry).map(|chain| (Family::of(arrival.address), chain)));
    }
    let missing: BTreeSet<_> = needed.difference(chains).copied().collect();
    let mut text = String::new();
    for (family, chain) in &missing {
        chain.commands(*family, &mut text);
    }
    let none = BTreeSet::new();
    let of = |all: &'_ Elements, place| all.get(place).unwrap_or(&none).clone();
    for place in before.keys().collect::<BTreeSet<_>>() {
        command("delete", place, of(&before, place).difference(&of(&after, place)), &mut text);
    }
    for place in after.keys().collect::<BTreeSet<_>>() {
        command("add", place, of(&after, place).difference(&of(&before, place)), &mut text);
    }
    (text, missing)
}

fn command<'a>(
    verb: &str,
    (family, map): &(Family, &'static str),
    elements: impl Iterator<Item = &'a Element>,
    to: &mut String,
) {
    let texts: Vec<String> = elements
        .map(|element| match &element.value {
            Some(value) => format!("{} : {value}", element.key),
            None => element.key.clone(),
        })
        .collect();
    for some in texts.chunks(AT_ONCE) {
        let _ = writeln!(to, "{verb} element {family} {TABLE} {map} {{ {} }}", some.join(", "));
    }
}

impl Departures {
    fn elements(&self, to: &mut Elements) {
        let mut put = |set, of, key: String| {
            to.entry((Family::of(of), set)).or_default().insert(Element { key, value: None });
        };
        self.from.iter().for_each(|from| put("departing_from", *from, from.to_string()));
        self.to.iter().for_each(|network| put("departing_to", network.addr(), network.to_string()));
    }
}

fn elements(arrival: &Arrival, entry: &Entry, to: &mut Elements) {
    let family = Family::of(arrival.address);
    let mut put = |map, key: String, value: Option<String>| {
        to.entry((family, map)).or_default().insert(Element { key, value });
    };
    if let Some(chain) = Chain::of(entry) {
        put("frontends", arrival.to_string(), Some(format!("goto {chain}")));
    }
    match &entry.lead {
        Lead::Endpoints { endpoints, affinity: None } => {
            for (slot, endpoint) in endpoints.iter().enumerate() {
                put("endpoints", format!("{arrival} . {slot}"), Some(target(endpoint)));
            }
        }
        Lead::Endpoints { endpoints, affinity: Some(affinity) } => {
            put("services", arrival.to_string(), Some(affinity.service.to_string()));
            for (slot, (number, endpoint)) in numbered(endpoints).into_iter().enumerate() {
                put("numbers", format!("{arrival} . {slot}"), Some(number.to_string()));
                put("members", format!("{arrival} . {number}"), Some(target(&endpoint)));
            }
        }
        Lead::Refused => put("without", arrival.to_string(), Some("goto refuse".to_owned())),
        Lead::Dropped => put("without", arrival.to_string(), Some("drop".to_owned())),
    }
    if !entry.admitted.is_empty() {
        put("restricted", arrival.to_string(), None);
    }
    for range in &entry.admitted {
        put("admitted", format!("{arrival} . {range}"), None);
    }
}

fn target(endpoint: &SocketAddr) -> String {
    format!("{} . {}", endpoint.ip(), endpoint.port())
}

/// Endpoints by their numbers, which follow from their addresses; of two that had the same, the next ones.
fn numbered(endpoints: &[SocketAddr]) -> BTreeMap<u32, SocketAddr> {
    let mut numbered = BTreeMap::new();
    for endpoint in endpoints {
        let mut number = hash(endpoint);
        while numbered.contains_key(&number) {
            number = number.wrapping_add(1);
        }
        numbered.insert(number, *endpoint);
    }
    numbered
}

/// FNV-1a.
fn hash(endpoint: &SocketAddr) -> u32 {
    let address = match endpoint.ip() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let bytes = address.into_iter().chain(endpoint.port().to_be_bytes());
    bytes.fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(text: &str, transport: Transport) -> Arrival {
        let address: SocketAddr = text.parse().unwrap();
        Arrival { address: address.ip(), port: address.port(), transport }
    }

    fn led(endpoints: &[&str], seconds: u32, admitted: &[&str]) -> Entry {
        let affinity = (seconds > 0).then_some(Affinity { seconds, service: 77 });
        let endpoints = endpoints.iter().map(|text| text.parse().unwrap()).collect();
        Entry {
            lead: Lead::Endpoints { endpoints, affinity },
            admitted: admitted.iter().map(|text| text.parse().unwrap()).collect(),
            is_straight: false,
        }
    }

    fn straight(endpoints: &[&str], seconds: u32) -> Entry {
        Entry { is_straight: true, ..led(endpoints, seconds, &[]) }
    }

    /// What the kernel holds after commands: elements by family and map. What a delete names has to be there, what is
    /// added must not be, and a chain has to be there before an element goes to it.
    #[derive(Default)]
    struct Kernel {
        elements: BTreeMap<String, BTreeMap<String, String>>,
        chains: BTreeSet<String>,
    }

    impl Kernel {
        fn run(&mut self, commands: &str) {
            for line in commands.lines() {
                if line.starts_with("table") || line.starts_with("flush table") {
                    continue;
                }
                let words: Vec<&str> = line.split(' ').collect();
                match (words[0], words[1]) {
                    ("add", "chain") => drop(self.chains.insert(format!("{} {}", words[2], words[4]))),
                    ("flush", "map" | "set") => {
                        self.elements.remove(&format!("{} {}", words[2], words[4]));
                    }
                    (verb, "element") => {
                        let map = self.elements.entry(format!("{} {}", words[2], words[4])).or_default();
                        let inner = line.split_once("{ ").unwrap().1.strip_suffix(" }").unwrap();
                        for element in inner.split(", ") {
                            let (key, value) = element.split_once(" : ").unwrap_or((element, ""));
                            if let Some(chain) = value.strip_prefix("goto ") {
                                assert!(self.chains.contains(&format!("{} {chain}", words[2])), "{chain}");
                            }
                            if verb == "add" {
                                assert_eq!(map.insert(key.into(), value.into()), None, "{element}");
                            } else {
                                assert_eq!(map.remove(key).as_deref(), Some(value), "{element}");
                            }
                        }
                    }
                    _ => {}
                }
            }
            self.elements.retain(|_, map| !map.is_empty());
        }
    }

    #[test]
    fn a_change_makes_of_what_is_held_what_is_wanted() {
        let a = arrival("192.0.2.1:30080", Transport::Tcp);
        let b = arrival("192.0.2.1:30080", Transport::Udp);
        let c = arrival("[2001:db8::1]:30080", Transport::Tcp);
        let entries = [
            led(&["10.1.0.4:8080"], 0, &[]),
            led(&["10.1.0.4:8080", "10.1.0.5:8080"], 0, &["10.0.0.0/8", "192.0.2.0/24"]),
            led(&["10.1.0.5:8080", "10.1.0.6:9090"], 0, &["10.0.0.0/8"]),
            led(&["10.1.0.4:8080", "10.1.0.6:8080"], 60, &[]),
            led(&["10.1.0.4:8080", "10.1.0.6:8080"], 90, &[]),
            straight(&["10.1.0.4:8080", "10.1.0.6:8080"], 0),
            straight(&["10.1.0.4:8080", "10.1.0.6:8080"], 60),
            Entry { lead: Lead::Refused, admitted: vec![], is_straight: false },
            Entry { lead: Lead::Dropped, admitted: vec![], is_straight: false },
        ];
        let six = led(&["[fd00::4]:8080"], 60, &["fd00::/8"]);
        let mut states: Vec<BTreeMap<Arrival, Entry>> = vec![BTreeMap::new()];
        for one in &entries {
            states.push([(a, one.clone())].into());
            states.push([(a, one.clone()), (b, entries[1].clone()), (c, six.clone())].into());
        }
        let departures = [departures(&[], &[]), departures(&["192.0.2.1"], &["10.1.0.0/16", "fd00::/8"])];
        let states: Vec<(BTreeMap<Arrival, Entry>, Departures)> =
            states.into_iter().zip(departures.into_iter().cycle()).collect();
        let all = |(wanted, departures): &(BTreeMap<Arrival, Entry>, Departures)| whole(wanted, departures);
        let told = |state| {
            let mut kernel = Kernel::default();
            kernel.run(&all(state).0);
            kernel.elements
        };
        for before in &states {
            for after in &states {
                let mut kernel = Kernel::default();
                let (commands, chains) = all(before);
                kernel.run(&commands);
                let (commands, _) = changes((&before.0, &before.1), (&after.0, &after.1), &chains);
                assert_eq!(commands.is_empty(), before == after);
                kernel.run(&commands);
                assert_eq!(kernel.elements, told(after), "{before:?} -> {after:?}");
                // And whatever was there.
                kernel.run(&all(before).0);
                assert_eq!(kernel.elements, told(before));
            }
        }
    }

    fn departures(from: &[&str], to: &[&str]) -> Departures {
        Departures {
            from: from.iter().map(|text| text.parse().unwrap()).collect(),
            to: to.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn one_changed_endpoint_is_two_elements() {
        let at = arrival("192.0.2.1:30080", Transport::Tcp);
        let state = |endpoints: &[&str]| BTreeMap::from([(at, led(endpoints, 0, &[]))]);
        let (before, after) =
            (state(&["10.1.0.4:80", "10.1.0.5:80"]), state(&["10.1.0.4:80", "10.1.0.6:80"]));
        let none = Departures::default();
        let (_, chains) = whole(&before, &none);
        assert_eq!(
            changes((&before, &none), (&after, &none), &chains).0,
            "delete element ip kuryr-services endpoints { 192.0.2.1 . tcp . 30080 . 1 : 10.1.0.5 . 80 }\n\
             add element ip kuryr-services endpoints { 192.0.2.1 . tcp . 30080 . 1 : 10.1.0.6 . 80 }\n"
        );
    }

    #[test]
    fn who_is_led_straight_is_marked_so_and_nobody_else() {
        let at = arrival("192.0.2.1:30080", Transport::Tcp);
        for seconds in [0, 60] {
            for entry in [led(&["10.1.0.4:80"], seconds, &[]), straight(&["10.1.0.4:80"], seconds)] {
                let mut commands = String::new();
                let chain = Chain::of(&entry).unwrap();
                chain.commands(Family::Ip, &mut commands);
                let lines: Vec<&str> = commands.lines().filter(|line| line.contains("dnat to")).collect();
                let marked = |mark: u32| commands.matches(&format!("ct mark set {mark:#x}\n")).count();
                let expect = if entry.is_straight { (0, lines.len()) } else { (lines.len(), 0) };
                assert_eq!((marked(MARK), marked(STRAIGHT_MARK)), expect, "{commands}");
                assert!(
                    lines.iter().all(|line| line.contains("straight_") == entry.is_straight),
                    "{commands}"
                );
                let (held, wanted, none) = (BTreeMap::new(), [(at, entry)].into(), Departures::default());
                let elements = changes((&held, &none), (&wanted, &none), &BTreeSet::new()).0;
                assert!(elements.contains(&format!("goto {chain} }}")), "{elements}");
            }
        }
    }

    #[test]
    fn where_there_can_be_no_tables_there_are_none_to_take_away() {
        for tool in ["/nonexistent/nft", "/bin/false"] {
            Inbound::new(tool).remove().unwrap();
            let (wanted, departures) = (BTreeMap::new(), Departures::default());
            assert!(Inbound::new(tool).set(&wanted, &departures).is_err(), "{tool}");
        }
    }

    #[test]
    fn endpoints_of_one_number_are_told_apart() {
        let endpoints: Vec<SocketAddr> =
            ["10.1.0.4:80", "10.1.0.4:80", "[fd00::4]:80"].map(|text| text.parse().unwrap()).into();
        let numbered = numbered(&endpoints);
        assert_eq!(numbered.len(), 3, "also if their hashes were the same");
        assert_eq!(numbered.get(&hash(&endpoints[0])), Some(&endpoints[0]));
    }
}
