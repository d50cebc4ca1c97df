//! One look at a Service: itself, its endpoints, its load balancer and floating IPs, what the operator has set.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use kuryr_kubernetes::{
    slim,
    store::{ObjectKey, Presence},
};
use kuryr_openstack::{
    Error as CloudError,
    neutron::{FloatingIp, FloatingIpFilter, Subnet, SubnetFilter},
    octavia::{
        Carrier, HealthMonitor, LbPool, Listener, LoadBalancer, Member, Octavia, OwnedLoadBalancer,
        ProvisioningStatus,
    },
};
use kuryr_planning::{
    loadbalancer::{
        Actual, Balancer, EndpointFacts, External, ExternalSubnet, Floating, FoundListener, FoundMember,
        FoundMonitor, FoundPool, Ingress, Inputs, MonitorSettings, MonitorSpec, Named, NamedPort,
        OtherListener, Others, PortFacts, ServiceFacts, Settings, State, Stranger, asked, mark,
        sharing::{is_guest, is_own},
    },
    ownership::{
        GUEST_TAG, KEPT_TAG, Owner, asked_timeouts, load_balancer_name, service_of_tag, service_tag,
    },
    pool::{DefaultClass, Millis},
};
use kuryr_types::{NetworkId, PortId, SubnetId};
use tokio::sync::OnceCell;

use crate::{
    cloud::{Known, facts::Access},
    error::Result,
    term::Term,
    wiring::World,
};

/// What was seen; owned, so that the world may go on.
#[derive(Debug)]
pub(super) struct Look {
    now: Millis,
    /// The object, if it is there.
    pub(super) object: Option<Arc<slim::Service>>,
    pub(super) service: ServiceFacts,
    endpoints: Vec<EndpointFacts>,
    settings: Settings,
    actual: Actual,
    /// The same as Octavia and Neutron showed them, for calls.
    pub(super) balancers: Vec<OwnedLoadBalancer>,
    pub(super) shared: Vec<Carrier>,
    pub(super) strangers: Vec<LoadBalancer>,
    pub(super) floating: Vec<FloatingIp>,
}

impl Look {
    /// The look as planning takes it.
    pub(super) fn inputs(&self) -> Inputs<'_> {
        let Self { now, service, endpoints, settings, actual, .. } = self;
        Inputs { now: *now, service, endpoints, settings, actual }
    }

    /// The Service that was looked at.
    pub(super) fn key(&self) -> ObjectKey {
        ObjectKey { namespace: self.service.namespace.clone(), name: self.service.name.clone() }
    }

    /// Whether neither the Service nor anything of it in the cloud is left.
    pub(super) fn is_over(&self) -> bool {
        self.object.is_none() && self.balancers.is_empty() && self.shared.is_empty()
    }
}

/// Looks at a Service; `None` while something of the cluster, or the pods' subnets, are not known.
pub(super) async fn look(
    key: &ObjectKey,
    known: &Known,
    access: &Access,
    world: &World,
    term: &Term,
) -> Result<Option<Look>> {
    let object = match world.services.presence(key) {
        Presence::Present(object) => Some(object),
        Presence::Absent => None,
        Presence::Unknown => return Ok(None),
    };
    let (Some(slices), Some(class)) = (world.slices_of(key), &known.class) else { return Ok(None) };
    if !world.nodes.synced() || !world.records.synced() || !world.namespaces.synced() {
        return Ok(None);
    }
    let mut service = object.as_deref().map_or_else(|| gone(key), facts);
    service.namespace_mode = world.mode_of(&key.namespace);
    let octavia = octavia(&service, access).await?;
    let Carriers { own, shared, strangers } = carriers(key, &service, &octavia, access, world, term).await?;
    let (balancers, found): (Vec<_>, Vec<_>) = own.into_iter().unzip();
    let (shared, found_shared): (Vec<_>, Vec<_>) = shared.into_iter().unzip();
    let all: Vec<&LoadBalancer> =
        balancers.iter().map(|own| &***own).chain(shared.iter().map(|it| &**it)).collect();
    let floating = floating(&service, &all, access).await?;
    let endpoints = endpoints(&slices, &service, world);
    let settings = settings(&service, &endpoints, &octavia, class, access, world, term).await?;
    let leads_to_own = |port: &PortId| found.iter().any(|own| own.vips().any(|(_, vip)| vip == Some(port)));
    let facts = |floating: &FloatingIp| floating_facts(floating, &service, &access.owner, leads_to_own);
    let actual = Actual {
        floating: floating.iter().map(facts).collect(),
        strangers: strangers.iter().map(|found| stranger(found, &access.owner)).collect(),
        shared: found_shared,
        balancers: found,
    };
    let now = world.now();
    Ok(Some(Look {
        now,
        object,
        service,
        endpoints,
        settings,
        actual,
        balancers,
        shared,
        strangers,
        floating,
    }))
}

