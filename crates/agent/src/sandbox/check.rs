//! CHECK: whether a sandbox's interface is as ADD left it.
//!
//! By the claim, not by what the runtime gives back: the claim is what was attached.

use std::path::PathBuf;

use kuryr_api::node::CniRequest;
use kuryr_planning::{
    attachment::{Observed, Route, difference::differences},
    claim::Claim,
};
use kuryr_types::PortId;

use super::{Sandboxes, add::within};
use crate::error::{Error, Result};

impl Sandboxes {
    /// Compares.
    ///
    /// # Errors
    ///
    /// `UnknownSandbox`, `Differs`, `NotJoined`, and what the kernel refused.
    pub(crate) async fn check(&self, request: &CniRequest) -> Result<()> {
        let (port, claim) = self.claim_of(request)?;
        let path = PathBuf::from(&request.netns);
        let (netns, ifname) = (path.clone(), request.ifname.clone());
        let observe =
            self.kernel.urgent("look at the pod's interface", move |node| node.observe(&netns, &ifname));
        let have = within("kernel", observe).await?.map(|links| Observed {
            mac: links.mac,
            mtu: links.mtu,
            up: links.up,
            addresses: links.addresses,
            routes: links.routes.iter().map(|route| Route { dst: route.dst, via: route.via }).collect(),
        });
        let differences = differences(&claim.links, have.as_ref());
        if !differences.is_empty() {
            return Err(Error::Differs { pod: claim.pod, differences });
        }
        let host_end =
            claim.sandbox.map(|sandbox| (sandbox.host_ifname, sandbox.host_ifindex.unwrap_or_default()));
        let joined = self.kernel.urgent("look at the pod's connection", move |node| match host_end {
            Some((name, index)) if node.has_entries() => node.is_joined(&name, index, &path),
            _ => Ok(true),
        });
        if within("kernel", joined).await? { Ok(()) } else { Err(Error::NotJoined { pod: claim.pod, port }) }
    }

    fn claim_of(&self, request: &CniRequest) -> Result<(PortId, Claim)> {
        let (id, ifname) = (&request.container_id, &request.ifname);
        let found = self.checkpoint.look(|_, ledger| {
            let (port, claim) = ledger.joined_by(id, ifname, &request.netns)?;
            Some((port.clone(), claim.clone()))
        });
        found.ok_or_else(|| Error::UnknownSandbox { container_id: id.clone(), ifname: ifname.clone() })
    }
}
