//! Steps of a plan as calls. No choices are left: each step is one call.

use std::collections::BTreeMap;

use kube::Api;
use kuryr_api::names::SERVICE_FINALIZER;
use kuryr_kubernetes::{objects::Objects, slim};
use kuryr_openstack::{
    neutron::{FloatingIp, FloatingIpCreate, OwnedFloatingIp},
    octavia::{
        AdditionalVip, Carrier, HealthMonitorCreate, HealthMonitorUpdate, ListenerCreate, ListenerUpdate,
        LoadBalancerCreate, MemberCreate, PoolCreate, PoolUpdate, SessionPersistence, Timeout,
    },
};
use kuryr_planning::{
    loadbalancer::{BalancerSpec, ListenerSpec, MonitorSettings, MonitorSpec, PoolSpec, Step, mark},
    ownership::{KEPT_TAG, SERVICE_TAG, timeouts_tag},
};
use kuryr_types::{FloatingIpId, LbPoolId, LoadBalancerId};
use serde_json::json;

use super::observe::Look;
use crate::{cloud::facts::Access, config::COMPONENT, error::Result, wiring::World};

/// Calls that patch Services of a namespace.
pub(super) fn services(namespace: &str, world: &World) -> Objects<slim::Service> {
    Objects::new(Api::namespaced(world.client.clone(), namespace), COMPONENT)
}

/// Carries one step out.
pub(super) async fn step(step: &Step, look: &Look, access: &Access, world: &World) -> Result<()> {
    let client = &access.client;
    // What a step names was seen in the same look; if it was not, the next look corrects the plan.
    let of = step.balancer().and_then(|id| carrier(id, look));
    match (step, of) {
        (Step::AddFinalizer, _) => finalizer(true, look, world).await?,
        (Step::RemoveFinalizer, _) => finalizer(false, look, world).await?,
        (Step::CreateBalancer(spec), _) => {
            client.create_load_balancer(&access.ownership, &tree(spec)).await?;
        }
        (Step::AdoptBalancer { stranger }, _) => {
            if let Some(found) = look.strangers.iter().find(|found| found.id == *stranger) {
                client.adopt_load_balancer(&access.ownership, found.clone()).await?;
            }
        }
        (Step::DeleteBalancer { balancer }, _) => {
            if let Some(own) = look.balancers.iter().find(|own| own.id == *balancer) {
                client.delete_load_balancer(own).await?;
            }
        }
        (Step::CreatePool { name, pool, .. }, Some(of)) => {
            client.create_lb_pool(of, &bare_pool(name, pool)).await?;
        }
        (Step::UpdatePool { pool, to, .. }, Some(of)) => {
            let update = PoolUpdate {
                lb_algorithm: to.algorithm.clone(),
                session_persistence: persistence(to.is_persistent),
            };
            client.update_lb_pool(of, pool, &update).await?;
        }
        (Step::DeletePool { pool, .. }, Some(of)) => client.delete_lb_pool(of, pool).await?,
        (Step::SetMembers { pool, to, .. }, Some(of)) => {
            client.replace_members(of, pool, &members(to)).await?;
        }
        (Step::DeleteMember { pool, member, .. }, Some(of)) => client.delete_member(of, pool, member).await?,
        (Step::CreateListener { at, pool, listener, .. }, Some(of)) => {
            let mut create = ListenerCreate::new(&*listener.name, listener.protocol, at.1);
            create.settings = ListenerUpdate { default_pool_id: Some(pool.clone()), ..made_with(listener) };
            client.create_listener(of, &create).await?;
        }
        (Step::UpdateListener { listener, pool, to, .. }, Some(of)) => {
            client.update_listener(of, listener, &changed_to(to, pool)).await?;
        }
        (Step::DeleteListener { listener, .. }, Some(of)) => client.delete_listener(of, listener).await?,
        (Step::CreateMonitor { pool, name, monitor, .. }, Some(of)) => {
            client.create_health_monitor(of, pool, &new_monitor(name, monitor)).await?;
        }
        (Step::UpdateMonitor { monitor, to, .. }, Some(of)) => {
            client.update_health_monitor(of, monitor, &monitor_settings(to.settings)).await?;
        }
        (Step::DeleteMonitor { monitor, .. }, Some(of)) => client.delete_health_monitor(of, monitor).await?,
        (Step::CreateFloating { port, external, tags }, _) => {
            let create = FloatingIpCreate {
                floating_network_id: external.network.clone(),
                subnet_id: external.subnet.clone(),
                port_id: port.clone(),
                description: mark::description(&look.service.uid, &access.owner),
                tags: tags.clone(),
            };
            client.create_floating_ip(&access.ownership, &create).await?;
        }
        (Step::AdoptFloating { floating, tags }, _) => {
            if let Some(mut found) = floating_ip(floating, look).cloned() {
                found.tags.retain(|tag| tag != KEPT_TAG);
                client.adopt_floating_ip(&access.ownership, found, tags).await?;
            }
        }
        (Step::Associate { floating, port }, _) => {
            client.associate_floating_ip(floating, port.as_ref()).await?;
        }
        (Step::KeepFloating { floating }, _) => {
            if let Some(found) = owned(floating, look, access)? {
                let description = mark::without_mark(&found.description, &access.owner);
                client.disown_floating_ip(&found, &[SERVICE_TAG], KEPT_TAG, description).await?;
            }
        }
        (Step::DeleteFloating { floating }, _) => {
            if let Some(found) = owned(floating, look, access)? {
                client.delete_floating_ip(&found).await?;
            }
        }
        (
            Step::CreatePool { .. }
            | Step::UpdatePool { .. }
            | Step::DeletePool { .. }
            | Step::SetMembers { .. }
            | Step::DeleteMember { .. }
            | Step::CreateListener { .. }
            | Step::UpdateListener { .. }
            | Step::DeleteListener { .. }
            | Step::CreateMonitor { .. }
            | Step::UpdateMonitor { .. }
            | Step::DeleteMonitor { .. },
            None,
        ) => {}
    }
    Ok(())
}

