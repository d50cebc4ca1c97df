//! Listeners: a protocol and a port of a load balancer's address.
//!
//! Source: Load Balancer API v2, "Listeners".

use std::collections::BTreeMap;

use http::Method;
use ipnet::IpNet;
use kuryr_types::{LbPoolId, ListenerId, LoadBalancerId};
use serde::{Deserialize, Serialize};

use super::{
    load_balancer::{Carrier, ProvisioningStatus},
    pool::PoolCreate,
};
use crate::{
    client::{Client, Request},
    error::Error,
    neutron::null_is_default,
    query::{Query, segment},
};

/// A listener as Octavia shows it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Listener {
    /// Its id.
    pub id: ListenerId,
    /// Its name; need not be unique.
    #[serde(default, deserialize_with = "null_is_default")]
    pub name: String,
    /// Such as `TCP`.
    pub protocol: String,
    /// The port.
    pub protocol_port: u16,
    /// Where its connections go.
    #[serde(default)]
    pub default_pool_id: Option<LbPoolId>,
    /// Most connections at a time; -1 is no bound.
    #[serde(default)]
    pub connection_limit: Option<i64>,
    /// Milliseconds that a client may be silent.
    #[serde(default)]
    pub timeout_client_data: Option<u32>,
    /// Milliseconds that a connection to a member may take.
    #[serde(default)]
    pub timeout_member_connect: Option<u32>,
    /// Milliseconds that a member may be silent.
    #[serde(default)]
    pub timeout_member_data: Option<u32>,
    /// Milliseconds to wait for more of the first data of a connection.
    #[serde(default)]
    pub timeout_tcp_inspect: Option<u32>,
    /// The only clients; empty: all.
    #[serde(default, deserialize_with = "null_is_default")]
    pub allowed_cidrs: Vec<IpNet>,
    /// HTTP headers that are inserted, with `true`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub insert_headers: BTreeMap<String, String>,
    /// Its tags.
    #[serde(default, deserialize_with = "null_is_default")]
    pub tags: Vec<String>,
    /// What becomes of it; `None` where it is not told.
    #[serde(default)]
    pub provisioning_status: Option<ProvisioningStatus>,
}

/// A timeout in a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Timeout {
    /// It stays as it is; in a new listener it is Octavia's own default.
    #[default]
    Keep,
    /// Octavia's own default.
    Default,
    /// Milliseconds.
    Millis(u32),
}

impl Timeout {
    const fn is_kept(&self) -> bool {
        matches!(self, Self::Keep)
    }
}

impl Serialize for Timeout {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Keep | Self::Default => serializer.serialize_none(),
            Self::Millis(millis) => serializer.serialize_u32(*millis),
        }
    }
}

/// What of a listener can be changed; what is `None` stays, or is Octavia's own default in a new one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ListenerUpdate {
    /// Where its connections go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_pool_id: Option<LbPoolId>,
    /// Most connections at a time; -1 is no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_limit: Option<i64>,
    /// Milliseconds that a client may be silent.
    #[serde(skip_serializing_if = "Timeout::is_kept")]
    pub timeout_client_data: Timeout,
    /// Milliseconds that a connection to a member may take.
    #[serde(skip_serializing_if = "Timeout::is_kept")]
    pub timeout_member_connect: Timeout,
    /// Milliseconds that a member may be silent.
    #[serde(skip_serializing_if = "Timeout::is_kept")]
    pub timeout_member_data: Timeout,
    /// Milliseconds to wait for more of the first data of a connection.
    #[serde(skip_serializing_if = "Timeout::is_kept")]
    pub timeout_tcp_inspect: Timeout,
    /// The only clients; an empty list: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_cidrs: Option<Vec<IpNet>>,
    /// HTTP headers to be inserted, with `true`; only of a listener that speaks HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub insert_headers: Option<BTreeMap<String, String>>,
    /// Tags besides those of the load balancer's owner, which are put here when it is sent; `None`: tags stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
}

impl ListenerUpdate {
    fn tag(&mut self, owners: &[String]) {
        if let Some(more) = &self.tags {
            self.tags = Some(owners.iter().chain(more).cloned().collect());
        }
    }
}

/// A listener to be. Tags of the load balancer's owner are added when it is created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListenerCreate {
    /// Its name, by which it can be found again.
    pub name: String,
    /// Such as `TCP`.
    pub protocol: String,
    /// The port.
    pub protocol_port: u16,
    /// What can be changed later, too.
    #[serde(flatten)]
    pub settings: ListenerUpdate,
    /// Its pool; only in a load balancer that is made whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_pool: Option<PoolCreate>,
}

impl ListenerCreate {
    /// A listener of this name, protocol and port, with nothing else said.
    #[must_use]
    pub fn new(name: impl Into<String>, protocol: impl Into<String>, protocol_port: u16) -> Self {
        Self {
            name: name.into(),
            protocol: protocol.into(),
            protocol_port,
            settings: ListenerUpdate::default(),
            default_pool: None,
        }
    }

    /// And with a pool of its own.
    #[must_use]
    pub fn with_pool(self, pool: PoolCreate) -> Self {
        Self { default_pool: Some(pool), ..self }
    }

    pub(super) fn tag(&mut self, tags: &[String]) {
        self.settings.tags.get_or_insert_default();
        self.settings.tag(tags);
        if let Some(pool) = &mut self.default_pool {
            pool.tag(tags);
        }
    }
}

