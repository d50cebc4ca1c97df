//! What the tables should hold of one Service.
//!
//! A port of a Service has, in each family, one set of targets for clients of its ClusterIP and one for those of its
//! external addresses: externalIPs, load balancers' addresses, ports of nodes. Usually that is the same set.
//!
//! 1. For the ClusterIP `internalTrafficPolicy` counts.
//! 2. A client in the cluster that sends to an external address, or to a port of its own node, gets any endpoint,
//!    whatever `externalTrafficPolicy` says: as if it came from outside to a node that has one.
//! 3. At a port of another node it is a client from outside: under `externalTrafficPolicy: Local` it gets endpoints of
//!    that node, and is refused where there are none.
//! 4. Under that policy endpoints see the client's own address. Who is brought to them at its socket has it there: a pod,
//!    and a process of a node that enters the pods' network with its own address. A process of a node with a port of its
//!    own would have the port's: it is left to go to the other node, and enters there as who comes from outside. At the
//!    port of its own node it is brought to the other node's, if the endpoint is there.
//!
//! Source: kube-proxy 1.36, `pkg/proxy/nftables/proxier.go` ("short-circuit pod traffic", "short-circuit local traffic").

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

use super::{
    client_address,
    endpoints::{Port, ready_here, serving, targets, targets_by_node},
    external::Refusal,
    from_kubernetes::{Addresses, Intent, IntentPort, LeftAlone, intent},
    inbound::{Inbound, Lead},
    inputs::{Cluster, NodeFacts, Owner, Service, Slice},
};

/// A protocol whose clients can be brought to endpoints at their sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The protocol of this name; Kubernetes means TCP where it says nothing.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "" | "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Its name in Kubernetes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// The address of a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    /// This one.
    Address(IpAddr),
    /// Every address of every node.
    Nodes(Family),
    /// Every address of this node; comes before [`At::Nodes`].
    OwnNode(Family),
    /// The loopback address, for processes of this node that are in no pod's network.
    Loopback(Family),
    /// This address of another node, for pods; processes of this node that are in no pod's network go there.
    OtherNode(IpAddr),
    /// Every address of this node, for processes of this node that are in no pod's network; comes before [`At::OwnNode`].
    OwnNodeHost(Family),
}

/// Where clients send to. Written as `10.96.0.1:443/TCP`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frontend {
    /// Address.
    pub at: At,
    /// Port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, port, protocol } = self;
        match at {
            At::Address(address) => write!(f, "{}/{protocol}", SocketAddr::new(*address, *port)),
            At::Nodes(family) => write!(f, "{port}/{protocol} at every node's {}", family.name()),
            At::OwnNode(family) => write!(f, "{port}/{protocol} at this node's {}", family.name()),
            At::Loopback(family) => write!(f, "{port}/{protocol} at loopback {}", family.name()),
            At::OtherNode(address) => write!(f, "{}/{protocol} for pods", SocketAddr::new(*address, *port)),
            At::OwnNodeHost(family) => {
                write!(f, "{port}/{protocol} at this node's {} for its processes", family.name())
            }
        }
    }
}

/// Where clients arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Address of the endpoint.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&SocketAddr::new(self.address, self.port), f)
    }
}

/// What frontends should lead to: all of them to the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The frontends, of one protocol and family.
    pub frontends: BTreeSet<Frontend>,
    /// How long a client keeps its endpoint after the last use, in seconds; 0: not at all.
    pub affinity_seconds: u32,
    /// Targets; with none clients are refused.
    pub targets: BTreeSet<Target>,
}

/// What the tables should hold of one Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// Its sets of targets; no frontend is in two of them.
    pub sets: Vec<Wanted>,
    /// What of it cannot be served.
    pub problems: Vec<Problem>,
    /// Why it is not served at all.
    pub left_alone: Option<LeftAlone>,
    /// Where load balancers ask for this node.
    pub health_check: Option<HealthCheck>,
    /// What clients from outside find; no frontend is at a loopback address.
    pub inbound: BTreeMap<Frontend, Inbound>,
    /// This node has to tell that endpoints do not see the addresses of such clients.
    pub tells_client_address: bool,
}

