//! What the API server's ClusterIP leads to, kept for the next start.
//!
//! An agent with nothing but a service account knows the API server by its ClusterIP, and on its node nobody but the agent
//! makes it lead anywhere. While the kernel has the tables, that goes on; after a boot the agent would wait for itself.

use kuryr_kubernetes::client::save_servers;
use kuryr_planning::service::api_servers;

use super::{Held, observe};
use crate::{
    error::{Error, with_causes},
    wiring::World,
};

/// Keeps the addresses if they are others than before; a failure is tried again with the next look.
pub(super) async fn save(world: &World, held: &mut Held) {
    let Some(path) = world.config.client.saved_servers.clone() else { return };
    let look = observe::look(&world.services, &observe::api_service());
    let servers = api_servers(&look.slices(), &world.config.node_name);
    // None at all is a moment in which they start, and no reason to forget where they were.
    if servers.is_empty() || servers == held.api_servers {
        return;
    }
    let to_write = servers.clone();
    let write = move || save_servers(&path, &to_write);
    let written = world.kernel.blocking("keep the addresses of API servers", write).await;
    match written.and_then(|written| written.map_err(Error::from)) {
        Ok(()) => held.api_servers = servers,
        Err(error) => tracing::warn!("addresses of API servers are not kept: {}", with_causes(&error)),
    }
}
