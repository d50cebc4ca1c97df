//! Telling the network where ready ports are, before pods come, and to what pods listen, afterwards.
//!
//! An announcement goes to every port of the network. A virtual switch on the node takes tens of milliseconds of a processor
//! for that, and where it took them when a pod came, the pod's containers would have to start beside it. So ports are
//! announced while they wait and no pod is being connected, a few at a time. One that is taken sooner is announced when its
//! pod is attached.
//!
//! A pod's own kernel would report the multicast groups of its addresses at once, four times. The joint holds that, and
//! they are reported from here, once, when no pod is being connected.

use std::time::Duration;

use kuryr_datapath::{Announcement, Subject};
use kuryr_kubernetes::Outcome;
use kuryr_planning::{
    claim::Ledger,
    uplink::announced::{self, Announced},
};

use crate::{error::Result, node::NodeState, wiring::World};

/// Announced in a row, before the switch and others have their turn.
const AT_ONCE: usize = 2;
/// Between them.
const BREATH: Duration = Duration::from_millis(200);
/// How long pods that come one after the other hold announcements back: those pods take the ports, which announces them.
const PORTS_WITHIN: Duration = Duration::from_secs(60);
/// How long they hold back what is said in their place, for which switches that learn may wait.
const GROUPS_WITHIN: Duration = Duration::from_secs(10);

/// Tells the network of the groups of pods that are connected, and of ports that are ready and that nobody has.
pub(crate) async fn reconcile(world: &World) -> Result<Outcome> {
    let started = &world.sandboxes.started;
    let (groups, ports) = (started.pause(GROUPS_WITHIN), started.pause(PORTS_WITHIN));
    if let Some(pause) = groups {
        return Ok(Outcome::again(pause, "no pods to be connected"));
    }
    let state = world.state.get();
    let told = world.checkpoint.look(|_, ledger| {
        let mut told = announced::connected(ledger, &state.uplinks);
        if ports.is_none() {
            told.extend(waiting(&state, ledger, world.config.mtu_cap));
        }
        told
    });
    let told: Vec<Announcement> = told.into_iter().map(announcement).collect();
    let announce = move |node: &dyn crate::kernel::Datapath| node.announce(&told, AT_ONCE);
    let more = world.kernel.patient("announce ports", announce).await?;
    Ok(match ports {
        _ if more => Outcome::again(BREATH, "more ports to announce"),
        Some(pause) => Outcome::again(pause, "no pods to be connected"),
        None => Outcome::Done,
    })
}

/// Ready ports of ours that wait for a pod.
fn waiting(state: &NodeState, ledger: &Ledger, mtu_cap: u32) -> Vec<Announced> {
    let Some(offer) = state.offer() else { return Vec::new() };
    announced::waiting(&offer, ledger, &state.ready, &state.uplinks, state.mtu_cap(mtu_cap))
}

fn announcement(port: Announced) -> Announcement {
    let Announced { uplink, links, host_end } = port;
    let subject = host_end.map_or(Subject::Addresses, |host_end| Subject::Groups { host_end });
    let addresses = links.addresses.iter().map(|address| address.address.addr()).collect();
    Announcement { uplink, vlan: links.vlan, mac: links.mac, addresses, subject }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use super::*;
    use crate::{checkpoint::tests::in_memory, kernel::fake::FakeKernel, wiring::fake::FakeWorld};
    use kuryr_planning::claim::{Claim, Own, Ready};
    use kuryr_types::PortId;
    use serde_json::json;

    /// A node with seven ready ports, of which one is a connected pod's, one is wanted back, one is given back, and one is offered anew.
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
            "links": {"mac": "fa:16:3e:00:00:00", "mtu": 1442, "addresses": [{"address": "10.0.0.10/24"}]},
            "sandbox": {"containerId": "c", "ifname": "eth0", "netns": "/n", "hostIfname": "h", "hostIfindex": 9},
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
    async fn pods_that_are_connected_and_ports_that_wait_are_told_of_a_few_at_a_time() {
        let world = world();
        let mut outcomes = Vec::new();
        for _ in 0..3 {
            outcomes.push(matches!(reconcile(&world.world).await.unwrap(), Outcome::Done));
        }
        assert_eq!(announced(&world), [0, 1, 2, 3].map(|number| (number, format!("10.0.0.1{number}"))));
        assert_eq!(outcomes, [false, false, true]);
        let contents = world.kernel.contents.lock().unwrap();
        let groups: Vec<u32> = contents
            .announced
            .iter()
            .filter(|told| told.subject == Subject::Groups { host_end: 9 })
            .map(|told| told.uplink)
            .collect();
        assert_eq!(groups, [0], "of the others, their addresses");
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
    async fn groups_do_not_wait_for_the_end_of_a_stream_of_pods() {
        let world = world();
        for _ in 0..2 * GROUPS_WITHIN.as_secs() {
            assert!(announced(&world).is_empty());
            world.world.sandboxes.disturb();
            reconcile(&world.world).await.unwrap();
            tokio::time::advance(Duration::from_millis(500)).await;
        }
        assert!(matches!(reconcile(&world.world).await.unwrap(), Outcome::Again { .. }), "ports wait on");
        assert_eq!(announced(&world), [(0, "10.0.0.10".to_owned())]);
    }
}
