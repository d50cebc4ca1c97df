//! One leadership: what is written is written under its epoch, and its memory ends with it.
//!
//! 1. Whoever gets the Lease waits until all watches are complete.
//! 2. It takes an epoch greater than any it can see (Lease, records, what agents have seen), and writes it into the Lease.
//! 3. Every record gets the epoch before anything else is decided about its node; the API server lets no record go back
//!    to a lower one, so a former leader that wakes up late can write nothing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kuryr_api::kuryrnode::{KuryrNode, Problem};
use kuryr_kubernetes::lease::{Leadership, Term as LeaseTerm};
use kuryr_planning::pool::{Generations, Memory, Millis};
use kuryr_types::Epoch;

use crate::{
    cloud::PortIndex,
    error::{Error, Result},
};

/// A leadership.
#[derive(Debug)]
pub(crate) struct Term {
    /// Its epoch.
    pub(crate) epoch: Epoch,
    /// Our ports, as far as this leadership knows.
    pub(crate) ports: PortIndex,
    leadership: Leadership,
    number: u64,
    state: Mutex<State>,
}

/// What a leadership remembers.
#[derive(Debug)]
pub(crate) struct State {
    /// Numbers of offers.
    pub(crate) generations: Generations,
    /// Memory of planning, by node.
    pub(crate) nodes: BTreeMap<String, Memory>,
    /// Memory of planning for ports without a node.
    pub(crate) orphans: Memory,
    /// Records as our last write returned them: the watch may be behind.
    written: BTreeMap<String, Arc<KuryrNode>>,
    /// What went wrong when ports were to be made for a node, and when to try again.
    pub(crate) trouble: BTreeMap<String, Trouble>,
}

/// A creation that failed.
#[derive(Debug, Clone)]
pub(crate) struct Trouble {
    /// In words.
    pub(crate) problem: Problem,
    /// How often in a row.
    pub(crate) times: u32,
    /// No creation before.
    pub(crate) until: Millis,
}

impl Term {
    /// Begins a leadership: chooses the epoch and writes it into the Lease.
    ///
    /// # Errors
    ///
    /// The Lease cannot be written, or is somebody else's by now.
    pub(crate) async fn begin(
        leadership: &Leadership,
        lease: &LeaseTerm,
        records: &[Arc<KuryrNode>],
    ) -> Result<Self> {
        let epoch = 1 + records.iter().map(|record| seen(record)).chain([lease.epoch]).max().unwrap_or(0);
        leadership.record_epoch(lease, epoch).await?;
        tracing::info!(epoch, records = records.len(), "leading");
        let state = State {
            generations: Generations::of_epoch(epoch),
            nodes: BTreeMap::new(),
            orphans: Memory::default(),
            written: BTreeMap::new(),
            trouble: BTreeMap::new(),
        };
        Ok(Self {
            epoch,
            ports: PortIndex::new(),
            leadership: leadership.clone(),
            number: lease.number,
            state: Mutex::new(state),
        })
    }

    /// Passes if this leadership still lasts; to be asked before every write.
    ///
    /// # Errors
    ///
    /// It is over.
    pub(crate) fn check(&self) -> Result<()> {
        let lasts = self.leadership.current().is_some_and(|term| term.number == self.number);
        if lasts { Ok(()) } else { Err(Error::NotLeader) }
    }

    /// What this leadership remembers. Held for decisions only, never across a call.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The newer of the record in the watch and the record as we last wrote it.
    pub(crate) fn newest(&mut self, name: &str, watched: Option<Arc<KuryrNode>>) -> Option<Arc<KuryrNode>> {
        let Some(written) = self.written.get(name) else { return watched };
        match &watched {
            Some(watched) if same_life(watched, written) && version(watched) < version(written) => {
                Some(Arc::clone(written))
            }
            // Not in the watch yet: made by us just now.
            None => Some(Arc::clone(written)),
            Some(_) => {
                self.written.remove(name);
                watched
            }
        }
    }

    /// Notes what a write of ours returned.
    pub(crate) fn wrote(&mut self, name: &str, record: KuryrNode) {
        self.written.insert(name.to_owned(), Arc::new(record));
    }

    /// Notes that a record is gone.
    pub(crate) fn forget(&mut self, name: &str) {
        self.written.remove(name);
        self.nodes.remove(name);
        self.trouble.remove(name);
    }
}

fn seen(record: &KuryrNode) -> Epoch {
    record.spec.epoch.max(record.status.as_ref().map_or(0, |status| status.epoch_seen))
}

fn same_life(one: &KuryrNode, other: &KuryrNode) -> bool {
    one.metadata.uid == other.metadata.uid
}

/// Kubernetes versions of one kind of object can be compared as numbers (API concepts, "Resource versions"); one that
/// cannot be read is taken for old.
fn version(record: &KuryrNode) -> u64 {
    record.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kuryr_api::kuryrnode::KuryrNodeSpec;

    fn record(version: &str, uid: &str) -> Arc<KuryrNode> {
        let mut record = KuryrNode::new("n", KuryrNodeSpec::default());
        record.metadata.resource_version = Some(version.into());
        record.metadata.uid = Some(uid.into());
        Arc::new(record)
    }

    #[test]
    fn reads_its_own_writes() {
        for (watched, written, expect) in [
            (Some(("5", "u")), None, Some("5")),
            (Some(("5", "u")), Some(("9", "u")), Some("9")),
            (Some(("10", "u")), Some(("9", "u")), Some("10")),
            // Deleted and made again by somebody.
            (Some(("5", "v")), Some(("9", "u")), Some("5")),
            (None, Some(("9", "u")), Some("9")),
            (None, None, None),
        ] {
            let mut state = State {
                generations: Generations::of_epoch(1),
                nodes: BTreeMap::new(),
                orphans: Memory::default(),
                written: BTreeMap::new(),
                trouble: BTreeMap::new(),
            };
            if let Some((version, uid)) = written {
                state.wrote("n", (*record(version, uid)).clone());
            }
            let watched = watched.map(|(version, uid)| record(version, uid));
            let got = state.newest("n", watched);
            assert_eq!(got.and_then(|record| record.metadata.resource_version.clone()).as_deref(), expect);
        }
    }
}
