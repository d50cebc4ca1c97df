//! What can go wrong when talking to the API server, sorted by what the caller can do about it.
//!
//! A [`Call`] says what was asked. The API server's own [`Status`] is read once, here, so that nobody else has
//! to know how an admission policy words its refusal.
//!
//! Sources: Kubernetes API conventions, "Response status kind"; API server source of the generic patch handler
//! for what a JSON patch `test` that does not hold looks like.

use std::{fmt, io, path::PathBuf, time::Duration};

use kube::core::Status;
use kuryr_types::{Blame, Retry};

/// The result of talking to the API server.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call, or the building of a client, did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // ---- answers of the API server
    /// There is no such object, kind or namespace.
    #[error("{call}: not found: {message}")]
    NotFound {
        /// What was asked.
        call: Box<Call>,
        /// The API server's words.
        message: String,
    },
    /// Somebody else changed the object first, or a precondition does not hold.
    #[error("{call}: conflict: {message}")]
    Conflict {
        /// What was asked.
        call: Box<Call>,
        /// The API server's words.
        message: String,
    },
    /// An object of this name exists.
    #[error("{call}: already exists")]
    AlreadyExists {
        /// What was asked.
        call: Box<Call>,
    },
    /// Our identity lacks the permission.
    #[error("{call}: forbidden: {message}")]
    Forbidden {
        /// What was asked.
        call: Box<Call>,
        /// The API server's words.
        message: String,
    },
    /// Nothing can be created in a namespace that is being deleted.
    #[error("{call}: the namespace is being terminated")]
    NamespaceTerminating {
        /// What was asked.
        call: Box<Call>,
    },
    /// An admission policy or webhook refused the request.
    #[error("{call}: refused by admission: {message}")]
    AdmissionDenied {
        /// What was asked.
        call: Box<Call>,
        /// The policy's words.
        message: String,
    },
    /// The request or the object in it is not valid.
    #[error("{call}: invalid: {message}")]
    Invalid {
        /// What was asked.
        call: Box<Call>,
        /// The API server's words.
        message: String,
    },
    /// The version asked for is no longer kept.
    #[error("{call}: the requested version is gone")]
    Gone {
        /// What was asked.
        call: Box<Call>,
    },
    /// Our token or certificate is not accepted.
    #[error("{call}: not authenticated")]
    Unauthorized {
        /// What was asked.
        call: Box<Call>,
    },
    /// The API server asks us to slow down.
    #[error("{call}: too many requests")]
    TooManyRequests {
        /// What was asked.
        call: Box<Call>,
        /// How long the API server wants us to wait.
        after: Option<Duration>,
    },
    /// The API server, or etcd behind it, cannot serve the request at present.
    #[error("{call}: the API server answers {code}: {message}")]
    Unavailable {
        /// What was asked.
        call: Box<Call>,
        /// HTTP status.
        code: u16,
        /// The API server's words.
        message: String,
        /// How long the API server wants us to wait.
        after: Option<Duration>,
    },

    // ---- no answer
    /// No complete answer within the bound; whether the request took effect is unknown.
    #[error("{call}: no answer within {} s", .after.as_secs_f32())]
    TimedOut {
        /// What was asked.
        call: Box<Call>,
        /// The bound.
        after: Duration,
    },
    /// The connection failed; whether the request took effect is unknown.
    #[error("{call}: no answer")]
    Transport {
        /// What was asked.
        call: Box<Call>,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// The answer is not what this kind of object looks like.
    #[error("{call}: cannot read the answer")]
    Decode {
        /// What was asked.
        call: Box<Call>,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// Our own object cannot be written as JSON.
    #[error("{call}: cannot write the request")]
    Encode {
        /// What was asked.
        call: Box<Call>,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },

    // ---- building a client
    /// A file named in the configuration cannot be read.
    #[error("cannot read {}", .path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// What is kept for the next start cannot be written.
    #[error("cannot write {}", .path.display())]
    WriteFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file named in the configuration does not hold what it should.
    #[error("{} holds no {expected}", .path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        expected: &'static str,
    },
    /// `api_root` is not an address.
    #[error("`{api_root}` is not the address of an API server (https://host:port)")]
    BadApiRoot {
        /// The text.
        api_root: String,
    },
    /// A client certificate without a key, or a key without a certificate.
    #[error("ssl_client_crt_file and ssl_client_key_file must be given together")]
    HalfIdentity,
    /// The user agent contains characters that a header cannot carry.
    #[error("`{0}` cannot be a user agent")]
    BadUserAgent(String),
    /// The kubeconfig is missing or broken.
    #[error("cannot use the kubeconfig")]
    Kubeconfig {
        /// The cause.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// No API server is configured and the process does not run in a pod.
    #[error("no api_root and no kubeconfig are configured, and this is not a pod with a service account")]
    InCluster {
        /// The cause.
        #[source]
        source: Box<kube::config::InClusterError>,
    },
    /// TLS material is unusable.
    #[error("cannot set up the connection to the API server")]
    Client {
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },

    // ---- leadership
    /// The lease is no longer ours, so the write was not made or its fate does not matter.
    #[error("not the leader any more")]
    NotLeader,
    /// An epoch below the one recorded in the lease.
    #[error("epoch {offered} is below {recorded}, which the lease already records")]
    StaleEpoch {
        /// What the caller wanted to write.
        offered: kuryr_types::Epoch,
        /// What the lease holds.
        recorded: kuryr_types::Epoch,
    },
    /// Times of a lease that cannot keep two leaders apart.
    #[error(
        "lease times must satisfy retry_period < renew_deadline < lease_duration, each at least a second"
    )]
    LeaseTimes,
}

