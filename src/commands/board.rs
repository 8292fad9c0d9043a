//! The board: columns in order, an item a line. Reads well as plain text, as rich text and on a
//! telephone: no tables, no fences, nothing that must stand below something else.

use super::CommandError;
use super::context::{Context, money, one_line};
use crate::config::{AgentConfig, Config};
use crate::model::agent::WaitingFor;
use crate::model::ids::ItemId;
use crate::model::item::Kind;
use crate::model::stage::{Column, MergeFailureKind, Stage};
use crate::project::Project;
use crate::project::git::Git;
use crate::project::worktree;
use crate::store::meta;
use crate::work::{self, Board, Entry, QueuePlace};
use futures_util::future::join_all;
use rusqlite::Connection;
use std::collections::HashMap;
use std::fmt::Write;
use std::time::Duration;

/// How long a name may be on the board.
const NAME_CHARS: usize = 48;

/// How long a reason may be on the board.
const REASON_CHARS: usize = 70;

/// How many files in conflict are named.
const FILES: usize = 2;

/// How long all looks at worktrees together may take; what is not seen by then is left out.
const LOOK: Duration = Duration::from_millis(600);

/// How many uncommitted files an item's worktree holds, where there are any.
type Dirty = HashMap<ItemId, usize>;

/// What `status` shows: the room's project, or all of them.
pub async fn board(context: &Context, all: bool) -> Result<String, CommandError> {
    let here = context.clone();
    let read = context.services.store.read(move |conn| {
        let projects = shown(&here, conn, all)?;
        let now = here.services.store.clock().millis();
        let boards = projects
            .into_iter()
            .map(|project| {
                let board = work::overview(conn, &project.name, now)?;
                Ok::<_, CommandError>((project, board))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok::<_, CommandError>((meta::find(conn, meta::STOPPED_ALL)?, boards))
    });
    let (stopped, boards) = read.await?;
    let dirty = dirty(context, &boards).await;
    let mut out = String::new();
    if let Some(who) = stopped {
        let _ = write!(out, "⛔ **Everything is stopped** (by {who}); `resume all` goes on.\n\n");
    }
    let config = &context.services.config;
    let sections: Vec<String> =
        boards.iter().map(|(project, board)| section(config, project, board, &dirty)).collect();
    out.push_str(&sections.join("\n"));
    Ok(out.trim_end().to_owned())
}

fn shown(context: &Context, conn: &Connection, all: bool) -> Result<Vec<Project>, CommandError> {
    let here = if all { None } else { context.find_project(conn)? };
    let projects = match here {
        Some(project) => vec![project],
        None => context.services.projects.list(),
    };
    if projects.is_empty() {
        // Says what to do.
        context.project(conn)?;
    }
    Ok(projects)
}

/// Looks into the worktrees of what is shown, all at once and not for long.
async fn dirty(context: &Context, boards: &[(Project, Board)]) -> Dirty {
    let data_dir = context.services.store.data_dir();
    let entries = boards.iter().flat_map(|(project, board)| {
        let entries = board.shelves.iter().flat_map(|shelf| &shelf.entries);
        entries.map(move |entry| (project, entry.item.id))
    });
    let looks = entries
        .map(|(project, item)| (item, worktree::path_of(project, item, data_dir)))
        .filter(|(_, path)| path.is_dir())
        .map(|(item, path)| async move {
            let files = tokio::time::timeout(LOOK, Git::at(path).changed_files(true)).await;
            let count = files.ok()?.ok()?.len();
            (count > 0).then_some((item, count))
        });
    join_all(looks).await.into_iter().flatten().collect()
}

fn section(config: &Config, project: &Project, board: &Board, dirty: &Dirty) -> String {
    let (agents, prefix) = (&config.agents, &config.chat.prefix);
    let mut out = format!("**{}**: {} open", project.name, board.open);
    if board.cost_microusd > 0 {
        let _ = write!(out, ", {}", money(board.cost_microusd));
    }
    if project.paused {
        out.push_str(", paused");
    }
    out.push('\n');
    for why in &board.held {
        let _ = write!(out, "\n⏸️ {}\n", one_line(why, 200));
    }
    if let Some(why) = &board.queue_paused {
        let _ = write!(out, "\n⏸️ The merge queue stands still: {}\n", one_line(why, 200));
    }
    if board.shelves.is_empty() {
        let _ = write!(out, "\nNothing on the board. `{prefix}story NAME` files the first item.\n");
    }
    for shelf in &board.shelves {
        let _ = write!(out, "\n**{}**\n", heading(shelf.column));
        for entry in &shelf.entries {
            let dirty = dirty.get(&entry.item.id).copied();
            let _ = writeln!(out, "- {}", line(agents, entry, dirty));
        }
        let more = shelf.items.saturating_sub(shelf.entries.len() as u64);
        if more > 0 {
            let _ = writeln!(out, "- … and {more} more");
        }
    }
    out
}

fn heading(column: Column) -> &'static str {
    match column {
        Column::Backlog => "Backlog",
        Column::Coding => "Coding",
        Column::Qa => "QA",
        Column::Merge => "Merge",
        Column::Done => "Done",
        Column::Archived => "Archived",
        Column::Closed => "Closed",
    }
}

/// One item: icon, number, name, agent with model, cost, what it waits for, and what lies about.
fn line(agents: &[AgentConfig], entry: &Entry, dirty: Option<usize>) -> String {
    let item = &entry.item;
    let mark = match (item.kind, entry.agent_waits) {
        (Kind::Epic, _) => "🗂️",
        (_, Some(_waits)) => "💬",
        (_, None) => icon(&item.stage),
    };
    let mut parts = vec![format!("{mark} #{} {}", item.id, one_line(&item.name, NAME_CHARS))];
    if let Some(progress) = &entry.progress {
        parts.push(work::progress_in_words(progress));
    }
    if let Some(agent) = item.stage.claim().or(item.agent.as_ref()) {
        let known = agents.iter().find(|known| known.name == *agent);
        parts.push(match known.and_then(|known| known.model.as_deref()) {
            Some(model) => format!("{agent} ({model})"),
            None => agent.to_string(),
        });
    }
    if let Some(parent) = entry.part_of {
        parts.push(format!("part of #{parent}"));
    }
    parts.push(money(item.cost_microusd));
    parts.push(agent_waits(entry.agent_waits).to_owned());
    parts.push(waits_for(entry));
    if let Some(files) = &entry.conflicts {
        parts.push(format!("⚡ conflicts with the base in {}", names(files)));
    }
    if let Some(files) = dirty {
        parts.push(format!("{files} uncommitted"));
    }
    parts.retain(|part| !part.is_empty());
    parts.join(" · ")
}

/// What an item waits for, in a few words.
fn waits_for(entry: &Entry) -> String {
    let item = &entry.item;
    match &item.stage {
        Stage::Upcoming => "for later".to_owned(),
        Stage::Backlog => unmet(&entry.waits_for),
        Stage::Coding { claim: None, .. } => "waits for a coder".to_owned(),
        Stage::Qa { claim: None, .. } => "waits for QA".to_owned(),
        Stage::Coding { claim: Some(_), .. }
        | Stage::Qa { claim: Some(_), .. }
        | Stage::Done { .. }
        | Stage::Archived { .. } => String::new(),
        Stage::Blocked { reason, .. } => format!("blocked: {}", one_line(reason, REASON_CHARS)),
        Stage::ReviewHold { .. } => format!("waits for your verdict: `approve {}`", item.id),
        Stage::Merge { .. } => place_in_queue(entry.place.as_ref()),
        Stage::MergeFailure { kind, .. } => format!("merge failed: {}", failure(kind)),
        Stage::MergeFailureFinal { kind, .. } => {
            format!("merge failed for good: {}; `start {}`", failure(kind), item.id)
        }
        Stage::Frozen { resume_to } => {
            format!("frozen in {}", resume_to.name().replace('_', " "))
        }
        Stage::Abandoned { reason } | Stage::Rejected { reason } => one_line(reason, REASON_CHARS),
        Stage::Superseded { by } => format!("superseded by #{by}"),
    }
}

/// What the agent at work waits for.
fn agent_waits(waits: Option<WaitingFor>) -> &'static str {
    match waits {
        None => "",
        Some(WaitingFor::Children) => "waits for its parts",
        Some(WaitingFor::Reply) => "waits for an answer to its mail",
        Some(WaitingFor::Person) => "waits for you",
        Some(WaitingFor::RateLimit) => "waits for a rate limit",
        Some(WaitingFor::Timer) => "waits for a moment",
    }
}

