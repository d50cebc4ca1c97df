//! The proof that a port is ours, and reading one port.

use std::{ops::Deref, sync::Arc};

use http::Method;
use kuryr_types::PortId;

use super::{Port, path};
use crate::{
    client::{Client, Request},
    error::Error,
    ownership::Ownership,
};

/// A port that was compared with an [`Ownership`] and is ours.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnedPort {
    port: Port,
    pub(super) owner: Arc<Ownership>,
}

impl OwnedPort {
    /// Compares a port that Neutron has just shown.
    pub(super) fn prove(operation: &'static str, owner: &Arc<Ownership>, port: Port) -> Result<Self, Error> {
        match owner.difference(&port.project_id, &port.tags) {
            None => Ok(Self { port, owner: owner.clone() }),
            Some(reason) => {
                Err(Error::Foreign { operation, resource: "port", id: port.id.to_string(), reason })
            }
        }
    }
}

impl Deref for OwnedPort {
    type Target = Port;

    fn deref(&self) -> &Port {
        &self.port
    }
}

impl Client {
    /// Reads one of our ports. "Show port details", `GET /v2.0/ports/{id}`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Foreign`] if it is not ours; what else the cloud answers.
    pub async fn owned_port(&self, owner: &Ownership, id: &PortId) -> Result<OwnedPort, Error> {
        OwnedPort::prove("get_port", &Arc::new(owner.clone()), self.port(id).await?)
    }

    /// Reads a port, whoever owns it. "Show port details", `GET /v2.0/ports/{id}`.
    ///
    /// # Errors
    /// [`Error::NotFound`], or what else the cloud answers.
    pub async fn port(&self, id: &PortId) -> Result<Port, Error> {
        let request = Request::new("get_port", Method::GET, path(id));
        self.call(request).await?.member("port")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixtures::{OURS, neutron, owner, port};
    use crate::recorded::Reply;

    #[tokio::test(start_paused = true)]
    async fn ours_is_what_is_in_our_project_and_carries_our_tags() {
        for (project, tags, reason) in [
            ("hostile", OURS, "it belongs to project hostile"),
            ("ours", &["other"][..], "it does not carry the tag kuryr:cluster=a"),
        ] {
            let shown = port("p1", project, tags);
            let (client, _) = neutron(move |_| Some(Reply::Json(200, json!({"port": shown.clone()}))));
            let error = client.owned_port(&owner(), &"p1".into()).await.unwrap_err();
            assert_eq!(error.to_string(), format!("get_port: port p1 is not ours: {reason}"));
            assert!(client.port(&"p1".into()).await.is_ok());
        }
    }
}
