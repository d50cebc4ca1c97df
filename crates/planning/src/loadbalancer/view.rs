//! What `KuryrLoadBalancer` tells of a Service whose load balancer is as it should be.
//!
//! Everything is told from what was found, so that the view cannot say what is not so. While something is under way
//! nothing is told: a view that follows every step would be written more often than it is read.

use kuryr_api::{
    kuryrloadbalancer::{
        Endpoint, EndpointConditions, EndpointPort, EndpointSlice, KuryrLoadBalancer, KuryrLoadBalancerSpec,
        KuryrLoadBalancerStatus, Listener, LoadBalancer, Member, Pool, PortSpec, PublicIp, TargetRef,
    },
    names::LBAAS_SPEC_ANNOTATION,
};
use kuryr_types::ProjectId;

use super::{
    desired::Protocol,
    diff::choose,
    inputs::{Balancer, EndpointFacts, FoundListener, Inputs, PortFacts, ServiceFacts, State},
    sharing::{Place, place},
};
use crate::ownership::{listener_name, load_balancer_name};

/// What the view should be.
#[derive(Debug, Clone, PartialEq)]
pub enum View {
    /// Something is under way: as it is.
    Unsettled,
    /// There should be none.
    Nothing,
    /// This.
    Is(Box<KuryrLoadBalancer>),
}

/// The view of one look, of load balancers in `project`. To be asked for if nothing is to be done.
#[must_use]
pub fn view(inputs: &Inputs<'_>, project: &ProjectId) -> View {
    let service = inputs.service;
    let is_untouched = service.annotations.contains_key(LBAAS_SPEC_ANNOTATION) || service.uid.is_empty();
    if is_untouched || inputs.upstreams().is_some() {
        return View::Unsettled;
    }
    let is_left = |found: &Balancer| !found.others.is_empty() && !found.carries_something();
    let found = match place(inputs).place {
        Place::Own => choose(inputs).filter(|found| !is_left(found)),
        Place::Shared(found) => Some(found),
        Place::Nowhere => None,
    };
    match found {
        Some(found) if found.state == State::Active => {
            let (spec, status) = (spec(inputs, found, project), status(inputs, found, project));
            let view =
                KuryrLoadBalancer::of_service(&service.namespace, &service.name, &service.uid, spec, status);
            View::Is(Box::new(view))
        }
        None if inputs.actual.balancers.iter().all(is_left)
            && !inputs.actual.shared.iter().any(Balancer::carries_something) =>
        {
            View::Nothing
        }
        _ => View::Unsettled,
    }
}

