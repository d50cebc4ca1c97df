//! Every option of Kuryr, declared once: section, name, type, default, unit, meaning, and why the default.
//!
//! One static per option, in one module per section. Programs read by [`Conf::get`](crate::Conf::get), which
//! takes the type from here; the reference and the warnings read the same declarations. Names and meanings are
//! upstream's where upstream has the option; what is new here says so.
//!
//! Sources: Kuryr-Kubernetes 10.0, `config.py` and its sample; kuryr-lib, `config.py`; os-vif, `[os_vif_ovs]`.

use std::{collections::BTreeMap, marker::PhantomData, ops::RangeInclusive, path::PathBuf, time::Duration};

use crate::value::Value;

/// An option whose value is a `T`.
#[derive(Debug)]
pub struct Opt<T> {
    pub(crate) declared: Declared,
    value: PhantomData<fn() -> T>,
}

/// What is known about an option.
#[derive(Debug, Clone, Copy)]
pub struct Declared {
    /// Section.
    pub section: &'static str,
    /// Name.
    pub option: &'static str,
    /// Type, in words.
    pub kind: &'static str,
    /// Default, as it would be written; empty for "not set".
    pub default: &'static str,
    /// Least and greatest figure.
    pub range: Option<(i64, i64)>,
    /// The only texts allowed; empty for any.
    pub choices: &'static [&'static str],
    /// Never shown.
    pub secret: bool,
    /// Unknown to upstream.
    pub new: bool,
    /// Which program reads it.
    pub reader: Reader,
    /// What it does, with the unit.
    pub help: &'static str,
    /// Why the default is as it is; empty where there is nothing to say.
    pub why: &'static str,
}

/// Which program reads an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// `kuryr-controller`.
    Controller,
    /// `kuryr-daemon`.
    Agent,
    /// Both.
    Both,
}

impl<T: Value> Opt<T> {
    const fn new(section: &'static str, option: &'static str, default: &'static str) -> Self {
        let declared = Declared {
            section,
            option,
            kind: T::KIND,
            default,
            range: None,
            choices: &[],
            secret: false,
            new: false,
            reader: Reader::Both,
            help: "",
            why: "",
        };
        Self { declared, value: PhantomData }
    }

    /// The option of this declaration.
    #[cfg(test)]
    pub(crate) const fn of(declared: Declared) -> Self {
        Self { declared, value: PhantomData }
    }

    const fn help(mut self, help: &'static str) -> Self {
        self.declared.help = help;
        self
    }

    const fn why(mut self, why: &'static str) -> Self {
        self.declared.why = why;
        self
    }

    const fn range(mut self, least: i64, greatest: i64) -> Self {
        self.declared.range = Some((least, greatest));
        self
    }

    const fn choices(mut self, choices: &'static [&'static str]) -> Self {
        self.declared.choices = choices;
        self
    }

    const fn secret(mut self) -> Self {
        self.declared.secret = true;
        self
    }

    const fn new_here(mut self) -> Self {
        self.declared.new = true;
        self
    }

    const fn reader(mut self, reader: Reader) -> Self {
        self.declared.reader = reader;
        self
    }

    /// The declaration, for messages that name the option.
    #[must_use]
    pub const fn declared(&self) -> &Declared {
        &self.declared
    }
}

impl Declared {
    pub(crate) fn key(&self) -> (String, String) {
        (self.section.to_owned(), self.option.to_owned())
    }

    pub(crate) fn allows(&self, measure: Option<i64>, choice: Option<&str>) -> bool {
        let within = |(least, greatest)| measure.is_none_or(|figure| (least..=greatest).contains(&figure));
        let chosen = |text: &str| self.choices.is_empty() || self.choices.contains(&text);
        self.range.is_none_or(within) && choice.is_none_or(chosen)
    }

    /// What was expected instead, for errors.
    pub(crate) fn expectation(&self) -> String {
        match (self.range, self.choices) {
            (Some((least, greatest)), _) => {
                format!("expected {}, from {least} to {greatest}", self.kind)
            }
            (None, []) => format!("expected {}", self.kind),
            (None, choices) => format!("expected one of {}", choices.join(", ")),
        }
    }

    /// What to do instead, for errors.
    pub(crate) fn advice(&self) -> String {
        match self.default {
            "" => "correct the line, or remove it".to_owned(),
            default => format!("correct the line, or remove it for the default {default}"),
        }
    }

    /// How people name the option: `[section] name`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("[{}] {}", self.section, self.option)
    }
}

/// A section, for the reference.
#[derive(Debug)]
pub struct Section {
    /// Name.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// Its options.
    pub options: &'static [&'static Declared],
    /// What else is read of it, without a declaration, by whom the section is handed to.
    pub others: &'static [&'static str],
}

