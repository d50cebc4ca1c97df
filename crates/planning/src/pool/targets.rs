//! How many ports a node should have, and when they are made.
//!
//! *Spare* are free ports that nobody waits for or is known to come for. There are two rules for how many there
//! should be ([`Rule`]):
//!
//! **Learned**, unless the configuration says otherwise. The *level* is what came at once before, and a quarter
//! more, or the greatest wave that could come, between `least` and `most`.
//!
//! 1. Missing ports (pods wait or are known to come, and there are fewer free ports) are made at once: urgent.
//! 2. While pods arrive as a stream, ports are made as soon as those of the next seconds are not there: urgent, too.
//! 3. Up to `least` without, and up to the level with those ports that come back soon, ports are made when it is
//!    calm. A burst that the pool can serve so makes no call to the cloud while it runs.
//! 4. Ports that come back are offered again while fewer are spare than the level plus what may be in use and what is
//!    announced: after a burst has come and gone, all of its ports stay, and the next one takes them.
//! 5. Beyond that and a distance, ports are withdrawn.
//!
//! **Upstream's**, if `ports_pool_min`, `ports_pool_max` or `ports_pool_batch` is set. With fewer than `min` free,
//! `max(batch, min - free)` are made, by one request. Ports that come back are kept while fewer than `max` are free,
//! or always if that is 0. Only the moment is ours: at once if a pod has none or a stream of pods arrives, else
//! when it is calm; and what a lower `max` makes surplus is withdrawn (upstream keeps it until it was used).
//!
//! Sources: Kuryr-Kubernetes 10.0, `vif_pool.py`, `_populate_pool`, `_recyclable_ports`.

use super::inputs::Millis;
use crate::demand::{Arrivals, Coming, Urgency, arrivals::LEAD};

/// Ports that are made by one request at most. Neutron makes them one after the other and answers after the last.
const REQUEST_MOST: usize = 10;
/// The same for what is not urgent: a request that is under way cannot be overtaken.
const COMFORT_MOST: usize = 5;
/// What the level leaves room for in any case, and the distance to where ports are withdrawn: a Deployment that
/// breathes makes and deletes none.
const BREATH: usize = 10;

/// How many ports, from configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Levels {
    /// How many should be spare.
    pub rule: Rule,
    /// Ports of the node, of all kinds, beyond which none are made.
    pub cap: usize,
}

/// How it is decided how many ports should be spare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// By what the node has lived through and what is about to come.
    Learned {
        /// The lowest level.
        least: usize,
        /// The highest level.
        most: usize,
    },
    /// By fixed figures.
    Upstream {
        /// `ports_pool_min`.
        min: usize,
        /// `ports_pool_batch`, at least 1.
        batch: usize,
        /// `ports_pool_max`; 0: not set.
        max: usize,
    },
}

/// Free ports against pods that need one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Supply {
    /// Ports that a pod could take, now or as soon as they are plugged.
    pub free: usize,
    /// Ports that are being made, or are made and not offered yet.
    pub making: usize,
    /// Good ports of pods that are gone, whose addresses rest.
    pub resting: usize,
    /// Pods that wait.
    pub waiting: usize,
}

/// What is expected of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expected {
    /// Pods that are known to come, and the greatest wave that could.
    pub coming: Coming,
    /// How many came at once before.
    pub peak: usize,
    /// How many come in the time that a refill takes, if they come as a stream.
    pub stream: Option<usize>,
    /// Whether nobody arrives and nobody waits.
    pub is_calm: bool,
}

/// What to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refill {
    /// Nothing.
    Nothing,
    /// Nothing before it is calm.
    WhenCalm,
    /// So many, by one request.
    Now(usize, Urgency),
}

impl Expected {
    /// What `arrivals` teach and `coming` announces.
    #[must_use]
    pub fn new(arrivals: &Arrivals, coming: Coming, now: Millis) -> Self {
        Self {
            coming,
            peak: arrivals.peak(now),
            stream: arrivals.is_stream(now).then(|| arrivals.lately(now, LEAD)),
            is_calm: arrivals.calm_at() <= now,
        }
    }

    /// Pods that are known to come, as far as ports are made for them before they are here.
    fn announced(self, most: usize) -> usize {
        self.coming.pods.min(most)
    }
}

impl Supply {
    /// Ports that nobody waits for.
    #[must_use]
    pub const fn spare(self) -> usize {
        self.free.saturating_sub(self.waiting)
    }

    const fn soon(self) -> usize {
        self.free + self.making
    }
}

