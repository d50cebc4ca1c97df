//! What is left of sandboxes whose namespaces went without their links, or of attachments that were broken off.
//!
//! A link that is being made looks like a leftover, so nothing is attached meanwhile; and since somebody may want to, this
//! happens only while nobody does.

use std::{collections::BTreeSet, time::Duration};

use kuryr_kubernetes::Outcome;
use tokio::sync::TryAcquireError;

use super::Sandboxes;
use crate::error::Result;

/// How long to leave attachments alone that go on.
const LATER: Duration = Duration::from_secs(5);

impl Sandboxes {
    /// Deletes leftovers.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub(crate) async fn sweep(&self) -> Result<Outcome> {
        let all = u32::try_from(self.attach_permits()).unwrap_or(u32::MAX);
        let _nobody_attaches = match self.attaching.try_acquire_many(all) {
            Ok(permits) => permits,
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => {
                return Ok(Outcome::again(LATER, "pods are being attached"));
            }
        };
        let checkpoint = self.checkpoint.clone();
        let sweep = self.kernel.patient("sweep up what is left of pods", move |node| {
            let keep: BTreeSet<String> = checkpoint.look(|_, ledger| {
                let sandboxes = ledger.claims.values().filter_map(|claim| claim.sandbox.as_ref());
                sandboxes.map(|sandbox| sandbox.host_ifname.clone()).collect()
            });
            node.sweep(&keep)
        });
        let swept = sweep.await?;
        if swept != kuryr_datapath::Swept::default() {
            tracing::info!(?swept, "swept up what was left of pods");
        }
        Ok(Outcome::Done)
    }
}
