//! Ports: the network interfaces of pods.
//!
//! Ports are created in bulk, all or none, in our project and with our tags. Whatever changes or deletes one
//! takes an [`OwnedPort`], which only a list, a create or an adoption of this file makes, after the port that
//! Neutron showed was compared with our [`Ownership`]; so a port of another tenant that carries our tag, or one
//! that a filter let through, cannot be touched by mistake.
//!
//! Sources: Networking API v2.0, "Ports", "Port binding extended attributes", "Allowed address pairs", "Tag
//! extension", "Revisions"; neutron `conf/policies/port.py` for what which role may see and set.

use std::{collections::BTreeMap, net::IpAddr, ops::Deref, sync::Arc};

use http::Method;
use ipnet::IpNet;
use jiff::Timestamp;
use kuryr_types::{MacAddr, NetworkId, PortId, ProjectId, SecurityGroupId, SubnetId};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::{
    client::{Client, NeutronRequest},
    error::Error,
    exchange::Answer,
    neutron::{address_or_prefix, null_is_default},
    ownership::Ownership,
    query::{Query, segment},
};

/// A port as Neutron shows it, whoever owns it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Port {
    /// Its id.
    pub id: PortId,
    /// Its name; need not be unique.
    #[serde(default)]
    pub name: String,
    /// The network it is on.
    pub network_id: NetworkId,
    /// The project that it belongs to.
    pub project_id: ProjectId,
    /// Its hardware address.
    pub mac_address: MacAddr,
    /// Its addresses.
    #[serde(default, deserialize_with = "null_is_default")]
    pub fixed_ips: Vec<FixedIp>,
    /// Whether it is wired.
    pub status: PortStatus,
    /// Whether it may carry packets.
    #[serde(default)]
    pub admin_state_up: bool,
    /// What kind of thing uses it, such as `compute:kuryr`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub device_owner: String,
    /// Which thing uses it.
    #[serde(default, deserialize_with = "null_is_default")]
    pub device_id: String,
    /// The host it is bound to; empty if unbound, `None` where policy hides it (roles other than `service` and
    /// `admin`).
    #[serde(rename = "binding:host_id", default)]
    pub host: Option<String>,
    /// How the host wires it, such as `ovs`; hidden like `host`.
    #[serde(rename = "binding:vif_type", default)]
    pub vif_type: Option<String>,
    /// What the host needs to wire it; hidden like `host`.
    #[serde(rename = "binding:vif_details", default, deserialize_with = "null_is_default")]
    pub vif_details: BTreeMap<String, serde_json::Value>,
    /// Its security groups.
    #[serde(default, deserialize_with = "null_is_default")]
    pub security_groups: Vec<SecurityGroupId>,
    /// Further addresses that may be used behind it.
    #[serde(default, deserialize_with = "null_is_default")]
    pub allowed_address_pairs: Vec<AddressPair>,
    /// Its tags; hidden for ports of other projects on their own networks, so empty there.
    #[serde(default, deserialize_with = "null_is_default")]
    pub tags: Vec<String>,
    /// Counts its changes.
    pub revision_number: u64,
    /// When it was created, by the cloud's clock.
    #[serde(default)]
    pub created_at: Option<Timestamp>,
    /// Free text.
    #[serde(default, deserialize_with = "null_is_default")]
    pub description: String,
}

/// An address of a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FixedIp {
    /// The subnet it is from.
    pub subnet_id: SubnetId,
    /// The address.
    pub ip_address: IpAddr,
}

/// An address that may be used behind a port besides its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressPair {
    /// The address or prefix.
    #[serde(with = "address_or_prefix")]
    pub ip_address: IpNet,
    /// With this hardware address; by default the port's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<MacAddr>,
}

/// Whether a port is wired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum PortStatus {
    /// Wired on its host.
    Active,
    /// Not wired.
    Down,
    /// Being wired.
    Build,
    /// Could not be wired.
    Error,
    /// Neutron does not tell (`N/A`).
    NotApplicable,
    /// A status that the API does not list.
    Other(String),
}

