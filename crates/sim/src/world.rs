//! Everything outside of the programs, in one place, and the programs' lives.
//!
//! What is here is changed by one thread only, at moments between awaits: a call's effect and the look that the rules
//! take at it are one step.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use kuryr_testkit::api_server::{ApiServer, Streaming};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    chance::Chance,
    clocks::Skews,
    cloud::Cloud,
    faults::{Faults, Made, Plan, Scope},
    kubelet::{Pod, collect_garbage},
    machine::Machine,
    octavia::Octavia,
    programs::Program,
    rules::Rules,
    services::Services,
};

/// What a run is like.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Chance of everything.
    pub seed: u64,
    /// Which calls meet faults.
    pub plan: Plan,
    /// Names of the nodes.
    pub nodes: Vec<String>,
    /// How many controllers there are.
    pub controllers: usize,
    /// `[vif_pool]` of `kuryr.conf`, as it is written.
    pub pool: String,
    /// Whether agents serve Services.
    pub services: bool,
    /// Whether also happens what came later to the simulation: a seed that found something before is the same run without it.
    pub is_harsh: bool,
}

#[cfg(test)]
impl Setup {
    /// A quiet world of these nodes, with nobody who looks after them.
    pub(crate) fn without_programs(nodes: &[&str], services: bool) -> Self {
        let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
        Self {
            seed: 1,
            plan: Plan::Never,
            nodes,
            controllers: 0,
            pool: String::new(),
            services,
            is_harsh: false,
        }
    }
}

/// The outside; clones of the [`Arc`] share it.
pub struct World {
    pub(crate) setup: Setup,
    pub(crate) api: ApiServer,
    pub(crate) faults: Faults,
    state: Mutex<State>,
    /// Apart, so that programs can ask for the time whatever is held.
    skews: Mutex<Skews>,
    programs: Mutex<BTreeMap<String, Program>>,
    tasks: Mutex<JoinSet<()>>,
    folder: TempDir,
}

/// What changes.
pub(crate) struct State {
    /// How long things take that nobody of ours does.
    pub(crate) chance: Chance,
    pub(crate) cloud: Cloud,
    pub(crate) octavia: Octavia,
    pub(crate) services: Services,
    pub(crate) machines: BTreeMap<String, Machine>,
    pub(crate) pods: BTreeMap<String, Pod>,
    pub(crate) rules: Rules,
    /// What happened besides calls.
    pub(crate) notes: Vec<(u128, String)>,
    /// When a program last changed something.
    pub(crate) changed: Instant,
    /// Nobody answers before then: the API server, the cloud.
    pub(crate) api_down_until: Instant,
    pub(crate) cloud_down_until: Instant,
    /// How long a port takes to be wired at most, in milliseconds.
    pub(crate) wiring_most: u64,
    /// Nothing goes wrong any more.
    pub(crate) is_quiet: bool,
    pods_made: u64,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("setup", &self.setup).finish_non_exhaustive()
    }
}

/// Where records are.
pub(crate) const RECORDS: &str = "/apis/kuryr.openstack.org/v1alpha1/kuryrnodes";
/// Between bookmarks of watches.
const BOOKMARK_EVERY: Duration = Duration::from_secs(30);

