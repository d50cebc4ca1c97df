//! `KuryrNode`: what the controller offers to a node and what the node did with it.
//!
//! Cluster-scoped, named after its Node. `spec` is written by the controller alone, `status` by the agent of
//! that node alone; both are batched. A port belongs to exactly one side at every moment:
//!
//! - in `spec.ports`, not `withdrawn`, and neither in `status.returned` at its generation: the agent's;
//! - in `status.returned` at the generation of its entry, or not in `spec.ports`: the controller's.
//!
//! Within one generation an entry never changes, except that `withdrawn`, `doomed`, `active`, `guarded` and `lost` may be
//! set.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use kube_derive::CustomResource;
use kuryr_types::{
    ClassId, Epoch, Generation, MacAddr, NetworkId, PodIdentity, PortId, SecurityGroupId, SubnetId, TrunkId,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the controller offers to one node.
#[expect(clippy::duplicated_attributes, reason = "columns of the same type")]
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kuryr.openstack.org",
    version = "v1alpha1",
    kind = "KuryrNode",
    plural = "kuryrnodes",
    shortname = "kn",
    status = "KuryrNodeStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "What Kuryr offers to a node and what the node did with it.",
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Host", type_ = "string", json_path = ".spec.host"),
    printcolumn(name = "Trunk", type_ = "string", json_path = ".spec.trunk", priority = 1),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Free", type_ = "integer", json_path = ".status.portsReady"),
    printcolumn(name = "Claimed", type_ = "integer", json_path = ".status.portsClaimed"),
    printcolumn(name = "Problem", type_ = "string", json_path = ".spec.problems[0].reason"),
    crates(
        kube_core = "::kube_core",
        k8s_openapi = "::k8s_openapi",
        schemars = "::schemars",
        serde = "::serde",
        serde_json = "::serde_json"
    )
)]
#[serde(rename_all = "camelCase", default)]
pub struct KuryrNodeSpec {
    /// UID of the Node this record serves; another UID is another node of the same name.
    pub node_uid: String,
    /// Id of the agent's checkpoint that `ports` was offered to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// Epoch of the leader that wrote last. Never decreases.
    pub epoch: Epoch,
    /// How ports reach this node.
    pub mode: Mode,
    /// Host that ports are bound to (`binding:host_id`): what Open vSwitch on the node names itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Trunk of the node, in nested modes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trunk: Option<TrunkId>,
    /// Port of the server that the node is, in mode `nested-macvlan`: pods' addresses are its allowed address pairs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_port: Option<PortId>,
    /// Offered ports by Neutron id.
    pub ports: BTreeMap<PortId, PortEntry>,
    /// The last plug of each port that Neutron has called ACTIVE, where nothing on the node tells that a port works
    /// (`status.plugged`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub wired: BTreeMap<PortId, PlugId>,
    /// The node's own port on the pods' network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own_port: Option<OwnPort>,
    /// Networks that the ports are in, once and not per port.
    pub networks: BTreeMap<NetworkId, NetworkEntry>,
    /// Subnets that the addresses are in.
    pub subnets: BTreeMap<SubnetId, SubnetEntry>,
    /// Classes in use, with what makes them.
    pub classes: BTreeMap<ClassId, ClassEntry>,
    /// Class of pods that ask for nothing of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_class: Option<ClassId>,
    /// What the controller has to say about this node; the agent shows it in its conditions and Events.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// How ports reach a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Ports are bound to the host and plugged on its integration bridge.
    #[default]
    Ovs,
    /// Ports are subports of the node's trunk.
    NestedVlan,
    /// Addresses of pods are allowed address pairs of the node's own port.
    NestedMacvlan,
}

impl Mode {
    /// Every mode, as labels and messages list them.
    pub const ALL: [Self; 3] = [Self::Ovs, Self::NestedVlan, Self::NestedMacvlan];

    /// The word that records, labels and configuration use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ovs => "ovs",
            Self::NestedVlan => "nested-vlan",
            Self::NestedMacvlan => "nested-macvlan",
        }
    }

    /// Whether the node is a server of the cloud, and its pods' frames leave by the server's own interface.
    #[must_use]
    pub const fn is_nested(self) -> bool {
        matches!(self, Self::NestedVlan | Self::NestedMacvlan)
    }
}

/// A port offered to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortEntry {
    /// Marks this offer.
    pub generation: Generation,
    /// What the port is interchangeable with.
    pub class: ClassId,
    /// Hardware address.
    pub mac: MacAddr,
    /// Network of the port.
    pub network: NetworkId,
    /// Addresses, at least one.
    pub addresses: Vec<PortAddress>,
    /// VLAN id on the trunk, in nested modes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The pod this port is meant for; no other pod may take it.
    #[serde(rename = "for", default, skip_serializing_if = "Option::is_none")]
    pub for_pod: Option<PodIdentity>,
    /// The controller wants the port back; the agent must not begin to use it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdrawn: bool,
    /// The port is going to be deleted; nothing undoes this.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub doomed: bool,
    /// Neutron reported the port ACTIVE.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub active: bool,
    /// Neutron filters the port on a bridge of its own before the integration bridge (`ovs_hybrid_plug`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hybrid: bool,
    /// Its only security group, when it was offered, was Kuryr's own, which lets everything in and out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open: bool,
    /// It was seen with other security groups since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub guarded: bool,
    /// Neutron has no such port any more, while a pod has it: somebody deleted it. The pod's next sandbox gets another.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
}

