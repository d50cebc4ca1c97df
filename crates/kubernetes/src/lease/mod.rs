//! Which replica may act: leader election by a Lease.
//!
//! A candidate looks at the lease every [`retry_period`](LeaseConfig::retry_period). It takes a lease that
//! nobody holds, or whose record has not changed for its whole duration *as seen here*: the times written in
//! a lease come from other machines' clocks and are never compared with ours. Every write is made under the
//! version that was read.
//!
//! A leader renews every `retry_period`. Its leadership ends [`renew_deadline`](LeaseConfig::renew_deadline)
//! after it *sent* the last renewal that succeeded. Others saw that renewal later and wait longer
//! (`lease_duration`), so the old leader has stopped before a new one can begin:
//! [`Leadership::is_leader_now`] turns false by itself, also while the API server cannot be reached. The
//! difference of the two is what a write under way at that moment may still take; that a later one does no
//! harm is for the epoch to ensure.
//!
//! The lease also carries the *epoch* of the last leadership in an annotation. A new leader reads it with its
//! [`Term`] and records its own by [`Leadership::record_epoch`].
//!
//! A suspended machine's monotonic clock stands still: after waking, such a leader believes for up to
//! `renew_deadline` that it still leads. Epochs cover this too.
//!
//! The rules are in `state`, which knows neither clock nor calls; here is what reads and writes.
//!
//! Sources: API reference of `coordination.k8s.io/v1` Lease; Kubernetes, "Leases", "Coordinated leader
//! election".

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use kuryr_types::Epoch;
use serde_json::json;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{Call, Error, Result, backoff::Jitter, clock::Clock};

mod state;

use state::{Record, State, Step};

/// Where a lease carries the epoch of the last leadership.
pub const EPOCH_ANNOTATION: &str = "kuryr.openstack.org/epoch";

/// Epochs waiting to be recorded; one leader records one, so a few is plenty.
const REQUESTS_MAX: usize = 8;

/// Which lease, who we are, and how patient everybody is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseConfig {
    /// Namespace of the lease.
    pub namespace: String,
    /// Name of the lease.
    pub name: String,
    /// Who we are; different in every process, see [`unique_identity`].
    pub identity: String,
    /// How long others wait for a renewal.
    pub lease_duration: Duration,
    /// How long we act after sending a renewal.
    pub renew_deadline: Duration,
    /// Time between looks and between renewals.
    pub retry_period: Duration,
}

impl LeaseConfig {
    /// The times that Kubernetes' own controllers use: 15 s, 10 s, 2 s.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>, identity: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }

    fn keeps_leaders_apart(&self) -> bool {
        self.retry_period >= Duration::from_secs(1)
            && self.retry_period < self.renew_deadline
            && self.renew_deadline < self.lease_duration
    }
}

/// Makes an identity that no other process has, not even the next one on the same host.
#[must_use]
pub fn unique_identity(host: &str) -> String {
    format!("{host}_{:016x}", Jitter::random().bits())
}

/// One leadership of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// Counts the leaderships of this process.
    pub number: u64,
    /// The epoch that the lease recorded when it was acquired; 0 if none.
    pub epoch: Epoch,
}

/// Prepares the election; nothing is asked before it runs.
///
/// # Errors
///
/// [`Error::LeaseTimes`] if the times could not keep two leaders apart.
pub fn elector(client: Client, config: LeaseConfig) -> Result<(Elector, Leadership)> {
    if !config.keeps_leaders_apart() {
        return Err(Error::LeaseTimes);
    }
    let (term, terms) = watch::channel(None);
    let (ask, requests) = mpsc::channel(REQUESTS_MAX);
    let until = Arc::new(RwLock::new(None));
    let elector = Elector {
        leases: Api::namespaced(client, &config.namespace),
        state: State::new(config.identity.clone(), config.lease_duration, config.renew_deadline),
        config,
        term,
        until: Arc::clone(&until),
        requests,
        waiting: None,
        clock: Clock::of_machine(),
    };
    Ok((elector, Leadership { terms, until, ask }))
}

/// Whether this process leads; clones share it.
#[derive(Debug, Clone)]
pub struct Leadership {
    terms: watch::Receiver<Option<Term>>,
    /// The term and when it ends unless renewed.
    until: Arc<RwLock<Option<(Term, Instant)>>>,
    ask: mpsc::Sender<Request>,
}

