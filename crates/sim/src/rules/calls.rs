//! Calls to Neutron.
//!
//! Nothing is changed that is not ours, and no call is made that no rule knows.
//!
//! A port is cut off or deleted only when the record that names it says that it is doomed, or its name that it is condemned; it is
//! deleted only when its agent has given it back or it is cut off.
//!
//! A change of a port holds only for the revision that was looked at: what comes late does nothing.
//!
//! Nothing is changed of a port by which a pod of a living node is connected, but what it is called.

use kuryr_api::kuryrnode::{KuryrNode, PortEntry};
use kuryr_planning::ownership::{is_condemned, own_port_name, pool_port_name};
use kuryr_types::PortId;
use serde_json::Value;

use super::{connected, is_our_group, mac_of, objection};
use crate::{
    cloud::{self, Asked, TAG, is_ours},
    world::World,
};

/// What a port is called, which nobody who talks by it notices.
const HARMLESS: [&str; 2] = ["name", "description"];

impl World {
    /// A program calls Neutron.
    pub(crate) fn judge_call(&self, asked: &Asked) {
        let path: Vec<&str> = asked.path.trim_matches('/').split('/').collect();
        match (asked.method.as_str(), path.as_slice()) {
            ("POST", ["v2.0", "ports"]) => {
                self.judge_leader(asked, |node, _| {
                    let state = self.state();
                    asked.body["ports"][0]["binding:host_id"] == state.machines[node].host.as_str()
                });
                let made = asked.body["ports"].as_array().into_iter().flatten();
                let lost = made.filter(|port| !is_findable(port)).count();
                if lost > 0 {
                    self.broken(format!("{lost} ports are made that nobody could find again"));
                }
            }
            ("PUT" | "DELETE", ["v2.0", "ports", id, ..]) => self.judge_change(id, asked),
            ("GET", _) | ("POST", ["v3", "auth", "tokens"]) => {}
            // By `served`.
            (_, ["v2", "lbaas", ..] | ["v2.0", "floatingips", ..]) => {}
            (_, ["v2.0", "security-groups" | "security-group-rules", ..]) => {
                self.judge_leader(asked, |_, _| false);
                self.judge_groups(&path, asked);
            }
            _ => self.broken(format!("{} {}: no rule knows such a call", asked.method, asked.path)),
        }
    }

    /// A change of security groups and what they let through.
    fn judge_groups(&self, path: &[&str], asked: &Asked) {
        let is_ours = |id: &str| {
            let state = self.state();
            state.cloud.groups.iter().any(|group| group["id"] == id && is_our_group(group))
        };
        let is_allowed = match path {
            [_, "security-groups"] => is_our_group(&asked.body["security_group"]),
            [_, "security-groups", id, ..] => is_ours(id),
            _ => {
                let rules = asked.body["security_group_rules"].as_array().into_iter().flatten();
                asked.method == "POST"
                    && rules.map(|rule| &rule["security_group_id"]).all(|id| id.as_str().is_some_and(is_ours))
            }
        };
        if !is_allowed {
            self.broken(format!(
                "{} {} ({}): a group that is not ours",
                asked.method, asked.path, asked.body
            ));
        }
    }

    /// Whoever changes something of nodes leads, and has written an epoch of its own into their records.
    fn judge_leader(&self, asked: &Asked, is_of: impl Fn(&str, &KuryrNode) -> bool) {
        let first = self.state().rules.epochs.get(&asked.by).and_then(|all| all.first().copied());
        let Some(first) = first else {
            return self.broken(format!("{} {}: {} has never led", asked.method, asked.path, asked.by));
        };
        for (node, record) in self.records() {
            let record: KuryrNode = serde_json::from_value(record).unwrap();
            if record.spec.epoch < first && is_of(&node, &record) {
                let what = format!("{} {} by {}", asked.method, asked.path, asked.by);
                self.broken(format!("{what}: the epoch of {node} is {}, its own {first}", record.spec.epoch));
            }
        }
    }

