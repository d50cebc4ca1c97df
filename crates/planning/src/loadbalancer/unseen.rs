//! Services whose members nobody has told a leadership of.
//!
//! A leader may end after it had a load balancer made and before the Service's view told of it. Then only Octavia knows the members, and
//! until it was asked, any address may be one's that was there when the next leadership began:
//!
//! 1. Such a Service has our finalizer and no view, and no look of this leadership has shown its members.
//! 2. Until there is none once, no address is given to another pod that a port had before this leadership began. Ports that it made
//!    itself are used as ever: who led before cannot have known them. So while Octavia says nothing, a pool grows by the ports that it had,
//!    and no further.
//! 3. What is made later is made by this leadership, so none has such members any more once none had.
//! 4. That is told where it lasts.

use std::fmt::Display;

use kuryr_api::kuryrnode::Problem;

use crate::pool::Millis;

/// For how long Octavia may say nothing before people are told.
const TOLD_AFTER: Millis = 60_000;

/// What is known of a Service, as far as its members are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// It has to be looked at by us ([`super::concerns_us`]).
    pub concerns_us: bool,
    /// It has our finalizer, without which no load balancer is made.
    pub has_finalizer: bool,
    /// A look of this leadership has shown its members.
    pub is_seen: bool,
    /// It has a view, which names its members.
    pub has_view: bool,
}

impl Sight {
    /// Tells whether the Service may have members that nobody knows.
    #[must_use]
    pub const fn may_have_any(self) -> bool {
        self.concerns_us && self.has_finalizer && !self.is_seen && !self.has_view
    }
}

/// What a leadership remembers of them; `K` names Services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Unseen<K> {
    /// Not all Services have been known yet.
    #[default]
    Unknown,
    /// This one is waited for, and there has been one since then.
    Waiting(K, Millis),
    /// There was a moment at which all Services were known and none was waited for.
    Over,
}

impl<K> Unseen<K> {
    /// Takes over what was seen `now`: whether all Services are known, and one that may have such members.
    pub fn note(&mut self, now: Millis, are_known: bool, find: impl FnOnce() -> Option<K>) {
        let since = match self {
            Self::Over => return,
            Self::Waiting(_, since) => *since,
            Self::Unknown => now,
        };
        *self = match find() {
            Some(service) => Self::Waiting(service, since),
            None if are_known => Self::Over,
            None => Self::Unknown,
        };
    }

    /// Tells whether there may be such members.
    #[must_use]
    pub const fn may_be(&self) -> bool {
        matches!(self, Self::Waiting(..))
    }
}

impl<K: Display> Unseen<K> {
    /// What to tell `now`.
    #[must_use]
    pub fn problem(&self, now: Millis) -> Option<Problem> {
        let Self::Waiting(service, since) = self else { return None };
        (now >= since + TOLD_AFTER).then(|| Problem {
            reason: "MembersUnknown".to_owned(),
            message: format!(
                "addresses of pods that are gone are given to no other pod, and new pods get new ports: Octavia has not told \
                 for a minute which members the load balancer of Service {service} has; see the Events of the Service"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_was_begun_and_not_told_of_may_have_any_members() {
        let begun = Sight { concerns_us: true, has_finalizer: true, is_seen: false, has_view: false };
        for (sight, expect) in [
            (begun, true),
            (Sight { concerns_us: false, ..begun }, false),
            (Sight { has_finalizer: false, ..begun }, false),
            (Sight { is_seen: true, ..begun }, false),
            (Sight { has_view: true, ..begun }, false),
        ] {
            assert_eq!(sight.may_have_any(), expect, "{sight:?}");
        }
    }

    #[test]
    fn a_leadership_that_has_seen_the_members_of_all_services_has_seen_them() {
        let mut unseen = Unseen::Unknown;
        // Whether the Services are known, which one is not seen, and so whether there may be unknown members.
        for (known, found, expect) in [
            (false, None, false),
            (false, Some("d/web"), true),
            (true, Some("d/web"), true),
            (true, None, false),
            (true, Some("d/new"), false),
        ] {
            unseen.note(0, known, || found);
            assert_eq!(unseen.may_be(), expect, "{known} {found:?}");
        }
    }

    #[test]
    fn that_octavia_says_nothing_is_told_after_a_while_with_the_service() {
        let mut unseen = Unseen::Unknown;
        let mut told = |now, found| {
            unseen.note(now, true, || found);
            unseen.problem(now).map(|problem| problem.message.contains("Service d/web has"))
        };
        assert_eq!(told(1000, Some("d/web")), None);
        assert_eq!(told(1000 + TOLD_AFTER - 1, Some("d/web")), None);
        assert_eq!(told(1000 + TOLD_AFTER, Some("d/web")), Some(true));
        assert_eq!(told(1001 + TOLD_AFTER, Some("d/other")), Some(false), "the wait is one");
        assert_eq!(told(1002 + TOLD_AFTER, None), None);
    }
}
