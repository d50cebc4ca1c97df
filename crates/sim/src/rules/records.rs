//! Records: what controllers offer to nodes, and what agents report.
//!
//! Before an agent has reported nothing is changed of its node. No port is told to be ready whose flows were not installed since the node started.
//! None is offered, nor is a node's own, of which Neutron has not told the network.

use std::collections::BTreeSet;

use kuryr_api::kuryrnode::{KuryrNode, KuryrNodeSpec, KuryrNodeStatus, PortEntry};
use kuryr_kubernetes::lease::EPOCH_ANNOTATION;
use kuryr_planning::{ownership::is_condemned, pool::invariants::violations};
use kuryr_types::{Epoch, PortId};
use serde_json::Value;

use super::{connected, has_right_groups, mac_of, objection, pods::VIEWS};
use crate::{
    faults::Caller,
    world::{RECORDS, State, World},
};

impl World {
    /// A program wrote an object.
    pub(crate) fn note_write(
        &self,
        (caller, is_late): (&Caller, bool),
        path: &str,
        before: Option<&Value>,
        after: Option<&Value>,
    ) {
        if path.contains("/leases/") {
            return self.judge_lease(caller, before, after);
        }
        if let (true, Some(view), None) = (path.starts_with(VIEWS), before, after) {
            return self.judge_end_of_view(caller, path, view);
        }
        let Some(node) = path.strip_prefix(RECORDS).map(|rest| rest.trim_matches('/')) else { return };
        let read = |value: Option<&Value>| -> Option<KuryrNode> {
            value.map(|value| serde_json::from_value(value.clone()).unwrap())
        };
        let (before, after) = (read(before), read(after));
        let Some(after) = after else {
            let ports = before.map_or(0, |before| before.spec.ports.len());
            if ports > 0 {
                self.broken(format!("the record of {node} is deleted with {ports} ports"));
            }
            return;
        };
        let old = before.clone().unwrap_or_default();
        if after.spec != old.spec {
            self.judge_offers(caller, node, &old, &after);
        }
        if after.status != old.status {
            self.judge_report((caller, is_late), node, &old, &after);
        }
    }

    /// A leadership begins when its epoch is in the Lease.
    fn judge_lease(&self, caller: &Caller, before: Option<&Value>, after: Option<&Value>) {
        let epoch = |lease: Option<&Value>| -> Option<Epoch> {
            lease?["metadata"]["annotations"][EPOCH_ANNOTATION].as_str()?.parse().ok()
        };
        // 0 is none.
        let begun = epoch(after).filter(|after| *after != epoch(before).unwrap_or_default());
        let Some(begun) = begun else { return };
        let records = self.records().into_values();
        let records = records.map(|record| serde_json::from_value::<KuryrNode>(record).unwrap());
        let seen = records.flat_map(|of| [of.spec.epoch, of.status.map_or(0, |status| status.epoch_seen)]);
        let greatest = seen.chain(epoch(before)).max().unwrap_or_default();
        if begun <= greatest {
            self.broken(format!("{} leads under epoch {begun}, and there was {greatest}", caller.name()));
        }
        self.state().rules.epochs.entry(caller.name().to_owned()).or_default().insert(begun);
    }

    /// Before the agent of a Node has reported for it nothing but the epoch is changed of what the Node has.
    fn objection_before_report(&self, node: &str, old: &KuryrNode, new: &KuryrNode) -> Option<String> {
        let uid = self.node_uid(node).filter(|uid| *uid == old.spec.node_uid)?;
        let reported =
            old.status.as_ref().is_some_and(|of| of.node_uid == uid && !of.checkpoint.id.is_empty());
        let alone = KuryrNodeSpec { epoch: new.spec.epoch, ..old.spec.clone() };
        (!reported && new.spec != alone).then(|| "its agent has not reported yet".to_owned())
    }

