//! Interfaces of the node itself: which of them carries an address, and how it is.

use std::net::IpAddr;

use kuryr_types::MacAddr;

use super::Node;
use crate::{
    address,
    error::Result,
    link::{self, Link},
};

/// An Ethernet interface of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInterface {
    /// Name.
    pub name: String,
    /// Index.
    pub index: u32,
    /// Hardware address.
    pub mac: MacAddr,
    /// MTU in bytes.
    pub mtu: u32,
    /// Whether it is up administratively.
    pub up: bool,
    /// Kind, such as `bond` or `bridge`; `None`: a device.
    pub kind: Option<String>,
}

impl Node {
    /// Looks for the interface of that name; `None` if there is none, or none with a hardware address.
    ///
    /// # Errors
    ///
    /// `InterfaceName`, `Kernel`.
    pub fn interface_named(&self, ifname: &str) -> Result<Option<NodeInterface>> {
        link::check_name(ifname)?;
        Ok(link::find(&mut self.socket(), ifname)?.and_then(interface))
    }

    /// Looks for the interface that carries one of `addresses`, the first that any does; `None` if none does, or it
    /// has no hardware address.
    ///
    /// # Errors
    ///
    /// `Kernel` or `Restless`.
    pub fn interface_with(&self, addresses: &[IpAddr]) -> Result<Option<NodeInterface>> {
        let mut socket = self.socket();
        let present = address::list_all(&mut socket)?;
        let carries = |wanted: &IpAddr| present.iter().find(|(_, address)| address.addr() == *wanted);
        let Some((index, _)) = addresses.iter().find_map(carries) else { return Ok(None) };
        Ok(link::find_by_index(&mut socket, *index)?.and_then(interface))
    }
}

fn interface(link: Link) -> Option<NodeInterface> {
    Some(NodeInterface {
        mac: link.mac?,
        name: link.name,
        index: link.index,
        mtu: link.mtu,
        up: link.up,
        kind: link.kind,
    })
}
