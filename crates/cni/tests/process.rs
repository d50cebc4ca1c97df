//! The plugin as a process, against an agent that plays a script on a unix socket.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::JoinHandle,
};

use kuryr_api::{
    cni::{Attachment, result::AttachedAddress},
    node::CniRequest,
};
use serde_json::{Value, json};

/// Exit code and standard output of one call.
struct Told {
    exit: i32,
    output: Value,
}

fn call(verb: &str, config: &str, more: &[(&str, &str)]) -> Told {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kuryr-cni"))
        .env_clear()
        .env("CNI_COMMAND", verb)
        .envs([("CNI_CONTAINERID", "c1"), ("CNI_NETNS", "/run/netns/c1"), ("CNI_IFNAME", "eth0")])
        .envs([("CNI_PATH", "/opt/cni/bin"), ("CNI_ARGS", "K8S_POD_NAMESPACE=team-a;K8S_POD_NAME=web-0")])
        .envs(more.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    match child.stdin.take().unwrap().write_all(config.as_bytes()) {
        // What is wrong with the environment is told before the configuration is read; runtimes do not mind either.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        written => written.unwrap(),
    }
    let done = child.wait_with_output().unwrap();
    let output =
        if done.stdout.is_empty() { Value::Null } else { serde_json::from_slice(&done.stdout).unwrap() };
    Told { exit: done.status.code().unwrap(), output }
}

fn config(version: &str, socket: &Path) -> String {
    json!({"cniVersion": version, "name": "kuryr", "type": "kuryr-cni", "agentSocket": socket,
           "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]})
    .to_string()
}

/// Answers one request with `answer` and gives back what was asked.
fn agent(socket: &Path, answer: String) -> JoinHandle<String> {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = String::new();
        let mut chunk = [0; 4096];
        while !complete(&request) {
            let length = stream.read(&mut chunk).unwrap();
            assert_ne!(length, 0, "the plugin left in the middle of its request");
            request.push_str(std::str::from_utf8(&chunk[..length]).unwrap());
        }
        stream.write_all(answer.as_bytes()).unwrap();
        request
    })
}

fn complete(request: &str) -> bool {
    let Some((head, body)) = request.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
    body.len() >= length.parse().unwrap()
}

fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn socket_in(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("agent.sock")
}

fn attachment() -> Attachment {
    Attachment {
        ifname: "eth0".into(),
        mac: "fa:16:3e:00:00:01".parse().unwrap(),
        mtu: 1442,
        sandbox: "/run/netns/c1".into(),
        host_ifname: None,
        addresses: vec![AttachedAddress {
            address: "10.0.0.5/24".parse().unwrap(),
            gateway: "10.0.0.1".parse().ok(),
        }],
        routes: vec![],
        nameservers: vec![],
    }
}

#[test]
fn add_prints_the_result_in_the_configured_version() {
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let folder = tempfile::tempdir().unwrap();
        let socket = socket_in(&folder);
        let agent = agent(&socket, http("200 OK", &serde_json::to_string(&attachment()).unwrap()));
        let told = call("ADD", &config(version, &socket), &[]);
        assert_eq!(told.exit, 0, "{}", told.output);
        assert_eq!(told.output["cniVersion"], version);
        assert_eq!(told.output["ips"][0]["address"], "10.0.0.5/24");
        let asked = agent.join().unwrap();
        let (head, body) = asked.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /v1/add HTTP/1.1\r\n"), "{head}");
        let request: CniRequest = serde_json::from_str(body).unwrap();
        assert_eq!(request.container_id, "c1");
        assert_eq!(request.netns, "/run/netns/c1");
        assert_eq!(request.pod_name(), Some("web-0"));
    }
}

#[test]
fn verbs_without_a_result_print_nothing() {
    for (verb, path) in
        [("DEL", "/v1/del"), ("CHECK", "/v1/check"), ("GC", "/v1/gc"), ("STATUS", "/v1/status")]
    {
        let folder = tempfile::tempdir().unwrap();
        let socket = socket_in(&folder);
        let agent = agent(&socket, "HTTP/1.1 204 No Content\r\n\r\n".into());
        let told = call(verb, &config("1.1.0", &socket), &[]);
        assert_eq!((told.exit, told.output), (0, Value::Null), "{verb}");
        assert!(agent.join().unwrap().split(' ').nth(1) == Some(path), "{verb}");
    }
}

#[test]
fn errors_are_objects_on_standard_output() {
    let folder = tempfile::tempdir().unwrap();
    let socket = socket_in(&folder);
    let refused = agent(&socket, http("504 Gateway Timeout", r#"{"code":11,"msg":"no ready port"}"#));
    let told = call("ADD", &config("1.0.0", &socket), &[]);
    assert_eq!(told.exit, 1);
    assert_eq!(told.output, json!({"cniVersion": "1.0.0", "code": 11, "msg": "no ready port"}));
    refused.join().unwrap();

    let nobody = folder.path().join("nobody.sock");
    for (verb, code) in [("ADD", 11), ("DEL", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)] {
        let told = call(verb, &config("1.1.0", &nobody), &[]);
        assert_eq!((told.exit, told.output["code"].as_u64()), (1, Some(code)), "{verb}");
        let message = told.output["msg"].as_str().unwrap();
        assert!(message.contains("Is kuryr-daemon running"), "{message}");
    }
    let told = call("ADD", "garbage", &[]);
    assert_eq!((told.exit, told.output["code"].as_u64()), (1, Some(6)));
    let told = call("ADD", &config("1.0.0", &nobody), &[("CNI_IFNAME", "a/b")]);
    assert_eq!((told.exit, told.output["code"].as_u64()), (1, Some(4)));
    let told = call("STATUS", &config("1.0.0", &nobody), &[]);
    assert_eq!((told.exit, told.output["code"].as_u64()), (1, Some(1)));
}

#[test]
fn version_needs_no_agent() {
    let told = call("VERSION", r#"{"cniVersion":"1.0.0"}"#, &[]);
    assert_eq!(told.exit, 0);
    assert_eq!(
        told.output,
        json!({"cniVersion": "1.0.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]})
    );
}

#[test]
fn an_agent_that_dies_in_the_middle_is_tried_again_later() {
    for answer in ["", "HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n{"] {
        let folder = tempfile::tempdir().unwrap();
        let socket = socket_in(&folder);
        let agent = agent(&socket, answer.to_owned());
        let told = call("ADD", &config("1.0.0", &socket), &[]);
        assert_eq!((told.exit, told.output["code"].as_u64()), (1, Some(11)), "{answer:?}");
        agent.join().unwrap();
    }
}
