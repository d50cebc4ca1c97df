//! What the kernel's tables hold, as read back and as it follows from what was written since.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    desired::{Frontend, Protocol, Target},
    diff::Change,
    inputs::ServiceRef,
};

/// A frontend's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value {
    /// Number of the frontend.
    pub id: u32,
    /// Generation of its backends.
    pub generation: u32,
    /// Number of its backends.
    pub count: u32,
    /// How long a client keeps its endpoint, in seconds; 0: not at all.
    pub affinity_seconds: u32,
}

/// Where a backend is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Number of the frontend.
    pub id: u32,
    /// Generation.
    pub generation: u32,
    /// Slot.
    pub slot: u32,
}

/// A backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend {
    /// Where clients arrive.
    pub target: Target,
    /// Number of the endpoint within the frontend, never 0.
    pub endpoint: u32,
}

/// An endpoint of a frontend whose clients keep theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Number of the frontend.
    pub id: u32,
    /// Generation.
    pub generation: u32,
    /// Number of the endpoint.
    pub endpoint: u32,
}

/// One write to one table. Deleting what is not there is success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Write a backend.
    PutBackend(Place, Backend),
    /// Write the slot of an endpoint.
    PutMember(Member, u32),
    /// Write a frontend's value: from now on clients find its generation.
    PutValue(Frontend, Value),
    /// Delete a frontend's value: from now on it is no Service's.
    DeleteValue(Frontend),
    /// Delete a backend.
    DeleteBackend(Place),
    /// Delete the slot of an endpoint.
    DeleteMember(Member),
}

/// Everything the tables hold, as read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Values.
    pub values: BTreeMap<Frontend, Value>,
    /// Backends.
    pub backends: BTreeMap<Place, Backend>,
    /// Slots of endpoints.
    pub members: BTreeMap<Member, u32>,
}

/// What the tables are known to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    entries: BTreeMap<Frontend, Entry>,
    /// Frontends by the Service that has them.
    owned: BTreeMap<Arc<ServiceRef>, BTreeSet<Frontend>>,
    /// Greatest number that a frontend ever had.
    last_id: u32,
}

/// A frontend in the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) value: Value,
    /// Numbers of endpoints, by target.
    pub(super) endpoints: BTreeMap<Target, u32>,
    /// Greatest number that an endpoint of it ever had.
    pub(super) last_endpoint: u32,
    /// Whether slots and members are as the value says.
    pub(super) whole: bool,
    /// The Service that has it; none yet after it was read back.
    pub(super) owner: Option<Arc<ServiceRef>>,
}

impl Entry {
    /// What deletes its generation.
    pub(super) fn deletion(&self, frontend: &Frontend) -> impl Iterator<Item = Step> {
        let Value { id, generation, count, .. } = self.value;
        let places = (0..count).map(move |slot| Step::DeleteBackend(Place { id, generation, slot }));
        let member = move |endpoint: &u32| Step::DeleteMember(Member { id, generation, endpoint: *endpoint });
        let keeps = keeps_endpoints(frontend, self.value.affinity_seconds);
        places.chain(self.endpoints.values().filter(move |_| keeps).map(member))
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
        let mut tables = Self::default();
        let (mut places, mut members) = (BTreeSet::new(), BTreeSet::new());
        for (frontend, value) in &contents.values {
            let entry = entry(frontend, *value, contents);
            let Value { id, generation, count, .. } = *value;
            places.extend((0..count).map(|slot| Place { id, generation, slot }));
            if keeps_endpoints(frontend, value.affinity_seconds) {
                let member = |endpoint: &u32| Member { id, generation, endpoint: *endpoint };
                members.extend(entry.endpoints.values().map(member));
            }
            tables.last_id = tables.last_id.max(id);
            tables.entries.insert(*frontend, entry);
        }
        let backends = contents.backends.keys().filter(|place| !places.contains(place));
        let strays = contents.members.keys().filter(|member| !members.contains(member));
        let steps = backends
            .map(|place| Step::DeleteBackend(*place))
            .chain(strays.map(|member| Step::DeleteMember(*member)));
        let steps = steps.collect();
        (tables, steps)
    }

    /// The number of frontends.
    #[must_use]
    pub fn frontends(&self) -> usize {
        self.entries.len()
    }

    /// The number of backends of all frontends.
    #[must_use]
    pub fn backends(&self) -> usize {
        self.entries.values().map(|entry| entry.endpoints.len()).sum()
    }

    /// The Services that have frontends, in order.
    pub fn owners(&self) -> impl Iterator<Item = &ServiceRef> {
        self.owned.keys().map(|owner| &**owner)
    }

