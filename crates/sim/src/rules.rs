//! What must hold at every moment: each call that changes something is looked at when it takes effect.
//!
//! - No address goes to a pod, to an offer or back to Neutron while a live pod or an EndpointSlice of another has it, or
//!   before it has rested. No two pods that live have the same address or MAC.
//! - No port is deleted, or unbound, that a pod of a living node is connected by; none before it is doomed, if a record
//!   names it. Nothing is changed that is not ours. Nothing is made that could not be found again.
//! - A record changes as [`kuryr_planning::pool::invariants`] allow; a generation is used once; only controllers write what
//!   is offered, only the node's agent what it reports. What is offered is there, bound to the node's host, with its groups.
//! - A port is not given back while a pod is connected by it.
//! - A connected pod is never cut off ([`crate::machine`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use kuryr_api::kuryrnode::{KuryrNode, KuryrNodeStatus, PortEntry};
use kuryr_planning::pool::invariants::violations;
use kuryr_types::{Generation, MacAddr, PortId};
use serde_json::Value;
use tokio::time::{Duration, Instant};

use crate::{
    cloud::{self, Asked, TAG, is_ours},
    faults::Caller,
    machine::{Joint, Sandbox},
    programs::COOL_DOWN,
    world::{RECORDS, State, World},
};

/// What the rules remember.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) violations: Vec<String>,
    /// Who has which address: pods that live, and slices.
    current: BTreeSet<(IpAddr, String)>,
    /// When somebody last had it, by whom.
    former: BTreeMap<IpAddr, BTreeMap<String, Instant>>,
    generations: BTreeSet<Generation>,
    /// By which port somebody got an address.
    got_by: BTreeMap<(IpAddr, String), MacAddr>,
    /// Ports that somebody else deleted, by their identifiers. Neutron gives their addresses to others at once, while who had
    /// them may still tell them.
    stolen: BTreeMap<String, MacAddr>,
}

impl Rules {
    /// Why `address` may not be for `whom` now, if so.
    fn objection(&self, address: IpAddr, whom: &str) -> Option<String> {
        let counts = |by: &String| by != whom && !self.was_robbed(address, by);
        if let Some((_, other)) = self.current.iter().find(|(held, by)| *held == address && counts(by)) {
            return Some(format!("{address} is held by {other}"));
        }
        let rest = Duration::from_secs(COOL_DOWN);
        let young = |(by, at): &(&String, &Instant)| counts(by) && at.elapsed() < rest;
        let former = self.former.get(&address)?.iter().find(young);
        former.map(|(by, at)| format!("{address} was held by {by} {:?} ago", at.elapsed()))
    }

    /// Somebody deletes a port in Neutron.
    pub(crate) fn steal(&mut self, id: &str, port: &Value) {
        self.stolen.insert(id.to_owned(), mac_of(port).unwrap());
    }

    /// Whether somebody deleted this port.
    pub(crate) fn is_stolen(&self, id: &str) -> bool {
        self.stolen.contains_key(id)
    }

    fn is_stolen_mac(&self, mac: MacAddr) -> bool {
        self.stolen.values().any(|stolen| *stolen == mac)
    }

    /// Whether `by` got the address by a port that somebody deleted.
    fn was_robbed(&self, address: IpAddr, by: &str) -> bool {
        self.got_by.get(&(address, by.to_owned())).is_some_and(|mac| self.is_stolen_mac(*mac))
    }

    /// Whether a live pod or a slice tells an address that its pod got by a port that somebody deleted.
    pub(crate) fn is_told_of_stolen(&self, address: IpAddr) -> bool {
        self.current.iter().any(|(held, by)| *held == address && self.was_robbed(address, by))
    }

    fn follow(&mut self, now: BTreeSet<(IpAddr, String)>) {
        let gone: Vec<_> = self.current.difference(&now).cloned().collect();
        for (address, by) in gone {
            self.former.entry(address).or_default().insert(by, Instant::now());
        }
        self.current = now;
    }
}

impl World {
    /// A rule is broken.
    pub(crate) fn broken(&self, what: String) {
        let at = self.faults.elapsed();
        let mut state = self.state();
        state.notes.push((at, format!("BROKEN: {what}")));
        state.rules.violations.push(what);
    }

    /// Writes an object as somebody else than the programs.
    pub(crate) fn put(&self, path: &str, object: Value) {
        self.api.put(path, object);
        self.follow_references();
    }

    /// Removes an object as somebody else than the programs.
    pub(crate) fn remove(&self, path: &str) {
        self.api.remove(path);
        self.follow_references();
    }

