//! Tokens: how we get one from Keystone, when it is renewed, and that only one is asked for at a time.
//!
//! - A *session* is a token with its project and catalogue. It is renewed [`MARGIN`] ahead of its expiry; while
//!   one caller renews, the others go on with the old one, and if the renewal fails while it is valid, so does
//!   the renewing caller.
//! - A token that a service refuses (401) is replaced once. Callers whose requests were refused at the same
//!   time share the one new token.
//! - A failure is shared too: whoever asks within [`HOLD_OFF`] after it gets the same error without a new
//!   attempt, so that many callers with a wrong password do not lock the account (Keystone,
//!   `lockout_failure_attempts`).
//! - A token's life is counted on our own clock from the difference of the two times that Keystone states, so
//!   it does not matter whether the clocks agree.
//!
//! Source: Identity API v3, "Authentication and token management": "Password authentication with scoped
//! authorization", "Authenticating with an Application Credential".

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method};
use jiff::Timestamp;
use kuryr_types::{ProjectId, with_causes};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::{Mutex, MutexGuard, watch},
    time::Instant,
};
use tracing::{info, warn};

use crate::{
    catalogue::{Catalogue, without_version},
    credentials::{ApplicationCredential, Credentials, Domain, Identity, Project, User},
    error::{Call, Error},
    exchange::{Answer, Exchange, Outgoing},
    query::Query,
};

/// The operation that gets a token.
pub(crate) const CREATE_TOKEN: &str = "create_token";

/// How long before its expiry a token is replaced, as keystoneauth does (`MIN_TOKEN_LIFE_SECONDS`), so that the
/// service that gets it can still use it for calls of its own; at most a quarter of the token's life.
const MARGIN: Duration = Duration::from_secs(120);
/// How long a failure to get a token is remembered.
const HOLD_OFF: Duration = Duration::from_secs(2);
/// How long a refusal of the credentials is remembered.
const REFUSED_HOLD_OFF: Duration = Duration::from_secs(20);

/// Keeps a valid session.
#[derive(Debug)]
pub(crate) struct Auth {
    credentials: Credentials,
    exchange: Arc<Exchange>,
    current: watch::Sender<Option<Arc<Session>>>,
    /// Held by whoever is talking to Keystone.
    failure: Mutex<Option<Failure>>,
}

/// The last attempt failed.
#[derive(Debug)]
struct Failure {
    error: Error,
    until: Instant,
}

/// A token and what came with it.
pub(crate) struct Session {
    token: SecretString,
    pub(crate) project_id: ProjectId,
    pub(crate) catalogue: Catalogue,
    renew_at: Instant,
    expires_at: Instant,
}

impl Session {
    pub(crate) fn token(&self) -> &str {
        self.token.expose_secret()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("project_id", &self.project_id).finish_non_exhaustive()
    }
}

impl Auth {
    pub(crate) fn new(credentials: Credentials, exchange: Arc<Exchange>) -> Self {
        Self { credentials, exchange, current: watch::Sender::new(None), failure: Mutex::new(None) }
    }

    pub(crate) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// A session with a valid token, without a call in most cases.
    ///
    /// # Errors
    /// What Keystone's answer means, or that there is none.
    pub(crate) async fn session(&self) -> Result<Arc<Session>, Error> {
        let now = Instant::now();
        match self.current() {
            Some(session) if now < session.renew_at => Ok(session),
            Some(session) if now < session.expires_at => match self.failure.try_lock() {
                Ok(turn) => self.renewed(turn, None).await,
                Err(_) => Ok(session),
            },
            _ => self.renewed(self.failure.lock().await, None).await,
        }
    }

    /// A session other than the one that a service has refused.
    ///
    /// # Errors
    /// What Keystone's answer means, or that there is none.
    pub(crate) async fn replacing(&self, refused: &Arc<Session>) -> Result<Arc<Session>, Error> {
        self.renewed(self.failure.lock().await, Some(refused)).await
    }

    /// Takes note that a service refused a session that was made because it had refused the one before: for a
    /// while no more are asked for, since the fault is not the token's.
    pub(crate) async fn refused_again(&self, error: &Error) {
        let until = Instant::now() + REFUSED_HOLD_OFF;
        *self.failure.lock().await = Some(Failure { error: error.clone(), until });
    }

