//! Group commit, and what happens when the disk says no.
//!
//! Closures that wait at the same moment are committed together, each in a savepoint of its own.
//! When a transaction cannot be begun or committed (the disk is full, a quota is met, the file
//! system has turned read-only), nothing of it stands, and it is no fault of the closures: they
//! are kept in order, and all of them are run again until it can be committed. Meanwhile everybody
//! who writes waits, so nothing is lost and nothing is done twice. Who cannot wait (the command
//! line, a program that is ending) gets [`StoreError::Unwritable`] instead.
//!
//! **Known limit.** A statement whose failure made SQLite undo the whole transaction is repeated
//! with the rest; after [`LOSSES_MAX`] times, on a disk with room, it is its own fault.

use super::{Shared, StoreError, Tx, hold};
use crate::clock::Clock;
use rusqlite::{Connection, ErrorCode};
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How many closures one commit may carry: bounds how long the first of them waits.
const GROUP_MAX: usize = 128;

/// The first wait before closures are run again; doubled each time.
const AGAIN_FIRST: Duration = Duration::from_millis(250);

/// The longest wait before closures are run again.
const AGAIN_MAX: Duration = Duration::from_secs(2);

/// How often a closure may have the whole transaction undone before it fails alone.
const LOSSES_MAX: u32 = 5;

/// Below this a disk counts as full.
const FULL_BYTES: u64 = 1 << 20;

/// A closure to run in the next group; it is answered when the group is on disk.
pub(super) trait Job: Send {
    /// Runs it in a savepoint of the open transaction, again when it was run before.
    fn run(&mut self, conn: &Connection, clock: &Clock);
    /// Tells its caller what came of it: it is on disk.
    fn done(self: Box<Self>);
    /// Tells its caller that it is not on disk, and never will be.
    fn failed(self: Box<Self>, why: &str);
    /// Whether its caller waits for as long as it takes.
    fn is_patient(&self) -> bool;
    /// Counts a transaction that was undone under it.
    fn lose(&mut self) -> u32;
}

/// What a caller asked for.
struct Asked<T, E, F> {
    work: F,
    outcome: Option<Result<T, E>>,
    tell: oneshot::Sender<Result<T, E>>,
    patient: bool,
    losses: u32,
}

