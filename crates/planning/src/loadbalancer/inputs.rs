//! What is looked at: the Service and its endpoints, the settings, what is in the cloud.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use kuryr_types::{
    FloatingIpId, LbPoolId, ListenerId, LoadBalancerId, MemberId, MonitorId, NetworkId, PortId, SubnetId,
};

use super::{desired::MonitorSpec, external::ExternalSubnet, provider::MemberMode};
use crate::pool::Millis;

/// One look.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The time, from any fixed start.
    pub now: Millis,
    /// The Service; one that is gone is like one that is being deleted.
    pub service: &'a ServiceFacts,
    /// Its endpoints.
    pub endpoints: &'a [EndpointFacts],
    /// What the operator has set, and what the cloud can do.
    pub settings: &'a Settings,
    /// What is in the cloud.
    pub actual: &'a Actual,
}

impl<'a> Inputs<'a> {
    /// The load balancer that upstream made for the Service: of our project and of its name, at its ClusterIP in a subnet of
    /// ClusterIPs, which nobody else can have.
    pub(super) fn upstreams(&self) -> Option<&'a Stranger> {
        let has_cluster_ip = |found: &&Stranger| {
            let subnet = found.vip_subnet.as_ref();
            found.vip_address.is_some_and(|vip| self.service.cluster_ips.contains(&vip))
                && subnet.is_some_and(|subnet| self.settings.service_subnets.contains_key(subnet))
                && !found.is_of_another_cluster
        };
        self.actual.strangers.iter().find(has_cluster_ip)
    }

    /// Whether Octavia serves the ClusterIP of the Service already, by us or by upstream, whose finalizer it has then.
    pub(super) fn is_so_already(&self) -> bool {
        let at_cluster_ip =
            |found: &Balancer| found.vip_address.is_some_and(|vip| self.service.cluster_ips.contains(&vip));
        self.actual.balancers.iter().any(at_cluster_ip)
            || self.service.has_finalizer && self.upstreams().is_some()
    }
}

/// A Service, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceFacts {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID; empty if the Service is gone.
    pub uid: String,
    /// It is being deleted, or gone.
    pub is_leaving: bool,
    /// It has our finalizer.
    pub has_finalizer: bool,
    /// `spec.type`.
    pub kind: String,
    /// `spec.clusterIPs`; empty for a headless Service.
    pub cluster_ips: Vec<IpAddr>,
    /// What its namespace says about who serves ClusterIPs.
    pub namespace_mode: Option<String>,
    /// `spec.loadBalancerClass`.
    pub class: Option<String>,
    /// `spec.loadBalancerIP`.
    pub load_balancer_ip: Option<String>,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: Vec<String>,
    /// `spec.sessionAffinity`.
    pub session_affinity: String,
    /// `spec.ipFamilies`: `IPv4`, `IPv6`.
    pub families: Vec<String>,
    /// `spec.ports`.
    pub ports: Vec<PortFacts>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// `status.loadBalancer.ingress`.
    pub told: Vec<Ingress>,
}

/// A port of a Service, or of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct PortFacts {
    /// Name; empty if it is the only one.
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Number.
    pub port: u16,
    /// Of a Service's port: that of the endpoints, by number or name, as it was written.
    pub target: String,
}

/// Where a Service is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ingress {
    /// Address; absent where a host name is told.
    pub ip: Option<IpAddr>,
    /// Host name, in the place of an address.
    pub hostname: Option<String>,
    /// What arrives at members is not what clients sent, so nobody may go past the load balancer (`ipMode: Proxy`).
    pub is_proxied: bool,
}

/// An endpoint of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointFacts {
    /// Its address.
    pub address: IpAddr,
    /// Its ports, by the names of the Service's.
    pub ports: Vec<PortFacts>,
    /// It takes new clients.
    pub is_ready: bool,
    /// It answers, though it is about to go.
    pub is_last_resort: bool,
    /// The one pod with this address, if there is one.
    pub pod: Option<String>,
    /// The address is a node's, which the cloud knows by the addresses of the node's own port only.
    pub own_port: Option<Vec<IpAddr>>,
}

impl EndpointFacts {
    /// Where the cloud reaches it.
    #[must_use]
    pub fn reached_at(&self) -> Option<IpAddr> {
        let is_alike = |own: &&IpAddr| own.is_ipv6() == self.address.is_ipv6();
        match &self.own_port {
            None => Some(self.address),
            Some(own) => own.iter().find(is_alike).copied(),
        }
    }
}

