//! Objects that are made, changed under conditions, watched, and deleted with finalizers or without.
//!
//! Probes are like KuryrNodes: a custom resource with a specification, a status and nobody who completes either. Nobody but
//! the script writes them.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::{
    Api, CustomResource, Resource,
    api::{ListParams, ObjectMeta, WatchEvent, WatchParams},
};
use kuryr_kubernetes::{objects::Objects, patch::JsonPatch};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Ended, Servers, fields::object};

const MANAGER: &str = "contract";
const FINALIZER: &str = "kuryr.openstack.org/contract";
/// Longest time until a line of a watch comes that is due.
const LINE_WITHIN: Duration = Duration::from_secs(20);

/// After this time a watch counts as one that says nothing.
const SILENCE: Duration = Duration::from_secs(5);
/// A version that no server has.
const FUTURE: &str = "900000000";

/// What is wished.
#[derive(CustomResource, Serialize, Deserialize, Debug, Clone)]
#[kube(
    group = "e2e.kuryr.openstack.org",
    version = "v1",
    kind = "Probe",
    namespaced,
    status = "ProbeStatus",
    schema = "disabled"
)]
struct ProbeSpec {
    wish: u32,
}

/// What has come of it.
#[derive(Serialize, Deserialize, Debug, Clone)]
struct ProbeStatus {
    found: u32,
}

pub(super) async fn script(servers: &Servers) -> Result<(), Ended> {
    let probes = Probes::new(servers);
    let begin = probes.make().await?;
    probes.change().await?;
    probes.list().await?;
    probes.watch(&begin).await?;
    probes.finalize().await?;
    probes.delete().await?;
    serve(servers).await
}

struct Probes<'a> {
    servers: &'a Servers,
    objects: Objects<Probe>,
    api: Api<Probe>,
}

impl<'a> Probes<'a> {
    fn new(servers: &'a Servers) -> Self {
        let api: Api<Probe> = Api::namespaced(servers.kubernetes.clone(), &servers.place.namespace);
        Self { servers, objects: Objects::new(api.clone(), MANAGER), api }
    }

    /// Makes Probes `a` and `b`; returns the version of before.
    async fn make(&self) -> Result<String, Ended> {
        let recorder = &self.servers.recorder;
        let all = ListParams::default();
        let (_, begin) = recorder.step("there are no Probes", self.objects.list(&all)).await?;
        let mut first = probe("a", 1);
        first.status = Some(ProbeStatus { found: 1 });
        let step = "an object is created, and its status is not";
        recorder.step(step, self.objects.create(&first)).await?;
        drop(
            recorder.step("an object of a name that there is is refused", self.objects.create(&first)).await,
        );
        let mut labelled = probe("b", 1);
        labelled.metadata.labels = Some(BTreeMap::from([("kind".to_owned(), "b".to_owned())]));
        recorder.step("another one is created", self.objects.create(&labelled)).await?;
        recorder.step("an object is read", self.objects.get("a")).await?;
        recorder.step("none is read where there is none", self.objects.get("none")).await?;
        Ok(begin)
    }