/// Where load balancers ask whether this node has endpoints of a Service, and what they are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthCheck {
    /// The port, at every address of the node.
    pub port: u16,
    /// Number of ready endpoints on the node; those that terminate do not count.
    pub local_endpoints: usize,
}

impl Desired {
    /// All frontends.
    pub fn frontends(&self) -> impl Iterator<Item = &Frontend> {
        self.sets.iter().flat_map(|wanted| &wanted.frontends)
    }
}

/// What of a Service cannot be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// Something else than an address among its addresses.
    NoAddress {
        /// What there is.
        text: String,
    },
    /// A port of a protocol whose clients cannot be brought to endpoints at their sockets.
    Protocol {
        /// The port.
        port: u16,
        /// Its protocol.
        protocol: String,
    },
    /// An external address that must not be served.
    ExternalIp {
        /// The address, as written.
        text: String,
        /// Why not.
        why: Refusal,
    },
    /// A port on an address that the node does not have.
    HostIp {
        /// The port on the node.
        port: u16,
        /// The address, as written.
        text: String,
    },
    /// A frontend that another Service or pod has.
    Taken {
        /// The frontend.
        frontend: Frontend,
        /// The other one.
        by: Owner,
    },
    /// A frontend that leads to some of its endpoints only, or is not there, as the tables have no room.
    NoRoom {
        /// The frontend.
        frontend: Frontend,
    },
}

impl Problem {
    /// Whether it is in what the author has written; else it passes.
    #[must_use]
    pub const fn is_the_authors(&self) -> bool {
        !matches!(self, Self::Taken { .. })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddress { text } => write!(f, "spec.clusterIPs: `{text}` is no address"),
            Self::Protocol { port, protocol } => {
                write!(
                    f,
                    "port {port}: nodes lead clients to endpoints by TCP and UDP, not by {protocol}: use the pods' own addresses \
                     (headless Service) or a load balancer of Octavia (type: LoadBalancer, or annotation \
                     openstack.org/kuryr-service-mode: octavia)"
                )
            }
            Self::ExternalIp { text, why } => write!(f, "spec.externalIPs: {text} is not served: {why}"),
            Self::HostIp { port, text } => write!(
                f,
                "hostPort {port} is not served: hostIP {text} is no address of the node; leave it out for all of them"
            ),
            Self::Taken { frontend, by } => write!(f, "{frontend} still belongs to {by}"),
            Self::NoRoom { frontend } => write!(
                f,
                "{frontend} leads to some of its endpoints only, or to none: the node's tables have no room for more; divide \
                 the Service, or remove ports, endpoints or other Services"
            ),
        }
    }
}

/// Tells what the tables should hold of a Service; of one that does not exist, nothing.
#[must_use]
pub fn desired(
    service: Option<&Service<'_>>,
    slices: &[Slice<'_>],
    node: NodeFacts<'_>,
    cluster: &Cluster,
) -> Desired {
    let mut desired = Desired::default();
    let Some(service) = service else { return desired };
    match intent(service, cluster, &mut desired.problems) {
        Ok(intent) => {
            desired.health_check = intent
                .health_check_port
                .map(|port| HealthCheck { port, local_endpoints: ready_here(slices, node.name) });
            desired.tells_client_address = client_address::tells(service, &intent, slices, node, cluster);
            let look = Look { intent: &intent, slices, node, cluster };
            let ports =
                intent.addresses.iter().flat_map(|of| intent.ports.iter().map(move |port| (of, port)));
            let mut taken = BTreeSet::new();
            for ((family, addresses), port) in ports {
                for (frontend, inbound) in look.inbound(*family, addresses, port) {
                    desired.inbound.entry(frontend).or_insert(inbound);
                }
                for mut wanted in look.sets(*family, addresses, port) {
                    // The same address may be asked for in two ways.
                    wanted.frontends.retain(|frontend| taken.insert(*frontend));
                    if !wanted.frontends.is_empty() {
                        desired.sets.push(wanted);
                    }
                }
            }
        }
        Err(why) => desired.left_alone = Some(why),
    }
    desired
}

struct Look<'a> {
    intent: &'a Intent<'a>,
    slices: &'a [Slice<'a>],
    node: NodeFacts<'a>,
    cluster: &'a Cluster,
}

