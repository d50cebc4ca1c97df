//! The Service, read: whether it is ours, what is wished, what is refused.
//!
//! 1. Ours is a Service of type `LoadBalancer` without class or with ours. One that a release of upstream's before
//!    Victoria has marked is left alone altogether, as upstream leaves it, until it is deleted: nobody else would take the
//!    finalizer off.
//! 2. `spec.loadBalancerIP` is the floating IP; of an internal one, the VIP.
//!    Where Octavia serves ClusterIPs, every Service with one is ours, and its VIPs are its ClusterIPs. One that is served so
//!    stays so until its own annotation says otherwise. The API server's own is left alone, as upstream leaves it.
//! 3. The VIP's family is the Service's first. Where the Service has two and both have a subnet on one network, there is a
//!    VIP of each.
//! 4. Of a load balancer that is shared provider and addresses are as they are. Whoever shares one is reached by all its
//!    addresses, so an internal Service shares none.
//! 5. Ranges of clients that the provider cannot enforce are refused: nothing is exposed. So is the PROXY protocol: members
//!    that expect its header from the load balancer would believe a client's.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use kuryr_api::{
    kuryrnode::Problem,
    names::{LBAAS_SPEC_ANNOTATION, LOAD_BALANCER_CLASS, SERVICE_MODE_ANNOTATION},
};
use kuryr_types::{PortId, SubnetId};

use super::{
    annotations::{Annotations, MonitorWish, ProxyProtocol, REASON, of_whole},
    desired::Protocol,
    inputs::{Balancer, External, MonitorSettings, ServiceFacts, Settings},
    provider::{self, Capabilities, MemberMode},
    sharing::Place,
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
    /// The user's port for the VIP.
    pub vip_port: Option<PortId>,
    /// Subnets of further VIPs, their prefixes, and the VIPs if certain ones are wanted.
    pub more_vips: Vec<(SubnetId, IpNet, Option<IpAddr>)>,
    /// Clients outside use it, so the Service's status says where it is reached.
    pub is_told: bool,
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
    /// How members learn who the client is.
    pub client_told: ClientTold,
    /// Monitors.
    pub monitor: Option<MonitorSettings>,
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

impl Intent {
    /// Prefixes of the subnets of all VIPs.
    pub(super) fn prefixes(&self) -> impl Iterator<Item = &IpNet> {
        std::iter::once(&self.vip_subnet.1).chain(self.more_vips.iter().map(|(_, prefix, _)| prefix))
    }
}

/// How members learn who the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientTold {
    /// They do not, or see the client's own address.
    Not,
    /// By the PROXY protocol.
    ByProxy(ProxyProtocol),
    /// By the HTTP header `X-Forwarded-For`.
    ByHeader,
}

impl ClientTold {
    /// Protocols of the listener, and of its pool, for one of a Service.
    #[must_use]
    pub const fn protocols(self, of: Protocol) -> (&'static str, &'static str) {
        match (self, of) {
            (Self::ByProxy(ProxyProtocol::V1), Protocol::Tcp) => ("TCP", "PROXY"),
            (Self::ByProxy(ProxyProtocol::V2), Protocol::Tcp) => ("TCP", "PROXYV2"),
            (Self::ByHeader, Protocol::Tcp) => ("HTTP", "HTTP"),
            (_, other) => (other.name(), other.name()),
        }
    }
}

/// Which floating IP is wished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FloatingWish {
    /// None.
    None,
    /// Any of a network.
    Any(External),
    /// The one that there is: none can be made.
    Kept,
    /// This one, which the user has.
    Given(IpAddr),
    /// The one that leads to a shared load balancer, if one does.
    Theirs,
}

/// Whether a Service has to be looked at: it is ours, or was, or something is said of who serves it, be it wrong.
#[must_use]
pub fn concerns_us(service: Concern<'_>) -> bool {
    let Concern { kind, has_finalizer, has_cluster_ip, own_mode, namespace_mode, by_octavia } = service;
    let is_said = own_mode.is_some() || namespace_mode.is_some();
    kind == "LoadBalancer" || has_finalizer || has_cluster_ip && (is_said || by_octavia)
}

/// What decides whether a Service has to be looked at.
#[derive(Debug, Clone, Copy)]
pub struct Concern<'a> {
    /// `spec.type`.
    pub kind: &'a str,
    /// It has our finalizer.
    pub has_finalizer: bool,
    /// It is not headless.
    pub has_cluster_ip: bool,
    /// What its annotation says of who serves ClusterIPs.
    pub own_mode: Option<&'a str>,
    /// What its namespace's annotation says.
    pub namespace_mode: Option<&'a str>,
    /// Octavia serves ClusterIPs where nobody says otherwise.
    pub by_octavia: bool,
}

/// Whether Octavia serves the ClusterIPs of a Service: by its own annotation, its namespace's, or the cluster's setting.
fn by_octavia(own: Option<&str>, namespaces: Option<&str>, clusters: bool) -> bool {
    own.and_then(mode).or_else(|| namespaces.and_then(mode)).unwrap_or(clusters)
}

