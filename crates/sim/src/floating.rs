//! Floating IPs of Neutron: made for a port, tagged by a second call, left behind by a port that goes.

use std::collections::BTreeMap;

use kuryr_api::names::FLOATING_IP_DESCRIPTION;
use serde_json::{Value, json};

use crate::{
    cloud::{Asked, PROJECT, TAG},
    octavia::has_tag,
};

/// Whether a floating IP was made for a Service of the cluster: it is tagged, or not yet, and then its description says so.
pub(crate) fn is_ours(floating: &Value) -> bool {
    let description = floating["description"].as_str().unwrap_or_default();
    let service = description.strip_prefix(&format!("{FLOATING_IP_DESCRIPTION} {TAG} kuryr-service:"));
    has_tag(floating, TAG) || service.is_some_and(|uid| !uid.contains([' ', ',']))
}

/// Those that there are.
#[derive(Debug)]
pub(crate) struct FloatingIps {
    pub(crate) all: BTreeMap<String, Value>,
    made: u32,
}

impl FloatingIps {
    /// Those of others: somebody's in the project, one of another cluster, and some whose descriptions mislead.
    pub(crate) fn new() -> Self {
        let of_others: [(&str, &[&str]); 5] = [
            ("", &[]),
            ("", &["kuryr-cluster:c2"]),
            ("kuryr_lb", &[]),
            ("kuryr_lb kuryr-cluster:c2 kuryr-service:gone", &[]),
            ("kuryr_lb kuryr-cluster:c1 kuryr-service:gone, now the shop's", &[]),
        ];
        let floating = |(number, (description, tags)): (u8, &(&str, &[&str]))| {
            let (id, address) = (format!("foreign-{number}"), format!("203.0.113.{}", 249 + number));
            let floating = json!({"id": id, "project_id": PROJECT, "floating_ip_address": address,
                "floating_network_id": "ext", "port_id": null, "description": description, "tags": tags});
            (id, floating)
        };
        Self { all: (1..).zip(&of_others).map(floating).collect(), made: 0 }
    }

    /// Answers a call, if it is for floating IPs.
    pub(crate) fn answer(&mut self, asked: &Asked, ports: &BTreeMap<String, Value>) -> Option<(u16, Value)> {
        let path: Vec<&str> = asked.path.trim_matches('/').split('/').collect();
        let ["v2.0", "floatingips", rest @ ..] = path.as_slice() else { return None };
        let known = |port: &Value| port.as_str().is_none_or(|port| ports.contains_key(port));
        Some(match (asked.method.as_str(), rest) {
            ("GET", []) => (200, json!({"floatingips": self.list(asked)})),
            ("POST", []) if !known(&asked.body["floatingip"]["port_id"]) => fault(404, "PortNotFound"),
            ("POST", []) => self.make(&asked.body["floatingip"]),
            ("GET", [id]) => self.all.get(*id).map_or_else(gone, |found| (200, json!({"floatingip": found}))),
            // As of ports.
            ("PUT", [id, "tags"]) if !self.all.contains_key(*id) => fault(500, "HTTPInternalServerError"),
            ("PUT", [id, "tags"]) => self.change(id, &json!({"tags": asked.body["tags"]})),
            ("PUT", [_]) if !known(&asked.body["floatingip"]["port_id"]) => fault(404, "PortNotFound"),
            ("PUT", [id]) => self.change(id, &asked.body["floatingip"]),
            ("DELETE", [id]) => match self.all.remove(*id) {
                Some(_) => (204, Value::Null),
                None => gone(),
            },
            _ => gone(),
        })
    }

    fn list(&self, asked: &Asked) -> Vec<&Value> {
        let fits = |found: &&Value| {
            let same = ["project_id", "port_id", "floating_ip_address", "description"];
            same.iter().all(|field| asked.all(field).all(|wanted| found[*field] == wanted))
                && asked.all("tags").flat_map(|tags| tags.split(',')).all(|tag| has_tag(found, tag))
        };
        self.all.values().filter(fits).collect()
    }

    fn make(&mut self, wanted: &Value) -> (u16, Value) {
        let has_one = self.all.values().any(|found| found["port_id"] == wanted["port_id"]);
        if has_one {
            return fault(409, "FloatingIPPortAlreadyAssociated");
        }
        self.made += 1;
        let id = format!("floating-{}", self.made);
        let mut made = wanted.clone();
        (made["id"], made["tags"]) = (json!(id), json!([]));
        made["floating_ip_address"] = json!(format!("203.0.113.{}", self.made % 250));
        self.all.insert(id, made.clone());
        (201, json!({"floatingip": made}))
    }

    fn change(&mut self, id: &str, change: &Value) -> (u16, Value) {
        let Some(found) = self.all.get_mut(id) else { return gone() };
        for (field, value) in change.as_object().into_iter().flatten() {
            found[field] = value.clone();
        }
        (200, json!({"floatingip": found, "tags": found["tags"]}))
    }

    /// A port is gone.
    pub(crate) fn leave(&mut self, port: &str) {
        let led = self.all.values_mut().filter(|found| found["port_id"] == port);
        led.for_each(|found| found["port_id"] = Value::Null);
    }
}

fn fault(status: u16, kind: &str) -> (u16, Value) {
    (status, json!({"NeutronError": {"type": kind, "message": "as it is", "detail": ""}}))
}

fn gone() -> (u16, Value) {
    fault(404, "FloatingIPNotFound")
}
