//! Ports of servers whose allowed address pairs are the addresses of pods, as the last look and our own changes since
//! tell them.
//!
//! Nobody looks before some node asks for it. A look is one or two lists for all nodes together: whatever has the address
//! of a node, and ports that records name; of the whole project only while a port of a node that is gone has to be taken
//! back, since nobody knows then which server had it.
//!
//! As in [`ports`](super::ports), what was written while a look ran wins over it. After a change whose outcome nobody
//! knows nothing is known of that port (planning gets `None`) until it was read again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use kuryr_api::kuryrnode::Problem;
use kuryr_openstack::{
    Client, Error,
    neutron::{AddressPair, Port, PortStatus},
};
use kuryr_planning::{
    ownership::OurPort,
    pool::{
        Millis, Servers,
        server::{Limit, Pair, ServerPort, pairs_of},
        trunk::{self, Candidate},
    },
};
use kuryr_types::{PortId, ProjectId};

use super::{
    hold_ups::HoldUps,
    trunks::{Asked, candidate},
};

/// Ports of servers.
#[derive(Debug, Default)]
pub(crate) struct ServerIndex {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What the last look found; `None` before the first.
    looked: Option<Looked>,
    /// Counts events.
    clock: u64,
    /// Ports that were written or read by themselves since a look began.
    written: BTreeMap<PortId, u64>,
    /// Ports of which nothing is known, since when.
    doubted: BTreeMap<PortId, u64>,
    /// Ports whose last change failed, and how often in a row.
    held_up: HoldUps<PortId>,
    /// How many pairs Neutron lets a port have, where that was hit.
    limits: BTreeMap<PortId, Limit>,
}

/// What is looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Nodes.
    pub(crate) asked: BTreeSet<Asked>,
    /// Ports that records name.
    pub(crate) ids: BTreeSet<PortId>,
    /// All ports of the project.
    pub(crate) whole: bool,
}

#[derive(Debug, Default)]
struct Looked {
    wanted: Wanted,
    ports: BTreeMap<PortId, Known>,
    /// Which ports have a pair: a node is looked at with each of its pods, and a cluster has thousands of pairs.
    with: BTreeMap<Pair, BTreeSet<PortId>>,
}

/// A port, and what it is for planning.
#[derive(Debug)]
struct Known {
    port: Port,
    candidate: Candidate,
    /// Without the bound that was hit.
    seen: ServerPort,
}

/// A look that was begun.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look(u64);

/// What a look found.
#[derive(Debug)]
pub(crate) struct Found {
    looked: Looked,
}

impl ServerIndex {
    /// What is known for a node, whose record names the port `recorded` and whose ports are `ours`; `None` while it is not
    /// known.
    pub(crate) fn of_node(
        &self,
        asked: &Asked,
        recorded: Option<&PortId>,
        project: &ProjectId,
        ours: &[OurPort],
    ) -> Option<Servers> {
        let state = self.lock();
        let looked = state.looked.as_ref().filter(|looked| looked.wanted.asked.contains(asked))?;
        let is_known = |id: &PortId| looked.ports.contains_key(id) || looked.wanted.ids.contains(id);
        recorded.is_none_or(is_known).then_some(())?;
        let node = looked.node(asked, project).map(|known| known.port.id.clone());
        let named = node.as_ref().ok().into_iter().chain(recorded);
        let ports = state.ports(looked, project, ours, named);
        state.servers(node, ports)
    }

    /// What is known for ports that belong to no node.
    pub(crate) fn of_ports(&self, project: &ProjectId, ours: &[OurPort]) -> Option<Servers> {
        let state = self.lock();
        let looked = state.looked.as_ref().filter(|looked| looked.wanted.whole)?;
        let ports = state.ports(looked, project, ours, []);
        state.servers(Err(trunk::Sight::NoPort), ports)
    }

    /// The port, as calls need it.
    pub(crate) fn get(&self, id: &PortId) -> Option<Port> {
        Some(self.lock().looked.as_ref()?.ports.get(id)?.port.clone())
    }

    /// Begins a look, or a reading of one port.
    pub(crate) fn begin(&self) -> Look {
        Look(self.lock().tick())
    }

