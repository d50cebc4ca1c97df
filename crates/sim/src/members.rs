//! Pods that clients reach by a load balancer: their addresses are those of its members, and rest until they are not.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{
    faults::Plan,
    kubelet::Wish,
    scenario::{Outcome, finish},
    services::Port,
    world::{Setup, World},
};

const HTTP: Port = ("http", "TCP", 80, 8080, 30080);
const PODS: [&str; 3] = ["web-0", "web-1", "web-2"];

/// A Service of three pods on a node, which are exchanged one by one, with a load balancer whose changes last longer than
/// addresses rest, with this plan of faults. Octavia does not come to the end of deleting the first that are taken out.
pub async fn members(plan: Plan) -> Outcome {
    let world = one_node(plan);
    sleep(Duration::from_secs(8)).await;
    PODS.into_iter().for_each(|name| world.make_pod(name, "n1"));
    sleep(Duration::from_secs(4)).await;
    world.make_service("web", "LoadBalancer", &[HTTP]);
    serve(&world, &PODS);
    sleep(Duration::from_secs(12)).await;
    world.state().octavia.sticks_next = true;
    for name in PODS {
        let others: Vec<&str> = PODS.into_iter().filter(|other| *other != name).collect();
        serve(&world, &others);
        world.tell_pod(name, Wish::Delete);
        sleep(Duration::from_secs(7)).await;
        world.make_pod(name, "n1");
        sleep(Duration::from_secs(3)).await;
        serve(&world, &PODS);
        sleep(Duration::from_secs(5)).await;
    }
    sleep(Duration::from_secs(10)).await;
    finish(&world).await
}

/// Has the Service lead to these pods, those of them that run.
fn serve(world: &World, names: &[&str]) {
    let addresses: Vec<u8> = {
        let state = world.state();
        let pods = names.iter().filter_map(|name| state.pods.get(*name)?.address);
        let last = pods.filter_map(|address| match address {
            IpAddr::V4(address) => address.octets().last().copied(),
            IpAddr::V6(_) => None,
        });
        last.collect()
    };
    world.set_endpoints("web", &[HTTP], &addresses, &[]);
}

fn one_node(plan: Plan) -> Arc<World> {
    let pool = "ports_pool_min = 1\nports_pool_batch = 1\nports_pool_max = 2\n".to_owned();
    let nodes = vec!["n1".to_owned()];
    let world =
        World::new(Setup { seed: 1, plan, nodes, controllers: 1, pool, services: true, is_harsh: false });
    world.state().octavia.takes_most = 40_000;
    world.start_controller(1);
    world.start_agent("n1");
    world
}
