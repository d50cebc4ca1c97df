//! One leadership: what is written is written under its epoch, and its memory ends with it.
//!
//! 1. Whoever gets the Lease waits until all watches are complete.
//! 2. It takes an epoch greater than any it can see (Lease, records, what agents can have seen), and writes it into the Lease.
//! 3. Every record gets the epoch before anything else is decided about its node; the API server lets no record go back
//!    to a lower one, so a former leader that wakes up late can write nothing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kuryr_api::kuryrnode::KuryrNode;
use kuryr_kubernetes::lease::{Leadership, Term as LeaseTerm};
use kuryr_planning::{
    demand::Governor,
    ownership::Purpose,
    pool::{Generations, Memory},
};
use kuryr_types::Epoch;
use tokio::sync::mpsc;

use crate::{
    cloud::{PlugIndex, PortIndex, ServerIndex, TrunkIndex},
    error::{Error, Result},
    loadbalancer::Balancers,
    pool::creations::Creation,
};

/// A leadership.
#[derive(Debug)]
pub(crate) struct Term {
    /// Its epoch.
    pub(crate) epoch: Epoch,
    /// Our ports, as far as this leadership knows.
    pub(crate) ports: PortIndex,
    /// Trunks of our project, the same.
    pub(crate) trunks: TrunkIndex,
    /// What is plugged and waits for Neutron to call it ACTIVE.
    pub(crate) plugs: PlugIndex,
    /// Ports of servers, the same.
    pub(crate) servers: ServerIndex,
    /// What is remembered of load balancers.
    pub(crate) balancers: Balancers,
    /// Takes creations that have their turn.
    pub(crate) creations: mpsc::UnboundedSender<Creation>,
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
    /// Whose turn it is to make ports.
    pub(crate) governor: Governor,
    /// What is being made for which node, and how many.
    pub(crate) making: BTreeMap<String, (Purpose, usize)>,
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
        governor: Governor,
        creations: mpsc::UnboundedSender<Creation>,
    ) -> Result<Self> {
        let epoch = next_epoch(lease.epoch, records);
        leadership.record_epoch(lease, epoch).await?;
        tracing::info!(epoch, records = records.len(), "leading");
        let state = State::new(epoch, governor);
        Ok(Self {
            epoch,
            ports: PortIndex::new(),
            trunks: TrunkIndex::default(),
            plugs: PlugIndex::default(),
            servers: ServerIndex::default(),
            balancers: Balancers::default(),
            creations,
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
    /// Nothing is remembered yet.
    fn new(epoch: Epoch, governor: Governor) -> Self {
        Self {
            generations: Generations::of_epoch(epoch),
            nodes: BTreeMap::new(),
            orphans: Memory::default(),
            written: BTreeMap::new(),
            governor,
            making: BTreeMap::new(),
        }
    }

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
    }
}

/// How far an agent's word for an epoch may be ahead of what leaders have written: it is needed where they were restored
/// from a backup, and there have been fewer leaderships since.
const SEEN_AHEAD_MOST: Epoch = 1 << 20;

/// An epoch greater than any. What an agent says it has seen counts only if a leader can have written it: one node whose
/// agent is not ours any more would otherwise use up all epochs.
fn next_epoch(of_lease: Epoch, records: &[Arc<KuryrNode>]) -> Epoch {
    let written = records.iter().map(|record| record.spec.epoch).fold(of_lease, Epoch::max);
    let most = written.saturating_add(SEEN_AHEAD_MOST);
    let seen = records.iter().filter_map(|record| {
        let seen = record.status.as_ref()?.epoch_seen;
        if seen > most {
            let node = record.metadata.name.as_deref().unwrap_or_default();
            tracing::warn!(
                node,
                seen,
                written,
                "the node's agent tells of an epoch that no leader has written"
            );
        }
        Some(seen).filter(|seen| *seen <= most)
    });
    seen.fold(written, Epoch::max).saturating_add(1)
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
    use std::time::Duration;

    use super::*;
    use kuryr_api::kuryrnode::KuryrNodeSpec;
    use kuryr_kubernetes::lease::{LeaseConfig, elector};
    use kuryr_planning::demand::Rate;
    use kuryr_testkit::api_server::{ApiServer, Fault, Streaming};
    use tokio::time::sleep;
    use tokio_util::sync::CancellationToken;

    fn governor() -> Governor {
        Governor::new(Rate { per_second: 0, requests: 1 }, 0)
    }

    #[tokio::test(start_paused = true)]
    async fn a_term_that_is_not_renewed_ends_by_itself() {
        let api = ApiServer::new(Streaming::Allowed);
        let (candidate, leadership) = elector(api.client(), LeaseConfig::new("n", "l", "a")).unwrap();
        tokio::spawn(candidate.run(CancellationToken::new()));
        sleep(Duration::from_secs(1)).await;
        let lease = leadership.current().unwrap();
        let (creations, _wanted) = mpsc::unbounded_channel();
        let term = Term::begin(&leadership, &lease, &[], governor(), creations).await.unwrap();
        assert_eq!(term.epoch, 1);
        assert!(term.check().is_ok());
        for _ in 0..10 {
            api.fail("PATCH", Fault::Status(500));
        }
        sleep(Duration::from_secs(11)).await;
        assert!(matches!(term.check(), Err(Error::NotLeader)));
        sleep(Duration::from_secs(30)).await;
        assert!(leadership.current().is_some(), "it leads again");
        assert!(matches!(term.check(), Err(Error::NotLeader)), "in another term");
    }

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
            let mut state = State::new(1, governor());
            if let Some((version, uid)) = written {
                state.wrote("n", (*record(version, uid)).clone());
            }
            let watched = watched.map(|(version, uid)| record(version, uid));
            let got = state.newest("n", watched);
            assert_eq!(got.and_then(|record| record.metadata.resource_version.clone()).as_deref(), expect);
        }
    }
}
