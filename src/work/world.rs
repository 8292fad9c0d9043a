//! What work needs of the outside: an item's worktree, its gates, its agents.
//!
//! A trait, so that the loops are tested step by step without git and processes.

use super::{WorkError, queue, text};
use crate::agents::Agents;
use crate::config::Config;
use crate::merge::gates;
use crate::model::chat::Outgoing;
use crate::model::ids::{ItemId, SessionKey};
use crate::model::item::Item;
use crate::project::git::{FileChange, Git};
use crate::project::{Project, Registry, worktree};
use crate::store::gate_runs::{self, GateRunRow, Place};
use crate::store::{Store, merge_pulls, outbox};
use anyhow::Context;
use async_trait::async_trait;
use chrono::DateTime;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What an item's worktree holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checked {
    /// The commit at the head of the item's branch, if the branch has one of its own.
    pub commit: Option<String>,
    /// Paths with changes that are not committed.
    pub dirty: Vec<String>,
    /// Something that changes whenever the worktree's changes do: how progress is seen.
    pub fingerprint: String,
}

/// What came of running the gates in an item's worktree.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GateOutcome {
    /// The first gate that failed; `None`: all passed.
    pub failed: Option<FailedGate>,
    /// Paths that the gates left behind and that were not there before.
    pub leftovers: Vec<String>,
}

/// A gate that did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedGate {
    /// Its command.
    pub gate: String,
    /// What happened, as a clause that names it.
    pub words: String,
    /// Whether its program is not installed: no coder can mend that.
    pub missing: bool,
    /// The last lines of its output.
    pub tail: String,
}

/// What an item's work changes, for a person who is to judge it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiffSummary {
    /// The files, with the lines added and removed.
    pub files: Vec<FileChange>,
    /// How many commits it is.
    pub commits: u64,
}

/// The outside, as work sees it. Everything is safe to repeat.
#[async_trait]
pub trait World: Send + Sync + 'static {
    /// Looks at the item's branch and worktree.
    async fn check(&self, item: &Item) -> anyhow::Result<Checked>;

    /// Runs the project's gates in the item's worktree; an error is not the item's fault.
    async fn run_gates(
        &self,
        item: &Item,
        commit: &str,
        cancel: &CancellationToken,
    ) -> anyhow::Result<GateOutcome>;

    /// The commit at the head of the item's branch, if it has one.
    async fn tip(&self, item: &Item) -> anyhow::Result<Option<String>>;

    /// What a commit of the item changes against its base.
    async fn diff_summary(&self, item: &Item, commit: &str) -> anyhow::Result<DiffSummary>;

    /// Ends the item's agent, verified, and its session.
    async fn stop_agents(&self, item: ItemId, why: &str) -> anyhow::Result<()>;

    /// Removes the worktree of an item that has ended; work that is on no branch is rescued first,
    /// and when that fails, the worktree stays and the error says so.
    async fn remove_worktree(&self, item: &Item) -> anyhow::Result<()>;
}

/// The real outside.
#[derive(Clone)]
pub struct Workshop {
    store: Store,
    config: Arc<Config>,
    projects: Registry,
    agents: Agents,
}

impl Workshop {
    /// Makes it from the handles that it acts through.
    pub fn new(store: Store, config: Arc<Config>, projects: Registry, agents: Agents) -> Self {
        Self { store, config, projects, agents }
    }

    fn project(&self, item: &Item) -> anyhow::Result<Project> {
        self.projects
            .find(&item.project)
            .ok_or_else(|| anyhow::anyhow!("project {} is not configured any more", item.project))
    }
}

#[async_trait]
impl World for Workshop {
    async fn check(&self, item: &Item) -> anyhow::Result<Checked> {
        let project = self.project(item)?;
        let git = project.git();
        let base = git.branch_tip(&project.base).await?;
        let base = base.with_context(|| format!("the base branch {} is gone", project.base))?;
        let path = worktree::path_of(&project, item.id, self.store.data_dir());
        let mut checked = Checked::default();
        if let Some(branch) = worktree::find_branch(&git, item.id).await?
            && git.commits_ahead(&base, &branch).await? > 0
        {
            checked.commit = git.branch_tip(&branch).await?;
        }
        if path.is_dir() {
            let here = Git::at(&path);
            let mut fingerprint = DefaultHasher::new();
            for file in here.changed_files(true).await? {
                file.state.hash(&mut fingerprint);
                file.path.hash(&mut fingerprint);
                if let Ok(meta) = std::fs::symlink_metadata(path.join(&file.path)) {
                    meta.len().hash(&mut fingerprint);
                    meta.modified().ok().hash(&mut fingerprint);
                }
                checked.dirty.push(file.path);
            }
            // Commits that are on another branch or on none are progress, though not the end.
            here.find_commit("HEAD").await?.hash(&mut fingerprint);
            checked.fingerprint = format!("{:016x}", fingerprint.finish());
        }
        Ok(checked)
    }

