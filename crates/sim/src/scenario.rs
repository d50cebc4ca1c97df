//! What happens in a run.
//!
//! [`coming`], [`restarts`], [`thefts`], [`losses`], [`scarce`] and [`upgrades`] are short and the same each time, for faults at every call.
//! [`random`] draws everything from its seed. All end in quiet: faults stop, and the world has to become as it should be, with its pods and, in the end, without any.

use std::{sync::Arc, time::Duration};

use kuryr_api::kuryrnode::{KuryrNode, KuryrNodeStatus};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    chance::Chance,
    cloud::addresses,
    faults::{Made, Plan},
    kubelet::Wish,
    machine::Reach,
    rules::mac_of,
    settled::differences,
    world::{Setup, World},
};

/// After the last fault all pods run within this time: a list that is not answered is given up after a minute, the next try
/// waits for up to 15 seconds, and then there are as many for what is left to do.
const PODS_RUN_WITHIN: Duration = Duration::from_secs(90);
/// After the last fault and the last pod everything is as it should be within this time: a minute, and the time that
/// addresses rest.
const SETTLED_WITHIN: Duration = Duration::from_secs(150);
/// So long nothing is changed any more once it is.
const QUIET: Duration = Duration::from_secs(40);

/// Between looks at whether it is so.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Rules that were broken, and what was not as it should be in the end.
    pub broken: Vec<String>,
    /// All calls.
    pub made: Vec<Made>,
    /// What happened, for people.
    pub story: String,
    /// How long it took until everything was as it should be, after the last fault.
    pub settled_after: Duration,
    /// How long it took until all pods ran.
    pub pods_run_after: Duration,
}

/// A node, three pods that come, one that goes and one that comes after it, with this plan of faults.
pub async fn coming(plan: Plan) -> Outcome {
    let world = one_node(plan, 1, true);
    sleep(Duration::from_secs(8)).await;
    ["web-0", "web-1", "web-2"].into_iter().for_each(|name| world.make_pod(name, "n1"));
    sleep(Duration::from_secs(6)).await;
    world.tell_pod("web-0", Wish::Delete);
    sleep(Duration::from_secs(8)).await;
    world.make_pod("web-0", "n1");
    sleep(Duration::from_secs(20)).await;
    finish(&world).await
}

/// A node that restarts with pods on it, a leader that ends, and a Node that is deleted for good and comes again, with this
/// plan of faults.
pub async fn restarts(plan: Plan) -> Outcome {
    let world = one_node(plan, 2, false);
    sleep(Duration::from_secs(8)).await;
    ["web-0", "web-1"].into_iter().for_each(|name| world.make_pod(name, "n1"));
    sleep(Duration::from_secs(4)).await;
    reboot(&world, "n1");
    sleep(Duration::from_secs(10)).await;
    world.kill("controller-1");
    sleep(Duration::from_secs(2)).await;
    world.make_pod("web-2", "n1");
    world.tell_pod("web-0", Wish::End);
    sleep(Duration::from_secs(20)).await;
    delete_node(&world, "n1");
    // For longer than the grace period.
    sleep(Duration::from_secs(20)).await;
    world.make_node(0, 2);
    sleep(Duration::from_secs(5)).await;
    ["web-1", "web-3"].into_iter().for_each(|name| world.make_pod(name, "n1"));
    sleep(Duration::from_secs(10)).await;
    finish(&world).await
}

/// Ports of pods that somebody deletes in Neutron, before the node restarts and while its pod runs on, with this plan of
/// faults.
pub async fn thefts(plan: Plan) -> Outcome {
    let world = one_node(plan, 1, false);
    sleep(Duration::from_secs(8)).await;
    ["web-0", "web-1"].into_iter().for_each(|name| world.make_pod(name, "n1"));
    sleep(Duration::from_secs(4)).await;
    steal_of(&world, "web-0");
    sleep(Duration::from_secs(6)).await;
    reboot(&world, "n1");
    sleep(Duration::from_secs(20)).await;
    steal_of(&world, "web-1");
    world.make_pod("web-2", "n1");
    sleep(Duration::from_secs(20)).await;
    finish(&world).await
}