    fn judge_change(&self, id: &str, asked: &Asked) {
        let Some(port) = self.state().cloud.ports.get(id).cloned() else { return };
        self.judge_leader(asked, |node, record| {
            let own = record.spec.own_port.as_ref();
            let is_named = record.spec.ports.contains_key(id) || own.is_some_and(|own| own.id.as_str() == id);
            is_named || port["name"] == pool_port_name(node) || port["name"] == own_port_name(node)
        });
        let what = format!("{} {} ({})", asked.method, asked.path, asked.body);
        if !is_ours(&port) {
            return self.broken(format!("{what}: a port that is not ours"));
        }
        if asked.method == "PUT" && asked.body["port"].is_object() && asked.if_revision.is_none() {
            self.broken(format!("{what}: it holds for whatever the port has become"));
        }
        let deletes = asked.method == "DELETE";
        let unbinds = asked.body["port"]["binding:host_id"] == "";
        let disturbing = disturbing(&port, asked);
        if disturbing.is_empty() {
            return;
        }
        self.follow_members();
        let mac = mac_of(&port);
        let mut found = Vec::new();
        {
            let state = self.state();
            for (node, joint, pod) in connected(&state) {
                let lives = self.node_uid(node).is_some() && pod.established;
                if Some(joint.mac) == mac && lives {
                    found.push(format!("pod {} on {node} is connected by it: {disturbing:?}", pod.pod));
                }
            }
            if deletes {
                let held = cloud::addresses(&port).into_iter();
                found.extend(held.filter_map(|address| objection(&state, address, "")));
            }
        }
        let takes_away = deletes || unbinds;
        let is_bound = port["binding:host_id"].as_str().is_some_and(|host| !host.is_empty());
        let mut is_named = false;
        for (node, record) in self.records() {
            let record: KuryrNode = serde_json::from_value(record).unwrap();
            if let Some(entry) = record.spec.ports.get(id) {
                is_named = true;
                if takes_away && !entry.doomed {
                    found.push(format!("the record of {node} names it and does not say that it is doomed"));
                }
                if deletes && is_bound && !is_given_back(id, entry, &record) {
                    found.push(format!("{node} has not given it back, and it is not cut off"));
                }
            }
            let is_own = record.spec.own_port.is_some_and(|own| own.id.as_str() == id);
            let lives = self.node_uid(&node).is_some_and(|uid| uid == record.spec.node_uid);
            if is_own && (deletes || (unbinds && lives)) {
                found.push(format!("it is {node}'s own"));
            }
        }
        if takes_away && !is_named && !port["name"].as_str().is_some_and(is_condemned) {
            found.push("no record says that it is doomed, and it is not condemned".to_owned());
        }
        found.into_iter().for_each(|why| self.broken(format!("{what}: {why}")));
    }
}

/// Whether the agent of the node will not touch the port again.
fn is_given_back(id: &str, entry: &PortEntry, record: &KuryrNode) -> bool {
    let id = PortId::from(id);
    record.status.as_ref().is_some_and(|status| {
        status.returned.get(&id) == Some(&entry.generation) && !status.claims.contains_key(&id)
    })
}

/// What a call changes of a port that whoever talks by it would notice.
fn disturbing(port: &Value, asked: &Asked) -> Vec<String> {
    let fields = asked.body["port"].as_object().into_iter().flatten();
    let changes =
        fields.filter(|(field, value)| !HARMLESS.contains(&field.as_str()) && port[*field] != **value);
    let deletes = (asked.method == "DELETE").then(|| "it is deleted".to_owned());
    changes.map(|(field, value)| format!("{field} becomes {value}")).chain(deletes).collect()
}

