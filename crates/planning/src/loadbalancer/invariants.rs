//! What must hold of every plan, whatever was found.

use std::collections::BTreeSet;

use super::{
    Plan,
    inputs::{Actual, Balancer, State},
    step::Step,
};

/// Checks a plan.
///
/// # Panics
/// If two steps change one load balancer, a step changes one that does not take changes, or what others have on it, a load
/// balancer is made beside one that is there or deleted with what others have on it, or a floating IP that is not ours is
/// deleted; or if members are about to go and nobody is going to look whether they are gone.
pub fn check(plan: &Plan, actual: &Actual) {
    let is_followed = !plan.is_empty() || plan.wake_after.is_some();
    assert!(is_followed || actual.leaving().next().is_none(), "nobody looks whether members are gone");
    let mut changed = BTreeSet::new();
    for step in &plan.steps {
        if let Some(id) = step.balancer() {
            assert!(changed.insert(id), "two steps change load balancer {id}");
            let found = actual.balancers.iter().chain(&actual.shared).find(|balancer| balancer.id == *id);
            if let Some(found) = found {
                assert!(is_ours(step, found), "what others have is changed: {step:?}");
            }
            let state = found.map(|found| found.state);
            let takes_it = match step {
                Step::DeleteBalancer { .. } => matches!(state, Some(State::Active | State::Error)),
                _ => state == Some(State::Active),
            };
            assert!(takes_it, "a load balancer in state {state:?} is changed: {step:?}");
        }
        match step {
            Step::DeleteBalancer { balancer } => {
                let alone = |found: &Balancer| found.id == *balancer && found.others.is_empty();
                assert!(
                    actual.balancers.iter().any(alone),
                    "load balancer {balancer} is not the Service's alone"
                );
            }
            Step::CreateBalancer(_) => {
                assert!(actual.balancers.is_empty(), "a load balancer is made beside another");
            }
            Step::DeleteFloating { floating } | Step::KeepFloating { floating } => {
                let ours = actual.floating.iter().any(|found| found.id == *floating && found.is_ours);
                assert!(ours, "floating IP {floating} is not ours");
            }
            _ => {}
        }
    }
}

/// Whether what a step changes on a load balancer is the Service's.
fn is_ours(step: &Step, found: &Balancer) -> bool {
    match step {
        Step::UpdateListener { listener, .. } | Step::DeleteListener { listener, .. } => {
            found.listeners.iter().any(|ours| ours.id == *listener)
        }
        Step::UpdatePool { pool, .. }
        | Step::DeletePool { pool, .. }
        | Step::SetMembers { pool, .. }
        | Step::DeleteMember { pool, .. } => found.pools.iter().any(|ours| ours.id == *pool),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::balancer;
    use super::*;

    #[test]
    #[should_panic(expected = "nobody looks")]
    fn members_that_nobody_sees_go_are_noticed() {
        let mut losing = balancer("b");
        losing.pools[0].leaving = [(("10.1.0.9".parse().unwrap(), 8080), "m".into())].into();
        check(&Plan::default(), &Actual { balancers: vec![losing], ..Actual::default() });
    }

    #[test]
    #[should_panic(expected = "is changed")]
    fn a_step_on_a_pending_load_balancer_is_noticed() {
        let mut busy = balancer("b");
        busy.state = State::Pending;
        let steps = vec![Step::DeleteBalancer { balancer: "b".into() }];
        check(&Plan { steps, ..Plan::default() }, &Actual { balancers: vec![busy], ..Actual::default() });
    }

    #[test]
    #[should_panic(expected = "alone")]
    fn deleting_what_others_use_is_noticed() {
        let mut used = balancer("b");
        used.others.pools = 1;
        let steps = vec![Step::DeleteBalancer { balancer: "b".into() }];
        check(&Plan { steps, ..Plan::default() }, &Actual { balancers: vec![used], ..Actual::default() });
    }

    #[test]
    #[should_panic(expected = "what others have")]
    fn changing_what_is_not_the_services_is_noticed() {
        let steps = vec![Step::DeleteListener { balancer: "b".into(), listener: "theirs".into() }];
        check(
            &Plan { steps, ..Plan::default() },
            &Actual { shared: vec![balancer("b")], ..Actual::default() },
        );
    }

    #[test]
    #[should_panic(expected = "two steps")]
    fn two_changes_at_a_time_are_noticed() {
        let delete = || Step::DeleteBalancer { balancer: "b".into() };
        let actual = Actual { balancers: vec![balancer("b")], ..Actual::default() };
        check(&Plan { steps: vec![delete(), delete()], ..Plan::default() }, &actual);
    }
}