    /// Takes a look over.
    pub(crate) fn end(&self, look: Look, found: Found) {
        let mut state = self.lock();
        let mut looked = found.looked;
        let written = std::mem::take(&mut state.written);
        for id in written.iter().filter(|(_, at)| **at > look.0).map(|(id, _)| id) {
            match state.looked.as_ref().and_then(|before| before.ports.get(id)) {
                Some(known) => looked.put(known.port.clone()),
                None => looked.take(id),
            }
        }
        state.doubted.retain(|_, since| *since > look.0);
        let is_there = |id: &PortId| looked.ports.contains_key(id);
        state.held_up.retain(is_there);
        state.limits.retain(|id, _| is_there(id));
        state.looked = Some(looked);
    }

    /// Notes a port as Neutron answered to a change that began with `look`.
    pub(crate) fn changed(&self, look: Look, port: Port) {
        let mut state = self.lock();
        state.held_up.end(&port.id);
        // More than the bound is proof that it was raised.
        let count = port.allowed_address_pairs.len();
        state.limits.retain(|id, limit| *id != port.id || count <= limit.pairs);
        drop(state);
        self.insert(look, port);
    }

    /// Notes a port as Neutron answered to a reading that began with `look`.
    pub(crate) fn insert(&self, look: Look, port: Port) {
        let mut state = self.lock();
        if state.written.get(&port.id).is_some_and(|at| *at > look.0) {
            return;
        }
        let now = state.tick();
        state.written.insert(port.id.clone(), now);
        if state.doubted.get(&port.id).is_some_and(|since| *since < look.0) {
            state.doubted.remove(&port.id);
        }
        if let Some(looked) = &mut state.looked {
            looked.put(port);
        }
    }

    /// Notes that a port is gone.
    pub(crate) fn remove(&self, id: &PortId) {
        let mut state = self.lock();
        let now = state.tick();
        state.written.insert(id.clone(), now);
        state.doubted.remove(id);
        if let Some(looked) = &mut state.looked {
            looked.take(id);
        }
    }

    /// Notes that the outcome of a change is unknown.
    pub(crate) fn doubt(&self, id: &PortId) {
        let mut state = self.lock();
        let now = state.tick();
        state.doubted.insert(id.clone(), now);
    }

    /// Notes that Neutron lets a port have no more pairs than `limit`, or than it has if Neutron does not say.
    pub(crate) fn bound(&self, id: &PortId, limit: Option<usize>, holds_until: Millis) {
        let mut state = self.lock();
        let count = |known: &Known| known.port.allowed_address_pairs.len();
        let present = state.looked.as_ref().and_then(|looked| looked.ports.get(id)).map(count);
        let pairs = limit.or(present).unwrap_or_default();
        state.limits.insert(id.clone(), Limit { pairs, holds_until });
    }

    /// Notes that a change failed. `shared` tells that another user of the port was faster, which is no problem unless it
    /// goes on.
    pub(crate) fn hold_up(&self, id: &PortId, now: Millis, shared: bool, problem: Problem) {
        self.lock().held_up.add(id, now, shared, problem);
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

    /// Ports of the project that are `named`, or have pairs of `ours`.
    fn ports<'a>(
        &self,
        looked: &'a Looked,
        project: &ProjectId,
        ours: &[OurPort],
        named: impl IntoIterator<Item = &'a PortId>,
    ) -> BTreeMap<PortId, ServerPort> {
        let pairs = ours.iter().filter(|port| port.is_for_pairs()).flat_map(pairs_of);
        let with_ours = pairs.filter_map(|pair| looked.with.get(&pair)).flatten();
        let wanted: BTreeSet<&PortId> = with_ours.chain(named).collect();
        let known = wanted.into_iter().filter_map(|id| looked.ports.get(id));
        known
            .filter(|known| known.port.project_id == *project)
            .map(|known| {
                let limit = self.limits.get(&known.port.id).copied();
                (known.port.id.clone(), ServerPort { limit, ..known.seen.clone() })
            })
            .collect()
    }

