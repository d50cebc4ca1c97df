//! What providers can do, as a table.
//!
//! Sources: Octavia, "Provider feature support matrix"; ovn-octavia-provider 11.0, `driver.py` (no `allowed_cidrs`, a
//! member's subnet is required, monitors in a whole tree are passed over), `event.py` (floating IPs of ports that it made
//! only), `common/constants.py` (protocols, algorithms, kinds of monitors) and `helper.py` (`pool_update` leaves the algorithm as it
//! is; of a session's persistence nothing counts but its timeout, which Octavia's API refuses for TCP: without one
//! clients of no pool keep their member).

use super::desired::Protocol;

/// Octavia's API from which on a request may name SCTP (2.23), or a port twice with different protocols (2.13).
const SCTP: (u16, u16) = (2, 23);
/// From which on a load balancer may have more than one VIP (2.26).
const MORE_VIPS: (u16, u16) = (2, 26);
/// From which on members may be sent version 2 of the PROXY protocol (2.22).
const PROXY_V2: (u16, u16) = (2, 22);
const SHARED_PORT: (u16, u16) = (2, 13);
/// From which on a listener may be restricted to clients (2.12).
const ALLOWED_CIDRS: (u16, u16) = (2, 12);

/// By which subnet a member is said to be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberMode {
    /// The subnet of the member itself.
    L2,
    /// The subnet of the VIP, from which members are reached through a router.
    L3,
}

/// What a provider can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Algorithms that it takes, best first; empty: all.
    pub algorithms: &'static [&'static str],
    /// The algorithm by which clients keep their member; none: whichever there is, with a session's persistence.
    pub affine_algorithm: Option<&'static str>,
    /// The algorithm of a pool can be changed.
    pub changes_algorithms: bool,
    /// Clients can be restricted.
    pub source_ranges: bool,
    /// Timeouts and limits of connections have an effect.
    pub timeouts: bool,
    /// A member must be given with its own subnet.
    pub needs_member_subnet: bool,
    /// It speaks for clients: PROXY protocol, HTTP headers.
    pub speaks_for_clients: bool,
    /// A monitor may be part of a load balancer that is made whole.
    pub takes_monitors_whole: bool,
    /// A monitor may look at members of SCTP.
    pub monitors_sctp: bool,
    /// A floating IP may lead to a port of the user's.
    pub translates_to_given_ports: bool,
}

impl Capabilities {
    /// Whether a monitor can tell which members of a protocol answer.
    #[must_use]
    pub fn monitors(self, protocol: Protocol) -> bool {
        self.monitors_sctp || protocol != Protocol::Sctp
    }
}

const AMPHORA: Capabilities = Capabilities {
    algorithms: &[],
    affine_algorithm: None,
    changes_algorithms: true,
    source_ranges: true,
    timeouts: true,
    needs_member_subnet: false,
    speaks_for_clients: true,
    takes_monitors_whole: true,
    monitors_sctp: true,
    translates_to_given_ports: true,
};
const OVN: Capabilities = Capabilities {
    algorithms: &["SOURCE_IP_PORT", "SOURCE_IP"],
    affine_algorithm: Some("SOURCE_IP"),
    changes_algorithms: false,
    source_ranges: false,
    timeouts: false,
    needs_member_subnet: true,
    speaks_for_clients: false,
    takes_monitors_whole: false,
    monitors_sctp: false,
    translates_to_given_ports: false,
};

/// What the provider of this name can do. One that is not known here is taken for one like amphora: what it cannot do
/// Octavia says.
#[must_use]
pub fn capabilities(provider: &str) -> Capabilities {
    match provider {
        "ovn" => OVN,
        _ => AMPHORA,
    }
}

/// The provider to use where none is named: the only one that there is, else amphora, as upstream has it.
#[must_use]
pub fn choose(named: Option<&str>, offered: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    if let Some(named) = named {
        return named.to_owned();
    }
    let mut offered = offered.into_iter();
    match (offered.next(), offered.next()) {
        (Some(only), None) => only.as_ref().to_owned(),
        _ => "amphora".to_owned(),
    }
}

/// Whether Octavia's API of this version knows the protocol.
#[must_use]
pub fn knows(version: (u16, u16), protocol: Protocol) -> bool {
    protocol != Protocol::Sctp || version >= SCTP
}

/// Whether two listeners may have one port with different protocols.
#[must_use]
pub fn shares_ports(version: (u16, u16)) -> bool {
    version >= SHARED_PORT
}

/// Whether a load balancer can have a VIP of each family.
#[must_use]
pub fn has_more_vips(version: (u16, u16)) -> bool {
    version >= MORE_VIPS
}

/// Whether members can be sent version 2 of the PROXY protocol.
#[must_use]
pub fn knows_proxy_v2(version: (u16, u16)) -> bool {
    version >= PROXY_V2
}

/// Whether clients of a listener can be restricted.
#[must_use]
pub fn restricts(version: (u16, u16), capabilities: Capabilities) -> bool {
    capabilities.source_ranges && version >= ALLOWED_CIDRS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_provider_is_taken_else_amphora() {
        for (named, offered, expect) in [
            (Some("octavia"), &["ovn"][..], "octavia"),
            (None, &["ovn"], "ovn"),
            (None, &["amphora", "ovn"], "amphora"),
            (None, &[], "amphora"),
        ] {
            assert_eq!(choose(named, offered.iter()), expect, "{named:?} {offered:?}");
        }
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(
            knows((2, 30), Protocol::Sctp) && !knows((2, 9), Protocol::Sctp) && knows((2, 0), Protocol::Udp)
        );
        assert!(shares_ports((2, 13)) && !shares_ports((2, 9)));
        assert!(restricts((2, 12), capabilities("amphora")) && !restricts((2, 30), capabilities("ovn")));
    }
}
