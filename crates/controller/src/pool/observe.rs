//! One look at a node: its Node, its record, its pods, our ports, what the cloud has to say.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use kuryr_api::kuryrnode::KuryrNode;
use kuryr_kubernetes::{
    slim,
    store::{ObjectKey, Presence as InStore},
};
use kuryr_planning::pool::{Cloud, Inputs, Millis, PodFacts, Presence, Record};

use crate::{term::Term, wiring::World};

/// What was seen; owned, so that the world may go on.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) now: Millis,
    in_sync: bool,
    presence: Presence,
    pub(super) record: Option<Arc<KuryrNode>>,
    pods: Vec<PodFacts>,
    held: BTreeSet<IpAddr>,
    cloud: Cloud,
}

impl Look {
    /// The look as planning takes it.
    pub(super) fn inputs<'a>(&'a self, node: &'a str, world: &'a World) -> Inputs<'a> {
        Inputs {
            now: self.now,
            node,
            in_sync: self.in_sync,
            presence: &self.presence,
            record: self
                .record
                .as_deref()
                .map(|record| Record { spec: &record.spec, status: record.status.as_ref() }),
            pods: &self.pods,
            held: &self.held,
            cloud: &self.cloud,
            limits: &world.config.limits,
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
    let cloud = cloud(node, record.as_deref(), world, term);
    let addresses = cloud.ports.iter().flatten().flat_map(|port| port.ips().collect::<Vec<_>>());
    Look {
        now: world.now(),
        in_sync,
        presence,
        held: world.held(addresses),
        pods: world.pods_by_node.get(&node.to_owned()).iter().map(|pod| facts(pod)).collect(),
        record,
        cloud,
    }
}

/// Name of a record.
pub(super) fn name(record: &KuryrNode) -> &str {
    record.metadata.name.as_deref().unwrap_or_default()
}

fn cloud(node: &str, record: Option<&KuryrNode>, world: &World, term: &Term) -> Cloud {
    let known = world.known();
    let named = record.into_iter().flat_map(|record| {
        let own = record.spec.own_port.iter().map(|own| &own.id);
        record.spec.ports.keys().chain(own).cloned()
    });
    let trouble = term.state().trouble.get(node).cloned();
    let mut problems = known.problems.clone();
    problems.extend(trouble.iter().map(|trouble| trouble.problem.clone()));
    let ports = known.access.as_ref().and_then(|_| term.ports.of_node(node, named));
    Cloud {
        fresh: term.ports.fresh(node),
        ports,
        default: known.class.clone(),
        create_after: trouble.map_or(0, |trouble| trouble.until),
        problems,
    }
}

fn facts(pod: &slim::Pod) -> PodFacts {
    PodFacts {
        identity: pod.identity(),
        host_network: pod.spec.host_network,
        ended: pod.has_ended(),
        terminating: pod.is_terminating(),
    }
}
