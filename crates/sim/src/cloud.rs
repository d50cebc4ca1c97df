//! Keystone and Neutron, as much of them as a controller calls for ports of hosts.
//!
//! Neutron gives a new port the lowest address that is free, at once: an address that is freed too soon goes to somebody
//! else. With the role that controllers have it shows ports of all projects, and changes whatever it is told to.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use kuryr_openstack::{Transport, TransportError};
use serde_json::{Value, json};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    faults::{Caller, Fault, Meets, Side},
    floating::FloatingIps,
    octavia::has_tag,
    world::World,
};

/// The project of the cluster.
pub(crate) const PROJECT: &str = "k8s";
/// The tag of the cluster.
pub(crate) const TAG: &str = "kuryr-cluster:c1";
pub(crate) const SUBNET: &str = "s4";
pub(crate) const NETWORK: &str = "n";
/// `device_owner` of ports of VIPs, by provider ovn and by others.
pub(crate) const VIP_OWNERS: [&str; 2] = ["ovn-lb:vip", "Octavia"];
/// The project's default group, which what does not name groups has.
const DEFAULT_GROUP: &str = "default-group";
/// Milliseconds for which a token counts.
const TOKEN_LIVES: u128 = 3_600_000;
/// Last bytes of the addresses of the subnet that Neutron gives to ports.
const FREE: RangeInclusive<u8> = 10..=200;

/// What is in the cloud.
#[derive(Debug)]
pub(crate) struct Cloud {
    pub(crate) floating: FloatingIps,
    pub(crate) ports: BTreeMap<String, Value>,
    /// Last bytes of the addresses that it gives by itself.
    pub(crate) free: RangeInclusive<u8>,
    /// So many ports the project may have.
    pub(crate) port_quota: Option<u32>,
    /// Ports that never become ACTIVE.
    pub(crate) stuck: BTreeSet<String>,
    /// Ports that no driver has bound and no network knows: Neutron ended while it made them.
    pub(crate) half_made: BTreeSet<String>,
    /// Hosts that ports can be bound to.
    hosts: BTreeSet<String>,
    pub(crate) groups: Vec<Value>,
    pub(crate) rules: Vec<Value>,
    groups_made: u32,
    rules_made: u32,
    made: u32,
}

impl Cloud {
    /// A cloud in which others are, too: somebody who copied our name and tag, and what the project has besides.
    pub(crate) fn new(hosts: BTreeSet<String>) -> Self {
        let first = *FREE.start();
        let port = |id: &str, project: &str, tags: &[&str], last: u8| {
            let port = json!({"id": id, "name": "kuryr-pool/n1", "project_id": project, "network_id": NETWORK, "tags": tags,
                "description": "", "device_owner": "compute:nova", "device_id": "server", "status": "ACTIVE",
                "mac_address": format!("fa:16:3e:ff:00:{last:02x}"), "revision_number": 1, "binding:host_id": "n1",
                "fixed_ips": [{"subnet_id": SUBNET, "ip_address": format!("10.0.0.{last}")}], "security_groups": []});
            (id.to_owned(), port)
        };
        let strangers = [
            port("foreign-1", "hostile", &[TAG], first),
            port("foreign-2", PROJECT, &[], first + 2),
            port("foreign-3", PROJECT, &["kuryr-cluster:c2"], first + 5),
        ];
        let floating = FloatingIps::new();
        let (groups, rules) = (Vec::new(), Vec::new());
        Self {
            floating,
            ports: strangers.into(),
            free: FREE,
            port_quota: None,
            stuck: BTreeSet::new(),
            half_made: BTreeSet::new(),
            hosts,
            groups,
            rules,
            groups_made: 0,
            rules_made: 0,
            made: 0,
        }
    }

    /// Ports of the cluster, tagged or about to be.
    pub(crate) fn ours(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.ports.iter().filter(|(_, port)| is_ours(port))
    }

