//! One look at a Service and its slices, and at what all Services have around them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::ObjectReference;
use kuryr_api::kuryrnode::KuryrNode;
use kuryr_kubernetes::{
    event::reference,
    slim,
    store::{ObjectKey, Presence},
};
use kuryr_planning::service::{
    Cluster, Endpoint, HostPort, NodeFacts, Pod, Service, ServicePort, Slice, SlicePort,
};

use super::{Services, inbound};
use crate::wiring::World;

/// Label of a Node (Kubernetes, "Well-Known Labels, Annotations and Taints").
const ZONE: &str = "topology.kubernetes.io/zone";

/// What there is of a Service, from which planning borrows.
pub(super) struct Look {
    service: Option<Arc<slim::Service>>,
    slices: Vec<Arc<slim::EndpointSlice>>,
}

/// Looks.
pub(super) fn look(room: &Services, key: &ObjectKey) -> Look {
    Look { service: room.services.get(key), slices: room.slices.get(key) }
}

/// What clients on this node have in common.
pub(super) fn node_facts<'a>(name: &'a str, node: Option<&'a slim::Node>) -> NodeFacts<'a> {
    NodeFacts { name, zone: node.and_then(zone) }
}

/// The zone of a node.
pub(crate) fn zone(node: &slim::Node) -> Option<&str> {
    node.metadata.labels.as_ref()?.get(ZONE).map(String::as_str)
}

/// The addresses by which others reach a node.
pub(super) fn node_addresses(node: &slim::Node) -> Vec<IpAddr> {
    let reached =
        node.status.addresses.iter().filter(|one| matches!(one.kind.as_str(), "InternalIP" | "ExternalIP"));
    reached.filter_map(|one| one.address.parse().ok()).collect()
}

/// The prefixes in which pods have their addresses.
pub(super) fn pod_prefixes(record: &KuryrNode) -> BTreeSet<IpNet> {
    record.spec.subnets.values().map(|subnet| subnet.cidr.trunc()).collect()
}

/// Addresses of the node's own port, if it has one.
pub(super) fn own_port(record: &KuryrNode) -> BTreeSet<IpAddr> {
    record.spec.own_port.iter().flat_map(|port| &port.addresses).map(|address| address.address).collect()
}

/// Names the API server's own Service.
pub(super) fn api_service() -> ObjectKey {
    ObjectKey::namespaced("default", "kubernetes")
}

/// What all Services have around them.
pub(super) fn cluster(world: &World) -> Cluster {
    let room = &world.services;
    let node = |node: Arc<slim::Node>| (node.name().to_owned(), node_addresses(&node));
    let nodes: BTreeMap<String, Vec<IpAddr>> = room.nodes.list().into_iter().map(node).collect();
    let (pod_prefixes, own_port) = match world.watched.record() {
        Presence::Present(record) => (pod_prefixes(&record).into_iter().collect(), own_port(&record)),
        Presence::Absent | Presence::Unknown => (Vec::new(), BTreeSet::new()),
    };
    let Look { service, slices } = look(room, &api_service());
    let clusterips =
        service.iter().flat_map(|found| &found.spec.cluster_ips).filter_map(|text| text.parse().ok());
    let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let api = clusterips
        .chain(endpoints.flat_map(|endpoint| &endpoint.addresses).copied())
        .chain(world.config.client.api_addresses());
    Cluster {
        nodes,
        own_port,
        external_ranges: room.external_ranges.clone(),
        api: api.collect(),
        pod_prefixes,
        open: inbound::open(world),
    }
}

impl Look {
    pub(super) fn service(&self) -> Option<Service<'_>> {
        let service = self.service.as_deref()?;
        let spec = &service.spec;
        Some(Service {
            kind: &spec.kind,
            cluster_ips: spec.cluster_ips.iter().map(String::as_str).collect(),
            load_balancer_class: spec.load_balancer_class.as_deref(),
            proxy_name: service.proxy_name(),
            ports: spec.ports.iter().map(port).collect(),
            session_affinity: &spec.session_affinity,
            affinity_seconds: service.affinity_seconds(),
            internal_traffic_policy: &spec.internal_traffic_policy,
            external_traffic_policy: &spec.external_traffic_policy,
            health_check_node_port: spec.health_check_node_port,
            external_ips: spec.external_ips.iter().map(String::as_str).collect(),
            load_balancer_ips: service.status.load_balancer.ingress.iter().filter_map(vip).collect(),
            source_ranges: spec.load_balancer_source_ranges.iter().map(String::as_str).collect(),
        })
    }

    /// The Service as an object that Events are about.
    pub(super) fn object(&self) -> Option<ObjectReference> {
        self.service.as_deref().map(reference)
    }

    pub(super) fn slices(&self) -> Vec<Slice<'_>> {
        self.slices.iter().map(|found| slice(found)).collect()
    }
}

fn port(found: &slim::ServicePort) -> ServicePort<'_> {
    ServicePort { name: &found.name, protocol: &found.protocol, port: found.port, node_port: found.node_port }
}

/// A pod, if it may have ports on this node: one in the node's own network has them anyway.
pub(super) fn pod(found: &slim::Pod) -> Option<Pod<'_>> {
    let ports = found.spec.all_host_ports().map(|port| HostPort {
        host_ip: port.host_ip.as_deref().unwrap_or_default(),
        host_port: port.host_port,
        container_port: port.container_port,
        protocol: &port.protocol,
    });
    let runs = !found.spec.host_network && !found.has_ended();
    runs.then(|| Pod { addresses: &found.status.pod_ips, ports: ports.collect() })
}

/// The address of a load balancer that does not change what passes it.
fn vip(found: &slim::LoadBalancerIngress) -> Option<&str> {
    found.ip.as_deref().filter(|_| found.ip_mode.as_deref().is_none_or(|mode| mode == "VIP"))
}

fn slice(found: &slim::EndpointSlice) -> Slice<'_> {
    let ports = found.ports.iter().flatten().map(|port| SlicePort {
        name: port.name.as_deref().unwrap_or_default(),
        protocol: port.protocol.as_deref().unwrap_or_default(),
        port: port.port,
    });
    Slice {
        address_type: &found.address_type,
        ports: ports.collect(),
        endpoints: found.endpoints.iter().flatten().map(endpoint).collect(),
    }
}

fn endpoint(found: &slim::Endpoint) -> Endpoint<'_> {
    let hints = found.hints.as_ref();
    let address: Option<IpAddr> = found.addresses.first().copied();
    Endpoint {
        address,
        ready: found.conditions.ready,
        serving: found.conditions.serving,
        terminating: found.conditions.terminating,
        node: found.node_name.as_deref(),
        for_zones: names(hints.and_then(|hints| hints.for_zones.as_ref())),
        for_nodes: names(hints.and_then(|hints| hints.for_nodes.as_ref())),
    }
}

fn names(named: Option<&Vec<slim::Named>>) -> Vec<&str> {
    named.into_iter().flatten().map(|one| one.name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_balancers_that_change_what_passes_them_are_not_spared() {
        for (mode, expect) in
            [(None, true), (Some("VIP"), true), (Some("Proxy"), false), (Some("Later"), false)]
        {
            let ingress = slim::LoadBalancerIngress {
                ip: Some("203.0.113.7".into()),
                ip_mode: mode.map(str::to_owned),
                hostname: None,
            };
            assert_eq!(vip(&ingress).is_some(), expect, "{mode:?}");
        }
    }
}
