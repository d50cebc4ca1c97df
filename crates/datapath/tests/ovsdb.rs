//! The client of Open vSwitch's database against a server that says what the test wants it to say.
//!
//! Needs no privileges.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};

use kuryr_datapath::{Error, Ovsdb, OvsdbConfig, PortSpec, SwitchState};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time,
};

/// Bound for anything that should happen.
const SOON: Duration = Duration::from_secs(60);

/// A server that accepts one connection at a time.
struct Server {
    folder: tempfile::TempDir,
    listener: UnixListener,
}

impl Server {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("db.sock")).unwrap();
        Self { folder, listener }
    }

    fn config(&self) -> OvsdbConfig {
        OvsdbConfig::new(self.folder.path().join("db.sock"))
    }

    fn pidfile(&self) -> PathBuf {
        self.folder.path().join("ovs-vswitchd.pid")
    }

    async fn accept(&self) -> Connection {
        let (stream, _) = soon(self.listener.accept()).await.unwrap();
        Connection { stream, buffer: String::new() }
    }

    /// Accepts, and answers the request to monitor with these rows.
    async fn serve(&self, rows: Value) -> Connection {
        let mut connection = self.accept().await;
        let request = connection.hear().await;
        assert_eq!(request["method"], "monitor_cond");
        assert_eq!(request["params"][0], "Open_vSwitch");
        for table in ["Open_vSwitch", "Bridge", "Port", "Interface"] {
            assert!(request["params"][2][table][0]["columns"].is_array(), "{request}");
        }
        connection.say(&json!({"id": request["id"], "result": rows, "error": null})).await;
        connection
    }
}

struct Connection {
    stream: UnixStream,
    buffer: String,
}

impl Connection {
    async fn say(&mut self, message: &Value) {
        self.stream.write_all(message.to_string().as_bytes()).await.unwrap();
    }

    /// The next message of the client.
    async fn hear(&mut self) -> Value {
        soon(async {
            loop {
                let mut values = serde_json::Deserializer::from_str(&self.buffer).into_iter::<Value>();
                if let Some(Ok(value)) = values.next() {
                    let rest = values.byte_offset();
                    self.buffer.drain(..rest);
                    return value;
                }
                let mut bytes = [0; 4096];
                let read = self.stream.read(&mut bytes).await.unwrap();
                assert_ne!(read, 0, "the client went away");
                self.buffer.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
            }
        })
        .await
    }

    /// Tells of changed rows.
    async fn update(&mut self, tables: Value) {
        self.say(&json!({"id": null, "method": "update2", "params": ["kuryr", tables]})).await;
    }

    /// Hears a transaction, answers it, and returns its operations.
    async fn transact(&mut self, result: Value) -> Vec<Value> {
        let request = self.hear().await;
        assert_eq!(request["method"], "transact", "{request}");
        self.say(&json!({"id": request["id"], "result": result, "error": null})).await;
        request["params"].as_array().unwrap()[1..].to_vec()
    }
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    time::timeout(SOON, work).await.unwrap()
}

async fn until(ovsdb: &Ovsdb, holds: impl Fn(&SwitchState) -> bool) -> Arc<SwitchState> {
    let mut watch = ovsdb.watch();
    soon(watch.wait_for(|state| holds(state))).await.unwrap().clone()
}

fn bridge() -> Value {
    json!({"Bridge": {"b1": {"initial": {"name": "br-int", "datapath_type": "netdev"}}},
        "Open_vSwitch": {"o1": {"initial": {"external_ids": ["map", [["hostname", "node-1"], ["system-id", "ch-1"]]],
            "ovs_version": "3.1.0", "cur_cfg": 5, "next_cfg": 5}}}})
}

fn port(number: u8) -> PortSpec {
    PortSpec {
        name: format!("tap{number}"),
        port: format!("port-{number}").into(),
        mac: kuryr_types::MacAddr([0xfa, 0x16, 0x3e, 0, 0, number]),
        generation: Some("2.7".parse().unwrap()),
        start: None,
    }
}