    /// Allows so many ports more.
    pub(crate) fn limit_ports(&mut self, more: u32) {
        self.port_quota = Some(u32::try_from(self.used()).unwrap() + more);
    }

    /// There are as many addresses and ports as anybody wants.
    pub(crate) fn lift_limits(&mut self) {
        (self.free, self.port_quota) = (FREE, None);
    }

    fn answer(&mut self, asked: &Asked) -> (u16, Value) {
        if let Some(answer) = self.floating.answer(asked, &self.ports) {
            return answer;
        }
        let path: Vec<&str> = asked.path.trim_matches('/').split('/').collect();
        match (asked.method.as_str(), path.as_slice()) {
            ("POST", ["v3", "auth", "tokens"]) => (201, token()),
            ("GET", ["v2.0", "networks", NETWORK]) => {
                (200, json!({"network": {"id": NETWORK, "name": "pods", "mtu": 1442, "project_id": PROJECT}}))
            }
            ("GET", ["v2.0", "subnets", SUBNET]) => (200, json!({"subnet": subnet()})),
            ("GET", ["v2.0", "quotas", PROJECT, "details"]) => (200, self.quota()),
            ("GET", ["v2.0", "security-groups"]) => {
                (200, json!({"security_groups": self.list_groups(asked)}))
            }
            ("POST", ["v2.0", "security-groups"]) => self.make_group(&asked.body["security_group"]),
            ("PUT", ["v2.0", "security-groups", id, "tags"]) => {
                let of_id = self.groups.iter_mut().filter(|group| group["id"] == *id);
                of_id.for_each(|group| group["tags"] = asked.body["tags"].clone());
                (200, asked.body.clone())
            }
            ("GET", ["v2.0", "security-groups", id]) => {
                let found = self.groups.iter().find(|group| group["id"] == *id);
                found.map_or_else(
                    || missing("SecurityGroupNotFound"),
                    |group| (200, json!({"security_group": self.with_rules(group)})),
                )
            }
            ("DELETE", ["v2.0", "security-groups", id]) => self.delete_group(id),
            ("GET", ["v2.0", "security-group-rules"]) => (200, json!({"security_group_rules": self.rules})),
            ("POST", ["v2.0", "security-group-rules"]) => self.make_rules(&asked.body),
            ("GET", ["v2.0", "ports"]) => (200, json!({"ports": self.list(asked)})),
            ("POST", ["v2.0", "ports"]) => self.make_ports(&asked.body),
            ("GET", ["v2.0", "ports", id]) => {
                self.ports.get(*id).map_or_else(gone, |port| (200, json!({"port": port})))
            }
            // Neutron 29 fails over tags of what is not there (its log says `KeyError: None`).
            ("PUT", ["v2.0", "ports", id, "tags", ..]) if !self.ports.contains_key(*id) => {
                fault(500, "HTTPInternalServerError")
            }
            ("PUT", ["v2.0", "ports", id, "tags"]) => self.change(id, asked, &asked.body),
            ("PUT", ["v2.0", "ports", id, "tags", tag]) => self.add_tag(id, tag),
            ("PUT", ["v2.0", "ports", id]) => self.change(id, asked, &asked.body["port"]),
            ("DELETE", ["v2.0", "ports", id]) => {
                self.floating.leave(id);
                self.ports.remove(*id).map_or_else(gone, |_| (204, Value::Null))
            }
            // Nothing else is there.
            ("GET", [.., list]) => (200, json!({list.replace('-', "_"): []})),
            _ => missing("HTTPNotFound"),
        }
    }

