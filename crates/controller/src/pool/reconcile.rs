//! The story of one node, on one screen.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kuryr_kubernetes::Outcome;
use kuryr_planning::pool::{self, Held, Millis, Plan, garbage, orphans::Carriers};

use super::{Key, apply, observe, servers, status, trunks};
use crate::{error::Result, term::Term, wiring::World};

/// Brings the ports of one node, or of none, closer to what they should be.
///
/// # Errors
///
/// A call failed, or the leadership is over.
pub(crate) async fn reconcile(key: Key, world: Arc<World>, term: Arc<Term>) -> Result<Outcome> {
    term.check()?;
    match key {
        Key::Node(node) => reconcile_node(&node, &world, &term).await,
        Key::Orphans => reconcile_orphans(&world, &term).await,
    }
}

async fn reconcile_node(node: &str, world: &World, term: &Term) -> Result<Outcome> {
    let mut look = observe::node(node, world, term);
    let mut plan = decide(node, &look, world, term);
    if plan.asks {
        look = observe::ask(node, world, term).await?;
        plan = decide(node, &look, world, term);
    }
    term.plugs.expect(node, plan.awaited.clone());
    status::tell_pods(node, &plan.told, world);
    if plan.is_empty() {
        return Ok(wait_until(plan.wake_at, look.now));
    }
    tracing::debug!(node, ?plan, "planned");
    world.figures.plans.inc();
    status::tell(&look, &plan.spec, world);
    let (record, cloud) = tokio::join!(
        apply::record(node, &look, &plan, world, term),
        apply::cloud(node, &plan.cloud, world, term)
    );
    record?;
    match cloud? {
        // Nothing was done, so nothing came of it.
        Some(ask_again) if plan.only_creates() => {
            Ok(wait_until(plan.wake_at.into_iter().chain([ask_again]).min(), look.now))
        }
        _ => Ok(Outcome::again(Duration::ZERO, "look at what came of it")),
    }
}

fn decide(node: &str, look: &observe::Look, world: &World, term: &Term) -> Plan {
    let state = &mut *term.state();
    let memory = state.nodes.entry(node.to_owned()).or_default();
    let plan = pool::plan(&look.inputs(node, world), memory, &mut state.generations);
    // Anybody who may create pods may name a node that there is not.
    if plan.is_empty() && look.is_of_nobody() {
        state.nodes.remove(node);
    }
    if plan.cloud.iter().all(|step| !step.creates()) {
        let next = state.governor.leave(look.now, node);
        next.into_iter().for_each(|node| world.look_at(Key::Node(node)));
    }
    plan
}

async fn reconcile_orphans(world: &World, term: &Term) -> Result<Outcome> {
    let now = world.now();
    let Some(ports) = term.ports.all().filter(|_| world.in_sync()) else { return Ok(Outcome::Done) };
    // A record that cannot be read may name any of them.
    if !world.records.undecodable().is_empty() {
        return Ok(Outcome::Done);
    }
    let records = world.records.list();
    let specs = records.iter().map(|record| (observe::name(record), &record.spec)).collect();
    let nodes = world.nodes.keys();
    let nodes = nodes.iter().map(|node| node.name.as_str()).collect();
    world.figures.found_garbage(&garbage::find(&ports, &specs, &nodes));
    let held = &world.held(&ports, &BTreeSet::new(), &term.balancers);
    let held = Held { addresses: held, told_since: world.told_since() };
    let limits = &world.config.limits;
    let trunks = trunks::of_orphans(&ports, world, term);
    let servers = servers::of_orphans(&ports, world, term);
    let held_up = term.ports.held_up(&ports);
    let carriers = Carriers { trunks: trunks.as_ref(), servers: servers.as_ref(), held_up: Some(&held_up) };
    let (steps, wake_at) = {
        let memory = &mut term.state().orphans;
        pool::orphans::plan(now, &ports, &specs, held, carriers, limits, memory)
    };
    if steps.is_empty() {
        return Ok(wait_until(wake_at, now));
    }
    apply::cloud("", &steps, world, term).await?;
    Ok(Outcome::again(Duration::ZERO, "look at what came of it"))
}

fn wait_until(wake_at: Option<Millis>, now: Millis) -> Outcome {
    match wake_at {
        Some(at) => {
            Outcome::wait(Duration::from_millis(at.saturating_sub(now).max(1)), "the next wait to end")
        }
        None => Outcome::Done,
    }
}
