//! What the agent runs with: `kuryr.conf` and the environment, resolved once.
//!
//! The node's name is `[cni_daemon] node_name`, else the variable `KUBERNETES_NODE_NAME`, else the host's name in lower
//! case, as upstream has it. Bounds that nobody needs to change stand here with their reasons.

use std::{path::PathBuf, time::Duration};

use kuryr_conf::{
    Conf,
    options::{
        binding, cni_daemon, cni_health_server, kubernetes, neutron_defaults, os_vif_ovs, prometheus_exporter,
    },
};
use kuryr_datapath::JoinChoice;
use kuryr_kubernetes::client::ClientConfig;
use kuryr_planning::service::ExternalRanges;

use crate::error::{Error, Result};

/// Name by which the agent signs its writes and its Events; upstream's.
pub(crate) const COMPONENT: &str = "kuryr-daemon";

/// Nothing in the path of a pod uses them: they read small files.
pub(crate) const BLOCKING_THREADS: usize = 4;

/// Where distributions have Open vSwitch's database.
const OVSDB_SOCKET: &str = "/var/run/openvswitch/db.sock";

/// Upstream's name for what serves Services.
const SERVICE_HANDLER: &str = "service";

/// File in the folder of the checkpoint with addresses of API servers.
const API_SERVERS: &str = "api-servers";

/// Everything the agent runs with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the Node.
    pub(crate) node_name: String,
    /// How to reach the API server.
    pub(crate) client: ClientConfig,
    /// Whether to create Events.
    pub(crate) use_events: bool,
    /// Unix socket for the CNI plugin.
    pub(crate) socket: PathBuf,
    /// Folder of the checkpoint.
    pub(crate) state_dir: PathBuf,
    /// Folder on a bpffs.
    pub(crate) bpf_dir: PathBuf,
    /// How pods are joined to their ports.
    pub(crate) joining: JoinChoice,
    /// Whether Services are served here, and not by another proxy.
    pub(crate) serves_services: bool,
    /// Where Services may have external addresses.
    pub(crate) external_ranges: ExternalRanges,
    /// Cgroup under which the node's processes run; all of the machine's if absent.
    pub(crate) cgroup_dir: Option<PathBuf>,
    /// Folder in which the runtime looks for CNI configurations.
    pub(crate) cni_conf_dir: PathBuf,
    /// Folder in which the runtime keeps network namespaces.
    pub(crate) netns_dir: PathBuf,
    /// Unix socket of Open vSwitch's database.
    pub(crate) ovsdb_socket: PathBuf,
    /// Integration bridge.
    pub(crate) bridge: String,
    /// Host that Neutron knows this node as, if that is configured.
    pub(crate) ovs_host: Option<String>,
    /// Name of the machine.
    pub(crate) machine: Option<String>,
    /// Interface that carries pods' frames in nested modes; the one with the node's address if absent.
    pub(crate) link_iface: Option<String>,
    /// Upper bound of MTUs in bytes; 0 for none.
    pub(crate) mtu_cap: u32,
    /// How long an ADD may take.
    pub(crate) add_within: Duration,
    /// ADDs that attach at the same time.
    pub(crate) adds_at_once: usize,
    /// Failures of the node in a row after which the agent calls itself unhealthy.
    pub(crate) failures_max: u32,
    /// Memory in MiB beyond which it does so, too.
    pub(crate) memory_max_mib: Option<u64>,
    /// Port of health.
    pub(crate) health_port: u16,
    /// Port of metrics.
    pub(crate) metrics_port: u16,
}

impl Config {
    /// Resolves the configuration.
    ///
    /// # Errors
    ///
    /// An option with a value that cannot be used, or no name for the node.
    pub fn resolve(conf: &Conf) -> Result<Self> {
        Ok(Self {
            node_name: node_name(conf)?,
            client: client(conf)?,
            use_events: conf.get(&kubernetes::USE_EVENTS)?,
            socket: conf.get(&cni_daemon::SOCKET)?,
            state_dir: conf.get(&cni_daemon::STATE_DIR)?,
            bpf_dir: conf.get(&cni_daemon::BPF_DIR)?,
            joining: match conf.get(&cni_daemon::JOINING)?.as_str() {
                "ebpf" => JoinChoice::Ebpf,
                "sub-interface" => JoinChoice::SubInterface,
                _ => JoinChoice::Auto,
            },
            serves_services: conf
                .get(&kubernetes::ENABLED_HANDLERS)?
                .iter()
                .any(|name| name == SERVICE_HANDLER),
            external_ranges: external_ranges(conf)?,
            cgroup_dir: conf.get(&cni_daemon::CGROUP_DIR)?,
            cni_conf_dir: conf.get(&cni_daemon::CNI_CONF_DIR)?,
            netns_dir: conf.get(&cni_daemon::NETNS_DIR)?,
            ovsdb_socket: ovsdb_socket(conf)?,
            bridge: conf.get(&neutron_defaults::OVS_BRIDGE)?,
            ovs_host: conf.get(&neutron_defaults::OVS_HOST)?.filter(|name: &String| !name.is_empty()),
            machine: machine(),
            link_iface: conf.get(&binding::LINK_IFACE)?.filter(|name: &String| !name.is_empty()),
            mtu_cap: conf.get(&neutron_defaults::NETWORK_DEVICE_MTU)?,
            add_within: conf.get(&cni_daemon::VIF_ANNOTATION_TIMEOUT)?,
            adds_at_once: usize::try_from(conf.get(&cni_daemon::WORKER_NUM)?).unwrap_or(1),
            failures_max: conf.get(&cni_daemon::CNI_FAILURES_COUNT)?,
            memory_max_mib: u64::try_from(conf.get(&cni_health_server::MAX_MEMORY_USAGE)?).ok(),
            health_port: conf.get(&cni_health_server::PORT)?,
            metrics_port: conf.get(&prometheus_exporter::CNI_EXPORTER_PORT)?,
        })
    }
}