/// What the operator has set, and what the cloud can do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// `[kubernetes] endpoints_driver_octavia_provider`, unless it says `default`.
    pub provider: Option<String>,
    /// Providers that Octavia has.
    pub providers: BTreeSet<String>,
    /// Greatest version of Octavia's API: major, minor.
    pub version: (u16, u16),
    /// Subnets of the pods' network with their prefixes.
    pub subnets: BTreeMap<SubnetId, IpNet>,
    /// Subnets that VIPs are from, with their prefixes; empty: those of pods.
    pub vip_subnets: BTreeMap<SubnetId, IpNet>,
    /// All subnets of the project, where endpoints are outside of those above.
    pub others: BTreeMap<SubnetId, IpNet>,
    /// Subnets of ClusterIPs, with their prefixes.
    pub service_subnets: BTreeMap<SubnetId, IpNet>,
    /// Octavia serves ClusterIPs where nobody says otherwise.
    pub by_octavia: bool,
    /// Networks of these subnets, as far as they are known.
    pub networks: BTreeMap<SubnetId, NetworkId>,
    /// What the Service's annotations name in the cloud, as it was found.
    pub named: Named,
    /// Where floating IPs are from.
    pub external: Option<External>,
    /// `[octavia_defaults] lb_algorithm`; none: what suits the provider.
    pub algorithm: Option<String>,
    /// `[octavia_defaults] member_mode`; none: what suits the provider.
    pub member_mode: Option<MemberMode>,
    /// `[octavia_defaults] timeout_client_data`, in milliseconds.
    pub timeout_client_data: Option<u32>,
    /// `[octavia_defaults] timeout_member_data`, in milliseconds.
    pub timeout_member_data: Option<u32>,
    /// Pools have monitors where a Service does not say.
    pub has_monitors: bool,
    /// What monitors are like where a Service does not say.
    pub monitor: MonitorSettings,
    /// For how long changes of members are collected after one was sent.
    pub coalesce: Millis,
    /// For how long a load balancer may be pending before that is told.
    pub activation: Millis,
}

/// How often a monitor looks, and what it makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MonitorSettings {
    /// Seconds between looks.
    pub delay: u32,
    /// Seconds after which there is no answer; less than the delay.
    pub timeout: u32,
    /// Good looks in a row after which a member is used again.
    pub max_retries: u32,
    /// Bad looks in a row after which a member is not used any more.
    pub max_retries_down: u32,
}

/// What the annotations of a Service name in the cloud.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Named {
    /// The subnet of that id, or the subnets of the network of that id, with their prefixes.
    pub subnets: BTreeMap<SubnetId, IpNet>,
    /// The port of that id.
    pub port: Option<NamedPort>,
    /// Subnets of the network that floating IPs are from; looked for only if one is described.
    pub external: Vec<ExternalSubnet>,
}

/// A port that a Service names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPort {
    /// Its id.
    pub id: PortId,
    /// Its addresses with their subnets.
    pub addresses: Vec<(SubnetId, IpAddr)>,
}

/// Where floating IPs are from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    /// Network.
    pub network: NetworkId,
    /// A subnet of it; none: Neutron chooses.
    pub subnet: Option<SubnetId>,
}

/// What is in the cloud for a Service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Actual {
    /// Our load balancers of its name; more than one after a lost answer.
    pub balancers: Vec<Balancer>,
    /// Load balancers of our project that are not its own, and that its annotation names or that carry something of it.
    pub shared: Vec<Balancer>,
    /// Load balancers of our project and of its name that are not ours; looked for only if none is.
    pub strangers: Vec<Stranger>,
    /// Floating IPs of our project that lead to VIPs of all these, are tagged with the Service, or have the address that it
    /// asks for or tells.
    pub floating: Vec<Floating>,
}

impl Actual {
    /// Members that active load balancers are about to lose, with their pools and addresses.
    pub fn leaving(&self) -> impl Iterator<Item = (&Balancer, &FoundPool, IpAddr, &MemberId)> {
        let all = self.balancers.iter().chain(&self.shared);
        let active = all.filter(|found| found.state == State::Active);
        let pools = active.flat_map(|found| found.pools.iter().map(move |pool| (found, pool)));
        pools.flat_map(|(found, pool)| pool.leaving.iter().map(move |(at, id)| (found, pool, at.0, id)))
    }
}

/// A load balancer of our project without our tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    /// Its id.
    pub id: LoadBalancerId,
    /// Whether it can be changed.
    pub state: State,
    /// Its VIP.
    pub vip_address: Option<IpAddr>,
    /// Subnet of its VIP.
    pub vip_subnet: Option<SubnetId>,
    /// It carries the tag of another cluster of Kuryr's.
    pub is_of_another_cluster: bool,
}

