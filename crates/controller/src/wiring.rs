//! Every watch, queue and server of the process, in a straight line.

use std::{
    collections::BTreeSet,
    future::Future,
    net::IpAddr,
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, Instant},
};

use kube::{Api, Client};
use kuryr_api::kuryrnode::KuryrNode;
use kuryr_kubernetes::{
    client::{connect, install_crypto},
    event::{EventConfig, Recorder, recorder},
    index::Index,
    lease::{LeaseConfig, Term as LeaseTerm, elector, unique_identity},
    objects::Objects,
    queue::{Queue, QueueConfig},
    slim,
    store::Store,
    watch::{Change, Watch, WatchConfig, watch},
};
use kuryr_openstack::neutron::port::PortFilter;
use kuryr_planning::{
    demand::{Coming, Governor},
    pool::Millis,
};
use kuryr_telemetry::{
    health::{self, Check, Health, Purpose},
    metrics::Metrics,
    server,
};
use kuryr_types::PodRef;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc, watch as state},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    cloud::{Facts, Known},
    config::{COMPONENT, Config, millis},
    demand::{Forecast, Workloads, controllers},
    error::{Error, Result},
    kuryrport,
    metrics::Figures,
    pool::{self, Key, creations},
    term::Term,
};

/// Nodes that are reconciled at the same time. Calls to the cloud are bounded apart.
const NODES_AT_ONCE: NonZeroUsize = NonZeroUsize::new(16).unwrap();
const PODS_AT_ONCE: NonZeroUsize = NonZeroUsize::new(4).unwrap();
/// How long a new leader waits for complete watches before it says so; it goes on waiting.
const SYNC_WITHIN: Duration = Duration::from_secs(30);
/// How long ended work may take at the end of the process.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// Distance between lists that fail.
const LIST_AGAIN: Duration = Duration::from_secs(5);

/// What every reconcile function can reach.
pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) client: Client,
    pub(crate) nodes: Store<slim::Node>,
    pub(crate) pods: Store<slim::Pod>,
    pub(crate) records: Store<KuryrNode>,
    pub(crate) record_calls: Objects<KuryrNode>,
    pub(crate) pods_by_node: Index<String, slim::Pod>,
    pods_by_address: Index<IpAddr, slim::Pod>,
    slices: Store<slim::EndpointSlice>,
    slices_by_address: Index<IpAddr, slim::EndpointSlice>,
    pub(crate) events: Recorder,
    pub(crate) figures: Figures,
    /// Asks for a full list of our ports.
    pub(crate) list_soon: Notify,
    /// Asks for a look at trunks.
    pub(crate) trunks_soon: Notify,
    pub(crate) forecast: Forecast,
    known: state::Sender<Arc<Known>>,
    keys: Queue<Key>,
    ended_pods: Queue<PodRef>,
    start: Instant,
}

impl World {
    /// Milliseconds since the process began.
    pub(crate) fn now(&self) -> Millis {
        millis(self.start.elapsed())
    }

    /// What is known of the cloud.
    pub(crate) fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.borrow())
    }

    /// Whether all that is known of the cluster is complete and recent.
    pub(crate) fn in_sync(&self) -> bool {
        self.nodes.in_sync() && self.pods.in_sync() && self.records.in_sync() && self.slices.in_sync()
    }

    /// Those of `addresses` that a live pod or an `EndpointSlice` has.
    pub(crate) fn held(&self, addresses: impl Iterator<Item = IpAddr>) -> BTreeSet<IpAddr> {
        let held = |address: &IpAddr| {
            let pods = self.pods_by_address.get(address);
            pods.iter().any(|pod| !pod.has_ended()) || !self.slices_by_address.get(address).is_empty()
        };
        addresses.filter(held).collect()
    }

    /// What is about to come to a node.
    pub(crate) fn coming(&self, node: &str) -> Coming {
        self.forecast.of(node)
    }

    /// Has something looked at.
    pub(crate) fn look_at(&self, key: Key) {
        self.keys.add(key);
    }

    fn add_all_nodes(&self) {
        let nodes = self.nodes.keys().into_iter().map(|key| key.name);
        let records = self.records.keys().into_iter().map(|key| key.name);
        nodes.chain(records).for_each(|name| self.keys.add(Key::Node(name)));
    }
}