/// Whether an annotation says `octavia`; none if it says neither this nor `node`.
fn mode(said: &str) -> Option<bool> {
    match said.trim() {
        "octavia" => Some(true),
        "node" => Some(false),
        _ => None,
    }
}

/// A word that is neither, which counts as not said.
fn unknown_mode(service: &ServiceFacts) -> Option<Problem> {
    let own = service.annotations.get(SERVICE_MODE_ANNOTATION).map(|said| ("the Service", said));
    let namespaces = service.namespace_mode.as_ref().map(|said| ("its namespace", said));
    let (of, said) = own.into_iter().chain(namespaces).find(|(_, said)| mode(said).is_none())?;
    Some(problem(format!(
        "annotation {SERVICE_MODE_ANNOTATION} of {of}: `{said}` is neither octavia nor node: ignored"
    )))
}

/// Whether Octavia is to serve this Service's ClusterIPs, of which there are some.
fn is_by_octavia(service: &ServiceFacts, settings: &Settings, is_so_already: bool) -> bool {
    let own = service.annotations.get(SERVICE_MODE_ANNOTATION).map(String::as_str);
    let is_api_server = service.namespace == "default" && service.name == "kubernetes";
    let has_any = !service.cluster_ips.is_empty() && service.kind != "ExternalName" && !is_api_server;
    has_any && by_octavia(own, service.namespace_mode.as_deref(), settings.by_octavia || is_so_already)
}

/// Whether the floating IP stays when the Service goes.
pub(super) fn keeps_floating(service: &ServiceFacts) -> bool {
    Annotations::read(&service.annotations).0.keeps_floating
}

/// Whose clients a load balancer of a Service serves; `is_so_already` says whether it has one at its ClusterIP.
pub(super) fn role(service: &ServiceFacts, settings: &Settings, is_so_already: bool) -> Role {
    let is_ours_by_class = service.class.as_deref().is_none_or(|class| class == LOAD_BALANCER_CLASS);
    Role {
        is_outside: service.kind == "LoadBalancer" && is_ours_by_class,
        is_inside: is_by_octavia(service, settings, is_so_already),
    }
}

/// Reads a Service that is served there; `is_so_already` says whether it has a load balancer at its ClusterIP.
#[must_use]
pub fn read(
    service: &ServiceFacts,
    settings: &Settings,
    is_so_already: bool,
    place: Place<'_>,
) -> (Wish, Vec<Problem>) {
    let role = role(service, settings, is_so_already);
    if service.is_leaving {
        return (Wish::Nothing, vec![]);
    }
    if service.annotations.contains_key(LBAAS_SPEC_ANNOTATION) {
        let is_one_of_us = role.is_outside || role.is_inside;
        return (Wish::Untouched, is_one_of_us.then(marked).into_iter().collect());
    }
    if !role.is_outside && !role.is_inside {
        return (Wish::Nothing, unknown_mode(service).into_iter().collect());
    }
    let (annotations, mut problems) = Annotations::read(&service.annotations);
    problems.extend(unknown_mode(service));
    if place == Place::Nowhere {
        return (Wish::Nothing, problems);
    }
    match intent(service, role, &annotations, settings, place, &mut problems) {
        Some(intent) => (Wish::Balancer(Box::new(intent)), problems),
        None => (Wish::Closed, problems),
    }
}

fn marked() -> Problem {
    let message = format!(
        "annotation {LBAAS_SPEC_ANNOTATION} says that Kuryr before release Victoria has a load balancer for it, so it is left \
         alone: remove the annotation when that Kuryr is gone"
    );
    Problem { reason: "KuryrServiceSkipped".to_owned(), message }
}

/// Whose clients a load balancer serves.
#[derive(Clone, Copy)]
pub(super) struct Role {
    /// Those outside.
    pub(super) is_outside: bool,
    /// Those of the ClusterIPs.
    pub(super) is_inside: bool,
}

