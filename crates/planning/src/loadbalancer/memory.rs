//! What has to be remembered of a Service between looks. Forgetting it costs a call or an Event, never correctness.

use std::{collections::BTreeMap, net::IpAddr};

use kuryr_types::{LoadBalancerId, MemberId};

use super::inputs::State;
use crate::pool::Millis;

/// First and greatest time between looks at a load balancer that is being changed.
const LOOK_FIRST: Millis = 250;
const LOOK_MOST: Millis = 5_000;
/// Between looks at one that has been pending for longer than it should.
const LOOK_STUCK: Millis = 60_000;
/// First and greatest time between attempts to make a load balancer that ends in `ERROR`.
const RECREATE_FIRST: Millis = 5_000;
const RECREATE_MOST: Millis = 300_000;

/// How often an address is asked for again before another will do.
const SAME_ADDRESS_TRIES: u32 = 3;

/// How long a new Service's endpoints may take to follow it before its load balancer is made without.
const ENDPOINTS_WITHIN: Millis = 1_000;

/// How long a load balancer may be called `ACTIVE` after its deletion was asked for, before it is asked for again. Provider ovn
/// calls it so between its parts (5 s with a hundred members); one that is deleted twice at a time comes back in `ERROR`.
const DELETION_SHOWS: Millis = 30_000;

/// How long a member of an active load balancer may be about to go, before it is asked for alone. Provider ovn takes 5 s for a
/// hundred of them.
const LEAVES_WITHIN: Millis = 60_000;

/// How long those that are wanted again wait for each other, while more of them are to be deleted alone: at each turn one change is
/// made, and those of a hundred would take twice as long.
const RETURN_TOGETHER: Millis = 5_000;

/// Changes in a row whose object is not found, before that is a failure. Once or twice somebody took it away since the look.
const GONE_TIMES: u32 = 3;

/// How long the end of a load balancer waits for its floating IP, where the calls about it fail. A Neutron that is restarted answers
/// again before that, and then nothing is left to the full lists.
const RELEASED_WITHIN: Millis = 300_000;

/// A member that is about to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Leaving {
    since: Millis,
    /// When it was last asked for alone, or first seen.
    asked: Millis,
    /// When it was last seen.
    shown: Millis,
}

impl Leaving {
    /// Whether it has to be asked for alone.
    fn is_due(&self, now: Millis) -> bool {
        now.saturating_sub(self.asked) >= LEAVES_WITHIN
    }
}

/// Memory of one Service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    /// Since when its load balancer has been pending.
    pending_since: Option<Millis>,
    /// Members that were about to go when they were last read.
    leaving: BTreeMap<MemberId, Leaving>,
    /// When members were last replaced.
    members_at: Option<Millis>,
    /// When it was last found in `ERROR`, and how often in a row.
    failed: Option<(Millis, u32)>,
    /// Since when it could be made, but for its endpoints.
    without_endpoints: Option<Millis>,
    /// VIPs that it had.
    vips: Vec<IpAddr>,
    /// How often they were asked for again.
    same_address_tries: u32,
    /// When the deletion of a load balancer was last asked for.
    deletions: BTreeMap<LoadBalancerId, Millis>,
    /// Since when its floating IPs are to be released.
    releasing_since: Option<Millis>,
    /// Changes in a row whose object was not found, though the look had shown it.
    gone: u32,
}

impl Memory {
    /// Notes the state of a load balancer; tells when to look again if it is pending, and whether it has been for
    /// longer than `activation`.
    pub(super) fn pending(&mut self, now: Millis, activation: Millis) -> (Millis, bool) {
        next_look(now.saturating_sub(*self.pending_since.get_or_insert(now)), activation)
    }