    /// What speaks against the epoch of a write.
    fn objection_to_epoch(&self, caller: &Caller, old: &KuryrNode, new: &KuryrNode) -> Option<String> {
        let (before, now) = (old.spec.epoch, new.spec.epoch);
        let is_its_own = self.state().rules.epochs.get(caller.name()).is_some_and(|all| all.contains(&now));
        let alone = KuryrNodeSpec { epoch: now, ..old.spec.clone() };
        let is_new = old.metadata.name.is_none();
        match () {
            () if !is_its_own => Some(format!("it has not led under epoch {now}")),
            () if now != before && !is_new && new.spec != alone => {
                Some(format!("more changes than the epoch, from {before} to {now}"))
            }
            () => None,
        }
    }

    /// A controller patches a record: the patch must not hold for another record than the one that was looked at.
    pub(crate) fn judge_patch(&self, caller: &Caller, path: &str, before: Option<&Value>, body: &[u8]) {
        if !path.starts_with(RECORDS) || !caller.name().starts_with("controller") {
            return;
        }
        let steps: Vec<Value> = serde_json::from_slice(body).unwrap_or_default();
        let (tests, changes): (Vec<&Value>, Vec<&Value>) =
            steps.iter().partition(|step| step["op"] == "test");
        // Of one that arrives late its own tests may say that it is about a record that was: it is refused, whatever has been offered since.
        let before = before.filter(|record| tests.iter().all(|test| holds(test, record)));
        let tests: BTreeSet<&str> = tests.into_iter().filter_map(|step| step["path"].as_str()).collect();
        let changes = changes.into_iter().filter_map(|step| step["path"].as_str());
        let untested: BTreeSet<String> = changes
            .filter_map(|at| Some(format!("{at} without {}", untested(at, &tests, before)?)))
            .collect();
        if !untested.is_empty() {
            self.broken(format!("{} patches {path}: {untested:?}", caller.name()));
        }
    }

    fn judge_offers(&self, caller: &Caller, node: &str, old: &KuryrNode, new: &KuryrNode) {
        self.follow_members();
        let is_gone = self.node_uid(node).is_none_or(|uid| uid != old.spec.node_uid);
        let mut found: Vec<String> = violations(&old.spec, old.status.as_ref(), &new.spec, is_gone)
            .into_iter()
            .map(|violation| format!("{violation:?}"))
            .collect();
        found.extend(self.objection_to_epoch(caller, old, new));
        found.extend(self.objection_before_report(node, old, new));
        {
            let state = &mut *self.state();
            let is_new = |id: &PortId, entry: &PortEntry| {
                old.spec.ports.get(id).is_none_or(|former| former.generation != entry.generation)
            };
            for (id, entry) in new.spec.ports.iter().filter(|(id, entry)| is_new(id, entry)) {
                if !state.rules.generations.insert(entry.generation) {
                    found.push(format!("generation {} of {id} was used before", entry.generation));
                }
                found.extend(offer_objections(state, node, id.as_str(), entry));
            }
            let own = new.spec.own_port.iter().filter(|_| new.spec.own_port != old.spec.own_port);
            let half_made = own.filter(|own| state.cloud.half_made.contains(own.id.as_str()));
            found.extend(half_made.map(|own| format!("{} is the node's own and half made", own.id)));
        }
        found
            .into_iter()
            .for_each(|why| self.broken(format!("{} writes what {node} is offered: {why}", caller.name())));
    }

