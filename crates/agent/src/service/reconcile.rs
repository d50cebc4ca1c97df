//! The story of Services on this node, on one screen.
//!
//! 1. The programs are loaded; what the tables hold is read.
//! 2. When all lists are complete, addresses of nodes and each Service are written, and what nobody asks for is deleted.
//! 3. The programs are attached, in the place of those of an earlier agent, and asked whether they answer.
//! 4. From then on each Service is written when it changes. A write that fails has the tables read anew.
//! 5. Sockets that lose their endpoint by that are closed, by [`super::sockets`].
//! 6. What clients that are no processes of the node find is noted, and written by [`super::inbound`].

use std::{
    collections::BTreeSet,
    net::IpAddr,
    num::NonZeroUsize,
    sync::{Arc, Mutex},
    time::Duration,
};

use k8s_openapi::api::core::v1::ObjectReference;
use kuryr_datapath::ServicesConfig;
use kuryr_kubernetes::{Outcome, event::reference, store::ObjectKey};
use kuryr_planning::service::{
    Change, Desired, Owner, OwnerKind, Plan, Problem, Step, Tables, desired, diff, host_ports, leftovers,
    nodes,
};
use tokio_util::sync::CancellationToken;

use super::{
    Held, Services, Subject, Work, api_servers, apply,
    forwarder::Forwarder,
    inbound, observe, sockets,
    status::{ServiceHealth, publish},
};
use crate::{
    error::{Error, Result, WithCauses, with_causes},
    wiring::World,
};

/// Between attempts to load the programs: what is missing is a setting of the node.
const OPEN_AGAIN: Duration = Duration::from_secs(10);
/// What is awaited is told by watches; this is for the case that it is not.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How often the programs are looked after, which somebody may take away.
const LOOK_AFTER: Duration = Duration::from_secs(60);
/// A frontend that another Service has is tried again after this.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// Reason of Events about what of a Service is not served.
const NOT_SERVED: &str = "KuryrServiceNotServed";
/// Reason of the Event that endpoints do not see clients' addresses.
const CLIENT_ADDRESS: &str = "KuryrClientAddressNotKept";
/// What is to be done about it.
const CLIENT_ADDRESS_TOLD: &str = "externalTrafficPolicy: Local: clients outside are led to endpoints on the node that they reach, but endpoints see an address of the node in the place of the client's: it is kept where all that a pod's port has is Kuryr's own security group that lets everything in, and the node is not of mode nested-macvlan; with a Service of type LoadBalancer (provider ovn) they see the client's, too";
/// Writes of one job: about a millisecond.
const WRITES_AT_ONCE: usize = 1000;

/// Loads the programs, again and again until that succeeds; or takes them away where Services are not ours.
pub(crate) async fn open(world: World) {
    loop {
        let bpf_dir = world.config.bpf_dir.clone();
        if !world.config.serves_services {
            let remove = move || {
                kuryr_datapath::Services::remove(&bpf_dir)?;
                inbound::remove()
            };
            match world.kernel.forwarding("take the programs for Services away", remove).await {
                Ok(()) => return publish(&world, ServiceHealth::Off),
                Err(error) => not_usable(&world, &error),
            }
        } else {
            let config = ServicesConfig {
                cgroup_dir: world.config.cgroup_dir.clone(),
                ..ServicesConfig::new(bpf_dir)
            };
            let open = move || kuryr_datapath::Services::open(&config);
            match world.kernel.forwarding("load the programs for Services", open).await {
                Ok(services) => {
                    tracing::info!(cgroup = %services.cgroup().display(), "programs for Services are loaded");
                    return world.services.opened(Arc::new(Mutex::new(services)));
                }
                Err(error) => not_usable(&world, &error),
            }
        }
        tokio::time::sleep(OPEN_AGAIN).await;
    }
}

fn not_usable(world: &World, error: &Error) {
    publish(world, ServiceHealth::NotUsable { why: with_causes(error) });
}

/// Works the queue off until `stop`.
pub(crate) async fn run(world: World, stop: CancellationToken) {
    let queue = world.services.queue.clone();
    queue
        .run(NonZeroUsize::MIN, stop, move |work| {
            let world = world.clone();
            async move { reconcile(&world, work).await.map_err(WithCauses) }
        })
        .await;
}

