//! What users may write on a Service: upstream's annotations, and those of the cloud provider.
//!
//! Each annotation that one of the two documents stands in [`TABLE`]. What is not honoured is refused with words that the
//! user reads in an Event, never silently ignored.
//!
//! Sources: Kuryr-Kubernetes 10.0 `constants.py`; cloud-provider-openstack, "Exposing applications using services of
//! LoadBalancer type", "Service annotations".

use std::collections::BTreeMap;

use kuryr_api::kuryrnode::Problem;
use kuryr_types::{LoadBalancerId, NetworkId, PortId, SubnetId};

use super::external::Words;

const UPSTREAM: &str = "openstack.org/kuryr-";
const CLOUD_PROVIDER: &str = "loadbalancer.openstack.org/";
const INTERNAL: &str = "service.beta.kubernetes.io/openstack-internal-load-balancer";
const PROVIDER: &str = "openstack.org/kuryr-octavia-provider";

/// Algorithms of Octavia.
const ALGORITHMS: [&str; 4] = ["ROUND_ROBIN", "LEAST_CONNECTIONS", "SOURCE_IP", "SOURCE_IP_PORT"];
/// Octavia's bounds of good or bad looks in a row.
const RETRIES: std::ops::RangeInclusive<u32> = 1..=10;
/// Octavia's bounds of times of monitors, in seconds; it has none above.
const SECONDS: std::ops::RangeInclusive<u32> = 1..=86_400;

/// What becomes of an annotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// It is done.
    Honoured,
    /// It is not, and why or what to do instead.
    Refused(&'static str),
    /// It is written by a program, or says something that holds anyway.
    WithoutEffect,
}

use Treatment::{Honoured, Refused, WithoutEffect};

const TLS: &str = "TLS ends in the pods: Kuryr gives Octavia no certificates";
const TAGS: &str = "the cloud provider calls it loadbalancer.openstack.org/floating-subnet-tags";
const CLASS: &str = "classes of the cloud provider's configuration are not known here; use the annotations that name networks \
                     and subnets";

/// Every annotation that is documented, and what becomes of it.
pub const TABLE: &[(&str, Treatment)] = &[
    ("openstack.org/kuryr-timeout-client-data", Honoured),
    ("openstack.org/kuryr-timeout-member-data", Honoured),
    ("openstack.org/kuryr-octavia-provider", Honoured),
    ("openstack.org/kuryr-service-mode", Honoured),
    ("service.beta.kubernetes.io/openstack-internal-load-balancer", Honoured),
    ("loadbalancer.openstack.org/floating-network-id", Honoured),
    ("loadbalancer.openstack.org/floating-subnet-id", Honoured),
    ("loadbalancer.openstack.org/floating-subnet", Honoured),
    ("loadbalancer.openstack.org/floating-subnet-tag", Honoured),
    ("loadbalancer.openstack.org/floating-subnet-tags", Honoured),
    ("loadbalancer.openstack.org/floating-tag", Refused(TAGS)),
    ("loadbalancer.openstack.org/keep-floatingip", Honoured),
    ("loadbalancer.openstack.org/class", Refused(CLASS)),
    ("loadbalancer.openstack.org/subnet-id", Honoured),
    ("loadbalancer.openstack.org/network-id", Honoured),
    ("loadbalancer.openstack.org/port-id", Honoured),
    ("loadbalancer.openstack.org/member-subnet-id", Honoured),
    ("loadbalancer.openstack.org/connection-limit", Honoured),
    ("loadbalancer.openstack.org/lb-method", Honoured),
    ("loadbalancer.openstack.org/proxy-protocol", Honoured),
    ("loadbalancer.openstack.org/x-forwarded-for", Honoured),
    ("loadbalancer.openstack.org/timeout-client-data", Honoured),
    ("loadbalancer.openstack.org/timeout-member-connect", Honoured),
    ("loadbalancer.openstack.org/timeout-member-data", Honoured),
    ("loadbalancer.openstack.org/timeout-tcp-inspect", Honoured),
    ("loadbalancer.openstack.org/enable-health-monitor", Honoured),
    ("loadbalancer.openstack.org/health-monitor-delay", Honoured),
    ("loadbalancer.openstack.org/health-monitor-timeout", Honoured),
    ("loadbalancer.openstack.org/health-monitor-max-retries", Honoured),
    ("loadbalancer.openstack.org/health-monitor-max-retries-down", Honoured),
    ("loadbalancer.openstack.org/flavor-id", Honoured),
    ("loadbalancer.openstack.org/availability-zone", Honoured),
    ("loadbalancer.openstack.org/hostname", Honoured),
    ("loadbalancer.openstack.org/default-tls-container-ref", Refused(TLS)),
    ("loadbalancer.openstack.org/load-balancer-id", Honoured),
    ("loadbalancer.openstack.org/load-balancer-address", WithoutEffect),
    ("loadbalancer.openstack.org/node-selector", WithoutEffect),
];

