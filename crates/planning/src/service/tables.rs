//! What the kernel's tables hold, as read back and as it follows from what was written since.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    desired::{Frontend, Protocol, Target},
    diff::Change,
    inputs::Owner,
    nodes::NodeKind,
};

/// A frontend's value. Frontends whose values name the same number and generation lead to the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value {
    /// Number of what it leads to.
    pub id: u32,
    /// Generation of its backends.
    pub generation: u32,
    /// Number of its backends.
    pub count: u32,
    /// How long a client keeps its endpoint, in seconds; 0: not at all.
    pub affinity_seconds: u32,
}

impl Value {
    pub(super) const fn name(&self) -> Name {
        Name { id: self.id, generation: self.generation }
    }
}

/// Names a generation of backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) id: u32,
    pub(super) generation: u32,
}

/// How many backends are one entry of the kernel's table, a *row*.
pub const ROW: usize = 5;

/// [`ROW`] as slots are counted.
const ROW_SLOTS: u32 = 5;
const _: () = assert!(ROW == ROW_SLOTS as usize);

/// Where a row of backends is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Number, as in [`Value`].
    pub id: u32,
    /// Generation.
    pub generation: u32,
    /// Number of the row.
    pub row: u32,
}

impl Place {
    /// The rows of so many backends.
    pub fn all(id: u32, generation: u32, count: u32) -> impl Iterator<Item = Self> {
        (0..count.div_ceil(ROW_SLOTS)).map(move |row| Self { id, generation, row })
    }
}

/// A backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend {
    /// Where clients arrive.
    pub target: Target,
    /// Number of the endpoint within its number, never 0.
    pub endpoint: u32,
}

/// An endpoint whose clients keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Number, as in [`Value`].
    pub id: u32,
    /// Generation.
    pub generation: u32,
    /// Number of the endpoint.
    pub endpoint: u32,
}

/// One write to one table. Deleting what is not there is success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write a row of backends, [`ROW`] at most.
    PutRow(Place, Vec<Backend>),
    /// Write the slot of an endpoint.
    PutMember(Member, u32),
    /// Write a frontend's value: from now on clients find its generation.
    PutValue(Frontend, Value),
    /// Delete a frontend's value: from now on it is no Service's.
    DeleteValue(Frontend),
    /// Delete a row of backends.
    DeleteRow(Place),
    /// Delete the slot of an endpoint.
    DeleteMember(Member),
    /// Write whose an address of a node is.
    PutNode(IpAddr, NodeKind),
    /// Delete an address of a node.
    DeleteNode(IpAddr),
}

/// How many entries the tables hold, or may hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Frontends.
    pub frontends: usize,
    /// Rows of backends, those that frontends share once.
    pub rows: usize,
    /// Slots of endpoints whose clients keep them.
    pub members: usize,
}

impl Size {
    pub(super) const UNBOUNDED: Self = Self { frontends: usize::MAX, rows: usize::MAX, members: usize::MAX };

    pub(super) const fn add(&mut self, more: Self) {
        self.frontends = self.frontends.saturating_add(more.frontends);
        self.rows = self.rows.saturating_add(more.rows);
        self.members = self.members.saturating_add(more.members);
    }

    pub(super) const fn take(&mut self, less: Self) {
        self.frontends = self.frontends.saturating_sub(less.frontends);
        self.rows = self.rows.saturating_sub(less.rows);
        self.members = self.members.saturating_sub(less.members);
    }
}

/// Everything the tables hold, as read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Values.
    pub values: BTreeMap<Frontend, Value>,
    /// Backends in order of their slots, by row.
    pub rows: BTreeMap<Place, Vec<Backend>>,
    /// Slots of endpoints.
    pub members: BTreeMap<Member, u32>,
    /// Addresses of nodes.
    pub nodes: BTreeMap<IpAddr, NodeKind>,
}

impl Contents {
    /// The backends to which a value leads, slot by slot; none where nothing is.
    pub fn backends(&self, value: &Value) -> impl Iterator<Item = Option<&Backend>> {
        let Value { id, generation, count, .. } = *value;
        (0..count).map(move |slot| {
            let row = self.rows.get(&Place { id, generation, row: slot / ROW_SLOTS })?;
            row.get(usize::try_from(slot % ROW_SLOTS).ok()?)
        })
    }
}

/// What the tables are known to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    entries: BTreeMap<Frontend, Entry>,
    /// Those that frontends lead to.
    generations: BTreeMap<Name, Generation>,
    /// Frontends by the Service or pod that has them, in order.
    owned: BTreeMap<Arc<Owner>, Vec<Frontend>>,
    /// Greatest number there ever was.
    last_id: u32,
    nodes: BTreeMap<IpAddr, NodeKind>,
    /// What the generations take.
    shared: Size,
    /// Their backends.
    backends: usize,
    /// What there is room for; none: everything.
    most: Option<Size>,
}