/// The load balancer of the look, the Service's own or one that is shared.
fn carrier<'a>(id: &LoadBalancerId, look: &'a Look) -> Option<&'a Carrier> {
    look.balancers.iter().map(|own| &**own).chain(&look.shared).find(|found| found.id == *id)
}

fn floating_ip<'a>(id: &FloatingIpId, look: &'a Look) -> Option<&'a FloatingIp> {
    look.floating.iter().find(|floating| floating.id == *id)
}

fn owned(id: &FloatingIpId, look: &Look, access: &Access) -> Result<Option<OwnedFloatingIp>> {
    let owner = std::sync::Arc::new(access.ownership.clone());
    let found = floating_ip(id, look).cloned();
    Ok(found.map(|found| OwnedFloatingIp::prove(&owner, found)).transpose()?)
}

/// All finalizers with ours, or without; refused if somebody has changed the Service meanwhile.
async fn finalizer(wanted: bool, look: &Look, world: &World) -> Result<()> {
    let Some(service) = &look.object else { return Ok(()) };
    let others = service.metadata.finalizers.iter().flatten().filter(|name| *name != SERVICE_FINALIZER);
    let ours = wanted.then(|| SERVICE_FINALIZER.to_owned());
    let finalizers: Vec<String> = others.cloned().chain(ours).collect();
    let version = &service.metadata.resource_version;
    let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": version}});
    match services(&look.service.namespace, world).merge(&look.service.name, &patch).await {
        // Nobody waits for it any more.
        Err(error) if error.is_not_found() => Ok(()),
        done => Ok(done.map(drop)?),
    }
}