    /// Notes a change as carried out. Whoever fails to carry it out reads the tables anew.
    pub fn note(&mut self, change: Change) {
        let before = self.entries.remove(&change.frontend).and_then(|entry| entry.owner);
        if let Some(owner) = before
            && let Some(frontends) = self.owned.get_mut(&owner)
        {
            frontends.remove(&change.frontend);
            if frontends.is_empty() {
                self.owned.remove(&owner);
            }
        }
        let Some(entry) = change.after else { return };
        self.last_id = self.last_id.max(entry.value.id);
        if let Some(owner) = &entry.owner {
            self.owned.entry(Arc::clone(owner)).or_default().insert(change.frontend);
        }
        self.entries.insert(change.frontend, entry);
    }

    pub(super) fn entry(&self, frontend: &Frontend) -> Option<&Entry> {
        self.entries.get(frontend)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&Frontend, &Entry)> {
        self.entries.iter()
    }

    pub(super) fn owned_by(&self, service: &ServiceRef) -> impl Iterator<Item = &Frontend> {
        self.owned.get(service).into_iter().flatten()
    }

    /// A number that no frontend has, when `given` were given since. Greater than any there ever was, as long as there
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

fn entry(frontend: &Frontend, value: Value, contents: &Contents) -> Entry {
    let Value { id, generation, count, affinity_seconds } = value;
    let keeps = keeps_endpoints(frontend, affinity_seconds);
    let mut endpoints = BTreeMap::new();
    let mut whole = true;
    for slot in 0..count {
        let Some(backend) = contents.backends.get(&Place { id, generation, slot }) else {
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
    Entry { value, endpoints, last_endpoint, whole, owner: None }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    impl Contents {
        /// Does what the kernel does.
        pub(in crate::service) fn apply(&mut self, step: &Step) {
            match *step {
                Step::PutBackend(place, backend) => drop(self.backends.insert(place, backend)),
                Step::PutMember(member, slot) => drop(self.members.insert(member, slot)),
                Step::PutValue(frontend, value) => drop(self.values.insert(frontend, value)),
                Step::DeleteValue(frontend) => drop(self.values.remove(&frontend)),
                Step::DeleteBackend(place) => drop(self.backends.remove(&place)),
                Step::DeleteMember(member) => drop(self.members.remove(&member)),
            }
        }

        /// What a client finds at a frontend: none if there is no Service, and nothing for a slot that is empty.
        pub(in crate::service) fn found(&self, frontend: &Frontend) -> Option<BTreeSet<Option<Target>>> {
            let Value { id, generation, count, .. } = *self.values.get(frontend)?;
            let slot =
                |slot| self.backends.get(&Place { id, generation, slot }).map(|backend| backend.target);
            Some((0..count).map(slot).collect())
        }
    }

    pub(in crate::service) fn frontend(last: u8, protocol: Protocol) -> Frontend {
        Frontend { address: [10, 96, 0, last].into(), port: 80, protocol }
    }

    pub(in crate::service) fn target(last: u8) -> Target {
        Target { address: [10, 1, 0, last].into(), port: 8080 }
    }

    #[test]
    fn what_nobody_is_led_to_can_go_and_what_is_not_whole_is_known() {
        let place = |generation, slot| Place { id: 4, generation, slot };
        let backend = |last, endpoint| Backend { target: target(last), endpoint };
        let value = Value { id: 4, generation: 2, count: 2, affinity_seconds: 0 };
        let dns = frontend(10, Protocol::Udp);
        let member = |generation, endpoint| Member { id: 4, generation, endpoint };
        let contents = Contents {
            values: [(dns, value)].into(),
            backends: [
                (place(2, 0), backend(1, 7)),
                (place(2, 1), backend(2, 3)),
                (place(3, 0), backend(1, 7)),
            ]
            .into(),
            members: [(member(2, 7), 0), (member(2, 3), 1), (member(3, 7), 0)].into(),
        };
        let (tables, steps) = Tables::read(&contents);
        assert_eq!(steps, [Step::DeleteBackend(place(3, 0)), Step::DeleteMember(member(3, 7))]);
        let entry = tables.entry(&dns).unwrap();
        assert!(entry.whole && entry.owner.is_none());
        assert_eq!((entry.last_endpoint, tables.free_id(0), tables.free_id(2)), (7, 5, 7));
        assert_eq!((tables.frontends(), tables.backends()), (1, 2));

        for damage in [
            Step::DeleteBackend(place(2, 1)),
            Step::DeleteMember(member(2, 7)),
            Step::PutBackend(place(2, 1), backend(1, 7)),
        ] {
            let mut contents = contents.clone();
            contents.apply(&damage);
            assert!(!Tables::read(&contents).0.entry(&dns).unwrap().whole, "{damage:?}");
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