impl Leadership {
    /// Follows the leaderships of this process: `None` while somebody else leads.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Option<Term>> {
        self.terms.clone()
    }

    /// Whether a write may be begun now. False before anybody else can lead.
    #[must_use]
    pub fn is_leader_now(&self) -> bool {
        self.current().is_some()
    }

    /// The present leadership; none if [`is_leader_now`](Self::is_leader_now) is false.
    #[must_use]
    pub fn current(&self) -> Option<Term> {
        let until = self.until.read().unwrap_or_else(PoisonError::into_inner);
        until.filter(|(_, until)| Instant::now() < *until).map(|(term, _)| term)
    }

    /// Writes the epoch of `term` into the lease; returns once it is there.
    ///
    /// # Errors
    ///
    /// [`Error::NotLeader`] if the term ends first, [`Error::StaleEpoch`] if the lease records a greater one.
    pub async fn record_epoch(&self, term: &Term, epoch: Epoch) -> Result<()> {
        if self.current() != Some(*term) {
            return Err(Error::NotLeader);
        }
        let (answer, answered) = oneshot::channel();
        // Without a running elector nobody leads.
        self.ask.send(Request { term: *term, epoch, answer }).await.map_err(|_| Error::NotLeader)?;
        answered.await.map_err(|_| Error::NotLeader)?
    }
}

#[derive(Debug)]
struct Request {
    term: Term,
    epoch: Epoch,
    answer: oneshot::Sender<Result<()>>,
}

/// Takes part in the election while it runs.
#[derive(Debug)]
pub struct Elector {
    config: LeaseConfig,
    leases: Api<Lease>,
    state: State,
    term: watch::Sender<Option<Term>>,
    until: Arc<RwLock<Option<(Term, Instant)>>>,
    requests: mpsc::Receiver<Request>,
    waiting: Option<Request>,
    clock: Clock,
}