impl Levels {
    /// How many ports to make by the next request.
    #[must_use]
    pub fn refill(&self, supply: Supply, expected: Expected) -> Refill {
        match self.rule {
            Rule::Upstream { min, batch, .. } => by_upstream(min, batch, supply, expected),
            Rule::Learned { least, most } => {
                let level = self.level(expected);
                learned((least, level, most), supply, expected)
            }
        }
    }

    /// Up to here, ports that come back are offered again.
    #[must_use]
    pub fn keep(&self, expected: Expected) -> usize {
        match self.rule {
            Rule::Upstream { max: 0, .. } => usize::MAX,
            Rule::Upstream { max, .. } => max,
            Rule::Learned { most, .. } => {
                let level = self.level(expected);
                (level + expected.peak.max(BREATH)).min(most).max(level) + expected.announced(most)
            }
        }
    }

    /// Beyond here, ports are surplus.
    #[must_use]
    pub fn most(&self, expected: Expected) -> usize {
        let keep = self.keep(expected);
        match self.rule {
            // As many as one request may make beyond `max`.
            Rule::Upstream { min, batch, .. } => keep.max((min + batch).saturating_sub(1)),
            Rule::Learned { most, .. } => keep + breath(most),
        }
    }

    /// Whether one more port would be surplus at once: pods that wait want theirs also where nothing is kept.
    #[must_use]
    pub fn is_full(&self, supply: Supply, expected: Expected) -> bool {
        supply.free >= supply.waiting.saturating_add(self.most(expected))
    }

    /// How many ports to withdraw.
    #[must_use]
    pub fn surplus(&self, supply: Supply, expected: Expected) -> usize {
        let spare = supply.spare();
        if spare > self.most(expected) { spare - self.keep(expected) } else { 0 }
    }

    /// The peak of which a pool of `free` ports tells; under it, none of them is surplus.
    #[must_use]
    pub fn peak_of(&self, free: usize) -> usize {
        match self.rule {
            Rule::Upstream { .. } => 0,
            // Kept are a peak, a quarter more, and a peak again.
            Rule::Learned { most, .. } => (free.min(most + breath(most)) * 4).div_ceil(9),
        }
    }

    fn level(&self, expected: Expected) -> usize {
        match self.rule {
            Rule::Upstream { min, .. } => min,
            Rule::Learned { least, most } => {
                let learned = expected.peak + expected.peak.div_ceil(4);
                learned.max(expected.coming.wave).max(least).min(most.max(least))
            }
        }
    }
}

/// How far a pool of at most `most` may go beyond what is kept: not at all, where nothing is kept ready.
fn breath(most: usize) -> usize {
    BREATH.min(most)
}

fn by_upstream(min: usize, batch: usize, supply: Supply, expected: Expected) -> Refill {
    let free = supply.soon().saturating_sub(supply.waiting);
    let count = batch.max(min.saturating_sub(free));
    // A `min` of 0 means: on demand.
    let is_missing = supply.waiting > supply.soon();
    match () {
        () if free >= min && !is_missing => Refill::Nothing,
        () if is_missing || expected.stream.is_some() => Refill::Now(count, Urgency::Urgent),
        () if expected.is_calm => Refill::Now(count, Urgency::Comfort),
        () => Refill::WhenCalm,
    }
}

