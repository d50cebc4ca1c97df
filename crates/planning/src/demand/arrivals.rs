//! What a node has lived through: how many pods came at once, and whether pods are coming just now.
//!
//! Pods *arrive* when they are first seen, scheduled here and on the pods' network. From that follow
//!
//! - the *peak*: the greatest number that arrived within [`WINDOW`], which is about the time in which what was
//!   taken cannot be replaced. It counts in full for [`REMEMBERED`], more than a day, because load repeats by the
//!   day: a burst in the evening says what the morning brings. Then it halves each day.
//! - *calm*: nobody has arrived and nobody waits for [`CALM`]. In a burst the machine is busy starting pods, and
//!   what makes ports (Neutron, the switch) may run on the same machine; ports beyond what is needed now are made
//!   when the burst is over. Pods that wait for longer than [`WAITS_MOST`] wait for something else.
//! - a *stream*: arrivals that have gone on for [`STREAM`]. A burst is over by then, since whoever makes many pods
//!   makes them at once; waiting for calm would mean to wait until the ports are used up.
//!
//! All of it may be forgotten. A first look takes whoever is there for known, and the free ports it finds for
//! what the node needs.

use std::collections::{BTreeSet, VecDeque};

use kuryr_types::PodIdentity;

use crate::pool::Millis;

/// The time in which the peak is taken. A refill waits for calm and then takes Neutron about 0.3 s for each port,
/// for a few nodes in turn; an address that comes back rests half a minute.
pub const WINDOW: Millis = 60_000;
/// Nothing for this long, and a burst is over. Within a burst pods arrive milliseconds apart, and the longest gap
/// that a restarting controller or scheduler makes is about a second.
pub const CALM: Millis = 3_000;
/// A node of two cores takes about five seconds to start thirty pods, and thirteen when it is busy otherwise.
pub const WAITS_MOST: Millis = 20_000;
/// Arrivals that go on for longer are no burst.
pub const STREAM: Millis = 5_000;
/// How far a stream looks ahead: a request for ten ports takes Neutron about three seconds, another one may be before
/// it, and the ports then have to be plugged.
pub const LEAD: Millis = 10_000;
/// How long a peak counts in full: a day, and some hours for days that are not alike.
pub const REMEMBERED: Millis = 30 * HOUR;
/// Then it halves each time this passes.
pub const HALVING: Millis = 24 * HOUR;

const HOUR: Millis = 3_600_000;
/// Peaks are kept by blocks of this length, a week of them.
const BLOCK: Millis = 6 * HOUR;
const BLOCKS: usize = 28;
/// Arrivals are kept by slots of this length.
const SLOT: Millis = 500;

/// What one node has lived through with pods of one class.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arrivals {
    /// Pods of the last look; `None` before the first.
    seen: Option<BTreeSet<PodIdentity>>,
    /// Arrivals within [`WINDOW`]: beginning of the slot, number. Oldest first.
    recent: VecDeque<(Millis, usize)>,
    /// Greatest numbers within [`WINDOW`]: number of the block, number. Oldest first.
    peaks: VecDeque<(u64, usize)>,
    /// When the present row of arrivals began.
    began: Millis,
    /// The last arrival.
    last: Option<Millis>,
    /// When somebody last waited.
    waited: Option<Millis>,
}

impl Arrivals {
    /// Notes one look: the pods that are here, how many of them wait, and of what size the pool was if this
    /// is the first look.
    pub fn look(
        &mut self,
        now: Millis,
        present: BTreeSet<PodIdentity>,
        waiting: usize,
        found: impl FnOnce() -> usize,
    ) {
        match &self.seen {
            None => {
                let inherited = found();
                self.note_peak(now, inherited);
                self.last = (waiting > 0).then_some(now);
                self.began = now;
            }
            Some(seen) => {
                let arrived = present.difference(seen).count();
                self.arrive(now, arrived);
            }
        }
        self.seen = Some(present);
        if waiting > 0 {
            self.waited = Some(now);
        }
    }

