//! The programs, as they live and die: who is killed or told to stop is started again some seconds later, with nothing but its disk.

use std::{sync::Arc, time::Duration};

use kuryr_agent::{Agent, Checkpoint, Forwarder, Kernel};
use kuryr_api::{cni::Attachment, node::CniRequest};
use kuryr_conf::Conf;
use kuryr_controller::Controller;
use kuryr_kubernetes::event::{EventConfig, EventWriter, Recorder, recorder};
use kuryr_openstack::Client;
use kuryr_telemetry::metrics::Metrics;
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    clocks::machine_of,
    cloud::Wire,
    faults::Caller,
    kubernetes,
    machine::{Disk, Reach},
    world::World,
};

/// Credentials that the cloud takes, and short times, so that a run is short.
const CONTROLLER: &str = "[neutron]\nauth_url = http://cloud.test/v3\nusername = kuryr\npassword = p\nproject_name = k8s\n\
                          user_domain_name = Default\nproject_domain_name = Default\n\
                          [kubernetes]\ncluster_id = c1\nnode_grace = 15\n[neutron_defaults]\npod_subnets = s4\nlist_period = 60\n";
/// How long addresses rest, in seconds.
pub(crate) const COOL_DOWN: u64 = 8;
/// Where floating IPs are from.
const EXTERNAL: &str = "\n[neutron_defaults]\nexternal_svc_net = ext\n";
const POOL: &str = "[vif_pool]\nports_pool_cool_down = 8\nports_pool_shrink_delay = 5\n";
/// How long an agent that is told to end waits for requests under way.
const REQUESTS_END_WITHIN: Duration = Duration::from_secs(5);
/// What a runtime waits for a plugin.
const RUNTIME_WAITS: Duration = Duration::from_secs(120);

/// A program that runs.
pub(crate) enum Program {
    Controller {
        caller: Caller,
        program: Controller,
        events: Events,
    },
    Agent {
        caller: Caller,
        program: Box<Agent>,
        requests: JoinSet<()>,
        _disk: AbortOnDropHandle<()>,
        events: Events,
    },
}

/// What writes a program's Events, if they are written.
pub(crate) struct Events {
    stop: CancellationToken,
    writing: Option<AbortOnDropHandle<()>>,
}

impl Events {
    fn begin(writer: Option<EventWriter>) -> Self {
        let stop = CancellationToken::new();
        let write = |writer: EventWriter| AbortOnDropHandle::new(tokio::spawn(writer.run(stop.clone())));
        let writing = writer.map(write);
        Self { stop, writing }
    }

    /// Writes what is left.
    async fn stop(self) {
        self.stop.cancel();
        if let Some(writing) = self.writing {
            let _ = writing.await;
        }
    }
}

impl Program {
    fn caller(&self) -> &Caller {
        match self {
            Self::Controller { caller, .. } | Self::Agent { caller, .. } => caller,
        }
    }

    /// What a program does when it is told to end.
    async fn stop(self) {
        match self {
            Self::Controller { program, events, .. } => {
                tokio::join!(program.stop(), events.stop());
            }
            Self::Agent { program, mut requests, events, _disk, .. } => {
                program.give_up();
                let answered = async { while requests.join_next().await.is_some() {} };
                let _ = timeout(REQUESTS_END_WITHIN, answered).await;
                tokio::join!(program.stop(), events.stop());
            }
        }
    }
}

fn seed(world: &World, name: &str) -> u64 {
    let of_name = name.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    world.setup.seed ^ of_name
}

impl World {
    /// Takes the Events of a program, which are written where a run is harsh.
    fn recorder(
        self: &Arc<Self>,
        component: &'static str,
        caller: &Caller,
    ) -> (Recorder, Option<EventWriter>) {
        if !self.setup.is_harsh {
            return (Recorder::disabled(), None);
        }
        let machine = machine_of(caller);
        let config = EventConfig::new(component, machine);
        let (events, writer) = recorder(kubernetes::client(self, caller), config);
        (events.by(self.clock_of(machine)), Some(writer))
    }

