//! An API server in the process, for tests: lists, watches, patches, and faults on demand.
//!
//! It knows objects by path only. As much of the real one's behaviour as tests need: versions, 410, streaming lists
//! that may be allowed, refused or ignored, conflicts, bookmarks, finalizers, statuses that are written by themselves, and a
//! log of what was asked and written. What it answers to the calls of `kuryr_sim::contract` is what a real one does.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// A body of an answer: one piece, or the lines of a watch.
pub type Answer = UnsyncBoxBody<Bytes, Infallible>;

/// What the API server does with `sendInitialEvents`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streaming {
    /// Begins with the objects and ends them with a bookmark.
    Allowed,
    /// Answers that it is invalid.
    Refused,
    /// Sends the objects and no bookmark.
    Ignored,
}

/// A fault that the next matching request meets.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Answer this status.
    Status(u16),
    /// Take effect, but lose the answer.
    Lost,
    /// Never answer.
    Hang,
}

/// A request that wants to change something.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// `METHOD path`.
    pub line: String,
    /// What was sent.
    pub body: Value,
    /// Whether it took effect.
    pub accepted: bool,
}

/// The API server; clones share it.
#[derive(Clone)]
pub struct ApiServer {
    state: Arc<Mutex<State>>,
}

struct State {
    version: u64,
    /// Versions up to this are no longer kept.
    compacted: u64,
    is_rolled_back: bool,
    objects: BTreeMap<String, Value>,
    /// Version, path, event.
    history: Vec<(u64, String, Value)>,
    watches: Vec<OpenWatch>,
    streaming: Streaming,
    requests: Vec<String>,
    writes: Vec<Write>,
    faults: VecDeque<(String, Fault)>,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer").field("objects", &self.paths("")).finish_non_exhaustive()
    }
}

struct OpenWatch {
    collection: String,
    selector: Selector,
    lines: mpsc::UnboundedSender<Bytes>,
}

/// Which objects of a collection.
#[derive(Clone, Default)]
struct Selector {
    fields: Option<String>,
    labels: Option<String>,
}

impl ApiServer {
    /// Nothing is there yet.
    #[must_use]
    pub fn new(streaming: Streaming) -> Self {
        let state = State {
            version: 100,
            compacted: 100,
            is_rolled_back: false,
            objects: BTreeMap::new(),
            history: Vec::new(),
            watches: Vec::new(),
            streaming,
            requests: Vec::new(),
            writes: Vec::new(),
            faults: VecDeque::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// A client of it.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client_behind(Arc::default())
    }

    /// A client that gets no answers while `cut`.
    #[must_use]
    pub fn client_behind(&self, cut: Arc<AtomicBool>) -> Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (fake, cut) = (fake.clone(), Arc::clone(&cut));
            async move {
                if cut.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
                Ok::<_, Infallible>(fake.serve(request).await)
            }
        });
        Client::new(service, "default")
    }

    /// Answers a request, without faults and at once: for whoever brings a client of his own.
    pub fn answer(&self, request: &http::request::Parts, body: &Bytes) -> Response<Answer> {
        let mut state = self.lock();
        state.requests.push(format!("{} {}", request.method, request.uri));
        state.serve(request, body)
    }

    /// Creates or replaces an object behind everybody's back.
    pub fn put(&self, path: &str, object: Value) {
        self.lock().put(path, object);
    }

    /// Removes an object behind everybody's back.
    pub fn remove(&self, path: &str) {
        self.lock().remove(path);
    }

    /// The object at this path.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<Value> {
        self.lock().objects.get(path).cloned()
    }

    /// Where objects are, of those whose path begins so.
    #[must_use]
    pub fn paths(&self, prefix: &str) -> Vec<String> {
        self.lock().objects.keys().filter(|path| path.starts_with(prefix)).cloned().collect()
    }

    /// Ends all open watches.
    pub fn cut(&self) {
        self.lock().watches.clear();
    }

    /// Sends all open watches a bookmark.
    pub fn bookmark(&self) {
        self.lock().bookmark();
    }

    /// Sends a raw line to all open watches.
    pub fn say(&self, line: &Value) {
        self.lock().watches.retain(|watch| watch.lines.send(as_line(line)).is_ok());
    }

    /// Forgets history: who asks for an older version gets 410.
    pub fn compact(&self) {
        let mut state = self.lock();
        state.version += 1;
        state.compacted = state.version;
        state.history.clear();
    }

    /// Begins again with versions below those given out, as after a restored backup, and refuses those; an API server of 1.36
    /// accepts watches of such versions and tells nothing, as this one does before.
    pub fn roll_back(&self) {
        let mut state = self.lock();
        (state.version, state.is_rolled_back) = (1, true);
        state.compacted = 0;
        state.history.clear();
        state.watches.clear();
    }

    /// Lets the next request whose log line contains `part` meet `fault`.
    pub fn fail(&self, part: &str, fault: Fault) {
        self.lock().faults.push_back((part.to_owned(), fault));
    }

    /// Takes back the faults that no request has met.
    pub fn heal(&self) {
        self.lock().faults.clear();
    }

    /// The requests since the last call, as `METHOD path?query`.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().requests)
    }

    /// The requests since the last call that wanted to change something and were answered.
    pub fn writes(&self) -> Vec<Write> {
        std::mem::take(&mut self.lock().writes)
    }

    /// How many watches are open.
    #[must_use]
    pub fn open_watches(&self) -> usize {
        let mut state = self.lock();
        state.watches.retain(|watch| !watch.lines.is_closed());
        state.watches.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    async fn serve(&self, request: Request<Body>) -> Response<Answer> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let line = format!("{} {}", parts.method, parts.uri);
        let fault = {
            let mut state = self.lock();
            state.requests.push(line.clone());
            let at = state.faults.iter().position(|(part, _)| line.contains(part));
            at.and_then(|at| state.faults.remove(at)).map(|(_, fault)| fault)
        };
        match fault {
            Some(Fault::Status(code)) => return status(code, "Injected", "injected"),
            Some(Fault::Hang) => std::future::pending::<()>().await,
            Some(Fault::Lost) => {
                self.lock().serve(&parts, &body);
                std::future::pending::<()>().await;
            }
            None => {}
        }
        self.lock().serve(&parts, &body)
    }
}