impl Section {
    /// Every name that somebody reads.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        let declared = self.options.iter().map(|declared| declared.option);
        declared.chain(self.others.iter().copied())
    }

    /// Tells whether somebody reads an option that is written like this. Who is handed a whole section takes dashes for
    /// underscores, as keystoneauth does.
    pub(crate) fn has(&self, option: &str) -> bool {
        let is_handed_on = !self.others.is_empty();
        let option = if is_handed_on { option.replace('-', "_") } else { option.to_owned() };
        self.names().any(|name| name == option)
    }
}

/// All sections, in the order of the reference.
pub static SECTIONS: &[&Section] = &[
    &default::SECTION,
    &kubernetes::SECTION,
    &neutron::SECTION,
    &neutron_defaults::SECTION,
    &octavia_defaults::SECTION,
    &vif_pool::SECTION,
    &pod_vif_nested::SECTION,
    &binding::SECTION,
    &cni_daemon::SECTION,
    &os_vif_ovs::SECTION,
    &health_server::SECTION,
    &cni_health_server::SECTION,
    &prometheus_exporter::SECTION,
];

/// All declarations, in the order of the reference.
pub fn all() -> impl Iterator<Item = &'static Declared> {
    SECTIONS.iter().flat_map(|section| section.options.iter().copied())
}

/// The declaration of `option` in `section`, if there is one.
#[must_use]
pub fn find(section: &str, option: &str) -> Option<&'static Declared> {
    all().find(|declared| declared.section == section && declared.option == option)
}

/// What is known about a section of this name.
pub(crate) fn section(name: &str) -> Option<&'static Section> {
    SECTIONS.iter().copied().find(|section| section.name == name)
}

/// Declares the options of one section: `NAME: type = "option", "default", builder calls;`.
macro_rules! section {
    ($module:ident, $name:literal, $about:literal, $(others $others:expr,)? {
        $($option:ident: $type:ty = $text:literal, $default:literal $(, $call:ident($($argument:expr),*))*;)*
    }) => {
        #[doc = concat!("Section `[", $name, "]`.")]
        pub mod $module {
            #[allow(unused_imports, reason = "not every section has every type")]
            use super::{BTreeMap, Declared, Duration, Opt, PathBuf, RangeInclusive, Reader, Section};

            $(
                #[doc = concat!("`", $text, "`.")]
                pub static $option: Opt<$type> =
                    Opt::new($name, $text, $default)$(.$call($($argument),*))*;
            )*

            /// The section, for the reference.
            pub static SECTION: Section =
                Section { name: $name, about: $about, options: &[$(&$option.declared),*], others: [$($others,)? &[]][0] };
        }
    };
}

section!(default, "DEFAULT", "Logging.", {
    DEBUG: bool = "debug", "false",
        help("Logs decisions with their inputs, too.");
    LOG_FORMAT: String = "log_format", "text", new_here(), choices(&["text", "json"]),
        help("Form of log lines on standard error: for people, or one JSON object a line.");
    LOG_FILTER: Option<String> = "log_filter", "", new_here(),
        help("Levels by module, such as `kuryr_openstack=debug,info`; wins over `debug`.");
});

