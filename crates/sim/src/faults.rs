//! Faults at calls.
//!
//! Every call of a program that goes to a server, to the disk, the kernel or the switch passes [`Faults::meet`]. Calls are
//! counted from 0, so that a run
//! without faults tells how many there are, and another one can have a certain fault at each of them. Of looks at the Lease and of
//! its renewals, one every two seconds, some are counted; in what is not harsh only the first calls about it.
//!
//! A program that is killed makes no call any more: what it had not begun has no effect, also if its tasks go on for a
//! moment.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

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
    /// The call has its effect after so many seconds, or at once, and is never answered.
    Late(u16),
    /// The caller's network stands still for so many seconds: this call and all that follow have their effects then, one after
    /// the other, and are answered then, if anybody still waits. A leader is one no more by then.
    Stalled(u16),
    /// Of a watch: each line comes so many seconds late, so that a list tells what was and changes are heard of late.
    Lagging(u16),
    /// Of a watch: after its list nothing comes any more, and nobody says so.
    Mute,
    /// The call is refused with this status: 401, 409, 410 of a watch, 429 with `Retry-After`, 500, 502 of a proxy before the
    /// cloud, 503. A kernel or switch refuses with whatever error, a disk is full.
    Refused(u16),
    /// The call is accepted, and what it began ends in `ERROR`.
    Fails,
    /// Of a disk: half is written, then the caller is killed.
    Torn,
    /// Of ports that are plugged: they become ACTIVE after so many seconds.
    Slow(u16),
    /// Of ports that are plugged together: the first of them stays DOWN, wherever it is plugged again. In what is the same each
    /// time for good.
    Stuck,
    /// Of ports that are made: Neutron ends when it has written them down and before it tells the network of them. No driver binds
    /// them, no switch ever knows them, and the call is never answered.
    HalfMade,
    /// The clock of the caller's machine jumps by so many hours, and the call is made.
    Jumps(i16),
}

/// How much may go wrong in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scope {
    /// Only single calls do, and none that looks at the kernel: runs with Services that are not harsh. In others what watches tell,
    /// too, and whole networks.
    pub(crate) is_calls: bool,
    /// What came later to [`FAULTS`], too.
    pub(crate) is_harsh: bool,
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
    /// The same, asked for a list and what changes about it.
    Watch,
    /// Keystone and Neutron.
    Cloud,
    /// Neutron, asked to make ports.
    Ports,
    /// Octavia, where it is asked for a change.
    Octavia,
    /// The kernel of the caller's node.
    Kernel,
    /// The switch there.
    Switch,
    /// The same, asked to plug ports.
    Plug,
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
    scope: Scope,
}

impl Made {
    /// What it could have met.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        self.side.faults(self.changes, self.scope)
    }
}

/// Everything that can go wrong with calls.
const FAULTS: [Fault; 24] = [
    Fault::KillBefore,
    Fault::KillAfter,
    Fault::Lost,
    Fault::Unanswered,
    Fault::Late(20),
    Fault::Stalled(25),
    Fault::Fails,
    Fault::Lagging(5),
    Fault::Mute,
    Fault::Refused(0),
    Fault::Refused(401),
    Fault::Refused(409),
    Fault::Refused(410),
    Fault::Refused(429),
    Fault::Refused(500),
    Fault::Refused(503),
    Fault::Torn,
    Fault::Late(0),
    Fault::Refused(502),
    Fault::Slow(60),
    Fault::Stuck,
    Fault::HalfMade,
    Fault::Jumps(5),
    Fault::Jumps(-5),
];

impl Side {
    /// What can go wrong with a call of this side.
    fn faults(self, changes: bool, scope: Scope) -> Vec<Fault> {
        let later = if scope.is_harsh { self.later_faults(changes, scope) } else { Vec::new() };
        self.first_faults(changes, scope).into_iter().chain(later).collect()
    }

    /// What could go wrong from the begin, by which a seed is the run that it was then.
    fn first_faults(self, changes: bool, scope: Scope) -> Vec<Fault> {
        self.some_faults(changes, scope, false)
    }

