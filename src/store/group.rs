//! Group commit, and what happens when the disk says no.
//!
//! Closures that wait at the same moment are committed together, each in a savepoint of its own.
//! When a transaction cannot be begun or committed (the disk is full, a quota is met, the file
//! system has turned read-only), nothing of it stands, and it is no fault of the closures: they
//! are kept in order, and all of them are run again until it can be committed. Meanwhile everybody
//! who writes waits, so nothing is lost and nothing is done twice. Who cannot wait (the command
//! line, a program that is ending) gets [`StoreError::Unwritable`] instead.
//!
//! **One by one.** When a group fails a second time, or a statement of one of its closures had
//! SQLite undo the whole transaction, each is committed alone: what is small gets through where
//! something large does not, and only the large one goes on waiting.
//!
//! **Known limit.** A closure whose own statement fails again and again while others are written is
//! its own fault: after `LOSSES_MAX` times, on a disk with room, it is told so.

use super::{Shared, StoreError, Tx, Writer, hold};
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

/// How often a closure's own statement may fail, each time while others were written, before it is
/// given up.
pub(super) const LOSSES_MAX: u32 = 5;

/// Below this a disk counts as full.
const FULL_BYTES: u64 = 1 << 20;

/// Whether a test has a commit fail as on a full disk.
#[cfg(test)]
pub(super) type Refuses = fn(&Connection) -> bool;

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
    /// Counts that it failed by its own statement while others were written.
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

/// Since when something cannot be written, and why.
pub(super) struct Fault {
    since: Instant,
    why: String,
    /// Whether closures are committed one by one by now.
    alone: bool,
    /// Whether the last closure that was new got through alone.
    partly: bool,
    /// How many got through since those that did not were tried last.
    written: usize,
    /// What does not get through even alone.
    stuck: Vec<Box<dyn Job>>,
}

