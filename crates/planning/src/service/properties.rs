//! Whatever changes, and wherever a process is killed: at every write a client finds the old targets or the new ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proptest::prelude::*;

use super::{
    desired::{Desired, Frontend, Protocol, Target, Wanted},
    diff::{Change, diff, leftovers},
    inputs::{Owner, OwnerKind},
    tables::{
        Backend, Contents, Place, ROW, Size, Tables,
        tests::{frontend, target},
    },
};

/// Frontends, affinity and targets.
type Set = (BTreeSet<u8>, u32, BTreeSet<u8>);

/// What happens next.
#[derive(Debug, Clone)]
enum Event {
    /// A Service wants this.
    Service(usize, Vec<Set>),
    /// The process is killed after so many writes of the change for a Service that wants this, and starts again.
    Killed(usize, Vec<Set>, usize),
    /// The process starts again; all Services are there as they were.
    Restart,
}

const SERVICES: usize = 3;

/// Frontends 0 to 5 are of TCP, the rest of UDP; each Service has some of its own and some that others want, too.
fn at(number: u8) -> Frontend {
    frontend(number, if number < 6 { Protocol::Tcp } else { Protocol::Udp })
}

fn sets() -> impl Strategy<Value = Vec<Set>> {
    let frontends = prop::collection::btree_set(0u8..10, 1..4);
    // More than one row has room for.
    let targets = prop::collection::btree_set(0u8..14, 0..12);
    prop::collection::vec((frontends, prop::sample::select(vec![0u32, 0, 60]), targets), 0..4)
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..SERVICES, sets()).prop_map(|(service, wants)| Event::Service(service, wants)),
        2 => (0..SERVICES, sets(), 0usize..12)
            .prop_map(|(service, wants, writes)| Event::Killed(service, wants, writes)),
        1 => Just(Event::Restart),
    ]
}

/// A frontend is in one set only, and a set is of one protocol.
fn desired(wants: &[Set]) -> Desired {
    let (mut taken, mut sets) = (BTreeSet::new(), Vec::new());
    for (numbers, affinity_seconds, targets) in wants {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let all = numbers.iter().map(|number| at(*number));
            let frontends: BTreeSet<Frontend> =
                all.filter(|one| one.protocol == protocol && taken.insert(*one)).collect();
            let targets = targets.iter().map(|last| target(*last)).collect();
            if !frontends.is_empty() {
                sets.push(Wanted { frontends, affinity_seconds: *affinity_seconds, targets });
            }
        }
    }
    Desired { sets, ..Desired::default() }
}

/// A node whose process and kernel can part.
struct Node {
    contents: Contents,
    tables: Tables,
    wanted: Vec<Desired>,
    /// The tables after each write since the process started.
    history: Vec<Contents>,
    /// What the kernel has room for.
    most: Size,
}

impl Node {
    fn new() -> Self {
        Self::within(Size::UNBOUNDED)
    }

    fn within(most: Size) -> Self {
        let wanted = vec![Desired::default(); SERVICES];
        let (contents, tables) = (Contents::default(), Tables::default().within(most));
        let mut node = Self { contents, tables, wanted, history: vec![], most };
        node.history.push(node.contents.clone());
        node
    }

    fn service(number: usize) -> Arc<Owner> {
        Arc::new(Owner { kind: OwnerKind::Service, namespace: "d".into(), name: number.to_string() })
    }

    /// Writes, at most so much, and tells whether that was all.
    fn carry_out(&mut self, changes: Vec<Change>, mut writes: usize) -> bool {
        for change in changes {
            let before = self.contents.clone();
            let others = self.others(&change);
            for step in &change.steps {
                if writes == 0 {
                    return false;
                }
                writes -= 1;
                self.contents.apply(step);
                self.history.push(self.contents.clone());
                self.check_room();
                assert_eq!(self.others(&change), others, "another frontend is touched by {step:?}");
            }
            for frontend in change.frontends() {
                let (before, after) = (before.found(frontend), self.contents.found(frontend));
                for seen in self.history.iter().rev().take(change.steps.len()) {
                    let seen = seen.found(frontend);
                    assert!(seen == before || seen == after, "{before:?}, {seen:?}, {after:?}");
                }
            }
            self.tables.note(change);
        }
        true
    }

