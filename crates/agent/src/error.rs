//! What can go wrong in the agent, and what the runtime is told of it.
//!
//! Codes: 3 when the pod or its sandbox is gone (the runtime may skip its cleanup), 4 for a request that cannot be
//! right, 11 for everything that another try may cure, 50 for STATUS, 110 for CHECK, 999 when the node refused;
//! upstream's where upstream has one.
//!
//! Sources: CNI specification 1.1.0, "Well-known Error Codes"; Kuryr-Kubernetes 10.0, `cni/daemon/service.py`.

use std::{io, path::PathBuf};

use kuryr_api::cni::{CniError, code};
use kuryr_planning::{
    attachment::{Difference, Incomplete},
    claim::Refusal,
};
pub(crate) use kuryr_types::with_causes;
use kuryr_types::{Blame, PodRef, PortId, Retry};

/// The agent's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the agent did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // ---- requests of the runtime
    /// The request does not say which pod it is for.
    #[error("CNI_ARGS has no {name}: this plugin serves the pods of a kubelet")]
    Argument {
        /// What is missing.
        name: &'static str,
    },
    /// The body is not a request.
    #[error("the request cannot be read: {why}")]
    Garbled {
        /// What is wrong.
        why: String,
    },
    /// The pod may not have a network here.
    #[error("pod {pod}: {refusal}")]
    Refused {
        /// The pod.
        pod: PodRef,
        /// Why.
        refusal: Refusal,
    },
    /// Nothing is known of the pod.
    #[error("pod {pod} is not known on this node yet and the API server did not tell")]
    PodUnknown {
        /// The pod.
        pod: PodRef,
        /// Why the API server did not.
        #[source]
        source: Option<Box<kuryr_kubernetes::Error>>,
    },
    /// No port within the time.
    #[error("pod {pod} has no network yet: {why}")]
    NoPort {
        /// The pod.
        pod: PodRef,
        /// What it waited for, as a word.
        reason: String,
        /// What it waited for, and what to do.
        why: String,
    },
    /// The runtime gave up on this sandbox.
    #[error(
        "ADD of {container_id} was given up: the runtime deleted the sandbox or asked again, or kuryr-daemon stops"
    )]
    Interrupted {
        /// The sandbox.
        container_id: String,
    },
    /// The controller's record does not describe the port.
    #[error("port {port} cannot be attached")]
    Incomplete {
        /// The port.
        port: PortId,
        /// What is missing.
        #[source]
        source: Incomplete,
    },
    /// CHECK of a sandbox that is not connected.
    #[error("no interface {ifname} of sandbox {container_id} is known here")]
    UnknownSandbox {
        /// The sandbox.
        container_id: String,
        /// The interface.
        ifname: String,
    },
    /// CHECK found differences.
    #[error("interface of pod {pod} is not as ADD left it: {}", list(differences))]
    Differs {
        /// The pod.
        pod: PodRef,
        /// What differs.
        differences: Vec<Difference>,
    },
    /// CHECK found the interface apart from its port.
    #[error("the interface of pod {pod} is not connected to port {port}")]
    NotJoined {
        /// The pod.
        pod: PodRef,
        /// Its port.
        port: PortId,
    },
    /// STATUS: nothing can be wired.
    #[error("{why}")]
    CannotWire {
        /// Why, and what to do.
        why: String,
    },
    /// The agent has just started.
    #[error("kuryr-daemon is starting: {why}")]
    Starting {
        /// What it waits for.
        why: String,
    },
    /// More requests than can be served.
    #[error("too many requests wait for the {what}")]
    Busy {
        /// What they wait for.
        what: &'static str,
    },

    // ---- the node
    /// The kernel or its tools refused.
    #[error("cannot {what}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: Box<kuryr_datapath::Error>,
    },
    /// Work on the kernel was broken off by a bug.
    #[error("a bug broke off: {what}")]
    BrokenOff {
        /// What was tried.
        what: &'static str,
    },
    /// The checkpoint could not be read or written.
    #[error("cannot {step} the checkpoint {}", path.display())]
    Checkpoint {
        /// What was tried.
        step: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A claim could not be made durable.
    #[error("the claim cannot be written to {}: {why}; make room there or repair the disk", path.display())]
    NotDurable {
        /// Folder of the checkpoint.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// A file of the agent could not be written.
    #[error("cannot {step} {}", path.display())]
    File {
        /// What was tried.
        step: &'static str,
        /// Which one.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },

    // ---- the API server
    /// A call failed.
    #[error(transparent)]
    Kubernetes(#[from] kuryr_kubernetes::Error),

    // ---- setting up
    /// An option cannot be used.
    #[error(transparent)]
    Configuration(#[from] kuryr_conf::Error),
    /// Neither configuration nor environment nor host tell the node's name.
    #[error("the node has no name: set KUBERNETES_NODE_NAME or [cni_daemon] node_name")]
    NoNodeName,
    /// Logs, metrics or health.
    #[error(transparent)]
    Telemetry(#[from] kuryr_telemetry::Error),
}

impl Error {
    /// When the same work may succeed.
    pub(crate) fn retry(&self) -> Retry {
        match self {
            Self::Argument { .. }
            | Self::Garbled { .. }
            | Self::Refused { .. }
            | Self::UnknownSandbox { .. }
            | Self::NoNodeName => Retry::Never,
            Self::Kernel { source, .. } => source.retry(),
            Self::Kubernetes(error) => error.retry(),
            Self::Configuration(error) => error.retry(),
            Self::Telemetry(error) => error.retry(),
            _ => Retry::Backoff,
        }
    }

    /// Who has to act for it to succeed.
    pub(crate) fn blame(&self) -> Blame {
        match self {
            Self::Kernel { source, .. } => source.blame(),
            Self::Kubernetes(error) => error.blame(),
            Self::Configuration(error) => error.blame(),
            Self::Telemetry(error) => error.blame(),
            Self::Argument { .. } | Self::Refused { .. } | Self::PodUnknown { .. } => Blame::Kubernetes,
            Self::NoPort { .. } => Blame::OpenStack,
            Self::BrokenOff { .. } | Self::Garbled { .. } | Self::Incomplete { .. } => Blame::Us,
            _ => Blame::Node,
        }
    }

    /// Whether this speaks against the node, and not against the request or the cloud.
    pub(crate) fn is_nodes_fault(&self) -> bool {
        matches!(self.code(), code::NODE_FAILURE | code::IO_FAILURE)
    }

    /// The code the runtime reads.
    pub(crate) fn code(&self) -> u32 {
        match self {
            Self::Argument { .. } => code::INVALID_ENVIRONMENT,
            Self::Garbled { .. } => code::DECODING_FAILURE,
            Self::Refused { refusal: Refusal::Gone | Refusal::Leaving, .. } | Self::UnknownSandbox { .. } => {
                code::UNKNOWN_CONTAINER
            }
            Self::Refused { .. } => code::INVALID_ENVIRONMENT,
            Self::PodUnknown { .. }
            | Self::NoPort { .. }
            | Self::Interrupted { .. }
            | Self::Incomplete { .. }
            | Self::Starting { .. }
            | Self::Busy { .. }
            | Self::Kubernetes(_) => code::TRY_AGAIN_LATER,
            Self::Differs { .. } | Self::NotJoined { .. } => code::CHECK_FAILED,
            Self::CannotWire { .. } => code::NOT_AVAILABLE,
            Self::NotDurable { .. } | Self::Checkpoint { .. } | Self::File { .. } => code::IO_FAILURE,
            Self::Kernel { source, .. } if source.is_namespace_gone() => code::UNKNOWN_CONTAINER,
            _ => code::NODE_FAILURE,
        }
    }

    /// The HTTP status that goes with the code, for people with `curl`; upstream's where it has one.
    pub(crate) fn status(&self) -> u16 {
        match self.code() {
            code::INVALID_ENVIRONMENT | code::DECODING_FAILURE => 400,
            code::UNKNOWN_CONTAINER => 410,
            code::CHECK_FAILED => 409,
            code::NOT_AVAILABLE => 503,
            code::TRY_AGAIN_LATER => 504,
            _ => 500,
        }
    }

    /// The error as the runtime reads it: the message in one line, further causes as details, which runtimes append.
    pub(crate) fn to_cni(&self) -> CniError {
        match self {
            // What the node refused is the message; the rest is only where it happened.
            Self::Kernel { .. } | Self::Checkpoint { .. } | Self::File { .. } | Self::Incomplete { .. } => {
                CniError::new(self.code(), with_causes(self))
            }
            _ => CniError::new(self.code(), self.to_string())
                .with_details(std::error::Error::source(self).map(with_causes).unwrap_or_default()),
        }
    }
}

/// An error whose text has all its causes, for a queue that tells the text alone.
#[derive(Debug)]
pub(crate) struct WithCauses(pub(crate) Error);

impl std::fmt::Display for WithCauses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&with_causes(&self.0))
    }
}

impl kuryr_kubernetes::Failure for WithCauses {
    fn retry(&self) -> Retry {
        self.0.retry()
    }
}

fn list(differences: &[Difference]) -> String {
    differences.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_is_told_what_to_do() {
        let pod = || PodRef::new("team-a", "web-0");
        let gone = || kuryr_datapath::Error::NotANamespace { path: "/run/netns/x".into() };
        let taken = || kuryr_datapath::Error::LinkTaken { name: "eth0".into() };
        let kernel = |source| Error::Kernel { what: "attach the pod", source: Box::new(source) };
        for (error, code, status) in [
            (Error::Argument { name: "K8S_POD_NAME" }, 4, 400),
            (Error::Refused { pod: pod(), refusal: Refusal::Gone }, 3, 410),
            (Error::Refused { pod: pod(), refusal: Refusal::HostNetwork }, 4, 400),
            (Error::NoPort { pod: pod(), reason: "NoReadyPort".into(), why: "quota".into() }, 11, 504),
            (kernel(gone()), 3, 410),
            (kernel(taken()), 999, 500),
            (Error::NotDurable { path: "/x".into(), why: "disk full".into() }, 5, 500),
            (Error::CannotWire { why: "no bridge".into() }, 50, 503),
        ] {
            assert_eq!((error.code(), error.status()), (code, status), "{error}");
        }
        let told = kernel(taken()).to_cni();
        assert_eq!(
            told.msg,
            "cannot attach the pod: interface `eth0` exists already and belongs to something else"
        );
    }
}
