//! One typed call: a place, a session, an exchange, a result.
//!
//! The [`Client`] bounds how many calls run at the same time, because one Neutron port costs a good part of a
//! second of server time and a burst would only queue there. It sends a call a second time in one case: the
//! token was refused (401), which happens before anything is done. Each resource of Neutron adds its calls to
//! the client in its own file.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{IF_MATCH, InvalidHeaderValue},
};
use kuryr_types::ProjectId;
use serde::Serialize;
use tokio::{
    sync::{OnceCell, Semaphore, SemaphorePermit},
    time::timeout,
};

pub use crate::exchange::Observe;
use crate::{
    auth::{Auth, Session},
    catalogue::{LOAD_BALANCER, NETWORK, Service},
    credentials::Credentials,
    error::{Call, Error},
    exchange::{Answer, Exchange, Outgoing},
    neutron::extension::Extensions,
    octavia::Octavia,
    query::Query,
    transport::{HyperTransport, Transport},
};

/// A connection to one cloud as one user; cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    auth: Auth,
    exchange: Arc<Exchange>,
    places: Semaphore,
    page_size: usize,
    extensions: OnceCell<Arc<Extensions>>,
    octavia: OnceCell<Arc<Octavia>>,
}

/// Bounds and surroundings of a [`Client`].
#[derive(Debug, Clone)]
pub struct Options {
    /// How long one exchange may take, and how long a call waits for a place. 60 s: a bulk of many ports takes
    /// a third of a second for each. The credentials' own `timeout` wins.
    pub timeout: Duration,
    /// How long a connection may take to be there. 5 s: connecting is quick or will not happen.
    pub connect_timeout: Duration,
    /// How many calls may run at the same time. 16: a Neutron server has about as many workers.
    pub concurrency: usize,
    /// How many elements a page of a list has. 500: about 1 MB of ports.
    pub page_size: usize,
    /// How we introduce ourselves in the cloud's logs.
    pub user_agent: HeaderValue,
    /// Is told of every exchange.
    pub observe: Option<Arc<dyn Observe>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(5),
            concurrency: 16,
            page_size: 500,
            user_agent: HeaderValue::from_static(concat!("kuryr-controller/", env!("CARGO_PKG_VERSION"))),
            observe: None,
        }
    }
}

impl Client {
    /// Prepares a client that talks to the cloud by HTTP; nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Tls`] if a certificate or key file cannot be used.
    pub fn new(credentials: Credentials, options: Options) -> Result<Self, Error> {
        let timeout = credentials.timeout.unwrap_or(options.timeout);
        // Smaller than the whole, so that a failure to connect is told from a lost answer.
        let connect_timeout = options.connect_timeout.min(timeout / 2);
        let transport = HyperTransport::new(&credentials.tls, connect_timeout)?;
        Ok(Self::with_transport(credentials, options, Arc::new(transport)))
    }

