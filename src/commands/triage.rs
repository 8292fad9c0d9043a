//! `status N` and `diff N`: what is the matter with an item, and what it has changed.

use super::context::{Context, fenced, money, one_line, sentence};
use super::{CommandError, board, see};
use crate::model::ids::ItemId;
use crate::model::item::{Item, Kind};
use crate::model::stage::{ArchiveReason, Stage};
use crate::project::Project;
use crate::project::git::{Git, GitError};
use crate::project::worktree::{find_branch, last_lines, path_of};
use crate::store::agents::{self as sessions, TurnEvent};
use crate::store::gate_runs::{self, GateRunRow, Place};
use crate::store::merge_pulls;
use crate::work;
use std::fmt::Write;

/// How many of the agent's last events are shown.
const EVENTS: usize = 8;

/// How long one of them may be.
const EVENT_CHARS: usize = 100;

/// How many of the last gates are shown.
const GATES: usize = 5;

/// How many of a failed gate's last lines are shown.
const GATE_LINES: usize = 12;

/// How many changed files are listed.
const FILES: usize = 15;

/// How much of a diff is shown, in bytes.
const DIFF_BYTES: usize = 6000;

/// What the rows say of an item.
struct Known {
    item: Item,
    why: String,
    events: Vec<TurnEvent>,
    gates: Vec<GateRunRow>,
    children: Vec<String>,
    prediction: Option<String>,
    waits_for: Vec<ItemId>,
    pull: Option<String>,
}

/// `status N`: stage and history, what its agent last did, what changed, how the gates ended, what
/// it cost, and the next step. Lists instead of tables, so that a telephone shows it.
pub async fn status(context: &Context, id: ItemId) -> Result<String, CommandError> {
    let here = context.clone();
    let read = context.services.store.read(move |conn| {
        let item = here.item(conn, id)?;
        Ok::<_, CommandError>(Known {
            why: see::why(&here, conn, id)?,
            events: sessions::turn_events(conn, id, EVENTS)?,
            gates: gate_runs::newest_of(conn, id, GATES)?,
            children: see::children(conn, &item)?,
            prediction: work::prediction_in_words(conn, &item)?,
            waits_for: work::waits_for(conn, &item)?,
            pull: merge_pulls::find(conn, id)?.map(|pull| pull.url),
            item,
        })
    });
    let Known { item, why, events, gates, children, prediction, waits_for, pull } = read.await?;
    let mut out = format!(
        "{} {} in {}, {}{}\n\n{}\n",
        board::icon(&item.stage),
        item.kind.as_str(),
        item.project,
        item.stage.name().replace('_', " "),
        match money(item.cost_microusd) {
            none if none.is_empty() => none,
            cost => format!(", {cost}"),
        },
        why.trim_end()
    );
    if !children.is_empty() {
        let _ = writeln!(out, "\nIts items:");
        for child in children.iter().take(FILES) {
            let _ = writeln!(out, "- {child}");
        }
    }
    if !events.is_empty() {
        let _ = writeln!(out, "\nLast seen:");
        for event in &events {
            let text = one_line(&event.text, EVENT_CHARS).replace('`', "'");
            let _ = writeln!(out, "- {} {}: {text}", event.at.format("%H:%M:%S"), event.kind);
        }
    }
    let (changed, dirty) = tokio::join!(changed_files(context, &item), dirty_files(context, &item));
    if let Some(files) = changed {
        let _ = write!(out, "\nChanged: {files}\n");
    }
    if !dirty.is_empty() {
        let _ = write!(out, "\nNot committed: {}\n", listed(&dirty));
    }
    if !gates.is_empty() {
        let _ = write!(out, "\nGates:\n{}", gate_lines(&gates));
    }
    if let Some(words) = prediction {
        let _ = write!(out, "\nMerge: {words}\n");
    }
    let _ = write!(out, "\nNext: {}", next_step(&item, &waits_for, pull.as_deref()));
    Ok(out)
}

/// The files that an item's branch changes; `None` when there is nothing to be seen.
async fn changed_files(context: &Context, item: &Item) -> Option<String> {
    let project = context.services.projects.find(&item.project)?;
    let branch = find_branch(&project.git(), item.id).await.ok()??;
    let files = project.git().diff_names(&project.base, &branch).await.ok()?;
    Some(if files.is_empty() { "nothing committed yet".to_owned() } else { listed(&files) })
}

/// The files in an item's worktree that are not committed.
async fn dirty_files(context: &Context, item: &Item) -> Vec<String> {
    let Some(project) = context.services.projects.find(&item.project) else { return vec![] };
    let path = path_of(&project, item.id, context.services.store.data_dir());
    if !path.is_dir() {
        return vec![];
    }
    let files = Git::at(path).changed_files(true).await.unwrap_or_default();
    files.into_iter().map(|file| file.path).collect()
}

/// Some files, the first ones by name.
fn listed(files: &[String]) -> String {
    let mut names: Vec<String> =
        files.iter().take(FILES).map(|file| format!("`{}`", file.replace('`', "'"))).collect();
    if files.len() > FILES {
        names.push(format!("and {} more", files.len() - FILES));
    }
    names.join(", ")
}

