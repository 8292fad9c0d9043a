//! `status N` and `diff N`: what is the matter with an item, and what it has changed.

use super::context::{Context, fenced, money};
use super::{CommandError, board, see};
use crate::model::ids::ItemId;
use crate::model::item::Item;
use crate::model::stage::Stage;
use crate::project::Project;
use crate::project::worktree::{find_branch, last_lines};
use crate::store::agents as sessions;
use crate::store::gate_runs::{self, GateRunRow, Place};
use crate::work;
use std::fmt::Write;

/// How many of the agent's last events are shown.
const EVENTS: usize = 8;

/// How many of the last gates are shown.
const GATES: usize = 5;

/// How many of a failed gate's last lines are shown.
const GATE_LINES: usize = 12;

/// How many changed files are listed.
const FILES: usize = 15;

/// How much of a diff is shown, in bytes.
const DIFF_BYTES: usize = 6000;

/// `status N`
pub async fn status(context: &Context, id: ItemId) -> Result<String, CommandError> {
    let here = context.clone();
    let read = context.services.store.read(move |conn| {
        let item = here.item(conn, id)?;
        let events = sessions::turn_events(conn, id, EVENTS)?;
        let gates = gate_runs::newest_of(conn, id, GATES)?;
        Ok::<_, CommandError>((work::explain(conn, id)?, item, events, gates))
    });
    let (why, item, events, gates) = read.await?;
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
    if !events.is_empty() {
        let _ = write!(out, "\nLast seen:\n{}\n", fenced(&see::event_lines(&events)));
    }
    if let Some(files) = changed_files(context, &item).await {
        let _ = write!(out, "\nChanged: {files}\n");
    }
    if !gates.is_empty() {
        let _ = write!(out, "\nGates:\n{}", gate_lines(&gates));
    }
    let _ = write!(out, "\nNext: {}", next_step(&item));
    Ok(out)
}

/// The files that an item's branch changes; `None` when there is nothing to be seen.
async fn changed_files(context: &Context, item: &Item) -> Option<String> {
    let project = context.services.projects.find(&item.project)?;
    let branch = find_branch(&project.git(), item.id).await.ok()??;
    let files = project.git().diff_names(&project.base, &branch).await.ok()?;
    let mut names: Vec<String> =
        files.iter().take(FILES).map(|file| format!("`{}`", file.replace('`', "'"))).collect();
    if files.len() > FILES {
        names.push(format!("and {} more", files.len() - FILES));
    }
    Some(if names.is_empty() { "nothing committed yet".to_owned() } else { names.join(", ") })
}

fn gate_lines(gates: &[GateRunRow]) -> String {
    let mut out = String::new();
    for run in gates.iter().rev() {
        let place = match run.place {
            Place::Worktree => "in its worktree",
            Place::Merge => "on the merged tree",
        };
        let end = match (run.passed, run.timed_out, run.exit) {
            (true, _, _) => "passed".to_owned(),
            (false, true, _) => "ran out of time".to_owned(),
            (false, false, Some(exit)) => format!("failed with exit {exit}"),
            (false, false, None) => "was killed".to_owned(),
        };
        let seconds = run.duration.as_secs_f32();
        let _ = writeln!(out, "- `{}` {end} {place} ({seconds:.1} s)", run.gate);
    }
    if let Some(failed) = gates.first().filter(|run| !run.passed) {
        let _ = writeln!(out, "{}", fenced(&last_lines(&failed.output, GATE_LINES)));
    }
    out
}

/// What a person can do now.
fn next_step(item: &Item) -> String {
    let id = item.id;
    match &item.stage {
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
        Stage::Merge { .. } => "wait for the merge queue.".to_owned(),
        Stage::MergeFailure { .. } | Stage::MergeFailureFinal { .. } => {
            format!("`start {id}` gives it another try; `move {id} coding` gives it to a coder.")
        }
        Stage::Done { .. } => "nothing; it is merged.".to_owned(),
        Stage::Frozen { .. } => format!("`unfreeze {id}`."),
        Stage::Archived { .. } | Stage::Superseded { .. } => "nothing.".to_owned(),
        Stage::Abandoned { .. } | Stage::Rejected { .. } => {
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
    let internal = |error| CommandError::Internal(anyhow::Error::new(error));
    let git = project.git();
    let Some(branch) = find_branch(&git, id).await.map_err(internal)? else {
        return Ok(no_branch(&item));
    };
    let stat = git.diff_stat(&project.base, &branch).await.map_err(internal)?;
    if stat.trim().is_empty() {
        let Project { base, .. } = project;
        return Ok(format!("#{id} {} changes nothing against `{base}` yet.", item.name));
    }
    let diff = git.diff_text(&project.base, &branch, DIFF_BYTES).await.map_err(internal)?;
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