    /// Prepares a client that talks to whatever the transport leads to.
    #[must_use]
    pub fn with_transport(credentials: Credentials, options: Options, transport: Arc<dyn Transport>) -> Self {
        let exchange = Arc::new(Exchange {
            transport,
            timeout: credentials.timeout.unwrap_or(options.timeout),
            user_agent: options.user_agent,
            observe: options.observe,
        });
        let inner = Inner {
            auth: Auth::new(credentials, exchange.clone()),
            exchange,
            places: Semaphore::new(options.concurrency.clamp(1, Semaphore::MAX_PERMITS)),
            page_size: options.page_size.max(1),
            extensions: OnceCell::new(),
            octavia: OnceCell::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The project that our token is scoped to; gets a token if there is none yet.
    ///
    /// # Errors
    /// What Keystone's answer means, or that there is none.
    pub async fn project_id(&self) -> Result<ProjectId, Error> {
        Ok(self.inner.auth.session().await?.project_id.clone())
    }

    pub(crate) fn page_size(&self) -> usize {
        self.inner.page_size
    }

    pub(crate) fn extensions_cell(&self) -> &OnceCell<Arc<Extensions>> {
        &self.inner.extensions
    }

    pub(crate) fn octavia_cell(&self) -> &OnceCell<Arc<Octavia>> {
        &self.inner.octavia
    }

    /// Calls a service; anything but 2xx is an error.
    pub(crate) async fn call(&self, request: Request) -> Result<Answer, Error> {
        let _place = self.place(request.operation).await?;
        let session = self.inner.auth.session().await?;
        let answer = self.send(&session, &request).await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return answer.success();
        }
        let session = self.inner.auth.replacing(&session).await?;
        let result = self.send(&session, &request).await?.success();
        if let Err(error @ Error::Unauthorized { .. }) = &result {
            self.inner.auth.refused_again(error).await;
        }
        result
    }

    async fn place(&self, operation: &'static str) -> Result<SemaphorePermit<'_>, Error> {
        let after = self.inner.exchange.timeout;
        let busy = Error::Busy { operation, after };
        // The semaphore is never closed, so the inner error cannot occur.
        timeout(after, self.inner.places.acquire()).await.ok().and_then(Result::ok).ok_or(busy)
    }

    async fn send(&self, session: &Session, request: &Request) -> Result<Answer, Error> {
        let base = session.catalogue.endpoint(request.service, self.inner.auth.credentials())?;
        let call = Call {
            operation: request.operation,
            method: request.method.clone(),
            url: format!("{base}{}", request.path),
            request_id: None,
        };
        let headers = request.headers(session);
        let headers = headers.map_err(|_| Error::Protocol {
            call: Box::new(call.clone()),
            problem: "Keystone's token cannot be sent in a header".to_owned(),
        })?;
        let outgoing = Outgoing { call, query: request.query.clone(), headers, body: request.body.clone() };
        self.inner.exchange.send(outgoing).await
    }
}

/// What to ask of a service.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    service: &'static Service,
    operation: &'static str,
    method: Method,
    /// Below the endpoint without its version, encoded.
    path: String,
    query: Query,
    body: Bytes,
    revision: Option<u64>,
}

const X_AUTH_TOKEN: HeaderName = HeaderName::from_static("x-auth-token");

impl Request {
    /// Asks Neutron for what is below `/v2.0/`.
    pub(crate) fn new(operation: &'static str, method: Method, path: impl AsRef<str>) -> Self {
        Self::of(&NETWORK, operation, method, format!("/v2.0/{}", path.as_ref()))
    }

    /// Asks Octavia for what is below `/v2/lbaas/`.
    pub(crate) fn octavia(operation: &'static str, method: Method, path: impl AsRef<str>) -> Self {
        Self::of(&LOAD_BALANCER, operation, method, format!("/v2/lbaas/{}", path.as_ref()))
    }

    /// Asks Octavia which versions of its API there are.
    pub(crate) fn octavia_versions(operation: &'static str) -> Self {
        Self::of(&LOAD_BALANCER, operation, Method::GET, "/".to_owned())
    }

    fn of(service: &'static Service, operation: &'static str, method: Method, path: String) -> Self {
        Self { service, operation, method, path, query: Query::default(), body: Bytes::new(), revision: None }
    }

    pub(crate) fn query(self, query: Query) -> Self {
        Self { query, ..self }
    }

    pub(crate) fn body(self, body: &impl Serialize) -> Self {
        #[expect(clippy::expect_used, reason = "our bodies are structs with text keys; only others can fail")]
        let body = serde_json::to_vec(body).expect("a struct with text keys becomes JSON");
        Self { body: body.into(), ..self }
    }

    /// Does the write only if the resource still has this revision.
    pub(crate) fn if_revision(self, revision: Option<u64>) -> Self {
        Self { revision, ..self }
    }

