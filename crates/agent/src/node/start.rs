//! From a start of the agent to the point where it may claim.
//!
//! 1. Claims against the kernel: what does not agree is cut. Needs nothing but the node.
//! 2. The checkpoint against what had been told of it: needs the record, the Node, and, where the checkpoint cannot be
//!    believed, the pods.
//! 3. Connections that no claim stands for are cut. Not before 2: they may belong to claims that were lost.
//!
//! The same happens again from 2 when the Node is replaced by another of its name; claims that the kernel agrees with go on
//! then without other proof.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use kuryr_api::kuryrnode::KuryrNode;
use kuryr_datapath::Entry;
use kuryr_kubernetes::{Outcome, store::Presence};
use kuryr_planning::{
    attachment::Links,
    claim::{
        Claim, Ledger, Own, Sandbox, Trust,
        restart::{Found, Joint, LivePod, Survey, proven, survey},
        trust,
    },
    uplink::shared::mtu_cap,
};
use kuryr_types::PortId;

use crate::{
    error::Result,
    kernel::Datapath,
    uplink::shared,
    wiring::{Work, World},
};

/// What is awaited is told by watches; this is for the case that it is not.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Goes on as far as is possible now.
pub(crate) async fn reconcile(world: &World) -> Result<Outcome> {
    if let Some(why) = world.kernel.trouble() {
        tracing::debug!(why, "the kernel cannot be used yet");
        return Ok(Outcome::wait(LOOK_AGAIN, "the kernel to be usable"));
    }
    if !world.state.get().surveyed {
        compare_claims(world).await?;
    }
    let Some(node_uid) = world.watched.node().and_then(|node| node.metadata.uid.clone()) else {
        return Ok(Outcome::wait(LOOK_AGAIN, "the Node object"));
    };
    if world.state.get().own.as_ref().is_some_and(|own| own.node_uid == node_uid) {
        return Ok(Outcome::Done);
    }
    let record = match world.watched.record() {
        Presence::Present(record) => Some(record),
        Presence::Absent => None,
        Presence::Unknown => return Ok(Outcome::wait(LOOK_AGAIN, "the KuryrNode of this node")),
    };
    world.state.update(|state| state.own = None);
    // Not from before a reboot, of another disk or another machine: this process has made them, or has judged them before.
    let has_judged = world.memory().has_judged;
    let served = if has_judged { served_claims(world).await? } else { BTreeMap::new() };
    judge_checkpoint(world, &node_uid, record, served).await
}

/// Step 1.
async fn compare_claims(world: &World) -> Result<()> {
    let survey = look(world).await?;
    for port in &survey.cut {
        let stale = world.checkpoint.look(|_, ledger| ledger.claims.get(port).and_then(recorded_index));
        if let Some(index) = stale {
            world.kernel.urgent("cut off a sandbox that is gone", move |node| node.cut(index)).await?;
        }
    }
    world.checkpoint.change_if(|ledger| {
        let mut changed = false;
        for port in &survey.cut {
            changed |= ledger.cut(port);
        }
        for (port, (index, namespace)) in &survey.kept {
            changed |= ledger.joined(port, *index, namespace);
        }
        changed
    });
    tracing::info!(kept = survey.kept.len(), cut = survey.cut.len(), "compared claims with the kernel");
    world.state.update(|state| state.surveyed = true);
    Ok(())
}

fn recorded_index(claim: &Claim) -> Option<u32> {
    claim.sandbox.as_ref()?.host_ifindex
}

