//! What becomes of a connected UDP socket that was brought to an endpoint: such a socket would go on sending to an
//! address where nobody is, as nothing answers that could tell it.
//!
//! 1. It stays as long as its frontend leads to its endpoint.
//! 2. It stays, too, while its endpoint still serves: one that terminates and is given to nobody any more, or one that
//!    hints now keep from this node. It is *lingering*: the end of that endpoint changes no table.
//! 3. Brought to another node's port, it stays also while an endpoint of that node serves, to which that node leads it.
//! 4. Else it is closed, also when the Service has gone: its endpoints have gone with it.
//!
//! Sources: kube-proxy 1.36, `pkg/proxy/conntrack/cleanup.go` (entries of UDP that lead to endpoints which serve are kept).

use std::net::SocketAddr;

use super::{
    desired::{At, Family, Frontend, Protocol, Target},
    diff::Change,
    inputs::{Cluster, Endpoint, Owner, Slice},
    nodes::NodeKind,
    tables::{Entry, Member, Step, Tables},
};

/// A connected UDP socket that was brought to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// What its process connected it to: an address of a Service, or of a node.
    pub asked: SocketAddr,
    /// Number under which it was brought to its endpoint, as in [`super::Value`].
    pub id: u32,
    /// Its endpoint.
    pub target: Target,
}

/// What becomes of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Stays,
    /// It stays until its endpoint does not serve any more.
    Lingers,
    /// It is to be closed.
    Ends,
}

impl Tables {
    /// The Service by which a socket was brought to its endpoint.
    #[must_use]
    pub fn owner(&self, socket: &Socket) -> Option<&Owner> {
        self.entries_at(socket.asked).find_map(|entry| entry.owner.as_deref())
    }

    /// What is at an address for clients of UDP: as it is, and as a port of nodes.
    fn entries_at(&self, asked: SocketAddr) -> impl Iterator<Item = &Entry> {
        let family = Family::of(asked.ip());
        let of_nodes = match self.nodes().get(&asked.ip()) {
            Some(NodeKind::Own) => vec![At::OwnNodeHost(family), At::OwnNode(family), At::Nodes(family)],
            Some(NodeKind::Other) => vec![At::OtherNode(asked.ip()), At::Nodes(family)],
            Some(NodeKind::Loopback) => vec![At::Loopback(family)],
            None => vec![],
        };
        let at = std::iter::once(At::Address(asked.ip())).chain(of_nodes);
        let frontend = move |at| Frontend { at, port: asked.port(), protocol: Protocol::Udp };
        at.filter_map(move |at| self.entry(&frontend(at)))
    }

    fn leads_to(&self, socket: &Socket) -> bool {
        let by_address =
            self.entries_at(socket.asked).filter_map(|entry| self.generation(entry.value.name()));
        // An address of a node that has gone is at nobody's any more, its endpoint may be all right.
        let by_number = self.generations_of(socket.id).map(|(_, generation)| generation);
        by_address.chain(by_number).any(|generation| generation.endpoints.contains(&socket.target))
    }
}

