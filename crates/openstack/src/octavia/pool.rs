//! Pools: the members that a listener's connections go to, and how one is chosen.
//!
//! Source: Load Balancer API v2, "Pools".

use std::collections::BTreeMap;

use http::Method;
use kuryr_types::{LbPoolId, LoadBalancerId, MonitorId};
use serde::{Deserialize, Serialize};

use super::{
    health_monitor::HealthMonitorCreate,
    load_balancer::{Carrier, ProvisioningStatus},
    member::MemberCreate,
};
use crate::{
    client::{Client, Request},
    error::Error,
    neutron::null_is_default,
    query::{Query, segment},
};

/// A pool as Octavia shows it, without its members.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LbPool {
    /// Its id.
    pub id: LbPoolId,
    /// Its name; need not be unique.
    #[serde(default, deserialize_with = "null_is_default")]
    pub name: String,
    /// Such as `TCP`.
    pub protocol: String,
    /// How a member is chosen, such as `SOURCE_IP_PORT`.
    pub lb_algorithm: String,
    /// Whether and how clients keep their member.
    #[serde(default)]
    pub session_persistence: Option<SessionPersistence>,
    /// Its health monitor.
    #[serde(default)]
    pub healthmonitor_id: Option<MonitorId>,
    /// Its tags.
    #[serde(default, deserialize_with = "null_is_default")]
    pub tags: Vec<String>,
    /// What becomes of it; `None` where it is not told.
    #[serde(default)]
    pub provisioning_status: Option<ProvisioningStatus>,
    /// When it was made, by Octavia's clock, such as `2026-11-22T18:21:09`; empty where it is not told.
    #[serde(default, deserialize_with = "null_is_default")]
    pub created_at: String,
}

/// How clients keep their member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionPersistence {
    /// Such as `SOURCE_IP`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// A pool to be. Tags of the load balancer's owner are added when it is created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolCreate {
    /// Its name, by which it can be found again.
    pub name: String,
    /// Such as `TCP`.
    pub protocol: String,
    /// How a member is chosen.
    pub lb_algorithm: String,
    /// Whether and how clients keep their member.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<SessionPersistence>,
    /// Its members; only in a load balancer that is made whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<MemberCreate>,
    /// Its health monitor; only in a load balancer that is made whole, and not every provider looks at it there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthmonitor: Option<HealthMonitorCreate>,
    tags: Vec<String>,
}

impl PoolCreate {
    /// A pool of this name, protocol and algorithm, with nothing else said.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        protocol: impl Into<String>,
        lb_algorithm: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            protocol: protocol.into(),
            lb_algorithm: lb_algorithm.into(),
            session_persistence: None,
            members: vec![],
            healthmonitor: None,
            tags: vec![],
        }
    }

    /// And with these members.
    #[must_use]
    pub fn with_members(self, members: Vec<MemberCreate>) -> Self {
        Self { members, ..self }
    }

    pub(super) fn tag(&mut self, tags: &[String]) {
        self.tags = tags.to_vec();
        self.members.iter_mut().for_each(|member| member.tags = tags.to_vec());
        if let Some(monitor) = &mut self.healthmonitor {
            monitor.tag(tags);
        }
    }
}

/// What of a pool can be changed; all of it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolUpdate {
    /// How a member is chosen.
    pub lb_algorithm: String,
    /// Whether and how clients keep their member.
    pub session_persistence: Option<SessionPersistence>,
}

/// A change of a pool. Provider ovn fails over one that does not say whether the pool works (`KeyError: 'admin_state_up'` in
/// `ovn_octavia_provider.helper.pool_update`), and the pool is in `ERROR` then.
#[derive(Serialize)]
struct ChangedPool<'a> {
    #[serde(flatten)]
    pool: &'a PoolUpdate,
    admin_state_up: bool,
}

#[derive(Serialize)]
struct NewPool<'a> {
    #[serde(flatten)]
    pool: &'a PoolCreate,
    loadbalancer_id: &'a LoadBalancerId,
}

const COLLECTION: &str = "pools";

/// Where a pool is.
pub(super) fn path(id: &LbPoolId) -> String {
    format!("{COLLECTION}/{}", segment(id.as_str()))
}

