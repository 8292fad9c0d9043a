//! What follows when the merge queue has landed an item or given it back, or a timer is due.
//!
//! Read from the event log by a durable cursor that moves in the transaction of the reaction: each
//! result has its effect exactly once. What follows a failure is derived from the stage in every
//! pass ([`go_on`]), so that an item that was blocked, frozen or read by an older version goes on
//! as well: a conflict waits for a mergemaster (the assigner's), failed gates go back to a coder
//! with the output, the machine's own failures are tried again with back-off.

use super::counters::Counters;
use super::settle::{MAX_ROUNDS, block};
use super::{WorkError, apply_to, assign, each, queue, system, text, timed};
use crate::clock::from_millis;
use crate::config::Config;
use crate::model::agent::Role;
use crate::model::chat::Outgoing;
use crate::model::event::{Event, EventRow};
use crate::model::ids::{ItemId, SessionKey};
use crate::model::item::{Item, OriginKind};
use crate::model::stage::{MergeFailureKind, Stage, StageEvent};
use crate::store::decisions::{self, What};
use crate::store::log::{self, Log};
use crate::store::{Tx, items, outbox};
use chrono::Duration;
use rusqlite::Connection;
use serde_json::json;

/// This reader's name in the table of cursors.
const SUBSCRIBER: &str = "work.merges";
/// How many events one transaction reads.
const BATCH: usize = 200;
/// How long a merge that failed through no fault of the item waits before it is tried again.
const FIRST_BACKOFF: Duration = Duration::seconds(15);
/// The longest such wait.
const LAST_BACKOFF: Duration = Duration::minutes(10);

/// Reacts to what the merge queue and timers reported; says whether there may be more to read.
pub(super) fn take_results(tx: &Tx<'_>) -> Result<bool, WorkError> {
    let position = log::position(tx, SUBSCRIBER, Log::Events)?;
    let rows = log::events_after(tx, position, BATCH)?;
    let Some(last) = rows.last().map(|row| row.seq) else { return Ok(false) };
    let more = rows.len() == BATCH;
    for row in rows {
        match tx.nested(|tx| take(tx, &row)) {
            Ok(()) => {}
            Err(WorkError::Store(error)) => return Err(error.into()),
            Err(error) => tracing::error!(seq = row.seq, %error, "an event was passed over"),
        }
    }
    log::advance(tx, SUBSCRIBER, Log::Events, last)?;
    Ok(more)
}

fn take(tx: &Tx<'_>, row: &EventRow) -> Result<(), WorkError> {
    match &row.event {
        Event::Merged { item, commit } => merged(tx, *item, commit, row),
        Event::MergeFailed { item, kind, output } => failed(tx, *item, kind, output),
        Event::TimerFired { timer } => timed::fired(tx, *timer, row.seq),
        Event::TurnFinished { .. }
        | Event::WorkerDied { .. }
        | Event::GatesRan { .. }
        | Event::Paused { .. }
        | Event::GoesOn { .. }
        | Event::Trouble { .. }
        | Event::Watched { .. }
        | Event::Unreachable { .. }
        | Event::RateLimited { .. }
        | Event::BudgetReached { .. }
        | Event::AgentSaid { .. }
        | Event::ProjectCreated { .. } => Ok(()),
    }
}

