//! How ports reach a node: its mode.
//!
//! 1. What the operator says wins: the Node's label, then the configuration for all nodes.
//! 2. Else a node keeps its mode as long as its record has ports; what is seen of it may be missing for a while.
//! 3. Else it is found out. The node's agent sees an integration bridge and a chassis: it is a host of the cloud, mode
//!    `ovs`. Else its address and MAC are those of the parent port of a trunk of ours: it is a server of the cloud, mode
//!    `nested-vlan`. Else nobody can know, and that is a problem to tell.
//!
//! Mode `nested-macvlan` is never found out: a server of the cloud without a trunk may be meant to have one.
//!
//! A mode is changed only while the record has no ports: they are taken back first, and a pod keeps its port until it is
//! gone.

use std::net::IpAddr;

use kuryr_api::{
    kuryrnode::{Mode, NodeUplink, Problem},
    names::MODE_LABEL,
};
use kuryr_types::PortId;

use super::{
    inputs::{NodeFacts, Record},
    trunk::Sight,
};

/// What is known of a node that its mode depends on.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// The Node's label, as written.
    pub label: Option<&'a str>,
    /// The mode of all nodes, from configuration.
    pub configured: Option<Mode>,
    /// The record's mode, if the record has ports.
    pub recorded: Option<Mode>,
    /// Host that Open vSwitch names.
    pub host: Option<&'a str>,
    /// Interface that carries the node's address.
    pub uplink: Option<&'a NodeUplink>,
    /// Addresses of the Node.
    pub addresses: &'a [IpAddr],
    /// What the node is in the cloud; `None` while nobody has looked.
    pub sight: Option<&'a Sight>,
    /// Which port is the node's, of a server of the cloud, or what was found instead; likewise.
    pub server: Option<&'a Result<PortId, Sight>>,
}

impl<'a> Seen<'a> {
    /// Puts together what is known of a node.
    #[must_use]
    pub fn of(
        record: Record<'a>,
        facts: &'a NodeFacts,
        configured: Option<Mode>,
        sight: Option<&'a Sight>,
    ) -> Self {
        let Record { spec, status } = record;
        Self {
            label: facts.label.as_deref(),
            configured,
            recorded: (!spec.ports.is_empty()).then_some(spec.mode),
            host: status.and_then(|status| status.host.as_deref()).filter(|host| !host.is_empty()),
            uplink: status.and_then(|status| status.uplink.as_ref()),
            addresses: &facts.addresses,
            sight,
            server: None,
        }
    }

    /// Tells whether the mode of the node, or what it provides, depends on trunks. Where that is so of no node,
    /// nobody has to look at them.
    #[must_use]
    pub fn asks_for_trunks(&self) -> bool {
        let wanted = wanted(self).ok().flatten();
        match (wanted, self.recorded) {
            (_, Some(Mode::NestedVlan)) | (Some(Mode::NestedVlan), _) => true,
            (Some(_), _) | (None, Some(_)) => false,
            (None, None) => self.host.is_none(),
        }
    }

    /// The same for the port of the server that the node is.
    #[must_use]
    pub fn asks_for_server(&self) -> bool {
        let wanted = wanted(self).ok().flatten();
        [wanted, self.recorded].contains(&Some(Mode::NestedMacvlan))
    }
}

/// What follows for the mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing is changed until more is known.
    Wait(Option<Problem>),
    /// This is the mode, whether its ports can be provided now or not.
    Serve(Mode, Option<Problem>),
    /// The record's ports are taken back, because another mode is wanted.
    Drain(Problem),
}

/// Decides the mode.
#[must_use]
pub fn decide(seen: &Seen<'_>) -> Decision {
    match wanted(seen) {
        Ok(Some(mode)) if seen.recorded.is_some_and(|recorded| recorded != mode) => {
            Decision::Drain(changes(seen.recorded.unwrap_or(mode), mode))
        }
        Ok(Some(mode)) => serve(mode, seen, None),
        Ok(None) => match seen.recorded {
            Some(mode) => serve(mode, seen, None),
            None => find(seen),
        },
        Err(problem) => match seen.recorded {
            Some(mode) => serve(mode, seen, Some(problem)),
            None => Decision::Wait(Some(problem)),
        },
    }
}

