//! Every watch, queue and server of the process, in a straight line.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kube::{Api, Client};
use kuryr_api::{kuryrloadbalancer::KuryrLoadBalancer, kuryrnode::KuryrNode, names::SERVICE_MODE_ANNOTATION};
use kuryr_kubernetes::{
    client::{connect, install_crypto},
    clock::Clock,
    event::{EventConfig, Recorder, recorder},
    index::Index,
    lease::{Leadership, LeaseConfig, elector, unique_identity},
    objects::Objects,
    queue::{Queue, QueueConfig},
    slim,
    store::{ObjectKey, Store},
    watch::{Change, Watch, WatchConfig, watch},
};
use kuryr_openstack::Client as CloudClient;
use kuryr_planning::{demand::Coming, ownership::OurPort, pool::Millis};
use kuryr_telemetry::{
    health::{self, Check, Health, Purpose},
    metrics::Metrics,
    server,
};
use kuryr_types::{PodRef, PortId};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, watch as state},
    task::JoinSet,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    cloud::{Connect, Known},
    config::{COMPONENT, Config, millis},
    demand::{Forecast, Workloads, controllers},
    error::{Error, Result},
    lead,
    loadbalancer::{self, Balancers},
    metrics::Figures,
    pool::{Key, UNREACHABLE_TAINT},
};

/// How long ended work may take at the end of the process.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// What a controller is put on.
pub struct Outside {
    /// The API server.
    pub client: Client,
    /// Makes clients of the cloud.
    pub connect: Connect,
    /// Where Events go.
    pub events: Recorder,
    /// Where figures go.
    pub registry: Metrics,
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

/// What every reconcile function can reach.
pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) client: Client,
    pub(crate) connect: Connect,
    pub(crate) nodes: Store<slim::Node>,
    pub(crate) pods: Store<slim::Pod>,
    pub(crate) records: Store<KuryrNode>,
    pub(crate) record_calls: Objects<KuryrNode>,
    pub(crate) pods_by_node: Index<String, slim::Pod>,
    pods_by_address: Index<IpAddr, slim::Pod>,
    slices: Store<slim::EndpointSlice>,
    slices_by_address: Index<IpAddr, slim::EndpointSlice>,
    slices_by_service: Index<ObjectKey, slim::EndpointSlice>,
    pub(crate) services: Store<slim::Service>,
    pub(crate) namespaces: Store<slim::Namespace>,
    pub(crate) views: Store<KuryrLoadBalancer>,
    views_by_member: Index<IpAddr, KuryrLoadBalancer>,
    pub(crate) events: Recorder,
    pub(crate) figures: Figures,
    /// What time of day it is, for what others have written.
    pub(crate) clock: Clock,
    /// Asks for a full list of our ports.
    pub(crate) list_soon: Notify,
    /// Asks for a look at trunks.
    pub(crate) trunks_soon: Notify,
    /// Asks for a look at ports of servers.
    pub(crate) servers_soon: Notify,
    pub(crate) forecast: Forecast,
    pub(crate) known: state::Sender<Arc<Known>>,
    pub(crate) keys: Queue<Key>,
    pub(crate) ended_pods: Queue<PodRef>,
    /// Keys are worked off.
    leads: AtomicBool,
    /// Services that have or had a load balancer.
    pub(crate) balancers: Queue<ObjectKey>,
    /// Services whose load balancer's view may have to be written.
    pub(crate) view_keys: Queue<ObjectKey>,
    start: Instant,
}

