//! Leading: from the Lease to the loops, and back when it is lost.
//!
//! A leader waits until all watches are complete, begins its [`Term`], and only then looks at nodes. When the leadership
//! ends, so does everything that was begun under it; what was remembered goes with it.

use std::{future::Future, num::NonZeroUsize, sync::Arc, time::Duration};

use kube::{Api, Client};
use kuryr_kubernetes::{
    lease::{Leadership, Term as LeaseTerm},
    objects::Objects,
    slim,
};
use kuryr_planning::demand::Governor;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    cloud::{Facts, Known},
    config::{COMPONENT, Config},
    error::{Error, Result},
    kuryrport, loadbalancer,
    pool::{self, creations, listing},
    term::Term,
    wiring::World,
};

/// Nodes that are reconciled at the same time. Calls to the cloud are bounded apart.
const NODES_AT_ONCE: NonZeroUsize = NonZeroUsize::new(16).unwrap();
const PODS_AT_ONCE: NonZeroUsize = NonZeroUsize::new(4).unwrap();
/// Services whose load balancers are reconciled at the same time; most of the time they wait for Octavia.
const BALANCERS_AT_ONCE: NonZeroUsize = NonZeroUsize::new(8).unwrap();
/// Views are written one after the other: nothing waits for them, and the API server has more urgent work.
const VIEWS_AT_ONCE: NonZeroUsize = NonZeroUsize::new(1).unwrap();
/// How long a new leader waits for complete watches before it says so; it goes on waiting.
const SYNC_WITHIN: Duration = Duration::from_secs(30);
/// How long work under way may take when a leadership ends.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// Between attempts to begin.
const BEGIN_AGAIN: Duration = Duration::from_secs(1);

/// Leads whenever the Lease is ours, for ever.
pub(crate) async fn whenever_elected(world: &Arc<World>, leadership: &Leadership) {
    let mut led = leadership.subscribe();
    while let Ok(term) = led.wait_for(Option::is_some).await.map(|term| *term) {
        let Some(term) = term else { continue };
        let over = CancellationToken::new();
        let ends = led.wait_for(|now| now.as_ref().map(|now| now.number) != Some(term.number));
        // A term that cannot begin is left to others; the Lease is renewed meanwhile and the begin repeated.
        let lead = lead(world, leadership, &term, over.clone());
        until_over(lead, ends, over).await;
        world.figures.leader.set(0);
        world.end_to_lead();
    }
}

/// Runs `lead` until it ends or the leadership does; then lets it stop within its bound.
async fn until_over<T>(
    lead: impl Future<Output = ()>,
    ends: impl Future<Output = T>,
    over: CancellationToken,
) {
    tokio::pin!(lead);
    tokio::select! {
        biased;
        () = &mut lead => return,
        _ = ends => {}
    }
    over.cancel();
    let _ = tokio::time::timeout(STOP_WITHIN, lead).await;
}

/// One leadership, from its epoch to its end.
async fn lead(world: &Arc<World>, leadership: &Leadership, lease: &LeaseTerm, over: CancellationToken) {
    while !world.wait_synced(Instant::now() + SYNC_WITHIN).await {
        tracing::warn!("waiting for complete lists of nodes, pods, records and endpoint slices");
        if over.is_cancelled() {
            return;
        }
    }
    let governor = Governor::new(world.config.rate, world.now());
    let (creations, wanted) = mpsc::unbounded_channel();
    let term = match Term::begin(leadership, lease, &world.records.list(), governor, creations).await {
        Ok(term) => Arc::new(term),
        Err(error) => {
            tracing::warn!(%error, "could not begin to lead");
            tokio::time::sleep(BEGIN_AGAIN).await;
            return;
        }
    };
    let cluster = match cluster_id(&world.config, &world.client).await {
        Ok(cluster) => cluster,
        Err(error) => {
            tracing::warn!(%error, "could not find out what the cluster is called");
            tokio::time::sleep(BEGIN_AGAIN).await;
            return;
        }
    };
    world.figures.leader.set(1);
    let config = &world.config;
    let facts = Facts::new(config, cluster, Arc::clone(&world.connect), world.figures.clone());
    let facts = facts.after(&world.records.list());
    let known = facts.subscribe();
    world.begin_to_lead();
    let (of, with) = (Arc::clone(world), Arc::clone(&term));
    let nodes = world.keys.run(NODES_AT_ONCE, over.clone(), move |key| {
        pool::reconcile(key, Arc::clone(&of), Arc::clone(&with))
    });
    let of = Arc::clone(world);
    let ended = world.ended_pods.run(PODS_AT_ONCE, over.clone(), move |pod| {
        let world = Arc::clone(&of);
        async move { kuryrport::reconcile(pod, &world).await }
    });
    let (of, with) = (Arc::clone(world), Arc::clone(&term));
    let balancers = world.balancers.run(BALANCERS_AT_ONCE, over.clone(), move |service| {
        loadbalancer::reconcile(service, Arc::clone(&of), Arc::clone(&with))
    });
    let (of, with) = (Arc::clone(world), Arc::clone(&term));
    let views = world.view_keys.run(VIEWS_AT_ONCE, over.clone(), move |service| {
        loadbalancer::view::reconcile(service, Arc::clone(&of), Arc::clone(&with))
    });
    tokio::join!(
        facts.run(over.clone()),
        follow_cloud(world, known, over.clone()),
        listing::run(world, &term, over.clone()),
        pool::trunks::run(world, &term, over.clone()),
        pool::plugs::run(world, &term, over.clone()),
        pool::servers::run(world, &term, over.clone()),
        creations::run(world, &term, wanted, over.clone()),
        world.forecast.run(world, over.clone()),
        loadbalancer::listing::run(world, &term, over.clone()),
        nodes,
        ended,
        balancers,
        views
    );
}

/// What the cluster is called in the cloud.
pub(crate) async fn cluster_id(config: &Config, client: &Client) -> Result<String> {
    if let Some(id) = &config.cluster_id {
        return Ok(id.clone());
    }
    let namespaces = Objects::<slim::Namespace>::new(Api::all(client.clone()), COMPONENT);
    let found = namespaces.get("kube-system").await?;
    found.and_then(|namespace| namespace.metadata.uid).ok_or(Error::NoClusterId)
}

/// Whatever changes in the cloud concerns every node.
async fn follow_cloud(world: &World, mut known: watch::Receiver<Arc<Known>>, over: CancellationToken) {
    loop {
        let now = Arc::clone(&known.borrow_and_update());
        if now.access.is_some() != world.known().access.is_some() {
            world.list_soon.notify_one();
        }
        world.known.send_replace(now);
        world.add_all_nodes();
        tokio::select! {
            biased;
            () = over.cancelled() => break,
            changed = known.changed() => if changed.is_err() { break },
        }
    }
    world.known.send_replace(Arc::default());
}

#[cfg(test)]
pub(crate) mod tests;