async fn reconcile(world: &World, work: Work) -> Result<Outcome> {
    let room = &world.services;
    if !world.config.serves_services {
        return Ok(Outcome::Done);
    }
    let Some(forwarder) = room.forwarder() else {
        return Ok(Outcome::wait(LOOK_AGAIN, "the programs for Services"));
    };
    if !room.synced() || !world.pods.store().synced() {
        return Ok(Outcome::wait(LOOK_AGAIN, "the lists of Services, EndpointSlices, Nodes and pods"));
    }
    if !world.watched.records().synced() {
        return Ok(Outcome::wait(
            LOOK_AGAIN,
            "the node's record, which says where pods and the node have addresses",
        ));
    }
    let mut held = room.held.lock().await;
    api_servers::save(world, &mut held).await;
    let done = match &work {
        Work::All => all(world, &forwarder, &mut held).await,
        Work::One(subject) => one(world, &forwarder, &mut held, subject).await,
    };
    if let Err(error) = &done {
        // A change that fails may pass with the look at all that follows.
        if work == Work::All {
            not_usable(world, error);
        }
        // How much of it was written is not known.
        held.tables = None;
        room.queue.add(Work::All);
    }
    if let Some(tables) = &held.tables {
        world.metrics.service_tables(tables.frontends(), tables.backends());
    }
    done
}

async fn all(world: &World, forwarder: &Arc<dyn Forwarder>, held: &mut Held) -> Result<Outcome> {
    let mut tables = match held.tables.take() {
        Some(tables) => tables,
        None => read(world, forwarder).await?,
    };
    held.cluster = observe::cluster(world);
    let mut pending = Pending::new(world, forwarder);
    pending.take_nodes(held, &mut tables);
    let known = subjects(world, &tables);
    held.problems.retain(|subject, _| known.contains(subject));
    held.told_client_address.retain(|subject| known.contains(subject));
    for subject in &known {
        let plan = plan(world, subject, &tables, held);
        pending.take(plan.changes, &mut tables);
        pending.write_some().await?;
    }
    note_all(world, held, &known);
    let rest = leftovers(&tables);
    for frontend in rest.iter().flat_map(Change::frontends) {
        tracing::info!(%frontend, "no Service asks for it any more");
    }
    pending.take(rest, &mut tables);
    pending.write().await?;
    held.tables = Some(tables);
    attach(world, forwarder, held).await?;
    world.services.lost.look();
    answer_health_checks(world, held).await;
    Ok(Outcome::again(LOOK_AFTER, "programs that somebody takes away"))
}

/// Has clients from outside served by what was planned of all.
fn note_all(world: &World, held: &Held, known: &BTreeSet<Subject>) {
    let owners: BTreeSet<Owner> = known
        .iter()
        .map(|subject| match subject {
            Subject::Service(key) => owner(OwnerKind::Service, key),
            Subject::Pod(key) => owner(OwnerKind::Pod, key),
        })
        .collect();
    world.services.noted.complete(own_addresses(world, held), |owner| owners.contains(owner));
}

fn own_addresses<'a>(world: &World, held: &'a Held) -> &'a [IpAddr] {
    held.cluster.nodes.get(&world.config.node_name).map_or(&[], Vec::as_slice)
}

async fn one(
    world: &World,
    forwarder: &Arc<dyn Forwarder>,
    held: &mut Held,
    subject: &Subject,
) -> Result<Outcome> {
    // All of them are going to be looked at.
    let Some(mut tables) = held.tables.take() else { return Ok(Outcome::Done) };
    let told_before = held.problems.get(subject).cloned();
    // Ports that are new since the last look at all.
    held.cluster.open = inbound::open(world);
    let plan = plan(world, subject, &tables, held);
    let is_taken = plan.problems.iter().any(|problem| matches!(problem, Problem::Taken { .. }));
    let ends_endpoints = sockets::ends_endpoints(&plan.changes);
    let mut pending = Pending::new(world, forwarder);
    pending.take(plan.changes, &mut tables);
    pending.write().await?;
    held.tables = Some(tables);
    let (Subject::Service(key) | Subject::Pod(key)) = subject;
    world.services.lost.changed(key, ends_endpoints);
    answer_health_checks(world, held).await;
    if held.attached && held.problems.get(subject) != told_before.as_ref() {
        publish_served(world, forwarder, held);
    }
    Ok(if is_taken {
        Outcome::again(TRY_AGAIN, "a frontend that another Service has")
    } else {
        Outcome::Done
    })
}

