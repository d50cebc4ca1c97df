//! What the agent knows of its node, as one value that is replaced whole.
//!
//! Whoever claims reads it while holding the ledger, and it is published before the ledger is changed by what it says:
//! so a claim is never made by an offer that the ledger has left behind.

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use kuryr_api::kuryrnode::{KuryrNodeSpec, Problem, StuckEntry};
use kuryr_planning::claim::{Offer, Own, Ready};
use kuryr_types::PortId;
use tokio::sync::watch;

/// What is known now.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct NodeState {
    /// Who this agent is; none until its checkpoint has been judged.
    pub(crate) own: Option<Own>,
    /// Whether claims have been compared with the kernel.
    pub(crate) surveyed: bool,
    /// The controller's record; none while it is not known or does not exist.
    pub(crate) spec: Option<Arc<KuryrNodeSpec>>,
    /// Ports that are ready on the switch and have an uplink, claimed ones included.
    pub(crate) ready: BTreeMap<PortId, Ready>,
    /// Index of each port's uplink.
    pub(crate) uplinks: BTreeMap<PortId, u32>,
    /// Ports that alone do not become ready.
    pub(crate) stuck: BTreeMap<PortId, StuckEntry>,
    /// Whether the node's own port is ready, if it has one.
    pub(crate) own_port_ready: Option<bool>,
    /// Addresses of the local path.
    pub(crate) node_addresses: Vec<IpAddr>,
    /// The switch.
    pub(crate) switch: SwitchHealth,
    /// What the switch names this host.
    pub(crate) host: Option<String>,
    /// Whether the watches are in sync with the API server.
    pub(crate) kubernetes_in_sync: bool,
}

/// Whether ports can be plugged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum SwitchHealth {
    /// Not looked at yet.
    #[default]
    Unknown,
    /// They can.
    Ready,
    /// The database does not answer.
    NotConnected {
        /// Its socket.
        socket: String,
        /// Why not.
        why: String,
    },
    /// There is no integration bridge.
    BridgeMissing {
        /// Its name.
        bridge: String,
    },
    /// The database is there, the switch is not.
    NotRunning,
    /// The switch does not say what it names this host.
    NoHostname,
}

impl SwitchHealth {
    /// A word for conditions.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Unknown => "Starting",
            Self::Ready => "Connected",
            Self::NotConnected { .. } => "DatabaseUnreachable",
            Self::BridgeMissing { .. } => "BridgeMissing",
            Self::NotRunning => "SwitchNotRunning",
            Self::NoHostname => "HostnameMissing",
        }
    }
}

impl fmt::Display for SwitchHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("Open vSwitch has not been looked at yet"),
            Self::Ready => f.write_str("Open vSwitch is connected"),
            Self::NotConnected { socket, why } => {
                write!(f, "Open vSwitch's database {socket} does not answer ({why}); is ovsdb-server running?")
            }
            Self::BridgeMissing { bridge } => write!(
                f,
                "there is no bridge {bridge}; ovn-controller or neutron-openvswitch-agent makes it: is one running?"
            ),
            Self::NotRunning => f.write_str("ovs-vswitchd does not run; start it"),
            Self::NoHostname => f.write_str(
                "Open vSwitch has no external_ids:hostname, by which ports are bound to this host; is it started by its service?",
            ),
        }
    }
}

impl NodeState {
    /// The record, if it is meant for this agent.
    pub(crate) fn offer(&self) -> Option<Offer<'_>> {
        Offer::accept(self.spec.as_deref()?, self.own.as_ref()?)
    }

    /// What the controller has to say.
    pub(crate) fn problems(&self) -> &[Problem] {
        self.spec.as_ref().map_or(&[], |spec| &spec.problems)
    }
}

/// The state, to be replaced by one and watched by many; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct State {
    value: Arc<watch::Sender<Arc<NodeState>>>,
    started: Instant,
}

impl State {
    /// A state of which nothing is known.
    pub(crate) fn new() -> Self {
        Self { value: Arc::new(watch::Sender::new(Arc::default())), started: Instant::now() }
    }

    /// The state now.
    pub(crate) fn get(&self) -> Arc<NodeState> {
        Arc::clone(&self.value.borrow())
    }

    /// Watches changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<NodeState>> {
        self.value.subscribe()
    }

    /// Changes the state, and tells if that makes a difference.
    pub(crate) fn update(&self, change: impl FnOnce(&mut NodeState)) {
        self.value.send_if_modified(|state| {
            let mut new = NodeState::clone(state);
            change(&mut new);
            let differs = new != **state;
            if differs {
                *state = Arc::new(new);
            }
            differs
        });
    }

    /// Time since the agent started, as planning wants it.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }
}
