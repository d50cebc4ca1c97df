//! Answers load balancers that ask, at a Service's `healthCheckNodePort`, whether this node has endpoints of it.
//!
//! One server for each port, at every address of the node: 200 if there are ready endpoints here and the agent brings
//! clients to them, else 503, with the figures as JSON, as kube-proxy answers.
//!
//! Source: kube-proxy 1.36, `pkg/proxy/healthcheck/service_health.go`.

use std::{
    collections::BTreeMap,
    net::{Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use kuryr_kubernetes::store::ObjectKey;
use kuryr_planning::service::HealthCheck;
use kuryr_telemetry::server;
use serde_json::json;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::with_causes;

/// How many endpoints there are, for load balancers that weigh nodes.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// What is answered at a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// The Service.
    pub(super) service: ObjectKey,
    /// Its ready endpoints on this node.
    pub(super) local_endpoints: usize,
    /// Whether clients are brought to them.
    pub(super) served: bool,
}

/// The servers. They end with this.
#[derive(Debug, Default)]
pub(super) struct HealthChecks {
    by_port: BTreeMap<u16, Server>,
    /// What has been told of those that cannot be had.
    told: Vec<(ObjectKey, String)>,
}

#[derive(Debug)]
struct Server {
    answer: Arc<Mutex<Answer>>,
    _stop: DropGuard,
}

impl HealthChecks {
    /// Has exactly these answered, and tells once which Services cannot have their port, and why.
    pub(super) async fn set(
        &mut self,
        wanted: impl IntoIterator<Item = (ObjectKey, HealthCheck)>,
        served: bool,
    ) -> Vec<(ObjectKey, String)> {
        let answer = |(service, check): (ObjectKey, HealthCheck)| {
            (check.port, Answer { service, local_endpoints: check.local_endpoints, served })
        };
        let wanted: BTreeMap<u16, Answer> = wanted.into_iter().map(answer).collect();
        self.by_port.retain(|port, _| wanted.contains_key(port));
        let mut failures = Vec::new();
        for (port, answer) in wanted {
            if let Some(server) = self.by_port.get(&port) {
                *server.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
                continue;
            }
            match server::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
                Ok(listener) => {
                    let (stop, answer) = (CancellationToken::new(), Arc::new(Mutex::new(answer)));
                    let router = Router::new().fallback(tell).with_state(Arc::clone(&answer));
                    tokio::spawn(server::serve(listener, router, stop.clone()));
                    self.by_port.insert(port, Server { answer, _stop: stop.drop_guard() });
                }
                Err(error) => {
                    let why = format!("healthCheckNodePort {port} is not answered: {}", with_causes(&error));
                    failures.push((answer.service, why));
                }
            }
        }
        let told = std::mem::replace(&mut self.told, failures);
        self.told.iter().filter(|failure| !told.contains(failure)).cloned().collect()
    }
}

async fn tell(State(answer): State<Arc<Mutex<Answer>>>) -> Response {
    let answer = answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let Answer { service, local_endpoints, served } = answer;
    let status = if served && local_endpoints > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "service": {"namespace": service.namespace, "name": service.name},
        "localEndpoints": local_endpoints,
        "serviceProxyHealthy": served,
    });
    let headers = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (WEIGHT, local_endpoints.to_string()),
    ];
    (status, headers, body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    fn web() -> ObjectKey {
        ObjectKey::namespaced("d", "web")
    }

    /// A port that nobody had a moment ago.
    fn free_port() -> u16 {
        std::net::TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port()
    }

    async fn ask(port: u16) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    }

    #[tokio::test]
    async fn a_node_is_healthy_while_it_has_endpoints_and_serves_them() {
        let (mut checks, port) = (HealthChecks::default(), free_port());
        for (local_endpoints, served, status) in
            [(2, true, "200"), (0, true, "503"), (2, false, "503"), (1, true, "200")]
        {
            assert_eq!(checks.set([(web(), HealthCheck { port, local_endpoints })], served).await, []);
            let text = ask(port).await.unwrap();
            assert!(text.contains(status) && text.contains(&format!("weight: {local_endpoints}")), "{text}");
            let body = json!({
                "service": {"namespace": "d", "name": "web"}, "localEndpoints": local_endpoints, "serviceProxyHealthy": served,
            });
            assert!(text.ends_with(&body.to_string()), "{text}");
        }
    }

    #[tokio::test]
    async fn ports_come_and_go_with_their_services_and_one_that_is_taken_is_told() {
        let mut checks = HealthChecks::default();
        let taken = std::net::TcpListener::bind("[::]:0").unwrap();
        let (port, other) = (taken.local_addr().unwrap().port(), free_port());
        let check = |port| HealthCheck { port, local_endpoints: 1 };
        let failures =
            checks.set([(web(), check(port)), (ObjectKey::namespaced("d", "b"), check(other))], true).await;
        assert_eq!(failures.len(), 1);
        assert!(
            failures[0].0 == web() && failures[0].1.starts_with(&format!("healthCheckNodePort {port}")),
            "{failures:?}"
        );
        assert!(ask(other).await.is_some());
        assert_eq!(checks.set([(web(), check(port))], true).await, [], "it was told");
        drop(taken);
        assert_eq!(checks.set([(web(), check(port))], true).await, [], "free by now");
        assert!(ask(port).await.is_some());
        // The server of the other ends in its own time.
        for _ in 0..500 {
            if ask(other).await.is_none() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("it is still answered");
    }
}
