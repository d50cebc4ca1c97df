//! The objects of one watch, as last heard.
//!
//! Written by the watch only; read by everybody else without a call. An object is changed here before anybody
//! is told of the change, so a reader that was told always finds at least that state.
//!
//! *Synced* means that a complete list has arrived once. *In sync* means in addition that the watch has been
//! heard from within its silence bound and knows of no gap: only then does the absence of an object mean that
//! it does not exist ([`Presence`]). Between two streams a store may be in sync, as the next one will tell all that has
//! happened, and not know of it yet: since when it was told without a break is a question of its own.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use kube::Resource;
use kuryr_types::PodRef;
use tokio::time::{Instant, timeout_at};

use crate::{latest::Sender, slim::Pack, watch::Change};

/// A stream that is open again within this time continues the one before: what it has to tell is no later than what is on its
/// way anyway. API servers and proxies end streams all the time.
const BRIEF: Duration = Duration::from_secs(1);

/// The objects of one watch; clones share them.
pub struct Store<K> {
    shared: Arc<Shared<K>>,
}

/// Namespace and name of an object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Namespace; empty for a cluster-scoped object.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// Whether an object exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence<K> {
    /// It does, or did when last heard.
    Present(Arc<K>),
    /// It does not: a store in sync has no such object.
    Absent,
    /// Nothing can be said: the store is not in sync, or the object exists but could not be read.
    Unknown,
}

impl<K> Store<K> {
    /// An empty store that is out of sync after `silence` without word from the API server.
    #[must_use]
    pub fn new(silence: Duration) -> Self {
        Self::with(silence, None)
    }

    fn with(silence: Duration, packing: Option<Packing<K>>) -> Self {
        let contents = Contents {
            objects: BTreeMap::new(),
            undecodable: BTreeMap::new(),
            synced: false,
            gap: false,
            told_since: None,
            ended: None,
            last_contact: None,
            trouble: None,
        };
        let revision = Sender::new(Arc::new(0));
        Self { shared: Arc::new(Shared { contents: RwLock::new(contents), revision, silence, packing }) }
    }

