//! Floating IPs: addresses of an external network that a router translates to a port's.
//!
//! One of ours is in our project and carries our tags, like a port. It is made for a port and with a description, so that it is
//! found by them also if it could not be tagged; [`Client::adopt_floating_ip`] tags it then. A floating IP of the project that
//! is not ours can only be put on a port and taken off again, never deleted.
//!
//! Source: Networking API v2.0, "Floating IPs".

use std::{collections::BTreeMap, net::IpAddr, ops::Deref, sync::Arc};

use http::Method;
use kuryr_types::{FloatingIpId, NetworkId, PortId, ProjectId, SubnetId};
use serde::{Deserialize, Serialize};

use crate::{
    client::{Client, Request},
    error::Error,
    neutron::null_is_default,
    ownership::Ownership,
    query::{Query, segment},
};

/// A floating IP as Neutron shows it, whoever owns it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FloatingIp {
    /// Its id.
    pub id: FloatingIpId,
    /// The project that it belongs to.
    pub project_id: ProjectId,
    /// The address.
    pub floating_ip_address: IpAddr,
    /// The external network it is from.
    pub floating_network_id: NetworkId,
    /// The port it leads to.
    #[serde(default)]
    pub port_id: Option<PortId>,
    /// Free text.
    #[serde(default, deserialize_with = "null_is_default")]
    pub description: String,
    /// Its tags.
    #[serde(default, deserialize_with = "null_is_default")]
    pub tags: Vec<String>,
}

/// A floating IP that was compared with an [`Ownership`] and is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedFloatingIp {
    floating_ip: FloatingIp,
    owner: Arc<Ownership>,
}

impl OwnedFloatingIp {
    /// Compares a floating IP that Neutron has just shown.
    ///
    /// # Errors
    /// [`Error::Foreign`] if it is not ours.
    pub fn prove(owner: &Arc<Ownership>, floating_ip: FloatingIp) -> Result<Self, Error> {
        match owner.difference(&floating_ip.project_id, &floating_ip.tags) {
            None => Ok(Self { floating_ip, owner: owner.clone() }),
            Some(reason) => Err(Error::Foreign {
                operation: "list_floating_ips",
                resource: "floating IP",
                id: floating_ip.id.to_string(),
                reason,
            }),
        }
    }
}

impl Deref for OwnedFloatingIp {
    type Target = FloatingIp;

    fn deref(&self) -> &FloatingIp {
        &self.floating_ip
    }
}

/// Which floating IPs of a project to list; all conditions must hold, and those not given do not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FloatingIpFilter {
    /// Leads to this port.
    pub port_id: Option<PortId>,
    /// Is this address.
    pub address: Option<IpAddr>,
    /// Has this description, to the last character.
    pub description: Option<String>,
    /// Carries all of these tags.
    pub tags: Vec<String>,
}

/// A floating IP to be. Its project is added when it is created, its tags afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FloatingIpCreate {
    /// The external network it is from.
    pub floating_network_id: NetworkId,
    /// A subnet of that network; else Neutron chooses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet_id: Option<SubnetId>,
    /// The port it leads to.
    pub port_id: PortId,
    /// Free text.
    pub description: String,
    /// Tags besides the owner's.
    #[serde(skip)]
    pub tags: Vec<String>,
}

#[derive(Serialize)]
struct NewFloatingIp<'a> {
    #[serde(flatten)]
    floating_ip: &'a FloatingIpCreate,
    project_id: &'a ProjectId,
}

#[derive(Serialize)]
struct Description<'a> {
    description: &'a str,
}

#[derive(Serialize)]
struct Association<'a> {
    port_id: Option<&'a PortId>,
}

const RESOURCE: &str = "floatingips";

fn path(id: &FloatingIpId) -> String {
    format!("{RESOURCE}/{}", segment(id.as_str()))
}

impl Client {
    /// Lists floating IPs of a project, ours or not. "List floating IPs", `GET /v2.0/floatingips`.
    ///
    /// # Errors
    /// What the cloud answers; [`Error::ListChanged`] if it must be read again.
    pub async fn floating_ips(
        &self,
        project: &ProjectId,
        filter: &FloatingIpFilter,
    ) -> Result<Vec<FloatingIp>, Error> {
        let address = filter.address.map(|address| address.to_string());
        let query = Query::default()
            .with("project_id", project.as_str())
            .with_some("port_id", filter.port_id.as_ref().map(PortId::as_str))
            .with_some("floating_ip_address", address.as_deref())
            .with_some("description", filter.description.as_deref())
            .with("tags", &filter.tags.join(","));
        let mut found: Vec<FloatingIp> = self.list("list_floating_ips", RESOURCE, query).await?;
        found.retain(|found| {
            found.project_id == *project
                && (filter.port_id.is_none() || filter.port_id == found.port_id)
                && filter.address.is_none_or(|address| address == found.floating_ip_address)
                && filter.description.as_ref().is_none_or(|description| *description == found.description)
                && filter.tags.iter().all(|tag| found.tags.contains(tag))
        });
        Ok(found)
    }

