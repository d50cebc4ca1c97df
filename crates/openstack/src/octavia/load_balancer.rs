//! Load balancers: made whole, found by name and tags, deleted with all that is below them.
//!
//! Sources: Load Balancer API v2, "Load Balancers", "Creating a Fully Populated Load Balancer", "Provisioning Status
//! Codes".

use std::{collections::BTreeMap, net::IpAddr, ops::Deref, sync::Arc};

use http::Method;
use kuryr_types::{LoadBalancerId, PortId, ProjectId, SubnetId};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::listener::ListenerCreate;
use crate::{
    client::{Client, Request},
    error::Error,
    neutron::null_is_default,
    ownership::Ownership,
    query::{Query, segment},
};

/// A load balancer as Octavia shows it, whoever owns it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LoadBalancer {
    /// Its id.
    pub id: LoadBalancerId,
    /// Its name; need not be unique.
    #[serde(default, deserialize_with = "null_is_default")]
    pub name: String,
    /// The project that it belongs to.
    pub project_id: ProjectId,
    /// Its address.
    #[serde(default)]
    pub vip_address: Option<IpAddr>,
    /// The port with that address.
    #[serde(default)]
    pub vip_port_id: Option<PortId>,
    /// The subnet that the address is from.
    #[serde(default)]
    pub vip_subnet_id: Option<SubnetId>,
    /// Its further addresses.
    #[serde(default, deserialize_with = "null_is_default")]
    pub additional_vips: Vec<AdditionalVip>,
    /// What implements it, such as `amphora` or `ovn`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub provider: String,
    /// Whether it can be changed.
    pub provisioning_status: ProvisioningStatus,
    /// Its tags.
    #[serde(default, deserialize_with = "null_is_default")]
    pub tags: Vec<String>,
}

/// A further address of a load balancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdditionalVip {
    /// The subnet that it is from.
    pub subnet_id: SubnetId,
    /// The address; of one to be: else Octavia has Neutron choose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<IpAddr>,
    /// The port with it; Octavia's to choose.
    #[serde(default, skip_serializing)]
    pub port_id: Option<PortId>,
}

/// Whether something can be changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum ProvisioningStatus {
    /// Provisioned; it can be changed.
    Active,
    /// The last change failed; it can only be deleted or failed over.
    Error,
    /// Being created; nothing of it can be changed.
    PendingCreate,
    /// Being changed; nothing else of it can be.
    PendingUpdate,
    /// Being deleted.
    PendingDelete,
    /// Deleted.
    Deleted,
    /// A status that the API does not list.
    Other(String),
}

impl From<String> for ProvisioningStatus {
    fn from(text: String) -> Self {
        match text.as_str() {
            "ACTIVE" => Self::Active,
            "ERROR" => Self::Error,
            "PENDING_CREATE" => Self::PendingCreate,
            "PENDING_UPDATE" => Self::PendingUpdate,
            "PENDING_DELETE" => Self::PendingDelete,
            "DELETED" => Self::Deleted,
            _ => Self::Other(text),
        }
    }
}

impl From<ProvisioningStatus> for String {
    fn from(status: ProvisioningStatus) -> Self {
        match status {
            ProvisioningStatus::Active => "ACTIVE".to_owned(),
            ProvisioningStatus::Error => "ERROR".to_owned(),
            ProvisioningStatus::PendingCreate => "PENDING_CREATE".to_owned(),
            ProvisioningStatus::PendingUpdate => "PENDING_UPDATE".to_owned(),
            ProvisioningStatus::PendingDelete => "PENDING_DELETE".to_owned(),
            ProvisioningStatus::Deleted => "DELETED".to_owned(),
            ProvisioningStatus::Other(text) => text,
        }
    }
}

/// A load balancer that may carry listeners and pools of ours: one of our project, whoever made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carrier {
    load_balancer: LoadBalancer,
    tags_below: Vec<String>,
}