impl State {
    fn serve(&mut self, parts: &http::request::Parts, body: &Bytes) -> Response<Answer> {
        let answer = self.answer(parts, body);
        if parts.method != Method::GET {
            self.writes.push(Write {
                line: format!("{} {}", parts.method, parts.uri.path()),
                body: serde_json::from_slice(body).unwrap_or_default(),
                accepted: answer.status().is_success(),
            });
        }
        answer
    }

    fn answer(&mut self, parts: &http::request::Parts, body: &Bytes) -> Response<Answer> {
        let query = Query::of(parts.uri.query().unwrap_or_default());
        let full = parts.uri.path();
        let (path, subresource) = match full.strip_suffix("/status") {
            Some(path) => (path, Some("status")),
            None => (full, None),
        };
        let value = || serde_json::from_slice::<Value>(body).unwrap();
        match (&parts.method, is_collection(path)) {
            (&Method::GET, true) if query.has("watch") => self.watch(path, &query),
            (&Method::GET, true) => self.list(path, &query),
            (&Method::GET, false) => self.objects.get(path).map_or_else(not_found, ok),
            (&Method::POST, true) => self.create(path, value()),
            (&Method::PUT, false) => self.replace(path, subresource, value()),
            (&Method::PATCH, false) => {
                let kind = parts.headers["content-type"].to_str().unwrap().to_owned();
                self.patch(path, subresource, &kind, value())
            }
            (&Method::DELETE, false) => self.delete(path, &serde_json::from_slice(body).unwrap_or_default()),
            _ => status(405, "MethodNotAllowed", "no such thing here"),
        }
    }

