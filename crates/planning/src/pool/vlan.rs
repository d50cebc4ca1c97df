//! Which VLAN ids subports get.
//!
//! An id is free on a trunk if nothing on the trunk has it, whoever put it there, and no entry of the node's record
//! names it: the node may still send under the id of a port that somebody took off the trunk. Ids are taken in turn
//! and begin anew at the end of the range, so one that became free is used again as late as possible, and others who
//! choose the lowest free one are not met each time.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use kuryr_api::kuryrnode::Problem;
use kuryr_types::TrunkId;

/// Chooses `count` ids of `range` that are not in `taken`, from the one behind `last` on; fewer if there are fewer.
#[must_use]
pub fn choose(range: &RangeInclusive<u16>, taken: &BTreeSet<u16>, last: u16, count: usize) -> Vec<u16> {
    let behind = last.saturating_add(1).max(*range.start());
    let ids = (behind..=*range.end()).chain(*range.start()..behind.min(range.end().saturating_add(1)));
    ids.filter(|id| !taken.contains(id)).take(count).collect()
}

/// How many ids of `range` are not in `taken`.
#[must_use]
pub fn room(range: &RangeInclusive<u16>, taken: &BTreeSet<u16>) -> usize {
    range.clone().count() - taken.range(range.clone()).count()
}

/// Tells that no id is left; `ours` are those of our own ports.
#[must_use]
pub fn exhausted(
    range: &RangeInclusive<u16>,
    trunk: &TrunkId,
    taken: &BTreeSet<u16>,
    ours: usize,
) -> Problem {
    let (first, last) = (range.start(), range.end());
    let within = taken.range(range.clone()).count();
    Problem {
        reason: "NoFreeVlan".into(),
        message: format!(
            "all {within} VLAN ids from {first} to {last} are taken on trunk {trunk} of this node, {ours} of them by ports \
             of this cluster, and no more ports are made: widen [pod_vif_nested] vlan_range (4094 is the most a trunk can \
             have), take ports off the trunk that nobody needs, or run fewer pods on the node"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(range: RangeInclusive<u16>, taken: &[u16], last: u16, count: usize, expect: &[u16]) {
        let taken = taken.iter().copied().collect();
        assert_eq!(choose(&range, &taken, last, count), expect, "{range:?} {taken:?} {last}");
    }

    #[test]
    fn ids_are_taken_in_turn() {
        check(1..=4094, &[], 0, 3, &[1, 2, 3]);
        check(1..=4094, &[2, 7], 1, 3, &[3, 4, 5]);
        check(100..=105, &[101], 0, 9, &[100, 102, 103, 104, 105]);
        check(100..=105, &[101], 103, 9, &[104, 105, 100, 102, 103]);
        check(100..=105, &[], 105, 2, &[100, 101]);
        check(100..=105, &[], 4000, 2, &[100, 101]);
        check(7..=7, &[7], 0, 1, &[]);
    }

    #[test]
    fn figures_are_those_of_the_range() {
        let taken = [1, 100, 101, 4000].into();
        assert_eq!((room(&(100..=101), &taken), room(&(100..=103), &taken)), (0, 2));
        let told = exhausted(&(100..=101), &"t".into(), &taken, 1).message;
        assert!(told.contains("all 2 VLAN ids from 100 to 101") && told.contains("1 of them by"), "{told}");
    }

    proptest! {
        #[test]
        fn what_is_chosen_is_free_in_range_and_as_much_as_there_is(
            first in 1..50u16, length in 0..50u16, taken: BTreeSet<u8>, last in 0..120u16, count in 0..60usize,
        ) {
            let range = first..=first + length;
            let taken: BTreeSet<u16> = taken.into_iter().map(u16::from).collect();
            let chosen = choose(&range, &taken, last, count);
            let distinct: BTreeSet<u16> = chosen.iter().copied().collect();
            prop_assert_eq!(distinct.len(), chosen.len());
            prop_assert!(chosen.iter().all(|id| range.contains(id) && !taken.contains(id)));
            prop_assert_eq!(chosen.len(), count.min(room(&range, &taken)));
        }
    }
}
