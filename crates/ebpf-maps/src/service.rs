//! The maps by which clients of Services reach endpoints.
//!
//! | map | key | value | kind |
//! |---|---|---|---|
//! | `services` | [`ServiceKey`] | [`Service`] | hash |
//! | `nodes` | [`NodeKey`], an address of a node | `u32`, a [`NodeKind`] | hash |
//! | `backends` | [`RowKey`] | [`Row`], up to [`ROW`] backends | hash |
//! | `members` | [`MemberKey`] | `u32`, the endpoint's slot | hash |
//! | `affinities` | network namespace and service | endpoint and time | hash, the least recently used goes |
//! | `sockets` | - | what a socket remembers | goes with its socket |
//! | `outcomes` | number of an [`Outcome`] | `u64` | per-CPU array |
//!
//! `affinities` and `sockets` are the programs' own. Integers are in host byte order, addresses and ports in network
//! byte order.
//!
//! A service's backends are those of its generation, in slots 0 to count - 1, [`ROW`] slots in an entry. Whoever changes
//! them writes a new generation, then the service, then deletes the old generation: programs see one or the other. Keys
//! whose values have the same number and generation share them.
//!
//! A destination is looked for as it is. Where there is nothing, and its address is in `nodes`, it is looked for as a
//! port of this node (if it is one, [`Scope::OwnNodeHost`], then [`Scope::OwnNode`]) or of that other one
//! ([`Scope::OtherNode`]), and then of every node ([`Scope::Nodes`]): a port on every node costs one entry, however many nodes
//! there are. Loopback addresses are there, too, with a scope of their own.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::joint::address_bytes;

/// Greatest number of addresses and ports at which Services are served.
pub const MAX_SERVICES: u32 = 65_536;
/// Greatest number of rows of backends of all Services, those of two generations while one is changed.
pub const MAX_ROWS: u32 = 131_072;
/// Backends in a row: as many as fill a piece of the kernel's memory (192 bytes).
pub const ROW: usize = 5;
/// Greatest number of endpoints whose clients keep them: those of UDP and those with affinity.
pub const MAX_MEMBERS: u32 = 131_072;
/// Greatest number of addresses of nodes.
pub const MAX_NODES: u32 = 32_768;

/// Number of TCP (IANA, protocol numbers).
pub const TCP: u8 = 6;
/// Number of UDP.
pub const UDP: u8 = 17;

/// Where clients send to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// The address, see [`address_bytes`].
    pub address: [u8; 16],
    /// The port in network byte order.
    pub port: [u8; 2],
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// Number of a [`Scope`].
    pub scope: u8,
}

/// What the address of a key stands for; the number is that in the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Itself.
    #[default]
    Address = 0,
    /// Every address of every node, of the family of the unspecified address that stands there.
    Nodes = 1,
    /// The same of this node only.
    OwnNode = 2,
    /// The loopback address of the family, for processes in the node's network namespace: in a pod it is the pod's.
    Loopback = 3,
    /// Itself, an address of another node, for all but processes in the node's network namespace: those go there.
    OtherNode = 4,
    /// As [`Scope::OwnNode`], for processes in the node's network namespace only, for which it comes first.
    OwnNodeHost = 5,
}

/// Whose an address in `nodes` is; the number is the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// Another node's.
    Other = 0,
    /// This node's.
    Own = 1,
    /// The loopback address.
    Loopback = 2,
}

/// An address of a node.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeKey {
    /// The address, see [`address_bytes`].
    pub address: [u8; 16],
}

impl NodeKey {
    /// The key of an address.
    #[must_use]
    pub const fn new(address: IpAddr) -> Self {
        Self { address: address_bytes(address) }
    }

    /// The address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        Ipv6Addr::from(self.address).to_canonical()
    }
}

impl ServiceKey {
    /// The key of an address and a port in host byte order.
    #[must_use]
    pub const fn new(address: IpAddr, port: u16, protocol: u8) -> Self {
        Self {
            address: address_bytes(address),
            port: port.to_be_bytes(),
            protocol,
            scope: Scope::Address as u8,
        }
    }

