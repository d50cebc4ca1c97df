//! Memory that nothing is in any more goes back to the system.
//!
//! The C library keeps what was freed for the next need. A start needs much more than what comes after it: each object of
//! eBPF programs is loaded beside all types of the kernel (tens of megabytes on a common kernel), and each list of the API
//! server is read whole. So it is asked for it now and then.
//!
//! Source: `malloc_trim(3)`.

use std::time::Duration;

use tokio::time::{self, Instant};

/// After the start, when programs are loaded and lists are read.
const FIRST: Duration = Duration::from_secs(10);
const EVERY: Duration = Duration::from_secs(60);

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
    //! One call of the C library.
    #![allow(unsafe_code)]

    #[cfg(target_env = "gnu")]
    pub(super) fn trim() {
        // SAFETY: it touches only memory that is free.
        unsafe { libc::malloc_trim(0) };
    }

    /// Other C libraries give back by themselves.
    #[cfg(not(target_env = "gnu"))]
    pub(super) fn trim() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Resident memory of this process, in kB.
    fn resident() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[cfg(target_env = "gnu")]
    #[test]
    fn what_was_freed_is_not_resident() {
        const PIECE: usize = 1000;
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
}