/// Checkpoints that are lost: the disk of a node is as it was before, while its pods run on, and then it is a new one, with this
/// plan of faults.
pub async fn losses(plan: Plan) -> Outcome {
    let world = one_node(plan, 1, false);
    sleep(Duration::from_secs(8)).await;
    ["web-0", "web-1"].into_iter().for_each(|name| world.make_pod(name, "n1"));
    sleep(Duration::from_secs(17)).await;
    lose_checkpoint(&world, "n1", Disk::Restored);
    sleep(Duration::from_secs(5)).await;
    world.tell_pod("web-0", Wish::Delete);
    world.make_pod("web-2", "n1");
    sleep(Duration::from_secs(17)).await;
    lose_checkpoint(&world, "n1", Disk::New);
    sleep(Duration::from_secs(6)).await;
    reboot(&world, "n1");
    lose_checkpoint(&world, "n1", Disk::New);
    sleep(Duration::from_secs(10)).await;
    finish(&world).await
}

/// More pods than there are addresses: as some go or end others come, with this plan of faults.
pub async fn scarce(plan: Plan) -> Outcome {
    let world = one_node(plan, 1, false);
    // The node's own and those of three pods; between them are others'.
    world.state().cloud.free = 10..=16;
    sleep(Duration::from_secs(8)).await;
    ["web-0", "web-1", "web-2", "web-3", "web-4"].into_iter().for_each(|name| world.make_pod(name, "n1"));
    sleep(Duration::from_secs(8)).await;
    world.running().iter().take(2).for_each(|name| world.tell_pod(name, Wish::Delete));
    sleep(Duration::from_secs(25)).await;
    world.tell_pod("web-2", Wish::End);
    sleep(Duration::from_secs(25)).await;
    finish(&world).await
}

/// Everything is upgraded while pods come and go: the agent, both controllers one after the other, and the switch, just after the clock of
/// the node was set back. There are too few ports for a while. With this plan of faults.
pub async fn upgrades(plan: Plan) -> Outcome {
    let world = one_node(plan, 2, true);
    sleep(Duration::from_secs(8)).await;
    ["web-0", "web-1"].into_iter().for_each(|name| world.make_pod(name, "n1"));
    sleep(Duration::from_secs(4)).await;
    world.restart("agent-n1");
    world.make_pod("web-2", "n1");
    world.tell_pod("web-0", Wish::Delete);
    sleep(Duration::from_secs(6)).await;
    world.state().cloud.limit_ports(0);
    ["web-3", "web-4", "web-5"].into_iter().for_each(|name| world.make_pod(name, "n1"));
    world.restart("controller-1");
    sleep(Duration::from_secs(3)).await;
    world.tell_pod("web-1", Wish::End);
    sleep(Duration::from_secs(5)).await;
    world.state().cloud.lift_limits();
    world.restart("controller-2");
    sleep(Duration::from_secs(8)).await;
    restart_switch_behind_its_clock(&world).await;
    world.tell_pod("web-1", Wish::Delete);
    sleep(Duration::from_millis(500)).await;
    world.restart("agent-n1");
    sleep(Duration::from_secs(20)).await;
    finish(&world).await
}

/// A world of one node, with its programs.
fn one_node(plan: Plan, controllers: usize, is_harsh: bool) -> Arc<World> {
    let pool = "ports_pool_min = 2\nports_pool_batch = 2\nports_pool_max = 4\n".to_owned();
    let world = World::new(Setup {
        seed: 1,
        plan,
        nodes: vec!["n1".to_owned()],
        controllers,
        pool,
        services: false,
        is_harsh,
    });
    (1..=controllers).for_each(|number| world.start_controller(number));
    world.start_agent("n1");
    world
}

/// A run that is drawn from `seed`; if it is not harsh, without what came later to the simulation.
pub async fn random(seed: u64, is_harsh: bool) -> Outcome {
    let (mut chance, mut later) = (Chance::of(seed), Chance::of(seed ^ 0x6a12));
    let nodes = (1..=1 + chance.below(3)).map(|number| format!("n{number}")).collect();
    let pools = [
        "ports_pool_min = 2\nports_pool_batch = 2\n",
        "ports_pool_min = 1\nports_pool_batch = 3\nports_pool_max = 3\n",
        "",
    ];
    let setup = Setup {
        seed,
        plan: Plan::Never,
        nodes,
        controllers: 1 + usize::from(chance.one_in(2)),
        pool: (*chance.pick(&pools).unwrap_or(&"")).to_owned(),
        services: false,
        is_harsh,
    };
    let world = World::new(setup.clone());
    if chance.one_in(3) {
        world.state().wiring_most = 15_000;
    }
    if is_harsh && later.one_in(3) {
        limit(&world, &setup, &mut later);
    }
    (1..=setup.controllers).for_each(|number| world.start_controller(number));
    setup.nodes.iter().for_each(|node| world.start_agent(node));
    let quiet_start = chance.below(12);
    sleep(Duration::from_secs(quiet_start)).await;
    let rare = 15 + chance.below(60);
    world.faults.plan(Plan::OneIn(rare));
    for _ in 0..20 + chance.below(40) {
        happen(&world, &setup, &mut chance);
        let pause = chance.millis(10, 4000);
        sleep(pause).await;
        if is_harsh && later.one_in(8) {
            let node = later.pick(&setup.nodes).cloned().unwrap_or_default();
            happen_later(&world, &setup, &node, &mut later);
        }
    }
    if is_harsh && later.one_in(16) {
        long_outage(&world).await;
    }
    // One beside which none becomes ready any more is replaced later than a run waits: it may be the node that fails.
    world.state().cloud.stuck.clear();
    finish(&world).await
}

