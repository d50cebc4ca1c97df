//! Pods: each is connected by an address and a port that are its own, and by no port that is not ready: its row in the switch
//! has a number, and its flows were installed since the node started. The sign of that outlives a restart.
//!
//! When its containers start its port is ACTIVE, with its addresses and the groups that are configured. Its view stays as long as it
//! has not ended.

use serde_json::Value;

use super::{connected, has_right_groups, mac_of, objection};
use crate::{
    cloud,
    faults::Caller,
    machine::{Joint, Sandbox},
    world::{State, World},
};

/// Where views of pods are.
pub(super) const VIEWS: &str = "/apis/openstack.org/v1/namespaces/d/kuryrports/";

impl World {
    /// A pod was connected.
    pub(crate) fn judge_attachment(&self, node: &str, joint: &Joint, sandbox: &Sandbox) {
        self.follow_members();
        let objections = {
            let state = &mut *self.state();
            let mut found: Vec<String> =
                joint.addresses.iter().filter_map(|net| objection(state, net.addr(), &sandbox.pod)).collect();
            for (other_node, other, pod) in connected(state) {
                let is_robbed = state.rules.is_stolen_mac(other.mac);
                let same = other.mac == joint.mac || (other.addresses == joint.addresses && !is_robbed);
                if same && pod.pod != sandbox.pod {
                    found.push(format!("{} on {other_node} is connected by the same port", pod.pod));
                }
            }
            found.extend(unready(state, node, joint));
            let got = joint.addresses.iter().map(|net| ((net.addr(), sandbox.pod.clone()), joint.mac));
            state.rules.got_by.extend(got);
            found
        };
        for why in objections {
            self.broken(format!("pod {} on {node} gets {:?} and {why}", sandbox.pod, joint.addresses));
        }
    }

    /// The containers of a pod start in this namespace.
    pub(crate) fn judge_start(&self, node: &str, netns: &str) {
        let objection = {
            let state = self.state();
            let machine = &state.machines[node];
            let is_its = |joint: &&Joint| joint.netns == netns && machine.behind(joint).is_some();
            match machine.joints.values().find(is_its) {
                Some(joint) => unready(&state, node, joint).or_else(|| unfit(&state, node, joint)),
                None => Some("it is not connected".to_owned()),
            }
        };
        if let Some(why) = objection {
            self.broken(format!("a pod runs in {netns} on {node} and {why}"));
        }
    }
}

impl World {
    /// A program took a view away.
    pub(crate) fn judge_end_of_view(&self, caller: &Caller, path: &str, view: &Value) {
        let name = path.rsplit('/').next().unwrap_or_default();
        let pod = self.api.get(&format!("/api/v1/namespaces/d/pods/{name}")).unwrap_or_default();
        let is_its = pod["metadata"]["uid"] == view["spec"]["podUid"];
        let has_ended = ["Succeeded", "Failed"].iter().any(|phase| pod["status"]["phase"] == *phase);
        if is_its && !has_ended {
            self.broken(format!("{} deletes the view of pod {name}, which runs", caller.name()));
        }
    }
}

/// Why a pod may not run with the port that Neutron has.
fn unfit(state: &State, node: &str, joint: &Joint) -> Option<String> {
    if state.rules.is_stolen_mac(joint.mac) {
        return None;
    }
    let has_mac = |port: &&Value| mac_of(port) == Some(joint.mac);
    let Some(port) = state.cloud.ports.values().find(has_mac) else {
        return Some(format!("there is no port with {}", joint.mac));
    };
    let held = cloud::addresses(port);
    let has_addresses = joint.addresses.iter().all(|net| held.contains(&net.addr()));
    let is_here = port["binding:host_id"] == state.machines[node].host.as_str();
    let is_fit =
        port["status"] == "ACTIVE" && is_here && has_addresses && has_right_groups(&state.cloud, port);
    (!is_fit).then(|| format!("its port is {port}"))
}

/// Why a connection leads nowhere.
fn unready(state: &State, node: &str, joint: &Joint) -> Option<String> {
    let machine = &state.machines[node];
    let Some(row) = machine.row_of(joint) else { return Some("its uplink is not on the switch".to_owned()) };
    let is_ready = row.ofport.is_some() && machine.installed.contains_key(&row.uuid);
    let cannot_know = machine.behind(joint).is_some_and(|sandbox| machine.lost_flows_of(sandbox));
    (!is_ready && !cannot_know).then(|| format!("{} is not ready since the node started", row.name))
}

#[cfg(test)]
pub(super) mod tests {
    use std::{collections::BTreeSet, sync::Arc, time::Duration};

    use kuryr_agent::{Datapath, SwitchDatabase};
    use kuryr_api::names;
    use kuryr_datapath::{Offloads, PodLinks, PortSpec, UplinkSpec};
    use serde_json::{Value, json};
    use tokio::time::sleep;

    use super::*;
    use crate::{
        cloud::{NETWORK, PROJECT, SUBNET, TAG},
        machine::Reach,
        programs::COOL_DOWN,
        scenario::reboot,
        world::Setup,
    };

