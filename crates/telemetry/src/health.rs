//! Whether a process lives and is ready, by named checks that its components set.
//!
//! *Live* answers whether a restart would help: only faults of the process itself belong there, never an
//! outside system that is down. *Ready* answers whether it does its work at present.
//!
//! A check is set, not asked: answering a probe costs no call. A loop that could hang sets
//! [`ok_for`](Check::ok_for) a bounded time on each turn, so that its silence is a failure.
//!
//! Paths: `/livez` and `/readyz` as the Kubernetes components have them (all checks are listed when one
//! fails, or on `?verbose`), `/alive` and `/ready` as upstream has them (`ok`, or the reason with status
//! 500), `/metrics`.
//!
//! Sources: Kubernetes, "API health endpoints"; Kuryr-Kubernetes, health servers of controller and daemon.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    extract::{Query, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::time::Instant;

use crate::metrics::{self, Metrics};

/// The checks of this process; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Health {
    checks: Checks,
}

type Checks = Arc<Mutex<BTreeMap<&'static str, Entry>>>;

/// What a check is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Failing means that only a restart helps.
    Live,
    /// Failing means that the work is not done at present.
    Ready,
    /// Both.
    Both,
}

/// One check, held by the component that sets it.
#[derive(Debug, Clone)]
pub struct Check {
    name: &'static str,
    checks: Checks,
}

#[derive(Debug)]
struct Entry {
    purpose: Purpose,
    state: CheckState,
}

#[derive(Debug)]
enum CheckState {
    Ok,
    OkUntil(Instant),
    Failing(String),
}

impl Health {
    /// No checks yet: live and ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check. It begins as good for what lives, and as `starting` for what has to become ready.
    pub fn check(&self, name: &'static str, purpose: Purpose) -> Check {
        let state = match purpose {
            Purpose::Live => CheckState::Ok,
            Purpose::Ready | Purpose::Both => CheckState::Failing("starting".to_owned()),
        };
        locked(&self.checks).insert(name, Entry { purpose, state });
        Check { name, checks: Arc::clone(&self.checks) }
    }

    /// Whether the process lives.
    ///
    /// # Errors
    ///
    /// Each failing check with its reason.
    pub fn live(&self) -> Result<(), Vec<(&'static str, String)>> {
        self.failing(Purpose::Live)
    }

    /// Whether the process is ready.
    ///
    /// # Errors
    ///
    /// Each failing check with its reason.
    pub fn ready(&self) -> Result<(), Vec<(&'static str, String)>> {
        self.failing(Purpose::Ready)
    }

    fn failing(&self, purpose: Purpose) -> Result<(), Vec<(&'static str, String)>> {
        let states = self.states(purpose);
        let failing: Vec<_> =
            states.into_iter().filter_map(|(name, state)| Some((name, state.err()?))).collect();
        if failing.is_empty() { Ok(()) } else { Err(failing) }
    }

    fn states(&self, purpose: Purpose) -> Vec<(&'static str, Result<(), String>)> {
        let now = Instant::now();
        let checks = locked(&self.checks);
        let concerned = checks.iter().filter(|(_, entry)| entry.serves(purpose));
        concerned.map(|(name, entry)| (*name, entry.state.at(now))).collect()
    }
}

impl Check {
    /// All is well until said otherwise.
    pub fn ok(&self) {
        self.set(CheckState::Ok);
    }

    /// All is well, and will be said again within this time.
    pub fn ok_for(&self, time: Duration) {
        self.set(CheckState::OkUntil(Instant::now() + time));
    }

    /// Something is wrong.
    pub fn failing(&self, reason: impl Into<String>) {
        self.set(CheckState::Failing(reason.into()));
    }

    fn set(&self, state: CheckState) {
        if let Some(entry) = locked(&self.checks).get_mut(self.name) {
            entry.state = state;
        }
    }
}

impl Entry {
    /// A process that does not live is not ready either.
    fn serves(&self, purpose: Purpose) -> bool {
        purpose == Purpose::Ready || matches!(self.purpose, Purpose::Live | Purpose::Both)
    }
}

