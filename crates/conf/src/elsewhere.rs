//! Options of upstream and of the libraries it used that have no effect here, and what there is instead. Old
//! files are full of them; naming the replacement spares a search.
//!
//! Sources: Kuryr-Kubernetes 10.0, `config.py`, and its release notes for what was removed before; oslo.log,
//! oslo.concurrency, oslo.privsep, os-vif; keystoneauth, "Adapter" options.

/// An option without effect.
#[derive(Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// Section.
    pub section: &'static str,
    /// Option; `*` for the whole section.
    pub option: &'static str,
    /// What there is instead, for the sentence "... has no effect: ...".
    pub instead: &'static str,
}

/// The entry of `option`, or of its whole section.
#[must_use]
pub fn find(section: &str, option: &str) -> Option<&'static Elsewhere> {
    let matches = |known: &&Elsewhere| known.section == section && [option, "*"].contains(&known.option);
    ELSEWHERE.iter().find(matches)
}

const fn known(section: &'static str, option: &'static str, instead: &'static str) -> Elsewhere {
    Elsewhere { section, option, instead }
}

const SERVICES: &str =
    "ClusterIPs are served by the agents, and by load balancers where [kubernetes] service_mode says so";
const POLICIES: &str = "NetworkPolicies are not provided by this version";
const NAMESPACES: &str = "all namespaces share the subnets of [neutron_defaults] pod_subnets in this version";
const FOUND: &str =
    "how ports reach a node is found by the node's address and MAC, see [kubernetes] pod_vif_driver";
const MULTIPLE: &str = "pods have one interface in this version";
const POOLED: &str = "every node has ready ports, see [vif_pool] ports_pool_ready_min";
const WATCHES: &str = "watches are kept up to date by the API server and need no period";
const LEASE: &str = "several controllers agree by the Lease kuryr-controller";
const LOGS: &str = "logs go to standard error, see [DEFAULT] log_format and log_filter";
const CACHES: &str = "nothing is cached between requests that would need it";
const PRIVILEGES: &str = "the agent does its own work and starts no helper";
const RETRIES: &str = "work that failed is done again as a whole, later each time";
const CATALOGUE: &str = "services are found in the catalogue by their types, see endpoint_override";
const LIBRARY: &str = "the library that read it is not used";

