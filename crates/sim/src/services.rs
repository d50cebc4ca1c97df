//! Services and their endpoints: whoever makes, changes and deletes them, and the controllers of Kubernetes that follow.
//!
//! Endpoints are addresses outside of those that Neutron gives to ports: they come and go in storms, for which no pod is
//! needed. A Service that is deleted goes when its last finalizer does; what it owns goes some time later. A name comes
//! again, with another UID.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kuryr_planning::service::{Frontend, Target};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    chance::Chance,
    cloud::Asked,
    faults::Plan,
    octavia::Octavia,
    scenario::{Outcome, api_server_down, cloud_down, finish, forget_history, jump, reboot, upgrade},
    served::{frontends, has_finalizer},
    world::{Setup, World},
};

/// What there is of Services besides their objects.
#[derive(Debug, Default)]
pub(crate) struct Services {
    made: u64,
    /// States of each Service, and of the slices of each, that there were.
    services: BTreeMap<String, Vec<Value>>,
    slices: BTreeMap<String, Vec<Vec<Value>>>,
    /// What clients of a frontend may have found: a Service of then with slices of then.
    pub(crate) may_be: BTreeMap<Frontend, BTreeSet<BTreeSet<Target>>>,
    /// Services that have our finalizer, or until when they had it, by name: a name's next Service counts as the same.
    finalized: BTreeMap<String, Option<Instant>>,
    /// Load balancers and floating IPs that a request made or changed after its sender had gone on.
    late: BTreeSet<String>,
}

/// So long a program may go by a Service as it was: its watch may be behind, and its request on the way.
const BEHIND: Duration = Duration::from_secs(60);

impl Services {
    /// Notes how a Service and its slices are now.
    fn note(&mut self, name: &str, service: Option<Value>, slices: Vec<Value>) {
        if service.as_ref().is_some_and(has_finalizer) {
            self.finalized.insert(name.to_owned(), None);
        } else if let Some(until) = self.finalized.get_mut(name) {
            until.get_or_insert_with(Instant::now);
        }
        let states = self.slices.entry(name.to_owned()).or_insert_with(|| vec![Vec::new()]);
        let services = self.services.entry(name.to_owned()).or_default();
        let mut may_be = |service: &Value, slices: &[Value]| {
            for (at, targets) in frontends(service, slices) {
                self.may_be.entry(at).or_default().insert(targets);
            }
        };
        if !states.contains(&slices) {
            services.iter().for_each(|service| may_be(service, &slices));
            states.push(slices);
        }
        if let Some(service) = service.filter(|service| !services.contains(service)) {
            states.iter().for_each(|slices| may_be(&service, slices));
            services.push(service);
        }
    }
}

impl Services {
    /// Whether a program may believe that the Service of this name has our finalizer.
    pub(crate) fn is_finalized(&self, name: &str) -> bool {
        self.finalized.get(name).is_some_and(|until| until.is_none_or(|until| until.elapsed() < BEHIND))
    }

    /// A request took effect after its sender had gone on.
    pub(crate) fn came_late(&mut self, asked: &Asked, answer: &Value) {
        let of = [
            &answer["loadbalancer"]["id"],
            &answer["floatingip"]["id"],
            &asked.body["listener"]["loadbalancer_id"],
        ];
        self.late.extend(of.into_iter().filter_map(|id| id.as_str()).map(str::to_owned));
    }

    /// Whether such a request made or changed this.
    pub(crate) fn is_late(&self, id: &Value) -> bool {
        id.as_str().is_some_and(|id| self.late.contains(id))
    }
}

/// How long load balancers are pending, when all are.
const STANDS_STILL: Duration = Duration::from_secs(600);