/// Plans one Service or pod, and notes what of it is not served.
fn plan(world: &World, subject: &Subject, tables: &Tables, held: &mut Held) -> Plan {
    let (owner, desired, object) = wished(world, subject, held);
    if let Subject::Service(key) = subject {
        match desired.health_check {
            Some(check) => drop(held.health_checks.insert(key.clone(), check)),
            None => drop(held.health_checks.remove(key)),
        }
    }
    tell_client_address(world, subject, object.as_ref(), desired.tells_client_address, held);
    let mut plan = diff(tables, &Arc::new(owner.clone()), &desired);
    let without_room = world.services.noted.note(&owner, desired.inbound, &plan, own_addresses(world, held));
    let is_new = |problem: &Problem| !plan.problems.contains(problem);
    let of_inbound: Vec<_> = without_room.into_iter().filter(is_new).collect();
    plan.problems.extend(of_inbound);
    tracing::debug!(%owner, left_alone = ?desired.left_alone, changes = plan.changes.len(), "planned");
    let text = |problem: &Problem| format!("{owner}: {problem}");
    let told_before = held.problems.get(subject).map_or(&[][..], Vec::as_slice);
    let problems = || desired.problems.iter().chain(&plan.problems);
    tell(world, object.as_ref(), problems().filter(|problem| !told_before.contains(&text(problem))));
    let problems: Vec<String> = problems().map(text).collect();
    if problems.is_empty() {
        held.problems.remove(subject);
    } else {
        held.problems.insert(subject.clone(), problems);
    }
    plan
}

/// What the tables should hold of it, and the object that Events about it are written to.
fn wished(world: &World, subject: &Subject, held: &Held) -> (Owner, Desired, Option<ObjectReference>) {
    let name = &world.config.node_name;
    match subject {
        Subject::Service(key) => {
            let look = observe::look(&world.services, key);
            let node = world.watched.node();
            let facts = observe::node_facts(name, node.as_deref());
            let desired = desired(look.service().as_ref(), &look.slices(), facts, &held.cluster);
            (owner(OwnerKind::Service, key), desired, look.object())
        }
        Subject::Pod(key) => {
            let found = world.pods.store().get(key);
            let own = own_addresses(world, held);
            let desired = host_ports(found.as_deref().and_then(observe::pod).as_ref(), own);
            (owner(OwnerKind::Pod, key), desired, found.as_deref().map(reference))
        }
    }
}

fn owner(kind: OwnerKind, key: &ObjectKey) -> Owner {
    Owner { kind, namespace: key.namespace.clone(), name: key.name.clone() }
}

/// Says on a Service or pod what of it is not served.
fn tell<'a>(world: &World, object: Option<&ObjectReference>, problems: impl Iterator<Item = &'a Problem>) {
    let Some(object) = object else { return };
    for problem in problems.filter(|problem| problem.is_the_authors()) {
        world.sandboxes.events.warning(object, NOT_SERVED, problem.to_string());
    }
}

/// Says it once on a Service, for as long as it is so.
fn tell_client_address(
    world: &World,
    subject: &Subject,
    object: Option<&ObjectReference>,
    tells: bool,
    held: &mut Held,
) {
    if !tells {
        held.told_client_address.remove(subject);
    } else if let Some(object) = object
        && held.told_client_address.insert(subject.clone())
    {
        world.sandboxes.events.warning(object, CLIENT_ADDRESS, CLIENT_ADDRESS_TOLD);
    }
}

/// Answers load balancers by what is held now. What cannot be answered is tried again with the next look.
async fn answer_health_checks(world: &World, held: &mut Held) {
    let checks: Vec<_> = held.health_checks.iter().map(|(key, check)| (key.clone(), *check)).collect();
    for (key, why) in held.answering.set(checks, held.attached).await {
        tracing::warn!(service = %key, "{why}");
        if let Some(object) = observe::look(&world.services, &key).object() {
            world.sandboxes.events.warning(&object, NOT_SERVED, why);
        }
    }
}

