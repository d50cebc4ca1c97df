//! Every part of the agent, put together once, in a straight line.
//!
//! Order of a start: lock and read the checkpoint (a predecessor may still run), bind the socket, then everything that
//! needs others: the kernel, the API server, the switch. None of those stops the start when it is away; what depends
//! on it says so until it is there.
//!
//! Order of a stop: take no more requests and let those under way end, then the queue, then the checkpoint. What pods
//! have stays as it is.

use std::{
    collections::BTreeMap,
    net::{Ipv6Addr, SocketAddr},
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kube::{Api, Client};
use kuryr_api::{
    cni::Attachment,
    kuryrnode::KuryrNode,
    kuryrport::KuryrPort,
    names,
    node::{CniRequest, GcRequest},
};
use kuryr_datapath::{Node, NodeConfig, Ovsdb, OvsdbConfig};
use kuryr_kubernetes::{
    Outcome,
    backoff::{Backoff, Jitter},
    client,
    clock::Clock,
    event::{self, EventConfig, Recorder},
    queue::{Queue, QueueConfig},
    slim,
    store::Store,
    watch::{Change, WatchConfig, watch, watch_packed},
};
use kuryr_planning::{attachment::NodeLinks, uplink::Memory};
use kuryr_telemetry::{health::Health, metrics::Metrics as Registry, server as http};
use kuryr_types::PortId;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    checkpoint::Checkpoint,
    config::{COMPONENT, Config},
    conflist,
    error::{Error, Result, WithCauses, with_causes},
    kernel::Kernel,
    kuryrport::{self, POST_AFTER},
    metrics::Metrics,
    node::{self, State, observe::Watched},
    pods::Pods,
    probes, release,
    sandbox::Sandboxes,
    server,
    service::{self, Forwarder, Services},
    switch::SwitchDatabase,
    uplink,
};

/// Keys handled at the same time: uplinks, a few claims and views.
const AT_ONCE: usize = 4;
/// How long requests under way may take to end at a stop.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// How often the guard is looked after, and figures and switch are looked at without need.
const LOOK_AFTER: Duration = Duration::from_secs(60);
const COUNT_EVERY: Duration = Duration::from_secs(5);
/// Between attempts to open the kernel.
const OPEN_AGAIN: Duration = Duration::from_secs(2);
/// Work on this node is local and quick: a failed try is repeated sooner than a call to a cloud.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(200), most: Duration::from_secs(10) };
/// What no retry seems to help is a setting of the node, which somebody may change.
const PARKED: Duration = Duration::from_secs(30);
/// Label of the `EndpointSlice`s of headless Services.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// What has to be looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Work {
    /// Whether the checkpoint and the claims count.
    Start,
    /// Offered ports, switch and links.
    Uplinks,
    /// Ready ports and pods of which the network has not been told.
    Announcements,
    /// Links that are not needed any more.
    Leftovers,
    /// What is left of pods.
    Sweep,
    /// Whether a claim has ended.
    Claim(PortId),
    /// The view of a claim.
    KuryrPort(PortId),
    /// The CNI configuration.
    Conflist,
}

/// The parts that reconcilers share; clones share them.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) config: Arc<Config>,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) state: State,
    pub(crate) kernel: Kernel,
    pub(crate) switch: Arc<dyn SwitchDatabase>,
    pub(crate) watched: Watched,
    pub(crate) pods: Pods,
    pub(crate) views: Store<KuryrPort>,
    pub(crate) sandboxes: Sandboxes,
    pub(crate) services: Services,
    pub(crate) queue: Queue<Work>,
    pub(crate) metrics: Metrics,
    pub(crate) client: Client,
    /// What time of day it is, for people.
    pub(crate) clock: Clock,
    memory: Arc<Mutex<Remembered>>,
}

/// What need not survive a restart.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    /// Of uplinks.
    pub(crate) uplinks: Memory,
    /// The node's own interface as it was made.
    pub(crate) own_port: Option<(PortId, NodeLinks)>,
    /// The node's addresses as they were set.
    pub(crate) node_addresses: Vec<std::net::IpAddr>,
    /// Ways of packets that are translated for clients outside, as they were set.
    pub(crate) ways: Option<uplink::ways::Led>,
    /// The claims are this process's own: it has judged the checkpoint that they come from.
    pub(crate) has_judged: bool,
    /// The CNI configuration has been written.
    pub(crate) conflist_written: bool,
    /// Interfaces on the way to the switch that could not be brought up, with why.
    pub(crate) stays_down: BTreeMap<String, String>,
}