impl World {
    /// A world whose watches run until `stop`.
    pub(crate) fn watching(
        config: Config,
        outside: Outside,
        tasks: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) -> Arc<Self> {
        let Outside { client, connect, events, registry, clock, seed } = outside;
        let figures = Figures::new(&registry);
        let all = || WatchConfig { seed, ..WatchConfig::default() };
        let (nodes, node_watch) = watch::<slim::Node>(Api::all(client.clone()), all());
        let (pods, pod_watch) = watch::<slim::Pod>(Api::all(client.clone()), all());
        let (records, record_watch) = watch::<KuryrNode>(Api::all(client.clone()), all());
        let (slices, slice_watch) = watch::<slim::EndpointSlice>(Api::all(client.clone()), all());
        let (services, service_watch) = watch::<slim::Service>(Api::all(client.clone()), all());
        let (namespaces, namespace_watch) = watch::<slim::Namespace>(Api::all(client.clone()), all());
        let (views, view_watch) = watch::<KuryrLoadBalancer>(Api::all(client.clone()), all());
        let workloads = config.looks_ahead().then(|| workload_watches(&client, seed));
        let (workloads, workload_watches) = workloads.unzip();
        let forecast = Forecast::new(workloads);
        let world = Arc::new(Self {
            record_calls: Objects::new(Api::all(client.clone()), COMPONENT),
            pods_by_node: Index::new(|pod: &slim::Pod| pod.spec.node_name.iter().cloned().collect()),
            pods_by_address: Index::new(|pod: &slim::Pod| pod.status.pod_ips.clone()),
            slices_by_address: Index::new(|slice: &slim::EndpointSlice| slice.addresses().collect()),
            slices_by_service: Index::new(|slice| loadbalancer::service_of(slice).into_iter().collect()),
            views_by_member: Index::new(|view: &KuryrLoadBalancer| view.member_addresses().collect()),
            list_soon: Notify::new(),
            trunks_soon: Notify::new(),
            servers_soon: Notify::new(),
            forecast,
            known: state::Sender::default(),
            keys: queue("nodes", seed),
            ended_pods: queue("ended-pods", seed),
            leads: AtomicBool::new(false),
            balancers: queue("load-balancers", seed),
            view_keys: queue("load-balancer-views", seed),
            start: Instant::now(),
            config,
            client,
            connect,
            nodes,
            pods,
            records,
            slices,
            services,
            namespaces,
            views,
            events,
            figures,
            clock,
        });

        let of = Arc::clone(&world);
        tasks.spawn(node_watch.run(stop.clone(), move |change| follow_nodes(change, &of)));
        let of = Arc::clone(&world);
        tasks.spawn(record_watch.run(stop.clone(), move |change| {
            let names = change.touched().filter_map(|record| record.metadata.name.clone());
            names.for_each(|name| of.look_at(Key::Node(name)));
        }));
        let of = Arc::clone(&world);
        tasks.spawn(pod_watch.run(stop.clone(), move |change| follow_pods(change, &of)));
        if let Some(watches) = workload_watches {
            watches.spawn(tasks, &world, stop);
        }
        let of = Arc::clone(&world);
        tasks.spawn(slice_watch.run(stop.clone(), move |change| follow_slices(change, &of)));
        let of = Arc::clone(&world);
        tasks.spawn(namespace_watch.run(stop.clone(), move |change| follow_namespaces(change, &of)));
        let of = Arc::clone(&world);
        tasks.spawn(view_watch.run(stop.clone(), move |change| {
            of.views_by_member.update(change);
            loadbalancer::view::follow(change, &of);
        }));
        let of = Arc::clone(&world);
        tasks.spawn(service_watch.run(stop.clone(), move |change| {
            let concern_us = change.touched().filter(|service| loadbalancer::concerns_us(service, &of));
            concern_us.for_each(|service| of.look_at_balancer(ObjectKey::of(service.as_ref())));
        }));
        world
    }

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

    /// Waits until it is complete; tells whether it was before `deadline`.
    pub(crate) async fn wait_synced(&self, deadline: Instant) -> bool {
        self.nodes.wait_synced(deadline).await
            && self.pods.wait_synced(deadline).await
            && self.records.wait_synced(deadline).await
            && self.slices.wait_synced(deadline).await
    }

    /// Since when changes of pods and slices, which refer to addresses, have been told as they happened; none while they are not.
    pub(crate) fn told_since(&self) -> Option<Millis> {
        let since = self.pods.told_since()?.max(self.slices.told_since()?);
        Some(millis(since.saturating_duration_since(self.start)))
    }

