//! The load balancer as it should be.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use kuryr_api::kuryrnode::Problem;
use kuryr_types::{PortId, SubnetId};

use super::{
    from_kubernetes::{ClientTold, Intent},
    inputs::{EndpointFacts, MonitorSettings, Settings},
    provider::MemberMode,
};
use crate::ownership::{listener_name, member_name};

/// Members that a problem names at most.
const NAMED: usize = 3;

/// A protocol that Services have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The protocol of this name, as Kubernetes and Octavia spell it alike.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "TCP" | "" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// What is below the protocol of a listener, which may be one of those above TCP.
    ///
    /// Source: Octavia, `L4_PROTOCOL_MAP`.
    #[must_use]
    pub fn below(listener: &str) -> Option<Self> {
        match listener {
            "HTTP" | "HTTPS" | "TERMINATED_HTTPS" | "PROMETHEUS" => Some(Self::Tcp),
            other => Self::named(other),
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

/// A load balancer with all that is below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalancerSpec {
    /// Its name.
    pub name: String,
    /// What implements it.
    pub provider: String,
    /// Subnet of its VIP.
    pub vip_subnet: SubnetId,
    /// Its VIP, if a certain one is wanted.
    pub vip_address: Option<IpAddr>,
    /// The port with its VIP, if the user has one.
    pub vip_port: Option<PortId>,
    /// Further VIPs: subnets, and addresses if certain ones are wanted.
    pub more_vips: Vec<(SubnetId, Option<IpAddr>)>,
    /// Flavor, which counts when it is made.
    pub flavor: Option<String>,
    /// Availability zone, which counts when it is made.
    pub zone: Option<String>,
    /// Listeners by protocol and port.
    pub listeners: BTreeMap<(Protocol, u16), ListenerSpec>,
}

/// A listener with its pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSpec {
    /// Its name.
    pub name: String,
    /// Such as `TCP`, or what is above it: `HTTP`.
    pub protocol: &'static str,
    /// Most connections at a time; `None` is no bound.
    pub connection_limit: Option<u32>,
    /// Milliseconds: client data, connect, member data, inspection; `None`: Octavia's default.
    pub timeouts: [Option<u32>; 4],
    /// HTTP headers are inserted that tell of the client.
    pub forwards_for: bool,
    /// The only clients; empty: all.
    pub allowed: BTreeSet<IpNet>,
    /// Its pool, of the same name.
    pub pool: PoolSpec,
}

/// A pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSpec {
    /// What members are sent: as the listener's, or `PROXY`, `PROXYV2`.
    pub protocol: &'static str,
    /// How a member is chosen.
    pub algorithm: String,
    /// Clients keep their member by their address.
    pub is_persistent: bool,
    /// Its members, by address and port.
    pub members: BTreeMap<(IpAddr, u16), MemberSpec>,
    /// Its monitor.
    pub monitor: Option<MonitorSpec>,
}

/// A monitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonitorSpec {
    /// Such as `TCP`, `UDP-CONNECT`.
    pub kind: String,
    /// How often it looks, and what it makes of it.
    pub settings: MonitorSettings,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberSpec {
    /// Its name, for people.
    pub name: String,
    /// The subnet by which it is reached.
    pub subnet: Option<SubnetId>,
}

/// The load balancer that an intent means with these endpoints, and the endpoints that it cannot have.
#[must_use]
pub fn desired(
    intent: &Intent,
    endpoints: &[EndpointFacts],
    settings: &Settings,
) -> (BalancerSpec, Vec<Problem>) {
    let mut strangers = BTreeSet::new();
    let listeners = intent.ports.iter().map(|(name, protocol, port)| {
        let (above, sent) = intent.client_told.protocols(*protocol);
        let monitor = |settings| MonitorSpec { kind: monitor_of(*protocol).to_owned(), settings };
        let pool = PoolSpec {
            protocol: sent,
            algorithm: intent.algorithm.clone(),
            is_persistent: intent.is_persistent,
            members: members(name, *protocol, intent, endpoints, settings, &mut strangers),
            monitor: intent.monitor.filter(|_| intent.capabilities.monitors(*protocol)).map(monitor),
        };
        let listener = ListenerSpec {
            name: listener_name(&intent.name, protocol.name(), *port),
            protocol: above,
            connection_limit: intent.connection_limit,
            timeouts: intent.timeouts,
            forwards_for: intent.client_told == ClientTold::ByHeader && *protocol == Protocol::Tcp,
            allowed: intent.allowed.clone(),
            pool,
        };
        ((*protocol, *port), listener)
    });
    let spec = BalancerSpec {
        name: intent.name.clone(),
        provider: intent.provider.clone(),
        vip_subnet: intent.vip_subnet.0.clone(),
        vip_address: intent.vip_address,
        vip_port: intent.vip_port.clone(),
        more_vips: intent.more_vips.iter().map(|(subnet, _, address)| (subnet.clone(), *address)).collect(),
        flavor: intent.flavor.clone(),
        zone: intent.zone.clone(),
        listeners: listeners.collect(),
    };
    (spec, skipped(&strangers, intent))
}

