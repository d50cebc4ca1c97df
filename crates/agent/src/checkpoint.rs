//! The agent's durable record: who it is, and what it holds.
//!
//! The ledger lives in memory; every change takes a *ticket*, and [`Checkpoint::durable`] waits until the ticket's change
//! is on disk. One thread writes: it takes whatever has changed since its last write, so that any number of pods that
//! wait share one `fdatasync` (group commit).
//!
//! Two files are written in turn, each whole: a checksum and the length in the first line, then JSON. While one is being
//! written the other holds the previous state, which is what counts after a crash in between: nobody was told of
//! the new one. Compared with writing a file beside and renaming it, nothing is left to the folder's own durability, one
//! flush is enough, and on a full disk the blocks of the older file are still ours to write to.
//!
//! The folder is locked for the life of the process: a successor reads the record only when its predecessor can no
//! longer change it.
//!
//! A record that was read counts only up to its sequence of then until the start has judged it ([`Checkpoint::judged`]), also
//! for the next start: a disk that was restored must not become newer by what a start changes.
//!
//! What nobody waits for ([`Checkpoint::change_later`]) is written with the next change, and at the latest after half a
//! second.
//!
//! A file only grows, in steps: a flush of a file whose length is as it was does not wait for the file system's journal,
//! which containers that start keep busy. What is behind the record is no part of it.
//!
//! A write that fails is told to those who waited for it and tried again after a second or with the next change. What
//! others are told ([`Checkpoint::watch`]) is only ever what is durable.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kuryr_kubernetes::latest::{Receiver, Sender};
use kuryr_planning::claim::{Ledger, RecordFacts};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use crate::error::{Error, Result};

/// The two files.
const SLOTS: [&str; 2] = ["checkpoint.a", "checkpoint.b"];
const LOCK: &str = "lock";
/// Starts the first line; another layout has another number.
const MARK: &str = "kuryr-checkpoint 1";
/// A ledger of the largest node is far below a megabyte; more is not ours.
const SIZE_MAX: u64 = 64 << 20;
/// How long a change that nobody waits for may wait for another.
const LATER: Duration = Duration::from_millis(500);
/// Files grow by this.
const STEP: usize = 16 << 10;
/// Pause before a failed write is tried again without a change.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long a disk may take. One that works takes milliseconds; what waits for a claim has a shorter bound of its own.
const WRITE_WITHIN: Duration = Duration::from_secs(30);
/// Pause between looks at a lock that another process holds.
const LOCK_POLL: Duration = Duration::from_millis(50);
/// How often somebody is told that the lock is held.
const LOCK_TOLD: u32 = 200;

/// A handle on the record; clones share it.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    shared: Arc<Shared>,
    durable: Receiver<Durable>,
}

/// What is on disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Durable {
    /// The record's own facts; none before the first record was made.
    pub(crate) facts: Option<RecordFacts>,
    /// The ledger as written.
    pub(crate) ledger: Arc<Ledger>,
    /// Greatest ticket of which a write was tried.
    tried: u64,
    /// Why the last try failed.
    pub(crate) failure: Option<Arc<str>>,
    /// Ticket of the last change that is in it.
    sequence: u64,
}

/// A change that can be waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// A record as it is written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Record {
    id: String,
    sequence: u64,
    node_uid: String,
    replaces: String,
    /// Sequence up to which it counts, as long as a start has changed it and has not judged it.
    #[serde(skip_serializing_if = "Option::is_none")]
    unjudged_from: Option<u64>,
    ledger: Ledger,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    contents: Mutex<Contents>,
    wake: Wake,
}

/// Wakes the writer, whichever way it waits.
#[derive(Debug, Default)]
struct Wake {
    thread: Condvar,
    task: Notify,
}

impl Wake {
    fn wake(&self) {
        self.thread.notify_one();
        self.task.notify_one();
    }
}

#[derive(Debug)]
struct Contents {
    record: Record,
    /// Whether there is a record at all; without one nothing is written.
    exists: bool,
    /// Ticket of the last change.
    changes: u64,
    /// Ticket of the last change that is to be written soon.
    soon: u64,
    stop: bool,
}