    /// Those addresses of `ports` that a live pod or an `EndpointSlice` has, or a member of a load balancer, or may have. A Service that
    /// was not looked at yet may have the members that its view tells: they were told when it was last settled. While there may be
    /// others, of which nobody has told, they may have any but those of ports that this leadership made (`fresh`).
    pub(crate) fn held(
        &self,
        ports: &[OurPort],
        fresh: &BTreeSet<PortId>,
        balancers: &Balancers,
    ) -> BTreeSet<IpAddr> {
        let is_told = |view: &Arc<KuryrLoadBalancer>| {
            let key = ObjectKey::of(view.as_ref());
            let service = self.services.get(&key).filter(|_| !balancers.has_looked_at(&key));
            service.is_some_and(|service| loadbalancer::concerns_us(&service, self))
        };
        let may_be_any = balancers.unseen(self.now(), self).may_be();
        let held = |port: &OurPort, address: &IpAddr| {
            if may_be_any && !fresh.contains(&port.id) {
                return true;
            }
            let pods = self.pods_by_address.get(address);
            pods.iter().any(|pod| !pod.has_ended())
                || !self.slices_by_address.get(address).is_empty()
                || balancers.may_be_members(address)
                || self.views_by_member.get(address).iter().any(is_told)
        };
        let addresses = ports.iter().flat_map(|port| port.ips().map(move |address| (port, address)));
        addresses.filter(|(port, address)| held(port, address)).map(|(_, address)| address).collect()
    }

    /// The slices of a Service, if all of them are known.
    pub(crate) fn slices_of(&self, service: &ObjectKey) -> Option<Vec<Arc<slim::EndpointSlice>>> {
        self.slices.synced().then(|| self.slices_by_service.get(service))
    }

    /// The name of the one pod with an address of its own.
    pub(crate) fn pod_at(&self, address: IpAddr) -> Option<String> {
        let pods = self.pods_by_address.get(&address);
        let mut pods = pods.iter().filter(|pod| !pod.has_ended() && !pod.spec.host_network);
        let only = pods.next().filter(|_| pods.next().is_none())?;
        only.metadata.name.clone()
    }

    /// Addresses of the own port of a node, if this is an address of the node itself: the cloud knows the node by that port.
    pub(crate) fn own_port_at(&self, node: &str, address: IpAddr) -> Option<Vec<IpAddr>> {
        let key = ObjectKey::cluster(node);
        let record = self.records.get(&key)?;
        let own = record.spec.own_port.as_ref()?;
        let node = self.nodes.get(&key)?;
        let is_it = node.status.addresses.iter().any(|found| found.address.parse() == Ok(address));
        is_it.then(|| own.addresses.iter().map(|own| own.address).collect())
    }

    /// What a namespace says about who serves ClusterIPs.
    pub(crate) fn mode_of(&self, namespace: &str) -> Option<String> {
        let namespace = self.namespaces.get(&ObjectKey::cluster(namespace))?;
        namespace.metadata.annotations.as_ref()?.get(SERVICE_MODE_ANNOTATION).cloned()
    }

    /// What is about to come to a node.
    pub(crate) fn coming(&self, node: &str) -> Coming {
        self.forecast.of(node)
    }

    /// Has something looked at, by whoever leads: nobody works off the keys of a standby.
    pub(crate) fn look_at(&self, key: Key) {
        if self.leads.load(Ordering::Relaxed) {
            self.keys.add(key);
        }
    }

    /// Has the load balancer of a Service looked at, by whoever leads.
    pub(crate) fn look_at_balancer(&self, service: ObjectKey) {
        if self.leads.load(Ordering::Relaxed) {
            self.balancers.add(service);
        }
    }

    /// Has the view of a Service's load balancer looked at after this time, by whoever leads.
    pub(crate) fn look_at_view_after(&self, service: ObjectKey, wait: Duration) {
        if self.leads.load(Ordering::Relaxed) {
            self.view_keys.add_after(service, wait);
        }
    }

    /// Begins to note what has to be looked at, with all that a leader before may have left to do.
    pub(crate) fn begin_to_lead(&self) {
        self.leads.store(true, Ordering::Relaxed);
        self.add_all_nodes();
        for pod in self.pods.list().iter().filter(|pod| pod.has_ended()) {
            self.ended_pods.add(pod.pod_ref());
        }
        // Load balancers are listed.
        self.views.keys().into_iter().for_each(|view| self.view_keys.add(view));
    }

    /// Forgets what was to be looked at: the next leader looks for itself.
    pub(crate) fn end_to_lead(&self) {
        self.leads.store(false, Ordering::Relaxed);
        self.keys.clear();
        self.ended_pods.clear();
        self.balancers.clear();
        self.view_keys.clear();
    }