async fn octavia(service: &ServiceFacts, access: &Access) -> Result<Arc<Octavia>> {
    match access.client.octavia().await {
        // A cloud without Octavia has nothing of ours.
        Err(CloudError::EndpointMissing { .. })
            if !service.has_finalizer && service.kind != "LoadBalancer" =>
        {
            Ok(Arc::default())
        }
        octavia => Ok(octavia?),
    }
}

/// Load balancers that matter to a Service, as calls need them and as decisions do.
#[derive(Default)]
struct Carriers {
    own: Vec<(OwnedLoadBalancer, Balancer)>,
    shared: Vec<(Carrier, Balancer)>,
    /// Those that upstream made for ClusterIPs.
    strangers: Vec<LoadBalancer>,
}

async fn carriers(
    key: &ObjectKey,
    service: &ServiceFacts,
    octavia: &Octavia,
    access: &Access,
    world: &World,
    term: &Term,
) -> Result<Carriers> {
    if octavia.providers.is_empty() {
        return Ok(Carriers::default());
    }
    let name = load_balancer_name(&key.namespace, &key.name);
    let balancers = access.client.load_balancers(&access.ownership, Some(&name)).await?;
    let has_service_subnets = !world.config.balancers.service_subnets.is_empty();
    let strangers = match balancers.is_empty() && !service.cluster_ips.is_empty() && has_service_subnets {
        true => access.client.untagged_load_balancers(&access.ownership, &name).await?,
        false => vec![],
    };
    let is_seen = term.balancers.has_looked_at(key);
    let mut found = Vec::with_capacity(balancers.len());
    for balancer in &balancers {
        let facts = read(balancer, &name, true, access).await?;
        found.push(with_hidden(facts, balancer, is_seen, access).await?);
    }
    let shared = shared(key, service, &balancers, access, term).await?;
    Ok(Carriers { own: balancers.into_iter().zip(found).collect(), shared, strangers })
}

/// What the operator has set, with what the cloud has of it and of what the Service names.
async fn settings(
    service: &ServiceFacts,
    endpoints: &[EndpointFacts],
    octavia: &Octavia,
    class: &DefaultClass,
    access: &Access,
    world: &World,
    term: &Term,
) -> Result<Settings> {
    let config = &world.config.balancers;
    let vip_subnets = subnets(&config.vip_subnets, &term.balancers.vip_subnets, access).await?;
    let service_subnets = subnets(&config.service_subnets, &term.balancers.service_subnets, access).await?;
    let is_configured = |id: &SubnetId| class.subnets.contains_key(id) || vip_subnets.contains_key(id);
    let (mut named, named_networks) = named(service, is_configured, access).await?;
    named.external = external(service, config.external.as_ref(), access).await?;
    let of_pods = class.subnets.keys().map(|id| (id.clone(), class.network.clone()));
    let of_vips = vip_subnets.iter().chain(service_subnets);
    let of_vips = of_vips.map(|(id, subnet)| (id.clone(), subnet.network_id.clone()));
    let subnets: BTreeMap<_, _> =
        class.subnets.iter().map(|(id, subnet)| (id.clone(), subnet.cidr)).collect();
    let others = others(endpoints, &subnets, access).await?;
    Ok(Settings {
        provider: config.provider.clone(),
        providers: octavia.providers.clone(),
        version: (octavia.version.major, octavia.version.minor),
        subnets,
        others,
        vip_subnets: vip_subnets.iter().map(|(id, subnet)| (id.clone(), subnet.cidr)).collect(),
        service_subnets: service_subnets.iter().map(|(id, subnet)| (id.clone(), subnet.cidr)).collect(),
        by_octavia: config.by_octavia,
        networks: of_pods.chain(of_vips).chain(named_networks).collect(),
        named,
        external: config.external.clone(),
        algorithm: config.algorithm.clone(),
        member_mode: config.member_mode,
        timeout_client_data: Some(config.timeouts.0),
        timeout_member_data: Some(config.timeouts.1),
        has_monitors: config.has_monitors,
        monitor: config.monitor,
        coalesce: config.coalesce,
        activation: config.activation,
    })
}

