//! Addresses of members, by Service: one that a member has, or may have, is not given to another pod.
//!
//! Members follow the endpoints of a Service after a while, and not at all while its load balancer is being changed or Octavia is
//! away. So they tell more than endpoints do, and all that is needed for it is in the looks that are made anyway:
//!
//! 1. A load balancer that is active shows its members, and those that it is about to lose.
//! 2. One that is not shows none, and may have those that were known before.
//! 3. What is asked for may be there from then on, whether the answer arrives or not, until an active one does not show it.
//! 4. What is gone has no members.
//! 5. What no look has shown yet, as its load balancer was never active since this leadership began, is read for this alone: what Octavia has of
//!    members of one that is being made or changed says who may have an address, though not what it will be.
//!
//! Nothing is known here of a Service that was not looked at yet: it may have members that nobody has seen ([`super::unseen`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    desired::PoolSpec,
    inputs::{Actual, Balancer, State},
    step::Step,
};

/// What members there are or may be, of Services with names of type `K`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members<K> {
    by_service: BTreeMap<K, BTreeSet<IpAddr>>,
    /// Of which a look has shown all members.
    seen: BTreeSet<K>,
    /// How many Services have one there.
    by_address: BTreeMap<IpAddr, usize>,
}

impl<K> Default for Members<K> {
    fn default() -> Self {
        Self { by_service: BTreeMap::new(), seen: BTreeSet::new(), by_address: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> Members<K> {
    /// Takes over what a look showed and what is about to be done.
    pub fn note(&mut self, service: &K, actual: &Actual, steps: &[Step]) {
        let before = self.by_service.remove(service).unwrap_or_default();
        let now = after(&before, actual, steps);
        before.difference(&now).for_each(|address| self.leaves(address));
        for address in now.difference(&before) {
            *self.by_address.entry(*address).or_default() += 1;
        }
        self.by_service.insert(service.clone(), now);
        let is_seen = |found: &Balancer| found.state == State::Active || found.hidden.is_some();
        if actual.balancers.iter().chain(&actual.shared).all(is_seen) {
            self.seen.insert(service.clone());
        }
    }

    /// Services that were looked at.
    pub fn services(&self) -> impl Iterator<Item = &K> {
        self.by_service.keys()
    }

    /// Forgets a Service of which nothing is left.
    pub fn forget(&mut self, service: &K) {
        self.seen.remove(service);
        for address in self.by_service.remove(service).unwrap_or_default() {
            self.leaves(&address);
        }
    }

    /// Tells whether a look has shown all members of the Service.
    #[must_use]
    pub fn knows(&self, service: &K) -> bool {
        self.seen.contains(service)
    }

    /// Tells whether a member has the address, or may have it.
    #[must_use]
    pub fn may_have(&self, address: &IpAddr) -> bool {
        self.by_address.contains_key(address)
    }

    fn leaves(&mut self, address: &IpAddr) {
        if let Some(services) = self.by_address.get_mut(address) {
            *services -= 1;
            if *services == 0 {
                self.by_address.remove(address);
            }
        }
    }
}

fn after(before: &BTreeSet<IpAddr>, actual: &Actual, steps: &[Step]) -> BTreeSet<IpAddr> {
    let mut now: BTreeSet<IpAddr> = steps.iter().flat_map(asked).collect();
    for found in actual.balancers.iter().chain(&actual.shared) {
        if found.state != State::Active {
            now.extend(before);
            now.extend(found.hidden.iter().flatten());
        }
        for pool in &found.pools {
            now.extend(pool.members.iter().map(|member| member.address));
            now.extend(pool.leaving.keys().map(|(address, _)| address));
        }
    }
    now
}

/// Addresses of the members that a step asks for.
fn asked(step: &Step) -> Vec<IpAddr> {
    let addresses = |pool: &PoolSpec| pool.members.keys().map(|(address, _)| *address).collect::<Vec<_>>();
    match step {
        Step::SetMembers { to, .. } => addresses(to),
        Step::CreateBalancer(spec) => {
            spec.listeners.values().flat_map(|listener| addresses(&listener.pool)).collect()
        }
        _ => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        Inputs, Memory,
        fixtures::{balancer, endpoint, service, settings},
        inputs::{EndpointFacts, Settings},
        plan,
    };
    use super::*;

    /// A Service with its load balancer, and what is known of its members.
    struct Look {
        members: Members<&'static str>,
        pods: Vec<EndpointFacts>,
        actual: Actual,
    }

    impl Look {
        fn new() -> Self {
            let actual = Actual { balancers: vec![balancer("b")], ..Actual::default() };
            Self { members: Members::default(), pods: vec![endpoint("10.1.0.7")], actual }
        }

        fn found(&mut self) -> &mut Balancer {
            &mut self.actual.balancers[0]
        }

        /// Looks and plans; tells which of three addresses members may have.
        fn look(&mut self) -> Vec<&'static str> {
            let settings = Settings { external: None, ..settings("ovn") };
            let mut service = service();
            service.has_finalizer = true;
            let inputs = Inputs {
                now: 1000,
                service: &service,
                endpoints: &self.pods,
                settings: &settings,
                actual: &self.actual,
            };
            let plan = plan(&inputs, &mut Memory::default());
            self.members.note(&"web", &self.actual, &plan.steps);
            let all = ["10.1.0.7", "10.1.0.8", "10.1.0.9"];
            all.into_iter().filter(|address| self.members.may_have(&address.parse().unwrap())).collect()
        }

        /// What is asked for is done.
        fn has(&mut self, address: &str) {
            let member = &mut self.found().pools[0].members[0];
            member.address = address.parse().unwrap();
        }
    }

    #[test]
    fn an_address_is_a_members_until_a_look_shows_that_it_is_not() {
        let mut look = Look::new();
        assert_eq!(look.look(), ["10.1.0.7"]);
        look.pods = vec![endpoint("10.1.0.8")];
        assert_eq!(
            look.look(),
            ["10.1.0.7", "10.1.0.8"],
            "it is still there, and the other may be from now on"
        );
        look.found().state = State::Pending;
        look.found().pools[0].members.clear();
        look.pods = vec![endpoint("10.1.0.9")];
        assert_eq!(look.look(), ["10.1.0.7", "10.1.0.8"], "it does not show them");
        look = Look { members: look.members, ..Look::new() };
        look.has("10.1.0.8");
        look.found().pools[0].leaving = [(("10.1.0.7".parse().unwrap(), 8080), "m".into())].into();
        look.pods = vec![endpoint("10.1.0.8")];
        assert_eq!(look.look(), ["10.1.0.7", "10.1.0.8"], "it is about to lose one");
        look.found().pools[0].leaving.clear();
        assert_eq!(look.look(), ["10.1.0.8"]);
    }

    #[test]
    fn one_that_fails_or_is_deleted_has_its_members_until_it_is_gone() {
        let mut look = Look::new();
        look.look();
        look.pods.clear();
        for state in [State::Error, State::Deleting] {
            look.found().state = state;
            look.found().pools.clear();
            assert_eq!(look.look(), ["10.1.0.7"], "{state:?}");
        }
        look.actual.balancers.clear();
        assert_eq!(look.look(), [""; 0]);
    }

    #[test]
    fn what_never_showed_its_members_is_not_known() {
        let mut look = Look::new();
        for state in [State::Pending, State::Error] {
            look.found().state = state;
            look.found().pools.clear();
            look.look();
            assert!(!look.members.knows(&"web"), "{state:?}");
        }
        look = Look { members: look.members, ..Look::new() };
        look.look();
        look.found().state = State::Pending;
        look.look();
        assert!(look.members.knows(&"web"), "it has shown them before");
    }

    /// A leader was killed after it had a load balancer made and before its view told of it.
    #[test]
    fn members_of_one_that_is_being_made_are_known_when_they_were_read() {
        let mut look = Look::new();
        look.found().state = State::Pending;
        look.found().pools.clear();
        look.pods.clear();
        look.found().hidden = Some(["10.1.0.8".parse().unwrap()].into());
        assert_eq!(look.look(), ["10.1.0.8"]);
        assert!(look.members.knows(&"web"));
        look.found().hidden = None;
        assert_eq!(look.look(), ["10.1.0.8"], "until an active one does not show it");
        look = Look { members: look.members, ..Look::new() };
        assert_eq!(look.look(), ["10.1.0.7"]);
    }

    #[test]
    fn what_is_made_may_have_its_members_before_it_shows_them() {
        let mut look = Look::new();
        look.actual.balancers.clear();
        assert_eq!(look.look(), ["10.1.0.7"]);
        look.actual.balancers = vec![Balancer { state: State::Pending, pools: vec![], ..balancer("b") }];
        look.pods.clear();
        assert_eq!(look.look(), ["10.1.0.7"]);
    }

    #[test]
    fn an_address_that_two_services_have_is_free_when_both_have_lost_it() {
        let (mut members, actual) = (Members::default(), Look::new().actual);
        let address = "10.1.0.7".parse().unwrap();
        ["web", "dns"].iter().for_each(|service| members.note(service, &actual, &[]));
        members.note(&"web", &Actual::default(), &[]);
        assert!(members.may_have(&address) && members.knows(&"web"));
        members.forget(&"dns");
        assert!(!members.may_have(&address) && !members.knows(&"dns"));
    }
}