impl Error {
    /// Tells when the same call may succeed.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Conflict { .. }
            | Self::AlreadyExists { .. }
            | Self::Gone { .. }
            | Self::Unauthorized { .. }
            | Self::TimedOut { .. }
            | Self::Transport { .. }
            | Self::ReadFile { .. }
            | Self::WriteFile { .. }
            | Self::BadFile { .. } => Retry::Backoff,
            Self::TooManyRequests { after, .. } | Self::Unavailable { after, .. } => {
                after.map_or(Retry::Backoff, Retry::After)
            }
            _ => Retry::Never,
        }
    }

    /// Tells who has to act for the call to succeed.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::ReadFile { .. } | Self::WriteFile { .. } | Self::BadFile { .. } => Blame::Node,
            Self::Invalid { .. }
            | Self::Decode { .. }
            | Self::Encode { .. }
            | Self::NotLeader
            | Self::StaleEpoch { .. }
            | Self::LeaseTimes
            | Self::BadUserAgent(_) => Blame::Us,
            _ => Blame::Kubernetes,
        }
    }

    /// Whether the object does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether somebody else changed the object first.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    /// Whether the request may have taken effect although no answer arrived.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::TimedOut { .. } | Self::Transport { .. } | Self::Decode { .. } => true,
            // 504 is the API server's own time-out on a write that etcd may still finish.
            Self::Unavailable { code, .. } => matches!(code, 500 | 502 | 504),
            _ => false,
        }
    }

    /// Sorts the failure of `call`.
    pub(crate) fn of(call: Call, error: kube::Error) -> Self {
        let call = Box::new(call);
        match error {
            kube::Error::Api(status) => Self::answered(call, *status),
            kube::Error::SerdeError(source) => Self::Decode { call, source },
            other => Self::Transport { call, source: Box::new(other) },
        }
    }

    /// Sorts a refusal by the API server.
    fn answered(call: Box<Call>, status: Status) -> Self {
        let after = retry_after(&status);
        if refused_by_admission(&status.message) {
            return Self::AdmissionDenied { call, message: status.message };
        }
        match (status.code, status.reason.as_str()) {
            (404, _) | (_, "NotFound") => Self::NotFound { call, message: status.message },
            (_, "AlreadyExists") => Self::AlreadyExists { call },
            (409, _) => Self::Conflict { call, message: status.message },
            (410, _) | (_, "Expired" | "Gone") => Self::Gone { call },
            (401, _) => Self::Unauthorized { call },
            (403, _) if namespace_terminates(&status) => Self::NamespaceTerminating { call },
            (403, _) => Self::Forbidden { call, message: status.message },
            (422, _) if patch_did_not_apply(&call, &status) => {
                Self::Conflict { call, message: status.message }
            }
            (429, _) => Self::TooManyRequests { call, after },
            (code @ 400..=499, _) if code != 408 => Self::Invalid { call, message: status.message },
            (code, _) => Self::Unavailable { call, code, message: status.message, after },
        }
    }
}

