//! What a node is in the cloud: whether its address belongs to the parent port of a trunk, and what is on that.
//!
//! A node is found by what it is known by anyway, its address and the MAC of the interface that carries it; there
//! is no id to look up or to configure. Both have to agree: the same address may occur in several networks, and
//! only the port's own MAC can send from it.
//!
//! A trunk is not ours. Others may put ports on it and take ports off it, ours too; every VLAN id on it is taken,
//! whoever has it.
//!
//! Sources: Networking API v2.0, "Trunk networking"; neutron `services/trunk/plugin.py` for statuses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kuryr_api::kuryrnode::Problem;
use kuryr_types::{MacAddr, PortId, ProjectId, TrunkId};

use super::inputs::Millis;

/// What is known of trunks, for one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trunks {
    /// What the node is.
    pub node: Sight,
    /// Which of the node's ports, made for it or named by its record, is on which trunk.
    pub attached: BTreeMap<PortId, Attachment>,
    /// Trunks whose last change failed, and when the next one is tried.
    pub held_up: BTreeMap<TrunkId, HeldUp>,
}

/// Where a port is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The trunk.
    pub trunk: TrunkId,
    /// Its VLAN id there.
    pub vlan: u16,
}

/// Why a trunk is left alone for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldUp {
    /// No change before.
    pub until: Millis,
    /// What to tell, if it is worth telling: that another user of the trunk was faster is not, once.
    pub problem: Option<Problem>,
}

/// What a node is in the cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// The cloud has no trunks.
    NoTrunks,
    /// The agent has not told the node's MAC.
    NoMac,
    /// No port that can be seen has an address of the node.
    NoPort,
    /// Only ports of other projects have.
    OtherProject(PortId, ProjectId),
    /// Only a port with another MAC has.
    OtherMac(PortId, MacAddr),
    /// This port is the node's, and no trunk's parent.
    NoTrunk(PortId),
    /// This port is the node's, and parent of a trunk that is not of our project.
    OtherTrunk(PortId, TrunkId),
    /// This is the trunk.
    Trunk(Trunk),
}

/// The trunk of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trunk {
    /// Neutron's id.
    pub id: TrunkId,
    /// The parent port.
    pub parent: PortId,
    /// Whether the parent port may carry packets: it is administratively up.
    pub parent_enabled: bool,
    /// Whether it may, and Neutron shows it ACTIVE. Status and administrative state do not change in one moment.
    pub parent_active: bool,
    /// Whether Neutron lets the trunk be changed.
    pub enabled: bool,
    /// What Neutron says of it.
    pub condition: TrunkCondition,
    /// The VLAN ids on it and whose they are, ours and others'.
    pub subports: BTreeMap<u16, PortId>,
}

/// What Neutron says of a trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrunkCondition {
    /// `ACTIVE` or on the way there.
    Good,
    /// `DOWN`; also for a moment whenever somebody changes it.
    Down,
    /// `DEGRADED`: some of its ports are not wired.
    Degraded,
    /// `ERROR`: Neutron adds no port.
    Error,
}

/// A port that has an address of a node, or is a trunk's parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Neutron's id.
    pub id: PortId,
    /// Project it is in.
    pub project: ProjectId,
    /// Hardware address.
    pub mac: MacAddr,
    /// Addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The trunk that it is the parent of, in whatever project.
    pub trunk: Option<TrunkId>,
}

/// Tells which of `ports` is the node's: of `project`, with one of `addresses` and with `mac`.
///
/// # Errors
/// What was found instead, as [`Sight`].
pub fn find<'a>(
    addresses: &[IpAddr],
    mac: Option<MacAddr>,
    project: &ProjectId,
    ports: impl IntoIterator<Item = &'a Candidate>,
) -> Result<&'a Candidate, Sight> {
    let Some(mac) = mac else { return Err(Sight::NoMac) };
    let mut missed = Sight::NoPort;
    for port in ports {
        if !addresses.iter().any(|address| port.addresses.contains(address)) {
            continue;
        }
        if port.project != *project {
            if missed == Sight::NoPort {
                missed = Sight::OtherProject(port.id.clone(), port.project.clone());
            }
        } else if port.mac == mac {
            return Ok(port);
        } else {
            missed = Sight::OtherMac(port.id.clone(), port.mac);
        }
    }
    Err(missed)
}

impl Sight {
    /// The trunk, if the node has one.
    #[must_use]
    pub const fn trunk(&self) -> Option<&Trunk> {
        match self {
            Self::Trunk(trunk) => Some(trunk),
            _ => None,
        }
    }
}

impl Trunk {
    /// Whether ports can be put on it.
    #[must_use]
    pub fn takes_ports(&self) -> bool {
        self.enabled && self.condition != TrunkCondition::Error
    }

