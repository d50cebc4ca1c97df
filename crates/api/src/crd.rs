//! Definitions of the custom resources, as `deploy/crds` holds them.
//!
//! `KuryrNode` is generated from its types; `KuryrPort` and `KuryrLoadBalancer` are written out, because their definitions
//! must stay what upstream's tools and daemons know: no status subresource, the same required fields and columns.

use kube_core::CustomResourceExt;
use serde_json::{Value, json};

use crate::kuryrnode::KuryrNode;

/// All definitions: file name below `deploy/crds` and YAML text.
#[must_use]
pub fn all() -> Vec<(&'static str, String)> {
    vec![
        ("kuryrloadbalancer.yaml", yaml(&kuryrloadbalancer())),
        ("kuryrnode.yaml", yaml(&kuryrnode())),
        ("kuryrport.yaml", yaml(&kuryrport())),
    ]
}

/// The definition of `KuryrNode`, with rules that types cannot express.
#[must_use]
pub fn kuryrnode() -> Value {
    let mut crd = serde_json::to_value(KuryrNode::crd()).unwrap_or_default();
    crd["metadata"]["labels"] = json!({ "app.kubernetes.io/part-of": "kuryr" });
    without_defaults(&mut crd["spec"]["versions"][0]["schema"]);
    let properties = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    // Enforced by the API server for everybody: a leader that was paused cannot write below its successor.
    properties["spec"]["x-kubernetes-validations"] = json!([{
        "rule": "self.epoch >= oldSelf.epoch",
        "message": "spec.epoch must not decrease: a later leader has written already",
    }]);
    // Each half has one writer. Else the API server would note for every field of every port who wrote it
    // (`metadata.managedFields`), a third of the whole object, and work out what has changed of it at each write.
    for half in ["spec", "status"] {
        properties[half]["x-kubernetes-map-type"] = json!("atomic");
    }
    crd
}

/// The API server would add defaults to what is stored, and a patch that tests a whole entry would not hold.
fn without_defaults(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            // A property may be called `default`; a schema's default is never a schema.
            fields.retain(|name, value| name != "default" || value.get("type").is_some());
            fields.values_mut().for_each(without_defaults);
        }
        Value::Array(items) => items.iter_mut().for_each(without_defaults),
        _ => {}
    }
}

/// The definition of `KuryrPort`, equal to upstream's.
#[must_use]
pub fn kuryrport() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "kuryrports.openstack.org" },
        "spec": {
            "group": "openstack.org",
            "scope": "Namespaced",
            "names": {
                "plural": "kuryrports",
                "singular": "kuryrport",
                "kind": "KuryrPort",
                "shortNames": ["kp"],
            },
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "additionalPrinterColumns": [
                    { "name": "PodUID", "type": "string", "jsonPath": ".spec.podUid" },
                    { "name": "Nodename", "type": "string", "jsonPath": ".spec.podNodeName" },
                    { "name": "labels", "type": "string", "jsonPath": ".metadata.labels" },
                ],
                "schema": { "openAPIV3Schema": kuryrport_schema() },
            }],
        },
    })
}

fn kuryrport_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "required": ["podUid", "podNodeName"],
                "properties": {
                    "podUid": { "type": "string" },
                    "podNodeName": { "type": "string" },
                    "podStatic": { "type": "boolean" },
                },
            },
            "status": {
                "type": "object",
                "required": ["vifs"],
                "properties": {
                    "vifs": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
                },
            },
        },
    })
}

/// The definition of `KuryrLoadBalancer`, equal to upstream's.
#[must_use]
pub fn kuryrloadbalancer() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "kuryrloadbalancers.openstack.org" },
        "spec": {
            "group": "openstack.org",
            "scope": "Namespaced",
            "names": {
                "plural": "kuryrloadbalancers",
                "singular": "kuryrloadbalancer",
                "kind": "KuryrLoadBalancer",
                "shortNames": ["klb"],
            },
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "additionalPrinterColumns": [
                    { "name": "PROJECT-ID", "type": "string", "jsonPath": ".spec.project_id" },
                    { "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" },
                ],
                "schema": { "openAPIV3Schema": {
                    "type": "object",
                    "properties": {
                        "spec": kuryrloadbalancer_spec(),
                        "status": kuryrloadbalancer_status(),
                    },
                } },
            }],
        },
    })
}

