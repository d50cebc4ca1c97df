//! What the runtime asks of a sandbox: ADD, DEL, CHECK, GC, STATUS.
//!
//! Order: requests about one interface of one pod take turns. A DEL cancels the ADD that runs for its container, waits for
//! its end and then cuts; so does an ADD that is repeated for the same container. The kernel is touched only after the
//! claim is durable. A request outlives the connection it came by only to end cleanly.
//!
//! Who may have which port is [`kuryr_planning::claim`]'s; how the interface looks is
//! [`kuryr_planning::attachment`]'s.

// Requests that run, and their turns.
pub(crate) mod running;
// Where the time of an ADD goes.
pub(crate) mod stages;
// The verbs.
mod add;
mod check;
mod del;
mod gc;
mod status;
// What is left over.
mod sweep;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use kuryr_api::node::CniRequest;
use kuryr_kubernetes::{event::Recorder, queue::Queue};
use kuryr_types::{PodIdentity, PodRef};
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    calm::{BRIEFLY, Calm, UNTIL_STARTED},
    checkpoint::Checkpoint,
    config::Config,
    error::{Error, Result},
    kernel::Kernel,
    metrics::Metrics,
    node::State,
    pods::Pods,
    wiring::Work,
};
use running::{Running, Turn, Turns};

/// Serves the runtime; clones share everything.
#[derive(Clone)]
pub(crate) struct Sandboxes {
    pub(crate) config: Arc<Config>,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) state: State,
    pub(crate) kernel: Kernel,
    pub(crate) pods: Pods,
    pub(crate) events: Recorder,
    pub(crate) metrics: Metrics,
    pub(crate) queue: Queue<Work>,
    /// No ADD for a moment.
    pub(crate) calm: Calm,
    /// No ADD for so long that the containers of the last one have started.
    started: Calm,
    running: Running,
    turns: Turns,
    attaching: Arc<Semaphore>,
    uncleared: del::Uncleared,
    waiting: Arc<AtomicUsize>,
    faults: Arc<AtomicUsize>,
}

impl Sandboxes {
    /// Notes that a pod is being connected.
    pub(crate) fn disturb(&self) {
        self.calm.disturb();
        self.started.disturb();
    }

    /// Whether the containers of the last pods have started, as far as time tells.
    pub(crate) fn have_started(&self) -> bool {
        self.started.from() <= Instant::now()
    }

    /// How long something may still wait for pods to start, which may hold it back for `most`; none when it is time. Where they
    /// have come one after the other for longer, it waits for a moment between them.
    pub(crate) fn pause(&self, most: Duration) -> Option<Duration> {
        self.started.pause(most).max(self.calm.pause(most))
    }

    /// Serves with these.
    #[expect(clippy::too_many_arguments, reason = "the parts of the agent, each once")]
    pub(crate) fn new(
        config: Arc<Config>,
        checkpoint: Checkpoint,
        state: State,
        kernel: Kernel,
        pods: Pods,
        events: Recorder,
        metrics: Metrics,
        queue: Queue<Work>,
    ) -> Self {
        let attaching = Arc::new(Semaphore::new(config.adds_at_once));
        Self {
            config,
            checkpoint,
            state,
            kernel,
            pods,
            events,
            metrics,
            queue,
            calm: Calm::new(BRIEFLY),
            started: Calm::new(UNTIL_STARTED),
            running: Running::default(),
            turns: Turns::default(),
            attaching,
            uncleared: del::Uncleared::default(),
            waiting: Arc::default(),
            faults: Arc::default(),
        }
    }

    /// Gives up all ADDs that wait, because the agent stops: their runtimes ask the next one.
    pub(crate) fn give_up(&self) {
        self.running.cancel_all();
    }

    /// Waits for the turn on an interface of a pod; none if it does not come until `deadline`.
    pub(crate) async fn turn(&self, identity: &PodIdentity, ifname: &str, deadline: Instant) -> Option<Turn> {
        self.turns.take(identity, ifname, deadline).await
    }

    fn attach_permits(&self) -> usize {
        self.config.adds_at_once
    }

    /// Number of pods that wait for a port now.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Number of ADDs in a row that failed by the node's fault.
    pub(crate) fn faults(&self) -> usize {
        self.faults.load(Ordering::Relaxed)
    }
}

/// The pod that a request names.
fn pod_of(request: &CniRequest) -> Result<PodRef> {
    let namespace = request.pod_namespace().filter(|text| !text.is_empty());
    let name = request.pod_name().filter(|text| !text.is_empty());
    Ok(PodRef::new(
        namespace.ok_or(Error::Argument { name: "K8S_POD_NAMESPACE" })?,
        name.ok_or(Error::Argument { name: "K8S_POD_NAME" })?,
    ))
}

#[cfg(test)]
mod tests;