    fn headers(&self, session: &Session) -> Result<HeaderMap, InvalidHeaderValue> {
        let mut token = HeaderValue::from_str(session.token())?;
        token.set_sensitive(true);
        let mut headers = HeaderMap::from_iter([(X_AUTH_TOKEN, token)]);
        if let Some(revision) = self.revision {
            headers.insert(IF_MATCH, HeaderValue::try_from(format!("revision_number={revision}"))?);
        }
        Ok(headers)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::future::join_all;
    use serde_json::json;
    use tokio::time::Instant;

    use super::*;
    use crate::{
        TransportError,
        neutron::PortCreate,
        ownership::Ownership,
        recorded::{Asked, Reply, cloud, cloud_with},
    };

    fn network() -> Reply {
        Reply::Json(200, json!({"network": {"id": "n", "project_id": "ours"}}))
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_says_who_we_are_and_goes_to_the_endpoint() {
        let (client, recorded) = cloud(|asked| (!asked.is_token()).then(network));
        client.network(&"../ports?a=b".into()).await.unwrap();
        let asked = &recorded.asked()[0];
        assert_eq!(asked.line(), "GET /v2.0/networks/..%2Fports%3Fa%3Db");
        assert_eq!(asked.host, "neutron:9696");
        assert_eq!(asked.headers["user-agent"], concat!("kuryr-controller/", env!("CARGO_PKG_VERSION")));
        assert_eq!(asked.headers["accept"], "application/json");
        assert_eq!(asked.headers.get("content-type"), None);
    }

    async fn create_ports(client: &Client) -> Error {
        let owner = Ownership::new("ours".into(), "cluster-a").unwrap();
        client.create_ports(&owner, &[PortCreate::on("n".into(), "p")]).await.unwrap_err()
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_sent_twice_and_the_error_says_whether_it_may_have_happened() {
        type Make = fn() -> Reply;
        let table: [(&str, Make, bool); 6] = [
            ("status 503", || Reply::Json(503, json!({})), true),
            ("status 500", || Reply::Json(500, json!({})), true),
            ("429", || Reply::With(429, &[("retry-after", "3")], json!({})), false),
            ("no connection", || Reply::Fail(TransportError::connect("refused")), false),
            ("the answer was lost", || Reply::Fail(TransportError::lost("reset")), true),
            ("no answer within 60s", || Reply::Never, true),
        ];
        for (name, reply, unknown) in table {
            let (client, recorded) = cloud(move |asked| (!asked.is_token()).then(reply));
            let error = create_ports(&client).await;
            assert_eq!(recorded.lines(), ["POST /v2.0/ports"], "{name}");
            assert_eq!(error.outcome_unknown(), unknown, "{error}");
            let shown = if name == "429" { "fewer calls" } else { name };
            assert!(error.to_string().contains(shown), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_a_write_that_cannot_be_read_leaves_the_outcome_open() {
        for body in [json!({}), json!({"ports": []}), json!({"ports": [{"id": 7}]}), json!([1])] {
            let (client, _) = cloud(move |asked| (!asked.is_token()).then(|| Reply::Json(201, body.clone())));
            let error = create_ports(&client).await;
            assert!(matches!(error, Error::Protocol { .. }) && error.outcome_unknown(), "{error}");
            assert_eq!(error.request_id(), Some("req-1"));
        }
    }

    #[derive(Debug, Default)]
    struct Seen(Mutex<Vec<String>>);

    impl Observe for Seen {
        fn call(&self, operation: &'static str, status: Option<u16>, elapsed: Duration) {
            let line = format!("{operation} {status:?} {}", elapsed.as_millis());
            self.0.lock().unwrap().push(line);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_exchange_is_observed() {
        let seen = Arc::new(Seen::default());
        let options = Options { observe: Some(seen.clone()), ..Options::default() };
        let (client, _) = cloud_with(options, |asked: &Asked| match asked.path.as_str() {
            "/v2.0/networks/n" => Some(network()),
            "/v2.0/networks/lost" => Some(Reply::Never),
            _ => None,
        });
        client.network(&"n".into()).await.unwrap();
        client.network(&"gone".into()).await.unwrap_err();
        client.network(&"lost".into()).await.unwrap_err();
        let expect = [
            "create_token Some(201) 10",
            "get_network Some(200) 10",
            "get_network Some(404) 10",
            "get_network None 60000",
        ];
        assert_eq!(*seen.0.lock().unwrap(), expect);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_calls_run_than_there_are_places() {
        let options = Options { concurrency: 3, ..Options::default() };
        let (client, _) = cloud_with(options, |asked| (!asked.is_token()).then(network));
        client.project_id().await.unwrap();
        let started = Instant::now();
        let id = "n".into();
        join_all((0..30).map(|_| async { client.network(&id).await.unwrap() })).await;
        // Each takes 10 ms on the paused clock, so three at a time take ten rounds.
        assert_eq!(started.elapsed().as_millis(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_place_ends() {
        let options = Options { concurrency: 1, ..Options::default() };
        let (client, recorded) = cloud_with(options, |asked| (!asked.is_token()).then(network));
        let place = client.place("test").await.unwrap();
        let error = client.network(&"n".into()).await.unwrap_err();
        assert_eq!(error.to_string(), "get_network: no place for another call within 60s");
        assert!(recorded.asked().is_empty() && !error.outcome_unknown());
        drop(place);
        client.network(&"n".into()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_endpoint_is_told_before_anything_is_sent() {
        let token = json!({"token": {
            "issued_at": "2026-11-20T10:00:00Z", "expires_at": "2026-11-20T11:00:00Z",
            "project": {"id": "p"}, "catalog": []}});
        let (client, recorded) =
            cloud(move |_| Some(Reply::With(201, &[("x-subject-token", "t")], token.clone())));
        let error = client.network(&"n".into()).await.unwrap_err();
        let text =
            "the catalogue has no network endpoint with interface public in any region; it offers: none";
        assert_eq!(error.to_string(), text);
        assert!(recorded.asked().is_empty());
    }
}
