//! Floating IPs that nobody needs any more.
//!
//! Who looks at a Service finds its load balancer by the name, and the floating IP by the port of the VIP. When somebody takes
//! the finalizer off a Service that goes, and the load balancer goes by another way than by us, neither is left to be looked at.
//!
//! 1. Nobody's is what carries our tags, was made for a load balancer, leads to no port, and names no Service that is there.
//! 2. It is deleted when it was nobody's in two full lists in a row: a Service may be younger than what is known of them.
//! 3. What a Service asked to keep is left alone, and so is what has lost our tags, and an address that any Service asks for or
//!    tells: its load balancer may be about to be made anew.
//!
//! One that names a Service that is there is that Service's matter, also if the Service needs no load balancer.

use std::collections::BTreeSet;

use kuryr_types::FloatingIpId;

use crate::ownership::{KEPT_TAG, service_of_tag};

/// A floating IP of ours, whichever Service it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed<'a> {
    /// Its id.
    pub id: &'a FloatingIpId,
    /// Its tags.
    pub tags: &'a [String],
    /// Its description says that it was made for a load balancer.
    pub is_made: bool,
    /// It leads to a port.
    pub leads_somewhere: bool,
    /// A Service asks for its address, or tells it.
    pub is_named: bool,
}

impl<'a> Listed<'a> {
    /// UIDs of the Services that it was made for.
    pub fn services(self) -> impl Iterator<Item = &'a str> {
        self.tags.iter().filter_map(|tag| service_of_tag(tag))
    }

    /// Whether it is nobody's; `is_there` tells of a Service's UID whether there is that Service.
    #[must_use]
    pub fn is_nobodys(&self, is_there: impl Fn(&str) -> bool) -> bool {
        let is_kept = self.tags.iter().any(|tag| tag == KEPT_TAG);
        let is_used = self.leads_somewhere || self.is_named || is_kept;
        self.is_made && !is_used && !self.services().any(is_there)
    }
}

/// Floating IPs that were nobody's in the last full list. Forgetting them costs the time until the next list.
#[derive(Debug, Default)]
pub struct Strays(BTreeSet<FloatingIpId>);

impl Strays {
    /// Notes all that are nobody's now; returns those that were before, too, and are to be deleted.
    #[must_use]
    pub fn note(&mut self, now: BTreeSet<FloatingIpId>) -> BTreeSet<FloatingIpId> {
        let before = std::mem::replace(&mut self.0, now);
        self.0.intersection(&before).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobodys_is_what_leads_nowhere_and_whose_services_are_gone() {
        let id = FloatingIpId::from("f");
        for (tags, is_made, leads_somewhere, expect) in [
            (&["c", "kuryr-service:gone"][..], true, false, true),
            (&["c", "kuryr-service:gone"], true, true, false),
            (&["c", "kuryr-service:gone"], false, false, false),
            (&["c", "kuryr-service:gone", "kuryr-service:there"], true, false, false),
            (&["c", "kuryr-service:gone", "kuryr-kept"], true, false, false),
            // Its Service was gone already when it was tagged.
            (&["c"], true, false, true),
            (&["c"], false, false, false),
        ] {
            let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
            let listed = Listed { id: &id, tags: &tags, is_made, leads_somewhere, is_named: false };
            assert_eq!(listed.is_nobodys(|uid| uid == "there"), expect, "{listed:?}");
            let named = Listed { is_named: true, ..listed };
            assert!(!named.is_nobodys(|uid| uid == "there"), "{named:?}");
        }
    }

    #[test]
    fn what_is_nobodys_twice_in_a_row_is_deleted() {
        let mut strays = Strays::default();
        let mut note = |now: &[&str]| {
            let due = strays.note(now.iter().map(|id| FloatingIpId::from(*id)).collect());
            due.iter().map(ToString::to_string).collect::<Vec<_>>().concat()
        };
        assert_eq!(
            ["a", "", "a|b", "a|b", "b"].map(|now| note(&now.split_terminator('|').collect::<Vec<_>>())),
            ["", "", "", "ab", "b"]
        );
    }
}
