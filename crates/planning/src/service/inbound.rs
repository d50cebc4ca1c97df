//! What clients find who are no processes of this node and reach it over the network: servers, other clusters, people.
//!
//! 1. They arrive at ports of nodes (`NodePort`) and of pods (`hostPort`) at this node's addresses, at external addresses
//!    that may be served, and at those of load balancers that do not change what passes them. ClusterIPs mean nothing
//!    outside.
//! 2. They get the endpoints that clients of this node get, or under `externalTrafficPolicy: Local` those on this node.
//!    With none on this node they are dropped, so that whoever distributes them tries another; with none at all, refused.
//! 3. `loadBalancerSourceRanges` counts at addresses of load balancers and nowhere else.
//! 4. Of frontends that mean the same arrival, an address goes before a port of this node, and that before a port of all
//!    nodes. What another owner has in the tables of sockets is not led anywhere here, either.
//! 5. The kernel brings the datagrams of a client to one endpoint for as long as they come. Where that is none any more,
//!    it has to forget; one that terminates and still serves may go on, as for sockets.
//! 6. Under that policy pods that are reached straight see the client's own address: [`straight`](super::straight). Where one
//!    may not be reached so any more, what goes on is forgotten, too.
//! 7. The kernel's tables for them have an end, as those of sockets: [`MOST`] elements, of which a Service or pod gets a
//!    [`SHARE`]th at most. Where there is no room for all of a frontend's endpoints clients get some of them, or it is not
//!    there; that is told.
//!
//! Sources: kube-proxy 1.36, `pkg/proxy/nftables/proxier.go` ("external traffic"), `pkg/proxy/conntrack/cleanup.go`;
//! Kubernetes documentation, "Virtual IPs and Service Proxies" ("External traffic policy").

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;

use super::desired::{At, Family, Frontend, Problem, Protocol, Target};
use super::{inputs::Owner, straight::is_straight};

/// How many elements the tables have in both families, at most: as many as the tables of sockets have backends.
const MOST: usize = 262_144;
/// What a Service or pod may have of them: one part of so many.
const SHARE: usize = 4;

/// What clients from outside find at a frontend.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inbound {
    /// Where they are led.
    pub lead: Lead,
    /// How long a client keeps its endpoint after it has connected last, in seconds; 0: not at all.
    pub affinity_seconds: u32,
    /// Port of the Service: a client keeps the same endpoint at all frontends of it.
    pub service_port: u16,
    /// From which addresses they may come; none: from all.
    pub admitted: BTreeSet<IpNet>,
    /// Endpoints that serve, though new clients may not be led to them.
    pub serving: BTreeSet<Target>,
    /// They are led to endpoints on this node only.
    pub is_local: bool,
}

/// Where clients from outside are led.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Lead {
    /// To one of these.
    Targets(BTreeSet<Target>),
    /// Nowhere, and they are told.
    #[default]
    Refused,
    /// Nowhere, and they are told nothing.
    Dropped,
}

/// Where packets arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrival {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// What is at an arrival, and whose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Whose.
    pub owner: Arc<Owner>,
    /// What.
    pub inbound: Inbound,
    /// Its endpoints are reached straight and see clients' own addresses.
    pub is_straight: bool,
}

/// A client's datagrams that the kernel brings to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Where the client sends to.
    pub asked: SocketAddr,
    /// Who answers.
    pub answered_by: SocketAddr,
    /// Our tables have brought it there.
    pub ours: bool,
    /// They have brought it there straight.
    pub is_straight: bool,
}

/// What all Services and pods have for clients from outside.
#[derive(Debug)]
pub struct Arrivals {
    by_owner: BTreeMap<Arc<Owner>, Owned>,
    /// How many elements there are.
    held: usize,
    /// How many elements there may be.
    most: usize,
}

/// What one of them has.
#[derive(Debug)]
struct Owned {
    inbound: BTreeMap<Frontend, Inbound>,
    /// How many elements that is.
    elements: usize,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self { by_owner: BTreeMap::new(), held: 0, most: MOST }
    }
}

/// What was noted of an owner.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Noted {
    /// It is something else than before.
    pub is_new: bool,
    /// What there was no room for.
    pub problems: Vec<Problem>,
}