#[tokio::test]
async fn a_port_is_followed_from_plugging_to_installed() {
    let server = Server::new();
    let ovsdb = Ovsdb::start(server.config());
    let mut connection = server.serve(bridge()).await;
    let state = until(&ovsdb, |state| state.connected).await;
    let switch = state.switch.clone().unwrap();
    assert_eq!((switch.hostname.as_deref(), switch.system_id.as_deref()), (Some("node-1"), Some("ch-1")));
    assert_eq!(state.bridge.as_ref().unwrap().datapath_type, "netdev");
    assert_eq!(state.start, None);

    let plug = tokio::spawn({
        let ovsdb = ovsdb.clone();
        async move { ovsdb.add_ports(&[port(1), port(2)]).await }
    });
    let operations = connection.transact(json!([{}, {}, {}, {}, {}, {"count": 1}])).await;
    let tables: Vec<_> = operations.iter().map(|operation| operation["table"].as_str().unwrap()).collect();
    assert_eq!(tables, ["Bridge", "Interface", "Port", "Interface", "Port", "Bridge"]);
    plug.await.unwrap().unwrap();

    connection
        .update(json!({
            "Port": {"p1": {"insert": {"name": "tap1"}}},
            "Interface": {"i1": {"insert": {"name": "tap1", "ofport": ["set", []], "external_ids": ["map", [
                ["iface-id", "port-1"], ["vm-uuid", "kuryr"], ["kuryr-generation", "2.7"]]]}}}}))
        .await;
    let state = until(&ovsdb, |state| state.interfaces.contains_key("tap1")).await;
    let row = &state.interfaces["tap1"];
    assert_eq!((row.ofport, row.ovn_installed, row.ours), (None, false, true));
    assert_eq!(row.iface_id.as_ref().unwrap().as_str(), "port-1");
    assert_eq!(row.generation, Some("2.7".parse().unwrap()));

    connection.update(json!({"Interface": {"i1": {"modify": {"ofport": 4}}}})).await;
    connection
        .update(json!({"Interface": {"i1": {"modify": {"external_ids": ["map", [
            ["ovn-installed", "true"], ["ovn-installed-ts", "1700000000123"]]]}}}}))
        .await;
    let state = until(&ovsdb, |state| state.interfaces["tap1"].ovn_installed).await;
    let row = &state.interfaces["tap1"];
    assert_eq!((row.ofport, row.ovn_installed_ts), (Some(4), Some(1_700_000_000_123)));
    assert_eq!(row.iface_id.as_ref().unwrap().as_str(), "port-1", "what was there stays");

    // ovn-controller takes its word back: the same pair once more.
    connection
        .update(
            json!({"Interface": {"i1": {"modify": {"external_ids": ["map", [["ovn-installed", "true"]]]}}}}),
        )
        .await;
    until(&ovsdb, |state| !state.interfaces["tap1"].ovn_installed).await;

    let unplug = tokio::spawn({
        let ovsdb = ovsdb.clone();
        async move { ovsdb.del_ports(&["tap1".into(), "never-was".into()]).await }
    });
    let operations = connection.transact(json!([{}, {"count": 1}])).await;
    assert_eq!(operations[1]["mutations"], json!([["ports", "delete", ["set", [["uuid", "p1"]]]]]));
    unplug.await.unwrap().unwrap();
    connection.update(json!({"Port": {"p1": {"delete": null}}, "Interface": {"i1": {"delete": null}}})).await;
    until(&ovsdb, |state| state.interfaces.is_empty()).await;
    // Nothing to do, nothing said.
    ovsdb.del_ports(&["tap1".into()]).await.unwrap();
    ovsdb.add_ports(&[]).await.unwrap();
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let server = Server::new();
    let ovsdb = Ovsdb::start(server.config());
    let mut connection = server.serve(json!({})).await;
    let state = until(&ovsdb, |state| state.connected).await;
    assert_eq!((&state.bridge, &state.switch), (&None, &None));
    let ask = || {
        let ovsdb = ovsdb.clone();
        tokio::spawn(async move { ovsdb.add_ports(&[port(1)]).await.unwrap_err() })
    };

    let asked = ask();
    connection.transact(json!([{"error": "timed out", "details": "wait"}, null, null, null])).await;
    assert!(matches!(asked.await.unwrap(), Error::BridgeMissing { bridge } if bridge == "br-int"));

    let asked = ask();
    connection.transact(json!([{}, {}, {}, {}, {"error": "constraint violation", "details": "twice"}])).await;
    assert!(
        matches!(asked.await.unwrap(), Error::OvsdbRefused { error, .. } if error == "constraint violation")
    );

    let asked = ask();
    let request = connection.hear().await;
    connection
        .say(&json!({"id": request["id"], "result": null, "error": {"error": "unknown database"}}))
        .await;
    assert!(matches!(asked.await.unwrap(), Error::OvsdbRefused { error, .. } if error == "unknown database"));

    // The bridge comes.
    connection.update(bridge_inserted()).await;
    until(&ovsdb, |state| state.bridge.is_some()).await;
}

