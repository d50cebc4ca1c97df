//! Whose turn it is to make ports, and how fast.
//!
//! Every node asks before it makes ports, and says for which *lane*: the subnets of the ports. The answer is a turn
//! for so many ports, or to wait; a turn ends with [`Governor::end`], which says what came of it.
//!
//! 1. In one lane one request runs at a time. Neutron allocates the addresses of a subnet one after the other, so
//!    requests beside each other only meet and begin again. Over all lanes [`Rate::requests`] run at a time.
//! 2. Ports are made at most at [`Rate::per_second`], after a pause for a few seconds at once: a Neutron that others
//!    share is not flooded by one cluster.
//! 3. Pods that wait come first: an urgent wish before a comfortable one, then in the order in which they were
//!    made. Whoever has its turn and does not come loses it after [`COME_WITHIN`].
//! 4. If the cloud as a whole fails (no answer, a server error), everybody waits, for a time that doubles from
//!    failure to failure; then one request tries, and the others wait for what comes of it.
//! 5. If a lane fails (quota, no free address, refused), that lane waits the same way, and no other.
//!
//! A wish is held in memory only; a node that still has it repeats it.

use std::collections::BTreeMap;

use kuryr_api::kuryrnode::Problem;

use crate::pool::Millis;

/// Distances between tries that fail.
const AGAIN_FIRST: Millis = 1_000;
const AGAIN_MOST: Millis = 20_000;
/// A node that has its turn looks at once; it may also have lost its wish, or be gone.
const COME_WITHIN: Millis = 2_000;
/// Whoever waits looks again after this time even if nobody tells it.
const LOOK_AGAIN: Millis = 5_000;
/// After a pause, ports of so many seconds may be made at once.
const SAVED_SECONDS: u64 = 5;
/// With fewer ports than this to make, a request waits until it may make more, if more are wanted.
const WORTH: u64 = 5;
/// Thousandths of a port.
const MILLI: u64 = 1_000;

/// How fast ports may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Ports a second; 0: any number.
    pub per_second: u32,
    /// Requests at the same time.
    pub requests: usize,
}

/// How much a creation matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Pods wait, or will have to.
    Urgent,
    /// The pool is not as full as it should be.
    Comfort,
}

/// The answer to a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Make so many ports, at most as many as were wanted, at least one.
    Now(usize),
    /// Ask again then, or when told.
    Wait(Millis),
}

/// What came of a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// So many ports were made.
    Made(usize),
    /// The cloud as a whole does not work.
    CloudFailed {
        /// How.
        problem: Problem,
        /// How long it asked to be left alone.
        wait: Millis,
    },
    /// The cloud answered, and made none in this lane.
    Refused(Problem),
    /// Nothing was asked, or nobody knows any more; it says nothing about the cloud.
    Dropped,
}

/// What keeps a lane from making ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// Why.
    pub problem: Problem,
    /// Nothing is tried before.
    pub until: Millis,
}

/// All turns and wishes of a leadership.
#[derive(Debug, Clone)]
pub struct Governor {
    rate: Rate,
    /// Thousandths of ports that may be made now, and when that was so.
    saved: u64,
    saved_at: Millis,
    /// Turns, by lane: ports, and whether it is the one that tries the cloud again.
    running: BTreeMap<String, usize>,
    wishes: BTreeMap<String, Wish>,
    number: u64,
    outage: Option<Park>,
    parked: BTreeMap<String, Park>,
}

#[derive(Debug, Clone)]
struct Wish {
    lane: String,
    urgency: Urgency,
    number: u64,
    /// When the node was last heard of or told.
    fresh_at: Millis,
}

#[derive(Debug, Clone)]
struct Park {
    blocked: Blocked,
    times: u32,
}

impl Governor {
    /// Nothing runs and nobody waits.
    #[must_use]
    pub fn new(rate: Rate, now: Millis) -> Self {
        Self {
            rate,
            saved: most_saved(rate),
            saved_at: now,
            running: BTreeMap::new(),
            wishes: BTreeMap::new(),
            number: 0,
            outage: None,
            parked: BTreeMap::new(),
        }
    }

