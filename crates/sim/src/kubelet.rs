//! Pods: whoever makes and deletes them, the kubelets that run them, and the controllers of Kubernetes that follow.
//!
//! A pod's name comes again, as that of a StatefulSet's pod does. A sandbox that could not be connected is deleted and
//! another one is made. After a reboot each pod that lives gets a new sandbox.

use std::{net::IpAddr, sync::Arc, time::Duration};

use kuryr_api::node::CniRequest;
use serde_json::{Value, json};
use tokio::{sync::watch, time::sleep};

use crate::{clocks::API_SERVER, world::World};

/// Between looks of the collector of garbage.
const COLLECT_EVERY: Duration = Duration::from_secs(5);

/// A pod, as whoever made it wants it.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) uid: String,
    pub(crate) node: String,
    /// Counts how often its node restarted. Its own, so that pods hear of it in order.
    pub(crate) boots: watch::Sender<u64>,
    /// What it is told to do.
    pub(crate) wish: watch::Sender<Wish>,
    /// Its address, once its sandbox is connected.
    pub(crate) address: Option<IpAddr>,
    pub(crate) netns: Option<String>,
}

/// What a pod is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wish {
    /// Run.
    Run,
    /// End by itself, as a Job's pod does; its object stays.
    End,
    /// Go.
    Delete,
    /// Go, and the object goes first, by force.
    Vanish,
}

/// Why a sandbox is not waited for any more.
enum Why {
    Told,
    Rebooted,
    Failed,
}

impl World {
    /// Makes a pod of that name on a node, unless there is one.
    pub(crate) fn make_pod(self: &Arc<Self>, name: &str, node: &str) {
        if self.state().pods.contains_key(name) || self.node_uid(node).is_none() {
            return;
        }
        let uid = format!("uid-{}", self.pod_number());
        let pod = Pod {
            uid: uid.clone(),
            node: node.to_owned(),
            boots: watch::Sender::new(0),
            wish: watch::Sender::new(Wish::Run),
            address: None,
            netns: None,
        };
        self.state().pods.insert(name.to_owned(), pod);
        self.note(format!("pod {name} {uid} comes to {node}"));
        self.put(&pod_path(name), pod_object(name, &uid, node, "Pending", None, false));
        let (world, name, node) = (Arc::clone(self), name.to_owned(), node.to_owned());
        self.spawn(async move { live(world, name, uid, node).await });
    }

    /// Tells a pod what to do; what it was told before is not taken back.
    pub(crate) fn tell_pod(&self, name: &str, wish: Wish) {
        self.note(format!("pod {name}: {wish:?}"));
        if let Some(pod) = self.state().pods.get(name) {
            pod.wish.send_if_modified(|now| {
                let more = wish > *now;
                *now = wish.max(*now);
                more
            });
        }
    }

    /// Pods that are told to run.
    pub(crate) fn running(&self) -> Vec<String> {
        let state = self.state();
        let wanted = state.pods.iter().filter(|(_, pod)| *pod.wish.borrow() == Wish::Run);
        wanted.map(|(name, _)| name.clone()).collect()
    }
}

fn pod_path(name: &str) -> String {
    format!("/api/v1/namespaces/d/pods/{name}")
}

fn slice_path(uid: &str) -> String {
    format!("/apis/discovery.k8s.io/v1/namespaces/d/endpointslices/of-{uid}")
}

fn view_path(name: &str) -> String {
    format!("/apis/openstack.org/v1/namespaces/d/kuryrports/{name}")
}

fn pod_object(
    name: &str,
    uid: &str,
    node: &str,
    phase: &str,
    address: Option<IpAddr>,
    leaves: bool,
) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "d", "uid": uid},
        "spec": {"nodeName": node, "containers": []}, "status": {"phase": phase}});
    if let Some(address) = address {
        pod["status"]["podIP"] = json!(address);
        pod["status"]["podIPs"] = json!([{"ip": address}]);
    }
    if leaves {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    pod
}

fn slice_object(name: &str, uid: &str, address: IpAddr) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("of-{uid}"), "namespace": "d", "labels": {"kubernetes.io/service-name": "s"}},
        "endpoints": [{"addresses": [address], "targetRef": {"kind": "Pod", "name": name, "uid": uid}}], "ports": []})
}