    fn servers(
        &self,
        node: Result<PortId, trunk::Sight>,
        ports: BTreeMap<PortId, ServerPort>,
    ) -> Option<Servers> {
        if ports.keys().any(|id| self.doubted.contains_key(id)) {
            return None;
        }
        let held_up = self.held_up.of(|id| ports.contains_key(id));
        Some(Servers { node, ports, held_up })
    }
}

impl Looked {
    /// The port of a node.
    fn node(&self, asked: &Asked, project: &ProjectId) -> Result<&Known, trunk::Sight> {
        let candidates = self.ports.values().map(|known| &known.candidate);
        let found = trunk::find(&asked.addresses, asked.mac, project, candidates)?;
        self.ports.get(&found.id).ok_or(trunk::Sight::NoPort)
    }

    /// Takes a port over as it is now.
    fn put(&mut self, port: Port) {
        self.take(&port.id);
        let known = Known { candidate: candidate(&port), seen: seen(&port), port };
        for pair in &known.seen.pairs {
            self.with.entry(*pair).or_default().insert(known.port.id.clone());
        }
        self.ports.insert(known.port.id.clone(), known);
    }

    /// Forgets a port.
    fn take(&mut self, id: &PortId) {
        for pair in self.ports.remove(id).into_iter().flat_map(|known| known.seen.pairs) {
            if let Some(ports) = self.with.get_mut(&pair) {
                ports.remove(id);
                if ports.is_empty() {
                    self.with.remove(&pair);
                }
            }
        }
    }
}

fn seen(port: &Port) -> ServerPort {
    let pairs: BTreeSet<Pair> =
        port.allowed_address_pairs.iter().filter_map(|pair| single(pair, port)).collect();
    ServerPort {
        network: port.network_id.clone(),
        enabled: port.admin_state_up,
        active: works(port),
        prefixes: port.allowed_address_pairs.len() - pairs.len(),
        pairs,
        limit: None,
    }
}

fn works(port: &Port) -> bool {
    port.admin_state_up && port.status == PortStatus::Active
}

/// A pair of one address, with the port's own hardware address if it has none.
fn single(pair: &AddressPair, port: &Port) -> Option<Pair> {
    let prefix = pair.ip_address;
    let mac = pair.mac_address.unwrap_or(port.mac_address);
    (prefix.prefix_len() == prefix.max_prefix_len()).then(|| Pair { address: prefix.addr(), mac })
}

impl Found {
    /// Whether there is no port of a server by what Neutron lists.
    pub(crate) fn is_empty(&self) -> bool {
        self.looked.ports.is_empty()
    }

    /// Whether every node that was looked for, and is there, has a port that works.
    pub(crate) fn is_complete(&self, project: &ProjectId) -> bool {
        let has_one = |asked: &Asked| self.looked.node(asked, project).is_ok_and(|known| known.seen.active);
        self.looked.wanted.asked.iter().all(|asked| asked.addresses.is_empty() || has_one(asked))
    }
}

