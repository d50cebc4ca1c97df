//! Our ports in Neutron, as the last full list and our own writes since tell them.
//!
//! A list takes time, and writes go on meanwhile: what was written while it ran wins over it. After a write whose
//! outcome nobody knows nothing is known of its node (planning gets `None`) until a list that was begun later has ended.
//!
//! Ports of which a change failed are left alone for a while, each by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use kuryr_api::kuryrnode::Problem;
use kuryr_openstack::neutron::port::{OwnedPort, Port, PortStatus};
use kuryr_planning::{
    ownership::{self, ListedPort, OurPort, Owner, PortCondition},
    pool::{Millis, trunk::HeldUp},
};
use kuryr_types::{PortId, SubnetId};

use super::hold_ups::HoldUps;

/// Our ports.
#[derive(Debug)]
pub(crate) struct PortIndex {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    ports: BTreeMap<PortId, Entry>,
    /// By what their nodes are found by.
    by_key: BTreeMap<String, BTreeSet<PortId>>,
    /// Counts events; a list is good if it was begun after the last doubt.
    clock: u64,
    /// When a list that has ended was begun.
    listed: Option<u64>,
    /// Nodes for which the outcome of a write was unknown, and when it last was.
    doubts: BTreeMap<String, u64>,
    /// Ports whose last change failed, and how often in a row.
    held_up: HoldUps<PortId>,
    /// Ports written since, by event; kept while a list runs.
    written: BTreeMap<PortId, u64>,
    /// Ports that this leadership made, and whose making it heard of.
    fresh: BTreeSet<PortId>,
}

#[derive(Debug, Clone)]
struct Entry {
    owned: OwnedPort,
    ours: OurPort,
}

/// A list that was begun.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listing(u64);

impl PortIndex {
    /// Nothing is known yet.
    pub(crate) fn new() -> Self {
        Self { state: Mutex::default() }
    }

    /// Our ports that were made for `node` or are among `named`; `None` while they are not known.
    pub(crate) fn of_node(&self, node: &str, named: impl Iterator<Item = PortId>) -> Option<Vec<OurPort>> {
        let state = self.lock();
        state.listed.filter(|listed| state.doubts.get(node).is_none_or(|doubt| listed > doubt))?;
        let mut ids: BTreeSet<PortId> = state.named_for(node).cloned().collect();
        ids.extend(named);
        Some(ids.iter().filter_map(|id| state.ports.get(id)).map(|entry| entry.ours.clone()).collect())
    }

    /// All our ports; `None` while they are not known.
    pub(crate) fn all(&self) -> Option<Vec<OurPort>> {
        let state = self.lock();
        state.listed.filter(|listed| state.doubts.values().all(|doubt| listed > doubt))?;
        Some(state.ports.values().map(|entry| entry.ours.clone()).collect())
    }

    /// The port as calls need it.
    pub(crate) fn owned(&self, id: &PortId) -> Option<OwnedPort> {
        self.lock().ports.get(id).map(|entry| entry.owned.clone())
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.lock().ports.len()
    }

    /// How many addresses of `subnet` our ports have.
    pub(crate) fn addresses_in(&self, subnet: &SubnetId) -> usize {
        let state = self.lock();
        let addresses = state.ports.values().flat_map(|entry| &entry.ours.addresses);
        addresses.filter(|(of, _)| of == subnet).count()
    }

    /// Notes a port that was changed or found.
    pub(crate) fn insert(&self, owner: &Owner, port: OwnedPort) {
        self.lock().write(owner, port);
    }

    /// Takes over what a look at single ports showed, where it is newer than what is known. A port that is not known
    /// stays so: it may have been deleted since.
    pub(crate) fn refresh(&self, owner: &Owner, port: OwnedPort) {
        let mut state = self.lock();
        let known = state.ports.get(&port.id).map(|entry| entry.owned.revision_number);
        if known.is_some_and(|known| port.revision_number > known) {
            state.write(owner, port);
        }
    }