/// By which version of the PROXY protocol members learn who the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// Version 1, text.
    V1,
    /// Version 2, binary.
    V2,
}

/// What the annotations of a Service say of monitors; what is `None` is not said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MonitorWish {
    /// Whether there should be one.
    pub is_wanted: Option<bool>,
    /// Seconds between looks.
    pub delay: Option<u32>,
    /// Seconds after which there is no answer.
    pub timeout: Option<u32>,
    /// Good looks in a row after which a member is used again.
    pub max_retries: Option<u32>,
    /// Bad looks in a row after which a member is not used any more.
    pub max_retries_down: Option<u32>,
}

/// What the annotations of a Service ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations {
    /// No floating IP.
    pub is_internal: bool,
    /// The floating IP stays when the Service goes.
    pub keeps_floating: bool,
    /// Network of the floating IP.
    pub floating_network: Option<String>,
    /// Subnet of the floating IP.
    pub floating_subnet: Option<String>,
    /// What else is said of that subnet; none if its id is.
    pub floating_words: Option<Words>,
    /// Subnet of the VIP.
    pub vip_subnet: Option<String>,
    /// Network of the VIP.
    pub vip_network: Option<String>,
    /// Port of the VIP.
    pub vip_port: Option<String>,
    /// Subnet by which all members are reached.
    pub member_subnet: Option<String>,
    /// Most connections at a time for each port.
    pub connection_limit: Option<u32>,
    /// Milliseconds: client data, connect, member data, inspection; 0 stands for Octavia's default.
    pub timeouts: [Option<u32>; 4],
    /// How a member is chosen.
    pub algorithm: Option<String>,
    /// How members learn who the client is.
    pub proxy: Option<ProxyProtocol>,
    /// They learn it by the HTTP header `X-Forwarded-For`.
    pub forwards_for: bool,
    /// Monitors.
    pub monitor: MonitorWish,
    /// The load balancer to be shared with others.
    pub shared: Option<String>,
    /// What implements the load balancer.
    pub provider: Option<String>,
    /// Flavor.
    pub flavor: Option<String>,
    /// Availability zone.
    pub zone: Option<String>,
    /// Told instead of the address.
    pub hostname: Option<String>,
}

impl Annotations {
    /// Reads them; what cannot be honoured is told.
    #[must_use]
    pub fn read(written: &BTreeMap<String, String>) -> (Self, Vec<Problem>) {
        let mut reader = Reader { written, problems: vec![] };
        reader.refuse();
        let timeouts = TIMEOUTS.map(|name| reader.number(&of_cloud_provider(name)));
        let [client, connect, member, inspect] = timeouts;
        let upstreams = UPSTREAM_TIMEOUTS.map(|name| reader.number(&format!("{UPSTREAM}{name}")));
        let read = Self {
            is_internal: reader.truth(INTERNAL),
            keeps_floating: reader.truth(&of_cloud_provider("keep-floatingip")),
            floating_network: reader.text("floating-network-id"),
            floating_subnet: reader.text("floating-subnet-id"),
            floating_words: reader.floating_words(),
            vip_subnet: reader.text("subnet-id"),
            vip_network: reader.text("network-id"),
            vip_port: reader.text("port-id"),
            member_subnet: reader.text("member-subnet-id"),
            connection_limit: reader.limit(),
            timeouts: [upstreams[0].or(client), connect, upstreams[1].or(member), inspect],
            algorithm: reader.algorithm(),
            proxy: reader.proxy(),
            forwards_for: reader.truth(&of_cloud_provider("x-forwarded-for")),
            monitor: reader.monitor(),
            shared: reader.text("load-balancer-id"),
            provider: reader.get(PROVIDER).map(str::to_owned),
            flavor: reader.text("flavor-id"),
            zone: reader.text("availability-zone"),
            hostname: reader.text("hostname"),
        };
        (read, reader.problems)
    }
}

