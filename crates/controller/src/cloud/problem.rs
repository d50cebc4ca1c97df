//! Errors of the cloud, in words for those who have to act: a reason, the cause with its request id, what to do.

use std::net::IpAddr;

use kuryr_api::kuryrnode::Problem;
use kuryr_openstack::{
    Error, TrunkConflict,
    neutron::{AllocationPool, Quota, Subnet},
};
use kuryr_planning::pool::Millis;
use kuryr_types::{ProjectId, Retry, with_causes};

use crate::config::millis;

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
            "raise the project's quota in Neutron, or lower [vif_pool] ports_pool_ready_min (or ports_pool_min)",
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
        Error::Trunk { conflict: TrunkConflict::VlanInUse | TrunkConflict::PortInUse, .. } => (
            "TrunkShared",
            "others change the same trunk at the same time; narrow [pod_vif_nested] vlan_range to ids that nobody else uses",
        ),
        Error::Trunk { conflict: TrunkConflict::MtuTooGreat, .. } => (
            "MtuTooGreat",
            "lower the MTU of the pods' network to that of the network that the servers' ports are in, or raise the latter",
        ),
        Error::Trunk { conflict: TrunkConflict::Disabled | TrunkConflict::InError, .. } => (
            "TrunkUnusable",
            "see `openstack network trunk show`: it has to be administratively up and not in status ERROR",
        ),
        Error::PairsExhausted { .. } => (
            "AddressPairsExhausted",
            "raise max_allowed_address_pair in neutron.conf, or run fewer pods on the node",
        ),
        Error::Unsupported { .. } => (
            "ProviderCannot",
            "the provider of load balancers cannot do this: choose another in [kubernetes] endpoints_driver_octavia_provider, \
             or change the Service",
        ),
        _ => ("CloudFailed", "this is tried again; look for the request id in the log of the service"),
    };
    Problem { reason: reason.to_owned(), message: format!("{what}: {}; {advice}", with_causes(error)) }
}

/// `problem`, or that of `before` which says the same of another request. Each request has an id of its own, and what is
/// told of every one would be written to every record, condition and Event as often as the cloud is asked.
pub(crate) fn steady(problem: Problem, before: &[Problem]) -> Problem {
    let same = before.iter().find(|before| {
        before.reason == problem.reason
            && without_request_ids(&before.message) == without_request_ids(&problem.message)
    });
    same.cloned().unwrap_or(problem)
}

/// An id of a request is `req-` and a UUID.
fn without_request_ids(text: &str) -> String {
    let mut parts = text.split("req-");
    let first = parts.next().unwrap_or_default().to_owned();
    let of_id = |c: char| c.is_ascii_hexdigit() || c == '-';
    parts.fold(first, |text, part| text + "req-" + part.trim_start_matches(of_id))
}

/// Whether `error` concerns every call to the cloud, whatever it asks for.
pub(crate) fn is_of_whole_cloud(error: &Error) -> bool {
    match error {
        Error::Untagged { source, .. } => is_of_whole_cloud(source),
        Error::Unauthorized { .. }
        | Error::OverLimit { .. }
        | Error::Server { .. }
        | Error::Protocol { .. }
        | Error::Timeout { .. }
        | Error::Busy { .. }
        | Error::Connect { .. }
        | Error::Lost { .. }
        | Error::EndpointMissing { .. } => true,
        _ => false,
    }
}

/// Whether `error` is the answer to one request, so that another port may fare better.
pub(crate) fn is_of_one_port(error: &Error) -> bool {
    !is_of_whole_cloud(error) || matches!(error, Error::Server { .. })
}

/// How long the cloud asked to be left alone, in milliseconds.
pub(crate) fn asked_wait(error: &Error) -> Millis {
    if let Retry::After(wait) = error.retry() { millis(wait) } else { 0 }
}

/// What is used of a quota that ran out.
pub(crate) fn quota_figures(project: &ProjectId, quota: Quota) -> String {
    let limit = quota.limit.map_or_else(|| "no limit".to_owned(), |limit| limit.to_string());
    match quota.used {
        Some(used) => format!("project {project} has {used} ports of {limit}"),
        None => format!("project {project} may have {limit} ports"),
    }
}

/// What is used of a subnet that ran out: `ours` addresses are our ports'.
pub(crate) fn subnet_figures(subnet: &Subnet, ours: usize) -> String {
    let sizes = subnet.allocation_pools.iter().map(pool_size);
    let size = sizes.fold(0u128, u128::saturating_add);
    format!(
        "the allocation pools of subnet {} hold {size} addresses, {ours} of them this cluster's ports",
        subnet.id
    )
}

fn pool_size(pool: &AllocationPool) -> u128 {
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    number(pool.end).saturating_sub(number(pool.start)).saturating_add(1)
}

/// A problem that is not an error of a call.
pub(crate) fn new(reason: &str, message: impl Into<String>) -> Problem {
    Problem { reason: reason.to_owned(), message: message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_request_says_again_is_the_same() {
        let said =
            |id: &str, what: &str| new("CloudFailed", format!("get_port (GET x, {id}): {what}; again {id}."));
        let ids = ["req-01234567-89ab-4def-8000-0123456789ab", "req-ffffffff-0000-4000-8000-000000000000"];
        let first = said(ids[0], "oh");
        assert_eq!(steady(said(ids[1], "oh"), &[new("CloudFailed", "other"), first.clone()]), first);
        let other = said(ids[1], "another");
        assert_eq!(steady(other.clone(), std::slice::from_ref(&first)), other);
        assert_eq!(steady(other.clone(), &[]), other);
        let reason = Problem { reason: "Other".into(), ..said(ids[1], "oh") };
        assert_eq!(steady(reason.clone(), &[first]), reason);
    }
}
