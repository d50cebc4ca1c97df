//! The node's kernel, as the agent uses it: what it may ask, and on which threads.
//!
//! Everything asked of the kernel blocks, so none of it runs on a thread of the runtime. Lanes: *urgent* work is
//! what somebody waits for (a millisecond or so), before other work of the node if we may; *patient* work is slow and
//! nobody waits (deleting a link takes 17 ms); *short* work only touches maps. The first two change the kernel's configuration, which one may do at a time: while
//! namespaces go, everybody waits for tens of milliseconds, and short work must not wait behind them. A fourth lane is
//! that of Services, whose tables may have ten thousands of entries to be written. Each lane has few
//! threads and a bounded queue, so that a burst cannot start a hundred threads.
//!
//! The kernel may not be usable when the agent starts (no bpffs, a tool missing). Until it is, every question is
//! answered by why not.
//!
//! A kernel in memory ([`Kernel::in_place`]) answers at once, so it needs no threads.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
};

use kuryr_api::names;
use kuryr_datapath::{
    Announcement, Attached, Entry, FoundUplinks, Joining, MacvlanSpec, Node, NodeInterface, NodeRoute,
    ObservedLinks, Owed, OwnPortSpec, PodLinks, Side, Swept, Uplink, UplinkSpec,
};
use kuryr_planning::claim::restart::LiveInterface;
use kuryr_process::precedence;
use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// Enough for the waits inside of a pod's namespace; the kernel takes one change of links at a time anyway.
const URGENT_THREADS: usize = 4;
const PATIENT_THREADS: usize = 1;
const SHORT_THREADS: usize = 1;
const FORWARDING_THREADS: usize = 1;
/// More than the requests that are served at once.
const WAITING_MAX: usize = 512;

type Answer<T> = kuryr_datapath::Result<T>;

/// What the agent asks of the kernel; all of it blocks.
pub trait Datapath: Send + Sync + 'static {
    /// Which namespace is at `path`; none if there is none any more.
    fn sandbox(&self, path: &Path) -> Answer<Option<String>>;
    /// Connects a pod, or carries on with a connection that was begun.
    fn attach(&self, pod: &PodLinks) -> Answer<Attached>;
    /// Disconnects a pod; nothing there is success. Short.
    fn cut(&self, host_ifindex: u32) -> Answer<()>;
    /// Takes the node's routes to a pod that was disconnected.
    fn clear(&self, host_ifindex: u32) -> Answer<()>;
    /// Takes the node's routes to all pods that were disconnected.
    fn clear_all(&self) -> Answer<()>;
    /// Looks at a pod's interface.
    fn observe(&self, netns: &Path, ifname: &str) -> Answer<Option<ObservedLinks>>;
    /// Whether a pod is connected as it was recorded.
    fn is_joined(&self, host_ifname: &str, host_ifindex: u32, netns: &Path) -> Answer<bool>;
    /// The connections there are.
    fn entries(&self) -> Answer<Vec<Entry>>;
    /// Whether connections are kept by entries at all.
    fn has_entries(&self) -> bool;
    /// Why something works less well than it could, if it does.
    fn fallback(&self) -> Option<String>;
    /// Interfaces in the namespaces below a folder.
    fn interfaces(&self, netns_dir: &Path) -> Answer<Vec<LiveInterface>>;
    /// Makes an uplink.
    fn prepare(&self, uplink: &UplinkSpec) -> Answer<Uplink>;
    /// The uplinks there are, and what of them and of the node's own port is down.
    fn uplinks(&self) -> Answer<FoundUplinks>;
    /// Brings interfaces up.
    fn bring_up(&self, ifnames: &[String]) -> Answer<()>;
    /// Tells the network where ports are that wait for pods: `most` of those of which it has not been told. Whether there may
    /// be more.
    fn announce(&self, ports: &[Announcement], most: usize) -> Answer<bool>;
    /// Reports of groups that are owed to the network, the oldest first.
    fn owed_reports(&self) -> Answer<Vec<Owed>>;
    /// Makes `most` of these reports, and tells how many.
    fn report_groups(&self, owed: &[Owed], most: usize) -> Answer<usize>;
    /// Deletes an uplink by its tap; slow.
    fn remove(&self, tap: &str) -> Answer<()>;
    /// The node's interface of that name.
    fn interface_named(&self, ifname: &str) -> Answer<Option<NodeInterface>>;
    /// The node's interface with one of these addresses.
    fn interface_with(&self, addresses: &[IpAddr]) -> Answer<Option<NodeInterface>>;
    /// Takes an interface of the node for the uplink of pods with VLAN ids; again is success.
    fn adopt(&self, ifname: &str) -> Answer<Uplink>;
    /// Gives the interfaces back that were taken, but the one with index `keep`.
    fn abandon(&self, keep: Option<u32>) -> Answer<()>;
    /// Makes a macvlan on an interface of the node, or brings it up.
    fn prepare_macvlan(&self, spec: &MacvlanSpec) -> Answer<()>;
    /// Deletes a macvlan; slow.
    fn remove_macvlan(&self, ifname: &str) -> Answer<()>;
    /// Makes the node's own interface.
    fn prepare_own_port(&self, port: &OwnPortSpec) -> Answer<()>;
    /// Deletes the node's own interface; slow.
    fn remove_own_port(&self, ifname: &str) -> Answer<()>;
    /// The node's routes.
    fn routes(&self) -> Answer<Vec<NodeRoute>>;
    /// Sets where packets go that were translated, and those that the node sends with the addresses `from`.
    fn set_ways(&self, side: Side, ways: &[NodeRoute], from: &[IpAddr]) -> Answer<()>;
    /// Sets the node's addresses of the local path.
    fn set_node_addresses(&self, addresses: &[IpAddr]) -> Answer<()>;
    /// Has addresses of pods reached straight, and of those that are so only the ones that may be.
    fn set_straight(&self, led: &BTreeSet<IpAddr>, may: &BTreeSet<IpAddr>) -> Answer<()>;
    /// Sets missing routes of the local path; tells how many.
    fn restore_local_path(&self, addresses: &[IpAddr]) -> Answer<usize>;
    /// Deletes what is left of pods that are gone; slow.
    fn sweep(&self, keep: &BTreeSet<String>) -> Answer<Swept>;
    /// Has the guard installed.
    fn ensure_guard(&self) -> Answer<()>;
}

