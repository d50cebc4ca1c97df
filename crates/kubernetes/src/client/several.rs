//! Several API servers, of which one is asked.
//!
//! It is the same one until it cannot be reached or does not answer; from the next call on it is the one after it, and
//! behind the last the first. The call itself fails: whether to try it again is for whoever asked.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{Request, Response, Uri};
use kube::{Client, client::Body};
use tower::{BoxError, Service};

/// Sends each call to the one of several servers whose turn it is.
#[derive(Clone)]
pub(super) struct Several {
    servers: Arc<[(Uri, Client)]>,
    turn: Arc<AtomicUsize>,
}

impl Several {
    /// The first is asked first.
    pub(super) fn new(servers: Vec<(Uri, Client)>) -> Self {
        Self { servers: servers.into(), turn: Arc::default() }
    }

    async fn send(self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let turn = self.turn.load(Ordering::Relaxed);
        let Some((server, client)) = self.servers.get(turn) else { return Err("no API server".into()) };
        let answer = client.send(request).await;
        if let Err(error) = &answer
            && is_away(error)
        {
            self.leave(turn, server);
        }
        Ok(answer?)
    }

    /// Of several calls that fail at the same time only one moves on.
    fn leave(&self, turn: usize, server: &Uri) {
        let next = (turn + 1) % self.servers.len();
        let moved = self.turn.compare_exchange(turn, next, Ordering::Relaxed, Ordering::Relaxed);
        if let (Ok(_), Some((other, _))) = (moved, self.servers.get(next)) {
            tracing::warn!(%server, next = %other, "the API server does not answer; another is asked");
        }
    }
}

impl Service<Request<Body>> for Several {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().send(request))
    }
}

/// Whether nothing came back: no connection, or none that answered in time.
fn is_away(error: &kube::Error) -> bool {
    let first: Option<&(dyn Error + 'static)> = Some(error);
    std::iter::successors(first, |error| (*error).source()).any(|error| {
        error.is::<hyper_util::client::legacy::Error>() || error.is::<tower::timeout::error::Elapsed>()
    })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use bytes::Bytes;
    use http_body_util::Full;
    use hyper::{server::conn::http1, service::service_fn};
    use tokio::{net::TcpListener, task::JoinHandle};

    use super::super::{ClientConfig, connect};

    /// A server that says which version it is.
    async fn serve(listener: TcpListener, version: &'static str) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = move |_| async move {
                let body = format!(
                    r#"{{"major":"1","minor":"36","gitVersion":"{version}","gitCommit":"","gitTreeState":"","buildDate":"","goVersion":"","compiler":"","platform":""}}"#
                );
                Ok::<_, std::convert::Infallible>(hyper::Response::new(Full::new(Bytes::from(body))))
            };
            let connection = http1::Builder::new()
                .keep_alive(false)
                .serve_connection(hyper_util::rt::TokioIo::new(stream), service_fn(answer));
            tokio::spawn(connection);
        }
    }

    async fn start(version: &'static str) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (address, tokio::spawn(serve(listener, version)))
    }

    #[tokio::test]
    async fn the_next_server_is_asked_when_one_is_away_and_the_first_again_after_the_last() {
        let (one, first) = start("one").await;
        let (two, second) = start("two").await;
        let client = connect(&ClientConfig {
            api_root: format!("http://{one}, http://{two}"),
            ..ClientConfig::new("kuryr-test")
        })
        .await
        .unwrap();
        let version = async || client.apiserver_version().await.map(|info| info.git_version).ok();
        assert_eq!(version().await.as_deref(), Some("one"));
        assert_eq!(version().await.as_deref(), Some("one"));
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        assert_eq!(version().await, None, "no call is sent twice");
        assert_eq!(version().await.as_deref(), Some("two"));
        let again = TcpListener::bind(one).await.unwrap();
        let _again = tokio::spawn(serve(again, "again"));
        assert_eq!(version().await.as_deref(), Some("two"), "the one that answers stays");
        second.abort();
        assert!(second.await.unwrap_err().is_cancelled());
        assert_eq!(version().await, None);
        assert_eq!(version().await.as_deref(), Some("again"));
    }
}
