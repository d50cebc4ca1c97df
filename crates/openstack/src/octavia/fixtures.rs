//! An Octavia with one load balancer, for tests.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    client::Client,
    ownership::Ownership,
    recorded::{Asked, Recorded, Reply, cloud},
};

use super::load_balancer::OwnedLoadBalancer;

/// Who we are.
pub(super) fn owner() -> Ownership {
    Ownership::new("ours".into(), "kuryr:cluster=a").unwrap()
}

/// Tags of a load balancer of ours.
pub(super) const OURS: &[&str] = &["kuryr:cluster=a", "other"];

/// A load balancer as Octavia shows it.
pub(super) fn load_balancer(id: &str, status: &str, tags: &[&str]) -> Value {
    json!({
        "id": id, "name": "d/web", "description": "", "provisioning_status": status, "operating_status": "ONLINE",
        "admin_state_up": true, "project_id": "ours", "created_at": "2026-11-20T10:00:00", "updated_at": null,
        "vip_address": "10.1.0.9", "vip_port_id": "vip", "vip_subnet_id": "s4", "vip_network_id": "n",
        "vip_sg_ids": [], "additional_vips": [], "listeners": [{"id": "l"}], "pools": [{"id": "p"}],
        "provider": "ovn", "flavor_id": null, "vip_qos_policy_id": null, "tags": tags, "availability_zone": null,
        "vip_vnic_type": "normal"
    })
}

/// An Octavia that answers so, and what it is asked.
pub(super) fn octavia(
    answering: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static,
) -> (Client, Arc<Recorded>) {
    cloud(move |asked| if asked.is_token() { None } else { answering(asked) })
}

/// An Octavia with one load balancer of ours, that answers everything else so; what it is asked begins with a list.
pub(super) async fn with_one(
    answering: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static,
) -> (Client, Arc<Recorded>, OwnedLoadBalancer) {
    let (client, recorded) = octavia(move |asked| match asked.path.split('?').next() {
        Some("/v2/lbaas/loadbalancers") => {
            Some(Reply::Json(200, json!({"loadbalancers": [load_balancer("b", "ACTIVE", OURS)]})))
        }
        _ => answering(asked),
    });
    let found = client.load_balancers(&owner(), None).await.unwrap().remove(0);
    (client, recorded, found)
}
