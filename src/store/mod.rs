//! The one SQLite database: opening, migrating, transactions, and hints about what changed.
//!
//! **One writer.** The bundled SQLite can corrupt a WAL file when one connection checkpoints while
//! another commits, so there is one read-write connection per data directory, behind a lock file;
//! everything else reads through read-only connections. Whole transactions at a time: a caller
//! hands in a closure, and closures that wait at the same moment are committed together (group
//! commit), each in a savepoint of its own, so that one that fails takes nobody with it.
//!
//! **Durable.** `synchronous = FULL`: when [`Store::write`] has answered, a power cut does not
//! lose it. A disk that is full makes writers wait, not fail (`group`).
//!
//! **Hints.** Each commit raises a counter for every table it touched. A service reads its rows,
//! works, and waits with [`Changes::changed`] for the next hint or its own tick. A missed hint
//! costs a tick, never work.

pub mod agents;
pub mod calls;
pub mod changes;
pub mod conversation;
pub mod costs;
pub mod decisions;
pub mod gate_runs;
mod group;
pub mod inbox;
pub mod items;
mod lock;
pub mod log;
pub mod mail;
pub mod merge_predictions;
pub mod merge_pulls;
pub mod merge_queue;
pub mod merge_state;
pub mod meta;
pub mod nudges;
mod open;
pub mod outbox;
pub mod pauses;
pub mod people;
pub mod projects;
pub mod requests;
pub mod rooms;
pub mod tidying;
pub mod timers;
pub mod told;
pub mod types;

pub use lock::{LockError, Owner, start_time};
pub use open::{Inspection, OpenError, inspect, read_beside, sound};

use crate::clock::Clock;
use group::{Fault, Job, Touched};
use rusqlite::Connection;
use std::collections::{HashMap, VecDeque};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// What must be free on the disk for others to keep things beside the database.
const ROOM_BYTES: u64 = 4 << 20;

/// How many idle read-only connections are kept.
const READERS_KEPT: usize = 4;

/// What can go wrong in the database itself.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite said no: a constraint, a file that is no database.
    #[error("the database failed: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The transaction could not be put on disk, and the caller does not wait until it can be.
    /// Nothing of it stands. Says why and what to do.
    #[error("{0}")]
    Unwritable(String),
    /// A closure panicked; its transaction was rolled back.
    #[error("a database operation panicked and was rolled back")]
    Panicked,
    /// The process is shutting down and the store is closed.
    #[error("the database is closed")]
    Closed,
}

/// Proof that a write transaction is open: every function that changes rows asks for one.
///
/// Dereferences to the connection, so that functions that only read can be called with it.
pub struct Tx<'c> {
    conn: &'c Connection,
    now: i64,
}

impl Tx<'_> {
    /// The time of the transaction, in milliseconds since the epoch: one for all its rows.
    pub fn now(&self) -> i64 {
        self.now
    }

    /// Runs a part of the transaction that may fail by itself: when it does, only what it wrote is
    /// undone, and the rest goes on.
    pub fn nested<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let run = |sql| self.conn.execute_batch(sql).map_err(|e| E::from(StoreError::Sqlite(e)));
        run("SAVEPOINT part")?;
        match work(self) {
            Ok(value) => run("RELEASE part").map(|()| value),
            Err(error) => run("ROLLBACK TO part; RELEASE part").and(Err(error)),
        }
    }
}

impl Deref for Tx<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.conn
    }
}

/// The handle; cloning shares the store.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    data_dir: PathBuf,
    clock: Clock,
    queue: Mutex<VecDeque<Box<dyn Job>>>,
    writer: Mutex<Option<Writer>>,
    /// Set while nothing can be written.
    fault: Mutex<Option<Fault>>,
    /// Whether nobody waits any more for what cannot be written.
    hurry: AtomicBool,
    readers: Mutex<Vec<Connection>>,
    /// Which commits a test has fail as on a full disk.
    #[cfg(test)]
    refuse_commit: Mutex<Option<group::Refuses>>,
    changes: Mutex<HashMap<String, watch::Sender<u64>>>,
}

struct Writer {
    conn: Connection,
    /// Tables touched since the last commit; filled by SQLite's update hook.
    touched: Arc<Mutex<Touched>>,
    /// Held as long as the connection is open.
    _lock: lock::DataLock,
}

