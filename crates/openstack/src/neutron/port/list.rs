//! Lists of ports: ours by project and tags, and those of others by id or address.

use std::{net::IpAddr, sync::Arc};

use kuryr_types::{NetworkId, PortId};
use tracing::warn;

use super::{OwnedPort, Port};
use crate::{client::Client, error::Error, ownership::Ownership, query::Query};

/// How many addresses go into one query: up to 65 bytes each once encoded, while servers accept lines of 8 KiB.
const ADDRESSES_PER_QUERY: usize = 100;

/// Which of our ports to list: always by project and tags, so that no other tenant's are shown. A foreign port in
/// the answer would also do harm by being there: Neutron decides by the first element of a list which fields
/// policy hides in all of them (`policy_enforcement._exclude_attributes_by_policy`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortFilter {
    owner: Arc<Ownership>,
    tags: Vec<String>,
    device_owner: Option<String>,
    host: Option<String>,
    network_id: Option<NetworkId>,
    name: Option<String>,
    ids: Vec<PortId>,
}

impl PortFilter {
    /// All that is ours.
    #[must_use]
    pub fn new(owner: &Ownership) -> Self {
        Self {
            owner: Arc::new(owner.clone()),
            tags: owner.tags().to_vec(),
            device_owner: None,
            host: None,
            network_id: None,
            name: None,
            ids: Vec::new(),
        }
    }

    /// And carries this tag too.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// And has this device owner.
    #[must_use]
    pub fn device_owner(self, device_owner: impl Into<String>) -> Self {
        Self { device_owner: Some(device_owner.into()), ..self }
    }

    /// And is bound to this host.
    #[must_use]
    pub fn host(self, host: impl Into<String>) -> Self {
        Self { host: Some(host.into()), ..self }
    }

    /// And is on this network.
    #[must_use]
    pub fn network_id(self, network_id: NetworkId) -> Self {
        Self { network_id: Some(network_id), ..self }
    }

    /// And has this name.
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    /// And is one of these; an empty list means any.
    #[must_use]
    pub fn ids(mut self, ids: impl IntoIterator<Item = PortId>) -> Self {
        self.ids.extend(ids);
        self
    }

    fn query(&self) -> Query {
        Query::default()
            .with("project_id", self.owner.project_id().as_str())
            .with("tags", &self.tags.join(","))
            .with_some("device_owner", self.device_owner.as_deref())
            .with_some("binding:host_id", self.host.as_deref())
            .with_some("network_id", self.network_id.as_ref().map(NetworkId::as_str))
            .with_some("name", self.name.as_deref())
    }

    fn accepts(&self, port: &Port) -> bool {
        let same =
            |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
        self.tags.iter().all(|tag| port.tags.contains(tag))
            && same(&self.device_owner, &port.device_owner)
            && same(&self.name, &port.name)
            // Where policy hides the host, only Neutron can compare it.
            && port.host.as_ref().is_none_or(|host| same(&self.host, host))
            && self.network_id.as_ref().is_none_or(|network| *network == port.network_id)
            && (self.ids.is_empty() || self.ids.contains(&port.id))
    }
}

impl Client {
    /// Lists our ports. "List ports", `GET /v2.0/ports`.
    ///
    /// # Errors
    /// What the cloud answers; [`Error::ListChanged`] if it must be read again.
    pub async fn owned_ports(&self, filter: &PortFilter) -> Result<Vec<OwnedPort>, Error> {
        let operation = "list_ports";
        let ids: Vec<&str> = filter.ids.iter().map(PortId::as_str).collect();
        let found: Vec<Port> = self.list_by_ids(operation, "ports", &ids, filter.query()).await?;
        let mut owned = Vec::with_capacity(found.len());
        for port in found {
            match OwnedPort::prove(operation, &filter.owner, port) {
                Ok(port) if filter.accepts(&port) => owned.push(port),
                Ok(_) => {}
                Err(error) => warn!(%error, "Neutron listed a port that was not asked for"),
            }
        }
        Ok(owned)
    }

