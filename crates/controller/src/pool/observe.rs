//! One look at a node: its Node, its record, its pods, our ports, what the cloud has to say.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use kube::{Api, api::ListParams};
use kuryr_api::kuryrnode::{KuryrNode, Mode};
use kuryr_kubernetes::{
    objects::Objects,
    slim,
    store::{ObjectKey, Presence as InStore},
};
use kuryr_planning::{
    demand::Coming,
    pool::{Cloud, Held, Inputs, Millis, NodeFacts, PodFacts, Presence, Record},
};
use kuryr_types::PortId;

use super::{creations, servers, trunks};
use crate::{config::COMPONENT, error::Result, term::Term, wiring::World};

/// What was seen; owned, so that the world may go on.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) now: Millis,
    in_sync: bool,
    presence: Presence,
    facts: NodeFacts,
    pub(super) record: Option<Arc<KuryrNode>>,
    pods: Vec<PodFacts>,
    asked: bool,
    coming: Coming,
    held: BTreeSet<IpAddr>,
    told_since: Option<Millis>,
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
            asked: self.asked,
            coming: self.coming,
            held: Held { addresses: &self.held, told_since: self.told_since },
            cloud: &self.cloud,
            limits: world.config.limits_of(mode),
        }
    }
}

/// What there is of a node in Kubernetes.
struct Found {
    /// Whether it can be known.
    is_known: bool,
    node: Option<Arc<slim::Node>>,
    record: Option<Arc<KuryrNode>>,
    pods: Vec<PodFacts>,
    asked: bool,
}

/// Looks at `node`, by the watches.
pub(super) fn node(node: &str, world: &World, term: &Term) -> Look {
    let key = ObjectKey::cluster(node);
    let found = Found {
        // Planning changes nothing of a node of which nothing is known.
        is_known: !matches!(world.nodes.presence(&key), InStore::Unknown),
        node: world.nodes.get(&key),
        record: term.state().newest(node, world.records.get(&key)),
        pods: world.pods_by_node.get(&node.to_owned()).iter().map(|pod| facts(pod)).collect(),
        asked: false,
    };
    look(node, found, world, term)
}

/// Looks at `node`, by asking the API server for it, its record and its pods.
///
/// # Errors
///
/// A call failed.
pub(super) async fn ask(node: &str, world: &World, term: &Term) -> Result<Look> {
    let nodes: Objects<slim::Node> = Objects::new(Api::all(world.client.clone()), COMPONENT);
    let pods: Objects<slim::Pod> = Objects::new(Api::all(world.client.clone()), COMPONENT);
    let there = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let (of_node, record) = tokio::try_join!(nodes.get(node), world.record_calls.get(node))?;
    // A list of pods costs the API server more; it is needed only where pods may lose their ports.
    let pods = match of_node {
        Some(_) => world.pods_by_node.get(&node.to_owned()).iter().map(|pod| facts(pod)).collect(),
        None => pods.list(&there).await?.0.iter().map(facts).collect(),
    };
    let found = Found {
        is_known: true,
        node: of_node.map(Arc::new),
        record: record.map(Arc::new),
        pods,
        asked: true,
    };
    Ok(look(node, found, world, term))
}

fn look(node: &str, found: Found, world: &World, term: &Term) -> Look {
    let uid = |node: &slim::Node| node.metadata.uid.clone().unwrap_or_default();
    let presence =
        found.node.as_deref().map_or(Presence::Absent, |node| Presence::Present { uid: uid(node) });
    let of_node = trunks::facts(found.node.as_deref());
    let cloud = cloud(node, found.record.as_deref(), &of_node, world, term);
    let mut held = world.held(cloud.ports.as_deref().unwrap_or_default(), &cloud.fresh, &term.balancers);
    // The index of addresses is of the watch.
    held.extend(found.pods.iter().filter(|pod| !pod.ended).flat_map(|pod| &pod.addresses));
    Look {
        now: world.now(),
        in_sync: found.is_known && world.in_sync(),
        presence,
        facts: of_node,
        held,
        told_since: world.told_since(),
        pods: found.pods,
        asked: found.asked,
        coming: world.coming(node),
        record: found.record,
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
    let unseen = term.balancers.unseen(world.now(), world);
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
        problems: known.problems.iter().cloned().chain(unseen.problem(world.now())).collect(),
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
