//! Looks at ports that are plugged and wait for Neutron to call them ACTIVE: all that wait, of all nodes, by one list.
//!
//! While some become ACTIVE the next look comes soon, while none does it comes later each time. When none waits nobody
//! asks.

use std::time::Duration;

use kuryr_openstack::neutron::port::{PortFilter, PortStatus};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Key;
use crate::{error::Result, term::Term, wiring::World};

/// From what is new to the look that includes it, and between looks that find something. Neutron's agents deal with
/// what is plugged every two seconds.
const LOOK_SOON: Duration = Duration::from_millis(500);
/// Greatest distance between looks that find nothing.
const LOOK_LATER: Duration = Duration::from_secs(15);
/// Ports in one list: as many ids as fit into one address.
const AT_ONCE: usize = 100;

/// Looks until the leadership is `over`.
pub(crate) async fn run(world: &World, term: &Term, over: CancellationToken) {
    let mut pause = None;
    loop {
        tokio::select! {
            biased;
            () = over.cancelled() => return,
            () = rest(term, &mut pause) => {}
        }
        let looked = tokio::select! {
            biased;
            () = over.cancelled() => return,
            looked = look(world, term) => looked,
        };
        pause = match looked {
            Ok(Looked::Nothing) => None,
            Ok(Looked::Found) => Some(LOOK_SOON),
            Ok(Looked::InVain) => Some(later(pause)),
            Err(error) => {
                tracing::warn!(%error, "could not look at ports that are to become ACTIVE");
                Some(later(pause))
            }
        };
    }
}

fn later(pause: Option<Duration>) -> Duration {
    pause.map_or(LOOK_SOON, |pause| (pause * 2).min(LOOK_LATER))
}

/// Waits for the next look. What is new meanwhile does not wait for the others, and does not keep them waiting.
async fn rest(term: &Term, pause: &mut Option<Duration>) {
    let Some(due) = pause.map(|pause| Instant::now() + pause) else {
        term.plugs.more().await;
        *pause = Some(LOOK_SOON);
        return tokio::time::sleep(LOOK_SOON).await;
    };
    tokio::select! {
        biased;
        () = tokio::time::sleep_until(due) => {}
        () = term.plugs.more() => {
            *pause = Some(LOOK_SOON);
            tokio::time::sleep_until(due.min(Instant::now() + LOOK_SOON)).await;
        }
    }
}

/// What came of a look.
enum Looked {
    /// None waits.
    Nothing,
    /// Some were ACTIVE.
    Found,
    /// None was.
    InVain,
}

async fn look(world: &World, term: &Term) -> Result<Looked> {
    let batch = term.plugs.batch(AT_ONCE);
    if batch.is_empty() {
        return Ok(Looked::Nothing);
    }
    let known = world.known();
    let Some(access) = &known.access else { return Ok(Looked::InVain) };
    let filter = PortFilter::new(&access.ownership).ids(batch.keys().cloned());
    let ports = access.client.owned_ports(&filter).await?;
    let active: Vec<_> =
        ports.iter().filter(|port| port.status == PortStatus::Active).map(|port| port.id.clone()).collect();
    tracing::debug!(asked = batch.len(), active = active.len(), "looked at ports that are plugged");
    ports.into_iter().for_each(|port| term.ports.refresh(&access.owner, port));
    let nodes = term.plugs.found(&batch, active);
    let found = !nodes.is_empty();
    nodes.into_iter().for_each(|node| world.look_at(Key::Node(node)));
    Ok(if found { Looked::Found } else { Looked::InVain })
}