/// A floating IP as decisions see it; `leads_to_own` tells whether a port is of a VIP of the Service's own.
fn floating_facts(
    floating: &FloatingIp,
    service: &ServiceFacts,
    owner: &Owner,
    leads_to_own: impl Fn(&PortId) -> bool,
) -> Floating {
    let FloatingIp { tags, description, .. } = floating;
    let marked = mark::service_of_untagged(tags, description, owner);
    let mut services = tags.iter().filter_map(|tag| service_of_tag(tag)).chain(marked);
    Floating {
        id: floating.id.clone(),
        address: floating.floating_ip_address,
        port: floating.port_id.clone(),
        // Of a Service that is gone only the port tells.
        is_ours: owner.has_marked(tags)
            && match service.uid.is_empty() {
                true => floating.port_id.as_ref().is_some_and(&leads_to_own),
                false => tags.contains(&service_tag(&service.uid)),
            },
        is_made: mark::is_made(description, owner),
        // One that somebody has led elsewhere is theirs, whatever its description says still.
        is_marked: marked == Some(&service.uid) && floating.port_id.as_ref().is_none_or(&leads_to_own),
        is_others: owner.is_another_clusters(tags) || services.any(|uid| uid != service.uid),
        is_kept: tags.iter().any(|tag| tag == KEPT_TAG),
    }
}

/// Load balancers that are not the Service's own: the one that it names, and those that carry something of it.
async fn shared(
    key: &ObjectKey,
    service: &ServiceFacts,
    own: &[OwnedLoadBalancer],
    access: &Access,
    term: &Term,
) -> Result<Vec<(Carrier, Balancer)>> {
    let guests = &term.balancers.guests;
    let mut ids = guests.of(key, access).await?;
    let named = asked(&service.annotations).shared.filter(|_| service.kind == "LoadBalancer");
    ids.extend(named.clone());
    let mut shared = vec![];
    for id in ids.iter().filter(|id| own.iter().all(|own| own.id != **id)) {
        let Some(found) = access.client.load_balancer(&access.ownership, id).await? else {
            guests.note(key, id, false);
            continue;
        };
        let carrier = Carrier::lent(&access.ownership, found, GUEST_TAG)?;
        let name = load_balancer_name(&key.namespace, &key.name);
        let facts = read(&carrier, &name, false, access).await?;
        let facts = with_hidden(facts, &carrier, term.balancers.has_looked_at(key), access).await?;
        let matters = named.as_ref() == Some(id) || facts.carries_something();
        guests.note(key, id, matters);
        shared.extend(matters.then_some((carrier, facts)));
    }
    Ok(shared)
}

/// Subnets that the configuration names, which are asked for once in a leadership.
async fn subnets<'a>(
    named: &[SubnetId],
    known: &'a OnceCell<BTreeMap<SubnetId, Subnet>>,
    access: &Access,
) -> Result<&'a BTreeMap<SubnetId, Subnet>> {
    let find = || async {
        let mut found = BTreeMap::new();
        for id in named {
            found.insert(id.clone(), access.client.subnet(id).await?);
        }
        Ok(found)
    };
    known.get_or_try_init(find).await
}

