//! What Prometheus is told.
//!
//! Names, units and labels are listed in `docs/metrics.md`, which is made from what [`Figures::new`] registers.

use std::{sync::atomic::AtomicU64, time::Duration};

use kuryr_planning::{
    demand::{Urgency, governor::Ended},
    pool::garbage::Garbage,
};
use kuryr_telemetry::metrics::Metrics;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Unit,
};

/// Seconds; Neutron takes from tens of milliseconds to many seconds.
const CALL_BUCKETS: [f64; 10] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// The figures.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    pub(crate) leader: Gauge,
    pub(crate) ports: Gauge,
    pub(crate) created: Counter<u64, AtomicU64>,
    create_requests: Family<CreateLabels, Counter<u64, AtomicU64>>,
    pub(crate) deleted: Counter<u64, AtomicU64>,
    pub(crate) attached: Counter<u64, AtomicU64>,
    pub(crate) detached: Counter<u64, AtomicU64>,
    pub(crate) plans: Counter<u64, AtomicU64>,
    pub(crate) balancers: Gauge,
    balancer_steps: Family<StepLabels, Counter<u64, AtomicU64>>,
    garbage: Family<GarbageLabels, Gauge>,
    pub(crate) collected: Counter<u64, AtomicU64>,
    calls: Family<CallLabels, Histogram>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    operation: &'static str,
    status: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CreateLabels {
    urgency: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    step: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GarbageLabels {
    kind: &'static str,
}

impl Figures {
    /// Notes what was found to be left over.
    pub(crate) fn found_garbage(&self, found: &[Garbage]) {
        for kind in Garbage::KINDS {
            let count = found.iter().filter(|one| one.kind() == kind).count();
            self.garbage.get_or_create(&GarbageLabels { kind }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Notes how many floating IPs were found to be nobody's.
    pub(crate) fn found_stray_floating_ips(&self, count: usize) {
        let kind = "floating_ip";
        self.garbage.get_or_create(&GarbageLabels { kind }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Notes a step of a plan for a load balancer that was carried out.
    pub(crate) fn balancer_step(&self, step: &'static str) {
        self.balancer_steps.get_or_create(&StepLabels { step }).inc();
    }

    /// Notes a request for ports that has ended.
    pub(crate) fn asked_for_ports(&self, urgency: Urgency, ended: &Ended) {
        let urgency = match urgency {
            Urgency::Urgent => "urgent",
            Urgency::Comfort => "comfort",
        };
        let result = match ended {
            Ended::Made(_) => "made",
            Ended::Refused(_) => "refused",
            Ended::CloudFailed { .. } => "cloud_failed",
            Ended::Dropped => "dropped",
        };
        self.create_requests.get_or_create(&CreateLabels { urgency, result }).inc();
    }

    /// Registers all of them.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let figures = Self {
            leader: Gauge::default(),
            ports: Gauge::default(),
            created: Counter::default(),
            create_requests: Family::default(),
            deleted: Counter::default(),
            attached: Counter::default(),
            detached: Counter::default(),
            plans: Counter::default(),
            balancers: Gauge::default(),
            balancer_steps: Family::default(),
            garbage: Family::default(),
            collected: Counter::default(),
            calls: Family::new_with_constructor(|| Histogram::new(CALL_BUCKETS)),
        };
        metrics.register(|registry| {
            let registry = registry.sub_registry_with_prefix("kuryr_controller");
            registry.register("leader", "1 while this process leads", figures.leader.clone());
            registry.register(
                "ports",
                "Our ports in Neutron as the controller knows them",
                figures.ports.clone(),
            );
            registry.register("ports_created", "Ports made", figures.created.clone());
            let help = "Requests that made ports, by urgency: urgent (pods wait or are known to come) or comfort; result: \
                        made, refused, cloud_failed or dropped";
            registry.register("create_requests", help, figures.create_requests.clone());
            registry.register("ports_deleted", "Ports deleted", figures.deleted.clone());
            registry.register("subports_added", "Ports put on trunks", figures.attached.clone());
            registry.register("subports_removed", "Ports taken off trunks", figures.detached.clone());
            registry.register("node_plans", "Plans for nodes that were not empty", figures.plans.clone());
            registry.register(
                "load_balancers",
                "Our load balancers in Octavia, as last listed",
                figures.balancers.clone(),
            );
            let help = "Steps of plans for load balancers that were carried out, by step";
            registry.register("load_balancer_steps", help, figures.balancer_steps.clone());
            let help = "What is left over, as last looked at, by kind: port (no record speaks for it), record (its Node is gone), \
                        entry (of a record; its port does not exist) or floating_ip (its Service and load balancer are gone)";
            registry.register("garbage", help, figures.garbage.clone());
            registry.register("garbage_collected", "Ports deleted that no record spoke for, and floating IPs that were nobody's", figures.collected.clone());
            let help = "Calls to the cloud; status is that of HTTP, none without an answer";
            registry.register_with_unit("openstack_request", help, Unit::Seconds, figures.calls.clone());
        });
        figures
    }
}

impl kuryr_openstack::Observe for Figures {
    fn call(&self, operation: &'static str, status: Option<u16>, elapsed: Duration) {
        let status = status.map_or_else(|| "none".to_owned(), |status| status.to_string());
        self.calls.get_or_create(&CallLabels { operation, status }).observe(elapsed.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_what_is_registered() {
        let metrics = Metrics::new();
        // Without `..`: a new figure has to be used here, or its family is not seen.
        let Figures {
            leader,
            ports,
            created,
            create_requests,
            deleted,
            attached,
            detached,
            plans,
            balancers,
            balancer_steps,
            garbage,
            collected,
            calls,
        } = Figures::new(&metrics);
        garbage.get_or_create(&GarbageLabels { kind: "port" }).set(1);
        balancer_steps.get_or_create(&StepLabels { step: "create_load_balancer" }).inc();
        for gauge in [leader, ports, balancers] {
            gauge.set(1);
        }
        for counter in [created, deleted, attached, detached, plans, collected] {
            counter.inc();
        }
        create_requests.get_or_create(&CreateLabels { urgency: "urgent", result: "made" }).inc();
        calls.get_or_create(&CallLabels { operation: "create_ports", status: "201".into() }).observe(0.1);

        let reference = kuryr_telemetry::reference(&metrics.encode().unwrap());
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/metrics.md");
        if std::env::var_os("KURYR_WRITE_GOLDEN").is_some() {
            std::fs::write(golden, &reference).unwrap();
        }
        assert_eq!(reference, std::fs::read_to_string(golden).unwrap(), "run `cargo xtask codegen`");
    }
}