    async fn change(&self) -> Result<(), Ended> {
        let (recorder, objects) = (&self.servers.recorder, &self.objects);
        let wish = JsonPatch::new().test("/metadata/generation", &1).replace("/spec/wish", &2);
        let step = "a patch whose test of the generation holds changes the specification";
        let changed = recorder.step(step, objects.patch("a", &wish)).await?;
        let step = "a patch whose test does not hold changes nothing";
        drop(recorder.step(step, objects.patch("a", &wish)).await);
        let missing = JsonPatch::new().replace("/spec/wish", &3).remove("/spec/nothing");
        let step = "a patch with a path that is not there changes nothing";
        drop(recorder.step(step, objects.patch("a", &missing)).await);
        let same = JsonPatch::new().replace("/spec/wish", &2);
        recorder.step("a patch that changes nothing leaves the version", objects.patch("a", &same)).await?;
        drop(recorder.step("nothing that is not there is patched", objects.patch("none", &wish)).await);

        let version = changed.metadata.resource_version.clone().unwrap_or_default();
        let report = |found: u32, version: &str| json!({"metadata": {"resourceVersion": version}, "status": {"found": found}});
        let (told, late) = (report(1, &version), report(2, &version));
        let step = "a status is written for the version that was read";
        recorder.step(step, objects.merge_status("a", &told)).await?;
        let step = "for an older version it is refused";
        drop(recorder.step(step, objects.merge_status("a", &late)).await);
        let told = JsonPatch::new().test("/metadata/generation", &2).add("/status", &json!({"found": 3}));
        let told = objects.patch_status("a", &told);
        recorder.step("a status is patched, and the generation stays", told).await?;
        let wish = json!({"spec": {"wish": 9}, "status": {"found": 4}});
        let step = "with a status no specification is written";
        recorder.step(step, objects.merge_status("a", &wish)).await?;
        let step = "with a specification no status is written";
        let wish = json!({"spec": {"wish": 4}, "status": {"found": 9}});
        let now = recorder.step(step, objects.merge("a", &wish)).await?;

        let mut newer = changed;
        newer.spec.wish = 5;
        drop(recorder.step("an object of an older version is not replaced", objects.replace(&newer)).await);
        newer.metadata = now.metadata;
        recorder.step("one of the version that was read is", objects.replace(&newer)).await?;
        let stale = json!({"metadata": {"resourceVersion": version, "labels": {"late": "yes"}}});
        drop(recorder.step("nor is anything merged into an older version", objects.merge("a", &stale)).await);
        let label = json!({"metadata": {"labels": {"kind": "a"}}});
        recorder.step("a label leaves the generation", objects.merge("a", &label)).await?;
        Ok(())
    }

    async fn list(&self) -> Result<(), Ended> {
        let (recorder, objects) = (&self.servers.recorder, &self.objects);
        recorder.step("a list tells the latest", objects.list(&ListParams::default())).await?;
        let pages = ListParams::default().limit(1);
        recorder.step("a list comes in pages", objects.list(&pages)).await?;
        let labels = ListParams::default().labels("kind=b");
        recorder.step("a list by labels", objects.list(&labels)).await?;
        let field = ListParams::default().fields("metadata.name=a");
        recorder.step("a list by name", objects.list(&field)).await?;
        Ok(())
    }

    async fn watch(&self, begin: &str) -> Result<(), Ended> {
        let plain = WatchParams { bookmarks: false, ..WatchParams::default() };
        self.lines("a watch tells what was changed since its version", &plain, begin, 9).await?;
        let initial = WatchParams { send_initial_events: true, ..WatchParams::default() };
        self.lines("a streaming list tells what there is, and its end", &initial, "", 3).await?;
        // Older than anything of this kind: it cannot be kept.
        self.lines("a watch of a version that is not kept any more is refused", &plain, "1", 1).await?;
        self.silence("a watch of a version that is not yet tells nothing", &plain, FUTURE).await
    }

    /// Records that a watch is accepted, and the first line of it if one comes after all.
    async fn silence(&self, step: &str, params: &WatchParams, version: &str) -> Result<(), Ended> {
        let Servers { kubernetes, recorder, .. } = self.servers;
        let request = kube::core::Request::new(self.api.resource_url()).watch(params, version)?;
        if let Ok(lines) = recorder.step(step, kubernetes.request_events::<Value>(request)).await {
            let first = timeout(SILENCE, std::pin::pin!(lines).next()).await;
            let first = first.ok().flatten().and_then(Result::ok);
            recorder.found("lines", &json!(first.as_ref().map(shown)));
        }
        Ok(())
    }

    /// Records so many lines of a watch.
    async fn lines(
        &self,
        step: &str,
        params: &WatchParams,
        version: &str,
        count: usize,
    ) -> Result<(), Ended> {
        let Servers { kubernetes, recorder, .. } = self.servers;
        let request = kube::core::Request::new(self.api.resource_url()).watch(params, version)?;
        let heard = async {
            let lines = kubernetes.request_events::<Value>(request).await?;
            let some = lines.take(count).map_ok(|line| shown(&line)).try_collect::<Vec<Value>>();
            let late = |_| kube::Error::Service("no line came".into());
            timeout(LINE_WITHIN, some).await.map_err(late)?
        };
        if let Ok(lines) = recorder.step(step, heard).await {
            recorder.found("lines", &json!(lines));
        }
        Ok(())
    }

