//! `run tests [N]`: the project's gates, now, in an item's worktree or on the base branch.

use super::CommandError;
use super::context::{Context, fenced, refused, sentence};
use crate::merge::gates::{self, GateOutcome, GateReport};
use crate::model::chat::Outgoing;
use crate::model::ids::ItemId;
use crate::model::item::Item;
use crate::project::Project;
use crate::project::git::{Git, GitError};
use crate::project::scratch::Scratch;
use crate::project::worktree::{self, WorktreeError};
use crate::store::gate_runs::{self, GateRunRow, Place};
use crate::store::{agents as sessions, outbox};
use chrono::DateTime;
use std::fmt::Write;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

impl From<GitError> for CommandError {
    fn from(error: GitError) -> Self {
        CommandError::Refused(sentence(&error.to_string()))
    }
}

impl From<WorktreeError> for CommandError {
    fn from(error: WorktreeError) -> Self {
        CommandError::Refused(sentence(&error.to_string()))
    }
}

/// `run tests [N]`
pub async fn run_tests(context: &Context, id: Option<ItemId>) -> Result<String, CommandError> {
    let here = context.clone();
    let read = context.services.store.read(move |conn| {
        let Some(id) = id else { return Ok((here.project(conn)?, None, None)) };
        let item = here.item(conn, id)?;
        let agent = sessions::live_session_of(conn, id)?.map(|session| session.agent);
        Ok::<_, CommandError>((here.project_of(&item)?, Some(item), agent))
    });
    let (project, item, agent) = read.await?;
    if project.gates.is_empty() {
        return refused(format!(
            "The project {} has no gates, so there is nothing to run: name some in its `gates`, \
                 and restart.",
            project.name
        ));
    }
    let what = match &item {
        Some(item) => format!("the gates of #{} {}", item.id, item.name),
        None => format!("the gates of {} on `{}`", project.name, project.base),
    };
    let running = context.services.runs.begin(context.caller.session.clone(), id, &what);
    let (report, place) = match &item {
        Some(item) => in_worktree(context, &project, item, &running.cancel).await?,
        None => on_base(context, &project, &running.cancel).await?,
    };
    let beside = match agent {
        Some(agent) => format!(" {agent} was at work there at the same time."),
        None => String::new(),
    };
    Ok(format!("{}{beside}", in_words(&what, &place, &report)))
}

async fn in_worktree(
    context: &Context,
    project: &Project,
    item: &Item,
    cancel: &CancellationToken,
) -> Result<(GateReport, String), CommandError> {
    let id = item.id;
    let path = worktree::path_of(project, id, context.services.store.data_dir());
    if !path.is_dir() {
        return refused(format!(
            "#{id} {} has no worktree now, so there is nothing to test: it is in {}. `run tests` \
             alone tests `{}`.",
            item.name,
            item.stage.name().replace('_', " "),
            project.base
        ));
    }
    let git = Git::at(&path);
    let head = git.find_commit("HEAD").await?;
    let dirty = git.changed_files(true).await?.len();
    let report = run(context, project, &path, cancel).await;
    // What ran on uncommitted files says nothing of the commit.
    let commit = head.clone().filter(|_| dirty == 0);
    keep(context, project, id, commit, &report).await?;
    let head = head.map_or_else(|| "no commit".to_owned(), |head| short(&head));
    let place = match dirty {
        0 => format!("on {head}"),
        files => format!("on {head} with {files} uncommitted"),
    };
    Ok((report, place))
}

async fn on_base(
    context: &Context,
    project: &Project,
    cancel: &CancellationToken,
) -> Result<(GateReport, String), CommandError> {
    let Some(commit) = project.git().branch_tip(&project.base).await? else {
        return refused(format!(
            "The base branch `{}` of {} is missing: create it, or correct the project's `base` \
             and restart.",
            project.base, project.name
        ));
    };
    let data_dir = context.services.store.data_dir();
    let scratch = Scratch::make(project, data_dir, &commit).await?;
    let ready = worktree::setup(&project.setup, scratch.path(), cancel).await;
    let report = match ready {
        Ok(()) => Ok(run(context, project, scratch.path(), cancel).await),
        Err(WorktreeError::Cancelled) => Ok(GateReport::default()),
        Err(error) => Err(error),
    };
    scratch.remove().await;
    Ok((report?, format!("on {}", short(&commit))))
}