    /// Lists ports that have one of these ids, whoever owns them, as far as we may see them. "List ports",
    /// `GET /v2.0/ports`.
    ///
    /// # Errors
    /// What the cloud answers.
    pub async fn ports_by_ids(&self, ids: &[PortId]) -> Result<Vec<Port>, Error> {
        let wanted: Vec<&str> = ids.iter().map(PortId::as_str).collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let mut found: Vec<Port> = self.list_by_ids("list_ports", "ports", &wanted, Query::default()).await?;
        found.retain(|port| ids.contains(&port.id));
        Ok(found)
    }

    /// Lists ports that have one of these addresses, in whatever network and project, as far as we may see them.
    /// "List ports", `GET /v2.0/ports`, filter `fixed_ips`.
    ///
    /// # Errors
    /// What the cloud answers.
    pub async fn ports_with_addresses(&self, addresses: &[IpAddr]) -> Result<Vec<Port>, Error> {
        let mut found: Vec<Port> = Vec::new();
        for some in addresses.chunks(ADDRESSES_PER_QUERY) {
            let query = some.iter().fold(Query::default(), |query, address| {
                query.with("fixed_ips", &format!("ip_address={address}"))
            });
            found.extend(self.list::<Port>("list_ports", "ports", query).await?);
        }
        found.retain(|port| port.fixed_ips.iter().any(|ip| addresses.contains(&ip.ip_address)));
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixtures::{OURS, neutron, owner, port};
    use super::*;
    use crate::recorded::Reply;

    #[tokio::test(start_paused = true)]
    async fn a_list_asks_for_project_and_tags_and_believes_neither() {
        let (client, recorded) = neutron(|_| {
            let mut elsewhere = port("p5", "ours", OURS);
            elsewhere["binding:host_id"] = "node-2".into();
            let mut hidden = port("p6", "ours", OURS);
            hidden.as_object_mut().unwrap().remove("binding:host_id");
            let ports = [
                port("p1", "ours", OURS),
                port("p2", "hostile", OURS),
                port("p3", "ours", &["other"]),
                port("p4", "ours", &["kuryr:cluster=ab"]),
                elsewhere,
                hidden,
            ];
            Some(Reply::Json(200, json!({"ports": ports})))
        });
        let filter = PortFilter::new(&owner())
            .tag("other")
            .device_owner("compute:kuryr")
            .host("node-1")
            .network_id("n".into())
            .name("kuryr/node-1");
        let found = client.owned_ports(&filter).await.unwrap();
        assert_eq!(found.iter().map(|port| port.id.as_str()).collect::<Vec<_>>(), ["p1", "p6"]);
        assert_eq!(
            recorded.lines(),
            [
                "GET /v2.0/ports?project_id=ours&tags=kuryr%3Acluster%3Da%2Cother&device_owner=compute%3Akuryr&\
              binding%3Ahost_id=node-1&network_id=n&name=kuryr%2Fnode-1&limit=500"
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn ports_are_found_by_address_and_by_id() {
        let (client, recorded) = neutron(|_| {
            let mut other = port("p2", "hostile", &[]);
            other["fixed_ips"] = json!([{"subnet_id": "s4", "ip_address": "10.1.0.70"}]);
            Some(Reply::Json(200, json!({"ports": [port("p1", "hostile", &[]), other]})))
        });
        let ids = |ports: Vec<Port>| ports.into_iter().map(|port| port.id.to_string()).collect::<Vec<_>>();
        let addresses = ["10.1.0.7".parse().unwrap(), "fd00::0:9".parse().unwrap()];
        assert_eq!(ids(client.ports_with_addresses(&addresses).await.unwrap()), ["p1"]);
        assert_eq!(ids(client.ports_by_ids(&["p2".into()]).await.unwrap()), ["p2"]);
        assert!(client.ports_by_ids(&[]).await.unwrap().is_empty());
        assert!(client.ports_with_addresses(&[]).await.unwrap().is_empty());
        assert_eq!(
            recorded.lines(),
            [
                "GET /v2.0/ports?fixed_ips=ip_address%3D10.1.0.7&fixed_ips=ip_address%3Dfd00%3A%3A9&limit=500",
                "GET /v2.0/ports?id=p2&limit=500"
            ]
        );
    }
}
