//! Rows as the agent sees them, and how the server's updates change them.
//!
//! An update says of a changed map only what changed: a pair that is not there is added, one that is there with
//! another value is replaced, one that is there with the same value is removed.
//!
//! Source: ovsdb-server(7), section 4.1.14 (`update2`).

use std::collections::BTreeMap;

use kuryr_types::{Generation, PortId};
use serde_json::{Map, Value, json};

use super::{
    StringMap, SwitchStart,
    wire::{garbled, parse_map, parse_optional},
};
use crate::error::Result;

/// Key of the owner's mark among `external_ids`, and its value for our ports. Upstream's.
pub(super) const OWNER: (&str, &str) = ("vm-uuid", "kuryr");
/// Key of the Neutron port's id, which ovn-controller binds by.
pub(super) const PORT: &str = "iface-id";
/// Key of our own: which offer of the port the interface was plugged for.
pub(super) const GENERATION: &str = "kuryr-generation";
/// Key of our own: under which run of ovs-vswitchd the interface was plugged.
pub(super) const START: &str = "kuryr-start";

const INSTALLED: &str = "ovn-installed";
const INSTALLED_AT: &str = "ovn-installed-ts";

/// What is known of the switch on this node. By default nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SwitchState {
    /// Whether the rows are those of now; else they are the last ones known.
    pub connected: bool,
    /// Why there is no connection, for a person.
    pub failure: Option<String>,
    /// The switch itself.
    pub switch: Option<SwitchRow>,
    /// The integration bridge; `None` while connected: it does not exist.
    pub bridge: Option<BridgeRow>,
    /// Interfaces by name, not only ours.
    pub interfaces: BTreeMap<String, InterfaceRow>,
    /// Which run of ovs-vswitchd this is; `None`: it is not running, or nobody told where to look.
    pub start: Option<SwitchStart>,
    /// Rows of `Port` by name.
    pub(super) ports: BTreeMap<String, String>,
}

/// The row of `Open_vSwitch`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwitchRow {
    /// Identifier of the row.
    pub uuid: String,
    /// The host's name as OVN knows it; ports are bound to it.
    pub hostname: Option<String>,
    /// The chassis' name.
    pub system_id: Option<String>,
    /// Version of ovs-vswitchd.
    pub ovs_version: Option<String>,
    /// All identifiers.
    pub external_ids: StringMap,
    /// Number of the configuration that ovs-vswitchd has taken over.
    pub cur_cfg: i64,
    /// Number of the configuration that was asked for.
    pub next_cfg: i64,
}

/// The row of the integration bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeRow {
    /// Identifier of the row.
    pub uuid: String,
    /// `netdev`: the datapath is a process; empty or `system`: it is the kernel.
    pub datapath_type: String,
}

/// A row of `Interface`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceRow {
    /// Identifier of the row; one that was unplugged and plugged again has another.
    pub uuid: String,
    /// Name of the interface.
    pub name: String,
    /// The Neutron port.
    pub iface_id: Option<PortId>,
    /// Which offer of the port it was plugged for.
    pub generation: Option<Generation>,
    /// Under which run of ovs-vswitchd it was plugged, as [`PortSpec`](super::PortSpec) had it.
    pub start: Option<String>,
    /// Whether we plugged it.
    pub ours: bool,
    /// VLAN id of its network on the bridge, which the Open vSwitch agent of Neutron gives it.
    pub tag: Option<u16>,
    /// Number of the port on the bridge; `None`: not yet, or it failed.
    pub ofport: Option<u32>,
    /// Whether ovn-controller has installed the port's flows.
    pub ovn_installed: bool,
    /// When it had, in milliseconds since 1970.
    pub ovn_installed_ts: Option<u64>,
    /// Hardware address that ovs-vswitchd sees on the interface.
    pub mac_in_use: Option<String>,
    /// Why ovs-vswitchd could not open the interface.
    pub error: Option<String>,
}

