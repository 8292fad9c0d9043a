//! What work needs of the outside: an item's worktree, its gates, its agents.
//!
//! A trait, so that the loops are tested step by step without git and processes.

use super::keeper::Kept;
use crate::agents::{Agents, runtime};
use crate::config::Config;
use crate::merge::gates;
use crate::model::ids::{ItemId, ProjectName};
use crate::model::item::Item;
use crate::project::git::{FileChange, Git};
use crate::project::{Fault, Project, ProjectError, Registry, has_room, worktree};
use crate::store::decisions::{self, What};
use crate::store::gate_runs::{self, GateRunRow, Place};
use crate::store::pauses::Scope;
use crate::store::{Store, merge_pulls};
use anyhow::Context;
use async_trait::async_trait;
use chrono::DateTime;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How much of one changed file counts for its fingerprint, in bytes.
const HASHED: u64 = 16 << 20;

/// What an item's worktree holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checked {
    /// The commit at the head of the item's branch, if the branch has one of its own.
    pub commit: Option<String>,
    /// Paths with changes that are not committed.
    pub dirty: Vec<String>,
    /// What the worktree stands on, when that is not the item's branch.
    pub elsewhere: Option<String>,
    /// Something that changes whenever the content of the worktree's changes does: how progress is
    /// seen.
    pub fingerprint: String,
}

/// Why the outside could not be looked at: never the item's fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What happened, in words.
    pub words: String,
    /// What must stand still until it is over, when no retry mends it.
    pub pauses: Option<Scope>,
}

impl Trouble {
    fn of(error: &anyhow::Error, item: &Item) -> Self {
        let pauses = Fault::of(error).map(|fault| match fault {
            Fault::Project => Scope::Project(item.project.clone()),
            Fault::Machine => Scope::Machine,
        });
        Self { words: format!("{error:#}"), pauses }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for Trouble {}

/// What came of running the gates in an item's worktree.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GateOutcome {
    /// The first gate that failed; `None`: all passed.
    pub failed: Option<FailedGate>,
    /// What the gates left behind.
    pub left: Leftovers,
}

/// What gates left behind in a worktree that was clean before, passed or not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leftovers {
    /// The paths that are not committed.
    pub paths: Vec<String>,
    /// Changes with their content; empty when there are none.
    pub fingerprint: String,
}