    /// Starts a controller.
    pub(crate) fn start_controller(self: &Arc<Self>, number: usize) {
        let lives = self.made_of(&format!("controller-{number}"));
        let (key, caller) =
            (format!("controller-{number}"), Caller::new(&format!("controller-{number}.{lives}")));
        let external = if self.setup.services { EXTERNAL } else { "" };
        let text = format!("{POOL}{}{external}", self.setup.pool);
        let conf = Conf::from_texts(&[("first", CONTROLLER), ("pool", &text)]).unwrap();
        let config = kuryr_controller::Config::resolve(&conf).unwrap();
        let (world, of) = (Arc::clone(self), caller.clone());
        let (events, writer) = self.recorder("kuryr-controller", &caller);
        let outside = kuryr_controller::Outside {
            client: kubernetes::client(self, &caller),
            connect: Arc::new(move |credentials, options| {
                let wire = Wire { world: Arc::clone(&world), caller: of.clone() };
                Ok(Client::with_transport(credentials, options, Arc::new(wire)))
            }),
            events,
            registry: Metrics::new(),
            clock: self.clock_of(machine_of(&caller)),
            seed: Some(seed(self, caller.name())),
        };
        self.note(format!("{} starts", caller.name()));
        let program = Controller::start(config, outside, caller.name()).unwrap();
        self.programs().insert(key, Program::Controller { caller, program, events: Events::begin(writer) });
    }

    /// Starts the agent of a node.
    pub(crate) fn start_agent(self: &Arc<Self>, node: &str) {
        let key = format!("agent-{node}");
        let caller = Caller::new(&format!("{key}.{}", self.made_of(&key)));
        let folder = self.folder().join(node);
        let handlers = if self.setup.services { "vif,endpoints,service" } else { "vif" };
        let text = format!(
            "[cni_daemon]\nnode_name = {node}\nstate_dir = {0}\ncni_conf_dir = {0}\n[kubernetes]\nenabled_handlers = {handlers}\n",
            folder.display()
        );
        let conf = Conf::from_texts(&[("kuryr.conf", &text)]).unwrap();
        let config = kuryr_agent::Config::resolve(&conf).unwrap();
        let reach = Reach { world: Arc::clone(self), caller: caller.clone(), node: node.to_owned() };
        let (events, writer) = self.recorder("kuryr-daemon", &caller);
        let slots = self.state().machines[node].slots.clone();
        let (checkpoint, writing) = Checkpoint::in_memory(&slots, Disk(reach.clone()));
        let outside = kuryr_agent::Outside {
            client: kubernetes::client(self, &caller),
            checkpoint,
            kernel: Kernel::in_place(Arc::new(reach.clone())),
            forwarder: self.setup.services.then(|| Arc::new(reach.clone()) as Arc<dyn Forwarder>),
            switch: Arc::new(reach),
            events,
            registry: Metrics::new(),
            clock: self.clock_of(machine_of(&caller)),
            seed: Some(seed(self, caller.name())),
        };
        self.note(format!("{} starts", caller.name()));
        let _disk = AbortOnDropHandle::new(tokio::spawn(writing));
        let program = Box::new(Agent::start(config, outside));
        let (requests, events) = (JoinSet::new(), Events::begin(writer));
        self.programs().insert(key, Program::Agent { caller, program, requests, _disk, events });
    }

    /// Counts a start.
    fn made_of(&self, key: &str) -> usize {
        let starts =
            self.state().notes.iter().filter(|(_, note)| note.starts_with(&format!("{key}."))).count();
        starts + 1
    }

    /// Kills a program now.
    pub(crate) fn kill(&self, key: &str) {
        if let Some(program) = self.programs().get(key) {
            self.faults.kill(program.caller());
        }
    }

