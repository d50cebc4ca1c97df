//! Ports of servers: when they are looked at, and steps of a plan as changes of their allowed address pairs.
//!
//! A server's port has other users. Whatever one of them did meanwhile makes Neutron refuse a change as a whole, by the
//! port's revision number; then the port is read again, planned anew, and left alone for a while, longer each time in a
//! row.

use std::sync::Arc;

use futures::FutureExt;
use kuryr_api::kuryrnode::{KuryrNode, Problem};
use kuryr_openstack::{Error as CloudError, neutron::AddressPair};
use kuryr_planning::{
    ownership::OurPort,
    pool::{NodeFacts, Record, Servers, mode::Seen, orphans::orphans, server::Pair},
};
use kuryr_types::PortId;
use tokio_util::sync::CancellationToken;

use super::looks::{self, Asking};
use crate::{
    cloud::{
        facts::Access,
        problem,
        servers::{self as index, Wanted},
        trunks::Asked,
    },
    config::millis,
    error::Result,
    term::Term,
    wiring::World,
};

/// Ports that are asked for where lists are empty, of records and of ours each: one of them somebody may have deleted.
const ASKED: usize = 8;

/// Ports with their pairs, as steps name them.
pub(super) type Ports = [(PortId, Vec<Pair>)];

/// What is known of servers for a node; asks for a look if it is missing, and nobody asks where nothing depends on it.
pub(super) fn of_node(
    record: Option<&KuryrNode>,
    facts: &NodeFacts,
    ports: &[OurPort],
    access: &Access,
    world: &World,
    term: &Term,
) -> Option<Servers> {
    let record = record?;
    let asked = asked(record, facts, ports, world)?;
    let recorded = record.spec.server_port.as_ref();
    let known = term.servers.of_node(&asked, recorded, access.owner.project(), ports);
    if known.is_none() {
        world.servers_soon.notify_one();
    }
    known
}

/// What is known of servers for ports that belong to no node, if there are any that need it.
pub(super) fn of_orphans(ports: &[OurPort], world: &World, term: &Term) -> Option<Servers> {
    let known = world.known();
    let access = known.access.as_ref().filter(|_| has_orphans(ports, &world.records.list()))?;
    let known = term.servers.of_ports(access.owner.project(), ports);
    if known.is_none() {
        world.servers_soon.notify_one();
    }
    known
}

/// Whether any of `ports` is for pairs, and no record speaks for it.
fn has_orphans(ports: &[OurPort], records: &[Arc<KuryrNode>]) -> bool {
    let specs = records.iter().map(|record| (super::observe::name(record), &record.spec)).collect();
    orphans(ports, &specs).into_iter().any(OurPort::is_for_pairs)
}

fn asked(record: &KuryrNode, facts: &NodeFacts, ports: &[OurPort], world: &World) -> Option<Asked> {
    let status = record.status.as_ref();
    let seen = Seen::of(Record { spec: &record.spec, status }, facts, world.config.limits.mode, None);
    // Before the agent has reported, nothing is decided that could depend on it.
    let asks = status.is_some() && seen.asks_for_server();
    let mac = seen.uplink.map(|uplink| uplink.mac);
    (asks || ports.iter().any(OurPort::is_for_pairs))
        .then(|| Asked { addresses: facts.addresses.clone(), mac })
}

/// Looks at ports of servers while something depends on them: when it begins to, when a change leaves doubt, and every
/// few minutes; more often while one is missing or does not work, or Kubernetes has lost a node.
pub(crate) async fn run(world: &World, term: &Term, over: CancellationToken) {
    let look = || look(world, term);
    looks::run("ports of servers", look, &world.servers_soon, world.config.cloud.list_period, over).await;
}

/// One look. Tells whether everything was found that was looked for, of nodes that are heard of.
async fn look(world: &World, term: &Term) -> Result<bool> {
    let known = world.known();
    let Some(access) = &known.access else { return Ok(true) };
    let mut asking = Asking::of(world, term, asked);
    let wanted = Wanted {
        asked: std::mem::take(&mut asking.asked),
        ids: asking.records.iter().filter_map(|record| record.spec.server_port.clone()).collect(),
        whole: term.ports.all().is_some_and(|ports| has_orphans(&ports, &world.records.list())),
    };
    if wanted == Wanted::default() {
        return Ok(true);
    }
    let begun = term.servers.begin();
    let project = access.owner.project();
    let mut named: Vec<PortId> = wanted.ids.iter().take(ASKED).cloned().collect();
    // The project's ports are ours, too.
    let ours = term.ports.all().filter(|_| wanted.whole).unwrap_or_default();
    named.extend(ours.into_iter().take(ASKED).map(|port| port.id.clone()));
    let found = index::look(&access.client, project, wanted).await?;
    if let Some(port) = left_out(access, &found, &named).await? {
        tracing::warn!(%port, "Neutron's lists leave out a port that is there");
        return Ok(false);
    }
    let is_complete = found.is_complete(project);
    term.servers.end(begun, found);
    // Who asked meanwhile has the answer, or asks again when it is looked at now.
    let _ = world.servers_soon.notified().now_or_never();
    asking.go_on(world);
    Ok(is_complete && !asking.is_lost)
}

