//! The runtime against a kernel, a disk and an API server in memory, on time that only moves when told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, atomic::Ordering as Atomic, mpsc},
    time::Duration,
};

use kuryr_api::{
    cni::{Attachment, config::ValidAttachment},
    kuryrnode::{KuryrNodeSpec, Problem},
    node::GcRequest,
};
use kuryr_conf::Conf;
use kuryr_kubernetes::{queue::QueueConfig, slim};
use kuryr_planning::claim::{Ledger, Own, Ready};
use kuryr_types::PortId;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    checkpoint::tests::{in_memory, on_full_disk},
    kernel::fake::FakeKernel,
    node::SwitchHealth,
    pods::fake::{FakeServer, pod, pod_json, store},
};

/// A node with everything around it.
struct Lab {
    fake: FakeKernel,
    server: FakeServer,
    sandboxes: Sandboxes,
    /// Keeps paused time from running ahead while threads of the kernel work.
    _hold: mpsc::Sender<()>,
}

impl Lab {
    fn new(ports: &[&str], pods: &[&str]) -> Self {
        Self::with(ports, pods, in_memory())
    }

    fn with(ports: &[&str], pods: &[&str], checkpoint: Checkpoint) -> Self {
        let (hold, held) = mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || held.recv());
        let fake = FakeKernel::with_sandboxes(&["c1", "c2", "c3"]);
        let server = FakeServer::default();
        let known: Vec<slim::Pod> = pods.iter().map(|name| pod(name, &format!("uid-{name}"))).collect();
        let conf = Conf::from_texts(&[("kuryr.conf", "[cni_daemon]\nnode_name = node1\n")]).unwrap();
        let mut registry = prometheus_client::registry::Registry::default();
        let sandboxes = Sandboxes::new(
            Arc::new(Config::resolve(&conf).unwrap()),
            checkpoint,
            State::new(),
            fake.kernel(),
            Pods::new(store(known), server.client(), "node1"),
            Recorder::disabled(),
            Metrics::new(&mut registry),
            Queue::new(QueueConfig::new("test")),
        );
        let lab = Self { fake, server, sandboxes, _hold: hold };
        lab.offer(ports, &[]);
        lab
    }

    /// Offers these ports, all ready.
    fn offer(&self, ports: &[&str], problems: &[Problem]) {
        let entry = |number: usize| {
            json!({
                "generation": format!("1.{number}"), "class": "plain", "network": "net",
                "mac": format!("fa:16:3e:00:00:{number:02x}"),
                "addresses": [{"subnet": "four", "address": format!("10.0.0.{}", number + 10)}],
            })
        };
        let entries: BTreeMap<&str, _> =
            ports.iter().enumerate().map(|(number, port)| (*port, entry(number))).collect();
        let spec: KuryrNodeSpec = serde_json::from_value(json!({
            "nodeUid": "node", "checkpoint": "point", "defaultClass": "plain", "ports": entries,
            "networks": {"net": {"name": "pods", "mtu": 1442}},
            "subnets": {"four": {"cidr": "10.0.0.0/24", "gateway": "10.0.0.1"}},
            "problems": problems,
        }))
        .unwrap();
        let spec = Arc::new(spec);
        let ready = |port: &PortId| Ready { generation: spec.ports[port].generation, since: Duration::ZERO };
        self.sandboxes.state.update(|state| {
            state.own = Some(Own { node_uid: "node".into(), checkpoint: "point".into() });
            state.surveyed = true;
            state.ready = spec.ports.keys().map(|port| (port.clone(), ready(port))).collect();
            state.uplinks = spec.ports.keys().map(|port| (port.clone(), 5)).collect();
            state.switch = SwitchHealth::Ready;
            state.kubernetes_in_sync = true;
            state.spec = Some(Arc::clone(&spec));
        });
    }

    async fn add(&self, container: &str, pod: &str) -> Result<Attachment> {
        self.sandboxes.add(&request(container, pod), CancellationToken::new()).await
    }

    fn add_in_background(&self, container: &str, pod: &str) -> JoinHandle<Result<Attachment>> {
        let (sandboxes, request) = (self.sandboxes.clone(), request(container, pod));
        tokio::spawn(async move { sandboxes.add(&request, CancellationToken::new()).await })
    }

    async fn del(&self, container: &str, pod: &str) {
        self.sandboxes.del(&request(container, pod)).await.unwrap();
    }

    fn ledger(&self) -> Ledger {
        self.sandboxes.checkpoint.look(|_, ledger| ledger.clone())
    }

    fn joined(&self) -> usize {
        self.fake.contents.lock().unwrap().joined.len()
    }
}

