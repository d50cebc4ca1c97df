//! What makes ports interchangeable: their subnets and security groups.
//!
//! The id of a class is a hash of what makes it, so that a restart, and another leader, compute the same. The
//! class of a port is computed from what Neutron says of it, never remembered: somebody may have changed its
//! groups.

use std::collections::BTreeSet;
use std::fmt::Write;

use kuryr_api::kuryrnode::ClassEntry;
use kuryr_types::{ClassId, SecurityGroupId, SubnetId};
use sha2::{Digest, Sha256};

use crate::ownership::OurPort;

/// Bytes of the hash that are kept. A cluster has tens of classes, so eight are plenty.
const HASH_BYTES: usize = 8;

/// The class of these subnets and groups, whatever their order.
#[must_use]
pub fn class(
    subnets: impl IntoIterator<Item = SubnetId>,
    security_groups: impl IntoIterator<Item = SecurityGroupId>,
) -> (ClassId, ClassEntry) {
    let subnets: BTreeSet<_> = subnets.into_iter().collect();
    let security_groups: BTreeSet<_> = security_groups.into_iter().collect();
    let entry = ClassEntry {
        subnets: subnets.into_iter().collect(),
        security_groups: security_groups.into_iter().collect(),
    };
    (id(&entry), entry)
}

/// The class of a port as it is now.
#[must_use]
pub fn class_of(port: &OurPort) -> (ClassId, ClassEntry) {
    let subnets = port.addresses.iter().map(|(subnet, _)| subnet.clone());
    class(subnets, port.security_groups.iter().cloned())
}

fn id(entry: &ClassEntry) -> ClassId {
    let mut hash = Sha256::new();
    // Every part ends with a sign that no id contains, so no two lists give the same bytes.
    for subnet in &entry.subnets {
        hash.update(format!("subnet {subnet}\n"));
    }
    for group in &entry.security_groups {
        hash.update(format!("group {group}\n"));
    }
    let mut text = String::from("c-");
    for byte in &hash.finalize()[..HASH_BYTES] {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(subnets: &[&str], groups: &[&str]) -> ClassId {
        let subnets = subnets.iter().map(|id| SubnetId::from(*id));
        class(subnets, groups.iter().map(|id| SecurityGroupId::from(*id))).0
    }

    #[test]
    fn the_same_set_is_the_same_class() {
        assert_eq!(id_of(&["a", "b"], &["g", "h"]), id_of(&["b", "a", "b"], &["h", "g"]));
        // A stored record must mean the same after an upgrade.
        assert_eq!(id_of(&["a"], &["g"]).as_str(), "c-e65df95e1960441a");
        for other in
            [id_of(&["a"], &["g", "h"]), id_of(&["a", "g"], &[]), id_of(&[], &["a", "g"]), id_of(&[], &[])]
        {
            assert_ne!(other, id_of(&["a"], &["g"]));
        }
    }
}