const SERVICES: &str = "/api/v1/namespaces/d/services/";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/d/endpointslices/";
pub(crate) const VIEWS: &str = "/apis/openstack.org/v1/namespaces/d/kuryrloadbalancers/";
/// As it is configured.
pub(crate) const HAS_MONITORS: &str = "[octavia_defaults]\nenable_health_monitor = true\n";
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// A port of a Service: name, protocol, its own number, that of the endpoints, that of nodes or 0.
pub(crate) type Port = (&'static str, &'static str, u16, u16, u16);

const HTTP: Port = ("http", "TCP", 80, 8080, 30080);
const HTTPS: Port = ("https", "TCP", 443, 8443, 30443);
const DNS: Port = ("dns", "UDP", 53, 5353, 30053);

impl World {
    /// Services that there are, by name.
    pub(crate) fn services(&self) -> BTreeMap<String, Value> {
        let paths = self.api.paths(SERVICES);
        paths
            .iter()
            .filter_map(|path| Some((path.strip_prefix(SERVICES)?.to_owned(), self.api.get(path)?)))
            .collect()
    }

    /// The slices of a Service.
    pub(crate) fn slices_of(&self, name: &str) -> Vec<Value> {
        let all = self.api.paths(SLICES).into_iter().filter_map(|path| self.api.get(&path));
        all.filter(|slice| slice["metadata"]["labels"][SERVICE_LABEL] == name).collect()
    }

