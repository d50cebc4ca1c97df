//! What can go wrong in the controller.

use kuryr_api::kuryrnode::Problem;
use kuryr_kubernetes::Failure;
use kuryr_types::Retry;

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be used.
    #[error(transparent)]
    Configuration(#[from] kuryr_conf::Error),
    /// The API server, or an object in it.
    #[error(transparent)]
    Kubernetes(#[from] kuryr_kubernetes::Error),
    /// The cloud.
    #[error(transparent)]
    OpenStack(#[from] kuryr_openstack::Error),
    /// Health or metrics cannot be served.
    #[error(transparent)]
    Telemetry(#[from] kuryr_telemetry::error::Error),
    /// A signal cannot be waited for.
    #[error("waiting for signals")]
    Signal(#[source] std::io::Error),
    /// The leadership is over; whoever leads now does the work.
    #[error("this controller does not lead any more")]
    NotLeader,
    /// The namespace whose UID names the cluster does not exist.
    #[error("there is no namespace kube-system to take the cluster's id from: set [kubernetes] cluster_id")]
    NoClusterId,
    /// The cloud cannot be used as it is configured.
    #[error("{}", .0.message)]
    Cloud(Problem),
    /// What a look at a load balancer has shown is not found when it is to be changed.
    #[error("{step}: the cloud shows what it does not find when it is to be changed")]
    Gone {
        /// What was to be done.
        step: &'static str,
        /// The cloud's answer.
        #[source]
        source: Box<kuryr_openstack::Error>,
    },
    /// The API server took a change of a record and left all of it out.
    #[error(
        "KuryrNode {node} does not keep what is written to it: its definition is older than this controller, apply deploy/crds first"
    )]
    NotKept {
        /// The node.
        node: String,
    },
    /// What was found out cannot be written.
    #[error("writing to standard output")]
    Output(#[source] std::io::Error),
    /// A task that the process cannot do without has panicked.
    #[error("a bug has ended a part of this process (see the panic before), so it ends as a whole")]
    Broken,
}

impl Failure for Error {
    fn retry(&self) -> Retry {
        match self {
            Self::Kubernetes(error) => error.retry(),
            Self::OpenStack(error) => error.retry(),
            Self::Telemetry(error) => error.retry(),
            Self::Configuration(_) | Self::NotLeader | Self::Broken => Retry::Never,
            Self::Signal(_)
            | Self::NoClusterId
            | Self::Cloud(_)
            | Self::Gone { .. }
            | Self::NotKept { .. }
            | Self::Output(_) => Retry::Backoff,
        }
    }
}
