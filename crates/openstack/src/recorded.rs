//! A transport for tests: answers as told, remembers what was asked.
//!
//! Keystone's tokens are answered here unless the test does it: `token-1`, `token-2`, ..., each valid for an
//! hour, for project `ours`, with a catalogue that has Neutron at `http://neutron:9696` and Octavia at
//! `http://octavia:9876`.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, Response};
use serde_json::{Value, json};

use crate::{Client, Credentials, Options, Transport, TransportError};

/// How long the recorded cloud takes to answer, on the paused clock.
const LATENCY: Duration = Duration::from_millis(10);

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) host: String,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Value,
}

impl Asked {
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    pub(crate) fn is_token(&self) -> bool {
        self.path == "/v3/auth/tokens"
    }

    pub(crate) fn token(&self) -> &str {
        &self.headers["x-auth-token"]
    }
}

/// What comes back.
pub(crate) enum Reply {
    Json(u16, Value),
    With(u16, &'static [(&'static str, &'static str)], Value),
    Fail(TransportError),
    Never,
}

type Answering = dyn Fn(&Asked) -> Option<Reply> + Send + Sync;

pub(crate) struct Recorded {
    answering: Box<Answering>,
    asked: Mutex<Vec<Asked>>,
    tokens: AtomicUsize,
}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorded")
    }
}

pub(crate) fn credentials() -> Credentials {
    let options = [
        ("auth_url", "http://keystone:5000/v3"),
        ("username", "kuryr"),
        ("password", "s3cret"),
        ("user_domain_name", "Default"),
        ("project_name", "k8s"),
        ("project_domain_name", "Default"),
    ];
    let options = options.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Credentials::from_options(&BTreeMap::from(options)).unwrap()
}

/// A client of a cloud that answers with `answering`; `None` leaves tokens to this file and is 404 otherwise.
pub(crate) fn cloud(
    answering: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static,
) -> (Client, Arc<Recorded>) {
    cloud_with(Options::default(), answering)
}

pub(crate) fn cloud_with(
    options: Options,
    answering: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static,
) -> (Client, Arc<Recorded>) {
    let recorded = Arc::new(Recorded {
        answering: Box::new(answering),
        asked: Mutex::default(),
        tokens: AtomicUsize::new(0),
    });
    (Client::with_transport(credentials(), options, recorded.clone()), recorded)
}

impl Recorded {
    /// What was asked, without tokens.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().iter().filter(|asked| !asked.is_token()).cloned().collect()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.asked().iter().map(Asked::line).collect()
    }

    /// How many tokens were asked for.
    pub(crate) fn tokens_asked(&self) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| asked.is_token()).count()
    }

    fn token(&self) -> Response<Bytes> {
        let number = self.tokens.fetch_add(1, Ordering::SeqCst) + 1;
        let body = json!({"token": {
            "methods": ["password"],
            "issued_at": "2026-11-20T10:00:00.000000Z",
            "expires_at": "2026-11-20T11:00:00.000000Z",
            "project": {"id": "ours", "name": "k8s"},
            "catalog": [
                {"type": "network", "endpoints": [
                    {"interface": "public", "region_id": "RegionOne", "url": "http://neutron:9696/"}
                ]},
                {"type": "load-balancer", "endpoints": [
                    {"interface": "public", "region_id": "RegionOne", "url": "http://octavia:9876/v2.0"}
                ]},
            ],
        }});
        let builder = Response::builder().status(201).header("x-subject-token", format!("token-{number}"));
        builder.body(body.to_string().into()).unwrap()
    }
}

impl Transport for Recorded {
    fn call(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>> {
        let text = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
        let asked = Asked {
            method: request.method().clone(),
            host: request.uri().authority().unwrap().to_string(),
            path: request.uri().path_and_query().unwrap().to_string(),
            headers: request.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
            body: serde_json::from_slice(request.body()).unwrap_or(Value::Null),
        };
        self.asked.lock().unwrap().push(asked.clone());
        Box::pin(async move {
            tokio::time::sleep(LATENCY).await;
            let (status, headers, body) = match (self.answering)(&asked) {
                Some(Reply::Json(status, body)) => (status, [].as_slice(), body),
                Some(Reply::With(status, headers, body)) => (status, headers, body),
                Some(Reply::Fail(error)) => return Err(error),
                Some(Reply::Never) => std::future::pending().await,
                None if asked.is_token() => return Ok(self.token()),
                None => (404, [].as_slice(), json!({"NeutronError": {"type": "NotFound", "message": "?"}})),
            };
            let mut builder = Response::builder().status(status).header("x-openstack-request-id", "req-1");
            for (name, value) in headers {
                builder = builder.header(*name, *value);
            }
            Ok(builder.body(body.to_string().into()).unwrap())
        })
    }
}
