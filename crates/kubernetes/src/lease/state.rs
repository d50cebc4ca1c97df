//! The rules of the election, without clock and calls.
//!
//! - *Ours to take* is a lease that does not exist, that nobody holds, that names us, or whose record has not
//!   changed for its duration since we saw it change.
//! - *Held* means from a write that succeeded until `renew_deadline` after it was sent. It ends early when
//!   somebody else's name appears, or the lease disappears.
//! - After any doubt (a conflict, a lost answer) the lease is read before it is written again.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kuryr_types::Epoch;
use tokio::time::Instant;

use super::Term;

/// What a lease says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// Empty: nobody.
    pub(super) holder: String,
    pub(super) duration: Duration,
    pub(super) acquired: Option<Timestamp>,
    pub(super) renewed: Option<Timestamp>,
    pub(super) transitions: i32,
    pub(super) epoch: Epoch,
}

/// What to write next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    Create(Record),
    Update { record: Record, version: String },
}

/// What one candidate knows.
#[derive(Debug)]
pub(super) struct State {
    identity: String,
    lease_duration: Duration,
    renew_deadline: Duration,
    observed: Option<Observed>,
    held: Option<(Term, Instant)>,
    terms: u64,
    /// What we know is certainly what the API server holds, but for what others write meanwhile.
    certain: bool,
}

#[derive(Debug)]
struct Observed {
    record: Record,
    version: String,
    changed_at: Instant,
}

impl State {
    pub(super) fn new(identity: String, lease_duration: Duration, renew_deadline: Duration) -> Self {
        Self {
            identity,
            lease_duration,
            renew_deadline,
            observed: None,
            held: None,
            terms: 0,
            certain: false,
        }
    }

    /// Whether the lease has to be read before the next step: a leader knows it from its own last write.
    pub(super) fn must_read(&self, now: Instant) -> bool {
        !self.certain || self.held(now).is_none()
    }

    /// Notes that the lease may have changed.
    pub(super) fn unsure(&mut self) {
        self.certain = false;
    }

    /// Notes what the lease says.
    pub(super) fn read(&mut self, now: Instant, lease: Option<(Record, String)>) {
        self.certain = true;
        self.observe(now, lease);
        let ours = self.observed.as_ref().is_some_and(|observed| observed.record.holder == self.identity);
        if !ours {
            self.held = None;
        }
    }

    /// Decides what to write; `epoch` waits to be recorded.
    pub(super) fn step(&mut self, now: Instant, wall: Timestamp, epoch: Option<Epoch>) -> Step {
        self.held = self.held(now);
        let Some(observed) = &self.observed else {
            let record = self.ours(wall, None, 0, epoch.unwrap_or(0));
            return Step::Create(record);
        };
        let record = &observed.record;
        if self.held.is_none() && !self.can_take(observed, now) {
            return Step::Nothing;
        }
        let same = record.holder == self.identity;
        let acquired = record.acquired.filter(|_| same && self.held.is_some());
        let transitions = record.transitions.saturating_add(i32::from(!same));
        let epoch = epoch.map_or(record.epoch, |epoch| epoch.max(record.epoch));
        Step::Update {
            record: self.ours(wall, acquired, transitions, epoch),
            version: observed.version.clone(),
        }
    }

    /// Notes that a write, sent at `sent`, succeeded and left the lease like this.
    pub(super) fn wrote(&mut self, sent: Instant, record: Record, version: String) {
        // The record as of before the write tells which epoch we found.
        let found = self.observed.as_ref().map_or(0, |observed| observed.record.epoch);
        let ours = record.holder == self.identity;
        self.observe(sent, Some((record, version)));
        self.certain = true;
        let until = sent + self.renew_deadline;
        self.held = match self.held {
            _ if !ours => None,
            Some((term, _)) => Some((term, until)),
            None => {
                self.terms += 1;
                Some((Term { number: self.terms, epoch: found }, until))
            }
        };
    }

