//! CNI errors: an object on standard output and a non-zero exit code.
//!
//! Source: CNI specification 1.1.0, section 5, "Error" and "Well-known Error Codes".

use serde::{Deserialize, Serialize};

/// Error codes: below 100 the specification's, from 100 this plugin's own.
pub mod code {
    /// The `cniVersion` is not spoken.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field of the configuration is not supported.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is unknown or gone; the runtime need not clean up.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A CNI environment variable is missing or invalid.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Input or output failed.
    pub const IO_FAILURE: u32 = 5;
    /// Input is not what it should be.
    pub const DECODING_FAILURE: u32 = 6;
    /// The configuration is invalid.
    pub const INVALID_CONFIG: u32 = 7;
    /// Not now; the runtime should try again.
    pub const TRY_AGAIN_LATER: u32 = 11;
    /// STATUS: ADD would fail now.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: ADD would fail now and existing containers are affected.
    pub const NOT_AVAILABLE_LIMITED: u32 = 51;
    /// CHECK found the interface changed. Own.
    pub const CHECK_FAILED: u32 = 110;
    /// Something failed on the node. Own; upstream's code for it.
    pub const NODE_FAILURE: u32 = 999;
}

/// An error as the runtime reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg} (code {code})")]
pub struct CniError {
    /// One of [`code`].
    pub code: u32,
    /// What went wrong and what to do, in one sentence.
    pub msg: String,
    /// More, for logs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl CniError {
    /// An error with a code and a message.
    #[must_use]
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// The same error with details for logs.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;

    /// By the status of upstream's daemon, which its plugin hands on. Details that say nothing are left out here.
    #[test]
    fn has_upstreams_shape_and_codes() {
        let upstreams: BTreeMap<&str, Value> =
            serde_json::from_str(include_str!("../../golden/upstream-cni-errors.json")).unwrap();
        let codes = [
            ("400", code::INVALID_ENVIRONMENT),
            ("410", code::UNKNOWN_CONTAINER),
            ("500", code::NODE_FAILURE),
            ("500-max", code::NODE_FAILURE),
            ("504-timeout", code::TRY_AGAIN_LATER),
            ("504-vlan", code::TRY_AGAIN_LATER),
        ];
        assert!(upstreams.keys().copied().eq(codes.iter().map(|(status, _)| *status)));
        for (status, code) in codes {
            let error: CniError = serde_json::from_value(upstreams[status].clone()).unwrap();
            assert_eq!(error.code, code, "{status}");
            let mut written = serde_json::to_value(&error).unwrap();
            if error.details.is_empty() {
                assert!(written.get("details").is_none(), "{written}");
                written["details"] = json!("");
            }
            assert_eq!(written, upstreams[status]);
        }
    }
}
