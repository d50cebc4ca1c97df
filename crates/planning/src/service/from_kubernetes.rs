//! A Service, read: whether it is served here, at which frontends, and how its clients are to be treated.
//!
//! Sources: Kubernetes documentation, "Service" ("Headless Services", "type: ExternalName", "Multi-port Services"),
//! "Virtual IPs and Service Proxies" ("Session affinity", "Internal traffic policy"); label
//! `service.kubernetes.io/service-proxy-name`.

use std::{fmt, net::IpAddr};

use super::{
    desired::{Frontend, Problem, Protocol},
    inputs::{Service, ServicePort},
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
    /// Where, and the name of the port there.
    pub(super) frontends: Vec<(Frontend, &'a str)>,
    /// How long a client keeps its endpoint, in seconds; 0: not at all.
    pub(super) affinity_seconds: u32,
    /// Clients get endpoints of their own node only.
    pub(super) local_only: bool,
}

/// Reads a Service.
pub(super) fn intent<'a>(
    service: &Service<'a>,
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
    let addresses = addresses(service, problems);
    if addresses.is_empty() {
        return Err(LeftAlone::NoAddress);
    }
    let ports: Vec<(Protocol, &ServicePort<'a>)> =
        service.ports.iter().filter_map(|port| Some((protocol(port, problems)?, port))).collect();
    let at = |address: IpAddr| {
        ports.iter().map(move |(protocol, port)| {
            (Frontend { address, port: port.port, protocol: *protocol }, port.name)
        })
    };
    Ok(Intent {
        frontends: addresses.into_iter().flat_map(at).collect(),
        affinity_seconds: affinity_seconds(service),
        local_only: service.internal_traffic_policy == "Local",
    })
}

fn addresses(service: &Service<'_>, problems: &mut Vec<Problem>) -> Vec<IpAddr> {
    let texts = service.cluster_ips.iter().filter(|text| !text.is_empty());
    let mut addresses = Vec::new();
    for text in texts {
        match text.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => problems.push(Problem::NoAddress { text: (*text).to_owned() }),
        }
    }
    addresses
}

fn protocol(port: &ServicePort<'_>, problems: &mut Vec<Problem>) -> Option<Protocol> {
    let protocol = Protocol::of(port.protocol);
    if protocol.is_none() {
        problems.push(Problem::Protocol { port: port.port, protocol: port.protocol.to_owned() });
    }
    protocol
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
    use super::*;

    fn read(service: &Service<'_>) -> (Result<Vec<String>, LeftAlone>, Vec<Problem>) {
        let mut problems = Vec::new();
        let read = intent(service, &mut problems);
        let texts = read.map(|intent| {
            intent.frontends.iter().map(|(frontend, name)| format!("{frontend} {name}")).collect()
        });
        (texts, problems)
    }

    fn service<'a>(cluster_ips: &[&'a str], ports: &[(&'a str, &'a str, u16)]) -> Service<'a> {
        let port =
            |(name, protocol, port): &(&'a str, &'a str, u16)| ServicePort { name, protocol, port: *port };
        Service {
            cluster_ips: cluster_ips.to_vec(),
            ports: ports.iter().map(port).collect(),
            ..Service::default()
        }
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
    fn dual_stack_and_several_protocols_on_one_port_are_frontends_of_their_own() {
        let dns = service(&["10.96.0.10", "fd00:96::a"], &[("dns", "UDP", 53), ("dns-tcp", "TCP", 53)]);
        let expect = [
            "10.96.0.10:53/UDP dns",
            "10.96.0.10:53/TCP dns-tcp",
            "[fd00:96::a]:53/UDP dns",
            "[fd00:96::a]:53/TCP dns-tcp",
        ];
        assert_eq!(read(&dns), (Ok(expect.map(str::to_owned).to_vec()), vec![]));
    }

    #[test]
    fn what_cannot_be_served_is_told_and_the_rest_is_served() {
        let odd = service(&["10.96.0.7", "x"], &[("a", "SCTP", 80), ("b", "", 81)]);
        let problems = vec![
            Problem::NoAddress { text: "x".into() },
            Problem::Protocol { port: 80, protocol: "SCTP".into() },
        ];
        assert_eq!(read(&odd), (Ok(vec!["10.96.0.7:81/TCP b".to_owned()]), problems));
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
                intent(&service, &mut vec![]).unwrap().affinity_seconds,
                expect,
                "{affinity} {seconds:?}"
            );
        }
    }

    #[test]
    fn internal_traffic_policy_local_restricts_to_the_node() {
        for (policy, expect) in [("", false), ("Cluster", false), ("Local", true)] {
            let service = Service { internal_traffic_policy: policy, ..service(&["10.96.0.7"], &[]) };
            assert_eq!(intent(&service, &mut vec![]).unwrap().local_only, expect, "{policy}");
        }
    }
}
