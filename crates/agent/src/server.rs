//! The socket that the CNI plugin calls.
//!
//! HTTP/1.1 with JSON bodies ([`kuryr_api::node`]), for root alone. The socket is made beside its place and renamed into
//! it, so that a stale one of a predecessor is replaced and nobody meets one with open permissions. It is bound only after
//! the checkpoint is locked: two agents never serve at once.
//!
//! A request runs as a task of its own. If the plugin goes away (its runtime has given up), the request is canceled and
//! ends in order.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
    time::Instant,
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use kuryr_api::{
    cni::Attachment,
    node::{self, CniRequest, GcRequest},
};
use serde::de::DeserializeOwned;
use tokio::net::UnixListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    error::{Error, Result},
    sandbox::Sandboxes,
};

/// Only root talks to the agent.
const SOCKET_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o755;

/// Binds the socket at `path`.
///
/// # Errors
///
/// `File` if the folder or the socket cannot be made.
pub(crate) fn bind(path: &Path) -> Result<UnixListener> {
    let failed = |step| move |source| Error::File { step, path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(FOLDER_MODE).create(folder).map_err(failed("make the folder of"))?;
    }
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed("replace")(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&beside).map_err(failed("bind"))?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed("restrict"))?;
    fs::rename(&beside, path).map_err(failed("publish"))?;
    Ok(listener)
}

/// Serves until `stop`, then lets requests under way end.
pub(crate) async fn serve(listener: UnixListener, sandboxes: Sandboxes, stop: CancellationToken) {
    // It tries again by itself where accepting fails, and never ends with an error.
    let _ = axum::serve(listener, router(sandboxes)).with_graceful_shutdown(stop.cancelled_owned()).await;
}

fn router(sandboxes: Sandboxes) -> Router {
    Router::new()
        .route(node::ADD_PATH, post(add))
        .route(node::DEL_PATH, post(del))
        .route(node::CHECK_PATH, post(check))
        .route(node::GC_PATH, post(gc))
        .route(node::STATUS_PATH, get(status))
        .layer(DefaultBodyLimit::max(node::MESSAGE_MAX))
        .with_state(sandboxes)
}

async fn add(State(sandboxes): State<Sandboxes>, body: Bytes) -> Response {
    let cancel = CancellationToken::new();
    let given_up = cancel.clone().drop_guard();
    answered(sandboxes, "ADD", given_up, move |sandboxes| async move {
        sandboxes.add(&read::<CniRequest>(&body)?, cancel).await
    })
    .await
}

async fn del(State(sandboxes): State<Sandboxes>, body: Bytes) -> Response {
    answered(sandboxes, "DEL", nothing_to_cancel(), |sandboxes| async move {
        sandboxes.del(&read::<CniRequest>(&body)?).await
    })
    .await
}

async fn check(State(sandboxes): State<Sandboxes>, body: Bytes) -> Response {
    answered(sandboxes, "CHECK", nothing_to_cancel(), |sandboxes| async move {
        sandboxes.check(&read::<CniRequest>(&body)?).await
    })
    .await
}

async fn gc(State(sandboxes): State<Sandboxes>, body: Bytes) -> Response {
    answered(sandboxes, "GC", nothing_to_cancel(), |sandboxes| async move {
        sandboxes.gc(&read::<GcRequest>(&body)?).await
    })
    .await
}

async fn status(State(sandboxes): State<Sandboxes>) -> Response {
    answered(sandboxes, "STATUS", nothing_to_cancel(), |sandboxes| async move { sandboxes.status() }).await
}

/// Does the work as a task of its own, answers and notes it. `given_up` is dropped with the connection.
async fn answered<T, F>(
    sandboxes: Sandboxes,
    verb: &'static str,
    given_up: DropGuard,
    work: impl FnOnce(Sandboxes) -> F,
) -> Response
where
    T: Answer + Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let started = Instant::now();
    let metrics = sandboxes.metrics.clone();
    let result = tokio::spawn(work(sandboxes)).await.unwrap_or(Err(Error::BrokenOff { what: verb }));
    drop(given_up.disarm());
    let code = result.as_ref().map_or_else(Error::code, |_| 0);
    metrics.answered(verb, code, started.elapsed());
    match result {
        Ok(value) => value.answer(),
        Err(error) => {
            tracing::warn!(verb, code, blame = ?error.blame(), "refused: {}", crate::error::with_causes(&error));
            refused(&error)
        }
    }
}

fn nothing_to_cancel() -> DropGuard {
    CancellationToken::new().drop_guard()
}

/// What a request is answered with.
trait Answer {
    fn answer(self) -> Response;
}

impl Answer for () {
    fn answer(self) -> Response {
        StatusCode::NO_CONTENT.into_response()
    }
}

impl Answer for Attachment {
    fn answer(self) -> Response {
        json(StatusCode::OK, &self)
    }
}

fn refused(error: &Error) -> Response {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json(status, &error.to_cni())
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Response {
    // These types always have a JSON form.
    let body = serde_json::to_vec(value).unwrap_or_default();
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|error| Error::Garbled { why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_only_root_may_call() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kuryr/agent.sock");
        drop(bind(&path).unwrap());
        let _second = bind(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, SOCKET_MODE);
        assert!(tokio::net::UnixStream::connect(&path).await.is_ok());
    }
}
