//! Who tells that endpoints of a Service do not see the addresses of their clients, although Kubernetes promises it.
//!
//! 1. Under `externalTrafficPolicy: Local` endpoints see the client's own address, says Kubernetes. Clients outside that
//!    come to a node have the node's address instead, unless the pod's port is open
//!    (`docs/adr/0018-clients-outside-enter-by-the-nodes-own-port.md`).
//! 2. It matters where a node is what clients are meant to come to: a `NodePort`, an external address that is served, a
//!    load balancer of another class. One of ours has the pods themselves for members.
//! 3. An endpoint in its node's own network is the node, and sees the client.
//! 4. One node tells it for all of them: the first by name that has another endpoint, if it has one that is not open. It does
//!    not know of those of other nodes.
//!
//! Source: Kubernetes documentation, "Using Source IP", "Virtual IPs and Service Proxies" ("External traffic policy").

use std::net::IpAddr;

use kuryr_api::names;

use super::{
    from_kubernetes::Intent,
    inputs::{Cluster, NodeFacts, Service, Slice},
};

/// Whether this node is to tell it of a Service.
pub(super) fn tells(
    service: &Service<'_>,
    intent: &Intent<'_>,
    slices: &[Slice<'_>],
    node: NodeFacts<'_>,
    cluster: &Cluster,
) -> bool {
    if !intent.external_local || !comes_to_nodes(service, intent) {
        return false;
    }
    let pods: Vec<(&str, IpAddr)> = pods(slices, cluster).collect();
    let is_first = pods.iter().map(|(name, _)| *name).min() == Some(node.name);
    is_first && pods.iter().any(|(name, address)| *name == node.name && !cluster.open.contains(address))
}

fn comes_to_nodes(service: &Service<'_>, intent: &Intent<'_>) -> bool {
    let has_node_port = intent.ports.iter().any(|port| port.node_port.is_some());
    let class = service.load_balancer_class;
    let by_members =
        service.kind == "LoadBalancer" && class.is_none_or(|class| class == names::LOAD_BALANCER_CLASS);
    let balanced =
        |address: &IpAddr| service.load_balancer_ips.iter().any(|text| text.parse() == Ok(*address));
    let has_external =
        intent.addresses.values().flat_map(|of| &of.external).any(|address| !balanced(address));
    (has_node_port && !by_members) || has_external
}

/// Ready endpoints that are not their node itself.
fn pods<'a>(slices: &'a [Slice<'a>], cluster: &'a Cluster) -> impl Iterator<Item = (&'a str, IpAddr)> {
    let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
    let ready = endpoints.filter(|endpoint| endpoint.ready.unwrap_or(true));
    ready.filter_map(|endpoint| {
        let (name, address) = (endpoint.node?, endpoint.address?);
        let is_node = cluster.nodes.get(name).is_some_and(|own| own.contains(&address));
        (!is_node).then_some((name, address))
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::{desired::desired, external::ExternalRanges, inputs::Endpoint, inputs::ServicePort},
        *,
    };

    fn cluster() -> Cluster {
        let node = |number: u8| (format!("n{number}"), vec![format!("192.0.2.{number}").parse().unwrap()]);
        let external_ranges = ExternalRanges::read(&["203.0.113.0/24".into()]).unwrap();
        Cluster { nodes: [1, 2].map(node).into(), external_ranges, ..Cluster::default() }
    }

    fn slice(endpoints: &[(&'static str, &str, bool)]) -> Slice<'static> {
        let one = |(node, address, ready): &(&'static str, &str, bool)| Endpoint {
            address: address.parse().ok(),
            node: Some(*node),
            ready: Some(*ready),
            ..Endpoint::default()
        };
        Slice { address_type: "IPv4", ports: vec![], endpoints: endpoints.iter().map(one).collect() }
    }

    #[test]
    fn one_node_tells_what_services_lose() {
        let node_port = ServicePort { port: 80, node_port: 30080, ..ServicePort::default() };
        let plain = Service {
            kind: "NodePort",
            cluster_ips: vec!["10.96.0.7"],
            ports: vec![node_port],
            external_traffic_policy: "Local",
            ..Service::default()
        };
        let without = ServicePort { node_port: 0, ..node_port };
        let balanced = |class| Service { kind: "LoadBalancer", load_balancer_class: class, ..plain.clone() };
        let external = Service {
            kind: "ClusterIP",
            ports: vec![without],
            external_ips: vec!["203.0.113.7"],
            ..plain.clone()
        };
        for (service, expect) in [
            (plain.clone(), true),
            (Service { external_traffic_policy: "Cluster", ..plain.clone() }, false),
            (balanced(None), false),
            (balanced(Some(names::LOAD_BALANCER_CLASS)), false),
            (balanced(Some("example.org/other")), true),
            (external.clone(), true),
            (Service { external_ips: vec!["198.51.100.7"], ..external.clone() }, false),
            (
                Service {
                    kind: "LoadBalancer",
                    external_ips: vec![],
                    load_balancer_ips: vec!["203.0.113.7"],
                    ..external
                },
                false,
            ),
        ] {
            let slices = [slice(&[("n1", "10.1.0.4", true)])];
            let told = |name| {
                let node = NodeFacts { name, zone: None };
                desired(Some(&service), &slices, node, &cluster()).tells_client_address
            };
            assert_eq!((told("n1"), told("n2")), (expect, false), "{service:?}");
        }
        for (endpoints, expect) in [
            // In the node's own network; not ready; on an earlier node.
            ([("n1", "192.0.2.1", true), ("n2", "10.1.0.5", true)], "n2"),
            ([("n1", "10.1.0.4", false), ("n2", "10.1.0.5", true)], "n2"),
            ([("n2", "10.1.0.5", true), ("n1", "10.1.0.4", true)], "n1"),
            ([("n1", "192.0.2.1", true), ("n2", "192.0.2.2", true)], ""),
        ] {
            let slices = [slice(&endpoints)];
            let told = ["n1", "n2"].into_iter().filter(|name| {
                let node = NodeFacts { name, zone: None };
                desired(Some(&plain), &slices, node, &cluster()).tells_client_address
            });
            assert_eq!(told.collect::<String>(), expect, "{endpoints:?}");
        }
        for (open, expect) in [(&["10.1.0.4"][..], true), (&["10.1.0.4", "10.1.0.5"], false)] {
            let slices =
                [slice(&[("n1", "10.1.0.4", true), ("n1", "10.1.0.5", true), ("n2", "10.1.0.6", true)])];
            let open = open.iter().map(|text| text.parse().unwrap()).collect();
            let node = NodeFacts { name: "n1", zone: None };
            let found = desired(Some(&plain), &slices, node, &Cluster { open, ..cluster() });
            assert_eq!(found.tells_client_address, expect);
        }
    }
}
