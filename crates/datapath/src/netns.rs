//! Network namespaces of pods.
//!
//! A thread enters a namespace for a piece of work and is back before it does anything else, also when the work panics: in
//! a pod's namespace it would do the next pod's work there. If the kernel does not let it back, the process ends at once.
//! (A thread of its own for each stay was safe by itself, and took a little longer: docs/benchmarks.md.) What is opened
//! in there (sockets) stays bound to the namespace and may be used from any thread.
//!
//! A namespace is identified by device and inode number of its file (`NetnsId`), not by its path: paths are
//! reused. An open [`Netns`] keeps the namespace alive, so hold it no longer than needed.
//!
//! Sources: namespaces(7), setns(2), ioctl_ns(2).

use std::{
    fmt,
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixDatagram,
    },
    path::{Path, PathBuf},
    str::FromStr,
    thread,
};

use rustix::{
    fs::{Mode, OFlags},
    thread::LinkNameSpaceType,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::{Error, NamespaceStep, Result};

/// An open network namespace.
#[derive(Debug)]
pub struct Netns {
    file: OwnedFd,
    path: PathBuf,
    id: NetnsId,
}

impl Netns {
    /// Opens the namespace at `path`, which comes from outside and may name anything.
    ///
    /// # Errors
    ///
    /// `Namespace` if there is nothing to open, `NotANamespace` if it is something else.
    pub fn open(path: &Path) -> Result<Self> {
        let fail = |step| {
            move |errno: rustix::io::Errno| Error::Namespace {
                step,
                path: path.to_owned(),
                source: errno.into(),
            }
        };
        // Without NONBLOCK a path to a named pipe would hold the request for ever.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = rustix::fs::open(path, flags, Mode::empty()).map_err(fail(NamespaceStep::Open))?;
        if !system::is_network_namespace(file.as_fd()).map_err(fail(NamespaceStep::Identify))? {
            return Err(Error::NotANamespace { path: path.to_owned() });
        }
        let stat = rustix::fs::fstat(&file).map_err(fail(NamespaceStep::Identify))?;
        Ok(Self { file, path: path.to_owned(), id: NetnsId { dev: stat.st_dev, inode: stat.st_ino } })
    }

    /// The kernel's cookie of the calling thread's namespace, by which eBPF programs know it; none where the kernel does
    /// not tell (before 5.14).
    #[must_use]
    pub fn own_cookie() -> Option<u64> {
        // Any socket is in the namespace of the thread that makes it.
        let socket = UnixDatagram::unbound().ok()?;
        system::netns_cookie(socket.as_fd())
    }

    /// Opens the namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// `Namespace` if `/proc` is not there.
    pub fn own() -> Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Makes a namespace without a path. It ends when this is dropped and nobody else holds it.
    ///
    /// # Errors
    ///
    /// `Namespace`.
    pub fn anonymous() -> Result<Self> {
        let path = Path::new("(anonymous)");
        on_own_thread(path, || {
            system::unshare().map_err(|errno| Error::Namespace {
                step: NamespaceStep::Create,
                path: path.to_owned(),
                source: errno.into(),
            })?;
            Self::own()
        })
    }

    /// Tells which namespace this is.
    #[must_use]
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Runs `work` in this namespace. The calling thread must not be one of an async runtime: it stays for as long as the
    /// work takes.
    ///
    /// # Errors
    ///
    /// `Namespace` if the thread could not be moved.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        let _stay = Stay::begin(self)?;
        Ok(work())
    }

    fn enter(&self) -> Result<()> {
        rustix::thread::move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|errno| self.failed(NamespaceStep::Enter, errno.into()))
    }

    fn failed(&self, step: NamespaceStep, source: io::Error) -> Error {
        Error::Namespace { step, path: self.path.clone(), source }
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A thread's stay in a namespace that is not its own, until this is dropped.
struct Stay {
    home: Netns,
}

impl Stay {
    fn begin(there: &Netns) -> Result<Self> {
        let home = Netns::own()?;
        there.enter()?;
        Ok(Self { home })
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        if let Err(error) = self.home.enter() {
            // Whatever this thread did from now on, it would do to a pod instead of the node.
            let _ = writeln!(io::stderr(), "a thread cannot leave the namespace of a pod: {error}");
            std::process::abort();
        }
    }
}

/// Runs `work` on a thread that ends with it.
fn on_own_thread<T: Send>(path: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread =
            thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, work).map_err(|source| {
                Error::Namespace { step: NamespaceStep::StartThread, path: path.to_owned(), source }
            })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Tells which namespace is at `path` now; `None` if there is none any more.
///
/// # Errors
///
/// `Namespace` for any other reason than that it has gone.
pub fn identity(path: &Path) -> Result<Option<NetnsId>> {
    match Netns::open(path) {
        Ok(netns) => Ok(Some(netns.id())),
        Err(error) if error.is_namespace_gone() => Ok(None),
        Err(error) => Err(error),
    }
}

/// What tells one namespace from another as long as it exists: device and inode number of its file.
///
/// Written as `dev:inode`, for example `4:4026532261`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsId {
    /// Device number of the kernel's namespace file system.
    pub dev: u64,
    /// Inode number in it.
    pub inode: u64,
}