/// Runs the gates and shows each in the room as it begins.
async fn run(
    context: &Context,
    project: &Project,
    path: &Path,
    cancel: &CancellationToken,
) -> GateReport {
    let limit = Duration::from_secs(context.services.config.merge.gate_timeout_s);
    let (tell, mut told) = tokio::sync::mpsc::channel::<String>(16);
    let count = project.gates.len();
    let number = Mutex::new(0_usize);
    let progress = move |gate: &str| {
        let Ok(mut number) = number.lock() else { return };
        *number += 1;
        // Progress that nobody has time for is no loss.
        let _ = tell.try_send(format!("`{}` ({number} of {count}) …", gate.replace('`', "'")));
    };
    let show = async {
        let mut number = 0;
        while let Some(line) = told.recv().await {
            number += 1;
            let notice = Outgoing::notice(context.caller.session.clone(), line);
            let dedup = format!("progress:{}:{number}", context.caller.key);
            let store = &context.services.store;
            let write = store.write(move |tx| outbox::enqueue(tx, &notice, Some(&dedup)));
            if let Err(error) = write.await {
                tracing::warn!(%error, "cannot show progress");
            }
        }
    };
    let gates = async move {
        // Moved in, so that the channel ends with the run.
        let progress = progress;
        gates::run(&project.gates, path, limit, &[], cancel, &progress).await
    };
    let (report, ()) = tokio::join!(gates, show);
    report
}

async fn keep(
    context: &Context,
    project: &Project,
    item: ItemId,
    commit: Option<String>,
    report: &GateReport,
) -> Result<(), CommandError> {
    let rows: Vec<GateRunRow> = report
        .runs
        .iter()
        .filter(|run| run.outcome != GateOutcome::Cancelled)
        .map(|run| GateRunRow {
            item: Some(item),
            project: project.name.clone(),
            place: Place::Worktree,
            commit: commit.clone(),
            gate: run.gate.clone(),
            exit: run.exit(),
            passed: run.outcome == GateOutcome::Passed,
            timed_out: run.outcome == GateOutcome::TimedOut,
            output: run.output.clone(),
            duration: run.duration,
            at: DateTime::UNIX_EPOCH,
        })
        .collect();
    let write = context
        .services
        .store
        .write(move |tx| rows.iter().try_for_each(|row| gate_runs::insert(tx, row)));
    Ok(write.await?)
}

fn in_words(what: &str, place: &str, report: &GateReport) -> String {
    let mut out = match report.failure() {
        Some(run) if run.outcome == GateOutcome::Cancelled => {
            return format!("⏹️ Stopped {what} {place}.");
        }
        Some(run) => {
            format!("❌ {} ({what} {place}).\n", sentence(&run.in_words()).trim_end_matches('.'))
        }
        None if report.runs.is_empty() => return format!("⏹️ Stopped {what} {place}."),
        None => format!("✅ {} passed {place}.\n", sentence(what).trim_end_matches('.')),
    };
    for run in &report.runs {
        let mark = if run.outcome == GateOutcome::Passed { "✅" } else { "❌" };
        let seconds = run.duration.as_secs_f32();
        let _ = writeln!(out, "- {mark} `{}` ({seconds:.1} s)", run.gate.replace('`', "'"));
    }
    if let Some(run) = report.failure()
        && !run.output.trim().is_empty()
    {
        let _ = write!(out, "\n{}", fenced(&run.tail()));
    }
    out.trim_end().to_owned()
}

fn short(commit: &str) -> String {
    format!("`{}`", commit.get(..8).unwrap_or(commit))
}