    fn list(&self, asked: &Asked) -> Vec<Value> {
        let of = |name: &'static str| asked.query.iter().filter(move |(key, _)| key == name);
        let ids: BTreeSet<&str> = of("id").map(|(_, id)| id.as_str()).collect();
        let tags: Vec<&str> = of("tags").flat_map(|(_, tags)| tags.split(',')).collect();
        let addresses: BTreeSet<&str> =
            of("fixed_ips").filter_map(|(_, wanted)| wanted.strip_prefix("ip_address=")).collect();
        let has_address = |port: &Value| {
            let own = port["fixed_ips"].as_array().into_iter().flatten();
            own.filter_map(|own| own["ip_address"].as_str()).any(|own| addresses.contains(own))
        };
        let same = ["project_id", "description", "name", "device_owner", "binding:host_id", "network_id"];
        let fits = |port: &Value| {
            let has =
                |tag: &&str| port["tags"].as_array().is_some_and(|tags| tags.iter().any(|own| own == tag));
            (ids.is_empty() || port["id"].as_str().is_some_and(|id| ids.contains(id)))
                && tags.iter().all(has)
                && (addresses.is_empty() || has_address(port))
                && same.iter().all(|name| of(name).all(|(_, wanted)| port[*name] == wanted.as_str()))
        };
        self.ports.values().filter(|port| fits(port)).cloned().collect()
    }

    fn change(&mut self, id: &str, asked: &Asked, change: &Value) -> (u16, Value) {
        let Some(port) = self.ports.get_mut(id) else { return gone() };
        let revision = port["revision_number"].as_u64().unwrap_or_default();
        if asked.if_revision.is_some_and(|wanted| wanted != revision) {
            return fault(412, "RevisionNumberConstraintFailed");
        }
        for (field, value) in change.as_object().into_iter().flatten() {
            port[field] = value.clone();
        }
        port["revision_number"] = json!(revision + 1);
        if let Some(host) = change["binding:host_id"].as_str() {
            (port["status"], port["binding:vif_type"]) = (json!("DOWN"), json!(vif_type(&self.hosts, host)));
        }
        (200, json!({"port": port, "tags": port["tags"]}))
    }

    fn add_tag(&mut self, id: &str, tag: &str) -> (u16, Value) {
        let Some(port) = self.ports.get_mut(id) else { return gone() };
        if !has_tag(port, tag) {
            port["tags"].as_array_mut().unwrap().push(json!(tag));
        }
        port["revision_number"] = json!(port["revision_number"].as_u64().unwrap_or_default() + 1);
        (201, Value::Null)
    }

    fn quota(&self) -> Value {
        let limit = self.port_quota.map_or(-1, i64::from);
        json!({"quota": {"port": {"limit": limit, "used": self.used(), "reserved": 0}}})
    }

    fn used(&self) -> usize {
        self.ports.values().filter(|port| port["project_id"] == PROJECT).count()
    }

    /// All or none.
    fn make_ports(&mut self, body: &Value) -> (u16, Value) {
        let wanted = body["ports"].as_array().cloned().unwrap_or_default();
        if self.port_quota.is_some_and(|most| self.used() + wanted.len() > most as usize) {
            return quota_is_met("port");
        }
        let mut made: Vec<Value> = Vec::new();
        for port in wanted {
            match self.make_port(port) {
                Ok(port) => made.push(port),
                Err(refused) => {
                    made.iter().for_each(|port| drop(self.ports.remove(port["id"].as_str().unwrap())));
                    return refused;
                }
            }
        }
        (201, json!({"ports": made}))
    }

    /// Nobody tells the network of these ports, which were just made.
    fn leave_half_made(&mut self, answer: &Value) {
        for id in answer["ports"].as_array().into_iter().flatten().filter_map(|port| port["id"].as_str()) {
            self.half_made.insert(id.to_owned());
            if let Some(port) = self.ports.get_mut(id) {
                port["binding:vif_type"] = json!("unbound");
            }
        }
    }

