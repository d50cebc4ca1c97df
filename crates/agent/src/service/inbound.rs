//! Clients that are no processes of this node: the tables of netfilter follow what Services and pods have for them.
//!
//! What they find is [`kuryr_planning::service::inbound`]'s, noted by the story of Services as it looks at one after
//! another. Here it is written, in a loop of its own: a transaction takes tens of milliseconds, and clients on the node do
//! not wait for it.
//!
//! 1. Nothing is written before all lists are complete; what an earlier agent wrote goes on meanwhile.
//! 2. Pods that may not be reached straight any more are not, from then on; those that are to be can be.
//! 3. What has been noted by then is written as one transaction, and so is what of the node's own leaves with the address of
//!    its port ([`kuryr_planning::uplink::ways::departures`]).
//! 4. Flows of UDP to endpoints that are none any more are forgotten.
//!
//! On a node with a switch and without a port of its own there are no such tables: nothing would bring what pods answer back
//! to the node.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ipnet::IpNet;
use kuryr_datapath::{
    Affinity, Departures, Inbound as Tables, InboundEntry as Entry,
    inbound::{MARK, STRAIGHT_MARK},
};
use kuryr_planning::{
    service::{
        Family, Frontend, Owner, Plan, Problem, Protocol,
        inbound::{Arrival, Arrivals, Flow, Found, Inbound, Lead, is_stale},
        straight,
    },
    uplink::ways,
};
use tokio::{sync::Notify, time::timeout};

use super::Work;
use crate::{
    error::{Result, with_causes},
    kernel::Datapath,
    wiring::World,
};

/// Between two transactions: what changes meanwhile goes into the next.
const BETWEEN: Duration = Duration::from_millis(100);
/// How soon it is seen that the node has got a port of its own, and how soon a failure is followed by another attempt.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Whether clients from outside reach Services at this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum InboundHealth {
    /// Not known yet.
    #[default]
    Starting,
    /// They do.
    Served,
    /// They do not, as the node has no port of its own.
    NoOwnPort,
    /// They do not.
    NotServed {
        /// What the node lacks.
        why: String,
    },
}

impl fmt::Display for InboundHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting | Self::Served => Ok(()),
            Self::NoOwnPort => f.write_str(
                "; not for clients outside the node, which has no port of its own on the pods' network",
            ),
            Self::NotServed { why } => write!(f, "; not for clients outside the node: {why}"),
        }
    }
}

/// What this part remembers.
#[derive(Debug, Default)]
pub(super) struct Noted {
    wake: Notify,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    arrivals: Arrivals,
    /// The node's addresses.
    own: Vec<IpAddr>,
    /// All lists have been looked at.
    complete: bool,
    /// The tables have to be looked after, which somebody may take away.
    look_after: bool,
    health: InboundHealth,
}

impl Noted {
    /// Notes what an owner has for clients from outside, on a node with these addresses; tells what there was no room for.
    pub(super) fn note(
        &self,
        owner: &Owner,
        inbound: BTreeMap<Frontend, Inbound>,
        plan: &Plan,
        own: &[IpAddr],
    ) -> Vec<Problem> {
        let noted = self.known().arrivals.note(owner, inbound, &plan.problems, own);
        if noted.is_new {
            self.wake.notify_one();
        }
        noted.problems
    }

    /// Notes that everything has been noted, on a node with these addresses; other owners are none any more.
    pub(super) fn complete(&self, own: &[IpAddr], is_known: impl Fn(&Owner) -> bool) {
        let mut known = self.known();
        known.arrivals.retain(is_known);
        known.own = own.to_vec();
        (known.complete, known.look_after) = (true, true);
        self.wake.notify_one();
    }

    /// How it is.
    pub(super) fn health(&self) -> InboundHealth {
        self.known().health.clone()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // What a panic leaves half noted is noted again with the next look at all.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether what is translated finds its way to pods and back.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Leading {
    /// It does.
    Found,
    /// It does not to these networks.
    Missing(Vec<IpNet>),
    /// The node has no port of its own.
    NoOwnPort,
}

/// What the node's record says for these tables.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Site {
    leading: Leading,
    /// Addresses of pods whose ports are open.
    open: BTreeSet<IpAddr>,
    /// What the node says with its own port's address.
    departures: ways::Departures,
}

