//! Candidates against an API server in the process, on paused time.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::sleep;

use super::*;
use kuryr_testkit::api_server::{ApiServer, Fault, Streaming};

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kuryr";

/// A candidate that runs.
struct Candidate {
    leadership: Leadership,
    stop: CancellationToken,
}

impl Drop for Candidate {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn start(fake: &ApiServer, identity: &str) -> Candidate {
    start_with(fake.client(), identity)
}

fn start_with(client: Client, identity: &str) -> Candidate {
    let config = LeaseConfig::new("kube-system", "kuryr", identity);
    let (elector, leadership) = elector(client, config).unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(elector.run(stop.clone()));
    Candidate { leadership, stop }
}

fn leaders(candidates: &[&Candidate]) -> Vec<bool> {
    candidates.iter().map(|candidate| candidate.leadership.is_leader_now()).collect()
}

async fn pass(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

fn holder(fake: &ApiServer) -> String {
    fake.get(LEASE).unwrap()["spec"]["holderIdentity"].as_str().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_the_other_follows_at_once_after_a_release() {
    let fake = ApiServer::new(Streaming::Allowed);
    let a = start(&fake, "a");
    pass(1).await;
    let b = start(&fake, "b");
    pass(60).await;
    assert_eq!(leaders(&[&a, &b]), [true, false]);
    assert_eq!(a.leadership.current(), Some(Term { number: 1, epoch: 0 }));
    a.stop.cancel();
    pass(3).await;
    assert_eq!(leaders(&[&a, &b]), [false, true]);
    assert_eq!(holder(&fake), "b");
    assert_eq!(*a.leadership.subscribe().borrow(), None);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_stops_before_another_begins() {
    let fake = ApiServer::new(Streaming::Allowed);
    let cut = Arc::new(AtomicBool::new(false));
    let a = start_with(fake.client_behind(Arc::clone(&cut)), "a");
    pass(5).await;
    let b = start(&fake, "b");
    pass(25).await;
    assert_eq!(leaders(&[&a, &b]), [true, false]);

    cut.store(true, Ordering::Relaxed);
    let (mut stopped, mut began) = (None, None);
    for tenth in 0..400 {
        match leaders(&[&a, &b])[..] {
            [true, true] => panic!("two leaders"),
            [false, true] => began = began.or(Some(tenth)),
            [false, false] => stopped = stopped.or(Some(tenth)),
            _ => {}
        }
        sleep(Duration::from_millis(100)).await;
    }
    let (stopped, began): (i32, i32) = (stopped.unwrap(), began.unwrap());
    assert!((80..=100).contains(&stopped), "10 s after a renewal that was sent up to 2 s before: {stopped}");
    assert!((150..=190).contains(&began), "15 s after the renewal was seen, plus a look: {began}");

    cut.store(false, Ordering::Relaxed);
    pass(60).await;
    assert_eq!(leaders(&[&a, &b]), [false, true], "back, and following");
}

#[tokio::test(start_paused = true)]
async fn an_epoch_is_recorded_and_found_by_the_next_leader() {
    let fake = ApiServer::new(Streaming::Allowed);
    let a = start(&fake, "a");
    pass(1).await;
    let term = a.leadership.current().unwrap();
    // Somebody touches the lease in between: the write meets a conflict first.
    let mut touched = fake.get(LEASE).unwrap();
    touched["metadata"]["labels"] = json!({"x": "y"});
    fake.put(LEASE, touched);
    a.leadership.record_epoch(&term, 4).await.unwrap();
    assert_eq!(fake.get(LEASE).unwrap()["metadata"]["annotations"][EPOCH_ANNOTATION], "4");
    assert_eq!(fake.get(LEASE).unwrap()["metadata"]["labels"]["x"], "y");
    let stale = a.leadership.record_epoch(&term, 3).await.unwrap_err();
    assert!(matches!(stale, Error::StaleEpoch { offered: 3, recorded: 4 }), "{stale}");
    a.stop.cancel();
    pass(1).await;
    assert!(matches!(a.leadership.record_epoch(&term, 5).await, Err(Error::NotLeader)));

    let b = start(&fake, "b");
    pass(1).await;
    assert_eq!(b.leadership.current(), Some(Term { number: 1, epoch: 4 }));
}

#[tokio::test(start_paused = true)]
async fn an_epoch_that_cannot_be_written_fails_with_the_term() {
    let fake = ApiServer::new(Streaming::Allowed);
    let a = start(&fake, "a");
    pass(1).await;
    let term = a.leadership.current().unwrap();
    for _ in 0..100 {
        fake.fail("PATCH", Fault::Status(500));
    }
    let began = Instant::now();
    assert!(matches!(a.leadership.record_epoch(&term, 4).await, Err(Error::NotLeader)));
    assert!(began.elapsed() <= Duration::from_secs(11));
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_is_lost_is_found_again() {
    let fake = ApiServer::new(Streaming::Allowed);
    fake.fail("POST", Fault::Lost);
    let a = start(&fake, "a");
    pass(4).await;
    assert!(!a.leadership.is_leader_now(), "unknown");
    pass(4).await;
    assert!(a.leadership.is_leader_now());
    fake.fail("PATCH", Fault::Lost);
    for _ in 0..120 {
        pass(1).await;
        assert!(a.leadership.is_leader_now(), "one lost renewal is no reason to stop");
    }
}

#[tokio::test(start_paused = true)]
async fn refuses_times_that_cannot_keep_leaders_apart() {
    let fake = ApiServer::new(Streaming::Allowed);
    let base = LeaseConfig::new("n", "l", unique_identity("host"));
    let seconds = Duration::from_secs;
    for config in [
        LeaseConfig { renew_deadline: seconds(15), ..base.clone() },
        LeaseConfig { retry_period: seconds(10), ..base.clone() },
        LeaseConfig { retry_period: seconds(0), ..base.clone() },
    ] {
        assert!(matches!(elector(fake.client(), config), Err(Error::LeaseTimes)));
    }
    assert_ne!(base.identity, unique_identity("host"));
}