    fn put(&mut self, path: &str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        object["metadata"]["name"] = json!(path.rsplit('/').next());
        if let Some(namespace) = path.split("/namespaces/").nth(1).and_then(|rest| rest.split_once('/')) {
            object["metadata"]["namespace"] = json!(namespace.0);
        }
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{}", self.version));
        }
        let former = self.objects.get(path);
        if !path.contains("/services/") {
            object["metadata"]["generation"] = json!(generation_after(former, &object));
        }
        let kind = if former.is_some() { "MODIFIED" } else { "ADDED" };
        self.objects.insert(path.to_owned(), object.clone());
        self.tell(path, json!({"type": kind, "object": object}));
    }

    fn remove(&mut self, path: &str) {
        if let Some(mut object) = self.objects.remove(path) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.tell(path, json!({"type": "DELETED", "object": object}));
        }
    }

    fn tell(&mut self, path: &str, event: Value) {
        self.watches.retain(|watch| {
            !watch.selects(path, &event["object"]) || watch.lines.send(as_line(&event)).is_ok()
        });
        self.history.push((self.version, path.to_owned(), event));
    }

    fn bookmark(&mut self) {
        let line = bookmark(self.version, false);
        self.watches.retain(|watch| watch.lines.send(as_line(&line)).is_ok());
    }

    fn list(&self, collection: &str, query: &Query) -> Response<Answer> {
        let limit: usize = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
        let from: usize = query.get("continue").and_then(|at| at.parse().ok()).unwrap_or(0);
        let selector = Selector::of(query);
        let selected: Vec<&Value> = self.selected(collection, &selector).collect();
        let items: Vec<&Value> = selected.iter().skip(from).take(limit).copied().collect();
        let next = from.saturating_add(limit);
        let more = if next < selected.len() { next.to_string() } else { String::new() };
        ok(&json!({"kind": "List", "apiVersion": "v1", "items": items,
            "metadata": {"resourceVersion": self.version.to_string(), "continue": more}}))
    }

    fn watch(&mut self, collection: &str, query: &Query) -> Response<Answer> {
        let asked = query.get("resourceVersion").unwrap_or_default();
        let version: u64 = asked.parse().unwrap_or(0);
        let selector = Selector::of(query);
        let (lines, stream) = mpsc::unbounded_channel::<Bytes>();
        let send = |line: &Value| lines.send(as_line(line)).unwrap();
        if query.has("sendInitialEvents") {
            if self.streaming == Streaming::Refused {
                return status(422, "Invalid", "sendInitialEvents is forbidden for watch");
            }
            for object in self.selected(collection, &selector) {
                send(&json!({"type": "ADDED", "object": object}));
            }
            if self.streaming == Streaming::Allowed {
                send(&bookmark(self.version, true));
            }
        } else if version < self.compacted {
            // The watch is accepted, and its first line is the refusal.
            send(
                &json!({"type": "ERROR", "object": status_body(410, "Expired", "too old resource version")}),
            );
            drop(lines);
            return streamed(stream);
        } else if version > self.version && self.is_rolled_back {
            return status(504, "Timeout", "Timeout: Too large resource version");
        } else {
            for (at, path, event) in &self.history {
                if *at > version && within(collection, path) && selector.matches(&event["object"]) {
                    send(event);
                }
            }
        }
        self.watches.push(OpenWatch { collection: collection.to_owned(), selector, lines });
        streamed(stream)
    }

    fn selected<'a>(
        &'a self,
        collection: &'a str,
        selector: &'a Selector,
    ) -> impl Iterator<Item = &'a Value> {
        let inside = self.objects.iter().filter(move |(path, _)| within(collection, path));
        inside.map(|(_, object)| object).filter(move |object| selector.matches(object))
    }

    fn create(&mut self, collection: &str, mut object: Value) -> Response<Answer> {
        let path = format!("{collection}/{}", object["metadata"]["name"].as_str().unwrap());
        if self.objects.contains_key(&path) {
            return status(409, "AlreadyExists", "exists");
        }
        if has_status_by_itself(&path) {
            object.as_object_mut().unwrap().remove("status");
        }
        if collection.ends_with("/services") {
            object["status"] = json!({"loadBalancer": {}});
        }
        self.put(&path, object);
        answered(201, &self.objects[&path])
    }

    fn replace(&mut self, path: &str, subresource: Option<&str>, object: Value) -> Response<Answer> {
        let Some(old) = self.objects.get(path) else { return not_found() };
        let asked = &object["metadata"]["resourceVersion"];
        if !asked.is_null() && *asked != old["metadata"]["resourceVersion"] {
            return status(409, "Conflict", "the object has been modified");
        }
        let object = keep_other_part(path, old, object, subresource);
        self.update(path, object)
    }

    fn patch(&mut self, path: &str, subresource: Option<&str>, kind: &str, patch: Value) -> Response<Answer> {
        let Some(old) = self.objects.get(path).cloned() else { return not_found() };
        let mut new = old.clone();
        if kind.contains("json-patch") {
            for operation in patch.as_array().unwrap() {
                if apply_operation(&mut new, operation).is_none() {
                    let words = "the server rejected our request due to an error in our request";
                    return status(422, "Invalid", words);
                }
            }
        } else {
            let asked = &patch["metadata"]["resourceVersion"];
            if !asked.is_null() && *asked != old["metadata"]["resourceVersion"] {
                return status(409, "Conflict", "the object has been modified");
            }
            merge(&mut new, &patch);
        }
        new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        let new = keep_other_part(path, &old, new, subresource);
        self.update(path, new)
    }

    /// Stores what an object is to be, if that differs. One on its way that has no finalizer any more is gone.
    fn update(&mut self, path: &str, mut new: Value) -> Response<Answer> {
        let old = &self.objects[path];
        let leaves = is_leaving(old);
        if leaves && finalizers(&new).iter().any(|name| !finalizers(old).contains(name)) {
            return status(422, "Invalid", "no new finalizers can be added if the object is being deleted");
        }
        if finalizers(&new).is_empty() {
            new["metadata"].as_object_mut().unwrap().remove("finalizers");
        }
        if leaves && finalizers(&new).is_empty() {
            self.remove(path);
            return ok(&new);
        }
        if new != *old {
            self.put(path, new);
        }
        ok(&self.objects[path])
    }

    fn delete(&mut self, path: &str, options: &Value) -> Response<Answer> {
        let Some(old) = self.objects.get(path) else { return not_found() };
        let uid = &options["preconditions"]["uid"];
        if !uid.is_null() && *uid != old["metadata"]["uid"] {
            return status(409, "Conflict", "Precondition failed: UID in precondition");
        }
        if !finalizers(old).is_empty() {
            let mut leaving = old.clone();
            if !is_leaving(old) {
                leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                self.put(path, leaving);
            }
            return ok(&self.objects[path]);
        }
        self.remove(path);
        ok(&json!({"kind": "Status", "status": "Success"}))
    }
}