/// A frontend in the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) value: Value,
    /// What has it; none yet after it was read back.
    pub(super) owner: Option<Arc<Owner>>,
}

/// A generation of backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Generation {
    /// Numbers of endpoints, by target.
    pub(super) endpoints: Numbers,
    /// Greatest number that an endpoint of it or of one before ever had.
    pub(super) last_endpoint: u32,
    /// Slots that frontends are told of.
    pub(super) count: u32,
    /// Whether clients keep their endpoint.
    pub(super) keeps: bool,
    /// Whether slots and members are as they should be.
    pub(super) whole: bool,
    /// How many frontends lead to it.
    pub(super) users: u32,
}

impl Generation {
    /// What it takes.
    pub(super) fn size(&self) -> Size {
        let members = if self.keeps { self.endpoints.len() } else { 0 };
        Size { frontends: 0, rows: self.backends().div_ceil(ROW), members }
    }

    fn backends(&self) -> usize {
        usize::try_from(self.count).unwrap_or(usize::MAX)
    }

    /// What deletes it.
    pub(super) fn deletion(&self, name: Name) -> impl Iterator<Item = Step> {
        let Name { id, generation } = name;
        let rows = Place::all(id, generation, self.count).map(Step::DeleteRow);
        let member = move |endpoint| Step::DeleteMember(Member { id, generation, endpoint });
        let keeps = self.keeps;
        rows.chain(self.endpoints.numbers().filter(move |_| keeps).map(member))
    }

    fn read(frontend: &Frontend, value: Value, contents: &Contents) -> Self {
        let Value { id, generation, count, affinity_seconds } = value;
        let keeps = keeps_endpoints(frontend, affinity_seconds);
        let mut endpoints = BTreeMap::new();
        let mut whole = true;
        for (slot, backend) in (0..count).zip(contents.backends(&value)) {
            let Some(backend) = backend else {
                whole = false;
                continue;
            };
            endpoints.insert(backend.target, backend.endpoint);
            let member = Member { id, generation, endpoint: backend.endpoint };
            whole &= !keeps || contents.members.get(&member) == Some(&slot);
        }
        // Two slots with one target would be one here.
        whole &= endpoints.len() == usize::try_from(count).unwrap_or(usize::MAX);
        let last_endpoint = endpoints.values().copied().max().unwrap_or_default();
        Self { endpoints: endpoints.into(), last_endpoint, count, keeps, whole, users: 0 }
    }
}

/// Numbers of endpoints by their target, in its order. There are as many as endpoints in the cluster, and they are seldom asked for:
/// packed, each takes little more than its address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    packed: Box<[u8]>,
    len: usize,
}

impl Numbers {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn contains(&self, target: &Target) -> bool {
        self.targets().any(|one| one == *target)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Target, u32)> + use<> {
        // What is packed here can be unpacked.
        let all: Vec<(IpAddr, u16, u32)> = bitcode::decode(&self.packed).unwrap_or_default();
        all.into_iter().map(|(address, port, number)| (Target { address, port }, number))
    }

    pub(super) fn targets(&self) -> impl Iterator<Item = Target> + use<> {
        self.iter().map(|(target, _)| target)
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> + use<> {
        self.iter().map(|(_, number)| number)
    }
}

impl From<BTreeMap<Target, u32>> for Numbers {
    fn from(numbers: BTreeMap<Target, u32>) -> Self {
        let len = numbers.len();
        let all = numbers.into_iter().map(|(Target { address, port }, number)| (address, port, number));
        Self { packed: bitcode::encode(&all.collect::<Vec<_>>()).into_boxed_slice(), len }
    }
}

/// Whether clients of a frontend keep their endpoint as long as there is it: by affinity, or as the socket does that
/// sends datagrams without being connected.
pub(super) fn keeps_endpoints(frontend: &Frontend, affinity_seconds: u32) -> bool {
    frontend.protocol == Protocol::Udp || affinity_seconds > 0
}

impl Tables {
    /// Takes over what was read, and tells what can go at once: nobody is led to it. That is what is left of writes
    /// that were broken off.
    #[must_use]
    pub fn read(contents: &Contents) -> (Self, Vec<Step>) {
        let mut tables = Self { nodes: contents.nodes.clone(), ..Self::default() };
        let (mut places, mut members) = (BTreeSet::new(), BTreeSet::new());
        for (frontend, value) in &contents.values {
            let Value { id, generation, count, .. } = *value;
            let found = Generation::read(frontend, *value, contents);
            places.extend(Place::all(id, generation, count));
            if found.keeps {
                members.extend(found.endpoints.numbers().map(|endpoint| Member { id, generation, endpoint }));
            }
            if tables.generation(value.name()).is_none() {
                tables.hold(value.name(), found.clone());
            }
            if let Some(known) = tables.generations.get_mut(&value.name()) {
                // Frontends that share one were written by one change; else something is wrong with it.
                known.whole &= (known.count, known.keeps) == (found.count, found.keeps);
            }
            tables.put(*frontend, Some(Entry { value: *value, owner: None }));
        }
        let rows = contents.rows.keys().filter(|place| !places.contains(place));
        let strays = contents.members.keys().filter(|member| !members.contains(member));
        let steps =
            rows.map(|place| Step::DeleteRow(*place)).chain(strays.map(|member| Step::DeleteMember(*member)));
        let steps = steps.collect();
        (tables, steps)
    }

