//! Several API servers, of which one is asked.
//!
//! It is the same one until it cannot be reached, does not answer, or answers with nothing but errors of its own; from the
//! next call on it is the one after it, and behind the last the first. The call itself fails: whether to try it again is for
//! whoever asked.

use std::{
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{Request, Response, StatusCode, Uri, header::RETRY_AFTER};
use kube::{Client, client::Body};
use tower::{BoxError, Service};

/// What is borne of a server that does not serve, as [`Sign::weight`] counts.
const PATIENCE: u32 = 30;

/// Sends each call to the one of several servers whose turn it is.
#[derive(Clone)]
pub(super) struct Several {
    servers: Arc<[(Uri, Client)]>,
    turn: Arc<Mutex<Turn>>,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, Default)]
struct Turn {
    server: usize,
    /// What was borne of it since it last served.
    borne: u32,
}

/// What an answer, or none, tells of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// It serves.
    Serves,
    /// It wants to be asked later.
    Busy,
    /// It could not do its own work.
    Errs,
    /// Nothing came back.
    Away,
}

impl Sign {
    const fn weight(self) -> u32 {
        match self {
            Self::Serves => 0,
            // It knows what is the matter, and means the request more often than itself; but one that has lost its storage
            // says so for ever.
            Self::Busy => 1,
            // One or two in a row may be a write that a webhook makes fail.
            Self::Errs => 10,
            Self::Away => PATIENCE,
        }
    }
}

impl Several {
    /// The first is asked first.
    pub(super) fn new(servers: Vec<(Uri, Client)>) -> Self {
        Self { servers: servers.into(), turn: Arc::default() }
    }

    async fn send(self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let asked = self.turn().server;
        let Some((_, client)) = self.servers.get(asked) else { return Err("no API server".into()) };
        let answer = client.send(request).await;
        match &answer {
            Ok(answer) => self.note(asked, sign(answer)),
            Err(error) if is_away(error) => self.note(asked, Sign::Away),
            Err(_) => {}
        }
        Ok(answer?)
    }

    /// Of several calls that fail at the same time only one moves on.
    fn note(&self, asked: usize, sign: Sign) {
        let mut turn = self.turn();
        if turn.server != asked {
            return;
        }
        turn.borne = if sign == Sign::Serves { 0 } else { turn.borne + sign.weight() };
        if turn.borne >= PATIENCE {
            *turn = Turn { server: (asked + 1) % self.servers.len(), borne: 0 };
            let name =
                |at: usize| self.servers.get(at).map(|(server, _)| server.to_string()).unwrap_or_default();
            let (server, next) = (name(asked), name(turn.server));
            tracing::warn!(server, next, ?sign, "the API server does not serve; another is asked");
        }
    }

