//! Replays what happened to pods once (a [`Trace`]) against the plans that would be made for their nodes now, and
//! counts the pods that found a port ready when the runtime asked.
//!
//! Plans, forecasts and turns are the real ones. The rest of the world is a model with the times of [`Model`]: one
//! Neutron that makes the ports of a subnet one after the other, one API server, and agents that plug what they are
//! offered and give a ready port to each pod. A pod that finds none gets the next one that is ready; the trace goes
//! on as it was recorded, since a pod that waits does not keep others from coming.
//!
//! What it leaves out: failures, pods of other classes, addresses that something else still names.

mod cloud;
mod node;
mod trace;

use std::collections::BTreeMap;

use kuryr_planning::{
    demand::{
        Coming, Governor, Needs, Place, Rate, Workload, forecast,
        governor::{Ended, Turn},
    },
    pool::{
        Limits, Millis,
        targets::{Levels, Rule},
    },
};

pub(crate) use self::trace::{Event, Trace};
use self::{cloud::Neutron, node::Node};

/// Times of the world around the plans, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Model {
    /// Neutron: what a request costs whatever it asks for.
    pub(crate) request: Millis,
    /// Neutron: what each port of a request costs.
    pub(crate) port: Millis,
    /// From a write of a record until the agent has seen it, or the controller the agent's report.
    pub(crate) api: Millis,
    /// From the offer until the switch has the port.
    pub(crate) plug: Millis,
    /// Between two reports of an agent.
    pub(crate) report: Millis,
}

impl Model {
    /// As measured on the lab, on two cores that everything shares: a bulk of ports 0.30 s for each, an OVN port
    /// installed 0.2 s after it was plugged, several at once 0.4 s.
    pub(crate) const LAB: Self = Self { request: 100, port: 300, api: 30, plug: 400, report: 300 };
}

/// How the pool is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    /// How many ports.
    pub(crate) rule: Rule,
    /// Whether what is about to come is known.
    pub(crate) looks_ahead: bool,
    /// Another leader takes over at the moment from which pods are counted: nothing was learned.
    pub(crate) forgets: bool,
}

/// What came of a trace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Score {
    /// Pods that found a port ready.
    pub(crate) hits: usize,
    /// Pods that did not.
    pub(crate) misses: usize,
    /// The longest wait.
    pub(crate) longest_wait: Millis,
    /// Requests that made ports, and the ports.
    pub(crate) creates: usize,
    /// Ports made.
    pub(crate) created: usize,
    /// Ports deleted.
    pub(crate) deleted: usize,
    /// Requests that made ports while pods arrived or waited.
    pub(crate) creates_in_burst: usize,
}

impl Score {
    /// Pods that found a port ready, of all, in percent.
    pub(crate) fn hit_rate(&self) -> f64 {
        let all = u32::try_from(self.hits + self.misses).unwrap_or(u32::MAX);
        100.0 * f64::from(u32::try_from(self.hits).unwrap_or(u32::MAX)) / f64::from(all.max(1))
    }

    /// Calls to Neutron (requests that make ports, deletions) for each pod.
    pub(crate) fn calls_per_pod(&self) -> f64 {
        let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        number(self.creates + self.deleted) / number((self.hits + self.misses).max(1))
    }
}

/// The world while a trace is replayed.
struct World<'a> {
    now: Millis,
    model: Model,
    setting: Setting,
    limits: Limits,
    nodes: BTreeMap<String, Node>,
    neutron: Neutron,
    governor: Governor,
    /// Pods without a node, and pods of each workload.
    unscheduled: BTreeMap<&'a str, &'a str>,
    workloads: BTreeMap<&'a str, trace::Made<'a>>,
    places: BTreeMap<&'a str, &'a str>,
    coming: BTreeMap<String, Coming>,
    counts: bool,
    score: Score,
}

/// Replays `trace`.
pub(crate) fn replay(trace: &Trace, setting: Setting, model: Model) -> Score {
    let mut world = World::new(trace, setting, model);
    // The nodes join and their pools fill; then the trace begins.
    let begin = 10 * 60_000;
    for (at, event) in &trace.events {
        world.run_until(begin + at);
        world.happen(event);
    }
    world.run_until(world.now + 10 * 60_000);
    world.score
}

impl<'a> World<'a> {
    fn new(trace: &'a Trace, setting: Setting, model: Model) -> Self {
        let limits = node::limits(Levels { rule: setting.rule, cap: 1000 });
        let nodes = trace.nodes.iter().map(|name| (name.clone(), Node::new(name))).collect();
        let governor = Governor::new(Rate { per_second: 20, requests: 4 }, 0);
        let coming = BTreeMap::new();
        let score = Score::default();
        Self {
            now: 0,
            model,
            setting,
            limits,
            nodes,
            neutron: Neutron::default(),
            governor,
            unscheduled: BTreeMap::new(),
            workloads: BTreeMap::new(),
            places: BTreeMap::new(),
            coming,
            counts: false,
            score,
        }
    }

    /// Lets everything happen that is due until `end`.
    fn run_until(&mut self, end: Millis) {
        loop {
            self.settle();
            let next = self
                .nodes
                .values()
                .filter_map(|node| node.next(self.now, self.model))
                .chain(self.neutron.next())
                .min();
            match next.filter(|next| *next <= end) {
                Some(next) => self.now = next.max(self.now + 1),
                None => break,
            }
        }
        self.now = end;
    }

