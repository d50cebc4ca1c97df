//! Making ports, in bulk.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use http::Method;
use kuryr_types::{NetworkId, PortId, ProjectId, SecurityGroupId, SubnetId};
use serde::Serialize;
use tracing::warn;

use super::{AddressPair, OwnedPort, Port, PortFilter};
use crate::{
    client::{Client, Request},
    error::Error,
    exchange::Answer,
    ownership::Ownership,
};

/// A port to be. Its project, and the mark and the tags of its owner, are added when it is created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PortCreate {
    /// The network it is on.
    pub network_id: NetworkId,
    /// Its name, by which it can be found again.
    pub name: String,
    /// Subnets, and addresses if certain ones are wanted; if empty, Neutron chooses both.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fixed_ips: Vec<FixedIpRequest>,
    /// Exactly these groups; always sent, because without the field Neutron takes the project's default group.
    pub security_groups: Vec<SecurityGroupId>,
    /// The host it is bound to, as Neutron's agents name it; needs role `service` or `admin`.
    #[serde(rename = "binding:host_id", skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// What kind of thing uses it, such as `compute:kuryr`.
    pub device_owner: String,
    /// Which thing uses it.
    pub device_id: String,
    /// Whether it may carry packets.
    pub admin_state_up: bool,
    /// Further addresses that may be used behind it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_address_pairs: Vec<AddressPair>,
    /// Tags besides the owner's.
    #[serde(skip)]
    pub tags: Vec<String>,
}

impl PortCreate {
    /// A port called `name` on a network, up, with nothing else said.
    #[must_use]
    pub fn on(network_id: NetworkId, name: impl Into<String>) -> Self {
        Self {
            network_id,
            name: name.into(),
            fixed_ips: Vec::new(),
            security_groups: Vec::new(),
            host: None,
            device_owner: String::new(),
            device_id: String::new(),
            admin_state_up: true,
            allowed_address_pairs: Vec::new(),
            tags: Vec::new(),
        }
    }
}

/// An address that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FixedIpRequest {
    /// From this subnet.
    pub subnet_id: SubnetId,
    /// This one; else Neutron chooses. Must be left out where
    /// [`addresses_are_automatic`](crate::neutron::Subnet::addresses_are_automatic).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<IpAddr>,
}

#[derive(Serialize)]
struct NewPort<'a> {
    #[serde(flatten)]
    port: &'a PortCreate,
    project_id: &'a ProjectId,
    description: &'a str,
    tags: Vec<&'a str>,
}

impl<'a> NewPort<'a> {
    fn new(owner: &'a Ownership, port: &'a PortCreate) -> Self {
        Self {
            port,
            project_id: owner.project_id(),
            description: owner.mark(),
            tags: owner.and_tags_of(&port.tags),
        }
    }
}

impl Client {
    /// Creates ports, all or none, in our project and with our tags, and returns them in the order in which
    /// they were asked for. "Bulk create ports", `POST /v2.0/ports`.
    ///
    /// A Neutron without the ML2 extension driver `tag_ports_during_bulk_creation` accepts the tags but does not
    /// store them; then each port is tagged by a call of its own.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`], [`Error::NoFreeAddress`], [`Error::AddressInUse`], what else the cloud answers;
    /// [`Error::Untagged`] if the ports exist now, but not all with their tags.
    pub async fn create_ports(
        &self,
        owner: &Ownership,
        ports: &[PortCreate],
    ) -> Result<Vec<OwnedPort>, Error> {
        if ports.is_empty() {
            return Ok(Vec::new());
        }
        let operation = "create_ports";
        let new: Vec<_> = ports.iter().map(|port| NewPort::new(owner, port)).collect();
        let body = BTreeMap::from([("ports", &new)]);
        let request = Request::new(operation, Method::POST, "ports").body(&body);
        let answer = self.call(request).await?;
        let created = created(&answer, owner, ports.len())?;

        let untagged = |port: &Port, new: &NewPort<'_>| {
            !new.tags.iter().all(|tag| port.tags.iter().any(|found| found == tag))
        };
        let without: Vec<(PortId, Vec<&str>)> = created
            .iter()
            .zip(new)
            .filter(|(port, new)| untagged(port, new))
            .map(|(port, new)| (port.id.clone(), new.tags))
            .collect();
        if !without.is_empty() {
            return self.tag_created(owner, created, without).await;
        }
        let owner = Arc::new(owner.clone());
        created.into_iter().map(|port| OwnedPort::prove(operation, &owner, port)).collect()
    }

    /// Puts the tags that a bulk create did not store, and reads the ports anew, as that has changed them.
    async fn tag_created(
        &self,
        owner: &Ownership,
        created: Vec<Port>,
        without: Vec<(PortId, Vec<&str>)>,
    ) -> Result<Vec<OwnedPort>, Error> {
        warn!("Neutron did not store tags with a bulk create; each port is tagged by a call of its own");
        let ids: Vec<PortId> = without.iter().map(|(id, _)| id.clone()).collect();
        for (done, (id, tags)) in without.iter().enumerate() {
            self.put_tags("tag_port", "ports", id.as_str(), tags)
                .await
                .map_err(|error| Error::Untagged { ports: ids[done..].to_vec(), source: Box::new(error) })?;
        }
        let filter = PortFilter::new(owner).ids(created.iter().map(|port| port.id.clone()));
        let mut found: BTreeMap<PortId, OwnedPort> =
            self.owned_ports(&filter).await?.into_iter().map(|port| (port.id.clone(), port)).collect();
        // One that is gone already was deleted by somebody else.
        Ok(created.iter().filter_map(|port| found.remove(&port.id)).collect())
    }
}

