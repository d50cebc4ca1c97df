//! Small things that tests of this room are about.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::LazyLock,
};

use kuryr_api::{
    kuryrnode::{CheckpointRef, ClaimEntry, KuryrNodeStatus, OwnPort, PortAddress, PortEntry},
    names::{NODE_DEVICE_OWNER, POD_DEVICE_OWNER},
};
use kuryr_types::{Generation, MacAddr, PortId};

use super::{
    class,
    inputs::{Cloud, DefaultClass, Held, Inputs, Limits, NodeFacts, PodFacts, Presence, Record},
    targets::{Levels, Rule},
};
use crate::demand::Coming;
use crate::ownership::{ListedPort, OurPort, Owner, PortCondition};

pub(super) const SUBNET: &str = "subnet";
pub(super) const GROUP: &str = "group";
pub(super) const NETWORK: &str = "network";

pub(super) fn entry(generation: Generation) -> PortEntry {
    PortEntry {
        generation,
        class: "c-1".into(),
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        network: NETWORK.into(),
        addresses: vec![PortAddress { subnet: SUBNET.into(), address: [10, 0, 0, 1].into() }],
        vlan: None,
        for_pod: None,
        withdrawn: false,
        doomed: false,
        active: false,
        hybrid: false,
        open: false,
        guarded: false,
        lost: false,
    }
}

pub(super) fn own_port(id: &str) -> OwnPort {
    OwnPort {
        id: id.into(),
        mac: MacAddr([2, 0, 0, 0, 0, 2]),
        network: NETWORK.into(),
        addresses: vec![PortAddress { subnet: SUBNET.into(), address: [10, 0, 0, 2].into() }],
        hybrid: false,
    }
}

/// A look at node `w1`, which is there with UID `u`, at time 0, without pods. Tests replace what they are about.
pub(super) fn look<'a>(record: Record<'a>, cloud: &'a Cloud) -> Inputs<'a> {
    static PRESENCE: LazyLock<Presence> = LazyLock::new(|| Presence::Present { uid: "u".into() });
    static FACTS: LazyLock<NodeFacts> = LazyLock::new(NodeFacts::default);
    static LIMITS: LazyLock<Limits> = LazyLock::new(limits);
    static HELD: BTreeSet<IpAddr> = BTreeSet::new();
    Inputs {
        now: 0,
        node: "w1",
        in_sync: true,
        presence: &PRESENCE,
        facts: &FACTS,
        record: Some(record),
        pods: &[],
        asked: true,
        coming: Coming::default(),
        held: Held { addresses: &HELD, told_since: Some(0) },
        cloud,
        limits: &LIMITS,
    }
}

pub(super) fn status(node_uid: &str, checkpoint: &str) -> KuryrNodeStatus {
    KuryrNodeStatus {
        node_uid: node_uid.into(),
        checkpoint: CheckpointRef { id: checkpoint.into(), sequence: 1 },
        host: Some("h".into()),
        ..KuryrNodeStatus::default()
    }
}

pub(super) fn claim(identity: &str, generation: Generation) -> ClaimEntry {
    ClaimEntry { generation, namespace: "ns".into(), name: identity.into(), identity: identity.into() }
}

pub(super) fn pod(identity: &str) -> PodFacts {
    let identity = identity.into();
    PodFacts { identity, host_network: false, ended: false, terminating: false, addresses: vec![] }
}

pub(super) fn owner() -> Owner {
    Owner::new("k8s".into(), vec!["kuryr-cluster:c".to_owned()])
}

pub(super) fn listed(id: &str, name: &str, host: Option<&str>, address: [u8; 4], group: &str) -> ListedPort {
    let device_owner = if name.contains("kuryr-node/") { NODE_DEVICE_OWNER } else { POD_DEVICE_OWNER };
    ListedPort {
        id: PortId::from(id),
        project: "k8s".into(),
        tags: owner().tags().to_vec(),
        name: name.to_owned(),
        device_owner: device_owner.to_owned(),
        host: host.map(str::to_owned),
        host_hidden: false,
        network: NETWORK.into(),
        mac: MacAddr([2, 0, 0, address[1], address[2], address[3]]),
        addresses: vec![(SUBNET.into(), address.into())],
        security_groups: vec![group.into()],
        condition: PortCondition::Down,
        hybrid: false,
    }
}

pub(super) fn port(id: &str, name: &str, host: Option<&str>) -> OurPort {
    owner().admit(listed(id, name, host, [10, 0, 0, 1], GROUP)).unwrap()
}

pub(super) fn default_class(group: &str) -> DefaultClass {
    let (id, entry) = class::class([SUBNET.into()], [group.into()]);
    DefaultClass {
        id,
        entry,
        open: true,
        network: NETWORK.into(),
        networks: BTreeMap::new(),
        subnets: BTreeMap::new(),
    }
}

pub(super) fn limits() -> Limits {
    Limits {
        levels: Levels { rule: Rule::Learned { least: 3, most: 9 }, cap: 60 },
        cool_down: 30,
        shrink_delay: 15,
        node_grace: 60,
        mode: None,
        vlans: 100..=4094,
        names_pods: false,
    }
}
