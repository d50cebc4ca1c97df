//! Listing and watching one kind of object, for as long as the process lives.
//!
//! The watch is a loop over three phases:
//!
//! 1. *list*: a consistent list, as a stream of events where the API server can (`sendInitialEvents`, which
//!    needs less memory on both sides), page by page where it refuses. The store is replaced at
//!    once and the difference, with the removed objects, is told as one change: a deletion that happened
//!    while nobody was watching is not lost.
//! 2. *watching*: each event changes the store and is told afterwards. Bookmarks are signs of life.
//! 3. *resume*: after the stream has ended, watch on from the last version seen. When the API server no longer
//!    keeps that version (410), or when the silence has lasted too long to trust the store, list again.
//!
//! The API server sends a bookmark about every minute, but only when it knows of a version after the one that the
//! watch began with. Of a kind whose objects do not change it learns one when etcd reports progress: every ten
//! minutes, unless etcd is told otherwise (kubeadm: five seconds). So a quiet watch is no sign of trouble: after
//! [`WatchConfig::quiet`] it is opened anew at the version it has. That costs one request, and tells as much as a
//! bookmark does: the connection and the API server are well, and a change since that version would have been sent.
//!
//! If that fails as well, the store counts as not in sync after [`WatchConfig::silence`].
//!
//! Failures are tried again for ever with a bounded back-off, and so is a list whose version is gone as soon as it is
//! watched. One object that cannot be read is reported and stays as it was; it does not stop the others.
//!
//! Sources: Kubernetes API concepts, "Efficient detection of changes", "Watch bookmarks", "Streaming lists",
//! "410 Gone responses"; KEP-3157; kube-apiserver 1.36, `storage/cacher`: `Cacher.dispatchEvents` and
//! `cacheWatcher.process`.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, stream};
use kube::{
    Api, Client, Resource,
    api::{ListParams, WatchParams},
};
use kuryr_types::with_causes;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    Call, Error, Result,
    backoff::{Backoff, Jitter},
    slim::Pack,
    store::{Listing, ObjectKey, Store},
};

mod decode;
mod lines;

use decode::Line;
use lines::Lines;

/// The annotation of the bookmark that ends the initial events of a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// A stream that ends sooner than this after it was opened counts as a failure, so that an API server that
/// accepts and closes at once is not asked in a tight loop. One that lasts longer is a sign of life.
const TOO_SHORT: Duration = Duration::from_secs(1);

/// What to watch and how patiently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchConfig {
    /// Label selector.
    pub labels: Option<String>,
    /// Field selector, for example `spec.nodeName=n1`.
    pub fields: Option<String>,
    /// Whether to ask for streaming lists at all.
    pub streaming: bool,
    /// Objects per page of an ordinary list.
    pub page_size: u32,
    /// Longest time without an event or a bookmark before the watch is opened anew; more than the minute between
    /// bookmarks.
    pub quiet: Duration,
    /// Longest time without word of the API server before the store is not in sync; more than `quiet`, so that there
    /// is time to open the watch anew.
    pub silence: Duration,
    /// How long the API server keeps one watch open.
    pub watch_for: Duration,
    /// Longest time for a complete list.
    pub list_within: Duration,
    /// Delays between failed attempts.
    pub backoff: Backoff,
    /// For a simulation that has to repeat itself.
    pub seed: Option<u64>,
}

impl Default for WatchConfig {
    fn default() -> Self {
        Self {
            labels: None,
            fields: None,
            streaming: true,
            page_size: 500,
            quiet: Duration::from_secs(70),
            silence: Duration::from_secs(90),
            watch_for: Duration::from_secs(290),
            list_within: Duration::from_secs(60),
            backoff: Backoff { first: Duration::from_millis(500), most: Duration::from_secs(15) },
            seed: None,
        }
    }
}

impl WatchConfig {
    /// Narrows the watch to objects with these labels.
    #[must_use]
    pub fn labels(self, selector: impl Into<String>) -> Self {
        Self { labels: Some(selector.into()), ..self }
    }

