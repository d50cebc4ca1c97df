//! A Service and its load balancer, against an API server and a cloud in memory, on paused time.

use kuryr_testkit::api_server::Fault;
use serde_json::{Value, json};

use crate::{
    cloud::fake::lock,
    lead::tests::{OPTIONS, Outdoors, stray},
};

const SERVICE: &str = "/api/v1/namespaces/d/services/web";
const SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/d/endpointslices/web-1";
const FINALIZER: &str = "kuryr.openstack.org/service-finalizer";

fn with_service() -> Outdoors {
    let outdoors = Outdoors::with_nodes(&[]);
    let spec = json!({"type": "LoadBalancer", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
                      "ipFamilies": ["IPv4"], "clusterIPs": ["10.96.0.7"]});
    outdoors
        .api
        .put(SERVICE, json!({"metadata": {"uid": "u"}, "spec": spec, "status": {"loadBalancer": {}}}));
    outdoors.api.put(SLICE, slice(&["10.0.0.7"]));
    outdoors
}

fn slice(addresses: &[&str]) -> Value {
    let endpoints: Vec<_> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
    json!({"metadata": {"labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
           "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints})
}

/// Calls since the last call that changed load balancers or floating IPs.
fn changes(outdoors: &Outdoors) -> Vec<String> {
    let mut calls = std::mem::take(&mut *lock(&outdoors.cloud.calls));
    calls.retain(|call| {
        (call.contains("/lbaas/") || call.contains("/floatingips")) && !call.starts_with("GET")
    });
    calls
}

fn told(outdoors: &Outdoors) -> Value {
    outdoors.api.get(SERVICE).unwrap()["status"]["loadBalancer"]["ingress"].clone()
}

#[tokio::test(start_paused = true)]
async fn a_service_gets_a_whole_load_balancer_and_leaves_nothing() {
    let outdoors = with_service();
    let external = "external_svc_net = ext\n";
    let options = OPTIONS.replace("[neutron_defaults]\n", &format!("[neutron_defaults]\n{external}"));
    let replica = outdoors.replica_with(&options, "a");
    outdoors.pass(30).await;
    let made = ["POST /v2/lbaas/loadbalancers", "POST /v2.0/floatingips", "PUT /v2.0/floatingips/f1/tags"];
    assert_eq!(changes(&outdoors), made);
    assert_eq!(told(&outdoors), json!([{"ip": "203.0.113.7", "ipMode": "VIP"}]));
    assert_eq!(outdoors.api.get(SERVICE).unwrap()["metadata"]["finalizers"], json!([FINALIZER]));
    let created = lock(&outdoors.cloud.octavia).balancers[0].clone();
    assert_eq!((&created["name"], &created["provider"]), (&json!("d/web"), &json!("ovn")));
    let mark = format!("kuryr_lb {} kuryr-service:u", crate::cloud::fake::TAG);
    assert_eq!(lock(&outdoors.cloud.octavia).floating[0]["description"], json!(mark));
    let member = &created["listeners"][0]["default_pool"]["members"][0];
    assert_eq!((&member["address"], &member["subnet_id"]), (&json!("10.0.0.7"), &json!("s4")));

    // A hundred endpoints: one change.
    let many: Vec<String> = (1..=100).map(|number| format!("10.0.0.{number}")).collect();
    outdoors.api.put(SLICE, slice(&many.iter().map(String::as_str).collect::<Vec<_>>()));
    outdoors.pass(10).await;
    assert_eq!(changes(&outdoors).len(), 1);

    // Another controller, which remembers nothing: no change.
    drop(replica);
    let _replica = outdoors.replica_with(&options, "b");
    outdoors.pass(60).await;
    assert!(lock(&outdoors.cloud.calls).iter().any(|call| call.ends_with("/members")), "it has looked");
    assert_eq!(changes(&outdoors), Vec::<String>::new());

    // It is deleted: the floating IP, then everything.
    let mut leaving = outdoors.api.get(SERVICE).unwrap();
    leaving["metadata"]["deletionTimestamp"] = json!("2026-11-21T00:00:00Z");
    outdoors.api.put(SERVICE, leaving);
    outdoors.pass(20).await;
    assert_eq!(changes(&outdoors), ["DELETE /v2.0/floatingips/f1", "DELETE /v2/lbaas/loadbalancers/b1"]);
    assert!(lock(&outdoors.cloud.octavia).balancers.is_empty());
    assert_eq!(outdoors.api.get(SERVICE), None);
}

#[tokio::test(start_paused = true)]
async fn a_floating_ip_that_cannot_be_tagged_keeps_no_load_balancer_from_repair() {
    let outdoors = with_service();
    let tag = "PUT /v2.0/floatingips/f1/tags".to_owned();
    *lock(&outdoors.cloud.failing) = vec![tag.clone()];
    let external = "[neutron_defaults]\nexternal_svc_net = ext\n";
    let _replica = outdoors.replica_with(&OPTIONS.replace("[neutron_defaults]\n", external), "a");
    outdoors.pass(30).await;
    let address = json!([{"ip": "203.0.113.7", "ipMode": "VIP"}]);
    assert_eq!(told(&outdoors), address);
    changes(&outdoors);

    lock(&outdoors.cloud.octavia).balancers[0]["provisioning_status"] = json!("ERROR");
    outdoors.api.put(SLICE, slice(&["10.0.0.8"]));
    outdoors.pass(120).await;
    let mut done = changes(&outdoors);
    done.retain(|call| *call != tag);
    let repaired =
        ["DELETE /v2/lbaas/loadbalancers/b1", "POST /v2/lbaas/loadbalancers", "PUT /v2.0/floatingips/f1"];
    assert_eq!(done, repaired);
    assert_eq!(told(&outdoors), address);

    // Members do not wait for it either.
    outdoors.api.put(SLICE, slice(&["10.0.0.9"]));
    outdoors.pass(20).await;
    assert!(changes(&outdoors).iter().any(|call| call.ends_with("/members")));
    lock(&outdoors.cloud.failing).clear();
    outdoors.pass(120).await;
    assert_eq!(changes(&outdoors).last(), Some(&tag));
}

#[tokio::test(start_paused = true)]
async fn changes_that_follow_one_another_do_not_wait_for_a_floating_ip_that_fails() {
    let outdoors = with_service();
    let make = "POST /v2.0/floatingips".to_owned();
    *lock(&outdoors.cloud.failing) = vec![make.clone()];
    let external = "[neutron_defaults]\nexternal_svc_net = ext\n";
    let _replica = outdoors.replica_with(&OPTIONS.replace("[neutron_defaults]\n", external), "a");
    // It has failed for so long that it is tried rarely.
    outdoors.pass(1200).await;
    let tries = changes(&outdoors).iter().filter(|call| **call == make).count();
    assert!((4..120).contains(&tries), "{tries} tries in twenty minutes");
    let mut service = outdoors.api.get(SERVICE).unwrap();
    let ports = service["spec"]["ports"].as_array_mut().unwrap();
    ports.push(json!({"name": "http", "port": 81, "protocol": "TCP"}));
    outdoors.api.put(SERVICE, service);
    outdoors.pass(5).await;
    let mut done = changes(&outdoors);
    done.retain(|call| *call != make);
    let members = "PUT /v2/lbaas/pools/pools-2/members";
    assert_eq!(done, ["POST /v2/lbaas/pools", members, "POST /v2/lbaas/listeners"]);
}

#[tokio::test(start_paused = true)]
async fn a_service_goes_though_the_cloud_does_not_let_its_floating_ip_go() {
    let outdoors = with_service();
    let external = "[neutron_defaults]\nexternal_svc_net = ext\n";
    let _replica = outdoors.replica_with(&OPTIONS.replace("[neutron_defaults]\n", external), "a");
    outdoors.pass(30).await;
    *lock(&outdoors.cloud.failing) = vec!["DELETE /v2.0/floatingips/f1".to_owned()];
    let mut leaving = outdoors.api.get(SERVICE).unwrap();
    leaving["metadata"]["deletionTimestamp"] = json!("2026-11-21T00:00:00Z");
    outdoors.api.put(SERVICE, leaving);
    outdoors.pass(120).await;
    assert_eq!(lock(&outdoors.cloud.octavia).balancers.len(), 1, "it waits for the floating IP");
    outdoors.pass(900).await;
    assert_eq!(lock(&outdoors.cloud.octavia).balancers.len(), 0);
    assert_eq!(outdoors.api.get(SERVICE), None);
    lock(&outdoors.cloud.failing).clear();
    outdoors.pass(900).await;
    assert!(lock(&outdoors.cloud.octavia).floating.is_empty(), "the full lists find it");
}

#[tokio::test(start_paused = true)]
async fn a_floating_ip_that_was_made_and_not_tagged_is_found_without_its_load_balancer() {
    for (kind, expect) in
        [("LoadBalancer", "PUT /v2.0/floatingips/f1"), ("ClusterIP", "DELETE /v2.0/floatingips/f1")]
    {
        let outdoors = with_service();
        *lock(&outdoors.cloud.failing) = vec!["PUT /v2.0/floatingips/f1/tags".to_owned()];
        let external = "[neutron_defaults]\nexternal_svc_net = ext\n";
        let options = OPTIONS.replace("[neutron_defaults]\n", external);
        let _replica = outdoors.replica_with(&options, "a");
        outdoors.pass(10).await;
        // The load balancer goes, and with it the only port that tells of it. Nobody was told its address.
        {
            let mut octavia = lock(&outdoors.cloud.octavia);
            (octavia.balancers, octavia.listeners, octavia.pools) = (vec![], vec![], vec![]);
            octavia.floating[0]["port_id"] = Value::Null;
        }
        let mut service = outdoors.api.get(SERVICE).unwrap();
        service["spec"]["type"] = json!(kind);
        service["status"] = json!({"loadBalancer": {}});
        outdoors.api.put(SERVICE, service);
        lock(&outdoors.cloud.failing).clear();
        changes(&outdoors);
        outdoors.pass(60).await;
        let done = changes(&outdoors);
        assert!(done.iter().any(|call| call == expect), "{kind}: {done:?}");
        assert!(!done.iter().any(|call| call == "POST /v2.0/floatingips"), "{kind}: {done:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_nobodys_is_deleted_and_what_is_not_ours_left_alone() {
    let outdoors = Outdoors::with_nodes(&[]);
    let balancer = |id: &str, tags: &[&str]| {
        json!({"id": id, "name": "d/gone", "project_id": crate::cloud::fake::PROJECT, "provider": "ovn", "tags": tags,
               "provisioning_status": "ACTIVE", "vip_port_id": "vip", "vip_address": "10.0.0.9"})
    };
    let ours = balancer("ours", &[crate::cloud::fake::TAG]);
    lock(&outdoors.cloud.octavia).balancers = vec![ours];
    let _replica = outdoors.replica("a");
    outdoors.pass(30).await;
    assert_eq!(changes(&outdoors), ["DELETE /v2/lbaas/loadbalancers/ours"]);
    lock(&outdoors.cloud.octavia).balancers = vec![balancer("theirs", &["other"])];
    outdoors.pass(400).await;
    assert_eq!(changes(&outdoors), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn another_service_of_the_name_is_not_told_the_address_of_the_one_before() {
    let outdoors = with_service();
    let options = OPTIONS.replace("[neutron_defaults]\n", "[neutron_defaults]\nexternal_svc_net = ext\n");
    let _replica = outdoors.replica_with(&options, "a");
    outdoors.pass(30).await;
    assert_eq!(told(&outdoors), json!([{"ip": "203.0.113.7", "ipMode": "VIP"}]));
    // Nothing is heard of Services any more, while another one comes and the first one's address changes.
    outdoors.api.fail("/api/v1/services", Fault::Hang);
    outdoors.api.cut();
    outdoors.pass(2).await;
    outdoors.api.remove(SERVICE);
    let spec = json!({"type": "ClusterIP", "ports": [], "ipFamilies": ["IPv4"], "clusterIPs": ["10.96.0.8"]});
    outdoors
        .api
        .put(SERVICE, json!({"metadata": {"uid": "v"}, "spec": spec, "status": {"loadBalancer": {}}}));
    lock(&outdoors.cloud.octavia).floating[0]["floating_ip_address"] = json!("203.0.113.8");
    outdoors.api.writes();
    outdoors.api.put(SLICE, slice(&["10.0.0.8"]));
    outdoors.pass(10).await;
    assert!(outdoors.api.writes().iter().any(|write| write.line.contains("/services/web")), "it was tried");
    outdoors.pass(60).await;
    assert_eq!(told(&outdoors), Value::Null);
}

const VIEW: &str = "/apis/openstack.org/v1/namespaces/d/kuryrloadbalancers/web";
const UPSTREAMS: &str = "kuryr.openstack.org/kuryrloadbalancer-finalizers";

#[tokio::test(start_paused = true)]
async fn a_floating_ip_whose_service_and_load_balancer_are_gone_is_deleted() {
    let outdoors = with_service();
    let floating = |id: &str, port: Value, tags: &[&str]| {
        json!({"id": id, "project_id": crate::cloud::fake::PROJECT, "floating_ip_address": "203.0.113.9",
               "floating_network_id": "ext", "port_id": port, "description": "kuryr_lb", "tags": tags})
    };
    let mut peoples = floating("peoples", Value::Null, &[crate::cloud::fake::TAG]);
    peoples["description"] = json!("of somebody");
    let described = |id: &str, description: String| {
        let mut made = floating(id, Value::Null, &[]);
        made["description"] = json!(description);
        made
    };
    let marked = |id: &str, uid: &str| {
        described(id, format!("kuryr_lb {} kuryr-service:{uid}", crate::cloud::fake::TAG))
    };
    lock(&outdoors.cloud.octavia).floating = vec![
        floating("stray", Value::Null, &[crate::cloud::fake::TAG, "kuryr-service:gone"]),
        floating("leads", json!("p"), &[crate::cloud::fake::TAG, "kuryr-service:gone"]),
        floating("kept", Value::Null, &[crate::cloud::fake::TAG, "kuryr-service:gone", "kuryr-kept"]),
        floating("theirs", Value::Null, &["kuryr-cluster:other", "kuryr-service:gone"]),
        floating("disowned", Value::Null, &[]),
        peoples,
        // Of a Service that is there and was never asked about, because it needs no load balancer.
        floating("found", Value::Null, &[crate::cloud::fake::TAG, "kuryr-service:v"]),
        // Made, and never tagged.
        marked("untagged", "gone"),
        marked("found-untagged", "v"),
        // What others write.
        marked("shops", "gone, now the shop's"),
        described("others", "kuryr_lb kuryr-cluster:other kuryr-service:gone".to_owned()),
    ];
    let spec = json!({"type": "ClusterIP", "ports": [], "ipFamilies": ["IPv4"], "clusterIPs": ["10.96.0.8"]});
    let other = json!({"metadata": {"uid": "v"}, "spec": spec, "status": {"loadBalancer": {}}});
    outdoors.api.put(&SERVICE.replace("/web", "/other"), other);
    let _replica = outdoors.replica("a");
    let deleted = |outdoors: &Outdoors| {
        let mut changes = changes(outdoors);
        changes.retain(|change| change.starts_with("DELETE"));
        changes
    };
    outdoors.pass(30).await;
    let expect = ["DELETE /v2.0/floatingips/found", "DELETE /v2.0/floatingips/found-untagged"];
    assert_eq!(deleted(&outdoors), expect, "a stray may be of a Service that is not known yet");
    outdoors.pass(900).await;
    let expect = ["DELETE /v2.0/floatingips/stray", "DELETE /v2.0/floatingips/untagged"];
    assert_eq!(deleted(&outdoors), expect);
    let tags = |id: &str| {
        let octavia = lock(&outdoors.cloud.octavia);
        octavia.floating.iter().find(|found| found["id"] == id).unwrap()["tags"].clone()
    };
    assert_eq!((tags("shops"), tags("others")), (json!([]), json!([])));
}

/// Writes of views since the last call.
fn view_writes(outdoors: &Outdoors) -> Vec<String> {
    let writes = outdoors.api.writes();
    let views = writes.iter().filter(|write| write.line.contains("/kuryrloadbalancers"));
    views.map(|write| write.line.split(' ').next().unwrap_or_default().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn the_view_of_a_load_balancer_follows_it_calmly() {
    let outdoors = with_service();
    let _replica = outdoors.replica("a");
    outdoors.pass(30).await;
    assert_eq!(view_writes(&outdoors), ["POST"]);
    let view = outdoors.api.get(VIEW).unwrap();
    assert_eq!(view["metadata"]["ownerReferences"][0]["uid"], "u");
    assert_eq!((&view["spec"]["ip"], &view["spec"]["provider"]), (&json!("10.96.0.7"), &json!("ovn")));
    assert_eq!(view["status"]["loadbalancer"]["id"], "b1");
    assert_eq!(view["status"]["members"].as_array().unwrap().len(), 1);

    // Endpoints come one after the other for three seconds: as many writes at most, and the last of them tells all.
    for number in 1..=12 {
        let all: Vec<String> = (1..=number).map(|number| format!("10.0.0.{number}")).collect();
        outdoors.api.put(SLICE, slice(&all.iter().map(String::as_str).collect::<Vec<_>>()));
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
    }
    outdoors.pass(20).await;
    let writes = view_writes(&outdoors);
    assert!((1..=4).contains(&writes.len()) && writes.iter().all(|write| write == "PUT"), "{writes:?}");
    assert_eq!(outdoors.api.get(VIEW).unwrap()["status"]["members"].as_array().unwrap().len(), 12);

    // Somebody writes there what upstream's users write, and somebody takes it away.
    let told = outdoors.api.get(VIEW).unwrap()["status"].clone();
    let mut reset = outdoors.api.get(VIEW).unwrap();
    reset["status"] = json!({});
    outdoors.api.put(VIEW, reset);
    outdoors.pass(10).await;
    assert_eq!(outdoors.api.get(VIEW).unwrap()["status"], told);
    outdoors.api.remove(VIEW);
    outdoors.pass(10).await;
    assert_eq!(view_writes(&outdoors), ["PUT", "POST"]);

    // Nothing happens: nothing is written.
    outdoors.pass(600).await;
    assert_eq!(view_writes(&outdoors), Vec::<String>::new());

    // The Service needs no load balancer any more.
    let mut service = outdoors.api.get(SERVICE).unwrap();
    service["spec"]["type"] = json!("ClusterIP");
    outdoors.api.put(SERVICE, service);
    outdoors.pass(30).await;
    assert_eq!((view_writes(&outdoors), outdoors.api.get(VIEW)), (vec!["DELETE".to_owned()], None));
}

#[tokio::test(start_paused = true)]
async fn a_view_that_was_left_to_a_service_without_a_load_balancer_goes() {
    let outdoors = with_service();
    let replica = outdoors.replica("a");
    outdoors.pass(30).await;
    let view = outdoors.api.get(VIEW).unwrap();
    drop(replica);
    // Whoever led before took the finalizer off, and ended before the view was deleted.
    let spec = json!({"type": "ClusterIP", "ports": [], "ipFamilies": ["IPv4"], "clusterIPs": ["10.96.0.7"]});
    let service = json!({"metadata": {"uid": "u"}, "spec": spec, "status": {"loadBalancer": {}}});
    outdoors.api.put(SERVICE, service);
    lock(&outdoors.cloud.octavia).balancers.clear();
    outdoors.api.put(VIEW, view);
    let _replica = outdoors.replica("b");
    outdoors.pass(60).await;
    assert_eq!(outdoors.api.get(VIEW), None);
}

#[tokio::test(start_paused = true)]
async fn upstreams_views_become_ours_and_hold_nothing_up() {
    let outdoors = with_service();
    let upstreams = |name: &str| {
        json!({"apiVersion": "openstack.org/v1", "kind": "KuryrLoadBalancer",
               "metadata": {"uid": format!("uid-of-{name}"), "finalizers": [UPSTREAMS, "example.org/other"],
                            "labels": {"team": "a"}},
               "spec": {"ip": "10.96.0.7", "security_groups_ids": ["g"]}, "status": {}})
    };
    outdoors.api.put(VIEW, upstreams("web"));
    let other = VIEW.replace("/web", "/gone");
    let mut leaving = upstreams("gone");
    leaving["metadata"]["deletionTimestamp"] = json!("2026-11-21T00:00:00Z");
    outdoors.api.put(&other, leaving);
    let _replica = outdoors.replica("a");
    outdoors.pass(30).await;
    let view = outdoors.api.get(VIEW).unwrap();
    assert_eq!(view["status"]["loadbalancer"]["id"], "b1");
    assert_eq!(view["metadata"]["finalizers"], json!(["example.org/other"]));
    assert_eq!(view["metadata"]["labels"], json!({"team": "a"}));
    assert_eq!(outdoors.api.get(&other).unwrap()["metadata"]["finalizers"], json!(["example.org/other"]));
}

/// A load balancer that somebody made, with a listener on port 9000.
fn peoples(outdoors: &Outdoors) {
    let mut octavia = lock(&outdoors.cloud.octavia);
    octavia.balancers.push(
        json!({"id": "people", "name": "people's", "project_id": crate::cloud::fake::PROJECT, "provider": "ovn", "tags": ["theirs"],
               "provisioning_status": "ACTIVE", "vip_port_id": "vip", "vip_address": "10.0.0.50", "vip_subnet_id": "s4"}),
    );
    octavia
        .listeners
        .push(json!({"id": "mine", "name": "mine", "protocol": "TCP", "protocol_port": 9000, "tags": [],
               "project_id": crate::cloud::fake::PROJECT, "loadbalancers": [{"id": "people"}]}));
}

/// A Service that names people's load balancer.
fn with_guest() -> Outdoors {
    let outdoors = with_service();
    peoples(&outdoors);
    let mut service = outdoors.api.get(SERVICE).unwrap();
    service["metadata"]["annotations"] = json!({"loadbalancer.openstack.org/load-balancer-id": "people"});
    outdoors.api.put(SERVICE, service);
    outdoors
}

#[tokio::test(start_paused = true)]
async fn a_guest_is_found_by_its_tags_when_its_service_is_gone() {
    let outdoors = with_guest();
    let replica = outdoors.replica("a");
    outdoors.pass(30).await;
    let made = ["POST /v2/lbaas/pools", "PUT /v2/lbaas/pools/pools-1/members", "POST /v2/lbaas/listeners"];
    assert_eq!(changes(&outdoors), made);
    assert_eq!(told(&outdoors), json!([{"ip": "10.0.0.50", "ipMode": "VIP"}]));
    let tags = lock(&outdoors.cloud.octavia).listeners[1]["tags"].clone();
    assert_eq!(tags, json!([crate::cloud::fake::TAG, "kuryr-guest"]));

    // Another controller, which remembers nothing: no change.
    drop(replica);
    let replica = outdoors.replica("b");
    outdoors.pass(60).await;
    assert_eq!(changes(&outdoors), Vec::<String>::new());

    // While there is none somebody takes the finalizer off and deletes the Service.
    drop(replica);
    outdoors.api.remove(SERVICE);
    let _replica = outdoors.replica("c");
    outdoors.pass(60).await;
    let taken_off = ["DELETE /v2/lbaas/listeners/listeners-2", "DELETE /v2/lbaas/pools/pools-1"];
    assert_eq!(changes(&outdoors), taken_off);
    outdoors.pass(400).await;
    assert_eq!(changes(&outdoors), Vec::<String>::new());
    let octavia = lock(&outdoors.cloud.octavia);
    assert_eq!((octavia.balancers.len(), octavia.listeners.len(), octavia.pools.len()), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_goes_while_it_is_looked_at_is_none() {
    let outdoors = with_guest();
    let _replica = outdoors.replica("a");
    outdoors.pass(30).await;
    changes(&outdoors);
    lock(&outdoors.cloud.octavia).vanishes = Some("pools-1".to_owned());
    outdoors.api.put(SLICE, slice(&["10.0.0.8"]));
    outdoors.pass(10).await;
    assert_eq!(lock(&outdoors.cloud.octavia).vanishes, None, "it was looked at");
    assert_eq!(changes(&outdoors).first().map(String::as_str), Some("POST /v2/lbaas/pools"));
}

#[tokio::test(start_paused = true)]
async fn a_load_balancer_that_goes_before_it_is_changed_is_made_anew_soon() {
    let outdoors = with_service();
    let _replica = outdoors.replica("a");
    outdoors.pass(30).await;
    changes(&outdoors);
    lock(&outdoors.cloud.octavia).is_about_to_lose_all = true;
    outdoors.api.put(SLICE, slice(&["10.0.0.8"]));
    outdoors.pass(20).await;
    let made = ["PUT /v2/lbaas/pools/pool-b1-0/members", "POST /v2/lbaas/loadbalancers"];
    assert_eq!(changes(&outdoors), made);
}

#[tokio::test(start_paused = true)]
async fn what_is_shown_and_never_found_is_asked_for_ever_more_slowly_and_told() {
    let outdoors = with_service();
    let _replica = outdoors.replica_that_tells("a");
    outdoors.pass(30).await;
    changes(&outdoors);
    lock(&outdoors.cloud.octavia).evades = Some("pool-b1-0".to_owned());
    outdoors.api.put(SLICE, slice(&["10.0.0.8"]));
    outdoors.pass(2).await;
    assert_eq!(
        outdoors.events_about("web", "CloudFailed"),
        Vec::<String>::new(),
        "it may have gone just now"
    );
    outdoors.pass(600).await;
    let asked = changes(&outdoors).len();
    assert!((8..=30).contains(&asked), "asked {asked} times in ten minutes");
    let told = outdoors.events_about("web", "CloudFailed");
    assert!(told.first().is_some_and(|told| told.contains("not found")), "{told:?}");

    lock(&outdoors.cloud.octavia).evades = None;
    outdoors.pass(60).await;
    assert_eq!(changes(&outdoors).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_address_of_a_member_is_not_freed_whatever_its_slice_says() {
    let outdoors = with_service();
    let replica = outdoors.replica("a");
    outdoors.pass(30).await;
    // Octavia refuses to lose a member whose pod is gone with its node.
    let refused = "PUT /v2/lbaas/pools/pool-b1-0/members".to_owned();
    lock(&outdoors.cloud.failing).push(refused);
    outdoors.api.put(SLICE, slice(&["10.0.0.8"]));
    lock(&outdoors.cloud.ports).push(stray("member", "long gone", 7));
    lock(&outdoors.cloud.ports).push(stray("other", "long gone", 99));
    let left = |id: &str| lock(&outdoors.cloud.ports).iter().any(|port| port["id"] == id);
    outdoors.pass(900).await;
    assert_eq!((left("member"), left("other")), (true, false));

    // The next controller cannot look at it at all.
    drop(replica);
    lock(&outdoors.cloud.failing).push("GET /v2/lbaas/loadbalancers".to_owned());
    lock(&outdoors.cloud.ports).push(stray("other", "long gone", 99));
    let _replica = outdoors.replica("b");
    outdoors.pass(900).await;
    assert_eq!((left("member"), left("other")), (true, false));

    lock(&outdoors.cloud.failing).clear();
    outdoors.pass(900).await;
    assert!(!left("member"));
}

#[tokio::test(start_paused = true)]
async fn a_load_balancer_goes_with_the_last_guest() {
    let outdoors = with_service();
    let _replica = outdoors.replica("a");
    outdoors.pass(30).await;
    let other = SERVICE.replace("/web", "/dns");
    let spec = json!({"type": "LoadBalancer", "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}],
                      "ipFamilies": ["IPv4"], "clusterIPs": ["10.96.0.8"]});
    let annotations = json!({"loadbalancer.openstack.org/load-balancer-id": "b1"});
    outdoors.api.put(
        &other,
        json!({"metadata": {"uid": "v", "annotations": annotations}, "spec": spec,
                                    "status": {"loadBalancer": {}}}),
    );
    outdoors.pass(30).await;
    assert_eq!(outdoors.api.get(&other).unwrap()["status"]["loadBalancer"]["ingress"], told(&outdoors));
    changes(&outdoors);
    for (service, left) in [(SERVICE, 1), (other.as_str(), 0)] {
        let mut leaving = outdoors.api.get(service).unwrap();
        leaving["metadata"]["deletionTimestamp"] = json!("2026-11-21T00:00:00Z");
        outdoors.api.put(service, leaving);
        outdoors.pass(20).await;
        assert_eq!(outdoors.api.get(service), None);
        let octavia = lock(&outdoors.cloud.octavia);
        assert_eq!((octavia.balancers.len(), octavia.listeners.len()), (left, left), "{service}");
    }
    assert_eq!(changes(&outdoors).last().unwrap(), "DELETE /v2/lbaas/loadbalancers/b1");
}
