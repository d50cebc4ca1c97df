//! One look at a node: its Node, its record, its pods, our ports, what the cloud has to say.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use kuryr_api::kuryrnode::{KuryrNode, Mode};
use kuryr_kubernetes::{
    slim,
    store::{ObjectKey, Presence as InStore},
};
use kuryr_planning::{
    demand::Coming,
    pool::{Cloud, Inputs, Millis, NodeFacts, PodFacts, Presence, Record},
};
use kuryr_types::PortId;

use super::{creations, servers, trunks};
use crate::{term::Term, wiring::World};

/// What was seen; owned, so that the world may go on.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) now: Millis,
    in_sync: bool,
    presence: Presence,
    facts: NodeFacts,
    pub(super) record: Option<Arc<KuryrNode>>,
    pods: Vec<PodFacts>,
    coming: Coming,
    held: BTreeSet<IpAddr>,
    cloud: Cloud,
}

impl Look {
    /// Whether there is neither a Node nor a record.
    pub(super) fn is_of_nobody(&self) -> bool {
        self.in_sync && self.presence == Presence::Absent && self.record.is_none()
    }

    /// The look as planning takes it.
    pub(super) fn inputs<'a>(&'a self, node: &'a str, world: &'a World) -> Inputs<'a> {
        let mode = self.record.as_deref().map_or_else(Mode::default, |record| record.spec.mode);
        Inputs {
            now: self.now,
            node,
            in_sync: self.in_sync,
            presence: &self.presence,
            facts: &self.facts,
            record: self
                .record
                .as_deref()
                .map(|record| Record { spec: &record.spec, status: record.status.as_ref() }),
            pods: &self.pods,
            coming: self.coming,
            held: &self.held,
            cloud: &self.cloud,
            limits: world.config.limits_of(mode),
        }
    }
}

/// Looks at `node`.
pub(super) fn node(node: &str, world: &World, term: &Term) -> Look {
    let key = ObjectKey::cluster(node);
    let record = term.state().newest(node, world.records.get(&key));
    let (in_sync, presence) = match world.nodes.presence(&key) {
        InStore::Present(found) => {
            (world.in_sync(), Presence::Present { uid: found.metadata.uid.clone().unwrap_or_default() })
        }
        InStore::Absent => (world.in_sync(), Presence::Absent),
        // Planning changes nothing of a node of which nothing is known.
        InStore::Unknown => (false, Presence::Absent),
    };
    let of_node = trunks::facts(world.nodes.get(&key).as_deref());
    let cloud = cloud(node, record.as_deref(), &of_node, world, term);
    let addresses = cloud.ports.iter().flatten().flat_map(|port| port.ips().collect::<Vec<_>>());
    Look {
        now: world.now(),
        in_sync,
        presence,
        facts: of_node,
        held: world.held(addresses, &term.balancers),
        pods: world.pods_by_node.get(&node.to_owned()).iter().map(|pod| facts(pod)).collect(),
        coming: world.coming(node),
        record,
        cloud,
    }
}

/// Name of a record.
pub(super) fn name(record: &KuryrNode) -> &str {
    record.metadata.name.as_deref().unwrap_or_default()
}

/// Ports that a record names.
pub(super) fn named_ports(record: &KuryrNode) -> impl Iterator<Item = &PortId> {
    record.spec.ports.keys().chain(record.spec.own_port.iter().map(|own| &own.id))
}

fn cloud(node: &str, record: Option<&KuryrNode>, facts: &NodeFacts, world: &World, term: &Term) -> Cloud {
    let known = world.known();
    let named = record.into_iter().flat_map(named_ports).cloned();
    let lane = known.class.as_ref().map(|class| creations::lane(&class.entry.subnets));
    let (blocked, making) = {
        let state = term.state();
        let blocked = lane.and_then(|lane| state.governor.blocked(&lane).cloned());
        (blocked, state.making.get(node).copied())
    };
    let ports = known.access.as_ref().and_then(|_| term.ports.of_node(node, named));
    let trunks = known.access.as_ref().and_then(|access| {
        trunks::of_node(record, facts, ports.as_deref().unwrap_or_default(), access, world, term)
    });
    let servers = known.access.as_ref().and_then(|access| {
        servers::of_node(record, facts, ports.as_deref().unwrap_or_default(), access, world, term)
    });
    Cloud {
        fresh: term.ports.fresh(node),
        held_up: term.ports.held_up(ports.as_deref().unwrap_or_default()),
        ports,
        active: term.plugs.active(node),
        default: known.class.clone(),
        blocked,
        making,
        trunks,
        servers,
        problems: known.problems.clone(),
    }
}

fn facts(pod: &slim::Pod) -> PodFacts {
    PodFacts {
        identity: pod.identity(),
        host_network: pod.spec.host_network,
        ended: pod.has_ended(),
        terminating: pod.is_terminating(),
        addresses: pod.status.pod_ips.clone(),
    }
}
