//! Upstream's VIF objects as `KuryrPort.status.vifs` carries them.
//!
//! Each is the primitive form of an oslo versioned object: name, namespace `os_vif`, version, data. Only set
//! fields are written; lists of objects are objects themselves (`{"objects": [...]}`). Versions are exactly
//! those that old daemons know.
//!
//! Sources: os-vif 5.3 `os_vif/objects`, Kuryr-Kubernetes 10.0 `os_vif_util.py`.

use std::net::IpAddr;

use ipnet::IpNet;
use kuryr_types::{MacAddr, NetworkId, PortId};
use serde_json::{Map, Value, json};

use crate::names;

/// Version of the port profile that every os-vif since 1.0 reads; only `interface_id` is used.
const PORT_PROFILE_VERSION: &str = "1.0";

/// How a pod's interface is told to old daemons and tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vif {
    /// In mode `ovs`.
    OpenVSwitch(OpenVSwitchVif),
    /// In mode `ovs`, with a bridge before the integration bridge.
    Bridge(BridgeVif),
    /// In mode `nested-vlan`.
    VlanNested(VlanNestedVif),
    /// In mode `nested-macvlan`.
    MacvlanNested(MacvlanNestedVif),
}

impl Vif {
    /// The primitive form, as it stands under `vif` in a `KuryrPort`.
    #[must_use]
    pub fn to_primitive(&self) -> Value {
        match self {
            Self::OpenVSwitch(vif) => vif.to_primitive(),
            Self::Bridge(vif) => vif.to_primitive(),
            Self::VlanNested(vif) => vif.to_primitive(),
            Self::MacvlanNested(vif) => vif.to_primitive(),
        }
    }

    /// The network of the port.
    #[must_use]
    pub const fn network(&self) -> &VifNetwork {
        match self {
            Self::OpenVSwitch(vif) => &vif.network,
            Self::Bridge(vif) => &vif.network,
            Self::VlanNested(vif) => &vif.network,
            Self::MacvlanNested(vif) => &vif.network,
        }
    }
}

/// A port plugged on the integration bridge (`VIFOpenVSwitch`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenVSwitchVif {
    /// Neutron port.
    pub port: PortId,
    /// Hardware address.
    pub mac: MacAddr,
    /// Integration bridge.
    pub bridge: String,
    /// Whether Neutron reported the port ACTIVE.
    pub active: bool,
    /// Whether the cloud filters by security groups (`binding:vif_details.port_filter`).
    pub has_traffic_filtering: bool,
    /// Network of the port.
    pub network: VifNetwork,
}

/// A port with a bridge of its own before the integration bridge (`VIFBridge`), where Neutron's agent filters
/// (`binding:vif_details.ovs_hybrid_plug`). That bridge is named after the port, as Nova names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeVif {
    /// Neutron port.
    pub port: PortId,
    /// Hardware address.
    pub mac: MacAddr,
    /// Integration bridge.
    pub bridge: String,
    /// Whether Neutron reported the port ACTIVE.
    pub active: bool,
    /// Whether the cloud filters by security groups (`binding:vif_details.port_filter`).
    pub has_traffic_filtering: bool,
    /// Network of the port.
    pub network: VifNetwork,
}

/// A subport of the node's trunk (`VIFVlanNested`, which upstream adds to the objects of os-vif). Which interface
/// of the node carries the trunk it does not say: daemons find that out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VlanNestedVif {
    /// Neutron port.
    pub port: PortId,
    /// Hardware address.
    pub mac: MacAddr,
    /// VLAN id on the trunk.
    pub vlan_id: u16,
    /// Whether Neutron reported the port ACTIVE.
    pub active: bool,
    /// Network of the port.
    pub network: VifNetwork,
}

/// A port whose addresses are allowed address pairs of the node's own port (`VIFMacvlanNested`, which upstream adds to
/// the objects of os-vif).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MacvlanNestedVif {
    /// Neutron port.
    pub port: PortId,
    /// Hardware address.
    pub mac: MacAddr,
    /// Whether its addresses are allowed: upstream always says so.
    pub active: bool,
    /// Network of the port.
    pub network: VifNetwork,
}

/// The network of a VIF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VifNetwork {
    /// Neutron network.
    pub id: NetworkId,
    /// Its name.
    pub label: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Subnets in which the port has addresses.
    pub subnets: Vec<VifSubnet>,
}

/// A subnet with the port's addresses in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VifSubnet {
    /// Prefix.
    pub cidr: IpNet,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Gateway, if the subnet has one.
    pub gateway: Option<IpAddr>,
    /// The port's addresses.
    pub addresses: Vec<IpAddr>,
    /// Host routes: destination and next hop.
    pub routes: Vec<(IpNet, IpAddr)>,
}

