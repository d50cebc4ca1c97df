//! The node's own interface: which it is, and its use as the uplink of all pods of a server of the cloud with a trunk.
//!
//! The interface is adopted for as long as it is there; the node's own traffic on it goes on as if nobody had. What is
//! ready and which pods have to move is [`kuryr_planning::uplink::shared`]'s to say.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use kuryr_api::kuryrnode::Mode;
use kuryr_datapath::NodeInterface;
use kuryr_planning::uplink::shared::{
    Inputs, Plan, can_carry_trunk, has_subports, is_shared, misjoined, plan,
};
use kuryr_types::MacAddr;

use crate::{
    error::{Result, with_causes},
    kernel::Datapath,
    node::SharedUplink,
    wiring::{Work, World},
};

/// Programs that somebody took away, and interfaces, are looked at this often.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// An interface that comes, goes or is replaced is noticed within this time: a question of some microseconds.
const GLANCE_EVERY: Duration = Duration::from_secs(1);
/// Kind of a Node's address by which others reach it.
const INTERNAL_IP: &str = "InternalIP";

/// Notes which interface carries the node's address. The controller finds the node's port by its hardware address.
pub(crate) async fn find_interface(world: &World) -> Result<()> {
    let (named, addresses) = (world.config.link_iface.clone(), internal_addresses(world));
    let before = world.state.get().interface.clone();
    let known = before.clone();
    let find = move |node: &dyn Datapath| {
        if let Some(name) = named {
            return node.interface_named(&name);
        }
        let found = node.interface_with(&addresses)?;
        match (found, known) {
            // A lease that is renewed takes the address away for a moment.
            (None, Some(known)) => Ok(node.interface_named(&known.name)?.filter(|now| now.mac == known.mac)),
            (found, _) => Ok(found),
        }
    };
    let found = world.kernel.urgent("look for the node's interface", find).await?;
    if found != before {
        tracing::info!(interface = ?found, "interface of the node");
        world.state.update(|state| state.interface = found);
    }
    Ok(())
}

fn internal_addresses(world: &World) -> Vec<IpAddr> {
    let Some(node) = world.watched.node() else { return Vec::new() };
    let internal = node.status.addresses.iter().filter(|address| address.kind == INTERNAL_IP);
    internal.filter_map(|address| address.address.parse().ok()).collect()
}

/// Has uplinks looked at when the interface is another than it was, until the agent stops.
pub(crate) async fn watch_interface(world: World) {
    loop {
        tokio::time::sleep(GLANCE_EVERY).await;
        let state = world.state.get();
        if !state.mode().is_some_and(Mode::is_nested) {
            continue;
        }
        let Some(before) = state.interface.clone() else {
            world.queue.add(Work::Uplinks);
            continue;
        };
        let name = before.name.clone();
        let now =
            world.kernel.urgent("look at the node's interface", move |node| node.interface_named(&name));
        if now.await.is_ok_and(|now| now.as_ref() != Some(&before)) {
            world.queue.add(Work::Uplinks);
        }
    }
}

/// Whether the node's own interface is the uplink of its pods.
pub(super) fn is_meant(world: &World) -> bool {
    let mode = world.state.get().mode();
    world.checkpoint.look(|_, ledger| is_shared(mode, ledger))
}

/// Brings the node towards what is offered; tells when to look again.
pub(super) async fn reconcile(world: &World) -> Result<Duration> {
    let uplink = adopt(world, world.state.get().interface.as_ref()).await;
    let plan = plan_for(world, &uplink);
    publish(world, &uplink, &plan);
    if !plan.gone.is_empty() {
        world
            .checkpoint
            .change_if(|ledger| plan.gone.iter().fold(false, |any, port| ledger.unknow(port) | any));
    }
    Ok(LOOK_AGAIN)
}

/// Adopts the interface, also one that is adopted: somebody may have taken the program away.
async fn adopt(world: &World, interface: Option<&NodeInterface>) -> SharedUplink {
    let named = world.config.link_iface.clone();
    let Some(interface) = interface else { return SharedUplink::Missing { named } };
    let ifname = interface.name.clone();
    if !can_carry_trunk(interface.kind.as_deref()) && named.is_none() {
        let kind = interface.kind.clone().unwrap_or_default();
        return SharedUplink::Unsuitable { ifname, kind };
    }
    if !interface.up {
        return SharedUplink::Down { ifname };
    }
    let name = ifname.clone();
    match world.kernel.urgent("adopt the interface of the trunk", move |node| node.adopt(&name)).await {
        Ok(uplink) => SharedUplink::Adopted(uplink.ifindex),
        Err(error) => SharedUplink::Refused { ifname, why: with_causes(&error) },
    }
}

