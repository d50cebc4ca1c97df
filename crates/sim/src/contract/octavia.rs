//! Load balancers of provider ovn, as the controller makes, finds, changes and deletes them.
//!
//! A change takes a while, and provider ovn calls a load balancer ACTIVE before all below it is: each look that is recorded
//! comes after everything is done.

use kuryr_openstack::{
    neutron::{FloatingIpCreate, FloatingIpFilter, PortFilter},
    octavia::{
        health_monitor::{HealthMonitorCreate, HealthMonitorUpdate},
        listener::{ListenerCreate, ListenerUpdate},
        load_balancer::{LoadBalancerCreate, OwnedLoadBalancer, ProvisioningStatus},
        member::MemberCreate,
        pool::{LbPool, PoolCreate, PoolUpdate, SessionPersistence},
    },
};
use kuryr_types::LoadBalancerId;
use serde_json::json;

use super::{Ended, Servers, TAG, address, neutron::NOBODY};

/// Last bytes of the addresses that members have here, and the load balancer.
pub(super) const CHOSEN: [u8; 4] = [FIRST, SECOND, THIRD, VIP];
const FIRST: u8 = 60;
const SECOND: u8 = 61;
const THIRD: u8 = 62;
const VIP: u8 = 70;
const NAME: &str = "d/contract";
const ALGORITHM: &str = "SOURCE_IP_PORT";

pub(super) async fn script(servers: &Servers) -> Result<(), Ended> {
    let Servers { openstack, owner, recorder, .. } = servers;
    recorder.step("no load balancer has our tag", openstack.load_balancers(owner, None)).await?;
    let balancer = make(servers).await?;
    look(servers, &balancer, "whole").await?;
    refuse(servers, &balancer).await?;
    change_members(servers, &balancer).await?;
    change_parts(servers, &balancer).await?;
    delete(servers, &balancer).await
}

fn member(last: u8, port: u16) -> MemberCreate {
    MemberCreate {
        name: format!("d/p-{last}"),
        address: address(last),
        protocol_port: port,
        subnet_id: None,
        tags: vec![],
    }
}

fn pool(name: &str, protocol: &str) -> PoolCreate {
    PoolCreate::new(format!("{NAME}:{name}"), protocol, ALGORITHM)
}

fn wanted(servers: &Servers, last: u8) -> LoadBalancerCreate {
    let both = |port| vec![member(FIRST, port), member(SECOND, port)];
    let http = ListenerCreate::new(format!("{NAME}:TCP:80"), "TCP", 80);
    let dns = ListenerCreate::new(format!("{NAME}:UDP:53"), "UDP", 53);
    LoadBalancerCreate {
        name: NAME.to_owned(),
        vip_subnet_id: servers.subnet(),
        vip_address: Some(address(last)),
        vip_port_id: None,
        additional_vips: vec![],
        provider: "ovn".to_owned(),
        flavor_id: None,
        availability_zone: None,
        listeners: vec![
            http.with_pool(pool("TCP:80", "TCP").with_members(both(8080))),
            dns.with_pool(pool("UDP:53", "UDP").with_members(both(5353))),
        ],
    }
}

async fn make(servers: &Servers) -> Result<OwnedLoadBalancer, Ended> {
    let Servers { openstack, owner, recorder, .. } = servers;
    let whole = wanted(servers, VIP);
    let made = openstack.create_load_balancer(owner, &whole);
    let made = recorder.step("a load balancer is made whole by one call", made).await?;
    let early = ListenerCreate::new(format!("{NAME}:TCP:81"), "TCP", 81);
    let refused = openstack.create_listener(&made, &early);
    drop(recorder.step("while it is being made nothing can be put on it", refused).await);
    let refused = openstack.delete_load_balancer(&made);
    drop(recorder.step("nor is it deleted", refused).await);
    done(servers, &made).await?;
    Ok(made)
}

