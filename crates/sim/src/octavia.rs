//! Octavia, as much of it as a controller calls: trees of load balancers, of which each takes one change at a time.
//!
//! A change is accepted at once and takes a while, during which all below the load balancer is immutable; it may end in
//! `ERROR`. What is below lives and dies with its load balancer, and so does the port of the VIP.
//!
//! Provider ovn is as nasty as it may be: it calls a load balancer ACTIVE while listeners are still being made, members that
//! are taken out still going, and now and then while it is being deleted. A member that is put back while it goes is gone
//! after that. One that is deleted twice at a time comes back in `ERROR`.
//!
//! Sources: Load Balancer API v2; what `kuryr_planning::loadbalancer` says of provider ovn.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    chance::Chance,
    cloud::{Asked, Cloud, PROJECT, TAG},
};

/// What is in it.
#[derive(Debug)]
pub(crate) struct Octavia {
    pub(crate) provider: &'static str,
    pub(crate) balancers: BTreeMap<String, Balancer>,
    /// How long a change takes at most, in milliseconds.
    pub(crate) takes_most: u64,
    /// One change in so many ends in `ERROR`.
    pub(crate) fails_one_in: Option<u64>,
    /// The next change does.
    pub(crate) fails_next: bool,
    /// The next members that provider ovn is to take out go on going.
    pub(crate) sticks_next: bool,
    chance: Chance,
    made: u32,
    began: Instant,
}

/// A load balancer with what is below it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Balancer {
    pub(crate) shown: Value,
    pub(crate) listeners: BTreeMap<String, Below>,
    pub(crate) pools: BTreeMap<String, Pool>,
    under_way: Option<UnderWay>,
}

/// A change.
#[derive(Debug, Clone, PartialEq)]
struct UnderWay {
    since: Instant,
    until: Instant,
    /// What it is then; none: it is gone.
    then: Option<&'static str>,
}

/// Something below a load balancer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Below {
    pub(crate) shown: Value,
    /// When it has been made.
    made_at: Instant,
    /// It is called `PENDING_UPDATE` until it is changed itself.
    is_left_pending: bool,
    /// Its last change has failed.
    is_failed: bool,
}

/// Something below a load balancer that somebody deletes.
#[derive(Debug, Clone)]
enum Part {
    Listener(String),
    Pool(String),
    Member(String, (IpAddr, u64)),
}

/// A pool.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pool {
    pub(crate) below: Below,
    pub(crate) members: BTreeMap<(IpAddr, u64), Member>,
    pub(crate) monitor: Option<Value>,
}

/// A member.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Member {
    shown: Value,
    goes: Option<Goes>,
}

/// A member goes, whatever is asked for meanwhile.
#[derive(Debug, Clone, PartialEq)]
enum Goes {
    /// It is gone then.
    At(Instant),
    /// It stays, unless it is asked for alone.
    Never,
}

type Answer = (u16, Value);

impl Balancer {
    pub(crate) fn name(&self) -> &str {
        self.shown["name"].as_str().unwrap_or_default()
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.shown["project_id"] == PROJECT && has_tag(&self.shown, TAG)
    }

    /// The port of its VIP.
    pub(crate) fn vip_port(&self) -> &str {
        self.shown["vip_port_id"].as_str().unwrap_or_default()
    }

    /// Whether something below it is being made.
    pub(crate) fn makes_listeners(&self) -> bool {
        self.listeners.values().any(|listener| listener.made_at > Instant::now())
    }

    /// Its state as it is called now.
    pub(crate) fn status(&self) -> &str {
        let stored = self.shown["provisioning_status"].as_str().unwrap_or_default();
        let is_ovn = self.shown["provider"] == "ovn";
        match &self.under_way {
            Some(change) if change.then.is_none() && is_ovn && change.is_between_parts() => "ACTIVE",
            _ => stored,
        }
    }

    /// Takes a pool away, and whatever leads to it leads nowhere.
    fn remove_pool(&mut self, pool: &str) {
        self.pools.remove(pool);
        let led = self.listeners.values_mut().filter(|listener| listener.shown["default_pool_id"] == pool);
        led.for_each(|listener| listener.shown["default_pool_id"] = Value::Null);
    }

