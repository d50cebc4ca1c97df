//! Open vSwitch's database: ports of the integration bridge, and what ovn-controller and ovs-vswitchd say of them.
//!
//! Terms: a row of `Interface` becomes usable when ovs-vswitchd gives it a port number of the bridge (`ofport`), and
//! ready when ovn-controller has installed its flows (`ovn-installed` among the row's `external_ids`). Where the switch
//! is driven by Neutron's own agent there is no such sign; the agent gives the row of `Port` a VLAN id when it has dealt
//! with it.
//!
//! One task owns the connection. It watches the tables we care for with `monitor_cond`, publishes a consistent
//! [`SwitchState`] after each batch of changes, carries out transactions, and connects again with growing distance
//! (at most [`LONGEST_PAUSE`]) after a failure. While there is no connection the last rows stay visible and
//! `connected` is false.
//!
//! The database does not tell when ovs-vswitchd restarts; its pidfile does, or the bridge's management socket
//! ([`SwitchStart`]), without need of its process namespace.
//!
//! Nothing here decides when a port is ready.
//!
//! Sources: RFC 7047; ovsdb-server(7), sections 4.1.12 to 4.1.14 (`monitor_cond`, `update2`);
//! ovs-vswitchd.conf.db(5); ovn-controller(8), "external_ids:ovn-installed".

mod rows;
mod connection;
mod transaction;
mod wire;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kuryr_types::{Generation, MacAddr, PortId};
use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time,
};

pub use rows::{BridgeRow, InterfaceRow, SwitchRow, SwitchState};

use crate::error::{Error, Result};

/// Longest pause between two attempts to connect.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// Calls that may wait to be sent. One call carries many ports, so more means that something is wrong.
const QUEUE: usize = 64;

/// Where the database is and what of it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OvsdbConfig {
    /// Unix socket of ovsdb-server.
    pub socket: PathBuf,
    /// Name of the integration bridge.
    pub bridge: String,
    /// Pidfile of ovs-vswitchd; `None`: restarts are not noticed.
    pub pidfile: Option<PathBuf>,
    /// Bound for one call, from asking to the answer.
    pub request_timeout: Duration,
}

impl OvsdbConfig {
    /// The database behind `socket`, bridge `br-int`, and the pidfile where ovs-vswitchd has it: beside the socket.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        let socket = socket.into();
        let pidfile = socket.parent().map(|folder| folder.join("ovs-vswitchd.pid"));
        Self { socket, bridge: "br-int".to_owned(), pidfile, request_timeout: Duration::from_secs(10) }
    }
}

/// A port to be plugged on the integration bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// Name of the interface, which exists.
    pub name: String,
    /// The Neutron port.
    pub port: PortId,
    /// Its hardware address.
    pub mac: MacAddr,
    /// Which offer of the port this is for.
    pub generation: Option<Generation>,
    /// Under which run of ovs-vswitchd, in the caller's words.
    pub start: Option<String>,
}

/// Which run of ovs-vswitchd this is; another value means that it restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SwitchStart {
    /// Process id as ovs-vswitchd wrote it, in whatever process namespace; 0 where it runs without a pidfile.
    pub pid: u32,
    /// Inode of the pidfile, or of the management socket.
    pub inode: u64,
    /// When that file was made, in nanoseconds since 1970.
    pub changed_ns: i128,
}

/// A handle on the database. The connection ends with the last clone.
#[derive(Debug, Clone)]
pub struct Ovsdb {
    config: Arc<OvsdbConfig>,
    calls: mpsc::Sender<Call>,
    state: watch::Receiver<Arc<SwitchState>>,
}

impl Ovsdb {
    /// Starts to connect, on the current async runtime.
    #[must_use]
    pub fn start(config: OvsdbConfig) -> Self {
        let config = Arc::new(config);
        let (calls, queue) = mpsc::channel(QUEUE);
        let (publish, state) = watch::channel(Arc::new(SwitchState::default()));
        tokio::spawn(stay_connected(Arc::clone(&config), publish, queue));
        Self { config, calls, state }
    }

