//! What can fail between us and the cloud.
//!
//! A variant says what failed; those about a call carry the [`Call`], with the request id that the cloud
//! gave it, so that an operator can find it in the service's log. Causes are in `source()` and not repeated
//! in the text. Nothing here contains a password, a secret or a token.

use std::{error::Error as StdError, fmt, path::PathBuf, sync::Arc, time::Duration};

use http::Method;
use kuryr_types::{Blame, NetworkId, PortId, Retry};

/// A cause that several waiters can share.
pub type Cause = Arc<dyn StdError + Send + Sync>;

/// What went wrong, and with which call.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // ---- the cloud answered
    /// The credentials or the token were refused (401).
    #[error("{call}: the cloud refused the credentials: {message}")]
    Unauthorized {
        /// The call that was refused.
        call: Box<Call>,
        /// The cloud's words.
        message: String,
    },
    /// The credentials are right but do not allow this (403).
    #[error("{call}: not allowed: {message}")]
    Forbidden {
        /// The call that was refused.
        call: Box<Call>,
        /// The cloud's words.
        message: String,
    },
    /// The resource, or the path, does not exist or is not visible to us (404).
    #[error("{call}: not found: {message}")]
    NotFound {
        /// The call that missed.
        call: Box<Call>,
        /// Neutron's type of the error: `PortNotFound` if the port does not exist, `HTTPNotFound` if the path
        /// does not or policy hides the port; empty where a proxy answered.
        kind: String,
        /// The cloud's words.
        message: String,
    },
    /// The state of a resource does not allow this now (409).
    #[error("{call}: conflict {kind}: {message}")]
    Conflict {
        /// The call that was refused.
        call: Box<Call>,
        /// Neutron's type of the error, such as `SecurityGroupInUse`; empty where none was given.
        kind: String,
        /// The cloud's words.
        message: String,
    },
    /// A load balancer is being changed and takes no other change before that is done (409).
    #[error("{call}: immutable while it is being changed: {message}")]
    Immutable {
        /// The call that was refused.
        call: Box<Call>,
        /// Octavia's words; they name the load balancer.
        message: String,
    },
    /// The provider of a load balancer cannot do this, or there is no such provider (501).
    #[error("{call}: not supported by the provider: {message}")]
    Unsupported {
        /// The call that was refused.
        call: Box<Call>,
        /// The provider's words.
        message: String,
    },
    /// The resource has changed since it was read: its revision number is another (412).
    #[error("{call}: changed since it was read: {message}")]
    Stale {
        /// The call that was refused.
        call: Box<Call>,
        /// The cloud's words.
        message: String,
    },
    /// The address asked for is taken, or was taken at the same moment (409).
    #[error("{call}: address in use: {message}")]
    AddressInUse {
        /// The call that was refused.
        call: Box<Call>,
        /// The cloud's words; they name the address.
        message: String,
    },
    /// The subnets have no address left (409).
    #[error("{call}: no free address: {message}")]
    NoFreeAddress {
        /// The call that was refused.
        call: Box<Call>,
        /// The network, where Neutron named it.
        network: Option<NetworkId>,
        /// The cloud's words.
        message: String,
    },
    /// A trunk, or a port in it, does not allow this now (409): somebody else uses the trunk too.
    #[error("{call}: {conflict}: {message}")]
    Trunk {
        /// The call that was refused.
        call: Box<Call>,
        /// What stands in the way.
        conflict: TrunkConflict,
        /// The cloud's words; they name the trunk, and the port or VLAN id.
        message: String,
    },
    /// A port has as many allowed address pairs as Neutron's `max_allowed_address_pair` lets it have (400).
    #[error("{call}: too many allowed address pairs: {message}")]
    PairsExhausted {
        /// The call that was refused.
        call: Box<Call>,
        /// How many a port may have, where Neutron said so.
        limit: Option<usize>,
        /// The cloud's words.
        message: String,
    },
    /// The project's quota does not allow more (409).
    #[error("{call}: quota exceeded for {}: {message}", .resources.join(", "))]
    QuotaExceeded {
        /// The call that was refused.
        call: Box<Call>,
        /// Which quotas, such as `port`.
        resources: Vec<String>,
        /// The cloud's words.
        message: String,
    },
    /// Too many calls (413, 429).
    #[error("{call}: the cloud asks for fewer calls")]
    OverLimit {
        /// The call that was refused.
        call: Box<Call>,
        /// How long to wait, where the cloud said so.
        retry_after: Option<Duration>,
    },
    /// The cloud does not accept the request as it is (400 and others of 4xx).
    #[error("{call}: bad request {kind}: {message}")]
    BadRequest {
        /// The call that was refused.
        call: Box<Call>,
        /// Neutron's type of the error, such as `InvalidIpForSubnet`; empty where none was given.
        kind: String,
        /// The cloud's words.
        message: String,
    },
    /// The cloud failed (5xx).
    #[error("{call}: the cloud failed with status {status}: {message}")]
    Server {
        /// The call that failed.
        call: Box<Call>,
        /// HTTP status.
        status: u16,
        /// The cloud's words.
        message: String,
    },
    /// The answer is none that the API describes: another status, or not the expected JSON.
    #[error("{call}: unexpected answer: {problem}")]
    Protocol {
        /// The call that was answered.
        call: Box<Call>,
        /// What was unexpected.
        problem: String,
    },
    /// While pages were read, the element that marks where the next page begins was deleted.
    #[error("{call}: the list changed while it was read")]
    ListChanged {
        /// The call for the page that could not be had.
        call: Box<Call>,
    },

    // ---- no answer
    /// No answer came in time.
    #[error("{call}: no answer within {after:?}")]
    Timeout {
        /// The call that waited.
        call: Box<Call>,
        /// How long it waited.
        after: Duration,
    },
    /// All places for simultaneous calls stayed taken; nothing was sent.
    #[error("{operation}: no place for another call within {after:?}")]
    Busy {
        /// The operation that waited.
        operation: &'static str,
        /// How long it waited.
        after: Duration,
    },
    /// No connection; nothing was sent.
    #[error("{call}: no connection")]
    Connect {
        /// The call that could not be made.
        call: Box<Call>,
        /// Why.
        source: Cause,
    },
    /// The connection broke after the request may have been sent, or the answer was too large to read.
    #[error("{call}: the answer was lost")]
    Lost {
        /// The call whose answer is missing.
        call: Box<Call>,
        /// Why.
        source: Cause,
    },

    // ---- our own checks
    /// The catalogue has no endpoint of this service for us.
    #[error(
        "the catalogue has no {service} endpoint with interface {} {}; it offers: {}",
        .interfaces.join(" or "),
        .region.as_deref().map_or_else(|| "in any region".to_owned(), |region| format!("in region {region}")),
        if .offered.is_empty() { "none".to_owned() } else { .offered.join(", ") }
    )]
    EndpointMissing {
        /// Service type, such as `network`.
        service: &'static str,
        /// Interfaces that were acceptable, best first.
        interfaces: Vec<String>,
        /// Region that was asked for.
        region: Option<String>,
        /// What the catalogue has for this service, as `interface in region`.
        offered: Vec<String>,
    },
    /// A resource is not ours: another project, or not all of our tags.
    #[error("{operation}: {resource} {id} is not ours: {reason}")]
    Foreign {
        /// The operation that was asked for.
        operation: &'static str,
        /// Kind of the resource.
        resource: &'static str,
        /// Its id.
        id: String,
        /// What differs.
        reason: String,
    },
    /// Ports were created, but their tags could not be stored with them or afterwards.
    #[error("ports {} were created without tags", DisplayIds(.ports))]
    Untagged {
        /// The ports that exist now without our tags; they can be found by project and name.
        ports: Vec<PortId>,
        /// Why they could not be tagged.
        source: Box<Error>,
    },
    /// A tag or project that cannot be used to mark what is ours.
    #[error("`{value}` cannot mark what is ours: {problem}")]
    Mark {
        /// The tag or project id.
        value: String,
        /// What is wrong with it.
        problem: &'static str,
    },

    // ---- settings
    /// A setting is not there.
    #[error("{name} is not set: {fix}")]
    SettingMissing {
        /// The setting as its user writes it, such as `[neutron] username` or `OS_USERNAME`.
        name: String,
        /// What to do.
        fix: String,
    },
    /// A setting has a value that cannot be used.
    #[error("{name} {problem}: {fix}")]
    SettingInvalid {
        /// The setting as its user writes it.
        name: String,
        /// What is wrong, without the value where that is secret.
        problem: String,
        /// What to do.
        fix: String,
    },
    /// A `clouds.yaml` or `secure.yaml` cannot be read.
    #[error("{}: {problem}", .path.display())]
    CloudsFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// `clouds.yaml` does not have the cloud that was asked for, or it is unclear which one is meant.
    #[error(
        "{}: {} (the file has: {})",
        .path.display(),
        .cloud.as_ref().map_or_else(
            || "which cloud is meant is not said; set OS_CLOUD".to_owned(),
            |cloud| format!("cloud `{cloud}` is not there; set OS_CLOUD to one that is"),
        ),
        .known.join(", ")
    )]
    CloudUnknown {
        /// The file.
        path: PathBuf,
        /// The cloud that was asked for.
        cloud: Option<String>,
        /// The clouds that are there.
        known: Vec<String>,
    },
    /// A certificate or key file cannot be used.
    #[error("{}: {problem}", .path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl Error {
    /// Says whether the same work may succeed later.
    ///
    /// Wrong credentials count as something that passes, because they are put right on the other side too.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::OverLimit { retry_after: Some(after), .. } => Retry::After(*after),
            Self::Unauthorized { .. }
            | Self::Conflict { .. }
            | Self::Immutable { .. }
            | Self::Stale { .. }
            | Self::AddressInUse { .. }
            | Self::NoFreeAddress { .. }
            | Self::Trunk { .. }
            | Self::PairsExhausted { .. }
            | Self::QuotaExceeded { .. }
            | Self::OverLimit { .. }
            | Self::Server { .. }
            | Self::Protocol { .. }
            | Self::ListChanged { .. }
            | Self::Timeout { .. }
            | Self::Busy { .. }
            | Self::Connect { .. }
            | Self::Lost { .. }
            | Self::EndpointMissing { .. } => Retry::Backoff,
            Self::Untagged { source, .. } => source.retry(),
            Self::Forbidden { .. }
            | Self::NotFound { .. }
            | Self::Unsupported { .. }
            | Self::BadRequest { .. }
            | Self::Foreign { .. }
            | Self::Mark { .. }
            | Self::SettingMissing { .. }
            | Self::SettingInvalid { .. }
            | Self::CloudsFile { .. }
            | Self::CloudUnknown { .. }
            | Self::Tls { .. } => Retry::Never,
        }
    }

    /// Says who has to act for the work to succeed: the cloud, or whoever configured and wrote this program.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::BadRequest { .. }
            | Self::Busy { .. }
            | Self::Foreign { .. }
            | Self::Mark { .. }
            | Self::SettingMissing { .. }
            | Self::SettingInvalid { .. }
            | Self::CloudsFile { .. }
            | Self::CloudUnknown { .. }
            | Self::Tls { .. } => Blame::Us,
            _ => Blame::OpenStack,
        }
    }

    /// Says whether a write may have happened although it failed for us: its answer is missing, unreadable or
    /// an internal failure of the cloud. Always false for reads.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Timeout { call, .. }
            | Self::Lost { call, .. }
            | Self::Protocol { call, .. }
            | Self::Server { call, .. } => call.is_write(),
            Self::Untagged { .. } => true,
            _ => false,
        }
    }

    /// Says whether the resource does not exist, by the word of the service itself. A 404 of a proxy, for a path
    /// that is not served, or for a resource that policy hides from us says nothing of the kind.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::NotFound { kind, .. } => kind.ends_with("NotFound") && kind != "HTTPNotFound",
            _ => false,
        }
    }

    /// The call that failed, if one was made.
    #[must_use]
    pub fn call(&self) -> Option<&Call> {
        match self {
            Self::Unauthorized { call, .. }
            | Self::Forbidden { call, .. }
            | Self::NotFound { call, .. }
            | Self::Conflict { call, .. }
            | Self::Immutable { call, .. }
            | Self::Unsupported { call, .. }
            | Self::Stale { call, .. }
            | Self::AddressInUse { call, .. }
            | Self::NoFreeAddress { call, .. }
            | Self::Trunk { call, .. }
            | Self::PairsExhausted { call, .. }
            | Self::QuotaExceeded { call, .. }
            | Self::OverLimit { call, .. }
            | Self::BadRequest { call, .. }
            | Self::Server { call, .. }
            | Self::Protocol { call, .. }
            | Self::ListChanged { call, .. }
            | Self::Timeout { call, .. }
            | Self::Connect { call, .. }
            | Self::Lost { call, .. } => Some(call),
            Self::Untagged { source, .. } => source.call(),
            _ => None,
        }
    }

    /// The id under which the cloud has logged the call, if an answer came.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.call().and_then(|call| call.request_id.as_deref())
    }
}

