//! What has to be written so that the tables hold what they should, in an order that clients do not notice.
//!
//! Of each frontend that changes:
//!
//! 1. the backends of the next generation and their members, whatever of them an attempt before left there;
//! 2. the value, which leads clients there at once;
//! 3. the generation before goes.
//!
//! A frontend that goes: the value, then its generation. What is as it should be is not written.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    desired::{Desired, Frontend, Problem, Target, Wanted},
    inputs::ServiceRef,
    tables::{Backend, Entry, Member, Place, Step, Tables, Value, keeps_endpoints},
};

/// What to do with one frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The frontend.
    pub frontend: Frontend,
    /// What to write, in order.
    pub steps: Vec<Step>,
    /// What the tables hold then; none: nothing.
    pub(super) after: Option<Entry>,
}

/// What to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Changes of frontends, each to be noted ([`Tables::note`]) before the next plan is made.
    pub changes: Vec<Change>,
    /// Frontends that another Service has; to be tried again when it has gone.
    pub problems: Vec<Problem>,
}

/// Plans for one Service.
#[must_use]
pub fn diff(tables: &Tables, service: &Arc<ServiceRef>, desired: &Desired) -> Plan {
    let mut plan = Plan::default();
    // What goes first: the tables have an end.
    for frontend in tables.owned_by(service) {
        if !desired.frontends.contains_key(frontend) {
            plan.changes.extend(removal(tables, frontend));
        }
    }
    let mut given = 0;
    for (frontend, wanted) in &desired.frontends {
        let before = tables.entry(frontend);
        let other = before.and_then(|entry| entry.owner.as_ref()).filter(|owner| *owner != service);
        if let Some(other) = other {
            plan.problems.push(Problem::Taken { frontend: *frontend, by: ServiceRef::clone(other) });
            continue;
        }
        if before.is_some_and(|entry| entry.owner.is_some() && is_as_wanted(entry, wanted)) {
            continue;
        }
        let id = before.map_or_else(|| tables.free_id(given), |entry| entry.value.id);
        given += u32::from(before.is_none());
        plan.changes.push(change(frontend, before, wanted, id, service));
    }
    plan
}

/// Plans the end of every frontend that no Service has asked for since the tables were read.
#[must_use]
pub fn leftovers(tables: &Tables) -> Vec<Change> {
    let nobodys = tables.entries().filter(|(_, entry)| entry.owner.is_none());
    nobodys.filter_map(|(frontend, _)| removal(tables, frontend)).collect()
}

fn removal(tables: &Tables, frontend: &Frontend) -> Option<Change> {
    let before = tables.entry(frontend)?;
    let steps = std::iter::once(Step::DeleteValue(*frontend)).chain(before.deletion(frontend)).collect();
    Some(Change { frontend: *frontend, steps, after: None })
}

fn is_as_wanted(entry: &Entry, wanted: &Wanted) -> bool {
    entry.whole
        && entry.value.affinity_seconds == wanted.affinity_seconds
        && entry.endpoints.keys().eq(&wanted.targets)
}

fn change(
    frontend: &Frontend,
    before: Option<&Entry>,
    wanted: &Wanted,
    id: u32,
    service: &Arc<ServiceRef>,
) -> Change {
    let owner = Some(Arc::clone(service));
    if let Some(entry) = before.filter(|entry| is_as_wanted(entry, wanted)) {
        // Read back and still right.
        let after = Entry { owner, ..entry.clone() };
        return Change { frontend: *frontend, steps: Vec::new(), after: Some(after) };
    }
    let (endpoints, last_endpoint) = number(before, wanted);
    let generation = before.map_or(1, |entry| entry.value.generation.wrapping_add(1));
    let keeps = keeps_endpoints(frontend, wanted.affinity_seconds);
    let mut steps = Vec::new();
    let mut count = 0;
    for (target, endpoint) in &endpoints {
        let (target, endpoint, slot) = (*target, *endpoint, count);
        steps.push(Step::PutBackend(Place { id, generation, slot }, Backend { target, endpoint }));
        if keeps {
            steps.push(Step::PutMember(Member { id, generation, endpoint }, slot));
        }
        count += 1;
    }
    let value = Value { id, generation, count, affinity_seconds: wanted.affinity_seconds };
    steps.push(Step::PutValue(*frontend, value));
    steps.extend(before.into_iter().flat_map(|entry| entry.deletion(frontend)));
    let after = Entry { value, endpoints, last_endpoint, whole: true, owner };
    Change { frontend: *frontend, steps, after: Some(after) }
}