    /// Creates a floating IP of ours that leads to a port. "Create floating IP", `POST /v2.0/floatingips`.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`], [`Error::NoFreeAddress`], what else the cloud answers, also when it is tagged: then it
    /// exists without tags, and leads to the port.
    pub async fn create_floating_ip(
        &self,
        owner: &Ownership,
        create: &FloatingIpCreate,
    ) -> Result<OwnedFloatingIp, Error> {
        let new = NewFloatingIp { floating_ip: create, project_id: owner.project_id() };
        let body = BTreeMap::from([("floatingip", &new)]);
        let request = Request::new("create_floating_ip", Method::POST, RESOURCE).body(&body);
        let created: FloatingIp = self.call(request).await?.member("floatingip")?;
        self.adopt_floating_ip(owner, created, &create.tags).await
    }

    /// Makes a floating IP of our project ours by its tags. "Replace all tags",
    /// `PUT /v2.0/floatingips/{id}/tags`.
    ///
    /// # Errors
    /// [`Error::Foreign`] if it is of another project; [`Error::NotFound`]; what else the cloud answers.
    pub async fn adopt_floating_ip(
        &self,
        owner: &Ownership,
        mut floating_ip: FloatingIp,
        more: &[String],
    ) -> Result<OwnedFloatingIp, Error> {
        let mut tags = floating_ip.tags.clone();
        tags.extend(more.iter().filter(|tag| !floating_ip.tags.contains(tag)).cloned());
        let tags: Vec<String> = owner.and_tags_of(&tags).into_iter().map(str::to_owned).collect();
        if floating_ip.project_id == *owner.project_id() {
            let all: Vec<&str> = tags.iter().map(String::as_str).collect();
            self.put_tags("tag_floating_ip", RESOURCE, floating_ip.id.as_str(), &all).await?;
            floating_ip.tags = tags;
        }
        OwnedFloatingIp::prove(&Arc::new(owner.clone()), floating_ip)
    }

    /// Takes our tags, and those that begin with one of `prefixes`, off a floating IP of ours, which stays as the project's with the
    /// tag `mark`. Before that it gets `description`, if it has another: then nothing says any more that it is ours.
    /// "Update floating IP", `PUT /v2.0/floatingips/{id}`, which leaves the port as it is where none is given; "Replace all tags",
    /// `PUT /v2.0/floatingips/{id}/tags`.
    ///
    /// # Errors
    /// What the cloud answers.
    pub async fn disown_floating_ip(
        &self,
        floating_ip: &OwnedFloatingIp,
        prefixes: &[&str],
        mark: &str,
        description: &str,
    ) -> Result<(), Error> {
        if floating_ip.description != description {
            let body = BTreeMap::from([("floatingip", Description { description })]);
            self.call(Request::new("update_floating_ip", Method::PUT, path(&floating_ip.id)).body(&body))
                .await?;
        }
        let ours = floating_ip.owner.tags();
        let is_ours =
            |tag: &String| ours.contains(tag) || prefixes.iter().any(|prefix| tag.starts_with(prefix));
        let others = floating_ip.tags.iter().filter(|tag| !is_ours(tag) && *tag != mark);
        let tags: Vec<&str> = others.map(String::as_str).chain([mark]).collect();
        self.put_tags("tag_floating_ip", RESOURCE, floating_ip.id.as_str(), &tags).await
    }

    /// Has a floating IP lead to a port, or to none. "Update floating IP", `PUT /v2.0/floatingips/{id}`.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the port has another; [`Error::NotFound`]; what else the cloud answers.
    pub async fn associate_floating_ip(
        &self,
        id: &FloatingIpId,
        port_id: Option<&PortId>,
    ) -> Result<FloatingIp, Error> {
        let body = BTreeMap::from([("floatingip", Association { port_id })]);
        let request = Request::new("update_floating_ip", Method::PUT, path(id)).body(&body);
        self.call(request).await?.member("floatingip")
    }

