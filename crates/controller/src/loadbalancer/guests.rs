//! Which load balancers that are not its own a Service has something on, as far as a leadership knows.
//!
//! They are found by tags in full lists, the first of which is made before any Service is looked at; noted when a Service
//! names one, before anything is put there; forgotten when a look finds nothing of it there any more. So nothing that was
//! made is lost, also by a controller that ends between two steps, nor when somebody takes the Service's finalizer off.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use kuryr_kubernetes::store::ObjectKey;
use kuryr_planning::ownership::{GUEST_TAG, made_for};
use kuryr_types::LoadBalancerId;
use tokio::sync::OnceCell;

use crate::{cloud::facts::Access, error::Result};

type ByService = BTreeMap<ObjectKey, BTreeSet<LoadBalancerId>>;

/// Load balancers by the Services that are guests there.
#[derive(Debug, Default)]
pub(super) struct Guests {
    first_list: OnceCell<()>,
    by_service: Mutex<ByService>,
}

impl Guests {
    /// Lists all; returns the Services.
    ///
    /// # Errors
    ///
    /// What the cloud answers.
    pub(super) async fn list(&self, access: &Access) -> Result<Vec<ObjectKey>> {
        let found = access.client.guests(&access.ownership, GUEST_TAG).await?;
        for guest in found {
            let Some(service) = made_for(&guest.name).and_then(service_of) else { continue };
            self.known().entry(service).or_default().extend(guest.load_balancers);
        }
        Ok(self.known().keys().cloned().collect())
    }

    /// Where a Service is a guest, or may be.
    ///
    /// # Errors
    ///
    /// What the cloud answers, if nothing was listed before.
    pub(super) async fn of(&self, service: &ObjectKey, access: &Access) -> Result<BTreeSet<LoadBalancerId>> {
        self.first_list.get_or_try_init(|| async { self.list(access).await.map(drop) }).await?;
        Ok(self.known().get(service).cloned().unwrap_or_default())
    }

    /// Notes that a Service is a guest there, or not any more.
    pub(super) fn note(&self, service: &ObjectKey, id: &LoadBalancerId, is_guest: bool) {
        let mut known = self.known();
        if is_guest {
            known.entry(service.clone()).or_default().insert(id.clone());
            return;
        }
        if let Some(ids) = known.get_mut(service) {
            ids.remove(id);
            if ids.is_empty() {
                known.remove(service);
            }
        }
    }

    /// Services that are guests there.
    pub(super) fn on(&self, id: &LoadBalancerId) -> Vec<ObjectKey> {
        let known = self.known();
        known.iter().filter(|(_, ids)| ids.contains(id)).map(|(service, _)| service.clone()).collect()
    }

    /// Never held across a call.
    fn known(&self) -> MutexGuard<'_, ByService> {
        self.by_service.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The Service whose load balancers have this name.
pub(crate) fn service_of(balancer: &str) -> Option<ObjectKey> {
    let (namespace, name) = balancer.split_once('/')?;
    Some(ObjectKey { namespace: namespace.to_owned(), name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_on_a_load_balancer_is_known_until_it_has_left() {
        let guests = Guests::default();
        let service = |name: &str| service_of(&format!("d/{name}")).unwrap();
        for name in ["web", "dns"] {
            guests.note(&service(name), &"b".into(), true);
        }
        guests.note(&service("web"), &"c".into(), true);
        assert_eq!(guests.on(&"b".into()), [service("dns"), service("web")]);
        guests.note(&service("web"), &"b".into(), false);
        guests.note(&service("dns"), &"b".into(), false);
        assert_eq!((guests.on(&"b".into()), guests.on(&"c".into())), (vec![], vec![service("web")]));
        assert_eq!(guests.known().len(), 1);
    }
}