    /// Notes which members active load balancers are about to lose; tells when to look again if any, and which has been about
    /// to go for longer than `activation`. Those that are not shown are gone, unless some load balancer `is_busy`: nobody reads
    /// its members.
    pub(super) fn loses_members<'m>(
        &mut self,
        leaving: impl Iterator<Item = &'m MemberId>,
        is_busy: bool,
        now: Millis,
        activation: Millis,
    ) -> Option<(Millis, Option<MemberId>)> {
        for member in leaving {
            let first = Leaving { since: now, asked: now, shown: now };
            self.leaving.entry(member.clone()).or_insert(first).shown = now;
        }
        self.leaving.retain(|_, leaving| is_busy || leaving.shown == now);
        let shown = self.leaving.iter().filter(|(_, leaving)| leaving.shown == now);
        let (id, longest) = shown.min_by_key(|(_, leaving)| leaving.since)?;
        let (after, is_late) = next_look(now.saturating_sub(longest.since), activation);
        Some((after, is_late.then(|| id.clone())))
    }

    /// Tells of a member that has been about to go for so long that it has to be asked for alone, now.
    pub(super) fn stuck_member(&mut self, now: Millis) -> Option<MemberId> {
        let shown = self.leaving.iter_mut().filter(|(_, leaving)| leaving.shown == now);
        let (id, leaving) = shown.min_by_key(|(_, leaving)| leaving.asked)?;
        leaving.is_due(now).then(|| {
            leaving.asked = now;
            id.clone()
        })
    }

    /// Notes that nothing is pending.
    pub(super) fn settled(&mut self, state: State) {
        self.pending_since = None;
        if state == State::Active {
            self.failed = None;
        }
    }

    /// Notes the VIPs of a load balancer, so that the next one can have them.
    pub(super) fn has_vips(&mut self, vips: impl Iterator<Item = IpAddr>) {
        (self.vips, self.same_address_tries) = (vips.collect(), 0);
    }

    /// VIPs that it had, if they are still worth asking for.
    pub(super) fn vips(&self) -> Option<&[IpAddr]> {
        (self.same_address_tries < SAME_ADDRESS_TRIES).then_some(&self.vips[..])
    }

    /// Notes that addresses are asked for again.
    pub(super) fn asks_for_same_address(&mut self) {
        self.same_address_tries += 1;
    }

    /// Notes that nothing is left of it.
    pub(super) fn is_gone(&mut self) {
        (self.vips, self.same_address_tries) = (vec![], 0);
    }

    /// How long members have to wait before they may be replaced again.
    pub(super) fn members_wait(&self, now: Millis, coalesce: Millis) -> Millis {
        let is_stuck = self.leaving.values().any(|leaving| leaving.is_due(now));
        let apart = if is_stuck { coalesce.max(RETURN_TOGETHER) } else { coalesce };
        self.members_at.map_or(0, |at| (at + apart).saturating_sub(now))
    }

    /// Notes that members are replaced now.
    pub(super) fn replaced_members(&mut self, now: Millis) {
        self.members_at = Some(now);
    }

    /// How long to wait before a look whether an active load balancer still has to be deleted; none to wait for: it is
    /// deleted now.
    pub(super) fn deletion_wait(&mut self, balancer: &LoadBalancerId, now: Millis) -> Option<Millis> {
        self.deletions.retain(|_, at| now < *at + DELETION_SHOWS);
        let at = *self.deletions.entry(balancer.clone()).or_insert(now);
        (at != now).then(|| (at + DELETION_SHOWS - now).min(LOOK_MOST))
    }

    /// Notes that floating IPs are still to be released; tells whether that has lasted for too long.
    pub(super) fn releasing(&mut self, now: Millis) -> bool {
        let since = *self.releasing_since.get_or_insert(now);
        now.saturating_sub(since) >= RELEASED_WITHIN
    }

    /// Notes that none is to be released.
    pub(super) fn released(&mut self) {
        self.releasing_since = None;
    }

    /// Notes that what the look had shown was not found when it was to be changed; tells whether that goes on, so that another
    /// look will hardly help.
    pub fn found_gone(&mut self) -> bool {
        self.gone = self.gone.saturating_add(1);
        self.gone >= GONE_TIMES
    }

    /// Notes that a plan was carried out, or that there was nothing to do.
    pub fn carried_out(&mut self) {
        self.gone = 0;
    }

    /// Notes that the load balancer is in `ERROR` and is about to be deleted.
    pub(super) fn failed(&mut self, now: Millis) {
        let times = self.failed.map_or(0, |(_, times)| times);
        self.failed = Some((now, times.saturating_add(1)));
    }

    /// How long to wait for endpoints before one is made without.
    pub(super) fn endpoints_wait(&mut self, now: Millis) -> Millis {
        let since = *self.without_endpoints.get_or_insert(now);
        (since + ENDPOINTS_WITHIN).saturating_sub(now)
    }

    /// How long to wait before another is made in the place of one that failed.
    pub(super) fn recreate_wait(&self, now: Millis) -> Millis {
        let Some((at, times)) = self.failed else { return 0 };
        // The first failure may have been a passing one.
        let Some(doublings) = times.checked_sub(2) else { return 0 };
        let wait = RECREATE_FIRST.saturating_mul(1 << doublings.min(16)).min(RECREATE_MOST);
        (at + wait).saturating_sub(now)
    }
}

/// When to look again at what has been going on for so long, and whether that is longer than it should.
fn next_look(elapsed: Millis, activation: Millis) -> (Millis, bool) {
    if elapsed >= activation {
        return (LOOK_STUCK, true);
    }
    ((elapsed / 2).clamp(LOOK_FIRST, LOOK_MOST), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_become_rare_while_a_change_lasts() {
        let mut memory = Memory::default();
        let mut look = |now| memory.pending(now, 300_000);
        for (now, expect) in [
            (1000, (250, false)),
            (1300, (250, false)),
            (5000, (2000, false)),
            (100_000, (5000, false)),
            (301_000, (60_000, true)),
        ] {
            assert_eq!(look(now), expect, "{now}");
        }
        memory.settled(State::Active);
        assert_eq!(memory.pending(400_000, 300_000), (250, false));
    }

    #[test]
    fn endpoints_are_waited_for_once() {
        let mut memory = Memory::default();
        assert_eq!([0, 400, 1000, 5000].map(|now| memory.endpoints_wait(now)), [1000, 600, 0, 0]);
    }

    #[test]
    fn what_is_gone_once_is_looked_at_again_and_what_is_gone_every_time_is_a_failure() {
        let mut memory = Memory::default();
        assert_eq!([(); 4].map(|()| memory.found_gone()), [false, false, true, true]);
        memory.carried_out();
        assert!(!memory.found_gone());
    }

    #[test]
    fn one_that_fails_again_and_again_is_made_ever_more_rarely() {
        let mut memory = Memory::default();
        assert_eq!(memory.recreate_wait(0), 0);
        for expect in [0, 5_000, 10_000, 20_000] {
            memory.failed(0);
            memory.settled(State::Error);
            assert_eq!(memory.recreate_wait(0), expect);
        }
        for _ in 0..40 {
            memory.failed(0);
        }
        assert_eq!(memory.recreate_wait(100_000), 200_000);
        memory.settled(State::Active);
        assert_eq!(memory.recreate_wait(0), 0);
    }
}