    /// Deletes a floating IP of ours; one that does not exist any more counts as deleted. "Delete floating IP",
    /// `DELETE /v2.0/floatingips/{id}`.
    ///
    /// # Errors
    /// What the cloud answers.
    pub async fn delete_floating_ip(&self, floating_ip: &OwnedFloatingIp) -> Result<(), Error> {
        let request = Request::new("delete_floating_ip", Method::DELETE, path(&floating_ip.id));
        self.gone(request).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::recorded::{Reply, cloud};

    fn floating_ip(id: &str, project: &str, tags: &[&str]) -> Value {
        json!({"id": id, "project_id": project, "tenant_id": project, "floating_ip_address": "203.0.113.7",
               "floating_network_id": "ext", "router_id": "r", "port_id": "vip", "fixed_ip_address": "10.1.0.9",
               "status": "ACTIVE", "description": "kuryr_lb", "tags": tags, "revision_number": 2})
    }

    fn owner() -> Ownership {
        Ownership::new("ours".into(), "kuryr:cluster=a").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_made_for_a_port_and_tagged_afterwards() {
        let (client, recorded) = cloud(|asked| match (asked.is_token(), asked.path.ends_with("/tags")) {
            (true, _) => None,
            (_, true) => Some(Reply::Json(200, asked.body.clone())),
            _ => Some(Reply::Json(201, json!({"floatingip": floating_ip("f", "ours", &[])}))),
        });
        let create = FloatingIpCreate {
            floating_network_id: "ext".into(),
            subnet_id: None,
            port_id: "vip".into(),
            description: "kuryr_lb".to_owned(),
            tags: vec!["kuryr-service:u".to_owned()],
        };
        let made = client.create_floating_ip(&owner(), &create).await.unwrap();
        assert_eq!(made.floating_ip_address.to_string(), "203.0.113.7");
        let asked = recorded.asked();
        assert_eq!(
            asked[0].body,
            json!({"floatingip": {"floating_network_id": "ext", "port_id": "vip", "description": "kuryr_lb", "project_id": "ours"}})
        );
        assert_eq!(asked[1].line(), "PUT /v2.0/floatingips/f/tags");
        assert_eq!(asked[1].body, json!({"tags": ["kuryr:cluster=a", "kuryr-service:u"]}));
        client.disown_floating_ip(&made, &["kuryr-service:"], "kept", "kuryr_lb").await.unwrap();
        assert_eq!(recorded.asked()[2].body, json!({"tags": ["kept"]}));
        client.associate_floating_ip(&made.id, None).await.unwrap();
        assert_eq!(recorded.asked()[3].body, json!({"floatingip": {"port_id": null}}));
        client.disown_floating_ip(&made, &["kuryr-service:"], "kept", "a").await.unwrap();
        let bodies = recorded.asked()[4..].iter().map(|asked| asked.body.clone()).collect::<Vec<_>>();
        assert_eq!(bodies, [json!({"floatingip": {"description": "a"}}), json!({"tags": ["kept"]})]);
    }

    #[tokio::test(start_paused = true)]
    async fn lists_are_compared_again_and_only_ours_can_be_deleted() {
        let (client, recorded) = cloud(|asked| match (asked.is_token(), &asked.method) {
            (true, _) => None,
            (_, &Method::DELETE) => {
                Some(Reply::Json(404, json!({"NeutronError": {"type": "FloatingIPNotFound"}})))
            }
            _ => {
                let found = [
                    floating_ip("f1", "ours", &["kuryr:cluster=a"]),
                    floating_ip("f2", "ours", &[]),
                    floating_ip("f3", "hostile", &["kuryr:cluster=a"]),
                ];
                Some(Reply::Json(200, json!({"floatingips": found})))
            }
        });
        let filter = FloatingIpFilter { port_id: Some("vip".into()), ..FloatingIpFilter::default() };
        let found = client.floating_ips(&"ours".into(), &filter).await.unwrap();
        assert_eq!(found.iter().map(|found| found.id.as_str()).collect::<Vec<_>>(), ["f1", "f2"]);
        let filter = FloatingIpFilter { description: Some("a b".to_owned()), ..FloatingIpFilter::default() };
        assert_eq!(client.floating_ips(&"ours".into(), &filter).await.unwrap(), []);
        assert_eq!(
            recorded.lines(),
            [
                "GET /v2.0/floatingips?project_id=ours&port_id=vip&limit=500",
                "GET /v2.0/floatingips?project_id=ours&description=a%20b&limit=500",
            ]
        );
        let owner = Arc::new(owner());
        let mut proved = found.into_iter().map(|found| OwnedFloatingIp::prove(&owner, found));
        let ours = proved.next().unwrap().unwrap();
        assert!(matches!(proved.next(), Some(Err(Error::Foreign { .. }))));
        client.delete_floating_ip(&ours).await.unwrap();
    }
}
