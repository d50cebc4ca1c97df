//! Subnets: the addresses of a network.
//!
//! Source: Networking API v2.0, "Subnets"; the two IPv6 attributes: Neutron administration guide, "IPv6".

use std::net::IpAddr;

use http::Method;
use ipnet::IpNet;
use kuryr_types::{NetworkId, ProjectId, SubnetId};
use serde::{Deserialize, Serialize};

use crate::{
    client::{Client, Request},
    error::Error,
    neutron::null_is_default,
    query::{Query, segment},
};

/// A subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// Its id.
    pub id: SubnetId,
    /// Its name; need not be unique.
    #[serde(default)]
    pub name: String,
    /// The network whose addresses these are.
    pub network_id: NetworkId,
    /// The project that it belongs to.
    pub project_id: ProjectId,
    /// Its prefix.
    pub cidr: IpNet,
    /// Where the default route leads, if it has one.
    #[serde(default)]
    pub gateway_ip: Option<IpAddr>,
    /// 4 or 6.
    pub ip_version: u8,
    /// Further routes for whoever is on it.
    #[serde(default, deserialize_with = "null_is_default")]
    pub host_routes: Vec<HostRoute>,
    /// Name servers for whoever is on it.
    #[serde(default, deserialize_with = "null_is_default")]
    pub dns_nameservers: Vec<IpAddr>,
    /// Ranges from which Neutron takes addresses when it chooses.
    #[serde(default, deserialize_with = "null_is_default")]
    pub allocation_pools: Vec<AllocationPool>,
    /// How hosts get their IPv6 address.
    #[serde(default)]
    pub ipv6_address_mode: Option<Ipv6Mode>,
    /// What routers announce about it.
    #[serde(default)]
    pub ipv6_ra_mode: Option<Ipv6Mode>,
    /// Whether DHCP serves it.
    #[serde(default)]
    pub enable_dhcp: bool,
    /// Its tags.
    #[serde(default, deserialize_with = "null_is_default")]
    pub tags: Vec<String>,
}

impl Subnet {
    /// Says whether Neutron computes addresses from the MAC address and refuses a request for a certain one
    /// (`AllocationOnAutoAddressSubnet`).
    #[must_use]
    pub fn addresses_are_automatic(&self) -> bool {
        matches!(self.ipv6_address_mode, Some(Ipv6Mode::Slaac | Ipv6Mode::Dhcpv6Stateless))
    }
}

/// A route for hosts of a subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRoute {
    /// Where to.
    pub destination: IpNet,
    /// Through whom.
    pub nexthop: IpAddr,
}

/// A range of addresses, both ends included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocationPool {
    /// First address.
    pub start: IpAddr,
    /// Last address.
    pub end: IpAddr,
}

/// How IPv6 addresses and options are given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ipv6Mode {
    /// Addresses from router advertisements.
    Slaac,
    /// Addresses from DHCPv6.
    Dhcpv6Stateful,
    /// Addresses from router advertisements, the rest from DHCPv6.
    Dhcpv6Stateless,
}

/// Which subnets to list; all conditions must hold, and those not given do not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubnetFilter {
    /// One of these; none given means any.
    pub ids: Vec<SubnetId>,
    /// This name.
    pub name: Option<String>,
    /// On this network.
    pub network_id: Option<NetworkId>,
    /// Belongs to this project.
    pub project_id: Option<ProjectId>,
}

impl SubnetFilter {
    fn query(&self) -> Query {
        Query::default()
            .with_some("name", self.name.as_deref())
            .with_some("network_id", self.network_id.as_ref().map(NetworkId::as_str))
            .with_some("project_id", self.project_id.as_ref().map(ProjectId::as_str))
    }

    fn accepts(&self, subnet: &Subnet) -> bool {
        (self.ids.is_empty() || self.ids.contains(&subnet.id))
            && self.name.as_ref().is_none_or(|name| *name == subnet.name)
            && self.network_id.as_ref().is_none_or(|network| *network == subnet.network_id)
            && self.project_id.as_ref().is_none_or(|project| *project == subnet.project_id)
    }
}

impl Client {
    /// Reads one subnet. "Show subnet details", `GET /v2.0/subnets/{id}`.
    ///
    /// # Errors
    /// [`Error::NotFound`], or what else the cloud answers.
    pub async fn subnet(&self, id: &SubnetId) -> Result<Subnet, Error> {
        let path = format!("subnets/{}", segment(id.as_str()));
        self.call(Request::new("get_subnet", Method::GET, path)).await?.member("subnet")
    }

    /// Lists subnets that we may see. "List subnets", `GET /v2.0/subnets`.
    ///
    /// # Errors
    /// What the cloud answers.
    pub async fn subnets(&self, filter: &SubnetFilter) -> Result<Vec<Subnet>, Error> {
        let ids: Vec<&str> = filter.ids.iter().map(SubnetId::as_str).collect();
        let mut found: Vec<Subnet> =
            self.list_by_ids("list_subnets", "subnets", &ids, filter.query()).await?;
        found.retain(|subnet| filter.accepts(subnet));
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_neutron_answers_is_read() {
        let subnet: Subnet = serde_json::from_str(
            r#"{"id": "s6", "name": "pods6", "tenant_id": "p", "project_id": "p", "network_id": "n",
                "ip_version": 6, "subnetpool_id": null, "enable_dhcp": true, "cidr": "fd00:10::/64",
                "ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac", "gateway_ip": "fd00:10::1",
                "allocation_pools": [{"start": "fd00:10::2", "end": "fd00:10::ffff:ffff:ffff:ffff"}],
                "host_routes": [{"destination": "fd00:20::/64", "nexthop": "fd00:10::9"}],
                "dns_nameservers": [], "description": "", "service_types": [], "tags": null,
                "created_at": "2026-11-20T10:00:00Z", "revision_number": 0}"#,
        )
        .unwrap();
        assert_eq!(subnet.cidr, "fd00:10::/64".parse().unwrap());
        assert_eq!(subnet.host_routes[0].nexthop, "fd00:10::9".parse::<IpAddr>().unwrap());
        assert!(subnet.addresses_are_automatic());
    }

    #[test]
    fn modes_say_whether_neutron_computes_addresses() {
        for (mode, expect) in [
            ("null", false),
            (r#""slaac""#, true),
            (r#""dhcpv6-stateless""#, true),
            (r#""dhcpv6-stateful""#, false),
        ] {
            let text = format!(
                r#"{{"id":"s","network_id":"n","project_id":"p","cidr":"fd00::/64","ip_version":6,
                     "ipv6_address_mode":{mode}}}"#
            );
            let subnet: Subnet = serde_json::from_str(&text).unwrap();
            assert_eq!(subnet.addresses_are_automatic(), expect, "{mode}");
        }
    }
}
