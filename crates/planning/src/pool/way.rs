//! How ports reach the node, in one plan: the mode and what carries its ports there.
//!
//! What a port has to be for that: bound to the host in mode `ovs`; in mode `nested-vlan` on the node's trunk under
//! the VLAN id of its entry, or, if no entry names it yet, on no trunk; in mode `nested-macvlan` unbound and made for
//! pairs, which can be added to the port of any server.

use kuryr_api::kuryrnode::{KuryrNodeStatus, Mode, PortEntry, Problem};
use kuryr_types::{PortId, TrunkId};

use super::{
    desired::Draft,
    inputs::Record,
    mode::{self, Decision, Seen},
    server::ServerPort,
    trunk::{Attachment, Sight, Trunk},
};
use crate::ownership::OurPort;

/// What carries ports to the node.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way<'a> {
    /// Nothing: another mode is wanted, and ports are taken back.
    Closed,
    /// They are bound to this host.
    Host(&'a str),
    /// They are subports of this trunk, the one that was found or the one that the record names.
    Trunk(Option<&'a TrunkId>),
    /// Their addresses are pairs of this server's port, likewise.
    Server(Option<&'a PortId>),
}

/// Where a port is, as far as trunks are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// Nobody has looked at the trunks.
    Unknown,
    /// On no trunk.
    Free,
    /// On this trunk.
    On(&'a Attachment),
}

impl<'a> Draft<'a> {
    /// Decides the mode and notes it in the record; tells whether anything may be decided about ports.
    pub(super) fn choose_way(&mut self, status: &'a KuryrNodeStatus) -> bool {
        let (mode, problem) = match mode::decide(&self.seen(status)) {
            Decision::Wait(problem) => {
                self.tell(problem);
                return false;
            }
            Decision::Drain(problem) => {
                self.tell(Some(problem));
                self.way = Way::Closed;
                return true;
            }
            Decision::Serve(mode, problem) => (mode, problem),
        };
        self.tell(problem);
        let named = self.record.spec.trunk.as_ref();
        let trunk = self.trunk().map(|trunk| &trunk.id).or(named);
        let server = self.server().map(|(id, _)| id).or(self.record.spec.server_port.as_ref());
        let spec = &mut self.out.spec;
        spec.mode = mode;
        self.way = match mode {
            Mode::Ovs => Way::Host(status.host.as_deref().unwrap_or_default()),
            Mode::NestedVlan => Way::Trunk(trunk),
            Mode::NestedMacvlan => Way::Server(server),
        };
        (spec.host, spec.trunk, spec.server_port) = match self.way {
            Way::Host(host) => (Some(host.to_owned()), None, None),
            Way::Trunk(trunk) => (None, trunk.cloned(), None),
            Way::Server(server) => (None, None, server.cloned()),
            Way::Closed => (None, None, None),
        };
        true
    }

    fn seen(&self, status: &'a KuryrNodeStatus) -> Seen<'a> {
        let sight = self.inputs.cloud.trunks.as_ref().map(|trunks| &trunks.node);
        let server = self.inputs.cloud.servers.as_ref().map(|servers| &servers.node);
        let record = Record { spec: self.record.spec, status: Some(status) };
        Seen { server, ..Seen::of(record, self.inputs.facts, self.inputs.limits.mode, sight) }
    }

    pub(super) fn tell(&mut self, problem: Option<Problem>) {
        let problems = &mut self.out.spec.problems;
        problems.extend(problem.filter(|problem| !problems.contains(problem)));
    }

    /// The node's trunk, as it was last seen.
    pub(super) fn trunk(&self) -> Option<&'a Trunk> {
        self.inputs.cloud.trunks.as_ref().map(|trunks| &trunks.node).and_then(Sight::trunk)
    }

    /// The port of the server that the node is, as it was last seen.
    pub(super) fn server(&self) -> Option<(&'a PortId, &'a ServerPort)> {
        self.inputs.cloud.servers.as_ref().and_then(|servers| servers.of_node())
    }

    /// Where `port` is. What was never meant to be on a trunk need not be looked for.
    pub(super) fn place(&self, port: &OurPort) -> Place<'a> {
        match &self.inputs.cloud.trunks {
            Some(trunks) => trunks.attached.get(&port.id).map_or(Place::Free, Place::On),
            None if port.may_be_subport() => Place::Unknown,
            None => Place::Free,
        }
    }

    /// Tells whether an entry has this VLAN id: somebody may have taken its port off, and put on another since.
    pub(super) fn is_promised(&self, vlan: u16) -> bool {
        let entries = self.record.spec.ports.values().chain(self.out.spec.ports.values());
        entries.into_iter().any(|entry| entry.vlan == Some(vlan))
    }

    /// Tells whether `port` reaches the node, or could; `entry` is what the record says of it.
    pub(super) fn reaches(&self, port: &OurPort, entry: Option<&PortEntry>) -> bool {
        match self.way {
            Way::Closed => false,
            Way::Host(host) => !port.goes_unbound() && port.is_bound_to(host),
            Way::Server(_) => port.is_for_pairs(),
            Way::Trunk(trunk) => {
                port.may_be_subport()
                    && match (self.place(port), entry) {
                        (Place::Unknown, _) => true,
                        (Place::Free, entry) => entry.is_none(),
                        (Place::On(at), Some(entry)) => {
                            trunk == Some(&at.trunk) && entry.vlan == Some(at.vlan)
                        }
                        (Place::On(at), None) => trunk == Some(&at.trunk) && !self.is_promised(at.vlan),
                    }
            }
        }
    }
}