section!(kubernetes, "kubernetes", "How to reach the Kubernetes API, and what the cluster is called.", {
    API_ROOT: String = "api_root", "",
        help("URL of the API server, or several, separated by commas: when one does not answer, or goes on with errors \
              of its own, the next is asked. Empty: the kubeconfig file if one is given, else the service account of the \
              pod (`KUBERNETES_SERVICE_HOST`). That is a ClusterIP, which without another proxy leads nowhere before the \
              agent of a node has been there: agents keep in `state_dir` what it leads to and begin with that, but need \
              this option, or a kubeconfig, at their first start. Where neither is written, not even as nothing: the variable `K8S_API`."),
        why("Upstream falls back to https://localhost:6443, which is right nowhere but on a control plane.");
    KUBECONFIG: Option<PathBuf> = "kubeconfig", "", new_here(),
        help("A kubeconfig file to use instead of the options of this section.");
    SSL_CA_CRT_FILE: Option<PathBuf> = "ssl_ca_crt_file", "",
        help("Certificate authority of the API server. Not written: that of the service account, where there is one (or what the \
              kubeconfig says). Empty: the system's.");
    SSL_VERIFY_SERVER_CRT: bool = "ssl_verify_server_crt", "true",
        help("Whether the API server's certificate is verified."),
        why("Upstream does not verify by default; a token sent to an unverified server is given away.");
    TOKEN_FILE: Option<PathBuf> = "token_file", "",
        help("File with the bearer token; read again when it changes. Not written: that of the service account, where there is one (or \
              what the kubeconfig says). Empty, with `api_root`: no token."),
        why("Where `api_root` is reached over plain HTTP, upstream sends the service account's token, too; here only one that is \
             written is.");
    SSL_CLIENT_CRT_FILE: Option<PathBuf> = "ssl_client_crt_file", "",
        help("Client certificate, instead of a token.");
    SSL_CLIENT_KEY_FILE: Option<PathBuf> = "ssl_client_key_file", "",
        help("Key of the client certificate.");
    WATCH_CONNECTION_TIMEOUT: Duration = "watch_connection_timeout", "5", range(1, 600),
        help("Seconds to wait for a connection to the API server."),
        why("Upstream waits 30; where `api_root` names several servers, the next one is asked so much later.");
    WATCH_READ_TIMEOUT: Duration = "watch_read_timeout", "60", range(1, 600),
        help("Seconds to wait for the begin of an answer of the API server. What is asked about a single object is given up \
              after 30 in any case, and watches may be silent for longer.");
    ENABLED_HANDLERS: Vec<String> = "enabled_handlers", "vif,endpoints,service,kuryrloadbalancer,kuryrport",
        reader(Reader::Agent),
        help("Upstream's names of what is on. `service`: the agents bring clients on their nodes to the endpoints of \
              Services; without it Services are left to another proxy. The others have no effect: what this version \
              provides is on."),
        why("Upstream serves Services by default; two proxies on one node would both serve them.");
    SERVICE_EXTERNAL_IP_RANGES: Vec<String> = "service_external_ip_ranges", "", new_here(), reader(Reader::Agent),
        help("Prefixes in which Services may have `spec.externalIPs`, and with `!` in front what is left out of them, such as \
              `203.0.113.0/24, !203.0.113.1`. Addresses of nodes, of pods and of the API server are refused in any case; \
              leave out what else must not be taken from its clients, such as OpenStack's own services."),
        why("Whoever may write a Service could take the traffic to any address (CVE-2020-8554).");
    USE_EVENTS: bool = "use_events", "true",
        help("Whether Events are written to the objects that a problem concerns.");
    CLUSTER_ID: Option<String> = "cluster_id", "", new_here(), reader(Reader::Controller),
        help("What the resources of this cluster are tagged with in Neutron (`kuryr-cluster:<id>`), up to 46 \
              characters without `,` and `/`. Empty: the UID of the namespace `kube-system`. Once ports exist it \
              must not change: they would no longer be recognised."),
        why("The UID is unique and lives as long as the cluster's database.");
    POD_VIF_DRIVER: Option<String> = "pod_vif_driver", "", reader(Reader::Controller),
        choices(&["neutron-vif", "nested-vlan", "nested-macvlan"]),
        help("How ports reach all nodes. `neutron-vif`: they are bound to the host and plugged on its integration \
              bridge; `nested-vlan`: they are subports of the trunk of the server that the node is; \
              `nested-macvlan`: they are address pairs of that server's port. The label \
              `kuryr.openstack.org/mode` of a Node (`ovs`, `nested-vlan`, `nested-macvlan`) wins. Empty: found \
              out for each node."),
        why("A node with an integration bridge and a chassis is a host of the cloud, one whose address and MAC \
             are those of a trunk's parent port is a server in it; clusters have both.");
    POOL_DRIVER: String = "vif_pool_driver", "", choices(&["", "noop", "neutron", "nested", "multi_pool"]),
        reader(Reader::Controller),
        help("`noop`: no ports are kept ready; each is made when a pod waits for it, and deleted after the pod. All \
              others, and empty: every node has ready ports, whichever way they reach it."),
        why("Upstream's default is `noop`; a pod then waits for Neutron each time.");
    PORT_DEBUG: bool = "port_debug", "false", reader(Reader::Controller),
        help("Whether a port is called `<namespace>/<pod>` in Neutron as long as a pod has it. Otherwise all ports are called \
              after the pool of their node, `kuryr-pool/<node>`, which a port has again without a pod."),
        why("Two calls to Neutron for each pod, which otherwise needs next to none. `kubectl get kuryrport` tells the port of a \
             pod in any case.");
    OCTAVIA_PROVIDER: String = "endpoints_driver_octavia_provider", "default", reader(Reader::Controller),
        help("Octavia's provider of load balancers, such as `ovn` or `amphora`. `default`: the only one that Octavia \
              has, of several `amphora`."),
        why("As upstream has it, but a cloud with one provider needs no setting.");
    SERVICE_MODE: String = "service_mode", "node", choices(&["node", "octavia"]), new_here(),
        reader(Reader::Controller),
        help("Who serves ClusterIPs, where annotation openstack.org/kuryr-service-mode of a Service or its namespace does not \
              say otherwise. `node`: each node, for its pods and processes. `octavia`: besides, a load balancer for each \
              Service, which servers of the tenant's networks reach, too, as upstream has it; needs `[neutron_defaults] \
              service_subnets`."),
        why("A load balancer for each Service is what made upstream slow and dear.");
    LEASE_NAMESPACE: String = "lease_namespace", "kube-system", new_here(), reader(Reader::Controller),
        help("Namespace of the Lease `kuryr-controller`, by which one of several controllers is the active one.");
    NODE_GRACE: Duration = "node_grace", "60", new_here(), range(1, 86_400), reader(Reader::Controller),
        help("Seconds that a Node must be absent before its ports are taken back; they begin anew when another Node of the name \
              appears, and with each report of its agent for the former one."),
        why("A kubelet that registers again after its Node was deleted by mistake needs some seconds; the pod \
             garbage collector waits 40 seconds.");
});

