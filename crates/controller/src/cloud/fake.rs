//! A cloud for tests: Keystone with one user, and as much of Neutron and Octavia as the controller calls, in memory.

use std::sync::{Arc, Mutex, PoisonError};

use http::{Request, Response};
use kuryr_conf::Conf;
use kuryr_openstack::{Client, Credentials, Options, Ownership, Transport, TransportError};
use kuryr_planning::ownership::Owner;
use serde_json::{Value, json};

use super::{
    facts::{Access, Connect},
    fake_octavia::FakeOctavia,
};
use crate::config::Config;

pub(crate) const PROJECT: &str = "k8s";
pub(crate) const TAG: &str = "kuryr-cluster:c1";

/// What is in the cloud.
#[derive(Debug, Default)]
pub(crate) struct FakeCloud {
    pub(crate) subnets: Mutex<Vec<Value>>,
    pub(crate) groups: Mutex<Vec<Value>>,
    pub(crate) ports: Mutex<Vec<Value>>,
    /// `None`: this Neutron has no trunks.
    pub(crate) trunks: Mutex<Option<Vec<Value>>>,
    /// Tags of new ports are not stored, as without `tag_ports_during_bulk_creation`, and nothing can be tagged.
    pub(crate) tags_fail: Mutex<bool>,
    /// Nothing but Keystone answers.
    pub(crate) is_down: Mutex<bool>,
    /// Lists are empty, whatever there is: of a Neutron that has only just been started.
    pub(crate) lists_nothing: Mutex<bool>,
    /// Calls, as method and path, that end in an error of the cloud whenever they are made.
    pub(crate) failing: Mutex<Vec<String>>,
    /// Calls, as method and path, before each of which somebody else changes the same.
    pub(crate) shared: Mutex<Vec<String>>,
    /// Most ports; no bound if absent.
    pub(crate) quota: Mutex<Option<usize>>,
    pub(crate) octavia: Mutex<FakeOctavia>,
    pub(crate) calls: Mutex<Vec<String>>,
}

impl FakeCloud {
    /// Makes clients of this cloud.
    pub(crate) fn connect(self: &Arc<Self>) -> Connect {
        let cloud = Arc::clone(self);
        Arc::new(move |credentials, options| {
            Ok(Client::with_transport(credentials, options, Arc::clone(&cloud) as Arc<dyn Transport>))
        })
    }

    /// A client of this cloud, and who it is.
    pub(crate) fn access(self: &Arc<Self>) -> Access {
        let credentials = Credentials::from_options(&config("").cloud.section).unwrap();
        let client = (self.connect())(credentials, Options::default()).unwrap();
        let ownership = Ownership::new(PROJECT.into(), TAG).unwrap();
        Access { client, ownership, owner: Owner::new(PROJECT.into(), vec![TAG.into()]) }
    }

    /// How often a call of this method and path began so.
    pub(crate) fn count(&self, call: &str) -> usize {
        lock(&self.calls).iter().filter(|made| made.starts_with(call)).count()
    }