impl World {
    /// A world with its nodes and without programs.
    #[must_use]
    pub fn new(setup: Setup) -> Arc<Self> {
        let (seed, now) = (setup.seed, Instant::now());
        let machines = setup.nodes.iter().enumerate();
        let machines: BTreeMap<String, Machine> =
            machines.map(|(number, name)| (name.clone(), Machine::new(name, number))).collect();
        let hosts = machines.values().map(|machine| machine.host.clone()).collect();
        let state = State {
            chance: Chance::of(seed),
            cloud: Cloud::new(hosts),
            octavia: Octavia::new(seed),
            services: Services::default(),
            machines,
            pods: BTreeMap::new(),
            rules: Rules::default(),
            notes: Vec::new(),
            changed: now,
            api_down_until: now,
            cloud_down_until: now,
            wiring_most: 300,
            is_quiet: false,
            pods_made: 0,
        };
        let world = Arc::new(Self {
            api: ApiServer::new(Streaming::Allowed),
            faults: Faults::new(
                setup.plan,
                (Chance::of(seed ^ 0xfa17), Chance::of(seed ^ 0x1a7e)),
                Scope { is_calls: setup.services && !setup.is_harsh, is_harsh: setup.is_harsh },
            ),
            state: Mutex::new(state),
            skews: Mutex::default(),
            programs: Mutex::default(),
            tasks: Mutex::default(),
            folder: tempfile::tempdir().unwrap(),
            setup,
        });
        for number in 0..world.setup.nodes.len() {
            world.make_node(number, 1);
        }
        let of = Arc::clone(&world);
        world.spawn(async move {
            loop {
                sleep(BOOKMARK_EVERY).await;
                of.api.bookmark();
            }
        });
        world.spawn(collect_garbage(Arc::clone(&world)));
        let of = Arc::clone(&world);
        world.spawn(async move {
            loop {
                of.faults.killed.notified().await;
                of.bury_the_dead();
            }
        });
        world
    }

    /// Makes the Node of a machine, in this life of it.
    pub(crate) fn make_node(&self, number: usize, life: u64) {
        let name = &self.setup.nodes[number];
        let address = json!({"type": "InternalIP", "address": format!("192.0.2.{}", number + 1)});
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "uid": format!("{name}-life-{life}")},
                          "status": {"addresses": [address]}});
        self.api.put(&format!("/api/v1/nodes/{name}"), node);
    }

    /// The UID of a Node, if there is one.
    pub(crate) fn node_uid(&self, name: &str) -> Option<String> {
        self.api.get(&format!("/api/v1/nodes/{name}"))?["metadata"]["uid"].as_str().map(str::to_owned)
    }

    /// Records that are there.
    pub(crate) fn records(&self) -> BTreeMap<String, Value> {
        let paths = self.api.paths(RECORDS);
        let record = |path: String| Some((path.rsplit('/').next()?.to_owned(), self.api.get(&path)?));
        paths.into_iter().filter_map(record).collect()
    }

    /// What changes. Not to be held across an await.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// By how much clocks are wrong.
    pub(crate) fn skews(&self) -> MutexGuard<'_, Skews> {
        self.skews.lock().unwrap()
    }

    pub(crate) fn programs(&self) -> MutexGuard<'_, BTreeMap<String, Program>> {
        self.programs.lock().unwrap()
    }

    /// A folder on the real disk, for the few files that agents write besides the checkpoint.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Has something happen beside.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap().spawn(task);
    }

    /// Notes what happens, for people.
    pub fn note(&self, what: impl Into<String>) {
        let at = self.faults.elapsed();
        self.state().notes.push((at, what.into()));
    }

    /// A number that no pod had before.
    pub(crate) fn pod_number(&self) -> u64 {
        let mut state = self.state();
        state.pods_made += 1;
        state.pods_made
    }

    /// Broken rules, in order.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.state().rules.violations.clone()
    }

    /// All calls so far.
    #[must_use]
    pub fn made(&self) -> Vec<Made> {
        self.faults.made()
    }

    /// What happened, calls and all, in order of time.
    #[must_use]
    pub fn story(&self) -> String {
        let calls = self.made().into_iter().enumerate().map(|(number, made)| {
            let Made { at, caller, side, line, fault, .. } = made;
            let fault = fault.map(|fault| format!("  <== {fault:?}")).unwrap_or_default();
            (at, format!("#{number} {caller} {side:?} {line}{fault}"))
        });
        let mut lines: Vec<(u128, String)> = calls.chain(self.state().notes.clone()).collect();
        lines.sort_by_key(|(at, _)| *at);
        lines.iter().map(|(at, line)| format!("{:>8}.{:03} {line}\n", at / 1000, at % 1000)).collect()
    }

    /// Ends everything.
    pub async fn end(&self) {
        let programs = std::mem::take(&mut *self.programs());
        drop(programs);
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap());
        tasks.shutdown().await;
    }
}