/// A gate that did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedGate {
    /// Its command.
    pub gate: String,
    /// What happened, as a clause that names it.
    pub words: String,
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
    async fn check(&self, item: &Item) -> Result<Checked, Trouble>;

    /// Runs the project's gates in the item's worktree, which holds `commit` and nothing else.
    async fn run_gates(
        &self,
        item: &Item,
        commit: &str,
        cancel: &CancellationToken,
    ) -> Result<GateOutcome, Trouble>;

    /// The commit at the head of the item's branch, if it has one.
    async fn tip(&self, item: &Item) -> anyhow::Result<Option<String>>;

    /// What a commit of the item changes against its base.
    async fn diff_summary(&self, item: &Item, commit: &str) -> anyhow::Result<DiffSummary>;

    /// Ends the item's agent, verified, and its session.
    async fn stop_agents(&self, item: ItemId, why: &str) -> anyhow::Result<()>;

    /// Removes the worktree of an item that has ended; work that is on no branch is rescued first,
    /// and when that fails, the worktree stays and the error says so.
    async fn remove_worktree(&self, project: &ProjectName, item: ItemId) -> anyhow::Result<Kept>;

    /// Looks whether what paused `scope` is still so, as far as that can be seen: the words, if so.
    async fn still(&self, scope: &Scope) -> Option<String>;
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

    fn project(&self, name: &ProjectName) -> anyhow::Result<Project> {
        self.projects
            .find(name)
            .ok_or_else(|| anyhow::anyhow!("project {name} is not configured any more"))
    }

    async fn look(&self, item: &Item) -> anyhow::Result<Checked> {
        let project = self.project(&item.project)?;
        // Its words are for a person, git's own are not.
        project.check().await.with_context(|| format!("project {}", item.project))?;
        let git = project.git();
        let path = worktree::path_of(&project, item.id, self.store.data_dir());
        let mut checked = Checked::default();
        let branch = worktree::find_branch(&git, item.id).await?;
        if let Some(branch) = &branch
            && git.commits_ahead(&project.base_ref(), branch).await? > 0
        {
            checked.commit = git.branch_tip(branch).await?;
        }
        if path.is_dir() {
            let here = Git::at(&path);
            let files: Vec<String> =
                here.changed_files(true).await?.into_iter().map(|file| file.path).collect();
            let head = here.find_commit("HEAD").await?;
            let on = here.head_branch().await?;
            if on != branch {
                let on = on.map_or_else(|| "no branch".to_owned(), |on| format!("`{on}`"));
                checked.elsewhere = Some(on);
            }
            // Commits that are on another branch or on none are progress, though not the end.
            checked.fingerprint = fingerprint(path, files.clone(), head).await;
            checked.dirty = files;
        }
        Ok(checked)
    }

    async fn gates(
        &self,
        item: &Item,
        commit: &str,
        cancel: &CancellationToken,
    ) -> anyhow::Result<GateOutcome> {
        let project = self.project(&item.project)?;
        let data_dir = self.store.data_dir();
        let path = worktree::path_of(&project, item.id, data_dir);
        if !path.is_dir() {
            // Somebody removed it; its branch is all that is needed to make it again.
            worktree::ensure(&project, item.id, &item.name, data_dir, cancel).await?;
        }
        let head = Git::at(&path).find_commit("HEAD").await?;
        anyhow::ensure!(
            head.as_deref() == Some(commit),
            "the worktree stands on {} and not on {commit}",
            head.as_deref().unwrap_or("nothing")
        );
        let limit = Duration::from_secs(self.config.merge.gate_timeout_s);
        let report = gates::run(&project.gates, &path, limit, &[], cancel, &|gate| {
            tracing::info!(item = item.id.0, gate, "running a gate in the worktree");
        })
        .await;
        self.keep(item, commit, &report).await?;
        let Some(run) = report.failure() else {
            return Ok(GateOutcome { failed: None, left: left_in(&path).await? });
        };
        match &run.outcome {
            gates::GateOutcome::NotFound { program } => {
                let (command, program) = (run.gate.clone(), program.clone());
                return Err(ProjectError::CannotRun { what: "gate", command, program }.into());
            }
            gates::GateOutcome::CannotRun { .. } | gates::GateOutcome::Cancelled => {
                anyhow::bail!("{}", run.in_words())
            }
            gates::GateOutcome::Passed
            | gates::GateOutcome::Failed { .. }
            | gates::GateOutcome::TimedOut => {}
        }
        let (gate, words, tail) = (run.gate.clone(), run.in_words(), run.tail());
        let left = left_in(&path).await?;
        Ok(GateOutcome { failed: Some(FailedGate { gate, words, tail }), left })
    }

    /// Throws away what the gates left behind in an ended item's worktree, if it lies there just as
    /// they left it: it is nobody's work, and saving it would keep every landed item's caches.
    async fn discard_leftovers(&self, project: &Project, item: ItemId) -> anyhow::Result<()> {
        let path = worktree::path_of(project, item, self.store.data_dir());
        let passed = self
            .store
            .read(move |conn| decisions::newest_from(conn, item, What::Passed, "gates"))
            .await?;
        let known = passed.and_then(|passed| {
            let known = passed.inputs.get("fingerprint")?.as_str()?.to_owned();
            (!known.is_empty()).then_some(known)
        });
        let Some(known) = known.filter(|_| path.is_dir()) else { return Ok(()) };
        if left_in(&path).await?.fingerprint == known {
            Git::at(&path).discard_changes().await?;
        }
        Ok(())
    }
}

