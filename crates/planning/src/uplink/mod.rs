//! Offered ports and the state of the switch in, what to plug and what is ready out.
//!
//! Terms: an *uplink* is the veth pair by which a port reaches the integration bridge: its *tap* end is plugged there,
//! its other end waits in the node for a pod. A *row* is the tap's record in the switch's database. A port is
//! *ready* when its flows are in place for **this** plug: ovn-controller says so on the row, or, where Neutron's own
//! agent drives the switch, Neutron calls the port ACTIVE.
//!
//! Rules:
//! - Readiness holds for one row and one start of ovs-vswitchd. The flag `ovn-installed` outlives a restart of the
//!   switch in the database, so that of a row that was plugged under another start proves nothing: the port is plugged anew, unless a
//!   pod talks over it, and earns its readiness again. Each port is plugged anew at most once per start. Of a row that does not tell
//!   under which start it was plugged (by older agents, by upstream's) the time of the flag counts, by a clock that may have jumped.
//! - Where only Neutron tells: a row that its agent has dealt with is *plugged*, which is reported. The controller looks
//!   at the port after that, and names the row in the record (`wired`) when it sees the port ACTIVE. Only then is the port
//!   ready. ACTIVE of an earlier plug does not count: the agent had Neutron call the port BUILD before it dealt with
//!   this row. A port that a pod talks over does not wait for Neutron.
//! - A switch that is not connected makes nothing ready.
//! - What is on the switch is removed only if this agent plugged it (its ports are known durably) and the record wants
//!   it no more: the entry is gone or doomed, and no pod claims it.
//! - A port that alone does not become ready is *stuck*: another one became ready since it was plugged, and 30 s have
//!   passed. If none does, the fault may be the node's: where others are ready one port in five minutes is replaced, otherwise none.
//! - A port of which an interface is down and cannot be brought up is not ready, and its row stays as it is. It is stuck when
//!   that has lasted for 30 s and another one is ready.
//!
//! Order of steps: unplug, prepare links, plug (each one transaction for all), remove links.
//!
//! Sources: OVN `ovn-controller(8)` (`ovn-installed`, `ovn-installed-ts`), Open vSwitch database schema (`Interface`).

// The switch and the links as found.
pub mod found;
// What the agent remembers between two looks.
pub mod memory;
// Found and offered -> steps, ready, stuck.
pub mod plan;
// The same for a node whose own interface is the uplink of all its pods.
pub mod shared;
// The same for a node whose own interface carries the frames of all its pods, without VLANs.
pub mod macvlan;
// Ready ports and claims -> of what the network is told.
pub mod announced;
// Routes -> ways of packets that were translated for clients outside.
pub mod ways;

pub use found::{Row, Sign, Switch};
pub use memory::Memory;
pub use plan::{Inputs, Plan, Plug, Step, plan};

#[cfg(test)]
mod properties;
