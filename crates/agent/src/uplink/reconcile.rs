//! The story of uplinks, on one screen.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kuryr_api::{
    kuryrnode::{KuryrNodeSpec, OwnPort},
    names,
};
use kuryr_kubernetes::Outcome;
use kuryr_planning::{
    attachment::NodeLinks,
    claim::{Ledger, Ready},
    uplink::{Inputs, Plan, Step, macvlan::is_meant, plan},
};
use kuryr_types::PortId;

use super::{
    apply, macvlan,
    observe::{self, Found},
    shared, ways,
};
use crate::{
    error::{Error, Result, with_causes},
    node::NodeState,
    wiring::{Work, World},
};

/// A port that is not ready is looked at this often, for the time after which it is stuck.
const WHILE_COMING: Duration = Duration::from_secs(5);
/// What nobody tells of (an address that the node got) is looked at this often.
const IN_QUIET: Duration = Duration::from_secs(30);
/// Links deleted in a row, at 17 ms each, before others have their turn.
const REMOVED_AT_ONCE: usize = 16;

/// Brings the node towards what is offered.
pub(crate) async fn reconcile(world: &World) -> Result<Outcome> {
    observe::publish(world);
    let state = world.state.get();
    if state.own.is_none() {
        return Ok(Outcome::wait(IN_QUIET, "the checkpoint to be judged"));
    }
    follow_record(world, &state).await?;
    shared::find_interface(world).await?;
    let own_port = own_port(world, &state).await?;
    let ways = ways::reconcile(world, &state).await;
    let addresses = set_node_addresses(world, &state).await;
    let found = observe::found(world).await?;
    let (stays_down, up) = apply::bring_up(world, &found.down).await;
    world.memory().stays_down = stays_down;
    let plan = plan_for(world, &state, &found);
    let pause = if is_meant(state.mode(), &found.macvlans) {
        macvlan::reconcile(world, &found.macvlans).await?
    } else if shared::is_meant(world) {
        macvlan::abandon(world, &found.macvlans).await?;
        shared::reconcile(world).await?
    } else {
        macvlan::abandon(world, &found.macvlans).await?;
        shared::abandon(world).await?;
        publish(world, &plan, &found.ends);
        pause(&state, &plan)
    };
    shared::rejoin(world).await?;
    // What is plugged of an own port stays, and what is not is not plugged while its interface cannot be made.
    let own_id = own_port_of(&state).filter(|_| own_port.is_err()).map(|own| own.id.clone());
    let missing = own_id.into_iter().collect();
    let before = apply::Prepared { missing, result: first_failure([own_port, ways, addresses, up]) };
    let prepared = carry_out(world, &plan, &found, before).await?;
    macvlan::forget(world, &plan.gone);
    if plan.steps.iter().any(|step| matches!(step, Step::Remove(_))) {
        world.queue.add(Work::Leftovers);
    }
    world.queue.add(Work::Announcements);
    if !world.memory().conflist_written {
        world.queue.add(Work::Conflist);
    }
    prepared.result?;
    Ok(Outcome::again(pause, "ports, interfaces and addresses that nobody tells of"))
}

/// The first failure, which becomes the look's; the others are told here.
fn first_failure(results: [Result<()>; 4]) -> Result<()> {
    let mut failures = results.into_iter().filter_map(Result::err);
    let first = failures.next();
    failures.for_each(|error| tracing::warn!("this failed, too: {}", with_causes(&error)));
    first.map_or(Ok(()), Err)
}

async fn carry_out(
    world: &World,
    plan: &Plan,
    found: &Found,
    mut prepared: apply::Prepared,
) -> Result<apply::Prepared> {
    let start = found.switch.as_ref().and_then(|switch| switch.start.as_ref()).map(|start| start.id.as_str());
    for step in &plan.steps {
        if let Step::Prepare(plugs) = step {
            prepared = apply::prepare(world, plugs, prepared).await;
        }
        let plugged = apply::step(world, step, &prepared.missing, start).await?;
        if let Some(start) = start {
            world.memory().uplinks.plugged(&plugged.0, start);
        }
    }
    Ok(prepared)
}

