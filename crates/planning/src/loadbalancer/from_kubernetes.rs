//! The Service, read: whether it is ours, what is wished, what is refused.
//!
//! 1. Ours is a Service of type `LoadBalancer` without class or with ours. One that a release of upstream's before
//!    Victoria has marked is left alone altogether, as upstream leaves it.
//! 2. `spec.loadBalancerIP` is the floating IP; of an internal one, the VIP.
//! 3. The VIP's family is the Service's first.
//! 4. Ranges of clients that the provider cannot enforce are refused: nothing is exposed.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use kuryr_api::{
    kuryrnode::Problem,
    names::{LBAAS_SPEC_ANNOTATION, LOAD_BALANCER_CLASS},
};
use kuryr_types::SubnetId;

use super::{
    annotations::{Annotations, REASON},
    desired::Protocol,
    inputs::{External, ServiceFacts, Settings},
    provider::{self, Capabilities, MemberMode},
};
use crate::ownership::load_balancer_name;

/// What is wished of a load balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// The Service is none of our business.
    Untouched,
    /// There should be no load balancer.
    Nothing,
    /// It must not let anybody in, as long as the user asks for what cannot be done.
    Closed,
    /// There should be one.
    Balancer(Box<Intent>),
}

/// A load balancer that is wished, and can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// Its name.
    pub name: String,
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub service: String,
    /// What implements it.
    pub provider: String,
    /// What that can do.
    pub capabilities: Capabilities,
    /// Subnet of the VIP, and its prefix.
    pub vip_subnet: (SubnetId, IpNet),
    /// The VIP, if it was asked for.
    pub vip_address: Option<IpAddr>,
    /// Its floating IP.
    pub floating: FloatingWish,
    /// Told instead of the address.
    pub hostname: Option<String>,
    /// Ports, by name.
    pub ports: Vec<(String, Protocol, u16)>,
    /// How a member is chosen.
    pub algorithm: String,
    /// Clients keep their member.
    pub is_persistent: bool,
    /// By which subnet members are reached.
    pub member_mode: MemberMode,
    /// The subnet by which all of them are.
    pub member_subnet: Option<SubnetId>,
    /// Most connections at a time.
    pub connection_limit: Option<u32>,
    /// Milliseconds: client data, connect, member data, inspection.
    pub timeouts: [Option<u32>; 4],
    /// The only clients; empty: all.
    pub allowed: BTreeSet<IpNet>,
    /// Flavor.
    pub flavor: Option<String>,
    /// Availability zone.
    pub zone: Option<String>,
}

/// Which floating IP is wished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FloatingWish {
    /// None.
    None,
    /// Any of a network.
    Any(External),
    /// This one, which the user has.
    Given(IpAddr),
}

/// Whether a Service has to be looked at: it is ours, or was.
#[must_use]
pub fn concerns_us(kind: &str, has_finalizer: bool) -> bool {
    kind == "LoadBalancer" || has_finalizer
}

/// Whether the floating IP stays when the Service goes.
pub(super) fn keeps_floating(service: &ServiceFacts) -> bool {
    Annotations::read(&service.annotations).0.keeps_floating
}

/// Reads a Service.
#[must_use]
pub fn read(service: &ServiceFacts, settings: &Settings) -> (Wish, Vec<Problem>) {
    if service.annotations.contains_key(LBAAS_SPEC_ANNOTATION) {
        return (Wish::Untouched, vec![]);
    }
    let is_ours_by_class = service.class.as_deref().is_none_or(|class| class == LOAD_BALANCER_CLASS);
    if service.is_leaving || service.kind != "LoadBalancer" || !is_ours_by_class {
        return (Wish::Nothing, vec![]);
    }
    let (annotations, mut problems) = Annotations::read(&service.annotations);
    match intent(service, &annotations, settings, &mut problems) {
        Some(intent) => (Wish::Balancer(Box::new(intent)), problems),
        None => (Wish::Closed, problems),
    }
}

