//! Quotas: how much of each resource a project may have, and has.
//!
//! Source: Networking API v2.0, "Quotas extension", "Quota details extension".

use std::collections::BTreeMap;

use http::Method;
use kuryr_types::ProjectId;
use serde::Deserialize;

use crate::{
    client::{Client, Request},
    error::Error,
    query::segment,
};

/// The quota of one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Most that there may be; `None` is unlimited.
    pub limit: Option<u64>,
    /// How many there are, if Neutron tells.
    pub used: Option<u64>,
    /// How many are being made, if Neutron tells.
    pub reserved: Option<u64>,
}

impl Quota {
    /// How many more can be made; `None` if that is unlimited or cannot be told.
    #[must_use]
    pub fn free(&self) -> Option<u64> {
        let taken = self.used?.saturating_add(self.reserved.unwrap_or(0));
        Some(self.limit?.saturating_sub(taken))
    }
}

/// Neutron writes -1 for unlimited.
#[derive(Deserialize)]
struct Details {
    limit: i64,
    #[serde(default)]
    used: Option<i64>,
    #[serde(default)]
    reserved: Option<i64>,
}

impl From<Details> for Quota {
    fn from(details: Details) -> Self {
        let count = |number: i64| u64::try_from(number).ok();
        Self {
            limit: count(details.limit),
            used: details.used.and_then(count),
            reserved: details.reserved.and_then(count),
        }
    }
}

impl Client {
    /// Reads a project's quotas by resource, such as `port`; our own project's need no special role. "Show quota
    /// details for a tenant", `GET /v2.0/quotas/{project_id}/details`, or where that is not there, "List quotas
    /// for a project", `GET /v2.0/quotas/{project_id}`, which tells limits only.
    ///
    /// # Errors
    /// What the cloud answers.
    pub async fn quotas(&self, project_id: &ProjectId) -> Result<BTreeMap<String, Quota>, Error> {
        let path = format!("quotas/{}", segment(project_id.as_str()));
        let details = Request::new("get_quota_details", Method::GET, format!("{path}/details"));
        match self.call(details).await {
            Ok(answer) => {
                let quotas: BTreeMap<String, Details> = answer.member("quota")?;
                Ok(quotas.into_iter().map(|(name, details)| (name, details.into())).collect())
            }
            Err(Error::NotFound { .. }) => {
                let answer = self.call(Request::new("get_quota", Method::GET, path)).await?;
                let limits: BTreeMap<String, i64> = answer.member("quota")?;
                let quota = |limit| Details { limit, used: None, reserved: None }.into();
                Ok(limits.into_iter().map(|(name, limit)| (name, quota(limit))).collect())
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::recorded::{Reply, cloud};

    #[test]
    fn free_is_what_the_limit_leaves() {
        for (limit, used, reserved, expect) in [
            (100, Some(40), Some(5), Some(55)),
            (100, Some(40), None, Some(60)),
            (100, Some(120), Some(0), Some(0)),
            (-1, Some(40), Some(0), None),
            (100, None, None, None),
        ] {
            assert_eq!(Quota::from(Details { limit, used, reserved }).free(), expect, "{limit} {used:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_details_limits_are_told() {
        for (with_details, used) in [(true, Some(3)), (false, None)] {
            let (client, recorded) = cloud(move |asked| match asked.path.as_str() {
                "/v2.0/quotas/ours/details" if with_details => {
                    let details =
                        json!({"port": {"limit": 500, "used": 3, "reserved": 0}, "trunk": {"limit": -1}});
                    Some(Reply::Json(200, json!({"quota": details})))
                }
                "/v2.0/quotas/ours" => Some(Reply::Json(200, json!({"quota": {"port": 500, "trunk": -1}}))),
                _ => None,
            });
            let quotas = client.quotas(&"ours".into()).await.unwrap();
            assert_eq!((quotas["port"].limit, quotas["port"].used), (Some(500), used));
            assert_eq!(quotas["trunk"].limit, None);
            assert_eq!(recorded.asked().len(), if with_details { 1 } else { 2 });
        }
    }
}
