//! A node of the replay: its record, its agent, its pods, and what its controller remembers.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr},
};

use kuryr_api::{
    kuryrnode::{CheckpointRef, ClaimEntry, KuryrNodeSpec, KuryrNodeStatus},
    names::{NODE_DEVICE_OWNER, POD_DEVICE_OWNER},
};
use kuryr_planning::{
    demand::{Coming, Urgency},
    ownership::{self, ListedPort, Owner, PortCondition, Purpose},
    pool::{
        Cloud, CloudStep, DefaultClass, Generations, Held, Inputs, Limits, Memory, Millis, NodeFacts,
        PodFacts, Presence, Record, class, plan, targets::Levels,
    },
};
use kuryr_types::{Generation, MacAddr, PortId};

use super::{Model, cloud::SUBNET};

const GROUP: &str = "group";
const NETWORK: &str = "network";
const UID: &str = "uid";

/// A node.
#[derive(Debug)]
pub(crate) struct Node {
    name: String,
    spec: KuryrNodeSpec,
    /// As the controller knows it.
    status: KuryrNodeStatus,
    memory: Memory,
    generations: Generations,
    ports: BTreeMap<PortId, ListedPort>,
    fresh: BTreeSet<PortId>,
    pods: BTreeMap<String, PodFacts>,
    agent: Agent,
    /// What is being made.
    pub(crate) making: Option<usize>,
    makes_own: bool,
    /// When the controller looks at it.
    pub(crate) look_at: Option<Millis>,
}

#[derive(Debug, Default)]
struct Agent {
    /// When ports are ready that are being plugged, and under which generation.
    plugging: BTreeMap<PortId, (Generation, Millis)>,
    claims: BTreeMap<PortId, (Generation, String)>,
    returned: BTreeMap<PortId, Generation>,
    cut: BTreeSet<String>,
    waiting: VecDeque<(String, Millis)>,
    /// Something changed since the last report.
    is_dirty: bool,
    reported_at: Millis,
    /// Reports on their way.
    sent: VecDeque<(Millis, KuryrNodeStatus)>,
}

/// What a plan wants of the cloud.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// Ports to make.
    pub(crate) creates: Vec<(usize, Urgency)>,
    /// Pods arrived just now, or wait.
    pub(crate) in_burst: bool,
    /// Ports that were deleted.
    pub(crate) deleted: usize,
}

/// The waits of the defaults.
pub(crate) fn limits(levels: Levels) -> Limits {
    Limits {
        levels,
        cool_down: 30_000,
        shrink_delay: 15_000,
        node_grace: 60_000,
        mode: None,
        vlans: 1..=4094,
        names_pods: false,
    }
}

impl Node {
    /// A node that has just joined.
    pub(crate) fn new(name: &str) -> Self {
        let checkpoint = CheckpointRef { id: "checkpoint".into(), sequence: 1 };
        let status = KuryrNodeStatus {
            node_uid: UID.into(),
            checkpoint,
            host: Some(name.into()),
            ..KuryrNodeStatus::default()
        };
        Self {
            name: name.to_owned(),
            spec: KuryrNodeSpec { node_uid: UID.into(), epoch: 1, ..KuryrNodeSpec::default() },
            status,
            memory: Memory::default(),
            generations: Generations::of_epoch(1),
            ports: BTreeMap::new(),
            fresh: BTreeSet::new(),
            pods: BTreeMap::new(),
            agent: Agent::default(),
            making: None,
            makes_own: false,
            look_at: Some(0),
        }
    }

    /// What the controller has learned is forgotten.
    pub(crate) fn forget(&mut self) {
        self.memory = Memory::default();
    }

    /// Has the controller look at `at`, or before.
    pub(crate) fn wake(&mut self, at: Millis) {
        self.look_at = Some(self.look_at.map_or(at, |before| before.min(at)));
    }

    /// When something is due after `now`.
    pub(crate) fn next(&self, now: Millis, model: Model) -> Option<Millis> {
        let plugged = self.agent.plugging.values().map(|(_, at)| *at);
        let sent = self.agent.sent.front().map(|(at, _)| *at);
        let report = self.agent.is_dirty.then_some(self.agent.reported_at + model.report);
        plugged.chain(sent).chain(report).filter(|at| *at > now).chain(self.look_at).min()
    }

    // ---- pods

    pub(crate) fn scheduled(&mut self, pod: &str) {
        let identity = pod.into();
        let addresses = Vec::new();
        let facts = PodFacts { identity, host_network: false, ended: false, terminating: false, addresses };
        self.pods.insert(pod.to_owned(), facts);
    }

