//! Security groups and their rules: who may talk to a port.
//!
//! Rules only allow, and have no order. A new group has two rules that allow everything outwards. Groups have
//! no bulk tagging: a group is created, then tagged, and found by project and name in between. As for ports,
//! only a group that proved to be ours can be changed.
//!
//! Sources: Networking API v2.0, "Security groups", "Security group rules", "Tag extension".

use std::{collections::BTreeMap, ops::Deref};

use http::Method;
use ipnet::IpNet;
use kuryr_types::{ProjectId, SecurityGroupId};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::{
    client::{Client, Request},
    error::Error,
    neutron::{address_or_prefix, null_is_default},
    ownership::Ownership,
    query::{Query, segment},
};

/// A security group as Neutron shows it, whoever owns it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityGroup {
    /// Its id.
    pub id: SecurityGroupId,
    /// Its name; need not be unique.
    #[serde(default)]
    pub name: String,
    /// Free text.
    #[serde(default, deserialize_with = "null_is_default")]
    pub description: String,
    /// The project that it belongs to.
    pub project_id: ProjectId,
    /// Whether answers to what it allows are allowed too.
    #[serde(default = "yes")]
    pub stateful: bool,
    /// Its tags.
    #[serde(default, deserialize_with = "null_is_default")]
    pub tags: Vec<String>,
    /// Its rules.
    #[serde(rename = "security_group_rules", default, deserialize_with = "null_is_default")]
    pub rules: Vec<SecurityGroupRule>,
}

/// Without the extension `stateful-security-group` every group is.
fn yes() -> bool {
    true
}

/// A rule of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityGroupRule {
    /// Its id.
    pub id: String,
    /// The group it belongs to.
    pub security_group_id: SecurityGroupId,
    /// What it allows.
    #[serde(flatten)]
    pub spec: RuleSpec,
}

/// What a rule allows. What is `None` is not restricted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RuleSpec {
    /// To the port or from it.
    pub direction: Direction,
    /// Which family.
    pub ethertype: EtherType,
    /// `tcp`, `udp`, `sctp`, `icmp`, `ipv6-icmp`, or a number.
    #[serde(default)]
    pub protocol: Option<String>,
    /// First destination port, or ICMP type.
    #[serde(default)]
    pub port_range_min: Option<u16>,
    /// Last destination port, or ICMP code.
    #[serde(default)]
    pub port_range_max: Option<u16>,
    /// Addresses on the other side.
    #[serde(default, with = "address_or_prefix::optional")]
    pub remote_ip_prefix: Option<IpNet>,
    /// Ports of this group on the other side.
    #[serde(default)]
    pub remote_group_id: Option<SecurityGroupId>,
    /// Addresses of this address group on the other side (extension `security-groups-remote-address-group`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_address_group_id: Option<String>,
    /// Free text.
    #[serde(default, deserialize_with = "null_is_default")]
    pub description: String,
}

impl RuleSpec {
    /// Allows everything of one family in one direction.
    #[must_use]
    pub fn all(direction: Direction, ethertype: EtherType) -> Self {
        Self {
            direction,
            ethertype,
            protocol: None,
            port_range_min: None,
            port_range_max: None,
            remote_ip_prefix: None,
            remote_group_id: None,
            remote_address_group_id: None,
            description: String::new(),
        }
    }
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the port.
    Ingress,
    /// From the port.
    Egress,
}

/// Which family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EtherType {
    /// IPv4.
    #[serde(rename = "IPv4")]
    Ipv4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    Ipv6,
}

/// A group that was compared with an [`Ownership`] and is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedSecurityGroup(SecurityGroup);

impl OwnedSecurityGroup {
    fn prove(operation: &'static str, owner: &Ownership, group: SecurityGroup) -> Result<Self, Error> {
        match owner.difference(&group.project_id, &group.tags) {
            None => Ok(Self(group)),
            Some(reason) => Err(foreign(operation, &group.id, reason)),
        }
    }
}

impl Deref for OwnedSecurityGroup {
    type Target = SecurityGroup;

    fn deref(&self) -> &SecurityGroup {
        &self.0
    }
}

fn foreign(operation: &'static str, id: &SecurityGroupId, reason: String) -> Error {
    Error::Foreign { operation, resource: "security group", id: id.to_string(), reason }
}

const COLLECTION: &str = "security_groups";
const RULES: &str = "security_group_rules";