/// Gives each target the number that it had, or one that none had.
fn number(before: Option<&Entry>, wanted: &Wanted) -> (BTreeMap<Target, u32>, u32) {
    let had = |target: &Target| before.and_then(|entry| entry.endpoints.get(target)).copied();
    let mut last = before.map_or(0, |entry| entry.last_endpoint);
    let mut next = || {
        last = last.wrapping_add(1).max(1);
        last
    };
    let endpoints =
        wanted.targets.iter().map(|target| (*target, had(target).unwrap_or_else(&mut next))).collect();
    (endpoints, last)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            desired::Protocol,
            tables::{
                Contents,
                tests::{frontend, target},
            },
        },
        *,
    };

    fn service(name: &str) -> Arc<ServiceRef> {
        Arc::new(ServiceRef { namespace: "d".into(), name: name.into() })
    }

    fn wants(frontends: &[(Frontend, u32, &[u8])]) -> Desired {
        let one = |(frontend, affinity_seconds, targets): &(Frontend, u32, &[u8])| {
            let targets = targets.iter().map(|last| target(*last)).collect();
            (*frontend, Wanted { affinity_seconds: *affinity_seconds, targets })
        };
        Desired { frontends: frontends.iter().map(one).collect(), ..Desired::default() }
    }

    /// Carries a plan out.
    fn carry_out(tables: &mut Tables, contents: &mut Contents, changes: Vec<Change>) {
        for change in changes {
            change.steps.iter().for_each(|step| contents.apply(step));
            tables.note(change);
        }
    }

    fn told(changes: &[Change]) -> Vec<String> {
        let step = |step: &Step| match step {
            Step::PutBackend(place, backend) => format!(
                "+{}.{}.{}={}#{}",
                place.id, place.generation, place.slot, backend.target.address, backend.endpoint
            ),
            Step::PutMember(member, slot) => {
                format!("+{}.{}#{}={slot}", member.id, member.generation, member.endpoint)
            }
            Step::PutValue(_, value) => {
                format!("={}.{}x{} {}s", value.id, value.generation, value.count, value.affinity_seconds)
            }
            Step::DeleteValue(frontend) => format!("-{frontend}"),
            Step::DeleteBackend(place) => format!("-{}.{}.{}", place.id, place.generation, place.slot),
            Step::DeleteMember(member) => format!("-{}.{}#{}", member.id, member.generation, member.endpoint),
        };
        changes.iter().flat_map(|change| change.steps.iter().map(step)).collect()
    }

    #[test]
    fn written_then_flipped_then_deleted() {
        let (web, at) = (service("web"), frontend(7, Protocol::Tcp));
        let (mut tables, mut contents) = (Tables::default(), Contents::default());
        let mut check = |desired: &Desired, expect: &[&str]| {
            let plan = diff(&tables, &web, desired);
            assert_eq!(told(&plan.changes), expect);
            carry_out(&mut tables, &mut contents, plan.changes);
            assert_eq!(told(&diff(&tables, &web, desired).changes), Vec::<String>::new(), "once");
        };
        check(&wants(&[(at, 0, &[4, 5])]), &["+1.1.0=10.1.0.4#1", "+1.1.1=10.1.0.5#2", "=1.1x2 0s"]);
        // An endpoint keeps its number, another never gets it.
        check(
            &wants(&[(at, 0, &[5, 6])]),
            &["+1.2.0=10.1.0.5#2", "+1.2.1=10.1.0.6#3", "=1.2x2 0s", "-1.1.0", "-1.1.1"],
        );
        check(&wants(&[(at, 0, &[])]), &["=1.3x0 0s", "-1.2.0", "-1.2.1"]);
        check(&wants(&[(at, 9, &[4])]), &["+1.4.0=10.1.0.4#4", "+1.4#4=0", "=1.4x1 9s"]);
        check(&wants(&[]), &["-10.96.0.7:80/TCP", "-1.4.0", "-1.4#4"]);
        check(&wants(&[(at, 0, &[4])]), &["+2.1.0=10.1.0.4#1", "=2.1x1 0s"]);
    }

    #[test]
    fn sockets_that_send_datagrams_keep_their_endpoint() {
        let plan =
            diff(&Tables::default(), &service("dns"), &wants(&[(frontend(10, Protocol::Udp), 0, &[4])]));
        assert_eq!(told(&plan.changes), ["+1.1.0=10.1.0.4#1", "+1.1#1=0", "=1.1x1 0s"]);
    }

    #[test]
    fn a_restart_writes_nothing_that_is_there_and_deletes_what_nobody_asks_for() {
        let (mut tables, mut contents) = (Tables::default(), Contents::default());
        let (one, two) = (frontend(1, Protocol::Tcp), frontend(2, Protocol::Udp));
        let desired = wants(&[(one, 0, &[4]), (two, 0, &[4, 5])]);
        let plan = diff(&tables, &service("a"), &desired);
        carry_out(&mut tables, &mut contents, plan.changes);

        let (mut tables, strays) = Tables::read(&contents);
        assert_eq!(strays, []);
        let plan = diff(&tables, &service("a"), &wants(&[(two, 0, &[4, 5])]));
        assert_eq!(told(&plan.changes), Vec::<String>::new());
        carry_out(&mut tables, &mut contents, plan.changes);
        let rest = leftovers(&tables);
        assert_eq!(told(&rest), ["-10.96.0.1:80/TCP", "-1.1.0"]);
        carry_out(&mut tables, &mut contents, rest);
        assert_eq!(leftovers(&tables), []);
    }

    #[test]
    fn a_frontend_stays_with_the_service_that_has_it() {
        let (mut tables, mut contents) = (Tables::default(), Contents::default());
        let (old, new, at) = (service("old"), service("new"), frontend(1, Protocol::Tcp));
        let desired = wants(&[(at, 0, &[4])]);
        let plan = diff(&tables, &old, &desired);
        carry_out(&mut tables, &mut contents, plan.changes);
        let plan = diff(&tables, &new, &desired);
        assert_eq!(plan.problems, [Problem::Taken { frontend: at, by: ServiceRef::clone(&old) }]);
        assert_eq!(plan.changes, []);
        // Its end does not touch what another has by then.
        let plan = diff(&tables, &old, &Desired::default());
        carry_out(&mut tables, &mut contents, plan.changes);
        let plan = diff(&tables, &new, &desired);
        assert_eq!(told(&plan.changes), ["+2.1.0=10.1.0.4#1", "=2.1x1 0s"]);
        carry_out(&mut tables, &mut contents, plan.changes);
        assert_eq!(diff(&tables, &old, &Desired::default()), Plan::default());
    }
}