fn intent(
    service: &ServiceFacts,
    role: Role,
    annotations: &Annotations,
    settings: &Settings,
    place: Place<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Intent> {
    let site = match place {
        Place::Shared(found) => shared_site(service, annotations, found, problems)?,
        Place::Own | Place::Nowhere => own_site(service, role, annotations, settings, problems)?,
    };
    let Site { provider, capabilities, vip, more_vips, floating } = site;
    let is_affine = service.session_affinity == "ClientIP";
    let affine = capabilities.affine_algorithm.filter(|_| is_affine);
    let client_told = client_told(annotations, &provider, capabilities, settings, problems)?;
    let allowed = allowed(service, &provider, capabilities, settings, problems)?;
    let timeouts = timeouts(annotations, &provider, capabilities, settings, problems);
    let ports = ports(service, settings, problems);
    let monitor = monitor(&annotations.monitor, settings, problems);
    if monitor.is_some() {
        tell_not_monitored(&ports, &provider, capabilities, problems);
    }
    Some(Intent {
        name: load_balancer_name(&service.namespace, &service.name),
        namespace: service.namespace.clone(),
        service: service.name.clone(),
        vip_address: vip.address,
        vip_subnet: vip.subnet,
        vip_port: vip.port,
        more_vips,
        is_told: role.is_outside,
        floating,
        hostname: annotations.hostname.clone(),
        ports,
        algorithm: affine.map_or_else(
            || algorithm(annotations, &provider, capabilities, settings, problems),
            str::to_owned,
        ),
        is_persistent: is_affine && affine.is_none(),
        client_told,
        monitor,
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

/// What of a load balancer does not depend on its listeners.
struct Site {
    provider: String,
    capabilities: Capabilities,
    vip: Vip,
    more_vips: Vec<(SubnetId, IpNet, Option<IpAddr>)>,
    floating: FloatingWish,
}

/// A load balancer of the Service's own.
fn own_site(
    service: &ServiceFacts,
    role: Role,
    annotations: &Annotations,
    settings: &Settings,
    problems: &mut Vec<Problem>,
) -> Option<Site> {
    let named = annotations.provider.as_deref().or(settings.provider.as_deref());
    let provider = provider::choose(named, &settings.providers);
    if !settings.providers.is_empty() && !settings.providers.contains(&provider) {
        let offered: Vec<&str> = settings.providers.iter().map(String::as_str).collect();
        problems.push(problem(format!(
            "Octavia has no provider {provider}: set annotation openstack.org/kuryr-octavia-provider or [kubernetes] \
             endpoints_driver_octavia_provider to one of {}",
            offered.join(", ")
        )));
        return None;
    }
    let capabilities = provider::capabilities(&provider);
    let vip = match role.is_inside {
        true => cluster_vip(service, settings, problems)?,
        false => vip(service, annotations, settings, problems)?,
    };
    let more_vips = match role.is_inside {
        true => more_cluster_vips(service, &vip, settings, problems),
        false => more_vips(service, &vip, settings, problems),
    };
    let mut prefixes = vec![&vip.subnet.1];
    prefixes.extend(more_vips.iter().map(|(_, prefix, _)| prefix));
    let has_v4 = prefixes.into_iter().any(|prefix| is_of("IPv4", prefix));
    let (mut floating, vip_address) = match role.is_outside {
        true => addresses(service, annotations, (&vip.subnet.1, has_v4), settings, problems)?,
        false => (FloatingWish::None, None),
    };
    if vip.port.is_some() && floating != FloatingWish::None && !capabilities.translates_to_given_ports {
        problems.push(problem(format!(
            "annotation loadbalancer.openstack.org/port-id: provider {provider} has floating IPs lead only to ports that it \
             made: there is none"
        )));
        floating = FloatingWish::None;
    }
    let vip = Vip { address: vip.address.or(vip_address), ..vip };
    Some(Site { provider, capabilities, vip, more_vips, floating })
}

/// A load balancer that is shared, as it is.
fn shared_site(
    service: &ServiceFacts,
    annotations: &Annotations,
    found: &Balancer,
    problems: &mut Vec<Problem>,
) -> Option<Site> {
    let id = &found.id;
    if annotations.is_internal {
        problems.push(problem(
            "annotation loadbalancer.openstack.org/load-balancer-id: an internal Service shares no load balancer, since a \
             floating IP leads to all of its ports, so nothing is exposed: remove this annotation or \
             service.beta.kubernetes.io/openstack-internal-load-balancer"
                .to_owned(),
        ));
        return None;
    }
    let said = of_whole(&service.annotations);
    if !said.is_empty() {
        let said = said.join(", ");
        problems.push(problem(format!(
            "load balancer {id} is shared and stays as it is, so {said} says nothing: remove it"
        )));
    }
    let asked = service.load_balancer_ip.as_deref().and_then(|text| text.trim().parse::<IpAddr>().ok());
    let is_another = |asked: &IpAddr| service.told.iter().all(|told| told.ip != Some(*asked));
    if let Some(asked) = asked.filter(|asked| !service.told.is_empty() && is_another(asked)) {
        problems.push(problem(format!(
            "spec.loadBalancerIP: load balancer {id} is shared and has not the address {asked}: remove the field"
        )));
    }
    let subnet = found.vip_subnet.as_ref();
    let unsaid = ["IPv4".to_owned()];
    let families: &[String] = if service.families.is_empty() { &unsaid } else { &service.families };
    let mut vips = vec![];
    for family in families {
        match found.vips().find(|(address, _)| address.is_ipv6() == is_v6(family)).zip(subnet) {
            Some(((address, _), subnet)) => vips.push((subnet.clone(), IpNet::from(address))),
            None => problems.push(problem(format!(
                "load balancer {id}, which is shared, has no {family} address: have the Service use another"
            ))),
        }
    }
    let mut vips = vips.into_iter();
    let vip = Vip { subnet: vips.next()?, port: None, address: None };
    Some(Site {
        provider: found.provider.clone(),
        capabilities: provider::capabilities(&found.provider),
        vip,
        more_vips: vips.map(|(subnet, prefix)| (subnet, prefix, None)).collect(),
        floating: FloatingWish::Theirs,
    })
}

fn problem(message: String) -> Problem {
    Problem { reason: REASON.to_owned(), message }
}

/// Where the VIP is.
struct Vip {
    subnet: (SubnetId, IpNet),
    port: Option<PortId>,
    address: Option<IpAddr>,
}

fn is_v6(family: &str) -> bool {
    family == "IPv6"
}

fn is_of(family: &str, prefix: &IpNet) -> bool {
    matches!(prefix, IpNet::V6(_)) == is_v6(family)
}

fn vip(
    service: &ServiceFacts,
    annotations: &Annotations,
    settings: &Settings,
    problems: &mut Vec<Problem>,
) -> Option<Vip> {
    let family = service.families.first().map_or("IPv4", String::as_str);
    if let Some(id) = &annotations.vip_port {
        let found = port(id, family, settings);
        if found.is_none() {
            problems.push(problem(format!(
                "annotation loadbalancer.openstack.org/port-id: {id} is no port of the project with an {family} address: \
                 correct or remove it"
            )));
        }
        return found;
    }
    let fits = |(_, prefix): &(&SubnetId, &IpNet)| is_of(family, prefix);
    let by_annotation = match (&annotations.vip_subnet, &annotations.vip_network) {
        (Some(named), _) => Some(("subnet-id", named)),
        (None, Some(named)) => Some(("network-id", named)),
        (None, None) => None,
    };
    let known = match by_annotation {
        Some(_) => &settings.named.subnets,
        None if settings.vip_subnets.is_empty() => &settings.subnets,
        None => &settings.vip_subnets,
    };
    if let Some((id, prefix)) = known.iter().find(fits) {
        return Some(Vip { subnet: (id.clone(), *prefix), port: None, address: None });
    }
    problems.push(problem(match by_annotation {
        Some((name, named)) => format!(
            "annotation loadbalancer.openstack.org/{name}: {named} is not there, or has no {family} subnet: correct or remove \
             it"
        ),
        None => format!(
            "there is no {family} subnet for the VIP: name one in [octavia_defaults] vip_subnets or [neutron_defaults] \
             pod_subnets"
        ),
    }));
    None
}

/// The subnet of a ClusterIP.
fn subnet_of(cluster_ip: IpAddr, settings: &Settings) -> Option<(SubnetId, IpNet)> {
    let mut subnets = settings.service_subnets.iter();
    subnets.find(|(_, prefix)| prefix.contains(&cluster_ip)).map(|(id, prefix)| (id.clone(), *prefix))
}

fn no_subnet(cluster_ip: IpAddr) -> Problem {
    problem(format!(
        "Octavia cannot serve ClusterIP {cluster_ip}: no subnet of [neutron_defaults] service_subnets contains it; name one \
         there, or set annotation {SERVICE_MODE_ANNOTATION} of the Service to node"
    ))
}

/// The first ClusterIP as VIP.
fn cluster_vip(service: &ServiceFacts, settings: &Settings, problems: &mut Vec<Problem>) -> Option<Vip> {
    let address = *service.cluster_ips.first()?;
    let Some(subnet) = subnet_of(address, settings) else {
        problems.push(no_subnet(address));
        return None;
    };
    Some(Vip { subnet, port: None, address: Some(address) })
}

/// The second ClusterIP as VIP.
fn more_cluster_vips(
    service: &ServiceFacts,
    vip: &Vip,
    settings: &Settings,
    problems: &mut Vec<Problem>,
) -> Vec<(SubnetId, IpNet, Option<IpAddr>)> {
    let Some(address) = service.cluster_ips.get(1).copied() else { return vec![] };
    let Some((id, prefix)) = subnet_of(address, settings) else {
        problems.push(no_subnet(address));
        return vec![];
    };
    let network = settings.networks.get(&vip.subnet.0);
    if !provider::has_more_vips(settings.version)
        || network.is_none()
        || settings.networks.get(&id) != network
    {
        problems.push(problem(format!(
            "Octavia cannot serve ClusterIP {address} beside the first one: that takes its API 2.26, and subnets of one network"
        )));
        return vec![];
    }
    vec![(id, prefix, Some(address))]
}

/// The port that was named, with the address of this family.
fn port(id: &str, family: &str, settings: &Settings) -> Option<Vip> {
    let port = settings.named.port.as_ref().filter(|port| port.id.as_str() == id)?;
    let of_family = |(_, address): &&(SubnetId, IpAddr)| address.is_ipv6() == is_v6(family);
    let (subnet, address) = port.addresses.iter().find(of_family)?;
    let subnet = (subnet.clone(), IpNet::from(*address));
    Some(Vip { subnet, port: Some(port.id.clone()), address: Some(*address) })
}

/// Subnets of VIPs of the Service's other family: those of the first one's network.
fn more_vips(
    service: &ServiceFacts,
    vip: &Vip,
    settings: &Settings,
    problems: &mut Vec<Problem>,
) -> Vec<(SubnetId, IpNet, Option<IpAddr>)> {
    let Some(family) = service.families.get(1) else { return vec![] };
    let mut refuse = |why: &str| {
        problems.push(problem(format!("there is no {family} address beside the first one: {why}")));
        vec![]
    };
    if vip.port.is_some() {
        return refuse(
            "the port of annotation loadbalancer.openstack.org/port-id has the addresses that it has",
        );
    }
    if !provider::has_more_vips(settings.version) {
        return refuse("Octavia's API is older than 2.26");
    }
    let network = settings.networks.get(&vip.subnet.0);
    let all = settings.named.subnets.iter().chain(&settings.vip_subnets).chain(&settings.subnets);
    let fits = |(id, prefix): &(&SubnetId, &IpNet)| {
        is_of(family, prefix) && network.is_some() && settings.networks.get(*id) == network
    };
    match all.into_iter().find(fits) {
        Some((id, prefix)) => vec![(id.clone(), *prefix, None)],
        None => refuse(
            "Octavia wants it from a subnet of the same network: name one in [octavia_defaults] vip_subnets",
        ),
    }
}

/// How members learn who the client is; `None` if they would not, or would believe a client.
fn client_told(
    annotations: &Annotations,
    provider: &str,
    capabilities: Capabilities,
    settings: &Settings,
    problems: &mut Vec<Problem>,
) -> Option<ClientTold> {
    let (told, name) = match (annotations.proxy, annotations.forwards_for) {
        (None, false) => return Some(ClientTold::Not),
        (Some(version), false) => (ClientTold::ByProxy(version), "proxy-protocol"),
        (None, true) => (ClientTold::ByHeader, "x-forwarded-for"),
        (Some(_), true) => {
            problems.push(problem(
                "annotations loadbalancer.openstack.org/proxy-protocol and x-forwarded-for exclude each other, so nothing is \
                 exposed: remove one of them"
                    .to_owned(),
            ));
            return None;
        }
    };
    let is_too_old =
        annotations.proxy == Some(ProxyProtocol::V2) && !provider::knows_proxy_v2(settings.version);
    if is_too_old || !capabilities.speaks_for_clients {
        let who = if is_too_old { "this Octavia".to_owned() } else { format!("provider {provider}") };
        problems.push(problem(format!(
            "annotation loadbalancer.openstack.org/{name}: {who} cannot do this, and members that rely on it would believe \
             what clients write, so nothing is exposed: remove it, or choose a provider that can by \
             openstack.org/kuryr-octavia-provider"
        )));
        return None;
    }
    Some(told)
}

fn monitor(asked: &MonitorWish, settings: &Settings, problems: &mut Vec<Problem>) -> Option<MonitorSettings> {
    if !asked.is_wanted.unwrap_or(settings.has_monitors) {
        return None;
    }
    let otherwise = settings.monitor;
    let monitor = MonitorSettings {
        delay: asked.delay.unwrap_or(otherwise.delay),
        timeout: asked.timeout.unwrap_or(otherwise.timeout),
        max_retries: asked.max_retries.unwrap_or(otherwise.max_retries),
        max_retries_down: asked.max_retries_down.unwrap_or(otherwise.max_retries_down),
    };
    if monitor.timeout <= monitor.delay {
        return Some(monitor);
    }
    problems.push(problem(format!(
        "the health monitor's timeout of {} s is longer than its delay of {} s, so there is none: correct annotation \
         loadbalancer.openstack.org/health-monitor-timeout or health-monitor-delay",
        monitor.timeout, monitor.delay
    )));
    None
}

/// Says which ports have no monitor though there is to be one.
fn tell_not_monitored(
    ports: &[(String, Protocol, u16)],
    provider: &str,
    capabilities: Capabilities,
    problems: &mut Vec<Problem>,
) {
    for (_, protocol, port) in ports.iter().filter(|(_, protocol, _)| !capabilities.monitors(*protocol)) {
        problems.push(problem(format!(
            "port {port} {}: provider {provider} has no health monitor for this protocol: its members are the ready endpoints, \
             whether they answer or not; choose another provider by openstack.org/kuryr-octavia-provider, or switch the \
             monitor off by annotation loadbalancer.openstack.org/enable-health-monitor: \"false\"",
            protocol.name()
        )));
    }
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
             ranges, or choose a provider that can by annotation openstack.org/kuryr-octavia-provider"
        )));
        return None;
    }
    Some(allowed)
}