fn is_findable(port: &Value) -> bool {
    let tagged = port["tags"].as_array().is_some_and(|tags| tags.iter().any(|tag| tag == TAG));
    tagged && port["description"] == TAG && port["name"].as_str().is_some_and(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Request;
    use serde_json::json;

    use super::{
        super::pods::tests::{LEADER, NETNS, PORT, port, world, world_with_pod},
        *,
    };
    use crate::world::RECORDS;

    /// A call with this body.
    fn asked(method: &str, path: &str, body: &Value) -> Asked {
        let uri = format!("http://cloud.test/v2.0/{path}");
        let request = Request::builder().method(method).uri(uri).header("if-match", "revision_number=1");
        let request = request.body(Bytes::from(body.to_string()));
        by(LEADER, Asked::of(&request.unwrap()))
    }

    /// The same call by another.
    fn by(caller: &str, mut asked: Asked) -> Asked {
        caller.clone_into(&mut asked.by);
        asked
    }

    /// The same call, whatever the port has become.
    fn unconditional(mut asked: Asked) -> Asked {
        asked.if_revision = None;
        asked
    }

    /// A change of the port.
    fn change(change: &Value) -> Asked {
        asked("PUT", &format!("ports/{PORT}"), &json!({"port": change}))
    }

    /// How often a pod would have noticed something.
    fn noticed(world: &World) -> usize {
        world.violations().iter().filter(|what| what.contains("is connected by it")).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_is_taken_away_before_it_is_given_up_is_told() {
        let entry = |doomed: bool| {
            json!({"generation": "1.1", "class": "c", "mac": "fa:16:3e:00:00:01", "network": "n",
                "addresses": [{"subnet": "s4", "address": "10.0.0.11"}], "withdrawn": doomed, "doomed": doomed})
        };
        let record = |ports: Value, returned: bool| {
            let returned = if returned { json!({PORT: "1.1"}) } else { json!({}) };
            json!({"metadata": {"name": "n1"}, "spec": {"epoch": 1, "ports": ports}, "status": {"returned": returned}})
        };
        let (named, condemned) = ("kuryr-pool/n1", "kuryr-condemned/kuryr-pool/n1");
        let (cut, deletes) = ("PUT", "DELETE");
        for (method, ports, returned, host, name, is_right) in [
            (cut, json!({PORT: entry(true)}), false, "host-of-n1", named, true),
            (cut, json!({PORT: entry(false)}), false, "host-of-n1", named, false),
            (cut, json!({}), false, "host-of-n1", condemned, true),
            (cut, json!({}), false, "host-of-n1", named, false),
            (deletes, json!({PORT: entry(true)}), false, "", named, true),
            (deletes, json!({PORT: entry(true)}), true, "host-of-n1", named, true),
            (deletes, json!({PORT: entry(true)}), false, "host-of-n1", named, false),
            (deletes, json!({PORT: entry(false)}), true, "", named, false),
            (deletes, json!({}), false, "", condemned, true),
            (deletes, json!({}), false, "", named, false),
        ] {
            let world = world();
            let mut port = port();
            (port["binding:host_id"], port["name"]) = (json!(host), json!(name));
            world.state().cloud.ports.insert(PORT.to_owned(), port);
            world.api.put(&format!("{RECORDS}/n1"), record(ports.clone(), returned));
            let body = json!({"port": {"binding:host_id": ""}});
            let body = if method == cut { body } else { Value::Null };
            world.judge_call(&asked(method, &format!("ports/{PORT}"), &body));
            let what = world.violations();
            assert_eq!(what.is_empty(), is_right, "{method} {ports} {returned} {host} {name}: {what:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_a_port_that_was_not_looked_at_is_told() {
        let world = world_with_pod().await;
        let change = change(&json!({"name": "another"}));
        world.judge_call(&change);
        assert_eq!(world.violations(), Vec::<String>::new());
        world.judge_call(&unconditional(change));
        assert_eq!(world.violations().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_nobody_could_find_again_is_told() {
        let world = world();
        for (without, is_right) in [("", true), ("tags", false), ("description", false), ("name", false)] {
            let mut port = json!({"name": "kuryr-pool/n1", "description": TAG, "tags": [TAG]});
            port.as_object_mut().unwrap().remove(without);
            let count = world.violations().len();
            world.judge_call(&asked("POST", "ports", &json!({"ports": [port]})));
            assert_eq!(world.violations().len() == count, is_right, "without {without}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_of_whose_address_somebody_tells_is_not_to_be_deleted() {
        let world = world();
        let mut port = port();
        (port["binding:host_id"], port["name"]) = (json!(""), json!("kuryr-condemned/kuryr-pool/n1"));
        world.state().cloud.ports.insert(PORT.to_owned(), port);
        let deletes = || {
            world.judge_call(&asked("DELETE", &format!("ports/{PORT}"), &Value::Null));
            world.violations().len()
        };
        assert_eq!(deletes(), 0);
        let pod = json!({"metadata": {"name": "web-0", "uid": "uid-1"}, "status": {"podIP": "10.0.0.11"}});
        world.put("/api/v1/namespaces/d/pods/web-0", pod);
        assert_eq!(deletes(), 1, "a pod tells it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_by_one_that_does_not_lead_there_is_told() {
        let world = world_with_pod().await;
        let host = |host: &str| {
            json!({"ports": [{"name": "kuryr-pool/n1", "description": TAG, "tags": [TAG],
            "binding:host_id": host}]})
        };
        let record = |epoch: u64| {
            let record = json!({"metadata": {"name": "n1"}, "spec": {"epoch": epoch}});
            world.api.put(&format!("{RECORDS}/n1"), record);
        };
        let calls = [change(&json!({"name": "another"})), asked("POST", "ports", &host("host-of-n1"))];
        let judged = |caller: &str| {
            let before = world.violations().len();
            calls.iter().for_each(|call| world.judge_call(&by(caller, call.clone())));
            world.violations().len() - before
        };
        record(1);
        assert_eq!((judged(LEADER), judged("controller-2.1")), (0, 2), "the other has never led");
        world.state().rules.epochs.insert("controller-2.1".to_owned(), [2].into());
        assert_eq!(judged("controller-2.1"), 2, "it has not told the node");
        record(2);
        assert_eq!(
            (judged(LEADER), judged("controller-2.1")),
            (0, 0),
            "it may come late, of which others tell"
        );
        let elsewhere = asked("POST", "ports", &host("host-of-n2"));
        record(0);
        world.judge_call(&elsewhere);
        assert_eq!(world.violations().len(), 4, "another node");
    }

    #[tokio::test(start_paused = true)]
    async fn changes_of_what_is_not_ours_and_calls_that_nobody_knows_are_told() {
        let described = |of: &str| json!({"security_group": {"name": "allow", "description": of}});
        let rule =
            |of: &str| json!({"security_group_rules": [{"security_group_id": of, "direction": "ingress"}]});
        let ours = "Allows everything; for pods of the Kubernetes cluster c1";
        let world = world_with_pod().await;
        let other = json!({"id": "g1", "project_id": "k8s", "tags": ["kuryr-cluster:c2"], "description": ""});
        world.state().cloud.groups.push(other);
        for (method, path, body, is_right) in [
            ("GET", "networks/n", Value::Null, true),
            ("POST", "networks", Value::Null, false),
            ("PUT", "subnets/s4", Value::Null, false),
            ("PUT", "ports/foreign-2", json!({"port": {"name": "of ours"}}), false),
            ("DELETE", "ports/foreign-1", Value::Null, false),
            ("POST", "security-groups", described(ours), true),
            ("POST", "security-groups", described("somebody's"), false),
            ("PUT", "security-groups/g0/tags", json!({"tags": []}), true),
            ("PUT", "security-groups/g1/tags", json!({"tags": []}), false),
            ("DELETE", "security-groups/g1", Value::Null, false),
            ("POST", "security-group-rules", rule("g0"), true),
            ("POST", "security-group-rules", rule("g1"), false),
            ("DELETE", "security-group-rules/r1", Value::Null, false),
        ] {
            let before = world.violations().len();
            world.judge_call(&asked(method, path, &body));
            assert_eq!(world.violations().len() == before, is_right, "{method} {path} {body}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_pod_that_talks_would_notice_is_told() {
        let same = json!([{"subnet_id": "s4", "ip_address": "10.0.0.11"}]);
        let other = json!([{"subnet_id": "s4", "ip_address": "10.0.0.12"}]);
        for (change_of, expect) in [
            (json!({"name": "d/web-0", "description": "of a pod"}), 0),
            (json!({"binding:host_id": "host-of-n1", "security_groups": ["g0"], "fixed_ips": same}), 0),
            (json!({"binding:host_id": "host-of-n2"}), 1),
            (json!({"binding:host_id": ""}), 1),
            (json!({"admin_state_up": false}), 1),
            (json!({"security_groups": ["default-group"]}), 1),
            (json!({"fixed_ips": other}), 1),
        ] {
            let world = world_with_pod().await;
            world.judge_call(&change(&change_of));
            assert_eq!(noticed(&world), expect, "{change_of}: {:?}", world.violations());
        }
        let world = world_with_pod().await;
        let sandbox = |established| {
            let machine = &mut world.state();
            let sandboxes = &mut machine.machines.get_mut("n1").unwrap().sandboxes;
            sandboxes.get_mut(NETNS).unwrap().established = established;
        };
        sandbox(false);
        world.judge_call(&change(&json!({"admin_state_up": false})));
        assert_eq!(noticed(&world), 0, "somebody has asked for its end");
        sandbox(true);
        world.judge_call(&asked("DELETE", &format!("ports/{PORT}"), &Value::Null));
        assert_eq!(noticed(&world), 1, "it is deleted");
    }
}