impl From<String> for PortStatus {
    fn from(text: String) -> Self {
        match text.as_str() {
            "ACTIVE" => Self::Active,
            "DOWN" => Self::Down,
            "BUILD" => Self::Build,
            "ERROR" => Self::Error,
            "N/A" => Self::NotApplicable,
            _ => Self::Other(text),
        }
    }
}

impl From<PortStatus> for String {
    fn from(status: PortStatus) -> Self {
        match status {
            PortStatus::Active => "ACTIVE".to_owned(),
            PortStatus::Down => "DOWN".to_owned(),
            PortStatus::Build => "BUILD".to_owned(),
            PortStatus::Error => "ERROR".to_owned(),
            PortStatus::NotApplicable => "N/A".to_owned(),
            PortStatus::Other(text) => text,
        }
    }
}

/// A port that was compared with an [`Ownership`] and is ours.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnedPort {
    port: Port,
    owner: Arc<Ownership>,
}

impl OwnedPort {
    /// Compares a port that Neutron has just shown.
    fn prove(operation: &'static str, owner: &Arc<Ownership>, port: Port) -> Result<Self, Error> {
        match owner.difference(&port.project_id, &port.tags) {
            None => Ok(Self { port, owner: owner.clone() }),
            Some(reason) => {
                Err(Error::Foreign { operation, resource: "port", id: port.id.to_string(), reason })
            }
        }
    }

    /// The port alone, without the proof.
    #[must_use]
    pub fn into_port(self) -> Port {
        self.port
    }
}

impl Deref for OwnedPort {
    type Target = Port;

    fn deref(&self) -> &Port {
        &self.port
    }
}

/// Which of our ports to list: always by project and tags, so that no other tenant's are shown. A foreign port in
/// the answer would also do harm by being there: Neutron decides by the first element of a list which fields
/// policy hides in all of them (`policy_enforcement._exclude_attributes_by_policy`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortFilter {
    owner: Arc<Ownership>,
    tags: Vec<String>,
    device_owner: Option<String>,
    host: Option<String>,
    network_id: Option<NetworkId>,
    name: Option<String>,
    ids: Vec<PortId>,
}

impl PortFilter {
    /// All that is ours.
    #[must_use]
    pub fn new(owner: &Ownership) -> Self {
        Self {
            owner: Arc::new(owner.clone()),
            tags: owner.tags().to_vec(),
            device_owner: None,
            host: None,
            network_id: None,
            name: None,
            ids: Vec::new(),
        }
    }

    /// And carries this tag too.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// And has this device owner.
    #[must_use]
    pub fn device_owner(self, device_owner: impl Into<String>) -> Self {
        Self { device_owner: Some(device_owner.into()), ..self }
    }

    /// And is bound to this host.
    #[must_use]
    pub fn host(self, host: impl Into<String>) -> Self {
        Self { host: Some(host.into()), ..self }
    }

    /// And is on this network.
    #[must_use]
    pub fn network_id(self, network_id: NetworkId) -> Self {
        Self { network_id: Some(network_id), ..self }
    }

    /// And has this name.
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    /// And is one of these; an empty list means any.
    #[must_use]
    pub fn ids(mut self, ids: impl IntoIterator<Item = PortId>) -> Self {
        self.ids.extend(ids);
        self
    }

    fn query(&self) -> Query {
        Query::default()
            .with("project_id", self.owner.project_id().as_str())
            .with("tags", &self.tags.join(","))
            .with_some("device_owner", self.device_owner.as_deref())
            .with_some("binding:host_id", self.host.as_deref())
            .with_some("network_id", self.network_id.as_ref().map(NetworkId::as_str))
            .with_some("name", self.name.as_deref())
    }

    fn accepts(&self, port: &Port) -> bool {
        let same =
            |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
        self.tags.iter().all(|tag| port.tags.contains(tag))
            && same(&self.device_owner, &port.device_owner)
            && same(&self.name, &port.name)
            // Where policy hides the host, only Neutron can compare it.
            && port.host.as_ref().is_none_or(|host| same(&self.host, host))
            && self.network_id.as_ref().is_none_or(|network| *network == port.network_id)
            && (self.ids.is_empty() || self.ids.contains(&port.id))
    }
}