/// What a Service names in the cloud, with the networks of the subnets. What is not there is left out, and so is what is
/// neither of our project nor configured: we may see more of the cloud than whoever writes Services.
async fn named(
    service: &ServiceFacts,
    is_configured: impl Fn(&SubnetId) -> bool,
    access: &Access,
) -> Result<(Named, BTreeMap<SubnetId, NetworkId>)> {
    let asked = asked(&service.annotations);
    let mut subnets: Vec<Subnet> = vec![];
    if let Some(id) = &asked.subnet {
        subnets.extend(unless_missing(access.client.subnet(id).await)?);
    }
    if let Some(id) = asked.network {
        let filter = SubnetFilter { network_id: Some(id), ..SubnetFilter::default() };
        subnets.extend(access.client.subnets(&filter).await?);
    }
    subnets.retain(|subnet| subnet.project_id == *access.owner.project() || is_configured(&subnet.id));
    let port = match &asked.port {
        Some(id) => unless_missing(access.client.port(id).await)?,
        None => None,
    };
    let port = port.filter(|port| port.project_id == *access.owner.project()).map(|port| NamedPort {
        id: port.id,
        addresses: port.fixed_ips.into_iter().map(|ip| (ip.subnet_id, ip.ip_address)).collect(),
    });
    let networks = subnets.iter().map(|subnet| (subnet.id.clone(), subnet.network_id.clone())).collect();
    let subnets = subnets.into_iter().map(|subnet| (subnet.id, subnet.cidr)).collect();
    Ok((Named { subnets, port, external: vec![] }, networks))
}

/// Subnets of the network that floating IPs are from, if the Service describes one. Whose they are does not matter: Neutron
/// gives everybody who may use the network floating IPs of them.
async fn external(
    service: &ServiceFacts,
    configured: Option<&External>,
    access: &Access,
) -> Result<Vec<ExternalSubnet>> {
    let Some(asked) = asked(&service.annotations).external else { return Ok(vec![]) };
    let Some(network_id) = asked.or_else(|| Some(configured?.network.clone())) else { return Ok(vec![]) };
    let filter = SubnetFilter { network_id: Some(network_id), ..SubnetFilter::default() };
    let found = access.client.subnets(&filter).await?.into_iter();
    let facts = |subnet: Subnet| ExternalSubnet {
        id: subnet.id,
        name: subnet.name,
        prefix: subnet.cidr,
        tags: subnet.tags,
    };
    Ok(found.map(facts).collect())
}

/// All subnets of the project, if the cloud reaches an endpoint outside of those of pods.
async fn others(
    endpoints: &[EndpointFacts],
    subnets: &BTreeMap<SubnetId, IpNet>,
    access: &Access,
) -> Result<BTreeMap<SubnetId, IpNet>> {
    let is_known = |address: &IpAddr| subnets.values().any(|prefix| prefix.contains(address));
    if endpoints.iter().filter_map(EndpointFacts::reached_at).all(|address| is_known(&address)) {
        return Ok(BTreeMap::new());
    }
    let filter = SubnetFilter { project_id: Some(access.owner.project().clone()), ..SubnetFilter::default() };
    let found = access.client.subnets(&filter).await?;
    Ok(found.into_iter().map(|subnet| (subnet.id, subnet.cidr)).collect())
}

fn unless_missing<T>(found: std::result::Result<T, CloudError>) -> Result<Option<T>> {
    match found {
        Err(CloudError::NotFound { .. }) => Ok(None),
        found => Ok(Some(found?)),
    }
}

fn gone(key: &ObjectKey) -> ServiceFacts {
    ServiceFacts {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        is_leaving: true,
        ..ServiceFacts::default()
    }
}