    /// The leadership at `now`, and when it ends unless renewed.
    pub(super) fn held(&self, now: Instant) -> Option<(Term, Instant)> {
        self.held.filter(|(_, until)| now < *until)
    }

    /// The epoch that the lease is known to record.
    pub(super) fn recorded_epoch(&self) -> Option<Epoch> {
        self.observed.as_ref().filter(|_| self.certain).map(|observed| observed.record.epoch)
    }

    /// Ends our leadership; returns the write that gives the lease back.
    pub(super) fn release(&mut self, now: Instant, wall: Timestamp) -> Step {
        let held = self.held(now).is_some() && self.certain;
        self.held = None;
        match &self.observed {
            Some(observed) if held => Step::Update {
                record: Record {
                    holder: String::new(),
                    duration: Duration::from_secs(1),
                    renewed: Some(wall),
                    ..observed.record.clone()
                },
                version: observed.version.clone(),
            },
            _ => Step::Nothing,
        }
    }

    fn observe(&mut self, now: Instant, lease: Option<(Record, String)>) {
        let before = self.observed.take();
        self.observed = lease.map(|(record, version)| {
            let unchanged = before.filter(|before| before.record.same_claim(&record));
            let changed_at = unchanged.map_or(now, |before| before.changed_at);
            Observed { record, version, changed_at }
        });
    }

    fn can_take(&self, observed: &Observed, now: Instant) -> bool {
        let record = &observed.record;
        let patience = record.duration.max(self.lease_duration);
        record.holder.is_empty() || record.holder == self.identity || now >= observed.changed_at + patience
    }

    fn ours(&self, wall: Timestamp, acquired: Option<Timestamp>, transitions: i32, epoch: Epoch) -> Record {
        Record {
            holder: self.identity.clone(),
            duration: self.lease_duration,
            acquired: acquired.or(Some(wall)),
            renewed: Some(wall),
            transitions,
            epoch,
        }
    }
}

