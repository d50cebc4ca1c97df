//! What must hold once nothing goes wrong any more and it is quiet: the world as it is against the world as it should be.

use std::collections::{BTreeMap, BTreeSet};

use kuryr_api::{
    kuryrnode::{KuryrNode, PortEntry},
    names,
};
use kuryr_types::PortId;
use serde_json::Value;

use crate::{
    cloud::{self, Cloud, TAG},
    kubelet::Wish,
    octavia::has_tag,
    rules::{has_right_groups, is_our_group},
    world::{State, World},
};

/// Everything that is not yet as it should be.
pub(crate) fn differences(world: &World) -> Vec<String> {
    let records: BTreeMap<String, KuryrNode> = world
        .records()
        .into_iter()
        .map(|(name, record)| (name, serde_json::from_value(record).unwrap()))
        .collect();
    let mut found = Vec::new();
    if !world.is_led() {
        found.push("nobody leads".to_owned());
    }
    for node in &world.setup.nodes {
        match (world.node_uid(node), records.get(node)) {
            (Some(_), Some(record)) => found.extend(of_node(world, node, record)),
            (Some(_), None) => found.push(format!("{node} has no record")),
            (None, Some(_)) => found.push(format!("{node} is gone and has a record")),
            (None, None) => {}
        }
    }
    found.extend(of_pods(world, &records));
    found.extend(world.unserved());
    let state = world.state();
    found.extend(of_cloud(&state, &records));
    found
}

/// Ports of the cluster that no record speaks for, and strangers that are not as they were.
fn of_cloud(state: &State, records: &BTreeMap<String, KuryrNode>) -> Vec<String> {
    let named: BTreeSet<&str> = records
        .values()
        .flat_map(|record| record.spec.ports.keys().chain(record.spec.own_port.iter().map(|own| &own.id)))
        .map(PortId::as_str)
        .collect();
    // As long as a pod tells an address that somebody took it, the port that has it now rests.
    let rests =
        |port: &Value| cloud::addresses(port).iter().any(|address| state.rules.is_told_of_stolen(*address));
    let mut found: Vec<String> = state
        .cloud
        .ours()
        .filter(|(id, port)| !named.contains(id.as_str()) && !rests(port))
        .map(|(id, port)| format!("port {id} ({}) is nobody's", port["name"]))
        .collect();
    let untagged = state.cloud.ours().filter(|(_, port)| port["tags"].as_array().is_none_or(Vec::is_empty));
    found.extend(untagged.map(|(id, _)| format!("port {id} has no tag")));
    found.extend(of_groups(&state.cloud));
    let strangers = cloud::Cloud::new(BTreeSet::new()).ports;
    let changed = strangers.iter().filter(|(id, port)| state.cloud.ports.get(*id) != Some(port));
    found.extend(changed.map(|(id, _)| format!("the foreign port {id} is not as it was")));
    found
}

/// The cluster has one security group of ours, which lets everything in and out.
fn of_groups(cloud: &Cloud) -> Vec<String> {
    let ours: Vec<&Value> = cloud.groups.iter().filter(|group| is_our_group(group)).collect();
    let [group] = ours.as_slice() else { return vec![format!("{} groups are ours: {ours:?}", ours.len())] };
    let mut found = Vec::new();
    if !has_tag(group, TAG) {
        found.push(format!("the group {group} has no tag"));
    }
    let rules = cloud.rules.iter().filter(|rule| rule["security_group_id"] == group["id"]);
    let is_open = |rule: &&Value| {
        let limits = ["protocol", "remote_ip_prefix", "remote_group_id", "remote_address_group_id"];
        limits.iter().all(|limit| rule[*limit].is_null())
    };
    let reach = |rule: &Value| (rule["direction"].to_string(), rule["ethertype"].to_string());
    let open: Vec<_> = rules.clone().filter(is_open).map(reach).collect();
    let ways: BTreeSet<_> = open.iter().collect();
    if (rules.count(), open.len(), ways.len()) != (4, 4, 4) {
        found.push(format!("the group {group} lets through {open:?}"));
    }
    found
}