fn facts(service: &slim::Service) -> ServiceFacts {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (metadata, spec) = (&service.metadata, &service.spec);
    let port = |port: &slim::ServicePort| PortFacts {
        name: port.name.clone(),
        protocol: port.protocol.clone(),
        port: port.port,
        target: port.target_port.clone(),
    };
    let ingress = |told: &slim::LoadBalancerIngress| Ingress {
        ip: told.ip.as_deref().and_then(|ip| ip.parse().ok()),
        hostname: told.hostname.clone().filter(|name| !name.is_empty()),
        is_proxied: told.ip_mode.as_deref() == Some("Proxy"),
    };
    ServiceFacts {
        namespace: text(&metadata.namespace),
        name: text(&metadata.name),
        uid: text(&metadata.uid),
        is_leaving: metadata.deletion_timestamp.is_some(),
        has_finalizer: super::has_finalizer(service),
        kind: spec.kind.clone(),
        // A headless Service has the word `None` there.
        cluster_ips: spec.cluster_ips.iter().filter_map(|address| address.parse().ok()).collect(),
        namespace_mode: None,
        class: spec.load_balancer_class.clone(),
        load_balancer_ip: spec.load_balancer_ip.clone(),
        source_ranges: spec.load_balancer_source_ranges.clone(),
        session_affinity: spec.session_affinity.clone(),
        families: spec.ip_families.clone(),
        ports: spec.ports.iter().map(port).collect(),
        annotations: metadata.annotations.clone().unwrap_or_default(),
        told: service.status.load_balancer.ingress.iter().map(ingress).collect(),
    }
}

fn endpoints(
    slices: &[Arc<slim::EndpointSlice>],
    service: &ServiceFacts,
    world: &World,
) -> Vec<EndpointFacts> {
    let mut endpoints = Vec::new();
    for slice in slices {
        let ports = ports_of(slice, service);
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = endpoint.conditions;
            let is_ready = conditions.ready.unwrap_or(true);
            let is_serving = conditions.serving.unwrap_or(is_ready);
            let of_address = |address: &IpAddr| EndpointFacts {
                address: *address,
                ports: ports.clone(),
                is_ready,
                is_last_resort: is_serving && conditions.terminating == Some(true),
                pod: world.pod_at(*address),
                own_port: endpoint.node_name.as_deref().and_then(|node| world.own_port_at(node, *address)),
            };
            endpoints.extend(endpoint.addresses.iter().map(of_address));
        }
    }
    endpoints
}

/// The ports of a slice that its Service has. A slice may have 20,000 ports and 1,000 endpoints, each of which gets them.
fn ports_of(slice: &slim::EndpointSlice, service: &ServiceFacts) -> Vec<PortFacts> {
    let named: BTreeSet<&str> = service.ports.iter().map(|port| port.name.as_str()).collect();
    let ports = slice.ports.iter().flatten().filter_map(|found| {
        let name = found.name.as_deref().unwrap_or_default();
        let (protocol, port) = (found.protocol.clone().unwrap_or_default(), found.port?);
        let facts = || PortFacts { name: name.to_owned(), protocol, port, ..PortFacts::default() };
        named.contains(name).then(facts)
    });
    ports.collect()
}

/// A load balancer with what is below it for a Service whose own load balancers have this name. Only one that is active
/// shows it as it will stay; of one that is shared it matters at any time whether there is something of the Service.
async fn read(balancer: &Carrier, name: &str, is_its_own: bool, access: &Access) -> Result<Balancer> {
    let state = state(balancer);
    let mut found = Balancer {
        id: balancer.id.clone(),
        name: balancer.name.clone(),
        state,
        provider: balancer.provider.clone(),
        vip_subnet: balancer.vip_subnet_id.clone(),
        vip_address: balancer.vip_address,
        vip_port: balancer.vip_port_id.clone(),
        more_vips: more_vips(balancer),
        listeners: vec![],
        pools: vec![],
        hidden: None,
        others: Others::default(),
    };
    if is_its_own && !matches!(state, State::Active | State::Error) {
        return Ok(found);
    }
    let listeners = access.client.listeners(balancer).await?;
    let pools = access.client.lb_pools(balancer).await?;
    // Provider ovn calls a load balancer ACTIVE while its listeners are still being made, and one that is made after a
    // floating IP was put on the VIP does not get to know of it.
    let listeners_status = listeners.iter().map(|listener| &listener.provisioning_status);
    let mut below = listeners_status.chain(pools.iter().map(|pool| &pool.provisioning_status));
    if state == State::Active && below.any(|status| *status == Some(ProvisioningStatus::PendingCreate)) {
        found.state = State::Pending;
    }
    let is_ours = |below: &str, tags: &[String]| match is_its_own {
        true => is_own(below, tags, name, &access.owner),
        false => is_guest(below, tags, name, &access.owner),
    };
    let (listeners, others): (Vec<_>, Vec<_>) =
        listeners.into_iter().partition(|listener| is_ours(&listener.name, &listener.tags));
    let (pools, other_pools): (Vec<_>, Vec<_>) =
        pools.into_iter().partition(|pool| is_ours(&pool.name, &pool.tags));
    found.others = Others { listeners: others.into_iter().map(other).collect(), pools: other_pools.len() };
    if is_its_own && found.state != State::Active {
        return Ok(found);
    }
    found.listeners = listeners.into_iter().map(listener).collect();
    for pool in pools {
        found.pools.extend(read_pool(pool, found.state, access).await?);
    }
    Ok(found)
}