fn unmet(open: &[ItemId]) -> String {
    let list: Vec<String> = open.iter().map(|id| format!("#{id}")).collect();
    if list.is_empty() { String::new() } else { format!("waits for {}", list.join(", ")) }
}

fn place_in_queue(place: Option<&QueuePlace>) -> String {
    match place {
        None => "its result is being taken in".to_owned(),
        Some(QueuePlace { landing: true, .. }) => "being merged".to_owned(),
        Some(QueuePlace { pull: Some(url), .. }) => format!("pull request open: {url}"),
        Some(QueuePlace { waits: Some(why), .. }) => one_line(why, REASON_CHARS),
        Some(QueuePlace { ahead: 0, .. }) => "next to be merged".to_owned(),
        Some(QueuePlace { ahead, .. }) => format!("merge queue, {ahead} before it"),
    }
}

/// What made a merge fail, in a few words.
fn failure(kind: &MergeFailureKind) -> String {
    match kind {
        MergeFailureKind::Conflict { files } => format!("conflict in {}", names(files)),
        MergeFailureKind::GateFailed { gate, .. } => {
            format!("`{}` failed", one_line(gate, 30).replace('`', "'"))
        }
        MergeFailureKind::GateTimeout { gate } => {
            format!("`{}` ran out of time", one_line(gate, 30).replace('`', "'"))
        }
        MergeFailureKind::PushRefused { reason } => {
            format!("push refused: {}", one_line(reason, REASON_CHARS))
        }
        MergeFailureKind::NoCommits
        | MergeFailureKind::EmptyDiff
        | MergeFailureKind::BaseMoved
        | MergeFailureKind::Infrastructure { .. } => kind.name().replace('_', " "),
    }
}

