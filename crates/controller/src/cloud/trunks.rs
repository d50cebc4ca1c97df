//! Trunks of our project, as the last look and our own changes since tell them: whose they are, and what is on them.
//!
//! Nobody looks before some node asks for it, so a cluster whose nodes are hosts of the cloud makes no such call. A look
//! is two or three lists for all nodes together: the trunks, their parent ports, and, for nodes that are none of those,
//! whatever has their address, to say what is wrong.
//!
//! As in [`ports`](super::ports), what was written while a look ran wins over it. After a change whose outcome nobody
//! knows nothing is known of that trunk (planning gets `None`) until it was read again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Mutex,
};

use kuryr_api::kuryrnode::Problem;
use kuryr_openstack::{
    Client, Error,
    neutron::{Port, PortStatus, Trunk, TrunkStatus},
};
use kuryr_planning::pool::{
    Millis, Trunks,
    trunk::{self, Attachment, Candidate, Sight, TrunkCondition},
};
use kuryr_types::{MacAddr, PortId, ProjectId, TrunkId};

use super::hold_ups::HoldUps;

/// Trunks of our project.
#[derive(Debug, Default)]
pub(crate) struct TrunkIndex {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What the last look found; `None` before the first.
    looked: Option<Looked>,
    /// Counts events.
    clock: u64,
    /// Trunks that were written or read by themselves since a look began.
    written: BTreeMap<TrunkId, u64>,
    /// Trunks of which nothing is known, since when.
    doubted: BTreeMap<TrunkId, u64>,
    /// Trunks whose last change failed, and how often in a row.
    held_up: HoldUps<TrunkId>,
}

#[derive(Debug)]
struct Looked {
    /// Neutron has trunks.
    has_trunks: bool,
    trunks: BTreeMap<TrunkId, Trunk>,
    /// What is on them: a node is looked at with each of its pods, and a cluster has tens of thousands of these.
    on: BTreeMap<PortId, Attachment>,
    parents: BTreeMap<PortId, Parent>,
    /// Ports that have an address of a node, and are no trunk's parent.
    others: Vec<Candidate>,
    /// Trunks that are gone since.
    gone: BTreeSet<TrunkId>,
    /// Nodes that were looked for.
    asked: BTreeSet<Asked>,
}

#[derive(Debug)]
struct Parent {
    candidate: Candidate,
    enabled: bool,
    active: bool,
}

/// What a node is looked for by: its addresses, and the MAC of the interface that has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Asked {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) mac: Option<MacAddr>,
}

/// A look that was begun.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look(u64);

/// What a look found.
#[derive(Debug)]
pub(crate) struct Found {
    looked: Looked,
}

impl TrunkIndex {
    /// What is known for a node, whose ports are `ids`; `None` while it is not known.
    pub(crate) fn of_node(
        &self,
        asked: &Asked,
        project: &ProjectId,
        ids: impl Iterator<Item = PortId>,
    ) -> Option<Trunks> {
        let state = self.lock();
        let looked = state.looked.as_ref().filter(|looked| looked.asked.contains(asked))?;
        let node = looked.sight(asked, project);
        let attached = looked.attached(&ids.collect());
        let concerned = attached.values().map(|at| &at.trunk).chain(node.trunk().map(|trunk| &trunk.id));
        let concerned: BTreeSet<TrunkId> = concerned.cloned().collect();
        if concerned.iter().any(|trunk| state.doubted.contains_key(trunk)) {
            return None;
        }
        let held_up = state.held_up.of(|id| concerned.contains(id));
        Some(Trunks { node, attached, held_up })
    }

    /// What is known for ports that belong to no node.
    pub(crate) fn of_ports(&self, ids: impl Iterator<Item = PortId>) -> Option<Trunks> {
        let state = self.lock();
        let attached = state.looked.as_ref().filter(|_| state.doubted.is_empty())?.attached(&ids.collect());
        let concerned: BTreeSet<&TrunkId> = attached.values().map(|at| &at.trunk).collect();
        let held_up = state.held_up.of(|id| concerned.contains(id));
        Some(Trunks { node: Sight::NoPort, attached, held_up })
    }

    /// The trunk, as calls need it.
    pub(crate) fn get(&self, id: &TrunkId) -> Option<Trunk> {
        self.lock().looked.as_ref()?.trunks.get(id).cloned()
    }

    /// Begins a look, or a reading of one trunk.
    pub(crate) fn begin(&self) -> Look {
        let mut state = self.lock();
        state.clock += 1;
        Look(state.clock)
    }