fn of_node(world: &World, node: &str, record: &KuryrNode) -> Vec<String> {
    let mut found = Vec::new();
    let mut say = |what: String| found.push(format!("{node}: {what}"));
    let status = record.status.clone().unwrap_or_default();
    if world.node_uid(node).is_some_and(|uid| uid != record.spec.node_uid || uid != status.node_uid) {
        say("the record is of another life of the node".to_owned());
    }
    if !record.spec.problems.is_empty() {
        say(format!("problems: {:?}", record.spec.problems));
    }
    if let Some(bad) = status.conditions.iter().find(|condition| condition.status != "True") {
        say(format!("condition {} is {}: {}", bad.kind, bad.status, bad.message));
    }
    let state = world.state();
    let machine = &state.machines[node];
    for (id, entry) in &record.spec.ports {
        let is_used = status.claims.contains_key(id);
        let is_free = status.ready.get(id) == Some(&entry.generation);
        if is_used && state.rules.is_stolen(id.as_str()) {
            // A pod keeps what somebody took it, until its sandbox goes.
            if !entry.lost {
                say(format!("port {id} was deleted and the record does not tell"));
            }
            continue;
        }
        // What is wanted back, and a pod has taken before its agent heard of that, comes when the pod goes.
        if entry.doomed || (entry.withdrawn && !is_used) || status.returned.contains_key(id) {
            say(format!("port {id} is on its way"));
        } else if is_used == is_free {
            say(format!("port {id} is neither in use nor ready"));
        }
        match state.cloud.ports.get(id.as_str()) {
            None => say(format!("port {id} does not exist")),
            Some(port) if port["status"] != "ACTIVE" => say(format!("port {id} is {}", port["status"])),
            Some(port) if port["binding:host_id"] != machine.host.as_str() => {
                say(format!("port {id} is elsewhere"))
            }
            Some(port) if !has_right_groups(&state.cloud, port) => {
                say(format!("port {id} has the groups {}", port["security_groups"]))
            }
            Some(_) => {}
        }
    }
    if status.ready.is_empty() {
        say("no port is ready".to_owned());
    }
    let own = record.spec.own_port.as_ref().and_then(|own| state.cloud.ports.get(own.id.as_str()));
    let is_fit = |own: &&Value| {
        own["status"] == "ACTIVE"
            && own["binding:host_id"] == machine.host.as_str()
            && has_right_groups(&state.cloud, own)
    };
    if !own.is_some_and(|own| is_fit(&own)) {
        say(format!("its own port is {own:?}"));
    }
    let live: BTreeSet<&str> =
        state.pods.values().filter(|pod| pod.node == node).map(|pod| pod.uid.as_str()).collect();
    for (id, claim) in &status.claims {
        if !live.contains(claim.identity.as_str()) {
            say(format!("port {id} is claimed for a pod that is gone: {}", claim.identity));
        }
    }
    let ids = record.spec.ports.keys().chain(record.spec.own_port.iter().map(|own| &own.id));
    let taps: BTreeSet<String> = ids.map(|id| names::tap_name(id.as_str())).collect();
    let rows: BTreeSet<String> = machine.rows.keys().cloned().collect();
    if taps != rows {
        say(format!("on the switch is {rows:?}, in the record {taps:?}"));
    }
    if !machine.down.is_empty() {
        say(format!("down is {:?}", machine.down));
    }
    for joint in machine.joints.values() {
        if !machine.behind(joint).is_some_and(|sandbox| sandbox.established) {
            say(format!("a connection is left of {}", joint.netns));
        }
    }
    found
}

fn of_pods(world: &World, records: &BTreeMap<String, KuryrNode>) -> Vec<String> {
    let mut found = Vec::new();
    let state = world.state();
    for (name, pod) in &state.pods {
        match *pod.wish.borrow() {
            Wish::Run => {}
            Wish::End => continue,
            Wish::Delete | Wish::Vanish => {
                found.push(format!("pod {name} is still there"));
                continue;
            }
        }
        let claimed = records.get(&pod.node).and_then(|record| claimed(record, &pod.uid));
        let is_robbed = claimed.is_some_and(|(id, _)| state.rules.is_stolen(id.as_str()));
        let Some(address) = pod.address else {
            // That its port is gone shows with the next list.
            let what = if is_robbed { "waits for another port" } else { "does not run" };
            found.push(format!("pod {name} {what}"));
            continue;
        };
        if claimed.is_none_or(|(_, entry)| entry.addresses.iter().all(|one| one.address != address)) {
            found.push(format!("pod {name} has {address} and claims {claimed:?}"));
        }
        let has_it = |port: &Value| cloud::addresses(port).contains(&address);
        let port = claimed.and_then(|(id, _)| state.cloud.ports.get(id.as_str()));
        if !is_robbed && !port.is_some_and(has_it) {
            found.push(format!("pod {name} has {address} and its port is {port:?}"));
        }
        let machine = &state.machines[&pod.node];
        let is_joined = machine.joints.values().any(|joint| {
            let right = joint.addresses.iter().any(|net| net.addr() == address);
            right
                && machine.behind(joint).is_some_and(|sandbox| sandbox.pod == pod.uid && sandbox.established)
        });
        if !is_joined {
            found.push(format!("pod {name} is not connected by {address}"));
        }
        let view = world.api.get(&format!("/apis/openstack.org/v1/namespaces/d/kuryrports/{name}"));
        if view.is_none_or(|view| view["spec"]["podUid"] != pod.uid.as_str()) {
            found.push(format!("pod {name} has no view"));
        }
    }
    found
}

