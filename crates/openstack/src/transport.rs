//! Bytes over the wire: the seam at which the cloud can be replaced, and the real thing.
//!
//! Everything above this file is exercised by tests and simulation as it is; only [`HyperTransport`] needs
//! a network. A transport sends a request once. It does not know tokens, deadlines or the meaning of a
//! status: the client sets a deadline around every exchange, so a transport that never answers is a timeout.
//!
//! [`HyperTransport`] speaks HTTP/1.1 only, as the services do (WSGI servers); with HTTP/2 a proxy in front of
//! them would get all calls on one connection. It does not use proxies from the environment.

use std::{
    fmt,
    future::Future,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use tower::{BoxError, Service};
use tracing::warn;

use crate::{credentials::Tls, error::Cause, error::Error};

/// Sends one HTTP request and returns its answer.
pub trait Transport: Send + Sync + fmt::Debug {
    /// Sends `request`, whose URI is absolute, once.
    ///
    /// # Errors
    /// [`TransportError`], which says whether the request may have reached the other side.
    fn call(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>>;
}

/// No answer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// No connection; nothing was sent.
    #[error("no connection")]
    Connect(#[source] Cause),
    /// The connection broke after the request may have been sent.
    #[error("the connection broke")]
    Lost(#[source] Cause),
    /// The answer is larger than is accepted.
    #[error("the answer is larger than {limit} bytes")]
    TooLarge {
        /// Bytes that are accepted.
        limit: usize,
    },
}

impl TransportError {
    /// A failure before anything was sent.
    #[must_use]
    pub fn connect(cause: impl Into<BoxError>) -> Self {
        Self::Connect(Arc::from(cause.into()))
    }

    /// A failure after the request may have been sent.
    #[must_use]
    pub fn lost(cause: impl Into<BoxError>) -> Self {
        Self::Lost(Arc::from(cause.into()))
    }
}

/// Bytes of an answer that are read. A page of 500 ports is about 1 MB.
const MAX_ANSWER: usize = 32 << 20;
/// How long an unused connection is kept: less than the 5 s after which Apache's `KeepAliveTimeout` closes
/// it, so that a request seldom meets a connection that is being closed.
const IDLE: Duration = Duration::from_secs(4);
/// Unused connections that are kept per service.
const MAX_IDLE_PER_HOST: usize = 32;

/// HTTP and HTTPS by hyper and rustls, over pooled connections.
pub struct HyperTransport {
    client: Client<ConnectWithin, Full<Bytes>>,
}

impl HyperTransport {
    /// Prepares connections with the certificates of `tls`; a connection, its TLS handshake included, must be
    /// there within `connect_timeout`.
    ///
    /// # Errors
    /// [`Error::Tls`] if a certificate or key file cannot be used.
    pub fn new(tls: &Tls, connect_timeout: Duration) -> Result<Self, Error> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls_config(tls)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        // hyper sends a request a second time only if none of it was written to the first connection, because
        // that had been closed while it waited in the pool. That is no retry in our sense.
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_IDLE_PER_HOST)
            .pool_timer(TokioTimer::new())
            .build(ConnectWithin { https, limit: connect_timeout });
        Ok(Self { client })
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, TransportError> {
        let answer = self.client.request(request.map(Full::new)).await.map_err(|error| {
            if error.is_connect() { TransportError::connect(error) } else { TransportError::lost(error) }
        })?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                TransportError::TooLarge { limit: MAX_ANSWER }
            } else {
                TransportError::Lost(Arc::from(error))
            }
        })?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}

impl Transport for HyperTransport {
    fn call(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>> {
        Box::pin(self.exchange(request))
    }
}

impl fmt::Debug for HyperTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HyperTransport")
    }
}

/// Connects within a limit that covers name resolution, TCP and TLS; hyper's own covers TCP only.
#[derive(Clone)]
struct ConnectWithin {
    https: HttpsConnector<HttpConnector>,
    limit: Duration,
}

