//! Transactions that plug and unplug ports.
//!
//! Each begins with a condition that the bridge exists: without it the server would carry the rest out, find the new
//! rows unreferenced, and drop them without a word.
//!
//! Source: RFC 7047, section 5.2.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    PortSpec,
    rows::{GENERATION, InterfaceRow, OWNER, PORT, START},
    wire::{map, set},
};
use crate::error::{Error, Result};

const STATUS: &str = "iface-status";
const MAC: &str = "attached-mac";

/// Plugs `ports` on `bridge`; those among `existing` get their identifiers set anew, and keep what ovn-controller wrote
/// beside them.
pub(super) fn add_ports(
    bridge: &str,
    ports: &[PortSpec],
    existing: &BTreeMap<String, InterfaceRow>,
) -> Vec<Value> {
    let (old, new): (Vec<&PortSpec>, Vec<&PortSpec>) =
        ports.iter().partition(|port| existing.contains_key(&port.name));
    let mut operations = vec![bridge_exists(bridge)];
    operations.extend(old.into_iter().map(set_identifiers));
    for (number, port) in new.iter().enumerate() {
        operations
            .push(json!({"op": "insert", "table": "Interface", "uuid-name": format!("interface{number}"),
            "row": {"name": port.name, "external_ids": map(identifiers(port))}}));
        operations.push(json!({"op": "insert", "table": "Port", "uuid-name": format!("port{number}"),
            "row": {"name": port.name, "interfaces": ["named-uuid", format!("interface{number}")]}}));
    }
    if !new.is_empty() {
        let rows = (0..new.len()).map(|number| json!(["named-uuid", format!("port{number}")]));
        operations.push(change_ports(bridge, "insert", set(rows)));
    }
    operations
}

/// Unplugs the ports with these row identifiers.
pub(super) fn del_ports(bridge: &str, ports: &[&str]) -> Vec<Value> {
    let rows = set(ports.iter().map(|uuid| json!(["uuid", uuid])));
    vec![bridge_exists(bridge), change_ports(bridge, "delete", rows)]
}

/// What the server's answer to one of the above means.
pub(super) fn outcome(answer: &Value, bridge: &str) -> Result<()> {
    let results = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    for (position, result) in results.iter().enumerate() {
        let Some(error) = result.get("error").and_then(Value::as_str) else {
            continue;
        };
        // The condition is the first operation and gives up at once.
        if position == 0 && error == "timed out" {
            return Err(Error::BridgeMissing { bridge: bridge.to_owned() });
        }
        let details = result.get("details").and_then(Value::as_str).map(str::to_owned);
        return Err(Error::OvsdbRefused { error: error.to_owned(), details });
    }
    Ok(())
}

fn bridge_exists(bridge: &str) -> Value {
    json!({"op": "wait", "timeout": 0, "table": "Bridge", "where": [["name", "==", bridge]],
        "columns": ["name"], "until": "==", "rows": [{"name": bridge}]})
}

fn change_ports(bridge: &str, how: &str, rows: Value) -> Value {
    json!({"op": "mutate", "table": "Bridge", "where": [["name", "==", bridge]],
        "mutations": [["ports", how, rows]]})
}

/// Inserting into a map leaves a key that is there as it is, so it is deleted first.
fn set_identifiers(port: &PortSpec) -> Value {
    let keys = [PORT, STATUS, MAC, OWNER.0, GENERATION, START].map(Value::from);
    json!({"op": "mutate", "table": "Interface", "where": [["name", "==", port.name]], "mutations": [
        ["external_ids", "delete", set(keys)],
        ["external_ids", "insert", map(identifiers(port))]]})
}