impl Arrivals {
    /// Notes what an owner has on a node that has these addresses, without what is another's and what there is no room for.
    pub fn note(
        &mut self,
        owner: &Owner,
        mut inbound: BTreeMap<Frontend, Inbound>,
        problems: &[Problem],
        own: &[IpAddr],
    ) -> Noted {
        for problem in problems {
            if let Problem::Taken { frontend, .. } = problem {
                inbound.remove(frontend);
            }
        }
        // What it has by now is replaced in one transaction, so nothing is kept free for that.
        let before = self.by_owner.remove(owner);
        self.held -= before.as_ref().map_or(0, |before| before.elements);
        let room = self.most.saturating_sub(self.held).min(self.most / SHARE);
        let (inbound, elements, problems) = fitted(inbound, own, room);
        let is_new = before.map(|before| before.inbound).unwrap_or_default() != inbound;
        if !inbound.is_empty() {
            self.held += elements;
            self.by_owner.insert(Arc::new(owner.clone()), Owned { inbound, elements });
        }
        Noted { is_new, problems }
    }

    /// Forgets all owners but these.
    pub fn retain(&mut self, is_known: impl Fn(&Owner) -> bool) {
        self.by_owner.retain(|owner, _| is_known(owner));
        self.held = self.by_owner.values().map(|owned| owned.elements).sum();
    }

    /// Tells what is where, on a node that has these addresses and pods whose ports are open.
    #[must_use]
    pub fn at(&self, own: &[IpAddr], open: &BTreeSet<IpAddr>) -> BTreeMap<Arrival, Found> {
        let mut at: BTreeMap<Arrival, (Rank, Found)> = BTreeMap::new();
        for (owner, owned) in &self.by_owner {
            for (frontend, inbound) in &owned.inbound {
                let is_straight = is_straight(inbound, own, open);
                let (rank, addresses) = reached(frontend.at, own);
                for address in addresses {
                    let arrival = Arrival { address, port: frontend.port, protocol: frontend.protocol };
                    let found =
                        || (rank, Found { owner: Arc::clone(owner), inbound: inbound.clone(), is_straight });
                    let there = at.entry(arrival).or_insert_with(found);
                    if rank < there.0 {
                        *there = found();
                    }
                }
            }
        }
        at.into_iter().map(|(arrival, (_, found))| (arrival, found)).collect()
    }
}

/// As much of what an owner has as there is room for, how many elements that is, and what is left out.
fn fitted(
    inbound: BTreeMap<Frontend, Inbound>,
    own: &[IpAddr],
    room: usize,
) -> (BTreeMap<Frontend, Inbound>, usize, Vec<Problem>) {
    let (mut some, mut elements, mut problems) = (BTreeMap::new(), 0, Vec::new());
    for (frontend, mut inbound) in inbound {
        let (_, addresses) = reached(frontend.at, own);
        // Nothing is where nobody arrives.
        let room = (room - elements).checked_div(addresses.len()).unwrap_or(usize::MAX);
        if inbound.elements() > room {
            problems.push(Problem::NoRoom { frontend });
            inbound.keep_first(room);
        }
        if inbound.elements() <= room {
            elements += addresses.len() * inbound.elements();
            some.insert(frontend, inbound);
        }
    }
    (some, elements, problems)
}

impl Inbound {
    /// How many elements it is in the kernel's tables for each address.
    fn elements(&self) -> usize {
        let of_clients = if self.admitted.is_empty() { 0 } else { 1 + self.admitted.len() };
        1 + of_clients
            + match &self.lead {
                Lead::Targets(targets) if self.affinity_seconds > 0 => 1 + 2 * targets.len(),
                Lead::Targets(targets) => targets.len(),
                Lead::Refused | Lead::Dropped => 0,
            }
    }

    /// Leads to the first targets only, as many as there is room for, but to one at least.
    fn keep_first(&mut self, room: usize) {
        let (all, each) = (self.elements(), if self.affinity_seconds > 0 { 2 } else { 1 });
        if let Lead::Targets(targets) = &mut self.lead {
            let too_many = all.saturating_sub(room).div_ceil(each);
            let most = targets.len().saturating_sub(too_many).max(1);
            *targets = std::mem::take(targets).into_iter().take(most).collect();
        }
    }
}