/// None: it is not known yet.
fn site(world: &World) -> Option<Site> {
    let departures = departures(world)?;
    Some(Site { leading: leading(world)?, open: open(world), departures })
}

/// None: the node's addresses are not known yet, and what a former agent has set goes on.
fn departures(world: &World) -> Option<ways::Departures> {
    let state = world.state.get();
    let spec = state.offer()?.spec();
    let is_known = spec.own_port.is_none() || !state.node_addresses.is_empty();
    is_known.then(|| ways::departures(spec, &state.node_addresses))
}

/// Addresses of pods that may be reached straight.
pub(super) fn open(world: &World) -> BTreeSet<IpAddr> {
    known_open(world).unwrap_or_default()
}

/// The same; none as long as the node's record or kernel is not known.
fn known_open(world: &World) -> Option<BTreeSet<IpAddr>> {
    let state = world.state.get();
    let offer = state.offer().filter(|_| world.kernel.has_entries())?;
    Some(straight::open(offer.spec()))
}

/// Takes pods off the straight way that may not be reached so any more. That needs the record only: it may take for ever
/// until all Services are known, and the kernel has what a former agent left there. `admitted` is what was told it last.
async fn close(world: &World, admitted: &mut Option<BTreeSet<IpAddr>>) {
    let Some(open) = known_open(world).filter(|open| admitted.as_ref() != Some(open)) else { return };
    let may = open.clone();
    let take = move |node: &dyn Datapath| node.set_straight(&BTreeSet::new(), &may);
    match world.kernel.urgent("take pods off the straight way", take).await {
        Ok(()) => *admitted = Some(open),
        Err(error) => tracing::warn!("pods stay reachable from outside: {}", with_causes(&error)),
    }
}

fn leading(world: &World) -> Option<Leading> {
    let state = world.state.get();
    let spec = state.offer()?.spec();
    if spec.own_port.is_some() {
        return Some(Leading::Found);
    }
    if !spec.mode.is_nested() {
        return Some(Leading::NoOwnPort);
    }
    let missing = world.memory().ways.as_ref()?.missing.clone();
    Some(if missing.is_empty() { Leading::Found } else { Leading::Missing(missing) })
}

/// What has come since the last write.
#[derive(Debug, Default)]
struct Since {
    /// What the record said then.
    site: Option<Site>,
    /// Something has been noted since.
    woken: bool,
}

impl Since {
    /// What to write by, if there is something to write; that counts as written then.
    fn due(&mut self, woken: bool, site: Option<Site>, known: &Known) -> Option<Site> {
        // What is noted while it is not known how to lead waits for that.
        self.woken |= woken;
        let site = site.filter(|_| known.complete)?;
        let has_failed = matches!(known.health, InboundHealth::NotServed { .. });
        let is_new =
            self.site.as_ref() != Some(&site) || (self.woken && known.health != InboundHealth::NoOwnPort);
        if !is_new && !has_failed {
            return None;
        }
        *self = Self { site: Some(site.clone()), woken: false };
        Some(site)
    }
}

/// Keeps the tables, for as long as the agent runs.
pub(crate) async fn run(world: World) {
    if !world.config.serves_services {
        return;
    }
    let noted = Arc::clone(&world.services.noted);
    let tables = Arc::new(Mutex::new(Tables::new(NFT)));
    let (mut since, mut admitted) = (Since::default(), None);
    loop {
        let woken = timeout(LOOK_AGAIN, noted.wake.notified()).await.is_ok();
        close(&world, &mut admitted).await;
        let Some(site) = since.due(woken, site(&world), &noted.known()) else { continue };
        let health = match write(&world, &tables, site).await {
            Ok(health) => health,
            Err(error) => InboundHealth::NotServed { why: with_causes(&error) },
        };
        let told = std::mem::replace(&mut noted.known().health, health.clone());
        if told != health {
            // Tells it.
            world.services.queue.add(Work::All);
        }
        tokio::time::sleep(BETWEEN).await;
    }
}

/// Found in the path.
const NFT: &str = "nft";

/// Takes the tables away.
pub(super) fn remove() -> kuryr_datapath::Result<()> {
    Tables::new(NFT).remove()
}

