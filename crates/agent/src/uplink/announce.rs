//! Telling the network where ready ports are, before pods come.
//!
//! An announcement goes to every port of the network. A virtual switch on the node takes tens of milliseconds of a processor
//! for that, and where it took them when a pod came, the pod's containers would have to start beside it. So ports are
//! announced while they wait and no pod is being connected, a few at a time. One that is taken sooner is announced when its
//! pod is attached.

use std::time::Duration;

use kuryr_api::kuryrnode::PortEntry;
use kuryr_datapath::Announcement;
use kuryr_kubernetes::Outcome;
use kuryr_planning::{attachment::Links, claim::Ledger};
use kuryr_types::PortId;

use crate::{error::Result, node::NodeState, wiring::World};

/// Ports announced in a row, before the switch and others have their turn.
const AT_ONCE: usize = 2;
/// Between them.
const BREATH: Duration = Duration::from_millis(200);
/// How long pods that come one after the other hold announcements back: those pods take the ports, which announces them.
const WITHIN: Duration = Duration::from_secs(60);

/// Announces ports that are ready and that nobody has.
pub(crate) async fn reconcile(world: &World) -> Result<Outcome> {
    if let Some(pause) = world.sandboxes.calm.pause(WITHIN) {
        return Ok(Outcome::again(pause, "no pods to be connected"));
    }
    let state = world.state.get();
    let ports = world.checkpoint.look(|_, ledger| waiting(&state, ledger, world.config.mtu_cap));
    let announce = move |node: &dyn crate::kernel::Datapath| node.announce(&ports, AT_ONCE);
    let more = world.kernel.patient("announce ports", announce).await?;
    Ok(if more { Outcome::again(BREATH, "more ports to announce") } else { Outcome::Done })
}

/// Ready ports of ours that wait for a pod.
fn waiting(state: &NodeState, ledger: &Ledger, mtu_cap: u32) -> Vec<Announcement> {
    let Some(offer) = state.offer() else { return Vec::new() };
    let free = offer.usable(ledger).filter(|(port, _)| !ledger.claims.contains_key(*port));
    let announcement = |(port, entry): (&PortId, &PortEntry)| {
        let is_ready = state.ready.get(port).is_some_and(|ready| ready.generation == entry.generation);
        let uplink = *state.uplinks.get(port).filter(|_| is_ready)?;
        // What the record describes incompletely is told when a pod takes it.
        let links = Links::of(entry, offer.spec(), state.mtu_cap(mtu_cap)).ok()?;
        let addresses = links.addresses.iter().map(|address| address.address.addr()).collect();
        Some(Announcement { uplink, vlan: links.vlan, mac: links.mac, addresses })
    };
    free.filter_map(announcement).collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use super::*;
    use crate::{checkpoint::tests::in_memory, kernel::fake::FakeKernel, wiring::fake::FakeWorld};
    use kuryr_planning::claim::{Claim, Own, Ready};
    use serde_json::json;

    /// A node with seven ready ports, of which one is a pod's, one is wanted back, one is given back, and one is offered anew.
    fn world() -> FakeWorld {
        let world = FakeWorld::new(in_memory(), FakeKernel::default(), vec![]);
        let checkpoint = world.world.checkpoint.look(|facts, _| facts.unwrap().id);
        let port = |number: u8| {
            json!({
                "generation": "1.1", "class": "c", "mac": format!("fa:16:3e:00:00:0{number}"), "network": "n",
                "addresses": [{"subnet": "s", "address": format!("10.0.0.1{number}")}], "withdrawn": number == 4,
            })
        };
        let ports: BTreeMap<String, _> = (0..7).map(|number| (format!("p{number}"), port(number))).collect();
        let spec = json!({
            "nodeUid": "node", "checkpoint": checkpoint, "ports": ports,
            "networks": {"n": {"name": "pods", "mtu": 1442}}, "subnets": {"s": {"cidr": "10.0.0.0/24"}},
        });
        let claim: Claim = serde_json::from_value(json!({
            "generation": "1.1", "pod": {"namespace": "team-a", "name": "web-0"}, "identity": "a",
            "links": {"mac": "fa:16:3e:00:00:00", "mtu": 1442, "addresses": []}, "sandbox": null,
        }))
        .unwrap();
        world.world.checkpoint.change(|ledger| {
            ledger.returned.insert("p5".into(), "1.1".parse().unwrap());
            (true, ledger.claim(&"p0".into(), claim))
        });
        world.world.state.update(|state| {
            state.spec = Some(Arc::new(serde_json::from_value(spec).unwrap()));
            state.own = Some(Own { node_uid: "node".into(), checkpoint });
            for number in 0..7 {
                let port = PortId::from(format!("p{number}").as_str());
                let generation = if number == 6 { "1.0" } else { "1.1" }.parse().unwrap();
                state.ready.insert(port.clone(), Ready { generation, since: Duration::ZERO });
                state.uplinks.insert(port, number);
            }
        });
        world
    }

    fn announced(world: &FakeWorld) -> Vec<(u32, String)> {
        let contents = world.kernel.contents.lock().unwrap();
        contents.announced.iter().map(|told| (told.uplink, told.addresses[0].to_string())).collect()
    }

    #[tokio::test]
    async fn ports_that_wait_are_announced_a_few_at_a_time() {
        let world = world();
        let mut outcomes = Vec::new();
        for _ in 0..3 {
            outcomes.push(matches!(reconcile(&world.world).await.unwrap(), Outcome::Done));
        }
        assert_eq!(announced(&world), [1, 2, 3].map(|number| (number, format!("10.0.0.1{number}"))));
        assert_eq!(outcomes, [false, true, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn pods_that_come_go_first() {
        let world = world();
        world.world.sandboxes.calm.disturb();
        reconcile(&world.world).await.unwrap();
        assert!(announced(&world).is_empty());
        tokio::time::advance(Duration::from_secs(2)).await;
        reconcile(&world.world).await.unwrap();
        assert_eq!(announced(&world).len(), AT_ONCE);
    }
}