impl Checkpoint {
    /// Locks the folder, reads the last durable record and starts to write. Waits as long as another agent holds the
    /// lock.
    ///
    /// # Errors
    ///
    /// The folder cannot be made, locked or read.
    pub(crate) async fn open(folder: &Path) -> Result<Self> {
        let failed = |step| move |source| Error::Checkpoint { step, path: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(failed("make the folder of"))?;
        let lock = locked(folder).await?;
        let files = Files::open(folder, lock).map_err(failed("open"))?;
        let found = files.read().map_err(failed("read"))?;
        Self::start(folder, found, files).map_err(failed("start writing"))
    }

    /// A record on a disk in memory, with what is in its slots. It is written while the future that comes with it is
    /// polled.
    pub fn in_memory(
        slots: &[Vec<u8>],
        storage: impl Storage,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (checkpoint, writer) = Self::with_writer(Path::new("memory"), latest(slots), storage);
        (checkpoint, writer.run_as_task())
    }

    fn start(folder: &Path, found: Option<(usize, Record)>, storage: impl Storage) -> io::Result<Self> {
        let (checkpoint, writer) = Self::with_writer(folder, found, storage);
        std::thread::Builder::new().name("checkpoint".to_owned()).spawn(move || writer.run())?;
        Ok(checkpoint)
    }

    fn with_writer<S>(folder: &Path, found: Option<(usize, Record)>, storage: S) -> (Self, Writer<S>) {
        let exists = found.is_some();
        let (slot, mut record) = found.unwrap_or_default();
        let changes = record.sequence;
        record.unjudged_from.get_or_insert(changes);
        let tell = Sender::new(Arc::new(Durable::of(&record, exists)));
        let durable = tell.subscribe();
        let contents = Mutex::new(Contents { record, exists, changes, soon: changes, stop: false });
        let shared = Arc::new(Shared { folder: folder.to_owned(), contents, wake: Wake::default() });
        let turn = Turn { written: changes, ..Turn::default() };
        let writer = Writer { shared: Arc::clone(&shared), storage, tell, next_slot: 1 - slot, turn };
        (Self { shared, durable }, writer)
    }

    /// Looks at the ledger and the record's facts as they are in memory.
    pub(crate) fn look<T>(&self, look: impl FnOnce(Option<RecordFacts>, &Ledger) -> T) -> T {
        let contents = self.shared.lock();
        look(contents.exists.then(|| contents.record.facts()), &contents.record.ledger)
    }

    /// Changes the ledger; `change` tells whether it did. The ticket stands for this change and all before.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Ledger) -> (bool, T)) -> (T, Ticket) {
        self.change_by(change, |contents| contents.soon = contents.changes)
    }

    /// Changes the ledger by something that the next start finds out if it is not durable, where nobody waits for it;
    /// `change` tells whether it did.
    pub(crate) fn change_later(&self, change: impl FnOnce(&mut Ledger) -> bool) {
        self.change_by(|ledger| (change(ledger), ()), |_| {});
    }

    fn change_by<T>(
        &self,
        change: impl FnOnce(&mut Ledger) -> (bool, T),
        noted: impl FnOnce(&mut Contents),
    ) -> (T, Ticket) {
        let mut contents = self.shared.lock();
        let (changed, value) = change(&mut contents.record.ledger);
        if changed {
            contents.changes += 1;
            contents.record.sequence = contents.changes;
            noted(&mut contents);
        }
        let ticket = Ticket(contents.changes);
        drop(contents);
        if changed {
            self.shared.wake.wake();
        }
        (value, ticket)
    }

    /// Changes the ledger where nothing else is to be told; gives a ticket if it was changed.
    pub(crate) fn change_if(&self, change: impl FnOnce(&mut Ledger) -> bool) -> Option<Ticket> {
        let (changed, ticket) = self.change(|ledger| {
            let changed = change(ledger);
            (changed, changed)
        });
        changed.then_some(ticket)
    }

