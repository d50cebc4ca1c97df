//! Connected UDP sockets that programs have brought to an endpoint of a Service, wherever on the node, and their end.
//!
//! What a socket was brought to is in its own storage ([`crate::remembered`]); where it is, and how it can be closed, is told
//! by its network namespace ([`sock_diag`]). The kernel's cookie says which is which. Namespaces looked at are those below a
//! folder, where the runtime keeps them, and this process' own, which is that of the node.
//!
//! The sockets that are returned hold their namespaces open: not to be kept.
//!
//! Nothing here decides which sockets are to be closed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsFd,
    path::Path,
    sync::Arc,
};

use aya::maps::{Map, MapData, SkStorage};
use kuryr_ebpf_maps::socket::{SOCKET_STATE_BYTES, Translation, translations};

use crate::{
    error::{Error, NamespaceStep, Result, SocketKind, SocketStep},
    map_access::map_failed,
    netlink::Socket,
    netns::Netns,
    remembered::Remembered,
    service,
    sock_diag::{self, Connected},
};

const MAP: &str = "sockets";

/// What the programs' sockets remember.
#[derive(Debug)]
pub struct TranslatedSockets {
    remembered: Remembered,
    /// The same map twice: as what is iterated, and as values for a socket of ours.
    map: MapData,
    values: SkStorage<MapData, [u8; SOCKET_STATE_BYTES]>,
}

/// A socket that sends to an endpoint in the place of a Service.
#[derive(Debug, Clone)]
pub struct TranslatedSocket {
    /// What its process connected it to.
    pub frontend: SocketAddr,
    /// Where it sends to.
    pub backend: SocketAddr,
    /// Number of the service then.
    pub service: u32,
    netns: Arc<Netns>,
    socket: Connected,
}

/// What was found, or done, and what could not be: one namespace does not stand in the way of others.
#[derive(Debug)]
pub struct Reached<T> {
    /// What was found or done.
    pub found: T,
    /// What failed.
    pub failures: Vec<Error>,
}

impl TranslatedSockets {
    /// Opens the map that programs of this layout have; they have been loaded before ([`service::Services::open`]).
    ///
    /// # Errors
    ///
    /// `Map`; `CannotClose`, `ProgramsUnusable`, `Program` if the kernel does not take the iterator.
    pub fn open(bpf_dir: &Path) -> Result<Self> {
        let pin = service::pins(bpf_dir).join(service::layout()).join(MAP);
        let map = || MapData::from_pin(&pin).map_err(map_failed(MAP));
        let values = Map::SkStorage(map()?).try_into().map_err(map_failed(MAP))?;
        Ok(Self { remembered: Remembered::load()?, map: map()?, values })
    }

