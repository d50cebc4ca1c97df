//! Kubernetes Events: what a user sees under `kubectl describe`.
//!
//! One Event object stands for a *series*: the same object, reason and message. The first occurrence creates
//! it; repetitions within [`EventConfig::window`] raise its count, written at most once per
//! [`EventConfig::flush`], so that a reconciler that fails every second makes neither a new object nor a call
//! per second. An object that makes more than [`EventConfig::per_object`] series within the window is not
//! listened to for the rest of it.
//!
//! Whoever records an event never waits and never fails: what does not fit is dropped and counted.
//!
//! The Event of a cluster-scoped object lives in the namespace `default`, as the API server requires.
//!
//! Sources: API reference, core v1 Event; upstream's names, component and host (Kuryr-Kubernetes, `utils`).

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{Call, Error, Result, clock::Clock};

/// Longest message in bytes, as `events.k8s.io` allows it.
const MESSAGE_MAX: usize = 1024;
/// Longest object name within the name of an Event, which ends in a dot and 16 digits.
const NAME_MAX: usize = 253 - 17;
/// Longest time for one call: events are of no use when late.
const WITHIN: Duration = Duration::from_secs(10);
/// Longest time for what is left at a stop.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// Who records, and within which bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventConfig {
    /// `kuryr-controller` or `kuryr-daemon`.
    pub component: &'static str,
    /// The node's name, or the host's.
    pub host: String,
    /// Whether events are recorded at all (`use_events`).
    pub enabled: bool,
    /// How long after its last occurrence a series is continued.
    pub window: Duration,
    /// Shortest time between two writes of one series.
    pub flush: Duration,
    /// Series remembered.
    pub max_series: usize,
    /// Series per object and window.
    pub per_object: usize,
    /// Events waiting to be written.
    pub queue: usize,
}

impl EventConfig {
    /// Ten minutes, ten seconds, a thousand series, twenty per object, 256 waiting.
    pub fn new(component: &'static str, host: impl Into<String>) -> Self {
        Self {
            component,
            host: host.into(),
            enabled: true,
            window: Duration::from_secs(600),
            flush: Duration::from_secs(10),
            max_series: 1000,
            per_object: 20,
            queue: 256,
        }
    }
}

/// Names an object for [`Recorder::normal`] and [`Recorder::warning`].
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    object.object_ref(&())
}

/// Prepares recording; the writer has to be run for anything to be written.
pub fn recorder(client: Client, config: EventConfig) -> (Recorder, EventWriter) {
    let (notes, waiting) = mpsc::channel(config.queue.max(1));
    let dropped = Arc::new(AtomicU64::new(0));
    let recorder = Recorder {
        notes: config.enabled.then_some(notes),
        dropped: Arc::clone(&dropped),
        clock: Clock::of_machine(),
    };
    (recorder, EventWriter { client, config, waiting, dropped, series: BTreeMap::new(), last_name: 0 })
}

/// Takes events; clones share the writer.
#[derive(Clone)]
pub struct Recorder {
    notes: Option<mpsc::Sender<Note>>,
    dropped: Arc<AtomicU64>,
    clock: Clock,
}

impl Recorder {
    /// A recorder that records nothing.
    #[must_use]
    pub fn disabled() -> Self {
        Self { notes: None, dropped: Arc::default(), clock: Clock::of_machine() }
    }

