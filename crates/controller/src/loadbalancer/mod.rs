//! Load balancers of Services of type `LoadBalancer`, and of those whose ClusterIPs Octavia serves: one key per Service.
//!
//! The story is in [`reconcile`]: look ([`observe`]), plan (`kuryr_planning::loadbalancer`), act ([`apply`]), tell
//! ([`status`]). A load balancer that is being changed parks its key; others go on.

// The story.
pub(crate) mod reconcile;
// One look.
mod observe;
// Where Services share load balancers.
mod guests;
// Steps -> calls.
mod apply;
// Full lists of our load balancers.
pub(crate) mod listing;
// What people are told.
mod status;
// The view for people and upstream's tools.
pub(crate) mod view;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use kuryr_api::names::{SERVICE_FINALIZER, SERVICE_MODE_ANNOTATION};
use kuryr_kubernetes::{slim, store::ObjectKey};
use kuryr_openstack::neutron::Subnet;
use kuryr_planning::{
    loadbalancer::{self as planning, Concern, Members, Memory, Unseen, strays::Strays, unseen::Sight},
    pool::Millis,
};
use kuryr_types::{FloatingIpId, SubnetId};
use tokio::sync::OnceCell;

pub(crate) use guests::service_of as service_of_balancer;
pub(crate) use reconcile::reconcile;

use crate::wiring::World;

use guests::Guests;
use view::Views;

/// What a leadership remembers of load balancers.
#[derive(Debug, Default)]
pub(crate) struct Balancers {
    memories: Mutex<BTreeMap<ObjectKey, Memory>>,
    /// Subnets of VIPs, as they were found.
    vip_subnets: OnceCell<BTreeMap<SubnetId, Subnet>>,
    /// Subnets of ClusterIPs, as they were found.
    service_subnets: OnceCell<BTreeMap<SubnetId, Subnet>>,
    /// Where Services share load balancers.
    guests: Guests,
    /// Floating IPs that were nobody's when they were last listed.
    strays: Mutex<Strays>,
    /// What views should be.
    views: Mutex<Views>,
    /// Addresses of members.
    members: Mutex<Members<ObjectKey>>,
    /// Services whose members nobody has told yet.
    unseen: Mutex<Unseen<ObjectKey>>,
}

impl Balancers {
    /// Plans with the memory of a Service; never held across a call.
    fn with_memory<T>(&self, service: &ObjectKey, plan: impl FnOnce(&mut Memory) -> T) -> T {
        let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        plan(memories.entry(service.clone()).or_default())
    }

    /// Looks at, or notes, what views should be; never held across a call.
    fn with_views<T>(&self, look: impl FnOnce(&mut Views) -> T) -> T {
        look(&mut self.views.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at, or notes, which addresses members have; never held across a call.
    fn with_members<T>(&self, look: impl FnOnce(&mut Members<ObjectKey>) -> T) -> T {
        look(&mut self.members.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a member has this address, or may have it, as far as looks have shown.
    pub(crate) fn may_be_members(&self, address: &IpAddr) -> bool {
        self.with_members(|members| members.may_have(address))
    }

    /// Services that this leadership has looked at and not forgotten.
    fn looked_at(&self) -> Vec<ObjectKey> {
        self.with_members(|members| members.services().cloned().collect())
    }

    /// Whether this leadership has seen all members of a Service's load balancer.
    pub(crate) fn has_looked_at(&self, service: &ObjectKey) -> bool {
        self.with_members(|members| members.knows(service))
    }

    /// Looks, if need be, for a Service whose members nobody has told this leadership.
    pub(crate) fn unseen(&self, now: Millis, world: &World) -> Unseen<ObjectKey> {
        let mut unseen = self.unseen.lock().unwrap_or_else(PoisonError::into_inner);
        unseen.note(now, world.services.synced(), || {
            let services = world.services.list();
            let found = services.iter().find(|service| self.sight(service, world).may_have_any());
            found.map(|service| ObjectKey::of(service.as_ref()))
        });
        unseen.clone()
    }

    fn sight(&self, service: &slim::Service, world: &World) -> Sight {
        let key = ObjectKey::of(service);
        Sight {
            concerns_us: concerns_us(service, world),
            has_finalizer: has_finalizer(service),
            is_seen: self.has_looked_at(&key),
            has_view: world.views.get(&key).is_some(),
        }
    }

    /// Notes floating IPs that are nobody's; returns those that are to be deleted.
    fn note_strays(&self, now: BTreeSet<FloatingIpId>) -> BTreeSet<FloatingIpId> {
        self.strays.lock().unwrap_or_else(PoisonError::into_inner).note(now)
    }

    /// Forgets a Service of which nothing is left.
    fn forget(&self, service: &ObjectKey) {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner).remove(service);
        self.with_views(|views| views.remove(service));
        self.with_members(|members| members.forget(service));
    }
}

/// Whether a Service has to be looked at: it has a load balancer, or had one.
pub(crate) fn concerns_us(service: &slim::Service, world: &World) -> bool {
    let metadata = &service.metadata;
    let own = metadata.annotations.as_ref().and_then(|annotations| annotations.get(SERVICE_MODE_ANNOTATION));
    let namespaces = metadata.namespace.as_deref().and_then(|namespace| world.mode_of(namespace));
    planning::concerns_us(Concern {
        kind: &service.spec.kind,
        has_finalizer: has_finalizer(service),
        // A headless Service has the word `None` there.
        has_cluster_ip: service.spec.cluster_ips.iter().any(|address| address != "None"),
        own_mode: own.map(String::as_str),
        namespace_mode: namespaces.as_deref(),
        by_octavia: world.config.balancers.by_octavia,
    })
}

pub(crate) fn has_finalizer(service: &slim::Service) -> bool {
    service.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == SERVICE_FINALIZER)
}

/// The Service that a slice is of.
pub(crate) fn service_of(slice: &slim::EndpointSlice) -> Option<ObjectKey> {
    let namespace = slice.metadata.namespace.clone()?;
    Some(ObjectKey { namespace, name: slice.service_name()?.to_owned() })
}
