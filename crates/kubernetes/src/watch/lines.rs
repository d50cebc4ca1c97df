//! A watch answer as a stream of lines.
//!
//! Each line is one event. A line has a bound, so that a broken proxy cannot fill the memory.

use std::{io, pin::Pin};

use futures::{Stream, StreamExt, TryStreamExt};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use kube::{Client, client::Body, core::Status};
use tokio_util::{
    codec::{FramedRead, LinesCodec, LinesCodecError},
    io::StreamReader,
};

/// Longest line in bytes: etcd holds objects of at most 1.5 MB, JSON makes them a little longer.
const LINE_MAX: usize = 8 << 20;
/// Longest refusal in bytes.
const REFUSAL_MAX: usize = 1 << 20;

/// The lines of an open watch.
pub(super) type Lines = Pin<Box<dyn Stream<Item = io::Result<String>> + Send>>;

/// Asks, and returns the lines once the API server has accepted.
pub(super) async fn open(client: &Client, request: Request<Vec<u8>>) -> Result<Lines, kube::Error> {
    let answer = client.send(request.map(Body::from)).await?;
    let code = answer.status();
    if !code.is_success() {
        return Err(refusal(code, answer.into_body()).await);
    }
    let bytes = answer.into_body().into_data_stream().map_err(io::Error::other);
    let lines = FramedRead::new(StreamReader::new(bytes), LinesCodec::new_with_max_length(LINE_MAX));
    Ok(lines.map(|line| line.map_err(as_io)).boxed())
}

async fn refusal(code: StatusCode, body: Body) -> kube::Error {
    let bytes = match Limited::new(body, REFUSAL_MAX).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) => return kube::Error::Service(error),
    };
    let status = serde_json::from_slice::<Status>(&bytes).unwrap_or_else(|_| {
        // A proxy in between answers with a page of its own.
        Status::failure(String::from_utf8_lossy(&bytes).trim(), "").with_code(code.as_u16())
    });
    kube::Error::Api(Box::new(status))
}

fn as_io(error: LinesCodecError) -> io::Error {
    match error {
        LinesCodecError::Io(error) => error,
        too_long @ LinesCodecError::MaxLineLengthExceeded => io::Error::other(too_long),
    }
}
