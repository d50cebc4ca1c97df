//! What the controller runs with: `kuryr.conf` and the environment, resolved once.
//!
//! What the cloud has to say about it (whether a subnet exists, say) is not known here; the room `cloud` finds out and
//! goes on finding out, so that the process starts whatever state the cloud is in.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    ops::RangeInclusive,
    time::Duration,
};

use kuryr_api::kuryrnode::Mode;
use kuryr_conf::{
    Conf, Opt,
    options::{
        health_server, kubernetes, neutron_defaults, octavia_defaults, pod_vif_nested, prometheus_exporter,
        vif_pool,
    },
};
use kuryr_kubernetes::client::ClientConfig;
use kuryr_planning::{
    demand::Rate,
    loadbalancer::{External, MemberMode, MonitorSettings},
    pool::{
        Limits,
        targets::{Levels, Rule},
    },
};
use kuryr_types::{ProjectId, SecurityGroupId, SubnetId};

use crate::error::Result;

/// Name by which the controller signs its writes, its Events and its Lease; upstream's.
pub(crate) const COMPONENT: &str = "kuryr-controller";

/// They look up names of servers.
pub(crate) const BLOCKING_THREADS: usize = 8;

/// Requests for ports at the same time, of different subnets. A Neutron of a few workers has others to answer, too.
const REQUESTS_AT_ONCE: usize = 4;

/// Greatest VLAN id of a port (IEEE 802.1Q; 4095 is reserved).
const VLAN_MAX: u16 = 4094;

/// Everything the controller runs with.
#[derive(Debug)]
pub struct Config {
    /// How to reach the API server.
    pub(crate) client: ClientConfig,
    /// Namespace of the Lease.
    pub(crate) lease_namespace: String,
    /// Whether to create Events.
    pub(crate) use_events: bool,
    /// What the cluster is called in the cloud; the UID of `kube-system` if absent.
    pub(crate) cluster_id: Option<String>,
    /// What pods get.
    pub(crate) pods: PodDefaults,
    /// How to reach the cloud.
    pub(crate) cloud: CloudConfig,
    /// Load balancers of Services.
    pub(crate) balancers: BalancerConfig,
    /// How many ports.
    pub(crate) limits: Limits,
    /// Modes whose nodes keep none ready, and the limits that holds for them.
    pub(crate) unpooled: (BTreeSet<Mode>, Limits),
    /// How fast ports are made.
    pub(crate) rate: Rate,
    /// Where health is told.
    pub(crate) health: SocketAddr,
    /// Where metrics are.
    pub(crate) metrics: SocketAddr,
}

/// What pods get unless they ask for something else.
#[derive(Debug, Clone)]
pub(crate) struct PodDefaults {
    /// Subnets, one for each family.
    pub(crate) subnets: Vec<SubnetId>,
    /// Groups; empty: one of ours that allows everything.
    pub(crate) security_groups: Vec<SecurityGroupId>,
    /// Tags of what is made, besides the cluster's own.
    pub(crate) tags: Vec<String>,
    /// The only project in which ports may be made, if the user named one.
    pub(crate) project: Option<ProjectId>,
}

/// Load balancers of Services.
#[derive(Debug, Clone)]
pub(crate) struct BalancerConfig {
    /// What implements them; absent: what there is.
    pub(crate) provider: Option<String>,
    /// Subnets of their addresses; empty: those of pods.
    pub(crate) vip_subnets: Vec<SubnetId>,
    /// Octavia serves ClusterIPs where nobody says otherwise.
    pub(crate) by_octavia: bool,
    /// Subnets of ClusterIPs.
    pub(crate) service_subnets: Vec<SubnetId>,
    /// Where floating IPs are from.
    pub(crate) external: Option<External>,
    /// How members are chosen.
    pub(crate) algorithm: Option<String>,
    /// By which subnet members are reached.
    pub(crate) member_mode: Option<MemberMode>,
    /// Milliseconds that a client, and a member, may be silent; 0 for Octavia's default.
    pub(crate) timeouts: (u32, u32),
    /// Pools have health monitors where a Service does not say.
    pub(crate) has_monitors: bool,
    /// What those are like.
    pub(crate) monitor: MonitorSettings,
    /// For how long changes of members are collected, in milliseconds.
    pub(crate) coalesce: u64,
    /// For how long one may be pending before that is told, in milliseconds.
    pub(crate) activation: u64,
}