type Connection = <HttpsConnector<HttpConnector> as Service<Uri>>::Response;

impl Service<Uri> for ConnectWithin {
    type Response = Connection;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Connection, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.https.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let limit = self.limit;
        let connecting = self.https.call(uri);
        Box::pin(
            async move { tokio::time::timeout(limit, connecting).await.map_err(|_| ConnectTimeout(limit))? },
        )
    }
}

#[derive(Debug, thiserror::Error)]
#[error("not connected within {0:?}")]
struct ConnectTimeout(Duration);

/// The crypto provider is named here and nowhere else, so no other crate's choice matters.
fn tls_config(tls: &Tls) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Tls { path: "rustls".into(), problem: error.to_string() })?;
    let builder = if tls.insecure {
        warn!(
            "certificates of the cloud are NOT verified (`insecure`): whoever sits between us and the cloud can \
             read and use our credentials"
        );
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate(provider)))
    } else if let Some(path) = &tls.cafile {
        builder.with_root_certificates(roots(path)?)
    } else {
        match builder.clone().with_native_roots() {
            Ok(builder) => builder,
            Err(error) => {
                warn!(%error, "the system has no CA certificates: https endpoints need `cafile`");
                builder.with_root_certificates(RootCertStore::empty())
            }
        }
    };
    match client_certificate(tls)? {
        None => Ok(builder.with_no_client_auth()),
        Some((path, chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| Error::Tls { path: path.to_owned(), problem: error.to_string() }),
    }
}

fn roots(path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| Error::Tls { path: path.to_owned(), problem: error.to_string() })?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let wrong = |problem: String| Error::Tls { path: path.to_owned(), problem };
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(error.to_string()))?;
    if found.is_empty() { Err(wrong("there is no PEM certificate in it".to_owned())) } else { Ok(found) }
}

type ClientCertificate<'a> = (&'a Path, Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_certificate(tls: &Tls) -> Result<Option<ClientCertificate<'_>>, Error> {
    let Some(path) = tls.certfile.as_deref() else { return Ok(None) };
    // As for python-requests, one file may hold both.
    let key_path = tls.keyfile.as_deref().unwrap_or(path);
    let key = PrivateKeyDer::from_pem_file(key_path)
        .map_err(|error| Error::Tls { path: key_path.to_owned(), problem: error.to_string() })?;
    Ok(Some((path, certificates(path)?, key)))
}

