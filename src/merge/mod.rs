//! The merge queue: from finished branches to tested commits on the base branch.
//!
//! **Forces.** The base branch is the person's, and so is the checkout that stands on it. Agents
//! finish at the same time, the base moves under everybody, gates take minutes, and a kill can come
//! between any two steps. Nothing may land that was not tested as it lands, nothing may land twice,
//! and nothing that was queued may be forgotten.
//!
//! **Properties.**
//! - One merger a project, which holds the project's lease (pid and start time; a dead owner's is
//!   taken over). Two servers cannot work one database anyway: the data directory's lock sees to
//!   that. Somebody else who moves the base is met by the compare-and-swap.
//! - The first few items in order become a chain of squash commits on the current base, in memory
//!   (`batch`); set-up and gates run on exactly the last of them in a temporary worktree
//!   (`trial`); what passed lands by one move of the ref, if the base still stands where it stood
//!   (`land`), or else everything is done again on the new base. What fails is tried once more,
//!   then split by halves until the culprit is known (`search`).
//! - Before the ref moves, the rows say from where to where (`landing`). After a kill, rows and ref
//!   (or remote) tell together what is left to do. Which part of a batch was tested already is not
//!   remembered: it is tested again.
//! - A row goes in the transaction that appends `Event::Merged` or `Event::MergeFailed`, so each
//!   queueing ends in exactly one of them.
//! - Where the base is pushed, the remote has it first: a push that is refused leaves the base
//!   where it was, here and there (`remote`). Where people merge, the row waits for them
//!   (`pulls`).
//! - What the machine fails at (git, disk, network, a gate's program missing) has the project's
//!   queue stand still, tried again later and later, with one message. What git cannot do for one
//!   item only is that item's `Infrastructure` failure, which is not counted against it.
//!
//! **Known races.** The person commits in their checkout between the look at it and the move of the
//! ref: the compare-and-swap loses and all is done again. They edit a file in that moment: git
//! refuses to overwrite it, and the checkout is treated as one with changes. `stop` after the row
//! says `landing` comes too late, and says so ([`withdraw`]). Two projects on one base branch
//! compete like Musher and a person do: each round one of them wins.

mod batch;
mod checkout;
pub mod gates;
mod land;
mod place;
mod predict;
mod pulls;
mod remote;
mod round;
mod search;
mod squash;
mod trial;
mod watch;

pub use crate::store::merge_queue::{QueueRow, enqueue, withdraw};

use crate::config::MergeConfig;
use crate::failpoint::failpoint;
use crate::model::ids::{ItemId, ProjectName};
use crate::project::git::GitError;
use crate::project::{Registry, shell};
use crate::store::merge_state::Lease;
use crate::store::{Owner, Store, StoreError, merge_queue, merge_state, meta};
use checkout::CheckoutError;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

/// The time between two looks at the queue when no hint comes.
const TICK: Duration = Duration::from_secs(30);

/// The pause of a project's queue after the database failed.
const AFTER_STORE_ERROR: Duration = Duration::from_secs(5);

/// How long a worker may take to end when the server shuts down; what it did is then repeated.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// Where less than this is left, in bytes, nothing is tested and no failure is believed.
const DISK_MIN: u64 = 64 * 1024 * 1024;

/// The steps of a merge; tests stop the service after each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// The remote's base is known here.
    Fetched,
    /// The squash commits exist.
    Squashed,
    /// The temporary worktree exists.
    Placed,
    /// Set-up and gates have passed.
    Tested,
    /// Set-up or gates have failed; the same tree, or a part of it, is tested next.
    Split,
    /// The row of the one that broke a batch is gone and the event is written.
    Blamed,
    /// The rows say what is about to happen.
    Noted,
    /// The remote has it, where it should.
    Pushed,
    /// The ref has moved.
    Moved,
    /// The checkouts have followed.
    Followed,
    /// The rows are gone and the events are written.
    Recorded,
    /// The command has opened a pull request.
    Opened,
    /// The pull request is noted.
    PullNoted,
}

impl Step {
    /// All steps.
    pub const ALL: [Step; 13] = [
        Step::Fetched,
        Step::Squashed,
        Step::Placed,
        Step::Tested,
        Step::Split,
        Step::Blamed,
        Step::Noted,
        Step::Pushed,
        Step::Moved,
        Step::Followed,
        Step::Recorded,
        Step::Opened,
        Step::PullNoted,
    ];

