//! Connected UDP sockets whose endpoint has gone are closed: nothing else would tell their process, as nobody answers at
//! an address that is gone. Of sockets that are not connected the programs themselves choose another endpoint.
//!
//! 1. When endpoints of a Service end, and after each look at all Services, all sockets of the node that were brought to
//!    endpoints are listed.
//! 2. What becomes of each is [`kuryr_planning::service::fate`], asked with the tables as they are after the list: what a
//!    socket was brought to before the list was made was in the tables, or has been taken out of them since.
//! 3. Those that are to end are closed. A Service with a socket that lingers is looked at whenever it changes.
//!
//! A socket that connects while its endpoint goes may be missed; the next look at all Services finds it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kuryr_datapath::{Reached, TranslatedSocket, TranslatedSockets};
use kuryr_kubernetes::store::ObjectKey;
use kuryr_planning::service::{Change, Cluster, Fate, OwnerKind, Socket, Tables, Target, fate};
use tokio::sync::Notify;

use super::{Services, Work, observe};
use crate::{
    error::{Result, with_causes},
    wiring::World,
};

/// Between two lists: each looks into every namespace.
const BETWEEN: Duration = Duration::from_millis(250);

/// What this part remembers.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// Something may be lost.
    wake: Notify,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Services with sockets whose endpoint still serves, though clients are not given it.
    lingering: BTreeSet<ObjectKey>,
    /// Why this kernel cannot close sockets of others.
    trouble: Option<String>,
}

impl Lost {
    /// Notes changes of a Service that were written.
    pub(super) fn changed(&self, key: &ObjectKey, ends_endpoints: bool) {
        if ends_endpoints || self.known().lingering.contains(key) {
            self.look();
        }
    }

    /// Has everything looked at.
    pub(super) fn look(&self) {
        self.wake.notify_one();
    }

