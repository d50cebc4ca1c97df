//! What the runtime reads: one JSON object on standard output.
//!
//! Source: CNI specification 1.1.0, section 5.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use kuryr_api::cni::{CniError, SUPPORTED_VERSIONS, Version, code};
use serde_json::{Map, Value, json};

/// Prints a result.
pub(crate) fn result(value: &Value) -> ExitCode {
    print(value, ExitCode::SUCCESS)
}

/// Prints an error in the version that the configuration asked for, the newest one if that is not known.
pub(crate) fn error(version: Option<Version>, error: &CniError) -> ExitCode {
    let mut object = json!({
        "cniVersion": version.unwrap_or_else(newest).as_str(),
        "code": error.code,
        "msg": error.msg,
    });
    if !error.details.is_empty() {
        object["details"] = json!(error.details);
    }
    print(&object, ExitCode::FAILURE)
}

/// The answer to VERSION: the version on standard input is repeated, whether it is spoken or not, because this
/// is how a runtime finds out. Runtimes of 0.3.1 send nothing.
///
/// # Errors
///
/// Code 6 when standard input holds something else than a JSON object.
pub(crate) fn versions(input: &[u8]) -> Result<Value, CniError> {
    let object: Map<String, Value> = if input.trim_ascii().is_empty() {
        Map::new()
    } else {
        serde_json::from_slice(input).map_err(|error| {
            CniError::new(code::DECODING_FAILURE, "standard input is not a JSON object")
                .with_details(error.to_string())
        })?
    };
    let asked = object.get("cniVersion").and_then(Value::as_str);
    Ok(json!({
        "cniVersion": asked.unwrap_or_else(|| newest().as_str()),
        "supportedVersions": SUPPORTED_VERSIONS.map(Version::as_str),
    }))
}

fn newest() -> Version {
    SUPPORTED_VERSIONS[SUPPORTED_VERSIONS.len() - 1]
}

/// A reader that is gone is the runtime's decision: the exit code still tells it.
fn print(value: &Value, code: ExitCode) -> ExitCode {
    match writeln!(io::stdout().lock(), "{value}") {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_repeats_what_was_asked() {
        for (input, expect) in [
            (r#"{"cniVersion":"1.0.0"}"#, Some("1.0.0")),
            (r#"{"cniVersion":"9.9.9"}"#, Some("9.9.9")),
            ("{}", Some("1.1.0")),
            (" \n", Some("1.1.0")),
            ("garbage", None),
        ] {
            let got = versions(input.as_bytes()).ok();
            assert_eq!(got.as_ref().and_then(|value| value["cniVersion"].as_str()), expect, "{input}");
        }
        assert_eq!(versions(b"").unwrap()["supportedVersions"], json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    }
}
