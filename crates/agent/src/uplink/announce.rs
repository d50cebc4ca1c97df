//! Telling the network where ready ports are, before pods come, and to what pods listen, afterwards.
//!
//! An announcement goes to every port of the network. A virtual switch on the node takes tens of milliseconds of a processor
//! for that, and where it took them when a pod came, the pod's containers would have to start beside it. So ports are
//! announced while they wait and no pod is being connected, a few at a time. One that is taken sooner is announced when its
//! pod is attached.
//!
//! A pod's own kernel would report the multicast groups of its addresses at once, four times. The joint holds that, and
//! they are reported from here, once, when containers have started. What is owed is in the joint's maps, so it outlives this
//! process.

use std::time::Duration;

use kuryr_datapath::{Announcement, Owed};
use kuryr_kubernetes::Outcome;
use kuryr_planning::{
    claim::Ledger,
    uplink::announced::{self, Announced, is_due},
};

use crate::{error::Result, kernel::Datapath, node::NodeState, wiring::World};

/// Of each kind in a row, before the switch and others have their turn.
const AT_ONCE: usize = 2;
/// Between them.
const BREATH: Duration = Duration::from_millis(200);
/// Between looks whether a report is due.
pub(crate) const DUE_EVERY: Duration = Duration::from_secs(1);
/// How long pods that come one after the other hold announcements back: those pods take the ports, which announces them.
const WITHIN: Duration = Duration::from_secs(60);

/// Reports the groups of pods that are connected, and announces ports that are ready and that nobody has.
pub(crate) async fn reconcile(world: &World) -> Result<Outcome> {
    let held_back = world.sandboxes.pause(WITHIN);
    let reports = report_groups(world).await;
    let ports = if held_back.is_some() { held_back } else { announce_ports(world).await? };
    let next = [reports?, ports].into_iter().flatten().min();
    Ok(next
        .map_or(Outcome::Done, |pause| Outcome::again(pause, "more of ports and pods to tell the network")))
}

/// When to come back, if there is more.
async fn report_groups(world: &World) -> Result<Option<Duration>> {
    let is_calm = world.sandboxes.have_started();
    let report = move |node: &dyn Datapath| {
        let (due, later): (Vec<Owed>, Vec<Owed>) =
            node.owed_reports()?.into_iter().partition(|owed| is_due(owed.since, is_calm));
        let made = node.report_groups(&due, AT_ONCE)?;
        Ok((due.len() > made, !later.is_empty()))
    };
    let (more, later) = world.kernel.patient("report groups", report).await?;
    Ok(if more { Some(BREATH) } else { later.then_some(DUE_EVERY) })
}

/// When to come back, if there is more.
async fn announce_ports(world: &World) -> Result<Option<Duration>> {
    let state = world.state.get();
    let ports = world.checkpoint.look(|_, ledger| waiting(&state, ledger, world.config.mtu_cap));
    let announce = move |node: &dyn Datapath| node.announce(&ports, AT_ONCE);
    let more = world.kernel.patient("announce ports", announce).await?;
    Ok(more.then_some(BREATH))
}

/// Ready ports of ours that wait for a pod.
fn waiting(state: &NodeState, ledger: &Ledger, mtu_cap: u32) -> Vec<Announcement> {
    let Some(offer) = state.offer() else { return Vec::new() };
    let ports = announced::waiting(&offer, ledger, &state.ready, &state.uplinks, state.mtu_cap(mtu_cap));
    let announcement = |Announced { uplink, links }| {
        let addresses = links.addresses.iter().map(|address| address.address.addr()).collect();
        Announcement { uplink, vlan: links.vlan, mac: links.mac, addresses }
    };
    ports.into_iter().map(announcement).collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use super::*;
    use crate::{checkpoint::tests::in_memory, kernel::fake::FakeKernel, wiring::fake::FakeWorld};
    use kuryr_planning::claim::{Claim, Own, Ready};
    use kuryr_types::PortId;
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

    fn owed(host_end: u32, since: Option<u64>) -> Owed {
        let groups = ["ff02::1:ff00:5".parse().unwrap()].into();
        let mac = "fa:16:3e:00:00:00".parse().unwrap();
        Owed { host_end, uplink: 0, vlan: None, mac, groups, since: since.map(Duration::from_secs) }
    }

    fn reported(world: &FakeWorld) -> Vec<u32> {
        world.kernel.contents.lock().unwrap().reported.clone()
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
        world.world.sandboxes.disturb();
        reconcile(&world.world).await.unwrap();
        assert!(announced(&world).is_empty());
        tokio::time::advance(Duration::from_secs(5)).await;
        reconcile(&world.world).await.unwrap();
        assert_eq!(announced(&world).len(), AT_ONCE);
    }

    #[tokio::test(start_paused = true)]
    async fn groups_are_reported_when_pods_have_started_and_none_waits_for_others_for_long() {
        let world = world();
        let owe = |list: Vec<Owed>| world.kernel.contents.lock().unwrap().owed = list;
        world.world.sandboxes.disturb();
        owe(vec![owed(1, Some(6)), owed(2, Some(1)), owed(3, Some(1)), owed(4, Some(1)), owed(5, None)]);
        assert!(matches!(reconcile(&world.world).await.unwrap(), Outcome::Again { .. }));
        assert_eq!(reported(&world), [1], "it is high time");
        tokio::time::advance(Duration::from_secs(5)).await;
        reconcile(&world.world).await.unwrap();
        assert_eq!(reported(&world), [1, 2, 3], "two at a time");
        owe(vec![owed(4, Some(1)), owed(5, None)]);
        reconcile(&world.world).await.unwrap();
        assert!(
            matches!(reconcile(&world.world).await.unwrap(), Outcome::Again { .. }),
            "the last one is held still"
        );
        assert_eq!(reported(&world), [1, 2, 3, 4]);
    }
}