impl World {
    /// What is remembered; not to be held across a wait.
    pub(crate) fn memory(&self) -> MutexGuard<'_, Remembered> {
        // Replaced whole, so a panic leaves nothing half done.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has all claims looked at.
    pub(crate) fn queue_all_claims(&self) {
        let ports: Vec<PortId> = self.checkpoint.look(|_, ledger| ledger.claims.keys().cloned().collect());
        for port in ports {
            self.queue.add(Work::Claim(port.clone()));
            self.queue.add(Work::KuryrPort(port));
        }
    }

    /// Has the claims of a pod looked at.
    fn queue_claims_of(&self, pod: &slim::Pod) {
        let pod = pod.pod_ref();
        let ports: Vec<PortId> = self.checkpoint.look(|_, ledger| {
            let of_pod = ledger.claims.iter().filter(|(_, claim)| claim.pod == pod);
            of_pod.map(|(port, _)| port.clone()).collect()
        });
        for port in ports {
            self.queue.add(Work::Claim(port.clone()));
            self.queue.add_after(Work::KuryrPort(port), POST_AFTER);
        }
    }

    async fn handle(self, work: Work) -> Result<Outcome, WithCauses> {
        let outcome = match work {
            Work::Start => node::start::reconcile(&self).await,
            Work::Uplinks => uplink::reconcile::reconcile(&self).await,
            Work::Announcements => uplink::announce::reconcile(&self).await,
            Work::Leftovers => uplink::reconcile::remove_leftovers(&self).await,
            Work::Sweep => self.sandboxes.sweep().await,
            Work::Claim(port) => release::reconcile(&self, &port).await,
            Work::KuryrPort(port) => kuryrport::reconcile(&self, &port).await,
            Work::Conflist => conflist::reconcile(&self).await,
        };
        outcome.map_err(WithCauses)
    }
}

/// What an agent is put on.
pub struct Outside {
    /// The API server.
    pub client: Client,
    /// The durable record.
    pub checkpoint: Checkpoint,
    /// The kernel.
    pub kernel: Kernel,
    /// The tables and programs of Services; none: they are loaded later, if at all.
    pub forwarder: Option<Arc<dyn Forwarder>>,
    /// The switch.
    pub switch: Arc<dyn SwitchDatabase>,
    /// Where Events go.
    pub events: Recorder,
    /// Where figures go.
    pub registry: Registry,
    /// What time of day it is.
    pub clock: Clock,
    /// For a simulation that has to repeat itself.
    pub seed: Option<u64>,
}

impl std::fmt::Debug for Outside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outside").field("seed", &self.seed).finish_non_exhaustive()
    }
}

/// An agent that runs. When this is dropped it ends where it is, as in a crash.
pub struct Agent {
    world: World,
    tasks: JoinSet<()>,
    /// These bring to an end what they have begun; all others are broken off.
    orderly: JoinSet<()>,
    stop: CancellationToken,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("node", &self.world.config.node_name).finish_non_exhaustive()
    }
}

impl Agent {
    /// Starts an agent, on the current async runtime. Until its kernel is usable and its watches are complete it says why
    /// pods wait.
    #[must_use]
    pub fn start(config: Config, outside: Outside) -> Self {
        Self::start_until(CancellationToken::new(), config, outside)
    }

    fn start_until(stop: CancellationToken, config: Config, outside: Outside) -> Self {
        let (mut tasks, mut orderly) = (JoinSet::new(), JoinSet::new());
        let client = outside.client.clone();
        let forwarder = outside.forwarder.clone();
        let jitter = outside.seed.map_or_else(Jitter::random, Jitter::seeded);
        let world = assemble(Arc::new(config), outside, &mut tasks, &stop);
        forwarder.into_iter().for_each(|forwarder| world.services.opened(forwarder));
        orderly.spawn(work_off(world.clone(), stop.clone()));
        orderly.spawn(service::reconcile::run(world.clone(), stop.clone()));
        tasks.spawn(node::report::run(world.clone(), client, jitter, stop.clone()));
        let mut agent = Self { world, tasks, orderly, stop };
        agent.until_stop(watch_switch);
        agent.until_stop(uplink::shared::watch_interface);
        agent.until_stop(uplink::observe::keep_local_path);
        agent.until_stop(release::watch_namespaces);
        agent.until_stop(look_after);
        agent.until_stop(count);
        agent
    }

