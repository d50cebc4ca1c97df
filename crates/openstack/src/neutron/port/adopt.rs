//! Ports that were made and not tagged.
//!
//! A Neutron without the ML2 extension driver `tag_ports_during_bulk_creation` makes ports without their tags, and each
//! is tagged by a call of its own. Whoever ends in between leaves ports that no list by tags shows. The owner's mark
//! tells them: it is their description from the moment they exist. Their name would not: two clusters in one project
//! may both have a node of that name.

use std::sync::Arc;

use super::{OwnedPort, Port};
use crate::{client::Client, error::Error, ownership::Ownership, query::Query};

impl Client {
    /// Lists the ports of our project that have our mark and lack one of our tags. "List ports", `GET /v2.0/ports`,
    /// filter `description`.
    ///
    /// # Errors
    /// What the cloud answers.
    pub async fn untagged_ports(&self, owner: &Ownership) -> Result<Vec<Port>, Error> {
        let query = Query::default()
            .with("project_id", owner.project_id().as_str())
            .with("description", owner.mark());
        let mut found: Vec<Port> = self.list("list_ports", "ports", query).await?;
        found.retain(|port| {
            stranger(owner, port).is_none() && owner.difference(&port.project_id, &port.tags).is_some()
        });
        Ok(found)
    }

    /// Puts our tags on a port of our project that has our mark. "Replace all tags", `PUT /v2.0/ports/{id}/tags`.
    ///
    /// # Errors
    /// [`Error::Foreign`] if it belongs to another project or lacks the mark; what else the cloud answers.
    pub async fn adopt_port(&self, owner: &Ownership, port: &Port) -> Result<OwnedPort, Error> {
        let operation = "tag_port";
        if let Some(reason) = stranger(owner, port) {
            return Err(Error::Foreign { operation, resource: "port", id: port.id.to_string(), reason });
        }
        let tags = owner.and_tags_of(&port.tags);
        self.put_tags(operation, "ports", port.id.as_str(), &tags).await?;
        let tagged = self.port(&port.id).await?;
        OwnedPort::prove(operation, &Arc::new(owner.clone()), tagged)
    }
}

/// Says what keeps a port from having been made by us.
fn stranger(owner: &Ownership, port: &Port) -> Option<String> {
    if port.description != owner.mark() {
        return Some(format!("its description is not {}", owner.mark()));
    }
    owner.difference(&port.project_id, owner.tags())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use http::Method;
    use serde_json::json;

    use super::super::fixtures::{OURS, neutron, owner, port};
    use super::*;
    use crate::recorded::Reply;

    #[tokio::test(start_paused = true)]
    async fn what_was_made_and_not_tagged_is_found_and_becomes_ours() {
        let tagged = Arc::new(AtomicBool::new(false));
        let (client, recorded) = neutron(move |asked| match asked.method {
            Method::PUT => {
                tagged.store(true, Ordering::SeqCst);
                Some(Reply::Json(200, asked.body.clone()))
            }
            // All that a Neutron shows which knows no filter.
            _ if asked.path.contains('?') => {
                let mut of_another_cluster = port("p4", "ours", &[]);
                of_another_cluster["description"] = "kuryr:cluster=ab".into();
                let mut of_nobody = port("p5", "ours", &[]);
                of_nobody["description"] = serde_json::Value::Null;
                let ports = [
                    port("p1", "ours", &["other"]),
                    port("p2", "hostile", &["other"]),
                    port("p3", "ours", OURS),
                    of_another_cluster,
                    of_nobody,
                ];
                Some(Reply::Json(200, json!({"ports": ports})))
            }
            _ => {
                let tags = if tagged.load(Ordering::SeqCst) { OURS } else { &["other"] };
                Some(Reply::Json(200, json!({"port": port("p1", "ours", tags)})))
            }
        });
        let left = client.untagged_ports(&owner()).await.unwrap();
        assert_eq!(left.iter().map(|port| port.id.as_str()).collect::<Vec<_>>(), ["p1"]);
        let adopted = client.adopt_port(&owner(), &left[0]).await.unwrap();
        assert_eq!(adopted.id.as_str(), "p1");
        assert_eq!(
            recorded.lines()[..2],
            [
                "GET /v2.0/ports?project_id=ours&description=kuryr%3Acluster%3Da&limit=500",
                "PUT /v2.0/ports/p1/tags"
            ]
        );
        assert_eq!(recorded.asked()[1].body, json!({"tags": ["kuryr:cluster=a", "other"]}));
    }

    #[tokio::test(start_paused = true)]
    async fn what_somebody_else_made_is_not_adopted() {
        for (project, description, reason) in [
            ("hostile", "kuryr:cluster=a", "it belongs to project hostile"),
            ("ours", "kuryr:cluster=ab", "its description is not kuryr:cluster=a"),
            ("ours", "", "its description is not kuryr:cluster=a"),
        ] {
            let mut shown = port("p1", project, &[]);
            shown["description"] = description.into();
            let (client, recorded) = neutron(|_| None);
            let shown: Port = serde_json::from_value(shown).unwrap();
            let error = client.adopt_port(&owner(), &shown).await.unwrap_err();
            assert_eq!(error.to_string(), format!("tag_port: port p1 is not ours: {reason}"));
            assert!(recorded.lines().is_empty());
        }
    }
}