    /// The runtime asks; tells whether a port was ready.
    pub(crate) fn add(&mut self, pod: &str, now: Millis) -> bool {
        let ready = self.ready(now);
        match ready.into_iter().next() {
            Some((id, generation)) => {
                self.claim(id, generation, pod);
                true
            }
            None => {
                self.agent.waiting.push_back((pod.to_owned(), now));
                false
            }
        }
    }

    pub(crate) fn going(&mut self, pod: &str) {
        if let Some(facts) = self.pods.get_mut(pod) {
            facts.terminating = true;
        }
    }

    pub(crate) fn ended(&mut self, pod: &str) {
        if let Some(facts) = self.pods.get_mut(pod) {
            facts.ended = true;
        }
        self.release();
    }

    pub(crate) fn del(&mut self, pod: &str) {
        self.agent.cut.insert(pod.to_owned());
        self.release();
    }

    pub(crate) fn gone(&mut self, pod: &str) {
        self.pods.remove(pod);
        self.agent.waiting.retain(|(waiting, _)| waiting != pod);
        self.release();
    }

    // ---- the agent

    /// Plugs, serves pods that wait, reports; returns how long those had waited.
    pub(crate) fn agent(&mut self, now: Millis, model: Model) -> Vec<Millis> {
        let mut waits = Vec::new();
        let ready = if self.agent.waiting.is_empty() { BTreeMap::new() } else { self.ready(now) };
        for (id, generation) in ready {
            let Some((pod, since)) = self.agent.waiting.pop_front() else { break };
            self.claim(id, generation, &pod);
            waits.push(now - since);
        }
        if self.agent.is_dirty && now >= self.agent.reported_at + model.report {
            let report = self.report(now);
            self.agent.sent.push_back((now + model.api, report));
            (self.agent.is_dirty, self.agent.reported_at) = (false, now);
        }
        while self.agent.sent.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, status)) = self.agent.sent.pop_front() {
                self.status = status;
                self.wake(now);
            }
        }
        waits
    }

    fn ready(&self, now: Millis) -> BTreeMap<PortId, Generation> {
        let is_ready = |(id, (generation, at)): &(&PortId, &(Generation, Millis))| {
            let entry = self.spec.ports.get(*id);
            *at <= now
                && !self.agent.claims.contains_key(*id)
                && !self.agent.returned.contains_key(*id)
                && entry.is_some_and(|entry| entry.generation == *generation && !entry.withdrawn)
        };
        let ready = self.agent.plugging.iter().filter(is_ready);
        ready.map(|(id, (generation, _))| (id.clone(), *generation)).collect()
    }

    fn claim(&mut self, id: PortId, generation: Generation, pod: &str) {
        self.agent.plugging.remove(&id);
        self.agent.claims.insert(id, (generation, pod.to_owned()));
        self.agent.is_dirty = true;
    }

    fn release(&mut self) {
        let (pods, cut) = (&self.pods, &self.agent.cut);
        let is_over = |pod: &String| cut.contains(pod) && pods.get(pod).is_none_or(|facts| facts.ended);
        let over: Vec<PortId> =
            self.agent.claims.iter().filter(|(_, (_, pod))| is_over(pod)).map(|(id, _)| id.clone()).collect();
        for id in over {
            if let Some((generation, _)) = self.agent.claims.remove(&id) {
                self.agent.returned.insert(id, generation);
                self.agent.is_dirty = true;
            }
        }
    }

    fn report(&self, now: Millis) -> KuryrNodeStatus {
        let claim = |(id, (generation, pod)): (&PortId, &(Generation, String))| {
            let entry = ClaimEntry {
                generation: *generation,
                namespace: "ns".into(),
                name: pod.clone(),
                identity: pod.as_str().into(),
            };
            (id.clone(), entry)
        };
        KuryrNodeStatus {
            claims: self.agent.claims.iter().map(claim).collect(),
            ready: self.ready(now),
            returned: self.agent.returned.clone(),
            ..self.status.clone()
        }
    }

    /// The agent sees the record.
    fn agent_sees(&mut self, now: Millis, model: Model) {
        let spec = &self.spec;
        let agent = &mut self.agent;
        agent
            .returned
            .retain(|id, generation| spec.ports.get(id).is_some_and(|entry| entry.generation == *generation));
        agent.plugging.retain(|id, _| spec.ports.contains_key(id));
        for (id, entry) in &spec.ports {
            if agent.claims.contains_key(id) || agent.returned.contains_key(id) {
                continue;
            }
            if entry.withdrawn {
                agent.returned.insert(id.clone(), entry.generation);
                agent.plugging.remove(id);
            } else if agent.plugging.get(id).is_none_or(|(generation, _)| *generation != entry.generation) {
                let ready_at = now + model.api + model.plug;
                agent.plugging.insert(id.clone(), (entry.generation, ready_at));
            }
        }
        agent.is_dirty = true;
    }

    // ---- the controller

    /// Ports that were made for this node.
    pub(crate) fn made(&mut self, numbers: std::ops::Range<u32>) {
        self.making = None;
        let own = std::mem::take(&mut self.makes_own);
        for number in numbers {
            let [_, a, b, c] = number.to_be_bytes();
            let name = ownership::pool_port_name(&self.name);
            let port = ListedPort {
                id: format!("p{number:06}").into(),
                project: "k8s".into(),
                tags: vec!["tag".to_owned()],
                name: if own { ownership::own_port_name(&self.name) } else { name },
                device_owner: if own { NODE_DEVICE_OWNER } else { POD_DEVICE_OWNER }.to_owned(),
                host: Some(self.name.clone()),
                host_hidden: false,
                network: NETWORK.into(),
                mac: MacAddr([2, 0, 0, a, b, c]),
                addresses: vec![(SUBNET.into(), IpAddr::V4(Ipv4Addr::new(10, a, b, c)))],
                security_groups: vec![GROUP.into()],
                hybrid: false,
                condition: PortCondition::Down,
            };
            self.fresh.insert(port.id.clone());
            self.ports.insert(port.id.clone(), port);
        }
    }

    /// Makes a plan and carries out what it says of the record.
    pub(crate) fn plan(&mut self, now: Millis, coming: Coming, limits: &Limits, model: Model) -> Wanted {
        self.look_at = None;
        let owner = Owner::new("k8s".into(), vec!["tag".to_owned()]);
        let ports = self.ports.values().filter_map(|port| owner.admit(port.clone())).collect();
        let purpose = if self.makes_own { Purpose::Node } else { Purpose::Pool };
        let cloud = Cloud {
            ports: Some(ports),
            fresh: self.fresh.clone(),
            default: Some(default_class()),
            making: self.making.map(|count| (purpose, count)),
            ..Cloud::default()
        };
        let pods: Vec<PodFacts> = self.pods.values().cloned().collect();
        let presence = Presence::Present { uid: UID.into() };
        let inputs = Inputs {
            now,
            node: &self.name,
            in_sync: true,
            presence: &presence,
            facts: &NodeFacts::default(),
            record: Some(Record { spec: &self.spec, status: Some(&self.status) }),
            pods: &pods,
            asked: false,
            coming,
            held: Held { addresses: &BTreeSet::new(), told_since: Some(0) },
            cloud: &cloud,
            limits,
        };
        let plan = plan(&inputs, &mut self.memory, &mut self.generations);
        plan.wake_at.into_iter().for_each(|at| self.wake(at.max(now + 1)));
        if !plan.spec.is_empty() {
            let applied = plan.spec.iter().all(|step| step.apply(&mut self.spec).is_ok());
            assert!(applied, "nobody else writes");
            self.agent_sees(now, model);
            self.wake(now);
        }
        let mut wanted = Wanted { in_burst: self.is_in_burst(), ..Wanted::default() };
        plan.cloud.iter().for_each(|step| self.carry_out(step, &mut wanted));
        if wanted.deleted > 0 {
            self.wake(now);
        }
        wanted
    }

    fn carry_out(&mut self, step: &CloudStep, wanted: &mut Wanted) {
        match step {
            CloudStep::CreatePorts { request, count, urgency } => {
                self.makes_own = request.purpose() == Purpose::Node;
                wanted.creates.push((*count, *urgency));
            }
            CloudStep::Delete { id } => {
                self.ports.remove(id);
                wanted.deleted += 1;
            }
            CloudStep::Condemn { id } => {
                if let Some(port) = self.ports.get_mut(id) {
                    port.name = ownership::condemned_name(&port.name);
                }
            }
            step => panic!("nothing of this kind happens here: {step:?}"),
        }
    }

    /// Tells whether a pod is on its way to its port.
    fn is_in_burst(&self) -> bool {
        let served: BTreeSet<&str> = self.agent.claims.values().map(|(_, pod)| pod.as_str()).collect();
        let waits = |(name, facts): (&String, &PodFacts)| {
            !facts.ended && !facts.terminating && !served.contains(name.as_str())
        };
        self.pods.iter().any(waits)
    }
}

fn default_class() -> DefaultClass {
    let (id, entry) = class::class([SUBNET.into()], [GROUP.into()]);
    DefaultClass {
        id,
        entry,
        open: false,
        network: NETWORK.into(),
        networks: BTreeMap::new(),
        subnets: BTreeMap::new(),
    }
}
