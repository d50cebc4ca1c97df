//! Ports of a node that is a server of the cloud, by the server's own port: their addresses are its allowed address pairs.
//!
//! 1. A port is made unbound, its pairs are added to the server's port in a batch with others', and it is offered when
//!    they are there. Nothing becomes ACTIVE: nobody plugs it. On the way there it counts as free.
//! 2. Pairs are taken off when their port is doomed and returned, or condemned; then it rests, then it is deleted. Of
//!    a port that somebody deleted, they are taken off by what the record says of it.
//! 3. If somebody takes off a pair of a published port, it is added again.
//! 4. If Neutron lets the server's port have no more pairs, no more ports are made than fit, and that is told with the
//!    figures. What was made beyond it is condemned.
//! 5. Whatever another user of the server's port does meanwhile makes Neutron refuse the change as a whole. It is planned
//!    anew from what is there then, after a wait that is one for the port.

use std::collections::BTreeMap;

use kuryr_api::kuryrnode::{Mode, PortEntry};
use kuryr_types::PortId;

use super::{
    desired::Draft,
    inputs::DefaultClass,
    nested::Readiness,
    server::{self, Pair, ServerPort, pairs_of, pairs_of_entry},
    step::CloudStep,
    way::Way,
};
use crate::ownership::{OurPort, Purpose};

/// Ports of one request. The list of pairs is written as a whole anyway.
const AT_ONCE: usize = 50;

/// What is to be done about pairs, collected while ports are judged.
#[derive(Debug, Default)]
pub(super) struct PairWork {
    /// To add to the node's port.
    add: BTreeMap<PortId, Vec<Pair>>,
    /// To take off, by the server's port.
    remove: BTreeMap<PortId, BTreeMap<PortId, Vec<Pair>>>,
}

impl PairWork {
    /// Tells whether pairs still have to be taken off.
    pub(super) fn removes(&self) -> bool {
        !self.remove.is_empty()
    }
}

