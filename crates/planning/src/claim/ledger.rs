//! What the agent holds, as its checkpoint keeps it.
//!
//! Each change is a method that keeps the rules; a caller that would break one has a bug, hence the assertions.
//! The order is always: change, make durable, touch the kernel, tell others.

use std::collections::BTreeMap;

use kuryr_api::kuryrnode::{ClaimEntry, PortEntry};
use kuryr_types::{Generation, PodIdentity, PodRef, PortId};
use serde::{Deserialize, Serialize};

use super::offer::Offer;
use crate::attachment::Links;

/// Claims, returned generations and known ports of one agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// Ports in use by pods.
    pub claims: BTreeMap<PortId, Claim>,
    /// Ports given back, with the generation that is never touched again.
    pub returned: BTreeMap<PortId, Generation>,
    /// Ports that were offered and may be plugged: what is on the switch and in here is ours to remove.
    pub known: BTreeMap<PortId, Generation>,
}

/// A port in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Offer that was claimed.
    pub generation: Generation,
    /// The pod.
    pub pod: PodRef,
    /// Identity of the pod.
    pub identity: PodIdentity,
    /// What the pod sees of the port, kept so that a restarted sandbox needs nothing from outside.
    pub links: Links,
    /// The sandbox that is connected, or may be since a crash in between; none after a cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Sandbox>,
}

/// A sandbox connected to a claimed port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sandbox {
    /// `CNI_CONTAINERID`; empty for a claim that was proven by its namespace after the checkpoint was lost.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_NETNS`.
    pub netns: String,
    /// Which namespace that path led to, device and inode; unknown between the claim and the end of ADD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_id: Option<String>,
    /// Name of the node's end of the link.
    pub host_ifname: String,
    /// Its index; unknown as long as the namespace is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ifindex: Option<u32>,
}

impl Sandbox {
    /// Tells whether a DEL or GC of this container means this sandbox.
    ///
    /// The container is what counts. Where it was lost, the namespace stands for it.
    #[must_use]
    pub fn is_of(&self, container_id: &str, ifname: &str, netns: &str) -> bool {
        if self.container_id.is_empty() {
            return !netns.is_empty() && self.netns == netns && self.ifname == ifname;
        }
        self.container_id == container_id && self.ifname == ifname
    }
}

impl Ledger {
    /// The port that this pod holds.
    #[must_use]
    pub fn held_by(&self, identity: &PodIdentity) -> Option<(&PortId, &Claim)> {
        self.claims.iter().find(|(_, claim)| claim.identity == *identity)
    }

    /// The claim whose sandbox a DEL of this container means.
    #[must_use]
    pub fn joined_by(&self, container_id: &str, ifname: &str, netns: &str) -> Option<(&PortId, &Claim)> {
        self.claims.iter().find(|(_, claim)| {
            claim.sandbox.as_ref().is_some_and(|sandbox| sandbox.is_of(container_id, ifname, netns))
        })
    }

    /// Notes the ports of an offer, the node's own among them; tells whether any was new.
    pub fn notice(&mut self, offer: &Offer<'_>) -> bool {
        // The own port is never offered again under another generation: any constant will do.
        const OWN: Generation = Generation { epoch: 0, counter: 0 };
        let usable = offer.usable(self).map(|(port, entry)| (port, entry.generation));
        let own = offer.spec().own_port.iter().map(|own| (&own.id, OWN));
        let unknown: Vec<(PortId, Generation)> = usable
            .chain(own)
            .filter(|(port, generation)| self.known.get(*port) != Some(generation))
            .map(|(port, generation)| (port.clone(), generation))
            .collect();
        let changed = !unknown.is_empty();
        self.known.extend(unknown);
        changed
    }

    /// Forgets a port that is neither offered nor plugged any more; tells whether it was known.
    pub fn unknow(&mut self, port: &PortId) -> bool {
        self.known.remove(port).is_some()
    }