/// With a service account only, the API server is where this agent has found it before.
fn client(conf: &Conf) -> Result<ClientConfig> {
    let client = ClientConfig::resolve(conf, COMPONENT)?;
    let state_dir: PathBuf = conf.get(&cni_daemon::STATE_DIR)?;
    let saved_servers = client.is_by_service_account().then(|| state_dir.join(API_SERVERS));
    Ok(ClientConfig { saved_servers, ..client })
}

fn node_name(conf: &Conf) -> Result<String> {
    let written = conf.get(&cni_daemon::NODE_NAME)?;
    let environment = || conf.environment("KUBERNETES_NODE_NAME").map(str::to_owned);
    let host = || machine().map(|name| name.to_lowercase());
    let named = |name: &String| !name.is_empty();
    written.filter(named).or_else(|| environment().filter(named)).or_else(host).ok_or(Error::NoNodeName)
}

fn external_ranges(conf: &Conf) -> Result<ExternalRanges> {
    let option = &kubernetes::SERVICE_EXTERNAL_IP_RANGES;
    let expected = "expected prefixes such as 203.0.113.0/24, those that are left out with `!` in front";
    let wrong = |element: String| conf.invalid(option, expected, format!("correct `{element}`"));
    Ok(ExternalRanges::read(&conf.get(option)?).map_err(wrong)?)
}

fn machine() -> Option<String> {
    rustix::system::uname().nodename().to_str().ok().filter(|name| !name.is_empty()).map(str::to_owned)
}

/// Our own option, then the one that deployments set for os-vif. Its usual `tcp:127.0.0.1:6640` means a database that
/// listens on the network, which this agent does not use: the socket is there as well.
fn ovsdb_socket(conf: &Conf) -> Result<PathBuf> {
    let own = conf.get(&cni_daemon::OVSDB_CONNECTION)?;
    if let Some(connection) = own {
        return match connection.strip_prefix("unix:") {
            Some(path) => Ok(path.into()),
            None => Err(conf
                .invalid(
                    &cni_daemon::OVSDB_CONNECTION,
                    "only unix sockets are supported",
                    format!("write unix:{OVSDB_SOCKET}, or leave it out"),
                )
                .into()),
        };
    }
    let of_os_vif = conf.get(&os_vif_ovs::OVSDB_CONNECTION)?;
    let path = of_os_vif.as_deref().and_then(|connection| connection.strip_prefix("unix:"));
    if let (Some(connection), None) = (&of_os_vif, path) {
        tracing::warn!(
            connection,
            "[os_vif_ovs] ovsdb_connection is no unix socket and is not used; the agent uses unix:{OVSDB_SOCKET}, unless \
             [cni_daemon] ovsdb_connection names another one"
        );
    }
    Ok(path.unwrap_or(OVSDB_SOCKET).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Result<(&str, &str), ()>) {
        let conf = Conf::from_texts(&[("kuryr.conf", text)]).unwrap();
        let got = Config::resolve(&conf).map_err(drop);
        let got = got.map(|config| (config.node_name, config.ovsdb_socket.display().to_string()));
        let expect = expect.map(|(node, socket)| (node.to_owned(), socket.to_owned()));
        assert_eq!(got, expect, "{text}");
    }

    #[test]
    fn external_addresses_are_in_prefixes_or_nowhere() {
        for (ranges, expect) in [("", Some(true)), ("203.0.113.0/24, !203.0.113.1", Some(false)), ("x", None)]
        {
            let text =
                format!("[cni_daemon]\nnode_name = n\n[kubernetes]\nservice_external_ip_ranges = {ranges}\n");
            let conf = Conf::from_texts(&[("kuryr.conf", text.as_str())]).unwrap();
            let read = Config::resolve(&conf).map(|config| config.external_ranges.is_empty());
            assert_eq!(read.ok(), expect, "{ranges}");
        }
    }

    #[test]
    fn api_servers_are_kept_where_a_service_account_names_them() {
        for (api_root, expect) in [("", Some("/x/api-servers")), ("https://192.0.2.1:6443", None)] {
            let text =
                format!("[cni_daemon]\nnode_name = n\nstate_dir = /x\n[kubernetes]\napi_root = {api_root}\n");
            let conf = Conf::from_texts(&[("kuryr.conf", text.as_str())]).unwrap();
            let kept = Config::resolve(&conf).unwrap().client.saved_servers;
            assert_eq!(kept, expect.map(PathBuf::from), "{api_root}");
        }
    }

    #[test]
    fn node_and_switch() {
        let node = "[cni_daemon]\nnode_name = worker-1\n";
        check(node, Ok(("worker-1", OVSDB_SOCKET)));
        check(&format!("{node}ovsdb_connection = unix:/x/db.sock\n"), Ok(("worker-1", "/x/db.sock")));
        check(&format!("{node}ovsdb_connection = tcp:127.0.0.1:6640\n"), Err(()));
        check(
            &format!("{node}[os_vif_ovs]\novsdb_connection = unix:/y/db.sock\n"),
            Ok(("worker-1", "/y/db.sock")),
        );
        check(
            &format!("{node}[os_vif_ovs]\novsdb_connection = tcp:127.0.0.1:6640\n"),
            Ok(("worker-1", OVSDB_SOCKET)),
        );
    }
}