/// Waits until nothing of a load balancer is under way.
async fn done(servers: &Servers, balancer: &OwnedLoadBalancer) -> Result<(), Ended> {
    let Servers { openstack, .. } = servers;
    done_but_listeners(servers, balancer).await?;
    let are_active = async || {
        let listeners = openstack.listeners(balancer).await?;
        Ok(listeners.iter().all(|listener| is_active(listener.provisioning_status.as_ref())))
    };
    servers.until("the listeners are ACTIVE", are_active).await
}

/// The same, whatever its listeners say: after a change of a health monitor provider ovn leaves one `PENDING_UPDATE`.
async fn done_but_listeners(servers: &Servers, balancer: &OwnedLoadBalancer) -> Result<(), Ended> {
    let Servers { openstack, owner, .. } = servers;
    servers
        .until("the load balancer and all below it are ACTIVE", async || {
            let Some(found) = openstack.load_balancer(owner, &balancer.id).await? else { return Ok(false) };
            let mut is_done = found.provisioning_status == ProvisioningStatus::Active;
            for pool in openstack.lb_pools(balancer).await? {
                is_done &= is_active(pool.provisioning_status.as_ref());
                let members = openstack.members(&pool.id).await?;
                is_done &= members.iter().all(|member| settled(member.provisioning_status.as_ref()));
            }
            Ok(is_done)
        })
        .await
}

fn is_active(status: Option<&ProvisioningStatus>) -> bool {
    status.is_none_or(|status| *status == ProvisioningStatus::Active)
}

/// Members without a health monitor may say that they have none.
fn settled(status: Option<&ProvisioningStatus>) -> bool {
    use ProvisioningStatus::{PendingCreate, PendingDelete, PendingUpdate};
    !matches!(status, Some(PendingCreate | PendingUpdate | PendingDelete))
}

/// Everything that there is to see of a load balancer.
async fn look(servers: &Servers, balancer: &OwnedLoadBalancer, when: &str) -> Result<Vec<LbPool>, Ended> {
    let Servers { openstack, owner, recorder, .. } = servers;
    let found = openstack.load_balancers(owner, Some(NAME));
    recorder.step(&format!("{when}: found by tag and name"), found).await?;
    recorder.step(&format!("{when}: its listeners"), openstack.listeners(balancer)).await?;
    let mut pools = recorder.step(&format!("{when}: its pools"), openstack.lb_pools(balancer)).await?;
    pools.sort_by(|one, other| one.name.cmp(&other.name));
    for pool in &pools {
        let step = format!("{when}: the members of {}", pool.name);
        recorder.step(&step, openstack.members(&pool.id)).await?;
    }
    Ok(pools)
}

/// What is refused for good.
async fn refuse(servers: &Servers, balancer: &OwnedLoadBalancer) -> Result<(), Ended> {
    let Servers { openstack, owner, recorder, .. } = servers;
    let port = openstack.ports_by_ids(balancer.vip_port_id.as_slice());
    recorder.step("the port of its address is Octavia's", port).await?;
    recorder.step("and has not our tag", openstack.owned_ports(&PortFilter::new(owner))).await?;
    let taken = wanted(servers, VIP);
    let refused = openstack.create_load_balancer(owner, &taken);
    drop(recorder.step("a load balancer at an address that is taken is refused", refused).await);
    let nobody: LoadBalancerId = NOBODY.into();
    recorder
        .step("a load balancer that is not there is not found", openstack.load_balancer(owner, &nobody))
        .await?;
    drop(
        recorder.step("nor are members of a pool that is not there", openstack.members(&NOBODY.into())).await,
    );
    drop(recorder.step("nor a health monitor", openstack.health_monitor(&NOBODY.into())).await);
    let step = "a listener that is not there is deleted";
    recorder.step(step, openstack.delete_listener(balancer, &NOBODY.into())).await?;
    recorder.step("and a pool", openstack.delete_lb_pool(balancer, &NOBODY.into())).await?;
    let same = ListenerCreate {
        settings: ListenerUpdate {
            default_pool_id: openstack_pools(servers, balancer).await?.first().map(|pool| pool.id.clone()),
            ..ListenerUpdate::default()
        },
        ..ListenerCreate::new(format!("{NAME}:TCP:80"), "TCP", 80)
    };
    let refused = openstack.create_listener(balancer, &same);
    drop(recorder.step("a second listener at the port is refused", refused).await);
    // Whatever one of these has begun after all.
    done(servers, balancer).await
}