    /// ADD: gives a sandbox its interface; `cancel` gives up.
    ///
    /// # Errors
    ///
    /// See [`Error`](crate::Error); a claim that was made is kept for the pod.
    pub fn add(
        &self,
        request: CniRequest,
        cancel: CancellationToken,
    ) -> impl Future<Output = Result<Attachment>> + Send + use<> {
        let sandboxes = self.world.sandboxes.clone();
        async move { sandboxes.add(&request, cancel).await }
    }

    /// DEL: cuts a sandbox off.
    ///
    /// # Errors
    ///
    /// What the kernel refused; the runtime repeats a DEL.
    pub fn del(&self, request: CniRequest) -> impl Future<Output = Result<()>> + Send + use<> {
        let sandboxes = self.world.sandboxes.clone();
        async move { sandboxes.del(&request).await }
    }

    /// GC: cuts off every sandbox that is not listed.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn gc(&self, request: GcRequest) -> impl Future<Output = Result<()>> + Send + use<> {
        let sandboxes = self.world.sandboxes.clone();
        async move { sandboxes.gc(&request).await }
    }

    /// Keys whose last look failed, with what is being looked at now or soon.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        let stats = self.world.queue.stats();
        stats.ready + stats.running + stats.failing
    }

    /// Runs a part until it ends or the agent stops.
    fn until_stop<F>(&mut self, part: impl FnOnce(World) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (part, stop) = (part(self.world.clone()), self.stop.clone());
        self.tasks.spawn(async move {
            stop.run_until_cancelled(part).await;
        });
    }

    /// Ends when a part ends by a bug.
    async fn broken(&mut self) {
        tokio::select! {
            () = kuryr_process::first_panic(&mut self.tasks) => {}
            () = kuryr_process::first_panic(&mut self.orderly) => {}
        }
    }

    /// Gives up ADDs that wait for a port, because the agent is about to stop: their runtimes ask the next one.
    pub fn give_up(&self) {
        self.world.sandboxes.give_up();
    }

    /// Stops all parts, and breaks off what does not end in time: the next start finds out what holds.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let orderly = async { while self.orderly.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_WITHIN, orderly).await.is_err() {
            tracing::warn!("what was under way was broken off");
        }
        self.tasks.shutdown().await;
        self.world.checkpoint.stop().await;
    }
}