/// What keeps a trunk from being changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrunkConflict {
    /// The VLAN id is on the trunk already.
    VlanInUse,
    /// The port is on a trunk already, is a parent port, or is in use otherwise.
    PortInUse,
    /// The port's network has a greater MTU than that of the parent port.
    MtuTooGreat,
    /// The trunk is administratively down.
    Disabled,
    /// The trunk is in status ERROR.
    InError,
}

impl fmt::Display for TrunkConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::VlanInUse => "VLAN id in use on the trunk",
            Self::PortInUse => "port in use, by a trunk or otherwise",
            Self::MtuTooGreat => "MTU greater than that of the trunk",
            Self::Disabled => "trunk disabled",
            Self::InError => "trunk in error",
        })
    }
}

/// Which call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What was to be done, such as `create_ports`.
    pub operation: &'static str,
    /// HTTP method.
    pub method: Method,
    /// Where, without the query.
    pub url: String,
    /// The cloud's id of the request (`x-openstack-request-id`), once an answer has come.
    pub request_id: Option<String>,
}

impl Call {
    /// Says whether the call changes resources. Getting a token does not, though it is a POST.
    #[must_use]
    pub fn is_write(&self) -> bool {
        self.method != Method::GET && self.operation != crate::auth::CREATE_TOKEN
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} {}", self.operation, self.method, self.url)?;
        if let Some(id) = &self.request_id {
            write!(f, ", {id}")?;
        }
        f.write_str(")")
    }
}