/// What the OpenStack client reads of `[neutron]` besides: other ways to say the same, keystoneauth's and openstacksdk's older
/// names, and what it refuses, each with a reason. Its `credentials/settings.rs` is where they are read.
const OF_KEYSTONEAUTH: &[&str] = &[
    "user_id",
    "user_domain_id",
    "project_id",
    "project_domain_id",
    "default_domain_id",
    "default_domain_name",
    "application_credential_name",
    "network_endpoint_override",
    "load_balancer_endpoint_override",
    "verify",
    "auth_plugin",
    "user_name",
    "tenant_id",
    "tenant_name",
    "cacert",
    "ca_file",
    "cert",
    "key",
    "region",
    "interface",
    "endpoint_type",
    "api_timeout",
    "system_scope",
    "trust_id",
    "domain_id",
    "domain_name",
    "auth_section",
];

section!(neutron, "neutron",
    "How to reach Keystone and Neutron. keystoneauth's names; read by the controller only. If the section says \
     nothing, `clouds.yaml` (`OS_CLOUD`) and then the variables `OS_*` are used.", others super::OF_KEYSTONEAUTH, {
    AUTH_URL: Option<String> = "auth_url", "", reader(Reader::Controller),
        help("URL of Keystone, such as `https://cloud.example.org:5000/v3`.");
    AUTH_TYPE: Option<String> = "auth_type", "", reader(Reader::Controller),
        choices(&["password", "v3password", "v3applicationcredential"]),
        help("Kind of credentials. Empty: by what is given.");
    USERNAME: Option<String> = "username", "", reader(Reader::Controller), help("User, by name (or `user_id`).");
    PASSWORD: Option<String> = "password", "", secret(), reader(Reader::Controller), help("The user's password.");
    USER_DOMAIN_NAME: Option<String> = "user_domain_name", "", reader(Reader::Controller),
        help("Domain of the user (or `user_domain_id`).");
    PROJECT_NAME: Option<String> = "project_name", "", reader(Reader::Controller),
        help("Project, by name (or `project_id`).");
    PROJECT_DOMAIN_NAME: Option<String> = "project_domain_name", "", reader(Reader::Controller),
        help("Domain of the project (or `project_domain_id`).");
    APPLICATION_CREDENTIAL_ID: Option<String> = "application_credential_id", "", reader(Reader::Controller),
        help("Application credential, instead of user and project.");
    APPLICATION_CREDENTIAL_SECRET: Option<String> = "application_credential_secret", "", secret(),
        reader(Reader::Controller), help("Its secret.");
    REGION_NAME: Option<String> = "region_name", "", reader(Reader::Controller), help("Region of the catalogue.");
    VALID_INTERFACES: Option<String> = "valid_interfaces", "", reader(Reader::Controller),
        help("Interfaces of the catalogue in order of preference: `public`, `internal`, `admin` (or \
              `endpoint_type`). Empty: `public`.");
    ENDPOINT_OVERRIDE: Option<String> = "endpoint_override", "", reader(Reader::Controller),
        help("URL of Neutron, instead of the catalogue's.");
    CAFILE: Option<PathBuf> = "cafile", "", reader(Reader::Controller),
        help("Certificate authority of the cloud. Empty: the system's.");
    CERTFILE: Option<PathBuf> = "certfile", "", reader(Reader::Controller), help("Client certificate.");
    KEYFILE: Option<PathBuf> = "keyfile", "", reader(Reader::Controller), help("Key of the client certificate.");
    INSECURE: bool = "insecure", "false", reader(Reader::Controller),
        help("Does not verify the cloud's certificate.");
    TIMEOUT: Option<u32> = "timeout", "", range(1, 3600), reader(Reader::Controller),
        help("Seconds to wait for an answer of the cloud. Empty: 60.");
});

