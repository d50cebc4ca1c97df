//! What must come of Services, found out from their objects only: load balancers with all that is below them, floating IPs,
//! status and view; and the tables of each node.
//!
//! At every moment: a client of a Service finds the endpoints of some moment, all of them. Nothing of Octavia is changed that
//! is not ours. No load balancer is made, and no floating IP, before its Service has our finalizer, which goes last.
//!
//! Once it is quiet: nothing is missing, nothing is left, and what is others' is as it was.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use kuryr_api::names::SERVICE_FINALIZER;
use kuryr_planning::service::{At, Family, Frontend, NodeKind, Protocol, Target};
use serde_json::{Value, json};

use crate::{
    cloud::{Asked, TAG, VIP_OWNERS},
    floating::{self, FloatingIps},
    octavia::{Balancer, Octavia, has_tag},
    services::{HAS_MONITORS, VIEWS},
    world::World,
};

/// What clients of a Service find: at its own address, at those of its load balancer, at its ports of nodes.
pub(crate) fn frontends(service: &Value, slices: &[Value]) -> BTreeMap<Frontend, BTreeSet<Target>> {
    let spec = &service["spec"];
    let own = spec["clusterIPs"].as_array().into_iter().flatten();
    let told = service["status"]["loadBalancer"]["ingress"].as_array().into_iter().flatten();
    let told = told.filter(|_| spec["type"] == "LoadBalancer").map(|ingress| &ingress["ip"]);
    let addresses: BTreeSet<IpAddr> =
        own.chain(told).filter_map(|address| address.as_str()?.parse().ok()).collect();
    let mut found = BTreeMap::new();
    for port in spec["ports"].as_array().into_iter().flatten() {
        let protocol = Protocol::of(port["protocol"].as_str().unwrap()).unwrap();
        let targets: BTreeSet<Target> = endpoints(port, slices)
            .into_iter()
            .map(|(address, port)| Target { address, port: u16::try_from(port).unwrap() })
            .collect();
        let number = |field: &str| u16::try_from(port[field].as_u64().unwrap_or_default()).unwrap();
        let at = |at, port| Frontend { at, port, protocol };
        let of_addresses = addresses.iter().map(|address| at(At::Address(*address), number("port")));
        let of_nodes = Some(number("nodePort")).filter(|number| *number != 0);
        let of_nodes = of_nodes.map(|number| at(At::Nodes(Family::V4), number));
        found.extend(of_addresses.chain(of_nodes).map(|frontend| (frontend, targets.clone())));
    }
    found
}

/// Endpoints of a port that take new clients; where there is none, those that go and still answer.
fn endpoints(port: &Value, slices: &[Value]) -> BTreeSet<(IpAddr, u64)> {
    let mut of = [BTreeSet::new(), BTreeSet::new()];
    for slice in slices {
        let same = |found: &&Value| found["name"] == port["name"] && found["protocol"] == port["protocol"];
        let Some(number) = slice["ports"].as_array().into_iter().flatten().find(same) else { continue };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            let address = endpoint["addresses"][0].as_str().unwrap().parse().unwrap();
            let is_ready = endpoint["conditions"]["ready"] == true;
            of[usize::from(!is_ready)].insert((address, number["port"].as_u64().unwrap()));
        }
    }
    let [ready, leaving] = of;
    if ready.is_empty() { leaving } else { ready }
}

impl World {
    /// What of Services is not yet as it should be, in the cloud and on the nodes.
    pub(crate) fn unserved(&self) -> Vec<String> {
        self.collect_views();
        let services = self.services();
        let mut found = self.unbalanced(&services);
        if self.setup.services {
            found.extend(self.misled(&services));
        }
        found
    }

