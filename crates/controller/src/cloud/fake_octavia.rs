//! As much of Octavia and of floating IPs as the controller calls, in memory: one change of a load balancer at a time,
//! which lasts until it was looked at twice.

use serde_json::{Value, json};

use super::fake::PROJECT;

/// Looks for which a change lasts.
const LOOKS: u64 = 2;

/// What is in it.
#[derive(Debug, Default)]
pub(crate) struct FakeOctavia {
    pub(crate) balancers: Vec<Value>,
    pub(crate) listeners: Vec<Value>,
    pub(crate) pools: Vec<Value>,
    pub(crate) floating: Vec<Value>,
    /// A pool that is gone as soon as somebody asks for its members.
    pub(crate) vanishes: Option<String>,
    /// A pool that is there for who looks, and for who asks for other members is not.
    pub(crate) evades: Option<String>,
    /// All load balancers are gone as soon as somebody asks for other members.
    pub(crate) is_about_to_lose_all: bool,
    made: usize,
}

type Answer = (u16, Value);

impl FakeOctavia {
    /// Answers a request for a path, with its query apart.
    pub(crate) fn answer(
        &mut self,
        method: &str,
        path: &[&str],
        query: &str,
        body: &Value,
    ) -> Option<Answer> {
        Some(match (method, path) {
            ("GET", []) => (200, json!({"versions": [{"id": "v2.30"}]})),
            ("GET", ["v2", "lbaas", "providers"]) => (200, json!({"providers": [{"name": "ovn"}]})),
            ("GET", ["v2", "lbaas", "loadbalancers"]) => {
                let ids: Vec<Value> = self.balancers.iter().map(|found| found["id"].clone()).collect();
                ids.iter().for_each(|id| self.go_on(id));
                (200, json!({"loadbalancers": self.balancers}))
            }
            ("GET", ["v2", "lbaas", "loadbalancers", id]) => {
                self.go_on(&json!(id));
                let found = self.balancers.iter().find(|found| found["id"] == *id);
                found.map_or_else(missing, |found| (200, json!({"loadbalancer": found})))
            }
            ("POST", ["v2", "lbaas", "loadbalancers"]) => self.create(body["loadbalancer"].clone()),
            ("DELETE", ["v2", "lbaas", "loadbalancers", id]) => {
                let failed =
                    self.balancers.iter_mut().filter(|found| found["provisioning_status"] == "ERROR");
                failed.for_each(|found| found["provisioning_status"] = json!("ACTIVE"));
                self.change(&json!(id), "PENDING_DELETE", |_| {})
            }
            ("GET", ["v2", "lbaas", what @ ("listeners" | "pools")]) => {
                let mut found = self.all(what).clone();
                if let Some((_, of)) = query.split_once("loadbalancer_id=") {
                    let of = of.split('&').next().unwrap_or_default();
                    found.retain(|found| *above(found) == of);
                }
                (200, json!({*what: found}))
            }
            ("POST", ["v2", "lbaas", what @ ("listeners" | "pools")]) => {
                let mut made = body[what.trim_end_matches('s')].clone();
                let id = made["loadbalancer_id"].clone();
                self.made += 1;
                (made["id"], made["project_id"]) = (json!(format!("{what}-{}", self.made)), json!(PROJECT));
                made["loadbalancers"] = json!([{"id": id}]);
                self.change(&id, "PENDING_UPDATE", |octavia| octavia.all(what).push(made))
            }
            ("DELETE", ["v2", "lbaas", what @ ("listeners" | "pools"), id]) => {
                let found = self.all(what).iter().find(|found| found["id"] == *id);
                let Some(of) = found.map(|found| above(found).clone()) else { return Some(missing()) };
                self.change(&of, "PENDING_UPDATE", |octavia| {
                    octavia.all(what).retain(|found| found["id"] != *id)
                })
            }
            ("GET", ["v2", "lbaas", "pools", pool, "members"]) => {
                if self.vanishes.take_if(|vanishes| vanishes == pool).is_some() {
                    self.pools.retain(|found| found["id"] != *pool);
                }
                let found = self.pools.iter().find(|found| found["id"] == *pool);
                found.map_or_else(missing, |pool| (200, json!({"members": with_ids(&pool["members"])})))
            }
            ("PUT", ["v2", "lbaas", "pools", ..]) if std::mem::take(&mut self.is_about_to_lose_all) => {
                (self.balancers, self.listeners, self.pools) = (vec![], vec![], vec![]);
                missing()
            }
            ("PUT", ["v2", "lbaas", "pools", pool, "members"]) if self.evades.as_deref() == Some(pool) => {
                missing()
            }
            ("PUT", ["v2", "lbaas", "pools", pool, "members"]) => {
                let (pool, members) = ((*pool).to_owned(), body["members"].clone());
                let of = above(self.pools.iter().find(|found| found["id"] == pool.as_str())?).clone();
                self.change(&of, "PENDING_UPDATE", |octavia| {
                    let found = octavia.pools.iter_mut().find(|found| found["id"] == pool.as_str());
                    found.unwrap()["members"] = members;
                })
            }
            ("GET", ["v2.0", "floatingips"]) => (200, json!({"floatingips": self.floating})),
            ("POST", ["v2.0", "floatingips"]) => {
                let mut made = body["floatingip"].clone();
                (made["id"], made["floating_ip_address"]) = (json!("f1"), json!("203.0.113.7"));
                self.floating.push(made.clone());
                (201, json!({"floatingip": made}))
            }
            ("PUT", ["v2.0", "floatingips", id, "tags"]) => {
                self.floating_ip(id)?["tags"] = body["tags"].clone();
                (200, body.clone())
            }
            ("PUT", ["v2.0", "floatingips", id]) => {
                let found = self.floating_ip(id)?;
                for (field, value) in body["floatingip"].as_object().into_iter().flatten() {
                    found[field] = value.clone();
                }
                (200, json!({"floatingip": found}))
            }
            ("DELETE", ["v2.0", "floatingips", id]) => {
                self.floating.retain(|found| found["id"] != *id);
                (204, Value::Null)
            }
            _ => return None,
        })
    }

