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
use super::inputs::Owner;

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
}

/// What all Services and pods have for clients from outside.
#[derive(Debug, Default)]
pub struct Arrivals {
    by_owner: BTreeMap<Arc<Owner>, BTreeMap<Frontend, Inbound>>,
}

impl Arrivals {
    /// Notes what an owner has, without what is another's; tells whether that is something else than before.
    pub fn note(
        &mut self,
        owner: &Owner,
        mut inbound: BTreeMap<Frontend, Inbound>,
        problems: &[Problem],
    ) -> bool {
        for problem in problems {
            if let Problem::Taken { frontend, .. } = problem {
                inbound.remove(frontend);
            }
        }
        if inbound.is_empty() {
            return self.by_owner.remove(owner).is_some();
        }
        if self.by_owner.get(owner) == Some(&inbound) {
            return false;
        }
        self.by_owner.insert(Arc::new(owner.clone()), inbound);
        true
    }

    /// Forgets all owners but these.
    pub fn retain(&mut self, is_known: impl Fn(&Owner) -> bool) {
        self.by_owner.retain(|owner, _| is_known(owner));
    }

    /// Tells what is where, on a node that has these addresses.
    #[must_use]
    pub fn at(&self, own: &[IpAddr]) -> BTreeMap<Arrival, Found> {
        let mut at: BTreeMap<Arrival, (Rank, Found)> = BTreeMap::new();
        for (owner, inbound) in &self.by_owner {
            for (frontend, inbound) in inbound {
                let (rank, addresses) = reached(frontend.at, own);
                for address in addresses {
                    let arrival = Arrival { address, port: frontend.port, protocol: frontend.protocol };
                    let found = || (rank, Found { owner: Arc::clone(owner), inbound: inbound.clone() });
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

/// Which of several frontends counts: the least.
type Rank = u8;

/// The addresses that a frontend means on this node.
fn reached(at: At, own: &[IpAddr]) -> (Rank, Vec<IpAddr>) {
    let of = |family| own.iter().copied().filter(|address| Family::of(*address) == family).collect();
    match at {
        At::Address(address) => (0, vec![address]),
        At::OwnNode(family) => (1, of(family)),
        At::Nodes(family) => (2, of(family)),
        // Nobody comes there from outside.
        At::Loopback(_) => (3, Vec::new()),
    }
}

/// Whether the kernel has to forget a flow of UDP, so that the client's next datagram is led anew.
#[must_use]
pub fn is_stale(flow: &Flow, at: &BTreeMap<Arrival, Found>) -> bool {
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

    fn told(arrivals: &Arrivals) -> Vec<String> {
        let one = |(arrival, found): (Arrival, Found)| {
            let Lead::Targets(targets) = found.inbound.lead else { panic!("{arrival:?}") };
            let at = SocketAddr::new(arrival.address, arrival.port);
            format!("{at} {} {}", found.owner.name, targets.first().unwrap())
        };
        arrivals.at(&own()).into_iter().map(one).collect()
    }

    #[test]
    fn ports_are_at_every_address_of_the_node_and_the_nearest_counts() {
        let mut arrivals = Arrivals::default();
        let (pod, service) = (owner(OwnerKind::Pod, "p"), owner(OwnerKind::Service, "s"));
        let nodes = frontend(At::Nodes(Family::V4), 30080);
        let six = frontend(At::Nodes(Family::V6), 30080);
        let of_service: BTreeMap<_, _> = [(nodes, to("10.1.0.4:80")), (six, to("[fd00::4]:80"))].into();
        assert!(arrivals.note(&service, of_service.clone(), &[]));
        assert!(!arrivals.note(&service, of_service, &[]), "nothing new");
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
        assert!(arrivals.note(&pod, of_pod.into(), &[]));
        assert_eq!(
            told(&arrivals),
            [
                "192.0.2.1:30080 p 10.1.0.5:1",
                "198.51.100.1:30080 p 10.1.0.5:2",
                "[2001:db8::1]:30080 s [fd00::4]:80"
            ]
        );
        assert!(arrivals.note(&pod, BTreeMap::new(), &[]));
        assert_eq!(told(&arrivals), of_service);
        arrivals.retain(|owner| owner.name != "s");
        assert_eq!(told(&arrivals), Vec::<String>::new());
    }

    #[test]
    fn what_is_anothers_is_not_led_anywhere() {
        let mut arrivals = Arrivals::default();
        let (first, second) = (owner(OwnerKind::Service, "z"), owner(OwnerKind::Service, "a"));
        let at = frontend(At::Address("203.0.113.7".parse().unwrap()), 53);
        arrivals.note(&first, [(at, to("10.1.0.4:53"))].into(), &[]);
        let taken = Problem::Taken { frontend: at, by: first.clone() };
        assert!(!arrivals.note(&second, [(at, to("10.1.0.5:53"))].into(), &[taken]));
        assert_eq!(told(&arrivals), ["203.0.113.7:53 z 10.1.0.4:53"]);
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
        arrivals.note(&owner(OwnerKind::Service, "s"), ports.zip(leads).collect(), &[]);
        let at = arrivals.at(&own());
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
            let flow =
                Flow { asked: asked.parse().unwrap(), answered_by: answered_by.parse().unwrap(), ours };
            assert_eq!(is_stale(&flow, &at), expect, "{flow:?}");
        }
    }
}