    /// Has all nodes looked at.
    pub(crate) fn add_all_nodes(&self) {
        let nodes = self.nodes.keys().into_iter().map(|key| key.name);
        let records = self.records.keys().into_iter().map(|key| key.name);
        nodes.chain(records).for_each(|name| self.look_at(Key::Node(name)));
    }
}

fn queue<K: Ord + Clone + std::fmt::Debug + Send + 'static>(
    name: &'static str,
    seed: Option<u64>,
) -> Queue<K> {
    Queue::new(QueueConfig { seed, ..QueueConfig::new(name) })
}

/// A controller that takes part in the election. When this is dropped it ends where it is, as in a crash: the Lease is
/// not given back.
pub struct Controller {
    world: Arc<World>,
    leadership: Leadership,
    tasks: JoinSet<()>,
    stop: CancellationToken,
    leading: AbortOnDropHandle<()>,
    election: AbortOnDropHandle<()>,
    release: CancellationToken,
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller").field("leads", &self.leads()).finish_non_exhaustive()
    }
}

impl Controller {
    /// Starts a controller, on the current async runtime. `identity` is its own among all candidates.
    ///
    /// # Errors
    ///
    /// The times of the Lease cannot keep two leaders apart.
    pub fn start(config: Config, outside: Outside, identity: &str) -> Result<Self> {
        let (mut tasks, stop, release) = (JoinSet::new(), CancellationToken::new(), CancellationToken::new());
        let client = outside.client.clone();
        let world = World::watching(config, outside, &mut tasks, &stop);
        let lease = LeaseConfig::new(&world.config.lease_namespace, COMPONENT, identity);
        let (candidate, leadership) = elector(client, lease)?;
        let candidate = candidate.by(world.clock.clone());
        // The elector outlives the work: the Lease is released after the last write.
        let election = AbortOnDropHandle::new(tokio::spawn(candidate.run(release.clone())));
        let (of, with) = (Arc::clone(&world), leadership.clone());
        let leading = tokio::spawn(async move { lead::whenever_elected(&of, &with).await });
        let leading = AbortOnDropHandle::new(leading);
        Ok(Self { world, leadership, tasks, stop, leading, election, release })
    }

    /// Whether it may write now.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.leadership.is_leader_now()
    }

    /// Keys that are being looked at, or soon, with those whose last look failed.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        let stats = self.world.keys.stats();
        stats.ready + stats.running + stats.failing
    }

    /// Ends when a part ends by a bug.
    async fn broken(&mut self) {
        tokio::select! {
            () = kuryr_process::first_panic(&mut self.tasks) => {}
            _ = &mut self.leading => {}
            _ = &mut self.election => {}
        }
    }

    /// Stops all parts and gives the Lease back after the last write, as when the process is told to end.
    pub async fn stop(mut self) {
        self.leading.abort();
        // One that has ended may not be waited for again.
        if !self.leading.is_finished() {
            let _ = (&mut self.leading).await;
        }
        self.stop.cancel();
        self.release.cancel();
        if !self.election.is_finished() {
            let _ = tokio::time::timeout(STOP_WITHIN, self.election).await;
        }
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(STOP_WITHIN, all).await;
    }
}

/// Runs until a signal ends the process.
///
/// # Errors
///
/// Something that cannot be had later either: a port that is taken, a client that cannot be built.
pub(crate) async fn run(config: Config) -> Result<()> {
    install_crypto();
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signal)?;

    let registry = Metrics::new();
    let health = Health::new();
    let checks = Checks {
        kubernetes: health.check("kubernetes", Purpose::Ready),
        cloud: health.check("cloud", Purpose::Ready),
    };
    let health_listener = server::bind(config.health).await?;
    let metrics_listener = server::bind(config.metrics).await?;

    let client = connect(&config.client).await?;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut event_config = EventConfig::new(COMPONENT, host.clone());
    event_config.enabled = config.use_events;
    let (events, event_writer) = recorder(client.clone(), event_config);
    let outside = Outside {
        client,
        connect: Arc::new(CloudClient::new),
        events,
        registry: registry.clone(),
        clock: Clock::of_machine(),
        seed: None,
    };
    let mut controller = Controller::start(config, outside, &unique_identity(&host))?;
    let stop = controller.stop.clone();
    let tasks = &mut controller.tasks;
    tasks.spawn(server::serve(health_listener, health::router(health, registry.clone()), stop.clone()));
    tasks.spawn(server::serve(metrics_listener, health::metrics_router(registry), stop.clone()));
    tasks.spawn(event_writer.run(stop.clone()));
    tasks.spawn(tell_health(Arc::clone(&controller.world), checks, stop));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "started");
    let mut ended = Ok(());
    tokio::select! {
        _ = terminate.recv() => tracing::info!("ending: terminated"),
        _ = interrupt.recv() => tracing::info!("ending: interrupted"),
        () = controller.broken() => ended = Err(Error::Broken),
    }
    controller.stop().await;
    ended
}

