//! Trunks: when they are looked at, and steps of a plan as changes of them.
//!
//! A trunk has other users. Whatever one of them did meanwhile makes Neutron refuse a change as a whole; then the trunk
//! is read again, planned anew, and left alone for a while, longer each time in a row.

use futures::FutureExt;
use kuryr_api::{kuryrnode::KuryrNode, names::MODE_LABEL};
use kuryr_kubernetes::slim;
use kuryr_openstack::{
    Error as CloudError, TrunkConflict,
    neutron::{PortFilter, Trunk},
};
use kuryr_planning::{
    ownership::OurPort,
    pool::{NodeFacts, Record, Trunks, mode::Seen},
};
use kuryr_types::{PortId, TrunkId};
use tokio_util::sync::CancellationToken;

use super::looks::{self, Asking};
use crate::{
    cloud::{
        facts::Access,
        problem,
        trunks::{self as index, Asked},
    },
    error::Result,
    term::Term,
    wiring::World,
};

/// What Kubernetes sets on a Node of which it has not heard for a while.
pub(crate) const UNREACHABLE_TAINT: &str = "node.kubernetes.io/unreachable";

/// Records whose trunk is asked for where a list is empty: of one, somebody may have deleted it.
const RECORDS_ASKED: usize = 8;

/// What a Node says of how ports reach it.
pub(super) fn facts(node: Option<&slim::Node>) -> NodeFacts {
    let Some(node) = node else { return NodeFacts::default() };
    let labels = node.metadata.labels.as_ref();
    let internal = node.status.addresses.iter().filter(|address| address.kind == "InternalIP");
    NodeFacts {
        label: labels.and_then(|labels| labels.get(MODE_LABEL)).cloned(),
        addresses: internal.filter_map(|address| address.address.parse().ok()).collect(),
        unreachable: node.has_taint(UNREACHABLE_TAINT),
        pods_most: node.status.allocatable.pods.and_then(|pods| usize::try_from(pods).ok()),
    }
}

/// What is known of trunks for a node; asks for a look if it is missing, and nobody asks where nothing depends on it.
pub(super) fn of_node(
    record: Option<&KuryrNode>,
    facts: &NodeFacts,
    ports: &[OurPort],
    access: &Access,
    world: &World,
    term: &Term,
) -> Option<Trunks> {
    let asked = asked(record?, facts, ports, world)?;
    let ids = ports.iter().map(|port| port.id.clone());
    let known = term.trunks.of_node(&asked, access.owner.project(), ids);
    if known.is_none() {
        world.trunks_soon.notify_one();
    }
    known
}

/// What is known of trunks for ports that belong to no node.
pub(super) fn of_orphans(ports: &[OurPort], world: &World, term: &Term) -> Option<Trunks> {
    if !ports.iter().any(OurPort::may_be_subport) {
        return None;
    }
    let known = term.trunks.of_ports(ports.iter().map(|port| port.id.clone()));
    if known.is_none() {
        world.trunks_soon.notify_one();
    }
    known
}

fn asked(record: &KuryrNode, facts: &NodeFacts, ports: &[OurPort], world: &World) -> Option<Asked> {
    let status = record.status.as_ref();
    let seen = Seen::of(Record { spec: &record.spec, status }, facts, world.config.limits.mode, None);
    // Before the agent has reported, nothing is decided that could depend on it.
    let asks = status.is_some() && seen.asks_for_trunks();
    let mac = seen.uplink.map(|uplink| uplink.mac);
    (asks || ports.iter().any(OurPort::may_be_subport))
        .then(|| Asked { addresses: facts.addresses.clone(), mac })
}

/// Looks at trunks while something depends on them: when it begins to, when a change leaves doubt, when Kubernetes has lost
/// a node, and every few minutes; more often while one is missing or a node is lost, as its parent port may be why.
pub(crate) async fn run(world: &World, term: &Term, over: CancellationToken) {
    let look = || look(world, term);
    looks::run("trunks", look, &world.trunks_soon, world.config.cloud.list_period, over).await;
}

/// One look. Tells whether everything was found that was looked for, of nodes that are heard of.
async fn look(world: &World, term: &Term) -> Result<bool> {
    let known = world.known();
    let Some(access) = &known.access else { return Ok(true) };
    let mut asking = Asking::of(world, term, asked);
    let wanted = std::mem::take(&mut asking.asked);
    let orphans = term.ports.all().is_some_and(|ports| ports.iter().any(OurPort::may_be_subport));
    if wanted.is_empty() && !orphans {
        return Ok(true);
    }
    let begun = term.trunks.begin();
    let project = access.owner.project();
    let found = index::look(&access.client, project, wanted).await?;
    let records = world.records.list();
    let named = records.iter().filter_map(|record| record.spec.trunk.clone()).take(RECORDS_ASKED);
    if let Some(trunk) = left_out(access, &found, named).await? {
        tracing::warn!(%trunk, "Neutron's list of trunks leaves out one that is there");
        return Ok(false);
    }
    let is_complete = found.is_complete(project);
    term.trunks.end(begun, found);
    // Who asked meanwhile has the answer, or asks again when it is looked at now.
    let _ = world.trunks_soon.notified().now_or_never();
    asking.go_on(world);
    Ok(is_complete && !asking.is_lost)
}