/// Some files, the first ones by name.
pub fn names(files: &[String]) -> String {
    let mut list: Vec<String> = files
        .iter()
        .take(FILES)
        .map(|file| format!("`{}`", one_line(file, NAME_CHARS).replace('`', "'")))
        .collect();
    if files.len() > FILES {
        list.push(format!("and {} more", files.len() - FILES));
    }
    if list.is_empty() { "what it holds".to_owned() } else { list.join(", ") }
}

/// The state at a glance.
pub fn icon(stage: &Stage) -> &'static str {
    match stage {
        Stage::Upcoming => "💤",
        Stage::Backlog => "⚪",
        Stage::Coding { claim: Some(_), .. } | Stage::Qa { claim: Some(_), .. } => "▶️",
        Stage::Coding { claim: None, .. } | Stage::Qa { claim: None, .. } => "⏳",
        Stage::Blocked { .. } => "⛔",
        Stage::ReviewHold { .. } => "✋",
        Stage::Merge { .. } => "🔀",
        Stage::MergeFailure { .. } | Stage::MergeFailureFinal { .. } => "⚠️",
        Stage::Done { .. } => "✅",
        Stage::Archived { .. } => "📦",
        Stage::Frozen { .. } => "❄️",
        Stage::Abandoned { .. } | Stage::Superseded { .. } | Stage::Rejected { .. } => "❌",
    }
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