    fn others(&self, change: &Change) -> BTreeMap<Frontend, BTreeSet<Option<Target>>> {
        let concerned: BTreeSet<&Frontend> = change.frontends().collect();
        let others = self.contents.values.keys().filter(|other| !concerned.contains(other));
        others.map(|other| (*other, self.contents.found(other).unwrap())).collect()
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Service(number, wants) => {
                self.wanted[number] = desired(&wants);
                self.plan_and_write(number, usize::MAX);
            }
            Event::Killed(number, wants, writes) => {
                self.wanted[number] = desired(&wants);
                self.plan_and_write(number, writes);
                self.restart();
            }
            Event::Restart => self.restart(),
        }
    }

    fn plan_and_write(&mut self, number: usize, writes: usize) -> bool {
        let plan = diff(&self.tables, &Self::service(number), &self.wanted[number]);
        self.carry_out(plan.changes, writes)
    }

    /// What a process does that begins, and what it needs until everything is as it should be.
    fn restart(&mut self) {
        self.check_readers();
        self.history = vec![self.contents.clone()];
        let (tables, strays) = Tables::read(&self.contents);
        self.tables = tables.within(self.most);
        strays.iter().for_each(|step| self.contents.apply(step));
        self.history.push(self.contents.clone());
        self.all();
        let rest = leftovers(&self.tables);
        assert!(self.carry_out(rest, usize::MAX));
    }

    fn all(&mut self) {
        (0..SERVICES).for_each(|number| assert!(self.plan_and_write(number, usize::MAX)));
    }

    fn check_room(&self) {
        let Contents { values, rows, members, .. } = &self.contents;
        let is_within = values.len() <= self.most.frontends
            && rows.len() <= self.most.rows
            && members.len() <= self.most.members;
        assert!(is_within, "{} {} {} in {:?}", values.len(), rows.len(), members.len(), self.most);
    }

    /// A reader may be interrupted: it reads a value, later a backend, and later the value again. If that is the same,
    /// the backend has to be the one that the value led to.
    fn check_readers(&self) {
        for (first, contents) in self.history.iter().enumerate() {
            for (frontend, value) in &contents.values {
                let same = |later: &&Contents| later.values.get(frontend) == Some(value);
                let last = self.history.iter().rposition(|later| same(&later)).unwrap();
                for between in &self.history[first..=last] {
                    assert!(between.backends(value).eq(contents.backends(value)), "{frontend}");
                }
            }
        }
    }

    /// Everything that is wanted is found, and nothing else is in the tables.
    fn check_settled(&mut self) {
        // Frontends that were taken are free by the second time.
        (0..SERVICES).for_each(|_| self.all());
        let mut owners: BTreeMap<Frontend, Vec<&Wanted>> = BTreeMap::new();
        for desired in &self.wanted {
            for wanted in &desired.sets {
                wanted.frontends.iter().for_each(|at| owners.entry(*at).or_default().push(wanted));
            }
        }
        assert_eq!(self.contents.values.keys().collect::<Vec<_>>(), owners.keys().collect::<Vec<_>>());
        for (frontend, wanted) in &owners {
            let found = self.contents.found(frontend).unwrap();
            let is_one = |one: &&Wanted| one.targets.iter().map(|target| Some(*target)).eq(found.clone());
            assert!(wanted.iter().any(is_one), "{frontend}: {found:?}");
        }
        let counts: BTreeMap<(u32, u32), u32> =
            self.contents.values.values().map(|value| ((value.id, value.generation), value.count)).collect();
        let backends: usize = self.contents.rows.values().map(Vec::len).sum();
        assert_eq!(backends, counts.values().sum::<u32>() as usize, "nothing is left over");
        for (member, slot) in &self.contents.members {
            let slot = usize::try_from(*slot).unwrap();
            let row = u32::try_from(slot / ROW).unwrap();
            let place = Place { id: member.id, generation: member.generation, row };
            assert_eq!(self.contents.rows[&place][slot % ROW].endpoint, member.endpoint);
        }
        assert_eq!(self.tables.backends(), backends);
        let (_, strays) = Tables::read(&self.contents);
        assert_eq!(strays, []);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_client_finds_the_old_targets_or_the_new_ones(events in prop::collection::vec(event(), 1..12)) {
        let mut node = Node::new();
        events.into_iter().for_each(|event| node.happens(event));
        node.check_readers();
        node.check_settled();
    }

    #[test]
    fn no_write_finds_the_tables_full_and_what_is_left_out_is_left_in_peace(
        events in prop::collection::vec(event(), 1..12),
        room in (1usize..24, 1usize..24, 1usize..24),
    ) {
        let mut node = Node::within(Size { frontends: room.0, rows: room.1, members: room.2 });
        events.into_iter().for_each(|event| node.happens(event));
        node.check_readers();
        // What is free is taken step by step.
        (0..8).for_each(|_| node.all());
        for number in 0..SERVICES {
            let plan = diff(&node.tables, &Node::service(number), &node.wanted[number]);
            prop_assert_eq!(plan.changes, vec![]);
        }
    }

    #[test]
    fn an_endpoint_keeps_its_number(
        rounds in prop::collection::vec((prop::collection::btree_set(0u8..6, 0..5), any::<bool>()), 2..8),
    ) {
        let mut node = Node::new();
        let mut before: BTreeMap<Target, u32> = BTreeMap::new();
        for (targets, restart) in rounds {
            node.wanted[0] = desired(&[([7, 8].into(), 0, targets)]);
            node.plan_and_write(0, usize::MAX);
            if restart {
                node.restart();
            }
            let told = |backend: &Backend| (backend.target, backend.endpoint);
            let now: BTreeMap<Target, u32> = node.contents.rows.values().flatten().map(told).collect();
            for (target, endpoint) in &now {
                prop_assert!(before.get(target).is_none_or(|number| number == endpoint), "{target}");
            }
            let numbers: BTreeSet<&u32> = now.values().collect();
            prop_assert_eq!(numbers.len(), now.len());
            before = now;
        }
    }
}
