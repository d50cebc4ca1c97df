//! Full lists of our ports: at the begin of a leadership and a few times soon after, when a write leaves doubt, and every
//! few minutes.
//!
//! Soon after, because a request of the leader before us may end in Neutron when we have listed already.
//!
//! Before each list the ports are looked for that were made and not tagged, by us or by a leader before us that ended
//! in between; with their tags the list shows them, and planning finds a use or an end for them.

use std::time::Duration;

use kuryr_openstack::neutron::port::PortFilter;
use tokio_util::sync::CancellationToken;

use super::Key;
use crate::{cloud::facts::Access, error::Result, term::Term, wiring::World};

/// Distance between lists that fail.
const LIST_AGAIN: Duration = Duration::from_secs(5);

/// Distances of the first lists of a leadership: together more than any request of the leader before may take.
const LIST_SOON: [Duration; 4] =
    [Duration::from_secs(5), Duration::from_secs(10), Duration::from_secs(20), Duration::from_secs(40)];

/// Lists until the leadership is `over`.
pub(crate) async fn run(world: &World, term: &Term, over: CancellationToken) {
    let mut soon = LIST_SOON.into_iter();
    loop {
        let wait = match list(world, term).await {
            Ok(true) => next_wait(&mut soon, world.config.cloud.list_period),
            Ok(false) => LIST_AGAIN,
            Err(error) => {
                tracing::warn!(%error, "could not list our ports");
                LIST_AGAIN
            }
        };
        tokio::select! {
            () = over.cancelled() => return,
            () = world.list_soon.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn next_wait(soon: &mut impl Iterator<Item = Duration>, period: Duration) -> Duration {
    soon.next().map_or(period, |soon| soon.min(period))
}

/// Lists our ports, once it is known who we are.
async fn list(world: &World, term: &Term) -> Result<bool> {
    let known = world.known();
    let Some(access) = &known.access else { return Ok(false) };
    let listing = term.ports.begin();
    if let Err(error) = tag(access, term).await {
        // Those that are tagged need not wait for the others.
        tracing::warn!(%error, "could not tag ports that were made without their tags");
    }
    let ports = access.client.owned_ports(&PortFilter::new(&access.ownership)).await?;
    term.ports.end(listing, &access.owner, ports);
    world.figures.ports.set(i64::try_from(term.ports.len()).unwrap_or(i64::MAX));
    world.add_all_nodes();
    world.look_at(Key::Orphans);
    Ok(true)
}

/// Tags what was made and not tagged.
async fn tag(access: &Access, term: &Term) -> Result<()> {
    for port in access.client.untagged_ports(&access.ownership).await? {
        term.check()?;
        match access.client.adopt_port(&access.ownership, &port).await {
            Ok(port) => {
                tracing::info!(port = %port.id, name = port.name, "tagged a port that was made without tags")
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_leader_lists_again_until_no_request_of_the_last_one_can_be_under_way() {
        let waits = |period: u64| {
            let mut soon = LIST_SOON.into_iter();
            [(); 6].map(|()| next_wait(&mut soon, Duration::from_secs(period)).as_secs())
        };
        assert_eq!(waits(300), [5, 10, 20, 40, 300, 300]);
        assert_eq!(waits(15), [5, 10, 15, 15, 15, 15]);
    }
}