    /// Narrows the watch to objects with these fields.
    #[must_use]
    pub fn fields(self, selector: impl Into<String>) -> Self {
        Self { fields: Some(selector.into()), ..self }
    }
}

/// A change that the store has already taken over.
#[derive(Debug, Clone)]
pub enum Change<K> {
    /// An object was added or modified.
    Applied {
        /// As it is.
        new: Arc<K>,
        /// As it was.
        old: Option<Arc<K>>,
    },
    /// An object was deleted, or is no longer selected.
    Deleted {
        /// As last heard.
        old: Arc<K>,
    },
    /// A complete list replaced everything.
    Reset {
        /// Objects that are new or differ, each with its former state in the same life.
        changed: Vec<(Arc<K>, Option<Arc<K>>)>,
        /// Objects that no longer exist. A name that has begun another life is in both.
        removed: Vec<Arc<K>>,
    },
    /// A complete list replaced everything in a store that keeps its objects packed: whoever follows it reads the store, as it
    /// would take too much to tell of thousands at once.
    Replaced,
}

impl<K> Change<K> {
    /// Whether this leaves an object, which was there before, `like` it was.
    pub fn leaves(&self, like: impl FnOnce(&K, &K) -> bool) -> bool {
        matches!(self, Self::Applied { new, old: Some(old) } if like(new, old))
    }

    /// Whether a complete list replaced everything.
    #[must_use]
    pub const fn replaces_all(&self) -> bool {
        matches!(self, Self::Reset { .. } | Self::Replaced)
    }

    /// All states, old and new, that the change speaks of: whatever depends on one of them may have to be
    /// looked at again. [`Change::Replaced`] names none.
    pub fn touched(&self) -> impl Iterator<Item = &Arc<K>> {
        let (one, many, removed): (_, &[_], &[_]) = match self {
            Self::Applied { new, old } => ([Some(new), old.as_ref()], &[], &[]),
            Self::Deleted { old } => ([Some(old), None], &[], &[]),
            Self::Reset { changed, removed } => ([None, None], changed, removed),
            Self::Replaced => ([None, None], &[], &[]),
        };
        let many = many.iter().flat_map(|(new, old)| std::iter::once(new).chain(old.as_ref()));
        one.into_iter().flatten().chain(many).chain(removed)
    }
}

/// Prepares a watch; nothing is asked before it runs.
pub fn watch<K>(api: Api<K>, config: WatchConfig) -> (Store<K>, Watch<K>)
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Send + Sync + 'static,
{
    watch_into(Store::new(config.silence), api, config)
}

/// The same for thousands of objects that are seldom asked for: the store keeps them packed.
pub fn watch_packed<K>(api: Api<K>, config: WatchConfig) -> (Store<K>, Watch<K>)
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Pack + Send + Sync + 'static,
{
    watch_into(Store::packed(config.silence), api, config)
}

fn watch_into<K>(store: Store<K>, api: Api<K>, config: WatchConfig) -> (Store<K>, Watch<K>)
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Send + Sync + 'static,
{
    let call = Call {
        verb: "watch",
        kind: K::kind(&()).into_owned(),
        namespace: api.namespace().map(ToOwned::to_owned),
        name: String::new(),
    };
    let requests = kube::core::Request::new(api.resource_url());
    let watch = Watch {
        jitter: config.seed.map_or_else(Jitter::random, Jitter::seeded),
        streaming: config.streaming,
        config,
        call,
        requests,
        client: api.into_client(),
        store: store.clone(),
        phase: Phase::List,
        failures: 0,
        listed_at: None,
        losses: 0,
    };
    (store, watch)
}

/// A watch that feeds a store; see the module.
pub struct Watch<K> {
    config: WatchConfig,
    call: Call,
    requests: kube::core::Request,
    client: Client,
    store: Store<K>,
    jitter: Jitter,
    /// Cleared once the API server has refused a streaming list.
    streaming: bool,
    phase: Phase,
    failures: u32,
    /// When the last list was complete.
    listed_at: Option<Instant>,
    /// Versions that were lost soon after their list, in a row.
    losses: u32,
}