    /// The name of the failpoint after it.
    pub fn as_str(self) -> &'static str {
        match self {
            Step::Fetched => "merge-fetched",
            Step::Squashed => "merge-squashed",
            Step::Placed => "merge-placed",
            Step::Tested => "merge-tested",
            Step::Split => "merge-split",
            Step::Blamed => "merge-blamed",
            Step::Noted => "merge-noted",
            Step::Pushed => "merge-pushed",
            Step::Moved => "merge-moved",
            Step::Followed => "merge-followed",
            Step::Recorded => "merge-recorded",
            Step::Opened => "merge-opened",
            Step::PullNoted => "merge-pull-noted",
        }
    }
}

/// Is awaited after each step; a test's never returns at the step where the process "dies".
pub type Watcher = Arc<dyn Fn(Step) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Why a round over a queue ended early.
#[derive(Debug)]
enum Stop {
    /// The machine failed, or lacks something: the whole queue stands still.
    Pause {
        /// Why, in words, with the remedy.
        reason: String,
        /// The program that is missing, when it is that.
        program: Option<String>,
    },
    /// Something changed meanwhile: look again.
    Again,
    /// The server shuts down.
    Cancelled,
    /// The database failed.
    Store(StoreError),
}

impl Stop {
    fn pause(reason: impl Into<String>) -> Self {
        Stop::Pause { reason: reason.into(), program: None }
    }
}

impl From<GitError> for Stop {
    fn from(error: GitError) -> Self {
        Stop::pause(error.to_string())
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Stop::Store(error)
    }
}

impl From<CheckoutError> for Stop {
    fn from(error: CheckoutError) -> Self {
        match error {
            CheckoutError::Git(error) => error.into(),
            CheckoutError::Store(error) => error.into(),
        }
    }
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Works the queues of all projects.
#[derive(Clone)]
pub struct MergeService {
    store: Store,
    projects: Registry,
    config: MergeConfig,
    owner: Owner,
    disk_min: u64,
    watcher: Option<Watcher>,
    /// What each project's remote last refused, and why. Forgotten with the process: that costs one
    /// more try.
    refusals: Arc<Mutex<HashMap<ProjectName, (ItemId, String)>>>,
    /// How long ago rooms last heard of an open pull request, as a level. What they heard is in the
    /// outbox under its key; this only saves looking.
    pulls_told: Arc<Mutex<HashMap<(ItemId, String), u32>>>,
}

impl MergeService {
    /// A service that is not running yet.
    pub fn new(store: Store, projects: Registry, config: MergeConfig) -> Self {
        let owner = Owner::this_process();
        Self {
            store,
            projects,
            config,
            owner,
            disk_min: DISK_MIN,
            watcher: None,
            refusals: Arc::default(),
            pulls_told: Arc::default(),
        }
    }

    /// Has `watcher` awaited after each step: for tests.
    pub fn watched(mut self, watcher: Watcher) -> Self {
        self.watcher = Some(watcher);
        self
    }

    /// Wants so many bytes left on the disk: for tests.
    pub fn with_disk_min(mut self, bytes: u64) -> Self {
        self.disk_min = bytes;
        self
    }

    /// Kills what gates of an earlier server left running and clears away its temporary worktrees.
    /// The rows need no repair: each is worked from what it and the repository say.
    pub async fn reconcile(&self) {
        let killed = shell::sweep_orphans();
        if killed > 0 {
            tracing::warn!(killed, "killed commands that an earlier server left running");
        }
        for project in self.projects.list() {
            place::clear_all(&project.git(), self.store.data_dir(), &project.name).await;
        }
    }

