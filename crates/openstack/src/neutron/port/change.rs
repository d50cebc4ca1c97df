//! Changing and deleting ports of ours.

use std::collections::BTreeMap;

use http::Method;
use kuryr_types::SecurityGroupId;
use serde::Serialize;

use super::{AddressPair, FixedIpRequest, OwnedPort, path};
use crate::{
    client::{Client, Request},
    error::Error,
    ownership::Ownership,
    query::segment,
};

/// What to change of a port; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PortUpdate {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// All its addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixed_ips: Option<Vec<FixedIpRequest>>,
    /// All its groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_groups: Option<Vec<SecurityGroupId>>,
    /// The host it is bound to; empty unbinds it.
    #[serde(rename = "binding:host_id", skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// What kind of thing uses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_owner: Option<String>,
    /// Which thing uses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// Whether it may carry packets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_state_up: Option<bool>,
    /// Free text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// All further addresses that may be used behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_address_pairs: Option<Vec<AddressPair>>,
}

/// What must hold for a change to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    None,
    /// The port has not changed since Neutron showed it (`If-Match: revision_number=N`).
    Unchanged,
}

impl Client {
    /// Changes a port of ours. "Update port", `PUT /v2.0/ports/{id}`.
    ///
    /// # Errors
    /// [`Error::Stale`] if it has changed and must not; [`Error::NotFound`]; what else the cloud answers.
    pub async fn update_port(
        &self,
        port: &OwnedPort,
        update: &PortUpdate,
        precondition: Precondition,
    ) -> Result<OwnedPort, Error> {
        let operation = "update_port";
        let revision = match precondition {
            Precondition::None => None,
            Precondition::Unchanged => Some(port.revision_number),
        };
        let body = BTreeMap::from([("port", update)]);
        let request = Request::new(operation, Method::PUT, path(&port.id)).body(&body);
        let updated = self.call(request.if_revision(revision)).await?.member("port")?;
        OwnedPort::prove(operation, &port.owner, updated)
    }

    /// Adds a tag to a port of ours and leaves those that are there, and reads the port anew, as that has changed it. "Add a
    /// tag", `PUT /v2.0/ports/{id}/tags/{tag}`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; what else the cloud answers.
    pub async fn tag_port(&self, owner: &Ownership, port: &OwnedPort, tag: &str) -> Result<OwnedPort, Error> {
        let tagged = format!("{}/tags/{}", path(&port.id), segment(tag));
        if let Err(failed) = self.call(Request::new("tag_port", Method::PUT, tagged)).await {
            return Err(self.unless_gone("ports", port.id.as_str(), failed).await);
        }
        self.owned_port(owner, &port.id).await
    }