    fn arrive(&mut self, now: Millis, count: usize) {
        while self.recent.front().is_some_and(|(at, _)| at + WINDOW <= now) {
            self.recent.pop_front();
        }
        if count == 0 {
            return;
        }
        if self.last.is_none_or(|last| last + CALM <= now) {
            self.began = now;
        }
        self.last = Some(now);
        let slot = now - now % SLOT;
        match self.recent.back_mut() {
            Some((at, number)) if *at == slot => *number += count,
            _ => self.recent.push_back((slot, count)),
        }
        let within = self.recent.iter().map(|(_, number)| number).sum();
        self.note_peak(now, within);
    }

    fn note_peak(&mut self, now: Millis, number: usize) {
        let block = now / BLOCK;
        match self.peaks.back_mut() {
            Some((at, peak)) if *at == block => *peak = number.max(*peak),
            _ if number > 0 => self.peaks.push_back((block, number)),
            _ => {}
        }
        if self.peaks.len() > BLOCKS {
            self.peaks.pop_front();
        }
    }

    /// The greatest number of pods that arrived at once, the less the longer ago it was.
    #[must_use]
    pub fn peak(&self, now: Millis) -> usize {
        let weigh =
            |(block, number): &(u64, usize)| weighed(*number, now.saturating_sub((block + 1) * BLOCK));
        self.peaks.iter().map(weigh).max().unwrap_or(0)
    }

    /// How many arrived within `span`, at most [`WINDOW`].
    #[must_use]
    pub fn lately(&self, now: Millis, span: Millis) -> usize {
        let recent = self.recent.iter().filter(|(at, _)| at + span > now);
        recent.map(|(_, number)| number).sum()
    }

    /// Since when, or from when on, it is calm if nothing happens.
    #[must_use]
    pub fn calm_at(&self) -> Millis {
        let Some(last) = self.last else { return 0 };
        let waited = self.waited.map_or(0, |waited| (waited + CALM).min(last + WAITS_MOST));
        waited.max(last + CALM)
    }

    /// Tells whether pods go on arriving.
    #[must_use]
    pub fn is_stream(&self, now: Millis) -> bool {
        self.last.is_some_and(|last| now < last + CALM && last >= self.began + STREAM)
    }
}