/// How to reach the cloud.
#[derive(Clone)]
pub(crate) struct CloudConfig {
    /// Section `[neutron]`.
    pub(crate) section: BTreeMap<String, String>,
    /// Environment of the process.
    pub(crate) environment: BTreeMap<String, String>,
    /// Requests at the same time.
    pub(crate) concurrency: usize,
    /// Time between full lists of ports.
    pub(crate) list_period: Duration,
}

/// Both maps may hold passwords.
impl std::fmt::Debug for CloudConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CloudConfig").field("concurrency", &self.concurrency).finish_non_exhaustive()
    }
}

impl Config {
    /// Whether what is about to come matters to any node.
    pub(crate) const fn looks_ahead(&self) -> bool {
        matches!(self.limits.levels.rule, Rule::Learned { .. })
    }

    /// The limits for nodes of this mode.
    pub(crate) fn limits_of(&self, mode: Mode) -> &Limits {
        let (unpooled, on_demand) = &self.unpooled;
        if unpooled.contains(&mode) { on_demand } else { &self.limits }
    }

    /// Resolves the configuration.
    ///
    /// # Errors
    ///
    /// An option with a value that cannot be used.
    pub fn resolve(conf: &Conf) -> Result<Self> {
        let any = |port| SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port));
        let limits = limits(conf)?;
        let on_demand = Levels { rule: Rule::Learned { least: 0, most: 0 }, ..limits.levels };
        Ok(Self {
            client: ClientConfig::resolve(conf, COMPONENT)?,
            lease_namespace: conf.get(&kubernetes::LEASE_NAMESPACE)?,
            use_events: conf.get(&kubernetes::USE_EVENTS)?,
            cluster_id: conf.get(&kubernetes::CLUSTER_ID)?,
            pods: pod_defaults(conf)?,
            balancers: balancers(conf)?,
            cloud: CloudConfig {
                section: conf.section("neutron")?,
                environment: conf.all_environment().clone(),
                concurrency: conf.get(&neutron_defaults::MAX_CONCURRENT_REQUESTS)?.into(),
                list_period: conf.get(&neutron_defaults::LIST_PERIOD)?,
            },
            unpooled: (unpooled(conf)?, Limits { levels: on_demand, ..limits.clone() }),
            rate: Rate { per_second: conf.get(&vif_pool::PORT_RATE)?, requests: REQUESTS_AT_ONCE },
            limits,
            health: any(conf.get(&health_server::PORT)?),
            metrics: any(conf.get(&prometheus_exporter::CONTROLLER_EXPORTER_PORT)?),
        })
    }
}

/// Upstream's single subnet, unless several are named.
fn pod_defaults(conf: &Conf) -> Result<PodDefaults> {
    let several = conf.get(&neutron_defaults::POD_SUBNETS)?;
    let single = || conf.get(&neutron_defaults::POD_SUBNET);
    let subnets = if several.is_empty() { single()?.into_iter().collect() } else { several };
    Ok(PodDefaults {
        subnets: subnets.into_iter().map(SubnetId::from).collect(),
        security_groups: conf
            .get(&neutron_defaults::POD_SECURITY_GROUPS)?
            .into_iter()
            .map(SecurityGroupId::from)
            .collect(),
        tags: conf.get(&neutron_defaults::RESOURCE_TAGS)?,
        project: conf.get(&neutron_defaults::PROJECT)?.map(ProjectId::from),
    })
}