#[derive(Serialize)]
struct NewListener<'a> {
    #[serde(flatten)]
    listener: &'a ListenerCreate,
    loadbalancer_id: &'a LoadBalancerId,
}

const COLLECTION: &str = "listeners";

fn path(id: &ListenerId) -> String {
    format!("{COLLECTION}/{}", segment(id.as_str()))
}

impl Client {
    /// Lists all listeners of a load balancer, also those of others. "List Listeners", `GET /v2/lbaas/listeners`.
    ///
    /// # Errors
    /// What the cloud answers.
    pub async fn listeners(&self, of: &Carrier) -> Result<Vec<Listener>, Error> {
        let query = Query::default().with("loadbalancer_id", of.id.as_str());
        self.pages(Request::octavia("list_listeners", Method::GET, COLLECTION), COLLECTION, query).await
    }

    /// Creates a listener below a [`Carrier`], for a pool that is there. "Create Listener",
    /// `POST /v2/lbaas/listeners`.
    ///
    /// # Errors
    /// [`Error::Immutable`], [`Error::QuotaExceeded`], [`Error::Unsupported`], what else the cloud answers.
    pub async fn create_listener(&self, of: &Carrier, create: &ListenerCreate) -> Result<(), Error> {
        let mut tagged = create.clone();
        tagged.tag(of.tags_below());
        let body = BTreeMap::from([("listener", NewListener { listener: &tagged, loadbalancer_id: &of.id })]);
        self.call(Request::octavia("create_listener", Method::POST, COLLECTION).body(&body)).await.map(drop)
    }

    /// Changes a listener below a [`Carrier`]. "Update a Listener", `PUT /v2/lbaas/listeners/{id}`.
    ///
    /// # Errors
    /// [`Error::Immutable`], [`Error::NotFound`], what else the cloud answers.
    pub async fn update_listener(
        &self,
        of: &Carrier,
        id: &ListenerId,
        update: &ListenerUpdate,
    ) -> Result<(), Error> {
        let mut tagged = update.clone();
        tagged.tag(of.tags_below());
        let body = BTreeMap::from([("listener", tagged)]);
        self.call(Request::octavia("update_listener", Method::PUT, path(id)).body(&body)).await.map(drop)
    }

    /// Deletes a listener below a [`Carrier`]; one that does not exist any more counts as deleted. "Remove a
    /// Listener", `DELETE /v2/lbaas/listeners/{id}`.
    ///
    /// # Errors
    /// [`Error::Immutable`]; what else the cloud answers.
    pub async fn delete_listener(&self, _of: &Carrier, id: &ListenerId) -> Result<(), Error> {
        self.gone(Request::octavia("delete_listener", Method::DELETE, path(id))).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixtures::*;
    use super::*;
    use crate::recorded::Reply;

    #[tokio::test(start_paused = true)]
    async fn listeners_are_read_made_changed_and_deleted() {
        let (client, recorded, of) = with_one(|asked| match asked.method {
            Method::GET => Some(Reply::Json(
                200,
                json!({"listeners": [{"id": "l", "name": "d/web:TCP:80", "protocol": "TCP", "protocol_port": 80,
                    "default_pool_id": "p", "connection_limit": -1, "timeout_client_data": 50000, "allowed_cidrs": null,
                    "loadbalancers": [{"id": "b"}], "provisioning_status": "ACTIVE"}]}),
            )),
            _ => Some(Reply::Json(204, json!({}))),
        })
        .await;
        let found = client.listeners(&of).await.unwrap();
        assert_eq!((found[0].protocol_port, found[0].timeout_client_data), (80, Some(50_000)));
        let mut create = ListenerCreate::new("n", "UDP", 53);
        create.settings.default_pool_id = Some("p".into());
        client.create_listener(&of, &create).await.unwrap();
        let update = ListenerUpdate { allowed_cidrs: Some(vec![]), ..ListenerUpdate::default() };
        client.update_listener(&of, &"l".into(), &update).await.unwrap();
        client.delete_listener(&of, &"l".into()).await.unwrap();
        let update = ListenerUpdate {
            timeout_client_data: Timeout::Millis(7),
            timeout_member_data: Timeout::Default,
            tags: Some(vec!["more".to_owned()]),
            ..ListenerUpdate::default()
        };
        client.update_listener(&of, &"l".into(), &update).await.unwrap();
        let asked = recorded.asked();
        assert_eq!(
            recorded.lines()[1..],
            [
                "GET /v2/lbaas/listeners?loadbalancer_id=b&limit=500",
                "POST /v2/lbaas/listeners",
                "PUT /v2/lbaas/listeners/l",
                "DELETE /v2/lbaas/listeners/l",
                "PUT /v2/lbaas/listeners/l"
            ]
        );
        let made = json!({"listener": {"name": "n", "protocol": "UDP", "protocol_port": 53, "default_pool_id": "p",
                                       "loadbalancer_id": "b", "tags": ["kuryr:cluster=a"]}});
        assert_eq!(asked[2].body, made);
        assert_eq!(asked[3].body, json!({"listener": {"allowed_cidrs": []}}));
        let changed = json!({"listener": {"timeout_client_data": 7, "timeout_member_data": null,
                                          "tags": ["kuryr:cluster=a", "more"]}});
        assert_eq!(asked[5].body, changed);
    }
}
