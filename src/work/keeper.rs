//! The worktree keeper: when an item has ended, its worktree goes.
//!
//! Reads the transition log by a durable cursor that moves after the removal: a crash in between
//! removes again, which is safe. A rejected item keeps its worktree for inspection.

use super::world::World;
use super::{WorkError, text};
use crate::model::ids::ItemId;
use crate::model::item::Item;
use crate::model::stage::Stage;
use crate::store::agents as sessions;
use crate::store::decisions::{self, What};
use crate::store::log::{self, Log};
use crate::store::{Store, items};
use rusqlite::Connection;
use serde_json::json;

/// This reader's name in the table of cursors.
const SUBSCRIBER: &str = "work.worktrees";
/// How many moves one step reads.
const BATCH: usize = 200;

/// The next worktree that is to go.
struct Next {
    /// The position of the move that ended the item, or of the last one read.
    seq: i64,
    /// The item; `None`: nothing among what was read has to go.
    item: Option<Item>,
}

/// How far the keeper has come in the log of moves.
pub(super) fn position(conn: &Connection) -> Result<i64, WorkError> {
    Ok(log::position(conn, SUBSCRIBER, Log::Transitions)?)
}

/// Removes the next worktree that is due; says whether there may be more.
pub(super) async fn step(store: &Store, world: &dyn World) -> Result<bool, WorkError> {
    let Some(next) = store.read(find_next).await? else { return Ok(false) };
    let mut outcome = None;
    if let Some(item) = next.item {
        let why = match world.remove_worktree(&item).await {
            Ok(()) => "it has ended".to_owned(),
            Err(error) => {
                tracing::warn!(item = item.id.0, error = format!("{error:#}"), "worktree stays");
                format!("it stays: {}", text::first_line(&format!("{error:#}")))
            }
        };
        outcome = Some((item.id, why));
    }
    store
        .write(move |tx| {
            if let Some((id, why)) = outcome {
                decisions::record(tx, Some(id), What::WorktreeRemoved, &why, &json!({}))?;
            }
            log::advance(tx, SUBSCRIBER, Log::Transitions, next.seq)?;
            Ok::<(), WorkError>(())
        })
        .await?;
    Ok(true)
}

fn find_next(conn: &Connection) -> Result<Option<Next>, WorkError> {
    let position = position(conn)?;
    let moves = log::transitions_after(conn, position, BATCH)?;
    let mut seen = position;
    for moved in &moves {
        if moved.to.is_terminal() && !matches!(moved.to, Stage::Rejected { .. }) {
            if sessions::live_session_of(conn, moved.item)?.is_some() {
                // Its agent is being stopped: later.
                break;
            }
            if let Some(item) = ended(conn, moved.item)? {
                return Ok(Some(Next { seq: moved.seq, item: Some(item) }));
            }
        }
        seen = moved.seq;
    }
    Ok((seen > position).then_some(Next { seq: seen, item: None }))
}

/// The item, if it still is at its end; a deleted one as it was.
fn ended(conn: &Connection, id: ItemId) -> Result<Option<Item>, WorkError> {
    if let Some(item) = items::find(conn, id)? {
        let gone = item.stage.is_terminal() && !matches!(item.stage, Stage::Rejected { .. });
        return Ok(gone.then_some(item));
    }
    let deleted = decisions::newest_of(conn, id, What::Deleted)?;
    let item = deleted.and_then(|decision| decision.inputs.get("item").cloned());
    Ok(item.and_then(|item| serde_json::from_value(item).ok()))
}