/// A port to be. Its project and the tags of its owner are added when it is created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PortCreate {
    /// The network it is on.
    pub network_id: NetworkId,
    /// Its name, by which it can be found again.
    pub name: String,
    /// Subnets, and addresses if certain ones are wanted; if empty, Neutron chooses both.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fixed_ips: Vec<FixedIpRequest>,
    /// Exactly these groups; always sent, because without the field Neutron takes the project's default group.
    pub security_groups: Vec<SecurityGroupId>,
    /// The host it is bound to, as Neutron's agents name it; needs role `service` or `admin`.
    #[serde(rename = "binding:host_id", skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// What kind of thing uses it, such as `compute:kuryr`.
    pub device_owner: String,
    /// Which thing uses it.
    pub device_id: String,
    /// Whether it may carry packets.
    pub admin_state_up: bool,
    /// Free text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Further addresses that may be used behind it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_address_pairs: Vec<AddressPair>,
    /// Tags besides the owner's.
    #[serde(skip)]
    pub tags: Vec<String>,
}

impl PortCreate {
    /// A port called `name` on a network, up, with nothing else said.
    #[must_use]
    pub fn on(network_id: NetworkId, name: impl Into<String>) -> Self {
        Self {
            network_id,
            name: name.into(),
            fixed_ips: Vec::new(),
            security_groups: Vec::new(),
            host: None,
            device_owner: String::new(),
            device_id: String::new(),
            admin_state_up: true,
            description: String::new(),
            allowed_address_pairs: Vec::new(),
            tags: Vec::new(),
        }
    }
}

/// An address that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FixedIpRequest {
    /// From this subnet.
    pub subnet_id: SubnetId,
    /// This one; else Neutron chooses. Must be left out where
    /// [`addresses_are_automatic`](crate::neutron::Subnet::addresses_are_automatic).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<IpAddr>,
}

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

#[derive(Serialize)]
struct NewPort<'a> {
    #[serde(flatten)]
    port: &'a PortCreate,
    project_id: &'a ProjectId,
    tags: Vec<&'a str>,
}

impl<'a> NewPort<'a> {
    fn new(owner: &'a Ownership, port: &'a PortCreate) -> Self {
        Self { port, project_id: owner.project_id(), tags: owner.and_tags_of(&port.tags) }
    }
}