/// Deletes links that are not needed any more, some at a time.
pub(crate) async fn remove_leftovers(world: &World) -> Result<Outcome> {
    let state = world.state.get();
    let found = observe::found(world).await?;
    let plan = plan_for(world, &state, &found);
    let unplugged =
        |tap: &&String| found.switch.as_ref().is_some_and(|switch| !switch.rows.contains_key(*tap));
    let removable = plan.steps.iter().filter_map(|step| match step {
        Step::Remove(taps) => Some(taps),
        _ => None,
    });
    let mut taps: Vec<String> = removable.flatten().filter(unplugged).cloned().collect();
    let more = taps.len() > REMOVED_AT_ONCE;
    taps.truncate(REMOVED_AT_ONCE);
    for tap in taps {
        world.kernel.patient("remove an uplink", move |node| node.remove(&tap)).await?;
    }
    world.queue.add(Work::Uplinks);
    Ok(if more { Outcome::again(Duration::ZERO, "more links to delete") } else { Outcome::Done })
}

/// Acknowledges what the record says, durably, before anything is done by it.
async fn follow_record(world: &World, state: &NodeState) -> Result<()> {
    let Some(spec) = &state.spec else { return Ok(()) };
    for (port, _) in spec.ports.iter().filter(|(_, entry)| entry.lost) {
        world.queue.add(Work::Claim(port.clone()));
    }
    let ticket = world.checkpoint.change_if(|ledger| {
        let mut changed = ledger.forget(&spec.ports);
        if let Some(offer) = state.offer() {
            changed |= ledger.notice(&offer);
            let returned = ledger.acknowledge(&spec.ports);
            if !returned.is_empty() {
                tracing::info!(ports = ?returned, "returning ports that are wanted back");
            }
            changed |= !returned.is_empty();
        }
        changed
    });
    match ticket {
        Some(ticket) => world.checkpoint.durable(ticket).await,
        None => Ok(()),
    }
}

/// Makes the node's own interface when it is not what it should be. Tells whether it could be made: what else there is to
/// look at need not wait for it, except where the record does not describe it, so that its links would count as left over.
async fn own_port(world: &World, state: &NodeState) -> Result<Result<()>> {
    let wanted = match state.offer().and_then(|offer| Some((offer.spec(), offer.spec().own_port.as_ref()?))) {
        Some((spec, own)) => {
            let links = NodeLinks::of(own, spec, world.config.mtu_cap, &state.node_addresses);
            let links = links.map_err(|source| Error::Incomplete { port: own.id.clone(), source })?;
            Some((own.id.clone(), links))
        }
        None => None,
    };
    Ok(make_own_port(world, wanted).await)
}

async fn make_own_port(world: &World, wanted: Option<(PortId, NodeLinks)>) -> Result<()> {
    let made = world.memory().own_port.clone();
    if made == wanted {
        return Ok(());
    }
    let other = made.as_ref().is_some_and(|(made, _)| wanted.as_ref().is_none_or(|(id, _)| made != id));
    if other {
        let remove = |node: &dyn crate::kernel::Datapath| node.remove_own_port(names::NODE_INTERFACE);
        world.kernel.patient("remove the node's own interface", remove).await?;
        // The ways that led past it go with it.
        let mut memory = world.memory();
        (memory.own_port, memory.ways) = (None, None);
    }
    if let Some((id, links)) = &wanted {
        apply::own_port(world, id, links).await?;
    }
    world.memory().own_port = wanted;
    Ok(())
}

async fn set_node_addresses(world: &World, state: &NodeState) -> Result<()> {
    let addresses = state.node_addresses.clone();
    if addresses.is_empty() || world.memory().node_addresses == addresses {
        return Ok(());
    }
    tracing::info!(?addresses, "addresses of the local path");
    let set = addresses.clone();
    world.kernel.urgent("set the node's addresses", move |node| node.set_node_addresses(&set)).await?;
    world.memory().node_addresses = addresses;
    Ok(())
}

fn own_port_of(state: &NodeState) -> Option<&OwnPort> {
    state.offer()?.spec().own_port.as_ref()
}

/// The end of an own port on the switch.
fn own_tap(id: &PortId, hybrid: bool) -> String {
    match hybrid {
        true => names::hybrid_outer_name(id.as_str()),
        false => names::tap_name(id.as_str()),
    }
}

/// Prepared taps, the own port's included.
fn taps(world: &World, found: &Found) -> BTreeSet<String> {
    let own = world.memory().own_port.as_ref().map(|(id, links)| own_tap(id, links.hybrid));
    found.taps.iter().cloned().chain(own).collect()
}