/// The tables as monitored.
#[derive(Debug, Default)]
pub(super) struct Tables {
    rows: BTreeMap<String, BTreeMap<String, Map<String, Value>>>,
}

const TABLES: [(&str, &[&str]); 4] = [
    ("Open_vSwitch", &["external_ids", "ovs_version", "cur_cfg", "next_cfg"]),
    ("Bridge", &["name", "datapath_type"]),
    ("Port", &["name", "tag"]),
    ("Interface", &["name", "external_ids", "ofport", "error", "mac_in_use"]),
];
/// The one monitored column that is a map, and so is updated by differences.
const MAP_COLUMN: &str = "external_ids";

impl Tables {
    /// What to ask the server for.
    pub(super) fn monitored() -> Value {
        let tables: Map<String, Value> = TABLES
            .iter()
            .map(|(table, columns)| ((*table).to_owned(), json!([{"columns": columns}])))
            .collect();
        Value::Object(tables)
    }

    /// Takes over an update, or the answer to the request to monitor.
    pub(super) fn update(&mut self, update: &Value) -> Result<()> {
        let tables = update.as_object().ok_or_else(|| garbled("an update is no object"))?;
        for (table, changes) in tables {
            let rows = self.rows.entry(table.clone()).or_default();
            for (uuid, change) in changes.as_object().into_iter().flatten() {
                apply(rows, uuid, change)?;
            }
        }
        Ok(())
    }

    /// What the rows say, for the bridge of this name.
    pub(super) fn state(&self, bridge: &str) -> SwitchState {
        let table = |name: &str| self.rows.get(name).into_iter().flatten();
        let tags: BTreeMap<String, u16> = table("Port")
            .filter_map(|(_, row)| {
                let tag = optional(row, "tag")?.as_u64()?;
                Some((text(row, "name")?, u16::try_from(tag).ok()?))
            })
            .collect();
        SwitchState {
            connected: true,
            switch: table("Open_vSwitch").next().map(|(uuid, row)| switch(uuid, row)),
            bridge: table("Bridge").find(|(_, row)| text(row, "name").as_deref() == Some(bridge)).map(
                |(uuid, row)| BridgeRow {
                    uuid: uuid.clone(),
                    datapath_type: text(row, "datapath_type").unwrap_or_default(),
                },
            ),
            interfaces: table("Interface")
                .filter_map(|(uuid, row)| Some((text(row, "name")?, interface(uuid, row, &tags)?)))
                .collect(),
            ports: table("Port").filter_map(|(uuid, row)| Some((text(row, "name")?, uuid.clone()))).collect(),
            ..SwitchState::default()
        }
    }
}

fn apply(rows: &mut BTreeMap<String, Map<String, Value>>, uuid: &str, change: &Value) -> Result<()> {
    let (kind, columns) = change
        .as_object()
        .and_then(|change| change.iter().next())
        .ok_or_else(|| garbled("an update is empty"))?;
    match (kind.as_str(), columns) {
        ("initial" | "insert", Value::Object(columns)) => {
            rows.insert(uuid.to_owned(), columns.clone());
        }
        ("modify", Value::Object(columns)) => modify(rows.entry(uuid.to_owned()).or_default(), columns)?,
        ("delete", _) => {
            rows.remove(uuid);
        }
        _ => return Err(garbled(format_args!("an update of unknown kind {kind}"))),
    }
    Ok(())
}

fn modify(row: &mut Map<String, Value>, columns: &Map<String, Value>) -> Result<()> {
    for (column, change) in columns {
        if column != MAP_COLUMN {
            row.insert(column.clone(), change.clone());
            continue;
        }
        let mut pairs = row.get(column).and_then(parse_map).unwrap_or_default();
        for (key, value) in parse_map(change).ok_or_else(|| garbled("a map is none"))? {
            if pairs.get(&key) == Some(&value) {
                pairs.remove(&key);
            } else {
                pairs.insert(key, value);
            }
        }
        row.insert(
            column.clone(),
            super::wire::map(pairs.iter().map(|(key, value)| (key.as_str(), value.clone()))),
        );
    }
    Ok(())
}