/// A pod's life on its node.
async fn live(world: Arc<World>, name: String, uid: String, node: String) {
    let mut wish = world.state().pods[&name].wish.subscribe();
    let mut boots = world.state().pods[&name].boots.subscribe();
    let mut number = 0;
    let mut address = None;
    while *wish.borrow_and_update() == Wish::Run {
        boots.borrow_and_update();
        number += 1;
        let container = format!("{name}-{uid}-{number}");
        let netns = format!("/run/netns/{container}");
        world.state().machines.get_mut(&node).unwrap().make_sandbox(&netns, &uid);
        let request = request(&world, &name, &uid, &container, &netns);
        let added = tokio::select! {
            biased;
            _ = wish.changed() => Err(Why::Told),
            _ = boots.changed() => Err(Why::Rebooted),
            added = world.cni_add(&node, request.clone()) => added.map_err(|error| {
                world.note(format!("ADD {container}: {error}"));
                Why::Failed
            }),
        };
        let why = match added {
            Ok(attachment) => {
                let got = attachment.addresses[0].address.addr();
                address = Some(got);
                begin(&world, &name, &uid, &node, &netns, got);
                tokio::select! {
                    biased;
                    _ = wish.changed() => Why::Told,
                    _ = boots.changed() => Why::Rebooted,
                }
            }
            Err(why) => why,
        };
        match why {
            Why::Rebooted => {
                world.note(format!("pod {name} lost its sandbox"));
                forget(&world, &name);
                sleep(Duration::from_secs(2)).await;
            }
            Why::Failed => {
                take_down(&world, &node, request, &netns, &mut boots).await;
                sleep(Duration::from_secs(1)).await;
            }
            Why::Told => {
                leave(&world, &name, &uid, &node, address, (request, &netns), &mut wish, &mut boots).await;
            }
        }
    }
    let wish = *wish.borrow();
    go(&world, &name, &uid, wish).await;
}

fn request(world: &World, name: &str, uid: &str, container: &str, netns: &str) -> CniRequest {
    // An older runtime does not tell the UID.
    let tells_uid = !world.state().chance.one_in(4);
    let arg = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let mut args = vec![arg("K8S_POD_NAMESPACE", "d"), arg("K8S_POD_NAME", name)];
    args.extend(tells_uid.then(|| arg("K8S_POD_UID", uid)));
    CniRequest {
        container_id: container.to_owned(),
        netns: netns.to_owned(),
        ifname: "eth0".to_owned(),
        args: args.into_iter().collect(),
        prev_result: None,
    }
}

/// The pod's containers start.
fn begin(world: &World, name: &str, uid: &str, node: &str, netns: &str, address: IpAddr) {
    {
        let state = &mut *world.state();
        state.machines.get_mut(node).unwrap().establish(netns);
        let pod = state.pods.get_mut(name).unwrap();
        (pod.address, pod.netns) = (Some(address), Some(netns.to_owned()));
    }
    world.note(format!("pod {name} {uid} runs with {address}"));
    world.judge_start(node, netns);
    world.put(&pod_path(name), pod_object(name, uid, node, "Running", Some(address), false));
    world.put(&slice_path(uid), slice_object(name, uid, address));
}

fn forget(world: &World, name: &str) {
    let state = &mut *world.state();
    let pod = state.pods.get_mut(name).unwrap();
    (pod.address, pod.netns) = (None, None);
}

/// A pod that was told to end or to go: its containers end, then its sandbox.
#[expect(clippy::too_many_arguments, reason = "all that there is of a pod")]
async fn leave(
    world: &Arc<World>,
    name: &str,
    uid: &str,
    node: &str,
    address: Option<IpAddr>,
    (request, netns): (CniRequest, &str),
    wish: &mut watch::Receiver<Wish>,
    boots: &mut watch::Receiver<u64>,
) {
    let told = *wish.borrow();
    match told {
        Wish::Run => return,
        Wish::End => {}
        Wish::Delete => world.put(&pod_path(name), pod_object(name, uid, node, "Running", address, true)),
        Wish::Vanish => world.remove(&pod_path(name)),
    }
    let (slice_goes, containers_end) = {
        let chance = &mut world.state().chance;
        (chance.millis(0, 4000), chance.millis(0, 2500))
    };
    let (of, slice) = (Arc::clone(world), slice_path(uid));
    world.spawn(async move {
        sleep(slice_goes).await;
        of.remove(&slice);
    });
    sleep(containers_end).await;
    if let Some(sandbox) = world.state().machines.get_mut(node).unwrap().sandboxes.get_mut(netns) {
        sandbox.established = false;
    }
    if told == Wish::End {
        world.put(&pod_path(name), pod_object(name, uid, node, "Succeeded", address, false));
    }
    forget(world, name);
    take_down(world, node, request, netns, boots).await;
}