impl Record {
    /// Whether nobody renewed or took the lease in between. Somebody's annotation is no renewal.
    fn same_claim(&self, other: &Self) -> bool {
        let claim =
            |record: &Self| (record.holder.clone(), record.acquired, record.renewed, record.transitions);
        claim(self) == claim(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn state() -> State {
        State::new("me".into(), 15 * SECOND, 10 * SECOND)
    }

    fn wall(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn record(holder: &str, renewed: i64, epoch: Epoch) -> Record {
        Record {
            holder: holder.into(),
            duration: 15 * SECOND,
            acquired: Some(wall(0)),
            renewed: Some(wall(renewed)),
            transitions: 3,
            epoch,
        }
    }

    /// Acquires at `now` a lease that was free.
    fn leader(now: Instant) -> State {
        let mut state = state();
        state.read(now, Some((record("", 0, 7), "1".into())));
        let Step::Update { record, .. } = state.step(now, wall(1), None) else { panic!("free for all") };
        state.wrote(now, record, "2".into());
        state
    }

    #[test]
    fn takes_only_what_nobody_holds() {
        let start = Instant::now();
        for (what, lease, later, expect) in [
            ("absent", None, 0, true),
            ("free", Some(record("", 5, 0)), 0, true),
            ("ours from before", Some(record("me", 5, 0)), 0, true),
            ("held", Some(record("you", 5, 0)), 0, false),
            ("held and silent", Some(record("you", 5, 0)), 14, false),
            ("silent for too long", Some(record("you", 5, 0)), 15, true),
            ("says it ended long ago", Some(record("you", -9999, 0)), 1, false),
            ("patient holder", Some(Record { duration: 60 * SECOND, ..record("you", 5, 0) }), 59, false),
            ("hasty holder", Some(Record { duration: SECOND, ..record("you", 5, 0) }), 14, false),
        ] {
            let mut state = state();
            let lease = lease.map(|record| (record, "1".to_owned()));
            state.read(start, lease.clone());
            let now = start + SECOND * later;
            state.read(now, lease);
            assert_eq!(state.step(now, wall(100), None) != Step::Nothing, expect, "{what}");
        }
    }

    #[test]
    fn every_change_of_the_claim_begins_a_new_wait_but_an_annotation_does_not() {
        let start = Instant::now();
        for (second, expect) in [(record("you", 6, 0), false), (record("you", 5, 9), true)] {
            let mut state = state();
            state.read(start, Some((record("you", 5, 0), "1".into())));
            state.read(start + 14 * SECOND, Some((second, "2".into())));
            assert_eq!(state.step(start + 16 * SECOND, wall(0), None) != Step::Nothing, expect);
        }
    }

    #[test]
    fn leads_until_the_deadline_after_sending() {
        let start = Instant::now();
        let mut state = leader(start);
        let term = Term { number: 1, epoch: 7 };
        assert_eq!(state.held(start + 9 * SECOND), Some((term, start + 10 * SECOND)));
        assert_eq!(state.held(start + 10 * SECOND), None);
        // A renewal counts from when it was sent.
        let Step::Update { record, version } = state.step(start + 4 * SECOND, wall(9), None) else {
            panic!()
        };
        assert_eq!((version.as_str(), record.transitions, record.acquired), ("2", 4, Some(wall(1))));
        state.wrote(start + 4 * SECOND, record, "3".into());
        assert_eq!(state.held(start + 13 * SECOND), Some((term, start + 14 * SECOND)));
    }

    #[test]
    fn a_leader_stops_when_it_sees_another_name_or_nothing() {
        let start = Instant::now();
        for (lease, expect) in
            [(Some(record("you", 9, 0)), false), (Some(record("me", 9, 0)), true), (None, false)]
        {
            let mut state = leader(start);
            state.unsure();
            assert!(state.must_read(start));
            state.read(start + SECOND, lease.map(|record| (record, "9".to_owned())));
            assert_eq!(state.held(start + SECOND).is_some(), expect);
        }
    }

    #[test]
    fn a_term_that_ran_out_is_followed_by_another() {
        let start = Instant::now();
        let mut state = leader(start);
        let late = start + 12 * SECOND;
        assert!(state.held(late).is_none() && state.must_read(late));
        state.read(late, Some((record("me", 1, 8), "2".into())));
        let Step::Update { record, .. } = state.step(late, wall(20), None) else { panic!("nobody took it") };
        assert_eq!((record.acquired, record.transitions), (Some(wall(20)), 3), "acquired anew by the same");
        state.wrote(late, record, "3".into());
        assert_eq!(state.held(late).map(|(term, _)| term), Some(Term { number: 2, epoch: 8 }));
    }

    #[test]
    fn an_epoch_is_written_with_a_renewal_and_never_lowered() {
        let start = Instant::now();
        for (offered, expect) in [(Some(8), 8), (Some(3), 7), (None, 7)] {
            let mut state = leader(start);
            let Step::Update { record, .. } = state.step(start, wall(2), offered) else { panic!() };
            assert_eq!(record.epoch, expect);
            state.wrote(start, record, "3".into());
            assert_eq!(state.recorded_epoch(), Some(expect));
            state.unsure();
            assert_eq!(state.recorded_epoch(), None);
        }
    }

    #[test]
    fn gives_back_only_what_is_certainly_held() {
        let start = Instant::now();
        let mut state = leader(start);
        let Step::Update { record, version } = state.release(start, wall(3)) else { panic!() };
        assert_eq!((record.holder.as_str(), record.epoch, version.as_str()), ("", 7, "2"));
        assert_eq!(state.held(start), None);

        let mut state = leader(start);
        state.unsure();
        assert_eq!(state.release(start, wall(3)), Step::Nothing);
        assert_eq!(leader(start).release(start + 11 * SECOND, wall(3)), Step::Nothing);
    }
}