/// Which of several frontends counts: the least.
type Rank = u8;

/// The addresses that a frontend means on this node.
fn reached(at: At, own: &[IpAddr]) -> (Rank, Vec<IpAddr>) {
    let of = |family| own.iter().copied().filter(|address| Family::of(*address) == family).collect();
    match at {
        At::Address(address) => (0, vec![address]),
        At::OwnNode(family) => (1, of(family)),
        At::Nodes(family) => (2, of(family)),
        // Nobody comes there from outside, or not to this node.
        At::Loopback(_) | At::OtherNode(_) | At::OwnNodeHost(_) => (3, Vec::new()),
    }
}

/// Whether the kernel has to forget a flow of UDP, so that the client's next datagram is led anew.
#[must_use]
pub fn is_stale(flow: &Flow, at: &BTreeMap<Arrival, Found>, open: &BTreeSet<IpAddr>) -> bool {
    if flow.is_straight && !open.contains(&flow.answered_by.ip()) {
        return true;
    }
    let asked = flow.asked;
    let arrival = Arrival { address: asked.ip(), port: asked.port(), protocol: Protocol::Udp };
    let target = Target { address: flow.answered_by.ip(), port: flow.answered_by.port() };
    match at.get(&arrival) {
        // Also of what came before there was anything.
        Some(Found { inbound, .. }) => match &inbound.lead {
            Lead::Targets(targets) => !targets.contains(&target) && !inbound.serving.contains(&target),
            Lead::Refused | Lead::Dropped => !inbound.serving.contains(&target),
        },
        None => flow.ours,
    }
}

#[cfg(test)]
mod tests {
    use super::super::inputs::OwnerKind;
    use super::*;

    fn owner(kind: OwnerKind, name: &str) -> Owner {
        Owner { kind, namespace: "d".into(), name: name.into() }
    }

    fn target(text: &str) -> Target {
        let address: SocketAddr = text.parse().unwrap();
        Target { address: address.ip(), port: address.port() }
    }

    fn to(text: &str) -> Inbound {
        Inbound { lead: Lead::Targets([target(text)].into()), ..Inbound::default() }
    }

    fn frontend(at: At, port: u16) -> Frontend {
        Frontend { at, port, protocol: Protocol::Udp }
    }

    fn own() -> [IpAddr; 3] {
        ["192.0.2.1", "198.51.100.1", "2001:db8::1"].map(|text| text.parse().unwrap())
    }

    fn note(
        arrivals: &mut Arrivals,
        owner: &Owner,
        inbound: BTreeMap<Frontend, Inbound>,
        problems: &[Problem],
    ) -> bool {
        let noted = arrivals.note(owner, inbound, problems, &own());
        assert_eq!(noted.problems, [], "{owner}");
        noted.is_new
    }

    fn told(arrivals: &Arrivals) -> Vec<String> {
        let one = |(arrival, found): (Arrival, Found)| {
            let Lead::Targets(targets) = found.inbound.lead else { panic!("{arrival:?}") };
            let at = SocketAddr::new(arrival.address, arrival.port);
            format!("{at} {} {}", found.owner.name, targets.first().unwrap())
        };
        arrivals.at(&own(), &BTreeSet::new()).into_iter().map(one).collect()
    }

