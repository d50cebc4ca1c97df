//! Ports, quotas, security groups and floating IPs, as the controller makes, finds, changes and deletes them.

use std::time::Duration;

use kuryr_openstack::neutron::{
    Direction, EtherType, FixedIpRequest, FloatingIpCreate, FloatingIpFilter, OwnedPort, PortCreate,
    PortFilter, PortUpdate, Precondition, RuleSpec,
};
use serde_json::json;
use tokio::time::sleep;

use super::{Ended, FIRST_FREE, LAST_FREE, PORT_QUOTA, Servers, TAG, address};

/// Last bytes of the addresses that ports ask for here; Neutron gives none of them by itself.
pub(super) const CHOSEN: [u8; 4] = [50, 51, 52, 53];
const OWNER: &str = "compute:kuryr";
const MORE: &str = "kuryr-class:contract";
/// OVN tells Neutron of a port after it was made, and Neutron counts that as a change.
const OVN_TELLS_WITHIN: Duration = Duration::from_secs(2);

pub(super) async fn script(servers: &Servers) -> Result<(), Ended> {
    let (bound, unbound) = make_ports(servers).await?;
    find_ports(servers, &bound).await?;
    let unbound = change_ports(servers, &bound, unbound).await?;
    run_out(servers).await?;
    lead_floating_ips(servers, &bound).await?;
    guard(servers, &bound).await?;
    delete_ports(servers, bound, unbound).await
}

/// A port to be, with an address of our choice, or of Neutron's.
fn port(servers: &Servers, name: &str, last: Option<u8>) -> PortCreate {
    let fixed = FixedIpRequest { subnet_id: servers.subnet(), ip_address: last.map(address) };
    PortCreate {
        fixed_ips: vec![fixed],
        device_owner: OWNER.to_owned(),
        device_id: format!("contract-{name}"),
        ..PortCreate::on(servers.network(), format!("contract/{name}"))
    }
}

async fn make_ports(servers: &Servers) -> Result<(OwnedPort, OwnedPort), Ended> {
    let Servers { openstack, owner, recorder, .. } = servers;
    recorder.step("no port has our tag", openstack.owned_ports(&PortFilter::new(owner))).await?;
    let bound = PortCreate {
        host: Some(servers.place.host.clone()),
        tags: vec![MORE.to_owned()],
        ..port(servers, "bound", Some(CHOSEN[0]))
    };
    let unbound = port(servers, "unbound", Some(CHOSEN[1]));
    let both = [bound, unbound];
    let step = "two ports with addresses that were asked for are made by one call";
    let made = recorder.step(step, openstack.create_ports(owner, &both)).await?;
    let [bound, unbound] =
        <[OwnedPort; 2]>::try_from(made).map_err(|made| format!("{} ports", made.len()))?;

    let taken = [port(servers, "taken", Some(CHOSEN[0]))];
    let refused =
        recorder.step("an address that a port has is refused", openstack.create_ports(owner, &taken));
    drop(refused.await);
    let some_taken = [port(servers, "free", Some(CHOSEN[2])), port(servers, "taken", Some(CHOSEN[1]))];
    let refused = openstack.create_ports(owner, &some_taken);
    drop(recorder.step("of a bulk with an address that is taken nothing is made", refused).await);
    let twice = [port(servers, "once", Some(CHOSEN[2])), port(servers, "twice", Some(CHOSEN[2]))];
    let refused = openstack.create_ports(owner, &twice);
    drop(recorder.step("nor of one that asks for an address twice", refused).await);
    let step = "two ports have our tag";
    recorder.step(step, openstack.owned_ports(&PortFilter::new(owner))).await?;
    Ok((bound, unbound))
}

async fn find_ports(servers: &Servers, bound: &OwnedPort) -> Result<(), Ended> {
    let Servers { openstack, owner, recorder, place, .. } = servers;
    let all = || PortFilter::new(owner);
    for (step, filter) in [
        ("found by a further tag", all().tag(MORE)),
        ("none by a tag that none has", all().tag("kuryr-class:none")),
        ("found by device owner", all().device_owner(OWNER)),
        ("none by a device owner that none has", all().device_owner("kuryr:node")),
        ("found by the host it is bound to", all().host(&place.host)),
        ("found by name", all().name("contract/unbound")),
        ("found by network", all().network_id(servers.network())),
        ("found by id", all().ids([bound.id.clone()])),
    ] {
        recorder.step(&format!("ports are {step}"), openstack.owned_ports(&filter)).await?;
    }
    let by_ids = [bound.id.clone(), NOBODY.into()];
    recorder.step("of ids that are not there a list tells nothing", openstack.ports_by_ids(&by_ids)).await?;
    let by_address = [address(CHOSEN[1]), address(CHOSEN[3])];
    recorder.step("a port is found by its address", openstack.ports_with_addresses(&by_address)).await?;
    Ok(())
}

