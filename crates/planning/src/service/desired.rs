//! What the tables should hold of one Service.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

use super::{
    endpoints::targets,
    from_kubernetes::{LeftAlone, intent},
    inputs::{NodeFacts, Service, ServiceRef, Slice},
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

/// Where clients send to. Written as `10.96.0.1:443/TCP`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frontend {
    /// Address of the Service.
    pub address: IpAddr,
    /// Port of the Service.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.address, self.port), self.protocol)
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

/// What a frontend should lead to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// How long a client keeps its endpoint after the last use, in seconds; 0: not at all.
    pub affinity_seconds: u32,
    /// Targets; with none clients are refused.
    pub targets: BTreeSet<Target>,
}

/// What the tables should hold of one Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// Its frontends.
    pub frontends: BTreeMap<Frontend, Wanted>,
    /// What of it cannot be served.
    pub problems: Vec<Problem>,
    /// Why it is not served at all.
    pub left_alone: Option<LeftAlone>,
}

/// What of a Service cannot be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// Something else than an address among its addresses.
    NoAddress {
        /// What there is.
        text: String,
    },
    /// A port of a protocol that has no connecting sockets here.
    Protocol {
        /// The port.
        port: u16,
        /// Its protocol.
        protocol: String,
    },
    /// A frontend that another Service has.
    Taken {
        /// The frontend.
        frontend: Frontend,
        /// The other Service.
        by: ServiceRef,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddress { text } => write!(f, "spec.clusterIPs: `{text}` is no address"),
            Self::Protocol { port, protocol } => {
                write!(
                    f,
                    "port {port}: clients of protocol {protocol} are not brought to endpoints; use TCP or UDP"
                )
            }
            Self::Taken { frontend, by } => write!(f, "{frontend} still belongs to Service {by}"),
        }
    }
}

/// Tells what the tables should hold of a Service; of one that does not exist, nothing.
#[must_use]
pub fn desired(service: Option<&Service<'_>>, slices: &[Slice<'_>], node: NodeFacts<'_>) -> Desired {
    let mut desired = Desired::default();
    let Some(service) = service else { return desired };
    match intent(service, &mut desired.problems) {
        Ok(intent) => {
            for (frontend, port_name) in intent.frontends {
                let targets = targets(&frontend, port_name, slices, node, intent.local_only);
                let wanted = Wanted { affinity_seconds: intent.affinity_seconds, targets };
                desired.frontends.insert(frontend, wanted);
            }
        }
        Err(why) => desired.left_alone = Some(why),
    }
    desired
}

#[cfg(test)]
mod tests {
    use super::{
        super::inputs::{Endpoint, ServicePort, SlicePort},
        *,
    };

    #[test]
    fn a_dual_stack_service_has_a_frontend_and_targets_in_each_family() {
        let service = Service {
            cluster_ips: vec!["10.96.0.7", "fd00:96::7"],
            ports: vec![ServicePort { name: "http", protocol: "TCP", port: 80 }],
            session_affinity: "ClientIP",
            ..Service::default()
        };
        let slice = |address_type, address: &str| Slice {
            address_type,
            ports: vec![SlicePort { name: "http", protocol: "TCP", port: Some(8080) }],
            endpoints: vec![Endpoint { address: address.parse().ok(), ..Endpoint::default() }],
        };
        let slices = [slice("IPv4", "10.1.0.4"), slice("IPv6", "fd00::4")];
        let desired = desired(Some(&service), &slices, NodeFacts::default());
        let told: Vec<String> = desired
            .frontends
            .iter()
            .map(|(frontend, wanted)| {
                let targets: Vec<String> = wanted.targets.iter().map(ToString::to_string).collect();
                format!("{frontend} -> {} for {} s", targets.join(", "), wanted.affinity_seconds)
            })
            .collect();
        assert_eq!(
            told,
            [
                "10.96.0.7:80/TCP -> 10.1.0.4:8080 for 10800 s",
                "[fd00:96::7]:80/TCP -> [fd00::4]:8080 for 10800 s"
            ]
        );
        assert_eq!((desired.problems.len(), desired.left_alone), (0, None));
    }

    #[test]
    fn a_service_that_is_gone_or_left_alone_has_no_frontends() {
        assert_eq!(desired(None, &[], NodeFacts::default()), Desired::default());
        let headless = Service { cluster_ips: vec!["None"], ..Service::default() };
        let left = desired(Some(&headless), &[], NodeFacts::default());
        assert_eq!((left.frontends.len(), left.left_alone), (0, Some(LeftAlone::Headless)));
    }
}
