//! Trunks: one port of a server, the parent, carries other ports, its subports, each under a VLAN id.
//!
//! A trunk belongs to whoever made the server; we are one of those who put ports on it. So a trunk is only
//! compared with our project, while each port that is put on it or taken off it is proved to be ours by its type.
//! A request adds or removes all of its ports or none. Adding sets the `device_owner` of a port to
//! `trunk:subport`, removing clears it.
//!
//! Sources: Networking API v2.0, "Trunk networking"; neutron `services/trunk/plugin.py` and `rules.py`.

use std::collections::BTreeMap;

use http::Method;
use kuryr_types::{PortId, ProjectId, TrunkId};
use serde::{Deserialize, Serialize};

use crate::{
    client::{Client, Request},
    error::Error,
    exchange::Answer,
    neutron::{OwnedPort, null_is_default},
    ownership::Ownership,
    query::{Query, segment},
};

/// A trunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trunk {
    /// Its id.
    pub id: TrunkId,
    /// Its name; need not be unique.
    #[serde(default)]
    pub name: String,
    /// The project that it belongs to.
    pub project_id: ProjectId,
    /// The parent port.
    pub port_id: PortId,
    /// Whether it is wired.
    pub status: TrunkStatus,
    /// Whether it may be changed and carry packets.
    #[serde(default = "yes")]
    pub admin_state_up: bool,
    /// What is on it.
    #[serde(default, deserialize_with = "null_is_default")]
    pub sub_ports: Vec<Subport>,
}

fn yes() -> bool {
    true
}

/// A port on a trunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subport {
    /// The port.
    pub port_id: PortId,
    /// Its VLAN id.
    pub segmentation_id: u16,
}

/// Whether a trunk is wired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum TrunkStatus {
    /// Wired with all of its ports.
    Active,
    /// Not wired: its parent port is not, or a change is under way.
    Down,
    /// Being wired.
    Build,
    /// Some of its ports could not be wired.
    Degraded,
    /// Could not be wired; Neutron refuses to add ports.
    Error,
    /// A status that the API does not list.
    Other(String),
}

impl From<String> for TrunkStatus {
    fn from(text: String) -> Self {
        match text.as_str() {
            "ACTIVE" => Self::Active,
            "DOWN" => Self::Down,
            "BUILD" => Self::Build,
            "DEGRADED" => Self::Degraded,
            "ERROR" => Self::Error,
            _ => Self::Other(text),
        }
    }
}

impl From<TrunkStatus> for String {
    fn from(status: TrunkStatus) -> Self {
        match status {
            TrunkStatus::Active => "ACTIVE".to_owned(),
            TrunkStatus::Down => "DOWN".to_owned(),
            TrunkStatus::Build => "BUILD".to_owned(),
            TrunkStatus::Degraded => "DEGRADED".to_owned(),
            TrunkStatus::Error => "ERROR".to_owned(),
            TrunkStatus::Other(text) => text,
        }
    }
}

#[derive(Serialize)]
struct NewSubport<'a> {
    port_id: &'a PortId,
    segmentation_type: &'static str,
    segmentation_id: u16,
}

#[derive(Serialize)]
struct OldSubport<'a> {
    port_id: &'a PortId,
}

impl Client {
    /// Lists the trunks of a project. "List trunks", `GET /v2.0/trunks`.
    ///
    /// # Errors
    /// [`Error::NotFound`] where Neutron has no trunks (extension `trunk`); what else the cloud answers.
    pub async fn trunks(&self, project_id: &ProjectId) -> Result<Vec<Trunk>, Error> {
        let query = Query::default().with("project_id", project_id.as_str());
        let mut found: Vec<Trunk> = self.list("list_trunks", "trunks", query).await?;
        found.retain(|trunk| trunk.project_id == *project_id);
        Ok(found)
    }

    /// Lists the trunks of a project whose parent is this port: one at most. "List trunks", `GET /v2.0/trunks`.
    ///
    /// # Errors
    /// As for [`trunks`](Self::trunks).
    pub async fn trunks_of_port(&self, project_id: &ProjectId, port: &PortId) -> Result<Vec<Trunk>, Error> {
        let query = Query::default().with("project_id", project_id.as_str()).with("port_id", port.as_str());
        let mut found: Vec<Trunk> = self.list("list_trunks", "trunks", query).await?;
        found.retain(|trunk| trunk.project_id == *project_id && trunk.port_id == *port);
        Ok(found)
    }

    /// Reads one trunk. "Show trunk", `GET /v2.0/trunks/{id}`.
    ///
    /// # Errors
    /// [`Error::NotFound`], or what else the cloud answers.
    pub async fn trunk(&self, id: &TrunkId) -> Result<Trunk, Error> {
        self.call(Request::new("get_trunk", Method::GET, path(id))).await?.member("trunk")
    }