fn plan_for(world: &World, state: &NodeState, found: &Found) -> Plan {
    let ledger = world.checkpoint.look(|_, ledger| ledger.clone());
    let mut taps = taps(world, found);
    if is_meant(state.mode(), &found.macvlans) {
        return unplugging(world, state, &ledger, found, &taps);
    }
    // Also where it could not be brought into its form: what is plugged of it works perhaps, and would be plugged anew.
    taps.extend(own_port_of(state).map(|own| own_tap(&own.id, own.hybrid)));
    let stays_down = world.memory().stays_down.clone();
    let inputs = Inputs {
        spec: state.spec.as_deref(),
        offer: state.offer(),
        ledger: &ledger,
        switch: found.switch.as_ref(),
        taps: &taps,
        down: &stays_down,
        now: world.state.now(),
        mtu_cap: world.config.mtu_cap,
    };
    let mut memory = world.memory();
    let plan = plan(&inputs, &memory.uplinks);
    memory.uplinks = plan.memory.clone();
    plan
}

/// What is left on the switch of another mode goes; nothing is plugged, whatever the record and claims name.
fn unplugging(
    world: &World,
    state: &NodeState,
    ledger: &Ledger,
    found: &Found,
    taps: &BTreeSet<String>,
) -> Plan {
    let empty =
        |spec: &KuryrNodeSpec| KuryrNodeSpec { ports: BTreeMap::new(), own_port: None, ..spec.clone() };
    let spec = state.spec.as_deref().map(empty);
    let ledger = Ledger { claims: BTreeMap::new(), ..ledger.clone() };
    let inputs = Inputs {
        spec: spec.as_ref(),
        offer: None,
        ledger: &ledger,
        switch: found.switch.as_ref(),
        taps,
        down: &BTreeMap::new(),
        now: world.state.now(),
        mtu_cap: world.config.mtu_cap,
    };
    Plan { steps: plan(&inputs, &world.memory().uplinks).steps, ..Plan::default() }
}

/// Publishes what is ready: plugged, installed, and with an uplink to attach to.
fn publish(world: &World, plan: &Plan, ends: &BTreeMap<String, u32>) {
    let end = |port: &PortId| ends.get(&names::uplink_name(port.as_str())).copied();
    let ready: BTreeMap<PortId, Ready> = plan
        .ready
        .iter()
        .filter(|(port, _)| end(port).is_some())
        .map(|(port, ready)| (port.clone(), *ready))
        .collect();
    let uplinks = ready.keys().filter_map(|port| Some((port.clone(), end(port)?))).collect();
    world.state.update(|state| {
        state.ready = ready;
        state.uplinks = uplinks;
        state.plugged = plan.plugged.clone();
        state.stuck = plan.stuck.clone();
        let has_own = state.offer().is_some_and(|offer| offer.spec().own_port.is_some());
        state.own_port_ready = has_own.then_some(plan.own_port_ready);
    });
}