    /// Closes a socket of its own, to see whether this kernel can.
    ///
    /// # Errors
    ///
    /// `CannotClose` if it cannot; `Socket`, `Map`, `Kernel` and the like if the trial itself failed.
    pub fn try_out(&mut self) -> Result<()> {
        let failed = |step| move |source| Error::Socket { step, kind: SocketKind::Udp, source };
        let trial = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed(SocketStep::Open))?;
        let own = trial.local_addr().map_err(failed(SocketStep::Open))?;
        trial.connect(own).map_err(failed(SocketStep::Open))?;
        self.values.insert(&trial, [0; SOCKET_STATE_BYTES], 0).map_err(map_failed(MAP))?;
        let mut socket = Socket::diagnosis()?;
        let listed = sock_diag::connected(&mut socket)
            .map_err(|error| lacking("list connected UDP sockets", error))?;
        let listed = listed.iter().find(|one| one.peer == own);
        let listed = listed.ok_or(Error::CannotClose { lacks: "list connected UDP sockets" })?;
        let mut is_told = false;
        self.remembered.read(self.map.fd().as_fd(), |cookie, _| is_told |= cookie == listed.cookie)?;
        if !is_told {
            return Err(Error::CannotClose { lacks: "tell what sockets remember" });
        }
        sock_diag::close(&mut socket, listed)
            .map_err(|error| lacking("close sockets of other processes", error))?;
        match trial.peer_addr() {
            Ok(_) => Err(Error::CannotClose { lacks: "close sockets of other processes" }),
            Err(_) => Ok(()),
        }
    }

    /// Lists the sockets in this process' namespace and in all whose paths are directly below `folder`; a folder that is
    /// not there has none, and namespaces that go meanwhile are passed over.
    #[must_use]
    pub fn list(&mut self, folder: &Path) -> Reached<Vec<TranslatedSocket>> {
        let mut reached = Reached { found: Vec::new(), failures: Vec::new() };
        let (mut connected, mut seen) = (Vec::new(), BTreeSet::new());
        for netns in namespaces(folder) {
            let listed = netns.and_then(|netns| {
                if !seen.insert(netns.id()) {
                    return Ok(());
                }
                let netns = Arc::new(netns);
                let sockets = netns.run(|| sock_diag::connected(&mut Socket::diagnosis()?))??;
                connected.extend(sockets.into_iter().map(|socket| (Arc::clone(&netns), socket)));
                Ok(())
            });
            match listed {
                Err(error) if !error.is_namespace_gone() => reached.failures.push(error),
                _ => {}
            }
        }
        match self.memories(&connected) {
            Ok(memories) => reached.found = translated(connected, &memories),
            Err(error) => reached.failures.push(error),
        }
        reached
    }

    /// What these sockets remember, by cookie.
    fn memories(&mut self, of: &[(Arc<Netns>, Connected)]) -> Result<BTreeMap<u64, Vec<Translation>>> {
        let wanted: BTreeSet<u64> = of.iter().map(|(_, socket)| socket.cookie).collect();
        let mut memories = BTreeMap::new();
        if !wanted.is_empty() {
            self.remembered.read(self.map.fd().as_fd(), |cookie, value| {
                if wanted.contains(&cookie) {
                    memories.insert(cookie, translations(value).collect());
                }
            })?;
        }
        Ok(memories)
    }

    /// Closes sockets and tells how many were still there.
    #[must_use]
    pub fn close(&self, sockets: &[TranslatedSocket]) -> Reached<usize> {
        let mut reached = Reached { found: 0, failures: Vec::new() };
        for of_netns in sockets.chunk_by(|one, next| Arc::ptr_eq(&one.netns, &next.netns)) {
            let close = || -> Result<()> {
                let mut socket = Socket::diagnosis()?;
                for one in of_netns {
                    reached.found += usize::from(sock_diag::close(&mut socket, &one.socket)?);
                }
                Ok(())
            };
            let Some(first) = of_netns.first() else { continue };
            if let Err(error) = first.netns.run(close).and_then(|closed| closed) {
                reached.failures.push(error);
            }
        }
        reached
    }
}

fn translated(
    connected: Vec<(Arc<Netns>, Connected)>,
    memories: &BTreeMap<u64, Vec<Translation>>,
) -> Vec<TranslatedSocket> {
    let one = |(netns, socket): (Arc<Netns>, Connected)| {
        // The others are to endpoints that it left.
        let now = memories.get(&socket.cookie)?.iter().find(|one| one.backend == socket.peer)?;
        let Translation { frontend, backend, service, .. } = *now;
        Some(TranslatedSocket { frontend, backend, service, netns, socket })
    };
    connected.into_iter().filter_map(one).collect()
}

fn lacking(lacks: &'static str, error: Error) -> Error {
    match error {
        Error::Kernel { .. } => Error::CannotClose { lacks },
        other => other,
    }
}

fn namespaces(folder: &Path) -> Vec<Result<Netns>> {
    let failed = |source| Error::Namespace { step: NamespaceStep::Open, path: folder.to_owned(), source };
    let mut found = vec![Netns::own()];
    match fs::read_dir(folder) {
        Ok(entries) => found
            .extend(entries.map(|entry| entry.map_err(failed).and_then(|entry| Netns::open(&entry.path())))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => found.push(Err(failed(error))),
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_namespace_is_told_and_stands_in_no_ones_way() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "x").unwrap();
        let told =
            |folder: &Path| -> Vec<bool> { namespaces(folder).into_iter().map(|one| one.is_ok()).collect() };
        assert_eq!(told(folder.path()), [true, false]);
        assert_eq!(told(&folder.path().join("none")), [true]);
    }
}