/// The ports of a bulk create, as many as were asked for and in our project.
fn created(answer: &Answer, owner: &Ownership, expected: usize) -> Result<Vec<Port>, Error> {
    let ports: Vec<Port> = answer.member("ports")?;
    if ports.len() != expected {
        return Err(answer.unexpected(format!("{} ports were created instead of {expected}", ports.len())));
    }
    match ports.iter().find(|port| port.project_id != *owner.project_id()) {
        Some(port) => {
            let problem = format!("port {} was created in project {}", port.id, port.project_id);
            Err(answer.unexpected(problem))
        }
        None => Ok(ports),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixtures::{OURS, neutron, owner, port};
    use super::*;
    use crate::recorded::{Asked, Recorded, Reply};

    #[tokio::test(start_paused = true)]
    async fn ports_are_created_in_bulk_with_project_and_tags() {
        let (client, recorded) = neutron(|_| {
            let ports =
                [port("p1", "ours", &["kuryr:cluster=a", "x"]), port("p2", "ours", &["kuryr:cluster=a"])];
            Some(Reply::Json(201, json!({"ports": ports})))
        });
        let first = PortCreate {
            fixed_ips: vec![
                FixedIpRequest { subnet_id: "s4".into(), ip_address: Some("10.1.0.7".parse().unwrap()) },
                FixedIpRequest { subnet_id: "s6".into(), ip_address: None },
            ],
            security_groups: vec!["g".into()],
            host: Some("node-1".to_owned()),
            device_owner: "compute:kuryr".to_owned(),
            device_id: "d".to_owned(),
            allowed_address_pairs: vec![
                AddressPair { ip_address: "10.9.0.0/16".parse().unwrap(), mac_address: None },
                AddressPair { ip_address: "10.9.0.1/32".parse().unwrap(), mac_address: None },
            ],
            tags: vec!["x".to_owned(), "kuryr:cluster=a".to_owned()],
            ..PortCreate::on("n".into(), "kuryr/node-1")
        };
        let second = PortCreate { admin_state_up: false, ..PortCreate::on("n".into(), "bare") };
        let created = client.create_ports(&owner(), &[first, second]).await.unwrap();
        assert_eq!(created.iter().map(|port| port.id.as_str()).collect::<Vec<_>>(), ["p1", "p2"]);
        let asked = &recorded.asked()[0];
        assert_eq!(asked.line(), "POST /v2.0/ports");
        assert_eq!(asked.headers["content-type"], "application/json");
        assert_eq!(
            asked.body,
            json!({"ports": [
                {"network_id": "n", "name": "kuryr/node-1", "project_id": "ours", "admin_state_up": true,
                 "fixed_ips": [{"subnet_id": "s4", "ip_address": "10.1.0.7"}, {"subnet_id": "s6"}],
                 "security_groups": ["g"], "binding:host_id": "node-1", "device_owner": "compute:kuryr",
                 "device_id": "d", "description": "kuryr:cluster=a", "tags": ["kuryr:cluster=a", "x"],
                 "allowed_address_pairs": [{"ip_address": "10.9.0.0/16"}, {"ip_address": "10.9.0.1"}]},
                {"network_id": "n", "name": "bare", "project_id": "ours", "admin_state_up": false,
                 "security_groups": [], "device_owner": "", "device_id": "", "description": "kuryr:cluster=a",
                 "tags": ["kuryr:cluster=a"]},
            ]})
        );
        assert!(client.create_ports(&owner(), &[]).await.unwrap().is_empty());
        assert_eq!(recorded.asked().len(), 1);
    }

    /// A Neutron whose bulk create accepts tags and forgets them.
    fn forgetful(put: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> (Client, Arc<Recorded>) {
        neutron(move |asked| match asked.method {
            Method::POST => {
                let ports = [port("p2", "ours", &[]), port("p1", "ours", OURS), port("p3", "ours", &[])];
                Some(Reply::Json(201, json!({"ports": ports})))
            }
            Method::PUT => Some(put(asked)),
            _ => {
                let ports = ["p1", "p2", "p3"].map(|id| port(id, "ours", OURS));
                Some(Reply::Json(200, json!({"ports": ports})))
            }
        })
    }

    #[tokio::test(start_paused = true)]
    async fn tags_that_a_bulk_create_did_not_store_are_put() {
        let wanted = ["p2", "p1", "p3"].map(|name| PortCreate::on("n".into(), name));
        let (client, recorded) = forgetful(|asked| Reply::Json(200, asked.body.clone()));
        let created = client.create_ports(&owner(), &wanted).await.unwrap();
        assert_eq!(created.iter().map(|port| port.id.as_str()).collect::<Vec<_>>(), ["p2", "p1", "p3"]);
        let lines = recorded.lines();
        assert_eq!(lines[1..3], ["PUT /v2.0/ports/p2/tags", "PUT /v2.0/ports/p3/tags"]);
        assert_eq!(recorded.asked()[1].body, json!({"tags": ["kuryr:cluster=a"]}));
        assert!(lines[3].ends_with("&id=p2&id=p1&id=p3&limit=500"), "{lines:?}");

        let (client, _) = forgetful(|asked| match asked.path.contains("p3") {
            true => Reply::Json(503, json!({})),
            false => Reply::Json(200, json!({})),
        });
        let error = client.create_ports(&owner(), &wanted).await.unwrap_err();
        assert!(error.outcome_unknown());
        let Error::Untagged { ports, .. } = error else { panic!("{error}") };
        assert_eq!(ports, ["p3".into()]);
    }
}