impl CheckState {
    fn at(&self, now: Instant) -> Result<(), String> {
        match self {
            Self::Ok => Ok(()),
            Self::OkUntil(until) if now <= *until => Ok(()),
            Self::OkUntil(until) => Err(format!("silent for {} s", (now - *until).as_secs())),
            Self::Failing(reason) => Err(reason.clone()),
        }
    }
}

fn locked(checks: &Checks) -> MutexGuard<'_, BTreeMap<&'static str, Entry>> {
    checks.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers probes and scrapes; further routes can be merged into it.
pub fn router(health: Health, metrics: Metrics) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/alive", get(alive))
        .route("/ready", get(ready))
        .with_state(health)
        .merge(metrics_router(metrics))
}

/// Answers scrapes only: upstream serves metrics on a port of their own.
pub fn metrics_router(metrics: Metrics) -> Router {
    Router::new().route("/metrics", get(scrape)).with_state(metrics)
}

async fn livez(State(health): State<Health>, Query(query): Query<HashMap<String, String>>) -> Response {
    listing(&health.states(Purpose::Live), query.contains_key("verbose"))
}

async fn readyz(State(health): State<Health>, Query(query): Query<HashMap<String, String>>) -> Response {
    listing(&health.states(Purpose::Ready), query.contains_key("verbose"))
}

async fn alive(State(health): State<Health>) -> Response {
    one_line(health.live())
}

async fn ready(State(health): State<Health>) -> Response {
    one_line(health.ready())
}

async fn scrape(State(metrics): State<Metrics>) -> Response {
    match metrics.encode() {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn listing(states: &[(&'static str, Result<(), String>)], verbose: bool) -> Response {
    let good = states.iter().all(|(_, state)| state.is_ok());
    if good && !verbose {
        return "ok".into_response();
    }
    let line = |(name, state): &(&str, Result<(), String>)| match state {
        Ok(()) => format!("[+]{name} ok\n"),
        Err(reason) => format!("[-]{name} failed: {reason}\n"),
    };
    let text: String = states.iter().map(line).collect();
    (if good { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR }, text).into_response()
}

fn one_line(state: Result<(), Vec<(&'static str, String)>>) -> Response {
    match state {
        Ok(()) => "ok".into_response(),
        Err(failing) => {
            let reasons: Vec<String> =
                failing.into_iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
            (StatusCode::INTERNAL_SERVER_ERROR, reasons.join("; ")).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{body::Body, http::Request};
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    async fn ask(health: &Health, path: &str) -> String {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = router(health.clone(), Metrics::new()).oneshot(request).await.unwrap();
        let code = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        format!("{code} {}", String::from_utf8_lossy(&body))
    }

    #[tokio::test(start_paused = true)]
    async fn answers_probes() {
        let health = Health::new();
        assert_eq!(ask(&health, "/readyz").await, "200 ok");
        let loops = health.check("loops", Purpose::Live);
        let pools = health.check("pools", Purpose::Ready);
        for (path, expect) in [
            ("/livez", "200 ok"),
            ("/alive", "200 ok"),
            ("/readyz", "500 [+]loops ok\n[-]pools failed: starting\n"),
            ("/ready", "500 pools: starting"),
            ("/metrics", "200 # EOF\n"),
            ("/nothing", "404 "),
        ] {
            assert_eq!(ask(&health, path).await, expect, "{path}");
        }
        pools.ok();
        assert_eq!(ask(&health, "/ready").await, "200 ok");
        assert_eq!(ask(&health, "/livez?verbose").await, "200 [+]loops ok\n");
        loops.failing("stuck");
        for (path, expect) in [
            ("/alive", "500 loops: stuck"),
            ("/ready", "500 loops: stuck"),
            ("/livez", "500 [-]loops failed: stuck\n"),
        ] {
            assert_eq!(ask(&health, path).await, expect, "{path}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_of_a_loop_is_a_failure() {
        let health = Health::new();
        let turn = health.check("turn", Purpose::Both);
        turn.ok_for(Duration::from_secs(30));
        assert!(health.live().is_ok() && health.ready().is_ok());
        tokio::time::advance(Duration::from_secs(35)).await;
        assert_eq!(health.live(), Err(vec![("turn", "silent for 5 s".to_owned())]));
        turn.ok_for(Duration::from_secs(30));
        assert!(health.live().is_ok());
    }
}