/// A load balancer of ours, or one that is shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balancer {
    /// Its id.
    pub id: LoadBalancerId,
    /// Its name.
    pub name: String,
    /// Whether it can be changed.
    pub state: State,
    /// What implements it.
    pub provider: String,
    /// Subnet of its VIP.
    pub vip_subnet: Option<SubnetId>,
    /// Its VIP.
    pub vip_address: Option<IpAddr>,
    /// The port with the VIP.
    pub vip_port: Option<PortId>,
    /// Its further VIPs with their ports.
    pub more_vips: Vec<(IpAddr, Option<PortId>)>,
    /// Listeners of the Service; not read unless it is active.
    pub listeners: Vec<FoundListener>,
    /// Pools of the Service; not read unless it is active.
    pub pools: Vec<FoundPool>,
    /// Addresses of members of one that is not active, which are no facts to plan by; read where no look has shown them.
    pub hidden: Option<BTreeSet<IpAddr>>,
    /// What others have on it; not read unless it is active or in state `ERROR`.
    pub others: Others,
}

/// What others have on a load balancer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Others {
    /// Their listeners.
    pub listeners: Vec<OtherListener>,
    /// How many pools they have.
    pub pools: usize,
}

impl Others {
    /// Tells whether nobody else has anything on it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty() && self.pools == 0
    }
}

/// A listener of somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherListener {
    /// Its name.
    pub name: String,
    /// Such as `TCP`, or what is above it: `HTTP`.
    pub protocol: String,
    /// Port.
    pub port: u16,
}

impl Balancer {
    /// Tells whether the Service has something on it; what is not active does not tell.
    #[must_use]
    pub fn carries_something(&self) -> bool {
        !self.listeners.is_empty() || !self.pools.is_empty()
    }

    /// All its VIPs with their ports, the first one first.
    pub fn vips(&self) -> impl Iterator<Item = (IpAddr, Option<&PortId>)> {
        let first = self.vip_address.map(|address| (address, self.vip_port.as_ref()));
        first.into_iter().chain(self.more_vips.iter().map(|(address, port)| (*address, port.as_ref())))
    }
}

/// Whether a load balancer can be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It can.
    Active,
    /// It is being made or changed.
    Pending,
    /// The last change failed; it can only be deleted.
    Error,
    /// It is being deleted.
    Deleting,
}

/// A listener as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundListener {
    /// Its id.
    pub id: ListenerId,
    /// Such as `TCP`, or what is above it: `HTTP`.
    pub protocol: String,
    /// Port.
    pub port: u16,
    /// Its pool.
    pub pool: Option<LbPoolId>,
    /// Most connections at a time; `None` is no bound.
    pub connection_limit: Option<u32>,
    /// Milliseconds: client data, connect, member data, inspection.
    pub timeouts: [Option<u32>; 4],
    /// Which of them were asked for.
    pub asked_timeouts: [bool; 4],
    /// HTTP headers are inserted that tell of the client.
    pub forwards_for: bool,
    /// The only clients; empty: all.
    pub allowed: BTreeSet<IpNet>,
}

/// A pool as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundPool {
    /// Its id.
    pub id: LbPoolId,
    /// Its name.
    pub name: String,
    /// Such as `TCP`.
    pub protocol: String,
    /// How a member is chosen.
    pub algorithm: String,
    /// When it was made, by Octavia's clock to the second: what is less was earlier. Empty: not known.
    pub created: String,
    /// Clients keep their member by their address.
    pub is_persistent: bool,
    /// Its members.
    pub members: Vec<FoundMember>,
    /// Where members are that it is about to lose.
    pub leaving: BTreeMap<(IpAddr, u16), MemberId>,
    /// Its monitor.
    pub monitor: Option<FoundMonitor>,
}

/// A monitor as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundMonitor {
    /// Its id.
    pub id: MonitorId,
    /// What it is like.
    pub spec: MonitorSpec,
}

/// A member as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FoundMember {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The subnet by which it is reached.
    pub subnet: Option<SubnetId>,
    /// Its id.
    pub id: MemberId,
    /// Its name.
    pub name: String,
}

/// A floating IP of our project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Floating {
    /// Its id.
    pub id: FloatingIpId,
    /// The address.
    pub address: IpAddr,
    /// The port it leads to.
    pub port: Option<PortId>,
    /// It carries our tags and the Service's.
    pub is_ours: bool,
    /// Its description says that it was made for a Service.
    pub is_made: bool,
    /// Its description says that it was made for this Service, and no tag tells whose it is.
    pub is_marked: bool,
    /// Its tags, or without them its description, name another Service or another cluster.
    pub is_others: bool,
    /// It is marked as one that its Service asks to keep, or asked.
    pub is_kept: bool,
}
