//! GC: what the runtime does not list any more loses its interface, as by DEL.

use kuryr_api::node::GcRequest;

use super::Sandboxes;
use crate::error::Result;

impl Sandboxes {
    /// Cuts every sandbox that is not listed. Goes on after a failure, and tells the first.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub(crate) async fn gc(&self, request: &GcRequest) -> Result<()> {
        let is_listed = |container_id: &str, ifname: &str| {
            request
                .valid_attachments
                .iter()
                .any(|valid| valid.container_id == container_id && valid.ifname == ifname)
        };
        let stale: Vec<(String, String)> = self.checkpoint.look(|_, ledger| {
            let sandboxes = ledger.claims.values().filter_map(|claim| claim.sandbox.as_ref());
            sandboxes
                // Proven by its namespace: the container's id was lost, so the list cannot tell.
                .filter(|sandbox| !sandbox.container_id.is_empty())
                .filter(|sandbox| !is_listed(&sandbox.container_id, &sandbox.ifname))
                .map(|sandbox| (sandbox.container_id.clone(), sandbox.ifname.clone()))
                .collect()
        });
        let mut result = Ok(());
        for (container_id, ifname) in stale {
            tracing::info!(
                container = container_id,
                ifname,
                "the runtime does not list this sandbox any more"
            );
            let cut = self.cut_sandbox(&container_id, &ifname, "").await;
            result = result.and(cut);
        }
        result
    }
}
