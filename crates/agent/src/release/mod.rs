//! The end of claims.
//!
//! DEL cuts; so does the loss of the namespace, which nobody tells of and which is therefore looked for. A claim that is
//! cut ends when the pod is gone for good, as the watch tells it; then its port is returned, durably.
//!
//! When is [`kuryr_planning::claim::release`]'s to say.

use std::{path::PathBuf, time::Duration};

use kuryr_kubernetes::Outcome;
use kuryr_planning::claim::{Claim, Decision, PodState, decide};
use kuryr_types::PortId;
use tokio::time::Instant;

use crate::{
    error::Result,
    wiring::{Work, World},
};

/// How long after a cut leftovers are looked for: namespaces go within seconds, and with them their links.
pub(crate) const SWEEP_AFTER: Duration = Duration::from_secs(30);

/// How often the namespaces of claims are looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(30);

/// A claim that could end with the next news is looked at this often, in case the news does not come.
const SOON: Duration = Duration::from_secs(5);

/// Bound for the turn of a pod whose namespace is gone.
const TURN_WITHIN: Duration = Duration::from_secs(10);

/// Looks at one claim.
pub(crate) async fn reconcile(world: &World, port: &PortId) -> Result<Outcome> {
    if world.state.get().own.is_none() {
        return Ok(Outcome::wait(SOON, "the checkpoint to be judged"));
    }
    let Some(claim) = world.checkpoint.look(|_, ledger| ledger.claims.get(port).cloned()) else {
        return Ok(Outcome::Done);
    };
    let pod = world.pods.state(&claim.pod);
    let gone = namespace_gone(world, &claim).await?;
    match decide(&claim, gone, &pod) {
        Decision::Keep if is_leaving(&claim, &pod) => {
            Ok(Outcome::wait(SOON, "the sandbox of a pod that leaves to be deleted"))
        }
        Decision::Keep => Ok(Outcome::Done),
        Decision::Cut => {
            cut(world, port, &claim).await?;
            Ok(Outcome::again(Duration::ZERO, "the claim is cut"))
        }
        Decision::Release => release(world, port, &claim).await,
    }
}

/// Looks at all claims now and then, until the agent stops.
pub(crate) async fn watch_namespaces(world: World) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        world.queue_all_claims();
    }
}

async fn namespace_gone(world: &World, claim: &Claim) -> Result<bool> {
    let Some(sandbox) = &claim.sandbox else { return Ok(true) };
    let path = PathBuf::from(&sandbox.netns);
    let now = world.kernel.urgent("look at a sandbox", move |node| node.sandbox(&path)).await?;
    Ok(now.as_ref() != Some(&sandbox.netns_id))
}

fn is_leaving(claim: &Claim, pod: &PodState) -> bool {
    claim.sandbox.is_some()
        && match pod {
            PodState::Unknown => false,
            PodState::Absent => true,
            PodState::Present { identity, ended, terminating } => {
                *identity != claim.identity || *ended || *terminating
            }
        }
}

/// Cuts a claim whose namespace is gone, unless a new sandbox has taken it over meanwhile.
async fn cut(world: &World, port: &PortId, claim: &Claim) -> Result<()> {
    let Some(sandbox) = &claim.sandbox else { return Ok(()) };
    let deadline = Instant::now() + TURN_WITHIN;
    let Some(_turn) = world.sandboxes.turn(&claim.identity, &sandbox.ifname, deadline).await else {
        return Ok(());
    };
    let unchanged = world.checkpoint.look(|_, ledger| ledger.claims.get(port) == Some(claim));
    if !unchanged {
        return Ok(());
    }
    tracing::info!(%port, pod = %claim.pod, netns = sandbox.netns, "the sandbox is gone");
    world.sandboxes.cut(port, &claim.identity).await
}

async fn release(world: &World, port: &PortId, claim: &Claim) -> Result<Outcome> {
    // A sandbox that came meanwhile keeps the claim.
    let ticket = world.checkpoint.change_if(|ledger| {
        let unchanged = ledger.claims.get(port) == Some(claim);
        unchanged && ledger.release(port).is_some()
    });
    let Some(ticket) = ticket else {
        return Ok(Outcome::again(Duration::ZERO, "the claim has changed"));
    };
    world.checkpoint.durable(ticket).await?;
    tracing::info!(%port, pod = %claim.pod, identity = %claim.identity, "released");
    world.queue.add(Work::Uplinks);
    Ok(Outcome::Done)
}