    /// Notes ports that were made just now.
    pub(crate) fn made(&self, owner: &Owner, ports: Vec<OwnedPort>) {
        let mut state = self.lock();
        for port in ports {
            state.fresh.insert(port.id.clone());
            state.write(owner, port);
        }
    }

    /// Ports of `node` that this leadership made. Known also while the rest is not: without it a port whose record
    /// somebody deleted would be taken for one that was never used.
    pub(crate) fn fresh(&self, node: &str) -> BTreeSet<PortId> {
        let state = self.lock();
        state.named_for(node).filter(|id| state.fresh.contains(*id)).cloned().collect()
    }

    /// Notes a port that was deleted.
    pub(crate) fn remove(&self, id: &PortId) {
        let mut state = self.lock();
        state.erase(id);
        state.fresh.remove(id);
        state.held_up.end(id);
    }

    /// Notes that the outcome of a write for `node` is unknown.
    pub(crate) fn doubt(&self, node: &str) {
        let mut state = self.lock();
        let now = state.tick();
        state.doubts.insert(node.to_owned(), now);
    }

    /// Notes that a change of a port failed, or its deletion. `shared` tells that another user of the port was faster,
    /// which is no problem unless it goes on.
    pub(crate) fn hold_up(&self, id: &PortId, now: Millis, shared: bool, problem: Problem) {
        let mut state = self.lock();
        // Of one that has turned out to be gone nobody would ever let go.
        if state.ports.contains_key(id) {
            state.held_up.add(id, now, shared, problem);
        }
    }

    /// Notes that a change of a port succeeded.
    pub(crate) fn let_go(&self, id: &PortId) {
        self.lock().held_up.end(id);
    }

    /// Those of `ports` whose last change failed.
    pub(crate) fn held_up(&self, ports: &[OurPort]) -> BTreeMap<PortId, HeldUp> {
        let state = self.lock();
        let held_up = |port: &OurPort| Some((port.id.clone(), state.held_up.get(&port.id)?));
        ports.iter().filter_map(held_up).collect()
    }

    /// Begins a list.
    pub(crate) fn begin(&self) -> Listing {
        Listing(self.lock().tick())
    }

    /// Ports that are known and not in a list, unless they were written since it was begun.
    pub(crate) fn vanished(&self, listing: &Listing, ports: &[OwnedPort]) -> Vec<PortId> {
        self.lock().vanished(listing, ports)
    }

