//! A small HTTP server for probes, scrapes and debug pages.
//!
//! It is reachable by anybody who reaches the node, so everything has a bound: connections, in all and from one
//! address (see `places`), the size of a request's head, the time for it, the time for the whole exchange. A connection
//! serves one request, as upstream's servers do (`Connection: close`).

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Error, Result,
    places::{Client, PLACES_IN_ALL, Places},
};

/// Connections that were told to end and have not yet.
const ENDING_MAX: usize = 8;
/// Size of a request's head in bytes.
const HEAD_MAX: usize = 16 << 10;
/// Header fields of a request.
const HEADERS_MAX: usize = 64;
/// Time for a request's head.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// Time for a whole exchange; longer than a scraper waits.
const EXCHANGE_WITHIN: Duration = Duration::from_secs(15);
/// Time for the exchanges under way at a stop.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// Pause after a connection could not be accepted, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Listens on `address`; on `[::]` also for IPv4, and only for IPv4 where the machine has no IPv6.
///
/// # Errors
///
/// [`Error::Listen`]
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    let listener = match TcpListener::bind(address).await {
        Err(error) if address.ip().is_unspecified() && address.is_ipv6() && lacks_ipv6(&error) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        other => other,
    };
    listener.map_err(|source| Error::Listen { address, source })
}

fn lacks_ipv6(error: &io::Error) -> bool {
    // EAFNOSUPPORT has no kind of its own.
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(97)
}

/// Serves until `stop`, then lets the exchanges under way end.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let (mut connections, mut places) = (JoinSet::new(), Places::default());
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next_with_id() => {
                let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                places.leave(|held: &AbortHandle| held.id() == id);
            }
            accepted = listener.accept(), if connections.len() < PLACES_IN_ALL + ENDING_MAX => match accepted {
                Ok((stream, peer)) => {
                    // Who is gone already takes no place.
                    let Ok(local) = stream.local_addr() else { continue };
                    let client = Client::new(peer.ip(), local.ip());
                    if let Some(oldest) = places.make_room(client) {
                        oldest.abort();
                    }
                    places.take(client, connections.spawn(exchange(stream, router.clone())));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let ending = async { while connections.join_next().await.is_some() {} };
    // What has not ended by then is cut off with the set.
    drop(timeout(STOP_WITHIN, ending).await);
}

async fn exchange(stream: TcpStream, router: Router) {
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match timeout(EXCHANGE_WITHIN, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "exchange failed"),
        Err(_) => tracing::debug!("exchange took too long"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{health, metrics::Metrics};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpSocket,
    };

    /// A server on a free port of the loopback interface.
    struct Serving {
        address: SocketAddr,
        stop: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    impl Drop for Serving {
        fn drop(&mut self) {
            self.stop.cancel();
            self.task.abort();
        }
    }

    async fn start() -> Serving {
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let router = health::router(health::Health::new(), Metrics::new());
        Serving { address, task: tokio::spawn(serve(listener, router, stop.clone())), stop }
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A server that refuses a request may reset the connection after its answer.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn answers_and_closes() {
        let serving = start().await;
        let answer = ask(serving.address, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
    }

    /// Connects from the loopback address with this last part.
    async fn connect_from(last: u8, serving: &Serving) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into()).unwrap();
        socket.connect(serving.address).await.unwrap()
    }

    /// Whether this connection is answered before those that are held have run out of time.
    async fn is_answered(mut stream: TcpStream) -> bool {
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        let read = timeout(HEAD_WITHIN / 2, stream.read_to_string(&mut answer)).await;
        read.is_ok() && answer.starts_with("HTTP/1.1 200")
    }

    #[tokio::test]
    async fn whoever_holds_connections_keeps_nobody_out() {
        let serving = start().await;
        for (holders, each) in [(2..=2, 2 * PLACES_IN_ALL), (2..=9, PLACES_IN_ALL / 9), (2..=200, 1)] {
            let mut held = Vec::new();
            for last in holders.flat_map(|last| vec![last; each]) {
                held.push(connect_from(last, &serving).await);
            }
            assert!(is_answered(connect_from(1, &serving).await).await, "the node, {} held", held.len());
            assert!(is_answered(connect_from(201, &serving).await).await, "another, {} held", held.len());
            assert!(is_answered(connect_from(2, &serving).await).await, "a holder, {} held", held.len());
        }
    }

    #[tokio::test]
    async fn refuses_what_is_too_large() {
        let serving = start().await;
        let many = "A: b\r\n".repeat(HEADERS_MAX + 1);
        let large = format!("A: {}\r\n", "b".repeat(2 * HEAD_MAX));
        for head in [many, large] {
            let answer = ask(serving.address, &format!("GET /livez HTTP/1.1\r\n{head}\r\n")).await;
            assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        let answer = ask(serving.address, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "still serves: {answer}");
    }

    #[tokio::test]
    async fn stops_when_told() {
        let mut serving = start().await;
        serving.stop.cancel();
        timeout(Duration::from_secs(10), &mut serving.task).await.unwrap().unwrap();
        assert!(TcpStream::connect(serving.address).await.is_err());
    }

    #[tokio::test]
    async fn says_which_address_is_taken() {
        let serving = start().await;
        let error = bind(serving.address).await.unwrap_err();
        assert_eq!(error.to_string(), format!("cannot listen on {}", serving.address));
    }
}
