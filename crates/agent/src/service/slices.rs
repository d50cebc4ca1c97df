//! `EndpointSlice`s by their Service.
//!
//! The store keeps thousands of them packed, so no second one holds them: here are their names.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use kuryr_kubernetes::{
    slim::EndpointSlice,
    store::{ObjectKey, Store},
    watch::Change,
};

/// Names in order, all in the namespace of the Service.
type Names = Box<[Box<str>]>;

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
            Change::Reset { changed, removed } => {
                removed.iter().for_each(|old| self.replace(Some(old), None));
                changed.iter().for_each(|(new, old)| self.replace(old.as_deref(), Some(new)));
            }
        }
    }

    /// The slices of a Service, in the order of their names.
    pub(super) fn get(&self, service: &ObjectKey) -> Vec<Arc<EndpointSlice>> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let names = names.get(service).map(|names| names.to_vec()).unwrap_or_default();
        let key = |name: Box<str>| ObjectKey::namespaced(service.namespace.as_str(), name);
        let found = names.into_iter().filter_map(|name| self.store.get(&key(name)));
        // One may be another Service's by now, and that is about to be told.
        found.filter(|slice| service_of(slice).as_ref() == Some(service)).collect()
    }

    /// Whether a complete list has arrived.
    pub(super) fn synced(&self) -> bool {
        self.store.synced()
    }

    fn replace(&self, old: Option<&EndpointSlice>, new: Option<&EndpointSlice>) {
        let (before, after) = (old.and_then(service_of), new.and_then(service_of));
        if before == after {
            return;
        }
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if let (Some(service), Some(old)) = (before, old) {
            let rest = names.remove(&service).unwrap_or_default();
            let rest: Names = rest.into_iter().filter(|name| **name != *name_of(old)).collect();
            if !rest.is_empty() {
                names.insert(service, rest);
            }
        }
        if let (Some(service), Some(new)) = (after, new) {
            let all = names.entry(service).or_default();
            if let Err(at) = all.binary_search_by(|name| (**name).cmp(name_of(new))) {
                let mut more = std::mem::take(all).into_vec();
                more.insert(at, name_of(new).into());
                *all = more.into_boxed_slice();
            }
        }
    }

    #[cfg(test)]
    pub(super) fn store(&self) -> &Store<EndpointSlice> {
        &self.store
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