fn identifiers(port: &PortSpec) -> impl Iterator<Item = (&'static str, String)> {
    let (owner_key, owner) = OWNER;
    [
        (PORT, port.port.to_string()),
        (STATUS, "active".to_owned()),
        (MAC, port.mac.to_string()),
        (owner_key, owner.to_owned()),
    ]
    .into_iter()
    .chain(port.generation.map(|generation| (GENERATION, generation.to_string())))
    .chain(port.start.iter().map(|start| (START, start.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(number: u8) -> PortSpec {
        PortSpec {
            name: format!("tap{number}"),
            port: format!("port-{number}").into(),
            mac: kuryr_types::MacAddr([0xfa, 0x16, 0x3e, 0, 0, number]),
            generation: Some("3.17".parse().unwrap()),
            start: Some("9-3-5".into()),
        }
    }

    fn existing(names: &[&str]) -> BTreeMap<String, InterfaceRow> {
        let row = |name: &str| InterfaceRow {
            uuid: "u".into(),
            name: name.to_owned(),
            iface_id: None,
            generation: None,
            start: None,
            ours: true,
            tag: None,
            ofport: None,
            ovn_installed: true,
            ovn_installed_ts: None,
            mac_in_use: None,
            error: None,
        };
        names.iter().map(|name| ((*name).to_owned(), row(name))).collect()
    }

    fn wait() -> Value {
        json!({"op": "wait", "timeout": 0, "table": "Bridge", "where": [["name", "==", "br-int"]],
            "columns": ["name"], "until": "==", "rows": [{"name": "br-int"}]})
    }

    fn ids(number: u8) -> Value {
        json!([
            "map",
            [
                ["iface-id", format!("port-{number}")],
                ["iface-status", "active"],
                ["attached-mac", format!("fa:16:3e:00:00:0{number}")],
                ["vm-uuid", "kuryr"],
                ["kuryr-generation", "3.17"],
                ["kuryr-start", "9-3-5"]
            ]
        ])
    }

    #[test]
    fn ports_are_plugged_in_one_transaction() {
        let got = add_ports("br-int", &[port(1), port(2)], &existing(&[]));
        let expect = [
            wait(),
            json!({"op": "insert", "table": "Interface", "uuid-name": "interface0",
                "row": {"name": "tap1", "external_ids": ids(1)}}),
            json!({"op": "insert", "table": "Port", "uuid-name": "port0",
                "row": {"name": "tap1", "interfaces": ["named-uuid", "interface0"]}}),
            json!({"op": "insert", "table": "Interface", "uuid-name": "interface1",
                "row": {"name": "tap2", "external_ids": ids(2)}}),
            json!({"op": "insert", "table": "Port", "uuid-name": "port1",
                "row": {"name": "tap2", "interfaces": ["named-uuid", "interface1"]}}),
            json!({"op": "mutate", "table": "Bridge", "where": [["name", "==", "br-int"]],
                "mutations": [["ports", "insert", ["set", [["named-uuid", "port0"], ["named-uuid", "port1"]]]]]}),
        ];
        assert_eq!(got, expect);
    }

    #[test]
    fn one_that_is_there_keeps_what_others_wrote() {
        let got = add_ports("br-int", &[port(1)], &existing(&["tap1"]));
        let expect = [
            wait(),
            json!({"op": "mutate", "table": "Interface", "where": [["name", "==", "tap1"]], "mutations": [
                ["external_ids", "delete", ["set",
                    ["iface-id", "iface-status", "attached-mac", "vm-uuid", "kuryr-generation", "kuryr-start"]]],
                ["external_ids", "insert", ids(1)]]}),
        ];
        assert_eq!(got, expect);
    }

    #[test]
    fn ports_are_unplugged_by_their_rows() {
        let got = del_ports("br-int", &["u1", "u2"]);
        let expect = [
            wait(),
            json!({"op": "mutate", "table": "Bridge", "where": [["name", "==", "br-int"]],
                "mutations": [["ports", "delete", ["set", [["uuid", "u1"], ["uuid", "u2"]]]]]}),
        ];
        assert_eq!(got, expect);
    }

    #[test]
    fn an_answer_tells_what_failed() {
        for (answer, expect) in [
            (json!([{}, {"uuid": ["uuid", "u"]}, {"count": 1}]), None),
            (json!([{"error": "timed out", "details": "..."}, null]), Some("there is no bridge `br-int`")),
            (
                json!([{}, {}, {"error": "constraint violation", "details": "duplicate name"}]),
                Some("the Open vSwitch database refused: constraint violation (duplicate name)"),
            ),
        ] {
            let got = outcome(&answer, "br-int").err().map(|error| error.to_string());
            assert_eq!(got.as_deref(), expect, "{answer}");
        }
    }
}