fn balancers(conf: &Conf) -> Result<BalancerConfig> {
    let provider: String = conf.get(&kubernetes::OCTAVIA_PROVIDER)?;
    let subnet = conf.get(&neutron_defaults::EXTERNAL_SVC_SUBNET)?.map(SubnetId::from);
    let network = conf.get(&neutron_defaults::EXTERNAL_SVC_NET)?;
    let mode = conf.get(&octavia_defaults::MEMBER_MODE)?;
    let several = conf.get(&neutron_defaults::SERVICE_SUBNETS)?;
    let single = || conf.get(&neutron_defaults::SERVICE_SUBNET);
    let service_subnets = if several.is_empty() { single()?.into_iter().collect() } else { several };
    Ok(BalancerConfig {
        by_octavia: conf.get(&kubernetes::SERVICE_MODE)? == "octavia",
        service_subnets: service_subnets.into_iter().map(SubnetId::from).collect(),
        provider: Some(provider).filter(|name| !name.is_empty() && name != "default"),
        vip_subnets: conf.get(&octavia_defaults::VIP_SUBNETS)?.into_iter().map(SubnetId::from).collect(),
        external: network.map(|network| External { network: network.into(), subnet }),
        algorithm: conf.get(&octavia_defaults::LB_ALGORITHM)?,
        member_mode: mode.map(|mode| if mode == "L3" { MemberMode::L3 } else { MemberMode::L2 }),
        timeouts: (
            conf.get(&octavia_defaults::TIMEOUT_CLIENT_DATA)?,
            conf.get(&octavia_defaults::TIMEOUT_MEMBER_DATA)?,
        ),
        has_monitors: conf.get(&octavia_defaults::ENABLE_HEALTH_MONITOR)?,
        monitor: monitor(conf)?,
        coalesce: conf.get(&octavia_defaults::MEMBER_UPDATE_INTERVAL)?.into(),
        activation: millis(conf.get(&neutron_defaults::LBAAS_ACTIVATION_TIMEOUT)?),
    })
}

fn monitor(conf: &Conf) -> Result<MonitorSettings> {
    let monitor = MonitorSettings {
        delay: conf.get(&octavia_defaults::HEALTH_MONITOR_DELAY)?,
        timeout: conf.get(&octavia_defaults::HEALTH_MONITOR_TIMEOUT)?,
        max_retries: conf.get(&octavia_defaults::HEALTH_MONITOR_MAX_RETRIES)?,
        max_retries_down: conf.get(&octavia_defaults::HEALTH_MONITOR_MAX_RETRIES_DOWN)?,
    };
    if monitor.timeout > monitor.delay {
        let problem = format!("is longer than health_monitor_delay ({} s)", monitor.delay);
        let fix = "set it to that at most".to_owned();
        return Err(conf.invalid(&octavia_defaults::HEALTH_MONITOR_TIMEOUT, problem, fix).into());
    }
    Ok(monitor)
}

fn limits(conf: &Conf) -> Result<Limits> {
    let time = |option| -> Result<u64> { Ok(millis(conf.get::<Duration>(option)?)) };
    Ok(Limits {
        levels: Levels { rule: rule(conf)?, cap: count(conf, &vif_pool::NODE_MAX)? },
        cool_down: time(&vif_pool::COOL_DOWN)?,
        shrink_delay: time(&vif_pool::SHRINK_DELAY)?,
        node_grace: time(&kubernetes::NODE_GRACE)?,
        mode: mode(conf)?,
        vlans: vlans(conf)?,
        names_pods: conf.get(&kubernetes::PORT_DEBUG)?,
    })
}

/// The mode of all nodes, if one is named.
fn mode(conf: &Conf) -> Result<Option<Mode>> {
    let named = conf.get(&kubernetes::POD_VIF_DRIVER)?;
    Ok(named.and_then(|named| MODES.iter().find(|(vif, ..)| *vif == named).map(|(.., mode)| *mode)))
}

fn vlans(conf: &Conf) -> Result<RangeInclusive<u16>> {
    let range = conf.get(&pod_vif_nested::VLAN_RANGE)?;
    if *range.start() < 1 || *range.end() > VLAN_MAX {
        let problem = format!("leads beyond 1:{VLAN_MAX}, and other VLAN ids do not exist");
        let fix = format!("set it to 1:{VLAN_MAX} or to a part of that");
        return Err(conf.invalid(&pod_vif_nested::VLAN_RANGE, problem, fix).into());
    }
    Ok(range)
}

