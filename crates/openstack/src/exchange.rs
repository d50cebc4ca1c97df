//! One request and its answer, within a deadline: built, sent once, timed, logged.
//!
//! The log line of each exchange and each error carry the id that the cloud gave the request. Headers and
//! bodies are never logged: they hold tokens and passwords.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, USER_AGENT},
};
use kuryr_types::with_causes;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, timeout};
use tracing::{Instrument, Span, debug, field::Empty, info_span};

use crate::{
    error::{Call, Error},
    fault,
    query::Query,
    transport::{Transport, TransportError},
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-openstack-request-id");

/// Is told of every exchange, for metrics.
pub trait Observe: Send + Sync + fmt::Debug {
    /// Counts one exchange of `operation`, such as `create_ports`; without a status no answer came.
    fn call(&self, operation: &'static str, status: Option<u16>, elapsed: Duration);
}

/// Sends requests and waits for their answers.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) transport: Arc<dyn Transport>,
    /// How long one exchange may take.
    pub(crate) timeout: Duration,
    pub(crate) user_agent: HeaderValue,
    pub(crate) observe: Option<Arc<dyn Observe>>,
}

/// A request before it is sent.
pub(crate) struct Outgoing {
    pub(crate) call: Call,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Outgoing {
    fn into_request(self, user_agent: &HeaderValue) -> Result<(Call, Request<Bytes>), Error> {
        let Self { call, query, headers, body } = self;
        let url = match query.as_str() {
            "" => call.url.clone(),
            query => format!("{}?{query}", call.url),
        };
        let mut request = Request::new(body);
        *request.method_mut() = call.method.clone();
        *request.headers_mut() = headers;
        request.headers_mut().insert(USER_AGENT, user_agent.clone());
        request.headers_mut().insert(ACCEPT, JSON);
        if !request.body().is_empty() {
            request.headers_mut().insert(CONTENT_TYPE, JSON);
        }
        match url.parse() {
            Ok(uri) => {
                *request.uri_mut() = uri;
                Ok((call, request))
            }
            Err(error) => {
                let problem = format!("the service's URL cannot be used: {error}");
                Err(Error::Protocol { call: Box::new(call), problem })
            }
        }
    }
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

impl Exchange {
    /// Sends a request once and waits for its answer, whatever its status.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Connect`], [`Error::Lost`].
    pub(crate) async fn send(&self, outgoing: Outgoing) -> Result<Answer, Error> {
        let (call, request) = outgoing.into_request(&self.user_agent)?;
        let span = info_span!("openstack", operation = call.operation, request_id = Empty);
        let started = Instant::now();
        let result = timeout(self.timeout, self.transport.call(request)).instrument(span.clone()).await;
        let elapsed = started.elapsed();
        let result = match result {
            Err(_) => Err(Error::Timeout { call: Box::new(call.clone()), after: self.timeout }),
            Ok(Err(error)) => Err(failure(call.clone(), error)),
            Ok(Ok(response)) => Ok(Answer::new(call.clone(), response)),
        };
        span.in_scope(|| log(&call, &result, elapsed));
        if let Some(observe) = &self.observe {
            let status = result.as_ref().ok().map(|answer| answer.status.as_u16());
            observe.call(call.operation, status, elapsed);
        }
        result
    }
}

fn failure(call: Call, error: TransportError) -> Error {
    let call = Box::new(call);
    match error {
        TransportError::Connect(source) => Error::Connect { call, source },
        TransportError::Lost(source) => Error::Lost { call, source },
        error @ TransportError::TooLarge { .. } => Error::Lost { call, source: Arc::new(error) },
    }
}

fn log(call: &Call, result: &Result<Answer, Error>, elapsed: Duration) {
    let Call { operation, method, url, .. } = call;
    match result {
        Ok(Answer { status, call: Call { request_id, .. }, .. }) => {
            let request_id = request_id.as_deref().unwrap_or_default();
            Span::current().record("request_id", request_id);
            let status = status.as_u16();
            debug!(operation, %method, url, status, request_id, ?elapsed, "the cloud answered");
        }
        Err(error) => debug!(operation, %method, url, error = with_causes(error), ?elapsed, "no answer"),
    }
}

/// An answer, whatever its status.
pub(crate) struct Answer {
    pub(crate) call: Call,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn new(mut call: Call, response: Response<Bytes>) -> Self {
        let (head, body) = response.into_parts();
        let request_id = head.headers.get(&REQUEST_ID).and_then(|value| value.to_str().ok());
        call.request_id = request_id.map(str::to_owned);
        Self { call, status: head.status, headers: head.headers, body }
    }

    /// Accepts 2xx only.
    ///
    /// # Errors
    /// What the status and the body mean.
    pub(crate) fn success(self) -> Result<Self, Error> {
        if self.status.is_success() {
            return Ok(self);
        }
        Err(fault::classify(self.call, self.status, &self.headers, &self.body))
    }

    /// Reads the body.
    ///
    /// # Errors
    /// [`Error::Protocol`] if it is not what the API promises.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|error| self.unexpected(error.to_string()))
    }

    /// Reads the one thing that is wrapped under its name, as in `{"port": {...}}`.
    ///
    /// # Errors
    /// [`Error::Protocol`] if it is not there or not what the API promises.
    pub(crate) fn member<T: DeserializeOwned>(&self, name: &'static str) -> Result<T, Error> {
        let mut body: BTreeMap<String, Value> = self.json()?;
        self.read(body.remove(name).ok_or_else(|| self.unexpected(format!("there is no `{name}`")))?)
    }

    /// Reads a part of the body.
    ///
    /// # Errors
    /// [`Error::Protocol`] if it is not what the API promises.
    pub(crate) fn read<T: DeserializeOwned>(&self, part: Value) -> Result<T, Error> {
        serde_json::from_value(part).map_err(|error| self.unexpected(error.to_string()))
    }

    /// An answer that is not what the API promises.
    pub(crate) fn unexpected(&self, problem: impl Into<String>) -> Error {
        Error::Protocol { call: Box::new(self.call.clone()), problem: problem.into() }
    }
}
