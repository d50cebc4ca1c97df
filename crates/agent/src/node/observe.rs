//! The record of this node as watched.
//!
//! A watch that begins anew may be answered by an API server that is behind the last one. A record that is older than
//! what was seen would bring back offers that are over, so it is not looked at: of one life of the object only greater
//! versions count.
//!
//! Source: Kubernetes API concepts, "Resource versions" (comparable as numbers since 1.35, and in fact before).

use std::sync::{Arc, Mutex, PoisonError};

use kuryr_api::kuryrnode::KuryrNode;
use kuryr_kubernetes::{
    slim,
    store::{ObjectKey, Presence, Store},
};

/// What is watched of this node.
#[derive(Clone)]
pub(crate) struct Watched {
    /// The record.
    record: Store<KuryrNode>,
    /// The Node.
    node: Store<slim::Node>,
    key: ObjectKey,
    latest: Arc<Mutex<Option<Arc<KuryrNode>>>>,
}

impl Watched {
    /// Looks into these stores for the node `name`.
    pub(crate) fn new(record: Store<KuryrNode>, node: Store<slim::Node>, name: &str) -> Self {
        Self { record, node, key: ObjectKey::cluster(name), latest: Arc::default() }
    }

    /// The record; `Absent` only when the watch is in sync.
    pub(crate) fn record(&self) -> Presence<KuryrNode> {
        let found = self.record.presence(&self.key);
        let Presence::Present(found) = found else { return found };
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        match &*latest {
            Some(seen) if is_older(&found, seen) => Presence::Present(Arc::clone(seen)),
            _ => {
                *latest = Some(Arc::clone(&found));
                Presence::Present(found)
            }
        }
    }

    /// The Node.
    pub(crate) fn node(&self) -> Option<Arc<slim::Node>> {
        self.node.get(&self.key)
    }

    /// Whether both watches are in sync.
    pub(crate) fn in_sync(&self) -> bool {
        self.record.in_sync() && self.node.in_sync()
    }

    /// The store of the record.
    pub(crate) fn records(&self) -> &Store<KuryrNode> {
        &self.record
    }
}

fn is_older(one: &KuryrNode, other: &KuryrNode) -> bool {
    let version = |node: &KuryrNode| node.metadata.resource_version.as_ref()?.parse::<u128>().ok();
    let same_life = one.metadata.uid == other.metadata.uid;
    same_life && version(one).zip(version(other)).is_some_and(|(one, other)| one < other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn record(uid: &str, version: &str, epoch: u64) -> KuryrNode {
        let mut node = KuryrNode::new("node1", kuryr_api::kuryrnode::KuryrNodeSpec::default());
        node.metadata.uid = Some(uid.into());
        node.metadata.resource_version = Some(version.into());
        node.spec.epoch = epoch;
        node
    }

    #[tokio::test(start_paused = true)]
    async fn the_record_never_goes_back() {
        let store = Store::new(Duration::from_secs(90));
        let watched = Watched::new(store.clone(), Store::new(Duration::from_secs(90)), "node1");
        assert!(matches!(watched.record(), Presence::Unknown));
        for (uid, version, epoch, expect) in [
            ("a", "99", 1, 1),
            ("a", "100", 2, 2),
            ("a", "99", 1, 2),
            ("a", "101", 3, 3),
            // Another life begins anew.
            ("b", "7", 1, 1),
        ] {
            store.apply(record(uid, version, epoch));
            let Presence::Present(found) = watched.record() else { panic!() };
            assert_eq!(found.spec.epoch, expect, "{uid} {version}");
        }
    }
}
