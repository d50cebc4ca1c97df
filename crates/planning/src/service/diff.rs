//! What has to be written so that the tables hold what they should, in an order that clients do not notice.
//!
//! Of each set of targets that changes:
//!
//! 1. the backends of the next generation and their members, whatever of them an attempt before left there;
//! 2. the values of its frontends, each of which leads its clients there at once;
//! 3. the generations before go, unless other frontends lead to them.
//!
//! A frontend that goes: the value, then its generation. What is as it should be is not written: a frontend that is added
//! to a set is led to the generation that is there.
//!
//! The tables have an end. One Service must not keep others from being served, nor what is there from being changed:
//!
//! - a change is written beside what it replaces, so the last [`RESERVE`]th of each table is for changes that take no more
//!   than what was there;
//! - a Service or pod gets a [`SHARE`]th of each table at most;
//! - where there is no room for all targets of a set its clients get as many as there is room for, no fewer than before
//!   if the reserve holds these; what has nothing yet and gets nothing is not written. Both are told.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    desired::{Desired, Frontend, Problem, Target, Wanted},
    inputs::Owner,
    tables::{
        Backend, Entry, Generation, Member, Name, Place, ROW, Size, Step, Tables, Value, keeps_endpoints,
    },
};

/// What is kept of each table for changes of what is there: one part of so many.
const RESERVE: usize = 8;
/// What a Service or pod may have of each table: one part of so many.
const SHARE: usize = 4;

/// What to do at once with some frontends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What to write, in order.
    pub steps: Vec<Step>,
    /// What the tables hold then of each frontend that is concerned; none: nothing.
    pub(super) after: BTreeMap<Frontend, Option<Entry>>,
    /// The generation that is new.
    pub(super) made: Option<(Name, Generation)>,
}

impl Change {
    /// The frontends that are concerned.
    pub fn frontends(&self) -> impl Iterator<Item = &Frontend> {
        self.after.keys()
    }
}

/// What to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Changes, each to be noted ([`Tables::note`]) before the next plan is made.
    pub changes: Vec<Change>,
    /// Frontends that another Service has, to be tried again when it has gone; and those for which there is no room.
    pub problems: Vec<Problem>,
}

/// Plans for one Service.
#[must_use]
pub fn diff(tables: &Tables, service: &Arc<Owner>, desired: &Desired) -> Plan {
    let wanted: BTreeSet<&Frontend> = desired.frontends().collect();
    let mut planner = Planner { own: own(tables, service, &wanted), ..Planner::new(tables) };
    // What goes first makes room.
    for frontend in tables.owned_by(service) {
        if !wanted.contains(frontend) {
            planner.remove(frontend);
        }
    }
    for wanted in &desired.sets {
        planner.lead(service, wanted);
    }
    planner.plan
}

/// What a Service has of the tables, with what was read back and that it wants.
fn own(tables: &Tables, service: &Owner, wanted: &BTreeSet<&Frontend>) -> Size {
    let frontends: BTreeSet<&Frontend> = tables.owned_by(service).chain(wanted.iter().copied()).collect();
    let is_own = |entry: &&Entry| entry.owner.as_deref().is_none_or(|owner| owner == service);
    let (mut size, mut names) = (Size::default(), BTreeSet::new());
    for entry in frontends.into_iter().filter_map(|frontend| tables.entry(frontend)).filter(is_own) {
        size.frontends += 1;
        let generation = tables.generation(entry.value.name()).filter(|_| names.insert(entry.value.name()));
        size.add(generation.map(Generation::size).unwrap_or_default());
    }
    size
}

/// Plans the end of every frontend that no Service has asked for since the tables were read.
#[must_use]
pub fn leftovers(tables: &Tables) -> Vec<Change> {
    let mut planner = Planner::new(tables);
    for (frontend, _) in tables.entries().filter(|(_, entry)| entry.owner.is_none()) {
        planner.remove(frontend);
    }
    planner.plan.changes
}

/// A plan that is being made.
struct Planner<'a> {
    tables: &'a Tables,
    plan: Plan,
    /// How many frontends lead to a generation after what is planned so far, where that is not what the tables say.
    users: BTreeMap<Name, u32>,
    /// Numbers that were given.
    given: u32,
    /// What the tables hold after what is planned so far, and what the Service has of it.
    held: Size,
    own: Size,
}