    fn make_port(&mut self, wanted: Value) -> Result<Value, (u16, Value)> {
        let address = self.address_for(&wanted)?;
        self.made += 1;
        let id = format!("{:08x}-0000-4000-8000-000000000000", self.made);
        let [.., high, low] = self.made.to_be_bytes();
        let mut port = json!({"device_owner": "", "device_id": "", "binding:host_id": "", "tags": [],
            "description": "", "allowed_address_pairs": []});
        for (field, value) in wanted.as_object().into_iter().flatten() {
            port[field] = value.clone();
        }
        port["id"] = json!(id);
        port["mac_address"] = json!(format!("fa:16:3e:00:{high:02x}:{low:02x}"));
        (port["status"], port["revision_number"]) = (json!("DOWN"), json!(1));
        let host = port["binding:host_id"].as_str().unwrap_or_default();
        port["binding:vif_type"] = json!(vif_type(&self.hosts, host));
        port["fixed_ips"] = json!([{"subnet_id": SUBNET, "ip_address": address}]);
        self.ports.insert(id, port.clone());
        Ok(port)
    }

    /// The address that a new port asks for, or the lowest one that is free.
    fn address_for(&self, wanted: &Value) -> Result<IpAddr, (u16, Value)> {
        match addresses(wanted).first() {
            Some(asked) if self.ports.values().flat_map(addresses).any(|used| used == *asked) => {
                Err(fault(409, "IpAddressAlreadyAllocated"))
            }
            Some(asked) => Ok(*asked),
            None => self.free_address().ok_or_else(|| fault(409, "IpAddressGenerationFailure")),
        }
    }

    fn free_address(&self) -> Option<IpAddr> {
        let used = self.ports.values().flat_map(addresses).collect::<BTreeSet<_>>();
        self.free.clone().map(address).find(|address| !used.contains(address))
    }

    /// Makes the port of a load balancer's VIP, with this address if one is wanted.
    pub(crate) fn make_vip(
        &mut self,
        balancer: &str,
        provider: &str,
        wanted: Option<IpAddr>,
    ) -> Option<(String, IpAddr)> {
        let is_free = |wanted: &IpAddr| !self.ports.values().flat_map(addresses).any(|used| used == *wanted);
        let address = wanted.map_or_else(|| self.free_address(), |wanted| Some(wanted).filter(is_free))?;
        self.made += 1;
        let id = format!("{:08x}-0000-4000-8000-00000000071b", self.made);
        let [ovns, others] = VIP_OWNERS;
        let (name, owner) = if provider == "ovn" { ("ovn-lb-vip", ovns) } else { ("octavia-lb", others) };
        let port = json!({"id": id, "name": format!("{name}-{balancer}"), "project_id": PROJECT, "network_id": NETWORK,
            "tags": [], "description": "", "device_owner": owner, "device_id": format!("lb-{balancer}"),
            "admin_state_up": true, "allowed_address_pairs": [], "binding:vif_type": "unbound",
            "status": "DOWN", "mac_address": format!("fa:16:3e:01:00:{:02x}", self.made % 256), "revision_number": 1,
            "binding:host_id": "", "fixed_ips": [{"subnet_id": SUBNET, "ip_address": address}],
            "security_groups": [DEFAULT_GROUP]});
        self.ports.insert(id.clone(), port);
        Some((id, address))
    }

    /// Deletes the port of a VIP.
    pub(crate) fn remove_vip(&mut self, id: &str) {
        self.ports.remove(id);
        self.floating.leave(id);
    }

    fn make_group(&mut self, wanted: &Value) -> (u16, Value) {
        let mut group = wanted.clone();
        let id = format!("g{}", self.groups_made);
        self.groups_made += 1;
        (group["id"], group["project_id"]) = (json!(id), json!(PROJECT));
        group["tags"] = json!([]);
        for family in ["IPv4", "IPv6"] {
            self.insert_rule(json!({"security_group_id": id, "direction": "egress", "ethertype": family}));
        }
        self.groups.push(group.clone());
        (201, json!({"security_group": self.with_rules(&group)}))
    }