fn switch(uuid: &str, row: &Map<String, Value>) -> SwitchRow {
    let external_ids = identifiers(row);
    let number = |column| row.get(column).and_then(Value::as_i64).unwrap_or_default();
    SwitchRow {
        uuid: uuid.to_owned(),
        hostname: external_ids.get("hostname").cloned(),
        system_id: external_ids.get("system-id").cloned(),
        ovs_version: text(row, "ovs_version"),
        cur_cfg: number("cur_cfg"),
        next_cfg: number("next_cfg"),
        external_ids,
    }
}

fn interface(uuid: &str, row: &Map<String, Value>, tags: &BTreeMap<String, u16>) -> Option<InterfaceRow> {
    let identifiers = identifiers(row);
    let (owner_key, owner) = OWNER;
    let name = text(row, "name")?;
    Some(InterfaceRow {
        uuid: uuid.to_owned(),
        // A port of one interface has its name.
        tag: tags.get(&name).copied(),
        name,
        iface_id: identifiers.get(PORT).map(|id| PortId::from(id.as_str())),
        generation: identifiers.get(GENERATION).and_then(|generation| generation.parse().ok()),
        start: identifiers.get(START).cloned(),
        ours: identifiers.get(owner_key).is_some_and(|found| found == owner),
        // -1 says that the port could not be added, 0 is reserved.
        ofport: optional(row, "ofport")
            .and_then(Value::as_u64)
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| *number > 0),
        ovn_installed: identifiers.get(INSTALLED).is_some_and(|installed| installed == "true"),
        ovn_installed_ts: identifiers.get(INSTALLED_AT).and_then(|at| at.parse().ok()),
        mac_in_use: text(row, "mac_in_use"),
        error: text(row, "error"),
    })
}

fn identifiers(row: &Map<String, Value>) -> StringMap {
    row.get(MAP_COLUMN).and_then(parse_map).unwrap_or_default()
}

fn text(row: &Map<String, Value>, column: &str) -> Option<String> {
    optional(row, column)?.as_str().map(str::to_owned)
}