fn learned((least, level, most): (usize, usize, usize), supply: Supply, expected: Expected) -> Refill {
    let needed = supply.waiting + expected.announced(most);
    let (missing, spare) = (needed.saturating_sub(supply.soon()), supply.soon().saturating_sub(needed));
    let ahead = expected.stream.map_or(0, |pods| pods.min(most).saturating_sub(spare));
    let urgent = if missing > 0 { missing } else { ahead };
    if urgent > 0 {
        return Refill::Now(urgent.min(REQUEST_MOST), Urgency::Urgent);
    }
    let wanted = least.max(level.saturating_sub(supply.resting)).saturating_sub(spare);
    match wanted {
        0 => Refill::Nothing,
        _ if expected.is_calm => Refill::Now(wanted.min(COMFORT_MOST), Urgency::Comfort),
        _ => Refill::WhenCalm,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Refill::*, Urgency::*, *};

    const LEARNED: Levels = Levels { rule: Rule::Learned { least: 20, most: 60 }, cap: 1000 };

    const fn upstream(min: usize, batch: usize, max: usize) -> Levels {
        Levels { rule: Rule::Upstream { min, batch, max }, cap: 1000 }
    }

    fn supply(free: usize, waiting: usize) -> Supply {
        Supply { free, waiting, ..Supply::default() }
    }

    const CALM: Expected =
        Expected { coming: Coming { pods: 0, wave: 0 }, peak: 0, stream: None, is_calm: true };
    const BUSY: Expected = Expected { is_calm: false, ..CALM };

    #[test]
    fn upstreams_arithmetic() {
        for ((min, batch, max), free, waiting, expect, surplus) in [
            ((5, 10, 0), 0, 0, Now(10, Comfort), 0),
            ((5, 10, 0), 4, 0, Now(10, Comfort), 0),
            ((5, 10, 0), 5, 0, Nothing, 0),
            ((5, 10, 0), 15, 10, Nothing, 0),
            ((5, 10, 0), 15, 11, Now(10, Comfort), 0),
            ((5, 10, 0), 5, 30, Now(10, Urgent), 0),
            // max(batch, min - free).
            ((20, 3, 0), 5, 0, Now(15, Comfort), 0),
            ((20, 3, 0), 18, 0, Now(3, Comfort), 0),
            ((0, 3, 0), 0, 0, Nothing, 0),
            ((0, 3, 0), 0, 1, Now(3, Urgent), 0),
            // Without `max` nothing is given back; with it, what a request made may stay.
            ((5, 10, 0), 900, 0, Nothing, 0),
            ((5, 10, 15), 15, 0, Nothing, 0),
            ((5, 10, 15), 16, 0, Nothing, 1),
            ((5, 10, 10), 14, 0, Nothing, 0),
            ((5, 10, 10), 15, 0, Nothing, 5),
        ] {
            let levels = upstream(min, batch, max);
            let supply = supply(free, waiting);
            assert_eq!(levels.refill(supply, CALM), expect, "{levels:?} {supply:?}");
            assert_eq!(levels.surplus(supply, CALM), surplus, "{levels:?} {supply:?}");
        }
        assert_eq!((upstream(5, 10, 15).keep(CALM), upstream(5, 10, 0).keep(CALM)), (15, usize::MAX));
        let stream = Expected { stream: Some(3), ..BUSY };
        assert_eq!(upstream(5, 10, 0).refill(supply(4, 0), BUSY), WhenCalm);
        assert_eq!(upstream(5, 10, 0).refill(supply(4, 0), stream), Now(10, Urgent));
        assert_eq!(upstream(5, 10, 0).refill(supply(0, 1), BUSY), Now(10, Urgent));
    }

    #[test]
    fn a_burst_that_the_pool_serves_makes_no_port_while_it_runs() {
        for (free, waiting) in [(20, 0), (20, 15), (15, 15), (8, 8), (5, 0), (0, 0)] {
            let refill = LEARNED.refill(supply(free, waiting), BUSY);
            assert!(matches!(refill, Nothing | WhenCalm), "{free} {waiting}: {refill:?}");
        }
        assert_eq!(LEARNED.refill(supply(15, 16), BUSY), Now(1, Urgent));
        assert_eq!(LEARNED.refill(supply(0, 50), BUSY), Now(10, Urgent));
        assert_eq!(LEARNED.refill(supply(5, 0), CALM), Now(5, Comfort));
        assert_eq!(LEARNED.refill(supply(17, 0), CALM), Now(3, Comfort));
        assert_eq!(LEARNED.refill(supply(20, 0), CALM), Nothing);
    }

    #[test]
    fn what_is_expected_counts() {
        let coming = |pods, wave| Expected { coming: Coming { pods, wave }, ..BUSY };
        // A rollout of 60 pods on two nodes.
        assert_eq!(LEARNED.refill(supply(20, 0), coming(30, 15)), Now(10, Urgent));
        assert_eq!(
            LEARNED.refill(Supply { making: 10, ..supply(20, 0) }, coming(30, 15)),
            WhenCalm,
            "they are being made"
        );
        // No workload makes more than `most`.
        assert_eq!(LEARNED.refill(supply(60, 0), coming(900, 0)), WhenCalm);
        // A wave is waited for in calm.
        assert_eq!(LEARNED.refill(supply(20, 0), coming(0, 25)), WhenCalm);
        assert_eq!(
            LEARNED.refill(supply(20, 0), Expected { is_calm: true, ..coming(0, 25) }),
            Now(5, Comfort)
        );
        // A stream takes twelve in the time of a refill.
        let stream = Expected { stream: Some(12), ..BUSY };
        assert_eq!(LEARNED.refill(supply(12, 0), stream), WhenCalm);
        assert_eq!(LEARNED.refill(supply(9, 0), stream), Now(3, Urgent));
    }

    #[test]
    fn ports_that_come_back_count_beyond_the_least() {
        let learned = Expected { peak: 32, ..CALM };
        let after = |free, resting| LEARNED.refill(Supply { resting, ..supply(free, 0) }, learned);
        assert_eq!(after(10, 30), Now(5, Comfort), "to the least at once");
        assert_eq!(after(20, 30), Nothing, "the rest comes back");
        assert_eq!(after(20, 10), Now(5, Comfort), "not all of it");
        assert_eq!((LEARNED.level(learned), LEARNED.keep(learned), LEARNED.most(learned)), (40, 60, 70));
        assert_eq!((LEARNED.level(CALM), LEARNED.keep(CALM), LEARNED.most(CALM)), (20, 30, 40));
    }

    #[test]
    fn a_pool_of_nothing_keeps_nothing() {
        let on_demand = Levels { rule: Rule::Learned { least: 0, most: 0 }, cap: 1000 };
        for (free, waiting, expect, surplus) in [
            // What an earlier configuration kept ready, or a pod that is gone had waited for.
            (10, 0, Nothing, 10),
            (1, 0, Nothing, 1),
            (0, 0, Nothing, 0),
            (0, 3, Now(3, Urgent), 0),
            (3, 3, Nothing, 0),
        ] {
            assert_eq!(on_demand.refill(supply(free, waiting), CALM), expect, "{free} {waiting}");
            assert_eq!(on_demand.surplus(supply(free, waiting), CALM), surplus, "{free} {waiting}");
            assert_eq!(on_demand.is_full(supply(free, waiting), CALM), free >= waiting, "{free} {waiting}");
        }
        assert_eq!((on_demand.keep(CALM), on_demand.peak_of(100)), (0, 0));
    }

    fn levels() -> impl Strategy<Value = Levels> {
        let learned =
            (0..30usize, 0..60usize).prop_map(|(least, more)| Rule::Learned { least, most: least + more });
        let upstream = (0..30usize, 1..20usize, 0..40usize).prop_map(|(min, batch, more)| Rule::Upstream {
            min,
            batch,
            max: if more == 0 { 0 } else { min + more },
        });
        prop_oneof![learned, upstream].prop_map(|rule| Levels { rule, cap: 1000 })
    }

    fn expected() -> impl Strategy<Value = Expected> {
        let coming = (0..100usize, 0..100usize).prop_map(|(pods, wave)| Coming { pods, wave });
        // A stream is part of the peak.
        (coming, 0..100usize, any::<bool>(), any::<bool>()).prop_map(|(coming, peak, is_stream, is_calm)| {
            Expected { coming, peak, stream: is_stream.then_some(peak), is_calm }
        })
    }

    proptest! {
        #[test]
        fn filling_comes_to_rest_and_nothing_that_was_made_is_surplus(
            levels in levels(), expected in expected(), waiting in 0..80usize, resting in 0..40usize,
        ) {
            let mut now = Supply { waiting, resting, ..Supply::default() };
            for _ in 0..200 {
                match levels.refill(now, expected) {
                    Now(count, _) => {
                        prop_assert!(count > 0);
                        now.free += count;
                    }
                    Nothing | WhenCalm => break,
                }
            }
            prop_assert!(!matches!(levels.refill(now, expected), Now(..)), "comes to rest: {now:?}");
            prop_assert!(now.free >= waiting, "everybody who waits gets one");
            prop_assert_eq!(levels.surplus(now, expected), 0, "{:?}", now);
            let Rule::Learned { most, .. } = levels.rule else { return Ok(()) };
            // Those who were announced have come.
            let come = Supply { waiting: waiting + expected.coming.pods.min(most), ..now };
            let after = Expected { coming: Coming { pods: 0, ..expected.coming }, ..expected };
            prop_assert_eq!(levels.surplus(come, after), 0, "{:?}", come);
            prop_assert!(now.spare() <= expected.coming.pods.min(most) + most + 1, "bounded");
        }

        #[test]
        fn more_free_ports_never_make_more(
            levels in levels(), expected in expected(), free in 0..80usize, waiting in 0..80usize,
        ) {
            let count = |free| match levels.refill(supply(free, waiting), expected) {
                Now(count, _) => count,
                Nothing | WhenCalm => 0,
            };
            let is_learned = matches!(levels.rule, Rule::Learned { .. });
            prop_assert!(!is_learned || free + count(free) <= free + 1 + count(free + 1));
            prop_assert!(is_learned || count(free + 1) <= count(free).max(1));
        }

        #[test]
        fn a_pool_that_is_found_is_not_given_back(least in 0..30usize, more in 0..60usize, free in 0..200usize) {
            let levels = Levels { rule: Rule::Learned { least, most: least + more }, cap: 1000 };
            let found = free.min(levels.most(Expected { peak: 1000, ..CALM }));
            let expected = Expected { peak: levels.peak_of(found), ..CALM };
            prop_assert_eq!(levels.surplus(supply(found, 0), expected), 0);
        }
    }
}