impl<'a> Planner<'a> {
    fn new(tables: &'a Tables) -> Self {
        let (held, own) = (tables.held(), Size::default());
        Self { tables, plan: Plan::default(), users: BTreeMap::new(), given: 0, held, own }
    }

    fn remove(&mut self, frontend: &Frontend) {
        let Some(before) = self.tables.entry(frontend) else { return };
        self.less(Size { frontends: 1, ..Size::default() });
        let mut steps = vec![Step::DeleteValue(*frontend)];
        steps.extend(self.leave(before.value.name()));
        self.plan.changes.push(Change { steps, after: [(*frontend, None)].into(), made: None });
    }

    /// Leads the frontends of a set to its targets.
    fn lead(&mut self, service: &Arc<Owner>, wanted: &Wanted) {
        let mut frontends: BTreeMap<Frontend, Option<&'a Entry>> = BTreeMap::new();
        for frontend in &wanted.frontends {
            let before = self.tables.entry(frontend);
            match before.and_then(|entry| entry.owner.as_ref()).filter(|owner| *owner != service) {
                Some(other) => {
                    let by = Owner::clone(other);
                    self.plan.problems.push(Problem::Taken { frontend: *frontend, by });
                }
                None => drop(frontends.insert(*frontend, before)),
            }
        }
        let Some(keeps) = frontends.keys().next().map(|one| keeps_endpoints(one, wanted.affinity_seconds))
        else {
            return;
        };
        let Some(wanted) = self.fitted(&mut frontends, wanted, keeps) else { return };
        let wanted = wanted.as_ref();
        let there = frontends.values().flatten().map(|entry| entry.value);
        let there = there.clone().find(|value| self.is_as_wanted(*value, wanted, keeps));
        let (mut steps, value, made) = match there {
            Some(value) => (Vec::new(), value, None),
            None => self.generation(&frontends, wanted, keeps),
        };
        self.more(made.as_ref().map(|(_, made)| made.size()).unwrap_or_default());
        let (mut after, mut left) = (BTreeMap::new(), Vec::new());
        for (frontend, before) in frontends {
            let is_led = before.is_some_and(|entry| entry.value == value);
            if is_led && before.is_some_and(|entry| entry.owner.is_some()) {
                continue;
            }
            if before.is_none() {
                self.more(Size { frontends: 1, ..Size::default() });
            }
            if !is_led {
                steps.push(Step::PutValue(frontend, value));
                self.join(value.name());
                left.extend(before.map(|entry| entry.value.name()));
            }
            after.insert(frontend, Some(Entry { value, owner: Some(Arc::clone(service)) }));
        }
        for name in left {
            steps.extend(self.leave(name));
        }
        if !after.is_empty() {
            self.plan.changes.push(Change { steps, after, made });
        }
    }