/// The port that a pod claims, by the record.
fn claimed<'a>(record: &'a KuryrNode, uid: &str) -> Option<(&'a PortId, &'a PortEntry)> {
    let claims = &record.status.as_ref()?.claims;
    let (id, _) = claims.iter().find(|(_, claim)| claim.identity.as_str() == uid)?;
    record.spec.ports.get_key_value(id)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{cloud::PROJECT, scenario::finish, world::Setup};

    #[tokio::test(start_paused = true)]
    async fn what_is_left_changed_or_not_done_is_told() {
        let world = World::new(Setup::without_programs(&["n1"], true));
        let tells = |what: &str| differences(&world).iter().any(|found| found.contains(what));
        assert!(tells("nobody leads") && tells("n1 has no record"));
        let port = json!({"name": "kuryr-pool/n1", "project_id": PROJECT, "tags": [TAG], "fixed_ips": []});
        assert!(!tells("port left"));
        world.state().cloud.ports.insert("left".to_owned(), port.clone());
        assert!(tells("port left") && !tells("foreign port"));
        world.state().cloud.ports.insert("foreign-2".to_owned(), port);
        assert!(tells("foreign port foreign-2"));
        let floating = json!({"id": "f", "tags": [TAG], "port_id": null, "description": ""});
        assert!(!tells("floating IP"));
        world.state().cloud.floating.all.insert("f".to_owned(), floating);
        assert!(tells("floating IP"));
        assert!(!tells("load balancer"));
        world.make_service("web", "LoadBalancer", &[]);
        assert!(tells("Service web has 0 load balancers"));
        {
            let state = &mut *world.state();
            let mut left = state.octavia.balancers["foreign-1"].clone();
            (left.shown["name"], left.shown["project_id"]) = (json!("d/gone"), json!(PROJECT));
            state.octavia.balancers.insert("left".to_owned(), left);
        }
        assert!(tells("load balancer {") && !tells("foreign load balancer"));
        world.state().octavia.balancers.remove("foreign-2");
        assert!(tells("foreign load balancer foreign-2"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_world_that_does_not_become_as_it_should_be_is_told() {
        let world = World::new(Setup::without_programs(&["n1"], false));
        let broken = finish(&world).await.broken;
        assert!(broken.iter().any(|what| what.contains("nobody leads")), "{broken:?}");
    }

    #[test]
    fn security_groups_that_are_left_or_not_whole_are_told() {
        let group = |id: &str, tag: &str, of: &str| {
            let description = format!("Allows everything; for pods of the Kubernetes cluster {of}");
            json!({"id": id, "tags": [tag], "description": description})
        };
        let rules = |of: &str| {
            let rule = |direction: &str, family: &str| json!({"security_group_id": of, "direction": direction, "ethertype": family});
            ["ingress", "egress"]
                .map(|direction| ["IPv4", "IPv6"].map(|family| rule(direction, family)))
                .concat()
        };
        let (ours, others) = (group("g0", TAG, "c1"), group("g1", "kuryr-cluster:c2", "c2"));
        let mut half = rules("g0");
        half.truncate(3);
        let mut narrow = rules("g0");
        narrow[0]["remote_ip_prefix"] = json!("10.0.0.0/8");
        for (groups, rules, expect) in [
            (vec![ours.clone(), others.clone()], rules("g0"), 0),
            (vec![others.clone()], rules("g1"), 1),
            (vec![ours.clone(), group("g2", "", "c1")], rules("g0"), 1),
            (vec![ours.clone(), group("g2", TAG, "")], rules("g0"), 1),
            (vec![group("g0", "", "c1")], rules("g0"), 1),
            (vec![ours.clone()], half, 1),
            (vec![ours], narrow, 1),
        ] {
            let mut cloud = Cloud::new(BTreeSet::new());
            (cloud.groups, cloud.rules) = (groups.clone(), rules);
            assert_eq!(of_groups(&cloud).len(), expect, "{groups:?}");
        }
    }
}
