//! What this Octavia can do: the version of its API, and its providers.
//!
//! Sources: Load Balancer API v2, "API Discovery", "List Providers".

use std::{collections::BTreeSet, fmt, sync::Arc};

use http::Method;
use serde::Deserialize;

use crate::{
    client::{Client, Request},
    error::Error,
};

/// A version of the API, such as 2.13.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    /// Before the dot.
    pub major: u16,
    /// Behind it.
    pub minor: u16,
}

impl ApiVersion {
    /// Version `major.minor`.
    #[must_use]
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    /// Reads `v2.13`, and `v2` as 2.0.
    fn parse(id: &str) -> Option<Self> {
        let number = id.strip_prefix('v')?;
        let (major, minor) = number.split_once('.').unwrap_or((number, "0"));
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What an Octavia can do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Octavia {
    /// The greatest version of its API.
    pub version: ApiVersion,
    /// Names of its providers.
    pub providers: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Version {
    id: String,
}

#[derive(Deserialize)]
struct Provider {
    name: String,
}

impl Client {
    /// Tells what Octavia can do; asks once in the life of a client. "List All Major Versions", `GET /`;
    /// "List Providers", `GET /v2/lbaas/providers`.
    ///
    /// # Errors
    /// [`Error::EndpointMissing`] if the cloud has no Octavia; what the cloud answers; the next call asks again.
    pub async fn octavia(&self) -> Result<Arc<Octavia>, Error> {
        let ask = || async {
            let answer = self.call(Request::octavia_versions("list_octavia_versions")).await?;
            let versions: Vec<Version> = answer.member("versions")?;
            let version = versions.iter().filter_map(|version| ApiVersion::parse(&version.id)).max();
            let version = version.ok_or_else(|| answer.unexpected("there is no version of the API"))?;
            let request = Request::octavia("list_providers", Method::GET, "providers");
            let providers: Vec<Provider> = self.call(request).await?.member("providers")?;
            let providers = providers.into_iter().map(|provider| provider.name).collect();
            Ok(Arc::new(Octavia { version, providers }))
        };
        self.octavia_cell().get_or_try_init(ask).await.cloned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::recorded::{Reply, cloud};

    #[tokio::test(start_paused = true)]
    async fn the_greatest_version_and_the_providers_are_asked_for_once() {
        let (client, recorded) = cloud(|asked| match asked.path.as_str() {
            "/" => {
                let ids = ["v1", "v2.0", "v2.9", "v2.13", "v2.5"];
                let versions: Vec<_> =
                    ids.iter().map(|id| json!({"id": id, "status": "SUPPORTED"})).collect();
                Some(Reply::Json(200, json!({"versions": versions})))
            }
            "/v2/lbaas/providers" => {
                let providers = [json!({"name": "ovn", "description": "OVN"}), json!({"name": "amphora"})];
                Some(Reply::Json(200, json!({"providers": providers})))
            }
            _ => None,
        });
        for _ in 0..2 {
            let octavia = client.octavia().await.unwrap();
            assert_eq!(octavia.version, ApiVersion::new(2, 13));
            assert!(octavia.version > ApiVersion::new(2, 9));
            assert_eq!(octavia.providers.iter().collect::<Vec<_>>(), ["amphora", "ovn"]);
        }
        assert_eq!(recorded.lines(), ["GET /", "GET /v2/lbaas/providers"]);
        assert_eq!(recorded.asked()[0].host, "octavia:9876");
    }

    #[test]
    fn versions_are_numbers() {
        for (id, expect) in
            [("v2.30", Some((2, 30))), ("v2", Some((2, 0))), ("2.1", None), ("v2.x", None), ("", None)]
        {
            let read = ApiVersion::parse(id).map(|version| (version.major, version.minor));
            assert_eq!(read, expect, "{id}");
        }
    }
}