    /// Asks for a turn of `node` in `lane` for `count` ports.
    pub fn ask(&mut self, now: Millis, lane: &str, node: &str, urgency: Urgency, count: usize) -> Turn {
        self.save(now);
        self.wish(now, lane, node, urgency);
        let parks = self.outage.iter().chain(self.parked.get(lane));
        if let Some(until) = parks.map(|park| park.blocked.until).max().filter(|until| now < *until) {
            return Turn::Wait(until);
        }
        // While the cloud is on trial, one request tries it.
        let at_once = if self.outage.is_some() { 1 } else { self.rate.requests.max(1) };
        let is_full = self.running.len() >= at_once || self.running.contains_key(lane);
        if is_full || self.next(now, Some(lane)).is_some_and(|next| next != node) {
            return Turn::Wait(now + LOOK_AGAIN);
        }
        let count = match self.affordable(now, count) {
            Ok(count) => count,
            Err(until) => return Turn::Wait(until),
        };
        self.wishes.remove(node);
        self.running.insert(lane.to_owned(), count);
        Turn::Now(count)
    }

    /// Notes that a node wants nothing any more; returns whom to tell.
    pub fn leave(&mut self, now: Millis, node: &str) -> Option<String> {
        let lane = self.wishes.remove(node)?.lane;
        if self.running.contains_key(&lane) { None } else { self.tell(now) }
    }

    /// Ends a turn; returns whom to tell that it may ask now.
    pub fn end(&mut self, now: Millis, lane: &str, ended: Ended) -> Option<String> {
        let count = self.running.remove(lane).unwrap_or(0);
        let made = if let Ended::Made(made) = &ended { *made } else { 0 };
        self.save(now);
        self.saved = (self.saved + milli(count.saturating_sub(made))).min(most_saved(self.rate));
        match ended {
            Ended::Made(_) => {
                self.outage = None;
                self.parked.remove(lane);
            }
            Ended::CloudFailed { problem, wait } => {
                let mut outage = park(self.outage.as_ref(), problem, now);
                outage.blocked.until = outage.blocked.until.max(now + wait);
                self.outage = Some(outage);
            }
            Ended::Refused(problem) => {
                self.outage = None;
                let parked = park(self.parked.get(lane), problem, now);
                self.parked.insert(lane.to_owned(), parked);
            }
            Ended::Dropped => {}
        }
        self.tell(now)
    }

    /// What keeps `lane` from making ports, since the last try.
    #[must_use]
    pub fn blocked(&self, lane: &str) -> Option<&Blocked> {
        let parks = self.outage.iter().chain(self.parked.get(lane));
        parks.map(|park| &park.blocked).max_by_key(|blocked| blocked.until)
    }

    /// Whom to tell, and gives it time to come.
    fn tell(&mut self, now: Millis) -> Option<String> {
        let next = self.next(now, None)?.to_owned();
        if let Some(wish) = self.wishes.get_mut(&next) {
            wish.fresh_at = now;
        }
        Some(next)
    }

    fn wish(&mut self, now: Millis, lane: &str, node: &str, urgency: Urgency) {
        self.number += 1;
        let fresh = Wish { lane: lane.to_owned(), urgency, number: self.number, fresh_at: now };
        let wish = self.wishes.entry(node.to_owned()).or_insert_with(|| fresh.clone());
        if wish.lane != fresh.lane {
            *wish = fresh;
        }
        (wish.urgency, wish.fresh_at) = (urgency, now);
    }

    /// The first of those that wait in `lane`, or in any lane that is free.
    fn next(&self, now: Millis, lane: Option<&str>) -> Option<&str> {
        let is_free = |wish: &Wish| !self.running.contains_key(&wish.lane);
        let counts = |wish: &Wish| lane.map_or_else(|| is_free(wish), |lane| wish.lane == lane);
        // Told nodes come at once; those that wait without being told look again within `LOOK_AGAIN`.
        let within = COME_WITHIN + if lane.is_none() { LOOK_AGAIN } else { 0 };
        let waiting = self.wishes.iter().filter(|(_, wish)| counts(wish) && now < wish.fresh_at + within);
        waiting.min_by_key(|(_, wish)| (wish.urgency, wish.number)).map(|(node, _)| node.as_str())
    }