/// How often the spec of an object has changed. An object that tells nothing of what is wished never changes so.
fn generation_after(former: Option<&Value>, object: &Value) -> u64 {
    let Some(former) = former else { return 1 };
    let before = former["metadata"]["generation"].as_u64().unwrap_or(1);
    let same = former["spec"] == object["spec"] && is_leaving(former) == is_leaving(object);
    if same { before } else { before + 1 }
}

/// Whether an object is being deleted.
fn is_leaving(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

fn finalizers(object: &Value) -> &[Value] {
    object["metadata"]["finalizers"].as_array().map_or(&[], Vec::as_slice)
}

impl OpenWatch {
    fn selects(&self, path: &str, object: &Value) -> bool {
        within(&self.collection, path) && self.selector.matches(object)
    }
}

/// A decoded query string.
struct Query(BTreeMap<String, String>);

impl Query {
    fn of(text: &str) -> Self {
        let decode = |text: &str| {
            let signs = [("%3D", "="), ("%2C", ","), ("%21", "!"), ("%2F", "/"), ("+", " ")];
            signs.into_iter().fold(text.to_owned(), |text, (code, sign)| text.replace(code, sign))
        };
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        Self(pairs.map(|(key, value)| (key.to_owned(), decode(value))).collect())
    }

    fn get(&self, key: &str) -> Option<String> {
        self.0.get(key).cloned()
    }

    fn has(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|value| value == "true")
    }
}

/// `/api/v1/pods` and `/apis/GROUP/VERSION/namespaces/NS/PLURAL` are collections, and `/api/v1/namespaces/NS` is an object.
fn is_collection(path: &str) -> bool {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let before = if parts[0] == "api" { 2 } else { 3 };
    parts.len().saturating_sub(before) % 2 == 1
}

/// Whether the status of what is at this path is written at a path of its own and nowhere else.
fn has_status_by_itself(path: &str) -> bool {
    const WITHIN: [&str; 2] = ["/kuryrports/", "/kuryrloadbalancers/"];
    !WITHIN.iter().any(|kind| path.contains(kind))
}