    /// Takes a look over.
    pub(crate) fn end(&self, look: Look, found: Found) {
        let mut state = self.lock();
        let mut looked = found.looked;
        if let Some(before) = state.looked.take() {
            // What was written meanwhile is newer.
            for (id, _) in state.written.iter().filter(|(_, at)| **at > look.0) {
                match before.trunks.get(id) {
                    Some(trunk) => looked.put(trunk.clone()),
                    None => looked.take(id),
                }
            }
        }
        state.doubted.retain(|_, since| *since > look.0);
        state.written.retain(|_, at| *at > look.0);
        let known = looked.trunks.keys().cloned().collect::<BTreeSet<_>>();
        state.held_up.retain(|id| known.contains(id));
        state.looked = Some(looked);
    }

    /// Notes a trunk as Neutron answered to a change that began with `look`. Any change makes a trunk `DOWN` for a
    /// moment, and the answer is from within: its status is kept.
    pub(crate) fn changed(&self, look: Look, trunk: Trunk) {
        let status = self.get(&trunk.id).map_or_else(|| trunk.status.clone(), |before| before.status);
        self.lock().held_up.end(&trunk.id);
        self.insert(look, Trunk { status, ..trunk });
    }

    /// Notes a trunk as Neutron answered to a reading that began with `look`.
    pub(crate) fn insert(&self, look: Look, trunk: Trunk) {
        let mut state = self.lock();
        if state.written.get(&trunk.id).is_some_and(|at| *at > look.0) {
            return;
        }
        state.clock += 1;
        let now = state.clock;
        state.written.insert(trunk.id.clone(), now);
        if state.doubted.get(&trunk.id).is_some_and(|since| *since < look.0) {
            state.doubted.remove(&trunk.id);
        }
        if let Some(looked) = &mut state.looked {
            looked.put(trunk);
        }
    }

    /// Notes how a parent port is.
    pub(crate) fn parent(&self, port: &Port) {
        if let Some(looked) = &mut self.lock().looked {
            looked.parents.insert(port.id.clone(), Parent::of(port));
        }
    }

    /// Notes that a trunk is gone.
    pub(crate) fn remove(&self, id: &TrunkId) {
        let mut state = self.lock();
        state.clock += 1;
        let now = state.clock;
        state.written.insert(id.clone(), now);
        state.doubted.remove(id);
        if let Some(looked) = &mut state.looked {
            looked.take(id);
            looked.gone.insert(id.clone());
        }
    }

    /// Notes that the outcome of a change is unknown.
    pub(crate) fn doubt(&self, id: &TrunkId) {
        let mut state = self.lock();
        state.clock += 1;
        let now = state.clock;
        state.doubted.insert(id.clone(), now);
    }

    /// Notes that Neutron knows of a trunk what we do not.
    pub(crate) fn doubt_all(&self) {
        self.lock().looked = None;
    }

