//! A Neutron with one port, for tests.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    client::Client,
    ownership::Ownership,
    recorded::{Asked, Recorded, Reply, cloud},
};

/// Who we are.
pub(super) fn owner() -> Ownership {
    Ownership::new("ours".into(), "kuryr:cluster=a").unwrap()
}

/// A port as Neutron shows it to a user with role `service`.
pub(super) fn port(id: &str, project: &str, tags: &[&str]) -> Value {
    json!({
        "id": id, "name": "kuryr/node-1", "network_id": "n", "tenant_id": project, "project_id": project,
        "mac_address": "fa:16:3e:00:00:01", "admin_state_up": true, "status": "DOWN",
        "device_id": "", "device_owner": "compute:kuryr", "tags": tags, "description": "kuryr:cluster=a",
        "fixed_ips": [{"subnet_id": "s4", "ip_address": "10.1.0.7"}, {"subnet_id": "s6", "ip_address": "fd00::7"}],
        "security_groups": ["g"], "allowed_address_pairs": [{"ip_address": "10.9.0.0/16", "mac_address": "fa:16:3e:00:00:01"}],
        "binding:host_id": "node-1", "binding:vif_type": "ovs", "binding:vnic_type": "normal",
        "binding:profile": {}, "binding:vif_details": {"port_filter": true, "bridge_name": "br-int"},
        "created_at": "2026-11-20T10:00:00Z", "updated_at": "2026-11-20T10:00:01Z", "revision_number": 4,
        "port_security_enabled": true, "qos_policy_id": null, "resource_request": null
    })
}

/// Tags of a port of ours.
pub(super) const OURS: &[&str] = &["other", "kuryr:cluster=a"];

/// A Neutron that answers so, and what it is asked.
pub(super) fn neutron(
    answering: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static,
) -> (Client, Arc<Recorded>) {
    cloud(move |asked| if asked.is_token() { None } else { answering(asked) })
}
