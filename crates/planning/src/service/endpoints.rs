//! Which endpoints of a port of a Service a client on this node may be given.
//!
//! 1. Candidates are the endpoints of slices of the client's family that have the port, by name and protocol. Slices
//!    may overlap while their controller moves endpoints.
//! 2. Where the traffic policy is `Local`, only candidates on the node.
//! 3. Of those the ready ones. `publishNotReadyAddresses` needs no rule here: the slices then call all ready.
//! 4. Without that policy hints count: if every ready candidate is meant for nodes and one for this node, those for this
//!    node; else if every one is meant for zones and one for this zone, those for this zone; else all. Hints that are
//!    not complete are being written.
//! 5. If none is left, those that terminate and still serve, whatever their hints: better than nobody.
//!
//! Sources: kube-proxy 1.36, `pkg/proxy/topology.go` (`CategorizeEndpoints`, `topologyModeFromHints`); Kubernetes
//! documentation, "Virtual IPs and Service Proxies" ("Traffic to terminating endpoints"); API reference,
//! EndpointSlice.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    desired::{Family, Protocol, Target},
    inputs::{Endpoint, NodeFacts, Slice},
};

/// A port of a Service in one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Port<'a> {
    pub(super) family: Family,
    pub(super) protocol: Protocol,
    /// Name; empty where the Service has one port only.
    pub(super) name: &'a str,
}

/// Tells the targets.
pub(super) fn targets(
    port: Port<'_>,
    slices: &[Slice<'_>],
    node: NodeFacts<'_>,
    local_only: bool,
) -> BTreeSet<Target> {
    let mut candidates: Vec<Candidate<'_>> = candidates(port, slices).collect();
    if local_only {
        candidates.retain(|one| one.endpoint.node == Some(node.name));
        return usable(&candidates, |_| {});
    }
    usable(&candidates, |ready| follow_hints(ready, node))
}

/// Tells the targets that clients get who only get those of one node, by node.
pub(super) fn targets_by_node<'a>(
    port: Port<'a>,
    slices: &'a [Slice<'a>],
) -> BTreeMap<&'a str, BTreeSet<Target>> {
    let mut by_node: BTreeMap<&str, Vec<Candidate<'_>>> = BTreeMap::new();
    for candidate in candidates(port, slices) {
        if let Some(node) = candidate.endpoint.node {
            by_node.entry(node).or_default().push(candidate);
        }
    }
    by_node.into_iter().map(|(node, candidates)| (node, usable(&candidates, |_| {}))).collect()
}

/// Tells the targets that serve, whether or not clients are given them.
pub(super) fn serving(port: Port<'_>, slices: &[Slice<'_>]) -> BTreeSet<Target> {
    let serves = |one: &Candidate<'_>| is_ready(one.endpoint) || is_last_resort(one.endpoint);
    candidates(port, slices).filter(serves).map(|one| one.target).collect()
}

/// Tells how many pods on the node are ready, of the family that has most of them.
pub(super) fn ready_here(slices: &[Slice<'_>], node: &str) -> usize {
    let here = |family: Family| {
        let of_family = slices.iter().filter(move |slice| slice.address_type == family.name());
        let endpoints = of_family.flat_map(|slice| &slice.endpoints);
        let ready = endpoints.filter(|endpoint| endpoint.node == Some(node) && is_ready(endpoint));
        ready.filter_map(|endpoint| endpoint.address).collect::<BTreeSet<_>>().len()
    };
    here(Family::V4).max(here(Family::V6))
}

/// The ready ones that are preferred, else the last resort.
fn usable(candidates: &[Candidate<'_>], prefer: impl FnOnce(&mut Vec<&Candidate<'_>>)) -> BTreeSet<Target> {
    let mut ready: Vec<&Candidate<'_>> = candidates.iter().filter(|one| is_ready(one.endpoint)).collect();
    prefer(&mut ready);
    if ready.is_empty() {
        ready = candidates.iter().filter(|one| is_last_resort(one.endpoint)).collect();
    }
    ready.into_iter().map(|one| one.target).collect()
}

struct Candidate<'a> {
    target: Target,
    endpoint: &'a Endpoint<'a>,
}

fn candidates<'a>(wanted: Port<'a>, slices: &'a [Slice<'a>]) -> impl Iterator<Item = Candidate<'a>> {
    let of_family = slices.iter().filter(move |slice| slice.address_type == wanted.family.name());
    of_family.flat_map(move |slice| {
        let ports = slice.ports.iter().filter(move |port| {
            port.name == wanted.name && Protocol::of(port.protocol) == Some(wanted.protocol)
        });
        ports.filter_map(|port| port.port).flat_map(move |port| {
            slice.endpoints.iter().filter_map(move |endpoint| {
                let address = endpoint.address.filter(|one| Family::of(*one) == wanted.family)?;
                Some(Candidate { target: Target { address, port }, endpoint })
            })
        })
    })
}