struct DisplayIds<'a>(&'a [PortId]);

impl fmt::Display for DisplayIds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, id) in self.0.iter().enumerate() {
            write!(f, "{}{id}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(method: Method, operation: &'static str) -> Box<Call> {
        let url = "http://cloud:9696/v2.0/ports".to_owned();
        Box::new(Call { operation, method, url, request_id: Some("req-7".to_owned()) })
    }

    #[test]
    fn only_a_write_without_a_readable_answer_has_an_unknown_outcome() {
        let cause: Cause = Arc::new(std::io::Error::other("reset"));
        let after = Duration::from_secs(60);
        type Make = fn(Box<Call>, Cause, Duration) -> Error;
        let failures: [Make; 6] = [
            |call, _, after| Error::Timeout { call, after },
            |call, source, _| Error::Lost { call, source },
            |call, _, _| Error::Server { call, status: 504, message: String::new() },
            |call, _, _| Error::Protocol { call, problem: String::new() },
            |call, source, _| Error::Connect { call, source },
            |call, _, _| Error::Conflict { call, kind: String::new(), message: String::new() },
        ];
        let unknown = |method: Method, operation| {
            failures.map(|make| make(call(method.clone(), operation), cause.clone(), after).outcome_unknown())
        };
        assert_eq!(unknown(Method::POST, "create_ports"), [true, true, true, true, false, false]);
        assert_eq!(unknown(Method::PUT, "update_port"), [true, true, true, true, false, false]);
        assert_eq!(unknown(Method::DELETE, "delete_port"), [true, true, true, true, false, false]);
        assert_eq!(unknown(Method::GET, "list_ports"), [false; 6]);
        assert_eq!(unknown(Method::POST, crate::auth::CREATE_TOKEN), [false; 6]);
    }

    #[test]
    fn text_names_the_call_and_its_request_id() {
        let error = Error::QuotaExceeded {
            call: call(Method::POST, "create_ports"),
            resources: vec!["port".to_owned()],
            message: "Quota exceeded for resources: ['port'].".to_owned(),
        };
        assert_eq!(
            error.to_string(),
            "create_ports (POST http://cloud:9696/v2.0/ports, req-7): \
             quota exceeded for port: Quota exceeded for resources: ['port']."
        );
        assert_eq!(error.request_id(), Some("req-7"));
    }

    #[test]
    fn the_cloud_says_when_to_come_back() {
        let limit = |retry_after| Error::OverLimit { call: call(Method::GET, "list_ports"), retry_after };
        assert_eq!(limit(Some(Duration::from_secs(7))).retry(), Retry::After(Duration::from_secs(7)));
        assert_eq!(limit(None).retry(), Retry::Backoff);
    }
}
