//! Memory that nothing is in any more goes back to the system.
//!
//! The C library keeps what was freed for the next need. A start needs much more than what comes after it: each object of
//! eBPF programs is loaded beside all types of the kernel (tens of megabytes on a common kernel), and each list of the API
//! server is read whole. So it is asked for it now and then.
//!
//! It does not give back what is free at the end of an arena that is not its first one, and threads have others. There
//! only a bound helps, beyond which the end goes back by itself; the library raises it to twice the largest piece that
//! was freed, which for the types of the kernel is 11 MiB, unless it was set.
//!
//! The program's own pages are another matter. Whenever one is run first, the kernel maps its neighbours with it if their file is in
//! memory anyway, and a start runs much that is never run again: in the end nearly all of the program counts as this process's. Once
//! the start is over all of it is unmapped, and what is run comes back by itself. Nothing is read from a disk for that. This is done
//! once, as breakpoints that somebody sets later (uprobes) would be lost by it.
//!
//! Sources: `malloc_trim(3)`, `mallopt(3)`, `madvise(2)` (`MADV_DONTNEED` of private mappings of files), `proc_pid_maps(5)`; glibc 2.36, `malloc/malloc.c` (`mtrim`, `__libc_free`), `malloc/arena.c`
//! (`heap_trim`).

use std::{fs, io, ops::Range, path::Path, time::Duration};

use tokio::time::{self, Instant};

/// After the start, when programs are loaded and lists are read.
const FIRST: Duration = Duration::from_secs(10);
const EVERY: Duration = Duration::from_secs(60);

/// Bytes that may be free at the end of an arena: what the C library begins with.
const FREE_AT_THE_END: i32 = 128 << 10;

/// Keeps what is free at the ends of arenas within its bound. To be called before there is much to free.
pub(crate) fn bound() {
    system::bound(FREE_AT_THE_END);
}

/// Gives memory back: once the pages of the program, the other once a minute.
pub(crate) async fn give_back() {
    let mut ticks = time::interval_at(Instant::now() + FIRST, EVERY);
    ticks.tick().await;
    match tokio::task::spawn_blocking(unmap_program).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "the program's pages stay where they are"),
        Err(error) => tracing::debug!(%error, "the program's pages stay where they are"),
    }
    loop {
        ticks.tick().await;
        // What is not done this time is done the next.
        let _ = tokio::task::spawn_blocking(system::trim).await;
    }
}

/// Unmaps what this process runs, until it runs it again.
fn unmap_program() -> io::Result<()> {
    let program = fs::read_link("/proc/self/exe")?;
    for range in code_of(&fs::read_to_string("/proc/self/maps")?, &program) {
        system::unmap_code(&range)?;
    }
    Ok(())
}

/// Where the code of a program is, by the kernel's list of mappings. Its data is not code, some of which is written at the start.
fn code_of(maps: &str, program: &Path) -> Vec<Range<usize>> {
    let code = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (range, may) = (words.next()?, words.next()?);
        // Offset, device, inode; a path may have blanks.
        let path = line.splitn(6, ' ').last()?.trim_start();
        if may != "r-xp" || Path::new(path) != program {
            return None;
        }
        let (from, to) = range.split_once('-')?;
        Some(usize::from_str_radix(from, 16).ok()?..usize::from_str_radix(to, 16).ok()?)
    };
    maps.lines().filter_map(code).collect()
}

mod system {
    //! Calls of the C library.
    #![allow(unsafe_code)]

    use std::{io, ops::Range};

    /// Unmaps pages of code of the program.
    pub(super) fn unmap_code(range: &Range<usize>) -> io::Result<()> {
        let start = std::ptr::without_provenance_mut(range.start);
        // SAFETY: the range is a private mapping of a file that may not be written: what is unmapped comes from the same file again,
        // with the same content.
        match unsafe { libc::madvise(start, range.len(), libc::MADV_DONTNEED) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    #[cfg(target_env = "gnu")]
    pub(super) fn bound(bytes: i32) {
        // SAFETY: it sets a number. That it was not taken costs memory only.
        unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, bytes) };
    }

