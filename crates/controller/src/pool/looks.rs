//! When something of the cloud is looked at as a whole, that nobody tells us of: when somebody asks for it, and every few
//! minutes; more often while something is missing.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kuryr_api::kuryrnode::KuryrNode;
use kuryr_kubernetes::store::ObjectKey;
use kuryr_planning::{ownership::OurPort, pool::NodeFacts};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Key, observe, trunks};
use crate::{cloud::trunks::Asked, error::Result, term::Term, wiring::World};

/// Distance between looks that fail.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// While something is missing: first and greatest distance between looks.
const MISSING_FIRST: Duration = Duration::from_secs(5);
const MISSING_MOST: Duration = Duration::from_secs(30);

/// Looks at `what` until it is `over`; `look` tells whether everything was found, `soon` that somebody asks, and `period` is
/// the distance while nothing is missing.
pub(super) async fn run<L: Future<Output = Result<bool>>>(
    what: &str,
    look: impl Fn() -> L,
    soon: &Notify,
    period: Duration,
    over: CancellationToken,
) {
    let mut distance = MISSING_FIRST;
    loop {
        let wait = match look().await {
            Ok(true) => {
                distance = MISSING_FIRST;
                period
            }
            Ok(false) => {
                let now = distance;
                distance = (distance * 2).min(MISSING_MOST);
                now
            }
            Err(error) => {
                tracing::warn!(%error, "could not look at {what}");
                tokio::select! {
                    biased;
                    () = over.cancelled() => return,
                    // Whoever asks meanwhile does not make a cloud that fails be asked more often.
                    () = tokio::time::sleep(LOOK_AGAIN) => continue,
                }
            }
        };
        tokio::select! {
            biased;
            () = over.cancelled() => return,
            () = soon.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Nodes of which something depends on a look.
#[derive(Debug, Default)]
pub(super) struct Asking {
    /// What they are looked for by.
    pub(super) asked: BTreeSet<Asked>,
    /// Their records.
    pub(super) records: Vec<Arc<KuryrNode>>,
    /// Kubernetes has lost one of them.
    pub(super) is_lost: bool,
}

impl Asking {
    /// All nodes that are `asked` for.
    pub(super) fn of(
        world: &World,
        term: &Term,
        asked: impl Fn(&KuryrNode, &NodeFacts, &[OurPort], &World) -> Option<Asked>,
    ) -> Self {
        let mut asking = Self::default();
        for record in world.records.list() {
            let name = observe::name(&record);
            let node = world.nodes.get(&ObjectKey::cluster(name));
            let facts = trunks::facts(node.as_deref());
            let named = observe::named_ports(&record).cloned();
            let ports = term.ports.of_node(name, named).unwrap_or_default();
            if let Some(asked) = asked(&record, &facts, &ports, world) {
                asking.asked.insert(asked);
                asking.records.push(record);
                asking.is_lost |= facts.unreachable;
            }
        }
        asking
    }

    /// Has them looked at, and ports that belong to no node, as more is known now.
    pub(super) fn go_on(&self, world: &World) {
        let nodes = self.records.iter().map(|record| Key::Node(observe::name(record).to_owned()));
        nodes.chain([Key::Orphans]).for_each(|key| world.look_at(key));
    }
}