    /// Puts ports of ours on a trunk of our project, each under its VLAN id, all or none; returns the trunk as
    /// it is then. "Add subports to trunk", `PUT /v2.0/trunks/{id}/add_subports`.
    ///
    /// # Errors
    /// [`Error::Trunk`] if an id or a port is taken, or the trunk cannot be changed; [`Error::NotFound`] if the
    /// trunk or a port does not exist; [`Error::Foreign`] if the trunk is not of our project; what else the
    /// cloud answers.
    pub async fn add_subports(
        &self,
        owner: &Ownership,
        trunk: &Trunk,
        subports: &[(OwnedPort, u16)],
    ) -> Result<Trunk, Error> {
        let new = |(port, vlan): &(OwnedPort, u16)| (port.id.clone(), *vlan);
        let wanted: Vec<(PortId, u16)> = subports.iter().map(new).collect();
        let body = wanted.iter().map(|(port_id, vlan)| NewSubport {
            port_id,
            segmentation_type: "vlan",
            segmentation_id: *vlan,
        });
        self.change_subports("add_subports", owner, trunk, &body.collect::<Vec<_>>()).await
    }

    /// Takes ports of ours off a trunk of our project, all or none; returns the trunk as it is then. "Delete
    /// subports from trunk", `PUT /v2.0/trunks/{id}/remove_subports`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the trunk does not exist or one of the ports is not on it, and then none was
    /// removed; [`Error::Trunk`]; [`Error::Foreign`] if the trunk is not of our project; what else the cloud
    /// answers.
    pub async fn remove_subports(
        &self,
        owner: &Ownership,
        trunk: &Trunk,
        subports: &[OwnedPort],
    ) -> Result<Trunk, Error> {
        let body: Vec<_> = subports.iter().map(|port| OldSubport { port_id: &port.id }).collect();
        self.change_subports("remove_subports", owner, trunk, &body).await
    }

    async fn change_subports<T: Serialize>(
        &self,
        operation: &'static str,
        owner: &Ownership,
        trunk: &Trunk,
        subports: &[T],
    ) -> Result<Trunk, Error> {
        if trunk.project_id != *owner.project_id() {
            let reason = format!("it belongs to project {}", trunk.project_id);
            return Err(Error::Foreign { operation, resource: "trunk", id: trunk.id.to_string(), reason });
        }
        let body = BTreeMap::from([("sub_ports", subports)]);
        let path = format!("{}/{operation}", path(&trunk.id));
        let answer = self.call(Request::new(operation, Method::PUT, path).body(&body)).await?;
        changed(&answer, trunk)
    }
}

/// The answer is the trunk itself, without a name around it.
fn changed(answer: &Answer, trunk: &Trunk) -> Result<Trunk, Error> {
    let changed: Trunk = answer.json()?;
    if changed.id == trunk.id { Ok(changed) } else { Err(answer.unexpected("another trunk was changed")) }
}

