//! Whether the pod of an ADD may have a network here.
//!
//! The runtime names a pod by namespace and name and, since Kubernetes 1.19 or so, by identity. A name may be used
//! again by a later pod, so a watch that shows another identity is either behind or the request is late: a fresh
//! look decides.
//!
//! Source of code 3 for a pod that is gone: upstream Kuryr answers 410 with it, and the specification lets the
//! runtime skip its cleanup then.

use std::fmt;

use kuryr_types::PodIdentity;

/// What is known of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSeen {
    /// Its identity.
    pub identity: PodIdentity,
    /// The node it is scheduled to.
    pub node: Option<String>,
    /// It uses the node's network and must not be wired.
    pub host_network: bool,
    /// It has succeeded or failed.
    pub ended: bool,
    /// It is being deleted.
    pub terminating: bool,
}

/// What becomes of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The pod may have a network.
    Go,
    /// What was seen is another life of that name: look again.
    LookAgain,
    /// It may not.
    Refuse(Refusal),
}

/// Why a pod gets no network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such pod.
    Gone,
    /// It is being deleted or has ended.
    Leaving,
    /// It is another node's.
    Elsewhere {
        /// Node of the pod.
        node: String,
        /// Node of this agent.
        own: String,
    },
    /// It uses the node's network.
    HostNetwork,
}

/// Judges a pod. `fresh` tells that the API server was asked just now, so another identity means that the requested one
/// is gone.
#[must_use]
pub fn admit(requested: Option<&PodIdentity>, own_node: &str, pod: Option<&PodSeen>, fresh: bool) -> Verdict {
    let Some(pod) = pod else {
        return if fresh { Verdict::Refuse(Refusal::Gone) } else { Verdict::LookAgain };
    };
    if requested.is_some_and(|requested| *requested != pod.identity) {
        return if fresh { Verdict::Refuse(Refusal::Gone) } else { Verdict::LookAgain };
    }
    match &pod.node {
        None if !fresh => return Verdict::LookAgain,
        Some(node) if node != own_node => {
            let refusal = Refusal::Elsewhere { node: node.clone(), own: own_node.to_owned() };
            return Verdict::Refuse(refusal);
        }
        _ => {}
    }
    if pod.host_network {
        return Verdict::Refuse(Refusal::HostNetwork);
    }
    if pod.ended || pod.terminating {
        return Verdict::Refuse(Refusal::Leaving);
    }
    Verdict::Go
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the pod does not exist any more"),
            Self::Leaving => f.write_str("the pod is being deleted or has ended"),
            Self::Elsewhere { node, own } => write!(
                f,
                "the pod is scheduled to node {node}, this is node {own}; check KUBERNETES_NODE_NAME of kuryr-daemon"
            ),
            Self::HostNetwork => f.write_str("the pod uses the node's network and needs no port"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(requested: Option<&str>, change: impl FnOnce(&mut PodSeen), fresh: bool, expect: Verdict) {
        let mut pod = PodSeen {
            identity: "a".into(),
            node: Some("node1".into()),
            host_network: false,
            ended: false,
            terminating: false,
        };
        change(&mut pod);
        let requested = requested.map(PodIdentity::from);
        assert_eq!(admit(requested.as_ref(), "node1", Some(&pod), fresh), expect, "{pod:?}");
    }

    #[test]
    fn each_reason() {
        check(Some("a"), |_| {}, false, Verdict::Go);
        check(None, |_| {}, false, Verdict::Go);
        check(Some("b"), |_| {}, false, Verdict::LookAgain);
        check(Some("b"), |_| {}, true, Verdict::Refuse(Refusal::Gone));
        check(None, |pod| pod.terminating = true, false, Verdict::Refuse(Refusal::Leaving));
        check(None, |pod| pod.ended = true, true, Verdict::Refuse(Refusal::Leaving));
        check(None, |pod| pod.host_network = true, true, Verdict::Refuse(Refusal::HostNetwork));
        check(None, |pod| pod.node = None, false, Verdict::LookAgain);
        let elsewhere = Refusal::Elsewhere { node: "node2".into(), own: "node1".into() };
        check(None, |pod| pod.node = Some("node2".into()), true, Verdict::Refuse(elsewhere));
        assert_eq!(admit(None, "node1", None, false), Verdict::LookAgain);
        assert_eq!(admit(None, "node1", None, true), Verdict::Refuse(Refusal::Gone));
    }
}