/// With the addresses of all members, if it is not active and no look of this leadership has shown them (`is_seen`): who led before may
/// have had it made and told nobody.
async fn with_hidden(
    mut found: Balancer,
    balancer: &Carrier,
    is_seen: bool,
    access: &Access,
) -> Result<Balancer> {
    if is_seen || found.state == State::Active {
        return Ok(found);
    }
    let mut hidden = BTreeSet::new();
    for pool in access.client.lb_pools(balancer).await? {
        let members = unless_missing(access.client.members(&pool.id).await)?;
        hidden.extend(members.into_iter().flatten().map(|member| member.address));
    }
    found.hidden = Some(hidden);
    Ok(found)
}

/// A pool with what belongs to it, unless its load balancer is being changed; `None` if it went meanwhile.
async fn read_pool(pool: LbPool, state: State, access: &Access) -> Result<Option<FoundPool>> {
    let (mut members, mut found_monitor) = (vec![], None);
    if state == State::Active {
        let Some(listed) = unless_missing(access.client.members(&pool.id).await)? else { return Ok(None) };
        members = listed;
        if let Some(id) = &pool.healthmonitor_id {
            found_monitor = unless_missing(access.client.health_monitor(id).await)?.map(monitor);
        }
    }
    let (leaving, members): (Vec<_>, Vec<_>) = members.into_iter().partition(Member::is_leaving);
    let members = members.into_iter().map(|member| FoundMember {
        address: member.address,
        port: member.protocol_port,
        subnet: member.subnet_id,
        id: member.id,
        name: member.name,
    });
    Ok(Some(FoundPool {
        id: pool.id,
        name: pool.name,
        protocol: pool.protocol,
        algorithm: pool.lb_algorithm,
        created: pool.created_at,
        is_persistent: pool.session_persistence.is_some(),
        members: members.collect(),
        leaving: leaving
            .into_iter()
            .map(|member| ((member.address, member.protocol_port), member.id))
            .collect(),
        monitor: found_monitor,
    }))
}

fn other(listener: Listener) -> OtherListener {
    OtherListener { name: listener.name, protocol: listener.protocol, port: listener.protocol_port }
}

fn state(balancer: &LoadBalancer) -> State {
    match balancer.provisioning_status {
        ProvisioningStatus::Active => State::Active,
        ProvisioningStatus::Error => State::Error,
        ProvisioningStatus::PendingDelete | ProvisioningStatus::Deleted => State::Deleting,
        ProvisioningStatus::PendingCreate
        | ProvisioningStatus::PendingUpdate
        | ProvisioningStatus::Other(_) => State::Pending,
    }
}

fn stranger(balancer: &LoadBalancer, owner: &Owner) -> Stranger {
    Stranger {
        id: balancer.id.clone(),
        state: state(balancer),
        vip_address: balancer.vip_address,
        vip_subnet: balancer.vip_subnet_id.clone(),
        is_of_another_cluster: owner.is_another_clusters(&balancer.tags),
    }
}

fn more_vips(balancer: &LoadBalancer) -> Vec<(IpAddr, Option<PortId>)> {
    let vips = balancer.additional_vips.iter();
    vips.filter_map(|vip| Some((vip.ip_address?, vip.port_id.clone()))).collect()
}

