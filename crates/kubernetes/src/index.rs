//! The same objects by another key: pods by node, pods by namespace.
//!
//! An index is fed with the changes of one watch, in order, before anybody acts on them. It holds no copies.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use kube::Resource;

use crate::{store::ObjectKey, watch::Change};

/// Objects by any number of keys each; clones share them.
pub struct Index<I, K> {
    shared: Arc<Shared<I, K>>,
}

impl<I: Ord + Clone, K: Resource> Index<I, K> {
    /// An empty index whose keys of an object `keys` computes.
    pub fn new(keys: impl Fn(&K) -> Vec<I> + Send + Sync + 'static) -> Self {
        Self { shared: Arc::new(Shared { keys: Box::new(keys), entries: RwLock::default() }) }
    }

    /// Follows a change.
    pub fn update(&self, change: &Change<K>) {
        match change {
            Change::Applied { new, old } => self.replace(old.as_ref(), Some(new)),
            Change::Deleted { old } => self.replace(Some(old), None),
            Change::Reset { changed, removed } => {
                // The old life of a name first: its successor may have the same keys.
                removed.iter().for_each(|old| self.replace(Some(old), None));
                changed.iter().for_each(|(new, old)| self.replace(old.as_ref(), Some(new)));
            }
            // An index holds whole objects: whoever keeps them packed has none.
            Change::Replaced => {
                self.shared.entries.write().unwrap_or_else(PoisonError::into_inner).clear();
            }
        }
    }

    /// The objects with this key, in the order of their names.
    #[must_use]
    pub fn get(&self, key: &I) -> Vec<Arc<K>> {
        let entries = self.shared.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.get(key).map(|objects| objects.values().cloned().collect()).unwrap_or_default()
    }

    /// All keys that have an object, in order.
    #[must_use]
    pub fn keys(&self) -> Vec<I> {
        self.shared.entries.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    fn replace(&self, old: Option<&Arc<K>>, new: Option<&Arc<K>>) {
        let keys = |object: Option<&Arc<K>>| -> BTreeSet<I> {
            object.map(|object| (self.shared.keys)(object)).unwrap_or_default().into_iter().collect()
        };
        let (before, after) = (keys(old), keys(new));
        let mut entries = self.shared.entries.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = old {
            let name = ObjectKey::of(old.as_ref());
            for key in before.difference(&after) {
                if let Some(objects) = entries.get_mut(key) {
                    objects.remove(&name);
                    if objects.is_empty() {
                        entries.remove(key);
                    }
                }
            }
        }
        if let Some(new) = new {
            let name = ObjectKey::of(new.as_ref());
            for key in after {
                entries.entry(key).or_default().insert(name.clone(), Arc::clone(new));
            }
        }
    }
}

type Keys<I, K> = Box<dyn Fn(&K) -> Vec<I> + Send + Sync>;

struct Shared<I, K> {
    keys: Keys<I, K>,
    entries: RwLock<BTreeMap<I, BTreeMap<ObjectKey, Arc<K>>>>,
}

impl<I, K> Clone for Index<I, K> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<I, K> fmt::Debug for Index<I, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slim::Pod;

    fn pod(name: &str, node: &str) -> Arc<Pod> {
        let text =
            format!(r#"{{"metadata":{{"namespace":"d","name":"{name}"}},"spec":{{"nodeName":"{node}"}}}}"#);
        Arc::new(serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn follows_objects_that_move_come_and_go() {
        let index = Index::new(|pod: &Pod| pod.spec.node_name.iter().cloned().collect());
        let on = |node: &str| -> Vec<String> {
            index.get(&node.to_owned()).iter().map(|pod| pod.pod_ref().name).collect()
        };
        let (a1, a2, b1) = (pod("a", "n1"), pod("a", "n2"), pod("b", "n1"));

        index.update(&Change::Reset {
            changed: vec![(Arc::clone(&a1), None), (Arc::clone(&b1), None)],
            removed: vec![],
        });
        assert_eq!(on("n1"), ["a", "b"]);
        index.update(&Change::Applied { new: Arc::clone(&a2), old: Some(a1) });
        assert_eq!((on("n1"), on("n2")), (vec!["b".to_owned()], vec!["a".to_owned()]));
        // Another life of the same name on the same node.
        index.update(&Change::Reset { changed: vec![(Arc::clone(&a2), None)], removed: vec![a2, b1] });
        assert_eq!((on("n1"), on("n2")), (vec![], vec!["a".to_owned()]));
        index.update(&Change::Deleted { old: pod("a", "n2") });
        assert!(index.keys().is_empty());
    }
}