/// The id of nothing.
pub(super) const NOBODY: &str = "00000000-0000-4000-8000-00000000dead";

async fn change_ports(servers: &Servers, bound: &OwnedPort, unbound: OwnedPort) -> Result<OwnedPort, Ended> {
    let Servers { openstack, owner, recorder, place, .. } = servers;
    recorder.step("a tag is added", openstack.tag_port(owner, bound, "contract:added")).await?;
    recorder.step("tags are replaced", openstack.adopt_port(owner, &unbound)).await?;
    // What OVN has to tell of the ports is told by then.
    sleep(OVN_TELLS_WITHIN).await;
    let before = openstack_quietly(servers, &unbound).await?;
    let renamed = PortUpdate { name: Some("contract/renamed".to_owned()), ..PortUpdate::default() };
    let change = openstack.update_port(&before, &renamed, Precondition::Unchanged);
    recorder.step("a port that is as it was read is changed", change).await?;
    let again = openstack.update_port(&before, &renamed, Precondition::Unchanged);
    drop(recorder.step("one that has changed since is not", again).await);

    let update = |host: &str| PortUpdate { host: Some(host.to_owned()), ..PortUpdate::default() };
    for (step, host) in [
        ("a port is unbound", ""),
        ("a port is bound", place.host.as_str()),
        ("a port is bound to a host that nobody knows", "nowhere.invalid"),
        ("a port that could not be bound is bound", place.host.as_str()),
    ] {
        recorder.step(step, openstack.update_port(bound, &update(host), Precondition::None)).await?;
    }
    let given = PortUpdate {
        device_owner: Some("kuryr:node".to_owned()),
        device_id: Some("contract-other".to_owned()),
        admin_state_up: Some(false),
        ..PortUpdate::default()
    };
    let changed = openstack.update_port(&before, &given, Precondition::None);
    Ok(recorder.step("a port is given to somebody else", changed).await?)
}

/// A port as it is now; the look is not recorded.
async fn openstack_quietly(servers: &Servers, port: &OwnedPort) -> Result<OwnedPort, Ended> {
    let _unheard = servers.recorder.unheard();
    Ok(servers.openstack.owned_port(&servers.owner, &port.id).await?)
}

/// Addresses and quota.
async fn run_out(servers: &Servers) -> Result<(), Ended> {
    let Servers { openstack, owner, recorder, .. } = servers;
    let ours = PortFilter::new(owner);
    let count = usize::from(LAST_FREE - FIRST_FREE) + 2;
    let too_many: Vec<_> = (0..count).map(|number| port(servers, &format!("many-{number}"), None)).collect();
    let refused = openstack.create_ports(owner, &too_many);
    drop(recorder.step("more ports than the subnet has addresses are refused", refused).await);
    let quotas = openstack.quotas(owner.project_id());
    let quotas = recorder.step("the quota of ports tells limit and use", quotas).await?;
    let port_quota = quotas.get("port").ok_or("no quota of ports")?;
    recorder.found("limit", &json!(port_quota.limit));
    recorder.found("free is told", &json!(port_quota.free().is_some_and(|free| free < PORT_QUOTA.into())));
    let too_many: Vec<_> =
        (0..=PORT_QUOTA).map(|number| port(servers, &format!("many-{number}"), None)).collect();
    let refused = openstack.create_ports(owner, &too_many);
    drop(recorder.step("more ports than the quota allows are refused", refused).await);
    recorder.step("nothing was made of what was refused", openstack.owned_ports(&ours)).await?;
    Ok(())
}

async fn lead_floating_ips(servers: &Servers, bound: &OwnedPort) -> Result<(), Ended> {
    let Servers { openstack, owner, recorder, place, .. } = servers;
    let project = owner.project_id();
    let create = |port: &str| FloatingIpCreate {
        floating_network_id: place.external_network.as_str().into(),
        subnet_id: None,
        port_id: port.into(),
        description: "kuryr_lb".to_owned(),
        tags: vec![MORE.to_owned()],
    };
    let wanted = create(bound.id.as_str());
    let made = openstack.create_floating_ip(owner, &wanted);
    let made = recorder.step("a floating IP is made for a port and tagged then", made).await?;
    let second = openstack.create_floating_ip(owner, &wanted);
    drop(recorder.step("a second one for the port is refused", second).await);
    let nowhere = create(NOBODY);
    let nowhere = openstack.create_floating_ip(owner, &nowhere);
    drop(recorder.step("one for a port that is not there is refused", nowhere).await);

    let of_port = FloatingIpFilter { port_id: Some(bound.id.clone()), ..FloatingIpFilter::default() };
    let tagged = FloatingIpFilter { tags: vec![TAG.to_owned()], ..FloatingIpFilter::default() };
    let of_address =
        FloatingIpFilter { address: Some(made.floating_ip_address), ..FloatingIpFilter::default() };
    for (step, filter) in [("port", &of_port), ("tag", &tagged), ("address", &of_address)] {
        let found = openstack.floating_ips(project, filter);
        recorder.step(&format!("floating IPs are found by {step}"), found).await?;
    }
    let to_none = openstack.associate_floating_ip(&made.id, None);
    recorder.step("a floating IP is taken off its port", to_none).await?;
    recorder.step("then the port has none", openstack.floating_ips(project, &of_port)).await?;
    let back = openstack.associate_floating_ip(&made.id, Some(&bound.id));
    recorder.step("it is put on a port", back).await?;
    let nowhere = NOBODY.into();
    let refused = openstack.associate_floating_ip(&made.id, Some(&nowhere));
    drop(recorder.step("but on none that is not there", refused).await);
    Ok(())
}

