//! What others are told of an attachment: the CNI result for the runtime, upstream's VIF for `KuryrPort`.

use kuryr_api::{
    cni::{
        Attachment,
        result::{AttachedAddress, AttachedRoute},
    },
    kuryrnode::{KuryrNodeSpec, Mode, PortEntry},
    vif::{BridgeVif, MacvlanNestedVif, OpenVSwitchVif, Vif, VifNetwork, VifSubnet, VlanNestedVif},
};
use kuryr_types::PortId;

use super::links::{Incomplete, Links};

/// The result of ADD for `ifname` in the namespace at `netns`.
#[must_use]
pub fn attachment(links: &Links, ifname: &str, netns: &str, host_ifname: Option<&str>) -> Attachment {
    let address =
        |address: &super::Address| AttachedAddress { address: address.address, gateway: address.gateway };
    let route = |route: &super::Route| AttachedRoute { dst: route.dst, gw: route.via };
    Attachment {
        ifname: ifname.to_owned(),
        mac: links.mac,
        mtu: links.mtu,
        sandbox: netns.to_owned(),
        host_ifname: host_ifname.map(str::to_owned),
        addresses: links.addresses.iter().map(address).collect(),
        routes: links.routes.iter().map(route).collect(),
        nameservers: links.nameservers.clone(),
    }
}

/// Upstream's object for a port: a subport if it has a VLAN id, else by the node's mode a pair of the node's port or
/// plugged on the integration bridge `bridge`, directly or by a bridge of its own.
///
/// A pod that has its network is told as active, whether the controller has seen the port ACTIVE meanwhile or not:
/// old daemons take `false` for "keep waiting".
///
/// # Errors
///
/// The record names a network or subnet that it does not describe.
pub fn vif(
    port: &PortId,
    entry: &PortEntry,
    spec: &KuryrNodeSpec,
    bridge: &str,
    mtu_cap: u32,
) -> Result<Vif, Incomplete> {
    let links = Links::of(entry, spec, mtu_cap)?;
    let label = spec.networks.get(&entry.network).map(|network| network.name.clone());
    let network = VifNetwork {
        id: entry.network.clone(),
        label: label.unwrap_or_default(),
        mtu: links.mtu,
        subnets: subnets(entry, spec)?,
    };
    let (port, mac, active) = (port.clone(), entry.mac, true);
    Ok(match entry.vlan {
        Some(vlan_id) => Vif::VlanNested(VlanNestedVif { port, mac, vlan_id, active, network }),
        None if spec.mode == Mode::NestedMacvlan => {
            Vif::MacvlanNested(MacvlanNestedVif { port, mac, active, network })
        }
        None => {
            let (bridge, has_traffic_filtering) = (bridge.to_owned(), true);
            match entry.hybrid {
                true => Vif::Bridge(BridgeVif { port, mac, bridge, active, has_traffic_filtering, network }),
                false => Vif::OpenVSwitch(OpenVSwitchVif {
                    port,
                    mac,
                    bridge,
                    active,
                    has_traffic_filtering,
                    network,
                }),
            }
        }
    })
}

/// Each subnet once, with all of the port's addresses in it.
fn subnets(entry: &PortEntry, spec: &KuryrNodeSpec) -> Result<Vec<VifSubnet>, Incomplete> {
    let mut told: Vec<(&kuryr_types::SubnetId, VifSubnet)> = Vec::new();
    for address in &entry.addresses {
        if let Some((_, known)) = told.iter_mut().find(|(id, _)| *id == &address.subnet) {
            known.addresses.push(address.address);
            continue;
        }
        let subnet =
            spec.subnets.get(&address.subnet).ok_or_else(|| Incomplete::Subnet(address.subnet.clone()))?;
        let one = VifSubnet {
            cidr: subnet.cidr,
            dns: subnet.nameservers.clone(),
            gateway: subnet.gateway,
            addresses: vec![address.address],
            routes: subnet.routes.iter().map(|route| (route.destination, route.nexthop)).collect(),
        };
        told.push((&address.subnet, one));
    }
    Ok(told.into_iter().map(|(_, subnet)| subnet).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attachment::links::tests::{entry, spec};
    use kuryr_api::cni::Version;

    #[test]
    fn the_runtime_and_old_tools_are_told_the_same() {
        let entry = entry(&[("four", "10.128.6.23"), ("six", "fd10::17")]);
        let links = Links::of(&entry, &spec(), 0).unwrap();
        let result =
            attachment(&links, "eth0", "/run/netns/x", Some("krpc4e1a7d2-90")).to_result(Version::V1_0_0);
        assert_eq!(result["ips"][0]["address"], "10.128.6.23/26");
        assert_eq!(result["routes"].as_array().unwrap().len(), 3);

        let vif = vif(&"c4e1a7d2-90b3".into(), &entry, &spec(), "br-int", 0).unwrap();
        let network = vif.network();
        assert_eq!((network.label.as_str(), network.mtu), ("pods", 1442));
        assert_eq!(network.subnets.len(), 2);
        assert_eq!(network.subnets[1].addresses, vec!["fd10::17".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!(network.subnets[0].routes.len(), 2);
        assert!(matches!(vif, Vif::OpenVSwitch(_)));

        let macvlan = KuryrNodeSpec { mode: Mode::NestedMacvlan, ..spec() };
        let paired = super::vif(&"c4e1a7d2-90b3".into(), &entry, &macvlan, "br-int", 0).unwrap();
        assert!(matches!(paired, Vif::MacvlanNested(MacvlanNestedVif { active: true, .. })));
        let hybrid = PortEntry { hybrid: true, ..entry.clone() };
        let bridged = super::vif(&"p".into(), &hybrid, &spec(), "br-int", 0).unwrap();
        assert!(matches!(bridged, Vif::Bridge(BridgeVif { bridge, .. }) if bridge == "br-int"));
        let subport = PortEntry { vlan: Some(1187), ..entry };
        let vif = super::vif(&"p".into(), &subport, &spec(), "br-int", 0).unwrap();
        assert!(matches!(vif, Vif::VlanNested(VlanNestedVif { vlan_id: 1187, .. })));
    }

    #[test]
    fn two_addresses_in_one_subnet_share_it() {
        let entry = entry(&[("four", "10.128.6.23"), ("four", "10.128.6.24")]);
        let vif = vif(&"p".into(), &entry, &spec(), "br-int", 0).unwrap();
        assert_eq!(vif.network().subnets.len(), 1);
        assert_eq!(vif.network().subnets[0].addresses.len(), 2);
    }
}