/// Steps 2 and 3.
async fn judge_checkpoint(
    world: &World,
    node_uid: &str,
    record: Option<Arc<KuryrNode>>,
    served: BTreeMap<PortId, Claim>,
) -> Result<Outcome> {
    let status = record.as_ref().and_then(|record| record.status.clone()).unwrap_or_default();
    let facts = world.checkpoint.look(|facts, _| facts);
    if let Trust::Lost(loss) = trust(facts.as_ref(), &status, node_uid) {
        if !world.pods.store().in_sync() {
            return Ok(Outcome::wait(LOOK_AGAIN, "the pods of this node, to find out what is in use"));
        }
        let ledger = what_is_proven(world, record.as_deref(), &served).await?;
        tracing::warn!(
            claims = ledger.claims.len(),
            returned = ledger.returned.len(),
            "beginning a new checkpoint: {loss}"
        );
        let ticket = world.checkpoint.renew(node_uid, &status.checkpoint.id, ledger);
        world.checkpoint.durable(ticket).await?;
    }
    world.checkpoint.judged();
    let strangers = look(world).await?.strangers;
    for index in &strangers {
        let index = *index;
        world.kernel.urgent("cut off a stranger", move |node| node.cut(index)).await?;
    }
    // Nothing is attached before the checkpoint counts.
    world.kernel.urgent("take the routes to pods that were cut off", |node| node.clear_all()).await?;
    let Some(facts) = world.checkpoint.look(|facts, _| facts) else {
        return Ok(Outcome::again(LOOK_AGAIN, "a record of our own"));
    };
    let own = Own { node_uid: node_uid.to_owned(), checkpoint: facts.id };
    tracing::info!(
        node_uid,
        checkpoint = own.checkpoint,
        sequence = facts.sequence,
        strangers = strangers.len(),
        "the checkpoint counts"
    );
    world.state.update(|state| state.own = Some(own));
    world.memory().has_judged = true;
    world.queue.add(Work::Uplinks);
    world.queue_all_claims();
    world.queue.add_after(Work::Sweep, crate::release::SWEEP_AFTER);
    Ok(Outcome::Done)
}

/// Claims that the kernel agrees with.
async fn served_claims(world: &World) -> Result<BTreeMap<PortId, Claim>> {
    let kept = look(world).await?.kept;
    let claims = world.checkpoint.look(|_, ledger| ledger.claims.clone());
    Ok(claims.into_iter().filter(|(port, _)| kept.contains_key(port)).collect())
}

async fn what_is_proven(
    world: &World,
    record: Option<&KuryrNode>,
    served: &BTreeMap<PortId, Claim>,
) -> Result<Ledger> {
    let Some(record) = record else { return Ok(Ledger::default()) };
    let netns_dir = world.config.netns_dir.clone();
    let look = world
        .kernel
        .patient("look into the sandboxes", move |node| Ok((node.interfaces(&netns_dir)?, joints(node)?)));
    let (interfaces, joints) = look.await?;
    let pods: Vec<LivePod> = world
        .pods
        .store()
        .list()
        .iter()
        .filter(|pod| !pod.has_ended() && !pod.spec.host_network)
        .map(|pod| LivePod {
            pod: pod.pod_ref(),
            identity: pod.identity(),
            addresses: pod.status.pod_ips.clone(),
        })
        .collect();
    // As the pods got it, by the record that is to be judged.
    shared::find_interface(world).await?;
    let interface = world.state.get().interface.as_ref().map(|found| found.mtu);
    let mtu_cap = mtu_cap(Some(record.spec.mode), interface, world.config.mtu_cap);
    Ok(proven(&record.spec, served, &interfaces, &pods, &joints, mtu_cap))
}

fn joints(node: &dyn Datapath) -> kuryr_datapath::Result<Vec<Joint>> {
    let entries = node.entries()?;
    let joint = |entry: &Entry| Joint { host_ifindex: entry.host_ifindex, mac: entry.mac, vlan: entry.vlan };
    Ok(entries.iter().map(joint).collect())
}