fn monitor(monitor: HealthMonitor) -> FoundMonitor {
    let HealthMonitor { id, kind, delay, timeout, max_retries, max_retries_down } = monitor;
    let settings = MonitorSettings { delay, timeout, max_retries, max_retries_down };
    FoundMonitor { id, spec: MonitorSpec { kind, settings } }
}

fn listener(listener: Listener) -> FoundListener {
    FoundListener {
        asked_timeouts: asked_timeouts(&listener.tags),
        forwards_for: listener.insert_headers.contains_key("X-Forwarded-For"),
        id: listener.id,
        protocol: listener.protocol,
        port: listener.protocol_port,
        pool: listener.default_pool_id,
        // -1 is no bound.
        connection_limit: listener.connection_limit.and_then(|limit| limit.try_into().ok()),
        timeouts: [
            listener.timeout_client_data,
            listener.timeout_member_connect,
            listener.timeout_member_data,
            listener.timeout_tcp_inspect,
        ],
        allowed: listener.allowed_cidrs.into_iter().collect(),
    }
}

/// Floating IPs that lead to a VIP of these, are tagged with the Service, or have the address that it asks for or tells; without
/// any of them, those that were made for the Service and could not be tagged.
async fn floating(
    service: &ServiceFacts,
    balancers: &[&LoadBalancer],
    access: &Access,
) -> Result<Vec<FloatingIp>> {
    let mut filters: Vec<FloatingIpFilter> = Vec::new();
    let more =
        balancers.iter().flat_map(|balancer| more_vips(balancer).into_iter().filter_map(|(_, port)| port));
    for port in balancers.iter().filter_map(|balancer| balancer.vip_port_id.clone()).chain(more) {
        filters.push(FloatingIpFilter { port_id: Some(port), ..FloatingIpFilter::default() });
    }
    if !service.uid.is_empty() {
        let mut tags = access.ownership.tags().to_vec();
        tags.push(service_tag(&service.uid));
        filters.push(FloatingIpFilter { tags, ..FloatingIpFilter::default() });
    }
    if let Some(Ok(address)) = service.load_balancer_ip.as_deref().map(str::parse) {
        filters.push(FloatingIpFilter { address: Some(address), ..FloatingIpFilter::default() });
    }
    let mut found: Vec<FloatingIp> = Vec::new();
    for filter in &filters {
        add_floating(filter, access, &mut found).await?;
    }
    // One that could not be tagged, and was made before there were marks, leads nowhere any more when its load balancer is gone.
    let told = service.told.iter().filter_map(|ingress| ingress.ip);
    for address in told.filter(|address| service.has_finalizer && address.is_ipv4()) {
        let is_vip = |balancer: &&LoadBalancer| {
            balancer.vip_address == Some(address)
                || more_vips(balancer).iter().any(|(vip, _)| *vip == address)
        };
        if !balancers.iter().any(is_vip) && found.iter().all(|known| known.floating_ip_address != address) {
            let filter = FloatingIpFilter { address: Some(address), ..FloatingIpFilter::default() };
            add_floating(&filter, access, &mut found).await?;
        }
    }
    if found.is_empty() && service.has_finalizer {
        let description = Some(mark::description(&service.uid, &access.owner));
        let filter = FloatingIpFilter { description, ..FloatingIpFilter::default() };
        add_floating(&filter, access, &mut found).await?;
    }
    Ok(found)
}