fn is_ready(endpoint: &Endpoint<'_>) -> bool {
    endpoint.ready.unwrap_or(true)
}

fn is_last_resort(endpoint: &Endpoint<'_>) -> bool {
    endpoint.terminating.unwrap_or(false) && endpoint.serving.unwrap_or_else(|| is_ready(endpoint))
}

fn follow_hints(ready: &mut Vec<&Candidate<'_>>, node: NodeFacts<'_>) {
    let for_node = |one: &&Candidate<'_>| one.endpoint.for_nodes.contains(&node.name);
    let for_zone =
        |one: &&Candidate<'_>| node.zone.is_some_and(|zone| one.endpoint.for_zones.contains(&zone));
    if ready.iter().all(|one| !one.endpoint.for_nodes.is_empty()) && ready.iter().any(for_node) {
        ready.retain(for_node);
    } else if ready.iter().all(|one| !one.endpoint.for_zones.is_empty()) && ready.iter().any(for_zone) {
        ready.retain(for_zone);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::inputs::SlicePort, *};

    const NODE: NodeFacts<'static> = NodeFacts { name: "n1", zone: Some("a") };

    fn at(family: Family, protocol: Protocol) -> Port<'static> {
        Port { family, protocol, name: "" }
    }

    fn slice<'a>(
        address_type: &'a str,
        ports: &[(&'a str, &'a str, u16)],
        endpoints: Vec<Endpoint<'a>>,
    ) -> Slice<'a> {
        let port = |(name, protocol, port): &(&'a str, &'a str, u16)| SlicePort {
            name,
            protocol,
            port: Some(*port).filter(|port| *port != 0),
        };
        Slice { address_type, ports: ports.iter().map(port).collect(), endpoints }
    }

    fn endpoint(address: &str) -> Endpoint<'static> {
        Endpoint { address: address.parse().ok(), ..Endpoint::default() }
    }

    fn told(slices: &[Slice<'_>], at: Port<'_>, name: &str, local_only: bool) -> Vec<String> {
        let targets = targets(Port { name, ..at }, slices, NODE, local_only);
        targets.iter().map(ToString::to_string).collect()
    }

    /// Checks the endpoints of one slice by their last byte: which of them clients get.
    fn check(what: &str, endpoints: Vec<Endpoint<'_>>, local_only: bool, expect: &[&str]) {
        let slices = [slice("IPv4", &[("", "TCP", 80)], endpoints)];
        let got = told(&slices, at(Family::V4, Protocol::Tcp), "", local_only);
        let expect: Vec<String> = expect.iter().map(|last| format!("10.1.0.{last}:80")).collect();
        assert_eq!(got, expect, "{what}");
    }

    fn pod(last: u8) -> Endpoint<'static> {
        endpoint(&format!("10.1.0.{last}"))
    }

    fn conditions(
        last: u8,
        ready: Option<bool>,
        serving: Option<bool>,
        terminating: Option<bool>,
    ) -> Endpoint<'static> {
        Endpoint { ready, serving, terminating, ..pod(last) }
    }

    #[test]
    fn target_ports_are_those_of_the_slices_by_name_and_protocol() {
        let ports = [("http", "TCP", 8080), ("dns", "UDP", 5353), ("any", "TCP", 0)];
        let slices = [
            slice("IPv4", &ports, vec![endpoint("10.1.0.4")]),
            // Pods whose container gives the named port another number are in a slice of their own.
            slice("IPv4", &[("http", "", 9090)], vec![endpoint("10.1.0.5")]),
        ];
        for (name, protocol, expect) in [
            ("http", Protocol::Tcp, vec!["10.1.0.4:8080", "10.1.0.5:9090"]),
            ("http", Protocol::Udp, vec![]),
            ("dns", Protocol::Udp, vec!["10.1.0.4:5353"]),
            ("any", Protocol::Tcp, vec![]),
            ("", Protocol::Tcp, vec![]),
        ] {
            assert_eq!(told(&slices, at(Family::V4, protocol), name, false), expect, "{name} {protocol}");
        }
    }

    #[test]
    fn a_family_is_served_by_its_own_slices() {
        let ports = [("", "TCP", 80)];
        let slices = [
            slice("IPv4", &ports, vec![endpoint("10.1.0.4"), endpoint("fd00::9")]),
            slice("IPv6", &ports, vec![endpoint("fd00::4")]),
            slice("FQDN", &ports, vec![endpoint("10.1.0.9"), endpoint("db.example.org")]),
        ];
        assert_eq!(told(&slices, at(Family::V4, Protocol::Tcp), "", false), ["10.1.0.4:80"]);
        assert_eq!(told(&slices, at(Family::V6, Protocol::Tcp), "", false), ["[fd00::4]:80"]);
    }

    #[test]
    fn an_endpoint_in_two_slices_is_one() {
        let one = || slice("IPv4", &[("", "TCP", 80)], vec![pod(4)]);
        assert_eq!(told(&[one(), one()], at(Family::V4, Protocol::Tcp), "", false), ["10.1.0.4:80"]);
    }

    #[test]
    fn only_ready_endpoints_and_ready_is_what_is_not_said_otherwise() {
        let not = Some(false);
        check(
            "ready",
            vec![pod(1), conditions(2, Some(true), None, None), conditions(3, not, None, None)],
            false,
            &["1", "2"],
        );
        check("none ready", vec![conditions(3, not, None, None)], false, &[]);
        check("publishNotReadyAddresses", vec![conditions(3, Some(true), not, Some(true))], false, &["3"]);
    }

    #[test]
    fn terminating_endpoints_that_serve_are_used_only_when_no_other_is_left() {
        let terminating = |last, serving| conditions(last, Some(false), Some(serving), Some(true));
        check("one ready", vec![pod(1), terminating(2, true)], false, &["1"]);
        check("only terminating", vec![terminating(2, true), terminating(3, false)], false, &["2"]);
        check("not terminating", vec![conditions(2, Some(false), Some(true), Some(false))], false, &[]);
        let elsewhere = Endpoint { node: Some("n2"), ..pod(1) };
        let here = Endpoint { node: Some("n1"), ..terminating(2, true) };
        check("of this node", vec![elsewhere.clone(), here.clone()], true, &["2"]);
        check("of all nodes", vec![elsewhere, here], false, &["1"]);
    }

    #[test]
    fn internal_traffic_policy_local_is_the_nodes_own_endpoints_or_none() {
        let on = |last, node| Endpoint { node: Some(node), for_zones: vec!["b"], ..pod(last) };
        check("some", vec![on(1, "n1"), on(2, "n2"), pod(3)], true, &["1"]);
        check("none", vec![on(2, "n2"), pod(3)], true, &[]);
    }

    #[test]
    fn hints_count_when_all_ready_endpoints_have_them_and_one_is_for_here() {
        let zone = |last, zones: &[&'static str]| Endpoint { for_zones: zones.to_vec(), ..pod(last) };
        check("zone", vec![zone(1, &["a"]), zone(2, &["b"]), zone(3, &["b", "a"])], false, &["1", "3"]);
        check("one without", vec![zone(1, &["a"]), zone(2, &[])], false, &["1", "2"]);
        check("none for here", vec![zone(1, &["b"]), zone(2, &["c"])], false, &["1", "2"]);
        let not_ready = Endpoint { ready: Some(false), ..pod(3) };
        check("one without, not ready", vec![zone(1, &["a"]), zone(2, &["b"]), not_ready], false, &["1"]);

        let node = |last, node, zone| Endpoint { for_nodes: vec![node], for_zones: vec![zone], ..pod(last) };
        check("node before zone", vec![node(1, "n1", "a"), node(2, "n2", "a")], false, &["1"]);
        check("zone without node", vec![node(1, "n2", "a"), node(2, "n3", "b")], false, &["1"]);
    }

    #[test]
    fn a_nodes_ready_pods_are_counted_once() {
        let on = |last: u8, node, ready| Endpoint { node: Some(node), ready: Some(ready), ..pod(last) };
        let terminating = Endpoint { serving: Some(true), terminating: Some(true), ..on(5, "n1", false) };
        let here =
            vec![on(1, "n1", true), on(2, "n1", true), on(3, "n1", false), on(4, "n2", true), terminating];
        let six = Endpoint { node: Some("n1"), ..endpoint("fd00::1") };
        let ports = [("", "TCP", 80)];
        let slices = [
            slice("IPv4", &ports, here.clone()),
            slice("IPv4", &[("other", "TCP", 81)], here),
            slice("IPv6", &ports, vec![six]),
        ];
        assert_eq!(
            (ready_here(&slices, "n1"), ready_here(&slices, "n2"), ready_here(&slices, "n3")),
            (2, 1, 0)
        );
    }

    #[test]
    fn a_node_without_a_zone_has_no_zone_hints() {
        let hinted = Endpoint { for_zones: vec!["a"], ..pod(1) };
        let other = Endpoint { for_zones: vec!["b"], ..pod(2) };
        let slices = [slice("IPv4", &[("", "TCP", 80)], vec![hinted, other])];
        let node = NodeFacts { name: "n1", zone: None };
        assert_eq!(targets(at(Family::V4, Protocol::Tcp), &slices, node, false).len(), 2);
    }
}