impl Draft<'_> {
    /// Tells what is wrong with the node's port.
    pub(super) fn tell_server(&mut self) {
        let (Way::Server(_), Some((id, port))) = (self.way, self.server()) else { return };
        let network = self.inputs.cloud.default.as_ref().map(|class| &class.network);
        self.tell(port.problem(id, network));
        let held_up = self.inputs.cloud.servers.as_ref().and_then(|servers| servers.held_up.get(id));
        self.tell(held_up.and_then(|held_up| held_up.problem.clone()));
    }

    /// Brings a port of this node a step closer to being offered.
    pub(super) fn make_paired(&mut self, port: &OurPort) -> Readiness {
        let Some((_, server)) = self.server() else { return Readiness::Soon };
        let pairs = pairs_of(port);
        let missing = missing(&pairs, server);
        match self.pair_room(server, pairs.len()) {
            _ if port.network != server.network => Readiness::Bad,
            _ if missing.is_empty() => Readiness::Ready,
            Some(room) if room < missing.len() => Readiness::Bad,
            _ => {
                self.pair_work.add.insert(port.id.clone(), missing);
                Readiness::Soon
            }
        }
    }

    /// Adds pairs of a published port again that somebody took off.
    pub(super) fn repair_pairs(&mut self, port: &OurPort) {
        let (Way::Server(_), Some((_, server))) = (self.way, self.server()) else { return };
        let missing = missing(&pairs_of(port), server);
        if port.is_for_pairs() && !missing.is_empty() {
            self.pair_work.add.insert(port.id.clone(), missing);
        }
    }

    /// Takes the pairs of a port of ours off whatever server's port has them; tells whether they are off.
    pub(super) fn unpair(&mut self, port: &OurPort) -> bool {
        self.take_off(&port.id, &pairs_of(port))
    }

    /// The same for a port that does not exist any more.
    pub(super) fn unpair_entry(&mut self, id: &PortId, entry: &PortEntry) -> bool {
        self.record.spec.mode != Mode::NestedMacvlan || self.take_off(id, &pairs_of_entry(entry))
    }

    fn take_off(&mut self, id: &PortId, pairs: &[Pair]) -> bool {
        let Some(servers) = &self.inputs.cloud.servers else { return false };
        let mut is_off = true;
        for (server, found) in servers.with_any(pairs) {
            self.pair_work.remove.entry(server.clone()).or_default().insert(id.clone(), found);
            is_off = false;
        }
        is_off
    }

    /// For how many more ports of `class` the node's port has room; `making` are under way already.
    pub(super) fn server_room(&mut self, making: usize, class: &DefaultClass) -> usize {
        let Some((id, port)) = self.server() else { return 0 };
        if port.network != class.network {
            return 0;
        }
        let each = class.entry.subnets.len().max(1);
        let Some(room) = self.pair_room(port, each) else { return usize::MAX };
        let room = (room / each).saturating_sub(making);
        if room == 0 {
            self.tell_exhausted(id, port);
        }
        room
    }

    /// Tells that no more pairs fit, and looks again when the bound is not believed any more: somebody may raise it, and
    /// nobody tells of that.
    fn tell_exhausted(&mut self, id: &PortId, port: &ServerPort) {
        let of_ours = |port: &&OurPort| port.purpose() == Purpose::Pool && port.is_for_pairs();
        let ours: Vec<Pair> = self.ports.values().copied().filter(of_ours).flat_map(pairs_of).collect();
        let ours = ours.iter().filter(|pair| port.pairs.contains(pair)).count();
        let limit = port.limit.map_or(0, |limit| limit.pairs);
        self.wake(port.limit.map(|limit| limit.holds_until).filter(|until| self.inputs.now < *until));
        self.tell(Some(server::exhausted(id, port, limit, ours)));
    }

    /// How many more pairs fit beside those that are to be added; `None` if no bound is known.
    fn pair_room(&self, port: &ServerPort, each: usize) -> Option<usize> {
        let promised: usize = self.pair_work.add.values().map(Vec::len).sum();
        Some(port.room(each, self.inputs.now)?.saturating_sub(promised))
    }

    /// The steps for what was collected: pairs are added before others are taken off, and those are not taken off
    /// while `urgent` work waits.
    pub(super) fn change_pairs(&mut self, urgent: bool) {
        if let Some(step) = self.add_pairs() {
            // Before whatever else takes its time.
            self.out.cloud.insert(0, step);
        }
        if !urgent && self.out.cloud.iter().all(|step| !step.provides()) {
            for (server, ports) in std::mem::take(&mut self.pair_work.remove) {
                if self.is_at_rest(&server) {
                    let ports = ports.into_iter().take(AT_ONCE).collect();
                    self.out.cloud.push(CloudStep::RemovePairs { server, ports });
                }
            }
        }
    }

    fn add_pairs(&mut self) -> Option<CloudStep> {
        let (id, server) = self.server()?;
        if self.pair_work.add.is_empty() || !self.is_at_rest(id) {
            return None;
        }
        // Ports that pods have are first.
        let named = |id: &PortId| !self.record.spec.ports.contains_key(id);
        let mut ports: Vec<_> = std::mem::take(&mut self.pair_work.add).into_iter().collect();
        ports.sort_by_key(|(id, _)| (named(id), id.clone()));
        ports.truncate(AT_ONCE);
        // What is there may be more than what fits, if somebody took pairs of ours off to put others there.
        let each = ports.iter().map(|(_, pairs)| pairs.len()).max().unwrap_or_default();
        let mut room = server.room(each, self.inputs.now).unwrap_or(usize::MAX);
        let wanted = ports.len();
        ports.retain(|(_, pairs)| {
            let fits = pairs.len() <= room;
            room -= if fits { pairs.len() } else { 0 };
            fits
        });
        if ports.len() < wanted {
            self.tell_exhausted(id, server);
        }
        (!ports.is_empty()).then(|| CloudStep::AddPairs { server: id.clone(), ports })
    }

    /// Tells whether a server's port may be changed now, or looks again when it may.
    fn is_at_rest(&mut self, server: &PortId) -> bool {
        let held_up = self.inputs.cloud.servers.as_ref().and_then(|servers| servers.held_up.get(server));
        let until = held_up.map(|held_up| held_up.until).filter(|until| self.inputs.now < *until);
        self.wake(until);
        until.is_none()
    }
}