impl Client {
    /// Creates ports, all or none, in our project and with our tags, and returns them in the order in which
    /// they were asked for. "Bulk create ports", `POST /v2.0/ports`.
    ///
    /// A Neutron without the ML2 extension driver `tag_ports_during_bulk_creation` accepts the tags but does not
    /// store them; then each port is tagged by a call of its own.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`], [`Error::NoFreeAddress`], [`Error::AddressInUse`], what else the cloud answers;
    /// [`Error::Untagged`] if the ports exist now, but not all with their tags.
    pub async fn create_ports(
        &self,
        owner: &Ownership,
        ports: &[PortCreate],
    ) -> Result<Vec<OwnedPort>, Error> {
        if ports.is_empty() {
            return Ok(Vec::new());
        }
        let operation = "create_ports";
        let new: Vec<_> = ports.iter().map(|port| NewPort::new(owner, port)).collect();
        let body = BTreeMap::from([("ports", &new)]);
        let request = NeutronRequest::new(operation, Method::POST, "ports").body(&body);
        let answer = self.neutron(request).await?;
        let created = created(&answer, owner, ports.len())?;

        let untagged = |port: &Port, new: &NewPort<'_>| {
            !new.tags.iter().all(|tag| port.tags.iter().any(|found| found == tag))
        };
        let without: Vec<(PortId, Vec<&str>)> = created
            .iter()
            .zip(new)
            .filter(|(port, new)| untagged(port, new))
            .map(|(port, new)| (port.id.clone(), new.tags))
            .collect();
        if !without.is_empty() {
            return self.tag_created(owner, created, without).await;
        }
        let owner = Arc::new(owner.clone());
        created.into_iter().map(|port| OwnedPort::prove(operation, &owner, port)).collect()
    }

    /// Puts the tags that a bulk create did not store, and reads the ports anew, as that has changed them.
    async fn tag_created(
        &self,
        owner: &Ownership,
        created: Vec<Port>,
        without: Vec<(PortId, Vec<&str>)>,
    ) -> Result<Vec<OwnedPort>, Error> {
        warn!("Neutron did not store tags with a bulk create; each port is tagged by a call of its own");
        let ids: Vec<PortId> = without.iter().map(|(id, _)| id.clone()).collect();
        for (done, (id, tags)) in without.iter().enumerate() {
            self.put_tags("tag_port", "ports", id.as_str(), tags)
                .await
                .map_err(|error| Error::Untagged { ports: ids[done..].to_vec(), source: Box::new(error) })?;
        }
        let filter = PortFilter::new(owner).ids(created.iter().map(|port| port.id.clone()));
        let mut found: BTreeMap<PortId, OwnedPort> =
            self.owned_ports(&filter).await?.into_iter().map(|port| (port.id.clone(), port)).collect();
        // One that is gone already was deleted by somebody else.
        Ok(created.iter().filter_map(|port| found.remove(&port.id)).collect())
    }

    /// Lists our ports. "List ports", `GET /v2.0/ports`.
    ///
    /// # Errors
    /// What the cloud answers; [`Error::ListChanged`] if it must be read again.
    pub async fn owned_ports(&self, filter: &PortFilter) -> Result<Vec<OwnedPort>, Error> {
        let operation = "list_ports";
        let ids: Vec<&str> = filter.ids.iter().map(PortId::as_str).collect();
        let found: Vec<Port> = self.list_by_ids(operation, "ports", &ids, filter.query()).await?;
        let mut owned = Vec::with_capacity(found.len());
        for port in found {
            match OwnedPort::prove(operation, &filter.owner, port) {
                Ok(port) if filter.accepts(&port) => owned.push(port),
                Ok(_) => {}
                Err(error) => warn!(%error, "Neutron listed a port that was not asked for"),
            }
        }
        Ok(owned)
    }

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
        let request = NeutronRequest::new("get_port", Method::GET, path(id));
        self.neutron(request).await?.member("port")
    }

    /// Lists ports of our project by name, with or without tags: what a create left that could not tag them.
    /// "List ports", `GET /v2.0/ports`.
    ///
    /// # Errors
    /// What the cloud answers.
    pub async fn ports_named(&self, project_id: &ProjectId, name: &str) -> Result<Vec<Port>, Error> {
        let query = Query::default().with("project_id", project_id.as_str()).with("name", name);
        let mut found: Vec<Port> = self.list("list_ports", "ports", query).await?;
        found.retain(|port| port.project_id == *project_id && port.name == name);
        Ok(found)
    }

    /// Makes a port of our project ours by adding our tags. "Replace all tags", `PUT /v2.0/ports/{id}/tags`.
    ///
    /// # Errors
    /// [`Error::Foreign`] if it belongs to another project; what else the cloud answers.
    pub async fn adopt_port(&self, owner: &Ownership, port: &Port) -> Result<OwnedPort, Error> {
        let operation = "tag_port";
        if let Some(reason) = owner.difference(&port.project_id, owner.tags()) {
            return Err(Error::Foreign { operation, resource: "port", id: port.id.to_string(), reason });
        }
        let tags = owner.and_tags_of(&port.tags);
        self.put_tags(operation, "ports", port.id.as_str(), &tags).await?;
        self.owned_port(owner, &port.id).await
    }

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
        let request = NeutronRequest::new(operation, Method::PUT, path(&port.id)).body(&body);
        let updated = self.neutron(request.if_revision(revision)).await?.member("port")?;
        OwnedPort::prove(operation, &port.owner, updated)
    }

    /// Deletes a port of ours; one that does not exist any more counts as deleted. "Delete port",
    /// `DELETE /v2.0/ports/{id}`.
    ///
    /// # Errors
    /// [`Error::Forbidden`] for a device owner that begins with `compute:`, unless we have role `service` or
    /// `admin` (default policy of Neutron 29); what else the cloud answers.
    pub async fn delete_port(&self, port: &OwnedPort) -> Result<(), Error> {
        self.gone(NeutronRequest::new("delete_port", Method::DELETE, path(&port.id))).await
    }
}