fn kuryrloadbalancer_spec() -> Value {
    let text = || json!({ "type": "string" });
    let number = || json!({ "type": "integer" });
    let texts = || json!({ "type": "array", "items": { "type": "string" } });
    json!({
        "type": "object",
        "properties": {
            "endpointSlices": { "type": "array", "items": { "type": "object", "properties": {
                "endpoints": { "type": "array", "items": { "type": "object", "properties": {
                    "addresses": texts(),
                    "conditions": { "type": "object", "properties": { "ready": { "type": "boolean" } } },
                    "hostname": text(),
                    "targetRef": { "type": "object", "properties": {
                        "kind": text(),
                        "name": text(),
                        "namespace": text(),
                        "resourceVersion": text(),
                        "uid": text(),
                    } },
                } } },
                "ports": { "type": "array", "items": { "type": "object", "properties": {
                    "name": text(),
                    "port": number(),
                    "protocol": text(),
                } } },
            } } },
            "ip": text(),
            "lb_ip": text(),
            "ports": { "type": "array", "items": {
                "type": "object",
                "required": ["port", "protocol", "targetPort"],
                "properties": {
                    "name": text(),
                    "port": number(),
                    "protocol": text(),
                    "targetPort": text(),
                },
            } },
            "project_id": text(),
            "provider": text(),
            "security_groups_ids": texts(),
            "subnet_id": text(),
            "timeout_client_data": number(),
            "timeout_member_data": number(),
            "type": text(),
        },
    })
}

fn kuryrloadbalancer_status() -> Value {
    let required = |fields: &[(&str, &str)]| {
        let properties: serde_json::Map<String, Value> =
            fields.iter().map(|(name, kind)| ((*name).to_owned(), json!({ "type": kind }))).collect();
        let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
        json!({ "type": "object", "required": names, "properties": properties })
    };
    let all = |items: Value| json!({ "type": "array", "items": items });
    let text = "string";
    let mut balancer = required(&[
        ("id", text),
        ("ip", text),
        ("name", text),
        ("port_id", text),
        ("project_id", text),
        ("provider", text),
        ("security_groups", "array"),
        ("subnet_id", text),
    ]);
    balancer["properties"]["security_groups"]["items"] = json!({ "type": "string" });
    let mut listener = required(&[
        ("id", text),
        ("loadbalancer_id", text),
        ("name", text),
        ("port", "integer"),
        ("project_id", text),
        ("protocol", text),
    ]);
    for optional in ["timeout_client_data", "timeout_member_data"] {
        listener["properties"][optional] = json!({ "type": "integer" });
    }
    let pool = required(&[
        ("id", text),
        ("listener_id", text),
        ("loadbalancer_id", text),
        ("name", text),
        ("project_id", text),
        ("protocol", text),
    ]);
    let member = required(&[
        ("id", text),
        ("ip", text),
        ("name", text),
        ("pool_id", text),
        ("port", "integer"),
        ("project_id", text),
        ("subnet_id", text),
    ]);
    json!({
        "type": "object",
        "properties": {
            "listeners": all(listener),
            "loadbalancer": balancer,
            "members": all(member),
            "pools": all(pool),
            "service_pub_ip_info": required(&[("alloc_method", text), ("ip_addr", text), ("ip_id", text)]),
        },
    })
}