    fn list_groups(&self, asked: &Asked) -> Vec<Value> {
        let fits = |group: &&Value| {
            let same = ["project_id", "name"];
            same.iter().all(|field| asked.all(field).all(|wanted| group[*field] == wanted))
                && asked.all("tags").flat_map(|tags| tags.split(',')).all(|tag| has_tag(group, tag))
        };
        self.groups.iter().filter(fits).map(|group| self.with_rules(group)).collect()
    }

    fn with_rules(&self, group: &Value) -> Value {
        let own = self.rules.iter().filter(|rule| rule["security_group_id"] == group["id"]);
        let mut shown = group.clone();
        shown["security_group_rules"] = own.cloned().collect();
        shown
    }

    fn delete_group(&mut self, id: &str) -> (u16, Value) {
        let has =
            |port: &Value| port["security_groups"].as_array().is_some_and(|all| all.contains(&json!(id)));
        if self.ports.values().any(has) {
            return fault(409, "SecurityGroupInUse");
        }
        let before = self.groups.len();
        self.groups.retain(|group| group["id"] != id);
        self.rules.retain(|rule| rule["security_group_id"] != id);
        if self.groups.len() < before { (204, Value::Null) } else { missing("SecurityGroupNotFound") }
    }

    fn make_rules(&mut self, body: &Value) -> (u16, Value) {
        let rules = body["security_group_rules"].as_array().cloned().unwrap_or_default();
        if rules.iter().any(|rule| self.rules.iter().any(|there| allows_the_same(there, rule))) {
            return fault(409, "SecurityGroupRuleExists");
        }
        let made: Vec<Value> = rules.into_iter().map(|rule| self.insert_rule(rule)).collect();
        (201, json!({"security_group_rules": made}))
    }

    fn insert_rule(&mut self, mut rule: Value) -> Value {
        rule["id"] = json!(format!("r{}", self.rules_made));
        self.rules_made += 1;
        self.rules.push(rule.clone());
        rule
    }

    /// Calls a port ACTIVE or DOWN.
    pub(crate) fn set_status(&mut self, id: &str, status: &str) {
        if let Some(port) = self.ports.get_mut(id).filter(|port| port["status"] != status) {
            port["status"] = json!(status);
            port["revision_number"] = json!(port["revision_number"].as_u64().unwrap_or_default() + 1);
        }
    }
}

/// How a port is wired where it is bound.
fn vif_type(hosts: &BTreeSet<String>, host: &str) -> &'static str {
    match host {
        "" => "unbound",
        host if hosts.contains(host) => "ovs",
        _ => "binding_failed",
    }
}

/// Whether two rules are one.
fn allows_the_same(one: &Value, other: &Value) -> bool {
    let fields = [
        "security_group_id",
        "direction",
        "ethertype",
        "protocol",
        "port_range_min",
        "port_range_max",
        "remote_ip_prefix",
        "remote_group_id",
        "remote_address_group_id",
    ];
    fields.iter().all(|field| one[*field] == other[*field])
}

/// Whether a port is this cluster's, by its tag or by the mark it was made with.
pub(crate) fn is_ours(port: &Value) -> bool {
    let tagged = port["tags"].as_array().is_some_and(|tags| tags.iter().any(|tag| tag == TAG));
    port["project_id"] == PROJECT && (tagged || port["description"] == TAG)
}

/// The addresses of a port.
pub(crate) fn addresses(port: &Value) -> Vec<IpAddr> {
    let all = port["fixed_ips"].as_array().into_iter().flatten();
    all.filter_map(|fixed| fixed["ip_address"].as_str()?.parse().ok()).collect()
}

