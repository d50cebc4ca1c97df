//! From a start of the agent to the point where it may claim.
//!
//! 1. Claims against the kernel: what does not agree is cut. Needs nothing but the node.
//! 2. The checkpoint against what had been told of it: needs the record, the Node, and, where the checkpoint cannot be
//!    believed, the pods.
//! 3. Connections that no claim stands for are cut. Not before 2: they may belong to claims that were lost.
//!
//! The same happens again from 2 when the Node is replaced by another of its name.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use kuryr_api::kuryrnode::KuryrNode;
use kuryr_kubernetes::{Outcome, store::Presence};
use kuryr_planning::claim::{
    Ledger, Own, Sandbox, Trust,
    restart::{Found, Joint, LivePod, Survey, proven, survey},
    trust,
};
use kuryr_types::{MacAddr, PortId};

use crate::{
    error::Result,
    kernel::Datapath,
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
    judge_checkpoint(world, &node_uid, record).await
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
        for (port, index) in &survey.kept {
            changed |= ledger.joined(port, *index);
        }
        changed
    });
    tracing::info!(kept = survey.kept.len(), cut = survey.cut.len(), "compared claims with the kernel");
    world.state.update(|state| state.surveyed = true);
    Ok(())
}

fn recorded_index(claim: &kuryr_planning::claim::Claim) -> Option<u32> {
    claim.sandbox.as_ref()?.host_ifindex
}

/// Steps 2 and 3.
async fn judge_checkpoint(world: &World, node_uid: &str, record: Option<Arc<KuryrNode>>) -> Result<Outcome> {
    let status = record.as_ref().and_then(|record| record.status.clone()).unwrap_or_default();
    let facts = world.checkpoint.look(|facts, _| facts);
    if let Trust::Lost(loss) = trust(facts.as_ref(), &status, node_uid) {
        if !world.pods.store().in_sync() {
            return Ok(Outcome::wait(LOOK_AGAIN, "the pods of this node, to find out what is in use"));
        }
        let ledger = what_is_proven(world, record.as_deref()).await?;
        tracing::warn!(
            claims = ledger.claims.len(),
            returned = ledger.returned.len(),
            "beginning a new checkpoint: {loss}"
        );
        let ticket = world.checkpoint.renew(node_uid, &status.checkpoint.id, ledger);
        world.checkpoint.durable(ticket).await?;
    }
    let strangers = look(world).await?.strangers;
    for index in &strangers {
        let index = *index;
        world.kernel.urgent("cut off a stranger", move |node| node.cut(index)).await?;
    }
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
    world.queue.add(Work::Uplinks);
    world.queue_all_claims();
    world.queue.add_after(Work::Sweep, crate::release::SWEEP_AFTER);
    Ok(Outcome::Done)
}

async fn what_is_proven(world: &World, record: Option<&KuryrNode>) -> Result<Ledger> {
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
    Ok(proven(&record.spec, &interfaces, &pods, &joints, world.config.mtu_cap))
}

fn joints(node: &dyn Datapath) -> kuryr_datapath::Result<Vec<Joint>> {
    let entries = node.entries()?;
    Ok(entries.iter().map(|entry| Joint { host_ifindex: entry.host_ifindex, mac: entry.mac }).collect())
}

/// Compares the ledger with the kernel.
async fn look(world: &World) -> Result<Survey> {
    let ledger = world.checkpoint.look(|_, ledger| ledger.clone());
    let compare = world.kernel.urgent("compare claims with the kernel", move |node| {
        let joints = joints(node)?;
        let mut found = BTreeMap::new();
        for (port, claim) in &ledger.claims {
            if let Some(sandbox) = &claim.sandbox {
                found.insert(PortId::clone(port), find(node, sandbox, claim.links.mac, &joints)?);
            }
        }
        Ok(survey(&ledger, &found, &joints, node.has_entries()))
    });
    compare.await
}

fn find(
    node: &dyn Datapath,
    sandbox: &Sandbox,
    mac: MacAddr,
    joints: &[Joint],
) -> kuryr_datapath::Result<Found> {
    let path = PathBuf::from(&sandbox.netns);
    let same_namespace = node.sandbox(&path)?.as_ref() == Some(&sandbox.netns_id);
    let mut joined = None;
    if same_namespace {
        for joint in joints.iter().filter(|joint| joint.mac == mac) {
            if node.is_joined(&sandbox.host_ifname, joint.host_ifindex, &path)? {
                joined = Some(joint.host_ifindex);
            }
        }
    }
    Ok(Found { same_namespace, joined })
}