section!(neutron_defaults, "neutron_defaults", "What pods get in Neutron unless they ask for something else.", {
    PROJECT: Option<String> = "project", "", reader(Reader::Controller),
        help("Id of the project in which ports are made. Empty: the project of the credentials. Another project \
              than that of the credentials is refused: ports would not be recognised as ours.");
    POD_SUBNET: Option<String> = "pod_subnet", "", reader(Reader::Controller),
        help("Id of the subnet of pods.");
    POD_SUBNETS: Vec<String> = "pod_subnets", "", new_here(), reader(Reader::Controller),
        help("Ids of the subnets of pods, one for each family, all of the same network; wins over `pod_subnet`.");
    SERVICE_SUBNET: Option<String> = "service_subnet", "", reader(Reader::Controller),
        help("Id of the subnet of ClusterIPs, for those that Octavia serves (`[kubernetes] service_mode`).");
    SERVICE_SUBNETS: Vec<String> = "service_subnets", "", reader(Reader::Controller),
        help("Ids of the subnets of ClusterIPs, one for each family, both of one network if Services have two families; wins \
              over `service_subnet`.");
    POD_SECURITY_GROUPS: Vec<String> = "pod_security_groups", "", reader(Reader::Controller),
        help("Ids of the security groups of pods. Empty: one group of Kuryr's own that allows everything."),
        why("Neutron's own default group would refuse what comes from outside the group, and with it what \
             clients in the cloud send.");
    EXTERNAL_SVC_NET: Option<String> = "external_svc_net", "", reader(Reader::Controller),
        help("Id of the network that floating IPs of Services of type LoadBalancer are from. Empty: they get none, and \
              are reached by the address in `[octavia_defaults] vip_subnets`.");
    EXTERNAL_SVC_SUBNET: Option<String> = "external_svc_subnet", "", reader(Reader::Controller),
        help("Id of a subnet of that network. Empty: Neutron chooses.");
    LBAAS_ACTIVATION_TIMEOUT: Duration = "lbaas_activation_timeout", "300", range(1, 86_400),
        reader(Reader::Controller),
        help("Seconds that a load balancer may be in a state PENDING before an Event says so."),
        why("Upstream's; an amphora takes about a minute to boot.");
    OVS_BRIDGE: String = "ovs_bridge", "br-int", reader(Reader::Agent),
        help("Integration bridge of Open vSwitch.");
    OVS_HOST: Option<String> = "ovs_host", "", new_here(), reader(Reader::Agent),
        help("Host that Neutron knows this node as, to which its ports are bound: `host` of neutron-openvswitch-agent. \
              Empty: `external_ids:hostname` of Open vSwitch; with ML2/OVS, where that is not set, the name of the machine.");
    NETWORK_DEVICE_MTU: u32 = "network_device_mtu", "0", range(0, 65_535), reader(Reader::Agent),
        help("Greatest MTU of a pod's interface, in bytes. 0: that of the network.");
    RESOURCE_TAGS: Vec<String> = "resource_tags", "", reader(Reader::Controller),
        help("Tags of every Neutron resource that Kuryr makes, besides the cluster's own. Changing them hides \
              existing ports from Kuryr; add a tag to the ports first.");
    MAX_CONCURRENT_REQUESTS: u16 = "max_concurrent_requests", "16", new_here(), range(1, 256),
        reader(Reader::Controller),
        help("Requests to Neutron at the same time."),
        why("Neutron runs a few workers per core; more requests than that wait there instead of here.");
    LIST_PERIOD: Duration = "list_period", "300", new_here(), range(10, 86_400), reader(Reader::Controller),
        help("Seconds between full lists of the cluster's ports, and between looks at the pods' network, subnets and \
              groups while nothing is wrong with them. Between them the controller goes by its own writes."),
        why("A list finds what others deleted and what a lost answer created; of 5,000 ports it is ten pages.");
});