impl fmt::Display for NetnsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.dev, self.inode)
    }
}

impl fmt::Debug for NetnsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not a namespace's identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a namespace identity of the form 4:4026532261")]
pub struct ParseNetnsIdError(String);

impl FromStr for NetnsId {
    type Err = ParseNetnsIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split_once(':')
            .and_then(|(dev, inode)| Some(Self { dev: dev.parse().ok()?, inode: inode.parse().ok()? }))
            .ok_or_else(|| ParseNetnsIdError(text.to_owned()))
    }
}

impl Serialize for NetnsId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NetnsId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

mod system {
    //! The calls that rustix does not wrap safely.
    #![allow(unsafe_code)]

    use std::{
        ffi::c_void,
        os::fd::{AsRawFd, BorrowedFd},
    };

    use rustix::{
        io::{Errno, Result},
        ioctl::{Ioctl, IoctlOutput, Opcode, opcode},
        thread::{UnshareFlags, unshare_unsafe},
    };

    const CLONE_NEWNET: i32 = 0x4000_0000;
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    /// `asm-generic/socket.h`; a `u64`.
    const SO_NETNS_COOKIE: i32 = 71;

    /// `NS_GET_NSTYPE`: takes nothing and returns the `CLONE_NEW*` constant.
    struct GetKind;

    // SAFETY: the request reads and writes no memory of ours; its answer is the return value.
    unsafe impl Ioctl for GetKind {
        type Output = IoctlOutput;

        const IS_MUTATING: bool = false;

        fn opcode(&self) -> Opcode {
            opcode::none(0xb7, 0x3)
        }

        fn as_ptr(&mut self) -> *mut c_void {
            std::ptr::null_mut()
        }

        unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> Result<Self::Output> {
            Ok(output)
        }
    }

    /// Moves the calling thread into a new network namespace.
    pub(super) fn unshare() -> Result<()> {
        // SAFETY: only the table of file descriptors is dangerous to part with; it stays shared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
    }

    pub(super) fn netns_cookie(socket: BorrowedFd<'_>) -> Option<u64> {
        let mut cookie = 0_u64;
        let mut size: libc::socklen_t = 8;
        // SAFETY: the kernel writes at most `size` bytes to `cookie`; both outlive the call.
        let failed = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_NETNS_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut size,
            )
        };
        (failed == 0).then_some(cookie)
    }

    pub(super) fn is_network_namespace(file: BorrowedFd<'_>) -> Result<bool> {
        // On another file system the same request number could mean anything.
        if rustix::fs::fstatfs(file)?.f_type != NSFS_MAGIC {
            return Ok(false);
        }
        // SAFETY: the file is on nsfs, whose requests of this number take no argument.
        match unsafe { rustix::ioctl::ioctl(file, GetKind) } {
            Ok(kind) => Ok(kind == CLONE_NEWNET),
            Err(Errno::NOTTY) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_network_namespaces_open() {
        for (path, expect) in [
            ("/proc/self/ns/net", "namespace"),
            ("/proc/self/ns/uts", "another"),
            ("/proc/self/status", "another"),
            ("/proc", "another"),
            ("/dev/null", "another"),
            ("/proc/self/ns/nothing", "gone"),
        ] {
            let got = match Netns::open(Path::new(path)) {
                Ok(_) => "namespace",
                Err(Error::NotANamespace { .. }) => "another",
                Err(error) if error.is_namespace_gone() => "gone",
                Err(_) => "broken",
            };
            assert_eq!(got, expect, "{path}");
        }
    }

    #[test]
    fn the_identity_is_that_of_the_namespace_and_not_of_the_path() {
        let own = Netns::own().unwrap().id();
        assert_eq!(identity(Path::new("/proc/self/ns/net")).unwrap(), Some(own));
        assert_eq!(identity(Path::new("/proc/self/ns/none")).unwrap(), None);
    }

    #[test]
    fn an_identity_reads_what_it_wrote() {
        let id = NetnsId { dev: 4, inode: 4_026_532_261 };
        assert_eq!(id.to_string(), "4:4026532261");
        for (text, expect) in [("4:4026532261", Some(id)), ("4", None), ("4:x", None), (":", None)] {
            assert_eq!(text.parse().ok(), expect, "{text}");
        }
    }
}