    /// Begins a new record for this Node; `replaces` is the id that had been told of the old one.
    pub(crate) fn renew(&self, node_uid: &str, replaces: &str, ledger: Ledger) -> Ticket {
        let mut contents = self.shared.lock();
        contents.changes += 1;
        contents.record = Record {
            id: uuid::Uuid::new_v4().to_string(),
            sequence: contents.changes,
            node_uid: node_uid.to_owned(),
            replaces: replaces.to_owned(),
            unjudged_from: None,
            ledger,
        };
        contents.exists = true;
        contents.soon = contents.changes;
        let ticket = Ticket(contents.changes);
        drop(contents);
        self.shared.wake.wake();
        ticket
    }

    /// The record counts, with what was changed of it since it was read.
    pub(crate) fn judged(&self) {
        let mut contents = self.shared.lock();
        let from = contents.record.unjudged_from.take();
        if from.is_none_or(|from| from == contents.record.sequence) {
            return;
        }
        contents.changes += 1;
        contents.record.sequence = contents.changes;
        contents.soon = contents.changes;
        drop(contents);
        self.shared.wake.wake();
    }

    /// Waits until a change is durable.
    ///
    /// # Errors
    ///
    /// The write failed, or did not end in time; the change is still in memory.
    pub(crate) async fn durable(&self, ticket: Ticket) -> Result<()> {
        self.hurry(ticket);
        let mut durable = self.durable.clone();
        let ended = |durable: &Arc<Durable>| {
            durable.sequence >= ticket.0 || (durable.tried >= ticket.0 && durable.failure.is_some())
        };
        let failure = match timeout(WRITE_WITHIN, durable.wait_for(ended)).await {
            Ok(Ok(durable)) if durable.sequence >= ticket.0 => return Ok(()),
            Ok(Ok(durable)) => durable.failure.as_deref().unwrap_or_default().to_owned(),
            Ok(Err(_)) => "the agent is stopping".to_owned(),
            Err(_) => format!("the disk has not answered within {} s", WRITE_WITHIN.as_secs()),
        };
        Err(Error::NotDurable { path: self.shared.folder.clone(), why: failure })
    }

    /// Has a change written soon.
    fn hurry(&self, ticket: Ticket) {
        let mut contents = self.shared.lock();
        if contents.soon < ticket.0 {
            contents.soon = ticket.0;
            drop(contents);
            self.shared.wake.wake();
        }
    }

    /// Watches what is durable.
    pub(crate) fn watch(&self) -> Receiver<Durable> {
        self.durable.clone()
    }

    /// Has what is in memory written, and ends the writing. Waits for it, as long as a write may take.
    pub(crate) async fn stop(&self) {
        self.shared.lock().stop = true;
        self.shared.wake.wake();
        let mut durable = self.durable.clone();
        // Ends when the writer drops its side.
        let ended = async { while durable.changed().await.is_ok() {} };
        if timeout(WRITE_WITHIN, ended).await.is_err() {
            tracing::warn!(folder = %self.shared.folder.display(), "the disk does not answer: what changed last is not on it");
        }
    }
}

impl Durable {
    fn of(record: &Record, exists: bool) -> Self {
        Self {
            facts: exists.then(|| record.facts()),
            ledger: Arc::new(record.ledger.clone()),
            tried: record.sequence,
            failure: None,
            sequence: record.sequence,
        }
    }
}

impl Record {
    fn facts(&self) -> RecordFacts {
        RecordFacts {
            id: self.id.clone(),
            sequence: self.unjudged_from.unwrap_or(self.sequence),
            node_uid: self.node_uid.clone(),
            replaces: self.replaces.clone(),
        }
    }

    fn encode(&self) -> io::Result<Vec<u8>> {
        let body = serde_json::to_vec(self)?;
        let sum = Sha256::digest(&body);
        let mut bytes = format!("{MARK} {} {sum:x}\n", body.len()).into_bytes();
        bytes.extend(body);
        Ok(bytes)
    }

    /// The record, unless anything of it is missing or wrong.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let line = std::str::from_utf8(&bytes[..end]).ok()?;
        let (length, sum) = line.strip_prefix(MARK)?.trim_start().split_once(' ')?;
        let body = bytes.get(end + 1..)?.get(..length.parse().ok()?)?;
        if format!("{:x}", Sha256::digest(body)) != sum {
            return None;
        }
        serde_json::from_slice(body).ok()
    }
}