    /// The key of a port, in host byte order, of nodes.
    #[must_use]
    pub const fn of_nodes(scope: Scope, is_ipv4: bool, port: u16, protocol: u8) -> Self {
        let any = if is_ipv4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
        Self { address: address_bytes(any), port: port.to_be_bytes(), protocol, scope: scope as u8 }
    }

    /// The key of an address of another node and a port in host byte order, for pods.
    #[must_use]
    pub const fn of_other_node(address: IpAddr, port: u16, protocol: u8) -> Self {
        Self {
            address: address_bytes(address),
            port: port.to_be_bytes(),
            protocol,
            scope: Scope::OtherNode as u8,
        }
    }

    /// The address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        Ipv6Addr::from(self.address).to_canonical()
    }

    /// The port in host byte order.
    #[must_use]
    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }
}

/// What clients find there.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Number of what is found; keys of one number lead to the same.
    pub id: u32,
    /// Generation of its backends.
    pub generation: u32,
    /// Number of its backends; with none clients are refused.
    pub count: u32,
    /// How long a client keeps its endpoint after the last use, in seconds; 0: not at all.
    pub affinity_seconds: u32,
}

/// Where backends in neighbouring slots are.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey {
    /// Number of the service.
    pub service: u32,
    /// Generation.
    pub generation: u32,
    /// Number of the row: its first slot is this times [`ROW`].
    pub row: u32,
}

/// Backends in neighbouring slots; behind the last one there are defaults.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    backends: [Backend; ROW],
}

impl Row {
    /// The row of these, of which those that do not fit are left out.
    #[must_use]
    pub fn new(backends: impl IntoIterator<Item = Backend>) -> Self {
        let mut row = Self::default();
        for (slot, backend) in row.backends.iter_mut().zip(backends) {
            *slot = backend;
        }
        row
    }

    /// The backends.
    #[must_use]
    pub fn backends(&self) -> &[Backend] {
        let count = self.backends.iter().take_while(|backend| backend.endpoint != 0).count();
        self.backends.get(..count).unwrap_or_default()
    }
}

/// An endpoint as clients reach it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// The address, see [`address_bytes`].
    pub address: [u8; 16],
    /// The port in network byte order.
    pub port: [u8; 2],
    /// Zero.
    pub pad: [u8; 2],
    /// Number of the endpoint within the service, the same in every generation; 0: there is none.
    pub endpoint: u32,
}

impl Backend {
    /// The value of a port in host byte order.
    #[must_use]
    pub const fn new(address: IpAddr, port: u16, endpoint: u32) -> Self {
        Self { address: address_bytes(address), port: port.to_be_bytes(), pad: [0; 2], endpoint }
    }

    /// The address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        Ipv6Addr::from(self.address).to_canonical()
    }

    /// The port in host byte order.
    #[must_use]
    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }
}

/// An endpoint of a service whose clients keep theirs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberKey {
    /// Number of the service.
    pub service: u32,
    /// Generation.
    pub generation: u32,
    /// Number of the endpoint.
    pub endpoint: u32,
}

/// What became of a client's attempt; the number is the index of its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An endpoint was chosen.
    Chosen = 0,
    /// The client or its socket had an endpoint and kept it.
    Kept = 1,
    /// There was no endpoint.
    Refused = 2,
    /// The tables changed during every try to read them.
    Unsettled = 3,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Chosen, Self::Kept, Self::Refused, Self::Unsettled];
}

#[cfg(feature = "aya")]
mod loader {
    //! Promises to the loader that any bytes of the right size are a value, and that a value has no
    //! byte that is not initialised.
    #![allow(unsafe_code)]

    use super::{Backend, MemberKey, NodeKey, Row, RowKey, Service, ServiceKey};