    /// Takes a list over.
    pub(crate) fn end(&self, listing: Listing, owner: &Owner, ports: Vec<OwnedPort>) {
        let mut state = self.lock();
        for id in state.vanished(&listing, &ports) {
            state.erase(&id);
            state.fresh.remove(&id);
            state.held_up.end(&id);
        }
        for port in ports {
            if !state.is_newer(&port.id, &listing) {
                state.write(owner, port);
            }
        }
        state.written.clear();
        state.doubts.retain(|_, since| *since > listing.0);
        state.listed = Some(listing.0);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn vanished(&self, listing: &Listing, ports: &[OwnedPort]) -> Vec<PortId> {
        let listed: BTreeSet<&PortId> = ports.iter().map(|port| &port.id).collect();
        let is_gone = |id: &&PortId| !listed.contains(id) && !self.is_newer(id, listing);
        self.ports.keys().filter(is_gone).cloned().collect()
    }

    /// Whether a port was written since a list was begun.
    fn is_newer(&self, id: &PortId, listing: &Listing) -> bool {
        self.written.get(id).is_some_and(|at| *at > listing.0)
    }

    fn named_for(&self, node: &str) -> impl Iterator<Item = &PortId> {
        let (pool, own) = (ownership::pool_port_name(node), ownership::own_port_name(node));
        let condemned = [ownership::condemned_name(&pool), ownership::condemned_name(&own)];
        let keys = [pool, own, ownership::node_tag(node)].into_iter().chain(condemned);
        keys.filter_map(|key| self.by_key.get(&key)).flatten()
    }

    fn write(&mut self, owner: &Owner, port: OwnedPort) {
        let id = port.id.clone();
        self.erase(&id);
        let Some(ours) = owner.admit(listed(&port)) else { return };
        self.by_key.entry(ours.found_by().to_owned()).or_default().insert(id.clone());
        self.ports.insert(id, Entry { owned: port, ours });
    }

    fn erase(&mut self, id: &PortId) {
        let at = self.tick();
        self.written.insert(id.clone(), at);
        let Some(entry) = self.ports.remove(id) else { return };
        let key = entry.ours.found_by();
        if let Some(ids) = self.by_key.get_mut(key) {
            ids.remove(id);
            if ids.is_empty() {
                self.by_key.remove(key);
            }
        }
    }
}

/// Those of `ports` that are ours, as decisions see them.
pub(crate) fn our_ports(owner: &Owner, ports: &[OwnedPort]) -> Vec<OurPort> {
    ports.iter().filter_map(|port| owner.admit(listed(port))).collect()
}

/// Neutron's port as decisions see it.
fn listed(port: &OwnedPort) -> ListedPort {
    ListedPort {
        id: port.id.clone(),
        project: port.project_id.clone(),
        tags: port.tags.clone(),
        name: port.name.clone(),
        device_owner: port.device_owner.clone(),
        host: port.host.clone().filter(|host| !host.is_empty()),
        host_hidden: port.host.is_none(),
        network: port.network_id.clone(),
        mac: port.mac_address,
        addresses: port.fixed_ips.iter().map(|ip| (ip.subnet_id.clone(), ip.ip_address)).collect(),
        security_groups: port.security_groups.clone(),
        condition: condition(port),
        hybrid: port.vif_details.get("ovs_hybrid_plug").is_some_and(|hybrid| hybrid == true),
    }
}

fn condition(port: &Port) -> PortCondition {
    match port.status {
        _ if port.vif_type.as_deref() == Some("binding_failed") => PortCondition::Broken,
        PortStatus::Error => PortCondition::Broken,
        PortStatus::Active => PortCondition::Active,
        _ if port.vif_type.as_deref() == Some("unbound") && is_to_be_bound(port) => PortCondition::Unbound,
        _ => PortCondition::Down,
    }
}

fn is_to_be_bound(port: &Port) -> bool {
    port.host.as_ref().is_some_and(|host| !host.is_empty())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cloud::{facts::Access, fake::FakeCloud};
    use kuryr_openstack::neutron::port::{PortCreate, PortFilter};

    async fn make(access: &Access, names: &[&str]) -> Vec<OwnedPort> {
        let ports: Vec<_> = names
            .iter()
            .map(|name| PortCreate {
                device_owner: kuryr_api::names::POD_DEVICE_OWNER.into(),
                ..PortCreate::on("n".into(), *name)
            })
            .collect();
        access.client.create_ports(&access.ownership, &ports).await.unwrap()
    }

    async fn list(access: &Access) -> Vec<OwnedPort> {
        access.client.owned_ports(&PortFilter::new(&access.ownership)).await.unwrap()
    }

    fn ids(index: &PortIndex, node: &str) -> Option<Vec<String>> {
        let ports = index.of_node(node, std::iter::empty())?;
        Some(ports.iter().map(|port| port.id.to_string()).collect())
    }

    #[tokio::test]
    async fn what_is_written_while_a_list_runs_wins_over_it() {
        let access = Arc::new(FakeCloud::default()).access();
        let index = PortIndex::new();
        let name = ownership::pool_port_name("w1");
        let first = make(&access, &[&name, &name]).await;
        assert_eq!(ids(&index, "w1"), None, "nothing was listed yet");

        let (listing, listed) = (index.begin(), list(&access).await);
        let later = make(&access, &[&name]).await;
        index.made(&access.owner, later);
        index.remove(&first[0].id);
        index.end(listing, &access.owner, listed);
        assert_eq!(ids(&index, "w1").unwrap(), ["p1", "p2"], "p0 was deleted and p2 made meanwhile");
        assert_eq!(ids(&index, "w2").unwrap(), Vec::<String>::new());
        assert_eq!(index.fresh("w1"), [PortId::from("p2")].into());

        // A later list is the truth.
        let (listing, listed) = (index.begin(), list(&access).await);
        index.end(listing, &access.owner, listed);
        assert_eq!(ids(&index, "w1").unwrap(), ["p0", "p1", "p2"]);
    }

    #[tokio::test]
    async fn a_port_is_unbound_if_it_has_a_host_and_no_driver_has_bound_it() {
        let access = Arc::new(FakeCloud::default()).access();
        let port = make(&access, &["kuryr-pool/w1"]).await.remove(0);
        for (host, vif_type, status, expect) in [
            ("h", "unbound", PortStatus::Down, PortCondition::Unbound),
            ("h", "ovs", PortStatus::Down, PortCondition::Down),
            ("", "unbound", PortStatus::Down, PortCondition::Down),
            ("h", "binding_failed", PortStatus::Down, PortCondition::Broken),
            ("h", "unbound", PortStatus::Active, PortCondition::Active),
        ] {
            let shown = Port {
                host: Some(host.to_owned()),
                vif_type: Some(vif_type.to_owned()),
                status: status.clone(),
                ..Port::clone(&port)
            };
            assert_eq!(condition(&shown), expect, "{host} {vif_type} {status:?}");
        }
    }

    #[tokio::test]
    async fn a_look_at_single_ports_brings_only_what_is_newer() {
        let cloud = Arc::new(FakeCloud::default());
        let access = cloud.access();
        let index = PortIndex::new();
        let name = ownership::pool_port_name("w1");
        let made = make(&access, &[&name, &name]).await;
        let old = made.clone();
        index.made(&access.owner, made);
        {
            let mut ports = crate::cloud::fake::lock(&cloud.ports);
            ports.iter_mut().for_each(|port| port["status"] = "ACTIVE".into());
            ports.iter_mut().for_each(|port| port["revision_number"] = 2.into());
        }
        index.remove(&"p1".into());
        list(&access).await.into_iter().for_each(|port| index.refresh(&access.owner, port));
        old.into_iter().for_each(|port| index.refresh(&access.owner, port));
        assert_eq!(index.owned(&"p0".into()).unwrap().status, PortStatus::Active);
        assert!(index.owned(&"p1".into()).is_none());
    }

    #[tokio::test]
    async fn a_port_that_is_gone_is_not_held_up() {
        let access = Arc::new(FakeCloud::default()).access();
        let index = PortIndex::new();
        index.made(&access.owner, make(&access, &[&ownership::pool_port_name("w1")]).await);
        index.end(index.begin(), &access.owner, list(&access).await);
        let (ports, id) = (index.all().unwrap(), PortId::from("p0"));
        let hold_up =
            || index.hold_up(&id, 0, false, Problem { reason: "Why".into(), message: String::new() });
        hold_up();
        assert_eq!(index.held_up(&ports).len(), 1);
        index.remove(&id);
        // It was asked for again after a change of it had failed.
        hold_up();
        assert_eq!(index.held_up(&ports).len(), 0);
    }

    #[tokio::test]
    async fn after_a_doubt_only_a_list_that_was_begun_later_counts() {
        let access = Arc::new(FakeCloud::default()).access();
        let index = PortIndex::new();
        let before = index.begin();
        index.doubt("w1");
        index.end(before, &access.owner, list(&access).await);
        assert_eq!(ids(&index, "w1"), None);
        assert!(ids(&index, "w2").is_some() && index.all().is_none(), "it is about the ports of one node");
        let after = index.begin();
        index.end(after, &access.owner, list(&access).await);
        assert!(ids(&index, "w1").is_some() && index.all().is_some());
    }
}