section!(octavia_defaults, "octavia_defaults", "Load balancers of Services of type LoadBalancer.", {
    LB_ALGORITHM: Option<String> = "lb_algorithm", "", reader(Reader::Controller),
        choices(&["ROUND_ROBIN", "LEAST_CONNECTIONS", "SOURCE_IP", "SOURCE_IP_PORT"]),
        help("How the member of a new connection is chosen. Empty: ROUND_ROBIN, or what the provider knows instead."),
        why("Upstream's ROUND_ROBIN is refused by provider ovn.");
    MEMBER_MODE: Option<String> = "member_mode", "", choices(&["L2", "L3"]), reader(Reader::Controller),
        help("The subnet by which members are said to be reached. `L2`: the subnet of the pod; `L3`: that of the load \
              balancer's address, from which pods are reached through a router. Empty: L2."),
        why("Provider ovn needs L2, and others do not mind.");
    TIMEOUT_CLIENT_DATA: u32 = "timeout_client_data", "0", range(0, 86_400_000), reader(Reader::Controller),
        help("Milliseconds that a client may be silent. 0: Octavia's default.");
    TIMEOUT_MEMBER_DATA: u32 = "timeout_member_data", "0", range(0, 86_400_000), reader(Reader::Controller),
        help("Milliseconds that a member may be silent. 0: Octavia's default.");
    ENABLE_HEALTH_MONITOR: bool = "enable_health_monitor", "false", new_here(), reader(Reader::Controller),
        help("Octavia itself finds out whether members answer, where a Service does not say otherwise \
              (loadbalancer.openstack.org/enable-health-monitor)."),
        why("Members are ready endpoints, which the kubelet's probes tell.");
    HEALTH_MONITOR_DELAY: u32 = "health_monitor_delay", "60", new_here(), range(1, 86_400),
        reader(Reader::Controller),
        help("Seconds between looks of a health monitor."), why("The cloud provider's default, as the others.");
    HEALTH_MONITOR_TIMEOUT: u32 = "health_monitor_timeout", "30", new_here(), range(1, 86_400),
        reader(Reader::Controller),
        help("Seconds after which a member has not answered a health monitor; at most `health_monitor_delay`.");
    HEALTH_MONITOR_MAX_RETRIES: u32 = "health_monitor_max_retries", "1", new_here(), range(1, 10),
        reader(Reader::Controller),
        help("Good looks in a row after which a member is used again.");
    HEALTH_MONITOR_MAX_RETRIES_DOWN: u32 = "health_monitor_max_retries_down", "3", new_here(), range(1, 10),
        reader(Reader::Controller),
        help("Bad looks in a row after which a member is not used any more.");
    VIP_SUBNETS: Vec<String> = "vip_subnets", "", new_here(), reader(Reader::Controller),
        help("Ids of the subnets that addresses of load balancers are from, one for each family. Empty: those of pods.");
    MEMBER_UPDATE_INTERVAL: u32 = "member_update_interval", "250", new_here(), range(0, 60_000),
        reader(Reader::Controller),
        help("Milliseconds for which further changes of a Service's endpoints are collected after one was sent; the first \
              is sent at once."),
        why("A rollout changes endpoints several times a second, and each change of a load balancer costs Octavia about a \
             tenth of a second.");
});

section!(vif_pool, "vif_pool", "How many ports each node keeps ready.", {
    READY_MIN: u32 = "ports_pool_ready_min", "20", new_here(), range(0, 1000), reader(Reader::Controller),
        help("Ports that are kept ready on each node at least, as long as none of `ports_pool_min`, \
              `ports_pool_max` and `ports_pool_batch` is set. More are, by what came at once before (for more than \
              a day) and by what a rollout of a Deployment could bring."),
        why("Neutron makes two to four ports a second where it is small, and a node starts about four pods a second: \
             what comes in the first seconds has to be there. Upstream's 5 are used up before the first new port \
             is made.");
    READY_MAX: u32 = "ports_pool_ready_max", "80", new_here(), range(0, 1000), reader(Reader::Controller),
        help("Ports that are kept ready on each node at most, as long as none of those three is set."),
        why("A kubelet takes 110 pods, and a burst of more than half of them at once is rare. So many are kept only where \
             thirty and more pods came at once lately: the ports of one burst, and those ready for the next.");
    PORTS_POOL_MIN: u32 = "ports_pool_min", "5", range(0, 1000), reader(Reader::Controller),
        help("With fewer free ports than this on a node, `ports_pool_batch` are made, or more if that does not reach \
              it. When this, `ports_pool_max` or `ports_pool_batch` is set, all three hold as upstream counts, \
              and nothing is learned.");
    PORTS_POOL_BATCH: u32 = "ports_pool_batch", "10", range(1, 100), reader(Reader::Controller),
        help("Ports that are made by one request, see `ports_pool_min`.");
    PORTS_POOL_MAX: u32 = "ports_pool_max", "0", range(0, 1000), reader(Reader::Controller),
        help("Ports that come back are deleted in Neutron when so many are free, see `ports_pool_min`. 0: never.");
    POOL_MAPPING: BTreeMap<String, String> = "vif_pool_mapping", "", reader(Reader::Controller),
        help("Pool driver by the way ports reach nodes (`[kubernetes] pod_vif_driver`), such as \
              `neutron-vif:neutron,nested-vlan:noop`: `neutron` (with `neutron-vif`) and `nested` (with `nested-vlan`) \
              keep ports ready, `noop` makes each port when a pod waits for it and deletes it after the pod. What is \
              not named goes by `[kubernetes] vif_pool_driver`.");
    POOLS_VIF_DRIVERS: BTreeMap<String, String> = "pools_vif_drivers", "", reader(Reader::Controller),
        help("Upstream's older form of `vif_pool_mapping`, with the names the other way round, such as \
              `neutron:neutron-vif,noop:nested-vlan`. Read where `vif_pool_mapping` is empty.");
    PORT_RATE: u32 = "ports_created_per_second", "20", new_here(), range(0, 10_000), reader(Reader::Controller),
        help("Ports that the whole cluster makes in a second at most, after a pause those of five seconds at once. \
              0: no bound."),
        why("More than a Neutron of a few workers can do, so a small cloud bounds itself; one that is shared by many \
             is left alone by this cluster.");
    COOL_DOWN: Duration = "ports_pool_cool_down", "30", new_here(), range(0, 3600), reader(Reader::Controller),
        help("Seconds that the address of a pod that is gone stays unused after nothing in the cluster names it \
              any more."),
        why("Cluster DNS lets answers live 30 seconds where kubeadm set it up; a client with an older answer \
             meets nobody instead of somebody else's pod.");
    SHRINK_DELAY: Duration = "ports_pool_shrink_delay", "15", new_here(), range(0, 3600),
        reader(Reader::Controller),
        help("Seconds without demand before a node's surplus is withdrawn."),
        why("Long enough to see the second half of a rolling update.");
    NODE_MAX: u32 = "ports_per_node_max", "1000", new_here(), range(1, 3000), reader(Reader::Controller),
        help("Ports of one node, in use and free, beyond which no more are made."),
        why("A node's record holds about 350 bytes for each, and the Kubernetes database takes objects up to \
             1.5 MB.");
});