    // SAFETY: `repr(C)` of bytes only, any bit pattern is valid.
    unsafe impl aya::Pod for ServiceKey {}
    // SAFETY: `repr(C)` of u32 only, any bit pattern is valid.
    unsafe impl aya::Pod for Service {}
    // SAFETY: `repr(C)` of u32 only, any bit pattern is valid.
    unsafe impl aya::Pod for RowKey {}
    // SAFETY: `repr(C)` of 20 bytes and a u32, no padding, any bit pattern is valid.
    unsafe impl aya::Pod for Backend {}
    // SAFETY: `repr(C)` of backends only, any bit pattern is valid.
    unsafe impl aya::Pod for Row {}
    // SAFETY: `repr(C)` of u32 only, any bit pattern is valid.
    unsafe impl aya::Pod for MemberKey {}
    // SAFETY: `repr(C)` of bytes only, any bit pattern is valid.
    unsafe impl aya::Pod for NodeKey {}
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    /// The same figures stand as `_Static_assert` in `service.h`.
    #[test]
    fn layouts_are_those_of_the_programs() {
        for (name, got, expect) in [
            ("service_key", size_of::<ServiceKey>(), 20),
            ("service_key.port", offset_of!(ServiceKey, port), 16),
            ("service_key.protocol", offset_of!(ServiceKey, protocol), 18),
            ("service_key.scope", offset_of!(ServiceKey, scope), 19),
            ("node_key", size_of::<NodeKey>(), 16),
            ("service", size_of::<Service>(), 16),
            ("service.generation", offset_of!(Service, generation), 4),
            ("service.count", offset_of!(Service, count), 8),
            ("service.affinity_seconds", offset_of!(Service, affinity_seconds), 12),
            ("row_key", size_of::<RowKey>(), 12),
            ("row_key.row", offset_of!(RowKey, row), 8),
            ("backend", size_of::<Backend>(), 24),
            ("backend.port", offset_of!(Backend, port), 16),
            ("backend.endpoint", offset_of!(Backend, endpoint), 20),
            ("row", size_of::<Row>(), 120),
            ("member_key", size_of::<MemberKey>(), 12),
            ("member_key.endpoint", offset_of!(MemberKey, endpoint), 8),
            ("outcomes", Outcome::ALL.len(), 4),
        ] {
            assert_eq!(got, expect, "{name}");
        }
    }

    #[test]
    fn ports_are_in_network_byte_order_and_read_as_they_were_written() {
        let address: IpAddr = [10, 96, 0, 1].into();
        let key = ServiceKey::new(address, 443, TCP);
        assert_eq!((key.port, key.port(), key.address()), ([1, 0xbb], 443, address));
        let address: IpAddr = [0xfd00, 0, 0, 0, 0, 0, 0, 9].into();
        let backend = Backend::new(address, 8080, 7);
        assert_eq!((backend.port(), backend.address(), backend.endpoint), (8080, address, 7));
    }

    #[test]
    fn a_row_reads_as_it_was_written_and_holds_no_more() {
        let backend = |number: u8| Backend::new([10, 1, 0, number].into(), 8080, number.into());
        for written in [0, 1, 5, 6] {
            let row = Row::new((1..=written).map(backend));
            assert_eq!(row.backends(), (1..=written.min(5)).map(backend).collect::<Vec<_>>());
        }
    }

    #[test]
    fn ports_of_nodes_are_keys_of_their_own() {
        let scopes = [Scope::Nodes, Scope::OwnNode, Scope::Loopback, Scope::OwnNodeHost];
        let of_nodes =
            scopes.map(|scope| [true, false].map(|v4| ServiceKey::of_nodes(scope, v4, 30080, TCP)));
        let [[nodes4, nodes6], [own4, own6], [loop4, _], [host4, host6]] = of_nodes;
        assert_eq!(
            (nodes4.address(), nodes6.address()),
            (Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into())
        );
        // Whoever connects to the unspecified address itself means something else.
        let itself = ServiceKey::new(Ipv4Addr::UNSPECIFIED.into(), 30080, TCP);
        for (one, other) in [
            (nodes4, own4),
            (nodes6, own6),
            (nodes4, nodes6),
            (own4, loop4),
            (nodes4, itself),
            (host4, own4),
            (host4, host6),
        ] {
            assert_ne!(one, other);
        }
    }
}
