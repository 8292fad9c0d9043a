//! What rooms hear about items, from the two logs.
//!
//! The cursor moves in the transaction that writes the messages, and each message carries its log
//! row's number as a key: neither a crash nor a second reader says anything twice. Progress is a
//! notice that pings nobody; results, questions and failures are texts. What a person just did by a
//! command is not repeated: the command's own answer says it.

use super::{WorkError, keeper, movers, queue, text};
use crate::clock::from_millis;
use crate::model::chat::Outgoing;
use crate::model::event::{Event, EventRow, Transition};
use crate::model::ids::{ProjectName, RoomKey, SessionKey};
use crate::model::item::{Item, OriginKind};
use crate::model::stage::{ArchiveReason, Column, Stage};
use crate::store::log::{self, Log};
use crate::store::{Tx, items, outbox};
use chrono::Duration;

/// This reader's name in the table of cursors.
const SUBSCRIBER: &str = "work.notices";
/// How many rows one transaction reads.
const BATCH: usize = 100;

/// How long "merged" waits for the worktree and the branch to be gone, so that what is announced as
/// finished is finished.
const TIDY_FIRST: Duration = Duration::seconds(5);

/// How much attention something wants.
enum Said {
    Progress(String),
    Result(String),
}

/// Tells rooms what happened since the last time; says whether there may be more to read.
pub(super) fn post(tx: &Tx<'_>) -> Result<bool, WorkError> {
    let position = log::position(tx, SUBSCRIBER, Log::Transitions)?;
    let mut moves = log::transitions_after(tx, position, BATCH)?;
    let more = moves.len() == BATCH;
    let now = from_millis(tx.now());
    for (at, moved) in moves.iter().enumerate() {
        let done = matches!(moved.to, Stage::Done { .. });
        if done && now - moved.at < TIDY_FIRST && !keeper::has_seen_to(tx, moved)? {
            moves.truncate(at);
            break;
        }
    }
    for moved in &moves {
        announce(tx, moved)?;
    }
    if let Some(last) = moves.last() {
        log::advance(tx, SUBSCRIBER, Log::Transitions, last.seq)?;
    }
    let position = log::position(tx, SUBSCRIBER, Log::Events)?;
    let events = log::events_after(tx, position, BATCH)?;
    for event in &events {
        announce_event(tx, event)?;
    }
    if let Some(last) = events.last() {
        log::advance(tx, SUBSCRIBER, Log::Events, last.seq)?;
    }
    Ok(more && !moves.is_empty() || events.len() == BATCH)
}

fn announce(tx: &Tx<'_>, moved: &Transition) -> Result<(), WorkError> {
    let Some(item) = items::find(tx, moved.item)? else { return Ok(()) };
    if let Some(said) = words(&item, moved) {
        say(tx, &item, said, &format!("work.move:{}", moved.seq))?;
    }
    if moved.to.is_terminal() && !moved.to.meets_dependency() {
        for waiting in items::dependents(tx, item.id)? {
            if matches!(waiting.stage, Stage::Upcoming | Stage::Backlog) {
                let why = movers::unmet_in_words(&waiting, &movers::unmet(tx, &waiting)?);
                let said = Said::Result(text::orphaned(&waiting, &why));
                say(tx, &waiting, said, &format!("work.orphan:{}:{}", moved.seq, waiting.id))?;
            }
        }
    }
    Ok(())
}

/// What is said about a move; `None` when it speaks for itself or a command has answered it.
fn words(item: &Item, moved: &Transition) -> Option<Said> {
    let by_person = moved.origin.kind == OriginKind::User;
    let by_itself = moved.origin.kind == OriginKind::System;
    let from = moved.from.as_ref()?;
    match (&moved.to, from) {
        (Stage::Coding { claim: Some(agent), .. }, Stage::Coding { claim: None, .. }) => {
            Some(Said::Progress(text::claimed(item, agent.as_str(), false)))
        }
        (Stage::Qa { claim: Some(agent), .. }, Stage::Qa { claim: None, .. }) => {
            Some(Said::Progress(text::claimed(item, agent.as_str(), true)))
        }
        (
            Stage::MergeFailure { claim: Some(agent), kind, .. },
            Stage::MergeFailure { claim: None, .. },
        )
        | (
            Stage::MergeFailureFinal { claim: Some(agent), kind, .. },
            Stage::MergeFailureFinal { claim: None, .. },
        ) => Some(Said::Progress(text::resolving(item, agent.as_str(), kind))),
        (Stage::Coding { retries, note, .. }, Stage::Coding { retries: before, .. })
            if retries > before =>
        {
            let why = note.as_deref().unwrap_or(&moved.cause);
            Some(Said::Progress(text::sent_back(item, why, *retries)))
        }
        (
            Stage::Coding { note: Some(findings), .. },
            Stage::Qa { .. } | Stage::ReviewHold { .. },
        ) => Some(Said::Progress(text::returned(item, findings))),
        (Stage::Coding { .. }, Stage::Upcoming | Stage::Backlog) if by_itself => {
            Some(Said::Progress(text::promoted(item, &moved.cause)))
        }
        (Stage::Qa { commit, .. }, Stage::Coding { .. }) => {
            Some(Said::Progress(text::to_qa(item, commit)))
        }
        (Stage::Merge { commit, .. }, Stage::Coding { .. } | Stage::Qa { .. }) => {
            Some(Said::Progress(text::queued(item, commit)))
        }
        (Stage::Merge { commit, .. }, Stage::MergeFailure { claim: Some(_), .. })
        | (Stage::Merge { commit, .. }, Stage::MergeFailureFinal { claim: Some(_), .. }) => {
            Some(Said::Progress(text::queued(item, commit)))
        }
        (Stage::MergeFailure { kind, output, in_a_row, .. }, Stage::Merge { .. }) => {
            // The machine's own failures repeat; once is enough.
            let heard = *in_a_row > 1 && kind.name() == "infrastructure";
            (!heard).then(|| Said::Result(text::merge_failed(item, kind, output)))
        }
        (Stage::MergeFailureFinal { kind, output, .. }, Stage::Merge { .. }) => {
            Some(Said::Result(text::merge_failed_for_good(item, kind, output)))
        }
        (
            Stage::Archived { reason: ArchiveReason::Finished, .. },
            Stage::Upcoming | Stage::Backlog | Stage::Coding { .. },
        ) if by_itself => Some(Said::Result(text::finished(item, &moved.cause))),
        (Stage::Done { commit, .. }, _from) => Some(Said::Result(text::merged(item, commit))),
        (Stage::Blocked { reason, .. }, from)
            if !by_person && !matches!(from, Stage::Frozen { .. }) =>
        {
            Some(Said::Result(text::blocked(item, reason)))
        }
        (
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
            | Stage::Rejected { .. },
            _from,
        ) => None,
    }
}