/// What a Service names in the cloud, by ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// A subnet.
    pub subnet: Option<SubnetId>,
    /// A network, whose subnets matter.
    pub network: Option<NetworkId>,
    /// A port.
    pub port: Option<PortId>,
    /// A load balancer to be shared.
    pub shared: Option<LoadBalancerId>,
    /// The network that floating IPs are from, whose subnets matter; the inner one is none for the configured one.
    pub external: Option<Option<NetworkId>>,
}

/// What has to be looked for in the cloud before a Service can be read. A subnet goes before a network.
#[must_use]
pub fn asked(annotations: &BTreeMap<String, String>) -> Asked {
    let (read, _) = Annotations::read(annotations);
    let network = read.vip_network.filter(|_| read.vip_subnet.is_none());
    Asked {
        subnet: read.vip_subnet.map(SubnetId::from),
        network: network.map(NetworkId::from),
        port: read.vip_port.map(PortId::from),
        shared: read.shared.map(LoadBalancerId::from),
        external: read.floating_words.map(|_| read.floating_network.map(NetworkId::from)),
    }
}

/// Those that say what a load balancer is like that is made: one that is shared stays as it is.
const OF_WHOLE: [&str; 12] = [
    PROVIDER,
    "loadbalancer.openstack.org/floating-network-id",
    "loadbalancer.openstack.org/floating-subnet-id",
    "loadbalancer.openstack.org/floating-subnet",
    "loadbalancer.openstack.org/floating-subnet-tag",
    "loadbalancer.openstack.org/floating-subnet-tags",
    "loadbalancer.openstack.org/keep-floatingip",
    "loadbalancer.openstack.org/subnet-id",
    "loadbalancer.openstack.org/network-id",
    "loadbalancer.openstack.org/port-id",
    "loadbalancer.openstack.org/flavor-id",
    "loadbalancer.openstack.org/availability-zone",
];

/// Annotations that say nothing where the load balancer is shared.
#[must_use]
pub fn of_whole(written: &BTreeMap<String, String>) -> Vec<&'static str> {
    let is_said = |name: &&str| written.get(*name).is_some_and(|value| !matches!(value.trim(), "" | "false"));
    OF_WHOLE.into_iter().filter(is_said).collect()
}

const TIMEOUTS: [&str; 4] =
    ["timeout-client-data", "timeout-member-connect", "timeout-member-data", "timeout-tcp-inspect"];
const UPSTREAM_TIMEOUTS: [&str; 2] = ["timeout-client-data", "timeout-member-data"];

fn of_cloud_provider(name: &str) -> String {
    format!("{CLOUD_PROVIDER}{name}")
}

