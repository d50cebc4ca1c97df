//! Requests that run, so that a later one can cancel an earlier one, and turns, so that two about the same interface of
//! the same pod never work at the same time.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kuryr_types::PodIdentity;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

/// How long a canceled ADD may take to end: the kernel's work of one pod, with a wide margin.
const ENDS_WITHIN: Duration = Duration::from_secs(15);

/// ADDs that run, by sandbox and interface; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Running {
    adds: Arc<Mutex<BTreeMap<Key, Add>>>,
}

/// A sandbox's interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    container_id: String,
    ifname: String,
}

#[derive(Debug, Clone)]
struct Add {
    /// Tells one ADD from a later one of the same key.
    number: u64,
    cancel: CancellationToken,
    ended: CancellationToken,
}

/// An ADD that runs, until it is dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    running: Running,
    key: Key,
    add: Add,
}

impl Running {
    /// Registers an ADD. One that runs for the same interface is canceled: the runtime has given it up.
    pub(crate) async fn begin(&self, container_id: &str, ifname: &str, cancel: CancellationToken) -> Guard {
        self.cancel(container_id, ifname).await;
        let key = Key { container_id: container_id.to_owned(), ifname: ifname.to_owned() };
        let mut adds = self.lock();
        let number = adds.get(&key).map_or(0, |add| add.number + 1);
        let add = Add { number, cancel, ended: CancellationToken::new() };
        adds.insert(key.clone(), add.clone());
        drop(adds);
        Guard { running: self.clone(), key, add }
    }

    /// Cancels the ADD of a sandbox's interface, and waits for its end.
    pub(crate) async fn cancel(&self, container_id: &str, ifname: &str) {
        let key = Key { container_id: container_id.to_owned(), ifname: ifname.to_owned() };
        let Some(add) = self.lock().get(&key).cloned() else { return };
        add.cancel.cancel();
        if timeout(ENDS_WITHIN, add.ended.cancelled()).await.is_err() {
            tracing::warn!(container_id, ifname, "a canceled ADD does not end");
        }
    }

    /// Cancels all ADDs; those that attach already go on to their end.
    pub(crate) fn cancel_all(&self) {
        for add in self.lock().values() {
            add.cancel.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Add>> {
        self.adds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guard {
    /// Ends when the ADD is to be given up.
    pub(crate) async fn canceled(&self) {
        self.add.cancel.cancelled().await;
    }

    /// Whether the ADD is to be given up.
    ///
    /// # Errors
    ///
    /// `Interrupted` if it is.
    pub(crate) fn check(&self) -> Result<()> {
        if self.add.cancel.is_cancelled() { Err(self.interrupted()) } else { Ok(()) }
    }

    /// The error of an ADD that was given up.
    pub(crate) fn interrupted(&self) -> Error {
        Error::Interrupted { container_id: self.key.container_id.clone() }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut adds = self.running.lock();
        if adds.get(&self.key).is_some_and(|add| add.number == self.add.number) {
            adds.remove(&self.key);
        }
        drop(adds);
        self.add.ended.cancel();
    }
}

/// Turns by pod and interface; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Turns {
    waiting: Arc<Mutex<Waiting>>,
}

type Waiting = BTreeMap<(PodIdentity, String), Arc<tokio::sync::Mutex<()>>>;

/// A turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Turns,
    key: (PodIdentity, String),
    held: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for the turn on an interface of a pod; none if it does not come until `deadline`.
    pub(crate) async fn take(&self, identity: &PodIdentity, ifname: &str, deadline: Instant) -> Option<Turn> {
        let key = (identity.clone(), ifname.to_owned());
        let queue = Arc::clone(self.lock().entry(key.clone()).or_default());
        // Made first, so that the entry goes also when the wait is given up.
        let mut turn = Turn { turns: self.clone(), key, held: None };
        turn.held = timeout_at(deadline, queue.lock_owned()).await.ok();
        turn.held.is_some().then_some(turn)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        drop(self.held.take());
        let mut waiting = self.turns.lock();
        // One reference is the map's; others wait.
        if waiting.get(&self.key).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            waiting.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_later_request_cancels_and_waits() {
        let running = Running::default();
        let first = running.begin("c1", "eth0", CancellationToken::new()).await;
        let ended = tokio::spawn({
            let running = running.clone();
            async move {
                running.cancel("c1", "eth0").await;
                Instant::now()
            }
        });
        first.canceled().await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let dropped_at = Instant::now();
        drop(first);
        assert_eq!(ended.await.unwrap(), dropped_at);
        // Another container is not meant.
        let other = running.begin("c2", "eth0", CancellationToken::new()).await;
        running.cancel("c1", "eth0").await;
        assert!(other.check().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn turns_are_taken_one_by_one_and_leave_nothing() {
        let turns = Turns::default();
        let (pod, soon) = (PodIdentity::from("a"), || Instant::now() + Duration::from_secs(1));
        let first = turns.take(&pod, "eth0", soon()).await.unwrap();
        assert!(turns.take(&pod, "eth0", soon()).await.is_none());
        assert!(turns.take(&pod, "eth1", soon()).await.is_some());
        drop(first);
        assert!(turns.take(&pod, "eth0", soon()).await.is_some());
        assert!(turns.lock().is_empty());
    }
}
