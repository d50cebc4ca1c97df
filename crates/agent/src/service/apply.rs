//! Carries out steps, and reads what they have made, in the kernel's form.

use kuryr_datapath::{ServiceContents, Services};
use kuryr_ebpf_maps::service::{
    self, Backend as KernelBackend, MAX_MEMBERS, MAX_ROWS, MAX_SERVICES, MemberKey, NodeKey,
    NodeKind as KernelKind, Row, RowKey, Scope, Service as KernelValue, ServiceKey, TCP, UDP,
};
use kuryr_planning::service::{
    At, Backend, Contents, Family, Frontend, Member, NodeKind, Place, Protocol, ROW, Size, Step, Target,
    Value,
};

/// What there is room for; two entries are the kernel side's own probes.
pub(super) const MOST: Size =
    Size { frontends: MAX_SERVICES as usize - 2, rows: MAX_ROWS as usize, members: MAX_MEMBERS as usize };
const _: () = assert!(ROW == service::ROW);

/// Carries out one step.
pub(super) fn step(services: &mut Services, step: &Step) -> kuryr_datapath::Result<()> {
    match step {
        Step::PutRow(place, row) => services.put_row(row_key(place), kernel_row(row)),
        Step::PutMember(member, slot) => services.put_member(member_key(member), *slot),
        Step::PutValue(frontend, value) => services.put_service(service_key(frontend), kernel_value(value)),
        Step::DeleteValue(frontend) => services.delete_service(&service_key(frontend)),
        Step::DeleteRow(place) => services.delete_row(&row_key(place)),
        Step::DeleteMember(member) => services.delete_member(&member_key(member)),
        Step::PutNode(address, kind) => services.put_node(NodeKey::new(*address), kernel_kind(*kind)),
        Step::DeleteNode(address) => services.delete_node(&NodeKey::new(*address)),
    }
}

fn service_key(frontend: &Frontend) -> ServiceKey {
    let protocol = match frontend.protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    };
    let of_nodes = |scope, family| ServiceKey::of_nodes(scope, family == Family::V4, frontend.port, protocol);
    match frontend.at {
        At::Address(address) => ServiceKey::new(address, frontend.port, protocol),
        At::Nodes(family) => of_nodes(Scope::Nodes, family),
        At::OwnNode(family) => of_nodes(Scope::OwnNode, family),
        At::Loopback(family) => of_nodes(Scope::Loopback, family),
        At::OtherNode(address) => ServiceKey::of_other_node(address, frontend.port, protocol),
        At::OwnNodeHost(family) => of_nodes(Scope::OwnNodeHost, family),
    }
}

fn kernel_kind(kind: NodeKind) -> u32 {
    match kind {
        NodeKind::Other => KernelKind::Other as u32,
        NodeKind::Own => KernelKind::Own as u32,
        NodeKind::Loopback => KernelKind::Loopback as u32,
    }
}

fn kernel_value(value: &Value) -> KernelValue {
    KernelValue {
        id: value.id,
        generation: value.generation,
        count: value.count,
        affinity_seconds: value.affinity_seconds,
    }
}

fn row_key(place: &Place) -> RowKey {
    RowKey { service: place.id, generation: place.generation, row: place.row }
}

fn kernel_row(row: &[Backend]) -> Row {
    Row::new(row.iter().map(|one| KernelBackend::new(one.target.address, one.target.port, one.endpoint)))
}

fn backend(read: &KernelBackend) -> Backend {
    let target = Target { address: read.address(), port: read.port() };
    Backend { target, endpoint: read.endpoint }
}

fn member_key(member: &Member) -> MemberKey {
    MemberKey { service: member.id, generation: member.generation, endpoint: member.endpoint }
}

