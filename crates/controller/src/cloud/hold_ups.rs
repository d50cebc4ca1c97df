//! Trunks and ports of which a change failed, often because others change them, too: how long each is left alone, and when
//! that is told.

use std::{collections::BTreeMap, time::Duration};

use kuryr_api::kuryrnode::Problem;
use kuryr_planning::pool::{Millis, trunk::HeldUp};

use super::problem;
use crate::config::millis;

/// Distances between changes that fail. Another user that was faster is done by then.
const AGAIN_FIRST: Duration = Duration::from_millis(200);
const AGAIN_MOST: Duration = Duration::from_secs(20);
/// How often in a row another user may be faster before that is told.
const TOLD_AFTER: u32 = 3;

/// What is left alone, by id: since a failure, and how many there were in a row.
#[derive(Debug)]
pub(super) struct HoldUps<K>(BTreeMap<K, (HeldUp, u32)>);

impl<K> Default for HoldUps<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Clone> HoldUps<K> {
    /// Notes that a change failed. `shared` tells that another user was faster, which is no problem unless it goes on.
    pub(super) fn add(&mut self, id: &K, now: Millis, shared: bool, problem: Problem) {
        let before = self.0.get(id);
        let times = before.map_or(0, |(_, times)| *times);
        let told = before.and_then(|(held_up, _)| held_up.problem.clone());
        let problem = problem::steady(problem, told.as_slice());
        let wait = (AGAIN_FIRST * 2u32.saturating_pow(times.min(16))).min(AGAIN_MOST);
        let problem = Some(problem).filter(|_| !shared || times + 1 >= TOLD_AFTER);
        self.0.insert(id.clone(), (HeldUp { until: now + millis(wait), problem }, times + 1));
    }

    /// Notes that a change succeeded.
    pub(super) fn end(&mut self, id: &K) {
        self.0.remove(id);
    }

    /// Forgets all but those that are `there`.
    pub(super) fn retain(&mut self, there: impl Fn(&K) -> bool) {
        self.0.retain(|id, _| there(id));
    }

    /// One of them.
    pub(super) fn get(&self, id: &K) -> Option<HeldUp> {
        self.0.get(id).map(|(held_up, _)| held_up.clone())
    }

    /// Those that are `wanted`, as decisions see them.
    pub(super) fn of(&self, wanted: impl Fn(&K) -> bool) -> BTreeMap<K, HeldUp> {
        let found = self.0.iter().filter(|(id, _)| wanted(id));
        found.map(|(id, (held_up, _))| (id.clone(), held_up.clone())).collect()
    }
}
