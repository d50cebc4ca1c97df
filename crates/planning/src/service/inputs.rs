//! What is looked at, field by field as Kubernetes has it.
//!
//! Sources: Kubernetes API reference, Service v1, EndpointSlice discovery.k8s.io/v1, Node v1.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use ipnet::IpNet;

use super::external::ExternalRanges;

/// What has frontends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OwnerKind {
    /// A Service.
    Service,
    /// A pod of this node, with ports on it.
    Pod,
}

/// Whose frontends are. Written as `Service namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// What it is.
    pub kind: OwnerKind,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            OwnerKind::Service => "Service",
            OwnerKind::Pod => "pod",
        };
        write!(f, "{kind} {}/{}", self.namespace, self.name)
    }
}

/// A Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service<'a> {
    /// `spec.type`; empty means `ClusterIP`.
    pub kind: &'a str,
    /// `spec.clusterIPs`; the only one is `None` for a headless Service.
    pub cluster_ips: Vec<&'a str>,
    /// `spec.loadBalancerClass`.
    pub load_balancer_class: Option<&'a str>,
    /// Label `service.kubernetes.io/service-proxy-name`: another proxy than the cluster's own serves it.
    pub proxy_name: Option<&'a str>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort<'a>>,
    /// `spec.sessionAffinity`; empty means `None`.
    pub session_affinity: &'a str,
    /// `spec.sessionAffinityConfig.clientIP.timeoutSeconds`.
    pub affinity_seconds: Option<u32>,
    /// `spec.internalTrafficPolicy`; empty means `Cluster`.
    pub internal_traffic_policy: &'a str,
    /// `spec.externalTrafficPolicy`; empty means `Cluster`.
    pub external_traffic_policy: &'a str,
    /// `spec.healthCheckNodePort`; 0 if it has none.
    pub health_check_node_port: u16,
    /// `spec.externalIPs`.
    pub external_ips: Vec<&'a str>,
    /// `status.loadBalancer.ingress`: the addresses of those whose `ipMode` is `VIP` or not said.
    pub load_balancer_ips: Vec<&'a str>,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: Vec<&'a str>,
}

/// A port of a Service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServicePort<'a> {
    /// Name; empty where the Service has one port only.
    pub name: &'a str,
    /// `TCP`, `UDP` or `SCTP`; empty means `TCP`.
    pub protocol: &'a str,
    /// Number.
    pub port: u16,
    /// `nodePort`; 0 if it has none.
    pub node_port: u16,
}

/// A part of a Service's endpoints, of one address family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slice<'a> {
    /// `addressType`: `IPv4`, `IPv6` or `FQDN`.
    pub address_type: &'a str,
    /// The ports that all of its endpoints have.
    pub ports: Vec<SlicePort<'a>>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint<'a>>,
}

/// A port of endpoints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SlicePort<'a> {
    /// Name of the Service's port.
    pub name: &'a str,
    /// As in [`ServicePort`].
    pub protocol: &'a str,
    /// Number; none means no certain one.
    pub port: Option<u16>,
}

/// An endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoint<'a> {
    /// The first of `addresses`, the only one that consumers use; none if it is no address.
    pub address: Option<IpAddr>,
    /// `conditions.ready`; none means yes.
    pub ready: Option<bool>,
    /// `conditions.serving`; none means as `ready`.
    pub serving: Option<bool>,
    /// `conditions.terminating`; none means no.
    pub terminating: Option<bool>,
    /// `nodeName`.
    pub node: Option<&'a str>,
    /// `hints.forZones`: for clients in these zones.
    pub for_zones: Vec<&'a str>,
    /// `hints.forNodes`: for clients on these nodes.
    pub for_nodes: Vec<&'a str>,
}

/// The node whose clients are served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeFacts<'a> {
    /// Name of the Node.
    pub name: &'a str,
    /// Its label `topology.kubernetes.io/zone`.
    pub zone: Option<&'a str>,
}

/// A pod of this node, with a network of its own, that has not ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod<'a> {
    /// `status.podIPs`.
    pub addresses: &'a [IpAddr],
    /// Ports of containers that have a `hostPort`.
    pub ports: Vec<HostPort<'a>>,
}

/// A port of a container that is to be reached on the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostPort<'a> {
    /// `hostIP`; empty means every address of the node.
    pub host_ip: &'a str,
    /// `hostPort`.
    pub host_port: u16,
    /// `containerPort`.
    pub container_port: u16,
    /// As in [`ServicePort`].
    pub protocol: &'a str,
}

/// What Services have around them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Internal and external addresses of every node, by its name.
    pub nodes: BTreeMap<String, Vec<IpAddr>>,
    /// Addresses of this node's own port on the pods' network, if it has one.
    pub own_port: BTreeSet<IpAddr>,
    /// Where Services may have external addresses.
    pub external_ranges: ExternalRanges,
    /// Where the API server is reached: its Service, its endpoints, the configuration.
    pub api: BTreeSet<IpAddr>,
    /// Where pods have addresses.
    pub pod_prefixes: Vec<IpNet>,
    /// Addresses of pods of this node whose ports are open ([`super::straight`]).
    pub open: BTreeSet<IpAddr>,
}