impl Shared {
    /// Nothing that holds the lock is left half done by a panic: assertions of the ledger come before its changes.
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where records are kept.
pub trait Storage: Send + 'static {
    /// Writes a slot and makes it durable.
    ///
    /// # Errors
    ///
    /// It is not there, or not durably; the slot may hold anything then.
    fn write(&mut self, slot: usize, bytes: &[u8]) -> io::Result<()>;
}

struct Writer<S> {
    shared: Arc<Shared>,
    storage: S,
    tell: Sender<Durable>,
    next_slot: usize,
    turn: Turn,
}

/// When a record is written, without clock, thread and disk.
#[derive(Debug, Default)]
struct Turn {
    /// Sequence of the last record that is durable.
    written: u64,
    /// Whether the last write failed.
    failed: bool,
    /// Whether there was a pause since.
    paused: bool,
    /// Until when a change may wait that nobody waits for.
    later: Option<Instant>,
}

/// What the writer does next.
enum Next {
    Write {
        record: Box<Record>,
        is_last: bool,
    },
    /// Wait to be woken, so long at most.
    Wait(Option<Duration>),
    End,
}

impl Turn {
    fn next(&mut self, contents: &Contents, now: Instant) -> Next {
        let due = contents.exists && contents.record.sequence > self.written;
        let waited_for = contents.soon > self.written || self.later.is_some_and(|later| later <= now);
        let write = || Next::Write { record: Box::new(contents.record.clone()), is_last: contents.stop };
        match () {
            () if due && !self.failed && waited_for => write(),
            () if contents.stop && due => write(),
            () if contents.stop => Next::End,
            () if !due => Next::Wait(None),
            () if !self.failed => {
                let until = *self.later.get_or_insert_with(|| now + LATER);
                Next::Wait(Some(until.saturating_duration_since(now)))
            }
            // Failed before: after a pause, or when something changes.
            () if std::mem::replace(&mut self.paused, true) => write(),
            () => Next::Wait(Some(AGAIN_AFTER)),
        }
    }

    fn wrote(&mut self, sequence: u64, result: &io::Result<()>) {
        let written = if result.is_ok() { sequence } else { self.written };
        *self = Self { written, failed: result.is_err(), ..Self::default() };
    }
}

impl<S: Storage> Writer<S> {
    /// Writes until the end, on a thread of its own.
    fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut contents = shared.lock();
        loop {
            match self.turn.next(&contents, Instant::now()) {
                Next::Write { record, is_last } => {
                    drop(contents);
                    if self.write(&record).is_err() && is_last {
                        return;
                    }
                    contents = shared.lock();
                }
                Next::Wait(None) => {
                    contents = shared.wake.thread.wait(contents).unwrap_or_else(PoisonError::into_inner);
                }
                Next::Wait(Some(pause)) => {
                    let waited = shared.wake.thread.wait_timeout(contents, pause);
                    contents = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                Next::End => return,
            }
        }
    }

    /// The same where writing does not block.
    async fn run_as_task(mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            let next = self.turn.next(&shared.lock(), Instant::now());
            match next {
                Next::Write { record, is_last } => {
                    if self.write(&record).is_err() && is_last {
                        return;
                    }
                }
                Next::Wait(None) => shared.wake.task.notified().await,
                // Elapsed is what is waited for as well.
                Next::Wait(Some(pause)) => drop(timeout(pause, shared.wake.task.notified()).await),
                Next::End => return,
            }
        }
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        let result = record.encode().and_then(|bytes| self.storage.write(self.next_slot, &bytes));
        self.turn.wrote(record.sequence, &result);
        let durable = match &result {
            Ok(()) => {
                self.next_slot = 1 - self.next_slot;
                Durable::of(record, true)
            }
            Err(error) => {
                tracing::error!(folder = %self.shared.folder.display(), %error, "the checkpoint cannot be written");
                let known = Durable::clone(&self.tell.borrow());
                Durable { tried: record.sequence, failure: Some(error.to_string().into()), ..known }
            }
        };
        self.tell.send_replace(Arc::new(durable));
        result
    }
}

