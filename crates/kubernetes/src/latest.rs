//! A value that is replaced whole, and those who wait for the next one.
//!
//! They are woken in the order in which they began to wait: pods that wait for their objects, for ports, or for claims to be
//! on disk, go on as they came. Of `tokio`'s own (`sync::watch`), which this is like, the order is by chance, and a simulation would not
//! repeat itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Replaces the value. When it is dropped, nobody waits any more.
#[derive(Debug)]
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// Watches the value; a clone has seen what this one has.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

/// There will be no other value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

#[derive(Debug)]
struct Shared<T> {
    now: Mutex<Now<T>>,
    changed: Notify,
}

#[derive(Debug)]
struct Now<T> {
    value: Arc<T>,
    version: u64,
    is_closed: bool,
}

impl<T> Sender<T> {
    /// A value that nobody watches yet.
    #[must_use]
    pub fn new(value: Arc<T>) -> Self {
        let now = Mutex::new(Now { value, version: 0, is_closed: false });
        Self { shared: Arc::new(Shared { now, changed: Notify::new() }) }
    }

    /// Watches; the value as it is now counts as seen.
    #[must_use]
    pub fn subscribe(&self) -> Receiver<T> {
        Receiver { seen: self.shared.lock().version, shared: Arc::clone(&self.shared) }
    }

    /// The value as it is now.
    #[must_use]
    pub fn borrow(&self) -> Arc<T> {
        Arc::clone(&self.shared.lock().value)
    }

    /// Replaces the value.
    pub fn send_replace(&self, value: Arc<T>) {
        self.send_if_modified(|now| {
            *now = value;
            true
        });
    }

    /// Changes the value; `change` tells whether it did.
    pub fn send_if_modified(&self, change: impl FnOnce(&mut Arc<T>) -> bool) {
        let mut now = self.shared.lock();
        if change(&mut now.value) {
            now.version += 1;
            drop(now);
            self.shared.changed.notify_waiters();
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.changed.notify_waiters();
    }
}

impl<T> Receiver<T> {
    /// The value as it is now.
    #[must_use]
    pub fn borrow(&self) -> Arc<T> {
        Arc::clone(&self.shared.lock().value)
    }

    /// The value as it is now, which counts as seen.
    pub fn borrow_and_update(&mut self) -> Arc<T> {
        let now = self.shared.lock();
        self.seen = now.version;
        Arc::clone(&now.value)
    }

    /// Waits for a value that was not seen; it counts as seen then.
    ///
    /// # Errors
    ///
    /// Its sender is gone.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        loop {
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            // In the line before the look: what changes after it wakes.
            changed.as_mut().enable();
            {
                let now = self.shared.lock();
                if now.version != self.seen {
                    self.seen = now.version;
                    return Ok(());
                }
                if now.is_closed {
                    return Err(Closed);
                }
            }
            changed.await;
        }
    }

    /// Waits until the value is as wanted.
    ///
    /// # Errors
    ///
    /// Its sender is gone before.
    pub async fn wait_for(&mut self, wanted: impl Fn(&Arc<T>) -> bool) -> Result<Arc<T>, Closed> {
        loop {
            let now = self.borrow_and_update();
            if wanted(&now) {
                return Ok(now);
            }
            self.changed().await?;
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), seen: self.seen }
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Now<T>> {
        // A change that panics has replaced the value or not.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_woken_in_order_and_misses_nothing() {
        let sender = Sender::new(Arc::new(0));
        let receiver = sender.subscribe();
        let woken = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..20 {
            let (mut receiver, woken) = (receiver.clone(), Arc::clone(&woken));
            tasks.spawn(async move {
                let seen = receiver.wait_for(|value| **value == 2).await.unwrap();
                woken.lock().unwrap().push(number);
                assert_eq!(*seen, 2);
                assert!(receiver.changed().await.is_err());
            });
        }
        tokio::task::yield_now().await;
        sender.send_replace(Arc::new(1));
        sender.send_if_modified(|_| false);
        tokio::task::yield_now().await;
        sender.send_replace(Arc::new(2));
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        drop(sender);
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
        assert_eq!(*woken.lock().unwrap(), (0..20).collect::<Vec<_>>());
        assert_eq!(*receiver.borrow(), 2);
    }
}
