//! Keys waiting for a reconciler.
//!
//! A key names what has to be looked at; it carries no event and no decision. Which key is handled when is decided by
//! the rules of `keys`, which know no clock and no tasks; [`Queue`] adds those, the handlers, and the guard against
//! their panics: a handler that panics counts as failed, and the other keys go on.
//!
//! The number of waiting keys is bounded by the number of objects there are.

use std::{
    any::Any,
    collections::HashMap,
    fmt::{self, Debug},
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kuryr_types::Retry;
use tokio::{
    sync::Notify,
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::{Failure, Outcome, backoff::Backoff};

// The rules.
mod keys;

use keys::{Failed, Keys};

/// Keys waiting for a reconciler; clones share them.
pub struct Queue<K> {
    shared: Arc<Shared<K>>,
}

/// How a queue treats its keys.
#[derive(Debug, Clone)]
pub struct QueueConfig {
    /// For logs and metrics.
    pub name: &'static str,
    /// Delays after failures.
    pub backoff: Backoff,
    /// A failing key is not handled more often than this, whatever is added.
    pub eager: Duration,
    /// When a key comes again whose failure said that trying again is no use: a missing permission that was
    /// granted meanwhile makes no event.
    pub parked: Duration,
    /// How long handlers may take to end when the queue is stopped.
    pub stop_within: Duration,
    /// For a simulation that has to repeat itself.
    pub seed: Option<u64>,
}

impl QueueConfig {
    /// Delays from half a second to a minute.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            backoff: Backoff { first: Duration::from_millis(500), most: Duration::from_secs(60) },
            eager: Duration::from_secs(1),
            parked: Duration::from_secs(300),
            stop_within: Duration::from_secs(10),
            seed: None,
        }
    }
}

/// What a queue holds and has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Keys that could be handled now.
    pub ready: usize,
    /// Keys that wait for their time.
    pub delayed: usize,
    /// Keys being handled.
    pub running: usize,
    /// Keys whose last handling failed.
    pub failing: usize,
    /// Handlings that succeeded, since the start.
    pub handled_total: u64,
    /// Handlings that failed, panics included, since the start.
    pub failed_total: u64,
    /// Handlings that panicked, since the start: violated invariants.
    pub panicked_total: u64,
}

/// A key whose last handling failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailingKey<K> {
    /// The key.
    pub key: K,
    /// Failures in a row.
    pub attempts: u32,
    /// The first of them.
    pub since: Instant,
    /// The last error, for people.
    pub why: String,
}

/// How a queue was stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped<K> {
    /// Keys whose handling did not end in time and was cut off; they are ready again.
    pub aborted: Vec<K>,
}

impl<K: Ord + Clone + Debug + Send + 'static> Queue<K> {
    /// An empty queue.
    #[must_use]
    pub fn new(config: QueueConfig) -> Self {
        let keys = Mutex::new(Keys::new(config.clone()));
        Self { shared: Arc::new(Shared { config, keys, changed: Notify::new() }) }
    }

    /// Has `key` handled as soon as possible.
    pub fn add(&self, key: K) {
        self.keys().add(key, Instant::now());
        self.shared.changed.notify_one();
    }

    /// Has `key` handled after `delay`, unless it is handled sooner for another reason.
    pub fn add_after(&self, key: K, delay: Duration) {
        self.keys().add_after(key, delay, Instant::now());
        self.shared.changed.notify_one();
    }

    /// Drops all keys that are not being handled, with their failures: after leadership has been lost.
    pub fn clear(&self) {
        self.keys().clear();
    }

    /// What the queue holds and has done.
    #[must_use]
    pub fn stats(&self) -> QueueStats {
        self.keys().stats()
    }

    /// The keys whose last handling failed.
    #[must_use]
    pub fn failing(&self) -> Vec<FailingKey<K>> {
        self.keys().failing()
    }

    /// Handles keys, at most `concurrency` at a time, until `stop`; then lets those under way end within
    /// [`QueueConfig::stop_within`]. At most one such loop may run at a time.
    pub async fn run<F, Fut, E>(
        &self,
        concurrency: NonZeroUsize,
        stop: CancellationToken,
        handler: F,
    ) -> Stopped<K>
    where
        F: Fn(K) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Outcome, E>> + Send + 'static,
        E: Failure,
    {
        let mut runner =
            Runner { queue: self, handler: Arc::new(handler), tasks: JoinSet::new(), keys: HashMap::new() };
        loop {
            let due = runner.start(concurrency);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = runner.tasks.join_next_with_id() => runner.ended(ended),
                () = self.shared.changed.notified() => {}
                () = until(due) => {}
            }
        }
        runner.stop().await
    }

    fn keys(&self) -> MutexGuard<'_, Keys<K>> {
        // Nothing in `Keys` can panic halfway, and a handler does not hold the lock.
        self.shared.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// The loop of one [`Queue::run`].