    fn is_deletable(&self) -> bool {
        matches!(self.status(), "ACTIVE" | "ERROR")
    }

    /// Provider ovn does not say that it is done with a listener when the health monitor of its pool was changed.
    fn leave_pending(&mut self, monitor: &str) {
        let has = |pool: &Pool| pool.monitor.as_ref().is_some_and(|own| own["id"] == monitor);
        let Some((pool, _)) = self.pools.iter().find(|(_, pool)| has(pool)) else { return };
        let of_pool =
            self.listeners.values_mut().filter(|listener| listener.shown["default_pool_id"] == pool.as_str());
        of_pool.for_each(|listener| listener.is_left_pending = true);
    }

    fn show(&self) -> Value {
        let mut shown = self.shown.clone();
        shown["provisioning_status"] = json!(self.status());
        shown
    }
}

impl UnderWay {
    /// In the second third of its time.
    fn is_between_parts(&self) -> bool {
        let (whole, now) = (self.until - self.since, Instant::now());
        now > self.since + whole / 3 && now < self.since + whole * 2 / 3
    }
}

impl Below {
    fn show(&self, of: &str) -> Value {
        let mut shown = self.shown.clone();
        let status = match self.made_at > Instant::now() {
            true => "PENDING_CREATE",
            false if self.is_left_pending => "PENDING_UPDATE",
            false if self.is_failed => "ERROR",
            false => "ACTIVE",
        };
        shown["provisioning_status"] = json!(status);
        shown["loadbalancers"] = json!([{"id": of}]);
        shown
    }
}

impl Pool {
    fn show(&self, of: &str) -> Value {
        let mut shown = self.below.show(of);
        shown["healthmonitor_id"] =
            self.monitor.as_ref().map_or(Value::Null, |monitor| monitor["id"].clone());
        shown
    }
}

impl Member {
    fn show(&self) -> Value {
        let mut shown = self.shown.clone();
        if self.goes.is_some() && shown["provisioning_status"] == "ACTIVE" {
            shown["provisioning_status"] = json!("PENDING_DELETE");
        }
        shown
    }

    fn is_gone(&self) -> bool {
        self.goes.as_ref().is_some_and(|goes| matches!(goes, Goes::At(at) if *at <= Instant::now()))
    }
}

impl Octavia {
    /// An Octavia in which others are, too.
    pub(crate) fn new(seed: u64) -> Self {
        let of_others: [(&str, &str, &[&str]); 3] = [
            ("foreign-1", "hostile", &[TAG]),
            ("foreign-2", PROJECT, &[]),
            ("foreign-3", PROJECT, &["kuryr-cluster:c2"]),
        ];
        let balancer = |(id, project, tags): (&str, &str, &[&str])| {
            let shown = json!({"id": id, "name": "d/web", "project_id": project, "provider": "ovn", "tags": tags,
                "vip_port_id": format!("vip-of-{id}"), "vip_address": "198.51.100.7", "vip_subnet_id": "elsewhere",
                "provisioning_status": "ACTIVE"});
            let (listeners, pools) = (BTreeMap::new(), BTreeMap::new());
            (id.to_owned(), Balancer { shown, listeners, pools, under_way: None })
        };
        Self {
            provider: "ovn",
            balancers: of_others.map(balancer).into(),
            takes_most: 1500,
            fails_one_in: None,
            fails_next: false,
            sticks_next: false,
            chance: Chance::of(seed ^ 0x0c7a),
            made: 0,
            began: Instant::now(),
        }
    }