/// What `number` counts after it was remembered and `age` has passed: in between two halvings it shrinks evenly.
fn weighed(number: usize, age: Millis) -> usize {
    let Some(over) = age.checked_sub(REMEMBERED - BLOCK) else { return number };
    let halvings = u32::try_from(over / HALVING).unwrap_or(u32::MAX);
    let whole = number.checked_shr(halvings).unwrap_or(0);
    let rest = usize::try_from(over % HALVING * whole as u64 / (2 * HALVING)).unwrap_or(whole);
    whole.saturating_sub(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pods(count: usize) -> BTreeSet<PodIdentity> {
        (0..count).map(|number| PodIdentity::from(format!("p{number}"))).collect()
    }

    /// Looks at these times, with so many pods in all.
    fn lived(looks: &[(Millis, usize)]) -> Arrivals {
        let mut arrivals = Arrivals::default();
        arrivals.look(0, BTreeSet::new(), 0, || 0);
        for (now, count) in looks {
            arrivals.look(*now, pods(*count), 0, || unreachable!("not the first look"));
        }
        arrivals
    }

    #[test]
    fn a_peak_is_what_came_within_the_window() {
        for (looks, peak) in [
            (&[][..], 0),
            (&[(1_000, 15)], 15),
            // Two at a time, all within the window.
            (&[(1_000, 2), (11_000, 4), (21_000, 6)], 6),
            // The first are too long ago.
            (&[(1_000, 10), (70_000, 14)], 10),
            // Pods that go do not arrive, and their places count again.
            (&[(1_000, 10), (2_000, 0), (3_000, 10)], 20),
        ] {
            assert_eq!(lived(looks).peak(100_000), peak, "{looks:?}");
        }
    }

    #[test]
    fn a_night_is_remembered_and_a_week_is_not() {
        let evening = 18 * HOUR;
        let arrivals = lived(&[(evening, 32)]);
        for (hours, peak) in [(0, 32), (14, 32), (24, 32), (30, 32), (54, 16), (78, 8), (8 * 24, 0)] {
            assert!(arrivals.peak(evening + hours * HOUR) >= peak, "after {hours} h");
        }
        assert!(arrivals.peak(evening + 62 * HOUR) <= 16);
        assert!(arrivals.peak(evening + 8 * 24 * HOUR) <= 1);
    }

    #[test]
    fn a_smaller_burst_each_day_is_not_forgotten_for_a_greater_one() {
        let day = |number: u64| number * 24 * HOUR + 9 * HOUR;
        let looks: Vec<_> =
            (0..7).map(|number| (day(number), if number % 2 == 0 { 20 } else { 0 })).collect();
        let mut arrivals = lived(&[(8 * HOUR, 40), (8 * HOUR + 1, 0)]);
        for (at, count) in looks {
            arrivals.look(at, pods(count), 0, || 0);
        }
        assert!(arrivals.peak(day(7)) >= 20, "{}", arrivals.peak(day(7)));
    }

    #[test]
    fn a_first_look_takes_what_it_finds_for_known() {
        let mut arrivals = Arrivals::default();
        arrivals.look(5_000, pods(30), 0, || 12);
        assert_eq!((arrivals.peak(5_000), arrivals.lately(5_000, WINDOW), arrivals.calm_at()), (12, 0, 0));
        // Unless they wait.
        let mut arrivals = Arrivals::default();
        arrivals.look(5_000, pods(30), 3, || 0);
        assert_eq!(arrivals.calm_at(), 5_000 + CALM);
    }

    #[test]
    fn who_waits_for_ever_does_not_keep_it_from_being_calm() {
        let mut arrivals = lived(&[(1_000, 5)]);
        let mut look = |now, waiting| {
            arrivals.look(now, pods(5), waiting, || 0);
            arrivals.calm_at()
        };
        assert_eq!(look(2_000, 0), 1_000 + CALM);
        assert_eq!(look(9_000, 3), 9_000 + CALM);
        assert_eq!(look(19_000, 3), 1_000 + WAITS_MOST);
        assert_eq!(look(90_000, 3), 1_000 + WAITS_MOST);
    }

    #[test]
    fn a_burst_is_no_stream() {
        let burst = [(1_000, 5), (1_400, 15), (2_900, 30)];
        assert!((1_000..20_000).step_by(100).all(|now| !lived(&burst).is_stream(now)));
        let stream = [(1_000, 5), (3_000, 6), (5_000, 7), (6_100, 8)];
        assert!(lived(&stream).is_stream(6_500));
        assert!(!lived(&stream[..3]).is_stream(5_500), "not long enough");
        assert!(!lived(&stream).is_stream(6_100 + CALM), "over");
        assert!(!lived(&[(1_000, 5), (9_000, 6)]).is_stream(9_000), "a pause begins a new row");
    }

    proptest! {
        #[test]
        fn bounded_and_forgetting(steps in proptest::collection::vec((0..HOUR, 0..50usize), 0..60)) {
            let (mut arrivals, mut now, mut all) = (Arrivals::default(), 0, 0);
            arrivals.look(0, BTreeSet::new(), 0, || 0);
            for (wait, count) in steps {
                now += wait;
                let present = (all..all + count).map(|number| format!("p{number}").into()).collect();
                all += count;
                arrivals.look(now, present, 0, || 0);
                prop_assert!(arrivals.peak(now) >= count, "what came just now is remembered");
                prop_assert!(arrivals.peak(now) <= all);
                prop_assert!(arrivals.lately(now, LEAD) <= arrivals.lately(now, WINDOW));
                prop_assert!(arrivals.recent.len() <= usize::try_from(WINDOW / SLOT).unwrap() + 1);
                prop_assert!(arrivals.peaks.len() <= BLOCKS);
            }
            let later: Vec<_> = (0..10).map(|day| arrivals.peak(now + day * 24 * HOUR)).collect();
            prop_assert!(later.is_sorted_by(|sooner, later| sooner >= later), "{later:?}");
            prop_assert_eq!(arrivals.peak(now + 60 * 24 * HOUR), 0);
        }
    }
}