enum Phase {
    List,
    Resume { version: String },
    Watching { version: String, open: Open },
}

/// A watch stream that has been accepted.
struct Open {
    lines: Lines,
    since: Instant,
    /// It has told something, or has been open for a while.
    lasts: bool,
}

/// A complete list, and the stream that continues it if there is one.
struct Listed<K> {
    objects: Listing<K>,
    undecodable: BTreeMap<ObjectKey, String>,
    version: String,
    open: Option<Open>,
}

/// Why a phase ended.
enum End {
    /// The API server no longer keeps the version, or speaks of one it never had.
    VersionLost,
    Failed(Error),
}

impl<K> Watch<K>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Send + Sync + 'static,
{
    /// Watches until `stop`; calls `on_change` after the store has taken over each change.
    ///
    /// `on_change` must not block: it computes keys and puts them into a queue.
    pub async fn run(mut self, stop: CancellationToken, mut on_change: impl FnMut(&Change<K>) + Send) {
        while let Some(change) = stop.run_until_cancelled(self.next()).await {
            on_change(&change);
        }
    }

    /// The same as an endless stream.
    pub fn into_stream(self) -> impl Stream<Item = Change<K>> + Send {
        stream::unfold(self, |mut watch| async move {
            let change = watch.next().await;
            Some((change, watch))
        })
    }

    async fn next(&mut self) -> Change<K> {
        loop {
            self.store.follow(matches!(self.phase, Phase::Watching { .. }));
            // The phase is put back by whoever gets on; whatever is interrupted begins with a list.
            match std::mem::replace(&mut self.phase, Phase::List) {
                Phase::List => {
                    if let Some(change) = self.list().await {
                        return change;
                    }
                }
                Phase::Resume { version } => self.resume(version).await,
                Phase::Watching { version, open } => {
                    if let Some(change) = self.follow(version, open).await {
                        return change;
                    }
                }
            }
        }
    }

    async fn list(&mut self) -> Option<Change<K>> {
        match self.list_once().await {
            Ok(listed) => {
                self.failures = 0;
                self.listed_at = Some(Instant::now());
                for (key, why) in &listed.undecodable {
                    tracing::warn!(kind = self.call.kind, %key, why, "object cannot be read");
                }
                self.phase = match listed.open {
                    Some(open) => Phase::Watching { version: listed.version, open },
                    None => Phase::Resume { version: listed.version },
                };
                Some(self.store.complete(listed.objects, listed.undecodable))
            }
            Err(end) => {
                self.pause(end).await;
                None
            }
        }
    }

    async fn list_once(&mut self) -> Result<Listed<K>, End> {
        let within = self.config.list_within;
        if self.streaming {
            // An empty version asks for the most recent state, not for whatever the API server has cached.
            match self.open("", true, within).await {
                Ok(open) => {
                    let listed = timeout(within, self.collect(open)).await;
                    // An API server from before streaming lists ignores the request for them and never tells
                    // the end of the initial events.
                    self.streaming = listed.is_ok();
                    return listed.unwrap_or_else(|_| Err(End::Failed(self.timed_out(within))));
                }
                Err(Error::Invalid { message, .. }) => {
                    tracing::info!(
                        kind = self.call.kind,
                        message,
                        "no streaming lists here, listing by pages"
                    );
                    self.streaming = false;
                }
                Err(error) => return Err(Self::sorted(error)),
            }
        }
        let listed = timeout(within, self.list_pages()).await;
        listed.unwrap_or_else(|_| Err(End::Failed(self.timed_out(within))))
    }