struct Runner<'a, K: Ord + Clone + Debug + Send + 'static, F, E> {
    queue: &'a Queue<K>,
    handler: Arc<F>,
    tasks: JoinSet<Result<Outcome, E>>,
    keys: HashMap<Id, K>,
}

impl<K, F, Fut, E> Runner<'_, K, F, E>
where
    K: Ord + Clone + Debug + Send + 'static,
    F: Fn(K) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Outcome, E>> + Send + 'static,
    E: Failure,
{
    /// Starts handlers for as many ready keys as allowed; returns when the next key falls due that one is free for.
    fn start(&mut self, concurrency: NonZeroUsize) -> Option<Instant> {
        while self.tasks.len() < concurrency.get() {
            let Some((key, attempt)) = self.queue.keys().take(Instant::now()) else { break };
            let span = tracing::info_span!("reconcile", queue = self.queue.shared.config.name, ?key, attempt);
            let (handler, given) = (Arc::clone(&self.handler), key.clone());
            // The handler is called inside the task too, so that a panic of its synchronous part is caught.
            let task = self.tasks.spawn(async move { handler(given).await }.instrument(span));
            self.keys.insert(task.id(), key);
        }
        // A key that falls due while all handlers are busy is taken when one of them ends.
        let is_free = self.tasks.len() < concurrency.get();
        is_free.then(|| self.queue.keys().next_due()).flatten()
    }

    fn ended(&mut self, ended: Result<(Id, Result<Outcome, E>), JoinError>) {
        let (id, result) = match ended {
            Ok((id, Ok(outcome))) => (id, Ok(outcome)),
            Ok((id, Err(failure))) => {
                (id, Err(Failed { retry: failure.retry(), why: failure.to_string(), panicked: false }))
            }
            Err(error) => (error.id(), Err(Failed::cut_off(error))),
        };
        let Some(key) = self.keys.remove(&id) else { return };
        let queue = self.queue.shared.config.name;
        match &result {
            Ok(Outcome::Done) => tracing::debug!(queue, ?key, "done"),
            Ok(Outcome::Wait { at_most, why }) => tracing::debug!(queue, ?key, ?at_most, %why, "waits"),
            Ok(Outcome::Again { after, why }) => tracing::debug!(queue, ?key, ?after, %why, "looks again"),
            Err(failed) if failed.panicked => {
                tracing::error!(queue, ?key, why = failed.why, "panicked: an invariant does not hold");
            }
            Err(failed) => tracing::warn!(queue, ?key, why = failed.why, "failed"),
        }
        self.queue.keys().ended(&key, result, Instant::now());
    }

    async fn stop(mut self) -> Stopped<K> {
        let within = self.queue.shared.config.stop_within;
        let ending = async {
            while let Some(ended) = self.tasks.join_next_with_id().await {
                self.ended(ended);
            }
        };
        // Elapsed means that some are still under way: they are in `keys`.
        drop(timeout(within, ending).await);
        self.tasks.shutdown().await;
        Stopped { aborted: self.keys.values().cloned().collect() }
    }
}

impl<K: Ord + Clone + Debug + Send + 'static, F, E> Drop for Runner<'_, K, F, E> {
    /// Puts back what is still under way: its task ends with the set of tasks.
    fn drop(&mut self) {
        let mut keys = self.queue.keys();
        for key in self.keys.values() {
            keys.put_back(key);
        }
    }
}

struct Shared<K> {
    config: QueueConfig,
    keys: Mutex<Keys<K>>,
    /// Told when a key was added.
    changed: Notify,
}

impl Failed {
    fn cut_off(error: JoinError) -> Self {
        match error.try_into_panic() {
            Ok(panic) => Self { retry: Retry::Backoff, why: panic_words(panic.as_ref()), panicked: true },
            Err(cancelled) => Self { retry: Retry::Backoff, why: cancelled.to_string(), panicked: false },
        }
    }
}

