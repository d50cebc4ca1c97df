//! Neutron's resources, one file each: the fields we use, the calls we make.
//!
//! Fields that depend on an extension or on permission are optional or have a default, and fields that we do
//! not know are ignored, so that older and newer Neutron can be read alike. Lists are compared with what was
//! asked for again on our side, because Neutron ignores filters that it does not know and those with an empty
//! value.
//!
//! Source: Networking API v2.0.

pub mod extension;
pub mod floating_ip;
pub mod network;
pub mod port;
pub mod quota;
pub mod security_group;
pub mod subnet;
pub mod trunk;

pub use extension::Extensions;
pub use floating_ip::{FloatingIp, FloatingIpCreate, FloatingIpFilter, OwnedFloatingIp};
pub use network::{Network, NetworkFilter};
pub use port::{
    AddressPair, FixedIp, FixedIpRequest, OwnedPort, Port, PortCreate, PortFilter, PortStatus, PortUpdate,
    Precondition, TrunkDetails,
};
pub use quota::Quota;
pub use security_group::{
    Direction, EtherType, OwnedSecurityGroup, RuleSpec, SecurityGroup, SecurityGroupRule,
};
pub use subnet::{AllocationPool, HostRoute, Ipv6Mode, Subnet, SubnetFilter};
pub use trunk::{Subport, Trunk, TrunkStatus};

use std::{collections::BTreeMap, net::IpAddr};

use http::Method;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serializer};

use crate::{
    client::{Client, Request},
    error::Error,
    query::segment,
};

impl Client {
    /// Sends a DELETE; what does not exist any more counts as deleted.
    pub(crate) async fn gone(&self, request: Request) -> Result<(), Error> {
        match self.call(request).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Replaces all tags of a resource. "Replace all tags", `PUT /v2.0/{resource}/{id}/tags`.
    async fn put_tags(
        &self,
        operation: &'static str,
        resource: &str,
        id: &str,
        tags: &[&str],
    ) -> Result<(), Error> {
        let path = format!("{resource}/{}/tags", segment(id));
        let body = BTreeMap::from([("tags", tags)]);
        match self.call(Request::new(operation, Method::PUT, path).body(&body)).await {
            Err(failed) => Err(self.unless_gone(resource, id, failed).await),
            Ok(_) => Ok(()),
        }
    }

    /// Tells that a resource is gone, if that is why it could not be tagged: Neutron 29 answers then with 500, and its log
    /// says `KeyError: None`. So a look has to tell.
    async fn unless_gone(&self, resource: &str, id: &str, failed: Error) -> Error {
        if !matches!(failed, Error::Server { .. }) {
            return failed;
        }
        let path = format!("{resource}/{}", segment(id));
        match self.call(Request::new("get_tagged", Method::GET, path)).await {
            Err(missing) if missing.is_not_found() => missing,
            _ => failed,
        }
    }
}

/// Reads `null` like a field that is missing.
pub(crate) fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads and writes a prefix the way Neutron does: a single address stands without its length.
mod address_or_prefix {
    use super::{Deserialize, Deserializer, IpAddr, IpNet, Serializer};

    pub(super) fn serialize<S: Serializer>(prefix: &IpNet, serializer: S) -> Result<S::Ok, S::Error> {
        if prefix.prefix_len() == prefix.max_prefix_len() {
            serializer.collect_str(&prefix.addr())
        } else {
            serializer.collect_str(prefix)
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNet, D::Error> {
        parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }

    fn parse(text: &str) -> Result<IpNet, String> {
        let prefix = text.parse().ok();
        prefix
            .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
            .ok_or_else(|| format!("`{text}` is neither an address nor a prefix"))
    }

    /// The same for a field that may be `null`.
    pub(super) mod optional {
        use super::{Deserialize, Deserializer, IpNet, Serializer, parse};

        pub(in super::super) fn serialize<S: Serializer>(
            prefix: &Option<IpNet>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match prefix {
                Some(prefix) => super::serialize(prefix, serializer),
                None => serializer.serialize_none(),
            }
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<IpNet>, D::Error> {
            let text = Option::<String>::deserialize(deserializer)?;
            text.map(|text| parse(&text)).transpose().map_err(serde::de::Error::custom)
        }
    }
}