/// Runs the agent until it is told to stop.
///
/// # Errors
///
/// What it cannot do without: the checkpoint, the socket, a usable configuration.
pub(crate) async fn run(config: Config) -> Result<()> {
    tracing::info!(node = config.node_name, version = env!("CARGO_PKG_VERSION"), "kuryr-daemon starts");
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    stop_on_signals(&mut tasks, &stop)?;

    let (registry, health) = (Registry::new(), Health::new());
    let checkpoint = tokio::select! {
        checkpoint = Checkpoint::open(&config.state_dir) => checkpoint?,
        () = stop.cancelled() => return Ok(()),
    };
    // After the lock: a predecessor has the same ports.
    serve_health(&mut tasks, &stop, &config, &registry, &health).await?;
    let kernel = Kernel::start().map_err(|source| Error::File {
        step: "start threads for",
        path: config.bpf_dir.clone(),
        source,
    })?;
    let client = client::connect(&config.client).await?;
    let (events, event_writer) = event::recorder(
        client.clone(),
        EventConfig { enabled: config.use_events, ..EventConfig::new(COMPONENT, config.node_name.clone()) },
    );
    let switch = Arc::new(Ovsdb::start(OvsdbConfig {
        bridge: config.bridge.clone(),
        ..OvsdbConfig::new(config.ovsdb_socket.clone())
    }));
    let socket = config.socket.clone();
    let outside = Outside {
        client,
        checkpoint,
        kernel,
        forwarder: None,
        switch,
        events,
        registry,
        clock: Clock::of_machine(),
        seed: None,
    };
    let mut agent = Agent::start_until(stop.clone(), config, outside);
    let sandboxes = agent.world.sandboxes.clone();

    let listener = server::bind(&socket)?;
    let accepting = CancellationToken::new();
    agent.orderly.spawn(server::serve(listener, sandboxes, accepting.clone()));
    tracing::info!(socket = %socket.display(), "serving the CNI plugin");
    agent.orderly.spawn(event_writer.run(stop.clone()));
    agent.until_stop(open_kernel);
    agent.until_stop(service::reconcile::open);
    agent.until_stop(service::sockets::run);
    agent.until_stop(service::inbound::run);
    agent.until_stop(|world| probes::run(world, health));

    let mut ended = Ok(());
    let panicked = async {
        tokio::select! {
            () = agent.broken() => {}
            () = kuryr_process::first_panic(&mut tasks) => {}
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = panicked => {
            ended = Err(Error::BrokenOff { what: "a part of the agent, which ends as a whole (see the panic before)" });
        }
    }
    tracing::info!("stopping");
    accepting.cancel();
    agent.give_up();
    agent.stop().await;
    tasks.shutdown().await;
    ended
}

/// The world, with its watches running.
fn assemble(
    config: Arc<Config>,
    outside: Outside,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> World {
    let Outside { client, checkpoint, kernel, switch, events, registry, clock, seed, .. } = outside;
    let metrics = registry.register(Metrics::new);
    let name = &config.node_name;
    let all = || WatchConfig { seed, ..WatchConfig::default() };
    let by_name = || all().fields(format!("metadata.name={name}"));
    let (records, record_watch) = watch::<KuryrNode>(Api::all(client.clone()), by_name());
    let (nodes, node_watch) = watch::<slim::Node>(Api::all(client.clone()), by_name());
    let on_node = all().fields(format!("spec.nodeName={name}"));
    let (pod_store, pod_watch) = watch::<slim::Pod>(Api::all(client.clone()), on_node);
    let of_node = all().labels(format!("{}={name}", names::NODE_NAME_LABEL));
    let (views, view_watch) = watch::<KuryrPort>(Api::all(client.clone()), of_node);

    let (services, service_watch) = watch_packed::<slim::Service>(Api::all(client.clone()), all());
    // Endpoints of headless Services are nobody's to be brought to.
    let with_addresses = all().labels(format!("!{HEADLESS_LABEL}"));
    let (slices, slice_watch) = watch_packed::<slim::EndpointSlice>(Api::all(client.clone()), with_addresses);

    let queue = |name| QueueConfig { backoff: BACKOFF, parked: PARKED, seed, ..QueueConfig::new(name) };
    let (all_nodes, all_node_watch) = watch::<slim::Node>(Api::all(client.clone()), all());
    let ranges = config.external_ranges.clone();
    let services = Services::new(services, slices, all_nodes, ranges, queue("services"));
    let queue = Queue::new(queue("agent"));
    let state = State::new();
    let pods = Pods::new(pod_store, client.clone(), name);
    let sandboxes = Sandboxes::new(
        Arc::clone(&config),
        checkpoint.clone(),
        state.clone(),
        kernel.clone(),
        pods.clone(),
        events,
        metrics.clone(),
        queue.clone(),
    );
    let world = World {
        watched: Watched::new(records, nodes, name),
        config,
        checkpoint,
        state,
        kernel,
        switch,
        pods,
        views,
        sandboxes,
        services,
        queue,
        metrics,
        client,
        clock,
        memory: Arc::default(),
    };
    let of_record = world.clone();
    tasks.spawn(record_watch.run(stop.clone(), move |change| on_record_change(&of_record, change)));
    let of_node = world.clone();
    tasks.spawn(node_watch.run(stop.clone(), move |change| on_node_change(&of_node, change)));
    let of_pods = world.clone();
    tasks.spawn(pod_watch.run(stop.clone(), move |change| on_pod_change(&of_pods, change)));
    let of_views = world.clone();
    tasks.spawn(view_watch.run(stop.clone(), move |change| on_view_change(&of_views, change)));
    if world.config.serves_services {
        let of_services = world.services.clone();
        tasks.spawn(service_watch.run(stop.clone(), move |change| of_services.on_service(change)));
        let of_slices = world.services.clone();
        tasks.spawn(slice_watch.run(stop.clone(), move |change| of_slices.on_slice(change)));
        let of_nodes = world.services.clone();
        tasks.spawn(all_node_watch.run(stop.clone(), move |change| of_nodes.on_node(change)));
    }
    world
}

/// The status is our own. It matters only as long as it is not decided whether the checkpoint counts.
fn on_record_change(world: &World, change: &Change<KuryrNode>) {
    world.services.on_record(change);
    let told =
        |new: &KuryrNode, old: &KuryrNode| new.metadata.uid == old.metadata.uid && new.spec == old.spec;
    if change.leaves(told) && world.state.get().own.is_some() {
        return;
    }
    world.queue.add(Work::Start);
    world.queue.add(Work::Uplinks);
}

/// The kubelet writes the Node's status every few seconds; only its life, its addresses and its zone matter here.
fn on_node_change(world: &World, change: &Change<slim::Node>) {
    if !change.leaves(|new, old| service::zone(new) == service::zone(old)) {
        world.services.queue.add(service::Work::All);
    }
    let told = |new: &slim::Node, old: &slim::Node| {
        new.metadata.uid == old.metadata.uid && new.status.addresses == old.status.addresses
    };
    if !change.leaves(told) {
        world.queue.add(Work::Start);
        world.queue.add(Work::Uplinks);
    }
}

fn on_pod_change(world: &World, change: &Change<slim::Pod>) {
    world.services.on_pod(change);
    if change.replaces_all() {
        // Back in sync: what was unknown may be decided now.
        world.queue.add(Work::Start);
        world.queue_all_claims();
        return;
    }
    if change.leaves(slim::Pod::is_like) {
        return;
    }
    for pod in change.touched() {
        world.queue_claims_of(pod);
    }
}

/// A view that is gone is posted again as long as its claim lasts.
fn on_view_change(world: &World, change: &Change<KuryrPort>) {
    match change {
        Change::Deleted { old } => {
            let key = kuryr_kubernetes::store::ObjectKey::of(&**old);
            if let Some(pod) = world.pods.store().get(&key) {
                world.queue_claims_of(&pod);
            }
        }
        Change::Reset { .. } | Change::Replaced => world.queue_all_claims(),
        Change::Applied { .. } => {}
    }
}

async fn work_off(world: World, stop: CancellationToken) {
    let at_once = NonZeroUsize::new(AT_ONCE).unwrap_or(NonZeroUsize::MIN);
    let queue = world.queue.clone();
    queue.add(Work::Start);
    let stopped = queue.run(at_once, stop, move |work| world.clone().handle(work)).await;
    if !stopped.aborted.is_empty() {
        tracing::warn!(work = ?stopped.aborted, "work under way was broken off");
    }
}

/// Opens the kernel, again and again until that succeeds.
async fn open_kernel(world: World) {
    loop {
        let config =
            NodeConfig { joining: world.config.joining, ..NodeConfig::new(world.config.bpf_dir.clone()) };
        let open = world.kernel.blocking("open the kernel", move || Node::open(config));
        match open.await {
            Ok(Ok(node)) => {
                tracing::info!(joining = ?node.joining(), "the kernel can be used");
                world.kernel.opened(Arc::new(node));
                world.queue.add(Work::Start);
                return;
            }
            Ok(Err(error)) => {
                let why = with_causes(&error);
                tracing::error!(again_in = ?OPEN_AGAIN, "the kernel cannot be used: {why}");
                world.kernel.not_opened(why);
            }
            Err(error) => tracing::error!("the kernel cannot be opened: {}", with_causes(&error)),
        }
        tokio::time::sleep(OPEN_AGAIN).await;
    }
}

/// Has uplinks looked at when the switch changes.
async fn watch_switch(world: World) {
    let mut switch = world.switch.watch();
    loop {
        world.queue.add(Work::Uplinks);
        if switch.changed().await.is_err() {
            return;
        }
    }
}

/// Looks after what others may take away.
async fn look_after(world: World) {
    loop {
        tokio::time::sleep(LOOK_AFTER).await;
        if let Err(error) = world.kernel.patient("install the guard", |node| node.ensure_guard()).await {
            tracing::warn!("the guard cannot be looked after: {}", with_causes(&error));
        }
        world.queue.add(Work::Sweep);
        world.queue.add(Work::Conflist);
    }
}

/// Keeps the figures of ports.
async fn count(world: World) {
    loop {
        let state = world.state.get();
        let offered = state.spec.as_ref().map_or(0, |spec| spec.ports.len());
        let (claimed, free) = world.checkpoint.look(|_, ledger| {
            let free = state.ready.keys().filter(|port| !ledger.claims.contains_key(*port)).count();
            (ledger.claims.len(), free)
        });
        let ports =
            [("offered", offered), ("ready", free), ("claimed", claimed), ("stuck", state.stuck.len())];
        world.metrics.counts(ports, world.sandboxes.waiting());
        service::status::count(&world).await;
        tokio::time::sleep(COUNT_EVERY).await;
    }
}

async fn serve_health(
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
    config: &Config,
    registry: &Registry,
    health: &Health,
) -> Result<()> {
    let router = kuryr_telemetry::health::router(health.clone(), registry.clone());
    let everywhere = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let listener = http::bind(everywhere(config.health_port)).await?;
    tasks.spawn(http::serve(listener, router, stop.clone()));
    if config.metrics_port != config.health_port {
        let router = kuryr_telemetry::health::metrics_router(registry.clone());
        let listener = http::bind(everywhere(config.metrics_port)).await?;
        tasks.spawn(http::serve(listener, router, stop.clone()));
    }
    Ok(())
}

fn stop_on_signals(tasks: &mut JoinSet<()>, stop: &CancellationToken) -> Result<()> {
    let failed = |source| Error::File { step: "listen to signals in", path: "/proc/self".into(), source };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let stop = stop.clone();
    tasks.spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = stop.cancelled() => {}
        }
        stop.cancel();
    });
    Ok(())
}

