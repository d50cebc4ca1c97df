//! What is told of Services on this node: a condition of the KuryrNode, the agent's readiness, figures.

use std::fmt;

use super::inbound::InboundHealth;
use crate::{error::with_causes, wiring::World};

/// Whether clients on this node reach Services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum ServiceHealth {
    /// Not known yet.
    #[default]
    Starting,
    /// They are somebody else's.
    Off,
    /// They do.
    Served {
        /// What of which Services is not served.
        problems: Vec<String>,
        /// Whether clients without an endpoint are told that they are refused.
        tells_refusal: bool,
        /// Why sockets whose endpoint has gone are not closed, if they are not.
        leaves_sockets: Option<String>,
        /// Whether clients that are no processes of the node reach them.
        inbound: InboundHealth,
    },
    /// The kernel, or how it is set up, lacks something.
    NotUsable {
        /// What, and what to do.
        why: String,
    },
    /// The programs are attached and do not run for the agent.
    NoAnswer {
        /// The cgroup that they are attached to.
        cgroup: String,
    },
}

/// As many as fit into a message that people read.
const TOLD: usize = 3;

impl ServiceHealth {
    /// Whether nothing is wrong; none before it is known.
    pub(crate) fn good(&self) -> Option<bool> {
        match self {
            Self::Starting => None,
            Self::Off | Self::Served { .. } => Some(true),
            Self::NotUsable { .. } | Self::NoAnswer { .. } => Some(false),
        }
    }

    /// A word for conditions.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Starting => "Starting",
            Self::Off => "LeftToOthers",
            Self::Served { problems, .. } if !problems.is_empty() => "PartlyServed",
            Self::Served { tells_refusal: false, .. }
            | Self::Served { leaves_sockets: Some(_), .. }
            | Self::Served { inbound: InboundHealth::NotServed { .. }, .. } => "Fallback",
            Self::Served { .. } => "Served",
            Self::NotUsable { .. } => "KernelNotUsable",
            Self::NoAnswer { .. } => "NoAnswer",
        }
    }
}

impl fmt::Display for ServiceHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => {
                f.write_str("the lists of Services, EndpointSlices, Nodes and pods are not complete yet")
            }
            Self::Off => f.write_str("[kubernetes] enabled_handlers leaves Services to another proxy"),
            Self::Served { problems, .. } if !problems.is_empty() => {
                write!(f, "{}", problems.iter().take(TOLD).cloned().collect::<Vec<_>>().join("; "))?;
                match problems.len().saturating_sub(TOLD) {
                    0 => Ok(()),
                    more => write!(f, "; and {more} more"),
                }
            }
            Self::Served { tells_refusal, leaves_sockets, inbound, .. } => {
                write!(f, "Services are served{inbound}")?;
                if !tells_refusal {
                    f.write_str(
                        "; clients of a Service without endpoints get EPERM in the place of ECONNREFUSED, as this kernel is \
                         older than 5.18",
                    )?;
                }
                match leaves_sockets {
                    Some(why) => {
                        write!(f, "; connected UDP sockets whose endpoint has gone are not closed: {why}")
                    }
                    None => Ok(()),
                }
            }
            Self::NotUsable { why } => {
                write!(f, "ClusterIPs do not work on this node: {why}")
            }
            Self::NoAnswer { cgroup } => write!(
                f,
                "ClusterIPs do not work for the agent's own process: it does not run under {cgroup}, or a program of others \
                 comes first; set [cni_daemon] cgroup_dir to a cgroup that has all processes of the node"
            ),
        }
    }
}

/// Publishes it.
pub(crate) fn publish(world: &World, health: ServiceHealth) {
    let before = world.state.get();
    if before.services.reason() != health.reason() {
        tracing::info!(reason = health.reason(), "Services: {health}");
    }
    world.state.update(|state| state.services = health);
}

/// Keeps the figures of what became of clients' attempts.
pub(crate) async fn count(world: &World) {
    let Some(forwarder) = world.services.forwarder() else { return };
    let read = world.kernel.forwarding("read the counters of Services", move || forwarder.outcomes());
    match read.await {
        Ok(outcomes) => world.metrics.service_outcomes(outcomes),
        Err(error) => tracing::debug!("counters of Services cannot be read: {}", with_causes(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_of_problems_is_cut() {
        let served = |count: usize| ServiceHealth::Served {
            problems: (0..count).map(|number| format!("d/s{number}: odd")).collect(),
            tells_refusal: true,
            leaves_sockets: None,
            inbound: InboundHealth::Served,
        };
        for (count, reason, expect) in [
            (0, "Served", "Services are served"),
            (1, "PartlyServed", "d/s0: odd"),
            (5, "PartlyServed", "d/s0: odd; d/s1: odd; d/s2: odd; and 2 more"),
        ] {
            let health = served(count);
            assert_eq!((health.reason(), health.to_string().as_str()), (reason, expect));
            assert_eq!(health.good(), Some(true));
        }
    }

    #[test]
    fn what_this_kernel_does_in_another_way_is_told() {
        let refused = "get EPERM in the place of ECONNREFUSED";
        let served = InboundHealth::Served;
        let not_served = InboundHealth::NotServed { why: "no nft".into() };
        for (tells_refusal, leaves_sockets, inbound, reason, expect) in [
            (true, None, &served, "Served", vec![]),
            (false, None, &served, "Fallback", vec![refused]),
            (true, Some("no"), &served, "Fallback", vec!["endpoint has gone are not closed: no"]),
            (false, Some("no"), &served, "Fallback", vec![refused, "are not closed: no"]),
            (true, None, &not_served, "Fallback", vec!["; not for clients outside the node: no nft"]),
            (true, None, &InboundHealth::NoOwnPort, "Served", vec!["which has no port of its own"]),
        ] {
            let (leaves_sockets, inbound) = (leaves_sockets.map(str::to_owned), inbound.clone());
            let health = ServiceHealth::Served { problems: vec![], tells_refusal, leaves_sockets, inbound };
            let told = health.to_string();
            assert_eq!((health.reason(), health.good()), (reason, Some(true)));
            assert!(
                told.starts_with("Services are served") && expect.iter().all(|one| told.contains(one)),
                "{told}"
            );
        }
    }
}