    /// What came later.
    fn later_faults(self, changes: bool, scope: Scope) -> Vec<Fault> {
        self.some_faults(changes, scope, true)
    }

    fn some_faults(self, changes: bool, scope: Scope, later: bool) -> Vec<Fault> {
        let is_in = |fault: &Fault| !(scope.is_calls && matches!(fault, Fault::Stalled(_)));
        let is_some = |fault: &Fault| {
            self.meets(*fault, changes) && is_in(fault) && self.came_later(*fault, changes) == later
        };
        FAULTS.into_iter().filter(is_some).collect()
    }

    fn came_later(self, fault: Fault, changes: bool) -> bool {
        match fault {
            Fault::Refused(401) => !changes || matches!(self, Self::Kubernetes | Self::Watch),
            Fault::Torn | Fault::Late(0) | Fault::Slow(_) | Fault::Stuck | Fault::HalfMade => true,
            Fault::Refused(502) | Fault::Jumps(_) => true,
            _ => false,
        }
    }

    fn meets(self, fault: Fault, changes: bool) -> bool {
        let is_servers =
            changes && matches!(self, Self::Kubernetes | Self::Cloud | Self::Ports | Self::Octavia);
        match fault {
            Fault::KillBefore => true,
            // Whoever is killed after a look at the kernel is killed before what comes next.
            Fault::KillAfter => self != Self::Kernel || changes,
            Fault::Lost => self.is_remote() || matches!(self, Self::Switch | Self::Plug),
            Fault::Unanswered => self.is_remote(),
            Fault::Late(_) | Fault::Refused(409) => is_servers,
            Fault::Stalled(_) => is_servers && self != Self::Octavia,
            Fault::Fails => self == Self::Octavia,
            Fault::Lagging(_) | Fault::Mute | Fault::Refused(410) => self == Self::Watch,
            Fault::Torn => self == Self::Disk,
            Fault::Slow(_) | Fault::Stuck => self == Self::Plug,
            Fault::HalfMade => self == Self::Ports,
            // Nobody else is told what time it is.
            Fault::Jumps(_) => changes && self == Self::Kubernetes,
            Fault::Refused(0) => !self.is_remote(),
            Fault::Refused(502) => matches!(self, Self::Cloud | Self::Ports | Self::Octavia),
            Fault::Refused(_) => self.is_remote(),
        }
    }

