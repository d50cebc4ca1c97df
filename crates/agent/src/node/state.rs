//! What the agent knows of its node, as one value that is replaced whole.
//!
//! Whoever claims reads it while holding the ledger, and it is published before the ledger is changed by what it says:
//! so a claim is never made by an offer that the ledger has left behind.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc, time::Duration};

use kuryr_api::kuryrnode::{KuryrNodeSpec, Mode, PlugId, Problem, StuckEntry};
use kuryr_datapath::NodeInterface;
use kuryr_kubernetes::latest::{Receiver, Sender};
use kuryr_planning::{
    claim::{Offer, Own, Ready},
    uplink::shared::mtu_cap,
};
use kuryr_types::PortId;
use tokio::time::Instant;

use crate::service::ServiceHealth;

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
    /// Ports that are plugged and wait for Neutron to call them ACTIVE.
    pub(crate) plugged: BTreeMap<PortId, PlugId>,
    /// Ports that alone do not become ready.
    pub(crate) stuck: BTreeMap<PortId, StuckEntry>,
    /// Whether the node's own port is ready, if it has one.
    pub(crate) own_port_ready: Option<bool>,
    /// Addresses of the local path.
    pub(crate) node_addresses: Vec<IpAddr>,
    /// The interface that carries the node's address, as the kernel has it.
    pub(crate) interface: Option<NodeInterface>,
    /// That interface as the uplink of all pods, in nested modes.
    pub(crate) shared_uplink: SharedUplink,
    /// The switch.
    pub(crate) switch: SwitchHealth,
    /// What the switch names this host.
    pub(crate) host: Option<String>,
    /// Whether the watches are in sync with the API server.
    pub(crate) kubernetes_in_sync: bool,
    /// Whether clients on this node reach Services.
    pub(crate) services: ServiceHealth,
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
    /// The switch does not say what it names this host, or names no chassis.
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
                "Open vSwitch has no external_ids:hostname or no external_ids:system-id, by which ports are bound to this host; is it started by its service? [neutron_defaults] ovs_host names the host, too",
            ),
        }
    }
}

/// Whether the node's interface can be the uplink of its pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum SharedUplink {
    /// Not looked at yet.
    #[default]
    Unknown,
    /// It can, and has this index.
    Adopted(u32),
    /// There is no such interface.
    Missing {
        /// Its name, where it is configured.
        named: Option<String>,
    },
    /// It is down.
    Down {
        /// Its name.
        ifname: String,
    },
    /// A trunk's frames do not arrive at it.
    Unsuitable {
        /// Its name.
        ifname: String,
        /// Its kind.
        kind: String,
    },
    /// The kernel does not make it one.
    Refused {
        /// Its name.
        ifname: String,
        /// Why not.
        why: String,
    },
}

impl SharedUplink {
    /// A word for conditions.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Unknown => "Starting",
            Self::Adopted(_) => "Adopted",
            Self::Missing { .. } => "UplinkMissing",
            Self::Down { .. } => "UplinkDown",
            Self::Unsuitable { .. } => "UplinkUnsuitable",
            Self::Refused { .. } => "UplinkNotUsable",
        }
    }

    /// Its index, if pods can be joined to it.
    pub(crate) fn index(&self) -> Option<u32> {
        match self {
            Self::Adopted(index) => Some(*index),
            _ => None,
        }
    }
}

impl fmt::Display for SharedUplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("the interface that carries pods' frames has not been looked at yet"),
            Self::Adopted(_) => f.write_str("pods are joined to the node's interface"),
            Self::Missing { named: Some(name) } => {
                write!(f, "there is no interface {name}, which [binding] link_iface names")
            }
            Self::Missing { named: None } => f.write_str(
                "no interface carries an address of the Node (status.addresses, InternalIP); set [binding] link_iface to \
                 the name of the interface that carries pods' frames",
            ),
            Self::Down { ifname } => write!(f, "the interface that carries pods' frames, {ifname}, is down; bring it up"),
            Self::Unsuitable { ifname, kind } => write!(
                f,
                "{ifname}, which carries the Node's address, is a {kind} interface, at which a trunk's frames do not arrive; \
                 set [binding] link_iface to the name of the device below it"
            ),
            Self::Refused { ifname, why } => write!(f, "pods cannot be joined to {ifname}: {why}"),
        }
    }
}

impl NodeState {
    /// How ports reach this node; none as long as the controller has not decided it.
    pub(crate) fn mode(&self) -> Option<Mode> {
        self.spec.as_ref().filter(|spec| !spec.node_uid.is_empty()).map(|spec| spec.mode)
    }

    /// Whether what ports need on this node is there: the switch, or the interface that carries pods' frames.
    pub(crate) fn way(&self) -> Way {
        let (uplink, switch) = (&self.shared_uplink, &self.switch);
        match self.mode() {
            Some(Mode::NestedVlan | Mode::NestedMacvlan) => Way {
                known: *uplink != SharedUplink::Unknown,
                good: uplink.index().is_some(),
                reason: uplink.reason().to_owned(),
                message: uplink.to_string(),
            },
            None if *switch != SwitchHealth::Ready => self.undecided(),
            Some(Mode::Ovs) | None => Way {
                known: *switch != SwitchHealth::Unknown,
                good: *switch == SwitchHealth::Ready,
                reason: switch.reason().to_owned(),
                message: switch.to_string(),
            },
        }
    }

    /// Without a switch the node may be a server of the cloud, or a host whose switch is away: that is the controller's
    /// to find out and to tell.
    fn undecided(&self) -> Way {
        let told = self.problems().first();
        Way {
            known: told.is_some(),
            good: false,
            reason: told.map_or_else(|| "ModeNotDecided".to_owned(), |problem| problem.reason.clone()),
            message: told.map_or_else(
                || {
                    "kuryr-controller has not decided yet how ports reach this node; is it running and leading?"
                        .to_owned()
                },
                |problem| problem.message.clone(),
            ),
        }
    }

    /// Upper bound of pods' MTUs in bytes, 0 for none. `configured` likewise.
    pub(crate) fn mtu_cap(&self, configured: u32) -> u32 {
        mtu_cap(self.mode(), self.interface.as_ref().map(|found| found.mtu), configured)
    }

    /// The record, if it is meant for this agent.
    pub(crate) fn offer(&self) -> Option<Offer<'_>> {
        Offer::accept(self.spec.as_deref()?, self.own.as_ref()?)
    }

    /// What the controller has to say.
    pub(crate) fn problems(&self) -> &[Problem] {
        self.spec.as_ref().map_or(&[], |spec| &spec.problems)
    }
}

/// Whether what ports need on this node is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Way {
    /// It has been looked at.
    pub(crate) known: bool,
    /// It is there.
    pub(crate) good: bool,
    /// A word for conditions.
    pub(crate) reason: String,
    /// A sentence for people.
    pub(crate) message: String,
}

impl Way {
    /// Whether it is known not to be there.
    pub(crate) fn is_missing(&self) -> bool {
        self.known && !self.good
    }
}

/// The state, to be replaced by one and watched by many; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct State {
    value: Arc<Sender<NodeState>>,
    started: Instant,
}

impl State {
    /// A state of which nothing is known.
    pub(crate) fn new() -> Self {
        Self { value: Arc::new(Sender::new(Arc::default())), started: Instant::now() }
    }

    /// The state now.
    pub(crate) fn get(&self) -> Arc<NodeState> {
        self.value.borrow()
    }

    /// Watches changes.
    pub(crate) fn watch(&self) -> Receiver<NodeState> {
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