    /// Whether the API server has a pod of this UID: only then is it owed anything.
    pub(crate) fn is_wanted(&self, uid: &str) -> bool {
        let paths = self.api.paths("/api/v1/namespaces/d/pods/");
        paths.iter().filter_map(|path| self.api.get(path)).any(|pod| pod["metadata"]["uid"] == uid)
    }

    fn follow_references(&self) {
        let mut now = BTreeSet::new();
        for pod in self.api.paths("/api/v1/namespaces/d/pods/").iter().filter_map(|path| self.api.get(path)) {
            let ended = pod["status"]["phase"] == "Succeeded" || pod["status"]["phase"] == "Failed";
            let held = pod["status"]["podIP"].as_str().and_then(|address| address.parse().ok());
            let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
            now.extend(held.filter(|_| !ended).map(|address: IpAddr| (address, uid.to_owned())));
        }
        let slices = self.api.paths("/apis/discovery.k8s.io/v1/");
        for slice in slices.iter().filter_map(|path| self.api.get(path)) {
            for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
                let held = endpoint["addresses"][0].as_str().and_then(|address| address.parse().ok());
                let uid = endpoint["targetRef"]["uid"].as_str().unwrap_or_default();
                now.extend(held.map(|address: IpAddr| (address, uid.to_owned())));
            }
        }
        self.state().rules.follow(now);
    }

    /// A pod was connected.
    pub(crate) fn judge_attachment(&self, node: &str, joint: &Joint, sandbox: &Sandbox) {
        let objections = {
            let state = &mut *self.state();
            let mut found: Vec<String> = joint
                .addresses
                .iter()
                .filter_map(|net| state.rules.objection(net.addr(), &sandbox.pod))
                .collect();
            for (other_node, other, pod) in connected(state) {
                let is_robbed = state.rules.is_stolen_mac(other.mac);
                let same = other.mac == joint.mac || (other.addresses == joint.addresses && !is_robbed);
                if same && pod.pod != sandbox.pod {
                    found.push(format!("{} on {other_node} is connected by the same port", pod.pod));
                }
            }
            let got = joint.addresses.iter().map(|net| ((net.addr(), sandbox.pod.clone()), joint.mac));
            state.rules.got_by.extend(got);
            found
        };
        for why in objections {
            self.broken(format!("pod {} on {node} gets {:?} and {why}", sandbox.pod, joint.addresses));
        }
    }

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

    /// A program wrote an object.
    pub(crate) fn note_write(
        &self,
        (caller, is_late): (&Caller, bool),
        path: &str,
        before: Option<&Value>,
        after: Option<&Value>,
    ) {
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

    fn judge_offers(&self, caller: &Caller, node: &str, old: &KuryrNode, new: &KuryrNode) {
        let is_gone = self.node_uid(node).is_none_or(|uid| uid != old.spec.node_uid);
        let mut found: Vec<String> = violations(&old.spec, old.status.as_ref(), &new.spec, is_gone)
            .into_iter()
            .map(|violation| format!("{violation:?}"))
            .collect();
        if !caller.name().starts_with("controller") {
            found.push("its author is no controller".to_owned());
        }
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
        {
            let state = self.state();
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

/// Pods that are connected and whose sandboxes are there, with their nodes.
fn connected(state: &State) -> impl Iterator<Item = (&String, &Joint, &Sandbox)> {
    state.machines.iter().flat_map(|(node, machine)| {
        let behind = move |joint| Some((node, joint, machine.behind(joint)?));
        machine.joints.values().filter_map(behind)
    })
}

/// The hardware address of a port.
pub(crate) fn mac_of(port: &Value) -> Option<MacAddr> {
    port["mac_address"].as_str()?.parse().ok()
}

fn is_findable(port: &Value) -> bool {
    let tagged = port["tags"].as_array().is_some_and(|tags| tags.iter().any(|tag| tag == TAG));
    tagged && port["description"] == TAG && port["name"].as_str().is_some_and(|name| !name.is_empty())
}

/// What speaks against an offer to a node.
fn offer_objections(state: &State, node: &str, id: &str, entry: &PortEntry) -> Vec<String> {
    let mut found = Vec::new();
    let held = entry.addresses.iter().filter_map(|address| state.rules.objection(address.address, ""));
    found.extend(held.map(|why| format!("{id} is offered and {why}")));
    let Some(port) = state.cloud.ports.get(id) else {
        // Somebody may have deleted it since it was looked at.
        return found;
    };
    let host = state.machines[node].host.as_str();
    if port["binding:host_id"] != host {
        found.push(format!("{id} is offered and bound to {}", port["binding:host_id"]));
    }
    if port["security_groups"].as_array().is_none_or(Vec::is_empty) {
        found.push(format!("{id} is offered without groups"));
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