impl Carrier {
    /// A load balancer that is to carry something of ours beside what others have there. What we put there has our tags
    /// and `guest_tag`, by which [`Client::guests`] finds it.
    ///
    /// # Errors
    /// [`Error::Foreign`] if it is of another project.
    pub fn lent(owner: &Ownership, load_balancer: LoadBalancer, guest_tag: &str) -> Result<Self, Error> {
        if let Some(reason) = owner.difference_of_project(&load_balancer.project_id) {
            let id = load_balancer.id.to_string();
            return Err(Error::Foreign {
                operation: "share_load_balancer",
                resource: "load balancer",
                id,
                reason,
            });
        }
        let tags_below = owner.tags().iter().cloned().chain([guest_tag.to_owned()]).collect();
        Ok(Self { load_balancer, tags_below })
    }

    /// Tags of everything of ours below it.
    pub(super) fn tags_below(&self) -> &[String] {
        &self.tags_below
    }
}

impl Deref for Carrier {
    type Target = LoadBalancer;

    fn deref(&self) -> &LoadBalancer {
        &self.load_balancer
    }
}

/// A load balancer that was compared with an [`Ownership`] and is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedLoadBalancer(Carrier);

impl OwnedLoadBalancer {
    fn prove(
        operation: &'static str,
        owner: &Arc<Ownership>,
        load_balancer: LoadBalancer,
    ) -> Result<Self, Error> {
        match owner.difference(&load_balancer.project_id, &load_balancer.tags) {
            None => Ok(Self(Carrier { load_balancer, tags_below: owner.tags().to_vec() })),
            Some(reason) => {
                let id = load_balancer.id.to_string();
                Err(Error::Foreign { operation, resource: "load balancer", id, reason })
            }
        }
    }
}

impl Deref for OwnedLoadBalancer {
    type Target = Carrier;

    fn deref(&self) -> &Carrier {
        &self.0
    }
}

/// Something of ours on a load balancer that is not ours, or is another Service's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Name of the listener or pool.
    pub name: String,
    /// The load balancers that it is on; one.
    pub load_balancers: Vec<LoadBalancerId>,
}

#[derive(Deserialize)]
struct Below {
    #[serde(default, deserialize_with = "null_is_default")]
    name: String,
    project_id: ProjectId,
    #[serde(default, deserialize_with = "null_is_default")]
    tags: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    loadbalancers: Vec<Above>,
}

#[derive(Deserialize)]
struct Above {
    id: LoadBalancerId,
}

/// A load balancer to be, with all that is below it. Its project and the tags of its owner are added when it is
/// created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoadBalancerCreate {
    /// Its name, by which it can be found again.
    pub name: String,
    /// The subnet that its address is from.
    pub vip_subnet_id: SubnetId,
    /// Its address; else Octavia has Neutron choose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vip_address: Option<IpAddr>,
    /// The port with its address; else Octavia makes one, and deletes it with the load balancer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vip_port_id: Option<PortId>,
    /// Its further addresses, each from another subnet of the same network.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub additional_vips: Vec<AdditionalVip>,
    /// What implements it.
    pub provider: String,
    /// Its flavor, which a provider's administrator offers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flavor_id: Option<String>,
    /// Its availability zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub availability_zone: Option<String>,
    /// Its listeners, each with its pool.
    pub listeners: Vec<ListenerCreate>,
}

#[derive(Serialize)]
struct NewLoadBalancer<'a> {
    #[serde(flatten)]
    load_balancer: &'a LoadBalancerCreate,
    project_id: &'a ProjectId,
    tags: &'a [String],
}

const COLLECTION: &str = "loadbalancers";

impl Client {
    /// Lists our load balancers, those of one name if one is given. "List Load Balancers",
    /// `GET /v2/lbaas/loadbalancers`.
    ///
    /// # Errors
    /// What the cloud answers; [`Error::ListChanged`] if it must be read again.
    pub async fn load_balancers(
        &self,
        owner: &Ownership,
        name: Option<&str>,
    ) -> Result<Vec<OwnedLoadBalancer>, Error> {
        let operation = "list_load_balancers";
        let query = Query::default()
            .with("project_id", owner.project_id().as_str())
            .with("tags", &owner.tags().join(","))
            .with_some("name", name);
        let request = Request::octavia(operation, Method::GET, COLLECTION);
        let found: Vec<LoadBalancer> = self.pages(request, COLLECTION, query).await?;
        let owner = Arc::new(owner.clone());
        let mut owned = Vec::with_capacity(found.len());
        for found in found.into_iter().filter(|found| name.is_none_or(|name| name == found.name)) {
            match OwnedLoadBalancer::prove(operation, &owner, found) {
                Ok(found) => owned.push(found),
                Err(error) => warn!(%error, "Octavia listed a load balancer that was not asked for"),
            }
        }
        Ok(owned)
    }

