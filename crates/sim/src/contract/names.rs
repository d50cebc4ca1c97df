//! Names for what differs from run to run: ids, addresses that the other side chose, versions, times.
//!
//! What appears again has the same name again, so that a recording tells which port a floating IP leads to, and whether the
//! version of an object has changed.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Place, fields, neutron, octavia};

/// Ids shorter than this may be a part of other words by chance.
const TELLING: usize = 8;

/// Names that were given.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    given: BTreeMap<String, String>,
    counts: BTreeMap<String, usize>,
}

impl Names {
    /// What the script is told, and the id of its project.
    pub(super) fn of_place(place: &Place, project: &str) -> Self {
        let known = [
            (project, "project"),
            (&place.network, "network"),
            (&place.subnet, "subnet"),
            (&place.external_network, "external network"),
            (&place.host, "host"),
            (&place.namespace, "namespace"),
        ];
        let given = known.map(|(value, name)| (value.to_owned(), format!("<{name}>")));
        Self { given: given.into(), counts: BTreeMap::new() }
    }

    /// A path, with names in the place of ids.
    pub(super) fn of_path(&mut self, path: &str) -> String {
        let segments = path.split('/').map(|segment| self.known(segment));
        segments.collect::<Vec<_>>().join("/")
    }

    /// A value of an answer about a resource of this kind, with names in the place of what differs.
    pub(super) fn of(&mut self, kind: &str, value: &Value) -> Value {
        self.field(kind, "", value)
    }

    fn field(&mut self, kind: &str, field: &str, value: &Value) -> Value {
        match value {
            Value::Object(members) => {
                let mut named = serde_json::Map::new();
                for (name, value) in members {
                    // Of `{"port": {..}}` and of `{"ports": [..]}` the kind is port.
                    let kind = fields::kind_of(name).unwrap_or(kind);
                    named.insert(name.clone(), self.field(kind, name, value));
                }
                named.into()
            }
            Value::Array(values) => {
                let mut values: Vec<Value> =
                    values.iter().map(|value| self.field(kind, field, value)).collect();
                if field == "tags" {
                    values.sort_by_key(Value::to_string);
                }
                values.into()
            }
            Value::String(text) => json!(self.text(kind, field, text)),
            Value::Number(_) if matches!(field, "revision_number" | "limit" | "used" | "reserved") => {
                json!("<number>")
            }
            other => other.clone(),
        }
    }

    fn text(&mut self, kind: &str, field: &str, text: &str) -> String {
        match field {
            _ if text.is_empty() => String::new(),
            "id" => self.given(kind, text),
            "uid" => self.given("uid", text),
            "resourceVersion" => self.given("version", text),
            "mac_address" => self.given("mac", text),
            "deletionTimestamp" => "<time>".to_owned(),
            "ip_address" | "vip_address" | "address" | "floating_ip_address" if !is_ours(text) => {
                self.given("address", text)
            }
            "security_groups" => self.given("security_group", text),
            "binding:host_id" | "namespace" => self.known(text),
            "faultstring" => {
                let words = text.split(' ').map(|word| self.known(word));
                self.within(&words.collect::<Vec<_>>().join(" "))
            }
            // Of a port of ours it is a text of our own.
            "device_id" => self.within(text),
            _ if field.ends_with("_id") => self.given(field.trim_end_matches("_id"), text),
            _ => self.within(text),
        }
    }

    /// The name of a value; one that has none gets the next of this kind.
    fn given(&mut self, kind: &str, value: &str) -> String {
        if let Some(name) = self.given.get(value) {
            return name.clone();
        }
        let count = self.counts.entry(kind.to_owned()).or_default();
        *count += 1;
        let name = format!("<{kind} {count}>");
        self.given.insert(value.to_owned(), name.clone());
        name
    }

    /// A value, or its name if it has one.
    fn known(&self, value: &str) -> String {
        self.given.get(value).cloned().unwrap_or_else(|| value.to_owned())
    }

    /// A text, with names in the place of ids in it.
    fn within(&self, text: &str) -> String {
        let telling = self.given.iter().filter(|(value, _)| value.len() >= TELLING);
        telling.fold(text.to_owned(), |text, (value, name)| text.replace(value.as_str(), name))
    }
}

/// Whether the script itself has chosen an address.
fn is_ours(address: &str) -> bool {
    neutron::CHOSEN.into_iter().chain(octavia::CHOSEN).any(|last| super::address(last).to_string() == address)
}