    fn answer(&self, method: &str, path: &str, query: &str, body: &Value) -> (u16, Value) {
        match (method, path.split('/').collect::<Vec<_>>().as_slice()) {
            ("POST", ["v3", "auth", "tokens"]) => (201, token()),
            _ if *lock(&self.is_down) => (503, Value::Null),
            _ if lock(&self.failing).contains(&format!("{method} /{path}")) => (500, Value::Null),
            _ if lock(&self.shared).contains(&format!("{method} /{path}")) => {
                refused("RevisionNumberConstraintFailed")
            }
            ("GET", ["v2.0", list @ ("ports" | "trunks" | "security-groups")])
                if *lock(&self.lists_nothing) =>
            {
                (200, json!({list.replace('-', "_"): []}))
            }
            ("GET", ["v2.0", "networks", id]) => {
                (200, json!({"network": {"id": id, "name": "pods", "mtu": 1442, "project_id": PROJECT}}))
            }
            ("GET", ["v2.0", "subnets", id]) => find(&self.subnets, id)
                .map_or_else(|| missing("SubnetNotFound"), |subnet| (200, json!({"subnet": subnet}))),
            ("GET", ["v2.0", "security-groups"]) => (200, json!({"security_groups": *lock(&self.groups)})),
            ("POST", ["v2.0", "security-groups"]) => {
                let mut group = body["security_group"].clone();
                (group["id"], group["project_id"]) = (json!("g1"), json!(PROJECT));
                lock(&self.groups).push(group.clone());
                (201, json!({"security_group": group}))
            }
            ("PUT", ["v2.0", "security-groups", _, "tags"]) => {
                lock(&self.groups).iter_mut().for_each(|group| group["tags"] = body["tags"].clone());
                (200, body.clone())
            }
            ("GET", ["v2.0", "security-groups", id]) => find(&self.groups, id).map_or_else(
                || missing("SecurityGroupNotFound"),
                |group| (200, json!({"security_group": group})),
            ),
            ("DELETE", ["v2.0", "security-groups", id]) => {
                lock(&self.groups).retain(|group| group["id"] != *id);
                (204, Value::Null)
            }
            ("GET", ["v2.0", "security-group-rules"]) => (200, json!({"security_group_rules": []})),
            ("POST", ["v2.0", "security-group-rules"]) => (201, rules(body)),
            ("GET", ["v2.0", "trunks"]) => lock(&self.trunks)
                .as_ref()
                .map_or_else(|| missing("HTTPNotFound"), |trunks| (200, json!({"trunks": trunks}))),
            ("GET", ["v2.0", "trunks", id]) => {
                let trunks = Mutex::new(lock(&self.trunks).clone().unwrap_or_default());
                find(&trunks, id)
                    .map_or_else(|| missing("TrunkNotFound"), |trunk| (200, json!({"trunk": trunk})))
            }
            ("GET", ["v2.0", "ports"]) => (200, json!({"ports": *lock(&self.ports)})),
            ("POST", ["v2.0", "ports"]) => self.make_ports(body),
            ("GET", ["v2.0", "ports", id]) => find(&self.ports, id)
                .map_or_else(|| missing("PortNotFound"), |port| (200, json!({"port": port}))),
            ("PUT", ["v2.0", "ports", _, "tags"]) if *lock(&self.tags_fail) => (503, Value::Null),
            ("PUT", ["v2.0", "ports", id, "tags"]) => self.change_port(id, body),
            ("PUT", ["v2.0", "ports", id]) => self.change_port(id, &body["port"]),
            ("DELETE", ["v2.0", "ports", id]) => {
                lock(&self.ports).retain(|port| port["id"] != *id);
                (204, Value::Null)
            }
            (method, path) => lock(&self.octavia)
                .answer(method, if path == [""] { &[] } else { path }, query, body)
                .unwrap_or_else(|| missing("HTTPNotFound")),
        }
    }

    fn change_port(&self, id: &str, change: &Value) -> (u16, Value) {
        let mut ports = lock(&self.ports);
        let Some(port) = ports.iter_mut().find(|port| port["id"] == *id) else {
            return missing("PortNotFound");
        };
        for (field, value) in change.as_object().into_iter().flatten() {
            port[field] = value.clone();
        }
        port["revision_number"] = json!(port["revision_number"].as_u64().unwrap_or_default() + 1);
        (200, json!({"port": port, "tags": port["tags"]}))
    }

    fn make_ports(&self, body: &Value) -> (u16, Value) {
        let mut ports = lock(&self.ports);
        let wanted = body["ports"].as_array().cloned().unwrap_or_default();
        if lock(&self.quota).is_some_and(|quota| ports.len() + wanted.len() > quota) {
            let message = "Quota exceeded for resources: ['port'].";
            return (409, json!({"NeutronError": {"type": "OverQuota", "message": message, "detail": ""}}));
        }
        let made: Vec<Value> = wanted
            .into_iter()
            .enumerate()
            .map(|(i, mut port)| {
                let number = ports.len() + i;
                port["id"] = json!(format!("p{number}"));
                port["project_id"] = json!(PROJECT);
                port["mac_address"] = json!(format!("fa:16:3e:00:00:{number:02x}"));
                port["status"] = json!("DOWN");
                port["revision_number"] = json!(1);
                if *lock(&self.tags_fail) {
                    port["tags"] = json!([]);
                }
                port["fixed_ips"] =
                    json!([{"subnet_id": "s4", "ip_address": format!("10.0.0.{}", 10 + number)}]);
                port
            })
            .collect();
        ports.extend(made.iter().cloned());
        (201, json!({"ports": made}))
    }
}

