//! What `why N` answers: where an item stands, what it waits for, and how that came about.

use super::assign::NOTED;
use super::{WorkError, board, epics, find, movers, queue, settle};
use crate::agents;
use crate::config::Config;
use crate::model::agent::{SessionState, Waiting, WaitingFor};
use crate::model::ids::ItemId;
use crate::model::item::{Item, Kind};
use crate::model::stage::Stage;
use crate::store::agents as sessions;
use crate::store::decisions::{self, What};
use crate::store::merge_predictions::Outcome;
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
    let merges = matches!(item.stage, Stage::Merge { .. });
    if !merges && item.stage.claim().is_none() && item.stage.wants_role().is_none() {
        return Ok(reasons);
    }
    if queue::project(conn, &item.project)?.is_some_and(|project| project.paused) {
        reasons.push(format!("project {} is paused: nothing starts in it", item.project));
    }
    if merges {
        // Merges cost no model; what holds agents back does not hold them.
        if let Some(who) = meta::find(conn, meta::STOPPED_ALL)? {
            reasons.push(format!("everything is stopped (by {who}): `resume all`"));
        }
        return Ok(reasons);
    }
    let live = sessions::live_session_of(conn, item.id)?;
    reasons.extend(agents::holds(conn, config, now, live.as_ref())?);
    Ok(reasons)
}

/// What an item in the backlog depends on and is not finished.
pub fn waits_for(conn: &Connection, item: &Item) -> Result<Vec<ItemId>, WorkError> {
    Ok(movers::unmet(conn, item)?.into_iter().map(|unmet| unmet.id).collect())
}

/// How a merge of what stands on an open item's branch would come out now; `None`: not looked yet.
pub fn prediction_in_words(conn: &Connection, item: &Item) -> Result<Option<String>, WorkError> {
    let predicted = merge_predictions::find(conn, item.id)?;
    let Some(predicted) = predicted.filter(|_| !item.stage.is_terminal()) else { return Ok(None) };
    Ok(Some(match predicted.outcome {
        Outcome::Clean => "as the base branch stands now, without a conflict.".to_owned(),
        Outcome::Conflict { files } => {
            format!("as the base branch stands now, with conflicts in {}.", files.join(", "))
        }
        Outcome::Nothing => "would change nothing: the base branch has all of it.".to_owned(),
        Outcome::NoCommits => "there is no commit to merge yet.".to_owned(),
    }))
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
            if item.kind == Kind::Epic {
                let progress = epics::progress(conn, id)?;
                format!(
                    "is an epic ({}): its items are worked on, and it closes by itself when they \
                     are done.",
                    epics::progress_in_words(&progress)
                )
            } else if waits_for.is_empty() {
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
    let before = items::waiting_before(conn, item)?;
    // Of those far behind nobody writes down any more why they wait: what stands there is old.
    let kept =
        |at: DateTime<Utc>| moved_at.is_none_or(|moved| at >= moved) && before < NOTED as u64;
    Ok(match newest.filter(|decision| kept(decision.at)) {
        Some(decision) => format!("{}.", decision.why),
        None if before == 0 => format!("waits for a free {role}."),
        None => format!("waits for a free {role}; {before} other items wait before it."),
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
        return after_the_end(conn, item, agent);
    };
    let since = moment(session.created_at);
    Ok(match session.state {
        SessionState::Waiting => {
            let what = session.waiting.as_ref().map(wait_in_words).unwrap_or_default();
            format!("is with {agent} since {since}, which waits {what}.")
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

/// What an agent waits for, to follow "waits".
fn wait_in_words(waiting: &Waiting) -> String {
    let what = match waiting.what {
        WaitingFor::Children => "for its child items",
        WaitingFor::Reply => "for an answer to its mail",
        WaitingFor::Person => "for a person",
        WaitingFor::RateLimit => "for a rate limit to end",
        WaitingFor::Timer => "for a moment",
    };
    let until = waiting.until.map(|until| format!(" until {}", moment(until))).unwrap_or_default();
    let detail = super::text::first_line(&waiting.detail);
    let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
    format!("{what}{until}{detail}")
}

/// What happens to an item whose agent has ended and still holds it.
fn after_the_end(conn: &Connection, item: &Item, agent: &str) -> Result<String, WorkError> {
    if let Some(who) = meta::find(conn, meta::STOPPED_ALL)? {
        return Ok(format!(
            "is held by {agent}, but everything is stopped (by {who}). `resume all` lets it go on."
        ));
    }
    let newest = decisions::newest_of(conn, item.id, What::PutOff)?;
    let moved_at = items::moved_at(conn, item.id)?;
    let Some(session) = sessions::sessions_of_item(conn, item.id)?.pop() else {
        return Ok(format!("is held by {agent}, which has not begun."));
    };
    let checks = |kind: &str| {
        newest.as_ref().is_some_and(|put_off| {
            put_off.inputs.get("kind").and_then(|kind| kind.as_str()) == Some(kind)
                && put_off.at >= session.updated_at
                && moved_at.is_none_or(|moved| put_off.at >= moved)
        })
    };
    if checks("check") {
        let why = newest.map(|put_off| put_off.why).unwrap_or_default();
        return Ok(format!("is held by {agent}, and {why}. It is tried again by itself."));
    }
    let reported = sessions::reports_of_item(conn, item.id)?
        .iter()
        .any(|report| report.session == Some(session.id));
    if reported || settle::exited_by_itself(conn, &session)? {
        return Ok(format!("is held by {agent}, whose work is being checked."));
    }
    let result = sessions::turns_of_session(conn, session.id)?.pop().and_then(|turn| turn.result);
    let end = settle::death_in_words(&session.agent, result.as_ref());
    Ok(format!("is held by {agent}. {end}; in a moment it goes on, or the item is blocked."))
}

fn words(what: What) -> String {
    what.as_str().replace('_', " ")
}