    /// Gets a session while holding the turn. Whoever has waited for the turn finds the work done.
    async fn renewed(
        &self,
        mut turn: MutexGuard<'_, Option<Failure>>,
        refused: Option<&Arc<Session>>,
    ) -> Result<Arc<Session>, Error> {
        let now = Instant::now();
        let current =
            self.current().filter(|found| refused.is_none_or(|refused| !Arc::ptr_eq(found, refused)));
        if let Some(session) = current.as_ref().filter(|session| now < session.renew_at) {
            return Ok(session.clone());
        }
        let error = match turn.as_ref().filter(|failure| now < failure.until) {
            Some(failure) => failure.error.clone(),
            None => match self.authenticate().await {
                Ok(session) => {
                    *turn = None;
                    self.current.send_replace(Some(session.clone()));
                    return Ok(session);
                }
                Err(error) => {
                    let hold_off = match error {
                        Error::Unauthorized { .. } | Error::Forbidden { .. } => REFUSED_HOLD_OFF,
                        _ => HOLD_OFF,
                    };
                    warn!(error = with_causes(&error), "no token from Keystone");
                    *turn = Some(Failure { error: error.clone(), until: Instant::now() + hold_off });
                    error
                }
            },
        };
        // Renewed ahead of time, so the old one still serves.
        current.filter(|session| Instant::now() < session.expires_at).ok_or(error)
    }

    fn current(&self) -> Option<Arc<Session>> {
        self.current.borrow().clone()
    }

    /// `POST /v3/auth/tokens`.
    async fn authenticate(&self) -> Result<Arc<Session>, Error> {
        let asked = Instant::now();
        let base = without_version(&self.credentials.auth_url, &["/v3"]);
        let call = Call {
            operation: CREATE_TOKEN,
            method: Method::POST,
            url: format!("{base}/v3/auth/tokens"),
            request_id: None,
        };
        let body = Bytes::from(request_body(&self.credentials.identity).to_string());
        let outgoing = Outgoing { call, query: Query::default(), headers: HeaderMap::new(), body };
        let answer = self.exchange.send(outgoing).await?.success().map_err(|error| match error {
            // Not to be taken for a resource that does not exist by whoever needed the token.
            Error::NotFound { call, .. } => {
                let problem = "there is no Identity API v3 here; look at auth_url".to_owned();
                Error::Protocol { call, problem }
            }
            other => other,
        })?;
        let session = read_session(&answer, asked)?;
        info!(project_id = %session.project_id, request_id = answer.call.request_id, "got a token from Keystone");
        Ok(Arc::new(session))
    }
}

fn request_body(identity: &Identity) -> Value {
    match identity {
        Identity::Password { user, password, project } => {
            let mut user = user_json(user);
            user["password"] = password.expose_secret().into();
            json!({"auth": {
                "identity": {"methods": ["password"], "password": {"user": user}},
                "scope": {"project": project_json(project)},
            }})
        }
        // Scoped by itself; Keystone refuses a scope beside it.
        Identity::ApplicationCredential { credential, secret } => {
            let mut credential = match credential {
                ApplicationCredential::Id(id) => json!({"id": id}),
                ApplicationCredential::Name(name, user) => json!({"name": name, "user": user_json(user)}),
            };
            credential["secret"] = secret.expose_secret().into();
            let methods = ["application_credential"];
            json!({"auth": {"identity": {"methods": methods, "application_credential": credential}}})
        }
    }
}

fn user_json(user: &User) -> Value {
    match user {
        User::Id(id) => json!({"id": id}),
        User::Name(name, domain) => json!({"name": name, "domain": domain_json(domain)}),
    }
}

fn project_json(project: &Project) -> Value {
    match project {
        Project::Id(id) => json!({"id": id}),
        Project::Name(name, domain) => json!({"name": name, "domain": domain_json(domain)}),
    }
}

