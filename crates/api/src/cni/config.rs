//! The network configuration on standard input.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::{CniError, code};

/// A version of the CNI specification that this plugin speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(non_camel_case_types, reason = "the specification's own numbers")]
pub enum Version {
    /// 0.3.1: addresses carry a `version`.
    V0_3_1,
    /// 0.4.0: CHECK, otherwise as 0.3.1.
    V0_4_0,
    /// 1.0.0: addresses without `version`.
    V1_0_0,
    /// 1.1.0: GC, STATUS, interface MTU.
    V1_1_0,
}

/// All spoken versions, oldest first, as VERSION lists them.
pub const SUPPORTED_VERSIONS: [Version; 4] =
    [Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];

impl Version {
    /// The version as the specification writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// Reads `cniVersion`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        SUPPORTED_VERSIONS.into_iter().find(|version| version.as_str() == text)
    }
}

/// An attachment that still exists, as GC lists it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ValidAttachment {
    /// Container (sandbox) id.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// Interface name in the container.
    pub ifname: String,
}

/// The part of the configuration that this plugin reads. Unknown keys are other plugins' and ignored.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NetworkConfig {
    /// Version the result must have.
    #[serde(rename = "cniVersion")]
    pub cni_version: String,
    /// Name of the network.
    pub name: String,
    /// Name of the plugin.
    #[serde(rename = "type")]
    pub plugin: String,
    /// Unix socket of the agent; [`crate::names::AGENT_SOCKET`] when absent.
    #[serde(rename = "agentSocket")]
    pub agent_socket: Option<String>,
    /// Seconds within which the agent answers ADD; 60 when absent.
    #[serde(rename = "agentTimeout")]
    pub agent_timeout: Option<u64>,
    /// Result of ADD, given back with CHECK and DEL.
    #[serde(rename = "prevResult")]
    pub prev_result: Option<Value>,
    /// Attachments that GC must keep.
    #[serde(rename = "cni.dev/valid-attachments")]
    pub valid_attachments: Option<Vec<ValidAttachment>>,
}

impl NetworkConfig {
    /// Reads standard input.
    ///
    /// # Errors
    ///
    /// Code 6 when it is not a JSON object of the right shape, 1 for a version that is not spoken, 7 for a
    /// missing or unusable name.
    pub fn parse(input: &[u8]) -> Result<(Self, Version), CniError> {
        let undecodable = |error: serde_json::Error| {
            let what = "the network configuration on standard input is not a valid JSON object";
            CniError::new(code::DECODING_FAILURE, what).with_details(error.to_string())
        };
        // By way of a map: a struct would be read from an array, too.
        let object: Map<String, Value> = serde_json::from_slice(input).map_err(undecodable)?;
        let config: Self = serde_json::from_value(Value::Object(object)).map_err(undecodable)?;
        let version = config.version()?;
        if !valid_name(&config.name) {
            return Err(CniError::new(
                code::INVALID_CONFIG,
                format!(
                    "`name` is {:?}: it must start with a letter or digit and hold only those, _ . and -",
                    config.name
                ),
            ));
        }
        Ok((config, version))
    }

    fn version(&self) -> Result<Version, CniError> {
        Version::parse(&self.cni_version).ok_or_else(|| {
            let spoken = SUPPORTED_VERSIONS.map(Version::as_str).join(", ");
            CniError::new(
                code::INCOMPATIBLE_VERSION,
                format!("`cniVersion` {:?} is not supported; supported are {spoken}", self.cni_version),
            )
        })
    }
}

/// Section 1 of the specification: must start with an alphanumeric character, then any of those, `_`, `.`, `-`.
pub(crate) fn valid_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_wrong_with_the_configuration() {
        for (input, expect) in [
            (r#"{"cniVersion":"1.0.0","name":"kuryr","type":"kuryr-cni"}"#, Ok(Version::V1_0_0)),
            (r#"{"cniVersion":"0.3.1","name":"kuryr","unknown":{"a":1}}"#, Ok(Version::V0_3_1)),
            (r#"{"cniVersion":"0.2.0","name":"kuryr"}"#, Err(code::INCOMPATIBLE_VERSION)),
            (r#"{"name":"kuryr"}"#, Err(code::INCOMPATIBLE_VERSION)),
            (r#"{"cniVersion":"1.0.0"}"#, Err(code::INVALID_CONFIG)),
            (r#"{"cniVersion":"1.0.0","name":"../x"}"#, Err(code::INVALID_CONFIG)),
            ("garbage", Err(code::DECODING_FAILURE)),
            ("", Err(code::DECODING_FAILURE)),
            ("[]", Err(code::DECODING_FAILURE)),
            (r#"{"cniVersion":1}"#, Err(code::DECODING_FAILURE)),
        ] {
            let got = NetworkConfig::parse(input.as_bytes()).map(|(_, v)| v).map_err(|e| e.code);
            assert_eq!(got, expect, "{input}");
        }
    }

    /// What its plugin was configured with besides is nobody's here.
    #[test]
    fn reads_upstreams_configuration() {
        let request: Value =
            serde_json::from_str(include_str!("../../golden/upstream-cni-request.json")).unwrap();
        let (config, version) = NetworkConfig::parse(request["config_kuryr"].to_string().as_bytes()).unwrap();
        assert_eq!(version, Version::V0_3_1);
        assert_eq!((config.name.as_str(), config.plugin.as_str()), ("kuryr", crate::names::CNI_PLUGIN));
        assert_eq!((config.agent_socket, config.agent_timeout), (None, None));
    }
}
