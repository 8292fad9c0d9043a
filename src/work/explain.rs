//! What `why N` answers: where an item stands, what it waits for, and how that came about.

use super::{WorkError, board, find, movers, queue};
use crate::agents;
use crate::config::Config;
use crate::model::agent::SessionState;
use crate::model::ids::ItemId;
use crate::model::item::Item;
use crate::model::stage::Stage;
use crate::store::agents as sessions;
use crate::store::decisions::{self, What};
use crate::store::pauses::{self, Scope};
use crate::store::{changes, items, log, merge_predictions, meta};
use chrono::{DateTime, Utc};
use rusqlite::Connection;
use std::fmt::Write;

/// How many of the latest decisions and moves are told.
const TOLD: usize = 6;

/// Explains why an item stands where it stands, in Markdown.
pub fn explain(conn: &Connection, id: ItemId) -> Result<String, WorkError> {
    let item = find(conn, id)?;
    let mut text = format!("**#{id} {}**: {}\n", item.name, situation(conn, &item)?);
    let mut history: Vec<(DateTime<Utc>, String)> = Vec::new();
    for decision in decisions::of_item(conn, id, TOLD)? {
        history.push((decision.at, format!("{}: {}", words(decision.what), decision.why)));
    }
    for moved in log::transitions_of(conn, id)?.into_iter().rev().take(TOLD) {
        let to = moved.to.name().replace('_', " ");
        history.push((moved.at, format!("to {to}: {} ({})", moved.cause, moved.origin.id)));
    }
    for change in changes::of_item(conn, id, TOLD)? {
        let [before, after] = [&change.before, &change.after]
            .map(|side| side.as_deref().map_or_else(|| "nothing".to_owned(), |side| cut(side, 60)));
        let line = format!("{}: {before} → {after} ({})", change.field, change.origin.id);
        history.push((change.at, line));
    }
    history.sort_by_key(|(at, _)| *at);
    if !history.is_empty() {
        text.push_str("\nHow that came about:\n");
    }
    for (at, line) in history {
        let _ = writeln!(text, "- {} {}", at.format("%d %b %H:%M:%S"), one_line(&line));
    }
    Ok(text)
}

/// As [`explain`], with what keeps everything or the item's agent from going on at this moment.
pub fn why(
    conn: &Connection,
    config: &Config,
    now: DateTime<Utc>,
    id: ItemId,
) -> Result<String, WorkError> {
    let text = explain(conn, id)?;
    let item = find(conn, id)?;
    let mut held_back = held_back(conn, config, now, &item)?;
    let predicted = merge_predictions::find(conn, id)?;
    if let Some(files) = board::conflicts(&item, predicted.as_ref()) {
        let files = files.join(", ");
        held_back.push(format!("as the base branch stands now, it would conflict in {files}"));
    }
    if held_back.is_empty() {
        return Ok(text);
    }
    let (situation, history) = text.split_once('\n').unwrap_or((&text, ""));
    let lines: Vec<String> = held_back.iter().map(|why| format!("- {why}\n")).collect();
    Ok(format!("{situation}\n\nHeld back:\n{}{history}", lines.concat()))
}

/// What keeps an item that an agent has or waits for from going on, whatever its agent does.
fn held_back(
    conn: &Connection,
    config: &Config,
    now: DateTime<Utc>,
    item: &Item,
) -> Result<Vec<String>, WorkError> {
    let mut reasons = Vec::new();
    if item.stage.claim().is_none() && item.stage.wants_role().is_none() {
        return Ok(reasons);
    }
    if queue::project(conn, &item.project)?.is_some_and(|project| project.paused) {
        reasons.push(format!("project {} is paused: nothing starts in it", item.project));
    }
    let live = sessions::live_session_of(conn, item.id)?;
    reasons.extend(agents::holds(conn, config, now, live.as_ref())?);
    Ok(reasons)
}

fn one_line(text: &str) -> String {
    cut(text, 200)
}