    /// Lists load balancers of our project and of a name that lack our tags. "List Load Balancers",
    /// `GET /v2/lbaas/loadbalancers`.
    ///
    /// # Errors
    /// What the cloud answers; [`Error::ListChanged`] if it must be read again.
    pub async fn untagged_load_balancers(
        &self,
        owner: &Ownership,
        name: &str,
    ) -> Result<Vec<LoadBalancer>, Error> {
        let query = Query::default().with("project_id", owner.project_id().as_str()).with("name", name);
        let request = Request::octavia("list_load_balancers", Method::GET, COLLECTION);
        let mut found: Vec<LoadBalancer> = self.pages(request, COLLECTION, query).await?;
        found.retain(|found| {
            let is_named = found.name == name && found.project_id == *owner.project_id();
            is_named && owner.difference(&found.project_id, &found.tags).is_some()
        });
        Ok(found)
    }

    /// Reads a load balancer of our project, whoever made it; none if there is no such one that we may see. "Show Load
    /// Balancer details", `GET /v2/lbaas/loadbalancers/{id}`.
    ///
    /// # Errors
    /// What the cloud answers.
    pub async fn load_balancer(
        &self,
        owner: &Ownership,
        id: &LoadBalancerId,
    ) -> Result<Option<LoadBalancer>, Error> {
        let path = format!("{COLLECTION}/{}", segment(id.as_str()));
        let found = self.call(Request::octavia("show_load_balancer", Method::GET, path)).await;
        let found: LoadBalancer = match found {
            // One of another project is refused, or hidden, as the operator of the cloud has it.
            Err(Error::NotFound { .. } | Error::Forbidden { .. }) => return Ok(None),
            found => found?.member("loadbalancer")?,
        };
        Ok(Some(found).filter(|found| owner.difference_of_project(&found.project_id).is_none()))
    }

    /// Lists listeners and pools of ours on load balancers that are not ours, or are another Service's, by the tag that a
    /// [`Carrier`] gives them. "List Listeners", `GET /v2/lbaas/listeners`; "List Pools", `GET /v2/lbaas/pools`.
    ///
    /// # Errors
    /// What the cloud answers; [`Error::ListChanged`] if it must be read again.
    pub async fn guests(&self, owner: &Ownership, guest_tag: &str) -> Result<Vec<Guest>, Error> {
        let mut guests = vec![];
        for (operation, collection) in [("list_listeners", "listeners"), ("list_pools", "pools")] {
            let tags = format!("{},{guest_tag}", owner.tags().join(","));
            let query = Query::default().with("project_id", owner.project_id().as_str()).with("tags", &tags);
            let request = Request::octavia(operation, Method::GET, collection);
            let found: Vec<Below> = self.pages(request, collection, query).await?;
            let is_ours = |found: &Below| {
                let is_guest = found.tags.iter().any(|tag| tag == guest_tag);
                is_guest && owner.difference(&found.project_id, &found.tags).is_none()
            };
            guests.extend(found.into_iter().filter(is_ours).map(|found| Guest {
                name: found.name,
                load_balancers: found.loadbalancers.into_iter().map(|above| above.id).collect(),
            }));
        }
        Ok(guests)
    }