    /// Whether calls of this side leave the caller's machine.
    fn is_remote(self) -> bool {
        matches!(self, Self::Kubernetes | Self::Watch | Self::Cloud | Self::Ports | Self::Octavia)
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
    end: CancellationToken,
    /// Calls about the Lease, and those of them that are made every two seconds.
    leases: AtomicUsize,
    routine: AtomicUsize,
    /// Its calls have no effect before then.
    stalled: Mutex<Option<Instant>>,
}

/// Calls about the Lease that are counted in any run.
const LEASES_COUNTED: usize = 4;
/// Of looks at the Lease and renewals one of so many is counted, if the run is harsh.
const ROUTINE_COUNTED: usize = 5;

impl Caller {
    pub(crate) fn new(name: &str) -> Self {
        let life = Life {
            name: name.to_owned(),
            end: CancellationToken::new(),
            leases: AtomicUsize::new(0),
            routine: AtomicUsize::new(0),
            stalled: Mutex::default(),
        };
        Self { life: Arc::new(life) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.life.name
    }

    pub(crate) fn is_alive(&self) -> bool {
        !self.life.end.is_cancelled()
    }

    pub(crate) fn kill(&self) {
        self.life.end.cancel();
    }

    /// Ends when it does.
    pub(crate) async fn dead(&self) {
        self.life.end.cancelled().await;
    }

    /// Holds back its calls; tells until when.
    fn stall(&self, seconds: u16) -> Instant {
        let until = Instant::now() + Duration::from_secs(seconds.into());
        *self.life.stalled.lock().unwrap() = Some(until);
        until
    }

    fn stalled(&self) -> Option<Instant> {
        self.life.stalled.lock().unwrap().filter(|until| Instant::now() < *until)
    }

    /// Whether a call about the Lease is counted: one of the first or, if the run is harsh, one that is not made every two
    /// seconds, or one of many that are.
    fn counts_lease(&self, is_harsh: bool, is_routine: bool) -> bool {
        let count = |of: &AtomicUsize| of.fetch_add(1, Ordering::Relaxed);
        if count(&self.life.leases) < LEASES_COUNTED {
            return true;
        }
        is_harsh && (!is_routine || count(&self.life.routine) % ROUTINE_COUNTED == 0)
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
    /// It waits until then.
    Stalled(Instant),
}

/// Where all calls pass.
#[derive(Debug)]
pub(crate) struct Faults {
    state: Mutex<State>,
    scope: Scope,
    start: Instant,
    /// Told when a program was killed.
    pub(crate) killed: Notify,
}

#[derive(Debug)]
struct State {
    plan: Plan,
    chance: Chance,
    /// Chance of what came later; apart, so that a seed of a run without it is the run that it was.
    later: Chance,
    made: Vec<Made>,
}

/// One fault of so many is one that came later.
const LATER_ONE_IN: u64 = 3;

impl Faults {
    pub(crate) fn new(plan: Plan, (chance, later): (Chance, Chance), scope: Scope) -> Self {
        let state = Mutex::new(State { plan, chance, later, made: Vec::new() });
        Self { state, scope, start: Instant::now(), killed: Notify::new() }
    }

    /// What the next call about the Lease meets, which may be one that is made every two seconds.
    pub(crate) fn meet_about_lease(
        &self,
        caller: &Caller,
        line: &str,
        changes: bool,
        is_routine: bool,
    ) -> Meets {
        if !caller.is_alive() {
            return Meets::Dead;
        }
        if caller.counts_lease(self.scope.is_harsh, is_routine) {
            return self.meet(caller, Side::Kubernetes, line, changes);
        }
        caller.stalled().map_or(Meets::Nothing, Meets::Stalled)
    }

    /// What the next call meets. A caller that is to be killed before is dead at once.
    pub(crate) fn meet(&self, caller: &Caller, side: Side, line: &str, changes: bool) -> Meets {
        if !caller.is_alive() {
            return Meets::Dead;
        }
        let stalled = caller.stalled().filter(|_| side.is_remote());
        let mut state = self.lock();
        let State { plan, chance, later, made } = &mut *state;
        let fault = match *plan {
            _ if stalled.is_some() => None,
            Plan::At(number, fault) if number == made.len() => Some(fault),
            Plan::OneIn(of) if chance.one_in(of) => {
                let first = chance.pick(&side.first_faults(changes, self.scope)).copied();
                let is_later = self.scope.is_harsh && later.one_in(LATER_ONE_IN);
                let later = is_later.then(|| later.pick(&side.later_faults(changes, self.scope)).copied());
                later.flatten().or(first)
            }
            _ => None,
        };
        let (caller_name, line) = (caller.name().to_owned(), line.to_owned());
        let (at, scope) = (self.elapsed(), self.scope);
        made.push(Made { at, caller: caller_name, side, line, changes, fault, scope });
        drop(state);
        if let Some(until) = stalled {
            return Meets::Stalled(until);
        }
        match fault {
            Some(Fault::Stalled(seconds)) => Meets::Stalled(caller.stall(seconds)),
            Some(Fault::KillBefore) => {
                self.kill(caller);
                Meets::Dead
            }
            Some(fault) => Meets::Fault(fault),
            None => Meets::Nothing,
        }
    }

    /// What the next look at the kernel meets.
    pub(crate) fn meet_look(&self, caller: &Caller, line: &str) -> Meets {
        match self.scope.is_calls {
            false => self.meet(caller, Side::Kernel, line, false),
            true if caller.is_alive() => Meets::Nothing,
            true => Meets::Dead,
        }
    }

    /// The side that is asked for a watch.
    pub(crate) fn watch_side(&self) -> Side {
        if self.scope.is_calls { Side::Kubernetes } else { Side::Watch }
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