fn request(container: &str, pod: &str) -> CniRequest {
    let args =
        [("K8S_POD_NAMESPACE", "team-a"), ("K8S_POD_NAME", pod), ("K8S_POD_UID", &format!("uid-{pod}"))];
    CniRequest {
        container_id: container.into(),
        netns: format!("/run/netns/{container}"),
        ifname: "eth0".into(),
        args: args.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        prev_result: None,
    }
}

fn address(attachment: &Attachment) -> String {
    attachment.addresses[0].address.to_string()
}

/// Lets everything that can run do so, threads of the kernel included, without moving time far.
async fn settle() {
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(1));
        tokio::time::advance(Duration::from_millis(1)).await;
        tokio::task::yield_now().await;
    }
}

/// Waits until an ADD waits for a port.
async fn somebody_waits(lab: &Lab) {
    while lab.sandboxes.waiting() == 0 {
        settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_warm_add_asks_nobody_and_touches_the_kernel_last() {
    let lab = Lab::new(&["p0", "p1"], &["web-0"]);
    let durable = lab.sandboxes.checkpoint.watch();
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let note = Arc::clone(&seen);
    lab.fake.contents.lock().unwrap().on_attach.0 = Some(Arc::new(move |_| {
        note.lock().unwrap().extend(durable.borrow().ledger.claims.keys().cloned());
    }));
    let attachment = lab.add("c1", "web-0").await.unwrap();
    assert_eq!(address(&attachment), "10.0.0.10/24");
    assert_eq!(attachment.host_ifname.as_deref(), Some("krpp0"));
    assert_eq!(lab.server.calls.load(Atomic::Relaxed), 0);
    assert_eq!(*seen.lock().unwrap(), BTreeSet::from(["p0".into()]), "durable before the kernel is touched");
}

#[tokio::test(start_paused = true)]
async fn the_same_pod_keeps_its_port_whatever_its_sandboxes_do() {
    let lab = Lab::new(&["p0", "p1"], &["web-0", "web-1"]);
    let first = lab.add("c1", "web-0").await.unwrap();
    assert_eq!(address(&lab.add("c1", "web-0").await.unwrap()), address(&first), "asked twice");
    let other = lab.add("c2", "web-0").await.unwrap();
    assert_eq!(address(&other), address(&first), "another sandbox");
    // A late DEL of the first sandbox changes nothing.
    lab.del("c1", "web-0").await;
    assert_eq!(lab.ledger().claims["p0"].sandbox.as_ref().unwrap().container_id, "c2");
    lab.del("c2", "web-0").await;
    assert!(lab.ledger().claims["p0"].sandbox.is_none());
    assert_eq!(lab.joined(), 0);
    assert_ne!(address(&lab.add("c3", "web-1").await.unwrap()), address(&first), "held for its pod");
    assert_eq!(address(&lab.add("c2", "web-0").await.unwrap()), address(&first));
}

/// A pod of a `StatefulSet` is deleted and made anew: its name says nothing about its port.
#[tokio::test(start_paused = true)]
async fn another_life_of_a_name_gets_a_port_of_its_own() {
    let lab = Lab::new(&["p0", "p1"], &["web-0"]);
    let former = lab.add("c1", "web-0").await.unwrap();
    lab.sandboxes.pods.store().apply(pod("web-0", "uid-anew"));
    let mut anew = request("c2", "web-0");
    anew.args.insert("K8S_POD_UID".into(), "uid-anew".into());
    let got = lab.sandboxes.add(&anew, CancellationToken::new()).await.unwrap();
    assert_ne!(address(&got), address(&former));
    // What comes late is about the life before, and about what that still holds.
    assert_eq!(address(&lab.add("c3", "web-0").await.unwrap()), address(&former));
    lab.del("c1", "web-0").await;
    lab.del("c3", "web-0").await;
    let ledger = lab.ledger();
    assert_eq!((&ledger.claims["p0"].identity, &ledger.claims["p0"].sandbox), (&"uid-web-0".into(), &None));
    assert_eq!(ledger.claims["p1"].identity, "uid-anew".into());
    assert_eq!(ledger.claims["p1"].sandbox.as_ref().unwrap().container_id, "c2");
}

/// The runtime names a static pod by the hash of its manifest, the API server by the UID of its mirror.
#[tokio::test(start_paused = true)]
async fn a_static_pod_keeps_its_port_when_its_mirror_is_made_anew() {
    let lab = Lab::new(&["p0", "p1"], &[]);
    let mirror = |uid: &str| {
        let mut mirror = pod_json("web-0", uid);
        mirror["metadata"]["annotations"] =
            json!({"kubernetes.io/config.mirror": "hash", "kubernetes.io/config.hash": "hash"});
        lab.sandboxes.pods.store().apply(serde_json::from_value(mirror).unwrap());
    };
    let add = async |container: &str| {
        let mut request = request(container, "web-0");
        request.args.insert("K8S_POD_UID".into(), "hash".into());
        lab.sandboxes.add(&request, CancellationToken::new()).await.unwrap()
    };
    mirror("uid-of-the-mirror");
    let first = add("c1").await;
    mirror("uid-of-another-mirror");
    assert_eq!(address(&add("c2").await), address(&first));
    assert_eq!(lab.ledger().claims["p0"].identity, "hash".into());
}

/// The name is another pod's by now, of which the watch has not heard.
#[tokio::test(start_paused = true)]
async fn a_runtime_that_does_not_tell_the_uid_gets_no_port_of_the_life_before() {
    let lab = Lab::new(&["p0", "p1"], &["web-0"]);
    lab.add("c1", "web-0").await.unwrap();
    lab.del("c1", "web-0").await;
    *lab.server.pod.lock().unwrap() = Some(pod_json("web-0", "another"));
    let mut request = request("c2", "web-0");
    request.args.remove("K8S_POD_UID");
    lab.sandboxes.add(&request, CancellationToken::new()).await.unwrap();
    let claims = lab.ledger().claims;
    assert_eq!((claims["p0"].identity.as_str(), claims["p1"].identity.as_str()), ("uid-web-0", "another"));
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_takes_over_cuts_the_one_before() {
    let lab = Lab::new(&["p0"], &["web-0"]);
    lab.add("c1", "web-0").await.unwrap();
    lab.add("c2", "web-0").await.unwrap();
    assert_eq!(lab.fake.changes(), ["attach krpp0 /run/netns/c1", "cut 1", "attach krpp0 /run/netns/c2"]);
    lab.sandboxes.clear(&"p0".into()).await.unwrap();
    lab.sandboxes.clear(&"p0".into()).await.unwrap();
    assert_eq!(lab.fake.contents.lock().unwrap().cleared, [1], "after the answer, once");
    assert_eq!(lab.joined(), 1);
}

#[tokio::test(start_paused = true)]
async fn del_twice_and_of_nothing_is_success() {
    let lab = Lab::new(&["p0"], &["web-0"]);
    lab.del("c1", "web-0").await;
    lab.add("c1", "web-0").await.unwrap();
    let mut without_netns = request("c1", "web-0");
    without_netns.netns = String::new();
    lab.sandboxes.del(&without_netns).await.unwrap();
    lab.del("c1", "web-0").await;
    assert_eq!(lab.fake.changes(), ["attach krpp0 /run/netns/c1", "cut 1"]);
}

#[tokio::test(start_paused = true)]
async fn del_cancels_an_add_that_waits() {
    let lab = Lab::new(&[], &["web-0"]);
    let waiting = lab.add_in_background("c1", "web-0");
    somebody_waits(&lab).await;
    lab.del("c1", "web-0").await;
    assert!(matches!(waiting.await.unwrap(), Err(Error::Interrupted { .. })));
    assert_eq!((lab.sandboxes.waiting(), lab.ledger().claims.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn del_waits_for_an_add_that_attaches_and_cuts_it() {
    let lab = Lab::new(&["p0"], &["web-0"]);
    lab.fake.contents.lock().unwrap().attach_takes = Duration::from_millis(100);
    let attaching = lab.add_in_background("c1", "web-0");
    while lab.ledger().claims.is_empty() {
        settle().await;
    }
    std::thread::sleep(Duration::from_millis(20));
    settle().await;
    lab.del("c1", "web-0").await;
    let _either = attaching.await.unwrap();
    assert_eq!(lab.joined(), 0);
    assert!(lab.ledger().claims["p0"].sandbox.is_none());
}

/// Another Node has taken the place of this one meanwhile, and its record has no such claim.
#[tokio::test(start_paused = true)]
async fn an_add_whose_claim_is_gone_leaves_nothing_connected() {
    let lab = Lab::new(&["p0"], &["web-0"]);
    let checkpoint = lab.sandboxes.checkpoint.clone();
    lab.fake.contents.lock().unwrap().on_attach.0 = Some(Arc::new(move |_| {
        checkpoint.renew("another", "", Ledger::default());
    }));
    assert!(lab.add("c1", "web-0").await.is_err());
    assert_eq!(lab.joined(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_add_that_is_repeated_takes_over_from_the_first() {
    let lab = Lab::new(&[], &["web-0"]);
    let first = lab.add_in_background("c1", "web-0");
    somebody_waits(&lab).await;
    let second = lab.add_in_background("c1", "web-0");
    assert!(matches!(first.await.unwrap(), Err(Error::Interrupted { .. })));
    lab.offer(&["p0"], &[]);
    assert_eq!(address(&second.await.unwrap().unwrap()), "10.0.0.10/24");
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_goes_away_gives_up_its_add() {
    let lab = Lab::new(&[], &["web-0"]);
    let cancel = CancellationToken::new();
    let gone = cancel.clone();
    let sandboxes = lab.sandboxes.clone();
    let waiting = tokio::spawn(async move { sandboxes.add(&request("c1", "web-0"), cancel).await });
    somebody_waits(&lab).await;
    gone.cancel();
    assert!(matches!(waiting.await.unwrap(), Err(Error::Interrupted { .. })));
}

#[tokio::test(start_paused = true)]
async fn without_a_port_it_says_why_in_time() {
    let lab = Lab::new(&[], &["web-0"]);
    let problem = Problem { reason: "QuotaExceeded".into(), message: "quota of 100 ports is used up".into() };
    lab.offer(&[], &[problem]);
    let waiting = lab.add_in_background("c1", "web-0");
    somebody_waits(&lab).await;
    tokio::time::advance(Duration::from_secs(59)).await;
    settle().await;
    assert!(!waiting.is_finished());
    tokio::time::advance(Duration::from_secs(1)).await;
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.code(), 11);
    assert!(error.to_string().contains("quota of 100 ports"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_missing_bridge_is_named_sooner() {
    let lab = Lab::new(&[], &["web-0"]);
    lab.sandboxes
        .state
        .update(|state| state.switch = SwitchHealth::BridgeMissing { bridge: "br-int".into() });
    let waiting = lab.add_in_background("c1", "web-0");
    somebody_waits(&lab).await;
    tokio::time::advance(Duration::from_secs(10)).await;
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.code(), 11);
    assert!(error.to_string().contains("no bridge br-int"), "{error}");
    assert_eq!(lab.sandboxes.status().unwrap_err().code(), 50);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_goes_while_it_waits_is_let_go() {
    let lab = Lab::new(&[], &["web-0"]);
    let waiting = lab.add_in_background("c1", "web-0");
    somebody_waits(&lab).await;
    let mut leaving = pod_json("web-0", "uid-web-0");
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    lab.sandboxes.pods.store().apply(serde_json::from_value(leaving).unwrap());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(waiting.await.unwrap().unwrap_err().code(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_burst_shares_no_port() {
    let names: Vec<String> = (0..30).map(|number| format!("web-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let ports: Vec<String> = (0..30).map(|number| format!("p{number}")).collect();
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    let lab = Lab::new(&ports[..5], &names);
    for name in &names {
        lab.fake.contents.lock().unwrap().sandboxes.insert(format!("/run/netns/{name}"), "4:9".to_owned());
    }
    let adds: Vec<_> = names.iter().map(|name| lab.add_in_background(name, name)).collect();
    settle().await;
    lab.offer(&ports, &[]);
    let mut addresses = BTreeSet::new();
    for add in adds {
        assert!(addresses.insert(address(&add.await.unwrap().unwrap())));
    }
    assert_eq!(addresses.len(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_adds_and_lets_dels_through() {
    let lab = Lab::with(&["p0"], &["web-0"], on_full_disk());
    let error = lab.add("c1", "web-0").await.unwrap_err();
    assert_eq!(error.code(), 5);
    assert!(error.to_string().contains("make room"), "{error}");
    assert!(lab.ledger().claims.is_empty(), "taken back");
    assert_eq!(lab.fake.changes(), Vec::<String>::new());
    lab.del("c1", "web-0").await;
}

#[tokio::test(start_paused = true)]
async fn what_the_kernel_refuses_keeps_the_claim() {
    let lab = Lab::new(&["p0", "p1"], &["web-0"]);
    let taken = kuryr_datapath::Error::LinkTaken { name: "eth0".into() };
    lab.fake.contents.lock().unwrap().refuse_attach = Some(taken);
    assert_eq!(lab.add("c1", "web-0").await.unwrap_err().code(), 999);
    assert_eq!(lab.sandboxes.faults(), 1);
    assert_eq!(address(&lab.add("c1", "web-0").await.unwrap()), "10.0.0.10/24");
    assert_eq!(lab.sandboxes.faults(), 0);
    lab.fake.contents.lock().unwrap().sandboxes.remove("/run/netns/c2");
    assert_eq!(lab.add("c2", "web-0").await.unwrap_err().code(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_holds_a_port_needs_no_api_server() {
    let lab = Lab::new(&["p0"], &["web-0"]);
    lab.add("c1", "web-0").await.unwrap();
    lab.del("c1", "web-0").await;
    *lab.server.down.lock().unwrap() = true;
    lab.sandboxes.pods.store().reset(vec![], BTreeMap::new());
    assert!(lab.add("c2", "web-0").await.is_ok());
    assert_eq!(lab.server.calls.load(Atomic::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_claimed_before_the_checkpoint_counts() {
    let lab = Lab::new(&["p0"], &["web-0"]);
    lab.sandboxes.state.update(|state| state.own = None);
    let waiting = lab.add_in_background("c1", "web-0");
    somebody_waits(&lab).await;
    assert!(!waiting.is_finished() && lab.ledger().claims.is_empty());
    lab.offer(&["p0"], &[]);
    assert!(waiting.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn requests_that_cannot_be_right_are_refused() {
    let lab = Lab::new(&["p0"], &["web-0"]);
    let mut nameless = request("c1", "web-0");
    nameless.args.clear();
    let refused = lab.sandboxes.add(&nameless, CancellationToken::new()).await;
    assert_eq!(refused.unwrap_err().code(), 4);
    // Older runtimes send no identity: the API server knows it.
    *lab.server.pod.lock().unwrap() = Some(pod_json("web-0", "uid-web-0"));
    let mut without_uid = request("c1", "web-0");
    without_uid.args.remove("K8S_POD_UID");
    assert!(lab.sandboxes.add(&without_uid, CancellationToken::new()).await.is_ok());
    assert_eq!(lab.ledger().claims["p0"].identity, "uid-web-0".into());
}

#[tokio::test(start_paused = true)]
async fn check_compares_with_what_was_attached() {
    let lab = Lab::new(&["p0"], &["web-0"]);
    assert_eq!(lab.sandboxes.check(&request("c1", "web-0")).await.unwrap_err().code(), 3);
    lab.add("c1", "web-0").await.unwrap();
    lab.sandboxes.check(&request("c1", "web-0")).await.unwrap();
    let change = |mtu| lab.fake.contents.lock().unwrap().observed.get_mut("/run/netns/c1").unwrap().mtu = mtu;
    change(1500);
    let error = lab.sandboxes.check(&request("c1", "web-0")).await.unwrap_err();
    assert_eq!(error.code(), 110);
    assert!(error.to_string().contains("the MTU is 1500 and should be 1442"), "{error}");
    change(1442);
    lab.fake.contents.lock().unwrap().joined.clear();
    assert_eq!(lab.sandboxes.check(&request("c1", "web-0")).await.unwrap_err().code(), 110);
}

#[tokio::test(start_paused = true)]
async fn gc_cuts_what_is_not_listed() {
    let lab = Lab::new(&["p0", "p1"], &["web-0", "web-1"]);
    lab.add("c1", "web-0").await.unwrap();
    lab.add("c2", "web-1").await.unwrap();
    let valid = ValidAttachment { container_id: "c2".into(), ifname: "eth0".into() };
    lab.sandboxes.gc(&GcRequest { valid_attachments: vec![valid] }).await.unwrap();
    let ledger = lab.ledger();
    assert!(ledger.claims["p0"].sandbox.is_none() && ledger.claims["p1"].sandbox.is_some());
}
