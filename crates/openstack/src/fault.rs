//! From an answer that is no success to an error.
//!
//! Neutron tells the kind of an error by the name of its exception in `NeutronError.type`, so a full subnet, a
//! taken address, a quota and a group in use are all 409 and are told apart by that name. Octavia has no names: its
//! `faultstring` is told apart by its English text, which it does not translate, beside a `faultcode`. Keystone and the
//! token check in front of each service use `error`, other services `message`, proxies HTML. Below a pool that is not there
//! Octavia answers in another form, `{"code": 404, "title": "Bad Request", "description": "Pool x not found."}`.
//!
//! Sources: Networking API v2.0, "Faults"; names and texts of exceptions: neutron-lib `exceptions`, neutron
//! `ipam/exceptions.py`, `extensions/securitygroup.py` and `services/trunk/exceptions.py`; octavia
//! `common/exceptions.py`; Identity API v3, "Errors".

use std::time::Duration;

use http::{HeaderMap, StatusCode, header::RETRY_AFTER};
use kuryr_types::NetworkId;
use serde_json::Value;

use crate::error::{Call, Error, TrunkConflict};

/// Characters of the cloud's words that are kept: enough for a list of ids, too few for a page of HTML.
const MAX_MESSAGE: usize = 1000;
/// A longer wait that the cloud asks for is cut to this.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Turns an answer whose status is no success into the error it means.
pub(crate) fn classify(call: Call, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Error {
    let call = Box::new(call);
    let Words { kind, message } = Words::of(body);
    match status.as_u16() {
        401 => Error::Unauthorized { call, message },
        403 if message.starts_with(OCTAVIA_QUOTA) => {
            let resources = vec![message.trim_start_matches(OCTAVIA_QUOTA).trim_end_matches('.').to_owned()];
            Error::QuotaExceeded { call, resources, message }
        }
        403 => Error::Forbidden { call, message },
        404 => Error::NotFound { call, kind, message },
        409 | 400 if NO_FREE_ADDRESS.contains(&kind.as_str()) => {
            Error::NoFreeAddress { call, network: network_in(&message), message }
        }
        // Neutron's exception of `extensions/allowedaddresspairs.py`.
        400 if kind == "AllowedAddressPairExhausted" => {
            Error::PairsExhausted { call, limit: last_number(&message), message }
        }
        409 if ADDRESS_IN_USE.contains(&kind.as_str()) => Error::AddressInUse { call, message },
        409 if kind == "OverQuota" => {
            Error::QuotaExceeded { call, resources: resources_in(&message), message }
        }
        409 if OCTAVIA_IMMUTABLE.iter().any(|words| message.contains(words)) => {
            Error::Immutable { call, message }
        }
        409 => match trunk_conflict(&kind) {
            Some(conflict) => Error::Trunk { call, conflict, message },
            None => Error::Conflict { call, kind, message },
        },
        412 => Error::Stale { call, message },
        413 | 429 => Error::OverLimit { call, retry_after: retry_after(headers) },
        400..=499 => Error::BadRequest { call, kind, message },
        501 => Error::Unsupported { call, message },
        500..=599 => Error::Server { call, status: status.as_u16(), message },
        other => Error::Protocol { call, problem: format!("status {other}") },
    }
}

const NO_FREE_ADDRESS: [&str; 3] =
    ["IpAddressGenerationFailure", "IpAddressGenerationFailureAllSubnets", "ExternalIpAddressExhausted"];
const ADDRESS_IN_USE: [&str; 2] = ["IpAddressInUse", "IpAddressAlreadyAllocated"];

/// Octavia's `QuotaException`, `ImmutableObject`, `LBPendingStateError` and `NotFound`.
const OCTAVIA_QUOTA: &str = "Quota has been met for resources: ";
const OCTAVIA_IMMUTABLE: [&str; 2] = ["is immutable and cannot be updated", "of loadbalancer resource"];
const OCTAVIA_NOT_FOUND: &str = " not found.";

/// Neutron's exceptions of `services/trunk/exceptions.py`.
fn trunk_conflict(kind: &str) -> Option<TrunkConflict> {
    match kind {
        "DuplicateSubPort" => Some(TrunkConflict::VlanInUse),
        "TrunkPortInUse" | "ParentPortInUse" | "PortInUseAsSubPort" | "PortInUseAsTrunkParent" => {
            Some(TrunkConflict::PortInUse)
        }
        "SubPortMtuGreaterThanTrunkPortMtu" => Some(TrunkConflict::MtuTooGreat),
        "TrunkDisabled" => Some(TrunkConflict::Disabled),
        "TrunkInErrorState" => Some(TrunkConflict::InError),
        _ => None,
    }
}

/// What the body says.
#[derive(Default)]
struct Words {
    kind: String,
    message: String,
}

impl Words {
    fn of(body: &[u8]) -> Self {
        let mut words = match serde_json::from_slice::<Value>(body) {
            Ok(json) => Self::of_json(&json),
            Err(_) => Self { kind: String::new(), message: String::from_utf8_lossy(body).into_owned() },
        };
        // In one line: a body of HTML has many, and a joined message of several failures too.
        words.message = words.message.split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some((end, _)) = words.message.char_indices().nth(MAX_MESSAGE) {
            words.message.truncate(end);
        }
        words
    }

    fn of_json(json: &Value) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let fault = ["NeutronError", "NotImplementedError", "error"].iter().find_map(|name| json.get(name));
        let fault = fault.unwrap_or(json);
        let said = ["message", "faultstring", "description", "title"];
        let message = said.iter().find_map(|name| fault.get(name).and_then(text));
        let message = message.or_else(|| text(fault)).unwrap_or_else(|| json.to_string());
        let is_octavias = json.get("faultcode").is_some() || json.get("description").is_some();
        let is_missing = is_octavias && message.ends_with(OCTAVIA_NOT_FOUND);
        let octavias = if is_missing { "NotFound" } else { "" };
        Self { kind: fault.get("type").and_then(text).unwrap_or_else(|| octavias.to_owned()), message }
    }
}