async fn add_floating(filter: &FloatingIpFilter, access: &Access, found: &mut Vec<FloatingIp>) -> Result<()> {
    for floating in access.client.floating_ips(access.owner.project(), filter).await? {
        if found.iter().all(|known| known.id != floating.id) {
            found.push(floating);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_floating_ip_is_others_where_its_tags_or_without_them_its_description_say_so() {
        let owner = Owner::new("k8s".into(), vec!["kuryr-cluster:c".to_owned(), "site".to_owned()]);
        let service = ServiceFacts { uid: "u".to_owned(), ..ServiceFacts::default() };
        let mark = |uid: &str| mark::description(uid, &owner);
        let ours = ["kuryr-cluster:c", "site"];
        for (tags, description, expect) in [
            // Ours, marked, made, others'.
            (vec![], "kuryr_lb".to_owned(), "made"),
            (vec![], "the shop's".to_owned(), ""),
            (vec!["team"], "kuryr_lb".to_owned(), "made"),
            (vec![], mark("u"), "marked made"),
            (vec![], mark("v"), "made others"),
            (vec![], mark("u").replace(":c ", ":d "), ""),
            ([&ours[..], &["kuryr-service:u"]].concat(), mark("u"), "ours made"),
            ([&ours[..], &["kuryr-service:u"]].concat(), "kuryr_lb".to_owned(), "ours made"),
            ([&ours[..], &["kuryr-service:v"]].concat(), mark("u"), "made others"),
            ([&ours[..], &["kuryr-service:u", "kuryr-service:v"]].concat(), mark("u"), "ours made others"),
            (ours.to_vec(), mark("u"), "made"),
            (vec!["kuryr-service:u"], mark("v"), "made"),
            (vec!["kuryr-cluster:d", "kuryr-service:u"], "kuryr_lb".to_owned(), "made others"),
            (vec!["kuryr-cluster:d"], mark("u"), "made others"),
            (vec!["kuryr-kept"], mark("v"), "made kept"),
        ] {
            let shown = json!({"id": "f", "project_id": "k8s", "floating_ip_address": "203.0.113.7",
                               "floating_network_id": "ext", "description": description, "tags": tags});
            let found = floating_facts(&serde_json::from_value(shown).unwrap(), &service, &owner, |_| false);
            let is = [
                (found.is_ours, "ours"),
                (found.is_marked, "marked"),
                (found.is_made, "made"),
                (found.is_others, "others"),
                (found.is_kept, "kept"),
            ];
            let is: Vec<_> = is.into_iter().filter(|(is, _)| *is).map(|(_, word)| word).collect();
            assert_eq!(is.join(" "), expect, "{tags:?} {description}");
        }
    }

    #[test]
    fn a_description_says_nothing_of_a_floating_ip_that_leads_elsewhere() {
        let owner = Owner::new("k8s".into(), vec!["kuryr-cluster:c".to_owned()]);
        let service = ServiceFacts { uid: "u".to_owned(), ..ServiceFacts::default() };
        for (port, expect) in [(None, true), (Some("vip"), true), (Some("of-a-server"), false)] {
            let shown = json!({"id": "f", "project_id": "k8s", "floating_ip_address": "203.0.113.7", "port_id": port,
                               "floating_network_id": "ext", "description": mark::description("u", &owner), "tags": []});
            let shown: FloatingIp = serde_json::from_value(shown).unwrap();
            let found = floating_facts(&shown, &service, &owner, |port| port.as_str() == "vip");
            assert_eq!(found.is_marked, expect, "{port:?}");
        }
    }

    #[test]
    fn endpoints_have_the_ports_of_their_service_and_no_others() {
        let many = (0..20_000).map(|number| json!({"name": format!("p{number}"), "port": 80}));
        let ports: Vec<_> = many.chain([json!({"name": null, "port": 81}), json!({"name": "p9"})]).collect();
        let slice = json!({"metadata": {"name": "s"}, "ports": ports});
        let slice: slim::EndpointSlice = serde_json::from_value(slice).unwrap();
        let of = |names: &[&str]| {
            let port = |name: &&str| PortFacts { name: (*name).to_owned(), ..PortFacts::default() };
            let service = ServiceFacts { ports: names.iter().map(port).collect(), ..ServiceFacts::default() };
            let found = ports_of(&slice, &service).into_iter();
            found.map(|port| (port.name, port.port)).collect::<Vec<_>>()
        };
        assert_eq!(of(&["p7", "p19999", "x"]), [("p7".to_owned(), 80), ("p19999".to_owned(), 80)]);
        assert_eq!(of(&[""]), [(String::new(), 81)]);
        assert_eq!(of(&[]), []);
    }
}
