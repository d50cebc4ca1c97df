//! Work that somebody waits for goes before other work of the machine.
//!
//! While pods start, every processor of a node is busy. A thread that is woken then waits for its turn each time, with a
//! millisecond of work for two milliseconds. Niceness does not shorten that: it counts within a group of processes
//! only, and a share of the processor is no earlier turn.
//!
//! Source: `sched(7)`, `sched_setscheduler(2)`.

use std::io;

/// Has the calling thread run before all threads of the machine that have no real-time priority, with the least of these
/// priorities. What it starts does not inherit that. Whatever it does, the kernel leaves a twentieth of each second to
/// others (`kernel.sched_rt_runtime_us`).
///
/// # Errors
///
/// The process may not (it takes `CAP_SYS_NICE`), or its control group has no time for such threads.
pub fn take() -> io::Result<()> {
    system::round_robin(1)
}

mod system {
    //! One call of the C library.
    #![allow(unsafe_code)]

    use std::io;

    pub(super) fn round_robin(priority: libc::c_int) -> io::Result<()> {
        const THIS_THREAD: libc::pid_t = 0;
        let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
        // SAFETY: plain numbers, for which all bits zero are a value.
        let mut parameters: libc::sched_param = unsafe { std::mem::zeroed() };
        parameters.sched_priority = priority;
        // SAFETY: the kernel reads the parameters during the call.
        match unsafe { libc::sched_setscheduler(THIS_THREAD, policy, &raw const parameters) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const OTHER: &str = "0";
    const ROUND_ROBIN: &str = "2";

    /// The policy of the calling thread, field 41 of `proc_pid_stat(5)`.
    fn policy() -> String {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let behind_name = stat.rsplit_once(") ").unwrap().1;
        behind_name.split(' ').nth(41 - 3).unwrap().to_owned()
    }

    #[test]
    fn the_thread_alone_has_it_or_is_told_that_it_may_not() {
        let (taken, own, of_child) = thread::spawn(|| {
            let taken = take();
            (taken, policy(), thread::spawn(policy).join().unwrap())
        })
        .join()
        .unwrap();
        match taken {
            Ok(()) => assert_eq!((own.as_str(), of_child.as_str()), (ROUND_ROBIN, OTHER)),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
                assert_eq!(own, OTHER);
            }
        }
        assert_eq!(policy(), OTHER);
    }
}