    #[test]
    fn ports_are_at_every_address_of_the_node_and_the_nearest_counts() {
        let mut arrivals = Arrivals::default();
        let (pod, service) = (owner(OwnerKind::Pod, "p"), owner(OwnerKind::Service, "s"));
        let nodes = frontend(At::Nodes(Family::V4), 30080);
        let six = frontend(At::Nodes(Family::V6), 30080);
        let of_service: BTreeMap<_, _> = [(nodes, to("10.1.0.4:80")), (six, to("[fd00::4]:80"))].into();
        assert!(note(&mut arrivals, &service, of_service.clone(), &[]));
        assert!(!note(&mut arrivals, &service, of_service, &[]), "nothing new");
        let of_service = [
            "192.0.2.1:30080 s 10.1.0.4:80",
            "198.51.100.1:30080 s 10.1.0.4:80",
            "[2001:db8::1]:30080 s [fd00::4]:80",
        ];
        assert_eq!(told(&arrivals), of_service);
        // Also of an owner that comes later.
        let here = frontend(At::OwnNode(Family::V4), 30080);
        let one = frontend(At::Address("198.51.100.1".parse().unwrap()), 30080);
        let loopback = frontend(At::Loopback(Family::V4), 30080);
        let of_pod = [(here, to("10.1.0.5:1")), (one, to("10.1.0.5:2")), (loopback, to("10.1.0.5:3"))];
        assert!(note(&mut arrivals, &pod, of_pod.into(), &[]));
        assert_eq!(
            told(&arrivals),
            [
                "192.0.2.1:30080 p 10.1.0.5:1",
                "198.51.100.1:30080 p 10.1.0.5:2",
                "[2001:db8::1]:30080 s [fd00::4]:80"
            ]
        );
        assert!(note(&mut arrivals, &pod, BTreeMap::new(), &[]));
        assert_eq!(told(&arrivals), of_service);
        arrivals.retain(|owner| owner.name != "s");
        assert_eq!(told(&arrivals), Vec::<String>::new());
    }

    #[test]
    fn the_policy_local_leads_straight_to_pods_that_are_open() {
        let mut arrivals = Arrivals::default();
        let at = |port| frontend(At::Nodes(Family::V4), port);
        let local = |to: Inbound| Inbound { is_local: true, ..to };
        let inbound = [
            (at(1), to("10.1.0.4:80")),
            (at(2), local(to("10.1.0.4:80"))),
            (at(3), local(to("10.1.0.5:80"))),
        ];
        note(&mut arrivals, &owner(OwnerKind::Service, "s"), inbound.into(), &[]);
        for (open, expect) in
            [(&["10.1.0.4:0"][..], &[2][..]), (&["10.1.0.4:0", "10.1.0.5:0"], &[2, 3]), (&[], &[])]
        {
            let open = open.iter().map(|text| target(text).address).collect();
            let found = arrivals.at(&own()[..1], &open);
            let straight = found.iter().filter(|(_, found)| found.is_straight).map(|(at, _)| at.port);
            assert_eq!(straight.collect::<Vec<_>>(), expect, "{open:?}");
        }
    }

    #[test]
    fn what_is_anothers_is_not_led_anywhere() {
        let mut arrivals = Arrivals::default();
        let (first, second) = (owner(OwnerKind::Service, "z"), owner(OwnerKind::Service, "a"));
        let at = frontend(At::Address("203.0.113.7".parse().unwrap()), 53);
        note(&mut arrivals, &first, [(at, to("10.1.0.4:53"))].into(), &[]);
        let taken = Problem::Taken { frontend: at, by: first.clone() };
        assert!(!note(&mut arrivals, &second, [(at, to("10.1.0.5:53"))].into(), &[taken]));
        assert_eq!(told(&arrivals), ["203.0.113.7:53 z 10.1.0.4:53"]);
    }

    fn many(count: u8) -> BTreeSet<Target> {
        (0..count).map(|last| target(&format!("10.1.0.{last}:80"))).collect()
    }