struct Reader<'a> {
    written: &'a BTreeMap<String, String>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn problem(&mut self, message: String) {
        self.problems.push(Problem { reason: REASON.to_owned(), message });
    }

    fn refuse(&mut self) {
        for (name, value) in self.written {
            let known = TABLE.iter().find(|(known, _)| known == name);
            // Switched off is what holds anyway.
            let is_off = matches!(value.trim(), "" | "false");
            match known {
                Some((_, Refused(why))) if !is_off => self.problem(format!("annotation {name}: {why}")),
                None if name.starts_with(CLOUD_PROVIDER) => {
                    self.problem(format!("annotation {name} is not known: correct its name or remove it"));
                }
                _ => {}
            }
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.written.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &str) -> Option<String> {
        self.get(&of_cloud_provider(name)).map(str::to_owned)
    }

    fn truth(&mut self, name: &str) -> bool {
        match self.get(name) {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => {
                let message =
                    format!("annotation {name}: `{other}` is neither true nor false: taken for false");
                self.problem(message);
                false
            }
        }
    }

    fn floating_words(&self) -> Option<Words> {
        let words = Words {
            name: self.text("floating-subnet"),
            tags: self.text("floating-subnet-tags").or_else(|| self.text("floating-subnet-tag")),
        };
        let is_needed = words != Words::default() && self.text("floating-subnet-id").is_none();
        is_needed.then_some(words)
    }

    fn algorithm(&mut self) -> Option<String> {
        let name = of_cloud_provider("lb-method");
        let text = self.get(&name)?.to_owned();
        if ALGORITHMS.contains(&text.as_str()) {
            return Some(text);
        }
        let known = ALGORITHMS.join(", ");
        self.problem(format!("annotation {name}: `{text}` is none of {known}: ignored"));
        None
    }

    fn proxy(&mut self) -> Option<ProxyProtocol> {
        let name = of_cloud_provider("proxy-protocol");
        match self.get(&name)? {
            "false" => None,
            "true" | "v1" => Some(ProxyProtocol::V1),
            "v2" => Some(ProxyProtocol::V2),
            other => {
                let message =
                    format!("annotation {name}: `{other}` is none of true, false, v1, v2: taken for false");
                self.problem(message);
                None
            }
        }
    }

    fn monitor(&mut self) -> MonitorWish {
        let enable = of_cloud_provider("enable-health-monitor");
        let is_said = self.get(&enable).is_some();
        MonitorWish {
            is_wanted: is_said.then(|| self.truth(&enable)),
            delay: self.within("health-monitor-delay", &SECONDS),
            timeout: self.within("health-monitor-timeout", &SECONDS),
            max_retries: self.within("health-monitor-max-retries", &RETRIES),
            max_retries_down: self.within("health-monitor-max-retries-down", &RETRIES),
        }
    }

    fn within(&mut self, name: &str, range: &std::ops::RangeInclusive<u32>) -> Option<u32> {
        let name = of_cloud_provider(name);
        let text = self.get(&name)?;
        let number = text.parse().ok().filter(|number| range.contains(number));
        if number.is_none() {
            let (from, to) = (range.start(), range.end());
            let message = format!("annotation {name}: `{text}` is no number from {from} to {to}: ignored");
            self.problem(message);
        }
        number
    }

    fn number(&mut self, name: &str) -> Option<u32> {
        let text = self.get(name)?;
        if let Ok(number) = text.parse() {
            return Some(number);
        }
        let message = format!("annotation {name}: `{text}` is no number of milliseconds: ignored");
        self.problem(message);
        None
    }

    /// -1 is no bound, as without the annotation.
    fn limit(&mut self) -> Option<u32> {
        let name = of_cloud_provider("connection-limit");
        let text = self.get(&name)?;
        match text.parse::<i64>() {
            Ok(-1) => None,
            Ok(limit) if u32::try_from(limit).is_ok() => u32::try_from(limit).ok(),
            _ => {
                let message = format!("annotation {name}: `{text}` is no number of connections: ignored");
                self.problem(message);
                None
            }
        }
    }
}

