//! Interfaces of live network namespaces: the only proof of who uses which port when nothing else is left.

use std::{fs, path::Path, path::PathBuf};

use kuryr_types::MacAddr;

use crate::{
    error::{Error, NamespaceStep, Result},
    link,
    netlink::Socket,
    netns::{Netns, NetnsId},
};

/// An interface in a live namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveInterface {
    /// Path of the namespace.
    pub netns: PathBuf,
    /// Which namespace it is.
    pub id: NetnsId,
    /// Name of the interface.
    pub ifname: String,
    /// Its hardware address.
    pub mac: MacAddr,
}

/// Lists the Ethernet interfaces in all namespaces whose paths are directly below `folder`; none if there is no such
/// folder. What is no namespace, or goes meanwhile, is passed over.
///
/// # Errors
///
/// `Namespace` for a folder that cannot be read or a namespace that cannot be entered, `Kernel`.
pub fn interfaces(folder: &Path) -> Result<Vec<LiveInterface>> {
    let failed = |source| Error::Namespace { step: NamespaceStep::Open, path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        match Netns::open(&path) {
            Ok(netns) => found.extend(of_namespace(&path, &netns)?),
            Err(error) if error.is_namespace_gone() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn of_namespace(path: &Path, netns: &Netns) -> Result<Vec<LiveInterface>> {
    let links = netns.run(|| link::list(&mut Socket::route()?))??;
    let one = |link: link::Link| {
        let mac = link.mac.filter(|mac| mac.0 != [0; 6])?;
        Some(LiveInterface { netns: path.to_owned(), id: netns.id(), ifname: link.name, mac })
    };
    Ok(links.into_iter().filter_map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_namespace_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "x").unwrap();
        assert_eq!(interfaces(folder.path()).unwrap(), []);
        assert_eq!(interfaces(&folder.path().join("none")).unwrap(), []);
    }
}