/// Upstream's figures as soon as one of them is written.
fn rule(conf: &Conf) -> Result<Rule> {
    let upstreams = [&vif_pool::PORTS_POOL_MIN, &vif_pool::PORTS_POOL_BATCH, &vif_pool::PORTS_POOL_MAX];
    let is_upstreams = upstreams.iter().any(|option| conf.is_set(option));
    let (least, most, names) = if is_upstreams {
        (&vif_pool::PORTS_POOL_MIN, &vif_pool::PORTS_POOL_MAX, ("ports_pool_min", "0 (no bound)"))
    } else {
        (&vif_pool::READY_MIN, &vif_pool::READY_MAX, ("ports_pool_ready_min", "more"))
    };
    let (min, max) = (count(conf, least)?, count(conf, most)?);
    if max < min && !(is_upstreams && max == 0) {
        let (name, other) = names;
        let problem = format!("is less than {name} ({min}), so ports would be made only to be deleted");
        let fix = format!("set it to at least {min}, or to {other}");
        return Err(conf.invalid(most, problem, fix).into());
    }
    if is_upstreams {
        let batch = count(conf, &vif_pool::PORTS_POOL_BATCH)?;
        Ok(Rule::Upstream { min, batch, max })
    } else {
        Ok(Rule::Learned { least: min, most: max })
    }
}

/// Modes whose nodes keep no ports ready.
fn unpooled(conf: &Conf) -> Result<BTreeSet<Mode>> {
    let (option, mapping) = pool_mapping(conf)?;
    let driver = conf.get(&kubernetes::POOL_DRIVER)?;
    let mut unpooled = BTreeSet::new();
    for (vif, pool, mode) in MODES {
        let named = mapping.get(vif);
        if let Some(named) = named.filter(|named| !["noop", pool].contains(&named.as_str())) {
            let problem = format!("{vif} has no pool driver {named}");
            let fix =
                format!("write vif_pool_mapping = {vif}:{pool} to keep ports ready, or {vif}:noop not to");
            return Err(conf.invalid(option, problem, fix).into());
        }
        if named.unwrap_or(&driver) == "noop" {
            unpooled.insert(mode);
        }
    }
    if let Some(stranger) = mapping.keys().find(|vif| MODES.iter().all(|(known, ..)| known != vif)) {
        let problem = format!("there is no way {stranger} for ports to reach nodes");
        let fix = "name neutron-vif, nested-vlan or nested-macvlan, as [kubernetes] pod_vif_driver does";
        return Err(conf.invalid(option, problem, fix).into());
    }
    Ok(unpooled)
}

/// An option that maps names to names.
type Mapping = Opt<BTreeMap<String, String>>;

/// Pool drivers by the way ports reach nodes, and the option that has them. Upstream's older one has the pool drivers first, and
/// counts where nothing is in the newer one.
fn pool_mapping(conf: &Conf) -> Result<(&'static Mapping, BTreeMap<String, String>)> {
    let mapping = conf.get(&vif_pool::POOL_MAPPING)?;
    let older = conf.get(&vif_pool::POOLS_VIF_DRIVERS)?;
    if !mapping.is_empty() || older.is_empty() {
        return Ok((&vif_pool::POOL_MAPPING, mapping));
    }
    Ok((&vif_pool::POOLS_VIF_DRIVERS, older.into_iter().map(|(pool, vif)| (vif, pool)).collect()))
}

/// Upstream's names: how ports reach nodes, and the pool driver that goes with it.
const MODES: [(&str, &str, Mode); 3] = [
    ("neutron-vif", "neutron", Mode::Ovs),
    ("nested-vlan", "nested", Mode::NestedVlan),
    ("nested-macvlan", "noop", Mode::NestedMacvlan),
];

fn count(conf: &Conf, option: &Opt<u32>) -> Result<usize> {
    Ok(usize::try_from(conf.get(option)?).unwrap_or(usize::MAX))
}