fn missing(pairs: &[Pair], server: &ServerPort) -> Vec<Pair> {
    pairs.iter().filter(|pair| !server.pairs.contains(pair)).copied().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use kuryr_api::{
        kuryrnode::{KuryrNodeSpec, KuryrNodeStatus, Mode, NodeUplink, PortEntry},
        names::PAIR_DEVICE_OWNER,
    };
    use kuryr_types::{Generation, MacAddr};

    use super::super::{
        Cloud, Generations, Inputs, Memory, NodeFacts, Plan, Record, Servers, SpecStep, fixtures,
        inputs::Millis, plan, server::Limit, trunk::HeldUp, trunk::Sight,
    };
    use super::*;
    use crate::ownership::{ListedPort, pool_port_name};

    /// A node on the server's port `server`, looked at once and again.
    struct Node {
        now: Millis,
        spec: KuryrNodeSpec,
        status: KuryrNodeStatus,
        cloud: Cloud,
        memory: Memory,
        generations: Generations,
    }

    impl Node {
        fn new() -> Self {
            let uplink = NodeUplink { name: "eth0".into(), mac: MacAddr([2, 0, 0, 0, 0, 9]) };
            let spec = KuryrNodeSpec {
                node_uid: "u".into(),
                checkpoint: Some("c".into()),
                epoch: 1,
                mode: Mode::NestedMacvlan,
                server_port: Some("server".into()),
                ..KuryrNodeSpec::default()
            };
            let port = ServerPort {
                network: fixtures::NETWORK.into(),
                enabled: true,
                active: true,
                pairs: BTreeSet::new(),
                prefixes: 1,
                limit: None,
            };
            let ports = [("server".into(), port)].into();
            let cloud = Cloud {
                ports: Some(vec![]),
                default: Some(fixtures::default_class(fixtures::GROUP)),
                servers: Some(Servers { node: Ok("server".into()), ports, held_up: BTreeMap::new() }),
                ..Cloud::default()
            };
            let status = KuryrNodeStatus { host: None, uplink: Some(uplink), ..fixtures::status("u", "c") };
            let (memory, generations) = (Memory::default(), Generations::of_epoch(1));
            Self { now: 1000, spec, status, cloud, memory, generations }
        }

        /// A port of the pool that we made just now; `paired` tells whether its pairs are there.
        fn port(&mut self, id: &str, paired: bool) {
            let last = u8::try_from(self.cloud.fresh.len()).unwrap() + 1;
            let listed = fixtures::listed(id, &pool_port_name("w1"), None, [10, 0, 0, last], fixtures::GROUP);
            let device_owner = PAIR_DEVICE_OWNER.to_owned();
            let port = fixtures::owner().admit(ListedPort { device_owner, ..listed }).unwrap();
            if paired {
                self.server().pairs.extend(pairs_of(&port));
            }
            self.cloud.fresh.insert(id.into());
            self.cloud.ports.get_or_insert_default().push(port);
        }

        /// An entry of such a port.
        fn entry(&mut self, id: &str, paired: bool, claimed: bool, doomed: bool) {
            self.port(id, paired);
            let port = self.cloud.ports.iter().flatten().last().unwrap();
            let generation = Generation { epoch: 1, counter: 1000 + u64::from(port.mac.0[5]) };
            let mut entry = fixtures::entry(generation);
            entry.mac = port.mac;
            entry.addresses[0].address = port.ips().next().unwrap();
            let entry = PortEntry { active: true, withdrawn: doomed, doomed, ..entry };
            self.spec.ports.insert(id.into(), entry);
            if claimed {
                self.status.claims.insert(id.into(), fixtures::claim("pod", generation));
            } else if doomed {
                self.status.returned.insert(id.into(), generation);
            }
        }

        fn server(&mut self) -> &mut ServerPort {
            self.cloud.servers.as_mut().unwrap().ports.get_mut("server").unwrap()
        }

        fn plan(&mut self) -> Plan {
            let facts = NodeFacts { label: Some("nested-macvlan".into()), ..NodeFacts::default() };
            let record = Record { spec: &self.spec, status: Some(&self.status) };
            let inputs = Inputs { now: self.now, facts: &facts, ..fixtures::look(record, &self.cloud) };
            plan(&inputs, &mut self.memory, &mut self.generations)
        }

        /// What is done, in one word for each step.
        fn done(&mut self) -> Vec<String> {
            let ids = |ports: &[(PortId, Vec<Pair>)]| {
                ports.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>().join(" ")
            };
            let word = |step: &CloudStep| match step {
                CloudStep::CreatePorts { count, request, .. } => {
                    format!("make {count} {} {:?}", request.device_owner, request.host)
                }
                CloudStep::AddPairs { server, ports } => format!("add to {server}: {}", ids(ports)),
                CloudStep::RemovePairs { server, ports } => format!("take off {server}: {}", ids(ports)),
                CloudStep::Condemn { id } => format!("condemn {id}"),
                CloudStep::Delete { id } => format!("delete {id}"),
                other => format!("{other:?}"),
            };
            let plan = self.plan();
            let offers = plan.spec.iter().filter_map(|step| match step {
                SpecStep::Offer { id, entry, .. } => Some(format!("offer {id} {}", entry.active)),
                SpecStep::Forget { id, .. } => Some(format!("forget {id}")),
                _ => None,
            });
            plan.cloud.iter().map(word).chain(offers).collect()
        }

        fn told(&mut self) -> Vec<String> {
            let steps = self.plan().spec;
            let problems = steps.into_iter().find_map(|step| match step {
                SpecStep::SetProblems(problems) => Some(problems),
                _ => None,
            });
            problems.into_iter().flatten().map(|problem| problem.reason).collect()
        }
    }

    #[test]
    fn a_port_is_made_unbound_paired_and_offered() {
        let mut node = Node::new();
        assert_eq!(node.done(), ["make 3 kuryr:pair None"]);
        for id in ["a", "b", "c"] {
            node.port(id, id == "c");
        }
        assert_eq!(node.done(), ["add to server: a b", "offer c true"]);
        node.server().pairs.clear();
        node.cloud.servers.as_mut().unwrap().held_up =
            [("server".into(), HeldUp { until: 1200, problem: None })].into();
        assert_eq!(node.done(), Vec::<String>::new(), "others are at it");
        assert_eq!(node.plan().wake_at, Some(1200));
        node.now = 1200;
        assert_eq!(node.done(), ["add to server: a b c"]);
        // Before anybody has looked nothing is decided.
        node.cloud.servers = None;
        assert_eq!(node.done(), Vec::<String>::new());
    }

    #[test]
    fn what_a_pod_has_is_repaired_first_and_what_is_doomed_is_taken_off_before_it_is_deleted() {
        let mut node = Node::new();
        for id in ["c", "d", "e"] {
            node.entry(id, true, false, false);
        }
        node.entry("pods", false, true, false);
        node.entry("old", true, false, true);
        assert_eq!(node.done(), ["add to server: pods"], "nothing is taken off meanwhile");
        let pairs = pairs_of_entry(&node.spec.ports["pods"]);
        node.server().pairs.extend(pairs);
        assert_eq!(node.done(), ["take off server: old"]);
        let pairs = pairs_of_entry(&node.spec.ports["old"]);
        node.server().pairs.retain(|pair| !pairs.contains(pair));
        assert_eq!(node.done(), Vec::<String>::new(), "the address rests");
        node.now += fixtures::limits().cool_down;
        assert_eq!(node.done(), ["delete old"]);
        // Somebody else deleted it: what is left of it goes by what the record says.
        node.server().pairs.extend(pairs);
        node.cloud.ports.as_mut().unwrap().retain(|port| port.id.as_str() != "old");
        assert_eq!(node.done(), ["take off server: old"]);
        let pairs = pairs_of_entry(&node.spec.ports["old"]);
        node.server().pairs.retain(|pair| !pairs.contains(pair));
        assert_eq!(node.done(), ["forget old"]);
    }

    #[test]
    fn no_more_ports_are_made_than_neutron_lets_the_server_have_pairs() {
        let check = |limit: usize, ports: usize, expect: &[&str], told: &[&str]| {
            let mut node = Node::new();
            node.entry("pods", true, true, false);
            node.server().limit = Some(Limit { pairs: limit, holds_until: 2000 });
            (0..ports).for_each(|number| node.port(&format!("p{number}"), false));
            assert_eq!(node.done(), expect, "{limit} {ports}");
            assert_eq!(node.told(), told, "{limit} {ports}");
        };
        // One pair is the pod's, one a prefix of somebody's.
        check(10, 0, &["make 3 kuryr:pair None"], &[]);
        check(4, 0, &["make 2 kuryr:pair None"], &[]);
        check(2, 0, &[], &["AddressPairsExhausted"]);
        check(3, 3, &["add to server: p0", "condemn p1", "condemn p2"], &["AddressPairsExhausted"]);
        // Somebody put others where a pod's pair was: nothing is to be made, and it is told and looked at all the same.
        let mut node = Node::new();
        for id in ["c", "d", "e"] {
            node.entry(id, true, false, false);
        }
        node.entry("pods", false, true, false);
        node.server().limit = Some(Limit { pairs: 4, holds_until: 2000 });
        assert_eq!((node.done(), node.told()), (vec![], vec!["AddressPairsExhausted".to_owned()]));
        assert_eq!(node.plan().wake_at, Some(2000));
        node.now = 2000;
        assert_eq!(node.done(), ["add to server: pods"], "perhaps somebody raised it");
        let mut node = Node::new();
        node.server().limit = Some(Limit { pairs: 1, holds_until: 2000 });
        assert_eq!((node.done(), node.plan().wake_at), (vec![], Some(2000)));
        node.now = 2000;
        assert_eq!(node.done(), ["make 1 kuryr:pair None"], "perhaps somebody raised it");
    }

    #[test]
    fn what_keeps_a_servers_port_from_carrying_pods_is_told() {
        let mut node = Node::new();
        node.server().network = "another".into();
        node.port("a", false);
        assert_eq!((node.told(), node.done()), (vec!["NetworkDiffers".to_owned()], vec!["condemn a".into()]));
        let mut node = Node::new();
        node.server().active = false;
        assert_eq!(node.told(), ["ServerPortDown"]);
        let mut node = Node::new();
        node.cloud.servers.as_mut().unwrap().node = Err(Sight::NoPort);
        assert_eq!((node.told(), node.done()), (vec!["ServerPortNotFound".to_owned()], vec![]));
    }
}