/// Locks a mutex whose holder may have panicked: what it guards is valid between statements.
fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Takes the data directory's lock, opens the database and brings it up to date.
    ///
    /// Creates the directory (0700) and the database when they are missing. Refuses when another
    /// live process holds the directory, and when a newer version wrote the database.
    pub fn open(data_dir: &Path, clock: Clock) -> Result<Self, OpenError> {
        let (lock, conn) = open::open(data_dir)?;
        let touched = Arc::new(Mutex::new(Touched::new()));
        let seen = Arc::clone(&touched);
        conn.update_hook(Some(move |_action, _db: &str, table: &str, _row| {
            let mut seen = hold(&seen);
            if !seen.contains(table) {
                seen.insert(table.to_owned());
            }
        }));
        let shared = Shared {
            data_dir: data_dir.to_owned(),
            clock,
            queue: Mutex::default(),
            writer: Mutex::new(Some(Writer { conn, touched, _lock: lock })),
            fault: Mutex::default(),
            hurry: AtomicBool::new(false),
            readers: Mutex::default(),
            #[cfg(test)]
            refuse_commit: Mutex::default(),
            changes: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.shared.data_dir
    }

    /// The clock that stamps the rows.
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// Runs `work` in a transaction and answers when it is on disk.
    ///
    /// When `work` fails, nothing of it is kept. When the disk is full this waits until there is
    /// room, however long that takes; `work` is run again then, which is why it can be cloned, and
    /// why it must do nothing but change rows. Dropping the future after it was polled does not
    /// undo anything: the transaction may still be committed.
    pub async fn write<T, E>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, E> + Clone + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (job, answer) = group::job(move |tx: &Tx<'_>| (work.clone())(tx), true);
        hold(&self.shared.queue).push_back(job);
        let shared = Arc::clone(&self.shared);
        // Under paused test time only a blocking task keeps the clock from jumping, which is why
        // this is not a thread of our own.
        let ran = tokio::task::spawn_blocking(move || shared.drain(false)).await;
        if ran.is_err() {
            return Err(StoreError::Closed.into());
        }
        answer.await.unwrap_or_else(|_closed| Err(StoreError::Closed.into()))
    }

    /// As [`Store::write`], for a thread that may block (the command line), and without waiting
    /// for room on the disk: then it answers with [`StoreError::Unwritable`].
    pub fn write_blocking<T, E>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let mut work = Some(work);
        let once = move |tx: &Tx<'_>| match work.take() {
            Some(work) => work(tx),
            None => Err(StoreError::Closed.into()),
        };
        let (job, answer) = group::job(once, false);
        hold(&self.shared.queue).push_back(job);
        self.shared.drain(false);
        answer.blocking_recv().unwrap_or_else(|_closed| Err(StoreError::Closed.into()))
    }

    /// Why nothing can be written at the moment, if so, and what to do. While only something large
    /// cannot be written this is `None`.
    pub fn fault(&self) -> Option<String> {
        hold(&self.shared.fault).as_ref().and_then(Fault::of_all)
    }

    /// Whether there is room for more: what others keep beside the database does not wait.
    pub fn has_room(&self) -> bool {
        let free = group::free_bytes(&self.shared.data_dir);
        self.fault().is_none() && free.is_none_or(|free| free >= ROOM_BYTES)
    }

    /// From now on nobody waits for room on the disk: the program is ending.
    pub fn hurry(&self) {
        self.shared.hurry.store(true, Ordering::Relaxed);
        self.shared.drain(false);
    }

    /// Runs `work` on a read-only connection, off the async threads.
    pub async fn read<T, E>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let store = self.clone();
        tokio::task::spawn_blocking(move || store.read_blocking(work))
            .await
            .unwrap_or_else(|_panic| Err(StoreError::Panicked.into()))
    }

    /// As [`Store::read`], for a thread that may block.
    pub fn read_blocking<T, E>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, E>,
    ) -> Result<T, E>
    where
        E: From<StoreError>,
    {
        let kept = hold(&self.shared.readers).pop();
        let conn = match kept {
            Some(conn) => conn,
            None => open::reader(&self.shared.data_dir).map_err(StoreError::from)?,
        };
        let outcome = work(&conn);
        let mut readers = hold(&self.shared.readers);
        if readers.len() < READERS_KEPT {
            readers.push(conn);
        }
        outcome
    }

    /// Hints about commits that touched `table` (a rowid table: SQLite reports no others).
    pub fn changes(&self, table: &str) -> Changes {
        let mut changes = hold(&self.shared.changes);
        let sender = changes.entry(table.to_owned()).or_insert_with(|| watch::Sender::new(0));
        Changes { receiver: sender.subscribe() }
    }

    /// Closes the database and gives the data directory's lock back. Safe to repeat.
    pub fn close(&self) {
        self.hurry();
        self.shared.drain(true);
        hold(&self.shared.fault).take();
        hold(&self.shared.readers).clear();
        hold(&self.shared.writer).take();
    }
}

impl Shared {
    fn hint(&self, touched: &Touched) {
        let changes = hold(&self.changes);
        for table in touched {
            if let Some(sender) = changes.get(table) {
                sender.send_modify(|count| *count += 1);
            }
        }
    }
}

/// Hints that a table changed. A hint is never lost: one that comes while its receiver works is
/// seen by the next wait.
#[derive(Debug, Clone)]
pub struct Changes {
    receiver: watch::Receiver<u64>,
}

impl Changes {
    /// Waits for a commit that touched the table since the last wait. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.receiver.changed().await.is_err() {
            // The store is gone: nothing will change any more.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests;
