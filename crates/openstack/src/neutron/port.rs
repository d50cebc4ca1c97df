//! Ports: the network interfaces of pods.
//!
//! Ports are created in bulk, all or none, in our project, with our mark as description and with our tags. Whatever
//! changes or deletes one takes an [`OwnedPort`], which only a list, a create or an adoption here makes, after the
//! port that Neutron showed was compared with our [`Ownership`](crate::ownership::Ownership); so a port of another
//! tenant that carries our tag, or one that a filter let through, cannot be touched by mistake.
//!
//! Sources: Networking API v2.0, "Ports", "Port binding extended attributes", "Allowed address pairs", "Tag
//! extension", "Revisions"; neutron `conf/policies/port.py` for what which role may see and set.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use jiff::Timestamp;
use kuryr_types::{MacAddr, NetworkId, PortId, ProjectId, SecurityGroupId, SubnetId, TrunkId};
use serde::{Deserialize, Serialize};

use crate::{
    neutron::{address_or_prefix, null_is_default},
    query::segment,
};

// The proof that a port is ours.
mod owned;
// Lists.
mod list;
// Making ports.
mod create;
// Ports that were made and not tagged.
mod adopt;
// Changing and deleting them.
mod change;
// Address pairs of ports of servers.
mod pairs;

#[cfg(test)]
mod fixtures;

pub use change::{PortUpdate, Precondition};
pub use create::{FixedIpRequest, PortCreate};
pub use list::PortFilter;
pub use owned::OwnedPort;

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
    #[serde(default = "yes")]
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
    /// The trunk that it is the parent of, in whatever project (extension `trunk-details`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trunk_details: Option<TrunkDetails>,
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

fn yes() -> bool {
    true
}

/// What a parent port tells of its trunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrunkDetails {
    /// The trunk.
    pub trunk_id: TrunkId,
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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

/// Where a port is.
fn path(id: &PortId) -> String {
    format!("ports/{}", segment(id.as_str()))
}

#[cfg(test)]
mod tests {
    use super::fixtures::{OURS, port};
    use super::*;

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
    fn a_parent_port_names_its_trunk() {
        let mut shown = port("p1", "ours", OURS);
        shown["trunk_details"] = serde_json::json!({"trunk_id": "t", "sub_ports": []});
        let read: Port = serde_json::from_value(shown).unwrap();
        assert_eq!(read.trunk_details.map(|details| details.trunk_id), Some("t".into()));
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

    #[test]
    fn every_status_survives() {
        for text in ["ACTIVE", "DOWN", "BUILD", "ERROR", "N/A", "PENDING"] {
            assert_eq!(String::from(PortStatus::from(text.to_owned())), text);
        }
    }
}