    /// As much of a set as there is room for, and those frontends that may be there; what is left out is told. None:
    /// nothing.
    fn fitted<'w>(
        &mut self,
        frontends: &mut BTreeMap<Frontend, Option<&'a Entry>>,
        wanted: &'w Wanted,
        keeps: bool,
    ) -> Option<Cow<'w, Wanted>> {
        let (room, beside) = self.room(frontends.values().flatten());
        let targets = |size: Size| {
            let in_rows = size.rows.saturating_mul(ROW);
            if keeps { in_rows.min(size.members) } else { in_rows }
        };
        let is_new = |before: &Option<&Entry>| before.is_none();
        if frontends.values().filter(|before| is_new(before)).count() > room.frontends {
            let first = frontends.iter().find(|(_, before)| is_new(before));
            self.plan.problems.extend(first.map(|(frontend, _)| Problem::NoRoom { frontend: *frontend }));
            frontends.retain(|_, before| before.is_some());
        }
        let first = *frontends.keys().next()?;
        let mut some = first_targets(wanted, targets(room));
        let is_there =
            || frontends.values().flatten().any(|before| self.is_as_wanted(before.value, &some, keeps));
        if some.targets.len() > targets(beside) && !is_there() {
            some = first_targets(wanted, targets(room).min(targets(beside)));
        }
        if some.targets.len() == wanted.targets.len() {
            return Some(some);
        }
        self.plan.problems.push(Problem::NoRoom { frontend: first });
        (!some.targets.is_empty()).then_some(some)
    }

    /// How many new frontends there is room for, and for how many targets of a set whose frontends have these entries;
    /// and how much can be written beside what is there.
    fn room<'e>(&self, before: impl Iterator<Item = &'e &'e Entry>) -> (Size, Size) {
        let mut had = Size::default();
        for generation in before.filter_map(|entry| self.tables.generation(entry.value.name())) {
            let size = generation.size();
            had.rows = had.rows.max(size.rows);
            had.members = had.members.max(size.members);
        }
        let more = |held: usize, own: usize, most: usize| {
            (most - most / RESERVE).saturating_sub(held).min((most / SHARE).saturating_sub(own))
        };
        let (held, own, most) = (self.held, self.own, self.tables.most());
        let room = Size {
            frontends: more(held.frontends, own.frontends, most.frontends),
            rows: more(held.rows, own.rows, most.rows).saturating_add(had.rows),
            members: more(held.members, own.members, most.members).saturating_add(had.members),
        };
        let mut beside = most;
        beside.take(held);
        (room, beside)
    }

    fn more(&mut self, size: Size) {
        self.held.add(size);
        self.own.add(size);
    }

    fn less(&mut self, size: Size) {
        self.held.take(size);
        self.own.take(size);
    }

    fn is_as_wanted(&self, value: Value, wanted: &Wanted, keeps: bool) -> bool {
        self.tables.generation(value.name()).is_some_and(|generation| {
            generation.whole
                && generation.keeps == keeps
                && value.affinity_seconds == wanted.affinity_seconds
                && generation.endpoints.targets().eq(wanted.targets.iter().copied())
        })
    }

    /// What writes a new generation, of the number that the frontends have for themselves, else of a new one.
    fn generation(
        &mut self,
        frontends: &BTreeMap<Frontend, Option<&Entry>>,
        wanted: &Wanted,
        keeps: bool,
    ) -> (Vec<Step>, Value, Option<(Name, Generation)>) {
        let ids = frontends.values().flatten().map(|entry| entry.value.id);
        let own = ids.clone().find(|id| {
            let here = ids.clone().filter(|one| one == id).count();
            let names = self.tables.generations_of(*id).map(|(name, _)| *name);
            let all: u32 = names.map(|name| self.users(name)).sum();
            usize::try_from(all).is_ok_and(|all| all == here)
        });
        let id = own.unwrap_or_else(|| {
            self.given += 1;
            self.tables.free_id(self.given - 1)
        });
        let generation =
            self.tables.generations_of(id).last().map_or(1, |(name, _)| name.generation.wrapping_add(1));
        let (endpoints, last_endpoint) = self.number(id, wanted);
        let count = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
        let backends: Vec<Backend> = endpoints
            .iter()
            .map(|(target, endpoint)| Backend { target: *target, endpoint: *endpoint })
            .collect();
        let rows = Place::all(id, generation, count).zip(backends.chunks(ROW));
        let mut steps: Vec<Step> = rows.map(|(place, row)| Step::PutRow(place, row.to_vec())).collect();
        if keeps {
            let members = (0..count).zip(endpoints.values());
            let member = |endpoint: &u32| Member { id, generation, endpoint: *endpoint };
            steps.extend(members.map(|(slot, endpoint)| Step::PutMember(member(endpoint), slot)));
        }
        let value = Value { id, generation, count, affinity_seconds: wanted.affinity_seconds };
        let made =
            Generation { endpoints: endpoints.into(), last_endpoint, count, keeps, whole: true, users: 0 };
        (steps, value, Some((value.name(), made)))
    }

    /// Gives each target the number that it had, or one that none had.
    fn number(&self, id: u32, wanted: &Wanted) -> (BTreeMap<Target, u32>, u32) {
        let mut had: BTreeMap<Target, u32> = BTreeMap::new();
        let mut last = 0;
        for (_, generation) in self.tables.generations_of(id) {
            had.extend(generation.endpoints.iter());
            last = last.max(generation.last_endpoint);
        }
        let mut next = || {
            last = last.wrapping_add(1).max(1);
            last
        };
        let number = |target: &Target| (*target, had.get(target).copied().unwrap_or_else(&mut next));
        let endpoints = wanted.targets.iter().map(number).collect();
        (endpoints, last)
    }

    fn users(&self, name: Name) -> u32 {
        let there = || self.tables.generation(name).map_or(0, |generation| generation.users);
        self.users.get(&name).copied().unwrap_or_else(there)
    }

    fn join(&mut self, name: Name) {
        let users = self.users(name) + 1;
        self.users.insert(name, users);
    }

    /// What deletes a generation, if nobody is led to it any more.
    fn leave(&mut self, name: Name) -> Vec<Step> {
        let users = self.users(name).saturating_sub(1);
        self.users.insert(name, users);
        let gone = self.tables.generation(name).filter(|_| users == 0);
        self.less(gone.map(Generation::size).unwrap_or_default());
        gone.into_iter().flat_map(|generation| generation.deletion(name)).collect()
    }
}