    /// Collects the initial events of a streaming list up to the bookmark that ends them.
    async fn collect(&mut self, mut open: Open) -> Result<Listed<K>, End> {
        let mut objects = self.store.listing();
        let mut undecodable = BTreeMap::new();
        loop {
            match self.line(&mut open).await? {
                Some(Line::Upsert(object)) => objects.insert(object),
                Some(Line::Gone { key, .. }) => {
                    objects.remove(&key);
                    undecodable.remove(&key);
                }
                Some(Line::Unreadable { key, why, .. }) => {
                    undecodable.insert(key, why);
                }
                Some(Line::Bookmark { version, ends_list: true }) => {
                    return Ok(Listed { objects, undecodable, version, open: Some(open) });
                }
                Some(Line::Bookmark { .. }) => {}
                None => return Err(End::Failed(self.ended())),
            }
        }
    }

    /// Lists page by page.
    async fn list_pages(&mut self) -> Result<Listed<K>, End> {
        let (objects, undecodable) = (self.store.listing(), BTreeMap::new());
        let mut listed = Listed { objects, undecodable, version: String::new(), open: None };
        let mut continues = None;
        loop {
            let params = ListParams {
                label_selector: self.config.labels.clone(),
                field_selector: self.config.fields.clone(),
                limit: Some(self.config.page_size),
                continue_token: continues,
                ..ListParams::default()
            };
            let request =
                self.requests.list(&params).map_err(|error| self.failed(kube::Error::BuildRequest(error)))?;
            let text = self.client.request_text(request).await.map_err(|error| self.failed(error))?;
            let page = decode::page(&text).map_err(|error| self.failed(kube::Error::SerdeError(error)))?;
            page.objects.into_iter().for_each(|object| listed.objects.insert(object));
            listed.undecodable.extend(page.undecodable);
            listed.version = page.version;
            continues = page.continues;
            if continues.is_none() {
                return Ok(listed);
            }
        }
    }

    async fn resume(&mut self, version: String) {
        let within = self.config.silence.saturating_sub(self.config.quiet).max(TOO_SHORT);
        match self.open(&version, false, within).await {
            Ok(open) => self.phase = Phase::Watching { version, open },
            Err(error) => {
                let end = Self::sorted(error);
                self.interrupted(end, version).await;
            }
        }
    }

    /// Takes one line of the stream.
    async fn follow(&mut self, mut version: String, mut open: Open) -> Option<Change<K>> {
        let Ok(line) = timeout(self.patience(&open), self.line(&mut open)).await else {
            self.phase = self.quiet(version, open);
            return None;
        };
        let line = match line {
            Ok(Some(line)) => line,
            Ok(None) => {
                if open.since.elapsed() < TOO_SHORT {
                    self.pause(End::Failed(self.ended())).await;
                }
                self.phase = self.go_on_from(version);
                return None;
            }
            Err(end) => {
                self.interrupted(end, version).await;
                return None;
            }
        };
        self.failures = 0;
        open.lasts = true;
        let change = match line {
            Line::Upsert(object) => {
                version = object.meta().resource_version.clone().unwrap_or(version);
                Some(self.store.apply(object))
            }
            Line::Gone { key, version: at } => {
                version = at.unwrap_or(version);
                self.store.delete(&key)
            }
            Line::Unreadable { key, version: at, why } => {
                tracing::warn!(kind = self.call.kind, %key, why, "object cannot be read");
                version = at.unwrap_or(version);
                self.store.cannot_read(key, why);
                None
            }
            Line::Bookmark { version: at, .. } => {
                version = at;
                self.store.heard();
                None
            }
        };
        self.phase = Phase::Watching { version, open };
        change
    }

    /// How long to wait for a line of the stream.
    fn patience(&mut self, open: &Open) -> Duration {
        if !open.lasts {
            return TOO_SHORT;
        }
        // Spread for the same reason as the ends of watches.
        self.jitter.between(self.config.quiet.mul_f64(0.9), self.config.quiet)
    }

    /// Goes on after there was no line for as long as patience lasts.
    fn quiet(&mut self, version: String, open: Open) -> Phase {
        if open.lasts {
            return Phase::Resume { version };
        }
        self.failures = 0;
        self.store.heard();
        Phase::Watching { version, open: Open { lasts: true, ..open } }
    }

