//! Errors of the cloud, in words for those who have to act: a reason, the cause with its request id, what to do.

use kuryr_api::kuryrnode::Problem;
use kuryr_openstack::Error;

/// What to tell about `error`, which happened while doing `what`.
pub(crate) fn of(what: &str, error: &Error) -> Problem {
    let (reason, advice) = match error {
        Error::Unauthorized { .. } => (
            "CloudRefusesCredentials",
            "check user, password and project in [neutron] (Keystone answered 401)",
        ),
        Error::Forbidden { .. } => (
            "CloudForbids",
            "the user needs the roles member and, to bind ports to hosts, service in the project of [neutron]",
        ),
        Error::QuotaExceeded { .. } => (
            "QuotaExceeded",
            "raise the project's quota in Neutron, or lower [vif_pool] ports_pool_min and ports_pool_batch",
        ),
        Error::NoFreeAddress { .. } => (
            "NoFreeAddress",
            "enlarge the allocation pools of the subnet, or name another one in [neutron_defaults] pod_subnets",
        ),
        Error::OverLimit { .. } => {
            ("CloudLimitsRate", "the cloud asks for fewer requests; this is tried again later")
        }
        Error::Timeout { .. } | Error::Connect { .. } | Error::Lost { .. } | Error::Server { .. } => (
            "CloudUnreachable",
            "ready ports go on serving pods; this is tried again until the cloud answers",
        ),
        Error::EndpointMissing { .. } => (
            "EndpointMissing",
            "check region_name and valid_interfaces in [neutron] against the service catalogue",
        ),
        Error::SettingMissing { .. } | Error::SettingInvalid { .. } | Error::CloudUnknown { .. } => (
            "CloudNotConfigured",
            "correct [neutron] in kuryr.conf, or clouds.yaml, and restart the controller",
        ),
        _ => ("CloudFailed", "this is tried again; look for the request id in the log of the service"),
    };
    Problem { reason: reason.to_owned(), message: format!("{what}: {}; {advice}", error.with_causes()) }
}

/// A problem that is not an error of a call.
pub(crate) fn new(reason: &str, message: impl Into<String>) -> Problem {
    Problem { reason: reason.to_owned(), message: message.into() }
}
