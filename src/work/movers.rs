//! What moves items by itself, besides agents and merges: met dependencies and the retention of
//! done items.

use super::{WorkError, apply_to, each, system};
use crate::model::ids::ItemId;
use crate::model::item::{Item, Kind};
use crate::model::stage::{ArchiveReason, Stage, StageEvent};
use crate::store::decisions::{self, What};
use crate::store::{Tx, items};
use chrono::Duration;
use rusqlite::Connection;
use serde_json::json;

/// A dependency that is not met.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Unmet {
    /// The item that is waited for.
    pub id: ItemId,
    /// Where it stands; `None`: it does not exist any more.
    pub stage: Option<Stage>,
}

impl Unmet {
    /// Whether waiting cannot help: it ended without being merged, or is gone.
    pub(super) fn is_dead(&self) -> bool {
        self.stage.as_ref().is_none_or(Stage::is_terminal)
    }
}

/// What `item` still waits for.
pub(super) fn unmet(conn: &Connection, item: &Item) -> Result<Vec<Unmet>, WorkError> {
    let mut waits_for = Vec::new();
    for id in &item.depends_on {
        let stage = items::find(conn, *id)?.map(|other| other.stage);
        if !stage.as_ref().is_some_and(Stage::meets_dependency) {
            waits_for.push(Unmet { id: *id, stage });
        }
    }
    Ok(waits_for)
}

/// Why `item` does not start, and what to do.
pub(super) fn unmet_in_words(item: &Item, waits_for: &[Unmet]) -> String {
    let id = item.id;
    let list = |dead: bool| -> Option<String> {
        let of_that_sort = waits_for.iter().filter(|unmet| unmet.is_dead() == dead);
        let list: Vec<String> = of_that_sort
            .map(|unmet| {
                let stage = unmet.stage.as_ref().map_or("deleted", Stage::name);
                format!("{} ({})", unmet.id, stage.replace('_', " "))
            })
            .collect();
        (!list.is_empty()).then(|| list.join(", "))
    };
    match (list(true), list(false)) {
        (None, open) => {
            let open = open.unwrap_or_default();
            format!("item {id} waits for {open} and starts by itself when that is done")
        }
        (Some(dead), None) => format!(
            "item {id} depends on {dead}, which ended without being merged: take that dependency \
             away, then start {id}"
        ),
        (Some(dead), Some(open)) => format!(
            "item {id} depends on {dead}, which ended without being merged: take that dependency \
             away. Then it starts by itself when {open} is done"
        ),
    }
}

/// Starts the items in the backlog whose dependencies are all met, and notes for those with a dead
/// one why they stay. Looks only at those to which, or to whose dependencies, something happened.
pub(super) fn promote(tx: &Tx<'_>) -> Result<(), WorkError> {
    let due = items::due(tx)?;
    each(
        tx,
        &due,
        |item| item.id,
        |tx, item| {
            items::looked_at(tx, item.id)?;
            if item.depends_on.is_empty() || item.kind == Kind::Epic || item.stage != Stage::Backlog
            {
                return Ok(());
            }
            let waits_for = unmet(tx, item)?;
            if waits_for.is_empty() {
                promote_one(tx, item)?;
            } else if waits_for.iter().any(Unmet::is_dead) {
                let why = unmet_in_words(item, &waits_for);
                let inputs = json!({"waits_for": in_inputs(&waits_for)});
                decisions::note(tx, item.id, What::NotPromoted, "dead", &why, &inputs)?;
            }
            Ok(())
        },
    )
}

/// What is waited for, as the inputs of a decision.
fn in_inputs(waits_for: &[Unmet]) -> Vec<serde_json::Value> {
    let stage = |unmet: &Unmet| unmet.stage.as_ref().map(Stage::name);
    waits_for.iter().map(|unmet| json!({"item": unmet.id, "stage": stage(unmet)})).collect()
}

fn promote_one(tx: &Tx<'_>, item: &Item) -> Result<(), WorkError> {
    let mut met = Vec::new();
    for id in &item.depends_on {
        let archived = items::find(tx, *id)?.is_some_and(|other| {
            matches!(other.stage, Stage::Archived { reason: ArchiveReason::Finished, .. })
        });
        met.push(if archived { format!("{id} (archived)") } else { id.to_string() });
    }
    let why = format!("all that it depends on is done: {}", met.join(", "));
    decisions::record(tx, Some(item.id), What::Promoted, &why, &json!({"depends_on": met}))?;
    apply_to(tx, item, &StageEvent::Started, &system(tx), &why)?;
    Ok(())
}

/// Archives what has been done for longer than `retention`.
pub(super) fn archive(tx: &Tx<'_>, retention: Duration) -> Result<(), WorkError> {
    let now = crate::clock::from_millis(tx.now());
    let until = tx.now().saturating_sub(retention.num_milliseconds());
    let done = items::standing_since(tx, "done", until)?;
    each(
        tx,
        &done,
        |item| item.id,
        |tx, item| {
            let Stage::Done { merged_at, .. } = item.stage else { return Ok(()) };
            let why = "it was done for as long as done items stay on the board";
            let inputs = json!({"merged_at": merged_at, "retention_s": retention.num_seconds()});
            decisions::record(tx, Some(item.id), What::Archived, why, &inputs)?;
            apply_to(tx, item, &StageEvent::RetentionPassed { at: now }, &system(tx), why)?;
            Ok(())
        },
    )
}