    fn judge_report(&self, (caller, is_late): (&Caller, bool), node: &str, old: &KuryrNode, new: &KuryrNode) {
        let mut found = Vec::new();
        if !caller.name().starts_with(&format!("agent-{node}.")) {
            found.push("its author is another".to_owned());
        }
        let nothing = KuryrNodeStatus::default();
        let (before, now) =
            (old.status.as_ref().unwrap_or(&nothing), new.status.as_ref().unwrap_or(&nothing));
        // A report that arrives late is an old one; the agent sees that and reports again.
        let same_record = before.checkpoint.id == now.checkpoint.id;
        if same_record && now.checkpoint.sequence < before.checkpoint.sequence && !is_late {
            found.push(format!("the checkpoint goes back to {}", now.checkpoint.sequence));
        }
        let is_offered_to = new.spec.checkpoint.as_deref().unwrap_or_default();
        if is_offered_to != now.checkpoint.id && !now.ready.is_empty() && !is_late {
            let (id, ready) = (&now.checkpoint.id, now.ready.keys());
            found.push(format!(
                "{ready:?} is ready under the checkpoint {id}, and offered to {is_offered_to}"
            ));
        }
        {
            let state = self.state();
            // Whether it still is: it may be unplugged while the report is on its way.
            let installed: BTreeSet<&str> =
                state.machines[node].installed.values().map(String::as_str).collect();
            let is_old = is_late || state.machines[node].has_just_lost_flows();
            let early = now.ready.keys().filter(|id| !is_old && !installed.contains(id.as_str()));
            found.extend(early.map(|id| format!("{id} is ready, and has not been since the node started")));
            for (id, generation) in &now.returned {
                let entry = new.spec.ports.get(id).filter(|entry| entry.generation == *generation);
                let Some(entry) = entry else { continue };
                let users =
                    connected(&state).filter(|(_, joint, pod)| joint.mac == entry.mac && pod.established);
                found.extend(
                    users.map(|(_, _, pod)| {
                        format!("{id} is given back while {} is connected by it", pod.pod)
                    }),
                );
            }
        }
        found.into_iter().for_each(|why| self.broken(format!("{} reports: {why}", caller.name())));
    }
}

/// Whether what a patch tests is so.
fn holds(test: &Value, record: &Value) -> bool {
    test["path"].as_str().and_then(|at| record.pointer(at)) == Some(&test["value"])
}

/// What a patch has to test, and does not, before it changes what is there.
fn untested(at: &str, tests: &BTreeSet<&str>, before: Option<&Value>) -> Option<String> {
    let lacks = |path: &str| !tests.contains(path);
    if lacks("/spec/epoch") {
        return Some("a test of the epoch".to_owned());
    }
    if at != "/spec/epoch" && lacks("/metadata/generation") {
        return Some("a test of what was looked at".to_owned());
    }
    let id = at.strip_prefix("/spec/ports/")?.split('/').next()?;
    let is_there = before.is_some_and(|record| !record["spec"]["ports"][id].is_null());
    let entry = format!("/spec/ports/{id}");
    (is_there && lacks(&entry) && lacks(&format!("{entry}/generation")))
        .then(|| "a test of the offer".to_owned())
}

