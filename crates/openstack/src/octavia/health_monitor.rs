//! Health monitors: how Octavia itself finds out whether the members of a pool answer.
//!
//! Source: Load Balancer API v2, "Health Monitor".

use std::collections::BTreeMap;

use http::Method;
use kuryr_types::{LbPoolId, MonitorId};
use serde::{Deserialize, Serialize};

use super::load_balancer::Carrier;
use crate::{
    client::{Client, Request},
    error::Error,
    query::segment,
};

/// A health monitor as Octavia shows it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct HealthMonitor {
    /// Its id.
    pub id: MonitorId,
    /// Such as `TCP`, `UDP-CONNECT`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Seconds between looks.
    pub delay: u32,
    /// Seconds after which there is no answer.
    pub timeout: u32,
    /// Good looks in a row after which a member is used again.
    pub max_retries: u32,
    /// Bad looks in a row after which a member is not used any more.
    pub max_retries_down: u32,
}

/// What of a health monitor can be changed; all of it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthMonitorUpdate {
    /// Seconds between looks.
    pub delay: u32,
    /// Seconds after which there is no answer.
    pub timeout: u32,
    /// Good looks in a row after which a member is used again.
    pub max_retries: u32,
    /// Bad looks in a row after which a member is not used any more.
    pub max_retries_down: u32,
}

/// A health monitor to be. Tags of the load balancer's owner are added when it is created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthMonitorCreate {
    /// Its name, for people.
    pub name: String,
    /// Such as `TCP`, `UDP-CONNECT`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What can be changed later, too.
    #[serde(flatten)]
    pub settings: HealthMonitorUpdate,
    tags: Vec<String>,
}

impl HealthMonitorCreate {
    /// A health monitor of this name and kind.
    #[must_use]
    pub fn new(name: impl Into<String>, kind: impl Into<String>, settings: HealthMonitorUpdate) -> Self {
        Self { name: name.into(), kind: kind.into(), settings, tags: vec![] }
    }

    pub(super) fn tag(&mut self, tags: &[String]) {
        self.tags = tags.to_vec();
    }
}

#[derive(Serialize)]
struct NewMonitor<'a> {
    #[serde(flatten)]
    monitor: &'a HealthMonitorCreate,
    pool_id: &'a LbPoolId,
}

const COLLECTION: &str = "healthmonitors";
const MEMBER: &str = "healthmonitor";

fn path(id: &MonitorId) -> String {
    format!("{COLLECTION}/{}", segment(id.as_str()))
}

impl Client {
    /// Reads a health monitor. "Show Health Monitor details", `GET /v2/lbaas/healthmonitors/{id}`.
    ///
    /// # Errors
    /// [`Error::NotFound`], what else the cloud answers.
    pub async fn health_monitor(&self, id: &MonitorId) -> Result<HealthMonitor, Error> {
        self.call(Request::octavia("show_health_monitor", Method::GET, path(id))).await?.member(MEMBER)
    }

    /// Creates the health monitor of a pool below a [`Carrier`]. "Create Health Monitor",
    /// `POST /v2/lbaas/healthmonitors`.
    ///
    /// # Errors
    /// [`Error::Immutable`], [`Error::QuotaExceeded`], [`Error::Unsupported`], what else the cloud answers.
    pub async fn create_health_monitor(
        &self,
        of: &Carrier,
        pool: &LbPoolId,
        create: &HealthMonitorCreate,
    ) -> Result<(), Error> {
        let mut tagged = create.clone();
        tagged.tag(of.tags_below());
        let body = BTreeMap::from([(MEMBER, NewMonitor { monitor: &tagged, pool_id: pool })]);
        let request = Request::octavia("create_health_monitor", Method::POST, COLLECTION).body(&body);
        self.call(request).await.map(drop)
    }

    /// Changes a health monitor below a [`Carrier`]. "Update a Health Monitor",
    /// `PUT /v2/lbaas/healthmonitors/{id}`.
    ///
    /// # Errors
    /// [`Error::Immutable`], [`Error::NotFound`], what else the cloud answers.
    pub async fn update_health_monitor(
        &self,
        _of: &Carrier,
        id: &MonitorId,
        update: &HealthMonitorUpdate,
    ) -> Result<(), Error> {
        let body = BTreeMap::from([(MEMBER, update)]);
        self.call(Request::octavia("update_health_monitor", Method::PUT, path(id)).body(&body))
            .await
            .map(drop)
    }

    /// Deletes a health monitor below a [`Carrier`]; one that does not exist any more counts as deleted. "Remove a
    /// Health Monitor", `DELETE /v2/lbaas/healthmonitors/{id}`.
    ///
    /// # Errors
    /// [`Error::Immutable`]; what else the cloud answers.
    pub async fn delete_health_monitor(&self, _of: &Carrier, id: &MonitorId) -> Result<(), Error> {
        self.gone(Request::octavia("delete_health_monitor", Method::DELETE, path(id))).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixtures::*;
    use super::*;
    use crate::recorded::Reply;

    #[tokio::test(start_paused = true)]
    async fn monitors_are_read_made_changed_and_deleted() {
        let (client, recorded, of) = with_one(|asked| match asked.method {
            Method::GET => Some(Reply::Json(
                200,
                json!({"healthmonitor": {"id": "h", "name": "d/web:TCP:80", "type": "TCP", "delay": 60, "timeout": 30,
                    "max_retries": 1, "max_retries_down": 3, "http_method": null, "pools": [{"id": "p"}],
                    "provisioning_status": "ACTIVE"}}),
            )),
            _ => Some(Reply::Json(204, json!({}))),
        })
        .await;
        let found = client.health_monitor(&"h".into()).await.unwrap();
        assert_eq!((found.kind.as_str(), found.delay, found.max_retries_down), ("TCP", 60, 3));
        let settings = HealthMonitorUpdate { delay: 5, timeout: 3, max_retries: 1, max_retries_down: 2 };
        let create = HealthMonitorCreate::new("n", "TCP", settings.clone());
        client.create_health_monitor(&of, &"p".into(), &create).await.unwrap();
        client.update_health_monitor(&of, &"h".into(), &settings).await.unwrap();
        client.delete_health_monitor(&of, &"h".into()).await.unwrap();
        assert_eq!(
            recorded.lines()[1..],
            [
                "GET /v2/lbaas/healthmonitors/h",
                "POST /v2/lbaas/healthmonitors",
                "PUT /v2/lbaas/healthmonitors/h",
                "DELETE /v2/lbaas/healthmonitors/h"
            ]
        );
        let asked = recorded.asked();
        let made = json!({"healthmonitor": {"name": "n", "type": "TCP", "delay": 5, "timeout": 3, "max_retries": 1,
                                            "max_retries_down": 2, "pool_id": "p", "tags": ["kuryr:cluster=a"]}});
        assert_eq!(asked[2].body, made);
        let changed =
            json!({"healthmonitor": {"delay": 5, "timeout": 3, "max_retries": 1, "max_retries_down": 2}});
        assert_eq!(asked[3].body, changed);
    }
}
