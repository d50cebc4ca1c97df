//! Figures of the agent.
//!
//! Their names, units and labels are listed in `docs/metrics.md`, which is made from what [`Metrics::new`] registers.
//! `kuryr_cni_request_duration_seconds` has upstream's name, labels and buckets. `kuryr_agent_pool_hit_ratio` counts since
//! the agent started; over a time it is the share of `ready` in what `ready` and `waited` of
//! `kuryr_agent_ports_taken_total` rose together.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use kuryr_datapath::Outcomes;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::sandbox::stages::{Stage, Stages};

/// Upper bounds in seconds, from a tenth of a millisecond to the longest ADD; finest around the 3 ms that one should take.
const FINE: [f64; 22] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.001_5, 0.002, 0.002_5, 0.003, 0.003_5, 0.004, 0.005, 0.01, 0.02,
    0.04, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0,
];

/// The agent's figures; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    upstream: Family<UpstreamRequest, Histogram>,
    requests: Family<Request, Histogram>,
    stages: Family<StageLabel, Histogram>,
    taken: Family<Taken, Counter>,
    hit_ratio: Gauge<f64, AtomicU64>,
    ports: Family<PortState, Gauge>,
    waiting: Gauge,
    status_writes: Family<Write, Counter>,
    kuryrport_writes: Family<Write, Counter>,
    service_frontends: Gauge,
    service_backends: Gauge,
    service_writes: Family<Write, Counter>,
    service_sockets: Family<SocketOutcome, Counter>,
    service_closed: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamRequest {
    command: &'static str,
    error: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    verb: &'static str,
    code: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabel {
    stage: &'static str,
}

/// Where a pod's port came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum PortSource {
    /// The pod held it.
    Held,
    /// It was ready.
    Ready,
    /// The pod waited for it.
    Waited,
}