fn merged(tx: &Tx<'_>, id: ItemId, commit: &str, row: &EventRow) -> Result<(), WorkError> {
    let Some(item) = items::find(tx, id)? else { return Ok(()) };
    let event = StageEvent::Merged { commit: commit.to_owned(), at: row.at };
    let why = format!("landed on the base branch as {}", text::short(commit));
    match apply_to(tx, &item, &event, &system(tx), &why) {
        Ok(_item) => {
            decisions::record(tx, Some(id), What::Merged, &why, &json!({"commit": commit}))?;
            Ok(())
        }
        Err(WorkError::Illegal(_, refused)) => {
            // It ended otherwise while it landed; the commit stands all the same.
            tracing::warn!(item = id.0, commit, %refused, "a merge came too late for its item");
            let why = format!("{why}, although it had ended before");
            decisions::record(tx, Some(id), What::Merged, &why, &json!({"commit": commit}))?;
            if !item.stage.meets_dependency() {
                tell_late(tx, &item, commit)?;
            }
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Says that the work of an item that was turned down or given up is on the base branch: somebody
/// merged its pull request all the same, or it was landing at that moment.
fn tell_late(tx: &Tx<'_>, item: &Item, commit: &str) -> Result<(), WorkError> {
    let Some(room) = queue::room_of(tx, item)? else { return Ok(()) };
    let text = text::landed_late(item, commit);
    let outgoing = Outgoing::text(SessionKey::main(room), text).about(item.id);
    outbox::enqueue(tx, &outgoing, Some(&format!("work.late:{}:{commit}", item.id)))?;
    Ok(())
}

fn failed(tx: &Tx<'_>, id: ItemId, kind: &MergeFailureKind, output: &str) -> Result<(), WorkError> {
    let Some(item) = items::find(tx, id)? else { return Ok(()) };
    // Its row went in the transaction that reported the failure: one that stands there now belongs
    // to a later attempt, and the failure to an earlier one that a person has dealt with.
    if queue::is_queued(tx, id)? || !matches!(item.stage, Stage::Merge { .. }) {
        tracing::info!(item = id.0, "a merge failure came too late for its item");
        return Ok(());
    }
    let in_a_row = failures_before(tx, id, kind)? + 1;
    let what = text::failure_in_words(kind);
    let event =
        StageEvent::MergeFailed { kind: kind.clone(), output: text::tail(output), in_a_row };
    let item = apply_to(tx, &item, &event, &system(tx), &what)?;
    match &item.stage {
        Stage::MergeFailure { kind, .. } => count_round(tx, &item, kind),
        Stage::Blocked { reason, .. } => {
            decisions::record(tx, Some(id), What::Blocked, reason, &json!({"kind": kind}))?;
            Ok(())
        }
        Stage::MergeFailureFinal { .. } => {
            let why = format!("{what}, {in_a_row} times in a row: not tried again by itself");
            decisions::record(tx, Some(id), What::Blocked, &why, &json!({"kind": kind}))?;
            Ok(())
        }
        // The stage machine has no other answer to a failed merge.
        Stage::Upcoming
        | Stage::Backlog
        | Stage::Coding { .. }
        | Stage::Qa { .. }
        | Stage::ReviewHold { .. }
        | Stage::Merge { .. }
        | Stage::Done { .. }
        | Stage::Archived { .. }
        | Stage::Frozen { .. }
        | Stage::Abandoned { .. }
        | Stage::Superseded { .. }
        | Stage::Rejected { .. } => Ok(()),
    }
}

/// How often in a row the item's last merges failed in this way, since a person last started it.
fn failures_before(
    conn: &Connection,
    id: ItemId,
    kind: &MergeFailureKind,
) -> Result<u32, WorkError> {
    let mut count = 0;
    for moved in log::transitions_of(conn, id)?.iter().rev() {
        let by_person = moved.origin.kind != OriginKind::System;
        let was_queued = matches!(moved.from, Some(Stage::Merge { .. }));
        let again = matches!(
            moved.from,
            Some(
                Stage::MergeFailure { .. }
                    | Stage::MergeFailureFinal { .. }
                    | Stage::Blocked { .. }
            )
        );
        if by_person && again {
            break;
        }
        match &moved.to {
            Stage::MergeFailure { kind: other, .. }
            | Stage::MergeFailureFinal { kind: other, .. }
                if was_queued =>
            {
                if other.name() != kind.name() {
                    break;
                }
                count += 1;
            }
            Stage::Done { .. } => break,
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
            | Stage::Rejected { .. } => {}
        }
    }
    Ok(count)
}

/// Counts a failure that somebody has to mend; too many block the item.
fn count_round(tx: &Tx<'_>, item: &Item, kind: &MergeFailureKind) -> Result<(), WorkError> {
    match kind {
        MergeFailureKind::Conflict { .. }
        | MergeFailureKind::GateFailed { .. }
        | MergeFailureKind::GateTimeout { .. } => {}
        MergeFailureKind::NoCommits
        | MergeFailureKind::EmptyDiff
        | MergeFailureKind::BaseMoved
        | MergeFailureKind::PushRefused { .. }
        | MergeFailureKind::Infrastructure { .. } => return Ok(()),
    }
    let what = text::failure_in_words(kind);
    let rounds = Counters::of(tx, item.id)?.rounds;
    if rounds >= MAX_ROUNDS {
        return block(tx, item, &format!("{what}; it was sent back {rounds} times before"));
    }
    let inputs = json!({"from": "merge", "kind": kind, "rounds": rounds + 1});
    decisions::record(tx, Some(item.id), What::SentBack, &what, &inputs)?;
    Ok(())
}

/// Brings every failed merge further that nobody works on: back to a coder, or into the queue
/// again. Those for a mergemaster are the assigner's.
pub(super) fn go_on(tx: &Tx<'_>, config: &Config) -> Result<(), WorkError> {
    let failed = items::unmerged(tx)?;
    each(
        tx,
        &failed,
        |item| item.id,
        |tx, item| {
            let (Stage::MergeFailure { kind, output, .. }
            | Stage::MergeFailureFinal { kind, output, .. }) = &item.stage
            else {
                return Ok(());
            };
            match assign::role_for(config, item) {
                Some(Role::Coder) => to_coder(tx, item, kind, output),
                Some(Role::Mergemaster | Role::Qa | Role::Lead | Role::Scout | Role::Reviewer) => {
                    Ok(())
                }
                None => retry(tx, item),
            }
        },
    )
}

/// Gives a failed merge back to a coder, with what failed.
fn to_coder(
    tx: &Tx<'_>,
    item: &Item,
    kind: &MergeFailureKind,
    output: &str,
) -> Result<(), WorkError> {
    let what = text::failure_in_words(kind);
    let base = queue::project(tx, &item.project)?
        .map_or_else(|| "the base branch".to_owned(), |project| project.settings.base);
    let how = if matches!(kind, MergeFailureKind::Conflict { .. }) {
        format!(
            "For this, and only for this, merge `{base}` into your branch (`git merge {base}`), \
             resolve the conflicts so that both sides keep their meaning, and commit."
        )
    } else {
        format!(
            "The gates passed on your branch alone, so something on `{base}` and your change do \
             not go together: merge `{base}` into your branch (`git merge {base}`), mend it, and \
             commit."
        )
    };
    let note = format!("It could not be merged: {what}.\n\n{}\n\n{how}", text::fenced(output));
    apply_to(tx, item, &StageEvent::SentBack { why: note }, &system(tx), &what)?;
    Ok(())
}

/// Puts a merge that failed through no fault of its item into the queue again, with back-off.
fn retry(tx: &Tx<'_>, item: &Item) -> Result<(), WorkError> {
    let Stage::MergeFailure { kind, in_a_row, .. } = &item.stage else { return Ok(()) };
    let doublings = in_a_row.saturating_sub(1).min(10);
    let wait = (FIRST_BACKOFF * 2_i32.pow(doublings)).min(LAST_BACKOFF);
    let failed_at = items::moved_at(tx, item.id)?.unwrap_or(item.updated_at);
    if from_millis(tx.now()) - failed_at < wait {
        return Ok(());
    }
    let why = format!("tried again {} s after: {}", wait.num_seconds(), kind.name());
    let inputs = json!({"kind": kind, "in_a_row": in_a_row});
    decisions::record(tx, Some(item.id), What::MergeRetried, &why, &inputs)?;
    apply_to(tx, item, &StageEvent::MergeRetried, &system(tx), &why)?;
    Ok(())
}