fn optional<'a>(row: &'a Map<String, Value>, column: &str) -> Option<&'a Value> {
    row.get(column).and_then(parse_optional)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(updates: &[Value]) -> SwitchState {
        let mut tables = Tables::default();
        for update in updates {
            tables.update(update).unwrap();
        }
        tables.state("br-int")
    }

    fn interface_row(columns: &Value) -> Option<InterfaceRow> {
        let state = after(&[json!({"Interface": {"u1": {"initial": columns}}})]);
        state.interfaces.into_values().next()
    }

    #[test]
    fn an_interface_says_how_far_it_is() {
        let plain = InterfaceRow {
            uuid: "u1".into(),
            name: "tap1".into(),
            iface_id: None,
            generation: None,
            start: None,
            ours: false,
            tag: None,
            ofport: None,
            ovn_installed: false,
            ovn_installed_ts: None,
            mac_in_use: None,
            error: None,
        };
        for (columns, expect) in [
            (json!({"name": "tap1", "ofport": ["set", []]}), plain.clone()),
            (json!({"name": "tap1", "ofport": 5}), InterfaceRow { ofport: Some(5), ..plain.clone() }),
            (
                json!({"name": "tap1", "ofport": -1, "error": "could not open network device tap1"}),
                InterfaceRow { error: Some("could not open network device tap1".into()), ..plain.clone() },
            ),
            (
                json!({"name": "tap1", "mac_in_use": "fe:16:3e:00:00:01", "external_ids": ["map", [
                    ["iface-id", "p1"], ["vm-uuid", "kuryr"], ["kuryr-generation", "3.17"],
                    ["kuryr-start", "9-3-5"], ["ovn-installed", "true"], ["ovn-installed-ts", "1700000000000"]]]}),
                InterfaceRow {
                    iface_id: Some("p1".into()),
                    generation: Some("3.17".parse().unwrap()),
                    start: Some("9-3-5".into()),
                    ours: true,
                    ovn_installed: true,
                    ovn_installed_ts: Some(1_700_000_000_000),
                    mac_in_use: Some("fe:16:3e:00:00:01".into()),
                    ..plain.clone()
                },
            ),
        ] {
            assert_eq!(interface_row(&columns), Some(expect), "{columns}");
        }
    }

    #[test]
    fn a_map_is_updated_by_differences() {
        let start = json!({"Open_vSwitch": {"u": {"initial": {
            "external_ids": ["map", [["hostname", "n1"], ["system-id", "c1"]]], "cur_cfg": 3, "next_cfg": 3}}}});
        for (difference, expect) in [
            (json!([["ovn-bridge", "br-int"]]), [Some("n1"), Some("c1"), Some("br-int")]),
            (json!([["hostname", "n2"]]), [Some("n2"), Some("c1"), None]),
            (json!([["hostname", "n1"]]), [None, Some("c1"), None]),
        ] {
            let update = json!({"Open_vSwitch": {"u": {"modify": {
                "external_ids": ["map", difference], "next_cfg": 4}}}});
            let switch = after(&[start.clone(), update]).switch.unwrap();
            let got = ["hostname", "system-id", "ovn-bridge"]
                .map(|key| switch.external_ids.get(key).map(String::as_str));
            assert_eq!(got, expect, "{difference}");
            assert_eq!((switch.cur_cfg, switch.next_cfg), (3, 4));
        }
    }

    #[test]
    fn rows_come_and_go() {
        let start = json!({
            "Bridge": {"b1": {"initial": {"name": "br-ex", "datapath_type": ""}},
                       "b2": {"initial": {"name": "br-int", "datapath_type": "netdev"}}},
            "Port": {"p1": {"initial": {"name": "tap1"}}},
            "Interface": {"i1": {"initial": {"name": "tap1"}}}});
        let state = after(std::slice::from_ref(&start));
        assert_eq!(state.bridge, Some(BridgeRow { uuid: "b2".into(), datapath_type: "netdev".into() }));
        assert_eq!(state.ports.get("tap1").map(String::as_str), Some("p1"));
        let gone = json!({"Bridge": {"b2": {"delete": null}}, "Port": {"p1": {"delete": null}},
                          "Interface": {"i1": {"delete": null}, "i2": {"insert": {"name": "tap2"}}}});
        let state = after(&[start, gone]);
        assert_eq!(state.bridge, None);
        assert!(state.ports.is_empty());
        assert_eq!(state.interfaces.keys().collect::<Vec<_>>(), ["tap2"]);
    }

    #[test]
    fn an_interface_has_the_tag_of_its_port() {
        let start = json!({
            "Port": {"p1": {"initial": {"name": "tap1", "tag": ["set", []]}}, "p2": {"initial": {"name": "tap2", "tag": 7}}},
            "Interface": {"i1": {"initial": {"name": "tap1"}}, "i2": {"initial": {"name": "tap2"}},
                          "i3": {"initial": {"name": "tap3"}}}});
        let tags = |state: &SwitchState| state.interfaces.values().map(|row| row.tag).collect::<Vec<_>>();
        assert_eq!(tags(&after(std::slice::from_ref(&start))), [None, Some(7), None]);
        let tagged =
            json!({"Port": {"p1": {"modify": {"tag": 4095}}, "p2": {"modify": {"tag": ["set", []]}}}});
        assert_eq!(tags(&after(&[start, tagged])), [Some(4095), None, None]);
    }

    #[test]
    fn what_is_no_update_is_an_error() {
        for update in [
            json!(7),
            json!({"Interface": {"i1": {}}}),
            json!({"Interface": {"i1": {"become": {}}}}),
            json!({"Interface": {"i1": {"modify": {"external_ids": 7}}}}),
        ] {
            assert!(Tables::default().update(&update).is_err(), "{update}");
        }
    }
}
