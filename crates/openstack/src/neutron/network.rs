//! Networks: the layer-2 segments that ports are on.
//!
//! Source: Networking API v2.0, "Networks".

use http::Method;
use kuryr_types::{NetworkId, ProjectId, SubnetId};
use serde::{Deserialize, Serialize};

use crate::{
    client::{Client, Request},
    error::Error,
    neutron::null_is_default,
    query::{Query, segment},
};

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its id.
    pub id: NetworkId,
    /// Its name; need not be unique.
    #[serde(default)]
    pub name: String,
    /// Largest packet in bytes, if Neutron tells (extension `net-mtu`).
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Its subnets.
    #[serde(default)]
    pub subnets: Vec<SubnetId>,
    /// The project that it belongs to.
    pub project_id: ProjectId,
    /// Other projects may use it.
    #[serde(default)]
    pub shared: bool,
    /// It leads outside of the cloud (extension `router`).
    #[serde(rename = "router:external", default)]
    pub external: bool,
    /// Its tags.
    #[serde(default, deserialize_with = "null_is_default")]
    pub tags: Vec<String>,
}

/// Which networks to list; all conditions must hold, and those not given do not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkFilter {
    /// One of these; none given means any.
    pub ids: Vec<NetworkId>,
    /// This name.
    pub name: Option<String>,
    /// Belongs to this project.
    pub project_id: Option<ProjectId>,
    /// Carries all of these tags.
    pub tags: Vec<String>,
}

impl NetworkFilter {
    fn query(&self) -> Query {
        Query::default()
            .with_some("name", self.name.as_deref())
            .with_some("project_id", self.project_id.as_ref().map(ProjectId::as_str))
            .with("tags", &self.tags.join(","))
    }

    fn accepts(&self, network: &Network) -> bool {
        (self.ids.is_empty() || self.ids.contains(&network.id))
            && self.name.as_ref().is_none_or(|name| *name == network.name)
            && self.project_id.as_ref().is_none_or(|project| *project == network.project_id)
            && self.tags.iter().all(|tag| network.tags.contains(tag))
    }
}

impl Client {
    /// Reads one network. "Show network details", `GET /v2.0/networks/{id}`.
    ///
    /// # Errors
    /// [`Error::NotFound`], or what else the cloud answers.
    pub async fn network(&self, id: &NetworkId) -> Result<Network, Error> {
        let path = format!("networks/{}", segment(id.as_str()));
        self.call(Request::new("get_network", Method::GET, path)).await?.member("network")
    }

    /// Lists networks that we may see: own, shared and external ones. "List networks", `GET /v2.0/networks`.
    ///
    /// # Errors
    /// What the cloud answers.
    pub async fn networks(&self, filter: &NetworkFilter) -> Result<Vec<Network>, Error> {
        let ids: Vec<&str> = filter.ids.iter().map(NetworkId::as_str).collect();
        let mut found: Vec<Network> =
            self.list_by_ids("list_networks", "networks", &ids, filter.query()).await?;
        found.retain(|network| filter.accepts(network));
        Ok(found)
    }
}
