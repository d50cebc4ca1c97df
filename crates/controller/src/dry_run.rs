//! `--dry-run`: one look at what is left over, told on standard output, and nothing changed.
//!
//! It needs no Lease and leads nothing, so it may run beside a controller. What a controller collects it tells at each look,
//! too, as `kuryr_controller_garbage`; what is told here may be in use a moment later.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::Write,
    net::IpAddr,
};

use kube::{Api, Client, Resource, api::ListParams};
use kuryr_api::kuryrnode::KuryrNode;
use kuryr_kubernetes::{
    client::{connect, install_crypto},
    objects::Objects,
    slim,
    store::ObjectKey,
};
use kuryr_openstack::{
    Client as CloudClient, Error as CloudError,
    neutron::{FloatingIp, port::PortFilter},
};
use kuryr_planning::{
    ownership::service_tag,
    pool::garbage::{self, Garbage},
};
use kuryr_telemetry::metrics::Metrics;
use serde::de::DeserializeOwned;

use crate::{
    cloud::{Connect, Facts, facts::Access, our_ports},
    config::{COMPONENT, Config},
    error::{Error, Result},
    lead,
    loadbalancer::{
        listing::{FloatingIps, listed, named, our_floating_ips},
        service_of_balancer,
    },
    metrics::Figures,
};

/// Something that is left over.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    /// Of nodes and their ports.
    Ports(Garbage),
    /// A port that was made and has not all of our tags.
    Untagged { id: String, name: String },
    /// A load balancer whose Service is gone.
    Balancer { id: String, name: String },
    /// A floating IP whose Service and load balancer are gone.
    Floating { id: String, address: IpAddr },
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ports(garbage) => garbage.fmt(f),
            Self::Untagged { id, name } => {
                write!(
                    f,
                    "port {id} ({name}): it was made and not tagged; it will be tagged, then used or deleted"
                )
            }
            Self::Floating { id, address } => {
                write!(
                    f,
                    "floating IP {id} ({address}): it leads nowhere, and its Service is gone; it will be deleted"
                )
            }
            Self::Balancer { id, name } => {
                write!(
                    f,
                    "load balancer {id} ({name}): there is no such Service; it will be deleted when no other Service is on it"
                )
            }
        }
    }
}

/// Looks once, and tells what is left over.
///
/// # Errors
///
/// Kubernetes or the cloud cannot be asked.
pub(crate) async fn run(config: Config) -> Result<()> {
    install_crypto();
    let client = connect(&config.client).await?;
    let left = look(&config, &client, std::sync::Arc::new(CloudClient::new)).await?;
    let mut out = std::io::stdout().lock();
    let lines = left.iter().try_for_each(|one| writeln!(out, "{one}"));
    lines.and_then(|()| writeln!(out, "{} left over; nothing was changed", left.len())).map_err(Error::Output)
}

async fn look(config: &Config, client: &Client, connect: Connect) -> Result<Vec<Left>> {
    let cluster = lead::cluster_id(config, client).await?;
    let facts = Facts::new(config, cluster, connect, Figures::new(&Metrics::new()));
    let access = facts.access().await.map_err(Error::Cloud)?;
    // The records first: a port that is made meanwhile is known by its node's name, and none is deleted so soon.
    let (records, nodes) = (list::<KuryrNode>(client).await?, list::<slim::Node>(client).await?);
    let found = access.client.owned_ports(&PortFilter::new(&access.ownership)).await?;
    let ports = our_ports(&access.owner, &found);
    let untagged = access.client.untagged_ports(&access.ownership).await?;
    let balancers = balancers(&access).await?;
    let FloatingIps { tagged: mut floating, untagged: bare } = our_floating_ips(&access).await?;
    // They are tagged first, and then they are as the others.
    floating.extend(
        bare.into_iter().map(|(found, service)| FloatingIp { tags: vec![service_tag(&service)], ..found }),
    );

    let names = records.iter().map(|record| record.metadata.name.clone().unwrap_or_default());
    let names: Vec<String> = names.collect();
    let specs: BTreeMap<&str, _> =
        names.iter().map(String::as_str).zip(records.iter().map(|record| &record.spec)).collect();
    let nodes: BTreeSet<&str> = nodes.iter().map(slim::Node::name).collect();
    let services = list::<slim::Service>(client).await?;
    let uids: BTreeSet<&str> =
        services.iter().filter_map(|service| service.metadata.uid.as_deref()).collect();
    let named = named(services.iter());
    let is_nobodys =
        |found: &&FloatingIp| listed(found, &named, &access.owner).is_nobodys(|uid| uids.contains(uid));
    let floating = floating.iter().filter(is_nobodys);
    let floating =
        floating.map(|found| Left::Floating { id: found.id.to_string(), address: found.floating_ip_address });
    let services: BTreeSet<ObjectKey> = services.iter().map(ObjectKey::of).collect();

    let of_ports = garbage::find(&ports, &specs, &nodes).into_iter().map(Left::Ports);
    let untagged =
        untagged.iter().map(|port| Left::Untagged { id: port.id.to_string(), name: port.name.clone() });
    let is_left = |name: &str| service_of_balancer(name).is_some_and(|service| !services.contains(&service));
    let balancers = balancers.into_iter().filter(|(_, name)| is_left(name));
    let balancers = balancers.map(|(id, name)| Left::Balancer { id, name });
    Ok(of_ports.chain(untagged).chain(balancers).chain(floating).collect())
}

