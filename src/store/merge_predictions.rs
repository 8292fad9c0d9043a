//! What a trial merge said of items that are not merged yet: `status` shows it.

use super::types::Json;
use super::{StoreError, Tx};
use crate::clock::from_millis;
use crate::model::ids::{ItemId, ProjectName};
use crate::model::stage::Stage;
use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

/// How a merge of an item's commit into the base would come out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Without a conflict.
    Clean,
    /// With conflicts.
    Conflict {
        /// In these files.
        files: Vec<String>,
    },
    /// It would change nothing: the base has all of it.
    Nothing,
    /// There is no commit that the base has not.
    NoCommits,
}

impl Outcome {
    /// What is expected, as a clause.
    pub fn in_words(&self) -> String {
        match self {
            Outcome::Clean => "merges cleanly".to_owned(),
            Outcome::Conflict { files } if files.is_empty() => "conflicts".to_owned(),
            Outcome::Conflict { files } => format!("conflicts in {}", files.join(", ")),
            Outcome::Nothing => "changes nothing against the base branch".to_owned(),
            Outcome::NoCommits => "has no commit of its own".to_owned(),
        }
    }

    /// Whether it is a conflict.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Outcome::Conflict { .. })
    }
}

/// What a trial merge said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prediction {
    /// Of which item.
    pub item: ItemId,
    /// Of which commit on its branch.
    pub commit: String,
    /// Against which tip of the base branch.
    pub base: String,
    /// What.
    pub outcome: Outcome,
    /// When.
    pub at: DateTime<Utc>,
}

const COLUMNS: &str = "item, commit_id, base, outcome, at";

fn from_row(row: &Row<'_>) -> rusqlite::Result<Prediction> {
    Ok(Prediction {
        item: row.get(0)?,
        commit: row.get(1)?,
        base: row.get(2)?,
        outcome: row.get::<_, Json<Outcome>>(3)?.0,
        at: from_millis(row.get(4)?),
    })
}

/// A project's items in coding, QA and merge, each with the commit that its stage names, if any.
pub fn open_items(
    conn: &Connection,
    project: &ProjectName,
) -> Result<Vec<(ItemId, Option<String>)>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT id, stage FROM items WHERE project = ?1 AND col IN ('coding', 'qa', 'merge')
         ORDER BY id",
    )?;
    let rows = statement.query_map([project], |row| {
        let stage = row.get::<_, Json<Stage>>(1)?.0;
        Ok((row.get(0)?, stage.commit().map(str::to_owned)))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// An item's prediction, if it has one.
pub fn find(conn: &Connection, item: ItemId) -> Result<Option<Prediction>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM merge_predictions WHERE item = ?1");
    Ok(conn.prepare_cached(&sql)?.query_row([item], from_row).optional()?)
}

/// A project's predictions, by item.
pub fn list(conn: &Connection, project: &ProjectName) -> Result<Vec<Prediction>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM merge_predictions WHERE project = ?1 ORDER BY item");
    let mut statement = conn.prepare_cached(&sql)?;
    let rows = statement.query_map([project], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Keeps a prediction; returns what was expected before.
pub fn put(
    tx: &Tx<'_>,
    item: ItemId,
    project: &ProjectName,
    commit: &str,
    base: &str,
    outcome: &Outcome,
) -> Result<Option<Outcome>, StoreError> {
    let before = find(tx, item)?.map(|before| before.outcome);
    tx.prepare_cached(
        "INSERT INTO merge_predictions (item, project, commit_id, base, outcome, at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (item) DO UPDATE SET project = excluded.project,
             commit_id = excluded.commit_id, base = excluded.base,
             outcome = excluded.outcome, at = excluded.at",
    )?
    .execute(params![item, project, commit, base, Json(outcome), tx.now()])?;
    Ok(before)
}

/// Forgets the prediction of an item that has no commit to be merged any more.
pub fn remove(tx: &Tx<'_>, item: ItemId) -> Result<(), StoreError> {
    tx.prepare_cached("DELETE FROM merge_predictions WHERE item = ?1")?.execute([item])?;
    Ok(())
}
