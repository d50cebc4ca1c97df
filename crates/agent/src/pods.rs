//! Pods of this node, as the API server tells them.
//!
//! The watch is filtered by node, so a pod normally is known before its runtime asks. Where it is not, the agent waits
//! a moment for the watch and then asks the API server once: the watch may be late, or the pod may be gone. A runtime that
//! does not tell the pod's UID makes the agent ask each time: nothing else tells whether the watch shows the life of the pod
//! that the sandbox is for, or the one before.
//!
//! A watch that was behind when a pod was asked for says nothing by not showing that pod: until it has shown it, the end of
//! its claim is asked for, too.
//!
//! Kubernetes cannot limit the right to read pods to those of one node; the filter saves memory, it is no fence.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Api, Client};
use kuryr_kubernetes::{
    objects::Objects,
    slim,
    store::{ObjectKey, Presence, Store},
};
use kuryr_planning::claim::{PodSeen, PodState, Verdict, admit};
use kuryr_types::{PodIdentity, PodRef};
use tokio::time::Instant;

use crate::{
    config::COMPONENT,
    error::{Error, Result, with_causes},
};

/// How long the watch may be behind the runtime before the API server is asked.
const WATCH_MAY_LAG: Duration = Duration::from_millis(500);

/// Pods of this node.
#[derive(Clone)]
pub(crate) struct Pods {
    store: Store<slim::Pod>,
    client: Client,
    node_name: Arc<str>,
    /// Lives of pods that the API server has told of and the watch had not shown; by name, so that they stay few.
    ahead: Arc<Mutex<BTreeMap<PodRef, PodIdentity>>>,
}

impl Pods {
    /// The pods that `store` holds; others are asked for through `client`.
    pub(crate) fn new(store: Store<slim::Pod>, client: Client, node_name: &str) -> Self {
        Self { store, client, node_name: node_name.into(), ahead: Arc::default() }
    }

    /// The watched pods.
    pub(crate) fn store(&self) -> &Store<slim::Pod> {
        &self.store
    }

    /// Judges a pod by the watch alone.
    pub(crate) fn judge(
        &self,
        pod: &PodRef,
        identity: Option<&PodIdentity>,
    ) -> (Verdict, Option<Arc<slim::Pod>>) {
        let found = self.store.get(&ObjectKey::from(pod));
        let verdict = admit(identity, &self.node_name, found.as_deref().map(seen).as_ref(), false);
        (verdict, found)
    }

    /// Finds the pod that a request is about; without an identity the one that is there now.
    ///
    /// # Errors
    ///
    /// `Refused` when it may not have a network here; `PodUnknown` when nobody could tell until `deadline`.
    pub(crate) async fn find(
        &self,
        pod: &PodRef,
        identity: Option<&PodIdentity>,
        deadline: Instant,
    ) -> Result<Arc<slim::Pod>> {
        let Some(identity) = identity else { return self.ask(pod, None).await };
        let lag = deadline.min(Instant::now() + WATCH_MAY_LAG);
        if let Some(found) = self.told_by_watch(pod, identity, lag).await? {
            return Ok(found);
        }
        match self.ask(pod, Some(identity)).await {
            Err(Error::PodUnknown { pod, source }) => {
                // The watch may come back before the deadline, and with it the pod.
                let found = self.told_by_watch(&pod, identity, deadline).await?;
                found.ok_or(Error::PodUnknown { pod, source })
            }
            told => told,
        }
    }

    /// What the watch tells until `until`; none if that is nothing.
    async fn told_by_watch(
        &self,
        pod: &PodRef,
        identity: &PodIdentity,
        until: Instant,
    ) -> Result<Option<Arc<slim::Pod>>> {
        let decided = |object: &slim::Pod| {
            admit(Some(identity), &self.node_name, Some(&seen(object)), false) != Verdict::LookAgain
        };
        let Some(found) = self.store.wait_for(&ObjectKey::from(pod), decided, until).await else {
            return Ok(None);
        };
        match admit(Some(identity), &self.node_name, Some(&seen(&found)), false) {
            Verdict::Refuse(refusal) => Err(Error::Refused { pod: pod.clone(), refusal }),
            Verdict::Go | Verdict::LookAgain => Ok(Some(found)),
        }
    }

    async fn ask(&self, pod: &PodRef, identity: Option<&PodIdentity>) -> Result<Arc<slim::Pod>> {
        let found = self.get(pod).await?;
        if let Some(told) = found.as_ref().map(slim::Pod::identity).filter(|told| !self.shows(pod, told)) {
            let mut ahead = self.ahead();
            ahead.retain(|pod, told| !self.shows(pod, told));
            ahead.insert(pod.clone(), told);
        }
        match admit(identity, &self.node_name, found.as_ref().map(seen).as_ref(), true) {
            Verdict::Refuse(refusal) => Err(Error::Refused { pod: pod.clone(), refusal }),
            Verdict::Go | Verdict::LookAgain => {
                found.map(Arc::new).ok_or_else(|| Error::PodUnknown { pod: pod.clone(), source: None })
            }
        }
    }