    /// Deletes a port of ours; one that does not exist any more counts as deleted. "Delete port",
    /// `DELETE /v2.0/ports/{id}`.
    ///
    /// # Errors
    /// [`Error::Forbidden`] for a device owner that begins with `compute:`, unless we have role `service` or
    /// `admin` (default policy of Neutron 29); what else the cloud answers.
    pub async fn delete_port(&self, port: &OwnedPort) -> Result<(), Error> {
        self.gone(Request::new("delete_port", Method::DELETE, path(&port.id))).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use serde_json::json;

    use super::super::fixtures::{OURS, neutron, owner, port};
    use super::*;
    use crate::recorded::Reply;

    async fn one_of_ours(client: &Client) -> OwnedPort {
        client.owned_port(&owner(), &"p1".into()).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_update_can_ask_that_nothing_has_changed() {
        let (client, recorded) = neutron(|asked| match (&asked.method, asked.headers.get("if-match")) {
            (&Method::PUT, Some(_)) => {
                let message = "Constrained to 4, but current revision is 5";
                let fault =
                    json!({"type": "RevisionNumberConstraintFailed", "message": message, "detail": ""});
                Some(Reply::Json(412, json!({"NeutronError": fault})))
            }
            _ => Some(Reply::Json(200, json!({"port": port("p1", "ours", OURS)}))),
        });
        let port = one_of_ours(&client).await;
        let update = PortUpdate {
            security_groups: Some(Vec::new()),
            host: Some(String::new()),
            device_id: Some("d".to_owned()),
            ..PortUpdate::default()
        };
        client.update_port(&port, &update, Precondition::None).await.unwrap();
        let error = client.update_port(&port, &update, Precondition::Unchanged).await.unwrap_err();
        assert!(matches!(error, Error::Stale { .. }) && !error.outcome_unknown(), "{error}");
        let asked = recorded.asked();
        assert_eq!(asked[1].line(), "PUT /v2.0/ports/p1");
        let body = json!({"port": {"security_groups": [], "binding:host_id": "", "device_id": "d"}});
        assert_eq!(asked[1].body, body);
        assert_eq!(asked[1].headers.get("if-match"), None);
        assert_eq!(asked[2].headers["if-match"], "revision_number=4");
    }

    #[tokio::test(start_paused = true)]
    async fn a_tag_is_added_to_those_of_others() {
        let (client, recorded) = neutron(|asked| match asked.method {
            Method::PUT => Some(Reply::Json(201, json!({}))),
            _ => Some(Reply::Json(200, json!({"port": port("p1", "ours", OURS)}))),
        });
        let port = one_of_ours(&client).await;
        client.tag_port(&owner(), &port, "kuryr-node:w 1").await.unwrap();
        assert_eq!(
            recorded.lines()[1..],
            ["PUT /v2.0/ports/p1/tags/kuryr-node%3Aw%201", "GET /v2.0/ports/p1"]
        );
        assert_eq!(recorded.asked()[1].body, serde_json::Value::Null);
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_cannot_be_tagged_because_it_is_gone_is_not_found() {
        let fault = |kind: &str| json!({"NeutronError": {"type": kind, "message": "", "detail": ""}});
        for (status, look, is_gone, looks) in [
            (500, 404, true, 1),
            (500, 200, false, 1),
            (500, 503, false, 1),
            (404, 404, true, 0),
            (409, 404, false, 0),
        ] {
            let is_tried = AtomicBool::new(false);
            let (client, recorded) = neutron(move |asked| match asked.method {
                Method::PUT => {
                    is_tried.store(true, Ordering::SeqCst);
                    let kind = if status == 404 { "PortNotFound" } else { "HTTPInternalServerError" };
                    Some(Reply::Json(status, fault(kind)))
                }
                _ if look == 200 || !is_tried.load(Ordering::SeqCst) => {
                    Some(Reply::Json(200, json!({"port": port("p1", "ours", OURS)})))
                }
                _ => Some(Reply::Json(look, fault("PortNotFound"))),
            });
            let port = one_of_ours(&client).await;
            let added = client.tag_port(&owner(), &port, "kuryr-node:w").await.unwrap_err();
            assert_eq!(added.is_not_found(), is_gone, "{status} {look}: {added}");
            let replaced = client.adopt_port(&owner(), &port).await.unwrap_err();
            assert_eq!(replaced.is_not_found(), is_gone, "{status} {look}: {replaced}");
            let looked = recorded.lines().iter().filter(|line| *line == "GET /v2.0/ports/p1").count();
            assert_eq!(looked, 1 + 2 * looks, "{status}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn deleting_what_is_gone_is_success() {
        for (status, kind, deleted) in [
            (204, "", true),
            (404, "PortNotFound", true),
            (404, "HTTPNotFound", false),
            (404, "", false),
            (409, "PortInUse", false),
            (403, "PolicyNotAuthorized", false),
        ] {
            let fault = json!({"NeutronError": {"type": kind, "message": "", "detail": ""}});
            let (client, recorded) = neutron(move |asked| match asked.method {
                Method::DELETE => Some(Reply::Json(status, fault.clone())),
                _ => Some(Reply::Json(200, json!({"port": port("p1", "ours", OURS)}))),
            });
            let port = one_of_ours(&client).await;
            assert_eq!(client.delete_port(&port).await.is_ok(), deleted, "{status} {kind}");
            assert_eq!(recorded.lines()[1..], ["DELETE /v2.0/ports/p1"]);
        }
    }
}