async fn write(world: &World, tables: &Arc<Mutex<Tables>>, site: Site) -> Result<InboundHealth> {
    let (tables, Site { leading, open, departures }) = (Arc::clone(tables), site);
    let departures = Departures { from: departures.from, to: departures.to };
    if leading == Leading::NoOwnPort {
        let remove = move || lock(&tables).remove();
        return match world.kernel.blocking("take the tables for clients outside away", remove).await? {
            Ok(()) => Ok(InboundHealth::NoOwnPort),
            Err(error) => Ok(InboundHealth::NotServed { why: error.explain() }),
        };
    }
    let (at, look_after) = {
        let mut known = world.services.noted.known();
        (known.arrivals.at(&known.own, &open), std::mem::take(&mut known.look_after))
    };
    let (led, may) = (led_straight(&at), open.clone());
    world.kernel.urgent("lead clients outside straight", move |node| node.set_straight(&led, &may)).await?;
    let set = move || set(&tables, &at, &departures, &open, look_after);
    let done = world.kernel.blocking("write the tables for clients outside", set);
    Ok(match done.await? {
        Ok(lacking) if lacking.is_empty() => match leading {
            Leading::Missing(networks) => InboundHealth::NotServed { why: no_route(&networks) },
            Leading::Found | Leading::NoOwnPort => InboundHealth::Served,
        },
        Ok(lacking) => InboundHealth::NotServed { why: lacking_settings(&lacking) },
        Err(error) => InboundHealth::NotServed { why: error.explain() },
    })
}

/// Addresses of endpoints that are reached straight.
fn led_straight(at: &BTreeMap<Arrival, Found>) -> BTreeSet<IpAddr> {
    let straight = at.values().filter(|found| found.is_straight);
    let targets = straight.filter_map(|found| match &found.inbound.lead {
        Lead::Targets(targets) => Some(targets),
        Lead::Refused | Lead::Dropped => None,
    });
    targets.flatten().map(|target| target.address).collect()
}

fn no_route(networks: &[IpNet]) -> String {
    let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
    format!(
        "the node has no route to pods in {}; give it one, by the router of the cloud",
        networks.join(", ")
    )
}

fn lacking_settings(lacking: &[&str]) -> String {
    let settings: Vec<String> = lacking.iter().map(|key| format!("{key} is 0")).collect();
    format!("the kernel does not forward: {}; set it to 1 by sysctl", settings.join(", "))
}

/// Tells which settings the kernel lacks to forward.
fn set(
    tables: &Mutex<Tables>,
    at: &BTreeMap<Arrival, Found>,
    departures: &Departures,
    open: &BTreeSet<IpAddr>,
    look_after: bool,
) -> kuryr_datapath::Result<Vec<&'static str>> {
    let wanted: BTreeMap<_, _> =
        at.iter().map(|(arrival, found)| (kernel_arrival(arrival), entry(arrival, found))).collect();
    let families: BTreeSet<Family> = at.keys().map(|arrival| Family::of(arrival.address)).collect();
    let changed = {
        let mut tables = lock(tables);
        if look_after {
            tables.look_after();
        }
        tables.set(&wanted, departures)?
    };
    // Also when the tables stay: an endpoint that was only served to the end has ended.
    if changed || at.keys().any(|arrival| arrival.protocol == Protocol::Udp) {
        forget_stale(at, open)?;
    }
    let lacking = kuryr_datapath::sysctl::not_forwarding().into_iter();
    Ok(lacking.filter(|key| families.contains(&family_of_setting(key))).collect())
}

fn family_of_setting(key: &str) -> Family {
    if key.starts_with("net/ipv4") { Family::V4 } else { Family::V6 }
}

fn forget_stale(at: &BTreeMap<Arrival, Found>, open: &BTreeSet<IpAddr>) -> kuryr_datapath::Result<()> {
    let mut flows = Tables::udp_flows()?;
    flows.retain(|flow| {
        let is_straight = flow.mark == STRAIGHT_MARK;
        let ours = flow.mark == MARK || is_straight;
        is_stale(&Flow { asked: flow.asked, answered_by: flow.answered_by, ours, is_straight }, at, open)
    });
    if let Some(first) = flows.first() {
        tracing::info!(flows = flows.len(), asked = %first.asked, endpoint = %first.answered_by, "forgetting flows of UDP whose endpoint has gone");
    }
    Tables::end_flows(&flows)
}

