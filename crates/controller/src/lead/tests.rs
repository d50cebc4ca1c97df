//! Replicas against an API server and a cloud in memory, on paused time.

use std::sync::atomic::{AtomicBool, Ordering};

use kube::Client;
use kuryr_api::kuryrnode::{CheckpointRef, KuryrNode, KuryrNodeSpec, KuryrNodeStatus};
use kuryr_kubernetes::{
    clock::Clock,
    event::{EventConfig, Recorder, recorder},
    lease::{EPOCH_ANNOTATION, LeaseConfig, elector},
    patch::JsonPatch,
};
use kuryr_telemetry::metrics::Metrics;
use kuryr_testkit::api_server::{ApiServer, Fault, Streaming, Write};
use kuryr_types::Epoch;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use super::*;
use crate::{
    cloud::fake::{self, FakeCloud, lock},
    wiring::Outside,
};

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kuryr";
const RECORDS: &str = "/apis/kuryr.openstack.org/v1alpha1/kuryrnodes";
pub(crate) const OPTIONS: &str = "[kubernetes]\ncluster_id = c1\n[neutron_defaults]\npod_subnets = s4\n[vif_pool]\nports_pool_min = 2\nports_pool_batch = 2\n";

/// A controller that takes part in the election.
pub(crate) struct Replica {
    world: Arc<World>,
    leadership: Leadership,
    /// Ends when this is dropped, as in a crash: the Lease is not given back.
    tasks: JoinSet<()>,
}

impl Replica {
    fn start(client: Client, cloud: &Arc<FakeCloud>, options: &str, identity: &str) -> Self {
        Self::start_with(client, cloud, options, identity, Recorder::disabled())
    }

    fn start_with(
        client: Client,
        cloud: &Arc<FakeCloud>,
        options: &str,
        identity: &str,
        events: Recorder,
    ) -> Self {
        let outside = Outside {
            client: client.clone(),
            connect: cloud.connect(),
            events,
            registry: Metrics::new(),
            clock: Clock::of_machine(),
            seed: None,
        };
        let (mut tasks, never) = (JoinSet::new(), CancellationToken::new());
        let world = World::watching(fake::config(options), outside, &mut tasks, &never);
        let (candidate, leadership) =
            elector(client, LeaseConfig::new("kube-system", "kuryr", identity)).unwrap();
        tasks.spawn(candidate.run(never));
        let (of, with) = (Arc::clone(&world), leadership.clone());
        tasks.spawn(async move { whenever_elected(&of, &with).await });
        Self { world, leadership, tasks }
    }

    fn leads(&self) -> bool {
        self.leadership.is_leader_now()
    }
}

/// A cluster and a cloud.
pub(crate) struct Outdoors {
    pub(crate) api: ApiServer,
    pub(crate) cloud: Arc<FakeCloud>,
}

impl Outdoors {
    /// Nodes whose agents have reported, with the epochs that their records and their agents know.
    pub(crate) fn with_nodes(nodes: &[(&str, Epoch, Epoch)]) -> Self {
        let (api, cloud) = (ApiServer::new(Streaming::Allowed), Arc::new(FakeCloud::default()));
        lock(&cloud.subnets).push(fake::subnet("s4", "n"));
        for (name, epoch, epoch_seen) in nodes {
            let node_uid = format!("uid-of-{name}");
            let checkpoint = CheckpointRef { id: format!("record-of-{name}"), sequence: 1 };
            let spec =
                KuryrNodeSpec { epoch: *epoch, node_uid: node_uid.clone(), ..KuryrNodeSpec::default() };
            let status = KuryrNodeStatus {
                node_uid: node_uid.clone(),
                checkpoint,
                epoch_seen: *epoch_seen,
                host: Some((*name).into()),
                ..KuryrNodeStatus::default()
            };
            let record = KuryrNode { status: Some(status), ..KuryrNode::new(name, spec) };
            api.put(&format!("{RECORDS}/{name}"), serde_json::to_value(record).unwrap());
            api.put(&format!("/api/v1/nodes/{name}"), json!({"metadata": {"uid": node_uid}}));
        }
        Self { api, cloud }
    }