    /// Answers a call, if it is for Octavia.
    pub(crate) fn answer(&mut self, asked: &Asked, cloud: &mut Cloud) -> Option<Answer> {
        self.go_on(cloud);
        let path: Vec<&str> = asked.path.trim_matches('/').split('/').collect();
        let path = match path.as_slice() {
            [""] => return Some((200, json!({"versions": [{"id": "v2.0"}, {"id": "v2.27"}]}))),
            ["v2", "lbaas", path @ ..] => path,
            _ => return None,
        };
        let body = &asked.body;
        Some(match (asked.method.as_str(), path) {
            ("GET", ["providers"]) => (200, json!({"providers": [{"name": self.provider}]})),
            ("GET", _) => self.look(path, asked),
            ("POST", ["loadbalancers"]) => self.create(&body["loadbalancer"], cloud),
            ("POST", ["listeners"]) => self.create_listener(&body["listener"]),
            ("POST", ["pools"]) => self.create_pool(&body["pool"]),
            ("POST", ["healthmonitors"]) => self.create_monitor(&body["healthmonitor"]),
            ("PUT", ["pools", pool, "members"]) => self.replace_members(pool, &body["members"]),
            ("PUT", [kind, id]) => self.update(kind, id, body),
            ("DELETE", ["loadbalancers", id]) => self.delete_balancer(id),
            ("DELETE", ["pools", pool, "members", id]) => self.delete_member(pool, id),
            ("DELETE", [kind, id]) => self.delete_below(kind, id),
            _ => missing("path", ""),
        })
    }

    /// Brings to an end what is due.
    pub(crate) fn go_on(&mut self, cloud: &mut Cloud) {
        let now = Instant::now();
        let mut gone = Vec::new();
        for (id, balancer) in &mut self.balancers {
            for pool in balancer.pools.values_mut() {
                pool.members.retain(|_, member| !member.is_gone());
            }
            if let Some(change) = balancer.under_way.take_if(|change| change.until <= now) {
                match change.then {
                    Some(status) => balancer.shown["provisioning_status"] = json!(status),
                    None => gone.push(id.clone()),
                }
            }
        }
        for balancer in gone.iter().filter_map(|id| self.balancers.remove(id)) {
            cloud.remove_vip(balancer.vip_port());
        }
    }

    fn look(&self, path: &[&str], asked: &Asked) -> Answer {
        let one = |member: &str, id: &str, found: Option<Value>| {
            found.map_or_else(|| missing(member, id), |found| (200, json!({member: found})))
        };
        match path {
            ["loadbalancers"] => {
                let all = self.balancers.values().map(Balancer::show);
                (200, json!({"loadbalancers": filtered(all, asked)}))
            }
            ["loadbalancers", id] => one("loadbalancer", id, self.balancers.get(*id).map(Balancer::show)),
            ["listeners"] => {
                let below = |(of, balancer): (&String, &Balancer)| {
                    balancer.listeners.values().map(|listener| listener.show(of)).collect::<Vec<_>>()
                };
                let all = self.balancers.iter().filter(|(of, _)| is_below(of, asked)).flat_map(below);
                (200, json!({"listeners": filtered(all, asked)}))
            }
            ["pools"] => {
                let below = |(of, balancer): (&String, &Balancer)| {
                    balancer.pools.values().map(|pool| pool.show(of)).collect::<Vec<_>>()
                };
                let all = self.balancers.iter().filter(|(of, _)| is_below(of, asked)).flat_map(below);
                (200, json!({"pools": filtered(all, asked)}))
            }
            ["pools", id, "members"] => match self.pools().find(|(found, _)| found == id) {
                Some((_, pool)) => {
                    (200, json!({"members": pool.members.values().map(Member::show).collect::<Vec<_>>()}))
                }
                None => without_pool(id),
            },
            ["healthmonitors", id] => {
                let mut monitors = self.pools().filter_map(|(_, pool)| pool.monitor.as_ref());
                one("healthmonitor", id, monitors.find(|monitor| monitor["id"] == *id).cloned())
            }
            _ => missing("path", ""),
        }
    }

    fn pools(&self) -> impl Iterator<Item = (&String, &Pool)> {
        self.balancers.values().flat_map(|balancer| &balancer.pools)
    }

    fn id(&mut self, kind: &str) -> String {
        self.made += 1;
        format!("{kind}-{:08}", self.made)
    }

    /// Begins a change of a load balancer, if it takes one; tells when it ends.
    fn begin(
        &mut self,
        id: &str,
        status: &'static str,
        then: Option<&'static str>,
    ) -> Result<Instant, Answer> {
        let fails = std::mem::take(&mut self.fails_next)
            || self.fails_one_in.is_some_and(|of| self.chance.one_in(of));
        let takes = self.chance.millis(100, self.takes_most);
        let Some(balancer) = self.balancers.get_mut(id) else { return Err(missing("loadbalancer", id)) };
        let is_free = if then.is_none() { balancer.is_deletable() } else { balancer.status() == "ACTIVE" };
        if !is_free {
            return Err(immutable("Load Balancer", id));
        }
        let now = Instant::now();
        let then = match (&balancer.under_way, then) {
            // It was being deleted, and is asked for something again.
            (Some(_), None) => Some("ERROR"),
            (Some(_), Some(_)) => None,
            (None, _) if fails => Some("ERROR"),
            (None, then) => then,
        };
        balancer.shown["provisioning_status"] = json!(status);
        balancer.under_way = Some(UnderWay { since: now, until: now + takes, then });
        Ok(now + takes)
    }