/// Tells what becomes of a socket. `slices` are those of the Service by which it came to its endpoint ([`Tables::owner`]).
#[must_use]
pub fn fate(tables: &Tables, socket: &Socket, slices: &[Slice<'_>], cluster: &Cluster) -> Fate {
    if tables.leads_to(socket) {
        Fate::Stays
    } else if serves(slices, &socket.target) || serves_by_node(slices, socket, cluster) {
        Fate::Lingers
    } else {
        Fate::Ends
    }
}

fn serves(slices: &[Slice<'_>], target: &Target) -> bool {
    any_serves(slices, |port, endpoint| port == Some(target.port) && endpoint.address == Some(target.address))
}

/// Whether the target is a node's port, as the one that was asked for, and something serves there.
fn serves_by_node(slices: &[Slice<'_>], socket: &Socket, cluster: &Cluster) -> bool {
    let is_there = |endpoint: &Endpoint<'_>| {
        let addresses = endpoint.node.and_then(|name| cluster.nodes.get(name));
        addresses.is_some_and(|all| all.contains(&socket.target.address))
    };
    socket.asked.port() == socket.target.port && any_serves(slices, |_, endpoint| is_there(endpoint))
}

fn any_serves(slices: &[Slice<'_>], is_it: impl Fn(Option<u16>, &Endpoint<'_>) -> bool) -> bool {
    slices.iter().any(|slice| {
        let of_udp = slice.ports.iter().filter(|port| Protocol::of(port.protocol) == Some(Protocol::Udp));
        let mut ports = of_udp.map(|port| port.port);
        ports.any(|port| {
            slice.endpoints.iter().filter(|one| is_it(port, one)).any(|one| {
                let ready = one.ready.unwrap_or(true);
                ready || one.serving.unwrap_or(ready)
            })
        })
    })
}

impl Change {
    /// Whether sockets that send datagrams may lose their endpoint by this.
    #[must_use]
    pub fn ends_endpoints(&self) -> bool {
        let stays = |ending: &Member| {
            let is_it = |member: &Member| (member.id, member.endpoint) == (ending.id, ending.endpoint);
            self.steps.iter().any(|step| matches!(step, Step::PutMember(member, _) if is_it(member)))
        };
        self.frontends().any(|frontend| frontend.protocol == Protocol::Udp)
            && self.steps.iter().any(|step| matches!(step, Step::DeleteMember(member) if !stays(member)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{
        super::{
            desired::{Desired, Wanted},
            diff::diff,
            inputs::{Endpoint, OwnerKind, SlicePort},
            tables::tests::{frontend, target},
        },
        *,
    };

    fn dns() -> Arc<Owner> {
        Arc::new(Owner { kind: OwnerKind::Service, namespace: "d".into(), name: "dns".into() })
    }

    /// Has the tables lead from frontends to these, and tells of each change whether it ended endpoints.
    fn lead(tables: &mut Tables, from: &[Frontend], to: Option<&[u8]>) -> Vec<bool> {
        let wanted = |to: &[u8]| Wanted {
            frontends: from.iter().copied().collect(),
            affinity_seconds: 0,
            targets: to.iter().map(|last| target(*last)).collect(),
        };
        let desired = Desired { sets: to.map(wanted).into_iter().collect(), ..Desired::default() };
        let plan = diff(tables, &dns(), &desired);
        let ends = plan.changes.iter().map(Change::ends_endpoints).collect();
        plan.changes.into_iter().for_each(|change| tables.note(change));
        ends
    }

    fn slice<'a>(protocol: &'a str, endpoint: Endpoint<'a>) -> Slice<'a> {
        Slice {
            address_type: "IPv4",
            ports: vec![SlicePort { name: "", protocol, port: Some(8080) }],
            endpoints: vec![endpoint],
        }
    }

    /// A socket whose process asked for this address at port 80.
    fn socket(asked: &str, id: u32, last: u8) -> Socket {
        Socket { asked: SocketAddr::new(asked.parse().unwrap(), 80), id, target: target(last) }
    }

    /// What becomes of a socket where nothing is known of nodes.
    fn alone(tables: &Tables, socket: &Socket, slices: &[Slice<'_>]) -> Fate {
        fate(tables, socket, slices, &Cluster::default())
    }

    #[test]
    fn a_socket_stays_with_its_endpoint_and_ends_with_it() {
        let at = [frontend(10, Protocol::Udp)];
        let mut tables = Tables::default();
        lead(&mut tables, &at, Some(&[4, 5]));
        let [four, five] = [4, 5].map(|last| socket("10.96.0.10", 1, last));
        assert_eq!(tables.owner(&four), Some(&*dns()));
        let endpoint = |ready, serving| Endpoint {
            address: Some(target(4).address),
            ready,
            serving,
            ..Endpoint::default()
        };
        assert_eq!(alone(&tables, &four, &[]), Fate::Stays, "what clients are given counts");
        lead(&mut tables, &at, Some(&[5]));
        for (protocol, ready, serving, expect) in [
            ("UDP", None, None, Fate::Lingers),
            ("UDP", Some(true), Some(true), Fate::Lingers),
            ("UDP", Some(false), Some(true), Fate::Lingers),
            ("UDP", Some(false), Some(false), Fate::Ends),
            ("UDP", Some(false), None, Fate::Ends),
            ("TCP", Some(true), Some(true), Fate::Ends),
        ] {
            let slices = [slice(protocol, endpoint(ready, serving))];
            assert_eq!(alone(&tables, &four, &slices), expect, "{protocol} {ready:?} {serving:?}");
        }
        assert_eq!(alone(&tables, &five, &[]), Fate::Stays);
        lead(&mut tables, &at, None);
        assert_eq!((tables.owner(&five), alone(&tables, &five, &[])), (None, Fate::Ends));
    }

    #[test]
    fn at_addresses_of_nodes_ports_of_nodes_count() {
        let port = |at| Frontend { at, port: 80, protocol: Protocol::Udp };
        let at = [port(At::Nodes(Family::V4)), port(At::OwnNode(Family::V4))];
        let mut tables = Tables::default();
        let node = |address: &str, kind| (address.parse().unwrap(), kind);
        tables.note_nodes([node("10.9.0.1", NodeKind::Own), node("10.9.0.2", NodeKind::Other)].into());
        lead(&mut tables, &at, Some(&[4]));
        for asked in ["10.9.0.1", "10.9.0.2"] {
            let (stays, ends) = (socket(asked, 77, 4), socket(asked, 77, 5));
            assert_eq!(tables.owner(&stays), Some(&*dns()), "{asked}");
            assert_eq!((alone(&tables, &stays, &[]), alone(&tables, &ends, &[])), (Fate::Stays, Fate::Ends));
        }
        // A port of that node alone.
        let there = [port(At::OtherNode("10.9.0.2".parse().unwrap()))];
        let mut of_there = Tables::default();
        of_there.note_nodes([node("10.9.0.2", NodeKind::Other)].into());
        lead(&mut of_there, &there, Some(&[4]));
        let asked = |last| socket("10.9.0.2", 77, last);
        assert_eq!(of_there.owner(&asked(4)), Some(&*dns()));
        assert_eq!([4, 5].map(|last| alone(&of_there, &asked(last), &[])), [Fate::Stays, Fate::Ends]);
        // The node has gone, the endpoint has not.
        tables.note_nodes([node("10.9.0.1", NodeKind::Own)].into());
        assert_eq!(alone(&tables, &socket("10.9.0.2", 1, 4), &[]), Fate::Stays);
        assert_eq!(alone(&tables, &socket("10.9.0.2", 1, 5), &[]), Fate::Ends);
    }

    #[test]
    fn a_socket_that_was_brought_to_another_nodes_port_stays_while_something_serves_there() {
        let mut tables = Tables::default();
        let own: std::net::IpAddr = "10.9.0.1".parse().unwrap();
        tables.note_nodes([(own, NodeKind::Own)].into());
        let at = |at| Frontend { at, port: 80, protocol: Protocol::Udp };
        let other = Target { address: "10.9.0.2".parse().unwrap(), port: 80 };
        let mut lead_to = |targets: &[Target]| {
            let wanted = |at, targets: &[Target]| Wanted {
                frontends: [at].into(),
                affinity_seconds: 0,
                targets: targets.iter().copied().collect(),
            };
            let sets = vec![
                wanted(at(At::OwnNodeHost(Family::V4)), targets),
                wanted(at(At::OwnNode(Family::V4)), &[target(5)]),
            ];
            let plan = diff(&tables, &dns(), &Desired { sets, ..Desired::default() });
            plan.changes.into_iter().for_each(|change| tables.note(change));
            tables.clone()
        };
        let socket = Socket { asked: SocketAddr::new(own, 80), id: 77, target: other };
        let cluster = Cluster { nodes: [("n2".into(), vec![other.address])].into(), ..Cluster::default() };
        let on = |node, serving| {
            let address = Some(target(5).address);
            let endpoint =
                Endpoint { address, node: Some(node), ready: Some(false), serving, ..Endpoint::default() };
            [slice("UDP", endpoint)]
        };
        let led = lead_to(&[other]);
        assert_eq!(led.owner(&socket), Some(&*dns()));
        assert_eq!(fate(&led, &socket, &[], &cluster), Fate::Stays);
        let led = lead_to(&[target(6)]);
        for (slices, expect) in [
            (on("n2", Some(true)), Fate::Lingers),
            (on("n2", Some(false)), Fate::Ends),
            (on("n3", Some(true)), Fate::Ends),
        ] {
            assert_eq!(fate(&led, &socket, &slices, &cluster), expect);
        }
        let elsewhere = Socket { asked: SocketAddr::new(own, 81), ..socket };
        assert_eq!(
            fate(&led, &elsewhere, &on("n2", Some(true)), &cluster),
            Fate::Ends,
            "an endpoint's own port"
        );
    }

    #[test]
    fn only_endpoints_that_go_end_sockets() {
        for (protocol, ends) in [(Protocol::Udp, true), (Protocol::Tcp, false)] {
            let (mut tables, at) = (Tables::default(), [frontend(10, protocol)]);
            for (to, expect) in [
                (Some(&[4][..]), vec![false]),
                (Some(&[4, 5]), vec![false]),
                (Some(&[4, 5]), vec![]),
                (Some(&[5, 6]), vec![ends]),
                (Some(&[]), vec![ends]),
                (Some(&[6]), vec![false]),
                (None, vec![ends]),
            ] {
                assert_eq!(lead(&mut tables, &at, to), expect, "{protocol} {to:?}");
            }
        }
    }
}