    /// What is due now.
    fn settle(&mut self) {
        for done in self.neutron.done(self.now) {
            self.node(&done.node).made(done.ports);
            let told = self.governor.end(self.now, cloud::SUBNET, Ended::Made(done.count));
            let now = self.now;
            told.into_iter().chain([done.node]).for_each(|name| self.node(&name).wake(now));
        }
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        names.iter().for_each(|name| self.settle_node(name));
    }

    fn settle_node(&mut self, name: &str) {
        let (now, model) = (self.now, self.model);
        let waits = self.node(name).agent(now, model);
        if self.counts {
            self.score.longest_wait = waits.into_iter().chain([self.score.longest_wait]).max().unwrap_or(0);
        }
        for look in 0.. {
            if self.node(name).look_at.is_none_or(|at| at > now) {
                return;
            }
            assert!(look < 100, "the plan for {name} does not come to rest at {now}");
            let (coming, limits) = (self.coming.get(name).copied().unwrap_or_default(), self.limits.clone());
            let wanted = self.node(name).plan(now, coming, &limits, model);
            for (count, urgency) in &wanted.creates {
                let turn = self.governor.ask(now, cloud::SUBNET, name, *urgency, *count);
                self.create(name, turn, wanted.in_burst);
            }
            if self.counts {
                self.score.deleted += wanted.deleted;
            }
        }
    }

    fn create(&mut self, name: &str, turn: Turn, in_burst: bool) {
        let (now, model) = (self.now, self.model);
        match turn {
            Turn::Wait(until) => self.node(name).wake(until),
            Turn::Now(count) => {
                self.neutron.create(now, name, count, model);
                self.node(name).making = Some(count);
                self.node(name).wake(now);
                if self.counts {
                    self.score.creates += 1;
                    self.score.created += count;
                    self.score.creates_in_burst += usize::from(in_burst);
                }
            }
        }
    }

    fn happen(&mut self, event: &'a Event) {
        match event {
            Event::Count => {
                self.counts = true;
                if self.setting.forgets {
                    self.nodes.values_mut().for_each(Node::forget);
                }
            }
            Event::Workload { name, kind } => {
                self.workloads.entry(name).or_default().kind = Some(*kind);
            }
            Event::Rollout { name } => self.workloads.entry(name).or_default().current.clear(),
            Event::Pod { name, workload } => {
                self.unscheduled.insert(name, workload);
                let made = self.workloads.entry(workload).or_default();
                made.current.insert(name);
                made.alive.insert(name);
            }
            Event::Scheduled { pod, node } => {
                self.unscheduled.remove(pod.as_str());
                self.places.insert(pod, node);
                self.node_of(pod).scheduled(pod);
            }
            Event::Add { pod } => {
                let now = self.now;
                let hit = self.node_of(pod).add(pod, now);
                if self.counts {
                    *(if hit { &mut self.score.hits } else { &mut self.score.misses }) += 1;
                }
            }
            Event::Going { pod } => {
                self.forget_pod(pod);
                self.node_of(pod).going(pod);
            }
            Event::Ended { pod } => {
                self.forget_pod(pod);
                let workload = self.workloads.values_mut().find(|made| made.all.contains(pod.as_str()));
                if let Some(made) = workload {
                    made.succeeded += 1;
                }
                self.node_of(pod).ended(pod);
            }
            Event::Del { pod } => self.node_of(pod).del(pod),
            Event::Gone { pod } => self.node_of(pod).gone(pod),
        }
        self.look_ahead();
        if let Some(pod) = event.pod().filter(|pod| self.places.contains_key(*pod)) {
            let (now, api) = (self.now, self.model.api);
            self.node_of(pod).wake(now + api);
        }
    }

    fn forget_pod(&mut self, pod: &'a str) {
        for made in self.workloads.values_mut().filter(|made| made.alive.contains(pod)) {
            made.alive.remove(pod);
            made.current.remove(pod);
            made.all.insert(pod);
        }
    }

    fn look_ahead(&mut self) {
        if !self.setting.looks_ahead {
            return;
        }
        let places: Vec<Place<'_>> = self
            .nodes
            .keys()
            .map(|name| Place { name, labels: None, is_cordoned: false, taints: vec![] })
            .collect();
        let workloads = self.workloads.values().filter_map(|made| {
            let controller = made.kind?.controller(made);
            let free = made.alive.iter().filter(|pod| self.unscheduled.contains_key(*pod)).count();
            let mut placed = BTreeMap::new();
            for pod in &made.current {
                if let Some(node) = self.places.get(pod) {
                    *placed.entry(*node).or_insert(0) += 1;
                }
            }
            let (ahead, wave) = (controller.ahead() + free, controller.wave());
            Some(Workload { ahead, wave, placed, needs: Needs::default() })
        });
        let coming = forecast(&places, &workloads.collect::<Vec<_>>(), 110);
        for (name, node) in &mut self.nodes {
            if coming.get(name) != self.coming.get(name) {
                node.wake(self.now + self.model.api);
            }
        }
        self.coming = coming;
    }

    fn node_of(&mut self, pod: &str) -> &mut Node {
        let name = *self.places.get(pod).unwrap_or_else(|| panic!("{pod} was never scheduled"));
        self.node(name)
    }

    fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.get_mut(name).unwrap_or_else(|| panic!("the trace does not name {name}"))
    }
}
