//! One queued item: from its row to the base branch, or back to work.

use super::checkout::{self, CheckoutError};
use super::gates::{self, GateOutcome, GateReport, GateRun};
use super::place::MergePlace;
use super::squash::{self, SquashError, Squashed};
use super::{MergeService, Step};
use crate::model::chat::Outgoing;
use crate::model::event::Event;
use crate::model::ids::{ProjectName, SessionKey};
use crate::model::stage::MergeFailureKind;
use crate::project::Project;
use crate::project::git::{GitError, Identity, RefUpdate};
use crate::store::gate_runs::{self, GateRunRow, Place};
use crate::store::merge_queue::{self, ItemFacts, Landing, QueueRow};
use crate::store::{StoreError, log, merge_state, outbox};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often a merge is done again because the base moved, before it is given back.
const BASE_MOVES: usize = 5;

/// Why an item did not land.
enum Stop {
    /// It is given back, with the last lines of output.
    Failed(MergeFailureKind, String),
    /// The machine failed; to be tried again.
    Later(String),
    /// Its row is gone, or the server shuts down: nothing to record.
    Withdrawn,
    /// The database failed.
    Store(StoreError),
}

impl From<GitError> for Stop {
    fn from(error: GitError) -> Self {
        Stop::Later(error.to_string())
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

impl From<SquashError> for Stop {
    fn from(error: SquashError) -> Self {
        match error {
            SquashError::Failed { kind, output } => Stop::Failed(kind, output),
            SquashError::Git(error) => error.into(),
        }
    }
}

impl MergeService {
    /// Works a project's queue until nothing in it is due.
    pub(super) async fn work(
        &self,
        name: &ProjectName,
        cancel: &CancellationToken,
    ) -> Result<(), StoreError> {
        while !cancel.is_cancelled() {
            let (now, wanted) = (self.store.clock().millis(), name.clone());
            let rows =
                self.store.read(move |conn| merge_queue::waiting(conn, &wanted, now)).await?;
            let Some(row) = rows.into_iter().next() else { return Ok(()) };
            match self.take(&row, cancel).await {
                Ok(()) => {}
                Err(Stop::Failed(kind, output)) => self.give_back(&row, kind, output).await?,
                Err(Stop::Later(what)) => return self.put_off(&row, what).await,
                Err(Stop::Withdrawn) => {}
                Err(Stop::Store(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Brings one item as far as it goes.
    async fn take(&self, row: &QueueRow, cancel: &CancellationToken) -> Result<(), Stop> {
        let item = row.item;
        let Some(project) = self.projects.find(&row.project) else {
            return Err(Stop::Later(format!("there is no project `{}` any more", row.project)));
        };
        if let Some(landing) = &row.landing {
            // A kill came after this was noted; the ref tells whether it moved.
            if self.has_landed(&project, landing).await? {
                return self.finish(row, &project, landing).await;
            }
            self.store.write(move |tx| merge_queue::clear_landing(tx, item)).await?;
        }
        let facts = self.store.read(move |conn| merge_queue::facts_of(conn, item)).await?;
        let Some(facts) = facts else {
            tracing::warn!(%item, "a queued item is gone; its row is removed");
            self.store.write(move |tx| merge_queue::remove(tx, item)).await?;
            return Ok(());
        };
        for _round in 0..BASE_MOVES {
            let squashed = self.squash(row, &project, &facts).await?;
            self.reached(Step::Squashed).await;
            self.test(row, &project, &squashed, cancel).await?;
            self.reached(Step::Tested).await;
            if let Some(landing) = self.land(row, &project, squashed).await? {
                return self.finish(row, &project, &landing).await;
            }
        }
        let output = format!("the base branch moved during each of {BASE_MOVES} attempts");
        Err(Stop::Failed(MergeFailureKind::BaseMoved, output))
    }

    async fn squash(
        &self,
        row: &QueueRow,
        project: &Project,
        facts: &ItemFacts,
    ) -> Result<Squashed, Stop> {
        if let Err(error) = project.check().await {
            return Err(Stop::Later(error.to_string()));
        }
        let git = project.git();
        let base = git.rev_parse(&project.base_ref()).await?;
        let message = squash::message(row.item, facts);
        let author = Identity::parse(&self.config.author);
        Ok(squash::squash(&git, &base, &row.commit, &message, &author).await?)
    }

    /// Runs set-up and gates on the squash commit.
    async fn test(
        &self,
        row: &QueueRow,
        project: &Project,
        squashed: &Squashed,
        cancel: &CancellationToken,
    ) -> Result<(), Stop> {
        if project.setup.is_empty() && project.gates.is_empty() {
            return Ok(());
        }
        let place = MergePlace::make(
            project.git(),
            self.store.data_dir(),
            &project.name,
            row.item,
            &squashed.commit,
        )
        .await?;
        self.reached(Step::Placed).await;
        // Stopping the item takes its row away, and that ends its gates.
        let cancel = cancel.child_token();
        let tested = {
            let testing = self.run_gates(row, project, squashed, &place, &cancel);
            tokio::pin!(testing);
            tokio::select! {
                biased;
                tested = &mut testing => tested,
                () = self.until_withdrawn(row) => {
                    cancel.cancel();
                    testing.await
                }
            }
        };
        place.remove().await;
        tested
    }

    async fn run_gates(
        &self,
        row: &QueueRow,
        project: &Project,
        squashed: &Squashed,
        place: &MergePlace,
        cancel: &CancellationToken,
    ) -> Result<(), Stop> {
        let limit = Duration::from_secs(self.config.gate_timeout_s);
        let env = [("MUSHER_ITEM".to_owned(), row.item.to_string())];
        let say = |gate: &str| tracing::info!(item = %row.item, gate, "running on the merged tree");
        for (what, commands) in [("set-up", &project.setup), ("gate", &project.gates)] {
            let report = gates::run(commands, place.path(), limit, &env, cancel, &say).await;
            self.keep(row, squashed, &report).await?;
            if let Some(run) = report.failure() {
                return Err(stop_of(run, what));
            }
        }
        Ok(())
    }

    /// Keeps what the gates printed.
    async fn keep(
        &self,
        row: &QueueRow,
        squashed: &Squashed,
        report: &GateReport,
    ) -> Result<(), StoreError> {
        let kept = |run: &GateRun| GateRunRow {
            item: Some(row.item),
            project: row.project.clone(),
            place: Place::Merge,
            commit: Some(squashed.commit.clone()),
            gate: run.gate.clone(),
            exit: run.exit(),
            passed: run.outcome == GateOutcome::Passed,
            timed_out: run.outcome == GateOutcome::TimedOut,
            output: run.output.clone(),
            duration: run.duration,
            at: self.store.clock().now(),
        };
        let rows: Vec<GateRunRow> = report.runs.iter().map(kept).collect();
        self.store.write(move |tx| rows.iter().try_for_each(|run| gate_runs::insert(tx, run))).await
    }

    /// Returns when the row is gone or wants another commit.
    async fn until_withdrawn(&self, row: &QueueRow) {
        let mut changes = self.store.changes("merge_queue");
        loop {
            let item = row.item;
            let found = self.store.read(move |conn| merge_queue::find(conn, item)).await;
            if let Ok(found) = found
                && found.is_none_or(|found| found.commit != row.commit)
            {
                return;
            }
            changes.changed().await;
        }
    }

    /// Moves the base; `None` when it moved meanwhile.
    async fn land(
        &self,
        row: &QueueRow,
        project: &Project,
        squashed: Squashed,
    ) -> Result<Option<Landing>, Stop> {
        let (base, commit) = (squashed.base, squashed.commit);
        let checkouts = checkout::look(&self.store, project, &base, &commit).await?;
        let landing = Landing {
            base,
            commit,
            tip: None,
            remote: None,
            clean: checkouts.clean,
            dirty: checkouts.dirty,
        };
        let item = row.item;
        let noted = [(item, row.commit.clone(), landing.clone())];
        let still_wanted =
            self.store.write(move |tx| merge_queue::set_landings(tx, &noted)).await?;
        if !still_wanted {
            return Err(Stop::Withdrawn);
        }
        self.reached(Step::Noted).await;
        let reason = format!("musher: item {item}");
        let git = project.git();
        let moved = git
            .update_ref(&project.base_ref(), &landing.commit, Some(&landing.base), &reason)
            .await;
        if matches!(moved, Ok(RefUpdate::Moved)) {
            self.reached(Step::Moved).await;
            return Ok(Some(landing));
        }
        // Lost, or git failed without saying how far it got: the ref tells.
        if self.has_landed(project, &landing).await? {
            return Ok(Some(landing));
        }
        self.store.write(move |tx| merge_queue::clear_landing(tx, item)).await?;
        match moved {
            Ok(_lost) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn has_landed(&self, project: &Project, landing: &Landing) -> Result<bool, Stop> {
        let git = project.git();
        if git.find_commit(&landing.commit).await?.is_none() {
            return Ok(false);
        }
        match git.branch_tip(&project.base).await? {
            Some(tip) => Ok(git.is_ancestor(&landing.commit, &tip).await?),
            None => Ok(false),
        }
    }

    /// Does what follows when the base has moved; each part may be repeated.
    async fn finish(
        &self,
        row: &QueueRow,
        project: &Project,
        landing: &Landing,
    ) -> Result<(), Stop> {
        let mut notes = checkout::follow(&self.store, landing).await?;
        self.reached(Step::Followed).await;
        if project.push
            && let Err(error) = self.push(project).await
        {
            notes.push(format!(
                "Item {} is merged into `{}` here, but it could not be pushed: {error}. The next \
                 merge pushes it too; to do it now: `git -C {} push`.",
                row.item,
                project.base,
                project.path.display()
            ));
        }
        self.reached(Step::Pushed).await;
        let (item, commit, name) = (row.item, landing.commit.clone(), project.name.clone());
        let bound = project.room.clone();
        self.store
            .write(move |tx| {
                let room = merge_queue::room_for(tx, item, &name, bound)?;
                if !merge_queue::remove(tx, item)? {
                    return Ok(());
                }
                if let Some(room) = room {
                    for (number, note) in notes.iter().enumerate() {
                        let mut outgoing = Outgoing::text(SessionKey::main(room.clone()), note);
                        outgoing.item = Some(item);
                        let key = format!("merge-note:{commit}:{number}");
                        outbox::enqueue(tx, &outgoing, Some(&key))?;
                    }
                }
                log::append_event(tx, &Event::Merged { item, commit }).map(drop)
            })
            .await?;
        tracing::info!(item = %row.item, commit = %landing.commit, "merged");
        self.reached(Step::Recorded).await;
        Ok(())
    }

    async fn push(&self, project: &Project) -> Result<(), GitError> {
        let git = project.git();
        let tip = git.rev_parse(&project.base_ref()).await?;
        let remote = git.remote_of(&project.base).await?;
        git.push(&remote, &tip, &project.base).await
    }

    async fn give_back(
        &self,
        row: &QueueRow,
        kind: MergeFailureKind,
        output: String,
    ) -> Result<(), StoreError> {
        tracing::info!(item = %row.item, kind = kind.name(), "the merge failed");
        let (item, wanted) = (row.item, row.commit.clone());
        self.store
            .write(move |tx| {
                let current = merge_queue::find(tx, item)?;
                // Meanwhile stopped, or queued again with another commit: this failure is old news.
                if current.is_none_or(|current| current.commit != wanted) {
                    return Ok(());
                }
                merge_queue::remove(tx, item)?;
                log::append_event(tx, &Event::MergeFailed { item, kind, output }).map(drop)
            })
            .await
    }

    async fn put_off(&self, row: &QueueRow, what: String) -> Result<(), StoreError> {
        tracing::warn!(item = %row.item, what, "the merge queue stands still");
        let (item, name) = (row.item, row.project.clone());
        let bound = self.projects.find(&name).and_then(|project| project.room);
        self.store
            .write(move |tx| {
                let (pause, news) = merge_state::pause(tx, &name, &what, None)?;
                let Some(room) = merge_queue::room_for(tx, item, &name, bound)?.filter(|_| news)
                else {
                    return Ok(());
                };
                let text = format!(
                    "The merge queue of {name} stands still, through no fault of its items: {what}. \
                     It is tried again by itself."
                );
                let outgoing = Outgoing::text(SessionKey::main(room), text);
                let key = format!("merge-paused:{name}:{}", pause.since);
                outbox::enqueue(tx, &outgoing, Some(&key)).map(drop)
            })
            .await
    }
}

/// What a command that did not pass on the merged tree means for the item.
///
/// A set-up command counts as a gate: what it installs is named in the tree that would land.
fn stop_of(run: &GateRun, what: &str) -> Stop {
    let gate = run.gate.clone();
    let output = format!("{what} `{gate}` on the merged tree:\n{}", run.tail());
    match &run.outcome {
        GateOutcome::Passed | GateOutcome::Cancelled => Stop::Withdrawn,
        GateOutcome::Failed { exit } => {
            Stop::Failed(MergeFailureKind::GateFailed { gate, exit: *exit }, output)
        }
        GateOutcome::TimedOut => Stop::Failed(MergeFailureKind::GateTimeout { gate }, output),
        GateOutcome::NotFound { .. } | GateOutcome::CannotRun { .. } => Stop::Later(run.in_words()),
    }
}