/// A port of those `named` that is there although there are none by the lists: a Neutron server that had just
/// been started was seen to list nothing. Pairs would be taken for gone that still let a pod send.
async fn left_out(access: &Access, found: &index::Found, named: &[PortId]) -> Result<Option<PortId>> {
    for id in named.iter().filter(|_| found.is_empty()) {
        match access.client.port(id).await {
            Ok(_) => return Ok(Some(id.clone())),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// Adds pairs to a server's port.
pub(super) async fn add(server: &PortId, ports: &Ports, access: &Access, world: &World, term: &Term) {
    // A port that is gone meanwhile gets none.
    let wanted: Vec<_> = ports.iter().filter(|(id, _)| term.ports.owned(id).is_some()).cloned().collect();
    let what = format!("allowing addresses of {} ports on port {server}", wanted.len());
    change(&what, server, &pairs(&wanted), &[], access, world, term).await;
}

/// Takes pairs off a server's port.
pub(super) async fn remove(server: &PortId, ports: &Ports, access: &Access, world: &World, term: &Term) {
    let what = format!("taking addresses of {} ports off port {server}", ports.len());
    change(&what, server, &[], &pairs(ports), access, world, term).await;
}

fn pairs(ports: &Ports) -> Vec<AddressPair> {
    let pair = |pair: &Pair| AddressPair { ip_address: pair.address.into(), mac_address: Some(pair.mac) };
    ports.iter().flat_map(|(_, pairs)| pairs.iter().map(pair)).collect()
}

/// Changes pairs by one request and notes what came of it.
async fn change(
    what: &str,
    server: &PortId,
    add: &[AddressPair],
    remove: &[AddressPair],
    access: &Access,
    world: &World,
    term: &Term,
) {
    let Some(known) = term.servers.get(server) else { return };
    if add.is_empty() && remove.is_empty() {
        return;
    }
    let begun = term.servers.begin();
    let error = match access.client.change_address_pairs(&access.ownership, &known, add, remove).await {
        Ok(changed) => {
            term.servers.changed(begun, changed);
            tracing::info!("{what}: done");
            return;
        }
        Err(error) => error,
    };
    if let CloudError::PairsExhausted { limit, .. } = &error {
        tracing::info!(%error, "{what}: no more pairs");
        let holds = millis(world.config.cloud.list_period);
        term.servers.bound(server, *limit, world.now() + holds);
        return;
    }
    let others = matches!(error, CloudError::Stale { .. });
    let problem = told(what, &error);
    if others {
        tracing::info!("{}", problem.message);
    } else {
        tracing::warn!(reason = problem.reason, "{}", problem.message);
    }
    term.servers.hold_up(server, world.now(), others, problem);
    if error.outcome_unknown() {
        term.servers.doubt(server);
        world.servers_soon.notify_one();
    } else {
        read(server, access, world, term).await;
    }
}

/// What to tell about `error`, where it means something of its own for pairs.
fn told(what: &str, error: &CloudError) -> Problem {
    let general = problem::of(what, error);
    let own = match error {
        // ML2/OVN of Neutron 29 (`common/ovn/utils.py`): "... RFC 5798 VRRP virtual MAC ranges ...".
        _ if general.message.contains("RFC 5798") => Some((
            "AddressPairRefused",
            "this cloud's network back end (ML2/OVN) lets a server send under its own hardware address only, and each pod has \
             one of its own: use mode nested-vlan",
        )),
        CloudError::Forbidden { .. } => Some((
            "CloudForbids",
            "address pairs of a port may be changed by a member of the project that owns its network; use a network of \
             the project of [neutron], or mode nested-vlan",
        )),
        CloudError::Conflict { kind, .. } if kind == "AddressPairAndPortSecurityRequired" => Some((
            "PortSecurityOff",
            "switch port security on for the server's port: `openstack port set --enable-port-security`",
        )),
        CloudError::Stale { .. } => {
            Some(("ServerPortShared", "others change the same port at the same time; this is tried again"))
        }
        _ => None,
    };
    own.map_or(general, |(reason, advice)| problem::new(reason, format!("{what}: {error}; {advice}")))
}

async fn read(server: &PortId, access: &Access, world: &World, term: &Term) {
    let begun = term.servers.begin();
    match access.client.port(server).await {
        Ok(found) => term.servers.insert(begun, found),
        Err(error) if error.is_not_found() => {
            term.servers.remove(server);
            world.servers_soon.notify_one();
        }
        Err(error) => {
            tracing::debug!(%server, %error, "could not read the server's port");
            term.servers.doubt(server);
            world.servers_soon.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use kuryr_api::{
        kuryrnode::KuryrNodeSpec,
        names::{PAIR_DEVICE_OWNER, POD_DEVICE_OWNER},
    };
    use kuryr_openstack::Call;
    use kuryr_planning::ownership::{ListedPort, Owner, PortCondition, pool_port_name};
    use kuryr_types::MacAddr;

    use super::*;
    use crate::cloud::fake::{self, FakeCloud, lock};

    #[tokio::test]
    async fn lists_without_a_servers_port_are_not_believed_while_one_is_there() {
        let cloud = Arc::new(FakeCloud::default());
        *lock(&cloud.ports) = vec![fake::port("server", fake::PROJECT, "192.0.2.7")];
        let (access, named) = (cloud.access(), ["deleted".into(), "server".into()]);
        let look = async || {
            let wanted = Wanted { ids: named.clone().into(), ..Wanted::default() };
            let found = index::look(&access.client, access.owner.project(), wanted).await.unwrap();
            left_out(&access, &found, &named).await.unwrap()
        };
        assert_eq!(look().await, None);
        *lock(&cloud.lists_nothing) = true;
        assert_eq!(look().await, Some("server".into()));
        lock(&cloud.ports).clear();
        assert_eq!(look().await, None, "somebody deleted it");
    }

    #[test]
    fn nobody_looks_at_the_whole_project_for_ports_of_nodes_that_are_there() {
        let records = [Arc::new(KuryrNode::new("w1", KuryrNodeSpec::default()))];
        let owner = Owner::new("k8s".into(), vec!["t".to_owned()]);
        for (node, device_owner, expect) in [
            ("w1", PAIR_DEVICE_OWNER, false),
            ("w2", PAIR_DEVICE_OWNER, true),
            ("w2", POD_DEVICE_OWNER, false),
        ] {
            let port = owner.admit(ListedPort {
                id: "p".into(),
                project: "k8s".into(),
                tags: vec!["t".to_owned()],
                name: pool_port_name(node),
                device_owner: device_owner.to_owned(),
                host: None,
                host_hidden: true,
                network: "n".into(),
                mac: MacAddr([2, 0, 0, 0, 0, 1]),
                addresses: vec![],
                security_groups: vec![],
                condition: PortCondition::Down,
                hybrid: false,
            });
            assert_eq!(has_orphans(&[port.unwrap()], &records), expect, "{node} {device_owner}");
        }
    }

    #[test]
    fn what_keeps_pairs_from_a_port_is_told_with_what_to_do() {
        let call = || {
            let url = "http://cloud:9696/v2.0/ports/p".to_owned();
            Box::new(Call { operation: "change_address_pairs", method: Method::PUT, url, request_id: None })
        };
        let vrrp = "Virtual MAC address fa:16:3e:00:00:01 in allowed address pair does not belong to the RFC 5798 VRRP \
                    virtual MAC ranges";
        let (kind, message) = (String::new(), String::new());
        for (error, reason, word) in [
            (
                CloudError::BadRequest { call: call(), kind: kind.clone(), message: vrrp.into() },
                "AddressPairRefused",
                "nested-vlan",
            ),
            (
                CloudError::Forbidden { call: call(), message: message.clone() },
                "CloudForbids",
                "owns its network",
            ),
            (
                CloudError::Conflict {
                    call: call(),
                    kind: "AddressPairAndPortSecurityRequired".into(),
                    message: message.clone(),
                },
                "PortSecurityOff",
                "--enable-port-security",
            ),
            (CloudError::Stale { call: call(), message: message.clone() }, "ServerPortShared", "others"),
            (CloudError::Server { call: call(), status: 500, message }, "CloudUnreachable", "tried again"),
        ] {
            let told = told("allowing addresses", &error);
            assert_eq!(told.reason, reason);
            assert!(told.message.contains(word), "{word} in {}", told.message);
        }
    }
}