/// Everything that has frontends or should have.
fn subjects(world: &World, tables: &Tables) -> BTreeSet<Subject> {
    let services = world.services.services.keys().into_iter().map(Subject::Service);
    let pods = world.pods.store().list().into_iter().filter(|pod| pod.spec.all_host_ports().next().is_some());
    let owners = tables.owners().map(|owner| {
        let key = ObjectKey::namespaced(&owner.namespace, &owner.name);
        match owner.kind {
            OwnerKind::Service => Subject::Service(key),
            OwnerKind::Pod => Subject::Pod(key),
        }
    });
    services.chain(pods.map(|pod| Subject::Pod(ObjectKey::of(&*pod)))).chain(owners).collect()
}

async fn read(world: &World, forwarder: &Arc<dyn Forwarder>) -> Result<Tables> {
    let reader = Arc::clone(forwarder);
    let contents = world.kernel.forwarding("read the tables of Services", move || reader.read()).await?;
    let (tables, strays) = Tables::read(&contents);
    tracing::info!(frontends = tables.frontends(), strays = strays.len(), "read the tables of Services");
    let writer = Arc::clone(forwarder);
    world.kernel.forwarding("tidy the tables of Services", move || writer.write(&strays)).await?;
    Ok(tables.within(apply::MOST))
}

async fn attach(world: &World, forwarder: &Arc<dyn Forwarder>, held: &mut Held) -> Result<()> {
    let attached = Arc::clone(forwarder);
    let attach = move || attached.attach().map(|()| attached.answer());
    let answers = world.kernel.forwarding("attach the programs for Services", attach).await?;
    held.attached = answers;
    if answers {
        publish_served(world, forwarder, held);
    } else {
        let cgroup = world.config.cgroup_dir.as_ref().map_or_else(
            || "the root of the machine's cgroups".to_owned(),
            |path| path.display().to_string(),
        );
        publish(world, ServiceHealth::NoAnswer { cgroup });
    }
    Ok(())
}

fn publish_served(world: &World, forwarder: &Arc<dyn Forwarder>, held: &Held) {
    let problems = held.problems.values().flatten().cloned().collect();
    let room = &world.services;
    let (leaves_sockets, inbound) = (room.lost.trouble(), room.noted.health());
    let tells_refusal = forwarder.tells_refusal();
    publish(world, ServiceHealth::Served { problems, tells_refusal, leaves_sockets, inbound });
}

/// Writes that are planned and not carried out yet.
struct Pending<'a> {
    world: &'a World,
    forwarder: &'a Arc<dyn Forwarder>,
    steps: Vec<Step>,
}

impl<'a> Pending<'a> {
    fn new(world: &'a World, forwarder: &'a Arc<dyn Forwarder>) -> Self {
        Self { world, forwarder, steps: Vec::new() }
    }

    /// Takes changes; the tables are as if they were written.
    fn take(&mut self, changes: Vec<Change>, tables: &mut Tables) {
        for mut change in changes {
            self.steps.append(&mut change.steps);
            tables.note(change);
        }
    }

    /// Takes what differs of the addresses of nodes.
    fn take_nodes(&mut self, held: &Held, tables: &mut Tables) {
        let kinds = nodes::kinds(&held.cluster, &self.world.config.node_name);
        self.steps.extend(nodes::diff(tables, &kinds));
        tables.note_nodes(kinds);
    }

    /// Writes, if there is enough for a job.
    async fn write_some(&mut self) -> Result<()> {
        if self.steps.len() < WRITES_AT_ONCE { Ok(()) } else { self.write().await }
    }

    /// Writes everything, in jobs of a bounded length.
    async fn write(&mut self) -> Result<()> {
        while !self.steps.is_empty() {
            let rest = self.steps.split_off(self.steps.len().min(WRITES_AT_ONCE));
            let (job, writer) = (std::mem::replace(&mut self.steps, rest), Arc::clone(self.forwarder));
            let count = job.len();
            let write = move || writer.write(&job);
            let written = self.world.kernel.forwarding("write the tables of Services", write).await;
            self.world.metrics.service_written(count, written.is_ok());
            written?;
        }
        Ok(())
    }
}