impl Client {
    /// Lists our groups, or those with a name. "List security groups", `GET /v2.0/security-groups`.
    ///
    /// # Errors
    /// What the cloud answers.
    pub async fn owned_security_groups(
        &self,
        owner: &Ownership,
        name: Option<&str>,
    ) -> Result<Vec<OwnedSecurityGroup>, Error> {
        let operation = "list_security_groups";
        let query = Query::default()
            .with("project_id", owner.project_id().as_str())
            .with("tags", &owner.tags().join(","))
            .with_some("name", name);
        let found: Vec<SecurityGroup> = self.list(operation, COLLECTION, query).await?;
        let mut owned = Vec::with_capacity(found.len());
        for group in found {
            match OwnedSecurityGroup::prove(operation, owner, group) {
                Ok(group) if name.is_none_or(|name| name == group.name) => owned.push(group),
                Ok(_) => {}
                Err(error) => warn!(%error, "Neutron listed a security group that was not asked for"),
            }
        }
        Ok(owned)
    }

    /// Reads one of our groups. "Show security group", `GET /v2.0/security-groups/{id}`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Foreign`] if it is not ours; what else the cloud answers.
    pub async fn owned_security_group(
        &self,
        owner: &Ownership,
        id: &SecurityGroupId,
    ) -> Result<OwnedSecurityGroup, Error> {
        let operation = "get_security_group";
        let path = format!("security-groups/{}", segment(id.as_str()));
        let found = self.call(Request::new(operation, Method::GET, path)).await?.member("security_group")?;
        OwnedSecurityGroup::prove(operation, owner, found)
    }

    /// Lists groups of a project by name, with or without tags: to adopt one that was created but not tagged.
    /// "List security groups", `GET /v2.0/security-groups`.
    ///
    /// # Errors
    /// What the cloud answers.
    pub async fn security_groups_named(
        &self,
        project_id: &ProjectId,
        name: &str,
    ) -> Result<Vec<SecurityGroup>, Error> {
        let query = Query::default().with("project_id", project_id.as_str()).with("name", name);
        let mut found: Vec<SecurityGroup> = self.list("list_security_groups", COLLECTION, query).await?;
        found.retain(|group| group.project_id == *project_id && group.name == name);
        Ok(found)
    }

    /// Creates a group in our project and tags it. "Create security group", `POST /v2.0/security-groups`;
    /// "Replace all tags", `PUT /v2.0/security-groups/{id}/tags`.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`], what else the cloud answers. After a failure the group may exist without tags:
    /// look for it by name before creating another.
    pub async fn create_security_group(
        &self,
        owner: &Ownership,
        name: &str,
        description: &str,
    ) -> Result<OwnedSecurityGroup, Error> {
        let fields =
            [("name", name), ("description", description), ("project_id", owner.project_id().as_str())];
        let body = BTreeMap::from([("security_group", BTreeMap::from(fields))]);
        let request = Request::new("create_security_group", Method::POST, "security-groups").body(&body);
        let group: SecurityGroup = self.call(request).await?.member("security_group")?;
        self.adopt_security_group(owner, group).await
    }

    /// Makes a group of our project ours by adding our tags. "Replace all tags",
    /// `PUT /v2.0/security-groups/{id}/tags`.
    ///
    /// # Errors
    /// [`Error::Foreign`] if it belongs to another project; what else the cloud answers.
    pub async fn adopt_security_group(
        &self,
        owner: &Ownership,
        mut group: SecurityGroup,
    ) -> Result<OwnedSecurityGroup, Error> {
        let operation = "tag_security_group";
        if let Some(reason) = owner.difference(&group.project_id, owner.tags()) {
            return Err(foreign(operation, &group.id, reason));
        }
        let tags = owner.and_tags_of(&group.tags);
        self.put_tags(operation, "security-groups", group.id.as_str(), &tags).await?;
        group.tags = tags.into_iter().map(str::to_owned).collect();
        OwnedSecurityGroup::prove(operation, owner, group)
    }

    /// Deletes a group of ours; one that does not exist any more counts as deleted. "Delete security group",
    /// `DELETE /v2.0/security-groups/{id}`.
    ///
    /// # Errors
    /// [`Error::Conflict`] with kind `SecurityGroupInUse` while a port has it; what else the cloud answers.
    pub async fn delete_security_group(&self, group: &OwnedSecurityGroup) -> Result<(), Error> {
        let path = format!("security-groups/{}", segment(group.id.as_str()));
        let request = Request::new("delete_security_group", Method::DELETE, path);
        self.gone(request).await
    }