fn intent(
    service: &ServiceFacts,
    annotations: &Annotations,
    settings: &Settings,
    problems: &mut Vec<Problem>,
) -> Option<Intent> {
    let provider = provider::choose(settings.provider.as_deref(), &settings.providers);
    if !settings.providers.is_empty() && !settings.providers.contains(&provider) {
        let offered: Vec<&str> = settings.providers.iter().map(String::as_str).collect();
        problems.push(problem(format!(
            "Octavia has no provider {provider}: set [kubernetes] endpoints_driver_octavia_provider to one of {}",
            offered.join(", ")
        )));
        return None;
    }
    let capabilities = provider::capabilities(&provider);
    let vip_subnet = vip_subnet(service, annotations, settings, problems)?;
    let allowed = allowed(service, &provider, capabilities, settings, problems)?;
    let (floating, vip_address) = addresses(service, annotations, &vip_subnet.1, settings, problems)?;
    let timeouts = timeouts(annotations, &provider, capabilities, settings, problems);
    Some(Intent {
        name: load_balancer_name(&service.namespace, &service.name),
        namespace: service.namespace.clone(),
        service: service.name.clone(),
        vip_subnet,
        vip_address,
        floating,
        hostname: annotations.hostname.clone(),
        ports: ports(service, settings, problems),
        algorithm: algorithm(&provider, capabilities, settings, problems),
        is_persistent: service.session_affinity == "ClientIP",
        member_mode: match settings.member_mode {
            Some(mode) if !capabilities.needs_member_subnet => mode,
            _ => MemberMode::L2,
        },
        member_subnet: annotations.member_subnet.as_deref().map(SubnetId::from),
        connection_limit: annotations.connection_limit.filter(|_| capabilities.timeouts),
        timeouts,
        allowed,
        flavor: annotations.flavor.clone(),
        zone: annotations.zone.clone(),
        provider,
        capabilities,
    })
}

fn problem(message: String) -> Problem {
    Problem { reason: REASON.to_owned(), message }
}

fn vip_subnet(
    service: &ServiceFacts,
    annotations: &Annotations,
    settings: &Settings,
    problems: &mut Vec<Problem>,
) -> Option<(SubnetId, IpNet)> {
    let is_v6 = service.families.first().is_some_and(|family| family == "IPv6");
    let fits = |(_, prefix): &(&SubnetId, &IpNet)| matches!(prefix, IpNet::V6(_)) == is_v6;
    let known = if settings.vip_subnets.is_empty() { &settings.subnets } else { &settings.vip_subnets };
    let found = match &annotations.vip_subnet {
        Some(named) => {
            let all = settings.vip_subnets.iter().chain(&settings.subnets);
            all.filter(fits).find(|(id, _)| id.as_str() == named)
        }
        None => known.iter().find(fits),
    };
    if let Some((id, prefix)) = found {
        return Some((id.clone(), *prefix));
    }
    let family = if is_v6 { "IPv6" } else { "IPv4" };
    let of = match &annotations.vip_subnet {
        Some(named) => format!(
            "annotation loadbalancer.openstack.org/subnet-id: {named} is no {family} subnet of [octavia_defaults] \
             vip_subnets or [neutron_defaults] pod_subnets"
        ),
        None => format!(
            "there is no {family} subnet for the VIP: name one in [octavia_defaults] vip_subnets or [neutron_defaults] \
             pod_subnets"
        ),
    };
    problems.push(problem(of));
    None
}

fn allowed(
    service: &ServiceFacts,
    provider: &str,
    capabilities: Capabilities,
    settings: &Settings,
    problems: &mut Vec<Problem>,
) -> Option<BTreeSet<IpNet>> {
    let mut allowed = BTreeSet::new();
    for text in &service.source_ranges {
        match text.trim().parse::<IpNet>() {
            Ok(range) => {
                allowed.insert(range.trunc());
            }
            Err(_) => {
                problems.push(problem(format!(
                    "spec.loadBalancerSourceRanges: `{text}` is no prefix: nothing is exposed before it is corrected"
                )));
                return None;
            }
        }
    }
    // Everybody may come: no restriction is needed for that.
    if allowed.iter().any(|range| range.prefix_len() == 0) {
        return Some(BTreeSet::new());
    }
    if !allowed.is_empty() && !provider::restricts(settings.version, capabilities) {
        problems.push(problem(format!(
            "spec.loadBalancerSourceRanges: provider {provider} cannot restrict clients, so nothing is exposed: remove the \
             ranges, or choose a provider that can in [kubernetes] endpoints_driver_octavia_provider"
        )));
        return None;
    }
    Some(allowed)
}

/// The floating IP and the VIP that are asked for.
fn addresses(
    service: &ServiceFacts,
    annotations: &Annotations,
    vip_prefix: &IpNet,
    settings: &Settings,
    problems: &mut Vec<Problem>,
) -> Option<(FloatingWish, Option<IpAddr>)> {
    let asked = service.load_balancer_ip.as_deref().map(str::trim).filter(|text| !text.is_empty());
    let given = match asked.map(str::parse::<IpAddr>) {
        None => None,
        Some(Ok(address)) => Some(address),
        Some(Err(_)) => {
            let text = asked.unwrap_or_default();
            problems
                .push(problem(format!("spec.loadBalancerIP: `{text}` is no address: correct or remove it")));
            return None;
        }
    };
    let external = match &annotations.floating_network {
        Some(network) => Some(External {
            network: network.as_str().into(),
            subnet: annotations.floating_subnet.as_deref().map(SubnetId::from),
        }),
        None => settings.external.clone().map(|external| External {
            subnet: annotations.floating_subnet.as_deref().map(SubnetId::from).or(external.subnet),
            ..external
        }),
    };
    // IPv6 is not translated.
    let is_internal = annotations.is_internal || matches!(vip_prefix, IpNet::V6(_));
    match (given, external) {
        (Some(address), _) if is_internal || vip_prefix.contains(&address) => {
            if vip_prefix.contains(&address) {
                return Some((FloatingWish::None, Some(address)));
            }
            problems.push(problem(format!(
                "spec.loadBalancerIP: {address} is not in the VIP's subnet {vip_prefix}: correct or remove it"
            )));
            None
        }
        (Some(address), _) => Some((FloatingWish::Given(address), None)),
        (None, Some(external)) if !is_internal => Some((FloatingWish::Any(external), None)),
        _ => Some((FloatingWish::None, None)),
    }
}