    /// The object as last heard.
    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.read().objects.get(&Place::of(key)).and_then(|kept| self.shared.open(key, kept))
    }

    /// All objects in the order of their keys.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<K>> {
        let mut all = Vec::new();
        self.for_each(|object| all.push(Arc::clone(object)));
        all
    }

    /// Shows each object in the order of their keys; of those that are packed one at a time is whole. Nobody writes meanwhile.
    pub fn for_each(&self, mut show: impl FnMut(&Arc<K>)) {
        let contents = self.read();
        let all = contents.objects.iter().filter_map(|(place, kept)| self.shared.open(&place.key(), kept));
        all.for_each(|object| show(&object));
    }

    /// All keys in order.
    #[must_use]
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.read().objects.keys().map(Place::key).collect()
    }

    /// The number of objects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.read().objects.len()
    }

    /// Whether there are no objects.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.read().objects.is_empty()
    }

    /// Tells whether the object exists, as far as that can be known.
    #[must_use]
    pub fn presence(&self, key: &ObjectKey) -> Presence<K> {
        let contents = self.read();
        match contents.objects.get(&Place::of(key)) {
            Some(kept) => self.shared.open(key, kept).map_or(Presence::Unknown, Presence::Present),
            None if contents.undecodable.contains_key(key) => Presence::Unknown,
            None if contents.in_sync(self.shared.silence) => Presence::Absent,
            None => Presence::Unknown,
        }
    }

    /// Waits until the object exists and satisfies `predicate`, at most until `deadline`.
    pub async fn wait_for(
        &self,
        key: &ObjectKey,
        predicate: impl Fn(&K) -> bool,
        deadline: Instant,
    ) -> Option<Arc<K>> {
        self.wait_until(deadline, || self.get(key).filter(|object| predicate(object))).await
    }

    /// Whether a complete list has arrived.
    #[must_use]
    pub fn synced(&self) -> bool {
        self.read().synced
    }

    /// Waits for the first complete list, at most until `deadline`; tells whether it has arrived.
    pub async fn wait_synced(&self, deadline: Instant) -> bool {
        self.wait_until(deadline, || self.synced().then_some(())).await.is_some()
    }

    /// Whether what the store holds is what the API server holds, but for changes on their way.
    #[must_use]
    pub fn in_sync(&self) -> bool {
        self.read().in_sync(self.shared.silence)
    }

    /// Since when changes have been told as they happened; none while they are not. What came and went before that, nobody here
    /// may know of.
    #[must_use]
    pub fn told_since(&self) -> Option<Instant> {
        let contents = self.read();
        contents.told_since.filter(|_| !contents.has_ended())
    }

    /// When the watch was last heard from: a list, an event or a bookmark.
    #[must_use]
    pub fn last_contact(&self) -> Option<Instant> {
        self.read().last_contact
    }

    /// Why the watch does not get through at present; none while it does.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.read().trouble.clone()
    }

    /// Objects that exist but could not be read, with the reason.
    #[must_use]
    pub fn undecodable(&self) -> Vec<(ObjectKey, String)> {
        self.read().undecodable.iter().map(|(key, why)| (key.clone(), why.clone())).collect()
    }

    async fn wait_until<T>(&self, deadline: Instant, look: impl Fn() -> Option<T>) -> Option<T> {
        let mut revision = self.shared.revision.subscribe();
        loop {
            if let Some(found) = look() {
                return Some(found);
            }
            // The sender lives in `shared`, so only the deadline can end this with an error.
            timeout_at(deadline, revision.changed()).await.ok()?.ok()?;
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Contents<K>> {
        self.shared.contents.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Contents<K>> {
        self.shared.contents.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Pack> Store<K> {
    /// The same, which keeps its objects packed: each is unpacked when it is asked for.
    #[must_use]
    pub fn packed(silence: Duration) -> Self {
        Self::with(silence, Some(Packing { pack: K::pack, unpack: K::unpack }))
    }
}

/// What the watch does to the store; tests of other crates may stand in for it.
impl<K: Resource> Store<K> {
    /// Takes over an object that was added or modified.
    pub fn apply(&self, object: K) -> Change<K> {
        let key = ObjectKey::of(&object);
        let new = Arc::new(object);
        let mut contents = self.write();
        contents.heard();
        contents.undecodable.remove(&key);
        let old = contents.objects.insert(Place::of(&key), self.shared.keep(&new));
        drop(contents);
        self.tell();
        Change::Applied { new, old: old.and_then(|kept| self.shared.open(&key, &kept)) }
    }

    /// Drops an object that was deleted or is no longer selected. Tells nothing of an object never seen.
    pub fn delete(&self, key: &ObjectKey) -> Option<Change<K>> {
        let mut contents = self.write();
        contents.heard();
        contents.undecodable.remove(key);
        let old = contents.objects.remove(&Place::of(key))?;
        drop(contents);
        self.tell();
        Some(Change::Deleted { old: self.shared.open(key, &old)? })
    }

    /// Replaces everything by these objects and tells what differs.
    pub fn reset(&self, objects: Vec<K>, undecodable: BTreeMap<ObjectKey, String>) -> Change<K> {
        let mut listing = self.listing();
        objects.into_iter().for_each(|object| listing.insert(object));
        self.complete(listing, undecodable)
    }

    /// A list of nothing yet.
    pub(crate) fn listing(&self) -> Listing<K> {
        Listing { shared: Arc::clone(&self.shared), objects: BTreeMap::new() }
    }

    /// Replaces everything by a complete list and tells what differs.
    ///
    /// An object that could not be read keeps the form it was last read in: it exists.
    pub(crate) fn complete(
        &self,
        listing: Listing<K>,
        undecodable: BTreeMap<ObjectKey, String>,
    ) -> Change<K> {
        let mut contents = self.write();
        let mut before = std::mem::replace(&mut contents.objects, listing.objects);
        let unread = undecodable.keys().map(Place::of).filter(|place| !contents.objects.contains_key(place));
        let unread: Vec<_> = unread.filter_map(|place| before.remove_entry(&place)).collect();
        let change = match self.shared.packing {
            Some(_) => Change::Replaced,
            None => self.difference(before, &mut contents.objects),
        };
        contents.objects.extend(unread);
        contents.undecodable = undecodable;
        contents.synced = true;
        contents.gap = false;
        (contents.told_since, contents.ended) = (Some(Instant::now()), None);
        contents.heard();
        drop(contents);
        self.tell();
        change
    }

    /// What differs from before; what does not stays the object that it was.
    fn difference(
        &self,
        mut before: BTreeMap<Place, Kept<K>>,
        now: &mut BTreeMap<Place, Kept<K>>,
    ) -> Change<K> {
        let (mut changed, mut removed) = (Vec::new(), Vec::new());
        for (place, kept) in now {
            let key = place.key();
            let Some(new) = self.shared.open(&key, kept) else { continue };
            let Some(old_kept) = before.remove(place) else {
                changed.push((new, None));
                continue;
            };
            match self.shared.open(&key, &old_kept) {
                Some(old) if same_version(&*old, &*new) => *kept = old_kept,
                Some(old) if same_life(&*old, &*new) => changed.push((new, Some(old))),
                old => {
                    removed.extend(old);
                    changed.push((new, None));
                }
            }
        }
        removed.extend(before.iter().filter_map(|(place, old)| self.shared.open(&place.key(), old)));
        Change::Reset { changed, removed }
    }

    /// Notes that an object exists in a form that cannot be read.
    pub(crate) fn cannot_read(&self, key: ObjectKey, why: String) {
        let mut contents = self.write();
        contents.heard();
        contents.undecodable.insert(key, why);
    }

    /// Notes a sign of life without a change.
    pub fn heard(&self) {
        self.write().heard();
    }

    /// Notes that changes may have been missed: not in sync until the next complete list.
    pub fn missed_changes(&self) {
        self.write().gap = true;
    }

    /// Notes whether a stream is open.
    pub(crate) fn follow(&self, is_open: bool) {
        let mut contents = self.write();
        if !is_open {
            contents.ended.get_or_insert_with(Instant::now);
            return;
        }
        if contents.has_ended() {
            contents.told_since = Some(Instant::now());
        }
        contents.ended = None;
    }

    /// Notes why the watch does not get through.
    pub(crate) fn failing(&self, why: String) {
        self.write().trouble = Some(why);
    }

    fn tell(&self) {
        self.shared.revision.send_if_modified(|revision| {
            *revision = Arc::new(**revision + 1);
            true
        });
    }
}

struct Shared<K> {
    contents: RwLock<Contents<K>>,
    /// Counts changes, so that those who wait look again.
    revision: Sender<u64>,
    silence: Duration,
    packing: Option<Packing<K>>,
}

impl<K> Shared<K> {
    fn keep(&self, object: &Arc<K>) -> Kept<K> {
        match &self.packing {
            Some(packing) => Kept::Packed((packing.pack)(object).into_boxed_slice()),
            None => Kept::Whole(Arc::clone(object)),
        }
    }

    /// The object; none only if it was not packed here.
    fn open(&self, key: &ObjectKey, kept: &Kept<K>) -> Option<Arc<K>> {
        match kept {
            Kept::Whole(object) => Some(Arc::clone(object)),
            Kept::Packed(bytes) => (self.packing.as_ref()?.unpack)(key, bytes).map(Arc::new),
        }
    }
}

/// How objects become bytes and objects again.
struct Packing<K> {
    pack: fn(&K) -> Vec<u8>,
    unpack: fn(&ObjectKey, &[u8]) -> Option<K>,
}

/// An object in a store.
enum Kept<K> {
    Whole(Arc<K>),
    Packed(Box<[u8]>),
}

/// An [`ObjectKey`] in one piece, in the same order: namespace and name with a NUL between them, which neither has.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Place(Box<str>);

impl Place {
    fn of(key: &ObjectKey) -> Self {
        Self([key.namespace.as_str(), key.name.as_str()].join("\0").into_boxed_str())
    }

    fn key(&self) -> ObjectKey {
        let (namespace, name) = self.0.split_once('\0').unwrap_or_default();
        ObjectKey::namespaced(namespace, name)
    }
}

struct Contents<K> {
    objects: BTreeMap<Place, Kept<K>>,
    undecodable: BTreeMap<ObjectKey, String>,
    synced: bool,
    gap: bool,
    /// Since when streams have told changes as they happened, but for [`BRIEF`] breaks.
    told_since: Option<Instant>,
    /// When the last stream ended, while none is open.
    ended: Option<Instant>,
    last_contact: Option<Instant>,
    trouble: Option<String>,
}

/// A list that is being read, whose objects are kept as the store keeps them: of thousands that are packed at once no more than
/// that is left when the list is complete.
pub(crate) struct Listing<K> {
    shared: Arc<Shared<K>>,
    objects: BTreeMap<Place, Kept<K>>,
}

impl<K: Resource> Listing<K> {
    /// Takes an object, in the place of an earlier form.
    pub(crate) fn insert(&mut self, object: K) {
        let key = ObjectKey::of(&object);
        self.objects.insert(Place::of(&key), self.shared.keep(&Arc::new(object)));
    }

    /// Takes an object out.
    pub(crate) fn remove(&mut self, key: &ObjectKey) {
        self.objects.remove(&Place::of(key));
    }
}

impl<K> Contents<K> {
    fn in_sync(&self, silence: Duration) -> bool {
        self.synced && !self.gap && self.last_contact.is_some_and(|at| at.elapsed() <= silence)
    }

    /// Whether no stream is open, and has not been for more than a moment.
    fn has_ended(&self) -> bool {
        self.ended.is_some_and(|at| at.elapsed() > BRIEF)
    }

    fn heard(&mut self) {
        self.last_contact = Some(Instant::now());
        self.trouble = None;
    }
}

fn same_life<K: Resource>(old: &K, new: &K) -> bool {
    old.meta().uid == new.meta().uid
}

fn same_version<K: Resource>(old: &K, new: &K) -> bool {
    let version = &new.meta().resource_version;
    version.is_some() && *version == old.meta().resource_version && same_life(old, new)
}

impl ObjectKey {
    /// The object `name` in `namespace`.
    pub fn namespaced(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The cluster-scoped object `name`.
    pub fn cluster(name: impl Into<String>) -> Self {
        Self { namespace: String::new(), name: name.into() }
    }

    /// The key of `object`.
    pub fn of<K: Resource>(object: &K) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Self { namespace: text(&object.meta().namespace), name: text(&object.meta().name) }
    }
}

impl From<&PodRef> for ObjectKey {
    fn from(pod: &PodRef) -> Self {
        Self::namespaced(&pod.namespace, &pod.name)
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<K> Clone for Store<K> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<K> fmt::Debug for Store<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("objects", &self.len())
            .field("in_sync", &self.in_sync())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slim::Service;

    const SILENCE: Duration = Duration::from_secs(90);

    fn service(name: &str, uid: &str, version: &str) -> Service {
        let text = format!(
            r#"{{"metadata":{{"namespace":"d","name":"{name}","uid":"{uid}","resourceVersion":"{version}"}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::namespaced("d", name)
    }

    /// Writes a change as `+new -old`, with versions.
    fn told(change: &Change<Service>) -> String {
        let text = |service: &Service| {
            let meta = &service.metadata;
            format!("{}{}", meta.name.clone().unwrap(), meta.resource_version.clone().unwrap())
        };
        match change {
            Change::Applied { new, old } => {
                format!("+{} {}", text(new), old.as_deref().map(text).unwrap_or_default())
            }
            Change::Deleted { old } => format!("-{}", text(old)),
            Change::Reset { changed, removed } => {
                let changed = changed
                    .iter()
                    .map(|(new, old)| format!("+{}{}", text(new), if old.is_some() { "*" } else { "" }));
                changed
                    .chain(removed.iter().map(|old| format!("-{}", text(old))))
                    .collect::<Vec<_>>()
                    .join(" ")
            }
            Change::Replaced => "replaced".to_owned(),
        }
    }

    /// Stores differ in what they take, not in what they tell.
    fn stores() -> [Store<Service>; 2] {
        [Store::new(SILENCE), Store::packed(SILENCE)]
    }

    #[tokio::test(start_paused = true)]
    async fn a_reset_tells_what_differs() {
        let store = Store::new(SILENCE);
        let none = BTreeMap::new;
        let first =
            store.reset(vec![service("a", "1", "1"), service("b", "1", "2"), service("c", "1", "3")], none());
        assert_eq!(told(&first), "+a1 +b2 +c3");
        // a is the same, b changed, c has another life, d is new.
        let second = vec![
            service("a", "1", "1"),
            service("b", "1", "5"),
            service("c", "2", "6"),
            service("d", "1", "7"),
        ];
        assert_eq!(told(&store.reset(second, none())), "+b5* +c6 +d7 -c3");
        assert_eq!(told(&store.reset(vec![service("d", "1", "7")], none())), "-a1 -b5 -c6");
        assert_eq!(store.keys(), [key("d")]);
        assert_eq!(
            store.list().iter().map(|found| (**found).clone()).collect::<Vec<_>>(),
            [service("d", "1", "7")]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_reset_of_a_packed_store_tells_nothing_of_thousands_of_objects() {
        let store = Store::packed(SILENCE);
        for services in [vec![service("a", "1", "1"), service("b", "1", "2")], vec![service("b", "1", "3")]] {
            let change = store.reset(services.clone(), BTreeMap::new());
            assert_eq!((told(&change).as_str(), change.touched().count()), ("replaced", 0));
            assert!(change.replaces_all());
            assert_eq!(store.list().iter().map(|found| (**found).clone()).collect::<Vec<_>>(), services);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_tells_what_was_there_before() {
        for store in stores() {
            assert_eq!(told(&store.apply(service("a", "1", "1"))), "+a1 ");
            assert_eq!(told(&store.apply(service("a", "1", "2"))), "+a2 a1");
            assert_eq!(store.get(&key("a")).as_deref(), Some(&service("a", "1", "2")));
            assert_eq!(store.delete(&key("a")).as_ref().map(told).as_deref(), Some("-a2"));
            assert!(store.delete(&key("a")).is_none() && store.is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_read_still_exists() {
        stores().iter().for_each(unreadable_exists);
    }

    fn unreadable_exists(store: &Store<Service>) {
        store.reset(vec![service("a", "1", "1")], BTreeMap::new());
        let unreadable = BTreeMap::from([(key("a"), "why".to_owned()), (key("b"), "why".to_owned())]);
        assert!(["", "replaced"].contains(&told(&store.reset(Vec::new(), unreadable)).as_str()));
        assert!(matches!(store.presence(&key("a")), Presence::Present(_)));
        assert_eq!(store.presence(&key("b")), Presence::Unknown);
        assert_eq!(store.presence(&key("c")), Presence::Absent);
        store.delete(&key("b"));
        assert_eq!(store.presence(&key("b")), Presence::Absent);
    }

    #[tokio::test(start_paused = true)]
    async fn absence_is_known_only_in_sync() {
        let store = Store::<Service>::new(SILENCE);
        assert_eq!(store.presence(&key("a")), Presence::Unknown, "nothing heard yet");
        store.reset(Vec::new(), BTreeMap::new());
        assert_eq!(store.presence(&key("a")), Presence::Absent);
        tokio::time::advance(SILENCE + Duration::from_secs(1)).await;
        assert!(store.synced() && !store.in_sync());
        assert_eq!(store.presence(&key("a")), Presence::Unknown, "silent for too long");
        store.heard();
        assert_eq!(store.presence(&key("a")), Presence::Absent);
        store.missed_changes();
        assert_eq!(store.presence(&key("a")), Presence::Unknown, "a gap");
        store.reset(Vec::new(), BTreeMap::new());
        assert!(store.in_sync());
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_an_object_and_no_longer_than_allowed() {
        let store = Store::new(SILENCE);
        let deadline = Instant::now() + Duration::from_secs(5);
        let wanted = key("a");
        let second = |service: &Service| service.metadata.resource_version.as_deref() == Some("2");
        let (found, ()) = tokio::join!(store.wait_for(&wanted, second, deadline), async {
            for version in ["1", "2"] {
                tokio::time::sleep(Duration::from_secs(1)).await;
                store.apply(service("a", "1", version));
            }
        });
        assert!(found.is_some_and(|service| second(&service)));
        assert!(store.wait_for(&key("b"), |_| true, deadline).await.is_none());
        assert_eq!(Instant::now(), deadline);
        assert!(!store.wait_synced(deadline).await);
    }
}