/// The kernel, to be asked from asynchronous code; clones share it.
#[derive(Clone)]
pub struct Kernel {
    shared: Arc<Shared>,
}

struct Shared {
    node: OnceLock<Arc<dyn Datapath>>,
    /// Why there is no `node` yet.
    trouble: RwLock<String>,
    urgent: Lane,
    patient: Lane,
    short: Lane,
    forwarding: Lane,
}

/// Where work of one kind is done.
enum Lane {
    /// On threads of its own.
    Threads(SyncSender<Job>),
    /// By whoever asks.
    InPlace,
}

type Job = Box<dyn FnOnce() + Send>;

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").field("trouble", &self.trouble()).finish_non_exhaustive()
    }
}

impl Kernel {
    /// Starts the threads. The kernel is not usable before [`Kernel::opened`].
    ///
    /// # Errors
    ///
    /// A thread cannot be started.
    pub(crate) fn start() -> std::io::Result<Self> {
        Ok(Self {
            shared: Arc::new(Shared {
                node: OnceLock::new(),
                trouble: RwLock::new("the kernel is being prepared".to_owned()),
                urgent: lane("kernel", URGENT_THREADS, take_precedence)?,
                patient: lane("kernel-patient", PATIENT_THREADS, || ())?,
                short: lane("kernel-short", SHORT_THREADS, || ())?,
                forwarding: lane("kernel-services", FORWARDING_THREADS, || ())?,
            }),
        })
    }

    /// A kernel that can be used, and whose work is done by whoever asks, without threads.
    #[must_use]
    pub fn in_place(node: Arc<dyn Datapath>) -> Self {
        Self {
            shared: Arc::new(Shared {
                node: OnceLock::from(node),
                trouble: RwLock::default(),
                urgent: Lane::InPlace,
                patient: Lane::InPlace,
                short: Lane::InPlace,
                forwarding: Lane::InPlace,
            }),
        }
    }

