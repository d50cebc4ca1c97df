//! Plugs that wait for Neutron to call their port ACTIVE, and those of which it did.
//!
//! Where nothing on a node tells that a port works, its agent tells when a port is plugged, and planning wants to know
//! when it was ACTIVE after that. An answer counts for a plug if its port was asked for after the plug was awaited.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use kuryr_api::kuryrnode::PlugId;
use kuryr_types::PortId;
use tokio::sync::Notify;

/// What is awaited.
#[derive(Debug, Default)]
pub(crate) struct PlugIndex {
    state: Mutex<State>,
    more: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// By node.
    awaited: BTreeMap<String, BTreeMap<PortId, PlugId>>,
    /// Those that were found ACTIVE and are still awaited.
    active: BTreeMap<PortId, PlugId>,
    /// The port that was last asked for.
    last: Option<PortId>,
}

/// Plugs that are asked about together, with their nodes.
pub(crate) type Batch = BTreeMap<PortId, (PlugId, String)>;

impl PlugIndex {
    /// Notes what is awaited of a node from now on.
    pub(crate) fn expect(&self, node: &str, plugs: BTreeMap<PortId, PlugId>) {
        let mut state = self.lock();
        let before = state.awaited.remove(node).unwrap_or_default();
        let is_new = plugs.iter().any(|(port, plug)| before.get(port) != Some(plug));
        for port in before.keys().filter(|port| plugs.get(*port) != before.get(*port)) {
            state.active.remove(port);
        }
        if !plugs.is_empty() {
            state.awaited.insert(node.to_owned(), plugs);
        }
        drop(state);
        if is_new {
            self.more.notify_one();
        }
    }

    /// Plugs of a node that were found ACTIVE.
    pub(crate) fn active(&self, node: &str) -> BTreeMap<PortId, PlugId> {
        let state = self.lock();
        let awaited = state.awaited.get(node).into_iter().flatten();
        let active = awaited.filter(|(port, plug)| state.active.get(*port) == Some(plug));
        active.map(|(port, plug)| (port.clone(), plug.clone())).collect()
    }

    /// Waits until something more is awaited.
    pub(crate) async fn more(&self) {
        self.more.notified().await;
    }

    /// At most `most` of the plugs that are not found yet, others each time.
    pub(crate) fn batch(&self, most: usize) -> Batch {
        let mut state = self.lock();
        let pending: Batch = state
            .awaited
            .iter()
            .flat_map(|(node, plugs)| plugs.iter().map(move |(port, plug)| (port, (plug, node))))
            .filter(|(port, (plug, _))| state.active.get(*port) != Some(plug))
            .map(|(port, (plug, node))| (port.clone(), (plug.clone(), node.clone())))
            .collect();
        let is_later = |port: &PortId| state.last.as_ref().is_none_or(|last| port > last);
        let (later, earlier): (Vec<_>, Vec<_>) = pending.into_iter().partition(|(port, _)| is_later(port));
        let some: Vec<_> = later.into_iter().chain(earlier).take(most).collect();
        state.last = some.last().map(|(port, _)| port.clone());
        some.into_iter().collect()
    }

    /// Notes which ports of a batch were ACTIVE; returns the nodes that this concerns.
    pub(crate) fn found(&self, batch: &Batch, active: impl IntoIterator<Item = PortId>) -> BTreeSet<String> {
        let mut state = self.lock();
        let mut nodes = BTreeSet::new();
        for port in active {
            let Some((plug, node)) = batch.get(&port) else { continue };
            if state.awaited.get(node).and_then(|plugs| plugs.get(&port)) == Some(plug) {
                state.active.insert(port, plug.clone());
                nodes.insert(node.clone());
            }
        }
        nodes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugs(of: &[(&str, &str)]) -> BTreeMap<PortId, PlugId> {
        of.iter().map(|(port, plug)| ((*port).into(), (*plug).to_owned())).collect()
    }

    fn names(batch: &Batch) -> Vec<&str> {
        batch.keys().map(PortId::as_str).collect()
    }

    #[test]
    fn an_answer_counts_for_the_plug_it_was_asked_for() {
        let index = PlugIndex::default();
        index.expect("w1", plugs(&[("a", "1"), ("b", "1")]));
        let batch = index.batch(10);
        assert_eq!(names(&batch), ["a", "b"]);
        // Plugged anew while the question was under way.
        index.expect("w1", plugs(&[("a", "2"), ("b", "1")]));
        assert_eq!(index.found(&batch, ["a".into(), "b".into(), "c".into()]), ["w1".to_owned()].into());
        assert_eq!(index.active("w1"), plugs(&[("b", "1")]));
        assert_eq!(names(&index.batch(10)), ["a"]);
        // What is awaited no more is forgotten.
        index.expect("w1", plugs(&[("a", "2")]));
        index.expect("w1", plugs(&[("a", "2"), ("b", "1")]));
        assert_eq!(index.active("w1"), plugs(&[]));
        index.expect("w1", BTreeMap::new());
        assert!(index.batch(10).is_empty());
    }

    #[test]
    fn all_have_their_turn() {
        let index = PlugIndex::default();
        index.expect("w1", plugs(&[("a", "1"), ("c", "1")]));
        index.expect("w2", plugs(&[("b", "1"), ("d", "1"), ("e", "1")]));
        let turns: Vec<Vec<PortId>> = (0..4).map(|_| index.batch(2).into_keys().collect()).collect();
        let seen: BTreeSet<&str> = turns[..3].iter().flatten().map(PortId::as_str).collect();
        assert_eq!(seen, ["a", "b", "c", "d", "e"].into());
        assert!(turns.iter().all(|turn| turn.len() == 2));
    }

    #[tokio::test]
    async fn only_what_is_new_asks_for_a_look() {
        let index = PlugIndex::default();
        index.expect("w1", plugs(&[("a", "1")]));
        index.more().await;
        index.expect("w1", plugs(&[("a", "1")]));
        index.expect("w1", plugs(&[]));
        let waited = tokio::time::timeout(std::time::Duration::from_millis(20), index.more()).await;
        assert!(waited.is_err());
    }
}
