//! Plans held against a model of the cloud: whatever happens in whatever order, no step is one that Octavia refuses, and
//! when nothing happens any more, everything comes to rest as it should be, in a bounded number of steps.

use proptest::prelude::*;

use super::{
    Balancer, BalancerSpec, FoundListener, Inputs, Memory, OtherListener, Others, Place, PortFacts, Protocol,
    Settings, State, Stranger, Wish, desired,
    fixtures::{balancer, endpoint, service, settings},
    from_kubernetes::read,
    inputs::{EndpointFacts, Floating, ServiceFacts},
    model::{Cloud, Fault, tell},
    plan, sharing,
};

const SHARED: &str = "loadbalancer.openstack.org/load-balancer-id";

/// Something that happens.
#[derive(Debug, Clone)]
enum Event {
    Look(Fault),
    TimePasses(u64),
    ChangeEnds { fails: bool },
    PodComes(u8),
    PodGoes(u8),
    PortsAre(Vec<(&'static str, u16)>),
    Affinity(bool),
    Provider(bool),
    Internal(bool),
    Annotated(&'static str, &'static str),
    Ranges(bool),
    Kind(bool),
    Mode(&'static str),
    ClustersMode(bool),
    Slowness(u8),
    SomebodyDeletes(usize),
    SomebodyChanges(usize),
    Shares(&'static str),
    SharedIs { taken: Vec<u16>, is_broken: bool },
    OthersOnOwn(bool),
    ControllerRestarts,
}

fn event() -> impl Strategy<Value = Event> {
    let fault = prop_oneof![
        4 => Just(Fault::None),
        1 => Just(Fault::Refused),
        1 => Just(Fault::AnswerLost),
        2 => Just(Fault::Untagged),
    ];
    prop_oneof![
        10 => fault.prop_map(Event::Look),
        4 => (0u64..2000).prop_map(Event::TimePasses),
        6 => prop::bool::weighted(0.15).prop_map(|fails| Event::ChangeEnds { fails }),
        3 => (0u8..6).prop_map(Event::PodComes),
        3 => (0u8..6).prop_map(Event::PodGoes),
        2 => prop::collection::vec((prop::sample::select(vec!["TCP", "UDP", "SCTP"]), 80u16..84), 0..4)
            .prop_map(Event::PortsAre),
        1 => any::<bool>().prop_map(Event::Affinity),
        1 => any::<bool>().prop_map(Event::Provider),
        1 => any::<bool>().prop_map(Event::Internal),
        3 => annotation().prop_map(|(name, value)| Event::Annotated(name, value)),
        1 => any::<bool>().prop_map(Event::Ranges),
        1 => any::<bool>().prop_map(Event::Kind),
        1 => prop::sample::select(vec!["octavia", "node", ""]).prop_map(Event::Mode),
        1 => any::<bool>().prop_map(Event::ClustersMode),
        1 => (0u8..4).prop_map(Event::Slowness),
        1 => (0usize..2).prop_map(Event::SomebodyDeletes),
        1 => (0usize..2).prop_map(Event::SomebodyChanges),
        2 => prop::sample::select(vec!["theirs", "nobodys", ""]).prop_map(Event::Shares),
        1 => (prop::collection::vec(80u16..84, 0..2), prop::bool::weighted(0.2))
            .prop_map(|(taken, is_broken)| Event::SharedIs { taken, is_broken }),
        1 => any::<bool>().prop_map(Event::OthersOnOwn),
        1 => Just(Event::ControllerRestarts),
    ]
}

fn annotation() -> impl Strategy<Value = (&'static str, &'static str)> {
    let figures = prop::sample::select(vec!["40", "50", ""]);
    let truths = prop::sample::select(vec!["true", "false"]);
    prop_oneof![
        truths.clone().prop_map(|value| ("enable-health-monitor", value)),
        figures.clone().prop_map(|value| ("health-monitor-delay", value)),
        figures.prop_map(|value| ("timeout-client-data", value)),
        truths.clone().prop_map(|value| ("proxy-protocol", value)),
        truths.prop_map(|value| ("x-forwarded-for", value)),
    ]
}

struct World {
    now: u64,
    service: ServiceFacts,
    settings: Settings,
    pods: Vec<EndpointFacts>,
    cloud: Cloud,
    memory: Memory,
}

impl World {
    /// A world in which upstream has made a load balancer for the Service before, or not.
    fn new(is_upgraded: bool) -> Self {
        let cluster_ip = "10.96.0.7".parse().unwrap();
        let mut world = Self {
            now: 0,
            service: ServiceFacts { cluster_ips: vec![cluster_ip], has_finalizer: is_upgraded, ..service() },
            settings: Settings { coalesce: 250, ..settings("ovn") },
            pods: vec![],
            cloud: Cloud::default(),
            memory: Memory::default(),
        };
        world.settings.service_subnets.insert("c4".into(), "10.96.0.0/16".parse().unwrap());
        world.cloud.actual.strangers.extend(is_upgraded.then(|| Stranger {
            id: "upstreams".into(),
            state: State::Active,
            vip_address: Some(cluster_ip),
            vip_subnet: Some("c4".into()),
            is_of_another_cluster: false,
        }));
        let theirs =
            Balancer { name: "theirs".to_owned(), listeners: vec![], pools: vec![], ..balancer("theirs") };
        world.cloud.actual.shared.push(theirs);
        world
    }

    /// What is seen of the cloud.
    fn seen(&self) -> super::Actual {
        let mut actual = self.cloud.actual.clone();
        // They are looked for only then.
        if !actual.balancers.is_empty() {
            actual.strangers.clear();
        }
        let is_told = |address| self.service.told.iter().any(|ingress| ingress.ip == Some(address));
        let is_found = |it: &Floating| it.is_ours || it.port.is_some() || is_told(it.address);
        let is_looked_for = !actual.floating.iter().any(is_found);
        actual.floating.retain(|it| is_found(it) || it.is_marked && is_looked_for);
        let named = self.service.annotations.get(SHARED);
        actual.shared.retain(|found| {
            Some(found.id.as_str()) == named.map(String::as_str) || found.carries_something()
        });
        for busy in actual.shared.iter_mut().filter(|found| found.state != State::Active) {
            busy.pools.iter_mut().for_each(|pool| pool.members.clear());
        }
        // What is not active is not read.
        for busy in actual.balancers.iter_mut().filter(|found| found.state != State::Active) {
            (busy.listeners, busy.pools) = (vec![], vec![]);
            if busy.state != State::Error {
                busy.others = Others::default();
            }
        }
        actual
    }

    /// One reconcile; tells whether anything was to be done.
    fn look(&mut self, fault: Fault) -> bool {
        let actual = self.seen();
        let Self { now, service, settings, pods, cloud, memory } = self;
        let planned =
            plan(&Inputs { now: *now, service, endpoints: pods, settings, actual: &actual }, memory);
        let mut is_done = true;
        for step in &planned.steps {
            is_done = cloud.apply(step, service, fault) || step.is_about_floating();
            if !is_done {
                break;
            }
        }
        if is_done && matches!(fault, Fault::None | Fault::Untagged) {
            tell(service, planned.tell.clone());
        }
        !planned.is_empty() || planned.wake_after.is_some()
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Look(fault) => drop(self.look(fault)),
            Event::TimePasses(millis) => self.now += millis,
            Event::ChangeEnds { fails } => self.cloud.turn(fails),
            Event::PodComes(number) => {
                let pod = endpoint(&format!("10.1.0.{number}"));
                if !self.pods.contains(&pod) {
                    self.pods.push(pod);
                }
            }
            Event::PodGoes(number) => {
                let address = format!("10.1.0.{number}").parse::<std::net::IpAddr>().unwrap();
                self.pods.retain(|pod| pod.address != address);
            }
            Event::PortsAre(ports) => self.set_ports(ports),
            Event::Affinity(sticky) => {
                self.service.session_affinity = if sticky { "ClientIP" } else { "None" }.to_owned();
            }
            Event::Provider(amphora) => {
                self.settings.provider = Some(if amphora { "amphora" } else { "ovn" }.to_owned());
            }
            Event::Internal(internal) => {
                let name = "service.beta.kubernetes.io/openstack-internal-load-balancer";
                self.service.annotations.insert(name.to_owned(), internal.to_string());
            }
            Event::Annotated(name, value) => {
                let name = format!("loadbalancer.openstack.org/{name}");
                self.service.annotations.insert(name, value.to_owned());
            }
            Event::Ranges(some) => {
                self.service.source_ranges = some.then(|| "10.0.0.0/8".to_owned()).into_iter().collect();
            }
            Event::Kind(balanced) => {
                self.service.kind = if balanced { "LoadBalancer" } else { "ClusterIP" }.to_owned();
            }
            Event::Mode(word) => {
                let name = kuryr_api::names::SERVICE_MODE_ANNOTATION.to_owned();
                self.service.annotations.insert(name, word.to_owned());
            }
            Event::ClustersMode(by_octavia) => self.settings.by_octavia = by_octavia,
            Event::Slowness(rounds) => self.cloud.slowness = rounds,
            Event::SomebodyDeletes(which) => self.cloud.lose(which),
            Event::SomebodyChanges(which) => self.meddle(which),
            Event::Shares(id) => drop(self.service.annotations.insert(SHARED.to_owned(), id.to_owned())),
            Event::SharedIs { taken, is_broken } => self.disturb(&taken, is_broken),
            Event::OthersOnOwn(some) => {
                let on = self.cloud.actual.balancers.iter_mut();
                let takes_it = |found: &&mut Balancer| !some || found.state == State::Active;
                on.filter(takes_it).for_each(|found| found.others.pools = usize::from(some));
            }
            Event::ControllerRestarts => self.memory = Memory::default(),
        }
    }

    fn set_ports(&mut self, ports: Vec<(&str, u16)>) {
        let named = |(protocol, port): (&str, u16)| PortFacts {
            name: "http".to_owned(),
            protocol: protocol.to_owned(),
            port,
            ..PortFacts::default()
        };
        self.service.ports.clear();
        for port in ports.into_iter().map(named) {
            if !self.service.ports.contains(&port) {
                self.service.ports.push(port);
            }
        }
    }

    /// What others have on the load balancer that is shared; they cannot take ports that the Service has there.
    fn disturb(&mut self, taken: &[u16], is_broken: bool) {
        let has = |port: &u16| self.cloud.actual.shared[0].listeners.iter().any(|ours| ours.port == *port);
        let other =
            |port: &u16| OtherListener { name: "theirs".to_owned(), protocol: "TCP".to_owned(), port: *port };
        let listeners = taken.iter().filter(|port| !has(port)).map(other).collect();
        self.cloud.disturb(Others { listeners, pools: 1 }, is_broken);
    }

    fn meddle(&mut self, which: usize) {
        let Some(found) = self.cloud.actual.balancers.get_mut(which) else { return };
        found.listeners.pop();
        if let Some(pool) = found.pools.last_mut() {
            pool.members.clear();
        }
    }

    /// Lets everything come to rest without faults; returns how many looks that took.
    fn settle(&mut self) -> usize {
        for looks in 0..200 {
            self.cloud.turn(false);
            self.now += 10_000;
            if !self.look(Fault::None) {
                return looks;
            }
        }
        panic!("does not come to rest: {:?}", self.cloud.actual);
    }

    /// What is in the cloud is what the Service asks for.
    fn check(&self) {
        let found = &self.seen();
        let inputs = Inputs {
            now: self.now,
            service: &self.service,
            endpoints: &self.pods,
            settings: &self.settings,
            actual: found,
        };
        let place = sharing::place(&inputs).place;
        let (wish, _) = read(&self.service, &self.settings, inputs.is_so_already(), place);
        let guests = || found.shared.iter().filter(|found| found.carries_something()).count();
        match wish {
            Wish::Untouched => {}
            Wish::Nothing => {
                assert!(found.balancers.is_empty() && found.floating.is_empty(), "left: {found:?}");
                assert_eq!(guests(), 0, "left: {found:?}");
                assert!(!self.service.has_finalizer && self.service.told.is_empty());
            }
            Wish::Closed => {
                let mut all = found.balancers.iter().chain(&found.shared);
                assert!(all.all(|balancer| balancer.listeners.is_empty()), "{found:?}");
            }
            Wish::Balancer(intent) => {
                let (mut wanted, _) = desired::desired(&intent, &self.pods, &self.settings);
                if let Place::Shared(shared) = place {
                    let all = wanted.listeners.len();
                    wanted.listeners.retain(|at, _| sharing::taken(*at, shared, true).is_none());
                    check_listeners(shared, &wanted);
                    if wanted.listeners.len() == all {
                        assert!(found.balancers.is_empty() && found.floating.is_empty(), "{found:?}");
                        assert_eq!(self.service.told.len(), 1);
                    }
                    return;
                }
                assert_eq!(guests(), 0, "left: {found:?}");
                let [balancer] = &found.balancers[..] else { panic!("{found:?}") };
                assert_eq!((balancer.state, &balancer.provider), (State::Active, &wanted.provider));
                check_listeners(balancer, &wanted);
                self.cloud.check_choice(balancer);
                assert_eq!(self.service.told.len(), usize::from(intent.is_told), "{found:?}");
                let outside = intent.floating != super::from_kubernetes::FloatingWish::None;
                let floating = &self.cloud.actual.floating;
                assert_eq!(floating.len(), usize::from(outside), "{floating:?}");
            }
        }
    }
}

fn check_listeners(balancer: &Balancer, wanted: &BalancerSpec) {
    assert_eq!(balancer.listeners.len(), wanted.listeners.len());
    assert_eq!(balancer.pools.len(), wanted.listeners.len());
    for ((protocol, port), listener) in &wanted.listeners {
        let is_at = |found: &&FoundListener| {
            found.port == *port && Protocol::below(&found.protocol) == Some(*protocol)
        };
        let at = balancer.listeners.iter().find(is_at).unwrap();
        assert_eq!((at.protocol.as_str(), at.timeouts), (listener.protocol, listener.timeouts));
        let pool = at.pool.clone().unwrap();
        let pool = balancer.pools.iter().find(|found| found.id == pool).unwrap();
        assert_eq!(pool.protocol, listener.pool.protocol);
        let monitor = pool.monitor.as_ref().map(|monitor| &monitor.spec);
        assert_eq!(monitor, listener.pool.monitor.as_ref());
        let members: Vec<_> = pool.members.iter().map(|member| (member.address, member.port)).collect();
        assert_eq!(members.len(), listener.pool.members.len());
        assert!(members.iter().all(|member| listener.pool.members.contains_key(member)));
        assert_eq!(pool.is_persistent, listener.pool.is_persistent);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn everything_comes_to_rest_as_it_should_be(is_upgraded: bool, events in prop::collection::vec(event(), 1..60)) {
        let mut world = World::new(is_upgraded);
        for event in events {
            world.happens(event);
        }
        // What is in the way of coming to rest goes.
        world.happens(Event::OthersOnOwn(false));
        let others = world.cloud.actual.shared[0].others.clone();
        world.cloud.disturb(others.clone(), false);
        // A tree of three ports takes at most: delete, wait, create, wait, tell; or three steps with a wait for each port.
        let looks = world.settle();
        prop_assert!(looks <= 150, "{looks} looks");
        world.check();
        // What is as it should be is left alone, also by a controller that remembers nothing.
        world.memory = Memory::default();
        let before = world.cloud.actual.clone();
        prop_assert!(!world.look(Fault::None));
        prop_assert_eq!(&before, &world.cloud.actual);
        // The Service goes, and what others use stays for them.
        world.happens(Event::OthersOnOwn(true));
        let floating = world.cloud.actual.floating.clone();
        world.service.is_leaving = true;
        world.service.annotations.clear();
        world.settle();
        let left = &world.cloud.actual;
        prop_assert!(left.balancers.iter().chain(&left.shared).all(|found| !found.carries_something()));
        prop_assert!(left.balancers.is_empty() || left.floating == floating);
        prop_assert!(!world.service.has_finalizer);
        // When they go, too, nothing is left.
        world.happens(Event::OthersOnOwn(false));
        world.settle();
        let left = &world.cloud.actual;
        prop_assert!(left.balancers.is_empty() && left.floating.is_empty() && left.strangers.is_empty());
        prop_assert_eq!(&left.shared[0].others, &others);
    }
}

/// Whatever was done of a change when it was taken back, by provider ovn, which has one algorithm for all pools: that of the last one.
#[test]
fn affinity_that_comes_and_goes_is_in_the_end_as_it_was_asked_for_last() {
    for (first, second) in (0..14).flat_map(|first| (0..14).map(move |second| (first, second))) {
        let mut world = World::new(false);
        world.happens(Event::PodComes(1));
        world.happens(Event::PortsAre(vec![("TCP", 80), ("TCP", 81)]));
        world.happens(Event::Affinity(true));
        world.settle();
        world.check();
        for (affinity, looks) in [(false, first), (true, second)] {
            world.happens(Event::Affinity(affinity));
            for _ in 0..looks {
                world.now += 300;
                world.happens(Event::ChangeEnds { fails: false });
                world.happens(Event::Look(Fault::None));
            }
        }
        world.settle();
        world.check();
    }
}
