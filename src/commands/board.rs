//! The board: columns in order, an item a line. Reads well as plain text and on a telephone.

use super::CommandError;
use super::context::{Context, money, one_line};
use crate::model::ids::{ItemId, ProjectName};
use crate::model::item::{Item, Kind};
use crate::model::stage::{Column, Stage};
use crate::store::{items, merge_queue, meta};
use crate::work;
use rusqlite::Connection;
use std::fmt::Write;

/// How many items of a column are shown.
const COLUMN_MAX: usize = 25;

/// How many done items are shown: they are told when they happen.
const DONE_MAX: usize = 8;

/// How long a reason may be on the board.
const REASON_CHARS: usize = 100;

/// What `status` shows: the room's project, or all of them.
pub fn board(context: &Context, conn: &Connection, all: bool) -> Result<String, CommandError> {
    let here = if all { None } else { context.find_project(conn)? };
    let projects = match here {
        Some(project) => vec![project],
        None => context.services.projects.list(),
    };
    if projects.is_empty() {
        // Says what to do.
        return context.project(conn).map(|_| String::new());
    }
    let mut out = String::new();
    if let Some(who) = meta::find(conn, meta::STOPPED_ALL)? {
        let _ = write!(out, "⛔ **Everything is stopped** (by {who}); `resume all` goes on.\n\n");
    }
    for (index, project) in projects.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        let items = work::board(conn, Some(&project.name))?;
        let lines = items.iter().map(|item| line(context, conn, item));
        let lines = lines.collect::<Result<Vec<_>, _>>()?;
        out.push_str(&section(&project.name, project.paused, &items, &lines));
    }
    Ok(out.trim_end().to_owned())
}

fn section(project: &ProjectName, paused: bool, items: &[Item], lines: &[String]) -> String {
    let cost: i64 = items.iter().map(|item| item.cost_microusd).sum();
    let open = items.iter().filter(|item| !item.stage.is_terminal()).count();
    let mut out = format!("**{project}**: {open} open");
    if cost > 0 {
        let _ = write!(out, ", {}", money(cost));
    }
    if paused {
        out.push_str(", paused");
    }
    out.push('\n');
    if items.is_empty() {
        out.push_str("\nNothing on the board. `story NAME` files the first item.\n");
    }
    for column in Column::ALL {
        let of_column: Vec<&String> = items
            .iter()
            .zip(lines)
            .filter(|(item, _)| item.stage.column() == column)
            .map(|(_, line)| line)
            .collect();
        if of_column.is_empty() {
            continue;
        }
        let limit = if column == Column::Done { DONE_MAX } else { COLUMN_MAX };
        let _ = write!(out, "\n**{}**\n", heading(column));
        for line in of_column.iter().take(limit) {
            let _ = writeln!(out, "- {line}");
        }
        if of_column.len() > limit {
            let _ = writeln!(out, "- … and {} more", of_column.len() - limit);
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

/// One item: icon, number, name, agent with model, cost, and what it waits for.
fn line(context: &Context, conn: &Connection, item: &Item) -> Result<String, CommandError> {
    let mut out = format!("{} #{} {}", icon(&item.stage), item.id, item.name);
    if item.kind == Kind::Epic {
        out.push_str(" (epic)");
    }
    if let Some(agent) = item.stage.claim().or(item.agent.as_ref()) {
        let config = context.services.config.agents.iter().find(|known| known.name == *agent);
        match config.and_then(|config| config.model.as_deref()) {
            Some(model) => write!(out, " · {agent} ({model})"),
            None => write!(out, " · {agent}"),
        }
        .map_err(anyhow::Error::from)?;
    }
    if item.cost_microusd > 0 {
        let _ = write!(out, " · {}", money(item.cost_microusd));
    }
    let waits = waits_for(conn, item)?;
    if !waits.is_empty() {
        let _ = write!(out, " · {waits}");
    }
    Ok(out)
}

/// What an item waits for, in a few words.
fn waits_for(conn: &Connection, item: &Item) -> Result<String, CommandError> {
    Ok(match &item.stage {
        Stage::Upcoming => "for later".to_owned(),
        Stage::Backlog => unmet(conn, item)?,
        Stage::Coding { claim: None, .. } => "waits for a coder".to_owned(),
        Stage::Qa { claim: None, .. } => "waits for QA".to_owned(),
        Stage::Coding { claim: Some(_), .. }
        | Stage::Qa { claim: Some(_), .. }
        | Stage::Done { .. }
        | Stage::Archived { .. } => String::new(),
        Stage::Blocked { reason, .. } => format!("blocked: {}", one_line(reason, REASON_CHARS)),
        Stage::ReviewHold { reason, .. } => {
            format!("waits for a person: {}", one_line(reason, REASON_CHARS))
        }
        Stage::Merge { .. } => place_in_queue(conn, item)?,
        Stage::MergeFailure { kind, .. } => {
            format!("merge failed: {}", kind.name().replace('_', " "))
        }
        Stage::MergeFailureFinal { kind, .. } => {
            format!("merge failed for good: {}", kind.name().replace('_', " "))
        }
        Stage::Frozen { resume_to } => {
            format!("frozen in {}", resume_to.name().replace('_', " "))
        }
        Stage::Abandoned { reason } | Stage::Rejected { reason } => one_line(reason, REASON_CHARS),
        Stage::Superseded { by } => format!("superseded by #{by}"),
    })
}

fn unmet(conn: &Connection, item: &Item) -> Result<String, CommandError> {
    let mut open: Vec<ItemId> = vec![];
    for id in &item.depends_on {
        let stage = items::find(conn, *id)?.map(|other| other.stage);
        if !stage.as_ref().is_some_and(Stage::meets_dependency) {
            open.push(*id);
        }
    }
    let list: Vec<String> = open.iter().map(|id| format!("#{id}")).collect();
    Ok(if list.is_empty() { String::new() } else { format!("waits for {}", list.join(", ")) })
}

fn place_in_queue(conn: &Connection, item: &Item) -> Result<String, CommandError> {
    let now = item.updated_at.timestamp_millis();
    let queue = merge_queue::list(conn, &item.project, now)?;
    let place = queue.iter().position(|row| row.item == item.id);
    Ok(match place {
        Some(0) => "next to be merged".to_owned(),
        Some(ahead) => format!("merge queue, {ahead} before it"),
        None => String::new(),
    })
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
