//! The merge queue: from a finished branch to one tested commit on the base branch.
//!
//! **Forces.** The base branch is the person's, and so is the checkout that stands on it. Agents
//! finish at the same time, the base moves under everybody, gates take minutes, and a kill can come
//! between any two steps. Nothing may land that was not tested as it lands, nothing may land twice,
//! and nothing that was queued may be forgotten.
//!
//! **Properties.**
//! - One merger a project, one item at a time. Two servers cannot work one queue: the data
//!   directory's lock (pid and start time) is the lease. Somebody else who moves the base is met by
//!   the compare-and-swap.
//! - An item's commits become one commit on the current base, in memory; set-up and gates run on
//!   exactly that commit in a temporary worktree; then the ref is moved if the base still stands
//!   where it stood, or else everything is done again on the new base.
//! - Before the ref moves, the row says from where to where (`landing`). After a kill, the row and
//!   the ref tell together what is left to do: when the base holds the commit, it has landed.
//! - The row goes in the transaction that appends `Event::Merged` or `Event::MergeFailed`, so each
//!   queueing ends in exactly one of them.
//! - What the machine fails at (git, disk, a gate's program missing) is tried again later and never
//!   counted against the item; the room hears of it once.
//!
//! **Known races.** The person commits in their checkout between the look at it and the move of the
//! ref: the compare-and-swap loses and all is done again. They edit a file in that moment: git
//! refuses to overwrite it, and the checkout is treated as one with changes. `stop` after the row
//! says `landing` comes too late, and says so ([`withdraw`]).

mod checkout;
pub mod gates;
mod land;
mod place;
mod squash;

pub use crate::store::merge_queue::{QueueRow, enqueue, withdraw};

use crate::config::MergeConfig;
use crate::failpoint::failpoint;
use crate::model::ids::ProjectName;
use crate::project::{Registry, shell};
use crate::store::{Store, StoreError, merge_queue, meta};
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

/// The time between two looks at the queue when no hint comes.
const TICK: Duration = Duration::from_secs(30);

/// The pause of a project's queue after the database failed.
const AFTER_STORE_ERROR: Duration = Duration::from_secs(5);

/// How long a worker may take to end when the server shuts down; what it did is then repeated.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// The steps of a merge, in order; tests stop the service after each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// The squash commit exists.
    Squashed,
    /// The temporary worktree exists.
    Placed,
    /// Set-up and gates have passed.
    Tested,
    /// The row says what is about to happen.
    Noted,
    /// The ref has moved.
    Moved,
    /// The checkouts have followed.
    Followed,
    /// The remote has it, where it should.
    Pushed,
    /// The row is gone and the event is written.
    Recorded,
}

impl Step {
    /// All steps, in order.
    pub const ALL: [Step; 8] = [
        Step::Squashed,
        Step::Placed,
        Step::Tested,
        Step::Noted,
        Step::Moved,
        Step::Followed,
        Step::Pushed,
        Step::Recorded,
    ];

    /// The name of the failpoint after it.
    fn as_str(self) -> &'static str {
        match self {
            Step::Squashed => "merge-squashed",
            Step::Placed => "merge-placed",
            Step::Tested => "merge-tested",
            Step::Noted => "merge-noted",
            Step::Moved => "merge-moved",
            Step::Followed => "merge-followed",
            Step::Pushed => "merge-pushed",
            Step::Recorded => "merge-recorded",
        }
    }
}

/// Is awaited after each step; a test's never returns at the step where the process "dies".
pub type Watcher = Arc<dyn Fn(Step) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Works the queues of all projects.
#[derive(Clone)]
pub struct MergeService {
    store: Store,
    projects: Registry,
    config: MergeConfig,
    watcher: Option<Watcher>,
}

impl MergeService {
    /// A service that is not running yet.
    pub fn new(store: Store, projects: Registry, config: MergeConfig) -> Self {
        Self { store, projects, config, watcher: None }
    }

    /// Has `watcher` awaited after each step: for tests.
    pub fn watched(mut self, watcher: Watcher) -> Self {
        self.watcher = Some(watcher);
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
    /// has none, and waits for a hint, a row that was put off, or a tick.
    pub async fn run(self, cancel: CancellationToken) {
        self.reconcile().await;
        let mut changes = self.store.changes("merge_queue");
        let mut workers: JoinSet<()> = JoinSet::new();
        let mut busy: HashMap<Id, ProjectName> = HashMap::new();
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
        let poll = chrono::Duration::seconds(60);
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