/// One thing that happens.
fn happen(world: &Arc<World>, setup: &Setup, chance: &mut Chance) {
    let number = usize::try_from(chance.below(setup.nodes.len() as u64)).unwrap_or_default();
    let node = setup.nodes[number].clone();
    match chance.below(24) {
        0..=8 => {
            let name = format!("web-{}", chance.below(10));
            world.make_pod(&name, &node);
        }
        9..=14 => {
            let wish =
                *chance.pick(&[Wish::Delete, Wish::Delete, Wish::End, Wish::Vanish]).unwrap_or(&Wish::Delete);
            if let Some(name) = chance.pick(&world.running()) {
                world.tell_pod(name, wish);
            }
        }
        15 => world.kill(&format!("agent-{node}")),
        16 => world.kill(&format!("controller-{}", 1 + chance.below(setup.controllers as u64))),
        17 => {
            world.note("all watches end");
            world.api.cut();
        }
        18 => forget_history(world),
        19 => reboot(world, &node),
        20 => api_server_down(world, chance),
        21 => cloud_down(world, chance),
        22 => recreate(world, number, chance),
        _ => steal(world, chance),
    }
}

/// One thing that came later to the simulation.
fn happen_later(world: &Arc<World>, setup: &Setup, node: &str, chance: &mut Chance) {
    match chance.below(8) {
        0 => lose_checkpoint(world, node, Disk::New),
        1 => {
            reboot(world, node);
            lose_checkpoint(world, node, Disk::New);
        }
        2 => lose_checkpoint(world, node, Disk::Restored),
        3 => {
            reboot(world, node);
            lose_checkpoint(world, node, Disk::Restored);
        }
        4 => jump(world, setup, chance),
        5 => Reach::restart_switch(world, node),
        6 => upgrade(world, setup, node, chance),
        _ => disk_full(world, node, chance),
    }
}

/// A program is told to end, and starts again.
pub(crate) fn upgrade(world: &Arc<World>, setup: &Setup, node: &str, chance: &mut Chance) {
    if chance.one_in(2) {
        world.restart(&format!("agent-{node}"));
    } else {
        world.restart(&format!("controller-{}", 1 + chance.below(setup.controllers as u64)));
    }
}

/// The clock of some machine jumps by some hours.
pub(crate) fn jump(world: &World, setup: &Setup, chance: &mut Chance) {
    let controllers = (1..=setup.controllers).map(|number| format!("controller-{number}"));
    let machines: Vec<String> = setup.nodes.iter().cloned().chain(controllers).collect();
    let machine = chance.pick(&machines).cloned().unwrap_or_default();
    let hours = [-7, -5, -1, 1, 5, 7];
    world.jump(&machine, *chance.pick(&hours).unwrap_or(&1));
}

/// How a checkpoint is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disk {
    /// The disk is a new one.
    New,
    /// The disk is as it was before.
    Restored,
}

/// The agent ends, its checkpoint is another, and it starts anew. A loss that nothing on the node or of what was told could give
/// away does not happen: pods that were connected just before it, and backups that are not older than what was told.
fn lose_checkpoint(world: &World, node: &str, disk: Disk) {
    let told = status_of(world, node);
    let is_lost = {
        let mut state = world.state();
        let machine = state.machines.get_mut(node).unwrap();
        match (disk, told) {
            (_, None) => false,
            (Disk::New, Some(_)) if machine.is_proven() => {
                machine.reimage();
                true
            }
            (Disk::Restored, Some(told)) if machine.is_proven() => machine.restore(&told.checkpoint),
            _ => false,
        }
    };
    if is_lost {
        world.note(format!("the disk of {node}: {disk:?}"));
        world.kill(&format!("agent-{node}"));
    }
}