    pub(crate) const PORT: &str = "00000001-0000-4000-8000-000000000000";
    /// Who leads, under epoch 1.
    pub(crate) const LEADER: &str = "controller-1.1";
    const WEB_1: &str = "/api/v1/namespaces/d/pods/web-1";
    pub(crate) const NETNS: &str = "/run/netns/web-0";

    /// A node, and nobody who looks after it.
    pub(crate) fn world() -> Arc<World> {
        let world = World::new(Setup::without_programs(&["n1"], false));
        world.state().cloud.groups.push(json!({"id": "g0", "project_id": PROJECT, "tags": [TAG]}));
        world.state().rules.epochs.insert(LEADER.to_owned(), [1].into());
        world
    }

    /// A port as Neutron has it.
    pub(crate) fn port() -> Value {
        json!({"id": PORT, "name": "kuryr-pool/n1", "project_id": PROJECT, "network_id": NETWORK, "tags": [TAG],
            "description": TAG, "status": "DOWN", "admin_state_up": true, "mac_address": "fa:16:3e:00:00:01",
            "revision_number": 1, "binding:host_id": "host-of-n1", "security_groups": ["g0"],
            "fixed_ips": [{"subnet_id": SUBNET, "ip_address": "10.0.0.11"}]})
    }

    /// The node, as its agent reaches it.
    pub(crate) fn reach(world: &Arc<World>) -> Reach {
        Reach { world: Arc::clone(world), caller: Caller::new("agent-n1.1"), node: "n1".to_owned() }
    }

    /// Makes the uplink of the port; its index.
    fn prepare(reach: &Reach) -> u32 {
        let (mac, hybrid, offloads) = ("fa:16:3e:00:00:01".parse().unwrap(), None, Offloads::Keep);
        let (tap, peer) = (names::tap_name(PORT), names::uplink_name(PORT));
        reach.prepare(&UplinkSpec { tap, hybrid, peer, mac, mtu: 1442, offloads }).unwrap().ifindex
    }

    async fn plug(reach: &Reach) {
        let (name, mac) = (names::tap_name(PORT), "fa:16:3e:00:00:01".parse().unwrap());
        let port = PortSpec { name, port: PORT.into(), mac, generation: None, start: None };
        reach.add_ports(&[port]).await.unwrap();
    }

    /// Connects a pod, which is not asked whether its port is ready.
    fn attach(reach: &Reach, uplink: u32) {
        reach.world.state().machines.get_mut("n1").unwrap().make_sandbox(NETNS, "uid-1");
        let pod = PodLinks {
            netns: NETNS.into(),
            ifname: "eth0".to_owned(),
            host_ifname: names::host_end_name(PORT),
            mac: "fa:16:3e:00:00:01".parse().unwrap(),
            mtu: 1442,
            addresses: vec!["10.0.0.11/24".parse().unwrap()],
            routes: Vec::new(),
            uplink,
            vlan: None,
            node_addresses: Vec::new(),
        };
        reach.attach(&pod).unwrap();
    }