    /// Makes the kernel usable.
    pub(crate) fn opened(&self, node: Arc<dyn Datapath>) {
        // Only the first counts; there is one opener.
        let _ = self.shared.node.set(node);
    }

    /// Whether pods are connected by entries, as far as the kernel has been opened.
    pub(crate) fn has_entries(&self) -> bool {
        self.shared.node.get().is_some_and(|node| node.has_entries())
    }

    /// Notes why the kernel is not usable.
    pub(crate) fn not_opened(&self, why: String) {
        *self.shared.trouble.write().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Why pods are connected in a way that can less, if they are.
    pub(crate) fn fallback(&self) -> Option<String> {
        self.shared.node.get().and_then(|node| node.fallback())
    }

    /// Why the kernel is not usable; none when it is.
    pub(crate) fn trouble(&self) -> Option<String> {
        let trouble = || self.shared.trouble.read().unwrap_or_else(PoisonError::into_inner).clone();
        self.shared.node.get().is_none().then(trouble)
    }

    /// Does work that somebody waits for.
    ///
    /// # Errors
    ///
    /// What the kernel refused, or `Starting` or `Busy`.
    pub(crate) async fn urgent<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&dyn Datapath) -> Answer<T> + Send + 'static,
    ) -> Result<T> {
        self.ask(&self.shared.urgent, what, work).await
    }

    /// Does work that somebody waits for and that touches nothing but maps.
    ///
    /// # Errors
    ///
    /// As [`Kernel::urgent`].
    pub(crate) async fn short<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&dyn Datapath) -> Answer<T> + Send + 'static,
    ) -> Result<T> {
        self.ask(&self.shared.short, what, work).await
    }

    /// Does work that nobody waits for.
    ///
    /// # Errors
    ///
    /// As [`Kernel::urgent`].
    pub(crate) async fn patient<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&dyn Datapath) -> Answer<T> + Send + 'static,
    ) -> Result<T> {
        self.ask(&self.shared.patient, what, work).await
    }

    /// Does blocking work that needs no opened kernel, such as opening it.
    ///
    /// # Errors
    ///
    /// `Busy`, `BrokenOff`.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        run(&self.shared.patient, what, work).await
    }

    /// Does work on the tables and programs of Services, which need no opened kernel.
    ///
    /// # Errors
    ///
    /// What the kernel refused, or `Busy`, `BrokenOff`.
    pub(crate) async fn forwarding<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce() -> Answer<T> + Send + 'static,
    ) -> Result<T> {
        let answer = run(&self.shared.forwarding, what, work).await?;
        answer.map_err(|source| Error::Kernel { what, source: Box::new(source) })
    }

    async fn ask<T: Send + 'static>(
        &self,
        lane: &Lane,
        what: &'static str,
        work: impl FnOnce(&dyn Datapath) -> Answer<T> + Send + 'static,
    ) -> Result<T> {
        let Some(node) = self.shared.node.get().map(Arc::clone) else {
            return Err(Error::Starting { why: self.trouble().unwrap_or_default() });
        };
        let answer = run(lane, what, move || work(&*node)).await?;
        answer.map_err(|source| Error::Kernel { what, source: Box::new(source) })
    }
}

async fn run<T: Send + 'static>(
    lane: &Lane,
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let Lane::Threads(lane) = lane else {
        // As on threads, others may go on before the answer is there.
        tokio::task::yield_now().await;
        return Ok(work());
    };
    let (tell, told) = oneshot::channel();
    let job: Job = Box::new(move || {
        if let Ok(value) = catch_unwind(AssertUnwindSafe(work)) {
            // Whoever asked may have been given up; the work is done all the same.
            let _ = tell.send(value);
        }
    });
    lane.try_send(job).map_err(|error| match error {
        TrySendError::Full(_) => Error::Busy { what: "kernel" },
        TrySendError::Disconnected(_) => Error::BrokenOff { what },
    })?;
    told.await.map_err(|_| Error::BrokenOff { what })
}

/// Starts the threads of a lane, each of which begins with `prepare`.
fn lane(name: &str, threads: usize, prepare: fn()) -> std::io::Result<Lane> {
    let (sender, jobs) = sync_channel(WAITING_MAX);
    let jobs = Arc::new(Mutex::new(jobs));
    for _ in 0..threads {
        let jobs = Arc::clone(&jobs);
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            prepare();
            work_off(&jobs);
        })?;
    }
    Ok(Lane::Threads(sender))
}