    /// Makes a load balancer of our project ours by its tags. "Update a Load Balancer",
    /// `PUT /v2/lbaas/loadbalancers/{id}`.
    ///
    /// # Errors
    /// [`Error::Foreign`] if it is of another project; [`Error::Immutable`]; what else the cloud answers.
    pub async fn adopt_load_balancer(
        &self,
        owner: &Ownership,
        mut load_balancer: LoadBalancer,
    ) -> Result<OwnedLoadBalancer, Error> {
        let operation = "tag_load_balancer";
        let tags: Vec<String> =
            owner.and_tags_of(&load_balancer.tags).into_iter().map(str::to_owned).collect();
        if load_balancer.project_id == *owner.project_id() {
            let path = format!("{COLLECTION}/{}", segment(load_balancer.id.as_str()));
            let body = BTreeMap::from([("loadbalancer", BTreeMap::from([("tags", &tags)]))]);
            self.call(Request::octavia(operation, Method::PUT, path).body(&body)).await?;
            load_balancer.tags = tags;
        }
        OwnedLoadBalancer::prove(operation, &Arc::new(owner.clone()), load_balancer)
    }

    /// Creates a load balancer with listeners, pools and members, in our project and with our tags. "Create a Load
    /// Balancer", `POST /v2/lbaas/loadbalancers`.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`], [`Error::Unsupported`], what else the cloud answers.
    pub async fn create_load_balancer(
        &self,
        owner: &Ownership,
        create: &LoadBalancerCreate,
    ) -> Result<OwnedLoadBalancer, Error> {
        let operation = "create_load_balancer";
        let mut tagged = create.clone();
        tagged.listeners.iter_mut().for_each(|listener| listener.tag(owner.tags()));
        let (project_id, tags) = (owner.project_id(), owner.tags());
        let new = NewLoadBalancer { load_balancer: &tagged, project_id, tags };
        let body = BTreeMap::from([("loadbalancer", &new)]);
        let request = Request::octavia(operation, Method::POST, COLLECTION).body(&body);
        let created = self.call(request).await?.member("loadbalancer")?;
        OwnedLoadBalancer::prove(operation, &Arc::new(owner.clone()), created)
    }