fn lock(tables: &Mutex<Tables>) -> MutexGuard<'_, Tables> {
    // What they hold is noted after it has been written.
    tables.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kernel_arrival(arrival: &Arrival) -> kuryr_datapath::Arrival {
    let transport = match arrival.protocol {
        Protocol::Tcp => kuryr_datapath::Transport::Tcp,
        Protocol::Udp => kuryr_datapath::Transport::Udp,
    };
    kuryr_datapath::Arrival { address: arrival.address, port: arrival.port, transport }
}

fn entry(arrival: &Arrival, found: &Found) -> Entry {
    let inbound = &found.inbound;
    let lead = match &inbound.lead {
        Lead::Targets(targets) => {
            let seconds = inbound.affinity_seconds;
            let affinity = (seconds > 0).then(|| Affinity {
                seconds,
                service: number(&found.owner, inbound.service_port, arrival.protocol),
            });
            let endpoints =
                targets.iter().map(|target| SocketAddr::new(target.address, target.port)).collect();
            kuryr_datapath::Lead::Endpoints { endpoints, affinity }
        }
        Lead::Refused => kuryr_datapath::Lead::Refused,
        Lead::Dropped => kuryr_datapath::Lead::Dropped,
    };
    let admitted: Vec<IpNet> = inbound.admitted.iter().copied().collect();
    Entry { lead, admitted, is_straight: found.is_straight }
}

