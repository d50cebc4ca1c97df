//! Commands of bpf(2) that the library does not have: the call, and descriptors in it.
#![allow(unsafe_code)]

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// A descriptor as the forms of commands have it.
pub(crate) fn number(fd: BorrowedFd<'_>) -> io::Result<u32> {
    u32::try_from(fd.as_raw_fd()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Gives a command that answers by 0 or an error.
///
/// # Safety
///
/// `asked` has to be the form that the command takes, and every address in it has to be good for it.
pub(crate) unsafe fn command<T>(command: libc::c_int, asked: &mut T) -> io::Result<()> {
    // SAFETY: the caller's promise.
    unsafe { call(command, asked) }.map(drop)
}

/// Gives a command that answers by a descriptor.
///
/// # Safety
///
/// As of [`command`], and the command has to be one that returns a descriptor.
pub(crate) unsafe fn opening<T>(command: libc::c_int, asked: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { call(command, asked) }?;
    // SAFETY: the command returns a descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

unsafe fn call<T>(command: libc::c_int, asked: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the caller's promise; the kernel reads and writes no more than the size that it is told.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *asked, mem::size_of::<T>()) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(answer).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}
