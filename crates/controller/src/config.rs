//! What the controller runs with: `kuryr.conf` and the environment, resolved once.
//!
//! What the cloud has to say about it (whether a subnet exists, say) is not known here; the room `cloud` finds out and
//! goes on finding out, so that the process starts whatever state the cloud is in.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use kuryr_conf::{
    Conf,
    options::{default, health_server, kubernetes, neutron_defaults, prometheus_exporter, vif_pool},
};
use kuryr_kubernetes::client::ClientConfig;
use kuryr_planning::pool::{Limits, targets::Levels};
use kuryr_telemetry::logging::{LogConfig, LogFormat};
use kuryr_types::{ProjectId, SecurityGroupId, SubnetId};

use crate::error::Result;

/// Name by which the controller signs its writes, its Events and its Lease; upstream's.
pub(crate) const COMPONENT: &str = "kuryr-controller";

/// The controller waits for answers, it does not compute; more threads only cost memory.
const WORKER_THREADS_MAX: usize = 4;

/// Everything the controller runs with.
#[derive(Debug)]
pub(crate) struct Config {
    /// How to log.
    pub(crate) log: LogConfig,
    /// Threads of the runtime.
    pub(crate) worker_threads: usize,
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
    /// How many ports.
    pub(crate) limits: Limits,
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
    /// Resolves the configuration. `debug` comes from the command line.
    ///
    /// # Errors
    ///
    /// An option with a value that cannot be used.
    pub(crate) fn resolve(conf: &Conf, environment: BTreeMap<String, String>, debug: bool) -> Result<Self> {
        let any = |port| SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port));
        Ok(Self {
            log: LogConfig {
                format: match conf.get(&default::LOG_FORMAT)?.as_str() {
                    "json" => LogFormat::Json,
                    _ => LogFormat::Text,
                },
                debug: debug || conf.get(&default::DEBUG)?,
                filter: conf.get(&default::LOG_FILTER)?,
            },
            worker_threads: std::thread::available_parallelism()
                .map_or(1, std::num::NonZeroUsize::get)
                .clamp(1, WORKER_THREADS_MAX),
            client: client(conf)?,
            lease_namespace: conf.get(&kubernetes::LEASE_NAMESPACE)?,
            use_events: conf.get(&kubernetes::USE_EVENTS)?,
            cluster_id: conf.get(&kubernetes::CLUSTER_ID)?,
            pods: pod_defaults(conf)?,
            cloud: CloudConfig {
                section: conf.section("neutron")?,
                environment,
                concurrency: conf.get(&neutron_defaults::MAX_CONCURRENT_REQUESTS)?.into(),
                list_period: conf.get(&neutron_defaults::LIST_PERIOD)?,
            },
            limits: limits(conf)?,
            health: any(conf.get(&health_server::PORT)?),
            metrics: any(conf.get(&prometheus_exporter::CONTROLLER_EXPORTER_PORT)?),
        })
    }
}

fn client(conf: &Conf) -> Result<ClientConfig> {
    let mut client = ClientConfig::new(format!("{COMPONENT}/{}", env!("CARGO_PKG_VERSION")));
    client.api_root = conf.get(&kubernetes::API_ROOT)?;
    client.kubeconfig = conf.get(&kubernetes::KUBECONFIG)?;
    client.ssl_ca_crt_file = conf.get(&kubernetes::SSL_CA_CRT_FILE)?;
    client.ssl_verify_server_crt = conf.get(&kubernetes::SSL_VERIFY_SERVER_CRT)?;
    client.token_file = conf.get(&kubernetes::TOKEN_FILE)?;
    client.ssl_client_crt_file = conf.get(&kubernetes::SSL_CLIENT_CRT_FILE)?;
    client.ssl_client_key_file = conf.get(&kubernetes::SSL_CLIENT_KEY_FILE)?;
    Ok(client)
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

fn limits(conf: &Conf) -> Result<Limits> {
    let count =
        |option| -> Result<usize> { Ok(usize::try_from(conf.get::<u32>(option)?).unwrap_or(usize::MAX)) };
    let time = |option| -> Result<u64> { Ok(millis(conf.get::<Duration>(option)?)) };
    let (min, max) = (conf.get(&vif_pool::PORTS_POOL_MIN)?, conf.get(&vif_pool::PORTS_POOL_MAX)?);
    if max > 0 && max < min {
        let problem =
            format!("is less than ports_pool_min ({min}), so ports would be made only to be deleted");
        let fix = format!("set it to 0 (no bound) or to at least {min}");
        return Err(conf.invalid(&vif_pool::PORTS_POOL_MAX, problem, fix).into());
    }
    Ok(Limits {
        levels: Levels {
            min: count(&vif_pool::PORTS_POOL_MIN)?,
            batch: count(&vif_pool::PORTS_POOL_BATCH)?,
            max: count(&vif_pool::PORTS_POOL_MAX)?,
            cap: count(&vif_pool::NODE_MAX)?,
        },
        cool_down: time(&vif_pool::COOL_DOWN)?,
        shrink_delay: time(&vif_pool::SHRINK_DELAY)?,
        node_grace: time(&kubernetes::NODE_GRACE)?,
    })
}

/// Time as `planning` counts it.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, subnets: &[&str]) {
        let conf = Conf::from_texts(&[("kuryr.conf", text)]).unwrap();
        let config = Config::resolve(&conf, BTreeMap::new(), false).unwrap();
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
    fn passwords_are_not_printed() {
        let conf = Conf::from_texts(&[("kuryr.conf", "[neutron]\npassword = verysecret\n")]).unwrap();
        let config =
            Config::resolve(&conf, [("OS_PASSWORD".into(), "alsosecret".into())].into(), false).unwrap();
        let text = format!("{config:?}");
        assert!(!text.contains("verysecret") && !text.contains("alsosecret"), "{text}");
    }
}