/// A number for a port of a Service, the same in each process (FNV-1a). Two of the same number would only cost clients of
/// both their endpoint at each change between them.
fn number(owner: &Owner, port: u16, protocol: Protocol) -> u32 {
    let text = format!("{owner} {port}/{protocol}");
    text.bytes().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use kuryr_planning::{
        claim::Own,
        service::{OwnerKind, Target},
    };
    use serde_json::json;

    use super::*;
    use crate::{checkpoint::tests::in_memory, kernel::fake::FakeKernel, wiring::fake::FakeWorld};

    #[tokio::test]
    async fn a_pod_that_is_guarded_goes_off_the_straight_way_also_before_services_are_known() {
        let fake = FakeWorld::new(in_memory(), FakeKernel::default(), Vec::new());
        let may = || fake.kernel.contents.lock().unwrap().may_be_straight.clone();
        let mut admitted = None;
        close(&fake.world, &mut admitted).await;
        assert_eq!(may(), None, "nothing is known of any pod");
        for (guarded, expect) in [(false, vec!["10.0.0.10"]), (true, vec![])] {
            let spec = json!({
                "nodeUid": "node", "checkpoint": "point",
                "ports": {"p0": {
                    "generation": "1.1", "class": "c", "mac": "fa:16:3e:00:00:01", "network": "n",
                    "addresses": [{"subnet": "s", "address": "10.0.0.10"}], "open": true, "guarded": guarded,
                }},
                "subnets": {"s": {"cidr": "10.0.0.0/24", "gateway": "10.0.0.1"}},
            });
            fake.world.state.update(|state| {
                state.own = Some(Own { node_uid: "node".into(), checkpoint: "point".into() });
                state.spec = Some(Arc::new(serde_json::from_value(spec).unwrap()));
            });
            close(&fake.world, &mut admitted).await;
            let expect: BTreeSet<IpAddr> = expect.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(may(), Some(expect));
        }
    }

    #[test]
    fn what_is_noted_is_written_once_it_is_known_how_to_lead() {
        let not_served = InboundHealth::NotServed { why: String::new() };
        let site = |leading| Site { leading, open: BTreeSet::new(), departures: ways::Departures::default() };
        let mut since = Since::default();
        let mut check = |woken, leading: Option<Leading>, health: &InboundHealth, expect: bool| {
            let known = Known { complete: true, health: health.clone(), ..Known::default() };
            let site = leading.clone().map(site);
            assert_eq!(since.due(woken, site, &known).is_some(), expect, "{woken} {leading:?} {health}");
        };
        let (found, served) = (|| Some(Leading::Found), InboundHealth::Served);
        check(true, found(), &InboundHealth::Starting, true);
        check(false, found(), &served, false);
        check(true, found(), &served, true);
        // Noted while the ports of the node are not known.
        check(true, None, &served, false);
        check(false, None, &served, false);
        check(false, found(), &served, true);
        check(false, found(), &served, false);
        check(false, found(), &not_served, true);
        check(false, Some(Leading::NoOwnPort), &served, true);
        check(true, Some(Leading::NoOwnPort), &InboundHealth::NoOwnPort, false);
        check(false, found(), &InboundHealth::NoOwnPort, true);
        let open = |text: &str| {
            let open = text.parse().into_iter().collect();
            Some(Site { open, ..site(Leading::Found) })
        };
        let incomplete = Known { health: served.clone(), ..Known::default() };
        assert_eq!(since.due(true, open(""), &incomplete), None, "not all of it has been noted");
        let known = Known { complete: true, health: served, ..Known::default() };
        for (text, expect) in [("10.1.0.4", true), ("10.1.0.4", false), ("", true)] {
            assert_eq!(since.due(false, open(text), &known).is_some(), expect, "{text}");
        }
        let from = ["192.0.2.1".parse().unwrap()].into();
        let departures = ways::Departures { from, to: BTreeSet::new() };
        let moved = Site { departures, ..site(Leading::Found) };
        assert!(since.due(false, Some(moved), &known).is_some(), "the node has another address");
    }

    #[tokio::test]
    async fn what_leaves_with_the_ports_address_waits_for_the_nodes_own() {
        let fake = FakeWorld::new(in_memory(), FakeKernel::default(), Vec::new());
        let known = |addresses: &[&str]| {
            let spec = json!({
                "nodeUid": "node", "checkpoint": "point", "ports": {},
                "ownPort": {
                    "id": "p", "mac": "fa:16:3e:00:00:99", "network": "n",
                    "addresses": [{"subnet": "s", "address": "10.0.0.200"}],
                },
                "subnets": {"s": {"cidr": "10.0.0.0/24", "gateway": "10.0.0.1"}},
            });
            fake.world.state.update(|state| {
                state.own = Some(Own { node_uid: "node".into(), checkpoint: "point".into() });
                state.spec = Some(Arc::new(serde_json::from_value(spec.clone()).unwrap()));
                state.node_addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
            });
            site(&fake.world).map(|site| site.departures.from.into_iter().collect::<Vec<_>>())
        };
        assert_eq!(known(&[]), None);
        assert_eq!(known(&["192.0.2.1", "10.0.0.200"]), Some(vec!["192.0.2.1".parse().unwrap()]));
    }

    #[test]
    fn what_clients_find_reaches_the_kernel_as_it_was_meant() {
        let owner = Owner { kind: OwnerKind::Service, namespace: "d".into(), name: "web".into() };
        let found = |inbound| Found { owner: Arc::new(owner.clone()), inbound, is_straight: false };
        let at = Arrival { address: "192.0.2.1".parse().unwrap(), port: 30080, protocol: Protocol::Udp };
        assert_eq!(kernel_arrival(&at).transport, kuryr_datapath::Transport::Udp);
        let target = Target { address: "10.1.0.4".parse().unwrap(), port: 53 };
        let range: IpNet = "10.0.0.0/8".parse().unwrap();
        let led = Inbound {
            lead: Lead::Targets([target].into()),
            admitted: [range].into(),
            service_port: 53,
            ..Inbound::default()
        };
        let kept = |affinity_seconds| entry(&at, &found(Inbound { affinity_seconds, ..led.clone() }));
        let endpoints: Vec<SocketAddr> = vec!["10.1.0.4:53".parse().unwrap()];
        let lead = kuryr_datapath::Lead::Endpoints { endpoints: endpoints.clone(), affinity: None };
        assert_eq!(kept(0), Entry { lead, admitted: vec![range], is_straight: false });
        let straight = Found { is_straight: true, ..found(led.clone()) };
        assert!(entry(&at, &straight).is_straight);
        let other = Arrival { port: 1, ..at };
        let both = [(at, straight), (other, found(Inbound { lead: Lead::Refused, ..led.clone() }))];
        assert_eq!(led_straight(&both.into()), [target.address].into());
        let affinity = Some(Affinity { seconds: 60, service: number(&owner, 53, Protocol::Udp) });
        assert_eq!(kept(60).lead, kuryr_datapath::Lead::Endpoints { endpoints, affinity });
        assert_ne!(number(&owner, 53, Protocol::Udp), number(&owner, 53, Protocol::Tcp));
        for (lead, expect) in
            [(Lead::Refused, kuryr_datapath::Lead::Refused), (Lead::Dropped, kuryr_datapath::Lead::Dropped)]
        {
            assert_eq!(entry(&at, &found(Inbound { lead, ..Inbound::default() })).lead, expect);
        }
    }
}