impl Look<'_> {
    /// The sets of a port in one family.
    fn sets(&self, family: Family, addresses: &Addresses, port: &IntentPort<'_>) -> Vec<Wanted> {
        let at = |at, number| Frontend { at, port: number, protocol: port.protocol };
        let internal: BTreeSet<Frontend> = [at(At::Address(addresses.cluster), port.port)].into();
        let mut external: BTreeSet<Frontend> =
            addresses.external.iter().map(|address| at(At::Address(*address), port.port)).collect();
        let mut elsewhere = Vec::new();
        if let Some(number) = port.node_port {
            if self.intent.external_local {
                external.insert(at(At::OwnNode(family), number));
                elsewhere = self.elsewhere(family, number, port);
            } else {
                external.insert(at(At::Nodes(family), number));
            }
        }
        let any = self.targets(family, port, self.node, false);
        let own_port =
            port.node_port.filter(|_| self.intent.external_local && self.enters_by_its_port(family));
        if let Some(number) = own_port {
            let of_processes = at(At::OwnNodeHost(family), number);
            let led = self.by_other_nodes(family, number, port, &any);
            if led == any {
                external.insert(of_processes);
            } else {
                elsewhere.push(self.wanted([of_processes].into(), led));
            }
        }
        let mut sets = if self.intent.internal_local {
            let own = self.targets(family, port, self.node, true);
            vec![self.wanted(internal, own), self.wanted(external, any)]
        } else {
            vec![self.wanted(&internal | &external, any)]
        };
        sets.append(&mut elsewhere);
        sets
    }

    /// The port of other nodes, for clients who only get the endpoints there.
    fn elsewhere(&self, family: Family, number: u16, port: &IntentPort<'_>) -> Vec<Wanted> {
        let at = |at| Frontend { at, port: number, protocol: port.protocol };
        let mut by_address: BTreeMap<IpAddr, BTreeSet<Target>> = BTreeMap::new();
        let by_node = targets_by_node(Port { family, protocol: port.protocol, name: port.name }, self.slices);
        for (name, there) in by_node {
            for address in self.reached(name, family).filter(|_| !there.is_empty()) {
                by_address.entry(address).or_default().extend(&there);
            }
        }
        let scope = if self.enters_by_its_port(family) { At::OtherNode } else { At::Address };
        let some = by_address
            .into_iter()
            .map(|(address, targets)| self.wanted([at(scope(address))].into(), targets));
        // At all the others there is no endpoint.
        some.chain([self.wanted([at(At::Nodes(family))].into(), BTreeSet::new())]).collect()
    }

    /// The same targets for processes that have another address in the pods' network than outside, by a port of nodes: those of
    /// another node are reached by that node's port. Which of several there, that node chooses.
    fn by_other_nodes(
        &self,
        family: Family,
        number: u16,
        port: &IntentPort<'_>,
        any: &BTreeSet<Target>,
    ) -> BTreeSet<Target> {
        let by_node = targets_by_node(Port { family, protocol: port.protocol, name: port.name }, self.slices);
        let through = |target: &Target| {
            let (name, _) = by_node.iter().find(|(_, there)| there.contains(target))?;
            // An endpoint on the host network sees the node's address anyway.
            let is_host = self.reached(name, family).any(|address| address == target.address);
            let address = self.reached(name, family).next().filter(|_| !is_host)?;
            Some(Target { address, port: number })
        };
        any.iter().map(|target| through(target).unwrap_or(*target)).collect()
    }

    /// Addresses of another node at which it is that node's.
    fn reached(&self, name: &str, family: Family) -> impl Iterator<Item = IpAddr> {
        let own = self.cluster.nodes.get(self.node.name);
        let addresses = self.cluster.nodes.get(name).filter(|_| name != self.node.name);
        addresses.into_iter().flatten().copied().filter(move |address| {
            Family::of(*address) == family && !own.is_some_and(|own| own.contains(address))
        })
    }

    /// Whether processes of the node have another address in the pods' network than outside.
    fn enters_by_its_port(&self, family: Family) -> bool {
        let own = self.cluster.nodes.get(self.node.name).into_iter().flatten();
        let is_of_family = |address: &&IpAddr| Family::of(**address) == family;
        self.cluster.own_port.iter().any(|address| is_of_family(&address))
            && own.filter(is_of_family).any(|address| !self.cluster.own_port.contains(address))
    }

    /// What clients from outside find at a port in one family.
    fn inbound(
        &self,
        family: Family,
        addresses: &Addresses,
        port: &IntentPort<'_>,
    ) -> BTreeMap<Frontend, Inbound> {
        let at = |at, number| Frontend { at, port: number, protocol: port.protocol };
        let at_address = |address: &IpAddr| at(At::Address(*address), port.port);
        let any = self.targets(family, port, self.node, false);
        let lead = if any.is_empty() {
            Lead::Refused
        } else if self.intent.external_local {
            Some(self.targets(family, port, self.node, true))
                .filter(|own| !own.is_empty())
                .map_or(Lead::Dropped, Lead::Targets)
        } else {
            Lead::Targets(any)
        };
        let of_port = Port { family, protocol: port.protocol, name: port.name };
        let for_all = Inbound {
            lead,
            affinity_seconds: self.intent.affinity_seconds,
            service_port: port.port,
            admitted: BTreeSet::new(),
            serving: serving(of_port, self.slices),
            is_local: self.intent.external_local,
        };
        let mut inbound: BTreeMap<Frontend, Inbound> = BTreeMap::new();
        for address in &addresses.restricted {
            let admitted = addresses.admitted.clone();
            // None that can be read lets nobody in.
            let lead = if admitted.is_empty() { Lead::Dropped } else { for_all.lead.clone() };
            inbound.insert(at_address(address), Inbound { lead, admitted, ..for_all.clone() });
        }
        let scope = if self.intent.external_local { At::OwnNode(family) } else { At::Nodes(family) };
        let of_nodes = port.node_port.map(|number| at(scope, number));
        for frontend in addresses.external.iter().map(at_address).chain(of_nodes) {
            inbound.entry(frontend).or_insert_with(|| for_all.clone());
        }
        inbound
    }

    fn targets(
        &self,
        family: Family,
        port: &IntentPort<'_>,
        node: NodeFacts<'_>,
        local_only: bool,
    ) -> BTreeSet<Target> {
        let port = Port { family, protocol: port.protocol, name: port.name };
        targets(port, self.slices, node, local_only)
    }

    fn wanted(&self, frontends: BTreeSet<Frontend>, targets: BTreeSet<Target>) -> Wanted {
        Wanted { frontends, affinity_seconds: self.intent.affinity_seconds, targets }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::inputs::{Endpoint, ServicePort, SlicePort},
        *,
    };

    const NODE: NodeFacts<'static> = NodeFacts { name: "n1", zone: None };

    /// Nodes `n1` (this one), `n2`, `n3`.
    fn cluster() -> Cluster {
        let node = |number: u8| {
            let addresses = [format!("192.0.2.{number}"), format!("2001:db8::{number}")];
            (format!("n{number}"), addresses.iter().map(|address| address.parse().unwrap()).collect())
        };
        Cluster {
            nodes: [1, 2, 3].map(node).into(),
            external_ranges: super::super::ExternalRanges::read(&["203.0.113.0/24".to_owned()]).unwrap(),
            ..Cluster::default()
        }
    }

    fn service() -> Service<'static> {
        Service {
            cluster_ips: vec!["10.96.0.7"],
            ports: vec![ServicePort { name: "http", protocol: "TCP", port: 80, node_port: 0 }],
            ..Service::default()
        }
    }

    fn node_port() -> Service<'static> {
        let ports = vec![ServicePort { node_port: 30080, ..service().ports[0] }];
        Service { kind: "NodePort", ports, ..service() }
    }

    fn slice<'a>(address_type: &'a str, endpoints: &[(&str, &'a str)]) -> Slice<'a> {
        let endpoint = |(address, node): &(&str, &'a str)| Endpoint {
            address: address.parse().ok(),
            node: Some(node),
            ..Endpoint::default()
        };
        Slice {
            address_type,
            ports: vec![SlicePort { name: "http", protocol: "TCP", port: Some(8080) }],
            endpoints: endpoints.iter().map(endpoint).collect(),
        }
    }

    /// Endpoint 4 here, 5 on `n2`.
    fn slices() -> [Slice<'static>; 1] {
        [slice("IPv4", &[("10.1.0.4", "n1"), ("10.1.0.5", "n2")])]
    }

    /// Sets, written as `frontend, frontend -> last byte of target, ...`.
    fn told(desired: &Desired) -> Vec<String> {
        let set = |wanted: &Wanted| {
            let frontends: Vec<String> = wanted.frontends.iter().map(ToString::to_string).collect();
            let targets: Vec<String> = wanted
                .targets
                .iter()
                .map(|one| one.address.to_string().rsplit(['.', ':']).next().unwrap().into())
                .collect();
            format!("{} -> {}", frontends.join(", "), targets.join(", "))
        };
        desired.sets.iter().map(set).collect()
    }

    fn check(what: &str, service: &Service<'_>, expect: &[&str]) {
        let desired = desired(Some(service), &slices(), NODE, &cluster());
        assert_eq!(
            (told(&desired), desired.problems),
            (expect.iter().map(|one| (*one).to_owned()).collect(), vec![]),
            "{what}"
        );
    }

    #[test]
    fn a_dual_stack_service_has_frontends_and_targets_in_each_family() {
        let service = Service {
            cluster_ips: vec!["10.96.0.7", "fd00:96::7"],
            session_affinity: "ClientIP",
            ..node_port()
        };
        let slices = [slice("IPv4", &[("10.1.0.4", "n1")]), slice("IPv6", &[("fd00::6", "n1")])];
        let desired = desired(Some(&service), &slices, NODE, &cluster());
        assert_eq!(
            told(&desired),
            [
                "10.96.0.7:80/TCP, 30080/TCP at every node's IPv4 -> 4",
                "[fd00:96::7]:80/TCP, 30080/TCP at every node's IPv6 -> 6",
            ]
        );
        assert!(desired.sets.iter().all(|wanted| wanted.affinity_seconds == 10_800));
        assert_eq!((desired.problems.len(), desired.left_alone), (0, None));
    }

    #[test]
    fn a_service_that_is_gone_or_left_alone_has_no_frontends() {
        assert_eq!(super::desired(None, &[], NODE, &cluster()), Desired::default());
        let headless =
            Service { cluster_ips: vec!["None"], external_ips: vec!["203.0.113.9"], ..Service::default() };
        let left = super::desired(Some(&headless), &[], NODE, &cluster());
        assert_eq!((left.sets.len(), left.left_alone), (0, Some(LeftAlone::Headless)));
    }

    #[test]
    fn clients_in_the_cluster_get_any_endpoint_at_external_addresses() {
        let external = || Service {
            kind: "LoadBalancer",
            external_ips: vec!["203.0.113.9"],
            load_balancer_ips: vec!["198.51.100.7", "2001:db8::ffff"],
            ..node_port()
        };
        let all = "10.96.0.7:80/TCP, 198.51.100.7:80/TCP, 203.0.113.9:80/TCP, 30080/TCP at every node's IPv4 -> 4, 5";
        check("Cluster", &external(), &[all]);
        check(
            "Local",
            &Service { external_traffic_policy: "Local", ..external() },
            &[
                "10.96.0.7:80/TCP, 198.51.100.7:80/TCP, 203.0.113.9:80/TCP, 30080/TCP at this node's IPv4 -> 4, 5",
                "192.0.2.2:30080/TCP -> 5",
                "30080/TCP at every node's IPv4 -> ",
            ],
        );
        check(
            "internalTrafficPolicy",
            &Service { internal_traffic_policy: "Local", ..external() },
            &[
                "10.96.0.7:80/TCP -> 4",
                "198.51.100.7:80/TCP, 203.0.113.9:80/TCP, 30080/TCP at every node's IPv4 -> 4, 5",
            ],
        );
        check(
            "internalTrafficPolicy alone",
            &Service { internal_traffic_policy: "Local", ..service() },
            &["10.96.0.7:80/TCP -> 4"],
        );
    }

    /// What clients from outside find, written as `frontend from ranges -> last byte of target, ...`.
    fn inbound(service: &Service<'_>, slices: &[Slice<'_>]) -> Vec<String> {
        let found = desired(Some(service), slices, NODE, &cluster()).inbound;
        let one = |(frontend, inbound): (&Frontend, &Inbound)| {
            let ranges: String = inbound.admitted.iter().map(|range| format!(" from {range}")).collect();
            let kept = if inbound.affinity_seconds > 0 { " kept" } else { "" };
            let lead = match &inbound.lead {
                Lead::Refused => "refused".to_owned(),
                Lead::Dropped => "dropped".to_owned(),
                Lead::Targets(targets) => {
                    let last =
                        |one: &Target| one.address.to_string().rsplit(['.', ':']).next().unwrap().to_owned();
                    targets.iter().map(last).collect::<Vec<_>>().join(", ")
                }
            };
            format!("{frontend}{ranges} -> {lead}{kept}")
        };
        found.iter().map(one).collect()
    }

    #[test]
    fn clients_from_outside_get_endpoints_by_the_external_policy() {
        let local = || Service { external_traffic_policy: "Local", ..node_port() };
        let elsewhere = [slice("IPv4", &[("10.1.0.5", "n2")])];
        for (what, service, slices, expect) in [
            ("Cluster", node_port(), &slices()[..], "30080/TCP at every node's IPv4 -> 4, 5"),
            ("Cluster, none", node_port(), &[], "30080/TCP at every node's IPv4 -> refused"),
            ("Local", local(), &slices(), "30080/TCP at this node's IPv4 -> 4"),
            ("Local, none here", local(), &elsewhere, "30080/TCP at this node's IPv4 -> dropped"),
            ("Local, none", local(), &[], "30080/TCP at this node's IPv4 -> refused"),
            (
                "the ClusterIP's policy does not count",
                Service { internal_traffic_policy: "Local", ..node_port() },
                &elsewhere,
                "30080/TCP at every node's IPv4 -> 5",
            ),
            (
                "ClientIP",
                Service { session_affinity: "ClientIP", ..node_port() },
                &slices(),
                "30080/TCP at every node's IPv4 -> 4, 5 kept",
            ),
        ] {
            assert_eq!(inbound(&service, slices), [expect], "{what}");
        }
        assert_eq!(inbound(&service(), &slices()), Vec::<String>::new(), "ClusterIPs mean nothing outside");
    }

    #[test]
    fn source_ranges_count_at_addresses_of_load_balancers_only() {
        let ports = vec![ServicePort { node_port: 0, ..node_port().ports[0] }];
        let balanced = |source_ranges: Vec<&'static str>| Service {
            kind: "LoadBalancer",
            external_ips: vec!["203.0.113.9"],
            load_balancer_ips: vec!["198.51.100.7"],
            source_ranges,
            ports: ports.clone(),
            ..service()
        };
        let external = "203.0.113.9:80/TCP -> 4, 5".to_owned();
        for (ranges, expect) in [
            (vec![], "198.51.100.7:80/TCP -> 4, 5"),
            (vec!["fd00::/8"], "198.51.100.7:80/TCP -> 4, 5"),
            (vec!["10.0.0.0/8", " 10.1.0.0/16"], "198.51.100.7:80/TCP from 10.0.0.0/8 -> 4, 5"),
            (vec!["10.0.0.0/8", "0.0.0.0/0"], "198.51.100.7:80/TCP -> 4, 5"),
            (vec!["what"], "198.51.100.7:80/TCP -> dropped"),
        ] {
            assert_eq!(
                inbound(&balanced(ranges.clone()), &slices()),
                [expect.to_owned(), external.clone()],
                "{ranges:?}"
            );
        }
    }

    #[test]
    fn an_address_that_is_asked_for_twice_is_one_frontend() {
        let twice = Service {
            kind: "LoadBalancer",
            internal_traffic_policy: "Local",
            external_ips: vec!["203.0.113.9", "203.0.113.9"],
            load_balancer_ips: vec!["203.0.113.9", "10.96.0.7"],
            ..service()
        };
        check("twice", &twice, &["10.96.0.7:80/TCP -> 4", "203.0.113.9:80/TCP -> 4, 5"]);
    }

    #[test]
    fn under_local_a_port_of_another_node_leads_to_the_endpoints_there() {
        let local = Service { external_traffic_policy: "Local", ..node_port() };
        let not_ready = |ready, terminating| Endpoint {
            address: "10.1.0.6".parse().ok(),
            node: Some("n3"),
            ready: Some(ready),
            serving: Some(true),
            terminating: Some(terminating),
            ..Endpoint::default()
        };
        for (endpoint, expect) in [
            (not_ready(false, true), Some("192.0.2.3:30080/TCP -> 6")),
            (not_ready(true, false), Some("192.0.2.3:30080/TCP -> 6")),
            (not_ready(false, false), None),
        ] {
            let [mut slice] = slices();
            slice.endpoints.push(endpoint);
            let desired = desired(Some(&local), &[slice], NODE, &cluster());
            let of_n3 = told(&desired).into_iter().find(|set| set.starts_with("192.0.2.3"));
            assert_eq!(of_n3.as_deref(), expect);
        }
    }

    /// Kubernetes, "externalTrafficPolicy: Local": "preserves the client source IP". Kubernetes' own spec (e2e, "should support
    /// externalTrafficPolicy=Local for type=NodePort") has a process of another node for client.
    #[test]
    fn under_local_processes_of_a_node_with_a_port_of_its_own_go_to_the_other_node() {
        let local = Service {
            cluster_ips: vec!["10.96.0.7", "fd00:96::7"],
            external_traffic_policy: "Local",
            ..node_port()
        };
        let slices = [slice("IPv4", &[("10.1.0.5", "n2")]), slice("IPv6", &[("fd00::6", "n2")])];
        let (four, six) = ("192.0.2.2:30080/TCP", "[2001:db8::2]:30080/TCP");
        let for_pods = |at: &str| format!("{at} for pods");
        for (what, own_port, expect) in [
            ("a server of the cloud", &[][..], [four.to_owned(), six.to_owned()]),
            ("a port of its own", &["10.1.0.200", "fd00::c8"], [four, six].map(for_pods)),
            ("a port of its own, one family", &["10.1.0.200"], [for_pods(four), six.to_owned()]),
            // It has no address but the port's, which endpoints see.
            ("on the pods' network only", &["192.0.2.1", "2001:db8::1"], [four.to_owned(), six.to_owned()]),
        ] {
            let own_port = own_port.iter().map(|text| text.parse().unwrap()).collect();
            let cluster = Cluster { own_port, ..cluster() };
            let sets = told(&desired(Some(&local), &slices, NODE, &cluster));
            let of_n2: Vec<_> =
                sets.iter().filter(|set| set.contains("::2]") || set.contains(".2:")).collect();
            assert_eq!(
                of_n2,
                [format!("{} -> 5", expect[0]), format!("{} -> 6", expect[1])].each_ref(),
                "{what}"
            );
            let refused = sets
                .iter()
                .filter(|set| set.ends_with("node's IPv4 -> ") || set.ends_with("node's IPv6 -> "));
            assert_eq!(refused.count(), 2, "{what}: {sets:?}");
            // A pod is told from them also at the own node's port.
            let at_own = |of: &str| {
                sets.iter().find(|set| set.contains(&format!("this node's {of} for its processes")))
            };
            for (of, expect) in [("IPv4", &expect[0]), ("IPv6", &expect[1])] {
                let is_for_pods = expect.ends_with("for pods");
                assert_eq!(at_own(of).is_some(), is_for_pods, "{what}: {sets:?}");
            }
            // Under Cluster any endpoint does, and its address is lost anyway.
            let anywhere = told(&desired(
                Some(&Service { external_traffic_policy: "Cluster", ..local.clone() }),
                &slices,
                NODE,
                &cluster,
            ));
            assert!(!anywhere.iter().any(|set| set.contains("for pods")), "{what}: {anywhere:?}");
        }
    }

    /// Kubernetes' own spec (e2e, "should implement NodePort and HealthCheckNodePort correctly when ExternalTrafficPolicy changes")
    /// has such a process for client, which the endpoint has to see with its node's address.
    #[test]
    fn under_local_processes_reach_endpoints_elsewhere_through_their_own_nodes_port_by_the_other_nodes() {
        let local = Service { external_traffic_policy: "Local", ..node_port() };
        let cluster = Cluster { own_port: ["10.1.0.200".parse().unwrap()].into(), ..cluster() };
        let leads = |endpoints: &[(&str, &str)]| {
            let desired = desired(Some(&local), &[slice("IPv4", endpoints)], NODE, &cluster);
            let is_it = |wanted: &&Wanted| {
                wanted.frontends.iter().any(|frontend| frontend.at == At::OwnNodeHost(Family::V4))
            };
            let found = desired.sets.iter().find(is_it).unwrap();
            let targets: Vec<String> = found.targets.iter().map(ToString::to_string).collect();
            (found.frontends.len(), targets.join(", "))
        };
        for (what, endpoints, expect) in [
            ("elsewhere", &[("10.1.0.5", "n2"), ("10.1.0.6", "n2")][..], (1, "192.0.2.2:30080")),
            ("both", &[("10.1.0.4", "n1"), ("10.1.0.5", "n2")], (1, "10.1.0.4:8080, 192.0.2.2:30080")),
            ("here: as everybody", &[("10.1.0.4", "n1")], (3, "10.1.0.4:8080")),
            ("a node that nobody knows", &[("10.1.0.5", "n9")], (3, "10.1.0.5:8080")),
            ("on the host network", &[("192.0.2.3", "n3")], (3, "192.0.2.3:8080")),
            ("none", &[], (3, "")),
        ] {
            assert_eq!(leads(endpoints), (expect.0, expect.1.to_owned()), "{what}");
        }
    }

    #[test]
    fn two_nodes_behind_one_address_share_their_endpoints_there() {
        let mut cluster = cluster();
        let shared: IpAddr = [192, 0, 2, 99].into();
        cluster.nodes.get_mut("n2").unwrap().push(shared);
        cluster.nodes.get_mut("n3").unwrap().push(shared);
        cluster.nodes.get_mut("n3").unwrap().push([192, 0, 2, 1].into());
        let slices = [slice("IPv4", &[("10.1.0.5", "n2"), ("10.1.0.6", "n3")])];
        let local = Service { external_traffic_policy: "Local", ..node_port() };
        let sets = told(&desired(Some(&local), &slices, NODE, &cluster));
        assert!(sets.contains(&"192.0.2.99:30080/TCP -> 5, 6".to_owned()), "{sets:?}");
        assert!(!sets.iter().any(|set| set.starts_with("192.0.2.1:")), "this node's own: {sets:?}");
    }
}