/// Reason of Events about what cannot be done.
pub(super) const REASON: &str = "KuryrServiceOptionRefused";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(written: &[(&str, &str)]) -> (Annotations, Vec<String>) {
        let written = written.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (read, problems) = Annotations::read(&written);
        (read, problems.into_iter().map(|problem| problem.message).collect())
    }

    #[test]
    fn upstreams_timeouts_win_and_text_is_no_timeout() {
        let (got, problems) = read(&[
            ("openstack.org/kuryr-timeout-client-data", "70000"),
            ("loadbalancer.openstack.org/timeout-client-data", "1"),
            ("loadbalancer.openstack.org/timeout-member-data", "75000"),
            ("loadbalancer.openstack.org/timeout-tcp-inspect", "long"),
        ]);
        assert_eq!(got.timeouts, [Some(70_000), None, Some(75_000), None]);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].contains("timeout-tcp-inspect") && problems[0].contains("long"), "{problems:?}");
    }

    #[test]
    fn what_is_not_done_is_told_unless_it_is_switched_off() {
        for (name, value, told) in [
            ("loadbalancer.openstack.org/proxy-protocol", "v2", false),
            ("loadbalancer.openstack.org/proxy-protocol", "v3", true),
            ("loadbalancer.openstack.org/default-tls-container-ref", "https://secret", true),
            ("loadbalancer.openstack.org/class", "dmz", true),
            ("loadbalancer.openstack.org/floating-subnet", "dmz-*", false),
            ("loadbalancer.openstack.org/floating-subnet-tags", "&public,west", false),
            ("loadbalancer.openstack.org/floating-tag", "public", true),
            ("loadbalancer.openstack.org/lb-method", "RANDOM", true),
            ("loadbalancer.openstack.org/lb-method", "SOURCE_IP", false),
            ("loadbalancer.openstack.org/health-monitor-delay", "0", true),
            ("loadbalancer.openstack.org/health-monitor-max-retries", "11", true),
            ("loadbalancer.openstack.org/enable-health-monitor", "false", false),
            ("loadbalancer.openstack.org/flavour-id", "x", true),
            ("loadbalancer.openstack.org/load-balancer-address", "203.0.113.7", false),
            ("example.org/anything", "x", false),
            ("service.beta.kubernetes.io/openstack-internal-load-balancer", "yes", true),
            ("loadbalancer.openstack.org/connection-limit", "many", true),
        ] {
            let (_, problems) = read(&[(name, value)]);
            assert_eq!(!problems.is_empty(), told, "{name}: {problems:?}");
        }
    }

    #[test]
    fn what_is_honoured_is_read() {
        let (got, problems) = read(&[
            (INTERNAL, "true"),
            ("loadbalancer.openstack.org/keep-floatingip", "true"),
            ("loadbalancer.openstack.org/floating-network-id", "ext"),
            ("loadbalancer.openstack.org/subnet-id", " s4 "),
            ("loadbalancer.openstack.org/connection-limit", "100"),
            ("loadbalancer.openstack.org/hostname", "web.example.org"),
        ]);
        assert!(problems.is_empty() && got.is_internal && got.keeps_floating, "{problems:?}");
        assert_eq!((got.floating_network.as_deref(), got.vip_subnet.as_deref()), (Some("ext"), Some("s4")));
        assert_eq!((got.connection_limit, got.hostname.as_deref()), (Some(100), Some("web.example.org")));
        assert_eq!(
            read(&[("loadbalancer.openstack.org/connection-limit", "-1")]),
            (Annotations::default(), vec![])
        );
    }

    #[test]
    fn monitors_and_who_the_client_is_are_read() {
        let (got, problems) = read(&[
            ("loadbalancer.openstack.org/enable-health-monitor", "true"),
            ("loadbalancer.openstack.org/health-monitor-delay", "5"),
            ("loadbalancer.openstack.org/health-monitor-max-retries-down", "2"),
            ("loadbalancer.openstack.org/proxy-protocol", "true"),
            ("openstack.org/kuryr-octavia-provider", "amphora"),
        ]);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!((got.proxy, got.provider.as_deref()), (Some(ProxyProtocol::V1), Some("amphora")));
        let monitor =
            MonitorWish { is_wanted: Some(true), delay: Some(5), max_retries_down: Some(2), ..got.monitor };
        assert_eq!((got.monitor, got.monitor.timeout), (monitor, None));
        let off = read(&[("loadbalancer.openstack.org/enable-health-monitor", "false")]).0;
        assert_eq!(off.monitor.is_wanted, Some(false));
    }

    #[test]
    fn the_table_is_the_one_of_the_documentation() {
        let documented = include_str!("../../../../docs/services.md");
        for (name, treatment) in TABLE {
            let line = documented.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
            let line = line.unwrap_or_else(|| panic!("docs/services.md says nothing of {name}"));
            let word = match treatment {
                Honoured => "| yes",
                Refused(_) => "| refused",
                WithoutEffect => "| without effect",
            };
            assert!(line.contains(word), "{line}");
        }
    }

    #[test]
    fn the_table_names_each_annotation_once() {
        let mut names: Vec<_> = TABLE.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
    }
}
