//! A Service, read: whether it is served here, at which frontends, and how its clients are to be treated.
//!
//! Sources: Kubernetes documentation, "Service" ("Headless Services", "type: ExternalName", "Multi-port Services"),
//! "Virtual IPs and Service Proxies" ("Session affinity", "Internal traffic policy"); label
//! `service.kubernetes.io/service-proxy-name`; kube-proxy 1.36, `pkg/proxy/serviceport.go` (families, source ranges).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use ipnet::IpNet;

use super::{
    desired::{Family, Problem, Protocol},
    external::{Refusal, admit},
    inputs::{Cluster, Service, ServicePort},
};

/// What Kubernetes puts in where a Service with affinity says nothing (`DefaultClientIPServiceAffinitySeconds`).
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;
/// In the place of an address: the Service has none on purpose.
const HEADLESS: &str = "None";

/// Why a Service is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftAlone {
    /// Another proxy serves it.
    OtherProxy,
    /// It is a name for something else.
    ExternalName,
    /// Its clients find endpoints by DNS.
    Headless,
    /// The API server has given it no address yet.
    NoAddress,
}

impl fmt::Display for LeftAlone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherProxy => "its label service.kubernetes.io/service-proxy-name names another proxy",
            Self::ExternalName => "it is of type ExternalName",
            Self::Headless => "it is headless",
            Self::NoAddress => "it has no address yet",
        })
    }
}

/// A Service that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Intent<'a> {
    /// Its ports.
    pub(super) ports: Vec<IntentPort<'a>>,
    /// Its addresses.
    pub(super) addresses: BTreeMap<Family, Addresses>,
    /// How long a client keeps its endpoint, in seconds; 0: not at all.
    pub(super) affinity_seconds: u32,
    /// Clients of the ClusterIP get endpoints of their own node only.
    pub(super) internal_local: bool,
    /// Clients that come to a node from outside get endpoints of that node only.
    pub(super) external_local: bool,
    /// Where load balancers ask whether this node has endpoints.
    pub(super) health_check_port: Option<u16>,
}

/// A port of a Service that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IntentPort<'a> {
    pub(super) name: &'a str,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    pub(super) node_port: Option<u16>,
}

/// The addresses of a Service in one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Addresses {
    /// The ClusterIP.
    pub(super) cluster: IpAddr,
    /// External addresses and those of load balancers.
    pub(super) external: BTreeSet<IpAddr>,
    /// Addresses of load balancers that let in some clients only.
    pub(super) restricted: BTreeSet<IpAddr>,
    /// From where those let clients in.
    pub(super) admitted: BTreeSet<IpNet>,
}

/// Reads a Service.
pub(super) fn intent<'a>(
    service: &Service<'a>,
    cluster: &Cluster,
    problems: &mut Vec<Problem>,
) -> Result<Intent<'a>, LeftAlone> {
    if service.proxy_name.is_some() {
        return Err(LeftAlone::OtherProxy);
    }
    if service.kind == "ExternalName" {
        return Err(LeftAlone::ExternalName);
    }
    if service.cluster_ips.contains(&HEADLESS) {
        return Err(LeftAlone::Headless);
    }
    let mut addresses = cluster_ips(service, problems);
    if addresses.is_empty() {
        return Err(LeftAlone::NoAddress);
    }
    add_external_ips(service, cluster, &mut addresses, problems);
    add_load_balancer_ips(service, &mut addresses);
    let external_local = service.external_traffic_policy == "Local";
    Ok(Intent {
        ports: service.ports.iter().filter_map(|found| port(found, problems)).collect(),
        addresses,
        affinity_seconds: affinity_seconds(service),
        internal_local: service.internal_traffic_policy == "Local",
        external_local,
        // Under Cluster every node serves, and nobody need ask.
        health_check_port: Some(service.health_check_node_port)
            .filter(|port| *port != 0 && external_local && service.kind == "LoadBalancer"),
    })
}

fn cluster_ips(service: &Service<'_>, problems: &mut Vec<Problem>) -> BTreeMap<Family, Addresses> {
    let texts = service.cluster_ips.iter().filter(|text| !text.is_empty());
    let mut addresses = BTreeMap::new();
    for text in texts {
        match text.parse() {
            Ok(cluster) => {
                let none = Addresses {
                    cluster,
                    external: BTreeSet::new(),
                    restricted: BTreeSet::new(),
                    admitted: BTreeSet::new(),
                };
                addresses.insert(Family::of(cluster), none);
            }
            Err(_) => problems.push(Problem::NoAddress { text: (*text).to_owned() }),
        }
    }
    addresses
}

fn add_external_ips(
    service: &Service<'_>,
    cluster: &Cluster,
    addresses: &mut BTreeMap<Family, Addresses>,
    problems: &mut Vec<Problem>,
) {
    for text in &service.external_ips {
        let added = admit(text, cluster).and_then(|address| {
            let of_family = addresses.get_mut(&Family::of(address)).ok_or(Refusal::Family)?;
            of_family.external.insert(address);
            Ok(())
        });
        if let Err(why) = added {
            problems.push(Problem::ExternalIp { text: (*text).to_owned(), why });
        }
    }
}