#[cfg(test)]
pub(crate) mod fake {
    //! An agent on a kernel, a disk and an API server in memory, on which nothing runs by itself.

    use std::{collections::BTreeMap, path::Path};

    use kuryr_conf::Conf;
    use kuryr_planning::service::ExternalRanges;

    use super::*;
    use crate::{
        kernel::fake::FakeKernel,
        pods::fake::{FakeServer, store},
    };

    /// The agent with what is around it.
    pub(crate) struct FakeWorld {
        pub(crate) world: World,
        pub(crate) kernel: FakeKernel,
        pub(crate) records: Store<KuryrNode>,
        pub(crate) nodes: Store<slim::Node>,
        pub(crate) server: FakeServer,
    }

    impl FakeWorld {
        /// An agent of node `node1` with UID `node`, with these pods and an empty record.
        pub(crate) fn new(checkpoint: Checkpoint, kernel: FakeKernel, pods: Vec<slim::Pod>) -> Self {
            let silence = Duration::from_secs(90);
            let (records, nodes) = (Store::new(silence), Store::new(silence));
            records.reset(Vec::new(), BTreeMap::new());
            let conf = Conf::from_texts(&[("kuryr.conf", "[cni_daemon]\nnode_name = node1\n")]).unwrap();
            let mut config = Config::resolve(&conf).unwrap();
            // Nothing is written outside of what a test has made.
            config.client.saved_servers = None;
            let config = Arc::new(config);
            let server = FakeServer::default();
            let client = server.client();
            let mut registry = prometheus_client::registry::Registry::default();
            let metrics = Metrics::new(&mut registry);
            let (state, queue) = (State::new(), Queue::new(QueueConfig::new("test")));
            let pods = Pods::new(store(pods), client.clone(), "node1");
            let opened = kernel.kernel();
            let sandboxes = Sandboxes::new(
                Arc::clone(&config),
                checkpoint.clone(),
                state.clone(),
                opened.clone(),
                pods.clone(),
                Recorder::disabled(),
                metrics.clone(),
                queue.clone(),
            );
            let world = World {
                config,
                checkpoint,
                state,
                kernel: opened,
                switch: Arc::new(Ovsdb::start(OvsdbConfig::new(Path::new("/nonexistent/db.sock")))),
                watched: Watched::new(records.clone(), nodes.clone(), "node1"),
                pods,
                views: Store::new(silence),
                sandboxes,
                services: Services::new(
                    Store::packed(silence),
                    Store::packed(silence),
                    Store::new(silence),
                    ExternalRanges::default(),
                    QueueConfig::new("test"),
                ),
                queue,
                metrics,
                client,
                clock: Clock::of_machine(),
                memory: Arc::default(),
            };
            let fake = Self { world, kernel, records, nodes, server };
            fake.node("node");
            fake
        }

        /// The Node has this UID.
        pub(crate) fn node(&self, uid: &str) {
            let node = serde_json::json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1", "uid": uid}});
            self.nodes.reset(vec![serde_json::from_value(node).unwrap()], BTreeMap::new());
        }
    }
}