    /// Records by this clock.
    #[must_use]
    pub fn by(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// Records that something went as it should.
    pub fn normal(&self, object: &ObjectReference, reason: &str, message: impl Into<String>) {
        self.record(object, "Normal", reason, message.into());
    }

    /// Records that something needs attention.
    pub fn warning(&self, object: &ObjectReference, reason: &str, message: impl Into<String>) {
        self.record(object, "Warning", reason, message.into());
    }

    /// How many events were not written, for whatever reason.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn record(&self, object: &ObjectReference, kind: &'static str, reason: &str, mut message: String) {
        let Some(notes) = &self.notes else { return };
        message.truncate(message.floor_char_boundary(MESSAGE_MAX));
        let series = SeriesKey { object: ObjectId::of(object), kind, reason: reason.to_owned(), message };
        let note = Note { object: object.clone(), series, at: self.clock.now() };
        if notes.try_send(note).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// An occurrence.
struct Note {
    object: ObjectReference,
    series: SeriesKey,
    at: Timestamp,
}

/// What makes two occurrences the same; ordered by object, so that the series of one object are neighbours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct SeriesKey {
    object: ObjectId,
    kind: &'static str,
    reason: String,
    message: String,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct ObjectId {
    kind: String,
    namespace: String,
    name: String,
    uid: String,
}

impl ObjectId {
    fn of(object: &ObjectReference) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Self {
            kind: text(&object.kind),
            namespace: text(&object.namespace),
            name: text(&object.name),
            uid: text(&object.uid),
        }
    }
}

/// A series under way.
struct Series {
    /// Name of the Event object.
    event: String,
    count: i32,
    last: Timestamp,
    last_at: Instant,
    /// The count last written, and when.
    written: i32,
    written_at: Instant,
}

/// Writes what was recorded.
pub struct EventWriter {
    client: Client,
    config: EventConfig,
    waiting: mpsc::Receiver<Note>,
    dropped: Arc<AtomicU64>,
    series: BTreeMap<SeriesKey, Series>,
    last_name: u64,
}

impl EventWriter {
    /// Writes until `stop`, then what is left within two seconds.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let due = self.next_flush();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                note = self.waiting.recv() => match note {
                    Some(note) => self.take(note).await,
                    None => break,
                },
                () = until(due) => self.flush(self.config.flush).await,
            }
        }
        self.waiting.close();
        let rest = async {
            while let Some(note) = self.waiting.recv().await {
                self.take(note).await;
            }
            self.flush(Duration::ZERO).await;
        };
        if timeout(STOP_WITHIN, rest).await.is_err() {
            tracing::info!("events left unwritten");
        }
    }

    async fn take(&mut self, note: Note) {
        let now = Instant::now();
        self.forget_old(now);
        if let Some(series) = self.series.get_mut(&note.series) {
            series.count = series.count.saturating_add(1);
            (series.last, series.last_at) = (note.at, now);
            if now >= series.written_at + self.config.flush {
                self.write_count(&note.series).await;
            }
            return;
        }
        if self.of_object(&note.series.object) >= self.config.per_object {
            tracing::debug!(object = note.series.object.name, "too many different events");
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.begin(note, now).await;
    }

    /// Creates the Event of a new series.
    async fn begin(&mut self, note: Note, now: Instant) {
        let event = self.event(&note);
        let name = event.metadata.name.clone().unwrap_or_default();
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let events = Api::<Event>::namespaced(self.client.clone(), &namespace);
        let created =
            bounded("create", &namespace, &name, events.create(&PostParams::default(), &event)).await;
        // Remembered even if the write failed: whether it took effect may be unknown, and an event that
        // cannot be written should not be tried once per occurrence.
        let series = Series {
            event: name,
            count: 1,
            last: note.at,
            last_at: now,
            written: i32::from(created.is_ok()),
            written_at: now,
        };
        self.series.insert(note.series, series);
        self.noted(created.map(drop));
    }

    /// Writes the count of a series into its Event, or into a new one if that has expired.
    async fn write_count(&mut self, key: &SeriesKey) {
        let Some(series) = self.series.get_mut(key) else { return };
        let (name, count, last) = (series.event.clone(), series.count, series.last);
        series.written = count;
        series.written_at = Instant::now();
        let namespace = event_namespace(&key.object.namespace);
        let patch = json!({"count": count, "lastTimestamp": Time(last)});
        let events = Api::<Event>::namespaced(self.client.clone(), namespace);
        let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
        match bounded("patch", namespace, &name, events.patch(&name, &params, &patch)).await {
            // The API server keeps Events for an hour; the next occurrence begins anew.
            Err(Error::NotFound { .. }) => drop(self.series.remove(key)),
            written => self.noted(written.map(drop)),
        }
    }

    /// Writes the counts that were held back and are at least so old.
    async fn flush(&mut self, age: Duration) {
        let now = Instant::now();
        let due: Vec<SeriesKey> = self
            .series
            .iter()
            .filter(|(_, series)| series.held_back() && series.written_at + age <= now)
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            self.write_count(&key).await;
        }
    }

    fn next_flush(&self) -> Option<Instant> {
        let held_back = self.series.values().filter(|series| series.held_back());
        held_back.map(|series| series.written_at + self.config.flush).min()
    }

    /// Drops series that have been silent for the window and, beyond the bound, the ones silent the longest.
    fn forget_old(&mut self, now: Instant) {
        let window = self.config.window;
        self.series.retain(|_, series| series.held_back() || series.last_at + window > now);
        while self.series.len() >= self.config.max_series.max(1) {
            let oldest =
                self.series.iter().min_by_key(|(_, series)| series.last_at).map(|(key, _)| key.clone());
            let Some(oldest) = oldest else { return };
            self.series.remove(&oldest);
        }
    }

    fn of_object(&self, object: &ObjectId) -> usize {
        let first =
            SeriesKey { object: object.clone(), kind: "", reason: String::new(), message: String::new() };
        self.series.range(first..).take_while(|(key, _)| key.object == *object).count()
    }

    fn event(&mut self, note: &Note) -> Event {
        let object = &note.series.object;
        let mut name = object.name.clone();
        name.truncate(name.floor_char_boundary(NAME_MAX));
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:x}", self.unique_time(note.at))),
                namespace: Some(event_namespace(&object.namespace).to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: note.object.clone(),
            type_: Some(note.series.kind.to_owned()),
            reason: Some(note.series.reason.clone()),
            message: Some(note.series.message.clone()),
            count: Some(1),
            first_timestamp: Some(Time(note.at)),
            last_timestamp: Some(Time(note.at)),
            source: Some(EventSource {
                component: Some(self.config.component.to_owned()),
                host: Some(self.config.host.clone()),
            }),
            reporting_component: Some(self.config.component.to_owned()),
            reporting_instance: Some(self.config.host.clone()),
            ..Event::default()
        }
    }

    /// Units of ten nanoseconds since 1970, as upstream names its Events; never the same twice.
    fn unique_time(&mut self, at: Timestamp) -> u64 {
        let time = u64::try_from(at.as_nanosecond() / 10).unwrap_or_default();
        self.last_name = time.max(self.last_name + 1);
        self.last_name
    }

    fn noted(&self, written: Result<()>) {
        if let Err(error) = written {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            match error {
                Error::NamespaceTerminating { .. } => tracing::debug!(%error, "event not written"),
                error => tracing::info!(%error, "event not written"),
            }
        }
    }
}

