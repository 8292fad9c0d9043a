//! The one SQLite database: opening, migrating, transactions, and hints about what changed.
//!
//! **One writer.** The bundled SQLite can corrupt a WAL file when one connection checkpoints while
//! another commits, so there is one read-write connection per data directory, behind a lock file;
//! everything else reads through read-only connections. Whole transactions at a time: a caller
//! hands in a closure, and closures that wait at the same moment are committed together (group
//! commit), each in a savepoint of its own, so that one that fails takes nobody with it.
//!
//! **Durable.** `synchronous = FULL`: when [`Store::write`] has answered, a power cut does not
//! lose it.
//!
//! **Hints.** Each commit raises a counter for every table it touched. A service reads its rows,
//! works, and waits with [`Changes::changed`] for the next hint or its own tick. A missed hint
//! costs a tick, never work.

pub mod agents;
pub mod calls;
pub mod conversation;
pub mod costs;
pub mod decisions;
pub mod gate_runs;
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
mod open;
pub mod outbox;
pub mod people;
pub mod projects;
pub mod requests;
pub mod rooms;
pub mod timers;
pub mod types;

pub use lock::{LockError, Owner, start_time};
pub use open::{Inspection, OpenError, inspect, read_beside};

use crate::clock::Clock;
use rusqlite::Connection;
use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{oneshot, watch};

/// How many closures one commit may carry: bounds how long the first of them waits.
const GROUP_MAX: usize = 128;

/// How many idle read-only connections are kept.
const READERS_KEPT: usize = 4;

/// What can go wrong in the database itself.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite said no: disk full, a constraint, a file that is no database.
    #[error("the database failed: {0}")]
    Sqlite(#[from] rusqlite::Error),
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

/// Called when the group's commit is over: with `true` when it is on disk.
type Finish = Box<dyn FnOnce(bool) + Send>;
/// A closure to run in the next group: changes rows, and says how to answer its caller.
type Job = Box<dyn FnOnce(&Connection, &Clock) -> Finish + Send>;

/// The handle; cloning shares the store.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    data_dir: PathBuf,
    clock: Clock,
    queue: Mutex<VecDeque<Job>>,
    writer: Mutex<Option<Writer>>,
    readers: Mutex<Vec<Connection>>,
    changes: Mutex<HashMap<String, watch::Sender<u64>>>,
}

struct Writer {
    conn: Connection,
    /// Tables touched since the last commit; filled by SQLite's update hook.
    touched: Arc<Mutex<HashSet<String>>>,
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
        let touched = Arc::new(Mutex::new(HashSet::new()));
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
            readers: Mutex::default(),
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
    /// When `work` fails, nothing of it is kept. Dropping the future after it was polled does not
    /// undo anything: the transaction may still be committed.
    pub async fn write<T, E>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let answer = self.enqueue(work);
        let shared = Arc::clone(&self.shared);
        // Under paused test time only a blocking task keeps the clock from jumping, which is why
        // this is not a thread of our own.
        let ran = tokio::task::spawn_blocking(move || shared.drain()).await;
        if ran.is_err() {
            return Err(StoreError::Closed.into());
        }
        answer.await.unwrap_or_else(|_closed| Err(StoreError::Closed.into()))
    }

    /// As [`Store::write`], for a thread that may block (the command line).
    pub fn write_blocking<T, E>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let answer = self.enqueue(work);
        self.shared.drain();
        answer.blocking_recv().unwrap_or_else(|_closed| Err(StoreError::Closed.into()))
    }

    fn enqueue<T, E>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, E> + Send + 'static,
    ) -> oneshot::Receiver<Result<T, E>>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (tell, answer) = oneshot::channel();
        let job: Job = Box::new(move |conn, clock| {
            let outcome = in_savepoint(conn, clock, work);
            Box::new(move |committed| {
                let outcome = if committed { outcome } else { Err(StoreError::Closed.into()) };
                // The caller may have gone; what it asked for has happened all the same.
                let _ = tell.send(outcome);
            })
        });
        hold(&self.shared.queue).push_back(job);
        answer
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
        self.shared.drain();
        hold(&self.shared.readers).clear();
        hold(&self.shared.writer).take();
    }
}

/// Runs one closure in a savepoint of the open group; a failure or panic rolls back only that.
fn in_savepoint<T, E: From<StoreError>>(
    conn: &Connection,
    clock: &Clock,
    work: impl FnOnce(&Tx<'_>) -> Result<T, E>,
) -> Result<T, E> {
    let run = |sql| conn.execute_batch(sql).map_err(|error| E::from(StoreError::Sqlite(error)));
    run("SAVEPOINT job")?;
    let tx = Tx { conn, now: clock.millis() };
    let outcome = catch_unwind(AssertUnwindSafe(|| work(&tx)))
        .unwrap_or_else(|_panic| Err(StoreError::Panicked.into()));
    match outcome {
        Ok(value) => {
            run("RELEASE job")?;
            Ok(value)
        }
        Err(error) => {
            run("ROLLBACK TO job; RELEASE job")?;
            Err(error)
        }
    }
}

impl Shared {
    /// Commits what is queued. Whoever holds the writer works for all who wait.
    fn drain(&self) {
        loop {
            let mut writer = hold(&self.writer);
            let group: Vec<Job> = {
                let mut queue = hold(&self.queue);
                let size = queue.len().min(GROUP_MAX);
                queue.drain(..size).collect()
            };
            if group.is_empty() {
                return;
            }
            let Some(writer) = writer.as_mut() else {
                // Closed: dropping the jobs drops their answers, which says so to the callers.
                return;
            };
            let touched = self.commit(writer, group);
            self.hint(&touched);
        }
    }

    /// Runs a group in one transaction, answers its callers, and returns the touched tables.
    fn commit(&self, writer: &mut Writer, group: Vec<Job>) -> HashSet<String> {
        if let Err(error) = writer.conn.execute_batch("BEGIN IMMEDIATE") {
            tracing::error!(%error, "cannot begin a transaction");
            return HashSet::new();
        }
        let finishes: Vec<Finish> =
            group.into_iter().map(|job| job(&writer.conn, &self.clock)).collect();
        let committed = match writer.conn.execute_batch("COMMIT") {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, "cannot commit");
                let _ = writer.conn.execute_batch("ROLLBACK");
                false
            }
        };
        for finish in finishes {
            finish(committed);
        }
        std::mem::take(&mut *hold(&writer.touched))
    }

    fn hint(&self, touched: &HashSet<String>) {
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