    async fn run_gates(
        &self,
        item: &Item,
        commit: &str,
        cancel: &CancellationToken,
    ) -> anyhow::Result<GateOutcome> {
        let project = self.project(item)?;
        let path = worktree::path_of(&project, item.id, self.store.data_dir());
        let limit = Duration::from_secs(self.config.merge.gate_timeout_s);
        let report = gates::run(&project.gates, &path, limit, &[], cancel, &|gate| {
            tracing::info!(item = item.id.0, gate, "running a gate in the worktree");
        })
        .await;
        self.keep(item, commit, &report).await?;
        let failed = match report.failure() {
            None => None,
            Some(run) => match &run.outcome {
                gates::GateOutcome::CannotRun { .. } | gates::GateOutcome::Cancelled => {
                    anyhow::bail!("{}", run.in_words())
                }
                gates::GateOutcome::Passed
                | gates::GateOutcome::Failed { .. }
                | gates::GateOutcome::TimedOut
                | gates::GateOutcome::NotFound { .. } => Some(FailedGate {
                    gate: run.gate.clone(),
                    words: run.in_words(),
                    missing: matches!(run.outcome, gates::GateOutcome::NotFound { .. }),
                    tail: run.tail(),
                }),
            },
        };
        let leftovers = match &failed {
            // The worktree was clean before: what is there now, the gates left behind.
            Some(_) => Git::at(&path).changed_files(true).await?,
            None => Vec::new(),
        };
        let leftovers = leftovers.into_iter().map(|file| file.path).collect();
        Ok(GateOutcome { failed, leftovers })
    }

    async fn tip(&self, item: &Item) -> anyhow::Result<Option<String>> {
        let git = self.project(item)?.git();
        match worktree::find_branch(&git, item.id).await? {
            Some(branch) => Ok(git.branch_tip(&branch).await?),
            None => Ok(None),
        }
    }

    async fn diff_summary(&self, item: &Item, commit: &str) -> anyhow::Result<DiffSummary> {
        let project = self.project(item)?;
        let (git, base) = (project.git(), project.base_ref());
        Ok(DiffSummary {
            files: git.diff_numbers(&base, commit).await?,
            commits: git.commits_ahead(&base, commit).await?,
        })
    }

    async fn stop_agents(&self, item: ItemId, why: &str) -> anyhow::Result<()> {
        let report = self.agents.stop_item(item, why).await?;
        anyhow::ensure!(
            report.survivors.is_empty(),
            "these processes could not be killed: {:?}",
            report.survivors
        );
        Ok(())
    }

    async fn remove_worktree(&self, item: &Item) -> anyhow::Result<()> {
        let project = self.project(item)?;
        let id = item.id;
        let landed = self.store.read(move |conn| merge_pulls::landed(conn, id)).await?;
        let data_dir = self.store.data_dir();
        let removed = worktree::remove(&project, id, data_dir, landed.as_ref()).await;
        if let Err(error) = &removed {
            self.tell_kept(item, &error.to_string()).await?;
        }
        let removed = removed?;
        if !removed.rescued.is_empty() {
            let refs = removed.rescued.join("`, `");
            let why = format!("what was not committed in its worktree is kept as `{refs}`");
            self.tell_kept(item, &why).await?;
        }
        if !removed.rescued.is_empty() || removed.branch_kept.is_some() {
            tracing::info!(item = item.id.0, ?removed, "work of an ended item was kept");
        }
        Ok(())
    }
}

impl Workshop {
    /// Tells the room that an ended item's worktree stays, and why: once a reason.
    async fn tell_kept(&self, item: &Item, why: &str) -> anyhow::Result<()> {
        let (item, why) = (item.clone(), why.to_owned());
        self.store
            .write(move |tx| {
                let Some(room) = queue::room_of(tx, &item)? else { return Ok(()) };
                let mut reason = DefaultHasher::new();
                why.hash(&mut reason);
                let key = format!("work.kept:{}:{:016x}", item.id, reason.finish());
                let said = Outgoing::text(SessionKey::main(room), text::kept(&item, &why));
                outbox::enqueue(tx, &said.about(item.id), Some(&key))?;
                Ok::<(), WorkError>(())
            })
            .await
            .context("telling that a worktree stays")
    }

    /// Keeps what the gates printed.
    async fn keep(
        &self,
        item: &Item,
        commit: &str,
        report: &gates::GateReport,
    ) -> anyhow::Result<()> {
        let rows: Vec<GateRunRow> = report
            .runs
            .iter()
            .map(|run| GateRunRow {
                item: Some(item.id),
                project: item.project.clone(),
                place: Place::Worktree,
                commit: Some(commit.to_owned()),
                gate: run.gate.clone(),
                exit: run.exit(),
                passed: run.outcome == gates::GateOutcome::Passed,
                timed_out: run.outcome == gates::GateOutcome::TimedOut,
                output: run.output.clone(),
                duration: run.duration,
                at: DateTime::UNIX_EPOCH,
            })
            .collect();
        self.store
            .write(move |tx| rows.iter().try_for_each(|row| gate_runs::insert(tx, row)))
            .await
            .context("keeping the output of the gates")
    }
}
