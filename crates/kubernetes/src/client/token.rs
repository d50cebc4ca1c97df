//! Our bearer token, read from a file that somebody else renews.
//!
//! A projected service account token is replaced long before it ends. The file is read again when the cached
//! text is older than [`FRESH`], and at once after the API server has refused us. While the file cannot be read
//! the last token stays in use.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, StatusCode, header::AUTHORIZATION};
use tokio::time::Instant;
use tower::{BoxError, Layer, Service};

use crate::{Error, Result};

/// How long a token is used without looking at the file. The file is small and local, so this is short.
const FRESH: Duration = Duration::from_secs(10);

/// Puts the token into every request.
#[derive(Debug, Clone)]
pub(super) struct TokenLayer {
    token: Arc<Token>,
}

impl TokenLayer {
    /// Reads the token for the first time.
    pub(super) fn new(path: PathBuf) -> Result<Self> {
        let header = read(&path)?;
        let cached = Mutex::new(Cached { header, read_at: Some(Instant::now()) });
        Ok(Self { token: Arc::new(Token { path, cached }) })
    }
}

impl<S> Layer<S> for TokenLayer {
    type Service = WithToken<S>;

    fn layer(&self, inner: S) -> Self::Service {
        WithToken { inner, token: Arc::clone(&self.token) }
    }
}

/// See [`TokenLayer`].
#[derive(Debug, Clone)]
pub(super) struct WithToken<S> {
    inner: S,
    token: Arc<Token>,
}

impl<S, B, C> Service<Request<B>> for WithToken<S>
where
    S: Service<Request<B>, Response = Response<C>, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<C>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<C>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        request.headers_mut().insert(AUTHORIZATION, self.token.header());
        let token = Arc::clone(&self.token);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            if answer.status() == StatusCode::UNAUTHORIZED {
                token.distrust();
            }
            Ok(answer)
        })
    }
}

#[derive(Debug)]
struct Token {
    path: PathBuf,
    cached: Mutex<Cached>,
}

/// The header is marked sensitive: it prints as `Sensitive`.
#[derive(Debug)]
struct Cached {
    header: HeaderValue,
    /// None: not to be trusted.
    read_at: Option<Instant>,
}

impl Token {
    fn header(&self) -> HeaderValue {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.read_at.is_none_or(|at| at.elapsed() > FRESH) {
            match read(&self.path) {
                Ok(header) => cached.header = header,
                Err(error) => tracing::warn!(%error, "keeping the last token"),
            }
            cached.read_at = Some(Instant::now());
        }
        cached.header.clone()
    }

    fn distrust(&self) {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner).read_at = None;
    }
}

fn read(path: &Path) -> Result<HeaderValue> {
    let text =
        std::fs::read_to_string(path).map_err(|source| Error::ReadFile { path: path.to_owned(), source })?;
    let token = text.trim();
    let no_token = || Error::BadFile { path: path.to_owned(), expected: "token" };
    if token.is_empty() {
        return Err(no_token());
    }
    let mut header = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| no_token())?;
    header.set_sensitive(true);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower::ServiceExt as _;

    /// What the API server sees, and what it answers.
    async fn ask(layer: &TokenLayer, answer: StatusCode) -> String {
        let service = tower::service_fn(move |request: Request<()>| async move {
            let seen = request.headers().get(AUTHORIZATION).cloned().unwrap();
            Ok::<_, BoxError>(Response::builder().status(answer).body(seen).unwrap())
        });
        let response = layer.layer(service).oneshot(Request::new(())).await.unwrap();
        response.into_body().to_str().unwrap().to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn follows_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "one\n").unwrap();
        let layer = TokenLayer::new(path.clone()).unwrap();
        assert_eq!(ask(&layer, StatusCode::OK).await, "Bearer one");

        std::fs::write(&path, "two").unwrap();
        assert_eq!(ask(&layer, StatusCode::OK).await, "Bearer one", "still fresh");
        tokio::time::advance(FRESH * 2).await;
        assert_eq!(ask(&layer, StatusCode::OK).await, "Bearer two");

        std::fs::write(&path, "three").unwrap();
        assert_eq!(ask(&layer, StatusCode::UNAUTHORIZED).await, "Bearer two");
        assert_eq!(ask(&layer, StatusCode::OK).await, "Bearer three", "read again after a refusal");

        std::fs::remove_file(&path).unwrap();
        tokio::time::advance(FRESH * 2).await;
        assert_eq!(ask(&layer, StatusCode::OK).await, "Bearer three", "the last one stays in use");
    }

    #[test]
    fn does_not_print_the_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "hush").unwrap();
        assert!(!format!("{:?}", TokenLayer::new(path).unwrap()).contains("hush"));
    }
}
