//! Faults at calls.
//!
//! Every call of a program that goes to a server, to the disk, or changes the kernel or the switch passes [`Faults::meet`];
//! what is read of the kernel does not. Calls are counted from 0, so that a run
//! without faults tells how many there are, and another one can have a certain fault at each of them. Renewals of the
//! Lease are counted only until a program leads: one every two seconds says nothing more than the first.
//!
//! A program that is killed makes no call any more: what it had not begun has no effect, also if its tasks go on for a
//! moment.

use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::{sync::Notify, time::Instant};

use crate::chance::Chance;

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The caller is killed before the call has an effect.
    KillBefore,
    /// The caller is killed after the call had its effect.
    KillAfter,
    /// The call has its effect, and the connection breaks before the answer.
    Lost,
    /// The call has no effect and is never answered.
    Unanswered,
    /// The call has its effect after so many seconds, and is never answered.
    Late(u16),
    /// The call is refused with this status: 401 of the cloud, 409, 429 with `Retry-After`, 500, 503. A kernel or switch
    /// refuses with whatever error, a disk is full.
    Refused(u16),
    /// The call is accepted, and what it began ends in `ERROR`.
    Fails,
}

/// Which calls meet faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// None.
    Never,
    /// The call of this number.
    At(usize, Fault),
    /// One of so many, by chance.
    OneIn(u64),
}

/// The sides that are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The API server.
    Kubernetes,
    /// Keystone and Neutron.
    Cloud,
    /// Octavia, where it is asked for a change.
    Octavia,
    /// The kernel of the caller's node.
    Kernel,
    /// The switch there.
    Switch,
    /// The disk there.
    Disk,
}

/// A call that was made.
#[derive(Debug, Clone)]
pub struct Made {
    /// When, on the paused clock, in milliseconds since the start.
    pub at: u128,
    /// By whom.
    pub caller: String,
    /// Of whom.
    pub side: Side,
    /// What.
    pub line: String,
    /// Whether it wants to change something.
    pub changes: bool,
    /// What it met.
    pub fault: Option<Fault>,
}

impl Side {
    /// What can go wrong with a call of this side.
    #[must_use]
    pub fn faults(self, changes: bool) -> &'static [Fault] {
        match (self, changes) {
            (Self::Cloud, true) => &[
                Fault::KillBefore,
                Fault::KillAfter,
                Fault::Lost,
                Fault::Unanswered,
                Fault::Late(20),
                Fault::Refused(401),
                Fault::Refused(409),
                Fault::Refused(429),
                Fault::Refused(500),
                Fault::Refused(503),
            ],
            (Self::Octavia, _) => &[
                Fault::KillBefore,
                Fault::KillAfter,
                Fault::Lost,
                Fault::Unanswered,
                Fault::Late(20),
                Fault::Fails,
                Fault::Refused(401),
                Fault::Refused(409),
                Fault::Refused(429),
                Fault::Refused(500),
                Fault::Refused(503),
            ],
            (Self::Kubernetes, true) => &[
                Fault::KillBefore,
                Fault::KillAfter,
                Fault::Lost,
                Fault::Unanswered,
                Fault::Late(20),
                Fault::Refused(409),
                Fault::Refused(429),
                Fault::Refused(500),
                Fault::Refused(503),
            ],
            (Self::Kubernetes | Self::Cloud, false) => &[
                Fault::KillBefore,
                Fault::KillAfter,
                Fault::Lost,
                Fault::Unanswered,
                Fault::Refused(429),
                Fault::Refused(500),
                Fault::Refused(503),
            ],
            (Self::Switch, _) => &[Fault::KillBefore, Fault::KillAfter, Fault::Lost, Fault::Refused(0)],
            (Self::Kernel | Self::Disk, _) => &[Fault::KillBefore, Fault::KillAfter, Fault::Refused(0)],
        }
    }
}

/// A program's life; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    life: Arc<Life>,
}

#[derive(Debug)]
struct Life {
    name: String,
    alive: AtomicBool,
    leases: AtomicUsize,
}

/// Calls about the Lease that are counted.
const LEASES_COUNTED: usize = 4;

impl Caller {
    pub(crate) fn new(name: &str) -> Self {
        let life = Life { name: name.to_owned(), alive: AtomicBool::new(true), leases: AtomicUsize::new(0) };
        Self { life: Arc::new(life) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.life.name
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.life.alive.load(Ordering::Relaxed)
    }

    pub(crate) fn kill(&self) {
        self.life.alive.store(false, Ordering::Relaxed);
    }

    fn is_counted(&self, line: &str) -> bool {
        !line.contains("/leases") || self.life.leases.fetch_add(1, Ordering::Relaxed) < LEASES_COUNTED
    }
}

/// What a call meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meets {
    /// Nothing.
    Nothing,
    /// Its caller is dead.
    Dead,
    /// This.
    Fault(Fault),
}

/// Where all calls pass.
#[derive(Debug)]
pub(crate) struct Faults {
    state: Mutex<State>,
    start: Instant,
    /// Told when a program was killed.
    pub(crate) killed: Notify,
}

#[derive(Debug)]
struct State {
    plan: Plan,
    chance: Chance,
    made: Vec<Made>,
}

impl Faults {
    pub(crate) fn new(plan: Plan, chance: Chance) -> Self {
        let state = Mutex::new(State { plan, chance, made: Vec::new() });
        Self { state, start: Instant::now(), killed: Notify::new() }
    }

    /// What the next call meets. A caller that is to be killed before is dead at once.
    pub(crate) fn meet(&self, caller: &Caller, side: Side, line: &str, changes: bool) -> Meets {
        if !caller.is_alive() {
            return Meets::Dead;
        }
        if !caller.is_counted(line) {
            return Meets::Nothing;
        }
        let mut state = self.lock();
        let State { plan, chance, made } = &mut *state;
        let fault = match *plan {
            Plan::At(number, fault) if number == made.len() => Some(fault),
            Plan::OneIn(of) if chance.one_in(of) => chance.pick(side.faults(changes)).copied(),
            _ => None,
        };
        let (caller_name, line) = (caller.name().to_owned(), line.to_owned());
        made.push(Made { at: self.elapsed(), caller: caller_name, side, line, changes, fault });
        drop(state);
        match fault {
            Some(Fault::KillBefore) => {
                self.kill(caller);
                Meets::Dead
            }
            Some(fault) => Meets::Fault(fault),
            None => Meets::Nothing,
        }
    }

    pub(crate) fn kill(&self, caller: &Caller) {
        caller.kill();
        self.killed.notify_one();
    }

    /// From now on nothing goes wrong.
    pub(crate) fn stop(&self) {
        self.lock().plan = Plan::Never;
    }

    pub(crate) fn plan(&self, plan: Plan) {
        self.lock().plan = plan;
    }

    pub(crate) fn made(&self) -> Vec<Made> {
        self.lock().made.clone()
    }

    pub(crate) fn elapsed(&self) -> u128 {
        self.start.elapsed().as_millis()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}