    fn unbalanced(&self, services: &BTreeMap<String, Value>) -> Vec<String> {
        let mut found = Vec::new();
        let mut expected = BTreeSet::new();
        {
            let state = &mut *self.state();
            state.octavia.go_on(&mut state.cloud);
        }
        for (name, service) in services {
            if !service["metadata"]["deletionTimestamp"].is_null() {
                found.push(format!("Service {name} is still there"));
            } else if service["spec"]["type"] == "LoadBalancer" {
                expected.insert(format!("d/{name}"));
                found.extend(self.unbalanced_service(name, service));
            } else {
                let has = service["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty());
                let told = service["status"]["loadBalancer"]["ingress"].as_array();
                if has || told.is_some_and(|told| !told.is_empty()) || self.view(name).is_some() {
                    found.push(format!("Service {name} has no load balancer and says it has: {service}"));
                }
            }
        }
        let state = self.state();
        let ours = state.octavia.balancers.values().filter(|balancer| balancer.is_ours());
        found.extend(
            ours.filter(|balancer| !expected.contains(balancer.name()))
                .map(|balancer| format!("load balancer {} is nobody's", balancer.shown)),
        );
        let vips: BTreeSet<&str> = state.octavia.balancers.values().map(Balancer::vip_port).collect();
        let is_vip = |port: &Value| VIP_OWNERS.iter().any(|owner| port["device_owner"] == *owner);
        let ports = state.cloud.ports.iter().filter(|(id, port)| is_vip(port) && !vips.contains(id.as_str()));
        found.extend(ports.map(|(id, _)| format!("port {id} of a VIP is nobody's")));
        let led = |floating: &Value| floating["port_id"].as_str().is_some_and(|port| vips.contains(port));
        let made = state.cloud.floating.all.values().filter(|found| floating::is_ours(found));
        found.extend(
            made.filter(|floating| !led(floating))
                .map(|floating| format!("floating IP {floating} is nobody's")),
        );
        let before = Octavia::new(0).balancers;
        let changed = before.iter().filter(|(id, one)| state.octavia.balancers.get(*id) != Some(one));
        found.extend(changed.map(|(id, _)| format!("the foreign load balancer {id} is not as it was")));
        let before = FloatingIps::new().all;
        let changed = before.iter().filter(|(id, one)| state.cloud.floating.all.get(*id) != Some(one));
        found.extend(changed.map(|(id, _)| format!("the foreign floating IP {id} is not as it was")));
        found
    }

    fn view(&self, name: &str) -> Option<Value> {
        self.api.get(&format!("{VIEWS}{name}"))
    }

    /// What of the load balancer of a Service is not yet as it should be.
    fn unbalanced_service(&self, name: &str, service: &Value) -> Vec<String> {
        let state = self.state();
        let wanted = format!("d/{name}");
        let own = state.octavia.balancers.values().filter(|one| one.is_ours() && one.name() == wanted);
        let own: Vec<&Balancer> = own.collect();
        let [balancer] = own.as_slice() else {
            return vec![format!("Service {name} has {} load balancers", own.len())];
        };
        let mut found = Vec::new();
        let mut say = |what: String| found.push(format!("load balancer of Service {name}: {what}"));
        if balancer.status() != "ACTIVE" {
            say(format!("it is {}", balancer.status()));
        }
        let slices = self.slices_of(name);
        let ports = service["spec"]["ports"].as_array().into_iter().flatten();
        let key = |of: &Value, port: &str| (of["protocol"].to_string(), of[port].as_u64().unwrap());
        let expected: BTreeMap<_, _> =
            ports.map(|port| (key(port, "port"), Some(endpoints(port, &slices)))).collect();
        let targets = |listener: &Value| {
            let pool = balancer.pools.get(listener["default_pool_id"].as_str()?)?;
            Some(pool.targets())
        };
        let listeners = balancer.listeners.values().map(|listener| &listener.shown);
        let there: BTreeMap<_, _> =
            listeners.map(|listener| (key(listener, "protocol_port"), targets(listener))).collect();
        if there != expected {
            say(format!("it has {there:?} and should have {expected:?}"));
        }
        if balancer.pools.len() != expected.len() || balancer.listeners.len() != expected.len() {
            say(format!("{} pools, {} listeners", balancer.pools.len(), balancer.listeners.len()));
        }
        let has_monitors = self.setup.pool.contains(HAS_MONITORS);
        if balancer.pools.values().any(|pool| pool.monitor.is_some() != has_monitors) {
            say("its monitors are not as configured".to_owned());
        }
        let pools = balancer.pools.values().map(|pool| &pool.below);
        if balancer.listeners.values().chain(pools).any(|below| !has_tag(&below.shown, TAG)) {
            say("something below it has no tag".to_owned());
        }
        let leads = |floating: &&Value| floating["port_id"] == balancer.vip_port();
        let floating: Vec<&Value> = state.cloud.floating.all.values().filter(leads).collect();
        let uid = format!("kuryr-service:{}", service["metadata"]["uid"].as_str().unwrap());
        match floating.as_slice() {
            [one] if has_tag(one, TAG) && has_tag(one, &uid) => {
                let told = json!([{"ip": one["floating_ip_address"], "ipMode": "VIP"}]);
                if service["status"]["loadBalancer"]["ingress"] != told {
                    say(format!("told is {}, and it is reached at {told}", service["status"]));
                }
            }
            other => say(format!("its floating IPs are {other:?}")),
        }
        if service["metadata"]["finalizers"] != json!([SERVICE_FINALIZER]) {
            say(format!("finalizers are {}", service["metadata"]["finalizers"]));
        }
        let id = &balancer.shown["id"];
        if self.view(name).is_none_or(|view| view["status"]["loadbalancer"]["id"] != *id) {
            say("its view does not show it".to_owned());
        }
        found
    }

    /// What the tables of nodes have that they should not, or the other way round.
    fn misled(&self, services: &BTreeMap<String, Value>) -> Vec<String> {
        let expected: BTreeMap<Frontend, Option<BTreeSet<Target>>> = services
            .iter()
            .flat_map(|(name, service)| frontends(service, &self.slices_of(name)))
            .map(|(at, targets)| (at, Some(targets)))
            .collect();
        let nodes = self.setup.nodes.iter().filter(|name| self.node_uid(name).is_some());
        let state = self.state();
        let addresses =
            nodes.map(|name| (name.as_str(), state.machines[name].address)).collect::<BTreeMap<_, _>>();
        let mut found = Vec::new();
        for name in addresses.keys() {
            let tables = &state.machines[*name].tables;
            let there = tables.found();
            if there != expected {
                found.push(format!("{name}: clients find {there:?} and should find {expected:?}"));
            }
            let loopback =
                ["127.0.0.1", "::1"].map(|text| (text.parse::<IpAddr>().unwrap(), NodeKind::Loopback));
            let kind = |of: &str| if of == *name { NodeKind::Own } else { NodeKind::Other };
            let kinds: BTreeMap<IpAddr, NodeKind> =
                addresses.iter().map(|(of, address)| (*address, kind(of))).chain(loopback).collect();
            if *tables.nodes() != kinds {
                found.push(format!("{name}: addresses of nodes are {:?}", tables.nodes()));
            }
            if tables.strays() > 0 || !tables.is_attached() {
                found.push(format!("{name}: {} strays, attached: {}", tables.strays(), tables.is_attached()));
            }
        }
        found
    }

    /// A write to a node's tables.
    pub(crate) fn judge_tables(&self, node: &str) {
        let broken: Vec<String> = {
            let state = self.state();
            let found = state.machines[node].tables.found();
            let is_whole = |(at, targets): &(&Frontend, &Option<BTreeSet<Target>>)| {
                let known = state.services.may_be.get(at);
                targets.as_ref().is_some_and(|targets| known.is_some_and(|known| known.contains(targets)))
            };
            let parts = found.iter().filter(|one| !is_whole(one));
            parts.map(|(at, targets)| format!("clients on {node} find {targets:?} at {at}")).collect()
        };
        broken.into_iter().for_each(|what| self.broken(what));
    }

    /// A program calls Octavia, or Neutron for a floating IP; the request may take effect after its sender has gone on.
    pub(crate) fn judge_balancing(&self, asked: &Asked, is_late: bool) {
        let path: Vec<&str> = asked.path.trim_matches('/').split('/').collect();
        let broken = match (asked.method.as_str(), path.as_slice()) {
            ("GET", _) => None,
            ("POST", ["v2", "lbaas", "loadbalancers"]) => self.objection_to_new(&asked.body["loadbalancer"]),
            (_, ["v2", "lbaas", below @ ..]) => {
                let state = self.state();
                let octavia = &state.octavia;
                let of = match below {
                    [kind, id, ..] => octavia.above(kind, id),
                    [kind] => above(octavia, &asked.body[kind.trim_end_matches('s')]),
                    [] => None,
                };
                let of = of.and_then(|of| octavia.balancers.get(&of));
                of.filter(|of| !of.is_ours()).map(|of| format!("{} is not ours", of.shown))
            }
            ("POST", ["v2.0", "floatingips"]) => {
                self.objection_to_floating(&asked.body["floatingip"], is_late)
            }
            (_, ["v2.0", "floatingips", id, ..]) => {
                let state = self.state();
                let found = state.cloud.floating.all.get(*id);
                found.filter(|found| !floating::is_ours(found)).map(|found| format!("{found} is not ours"))
            }
            _ => None,
        };
        if let Some(why) = broken {
            self.broken(format!("{} {} ({}): {why}", asked.method, asked.path, asked.body));
        }
    }

    fn objection_to_new(&self, wanted: &Value) -> Option<String> {
        if !has_tag(wanted, TAG) {
            return Some("nobody could find it again".to_owned());
        }
        self.objection_to_anything(wanted["name"].as_str()?)
    }

    /// Why nothing may be made for the Service whose load balancers have this name.
    fn objection_to_anything(&self, balancer: &str) -> Option<String> {
        let is_finalized =
            balancer.strip_prefix("d/").is_some_and(|name| self.state().services.is_finalized(name));
        (!is_finalized).then(|| "its Service does not have our finalizer".to_owned())
    }

    fn objection_to_floating(&self, wanted: &Value, is_late: bool) -> Option<String> {
        if !floating::is_ours(wanted) {
            return Some("nobody could find it again".to_owned());
        }
        let state = self.state();
        let of =
            state.octavia.balancers.values().find(|balancer| wanted["port_id"] == balancer.vip_port())?;
        if !of.is_ours() {
            return Some("it would lead to what is not ours".to_owned());
        }
        // Provider ovn does not tell it of the floating IP.
        if of.makes_listeners() && !is_late && !state.services.is_late(&of.shown["id"]) {
            return Some("listeners are being made".to_owned());
        }
        let name = of.name().to_owned();
        drop(state);
        self.objection_to_anything(&name)
    }

    /// A program changed a Service.
    pub(crate) fn judge_finalizer(&self, name: &str, before: Option<&Value>, service: Option<&Value>) {
        let has = service.is_some_and(has_finalizer);
        let Some(before) = before.filter(|before| has_finalizer(before) && !has) else { return };
        let uid = format!("kuryr-service:{}", before["metadata"]["uid"].as_str().unwrap_or_default());
        let left: Vec<String> = {
            let state = self.state();
            // Who takes the finalizer off has seen what was there, but for what came afterwards.
            let is_late = |shown: &Value| state.services.is_late(&shown["id"]);
            let balancers = state.octavia.balancers.values().filter(|one| !is_late(&one.shown));
            let own = balancers.filter(|one| one.is_ours() && one.name() == format!("d/{name}"));
            let own = own.map(|balancer| balancer.shown.to_string());
            let is_made =
                |found: &&Value| found["description"].as_str().is_some_and(|text| text.ends_with(&uid));
            let floating = state.cloud.floating.all.values();
            let floating =
                floating.filter(|found| (has_tag(found, &uid) || is_made(found)) && !is_late(found));
            own.chain(floating.map(Value::to_string)).collect()
        };
        if !left.is_empty() {
            self.broken(format!("Service {name} loses our finalizer and {left:?} is left"));
        }
    }
}

/// The load balancer that something is to be made below.
fn above(octavia: &Octavia, wanted: &Value) -> Option<String> {
    let of_pool = wanted["pool_id"].as_str().and_then(|pool| octavia.above("pools", pool));
    of_pool.or_else(|| wanted["loadbalancer_id"].as_str().map(str::to_owned))
}

/// Whether a Service has our finalizer.
pub(crate) fn has_finalizer(service: &Value) -> bool {
    let all = service["metadata"]["finalizers"].as_array();
    all.is_some_and(|all| all.iter().any(|finalizer| finalizer == SERVICE_FINALIZER))
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use bytes::Bytes;
    use http::Request;
    use kuryr_agent::Forwarder;
    use kuryr_planning::service::{self, Backend, Place};
    use tokio::time::sleep;

    use super::*;
    use crate::{faults::Caller, machine::Reach, world::Setup};

    const WEB: &str = "/api/v1/namespaces/d/services/web";

    fn new_balancer() -> Asked {
        let wanted =
            json!({"loadbalancer": {"name": "d/web", "project_id": crate::cloud::PROJECT, "tags": [TAG]}});
        let request = Request::post("http://cloud.test/v2/lbaas/loadbalancers");
        Asked::of(&request.body(Bytes::from(wanted.to_string())).unwrap())
    }

    /// A program writes the finalizers of the Service.
    fn finalize(world: &World, finalizers: &Value) {
        let before = world.api.get(WEB).unwrap();
        let mut service = before.clone();
        service["metadata"]["finalizers"] = finalizers.clone();
        world.api.put(WEB, service);
        world.follow_service(WEB, Some(&before));
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_find_what_never_was_are_told() {
        let world = World::new(Setup::without_programs(&["n1"], true));
        let http = ("http", "TCP", 80, 8080, 0);
        world.make_service("web", "ClusterIP", &[http]);
        world.set_endpoints("web", &[http], &[201, 202], &[]);
        let services = world.services();
        let (at, whole) = frontends(&services["web"], &world.slices_of("web")).pop_first().unwrap();
        let reach =
            Reach { world: Arc::clone(&world), caller: Caller::new("agent-n1.1"), node: "n1".to_owned() };
        let lead_to = |count: u32| {
            let value = service::Value { id: 1, generation: 1, count, affinity_seconds: 0 };
            Forwarder::write(&reach, &[service::Step::PutValue(at, value)]).unwrap();
            world.violations().len()
        };
        let row = (1..).zip(whole).map(|(endpoint, target)| Backend { target, endpoint }).collect();
        let place = Place { id: 1, generation: 1, row: 0 };
        Forwarder::write(&reach, &[service::Step::PutRow(place, row)]).unwrap();
        assert_eq!(lead_to(2), 0, "as it is");
        assert_eq!(lead_to(0), 0, "as it began");
        assert_eq!(lead_to(1), 1, "one of two");
        assert_eq!(lead_to(3), 2, "one is not there");
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_before_the_finalizer_or_stays_behind_it_is_told() {
        let world = World::new(Setup::without_programs(&[], true));
        let count = || world.violations().len();
        world.make_service("web", "LoadBalancer", &[]);
        world.judge_balancing(&new_balancer(), true);
        assert_eq!(count(), 1, "it has none yet, and late is no excuse");
        finalize(&world, &json!([SERVICE_FINALIZER]));
        world.judge_balancing(&new_balancer(), false);
        assert_eq!(count(), 1, "it has one");
        let made = {
            let state = &mut *world.state();
            state.octavia.answer(&new_balancer(), &mut state.cloud).unwrap().1
        };
        finalize(&world, &json!([]));
        assert_eq!(count(), 2, "the load balancer is left");
        finalize(&world, &json!([SERVICE_FINALIZER]));
        world.state().services.came_late(&new_balancer(), &made);
        finalize(&world, &json!([]));
        assert_eq!(count(), 2, "nobody could know of it");
        world.judge_balancing(&new_balancer(), false);
        assert_eq!(count(), 2, "that it has none any more may not be known yet");
        sleep(Duration::from_secs(120)).await;
        world.judge_balancing(&new_balancer(), false);
        assert_eq!(count(), 3, "it must be");
    }
}