/// The set with so many targets at most.
fn first_targets(wanted: &Wanted, most: usize) -> Cow<'_, Wanted> {
    if wanted.targets.len() <= most {
        return Cow::Borrowed(wanted);
    }
    let targets = wanted.targets.iter().take(most).copied().collect();
    Cow::Owned(Wanted { targets, frontends: wanted.frontends.clone(), ..*wanted })
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            desired::Protocol,
            inputs::OwnerKind,
            tables::{
                Contents,
                tests::{frontend, target},
            },
        },
        *,
    };

    fn service(name: &str) -> Arc<Owner> {
        Arc::new(Owner { kind: OwnerKind::Service, namespace: "d".into(), name: name.into() })
    }

    fn wants(frontends: &[(Frontend, u32, &[u8])]) -> Desired {
        let one = |(frontend, affinity_seconds, targets): &(Frontend, u32, &[u8])| {
            set(&[*frontend], *affinity_seconds, targets)
        };
        Desired { sets: frontends.iter().map(one).collect(), ..Desired::default() }
    }

    fn set(frontends: &[Frontend], affinity_seconds: u32, targets: &[u8]) -> Wanted {
        let targets = targets.iter().map(|last| target(*last)).collect();
        Wanted { frontends: frontends.iter().copied().collect(), affinity_seconds, targets }
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
            Step::PutRow(place, row) => {
                let backend = |one: &Backend| format!("{}#{}", one.target.address, one.endpoint);
                let row: Vec<String> = row.iter().map(backend).collect();
                format!("+{}.{}.{}={}", place.id, place.generation, place.row, row.join(" "))
            }
            Step::PutMember(member, slot) => {
                format!("+{}.{}#{}={slot}", member.id, member.generation, member.endpoint)
            }
            Step::PutValue(_, value) => {
                format!("={}.{}x{} {}s", value.id, value.generation, value.count, value.affinity_seconds)
            }
            Step::DeleteValue(frontend) => format!("-{frontend}"),
            Step::DeleteRow(place) => format!("-{}.{}.{}", place.id, place.generation, place.row),
            Step::DeleteMember(member) => format!("-{}.{}#{}", member.id, member.generation, member.endpoint),
            Step::PutNode(..) | Step::DeleteNode(_) => unreachable!("{step:?}"),
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
        check(&wants(&[(at, 0, &[4, 5])]), &["+1.1.0=10.1.0.4#1 10.1.0.5#2", "=1.1x2 0s"]);
        // An endpoint keeps its number, another never gets it.
        check(&wants(&[(at, 0, &[5, 6])]), &["+1.2.0=10.1.0.5#2 10.1.0.6#3", "=1.2x2 0s", "-1.1.0"]);
        check(&wants(&[(at, 0, &[])]), &["=1.3x0 0s", "-1.2.0"]);
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
        assert_eq!(plan.problems, [Problem::Taken { frontend: at, by: Owner::clone(&old) }]);
        assert_eq!(plan.changes, []);
        // Its end does not touch what another has by then.
        let plan = diff(&tables, &old, &Desired::default());
        carry_out(&mut tables, &mut contents, plan.changes);
        let plan = diff(&tables, &new, &desired);
        assert_eq!(told(&plan.changes), ["+2.1.0=10.1.0.4#1", "=2.1x1 0s"]);
        carry_out(&mut tables, &mut contents, plan.changes);
        assert_eq!(diff(&tables, &old, &Desired::default()), Plan::default());
    }

    #[test]
    fn frontends_of_one_set_share_their_backends() {
        let web = service("web");
        let [vip, node, external] = [1, 2, 3].map(|last| frontend(last, Protocol::Tcp));
        let (mut tables, mut contents) = (Tables::default(), Contents::default());
        let mut check = |sets: &[Wanted], expect: &[&str]| {
            let desired = Desired { sets: sets.to_vec(), ..Desired::default() };
            let plan = diff(&tables, &web, &desired);
            assert_eq!(told(&plan.changes), expect);
            carry_out(&mut tables, &mut contents, plan.changes);
            assert_eq!(diff(&tables, &web, &desired), Plan::default(), "once");
            let (read, strays) = Tables::read(&contents);
            assert_eq!((strays, read.backends()), (vec![], tables.backends()));
        };
        check(&[set(&[vip, node], 0, &[4, 5])], &["+1.1.0=10.1.0.4#1 10.1.0.5#2", "=1.1x2 0s", "=1.1x2 0s"]);
        check(&[set(&[vip, node, external], 0, &[4, 5])], &["=1.1x2 0s"]);
        check(
            &[set(&[vip, node, external], 0, &[5])],
            &["+1.2.0=10.1.0.5#2", "=1.2x1 0s", "=1.2x1 0s", "=1.2x1 0s", "-1.1.0"],
        );
        check(&[set(&[vip, external], 0, &[5])], &["-10.96.0.2:80/TCP"]);
        // They part: one goes on with the number of its own, and joins again.
        check(&[set(&[vip], 0, &[]), set(&[external], 0, &[5])], &["=2.1x0 0s"]);
        check(&[set(&[vip, external], 0, &[5])], &["=1.2x1 0s"]);
        check(
            &[set(&[vip], 0, &[4]), set(&[external], 0, &[6])],
            &["+3.1.0=10.1.0.4#1", "=3.1x1 0s", "+1.3.0=10.1.0.6#3", "=1.3x1 0s", "-1.2.0"],
        );
        check(&[], &["-10.96.0.1:80/TCP", "-3.1.0", "-10.96.0.3:80/TCP", "-1.3.0"]);
    }

    /// By rows, and by members, of which each has one endpoint.
    #[test]
    fn one_service_does_not_fill_the_tables_and_what_is_there_can_always_change() {
        fills_no_more_than_its_share(Protocol::Tcp, 5);
        fills_no_more_than_its_share(Protocol::Udp, 1);
    }

    /// `times`: endpoints in an entry of the table that is full first.
    fn fills_no_more_than_its_share(protocol: Protocol, times: u8) {
        let most = Size { frontends: 16, rows: 64, members: 64 };
        let (mut tables, mut contents) = (Tables::default().within(most), Contents::default());
        let mut check = |name: &str, last: u8, targets: std::ops::Range<u8>, expect: usize, told: bool| {
            let at = frontend(last, protocol);
            let expect = expect.saturating_mul(times.into());
            let targets: Vec<u8> = (targets.start * times..targets.end * times).collect();
            let desired = wants(&[(at, 0, &targets)]);
            let plan = diff(&tables, &service(name), &desired);
            for step in plan.changes.iter().flat_map(|change| &change.steps) {
                contents.apply(step);
                assert!(contents.rows.len() <= 64 && contents.members.len() <= 64, "{name}");
            }
            let problems = plan.problems;
            plan.changes.into_iter().for_each(|change| tables.note(change));
            let found = contents.found(&at).map_or(usize::MAX, |found| found.len());
            let expect_problems = if told { vec![Problem::NoRoom { frontend: at }] } else { vec![] };
            assert_eq!((found, &problems), (expect, &expect_problems), "{name} {targets:?}");
            let again = diff(&tables, &service(name), &desired);
            assert_eq!((again.changes, again.problems), (vec![], problems), "once");
        };
        let none = usize::MAX;
        check("a", 1, 0..20, 16, true);
        check("b", 2, 0..16, 16, false);
        check("c", 3, 0..16, 16, false);
        check("d", 4, 0..16, 8, true);
        check("e", 5, 0..1, none, true);
        check("f", 6, 0..0, 0, false);
        // The reserve is for what is there.
        check("d", 4, 20..28, 8, false);
        check("d", 4, 30..46, 8, true);
        check("b", 2, 0..2, 2, false);
        check("d", 4, 30..46, 16, false);
        check("e", 5, 0..1, 1, false);
        check("a", 1, 39..51, 12, false);
    }

    #[test]
    fn frontends_have_an_end_too_and_what_is_read_back_counts() {
        let most = Size { frontends: 16, rows: 64, members: 64 };
        let (mut tables, mut contents) = (Tables::default().within(most), Contents::default());
        let many: Vec<Wanted> =
            (0..6).map(|last| set(&[frontend(last, Protocol::Tcp)], 0, &[last])).collect();
        let desired = Desired { sets: many, ..Desired::default() };
        for _ in 0..2 {
            let plan = diff(&tables, &service("a"), &desired);
            let no_room = |last| Problem::NoRoom { frontend: frontend(last, Protocol::Tcp) };
            assert_eq!(plan.problems, [no_room(4), no_room(5)], "a quarter of all frontends");
            carry_out(&mut tables, &mut contents, plan.changes);
            assert_eq!(contents.values.len(), 4);
            tables = Tables::read(&contents).0.within(most);
        }
    }

    #[test]
    fn what_was_broken_off_between_two_frontends_is_brought_to_its_end() {
        let web = service("web");
        let [vip, node] = [1, 2].map(|last| frontend(last, Protocol::Udp));
        let (mut tables, mut contents) = (Tables::default(), Contents::default());
        let desired =
            |targets: &[u8]| Desired { sets: vec![set(&[vip, node], 0, targets)], ..Desired::default() };
        let plan = diff(&tables, &web, &desired(&[4]));
        carry_out(&mut tables, &mut contents, plan.changes);
        let plan = diff(&tables, &web, &desired(&[4, 5]));
        // The row and the members of two endpoints, and the value of the first.
        plan.changes[0].steps.iter().take(4).for_each(|step| contents.apply(step));
        let (mut tables, strays) = Tables::read(&contents);
        assert_eq!(strays, []);
        let plan = diff(&tables, &web, &desired(&[4, 5]));
        assert_eq!(told(&plan.changes), ["=1.2x2 0s", "-1.1.0", "-1.1#1"]);
        carry_out(&mut tables, &mut contents, plan.changes);
        assert_eq!((leftovers(&tables), tables.backends()), (vec![], 2));
    }

    #[test]
    fn many_endpoints_take_several_rows_which_are_written_and_deleted_whole() {
        let (dns, at) = (service("dns"), frontend(1, Protocol::Udp));
        let (mut tables, mut contents) = (Tables::default(), Contents::default());
        let twelve: Vec<u8> = (1..=12).collect();
        let mut check = |targets: &[u8], rows: &[usize]| {
            let plan = diff(&tables, &dns, &wants(&[(at, 0, targets)]));
            carry_out(&mut tables, &mut contents, plan.changes);
            assert_eq!(contents.rows.values().map(Vec::len).collect::<Vec<_>>(), rows);
            let expect = targets.iter().map(|last| Some(target(*last))).collect();
            assert_eq!(contents.found(&at), Some(expect));
            let slots: BTreeSet<u32> = contents.members.values().copied().collect();
            assert_eq!(slots.len(), targets.len(), "each endpoint has a slot of its own");
            let (read, strays) = Tables::read(&contents);
            assert_eq!((strays, read.backends(), tables.backends()), (vec![], targets.len(), targets.len()));
        };
        check(&twelve, &[5, 5, 2]);
        check(&twelve[..10], &[5, 5]);
        check(&twelve[..4], &[4]);
        check(&[], &[]);
    }
}