/// What lies uncommitted in a worktree that was clean before the gates ran.
async fn left_in(path: &Path) -> anyhow::Result<Leftovers> {
    let here = Git::at(path);
    let files = here.changed_files(true).await?;
    let paths: Vec<String> = files.into_iter().map(|file| file.path).collect();
    if paths.is_empty() {
        return Ok(Leftovers::default());
    }
    let head = here.find_commit("HEAD").await?;
    let fingerprint = fingerprint(path.to_owned(), paths.clone(), head).await;
    Ok(Leftovers { paths, fingerprint })
}

/// Hashes the content of changed files: touching them changes nothing, and writing back what stood
/// there before is no progress either.
async fn fingerprint(root: PathBuf, mut files: Vec<String>, head: Option<String>) -> String {
    let hash = move || {
        let mut hash = DefaultHasher::new();
        head.hash(&mut hash);
        files.sort_unstable();
        for path in files {
            path.hash(&mut hash);
            let full = root.join(&path);
            if let Ok(target) = std::fs::read_link(&full) {
                target.hash(&mut hash);
            } else if let Ok(file) = std::fs::File::open(&full) {
                hash_content(file, &mut hash);
            }
        }
        format!("{:016x}", hash.finish())
    };
    tokio::task::spawn_blocking(hash).await.unwrap_or_default()
}

fn hash_content(file: std::fs::File, hash: &mut DefaultHasher) {
    let Ok(meta) = file.metadata() else { return };
    meta.len().hash(hash);
    if !meta.is_file() {
        return;
    }
    let mut content = Vec::new();
    // A folder of its own that git lists as one path, or what cannot be read, adds nothing.
    if file.take(HASHED).read_to_end(&mut content).is_ok() {
        content.hash(hash);
    }
}

#[async_trait]
impl World for Workshop {
    async fn check(&self, item: &Item) -> Result<Checked, Trouble> {
        self.look(item).await.map_err(|error| Trouble::of(&error, item))
    }

    async fn run_gates(
        &self,
        item: &Item,
        commit: &str,
        cancel: &CancellationToken,
    ) -> Result<GateOutcome, Trouble> {
        self.gates(item, commit, cancel).await.map_err(|error| Trouble::of(&error, item))
    }

    async fn tip(&self, item: &Item) -> anyhow::Result<Option<String>> {
        let git = self.project(&item.project)?.git();
        match worktree::find_branch(&git, item.id).await? {
            Some(branch) => Ok(git.branch_tip(&branch).await?),
            None => Ok(None),
        }
    }

    async fn diff_summary(&self, item: &Item, commit: &str) -> anyhow::Result<DiffSummary> {
        let project = self.project(&item.project)?;
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

    async fn remove_worktree(&self, project: &ProjectName, item: ItemId) -> anyhow::Result<Kept> {
        let project = self.project(project)?;
        let landed = self.store.read(move |conn| merge_pulls::landed(conn, item)).await?;
        let data_dir = self.store.data_dir();
        if let Err(error) = self.discard_leftovers(&project, item).await {
            // Then it is saved like work.
            let error = format!("{error:#}");
            tracing::warn!(item = item.0, error, "what gates left behind could not be removed");
        }
        let removed = worktree::remove(&project, item, data_dir, landed.as_ref()).await?;
        Ok(Kept { rescued: removed.rescued, branch: removed.branch_kept })
    }

    async fn still(&self, scope: &Scope) -> Option<String> {
        match scope {
            // A login shows only when somebody tries; a missing program shows at once.
            Scope::Runtime(kind, command) => {
                let probed = runtime::probe(*kind, command.as_deref()).await;
                probed.err().map(|error| error.to_string())
            }
            Scope::Project(name) => match self.projects.find(name) {
                Some(project) => project.ready().await.err().map(|error| error.to_string()),
                // Whatever was wrong with it, nobody works in it any more.
                None => None,
            },
            // Only starts can tell.
            Scope::Pool => None,
            Scope::Machine => {
                let dir = self.store.data_dir().to_owned();
                let room = tokio::task::spawn_blocking(move || has_room(&dir)).await;
                let error = room.ok()?.err()?;
                Some(format!("{}: {error}", self.store.data_dir().display()))
            }
        }
    }
}

impl Workshop {
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