    fn floating_ip(&mut self, id: &str) -> Option<&mut Value> {
        self.floating.iter_mut().find(|found| found["id"] == id)
    }

    fn all(&mut self, what: &str) -> &mut Vec<Value> {
        if what == "pools" { &mut self.pools } else { &mut self.listeners }
    }

    fn create(&mut self, mut made: Value) -> Answer {
        self.made += 1;
        let id = format!("b{}", self.made);
        for mut listener in made["listeners"].as_array().cloned().unwrap_or_default() {
            let mut pool = listener["default_pool"].take();
            let number = self.pools.len();
            pool["id"] = json!(format!("pool-{id}-{number}"));
            listener["id"] = json!(format!("listener-{id}-{number}"));
            listener["default_pool_id"] = pool["id"].clone();
            for below in [&mut listener, &mut pool] {
                (below["project_id"], below["loadbalancers"]) = (json!(PROJECT), json!([{"id": id}]));
            }
            self.listeners.push(listener);
            self.pools.push(pool);
        }
        (made["id"], made["vip_port_id"], made["vip_address"]) =
            (json!(id), json!(format!("vip-{id}")), json!("10.0.0.99"));
        (made["provisioning_status"], made["looks"]) = (json!("PENDING_CREATE"), json!(LOOKS));
        assert_eq!(made["project_id"], PROJECT);
        self.balancers.push(made.clone());
        (201, json!({"loadbalancer": made}))
    }

    /// Changes a load balancer, if it takes a change.
    fn change(&mut self, id: &Value, status: &str, change: impl FnOnce(&mut Self)) -> Answer {
        let Some(balancer) = self.balancers.iter_mut().find(|found| found["id"] == *id) else {
            return missing();
        };
        if balancer["provisioning_status"] != "ACTIVE" {
            let words = "Load Balancer b is immutable and cannot be updated.";
            return (409, json!({"faultcode": "Client", "faultstring": words}));
        }
        (balancer["provisioning_status"], balancer["looks"]) = (json!(status), json!(LOOKS));
        change(self);
        (202, Value::Null)
    }

    /// A look at what is being changed.
    fn go_on(&mut self, id: &Value) {
        let Some(balancer) = self.balancers.iter_mut().find(|found| found["id"] == *id) else { return };
        let looks = balancer["looks"].as_u64().unwrap_or(0);
        balancer["looks"] = json!(looks.saturating_sub(1));
        if looks > 0 || balancer["provisioning_status"] == "ERROR" {
            return;
        }
        if balancer["provisioning_status"] == "PENDING_DELETE" {
            let vip = balancer["vip_port_id"].clone();
            let leads_there = self.floating.iter_mut().filter(|floating| floating["port_id"] == vip);
            leads_there.for_each(|floating| floating["port_id"] = Value::Null);
            self.balancers.retain(|found| found["id"] != *id);
            self.listeners.retain(|found| above(found) != id);
            self.pools.retain(|found| above(found) != id);
        } else {
            balancer["provisioning_status"] = json!("ACTIVE");
        }
    }
}

/// Id of the load balancer of a listener or pool.
fn above(below: &Value) -> &Value {
    &below["loadbalancers"][0]["id"]
}

fn missing() -> Answer {
    (404, json!({"faultcode": "Client", "faultstring": "load_balancer b not found."}))
}

fn with_ids(members: &Value) -> Vec<Value> {
    let mut members = members.as_array().cloned().unwrap_or_default();
    for (number, member) in members.iter_mut().enumerate() {
        member["id"] = json!(format!("m{number}"));
    }
    members
}