impl OpenVSwitchVif {
    /// The primitive form, as it stands under `vif` in a `KuryrPort`.
    #[must_use]
    pub fn to_primitive(&self) -> Value {
        let network = self.network.to_primitive(Some(&self.bridge));
        let (active, filtering) = (self.active, self.has_traffic_filtering);
        let data = plugged(&self.port, self.mac, &self.bridge, network, active, filtering);
        versioned("VIFOpenVSwitch", "1.0", data)
    }
}

impl BridgeVif {
    /// The primitive form, as it stands under `vif` in a `KuryrPort`.
    #[must_use]
    pub fn to_primitive(&self) -> Value {
        let network = self.network.to_primitive(Some(&self.bridge));
        let own_bridge = names::hybrid_bridge_name(self.port.as_str());
        let (active, filtering) = (self.active, self.has_traffic_filtering);
        let data = plugged(&self.port, self.mac, &own_bridge, network, active, filtering);
        versioned("VIFBridge", "1.0", data)
    }
}

/// What both kinds of a port of Open vSwitch say; `bridge` is what the port's tap is in.
fn plugged(
    port: &PortId,
    mac: MacAddr,
    bridge: &str,
    network: Value,
    active: bool,
    filtering: bool,
) -> Value {
    let profile = versioned(
        "VIFPortProfileOpenVSwitch",
        PORT_PROFILE_VERSION,
        json!({ "interface_id": port.as_str() }),
    );
    json!({
        "vif_name": names::tap_name(port.as_str()),
        "bridge_name": bridge,
        "id": port.as_str(),
        "address": mac,
        "network": network,
        "plugin": "ovs",
        "active": active,
        "preserve_on_delete": false,
        "has_traffic_filtering": filtering,
        "port_profile": profile,
    })
}

impl VlanNestedVif {
    /// The primitive form, as it stands under `vif` in a `KuryrPort`.
    #[must_use]
    pub fn to_primitive(&self) -> Value {
        versioned(
            "VIFVlanNested",
            "1.0",
            json!({
                "vif_name": names::tap_name(self.port.as_str()),
                "vlan_id": self.vlan_id,
                "id": self.port.as_str(),
                "address": self.mac,
                "network": self.network.to_primitive(None),
                "plugin": "noop",
                "active": self.active,
                "preserve_on_delete": false,
                "has_traffic_filtering": false,
            }),
        )
    }
}

impl MacvlanNestedVif {
    /// The primitive form, as it stands under `vif` in a `KuryrPort`.
    #[must_use]
    pub fn to_primitive(&self) -> Value {
        versioned(
            "VIFMacvlanNested",
            "1.0",
            json!({
                "vif_name": names::tap_name(self.port.as_str()),
                "id": self.port.as_str(),
                "address": self.mac,
                "network": self.network.to_primitive(None),
                "plugin": "noop",
                "active": self.active,
                "preserve_on_delete": false,
                "has_traffic_filtering": false,
            }),
        )
    }
}

impl VifNetwork {
    fn to_primitive(&self, bridge: Option<&str>) -> Value {
        let mut data = json!({
            "id": self.id.as_str(),
            "label": self.label,
            "subnets": list("SubnetList", self.subnets.iter().map(VifSubnet::to_primitive)),
            "multi_host": false,
            "should_provide_bridge": false,
            "should_provide_vlan": false,
            "mtu": self.mtu,
        });
        if let Some(bridge) = bridge {
            data["bridge"] = json!(bridge);
        }
        versioned("Network", "1.1", data)
    }
}

impl VifSubnet {
    fn to_primitive(&self) -> Value {
        let ips = self.addresses.iter().map(|ip| versioned("FixedIP", "1.0", json!({ "address": ip })));
        let routes = self.routes.iter().map(|(destination, nexthop)| {
            versioned("Route", "1.0", json!({ "cidr": destination, "gateway": nexthop }))
        });
        let mut data = json!({
            "cidr": self.cidr,
            "dns": self.dns,
            "ips": list("FixedIPList", ips),
            "routes": list("RouteList", routes),
        });
        if let Some(gateway) = self.gateway {
            data["gateway"] = json!(gateway);
        }
        versioned("Subnet", "1.0", data)
    }
}

/// `status.vifs` of a pod with one interface. The first interface is always called `eth0` there.
#[must_use]
pub fn primary_vifs(vif: &Value) -> Map<String, Value> {
    let entry = json!({ "default": true, "vif": vif });
    Map::from_iter([(names::PRIMARY_INTERFACE.to_owned(), entry)])
}

fn list(name: &str, objects: impl Iterator<Item = Value>) -> Value {
    versioned(name, "1.0", json!({ "objects": objects.collect::<Vec<_>>() }))
}