/// The watches of what makes pods.
struct WorkloadWatches {
    deployments: Watch<slim::Deployment>,
    replica_sets: Watch<slim::ReplicaSet>,
    stateful_sets: Watch<slim::StatefulSet>,
    jobs: Watch<slim::Job>,
}

fn workload_watches(client: &Client, seed: Option<u64>) -> (Workloads, WorkloadWatches) {
    let all = || WatchConfig { seed, ..WatchConfig::default() };
    let (deployments, deployment_watch) = watch(Api::all(client.clone()), all());
    let (replica_sets, replica_set_watch) = watch(Api::all(client.clone()), all());
    let (stateful_sets, stateful_set_watch) = watch(Api::all(client.clone()), all());
    let (jobs, job_watch) = watch(Api::all(client.clone()), all());
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

fn follow_nodes(change: &Change<slim::Node>, world: &World) {
    change.touched().for_each(|node| world.look_at(Key::Node(node.name().to_owned())));
    if change.touched().any(|node| node.has_taint(UNREACHABLE_TAINT)) {
        // What carries the node in the cloud may be why.
        world.trunks_soon.notify_one();
        world.servers_soon.notify_one();
    }
}

/// Who serves ClusterIPs of a namespace may be another now.
fn follow_namespaces(change: &Change<slim::Namespace>, world: &World) {
    let touched: BTreeSet<&str> =
        change.touched().filter_map(|namespace| namespace.metadata.name.as_deref()).collect();
    for service in world.services.list() {
        let is_in =
            service.metadata.namespace.as_deref().is_some_and(|namespace| touched.contains(namespace));
        if is_in && loadbalancer::concerns_us(&service, world) {
            world.look_at_balancer(ObjectKey::of(service.as_ref()));
        }
    }
}

fn follow_slices(change: &Change<slim::EndpointSlice>, world: &World) {
    world.slices_by_address.update(change);
    world.slices_by_service.update(change);
    for service in change.touched().filter_map(|slice| loadbalancer::service_of(slice)) {
        let known = world.services.get(&service);
        if known.is_some_and(|service| loadbalancer::concerns_us(&service, world)) {
            world.look_at_balancer(service);
        }
    }
}

fn follow_pods(change: &Change<slim::Pod>, world: &World) {
    world.pods_by_node.update(change);
    world.pods_by_address.update(change);
    world.forecast.index_pods(change);
    if change.leaves(slim::Pod::is_like) {
        return;
    }
    world.forecast.follow();
    for pod in change.touched() {
        if let Some(node) = &pod.spec.node_name {
            world.look_at(Key::Node(node.clone()));
        }
        if pod.has_ended() && world.leads.load(Ordering::Relaxed) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cloud::fake,
        lead::tests::{OPTIONS, Outdoors},
    };

    #[tokio::test(start_paused = true)]
    async fn one_of_which_a_part_has_ended_by_a_bug_stops_in_order() {
        for of_election in [false, true] {
            let outdoors = Outdoors::with_nodes(&[("n1", 0, 0)]);
            let outside = Outside {
                client: outdoors.api.client(),
                connect: outdoors.cloud.connect(),
                events: Recorder::disabled(),
                registry: Metrics::new(),
                clock: Clock::of_machine(),
                seed: None,
            };
            let mut controller = Controller::start(fake::config(OPTIONS), outside, "a").unwrap();
            let part = if of_election { &controller.election } else { &controller.leading };
            part.abort();
            controller.broken().await;
            controller.stop().await;
        }
    }
}