/// What the agent of a node has told of the Node as it is now.
fn status_of(world: &World, node: &str) -> Option<KuryrNodeStatus> {
    let record: KuryrNode = serde_json::from_value(world.records().remove(node)?).unwrap();
    record.status.filter(|status| world.node_uid(node).is_some_and(|uid| uid == status.node_uid))
}

/// Nothing can be written on a node for a while.
fn disk_full(world: &World, node: &str, chance: &mut Chance) {
    let full = chance.millis(500, 20_000);
    world.note(format!("the disk of {node} is full for {full:?}"));
    world.state().machines.get_mut(node).unwrap().disk_full_until = Instant::now() + full;
}

/// There are few addresses, or few ports.
fn limit(world: &World, setup: &Setup, chance: &mut Chance) {
    let few = u8::try_from(setup.nodes.len() as u64 + chance.below(6)).unwrap_or_default();
    let cloud = &mut world.state().cloud;
    if chance.one_in(2) {
        // Three are others'.
        cloud.free = *cloud.free.start()..=*cloud.free.start() + 3 + few;
    } else {
        cloud.limit_ports(few.into());
    }
}

/// The cloud answers nobody for longer than a token lives.
async fn long_outage(world: &World) {
    world.note("the cloud is down for two hours");
    let until = Instant::now() + Duration::from_secs(7200);
    world.state().cloud_down_until = until;
    sleep_until(until).await;
}

/// Watches end, and cannot go on where they were.
pub(crate) fn forget_history(world: &World) {
    world.note("all watches end, and history is forgotten");
    world.api.compact();
    world.api.cut();
}

/// The API server answers nobody for a while.
pub(crate) fn api_server_down(world: &World, chance: &mut Chance) {
    let until = Instant::now() + chance.millis(500, 25_000);
    world.note(format!("the API server is down for {:?}", until - Instant::now()));
    world.state().api_down_until = until;
    world.api.cut();
}

/// The cloud answers nobody for a while.
pub(crate) fn cloud_down(world: &World, chance: &mut Chance) {
    let until = Instant::now() + chance.millis(500, 40_000);
    world.note(format!("the cloud is down for {:?}", until - Instant::now()));
    world.state().cloud_down_until = until;
}

/// The machine restarts, and its agent with it.
pub(crate) fn reboot(world: &Arc<World>, node: &str) {
    world.note(format!("{node} reboots"));
    world.kill(&format!("agent-{node}"));
    let now = world.now_ns(node);
    let mut state = world.state();
    state.machines.get_mut(node).unwrap().reboot(now);
    let pods = state.pods.values().filter(|pod| pod.node == node);
    pods.for_each(|pod| pod.boots.send_modify(|boots| *boots += 1));
}

/// The Node is deleted, its pods with it, and it comes again as another.
fn recreate(world: &Arc<World>, number: usize, chance: &mut Chance) {
    let node = world.setup.nodes[number].clone();
    let away = chance.millis(200, 40_000);
    world.note(format!("the Node {node} comes again after {away:?}"));
    delete_node(world, &node);
    let of = Arc::clone(world);
    let life = 2 + chance.below(1_000_000);
    world.spawn(async move {
        sleep(away).await;
        // Somebody may have been faster.
        if of.node_uid(&node).is_none() {
            of.note(format!("the Node {node} is made again"));
            of.make_node(number, life);
        }
    });
}

/// The Node is deleted, and its pods by the collector of garbage.
fn delete_node(world: &World, node: &str) {
    world.note(format!("the Node {node} is deleted"));
    let pods: Vec<String> = {
        let state = world.state();
        let there = state.pods.iter().filter(|(_, pod)| pod.node == node);
        there.map(|(name, _)| name.clone()).collect()
    };
    pods.iter().for_each(|name| world.tell_pod(name, Wish::Vanish));
    world.remove(&format!("/api/v1/nodes/{node}"));
}