    /// What is wrong with it. That it is `DOWN` counts only if it stays so, which `stays` tells.
    #[must_use]
    pub fn problem(&self, stays: bool) -> Option<Problem> {
        let Self { id, parent, .. } = self;
        let (reason, message) = match self.condition {
            // Before all the others: the node itself has no network.
            _ if !self.parent_enabled => (
                "ParentPortDisabled",
                format!(
                    "port {parent} of this node, parent of trunk {id}, is administratively down: the node has no network, \
                     and its pods have one or not as Neutron's back end has it: `openstack port set --enable {parent}`"
                ),
            ),
            _ if !self.enabled => (
                "TrunkDisabled",
                format!(
                    "trunk {id} of this node is administratively down: `openstack network trunk set --enable {id}`"
                ),
            ),
            TrunkCondition::Error => (
                "TrunkInError",
                format!(
                    "trunk {id} of this node is in status ERROR, and Neutron adds no ports to it: look for its cause in \
                     Neutron's log and take the ports off it that could not be wired, or make the trunk anew"
                ),
            ),
            _ if !self.parent_active => (
                "ParentPortDown",
                format!(
                    "port {parent} of this node, parent of trunk {id}, is not ACTIVE in Neutron: pods have no network \
                     beyond the node until it is; see that the server runs, and the network agent on its hypervisor"
                ),
            ),
            TrunkCondition::Degraded => (
                "TrunkDegraded",
                format!(
                    "trunk {id} of this node is DEGRADED: some of its ports could not be wired on the hypervisor, and \
                     their pods have no network; look into the log of the network agent there"
                ),
            ),
            TrunkCondition::Down if stays => (
                "TrunkDown",
                format!(
                    "trunk {id} of this node stays DOWN although its parent port {parent} is ACTIVE: look into the log of \
                     the network agent on the server's hypervisor"
                ),
            ),
            TrunkCondition::Down | TrunkCondition::Good => return None,
        };
        Some(Problem { reason: reason.to_owned(), message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(id: &str, project: &str, mac: u8, address: &str) -> Candidate {
        Candidate {
            id: id.into(),
            project: project.into(),
            mac: MacAddr([2, 0, 0, 0, 0, mac]),
            addresses: BTreeSet::from([address.parse().unwrap()]),
            trunk: None,
        }
    }

    #[test]
    fn address_mac_and_project_have_to_agree() {
        let ours = port("ours", "k8s", 1, "192.0.2.7");
        let same_mac = port("same-mac", "k8s", 1, "192.0.2.8");
        let same_address = port("same-address", "k8s", 2, "192.0.2.7");
        let hostile = port("hostile", "other", 1, "192.0.2.7");
        let other_mac = Sight::OtherMac("same-address".into(), MacAddr([2, 0, 0, 0, 0, 2]));
        let other_project = Sight::OtherProject("hostile".into(), "other".into());
        let table: [(&[&Candidate], Result<&str, Sight>); 7] = [
            (&[&hostile, &same_mac, &same_address, &ours], Ok("ours")),
            (&[&ours], Ok("ours")),
            (&[&same_mac], Err(Sight::NoPort)),
            (&[], Err(Sight::NoPort)),
            (&[&hostile], Err(other_project)),
            (&[&hostile, &same_address], Err(other_mac.clone())),
            (&[&same_address, &hostile], Err(other_mac)),
        ];
        let addresses = ["fd00::7".parse().unwrap(), "192.0.2.7".parse().unwrap()];
        let mac = Some(MacAddr([2, 0, 0, 0, 0, 1]));
        for (ports, expect) in table {
            let found = find(&addresses, mac, &"k8s".into(), ports.iter().copied());
            assert_eq!(found.map(|port| port.id.as_str()), expect, "{ports:?}");
        }
        assert_eq!(find(&addresses, None, &"k8s".into(), [&ours]), Err(Sight::NoMac));
        assert_eq!(find(&[], mac, &"k8s".into(), [&ours]), Err(Sight::NoPort));
    }

    #[test]
    fn each_fault_of_a_trunk_has_its_name() {
        let good = Trunk {
            id: "t".into(),
            parent: "p".into(),
            parent_enabled: true,
            parent_active: true,
            enabled: true,
            condition: TrunkCondition::Good,
            subports: BTreeMap::new(),
        };
        let parent_disabled = Trunk { parent_enabled: false, parent_active: false, ..good.clone() };
        let with = |condition| Trunk { condition, ..good.clone() };
        for (trunk, stays, takes_ports, expect) in [
            (good.clone(), true, true, None),
            (Trunk { enabled: false, ..good.clone() }, false, false, Some("TrunkDisabled")),
            (Trunk { parent_active: false, ..good.clone() }, false, true, Some("ParentPortDown")),
            (parent_disabled.clone(), false, true, Some("ParentPortDisabled")),
            (Trunk { enabled: false, ..parent_disabled }, false, false, Some("ParentPortDisabled")),
            (
                Trunk { parent_active: false, ..with(TrunkCondition::Down) },
                true,
                true,
                Some("ParentPortDown"),
            ),
            (with(TrunkCondition::Error), false, false, Some("TrunkInError")),
            (with(TrunkCondition::Degraded), false, true, Some("TrunkDegraded")),
            (with(TrunkCondition::Down), false, true, None),
            (with(TrunkCondition::Down), true, true, Some("TrunkDown")),
        ] {
            let told = trunk.problem(stays).map(|problem| problem.reason);
            assert_eq!((trunk.takes_ports(), told.as_deref()), (takes_ports, expect), "{trunk:?}");
        }
    }
}
