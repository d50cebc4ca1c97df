//! Members of a pool, replaced all at once.
//!
//! Octavia compares them by address and port: what is on both sides is updated, the rest made or deleted, in one change
//! of the load balancer. One that it does not come to the end of deleting is deleted alone.
//!
//! Sources: Load Balancer API v2, "List Members", "Batch Update Members".

use std::{collections::BTreeMap, net::IpAddr};

use http::Method;
use kuryr_types::{LbPoolId, MemberId, SubnetId};
use serde::{Deserialize, Serialize};

use super::{
    load_balancer::{Carrier, ProvisioningStatus},
    pool::path,
};
use crate::{
    client::{Client, Request},
    error::Error,
    neutron::null_is_default,
    query::Query,
};

/// A member as Octavia shows it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Member {
    /// Its id.
    pub id: MemberId,
    /// Its name.
    #[serde(default, deserialize_with = "null_is_default")]
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub protocol_port: u16,
    /// The subnet by which it is reached; none: that of the load balancer's address.
    #[serde(default)]
    pub subnet_id: Option<SubnetId>,
    /// What becomes of it; `None` where it is not told.
    #[serde(default)]
    pub provisioning_status: Option<ProvisioningStatus>,
}

impl Member {
    /// Says whether it is on its way out: provider ovn may call the load balancer `ACTIVE` before that is done.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        let status = self.provisioning_status.as_ref();
        matches!(status, Some(ProvisioningStatus::PendingDelete | ProvisioningStatus::Deleted))
    }
}

/// A member to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemberCreate {
    /// Its name, for people.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub protocol_port: u16,
    /// The subnet by which it is reached; none: that of the load balancer's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet_id: Option<SubnetId>,
    /// Its tags; those of the load balancer's owner are put here when it is created.
    pub tags: Vec<String>,
}

impl Client {
    /// Lists the members of a pool. "List Members", `GET /v2/lbaas/pools/{pool_id}/members`.
    ///
    /// # Errors
    /// What the cloud answers.
    pub async fn members(&self, pool: &LbPoolId) -> Result<Vec<Member>, Error> {
        let path = format!("{}/members", path(pool));
        let request = Request::octavia("list_members", Method::GET, path);
        self.pages(request, "members", Query::default()).await
    }

    /// Replaces all members of a pool below a [`Carrier`]. "Batch Update Members",
    /// `PUT /v2/lbaas/pools/{pool_id}/members`.
    ///
    /// # Errors
    /// [`Error::Immutable`], [`Error::QuotaExceeded`], [`Error::Unsupported`], [`Error::NotFound`], what else the cloud
    /// answers.
    pub async fn replace_members(
        &self,
        of: &Carrier,
        pool: &LbPoolId,
        members: &[MemberCreate],
    ) -> Result<(), Error> {
        let tagged: Vec<MemberCreate> = members
            .iter()
            .map(|member| MemberCreate { tags: of.tags_below().to_vec(), ..member.clone() })
            .collect();
        let path = format!("{}/members", path(pool));
        let body = BTreeMap::from([("members", &tagged)]);
        self.call(Request::octavia("replace_members", Method::PUT, path).body(&body)).await.map(drop)
    }

    /// Deletes a member of a pool below a [`Carrier`]; one that does not exist any more counts as deleted. "Remove a Member",
    /// `DELETE /v2/lbaas/pools/{pool_id}/members/{member_id}`.
    ///
    /// # Errors
    /// [`Error::Immutable`]; what else the cloud answers.
    pub async fn delete_member(&self, _of: &Carrier, pool: &LbPoolId, id: &MemberId) -> Result<(), Error> {
        let path = format!("{}/members/{id}", path(pool));
        self.gone(Request::octavia("delete_member", Method::DELETE, path)).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixtures::*;
    use super::*;
    use crate::recorded::Reply;

    #[tokio::test(start_paused = true)]
    async fn members_are_replaced_by_one_call() {
        let (client, recorded, of) = with_one(|asked| match asked.method {
            Method::GET => Some(Reply::Json(
                200,
                json!({"members": [{"id": "m", "name": "d/web-0:80", "address": "fd00::7", "protocol_port": 80,
                    "weight": 1, "subnet_id": null, "backup": false, "tags": [], "provisioning_status": "ACTIVE"},
                    {"id": "o", "address": "fd00::9", "protocol_port": 80, "provisioning_status": "PENDING_DELETE"}],
                    "members_links": []}),
            )),
            _ if asked.path.contains("busy") => Some(Reply::Json(
                409,
                json!({"faultcode": "Client", "faultstring": "Load Balancer b is immutable and cannot be updated."}),
            )),
            _ => Some(Reply::Json(202, json!({}))),
        })
        .await;
        let found = client.members(&"p".into()).await.unwrap();
        assert_eq!((found[0].address.to_string().as_str(), &found[0].subnet_id), ("fd00::7", &None));
        assert!(!found[0].is_leaving() && found[1].is_leaving());
        let member = MemberCreate {
            name: "d/web-1:80".to_owned(),
            address: "fd00::8".parse().unwrap(),
            protocol_port: 80,
            subnet_id: None,
            tags: vec![],
        };
        client.replace_members(&of, &"p".into(), &[member]).await.unwrap();
        client.replace_members(&of, &"p".into(), &[]).await.unwrap();
        let error = client.replace_members(&of, &"busy".into(), &[]).await.unwrap_err();
        assert!(matches!(error, Error::Immutable { .. }), "{error}");
        client.delete_member(&of, &"p".into(), &"o".into()).await.unwrap();
        let asked = recorded.asked();
        assert_eq!(recorded.lines().last().map(String::as_str), Some("DELETE /v2/lbaas/pools/p/members/o"));
        assert_eq!(
            recorded.lines()[1..3],
            ["GET /v2/lbaas/pools/p/members?limit=500", "PUT /v2/lbaas/pools/p/members"]
        );
        let tags = ["kuryr:cluster=a"];
        assert_eq!(
            asked[2].body,
            json!({"members": [{"name": "d/web-1:80", "address": "fd00::8", "protocol_port": 80, "tags": tags}]})
        );
        assert_eq!(asked[3].body, json!({"members": []}));
    }
}
