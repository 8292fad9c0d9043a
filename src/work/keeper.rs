//! The worktree keeper: when an item has ended, its worktree goes.
//!
//! Reads the transition log by a durable cursor and writes down, in the transaction that moves it,
//! which worktrees are to go; then it removes them one by one. One that cannot be removed stays on
//! the list, is tried again with growing distances, and the room is told once. A crash in between
//! removes again, which is safe. A rejected item keeps its worktree for inspection.

use super::world::World;
use super::{WorkError, text};
use crate::failpoint::failpoint;
use crate::model::chat::Outgoing;
use crate::model::event::Transition;
use crate::model::ids::SessionKey;
use crate::model::stage::Stage;
use crate::store::decisions::{self, What};
use crate::store::log::{self, Log};
use crate::store::tidying::{self, Tidying};
use crate::store::{Store, Tx, items, outbox};
use chrono::Duration;
use rusqlite::Connection;
use serde_json::json;

/// This reader's name in the table of cursors.
const SUBSCRIBER: &str = "work.worktrees";
/// How many moves one transaction reads.
const BATCH: usize = 200;
/// How long a worktree that could not be removed waits before it is tried again; doubled each time.
const FIRST_WAIT: Duration = Duration::minutes(1);
/// The longest such wait.
const LAST_WAIT: Duration = Duration::hours(1);

/// What was kept of a worktree that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kept {
    /// Refs that hold what no branch held.
    pub rescued: Vec<String>,
    /// The item's branch, where the base does not hold all of it.
    pub branch: Option<String>,
}

/// Whether the worktree that a move made superfluous was seen to, or was tried at least once.
pub(super) fn has_seen_to(conn: &Connection, moved: &Transition) -> Result<bool, WorkError> {
    Ok(log::position(conn, SUBSCRIBER, Log::Transitions)? >= moved.seq
        && !tidying::is_fresh(conn, moved.item)?)
}

/// Reads what has ended, or removes the next worktree that is due; says whether there may be more.
pub(super) async fn step(store: &Store, world: &dyn World) -> Result<bool, WorkError> {
    if store.write(take_down).await? {
        return Ok(true);
    }
    let now = store.clock().millis();
    let next = store.read(move |conn| {
        let Some(next) = tidying::next(conn, now)? else { return Ok(None) };
        let goes_on = items::find(conn, next.item)?.is_some_and(|item| !is_over(&item.stage));
        Ok::<_, WorkError>(Some((next, goes_on)))
    });
    let Some((next, goes_on)) = next.await? else { return Ok(false) };
    if goes_on {
        store.write(move |tx| tidying::remove(tx, next.item)).await?;
        return Ok(true);
    }
    let removed = world.remove_worktree(&next.project, next.item).await;
    let removed = removed.map_err(|error| format!("{error:#}"));
    failpoint("worktree-removed");
    store
        .write(move |tx| match removed {
            Ok(kept) => gone(tx, &next, &kept),
            Err(error) => stays(tx, &next, &error),
        })
        .await?;
    Ok(true)
}

/// Writes down the worktrees of items that have ended since the last time; says whether there was
/// anything to read.
fn take_down(tx: &Tx<'_>) -> Result<bool, WorkError> {
    let position = log::position(tx, SUBSCRIBER, Log::Transitions)?;
    let moves = log::transitions_after(tx, position, BATCH)?;
    let Some(last) = moves.last().map(|moved| moved.seq) else { return Ok(false) };
    for moved in moves.into_iter().filter(|moved| is_over(&moved.to)) {
        // Of a deleted one, `delete` has written it down.
        if let Some(item) = items::find(tx, moved.item)?.filter(|item| is_over(&item.stage)) {
            tidying::add(tx, item.id, &item.project, &item.name, item.room.as_ref())?;
        }
    }
    log::advance(tx, SUBSCRIBER, Log::Transitions, last)?;
    Ok(true)
}

/// Whether an item that ended like that needs its worktree no more.
fn is_over(stage: &Stage) -> bool {
    stage.is_terminal() && !matches!(stage, Stage::Rejected { .. })
}

fn gone(tx: &Tx<'_>, tidied: &Tidying, kept: &Kept) -> Result<(), WorkError> {
    let inputs = json!({"rescued": kept.rescued, "branch": kept.branch, "tries": tidied.tries});
    decisions::record(tx, Some(tidied.item), What::WorktreeRemoved, "the item has ended", &inputs)?;
    tidying::remove(tx, tidied.item)?;
    if !kept.rescued.is_empty() {
        let text = text::rescued(tidied.item, &tidied.name, &kept.rescued);
        say(tx, tidied, text, &format!("work.rescued:{}", kept.rescued.join(",")))?;
    }
    Ok(())
}

fn stays(tx: &Tx<'_>, tidied: &Tidying, error: &str) -> Result<(), WorkError> {
    tracing::warn!(item = tidied.item.0, error, "a worktree stays");
    let wait = (FIRST_WAIT * 2_i32.pow(tidied.tries.min(10))).min(LAST_WAIT);
    tidying::put_off(tx, tidied.item, tx.now() + wait.num_milliseconds(), error)?;
    let why = format!("its worktree stays: {}", text::first_line(error));
    let inputs = json!({"tries": tidied.tries + 1, "again_in_s": wait.num_seconds()});
    decisions::note(tx, tidied.item, What::PutOff, "worktree", &why, &inputs)?;
    let text = text::worktree_stays(tidied.item, &tidied.name, error);
    say(tx, tidied, text, &format!("work.worktree:{}", tidied.item))
}

fn say(tx: &Tx<'_>, tidied: &Tidying, text: String, key: &str) -> Result<(), WorkError> {
    let room = match &tidied.room {
        Some(room) => Some(room.clone()),
        None => match items::find(tx, tidied.item)? {
            Some(item) => super::queue::room_of(tx, &item)?,
            None => None,
        },
    };
    let Some(room) = room else { return Ok(()) };
    let outgoing = Outgoing::text(SessionKey::main(room), text).about(tidied.item);
    outbox::enqueue(tx, &outgoing, Some(key))?;
    Ok(())
}