fn domain_json(domain: &Domain) -> Value {
    match domain {
        Domain::Id(id) => json!({"id": id}),
        Domain::Name(name) => json!({"name": name}),
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: TokenBody,
}

#[derive(Deserialize)]
struct TokenBody {
    issued_at: Timestamp,
    expires_at: Timestamp,
    project: Option<TokenProject>,
    #[serde(default)]
    catalog: Catalogue,
}

#[derive(Deserialize)]
struct TokenProject {
    id: ProjectId,
}

fn read_session(answer: &Answer, asked: Instant) -> Result<Session, Error> {
    let token = answer.headers.get("x-subject-token").and_then(|token| token.to_str().ok());
    let token = token.ok_or_else(|| answer.unexpected("there is no X-Subject-Token"))?;
    let TokenAnswer { token: body } = answer.json()?;
    let project = body.project.ok_or_else(|| answer.unexpected("the token is not scoped to a project"))?;
    let life = Duration::try_from(body.expires_at.duration_since(body.issued_at))
        .ok()
        .filter(|life| !life.is_zero())
        .ok_or_else(|| answer.unexpected("the token expires before it was issued"))?;
    Ok(Session {
        token: SecretString::from(token),
        project_id: project.id,
        catalogue: body.catalog,
        renew_at: asked + life - MARGIN.min(life / 4),
        expires_at: asked + life,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use futures::future::join_all;
    use tokio::time::advance;

    use super::*;
    use crate::{
        TransportError,
        client::Client,
        credentials::Credentials,
        recorded::{Asked, Recorded, Reply, cloud},
    };

    fn network() -> Reply {
        Reply::Json(200, json!({"network": {"id": "n", "project_id": "ours"}}))
    }

    fn refusal() -> Reply {
        Reply::Json(401, json!({"error": {"code": 401, "message": "no", "title": "Unauthorized"}}))
    }

    async fn many(client: &Client, number: usize) -> Vec<Result<(), Error>> {
        let id = "n".into();
        join_all((0..number).map(|_| async { client.network(&id).await.map(drop) })).await
    }

    fn identity(options: &[(&str, &str)]) -> Value {
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        request_body(&Credentials::from_options(&options.collect()).unwrap().identity)
    }

    #[test]
    fn requests_have_the_form_of_the_identity_api() {
        let url = ("auth_url", "http://keystone");
        let by_name = identity(&[
            url,
            ("username", "kuryr"),
            ("user_domain_name", "Default"),
            ("password", "s3cret"),
            ("project_name", "k8s"),
            ("project_domain_id", "default"),
        ]);
        assert_eq!(
            by_name,
            json!({"auth": {
                "identity": {"methods": ["password"], "password": {"user":
                    {"name": "kuryr", "domain": {"name": "Default"}, "password": "s3cret"}}},
                "scope": {"project": {"name": "k8s", "domain": {"id": "default"}}},
            }})
        );
        let by_id = identity(&[url, ("user_id", "u"), ("password", "s3cret"), ("project_id", "p")]);
        assert_eq!(by_id["auth"]["identity"]["password"]["user"], json!({"id": "u", "password": "s3cret"}));
        assert_eq!(by_id["auth"]["scope"], json!({"project": {"id": "p"}}));
        let secret = ("application_credential_secret", "s3cret");
        assert_eq!(
            identity(&[url, ("application_credential_id", "a"), secret]),
            json!({"auth": {"identity": {"methods": ["application_credential"],
                "application_credential": {"id": "a", "secret": "s3cret"}}}})
        );
        assert_eq!(
            identity(&[url, ("application_credential_name", "a"), ("user_id", "u"), secret]),
            json!({"auth": {"identity": {"methods": ["application_credential"],
                "application_credential": {"name": "a", "user": {"id": "u"}, "secret": "s3cret"}}}})
        );
    }

    #[tokio::test(start_paused = true)]
    async fn many_first_calls_get_one_token() {
        let (client, recorded) = cloud(|asked| (!asked.is_token()).then(network));
        assert!(many(&client, 200).await.iter().all(Result::is_ok));
        assert_eq!(recorded.tokens_asked(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn many_refusals_at_once_get_one_new_token() {
        let revoked = Arc::new(AtomicBool::new(false));
        let sees = revoked.clone();
        let (client, recorded) = cloud(move |asked| match asked {
            asked if asked.is_token() => None,
            asked if sees.load(Ordering::SeqCst) && asked.token() == "token-1" => Some(refusal()),
            _ => Some(network()),
        });
        client.project_id().await.unwrap();
        revoked.store(true, Ordering::SeqCst);
        assert!(many(&client, 200).await.iter().all(Result::is_ok));
        assert_eq!(recorded.tokens_asked(), 2);
        // Each call was sent at most twice.
        let with = |token: &str| recorded.asked().iter().filter(|asked| asked.token() == token).count();
        assert_eq!(with("token-2"), 200);
        assert!(with("token-1") <= 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_refuses_every_token_does_not_cause_many() {
        let (client, recorded) = cloud(|asked| (!asked.is_token()).then(refusal));
        for _ in 0..5 {
            let results = many(&client, 20).await;
            assert!(results.iter().all(|result| matches!(result, Err(Error::Unauthorized { .. }))));
        }
        assert_eq!(recorded.tokens_asked(), 2);
        advance(REFUSED_HOLD_OFF).await;
        assert!(many(&client, 20).await.iter().all(Result::is_err));
        assert_eq!(recorded.tokens_asked(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_password_is_not_tried_by_everybody_and_recovers() {
        let wrong = Arc::new(AtomicBool::new(true));
        let sees = wrong.clone();
        let (client, recorded) = cloud(move |asked| match asked {
            asked if !asked.is_token() => Some(network()),
            _ => sees.load(Ordering::SeqCst).then(refusal),
        });
        let results = many(&client, 100).await;
        for result in results {
            let text = result.unwrap_err().to_string();
            assert_eq!(
                text,
                "create_token (POST http://keystone:5000/v3/auth/tokens, req-1): the cloud refused the \
                 credentials: no"
            );
        }
        assert_eq!((recorded.tokens_asked(), recorded.asked().len()), (1, 0));
        wrong.store(false, Ordering::SeqCst);
        assert!(client.project_id().await.is_err());
        advance(REFUSED_HOLD_OFF).await;
        assert_eq!(client.project_id().await.unwrap().as_str(), "ours");
    }

    /// Keystone answers the first `good` requests, then no connection can be made.
    fn keystone_goes_down(good: usize) -> (Client, Arc<Recorded>) {
        let count = AtomicUsize::new(0);
        cloud(move |asked: &Asked| match asked {
            asked if !asked.is_token() => Some(network()),
            _ if count.fetch_add(1, Ordering::SeqCst) < good => None,
            _ => Some(Reply::Fail(TransportError::connect("refused"))),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_replaced_ahead_of_its_expiry() {
        let (client, recorded) = cloud(|asked| (!asked.is_token()).then(network));
        let hour = Duration::from_secs(3600);
        many(&client, 1).await;
        advance(hour - MARGIN - Duration::from_secs(1)).await;
        many(&client, 1).await;
        assert_eq!(recorded.tokens_asked(), 1);
        advance(Duration::from_secs(2)).await;
        many(&client, 10).await;
        assert_eq!(recorded.tokens_asked(), 2);
        let tokens: Vec<String> = recorded.asked().iter().map(|asked| asked.token().to_owned()).collect();
        // One caller renews; the others go on with the old token meanwhile.
        assert_eq!(tokens.iter().filter(|token| *token == "token-2").count(), 1);
        many(&client, 1).await;
        assert_eq!(recorded.asked().last().unwrap().token(), "token-2");
    }

    #[tokio::test(start_paused = true)]
    async fn the_old_token_serves_until_it_expires_if_keystone_is_down() {
        let (client, recorded) = keystone_goes_down(1);
        many(&client, 1).await;
        advance(Duration::from_secs(3600) - MARGIN).await;
        assert!(many(&client, 10).await.iter().all(Result::is_ok));
        assert!(many(&client, 10).await.iter().all(Result::is_ok));
        assert_eq!(recorded.tokens_asked(), 2);
        advance(MARGIN).await;
        let results = many(&client, 10).await;
        assert!(results.iter().all(|result| matches!(result, Err(Error::Connect { .. }))));
        assert_eq!(recorded.tokens_asked(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_are_no_token_are_told() {
        let token = |project: Value, expires: &str| json!({"token": {"issued_at": "2026-11-20T10:00:00Z", "expires_at": expires, "project": project}});
        let project = json!({"id": "p"});
        for (reply, expect) in [
            (token(project.clone(), "2026-11-20T11:00:00Z"), "there is no X-Subject-Token"),
            (token(Value::Null, "2026-11-20T11:00:00Z"), "the token is not scoped to a project"),
            (token(project.clone(), "2026-11-20T10:00:00Z"), "the token expires before it was issued"),
            (token(project, "2026-11-20T09:00:00Z"), "the token expires before it was issued"),
            (json!({"versions": {}}), "missing field `token`"),
        ] {
            let with_header = expect != "there is no X-Subject-Token";
            let (client, _) = cloud(move |_| {
                let headers: &[_] = if with_header { &[("x-subject-token", "s3cret")] } else { &[] };
                Some(Reply::With(201, headers, reply.clone()))
            });
            let error = client.project_id().await.unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(shown.contains(expect), "{shown}");
            assert!(!shown.contains("s3cret"), "{shown}");
            assert!(!error.outcome_unknown());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_auth_url_does_not_look_like_a_missing_resource() {
        let fault = json!({"error": {"code": 404, "message": "Not Found", "type": "PortNotFound"}});
        let (client, _) = cloud(move |asked| asked.is_token().then(|| Reply::Json(404, fault.clone())));
        let error = client.network(&"n".into()).await.unwrap_err();
        assert!(!error.is_not_found());
        assert!(error.to_string().ends_with("there is no Identity API v3 here; look at auth_url"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn debug_shows_neither_token_nor_password() {
        let (client, _) = cloud(|_| None);
        client.project_id().await.unwrap();
        let shown = format!("{client:?}");
        assert!(shown.contains("ours") && shown.contains("kuryr"), "{shown}");
        assert!(!shown.contains("token-1") && !shown.contains("s3cret"), "{shown}");
    }
}