/// Its pools by name; the look is not recorded.
async fn openstack_pools(servers: &Servers, balancer: &OwnedLoadBalancer) -> Result<Vec<LbPool>, Ended> {
    let _unheard = servers.recorder.unheard();
    let mut pools = servers.openstack.lb_pools(balancer).await?;
    pools.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(pools)
}

async fn change_members(servers: &Servers, balancer: &OwnedLoadBalancer) -> Result<(), Ended> {
    let Servers { openstack, recorder, .. } = servers;
    let [tcp, ..] = &openstack_pools(servers, balancer).await?[..] else { return Err("no pools".into()) };
    let members = [member(SECOND, 8080), member(THIRD, 8080)];
    let replaced = openstack.replace_members(balancer, &tcp.id, &members);
    recorder.step("members are replaced by one call", replaced).await?;
    let again = openstack.replace_members(balancer, &tcp.id, &members[..1]);
    drop(recorder.step("while that is under way another change is refused", again).await);
    done(servers, balancer).await?;
    // One that goes may be called ACTIVE for a while more.
    let are_two = async || Ok(openstack.members(&tcp.id).await?.len() == 2);
    servers.until("the former member is gone", are_two).await?;
    recorder.step("the members are those", openstack.members(&tcp.id)).await?;
    recorder.step("none is left", openstack.replace_members(balancer, &tcp.id, &[])).await?;
    done(servers, balancer).await?;
    let are_none = async || Ok(openstack.members(&tcp.id).await?.is_empty());
    servers.until("the members are gone", are_none).await?;
    recorder.step("there are no members", openstack.members(&tcp.id)).await?;
    let nobody = NOBODY.into();
    let missing = openstack.replace_members(balancer, &nobody, &members);
    drop(recorder.step("members of a pool that is not there are refused", missing).await);
    Ok(())
}

/// Parts come, are changed, and go, one at a time.
async fn change_parts(servers: &Servers, balancer: &OwnedLoadBalancer) -> Result<(), Ended> {
    let Servers { openstack, recorder, .. } = servers;
    recorder.step("a pool is made", openstack.create_lb_pool(balancer, &pool("TCP:90", "TCP"))).await?;
    done(servers, balancer).await?;
    let pools = openstack_pools(servers, balancer).await?;
    let new = pools.iter().find(|pool| pool.name.ends_with("TCP:90")).ok_or("no new pool")?;
    let settings = ListenerUpdate { default_pool_id: Some(new.id.clone()), ..ListenerUpdate::default() };
    let listener = ListenerCreate { settings, ..ListenerCreate::new(format!("{NAME}:TCP:90"), "TCP", 90) };
    recorder.step("a listener is made for it", openstack.create_listener(balancer, &listener)).await?;
    done(servers, balancer).await?;
    let settings = HealthMonitorUpdate { delay: 5, timeout: 3, max_retries: 2, max_retries_down: 3 };
    let monitor = HealthMonitorCreate::new(format!("{NAME}:TCP:90"), "TCP", settings.clone());
    let made = openstack.create_health_monitor(balancer, &new.id, &monitor);
    recorder.step("a health monitor is made for it", made).await?;
    done(servers, balancer).await?;
    let second = openstack.create_health_monitor(balancer, &new.id, &monitor);
    drop(recorder.step("a second health monitor is refused", second).await);
    done(servers, balancer).await?;
    look(servers, balancer, "with a listener more").await?;
    let pools = openstack_pools(servers, balancer).await?;
    let monitored = pools.iter().find_map(|pool| pool.healthmonitor_id.clone()).ok_or("no monitor")?;
    recorder.step("the health monitor is read", openstack.health_monitor(&monitored)).await?;
    let update = HealthMonitorUpdate { delay: 7, ..settings };
    let changed = openstack.update_health_monitor(balancer, &monitored, &update);
    recorder.step("the health monitor is changed", changed).await?;
    done_but_listeners(servers, balancer).await?;
    recorder.step("then it is so", openstack.health_monitor(&monitored)).await?;
    let step = "and its listener is left as if it was being changed";
    recorder.step(step, openstack.listeners(balancer)).await?;
    let step = "the health monitor is deleted";
    recorder.step(step, openstack.delete_health_monitor(balancer, &monitored)).await?;
    done(servers, balancer).await?;
    let kept = Some(SessionPersistence { kind: "SOURCE_IP".to_owned() });
    let update = PoolUpdate { lb_algorithm: ALGORITHM.to_owned(), session_persistence: kept };
    recorder.step("a pool is changed", openstack.update_lb_pool(balancer, &new.id, &update)).await?;
    done(servers, balancer).await?;
    recorder.step("then clients keep their member", openstack.lb_pools(balancer)).await?;
    delete_parts(servers, balancer).await
}

