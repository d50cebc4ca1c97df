//! What sockets remember of Services, of all sockets of the node's programs: read by an eBPF iterator over the map in
//! which they do, whatever network namespace they are in.
//!
//! An iterator is a program, a link of it to a map, and a file from which the kernel gives what the program writes. The
//! library has that for iterators without a map only.
//!
//! Sources: bpf(2); kernel `include/uapi/linux/bpf.h` (`BPF_LINK_CREATE`, `BPF_ITER_CREATE`, `union bpf_iter_link_info`),
//! `net/core/bpf_sk_storage.c` (`bpf_sk_storage_map_reg_info`), `Documentation/bpf/bpf_iterators.rst`.

use std::{
    fs::File,
    io::{BufReader, ErrorKind, Read},
    os::fd::{AsFd, BorrowedFd},
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{Iter, ProgramError},
};
use kuryr_ebpf::SOCKETS_ITERATOR;
use kuryr_ebpf_maps::socket::SOCKET_STATE_BYTES;

use crate::error::{Error, Result};

/// Kind of map whose values are iterated.
const KIND: &str = "bpf_sk_storage_map";
/// Read at once: about a hundred sockets.
const BUFFER: usize = 16 * 1024;

/// The loaded program.
#[derive(Debug)]
pub(crate) struct Remembered(Ebpf);

impl Remembered {
    /// Loads the program.
    ///
    /// # Errors
    ///
    /// `CannotClose` if the kernel has no type information of itself, `ProgramsUnusable`, `Program`.
    pub(crate) fn load() -> Result<Self> {
        let btf = Btf::from_sys_fs()
            .map_err(|_| Error::CannotClose { lacks: "tell its types (CONFIG_DEBUG_INFO_BTF)" })?;
        let mut programs = EbpfLoader::new()
            .load(kuryr_ebpf::SOCKETS_OBJECT)
            .map_err(|error| Error::ProgramsUnusable { source: Box::new(error) })?;
        iterator(&mut programs)?.load(KIND, &btf).map_err(failed)?;
        Ok(Self(programs))
    }

    /// Reads the values of `map` and passes each on, with the cookie of its socket.
    ///
    /// # Errors
    ///
    /// `Program`, `SocketMemory`.
    pub(crate) fn read(
        &mut self,
        map: BorrowedFd<'_>,
        mut take: impl FnMut(u64, &[u8; SOCKET_STATE_BYTES]),
    ) -> Result<()> {
        let program = iterator(&mut self.0)?;
        let unread = |source| Error::SocketMemory { source };
        let file = system::iterate(program.fd().map_err(failed)?.as_fd(), map).map_err(unread)?;
        let mut file = BufReader::with_capacity(BUFFER, File::from(file));
        let (mut cookie, mut value) = ([0; 8], [0; SOCKET_STATE_BYTES]);
        loop {
            match file.read_exact(&mut cookie) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
                read => read.map_err(unread)?,
            }
            file.read_exact(&mut value).map_err(unread)?;
            take(u64::from_ne_bytes(cookie), &value);
        }
    }
}

fn iterator(programs: &mut Ebpf) -> Result<&mut Iter> {
    let found = programs.program_mut(SOCKETS_ITERATOR).and_then(|program| program.try_into().ok());
    found.ok_or(Error::ObjectIncomplete { what: SOCKETS_ITERATOR })
}

fn failed(error: ProgramError) -> Error {
    Error::Program { program: SOCKETS_ITERATOR, source: Box::new(error) }
}

mod system {
    //! Two commands of bpf(2).
    #![allow(unsafe_code)]

    use std::{
        io, mem,
        os::fd::{AsFd, BorrowedFd, OwnedFd},
    };

    use crate::bpf;

    const BPF_LINK_CREATE: libc::c_int = 28;
    const BPF_ITER_CREATE: libc::c_int = 33;
    const BPF_TRACE_ITER: u32 = 28;

    #[repr(C)]
    struct LinkCreate {
        program: u32,
        target: u32,
        attach_type: u32,
        flags: u32,
        info: u64,
        info_length: u32,
        end: u32,
    }

    #[repr(C)]
    struct IterCreate {
        link: u32,
        flags: u32,
    }

    /// A file of what the program writes about the map.
    pub(super) fn iterate(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        // `union bpf_iter_link_info`, of which a map's iterator has one number.
        let info = bpf::number(map)?;
        let mut asked = LinkCreate {
            program: bpf::number(program)?,
            target: 0,
            attach_type: BPF_TRACE_ITER,
            flags: 0,
            info: &raw const info as u64,
            info_length: u32::try_from(mem::size_of_val(&info)).unwrap_or_default(),
            end: 0,
        };
        // SAFETY: the kernel reads `info_length` bytes of `info`, which lives until the call has returned.
        let link = unsafe { bpf::opening(BPF_LINK_CREATE, &mut asked) }?;
        let mut asked = IterCreate { link: bpf::number(link.as_fd())?, flags: 0 };
        // SAFETY: the command reads numbers only.
        unsafe { bpf::opening(BPF_ITER_CREATE, &mut asked) }
    }
}