/// What `insecure` asks for: signatures are still checked, so that the connection is at least encrypted to
/// whoever answers.
#[derive(Debug)]
struct AcceptAnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let supported = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, supported)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let supported = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, supported)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, path::PathBuf};

    use tokio::{
        io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
        net::TcpListener,
        task::JoinSet,
    };
    use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

    use super::*;

    fn testdata(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
    }

    /// A server on the loopback for one answer per connection; it ends with the test.
    struct Server {
        address: SocketAddr,
        _tasks: JoinSet<()>,
    }

    impl Server {
        async fn start(answer: Vec<u8>, tls: Option<TlsAcceptor>) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let mut tasks = JoinSet::new();
            tasks.spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    // A client that refuses our certificate ends the handshake.
                    match &tls {
                        None => serve(stream, &answer).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &answer).await;
                            }
                        }
                    }
                }
            });
            Self { address, _tasks: tasks }
        }
    }

    async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8]) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        // The client may have gone; that is its business.
        let _ = stream.write_all(answer).await;
        let _ = stream.shutdown().await;
    }

    fn acceptor() -> TlsAcceptor {
        let key = PrivateKeyDer::from_pem_file(testdata("loopback.key")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(certificates(&testdata("loopback.pem")).unwrap(), key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    async fn get(tls: Tls, url: String) -> Result<Response<Bytes>, TransportError> {
        let transport = HyperTransport::new(&tls, Duration::from_secs(5)).unwrap();
        transport.call(Request::get(url).body(Bytes::new()).unwrap()).await
    }

    fn answer(body: &str) -> Vec<u8> {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    #[tokio::test]
    async fn an_answer_arrives_whole() {
        let server = Server::start(answer("hello"), None).await;
        let response = get(Tls::default(), format!("http://{}/v2.0", server.address)).await.unwrap();
        assert_eq!((response.status().as_u16(), response.body().as_ref()), (200, b"hello".as_slice()));
    }

    #[tokio::test]
    async fn a_failure_says_whether_the_request_may_have_arrived() {
        // Bound and dropped, so nobody listens there.
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let refused = get(Tls::default(), format!("http://{nobody}/")).await;
        assert!(matches!(refused, Err(TransportError::Connect(_))), "{refused:?}");

        let silent = Server::start(Vec::new(), None).await;
        let lost = get(Tls::default(), format!("http://{}/", silent.address)).await;
        assert!(matches!(lost, Err(TransportError::Lost(_))), "{lost:?}");

        let cut = Server::start(answer("hello")[..40].to_vec(), None).await;
        let lost = get(Tls::default(), format!("http://{}/", cut.address)).await;
        assert!(matches!(lost, Err(TransportError::Lost(_))), "{lost:?}");
    }

    #[tokio::test]
    async fn an_answer_that_is_too_large_is_not_read() {
        let mut head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", MAX_ANSWER + 1).into_bytes();
        head.resize(head.len() + MAX_ANSWER + 1, b' ');
        let server = Server::start(head, None).await;
        let result = get(Tls::default(), format!("http://{}/", server.address)).await;
        assert!(matches!(result, Err(TransportError::TooLarge { .. })), "{:?}", result.map(|_| ()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_does_not_come_ends_in_time() {
        // It listens, but never takes part in the TLS handshake.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        let error = get(Tls::default(), url).await.unwrap_err();
        let TransportError::Connect(cause) = error else { panic!("{error:?}") };
        let shown = format!("{cause:?}");
        assert!(shown.contains("ConnectTimeout(5s)"), "{shown}");
    }

    #[tokio::test]
    async fn certificates_are_checked_unless_told_otherwise() {
        let server = Server::start(answer("hello"), Some(acceptor())).await;
        let url = format!("https://localhost:{}/", server.address.port());
        let ours = Tls { cafile: Some(testdata("loopback.pem")), ..Tls::default() };
        let insecure = Tls { insecure: true, ..Tls::default() };
        for (tls, accepted) in [(Tls::default(), false), (ours, true), (insecure, true)] {
            let result = get(tls.clone(), url.clone()).await;
            assert_eq!(result.is_ok(), accepted, "{tls:?} {result:?}");
            if let Err(error) = result {
                assert!(format!("{error:?}").contains("UnknownIssuer"), "{error:?}");
            }
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let named = |tls: &Tls| HyperTransport::new(tls, Duration::from_secs(1)).unwrap_err().to_string();
        let key = testdata("loopback.key");
        let certificate = testdata("loopback.pem");
        for (tls, expect) in [
            (
                Tls { cafile: Some("/nonexistent/ca.pem".into()), ..Tls::default() },
                "/nonexistent/ca.pem: ".to_owned(),
            ),
            (
                Tls { cafile: Some(key.clone()), ..Tls::default() },
                format!("{}: there is no PEM certificate in it", key.display()),
            ),
            (
                Tls { certfile: Some(certificate.clone()), ..Tls::default() },
                format!("{}: ", certificate.display()),
            ),
        ] {
            let text = named(&tls);
            assert!(text.starts_with(&expect), "{text}");
        }
        let both = Tls { certfile: Some(certificate), keyfile: Some(key), ..Tls::default() };
        assert!(HyperTransport::new(&both, Duration::from_secs(1)).is_ok());
    }
}