fn path(id: &PortId) -> String {
    format!("ports/{}", segment(id.as_str()))
}

/// The ports of a bulk create, as many as were asked for and in our project.
fn created(answer: &Answer, owner: &Ownership, expected: usize) -> Result<Vec<Port>, Error> {
    let ports: Vec<Port> = answer.member("ports")?;
    if ports.len() != expected {
        return Err(answer.unexpected(format!("{} ports were created instead of {expected}", ports.len())));
    }
    match ports.iter().find(|port| port.project_id != *owner.project_id()) {
        Some(port) => {
            let problem = format!("port {} was created in project {}", port.id, port.project_id);
            Err(answer.unexpected(problem))
        }
        None => Ok(ports),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use serde_json::{Value, json};

    use super::*;
    use crate::recorded::{Asked, Recorded, Reply, cloud};

    fn owner() -> Ownership {
        Ownership::new("ours".into(), "kuryr:cluster=a").unwrap()
    }

    /// A port as Neutron shows it to a user with role `service`.
    fn port(id: &str, project: &str, tags: &[&str]) -> Value {
        json!({
            "id": id, "name": "kuryr/node-1", "network_id": "n", "tenant_id": project, "project_id": project,
            "mac_address": "fa:16:3e:00:00:01", "admin_state_up": true, "status": "DOWN",
            "device_id": "", "device_owner": "compute:kuryr", "tags": tags, "description": "",
            "fixed_ips": [{"subnet_id": "s4", "ip_address": "10.1.0.7"}, {"subnet_id": "s6", "ip_address": "fd00::7"}],
            "security_groups": ["g"], "allowed_address_pairs": [{"ip_address": "10.9.0.0/16", "mac_address": "fa:16:3e:00:00:01"}],
            "binding:host_id": "node-1", "binding:vif_type": "ovs", "binding:vnic_type": "normal",
            "binding:profile": {}, "binding:vif_details": {"port_filter": true, "bridge_name": "br-int"},
            "created_at": "2026-11-20T10:00:00Z", "updated_at": "2026-11-20T10:00:01Z", "revision_number": 4,
            "port_security_enabled": true, "qos_policy_id": null, "resource_request": null
        })
    }

    const OURS: &[&str] = &["other", "kuryr:cluster=a"];

    fn neutron(
        answering: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static,
    ) -> (Client, Arc<Recorded>) {
        cloud(move |asked| if asked.is_token() { None } else { answering(asked) })
    }

    async fn one_of_ours(client: &Client) -> OwnedPort {
        client.owned_port(&owner(), &"p1".into()).await.unwrap()
    }

    #[test]
    fn what_neutron_shows_is_read_and_written_alike() {
        let shown = port("p1", "ours", OURS);
        let read: Port = serde_json::from_value(shown).unwrap();
        assert_eq!(read.status, PortStatus::Down);
        assert_eq!(read.host.as_deref(), Some("node-1"));
        assert_eq!(read.fixed_ips[1].ip_address, "fd00::7".parse::<IpAddr>().unwrap());
        assert_eq!(read.vif_details["bridge_name"], "br-int");
        assert_eq!(read.created_at.unwrap().to_string(), "2026-11-20T10:00:00Z");
        let again: Port = serde_json::from_value(serde_json::to_value(&read).unwrap()).unwrap();
        assert_eq!(again, read);
    }

    #[test]
    fn a_member_without_role_service_sees_no_binding() {
        let mut shown = port("p1", "ours", OURS);
        for hidden in ["binding:host_id", "binding:vif_type", "binding:vif_details"] {
            shown.as_object_mut().unwrap().remove(hidden);
        }
        let read: Port = serde_json::from_value(shown).unwrap();
        assert_eq!((read.host, read.vif_type, read.vif_details.len()), (None, None, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn ports_are_created_in_bulk_with_project_and_tags() {
        let (client, recorded) = neutron(|_| {
            let ports =
                [port("p1", "ours", &["kuryr:cluster=a", "x"]), port("p2", "ours", &["kuryr:cluster=a"])];
            Some(Reply::Json(201, json!({"ports": ports})))
        });
        let first = PortCreate {
            fixed_ips: vec![
                FixedIpRequest { subnet_id: "s4".into(), ip_address: Some("10.1.0.7".parse().unwrap()) },
                FixedIpRequest { subnet_id: "s6".into(), ip_address: None },
            ],
            security_groups: vec!["g".into()],
            host: Some("node-1".to_owned()),
            device_owner: "compute:kuryr".to_owned(),
            device_id: "d".to_owned(),
            description: "pool".to_owned(),
            allowed_address_pairs: vec![
                AddressPair { ip_address: "10.9.0.0/16".parse().unwrap(), mac_address: None },
                AddressPair { ip_address: "10.9.0.1/32".parse().unwrap(), mac_address: None },
            ],
            tags: vec!["x".to_owned(), "kuryr:cluster=a".to_owned()],
            ..PortCreate::on("n".into(), "kuryr/node-1")
        };
        let second = PortCreate { admin_state_up: false, ..PortCreate::on("n".into(), "bare") };
        let created = client.create_ports(&owner(), &[first, second]).await.unwrap();
        assert_eq!(created.iter().map(|port| port.id.as_str()).collect::<Vec<_>>(), ["p1", "p2"]);
        let asked = &recorded.asked()[0];
        assert_eq!(asked.line(), "POST /v2.0/ports");
        assert_eq!(asked.headers["content-type"], "application/json");
        assert_eq!(
            asked.body,
            json!({"ports": [
                {"network_id": "n", "name": "kuryr/node-1", "project_id": "ours", "admin_state_up": true,
                 "fixed_ips": [{"subnet_id": "s4", "ip_address": "10.1.0.7"}, {"subnet_id": "s6"}],
                 "security_groups": ["g"], "binding:host_id": "node-1", "device_owner": "compute:kuryr",
                 "device_id": "d", "description": "pool", "tags": ["kuryr:cluster=a", "x"],
                 "allowed_address_pairs": [{"ip_address": "10.9.0.0/16"}, {"ip_address": "10.9.0.1"}]},
                {"network_id": "n", "name": "bare", "project_id": "ours", "admin_state_up": false,
                 "security_groups": [], "device_owner": "", "device_id": "", "tags": ["kuryr:cluster=a"]},
            ]})
        );
        assert!(client.create_ports(&owner(), &[]).await.unwrap().is_empty());
        assert_eq!(recorded.asked().len(), 1);
    }

    /// A Neutron whose bulk create accepts tags and forgets them.
    fn forgetful(put: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> (Client, Arc<Recorded>) {
        neutron(move |asked| match asked.method {
            Method::POST => {
                let ports = [port("p2", "ours", &[]), port("p1", "ours", OURS), port("p3", "ours", &[])];
                Some(Reply::Json(201, json!({"ports": ports})))
            }
            Method::PUT => Some(put(asked)),
            _ => {
                let ports = ["p1", "p2", "p3"].map(|id| port(id, "ours", OURS));
                Some(Reply::Json(200, json!({"ports": ports})))
            }
        })
    }

    #[tokio::test(start_paused = true)]
    async fn tags_that_a_bulk_create_did_not_store_are_put() {
        let wanted = ["p2", "p1", "p3"].map(|name| PortCreate::on("n".into(), name));
        let (client, recorded) = forgetful(|asked| Reply::Json(200, asked.body.clone()));
        let created = client.create_ports(&owner(), &wanted).await.unwrap();
        assert_eq!(created.iter().map(|port| port.id.as_str()).collect::<Vec<_>>(), ["p2", "p1", "p3"]);
        let lines = recorded.lines();
        assert_eq!(lines[1..3], ["PUT /v2.0/ports/p2/tags", "PUT /v2.0/ports/p3/tags"]);
        assert_eq!(recorded.asked()[1].body, json!({"tags": ["kuryr:cluster=a"]}));
        assert!(lines[3].ends_with("&id=p2&id=p1&id=p3&limit=500"), "{lines:?}");

        let (client, _) = forgetful(|asked| match asked.path.contains("p3") {
            true => Reply::Json(503, json!({})),
            false => Reply::Json(200, json!({})),
        });
        let error = client.create_ports(&owner(), &wanted).await.unwrap_err();
        assert!(error.outcome_unknown());
        let Error::Untagged { ports, .. } = error else { panic!("{error}") };
        assert_eq!(ports, ["p3".into()]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_asks_for_project_and_tags_and_believes_neither() {
        let (client, recorded) = neutron(|_| {
            let mut elsewhere = port("p5", "ours", OURS);
            elsewhere["binding:host_id"] = "node-2".into();
            let mut hidden = port("p6", "ours", OURS);
            hidden.as_object_mut().unwrap().remove("binding:host_id");
            let ports = [
                port("p1", "ours", OURS),
                port("p2", "hostile", OURS),
                port("p3", "ours", &["other"]),
                port("p4", "ours", &["kuryr:cluster=ab"]),
                elsewhere,
                hidden,
            ];
            Some(Reply::Json(200, json!({"ports": ports})))
        });
        let filter = PortFilter::new(&owner())
            .tag("other")
            .device_owner("compute:kuryr")
            .host("node-1")
            .network_id("n".into())
            .name("kuryr/node-1");
        let found = client.owned_ports(&filter).await.unwrap();
        assert_eq!(found.iter().map(|port| port.id.as_str()).collect::<Vec<_>>(), ["p1", "p6"]);
        assert_eq!(
            recorded.lines(),
            [
                "GET /v2.0/ports?project_id=ours&tags=kuryr%3Acluster%3Da%2Cother&device_owner=compute%3Akuryr&\
              binding%3Ahost_id=node-1&network_id=n&name=kuryr%2Fnode-1&limit=500"
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_foreign_port_does_not_become_ours() {
        for (project, tags, reason) in [
            ("hostile", OURS, "it belongs to project hostile"),
            ("ours", &["other"][..], "it does not carry the tag kuryr:cluster=a"),
        ] {
            let shown = port("p1", project, tags);
            let (client, recorded) = neutron(move |_| Some(Reply::Json(200, json!({"port": shown.clone()}))));
            let error = client.owned_port(&owner(), &"p1".into()).await.unwrap_err();
            assert_eq!(error.to_string(), format!("get_port: port p1 is not ours: {reason}"));
            let port = client.port(&"p1".into()).await.unwrap();
            let adopted = client.adopt_port(&owner(), &port).await;
            // Only a project keeps it from being adopted; the reply of this cloud then still lacks the tag.
            assert!(matches!(adopted, Err(Error::Foreign { .. })));
            let puts = recorded.lines().iter().filter(|line| line.starts_with("PUT")).count();
            assert_eq!(puts, usize::from(project == "ours"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn adoption_adds_our_tags_to_those_that_are_there() {
        let tagged = Arc::new(AtomicBool::new(false));
        let (client, recorded) = neutron(move |asked| match asked.method {
            Method::PUT => {
                tagged.store(true, Ordering::SeqCst);
                Some(Reply::Json(200, asked.body.clone()))
            }
            _ if asked.path.contains("?") => {
                let ports = [port("p1", "ours", &["other"]), port("p2", "hostile", &["other"])];
                Some(Reply::Json(200, json!({"ports": ports})))
            }
            _ => {
                let tags = if tagged.load(Ordering::SeqCst) { OURS } else { &["other"] };
                Some(Reply::Json(200, json!({"port": port("p1", "ours", tags)})))
            }
        });
        let named = client.ports_named(&"ours".into(), "kuryr/node-1").await.unwrap();
        assert_eq!(named.len(), 1);
        let adopted = client.adopt_port(&owner(), &named[0]).await.unwrap();
        assert_eq!(adopted.id.as_str(), "p1");
        assert_eq!(recorded.asked()[1].body, json!({"tags": ["kuryr:cluster=a", "other"]}));
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

    #[test]
    fn every_status_survives() {
        for text in ["ACTIVE", "DOWN", "BUILD", "ERROR", "N/A", "PENDING"] {
            assert_eq!(String::from(PortStatus::from(text.to_owned())), text);
        }
    }
}
