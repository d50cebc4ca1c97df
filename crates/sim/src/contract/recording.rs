//! What is heard while the script runs: each step with the calls that its client makes of it, and what came of it.
//!
//! Calls are overheard where they leave the clients, so that the clients' own part, such as pages of lists, is in the
//! recording, too.

use std::{
    error::Error,
    fmt::Debug,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use kuryr_openstack::{Transport, TransportError};
use serde_json::{Value, json};
use tower::BoxError;

use super::{
    fields::{is_read, kept},
    names::Names,
};

/// Writes down; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Recorder(Arc<Mutex<Heard>>);

#[derive(Debug, Default)]
struct Heard {
    chapter: &'static str,
    steps: Vec<Value>,
    names: Names,
    unheard: usize,
}

/// While this lives nothing is recorded.
pub(super) struct Unheard(Recorder);

impl Drop for Unheard {
    fn drop(&mut self) {
        self.0.heard().unheard -= 1;
    }
}

impl Recorder {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap()
    }

    /// Has names for what is there before the script begins.
    pub(super) fn know(&self, names: &Names) {
        self.heard().names = names.clone();
    }

    /// Begins with another server.
    pub(super) fn begin(&self, chapter: &'static str) {
        self.heard().chapter = chapter;
    }

    /// Does one step and records it, with the kind of its failure.
    pub(super) async fn step<T, E: Told>(
        &self,
        what: &str,
        doing: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.push(what);
        let result = doing.await;
        let outcome = result.as_ref().err().map_or_else(|| json!("done"), Told::told);
        self.last(|step, _| step["outcome"] = outcome);
        result
    }

    /// Adds something that the script has found out itself.
    pub(super) fn found(&self, what: &str, found: &Value) {
        self.last(|step, names| step[what] = names.of("", found));
    }

    /// Records that a part of the script has come to no end.
    pub(super) fn ended(&self, why: &(dyn Error + Send + Sync)) {
        self.push("the script ends early");
        self.last(|step, _| step["outcome"] = json!(why.to_string()));
    }

    fn push(&self, what: &str) {
        let mut heard = self.heard();
        let step = json!({"step": format!("{}: {what}", heard.chapter), "calls": []});
        heard.steps.push(step);
    }

    /// What was recorded.
    pub(super) fn recording(&self) -> Value {
        Value::Array(self.heard().steps.clone())
    }

    /// Records nothing for a while.
    pub(super) fn unheard(&self) -> Unheard {
        self.heard().unheard += 1;
        Unheard(self.clone())
    }

    fn call(&self, method: &str, path: &str, status: u16, body: &[u8]) {
        if path.ends_with("/auth/tokens") || self.heard().unheard > 0 {
            return;
        }
        let answer = serde_json::from_slice(body).unwrap_or(Value::Null);
        let answer = if is_read(method, path, status) { kept(&answer) } else { Value::Null };
        self.last(|step, names| {
            let line = format!("{method} {}", names.of_path(path));
            let call = json!({"call": line, "status": status, "answer": names.of("", &answer)});
            step["calls"].as_array_mut().unwrap().push(call);
        });
    }

    fn last(&self, change: impl FnOnce(&mut Value, &mut Names)) {
        let mut heard = self.heard();
        let Heard { steps, names, .. } = &mut *heard;
        if let Some(step) = steps.last_mut() {
            change(step, names);
        }
    }
}

/// A failure, as it is recorded.
pub(super) trait Told {
    /// Its kind, without what differs from run to run.
    fn told(&self) -> Value;
}

impl Told for kuryr_openstack::Error {
    fn told(&self) -> Value {
        match self {
            Self::QuotaExceeded { resources, .. } => json!({"QuotaExceeded": resources}),
            Self::Conflict { kind, .. } => json!({"Conflict": kind}),
            Self::NotFound { kind, .. } => json!({"NotFound": kind}),
            Self::BadRequest { kind, .. } => json!({"BadRequest": kind}),
            other => variant(other),
        }
    }
}

impl Told for kuryr_kubernetes::Error {
    fn told(&self) -> Value {
        variant(self)
    }
}

impl Told for kube::Error {
    fn told(&self) -> Value {
        match self {
            Self::Api(status) => json!({"Api": status.reason}),
            other => variant(other),
        }
    }
}

fn variant(error: &impl Debug) -> Value {
    let shown = format!("{error:?}");
    json!(shown.split(|sign: char| !sign.is_alphanumeric()).next())
}

/// A transport that is overheard.
#[derive(Debug)]
struct Overheard {
    recorder: Recorder,
    transport: Arc<dyn Transport>,
}

/// Records what passes a transport.
pub(super) fn overhear_openstack(recorder: &Recorder, transport: Arc<dyn Transport>) -> Arc<dyn Transport> {
    Arc::new(Overheard { recorder: recorder.clone(), transport })
}

impl Transport for Overheard {
    fn call(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>> {
        let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
        Box::pin(async move {
            let answer = self.transport.call(request).await?;
            self.recorder.call(&method, &path, answer.status().as_u16(), answer.body());
            Ok(answer)
        })
    }
}

/// Records what passes a client of the API server; of watches only how they begin.
pub(super) fn overhear_kubernetes(recorder: &Recorder, client: kube::Client) -> kube::Client {
    let recorder = recorder.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (recorder, client) = (recorder.clone(), client.clone());
        async move { overheard(&recorder, &client, request).await }
    });
    kube::Client::new(service, "default")
}

async fn overheard(
    recorder: &Recorder,
    client: &kube::Client,
    request: Request<Body>,
) -> Result<Response<Body>, BoxError> {
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
    let answer = client.send(request).await?;
    let status = answer.status();
    if is_watch && status.is_success() {
        recorder.call("WATCH", &path, status.as_u16(), b"");
        return Ok(answer);
    }
    let (parts, body) = answer.into_parts();
    let body = body.collect().await?.to_bytes();
    recorder.call(&method, &path, status.as_u16(), &body);
    Ok(Response::from_parts(parts, Body::from(body.to_vec())))
}
