//! Calls to Neutron.

use kuryr_api::kuryrnode::KuryrNode;
use serde_json::Value;

use super::{connected, mac_of};
use crate::{
    cloud::{self, Asked, TAG, is_ours},
    world::World,
};

impl World {
    /// A program calls Neutron.
    pub(crate) fn judge_call(&self, asked: &Asked) {
        let path: Vec<&str> = asked.path.trim_matches('/').split('/').collect();
        match (asked.method.as_str(), path.as_slice()) {
            ("POST", ["v2.0", "ports"]) => {
                let made = asked.body["ports"].as_array().into_iter().flatten();
                let lost = made.filter(|port| !is_findable(port)).count();
                if lost > 0 {
                    self.broken(format!("{lost} ports are made that nobody could find again"));
                }
            }
            ("PUT" | "DELETE", ["v2.0", "ports", id, ..]) => self.judge_change(id, asked),
            _ => {}
        }
    }

    fn judge_change(&self, id: &str, asked: &Asked) {
        let Some(port) = self.state().cloud.ports.get(id).cloned() else { return };
        let what = format!("{} {} ({})", asked.method, asked.path, asked.body);
        if !is_ours(&port) {
            return self.broken(format!("{what}: a port that is not ours"));
        }
        let deletes = asked.method == "DELETE";
        let unbinds = asked.body["port"]["binding:host_id"] == "";
        if !deletes && !unbinds {
            return;
        }
        let mac = mac_of(&port);
        let mut found = Vec::new();
        {
            let state = self.state();
            for (node, joint, pod) in connected(&state) {
                let lives = self.node_uid(node).is_some() && pod.established;
                if Some(joint.mac) == mac && lives {
                    found.push(format!("pod {} on {node} is connected by it", pod.pod));
                }
            }
            if deletes {
                let held = cloud::addresses(&port).into_iter();
                found.extend(held.filter_map(|address| state.rules.objection(address, "")));
            }
        }
        for (node, record) in self.records() {
            let record: KuryrNode = serde_json::from_value(record).unwrap();
            if record.spec.ports.get(id).is_some_and(|entry| !entry.doomed) && deletes {
                found.push(format!("the record of {node} names it and does not say that it is doomed"));
            }
            let is_own = record.spec.own_port.is_some_and(|own| own.id.as_str() == id);
            let lives = self.node_uid(&node).is_some_and(|uid| uid == record.spec.node_uid);
            if is_own && (deletes || lives) {
                found.push(format!("it is {node}'s own"));
            }
        }
        found.into_iter().for_each(|why| self.broken(format!("{what}: {why}")));
    }
}

fn is_findable(port: &Value) -> bool {
    let tagged = port["tags"].as_array().is_some_and(|tags| tags.iter().any(|tag| tag == TAG));
    tagged && port["description"] == TAG && port["name"].as_str().is_some_and(|name| !name.is_empty())
}