/// A load balancer whose clients are restricted tells them apart itself, by the address that they come from: clients of
/// this node are left to reach it. What arrives here from outside has kept its address.
fn add_load_balancer_ips(service: &Service<'_>, addresses: &mut BTreeMap<Family, Addresses>) {
    if service.kind != "LoadBalancer" {
        return;
    }
    for address in service.load_balancer_ips.iter().filter_map(|text| text.parse::<IpAddr>().ok()) {
        let family = Family::of(address);
        let Some(of_family) = addresses.get_mut(&family) else { continue };
        match admitted(&service.source_ranges, family) {
            None => drop(of_family.external.insert(address)),
            Some(ranges) => {
                of_family.restricted.insert(address);
                of_family.admitted = ranges;
            }
        }
    }
}

/// From where clients of a family are let in; `None`: from everywhere, as no range is of the family, or one is all of it.
/// What cannot be read may restrict.
fn admitted(ranges: &[&str], family: Family) -> Option<BTreeSet<IpNet>> {
    let read = ranges.iter().map(|text| text.trim().parse::<IpNet>());
    let of_family: Vec<Option<IpNet>> = read
        .map(Result::ok)
        .filter(|range| range.is_none_or(|range| Family::of(range.addr()) == family))
        .collect();
    let all = of_family.is_empty() || of_family.iter().flatten().any(|range| range.prefix_len() == 0);
    let readable: Vec<IpNet> = of_family.into_iter().flatten().collect();
    (!all).then(|| IpNet::aggregate(&readable).into_iter().collect())
}

fn port<'a>(found: &ServicePort<'a>, problems: &mut Vec<Problem>) -> Option<IntentPort<'a>> {
    let Some(protocol) = Protocol::of(found.protocol) else {
        problems.push(Problem::Protocol { port: found.port, protocol: found.protocol.to_owned() });
        return None;
    };
    let node_port = Some(found.node_port).filter(|port| *port != 0);
    Some(IntentPort { name: found.name, protocol, port: found.port, node_port })
}

