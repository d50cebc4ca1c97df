//! One look at a Service and its slices.

use std::{net::IpAddr, sync::Arc};

use kuryr_kubernetes::{slim, store::ObjectKey};
use kuryr_planning::service::{Endpoint, NodeFacts, Service, ServicePort, Slice, SlicePort};

use super::Services;

/// Label of a Node (Kubernetes, "Well-Known Labels, Annotations and Taints").
const ZONE: &str = "topology.kubernetes.io/zone";

/// What there is of a Service, from which planning borrows.
pub(super) struct Look {
    service: Option<Arc<slim::Service>>,
    slices: Vec<Arc<slim::EndpointSlice>>,
}

/// Looks.
pub(super) fn look(room: &Services, key: &ObjectKey) -> Look {
    Look { service: room.services.get(key), slices: room.by_service.get(key) }
}

/// What clients on this node have in common.
pub(super) fn node_facts<'a>(name: &'a str, node: Option<&'a slim::Node>) -> NodeFacts<'a> {
    NodeFacts { name, zone: node.and_then(zone) }
}

/// The zone of a node.
pub(crate) fn zone(node: &slim::Node) -> Option<&str> {
    node.metadata.labels.as_ref()?.get(ZONE).map(String::as_str)
}

impl Look {
    pub(super) fn service(&self) -> Option<Service<'_>> {
        let service = self.service.as_deref()?;
        let spec = &service.spec;
        Some(Service {
            kind: &spec.kind,
            cluster_ips: spec.cluster_ips.iter().map(String::as_str).collect(),
            proxy_name: service.proxy_name(),
            ports: spec.ports.iter().map(port).collect(),
            session_affinity: &spec.session_affinity,
            affinity_seconds: service.affinity_seconds(),
            internal_traffic_policy: &spec.internal_traffic_policy,
        })
    }

    pub(super) fn slices(&self) -> Vec<Slice<'_>> {
        self.slices.iter().map(|found| slice(found)).collect()
    }
}

fn port(found: &slim::ServicePort) -> ServicePort<'_> {
    ServicePort { name: &found.name, protocol: &found.protocol, port: found.port }
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