/// On a busy node an ADD would wait longer for the processor than it needs it. Without the right it goes on as it is.
fn take_precedence() {
    if let Err(error) = precedence::take() {
        tracing::debug!(%error, "pods are attached with no precedence over other work");
    }
}

fn work_off(jobs: &Mutex<Receiver<Job>>) {
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match next {
            Ok(job) => job(),
            Err(_) => return,
        }
    }
}

impl Datapath for Node {
    fn sandbox(&self, path: &Path) -> Answer<Option<String>> {
        Ok(kuryr_datapath::netns::identity(path)?.map(|id| id.to_string()))
    }

    fn attach(&self, pod: &PodLinks) -> Answer<Attached> {
        Self::attach(self, pod)
    }

    fn cut(&self, host_ifindex: u32) -> Answer<()> {
        Self::cut(self, host_ifindex)
    }

    fn clear(&self, host_ifindex: u32) -> Answer<()> {
        Self::clear(self, host_ifindex)
    }

    fn clear_all(&self) -> Answer<()> {
        Self::clear_all(self)
    }

    fn observe(&self, netns: &Path, ifname: &str) -> Answer<Option<ObservedLinks>> {
        Self::observe(self, netns, ifname)
    }

    fn is_joined(&self, host_ifname: &str, host_ifindex: u32, netns: &Path) -> Answer<bool> {
        Self::is_joined(self, host_ifname, host_ifindex, netns)
    }

    fn entries(&self) -> Answer<Vec<Entry>> {
        Self::entries(self)
    }

    fn has_entries(&self) -> bool {
        matches!(self.joining(), Joining::Ebpf)
    }

    fn fallback(&self) -> Option<String> {
        match self.joining() {
            Joining::Ebpf => None,
            Joining::SubInterface { why, .. } => Some(why.clone()),
        }
    }

    fn interfaces(&self, netns_dir: &Path) -> Answer<Vec<LiveInterface>> {
        let found = kuryr_datapath::live::interfaces(netns_dir)?;
        let one = |found: kuryr_datapath::live::LiveInterface| LiveInterface {
            netns: found.netns.display().to_string(),
            netns_id: found.id.to_string(),
            ifname: found.ifname,
            mac: found.mac,
        };
        Ok(found.into_iter().map(one).collect())
    }

    fn prepare(&self, uplink: &UplinkSpec) -> Answer<Uplink> {
        self.prepare_uplink(uplink)
    }

    fn uplinks(&self) -> Answer<FoundUplinks> {
        self.all_uplinks(names::NODE_INTERFACE)
    }

    fn bring_up(&self, ifnames: &[String]) -> Answer<()> {
        Self::bring_up(self, ifnames)
    }

    fn announce(&self, ports: &[Announcement], most: usize) -> Answer<bool> {
        Self::announce(self, ports, most)
    }

    fn owed_reports(&self) -> Answer<Vec<Owed>> {
        Self::owed_reports(self)
    }

    fn report_groups(&self, owed: &[Owed], most: usize) -> Answer<usize> {
        Self::report_groups(self, owed, most)
    }

    fn remove(&self, tap: &str) -> Answer<()> {
        self.remove_uplink(tap)
    }

    fn interface_named(&self, ifname: &str) -> Answer<Option<NodeInterface>> {
        Self::interface_named(self, ifname)
    }

    fn interface_with(&self, addresses: &[IpAddr]) -> Answer<Option<NodeInterface>> {
        Self::interface_with(self, addresses)
    }

    fn adopt(&self, ifname: &str) -> Answer<Uplink> {
        // The trunk may have other users on this node, whose VLAN ids are nobody's of ours.
        self.adopt_shared_uplink(ifname, true)
    }

    fn abandon(&self, keep: Option<u32>) -> Answer<()> {
        self.abandon_shared_uplinks(keep)
    }

    fn prepare_macvlan(&self, spec: &MacvlanSpec) -> Answer<()> {
        Self::prepare_macvlan(self, spec).map(|_| ())
    }