    /// Creates rules of a group, all or none. "Bulk create security group rules",
    /// `POST /v2.0/security-group-rules`.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`]; [`Error::Conflict`] with kind `SecurityGroupRuleExists`; what else the cloud
    /// answers.
    pub async fn create_security_group_rules(
        &self,
        group: &OwnedSecurityGroup,
        rules: &[RuleSpec],
    ) -> Result<Vec<SecurityGroupRule>, Error> {
        if rules.is_empty() {
            return Ok(Vec::new());
        }
        let new: Vec<_> = rules.iter().map(|spec| NewRule { security_group_id: &group.id, spec }).collect();
        let body = BTreeMap::from([(RULES, new)]);
        let operation = "create_security_group_rules";
        let request = Request::new(operation, Method::POST, "security-group-rules").body(&body);
        self.call(request).await?.member(RULES)
    }

    /// Lists the rules of a group. "List security group rules", `GET /v2.0/security-group-rules`.
    ///
    /// # Errors
    /// What the cloud answers.
    pub async fn security_group_rules(
        &self,
        group: &SecurityGroupId,
    ) -> Result<Vec<SecurityGroupRule>, Error> {
        let query = Query::default().with("security_group_id", group.as_str());
        let mut found: Vec<SecurityGroupRule> = self.list("list_security_group_rules", RULES, query).await?;
        found.retain(|rule| rule.security_group_id == *group);
        Ok(found)
    }

    /// Deletes a rule of a group of ours; one that does not exist any more counts as deleted. "Delete security
    /// group rule", `DELETE /v2.0/security-group-rules/{id}`.
    ///
    /// # Errors
    /// [`Error::Foreign`] if it is a rule of another group; what else the cloud answers.
    pub async fn delete_security_group_rule(
        &self,
        group: &OwnedSecurityGroup,
        rule: &SecurityGroupRule,
    ) -> Result<(), Error> {
        let operation = "delete_security_group_rule";
        if rule.security_group_id != group.id {
            let reason = format!("rule {} belongs to it, not to {}", rule.id, group.id);
            return Err(foreign(operation, &rule.security_group_id, reason));
        }
        let path = format!("security-group-rules/{}", segment(&rule.id));
        self.gone(Request::new(operation, Method::DELETE, path)).await
    }
}

