//! A cloud in memory that keeps Octavia's rules: one change of a load balancer at a time, which lasts.

use std::collections::BTreeMap;

use super::{
    Actual, Balancer, BalancerSpec, Floating, FoundListener, FoundMember, FoundMonitor, FoundPool, Ingress,
    ListenerSpec, Others, PoolSpec, Protocol, ServiceFacts, State, Step, sharing,
};
use crate::ownership::KEPT_TAG;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is done.
    None,
    /// It is refused.
    Refused,
    /// It is done, and nobody learns of it.
    AnswerLost,
    /// It is done, but that floating IPs cannot be tagged.
    Untagged,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Cloud {
    pub(super) actual: Actual,
    /// Rounds for which a change lasts.
    pub(super) slowness: u8,
    /// How provider ovn chooses members: for all pools of a load balancer and a protocol as the one that was made last wants it, also
    /// when that one is gone.
    chosen_by: BTreeMap<(kuryr_types::LoadBalancerId, String), String>,
    /// For each load balancer: rounds until it is done, and whether it ends in ERROR.
    busy: Vec<(kuryr_types::LoadBalancerId, u8)>,
    made: u32,
}

impl Cloud {
    /// With what is there; what is made has other ids.
    pub(super) fn of(actual: Actual) -> Self {
        let all = actual.balancers.iter().chain(&actual.shared);
        let made = 100 * u32::try_from(1 + all.map(|found| found.pools.len()).sum::<usize>()).unwrap();
        Self { actual, made, ..Self::default() }
    }

    /// Time passes: changes come to their end.
    pub(super) fn turn(&mut self, fails: bool) {
        // Provider ovn calls a load balancer ACTIVE before members are gone.
        let all = self.actual.balancers.iter_mut().chain(&mut self.actual.shared);
        let active = all.filter(|balancer| balancer.state == State::Active);
        active.flat_map(|balancer| &mut balancer.pools).for_each(|pool| pool.leaving.clear());
        let mut busy = std::mem::take(&mut self.busy);
        for (id, rounds) in &mut busy {
            *rounds = rounds.saturating_sub(1);
            if let Some(shared) = self.actual.shared.iter_mut().find(|balancer| balancer.id == *id) {
                if *rounds == 0 && shared.state == State::Pending {
                    shared.state = State::Active;
                }
                continue;
            }
            let Some(at) = self.actual.balancers.iter().position(|balancer| balancer.id == *id) else {
                continue;
            };
            if *rounds > 0 {
                continue;
            }
            match self.actual.balancers[at].state {
                State::Pending if fails => self.actual.balancers[at].state = State::Error,
                State::Pending => self.actual.balancers[at].state = State::Active,
                State::Deleting => {
                    let gone = self.actual.balancers.remove(at);
                    self.drop_port(gone.vip_port.as_ref());
                }
                State::Active | State::Error => {}
            }
        }
        busy.retain(|(_, rounds)| *rounds > 0);
        self.busy = busy;
    }

    /// Somebody deletes a load balancer behind our back.
    pub(super) fn lose(&mut self, which: usize) {
        if which < self.actual.balancers.len() {
            let gone = self.actual.balancers.remove(which);
            self.drop_port(gone.vip_port.as_ref());
        }
    }

    fn drop_port(&mut self, port: Option<&kuryr_types::PortId>) {
        let leads = |floating: &&mut Floating| floating.port.is_some() && floating.port.as_ref() == port;
        self.actual.floating.iter_mut().filter(leads).for_each(|floating| floating.port = None);
    }

    fn id(&mut self, kind: &str) -> String {
        self.made += 1;
        format!("{kind}{}", self.made)
    }

