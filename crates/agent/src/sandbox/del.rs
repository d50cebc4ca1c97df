//! DEL: a sandbox loses its interface.
//!
//! Only the connection is cut, by its entry in a map; the node's routes to the pod go after the answer, the pod keeps its
//! port until it is gone ([`crate::release`]). A DEL of a container that the
//! claim does not speak of is success and changes nothing: it is late, and another sandbox of the pod lives. The
//! namespace is not entered, so an empty one touches nothing; its links go with it.
//!
//! Works while the API server is down and while the disk is full: that the connection is cut need not be durable, since
//! the next start finds out.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kuryr_api::node::CniRequest;
use kuryr_types::{PodIdentity, PortId};
use tokio::time::Instant;

use super::Sandboxes;
use crate::{
    error::{Error, Result},
    kernel::Datapath,
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
        let cut = self.kernel.short("cut the pod off", move |node| {
            let host_ends = match index {
                Some(index) => vec![index],
                // An ADD was broken off before it told the index.
                None => {
                    let entries = node.entries()?;
                    let of_port = entries.iter().filter(|entry| entry.mac == mac);
                    of_port.map(|entry| entry.host_ifindex).collect()
                }
            };
            host_ends.iter().try_for_each(|index| node.cut(*index))?;
            Ok(host_ends)
        });
        self.uncleared.add(port, cut.await?);
        self.checkpoint.change_later(|ledger| ledger.cut(port));
        self.queue.add(Work::Claim(port.clone()));
        self.queue.add_after(Work::Sweep, crate::release::SWEEP_AFTER);
        Ok(())
    }
}

/// Host ends of pods that were cut off and to which the node still has routes; clones share them.
///
/// What a crash makes forget is cleared at the next start.
#[derive(Debug, Clone, Default)]
pub(super) struct Uncleared {
    host_ends: Arc<Mutex<BTreeMap<PortId, Vec<u32>>>>,
}

impl Uncleared {
    pub(super) fn add(&self, port: &PortId, host_ends: Vec<u32>) {
        if !host_ends.is_empty() {
            self.lock().entry(port.clone()).or_default().extend(host_ends);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PortId, Vec<u32>>> {
        self.host_ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sandboxes {
    /// Takes the node's routes of former connections of a port. To be done before others can have its addresses.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub(crate) async fn clear(&self, port: &PortId) -> Result<()> {
        let host_ends = self.uncleared.lock().get(port).cloned().unwrap_or_default();
        for index in host_ends {
            let clear = move |node: &dyn Datapath| node.clear(index);
            self.kernel.patient("take the routes to a pod that was cut off", clear).await?;
            let mut uncleared = self.uncleared.lock();
            if let Entry::Occupied(mut left) = uncleared.entry(port.clone()) {
                left.get_mut().retain(|other| *other != index);
                if left.get().is_empty() {
                    left.remove();
                }
            }
        }
        Ok(())
    }
}