/// "No more IP addresses available on network 9d83c053-…." names the network last; other texts name a subnet
/// or nothing.
fn network_in(message: &str) -> Option<NetworkId> {
    let (_, id) = message.trim_end_matches('.').rsplit_once("network ")?;
    (!id.is_empty() && !id.contains(' ')).then(|| id.into())
}

/// "Quota exceeded for resources: ['port', 'security_group']."
fn resources_in(message: &str) -> Vec<String> {
    let inside = message.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    let names = inside.map_or("", |(names, _)| names).split(',');
    let names = names.map(|name| name.trim_matches(|c: char| c == '\'' || c == '"' || c.is_whitespace()));
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// "The number of allowed address pair exceeds the maximum 10."
fn last_number(message: &str) -> Option<usize> {
    message.trim_end_matches('.').rsplit(' ').next()?.parse().ok()
}

/// Seconds only; a date would need a clock that agrees with the cloud's.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Method};

    use super::*;

    fn error(status: u16, body: &str) -> Error {
        let url = "http://cloud:9696/v2.0/ports".to_owned();
        let call = Call { operation: "create_ports", method: Method::POST, url, request_id: None };
        classify(call, StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes())
    }

    /// The body that Neutron makes of an exception (`api_common.get_exception_data`).
    fn neutron(kind: &str, message: &str) -> String {
        serde_json::json!({"NeutronError": {"type": kind, "message": message, "detail": ""}}).to_string()
    }

    #[test]
    fn kinds_of_conflict_are_told_apart() {
        for (kind, message, expect) in [
            ("OverQuota", "Quota exceeded for resources: ['port'].", "QuotaExceeded [\"port\"]"),
            (
                "OverQuota",
                "Quota exceeded for resources: ['security_group_rule', 'security_group'].",
                "QuotaExceeded [\"security_group_rule\", \"security_group\"]",
            ),
            ("OverQuota", "Kvote overskredet", "QuotaExceeded []"),
            (
                "IpAddressGenerationFailure",
                "No more IP addresses available on network 9d83c053-b0a4-4682-ae80-c00df269ce0a.",
                "NoFreeAddress Some(9d83c053-b0a4-4682-ae80-c00df269ce0a)",
            ),
            (
                "IpAddressGenerationFailure",
                "No more IP addresses available for subnet 08eae331-0402-425a-923c-34f7cfe39c1b.",
                "NoFreeAddress None",
            ),
            ("IpAddressGenerationFailureAllSubnets", "No more IP addresses available.", "NoFreeAddress None"),
            (
                "IpAddressGenerationFailureNoMatchingSubnet",
                "No valid service subnet for the given device owner, network n, service type compute:kuryr.",
                "Conflict IpAddressGenerationFailureNoMatchingSubnet",
            ),
            (
                "IpAddressAlreadyAllocated",
                "IP address 10.1.0.7 already allocated in subnet 08eae331",
                "AddressInUse",
            ),
            (
                "IpAddressInUse",
                "Unable to complete operation for network 9d83. The IP address 10.1.0.7 is in use.",
                "AddressInUse",
            ),
            ("MacAddressInUse", "The mac address fa:16:3e:00:00:01 is in use.", "Conflict MacAddressInUse"),
            ("PortInUse", "Unable to complete operation on port p.", "Conflict PortInUse"),
            ("SecurityGroupInUse", "Security Group g in use.", "Conflict SecurityGroupInUse"),
            (
                "DuplicateSubPort",
                "segmentation_type vlan and segmentation_id 7 already in use on trunk t.",
                "Trunk VlanInUse",
            ),
            ("TrunkPortInUse", "Port p is in use by another trunk.", "Trunk PortInUse"),
            ("PortInUseAsSubPort", "Port p is currently a subport for trunk t.", "Trunk PortInUse"),
            ("TrunkDisabled", "Trunk t is currently disabled.", "Trunk Disabled"),
            ("TrunkInErrorState", "Trunk t is in error state.", "Trunk InError"),
            (
                "SubPortMtuGreaterThanTrunkPortMtu",
                "MTU 1500 of subport p cannot be greater than MTU 1442 of trunk t.",
                "Trunk MtuTooGreat",
            ),
        ] {
            let shown = match error(409, &neutron(kind, message)) {
                Error::QuotaExceeded { resources, .. } => format!("QuotaExceeded {resources:?}"),
                Error::NoFreeAddress { network, .. } => format!("NoFreeAddress {network:?}"),
                Error::AddressInUse { .. } => "AddressInUse".to_owned(),
                Error::Trunk { conflict, .. } => format!("Trunk {conflict:?}"),
                Error::Conflict { kind, .. } => format!("Conflict {kind}"),
                other => format!("{other:?}"),
            };
            assert_eq!(shown, expect, "{message}");
        }
    }

    #[test]
    fn every_status_becomes_an_error_with_the_clouds_words() {
        let keystone =
            r#"{"error": {"code": 401, "message": "requires authentication", "title": "Unauthorized"}}"#;
        let html = "<html>\n <h1>502 Bad Gateway</h1>\n</html>\n";
        for (status, body, expect) in [
            (401, keystone, "the cloud refused the credentials: requires authentication"),
            (401, "Authentication required", "the cloud refused the credentials: Authentication required"),
            (
                403,
                &neutron("PolicyNotAuthorized", "disallowed by policy"),
                "not allowed: disallowed by policy",
            ),
            (
                404,
                &neutron("PortNotFound", "Port p could not be found."),
                "not found: Port p could not be found.",
            ),
            (
                412,
                &neutron("RevisionNumberConstraintFailed", "Constrained to 3, but current revision is 4"),
                "changed since it was read: Constrained to 3, but current revision is 4",
            ),
            (
                400,
                &neutron("InvalidIpForSubnet", "::1 does not"),
                "bad request InvalidIpForSubnet: ::1 does not",
            ),
            (400, r#"{"NeutronError": "Unrecognized attribute"}"#, "bad request : Unrecognized attribute"),
            (409, r#"{"faultcode": "Client", "faultstring": "already exists"}"#, "conflict : already exists"),
            (
                409,
                r#"{"faultcode": "Client", "faultstring": "Load Balancer b is immutable and cannot be updated.", "debuginfo": null}"#,
                "immutable while it is being changed: Load Balancer b is immutable and cannot be updated.",
            ),
            (
                409,
                r#"{"faultcode": "Client", "faultstring": "Invalid state PENDING_UPDATE of loadbalancer resource b"}"#,
                "immutable while it is being changed: Invalid state PENDING_UPDATE of loadbalancer resource b",
            ),
            (
                403,
                r#"{"faultcode": "Client", "faultstring": "Quota has been met for resources: load_balancer"}"#,
                "quota exceeded for load_balancer: Quota has been met for resources: load_balancer",
            ),
            (
                501,
                r#"{"faultcode": "Server", "faultstring": "Provider 'ovn' does not support a requested option"}"#,
                "not supported by the provider: Provider 'ovn' does not support a requested option",
            ),
            (422, "", "bad request : "),
            (429, "", "the cloud asks for fewer calls"),
            (500, &neutron("HTTPInternalServerError", "Failed"), "the cloud failed with status 500: Failed"),
            (502, html, "the cloud failed with status 502: <html> <h1>502 Bad Gateway</h1> </html>"),
            (302, "", "unexpected answer: status 302"),
        ] {
            let text = error(status, body).to_string();
            assert_eq!(text, format!("create_ports (POST http://cloud:9696/v2.0/ports): {expect}"));
        }
    }

    #[test]
    fn only_the_service_itself_can_say_that_something_does_not_exist() {
        for (body, missing) in [
            (neutron("PortNotFound", "Port p could not be found."), true),
            (neutron("SecurityGroupRuleNotFound", "Security group rule r does not exist"), true),
            // Policy hides it, or the path is not served (neutron `policy_enforcement.py`).
            (neutron("HTTPNotFound", "The resource could not be found."), false),
            (
                r#"{"type": "HTTPNotFound", "message": "The resource could not be found.", "detail": ""}"#
                    .to_owned(),
                false,
            ),
            ("<html>404 Not Found</html>".to_owned(), false),
            (r#"{"faultcode": "Client", "faultstring": "load_balancer b not found."}"#.to_owned(), true),
            (r#"{"faultstring": "load_balancer b not found."}"#.to_owned(), false),
            (r#"{"code": 404, "title": "Bad Request", "description": "Pool p not found."}"#.to_owned(), true),
            (r#"{"title": "Pool p not found."}"#.to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(error(404, &body).is_not_found(), missing, "{body}");
        }
        assert!(!error(409, &neutron("PortNotFound", "")).is_not_found());
    }

    #[test]
    fn a_port_that_is_full_of_pairs_tells_how_many_it_may_have() {
        for (message, expect) in [
            ("The number of allowed address pair exceeds the maximum 10.", Some(10)),
            ("Grense for adressepar er overskredet.", None),
        ] {
            let error = error(400, &neutron("AllowedAddressPairExhausted", message));
            assert!(matches!(error, Error::PairsExhausted { limit, .. } if limit == expect), "{error}");
        }
    }

    #[test]
    fn long_words_are_cut_at_a_character() {
        let Error::Server { message, .. } = error(500, &"é".repeat(5000)) else { panic!() };
        assert_eq!(message.chars().count(), MAX_MESSAGE);
    }

    #[test]
    fn seconds_to_wait_are_read_and_bounded() {
        for (value, expect) in
            [("7", Some(7)), ("999999", Some(3600)), ("-1", None), ("Fri, 31 Dec 2027 23:59:59 GMT", None)]
        {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]);
            assert_eq!(retry_after(&headers), expect.map(Duration::from_secs), "{value}");
        }
    }
}
