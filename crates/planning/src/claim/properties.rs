//! Any order of what controller, runtime and API server do keeps the rules of the room.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kuryr_api::kuryrnode::KuryrNodeSpec;
use kuryr_types::{ClassId, Generation, PodIdentity, PortId};
use proptest::prelude::*;

use super::{
    Choice, Decision, Ledger, Need, Offer, PodState, Ready, choose, decide,
    ledger::tests::{claim, sandbox},
    offer::tests::{offered, own},
};

const PORTS: usize = 4;
const PODS: usize = 5;

/// Something that happens.
#[derive(Debug, Clone)]
enum Happens {
    /// The controller offers a port it owns, under a new generation.
    Offer(usize),
    /// The controller wants a port back.
    Withdraw(usize),
    /// The controller removes the entry of a port it owns.
    Remove(usize),
    /// The controller finds that somebody deleted a port.
    Lose(usize),
    /// The agent looks at the record.
    Look,
    /// The runtime calls ADD.
    Add(usize),
    /// The runtime calls DEL.
    Del(usize),
    /// The pod is deleted; a later one of that number has another identity.
    Gone(usize),
    /// The agent looks at a claim, with or without a watch in sync.
    Judge(usize, bool),
    /// The agent starts again from its checkpoint.
    Restart,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        (0..PORTS).prop_map(Happens::Offer),
        (0..PORTS).prop_map(Happens::Withdraw),
        (0..PORTS).prop_map(Happens::Remove),
        (0..PORTS).prop_map(Happens::Lose),
        Just(Happens::Look),
        (0..PODS).prop_map(Happens::Add),
        (0..PODS).prop_map(Happens::Del),
        (0..PODS).prop_map(Happens::Gone),
        (0..PORTS, any::<bool>()).prop_map(|(port, synced)| Happens::Judge(port, synced)),
        Just(Happens::Restart),
    ]
}

struct World {
    spec: KuryrNodeSpec,
    ledger: Ledger,
    counter: u64,
    lives: [u64; PODS],
    /// Every generation that was ever returned.
    over: BTreeSet<(PortId, Generation)>,
    /// Who ever claimed a generation.
    owners: BTreeMap<(PortId, Generation), PodIdentity>,
}

impl World {
    fn new() -> Self {
        Self {
            spec: offered(&[]),
            ledger: Ledger::default(),
            counter: 0,
            lives: [0; PODS],
            over: BTreeSet::new(),
            owners: BTreeMap::new(),
        }
    }

    fn port(number: usize) -> PortId {
        format!("p{number}").into()
    }

    fn identity(&self, pod: usize) -> PodIdentity {
        format!("pod{pod}-life{}", self.lives[pod]).into()
    }

    fn controller_owns(&self, port: &PortId) -> bool {
        let returned = |generation| self.ledger.returned.get(port) == Some(generation);
        self.spec.ports.get(port).is_none_or(|entry| returned(&entry.generation))
    }

    fn step(&mut self, what: &Happens) {
        match *what {
            Happens::Offer(number) => {
                let port = Self::port(number);
                if self.controller_owns(&port) && !self.ledger.claims.contains_key(&port) {
                    self.counter += 1;
                    let fresh = offered(&[(port.as_str(), &format!("1.{}", self.counter))]);
                    self.spec.ports.extend(fresh.ports);
                }
            }
            Happens::Withdraw(number) => {
                if let Some(entry) = self.spec.ports.get_mut(&Self::port(number)) {
                    entry.withdrawn = true;
                }
            }
            Happens::Remove(number) => {
                let port = Self::port(number);
                if self.controller_owns(&port) {
                    self.spec.ports.remove(&port);
                }
            }
            Happens::Lose(number) => {
                if let Some(entry) = self.spec.ports.get_mut(&Self::port(number)) {
                    entry.lost = true;
                }
            }
            Happens::Look => {
                self.ledger.forget(&self.spec.ports);
                let spec = self.spec.clone();
                if let Some(offer) = Offer::accept(&spec, &own()) {
                    self.ledger.notice(&offer);
                }
                self.ledger.acknowledge(&self.spec.ports);
            }
            Happens::Add(pod) => self.add(pod),
            Happens::Del(pod) => {
                let joined = self.ledger.joined_by(&format!("c{pod}"), "eth0", "");
                if let Some(port) = joined.map(|(port, _)| port.clone()) {
                    self.ledger.cut(&port);
                }
            }
            Happens::Gone(pod) => self.lives[pod] += 1,
            Happens::Judge(number, synced) => self.judge(&Self::port(number), synced),
            Happens::Restart => {
                let written = serde_json::to_string(&self.ledger).unwrap();
                self.ledger = serde_json::from_str(&written).unwrap();
            }
        }
        for (port, generation) in &self.ledger.returned {
            self.over.insert((port.clone(), *generation));
        }
    }

