//! Where the node's processes are: the directory of the cgroup hierarchy of version 2 under which they all run.
//!
//! On a machine that has version 2 only, and beside version 1, the runtime puts every container into that hierarchy.
//! Its root has all processes of the machine, those of containers and of the host. A container with a cgroup namespace
//! of its own sees its own cgroup as the root, which has only itself: that is told from the root by `cgroup.events`,
//! which every cgroup has but the root.
//!
//! Sources: kernel `Documentation/admin-guide/cgroup-v2.rst` ("Namespace", "Core Interface Files"); proc(5), `mountinfo`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};

const MOUNTS: &str = "/proc/self/mountinfo";

/// Finds the directory: the one that is configured, else the root of the hierarchy.
///
/// # Errors
///
/// `NotCgroup2` for what is configured; `NoCgroup2`, `PrivateCgroups`, `Cgroup` for what is found.
pub fn find(configured: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = configured {
        return if is_cgroup2(path) {
            Ok(path.to_owned())
        } else {
            Err(Error::NotCgroup2 { path: path.to_owned() })
        };
    }
    let mounts =
        fs::read_to_string(MOUNTS).map_err(|source| Error::Cgroup { path: MOUNTS.into(), source })?;
    let path = mounted(&mounts).ok_or(Error::NoCgroup2)?;
    if path.join("cgroup.events").exists() { Err(Error::PrivateCgroups { path }) } else { Ok(path) }
}

fn is_cgroup2(path: &Path) -> bool {
    const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;
    rustix::fs::statfs(path).is_ok_and(|found| found.f_type == CGROUP2_SUPER_MAGIC)
}

/// The mount point of the hierarchy; of several the last, which may cover the others.
fn mounted(mounts: &str) -> Option<PathBuf> {
    let mut cgroup2 = mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let is_cgroup2 = after.split(' ').next() == Some("cgroup2");
        let path = before.split(' ').nth(4)?;
        is_cgroup2.then(|| PathBuf::from(unescape(path)))
    });
    cgroup2.next_back()
}

/// Spaces and the like are written as three octal digits.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let byte = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match byte {
            Some(byte) => {
                plain.push(char::from(byte));
                plain.push_str(&part[3..]);
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_hierarchy_of_version_2() {
        let v1 = "30 25 0:26 / /sys/fs/cgroup/pids rw,nosuid shared:9 - cgroup cgroup rw,pids\n";
        let v2 =
            |at: &str| format!("31 25 0:27 / {at} rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate\n");
        for (mounts, expect) in [
            (v1.to_owned(), None),
            (format!("{v1}{}", v2("/sys/fs/cgroup/unified")), Some("/sys/fs/cgroup/unified")),
            (v2("/sys/fs/cgroup"), Some("/sys/fs/cgroup")),
            (v2("/host\\040cgroups/a\\134b"), Some("/host cgroups/a\\b")),
            (
                format!("{}{}", v2("/sys/fs/cgroup"), v2("/sys/fs/cgroup/unified")),
                Some("/sys/fs/cgroup/unified"),
            ),
            ("garbled\n".to_owned(), None),
        ] {
            assert_eq!(mounted(&mounts), expect.map(PathBuf::from), "{mounts}");
        }
    }

    #[test]
    fn what_is_configured_has_to_be_of_version_2() {
        assert!(matches!(find(Some(Path::new("/proc"))), Err(Error::NotCgroup2 { .. })));
        assert!(matches!(find(Some(Path::new("/nonexistent"))), Err(Error::NotCgroup2 { .. })));
    }
}