section!(pod_vif_nested, "pod_vif_nested", "Nodes that are servers of the cloud.", {
    VLAN_RANGE: RangeInclusive<u16> = "vlan_range", "1:4094", new_here(), reader(Reader::Controller),
        help("First and last VLAN id that is given to subports, on each trunk anew. Ids that are on the trunk \
              already, whoever put them there, are left alone. It bounds the pods of a node."),
        why("All ids that there are; narrow it where others choose theirs on the same trunks without looking.");
});

section!(binding, "binding", "The interface of nodes that are servers of the cloud.", {
    LINK_IFACE: Option<String> = "link_iface", "", reader(Reader::Agent),
        help("Interface by which pods reach the network in nested modes. Empty: the one that carries the node's \
              address.");
});

section!(cni_daemon, "cni_daemon", "The agent on each node.", {
    NODE_NAME: Option<String> = "node_name", "", new_here(), reader(Reader::Agent),
        help("Name of the Node this agent serves. Empty: the variable `KUBERNETES_NODE_NAME`, then the host's \
              name.");
    SOCKET: PathBuf = "socket", "/run/kuryr/agent.sock", new_here(), reader(Reader::Agent),
        help("Unix socket on which the agent serves the CNI plugin.");
    STATE_DIR: PathBuf = "state_dir", "/var/lib/kuryr", new_here(), reader(Reader::Agent),
        help("Folder of the agent's durable record. It must survive a restart of the node.");
    BPF_DIR: PathBuf = "bpf_dir", "/sys/fs/bpf/kuryr", new_here(), reader(Reader::Agent),
        help("Folder on a BPF file system in which programs and maps are pinned.");
    CGROUP_DIR: Option<PathBuf> = "cgroup_dir", "", new_here(), reader(Reader::Agent),
        help("Folder of a cgroup2 file system: the processes below it reach Services. Empty: the root, which has all \
              processes of the machine."),
        why("Only machines that are several nodes at once, as for tests, need another.");
    CNI_CONF_DIR: PathBuf = "cni_conf_dir", "/etc/cni/net.d", new_here(), reader(Reader::Agent),
        help("Folder in which the agent writes the CNI configuration when it first is ready.");
    NETNS_DIR: PathBuf = "netns_dir", "/run/netns", new_here(), reader(Reader::Agent),
        help("Folder in which the container runtime keeps network namespaces.");
    OVSDB_CONNECTION: Option<String> = "ovsdb_connection", "", new_here(), reader(Reader::Agent),
        help("Where Open vSwitch's database is, such as `unix:/var/run/openvswitch/db.sock`. Empty: `[os_vif_ovs] \
              ovsdb_connection`, then that socket.");
    JOINING: String = "joining", "auto", new_here(), choices(&["auto", "ebpf", "sub-interface"]),
        reader(Reader::Agent),
        help("How pods are joined to their ports. `ebpf`: by programs on the node's ends of pods' links; \
              `sub-interface`: by an interface of the kernel's own in the pod, macvlan in mode `ovs` and VLAN (8021q) in \
              mode `nested-vlan`, while `nested-macvlan` needs `ebpf`; `auto`: by eBPF if the kernel can, else by sub-interface. Drain a node before it is \
              changed there."),
        why("Without eBPF a node does not reach its own pods directly (the kubelet's probes then need security groups that \
             admit them), a pod's addresses are not checked on the node, and a pod is cut off only when its namespace goes.");
    VIF_ANNOTATION_TIMEOUT: Duration = "vif_annotation_timeout", "60", range(1, 600), reader(Reader::Agent),
        help("Seconds that a pod's ADD may wait for a port."),
        why("The runtime asks again after an error; shorter waits only make more Events.");
    CNI_FAILURES_COUNT: u32 = "cni_failures_count", "3", range(1, 1000), reader(Reader::Agent),
        help("ADDs that fail one after another before the agent reports itself unhealthy.");
    WORKER_NUM: u32 = "worker_num", "30", range(2, 1000), reader(Reader::Agent),
        help("Pods that are connected at the same time; others wait for their turn.");
});