    fn turn(&self) -> std::sync::MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
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

fn sign(answer: &Response<Body>) -> Sign {
    let status = answer.status();
    match (status.is_server_error(), answer.headers().contains_key(RETRY_AFTER)) {
        _ if status == StatusCode::TOO_MANY_REQUESTS => Sign::Busy,
        (false, _) => Sign::Serves,
        (true, true) => Sign::Busy,
        (true, false) => Sign::Errs,
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
    use std::{
        net::SocketAddr,
        sync::{Arc, Mutex},
    };

    use bytes::Bytes;
    use http_body_util::Full;
    use hyper::{server::conn::http1, service::service_fn};
    use tokio::{net::TcpListener, task::JoinHandle};

    use super::{
        super::{ClientConfig, connect},
        PATIENCE,
    };

    /// Status, and value of `Retry-After`.
    type Head = (u16, Option<&'static str>);

    /// A server that says which version it is.
    async fn serve(listener: TcpListener, version: &'static str, head: Arc<Mutex<Head>>) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let head = Arc::clone(&head);
            let answer = move |_| {
                let (status, retry_after) = *head.lock().unwrap();
                async move {
                    let body = format!(
                        r#"{{"major":"1","minor":"36","gitVersion":"{version}","gitCommit":"","gitTreeState":"","buildDate":"","goVersion":"","compiler":"","platform":""}}"#
                    );
                    let answer = hyper::Response::builder().status(status);
                    let answer = retry_after
                        .into_iter()
                        .fold(answer, |answer, after| answer.header("Retry-After", after));
                    answer.body(Full::new(Bytes::from(body)))
                }
            };
            let connection = http1::Builder::new()
                .keep_alive(false)
                .serve_connection(hyper_util::rt::TokioIo::new(stream), service_fn(answer));
            tokio::spawn(connection);
        }
    }

    async fn start_with(version: &'static str, head: &Arc<Mutex<Head>>) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (address, tokio::spawn(serve(listener, version, Arc::clone(head))))
    }

    async fn start(version: &'static str) -> (SocketAddr, JoinHandle<()>) {
        start_with(version, &Arc::new(Mutex::new((200, None)))).await
    }

    async fn client_of(one: SocketAddr, two: SocketAddr) -> kube::Client {
        let api_root = format!("http://{one}, http://{two}");
        connect(&ClientConfig { api_root, ..ClientConfig::new("kuryr-test") }).await.unwrap()
    }

    #[tokio::test]
    async fn the_next_server_is_asked_when_one_only_errs() {
        let head = Arc::new(Mutex::new((200, None)));
        let (one, _first) = start_with("one", &head).await;
        let (two, _second) = start("two").await;
        let client = client_of(one, two).await;
        let version = async || client.apiserver_version().await.map(|info| info.git_version).ok();
        for answers in [
            &[(500, None), (503, None)][..],
            &[(503, Some("1")); 5],
            &[(429, Some("1")); 5],
            &[(404, None); 5],
        ] {
            for answer in answers {
                *head.lock().unwrap() = *answer;
                assert_eq!(version().await, None);
            }
            *head.lock().unwrap() = (200, None);
            assert_eq!(version().await.as_deref(), Some("one"), "{answers:?}");
        }
        for answer in [(500, None), (503, Some("1")), (503, None), (504, None)] {
            *head.lock().unwrap() = answer;
            assert_eq!(version().await, None);
        }
        assert_eq!(version().await.as_deref(), Some("two"));
        assert_eq!(version().await.as_deref(), Some("two"));
    }

    #[tokio::test]
    async fn the_next_server_is_asked_when_one_is_busy_without_end() {
        let head = Arc::new(Mutex::new((429, Some("1"))));
        let (one, _first) = start_with("one", &head).await;
        let (two, _second) = start("two").await;
        let client = client_of(one, two).await;
        for _ in 0..PATIENCE {
            assert!(client.apiserver_version().await.is_err());
        }
        assert_eq!(client.apiserver_version().await.unwrap().git_version, "two");
    }

    #[tokio::test]
    async fn the_next_server_is_asked_when_one_is_away_and_the_first_again_after_the_last() {
        let (one, first) = start("one").await;
        let (two, second) = start("two").await;
        let client = client_of(one, two).await;
        let version = async || client.apiserver_version().await.map(|info| info.git_version).ok();
        assert_eq!(version().await.as_deref(), Some("one"));
        assert_eq!(version().await.as_deref(), Some("one"));
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        assert_eq!(version().await, None, "no call is sent twice");
        assert_eq!(version().await.as_deref(), Some("two"));
        let again = TcpListener::bind(one).await.unwrap();
        let _again = tokio::spawn(serve(again, "again", Arc::new(Mutex::new((200, None)))));
        assert_eq!(version().await.as_deref(), Some("two"), "the one that answers stays");
        second.abort();
        assert!(second.await.unwrap_err().is_cancelled());
        assert_eq!(version().await, None);
        assert_eq!(version().await.as_deref(), Some("again"));
    }
}