    /// Makes a Service, or changes its type and ports.
    pub(crate) fn make_service(&self, name: &str, kind: &str, ports: &[Port]) {
        let path = format!("{SERVICES}{name}");
        let mut service = self.api.get(&path).unwrap_or_else(|| {
            let number = {
                let services = &mut self.state().services;
                services.made += 1;
                services.made
            };
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"uid": format!("service-{number}")},
                   "spec": {"clusterIPs": [format!("10.96.0.{number}")], "ipFamilies": ["IPv4"]},
                   "status": {"loadBalancer": {}}})
        });
        if !service["metadata"]["deletionTimestamp"].is_null() {
            return;
        }
        let port = |(name, protocol, port, target, node): &Port| {
            let node = if kind == "ClusterIP" { 0 } else { *node };
            json!({"name": name, "protocol": protocol, "port": port, "targetPort": target, "nodePort": node})
        };
        service["spec"]["type"] = json!(kind);
        service["spec"]["ports"] = ports.iter().map(port).collect();
        self.note(format!("Service {name}: {kind} {ports:?}"));
        self.put(&path, service);
        self.follow(name);
    }

    /// Sets the endpoints of a Service, by the last byte of their addresses; those that are not ready terminate and serve.
    pub(crate) fn set_endpoints(&self, name: &str, ports: &[Port], ready: &[u8], leaving: &[u8]) {
        self.note(format!("endpoints of {name}: {ready:?}, leaving {leaving:?}"));
        let ready = ready.iter().map(|last| endpoint(*last, true));
        let endpoints = ready.chain(leaving.iter().map(|last| endpoint(*last, false))).collect();
        self.put_slice(name, ports, endpoints);
    }

    fn put_slice(&self, name: &str, ports: &[Port], endpoints: Vec<Value>) {
        let port = |(name, protocol, _, target, _): &Port| json!({"name": name, "protocol": protocol, "port": target});
        let ports: Vec<Value> = ports.iter().map(port).collect();
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"labels": {SERVICE_LABEL: name}}, "endpoints": endpoints, "ports": ports});
        self.put(&format!("{SLICES}{name}-1"), slice);
        self.follow(name);
    }

    /// Has a Service deleted; by force, without waiting for finalizers.
    pub(crate) fn delete_service(&self, name: &str, by_force: bool) {
        let path = format!("{SERVICES}{name}");
        let Some(mut service) = self.api.get(&path) else { return };
        self.note(format!("Service {name} is deleted{}", if by_force { " by force" } else { "" }));
        service["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        if by_force {
            service["metadata"]["finalizers"] = json!([]);
        }
        self.put(&path, service.clone());
        self.follow_service(&path, Some(&service));
    }

    /// A program wrote something, perhaps of a Service: one that is to go goes with its last finalizer, and what it owns
    /// after it.
    pub(crate) fn follow_service(&self, path: &str, before: Option<&Value>) {
        let Some(name) = path.strip_prefix(SERVICES) else { return };
        let service = self.api.get(path);
        self.judge_finalizer(name, before, service.as_ref());
        let goes = |service: &Value| {
            let metadata = &service["metadata"];
            let is_free = metadata["finalizers"].as_array().is_none_or(Vec::is_empty);
            is_free && !metadata["deletionTimestamp"].is_null()
        };
        if service.as_ref().is_none_or(goes) {
            self.note(format!("Service {name} is gone"));
            self.remove(path);
            self.remove(&format!("{SLICES}{name}-1"));
        }
        self.follow(name);
    }

    fn follow(&self, name: &str) {
        let (service, slices) = (self.api.get(&format!("{SERVICES}{name}")), self.slices_of(name));
        self.state().services.note(name, service, slices);
        self.collect_views();
    }

    /// The garbage collector takes views whose Service is gone.
    pub(crate) fn collect_views(&self) {
        let live: BTreeSet<String> =
            self.services().values().map(|service| service["metadata"]["uid"].to_string()).collect();
        for path in self.api.paths(VIEWS) {
            let owner =
                self.api.get(&path).map(|view| view["metadata"]["ownerReferences"][0]["uid"].to_string());
            if owner.is_some_and(|owner| !live.contains(&owner)) {
                self.api.remove(&path);
            }
        }
    }

    /// All Services go.
    pub(crate) fn end_services(&self) {
        self.services().keys().for_each(|name| self.delete_service(name, false));
    }

    /// Somebody deletes the load balancer of a Service.
    fn steal_balancer(&self, name: &str) {
        let told = {
            let octavia = &mut self.state().octavia;
            balancer_of(octavia, name).filter(|id| octavia.delete_by_hand(id))
        };
        if let Some(id) = told {
            self.note(format!("somebody deletes load balancer {id}"));
        }
    }

    /// Somebody deletes something below the load balancer of a Service.
    fn steal_part(&self, name: &str) {
        let told = {
            let octavia = &mut self.state().octavia;
            balancer_of(octavia, name).and_then(|id| octavia.delete_part_by_hand(&id))
        };
        if let Some(part) = told {
            self.note(format!("somebody deletes {part} of {name}"));
        }
    }

    /// All load balancers are pending for ten minutes.
    fn stand_still(&self) {
        self.note("all load balancers are pending for ten minutes");
        self.state().octavia.stand_still(STANDS_STILL);
    }

    /// Endpoints of a Service come and go in two seconds: there are a hundred, and with each write one comes and one goes.
    async fn storm(&self, name: &str, ports: &[Port]) {
        self.note(format!("a storm of endpoints of {name}"));
        for number in 0..200 {
            let ring = (number..number + 100).filter_map(|at| u8::try_from(101 + at % 150).ok());
            self.put_slice(name, ports, ring.map(|last| endpoint(last, true)).collect());
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The identifier of the load balancer of a Service.
fn balancer_of(octavia: &Octavia, name: &str) -> Option<String> {
    let wanted = format!("d/{name}");
    let of = octavia.balancers.iter().find(|(_, one)| one.is_ours() && one.name() == wanted);
    of.map(|(id, _)| id.clone())
}

/// An endpoint, by the last byte of its address.
fn endpoint(last: u8, is_ready: bool) -> Value {
    json!({"addresses": [format!("10.0.0.{last}")], "nodeName": "n1",
           "conditions": {"ready": is_ready, "serving": true, "terminating": !is_ready},
           "targetRef": {"kind": "Pod", "name": format!("p-{last}"), "uid": format!("endpoint-{last}")}})
}

/// A Service that becomes a load balancer, changes in every way, loses it, is deleted and comes again, with this plan of
/// faults.
pub async fn services(plan: Plan) -> Outcome {
    let world = one_node(1, plan);
    sleep(Duration::from_secs(6)).await;
    world.make_service("api", "ClusterIP", &[HTTPS]);
    world.set_endpoints("api", &[HTTPS], &[240], &[]);
    world.make_service("web", "LoadBalancer", &[HTTP, DNS]);
    sleep(Duration::from_millis(300)).await;
    world.set_endpoints("web", &[HTTP, DNS], &[201, 202, 203], &[]);
    sleep(Duration::from_secs(10)).await;
    // A rollout: one comes, one goes.
    for number in 0..4 {
        world.set_endpoints(
            "web",
            &[HTTP, DNS],
            &[202 + number, 203 + number, 204 + number],
            &[201 + number],
        );
        sleep(Duration::from_millis(700)).await;
    }
    // One comes back while it goes.
    world.set_endpoints("web", &[HTTP, DNS], &[201, 206], &[]);
    sleep(Duration::from_secs(6)).await;
    world.make_service("web", "LoadBalancer", &[HTTP, HTTPS]);
    sleep(Duration::from_millis(200)).await;
    world.set_endpoints("web", &[HTTP, HTTPS], &[206, 207], &[]);
    sleep(Duration::from_secs(10)).await;
    world.steal_balancer("web");
    sleep(Duration::from_secs(1)).await;
    world.set_endpoints("web", &[HTTP, HTTPS], &[207], &[]);
    sleep(Duration::from_secs(10)).await;
    world.make_service("web", "ClusterIP", &[HTTP]);
    world.make_service("api", "LoadBalancer", &[HTTPS]);
    sleep(Duration::from_secs(8)).await;
    world.delete_service("api", false);
    sleep(Duration::from_secs(8)).await;
    world.make_service("api", "LoadBalancer", &[HTTPS]);
    world.set_endpoints("api", &[HTTPS], &[], &[240]);
    sleep(Duration::from_secs(5)).await;
    finish(&world).await
}

/// A run that is drawn from `seed`; if it is not harsh, without what came later to the simulation.
pub async fn random(seed: u64, is_harsh: bool) -> Outcome {
    let (mut chance, mut later) = (Chance::of(seed ^ 0x5e41), Chance::of(seed ^ 0x2c39));
    let nodes: Vec<String> = (1..=1 + chance.below(2)).map(|number| format!("n{number}")).collect();
    let monitors = if chance.one_in(3) { HAS_MONITORS } else { "" };
    let pool = format!("ports_pool_min = 1\nports_pool_batch = 1\nports_pool_max = 2\n{monitors}");
    let controllers = 1 + usize::from(chance.one_in(2));
    let setup =
        Setup { seed, plan: Plan::OneIn(1_000_000), nodes, controllers, pool, services: true, is_harsh };
    let world = World::new(setup.clone());
    {
        let octavia = &mut world.state().octavia;
        octavia.provider = if chance.one_in(2) { "ovn" } else { "amphora" };
        octavia.takes_most = *chance.pick(&[500, 2000, 20_000]).unwrap_or(&500);
        octavia.fails_one_in = chance.one_in(3).then_some(8);
    }
    (1..=controllers).for_each(|number| world.start_controller(number));
    setup.nodes.iter().for_each(|node| world.start_agent(node));
    let quiet_start = chance.below(8);
    sleep(Duration::from_secs(quiet_start)).await;
    let rare = 15 + chance.below(60);
    world.faults.plan(Plan::OneIn(rare));
    for _ in 0..20 + chance.below(40) {
        happen(&world, &setup, &mut chance);
        let pause = chance.millis(10, 4000);
        sleep(pause).await;
        if is_harsh && later.one_in(8) {
            happen_later(&world, &setup, &mut later);
        }
    }
    match later.below(24) {
        0 if is_harsh => {
            world.stand_still();
            sleep(STANDS_STILL).await;
        }
        1..=2 if is_harsh => storm(&world, &mut later).await,
        _ => {}
    }
    finish(&world).await
}

/// One thing that came later to the simulation.
fn happen_later(world: &Arc<World>, setup: &Setup, chance: &mut Chance) {
    let name = *chance.pick(&NAMES).unwrap_or(&"web");
    match chance.below(8) {
        0..=1 => world.stand_still(),
        2 => jump(world, setup, chance),
        3 => {
            let node = chance.pick(&setup.nodes).cloned().unwrap_or_default();
            upgrade(world, setup, &node, chance);
        }
        4 => {
            world.note("the next members that go stay");
            world.state().octavia.sticks_next = true;
        }
        _ => world.steal_part(name),
    }
}

/// Endpoints of a load balancer come and go, faster than anybody follows.
async fn storm(world: &World, chance: &mut Chance) {
    let ports = chance.pick(&PORTS).copied().unwrap_or_default();
    world.make_service(NAMES[0], "LoadBalancer", ports);
    world.storm(NAMES[0], ports).await;
}

const NAMES: [&str; 3] = ["web", "api", "dns"];
const PORTS: [&[Port]; 4] = [&[HTTP], &[HTTP, HTTPS], &[DNS, HTTPS], &[HTTP, DNS, HTTPS]];

/// One thing that happens.
fn happen(world: &Arc<World>, setup: &Setup, chance: &mut Chance) {
    let name = *chance.pick(&NAMES).unwrap_or(&"web");
    let node = chance.pick(&setup.nodes).cloned().unwrap_or_default();
    match chance.below(24) {
        0..=4 => {
            let kind =
                *chance.pick(&["LoadBalancer", "LoadBalancer", "ClusterIP", "NodePort"]).unwrap_or(&"");
            // Ports of nodes are one Service's.
            let ports = chance.pick(&PORTS).copied().unwrap_or_default();
            let of_name = NAMES.iter().position(|other| *other == name).and_then(|at| u16::try_from(at).ok());
            let apart = |(name, protocol, port, target, node): &Port| {
                (*name, *protocol, *port, *target, node + of_name.unwrap_or_default())
            };
            let ports: Vec<Port> = ports.iter().map(apart).collect();
            world.make_service(name, kind, &ports);
        }
        5..=13 => {
            let first = 201 + chance.below(40);
            let (ready, leaving) = (chance.below(5), chance.below(3));
            let last =
                |from: u64, count: u64| (from..from + count).filter_map(|last| u8::try_from(last).ok());
            let ready: Vec<u8> = last(first, ready).collect();
            let leaving: Vec<u8> = last(first + 5, leaving).collect();
            let ports = chance.pick(&PORTS).copied().unwrap_or_default();
            world.set_endpoints(name, ports, &ready, &leaving);
        }
        14..=15 => world.delete_service(name, chance.one_in(4)),
        16 => world.steal_balancer(name),
        17 => world.kill(&format!("agent-{node}")),
        18 => world.kill(&format!("controller-{}", 1 + chance.below(setup.controllers as u64))),
        19 => forget_history(world),
        20 => reboot(world, &node),
        21 => api_server_down(world, chance),
        22 => cloud_down(world, chance),
        _ => world.api.cut(),
    }
}

/// A world of one node whose agent serves Services, with its programs: two controllers, so that another leads when one ends.
fn one_node(seed: u64, plan: Plan) -> Arc<World> {
    let pool = "ports_pool_min = 1\nports_pool_batch = 1\nports_pool_max = 2\n".to_owned();
    let nodes = vec!["n1".to_owned()];
    let setup = Setup { seed, plan, nodes, controllers: 2, pool, services: true, is_harsh: false };
    let world = World::new(setup);
    [1, 2].into_iter().for_each(|number| world.start_controller(number));
    world.start_agent("n1");
    world
}