/// Endpoints that take new clients; where none does, those that answer until they are gone.
fn members(
    port_name: &str,
    protocol: Protocol,
    intent: &Intent,
    endpoints: &[EndpointFacts],
    settings: &Settings,
    strangers: &mut BTreeSet<IpAddr>,
) -> BTreeMap<(IpAddr, u16), MemberSpec> {
    let is_ready = |endpoint: &&EndpointFacts| endpoint.is_ready;
    let chosen: Vec<&EndpointFacts> = match endpoints.iter().any(|endpoint| endpoint.is_ready) {
        true => endpoints.iter().filter(is_ready).collect(),
        false => endpoints.iter().filter(|endpoint| endpoint.is_last_resort).collect(),
    };
    let mut members = BTreeMap::new();
    for endpoint in chosen {
        if !intent.prefixes().any(|prefix| matches!(prefix, IpNet::V6(_)) == endpoint.address.is_ipv6()) {
            continue;
        }
        let fits = |port: &&super::PortFacts| {
            port.name == port_name && Protocol::named(&port.protocol) == Some(protocol)
        };
        let Some(port) = endpoint.ports.iter().find(fits).map(|port| port.port) else { continue };
        let address = endpoint.reached_at();
        let found = address.map(|address| (address, subnet_of(address, intent, settings)));
        let Some((address, Ok(subnet))) = found else {
            strangers.insert(endpoint.address);
            continue;
        };
        let owner = endpoint.pod.as_deref().unwrap_or(&intent.service);
        let name = member_name(&intent.namespace, owner, port);
        members.insert((address, port), MemberSpec { name, subnet });
    }
    members
}

/// An address of no known subnet that the provider would need to know.
struct Stranger;

fn subnet_of(address: IpAddr, intent: &Intent, settings: &Settings) -> Result<Option<SubnetId>, Stranger> {
    if let Some(subnet) = &intent.member_subnet {
        return Ok(Some(subnet.clone()));
    }
    if intent.member_mode == MemberMode::L3 {
        return Ok(Some(intent.vip_subnet.0.clone()));
    }
    let known = settings.subnets.iter().chain(&settings.vip_subnets);
    if let Some((subnet, _)) = known.into_iter().find(|(_, prefix)| prefix.contains(&address)) {
        return Ok(Some(subnet.clone()));
    }
    if !intent.capabilities.needs_member_subnet {
        return Ok(Some(intent.vip_subnet.0.clone()));
    }
    // Two networks of a project may have the same prefix.
    let mut others = settings.others.iter().filter(|(_, prefix)| prefix.contains(&address));
    match (others.next(), others.next()) {
        (Some((subnet, _)), None) => Ok(Some(subnet.clone())),
        _ => Err(Stranger),
    }
}

/// The monitor that can tell whether a member of a protocol answers.
const fn monitor_of(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP-CONNECT",
        Protocol::Sctp => "SCTP",
    }
}

fn skipped(strangers: &BTreeSet<IpAddr>, intent: &Intent) -> Vec<Problem> {
    if strangers.is_empty() {
        return vec![];
    }
    let named: Vec<String> = strangers.iter().take(NAMED).map(ToString::to_string).collect();
    let more = strangers.len().saturating_sub(NAMED);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let message = format!(
        "endpoints {}{more} are in no subnet of the pods' network, nor in exactly one of the project, and provider {} has to \
         know the subnet: they get nothing from the load balancer; name it by loadbalancer.openstack.org/member-subnet-id",
        named.join(", "),
        intent.provider
    );
    vec![Problem { reason: "KuryrSkipMember".to_owned(), message }]
}

#[cfg(test)]
mod tests {
    use super::super::{
        Wish,
        fixtures::{endpoint, service, settings},
        from_kubernetes::read,
        inputs::ServiceFacts,
        sharing::Place,
    };
    use super::*;

    fn members_of(
        service: &ServiceFacts,
        provider: &str,
        endpoints: &[EndpointFacts],
    ) -> (Vec<String>, usize) {
        let settings = settings(provider);
        let (Wish::Balancer(intent), _) = read(service, &settings, false, Place::Own) else { panic!() };
        let (spec, problems) = desired(&intent, endpoints, &settings);
        let listener = spec.listeners.values().next().unwrap();
        let shown = listener.pool.members.iter().map(|((address, port), member)| {
            let subnet = member.subnet.as_ref().map_or("-", SubnetId::as_str);
            format!("{} {address}:{port} {subnet}", member.name)
        });
        (shown.collect(), problems.len())
    }