    /// Deletes a load balancer of ours with all that is below it; one that does not exist any more counts as deleted.
    /// "Remove a Load Balancer", `DELETE /v2/lbaas/loadbalancers/{id}?cascade=true`.
    ///
    /// # Errors
    /// [`Error::Immutable`]; what else the cloud answers.
    pub async fn delete_load_balancer(&self, load_balancer: &OwnedLoadBalancer) -> Result<(), Error> {
        let path = format!("{COLLECTION}/{}", segment(load_balancer.id.as_str()));
        let query = Query::default().with("cascade", "true");
        self.gone(Request::octavia("delete_load_balancer", Method::DELETE, path).query(query)).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{fixtures::*, member::MemberCreate, pool::PoolCreate};
    use super::*;
    use crate::recorded::Reply;

    #[tokio::test(start_paused = true)]
    async fn a_whole_tree_is_made_by_one_call() {
        let (client, recorded) = octavia(|_| {
            Some(Reply::Json(201, json!({"loadbalancer": load_balancer("b", "PENDING_CREATE", OURS)})))
        });
        let member = MemberCreate {
            name: "d/web-0:8080".to_owned(),
            address: "10.1.0.7".parse().unwrap(),
            protocol_port: 8080,
            subnet_id: Some("s4".into()),
            tags: vec![],
        };
        let pool = PoolCreate::new("d/web:TCP:80", "TCP", "SOURCE_IP_PORT").with_members(vec![member]);
        let listener = ListenerCreate::new("d/web:TCP:80", "TCP", 80).with_pool(pool);
        let create = LoadBalancerCreate {
            name: "d/web".to_owned(),
            vip_subnet_id: "s4".into(),
            vip_address: None,
            vip_port_id: None,
            additional_vips: vec![],
            provider: "ovn".to_owned(),
            flavor_id: None,
            availability_zone: None,
            listeners: vec![listener],
        };
        let made = client.create_load_balancer(&owner(), &create).await.unwrap();
        assert_eq!((made.id.as_str(), &made.provisioning_status), ("b", &ProvisioningStatus::PendingCreate));
        let asked = recorded.asked();
        assert_eq!(asked.len(), 1);
        assert_eq!(
            (asked[0].line().as_str(), asked[0].host.as_str()),
            ("POST /v2/lbaas/loadbalancers", "octavia:9876")
        );
        let tags = json!(["kuryr:cluster=a"]);
        let vip = |address: Option<&str>| AdditionalVip {
            subnet_id: "s6".into(),
            ip_address: address.map(|address| address.parse().unwrap()),
            port_id: None,
        };
        assert_eq!(
            json!([vip(None), vip(Some("fd00::9"))]),
            json!([{"subnet_id": "s6"}, {"subnet_id": "s6", "ip_address": "fd00::9"}])
        );
        assert_eq!(
            asked[0].body,
            json!({"loadbalancer": {
                "name": "d/web", "vip_subnet_id": "s4", "provider": "ovn", "project_id": "ours", "tags": tags,
                "listeners": [{
                    "name": "d/web:TCP:80", "protocol": "TCP", "protocol_port": 80, "tags": tags,
                    "default_pool": {
                        "name": "d/web:TCP:80", "protocol": "TCP", "lb_algorithm": "SOURCE_IP_PORT", "tags": tags,
                        "members": [{"name": "d/web-0:8080", "address": "10.1.0.7", "protocol_port": 8080,
                                     "subnet_id": "s4", "tags": tags}]
                    }
                }]
            }})
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_asks_for_project_tags_and_name_and_believes_none_of_them() {
        let (client, recorded) = octavia(|_| {
            let mut other_name = load_balancer("b4", "ACTIVE", OURS);
            other_name["name"] = json!("d/other");
            let mut hostile = load_balancer("b3", "ACTIVE", OURS);
            hostile["project_id"] = json!("hostile");
            let found = [
                load_balancer("b1", "ACTIVE", OURS),
                load_balancer("b2", "ACTIVE", &[]),
                hostile,
                other_name,
            ];
            Some(Reply::Json(200, json!({"loadbalancers": found, "loadbalancers_links": []})))
        });
        let found = client.load_balancers(&owner(), Some("d/web")).await.unwrap();
        assert_eq!(found.iter().map(|found| found.id.as_str()).collect::<Vec<_>>(), ["b1"]);
        assert_eq!(
            recorded.lines(),
            ["GET /v2/lbaas/loadbalancers?project_id=ours&tags=kuryr%3Acluster%3Da&name=d%2Fweb&limit=500"]
        );
        let found = client.load_balancers(&owner(), None).await.unwrap();
        assert_eq!(found.iter().map(|found| found.id.as_str()).collect::<Vec<_>>(), ["b1", "b4"]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_our_project_and_of_the_name_can_be_made_ours() {
        let (client, recorded) = octavia(|asked| match asked.method {
            Method::PUT => {
                Some(Reply::Json(200, json!({"loadbalancer": load_balancer("b1", "PENDING_UPDATE", OURS)})))
            }
            _ => {
                let mut hostile = load_balancer("b3", "ACTIVE", &[]);
                hostile["project_id"] = json!("hostile");
                let found = [
                    load_balancer("b1", "ACTIVE", &["theirs"]),
                    load_balancer("b2", "ACTIVE", OURS),
                    hostile,
                ];
                Some(Reply::Json(200, json!({"loadbalancers": found})))
            }
        });
        let found = client.untagged_load_balancers(&owner(), "d/web").await.unwrap();
        assert_eq!(found.iter().map(|found| found.id.as_str()).collect::<Vec<_>>(), ["b1"]);
        client.adopt_load_balancer(&owner(), found[0].clone()).await.unwrap();
        let mut hostile = found[0].clone();
        hostile.project_id = "hostile".into();
        let error = client.adopt_load_balancer(&owner(), hostile).await.unwrap_err();
        assert!(matches!(error, Error::Foreign { .. }), "{error}");
        let asked = recorded.asked();
        assert_eq!(asked.len(), 2);
        assert_eq!(asked[1].line(), "PUT /v2/lbaas/loadbalancers/b1");
        assert_eq!(asked[1].body, json!({"loadbalancer": {"tags": ["kuryr:cluster=a", "theirs"]}}));
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_our_project_can_be_shared_whoever_made_it() {
        let (client, _) = octavia(|asked| {
            let mut found = load_balancer("b", "ACTIVE", &["theirs"]);
            Some(match asked.path.rsplit('/').next() {
                Some("b") => Reply::Json(200, json!({"loadbalancer": found})),
                Some("hostile") => {
                    found["project_id"] = json!("hostile");
                    Reply::Json(200, json!({"loadbalancer": found}))
                }
                Some("hidden") => {
                    Reply::Json(403, json!({"faultstring": "Policy does not allow this request."}))
                }
                _ => Reply::Json(404, json!({"faultstring": "load_balancer x not found."})),
            })
        });
        for (id, expect) in [("b", true), ("hostile", false), ("hidden", false), ("x", false)] {
            let found = client.load_balancer(&owner(), &id.into()).await.unwrap();
            assert_eq!(found.is_some(), expect, "{id}");
        }
        let found = client.load_balancer(&owner(), &"b".into()).await.unwrap().unwrap();
        let carrier = Carrier::lent(&owner(), found.clone(), "guest").unwrap();
        assert_eq!(carrier.tags_below(), ["kuryr:cluster=a", "guest"]);
        let hostile = LoadBalancer { project_id: "hostile".into(), ..found };
        assert!(matches!(Carrier::lent(&owner(), hostile, "guest"), Err(Error::Foreign { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_ours_elsewhere_is_found_by_tags_that_are_compared_again() {
        let below = |name: &str, project: &str, tags: &[&str]| json!({"id": name, "name": name, "project_id": project, "tags": tags, "loadbalancers": [{"id": "b"}]});
        let (client, recorded) = octavia(move |asked| {
            let what = if asked.path.contains("/listeners") { "listeners" } else { "pools" };
            let found = [
                below("d/web:TCP:80", "ours", &["kuryr:cluster=a", "guest"]),
                below("own", "ours", &["kuryr:cluster=a"]),
                below("another cluster's", "ours", &["kuryr:cluster=b", "guest"]),
                below("hostile", "hostile", &["kuryr:cluster=a", "guest"]),
            ];
            Some(Reply::Json(200, json!({what: found})))
        });
        let guests = client.guests(&owner(), "guest").await.unwrap();
        let guest = Guest { name: "d/web:TCP:80".to_owned(), load_balancers: vec!["b".into()] };
        assert_eq!(guests, [guest.clone(), guest]);
        let query = "project_id=ours&tags=kuryr%3Acluster%3Da%2Cguest&limit=500";
        assert_eq!(
            recorded.lines(),
            [format!("GET /v2/lbaas/listeners?{query}"), format!("GET /v2/lbaas/pools?{query}")]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn deleting_takes_all_with_it_and_says_when_it_has_to_wait() {
        let fault = |words: &str| json!({"faultcode": "Client", "faultstring": words, "debuginfo": null});
        for (status, words, deleted) in [
            (204, "", true),
            (404, "load_balancer b not found.", true),
            (409, "Invalid state PENDING_UPDATE of loadbalancer resource b", false),
        ] {
            let body = fault(words);
            let (client, recorded) = octavia(move |asked| match asked.method {
                Method::DELETE => Some(Reply::Json(status, body.clone())),
                _ => Some(Reply::Json(200, json!({"loadbalancers": [load_balancer("b", "ACTIVE", OURS)]}))),
            });
            let found = client.load_balancers(&owner(), None).await.unwrap().remove(0);
            let outcome = client.delete_load_balancer(&found).await;
            assert_eq!(outcome.is_ok(), deleted, "{status}");
            if let Err(error) = outcome {
                assert!(matches!(error, Error::Immutable { .. }) && !error.outcome_unknown(), "{error}");
            }
            assert_eq!(recorded.lines()[1], "DELETE /v2/lbaas/loadbalancers/b?cascade=true");
        }
    }

    #[test]
    fn every_status_survives() {
        for text in
            ["ACTIVE", "ERROR", "PENDING_CREATE", "PENDING_UPDATE", "PENDING_DELETE", "DELETED", "ALLOCATED"]
        {
            assert_eq!(String::from(ProvisioningStatus::from(text.to_owned())), text);
        }
    }
}