section!(os_vif_ovs, "os_vif_ovs", "Options of os-vif that deployments set already.", {
    OVSDB_CONNECTION: Option<String> = "ovsdb_connection", "", reader(Reader::Agent),
        help("Where Open vSwitch's database is, unless `[cni_daemon] ovsdb_connection` says it.");
});

section!(health_server, "health_server", "Health of the controller.", {
    PORT: u16 = "port", "8082", range(1, 65_535), reader(Reader::Controller),
        help("Port of `/livez` and `/readyz`, and of upstream's `/alive` and `/ready`.");
});

section!(cni_health_server, "cni_health_server", "Health of the agent.", {
    PORT: u16 = "port", "8090", range(1, 65_535), reader(Reader::Agent),
        help("Port of `/livez` and `/readyz`, and of upstream's `/alive` and `/ready`.");
    MAX_MEMORY_USAGE: i64 = "max_memory_usage", "-1", range(-1, 1_048_576), reader(Reader::Agent),
        help("Memory in MiB beyond which the agent reports itself unhealthy; -1: no bound.");
});

section!(prometheus_exporter, "prometheus_exporter", "Metrics.", {
    CONTROLLER_EXPORTER_PORT: u16 = "controller_exporter_port", "9654", range(1, 65_535),
        reader(Reader::Controller), help("Port of the controller's `/metrics`.");
    CNI_EXPORTER_PORT: u16 = "cni_exporter_port", "9655", range(1, 65_535), reader(Reader::Agent),
        help("Port of the agent's `/metrics`.");
});

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Conf;
    use std::collections::BTreeSet;

    #[test]
    fn declarations_are_complete_and_unique() {
        let mut names = BTreeSet::new();
        for declared in all() {
            assert!(names.insert(declared.name()), "{} is declared twice", declared.name());
            assert!(declared.help.ends_with('.'), "{}", declared.name());
            assert!(declared.why.is_empty() || declared.why.ends_with('.'), "{}", declared.name());
            let of_section = SECTIONS.iter().find(|section| section.name == declared.section);
            assert!(of_section.is_some());
        }
        for section in SECTIONS {
            for other in section.others {
                assert!(names.insert(format!("[{}] {other}", section.name)), "{other} is told twice");
            }
        }
    }

    #[test]
    fn defaults_are_values_of_their_types() {
        let conf = Conf::default();
        macro_rules! readable {
            ($($module:ident::$option:ident)*) => { $(conf.get(&$module::$option).unwrap();)* };
        }
        readable!(default::DEBUG default::LOG_FORMAT kubernetes::SSL_VERIFY_SERVER_CRT kubernetes::NODE_GRACE
            kubernetes::POD_VIF_DRIVER kubernetes::WATCH_READ_TIMEOUT neutron::AUTH_TYPE neutron::INSECURE
            neutron::TIMEOUT neutron_defaults::NETWORK_DEVICE_MTU neutron_defaults::LIST_PERIOD
            kubernetes::POOL_DRIVER kubernetes::OCTAVIA_PROVIDER neutron_defaults::LBAAS_ACTIVATION_TIMEOUT
            octavia_defaults::LB_ALGORITHM octavia_defaults::MEMBER_MODE octavia_defaults::TIMEOUT_CLIENT_DATA
            octavia_defaults::MEMBER_UPDATE_INTERVAL octavia_defaults::ENABLE_HEALTH_MONITOR
            octavia_defaults::HEALTH_MONITOR_DELAY octavia_defaults::HEALTH_MONITOR_TIMEOUT
            octavia_defaults::HEALTH_MONITOR_MAX_RETRIES octavia_defaults::HEALTH_MONITOR_MAX_RETRIES_DOWN vif_pool::READY_MIN vif_pool::READY_MAX vif_pool::PORTS_POOL_MIN
            vif_pool::PORTS_POOL_BATCH vif_pool::PORTS_POOL_MAX vif_pool::POOL_MAPPING vif_pool::POOLS_VIF_DRIVERS vif_pool::PORT_RATE vif_pool::COOL_DOWN
            vif_pool::SHRINK_DELAY vif_pool::NODE_MAX pod_vif_nested::VLAN_RANGE binding::LINK_IFACE cni_daemon::VIF_ANNOTATION_TIMEOUT
            cni_daemon::CNI_FAILURES_COUNT cni_daemon::WORKER_NUM health_server::PORT cni_health_server::PORT
            cni_health_server::MAX_MEMORY_USAGE prometheus_exporter::CONTROLLER_EXPORTER_PORT
            prometheus_exporter::CNI_EXPORTER_PORT);
    }
}