    /// Carries a step out; tells whether the caller learns of it.
    pub(super) fn apply(&mut self, step: &Step, service: &mut ServiceFacts, fault: Fault) -> bool {
        let tags = matches!(step, Step::CreateFloating { .. } | Step::AdoptFloating { .. });
        match (fault, step) {
            (Fault::Refused, _) | (Fault::Untagged, Step::AdoptFloating { .. }) => return false,
            _ => self.carry_out(step, service),
        }
        if fault == Fault::Untagged && tags {
            let made = self.actual.floating.last_mut().unwrap();
            (made.is_ours, made.is_marked, made.is_kept) = (false, true, false);
        }
        fault == Fault::None || fault == Fault::Untagged && !tags
    }

    fn carry_out(&mut self, step: &Step, service: &mut ServiceFacts) {
        match step {
            Step::AddFinalizer => service.has_finalizer = true,
            Step::RemoveFinalizer => service.has_finalizer = false,
            Step::CreateBalancer(spec) => self.create(spec),
            Step::AdoptBalancer { stranger } => self.adopt(stranger),
            Step::CreateFloating { port, tags, .. } => {
                let id = self.id("f");
                let address = format!("203.0.113.{}", self.made % 250).parse().unwrap();
                let taken = self.actual.floating.iter().any(|floating| floating.port.as_ref() == Some(port));
                assert!(!taken, "a port has one floating IP");
                let port = Some(port.clone());
                self.actual.floating.push(Floating {
                    id: id.into(),
                    address,
                    port,
                    is_ours: true,
                    is_made: true,
                    is_marked: false,
                    is_others: false,
                    is_kept: tags.iter().any(|tag| tag == KEPT_TAG),
                });
            }
            Step::AdoptFloating { floating, tags } => {
                let found = self.floating(floating);
                (found.is_ours, found.is_marked) = (true, false);
                found.is_kept = tags.iter().any(|tag| tag == KEPT_TAG);
            }
            Step::KeepFloating { floating } => {
                let found = self.floating(floating);
                (found.is_ours, found.is_marked, found.is_kept) = (false, false, true);
            }
            Step::Associate { floating, port } => self.floating(floating).port.clone_from(port),
            Step::DeleteFloating { floating } => self.actual.floating.retain(|found| found.id != *floating),
            step => self.change(step),
        }
    }

    fn floating(&mut self, id: &kuryr_types::FloatingIpId) -> &mut Floating {
        self.actual.floating.iter_mut().find(|floating| floating.id == *id).unwrap()
    }

    fn create(&mut self, spec: &BalancerSpec) {
        let id = self.id("b");
        let mut made = Balancer {
            id: id.as_str().into(),
            state: State::Pending,
            provider: spec.provider.clone(),
            vip_subnet: Some(spec.vip_subnet.clone()),
            vip_address: Some(
                spec.vip_address.unwrap_or_else(|| format!("10.1.9.{}", self.made % 250).parse().unwrap()),
            ),
            vip_port: Some(format!("vip-{id}").into()),
            more_vips: vec![],
            name: spec.name.clone(),
            listeners: vec![],
            pools: vec![],
            hidden: None,
            others: Others::default(),
        };
        for ((protocol, port), listener) in &spec.listeners {
            let monitor = &listener.pool.monitor;
            assert!(monitor.is_none() || spec.provider == "amphora", "ovn passes over monitors in a tree");
            let pool = self.pool(&listener.name, &listener.pool, true);
            made.listeners.push(self.listener((*protocol, *port), &pool, listener));
            self.choose(&made, &pool);
            made.pools.push(pool);
        }
        self.busy.push((made.id.clone(), self.slowness + 1));
        self.actual.balancers.push(made);
    }

    /// Tagging is a change as any other.
    fn adopt(&mut self, id: &kuryr_types::LoadBalancerId) {
        let Some(at) = self.actual.strangers.iter().position(|found| found.id == *id) else { return };
        let found = self.actual.strangers.remove(at);
        assert_eq!(found.state, State::Active, "Octavia would refuse this with 409");
        self.busy.push((found.id.clone(), self.slowness + 1));
        self.actual.balancers.push(Balancer {
            vip_port: Some(format!("vip-{}", found.id).into()),
            id: found.id,
            name: "d/web".to_owned(),
            state: State::Pending,
            provider: "ovn".to_owned(),
            vip_subnet: found.vip_subnet,
            vip_address: found.vip_address,
            more_vips: vec![],
            listeners: vec![],
            pools: vec![],
            hidden: None,
            others: Others::default(),
        });
    }