    /// Notes that a change failed. `shared` tells that another user of the trunk was faster, which is no problem unless
    /// it goes on.
    pub(crate) fn hold_up(&self, id: &TrunkId, now: Millis, shared: bool, problem: Problem) {
        self.lock().held_up.add(id, now, shared, problem);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Looked {
    fn sight(&self, asked: &Asked, project: &ProjectId) -> Sight {
        if !self.has_trunks {
            return Sight::NoTrunks;
        }
        let parents = self.parents.values().map(|parent| &parent.candidate);
        let port = match trunk::find(&asked.addresses, asked.mac, project, parents.chain(&self.others)) {
            Ok(port) => port,
            Err(sight) => return sight,
        };
        match (self.trunks.values().find(|trunk| trunk.port_id == port.id), &port.trunk) {
            (Some(found), _) => Sight::Trunk(self.seen(found)),
            // Its own trunk may have gone since the port was read.
            (None, Some(other)) if !self.gone.contains(other) => {
                Sight::OtherTrunk(port.id.clone(), other.clone())
            }
            (None, _) => Sight::NoTrunk(port.id.clone()),
        }
    }

    fn seen(&self, found: &Trunk) -> trunk::Trunk {
        let parent = self.parents.get(&found.port_id);
        trunk::Trunk {
            id: found.id.clone(),
            parent: found.port_id.clone(),
            parent_enabled: parent.is_none_or(|parent| parent.enabled),
            parent_active: parent.is_some_and(|parent| parent.active),
            enabled: found.admin_state_up,
            condition: condition(&found.status),
            subports: found
                .sub_ports
                .iter()
                .map(|port| (port.segmentation_id, port.port_id.clone()))
                .collect(),
        }
    }

    fn attached(&self, ids: &BTreeSet<PortId>) -> BTreeMap<PortId, Attachment> {
        ids.iter().filter_map(|id| Some((id.clone(), self.on.get(id)?.clone()))).collect()
    }

    /// Takes a trunk over as it is now.
    fn put(&mut self, trunk: Trunk) {
        self.take(&trunk.id);
        for port in &trunk.sub_ports {
            let at = Attachment { trunk: trunk.id.clone(), vlan: port.segmentation_id };
            self.on.insert(port.port_id.clone(), at);
        }
        self.trunks.insert(trunk.id.clone(), trunk);
    }

    /// Forgets a trunk.
    fn take(&mut self, id: &TrunkId) {
        let before = self.trunks.remove(id);
        for port in before.iter().flat_map(|trunk| &trunk.sub_ports) {
            // It may be on another by now.
            if self.on.get(&port.port_id).is_some_and(|at| at.trunk == *id) {
                self.on.remove(&port.port_id);
            }
        }
    }
}

impl Parent {
    fn of(port: &Port) -> Self {
        let enabled = port.admin_state_up;
        Self { candidate: candidate(port), enabled, active: enabled && port.status == PortStatus::Active }
    }
}

/// A port as what a node may be.
pub(super) fn candidate(port: &Port) -> Candidate {
    Candidate {
        id: port.id.clone(),
        project: port.project_id.clone(),
        mac: port.mac_address,
        addresses: port.fixed_ips.iter().map(|ip| ip.ip_address).collect(),
        trunk: port.trunk_details.as_ref().map(|details| details.trunk_id.clone()),
    }
}

fn condition(status: &TrunkStatus) -> TrunkCondition {
    match status {
        TrunkStatus::Active | TrunkStatus::Build => TrunkCondition::Good,
        TrunkStatus::Down | TrunkStatus::Other(_) => TrunkCondition::Down,
        TrunkStatus::Degraded => TrunkCondition::Degraded,
        TrunkStatus::Error => TrunkCondition::Error,
    }
}

impl Found {
    /// Whether Neutron has trunks, and showed none.
    pub(crate) fn is_empty(&self) -> bool {
        self.looked.has_trunks && self.looked.trunks.is_empty()
    }

    /// Whether every node that was looked for, and is there, has a trunk.
    pub(crate) fn is_complete(&self, project: &ProjectId) -> bool {
        let has_trunk = |asked: &Asked| self.looked.sight(asked, project).trunk().is_some();
        self.looked.asked.iter().all(|asked| asked.addresses.is_empty() || has_trunk(asked))
    }
}

/// Looks at all trunks of `project`, for nodes that are `asked` for.
///
/// # Errors
///
/// What the cloud answers.
pub(crate) async fn look(
    client: &Client,
    project: &ProjectId,
    asked: BTreeSet<Asked>,
) -> Result<Found, Error> {
    let (has_trunks, trunks) = match client.trunks(project).await {
        Ok(trunks) => (true, trunks),
        // The path is served only with the extension `trunk`.
        Err(Error::NotFound { .. }) => (false, Vec::new()),
        Err(error) => return Err(error),
    };
    let ids: Vec<PortId> = trunks.iter().map(|trunk| trunk.port_id.clone()).collect();
    let parents = client.ports_by_ids(&ids).await?;
    let mut looked = Looked {
        has_trunks,
        trunks: BTreeMap::new(),
        on: BTreeMap::new(),
        parents: parents.iter().map(|port| (port.id.clone(), Parent::of(port))).collect(),
        others: Vec::new(),
        gone: BTreeSet::new(),
        asked,
    };
    trunks.into_iter().for_each(|trunk| looked.put(trunk));
    let parent_addresses: BTreeSet<IpAddr> =
        looked.parents.values().flat_map(|parent| parent.candidate.addresses.clone()).collect();
    let missed =
        looked.asked.iter().filter(|asked| !asked.addresses.iter().any(|ip| parent_addresses.contains(ip)));
    let addresses: Vec<IpAddr> = missed.flat_map(|asked| asked.addresses.clone()).collect();
    if has_trunks {
        let others = client.ports_with_addresses(&addresses).await?;
        looked.others = others.iter().map(candidate).collect();
    }
    Ok(Found { looked })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::cloud::fake::{self, FakeCloud};

    fn asked(last: u8) -> Asked {
        let address = IpAddr::from([192, 0, 2, last]);
        Asked { addresses: vec![address], mac: Some(MacAddr([0xfa, 0x16, 0x3e, 0, 0, last])) }
    }

    /// A cloud with one trunk, of the node 192.0.2.7.
    fn cloud() -> Arc<FakeCloud> {
        let cloud = Arc::new(FakeCloud::default());
        let (trunk, parent) = fake::trunk("t", "192.0.2.7", &[("p1", 101), ("foreign", 7)]);
        *fake::lock(&cloud.trunks) = Some(vec![trunk]);
        let plain = fake::port("plain", fake::PROJECT, "192.0.2.8");
        *fake::lock(&cloud.ports) = vec![parent, plain, fake::port("strange", "other", "192.0.2.9")];
        cloud
    }

    async fn look_at(cloud: &Arc<FakeCloud>, asked: &[Asked]) -> Found {
        let asked = asked.iter().cloned().collect();
        look(&cloud.access().client, &fake::PROJECT.into(), asked).await.unwrap()
    }

    fn known(index: &TrunkIndex, asked: &Asked) -> Option<Trunks> {
        index.of_node(asked, &fake::PROJECT.into(), ["p1".into(), "p2".into()].into_iter())
    }

    fn given(subports: &[(&str, u16)], status: &str) -> Trunk {
        let (mut trunk, _) = fake::trunk("t", "192.0.2.7", subports);
        trunk["status"] = status.into();
        serde_json::from_value(trunk).unwrap()
    }

    fn vlans(index: &TrunkIndex) -> Option<Vec<u16>> {
        Some(known(index, &asked(7))?.node.trunk()?.subports.keys().copied().collect())
    }

    #[tokio::test]
    async fn each_node_is_told_what_it_is() {
        let (cloud, index) = (cloud(), TrunkIndex::default());
        let no_mac = Asked { mac: None, ..asked(7) };
        let nodes = [asked(7), asked(8), asked(9), asked(10), no_mac.clone()];
        assert_eq!(known(&index, &asked(7)), None, "nobody has looked");
        let begun = index.begin();
        let found = look_at(&cloud, &nodes).await;
        assert!(!found.is_complete(&fake::PROJECT.into()));
        index.end(begun, found);
        let trunks = known(&index, &asked(7)).unwrap();
        let trunk = trunks.node.trunk().unwrap();
        assert_eq!((trunk.id.as_str(), trunk.parent_active), ("t", true));
        assert_eq!(trunk.subports, [(7, "foreign".into()), (101, "p1".into())].into());
        assert_eq!(trunks.attached, [("p1".into(), Attachment { trunk: "t".into(), vlan: 101 })].into());
        let sight = |asked| known(&index, &asked).map(|trunks| trunks.node);
        assert_eq!(sight(asked(8)), Some(Sight::NoTrunk("plain".into())));
        assert_eq!(sight(asked(9)), Some(Sight::OtherProject("strange".into(), "other".into())));
        assert_eq!(sight(asked(10)), Some(Sight::NoPort));
        assert_eq!(sight(no_mac), Some(Sight::NoMac));
        assert_eq!(sight(asked(11)), None, "nobody has asked for it");
        assert_eq!(cloud.count("GET /v2.0"), 3, "for all nodes together");
    }

    #[tokio::test]
    async fn a_parent_port_that_may_not_carry_packets_is_not_active_whatever_its_status() {
        for (status, enabled, expect) in
            [("ACTIVE", true, (true, true)), ("ACTIVE", false, (false, false)), ("DOWN", true, (true, false))]
        {
            let (cloud, index) = (cloud(), TrunkIndex::default());
            let begun = index.begin();
            index.end(begun, look_at(&cloud, &[asked(7)]).await);
            let mut parent = fake::lock(&cloud.ports)[0].clone();
            (parent["status"], parent["admin_state_up"]) = (status.into(), enabled.into());
            index.parent(&serde_json::from_value(parent).unwrap());
            let trunks = known(&index, &asked(7)).unwrap();
            let trunk = trunks.node.trunk().unwrap();
            assert_eq!((trunk.parent_enabled, trunk.parent_active), expect, "{status} {enabled}");
        }
    }

    #[tokio::test]
    async fn a_cloud_without_trunks_is_no_failure() {
        let (cloud, index) = (Arc::new(FakeCloud::default()), TrunkIndex::default());
        let begun = index.begin();
        index.end(begun, look_at(&cloud, &[asked(7)]).await);
        assert_eq!(known(&index, &asked(7)).unwrap().node, Sight::NoTrunks);
        assert_eq!(cloud.count("GET /v2.0"), 1);
    }

    #[tokio::test]
    async fn what_is_written_while_a_look_runs_wins_over_it() {
        let (cloud, index) = (cloud(), TrunkIndex::default());
        let begun = index.begin();
        index.end(begun, look_at(&cloud, &[asked(7)]).await);
        let (begun, found) = (index.begin(), look_at(&cloud, &[asked(7)]).await);
        index.changed(index.begin(), given(&[("p1", 101), ("p2", 102)], "DOWN"));
        index.end(begun, found);
        assert_eq!(vlans(&index), Some(vec![101, 102]));
        let trunks = known(&index, &asked(7)).unwrap();
        assert_eq!(trunks.node.trunk().unwrap().condition, TrunkCondition::Good, "an answer is from within");
        // A reading that began before the change.
        index.insert(begun, given(&[], "ACTIVE"));
        assert_eq!(vlans(&index), Some(vec![101, 102]));
        index.insert(index.begin(), given(&[("p2", 102)], "DOWN"));
        assert_eq!(vlans(&index), Some(vec![102]));
        assert_eq!(known(&index, &asked(7)).unwrap().node.trunk().unwrap().condition, TrunkCondition::Down);
        index.remove(&"t".into());
        assert_eq!(known(&index, &asked(7)).unwrap().node, Sight::NoTrunk("parent-of-t".into()));
        // Made anew, by somebody who forgot to say for whom.
        fake::lock(&cloud.trunks).as_mut().unwrap().clear();
        fake::lock(&cloud.ports)[0]["trunk_details"] = json!({"trunk_id": "u", "sub_ports": []});
        index.end(index.begin(), look_at(&cloud, &[asked(7)]).await);
        let other = Sight::OtherTrunk("parent-of-t".into(), "u".into());
        assert_eq!(known(&index, &asked(7)).unwrap().node, other);
    }

    #[tokio::test]
    async fn after_a_doubt_only_what_was_read_later_counts() {
        let (cloud, index) = (cloud(), TrunkIndex::default());
        let before = index.begin();
        index.end(before, look_at(&cloud, &[asked(7), asked(8)]).await);
        let before = index.begin();
        index.doubt(&"t".into());
        assert_eq!(vlans(&index), None);
        assert!(index.of_ports(["p2".into()].into_iter()).is_none());
        assert!(index.of_node(&asked(8), &fake::PROJECT.into(), ["p2".into()].into_iter()).is_some());
        index.insert(before, given(&[], "ACTIVE"));
        assert_eq!(vlans(&index), None);
        index.insert(index.begin(), given(&[("p1", 5)], "ACTIVE"));
        assert_eq!(vlans(&index), Some(vec![5]));
        index.doubt(&"t".into());
        index.end(before, look_at(&cloud, &[asked(7)]).await);
        assert_eq!(vlans(&index), None);
        let after = index.begin();
        index.end(after, look_at(&cloud, &[asked(7)]).await);
        assert_eq!(vlans(&index), Some(vec![7, 101]));
    }

    #[tokio::test]
    async fn a_trunk_is_left_alone_longer_each_time_and_its_users_are_told_late() {
        let (cloud, index) = (cloud(), TrunkIndex::default());
        let begun = index.begin();
        index.end(begun, look_at(&cloud, &[asked(7)]).await);
        let problem = || Problem { reason: "Why".into(), message: String::new() };
        let mut waits = Vec::new();
        for _ in 0..9 {
            index.hold_up(&"t".into(), 1000, true, problem());
            let held_up = known(&index, &asked(7)).unwrap().held_up["t"].clone();
            waits.push((held_up.until - 1000, held_up.problem.is_some()));
        }
        assert_eq!(waits[..4], [(200, false), (400, false), (800, true), (1600, true)]);
        assert_eq!(waits[8], (20_000, true));
        index.changed(index.begin(), given(&[], "ACTIVE"));
        assert!(known(&index, &asked(7)).unwrap().held_up.is_empty());
        index.hold_up(&"t".into(), 1000, false, problem());
        assert!(known(&index, &asked(7)).unwrap().held_up["t"].problem.is_some());
    }
}
