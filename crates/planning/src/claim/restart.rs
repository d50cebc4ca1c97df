//! What of the claims survives a start of the agent.
//!
//! With a checkpoint: a claim stays joined if its namespace is the recorded one and the kernel's entry agrees with
//! it by name, index and peer; otherwise it is cut. What an ADD that was answered has recorded of its namespace and index
//! may have been lost with the agent; then an interface with the port's hardware address in the namespace at the claim's
//! path proves as much. Entries that no claim stands for are cut, too: better a pod
//! without a network that its runtime repairs than one that uses a port of the controller's.
//!
//! The same agent on another Node of the name goes on with the claims that the kernel agrees with, as far as the record still
//! has what they claim: it has seen itself how they were made.
//!
//! Without one: the only proof that a pod uses a port is a live namespace with an interface of the port's hardware
//! address, and a pod of this node that tells one of the port's addresses. Everything else in the record is
//! returned at its present generation.

use std::{collections::BTreeMap, net::IpAddr};

use kuryr_api::{kuryrnode::KuryrNodeSpec, names};
use kuryr_types::{Generation, MacAddr, PodIdentity, PodRef, PortId};

use super::ledger::{Claim, Ledger, Sandbox};
use crate::attachment::Links;

/// A joint as the kernel holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joint {
    /// Index of the node's end.
    pub host_ifindex: u32,
    /// Hardware address that the pod may send from: the port's.
    pub mac: MacAddr,
    /// VLAN id on the uplink.
    pub vlan: Option<u16>,
}

impl Joint {
    /// Whether this is the joint of a pod with these links.
    #[must_use]
    pub fn is_of(&self, links: &Links) -> bool {
        self.mac == links.mac && self.vlan == links.vlan
    }
}

/// What is found for a claim's sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The namespace at the claim's path, if it is the recorded one; if none is recorded, if it has the port's interface.
    /// Neither is so for an ADD that a crash broke off.
    pub namespace: Option<String>,
    /// Index of the joint whose name, index, peer namespace and programs agree in the kernel.
    pub joined: Option<u32>,
}

/// What to do at start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Claims that stay joined, with the index of their joint and their namespace.
    pub kept: BTreeMap<PortId, (u32, String)>,
    /// Claims whose sandbox is gone or was never finished.
    pub cut: Vec<PortId>,
    /// Joints that no kept claim stands for.
    pub strangers: Vec<u32>,
}

/// Compares claims with the kernel. `found` has an entry for each claim with a sandbox.
///
/// With a fallback that needs no joints (`has_joints` false) the namespace alone decides.
#[must_use]
pub fn survey(
    ledger: &Ledger,
    found: &BTreeMap<PortId, Found>,
    joints: &[Joint],
    has_joints: bool,
) -> Survey {
    let mut survey = Survey::default();
    for (port, claim) in &ledger.claims {
        let Some(sandbox) = &claim.sandbox else { continue };
        match found.get(port).and_then(|found| agreed(sandbox, found, has_joints)) {
            Some(joined) => drop(survey.kept.insert(port.clone(), joined)),
            None => survey.cut.push(port.clone()),
        }
    }
    let kept: Vec<u32> = survey.kept.values().map(|(index, _)| *index).collect();
    survey.strangers = joints.iter().map(|joint| joint.host_ifindex).filter(|i| !kept.contains(i)).collect();
    survey
}

/// The index and the namespace by which kernel and claim agree. A claim that was proven by its namespace may have no index
/// yet.
fn agreed(sandbox: &Sandbox, found: &Found, has_joints: bool) -> Option<(u32, String)> {
    let namespace = found.namespace.clone()?;
    if !has_joints {
        return Some((sandbox.host_ifindex.unwrap_or_default(), namespace));
    }
    let index =
        found.joined.filter(|index| sandbox.host_ifindex.is_none_or(|recorded| recorded == *index))?;
    Some((index, namespace))
}

