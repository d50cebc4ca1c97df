//! Links of eBPF programs to cgroups that are kept by a name on a bpffs, so that they outlive the process.
//!
//! The program of a link is replaced in place: no process meets a moment without a program, and none meets two. The
//! library has that for other kinds of links only.
//!
//! Sources: bpf(2); kernel `include/uapi/linux/bpf.h` (`BPF_OBJ_GET`, `BPF_LINK_UPDATE`, `BPF_OBJ_GET_INFO_BY_FD`),
//! `kernel/bpf/cgroup.c` (`cgroup_bpf_replace`, `bpf_cgroup_link_fill_link_info`).

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// A link that is kept.
#[derive(Debug)]
pub struct PinnedLink(OwnedFd);

/// What a link is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// Number of the program.
    pub program: u32,
    /// Number of the cgroup, which is its directory's inode number; 0 when the cgroup has gone.
    pub cgroup: u64,
}

impl PinnedLink {
    /// Opens the link of that name; `None` if there is none.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        match system::open(path) {
            Ok(link) => Ok(Some(Self(link))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Tells what it is about.
    ///
    /// # Errors
    ///
    /// What the kernel says; `InvalidData` for what is no link to a cgroup.
    pub fn about(&self) -> io::Result<About> {
        system::about(self.0.as_fd())
    }

    /// Puts `program` in the place of the one that is linked.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn replace(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        system::replace(self.0.as_fd(), program)
    }
}

mod system {
    //! Three commands of bpf(2), and their forms.
    #![allow(unsafe_code)]

    use std::{
        ffi::CString,
        io, mem,
        os::{
            fd::{BorrowedFd, OwnedFd},
            unix::ffi::OsStrExt,
        },
        path::Path,
    };

    use super::About;
    use crate::bpf;

    const BPF_OBJ_GET: libc::c_int = 7;
    const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
    const BPF_LINK_UPDATE: libc::c_int = 29;
    const BPF_LINK_TYPE_CGROUP: u32 = 3;

    #[repr(C)]
    struct ObjectGet {
        path: u64,
        fd: u32,
        flags: u32,
    }

    #[repr(C)]
    struct InfoGet {
        fd: u32,
        length: u32,
        info: u64,
    }

    #[repr(C)]
    struct LinkUpdate {
        link: u32,
        new_program: u32,
        flags: u32,
        old_program: u32,
    }

    /// `struct bpf_link_info` of a link to a cgroup.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        pad: u32,
        cgroup: u64,
        attach_type: u32,
        end: u32,
    }

    pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut asked = ObjectGet { path: path.as_ptr() as u64, fd: 0, flags: 0 };
        // SAFETY: the path is a string that ends with a zero byte and lives until the call has returned.
        unsafe { bpf::opening(BPF_OBJ_GET, &mut asked) }
    }

    pub(super) fn about(link: BorrowedFd<'_>) -> io::Result<About> {
        let mut info = Info::default();
        let mut asked = InfoGet {
            fd: bpf::number(link)?,
            length: u32::try_from(mem::size_of::<Info>()).unwrap_or_default(),
            info: &raw mut info as u64,
        };
        // SAFETY: the kernel writes at most `length` bytes to `info`, which lives until the call has returned.
        unsafe { bpf::command(BPF_OBJ_GET_INFO_BY_FD, &mut asked) }?;
        if info.kind != BPF_LINK_TYPE_CGROUP {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no link to a cgroup"));
        }
        Ok(About { program: info.program, cgroup: info.cgroup })
    }

    pub(super) fn replace(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut asked = LinkUpdate {
            link: bpf::number(link)?,
            new_program: bpf::number(program)?,
            flags: 0,
            old_program: 0,
        };
        // SAFETY: the command reads numbers only.
        unsafe { bpf::command(BPF_LINK_UPDATE, &mut asked) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_is_nothing_there_is_no_link() {
        // Without the right to ask the kernel says so before it looks.
        match PinnedLink::open(Path::new("/nonexistent/link")) {
            Ok(found) => assert!(found.is_none()),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        }
    }
}
