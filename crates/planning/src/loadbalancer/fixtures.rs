//! A Service `d/web` with port 80 to pods' port 8080, and its load balancer, for tests.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Balancer, EndpointFacts, External, FoundListener, FoundMember, FoundPool, MonitorSettings, Others,
    PortFacts, ServiceFacts, Settings, State,
};

pub(super) fn service() -> ServiceFacts {
    ServiceFacts {
        namespace: "d".to_owned(),
        name: "web".to_owned(),
        uid: "u".to_owned(),
        kind: "LoadBalancer".to_owned(),
        families: vec!["IPv4".to_owned()],
        ports: vec![PortFacts {
            name: "http".to_owned(),
            protocol: "TCP".to_owned(),
            port: 80,
            target: "web".to_owned(),
        }],
        ..ServiceFacts::default()
    }
}

pub(super) fn settings(provider: &str) -> Settings {
    let subnets = [("s4", "10.1.0.0/16"), ("s6", "fd00::/64")];
    Settings {
        provider: Some(provider.to_owned()),
        providers: BTreeSet::from(["amphora".to_owned(), "ovn".to_owned()]),
        version: (2, 30),
        subnets: subnets.map(|(id, prefix)| (id.into(), prefix.parse().unwrap())).into(),
        networks: subnets.map(|(id, _)| (id.into(), "n".into())).into(),
        monitor: MonitorSettings { delay: 60, timeout: 30, max_retries: 1, max_retries_down: 3 },
        external: Some(External { network: "ext".into(), subnet: None }),
        activation: 300_000,
        ..Settings::default()
    }
}

pub(super) fn endpoint(address: &str) -> EndpointFacts {
    EndpointFacts {
        address: address.parse().unwrap(),
        ports: vec![PortFacts {
            name: "http".to_owned(),
            protocol: "TCP".to_owned(),
            port: 8080,
            ..PortFacts::default()
        }],
        is_ready: true,
        is_last_resort: false,
        pod: None,
        own_port: None,
    }
}

/// The load balancer of that Service by provider ovn, with one member 10.1.0.7.
pub(super) fn balancer(id: &str) -> Balancer {
    let (pool, name) = (format!("p-{id}"), "d/web:TCP:80");
    Balancer {
        id: id.into(),
        name: "d/web".to_owned(),
        state: State::Active,
        provider: "ovn".to_owned(),
        vip_subnet: Some("s4".into()),
        vip_address: Some("10.1.0.100".parse().unwrap()),
        vip_port: Some(format!("vip-{id}").into()),
        more_vips: vec![],
        listeners: vec![FoundListener {
            id: format!("l-{id}").into(),
            protocol: "TCP".to_owned(),
            port: 80,
            pool: Some(pool.as_str().into()),
            connection_limit: None,
            timeouts: [Some(50_000), Some(5_000), Some(50_000), Some(0)],
            asked_timeouts: [false; 4],
            forwards_for: false,
            allowed: BTreeSet::new(),
        }],
        pools: vec![FoundPool {
            id: pool.into(),
            name: name.to_owned(),
            protocol: "TCP".to_owned(),
            algorithm: "SOURCE_IP_PORT".to_owned(),
            created: String::new(),
            is_persistent: false,
            members: vec![FoundMember {
                address: "10.1.0.7".parse().unwrap(),
                port: 8080,
                subnet: Some("s4".into()),
                id: format!("m-{id}").into(),
                name: "d/web-0:8080".to_owned(),
            }],
            leaving: BTreeMap::new(),
            monitor: None,
        }],
        hidden: None,
        others: Others::default(),
    }
}