/// An interface in a live namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveInterface {
    /// Path of the namespace.
    pub netns: String,
    /// Which namespace it is.
    pub netns_id: String,
    /// Name of the interface.
    pub ifname: String,
    /// Its hardware address.
    pub mac: MacAddr,
}

/// A pod of this node that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LivePod {
    /// The pod.
    pub pod: PodRef,
    /// Its identity.
    pub identity: PodIdentity,
    /// Addresses that its status tells.
    pub addresses: Vec<IpAddr>,
}

/// A ledger of the claims `served` until now and of what live namespaces prove; the rest of the record is returned.
#[must_use]
pub fn proven(
    spec: &KuryrNodeSpec,
    served: &BTreeMap<PortId, Claim>,
    interfaces: &[LiveInterface],
    pods: &[LivePod],
    joints: &[Joint],
    mtu_cap: u32,
) -> Ledger {
    let mut ledger = Ledger::default();
    let is_offered = |port: &PortId, claim: &Claim| {
        spec.ports.get(port).is_some_and(|entry| entry.generation == claim.generation)
    };
    for (port, claim) in served.iter().filter(|(port, claim)| is_offered(port, claim)) {
        ledger.claim(port, claim.clone());
    }
    for (port, entry) in &spec.ports {
        ledger.known.insert(port.clone(), entry.generation);
        if ledger.claims.contains_key(port) {
            continue;
        }
        let interface = interfaces.iter().find(|interface| interface.mac == entry.mac);
        let tells = |pod: &&LivePod| entry.addresses.iter().any(|a| pod.addresses.contains(&a.address));
        let pod = pods.iter().find(tells).filter(|pod| ledger.held_by(&pod.identity).is_none());
        let links = Links::of(entry, spec, mtu_cap).ok();
        match (interface, pod, links) {
            (Some(interface), Some(pod), Some(links)) => {
                let claim = proven_claim(port, entry.generation, pod, interface, links, joints);
                ledger.claim(port, claim);
            }
            _ => drop(ledger.returned.insert(port.clone(), entry.generation)),
        }
    }
    ledger
}