fn pause(state: &NodeState, plan: &Plan) -> Duration {
    let all_ready = state.spec.as_ref().is_none_or(|spec| {
        spec.ports
            .iter()
            .all(|(port, entry)| entry.withdrawn || entry.doomed || plan.ready.contains_key(port))
    });
    if all_ready { IN_QUIET } else { WHILE_COMING }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkpoint::tests::in_memory, kernel::fake::FakeKernel, node::SwitchHealth, wiring::fake::FakeWorld,
    };
    use kuryr_api::kuryrnode::KuryrNode;
    use kuryr_planning::{
        claim::Own,
        uplink::{Row, Switch},
    };
    use serde_json::json;

    /// An agent with a record of two ports, one of them wanted back, and a switch that is not there.
    fn world() -> FakeWorld {
        world_with(FakeKernel::default(), &json!(null))
    }

    /// The same on this kernel, with an own port.
    fn world_with(kernel: FakeKernel, own_port: &serde_json::Value) -> FakeWorld {
        let world = FakeWorld::new(in_memory(), kernel, vec![]);
        let checkpoint = world.world.checkpoint.look(|facts, _| facts.unwrap().id);
        let port = |withdrawn: bool| {
            json!({
                "generation": "1.1", "class": "c", "mac": "fa:16:3e:00:00:01", "network": "n",
                "addresses": [{"subnet": "s", "address": "10.0.0.10"}], "withdrawn": withdrawn,
            })
        };
        let spec = serde_json::from_value(json!({
            "nodeUid": "node", "checkpoint": checkpoint, "ports": {"p0": port(false), "p1": port(true)},
            "networks": {"n": {"name": "pods", "mtu": 1442}}, "subnets": {"s": {"cidr": "10.0.0.0/24"}},
            "ownPort": own_port,
        }));
        world.records.reset(vec![KuryrNode::new("node1", spec.unwrap())], BTreeMap::new());
        world.world.state.update(|state| {
            state.own = Some(Own { node_uid: "node".into(), checkpoint });
            state.surveyed = true;
        });
        world
    }

    #[tokio::test]
    async fn a_database_that_is_not_there_is_named() {
        let world = world();
        let mut switch = world.world.switch.watch();
        while switch.borrow_and_update().failure.is_none() {
            switch.changed().await.unwrap();
        }
        reconcile(&world.world).await.unwrap();
        let health = world.world.state.get().switch.clone();
        assert!(matches!(health, SwitchHealth::NotConnected { .. }), "{health:?}");
        let told = world.world.sandboxes.status().unwrap_err();
        assert_eq!(told.code(), 50);
        assert!(told.to_string().contains("/var/run/openvswitch/db.sock does not answer"), "{told}");
    }

    #[tokio::test]
    async fn what_is_wanted_back_is_returned_durably_also_without_a_switch() {
        let world = world();
        reconcile(&world.world).await.unwrap();
        let durable = world.world.checkpoint.watch().borrow().ledger.clone();
        assert_eq!(durable.returned.keys().map(PortId::as_str).collect::<Vec<_>>(), ["p1"]);
        assert_eq!(durable.known.keys().map(PortId::as_str).collect::<Vec<_>>(), ["p0"]);
        assert_eq!(world.kernel.changes(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn what_is_down_is_brought_up() {
        let world = world();
        world.kernel.contents.lock().unwrap().down = vec!["tapown".to_owned()];
        for _ in 0..2 {
            reconcile(&world.world).await.unwrap();
        }
        assert_eq!(world.kernel.changes(), ["bring up tapown"]);
    }

    #[tokio::test]
    async fn what_cannot_be_brought_up_keeps_nothing_else_from_being_looked_at() {
        let own = json!({
            "id": "own", "mac": "fa:16:3e:00:00:09", "network": "n",
            "addresses": [{"subnet": "s", "address": "10.0.0.9"}],
        });
        let world = world_with(FakeKernel::default(), &own);
        {
            let mut contents = world.kernel.contents.lock().unwrap();
            contents.down = ["tapp0", "tapp1"].map(str::to_owned).to_vec();
            contents.stays_down.insert("tapp0".to_owned());
        }
        let error = reconcile(&world.world).await.unwrap_err();
        assert!(with_causes(&error).contains("tapp0"), "{}", with_causes(&error));
        assert!(
            world.kernel.changes().contains(&"bring up tapp1".to_owned()),
            "{:?}",
            world.kernel.changes()
        );
        assert_eq!(world.world.state.get().own_port_ready, Some(false), "what is ready is told");
        assert_eq!(world.world.memory().stays_down.keys().collect::<Vec<_>>(), ["tapp0"]);
        world.kernel.contents.lock().unwrap().stays_down.clear();
        reconcile(&world.world).await.unwrap();
        assert!(world.world.memory().stays_down.is_empty());
    }

    #[tokio::test]
    async fn an_own_port_that_cannot_be_made_keeps_no_other_from_being_looked_at() {
        let kernel = FakeKernel::default();
        kernel.contents.lock().unwrap().taken.insert("tapown".to_owned());
        let own = json!({
            "id": "own", "mac": "fa:16:3e:00:00:09", "network": "n",
            "addresses": [{"subnet": "s", "address": "10.0.0.9"}],
        });
        let world = world_with(kernel, &own);
        let error = reconcile(&world.world).await.unwrap_err();
        assert!(with_causes(&error).contains("tapown"), "{}", with_causes(&error));
        let state = world.world.state.get();
        assert_eq!(state.own_port_ready, Some(false), "what is ready is told");
        let row = Row { port: Some("own".into()), ours: true, ..Row::default() };
        let switch = Switch { rows: [("tapown".to_owned(), row)].into(), ..Switch::default() };
        let found = Found { switch: Some(switch), ..Found::default() };
        let steps = format!("{:?}", plan_for(&world.world, &state, &found).steps);
        assert!(steps.contains("tapp0") && !steps.contains("tapown"), "what is plugged stays: {steps}");
        world.kernel.contents.lock().unwrap().taken.clear();
        reconcile(&world.world).await.unwrap();
    }

    #[tokio::test]
    async fn offers_end_with_the_record() {
        let world = world();
        reconcile(&world.world).await.unwrap();
        assert!(world.world.state.get().offer().is_some());
        world.records.missed_changes();
        world.records.delete(&kuryr_kubernetes::store::ObjectKey::cluster("node1"));
        reconcile(&world.world).await.unwrap();
        assert!(world.world.state.get().offer().is_some(), "the watch may have missed something");
        world.records.reset(vec![], BTreeMap::new());
        reconcile(&world.world).await.unwrap();
        assert!(world.world.state.get().offer().is_none());
    }
}