    /// A world in which a pod runs by [`PORT`].
    pub(crate) async fn world_with_pod() -> Arc<World> {
        let world = world();
        let reach = reach(&world);
        world.state().cloud.ports.insert(PORT.to_owned(), port());
        let uplink = prepare(&reach);
        plug(&reach).await;
        sleep(Duration::from_secs(2)).await;
        attach(&reach, uplink);
        let of_node = |state: &mut State| {
            let machine = state.machines.get_mut("n1").unwrap();
            machine.sandboxes.get_mut(NETNS).unwrap().established = true;
        };
        of_node(&mut world.state());
        world
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_or_a_port_of_another_is_told() {
        let pod = |uid: &str, phase: &str| json!({"metadata": {"name": "web-1", "uid": uid}, "status": {"phase": phase, "podIP": "10.0.0.11"}});
        let slice = json!({"metadata": {"name": "s-1"},
            "endpoints": [{"addresses": ["10.0.0.11"], "targetRef": {"uid": "uid-2"}}]});
        let slices = "/apis/discovery.k8s.io/v1/namespaces/d/endpointslices/s-1";
        for (path, object, is_right) in [
            (WEB_1, pod("uid-1", "Running"), true),
            (WEB_1, pod("uid-2", "Running"), false),
            (WEB_1, pod("uid-2", "Succeeded"), true),
            (slices, slice.clone(), false),
        ] {
            let world = world();
            world.put(path, object.clone());
            let by_port = || {
                let about = world.violations().into_iter().filter(|what| what.contains("held by"));
                about.count()
            };
            let uplink = prepare(&reach(&world));
            attach(&reach(&world), uplink);
            assert_eq!(by_port() == 0, is_right, "{object}: {:?}", world.violations());
            world.remove(path);
            attach(&reach(&world), uplink);
            let resting = by_port();
            assert_eq!(resting == 0, is_right, "it has just been removed: {object}");
            sleep(Duration::from_secs(COOL_DOWN)).await;
            attach(&reach(&world), uplink);
            assert_eq!(by_port(), resting, "it has rested: {object}");
        }
        let world = world_with_pod().await;
        let machine = |world: &World| {
            let state = &mut *world.state();
            state.machines.get_mut("n1").unwrap().make_sandbox("/run/netns/web-1", "uid-2");
            let machine = &state.machines["n1"];
            (machine.joints.values().next().unwrap().clone(), machine.sandboxes["/run/netns/web-1"].clone())
        };
        let (joint, sandbox) = machine(&world);
        world.judge_attachment("n1", &joint, &sandbox);
        assert_eq!(world.violations().len(), 1, "{:?}", world.violations());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connected_pod_that_is_cut_off_is_told() {
        let tap = names::tap_name(PORT);
        for wanted in [true, false] {
            for way in ["cut", "sweep", "unplug", "remove"] {
                let world = world_with_pod().await;
                let reach = reach(&world);
                if wanted {
                    world.put(WEB_1, json!({"metadata": {"name": "web-1", "uid": "uid-1"}}));
                } else {
                    world.state().machines.get_mut("n1").unwrap().remove_sandbox(NETNS);
                }
                let index = *world.state().machines["n1"].joints.keys().next().unwrap();
                match way {
                    "cut" => reach.cut(index).unwrap(),
                    "sweep" => assert_eq!(reach.sweep(&BTreeSet::new()).unwrap().entries, 1),
                    "unplug" => reach.del_ports(std::slice::from_ref(&tap)).await.unwrap(),
                    _ => reach.remove(&tap).unwrap(),
                }
                assert_eq!(world.violations().len(), usize::from(wanted), "{way}, {wanted}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_at_a_port_that_is_not_ready_is_told() {
        let world = world();
        let reach = reach(&world);
        let count = || world.violations().len();
        world.state().cloud.ports.insert(PORT.to_owned(), port());
        let uplink = prepare(&reach);
        attach(&reach, uplink);
        assert_eq!(count(), 1, "it is not on the switch");
        plug(&reach).await;
        attach(&reach, uplink);
        assert_eq!(count(), 2, "its flows are not installed");
        sleep(Duration::from_secs(2)).await;
        attach(&reach, uplink);
        assert_eq!(count(), 2, "they are");
        reboot(&world, "n1");
        let uplink = prepare(&reach);
        let has_sign = || world.state().machines["n1"].rows.values().all(|row| row.ovn_installed);
        assert!(has_sign(), "the row says that they are");
        attach(&reach, uplink);
        assert_eq!(count(), 3, "they were, before the node started again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_runs_with_a_port_that_is_not_as_it_should_be_is_told() {
        for (field, value, expect) in [
            ("name", json!("another"), 0),
            ("status", json!("DOWN"), 1),
            ("binding:host_id", json!(""), 1),
            ("security_groups", json!(["default-group"]), 1),
            ("fixed_ips", json!([{"subnet_id": SUBNET, "ip_address": "10.0.0.12"}]), 1),
            ("mac_address", json!("fa:16:3e:00:00:02"), 1),
        ] {
            let world = world_with_pod().await;
            world.state().cloud.ports.get_mut(PORT).unwrap()[field] = value;
            world.judge_start("n1", NETNS);
            assert_eq!(world.violations().len(), expect, "{field}");
        }
        let world = world_with_pod().await;
        world.judge_start("n1", "/run/netns/web-1");
        assert_eq!(world.violations().len(), 1, "it is not connected");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_at_a_port_that_its_switch_has_forgotten_is_told() {
        let world = world_with_pod().await;
        let reach = reach(&world);
        let judged = || {
            world.judge_start("n1", NETNS);
            world.violations().len()
        };
        world.state().wiring_most = 1_000_000;
        Reach::restart_switch(&world, "n1");
        let uplink = prepare(&reach);
        sleep(Duration::from_secs(3)).await;
        assert_eq!(judged(), 0, "it was there before");
        attach(&reach, uplink);
        assert_eq!(world.violations().len(), 1, "it comes after that");
        world.state().is_quiet = true;
        sleep(Duration::from_secs(2)).await;
        attach(&reach, uplink);
        assert_eq!(judged(), 1, "the switch has dealt with it again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_view_of_a_pod_that_runs_and_is_taken_away_is_told() {
        let path = format!("{VIEWS}web-1");
        for (uid, phase, expect) in
            [("uid-1", "Running", 1), ("uid-1", "Succeeded", 0), ("uid-2", "Running", 0)]
        {
            let world = world();
            world.put(WEB_1, json!({"metadata": {"name": "web-1", "uid": uid}, "status": {"phase": phase}}));
            let view = json!({"spec": {"podUid": "uid-1"}});
            world.note_write((&Caller::new(LEADER), false), &path, Some(&view), None);
            assert_eq!(world.violations().len(), expect, "{uid} {phase}");
        }
    }
}
