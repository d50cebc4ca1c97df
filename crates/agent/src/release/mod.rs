//! The end of claims.
//!
//! DEL cuts; so does the loss of the namespace, which nobody tells of and which is therefore looked for. A claim that is
//! cut ends when the pod is gone for good, as the watch tells it, or when its port was deleted, as the record tells it; then
//! its port is returned, durably.
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
    world.sandboxes.clear(port).await?;
    let pod = world.pods.state(&claim.pod).await;
    let gone = namespace_gone(world, &claim).await?;
    let lost = world.state.get().offer().is_some_and(|offer| offer.has_lost(port, claim.generation));
    if lost {
        tell_loss(world, port, &claim, &pod);
    }
    match decide(&claim, gone, lost, &pod) {
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
    // While an ADD has not told which namespace it is, any at the path will do.
    Ok(now.is_none_or(|now| sandbox.netns_id.as_ref().is_some_and(|recorded| now != *recorded)))
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

/// Tells on a pod that somebody deleted its port, as often as its claim is looked at: Events of one kind are one object.
fn tell_loss(world: &World, port: &PortId, claim: &Claim, pod: &PodState) {
    let is_its = matches!(pod, PodState::Present { identity, .. } if *identity == claim.identity);
    let Some(reference) = world.pods.reference(&claim.pod).filter(|_| is_its && claim.sandbox.is_some())
    else {
        return;
    };
    let message = format!(
        "somebody deleted Neutron port {port} of this pod, which has no network since: its next sandbox gets another \
         port and address; delete the pod if nothing else restarts it"
    );
    world.sandboxes.events.warning(&reference, "PortLost", message);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkpoint::tests::in_memory,
        kernel::fake::FakeKernel,
        pods::fake::{pod, pod_json},
        wiring::fake::FakeWorld,
    };
    use kuryr_kubernetes::{slim, store::ObjectKey};
    use kuryr_planning::claim::{Own, Sandbox};

    /// A world in which `web-0` holds port `p0` by sandbox `c1`.
    fn world(pods: Vec<slim::Pod>) -> FakeWorld {
        let world = FakeWorld::new(in_memory(), FakeKernel::with_sandboxes(&["c1"]), pods);
        let links = serde_json::json!({"mac": "fa:16:3e:00:00:01", "mtu": 1442, "addresses": []});
        let claim = Claim {
            generation: "1.1".parse().unwrap(),
            pod: kuryr_types::PodRef::new("team-a", "web-0"),
            identity: "a".into(),
            links: serde_json::from_value(links).unwrap(),
            sandbox: Some(Sandbox {
                container_id: "c1".into(),
                ifname: "eth0".into(),
                netns: "/run/netns/c1".into(),
                netns_id: Some("4:0".into()),
                host_ifname: "krpp0".into(),
                host_ifindex: Some(7),
            }),
        };
        world.world.checkpoint.change(|ledger| (true, ledger.claim(&"p0".into(), claim)));
        let own = Own { node_uid: "node".into(), checkpoint: "point".into() };
        world.world.state.update(|state| state.own = Some(own));
        world
    }

    /// Looks until nothing changes; tells whether the claim is joined, cut or over.
    async fn outcome(world: &FakeWorld) -> &'static str {
        for _ in 0..5 {
            reconcile(&world.world, &"p0".into()).await.unwrap();
        }
        world.world.checkpoint.look(|_, ledger| match ledger.claims.get("p0") {
            Some(claim) if claim.sandbox.is_some() => "joined",
            Some(_) => "cut",
            None => "over",
        })
    }

    #[tokio::test]
    async fn a_claim_lasts_as_long_as_its_pod() {
        let world = world(vec![pod("web-0", "a")]);
        assert_eq!(outcome(&world).await, "joined");
        world.kernel.contents.lock().unwrap().sandboxes.clear();
        assert_eq!(outcome(&world).await, "cut", "as after a reboot");
        assert_eq!(world.kernel.changes(), ["cut 7"]);
        assert_eq!(world.kernel.contents.lock().unwrap().cleared, [7], "before anybody else has its address");
        world.world.pods.store().delete(&ObjectKey::namespaced("team-a", "web-0"));
        assert_eq!(outcome(&world).await, "over");
        let durable = world.world.checkpoint.watch().borrow().ledger.clone();
        assert_eq!(durable.returned["p0"], "1.1".parse().unwrap());
    }

    #[tokio::test]
    async fn a_port_that_somebody_deleted_is_given_back_once_it_is_cut() {
        let world = world(vec![pod("web-0", "a")]);
        let spec = serde_json::json!({"nodeUid": "node", "checkpoint": "point", "ports": {"p0": {
            "generation": "1.1", "class": "c", "network": "n", "mac": "fa:16:3e:00:00:01", "addresses": [], "lost": true,
        }}});
        let spec = serde_json::from_value(spec).unwrap();
        world.world.state.update(|state| state.spec = Some(std::sync::Arc::new(spec)));
        assert_eq!(outcome(&world).await, "joined", "nothing is taken from a sandbox that lives");
        world.kernel.contents.lock().unwrap().sandboxes.clear();
        assert_eq!(outcome(&world).await, "over", "so that its pod gets another");
    }

    #[tokio::test]
    async fn a_sandbox_that_lives_keeps_the_claim_of_a_pod_that_is_gone() {
        assert_eq!(outcome(&world(vec![])).await, "joined");
    }

    #[tokio::test]
    async fn a_path_that_leads_elsewhere_is_another_sandbox() {
        let world = world(vec![pod("web-0", "a")]);
        let elsewhere = ("/run/netns/c1".to_owned(), "4:77".to_owned());
        world.kernel.contents.lock().unwrap().sandboxes.extend([elsewhere]);
        assert_eq!(outcome(&world).await, "cut");
    }

    #[tokio::test]
    async fn a_pod_that_the_watch_has_not_shown_is_asked_for_in_the_end_too() {
        let world = world(vec![]);
        *world.server.pod.lock().unwrap() = Some(pod_json("web-0", "a"));
        let deadline = Instant::now() + TURN_WITHIN;
        world.world.pods.find(&kuryr_types::PodRef::new("team-a", "web-0"), None, deadline).await.unwrap();
        world.kernel.contents.lock().unwrap().sandboxes.clear();
        assert_eq!(outcome(&world).await, "cut", "the watch is behind");
        *world.server.pod.lock().unwrap() = None;
        assert_eq!(outcome(&world).await, "over");
    }

    #[tokio::test]
    async fn nothing_ends_on_hearsay() {
        let world = world(vec![]);
        world.kernel.contents.lock().unwrap().sandboxes.clear();
        world.world.pods.store().missed_changes();
        assert_eq!(outcome(&world).await, "cut", "the watch may have missed the pod");
        world.world.state.update(|state| state.own = None);
        world.world.pods.store().reset(vec![], std::collections::BTreeMap::new());
        assert_eq!(outcome(&world).await, "cut", "the checkpoint has not been judged");
    }
}
