//! The steps: changes of a record, calls to Neutron.
//!
//! A change of a record says what it builds on (the epoch, the entry), and whoever carries it out has the API
//! server test that; [`SpecStep::apply`] is the same on a value, for tests and for tools that only show.

use std::collections::BTreeMap;

use kuryr_api::{
    kuryrnode::{
        ClassEntry, KuryrNodeSpec, Mode, NetworkEntry, OwnPort, PlugId, PortEntry, Problem, SubnetEntry,
    },
    names::NODE_DEVICE_OWNER,
};
use kuryr_types::{ClassId, Epoch, Generation, NetworkId, PortId, SecurityGroupId, SubnetId, TrunkId};

use super::server::Pair;
use crate::{demand::Urgency, ownership::Purpose};

/// Whether the record itself has to come or go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RecordStep {
    /// Neither.
    #[default]
    Keep,
    /// Create it.
    Create(Box<KuryrNodeSpec>),
    /// Delete it: it names no port any more.
    Delete,
}

/// A change of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpecStep {
    /// Take over from an earlier leader.
    SetEpoch {
        /// Epoch of the record.
        from: Epoch,
        /// Ours.
        to: Epoch,
    },
    /// Serve the incarnation of the node that reported.
    Serve {
        /// UID of the Node.
        node_uid: String,
        /// Id of the agent's durable record; none if no agent is served.
        checkpoint: Option<String>,
        /// How ports reach it.
        mode: Mode,
        /// Host.
        host: Option<String>,
        /// Trunk.
        trunk: Option<TrunkId>,
        /// Port of the server that the node is.
        server_port: Option<PortId>,
    },
    /// Describe the networks.
    SetNetworks(BTreeMap<NetworkId, NetworkEntry>),
    /// Describe the subnets.
    SetSubnets(BTreeMap<SubnetId, SubnetEntry>),
    /// Describe the classes.
    SetClasses(BTreeMap<ClassId, ClassEntry>),
    /// Name the class of ordinary pods.
    SetDefaultClass(Option<ClassId>),
    /// Name the node's own port.
    SetOwnPort(Option<OwnPort>),
    /// Name the plugs that Neutron has called ACTIVE.
    SetWired(BTreeMap<PortId, PlugId>),
    /// Tell what is wrong.
    SetProblems(Vec<Problem>),
    /// Offer a port.
    Offer {
        /// The port.
        id: PortId,
        /// The offer.
        entry: Box<PortEntry>,
        /// The entry that it replaces, exactly as it must be found.
        replaces: Option<Box<PortEntry>>,
    },
    /// Set flags of an entry.
    Mark {
        /// The port.
        id: PortId,
        /// The offer it is about.
        generation: Generation,
        /// What to set.
        flags: Flags,
    },
    /// Remove the entry of a port that does not exist any more.
    Forget {
        /// The port.
        id: PortId,
        /// The entry, exactly as it must be found.
        entry: Box<PortEntry>,
    },
}

/// Flags of an entry that are to be set; none is ever unset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags {
    /// `withdrawn`.
    pub withdrawn: bool,
    /// `doomed`.
    pub doomed: bool,
    /// `active`.
    pub active: bool,
    /// `guarded`.
    pub guarded: bool,
    /// `lost`.
    pub lost: bool,
}

/// A call to Neutron.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloudStep {
    /// Make ports, by one request.
    CreatePorts {
        /// What each of them is.
        request: PortRequest,
        /// How many.
        count: usize,
        /// How much it matters.
        urgency: Urgency,
    },
    /// Give a port of ours these groups.
    SetGroups {
        /// The port.
        id: PortId,
        /// Its groups from now on.
        security_groups: Vec<SecurityGroupId>,
    },
    /// Put ports on a trunk, all or none.
    AddSubports {
        /// The trunk.
        trunk: TrunkId,
        /// The ports and their VLAN ids.
        subports: Vec<(PortId, u16)>,
    },
    /// Take ports that are doomed or condemned off a trunk, all or none.
    RemoveSubports {
        /// The trunk.
        trunk: TrunkId,
        /// The ports.
        ports: Vec<PortId>,
    },
    /// Read a trunk, its parent port and ports on it again, for what changes by itself.
    LookAtTrunk {
        /// The trunk.
        trunk: TrunkId,
        /// The ports.
        ports: Vec<PortId>,
    },
    /// Make addresses of ports pairs of a server's port, all or none.
    AddPairs {
        /// The server's port.
        server: PortId,
        /// The ports and their pairs.
        ports: Vec<(PortId, Vec<Pair>)>,
    },
    /// Take pairs of ports that are doomed or condemned off a server's port, all or none.
    RemovePairs {
        /// The server's port.
        server: PortId,
        /// The ports and their pairs.
        ports: Vec<(PortId, Vec<Pair>)>,
    },
    /// Unbind a port, so that its traffic is dropped wherever the node is.
    Cut {
        /// The port.
        id: PortId,
    },
    /// Call a port so, once it has this tag.
    Name {
        /// The port.
        id: PortId,
        /// Its name from now on.
        name: String,
        /// The tag by which its node is known.
        tag: String,
    },
    /// Give a port that no record names the name of one that is going to be deleted.
    Condemn {
        /// The port.
        id: PortId,
    },
    /// Delete a port that is doomed or condemned.
    Delete {
        /// The port.
        id: PortId,
    },
}