/// The two files, and the lock that is held as long as they are open.
struct Files {
    slots: [File; 2],
    _lock: File,
}

impl Files {
    fn open(folder: &Path, lock: File) -> io::Result<Self> {
        let open = |name| {
            let path = folder.join(name);
            OpenOptions::new().create(true).read(true).write(true).truncate(false).open(path)
        };
        let slots = [open(SLOTS[0])?, open(SLOTS[1])?];
        // Their names must survive a crash as well.
        File::open(folder)?.sync_all()?;
        Ok(Self { slots, _lock: lock })
    }

    fn read(&self) -> io::Result<Option<(usize, Record)>> {
        let mut contents = Vec::new();
        for file in &self.slots {
            let length = file.metadata()?.len().min(SIZE_MAX);
            let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
            file.read_exact_at(&mut bytes, 0)?;
            contents.push(bytes);
        }
        Ok(latest(&contents))
    }
}

impl Storage for Files {
    fn write(&mut self, slot: usize, bytes: &[u8]) -> io::Result<()> {
        let file = &self.slots[slot];
        file.write_all_at(bytes, 0)?;
        let length = u64::try_from(bytes.len().next_multiple_of(STEP)).unwrap_or(u64::MAX);
        let before = file.metadata()?.len();
        // Also shorter, but rarely: a ledger that was large once would be read whole for ever.
        if before < length || before / 4 > length {
            file.set_len(length)?;
        }
        file.sync_data()
    }
}

/// The slot that holds the newest whole record.
fn latest(slots: &[Vec<u8>]) -> Option<(usize, Record)> {
    let whole = slots.iter().enumerate().filter_map(|(slot, bytes)| Some((slot, Record::decode(bytes)?)));
    whole.max_by_key(|(_, record)| record.sequence)
}