fn tree(spec: &BalancerSpec) -> LoadBalancerCreate {
    let listeners = spec.listeners.iter().map(|((_, port), listener)| {
        let mut pool = bare_pool(&listener.name, &listener.pool).with_members(members(&listener.pool));
        let monitor = listener.pool.monitor.as_ref();
        pool.healthmonitor = monitor.map(|monitor| new_monitor(&listener.name, monitor));
        let mut create = ListenerCreate::new(&*listener.name, listener.protocol, *port).with_pool(pool);
        create.settings = made_with(listener);
        create
    });
    let additional = spec.more_vips.iter().map(|(subnet, address)| AdditionalVip {
        subnet_id: subnet.clone(),
        ip_address: *address,
        port_id: None,
    });
    LoadBalancerCreate {
        name: spec.name.clone(),
        vip_subnet_id: spec.vip_subnet.clone(),
        vip_address: spec.vip_address,
        vip_port_id: spec.vip_port.clone(),
        additional_vips: additional.collect(),
        provider: spec.provider.clone(),
        flavor_id: spec.flavor.clone(),
        availability_zone: spec.zone.clone(),
        listeners: listeners.collect(),
    }
}

/// A pool without what belongs to it: members and monitor.
fn bare_pool(name: &str, pool: &PoolSpec) -> PoolCreate {
    let mut create = PoolCreate::new(name, pool.protocol, &*pool.algorithm);
    create.session_persistence = persistence(pool.is_persistent);
    create
}

fn new_monitor(name: &str, monitor: &MonitorSpec) -> HealthMonitorCreate {
    HealthMonitorCreate::new(name, &*monitor.kind, monitor_settings(monitor.settings))
}

fn monitor_settings(settings: MonitorSettings) -> HealthMonitorUpdate {
    let MonitorSettings { delay, timeout, max_retries, max_retries_down } = settings;
    HealthMonitorUpdate { delay, timeout, max_retries, max_retries_down }
}

fn persistence(wanted: bool) -> Option<SessionPersistence> {
    wanted.then(|| SessionPersistence { kind: "SOURCE_IP".to_owned() })
}

fn members(pool: &PoolSpec) -> Vec<MemberCreate> {
    let member =
        |((address, port), member): (&(std::net::IpAddr, u16), &kuryr_planning::loadbalancer::MemberSpec)| {
            MemberCreate {
                name: member.name.clone(),
                address: *address,
                protocol_port: *port,
                subnet_id: member.subnet.clone(),
                tags: vec![],
            }
        };
    pool.members.iter().map(member).collect()
}

/// A new listener is told only what is not Octavia's default: a provider may refuse the rest.
fn made_with(listener: &ListenerSpec) -> ListenerUpdate {
    let [client, connect, member, inspect] =
        listener.timeouts.map(|timeout| timeout.map_or(Timeout::Keep, Timeout::Millis));
    let allowed = || listener.allowed.iter().copied().collect();
    ListenerUpdate {
        default_pool_id: None,
        connection_limit: listener.connection_limit.map(i64::from),
        timeout_client_data: client,
        timeout_member_connect: connect,
        timeout_member_data: member,
        timeout_tcp_inspect: inspect,
        allowed_cidrs: (!listener.allowed.is_empty()).then(allowed),
        insert_headers: listener.forwards_for.then(headers),
        tags: Some(tags(listener)),
    }
}

/// Tags of a listener besides the cluster's.
fn tags(listener: &ListenerSpec) -> Vec<String> {
    timeouts_tag(listener.timeouts.map(|timeout| timeout.is_some())).into_iter().collect()
}

/// HTTP headers that tell of the client.
fn headers() -> BTreeMap<String, String> {
    BTreeMap::from([("X-Forwarded-For".to_owned(), "true".to_owned())])
}

fn changed_to(listener: &ListenerSpec, pool: &LbPoolId) -> ListenerUpdate {
    let [client, connect, member, inspect] =
        listener.timeouts.map(|timeout| timeout.map_or(Timeout::Default, Timeout::Millis));
    ListenerUpdate {
        timeout_client_data: client,
        timeout_member_connect: connect,
        timeout_member_data: member,
        timeout_tcp_inspect: inspect,
        default_pool_id: Some(pool.clone()),
        connection_limit: Some(listener.connection_limit.map_or(-1, i64::from)),
        allowed_cidrs: Some(listener.allowed.iter().copied().collect()),
        ..made_with(listener)
    }
}
