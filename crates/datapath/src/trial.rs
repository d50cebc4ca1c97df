//! Finding out what this kernel can do by trying it, in namespaces made for the purpose.
//!
//! A version number tells nothing about a kernel's configuration or a distributor's patches. Nothing on the node is
//! touched, and everything is gone when the namespaces are.

use std::os::fd::AsFd;

use kuryr_types::MacAddr;

use crate::{
    error::{Error, Result},
    joint::{Hook, Joint},
    link::{self, SubInterface, VethEnd},
    netlink::Socket,
    netns::Netns,
};

const NAME: &str = "trial0";
const PEER: &str = "trial1";
const INSIDE: &str = "trial2";
const MTU: u32 = 1500;

/// Finds out whether the programs of `joint` can be attached to links.
///
/// # Errors
///
/// `Kernel` if they cannot.
pub fn attaching(joint: &Joint) -> Result<()> {
    Netns::anonymous()?.run(|| {
        let mut socket = Socket::route()?;
        let index = create_pair(&mut socket)?;
        socket.apply(&joint.attach(&Hook::ALL, index)?)
    })?
}

/// How an interface on another one can be put into another namespace, which kernels learnt at different times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Making {
    /// It can be made there directly.
    Direct,
    /// It has to be made beside its lower device and moved, which is slow.
    Moved,
    /// This kernel has no such interfaces.
    Impossible,
}

/// Finds out how an interface of this kind can be made inside another namespace.
///
/// # Errors
///
/// `Namespace`, `Socket`, or `Kernel` if there are no veth pairs.
pub fn making(kind: SubInterface) -> Result<Making> {
    let (outside, inside) = (Netns::anonymous()?, Netns::anonymous()?);
    let asked = outside.run(|| -> Result<_> {
        let mut socket = Socket::route()?;
        let lower = create_pair(&mut socket)?;
        Ok(socket.apply(&[link::create_on(lower, kind, INSIDE, MTU, Some(inside.as_fd()))]))
    })??;
    match asked {
        Err(error) if error.is_unsupported() => return Ok(Making::Impossible),
        Err(_) => return Ok(Making::Moved),
        Ok(()) => {}
    }
    let found = inside.run(|| link::find(&mut Socket::route()?, INSIDE))??;
    Ok(if found.is_some() { Making::Direct } else { Making::Moved })
}

/// Makes a veth pair and tells the index of its first end.
fn create_pair(socket: &mut Socket) -> Result<u32> {
    let end = |name, last| VethEnd {
        name,
        mac: MacAddr([2, 0, 0, 0, 0, last]),
        mtu: MTU,
        group: 0,
        arp: false,
        netns: None,
    };
    socket.apply(&[link::create_veth(end(NAME, 1), end(PEER, 2))])?;
    let link = link::find(socket, NAME)?.ok_or(Error::LinkMissing { name: NAME.to_owned() })?;
    Ok(link.index)
}
