//! Pods that are about to come, node by node.
//!
//! Pods without a node and what their workloads say are looked at a moment after something changed ([`observe`]),
//! spread over the nodes (`kuryr_planning::demand::forecast`), and nodes for which that changes something are
//! looked at. Nothing depends on it being right or there: without it, as when the API server does not let the
//! controller list workloads, pods count from the moment they are scheduled.

// Watches, and one look.
mod observe;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use kuryr_kubernetes::{slim, watch::Change};
use kuryr_planning::demand::{Coming, forecast};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub(crate) use observe::{Workloads, controllers};

use crate::{pool::Key, wiring::World};

/// Changes come in crowds; one forecast for each crowd is enough, and soon enough: the scheduler takes a few
/// milliseconds for a pod, and then the pod counts by itself.
const COLLECT: Duration = Duration::from_millis(50);
/// A forecast looks at all pods: with tens of thousands of them it takes a while, and then the next one waits so many times
/// as long, so that one processor has time for others, but not longer than this.
const PAUSE_TIMES: u32 = 10;
const PAUSE_MOST: Duration = Duration::from_secs(1);
/// Most pods of one workload that a node is told of: more than one kubelet takes are never on one node.
const PODS_OF_NODE: usize = 110;

/// What is about to come, as of the last look.
pub(crate) struct Forecast {
    workloads: Option<Workloads>,
    changed: Notify,
    coming: Mutex<Arc<BTreeMap<String, Coming>>>,
}

impl Forecast {
    /// Nothing comes yet; without `workloads` nothing ever does.
    pub(crate) fn new(workloads: Option<Workloads>) -> Self {
        Self { workloads, changed: Notify::new(), coming: Mutex::default() }
    }

    /// What is about to come to `node`.
    pub(crate) fn of(&self, node: &str) -> Coming {
        self.now().get(node).copied().unwrap_or_default()
    }

    /// Takes over a change of pods.
    pub(crate) fn index_pods(&self, change: &Change<slim::Pod>) {
        if let Some(workloads) = &self.workloads {
            workloads.pods_by_controller.update(change);
        }
    }

    /// Follows a change of pods, or of anything else.
    pub(crate) fn follow(&self) {
        self.changed.notify_one();
    }

    /// Looks after each change, until `over`.
    pub(crate) async fn run(&self, world: &World, over: CancellationToken) {
        let Some(workloads) = &self.workloads else { return };
        let mut pause = COLLECT;
        loop {
            tokio::select! {
                biased;
                () = over.cancelled() => return,
                () = self.changed.notified() => {}
            }
            tokio::select! {
                biased;
                () = over.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let begun = Instant::now();
            let nodes = world.nodes.list();
            let coming = forecast(&observe::places(&nodes), &workloads.look().workloads(), PODS_OF_NODE);
            self.take_over(coming, world);
            pause = (begun.elapsed() * PAUSE_TIMES).clamp(COLLECT, PAUSE_MOST);
        }
    }

    fn take_over(&self, coming: BTreeMap<String, Coming>, world: &World) {
        let before = self.now();
        let changed = |(node, now): &(&String, &Coming)| before.get(*node) != Some(*now);
        let changed = coming.iter().filter(changed).map(|(node, _)| node);
        // Less is not urgent: the pods that came are looked at by themselves.
        for node in changed {
            world.look_at(Key::Node(node.clone()));
        }
        *self.coming.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(coming.clone());
    }

    fn now(&self) -> Arc<BTreeMap<String, Coming>> {
        Arc::clone(&self.coming.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
