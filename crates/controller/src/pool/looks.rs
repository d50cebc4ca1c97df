//! When something of the cloud is looked at as a whole, that nobody tells us of: when somebody asks for it, and every few
//! minutes; more often while something is missing.

use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::error::Result;

/// Distance between looks that fail.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// While something is missing: first and greatest distance between looks.
const MISSING_FIRST: Duration = Duration::from_secs(5);
const MISSING_MOST: Duration = Duration::from_secs(30);

/// Looks at `what` until it is `over`; `look` tells whether everything was found, `soon` that somebody asks, and `period` is
/// the distance while nothing is missing.
pub(super) async fn run<L: Future<Output = Result<bool>>>(
    what: &str,
    look: impl Fn() -> L,
    soon: &Notify,
    period: Duration,
    over: CancellationToken,
) {
    let mut distance = MISSING_FIRST;
    loop {
        let wait = match look().await {
            Ok(true) => {
                distance = MISSING_FIRST;
                period
            }
            Ok(false) => {
                let now = distance;
                distance = (distance * 2).min(MISSING_MOST);
                now
            }
            Err(error) => {
                tracing::warn!(%error, "could not look at {what}");
                tokio::select! {
                    biased;
                    () = over.cancelled() => return,
                    // Whoever asks meanwhile does not make a cloud that fails be asked more often.
                    () = tokio::time::sleep(LOOK_AGAIN) => continue,
                }
            }
        };
        tokio::select! {
            biased;
            () = over.cancelled() => return,
            () = soon.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}