/// Our load balancers, by id and name.
async fn balancers(access: &Access) -> Result<Vec<(String, String)>> {
    let found = match access.client.load_balancers(&access.ownership, None).await {
        // A cloud without Octavia has none.
        Err(CloudError::EndpointMissing { .. }) => vec![],
        found => found?,
    };
    Ok(found.iter().map(|balancer| (balancer.id.to_string(), balancer.name.clone())).collect())
}

/// All objects of a kind.
async fn list<K>(client: &Client) -> Result<Vec<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug,
{
    let objects = Objects::<K>::new(Api::all(client.clone()), COMPONENT);
    Ok(objects.list(&ListParams::default()).await?.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cloud::fake::{self, lock},
        lead::tests::{OPTIONS, Outdoors},
    };
    use serde_json::json;

    #[tokio::test(start_paused = true)]
    async fn tells_what_is_left_over_and_changes_nothing() {
        let outdoors = Outdoors::with_nodes(&[("n1", 0, 0), ("n2", 0, 0)]);
        outdoors.api.remove("/api/v1/nodes/n2");
        let port = |id: &str, name: &str, tags: &[&str]| {
            let mut port = fake::port(id, fake::PROJECT, "10.0.0.9");
            (port["name"], port["device_owner"]) = (json!(name), json!("compute:kuryr"));
            (port["tags"], port["description"]) = (json!(tags), json!(fake::TAG));
            port
        };
        lock(&outdoors.cloud.ports).extend([
            port("orphan", "kuryr-pool/n9", &[fake::TAG]),
            port("kept", "kuryr-pool/n1", &[fake::TAG]),
            port("bare", "kuryr-pool/n1", &[]),
            port("foreign", "kuryr-pool/n9", &["kuryr-cluster:other"]),
        ]);
        lock(&outdoors.cloud.ports)[3]["description"] = json!("kuryr-cluster:other");
        let stray = json!({"id": "f", "project_id": fake::PROJECT, "floating_ip_address": "203.0.113.9", "description": "kuryr_lb",
                           "floating_network_id": "ext", "port_id": null, "tags": [fake::TAG, "kuryr-service:gone"]});
        let mut untagged = stray.clone();
        (untagged["id"], untagged["tags"]) = (json!("g"), json!([]));
        untagged["description"] = json!(format!("kuryr_lb {} kuryr-service:gone", fake::TAG));
        lock(&outdoors.cloud.octavia).floating.extend([stray, untagged]);
        outdoors.api.writes();
        let left =
            look(&fake::config(OPTIONS), &outdoors.api.client(), outdoors.cloud.connect()).await.unwrap();
        let lines: Vec<String> = left.iter().map(ToString::to_string).collect();
        assert_eq!(lines.len(), 5, "{lines:#?}");
        for (line, begin) in lines.iter().zip([
            "port orphan (kuryr-pool/n9): ",
            "KuryrNode n2: ",
            "port bare ",
            "floating IP f (203.0.113.9): ",
            "floating IP g (203.0.113.9): ",
        ]) {
            assert!(line.starts_with(begin), "{lines:#?}");
        }
        assert!(outdoors.api.writes().is_empty());
        let calls = lock(&outdoors.cloud.calls).clone();
        let writes: Vec<&String> =
            calls.iter().filter(|call| !call.starts_with("GET") && !call.contains("/auth/tokens")).collect();
        assert!(writes.is_empty() && !calls.is_empty(), "{calls:?}");
    }
}