/// Looks at ports of servers.
///
/// # Errors
///
/// What the cloud answers.
pub(crate) async fn look(client: &Client, project: &ProjectId, wanted: Wanted) -> Result<Found, Error> {
    let addresses: Vec<_> = wanted.asked.iter().flat_map(|asked| asked.addresses.clone()).collect();
    let mut found = client.ports_with_addresses(&addresses).await?;
    let missed = |id: &&PortId| found.iter().all(|port| port.id != **id);
    let missed: Vec<PortId> = wanted.ids.iter().filter(missed).cloned().collect();
    found.extend(client.ports_by_ids(&missed).await?);
    if wanted.whole {
        found.extend(client.ports_of_project(project).await?);
    }
    let mut looked = Looked { wanted, ..Looked::default() };
    found.into_iter().for_each(|port| looked.put(port));
    Ok(Found { looked })
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, sync::Arc};

    use kuryr_api::names::PAIR_DEVICE_OWNER;
    use kuryr_planning::{
        ownership::{ListedPort, Owner, PortCondition},
        pool::trunk::Sight,
    };
    use kuryr_types::MacAddr;
    use serde_json::json;

    use super::*;
    use crate::cloud::fake::{self, FakeCloud};

    fn asked(last: u8) -> Asked {
        let address = IpAddr::from([192, 0, 2, last]);
        Asked { addresses: vec![address], mac: Some(MacAddr([0xfa, 0x16, 0x3e, 0, 0, last])) }
    }

    /// A cloud with a server 192.0.2.7 that has a pair of somebody's and a prefix, and a stranger's 192.0.2.9.
    fn cloud() -> Arc<FakeCloud> {
        let cloud = Arc::new(FakeCloud::default());
        let mut server = fake::port("server", fake::PROJECT, "192.0.2.7");
        server["allowed_address_pairs"] = json!([
            {"ip_address": "10.0.0.5", "mac_address": "fa:16:3e:00:00:55"}, {"ip_address": "10.198.1.0/24"},
        ]);
        *fake::lock(&cloud.ports) = vec![server, fake::port("strange", "other", "192.0.2.9")];
        cloud
    }

    async fn look_at(cloud: &Arc<FakeCloud>, asked: &[Asked], whole: bool) -> Found {
        let wanted = Wanted { asked: asked.iter().cloned().collect(), whole, ..Wanted::default() };
        look(&cloud.access().client, &fake::PROJECT.into(), wanted).await.unwrap()
    }

    fn known(index: &ServerIndex, asked: &Asked) -> Option<Servers> {
        index.of_node(asked, None, &fake::PROJECT.into(), &[])
    }

    fn given(pairs: usize) -> Port {
        let mut server = fake::port("server", fake::PROJECT, "192.0.2.7");
        let pair = |last| json!({"ip_address": format!("10.0.0.{last}"), "mac_address": "fa:16:3e:00:00:55"});
        server["allowed_address_pairs"] = (1..=pairs).map(pair).collect();
        serde_json::from_value(server).unwrap()
    }

    /// A port for pairs, as the first of [`given`].
    fn our_port(address: [u8; 4]) -> OurPort {
        let owner = Owner::new(fake::PROJECT.into(), vec!["tag".to_owned()]);
        let port = owner.admit(ListedPort {
            id: "ours".into(),
            project: fake::PROJECT.into(),
            tags: owner.tags().to_vec(),
            name: "kuryr-pool/w1".to_owned(),
            device_owner: PAIR_DEVICE_OWNER.to_owned(),
            host: None,
            host_hidden: false,
            network: "n".into(),
            mac: MacAddr([0xfa, 0x16, 0x3e, 0, 0, 0x55]),
            addresses: vec![("s".into(), address.into())],
            security_groups: vec![],
            condition: PortCondition::Down,
            hybrid: false,
        });
        port.unwrap()
    }

    fn count(index: &ServerIndex) -> Option<usize> {
        Some(known(index, &asked(7))?.ports["server"].pairs.len())
    }

    #[tokio::test]
    async fn each_node_is_told_which_port_it_has() {
        let (cloud, index) = (cloud(), ServerIndex::default());
        assert_eq!(known(&index, &asked(7)), None, "nobody has looked");
        let begun = index.begin();
        let found = look_at(&cloud, &[asked(7), asked(8), asked(9)], false).await;
        assert!(!found.is_complete(&fake::PROJECT.into()));
        index.end(begun, found);
        let servers = known(&index, &asked(7)).unwrap();
        assert_eq!(servers.node, Ok("server".into()));
        let port = &servers.ports["server"];
        assert_eq!((port.active, port.pairs.len(), port.prefixes, port.limit), (true, 1, 1, None));
        let node = |asked| known(&index, &asked).map(|servers| servers.node);
        assert_eq!(node(asked(8)), Some(Err(Sight::NoPort)));
        let strange = known(&index, &asked(9)).unwrap();
        assert_eq!(strange.node, Err(Sight::OtherProject("strange".into(), "other".into())));
        assert!(strange.ports.is_empty(), "a stranger's port is not changed");
        assert_eq!(node(asked(10)), None, "nobody has asked for it");
        let recorded = index.of_node(&asked(7), Some(&"gone".into()), &fake::PROJECT.into(), &[]);
        assert_eq!(recorded, None, "nobody has looked for the port that the record names");
        assert_eq!(index.of_ports(&fake::PROJECT.into(), &[]), None);
        index.end(index.begin(), look_at(&cloud, &[asked(7)], true).await);
        assert!(index.of_ports(&fake::PROJECT.into(), &[]).is_some());
    }

    #[tokio::test]
    async fn what_is_written_while_a_look_runs_wins_over_it() {
        let (cloud, index) = (cloud(), ServerIndex::default());
        index.end(index.begin(), look_at(&cloud, &[asked(7)], false).await);
        let (begun, found) = (index.begin(), look_at(&cloud, &[asked(7)], false).await);
        index.changed(index.begin(), given(3));
        index.end(begun, found);
        assert_eq!(count(&index), Some(3));
        index.doubt(&"server".into());
        assert_eq!(count(&index), None);
        index.insert(begun, given(4));
        assert_eq!(count(&index), None, "it was read before");
        index.insert(index.begin(), given(5));
        assert_eq!(count(&index), Some(5));
        index.remove(&"server".into());
        assert_eq!(known(&index, &asked(7)).unwrap().node, Err(Sight::NoPort));
    }

    #[tokio::test]
    async fn a_port_is_known_by_the_pairs_of_ours_that_it_has_now() {
        let (cloud, index) = (cloud(), ServerIndex::default());
        index.end(index.begin(), look_at(&cloud, &[asked(7), asked(8)], false).await);
        let ours = [our_port([10, 0, 0, 5])];
        // Of a node that has none itself.
        let with = |ours: &[OurPort]| -> Vec<String> {
            let servers = index.of_node(&asked(8), None, &fake::PROJECT.into(), ours).unwrap();
            servers.ports.keys().map(ToString::to_string).collect()
        };
        assert_eq!(with(&ours), ["server"]);
        assert_eq!(with(&[our_port([10, 0, 0, 6])]), [""; 0], "another address");
        index.changed(index.begin(), given(4));
        assert_eq!(with(&ours), [""; 0], "it was taken off");
        index.changed(index.begin(), given(5));
        index.insert(index.begin(), Port { id: "moved".into(), ..given(9) });
        index.insert(index.begin(), Port { id: "strange".into(), project_id: "other".into(), ..given(9) });
        assert_eq!(with(&ours), ["moved", "server"]);
        index.remove(&"server".into());
        assert_eq!(with(&ours), ["moved"]);
        let (begun, found) = (index.begin(), look_at(&cloud, &[asked(7), asked(8)], false).await);
        index.remove(&"moved".into());
        index.end(begun, found);
        assert_eq!(with(&ours), ["server"], "as the look found it");
    }

    #[tokio::test]
    async fn a_bound_is_learnt_and_unlearnt() {
        let (cloud, index) = (cloud(), ServerIndex::default());
        index.end(index.begin(), look_at(&cloud, &[asked(7)], false).await);
        let limit = |index: &ServerIndex| known(index, &asked(7)).unwrap().ports["server"].limit;
        index.bound(&"server".into(), None, 50);
        assert_eq!(limit(&index), Some(Limit { pairs: 2, holds_until: 50 }), "as many as it has");
        index.bound(&"server".into(), Some(10), 60);
        index.changed(index.begin(), given(10));
        assert_eq!(limit(&index), Some(Limit { pairs: 10, holds_until: 60 }));
        index.changed(index.begin(), given(11));
        assert_eq!(limit(&index), None);
    }

    #[tokio::test]
    async fn others_are_told_late() {
        let (cloud, index) = (cloud(), ServerIndex::default());
        index.end(index.begin(), look_at(&cloud, &[asked(7)], false).await);
        let problem = || Problem { reason: "Why".into(), message: String::new() };
        let mut waits = Vec::new();
        for _ in 0..9 {
            index.hold_up(&"server".into(), 1000, true, problem());
            let held_up = known(&index, &asked(7)).unwrap().held_up["server"].clone();
            waits.push((held_up.until - 1000, held_up.problem.is_some()));
        }
        assert_eq!(waits[..4], [(200, false), (400, false), (800, true), (1600, true)]);
        assert_eq!(waits[8], (20_000, true));
        index.changed(index.begin(), given(1));
        assert!(known(&index, &asked(7)).unwrap().held_up.is_empty());
    }
}