    fn remove_macvlan(&self, ifname: &str) -> Answer<()> {
        Self::remove_macvlan(self, ifname)
    }

    fn prepare_own_port(&self, port: &OwnPortSpec) -> Answer<()> {
        Self::prepare_own_port(self, port).map(|_| ())
    }

    fn remove_own_port(&self, ifname: &str) -> Answer<()> {
        Self::remove_own_port(self, ifname)
    }

    fn routes(&self) -> Answer<Vec<NodeRoute>> {
        Self::routes(self)
    }

    fn set_ways(&self, side: Side, ways: &[NodeRoute], from: &[IpAddr]) -> Answer<()> {
        Self::set_ways(self, side, ways, from)
    }

    fn set_node_addresses(&self, addresses: &[IpAddr]) -> Answer<()> {
        Self::set_node_addresses(self, addresses)
    }

    fn set_straight(&self, led: &BTreeSet<IpAddr>, may: &BTreeSet<IpAddr>) -> Answer<()> {
        Self::set_straight(self, led, may)
    }

    fn restore_local_path(&self, addresses: &[IpAddr]) -> Answer<usize> {
        Self::restore_local_path(self, addresses)
    }

    fn sweep(&self, keep: &BTreeSet<String>) -> Answer<Swept> {
        Self::sweep(self, keep)
    }

    fn ensure_guard(&self) -> Answer<()> {
        Self::ensure_guard(self)
    }
}

#[cfg(test)]
pub(crate) mod fake {
    //! A kernel that remembers what it was asked.

    use std::{collections::BTreeMap, time::Duration};

    use ipnet::IpNet;
    use kuryr_datapath::ObservedMacvlan;

    use super::*;

    /// The fake's contents.
    #[derive(Debug, Default)]
    pub(crate) struct Contents {
        /// Who may be reached straight, as it was told last.
        pub(crate) may_be_straight: Option<BTreeSet<IpAddr>>,
        /// Namespaces by path.
        pub(crate) sandboxes: BTreeMap<String, String>,
        /// Connected pods: host end -> namespace, by index.
        pub(crate) joined: BTreeMap<u32, (String, String)>,
        /// Host ends of disconnected pods to which the routes were taken.
        pub(crate) cleared: Vec<u32>,
        /// What was asked that changes something, in order.
        pub(crate) changes: Vec<String>,
        /// Interfaces in pods, by namespace.
        pub(crate) observed: BTreeMap<String, ObservedLinks>,
        /// The next attachment fails with this.
        pub(crate) refuse_attach: Option<kuryr_datapath::Error>,
        /// Names of taps that something else has.
        pub(crate) taken: BTreeSet<String>,
        /// The node's interface, with its address.
        pub(crate) interface: Option<(NodeInterface, IpAddr)>,
        /// Indexes of adopted interfaces.
        pub(crate) adopted: BTreeSet<u32>,
        /// Whether there are no entries, as without eBPF.
        pub(crate) without_entries: bool,
        /// Uplink of each host end, by index.
        pub(crate) uplinks: BTreeMap<u32, (u32, Option<u16>)>,
        /// Interfaces on the way to the switch that are down.
        pub(crate) down: Vec<String>,
        /// Those of them that cannot be brought up.
        pub(crate) stays_down: BTreeSet<String>,
        /// Ports that were announced.
        pub(crate) announced: Vec<Announcement>,
        /// Reports of groups that are owed.
        pub(crate) owed: Vec<Owed>,
        /// Host ends of pods in whose place groups were reported.
        pub(crate) reported: Vec<u32>,
        /// Macvlans, by name.
        pub(crate) macvlans: BTreeMap<String, ObservedMacvlan>,
        /// The node's routes.
        pub(crate) routes: Vec<NodeRoute>,
        /// Where packets go that were translated.
        pub(crate) ways: BTreeMap<Side, Vec<NodeRoute>>,
        pub(crate) led_from: BTreeMap<Side, Vec<IpAddr>>,
        /// How long an attachment takes.
        pub(crate) attach_takes: Duration,
        /// Looked at when an attachment begins.
        pub(crate) on_attach: OnAttach,
        next_index: u32,
    }