fn timeouts(
    annotations: &Annotations,
    provider: &str,
    capabilities: Capabilities,
    settings: &Settings,
    problems: &mut Vec<Problem>,
) -> [Option<u32>; 4] {
    let asked = annotations.timeouts.iter().flatten().any(|timeout| *timeout > 0);
    if !capabilities.timeouts {
        if asked || annotations.connection_limit.is_some() {
            problems.push(problem(format!(
                "provider {provider} knows neither timeouts nor limits of connections: remove these annotations"
            )));
        }
        return [None; 4];
    }
    let defaults = [settings.timeout_client_data, None, settings.timeout_member_data, None];
    let mut timeouts = annotations.timeouts;
    for (timeout, default) in timeouts.iter_mut().zip(defaults) {
        *timeout = timeout.or(default).filter(|timeout| *timeout > 0);
    }
    timeouts
}

fn ports(
    service: &ServiceFacts,
    settings: &Settings,
    problems: &mut Vec<Problem>,
) -> Vec<(String, Protocol, u16)> {
    let mut ports: Vec<(String, Protocol, u16)> = vec![];
    for port in &service.ports {
        let Some(protocol) = Protocol::named(&port.protocol) else { continue };
        let is_taken = ports.iter().any(|(_, _, number)| *number == port.port);
        if !provider::knows(settings.version, protocol)
            || is_taken && !provider::shares_ports(settings.version)
        {
            let (major, minor) = settings.version;
            let message = format!(
                "port {} {}: Octavia's API {major}.{minor} cannot do this: upgrade Octavia, or remove the port",
                port.port, port.protocol
            );
            problems.push(Problem { reason: "KuryrSkipListener".to_owned(), message });
            continue;
        }
        ports.push((port.name.clone(), protocol, port.port));
    }
    ports
}