    /// What there is under this name, for the end of a claim: by the watch, unless that is behind what was told.
    pub(crate) async fn state(&self, pod: &PodRef) -> PodState {
        let told = self.ahead().get(pod).cloned();
        let Some(told) = told.filter(|told| !self.shows(pod, told)) else {
            self.ahead().remove(pod);
            return match self.store.presence(&ObjectKey::from(pod)) {
                Presence::Present(pod) => state_of(&pod),
                Presence::Absent => PodState::Absent,
                Presence::Unknown => PodState::Unknown,
            };
        };
        match self.get(pod).await {
            Ok(Some(found)) => state_of(&found),
            Ok(None) => {
                self.ahead().retain(|name, identity| name != pod || *identity != told);
                PodState::Absent
            }
            Err(error) => {
                tracing::debug!(%pod, error = with_causes(&error), "the end of a pod is not known");
                PodState::Unknown
            }
        }
    }

    /// The pod of this name, as the API server has it now.
    async fn get(&self, pod: &PodRef) -> Result<Option<slim::Pod>> {
        let objects: Objects<slim::Pod> =
            Objects::new(Api::namespaced(self.client.clone(), &pod.namespace), COMPONENT);
        tracing::debug!(%pod, "the watch does not know the pod; asking the API server");
        let unknown = |source| Error::PodUnknown { pod: pod.clone(), source: Some(Box::new(source)) };
        objects.get(&pod.name).await.map_err(unknown)
    }

    /// Whether the watch shows this life of a pod.
    fn shows(&self, pod: &PodRef, identity: &PodIdentity) -> bool {
        self.store.get(&ObjectKey::from(pod)).is_some_and(|shown| shown.identity() == *identity)
    }

    fn ahead(&self) -> MutexGuard<'_, BTreeMap<PodRef, PodIdentity>> {
        // Single inserts and removals: a panic leaves nothing half done.
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The object that Events of a pod belong to, if the watch knows it.
    pub(crate) fn reference(&self, pod: &PodRef) -> Option<ObjectReference> {
        Some(kuryr_kubernetes::event::reference(&*self.store.get(&ObjectKey::from(pod))?))
    }
}

fn state_of(pod: &slim::Pod) -> PodState {
    PodState::Present { identity: pod.identity(), ended: pod.has_ended(), terminating: pod.is_terminating() }
}

fn seen(pod: &slim::Pod) -> PodSeen {
    PodSeen {
        identity: pod.identity(),
        node: pod.spec.node_name.clone(),
        host_network: pod.spec.host_network,
        ended: pod.has_ended(),
        terminating: pod.is_terminating(),
    }
}

#[cfg(test)]
pub(crate) mod fake {
    //! Pods and an API server in memory.

    use std::sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    };

    use serde_json::{Value, json};

    use super::*;

    /// What the API server answers for `GET pod`: an object, or a status code.
    #[derive(Clone, Default)]
    pub(crate) struct FakeServer {
        pub(crate) pod: Arc<Mutex<Option<Value>>>,
        pub(crate) down: Arc<Mutex<bool>>,
        pub(crate) calls: Arc<AtomicU32>,
        /// What was written: method, path, body.
        pub(crate) writes: Arc<Mutex<Vec<(String, String, Value)>>>,
    }

    impl FakeServer {
        pub(crate) fn client(&self) -> Client {
            let server = self.clone();
            let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
                let server = server.clone();
                async move { server.serve(request).await }
            });
            Client::new(service, "default")
        }

        async fn serve(
            &self,
            request: http::Request<kube::client::Body>,
        ) -> Result<http::Response<kube::client::Body>, kube::Error> {
            self.calls.fetch_add(1, Ordering::Relaxed);
            let (head, body) = request.into_parts();
            if head.method == http::Method::GET {
                return Ok(self.answer());
            }
            let bytes = body.collect_bytes().await?;
            let written: Value = serde_json::from_slice(&bytes).unwrap();
            let note = (head.method.to_string(), head.uri.path().to_owned(), written);
            self.writes.lock().unwrap().push(note);
            Ok(http::Response::builder().status(201).body(kube::client::Body::from(bytes)).unwrap())
        }

        fn answer(&self) -> http::Response<kube::client::Body> {
            let status = |code: u16, reason: &str| {
                let body = json!({
                    "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                    "reason": reason, "message": reason,
                });
                (code, body)
            };
            let (code, body) = if *self.down.lock().unwrap() {
                status(503, "ServiceUnavailable")
            } else {
                let pod = self.pod.lock().unwrap().clone();
                pod.map_or_else(|| status(404, "NotFound"), |pod| (200, pod))
            };
            let bytes = serde_json::to_vec(&body).unwrap();
            http::Response::builder().status(code).body(kube::client::Body::from(bytes)).unwrap()
        }
    }

    /// A pod of node `node1`.
    pub(crate) fn pod_json(name: &str, uid: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "team-a", "name": name, "uid": uid, "resourceVersion": "1"},
            "spec": {"nodeName": "node1"}, "status": {"phase": "Pending"},
        })
    }

    /// The same as an object.
    pub(crate) fn pod(name: &str, uid: &str) -> slim::Pod {
        serde_json::from_value(pod_json(name, uid)).unwrap()
    }

    /// A store in sync with these pods.
    pub(crate) fn store(pods: Vec<slim::Pod>) -> Store<slim::Pod> {
        let store = Store::new(Duration::from_secs(90));
        store.reset(pods, std::collections::BTreeMap::new());
        store
    }
}