fn address(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

fn subnet() -> Value {
    json!({"id": SUBNET, "name": SUBNET, "network_id": NETWORK, "project_id": PROJECT, "cidr": "10.0.0.0/24",
           "gateway_ip": "10.0.0.1", "ip_version": 4})
}

fn token() -> Value {
    let endpoint = json!({"interface": "public", "region": "R", "region_id": "R", "url": "http://cloud.test", "id": "e"});
    json!({"token": {"issued_at": "2026-01-01T00:00:00.000000Z", "expires_at": "2026-01-01T01:00:00.000000Z",
                     "project": {"id": PROJECT},
                     "catalog": [{"type": "network", "name": "neutron", "id": "n", "endpoints": [endpoint.clone()]},
                                 {"type": "load-balancer", "name": "octavia", "id": "o", "endpoints": [endpoint]}]}})
}

fn fault(status: u16, kind: &str) -> (u16, Value) {
    (status, json!({"NeutronError": {"type": kind, "message": "injected or true", "detail": ""}}))
}

/// A client finds in the words which quota it is.
fn quota_is_met(resource: &str) -> (u16, Value) {
    let words = format!("Quota exceeded for resources: ['{resource}'].");
    (409, json!({"NeutronError": {"type": "OverQuota", "message": words, "detail": ""}}))
}

fn missing(kind: &str) -> (u16, Value) {
    fault(404, kind)
}

fn gone() -> (u16, Value) {
    missing("PortNotFound")
}

/// A call as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Who asks.
    pub(crate) by: String,
    pub(crate) method: String,
    pub(crate) path: String,
    query: Vec<(String, String)>,
    pub(crate) if_revision: Option<u64>,
    /// When the token was issued that it came with, in milliseconds since the start.
    issued: Option<u128>,
    pub(crate) body: Value,
}

impl Asked {
    /// Whether its token counts no more.
    fn is_expired(&self, now: u128) -> bool {
        self.issued.is_some_and(|issued| now.saturating_sub(issued) >= TOKEN_LIVES)
    }

    /// What is asked for of a field.
    pub(crate) fn all(&self, field: &str) -> impl Iterator<Item = &str> {
        self.query.iter().filter(move |(key, _)| key == field).map(|(_, value)| value.as_str())
    }

    pub(crate) fn of(request: &Request<Bytes>) -> Self {
        let decode = |text: &str| {
            let signs = [("%20", " "), ("%2C", ","), ("%2F", "/"), ("%3A", ":"), ("%3D", "=")];
            signs.iter().fold(text.to_owned(), |text, (code, sign)| text.replace(code, sign))
        };
        let pairs =
            request.uri().query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        let revision = header("if-match");
        let issued = header("x-auth-token").and_then(|token| token.strip_prefix("issued-"));
        Self {
            by: String::new(),
            method: request.method().to_string(),
            path: decode(request.uri().path()),
            query: pairs.map(|(key, value)| (decode(key), decode(value))).collect(),
            if_revision: revision.and_then(|value| value.rsplit('=').next()?.parse().ok()),
            issued: issued.and_then(|at| at.parse().ok()),
            body: serde_json::from_slice(request.body()).unwrap_or_default(),
        }
    }
}

/// The cloud, as a program reaches it.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) world: Arc<World>,
    pub(crate) caller: Caller,
}