    /// When what is made by a change that ends then is made.
    fn made_at(&mut self, until: Instant) -> Instant {
        let later = self.chance.millis(0, 700);
        if self.provider == "ovn" { until + later } else { until }
    }

    fn create(&mut self, wanted: &Value, cloud: &mut Cloud) -> Answer {
        let address = wanted["vip_address"].as_str().and_then(|address| address.parse().ok());
        let id = self.id("lb");
        let provider = wanted["provider"].as_str().unwrap_or_default();
        let Some((port, address)) = cloud.make_vip(&id, provider, address) else {
            let (address, subnet) = (text(&wanted["vip_address"]), text(&wanted["vip_subnet_id"]));
            return conflict(&format!(
                "The VIP IP address is already in use: IP address {address} already allocated in subnet {subnet}"
            ));
        };
        let mut shown = wanted.clone();
        shown.as_object_mut().unwrap().remove("listeners");
        (shown["id"], shown["vip_port_id"], shown["vip_address"]) = (json!(id), json!(port), json!(address));
        shown["provisioning_status"] = json!("ACTIVE");
        let balancer =
            Balancer { shown, listeners: BTreeMap::new(), pools: BTreeMap::new(), under_way: None };
        self.balancers.insert(id.clone(), balancer);
        let until = self.begin(&id, "PENDING_CREATE", Some("ACTIVE")).unwrap();
        for listener in wanted["listeners"].as_array().into_iter().flatten() {
            let pool = self.insert_pool(&id, &listener["default_pool"], until);
            self.insert_listener(&id, listener, Some(&pool), until);
        }
        (201, json!({"loadbalancer": self.balancers[&id].show()}))
    }

    fn insert_pool(&mut self, of: &str, wanted: &Value, until: Instant) -> String {
        let id = self.id("pool");
        let mut shown = wanted.clone();
        let parts = shown.as_object_mut().unwrap();
        let (members, monitor) = (parts.remove("members"), parts.remove("healthmonitor"));
        (shown["id"], shown["project_id"]) = (json!(id), json!(PROJECT));
        let age = self.began.elapsed().as_secs();
        let (hours, minutes, seconds) = (age / 3600, age / 60 % 60, age % 60);
        shown["created_at"] = json!(format!("2026-01-01T{hours:02}:{minutes:02}:{seconds:02}"));
        let below = Below { shown, made_at: self.made_at(until), is_left_pending: false, is_failed: false };
        let members = members.as_ref().and_then(Value::as_array).into_iter().flatten();
        let members = members.map(|member| self.member(member)).collect();
        // Provider ovn passes over monitors in a whole tree.
        let monitor = monitor.filter(|_| self.provider != "ovn").map(|monitor| self.monitor(&monitor));
        let pool = Pool { below, members, monitor };
        self.balancers.get_mut(of).unwrap().pools.insert(id.clone(), pool);
        id
    }

    fn insert_listener(&mut self, of: &str, wanted: &Value, pool: Option<&str>, until: Instant) {
        let id = self.id("listener");
        let mut shown = wanted.clone();
        shown.as_object_mut().unwrap().remove("default_pool");
        (shown["id"], shown["project_id"], shown["default_pool_id"]) =
            (json!(id), json!(PROJECT), json!(pool));
        let listener =
            Below { shown, made_at: self.made_at(until), is_left_pending: false, is_failed: false };
        self.balancers.get_mut(of).unwrap().listeners.insert(id, listener);
    }

    fn member(&mut self, wanted: &Value) -> ((IpAddr, u64), Member) {
        let mut shown = wanted.clone();
        (shown["id"], shown["provisioning_status"]) = (json!(self.id("member")), json!("ACTIVE"));
        let address = shown["address"].as_str().unwrap().parse().unwrap();
        ((address, shown["protocol_port"].as_u64().unwrap()), Member { shown, goes: None })
    }

