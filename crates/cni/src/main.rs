//! The CNI plugin that the container runtime calls.
//!
//! Reads the environment and standard input, asks the agent over its unix socket, prints the result or the
//! error as the specification of the configured version wants it. It holds no state, makes no choice about
//! networking and talks to nobody but the agent, so that it starts in a millisecond and never needs an upgrade
//! of its own.
//!
//! Source: CNI specification 1.1.0, section 2 ("Execution Protocol"), and its predecessors down to 0.3.1.

// CNI_* variables -> a checked call.
mod environment;
// The call over the agent's socket.
mod request;
// Results and errors on standard output.
mod output;

use std::{
    io::{self, Read},
    process::ExitCode,
};

use kuryr_api::{
    cni::{Attachment, CniError, NetworkConfig, Verb, Version, code},
    node::{self, CniRequest, GcRequest},
};
use serde_json::Value;

use environment::{Environment, Network};
use request::Agent;

fn main() -> ExitCode {
    let answer = Environment::read().and_then(|environment| {
        let input = standard_input().map_err(|error| (None, error))?;
        run(&environment, &input)
    });
    match answer {
        Ok(Some(result)) => output::result(&result),
        Ok(None) => ExitCode::SUCCESS,
        Err((version, error)) => output::error(version, &error),
    }
}

/// What is printed on success, or the version (as far as it is known) in which the error is told.
type Answer = Result<Option<Value>, (Option<Version>, CniError)>;

fn run(environment: &Environment, input: &[u8]) -> Answer {
    if environment.verb == Verb::Version {
        return output::versions(input).map(Some).map_err(|error| (None, error));
    }
    let (config, version) = NetworkConfig::parse(input).map_err(|error| (None, error))?;
    serve(environment, &config, version).map_err(|error| (Some(version), error))
}

fn serve(
    environment: &Environment,
    config: &NetworkConfig,
    version: Version,
) -> Result<Option<Value>, CniError> {
    let verb = environment.verb;
    if version < verb.since() {
        return Err(CniError::new(
            code::INCOMPATIBLE_VERSION,
            format!(
                "configuration version {} does not know {verb:?}: it came with {}",
                version.as_str(),
                verb.since().as_str()
            ),
        ));
    }
    let agent = Agent::of(config, verb);
    match verb {
        Verb::Add => {
            let body = agent.post(node::ADD_PATH, &call(environment.network()?, config))?;
            let attachment: Attachment = serde_json::from_slice(&body).map_err(|error| {
                CniError::new(code::DECODING_FAILURE, "the agent's answer to ADD is not an attachment")
                    .with_details(error.to_string())
            })?;
            Ok(Some(attachment.to_result(version)))
        }
        Verb::Del => agent.post(node::DEL_PATH, &call(environment.network()?, config)).map(|_| None),
        Verb::Check => agent.post(node::CHECK_PATH, &call(environment.network()?, config)).map(|_| None),
        Verb::Gc => agent.post(node::GC_PATH, &kept(config)?).map(|_| None),
        Verb::Status => agent.get(node::STATUS_PATH).map(|_| None),
        // Answered before the configuration was read.
        Verb::Version => Ok(None),
    }
}

fn call(network: &Network, config: &NetworkConfig) -> CniRequest {
    CniRequest {
        container_id: network.container_id.clone(),
        netns: network.netns.clone(),
        ifname: network.ifname.clone(),
        args: node::split_args(&network.args),
        prev_result: config.prev_result.clone(),
    }
}

/// GC without the list must not be taken for a list of nothing: that would cut every pod of the node.
fn kept(config: &NetworkConfig) -> Result<GcRequest, CniError> {
    let valid = config.valid_attachments.clone().ok_or_else(|| {
        CniError::new(
            code::INVALID_CONFIG,
            "GC needs `cni.dev/valid-attachments` in the configuration; nothing was freed",
        )
    })?;
    Ok(GcRequest { valid_attachments: valid })
}

fn standard_input() -> Result<Vec<u8>, CniError> {
    let mut input = Vec::new();
    let limit = u64::try_from(node::MESSAGE_MAX).unwrap_or(u64::MAX);
    let read = io::stdin().lock().take(limit + 1).read_to_end(&mut input);
    let failed = |details: String| {
        CniError::new(code::IO_FAILURE, "standard input cannot be read").with_details(details)
    };
    read.map_err(|error| failed(error.to_string()))?;
    if input.len() > node::MESSAGE_MAX {
        return Err(failed(format!("longer than {} bytes", node::MESSAGE_MAX)));
    }
    Ok(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> Network {
        Network {
            container_id: "c1".into(),
            netns: "/run/netns/x".into(),
            ifname: "eth0".into(),
            args: "K8S_POD_NAME=web-0".into(),
        }
    }

    fn check(verb: Verb, input: &str, expect: u32) {
        let environment = Environment { verb, network: Some(network()) };
        let got = run(&environment, input.as_bytes()).unwrap_err();
        assert_eq!(got.1.code, expect, "{verb:?} {input}: {}", got.1);
    }

    #[test]
    fn refuses_before_it_asks_anybody() {
        let config = |version: &str| {
            format!(
                r#"{{"cniVersion":"{version}","name":"kuryr","type":"kuryr-cni","agentSocket":"/nonexistent"}}"#
            )
        };
        check(Verb::Check, &config("0.3.1"), code::INCOMPATIBLE_VERSION);
        check(Verb::Gc, &config("1.0.0"), code::INCOMPATIBLE_VERSION);
        check(Verb::Status, &config("1.0.0"), code::INCOMPATIBLE_VERSION);
        check(Verb::Gc, &config("1.1.0"), code::INVALID_CONFIG);
        check(Verb::Add, &config("0.2.0"), code::INCOMPATIBLE_VERSION);
        check(Verb::Add, "garbage", code::DECODING_FAILURE);
    }

    #[test]
    fn without_the_agent_everything_is_tried_again_later() {
        let config = r#"{"cniVersion":"1.1.0","name":"kuryr","agentSocket":"/nonexistent","cni.dev/valid-attachments":[]}"#;
        for verb in [Verb::Add, Verb::Del, Verb::Check, Verb::Gc] {
            check(verb, config, code::TRY_AGAIN_LATER);
        }
        check(Verb::Status, config, code::NOT_AVAILABLE);
    }
}