fn announce_event(tx: &Tx<'_>, row: &EventRow) -> Result<(), WorkError> {
    let key = format!("work.event:{}", row.seq);
    match &row.event {
        Event::RateLimited { item, agent, until } => {
            let Some(item) = items::find(tx, *item)? else { return Ok(()) };
            let said = Said::Progress(text::rate_limited(&item, agent.as_str(), *until));
            say(tx, &item, said, &key)
        }
        Event::Paused { what, reason, project } => {
            say_to_all(tx, project.as_ref(), &text::paused(what, reason), &key)
        }
        Event::GoesOn { what, project } => {
            say_to_all(tx, project.as_ref(), &text::goes_on(what), &key)
        }
        Event::Watched { item, agent, what } => {
            let Some(item) = items::find(tx, *item)? else { return Ok(()) };
            let text = text::watched(&item, agent.as_str(), what);
            say(tx, &item, Said::Result(text), &key)
        }
        Event::Trouble { item, what } => {
            let Some(item) = items::find(tx, *item)? else { return Ok(()) };
            say(tx, &item, Said::Result(text::trouble(&item, what)), &key)
        }
        Event::Unreachable { item, agent, message, until } => {
            let Some(item) = items::find(tx, *item)? else { return Ok(()) };
            let text = text::unreachable(&item, agent.as_str(), message, *until);
            say(tx, &item, Said::Result(text), &key)
        }
        Event::BudgetReached { what, room: Some(room), .. } => {
            let session = SessionKey::main(room.clone());
            outbox::enqueue(tx, &Outgoing::text(session, what), Some(&key))?;
            Ok(())
        }
        Event::BudgetReached { what, item: Some(item), .. } => {
            let Some(item) = items::find(tx, *item)? else { return Ok(()) };
            say(tx, &item, Said::Result(what.clone()), &key)
        }
        Event::BudgetReached { what, project, key: name, .. } => {
            let key = if name.is_empty() { &key } else { name };
            say_to_all(tx, project.as_ref(), what, key)
        }
        Event::AgentSaid { item, agent, text, question } => {
            let Some(item) = items::find(tx, *item)? else { return Ok(()) };
            let text = text::agent_said(&item, agent.as_str(), text);
            say(tx, &item, if *question { Said::Result(text) } else { Said::Progress(text) }, &key)
        }
        Event::TurnFinished { .. }
        | Event::WorkerDied { .. }
        | Event::GatesRan { .. }
        | Event::Merged { .. }
        | Event::MergeFailed { .. }
        | Event::TimerFired { .. }
        | Event::ProjectCreated { .. } => Ok(()),
    }
}

/// Tells every room in which items have been spoken about that are not ended (of one project, or of
/// all): what concerns them all.
fn say_to_all(
    tx: &Tx<'_>,
    project: Option<&ProjectName>,
    text: &str,
    key: &str,
) -> Result<(), WorkError> {
    let mut rooms: Vec<RoomKey> = Vec::new();
    let open = [Column::Coding, Column::Qa, Column::Merge];
    for item in items::in_columns(tx, project, &open)? {
        if let Some(room) = queue::room_of(tx, &item)?
            && !rooms.contains(&room)
        {
            rooms.push(room);
        }
    }
    for room in rooms {
        let key = format!("{key}:{room}");
        outbox::enqueue(tx, &Outgoing::text(SessionKey::main(room), text), Some(&key))?;
    }
    Ok(())
}

fn say(tx: &Tx<'_>, item: &Item, said: Said, key: &str) -> Result<(), WorkError> {
    let Some(room) = queue::room_of(tx, item)? else { return Ok(()) };
    let session = SessionKey::main(room);
    let outgoing = match said {
        Said::Progress(text) => Outgoing::notice(session, text),
        Said::Result(text) => Outgoing::text(session, text),
    };
    outbox::enqueue(tx, &outgoing.about(item.id), Some(key))?;
    Ok(())
}