impl Services {
    /// Whether everything there is to know has been written; for tests.
    #[cfg(test)]
    async fn is_written(&self) -> bool {
        self.held.lock().await.tables.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{super::forwarder::fake::FakeForwarder, *};
    use crate::{checkpoint::tests::in_memory, kernel::fake::FakeKernel, wiring::fake::FakeWorld};
    use kuryr_kubernetes::{slim, watch};
    use serde_json::json;

    struct Agent {
        fake: FakeWorld,
        forwarder: Arc<FakeForwarder>,
    }

    impl Agent {
        fn new(forwarder: Arc<FakeForwarder>) -> Self {
            let fake = FakeWorld::new(in_memory(), FakeKernel::default(), vec![]);
            let dynamic: Arc<dyn Forwarder> = Arc::clone(&forwarder) as Arc<dyn Forwarder>;
            fake.world.services.opened(dynamic);
            Self { fake, forwarder }
        }

        fn started() -> Self {
            let forwarder = Arc::new(FakeForwarder::default());
            forwarder.0.lock().unwrap().answers = true;
            Self::new(forwarder)
        }

        fn list(&self, services: Vec<slim::Service>, slices: Vec<slim::EndpointSlice>) {
            let room = &self.fake.world.services;
            room.on_service(&room.services.reset(services, BTreeMap::new()));
            room.on_slice(&room.slices.store().reset(slices, BTreeMap::new()));
            room.on_node(
                &room
                    .nodes
                    .reset(vec![node("node1", "192.0.2.1"), node("node2", "192.0.2.2")], BTreeMap::new()),
            );
        }

        fn apply(&self, slice: slim::EndpointSlice) -> watch::Change<slim::EndpointSlice> {
            let room = &self.fake.world.services;
            let change = room.slices.store().apply(slice);
            room.on_slice(&change);
            change
        }

        async fn reconcile(&self, work: Work) -> Result<Outcome> {
            reconcile(&self.fake.world, work).await
        }

        /// Values and backends, written as `10.96.0.7:80/TCP -> 10.1.0.4:8080`.
        fn told(&self) -> Vec<String> {
            let kernel = self.forwarder.0.lock().unwrap();
            let contents = &kernel.contents;
            let values = contents.values.iter().map(|(frontend, value)| {
                let backends = contents.backends(value).flatten();
                let targets: Vec<String> = backends.map(|backend| backend.target.to_string()).collect();
                format!("{frontend} -> {}", targets.join(", "))
            });
            values.collect()
        }

        fn health(&self) -> &'static str {
            self.fake.world.state.get().services.reason()
        }
    }

    fn service(name: &str, address: &str) -> slim::Service {
        let object = json!({
            "metadata": {"namespace": "d", "name": name},
            "spec": {"clusterIPs": [address], "ports": [{"name": "http", "protocol": "TCP", "port": 80}]},
        });
        serde_json::from_value(object).unwrap()
    }