/// Somebody deletes a port of ours, now and then one that a pod has.
fn steal(world: &Arc<World>, chance: &mut Chance) {
    let of_pods = chance.one_in(4);
    let candidates: Vec<String> = {
        let state = world.state();
        let joints = state.machines.values().flat_map(|machine| machine.joints.values());
        let used: Vec<_> = joints.map(|joint| joint.mac).collect();
        let is_used = |port| mac_of(port).is_some_and(|mac| used.contains(&mac));
        let ours = state.cloud.ours().filter(|(_, port)| is_used(port) == of_pods);
        ours.map(|(id, _)| id.clone()).collect()
    };
    if let Some(id) = chance.pick(&candidates) {
        take(world, id);
    }
}

/// Somebody deletes the port of a pod, if it has one.
fn steal_of(world: &Arc<World>, pod: &str) {
    let found = {
        let state = world.state();
        let address = state.pods.get(pod).and_then(|pod| pod.address);
        let has_it = |port| address.is_some_and(|address| addresses(port).contains(&address));
        state.cloud.ours().find(|(_, port)| has_it(port)).map(|(id, _)| id.clone())
    };
    if let Some(id) = found {
        take(world, &id);
    }
}

fn take(world: &World, id: &str) {
    world.note(format!("somebody deletes port {id}"));
    let state = &mut *world.state();
    if let Some(port) = state.cloud.ports.remove(id) {
        state.rules.steal(id, &port);
    }
}

/// Faults stop. What came of it.
pub(crate) async fn finish(world: &Arc<World>) -> Outcome {
    world.faults.stop();
    world.note("faults stop");
    {
        let state = &mut *world.state();
        (state.api_down_until, state.cloud_down_until) = (Instant::now(), Instant::now());
        (state.wiring_most, state.is_quiet) = (300, true);
        state.octavia.calm_down();
        state.cloud.lift_limits();
        state.machines.values_mut().for_each(|machine| machine.disk_full_until = Instant::now());
    }
    let (pods_run_after, with_pods) = settle(world).await;
    world.note("all pods go");
    let all: Vec<String> = world.state().pods.keys().cloned().collect();
    all.iter().for_each(|name| world.tell_pod(name, Wish::Delete));
    world.end_services();
    let settled_after = with_pods.max(settle(world).await.1);
    let (broken, made, story) = (world.violations(), world.made(), world.story());
    let outcome = Outcome { broken, made, story, settled_after, pods_run_after };
    world.end().await;
    outcome
}

/// Waits until everything is as it should be and stays so. How long it took until all pods ran, and until it was.
async fn settle(world: &Arc<World>) -> (Duration, Duration) {
    let start = Instant::now();
    let (mut pods_run_after, mut settled_after) = (Duration::ZERO, Duration::ZERO);
    let mut since: Option<Instant> = None;
    loop {
        sleep(LOOK_EVERY).await;
        if !world.violations().is_empty() {
            return (pods_run_after, settled_after);
        }
        let missing = differences(world);
        let waited = start.elapsed();
        if missing.is_empty() {
            let from = *since.get_or_insert_with(|| {
                settled_after = waited;
                Instant::now()
            });
            let changed = world.state().changed;
            if from.max(changed).elapsed() >= QUIET {
                world.note(format!("settled after {settled_after:?}"));
                return (pods_run_after, settled_after);
            }
        } else {
            since = None;
        }
        let still: Vec<&String> = missing.iter().filter(|what| what.contains("does not run")).collect();
        if !still.is_empty() {
            pods_run_after = waited;
        }
        if waited > PODS_RUN_WITHIN && !still.is_empty() {
            world.broken(format!("after {waited:?} of quiet: {still:?}; {missing:?}"));
        } else if waited > SETTLED_WITHIN + QUIET {
            let keys = world.unsettled();
            world.broken(format!("after {waited:?} of quiet: {missing:?}, {keys} keys"));
        }
    }
}

/// The switch of node 1 starts anew when the node's clock has gone back, so that the signs of its rows are from the future, and a pod comes.
async fn restart_switch_behind_its_clock(world: &Arc<World>) {
    world.jump("n1", -5);
    world.state().wiring_most = 20_000;
    Reach::restart_switch(world, "n1");
    sleep(Duration::from_secs(3)).await;
    world.make_pod("web-0", "n1");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_switch_that_starts_anew_after_its_clock_went_back_has_no_ready_ports() {
        let world = one_node(Plan::Never, 1, true);
        sleep(Duration::from_secs(8)).await;
        restart_switch_behind_its_clock(&world).await;
        sleep(Duration::from_secs(30)).await;
        assert_eq!(finish(&world).await.broken, Vec::<String>::new());
    }
}