/// A trunk of those that records name that is there although there are none by the list: a Neutron server that had just
/// been started was seen to list nothing.
async fn left_out(
    access: &Access,
    found: &index::Found,
    named: impl Iterator<Item = TrunkId>,
) -> Result<Option<TrunkId>> {
    for id in named.filter(|_| found.is_empty()) {
        match access.client.trunk(&id).await {
            Ok(_) => return Ok(Some(id)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// Puts ports on a trunk.
pub(super) async fn add(
    trunk: &TrunkId,
    subports: &[(PortId, u16)],
    access: &Access,
    world: &World,
    term: &Term,
) {
    let Some(known) = term.trunks.get(trunk) else { return };
    let owned = |(id, vlan): &(PortId, u16)| Some((term.ports.owned(id)?, *vlan));
    let wanted: Vec<_> = subports.iter().filter_map(owned).collect();
    let ids: Vec<PortId> = wanted.iter().map(|(port, _)| port.id.clone()).collect();
    let begun = term.trunks.begin();
    let done = match wanted.is_empty() {
        true => return,
        false => access.client.add_subports(&access.ownership, &known, &wanted).await,
    };
    let what = format!("putting {} ports on trunk {trunk}", ids.len());
    if changed(&what, trunk, begun, done, access, world, term).await {
        world.figures.attached.inc_by(ids.len() as u64);
    }
    // Whether they are ACTIVE the answer does not tell, and whether they exist a refusal does not.
    read_ports(&ids, access, term).await;
}

/// Takes ports off a trunk.
pub(super) async fn remove(trunk: &TrunkId, ids: &[PortId], access: &Access, world: &World, term: &Term) {
    let Some(known) = term.trunks.get(trunk) else { return };
    let ports: Vec<_> = ids.iter().filter_map(|id| term.ports.owned(id)).collect();
    let begun = term.trunks.begin();
    let done = match ports.is_empty() {
        true => return,
        false => access.client.remove_subports(&access.ownership, &known, &ports).await,
    };
    let what = format!("taking {} ports off trunk {trunk}", ports.len());
    if changed(&what, trunk, begun, done, access, world, term).await {
        world.figures.detached.inc_by(ports.len() as u64);
    }
}

/// Reads a trunk, its parent port and ports on it again. What cannot be read is read at the next look.
pub(super) async fn read(trunk: &TrunkId, ids: &[PortId], access: &Access, world: &World, term: &Term) {
    read_trunk(trunk, access, world, term).await;
    if let Some(known) = term.trunks.get(trunk) {
        match access.client.port(&known.port_id).await {
            Ok(port) => term.trunks.parent(&port),
            Err(error) => tracing::debug!(%trunk, %error, "could not read the parent port"),
        }
    }
    read_ports(ids, access, term).await;
}

/// Notes what came of a change; tells whether it was made.
async fn changed(
    what: &str,
    trunk: &TrunkId,
    begun: index::Look,
    done: Result<Trunk, CloudError>,
    access: &Access,
    world: &World,
    term: &Term,
) -> bool {
    let error = match done {
        Ok(changed) => {
            term.trunks.changed(begun, changed);
            tracing::info!("{what}: done");
            return true;
        }
        Err(error) => error,
    };
    let others = matches!(
        error,
        CloudError::Trunk { conflict: TrunkConflict::VlanInUse | TrunkConflict::PortInUse, .. }
    );
    let others = others || error.is_not_found();
    let problem = problem::of(what, &error);
    if others {
        tracing::info!("{}", problem.message);
    } else {
        tracing::warn!(reason = problem.reason, "{}", problem.message);
    }
    term.trunks.hold_up(trunk, world.now(), others, problem);
    if error.outcome_unknown() {
        term.trunks.doubt(trunk);
        world.trunks_soon.notify_one();
    } else {
        read_trunk(trunk, access, world, term).await;
    }
    false
}

async fn read_trunk(trunk: &TrunkId, access: &Access, world: &World, term: &Term) {
    let begun = term.trunks.begin();
    match access.client.trunk(trunk).await {
        Ok(found) => term.trunks.insert(begun, found),
        Err(error) if error.is_not_found() => {
            term.trunks.remove(trunk);
            world.trunks_soon.notify_one();
        }
        Err(error) => {
            tracing::debug!(%trunk, %error, "could not read the trunk");
            term.trunks.doubt(trunk);
            world.trunks_soon.notify_one();
        }
    }
}

async fn read_ports(ids: &[PortId], access: &Access, term: &Term) {
    if ids.is_empty() {
        return;
    }
    let filter = PortFilter::new(&access.ownership).ids(ids.iter().cloned());
    match access.client.owned_ports(&filter).await {
        Ok(found) => {
            let gone = ids.iter().filter(|id| found.iter().all(|port| port.id != **id));
            gone.for_each(|id| term.ports.remove(id));
            found.into_iter().for_each(|port| term.ports.insert(&access.owner, port));
        }
        Err(error) => tracing::debug!(%error, "could not read ports of a trunk"),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use super::*;
    use crate::cloud::fake::{self, FakeCloud, lock};

    #[tokio::test]
    async fn a_list_without_trunks_is_not_believed_while_one_is_there() {
        let cloud = Arc::new(FakeCloud::default());
        let (trunk, parent) = fake::trunk("t", "192.0.2.7", &[]);
        *lock(&cloud.trunks) = Some(vec![trunk]);
        *lock(&cloud.ports) = vec![parent];
        let access = cloud.access();
        let look = async || {
            let found = index::look(&access.client, access.owner.project(), BTreeSet::new()).await.unwrap();
            let named = ["deleted".into(), "t".into()].into_iter();
            left_out(&access, &found, named).await.unwrap()
        };
        assert_eq!(look().await, None);
        *lock(&cloud.lists_nothing) = true;
        assert_eq!(look().await, Some("t".into()));
        *lock(&cloud.trunks) = Some(vec![]);
        assert_eq!(look().await, None, "somebody deleted it");
    }
}