    pub(crate) fn replica(&self, identity: &str) -> Replica {
        self.replica_with(OPTIONS, identity)
    }

    pub(crate) fn replica_with(&self, options: &str, identity: &str) -> Replica {
        Replica::start(self.api.client(), &self.cloud, options, identity)
    }

    /// One whose Events are written.
    pub(crate) fn replica_that_tells(&self, identity: &str) -> Replica {
        let (events, writer) = recorder(self.api.client(), EventConfig::new("kuryr-controller", identity));
        let mut replica = Replica::start_with(self.api.client(), &self.cloud, OPTIONS, identity, events);
        replica.tasks.spawn(writer.run(CancellationToken::new()));
        replica
    }

    /// Messages of the Events about an object since writes were last looked at.
    pub(crate) fn events_about(&self, name: &str, reason: &str) -> Vec<String> {
        let writes = self.api.writes().into_iter().map(|write| write.body);
        let about = writes.filter(|body| body["involvedObject"]["name"] == name && body["reason"] == reason);
        about.map(|body| body["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    pub(crate) async fn pass(&self, seconds: u64) {
        for _ in 0..seconds {
            sleep(Duration::from_secs(1)).await;
            self.api.bookmark();
        }
    }

    fn epoch(&self, record: &str) -> u64 {
        self.api.get(&format!("{RECORDS}/{record}")).unwrap()["spec"]["epoch"].as_u64().unwrap()
    }

    /// Writes to records since the last call; whether each took effect.
    fn record_writes(&self) -> Vec<Write> {
        let mut writes = self.api.writes();
        writes.retain(|write| write.line.contains("/kuryrnodes"));
        writes
    }

    /// Calls since the last call that changed ports in the cloud.
    fn cloud_writes(&self) -> Vec<String> {
        let mut calls = std::mem::take(&mut *lock(&self.cloud.calls));
        calls.retain(|call| call.contains("/ports") && !call.starts_with("GET"));
        calls
    }

    fn port(&self, id: &str) -> Value {
        lock(&self.cloud.ports).iter().find(|port| port["id"] == id).unwrap().clone()
    }
}

fn take_over(from: Epoch, to: Epoch) -> Value {
    json!([
        {"op": "test", "path": "/spec/epoch", "value": from},
        {"op": "replace", "path": "/spec/epoch", "value": to},
    ])
}

#[tokio::test(start_paused = true)]
async fn the_epoch_is_greater_than_any_and_the_first_thing_in_every_record() {
    let outdoors = Outdoors::with_nodes(&[("n1", 4, 4), ("n2", 3, 7), ("n3", 1, 0)]);
    let lease = json!({"metadata": {"annotations": {EPOCH_ANNOTATION: "5"}}, "spec": {}});
    outdoors.api.put(LEASE, lease);
    let replica = outdoors.replica("a");
    outdoors.pass(30).await;
    assert!(replica.leads());

    let writes = outdoors.api.writes();
    let recorded = writes.iter().position(|write| {
        write.line.contains("/leases/") && write.body["metadata"]["annotations"][EPOCH_ANNOTATION] == "8"
    });
    for (record, epoch) in [("n1", 4), ("n2", 3), ("n3", 1)] {
        let of_record: Vec<(usize, &Write)> =
            writes.iter().enumerate().filter(|(_, write)| write.line.ends_with(record)).collect();
        let (first, rest) = of_record.split_first().unwrap();
        assert_eq!(first.1.body, take_over(epoch, 8), "{record}");
        assert!(recorded.unwrap() < first.0, "the Lease has it before {record}");
        assert!(!rest.is_empty(), "{record} is served");
        for (_, write) in rest {
            assert_eq!(write.body[0], json!({"op": "test", "path": "/spec/epoch", "value": 8}), "{record}");
        }
    }
    assert_eq!(lock(&outdoors.cloud.ports).len(), 9, "two ports and an own one for each node");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_once_the_lease_is_lost() {
    let outdoors = Outdoors::with_nodes(&[("n1", 0, 0)]);
    let replica = outdoors.replica("a");
    outdoors.pass(30).await;
    assert!(replica.leads());
    assert_eq!(outdoors.epoch("n1"), 1);

    for _ in 0..1000 {
        outdoors.api.fail("leases", Fault::Status(500));
    }
    outdoors.pass(11).await;
    assert!(!replica.leads());
    outdoors.record_writes();
    outdoors.cloud_writes();
    // There would be work: a pod that needs a port, and a port that is gone.
    let pod = json!({"spec": {"nodeName": "n1"}, "status": {"phase": "Pending"}});
    (0..5).for_each(|i| outdoors.api.put(&format!("/api/v1/namespaces/d/pods/p{i}"), pod.clone()));
    outdoors.pass(60).await;
    assert_eq!(outdoors.record_writes(), []);
    assert_eq!(outdoors.cloud_writes(), Vec::<String>::new());

    outdoors.api.heal();
    outdoors.pass(30).await;
    assert!(replica.leads());
    assert_eq!(outdoors.record_writes()[0].body, take_over(1, 2));
    assert!(!outdoors.cloud_writes().is_empty(), "the work is done by the next leadership");
}

#[tokio::test(start_paused = true)]
async fn what_a_former_leader_writes_late_is_refused() {
    let outdoors = Outdoors::with_nodes(&[("n1", 0, 0), ("n2", 0, 0)]);
    let cut = Arc::new(AtomicBool::new(false));
    let a = Replica::start(outdoors.api.client_behind(Arc::clone(&cut)), &outdoors.cloud, OPTIONS, "a");
    outdoors.pass(10).await;
    let b = outdoors.replica("b");
    outdoors.pass(20).await;
    assert_eq!((a.leads(), b.leads(), outdoors.epoch("n1")), (true, false, 1));

    cut.store(true, Ordering::Relaxed);
    outdoors.record_writes();
    outdoors.pass(40).await;
    assert_eq!((a.leads(), b.leads()), (false, true));
    let writes = outdoors.record_writes();
    for record in ["n1", "n2"] {
        let first = writes.iter().find(|write| write.line.ends_with(record)).unwrap();
        assert_eq!((first.accepted, &first.body), (true, &take_over(1, 2)), "{record}");
    }

    // As if it had been suspended between its last look at the Lease and the call.
    cut.store(false, Ordering::Relaxed);
    let late = JsonPatch::new().test("/spec/epoch", &1).add("/spec/ports", &json!({}));
    let refused = a.world.record_calls.patch("n1", &late).await.unwrap_err();
    assert!(refused.is_conflict(), "{refused}");
    outdoors.pass(60).await;
    assert_eq!((a.leads(), b.leads()), (false, true), "it is back, and follows");
    assert_eq!((outdoors.epoch("n1"), outdoors.epoch("n2")), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn the_next_leader_tags_what_was_made_and_not_tagged() {
    let outdoors = Outdoors::with_nodes(&[("n1", 0, 0)]);
    *lock(&outdoors.cloud.tags_fail) = true;
    let a = outdoors.replica("a");
    outdoors.pass(30).await;
    assert!(a.leads());
    let made = lock(&outdoors.cloud.ports).len();
    assert!(made > 0 && lock(&outdoors.cloud.ports).iter().all(|port| port["tags"] == json!([])));
    drop(a);
    // The same node's name in another cluster of the project, which is about to tag its port, too.
    let mut others = outdoors.port("p0");
    (others["id"], others["description"]) = (json!("other"), json!("kuryr-cluster:c2"));
    lock(&outdoors.cloud.ports).push(others);

    *lock(&outdoors.cloud.tags_fail) = false;
    let b = outdoors.replica("b");
    outdoors.pass(60).await;
    assert!(b.leads());
    for port in lock(&outdoors.cloud.ports).iter() {
        let expect = if port["id"] == "other" { json!([]) } else { json!([fake::TAG]) };
        assert_eq!(port["tags"], expect, "{port}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_plugged_is_wired_once_neutron_calls_it_active_and_nobody_asks_without_need() {
    let outdoors = Outdoors::with_nodes(&[("n1", 0, 0)]);
    let _replica = outdoors.replica("a");
    outdoors.pass(90).await;
    let path = format!("{RECORDS}/n1");
    let report = |plug: &str| {
        let mut record = outdoors.api.get(&path).unwrap();
        let id = record["spec"]["ports"].as_object().unwrap().keys().next().unwrap().clone();
        record["status"]["plugged"] = json!({&id: plug});
        outdoors.api.put(&path, record);
        id
    };
    let wired = |id: &str| outdoors.api.get(&path).unwrap()["spec"]["wired"][id].clone();
    let lists = || outdoors.cloud.count("GET /v2.0/ports");
    let before = lists();
    outdoors.pass(30).await;
    assert_eq!(lists(), before, "nothing waits");

    let id = report("row-1");
    outdoors.pass(60).await;
    assert_eq!(wired(&id), Value::Null);
    let asked = lists() - before;
    assert!((4..12).contains(&asked), "asked {asked} times for a port that is DOWN");
    for port in lock(&outdoors.cloud.ports).iter_mut().filter(|port| port["id"] == *id) {
        port["status"] = json!("ACTIVE");
    }
    outdoors.pass(20).await;
    assert_eq!(wired(&id), "row-1");
    // Plugged anew, and Neutron's agent has dealt with it: asked again.
    let before = lists();
    report("row-2");
    outdoors.pass(5).await;
    assert_eq!(wired(&id), "row-2");
    assert!(lists() > before);
}

/// A port of ours in the cloud, of a node of this name.
pub(crate) fn stray(id: &str, node: &str, last: u8) -> Value {
    let mut port = fake::port(id, fake::PROJECT, &format!("10.0.0.{last}"));
    port["name"] = json!(kuryr_planning::ownership::pool_port_name(node));
    (port["device_owner"], port["tags"]) = (json!(kuryr_api::names::POD_DEVICE_OWNER), json!([fake::TAG]));
    port
}

impl Outdoors {
    /// Ports that are offered to a node, by id.
    fn offered(&self, record: &str) -> Vec<String> {
        let record = self.api.get(&format!("{RECORDS}/{record}")).unwrap();
        let ports = record["spec"]["ports"].as_object().cloned().unwrap_or_default();
        let is_offered = |entry: &Value| entry["withdrawn"] != true && entry["doomed"] != true;
        ports.into_iter().filter(|(_, entry)| is_offered(entry)).map(|(id, _)| id).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn an_epoch_that_only_an_agent_can_have_made_up_does_not_count() {
    for made_up in [u64::MAX, i64::MAX as u64] {
        let outdoors = Outdoors::with_nodes(&[("n1", 4, 4), ("n2", 3, made_up)]);
        let replica = outdoors.replica("a");
        outdoors.pass(30).await;
        assert!(replica.leads());
        assert_eq!((outdoors.epoch("n1"), outdoors.epoch("n2")), (5, 5));
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_told_once() {
    let outdoors = Outdoors::with_nodes(&[("n1", 0, 0)]);
    let _replica = outdoors.replica("a");
    outdoors.pass(60).await;
    *lock(&outdoors.cloud.is_down) = true;
    outdoors.pass(90).await;
    assert!(!outdoors.record_writes().is_empty(), "it is told");
    outdoors.pass(120).await;
    assert_eq!(outdoors.record_writes(), [], "not with each request that fails");
}

#[tokio::test(start_paused = true)]
async fn a_lack_of_room_is_told_once() {
    let outdoors = Outdoors::with_nodes(&[("n1", 0, 0)]);
    *lock(&outdoors.cloud.quota) = Some(1);
    let _replica = outdoors.replica("a");
    outdoors.pass(90).await;
    assert!(!outdoors.record_writes().is_empty(), "it is told");
    outdoors.pass(120).await;
    assert_eq!(outdoors.record_writes(), [], "not with each request that is refused");
}

#[tokio::test(start_paused = true)]
async fn a_port_that_the_cloud_does_not_let_us_change_keeps_no_other_from_its_node() {
    let outdoors = Outdoors::with_nodes(&[("n1", 0, 0), ("n2", 0, 0)]);
    let mut broken = stray("broken", "n1", 99);
    broken["status"] = json!("ERROR");
    lock(&outdoors.cloud.ports).push(broken);
    *lock(&outdoors.cloud.failing) = vec!["PUT /v2.0/ports/broken".to_owned()];
    let _replica = outdoors.replica("a");
    outdoors.pass(120).await;
    assert_eq!((outdoors.offered("n1").len(), outdoors.offered("n2").len()), (2, 2));
    let problems = outdoors.api.get(&format!("{RECORDS}/n1")).unwrap()["spec"]["problems"].to_string();
    for part in ["PortNotChanged", "renaming port broken", "req-"] {
        assert!(problems.contains(part), "{problems}");
    }

    let lists = || outdoors.cloud.count("GET /v2.0/ports") - outdoors.cloud.count("GET /v2.0/ports/");
    let before = lists();
    outdoors.record_writes();
    outdoors.pass(200).await;
    assert!(lists() - before < 5, "{} lists for one port", lists() - before);
    assert_eq!(outdoors.record_writes(), [], "told once");
    lock(&outdoors.cloud.failing).clear();
    outdoors.pass(90).await;
    assert!(lock(&outdoors.cloud.ports).iter().all(|port| port["id"] != "broken"));
    let problems = outdoors.api.get(&format!("{RECORDS}/n1")).unwrap()["spec"]["problems"].to_string();
    assert!(!problems.contains("broken"), "{problems}");
}

#[tokio::test(start_paused = true)]
async fn a_port_that_others_change_all_the_time_is_left_alone_for_a_while() {
    let outdoors = Outdoors::with_nodes(&[("n1", 0, 0)]);
    let mut port = stray("busy", "n1", 99);
    port["status"] = json!("ERROR");
    lock(&outdoors.cloud.ports).push(port);
    *lock(&outdoors.cloud.shared) = vec!["PUT /v2.0/ports/busy".to_owned()];
    let _replica = outdoors.replica("a");
    outdoors.pass(120).await;
    let tried = outdoors.cloud.count("PUT /v2.0/ports/busy");
    assert!((4..20).contains(&tried), "{tried} times in two minutes");
    let problems = || outdoors.api.get(&format!("{RECORDS}/n1")).unwrap()["spec"]["problems"].to_string();
    assert!(problems().contains("PortShared"), "{}", problems());
    lock(&outdoors.cloud.shared).clear();
    outdoors.pass(60).await;
    assert!(lock(&outdoors.cloud.ports).iter().all(|port| port["id"] != "busy"));
    assert!(!problems().contains("PortShared"), "{}", problems());
}

#[tokio::test(start_paused = true)]
async fn orphans_that_cannot_be_deleted_keep_no_others() {
    let outdoors = Outdoors::with_nodes(&[("n1", 0, 0)]);
    for (id, last) in ["a", "b", "c", "d", "e", "f"].iter().zip(100..) {
        lock(&outdoors.cloud.ports).push(stray(id, "long gone", last));
    }
    *lock(&outdoors.cloud.failing) =
        ["a", "b", "c", "d", "e"].map(|id| format!("DELETE /v2.0/ports/{id}")).into();
    let _replica = outdoors.replica("a");
    outdoors.pass(600).await;
    assert!(lock(&outdoors.cloud.ports).iter().all(|port| port["id"] != "f"));
}

#[tokio::test(start_paused = true)]
async fn of_creations_whose_outcome_is_unknown_only_their_node_hears() {
    let outdoors = Outdoors::with_nodes(&[("n1", 0, 0)]);
    let _replica = outdoors.replica("a");
    outdoors.pass(60).await;
    let index = crate::cloud::PortIndex::new();
    index.end(index.begin(), &outdoors.cloud.access().owner, vec![]);
    index.doubt("n1");
    let known = |node: &str| index.of_node(node, std::iter::empty()).is_some();
    assert_eq!((known("n1"), known("n2"), index.all().is_some()), (false, true, false));
    index.end(index.begin(), &outdoors.cloud.access().owner, vec![]);
    assert!(known("n1") && index.all().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_standby_remembers_no_pods_that_ended_and_a_new_leader_looks_for_them() {
    let outdoors = Outdoors::with_nodes(&[("n1", 0, 0)]);
    let a = outdoors.replica("a");
    outdoors.pass(20).await;
    let b = outdoors.replica("b");
    outdoors.pass(20).await;
    assert_eq!((a.leads(), b.leads()), (true, false));
    let ended =
        json!({"metadata": {"uid": "u"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Succeeded"}});
    (0..9).for_each(|i| outdoors.api.put(&format!("/api/v1/namespaces/d/pods/p{i}"), ended.clone()));
    outdoors.pass(5).await;
    assert_eq!(b.world.ended_pods.stats().ready, 0);

    let views = "/apis/openstack.org/v1/namespaces/d/kuryrports";
    let view = json!({"metadata": {}, "spec": {"podUid": "u", "podNodeName": "n1"}, "status": {"vifs": {}}});
    drop(a);
    outdoors.api.put(&format!("{views}/p3"), view);
    outdoors.pass(60).await;
    assert!(b.leads());
    assert_eq!(outdoors.api.paths(views), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_standby_remembers_no_load_balancers_and_a_new_leader_looks_for_their_views() {
    let outdoors = Outdoors::with_nodes(&[]);
    let a = outdoors.replica("a");
    outdoors.pass(20).await;
    let b = outdoors.replica("b");
    outdoors.pass(20).await;
    assert_eq!((a.leads(), b.leads()), (true, false));
    let service = json!({"spec": {"type": "LoadBalancer"}});
    let slice = json!({"metadata": {"labels": {"kubernetes.io/service-name": "s0"}}, "addressType": "IPv4"});
    let views = "/apis/openstack.org/v1/namespaces/d/kuryrloadbalancers";
    let view = json!({"spec": {"ip": "10.1.0.1", "project_id": "k8s", "provider": "ovn", "security_groups_ids": [],
                               "subnet_id": "s", "type": "LoadBalancer"}, "status": {}});
    (0..9).for_each(|i| outdoors.api.put(&format!("/api/v1/namespaces/d/services/s{i}"), service.clone()));
    outdoors.api.put("/apis/discovery.k8s.io/v1/namespaces/d/endpointslices/s0", slice);
    outdoors.api.put("/api/v1/namespaces/d", json!({"metadata": {}}));
    outdoors.api.put(&format!("{views}/s1"), view.clone());
    outdoors.pass(5).await;
    let noted = |world: &World| {
        let stats = [world.balancers.stats(), world.view_keys.stats()];
        stats.map(|stats| stats.ready + stats.delayed)
    };
    assert_eq!(noted(&b.world), [0, 0]);

    // It went with its Service while nobody led, and waits for us.
    drop(a);
    let mut leaving = view;
    leaving["metadata"] = json!({"deletionTimestamp": "2026-11-21T00:00:00Z",
                                 "finalizers": [kuryr_api::names::KURYRLOADBALANCER_FINALIZER]});
    outdoors.api.put(&format!("{views}/gone"), leaving);
    outdoors.pass(60).await;
    assert!(b.leads());
    let left = outdoors.api.get(&format!("{views}/gone"));
    assert_eq!(left.map_or(json!([]), |view| view["metadata"]["finalizers"].clone()), json!([]));
}

#[tokio::test(start_paused = true)]
async fn ports_of_a_record_that_cannot_be_read_are_no_orphans() {
    let outdoors = Outdoors::with_nodes(&[("n1", 0, 0)]);
    // As a later version may write it.
    let path = format!("{RECORDS}/n1");
    let mut record = outdoors.api.get(&path).unwrap();
    record["spec"]["ports"] = json!({"theirs": {"generation": "of another kind"}});
    record["spec"]["ownPort"] = json!({"id": "own"});
    outdoors.api.put(&path, record);
    lock(&outdoors.cloud.ports).push(stray("theirs", "n1", 99));
    lock(&outdoors.cloud.ports).push(stray("long gone", "n9", 98));
    let _replica = outdoors.replica("a");
    outdoors.pass(600).await;
    assert_eq!(outdoors.port("theirs")["name"], "kuryr-pool/n1");
    assert_eq!(outdoors.port("long gone")["name"], "kuryr-pool/n9", "its record may be the one");
}

#[tokio::test(start_paused = true)]
async fn a_cloud_that_lists_nothing_just_after_its_start_is_not_believed() {
    let outdoors = Outdoors::with_nodes(&[("n1", 0, 0)]);
    let a = outdoors.replica("a");
    outdoors.pass(60).await;
    let offered = outdoors.offered("n1");
    assert_eq!(offered.len(), 2);
    let groups = || outdoors.cloud.count("POST /v2.0/security-groups");
    assert_eq!(groups(), 1);

    *lock(&outdoors.cloud.lists_nothing) = true;
    outdoors.pass(310).await;
    assert_eq!(groups(), 1, "there is one of ours");
    drop(a);
    let b = outdoors.replica("b");
    outdoors.pass(60).await;
    assert!(b.leads());
    assert_eq!((groups(), outdoors.offered("n1")), (1, offered.clone()), "a new leader knows by the records");
    *lock(&outdoors.cloud.lists_nothing) = false;
    outdoors.pass(60).await;
    assert_eq!((lock(&outdoors.cloud.ports).len(), outdoors.offered("n1")), (3, offered));
}

#[tokio::test(start_paused = true)]
async fn nodes_that_only_pods_name_are_not_remembered() {
    let outdoors = Outdoors::with_nodes(&[("n1", 0, 0)]);
    let replica = outdoors.replica("a");
    // Anybody who may create pods may write any name.
    let pod = json!({"spec": {"nodeName": "made-up"}, "status": {"phase": "Pending"}});
    outdoors.api.put("/api/v1/namespaces/d/pods/p0", pod);
    outdoors.pass(30).await;
    let lease = replica.leadership.current().unwrap();
    let governor = Governor::new(replica.world.config.rate, 0);
    let (creations, _wanted) = mpsc::unbounded_channel();
    let term = Term::begin(&replica.leadership, &lease, &[], governor, creations).await.unwrap();
    let term = Arc::new(term);
    for node in ["n1", "made-up"] {
        let key = pool::Key::Node(node.to_owned());
        pool::reconcile(key, Arc::clone(&replica.world), Arc::clone(&term)).await.unwrap();
    }
    assert_eq!(term.state().nodes.keys().collect::<Vec<_>>(), ["n1"]);
}

#[tokio::test(start_paused = true)]
async fn no_ports_are_made_for_pods_that_a_node_never_runs() {
    let outdoors = Outdoors::with_nodes(&[("n1", 0, 0)]);
    let node = json!({"metadata": {"uid": "uid-of-n1"}, "status": {"allocatable": {"pods": "4"}}});
    outdoors.api.put("/api/v1/nodes/n1", node);
    let pod = |number: usize| json!({"metadata": {"uid": number.to_string()}, "spec": {"nodeName": "n1"}});
    (0..40).for_each(|i| outdoors.api.put(&format!("/api/v1/namespaces/d/pods/p{i}"), pod(i)));
    let _replica = outdoors.replica("a");
    outdoors.pass(120).await;
    let offered = outdoors.offered("n1").len();
    assert!((4..10).contains(&offered), "{offered}");
}