    async fn finalize(&self) -> Result<(), Ended> {
        let (recorder, objects) = (&self.servers.recorder, &self.objects);
        let held = json!({"metadata": {"finalizers": [FINALIZER]}});
        let held = recorder.step("an object gets a finalizer", objects.merge("a", &held)).await?;
        let version = held.metadata.resource_version.unwrap_or_default();
        recorder.step("it is deleted, and stays", objects.delete("a", None)).await?;
        recorder.step("it is on its way", objects.get("a")).await?;
        recorder.step("it is deleted again", objects.delete("a", None)).await?;
        drop(recorder.step("its name is not free", objects.create(&probe("a", 1))).await);
        let more = json!({"metadata": {"finalizers": [FINALIZER, "kuryr.openstack.org/late"]}});
        drop(recorder.step("it gets no further finalizer", objects.merge("a", &more)).await);
        let wish = json!({"spec": {"wish": 6}});
        recorder.step("it is changed still", objects.merge("a", &wish)).await?;
        let free = json!({"metadata": {"finalizers": []}});
        recorder.step("with its last finalizer it goes", objects.merge("a", &free)).await?;
        recorder.step("it is gone", objects.get("a")).await?;
        let plain = WatchParams { bookmarks: false, ..WatchParams::default() };
        self.lines("a watch has told all of that", &plain, &version, 3).await
    }

    async fn delete(&self) -> Result<(), Ended> {
        let (recorder, objects) = (&self.servers.recorder, &self.objects);
        let refused = objects.delete("b", Some("another-life"));
        drop(recorder.step("another life of a name is not deleted", refused).await);
        let uid = {
            let _unheard = recorder.unheard();
            objects.get("b").await?.and_then(|found| found.metadata.uid).unwrap_or_default()
        };
        recorder.step("this life is", objects.delete("b", Some(&uid))).await?;
        recorder.step("what is gone is deleted", objects.delete("b", None)).await?;
        let step = "there are no Probes any more";
        recorder.step(step, objects.list(&ListParams::default())).await?;
        Ok(())
    }
}

/// A line of a watch, as it is recorded.
fn shown(line: &WatchEvent<Value>) -> Value {
    match line {
        WatchEvent::Added(found) => json!({"type": "ADDED", "object": object(found)}),
        WatchEvent::Modified(found) => json!({"type": "MODIFIED", "object": object(found)}),
        WatchEvent::Deleted(found) => json!({"type": "DELETED", "object": object(found)}),
        WatchEvent::Bookmark(found) => {
            json!({"type": "BOOKMARK", "annotations": found.metadata.annotations})
        }
        WatchEvent::Error(status) => json!({"type": "ERROR", "code": status.code, "reason": status.reason}),
    }
}

fn probe(name: &str, wish: u32) -> Probe {
    Probe::new(name, ProbeSpec { wish })
}

/// A Service: the finalizer and the status that the controller writes.
async fn serve(servers: &Servers) -> Result<(), Ended> {
    let recorder = &servers.recorder;
    let api: Api<Service> = Api::namespaced(servers.kubernetes.clone(), &servers.place.namespace);
    let objects = Objects::new(api, MANAGER);
    let made = recorder.step("a Service is created", objects.create(&service())).await?;
    let version = made.meta().resource_version.clone();
    let held = json!({"metadata": {"finalizers": [FINALIZER], "resourceVersion": version}});
    recorder.step("a Service gets a finalizer", objects.merge("contract", &held)).await?;
    drop(recorder.step("but not for an older version", objects.merge("contract", &held)).await);
    let reached = json!({"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.9", "ipMode": "VIP"}]}}});
    recorder.step("a Service tells where it is reached", objects.merge_status("contract", &reached)).await?;
    recorder.step("the Service is deleted, and stays", objects.delete("contract", None)).await?;
    recorder.step("the Service is on its way", objects.get("contract")).await?;
    let free = json!({"metadata": {"finalizers": []}});
    recorder.step("the Service goes with its last finalizer", objects.merge("contract", &free)).await?;
    recorder.step("the Service is gone", objects.get("contract")).await?;
    Ok(())
}

/// One of type LoadBalancer that nobody serves: it is of another class, and needs no ports of nodes.
fn service() -> Service {
    let port = ServicePort { port: 80, target_port: Some(IntOrString::Int(80)), ..ServicePort::default() };
    Service {
        metadata: ObjectMeta { name: Some("contract".to_owned()), ..ObjectMeta::default() },
        spec: Some(ServiceSpec {
            type_: Some("LoadBalancer".to_owned()),
            load_balancer_class: Some("kuryr.openstack.org/contract".to_owned()),
            allocate_load_balancer_node_ports: Some(false),
            ports: Some(vec![port]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
