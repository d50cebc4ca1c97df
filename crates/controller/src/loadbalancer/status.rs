//! What people are told: the Service's status, and Events on it with upstream's reasons.

use kuryr_kubernetes::{event::reference, slim};
use kuryr_openstack::Error as CloudError;
use kuryr_planning::loadbalancer::{Ingress, Plan, Step};
use serde_json::json;

use super::{apply::services, observe::Look};
use crate::{cloud::problem, error::Result, wiring::World};

/// Tells about the steps of a plan that users know by name, and about its problems.
pub(super) fn tell(look: &Look, plan: &Plan, world: &World) {
    let Some(service) = look.object.as_deref() else { return };
    let about = reference(service);
    for step in &plan.steps {
        let told = match step {
            Step::CreateBalancer(spec) => Some((
                "KuryrEnsureLB",
                format!("making load balancer {} by provider {}", spec.name, spec.provider),
            )),
            Step::AdoptBalancer { stranger } => Some((
                "KuryrEnsureLB",
                format!("taking over load balancer {stranger}, which has the ClusterIP"),
            )),
            Step::DeleteBalancer { balancer } => {
                Some(("KuryrReleaseLB", format!("deleting load balancer {balancer}")))
            }
            Step::CreateFloating { external, .. } => {
                Some(("KuryrEnsureFIP", format!("making a floating IP of network {}", external.network)))
            }
            Step::DeleteFloating { floating } => {
                Some(("KuryrReleaseFIP", format!("deleting floating IP {floating}")))
            }
            _ => None,
        };
        if let Some((reason, message)) = told {
            world.events.normal(&about, reason, message);
        }
    }
    for problem in &plan.problems {
        world.events.warning(&about, &problem.reason, problem.message.clone());
    }
}

/// Tells that a call to the cloud failed.
pub(super) fn tell_failure(service: Option<&slim::Service>, error: &CloudError, world: &World) {
    if let Some(service) = service {
        let problem = problem::of("providing the load balancer", error);
        world.events.warning(&reference(service), &problem.reason, problem.message);
    }
}

/// Writes where clients outside send to; refused if somebody has changed the Service meanwhile. What is known of it may be old,
/// and of its name another Service may have begun, which has no load balancer and would tell this address for ever.
pub(super) async fn write(look: &Look, ingress: &[Ingress], world: &World) -> Result<()> {
    let Some(service) = look.object.as_deref() else { return Ok(()) };
    let entry = |ingress: &Ingress| match (&ingress.ip, &ingress.hostname) {
        (Some(ip), None) if ingress.is_proxied => json!({"ip": ip, "ipMode": "Proxy"}),
        // The connection arrives at the pod with its address unchanged, so the cluster may send it there directly.
        (Some(ip), None) => json!({"ip": ip, "ipMode": "VIP"}),
        (_, hostname) => json!({"hostname": hostname}),
    };
    let entries: Vec<_> = ingress.iter().map(entry).collect();
    let version = &service.metadata.resource_version;
    let status =
        json!({"metadata": {"resourceVersion": version}, "status": {"loadBalancer": {"ingress": entries}}});
    services(&look.service.namespace, world).merge_status(&look.service.name, &status).await?;
    if !ingress.is_empty() {
        let told =
            |ingress: &Ingress| ingress.ip.map(|ip| ip.to_string()).or_else(|| ingress.hostname.clone());
        let addresses: Vec<String> = ingress.iter().filter_map(told).collect();
        let message = format!("clients outside use {}", addresses.join(", "));
        world.events.normal(&reference(service), "KuryrEnsuredLB", message);
    }
    Ok(())
}
