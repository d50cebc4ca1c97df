//! Full lists of our ports: at the begin of a leadership and a few times soon after, when a write leaves doubt, and every
//! few minutes.
//!
//! Soon after, because a request of the leader before us may end in Neutron when we have listed already.
//!
//! Before each list the ports are looked for that were made and not tagged, by us or by a leader before us that ended
//! in between; with their tags the list shows them, and planning finds a use or an end for them.
//!
//! A list in which a known port is missing is believed if that port, asked for by its id, is not there either: a Neutron
//! server that had just been started was seen to answer 200 with no ports at all. Before the first list no port is known;
//! if that is empty, ports that records name are asked for.

use std::time::Duration;

use kuryr_openstack::neutron::port::{OwnedPort, PortFilter};
use kuryr_types::PortId;
use tokio_util::sync::CancellationToken;

use super::Key;
use crate::{
    cloud::{
        facts::Access,
        ports::{Listing, PortIndex},
    },
    error::Result,
    term::Term,
    wiring::World,
};

/// Distance between lists that fail.
const LIST_AGAIN: Duration = Duration::from_secs(5);

/// Distances of the first lists of a leadership: together more than any request of the leader before may take.
const LIST_SOON: [Duration; 4] =
    [Duration::from_secs(5), Duration::from_secs(10), Duration::from_secs(20), Duration::from_secs(40)];

/// Records of which a port is asked for where a list is empty: of one, somebody may have deleted it.
const RECORDS_ASKED: usize = 8;

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
            biased;
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
    let of_records = world.records.list();
    let of_records =
        of_records.iter().filter_map(|record| super::observe::named_ports(record).next().cloned());
    let of_records: Vec<PortId> = of_records.take(RECORDS_ASKED).collect();
    if let Some(port) = left_out(access, &term.ports, &listing, &ports, of_records).await? {
        tracing::warn!(%port, listed = ports.len(), "Neutron's list of our ports leaves out one that is there");
        return Ok(false);
    }
    term.ports.end(listing, &access.owner, ports);
    world.figures.ports.set(i64::try_from(term.ports.len()).unwrap_or(i64::MAX));
    world.add_all_nodes();
    world.look_at(Key::Orphans);
    Ok(true)
}

/// A port that is there and ours and not in the list. Of those that are known one is asked for: of those that somebody
/// deleted there may be many. Those `of_records` are asked for if the list is empty.
async fn left_out(
    access: &Access,
    known: &PortIndex,
    listing: &Listing,
    ports: &[OwnedPort],
    of_records: Vec<PortId>,
) -> Result<Option<PortId>> {
    let vanished = known.vanished(listing, ports).into_iter().next();
    let of_records = of_records.into_iter().filter(|_| ports.is_empty());
    for id in vanished.into_iter().chain(of_records) {
        match access.client.owned_port(&access.ownership, &id).await {
            Ok(_) => return Ok(Some(id)),
            Err(error) if error.is_not_found() || matches!(error, kuryr_openstack::Error::Foreign { .. }) => {
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// Tags what was made and not tagged. Goes on after a port that cannot be tagged, and tells the first.
async fn tag(access: &Access, term: &Term) -> Result<()> {
    let mut result = Ok(());
    for port in access.client.untagged_ports(&access.ownership).await? {
        term.check()?;
        match access.client.adopt_port(&access.ownership, &port).await {
            Ok(port) => {
                tracing::info!(port = %port.id, name = port.name, "tagged a port that was made without tags")
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => result = result.and(Err(error.into())),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kuryr_openstack::neutron::port::PortCreate;

    use super::*;
    use crate::cloud::fake::{FakeCloud, lock};

    #[tokio::test]
    async fn a_list_that_leaves_out_what_is_there_is_not_believed() {
        let cloud = Arc::new(FakeCloud::default());
        let (access, known) = (cloud.access(), PortIndex::new());
        let name = kuryr_planning::ownership::pool_port_name("w1");
        let wanted = PortCreate {
            device_owner: kuryr_api::names::POD_DEVICE_OWNER.into(),
            ..PortCreate::on("n".into(), name)
        };
        let made = access.client.create_ports(&access.ownership, &[wanted]).await.unwrap();
        let id = made[0].id.clone();
        known.end(known.begin(), &access.owner, made);
        let listing = known.begin();
        let new = PortIndex::new();
        let ask = async |known: &PortIndex, ports: &[OwnedPort], of_records: &[&str]| {
            let of_records = of_records.iter().map(|id| PortId::from(*id)).collect();
            left_out(&access, known, &listing, ports, of_records).await.unwrap()
        };
        assert_eq!(ask(&known, &[], &[]).await, Some(id.clone()));
        let all = access.client.owned_ports(&PortFilter::new(&access.ownership)).await.unwrap();
        assert_eq!(ask(&known, &all, &[]).await, None);
        // Before the first list, records tell.
        assert_eq!(ask(&new, &[], &["deleted", id.as_str()]).await, Some(id.clone()));
        assert_eq!(ask(&new, &all, &["deleted"]).await, None);
        assert_eq!(ask(&new, &[], &["deleted"]).await, None);
        // Somebody took our tags off it, or deleted it.
        lock(&cloud.ports)[0]["tags"] = serde_json::json!([]);
        assert_eq!(ask(&known, &[], &[]).await, None);
        lock(&cloud.ports).clear();
        assert_eq!(ask(&known, &[], &[]).await, None);
        // What was written since says nothing about the list.
        known.remove(&id);
        assert_eq!(known.vanished(&listing, &[]), []);
    }

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