impl<T, E, F> Job for Asked<T, E, F>
where
    T: Send,
    E: From<StoreError> + Send,
    F: FnMut(&Tx<'_>) -> Result<T, E> + Send,
{
    fn run(&mut self, conn: &Connection, clock: &Clock) {
        self.outcome = Some(in_savepoint(conn, clock, &mut self.work));
    }

    // In all three the caller may have gone; what it asked for has happened, or not, all the same.

    fn done(self: Box<Self>) {
        if let Some(outcome) = self.outcome {
            let _ = self.tell.send(outcome);
        }
    }

    fn failed(self: Box<Self>, why: &str) {
        let _ = self.tell.send(Err(StoreError::Unwritable(why.to_owned()).into()));
    }

    fn is_patient(&self) -> bool {
        self.patient
    }

    fn lose(&mut self) -> u32 {
        self.losses += 1;
        self.losses
    }
}

/// A job, and where its answer comes.
pub(super) fn job<T, E>(
    work: impl FnMut(&Tx<'_>) -> Result<T, E> + Send + 'static,
    patient: bool,
) -> (Box<dyn Job>, oneshot::Receiver<Result<T, E>>)
where
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
{
    let (tell, answer) = oneshot::channel();
    (Box::new(Asked { work, outcome: None, tell, patient, losses: 0 }), answer)
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

/// Since when nothing can be written, and why.
pub(super) struct Fault {
    since: Instant,
    pub(super) why: String,
}

/// A group that is not on disk.
struct Undone {
    jobs: Vec<Box<dyn Job>>,
    why: Why,
}

enum Why {
    /// The transaction could not be begun or committed.
    Commit(rusqlite::Error),
    /// A failing statement of this job had SQLite undo all of it.
    Statement(usize),
}

/// Whether what SQLite said may pass by itself.
fn may_pass(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::ReadOnly
                | ErrorCode::CannotOpen
                | ErrorCode::PermissionDenied
                | ErrorCode::OutOfMemory
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::FileLockingProtocolFailed
        )
    )
}

/// How much room there is for us where `dir` is; `None` when that cannot be told.
pub(super) fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(dir).ok()?;
    Some(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

fn is_full(dir: &Path) -> bool {
    free_bytes(dir).is_some_and(|free| free < FULL_BYTES)
}

/// Why nothing can be written, and what to do.
fn words(dir: &Path, why: &Why) -> String {
    let full = is_full(dir)
        || matches!(why, Why::Commit(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull));
    let dir = dir.display();
    match why {
        _ if full => format!(
            "the database cannot be written: the disk that holds {dir} is full; make room on it"
        ),
        Why::Commit(error) => format!(
            "the database cannot be written ({error}); see to the disk that holds {dir}, its \
             quota and its permissions"
        ),
        Why::Statement(_) => format!(
            "the database cannot be written: the disk that holds {dir} does not take it; see to \
             its quota and its health"
        ),
    }
}

impl Shared {
    /// Commits what is queued. Whoever holds the writer works for all who wait.
    ///
    /// While nothing can be written this returns at once, unless it is to try `again`.
    pub(super) fn drain(self: &Arc<Self>, mut again: bool) {
        loop {
            let mut writer = hold(&self.writer);
            if !again && self.tell_impatient() {
                return;
            }
            let group: Vec<Box<dyn Job>> = {
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
            match self.commit(&writer.conn, group) {
                Ok(()) => {
                    let touched = std::mem::take(&mut *hold(&writer.touched));
                    self.hint(&touched);
                }
                Err(undone) => {
                    hold(&writer.touched).clear();
                    self.take_back(undone);
                    if hold(&self.fault).is_some() {
                        return;
                    }
                }
            }
            again = false;
        }
    }

    /// Runs a group in one transaction and answers its callers, or hands it back undone.
    fn commit(&self, conn: &Connection, mut jobs: Vec<Box<dyn Job>>) -> Result<(), Undone> {
        if let Err(error) = conn.execute_batch("BEGIN IMMEDIATE") {
            return Err(Undone { jobs, why: Why::Commit(error) });
        }
        for index in 0..jobs.len() {
            jobs[index].run(conn, &self.clock);
            // Some failures end the transaction and not only the statement. Whatever ran after
            // that would stand by itself, and what ran before it is gone.
            if conn.is_autocommit() {
                return Err(Undone { jobs, why: Why::Statement(index) });
            }
        }
        if let Err(error) = conn.execute_batch("COMMIT") {
            if !conn.is_autocommit() {
                // Nothing of it stands either way: the next BEGIN would fail.
                let _ = conn.execute_batch("ROLLBACK");
            }
            return Err(Undone { jobs, why: Why::Commit(error) });
        }
        // Before the callers go on: they may ask how the store is.
        self.recovered();
        for job in jobs {
            job.done();
        }
        Ok(())
    }

    /// Keeps the closures that wait, tells the others, and sees to it that it is tried again.
    fn take_back(self: &Arc<Self>, undone: Undone) {
        let text = words(&self.data_dir, &undone.why);
        let Undone { mut jobs, why } = undone;
        match why {
            Why::Commit(error) if !may_pass(&error) => {
                tracing::error!(%error, "cannot commit");
                jobs.into_iter().for_each(|job| job.failed(&text));
                return;
            }
            Why::Commit(_) => {}
            Why::Statement(index) => {
                let mut culprit = jobs.remove(index);
                if culprit.lose() >= LOSSES_MAX && !is_full(&self.data_dir) {
                    culprit.failed(&text);
                } else {
                    // The others first: perhaps it is the only one that cannot be written.
                    jobs.push(culprit);
                }
            }
        }
        let hurry = self.hurry.load(Ordering::Relaxed);
        let (kept, told): (Vec<_>, Vec<_>) =
            jobs.into_iter().partition(|job| job.is_patient() && !hurry);
        told.into_iter().for_each(|job| job.failed(&text));
        if kept.is_empty() {
            return;
        }
        let mut queue = hold(&self.queue);
        for job in kept.into_iter().rev() {
            queue.push_front(job);
        }
        drop(queue);
        let mut fault = hold(&self.fault);
        if fault.is_none() {
            tracing::error!("{text}. What is to be written waits until it can be");
            *fault = Some(Fault { since: Instant::now(), why: text });
            let weak = Arc::downgrade(self);
            let spawned = std::thread::Builder::new()
                .name("store-again".to_owned())
                .spawn(move || try_again(&weak));
            if let Err(error) = spawned {
                // The next write tries, then.
                tracing::error!(%error, "cannot start a thread");
                *fault = None;
            }
        }
    }

    /// While nothing can be written: tells those who do not wait, and says so.
    fn tell_impatient(&self) -> bool {
        let fault = hold(&self.fault);
        let Some(fault) = fault.as_ref() else { return false };
        let hurry = self.hurry.load(Ordering::Relaxed);
        let jobs = std::mem::take(&mut *hold(&self.queue));
        let (kept, told): (Vec<_>, Vec<_>) =
            jobs.into_iter().partition(|job| job.is_patient() && !hurry);
        hold(&self.queue).extend(kept);
        told.into_iter().for_each(|job| job.failed(&fault.why));
        true
    }

    fn recovered(&self) {
        if let Some(fault) = hold(&self.fault).take() {
            let waited_s = fault.since.elapsed().as_secs();
            tracing::info!(waited_s, "the database can be written again");
        }
    }
}

/// Runs what waits again and again, until it is on disk or the store is gone.
fn try_again(shared: &Weak<Shared>) {
    let mut wait = AGAIN_FIRST;
    loop {
        std::thread::sleep(wait);
        wait = (wait * 2).min(AGAIN_MAX);
        let Some(shared) = shared.upgrade() else { return };
        if hold(&shared.queue).is_empty() {
            // Nobody waits any more: the next to write will see.
            hold(&shared.fault).take();
        }
        shared.drain(true);
        if hold(&shared.fault).is_none() {
            return;
        }
    }
}

/// The tables that a transaction has touched, as SQLite's update hook tells.
pub(super) type Touched = HashSet<String>;