    /// Watches the state.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<SwitchState>> {
        self.state.clone()
    }

    /// Looks at the state.
    #[must_use]
    pub fn state(&self) -> Arc<SwitchState> {
        Arc::clone(&self.state.borrow())
    }

    /// Plugs ports on the integration bridge, all in one transaction. One that is there gets its identifiers
    /// set anew.
    ///
    /// # Errors
    ///
    /// `BridgeMissing`, `OvsdbRefused`, `OvsdbDisconnected`, `OvsdbSilent` (the transaction may have been carried out).
    pub async fn add_ports(&self, ports: &[PortSpec]) -> Result<()> {
        if ports.is_empty() {
            return Ok(());
        }
        let state = self.connected()?;
        let operations = transaction::add_ports(&self.config.bridge, ports, &state.interfaces);
        let answer = self.transact(operations).await?;
        transaction::outcome(&answer, &self.config.bridge)
    }

    /// Unplugs ports by name, all in one transaction. One that is not there is success.
    ///
    /// # Errors
    ///
    /// As of [`Ovsdb::add_ports`].
    pub async fn del_ports(&self, names: &[String]) -> Result<()> {
        let state = self.connected()?;
        let ports: Vec<&str> =
            names.iter().filter_map(|name| state.ports.get(name)).map(String::as_str).collect();
        if ports.is_empty() {
            return Ok(());
        }
        let answer = self.transact(transaction::del_ports(&self.config.bridge, &ports)).await?;
        transaction::outcome(&answer, &self.config.bridge)
    }

    /// What is there decides what is asked, so a state that may be old will not do.
    fn connected(&self) -> Result<Arc<SwitchState>> {
        let state = self.state();
        if state.connected { Ok(state) } else { Err(self.config.disconnected()) }
    }

    async fn transact(&self, operations: Vec<Value>) -> Result<Value> {
        let mut params = vec![Value::from(DATABASE)];
        params.extend(operations);
        let (reply, answer) = oneshot::channel();
        let call = Call { method: "transact", params: Value::from(params), reply };
        let waited = self.config.request_timeout;
        let exchange = async {
            // Either side gone means that the task is between two connections or has ended.
            self.calls.send(call).await.map_err(|_| self.config.disconnected())?;
            answer.await.map_err(|_| self.config.disconnected())?
        };
        time::timeout(waited, exchange).await.map_err(|_| Error::OvsdbSilent { waited })?
    }
}

impl OvsdbConfig {
    fn disconnected(&self) -> Error {
        Error::OvsdbDisconnected { socket: self.socket.clone() }
    }
}

const DATABASE: &str = "Open_vSwitch";

/// A call on its way to the server.
#[derive(Debug)]
struct Call {
    method: &'static str,
    params: Value,
    reply: oneshot::Sender<Result<Value>>,
}

/// Connects again and again until the last handle is gone.
async fn stay_connected(
    config: Arc<OvsdbConfig>,
    publish: watch::Sender<Arc<SwitchState>>,
    mut calls: mpsc::Receiver<Call>,
) {
    let mut pause = SHORTEST_PAUSE;
    loop {
        let was_connected = |state: &watch::Sender<Arc<SwitchState>>| state.borrow().connected;
        let failure = match connection::run(&config, &publish, &mut calls).await {
            Ok(()) => return,
            Err(error) => error,
        };
        pause = if was_connected(&publish) { SHORTEST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        publish.send_modify(|state| {
            let state = Arc::make_mut(state);
            state.connected = false;
            state.failure = Some(failure.explain());
        });
        if refuse_calls(&config, &mut calls, pause).await.is_none() {
            return;
        }
    }
}

/// Waits, and refuses what is asked meanwhile; `None` if nobody will ask any more.
async fn refuse_calls(config: &OvsdbConfig, calls: &mut mpsc::Receiver<Call>, pause: Duration) -> Option<()> {
    let until = time::Instant::now() + pause;
    while let Ok(call) = time::timeout_at(until, calls.recv()).await {
        // Nobody may be waiting for the answer any more.
        let _ = call?.reply.send(Err(config.disconnected()));
    }
    Some(())
}

/// Tells which run of ovs-vswitchd this is; `None` if it is not running.
///
/// By its pidfile; where it runs without one, by the bridge's management socket, which it makes at each start and by
/// which ovn-controller reaches it. After a crash both files are still there, see [`has_crashed`].
async fn switch_start(config: &OvsdbConfig) -> Option<SwitchStart> {
    let pidfile = config.pidfile.as_deref()?;
    if let Ok(text) = tokio::fs::read_to_string(pidfile).await {
        return written_at(pidfile, text.trim().parse().ok()?).await;
    }
    written_at(&management(config, pidfile), UNKNOWN_PROCESS).await
}

/// Whether ovs-vswitchd is gone and left its files behind: its management socket is there and nobody listens. Anything
/// else (no such file, no permission) proves nothing.
async fn has_crashed(config: &OvsdbConfig) -> bool {
    let Some(pidfile) = config.pidfile.as_deref() else { return false };
    let socket = management(config, pidfile);
    let connected = time::timeout(SHORTEST_PAUSE, tokio::net::UnixStream::connect(socket)).await;
    matches!(connected, Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused)
}

fn management(config: &OvsdbConfig, pidfile: &Path) -> PathBuf {
    pidfile.with_file_name(format!("{}.mgmt", config.bridge))
}

async fn written_at(path: &Path, pid: u32) -> Option<SwitchStart> {
    use std::os::unix::fs::MetadataExt;
    const NANOSECONDS: i128 = 1_000_000_000;
    let metadata = tokio::fs::metadata(path).await.ok()?;
    let changed_ns = i128::from(metadata.ctime()) * NANOSECONDS + i128::from(metadata.ctime_nsec());
    Some(SwitchStart { pid, inode: metadata.ino(), changed_ns })
}

/// No process has this id.
const UNKNOWN_PROCESS: u32 = 0;

/// A map column's values.
type StringMap = BTreeMap<String, String>;