impl Client {
    /// Lists all pools of a load balancer, also those of others. "List Pools", `GET /v2/lbaas/pools`.
    ///
    /// # Errors
    /// What the cloud answers.
    pub async fn lb_pools(&self, of: &Carrier) -> Result<Vec<LbPool>, Error> {
        let query = Query::default().with("loadbalancer_id", of.id.as_str());
        self.pages(Request::octavia("list_pools", Method::GET, COLLECTION), COLLECTION, query).await
    }

    /// Creates a pool below a [`Carrier`], of no listener yet. "Create Pool", `POST /v2/lbaas/pools`.
    ///
    /// # Errors
    /// [`Error::Immutable`], [`Error::QuotaExceeded`], [`Error::Unsupported`], what else the cloud answers.
    pub async fn create_lb_pool(&self, of: &Carrier, create: &PoolCreate) -> Result<(), Error> {
        let mut tagged = create.clone();
        tagged.tag(of.tags_below());
        let body = BTreeMap::from([("pool", NewPool { pool: &tagged, loadbalancer_id: &of.id })]);
        self.call(Request::octavia("create_pool", Method::POST, COLLECTION).body(&body)).await.map(drop)
    }

    /// Changes a pool below a [`Carrier`], which works from then on if somebody had switched it off. "Update a Pool", `PUT /v2/lbaas/pools/{id}`.
    ///
    /// # Errors
    /// [`Error::Immutable`], [`Error::NotFound`], what else the cloud answers.
    pub async fn update_lb_pool(
        &self,
        _of: &Carrier,
        id: &LbPoolId,
        update: &PoolUpdate,
    ) -> Result<(), Error> {
        let body = BTreeMap::from([("pool", ChangedPool { pool: update, admin_state_up: true })]);
        self.call(Request::octavia("update_pool", Method::PUT, path(id)).body(&body)).await.map(drop)
    }

    /// Deletes a pool below a [`Carrier`]; one that does not exist any more counts as deleted. "Remove a Pool",
    /// `DELETE /v2/lbaas/pools/{id}`.
    ///
    /// # Errors
    /// [`Error::Immutable`]; what else the cloud answers.
    pub async fn delete_lb_pool(&self, _of: &Carrier, id: &LbPoolId) -> Result<(), Error> {
        self.gone(Request::octavia("delete_pool", Method::DELETE, path(id))).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixtures::*;
    use super::*;
    use crate::recorded::Reply;

    #[tokio::test(start_paused = true)]
    async fn pools_are_read_made_changed_and_deleted() {
        let (client, recorded, of) = with_one(|asked| match asked.method {
            Method::GET => Some(Reply::Json(
                200,
                json!({"pools": [{"id": "p", "name": "d/web:TCP:80", "protocol": "TCP", "lb_algorithm": "SOURCE_IP_PORT",
                    "session_persistence": {"type": "SOURCE_IP", "cookie_name": null}, "listeners": [{"id": "l"}],
                    "members": [{"id": "m"}], "healthmonitor_id": null, "created_at": "2026-11-22T18:21:09"}]}),
            )),
            _ => Some(Reply::Json(204, json!({}))),
        })
        .await;
        let found = client.lb_pools(&of).await.unwrap();
        let source_ip = || SessionPersistence { kind: "SOURCE_IP".to_owned() };
        assert_eq!(found[0].session_persistence, Some(source_ip()));
        assert_eq!(found[0].created_at, "2026-11-22T18:21:09");
        client.create_lb_pool(&of, &PoolCreate::new("n", "TCP", "ROUND_ROBIN")).await.unwrap();
        let update = PoolUpdate { lb_algorithm: "SOURCE_IP".to_owned(), session_persistence: None };
        client.update_lb_pool(&of, &"p".into(), &update).await.unwrap();
        client.delete_lb_pool(&of, &"p".into()).await.unwrap();
        assert_eq!(
            recorded.lines()[1..],
            [
                "GET /v2/lbaas/pools?loadbalancer_id=b&limit=500",
                "POST /v2/lbaas/pools",
                "PUT /v2/lbaas/pools/p",
                "DELETE /v2/lbaas/pools/p"
            ]
        );
        let asked = recorded.asked();
        let made = json!({"pool": {"name": "n", "protocol": "TCP", "lb_algorithm": "ROUND_ROBIN", "loadbalancer_id": "b",
                                   "tags": ["kuryr:cluster=a"]}});
        assert_eq!(asked[2].body, made);
        assert_eq!(
            asked[3].body,
            json!({"pool": {"lb_algorithm": "SOURCE_IP", "session_persistence": null, "admin_state_up": true}})
        );
    }
}
