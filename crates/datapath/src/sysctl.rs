//! Settings under `/proc/sys/net`, in the network namespace of the calling thread.
//!
//! Source: kernel documentation, "IP Sysctl".

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};

/// An IPv6 setting of one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// Whether the link has IPv6 at all.
    DisableIpv6(bool),
    /// Whether new IPv6 addresses are probed for a duplicate first.
    AcceptDad(bool),
    /// Whether router advertisements are heeded.
    AcceptRa(bool),
}

/// Writes `settings` of `link`, whose name has been checked.
///
/// With `ipv6` false a kernel without IPv6 is fine: it has no such settings.
///
/// # Errors
///
/// `Sysctl`.
pub fn set(link: &str, settings: &[Setting], ipv6: bool) -> Result<()> {
    for setting in settings {
        let (key, value) = setting.parts();
        let path = PathBuf::from(format!("/proc/sys/net/ipv6/conf/{link}/{key}"));
        match write(&path, if value { "1" } else { "0" }) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound && !ipv6 => {}
            Err(source) => return Err(Error::Sysctl { path, value: u8::from(value).to_string(), source }),
        }
    }
    Ok(())
}

/// Lets packets in by `link` from addresses that are reached by another link.
///
/// # Errors
///
/// `Sysctl`.
pub fn loosen_reverse_path(link: &str) -> Result<()> {
    // What holds is the greater one of this and of all links: 2 is loose, 1 strict.
    const LOOSE: &str = "2";
    let path = PathBuf::from(format!("/proc/sys/net/ipv4/conf/{link}/rp_filter"));
    write(&path, LOOSE).map_err(|source| Error::Sysctl { path, value: LOOSE.to_owned(), source })
}

/// The settings that have to be 1 for packets to pass from one link to another; those that are not.
#[must_use]
pub fn not_forwarding() -> Vec<&'static str> {
    let settings = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];
    let is_off = |key: &&str| {
        // A kernel without the family forwards nothing of it.
        fs::read_to_string(format!("/proc/sys/{key}")).is_ok_and(|value| value.trim() == "0")
    };
    settings.into_iter().filter(is_off).collect()
}

/// Writes a setting that is another. The kernel takes its lock for the network's configuration also for writing what is
/// there, and keeps a processor busy while others hold it.
fn write(path: &Path, value: &str) -> io::Result<()> {
    const LONGEST: usize = 16;
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut before = [0; LONGEST];
    let length = file.read_at(&mut before, 0)?;
    if before[..length].trim_ascii() == value.as_bytes() {
        return Ok(());
    }
    file.write_all_at(value.as_bytes(), 0)
}

impl Setting {
    fn parts(self) -> (&'static str, bool) {
        match self {
            Self::DisableIpv6(value) => ("disable_ipv6", value),
            Self::AcceptDad(value) => ("accept_dad", value),
            Self::AcceptRa(value) => ("accept_ra", value),
        }
    }
}