impl CloudStep {
    /// Tells whether ports are made.
    #[must_use]
    pub const fn creates(&self) -> bool {
        matches!(self, Self::CreatePorts { .. })
    }

    /// The port that is changed or deleted, if it is one.
    #[must_use]
    pub const fn port(&self) -> Option<&PortId> {
        match self {
            Self::SetGroups { id, .. }
            | Self::Cut { id }
            | Self::Name { id, .. }
            | Self::Condemn { id }
            | Self::Delete { id } => Some(id),
            Self::CreatePorts { .. }
            | Self::AddSubports { .. }
            | Self::RemoveSubports { .. }
            | Self::LookAtTrunk { .. }
            | Self::AddPairs { .. }
            | Self::RemovePairs { .. } => None,
        }
    }

    /// Tells whether it brings ports closer to pods.
    #[must_use]
    pub const fn provides(&self) -> bool {
        matches!(self, Self::CreatePorts { .. } | Self::AddSubports { .. } | Self::AddPairs { .. })
    }
}

/// A port to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRequest {
    /// Name, by which it is found again.
    pub name: String,
    /// Tags besides ours.
    pub tags: Vec<String>,
    /// `device_owner`.
    pub device_owner: &'static str,
    /// Host to bind it to; unbound if none.
    pub host: Option<String>,
    /// Network.
    pub network: NetworkId,
    /// One address of each.
    pub subnets: Vec<SubnetId>,
    /// Groups.
    pub security_groups: Vec<SecurityGroupId>,
}

impl PortRequest {
    /// What the ports are for.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        if self.device_owner == NODE_DEVICE_OWNER { Purpose::Node } else { Purpose::Pool }
    }
}

/// A step that does not fit the record it was meant for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the record has changed since this step was planned")]
pub struct Outdated;

impl SpecStep {
    /// Carries the step out on `spec`, under the same conditions as the API server.
    ///
    /// # Errors
    /// [`Outdated`], and `spec` is as it was.
    pub fn apply(&self, spec: &mut KuryrNodeSpec) -> Result<(), Outdated> {
        match self.clone() {
            Self::SetEpoch { from, to } => {
                expect(spec.epoch == from)?;
                spec.epoch = to;
            }
            Self::Serve { node_uid, checkpoint, mode, host, trunk, server_port } => {
                (spec.node_uid, spec.checkpoint) = (node_uid, checkpoint);
                (spec.mode, spec.host, spec.trunk, spec.server_port) = (mode, host, trunk, server_port);
            }
            Self::SetNetworks(networks) => spec.networks = networks,
            Self::SetSubnets(subnets) => spec.subnets = subnets,
            Self::SetClasses(classes) => spec.classes = classes,
            Self::SetDefaultClass(class) => spec.default_class = class,
            Self::SetOwnPort(port) => spec.own_port = port,
            Self::SetWired(wired) => spec.wired = wired,
            Self::SetProblems(problems) => spec.problems = problems,
            Self::Offer { id, entry, replaces } => {
                expect(replaces.is_none() || spec.ports.get(&id) == replaces.as_deref())?;
                spec.ports.insert(id, *entry);
            }
            Self::Mark { id, generation, flags } => {
                let found = spec.ports.get_mut(&id).filter(|entry| entry.generation == generation);
                flags.set(found.ok_or(Outdated)?);
            }
            Self::Forget { id, entry } => {
                expect(spec.ports.get(&id) == Some(&*entry))?;
                spec.ports.remove(&id);
            }
        }
        Ok(())
    }
}

impl Flags {
    fn set(self, entry: &mut PortEntry) {
        entry.withdrawn |= self.withdrawn;
        entry.doomed |= self.doomed;
        entry.active |= self.active;
        entry.guarded |= self.guarded;
        entry.lost |= self.lost;
    }
}

fn expect(holds: bool) -> Result<(), Outdated> {
    if holds { Ok(()) } else { Err(Outdated) }
}