/// Takes the lock; waits for a predecessor to end.
async fn locked(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let failed = |source| Error::Checkpoint { step: "lock", path: path.clone(), source };
    let file = OpenOptions::new().create(true).write(true).truncate(false).open(&path).map_err(failed)?;
    let mut looks = 0u32;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
        if looks.is_multiple_of(LOCK_TOLD) {
            tracing::info!(lock = %path.display(), "another kuryr-daemon runs on this node; waiting for it to end");
        }
        looks = looks.wrapping_add(1);
        tokio::time::sleep(LOCK_POLL).await;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use kuryr_types::PortId;

    /// A disk that can be filled and that keeps what was written.
    #[derive(Clone, Default)]
    struct Disk {
        full: Arc<Mutex<bool>>,
        slots: Arc<Mutex<[Vec<u8>; 2]>>,
        writes: Arc<Mutex<u32>>,
        hangs: Arc<AtomicBool>,
    }

    impl Storage for Disk {
        fn write(&mut self, slot: usize, bytes: &[u8]) -> io::Result<()> {
            while self.hangs.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
            *self.writes.lock().unwrap() += 1;
            if *self.full.lock().unwrap() {
                // Half of it was written.
                self.slots.lock().unwrap()[slot] = bytes[..bytes.len() / 2].to_vec();
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            self.slots.lock().unwrap()[slot] = bytes.to_vec();
            Ok(())
        }
    }

    impl Disk {
        fn open(&self) -> Checkpoint {
            let slots = self.slots.lock().unwrap().clone();
            Checkpoint::start(Path::new("/disk"), latest(&slots), self.clone()).unwrap()
        }
    }

    /// A checkpoint in memory, with a record for the Node `node`.
    pub(crate) fn in_memory() -> Checkpoint {
        let checkpoint = Disk::default().open();
        checkpoint.renew("node", "", Ledger::default());
        checkpoint
    }

    /// A checkpoint whose disk is full from now on.
    pub(crate) fn on_full_disk() -> Checkpoint {
        let disk = Disk::default();
        *disk.full.lock().unwrap() = true;
        let checkpoint = disk.open();
        checkpoint.renew("node", "", Ledger::default());
        checkpoint
    }

    /// What a successor finds.
    pub(crate) fn reopened(checkpoint: &Checkpoint) -> Checkpoint {
        let disk = Disk::default();
        disk.slots.lock().unwrap()[0] = checkpoint.shared.lock().record.encode().unwrap();
        disk.open()
    }

    fn know(checkpoint: &Checkpoint, port: &str) -> Ticket {
        let port = PortId::from(port);
        checkpoint.change(|ledger| (ledger.known.insert(port, "1.1".parse().unwrap()).is_none(), ())).1
    }

    fn known(checkpoint: &Checkpoint) -> Vec<String> {
        checkpoint.look(|_, ledger| ledger.known.keys().map(ToString::to_string).collect())
    }

    #[tokio::test]
    async fn what_was_durable_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::open(folder.path()).await.unwrap();
        assert!(checkpoint.look(|facts, _| facts.is_none()));
        checkpoint.renew("node", "old", Ledger::default());
        for port in ["p1", "p2", "p3"] {
            let ticket = know(&checkpoint, port);
            checkpoint.durable(ticket).await.unwrap();
        }
        let facts = checkpoint.look(|facts, _| facts).unwrap();
        checkpoint.stop().await;
        drop(checkpoint);
        let again = Checkpoint::open(folder.path()).await.unwrap();
        assert_eq!(again.look(|facts, _| facts).unwrap(), facts);
        assert_eq!(known(&again), ["p1", "p2", "p3"]);
    }

    #[tokio::test]
    async fn what_is_changed_before_the_record_is_judged_makes_it_no_newer() {
        let checkpoint = in_memory();
        know(&checkpoint, "p1");
        let facts = |checkpoint: &Checkpoint| checkpoint.look(|facts, _| facts).unwrap();
        let read = facts(&checkpoint);
        let again = reopened(&checkpoint);
        let ticket = know(&again, "p2");
        again.durable(ticket).await.unwrap();
        assert_eq!(facts(&again), read);
        let again = reopened(&again);
        assert_eq!((facts(&again), known(&again).len()), (read.clone(), 2));
        again.judged();
        let judged = facts(&again);
        assert!(judged.sequence > read.sequence + 1, "another write, without the mark");
        assert_eq!(facts(&reopened(&again)), judged);
        // Without a change there is nothing to write.
        let again = reopened(&again);
        again.judged();
        assert_eq!(facts(&again), judged);
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_written_with_the_next_change_or_a_moment_later() {
        let disk = Disk::default();
        let checkpoint = disk.open();
        let ticket = checkpoint.renew("node", "", Ledger::default());
        checkpoint.durable(ticket).await.unwrap();
        let writes = || *disk.writes.lock().unwrap();
        let later = |port: &str| {
            let port = PortId::from(port);
            checkpoint.change_later(|ledger| ledger.known.insert(port, "1.1".parse().unwrap()).is_none());
        };
        later("p1");
        let ticket = know(&checkpoint, "p2");
        checkpoint.durable(ticket).await.unwrap();
        assert_eq!((writes(), known(&disk.open()).len()), (2, 2));
        later("p3");
        let mut durable = checkpoint.watch();
        durable.wait_for(|durable| durable.ledger.known.len() == 3).await.unwrap();
        assert_eq!((writes(), known(&disk.open()).len()), (3, 3));
        // Whoever waits for the state as it is does not wait for that moment.
        later("p4");
        let ((), ticket) = checkpoint.change(|_| (false, ()));
        checkpoint.durable(ticket).await.unwrap();
        assert_eq!((writes(), known(&disk.open()).len()), (4, 4));
        later("p5");
        checkpoint.stop().await;
        assert_eq!(known(&disk.open()).len(), 5);
    }

    #[tokio::test]
    async fn a_successor_waits_for_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let first = Checkpoint::open(folder.path()).await.unwrap();
        let ticket = first.renew("node", "", Ledger::default());
        let path = folder.path().to_owned();
        let second = tokio::spawn(async move { Checkpoint::open(&path).await.unwrap() });
        first.durable(ticket).await.unwrap();
        tokio::time::sleep(LOCK_POLL * 2).await;
        assert!(!second.is_finished());
        first.stop().await;
        assert!(second.await.unwrap().look(|facts, _| facts).is_some());
    }

    #[test]
    fn a_write_torn_at_any_byte_leaves_the_previous_record() {
        let record = |sequence, port: &str| {
            let mut record = Record { id: "a".into(), sequence, ..Record::default() };
            record.ledger.known.insert(port.into(), "1.1".parse().unwrap());
            record
        };
        let (older, newer) = (record(7, "p7"), record(8, "p8-longer"));
        let previous = older.encode().unwrap();
        let whole = newer.encode().unwrap();
        // What the slot held before shows through behind a torn write; it may be longer or shorter.
        for before in
            [Vec::new(), record(6, "p6").encode().unwrap(), record(6, &"p".repeat(200)).encode().unwrap()]
        {
            for end in 0..whole.len() {
                let mut torn = whole[..end].to_vec();
                torn.extend(before.get(end..).unwrap_or_default());
                let found = latest(&[previous.clone(), torn]).unwrap();
                let sequence = found.1.sequence;
                assert_eq!((found.0, sequence), (0, 7), "torn at {end} of {}", whole.len());
            }
            let mut unshortened = whole.clone();
            unshortened.extend(before.get(whole.len()..).unwrap_or_default());
            assert_eq!(latest(&[previous.clone(), unshortened]).unwrap(), (1, newer.clone()));
        }
        for byte in 0..whole.len() {
            let mut rotten = whole.clone();
            rotten[byte] ^= 0x20;
            assert_eq!(latest(&[previous.clone(), rotten]).unwrap().0, 0, "byte {byte}");
        }
        assert_eq!(latest(&[Vec::new(), previous[1..].to_vec()]), None);
    }

    #[tokio::test]
    async fn many_waiters_share_a_write() {
        let disk = Disk::default();
        let checkpoint = disk.open();
        checkpoint.renew("node", "", Ledger::default());
        let tickets: Vec<Ticket> = (0..50).map(|number| know(&checkpoint, &format!("p{number}"))).collect();
        for ticket in tickets {
            checkpoint.durable(ticket).await.unwrap();
        }
        checkpoint.stop().await;
        assert!(*disk.writes.lock().unwrap() < 50);
        assert_eq!(known(&disk.open()).len(), 50);
    }

    #[tokio::test]
    async fn a_full_disk_is_told_and_gets_over() {
        let disk = Disk::default();
        let checkpoint = disk.open();
        let ticket = checkpoint.renew("node", "", Ledger::default());
        checkpoint.durable(ticket).await.unwrap();
        *disk.full.lock().unwrap() = true;
        let ticket = know(&checkpoint, "p1");
        let error = checkpoint.durable(ticket).await.unwrap_err();
        assert!(error.to_string().contains("/disk"), "{error}");
        assert!(checkpoint.watch().borrow().ledger.known.is_empty(), "nobody is told what is not durable");
        assert_eq!(known(&disk.open()), Vec::<String>::new());
        *disk.full.lock().unwrap() = false;
        let ticket = know(&checkpoint, "p2");
        checkpoint.durable(ticket).await.unwrap();
        assert_eq!(known(&disk.open()), ["p1", "p2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_for_a_disk_that_does_not_answer() {
        let disk = Disk::default();
        disk.hangs.store(true, Ordering::Relaxed);
        let checkpoint = disk.open();
        let ticket = checkpoint.renew("node", "", Ledger::default());
        let error = checkpoint.durable(ticket).await.unwrap_err();
        assert!(error.to_string().contains("/disk"), "{error}");
        checkpoint.stop().await;
        disk.hangs.store(false, Ordering::Relaxed);
    }

    #[tokio::test]
    async fn nothing_is_written_before_there_is_a_record() {
        let disk = Disk::default();
        let checkpoint = disk.open();
        know(&checkpoint, "p1");
        checkpoint.stop().await;
        assert_eq!(*disk.writes.lock().unwrap(), 0);
    }
}