/// What speaks against an offer to a node.
fn offer_objections(state: &State, node: &str, id: &str, entry: &PortEntry) -> Vec<String> {
    let mut found = Vec::new();
    let held = entry.addresses.iter().filter_map(|address| objection(state, address.address, ""));
    found.extend(held.map(|why| format!("{id} is offered and {why}")));
    let Some(port) = state.cloud.ports.get(id) else {
        // Somebody may have deleted it since it was looked at.
        return found;
    };
    if port["name"].as_str().is_some_and(is_condemned) {
        found.push(format!("{id} is offered and called {}", port["name"]));
    }
    if state.cloud.half_made.contains(id) {
        found.push(format!("{id} is offered and half made"));
    }
    let host = state.machines[node].host.as_str();
    if port["binding:host_id"] != host {
        found.push(format!("{id} is offered and bound to {}", port["binding:host_id"]));
    }
    if !has_right_groups(&state.cloud, port) {
        found.push(format!("{id} is offered with the groups {}", port["security_groups"]));
    }
    if mac_of(port) != Some(entry.mac) {
        found.push(format!("{id} is offered as {} and is {}", entry.mac, port["mac_address"]));
    }
    for (other, joint, pod) in connected(state) {
        if joint.mac == entry.mac {
            found.push(format!("{id} is offered while {} on {other} is connected by it", pod.pod));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::{
        super::pods::tests::{LEADER, PORT, port, world, world_with_pod},
        *,
    };
    use crate::{
        cloud::{NETWORK, SUBNET},
        scenario::reboot,
    };

    const RECORD: &str = "/apis/kuryr.openstack.org/v1alpha1/kuryrnodes/n1";

    /// A record with this specification and report.
    fn record(spec: &Value, status: &Value) -> Value {
        json!({"apiVersion": "kuryr.openstack.org/v1alpha1", "kind": "KuryrNode", "metadata": {"name": "n1"},
            "spec": spec, "status": status})
    }

    /// The agent's report of this.
    fn report(world: &World, status: &Value, is_late: bool) {
        let spec = json!({"checkpoint": "c"});
        let (before, after) = (record(&spec, &json!({})), record(&spec, status));
        world.note_write((&Caller::new("agent-n1.1"), is_late), RECORD, Some(&before), Some(&after));
    }

    /// A controller offers the port.
    fn offer(world: &World, generation: &str) {
        let entry = json!({"generation": generation, "class": "c", "mac": "fa:16:3e:00:00:01", "network": NETWORK,
            "addresses": [{"subnet": SUBNET, "address": "10.0.0.11"}]});
        let status = json!({"nodeUid": "n1-life-1", "checkpoint": {"id": "c", "sequence": 1}});
        let spec =
            |ports: Value| record(&json!({"nodeUid": "n1-life-1", "epoch": 1, "ports": ports}), &status);
        let (before, after) = (spec(json!({})), spec(json!({PORT: entry})));
        write(world, LEADER, &before, &after);
    }

    fn write(world: &World, by: &str, before: &Value, after: &Value) {
        world.note_write((&Caller::new(by), false), RECORD, Some(before), Some(after));
    }

    #[tokio::test(start_paused = true)]
    async fn a_generation_that_is_used_twice_and_a_record_that_goes_with_ports_are_told() {
        let world = world();
        world.state().cloud.ports.insert(PORT.to_owned(), port());
        offer(&world, "1.1");
        offer(&world, "1.2");
        assert_eq!(world.violations(), Vec::<String>::new());
        offer(&world, "1.1");
        assert_eq!(world.violations().len(), 1, "of the offer before");
        let entry = json!({"generation": "1.1", "class": "c", "mac": "fa:16:3e:00:00:01", "network": NETWORK,
            "addresses": []});
        let before = record(&json!({"ports": {PORT: entry}}), &json!({}));
        world.note_write((&Caller::new(LEADER), false), RECORD, Some(&before), None);
        assert_eq!(world.violations().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_offer_that_is_not_what_neutron_has_is_told() {
        for (field, value) in [
            ("binding:host_id", json!("host-of-n2")),
            ("binding:host_id", json!("")),
            ("mac_address", json!("fa:16:3e:00:00:02")),
        ] {
            let world = world();
            let mut port = port();
            port[field] = value.clone();
            world.state().cloud.ports.insert(PORT.to_owned(), port);
            offer(&world, "1.1");
            assert_eq!(world.violations().len(), 1, "{field} {value}");
        }
        let world = world_with_pod().await;
        offer(&world, "1.1");
        assert_eq!(world.violations().len(), 1, "a pod is connected by it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_made_port_that_is_offered_is_told() {
        for (is_half_made, expect) in [(false, 0), (true, 1)] {
            let world = world();
            world.state().cloud.ports.insert(PORT.to_owned(), port());
            world.state().cloud.half_made.extend(is_half_made.then(|| PORT.to_owned()));
            offer(&world, "1.1");
            assert_eq!(world.violations().len(), expect, "{is_half_made}");
            let own = json!({"id": PORT, "mac": "fa:16:3e:00:00:01", "network": NETWORK, "addresses": []});
            let status = json!({"nodeUid": "n1-life-1", "checkpoint": {"id": "c", "sequence": 1}});
            let of =
                |own: Value| record(&json!({"nodeUid": "n1-life-1", "epoch": 1, "ownPort": own}), &status);
            write(&world, LEADER, &of(Value::Null), &of(own));
            assert_eq!(world.violations().len(), 2 * expect, "its own: {is_half_made}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn reports_that_are_not_true_are_told() {
        let world = world_with_pod().await;
        let judged = |by: &str, before: &Value, after: &Value, ports: &Value| {
            let count = world.violations().len();
            let spec = json!({"ports": ports});
            write(&world, by, &record(&spec, before), &record(&spec, after));
            world.violations().len() - count
        };
        let at = |id: &str, sequence: u64| json!({"checkpoint": {"id": id, "sequence": sequence}});
        assert_eq!(judged("agent-n1.1", &at("c", 1), &at("c", 2), &json!({})), 0);
        assert_eq!(judged("agent-n1.1", &at("c", 2), &at("c", 1), &json!({})), 1, "the checkpoint goes back");
        assert_eq!(judged("agent-n1.1", &at("c", 2), &at("d", 1), &json!({})), 0, "it is another");
        assert_eq!(judged("agent-n2.1", &at("c", 1), &at("c", 2), &json!({})), 1, "it is not its node");
        assert_eq!(judged(LEADER, &at("c", 1), &at("c", 2), &json!({})), 1, "it is no agent");
        let entry = json!({"generation": "1.1", "class": "c", "mac": "fa:16:3e:00:00:01", "network": NETWORK,
            "addresses": []});
        let returned = |generation: &str| json!({"returned": {PORT: generation}});
        let ports = json!({PORT: entry});
        assert_eq!(judged("agent-n1.1", &at("", 0), &returned("1.1"), &ports), 1, "a pod is connected by it");
        assert_eq!(judged("agent-n1.1", &at("", 0), &returned("1.0"), &ports), 0, "a former offer");
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_was_offered_to_another_checkpoint_is_not_to_be_ready() {
        let world = world_with_pod().await;
        let told = |id: &str, ports: Value, is_late: bool| {
            let status = json!({"checkpoint": {"id": id, "sequence": 1}, "ready": ports});
            report(&world, &status, is_late);
            world.violations().len()
        };
        assert_eq!(told("c", json!({PORT: "1.1"}), false), 0);
        assert_eq!(told("d", json!({}), false), 0);
        assert_eq!(told("d", json!({PORT: "1.1"}), true), 0, "it is old");
        assert_eq!(told("d", json!({PORT: "1.1"}), false), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_does_not_tell_its_epoch_first_is_told() {
        let world = world();
        let of =
            |epoch: u64, class: &str| record(&json!({"epoch": epoch, "defaultClass": class}), &json!({}));
        let judged = |by: &str, before: Value, after: Value| {
            let count = world.violations().len();
            write(&world, by, &before, &after);
            world.violations().len() - count
        };
        assert_eq!(judged(LEADER, of(1, "a"), of(1, "b")), 0);
        assert_eq!(judged("controller-2.1", of(1, "a"), of(1, "b")), 1, "it does not lead");
        assert_eq!(judged("agent-n1.1", of(1, "a"), of(1, "b")), 1, "it never will");
        let lease = |epoch: u64| json!({"metadata": {"annotations": {EPOCH_ANNOTATION: epoch.to_string()}}});
        let lead = |by: &str, before: u64, after: u64| {
            let path = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kuryr-controller";
            world.note_write((&Caller::new(by), false), path, Some(&lease(before)), Some(&lease(after)));
            world.violations().len()
        };
        assert_eq!(lead("controller-2.1", 1, 2), 2);
        assert_eq!(judged("controller-2.1", of(1, "a"), of(2, "b")), 1, "not together");
        assert_eq!(judged("controller-2.1", of(1, "a"), of(1, "b")), 1, "not before");
        assert_eq!(judged("controller-2.1", of(1, "a"), of(2, "a")), 0);
        assert_eq!(judged("controller-2.1", of(2, "a"), of(2, "b")), 0);
        assert_eq!(judged(LEADER, of(2, "a"), of(2, "b")), 1, "the former leader");
        world.api.put(RECORD, record(&json!({"epoch": 2}), &json!({"epochSeen": 5})));
        assert_eq!(lead("controller-1.2", 2, 5), 6, "an agent has seen it");
        assert_eq!(lead("controller-1.3", 5, 6), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn an_offer_of_a_condemned_port_is_told() {
        let world = world();
        let mut condemned = port();
        condemned["name"] = json!("kuryr-condemned/kuryr-pool/n1");
        world.state().cloud.ports.insert(PORT.to_owned(), condemned);
        offer(&world, "1.1");
        assert_eq!(world.violations().len(), 1, "{:?}", world.violations());
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_before_the_first_report_is_told() {
        let world = world();
        let spec = |uid: &str, class: &str| json!({"epoch": 1, "nodeUid": uid, "defaultClass": class});
        let status = |uid: &str, id: &str| json!({"nodeUid": uid, "checkpoint": {"id": id, "sequence": 1}});
        for (served, reported, is_right) in [
            ("n1-life-1", status("n1-life-1", "c"), true),
            ("n1-life-1", status("n1-life-1", ""), false),
            ("n1-life-1", status("n1-life-0", "c"), false),
            ("n1-life-1", json!({}), false),
            ("n1-life-0", status("n1-life-0", "c"), true),
        ] {
            let count = world.violations().len();
            write(
                &world,
                LEADER,
                &record(&spec(served, "a"), &reported),
                &record(&spec(served, "b"), &reported),
            );
            assert_eq!(world.violations().len() == count, is_right, "{served} {reported}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_patch_that_may_hold_for_another_record_is_told() {
        let world = world();
        let ports = json!({"there": {"generation": 1}, "other": {"generation": 1}});
        let mut before = record(&json!({"epoch": 1, "ports": ports}), &json!({}));
        before["metadata"]["generation"] = json!(1);
        let of = |epoch: bool, looked_at: bool, offer: &str, change: &str| {
            let test = |path: &str| json!({"op": "test", "path": path, "value": 1});
            let tests =
                [(epoch, "/spec/epoch"), (looked_at, "/metadata/generation"), (!offer.is_empty(), offer)];
            let tests = tests.into_iter().filter(|(is_made, _)| *is_made).map(|(_, path)| test(path));
            let change = json!({"op": "add", "path": change, "value": 1});
            Value::from(tests.chain([change]).collect::<Vec<_>>()).to_string()
        };
        for (patch, is_right) in [
            (of(true, false, "", "/spec/epoch"), true),
            (of(false, true, "", "/spec/epoch"), false),
            (of(true, true, "", "/spec/mode"), true),
            (of(true, false, "", "/spec/mode"), false),
            (of(false, true, "", "/spec/mode"), false),
            (of(true, true, "", "/spec/ports/new"), true),
            (of(true, true, "/spec/ports/there", "/spec/ports/there"), true),
            (of(true, true, "", "/spec/ports/there"), false),
            (of(true, true, "/spec/ports/there/generation", "/spec/ports/there/doomed"), true),
            (of(true, true, "/spec/ports/other/generation", "/spec/ports/there/doomed"), false),
            // It comes late, and is refused.
            (of(true, true, "", "/spec/ports/there").replace(":1", ":2"), true),
        ] {
            let count = world.violations().len();
            world.judge_patch(&Caller::new(LEADER), RECORD, Some(&before), patch.as_bytes());
            assert_eq!(world.violations().len() == count, is_right, "{patch}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_offer_with_other_groups_than_are_configured_is_told() {
        let world = world();
        world.state().cloud.ports.insert(PORT.to_owned(), port());
        offer(&world, "1.1");
        assert_eq!(world.violations(), Vec::<String>::new());
        for groups in [json!([]), json!(["default-group"]), json!(["g0", "default-group"])] {
            let before = world.violations().len();
            world.state().cloud.ports.get_mut(PORT).unwrap()["security_groups"] = groups.clone();
            offer(&world, &format!("1.{}", before + 2));
            assert_eq!(world.violations().len(), before + 1, "{groups}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_is_told_to_be_ready_and_is_not_is_told() {
        let ready = json!({"checkpoint": {"id": "c", "sequence": 1}, "ready": {PORT: "1.1"}});
        let without: Arc<World> = world();
        report(&without, &ready, false);
        assert_eq!(without.violations().len(), 1, "it is not on the switch");
        let world = world_with_pod().await;
        report(&world, &ready, false);
        assert_eq!(world.violations(), Vec::<String>::new());
        reboot(&world, "n1");
        report(&world, &ready, true);
        assert_eq!(world.violations(), Vec::<String>::new(), "it was before the node started again");
        report(&world, &ready, false);
        assert_eq!(world.violations().len(), 1, "its agent is another now");
    }
}