    fn monitor(&mut self, wanted: &Value) -> Value {
        let mut monitor = wanted.clone();
        monitor["id"] = json!(self.id("monitor"));
        monitor
    }

    fn create_listener(&mut self, wanted: &Value) -> Answer {
        let (of, pool) = (text(&wanted["loadbalancer_id"]), wanted["default_pool_id"].as_str());
        let Some(balancer) = self.balancers.get(&of) else { return missing("loadbalancer", &of) };
        if let Some(pool) = pool.filter(|pool| !balancer.pools.contains_key(*pool)) {
            return missing("pool", pool);
        }
        let same = |listener: &&Below| {
            listener.shown["protocol_port"] == wanted["protocol_port"]
                && listener.shown["protocol"] == wanted["protocol"]
        };
        if balancer.listeners.values().any(|listener| same(&listener)) {
            let (protocol, port) = (text(&wanted["protocol"]), &wanted["protocol_port"]);
            return conflict(&format!(
                "Another Listener on this Load Balancer is already using protocol {protocol} and protocol_port {port}"
            ));
        }
        self.changed(&of, 201, |octavia, until| octavia.insert_listener(&of, wanted, pool, until))
    }

    fn create_pool(&mut self, wanted: &Value) -> Answer {
        let of = text(&wanted["loadbalancer_id"]);
        self.changed(&of, 201, |octavia, until| drop(octavia.insert_pool(&of, wanted, until)))
    }

    fn create_monitor(&mut self, wanted: &Value) -> Answer {
        let pool = text(&wanted["pool_id"]);
        let Some(of) = self.above("pools", &pool) else { return missing("pool", &pool) };
        if self.balancers[&of].pools[&pool].monitor.is_some() {
            return conflict("This pool already has a health monitor");
        }
        self.changed(&of, 201, |octavia, _| {
            let monitor = octavia.monitor(wanted);
            octavia.pool_mut(&of, &pool).monitor = Some(monitor);
        })
    }

    fn replace_members(&mut self, pool: &str, wanted: &Value) -> Answer {
        let Some(of) = self.above("pools", pool) else { return without_pool(pool) };
        let answer = self.changed(&of, 202, |octavia, until| {
            let wanted: Vec<_> = wanted.as_array().into_iter().flatten().cloned().collect();
            let wanted: BTreeMap<_, _> = wanted.iter().map(|member| octavia.member(member)).collect();
            let later = octavia.chance.millis(0, 1500);
            let goes = match octavia.provider {
                "ovn" if octavia.sticks_next => Goes::Never,
                "ovn" => Goes::At(until + later),
                _ => Goes::At(Instant::now()),
            };
            let members = &mut octavia.pool_mut(&of, pool).members;
            let mut took = false;
            for (_, member) in members.iter_mut().filter(|(key, _)| !wanted.contains_key(key)) {
                took |= member.goes.is_none();
                member.goes.get_or_insert(goes.clone());
            }
            for (key, new) in wanted {
                match members.get_mut(&key) {
                    // Changed while it goes.
                    Some(there) if there.goes.is_some() => {
                        there.shown["provisioning_status"] = json!("PENDING_UPDATE");
                    }
                    Some(there) => {
                        (there.shown["name"], there.shown["subnet_id"]) =
                            (new.shown["name"].clone(), new.shown["subnet_id"].clone())
                    }
                    None => drop(members.insert(key, new)),
                }
            }
            octavia.sticks_next &= !took;
        });
        // It names what it was asked for.
        if answer.0 == 409 { immutable("Pool", pool) } else { answer }
    }

    fn delete_member(&mut self, pool: &str, id: &str) -> Answer {
        let Some(of) = self.above("pools", pool) else { return without_pool(pool) };
        let mut members = self.balancers[&of].pools[pool].members.iter();
        let Some(at) = members.find(|(_, member)| member.shown["id"] == id).map(|(at, _)| *at) else {
            return missing("member", id);
        };
        let is_ovn = self.provider == "ovn";
        self.changed(&of, 204, |octavia, until| {
            let gone_at = if is_ovn { until } else { Instant::now() };
            let member = octavia.pool_mut(&of, pool).members.get_mut(&at);
            member.unwrap().goes = Some(Goes::At(gone_at));
        })
    }