fn plan_for(world: &World, uplink: &SharedUplink) -> Plan {
    let state = world.state.get();
    let ledger = world.checkpoint.look(|_, ledger| ledger.clone());
    plan(&Inputs {
        offer: state.offer(),
        ledger: &ledger,
        uplink: uplink.index(),
        before: &state.ready,
        now: world.state.now(),
    })
}

fn publish(world: &World, uplink: &SharedUplink, plan: &Plan) {
    let index = uplink.index();
    let all_on = |index: u32| plan.ready.keys().map(move |port| (port.clone(), index)).collect();
    world.state.update(|state| {
        state.uplinks = index.map(all_on).unwrap_or_default();
        state.ready = plan.ready.clone();
        state.shared_uplink = uplink.clone();
        state.plugged.clear();
        state.stuck = plan.stuck.clone();
        state.own_port_ready = None;
    });
}

/// Gives the interface back in other modes, once no pod is joined to it.
pub(super) async fn abandon(world: &World) -> Result<()> {
    world.state.update(|state| state.shared_uplink = SharedUplink::Unknown);
    let in_use = world.checkpoint.look(|_, ledger| has_subports(ledger));
    // What the mode is, is known only from the record.
    if in_use || world.state.get().mode().is_none() {
        return Ok(());
    }
    world.kernel.urgent("give the node's interface back", |node| node.abandon(None)).await
}

