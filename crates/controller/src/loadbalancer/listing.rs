//! Full lists of our load balancers: at the begin of a leadership and every few minutes.
//!
//! Each Service that has or had a load balancer or shares one is looked at then, and each load balancer whose Service is
//! gone: what others changed in the cloud is repaired, and what nobody owns is deleted.

use std::time::Duration;

use kuryr_kubernetes::store::ObjectKey;
use kuryr_openstack::Error as CloudError;
use tokio_util::sync::CancellationToken;

use super::{concerns_us, guests::service_of};
use crate::{error::Result, term::Term, wiring::World};

/// First and greatest distance between lists that fail.
const LIST_AGAIN: Duration = Duration::from_secs(2);
const LIST_AGAIN_MOST: Duration = Duration::from_secs(60);

/// Lists until the leadership is `over`.
pub(crate) async fn run(world: &World, term: &Term, over: CancellationToken) {
    let mut again = LIST_AGAIN;
    loop {
        let wait = match list(world, term).await {
            Ok(true) => {
                again = LIST_AGAIN;
                world.config.cloud.list_period
            }
            Ok(false) => LIST_AGAIN,
            Err(error) => {
                tracing::warn!(%error, "could not list our load balancers");
                let now = again;
                again = (again * 2).min(LIST_AGAIN_MOST);
                now
            }
        };
        tokio::select! {
            biased;
            () = over.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Lists our load balancers, once it is known who we are and which Services there are.
async fn list(world: &World, term: &Term) -> Result<bool> {
    term.check()?;
    let known = world.known();
    let Some(access) =
        known.access.as_ref().filter(|_| world.services.in_sync() && world.namespaces.synced())
    else {
        return Ok(false);
    };
    for service in world.services.list().iter().filter(|service| concerns_us(service, world)) {
        world.balancers.add(ObjectKey::of(service.as_ref()));
    }
    let balancers = match access.client.load_balancers(&access.ownership, None).await {
        // A cloud without Octavia has none.
        Err(CloudError::EndpointMissing { .. }) => return Ok(true),
        balancers => balancers?,
    };
    world.figures.balancers.set(i64::try_from(balancers.len()).unwrap_or(i64::MAX));
    let guests = term.balancers.guests.list(access).await?;
    let own = balancers.iter().filter_map(|balancer| service_of(&balancer.name));
    own.chain(guests).for_each(|service| world.balancers.add(service));
    Ok(true)
}