impl Fault {
    /// Why nothing can be written; `None` while only something large cannot.
    pub(super) fn of_all(&self) -> Option<String> {
        (!self.partly).then(|| self.why.clone())
    }
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

/// How to go about what is queued.
enum Manner {
    /// In groups.
    Together,
    /// One by one.
    Alone,
    /// Not now: those who cannot wait are told.
    Later,
}

impl Shared {
    /// Commits what is queued. Whoever holds the writer works for all who wait.
    ///
    /// While nothing can be written this returns at once, unless it is to try `again`.
    pub(super) fn drain(self: &Arc<Self>, mut again: bool) {
        loop {
            let mut writer = hold(&self.writer);
            match self.manner(again) {
                Manner::Together => {}
                Manner::Alone => {
                    if let Some(writer) = writer.as_mut() {
                        self.drain_alone(writer, again);
                    }
                    return;
                }
                Manner::Later => return self.tell_impatient(),
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
            match self.commit(&writer.conn, group, true) {
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

    /// How to go about what is queued.
    fn manner(&self, again: bool) -> Manner {
        match hold(&self.fault).as_ref() {
            None => Manner::Together,
            Some(fault) if fault.alone && (again || fault.partly) => Manner::Alone,
            Some(_) if again => Manner::Together,
            Some(_) => Manner::Later,
        }
    }

    /// Commits what is queued one by one, and after it, when it is tried `again`, what did not get
    /// through before.
    fn drain_alone(&self, writer: &mut Writer, again: bool) {
        let mut jobs = std::mem::take(&mut *hold(&self.queue));
        let first_old = jobs.len();
        if (again || self.hurry.load(Ordering::Relaxed))
            && let Some(fault) = hold(&self.fault).as_mut()
        {
            jobs.extend(fault.stuck.drain(..));
        }
        let mut position = 0;
        while let Some(job) = jobs.pop_front() {
            let is_new = position < first_old;
            position += 1;
            let last = jobs.is_empty()
                && hold(&self.fault).as_ref().is_none_or(|fault| fault.stuck.is_empty());
            let outcome = self.commit(&writer.conn, vec![job], last);
            let touched = std::mem::take(&mut *hold(&writer.touched));
            if outcome.is_ok() {
                self.hint(&touched);
            }
            if let Some(fault) = hold(&self.fault).as_mut() {
                fault.written += usize::from(outcome.is_ok());
                if is_new {
                    fault.partly = outcome.is_ok();
                }
            }
            if let Err(undone) = outcome {
                self.set_aside(undone);
            }
        }
        if let Some(fault) = hold(&self.fault).as_mut()
            && again
        {
            fault.written = 0;
        }
    }

    /// Keeps a closure that did not get through alone, if it waits and may get through later.
    fn set_aside(&self, undone: Undone) {
        let text = words(&self.data_dir, &undone.why);
        let hurry = self.hurry.load(Ordering::Relaxed);
        let others = hold(&self.fault).as_ref().is_some_and(|fault| fault.written > 0);
        for mut job in undone.jobs {
            let hopeless = match &undone.why {
                Why::Commit(error) => !may_pass(error),
                Why::Statement(_) => others && job.lose() >= LOSSES_MAX && !is_full(&self.data_dir),
            };
            let waits = job.is_patient() && !hurry && !hopeless;
            match hold(&self.fault).as_mut() {
                Some(fault) if waits => fault.stuck.push(job),
                Some(_) | None => job.failed(&text),
            }
        }
    }

    /// Runs a group in one transaction and answers its callers, or hands it back undone. `last`:
    /// nothing else waits to be written.
    fn commit(
        &self,
        conn: &Connection,
        mut jobs: Vec<Box<dyn Job>>,
        last: bool,
    ) -> Result<(), Undone> {
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
        #[cfg(test)]
        let refused = hold(&self.refuse_commit).as_ref().is_some_and(|refuses| refuses(conn));
        #[cfg(not(test))]
        let refused = false;
        let committed = if refused {
            let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
            Err(rusqlite::Error::SqliteFailure(full, None))
        } else {
            conn.execute_batch("COMMIT")
        };
        if let Err(error) = committed {
            if !conn.is_autocommit() {
                // Nothing of it stands either way: the next BEGIN would fail.
                let _ = conn.execute_batch("ROLLBACK");
            }
            return Err(Undone { jobs, why: Why::Commit(error) });
        }
        // Before the callers go on: they may ask how the store is.
        if last {
            self.recovered();
        }
        for job in jobs {
            job.done();
        }
        Ok(())
    }

    /// Keeps the closures that wait, tells the others, and sees to it that it is tried again.
    fn take_back(self: &Arc<Self>, undone: Undone) {
        let text = words(&self.data_dir, &undone.why);
        let Undone { mut jobs, why } = undone;
        let by_statement = matches!(why, Why::Statement(_));
        match why {
            Why::Commit(error) if !may_pass(&error) => {
                tracing::error!(%error, "cannot commit");
                jobs.into_iter().for_each(|job| job.failed(&text));
                return;
            }
            Why::Commit(_) => {}
            Why::Statement(index) => {
                // The others first: perhaps it is the only one that cannot be written.
                let culprit = jobs.remove(index);
                jobs.push(culprit);
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
        if let Some(fault) = fault.as_mut() {
            fault.alone = true;
        } else {
            tracing::error!("{text}. What is to be written waits until it can be");
            *fault = Some(Fault {
                since: Instant::now(),
                why: text,
                alone: by_statement,
                partly: false,
                written: 0,
                stuck: vec![],
            });
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

    /// While nothing can be written: tells those who do not wait.
    fn tell_impatient(&self) {
        let mut fault = hold(&self.fault);
        let Some(fault) = fault.as_mut() else { return };
        let hurry = self.hurry.load(Ordering::Relaxed);
        let jobs = std::mem::take(&mut *hold(&self.queue));
        let (kept, mut told): (Vec<_>, Vec<_>) =
            jobs.into_iter().partition(|job| job.is_patient() && !hurry);
        hold(&self.queue).extend(kept);
        if hurry {
            told.append(&mut fault.stuck);
        }
        told.into_iter().for_each(|job| job.failed(&fault.why));
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
        shared.drain(true);
        let writing = hold(&shared.writer);
        let mut fault = hold(&shared.fault);
        let waits = fault.as_ref().is_some_and(|fault| !fault.stuck.is_empty());
        if !waits && hold(&shared.queue).is_empty() {
            // Nobody waits any more: the next to write will see.
            fault.take();
            return;
        }
        drop((fault, writing));
    }
}

/// The tables that a transaction has touched, as SQLite's update hook tells.
pub(super) type Touched = HashSet<String>;