fn affinity_seconds(service: &Service<'_>) -> u32 {
    if service.session_affinity == "ClientIP" {
        service.affinity_seconds.unwrap_or(DEFAULT_AFFINITY_SECONDS)
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::{super::external::ExternalRanges, *};

    fn cluster() -> Cluster {
        let external_ranges =
            ExternalRanges::read(&["203.0.113.0/24".into(), "2001:db8::/64".into()]).unwrap();
        Cluster { external_ranges, ..Cluster::default() }
    }

    /// Addresses, then ports.
    fn read(service: &Service<'_>) -> (Result<Vec<String>, LeftAlone>, Vec<Problem>) {
        let mut problems = Vec::new();
        let read = intent(service, &cluster(), &mut problems);
        let texts = read.map(|intent| {
            let addresses = intent.addresses.values().map(|one| {
                let external: Vec<String> = one.external.iter().map(ToString::to_string).collect();
                format!("{} [{}]", one.cluster, external.join(" "))
            });
            let port = |one: &IntentPort<'_>| {
                let node_port = one.node_port.map(|port| format!(" node {port}")).unwrap_or_default();
                format!("{}/{} {}{node_port}", one.port, one.protocol, one.name)
            };
            addresses.chain(intent.ports.iter().map(port)).collect()
        });
        (texts, problems)
    }

    fn service<'a>(cluster_ips: &[&'a str], ports: &[(&'a str, &'a str, u16)]) -> Service<'a> {
        let port = |(name, protocol, port): &(&'a str, &'a str, u16)| ServicePort {
            name,
            protocol,
            port: *port,
            node_port: 0,
        };
        Service {
            cluster_ips: cluster_ips.to_vec(),
            ports: ports.iter().map(port).collect(),
            ..Service::default()
        }
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn what_another_or_nobody_has_to_serve_is_left_alone() {
        let plain = service(&["10.96.0.7"], &[("", "TCP", 80)]);
        assert!(read(&plain).0.is_ok());
        for (service, expect) in [
            (Service { proxy_name: Some("x"), ..plain.clone() }, LeftAlone::OtherProxy),
            (Service { kind: "ExternalName", cluster_ips: vec![], ..plain.clone() }, LeftAlone::ExternalName),
            (Service { cluster_ips: vec!["None"], ..plain.clone() }, LeftAlone::Headless),
            (Service { cluster_ips: vec![""], ..plain.clone() }, LeftAlone::NoAddress),
            (Service { cluster_ips: vec![], ..plain.clone() }, LeftAlone::NoAddress),
        ] {
            assert_eq!(read(&service), (Err(expect), vec![]), "{service:?}");
        }
        for kind in ["", "ClusterIP", "NodePort", "LoadBalancer"] {
            assert!(read(&Service { kind, ..plain.clone() }).0.is_ok(), "{kind} has a ClusterIP, too");
        }
    }

    #[test]
    fn families_protocols_and_ports_of_nodes() {
        let mut dns = service(&["10.96.0.10", "fd00:96::a"], &[("dns", "UDP", 53), ("dns-tcp", "TCP", 53)]);
        dns.ports[1].node_port = 30053;
        let expect = ["10.96.0.10 []", "fd00:96::a []", "53/UDP dns", "53/TCP dns-tcp node 30053"];
        assert_eq!(read(&dns), (Ok(texts(&expect)), vec![]));
    }

    #[test]
    fn what_cannot_be_served_is_told_and_the_rest_is_served() {
        let odd = Service {
            external_ips: vec!["203.0.113.9", "198.51.100.1", "2001:db8::9"],
            ..service(&["10.96.0.7", "x"], &[("a", "SCTP", 80), ("b", "", 81)])
        };
        let external = |text: &str, why| Problem::ExternalIp { text: text.into(), why };
        let problems = vec![
            Problem::NoAddress { text: "x".into() },
            external("198.51.100.1", Refusal::OutsideRanges),
            external("2001:db8::9", Refusal::Family),
            Problem::Protocol { port: 80, protocol: "SCTP".into() },
        ];
        assert_eq!(read(&odd), (Ok(texts(&["10.96.0.7 [203.0.113.9]", "81/TCP b"])), problems));
    }

    #[test]
    fn load_balancers_are_spared_unless_their_clients_are_restricted() {
        for (kind, ranges, expect) in [
            ("LoadBalancer", &[][..], ["10.96.0.7 [198.51.100.7]", "fd00:96::7 [2001:db8::7]"]),
            ("NodePort", &[], ["10.96.0.7 []", "fd00:96::7 []"]),
            ("LoadBalancer", &["10.0.0.0/8"], ["10.96.0.7 []", "fd00:96::7 [2001:db8::7]"]),
            ("LoadBalancer", &["10.0.0.0/8", " fd00::/8"], ["10.96.0.7 []", "fd00:96::7 []"]),
            (
                "LoadBalancer",
                &["10.0.0.0/8", "0.0.0.0/0"],
                ["10.96.0.7 [198.51.100.7]", "fd00:96::7 [2001:db8::7]"],
            ),
            ("LoadBalancer", &["x"], ["10.96.0.7 []", "fd00:96::7 []"]),
        ] {
            let service = Service {
                kind,
                load_balancer_ips: vec!["198.51.100.7", "2001:db8::7", "x"],
                source_ranges: ranges.to_vec(),
                ..service(&["10.96.0.7", "fd00:96::7"], &[])
            };
            assert_eq!(read(&service), (Ok(texts(&expect)), vec![]), "{kind} {ranges:?}");
        }
    }

    #[test]
    fn session_affinity_has_the_timeout_of_the_service_or_three_hours() {
        for (affinity, seconds, expect) in
            [("None", Some(5), 0), ("", None, 0), ("ClientIP", None, 10_800), ("ClientIP", Some(5), 5)]
        {
            let service = Service {
                session_affinity: affinity,
                affinity_seconds: seconds,
                ..service(&["10.96.0.7"], &[])
            };
            assert_eq!(
                intent(&service, &cluster(), &mut vec![]).unwrap().affinity_seconds,
                expect,
                "{affinity} {seconds:?}"
            );
        }
    }

    #[test]
    fn only_load_balancers_of_local_traffic_ask_for_the_nodes_health() {
        for (kind, policy, port, expect) in [
            ("LoadBalancer", "Local", 30090, Some(30090)),
            ("LoadBalancer", "Local", 0, None),
            ("LoadBalancer", "Cluster", 30090, None),
            ("NodePort", "Local", 30090, None),
        ] {
            let service = Service {
                kind,
                external_traffic_policy: policy,
                health_check_node_port: port,
                ..service(&["10.96.0.7"], &[])
            };
            let read = intent(&service, &cluster(), &mut vec![]).unwrap().health_check_port;
            assert_eq!(read, expect, "{kind} {policy}");
        }
    }

    #[test]
    fn traffic_policies_local_restrict_to_the_node() {
        for (policy, expect) in [("", false), ("Cluster", false), ("Local", true)] {
            let plain = service(&["10.96.0.7"], &[]);
            let internal = Service { internal_traffic_policy: policy, ..plain.clone() };
            assert_eq!(
                intent(&internal, &cluster(), &mut vec![]).unwrap().internal_local,
                expect,
                "{policy}"
            );
            let external = Service { external_traffic_policy: policy, ..plain };
            assert_eq!(
                intent(&external, &cluster(), &mut vec![]).unwrap().external_local,
                expect,
                "{policy}"
            );
        }
    }
}