    /// Takes programs away that were killed, and starts them again after a while.
    pub(crate) fn bury_the_dead(self: &Arc<Self>) {
        let dead: Vec<(String, Program)> =
            self.programs().extract_if(.., |_, program| !program.caller().is_alive()).collect();
        for (key, program) in dead {
            self.note(format!("killed: {key}"));
            drop(program);
            let pause = self.state().chance.millis(500, 4000);
            let world = Arc::clone(self);
            self.spawn(async move {
                sleep(pause).await;
                world.start(&key);
            });
        }
    }

    fn start(self: &Arc<Self>, key: &str) {
        match key.split_once('-') {
            Some(("agent", node)) => self.start_agent(node),
            Some((_, number)) => self.start_controller(number.parse().unwrap()),
            None => {}
        }
    }

    /// Tells a program to end, as for an upgrade, and starts it again some time after it has; it may be killed meanwhile.
    pub(crate) fn restart(self: &Arc<Self>, key: &str) {
        let Some(program) = self.programs().remove(key) else { return };
        self.note(format!("told to end: {key}"));
        let (world, key, caller) = (Arc::clone(self), key.to_owned(), program.caller().clone());
        self.spawn(async move {
            let how = tokio::select! {
                biased;
                () = caller.dead() => "killed",
                () = program.stop() => "has ended",
            };
            caller.kill();
            world.note(format!("{how}: {key}"));
            let pause = world.state().chance.millis(500, 4000);
            sleep(pause).await;
            world.start(&key);
        });
    }

    /// ADD, as the runtime asks for it.
    pub(crate) async fn cni_add(&self, node: &str, request: CniRequest) -> Result<Attachment, String> {
        let cancel = CancellationToken::new();
        let _given_up = cancel.clone().drop_guard();
        let answer = self.ask(node, |agent| agent.add(request, cancel));
        timeout(RUNTIME_WAITS, answer)
            .await
            .unwrap_or_else(|_| Err("the runtime has waited enough".to_owned()))
    }

    /// DEL, as the runtime asks for it.
    pub(crate) async fn cni_del(&self, node: &str, request: CniRequest) -> Result<(), String> {
        let answer = self.ask(node, |agent| agent.del(request));
        timeout(RUNTIME_WAITS, answer)
            .await
            .unwrap_or_else(|_| Err("the runtime has waited enough".to_owned()))
    }

    async fn ask<T, F>(&self, node: &str, request: impl FnOnce(&Agent) -> F) -> Result<T, String>
    where
        T: Send + 'static,
        F: Future<Output = kuryr_agent::Result<T>> + Send + 'static,
    {
        let told = {
            let mut programs = self.programs();
            let Some(Program::Agent { program, requests, caller, .. }) =
                programs.get_mut(&format!("agent-{node}"))
            else {
                return Err("no agent".to_owned());
            };
            if !caller.is_alive() {
                return Err("the agent was killed".to_owned());
            }
            let (tell, told) = oneshot::channel();
            let (work, caller) = (request(program), caller.clone());
            requests.spawn(async move {
                let result = work.await;
                // Nobody hears of what a dead agent did.
                if caller.is_alive() {
                    let _ = tell.send(result);
                }
            });
            while requests.try_join_next().is_some() {}
            told
        };
        match told.await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err("the agent was killed".to_owned()),
        }
    }

    /// Work that programs have now or soon, failures included.
    pub(crate) fn unsettled(&self) -> usize {
        let of = |program: &Program| match program {
            Program::Controller { program, .. } => program.unsettled(),
            Program::Agent { program, .. } => program.unsettled(),
        };
        self.programs().values().map(of).sum()
    }

    /// Whether a controller leads.
    pub(crate) fn is_led(&self) -> bool {
        self.programs()
            .values()
            .any(|program| matches!(program, Program::Controller { program, .. } if program.leads()))
    }
}