    fn add(&mut self, pod: usize) {
        let identity = self.identity(pod);
        let held = self.ledger.held_by(&identity).map(|(port, _)| port.clone());
        let class = ClassId::from("plain");
        let ready = self.ready();
        let offer = Offer::accept(&self.spec, &own());
        let choice =
            choose(&identity, Some(Need::Interchangeable(&class)), offer.as_ref(), &self.ledger, &ready);
        let port = match choice {
            Choice::Held(port) => {
                assert_eq!(Some(&port), held.as_ref(), "a pod keeps its port");
                port
            }
            Choice::Take(port) => {
                assert_eq!(held, None, "a pod that holds a port takes no other");
                port
            }
            Choice::Wait(_) => return,
        };
        let generation = match self.ledger.claims.get(&port) {
            Some(claim) => claim.generation,
            None => self.spec.ports[&port].generation,
        };
        assert!(!self.over.contains(&(port.clone(), generation)), "{generation} of {port} was returned");
        let owner = self.owners.entry((port.clone(), generation)).or_insert_with(|| identity.clone());
        assert_eq!(*owner, identity, "one generation, one pod");
        let mut made = claim(identity.as_str(), &generation.to_string(), None);
        made.sandbox = Some(sandbox(&format!("c{pod}")));
        self.ledger.claim(&port, made);
    }

    fn ready(&self) -> BTreeMap<PortId, Ready> {
        let ready = |generation| Ready { generation, since: Duration::ZERO };
        let offered = self.spec.ports.iter().map(|(port, entry)| (port.clone(), ready(entry.generation)));
        let claimed = self.ledger.claims.iter().map(|(port, c)| (port.clone(), ready(c.generation)));
        offered.chain(claimed).collect()
    }

    fn judge(&mut self, port: &PortId, synced: bool) {
        let Some(held) = self.ledger.claims.get(port).cloned() else { return };
        let live = (0..PODS).any(|pod| self.identity(pod) == held.identity);
        let state = match (synced, live) {
            (false, _) => PodState::Unknown,
            (true, false) => PodState::Absent,
            (true, true) => {
                PodState::Present { identity: held.identity.clone(), ended: false, terminating: false }
            }
        };
        let lost = self.spec.ports.get(port).is_some_and(|entry| entry.lost);
        match decide(&held, !live, lost, &state) {
            Decision::Keep => {}
            Decision::Cut => drop(self.ledger.cut(port)),
            Decision::Release => {
                assert!(!live || lost, "a live pod keeps its port");
                self.ledger.release(port);
            }
        }
    }

    fn check(&self) {
        let mut identities = BTreeSet::new();
        for (port, held) in &self.ledger.claims {
            assert!(identities.insert(&held.identity), "{} holds two ports", held.identity);
            assert_ne!(self.ledger.returned.get(port), Some(&held.generation), "{port} claimed and returned");
            let entry = self.spec.ports.get(port).expect("a claimed port stays in the record");
            assert_eq!(entry.generation, held.generation, "a claimed offer does not change");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ports_have_one_owner(story in prop::collection::vec(happens(), 1..120)) {
        let mut world = World::new();
        for what in &story {
            world.step(what);
            world.check();
        }
    }
}