    /// The same tables, with room for so much.
    #[must_use]
    pub fn within(self, most: Size) -> Self {
        Self { most: Some(most), ..self }
    }

    /// The number of frontends.
    #[must_use]
    pub fn frontends(&self) -> usize {
        self.entries.len()
    }

    /// The number of backends, those that frontends share once.
    #[must_use]
    pub fn backends(&self) -> usize {
        self.backends
    }

    /// The Services and pods that have frontends, in order.
    pub fn owners(&self) -> impl Iterator<Item = &Owner> {
        self.owned.keys().map(|owner| &**owner)
    }

    /// Notes a change as carried out. Whoever fails to carry it out reads the tables anew.
    pub fn note(&mut self, change: Change) {
        if let Some((name, generation)) = change.made {
            self.hold(name, generation);
        }
        for (frontend, after) in change.after {
            self.put(frontend, after);
        }
    }

    /// Notes the addresses of nodes as written.
    pub fn note_nodes(&mut self, nodes: BTreeMap<IpAddr, NodeKind>) {
        self.nodes = nodes;
    }

    fn hold(&mut self, name: Name, generation: Generation) {
        self.shared.add(generation.size());
        self.backends = self.backends.saturating_add(generation.backends());
        if let Some(before) = self.generations.insert(name, generation) {
            self.release(&before);
        }
    }

    fn release(&mut self, gone: &Generation) {
        self.shared.take(gone.size());
        self.backends = self.backends.saturating_sub(gone.backends());
    }

    fn put(&mut self, frontend: Frontend, after: Option<Entry>) {
        // Before the other one is given up: they may lead to the same.
        if let Some(entry) = &after {
            self.last_id = self.last_id.max(entry.value.id);
            if let Some(generation) = self.generations.get_mut(&entry.value.name()) {
                generation.users += 1;
            }
        }
        if let Some(before) = self.entries.remove(&frontend) {
            self.give_up(&frontend, &before);
        }
        if let Some(entry) = after {
            if let Some(owner) = &entry.owner {
                let owned = self.owned.entry(Arc::clone(owner)).or_default();
                if let Err(at) = owned.binary_search(&frontend) {
                    owned.reserve_exact(1);
                    owned.insert(at, frontend);
                }
            }
            self.entries.insert(frontend, entry);
        }
    }

    fn give_up(&mut self, frontend: &Frontend, before: &Entry) {
        let name = before.value.name();
        if let Some(generation) = self.generations.get_mut(&name) {
            generation.users = generation.users.saturating_sub(1);
            if generation.users == 0
                && let Some(gone) = self.generations.remove(&name)
            {
                self.release(&gone);
            }
        }
        if let Some(owner) = &before.owner
            && let Some(frontends) = self.owned.get_mut(owner)
        {
            frontends.retain(|other| other != frontend);
            if frontends.is_empty() {
                self.owned.remove(owner);
            }
        }
    }

    pub(super) fn entry(&self, frontend: &Frontend) -> Option<&Entry> {
        self.entries.get(frontend)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&Frontend, &Entry)> {
        self.entries.iter()
    }

    pub(super) fn generation(&self, name: Name) -> Option<&Generation> {
        self.generations.get(&name)
    }

    /// The generations of a number, in order.
    pub(super) fn generations_of(&self, id: u32) -> impl Iterator<Item = (&Name, &Generation)> {
        self.generations.range(Name { id, generation: 0 }..=Name { id, generation: u32::MAX })
    }

    pub(super) fn owned_by(&self, service: &Owner) -> impl Iterator<Item = &Frontend> {
        self.owned.get(service).into_iter().flatten()
    }

    /// What there is.
    pub(super) fn held(&self) -> Size {
        Size { frontends: self.entries.len(), ..self.shared }
    }

    /// What there is room for in all.
    pub(super) fn most(&self) -> Size {
        self.most.unwrap_or(Size::UNBOUNDED)
    }