impl EncodeLabelValue for PortSource {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let name = match self {
            Self::Held => "held",
            Self::Ready => "ready",
            Self::Waited => "waited",
        };
        EncodeLabelValue::encode(&name, encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Taken {
    source: PortSource,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PortState {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SocketOutcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Write {
    result: &'static str,
}

impl Metrics {
    /// Registers all figures.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let fine = || Histogram::new(FINE);
        let coarse = || Histogram::new((1..=18).map(|tens| f64::from(tens * 10)));
        let inner = Inner {
            upstream: Family::new_with_constructor(coarse),
            requests: Family::new_with_constructor(fine),
            stages: Family::new_with_constructor(fine),
            taken: Family::default(),
            hit_ratio: Gauge::default(),
            ports: Family::default(),
            waiting: Gauge::default(),
            status_writes: Family::default(),
            kuryrport_writes: Family::default(),
            service_frontends: Gauge::default(),
            service_backends: Gauge::default(),
            service_writes: Family::default(),
            service_sockets: Family::default(),
            service_closed: Counter::default(),
        };
        registry.register_with_unit(
            "kuryr_cni_request_duration",
            "Time of ADD and DEL; error is True or False",
            Unit::Seconds,
            inner.upstream.clone(),
        );
        registry.register_with_unit(
            "kuryr_agent_request",
            "Time of the plugin's requests; code is the CNI error, 0 for success",
            Unit::Seconds,
            inner.requests.clone(),
        );
        registry.register_with_unit(
            "kuryr_agent_add_stage",
            "Time of the parts of ADD, by stage: pod, port, durable or attach",
            Unit::Seconds,
            inner.stages.clone(),
        );
        registry.register(
            "kuryr_agent_ports_taken",
            "Ports that pods took, by source: held, ready or waited",
            inner.taken.clone(),
        );
        let help = "Share of pods that found a port ready when the runtime asked, 0 to 1";
        registry.register("kuryr_agent_pool_hit_ratio", help, inner.hit_ratio.clone());
        registry.register(
            "kuryr_agent_ports",
            "Ports of this node, by state: offered, ready, claimed or stuck",
            inner.ports.clone(),
        );
        registry.register("kuryr_agent_pods_waiting", "Pods that wait for a port", inner.waiting.clone());
        registry.register(
            "kuryr_agent_status_writes",
            "Writes of the node's status, by result: ok or failed",
            inner.status_writes.clone(),
        );
        registry.register(
            "kuryr_agent_kuryrport_writes",
            "Writes of KuryrPorts, by result: ok or failed",
            inner.kuryrport_writes.clone(),
        );
        let help = "Addresses and ports at which Services are served on this node";
        registry.register("kuryr_agent_service_frontends", help, inner.service_frontends.clone());
        let help = "Endpoints behind those addresses and ports (`kuryr_agent_service_frontends`), each counted at each of them";
        registry.register("kuryr_agent_service_backends", help, inner.service_backends.clone());
        registry.register(
            "kuryr_agent_service_writes",
            "Writes to the tables of Services, by result: ok or failed",
            inner.service_writes.clone(),
        );
        registry.register(
            "kuryr_agent_service_sockets",
            "Times that a socket was to be brought to an endpoint since the node's boot, by outcome: chosen, kept, refused or \
             unsettled",
            inner.service_sockets.clone(),
        );
        registry.register(
            "kuryr_agent_service_sockets_closed",
            "Connected UDP sockets that were closed because their endpoint had gone",
            inner.service_closed.clone(),
        );
        Self { inner: Arc::new(inner) }
    }

    /// Notes a request that was answered.
    pub(crate) fn answered(&self, verb: &'static str, code: u32, time: Duration) {
        let seconds = time.as_secs_f64();
        self.inner.requests.get_or_create(&Request { verb, code }).observe(seconds);
        if matches!(verb, "ADD" | "DEL") {
            let error = if code == 0 { "False" } else { "True" };
            self.inner.upstream.get_or_create(&UpstreamRequest { command: verb, error }).observe(seconds);
        }
    }

    /// Notes where the time of an ADD went.
    pub(crate) fn stages(&self, stages: &Stages) {
        for (stage, time) in stages.laps() {
            let label = StageLabel { stage: Stage::name(*stage) };
            self.inner.stages.get_or_create(&label).observe(time.as_secs_f64());
        }
    }

    /// Notes where a port came from.
    pub(crate) fn port_taken(&self, source: PortSource) {
        self.inner.taken.get_or_create(&Taken { source }).inc();
        let count = |source| self.inner.taken.get_or_create(&Taken { source }).get();
        self.inner.hit_ratio.set(ratio(count(PortSource::Ready), count(PortSource::Waited)));
    }

    /// Notes how many ports are in which state, and how many pods wait.
    pub(crate) fn counts(&self, ports: [(&'static str, usize); 4], waiting: usize) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for (state, count) in ports {
            self.inner.ports.get_or_create(&PortState { state }).set(number(count));
        }
        self.inner.waiting.set(number(waiting));
    }

    /// Notes a write of the node's status.
    pub(crate) fn status_written(&self, succeeded: bool) {
        self.inner.status_writes.get_or_create(&write(succeeded)).inc();
    }

    /// Notes a write of a `KuryrPort`.
    pub(crate) fn kuryrport_written(&self, succeeded: bool) {
        self.inner.kuryrport_writes.get_or_create(&write(succeeded)).inc();
    }

    /// Notes how much the tables of Services hold.
    pub(crate) fn service_tables(&self, frontends: usize, backends: usize) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.inner.service_frontends.set(number(frontends));
        self.inner.service_backends.set(number(backends));
    }

    /// Notes writes to the tables of Services.
    pub(crate) fn service_written(&self, count: usize, succeeded: bool) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.inner.service_writes.get_or_create(&write(succeeded)).inc_by(count);
    }

    /// Notes sockets that were closed because their endpoint had gone.
    pub(crate) fn service_closed(&self, count: usize) {
        self.inner.service_closed.inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// Notes what became of sockets, as the kernel has counted.
    pub(crate) fn service_outcomes(&self, outcomes: Outcomes) {
        let Outcomes { chosen, kept, refused, unsettled } = outcomes;
        for (outcome, count) in
            [("chosen", chosen), ("kept", kept), ("refused", refused), ("unsettled", unsettled)]
        {
            let counter = self.inner.service_sockets.get_or_create(&SocketOutcome { outcome });
            counter.inner().store(count, Ordering::Relaxed);
        }
    }
}

/// The share of `hits`; 1 as long as there was nothing to miss.
#[expect(clippy::cast_precision_loss, reason = "pods of one node do not reach what a float cannot count")]
fn ratio(hits: u64, misses: u64) -> f64 {
    if hits + misses == 0 { 1.0 } else { hits as f64 / (hits + misses) as f64 }
}

fn write(succeeded: bool) -> Write {
    Write { result: if succeeded { "ok" } else { "failed" } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_upstreams_and_ours() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        metrics.answered("ADD", 0, Duration::from_millis(3));
        metrics.answered("DEL", 999, Duration::from_millis(3));
        use PortSource::{Held, Ready, Waited};
        for source in [Held, Ready, Waited, Ready, Ready] {
            metrics.port_taken(source);
        }
        metrics.counts([("offered", 5), ("ready", 4), ("claimed", 1), ("stuck", 0)], 0);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"kuryr_cni_request_duration_seconds_bucket{le="10.0",command="ADD",error="False"} 1"#,
            r#"kuryr_cni_request_duration_seconds_count{command="DEL",error="True"} 1"#,
            r#"kuryr_agent_request_seconds_bucket{le="0.003",verb="ADD",code="0"} 1"#,
            r#"kuryr_agent_ports_taken_total{source="ready"} 3"#,
            "kuryr_agent_pool_hit_ratio 0.75",
            r#"kuryr_agent_ports{state="ready"} 4"#,
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn the_reference_is_what_is_registered() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        // Without `..`: a new figure has to be used here, or its family is not seen.
        let Inner {
            upstream,
            requests,
            stages,
            taken,
            hit_ratio,
            ports,
            waiting,
            status_writes,
            kuryrport_writes,
            service_frontends,
            service_backends,
            service_writes,
            service_sockets,
            service_closed,
        } = &*metrics.inner;
        upstream.get_or_create(&UpstreamRequest { command: "ADD", error: "False" }).observe(0.1);
        requests.get_or_create(&Request { verb: "ADD", code: 0 }).observe(0.1);
        stages.get_or_create(&StageLabel { stage: "pod" }).observe(0.1);
        taken.get_or_create(&Taken { source: PortSource::Held }).inc();
        hit_ratio.set(1.0);
        ports.get_or_create(&PortState { state: "ready" }).set(1);
        waiting.set(1);
        status_writes.get_or_create(&write(true)).inc();
        kuryrport_writes.get_or_create(&write(true)).inc();
        service_frontends.set(1);
        service_backends.set(1);
        service_writes.get_or_create(&write(true)).inc();
        service_sockets.get_or_create(&SocketOutcome { outcome: "chosen" }).inc();
        service_closed.inc();

        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let reference = kuryr_telemetry::reference(&text);
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/metrics.md");
        if std::env::var_os("KURYR_WRITE_GOLDEN").is_some() {
            std::fs::write(golden, &reference).unwrap();
        }
        assert_eq!(reference, std::fs::read_to_string(golden).unwrap(), "run `cargo xtask codegen`");
    }
}