impl Transport for FakeCloud {
    fn call(
        &self,
        request: Request<bytes::Bytes>,
    ) -> futures::future::BoxFuture<'_, Result<Response<bytes::Bytes>, TransportError>> {
        let (method, path) = (request.method().as_str().to_owned(), request.uri().path().to_owned());
        let body = serde_json::from_slice(request.body()).unwrap_or_default();
        let number = {
            let mut calls = lock(&self.calls);
            calls.push(format!("{method} {path}"));
            calls.len()
        };
        let query = request.uri().query().unwrap_or_default();
        let (status, answer) = self.answer(&method, path.trim_matches('/'), query, &body);
        let answer = Response::builder()
            .status(status)
            .header("x-subject-token", "t")
            .header("x-openstack-request-id", format!("req-{number:08x}-0000-4000-8000-000000000000"))
            .header("content-type", "application/json")
            .body(bytes::Bytes::from(answer.to_string()))
            .unwrap();
        Box::pin(async move { Ok(answer) })
    }
}

/// A trunk as Neutron shows it, and its parent port with this address.
pub(crate) fn trunk(id: &str, address: &str, subports: &[(&str, u16)]) -> (Value, Value) {
    let parent = format!("parent-of-{id}");
    let subport = |(port, vlan): &(&str, u16)| json!({"port_id": port, "segmentation_type": "vlan", "segmentation_id": vlan});
    let trunk = json!({"id": id, "project_id": PROJECT, "port_id": parent, "status": "ACTIVE", "admin_state_up": true,
                       "sub_ports": subports.iter().map(subport).collect::<Vec<_>>()});
    (trunk, port(&parent, PROJECT, address))
}

/// A port as Neutron shows it, with a MAC that ends like its address.
pub(crate) fn port(id: &str, project: &str, address: &str) -> Value {
    let last: u8 = address.rsplit('.').next().unwrap().parse().unwrap();
    json!({"id": id, "project_id": project, "network_id": "n", "mac_address": format!("fa:16:3e:00:00:{last:02x}"),
           "status": "ACTIVE", "revision_number": 1, "fixed_ips": [{"subnet_id": "s", "ip_address": address}]})
}

/// A subnet as Neutron shows it.
pub(crate) fn subnet(id: &str, network: &str) -> Value {
    json!({"id": id, "name": id, "network_id": network, "project_id": PROJECT, "cidr": "10.0.0.0/24",
           "gateway_ip": "10.0.0.1", "ip_version": 4})
}

/// A configuration with credentials that this cloud takes, and `more`.
pub(crate) fn config(more: &str) -> Config {
    let credentials = "[neutron]\nauth_url = http://cloud.test/v3\nusername = kuryr\npassword = p\nproject_name = k8s\n\
                       user_domain_name = Default\nproject_domain_name = Default\n";
    Config::resolve(&Conf::from_texts(&[("credentials", credentials), ("more", more)]).unwrap()).unwrap()
}

fn token() -> Value {
    let endpoint = json!({"interface": "public", "region": "R", "region_id": "R", "url": "http://cloud.test", "id": "e"});
    json!({"token": {"issued_at": "2026-01-01T00:00:00.000000Z", "expires_at": "2100-01-01T00:00:00.000000Z", "project": {"id": PROJECT},
                     "catalog": [{"type": "network", "name": "neutron", "id": "n", "endpoints": [endpoint.clone()]},
                                 {"type": "load-balancer", "name": "octavia", "id": "o", "endpoints": [endpoint]}]}})
}

fn rules(body: &Value) -> Value {
    let mut rules = body["security_group_rules"].clone();
    for (i, rule) in rules.as_array_mut().into_iter().flatten().enumerate() {
        rule["id"] = json!(format!("r{i}"));
    }
    json!({"security_group_rules": rules})
}

fn find(list: &Mutex<Vec<Value>>, id: &str) -> Option<Value> {
    lock(list).iter().find(|item| item["id"] == id).cloned()
}

fn refused(kind: &str) -> (u16, Value) {
    (
        412,
        json!({"NeutronError": {"type": kind, "message": "Constrained to 1, but current revision is 2", "detail": ""}}),
    )
}

fn missing(kind: &str) -> (u16, Value) {
    (404, json!({"NeutronError": {"type": kind, "message": "could not be found", "detail": ""}}))
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