/// Deletes a sandbox: DEL until it succeeds, then the namespace. Now and then nobody says DEL.
async fn take_down(
    world: &Arc<World>,
    node: &str,
    mut request: CniRequest,
    netns: &str,
    boots: &mut watch::Receiver<u64>,
) {
    let (silent, without_netns) = {
        let chance = &mut world.state().chance;
        (chance.one_in(8), chance.one_in(8))
    };
    if without_netns {
        request.netns.clear();
    }
    // After a reboot there is nothing left to delete; containerd asks all the same, once.
    while !silent && let Err(error) = world.cni_del(node, request.clone()).await {
        world.note(format!("DEL {}: {error}", request.container_id));
        if boots.has_changed().unwrap_or(true) {
            break;
        }
        sleep(Duration::from_secs(1)).await;
    }
    world.state().machines.get_mut(node).unwrap().remove_sandbox(netns);
}

/// Takes views away whose pods are gone, also those that were written when their pods had gone already.
pub(crate) async fn collect_garbage(world: Arc<World>) {
    loop {
        sleep(COLLECT_EVERY).await;
        let views = world.api.paths("/apis/openstack.org/v1/namespaces/d/kuryrports/");
        for path in views {
            let view = world.api.get(&path).unwrap_or_default();
            let owner = view["metadata"]["ownerReferences"][0]["uid"].as_str();
            if !owner.is_some_and(|uid| world.is_wanted(uid)) {
                world.remove(&path);
            }
        }
    }
}

/// A pod that was told to end while it had no sandbox has ended. Before more was added to what can happen it went on telling
/// its address.
fn end(world: &World, name: &str, uid: &str) {
    if !world.setup.is_harsh {
        return;
    }
    let path = pod_path(name);
    let Some(mut pod) = world.api.get(&path).filter(|pod| pod["metadata"]["uid"] == uid) else { return };
    if pod["status"]["phase"] != "Succeeded" {
        pod["status"]["phase"] = json!("Succeeded");
        world.put(&path, pod);
        world.remove(&slice_path(uid));
    }
}

/// The deletion of a pod that has ended takes a while: its node, or a finalizer, has something to do.
async fn linger(world: &World, name: &str, uid: &str) {
    if !world.setup.is_harsh {
        return;
    }
    let path = pod_path(name);
    let Some(mut pod) = world.api.get(&path).filter(|pod| pod["metadata"]["uid"] == uid) else { return };
    let now = world.time_of(API_SERVER).strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    pod["metadata"]["deletionTimestamp"] = json!(now);
    world.put(&path, pod);
    let takes = world.state().chance.millis(0, 25_000);
    sleep(takes).await;
}

/// What is left of a pod that ended goes when it is told to.
async fn go(world: &Arc<World>, name: &str, uid: &str, wish: Wish) {
    if wish == Wish::End {
        end(world, name, uid);
        let mut wishes = world.state().pods[name].wish.subscribe();
        let _ = wishes.wait_for(|wish| *wish > Wish::End).await;
        linger(world, name, uid).await;
    }
    let of_this_life = |path: &str| {
        let found = world.api.get(path);
        found.is_some_and(|found| found["metadata"]["uid"] == uid || found["spec"]["podUid"] == uid)
    };
    if of_this_life(&pod_path(name)) {
        world.remove(&pod_path(name));
    }
    world.remove(&slice_path(uid));
    world.note(format!("pod {name} {uid} is gone"));
    let view_goes = world.state().chance.millis(0, 2000);
    sleep(view_goes).await;
    // The garbage collector takes what the pod owned.
    if of_this_life(&view_path(name)) {
        world.remove(&view_path(name));
    }
    world.state().pods.remove(name);
}