/// Names one plug of a port: the identifier of its row in the switch's database. A port that is plugged anew has
/// another.
pub type PlugId = String;

/// An address of a port and the subnet it is in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct PortAddress {
    /// Subnet, a key of `spec.subnets`.
    pub subnet: SubnetId,
    /// Address.
    #[schemars(with = "String")]
    pub address: IpAddr,
}

/// The node's own port on the pods' network, by which host processes reach pods on other nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OwnPort {
    /// Neutron port.
    pub id: PortId,
    /// Hardware address.
    pub mac: MacAddr,
    /// Network of the port.
    pub network: NetworkId,
    /// Addresses.
    pub addresses: Vec<PortAddress>,
    /// As of [`PortEntry`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hybrid: bool,
}

/// A network of offered ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkEntry {
    /// Name in Neutron.
    pub name: String,
    /// MTU in bytes.
    pub mtu: u32,
}

/// A subnet of offered ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubnetEntry {
    /// Prefix.
    #[schemars(with = "String")]
    pub cidr: IpNet,
    /// Gateway, if the subnet has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub gateway: Option<IpAddr>,
    /// Host routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<SubnetRoute>,
    /// Name servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub nameservers: Vec<IpAddr>,
}

/// A host route of a subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SubnetRoute {
    /// Destination.
    #[schemars(with = "String")]
    pub destination: IpNet,
    /// Next hop.
    #[schemars(with = "String")]
    pub nexthop: IpAddr,
}

/// What makes the ports of a class interchangeable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClassEntry {
    /// Subnets, one address in each.
    pub subnets: Vec<SubnetId>,
    /// Security groups, sorted.
    pub security_groups: Vec<SecurityGroupId>,
}

/// Something that keeps the controller from providing ports, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// A CamelCase word, as conditions and Events use it.
    pub reason: String,
    /// Cause, figures, request id, and what to do.
    pub message: String,
}

/// What the agent of the node did with the offer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct KuryrNodeStatus {
    /// UID of the Node as the agent sees it.
    pub node_uid: String,
    /// The agent's durable record.
    pub checkpoint: CheckpointRef,
    /// Greatest epoch the agent has seen.
    pub epoch_seen: Epoch,
    /// Host that ports are bound to: what Open vSwitch names this host (`external_ids:hostname`), where it has an
    /// integration bridge and a chassis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Interface that carries the node's address, in every mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uplink: Option<NodeUplink>,
    /// Ports in use by pods.
    pub claims: BTreeMap<PortId, ClaimEntry>,
    /// Ports that a pod could take now, with the generation that is ready.
    pub ready: BTreeMap<PortId, Generation>,
    /// Ports given back: the agent will not touch this generation again. Withdrawals that are acknowledged
    /// and ports of pods that are gone.
    pub returned: BTreeMap<PortId, Generation>,
    /// Ports that the Open vSwitch agent of Neutron has taken over as they are plugged now, and that wait for Neutron to
    /// call them ACTIVE: nothing on the node tells that they work.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub plugged: BTreeMap<PortId, PlugId>,
    /// Ports that do not become ready although others do.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub stuck: BTreeMap<PortId, StuckEntry>,
    /// Number of `ready`, for people.
    pub ports_ready: u32,
    /// Number of `claims`, for people.
    pub ports_claimed: u32,
    /// Version of the policies by which claims were last judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_version: Option<String>,
    /// What works less well than it should.
    pub degradation: Degradation,
    /// Conditions, by type.
    pub conditions: Vec<NodeCondition>,
}

/// The interface by which a node is reached, as its agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeUplink {
    /// Name of the interface.
    pub name: String,
    /// Hardware address; the same as that of the Neutron port where the node is a server of the cloud.
    pub mac: MacAddr,
}

/// The agent's durable record: another id is another record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CheckpointRef {
    /// Random id, made when the record was first written.
    pub id: String,
    /// Number of the last durable change; never decreases within an id.
    pub sequence: u64,
}

/// A port in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimEntry {
    /// Offer that was claimed.
    pub generation: Generation,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Identity of the pod.
    pub identity: PodIdentity,
}

/// A port that does not become ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StuckEntry {
    /// Offer that is stuck.
    pub generation: Generation,
    /// Why, as far as the node can tell.
    pub reason: String,
}

/// What works less well than it should; the greatest applies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Degradation {
    /// Everything works.
    #[default]
    None,
    /// The cloud's API does not answer the controller: ready ports serve, no new ones come.
    CloudUnreachable,
    /// The Kubernetes API does not answer the agent: known pods are served.
    KubernetesUnreachable,
    /// No ready port is left: pods wait.
    PoolEmpty,
    /// Nothing can be wired: no bridge, no kernel support.
    CannotWire,
}

/// A condition of the node's networking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeCondition {
    /// Type, unique in the list: `Ready`, `PortsProvided`, `SwitchReady` or `UplinkReady`, `ServicesReady`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// A CamelCase word.
    pub reason: String,
    /// For people: cause, figures, what to do.
    pub message: String,
    /// When `status` last changed, RFC 3339.
    pub last_transition_time: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_written_as_it_is_named() {
        for mode in Mode::ALL {
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.as_str());
        }
    }
}