/// Joins pods anew whose uplink was replaced by another. Goes on after a failure, and tells the first.
pub(super) async fn rejoin(world: &World) -> Result<()> {
    let state = world.state.get();
    let ledger = world.checkpoint.look(|_, ledger| ledger.clone());
    if ledger.claims.is_empty() {
        return Ok(());
    }
    let recorded: BTreeSet<(MacAddr, u32)> = ledger
        .claims
        .values()
        .filter_map(|claim| Some((claim.links.mac, claim.sandbox.as_ref()?.host_ifindex?)))
        .collect();
    let joints = world.kernel.urgent("list what is joined", move |node| {
        // Without entries the claim tells the uplink in the place of the host end.
        Ok(if node.has_entries() {
            node.entries()?.iter().map(|entry| (entry.mac, entry.uplink)).collect()
        } else {
            recorded
        })
    });
    let mut result = Ok(());
    for (port, uplink) in misjoined(&ledger, &joints.await?, &state.uplinks) {
        let Some(claim) = ledger.claims.get(&port) else { continue };
        let joined = world.sandboxes.rejoin(&port, claim, uplink).await;
        if let Err(error) = &joined {
            tracing::warn!(%port, uplink, "cannot join the pod anew: {}", with_causes(error));
        }
        result = result.and(joined);
    }
    if let (Ok(()), Some(index)) = (&result, state.shared_uplink.index()) {
        world.kernel.urgent("give other interfaces back", move |node| node.abandon(Some(index))).await?;
    }
    result
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        checkpoint::tests::in_memory, kernel::fake::FakeKernel, uplink::reconcile::reconcile,
        wiring::fake::FakeWorld,
    };
    use kuryr_api::kuryrnode::{KuryrNode, Mode};
    use kuryr_planning::claim::{Claim, Own, Sandbox};
    use serde_json::json;

    const MAC: &str = "fa:16:3e:00:00:01";

    /// An agent on a server of the cloud with a record of one subport, and no switch at all.
    fn world(kernel: FakeKernel) -> FakeWorld {
        let world = FakeWorld::new(in_memory(), kernel, vec![]);
        let checkpoint = world.world.checkpoint.look(|facts, _| facts.unwrap().id);
        let spec = serde_json::from_value(json!({
            "nodeUid": "node", "checkpoint": checkpoint, "mode": "nested-vlan",
            "ports": {"p0": {
                "generation": "1.1", "class": "c", "mac": MAC, "network": "n", "vlan": 101, "active": true,
                "addresses": [{"subnet": "s", "address": "10.0.0.10"}],
            }},
            "networks": {"n": {"name": "pods", "mtu": 1442}}, "subnets": {"s": {"cidr": "10.0.0.0/24"}},
        }));
        world.records.reset(vec![KuryrNode::new("node1", spec.unwrap())], BTreeMap::new());
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1", "uid": "node"},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.7"}]},
        });
        world.nodes.reset(vec![serde_json::from_value(node).unwrap()], BTreeMap::new());
        world.world.state.update(|state| {
            state.own = Some(Own { node_uid: "node".into(), checkpoint });
            state.surveyed = true;
        });
        world
    }

    fn interface(kernel: &FakeKernel, index: u32, up: bool) {
        let found = NodeInterface {
            name: "ens3".into(),
            index,
            mac: "fa:16:3e:00:00:99".parse().unwrap(),
            mtu: 1400,
            up,
            kind: None,
        };
        kernel.contents.lock().unwrap().interface = Some((found, "192.0.2.7".parse().unwrap()));
    }

    #[tokio::test]
    async fn subports_are_ready_on_the_adopted_interface_without_a_switch() {
        let world = world(FakeKernel::default());
        interface(&world.kernel, 3, true);
        reconcile(&world.world).await.unwrap();
        let state = world.world.state.get();
        assert_eq!(state.mode(), Some(Mode::NestedVlan));
        assert_eq!(state.uplinks, [("p0".into(), 3)].into());
        assert!(state.ready.contains_key("p0") && state.way().good, "{state:?}");
        assert_eq!(world.kernel.changes(), ["adopt ens3"]);
        world.world.sandboxes.status().unwrap();
        assert_eq!((state.mtu_cap(0), state.mtu_cap(1300)), (1400, 1300), "the interface bounds the MTU");
    }

    #[tokio::test]
    async fn what_is_translated_goes_to_pods_by_the_nodes_routes() {
        use kuryr_datapath::{NodeRoute, Side};
        let route = |dst: &str, via: &str| NodeRoute {
            dst: dst.parse().unwrap(),
            via: Some(via.parse().unwrap()),
            link: 3,
        };
        for (routes, ways, missing) in [
            (vec![route("0.0.0.0/0", "192.0.2.254")], vec![route("10.0.0.0/24", "192.0.2.254")], vec![]),
            (vec![], vec![], vec!["10.0.0.0/24".parse().unwrap()]),
        ] {
            let world = world(FakeKernel::default());
            interface(&world.kernel, 3, true);
            world.kernel.contents.lock().unwrap().routes = routes;
            reconcile(&world.world).await.unwrap();
            assert_eq!(world.kernel.contents.lock().unwrap().ways[&Side::ToPods], ways);
            assert_eq!(world.world.memory().ways.as_ref().unwrap().missing, missing);
        }
    }

    #[tokio::test]
    async fn an_interface_that_cannot_be_used_is_named() {
        let world = world(FakeKernel::default());
        reconcile(&world.world).await.unwrap();
        let told = |world: &FakeWorld| world.world.sandboxes.status().unwrap_err().to_string();
        assert!(told(&world).contains("[binding] link_iface"), "{}", told(&world));
        interface(&world.kernel, 3, false);
        reconcile(&world.world).await.unwrap();
        assert!(told(&world).contains("ens3, is down"), "{}", told(&world));
        assert!(world.world.state.get().ready.is_empty());
        interface(&world.kernel, 3, true);
        reconcile(&world.world).await.unwrap();
        world.world.sandboxes.status().unwrap();
    }

    #[tokio::test]
    async fn pods_are_joined_to_the_interface_that_took_the_place_of_theirs() {
        let world = world(FakeKernel::with_sandboxes(&["c1"]));
        let links = json!({"mac": MAC, "mtu": 1400, "addresses": [{"address": "10.0.0.10/24"}], "vlan": 101});
        let sandbox = Sandbox {
            container_id: "c1".into(),
            ifname: "eth0".into(),
            netns: "/run/netns/c1".into(),
            netns_id: Some("4:0".into()),
            host_ifname: "krpp0".into(),
            host_ifindex: None,
        };
        let claim = Claim {
            generation: "1.1".parse().unwrap(),
            pod: kuryr_types::PodRef::new("team-a", "web-0"),
            identity: "a".into(),
            links: serde_json::from_value(links).unwrap(),
            sandbox: Some(sandbox),
        };
        world.world.checkpoint.change(|ledger| (true, ledger.claim(&"p0".into(), claim.clone())));
        interface(&world.kernel, 3, true);
        world.world.sandboxes.rejoin(&"p0".into(), &claim, 3).await.unwrap();
        reconcile(&world.world).await.unwrap();
        assert_eq!(world.kernel.contents.lock().unwrap().uplinks[&1], (3, Some(101)));
        // The card was taken out and put back.
        interface(&world.kernel, 9, true);
        reconcile(&world.world).await.unwrap();
        assert_eq!(world.kernel.contents.lock().unwrap().uplinks[&1], (9, Some(101)));
        assert_eq!(world.world.state.get().uplinks, [("p0".into(), 9)].into());
        let attach = "attach krpp0 /run/netns/c1";
        assert_eq!(world.kernel.changes(), [attach, "adopt ens3", "adopt ens3", attach, "abandon 3"]);
        // Without entries the claim tells the interface.
        world.kernel.contents.lock().unwrap().without_entries = true;
        world.world.checkpoint.change(|ledger| (true, ledger.joined(&"p0".into(), 9, "4:0")));
        reconcile(&world.world).await.unwrap();
        assert_eq!(world.kernel.changes().len(), 5);
        interface(&world.kernel, 11, true);
        reconcile(&world.world).await.unwrap();
        assert_eq!(world.kernel.changes()[5..], ["adopt ens3", attach, "abandon 9"]);
    }

    #[tokio::test]
    async fn an_address_that_is_away_for_a_moment_changes_nothing() {
        let world = world(FakeKernel::default());
        interface(&world.kernel, 3, true);
        reconcile(&world.world).await.unwrap();
        let move_address = |address: &str| {
            let mut contents = world.kernel.contents.lock().unwrap();
            contents.interface.as_mut().unwrap().1 = address.parse().unwrap();
        };
        move_address("198.51.100.1");
        reconcile(&world.world).await.unwrap();
        assert_eq!(world.world.state.get().shared_uplink, SharedUplink::Adopted(3));
        // Another device of that name is another interface.
        let change = |change: fn(&mut NodeInterface)| {
            let mut contents = world.kernel.contents.lock().unwrap();
            change(&mut contents.interface.as_mut().unwrap().0);
        };
        change(|interface| interface.mac = "fa:16:3e:00:00:77".parse().unwrap());
        reconcile(&world.world).await.unwrap();
        assert_eq!(world.world.state.get().shared_uplink, SharedUplink::Missing { named: None });
        // With the address it is the node's again.
        move_address("192.0.2.7");
        change(|interface| interface.kind = Some("bridge".into()));
        reconcile(&world.world).await.unwrap();
        let told = world.world.sandboxes.status().unwrap_err().to_string();
        assert!(told.contains("ens3") && told.contains("bridge") && told.contains("link_iface"), "{told}");
    }

    #[tokio::test]
    async fn the_interface_is_given_back_in_another_mode() {
        let world = world(FakeKernel::default());
        interface(&world.kernel, 3, true);
        reconcile(&world.world).await.unwrap();
        let record = |change: &dyn Fn(&mut kuryr_api::kuryrnode::KuryrNodeSpec)| {
            let mut spec = (**world.world.state.get().spec.as_ref().unwrap()).clone();
            change(&mut spec);
            world.records.reset(vec![KuryrNode::new("node1", spec)], BTreeMap::new());
        };
        // A record that is not written yet says nothing of the mode.
        record(&|spec| (spec.mode, spec.node_uid) = (Mode::Ovs, String::new()));
        reconcile(&world.world).await.unwrap();
        assert_eq!(world.kernel.changes(), ["adopt ens3"]);
        record(&|spec| {
            spec.node_uid = "node".into();
            spec.ports.clear();
        });
        reconcile(&world.world).await.unwrap();
        assert_eq!(world.kernel.changes(), ["adopt ens3", "abandon 3"]);
        assert!(world.world.state.get().ready.is_empty());
    }

    #[tokio::test]
    async fn before_the_mode_is_decided_the_controller_tells_what_is_wrong() {
        let world = world(FakeKernel::default());
        let told = || world.world.sandboxes.status().unwrap_err().to_string();
        assert!(told().contains("not decided yet"), "{}", told());
        let problem = json!({"reason": "ModeNotFound", "message": "is not the parent of a trunk"});
        let spec = serde_json::from_value(json!({"problems": [problem]})).unwrap();
        world.records.reset(vec![KuryrNode::new("node1", spec)], BTreeMap::new());
        reconcile(&world.world).await.unwrap();
        assert_eq!(told(), "is not the parent of a trunk");
        assert_eq!(world.world.state.get().way().reason, "ModeNotFound");
    }
}