    fn pool(&mut self, name: &str, spec: &PoolSpec, whole: bool) -> FoundPool {
        let members = if whole { found(spec) } else { vec![] };
        let monitor = spec.monitor.clone().filter(|_| whole);
        let monitor = monitor.map(|spec| FoundMonitor { id: self.id("m").into(), spec });
        FoundPool {
            id: self.id("p").into(),
            name: name.to_owned(),
            protocol: spec.protocol.to_owned(),
            algorithm: spec.algorithm.clone(),
            created: format!("{:06}", self.made),
            is_persistent: spec.is_persistent,
            members,
            leaving: BTreeMap::new(),
            monitor,
        }
    }

    fn choose(&mut self, of: &Balancer, made: &FoundPool) {
        if of.provider == "ovn" {
            self.chosen_by.insert((of.id.clone(), made.protocol.clone()), made.algorithm.clone());
        }
    }

    /// Members of all pools are chosen as they say.
    pub(super) fn check_choice(&self, of: &Balancer) {
        for pool in &of.pools {
            let by = self.chosen_by.get(&(of.id.clone(), pool.protocol.clone()));
            assert!(by.is_none_or(|by| *by == pool.algorithm), "members are chosen by {by:?}: {pool:?}");
        }
    }

    fn listener(&mut self, at: (Protocol, u16), pool: &FoundPool, spec: &ListenerSpec) -> FoundListener {
        FoundListener {
            id: self.id("l").into(),
            protocol: spec.protocol.to_owned(),
            port: at.1,
            pool: Some(pool.id.clone()),
            connection_limit: spec.connection_limit,
            timeouts: spec.timeouts,
            asked_timeouts: spec.timeouts.map(|timeout| timeout.is_some()),
            forwards_for: spec.forwards_for,
            allowed: spec.allowed.clone(),
        }
    }