    #[test]
    fn members_are_ready_endpoints_of_the_vips_family() {
        let mut pods = vec![endpoint("10.1.0.7"), endpoint("10.1.0.8"), endpoint("fd00::7")];
        pods[1].is_ready = false;
        pods[0].pod = Some("web-0".to_owned());
        assert_eq!(
            members_of(&service(), "ovn", &pods),
            (vec!["d/web-0:8080 10.1.0.7:8080 s4".to_owned()], 0)
        );
        let mut v6 = service();
        v6.families = vec!["IPv6".to_owned()];
        assert_eq!(members_of(&v6, "ovn", &pods), (vec!["d/web:8080 fd00::7:8080 s6".to_owned()], 0));
        v6.families.push("IPv4".to_owned());
        assert_eq!(members_of(&v6, "ovn", &pods).0.len(), 2);
    }

    #[test]
    fn endpoints_that_go_are_used_when_no_other_is_left() {
        let mut pods = vec![endpoint("10.1.0.7"), endpoint("10.1.0.8")];
        for pod in &mut pods {
            (pod.is_ready, pod.is_last_resort) = (false, true);
        }
        assert_eq!(members_of(&service(), "ovn", &pods).0.len(), 2);
        pods[0].is_ready = true;
        assert_eq!(members_of(&service(), "ovn", &pods).0, ["d/web:8080 10.1.0.7:8080 s4"]);
        pods[0].is_ready = false;
        pods[1].is_last_resort = false;
        assert_eq!(members_of(&service(), "ovn", &pods).0, ["d/web:8080 10.1.0.7:8080 s4"]);
    }

    #[test]
    fn a_member_of_no_known_subnet_is_told_or_routed() {
        let pods = [endpoint("192.0.2.7")];
        assert_eq!(members_of(&service(), "ovn", &pods), (vec![], 1));
        assert_eq!(
            members_of(&service(), "amphora", &pods),
            (vec!["d/web:8080 192.0.2.7:8080 s4".to_owned()], 0)
        );
        let mut named = service();
        let annotation = "loadbalancer.openstack.org/member-subnet-id";
        named.annotations.insert(annotation.to_owned(), "s9".to_owned());
        assert_eq!(members_of(&named, "ovn", &pods), (vec!["d/web:8080 192.0.2.7:8080 s9".to_owned()], 0));
    }

    #[test]
    fn a_member_of_another_subnet_of_the_project_is_found_if_it_is_only_one() {
        let pods = [endpoint("192.0.2.7")];
        let subnet = |others: &[&str]| {
            let mut settings = settings("ovn");
            for other in others {
                settings.others.insert((*other).into(), "192.0.2.0/24".parse().unwrap());
            }
            let (Wish::Balancer(intent), _) = read(&service(), &settings, false, Place::Own) else {
                panic!()
            };
            let (spec, problems) = desired(&intent, &pods, &settings);
            let listener = spec.listeners.into_values().next().unwrap();
            let member = listener.pool.members.into_values().next();
            (member.and_then(|member| member.subnet).map(|subnet| subnet.to_string()), problems.len())
        };
        assert_eq!(subnet(&["s7"]), (Some("s7".to_owned()), 0));
        assert_eq!(subnet(&["s7", "s8"]), (None, 1));
        assert_eq!(subnet(&[]), (None, 1));
    }

    #[test]
    fn a_member_on_the_host_network_is_the_nodes_own_port() {
        let mut pod = endpoint("192.0.2.7");
        pod.own_port = Some(vec!["fd00::99".parse().unwrap(), "10.1.0.99".parse().unwrap()]);
        let own = vec!["d/web:8080 10.1.0.99:8080 s4".to_owned()];
        assert_eq!(members_of(&service(), "ovn", &[pod.clone()]), (own, 0));
        pod.own_port = Some(vec!["fd00::99".parse().unwrap()]);
        assert_eq!(members_of(&service(), "ovn", &[pod]), (vec![], 1));
    }

    #[test]
    fn ports_are_matched_by_name_and_protocol() {
        let mut pod = endpoint("10.1.0.7");
        pod.ports[0].protocol = "UDP".to_owned();
        assert_eq!(members_of(&service(), "ovn", &[pod.clone()]).0, Vec::<String>::new());
        pod.ports[0] = super::super::PortFacts { name: "other".to_owned(), port: 1, ..pod.ports[0].clone() };
        assert_eq!(members_of(&service(), "ovn", &[pod]).0, Vec::<String>::new());
    }
}