    fn slice(name: &str, addresses: &[&str]) -> slim::EndpointSlice {
        let endpoint = |address: &&str| json!({"addresses": [address], "conditions": {"ready": true}});
        let object = json!({
            "metadata": {"namespace": "d", "name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
            "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
        });
        serde_json::from_value(object).unwrap()
    }

    fn node(name: &str, address: &str) -> slim::Node {
        let addresses =
            json!([{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": address}]);
        serde_json::from_value(json!({"metadata": {"name": name}, "status": {"addresses": addresses}}))
            .unwrap()
    }

    fn web() -> Work {
        Work::One(Subject::Service(ObjectKey::namespaced("d", "web")))
    }

    #[tokio::test]
    async fn nothing_is_written_before_both_lists_are_complete() {
        let agent = Agent::started();
        let room = &agent.fake.world.services;
        for _ in 0..2 {
            assert!(matches!(agent.reconcile(Work::All).await.unwrap(), Outcome::Wait { .. }));
            room.services.reset(vec![service("web", "10.96.0.7")], BTreeMap::new());
        }
        assert_eq!((agent.forwarder.0.lock().unwrap().writes, agent.health()), (0, "Starting"));
        agent.list(vec![service("web", "10.96.0.7")], vec![slice("web", &["10.1.0.4"])]);
        agent.reconcile(Work::All).await.unwrap();
        assert_eq!(agent.told(), ["10.96.0.7:80/TCP -> 10.1.0.4:8080"]);
        assert_eq!((agent.forwarder.0.lock().unwrap().attached, agent.health()), (1, "Served"));
    }

    #[tokio::test]
    async fn ports_of_nodes_and_the_addresses_of_nodes_are_followed() {
        let agent = Agent::started();
        let mut web = service("web", "10.96.0.7");
        web.spec.ports[0].node_port = 30080;
        agent.list(vec![web], vec![slice("web", &["10.1.0.4"])]);
        agent.reconcile(Work::All).await.unwrap();
        assert_eq!(
            agent.told(),
            ["10.96.0.7:80/TCP -> 10.1.0.4:8080", "30080/TCP at every node's IPv4 -> 10.1.0.4:8080"]
        );
        let room = &agent.fake.world.services;
        let nodes = || {
            let kernel = agent.forwarder.0.lock().unwrap();
            kernel
                .contents
                .nodes
                .iter()
                .map(|(address, kind)| format!("{address} {kind:?}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(nodes(), ["127.0.0.1 Loopback", "192.0.2.1 Own", "192.0.2.2 Other", "::1 Loopback"]);
        room.on_node(&room.nodes.apply(node("node2", "192.0.2.3")));
        agent.reconcile(Work::All).await.unwrap();
        assert_eq!(nodes(), ["127.0.0.1 Loopback", "192.0.2.1 Own", "192.0.2.3 Other", "::1 Loopback"]);
    }

    #[tokio::test]
    async fn ports_of_pods_on_the_node_are_there_while_the_pod_is() {
        let agent = Agent::started();
        agent.list(vec![], vec![]);
        let pod = |phase: &str, host_ip: &str| {
            let port = json!({"containerPort": 80, "hostPort": 8000, "hostIP": host_ip});
            let object = json!({
                "metadata": {"namespace": "d", "name": "p"}, "spec": {"containers": [{"ports": [port]}]},
                "status": {"phase": phase, "podIPs": [{"ip": "10.1.0.4"}]},
            });
            serde_json::from_value::<slim::Pod>(object).unwrap()
        };
        let room = agent.fake.world.services.clone();
        let store = agent.fake.world.pods.store().clone();
        let the_pod = || Work::One(Subject::Pod(ObjectKey::namespaced("d", "p")));
        room.on_pod(&store.apply(pod("Running", "")));
        agent.reconcile(Work::All).await.unwrap();
        let all = ["at this node's IPv4", "at loopback IPv4", "at this node's IPv4 for its processes"]
            .map(|at| format!("8000/TCP {at} -> 10.1.0.4:80"));
        assert_eq!(agent.told(), all);
        store.apply(pod("Running", "192.0.2.2"));
        agent.reconcile(the_pod()).await.unwrap();
        assert_eq!((agent.told().len(), agent.health()), (0, "PartlyServed"), "the other node's address");
        store.apply(pod("Running", "192.0.2.1"));
        agent.reconcile(the_pod()).await.unwrap();
        assert_eq!(
            (agent.told(), agent.health()),
            (vec!["192.0.2.1:8000/TCP -> 10.1.0.4:80".to_owned()], "Served")
        );
        store.apply(pod("Succeeded", "192.0.2.1"));
        agent.reconcile(the_pod()).await.unwrap();
        assert_eq!(agent.told(), Vec::<String>::new());
        store.apply(pod("Running", ""));
        agent.reconcile(the_pod()).await.unwrap();
        store.delete(&ObjectKey::namespaced("d", "p"));
        agent.reconcile(Work::All).await.unwrap();
        assert_eq!(agent.told(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn external_addresses_that_are_not_allowed_are_told() {
        let agent = Agent::started();
        let mut web = service("web", "10.96.0.7");
        web.spec.external_ips = vec!["203.0.113.9".to_owned()];
        agent.list(vec![web], vec![slice("web", &["10.1.0.4"])]);
        agent.reconcile(Work::All).await.unwrap();
        assert_eq!((agent.told().len(), agent.health()), (1, "PartlyServed"));
        let told = agent.fake.world.state.get().services.to_string();
        assert!(told.starts_with("Service d/web: spec.externalIPs: 203.0.113.9 is not served"), "{told}");
    }

    #[tokio::test]
    async fn changes_of_slices_and_services_are_followed() {
        let agent = Agent::started();
        agent.list(vec![service("web", "10.96.0.7")], vec![slice("web", &["10.1.0.4"])]);
        agent.reconcile(Work::All).await.unwrap();
        agent.apply(slice("web", &["10.1.0.4", "10.1.0.5"]));
        agent.reconcile(web()).await.unwrap();
        assert_eq!(agent.told(), ["10.96.0.7:80/TCP -> 10.1.0.4:8080, 10.1.0.5:8080"]);
        agent.apply(slice("web", &[]));
        agent.reconcile(web()).await.unwrap();
        assert_eq!(agent.told(), ["10.96.0.7:80/TCP -> "]);
        let room = &agent.fake.world.services;
        room.services.delete(&ObjectKey::namespaced("d", "web"));
        agent.reconcile(web()).await.unwrap();
        assert_eq!(agent.told(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn the_next_agent_writes_only_what_differs() {
        let first = Agent::started();
        let slices = || vec![slice("web", &["10.1.0.4"]), slice("old", &["10.1.0.9"])];
        first.list(vec![service("web", "10.96.0.7"), service("old", "10.96.0.9")], slices());
        first.reconcile(Work::All).await.unwrap();
        let writes = first.forwarder.0.lock().unwrap().writes;
        let next = Agent::new(Arc::clone(&first.forwarder));
        next.list(vec![service("web", "10.96.0.7")], slices());
        next.reconcile(Work::All).await.unwrap();
        assert_eq!(next.told(), ["10.96.0.7:80/TCP -> 10.1.0.4:8080"]);
        assert_eq!(
            next.forwarder.0.lock().unwrap().writes,
            writes + 2,
            "the value and the backend of the other"
        );
    }

    #[tokio::test]
    async fn after_a_write_that_failed_the_tables_are_read_anew() {
        let agent = Agent::started();
        agent.list(vec![service("web", "10.96.0.7")], vec![slice("web", &["10.1.0.4"])]);
        agent.reconcile(Work::All).await.unwrap();
        agent.forwarder.0.lock().unwrap().room = Some(1);
        agent.apply(slice("web", &["10.1.0.5", "10.1.0.6"]));
        assert!(agent.reconcile(web()).await.is_err());
        assert_eq!(agent.told(), ["10.96.0.7:80/TCP -> 10.1.0.4:8080"], "as before");
        assert!(!agent.fake.world.services.is_written().await);
        assert!(
            matches!(agent.reconcile(web()).await.unwrap(), Outcome::Done),
            "all of them are looked at anyway"
        );
        assert_eq!(agent.health(), "Served", "that may be over at once");
        assert!(agent.reconcile(Work::All).await.is_err());
        assert_eq!(agent.health(), "KernelNotUsable");
        agent.forwarder.0.lock().unwrap().room = None;
        agent.reconcile(Work::All).await.unwrap();
        assert_eq!(agent.told(), ["10.96.0.7:80/TCP -> 10.1.0.5:8080, 10.1.0.6:8080"]);
        assert_eq!(agent.forwarder.0.lock().unwrap().contents.rows.len(), 1, "nothing is left over");
        assert_eq!(agent.health(), "Served");
    }

    #[tokio::test]
    async fn a_service_that_is_too_large_is_told_and_keeps_nobody_from_being_served() {
        let agent = Agent::started();
        let ports = || (0..170).map(|number| json!({"name": format!("p{number}"), "port": 1000 + number}));
        let mut big = service("big", "10.96.0.1");
        big.spec.ports = ports().map(|port| serde_json::from_value(port).unwrap()).collect();
        let addresses: Vec<String> =
            (0..1000).map(|number| format!("10.1.{}.{}", number / 250, number % 250)).collect();
        let mut of_big = slice("big", &addresses.iter().map(String::as_str).collect::<Vec<_>>());
        of_big.ports = Some(ports().map(|port| serde_json::from_value(port).unwrap()).collect());
        agent.list(vec![big, service("web", "10.96.0.7")], vec![of_big, slice("web", &["10.1.0.4"])]);
        agent.reconcile(Work::All).await.unwrap();
        let quarter = apply::MOST.rows / 4;
        assert_eq!(agent.forwarder.0.lock().unwrap().contents.rows.len(), quarter + 1);
        assert!(agent.told().contains(&"10.96.0.7:80/TCP -> 10.1.0.4:8080".to_owned()));
        assert_eq!(agent.health(), "PartlyServed");
        let told = agent.fake.world.state.get().services.to_string();
        assert!(told.starts_with("Service d/big: 10.96.0.1:1163/TCP") && told.contains("no room"), "{told}");
    }

    #[tokio::test]
    async fn what_is_too_large_for_clients_outside_only_is_told_too() {
        let agent = Agent::started();
        let ports = |node_ports: u16| {
            let port = move |number: u16| json!({"name": format!("p{number}"), "port": 1000 + number, "nodePort": node_ports * (30000 + number)});
            (0..40).map(port)
        };
        let mut big = service("big", "10.96.0.1");
        big.spec.ports = ports(1).map(|port| serde_json::from_value(port).unwrap()).collect();
        let addresses: Vec<String> =
            (0..1000).map(|number| format!("10.1.{}.{}", number / 250, number % 250)).collect();
        let mut of_big = slice("big", &addresses.iter().map(String::as_str).collect::<Vec<_>>());
        of_big.ports = Some(ports(0).map(|port| serde_json::from_value(port).unwrap()).collect());
        agent.list(vec![big], vec![of_big]);
        agent.reconcile(Work::All).await.unwrap();
        assert_eq!(agent.health(), "Served");
        // They are there at each of its addresses.
        let room = &agent.fake.world.services;
        let mut two = node("node1", "192.0.2.1");
        two.status.addresses.extend(node("node1", "198.51.100.1").status.addresses);
        room.on_node(&room.nodes.apply(two));
        for work in [Work::All, Work::One(Subject::Service(ObjectKey::namespaced("d", "big")))] {
            agent.reconcile(work).await.unwrap();
            assert_eq!(agent.forwarder.0.lock().unwrap().contents.rows.len(), 8_000);
            assert_eq!(agent.health(), "PartlyServed");
            let told = agent.fake.world.state.get().services.to_string();
            assert!(
                told.starts_with("Service d/big: 30032/TCP at every node's IPv4 leads to some"),
                "{told}"
            );
        }
    }

    #[tokio::test]
    async fn a_frontend_passes_to_another_service_when_the_first_has_gone() {
        let agent = Agent::started();
        let slices = || vec![slice("a", &["10.1.0.4"]), slice("b", &["10.1.0.5"])];
        agent.list(vec![service("a", "10.96.0.7"), service("b", "10.96.0.7")], slices());
        agent.reconcile(Work::All).await.unwrap();
        assert_eq!(agent.told(), ["10.96.0.7:80/TCP -> 10.1.0.4:8080"]);
        assert_eq!(agent.health(), "PartlyServed");
        let b = || Work::One(Subject::Service(ObjectKey::namespaced("d", "b")));
        assert!(matches!(agent.reconcile(b()).await.unwrap(), Outcome::Again { .. }));
        agent.fake.world.services.services.delete(&ObjectKey::namespaced("d", "a"));
        agent.reconcile(Work::One(Subject::Service(ObjectKey::namespaced("d", "a")))).await.unwrap();
        assert!(matches!(agent.reconcile(b()).await.unwrap(), Outcome::Done));
        assert_eq!(agent.told(), ["10.96.0.7:80/TCP -> 10.1.0.5:8080"]);
        assert_eq!(agent.health(), "Served");
    }

    #[tokio::test]
    async fn where_the_api_servers_are_is_kept_for_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api-servers");
        let mut agent = Agent::started();
        Arc::make_mut(&mut agent.fake.world.config).client.saved_servers = Some(path.clone());
        let api = |addresses: &[&str]| {
            let mut found = slice("kubernetes", addresses);
            found.metadata.namespace = Some("default".to_owned());
            found
        };
        let one = || Work::One(Subject::Service(observe::api_service()));
        agent.list(vec![], vec![api(&["192.0.2.11", "192.0.2.12"]), slice("web", &["10.1.0.4"])]);
        agent.reconcile(Work::All).await.unwrap();
        let both = "192.0.2.12:8080\n192.0.2.11:8080\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), both, "in this node's order");
        agent.apply(api(&[]));
        agent.reconcile(one()).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), both, "they are away, not elsewhere");
        agent.apply(api(&["192.0.2.13"]));
        agent.reconcile(one()).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "192.0.2.13:8080\n");
    }

    #[tokio::test]
    async fn programs_that_do_not_answer_are_told() {
        let agent = Agent::started();
        agent.forwarder.0.lock().unwrap().answers = false;
        agent.list(vec![], vec![]);
        agent.reconcile(Work::All).await.unwrap();
        assert_eq!(agent.health(), "NoAnswer");
    }
}