    fn update(&mut self, kind: &str, id: &str, body: &Value) -> Answer {
        let Some(of) = self.above(kind, id) else { return missing(kind.trim_end_matches('s'), id) };
        let change = body.as_object().and_then(|body| body.values().next()).cloned().unwrap_or_default();
        let is_ovn = self.provider == "ovn";
        self.changed(&of, 200, |octavia, _| {
            let balancer = octavia.balancers.get_mut(&of).unwrap();
            if is_ovn && kind == "healthmonitors" {
                balancer.leave_pending(id);
            }
            let shown = match kind {
                "loadbalancers" => &mut balancer.shown,
                "listeners" => {
                    let listener = balancer.listeners.get_mut(id).unwrap();
                    listener.is_left_pending = false;
                    &mut listener.shown
                }
                "pools" => &mut balancer.pools.get_mut(id).unwrap().below.shown,
                _ => {
                    let mut monitors = balancer.pools.values_mut().filter_map(|pool| pool.monitor.as_mut());
                    monitors.find(|monitor| monitor["id"] == id).unwrap()
                }
            };
            for (field, value) in change.as_object().into_iter().flatten() {
                shown[field] = value.clone();
            }
            // Provider ovn fails over it.
            if is_ovn && kind == "pools" && change["admin_state_up"].is_null() {
                balancer.pools.get_mut(id).unwrap().below.is_failed = true;
            }
        })
    }

    fn delete_balancer(&mut self, id: &str) -> Answer {
        match self.begin(id, "PENDING_DELETE", None) {
            Ok(_) => (204, Value::Null),
            Err((409, _)) => {
                let status = self.balancers[id].status();
                conflict(&format!("Invalid state {status} of loadbalancer resource {id}"))
            }
            Err(missing) => missing,
        }
    }

    fn delete_below(&mut self, kind: &str, id: &str) -> Answer {
        let Some(of) = self.above(kind, id) else { return missing(kind.trim_end_matches('s'), id) };
        let is_used = |listener: &Below| kind == "pools" && listener.shown["default_pool_id"] == id;
        if self.balancers[&of].listeners.values().any(is_used) {
            return conflict(&format!("Pool {id} is in use and cannot be modified."));
        }
        self.changed(&of, 204, |octavia, _| {
            let balancer = octavia.balancers.get_mut(&of).unwrap();
            balancer.listeners.remove(id);
            balancer.pools.remove(id);
            if kind == "healthmonitors" {
                balancer.listeners.values_mut().for_each(|listener| listener.is_left_pending = false);
            }
            let monitored = balancer.pools.values_mut();
            monitored.for_each(|pool| drop(pool.monitor.take_if(|monitor| monitor["id"] == id)));
        })
    }

    /// Changes something below a load balancer, if that takes a change.
    fn changed(&mut self, of: &str, done: u16, change: impl FnOnce(&mut Self, Instant)) -> Answer {
        match self.begin(of, "PENDING_UPDATE", Some("ACTIVE")) {
            Ok(until) => {
                change(self, until);
                (done, json!({}))
            }
            Err(refused) => refused,
        }
    }

    /// The load balancer that something belongs to.
    pub(crate) fn above(&self, kind: &str, id: &str) -> Option<String> {
        let has = |(of, balancer): &(&String, &Balancer)| match kind {
            "loadbalancers" => *of == id,
            "listeners" => balancer.listeners.contains_key(id),
            "pools" => balancer.pools.contains_key(id),
            _ => balancer.pools.values().filter_map(|pool| pool.monitor.as_ref()).any(|it| it["id"] == id),
        };
        self.balancers.iter().find(has).map(|(of, _)| of.clone())
    }

    fn pool_mut(&mut self, of: &str, pool: &str) -> &mut Pool {
        self.balancers.get_mut(of).unwrap().pools.get_mut(pool).unwrap()
    }

    /// Somebody else deletes a load balancer, if it takes that; tells whether it did.
    pub(crate) fn delete_by_hand(&mut self, id: &str) -> bool {
        self.delete_balancer(id).0 == 204
    }