    /// A change of one load balancer, which must take it.
    fn change(&mut self, step: &Step) {
        let id = step.balancer().unwrap().clone();
        let is_it = |balancer: &Balancer| balancer.id == id;
        let own = self.actual.balancers.iter().position(is_it);
        let shared = self.actual.shared.iter().position(is_it);
        let mut of = match (own, shared) {
            (Some(at), _) => self.actual.balancers.remove(at),
            (None, Some(at)) => self.actual.shared.remove(at),
            (None, None) => return,
        };
        let deletes = matches!(step, Step::DeleteBalancer { .. });
        let takes_it = of.state == State::Active || deletes && of.state == State::Error;
        assert!(takes_it, "Octavia would refuse this with 409: {step:?} in state {:?}", of.state);
        of.state = if deletes { State::Deleting } else { State::Pending };
        match step {
            Step::CreatePool { name, pool, .. } => {
                let made = self.pool(name, pool, false);
                self.choose(&of, &made);
                of.pools.push(made);
            }
            Step::UpdatePool { pool, to, .. } => {
                let pool = of.pools.iter_mut().find(|found| found.id == *pool).unwrap();
                (pool.algorithm, pool.is_persistent) = (to.algorithm.clone(), to.is_persistent);
            }
            Step::DeletePool { pool, .. } => {
                let in_use = of.listeners.iter().any(|listener| listener.pool.as_ref() == Some(pool));
                assert!(!in_use, "a pool in use is deleted");
                of.pools.retain(|found| found.id != *pool);
            }
            Step::SetMembers { pool, to, .. } => {
                let pool = of.pools.iter_mut().find(|found| found.id == *pool).unwrap();
                let lost = to.members.keys().find(|at| pool.leaving.contains_key(at));
                assert_eq!(
                    lost, None,
                    "Octavia would change a member that it is deleting, and then it is gone"
                );
                let before = std::mem::replace(&mut pool.members, found(to));
                let ends = before.into_iter().map(|member| ((member.address, member.port), member.id));
                pool.leaving.extend(ends.filter(|(at, _)| !to.members.contains_key(at)));
            }
            Step::DeleteMember { pool, member, .. } => {
                let pool = of.pools.iter_mut().find(|found| found.id == *pool).unwrap();
                pool.leaving.retain(|_, id| id != member);
            }
            Step::CreateListener { at, pool, listener, .. } => {
                let is_at = |found: &FoundListener| {
                    found.port == at.1 && Protocol::below(&found.protocol) == Some(at.0)
                };
                let taken = of.listeners.iter().any(is_at) || sharing::taken(*at, &of, true).is_some();
                assert!(!taken, "a second listener at {at:?}");
                let pool = of.pools.iter().find(|found| found.id == *pool).unwrap().clone();
                let made = self.listener(*at, &pool, listener);
                of.listeners.push(made);
            }
            Step::UpdateListener { listener, pool, to, .. } => {
                let found = of.listeners.iter_mut().find(|found| found.id == *listener).unwrap();
                found.pool = Some(pool.clone());
                (found.connection_limit, found.allowed) = (to.connection_limit, to.allowed.clone());
                (found.timeouts, found.forwards_for) = (to.timeouts, to.forwards_for);
                found.asked_timeouts = to.timeouts.map(|timeout| timeout.is_some());
            }
            Step::CreateMonitor { pool, monitor, .. } => {
                let id = self.id("m").into();
                let is_known =
                    of.provider != "ovn" || ["TCP", "UDP-CONNECT"].contains(&monitor.kind.as_str());
                assert!(is_known, "provider ovn would refuse this with 501: {}", monitor.kind);
                let pool = of.pools.iter_mut().find(|found| found.id == *pool).unwrap();
                assert!(pool.monitor.is_none(), "a pool has one monitor");
                pool.monitor = Some(FoundMonitor { id, spec: monitor.clone() });
            }
            Step::UpdateMonitor { monitor, to, .. } => {
                let found = of.pools.iter_mut().filter_map(|pool| pool.monitor.as_mut());
                let found = found.into_iter().find(|found| found.id == *monitor).unwrap();
                assert_eq!(found.spec.kind, to.kind, "the kind of a monitor cannot be changed");
                found.spec = to.clone();
            }
            Step::DeleteMonitor { monitor, .. } => {
                let is_it =
                    |pool: &&mut FoundPool| pool.monitor.as_ref().is_some_and(|found| found.id == *monitor);
                of.pools.iter_mut().find(is_it).unwrap().monitor = None;
            }
            Step::DeleteListener { listener, .. } => of.listeners.retain(|found| found.id != *listener),
            _ => {}
        }
        self.busy.push((of.id.clone(), self.slowness + 1));
        match own {
            Some(_) => self.actual.balancers.push(of),
            None => self.actual.shared.push(of),
        }
    }

    /// Somebody changes a load balancer that is shared, or has what others have there in its way.
    pub(super) fn disturb(&mut self, others: Others, is_broken: bool) {
        let Some(shared) = self.actual.shared.first_mut() else { return };
        shared.others = others;
        shared.state = match (is_broken, shared.state) {
            (true, _) => State::Error,
            (false, State::Error) => State::Active,
            (false, other) => other,
        };
    }
}

fn found(spec: &PoolSpec) -> Vec<FoundMember> {
    let found = spec.members.iter().map(|((address, port), member)| FoundMember {
        address: *address,
        port: *port,
        subnet: member.subnet.clone(),
        id: format!("{address}:{port}").into(),
        name: member.name.clone(),
    });
    found.collect()
}

/// The status as told.
pub(super) fn tell(service: &mut ServiceFacts, told: Option<Vec<Ingress>>) {
    if let Some(told) = told {
        service.told = told;
    }
}