/// Time as `planning` counts it.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use kuryr_conf::Sources;

    use super::*;

    fn check(text: &str, subnets: &[&str]) {
        let conf = Conf::from_texts(&[("kuryr.conf", text)]).unwrap();
        let config = Config::resolve(&conf).unwrap();
        let got: Vec<_> = config.pods.subnets.iter().map(SubnetId::as_str).collect();
        assert_eq!(got, subnets, "{text}");
    }

    #[test]
    fn several_subnets_win_over_upstreams_one() {
        check("[neutron_defaults]\npod_subnet = a\n", &["a"]);
        check("[neutron_defaults]\npod_subnet = a\npod_subnets = b, c\n", &["b", "c"]);
        check("", &[]);
    }

    #[test]
    fn upstreams_figures_hold_as_soon_as_one_is_written() {
        let learned = |least, most| Some(Rule::Learned { least, most });
        let upstream = |min, batch, max| Some(Rule::Upstream { min, batch, max });
        for (text, expect) in [
            ("", learned(20, 80)),
            ("ports_pool_ready_min = 3", learned(3, 80)),
            ("ports_pool_ready_min = 81", None),
            ("ports_pool_min = 5", upstream(5, 10, 0)),
            ("ports_pool_batch = 3\nports_pool_ready_min = 7", upstream(5, 3, 0)),
            ("ports_pool_max = 8", upstream(5, 10, 8)),
            ("ports_pool_max = 4", None),
        ] {
            let conf = Conf::from_texts(&[("kuryr.conf", &format!("[vif_pool]\n{text}\n"))]).unwrap();
            let config = Config::resolve(&conf).ok();
            assert_eq!(config.map(|config| config.limits.levels.rule), expect, "{text}");
        }
    }

    #[test]
    fn pool_drivers_are_upstreams() {
        for (driver, mapping, expect) in [
            ("", "", Some(&[][..])),
            ("noop", "", Some(&[Mode::Ovs, Mode::NestedVlan, Mode::NestedMacvlan])),
            ("noop", "nested-vlan:nested", Some(&[Mode::Ovs, Mode::NestedMacvlan])),
            ("nested", "neutron-vif:noop", Some(&[Mode::Ovs])),
            ("multi_pool", "nested-vlan:neutron", None),
            ("", "sriov:noop", None),
        ] {
            let text = format!(
                "[kubernetes]\nvif_pool_driver = {driver}\n[vif_pool]\nvif_pool_mapping = {mapping}\n"
            );
            let conf = Conf::from_texts(&[("kuryr.conf", &text)]).unwrap();
            let config = Config::resolve(&conf).ok();
            let unpooled = config.map(|config| config.unpooled.0);
            assert_eq!(unpooled, expect.map(|modes| modes.iter().copied().collect()), "{text}");
        }
    }

    #[test]
    fn upstreams_older_pool_drivers_are_read_the_other_way_round() {
        for (older, newer, expect) in [
            ("noop:nested-vlan", "", Ok(&[Mode::NestedVlan][..])),
            ("neutron:neutron-vif,noop:nested-vlan", "", Ok(&[Mode::NestedVlan])),
            ("noop:nested-vlan", "neutron-vif:noop", Ok(&[Mode::Ovs])),
            ("neutron:nested-vlan", "", Err("[vif_pool] pools_vif_drivers = `neutron:nested-vlan`")),
            ("noop:sriov", "", Err("[vif_pool] pools_vif_drivers = `noop:sriov`")),
            ("noop:nested-vlan", "sriov:noop", Err("[vif_pool] vif_pool_mapping = `sriov:noop`")),
        ] {
            let text = format!("[vif_pool]\npools_vif_drivers = {older}\nvif_pool_mapping = {newer}\n");
            let conf = Conf::from_texts(&[("kuryr.conf", &text)]).unwrap();
            match (Config::resolve(&conf), expect) {
                (Ok(config), Ok(modes)) => {
                    assert_eq!(config.unpooled.0, modes.iter().copied().collect(), "{text}");
                }
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (got, expect) => panic!("{text}: {got:?} instead of {expect:?}"),
            }
        }
    }

    #[test]
    fn passwords_are_not_printed() {
        let secrets = [("OS_NEUTRON__PASSWORD", "verysecret"), ("OS_PASSWORD", "alsosecret")];
        let environment = secrets.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let sources = Sources { files: vec!["/dev/null".into()], environment, ..Sources::default() };
        let config = Config::resolve(&Conf::load(&sources).unwrap()).unwrap();
        assert_eq!(config.cloud.section["password"], "verysecret");
        let text = format!("{config:?}");
        assert!(!text.contains("verysecret") && !text.contains("alsosecret"), "{text}");
    }
}