    /// Waits after a failure and goes on in the phase that it leaves possible.
    async fn interrupted(&mut self, end: End, version: String) {
        let lost = matches!(end, End::VersionLost);
        if lost {
            // The API server answers: what failed before is over.
            self.failures = self.losses_before();
        }
        self.pause(end).await;
        self.phase = if lost { Phase::List } else { self.go_on_from(version) };
    }

    /// Counts a version that was lost; tells how many of those before it were lost as soon as this one. One that has served for
    /// a while is listed anew at once, but an API server that keeps no version, or a proxy that asks another one each time, is
    /// not asked for list after list.
    fn losses_before(&mut self) -> u32 {
        let is_soon = self.listed_at.is_some_and(|at| at.elapsed() <= self.config.backoff.most);
        let before = if is_soon { self.losses } else { 0 };
        self.losses = before.saturating_add(1);
        before
    }

    /// Watches on from `version`, unless the silence has lasted so long that only a list gives certainty.
    fn go_on_from(&self, version: String) -> Phase {
        let fresh = self.store.last_contact().is_some_and(|at| at.elapsed() <= self.config.silence);
        if fresh { Phase::Resume { version } } else { Phase::List }
    }

    async fn open(&mut self, version: &str, initial: bool, within: Duration) -> Result<Open> {
        // Spread, so that watches that began together do not end together.
        let spread = self.jitter.between(self.config.watch_for.mul_f64(0.8), self.config.watch_for);
        let params = WatchParams {
            label_selector: self.config.labels.clone(),
            field_selector: self.config.fields.clone(),
            timeout: Some(u32::try_from(spread.as_secs()).unwrap_or(u32::MAX)),
            bookmarks: true,
            send_initial_events: initial,
        };
        let opening = async {
            let request = self.requests.watch(&params, version).map_err(kube::Error::BuildRequest)?;
            lines::open(&self.client, request).await
        };
        let lines = timeout(within, opening).await.map_err(|_| self.timed_out(within))?;
        let lines = lines.map_err(|error| Error::of(self.call.clone(), error))?;
        // A list tells by its end.
        Ok(Open { lines, since: Instant::now(), lasts: initial })
    }

    /// The next line of the stream; none when it has ended.
    async fn line(&mut self, open: &mut Open) -> Result<Option<Line<K>>, End> {
        let Some(text) = open.lines.next().await else { return Ok(None) };
        let text = text.map_err(|error| self.failed(kube::Error::ReadEvents(error)))?;
        match decode::line(&text) {
            Ok(Ok(line)) => Ok(Some(line)),
            Ok(Err(status)) => Err(self.failed(kube::Error::Api(status))),
            Err(error) => Err(self.failed(kube::Error::SerdeError(error))),
        }
    }

    fn failed(&self, error: kube::Error) -> End {
        Self::sorted(Error::of(self.call.clone(), error))
    }

    fn sorted(error: Error) -> End {
        match error {
            Error::Gone { .. } => End::VersionLost,
            // etcd was restored from a backup: its versions begin again below ours.
            Error::Unavailable { message, .. } if message.contains("Too large resource version") => {
                End::VersionLost
            }
            other => End::Failed(other),
        }
    }

    fn ended(&self) -> Error {
        let cut = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        Error::of(self.call.clone(), kube::Error::ReadEvents(cut))
    }

    fn timed_out(&self, after: Duration) -> Error {
        Error::TimedOut { call: Box::new(self.call.clone()), after }
    }

    /// Notes a failure and waits before the next attempt.
    async fn pause(&mut self, end: End) {
        self.failures = self.failures.saturating_add(1);
        match end {
            End::VersionLost => {
                self.store.missed_changes();
                tracing::info!(kind = self.call.kind, "the watched version is gone, listing again");
            }
            End::Failed(error) => {
                let why = with_causes(&error);
                tracing::warn!(kind = self.call.kind, failures = self.failures, why, "watch interrupted");
                self.store.failing(why);
            }
        }
        sleep(self.config.backoff.delay(self.failures, &mut self.jitter)).await;
    }
}

impl<K> fmt::Debug for Watch<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("call", &self.call).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