    #[test]
    fn one_service_does_not_fill_the_tables() {
        let mut arrivals = Arrivals { most: 64, ..Arrivals::default() };
        let one = frontend(At::Address("203.0.113.7".parse().unwrap()), 80);
        // At two addresses of this node.
        let nodes = frontend(At::Nodes(Family::V4), 30080);
        let led = |count, affinity_seconds| Inbound {
            lead: Lead::Targets(many(count)),
            affinity_seconds,
            ..Inbound::default()
        };
        let narrow = Inbound { admitted: ["10.0.0.0/8".parse().unwrap()].into(), ..led(200, 0) };
        let mut check = |name: &str, inbound: &[(Frontend, Inbound)], expect: &[usize], told: &[Frontend]| {
            let owner = owner(OwnerKind::Service, name);
            let noted = arrivals.note(&owner, inbound.iter().cloned().collect(), &[], &own());
            let no_room: Vec<_> = told.iter().map(|at| Problem::NoRoom { frontend: *at }).collect();
            assert_eq!(noted.problems, no_room, "{name}");
            let again = arrivals.note(&owner, inbound.iter().cloned().collect(), &[], &own());
            assert_eq!(again, Noted { is_new: false, problems: no_room }, "once");
            let of = arrivals.by_owner.get(&owner).map(|owned| owned.inbound.values().collect::<Vec<_>>());
            let counts = of.unwrap_or_default().into_iter().map(|inbound| match &inbound.lead {
                Lead::Targets(targets) => targets.len(),
                Lead::Refused | Lead::Dropped => 0,
            });
            assert_eq!(counts.collect::<Vec<_>>(), expect, "{name}");
        };
        check("a", &[(one, led(200, 0))], &[15], &[one]);
        check("a", &[(one, led(15, 0))], &[15], &[]);
        check("b", &[(nodes, led(200, 60))], &[3], &[nodes]);
        check("c", &[(one, narrow.clone()), (nodes, led(1, 0))], &[13], &[one, nodes]);
        // By now 16 of 64 are left.
        check("d", &[(one, led(9, 0)), (nodes, led(2, 0))], &[9, 2], &[]);
        check("e", &[(one, Inbound::default())], &[], &[one]);
        check("d", &[(one, led(9, 0))], &[9], &[]);
        check("e", &[(one, Inbound::default()), (nodes, led(5, 0))], &[0, 1], &[nodes]);
        check("c", &[], &[], &[]);
        check("e", &[(one, Inbound::default()), (nodes, led(5, 0))], &[0, 5], &[]);
    }

    #[test]
    fn flows_end_whose_endpoint_is_none_any_more() {
        let mut arrivals = Arrivals::default();
        let serving: BTreeSet<_> = [target("10.1.0.4:53"), target("10.1.0.6:53")].into();
        let leads = [
            Inbound { serving: serving.clone(), ..to("10.1.0.4:53") },
            Inbound { serving: BTreeSet::new(), ..Inbound::default() },
            Inbound { lead: Lead::Dropped, serving, ..Inbound::default() },
        ];
        let ports = (30001..).map(|port| frontend(At::Nodes(Family::V4), port));
        note(&mut arrivals, &owner(OwnerKind::Service, "s"), ports.zip(leads).collect(), &[]);
        let open = [target("10.1.0.4:1").address].into();
        let at = arrivals.at(&own(), &open);
        for (asked, answered_by, is_straight, expect) in [
            ("192.0.2.1:30001", "10.1.0.4:53", true, false),
            ("192.0.2.1:30001", "10.1.0.6:53", true, true),
            ("192.0.2.1:30001", "10.1.0.6:53", false, false),
        ] {
            let (asked, answered_by) = (asked.parse().unwrap(), answered_by.parse().unwrap());
            let flow = Flow { asked, answered_by, ours: true, is_straight };
            assert_eq!(is_stale(&flow, &at, &open), expect, "{flow:?}");
        }
        for (asked, answered_by, ours, expect) in [
            ("192.0.2.1:30001", "10.1.0.4:53", true, false),
            ("192.0.2.1:30001", "10.1.0.5:53", true, true),
            // It terminates and serves.
            ("192.0.2.1:30001", "10.1.0.6:53", true, false),
            // The client came first.
            ("192.0.2.1:30001", "192.0.2.1:30001", false, true),
            ("192.0.2.1:30002", "10.1.0.4:53", true, true),
            ("192.0.2.1:30003", "10.1.0.4:53", true, false),
            ("192.0.2.1:30003", "10.1.0.5:53", true, true),
            // The Service has gone.
            ("192.0.2.1:30009", "10.1.0.4:53", true, true),
            // Somebody else's.
            ("192.0.2.1:30009", "192.0.2.1:30009", false, false),
            ("10.1.0.9:53", "10.1.0.4:53", false, false),
        ] {
            let (asked, answered_by) = (asked.parse().unwrap(), answered_by.parse().unwrap());
            let flow = Flow { asked, answered_by, ours, is_straight: false };
            assert_eq!(is_stale(&flow, &at, &open), expect, "{flow:?}");
        }
    }
}