fn gate_lines(gates: &[GateRunRow]) -> String {
    let mut out = String::new();
    for run in gates.iter().rev() {
        let place = match run.place {
            Place::Worktree => "in its worktree",
            Place::Merge => "on the merged tree",
        };
        let (mark, end) = match (run.passed, run.timed_out, run.exit) {
            (true, _, _) => ("✅", "passed".to_owned()),
            (false, true, _) => ("❌", "ran out of time".to_owned()),
            (false, false, Some(exit)) => ("❌", format!("failed with exit {exit}")),
            (false, false, None) => ("❌", "was killed".to_owned()),
        };
        let seconds = run.duration.as_secs_f32();
        let gate = run.gate.replace('`', "'");
        let _ = writeln!(out, "- {mark} `{gate}` {end} {place} ({seconds:.1} s)");
    }
    if let Some(failed) = gates.first().filter(|run| !run.passed) {
        let _ = writeln!(out, "\n{}", fenced(&last_lines(&failed.output, GATE_LINES)));
    }
    out
}

/// What a person can do now.
fn next_step(item: &Item, waits_for: &[ItemId], pull: Option<&str>) -> String {
    let id = item.id;
    match &item.stage {
        Stage::Upcoming | Stage::Backlog if item.kind == Kind::Epic => {
            "start its items; the epic closes by itself.".to_owned()
        }
        Stage::Upcoming | Stage::Backlog if !waits_for.is_empty() => {
            let list: Vec<String> = waits_for.iter().map(|id| format!("#{id}")).collect();
            format!("wait for {}; or `depends {id} on none`, then `start {id}`.", list.join(", "))
        }
        Stage::Upcoming | Stage::Backlog => format!("`start {id}`."),
        Stage::Coding { claim: Some(agent), .. } => {
            format!("wait, `tell {agent} …`, or `stop {id}`.")
        }
        Stage::Qa { claim: Some(_), .. } => format!("wait, or `stop {id}`."),
        Stage::Coding { claim: None, .. } | Stage::Qa { claim: None, .. } => {
            "wait for a free agent; `agents` shows who is busy.".to_owned()
        }
        Stage::Blocked { .. } => {
            format!("clear the cause, then `unblock {id}`; or `reject {id} WHY`.")
        }
        Stage::ReviewHold { .. } => {
            format!("`diff {id}`, then `approve {id}` or `reject {id} WHY`.")
        }
        Stage::Merge { .. } => match pull {
            Some(url) => format!("merge its pull request, {url}; or `reject {id} WHY`."),
            None => "wait for the merge queue.".to_owned(),
        },
        Stage::MergeFailure { .. } => {
            format!("wait: it is mended or tried again by itself; or `move {id} merge`.")
        }
        Stage::MergeFailureFinal { .. } => format!(
            "look at the output, then `start {id}` has it mended, or `move {id} merge` tries the \
             merge again as it is."
        ),
        Stage::Done { .. } => "nothing; it is merged.".to_owned(),
        Stage::Frozen { .. } => format!("`unfreeze {id}`."),
        Stage::Archived { reason: ArchiveReason::Finished, .. } => "nothing.".to_owned(),
        Stage::Archived { .. }
        | Stage::Abandoned { .. }
        | Stage::Superseded { .. }
        | Stage::Rejected { .. } => {
            format!("nothing; `move {id} backlog` takes it up again.")
        }
    }
}

/// `diff N`
pub async fn diff(context: &Context, id: ItemId) -> Result<String, CommandError> {
    let here = context.clone();
    let read = context.services.store.read(move |conn| {
        let item = here.item(conn, id)?;
        let project = here.project_of(&item)?;
        Ok::<_, CommandError>((item, project))
    });
    let (item, project) = read.await?;
    let unreadable = |error: GitError| CommandError::Refused(sentence(&error.to_string()));
    let git = project.git();
    let Some(branch) = find_branch(&git, id).await.map_err(unreadable)? else {
        return Ok(no_branch(&item));
    };
    let stat = git.diff_stat(&project.base, &branch).await.map_err(unreadable)?;
    if stat.trim().is_empty() {
        let Project { base, .. } = project;
        return Ok(format!("#{id} {} changes nothing against `{base}` yet.", item.name));
    }
    let diff = git.diff_text(&project.base, &branch, DIFF_BYTES).await.map_err(unreadable)?;
    let mut out = format!("**#{id} {}** (`{branch}`)\n\n{}\n", item.name, fenced(&stat));
    if !diff.truncated {
        let text = diff.text.trim_end().replace("```", "'''");
        let _ = write!(out, "\n```diff\n{text}\n```");
    }
    Ok(out)
}

fn no_branch(item: &Item) -> String {
    let (id, name) = (item.id, &item.name);
    match &item.stage {
        Stage::Done { commit, .. } => {
            let short = commit.get(..10).unwrap_or(commit);
            format!("#{id} {name} is merged as `{short}`; its branch is gone.")
        }
        Stage::Upcoming
        | Stage::Backlog
        | Stage::Coding { .. }
        | Stage::Blocked { .. }
        | Stage::Qa { .. }
        | Stage::ReviewHold { .. }
        | Stage::Merge { .. }
        | Stage::MergeFailure { .. }
        | Stage::MergeFailureFinal { .. }
        | Stage::Archived { .. }
        | Stage::Frozen { .. }
        | Stage::Abandoned { .. }
        | Stage::Superseded { .. }
        | Stage::Rejected { .. } => format!("#{id} {name} has no branch: nobody worked on it yet."),
    }
}
