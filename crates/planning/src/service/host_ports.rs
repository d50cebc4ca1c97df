//! Ports of a pod on its node (`hostPort`): what the tables should hold of them.
//!
//! A port is reached at the address of `hostIP`, which is one of this node or the loopback address; without one, at every
//! address of the node and at the loopback address. Loopback means the node's for whoever is in its network, such as
//! pods with `hostNetwork`; in another pod it is that pod itself.
//!
//! The pod is known by the watch of this node's pods, and its addresses by its status: what the runtime would tell (the
//! capability `portMappings` of CNI) is the same, is not there for pods of before a restart, and would make ADD wait for
//! tables. So a port is there when the kubelet has reported the pod's addresses.
//!
//! Sources: Kubernetes API reference, ContainerPort; CNI plugin `portmap`; Kubernetes e2e, "HostPort validates that there
//! is no conflict between pods with same hostPort but different hostIP and protocol".

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{
    desired::{At, Desired, Family, Frontend, Problem, Protocol, Target, Wanted},
    inbound::{Inbound, Lead},
    inputs::{HostPort, Pod},
};

/// Tells what the tables should hold of a pod's ports; of one that is not there or has ended, nothing. `own` are the
/// addresses of the node.
#[must_use]
pub fn host_ports(pod: Option<&Pod<'_>>, own: &[IpAddr]) -> Desired {
    let mut desired = Desired::default();
    let Some(pod) = pod else { return desired };
    let mut taken = BTreeSet::new();
    for port in &pod.ports {
        let Some(protocol) = Protocol::of(port.protocol) else {
            let protocol = port.protocol.to_owned();
            desired.problems.push(Problem::Protocol { port: port.host_port, protocol });
            continue;
        };
        let Some(at) = places(port, own) else {
            let text = port.host_ip.to_owned();
            desired.problems.push(Problem::HostIp { port: port.host_port, text });
            continue;
        };
        for address in pod.addresses {
            let of_family = at.iter().filter(|(family, _)| *family == Family::of(*address));
            let frontends = of_family.map(|(_, at)| Frontend { at: *at, port: port.host_port, protocol });
            let frontends: BTreeSet<Frontend> = frontends.filter(|one| taken.insert(*one)).collect();
            if !frontends.is_empty() {
                let target = Target { address: *address, port: port.container_port };
                let inbound = Inbound { lead: Lead::Targets([target].into()), ..Inbound::default() };
                let from_outside =
                    frontends.iter().filter(|one| !matches!(one.at, At::Loopback(_) | At::OwnNodeHost(_)));
                desired.inbound.extend(from_outside.map(|one| (*one, inbound.clone())));
                desired.sets.push(Wanted { frontends, affinity_seconds: 0, targets: [target].into() });
            }
        }
    }
    desired
}

/// Where a port is reached; none if its address is not the node's.
fn places(port: &HostPort<'_>, own: &[IpAddr]) -> Option<Vec<(Family, At)>> {
    // Processes of the node find no other port there.
    let everywhere =
        |family| [At::OwnNode(family), At::OwnNodeHost(family), At::Loopback(family)].map(|at| (family, at));
    if port.host_ip.is_empty() {
        return Some([Family::V4, Family::V6].into_iter().flat_map(everywhere).collect());
    }
    let address = port.host_ip.parse::<IpAddr>().ok()?.to_canonical();
    let family = Family::of(address);
    if address.is_unspecified() {
        Some(everywhere(family).into())
    } else if [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()].contains(&address) {
        Some(vec![(family, At::Loopback(family))])
    } else {
        own.contains(&address).then(|| vec![(family, At::Address(address))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(host_ip: &str, protocol: &str) -> (Vec<String>, Vec<String>) {
        let port = HostPort { host_ip, host_port: 8000, container_port: 80, protocol };
        let addresses = ["10.1.0.4", "fd00::4"].map(|address| address.parse().unwrap());
        let pod = Pod { addresses: &addresses, ports: vec![port, port] };
        let own = ["192.0.2.1", "2001:db8::1"].map(|address| address.parse().unwrap());
        let desired = host_ports(Some(&pod), &own);
        let set = |wanted: &Wanted| {
            let frontends: Vec<String> = wanted.frontends.iter().map(ToString::to_string).collect();
            format!("{} -> {}", frontends.join(", "), wanted.targets.first().unwrap())
        };
        (desired.sets.iter().map(set).collect(), desired.problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_port_is_at_every_address_of_the_node_and_at_loopback_or_at_one() {
        let v4 = "8000/TCP at this node's IPv4, 8000/TCP at loopback IPv4, 8000/TCP at this node's IPv4 for its processes \
                  -> 10.1.0.4:80";
        let v6 = "8000/TCP at this node's IPv6, 8000/TCP at loopback IPv6, 8000/TCP at this node's IPv6 for its processes \
                  -> [fd00::4]:80";
        for (host_ip, expect) in [
            ("", vec![v4, v6]),
            ("0.0.0.0", vec![v4]),
            ("::", vec![v6]),
            ("127.0.0.1", vec!["8000/TCP at loopback IPv4 -> 10.1.0.4:80"]),
            ("::1", vec!["8000/TCP at loopback IPv6 -> [fd00::4]:80"]),
            ("192.0.2.1", vec!["192.0.2.1:8000/TCP -> 10.1.0.4:80"]),
            ("2001:db8::1", vec!["[2001:db8::1]:8000/TCP -> [fd00::4]:80"]),
        ] {
            let expect = expect.into_iter().map(str::to_owned).collect();
            assert_eq!(told(host_ip, "TCP"), (expect, vec![]), "{host_ip}");
        }
    }

    #[test]
    fn clients_from_outside_reach_it_but_at_loopback() {
        let addresses = ["10.1.0.4".parse().unwrap()];
        for (host_ip, expect) in [
            ("", vec!["8000/UDP at this node's IPv4"]),
            ("127.0.0.1", vec![]),
            ("192.0.2.1", vec!["192.0.2.1:8000/UDP"]),
        ] {
            let port = HostPort { host_ip, host_port: 8000, container_port: 80, protocol: "UDP" };
            let pod = Pod { addresses: &addresses, ports: vec![port] };
            let found = host_ports(Some(&pod), &["192.0.2.1".parse().unwrap()]).inbound;
            let told: Vec<String> = found.keys().map(ToString::to_string).collect();
            assert_eq!(told, expect, "{host_ip}");
        }
    }

    #[test]
    fn what_cannot_be_served_is_told_and_nobody_has_no_ports() {
        for (host_ip, protocol, expect) in [
            ("192.0.2.2", "UDP", "hostIP 192.0.2.2 is no address of the node"),
            ("x", "UDP", "hostIP x is no address"),
            ("", "SCTP", "port 8000: nodes lead clients to endpoints by TCP and UDP, not by SCTP"),
        ] {
            let (sets, problems) = told(host_ip, protocol);
            assert!(sets.is_empty() && problems[0].contains(expect), "{problems:?}");
        }
        assert_eq!(host_ports(None, &[]), Desired::default());
    }
}