fn proven_claim(
    port: &PortId,
    generation: Generation,
    pod: &LivePod,
    interface: &LiveInterface,
    links: Links,
    joints: &[Joint],
) -> Claim {
    let host_ifname = names::host_end_name(port.as_str());
    let joint = joints.iter().find(|joint| joint.is_of(&links));
    Claim {
        generation,
        pod: pod.pod.clone(),
        identity: pod.identity.clone(),
        links,
        sandbox: Some(Sandbox {
            container_id: String::new(),
            ifname: interface.ifname.clone(),
            netns: interface.netns.clone(),
            netns_id: Some(interface.netns_id.clone()),
            host_ifname,
            host_ifindex: joint.map(|joint| joint.host_ifindex),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::{
        ledger::tests::{claim, sandbox},
        offer::tests::offered,
    };

    fn check(recorded: Option<u32>, same_namespace: bool, joined: Option<u32>, has_joints: bool, kept: bool) {
        let mut held = claim("a", "1.1", None);
        held.sandbox = Some(Sandbox { host_ifindex: recorded, ..sandbox("c1") });
        let mut ledger = Ledger::default();
        ledger.claim(&"p1".into(), held);
        ledger.claim(&"p2".into(), claim("b", "1.2", None));
        let namespace = same_namespace.then(|| "4:1".to_owned());
        let found = BTreeMap::from([("p1".into(), Found { namespace, joined })]);
        let joints = [7, 8].map(|host_ifindex| Joint {
            host_ifindex,
            mac: "fa:16:3e:00:00:01".parse().unwrap(),
            vlan: None,
        });
        let got = survey(&ledger, &found, if has_joints { &joints } else { &[] }, has_joints);
        let what = format!("{recorded:?} {same_namespace} {joined:?} {has_joints}");
        assert_eq!(got.kept.contains_key("p1"), kept, "{what}");
        assert_eq!(got.cut, if kept { vec![] } else { vec![PortId::from("p1")] }, "{what}");
        let strangers = if !has_joints {
            vec![]
        } else if kept {
            vec![8]
        } else {
            vec![7, 8]
        };
        assert_eq!(got.strangers, strangers, "{what}");
    }

    #[test]
    fn claim_name_index_and_namespace_must_agree() {
        check(Some(7), true, Some(7), true, true);
        check(None, true, Some(7), true, true);
        check(Some(7), true, Some(8), true, false);
        check(Some(7), true, None, true, false);
        check(Some(7), false, Some(7), true, false);
        check(None, true, None, true, false);
        check(Some(7), true, None, false, true);
        check(Some(7), false, None, false, false);
    }

    #[test]
    fn without_a_checkpoint_only_live_namespaces_count() {
        let mut spec = offered(&[("p1", "1.1"), ("p2", "1.2"), ("p3", "1.3")]);
        for (port, mac, address) in [
            ("p1", "fa:16:3e:00:00:01", "10.128.6.11"),
            ("p2", "fa:16:3e:00:00:02", "10.128.6.12"),
            ("p3", "fa:16:3e:00:00:03", "10.128.6.13"),
        ] {
            let entry = spec.ports.get_mut(port).unwrap();
            entry.mac = mac.parse().unwrap();
            entry.addresses[0].address = address.parse().unwrap();
        }
        let interface = |mac: &str| LiveInterface {
            netns: "/run/netns/x".into(),
            netns_id: "4:1".into(),
            ifname: "eth0".into(),
            mac: mac.parse().unwrap(),
        };
        let pod = |name: &str, address: &str| LivePod {
            pod: PodRef::new("team-a", name),
            identity: name.into(),
            addresses: vec![address.parse().unwrap()],
        };
        // p1 is proven; p2 has a namespace without a pod, p3 a pod without a namespace.
        let interfaces = [interface("fa:16:3e:00:00:01"), interface("fa:16:3e:00:00:02")];
        let pods = [pod("a", "10.128.6.11"), pod("c", "10.128.6.13")];
        let joint =
            |host_ifindex, vlan| Joint { host_ifindex, mac: "fa:16:3e:00:00:01".parse().unwrap(), vlan };
        let joints = [joint(8, Some(101)), joint(9, None)];
        let ledger = proven(&spec, &BTreeMap::new(), &interfaces, &pods, &joints, 0);
        assert_eq!(ledger.claims.keys().map(PortId::as_str).collect::<Vec<_>>(), ["p1"]);
        assert_eq!(ledger.claims["p1"].identity, "a".into());
        assert_eq!(ledger.claims["p1"].sandbox.as_ref().unwrap().host_ifindex, Some(9));
        assert_eq!(ledger.returned.keys().map(PortId::as_str).collect::<Vec<_>>(), ["p2", "p3"]);
        assert_eq!(ledger.known.len(), 3);
        // What the agent has seen itself needs no other proof, as long as the record offers the same.
        let served = [("p1", "a", "1.1"), ("p2", "b", "1.2"), ("p3", "c", "1.2"), ("p4", "d", "1.4")];
        let served = served.map(|(port, pod, generation)| (port.into(), claim(pod, generation, Some("c9"))));
        let ledger = proven(&spec, &served.into(), &[], &[], &[], 0);
        assert_eq!(ledger.claims.keys().map(PortId::as_str).collect::<Vec<_>>(), ["p1", "p2"]);
        assert_eq!(ledger.claims["p2"].sandbox.as_ref().unwrap().container_id, "c9");
        assert_eq!(ledger.returned.keys().map(PortId::as_str).collect::<Vec<_>>(), ["p3"]);
        assert_eq!(ledger.known.len(), 3);
    }
}