fn within(collection: &str, path: &str) -> bool {
    let (prefix, plural) = collection.rsplit_once('/').unwrap();
    let (parent, _) = path.rsplit_once('/').unwrap();
    parent.starts_with(prefix) && parent.rsplit('/').next() == Some(plural)
}

impl Selector {
    fn of(query: &Query) -> Self {
        Self { fields: query.get("fieldSelector"), labels: query.get("labelSelector") }
    }

    /// Of fields `spec.nodeName` and `metadata.name` are known, of labels `key=value` and `!key`.
    fn matches(&self, object: &Value) -> bool {
        let field = |wanted: &str| match wanted.split_once('=') {
            Some(("spec.nodeName", node)) => object["spec"]["nodeName"] == node,
            Some(("metadata.name", name)) => object["metadata"]["name"] == name,
            _ => true,
        };
        let labels = &object["metadata"]["labels"];
        let label = |wanted: &str| match (wanted.strip_prefix('!'), wanted.split_once('=')) {
            (Some(absent), _) => labels[absent].is_null(),
            (None, Some((key, value))) => labels[key] == value,
            (None, None) => !labels[wanted].is_null(),
        };
        let parts = |text: &Option<String>| text.clone().unwrap_or_default();
        parts(&self.fields).split(',').filter(|part| !part.is_empty()).all(field)
            && parts(&self.labels).split(',').filter(|part| !part.is_empty()).all(label)
    }
}

/// What comes of a change: at the path of the status it is the status that changes, elsewhere all but that.
fn keep_other_part(path: &str, old: &Value, mut new: Value, subresource: Option<&str>) -> Value {
    if subresource.is_some() {
        let mut only = old.clone();
        only["status"] = new["status"].clone();
        new = only;
    } else if has_status_by_itself(path) {
        new["status"] = old["status"].clone();
    }
    for part in ["spec", "status"] {
        if new[part].is_null() {
            new.as_object_mut().unwrap().remove(part);
        }
    }
    new
}

fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

fn apply_operation(object: &mut Value, operation: &Value) -> Option<()> {
    let path = operation["path"].as_str()?;
    let value = operation["value"].clone();
    let (parent, last) = path.rsplit_once('/')?;
    let last = last.replace("~1", "/").replace("~0", "~");
    match operation["op"].as_str()? {
        "test" => (*object.pointer(path)? == value).then_some(()),
        "replace" => {
            *object.pointer_mut(path)? = value;
            Some(())
        }
        "add" => {
            object.pointer_mut(parent)?.as_object_mut()?.insert(last, value);
            Some(())
        }
        "remove" => match object.pointer_mut(parent)? {
            Value::Array(items) => {
                let at = last.parse().ok().filter(|at| *at < items.len())?;
                items.remove(at);
                Some(())
            }
            parent => parent.as_object_mut()?.remove(&last).map(drop),
        },
        _ => None,
    }
}

fn bookmark(version: u64, ends_list: bool) -> Value {
    let annotations = if ends_list { json!({"k8s.io/initial-events-end": "true"}) } else { json!({}) };
    json!({"type": "BOOKMARK", "object": {"kind": "X", "apiVersion": "v1",
        "metadata": {"resourceVersion": version.to_string(), "annotations": annotations}}})
}

fn as_line(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\n"))
}

fn ok(value: &Value) -> Response<Answer> {
    answered(200, value)
}

fn answered(code: u16, value: &Value) -> Response<Answer> {
    let body = Full::from(value.to_string()).boxed_unsync();
    Response::builder().status(StatusCode::from_u16(code).unwrap()).body(body).unwrap()
}

/// A watch: line by line, as they come.
fn streamed(lines: mpsc::UnboundedReceiver<Bytes>) -> Response<Answer> {
    let stream = futures::stream::unfold(lines, |mut lines| async move {
        let line = lines.recv().await?;
        Some((Ok::<_, Infallible>(hyper::body::Frame::data(line)), lines))
    });
    Response::new(StreamBody::new(stream).boxed_unsync())
}

fn not_found() -> Response<Answer> {
    status(404, "NotFound", "not found")
}

fn status(code: u16, reason: &str, message: &str) -> Response<Answer> {
    answered(code, &status_body(code, reason, message))
}

fn status_body(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": message, "metadata": {}})
}