fn algorithm(
    provider: &str,
    capabilities: Capabilities,
    settings: &Settings,
    problems: &mut Vec<Problem>,
) -> String {
    let best = capabilities.algorithms.first().copied();
    match (settings.algorithm.as_deref(), best) {
        (Some(set), Some(best)) if !capabilities.algorithms.contains(&set) => {
            problems.push(problem(format!(
                "[octavia_defaults] lb_algorithm is {set}, which provider {provider} does not know: {best} is used"
            )));
            best.to_owned()
        }
        (Some(set), _) => set.to_owned(),
        (None, best) => best.unwrap_or("ROUND_ROBIN").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{service, settings};
    use super::*;

    fn wish(change: impl FnOnce(&mut ServiceFacts, &mut Settings)) -> (Wish, Vec<String>) {
        let (mut service, mut settings) = (service(), settings("ovn"));
        change(&mut service, &mut settings);
        let (wish, problems) = read(&service, &settings);
        (wish, problems.into_iter().map(|problem| problem.message).collect())
    }

    fn intent_of(change: impl FnOnce(&mut ServiceFacts, &mut Settings)) -> Intent {
        match wish(change) {
            (Wish::Balancer(intent), _) => *intent,
            (other, problems) => panic!("{other:?}: {problems:?}"),
        }
    }

    #[test]
    fn which_services_are_ours() {
        type Change = fn(&mut ServiceFacts, &mut Settings);
        let table: [(&str, Change, &str); 8] = [
            ("of type LoadBalancer", |_, _| {}, "balancer"),
            ("ClusterIP", |service, _| service.kind = "ClusterIP".to_owned(), "nothing"),
            ("NodePort", |service, _| service.kind = "NodePort".to_owned(), "nothing"),
            ("being deleted", |service, _| service.is_leaving = true, "nothing"),
            ("our class", |service, _| service.class = Some("openstack.org/kuryr".to_owned()), "balancer"),
            ("another class", |service, _| service.class = Some("example.org/metal".to_owned()), "nothing"),
            (
                "marked by an old release",
                |service, _| {
                    service.annotations.insert(LBAAS_SPEC_ANNOTATION.to_owned(), "{}".to_owned());
                },
                "untouched",
            ),
            (
                "source ranges with ovn",
                |service, _| service.source_ranges = vec!["10.0.0.0/8".to_owned()],
                "closed",
            ),
        ];
        for (name, change, expect) in table {
            let got = match wish(change).0 {
                Wish::Untouched => "untouched",
                Wish::Nothing => "nothing",
                Wish::Closed => "closed",
                Wish::Balancer(_) => "balancer",
            };
            assert_eq!(got, expect, "{name}");
        }
    }

    #[test]
    fn source_ranges_are_enforced_or_nothing_is_exposed() {
        let ranges = |provider: &'static str, ranges: &'static [&'static str]| {
            let (wish, problems) = wish(|service, to| {
                *to = settings(provider);
                service.source_ranges = ranges.iter().map(|range| (*range).to_owned()).collect();
            });
            let allowed = match wish {
                Wish::Balancer(intent) => {
                    Some(intent.allowed.iter().map(ToString::to_string).collect::<Vec<_>>())
                }
                _ => None,
            };
            (allowed, problems.len())
        };
        assert_eq!(ranges("amphora", &["10.1.2.3/8"]), (Some(vec!["10.0.0.0/8".to_owned()]), 0));
        assert_eq!(ranges("amphora", &["10.1.2.3/8", "0.0.0.0/0"]), (Some(vec![]), 0));
        assert_eq!(ranges("amphora", &["ten"]), (None, 1));
        assert_eq!(ranges("ovn", &["10.0.0.0/8"]), (None, 1));
        assert_eq!(ranges("ovn", &["0.0.0.0/0"]), (Some(vec![]), 0));
    }

    #[test]
    fn addresses_that_are_asked_for() {
        let external = || External { network: "ext".into(), subnet: None };
        type Change = fn(&mut ServiceFacts, &mut Settings);
        let internal = "service.beta.kubernetes.io/openstack-internal-load-balancer";
        assert_eq!(intent_of(|_, _| {}).floating, FloatingWish::Any(external()));
        let table: [(Change, Option<FloatingWish>, Option<&str>); 6] = [
            (|_, settings| settings.external = None, Some(FloatingWish::None), None),
            (
                |service, _| service.load_balancer_ip = Some("203.0.113.7".to_owned()),
                Some(FloatingWish::Given("203.0.113.7".parse().unwrap())),
                None,
            ),
            (
                |service, _| service.load_balancer_ip = Some("10.1.0.99".to_owned()),
                Some(FloatingWish::None),
                Some("10.1.0.99"),
            ),
            (|service, _| service.load_balancer_ip = Some("here".to_owned()), None, None),
            (|service, _| service.families = vec!["IPv6".to_owned()], Some(FloatingWish::None), None),
            (|_, settings| settings.subnets.clear(), None, None),
        ];
        for (index, (change, floating, vip)) in table.into_iter().enumerate() {
            match wish(change).0 {
                Wish::Balancer(intent) => {
                    assert_eq!(Some(intent.floating), floating, "{index}");
                    assert_eq!(
                        intent.vip_address.map(|address| address.to_string()).as_deref(),
                        vip,
                        "{index}"
                    );
                }
                _ => assert_eq!(None, floating, "{index}"),
            }
        }
        let inside = intent_of(|service, _| {
            service.annotations.insert(internal.to_owned(), "true".to_owned());
        });
        assert_eq!(inside.floating, FloatingWish::None);
    }

    #[test]
    fn settings_that_the_provider_does_not_know_are_told() {
        let (wish, problems) = wish(|service, settings| {
            settings.algorithm = Some("ROUND_ROBIN".to_owned());
            service.annotations.insert("openstack.org/kuryr-timeout-client-data".to_owned(), "5".to_owned());
        });
        let Wish::Balancer(intent) = wish else { panic!("{wish:?}") };
        assert_eq!((intent.algorithm.as_str(), intent.timeouts), ("SOURCE_IP_PORT", [None; 4]));
        assert_eq!(problems.len(), 2, "{problems:?}");
        let intent =
            intent_of(|_, to| *to = Settings { timeout_client_data: Some(7), ..settings("amphora") });
        assert_eq!((intent.algorithm.as_str(), intent.timeouts[0]), ("ROUND_ROBIN", Some(7)));
    }

    #[test]
    fn an_old_octavia_gets_no_port_that_it_does_not_know() {
        let (wish, problems) = wish(|service, settings| {
            settings.version = (2, 9);
            let port = |protocol: &str| super::super::PortFacts {
                name: protocol.to_owned(),
                protocol: protocol.to_owned(),
                port: 53,
            };
            service.ports = vec![port("TCP"), port("UDP"), port("SCTP")];
        });
        let Wish::Balancer(intent) = wish else { panic!("{wish:?}") };
        assert_eq!((intent.ports.len(), problems.len()), (1, 2));
    }
}