impl Series {
    fn held_back(&self) -> bool {
        self.count > self.written && self.written > 0
    }
}

fn event_namespace(of_object: &str) -> &str {
    if of_object.is_empty() { "default" } else { of_object }
}

async fn bounded<T>(
    verb: &'static str,
    namespace: &str,
    name: &str,
    asking: impl Future<Output = kube::Result<T>>,
) -> Result<T> {
    let call = || Call {
        verb,
        kind: "Event".to_owned(),
        namespace: Some(namespace.to_owned()),
        name: name.to_owned(),
    };
    match timeout(WITHIN, asking).await {
        Ok(answer) => answer.map_err(|error| Error::of(call(), error)),
        Err(_) => Err(Error::TimedOut { call: Box::new(call()), after: WITHIN }),
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("enabled", &self.notes.is_some()).finish_non_exhaustive()
    }
}

impl fmt::Debug for EventWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventWriter").field("config", &self.config).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slim::{Node, Pod};
    use kuryr_testkit::api_server::{ApiServer, Fault, Streaming};
    use serde_json::Value;
    use tokio::time::sleep;

    /// A writer that runs, and the pod that things happen to.
    struct Recording {
        recorder: Recorder,
        pod: ObjectReference,
        stop: CancellationToken,
    }

    impl Drop for Recording {
        fn drop(&mut self) {
            self.stop.cancel();
        }
    }

    fn start(fake: &ApiServer, config: EventConfig) -> Recording {
        let (recorder, writer) = recorder(fake.client(), config);
        let stop = CancellationToken::new();
        tokio::spawn(writer.run(stop.clone()));
        Recording { recorder, pod: reference(&pod("a")), stop }
    }

    fn config() -> EventConfig {
        EventConfig::new("kuryr-controller", "host-1")
    }

    fn pod(name: &str) -> Pod {
        serde_json::from_str(&format!(r#"{{"metadata":{{"namespace":"d","name":"{name}","uid":"u"}}}}"#))
            .unwrap()
    }

    fn events(fake: &ApiServer) -> Vec<Value> {
        fake.paths("/api/v1/namespaces/").iter().filter_map(|path| fake.get(path)).collect()
    }

    async fn pass(seconds: u64) {
        sleep(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn writes_what_upstream_writes() {
        let fake = ApiServer::new(Streaming::Allowed);
        let recording = start(&fake, config());
        recording.recorder.warning(&recording.pod, "NoPodSubnetFound", "no subnet");
        pass(1).await;
        let event = events(&fake).remove(0);
        for (path, expect) in [
            ("/metadata/namespace", "d"),
            ("/involvedObject/kind", "Pod"),
            ("/involvedObject/apiVersion", "v1"),
            ("/involvedObject/uid", "u"),
            ("/type", "Warning"),
            ("/reason", "NoPodSubnetFound"),
            ("/message", "no subnet"),
            ("/source/component", "kuryr-controller"),
            ("/source/host", "host-1"),
        ] {
            assert_eq!(event.pointer(path).and_then(Value::as_str), Some(expect), "{path}");
        }
        assert_eq!(event["count"], 1);
        let name = event["metadata"]["name"].as_str().unwrap();
        assert!(name.strip_prefix("a.").is_some_and(|time| u64::from_str_radix(time, 16).is_ok()), "{name}");
    }

    #[tokio::test(start_paused = true)]
    async fn repetitions_raise_the_count_and_cost_few_calls() {
        let fake = ApiServer::new(Streaming::Allowed);
        let recording = start(&fake, config());
        for _ in 0..60 {
            recording.recorder.normal(&recording.pod, "Waiting", "for a port");
            pass(1).await;
        }
        pass(10).await;
        let all = events(&fake);
        assert_eq!((all.len(), &all[0]["count"]), (1, &json!(60)));
        let calls = fake.requests().len();
        assert!(calls <= 8, "{calls} calls");
    }

    #[tokio::test(start_paused = true)]
    async fn what_differs_is_another_event() {
        let fake = ApiServer::new(Streaming::Allowed);
        let recording = start(&fake, config());
        let other = reference(&pod("b"));
        for _ in 0..2 {
            recording.recorder.normal(&recording.pod, "Waiting", "for a port");
            recording.recorder.warning(&recording.pod, "Waiting", "for a port");
            recording.recorder.normal(&recording.pod, "Waiting", "for a subnet");
            recording.recorder.normal(&other, "Waiting", "for a port");
        }
        pass(60).await;
        let counts: Vec<Value> = events(&fake).iter().map(|event| event["count"].clone()).collect();
        assert_eq!(counts, [2, 2, 2, 2]);
        // After the window, and after the Event has expired, a new one is made.
        pass(600).await;
        recording.recorder.normal(&other, "Waiting", "for a port");
        pass(1).await;
        assert_eq!(events(&fake).len(), 5);
        fake.paths("/api/v1/namespaces/").iter().for_each(|path| fake.remove(path));
        for _ in 0..3 {
            recording.recorder.normal(&other, "Waiting", "for a port");
            pass(20).await;
        }
        assert_eq!(events(&fake).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_scoped_object_tells_in_the_default_namespace() {
        let fake = ApiServer::new(Streaming::Allowed);
        let recording = start(&fake, config());
        let node: Node = serde_json::from_str(r#"{"metadata":{"name":"n1"}}"#).unwrap();
        recording.recorder.warning(&reference(&node), "X", "ä".repeat(2000));
        pass(1).await;
        let event = events(&fake).remove(0);
        assert_eq!(event["metadata"]["namespace"], "default");
        assert_eq!(event["message"].as_str().map(str::len), Some(1024));
    }

    #[tokio::test(start_paused = true)]
    async fn bounds_hold_and_what_is_dropped_is_counted() {
        let fake = ApiServer::new(Streaming::Allowed);
        let recording = start(&fake, EventConfig { per_object: 3, queue: 10, ..config() });
        for n in 0..10 {
            recording.recorder.normal(&recording.pod, "Chatty", format!("{n}"));
        }
        pass(1).await;
        assert_eq!((events(&fake).len(), recording.recorder.dropped()), (3, 7));

        // The API server hangs: one event is under way, ten wait, the rest is dropped at once.
        fake.fail("POST", Fault::Hang);
        for n in 0..30 {
            recording.recorder.normal(&reference(&pod(&format!("p{n}"))), "X", "x");
            tokio::task::yield_now().await;
        }
        assert!(recording.recorder.dropped() >= 7 + 19);
        pass(60).await;
        assert!(events(&fake).len() >= 3 + 9, "the others are written afterwards");
    }

    #[tokio::test(start_paused = true)]
    async fn forgets_the_series_that_were_silent_longest() {
        let fake = ApiServer::new(Streaming::Allowed);
        let recording = start(&fake, EventConfig { max_series: 2, ..config() });
        for name in ["a", "b", "c", "a"] {
            recording.recorder.normal(&reference(&pod(name)), "X", "x");
            pass(1).await;
        }
        assert_eq!(events(&fake).len(), 4, "a was forgotten, so it begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn writes_what_is_left_when_stopped_and_nothing_when_disabled() {
        let fake = ApiServer::new(Streaming::Allowed);
        let recording = start(&fake, config());
        recording.recorder.normal(&recording.pod, "X", "last words");
        pass(1).await;
        recording.recorder.normal(&recording.pod, "X", "last words");
        recording.recorder.normal(&recording.pod, "X", "last words");
        recording.stop.cancel();
        pass(1).await;
        assert_eq!(events(&fake).remove(0)["count"], 3);
        recording.recorder.normal(&recording.pod, "X", "too late");
        assert_eq!(recording.recorder.dropped(), 1);

        let silent = start(&fake, EventConfig { enabled: false, ..config() });
        silent.recorder.normal(&silent.pod, "X", "x");
        Recorder::disabled().normal(&silent.pod, "X", "x");
        pass(1).await;
        assert_eq!((events(&fake).len(), silent.recorder.dropped()), (1, 0));
    }
}