    pub(super) fn nodes(&self) -> &BTreeMap<IpAddr, NodeKind> {
        &self.nodes
    }

    /// A number that is not in use, when `given` were given since. Greater than any there ever was, as long as there
    /// are greater ones: a client may be about to look for the backends of a number that has gone.
    pub(super) fn free_id(&self, given: u32) -> u32 {
        let next = self.last_id.checked_add(1).and_then(|next| next.checked_add(given));
        next.unwrap_or_else(|| {
            let used: BTreeSet<u32> = self.entries.values().map(|entry| entry.value.id).collect();
            let mut free = (1..=u32::MAX).filter(|id| !used.contains(id));
            free.nth(usize::try_from(given).unwrap_or_default()).unwrap_or(u32::MAX)
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{super::desired::At, *};

    impl Contents {
        /// Does what the kernel does.
        pub(in crate::service) fn apply(&mut self, step: &Step) {
            match step.clone() {
                Step::PutRow(place, backends) => drop(self.rows.insert(place, backends)),
                Step::PutMember(member, slot) => drop(self.members.insert(member, slot)),
                Step::PutValue(frontend, value) => drop(self.values.insert(frontend, value)),
                Step::DeleteValue(frontend) => drop(self.values.remove(&frontend)),
                Step::DeleteRow(place) => drop(self.rows.remove(&place)),
                Step::DeleteMember(member) => drop(self.members.remove(&member)),
                Step::PutNode(address, kind) => drop(self.nodes.insert(address, kind)),
                Step::DeleteNode(address) => drop(self.nodes.remove(&address)),
            }
        }

        /// What a client finds at a frontend: none if there is no Service, and nothing for a slot that is empty.
        pub(in crate::service) fn found(&self, frontend: &Frontend) -> Option<BTreeSet<Option<Target>>> {
            let value = self.values.get(frontend)?;
            Some(self.backends(value).map(|backend| backend.map(|backend| backend.target)).collect())
        }
    }

    pub(in crate::service) fn frontend(last: u8, protocol: Protocol) -> Frontend {
        Frontend { at: At::Address([10, 96, 0, last].into()), port: 80, protocol }
    }

    pub(in crate::service) fn target(last: u8) -> Target {
        Target { address: [10, 1, 0, last].into(), port: 8080 }
    }

    #[test]
    fn what_nobody_is_led_to_can_go_and_what_is_not_whole_is_known() {
        let place = |generation| Place { id: 4, generation, row: 0 };
        let backend = |last, endpoint| Backend { target: target(last), endpoint };
        let value = Value { id: 4, generation: 2, count: 2, affinity_seconds: 0 };
        let (dns, also) = (frontend(10, Protocol::Udp), frontend(11, Protocol::Udp));
        let member = |generation, endpoint| Member { id: 4, generation, endpoint };
        let contents = Contents {
            values: [(dns, value), (also, value)].into(),
            rows: [(place(2), vec![backend(1, 7), backend(2, 3)]), (place(3), vec![backend(1, 7)])].into(),
            members: [(member(2, 7), 0), (member(2, 3), 1), (member(3, 7), 0)].into(),
            nodes: BTreeMap::new(),
        };
        let (tables, steps) = Tables::read(&contents);
        assert_eq!(steps, [Step::DeleteRow(place(3)), Step::DeleteMember(member(3, 7))]);
        let generation = |tables: &Tables| tables.generation(value.name()).unwrap().clone();
        assert!(generation(&tables).whole && tables.entry(&dns).unwrap().owner.is_none());
        assert_eq!((generation(&tables).last_endpoint, generation(&tables).users), (7, 2));
        assert_eq!((tables.free_id(0), tables.free_id(2)), (5, 7));
        assert_eq!((tables.frontends(), tables.backends()), (2, 2));

        for damage in [
            Step::DeleteRow(place(2)),
            Step::PutRow(place(2), vec![backend(1, 7)]),
            Step::DeleteMember(member(2, 7)),
            Step::PutRow(place(2), vec![backend(1, 7), backend(1, 7)]),
            Step::PutValue(also, Value { count: 1, ..value }),
        ] {
            let mut contents = contents.clone();
            contents.apply(&damage);
            assert!(!generation(&Tables::read(&contents).0).whole, "{damage:?}");
        }
    }

    #[test]
    fn when_all_numbers_were_given_free_ones_are_given_again() {
        let value = |id| Value { id, generation: 1, count: 0, affinity_seconds: 0 };
        let values = [(frontend(1, Protocol::Tcp), value(u32::MAX)), (frontend(2, Protocol::Tcp), value(2))];
        let (tables, _) = Tables::read(&Contents { values: values.into(), ..Contents::default() });
        assert_eq!((tables.free_id(0), tables.free_id(1)), (1, 3));
    }
}