/// Compares the ledger with the kernel.
async fn look(world: &World) -> Result<Survey> {
    let ledger = world.checkpoint.look(|_, ledger| ledger.clone());
    let compare = world.kernel.urgent("compare claims with the kernel", move |node| {
        let joints = joints(node)?;
        let mut found = BTreeMap::new();
        for (port, claim) in &ledger.claims {
            if let Some(sandbox) = &claim.sandbox {
                found.insert(PortId::clone(port), find(node, sandbox, &claim.links, &joints)?);
            }
        }
        Ok(survey(&ledger, &found, &joints, node.has_entries()))
    });
    compare.await
}

fn find(
    node: &dyn Datapath,
    sandbox: &Sandbox,
    links: &Links,
    joints: &[Joint],
) -> kuryr_datapath::Result<Found> {
    let path = PathBuf::from(&sandbox.netns);
    let now = node.sandbox(&path)?;
    let namespace = match (&now, &sandbox.netns_id) {
        (None, _) => None,
        (Some(now), Some(recorded)) => (now == recorded).then(|| now.clone()),
        (Some(now), None) => {
            let found = node.observe(&path, &sandbox.ifname)?;
            found.filter(|found| found.mac == links.mac).map(|_| now.clone())
        }
    };
    let mut joined = None;
    if namespace.is_some() {
        for joint in joints.iter().filter(|joint| joint.is_of(links)) {
            if node.is_joined(&sandbox.host_ifname, joint.host_ifindex, &path)? {
                joined = Some(joint.host_ifindex);
            }
        }
    }
    Ok(Found { namespace, joined })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkpoint::{
            Checkpoint,
            tests::{in_memory, reopened},
        },
        kernel::fake::FakeKernel,
        pods::fake::pod_json,
        wiring::fake::FakeWorld,
    };
    use kuryr_api::kuryrnode::{KuryrNodeSpec, KuryrNodeStatus};
    use kuryr_datapath::{PodLinks, Route};
    use serde_json::json;

    const MAC: &str = "fa:16:3e:00:00:00";

    /// A kernel in which sandbox `c1` is connected by port `p0`, at index 1.
    fn kernel() -> FakeKernel {
        let kernel = FakeKernel::with_sandboxes(&["c1"]);
        let none: Vec<Route> = Vec::new();
        let pod = PodLinks {
            netns: "/run/netns/c1".into(),
            ifname: "eth0".into(),
            host_ifname: "krpp0".into(),
            mac: MAC.parse().unwrap(),
            mtu: 1442,
            addresses: vec!["10.0.0.10/24".parse().unwrap()],
            routes: none,
            uplink: 5,
            vlan: None,
            node_addresses: vec![],
        };
        kernel.attach(&pod).unwrap();
        kernel
    }

    fn spec() -> KuryrNodeSpec {
        let port = |number: u8| {
            json!({
                "generation": format!("1.{number}"), "class": "c", "network": "n",
                "mac": format!("fa:16:3e:00:00:{number:02x}"),
                "addresses": [{"subnet": "s", "address": format!("10.0.0.{}", 10 + number)}],
            })
        };
        serde_json::from_value(json!({
            "nodeUid": "node", "ports": {"p0": port(0), "p1": port(1)},
            "networks": {"n": {"name": "pods", "mtu": 1442}}, "subnets": {"s": {"cidr": "10.0.0.0/24"}},
        }))
        .unwrap()
    }

    /// The record with a status that tells of this checkpoint.
    fn record(id: &str, sequence: u64) -> KuryrNode {
        let mut record = KuryrNode::new("node1", spec());
        let status = json!({"nodeUid": "node", "checkpoint": {"id": id, "sequence": sequence}});
        record.status = Some(serde_json::from_value::<KuryrNodeStatus>(status).unwrap());
        record
    }

    /// A checkpoint that knows of the connection, by this namespace.
    fn with_claim(netns_id: &str) -> Checkpoint {
        with_claim_of("/run/netns/c1", Some(netns_id), Some(1))
    }

    /// The same as it is on disk before an ADD has told what it made.
    fn with_claim_of(netns: &str, netns_id: Option<&str>, host_ifindex: Option<u32>) -> Checkpoint {
        let checkpoint = in_memory();
        let links = json!({"mac": MAC, "mtu": 1442, "addresses": [{"address": "10.0.0.10/24"}]});
        let claim = Claim {
            generation: "1.0".parse().unwrap(),
            pod: kuryr_types::PodRef::new("team-a", "web-0"),
            identity: "a".into(),
            links: serde_json::from_value(links).unwrap(),
            sandbox: Some(Sandbox {
                container_id: "c1".into(),
                ifname: "eth0".into(),
                netns: netns.into(),
                netns_id: netns_id.map(str::to_owned),
                host_ifname: "krpp0".into(),
                host_ifindex,
            }),
        };
        checkpoint.change(|ledger| (true, ledger.claim(&"p0".into(), claim)));
        checkpoint
    }

    fn world(checkpoint: Checkpoint) -> FakeWorld {
        let mut pod = pod_json("web-0", "a");
        pod["status"]["podIPs"] = json!([{"ip": "10.0.0.10"}]);
        FakeWorld::new(checkpoint, kernel(), vec![serde_json::from_value(pod).unwrap()])
    }

    fn id_of(world: &FakeWorld) -> String {
        world.world.checkpoint.look(|facts, _| facts.unwrap().id)
    }

    fn ledger(world: &FakeWorld) -> Ledger {
        world.world.checkpoint.look(|_, ledger| ledger.clone())
    }

    /// Starts, and tells what is connected afterwards.
    async fn start(world: &FakeWorld) -> Vec<u32> {
        reconcile(&world.world).await.unwrap();
        world.kernel.contents.lock().unwrap().joined.keys().copied().collect()
    }

    #[tokio::test]
    async fn a_claim_that_agrees_with_the_kernel_goes_on() {
        let world = world(with_claim("4:0"));
        let id = id_of(&world);
        assert_eq!(start(&world).await, [1]);
        assert_eq!(world.world.state.get().own.as_ref().unwrap().checkpoint, id);
        assert!(ledger(&world).claims["p0"].sandbox.is_some());
    }

    #[tokio::test]
    async fn a_claim_whose_connection_was_not_recorded_any_more_is_proven_by_the_kernel() {
        let answered = world(with_claim_of("/run/netns/c1", None, None));
        assert_eq!(start(&answered).await, [1]);
        let sandbox = ledger(&answered).claims["p0"].sandbox.clone().unwrap();
        assert_eq!((sandbox.netns_id.as_deref(), sandbox.host_ifindex), (Some("4:0"), Some(1)));
        let broken_off = world(with_claim_of("/run/netns/c2", None, None));
        broken_off.kernel.contents.lock().unwrap().sandboxes.insert("/run/netns/c2".into(), "4:9".into());
        assert_eq!(start(&broken_off).await, Vec::<u32>::new());
        assert!(ledger(&broken_off).claims["p0"].sandbox.is_none());
    }

    #[tokio::test]
    async fn a_claim_of_another_namespace_is_cut() {
        let world = world(with_claim("4:before-the-reboot"));
        assert_eq!(start(&world).await, Vec::<u32>::new());
        let ledger = ledger(&world);
        assert!(ledger.claims["p0"].sandbox.is_none(), "but kept for its pod");
    }

    #[tokio::test]
    async fn connections_that_no_claim_stands_for_are_cut_once_the_checkpoint_counts() {
        let world = world(in_memory());
        world.records.missed_changes();
        assert_eq!(start(&world).await, [1], "the claim may have been lost");
        world.records.reset(vec![], BTreeMap::new());
        assert_eq!(start(&world).await, Vec::<u32>::new());
    }

    #[tokio::test]
    async fn without_a_believable_checkpoint_live_namespaces_count() {
        // Told of a greater sequence; told of another id.
        for told in [None, Some("another")] {
            let world = world(in_memory());
            let id = id_of(&world);
            world.records.reset(vec![record(told.unwrap_or(&id), 99)], BTreeMap::new());
            assert_eq!(start(&world).await, [1]);
            let ledger = ledger(&world);
            assert_eq!(ledger.claims["p0"].identity, "a".into());
            assert_eq!(ledger.returned.keys().map(PortId::as_str).collect::<Vec<_>>(), ["p1"]);
            assert_ne!(id_of(&world), id);
            assert_eq!(world.world.state.get().own.as_ref().unwrap().checkpoint, id_of(&world));
        }
    }

    #[tokio::test]
    async fn what_starts_change_makes_a_restored_checkpoint_no_newer() {
        let restored = with_claim("4:before-the-reboot");
        let facts = restored.look(|facts, _| facts).unwrap();
        // It cuts the claim, which is a change, and ends before it has judged.
        let broken_off = world(reopened(&restored));
        broken_off.nodes.reset(vec![], BTreeMap::new());
        start(&broken_off).await;
        for checkpoint in [reopened(&restored), reopened(&broken_off.world.checkpoint)] {
            let world = world(checkpoint);
            world.records.reset(vec![record(&facts.id, facts.sequence + 1)], BTreeMap::new());
            start(&world).await;
            assert_ne!(id_of(&world), facts.id);
        }
        // The same on a disk that was not restored.
        let world = world(reopened(&broken_off.world.checkpoint));
        world.records.reset(vec![record(&facts.id, facts.sequence)], BTreeMap::new());
        start(&world).await;
        assert_eq!(id_of(&world), facts.id);
    }

    #[tokio::test]
    async fn another_node_of_the_same_name_begins_anew() {
        let world = world(with_claim("4:0"));
        world.records.reset(vec![record("", 0)], BTreeMap::new());
        start(&world).await;
        let id = id_of(&world);
        world.node("another");
        assert_eq!(start(&world).await, [1]);
        assert_ne!(id_of(&world), id);
        assert_eq!(world.world.state.get().own.as_ref().unwrap().node_uid, "another");
    }

    #[tokio::test]
    async fn under_another_name_a_machine_begins_anew_and_its_former_pods_are_cut() {
        let world = world(with_claim("4:0"));
        let id = id_of(&world);
        // The Node of this name is another, and its record, if there is one yet, knows no port.
        world.node("of-another-name");
        let record = KuryrNode::new("node1", KuryrNodeSpec::default());
        for records in [vec![], vec![record]] {
            world.records.reset(records, BTreeMap::new());
            assert_eq!(start(&world).await, Vec::<u32>::new());
        }
        assert_eq!(ledger(&world), Ledger::default());
        assert_ne!(id_of(&world), id);
        assert_eq!(world.world.state.get().own.as_ref().unwrap().node_uid, "of-another-name");
    }

    #[tokio::test]
    async fn another_node_leaves_pods_connected_that_the_agent_has_connected_itself() {
        let world = world(with_claim("4:0"));
        world.records.reset(vec![record("", 0)], BTreeMap::new());
        assert_eq!(start(&world).await, [1]);
        // Pods are not known again at once, and then the address is not in its pod's status yet, as far as the watch tells.
        world.world.pods.store().missed_changes();
        world.node("another");
        assert_eq!(start(&world).await, [1]);
        world.world.pods.store().reset(vec![], BTreeMap::new());
        assert_eq!(start(&world).await, [1]);
        assert_eq!(ledger(&world).claims["p0"].identity, "a".into());
        assert_eq!(ledger(&world).returned.keys().map(PortId::as_str).collect::<Vec<_>>(), ["p1"]);
    }

    #[tokio::test]
    async fn nothing_is_judged_without_the_node() {
        let world = world(with_claim("4:0"));
        world.nodes.reset(vec![], BTreeMap::new());
        start(&world).await;
        let state = world.world.state.get();
        assert!(state.surveyed && state.own.is_none());
    }
}