#[cfg(test)]
mod tests {
    use super::{fake::*, *};
    use std::sync::atomic::Ordering;

    fn pods(known: Vec<slim::Pod>, server: &FakeServer) -> Pods {
        Pods::new(store(known), server.client(), "node1")
    }

    async fn check(pods: &Pods, identity: Option<&str>, expect: Result<&str, u32>) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let identity = identity.map(PodIdentity::from);
        let got = pods.find(&PodRef::new("team-a", "web-0"), identity.as_ref(), deadline).await;
        let got = got.map(|pod| pod.identity().to_string()).map_err(|error| error.code());
        assert_eq!(got, expect.map(ToOwned::to_owned));
    }

    #[tokio::test(start_paused = true)]
    async fn a_known_pod_needs_no_call() {
        let server = FakeServer::default();
        check(&pods(vec![pod("web-0", "a")], &server), Some("a"), Ok("a")).await;
        assert_eq!(server.calls.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_identity_the_watch_is_not_believed() {
        let server = FakeServer::default();
        *server.pod.lock().unwrap() = Some(pod_json("web-0", "a"));
        check(&pods(vec![pod("web-0", "old")], &server), None, Ok("a")).await;
        *server.down.lock().unwrap() = true;
        check(&pods(vec![pod("web-0", "old")], &server), None, Err(11)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_pod_is_asked_for_once() {
        let server = FakeServer::default();
        check(&pods(vec![], &server), Some("a"), Err(3)).await;
        assert_eq!(server.calls.load(Ordering::Relaxed), 1);
        *server.pod.lock().unwrap() = Some(pod_json("web-0", "a"));
        check(&pods(vec![], &server), Some("a"), Ok("a")).await;
        // The watch still shows the life before.
        check(&pods(vec![pod("web-0", "old")], &server), Some("a"), Ok("a")).await;
        check(&pods(vec![], &server), Some("old"), Err(3)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_is_behind_a_pod_does_not_tell_its_end() {
        let (server, reference) = (FakeServer::default(), PodRef::new("team-a", "web-0"));
        *server.pod.lock().unwrap() = Some(pod_json("web-0", "a"));
        // It shows nothing, or the life before.
        for known in [vec![], vec![pod("web-0", "old")]] {
            let pods = pods(known, &server);
            check(&pods, Some("a"), Ok("a")).await;
            assert_eq!(pods.state(&reference).await, state_of(&pod("web-0", "a")));
            *server.down.lock().unwrap() = true;
            assert_eq!(pods.state(&reference).await, PodState::Unknown);
            *server.down.lock().unwrap() = false;
        }
        let pods = pods(vec![], &server);
        check(&pods, Some("a"), Ok("a")).await;
        *server.pod.lock().unwrap() = None;
        assert_eq!(pods.state(&reference).await, PodState::Absent, "the API server says so itself");
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_has_caught_up_is_believed() {
        let (server, reference) = (FakeServer::default(), PodRef::new("team-a", "web-0"));
        *server.pod.lock().unwrap() = Some(pod_json("web-0", "a"));
        let pods = pods(vec![], &server);
        check(&pods, Some("a"), Ok("a")).await;
        pods.store().apply(pod("web-0", "a"));
        assert_eq!(pods.state(&reference).await, state_of(&pod("web-0", "a")));
        pods.store().delete(&ObjectKey::from(&reference));
        assert_eq!(pods.state(&reference).await, PodState::Absent);
        assert_eq!(server.calls.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn while_the_api_server_is_down_the_watch_may_still_tell() {
        let server = FakeServer::default();
        *server.down.lock().unwrap() = true;
        let pods = pods(vec![], &server);
        check(&pods, Some("a"), Err(11)).await;
        let store = pods.store().clone();
        let told = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(20)).await;
            store.apply(pod("web-0", "a"));
        });
        check(&pods, Some("a"), Ok("a")).await;
        told.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_leaves_is_refused() {
        let server = FakeServer::default();
        let mut leaving = pod_json("web-0", "a");
        leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        check(&pods(vec![serde_json::from_value(leaving).unwrap()], &server), Some("a"), Err(3)).await;
    }
}
