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
    listeners: Vec<Value>,
    pools: Vec<Value>,
    pub(crate) floating: Vec<Value>,
    made: usize,
}

type Answer = (u16, Value);

impl FakeOctavia {
    /// Answers a request for a path without query.
    pub(crate) fn answer(&mut self, method: &str, path: &[&str], body: &Value) -> Option<Answer> {
        Some(match (method, path) {
            ("GET", []) => (200, json!({"versions": [{"id": "v2.30"}]})),
            ("GET", ["v2", "lbaas", "providers"]) => (200, json!({"providers": [{"name": "ovn"}]})),
            ("GET", ["v2", "lbaas", "loadbalancers"]) => {
                self.go_on();
                (200, json!({"loadbalancers": self.balancers}))
            }
            ("POST", ["v2", "lbaas", "loadbalancers"]) => self.create(body["loadbalancer"].clone()),
            ("DELETE", ["v2", "lbaas", "loadbalancers", _]) => self.change("PENDING_DELETE", |_| {}),
            ("GET", ["v2", "lbaas", "listeners"]) => (200, json!({"listeners": self.listeners})),
            ("GET", ["v2", "lbaas", "pools"]) => (200, json!({"pools": self.pools})),
            ("GET", ["v2", "lbaas", "pools", pool, "members"]) => {
                let pool = self.pools.iter().find(|found| found["id"] == *pool)?;
                (200, json!({"members": with_ids(&pool["members"])}))
            }
            ("PUT", ["v2", "lbaas", "pools", pool, "members"]) => {
                let (pool, members) = ((*pool).to_owned(), body["members"].clone());
                self.change("PENDING_UPDATE", |octavia| {
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
            ("PUT", ["v2.0", "floatingips", _, "tags"]) => {
                self.floating.iter_mut().for_each(|floating| floating["tags"] = body["tags"].clone());
                (200, body.clone())
            }
            ("DELETE", ["v2.0", "floatingips", _]) => {
                self.floating.clear();
                (204, Value::Null)
            }
            _ => return None,
        })
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

    /// Changes the one load balancer, if it takes a change.
    fn change(&mut self, status: &str, change: impl FnOnce(&mut Self)) -> Answer {
        let Some(balancer) = self.balancers.first_mut() else {
            return (404, json!({"faultcode": "Client", "faultstring": "load_balancer b not found."}));
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
    fn go_on(&mut self) {
        let Some(balancer) = self.balancers.first_mut() else { return };
        let looks = balancer["looks"].as_u64().unwrap_or(0);
        balancer["looks"] = json!(looks.saturating_sub(1));
        if looks > 0 {
            return;
        }
        if balancer["provisioning_status"] == "PENDING_DELETE" {
            (self.balancers, self.listeners, self.pools) = (vec![], vec![], vec![]);
        } else {
            balancer["provisioning_status"] = json!("ACTIVE");
        }
    }
}

fn with_ids(members: &Value) -> Vec<Value> {
    let mut members = members.as_array().cloned().unwrap_or_default();
    for (number, member) in members.iter_mut().enumerate() {
        member["id"] = json!(format!("m{number}"));
    }
    members
}