    /// Why this kernel cannot close sockets of others, if that is known.
    pub(super) fn trouble(&self) -> Option<String> {
        self.known().trouble.clone()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Replaced whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether any of these changes may have ended an endpoint of a socket.
pub(super) fn ends_endpoints(changes: &[Change]) -> bool {
    changes.iter().any(Change::ends_endpoints)
}

/// Closes sockets whose endpoint has gone, for as long as the agent runs.
pub(crate) async fn run(world: World) {
    let mut sockets = None;
    loop {
        world.services.lost.wake.notified().await;
        if sockets.is_none() {
            sockets = open(&world).await;
        }
        if let Some(sockets) = &sockets
            && let Err(error) = end_lost(&world, sockets).await
        {
            tracing::warn!("sockets whose endpoint has gone are not closed: {}", with_causes(&error));
        }
        tokio::time::sleep(BETWEEN).await;
    }
}

/// Opens what programs remember of sockets, and finds out whether sockets can be closed.
async fn open(world: &World) -> Option<Arc<Mutex<TranslatedSockets>>> {
    let bpf_dir = world.config.bpf_dir.clone();
    let open = move || {
        let mut sockets = TranslatedSockets::open(&bpf_dir)?;
        sockets.try_out().map(|()| sockets)
    };
    let (sockets, trouble) = match world.kernel.blocking("close a socket for a trial", open).await {
        Ok(Ok(sockets)) => (Some(Arc::new(Mutex::new(sockets))), None),
        Ok(Err(error)) => (None, Some(with_causes(&error))),
        Err(error) => (None, Some(with_causes(&error))),
    };
    let before = std::mem::replace(&mut world.services.lost.known().trouble, trouble.clone());
    if before != trouble {
        // Tells it.
        world.services.queue.add(Work::All);
    }
    sockets
}

async fn end_lost(world: &World, sockets: &Arc<Mutex<TranslatedSockets>>) -> Result<()> {
    let (folder, list) = (world.config.netns_dir.clone(), Arc::clone(sockets));
    let listed = world.kernel.blocking("list sockets", move || lock(&list).list(&folder)).await?;
    let mut found = told(listed);
    let fates = {
        let held = world.services.held.lock().await;
        // A look at all Services is under way, which has us look again.
        let Some(tables) = &held.tables else { return Ok(()) };
        judge(&world.services, tables, &held.cluster, found.iter().map(as_planned))
    };
    let mut fates = fates.into_iter();
    found.retain(|_| fates.next() == Some(Fate::Ends));
    let Some(first) = found.first() else { return Ok(()) };
    tracing::info!(
        sockets = found.len(), service = %first.frontend, endpoint = %first.backend,
        "closing connected UDP sockets whose endpoint has gone"
    );
    let close = Arc::clone(sockets);
    let closed = told(world.kernel.blocking("close sockets", move || lock(&close).close(&found)).await?);
    world.metrics.service_closed(closed);
    Ok(())
}

fn lock(sockets: &Mutex<TranslatedSockets>) -> MutexGuard<'_, TranslatedSockets> {
    // Nothing is kept in there between two calls.
    sockets.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes what was reached, and tells what was not.
fn told<T>(reached: Reached<T>) -> T {
    for error in &reached.failures {
        tracing::warn!("sockets of a network namespace are not looked at: {}", with_causes(error));
    }
    reached.found
}

fn as_planned(socket: &TranslatedSocket) -> Socket {
    let target = Target { address: socket.backend.ip(), port: socket.backend.port() };
    Socket { asked: socket.frontend, id: socket.service, target }
}

/// What becomes of sockets; notes whose linger.
fn judge(
    room: &Services,
    tables: &Tables,
    cluster: &Cluster,
    sockets: impl Iterator<Item = Socket>,
) -> Vec<Fate> {
    let mut lingering = BTreeSet::new();
    let one = |socket: Socket| {
        let service = tables.owner(&socket).filter(|one| one.kind == OwnerKind::Service);
        let owner = service.map(|one| ObjectKey::namespaced(&one.namespace, &one.name));
        let look = owner.as_ref().map(|key| observe::look(room, key));
        let slices = look.as_ref().map(observe::Look::slices).unwrap_or_default();
        let fate = fate(tables, &socket, &slices, cluster);
        if let (Fate::Lingers, Some(key)) = (fate, owner) {
            lingering.insert(key);
        }
        fate
    };
    let fates = sockets.map(one).collect();
    room.lost.known().lingering = lingering;
    fates
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kuryr_kubernetes::slim;
    use kuryr_planning::service::{NodeFacts, Owner, desired, diff};
    use serde_json::json;

    use super::*;
    use crate::{checkpoint::tests::in_memory, kernel::fake::FakeKernel, wiring::fake::FakeWorld};

    fn service() -> slim::Service {
        let object = json!({
            "metadata": {"namespace": "d", "name": "dns"},
            "spec": {"clusterIPs": ["10.96.0.10"], "ports": [{"name": "dns", "protocol": "UDP", "port": 53}]},
        });
        serde_json::from_value(object).unwrap()
    }

    /// Endpoints with whether they are ready and whether they serve.
    fn slice(endpoints: &[(&str, bool, bool)]) -> slim::EndpointSlice {
        let endpoint = |(address, ready, serving): &(&str, bool, bool)| {
            let conditions = json!({"ready": ready, "serving": serving, "terminating": !ready});
            json!({"addresses": [address], "conditions": conditions})
        };
        let object = json!({
            "metadata": {"namespace": "d", "name": "dns-1", "labels": {"kubernetes.io/service-name": "dns"}},
            "addressType": "IPv4", "ports": [{"name": "dns", "protocol": "UDP", "port": 5353}],
            "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        });
        serde_json::from_value(object).unwrap()
    }

    /// Has the tables follow, and returns whether a look was asked for.
    async fn follow(room: &Services, tables: &mut Tables, slices: Vec<slim::EndpointSlice>) -> bool {
        room.services.reset(vec![service()], BTreeMap::new());
        room.on_slice(&room.slices.store().reset(slices, BTreeMap::new()));
        let key = ObjectKey::namespaced("d", "dns");
        let look = observe::look(room, &key);
        let desired =
            desired(look.service().as_ref(), &look.slices(), NodeFacts::default(), &Cluster::default());
        let name = Arc::new(Owner { kind: OwnerKind::Service, namespace: "d".into(), name: "dns".into() });
        let changes = diff(tables, &name, &desired).changes;
        let ends = ends_endpoints(&changes);
        changes.into_iter().for_each(|change| tables.note(change));
        room.lost.changed(&key, ends);
        tokio::time::timeout(Duration::from_millis(1), room.lost.wake.notified()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_lingers_with_an_endpoint_that_serves_and_ends_with_it() {
        let fake = FakeWorld::new(in_memory(), FakeKernel::default(), vec![]);
        let (room, mut tables) = (&fake.world.services, Tables::default());
        let socket = |to: &str| {
            let target = Target { address: to.parse().unwrap(), port: 5353 };
            Socket { asked: "10.96.0.10:53".parse().unwrap(), id: 1, target }
        };
        let judged = |tables: &Tables| {
            judge(room, tables, &Cluster::default(), ["10.1.0.4", "10.1.0.5"].map(socket).into_iter())
        };
        let both = [("10.1.0.4", true, true), ("10.1.0.5", true, true)];
        assert!(!follow(room, &mut tables, vec![slice(&both)]).await, "nothing ends");
        assert_eq!(judged(&tables), [Fate::Stays, Fate::Stays]);
        let draining = [("10.1.0.4", false, true), ("10.1.0.5", true, true)];
        assert!(follow(room, &mut tables, vec![slice(&draining)]).await);
        assert_eq!(judged(&tables), [Fate::Lingers, Fate::Stays]);
        assert!(
            follow(room, &mut tables, vec![slice(&both[1..])]).await,
            "no table changes, a socket lingers"
        );
        assert_eq!(judged(&tables), [Fate::Ends, Fate::Stays]);
        assert!(!follow(room, &mut tables, vec![slice(&both[1..])]).await, "and none any more");
        assert!(follow(room, &mut tables, vec![]).await);
        assert_eq!(judged(&tables), [Fate::Ends, Fate::Ends]);
    }
}
