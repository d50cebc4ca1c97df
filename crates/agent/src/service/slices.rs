//! `EndpointSlice`s by their Service.
//!
//! The store keeps thousands of them packed, so no second one holds them: here are their names.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock},
};

use kuryr_kubernetes::{
    slim::EndpointSlice,
    store::{ObjectKey, Store},
    watch::Change,
};

/// Names in order, with a NUL between them, all in the namespace of the Service: in one piece, as there are thousands.
#[derive(Default)]
struct Names(Box<str>);

impl Names {
    fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split('\0').filter(|name| !name.is_empty())
    }

    /// The names after a change.
    fn changed<'n>(&'n self, change: impl FnOnce(&mut BTreeSet<&'n str>)) -> Self {
        let mut all: BTreeSet<&str> = self.iter().collect();
        change(&mut all);
        Self(all.into_iter().collect::<Vec<_>>().join("\0").into_boxed_str())
    }
}

/// The slices of a store by their Service; clones share them.
#[derive(Clone)]
pub(crate) struct Slices {
    store: Store<EndpointSlice>,
    names: Arc<RwLock<BTreeMap<ObjectKey, Names>>>,
}

impl Slices {
    /// The slices of this store, with the changes that are told from now on.
    pub(super) fn of(store: Store<EndpointSlice>) -> Self {
        Self { store, names: Arc::default() }
    }

    /// Follows a change that the store has taken over.
    pub(super) fn update(&self, change: &Change<EndpointSlice>) {
        match change {
            Change::Applied { new, old } => self.replace(old.as_deref(), Some(new)),
            Change::Deleted { old } => self.replace(Some(old), None),
            Change::Replaced => {
                // Made aside: nobody finds a Service without its slices meanwhile.
                let mut names = BTreeMap::new();
                self.store.for_each(|new| replace(&mut names, None, Some(new)));
                *self.names.write().unwrap_or_else(PoisonError::into_inner) = names;
            }
            Change::Reset { changed, removed } => {
                removed.iter().for_each(|old| self.replace(Some(old), None));
                changed.iter().for_each(|(new, old)| self.replace(old.as_deref(), Some(new)));
            }
        }
    }

    /// The slices of a Service, in the order of their names.
    pub(super) fn get(&self, service: &ObjectKey) -> Vec<Arc<EndpointSlice>> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let key = |name| ObjectKey::namespaced(service.namespace.as_str(), name);
        let found = names
            .get(service)
            .into_iter()
            .flat_map(Names::iter)
            .filter_map(|name| self.store.get(&key(name)));
        // One may be another Service's by now, and that is about to be told.
        found.filter(|slice| service_of(slice).as_ref() == Some(service)).collect()
    }

    /// Whether a complete list has arrived.
    pub(super) fn synced(&self) -> bool {
        self.store.synced()
    }

    fn replace(&self, old: Option<&EndpointSlice>, new: Option<&EndpointSlice>) {
        replace(&mut self.names.write().unwrap_or_else(PoisonError::into_inner), old, new);
    }

    #[cfg(test)]
    pub(super) fn store(&self) -> &Store<EndpointSlice> {
        &self.store
    }
}

fn replace(names: &mut BTreeMap<ObjectKey, Names>, old: Option<&EndpointSlice>, new: Option<&EndpointSlice>) {
    let (before, after) = (old.and_then(service_of), new.and_then(service_of));
    if before == after {
        return;
    }
    if let (Some(service), Some(old)) = (before, old) {
        let before = names.remove(&service).unwrap_or_default();
        let rest = before.changed(|all| _ = all.remove(name_of(old)));
        if rest.iter().next().is_some() {
            names.insert(service, rest);
        }
    }
    if let (Some(service), Some(new)) = (after, new) {
        let all = names.entry(service).or_default();
        *all = all.changed(|all| _ = all.insert(name_of(new)));
    }
}

/// The Service that a slice is of.
pub(super) fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
    Some(ObjectKey::namespaced(namespace, slice.service_name()?))
}

fn name_of(slice: &EndpointSlice) -> &str {
    slice.metadata.name.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use serde_json::json;

    use super::*;

    fn slice(name: &str, service: Option<&str>) -> EndpointSlice {
        let labels = service.map(|service| json!({"kubernetes.io/service-name": service}));
        serde_json::from_value(
            json!({"metadata": {"namespace": "d", "name": name, "uid": name, "labels": labels}}),
        )
        .unwrap()
    }

    struct Room(Slices);

    impl Room {
        fn new() -> Self {
            Self(Slices::of(Store::packed(Duration::from_secs(90))))
        }

        fn apply(&self, slice: EndpointSlice) {
            self.0.update(&self.0.store.apply(slice));
        }

        fn of(&self, service: &str) -> Vec<String> {
            let found = self.0.get(&ObjectKey::namespaced("d", service));
            found.iter().map(|slice| name_of(slice).to_owned()).collect()
        }
    }

    #[test]
    fn slices_are_found_by_their_service_whatever_becomes_of_them() {
        let room = Room::new();
        for (name, service) in [("b", Some("web")), ("a", Some("web")), ("c", None), ("b", Some("web"))] {
            room.apply(slice(name, service));
        }
        assert_eq!((room.of("web"), room.of("dns")), (vec!["a".to_owned(), "b".to_owned()], vec![]));
        room.apply(slice("a", Some("dns")));
        room.apply(slice("c", Some("dns")));
        assert_eq!(
            (room.of("web"), room.of("dns")),
            (vec!["b".to_owned()], vec!["a".to_owned(), "c".to_owned()])
        );
        room.0.update(&room.0.store.delete(&ObjectKey::namespaced("d", "b")).unwrap());
        assert!(room.of("web").is_empty());
        assert_eq!(room.0.names.read().unwrap().len(), 1, "nothing is kept of a Service without slices");
        room.0.update(
            &room.0.store.reset(vec![slice("a", Some("web")), slice("d", Some("web"))], BTreeMap::new()),
        );
        assert_eq!((room.of("web"), room.of("dns")), (vec!["a".to_owned(), "d".to_owned()], vec![]));
    }

    #[test]
    fn between_the_store_and_what_is_told_of_it_nothing_is_anothers() {
        let room = Room::new();
        room.apply(slice("a", Some("web")));
        let change = room.0.store.apply(slice("a", Some("dns")));
        assert_eq!((room.of("web"), room.of("dns")), (vec![], vec![]));
        room.0.update(&change);
        assert_eq!(room.of("dns"), ["a"]);
    }
}
