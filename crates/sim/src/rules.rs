//! What must hold at every moment: each call that changes something is looked at when it takes effect.
//!
//! - No address goes to a pod, to an offer or back to Neutron while a live pod, an EndpointSlice or a member of a load balancer
//!   of ours means another by it, or before it has rested. No two pods that live have the same address or MAC.
//! - No port is deleted, or unbound, that a pod of a living node is connected by; none before it is doomed, if a record
//!   names it. Nothing is changed that is not ours. Nothing is made that could not be found again.
//! - A record changes as [`kuryr_planning::pool::invariants`] allow; a generation is used once; only controllers write what
//!   is offered, only the node's agent what it reports. What is offered is there, bound to the node's host, with its groups.
//! - Whoever leads writes an epoch of its own into the Lease, greater than all before, and then into each record, before
//!   anything else of that node is changed. A write holds only for what its author has looked at.
//! - A port is not given back while a pod is connected by it.
//! - A connected pod is never cut off ([`crate::machine`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use kuryr_types::{Epoch, Generation, MacAddr};
use serde_json::Value;
use tokio::time::{Duration, Instant};

use crate::{
    cloud::{Cloud, TAG},
    machine::{Joint, Sandbox},
    octavia::{Pool, has_tag},
    programs::COOL_DOWN,
    world::{State, World},
};

// Who gets an address.
mod pods;
// What is asked of Neutron.
mod calls;
// What is written in records.
mod records;

/// What the rules remember.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) violations: Vec<String>,
    /// Who has which address: pods that live, and slices.
    current: BTreeSet<(IpAddr, String)>,
    /// When somebody last had it, by whom.
    former: BTreeMap<IpAddr, BTreeMap<String, Instant>>,
    generations: BTreeSet<Generation>,
    /// Epochs under which a program has led.
    epochs: BTreeMap<String, BTreeSet<Epoch>>,
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

    /// Members that have gone by now are members no more.
    fn follow_members(&self) {
        let state = &mut *self.state();
        state.octavia.go_on(&mut state.cloud);
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
}

/// Why `address` may not be for `whom` now, by what pods, slices and load balancers say.
fn objection(state: &State, address: IpAddr, whom: &str) -> Option<String> {
    state.rules.objection(address, whom).or_else(|| objection_of_members(state, address, whom))
}

/// A member means the pod that had the address when it became one; only that pod may get it again.
fn objection_of_members(state: &State, address: IpAddr, whom: &str) -> Option<String> {
    let had = state.rules.got_by.iter().filter(|((held, _), _)| *held == address);
    if had.clone().any(|((_, by), mac)| by == whom || state.rules.is_stolen_mac(*mac)) {
        return None;
    }
    let ours = state.octavia.balancers.values().filter(|balancer| balancer.is_ours());
    let mut pools = ours.flat_map(|balancer| &balancer.pools);
    let has_it = |pool: &Pool| pool.targets().iter().any(|(held, _)| *held == address);
    pools.find(|(_, pool)| has_it(pool)).map(|(id, _)| format!("{address} is a member of {id}"))
}

/// Pods that are connected and whose sandboxes are there, with their nodes.
fn connected(state: &State) -> impl Iterator<Item = (&String, &Joint, &Sandbox)> {
    state.machines.iter().flat_map(|(node, machine)| {
        let behind = move |joint| Some((node, joint, machine.behind(joint)?));
        machine.joints.values().filter_map(behind)
    })
}

/// Whether a port has the groups that pods are to have. None are configured, so that is our own.
pub(crate) fn has_right_groups(cloud: &Cloud, port: &Value) -> bool {
    let own: Vec<&Value> =
        cloud.groups.iter().filter(|group| has_tag(group, TAG)).map(|group| &group["id"]).collect();
    let has = port["security_groups"].as_array().map(Vec::as_slice);
    has.is_some_and(|has| matches!(has, [one] if own.contains(&one)))
}

/// Whether a security group is this cluster's, by its tag or by the words it was made with.
pub(crate) fn is_our_group(group: &Value) -> bool {
    let words = group["description"].as_str().unwrap_or_default();
    has_tag(group, TAG) || words.ends_with(" Kubernetes cluster c1")
}

/// The hardware address of a port.
pub(crate) fn mac_of(port: &Value) -> Option<MacAddr> {
    port["mac_address"].as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Request;
    use serde_json::json;

    use super::{pods::tests::world, *};
    use crate::cloud::{Asked, PROJECT};

    #[tokio::test(start_paused = true)]
    async fn a_member_means_the_pod_that_had_its_address() {
        let world = world();
        let mac: MacAddr = "fa:16:3e:00:00:01".parse().unwrap();
        let address: IpAddr = "10.0.0.11".parse().unwrap();
        let pool = json!({"name": "p", "protocol": "TCP",
            "members": [{"address": address, "protocol_port": 8080, "subnet_id": "s4"}]});
        let wanted = |tag: &str| {
            let balancer = json!({"loadbalancer": {"name": "d/web", "project_id": PROJECT, "tags": [tag], "provider": "ovn",
                "vip_subnet_id": "s4", "listeners": [{"name": "l", "protocol": "TCP", "protocol_port": 80, "default_pool": pool}]}});
            let request = Request::post("http://cloud.test/v2/lbaas/loadbalancers");
            Asked::of(&request.body(Bytes::from(balancer.to_string())).unwrap())
        };
        let state = &mut *world.state();
        state.rules.got_by.insert((address, "uid-1".to_owned()), mac);
        assert_eq!(objection(state, address, ""), None);
        state.octavia.answer(&wanted("of-others"), &mut state.cloud).unwrap();
        assert_eq!(objection(state, address, ""), None, "a load balancer of others means others");
        state.octavia.answer(&wanted(TAG), &mut state.cloud).unwrap();
        assert!(objection(state, address, "").is_some(), "its port is offered, or deleted");
        assert!(objection(state, address, "uid-2").is_some(), "another pod gets it");
        assert_eq!(objection(state, address, "uid-1"), None, "the pod itself gets it again");
        assert_eq!(objection(state, "10.0.0.12".parse().unwrap(), "uid-2"), None, "another address");
    }
}
