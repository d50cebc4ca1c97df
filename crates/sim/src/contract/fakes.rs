//! The servers in memory, as the script calls them: a world without programs and without faults.

use std::sync::Arc;

use kuryr_openstack::Credentials;
use serde_json::Value;

use super::{FIRST_FREE, LAST_FREE, PORT_QUOTA, Place, record};
use crate::{
    Plan,
    cloud::{NETWORK, SUBNET, Wire},
    faults::Caller,
    kubernetes,
    world::{Setup, World},
};

/// Runs the script against the servers in memory, on paused time, and returns what was recorded.
pub async fn record_fakes() -> Value {
    let setup = Setup {
        seed: 1,
        plan: Plan::Never,
        nodes: vec!["n1".to_owned()],
        controllers: 0,
        pool: String::new(),
        services: false,
        is_harsh: false,
    };
    let world = World::new(setup);
    {
        let cloud = &mut world.state().cloud;
        cloud.free = FIRST_FREE..=LAST_FREE;
        cloud.port_quota = Some(PORT_QUOTA);
    }
    let host = world.state().machines["n1"].host.clone();
    let place = Place {
        network: NETWORK.to_owned(),
        subnet: SUBNET.to_owned(),
        external_network: "external".to_owned(),
        host,
        namespace: "team-c".to_owned(),
    };
    let caller = Caller::new("contract");
    let wire = Arc::new(Wire { world: Arc::clone(&world), caller: caller.clone() });
    let recording = record(credentials(), wire, kubernetes::client(&world, &caller), place).await.unwrap();
    world.end().await;
    recording
}

/// Those that the cloud in memory takes, as it takes any.
fn credentials() -> Credentials {
    let options = [
        ("auth_url", "http://cloud.test/v3"),
        ("username", "kuryr"),
        ("password", "p"),
        ("project_name", "k8s"),
        ("user_domain_name", "Default"),
        ("project_domain_name", "Default"),
    ];
    let options = options.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Credentials::from_options(&options.into()).unwrap()
}