/// The floating IP and the VIP that are asked for.
fn addresses(
    service: &ServiceFacts,
    annotations: &Annotations,
    (vip_prefix, has_v4): (&IpNet, bool),
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
    let is_internal = annotations.is_internal || !has_v4;
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
        (None, Some(external)) if !is_internal => {
            Some((described(external, annotations, settings, problems), None))
        }
        _ => Some((FloatingWish::None, None)),
    }
}

/// A floating IP of the subnet that is described, if one is.
fn described(
    external: External,
    annotations: &Annotations,
    settings: &Settings,
    problems: &mut Vec<Problem>,
) -> FloatingWish {
    let Some(words) = &annotations.floating_words else { return FloatingWish::Any(external) };
    if let Some(found) = words.choose(&settings.named.external) {
        return FloatingWish::Any(External { subnet: Some(found.id.clone()), ..external });
    }
    let said = [("floating-subnet", &words.name), ("floating-subnet-tags", &words.tags)];
    let said = said.into_iter().filter_map(|(name, said)| Some(format!("{name} `{}`", said.as_deref()?)));
    problems.push(problem(format!(
        "annotation loadbalancer.openstack.org/{}: none of the subnets of network {} that Kuryr may see is like this, so no \
         floating IP is made: correct it, or name the subnet by floating-subnet-id",
        said.collect::<Vec<_>>().join(" and "),
        external.network
    )));
    FloatingWish::Kept
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
    annotations: &Annotations,
    provider: &str,
    capabilities: Capabilities,
    settings: &Settings,
    problems: &mut Vec<Problem>,
) -> String {
    let best = capabilities.algorithms.first().copied();
    let (set, by) = match &annotations.algorithm {
        Some(set) => (Some(set), "annotation loadbalancer.openstack.org/lb-method"),
        None => (settings.algorithm.as_ref(), "[octavia_defaults] lb_algorithm"),
    };
    match (set.map(String::as_str), best) {
        (Some(set), Some(best)) if !capabilities.algorithms.contains(&set) => {
            problems.push(problem(format!(
                "{by} is {set}, which provider {provider} does not know: {best} is used"
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
        let (wish, problems) = read(&service, &settings, false, Place::Own);
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
        let table: [(&str, Change, &str); 9] = [
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
                "marked and being deleted",
                |service, _| {
                    service.annotations.insert(LBAAS_SPEC_ANNOTATION.to_owned(), "{}".to_owned());
                    service.is_leaving = true;
                },
                "nothing",
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
    fn the_subnet_of_a_floating_ip_may_be_described() {
        let floating = |written: &'static [(&str, &str)]| {
            let (wish, problems) = wish(|service, settings| {
                let prefix = "203.0.113.0/24".parse().unwrap();
                let tags = vec!["public".to_owned()];
                let subnet =
                    super::super::ExternalSubnet { id: "e1".into(), name: "dmz-1".to_owned(), prefix, tags };
                settings.named.external = vec![subnet];
                annotate(service, written);
            });
            let Wish::Balancer(intent) = wish else { panic!("{wish:?}") };
            (intent.floating, problems.len())
        };
        let of =
            |subnet: &str| FloatingWish::Any(External { network: "ext".into(), subnet: Some(subnet.into()) });
        assert_eq!(floating(&[("floating-subnet", "dmz-*")]), (of("e1"), 0));
        assert_eq!(floating(&[("floating-subnet-tag", "public")]), (of("e1"), 0));
        assert_eq!(floating(&[("floating-subnet", "office")]), (FloatingWish::Kept, 1));
        let both = &[("floating-subnet", "dmz-*"), ("floating-subnet-tags", "west")];
        assert_eq!(floating(both), (FloatingWish::Kept, 1));
        // Its id goes before all words.
        assert_eq!(floating(&[("floating-subnet-id", "e2"), ("floating-subnet", "office")]), (of("e2"), 0));
    }

    #[test]
    fn clients_keep_their_member_as_the_provider_can() {
        for (provider, affinity, expect) in [
            ("ovn", "None", ("SOURCE_IP_PORT", false)),
            ("ovn", "ClientIP", ("SOURCE_IP", false)),
            ("amphora", "None", ("ROUND_ROBIN", false)),
            ("amphora", "ClientIP", ("ROUND_ROBIN", true)),
        ] {
            let intent = intent_of(|service, to| {
                service.session_affinity = affinity.to_owned();
                *to = settings(provider);
            });
            let found = (intent.algorithm.as_str(), intent.is_persistent);
            assert_eq!(found, expect, "{provider} {affinity}");
        }
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

    fn annotate(service: &mut ServiceFacts, written: &[(&str, &str)]) {
        for (name, value) in written {
            let name = format!("loadbalancer.openstack.org/{name}");
            service.annotations.insert(name, (*value).to_owned());
        }
    }

    #[test]
    fn members_learn_who_the_client_is_or_nothing_is_exposed() {
        let told = |provider: &'static str, written: &'static [(&str, &str)]| {
            let (wish, problems) = wish(|service, to| {
                *to = settings(provider);
                annotate(service, written);
            });
            match wish {
                Wish::Balancer(intent) => Ok(intent.client_told.protocols(Protocol::Tcp)),
                _ => Err(problems.len()),
            }
        };
        assert_eq!(told("amphora", &[("proxy-protocol", "true")]), Ok(("TCP", "PROXY")));
        assert_eq!(told("amphora", &[("proxy-protocol", "v2")]), Ok(("TCP", "PROXYV2")));
        assert_eq!(told("amphora", &[("x-forwarded-for", "true")]), Ok(("HTTP", "HTTP")));
        assert_eq!(told("amphora", &[("x-forwarded-for", "true"), ("proxy-protocol", "v1")]), Err(1));
        assert_eq!(told("ovn", &[("proxy-protocol", "v1")]), Err(1));
        assert_eq!(told("ovn", &[("x-forwarded-for", "true")]), Err(1));
        assert_eq!(told("ovn", &[("x-forwarded-for", "false")]), Ok(("TCP", "TCP")));
        let udp = ClientTold::ByProxy(ProxyProtocol::V1).protocols(Protocol::Udp);
        assert_eq!(udp, ("UDP", "UDP"));
    }

    #[test]
    fn who_serves_a_cluster_ip() {
        for (own, namespaces, clusters, expect) in [
            (None, None, false, false),
            (None, None, true, true),
            (None, Some("octavia"), false, true),
            (Some("node"), Some("octavia"), true, false),
            (Some("octavia"), Some("node"), false, true),
            (Some(" octavia"), None, false, true),
            (Some("nobody"), None, false, false),
            (Some("nobody"), Some("octavia"), false, true),
        ] {
            assert_eq!(by_octavia(own, namespaces, clusters), expect, "{own:?} {namespaces:?} {clusters}");
        }
    }

    #[test]
    fn a_service_that_octavia_serves_has_its_cluster_ips_as_vips() {
        let inside = |change: fn(&mut ServiceFacts, &mut Settings)| {
            let (wish, problems) = wish(|service, settings| {
                service.kind = "ClusterIP".to_owned();
                service.cluster_ips = vec!["10.96.0.7".parse().unwrap(), "fd00:96::7".parse().unwrap()];
                settings.by_octavia = true;
                for (id, prefix) in [("c4", "10.96.0.0/16"), ("c6", "fd00:96::/112")] {
                    settings.service_subnets.insert(id.into(), prefix.parse().unwrap());
                    settings.networks.insert(id.into(), "c".into());
                }
                change(service, settings);
            });
            let Wish::Balancer(intent) = wish else {
                return (matches!(wish, Wish::Nothing), None, vec![], false, problems.len());
            };
            let more: Vec<_> = intent.more_vips.iter().filter_map(|(.., address)| *address).collect();
            assert_eq!(intent.is_told, intent.floating != FloatingWish::None);
            (
                false,
                intent.vip_address.map(|address| address.to_string()),
                more,
                intent.is_told,
                problems.len(),
            )
        };
        let (first, second) = (Some("10.96.0.7".to_owned()), vec!["fd00:96::7".parse::<IpAddr>().unwrap()]);
        assert_eq!(inside(|_, _| {}), (false, first.clone(), second.clone(), false, 0));
        let outside = inside(|service, _| service.kind = "LoadBalancer".to_owned());
        assert_eq!(outside, (false, first.clone(), second, true, 0));
        let no_second = inside(|_, settings| settings.service_subnets.retain(|id, _| id.as_str() != "c6"));
        assert_eq!(no_second, (false, first, vec![], false, 1));
        let no_subnet = inside(|_, settings| settings.service_subnets.clear());
        assert_eq!(no_subnet, (false, None, vec![], false, 1));
        let left_alone = (true, None, vec![], false, 0);
        assert_eq!(inside(|service, _| service.cluster_ips.clear()), left_alone);
        let api_server = |service: &mut ServiceFacts, _: &mut Settings| {
            (service.namespace, service.name) = ("default".to_owned(), "kubernetes".to_owned());
        };
        assert_eq!(inside(api_server), left_alone);
        let by_node = |service: &mut ServiceFacts, _: &mut Settings| {
            service.annotations.insert(SERVICE_MODE_ANNOTATION.to_owned(), "node".to_owned());
        };
        assert_eq!(inside(by_node), left_alone);
        // What cannot be understood is told, also where there is no load balancer.
        let by_nobody = |service: &mut ServiceFacts, settings: &mut Settings| {
            settings.by_octavia = false;
            service.namespace_mode = Some("nobody".to_owned());
        };
        assert_eq!(inside(by_nobody), (true, None, vec![], false, 1));
    }

    #[test]
    fn monitors_are_off_unless_somebody_wants_them() {
        let monitor = |by_default: bool, written: &'static [(&str, &str)]| {
            let (wish, problems) = wish(|service, settings| {
                settings.has_monitors = by_default;
                annotate(service, written);
            });
            let Wish::Balancer(intent) = wish else { panic!("{wish:?}") };
            (intent.monitor.map(|monitor| (monitor.delay, monitor.timeout)), problems.len())
        };
        assert_eq!(monitor(false, &[]), (None, 0));
        assert_eq!(monitor(true, &[]), (Some((60, 30)), 0));
        assert_eq!(monitor(true, &[("enable-health-monitor", "false")]), (None, 0));
        let fast = &[("enable-health-monitor", "true"), ("health-monitor-delay", "40")];
        assert_eq!(monitor(false, fast), (Some((40, 30)), 0));
        assert_eq!(monitor(true, &[("health-monitor-delay", "20")]), (None, 1));
    }

    #[test]
    fn a_port_that_the_provider_cannot_monitor_is_told_if_there_is_to_be_a_monitor() {
        for (provider, wanted, expect) in [
            ("ovn", "true", &["port 132 SCTP: provider ovn"][..]),
            ("ovn", "false", &[]),
            ("amphora", "true", &[]),
        ] {
            let (_, problems) = wish(|service, to| {
                *to = settings(provider);
                service.ports[0].protocol = "SCTP".to_owned();
                service.ports[0].port = 132;
                annotate(service, &[("enable-health-monitor", wanted)]);
            });
            let begins = problems.iter().zip(expect).all(|(told, expect)| told.starts_with(expect));
            assert!(problems.len() == expect.len() && begins, "{provider} {wanted}: {problems:?}");
        }
    }

    #[test]
    fn a_service_of_both_families_has_a_vip_of_each() {
        let both = |change: fn(&mut ServiceFacts, &mut Settings)| {
            let (wish, problems) = wish(|service, settings| {
                service.families = vec!["IPv6".to_owned(), "IPv4".to_owned()];
                change(service, settings);
            });
            let Wish::Balancer(intent) = wish else { panic!("{wish:?}") };
            let more: Vec<_> = intent.more_vips.iter().map(|(id, ..)| id.to_string()).collect();
            (intent.vip_subnet.0.to_string(), more, intent.floating, problems.len())
        };
        let any = || FloatingWish::Any(External { network: "ext".into(), subnet: None });
        assert_eq!(both(|_, _| {}), ("s6".to_owned(), vec!["s4".to_owned()], any(), 0));
        let old = both(|_, settings| settings.version = (2, 25));
        assert_eq!(old, ("s6".to_owned(), vec![], FloatingWish::None, 1));
        let apart = both(|_, settings| {
            settings.networks.insert("s4".into(), "elsewhere".into());
        });
        assert_eq!((apart.1.len(), apart.3), (0, 1));
    }

    #[test]
    fn where_the_vip_is_may_be_named() {
        let named = |provider: &'static str, name: &'static str, value: &'static str| {
            let (wish, problems) = wish(|service, to| {
                *to = settings(provider);
                to.named.subnets.insert("s9".into(), "10.9.0.0/16".parse().unwrap());
                let addresses = vec![("s9".into(), "10.9.0.5".parse().unwrap())];
                to.named.port = Some(super::super::NamedPort { id: "mine".into(), addresses });
                annotate(service, &[(name, value)]);
            });
            let Wish::Balancer(intent) = wish else { return (None, None, None, problems.len()) };
            let (address, port) = (intent.vip_address.map(|ip| ip.to_string()), intent.vip_port);
            (
                Some(intent.vip_subnet.0.to_string()),
                address,
                port.map(|port| port.to_string()),
                problems.len(),
            )
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(named("ovn", "subnet-id", "s9"), (text("s9"), None, None, 0));
        assert_eq!(named("ovn", "network-id", "n9"), (text("s9"), None, None, 0));
        assert_eq!(named("amphora", "port-id", "mine"), (text("s9"), text("10.9.0.5"), text("mine"), 0));
        // It would have a floating IP, which ovn cannot have lead there.
        assert_eq!(named("ovn", "port-id", "mine").3, 1);
        assert_eq!(named("ovn", "port-id", "theirs"), (None, None, None, 1));
        let not_there = wish(|service, _| annotate(service, &[("subnet-id", "s9")]));
        assert!(matches!(not_there.0, Wish::Closed) && not_there.1[0].contains("s9"), "{not_there:?}");
    }

    #[test]
    fn what_is_shared_stays_as_it_is() {
        let shared = |change: fn(&mut ServiceFacts)| {
            let (mut service, settings) = (service(), settings("amphora"));
            change(&mut service);
            let found = super::super::fixtures::balancer("x");
            let (wish, problems) = read(&service, &settings, false, Place::Shared(&found));
            match wish {
                Wish::Balancer(intent) => {
                    assert_eq!((intent.vip_address, &intent.floating), (None, &FloatingWish::Theirs));
                    (Some(intent.provider.clone()), intent.prefixes().count(), problems.len())
                }
                _ => (None, 0, problems.len()),
            }
        };
        let ovn = || Some("ovn".to_owned());
        assert_eq!(shared(|_| {}), (ovn(), 1, 0));
        assert_eq!(shared(|service| service.families.push("IPv6".to_owned())), (ovn(), 1, 1));
        assert_eq!(shared(|service| service.families = vec!["IPv6".to_owned()]), (None, 0, 1));
        assert_eq!(
            shared(|service| annotate(service, &[("subnet-id", "s9"), ("flavor-id", "f")])),
            (ovn(), 1, 1)
        );
        let internal = |service: &mut ServiceFacts| {
            let name = "service.beta.kubernetes.io/openstack-internal-load-balancer".to_owned();
            service.annotations.insert(name, "true".to_owned());
        };
        assert_eq!(shared(internal), (None, 0, 1));
        let asks = |service: &mut ServiceFacts| {
            service.load_balancer_ip = Some("203.0.113.7".to_owned());
            let ip = Some("203.0.113.8".parse().unwrap());
            service.told = vec![super::super::Ingress { ip, hostname: None, is_proxied: false }];
        };
        assert_eq!(shared(asks), (ovn(), 1, 1));
    }

    #[test]
    fn nothing_is_made_for_a_service_that_names_what_cannot_be_had() {
        let wish = read(&service(), &settings("ovn"), false, Place::Nowhere).0;
        assert_eq!(wish, Wish::Nothing);
    }

    #[test]
    fn an_old_octavia_gets_no_port_that_it_does_not_know() {
        let (wish, problems) = wish(|service, settings| {
            settings.version = (2, 9);
            let port = |protocol: &str| super::super::PortFacts {
                name: protocol.to_owned(),
                protocol: protocol.to_owned(),
                port: 53,
                ..super::super::PortFacts::default()
            };
            service.ports = vec![port("TCP"), port("UDP"), port("SCTP")];
        });
        let Wish::Balancer(intent) = wish else { panic!("{wish:?}") };
        assert_eq!((intent.ports.len(), problems.len()), (1, 2));
    }
}