async fn delete_parts(servers: &Servers, balancer: &OwnedLoadBalancer) -> Result<(), Ended> {
    let Servers { openstack, recorder, .. } = servers;
    let listeners = {
        let _unheard = recorder.unheard();
        openstack.listeners(balancer).await?
    };
    for listener in listeners.iter().filter(|listener| listener.protocol_port == 90) {
        let retagged =
            ListenerUpdate { tags: Some(vec!["contract:more".to_owned()]), ..ListenerUpdate::default() };
        let change = openstack.update_listener(balancer, &listener.id, &retagged);
        recorder.step("a listener is changed", change).await?;
        done(servers, balancer).await?;
        recorder.step("then it has another tag", openstack.listeners(balancer)).await?;
        recorder.step("a listener is deleted", openstack.delete_listener(balancer, &listener.id)).await?;
        done(servers, balancer).await?;
    }
    for pool in openstack_pools(servers, balancer).await?.iter().filter(|pool| pool.name.ends_with("TCP:90"))
    {
        recorder
            .step("a pool that no listener has is deleted", openstack.delete_lb_pool(balancer, &pool.id))
            .await?;
        done(servers, balancer).await?;
    }
    look(servers, balancer, "as before").await.map(drop)
}

async fn delete(servers: &Servers, balancer: &OwnedLoadBalancer) -> Result<(), Ended> {
    let Servers { openstack, owner, recorder, place, .. } = servers;
    let vip = balancer.vip_port_id.clone().ok_or("no port")?;
    let create = FloatingIpCreate {
        floating_network_id: place.external_network.as_str().into(),
        subnet_id: None,
        port_id: vip.clone(),
        description: "kuryr_lb".to_owned(),
        tags: vec![],
    };
    let made = openstack.create_floating_ip(owner, &create);
    let floating = recorder.step("its address gets a floating IP", made).await?;
    recorder.step("it is deleted with all below it", openstack.delete_load_balancer(balancer)).await?;
    let gone = async || Ok(openstack.load_balancer(owner, &balancer.id).await?.is_none());
    servers.until("it is gone", gone).await?;
    recorder.step("it is not found", openstack.load_balancer(owner, &balancer.id)).await?;
    recorder.step("nor by its name", openstack.load_balancers(owner, Some(NAME))).await?;
    recorder.step("it is deleted again", openstack.delete_load_balancer(balancer)).await?;
    let port = async || Ok(openstack.ports_by_ids(std::slice::from_ref(&vip)).await?.is_empty());
    servers.until("its port is gone", port).await?;
    let tagged = FloatingIpFilter { tags: vec![TAG.to_owned()], ..FloatingIpFilter::default() };
    let left = openstack.floating_ips(owner.project_id(), &tagged);
    let left = recorder.step("the floating IP leads to none", left).await?;
    recorder.found("floating IPs that are left", &json!(left.len()));
    recorder.step("and is deleted", openstack.delete_floating_ip(&floating)).await?;
    Ok(())
}