fn panic_words(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<&str>().map(|words| (*words).to_owned());
    words.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panicked".to_owned())
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<K> Debug for Queue<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("name", &self.shared.config.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::sleep;

    const SECOND: Duration = Duration::from_secs(1);

    #[derive(Debug, Clone)]
    struct Broken(Retry);

    impl fmt::Display for Broken {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("broken")
        }
    }

    impl Failure for Broken {
        fn retry(&self) -> Retry {
            self.0
        }
    }

    fn queue() -> Queue<u32> {
        Queue::new(QueueConfig { seed: Some(1), ..QueueConfig::new("test") })
    }

    fn one_at_a_time() -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    /// Handles keys by `handler` for `during`; returns when, in ms since the start, which key was begun.
    async fn begun<Fut>(
        queue: &Queue<u32>,
        concurrency: usize,
        during: Duration,
        handler: impl Fn(u32, usize) -> Fut + Send + Sync + 'static,
    ) -> Vec<(u128, u32)>
    where
        Fut: Future<Output = Result<Outcome, Broken>> + Send + 'static,
    {
        let (start, stop) = (Instant::now(), CancellationToken::new());
        let log = Arc::new(Mutex::new(Vec::new()));
        let begun = Arc::clone(&log);
        let running = queue.run(NonZeroUsize::new(concurrency).unwrap(), stop.clone(), move |key| {
            let time = {
                let mut log = log.lock().unwrap();
                log.push((start.elapsed().as_millis(), key));
                log.iter().filter(|(_, seen)| *seen == key).count()
            };
            handler(key, time)
        });
        tokio::join!(running, async {
            sleep(during).await;
            stop.cancel();
        });
        let begun = begun.lock().unwrap();
        begun.clone()
    }

    #[tokio::test(start_paused = true)]
    async fn takes_keys_once_and_in_order() {
        let queue = queue();
        [3, 1, 3, 2, 1].into_iter().for_each(|key| queue.add(key));
        let begun = begun(&queue, 1, SECOND, |_, _| async { Ok(Outcome::Done) }).await;
        assert_eq!(begun.iter().map(|(_, key)| *key).collect::<Vec<_>>(), [3, 1, 2]);
        assert_eq!(queue.stats(), QueueStats { handled_total: 3, ..QueueStats::default() });
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_handled_is_handled_once_more() {
        let queue = queue();
        queue.add(1);
        let again = queue.clone();
        let begun = begun(&queue, 4, 10 * SECOND, move |key, time| {
            let again = again.clone();
            async move {
                if time == 1 {
                    (0..5).for_each(|_| again.add(key));
                }
                sleep(SECOND).await;
                Ok(Outcome::Done)
            }
        })
        .await;
        assert_eq!(begun, [(0, 1), (1000, 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn outcomes_say_when_a_key_comes_again() {
        let minute = 60 * SECOND;
        for (outcome, expect) in [
            (Outcome::Done, vec![0, 5000]),
            (Outcome::wait(minute, "for a port"), vec![0, 5000, 65000]),
            (Outcome::wait(2 * SECOND, "for a port"), vec![0, 2000, 4000, 5000]),
            (Outcome::again(minute, "to look"), vec![0, 5000, 65000]),
        ] {
            let queue = queue();
            queue.add(1);
            queue.add_after(1, 5 * SECOND); // ready already: says nothing new
            let adds = queue.clone();
            tokio::spawn(async move {
                sleep(5 * SECOND).await;
                adds.add(1);
            });
            let text = format!("{outcome:?}");
            let begun = begun(&queue, 1, 66 * SECOND, move |_, time| {
                let outcome = if time >= 4 { Outcome::Done } else { outcome.clone() };
                async move { Ok(outcome) }
            })
            .await;
            assert_eq!(begun.iter().map(|(at, _)| *at).collect::<Vec<_>>(), expect, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failing_keys_slow_down_alone_and_recover() {
        let queue = queue();
        queue.add(1);
        queue.add(2);
        let begun = begun(&queue, 1, 600 * SECOND, |key, time| async move {
            match (key, time) {
                (1, 1..8) => Err(Broken(Retry::Backoff)),
                (2, 1..600) => Ok(Outcome::again(SECOND, "always")),
                _ => Ok(Outcome::Done),
            }
        })
        .await;
        let of = |wanted: u32| begun.iter().filter(move |(_, key)| *key == wanted).map(|(at, _)| *at);
        assert_eq!(of(2).count(), 600, "the other key is not delayed");
        let times: Vec<u128> = of(1).collect();
        assert_eq!(times.len(), 8);
        let whole = [500, 1000, 2000, 4000, 8000, 16000, 32000];
        for (pair, whole) in times.windows(2).zip(whole) {
            let gap = pair[1] - pair[0];
            assert!(gap >= whole / 2 && gap <= whole, "{times:?}");
        }
        assert_eq!((queue.stats().failed_total, queue.stats().failing), (7, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn additions_bring_a_failing_key_forward_but_not_into_a_loop() {
        // At least and at most so many attempts in 100 s, while the key is added every 10 ms.
        for (retry, least, most) in
            [(Retry::Backoff, 95, 103), (Retry::Never, 95, 102), (Retry::After(20 * SECOND), 5, 6)]
        {
            let queue = queue();
            queue.add(1);
            let adds = queue.clone();
            let adding = tokio::spawn(async move {
                loop {
                    sleep(Duration::from_millis(10)).await;
                    adds.add(1);
                }
            });
            let begun = begun(&queue, 4, 100 * SECOND, move |_, _| async move { Err(Broken(retry)) }).await;
            adding.abort();
            assert!((least..=most).contains(&begun.len()), "{retry:?}: {}", begun.len());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn hopeless_keys_are_parked_and_kept_in_view() {
        let queue = queue();
        queue.add(1);
        let begun = begun(&queue, 1, 301 * SECOND, |_, _| async { Err(Broken(Retry::Never)) }).await;
        assert_eq!(begun, [(0, 1), (300_000, 1)]);
        let failing = queue.failing().remove(0);
        assert_eq!((failing.key, failing.attempts, failing.why.as_str()), (1, 2, "broken"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_one_keys_problem() {
        let queue = queue();
        (1..=3).for_each(|key| queue.add(key));
        let begun = begun(&queue, 2, SECOND / 10, |key, _| {
            assert_ne!(key, 1, "before the future is made");
            async move {
                assert_ne!(key, 2, "inside the future");
                Ok(Outcome::Done)
            }
        })
        .await;
        assert_eq!(begun.len(), 3);
        let stats = queue.stats();
        assert_eq!((stats.handled_total, stats.panicked_total, stats.delayed), (1, 2, 2));
        assert!(queue.failing().iter().all(|failing| failing.why.contains("the future")));
    }

    #[tokio::test(start_paused = true)]
    async fn stopping_lets_handlers_end_but_not_for_ever() {
        let queue = queue();
        [1, 60].into_iter().for_each(|key| queue.add(key));
        let stop = CancellationToken::new();
        let handler = |key: u32| async move {
            sleep(SECOND * key).await;
            Ok::<_, Broken>(Outcome::Done)
        };
        let start = Instant::now();
        let running = queue.run(NonZeroUsize::new(2).unwrap(), stop.clone(), handler);
        let (stopped, ()) = tokio::join!(running, async {
            sleep(SECOND / 2).await;
            queue.add(5);
            stop.cancel();
        });
        assert_eq!(stopped.aborted, [60]);
        assert_eq!(start.elapsed(), SECOND / 2 + QueueConfig::new("").stop_within);
        let stats = queue.stats();
        assert_eq!((stats.ready, stats.running, stats.handled_total), (2, 0, 1), "{stats:?}");
        queue.clear();
        assert_eq!(queue.stats().ready, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_is_due_waits_for_a_handler_without_being_asked_for() {
        let queue = queue();
        queue.add(1);
        queue.add_after(2, SECOND);
        let stop = CancellationToken::new();
        let running = queue.run(one_at_a_time(), stop.clone(), |key: u32| async move {
            sleep(if key == 1 { 60 * SECOND } else { SECOND }).await;
            Ok::<_, Broken>(Outcome::Done)
        });
        tokio::pin!(running);
        let mut polls = 0;
        let counted = std::future::poll_fn(|context| {
            polls += 1;
            assert!(polls < 100, "spins while its handler is busy");
            running.as_mut().poll(context)
        });
        tokio::join!(counted, async {
            sleep(62 * SECOND).await;
            stop.cancel();
        });
        assert_eq!(queue.stats(), QueueStats { handled_total: 2, ..QueueStats::default() });
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_loop_puts_its_keys_back() {
        let queue = queue();
        queue.add(1);
        let forever = |_| std::future::pending::<Result<Outcome, Broken>>();
        let running = queue.run(one_at_a_time(), CancellationToken::new(), forever);
        drop(timeout(SECOND, running).await);
        assert_eq!((queue.stats().ready, queue.stats().running), (1, 0));
    }
}
