//! Clients on this node, pods and host processes, reach Services: the tables of the programs at their sockets follow the
//! cluster's Services, `EndpointSlice`s and addresses of nodes, and this node's pods with ports on it.
//!
//! What the tables should hold is [`kuryr_planning::service`]'s. Nothing is attached, and nothing that an earlier agent
//! wrote is deleted, before all lists are complete; what that agent attached goes on meanwhile.
//!
//! This room has a queue of its own, of one key at a time: a change of the tables is short, and pods do not wait for it.

// What is asked of the kernel.
pub(crate) mod forwarder;
// Slices by their Service.
mod slices;
// Services and slices -> what planning looks at.
mod observe;
// Steps -> the kernel's tables.
mod apply;
// Load balancers that ask for this node, answered.
mod health_check;
// The story.
pub(crate) mod reconcile;
// Sockets whose endpoint has gone.
pub(crate) mod sockets;
// Clients that are no processes of this node.
pub(crate) mod inbound;
// Where the API servers are, for the next start.
mod api_servers;
// What is told.
pub(crate) mod status;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use kuryr_api::kuryrnode::KuryrNode;
use kuryr_kubernetes::{
    queue::{Queue, QueueConfig},
    slim,
    store::{ObjectKey, Store},
    watch::Change,
};
use kuryr_planning::service::{Cluster, ExternalRanges, HealthCheck, Tables};

pub use forwarder::Forwarder;
use health_check::HealthChecks;
pub(crate) use observe::zone;
use slices::{Slices, service_of};
pub(crate) use status::ServiceHealth;

/// What has to be looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Work {
    /// All Services, and what is left of others; the programs.
    All,
    /// One of what has frontends.
    One(Subject),
}

/// What has frontends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// A Service.
    Service(ObjectKey),
    /// A pod of this node.
    Pod(ObjectKey),
}

/// The parts of this room; clones share them.
#[derive(Clone)]
pub(crate) struct Services {
    services: Store<slim::Service>,
    slices: Slices,
    nodes: Store<slim::Node>,
    external_ranges: ExternalRanges,
    forwarder: Arc<OnceLock<Arc<dyn Forwarder>>>,
    held: Arc<tokio::sync::Mutex<Held>>,
    lost: Arc<sockets::Lost>,
    noted: Arc<inbound::Noted>,
    pub(crate) queue: Queue<Work>,
}

/// What is remembered between two looks; all of it can be found out anew.
#[derive(Debug, Default)]
struct Held {
    /// What the tables hold; none before they were read, and after a write failed.
    tables: Option<Tables>,
    /// Whether the programs have been attached by this process.
    attached: bool,
    /// What all Services have around them, as of the last look at all of them.
    cluster: Cluster,
    /// Where load balancers ask for this node, by Service.
    health_checks: BTreeMap<ObjectKey, HealthCheck>,
    /// The servers that answer them.
    answering: HealthChecks,
    /// What is not served.
    problems: BTreeMap<Subject, Vec<String>>,
    /// Services of which this node has told that their endpoints do not see clients' addresses.
    told_client_address: BTreeSet<Subject>,
    /// Addresses of API servers that have been kept by this process.
    api_servers: Vec<SocketAddr>,
}

impl Services {
    /// A room that follows these stores.
    pub(crate) fn new(
        services: Store<slim::Service>,
        slices: Store<slim::EndpointSlice>,
        nodes: Store<slim::Node>,
        external_ranges: ExternalRanges,
        queue: QueueConfig,
    ) -> Self {
        Self {
            services,
            slices: Slices::of(slices),
            nodes,
            external_ranges,
            forwarder: Arc::default(),
            held: Arc::default(),
            lost: Arc::default(),
            noted: Arc::default(),
            queue: Queue::new(queue),
        }
    }

    /// Follows a change of a Service.
    pub(crate) fn on_service(&self, change: &Change<slim::Service>) {
        if change.replaces_all() {
            self.queue.add(Work::All);
            return;
        }
        for service in change.touched() {
            self.look_at(ObjectKey::of(&**service));
        }
    }

    /// Follows a change of a slice.
    pub(crate) fn on_slice(&self, change: &Change<slim::EndpointSlice>) {
        self.slices.update(change);
        if change.replaces_all() {
            self.queue.add(Work::All);
            return;
        }
        for key in change.touched().filter_map(|slice| service_of(slice)) {
            self.look_at(key);
        }
    }

    /// Follows a change of a Node, of any: ports of nodes are reached at its addresses.
    pub(crate) fn on_node(&self, change: &Change<slim::Node>) {
        // The kubelet writes the status every few minutes; only addresses matter here.
        if !change.leaves(|new, old| observe::node_addresses(new) == observe::node_addresses(old)) {
            self.queue.add(Work::All);
        }
    }

    /// Follows a change of a pod of this node.
    pub(crate) fn on_pod(&self, change: &Change<slim::Pod>) {
        if change.replaces_all() {
            self.queue.add(Work::All);
            return;
        }
        for pod in change.touched().filter(|pod| pod.spec.all_host_ports().next().is_some()) {
            self.queue.add(Work::One(Subject::Pod(ObjectKey::of(&**pod))));
        }
    }

    /// Follows a change of the node's record: external addresses are refused where pods have theirs, and processes of a node
    /// with a port of its own are led otherwise than those of others.
    pub(crate) fn on_record(&self, change: &Change<KuryrNode>) {
        let prefixes_stay =
            change.leaves(|new, old| observe::pod_prefixes(new) == observe::pod_prefixes(old));
        let port_stays = change.leaves(|new, old| observe::own_port(new) == observe::own_port(old));
        if !port_stays || !prefixes_stay && !self.external_ranges.is_empty() {
            self.queue.add(Work::All);
        }
    }

    fn look_at(&self, key: ObjectKey) {
        // External addresses are refused where the API server is.
        let concerns_all = !self.external_ranges.is_empty() && key == observe::api_service();
        self.queue.add(if concerns_all { Work::All } else { Work::One(Subject::Service(key)) });
    }

    /// Takes the programs that were loaded.
    pub(crate) fn opened(&self, forwarder: Arc<dyn Forwarder>) {
        // Only the first counts; there is one opener.
        let _ = self.forwarder.set(forwarder);
        self.queue.add(Work::All);
    }

    fn forwarder(&self) -> Option<Arc<dyn Forwarder>> {
        self.forwarder.get().map(Arc::clone)
    }

    /// Whether all lists have arrived.
    fn synced(&self) -> bool {
        self.services.synced() && self.slices.synced() && self.nodes.synced()
    }
}
