//! DEL: a sandbox loses its interface.
//!
//! Only the connection is cut; the pod keeps its port until it is gone ([`crate::release`]). A DEL of a container that the
//! claim does not speak of is success and changes nothing: it is late, and another sandbox of the pod lives. The
//! namespace is not entered, so an empty one touches nothing; its links go with it.
//!
//! Works while the API server is down and while the disk is full: that the connection is cut need not be durable, since
//! the next start finds out.

use kuryr_api::node::CniRequest;
use kuryr_types::{PodIdentity, PortId};
use tokio::time::Instant;

use super::Sandboxes;
use crate::{
    error::{Error, Result},
    wiring::Work,
};

impl Sandboxes {
    /// Cuts a sandbox off.
    ///
    /// # Errors
    ///
    /// What the kernel refused; the runtime repeats a DEL.
    pub(crate) async fn del(&self, request: &CniRequest) -> Result<()> {
        self.running.cancel(&request.container_id, &request.ifname).await;
        self.cut_sandbox(&request.container_id, &request.ifname, &request.netns).await
    }

    /// Cuts the claim that speaks of this sandbox, if one does.
    pub(super) async fn cut_sandbox(&self, container_id: &str, ifname: &str, netns: &str) -> Result<()> {
        let meant = || {
            self.checkpoint.look(|_, ledger| {
                let (port, claim) = ledger.joined_by(container_id, ifname, netns)?;
                Some((port.clone(), claim.identity.clone()))
            })
        };
        let Some((port, identity)) = meant() else {
            tracing::debug!(container = container_id, ifname, "DEL of a sandbox that is not connected");
            return Ok(());
        };
        let deadline = Instant::now() + self.config.add_within;
        let turn = self.turns.take(&identity, ifname, deadline).await;
        let _turn = turn.ok_or(Error::Busy { what: "turn of the pod" })?;
        // The turn may have come after an ADD for another sandbox of the pod.
        if meant().as_ref().map(|(port, _)| port) != Some(&port) {
            return Ok(());
        }
        self.cut(&port, &identity).await
    }

    /// Cuts a claim that nobody else works on.
    pub(crate) async fn cut(&self, port: &PortId, identity: &PodIdentity) -> Result<()> {
        let joint = self.checkpoint.look(|_, ledger| {
            let claim = ledger.claims.get(port).filter(|claim| claim.identity == *identity)?;
            Some((claim.sandbox.as_ref()?.host_ifindex, claim.links.mac))
        });
        let Some((index, mac)) = joint else { return Ok(()) };
        let cut = self.kernel.urgent("cut the pod off", move |node| match index {
            Some(index) => node.cut(index),
            // An ADD was broken off before it told the index.
            None => {
                let entries = node.entries()?;
                entries
                    .iter()
                    .filter(|entry| entry.mac == mac)
                    .try_for_each(|entry| node.cut(entry.host_ifindex))
            }
        });
        cut.await?;
        self.checkpoint.change_if(|ledger| ledger.cut(port));
        self.queue.add(Work::Claim(port.clone()));
        self.queue.add_after(Work::Sweep, crate::release::SWEEP_AFTER);
        Ok(())
    }
}