fn text(value: Option<&impl ToString>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

fn spec(inputs: &Inputs<'_>, found: &Balancer, project: &ProjectId) -> KuryrLoadBalancerSpec {
    let service = inputs.service;
    let asked = |at: usize| found.listeners.first().and_then(|listener| asked(listener, at)).unwrap_or(0);
    KuryrLoadBalancerSpec {
        ip: service.cluster_ips.first().map(ToString::to_string),
        lb_ip: service.load_balancer_ip.clone(),
        ports: service.ports.iter().map(port).collect(),
        project_id: project.to_string(),
        security_groups_ids: vec![],
        subnet_id: text(found.vip_subnet.as_ref()),
        kind: service.kind.clone(),
        provider: found.provider.clone(),
        timeout_client_data: asked(CLIENT_DATA),
        timeout_member_data: asked(MEMBER_DATA),
        endpoint_slices: endpoint_slices(service, inputs.endpoints),
    }
}

/// Where these are among the timeouts of a listener.
const CLIENT_DATA: usize = 0;
const MEMBER_DATA: usize = 2;

fn asked(listener: &FoundListener, at: usize) -> Option<u32> {
    listener.timeouts[at].filter(|_| listener.asked_timeouts[at])
}

fn name(name: &str) -> Option<String> {
    Some(name.to_owned()).filter(|name| !name.is_empty())
}

fn protocol(port: &PortFacts) -> String {
    if port.protocol.is_empty() { "TCP".to_owned() } else { port.protocol.clone() }
}

fn port(port: &PortFacts) -> PortSpec {
    let target_port = if port.target.is_empty() { port.port.to_string() } else { port.target.clone() };
    PortSpec { name: name(&port.name), port: port.port, protocol: protocol(port), target_port }
}

/// Ready endpoints, those with the same ports together, by address: in whatever order they were found, the view is the
/// same.
fn endpoint_slices(service: &ServiceFacts, endpoints: &[EndpointFacts]) -> Vec<EndpointSlice> {
    let mut ready: Vec<&EndpointFacts> = endpoints.iter().filter(|endpoint| endpoint.is_ready).collect();
    ready.sort_by_key(|endpoint| (sorted(&endpoint.ports), endpoint.address));
    let mut slices: Vec<EndpointSlice> = vec![];
    for endpoint in ready {
        let ports: Vec<EndpointPort> = sorted(&endpoint.ports)
            .into_iter()
            .map(|port| EndpointPort { name: name(&port.name), port: port.port, protocol: protocol(port) })
            .collect();
        let pod = endpoint.pod.as_ref();
        let told = Endpoint {
            addresses: vec![endpoint.address.to_string()],
            conditions: EndpointConditions { ready: true },
            target_ref: pod.map(|pod| TargetRef {
                kind: "Pod".to_owned(),
                name: pod.clone(),
                namespace: service.namespace.clone(),
            }),
        };
        match slices.last_mut().filter(|slice| slice.ports == ports) {
            Some(slice) => slice.endpoints.push(told),
            None => slices.push(EndpointSlice { endpoints: vec![told], ports }),
        }
    }
    slices
}

fn sorted(ports: &[PortFacts]) -> Vec<&PortFacts> {
    let mut ports: Vec<&PortFacts> = ports.iter().collect();
    ports.sort();
    ports
}

fn status(inputs: &Inputs<'_>, found: &Balancer, project: &ProjectId) -> KuryrLoadBalancerStatus {
    let (id, project_id) = (found.id.to_string(), project.to_string());
    let called = load_balancer_name(&inputs.service.namespace, &inputs.service.name);
    let mut listeners: Vec<&FoundListener> = found.listeners.iter().collect();
    listeners.sort_by_key(|listener| (listener.port, &listener.protocol));
    let (mut pools, mut members) = (vec![], vec![]);
    for listener in &listeners {
        let Some(pool) = found.pools.iter().find(|pool| Some(&pool.id) == listener.pool.as_ref()) else {
            continue;
        };
        pools.push(Pool {
            id: pool.id.to_string(),
            listener_id: listener.id.to_string(),
            loadbalancer_id: id.clone(),
            name: pool.name.clone(),
            project_id: project_id.clone(),
            protocol: pool.protocol.clone(),
        });
        let mut of_pool: Vec<_> = pool.members.iter().collect();
        of_pool.sort();
        members.extend(of_pool.into_iter().map(|member| Member {
            id: member.id.to_string(),
            ip: member.address.to_string(),
            name: member.name.clone(),
            pool_id: pool.id.to_string(),
            port: member.port,
            project_id: project_id.clone(),
            subnet_id: text(member.subnet.as_ref()),
        }));
    }
    let listener = |listener: &FoundListener| Listener {
        id: listener.id.to_string(),
        loadbalancer_id: id.clone(),
        name: listener_name(&called, below(listener), listener.port),
        port: listener.port,
        project_id: project_id.clone(),
        protocol: listener.protocol.clone(),
        timeout_client_data: asked(listener, CLIENT_DATA),
        timeout_member_data: asked(listener, MEMBER_DATA),
    };
    KuryrLoadBalancerStatus {
        listeners: listeners.into_iter().map(listener).collect(),
        loadbalancer: Some(LoadBalancer {
            id: id.clone(),
            ip: text(found.vip_address.as_ref()),
            name: found.name.clone(),
            port_id: text(found.vip_port.as_ref()),
            project_id: project_id.clone(),
            provider: found.provider.clone(),
            security_groups: vec![],
            subnet_id: text(found.vip_subnet.as_ref()),
        }),
        pools,
        members,
        service_pub_ip_info: public_ip(inputs, found),
    }
}

/// Listeners are named after the protocol of the Service.
fn below(listener: &FoundListener) -> &str {
    Protocol::below(&listener.protocol).map_or(listener.protocol.as_str(), |protocol| protocol.name())
}

fn public_ip(inputs: &Inputs<'_>, found: &Balancer) -> Option<PublicIp> {
    let leads_here =
        |port: &kuryr_types::PortId| found.vips().any(|(_, vip)| vip.is_some_and(|vip| vip == port));
    let floating = inputs.actual.floating.iter().find(|it| it.port.as_ref().is_some_and(leads_here))?;
    Some(PublicIp {
        ip_id: floating.id.to_string(),
        ip_addr: floating.address.to_string(),
        alloc_method: if floating.is_ours { "pool" } else { "user" }.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{
        Actual, Floating, Settings, Stranger,
        fixtures::{balancer, endpoint, service, settings},
    };
    use super::*;

    fn seen(
        service: &ServiceFacts,
        settings: &Settings,
        actual: &Actual,
        endpoints: &[EndpointFacts],
    ) -> View {
        view(&Inputs { now: 0, service, endpoints, settings, actual }, &"k8s".into())
    }

    fn of(actual: &Actual, endpoints: &[EndpointFacts]) -> View {
        let service = ServiceFacts { cluster_ips: vec!["10.96.0.7".parse().unwrap()], ..service() };
        seen(&service, &settings("ovn"), actual, endpoints)
    }

    fn one() -> Actual {
        let port = Some("vip-b".into());
        let address = "203.0.113.7".parse().unwrap();
        let floating = Floating {
            id: "f".into(),
            address,
            port,
            is_ours: true,
            is_made: true,
            is_marked: false,
            is_others: false,
            is_kept: false,
        };
        Actual { balancers: vec![balancer("b")], floating: vec![floating], ..Actual::default() }
    }

    #[test]
    fn it_tells_what_was_found() {
        let pod = EndpointFacts { pod: Some("web-0".to_owned()), ..endpoint("10.1.0.7") };
        let leaving = EndpointFacts { is_ready: false, ..endpoint("10.1.0.9") };
        let View::Is(told) = of(&one(), &[leaving, pod]) else { panic!() };
        let told = serde_json::to_value(&*told).unwrap();
        assert_eq!(
            told["spec"],
            json!({
                "ip": "10.96.0.7", "project_id": "k8s", "security_groups_ids": [], "subnet_id": "s4",
                "type": "LoadBalancer", "provider": "ovn", "timeout_client_data": 0, "timeout_member_data": 0,
                "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "web"}],
                "endpointSlices": [{
                    "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
                    "endpoints": [{
                        "addresses": ["10.1.0.7"], "conditions": {"ready": true},
                        "targetRef": {"kind": "Pod", "namespace": "d", "name": "web-0"},
                    }],
                }],
            })
        );
        let below = |rest: serde_json::Value| {
            let mut all = json!({"loadbalancer_id": "b", "project_id": "k8s", "name": "d/web:TCP:80", "protocol": "TCP"});
            all.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            json!([all])
        };
        assert_eq!(
            told["status"],
            json!({
                "loadbalancer": {
                    "id": "b", "ip": "10.1.0.100", "name": "d/web", "port_id": "vip-b", "project_id": "k8s",
                    "provider": "ovn", "security_groups": [], "subnet_id": "s4",
                },
                "listeners": below(json!({"id": "l-b", "port": 80})),
                "pools": below(json!({"id": "p-b", "listener_id": "l-b"})),
                "members": [{
                    "id": "m-b", "ip": "10.1.0.7", "name": "d/web-0:8080", "pool_id": "p-b", "port": 8080,
                    "project_id": "k8s", "subnet_id": "s4",
                }],
                "service_pub_ip_info": {"ip_id": "f", "ip_addr": "203.0.113.7", "alloc_method": "pool"},
            })
        );
    }

    #[test]
    fn timeouts_are_told_where_they_were_asked_for_and_who_gave_the_address() {
        let mut actual = one();
        actual.balancers[0].listeners[0].timeouts = [Some(70_000), None, Some(75_000), None];
        actual.balancers[0].listeners[0].asked_timeouts = [true, false, false, false];
        actual.floating[0].is_ours = false;
        let View::Is(told) = of(&actual, &[]) else { panic!() };
        let listener = &told.status.listeners[0];
        assert_eq!((listener.timeout_client_data, listener.timeout_member_data), (Some(70_000), None));
        assert_eq!((told.spec.timeout_client_data, told.spec.timeout_member_data), (70_000, 0));
        assert_eq!(told.status.service_pub_ip_info.unwrap().alloc_method, "user");
    }

    #[test]
    fn the_order_of_endpoints_does_not_matter() {
        let mut other = endpoint("10.1.0.8");
        other.ports[0].port = 9090;
        let endpoints = [endpoint("10.1.0.9"), other, endpoint("10.1.0.7")];
        let mut turned = endpoints.clone();
        turned.reverse();
        let (View::Is(one_way), View::Is(another)) = (of(&one(), &endpoints), of(&one(), &turned)) else {
            panic!()
        };
        assert_eq!(one_way, another);
        assert_eq!(one_way.spec.endpoint_slices.len(), 2);
    }

    #[test]
    fn nothing_is_told_while_something_is_under_way() {
        let nothing = Actual::default();
        assert_eq!(of(&nothing, &[]), View::Nothing);
        for state in [State::Pending, State::Deleting, State::Error] {
            let mut actual = one();
            actual.balancers[0].state = state;
            assert_eq!(of(&actual, &[]), View::Unsettled, "{state:?}");
        }
        let gone = ServiceFacts { uid: String::new(), ..service() };
        assert_eq!(seen(&gone, &settings("ovn"), &nothing, &[]), View::Unsettled);
        let mut marked = service();
        marked.annotations.insert(LBAAS_SPEC_ANNOTATION.to_owned(), "{}".to_owned());
        assert_eq!(seen(&marked, &settings("ovn"), &one(), &[]), View::Unsettled);
        // What upstream tells of its own load balancer stays as long as that does.
        let (mut served, mut settings) = (service(), settings("ovn"));
        served.cluster_ips = vec!["10.96.0.7".parse().unwrap()];
        settings.service_subnets.insert("c4".into(), "10.96.0.0/16".parse().unwrap());
        let stranger = Stranger {
            id: "x".into(),
            state: State::Active,
            vip_address: Some(served.cluster_ips[0]),
            vip_subnet: Some("c4".into()),
            is_of_another_cluster: false,
        };
        let actual = Actual { strangers: vec![stranger], ..Actual::default() };
        assert_eq!(seen(&served, &settings, &actual, &[]), View::Unsettled);
    }
}