fn bridge_inserted() -> Value {
    json!({"Bridge": {"b1": {"insert": {"name": "br-int", "datapath_type": ""}}}})
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_not_waited_for() {
    let server = Server::new();
    // What is answered is answered within this, also by a machine that is busy.
    let config = OvsdbConfig { request_timeout: Duration::from_secs(2), ..server.config() };
    let ovsdb = Ovsdb::start(config);
    let mut connection = server.serve(bridge()).await;
    until(&ovsdb, |state| state.connected).await;
    let asked = tokio::spawn({
        let ovsdb = ovsdb.clone();
        async move { ovsdb.add_ports(&[port(1)]).await }
    });
    let late = connection.hear().await;
    assert!(matches!(asked.await.unwrap(), Err(Error::OvsdbSilent { .. })));
    // Late, it is nobody's, and the connection goes on.
    connection.say(&json!({"id": late["id"], "result": [], "error": null})).await;
    connection.update(json!({"Open_vSwitch": {"o1": {"modify": {"next_cfg": 6}}}})).await;
    until(&ovsdb, |state| state.switch.as_ref().is_some_and(|switch| switch.next_cfg == 6)).await;
}

#[tokio::test]
async fn a_lost_connection_is_made_again_and_the_rows_stay_visible() {
    let server = Server::new();
    let ovsdb = Ovsdb::start(server.config());
    let connection = server.serve(bridge()).await;
    until(&ovsdb, |state| state.connected).await;
    drop(connection);
    let state = until(&ovsdb, |state| !state.connected).await;
    assert!(state.failure.is_some());
    assert!(state.bridge.is_some(), "the last rows known");
    assert!(matches!(ovsdb.add_ports(&[port(1)]).await, Err(Error::OvsdbDisconnected { .. })));

    // What is sent back in between is nonsense, then silence, then the truth.
    let mut nonsense = server.accept().await;
    nonsense.hear().await;
    nonsense.stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
    let mut refusing = server.accept().await;
    let request = refusing.hear().await;
    refusing.say(&json!({"id": request["id"], "result": null, "error": "not supported"})).await;
    let mut connection = server.serve(json!({"Bridge": {"b9": {"initial": {"name": "br-int"}}}})).await;
    let state = until(&ovsdb, |state| state.connected).await;
    assert_eq!(state.bridge.as_ref().unwrap().uuid, "b9", "and nothing of before");
    assert_eq!((&state.switch, &state.failure), (&None, &None));

    // A call in flight when the connection ends is told so.
    let asked = tokio::spawn({
        let ovsdb = ovsdb.clone();
        async move { ovsdb.add_ports(&[port(1)]).await }
    });
    connection.hear().await;
    drop(connection);
    assert!(matches!(asked.await.unwrap(), Err(Error::OvsdbDisconnected { .. })));
}

#[tokio::test]
async fn there_need_not_be_a_server_yet() {
    let folder = tempfile::tempdir().unwrap();
    let config = OvsdbConfig::new(folder.path().join("db.sock"));
    let ovsdb = Ovsdb::start(config);
    let state = until(&ovsdb, |state| state.failure.is_some()).await;
    assert!(state.failure.as_ref().unwrap().contains("No such file"), "{:?}", state.failure);
    assert!(matches!(ovsdb.add_ports(&[port(1)]).await, Err(Error::OvsdbDisconnected { .. })));
    let listener = UnixListener::bind(folder.path().join("db.sock")).unwrap();
    let server = Server { folder, listener };
    let _connection = server.serve(bridge()).await;
    until(&ovsdb, |state| state.connected).await;
}

#[tokio::test]
async fn an_echo_is_answered() {
    let server = Server::new();
    let ovsdb = Ovsdb::start(server.config());
    let mut connection = server.serve(bridge()).await;
    until(&ovsdb, |state| state.connected).await;
    connection.say(&json!({"id": "echo", "method": "echo", "params": [7]})).await;
    assert_eq!(connection.hear().await, json!({"id": "echo", "result": [7], "error": null}));
}

#[tokio::test]
async fn a_restart_of_the_switch_is_seen_by_its_pidfile() {
    let server = Server::new();
    std::fs::write(server.pidfile(), "4711\n").unwrap();
    let ovsdb = Ovsdb::start(server.config());
    let mut connection = server.serve(bridge()).await;
    let first = until(&ovsdb, |state| state.start.is_some()).await.start.unwrap();
    assert_eq!(first.pid, 4711);
    // Down: daemons remove their pidfile.
    std::fs::remove_file(server.pidfile()).unwrap();
    until(&ovsdb, |state| state.connected && state.start.is_none()).await;
    // Up again, by chance with the same process id.
    std::fs::write(server.pidfile(), "4711\n").unwrap();
    let second = until(&ovsdb, |state| state.start.is_some()).await.start.unwrap();
    assert_ne!(first, second);
    connection.update(json!({"Open_vSwitch": {"o1": {"modify": {"cur_cfg": 9}}}})).await;
    let state = until(&ovsdb, |state| state.switch.as_ref().is_some_and(|switch| switch.cur_cfg == 9)).await;
    assert_eq!(state.start, Some(second));
}

#[tokio::test]
async fn a_crash_of_the_switch_is_seen_although_its_files_are_there() {
    let server = Server::new();
    let management = server.folder.path().join("br-int.mgmt");
    std::fs::write(server.pidfile(), "4711\n").unwrap();
    let listener = UnixListener::bind(&management).unwrap();
    let ovsdb = Ovsdb::start(server.config());
    let _connection = server.serve(bridge()).await;
    until(&ovsdb, |state| state.start.is_some()).await;
    // The socket's file stays, nobody listens.
    drop(listener);
    until(&ovsdb, |state| state.connected && state.start.is_none()).await;
    std::fs::remove_file(&management).unwrap();
    let _listener = UnixListener::bind(&management).unwrap();
    std::fs::write(server.pidfile(), "4712\n").unwrap();
    until(&ovsdb, |state| state.start.is_some_and(|start| start.pid == 4712)).await;
}

#[tokio::test]
async fn the_connection_ends_with_the_last_handle() {
    let server = Server::new();
    let ovsdb = Ovsdb::start(server.config());
    let mut connection = server.serve(bridge()).await;
    until(&ovsdb, |state| state.connected).await;
    let other = ovsdb.clone();
    drop(ovsdb);
    connection.say(&json!({"id": "echo", "method": "echo", "params": []})).await;
    connection.hear().await;
    drop(other);
    let mut rest = Vec::new();
    soon(connection.stream.read_to_end(&mut rest)).await.unwrap();
}