/// What was asked of the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// `get`, `create`, `patch status`, ...
    pub verb: &'static str,
    /// Kind of the object.
    pub kind: String,
    /// Namespace, unless the object is cluster-scoped.
    pub namespace: Option<String>,
    /// Name; empty for a list.
    pub name: String,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.kind)?;
        match (&self.namespace, self.name.as_str()) {
            (Some(namespace), "") => write!(f, " in {namespace}"),
            (Some(namespace), name) => write!(f, " {namespace}/{name}"),
            (None, "") => Ok(()),
            (None, name) => write!(f, " {name}"),
        }
    }
}

fn retry_after(status: &Status) -> Option<Duration> {
    let seconds = status.details.as_ref()?.retry_after_seconds;
    (seconds > 0).then(|| Duration::from_secs(u64::from(seconds)))
}

/// A `ValidatingAdmissionPolicy` answers 422 and a webhook 403 or whatever it likes; only the words tell.
fn refused_by_admission(message: &str) -> bool {
    (message.contains("ValidatingAdmissionPolicy") && message.contains("denied request"))
        || (message.contains("admission webhook") && message.contains("denied the request"))
}

fn namespace_terminates(status: &Status) -> bool {
    let by_cause = status
        .details
        .iter()
        .flat_map(|details| &details.causes)
        .any(|cause| cause.reason == "NamespaceTerminating");
    by_cause || status.message.contains("because it is being terminated")
}

/// A JSON patch whose `test` does not hold, or whose path is missing, is answered with a bare 422: no cause and
/// no field. An object that fails validation names its causes.
fn patch_did_not_apply(call: &Call, status: &Status) -> bool {
    let no_causes = status.details.as_ref().is_none_or(|details| details.causes.is_empty());
    call.verb.starts_with("patch") && no_causes && status.message.contains("rejected our request")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(verb: &'static str) -> Call {
        Call { verb, kind: "Pod".into(), namespace: Some("default".into()), name: "a".into() }
    }

    fn sorted(verb: &'static str, status: &serde_json::Value) -> String {
        let status: Status = serde_json::from_value(status.clone()).unwrap();
        let error = Error::of(call(verb), kube::Error::Api(Box::new(status)));
        let text = format!("{error:?}");
        let name = text.split([' ', '{']).next().unwrap_or_default().to_owned();
        format!("{name} {:?}", error.retry())
    }

    #[test]
    fn sorts_the_answers_of_the_api_server() {
        let vap = "kuryrnodes.kuryr.openstack.org \"n1\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: not your node";
        for (verb, status, expect) in [
            ("get", serde_json::json!({"code": 404, "reason": "NotFound"}), "NotFound Never"),
            ("patch", serde_json::json!({"code": 409, "reason": "Conflict"}), "Conflict Backoff"),
            ("create", serde_json::json!({"code": 409, "reason": "AlreadyExists"}), "AlreadyExists Backoff"),
            ("list", serde_json::json!({"code": 410, "reason": "Expired"}), "Gone Backoff"),
            ("get", serde_json::json!({"code": 401, "reason": "Unauthorized"}), "Unauthorized Backoff"),
            ("get", serde_json::json!({"code": 403, "reason": "Forbidden"}), "Forbidden Never"),
            (
                "create",
                serde_json::json!({"code": 403, "reason": "Forbidden", "message": "unable to create new content in namespace x because it is being terminated"}),
                "NamespaceTerminating Never",
            ),
            (
                "patch status",
                serde_json::json!({"code": 422, "reason": "Invalid", "message": vap}),
                "AdmissionDenied Never",
            ),
            (
                "patch",
                serde_json::json!({"code": 422, "reason": "Invalid", "message": "the server rejected our request due to an error in our request", "details": {}}),
                "Conflict Backoff",
            ),
            (
                "patch",
                serde_json::json!({"code": 422, "reason": "Invalid", "message": "a is invalid", "details": {"causes": [{"field": "spec"}]}}),
                "Invalid Never",
            ),
            (
                "get",
                serde_json::json!({"code": 429, "details": {"retryAfterSeconds": 3}}),
                "TooManyRequests After(3s)",
            ),
            ("get", serde_json::json!({"code": 500}), "Unavailable Backoff"),
            ("get", serde_json::json!({"code": 504, "reason": "Timeout"}), "Unavailable Backoff"),
        ] {
            assert_eq!(sorted(verb, &status), expect, "{verb} {status}");
        }
    }

    #[test]
    fn says_what_was_asked() {
        let mut call = call("get");
        assert_eq!(call.to_string(), "get Pod default/a");
        call.name.clear();
        assert_eq!(call.to_string(), "get Pod in default");
        call.namespace = None;
        assert_eq!(call.to_string(), "get Pod");
    }
}