/// Runs until a signal ends the process.
///
/// # Errors
///
/// Something that cannot be had later either: a port that is taken, a client that cannot be built.
pub(crate) async fn run(config: Config) -> Result<()> {
    install_crypto();
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signal)?;
    let mut tasks = JoinSet::new();

    let metrics = Metrics::new();
    let figures = Figures::new(&metrics);
    let health = Health::new();
    let checks = Checks {
        kubernetes: health.check("kubernetes", Purpose::Ready),
        cloud: health.check("cloud", Purpose::Ready),
    };
    let health_listener = server::bind(config.health).await?;
    let metrics_listener = server::bind(config.metrics).await?;
    tasks.spawn(server::serve(health_listener, health::router(health, metrics.clone()), stop.clone()));
    tasks.spawn(server::serve(metrics_listener, health::metrics_router(metrics), stop.clone()));

    let client = connect(&config.client).await?;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut event_config = EventConfig::new(COMPONENT, host.clone());
    event_config.enabled = config.use_events;
    let (events, event_writer) = recorder(client.clone(), event_config);
    tasks.spawn(event_writer.run(stop.clone()));

    let (nodes, node_watch) = watch::<slim::Node>(Api::all(client.clone()), WatchConfig::default());
    let (pods, pod_watch) = watch::<slim::Pod>(Api::all(client.clone()), WatchConfig::default());
    let (records, record_watch) = watch::<KuryrNode>(Api::all(client.clone()), WatchConfig::default());
    let (slices, slice_watch) =
        watch::<slim::EndpointSlice>(Api::all(client.clone()), WatchConfig::default());
    let workloads = config.looks_ahead().then(|| workload_watches(&client));
    let (workloads, workload_watches) = workloads.unzip();
    let forecast = Forecast::new(workloads);
    let lease = LeaseConfig::new(&config.lease_namespace, COMPONENT, unique_identity(&host));
    let world = Arc::new(World {
        record_calls: Objects::new(Api::all(client.clone()), COMPONENT),
        pods_by_node: Index::new(|pod: &slim::Pod| pod.spec.node_name.iter().cloned().collect()),
        pods_by_address: Index::new(|pod: &slim::Pod| pod.status.pod_ips.clone()),
        slices_by_address: Index::new(|slice: &slim::EndpointSlice| slice.addresses().collect()),
        list_soon: Notify::new(),
        trunks_soon: Notify::new(),
        forecast,
        known: state::Sender::default(),
        keys: Queue::new(QueueConfig::new("nodes")),
        ended_pods: Queue::new(QueueConfig::new("ended-pods")),
        start: Instant::now(),
        config,
        client: client.clone(),
        nodes,
        pods,
        records,
        slices,
        events,
        figures,
    });

    let of = Arc::clone(&world);
    tasks.spawn(node_watch.run(stop.clone(), move |change| {
        change.touched().for_each(|node| of.keys.add(Key::Node(node.name().to_owned())));
    }));
    let of = Arc::clone(&world);
    tasks.spawn(record_watch.run(stop.clone(), move |change| {
        let names = change.touched().filter_map(|record| record.metadata.name.clone());
        names.for_each(|name| of.keys.add(Key::Node(name)));
    }));
    let of = Arc::clone(&world);
    tasks.spawn(pod_watch.run(stop.clone(), move |change| follow_pods(change, &of)));
    if let Some(watches) = workload_watches {
        watches.spawn(&mut tasks, &world, &stop);
    }
    let of = Arc::clone(&world);
    tasks.spawn(slice_watch.run(stop.clone(), move |change| of.slices_by_address.update(change)));
    tasks.spawn(tell_health(Arc::clone(&world), checks, stop.clone()));

    // The elector outlives the work: the Lease is released after the last write.
    let (candidate, leadership) = elector(client, lease)?;
    let release = CancellationToken::new();
    let election = tokio::spawn(candidate.run(release.clone()));
    let mut led = leadership.subscribe();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "started");
    let work = async {
        while let Ok(term) = led.wait_for(Option::is_some).await.map(|term| *term) {
            let Some(term) = term else { continue };
            let over = CancellationToken::new();
            let ends = led.wait_for(|now| now.as_ref().map(|now| now.number) != Some(term.number));
            // A term that cannot begin is left to others; the Lease is renewed meanwhile and the begin repeated.
            let lead = lead(&world, &leadership, &term, over.clone());
            until_over(lead, ends, over).await;
            world.figures.leader.set(0);
            world.keys.clear();
        }
    };
    tokio::select! {
        () = work => {}
        _ = terminate.recv() => tracing::info!("ending: terminated"),
        _ = interrupt.recv() => tracing::info!("ending: interrupted"),
    }
    stop.cancel();
    release.cancel();
    let _ = tokio::time::timeout(STOP_WITHIN, election).await;
    let _ = tokio::time::timeout(STOP_WITHIN, async { while tasks.join_next().await.is_some() {} }).await;
    Ok(())
}