/// What the operator says.
fn wanted(seen: &Seen<'_>) -> Result<Option<Mode>, Problem> {
    let Some(label) = seen.label else { return Ok(seen.configured) };
    let named = Mode::ALL.into_iter().find(|mode| mode.as_str() == label);
    named.map(Some).ok_or_else(|| {
        let known = Mode::ALL.map(Mode::as_str).join(", ");
        problem(
            "ModeUnknown",
            format!("the Node's label {MODE_LABEL} is `{label}`: set it to one of {known}, or remove it"),
        )
    })
}

fn serve(mode: Mode, seen: &Seen<'_>, problem: Option<Problem>) -> Decision {
    match (mode, seen.host, seen.sight) {
        (Mode::Ovs, Some(_), _) | (Mode::NestedVlan, _, None | Some(Sight::Trunk(_))) => {
            Decision::Serve(mode, problem)
        }
        (Mode::Ovs, None, _) => Decision::Wait(Some(problem.unwrap_or_else(host_unknown))),
        (Mode::NestedVlan, _, Some(sight)) => {
            Decision::Serve(mode, Some(problem.unwrap_or_else(|| trunk_missing(sight, seen))))
        }
        (Mode::NestedMacvlan, ..) => match seen.server {
            None | Some(Ok(_)) => Decision::Serve(mode, problem),
            Some(Err(sight)) => {
                Decision::Serve(mode, Some(problem.unwrap_or_else(|| server_missing(sight, seen))))
            }
        },
    }
}

fn find(seen: &Seen<'_>) -> Decision {
    match (seen.host, seen.sight) {
        (Some(_), _) => Decision::Serve(Mode::Ovs, None),
        (None, Some(Sight::Trunk(_))) => Decision::Serve(Mode::NestedVlan, None),
        (None, Some(sight)) => Decision::Wait(Some(not_found(sight, seen))),
        (None, None) => Decision::Wait(None),
    }
}

fn problem(reason: &str, message: String) -> Problem {
    Problem { reason: reason.to_owned(), message }
}

fn changes(from: Mode, to: Mode) -> Problem {
    problem(
        "ModeChanges",
        format!(
            "this node is to change from mode {} to {}: its ports are taken back first, and those of running pods when the \
             pods are gone; drain the node to have it done now",
            from.as_str(),
            to.as_str()
        ),
    )
}

fn host_unknown() -> Problem {
    problem(
        "HostUnknown",
        "mode ovs: the agent of this node does not tell a host for Neutron to bind ports to; see that Open vSwitch runs \
         there, that it has the integration bridge, and that external_ids:hostname and external_ids:system-id are set"
            .to_owned(),
    )
}

fn server_missing(sight: &Sight, seen: &Seen<'_>) -> Problem {
    let (found, advice) = words(sight, seen);
    problem("ServerPortNotFound", format!("mode nested-macvlan: {found}; {advice}"))
}

fn trunk_missing(sight: &Sight, seen: &Seen<'_>) -> Problem {
    let (found, advice) = words(sight, seen);
    problem("TrunkNotFound", format!("mode nested-vlan: {found}; {advice}"))
}

fn not_found(sight: &Sight, seen: &Seen<'_>) -> Problem {
    let (found, advice) = words(sight, seen);
    problem(
        "ModeNotFound",
        format!(
            "how ports reach this node could not be found out: its agent sees no Open vSwitch with an integration bridge \
             and a chassis, so it is no host of the cloud, and as for a server of the cloud: {found}; {advice}. The \
             Node's label {MODE_LABEL} says it if nothing else does"
        ),
    )
}

