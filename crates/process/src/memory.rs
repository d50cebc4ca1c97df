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
//! Sources: `malloc_trim(3)`, `mallopt(3)`; glibc 2.36, `malloc/malloc.c` (`mtrim`, `__libc_free`), `malloc/arena.c`
//! (`heap_trim`).

use std::time::Duration;

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

/// Gives memory back, once a minute.
pub(crate) async fn give_back() {
    let mut ticks = time::interval_at(Instant::now() + FIRST, EVERY);
    loop {
        ticks.tick().await;
        // What is not done this time is done the next.
        let _ = tokio::task::spawn_blocking(system::trim).await;
    }
}

mod system {
    //! Two calls of the C library.
    #![allow(unsafe_code)]

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
        let mut status = [0; 8192];
        let read = File::open("/proc/self/status").unwrap().read(&mut status).unwrap();
        let status = std::str::from_utf8(&status[..read]).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
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