/// What the kernel holds, as planning has it.
pub(super) fn contents(read: ServiceContents) -> Contents {
    let values =
        read.services.iter().filter_map(|(key, value)| Some((frontend(key)?, kernel_to_value(value))));
    let rows = read.rows.iter().map(|(key, row)| {
        let place = Place { id: key.service, generation: key.generation, row: key.row };
        (place, row.backends().iter().map(backend).collect())
    });
    let members = read.members.iter().map(|(key, slot)| {
        (Member { id: key.service, generation: key.generation, endpoint: key.endpoint }, *slot)
    });
    let nodes = read.nodes.iter().map(|(key, kind)| {
        let known = [NodeKind::Own, NodeKind::Loopback].into_iter().find(|one| kernel_kind(*one) == *kind);
        (key.address(), known.unwrap_or(NodeKind::Other))
    });
    Contents {
        values: values.collect(),
        rows: rows.collect(),
        members: members.collect(),
        nodes: nodes.collect(),
    }
}

fn frontend(key: &ServiceKey) -> Option<Frontend> {
    let protocol = match key.protocol {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        _ => return None,
    };
    let address = key.address();
    let at = if key.scope == Scope::Nodes as u8 {
        At::Nodes(Family::of(address))
    } else if key.scope == Scope::OwnNode as u8 {
        At::OwnNode(Family::of(address))
    } else if key.scope == Scope::Loopback as u8 {
        At::Loopback(Family::of(address))
    } else if key.scope == Scope::OtherNode as u8 {
        At::OtherNode(address)
    } else if key.scope == Scope::OwnNodeHost as u8 {
        At::OwnNodeHost(Family::of(address))
    } else {
        At::Address(address)
    };
    Some(Frontend { at, port: key.port(), protocol })
}

fn kernel_to_value(value: &KernelValue) -> Value {
    Value {
        id: value.id,
        generation: value.generation,
        count: value.count,
        affinity_seconds: value.affinity_seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_reads_as_what_was_meant() {
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        let frontends = [
            Frontend { at: At::Address("10.96.0.1".parse().unwrap()), port: 443, protocol: tcp },
            Frontend { at: At::Address("fd00:96::a".parse().unwrap()), port: 53, protocol: udp },
            Frontend { at: At::Nodes(Family::V4), port: 30080, protocol: tcp },
            Frontend { at: At::Nodes(Family::V6), port: 30080, protocol: tcp },
            Frontend { at: At::OwnNode(Family::V4), port: 30080, protocol: tcp },
            Frontend { at: At::OwnNode(Family::V6), port: 30080, protocol: udp },
            Frontend { at: At::Loopback(Family::V4), port: 30080, protocol: udp },
            Frontend { at: At::Loopback(Family::V6), port: 30080, protocol: udp },
            Frontend { at: At::OtherNode("192.0.2.2".parse().unwrap()), port: 30080, protocol: tcp },
            Frontend { at: At::OtherNode("2001:db8::2".parse().unwrap()), port: 30080, protocol: udp },
            Frontend { at: At::OwnNodeHost(Family::V4), port: 30080, protocol: tcp },
            Frontend { at: At::OwnNodeHost(Family::V6), port: 30080, protocol: udp },
        ];
        let nodes = [("10.0.0.1", NodeKind::Own), ("fd00::2", NodeKind::Other), ("::1", NodeKind::Loopback)]
            .map(|(address, kind)| (address.parse::<std::net::IpAddr>().unwrap(), kind));
        let value = Value { id: 7, generation: 3, count: 1, affinity_seconds: 60 };
        let place = Place { id: 7, generation: 3, row: 0 };
        let target = Target { address: "10.1.0.4".parse().unwrap(), port: 6443 };
        let (backend, member) =
            (Backend { target, endpoint: 9 }, Member { id: 7, generation: 3, endpoint: 9 });
        let read = ServiceContents {
            services: frontends.iter().map(|one| (service_key(one), kernel_value(&value))).collect(),
            rows: [(row_key(&place), kernel_row(&[backend]))].into(),
            members: [(member_key(&member), 0)].into(),
            nodes: nodes.iter().map(|(one, kind)| (NodeKey::new(*one), kernel_kind(*kind))).collect(),
        };
        let expect = Contents {
            values: frontends.iter().map(|one| (*one, value)).collect(),
            rows: [(place, vec![backend])].into(),
            members: [(member, 0)].into(),
            nodes: nodes.into(),
        };
        assert_eq!(contents(read), expect);
    }
}
