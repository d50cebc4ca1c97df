//! What Prometheus is told.
//!
//! | name | what |
//! |---|---|
//! | `kuryr_controller_leader` | 1 while this process leads |
//! | `kuryr_controller_ports` | our ports in Neutron as the controller knows them |
//! | `kuryr_controller_ports_created_total`, `..._deleted_total` | ports made and deleted |
//! | `kuryr_controller_openstack_request_seconds` | calls to the cloud by operation and status |
//! | `kuryr_controller_node_plans_total` | plans for nodes that were not empty |

use std::{sync::atomic::AtomicU64, time::Duration};

use kuryr_telemetry::metrics::Metrics;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

/// Seconds; Neutron takes from tens of milliseconds to many seconds.
const CALL_BUCKETS: [f64; 10] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// The figures.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    pub(crate) leader: Gauge,
    pub(crate) ports: Gauge,
    pub(crate) created: Counter<u64, AtomicU64>,
    pub(crate) deleted: Counter<u64, AtomicU64>,
    pub(crate) plans: Counter<u64, AtomicU64>,
    calls: Family<CallLabels, Histogram>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    operation: &'static str,
    status: String,
}

impl Figures {
    /// Registers all of them.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let figures = Self {
            leader: Gauge::default(),
            ports: Gauge::default(),
            created: Counter::default(),
            deleted: Counter::default(),
            plans: Counter::default(),
            calls: Family::new_with_constructor(|| Histogram::new(CALL_BUCKETS)),
        };
        metrics.register(|registry| {
            let registry = registry.sub_registry_with_prefix("kuryr_controller");
            registry.register("leader", "1 while this process leads", figures.leader.clone());
            registry.register("ports", "Ports of the cluster in Neutron", figures.ports.clone());
            registry.register("ports_created", "Ports made", figures.created.clone());
            registry.register("ports_deleted", "Ports deleted", figures.deleted.clone());
            registry.register("node_plans", "Plans for nodes that were not empty", figures.plans.clone());
            let help = "Calls to the cloud in seconds";
            registry.register("openstack_request_seconds", help, figures.calls.clone());
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
