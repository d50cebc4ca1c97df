//! Extensions: what this Neutron can do beyond the core.
//!
//! An alias that is listed says that the API knows the attributes; a missing one does not always say the
//! opposite: ML2/OVN stores tags of a bulk create without announcing `tag-ports-during-bulk-creation`.
//!
//! Source: Networking API v2.0, "Extensions".

use std::{collections::BTreeSet, sync::Arc};

use http::Method;
use serde::Deserialize;

use crate::{
    client::{Client, Request},
    error::Error,
};

/// The aliases of a Neutron's extensions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extensions(BTreeSet<String>);

impl Extensions {
    /// Says whether an extension such as `address-group` is announced.
    #[must_use]
    pub fn has(&self, alias: &str) -> bool {
        self.0.contains(alias)
    }

    /// All that are announced, in order.
    pub fn aliases(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

#[derive(Deserialize)]
struct Extension {
    alias: String,
}

impl Client {
    /// Tells Neutron's extensions; asks once in the life of a client. "List extensions",
    /// `GET /v2.0/extensions`.
    ///
    /// # Errors
    /// What the cloud answers; the next call asks again.
    pub async fn extensions(&self) -> Result<Arc<Extensions>, Error> {
        let ask = || async {
            let request = Request::new("list_extensions", Method::GET, "extensions");
            let found: Vec<Extension> = self.call(request).await?.member("extensions")?;
            Ok(Arc::new(Extensions(found.into_iter().map(|extension| extension.alias).collect())))
        };
        self.extensions_cell().get_or_try_init(ask).await.cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use crate::recorded::{Reply, cloud};

    #[tokio::test(start_paused = true)]
    async fn they_are_asked_for_once_unless_that_failed() {
        let calls = AtomicUsize::new(0);
        let (client, recorded) = cloud(move |asked| match asked {
            asked if asked.is_token() => None,
            _ if calls.fetch_add(1, Ordering::SeqCst) == 0 => Some(Reply::Json(503, json!({}))),
            _ => Some(Reply::Json(
                200,
                json!({"extensions": [{"alias": "trunk", "name": "Trunk", "links": []}]}),
            )),
        });
        client.extensions().await.unwrap_err();
        for _ in 0..3 {
            let extensions = client.extensions().await.unwrap();
            assert!(extensions.has("trunk") && !extensions.has("address-group"));
            assert_eq!(extensions.aliases().collect::<Vec<_>>(), ["trunk"]);
        }
        assert_eq!(recorded.lines(), ["GET /v2.0/extensions"; 2]);
    }
}
