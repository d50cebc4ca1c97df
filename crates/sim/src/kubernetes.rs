//! The API server, as programs reach it: with faults, and under the eyes of the rules.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, request::Parts};
use http_body_util::{BodyExt, Full};
use kube::{Client, client::Body};
use kuryr_testkit::api_server::Answer;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tower::BoxError;

use crate::{
    faults::{Caller, Fault, Meets, Side},
    world::World,
};

/// How long a client waits for the connection that broke to be noticed.
const BREAKS_AFTER: Duration = Duration::from_millis(20);

/// A client of `caller`.
pub(crate) fn client(world: &Arc<World>, caller: &Caller) -> Client {
    let (world, caller) = (Arc::clone(world), caller.clone());
    let service = tower::service_fn(move |request: Request<Body>| {
        let (world, caller) = (Arc::clone(&world), caller.clone());
        async move { exchange(world, caller, request).await }
    });
    Client::new(service, "default")
}

async fn exchange(
    world: Arc<World>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response<Answer>, BoxError> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let changes = parts.method != Method::GET;
    let (there, back) = {
        let chance = &mut world.state().chance;
        (chance.millis(1, 4), chance.millis(1, 4))
    };
    sleep(there).await;
    let line = format!("{} {}", parts.method, parts.uri.path());
    let line = if parts.uri.query().is_some_and(|query| query.contains("watch=true")) {
        line.replace("GET", "WATCH")
    } else {
        line
    };
    let is_down = world.state().api_down_until > Instant::now();
    let answer = match world.faults.meet(&caller, Side::Kubernetes, &line, changes) {
        Meets::Dead | Meets::Fault(Fault::KillBefore | Fault::Unanswered) => return hang().await,
        _ if is_down => return Err(broken()),
        Meets::Nothing => carry_out(&world, (&caller, false), &parts, &body),
        Meets::Fault(Fault::KillAfter) => {
            drop(carry_out(&world, (&caller, false), &parts, &body));
            world.faults.kill(&caller);
            return hang().await;
        }
        Meets::Fault(Fault::Lost) => {
            drop(carry_out(&world, (&caller, false), &parts, &body));
            sleep(BREAKS_AFTER).await;
            return Err(broken());
        }
        Meets::Fault(Fault::Late(seconds)) => {
            let of = Arc::clone(&world);
            world.spawn(async move {
                sleep(Duration::from_secs(seconds.into())).await;
                of.note(format!("late: {line}"));
                drop(carry_out(&of, (&caller, true), &parts, &body));
            });
            return hang().await;
        }
        Meets::Fault(Fault::Refused(status)) => refused(status),
        // Not one of this side.
        Meets::Fault(Fault::Fails) => refused(500),
    };
    sleep(back).await;
    Ok(answer)
}

async fn hang() -> Result<Response<Answer>, BoxError> {
    std::future::pending().await
}

fn broken() -> BoxError {
    io::Error::from(io::ErrorKind::ConnectionReset).into()
}

fn refused(code: u16) -> Response<Answer> {
    let reason = match code {
        409 => "Conflict",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
                      "message": "injected", "details": {"retryAfterSeconds": 2}});
    let mut answer = Response::builder().status(code);
    if code == 429 {
        answer = answer.header("retry-after", "2");
    }
    answer.body(Full::from(body.to_string()).boxed_unsync()).unwrap()
}

/// The call's effect, late or not, and the rules' look at it.
fn carry_out(world: &World, caller: (&Caller, bool), parts: &Parts, body: &Bytes) -> Response<Answer> {
    let Some(path) = object(parts, body) else { return world.api.answer(parts, body) };
    let before = world.api.get(&path);
    let answer = world.api.answer(parts, body);
    let after = world.api.get(&path);
    if before != after {
        if !path.contains("/leases/") {
            world.state().changed = Instant::now();
        }
        world.note_write(caller, &path, before.as_ref(), after.as_ref());
        world.follow_service(&path, before.as_ref());
    }
    answer
}

/// The object that a request wants to change.
fn object(parts: &Parts, body: &Bytes) -> Option<String> {
    let path = parts.uri.path();
    match parts.method {
        Method::GET => None,
        Method::POST => {
            let value: Value = serde_json::from_slice(body).ok()?;
            Some(format!("{path}/{}", value["metadata"]["name"].as_str()?))
        }
        _ => Some(path.strip_suffix("/status").unwrap_or(path).to_owned()),
    }
}