/// The beginning of a text's first line.
fn cut(text: &str, most: usize) -> String {
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// Where it stands and what it waits for, as a sentence or two.
fn situation(conn: &Connection, item: &Item) -> Result<String, WorkError> {
    let id = item.id;
    Ok(match &item.stage {
        Stage::Upcoming => format!("is only noted for later. `start {id}` starts it."),
        Stage::Backlog => {
            let waits_for = movers::unmet(conn, item)?;
            if waits_for.is_empty() {
                format!("is in the backlog and waits for somebody to say `start {id}`.")
            } else {
                format!("is in the backlog: {}.", movers::unmet_in_words(item, &waits_for))
            }
        }
        Stage::Coding { claim: Some(agent), .. }
        | Stage::Qa { claim: Some(agent), .. }
        | Stage::MergeFailure { claim: Some(agent), .. }
        | Stage::MergeFailureFinal { claim: Some(agent), .. } => {
            working(conn, item, agent.as_str())?
        }
        Stage::Coding { claim: None, .. } => waiting(conn, item, "coder")?,
        Stage::Qa { claim: None, .. } => waiting(conn, item, "QA agent")?,
        Stage::Blocked { reason, .. } => {
            format!("is blocked: {reason}. `start {id}` tries again when the cause is gone.")
        }
        Stage::ReviewHold { reason, .. } => {
            format!("waits for a person: {reason}. `approve {id}` or `reject {id} why`.")
        }
        Stage::Merge { commit, .. } => {
            let place = queue::place_of(conn, item, Utc::now())?;
            format!("is in the merge queue with {}: {place}.", text_commit(commit))
        }
        Stage::MergeFailure { kind, output, in_a_row, .. } => {
            let next = match item.stage.wants_role() {
                Some(_) => format!(" It {}", waiting(conn, item, "mergemaster")?),
                None => String::new(),
            };
            format!(
                "could not be merged ({}, {in_a_row} in a row).{next}\n\n```\n{output}\n```",
                kind.name().replace('_', " ")
            )
        }
        Stage::MergeFailureFinal { started: true, .. } => waiting(conn, item, "mergemaster")?,
        Stage::MergeFailureFinal { kind, output, .. } => format!(
            "could not be merged, and is not tried again by itself ({}). `start {id}` gives it to \
             a mergemaster (or a coder, where there is none).\n\n```\n{output}\n```",
            kind.name().replace('_', " ")
        ),
        Stage::Done { merged_at, commit } => {
            format!("is done: merged as {} at {}.", text_commit(commit), moment(*merged_at))
        }
        Stage::Archived { at, .. } => format!("is archived since {}.", moment(*at)),
        Stage::Frozen { resume_to } => format!(
            "is frozen and would go on in {}. `unfreeze {id}` takes it off the ice.",
            resume_to.name().replace('_', " ")
        ),
        Stage::Abandoned { reason } => format!("was abandoned: {reason}."),
        Stage::Superseded { by } => format!("was superseded by {by}."),
        Stage::Rejected { reason } => format!("was rejected: {reason}."),
    })
}

fn text_commit(commit: &str) -> String {
    super::text::short(commit)
}

fn moment(at: DateTime<Utc>) -> String {
    at.format("%d %b %H:%M UTC").to_string()
}

/// Why an item without an agent has none.
fn waiting(conn: &Connection, item: &Item, role: &str) -> Result<String, WorkError> {
    if let Some(who) = meta::find(conn, meta::STOPPED_ALL)? {
        return Ok(format!(
            "waits, because everything is stopped (by {who}). `resume all` lets agents start again."
        ));
    }
    let newest = decisions::newest_of(conn, item.id, What::NotStarted)?;
    let moved_at = items::moved_at(conn, item.id)?;
    Ok(match newest.filter(|decision| moved_at.is_none_or(|at| decision.at >= at)) {
        Some(decision) => format!("{}.", decision.why),
        None => match items::waiting_before(conn, item)? {
            0 => format!("waits for a free {role}."),
            before => format!("waits for a free {role}; {before} other items wait before it."),
        },
    })
}

/// What the agent that holds an item does.
fn working(conn: &Connection, item: &Item, agent: &str) -> Result<String, WorkError> {
    let Some(session) = sessions::live_session_of(conn, item.id)? else {
        for scope in [Scope::Machine, Scope::Project(item.project.clone())] {
            if let Some(pause) = pauses::find(conn, &scope)? {
                return Ok(format!(
                    "is held by {agent}, whose work cannot be checked now: {}. It is tried again \
                     by itself.",
                    pause.reason
                ));
            }
        }
        return Ok(format!("is held by {agent}, whose work is being checked."));
    };
    let since = moment(session.created_at);
    Ok(match session.state {
        SessionState::Waiting => {
            let what = session.waiting.map(|waiting| waiting.detail).unwrap_or_default();
            format!("is with {agent} since {since}, which waits: {what}.")
        }
        SessionState::Stalled => {
            format!("is with {agent} since {since}, which has been silent for too long.")
        }
        SessionState::Booting => {
            format!("is given to {agent} since {since}, which begins as soon as it may.")
        }
        SessionState::BetweenTurns if session.pending_prompt.is_some() => {
            format!("is with {agent} since {since}, which goes on as soon as it may.")
        }
        SessionState::InTurn | SessionState::BetweenTurns => {
            format!("is being worked on by {agent} since {since}.")
        }
        SessionState::Completed | SessionState::Zombie => {
            format!("is held by {agent}, whose work is being checked.")
        }
    })
}

fn words(what: What) -> String {
    what.as_str().replace('_', " ")
}