/// All of them, in order of section.
pub static ELSEWHERE: &[Elsewhere] = &[
    known("DEFAULT", "pybasedir", LIBRARY),
    known("DEFAULT", "bindir", LIBRARY),
    known("DEFAULT", "subnetpool_name_prefix", LIBRARY),
    known("DEFAULT", "deployment_type", LIBRARY),
    known("DEFAULT", "log_file", LOGS),
    known("DEFAULT", "log_dir", LOGS),
    known("DEFAULT", "log_config_append", LOGS),
    known("DEFAULT", "log_date_format", LOGS),
    known("DEFAULT", "use_stderr", LOGS),
    known("DEFAULT", "use_syslog", LOGS),
    known("DEFAULT", "use_journal", LOGS),
    known("DEFAULT", "use_json", "write log_format = json"),
    known("DEFAULT", "default_log_levels", "write the levels into log_filter"),
    known("DEFAULT", "logging_context_format_string", LOGS),
    known("DEFAULT", "logging_default_format_string", LOGS),
    known("DEFAULT", "logging_debug_format_suffix", LOGS),
    known("DEFAULT", "logging_exception_prefix", LOGS),
    known("kubernetes", "pod_project_driver", "ports are made in the project of the credentials"),
    known("kubernetes", "service_project_driver", SERVICES),
    known("kubernetes", "namespace_project_driver", NAMESPACES),
    known("kubernetes", "network_policy_project_driver", POLICIES),
    known("kubernetes", "pod_subnets_driver", NAMESPACES),
    known("kubernetes", "service_subnets_driver", SERVICES),
    known("kubernetes", "pod_security_groups_driver", "see [neutron_defaults] pod_security_groups"),
    known("kubernetes", "service_security_groups_driver", SERVICES),
    known("kubernetes", "endpoints_lbaas_driver", "load balancers are always Octavia's"),
    known("kubernetes", "service_public_ip_driver", "floating IPs are always Neutron's"),
    known("kubernetes", "nodes_subnets_driver", FOUND),
    known("kubernetes", "enable_manager", POOLED),
    known("kubernetes", "watch_retry_timeout", "a watch that fails is tried again until it works"),
    known("kubernetes", "watch_reconcile_period", WATCHES),
    known("kubernetes", "controller_ha", LEASE),
    known("kubernetes", "controller_ha_elector_port", LEASE),
    known("kubernetes", "controller_ha_port", LEASE),
    known("kubernetes", "network_policy_driver", POLICIES),
    known("kubernetes", "multi_vif_drivers", MULTIPLE),
    known("kubernetes", "additional_ifname_prefix", MULTIPLE),
    known(
        "neutron",
        "collect_timing",
        "calls to the cloud are counted and timed in kuryr_controller_openstack_request_seconds",
    ),
    known("neutron", "split_loggers", "write the levels into [DEFAULT] log_filter"),
    known("neutron", "connect_retries", RETRIES),
    known("neutron", "connect_retry_delay", RETRIES),
    known("neutron", "status_code_retries", RETRIES),
    known("neutron", "status_code_retry_delay", RETRIES),
    known("neutron", "service_type", CATALOGUE),
    known("neutron", "service_name", CATALOGUE),
    known("neutron", "min_version", CATALOGUE),
    known("neutron", "max_version", CATALOGUE),
    known("neutron", "enable_dhcp", NAMESPACES),
    known("neutron", "default_subnetpool_v4", NAMESPACES),
    known("neutron", "default_subnetpool_v6", NAMESPACES),
    known("neutron", "vif_plugging_is_fatal", "see [cni_daemon] vif_annotation_timeout"),
    known("neutron", "vif_plugging_timeout", "see [cni_daemon] vif_annotation_timeout"),
    known("neutron_defaults", "subnet_mapping", MULTIPLE),
    known(
        "vif_pool",
        "ports_pool_update_frequency",
        "nothing has to be looked through periodically; a port comes back when its address has rested, see \
         ports_pool_cool_down",
    ),
    known("cni_daemon", "bind_address", "the agent listens on the unix socket [cni_daemon] socket"),
    known("cni_daemon", "pyroute2_timeout", LIBRARY),
    known("cni_daemon", "docker_mode", "namespaces are taken as the runtime names them"),
    known("cni_daemon", "netns_proc_dir", "see [cni_daemon] netns_dir"),
    known("cni_daemon", "daemon_enabled", "the agent is always used"),
    known("cni_health_server", "cg_path", "the resident memory of the agent's process is read"),
    known("octavia_defaults", "enforce_sg_rules", POLICIES),
    known("octavia_defaults", "sg_mode", POLICIES),
    known("pool_manager", "*", POOLED),
    known("namespace_subnet", "*", NAMESPACES),
    known("pod_vif_nested", "worker_nodes_subnets", FOUND),
    known("pod_vif_nested", "worker_nodes_subnet", FOUND),
    known(
        "pod_vif_nested",
        "rev_update_attempts",
        "a change that others overtook is planned again until it works",
    ),
    known("binding", "default_driver", FOUND),
    known("binding", "driver", FOUND),
    known("binding", "*", "only link_iface of this section is read"),
    known("nested_dpdk", "*", "ports of kind DPDK are not provided by this version"),
    known("vhostuser", "*", "ports of kind vhost-user are not provided by this version"),
    known("sriov", "*", "ports of kind direct are not provided by this version"),
    known("ingress", "*", "Ingresses are not provided by this version"),
    known("cache", "*", CACHES),
    known("cache_defaults", "*", CACHES),
    known("subnet_caching", "*", CACHES),
    known("nodes_caching", "*", CACHES),
    known("node_driver_caching", "*", CACHES),
    known("namespace_handler_caching", "*", CACHES),
    known("np_handler_caching", "*", CACHES),
    known("vif_handler_caching", "*", CACHES),
    known("oslo_concurrency", "*", LIBRARY),
    known("os_vif_ovs", "*", "only ovsdb_connection of this section is read"),
    known("os_vif_linux_bridge", "*", LIBRARY),
    known("vif_plug_ovs", "*", "see [cni_daemon] ovsdb_connection"),
    known("vif_plug_ovs_privileged", "*", PRIVILEGES),
    known("vif_plug_linux_bridge_privileged", "*", PRIVILEGES),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options;

    #[test]
    fn nothing_is_both_declared_and_without_effect() {
        for known in ELSEWHERE {
            let is_read = options::section(known.section).is_some_and(|section| section.has(known.option));
            assert!(!is_read, "{known:?}");
        }
        assert!(find("octavia_defaults", "enforce_sg_rules").is_some());
        assert!(find("nested_dpdk", "any").is_some());
        assert!(find("kubernetes", "no_such").is_none());
    }
}