impl Elector {
    /// Takes part by this clock: what it tells is written and never compared.
    #[must_use]
    pub fn by(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// Acquires, renews, and tries again after a loss, until `stop`; then gives the lease back, so that the
    /// next leader need not wait. Cancel `stop` after the work has stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let began = Instant::now();
            if stop.run_until_cancelled(self.round()).await.is_none() {
                break;
            }
            let next = began + self.config.retry_period;
            // The end of the term has to be told in time.
            let wake = self.state.held(Instant::now()).map_or(next, |(_, until)| until.min(next));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = sleep_until(wake) => {}
                Some(request) = self.requests.recv(), if self.waiting.is_none() => self.waiting = Some(request),
            }
            self.publish();
        }
        self.release().await;
    }

    /// One look at the lease, and a write if it is ours to make.
    async fn round(&mut self) {
        // The time bound keeps a hanging call from using up the time in which a second one could renew.
        let bound = (self.config.renew_deadline / 2).min(Duration::from_secs(5));
        let result = timeout(bound, self.look_and_write()).await;
        let result = result
            .unwrap_or_else(|_| Err(Error::TimedOut { call: Box::new(self.call("renew")), after: bound }));
        if let Err(error) = result {
            tracing::warn!(lease = self.config.name, error = &error as &dyn std::error::Error, "lease");
        }
        self.publish();
    }

    async fn look_and_write(&mut self) -> Result<()> {
        if self.state.must_read(Instant::now()) {
            self.read().await?;
        }
        let (now, wall) = (Instant::now(), self.clock.now());
        let step = self.state.step(now, wall, self.waiting.as_ref().map(|ask| ask.epoch));
        if step == Step::Nothing {
            return Ok(());
        }
        // Until the answer is here, however this ends.
        self.state.unsure();
        let sent = Instant::now();
        let written = match &step {
            Step::Nothing => return Ok(()),
            Step::Create(record) => self.create(record).await,
            Step::Update { record, version } => self.update(record, version).await,
        };
        match written {
            Ok(lease) => {
                let (record, version) = seen(&lease);
                self.state.wrote(sent, record, version);
                Ok(())
            }
            // Somebody else was faster: nothing is wrong, the next look tells more.
            Err(Error::Conflict { .. } | Error::AlreadyExists { .. } | Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn read(&mut self) -> Result<()> {
        let lease = self.leases.get_opt(&self.config.name).await;
        let lease = lease.map_err(|error| Error::of(self.call("get"), error))?;
        self.state.read(Instant::now(), lease.as_ref().map(seen));
        Ok(())
    }

    async fn create(&self, record: &Record) -> Result<Lease> {
        let annotations = [(EPOCH_ANNOTATION.to_owned(), record.epoch.to_string())];
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.config.name.clone()),
                namespace: Some(self.config.namespace.clone()),
                annotations: Some(annotations.into()),
                ..ObjectMeta::default()
            },
            spec: Some(record.as_spec()),
        };
        let created = self.leases.create(&PostParams::default(), &lease).await;
        created.map_err(|error| Error::of(self.call("create"), error))
    }

    /// A merge patch under the version that was read: fields of later releases stay as they are.
    async fn update(&self, record: &Record, version: &str) -> Result<Lease> {
        let patch = json!({
            "metadata": {
                "resourceVersion": version,
                "annotations": {EPOCH_ANNOTATION: record.epoch.to_string()},
            },
            "spec": record.as_spec(),
        });
        let updated =
            self.leases.patch(&self.config.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        updated.map_err(|error| Error::of(self.call("renew"), error))
    }

    /// Tells everybody what the state is, and answers who waits for an epoch.
    fn publish(&mut self) {
        let held = self.state.held(Instant::now());
        self.tell(held);
        self.answer(held.map(|(term, _)| term));
    }

    fn tell(&self, held: Option<(Term, Instant)>) {
        *self.until.write().unwrap_or_else(PoisonError::into_inner) = held;
        let term = held.map(|(term, _)| term);
        let changed = self.term.send_if_modified(|told| std::mem::replace(told, term) != term);
        match term {
            Some(term) if changed => tracing::info!(lease = self.config.name, ?term, "leading"),
            None if changed => tracing::info!(lease = self.config.name, "not leading any more"),
            _ => {}
        }
    }

    fn answer(&mut self, term: Option<Term>) {
        let Some(request) = &self.waiting else { return };
        let recorded = self.state.recorded_epoch();
        let answer = if term != Some(request.term) {
            Err(Error::NotLeader)
        } else if recorded == Some(request.epoch) {
            Ok(())
        } else if recorded.is_some_and(|recorded| recorded > request.epoch) {
            Err(Error::StaleEpoch { offered: request.epoch, recorded: recorded.unwrap_or_default() })
        } else {
            return;
        };
        if let Some(request) = self.waiting.take() {
            // Whoever asked may have gone.
            drop(request.answer.send(answer));
        }
    }

    async fn release(mut self) {
        let led = self.state.held(Instant::now()).is_some();
        self.tell(None);
        if !led {
            return;
        }
        match timeout(self.config.retry_period, self.give_back()).await {
            Ok(Ok(())) => tracing::info!(lease = self.config.name, "given back"),
            // It ends by itself.
            Ok(Err(error)) => tracing::info!(lease = self.config.name, %error, "not given back"),
            Err(_) => tracing::info!(lease = self.config.name, "not given back in time"),
        }
    }

    async fn give_back(&mut self) -> Result<()> {
        if self.state.must_read(Instant::now()) {
            self.read().await?;
        }
        match self.state.release(Instant::now(), self.clock.now()) {
            Step::Update { record, version } => self.update(&record, &version).await.map(drop),
            _ => Ok(()),
        }
    }

    fn call(&self, verb: &'static str) -> Call {
        Call {
            verb,
            kind: "Lease".to_owned(),
            namespace: Some(self.config.namespace.clone()),
            name: self.config.name.clone(),
        }
    }
}

impl Record {
    fn as_spec(&self) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
            acquire_time: self.acquired.map(MicroTime),
            renew_time: self.renewed.map(MicroTime),
            lease_transitions: Some(self.transitions),
            ..LeaseSpec::default()
        }
    }
}

/// What a lease says, with its version.
fn seen(lease: &Lease) -> (Record, String) {
    let spec = lease.spec.clone().unwrap_or_default();
    let annotations = lease.metadata.annotations.as_ref();
    let epoch = annotations.and_then(|annotations| annotations.get(EPOCH_ANNOTATION));
    let record = Record {
        holder: spec.holder_identity.unwrap_or_default(),
        duration: Duration::from_secs(
            spec.lease_duration_seconds.and_then(|s| s.try_into().ok()).unwrap_or(0),
        ),
        acquired: spec.acquire_time.map(|time| time.0),
        renewed: spec.renew_time.map(|time| time.0),
        transitions: spec.lease_transitions.unwrap_or(0),
        epoch: epoch.and_then(|text| text.parse().ok()).unwrap_or(0),
    };
    (record, lease.metadata.resource_version.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests;
