//! The API server, as programs reach it: with faults, and under the eyes of the rules.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, request::Parts};
use http_body_util::{BodyExt, Full, StreamBody};
use kube::{Client, client::Body};
use kuryr_testkit::api_server::Answer;
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};
use tower::BoxError;

use crate::{
    clocks::machine_of,
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
    let is_watch = parts.uri.query().is_some_and(|query| query.contains("watch=true"));
    let line = format!("{} {}", if is_watch { "WATCH" } else { parts.method.as_str() }, parts.uri.path());
    let side = if is_watch { world.faults.watch_side() } else { Side::Kubernetes };
    let is_down = is_down_now(&world);
    let met = if is_about_lease(&parts) {
        world.faults.meet_about_lease(&caller, &line, changes, is_routine(&world, &caller, &parts, &body))
    } else {
        world.faults.meet(&caller, side, &line, changes)
    };
    let answer = match met {
        Meets::Dead | Meets::Fault(Fault::KillBefore | Fault::Unanswered) => return hang().await,
        _ if is_down => return Err(broken()),
        Meets::Nothing => carry_out(&world, (&caller, false), &parts, &body),
        Meets::Fault(Fault::Jumps(hours)) => {
            world.jump(machine_of(&caller), hours);
            carry_out(&world, (&caller, false), &parts, &body)
        }
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
        Meets::Fault(Fault::Late(0)) => {
            drop(carry_out(&world, (&caller, false), &parts, &body));
            return hang().await;
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
        Meets::Stalled(until) => {
            let (of, (tell, told)) = (Arc::clone(&world), oneshot::channel());
            world.spawn(async move {
                sleep_until(until).await;
                of.note(format!("at last: {line}"));
                if !is_down_now(&of) {
                    let _ = tell.send(carry_out(&of, (&caller, true), &parts, &body));
                }
            });
            told.await.map_err(|_| broken())?
        }
        Meets::Fault(Fault::Lagging(seconds)) if is_watch => {
            lagging(&world, carry_out(&world, (&caller, false), &parts, &body), seconds)
        }
        Meets::Fault(Fault::Mute) if is_watch && may_be_mute(&caller, &line) => {
            let begins = parts.uri.query().is_some_and(|query| query.contains("sendInitialEvents=true"));
            muted(carry_out(&world, (&caller, false), &parts, &body), begins)
        }
        Meets::Fault(Fault::Lagging(_) | Fault::Mute | Fault::Stalled(_)) => {
            carry_out(&world, (&caller, false), &parts, &body)
        }
        Meets::Fault(Fault::Refused(status)) => refused(status),
        // None of this side.
        Meets::Fault(Fault::Fails | Fault::Torn | Fault::Slow(_) | Fault::Stuck | Fault::HalfMade) => {
            refused(500)
        }
    };
    sleep(back).await;
    Ok(answer)
}

fn is_about_lease(parts: &Parts) -> bool {
    parts.uri.path().contains("/leases")
}

/// Whether a call is one that is made every two seconds: who leads renews, who does not looks. To take the Lease, to give it back and
/// to record an epoch there is none.
fn is_routine(world: &World, caller: &Caller, parts: &Parts, body: &Bytes) -> bool {
    let there = world.api.get(parts.uri.path()).unwrap_or_default();
    let (mine, epoch) = (json!(caller.name()), |lease: &Value| lease["metadata"]["annotations"].clone());
    let leads = there["spec"]["holderIdentity"] == mine;
    if parts.method == Method::GET {
        return !leads;
    }
    let wanted: Value = serde_json::from_slice(body).unwrap_or_default();
    leads && wanted["spec"]["holderIdentity"] == mine && epoch(&wanted) == epoch(&there)
}

fn is_down_now(world: &World) -> bool {
    world.state().api_down_until > Instant::now()
}

/// Addresses rest for longer than a watch lags here, and for less than it takes a controller to notice that one is mute: that
/// of pods and of their endpoints tells what they rest for.
fn may_be_mute(caller: &Caller, line: &str) -> bool {
    let refers = line.ends_with("/pods") || line.ends_with("/endpointslices");
    !(refers && caller.name().starts_with("controller"))
}

/// The lines of a watch, each of them so many seconds late.
fn lagging(world: &World, answer: Response<Answer>, seconds: u16) -> Response<Answer> {
    let (parts, mut lines) = answer.into_parts();
    let (late, due) = mpsc::unbounded_channel();
    world.spawn(async move {
        while let Some(Ok(line)) = lines.frame().await {
            let at = Instant::now() + Duration::from_secs(seconds.into());
            if late.send((at, line)).is_err() {
                return;
            }
        }
    });
    let lines = futures::stream::unfold(due, |mut due| async move {
        let (at, line) = due.recv().await?;
        sleep_until(at).await;
        Some((Ok::<_, Infallible>(line), due))
    });
    Response::from_parts(parts, StreamBody::new(lines).boxed_unsync())
}

/// A watch that says nothing after its list, if it begins with one.
fn muted(answer: Response<Answer>, begins: bool) -> Response<Answer> {
    let (parts, lines) = answer.into_parts();
    let lines = futures::stream::unfold((lines, begins), |(mut lines, goes_on)| async move {
        if !goes_on {
            std::future::pending::<()>().await;
        }
        let line = lines.frame().await?;
        let text = line.as_ref().ok().and_then(|line| line.data_ref()).cloned().unwrap_or_default();
        let ends = String::from_utf8_lossy(&text).contains("initial-events-end");
        Some((line, (lines, !ends)))
    });
    Response::from_parts(parts, StreamBody::new(lines).boxed_unsync())
}

async fn hang() -> Result<Response<Answer>, BoxError> {
    std::future::pending().await
}

fn broken() -> BoxError {
    io::Error::from(io::ErrorKind::ConnectionReset).into()
}

fn refused(code: u16) -> Response<Answer> {
    let reason = match code {
        401 => "Unauthorized",
        409 => "Conflict",
        410 => "Expired",
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
    if parts.method == Method::PATCH {
        world.judge_patch(caller.0, &path, before.as_ref(), body);
    }
    if before != after {
        // What people are told goes on as long as it is so.
        if !path.contains("/leases/") && !path.contains("/events/") {
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