    /// Somebody else deletes a listener, a pool or a member of a load balancer, if it takes that; tells which.
    pub(crate) fn delete_part_by_hand(&mut self, id: &str) -> Option<String> {
        let balancer = self.balancers.get(id)?;
        let listeners = balancer.listeners.keys().map(|listener| Part::Listener(listener.clone()));
        let pools = balancer.pools.keys().map(|pool| Part::Pool(pool.clone()));
        let members = balancer
            .pools
            .iter()
            .flat_map(|(pool, found)| found.members.keys().map(|member| Part::Member(pool.clone(), *member)));
        let of_kinds: [Vec<Part>; 3] = [listeners.collect(), pools.collect(), members.collect()];
        let part = self.chance.pick(&of_kinds).and_then(|parts| parts.first()).cloned()?;
        let done = self.changed(id, 204, |octavia, _| {
            let balancer = octavia.balancers.get_mut(id).unwrap();
            match &part {
                Part::Listener(listener) => drop(balancer.listeners.remove(listener)),
                Part::Pool(pool) => balancer.remove_pool(pool),
                Part::Member(pool, member) => {
                    balancer.pools.get_mut(pool).unwrap().members.remove(member);
                }
            }
        });
        (done.0 == 204).then(|| format!("{part:?}"))
    }

    /// All load balancers are being changed for so long, by whatever goes on inside of Octavia.
    pub(crate) fn stand_still(&mut self, lasts: Duration) {
        let (since, until) = (Instant::now(), Instant::now() + lasts);
        for balancer in self.balancers.values_mut().filter(|balancer| balancer.is_ours()) {
            match &mut balancer.under_way {
                Some(change) if change.then.is_some() => change.until = until,
                None if balancer.shown["provisioning_status"] == "ACTIVE" => {
                    balancer.shown["provisioning_status"] = json!("PENDING_UPDATE");
                    balancer.under_way = Some(UnderWay { since, until, then: Some("ACTIVE") });
                }
                // What is being deleted goes.
                _ => {}
            }
        }
    }

    /// Nothing takes long any more, and nothing fails.
    pub(crate) fn calm_down(&mut self) {
        (self.takes_most, self.fails_one_in) = (1500, None);
        let soon = Instant::now() + Duration::from_secs(5);
        for change in self.balancers.values_mut().filter_map(|balancer| balancer.under_way.as_mut()) {
            change.until = change.until.min(soon);
        }
    }
}

impl Pool {
    /// Addresses and ports of its members.
    pub(crate) fn targets(&self) -> BTreeSet<(IpAddr, u64)> {
        self.members.keys().copied().collect()
    }
}

pub(crate) fn has_tag(found: &Value, tag: &str) -> bool {
    found["tags"].as_array().is_some_and(|tags| tags.iter().any(|own| own == tag))
}

fn is_below(of: &str, asked: &Asked) -> bool {
    asked.all("loadbalancer_id").all(|wanted| wanted == of)
}

fn filtered(all: impl Iterator<Item = Value>, asked: &Asked) -> Vec<Value> {
    all.filter(|found| {
        ["project_id", "name"].iter().all(|field| asked.all(field).all(|wanted| found[*field] == wanted))
            && asked.all("tags").flat_map(|tags| tags.split(',')).all(|tag| has_tag(found, tag))
    })
    .collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn conflict(words: &str) -> Answer {
    (409, json!({"faultcode": "Client", "faultstring": words}))
}

fn immutable(what: &str, id: &str) -> Answer {
    conflict(&format!("{what} {id} is immutable and cannot be updated."))
}

fn missing(member: &str, id: &str) -> Answer {
    let what = match member {
        "loadbalancer" => "Load Balancer",
        "listener" => "Listener",
        "pool" => "Pool",
        "healthmonitor" => "Health Monitor",
        "member" => "Member",
        other => other,
    };
    (404, json!({"faultcode": "Client", "faultstring": format!("{what} {id} not found.")}))
}

/// Below a pool that is not there it answers in another form.
fn without_pool(id: &str) -> Answer {
    let words = format!("Pool {id} not found.");
    (404, json!({"code": 404, "title": "Bad Request", "description": words}))
}