    /// Ties a usable port to a pod, or connects the pod's own claim to another sandbox.
    ///
    /// # Panics
    ///
    /// Another pod holds the port, this pod holds another port, or the generation was returned: the caller did
    /// not ask [`choose`](super::choose).
    pub fn claim(&mut self, port: &PortId, claim: Claim) {
        let held = self.claims.get(port);
        assert!(
            held.is_none_or(|held| held.identity == claim.identity),
            "port {port} is claimed by another pod"
        );
        assert!(
            self.held_by(&claim.identity).is_none_or(|(other, _)| other == port),
            "pod {} holds another port",
            claim.identity
        );
        assert!(
            held.is_some() || self.returned.get(port) != Some(&claim.generation),
            "generation {} of port {port} was returned",
            claim.generation
        );
        self.claims.insert(port.clone(), claim);
    }

    /// Takes back a claim that was not made durable; the kernel was not touched for it.
    pub fn unclaim(&mut self, port: &PortId, identity: &PodIdentity) {
        if self.claims.get(port).is_some_and(|claim| claim.identity == *identity) {
            self.claims.remove(port);
        }
    }

    /// Records what the sandbox was connected by, after the links were made or found.
    pub fn joined(&mut self, port: &PortId, host_ifindex: u32, netns_id: &str) -> bool {
        let Some(sandbox) = self.claims.get_mut(port).and_then(|claim| claim.sandbox.as_mut()) else {
            return false;
        };
        let (index, id) = (Some(host_ifindex), Some(netns_id.to_owned()));
        let changed = (&sandbox.host_ifindex, &sandbox.netns_id) != (&index, &id);
        (sandbox.host_ifindex, sandbox.netns_id) = (index, id);
        changed
    }

    /// Records that no sandbox is connected to the port any more; the pod keeps it.
    pub fn cut(&mut self, port: &PortId) -> bool {
        self.claims.get_mut(port).is_some_and(|claim| claim.sandbox.take().is_some())
    }

    /// Ends a claim and returns its port.
    ///
    /// # Panics
    ///
    /// A sandbox is still connected: the caller did not cut.
    pub fn release(&mut self, port: &PortId) -> Option<Claim> {
        let claim = self.claims.remove(port)?;
        assert!(claim.sandbox.is_none(), "port {port} is released while a sandbox is connected");
        self.returned.insert(port.clone(), claim.generation);
        Some(claim)
    }

    /// Returns withdrawn ports that no pod uses; gives those that were returned now.
    pub fn acknowledge(&mut self, ports: &BTreeMap<PortId, PortEntry>) -> Vec<PortId> {
        let wanted_back = |entry: &PortEntry| entry.withdrawn || entry.doomed;
        let open = |ledger: &Self, port: &PortId, entry: &PortEntry| {
            !ledger.claims.contains_key(port) && ledger.returned.get(port) != Some(&entry.generation)
        };
        let now: Vec<(PortId, Generation)> = ports
            .iter()
            .filter(|(port, entry)| wanted_back(entry) && open(self, port, entry))
            .map(|(port, entry)| (port.clone(), entry.generation))
            .collect();
        self.returned.extend(now.iter().cloned());
        now.into_iter().map(|(port, _)| port).collect()
    }

    /// Drops returned generations that the controller has taken: the entry is gone or has a newer generation.
    pub fn forget(&mut self, ports: &BTreeMap<PortId, PortEntry>) -> bool {
        let before = self.returned.len();
        self.returned
            .retain(|port, generation| ports.get(port).is_some_and(|entry| entry.generation == *generation));
        self.returned.len() != before
    }

