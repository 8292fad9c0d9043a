//! A trial: set-up and gates on exactly the tree that would land, in a temporary worktree.

use super::batch::{Link, names};
use super::gates::{self, GateOutcome, GateReport, GateRun};
use super::place::MergePlace;
use super::{MergeService, Step, Stop};
use crate::model::ids::ItemId;
use crate::model::stage::MergeFailureKind;
use crate::project::Project;
use crate::store::gate_runs::{self, GateRunRow, Place};
use crate::store::{StoreError, merge_queue};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How a trial came out.
#[derive(Debug)]
pub(super) enum Trial {
    /// All passed.
    Passed,
    /// A command did not pass.
    Failed(Failure),
}

/// What did not pass.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// As it is told.
    pub kind: MergeFailureKind,
    /// The last lines of output, with a heading.
    pub output: String,
    /// Whether it may pass the next time. A command that ran out of time may, too, but finding out
    /// costs all of that time again.
    pub looks_like_a_flake: bool,
}

impl MergeService {
    /// Tests the tree of `links` (which stand on what has landed). Fails when the machine does, or
    /// when one of the items was withdrawn meanwhile.
    pub(super) async fn try_out(
        &self,
        project: &Project,
        links: &[Link],
        cancel: &CancellationToken,
    ) -> Result<Trial, Stop> {
        let Some(last) = links.last() else { return Ok(Trial::Passed) };
        if project.setup.is_empty() && project.gates.is_empty() {
            return Ok(Trial::Passed);
        }
        let place = MergePlace::make(
            project.git(),
            self.store.data_dir(),
            &project.name,
            links[0].row.item,
            &last.squashed.commit,
        )
        .await?;
        self.reached(Step::Placed).await;
        // Stopping an item takes its row away, and that ends its gates.
        let stopped = cancel.child_token();
        let tested = {
            let testing = self.run_commands(project, links, &place, &stopped);
            tokio::pin!(testing);
            tokio::select! {
                biased;
                tested = &mut testing => tested,
                () = self.until_changed(links) => {
                    stopped.cancel();
                    testing.await
                }
            }
        };
        place.remove().await;
        let tested = match tested {
            Err(Stop::Again) if cancel.is_cancelled() => Err(Stop::Cancelled),
            other => other,
        };
        if matches!(tested, Ok(Trial::Failed(_))) {
            // What fails on a full disk says nothing about the items.
            self.has_room(project)?;
        }
        tested
    }

    async fn run_commands(
        &self,
        project: &Project,
        links: &[Link],
        place: &MergePlace,
        cancel: &CancellationToken,
    ) -> Result<Trial, Stop> {
        let limit = Duration::from_secs(self.config.gate_timeout_s);
        let items: Vec<String> = links.iter().map(|link| link.row.item.to_string()).collect();
        let mut env = vec![("MUSHER_ITEMS".to_owned(), items.join(" "))];
        if let [only] = &items[..] {
            env.push(("MUSHER_ITEM".to_owned(), only.clone()));
        }
        let say = |gate: &str| tracing::info!(items = ?items, gate, "running on the merged tree");
        for (what, commands) in [("set-up", &project.setup), ("gate", &project.gates)] {
            let report = gates::run(commands, place.path(), limit, &env, cancel, &say).await;
            self.keep(project, links, &report).await?;
            if let Some(run) = report.failure() {
                return judge(run, what, links);
            }
        }
        Ok(Trial::Passed)
    }

    /// Keeps what the commands printed: whole with the first item, for the others a reference.
    async fn keep(
        &self,
        project: &Project,
        links: &[Link],
        report: &GateReport,
    ) -> Result<(), StoreError> {
        let Some(commit) = links.last().map(|link| link.squashed.commit.clone()) else {
            return Ok(());
        };
        let row = |item: ItemId, run: &GateRun, output: String| GateRunRow {
            item: Some(item),
            project: project.name.clone(),
            place: Place::Merge,
            commit: Some(commit.clone()),
            gate: run.gate.clone(),
            exit: run.exit(),
            passed: run.outcome == GateOutcome::Passed,
            timed_out: run.outcome == GateOutcome::TimedOut,
            output,
            duration: run.duration,
            at: self.store.clock().now(),
        };
        let mut rows = Vec::new();
        for run in &report.runs {
            for (place, link) in links.iter().enumerate() {
                let output = match place {
                    0 => run.output.clone(),
                    _ => format!("tested together: items {}", names(links)),
                };
                rows.push(row(link.row.item, run, output));
            }
        }
        self.store.write(move |tx| rows.iter().try_for_each(|run| gate_runs::insert(tx, run))).await
    }

    /// Returns when one of the rows is gone or wants another commit.
    async fn until_changed(&self, links: &[Link]) {
        let mut changes = self.store.changes("merge_queue");
        let rows: Vec<(ItemId, String)> =
            links.iter().map(|link| (link.row.item, link.row.commit.clone())).collect();
        loop {
            let wanted = rows.clone();
            let found = self.store.read(move |conn| {
                for (item, commit) in wanted {
                    let row = merge_queue::find(conn, item)?;
                    if row.is_none_or(|row| row.commit != commit) {
                        return Ok::<bool, StoreError>(true);
                    }
                }
                Ok(false)
            });
            if matches!(found.await, Ok(true)) {
                return;
            }
            changes.changed().await;
        }
    }
}

/// What a command that did not pass on the merged tree means.
///
/// A set-up command counts as a gate: what it installs is named in the tree that would land.
fn judge(run: &GateRun, what: &str, links: &[Link]) -> Result<Trial, Stop> {
    let gate = run.gate.clone();
    let tree = match links {
        [] | [_] => "the merged tree".to_owned(),
        more => format!("the merged tree of items {}", names(more)),
    };
    let output = format!("{what} `{gate}` on {tree}:\n{}", run.tail());
    match &run.outcome {
        GateOutcome::Passed => Ok(Trial::Passed),
        GateOutcome::Cancelled => Err(Stop::Again),
        GateOutcome::Failed { exit } => Ok(Trial::Failed(Failure {
            kind: MergeFailureKind::GateFailed { gate, exit: *exit },
            output,
            looks_like_a_flake: true,
        })),
        GateOutcome::TimedOut => Ok(Trial::Failed(Failure {
            kind: MergeFailureKind::GateTimeout { gate },
            output,
            looks_like_a_flake: false,
        })),
        GateOutcome::NotFound { program } => {
            Err(Stop::Pause { reason: run.in_words(), program: Some(program.clone()) })
        }
        GateOutcome::CannotRun { .. } => Err(Stop::pause(run.in_words())),
    }
}