fn path(id: &TrunkId) -> String {
    format!("trunks/{}", segment(id.as_str()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        TrunkConflict,
        recorded::{Asked, Recorded, Reply, cloud},
    };

    fn owner() -> Ownership {
        Ownership::new("ours".into(), "kuryr:cluster=a").unwrap()
    }

    fn shown(id: &str, project: &str, subports: &[(&str, u16)]) -> Value {
        let subport = |(port, vlan): &(&str, u16)| json!({"port_id": port, "segmentation_type": "vlan", "segmentation_id": vlan});
        json!({
            "id": id, "name": "worker", "description": "", "tenant_id": project, "project_id": project,
            "port_id": format!("parent-of-{id}"), "status": "ACTIVE", "admin_state_up": true, "tags": [],
            "sub_ports": subports.iter().map(subport).collect::<Vec<_>>(), "revision_number": 3,
            "created_at": "2026-11-20T10:00:00Z", "updated_at": "2026-11-20T10:00:01Z"
        })
    }

    fn trunk(project: &str) -> Trunk {
        serde_json::from_value(shown("t", project, &[])).unwrap()
    }

    fn neutron(
        answering: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static,
    ) -> (Client, Arc<Recorded>) {
        cloud(move |asked| match asked.path.as_str() {
            path if path.starts_with("/v2.0/ports/") => {
                let port = json!({
                    "id": path.rsplit('/').next(), "project_id": "ours", "tags": ["kuryr:cluster=a"],
                    "network_id": "n", "mac_address": "fa:16:3e:00:00:01", "status": "DOWN", "revision_number": 1
                });
                Some(Reply::Json(200, json!({"port": port})))
            }
            _ if asked.is_token() => None,
            _ => answering(asked),
        })
    }

    async fn ours(client: &Client, id: &str) -> OwnedPort {
        client.owned_port(&owner(), &id.into()).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn subports_are_added_and_removed_in_one_request() {
        let (client, recorded) = neutron(|asked| {
            let subports: &[_] = match asked.path.contains("add_") {
                true => &[("foreign", 7), ("p1", 101), ("p2", 102)],
                false => &[("foreign", 7)],
            };
            Some(Reply::Json(200, shown("t", "ours", subports)))
        });
        let ports = [ours(&client, "p1").await, ours(&client, "p2").await];
        let wanted = [(ports[0].clone(), 101), (ports[1].clone(), 102)];
        let added = client.add_subports(&owner(), &trunk("ours"), &wanted).await.unwrap();
        assert_eq!(added.sub_ports[2], Subport { port_id: "p2".into(), segmentation_id: 102 });
        let removed = client.remove_subports(&owner(), &trunk("ours"), &ports).await.unwrap();
        assert_eq!(removed.sub_ports.len(), 1);
        let asked = &recorded.asked()[2..];
        assert_eq!(asked[0].line(), "PUT /v2.0/trunks/t/add_subports");
        assert_eq!(
            asked[0].body,
            json!({"sub_ports": [
                {"port_id": "p1", "segmentation_type": "vlan", "segmentation_id": 101},
                {"port_id": "p2", "segmentation_type": "vlan", "segmentation_id": 102},
            ]})
        );
        assert_eq!(asked[1].line(), "PUT /v2.0/trunks/t/remove_subports");
        assert_eq!(asked[1].body, json!({"sub_ports": [{"port_id": "p1"}, {"port_id": "p2"}]}));
    }

    #[tokio::test(start_paused = true)]
    async fn a_trunk_of_another_project_is_not_changed() {
        let (client, recorded) = neutron(|_| Some(Reply::Json(200, shown("t", "hostile", &[]))));
        let port = ours(&client, "p1").await;
        let refused = client.add_subports(&owner(), &trunk("hostile"), &[(port.clone(), 7)]).await;
        assert!(matches!(refused, Err(Error::Foreign { resource: "trunk", .. })), "{refused:?}");
        let refused = client.remove_subports(&owner(), &trunk("hostile"), &[port]).await;
        assert!(matches!(refused, Err(Error::Foreign { .. })));
        assert_eq!(recorded.asked().len(), 1, "only the port was asked for");
    }

    #[tokio::test(start_paused = true)]
    async fn what_another_user_of_the_trunk_did_is_told_by_kind() {
        for (kind, expect) in [
            ("DuplicateSubPort", Some(TrunkConflict::VlanInUse)),
            ("TrunkPortInUse", Some(TrunkConflict::PortInUse)),
            ("TrunkInErrorState", Some(TrunkConflict::InError)),
            ("Other", None),
        ] {
            let fault = json!({"NeutronError": {"type": kind, "message": "words", "detail": ""}});
            let (client, _) = neutron(move |_| Some(Reply::Json(409, fault.clone())));
            let port = ours(&client, "p1").await;
            let error = client.add_subports(&owner(), &trunk("ours"), &[(port, 7)]).await.unwrap_err();
            let conflict = match &error {
                Error::Trunk { conflict, .. } => Some(*conflict),
                _ => None,
            };
            assert_eq!(conflict, expect, "{error}");
            assert!(!error.outcome_unknown());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn trunks_are_listed_by_project_and_by_parent() {
        let (client, recorded) = neutron(|_| {
            let trunks =
                [shown("t", "ours", &[("p1", 7)]), shown("u", "hostile", &[]), shown("v", "ours", &[])];
            Some(Reply::Json(200, json!({"trunks": trunks})))
        });
        let all = client.trunks(&"ours".into()).await.unwrap();
        assert_eq!(all.iter().map(|trunk| trunk.id.as_str()).collect::<Vec<_>>(), ["t", "v"]);
        assert_eq!((&all[0].status, all[0].admin_state_up), (&TrunkStatus::Active, true));
        let of_port = client.trunks_of_port(&"ours".into(), &"parent-of-v".into()).await.unwrap();
        assert_eq!(of_port.len(), 1);
        assert_eq!(
            recorded.lines(),
            [
                "GET /v2.0/trunks?project_id=ours&limit=500",
                "GET /v2.0/trunks?project_id=ours&port_id=parent-of-v&limit=500"
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_neutron_without_trunks_says_so() {
        let fault = json!({"NeutronError": {"type": "HTTPNotFound", "message": "", "detail": ""}});
        let (client, _) = neutron(move |_| Some(Reply::Json(404, fault.clone())));
        let error = client.trunks(&"ours".into()).await.unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }) && !error.is_not_found(), "{error}");
    }

    #[test]
    fn every_status_survives() {
        for text in ["ACTIVE", "DOWN", "BUILD", "DEGRADED", "ERROR", "PENDING"] {
            assert_eq!(String::from(TrunkStatus::from(text.to_owned())), text);
        }
    }
}