fn versioned(name: &str, version: &str, data: Value) -> Value {
    json!({
        "versioned_object.name": name,
        "versioned_object.namespace": "os_vif",
        "versioned_object.version": version,
        "versioned_object.data": data,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What is different from upstream's newest: the version of the port profile, which daemons with an older os-vif have to
    /// know, too. Of its fields only the port's id is used, which all versions have.
    pub(crate) fn with_older_profile(vif: &mut Value) {
        let version = vif.pointer_mut("/versioned_object.data/port_profile/versioned_object.version");
        if let Some(version) = version {
            assert_eq!(*version, "1.4");
            *version = json!("1.0");
        }
    }

    fn check(golden: &str, vif: &Vif) {
        let mut expect: Value = serde_json::from_str(golden).unwrap();
        with_older_profile(&mut expect);
        assert_eq!(vif.to_primitive(), expect);
        // As it is sent, too: numbers are numbers and addresses text.
        assert_eq!(vif.to_primitive().to_string(), expect.to_string());
    }

    fn network(subnet: VifSubnet) -> VifNetwork {
        VifNetwork {
            id: "0b6f8f1a-5c2d-4a77-8a0e-6a4de1c9b301".into(),
            label: "5f1f4e3d-2c1b-4a09-8877-665544332211/team-a".into(),
            mtu: 1442,
            subnets: vec![subnet],
        }
    }

    /// A port in this subnet, plugged on `br-int`.
    pub(crate) fn plugged(subnet: VifSubnet) -> Vif {
        Vif::OpenVSwitch(OpenVSwitchVif {
            port: "c4e1a7d2-90b3-4f6c-8d15-3b2a1f0e9d8c".into(),
            mac: "fa:16:3e:4b:9c:07".parse().unwrap(),
            bridge: "br-int".into(),
            active: true,
            has_traffic_filtering: true,
            network: network(subnet),
        })
    }

    fn not_active_yet(subnet: VifSubnet) -> Vif {
        let Vif::OpenVSwitch(vif) = plugged(subnet) else { panic!() };
        Vif::OpenVSwitch(OpenVSwitchVif { active: false, ..vif })
    }

    fn behind_a_bridge(subnet: VifSubnet) -> Vif {
        let Vif::OpenVSwitch(OpenVSwitchVif { port, mac, bridge, active, has_traffic_filtering, network }) =
            plugged(subnet)
        else {
            panic!()
        };
        Vif::Bridge(BridgeVif { port, mac, bridge, active, has_traffic_filtering, network })
    }

    fn on_a_trunk(subnet: VifSubnet) -> Vif {
        Vif::VlanNested(VlanNestedVif {
            port: "c4e1a7d2-90b3-4f6c-8d15-3b2a1f0e9d8c".into(),
            mac: "fa:16:3e:4b:9c:07".parse().unwrap(),
            vlan_id: 1187,
            active: true,
            network: network(subnet),
        })
    }

    fn on_a_servers_port(subnet: VifSubnet) -> Vif {
        Vif::MacvlanNested(MacvlanNestedVif {
            port: "c4e1a7d2-90b3-4f6c-8d15-3b2a1f0e9d8c".into(),
            mac: "fa:16:3e:4b:9c:07".parse().unwrap(),
            active: true,
            network: network(subnet),
        })
    }

    /// A subnet with a host route.
    pub(crate) fn four() -> VifSubnet {
        VifSubnet {
            cidr: "10.128.6.0/26".parse().unwrap(),
            dns: vec!["10.0.0.3".parse().unwrap()],
            gateway: "10.128.6.1".parse().ok(),
            addresses: vec!["10.128.6.23".parse().unwrap()],
            routes: vec![("169.254.169.254/32".parse().unwrap(), "10.128.6.2".parse().unwrap())],
        }
    }

    #[test]
    fn equals_upstream_in_each_mode_and_family() {
        let subnet = four();
        check(include_str!("../golden/vif-openvswitch-ipv4.json"), &plugged(subnet.clone()));
        check(include_str!("../golden/vif-openvswitch-inactive.json"), &not_active_yet(subnet.clone()));
        check(include_str!("../golden/vif-bridge.json"), &behind_a_bridge(subnet.clone()));
        check(include_str!("../golden/vif-vlan-nested.json"), &on_a_trunk(subnet.clone()));
        check(include_str!("../golden/vif-macvlan-nested.json"), &on_a_servers_port(subnet));
        let subnet = VifSubnet {
            cidr: "fd10:0:0:1::/64".parse().unwrap(),
            dns: vec!["fd10::3".parse().unwrap()],
            gateway: "fd10:0:0:1::1".parse().ok(),
            addresses: vec!["fd10:0:0:1::17".parse().unwrap()],
            routes: vec![],
        };
        check(include_str!("../golden/vif-openvswitch-ipv6.json"), &plugged(subnet));
    }
}