/// The watches of what makes pods.
struct WorkloadWatches {
    deployments: Watch<slim::Deployment>,
    replica_sets: Watch<slim::ReplicaSet>,
    stateful_sets: Watch<slim::StatefulSet>,
    jobs: Watch<slim::Job>,
}

fn workload_watches(client: &Client) -> (Workloads, WorkloadWatches) {
    let (deployments, deployment_watch) = watch(Api::all(client.clone()), WatchConfig::default());
    let (replica_sets, replica_set_watch) = watch(Api::all(client.clone()), WatchConfig::default());
    let (stateful_sets, stateful_set_watch) = watch(Api::all(client.clone()), WatchConfig::default());
    let (jobs, job_watch) = watch(Api::all(client.clone()), WatchConfig::default());
    let pods_by_controller = Index::new(controllers);
    let workloads = Workloads { deployments, replica_sets, stateful_sets, jobs, pods_by_controller };
    let watches = WorkloadWatches {
        deployments: deployment_watch,
        replica_sets: replica_set_watch,
        stateful_sets: stateful_set_watch,
        jobs: job_watch,
    };
    (workloads, watches)
}

impl WorkloadWatches {
    fn spawn(self, tasks: &mut JoinSet<()>, world: &Arc<World>, stop: &CancellationToken) {
        let of = || Arc::clone(world);
        let world = of();
        tasks.spawn(self.deployments.run(stop.clone(), move |_| world.forecast.follow()));
        let world = of();
        tasks.spawn(self.replica_sets.run(stop.clone(), move |_| world.forecast.follow()));
        let world = of();
        tasks.spawn(self.stateful_sets.run(stop.clone(), move |_| world.forecast.follow()));
        let world = of();
        tasks.spawn(self.jobs.run(stop.clone(), move |_| world.forecast.follow()));
    }
}

/// Runs `lead` until it ends or the leadership does; then lets it stop within its bound.
async fn until_over<T>(
    lead: impl Future<Output = ()>,
    ends: impl Future<Output = T>,
    over: CancellationToken,
) {
    tokio::pin!(lead);
    tokio::select! {
        () = &mut lead => return,
        _ = ends => {}
    }
    over.cancel();
    let _ = tokio::time::timeout(STOP_WITHIN, lead).await;
}

/// One leadership, from its epoch to its end.
async fn lead(
    world: &Arc<World>,
    leadership: &kuryr_kubernetes::lease::Leadership,
    lease: &LeaseTerm,
    over: CancellationToken,
) {
    while !all_synced(world).await {
        tracing::warn!("waiting for complete lists of nodes, pods, records and endpoint slices");
        if over.is_cancelled() {
            return;
        }
    }
    let governor = Governor::new(world.config.rate, world.now());
    let (creations, wanted) = mpsc::unbounded_channel();
    let term = match Term::begin(leadership, lease, &world.records.list(), governor, creations).await {
        Ok(term) => Arc::new(term),
        Err(error) => {
            tracing::warn!(%error, "could not begin to lead");
            tokio::time::sleep(Duration::from_secs(1)).await;
            return;
        }
    };
    let cluster = match cluster_id(world).await {
        Ok(cluster) => cluster,
        Err(error) => {
            tracing::warn!(%error, "could not find out what the cluster is called");
            tokio::time::sleep(Duration::from_secs(1)).await;
            return;
        }
    };
    world.figures.leader.set(1);
    let config = &world.config;
    let facts = Facts::new(config.cloud.clone(), config.pods.clone(), cluster, world.figures.clone());
    let known = facts.subscribe();
    world.add_all_nodes();
    let (of, with) = (Arc::clone(world), Arc::clone(&term));
    let nodes = world.keys.run(NODES_AT_ONCE, over.clone(), move |key| {
        pool::reconcile(key, Arc::clone(&of), Arc::clone(&with))
    });
    let of = Arc::clone(world);
    let ended = world.ended_pods.run(PODS_AT_ONCE, over.clone(), move |pod| {
        let world = Arc::clone(&of);
        async move { kuryrport::reconcile(pod, &world).await }
    });
    tokio::join!(
        facts.run(over.clone()),
        follow_cloud(world, known, over.clone()),
        list_ports(world, &term, over.clone()),
        pool::trunks::run(world, &term, over.clone()),
        creations::run(world, &term, wanted, over.clone()),
        world.forecast.run(world, over.clone()),
        nodes,
        ended
    );
}