    /// Something to be done at each attachment.
    #[derive(Default)]
    pub(crate) struct OnAttach(pub(crate) Option<Look>);

    type Look = Arc<dyn Fn(&PodLinks) + Send + Sync>;

    impl std::fmt::Debug for OnAttach {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("OnAttach")
        }
    }

    /// A kernel in memory; clones share it.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct FakeKernel {
        pub(crate) contents: Arc<Mutex<Contents>>,
    }

    impl FakeKernel {
        /// A kernel with the namespaces `/run/netns/<name>`.
        pub(crate) fn with_sandboxes(names: &[&str]) -> Self {
            let fake = Self::default();
            for (number, name) in names.iter().enumerate() {
                let path = format!("/run/netns/{name}");
                fake.contents.lock().unwrap().sandboxes.insert(path, format!("4:{number}"));
            }
            fake
        }

        /// This kernel, opened.
        pub(crate) fn kernel(&self) -> Kernel {
            let kernel = Kernel::start().unwrap();
            kernel.opened(Arc::new(self.clone()));
            kernel
        }

        pub(crate) fn changes(&self) -> Vec<String> {
            self.contents.lock().unwrap().changes.clone()
        }
    }

    impl Datapath for FakeKernel {
        fn sandbox(&self, path: &Path) -> Answer<Option<String>> {
            Ok(self.contents.lock().unwrap().sandboxes.get(path.to_str().unwrap()).cloned())
        }

        fn attach(&self, pod: &PodLinks) -> Answer<Attached> {
            let contents = self.contents.lock().unwrap();
            let (takes, look) = (contents.attach_takes, contents.on_attach.0.clone());
            drop(contents);
            if let Some(look) = look {
                look(pod);
            }
            std::thread::sleep(takes);
            let mut contents = self.contents.lock().unwrap();
            if let Some(error) = contents.refuse_attach.take() {
                return Err(error);
            }
            let netns = pod.netns.display().to_string();
            let gone = || kuryr_datapath::Error::NotANamespace { path: pod.netns.clone() };
            let id = contents.sandboxes.get(&netns).ok_or_else(gone)?.parse().unwrap();
            // As the real one: a pod that is connected already is carried on with.
            let wanted = (pod.host_ifname.clone(), netns.clone());
            let present =
                contents.joined.iter().find(|(_, joined)| **joined == wanted).map(|(index, _)| *index);
            let index = present.unwrap_or(contents.next_index + 1);
            contents.next_index = contents.next_index.max(index);
            contents.changes.push(format!("attach {} {netns}", pod.host_ifname));
            let observed = ObservedLinks {
                ifindex: 2,
                mac: pod.mac,
                mtu: pod.mtu,
                up: true,
                addresses: pod.addresses.clone(),
                routes: pod.routes.clone(),
            };
            contents.observed.insert(netns.clone(), observed);
            contents.uplinks.insert(index, (pod.uplink, pod.vlan));
            contents.joined.insert(index, (pod.host_ifname.clone(), netns));
            Ok(Attached { host_ifindex: index, host_mac: pod.mac, ifindex: 2, netns: id })
        }

        fn cut(&self, host_ifindex: u32) -> Answer<()> {
            let mut contents = self.contents.lock().unwrap();
            contents.joined.remove(&host_ifindex);
            contents.changes.push(format!("cut {host_ifindex}"));
            Ok(())
        }

        fn clear(&self, host_ifindex: u32) -> Answer<()> {
            self.contents.lock().unwrap().cleared.push(host_ifindex);
            Ok(())
        }

        fn clear_all(&self) -> Answer<()> {
            Ok(())
        }

        fn observe(&self, netns: &Path, _: &str) -> Answer<Option<ObservedLinks>> {
            Ok(self.contents.lock().unwrap().observed.get(netns.to_str().unwrap()).cloned())
        }

        fn is_joined(&self, host_ifname: &str, host_ifindex: u32, netns: &Path) -> Answer<bool> {
            let contents = self.contents.lock().unwrap();
            let joined = contents.joined.get(&host_ifindex);
            Ok(joined.is_some_and(|(name, path)| name == host_ifname && Path::new(path) == netns))
        }

        fn entries(&self) -> Answer<Vec<Entry>> {
            let contents = self.contents.lock().unwrap();
            let entry = |(index, (_, netns)): (&u32, &(String, String))| Entry {
                host_ifindex: *index,
                uplink: contents.uplinks[index].0,
                vlan: contents.uplinks[index].1,
                mac: contents.observed[netns].mac,
                host_mac: contents.observed[netns].mac,
                addresses: contents.observed[netns].addresses.iter().map(IpNet::addr).collect(),
            };
            Ok(contents.joined.iter().map(entry).collect())
        }

        fn has_entries(&self) -> bool {
            !self.contents.lock().unwrap().without_entries
        }

        fn fallback(&self) -> Option<String> {
            None
        }

        fn interfaces(&self, _: &Path) -> Answer<Vec<LiveInterface>> {
            let contents = self.contents.lock().unwrap();
            let live = |(path, id): (&String, &String)| {
                let observed = contents.observed.get(path)?;
                let (netns, netns_id) = (path.clone(), id.clone());
                Some(LiveInterface { netns, netns_id, ifname: "eth0".into(), mac: observed.mac })
            };
            Ok(contents.sandboxes.iter().filter_map(live).collect())
        }

        fn prepare(&self, uplink: &UplinkSpec) -> Answer<Uplink> {
            let mut contents = self.contents.lock().unwrap();
            if contents.taken.contains(&uplink.tap) {
                return Err(kuryr_datapath::Error::LinkTaken { name: uplink.tap.clone() });
            }
            contents.changes.push(format!("prepare {}", uplink.tap));
            drop(contents);
            Ok(Uplink {
                tap: Some(uplink.tap.clone()),
                ifname: uplink.peer.clone(),
                ifindex: 5,
                mac: uplink.mac,
            })
        }

        fn uplinks(&self) -> Answer<FoundUplinks> {
            let contents = self.contents.lock().unwrap();
            let (macvlans, down) = (contents.macvlans.clone(), contents.down.clone());
            Ok(FoundUplinks { macvlans, down, ..FoundUplinks::default() })
        }

        fn bring_up(&self, ifnames: &[String]) -> Answer<()> {
            let mut contents = self.contents.lock().unwrap();
            if let Some(name) = ifnames.iter().find(|ifname| contents.stays_down.contains(*ifname)) {
                return Err(kuryr_datapath::Error::LinkTaken { name: name.clone() });
            }
            contents.down.retain(|ifname| !ifnames.contains(ifname));
            contents.changes.push(format!("bring up {}", ifnames.join(" ")));
            Ok(())
        }

        fn announce(&self, ports: &[Announcement], most: usize) -> Answer<bool> {
            let mut contents = self.contents.lock().unwrap();
            let new = ports.iter().filter(|port| !contents.announced.contains(port));
            let new: Vec<Announcement> = new.take(most).cloned().collect();
            contents.announced.extend(new.iter().cloned());
            Ok(new.len() == most)
        }

        fn owed_reports(&self) -> Answer<Vec<Owed>> {
            Ok(self.contents.lock().unwrap().owed.clone())
        }

        fn report_groups(&self, owed: &[Owed], most: usize) -> Answer<usize> {
            let mut contents = self.contents.lock().unwrap();
            let made: Vec<u32> = owed.iter().take(most).map(|owed| owed.host_end).collect();
            contents.owed.retain(|owed| !made.contains(&owed.host_end));
            contents.reported.extend(&made);
            Ok(made.len())
        }

        fn remove(&self, tap: &str) -> Answer<()> {
            self.contents.lock().unwrap().changes.push(format!("remove {tap}"));
            Ok(())
        }

        fn interface_named(&self, ifname: &str) -> Answer<Option<NodeInterface>> {
            let contents = self.contents.lock().unwrap();
            Ok(contents.interface.clone().map(|found| found.0).filter(|found| found.name == ifname))
        }

        fn interface_with(&self, addresses: &[IpAddr]) -> Answer<Option<NodeInterface>> {
            let contents = self.contents.lock().unwrap();
            Ok(contents.interface.clone().filter(|found| addresses.contains(&found.1)).map(|found| found.0))
        }

        fn adopt(&self, ifname: &str) -> Answer<Uplink> {
            let mut contents = self.contents.lock().unwrap();
            let missing = || kuryr_datapath::Error::LinkMissing { name: ifname.to_owned() };
            let (found, _) = contents.interface.clone().ok_or_else(missing)?;
            if contents.adopted.insert(found.index) {
                contents.changes.push(format!("adopt {ifname}"));
            }
            Ok(Uplink { tap: None, ifname: found.name, ifindex: found.index, mac: found.mac })
        }

        fn abandon(&self, keep: Option<u32>) -> Answer<()> {
            let mut contents = self.contents.lock().unwrap();
            let others: Vec<u32> =
                contents.adopted.iter().copied().filter(|index| Some(*index) != keep).collect();
            for index in others {
                contents.adopted.remove(&index);
                contents.changes.push(format!("abandon {index}"));
            }
            Ok(())
        }

        fn prepare_macvlan(&self, spec: &MacvlanSpec) -> Answer<()> {
            let mut contents = self.contents.lock().unwrap();
            let ifindex = 100 * spec.lower + u32::try_from(contents.macvlans.len()).unwrap();
            let made = ObservedMacvlan { ifindex, mac: spec.mac, lower: Some(spec.lower), up: true };
            contents.macvlans.insert(spec.ifname.clone(), made);
            contents.changes.push(format!("macvlan {} on {}", spec.ifname, spec.lower));
            Ok(())
        }

        fn remove_macvlan(&self, ifname: &str) -> Answer<()> {
            let mut contents = self.contents.lock().unwrap();
            contents.macvlans.remove(ifname);
            contents.changes.push(format!("remove {ifname}"));
            Ok(())
        }

        fn prepare_own_port(&self, port: &OwnPortSpec) -> Answer<()> {
            match self.contents.lock().unwrap().taken.contains(&port.tap) {
                true => Err(kuryr_datapath::Error::LinkTaken { name: port.tap.clone() }),
                false => Ok(()),
            }
        }

        fn remove_own_port(&self, _: &str) -> Answer<()> {
            Ok(())
        }

        fn routes(&self) -> Answer<Vec<NodeRoute>> {
            Ok(self.contents.lock().unwrap().routes.clone())
        }

        fn set_ways(&self, side: Side, ways: &[NodeRoute], from: &[IpAddr]) -> Answer<()> {
            let mut contents = self.contents.lock().unwrap();
            contents.ways.insert(side, ways.to_vec());
            contents.led_from.insert(side, from.to_vec());
            Ok(())
        }

        fn set_node_addresses(&self, _: &[IpAddr]) -> Answer<()> {
            Ok(())
        }

        fn set_straight(&self, _: &BTreeSet<IpAddr>, may: &BTreeSet<IpAddr>) -> Answer<()> {
            self.contents.lock().unwrap().may_be_straight = Some(may.clone());
            Ok(())
        }

        fn restore_local_path(&self, _: &[IpAddr]) -> Answer<usize> {
            Ok(0)
        }

        fn sweep(&self, _: &BTreeSet<String>) -> Answer<Swept> {
            Ok(Swept::default())
        }

        fn ensure_guard(&self) -> Answer<()> {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn says_why_it_cannot_be_used_yet() {
        let kernel = Kernel::start().unwrap();
        kernel.not_opened("/sys/fs/bpf is not on a bpffs".to_owned());
        let error = kernel.urgent("look", |node| node.uplinks()).await.unwrap_err();
        assert!(error.to_string().contains("bpffs"), "{error}");
        kernel.opened(Arc::new(fake::FakeKernel::default()));
        assert!(kernel.urgent("look", |node| node.uplinks()).await.is_ok());
        assert_eq!(kernel.trouble(), None);
    }

    #[tokio::test]
    async fn a_bug_breaks_off_one_job_only() {
        let kernel = fake::FakeKernel::default().kernel();
        for _ in 0..URGENT_THREADS * 2 {
            let broken: Result<()> = kernel.urgent("fail", |_| panic!("a bug")).await;
            assert!(matches!(broken, Err(Error::BrokenOff { what: "fail" })));
        }
        assert!(kernel.urgent("look", |node| node.uplinks()).await.is_ok());
    }
}