/// What was found instead of a trunk, and what to do.
fn words(sight: &Sight, seen: &Seen<'_>) -> (String, String) {
    let addresses = seen.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let (interface, mac) = match seen.uplink {
        Some(uplink) => (uplink.name.as_str(), uplink.mac.to_string()),
        None => ("", String::new()),
    };
    match sight {
        Sight::NoTrunks => (
            "this Neutron has no trunks".to_owned(),
            "add `trunk` to Neutron's service_plugins".to_owned(),
        ),
        Sight::NoMac => (
            format!("the agent of this node does not tell which interface has the Node's InternalIP {addresses}"),
            "see that an interface of the node has it, or name the interface in [binding] link_iface".to_owned(),
        ),
        Sight::NoPort => (
            format!("no Neutron port that the project of the credentials sees has address {addresses} and MAC {mac}"),
            "use credentials of the server's project, and give the server a port with this address".to_owned(),
        ),
        Sight::OtherProject(port, project) => (
            format!("port {port}, which has address {addresses}, belongs to project {project}"),
            "use credentials of that project: its ports are not ours to change".to_owned(),
        ),
        Sight::OtherMac(port, other) => (
            format!("port {port} has address {addresses}, but MAC {other}, and interface {interface} of the node has {mac}"),
            "the Node's InternalIP has to be that of the port itself; name its interface in [binding] link_iface"
                .to_owned(),
        ),
        Sight::NoTrunk(port) => (
            format!("port {port} of this node (address {addresses}, MAC {mac}) is not the parent of a trunk"),
            format!("make one: `openstack network trunk create --parent-port {port} <name>`"),
        ),
        Sight::OtherTrunk(port, trunk) => (
            format!("port {port} of this node is the parent of trunk {trunk}, which is not of its project"),
            "make the trunk in the project of its parent port: a trunk of another is not ours to change".to_owned(),
        ),
        Sight::Trunk(trunk) => (format!("trunk {}", trunk.id), String::new()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::trunk::{Trunk, TrunkCondition};
    use super::*;

    const OVS: Mode = Mode::Ovs;
    const VLAN: Mode = Mode::NestedVlan;
    const MACVLAN: Mode = Mode::NestedMacvlan;

    fn trunk() -> Sight {
        Sight::Trunk(Trunk {
            id: "t".into(),
            parent: "p".into(),
            parent_enabled: true,
            parent_active: true,
            enabled: true,
            condition: TrunkCondition::Good,
            subports: BTreeMap::new(),
        })
    }

    /// The mode, or why not: `!` before the reason means that ports are taken back.
    fn told(decision: Decision) -> (String, Option<String>) {
        let reason = |problem: Option<Problem>| problem.map(|problem| problem.reason);
        match decision {
            Decision::Wait(problem) => ("wait".to_owned(), reason(problem)),
            Decision::Serve(mode, problem) => (mode.as_str().to_owned(), reason(problem)),
            Decision::Drain(problem) => ("drain".to_owned(), Some(problem.reason)),
        }
    }

    #[test]
    fn the_operator_wins_then_the_ports_then_what_is_seen() {
        let (found, missing) = (&trunk(), &Sight::NoTrunk("p".into()));
        type Row<'a> = (
            Option<&'a str>,
            Option<Mode>,
            Option<Mode>,
            Option<&'a str>,
            Option<&'a Sight>,
            &'a str,
            &'a str,
        );
        let table: &[Row<'_>] = &[
            // Found out.
            (None, None, None, Some("h"), None, "ovs", ""),
            (None, None, None, Some("h"), Some(found), "ovs", ""),
            (None, None, None, None, Some(found), "nested-vlan", ""),
            (None, None, None, None, None, "wait", ""),
            (None, None, None, None, Some(missing), "wait", "ModeNotFound"),
            // Kept while there are ports, whatever is seen.
            (None, None, Some(VLAN), Some("h"), Some(found), "nested-vlan", ""),
            (None, None, Some(VLAN), None, None, "nested-vlan", ""),
            (None, None, Some(VLAN), Some("h"), Some(missing), "nested-vlan", "TrunkNotFound"),
            (None, None, Some(OVS), None, Some(found), "wait", "HostUnknown"),
            // The configuration.
            (None, Some(VLAN), None, Some("h"), None, "nested-vlan", ""),
            (None, Some(VLAN), None, Some("h"), Some(missing), "nested-vlan", "TrunkNotFound"),
            (None, Some(OVS), None, None, Some(found), "wait", "HostUnknown"),
            (None, Some(VLAN), Some(OVS), Some("h"), Some(found), "drain", "ModeChanges"),
            // The label wins over it.
            (Some("ovs"), Some(VLAN), None, Some("h"), Some(found), "ovs", ""),
            (Some("nested-vlan"), Some(OVS), None, Some("h"), Some(found), "nested-vlan", ""),
            (Some("ovs"), None, Some(VLAN), Some("h"), Some(found), "drain", "ModeChanges"),
            (Some("ovs"), Some(VLAN), Some(OVS), Some("h"), Some(found), "ovs", ""),
            (Some("nested-macvlan"), None, None, Some("h"), Some(found), "nested-macvlan", ""),
            (None, Some(MACVLAN), None, None, None, "nested-macvlan", ""),
            (None, Some(MACVLAN), Some(VLAN), None, Some(found), "drain", "ModeChanges"),
            (None, None, Some(MACVLAN), Some("h"), Some(found), "nested-macvlan", ""),
            // What cannot be read changes nothing.
            (Some("vlan"), Some(OVS), None, Some("h"), Some(found), "wait", "ModeUnknown"),
            (Some("vlan"), None, Some(OVS), Some("h"), Some(found), "ovs", "ModeUnknown"),
        ];
        for (label, configured, recorded, host, sight, mode, reason) in table.iter().copied() {
            let seen =
                Seen { label, configured, recorded, host, uplink: None, addresses: &[], sight, server: None };
            let unseen = Seen { sight: None, ..seen };
            assert!(decide(&seen) == decide(&unseen) || seen.asks_for_trunks(), "{seen:?}");
            let reason = (!reason.is_empty()).then(|| reason.to_owned());
            assert_eq!(told(decide(&seen)), (mode.to_owned(), reason), "{seen:?}");
        }
    }

    #[test]
    fn a_problem_says_what_was_looked_for_and_what_to_do() {
        let uplink = NodeUplink { name: "eth7".into(), mac: "fa:16:3e:00:00:07".parse().unwrap() };
        let addresses = ["192.0.2.7".parse().unwrap()];
        for (sight, words) in [
            (Sight::NoTrunks, &["service_plugins"][..]),
            (Sight::NoMac, &["192.0.2.7", "link_iface"]),
            (Sight::NoPort, &["192.0.2.7", "fa:16:3e:00:00:07", "credentials"]),
            (Sight::OtherProject("p".into(), "q".into()), &["port p", "project q", "192.0.2.7"]),
            (
                Sight::OtherMac("p".into(), "fa:16:3e:00:00:08".parse().unwrap()),
                &["port p", "eth7", "fa:16:3e:00:00:08", "fa:16:3e:00:00:07"],
            ),
            (Sight::NoTrunk("p".into()), &["trunk create --parent-port p", "192.0.2.7"]),
            (Sight::OtherTrunk("p".into(), "t".into()), &["port p", "trunk t"]),
        ] {
            let seen = Seen {
                label: None,
                configured: None,
                recorded: None,
                host: None,
                uplink: Some(&uplink),
                addresses: &addresses,
                sight: Some(&sight),
                server: None,
            };
            let Decision::Wait(Some(problem)) = decide(&seen) else { panic!("{sight:?}") };
            for word in words.iter().chain(&["kuryr.openstack.org/mode"]) {
                assert!(problem.message.contains(word), "{word} in {}", problem.message);
            }
        }
    }

    #[test]
    fn a_server_without_trunk_is_served_where_the_operator_says_so() {
        let uplink = NodeUplink { name: "eth0".into(), mac: "fa:16:3e:00:00:07".parse().unwrap() };
        let addresses = ["192.0.2.7".parse().unwrap()];
        let plain = Sight::NoTrunk("p".into());
        for (label, configured, recorded, server, mode, reason, asks) in [
            (None, None, None, Some(Ok("p".into())), "wait", "ModeNotFound", false),
            (Some("nested-macvlan"), None, None, None, "nested-macvlan", "", true),
            (Some("nested-macvlan"), None, None, Some(Ok("p".into())), "nested-macvlan", "", true),
            (None, Some(MACVLAN), None, Some(Ok("p".into())), "nested-macvlan", "", true),
            (
                None,
                Some(MACVLAN),
                None,
                Some(Err(Sight::NoPort)),
                "nested-macvlan",
                "ServerPortNotFound",
                true,
            ),
            (Some("ovs"), None, Some(MACVLAN), Some(Ok("p".into())), "drain", "ModeChanges", true),
        ] {
            let seen = Seen {
                label,
                configured,
                recorded,
                host: None,
                uplink: Some(&uplink),
                addresses: &addresses,
                sight: Some(&plain),
                server: server.as_ref(),
            };
            let expect = (mode.to_owned(), (!reason.is_empty()).then(|| reason.to_owned()));
            assert_eq!((told(decide(&seen)), seen.asks_for_server()), (expect, asks), "{seen:?}");
        }
    }
}