async fn all_synced(world: &World) -> bool {
    let deadline = tokio::time::Instant::now() + SYNC_WITHIN;
    world.nodes.wait_synced(deadline).await
        && world.pods.wait_synced(deadline).await
        && world.records.wait_synced(deadline).await
        && world.slices.wait_synced(deadline).await
}

/// What the cluster is called in the cloud.
async fn cluster_id(world: &World) -> Result<String> {
    if let Some(id) = &world.config.cluster_id {
        return Ok(id.clone());
    }
    let namespaces = Objects::<slim::Namespace>::new(Api::all(world.client.clone()), COMPONENT);
    let found = namespaces.get("kube-system").await?;
    found.and_then(|namespace| namespace.metadata.uid).ok_or(Error::NoClusterId)
}

/// Whatever changes in the cloud concerns every node.
async fn follow_cloud(world: &World, mut known: state::Receiver<Arc<Known>>, over: CancellationToken) {
    loop {
        let now = Arc::clone(&known.borrow_and_update());
        if now.access.is_some() != world.known().access.is_some() {
            world.list_soon.notify_one();
        }
        world.known.send_replace(now);
        world.add_all_nodes();
        tokio::select! {
            () = over.cancelled() => break,
            changed = known.changed() => if changed.is_err() { break },
        }
    }
    world.known.send_replace(Arc::default());
}

/// Lists our ports: at the begin, when a write leaves doubt, and every few minutes.
async fn list_ports(world: &World, term: &Term, over: CancellationToken) {
    loop {
        let wait = match list_once(world, term).await {
            Ok(true) => world.config.cloud.list_period,
            Ok(false) => LIST_AGAIN,
            Err(error) => {
                tracing::warn!(%error, "could not list our ports");
                LIST_AGAIN
            }
        };
        tokio::select! {
            () = over.cancelled() => return,
            () = world.list_soon.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Lists our ports, once it is known who we are.
async fn list_once(world: &World, term: &Term) -> Result<bool> {
    let known = world.known();
    let Some(access) = &known.access else { return Ok(false) };
    let listing = term.ports.begin();
    let ports = access.client.owned_ports(&PortFilter::new(&access.ownership)).await?;
    term.ports.end(listing, &access.owner, ports);
    world.figures.ports.set(i64::try_from(term.ports.len()).unwrap_or(i64::MAX));
    world.add_all_nodes();
    world.keys.add(Key::Orphans);
    Ok(true)
}

fn follow_pods(change: &Change<slim::Pod>, world: &World) {
    world.pods_by_node.update(change);
    world.pods_by_address.update(change);
    world.forecast.follow_pods(change);
    for pod in change.touched() {
        if let Some(node) = &pod.spec.node_name {
            world.keys.add(Key::Node(node.clone()));
        }
        if pod.has_ended() {
            world.ended_pods.add(pod.pod_ref());
        }
    }
}

/// Checks of readiness.
#[derive(Debug)]
struct Checks {
    kubernetes: Check,
    cloud: Check,
}

/// A standby is ready when it could lead; a leader when the cloud is as configured, too.
async fn tell_health(world: Arc<World>, checks: Checks, stop: CancellationToken) {
    loop {
        if world.in_sync() {
            checks.kubernetes.ok();
        } else {
            checks.kubernetes.failing(
                "the lists of nodes, pods, records and endpoint slices are not complete or not recent",
            );
        }
        match world.known().problems.first() {
            None => checks.cloud.ok(),
            Some(problem) => checks.cloud.failing(format!("{}: {}", problem.reason, problem.message)),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}