    /// The claims as the node's status tells them.
    #[must_use]
    pub fn told_claims(&self) -> BTreeMap<PortId, ClaimEntry> {
        let told = |claim: &Claim| ClaimEntry {
            generation: claim.generation,
            namespace: claim.pod.namespace.clone(),
            name: claim.pod.name.clone(),
            identity: claim.identity.clone(),
        };
        self.claims.iter().map(|(port, claim)| (port.clone(), told(claim))).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::attachment::links::tests::{entry as entry_with, spec as spec_with};
    use crate::claim::offer::tests::{offered, own};

    /// A claim of pod `identity`.
    pub(crate) fn claim(identity: &str, generation: &str, container: Option<&str>) -> Claim {
        Claim {
            generation: generation.parse().unwrap(),
            pod: PodRef::new("team-a", identity),
            identity: identity.into(),
            links: Links::of(&entry_with(&[("four", "10.128.6.23")]), &spec_with(), 0).unwrap(),
            sandbox: container.map(sandbox),
        }
    }

    /// A sandbox with container id `id`.
    pub(crate) fn sandbox(id: &str) -> Sandbox {
        Sandbox {
            container_id: id.into(),
            ifname: "eth0".into(),
            netns: format!("/run/netns/{id}"),
            netns_id: Some(format!("4:{id}")),
            host_ifname: "krp1".into(),
            host_ifindex: Some(7),
        }
    }

    #[test]
    fn del_means_one_container() {
        for (stored, container, ifname, netns, expect) in [
            ("c1", "c1", "eth0", "", true),
            ("c1", "c2", "eth0", "/run/netns/c1", false),
            ("c1", "c1", "eth1", "", false),
            ("", "c9", "eth0", "/run/netns/", true),
            ("", "c9", "eth0", "", false),
        ] {
            assert_eq!(
                sandbox(stored).is_of(container, ifname, netns),
                expect,
                "{stored} {container} {netns}"
            );
        }
    }

    #[test]
    fn release_returns_the_generation_until_the_controller_takes_it() {
        let mut ledger = Ledger::default();
        let port: PortId = "p1".into();
        ledger.claim(&port, claim("a", "1.1", Some("c1")));
        assert!(ledger.cut(&port));
        assert!(!ledger.cut(&port));
        ledger.release(&port);
        assert_eq!(ledger.returned[&port], "1.1".parse().unwrap());
        let spec = offered(&[("p1", "1.1")]);
        assert!(!ledger.forget(&spec.ports));
        let spec = offered(&[("p1", "1.2")]);
        assert!(ledger.forget(&spec.ports));
        assert_eq!(Offer::accept(&spec, &own()).unwrap().usable(&ledger).count(), 1);
    }

    #[test]
    fn withdrawals_wait_for_claims() {
        let mut spec = offered(&[("p1", "1.1"), ("p2", "1.2"), ("p3", "1.3")]);
        let mut ledger = Ledger::default();
        assert!(ledger.notice(&Offer::accept(&spec, &own()).unwrap()));
        assert!(!ledger.notice(&Offer::accept(&spec, &own()).unwrap()));
        ledger.claim(&"p1".into(), claim("a", "1.1", None));
        for port in ["p1", "p2"] {
            spec.ports.get_mut(port).unwrap().withdrawn = true;
        }
        assert_eq!(ledger.acknowledge(&spec.ports), ["p2".into()]);
        assert_eq!(ledger.acknowledge(&spec.ports), []);
        ledger.release(&"p1".into());
        assert_eq!(ledger.acknowledge(&spec.ports), []);
        assert_eq!(ledger.returned.len(), 2);
    }

    #[test]
    #[should_panic(expected = "claimed by another pod")]
    fn a_port_has_one_pod() {
        let mut ledger = Ledger::default();
        ledger.claim(&"p1".into(), claim("a", "1.1", None));
        ledger.claim(&"p1".into(), claim("b", "1.1", None));
    }

    #[test]
    #[should_panic(expected = "was returned")]
    fn a_returned_generation_is_over() {
        let mut ledger = Ledger::default();
        ledger.claim(&"p1".into(), claim("a", "1.1", None));
        ledger.release(&"p1".into());
        ledger.claim(&"p1".into(), claim("a", "1.1", None));
    }
}
