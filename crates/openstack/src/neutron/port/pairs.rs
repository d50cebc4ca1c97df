//! Allowed address pairs of a port that is not ours alone: that of a server, whose pods send under addresses of their
//! own.
//!
//! The port belongs to whoever made the server, so it is only compared with our project. Neutron knows no change of
//! single pairs: the whole list is written, and only if the port is still as it was read (`If-Match`), so that what
//! others added meanwhile is not lost. Nothing else of the port is changed.
//!
//! Sources: Networking API v2.0, "Allowed address pairs", "Revisions"; neutron `extensions/allowedaddresspairs.py`,
//! `conf/policies/port.py` (`update_port:allowed_address_pairs`: whoever owns the network).

use std::collections::BTreeMap;

use http::Method;
use kuryr_types::ProjectId;

use super::{AddressPair, Port, PortUpdate, path};
use crate::{
    client::{Client, Request},
    error::Error,
    ownership::Ownership,
    query::Query,
};

impl Client {
    /// Adds pairs to those of a port of our project and removes others, by one request; returns the port as it is then.
    /// "Update port", `PUT /v2.0/ports/{id}`.
    ///
    /// # Errors
    /// [`Error::Stale`] if the port has changed since Neutron showed it; [`Error::PairsExhausted`]; [`Error::NotFound`];
    /// [`Error::Foreign`] if it is not of our project; what else the cloud answers.
    pub async fn change_address_pairs(
        &self,
        owner: &Ownership,
        port: &Port,
        add: &[AddressPair],
        remove: &[AddressPair],
    ) -> Result<Port, Error> {
        let operation = "change_address_pairs";
        if port.project_id != *owner.project_id() {
            let reason = format!("it belongs to project {}", port.project_id);
            return Err(Error::Foreign { operation, resource: "port", id: port.id.to_string(), reason });
        }
        let pairs = Some(changed(&port.allowed_address_pairs, add, remove));
        let update = PortUpdate { allowed_address_pairs: pairs, ..PortUpdate::default() };
        let body = BTreeMap::from([("port", update)]);
        let request = Request::new(operation, Method::PUT, path(&port.id)).body(&body);
        let answer = self.call(request.if_revision(Some(port.revision_number))).await?;
        let updated: Port = answer.member("port")?;
        if updated.id == port.id { Ok(updated) } else { Err(answer.unexpected("another port was changed")) }
    }

    /// Lists all ports of a project, whatever they are for. "List ports", `GET /v2.0/ports`.
    ///
    /// # Errors
    /// What the cloud answers.
    pub async fn ports_of_project(&self, project_id: &ProjectId) -> Result<Vec<Port>, Error> {
        let query = Query::default().with("project_id", project_id.as_str());
        let mut found: Vec<Port> = self.list("list_ports", "ports", query).await?;
        found.retain(|port| port.project_id == *project_id);
        Ok(found)
    }
}

/// What others put there keeps its place.
fn changed(present: &[AddressPair], add: &[AddressPair], remove: &[AddressPair]) -> Vec<AddressPair> {
    let mut pairs: Vec<AddressPair> = present.iter().filter(|pair| !remove.contains(pair)).cloned().collect();
    for pair in add {
        if !pairs.contains(pair) {
            pairs.push(pair.clone());
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixtures::{neutron, owner, port};
    use super::*;
    use crate::recorded::Reply;

    fn pair(address: &str, mac: &str) -> AddressPair {
        AddressPair { ip_address: address.parse().unwrap(), mac_address: mac.parse().ok() }
    }

    #[tokio::test(start_paused = true)]
    async fn the_whole_list_is_written_if_nobody_changed_the_port() {
        let server = |project: &str| {
            let mut shown = port("server", project, &[]);
            shown["allowed_address_pairs"] = json!([
                {"ip_address": "10.198.1.0/24", "mac_address": "fa:16:3e:00:00:01"},
                {"ip_address": "10.1.0.70", "mac_address": "fa:16:3e:00:00:70"},
            ]);
            shown
        };
        let (client, recorded) = neutron(move |_| Some(Reply::Json(200, json!({"port": server("ours")}))));
        let before: Port = serde_json::from_value(server("ours")).unwrap();
        let add = [
            pair("10.1.0.71/32", "fa:16:3e:00:00:71"),
            pair("fd00::71/128", "fa:16:3e:00:00:71"),
            pair("10.198.1.0/24", "fa:16:3e:00:00:01"),
        ];
        let remove = [pair("10.1.0.70/32", "fa:16:3e:00:00:70"), pair("10.1.0.99/32", "fa:16:3e:00:00:99")];
        client.change_address_pairs(&owner(), &before, &add, &remove).await.unwrap();
        let asked = &recorded.asked()[0];
        assert_eq!(asked.line(), "PUT /v2.0/ports/server");
        assert_eq!(asked.headers["if-match"], "revision_number=4");
        assert_eq!(
            asked.body,
            json!({"port": {"allowed_address_pairs": [
                {"ip_address": "10.198.1.0/24", "mac_address": "fa:16:3e:00:00:01"},
                {"ip_address": "10.1.0.71", "mac_address": "fa:16:3e:00:00:71"},
                {"ip_address": "fd00::71", "mac_address": "fa:16:3e:00:00:71"},
            ]}})
        );
        let hostile: Port = serde_json::from_value(server("hostile")).unwrap();
        let refused = client.change_address_pairs(&owner(), &hostile, &add, &[]).await;
        assert!(matches!(refused, Err(Error::Foreign { resource: "port", .. })), "{refused:?}");
        assert_eq!(recorded.asked().len(), 1, "nothing was sent");
    }

    #[tokio::test(start_paused = true)]
    async fn ports_of_a_project_are_only_its_own() {
        let (client, recorded) = neutron(|_| {
            Some(Reply::Json(200, json!({"ports": [port("a", "ours", &[]), port("b", "hostile", &[])]})))
        });
        let found = client.ports_of_project(&"ours".into()).await.unwrap();
        assert_eq!(found.iter().map(|port| port.id.as_str()).collect::<Vec<_>>(), ["a"]);
        assert_eq!(recorded.lines(), ["GET /v2.0/ports?project_id=ours&limit=500"]);
    }
}