#[derive(Serialize)]
struct NewRule<'a> {
    security_group_id: &'a SecurityGroupId,
    #[serde(flatten)]
    spec: &'a RuleSpec,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::recorded::{Asked, Recorded, Reply, cloud};

    fn owner() -> Ownership {
        Ownership::new("ours".into(), "cluster-a").unwrap()
    }

    fn group(id: &str, project: &str, tags: &[&str]) -> Value {
        json!({"id": id, "name": "kuryr/allow-all", "description": "", "project_id": project, "tenant_id": project,
               "stateful": true, "tags": tags, "revision_number": 1, "shared": false,
               "security_group_rules": [rule("r1", id)]})
    }

    fn rule(id: &str, group: &str) -> Value {
        json!({"id": id, "security_group_id": group, "project_id": "ours", "direction": "egress",
               "ethertype": "IPv4", "protocol": null, "port_range_min": null, "port_range_max": null,
               "remote_ip_prefix": null, "remote_group_id": null, "remote_address_group_id": null,
               "normalized_cidr": null, "description": null, "belongs_to_default_sg": false})
    }

    fn neutron(
        answering: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static,
    ) -> (Client, Arc<Recorded>) {
        cloud(move |asked| if asked.is_token() { None } else { answering(asked) })
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_is_created_then_tagged() {
        let (client, recorded) = neutron(|asked| match asked.method {
            Method::POST => Some(Reply::Json(201, json!({"security_group": group("g", "ours", &[])}))),
            _ => Some(Reply::Json(200, asked.body.clone())),
        });
        let made = client.create_security_group(&owner(), "kuryr/allow-all", "of cluster a").await.unwrap();
        assert_eq!((made.id.as_str(), made.rules.len()), ("g", 1));
        let asked = recorded.asked();
        assert_eq!(recorded.lines(), ["POST /v2.0/security-groups", "PUT /v2.0/security-groups/g/tags"]);
        let fields = json!({"name": "kuryr/allow-all", "description": "of cluster a", "project_id": "ours"});
        assert_eq!(asked[0].body, json!({"security_group": fields}));
        assert_eq!(asked[1].body, json!({"tags": ["cluster-a"]}));
    }

    #[tokio::test(start_paused = true)]
    async fn lists_leave_out_what_is_not_ours_and_one_without_tags_can_be_adopted() {
        let (client, recorded) = neutron(|asked| match asked.method {
            Method::GET => {
                let groups = [
                    group("g1", "ours", &["cluster-a"]),
                    group("g2", "hostile", &["cluster-a"]),
                    group("g3", "ours", &[]),
                ];
                Some(Reply::Json(200, json!({"security_groups": groups})))
            }
            _ => Some(Reply::Json(200, asked.body.clone())),
        });
        let ids =
            |groups: &[SecurityGroup]| groups.iter().map(|group| group.id.to_string()).collect::<Vec<_>>();
        let ours = client.owned_security_groups(&owner(), Some("kuryr/allow-all")).await.unwrap();
        assert_eq!(ours.iter().map(|group| group.id.as_str()).collect::<Vec<_>>(), ["g1"]);
        assert!(client.owned_security_groups(&owner(), Some("other")).await.unwrap().is_empty());
        let named = client.security_groups_named(&"ours".into(), "kuryr/allow-all").await.unwrap();
        assert_eq!(ids(&named), ["g1", "g3"]);
        client.adopt_security_group(&owner(), named[1].clone()).await.unwrap();
        let foreign = SecurityGroup { project_id: "hostile".into(), ..named[1].clone() };
        let error = client.adopt_security_group(&owner(), foreign).await.unwrap_err();
        assert!(matches!(error, Error::Foreign { .. }), "{error}");
        let lines = recorded.lines();
        assert_eq!(
            lines[0],
            "GET /v2.0/security-groups?project_id=ours&tags=cluster-a&name=kuryr%2Fallow-all&limit=500"
        );
        assert_eq!(lines[3..], ["PUT /v2.0/security-groups/g3/tags"]);
    }

    #[tokio::test(start_paused = true)]
    async fn rules_are_made_in_bulk_and_deleted_with_their_group_only() {
        let (client, recorded) = neutron(|asked| match asked.method {
            Method::POST => Some(Reply::Json(201, json!({"security_group_rules": [rule("r2", "g1")]}))),
            Method::GET if asked.path.contains("rules") => {
                Some(Reply::Json(200, json!({"security_group_rules": [rule("r1", "g1"), rule("r9", "g9")]})))
            }
            Method::GET => {
                Some(Reply::Json(200, json!({"security_groups": [group("g1", "ours", &["cluster-a"])]})))
            }
            _ => Some(Reply::Json(204, Value::Null)),
        });
        let mine = &client.owned_security_groups(&owner(), None).await.unwrap()[0];
        let web = RuleSpec {
            protocol: Some("tcp".to_owned()),
            port_range_min: Some(80),
            port_range_max: Some(81),
            remote_ip_prefix: Some("10.0.0.1/32".parse().unwrap()),
            ..RuleSpec::all(Direction::Ingress, EtherType::Ipv4)
        };
        client.create_security_group_rules(mine, &[web]).await.unwrap();
        client.create_security_group_rules(mine, &[]).await.unwrap();
        let rules = client.security_group_rules(&mine.id).await.unwrap();
        assert_eq!(rules.iter().map(|rule| rule.id.as_str()).collect::<Vec<_>>(), ["r1"]);
        assert_eq!(rules[0].spec, RuleSpec::all(Direction::Egress, EtherType::Ipv4));
        client.delete_security_group_rule(mine, &rules[0]).await.unwrap();
        let foreign = SecurityGroupRule { security_group_id: "g9".into(), ..rules[0].clone() };
        let error = client.delete_security_group_rule(mine, &foreign).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "delete_security_group_rule: security group g9 is not ours: rule r1 belongs to it, not to g1"
        );
        client.delete_security_group(mine).await.unwrap();
        assert_eq!(
            recorded.lines()[1..],
            [
                "POST /v2.0/security-group-rules",
                "GET /v2.0/security-group-rules?security_group_id=g1&limit=500",
                "DELETE /v2.0/security-group-rules/r1",
                "DELETE /v2.0/security-groups/g1",
            ]
        );
        assert_eq!(
            recorded.asked()[1].body,
            json!({"security_group_rules": [{
                "security_group_id": "g1", "direction": "ingress", "ethertype": "IPv4", "protocol": "tcp",
                "port_range_min": 80, "port_range_max": 81, "remote_ip_prefix": "10.0.0.1",
                "remote_group_id": null, "description": ""}]})
        );
    }
}
