//! Which of the addresses that the author of a Service asks for (`spec.externalIPs`) are served.
//!
//! Whoever may write a Service could take the traffic to any address otherwise (CVE-2020-8554). So only addresses in
//! ranges that the operator has configured are served, by default none, and never what something else needs: addresses
//! of nodes, of pods, of the API server, and those that mean the same in every network. The addresses of OpenStack's own
//! services are not known on a node; an operator whose ranges contain them leaves them out by `!`.
//!
//! Sources: Kubernetes documentation, "Service" ("External IPs"); CVE-2020-8554; OpenShift,
//! `spec.externalIP.policy` (`allowedCIDRs`, `rejectedCIDRs`).

use std::{fmt, net::IpAddr};

use ipnet::IpNet;

use super::inputs::Cluster;

/// The option, as messages name it.
const OPTION: &str = "[kubernetes] service_external_ip_ranges";

/// Ranges that are allowed, and what of them is not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExternalRanges {
    allowed: Vec<IpNet>,
    excluded: Vec<IpNet>,
}

impl ExternalRanges {
    /// Reads prefixes such as `203.0.113.0/24`, with `!` in front what is left out.
    ///
    /// # Errors
    ///
    /// The element that is no prefix.
    pub fn read(texts: &[String]) -> Result<Self, String> {
        let mut ranges = Self::default();
        for text in texts {
            let (list, prefix) = match text.strip_prefix('!') {
                Some(prefix) => (&mut ranges.excluded, prefix.trim()),
                None => (&mut ranges.allowed, text.as_str()),
            };
            let alone = || prefix.parse::<IpAddr>().ok().map(IpNet::from);
            list.push(prefix.parse().ok().or_else(alone).ok_or_else(|| text.clone())?);
        }
        Ok(ranges)
    }

    /// Whether nothing is allowed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.allowed.is_empty()
    }
}

/// Why an address is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It is no address.
    NoAddress,
    /// No ranges are configured.
    NoRanges,
    /// It is in none of the ranges.
    OutsideRanges,
    /// The ranges leave it out.
    Excluded,
    /// It means something else in every network: loopback, link-local, multicast, unspecified.
    Special,
    /// A node has it.
    Node(String),
    /// The API server is reached at it.
    Api,
    /// Pods have addresses there.
    Pods(IpNet),
    /// The Service has no ClusterIP of its family.
    Family,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddress => f.write_str("it is no address"),
            Self::NoRanges => {
                write!(f, "no external addresses are allowed; an operator can allow ranges by {OPTION}")
            }
            Self::OutsideRanges => write!(f, "it is in none of the ranges of {OPTION}"),
            Self::Excluded => write!(f, "{OPTION} leaves it out"),
            Self::Special => {
                f.write_str("a loopback, link-local, multicast or unspecified address cannot be a Service's")
            }
            Self::Node(name) => write!(f, "it is an address of node {name}; use a NodePort"),
            Self::Api => f.write_str("the API server is reached at it"),
            Self::Pods(prefix) => write!(f, "it is in {prefix}, where pods have their addresses"),
            Self::Family => f.write_str(
                "the Service has no ClusterIP of its family; set spec.ipFamilyPolicy to PreferDualStack",
            ),
        }
    }
}

/// Tells whether an address may be a Service's, and why not.
pub(super) fn admit(text: &str, cluster: &Cluster) -> Result<IpAddr, Refusal> {
    let address: IpAddr = text.parse().map_err(|_| Refusal::NoAddress)?;
    // Written as IPv6, it is the same address to a socket.
    let address = address.to_canonical();
    let within = |ranges: &[IpNet]| ranges.iter().any(|range| range.contains(&address));
    let ranges = &cluster.external_ranges;
    if ranges.is_empty() {
        return Err(Refusal::NoRanges);
    }
    if is_special(address) {
        return Err(Refusal::Special);
    }
    if !within(&ranges.allowed) {
        return Err(Refusal::OutsideRanges);
    }
    if within(&ranges.excluded) {
        return Err(Refusal::Excluded);
    }
    if let Some((name, _)) = cluster.nodes.iter().find(|(_, addresses)| addresses.contains(&address)) {
        return Err(Refusal::Node(name.clone()));
    }
    if cluster.api.contains(&address) {
        return Err(Refusal::Api);
    }
    match cluster.pod_prefixes.iter().find(|prefix| prefix.contains(&address)) {
        Some(prefix) => Err(Refusal::Pods(*prefix)),
        None => Ok(address),
    }
}

fn is_special(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    link_local || address.is_loopback() || address.is_multicast() || address.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(texts: &[&str]) -> Result<ExternalRanges, String> {
        ExternalRanges::read(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn ranges_are_prefixes_addresses_and_what_is_left_out() {
        assert!(ranges(&[]).unwrap().is_empty());
        assert!(ranges(&["!203.0.113.0/24"]).unwrap().is_empty());
        assert!(!ranges(&["203.0.113.9", "2001:db8::/64", "! 203.0.113.1"]).unwrap().is_empty());
        for wrong in ["203.0.113.0/33", "x", "!", ""] {
            assert_eq!(ranges(&["203.0.113.0/24", wrong]), Err(wrong.to_owned()));
        }
    }

    #[test]
    fn only_addresses_in_the_ranges_and_never_what_others_need() {
        let cluster = Cluster {
            nodes: [("n1".to_owned(), vec!["203.0.113.2".parse().unwrap()])].into(),
            external_ranges: ranges(&[
                "203.0.113.0/24",
                "169.254.0.0/16",
                "2001:db8::/64",
                "0.0.0.0/32",
                "!203.0.113.128/25",
            ])
            .unwrap(),
            api: [IpAddr::from([203, 0, 113, 3])].into(),
            pod_prefixes: vec!["203.0.113.64/26".parse().unwrap()],
            ..Cluster::default()
        };
        for (text, expect) in [
            ("203.0.113.9", Ok("203.0.113.9")),
            ("::ffff:203.0.113.9", Ok("203.0.113.9")),
            ("2001:db8::7", Ok("2001:db8::7")),
            ("x", Err(Refusal::NoAddress)),
            ("198.51.100.1", Err(Refusal::OutsideRanges)),
            ("203.0.113.200", Err(Refusal::Excluded)),
            ("169.254.169.254", Err(Refusal::Special)),
            ("127.0.0.1", Err(Refusal::Special)),
            ("fe80::1", Err(Refusal::Special)),
            ("::", Err(Refusal::Special)),
            ("224.0.0.1", Err(Refusal::Special)),
            ("203.0.113.2", Err(Refusal::Node("n1".into()))),
            ("::ffff:203.0.113.2", Err(Refusal::Node("n1".into()))),
            ("203.0.113.3", Err(Refusal::Api)),
            ("203.0.113.70", Err(Refusal::Pods("203.0.113.64/26".parse().unwrap()))),
        ] {
            assert_eq!(admit(text, &cluster), expect.map(|address| address.parse().unwrap()), "{text}");
        }
        let none = Cluster { external_ranges: ExternalRanges::default(), ..cluster };
        assert_eq!(admit("203.0.113.9", &none), Err(Refusal::NoRanges), "by default none");
    }
}
