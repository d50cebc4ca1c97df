//! What users may write on a Service: upstream's annotations, and those of the cloud provider.
//!
//! Each annotation that one of the two documents stands in [`TABLE`]. What is not honoured is refused with words that the
//! user reads in an Event, never silently ignored.
//!
//! Sources: Kuryr-Kubernetes 10.0 `constants.py`; cloud-provider-openstack, "Exposing applications using services of
//! LoadBalancer type", "Service annotations".

use std::collections::BTreeMap;

use kuryr_api::kuryrnode::Problem;

const UPSTREAM: &str = "openstack.org/kuryr-";
const CLOUD_PROVIDER: &str = "loadbalancer.openstack.org/";
const INTERNAL: &str = "service.beta.kubernetes.io/openstack-internal-load-balancer";

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

const SHARED: &str = "each Service has a load balancer of its own in this version";
const MONITORS: &str = "members are ready endpoints, which the kubelet's probes tell; Octavia's monitors are not provided by this version";
const TLS: &str =
    "protocols above TCP, UDP and SCTP are not provided by this version; serve them in the pods";

const BY_ID: &str = "name the subnet by its id: loadbalancer.openstack.org/floating-subnet-id";

/// Every annotation that is documented, and what becomes of it.
pub const TABLE: &[(&str, Treatment)] = &[
    ("openstack.org/kuryr-timeout-client-data", Honoured),
    ("openstack.org/kuryr-timeout-member-data", Honoured),
    ("service.beta.kubernetes.io/openstack-internal-load-balancer", Honoured),
    ("loadbalancer.openstack.org/floating-network-id", Honoured),
    ("loadbalancer.openstack.org/floating-subnet-id", Honoured),
    ("loadbalancer.openstack.org/keep-floatingip", Honoured),
    ("loadbalancer.openstack.org/subnet-id", Honoured),
    ("loadbalancer.openstack.org/member-subnet-id", Honoured),
    ("loadbalancer.openstack.org/connection-limit", Honoured),
    ("loadbalancer.openstack.org/timeout-client-data", Honoured),
    ("loadbalancer.openstack.org/timeout-member-connect", Honoured),
    ("loadbalancer.openstack.org/timeout-member-data", Honoured),
    ("loadbalancer.openstack.org/timeout-tcp-inspect", Honoured),
    ("loadbalancer.openstack.org/flavor-id", Honoured),
    ("loadbalancer.openstack.org/availability-zone", Honoured),
    ("loadbalancer.openstack.org/hostname", Honoured),
    ("loadbalancer.openstack.org/load-balancer-address", WithoutEffect),
    (
        "loadbalancer.openstack.org/network-id",
        Refused("name the subnet of the VIP: loadbalancer.openstack.org/subnet-id"),
    ),
    ("loadbalancer.openstack.org/floating-subnet", Refused(BY_ID)),
    ("loadbalancer.openstack.org/floating-subnet-tags", Refused(BY_ID)),
    (
        "loadbalancer.openstack.org/class",
        Refused(
            "classes of the cloud provider's configuration are not known here; use the annotations that name networks and subnets",
        ),
    ),
    (
        "loadbalancer.openstack.org/port-id",
        Refused("a VIP on a given port is not provided by this version; name its subnet"),
    ),
    ("loadbalancer.openstack.org/load-balancer-id", Refused(SHARED)),
    ("loadbalancer.openstack.org/proxy-protocol", Refused("PROXY protocol is not provided by this version")),
    ("loadbalancer.openstack.org/x-forwarded-for", Refused(TLS)),
    ("loadbalancer.openstack.org/default-tls-container-ref", Refused(TLS)),
    ("loadbalancer.openstack.org/enable-health-monitor", Refused(MONITORS)),
    ("loadbalancer.openstack.org/health-monitor-delay", Refused(MONITORS)),
    ("loadbalancer.openstack.org/health-monitor-timeout", Refused(MONITORS)),
    ("loadbalancer.openstack.org/health-monitor-max-retries", Refused(MONITORS)),
    ("loadbalancer.openstack.org/health-monitor-max-retries-down", Refused(MONITORS)),
    ("loadbalancer.openstack.org/node-selector", WithoutEffect),
];

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
    /// Subnet of the VIP.
    pub vip_subnet: Option<String>,
    /// Subnet by which all members are reached.
    pub member_subnet: Option<String>,
    /// Most connections at a time for each port.
    pub connection_limit: Option<u32>,
    /// Milliseconds: client data, connect, member data, inspection; 0 stands for Octavia's default.
    pub timeouts: [Option<u32>; 4],
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
            vip_subnet: reader.text("subnet-id"),
            member_subnet: reader.text("member-subnet-id"),
            connection_limit: reader.limit(),
            timeouts: [upstreams[0].or(client), connect, upstreams[1].or(member), inspect],
            flavor: reader.text("flavor-id"),
            zone: reader.text("availability-zone"),
            hostname: reader.text("hostname"),
        };
        (read, reader.problems)
    }
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
            ("loadbalancer.openstack.org/proxy-protocol", "true", true),
            ("loadbalancer.openstack.org/proxy-protocol", "v2", true),
            ("loadbalancer.openstack.org/proxy-protocol", "false", false),
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
    fn the_table_names_each_annotation_once() {
        let mut names: Vec<_> = TABLE.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
    }
}
