//! The node's status, written when it differs from what the API server has.
//!
//! A change after quiet is written after a moment in which others may join it; then what the controller waits for at
//! most every 200 ms, the rest at most every second. What nobody waits for, above all claims, lets pods' containers
//! start first ([`crate::calm`]): the API server and the controller have to work at it, too.

use std::time::Duration;

use kube::Api;
use kuryr_api::kuryrnode::{KuryrNode, KuryrNodeStatus};
use kuryr_kubernetes::{
    backoff::{Backoff, Jitter},
    objects::Objects,
    patch::JsonPatch,
    store::Presence,
};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::status::{Facts, compose, is_urgent};
use crate::{config::COMPONENT, wiring::World};

/// What comes within this time is told together.
const GATHER: Duration = Duration::from_millis(20);
/// The same for what nobody waits for.
const GATHER_OTHERS: Duration = Duration::from_millis(500);
const URGENT_EVERY: Duration = Duration::from_millis(200);
const OTHERS_EVERY: Duration = Duration::from_secs(1);
/// How long pods that are being connected hold back what nobody waits for.
const OTHERS_WITHIN: Duration = Duration::from_secs(3);
/// When a status is written again although it was written: the record may have been made anew.
const REPEAT_AFTER: Duration = Duration::from_secs(5);
/// Waiting pods and conditions are looked at even if nothing tells of a change.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What was written last.
struct Written {
    status: KuryrNodeStatus,
    at: Instant,
}

/// Reports until `stop`.
pub(crate) async fn run(world: World, client: kube::Client, mut jitter: Jitter, stop: CancellationToken) {
    let objects: Objects<KuryrNode> = Objects::new(Api::all(client), COMPONENT);
    let mut state = world.state.watch();
    let mut durable = world.checkpoint.watch();
    let mut written: Option<Written> = None;
    let mut failures = 0;
    let backoff = Backoff { first: Duration::from_millis(500), most: Duration::from_secs(15) };
    let mut not_before = Instant::now();
    // Since when there has been something to tell.
    let mut pending: Option<Instant> = None;
    loop {
        state.borrow_and_update();
        durable.borrow_and_update();
        let now = Instant::now();
        let due = due_status(&world, written.as_ref()).map(|(status, Pace { gather, gap, yields })| {
            let since = *pending.get_or_insert(now);
            let allowed = written.as_ref().map_or(now, |written| written.at + gap);
            let calm = yields.then(|| world.sandboxes.calm.from().min(since + OTHERS_WITHIN));
            (status, allowed.max(since + gather).max(not_before).max(calm.unwrap_or(since)))
        });
        let Some((status, at)) = due else {
            pending = None;
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = state.changed() => {}
                _ = durable.changed() => {}
                () = sleep_until(now + LOOK_EVERY) => {}
            }
            continue;
        };
        if at > now {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = state.changed() => {}
                _ = durable.changed() => {}
                () = sleep_until(at) => {}
            }
            continue;
        }
        pending = None;
        let patch = JsonPatch::new().add("/status", &status);
        let result = objects.patch_status(&world.config.node_name, &patch).await;
        world.metrics.status_written(result.is_ok());
        match result {
            Ok(_) => {
                failures = 0;
                written = Some(Written { status, at: Instant::now() });
            }
            Err(error) => {
                failures += 1;
                let pause = backoff.delay(failures, &mut jitter);
                tracing::warn!(
                    ?pause,
                    "the node's status cannot be written: {}",
                    crate::error::with_causes(&error)
                );
                not_before = Instant::now() + pause;
            }
        }
    }
}

/// When a status is written.
#[derive(Clone, Copy)]
struct Pace {
    /// After its first change.
    gather: Duration,
    /// After the last write.
    gap: Duration,
    /// Not while pods are being connected.
    yields: bool,
}

const AT_ONCE: Pace = Pace { gather: GATHER, gap: Duration::ZERO, yields: false };
const URGENT: Pace = Pace { gather: GATHER, gap: URGENT_EVERY, yields: false };
const OTHERS: Pace = Pace { gather: GATHER_OTHERS, gap: OTHERS_EVERY, yields: true };
const AGAIN: Pace = Pace { gather: GATHER, gap: REPEAT_AFTER, yields: false };

/// The status that should be written, and when.
fn due_status(world: &World, written: Option<&Written>) -> Option<(KuryrNodeStatus, Pace)> {
    // Without a record there is nothing to write to.
    let Presence::Present(record) = world.watched.record() else { return None };
    let stored = record.status.clone().unwrap_or_default();
    let before = written.map_or(&stored, |written| &written.status);
    let state = world.state.get();
    let durable = world.checkpoint.watch().borrow().clone();
    let facts = Facts {
        durable: &durable,
        state: &state,
        kernel_trouble: world.kernel.trouble(),
        fallback: world.kernel.fallback(),
        waiting: world.sandboxes.waiting(),
        before,
        now: world.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    };
    let status = compose(&facts)?;
    if status == stored {
        return None;
    }
    match written {
        // The watch may not have brought it back yet.
        Some(written) if written.status == status => {
            (written.at.elapsed() >= REPEAT_AFTER).then_some((status, AGAIN))
        }
        Some(written) => {
            let pace = if is_urgent(&written.status, &status) { URGENT } else { OTHERS };
            Some((status, pace))
        }
        None => Some((status, AT_ONCE)),
    }
}