/// Security groups.
async fn guard(servers: &Servers, bound: &OwnedPort) -> Result<(), Ended> {
    let Servers { openstack, owner, recorder, .. } = servers;
    let made = openstack.create_security_group(owner, "contract", "of the contract");
    let group = recorder.step("a security group is made and tagged then", made).await?;
    let rules = [
        RuleSpec::all(Direction::Ingress, EtherType::Ipv4),
        RuleSpec { protocol: Some("tcp".to_owned()), ..RuleSpec::all(Direction::Ingress, EtherType::Ipv6) },
    ];
    let made = openstack.create_security_group_rules(&group, &rules);
    recorder.step("rules are made by one call", made).await?;
    let again = openstack.create_security_group_rules(&group, &rules[..1]);
    drop(recorder.step("a rule that is there is refused", again).await);
    let found = openstack.owned_security_groups(owner, Some("contract"));
    recorder.step("groups are found by tag and name, with their rules", found).await?;
    let found = openstack.owned_security_group(owner, &group.id);
    recorder.step("a group is read", found).await?;
    let update = PortUpdate { security_groups: Some(vec![group.id.clone()]), ..PortUpdate::default() };
    recorder.step("a port gets the group", openstack.update_port(bound, &update, Precondition::None)).await?;
    let used = openstack.delete_security_group(&group);
    drop(recorder.step("a group that a port has is not deleted", used).await);
    let update = PortUpdate { security_groups: Some(vec![]), ..PortUpdate::default() };
    recorder.step("a port has no group", openstack.update_port(bound, &update, Precondition::None)).await?;
    recorder.step("then it is deleted", openstack.delete_security_group(&group)).await?;
    let gone = openstack.owned_security_group(owner, &group.id);
    drop(recorder.step("and not there any more", gone).await);
    Ok(())
}

async fn delete_ports(servers: &Servers, bound: OwnedPort, unbound: OwnedPort) -> Result<(), Ended> {
    let Servers { openstack, owner, recorder, .. } = servers;
    recorder.step("a port with a floating IP is deleted", openstack.delete_port(&bound)).await?;
    let tagged = FloatingIpFilter { tags: vec![TAG.to_owned()], ..FloatingIpFilter::default() };
    let left = openstack.floating_ips(owner.project_id(), &tagged);
    let left = recorder.step("the floating IP stays, and leads to none", left).await?;
    for floating in left {
        let floating = openstack.adopt_floating_ip(owner, floating, &[]);
        let floating = recorder.step("its tags are replaced", floating).await?;
        recorder.step("a floating IP is deleted", openstack.delete_floating_ip(&floating)).await?;
        recorder.step("and again: it is gone", openstack.delete_floating_ip(&floating)).await?;
        let gone = openstack.adopt_floating_ip(owner, (*floating).clone(), &[]);
        drop(recorder.step("and cannot be tagged", gone).await);
        let gone = openstack.associate_floating_ip(&floating.id, None);
        drop(recorder.step("and cannot be changed", gone).await);
    }
    recorder.step("a port that is gone is deleted", openstack.delete_port(&bound)).await?;
    drop(recorder.step("it is not found", openstack.owned_port(owner, &bound.id)).await);
    let update = PortUpdate { name: Some("gone".to_owned()), ..PortUpdate::default() };
    let change = openstack.update_port(&bound, &update, Precondition::Unchanged);
    drop(recorder.step("and not changed", change).await);
    drop(recorder.step("nor tagged", openstack.adopt_port(owner, &bound)).await);
    drop(recorder.step("nor given one tag more", openstack.tag_port(owner, &bound, "contract:late")).await);
    recorder.step("the other port is deleted", openstack.delete_port(&unbound)).await?;
    recorder.step("no port has our tag any more", openstack.owned_ports(&PortFilter::new(owner))).await?;
    Ok(())
}