    /// How many of `count` ports may be made now; or when some may.
    fn affordable(&mut self, now: Millis, count: usize) -> Result<usize, Millis> {
        let per_second = u64::from(self.rate.per_second);
        if per_second == 0 {
            return Ok(count);
        }
        let enough = milli(count).min(WORTH * MILLI).min(most_saved(self.rate));
        if self.saved < enough {
            return Err(now + (enough - self.saved).div_ceil(per_second).max(1));
        }
        let count = milli(count).min(self.saved) / MILLI;
        self.saved -= count * MILLI;
        Ok(usize::try_from(count).unwrap_or(usize::MAX).max(1))
    }

    fn save(&mut self, now: Millis) {
        let passed = now.saturating_sub(self.saved_at);
        self.saved_at = now;
        let earned = passed.saturating_mul(u64::from(self.rate.per_second));
        self.saved = self.saved.saturating_add(earned).min(most_saved(self.rate));
    }
}

/// Thousandths of ports: a rate of ports a second earns as many in a millisecond.
fn most_saved(rate: Rate) -> u64 {
    u64::from(rate.per_second) * MILLI * SAVED_SECONDS
}

fn milli(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX).saturating_mul(MILLI)
}

fn park(before: Option<&Park>, problem: Problem, now: Millis) -> Park {
    let times = before.map_or(0, |park| park.times);
    let wait = AGAIN_FIRST.saturating_mul(2u64.saturating_pow(times)).min(AGAIN_MOST);
    Park { blocked: Blocked { problem, until: now + wait }, times: times.saturating_add(1).min(16) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Turn::*, Urgency::*, *};

    fn governor(per_second: u32) -> Governor {
        Governor::new(Rate { per_second, requests: 2 }, 0)
    }

    fn problem() -> Problem {
        Problem { reason: "Reason".into(), message: "message".into() }
    }

    #[test]
    fn one_request_in_a_lane_and_the_urgent_first() {
        let mut governor = governor(0);
        assert_eq!(governor.ask(0, "s", "a", Comfort, 5), Now(5));
        assert_eq!(governor.ask(1, "s", "b", Comfort, 5), Wait(5_001));
        assert_eq!(governor.ask(2, "s", "c", Urgent, 5), Wait(5_002));
        assert_eq!(governor.ask(3, "t", "d", Comfort, 5), Now(5), "another lane");
        assert_eq!(governor.ask(4, "u", "e", Urgent, 5), Wait(5_004), "two at the same time");
        assert_eq!(governor.end(10, "s", Ended::Made(5)).as_deref(), Some("c"));
        assert_eq!(governor.ask(11, "s", "b", Comfort, 5), Wait(5_011), "c has its turn");
        assert_eq!(governor.ask(12, "s", "c", Urgent, 5), Now(5));
        assert_eq!(governor.end(20, "t", Ended::Made(5)).as_deref(), Some("e"));
        assert_eq!(governor.ask(21, "u", "e", Urgent, 5), Now(5));
        assert_eq!(governor.end(30, "s", Ended::Made(5)).as_deref(), Some("b"));
    }

    #[test]
    fn a_turn_that_nobody_takes_passes() {
        let mut governor = governor(0);
        assert_eq!(governor.ask(0, "s", "a", Comfort, 5), Now(5));
        assert_eq!(governor.ask(0, "s", "b", Urgent, 5), Wait(5_000));
        assert_eq!(governor.ask(0, "s", "c", Comfort, 5), Wait(5_000));
        assert_eq!(governor.end(100, "s", Ended::Made(5)).as_deref(), Some("b"));
        assert_eq!(governor.ask(200, "s", "c", Comfort, 5), Wait(5_200), "b may come");
        assert_eq!(governor.ask(2_100, "s", "c", Comfort, 5), Now(5), "b did not");
        // Or it says that it will not.
        let mut governor = super::tests::governor(0);
        governor.ask(0, "s", "a", Comfort, 5);
        governor.ask(0, "s", "b", Urgent, 5);
        governor.ask(0, "s", "c", Comfort, 5);
        assert_eq!(governor.leave(1, "b"), None, "a still runs");
        assert_eq!(governor.end(2, "s", Ended::Dropped).as_deref(), Some("c"));
        assert_eq!(governor.leave(3, "c"), None, "nobody else waits");
    }

    #[test]
    fn the_cloud_fails_once_for_all() {
        let mut governor = governor(0);
        for (at, until) in [(0, 1_000), (1_000, 3_000), (3_000, 7_000), (7_000, 15_000), (15_000, 31_000)] {
            assert_eq!(governor.ask(at, "s", "a", Urgent, 5), Now(5), "{at}");
            if at > 0 {
                assert_eq!(governor.ask(at, "t", "b", Urgent, 5), Wait(at + 5_000), "one tries the cloud");
            }
            governor.end(at, "s", Ended::CloudFailed { problem: problem(), wait: 0 });
            assert_eq!(governor.ask(at, "t", "b", Urgent, 5), Wait(until), "every lane waits");
            assert_eq!(governor.blocked("t").map(|blocked| blocked.until), Some(until));
            governor.leave(at, "b");
        }
        assert_eq!(governor.ask(31_000, "s", "a", Urgent, 5), Now(5));
        governor.end(31_000, "s", Ended::Made(5));
        assert_eq!(governor.blocked("t"), None);
        assert_eq!(governor.ask(31_000, "t", "b", Urgent, 5), Now(5));
        governor.end(32_000, "t", Ended::CloudFailed { problem: problem(), wait: 60_000 });
        assert_eq!(governor.ask(32_000, "t", "b", Urgent, 5), Wait(92_000), "it said so");
    }

    #[test]
    fn a_lane_that_is_refused_leaves_others_alone() {
        let mut governor = governor(0);
        assert_eq!(governor.ask(0, "s", "a", Urgent, 5), Now(5));
        governor.end(0, "s", Ended::Refused(problem()));
        assert_eq!(governor.ask(10, "s", "b", Urgent, 5), Wait(1_000));
        assert_eq!(governor.ask(10, "t", "c", Comfort, 5), Now(5));
        governor.end(20, "t", Ended::Made(5));
        assert_eq!(governor.blocked("s").map(|blocked| &blocked.problem), Some(&problem()));
        assert_eq!(governor.blocked("t"), None);
        assert_eq!(governor.ask(1_000, "s", "b", Urgent, 5), Now(5));
        governor.end(1_100, "s", Ended::Made(5));
        assert_eq!(governor.blocked("s"), None);
    }

    #[test]
    fn ports_are_made_at_the_rate() {
        let mut governor = governor(2);
        assert_eq!(governor.ask(0, "s", "a", Urgent, 30), Now(10), "five seconds' worth");
        governor.end(0, "s", Ended::Made(10));
        assert_eq!(governor.ask(0, "s", "a", Urgent, 30), Wait(2_500));
        assert_eq!(governor.ask(2_500, "s", "a", Urgent, 30), Now(5));
        governor.end(2_500, "s", Ended::Refused(problem()));
        assert_eq!(governor.ask(3_500, "s", "a", Urgent, 1), Now(1), "what was not made is not counted");
    }

    proptest! {
        #[test]
        fn never_more_than_allowed(
            per_second in 1..20u32,
            events in proptest::collection::vec((0..2_000u64, 0..4usize, 0..3usize, 1..30usize, any::<bool>()), 1..200),
        ) {
            let mut governor = governor(per_second);
            let (mut now, mut made, mut running) = (0, 0, Vec::<(String, usize)>::new());
            for (wait, node, lane, count, ends) in events {
                now += wait;
                if ends && !running.is_empty() {
                    let (lane, count) = running.remove(0);
                    made += count;
                    governor.end(now, &lane, Ended::Made(count));
                }
                let lane = format!("lane{lane}");
                match governor.ask(now, &lane, &format!("node{node}"), Urgent, count) {
                    Now(given) => {
                        prop_assert!((1..=count).contains(&given));
                        prop_assert!(running.iter().all(|(busy, _)| *busy != lane), "one in a lane");
                        running.push((lane, given));
                    }
                    Wait(until) => prop_assert!(now < until && until <= now + 30_000),
                }
                prop_assert!(running.len() <= 2);
                let begun = made + running.iter().map(|(_, count)| count).sum::<usize>();
                let allowed = u64::from(per_second) * (now + 5_000) / 1_000;
                prop_assert!(begun as u64 <= allowed + 1, "{begun} of {allowed} at {now}");
            }
        }
    }
}
