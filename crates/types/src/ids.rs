//! Typed identifiers.
//!
//! Neutron identifies resources by UUID and projects by 32 hexadecimal digits (Networking API v2.0, "id",
//! "`project_id`"); all are kept as the strings the API gave, never parsed, because other back ends may use
//! other forms.

use std::{borrow::Borrow, fmt};

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[cfg_attr(feature = "schema", schemars(inline))]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The identifier as the API spells it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<String> for $name {
            fn from(value: String) -> Self {
                Self(value)
            }
        }

        impl From<&str> for $name {
            fn from(value: &str) -> Self {
                Self(value.to_owned())
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// A Neutron port.
    PortId
);
id!(
    /// A Neutron network.
    NetworkId
);
id!(
    /// A Neutron subnet.
    SubnetId
);
id!(
    /// A Neutron security group.
    SecurityGroupId
);
id!(
    /// A Neutron trunk.
    TrunkId
);
id!(
    /// A floating IP of Neutron.
    FloatingIpId
);
id!(
    /// A load balancer of Octavia.
    LoadBalancerId
);
id!(
    /// A listener of a load balancer.
    ListenerId
);
id!(
    /// A pool of a load balancer; not a pool of ports.
    LbPoolId
);
id!(
    /// A member of a load balancer's pool.
    MemberId
);
id!(
    /// A health monitor of a load balancer's pool.
    MonitorId
);
id!(
    /// A Keystone project.
    ProjectId
);
id!(
    /// What makes ports interchangeable: a hash of subnets, security groups, quality of service and
    /// interface kind, so that a restart computes the same value again.
    ClassId
);
