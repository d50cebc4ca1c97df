//! The watch against an API server in the process, on paused time.

use std::sync::Mutex;

use kuryr_testkit::api_server::{ApiServer, Fault, Streaming};
use serde_json::json;

use super::*;
use crate::{slim::Pod, store::Presence};

const PODS: &str = "/api/v1/namespaces/d/pods";

/// A running watch and what it has told.
struct Watching {
    store: Store<Pod>,
    told: Arc<Mutex<Vec<String>>>,
    stop: CancellationToken,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Watching {
    fn start(fake: &ApiServer, config: WatchConfig) -> Self {
        let (store, watch) = watch(Api::<Pod>::all(fake.client()), WatchConfig { seed: Some(1), ..config });
        let (told, stop) = (Arc::new(Mutex::new(Vec::new())), CancellationToken::new());
        let (log, seen) = (Arc::clone(&told), store.clone());
        tokio::spawn(watch.run(stop.clone(), move |change: &Change<Pod>| {
            log.lock().unwrap().push(words(change, &seen));
        }));
        Self { store, told, stop }
    }

    /// What was told since the last call.
    fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

/// Names a change; `!` where the store is not yet in the state that the change speaks of.
fn words(change: &Change<Pod>, store: &Store<Pod>) -> String {
    let name = |pod: &Pod| pod.pod_ref().name;
    let stored = |pod: &Arc<Pod>| {
        let behind = store.get(&ObjectKey::of(pod.as_ref())).is_none_or(|found| !Arc::ptr_eq(&found, pod));
        format!("{}{}", name(pod), if behind { "!" } else { "" })
    };
    match change {
        Change::Applied { new, .. } => format!("+{}", stored(new)),
        Change::Deleted { old } => format!("-{}", name(old)),
        Change::Reset { changed, removed } => {
            let changed = changed.iter().map(|(new, _)| format!("+{}", stored(new)));
            let removed = removed.iter().map(|old| format!("-{}", name(old)));
            format!("reset {}", changed.chain(removed).collect::<Vec<_>>().join(" "))
        }
        Change::Replaced => "replaced".to_owned(),
    }
}

fn put(fake: &ApiServer, name: &str) {
    fake.put(&format!("{PODS}/{name}"), json!({"spec": {"nodeName": "n1"}}));
}

/// Long enough for everything that is under way, shorter than a silence.
async fn settle() {
    sleep(Duration::from_secs(40)).await;
}

#[tokio::test(start_paused = true)]
async fn lists_and_follows_in_every_way_of_listing() {
    for (streaming, asks) in [
        (Streaming::Allowed, vec!["sendInitialEvents"]),
        (Streaming::Refused, vec!["sendInitialEvents", "limit=2", "continue=2", "watch=true"]),
        (Streaming::Ignored, vec!["sendInitialEvents", "limit=2", "continue=2", "watch=true"]),
    ] {
        let fake = ApiServer::new(streaming);
        ["a", "b", "c"].iter().for_each(|name| put(&fake, name));
        let watching = Watching::start(&fake, WatchConfig { page_size: 2, ..WatchConfig::default() });
        assert!(watching.store.wait_synced(Instant::now() + Duration::from_secs(90)).await, "{streaming:?}");
        settle().await;
        put(&fake, "d");
        put(&fake, "a");
        fake.remove(&format!("{PODS}/b"));
        settle().await;
        assert_eq!(watching.told(), ["reset +a +b +c", "+d", "+a", "-b"], "{streaming:?}");
        let requests = fake.requests();
        assert_eq!(requests.len(), asks.len(), "{streaming:?} {requests:?}");
        for (request, part) in requests.iter().zip(asks) {
            assert!(request.contains(part), "{streaming:?} {requests:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn asks_for_a_consistent_list_and_for_the_selected_objects_only() {
    let fake = ApiServer::new(Streaming::Allowed);
    for (name, node, label) in [("a", "n1", "y"), ("b", "n2", "y"), ("c", "n1", "z")] {
        let pod = json!({"metadata": {"labels": {"x": label}}, "spec": {"nodeName": node}});
        fake.put(&format!("{PODS}/{name}"), pod);
    }
    let config = WatchConfig::default().fields("spec.nodeName=n1").labels("x=y");
    let watching = Watching::start(&fake, config);
    settle().await;
    assert_eq!(watching.told(), ["reset +a"]);
    let request = fake.requests().remove(0);
    for part in ["fieldSelector=spec.nodeName%3Dn1", "labelSelector=x%3Dy", "allowWatchBookmarks=true"] {
        assert!(request.contains(part), "{request}");
    }
    assert!(request.ends_with("&resourceVersion="), "most recent, not cached: {request}");
}

#[tokio::test(start_paused = true)]
async fn resumes_where_it_was_cut_and_misses_nothing() {
    let fake = ApiServer::new(Streaming::Allowed);
    put(&fake, "a");
    let watching = Watching::start(&fake, WatchConfig::default());
    settle().await;
    put(&fake, "b");
    settle().await;
    fake.cut();
    put(&fake, "c");
    fake.remove(&format!("{PODS}/a"));
    settle().await;
    assert_eq!(watching.told(), ["reset +a", "+b", "+c", "-a"]);
    assert!(fake.requests()[1..].iter().all(|request| !request.contains("sendInitialEvents")));
    assert!(watching.store.in_sync());
}

#[tokio::test(start_paused = true)]
async fn a_bookmark_moves_the_version_on() {
    let fake = ApiServer::new(Streaming::Allowed);
    let watching = Watching::start(&fake, WatchConfig::default());
    settle().await;
    fake.compact();
    fake.bookmark();
    settle().await;
    fake.cut();
    settle().await;
    let requests = fake.requests();
    assert_eq!(requests.len(), 2, "resumed after the bookmark, without a list: {requests:?}");
    assert_eq!(watching.told(), ["reset "]);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_gone_means_a_list_with_the_removed_objects() {
    for how in ["refused", "in the stream", "rolled back"] {
        let fake = ApiServer::new(Streaming::Allowed);
        put(&fake, "a");
        put(&fake, "b");
        let watching = Watching::start(&fake, WatchConfig::default());
        settle().await;
        if how == "in the stream" {
            let status = json!({"kind": "Status", "code": 410, "reason": "Expired"});
            fake.say(&json!({"type": "ERROR", "object": status}));
        }
        fake.cut();
        fake.remove(&format!("{PODS}/a"));
        put(&fake, "c");
        if how == "rolled back" {
            fake.roll_back();
        }
        fake.compact();
        settle().await;
        assert_eq!(watching.told(), ["reset +a +b", "reset +c -a"], "{how}");
        assert_eq!(watching.store.trouble(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_version_that_went_in_an_outage_is_no_reason_to_wait_once_more() {
    const FAILURES: usize = 8;
    let fake = ApiServer::new(Streaming::Allowed);
    let watching = Watching::start(&fake, WatchConfig::default());
    settle().await;
    let mut asked = 0;
    let _ = fake.requests();
    (0..FAILURES).for_each(|_| fake.fail("GET", Fault::Status(503)));
    fake.compact();
    fake.cut();
    // Ever more slowly, until the API server answers that the version is gone.
    while asked <= FAILURES {
        sleep(Duration::from_millis(50)).await;
        asked += fake.requests().len();
    }
    assert!(!watching.store.in_sync());
    sleep(WatchConfig::default().backoff.first).await;
    assert!(watching.store.in_sync());
}

#[tokio::test(start_paused = true)]
async fn versions_that_are_gone_after_every_list_are_listed_ever_more_slowly() {
    const LOSSES: usize = 40;
    let fake = ApiServer::new(Streaming::Allowed);
    (0..LOSSES).for_each(|_| fake.fail("watch=true", Fault::Status(410)));
    let config = WatchConfig { streaming: false, ..WatchConfig::default() };
    let watching = Watching::start(&fake, config.clone());
    let lists = || fake.requests().iter().filter(|request| !request.contains("watch=true")).count();
    sleep(Duration::from_secs(60)).await;
    let in_a_minute = lists();
    assert!((5..=11).contains(&in_a_minute), "{in_a_minute} lists in a minute");
    while !watching.store.in_sync() || fake.open_watches() == 0 {
        sleep(Duration::from_secs(1)).await;
    }
    // What was lost long ago slows nothing down.
    sleep(2 * config.backoff.most).await;
    fake.compact();
    fake.cut();
    let _ = fake.requests();
    sleep(TOO_SHORT + 2 * config.backoff.first).await;
    assert_eq!(lists(), 1);
    assert!(watching.store.in_sync());
}

#[tokio::test(start_paused = true)]
async fn silence_puts_the_store_out_of_sync_and_leads_to_a_list() {
    let fake = ApiServer::new(Streaming::Allowed);
    put(&fake, "a");
    let watching = Watching::start(&fake, WatchConfig::default());
    settle().await;
    let _ = fake.requests();
    let absent = ObjectKey::namespaced("d", "z");
    assert_eq!(watching.store.presence(&absent), Presence::Absent);

    // Nothing gets through any more, and the API server does not even say so.
    for _ in 0..4 {
        fake.fail("watch", Fault::Hang);
    }
    sleep(Duration::from_secs(60)).await;
    assert!(!watching.store.in_sync());
    assert_eq!(watching.store.presence(&absent), Presence::Unknown);
    assert!(watching.store.get(&ObjectKey::namespaced("d", "a")).is_some(), "still readable");
    fake.remove(&format!("{PODS}/a"));
    while !watching.store.in_sync() {
        sleep(Duration::from_secs(1)).await;
    }
    assert!(fake.requests().last().is_some_and(|request| request.contains("sendInitialEvents")));
    assert_eq!(watching.told(), ["reset +a", "reset -a"]);
}

#[tokio::test(start_paused = true)]
async fn between_two_streams_the_store_is_in_sync_and_is_told_nothing() {
    for streaming in [Streaming::Allowed, Streaming::Refused] {
        let fake = ApiServer::new(streaming);
        let watching = Watching::start(&fake, WatchConfig::default());
        settle().await;
        let first = watching.store.told_since().expect("a list was had, and a stream is open");
        fake.cut();
        settle().await;
        assert_eq!(watching.store.told_since(), Some(first), "{streaming:?}: the next one was there at once");
        fake.fail("watch", Fault::Hang);
        fake.cut();
        sleep(Duration::from_secs(5)).await;
        assert!(watching.store.in_sync(), "{streaming:?}");
        assert_eq!(watching.store.told_since(), None, "{streaming:?}");
        let ended = Instant::now();
        settle().await;
        assert!(watching.store.told_since().is_some_and(|since| since > ended), "{streaming:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn bookmarks_keep_a_quiet_watch_in_sync() {
    let fake = ApiServer::new(Streaming::Allowed);
    let watching = Watching::start(&fake, WatchConfig::default());
    for _ in 0..10 {
        sleep(Duration::from_secs(60)).await;
        fake.bookmark();
        sleep(Duration::from_secs(1)).await;
        assert!(watching.store.in_sync());
    }
    assert_eq!(fake.requests().len(), 1);
}

/// The API server has nothing to put into a bookmark while no object of the kind changes.
#[tokio::test(start_paused = true)]
async fn a_watch_without_events_and_bookmarks_is_opened_anew_and_stays_in_sync() {
    let fake = ApiServer::new(Streaming::Allowed);
    put(&fake, "a");
    let watching = Watching::start(&fake, WatchConfig::default());
    settle().await;
    for _ in 0..600 {
        sleep(Duration::from_secs(1)).await;
        assert!(watching.store.in_sync() && watching.store.trouble().is_none());
    }
    put(&fake, "b");
    settle().await;
    assert_eq!(watching.told(), ["reset +a", "+b"]);
    let requests = fake.requests();
    assert!((8..=12).contains(&requests.len()), "{requests:?}");
    assert!(requests[1..].iter().all(|request| !request.contains("sendInitialEvents")), "{requests:?}");
    assert_eq!(fake.open_watches(), 1);
}

#[tokio::test(start_paused = true)]
async fn failures_are_told_and_tried_again_ever_more_slowly() {
    let fake = ApiServer::new(Streaming::Allowed);
    for _ in 0..20 {
        fake.fail("GET", Fault::Status(403));
    }
    let watching = Watching::start(&fake, WatchConfig::default());
    sleep(Duration::from_secs(60)).await;
    let tries = fake.requests().len();
    assert!((5..=11).contains(&tries), "{tries} tries in a minute");
    assert!(watching.store.trouble().is_some_and(|why| why.contains("watch Pod: forbidden")));
    sleep(Duration::from_secs(600)).await;
    assert!(watching.store.synced() && watching.store.trouble().is_none(), "recovers by itself");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_accepts_and_closes_is_not_asked_in_a_tight_loop() {
    let fake = ApiServer::new(Streaming::Allowed);
    let _watching = Watching::start(&fake, WatchConfig::default());
    settle().await;
    let _ = fake.requests();
    for _ in 0..6000 {
        fake.cut();
        sleep(Duration::from_millis(10)).await;
    }
    let tries = fake.requests().len();
    assert!(tries <= 12, "{tries} tries in a minute");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_does_not_hide_the_others() {
    for streaming in [Streaming::Allowed, Streaming::Refused] {
        let fake = ApiServer::new(streaming);
        let odd = json!({"spec": {"hostNetwork": "perhaps"}});
        fake.put(&format!("{PODS}/a"), odd.clone());
        put(&fake, "b");
        let watching = Watching::start(&fake, WatchConfig::default());
        settle().await;
        fake.put(&format!("{PODS}/b"), odd);
        put(&fake, "c");
        settle().await;
        assert_eq!(watching.told(), ["reset +b", "+c"], "{streaming:?}");
        let presence = |name: &str| watching.store.presence(&ObjectKey::namespaced("d", name));
        assert_eq!(presence("a"), Presence::Unknown);
        assert!(matches!(presence("b"), Presence::Present(_)), "as it was last readable");
        assert_eq!(watching.store.undecodable().len(), 2);
        put(&fake, "a");
        fake.remove(&format!("{PODS}/b"));
        settle().await;
        assert_eq!(watching.told(), ["+a", "-b"]);
        assert!(watching.store.undecodable().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn stops_and_lets_go_of_the_connection() {
    let fake = ApiServer::new(Streaming::Allowed);
    let watching = Watching::start(&fake, WatchConfig::default());
    settle().await;
    assert_eq!(fake.open_watches(), 1);
    drop(watching);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(fake.open_watches(), 0);
}

#[tokio::test(start_paused = true)]
async fn is_a_stream_as_well() {
    let fake = ApiServer::new(Streaming::Allowed);
    put(&fake, "a");
    let (_, watch) = watch(Api::<Pod>::all(fake.client()), WatchConfig::default());
    let mut stream = std::pin::pin!(watch.into_stream());
    let first = stream.next().await.unwrap();
    assert_eq!(first.touched().count(), 1);
    put(&fake, "a");
    assert_eq!(stream.next().await.unwrap().touched().count(), 2, "old and new");
}