impl Transport for Wire {
    fn call(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>> {
        let (world, caller) = (Arc::clone(&self.world), self.caller.clone());
        let asked = Asked { by: caller.name().to_owned(), ..Asked::of(&request) };
        Box::pin(exchange(world, caller, asked))
    }
}

async fn exchange(
    world: Arc<World>,
    caller: Caller,
    asked: Asked,
) -> Result<Response<Bytes>, TransportError> {
    let changes = asked.method != "GET" && !asked.path.ends_with("/tokens");
    let takes = world.state().chance.millis(5, if asked.method == "POST" { 300 } else { 60 });
    sleep(takes / 2).await;
    let line = format!("{} {}", asked.method, asked.path);
    let is_down = world.state().cloud_down_until > Instant::now();
    let side = side(&asked, changes);
    let (status, body) = match world.faults.meet(&caller, side, &line, changes) {
        Meets::Dead | Meets::Fault(Fault::KillBefore | Fault::Unanswered) => return hang().await,
        _ if is_down => (503, Value::Null),
        _ if asked.is_expired(world.faults.elapsed()) => fault(401, "Unauthorized"),
        Meets::Nothing => carry_out(&world, &asked, false),
        Meets::Fault(Fault::KillAfter) => {
            carry_out(&world, &asked, false);
            world.faults.kill(&caller);
            return hang().await;
        }
        Meets::Fault(Fault::Fails) => {
            world.state().octavia.fails_next = true;
            let answer = carry_out(&world, &asked, false);
            world.state().octavia.fails_next = false;
            answer
        }
        Meets::Fault(Fault::Lost) => {
            carry_out(&world, &asked, false);
            sleep(takes).await;
            return Err(TransportError::lost("injected"));
        }
        Meets::Fault(Fault::Late(0)) => {
            carry_out(&world, &asked, false);
            return hang().await;
        }
        Meets::Fault(Fault::HalfMade) => {
            let (_, made) = carry_out(&world, &asked, false);
            world.state().cloud.leave_half_made(&made);
            return hang().await;
        }
        Meets::Fault(Fault::Late(seconds)) => {
            let of = Arc::clone(&world);
            world.spawn(async move {
                sleep(Duration::from_secs(seconds.into())).await;
                of.note(format!("late: {line}"));
                carry_out(&of, &asked, true);
            });
            return hang().await;
        }
        Meets::Stalled(until) => {
            let (of, (tell, told)) = (Arc::clone(&world), oneshot::channel());
            world.spawn(async move {
                sleep_until(until).await;
                of.note(format!("at last: {line}"));
                let is_down = of.state().cloud_down_until > Instant::now();
                let _ = tell.send(if is_down { (503, Value::Null) } else { carry_out(&of, &asked, true) });
            });
            told.await.map_err(|_| TransportError::lost("injected"))?
        }
        // A proxy before the cloud answers in its own words.
        Meets::Fault(Fault::Refused(502)) => (502, Value::Null),
        Meets::Fault(Fault::Refused(status)) => fault(status, "Injected"),
        // None of this side.
        Meets::Fault(_) => carry_out(&world, &asked, false),
    };
    sleep(takes / 2).await;
    Ok(answer(&world, status, &body))
}

fn side(asked: &Asked, changes: bool) -> Side {
    match asked.path.as_str() {
        path if changes && path.contains("/lbaas/") => Side::Octavia,
        "/v2.0/ports" if changes => Side::Ports,
        _ => Side::Cloud,
    }
}

fn answer(world: &World, status: u16, body: &Value) -> Response<Bytes> {
    let issued = format!("issued-{}", world.faults.elapsed());
    let mut answer = Response::builder().status(status).header("x-subject-token", issued);
    if status == 429 {
        answer = answer.header("retry-after", "2");
    }
    let (kind, body) = match status {
        502 => ("text/html", "<html><body><h1>502 Bad Gateway</h1></body></html>".to_owned()),
        _ => ("application/json", body.to_string()),
    };
    answer.header("content-type", kind).body(Bytes::from(body)).unwrap()
}

async fn hang() -> Result<Response<Bytes>, TransportError> {
    std::future::pending().await
}

/// The call's effect, late or not, and the rules' look at it.
fn carry_out(world: &World, asked: &Asked, is_late: bool) -> (u16, Value) {
    world.judge_call(asked);
    world.judge_balancing(asked, is_late);
    let state = &mut *world.state();
    let octavias = state.octavia.answer(asked, &mut state.cloud);
    let answer = octavias.unwrap_or_else(|| state.cloud.answer(asked));
    if asked.method != "GET" && answer.0 < 300 && !asked.path.ends_with("/tokens") {
        state.changed = Instant::now();
        if is_late {
            state.services.came_late(asked, &answer.1);
        }
    }
    answer
}