    /// Works the queues until `cancel`: reads what is due, starts a worker for each project that
    /// has none, and waits for a hint, a queue that stood still, or a tick.
    pub async fn run(self, cancel: CancellationToken) {
        self.reconcile().await;
        let mut changes = self.store.changes("merge_queue");
        let mut workers: JoinSet<()> = JoinSet::new();
        let mut busy: HashMap<Id, ProjectName> = HashMap::new();
        workers.spawn(self.clone().watch(cancel.child_token()));
        loop {
            let started = tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                started = self.start_workers(&mut workers, &mut busy, &cancel) => started,
            };
            let wait = started.unwrap_or_else(|error| {
                tracing::error!(%error, "cannot read the merge queue");
                TICK
            });
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                Some(ended) = workers.join_next_with_id(), if !workers.is_empty() => {
                    let id = ended.map_or_else(
                        |error| {
                            tracing::error!(%error, "a merge worker panicked");
                            error.id()
                        },
                        |(id, ())| id,
                    );
                    busy.remove(&id);
                }
                () = changes.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        let all = async { while workers.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN, all).await.is_err() {
            tracing::warn!("a merge was cut off by the shutdown; it is repeated at the next start");
        }
    }

    /// Starts what is due; says how long nothing more will be.
    async fn start_workers(
        &self,
        workers: &mut JoinSet<()>,
        busy: &mut HashMap<Id, ProjectName>,
        cancel: &CancellationToken,
    ) -> Result<Duration, StoreError> {
        let now = self.store.clock().millis();
        let poll = self.poll();
        let (stopped, due, next) = self
            .store
            .read(move |conn| {
                let stopped = meta::find(conn, meta::STOPPED_ALL)?.is_some();
                let due = merge_queue::due_projects(conn, now, poll)?;
                Ok::<_, StoreError>((stopped, due, merge_queue::next_due(conn, now, poll)?))
            })
            .await?;
        let is_busy = |name: &ProjectName| busy.values().any(|busy| busy == name);
        let idle = self.projects.list().into_iter().filter(|project| !is_busy(&project.name));
        for project in idle {
            if let Err(error) = checkout::heal(&self.store, &project).await {
                tracing::debug!(%error, project = %project.name, "cannot look after its checkouts");
            }
        }
        for name in due {
            let paused = self.projects.find(&name).is_some_and(|project| project.paused);
            if stopped || paused || busy.values().any(|busy| *busy == name) {
                continue;
            }
            let (service, cancel, project) = (self.clone(), cancel.child_token(), name.clone());
            let worker = workers.spawn(async move {
                if let Err(error) = service.work(&project, &cancel).await {
                    tracing::error!(%error, %project, "the merge queue stopped");
                    // A database that cannot be written to must not be asked without end.
                    let _ = tokio::time::timeout(AFTER_STORE_ERROR, cancel.cancelled()).await;
                }
            });
            busy.insert(worker.id(), name);
        }
        let wait = next.map_or(TICK, |next| Duration::from_millis((next - now).unsigned_abs()));
        Ok(wait.min(TICK))
    }

    /// Works a project's queue until nothing in it is due, if nobody else does.
    async fn work(&self, name: &ProjectName, cancel: &CancellationToken) -> Result<(), StoreError> {
        if let Some(other) = self.lease(name).await? {
            tracing::warn!(project = %name, pid = other.owner.pid, "another process merges there");
            // Not asked again at once; its end brings no hint.
            let _ = tokio::time::timeout(TICK, cancel.cancelled()).await;
            return Ok(());
        }
        let worked = self.rounds(name, cancel).await;
        let (project, me) = (name.clone(), self.owner.clone());
        self.store.write(move |tx| merge_state::free_lease(tx, &project, &me)).await?;
        worked
    }

    /// Takes the lease on a project's queue; otherwise says who has it.
    async fn lease(&self, name: &ProjectName) -> Result<Option<Lease>, StoreError> {
        let (project, me) = (name.clone(), self.owner.clone());
        self.store
            .write(move |tx| merge_state::take_lease(tx, &project, &me, Owner::is_alive))
            .await
    }

    /// The time between two looks at open pull requests.
    fn poll(&self) -> chrono::Duration {
        let seconds = i64::try_from(self.config.pr_poll_s).unwrap_or(i64::MAX);
        chrono::Duration::try_seconds(seconds).unwrap_or(chrono::Duration::MAX)
    }

    /// Tells a watching test that a step is done.
    async fn reached(&self, step: Step) {
        failpoint(step.as_str());
        if let Some(watcher) = &self.watcher {
            watcher(step).await;
        }
    }
}

#[cfg(test)]
mod tests;