fn yaml(value: &Value) -> String {
    let header = "# Generated by `cargo xtask codegen`. Do not edit.\n";
    // A JSON value always has a YAML form; an empty file would fail the comparison in tidy.
    format!("{header}{}", serde_saphyr::to_string(value).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_keeps_its_epoch_rule_and_status_subresource() {
        let crd = kuryrnode();
        let version = &crd["spec"]["versions"][0];
        assert!(version["subresources"]["status"].is_object());
        let spec = &version["schema"]["openAPIV3Schema"]["properties"]["spec"];
        assert_eq!(spec["x-kubernetes-validations"][0]["rule"], "self.epoch >= oldSelf.epoch");
        assert_eq!(spec["x-kubernetes-map-type"], "atomic");
        assert_eq!(spec["properties"]["ports"]["additionalProperties"]["type"], "object");
        assert_eq!(crd["spec"]["scope"], "Cluster");
        assert!(!crd.to_string().contains("\"default\":"), "stored objects are what was written");
    }

    #[test]
    fn upstreams_have_no_status_subresource() {
        for crd in [kuryrport(), kuryrloadbalancer()] {
            assert!(crd["spec"]["versions"][0].get("subresources").is_none());
        }
    }

    /// Names and kinds of all fields that a definition knows, and those that an object has.
    fn fields(schema: &Value, object: &Value, at: &str, known: &mut Vec<String>, found: &mut Vec<String>) {
        if let Some(items) = schema.get("items") {
            assert!(object.is_array(), "{at} is a list");
            let first = object.get(0).unwrap_or(&Value::Null);
            return fields(items, first, &format!("{at}[]"), known, found);
        }
        let kind = schema["type"].as_str().unwrap();
        known.push(format!("{at} {kind}"));
        let is_so = match kind {
            "string" => object.is_string(),
            "integer" => object.is_u64(),
            "boolean" => object.is_boolean(),
            _ => object.is_object(),
        };
        if is_so {
            found.push(format!("{at} {kind}"));
        }
        for required in schema["required"].as_array().into_iter().flatten() {
            assert!(object.get(required.as_str().unwrap()).is_some(), "{at} has {required}");
        }
        for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
            fields(schema, &object[name], &format!("{at}.{name}"), known, found);
        }
        let names = |value: &Value| value.as_object().map(|fields| fields.keys().cloned().collect());
        let (in_object, in_schema): (Option<Vec<String>>, Option<Vec<String>>) =
            (names(object), names(&schema["properties"]));
        for name in in_object.into_iter().flatten() {
            assert!(in_schema.iter().flatten().any(|known| *known == name), "{at}.{name} would be dropped");
        }
    }

    #[test]
    fn load_balancer_is_what_its_types_write_and_what_upstream_wrote() {
        let crd = kuryrloadbalancer();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        let upstreams: Value =
            serde_json::from_str(include_str!("../golden/kuryrloadbalancer-provisioned.json")).unwrap();
        let mut read: crate::kuryrloadbalancer::KuryrLoadBalancer =
            serde_json::from_value(upstreams.clone()).unwrap();
        let groups = vec!["g".to_owned()];
        read.status.loadbalancer.as_mut().unwrap().security_groups.clone_from(&groups);
        let listener = &mut read.status.listeners[0];
        (listener.timeout_client_data, listener.timeout_member_data) = (Some(1), Some(1));
        let ours = serde_json::to_value(&read).unwrap();
        let (mut known, mut found) = (vec![], vec![]);
        for part in ["spec", "status"] {
            fields(&schema[part], &ours[part], part, &mut known, &mut found);
        }
        let only_upstreams: Vec<&String> = known.iter().filter(|field| !found.contains(field)).collect();
        let endpoint = "spec.endpointSlices[].endpoints[]";
        let rest = ["hostname", "targetRef.resourceVersion", "targetRef.uid"];
        assert_eq!(
            only_upstreams,
            rest.map(|field| format!("{endpoint}.{field} string")).iter().collect::<Vec<_>>()
        );
        for part in ["spec", "status"] {
            fields(&schema[part], &upstreams[part], part, &mut vec![], &mut vec![]);
        }
    }
}
