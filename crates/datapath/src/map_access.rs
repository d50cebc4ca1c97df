//! eBPF maps without their loader's ceremony, and the directories in which they are pinned.

use std::{fs, path::Path};

use aya::maps::{HashMap, MapData, MapError};
use rustix::io::Errno;

use crate::error::{Error, Result};

pub(crate) fn put<K: aya::Pod, V: aya::Pod>(
    map: &mut HashMap<MapData, K, V>,
    name: &'static str,
    key: K,
    value: V,
) -> Result<()> {
    map.insert(key, value, 0).map_err(map_failed(name))
}

/// Removes a key; one that is not there is success.
pub(crate) fn take<K: aya::Pod, V: aya::Pod>(
    map: &mut HashMap<MapData, K, V>,
    name: &'static str,
    key: &K,
) -> Result<()> {
    match map.remove(key) {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(error) if map_os_error(&error) != Some(Errno::NOENT) => Err(map_failed(name)(error)),
        _ => Ok(()),
    }
}

pub(crate) fn keys<K: aya::Pod, V: aya::Pod>(
    map: &HashMap<MapData, K, V>,
    name: &'static str,
) -> Result<Vec<K>> {
    map.keys().map(|key| key.map_err(map_failed(name))).collect()
}

pub(crate) fn pairs<K: aya::Pod, V: aya::Pod>(
    map: &HashMap<MapData, K, V>,
    name: &'static str,
) -> Result<Vec<(K, V)>> {
    map.iter().map(|pair| pair.map_err(map_failed(name))).collect()
}

pub(crate) fn map_failed(map: &'static str) -> impl Fn(MapError) -> Error {
    move |error| Error::Map { map, source: Box::new(error) }
}

pub(crate) fn map_os_error(error: &MapError) -> Option<Errno> {
    match error {
        MapError::SyscallError(error) => Errno::from_io_error(&error.io_error),
        _ => None,
    }
}

pub(crate) fn create_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|source| Error::PinDirectory { path: path.to_owned(), source })
}

/// Pins exist on a bpffs only; elsewhere the kernel's refusal would not say so.
pub(crate) fn check_bpffs(directory: &Path) -> Result<()> {
    const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
    create_directory(directory)?;
    let kind = rustix::fs::statfs(directory)
        .map_err(|errno| Error::PinDirectory { path: directory.to_owned(), source: errno.into() })?;
    if kind.f_type == BPF_FS_MAGIC { Ok(()) } else { Err(Error::NotBpffs { path: directory.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_refused_outside_a_bpffs() {
        let directory = std::env::temp_dir();
        assert!(matches!(check_bpffs(&directory), Err(Error::NotBpffs { .. })));
    }
}