    #[cfg(target_env = "gnu")]
    pub(super) fn trim() {
        // SAFETY: it touches only memory that is free.
        unsafe { libc::malloc_trim(0) };
    }

    #[cfg(not(target_env = "gnu"))]
    pub(super) fn bound(_: i32) {}

    /// Other C libraries give back by themselves.
    #[cfg(not(target_env = "gnu"))]
    pub(super) fn trim() {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::File,
        io::Read,
        sync::{Mutex, PoisonError},
    };

    /// One test at a time: each looks at the memory of the whole process.
    static ALONE: Mutex<()> = Mutex::new(());

    /// Resident memory of this process, in kB. Takes none itself, which would lie behind what is looked at.
    fn resident() -> u64 {
        resident_of("VmRSS:")
    }

    fn resident_of(what: &str) -> u64 {
        let mut status = [0; 8192];
        let read = File::open("/proc/self/status").unwrap().read(&mut status).unwrap();
        let status = std::str::from_utf8(&status[..read]).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn the_program_s_code_is_found_and_nothing_else() {
        let maps = "5581a0000000-5581a0100000 r--p 00000000 fe:00 1234                       /opt/my daemon\n\
                    5581a0100000-5581a0200000 r-xp 00100000 fe:00 1234                       /opt/my daemon\n\
                    5581a0200000-5581a0300000 rw-p 00200000 fe:00 1234                       /opt/my daemon\n\
                    7f0000000000-7f0000100000 r-xp 00000000 fe:00 99                         /lib/libc.so.6\n\
                    7ffd00000000-7ffd00001000 r-xp 00000000 00:00 0                          [vdso]\n";
        let found = |program: &str| -> Vec<(usize, usize)> {
            code_of(maps, Path::new(program)).into_iter().map(|range| (range.start, range.end)).collect()
        };
        assert_eq!(found("/opt/my daemon"), [(0x5581_a010_0000, 0x5581_a020_0000)]);
        assert!(found("/opt/other").is_empty());
    }

    #[test]
    fn code_that_is_not_run_is_not_resident() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let program = fs::read_link("/proc/self/exe").unwrap();
        let code = code_of(&fs::read_to_string("/proc/self/maps").unwrap(), &program);
        assert_eq!(code.len(), 1);
        let before = resident_of("RssFile:");
        unmap_program().unwrap();
        let after = resident_of("RssFile:");
        assert!(after < before, "{before} kB before, {after} kB after");
    }

    #[cfg(target_env = "gnu")]
    #[test]
    fn what_was_freed_is_not_resident() {
        const PIECE: usize = 1000;
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pieces: Vec<Vec<u8>> = (0..40_000).map(|_| vec![1; PIECE]).collect();
        // The last one is in use: nothing shrinks by itself.
        let last = pieces.pop();
        drop(pieces);
        let before = resident();
        system::trim();
        let after = resident();
        assert!(after + 30_000 < before, "{before} kB before, {after} kB after");
        drop(last);
    }

    /// As after the types of the kernel were read: one large piece, then many small ones, all on a thread.
    #[cfg(target_env = "gnu")]
    #[test]
    fn the_end_of_an_arena_goes_back() {
        const LARGE: usize = 30 << 20;
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        bound();
        let thread = std::thread::spawn(|| {
            drop(vec![1_u8; LARGE]);
            let pieces: Vec<Vec<u8>> = (0..40_000).map(|_| vec![1; 1000]).collect();
            let before = resident();
            drop(pieces);
            system::trim();
            (before, resident())
        });
        let (before, after) = thread.join().unwrap();
        assert!(after + 30_000 < before, "{before} kB before, {after} kB after");
    }
}
