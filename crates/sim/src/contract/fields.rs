//! What of an answer is recorded: the fields that the crates `openstack` and `kubernetes` read, and those only.
//!
//! A field that is not there is recorded as `null`, as it is read. What no client reads, such as the answer to a change of a
//! listener, is not recorded.

use serde_json::{Map, Value, json};

/// Members of answers of OpenStack, one and many of them, with the fields that are read.
const READ: [(&str, &str, &[&str]); 11] = [
    (
        "port",
        "ports",
        &[
            "id",
            "name",
            "network_id",
            "project_id",
            "mac_address",
            "fixed_ips",
            "status",
            "admin_state_up",
            "device_owner",
            "device_id",
            "binding:host_id",
            "binding:vif_type",
            "security_groups",
            "allowed_address_pairs",
            "tags",
            "revision_number",
            "description",
        ],
    ),
    (
        "floatingip",
        "floatingips",
        &["id", "project_id", "floating_ip_address", "floating_network_id", "port_id", "description", "tags"],
    ),
    (
        "security_group",
        "security_groups",
        &["id", "name", "description", "project_id", "tags", "security_group_rules"],
    ),
    (
        "security_group_rule",
        "security_group_rules",
        &[
            "id",
            "security_group_id",
            "direction",
            "ethertype",
            "protocol",
            "port_range_min",
            "port_range_max",
            "remote_ip_prefix",
            "remote_group_id",
            "description",
        ],
    ),
    ("quota", "", &["port"]),
    (
        "loadbalancer",
        "loadbalancers",
        &[
            "id",
            "name",
            "project_id",
            "vip_address",
            "vip_port_id",
            "vip_subnet_id",
            "provider",
            "provisioning_status",
            "tags",
        ],
    ),
    (
        "listener",
        "listeners",
        &["id", "name", "protocol", "protocol_port", "default_pool_id", "tags", "provisioning_status"],
    ),
    (
        "pool",
        "pools",
        &[
            "id",
            "name",
            "protocol",
            "lb_algorithm",
            "session_persistence",
            "healthmonitor_id",
            "tags",
            "provisioning_status",
        ],
    ),
    ("member", "members", &["id", "name", "address", "protocol_port", "subnet_id", "provisioning_status"]),
    (
        "healthmonitor",
        "healthmonitors",
        &["id", "type", "delay", "timeout", "max_retries", "max_retries_down"],
    ),
    ("NeutronError", "", &["type"]),
];
/// What differs from run to run, by which nothing is put in order.
const VOLATILE: [&str; 6] =
    ["id", "mac_address", "fixed_ips", "revision_number", "security_group_id", "default_pool_id"];
/// Metadata of Kubernetes' objects.
const METADATA: [&str; 8] = [
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "deletionTimestamp",
    "finalizers",
    "labels",
];

/// Whether a client reads the body of an answer.
pub(super) fn is_read(method: &str, path: &str, status: u16) -> bool {
    let is_openstack = path.starts_with("/v2");
    let changes_below = path.contains("/lbaas/") && method != "GET" && !path.ends_with("/loadbalancers");
    let only_begins = is_openstack && (method == "DELETE" || path.contains("/tags") || changes_below);
    status >= 300 || !only_begins
}

/// What of an answer is recorded.
pub(super) fn kept(answer: &Value) -> Value {
    if answer["kind"] == "Status" {
        return some(answer, &["status", "reason", "code"]);
    }
    if answer["metadata"].is_object() {
        return kept_of_kubernetes(answer);
    }
    if answer["title"].is_string() {
        return some(answer, &["code", "title", "description"]);
    }
    if answer["faultstring"].is_string() {
        return some(answer, &["faultcode", "faultstring"]);
    }
    let mut all = Map::new();
    for (one, many, fields) in READ {
        if answer[one].is_object() {
            all.insert(one.to_owned(), element(one, &answer[one], fields));
        }
        if let Some(elements) = answer[many].as_array() {
            let mut elements: Vec<Value> = elements.iter().map(|found| element(one, found, fields)).collect();
            elements.sort_by_key(order);
            all.insert(many.to_owned(), Value::Array(elements));
        }
    }
    Value::Object(all)
}

fn element(kind: &str, found: &Value, fields: &[&str]) -> Value {
    let mut kept = some(found, fields);
    if let Some(rules) = kept.get_mut("security_group_rules").and_then(Value::as_array_mut) {
        let (_, _, fields) = READ[3];
        rules.iter_mut().for_each(|rule| *rule = some(rule, fields));
        rules.sort_by_key(order);
    }
    if found["session_persistence"].is_object() {
        kept["session_persistence"] = some(&found["session_persistence"], &["type"]);
    }
    if kind == "quota" {
        kept["port"] = some(&found["port"], &["limit", "used", "reserved"]);
    }
    kept
}

/// An object or a list of them.
fn kept_of_kubernetes(answer: &Value) -> Value {
    if let Some(items) = answer["items"].as_array() {
        let goes_on = answer["metadata"]["continue"].as_str().is_some_and(|token| !token.is_empty());
        return json!({"items": items.iter().map(object).collect::<Vec<_>>(), "continues": goes_on});
    }
    object(answer)
}

/// An object; the specification only of those that nobody completes.
pub(super) fn object(found: &Value) -> Value {
    let mut kept = json!({"metadata": some(&found["metadata"], &METADATA), "status": found["status"]});
    if found["kind"] == "Probe" {
        kept["spec"] = found["spec"].clone();
    }
    kept
}

fn some(found: &Value, fields: &[&str]) -> Value {
    fields.iter().map(|field| ((*field).to_owned(), found[*field].clone())).collect::<Map<_, _>>().into()
}

/// By what elements of a list are put in order: servers may list them in any.
fn order(element: &Value) -> String {
    let mut stable = element.clone();
    if let Some(fields) = stable.as_object_mut() {
        fields.retain(|field, _| !VOLATILE.contains(&field.as_str()));
    }
    stable.to_string()
}

/// The kind of what is in this member of an answer.
pub(super) fn kind_of(member: &str) -> Option<&'static str> {
    READ.iter().find(|(one, many, _)| *one == member || *many == member).map(|(one, ..)| *one)
}
