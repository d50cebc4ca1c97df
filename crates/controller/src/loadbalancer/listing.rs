//! Full lists of our load balancers: at the begin of a leadership and every few minutes.
//!
//! Each Service that has or had a load balancer or shares one is looked at then, and each load balancer whose Service is
//! gone: what others changed in the cloud is repaired, and what nobody owns is deleted. So are floating IPs that neither a Service
//! nor a load balancer leads to any more; before that, those that were made and not tagged are tagged.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use kuryr_kubernetes::{slim, store::ObjectKey};
use kuryr_openstack::{
    Error as CloudError,
    neutron::{FloatingIp, FloatingIpFilter, OwnedFloatingIp},
};
use kuryr_planning::{
    loadbalancer::{mark, strays::Listed},
    ownership::{Owner, service_tag},
};
use tokio_util::sync::CancellationToken;

use super::{concerns_us, guests::service_of};
use crate::{cloud::facts::Access, error::Result, term::Term, wiring::World};

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
    own.chain(guests).chain(term.balancers.looked_at()).for_each(|service| world.balancers.add(service));
    list_floating(access, world, term).await?;
    Ok(true)
}

/// Lists our floating IPs: Services that nobody would look at any more get their turn, and what is nobody's is deleted.
async fn list_floating(access: &Access, world: &World, term: &Term) -> Result<()> {
    let FloatingIps { mut tagged, untagged } = our_floating_ips(access).await?;
    // One that cannot be read may be whose floating IP it is.
    if !world.services.in_sync() || !world.services.undecodable().is_empty() {
        return Ok(());
    }
    let services = world.services.list();
    let by_uid: BTreeMap<&str, _> =
        services.iter().filter_map(|service| Some((service.metadata.uid.as_deref()?, service))).collect();
    let named = named(services.iter().map(AsRef::as_ref));
    for (floating, service) in untagged {
        term.check()?;
        tagged.extend(tag_floating(floating, &service, access).await);
    }
    let found = tagged;
    for service in found
        .iter()
        .flat_map(|found| listed(found, &named, &access.owner).services())
        .filter_map(|uid| by_uid.get(uid))
    {
        if !concerns_us(service, world) {
            world.balancers.add(ObjectKey::of(service.as_ref()));
        }
    }
    let is_nobodys =
        |found: &&FloatingIp| listed(found, &named, &access.owner).is_nobodys(|uid| by_uid.contains_key(uid));
    let strays: BTreeSet<_> = found.iter().filter(is_nobodys).map(|found| found.id.clone()).collect();
    world.figures.found_stray_floating_ips(strays.len());
    let due = term.balancers.note_strays(strays);
    let owner = Arc::new(access.ownership.clone());
    for stray in found.into_iter().filter(|found| due.contains(&found.id)) {
        term.check()?;
        tracing::info!(floating = %stray.id, address = %stray.floating_ip_address, "deleting a floating IP that is nobody's");
        // Of one that fails the next list tells again.
        match access.client.delete_floating_ip(&OwnedFloatingIp::prove(&owner, stray)?).await {
            Ok(()) => drop(world.figures.collected.inc()),
            Err(error) => tracing::warn!(%error, "could not delete a floating IP that is nobody's"),
        }
    }
    Ok(())
}

/// Tags one that was made and not tagged. Of one that cannot be tagged the next list tells again.
async fn tag_floating(listed: FloatingIp, service: &str, access: &Access) -> Option<FloatingIp> {
    let id = listed.id.clone();
    let floating = still_untagged(listed, access).await?;
    let tag = service_tag(service);
    match access.client.adopt_floating_ip(&access.ownership, floating, &[tag]).await {
        Ok(tagged) => {
            tracing::info!(floating = %id, "tagged a floating IP that was made without tags");
            Some((*tagged).clone())
        }
        Err(CloudError::NotFound { .. }) => None,
        Err(error) => {
            tracing::warn!(floating = %id, %error, "could not tag a floating IP that was made without tags");
            None
        }
    }
}

/// It as it is now, if it is as it was listed: its Service may have been at work since.
async fn still_untagged(listed: FloatingIp, access: &Access) -> Option<FloatingIp> {
    let filter =
        FloatingIpFilter { description: Some(listed.description.clone()), ..FloatingIpFilter::default() };
    let found = access.client.floating_ips(access.owner.project(), &filter).await.inspect_err(|error| {
        tracing::warn!(floating = %listed.id, %error, "could not look again at a floating IP that was made without tags");
    });
    let now = found.ok()?;
    now.into_iter()
        .find(|now| now.id == listed.id && now.tags == listed.tags && now.port_id == listed.port_id)
}

/// All floating IPs of ours.
#[derive(Debug)]
pub(crate) struct FloatingIps {
    /// Those with our tags.
    pub(crate) tagged: Vec<FloatingIp>,
    /// Those that only their descriptions tell and that lead nowhere, with the UID of the Service that they name. By whom one is used
    /// that leads somewhere its port tells.
    pub(crate) untagged: Vec<(FloatingIp, String)>,
}

/// Lists all floating IPs of ours: those of the project, since Neutron cannot be asked for the begin of a description.
pub(crate) async fn our_floating_ips(access: &Access) -> std::result::Result<FloatingIps, CloudError> {
    let found = match access.client.floating_ips(access.owner.project(), &FloatingIpFilter::default()).await {
        // A cloud without routers has none.
        Err(CloudError::NotFound { .. }) => vec![],
        found => found?,
    };
    let (tagged, others): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|found| access.owner.has_marked(&found.tags));
    let untagged = others.into_iter().filter(|found| found.port_id.is_none()).filter_map(|found| {
        let service = mark::service_of_untagged(&found.tags, &found.description, &access.owner)?.to_owned();
        Some((found, service))
    });
    Ok(FloatingIps { tagged, untagged: untagged.collect() })
}

/// As planning takes it.
pub(crate) fn listed<'a>(found: &'a FloatingIp, named: &BTreeSet<IpAddr>, owner: &Owner) -> Listed<'a> {
    Listed {
        id: &found.id,
        tags: &found.tags,
        is_made: mark::is_made(&found.description, owner),
        leads_somewhere: found.port_id.is_some(),
        is_named: named.contains(&found.floating_ip_address),
    }
}

/// Addresses that Services ask for or tell.
pub(crate) fn named<'a>(services: impl Iterator<Item = &'a slim::Service>) -> BTreeSet<IpAddr> {
    let of = |service: &'a slim::Service| {
        let told = service.status.load_balancer.ingress.iter().filter_map(|ingress| ingress.ip.as_deref());
        service.spec.load_balancer_ip.as_deref().into_iter().chain(told)
    };
    services.flat_map(of).filter_map(|address| address.parse().ok()).collect()
}
