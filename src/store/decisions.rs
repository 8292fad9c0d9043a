//! Automatic decisions with the inputs that they were made from: what `why N` answers from, and
//! what the limits on repeated attempts are counted from.

use super::types::Json;
use super::{StoreError, Tx};
use crate::clock::from_millis;
use crate::model::ids::ItemId;
use crate::model::item::Origin;
use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// An agent was started on the item.
    Started,
    /// No agent was started, for a reason.
    NotStarted,
    /// The item started by itself, because what it depends on is finished.
    Promoted,
    /// The item was not started though a dependency has ended.
    NotPromoted,
    /// The agent was asked once more, only to commit its work.
    AskedToCommit,
    /// The work was found committed; what was counted against the item is forgotten.
    Committed,
    /// The work went back to a coder.
    SentBack,
    /// An agent that died was started again.
    Revived,
    /// An agent that was cut off by no fault of its own was started again; counts against nothing.
    Resumed,
    /// The item was blocked.
    Blocked,
    /// The item was stopped by a person.
    Stopped,
    /// A person gave the item another chance; what was counted against it is forgotten.
    Cleared,
    /// The gates passed and the item went on.
    Passed,
    /// The item went into the merge queue again.
    MergeRetried,
    /// The merge queue went on with the item in some way: tested it with others, or put it back.
    Batched,
    /// A trial merge of the item met a conflict, or does not any more.
    Predicted,
    /// The item was merged.
    Merged,
    /// The item was finished without a merge of its own.
    Finished,
    /// A done item was put away.
    Archived,
    /// An agent was stopped because its item does not want it any more, or was taken off it.
    Withdrawn,
    /// Something was put off because the machine, the project or the runtime cannot do it now.
    PutOff,
    /// The item was deleted.
    Deleted,
    /// The worktree of an ended item was removed, or could not be.
    WorktreeRemoved,
}

impl What {
    /// Every kind of decision.
    pub const ALL: [What; 23] = [
        What::Started,
        What::NotStarted,
        What::Promoted,
        What::NotPromoted,
        What::AskedToCommit,
        What::Committed,
        What::SentBack,
        What::Revived,
        What::Resumed,
        What::Blocked,
        What::Stopped,
        What::Cleared,
        What::Passed,
        What::MergeRetried,
        What::Batched,
        What::Predicted,
        What::Merged,
        What::Finished,
        What::Archived,
        What::Withdrawn,
        What::PutOff,
        What::Deleted,
        What::WorktreeRemoved,
    ];

    /// The name as stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            What::Started => "started",
            What::NotStarted => "not_started",
            What::Promoted => "promoted",
            What::NotPromoted => "not_promoted",
            What::AskedToCommit => "asked_to_commit",
            What::Committed => "committed",
            What::SentBack => "sent_back",
            What::Revived => "revived",
            What::Resumed => "resumed",
            What::Blocked => "blocked",
            What::Stopped => "stopped",
            What::Cleared => "cleared",
            What::Passed => "passed",
            What::MergeRetried => "merge_retried",
            What::Batched => "batched",
            What::Predicted => "predicted",
            What::Merged => "merged",
            What::Finished => "finished",
            What::Archived => "archived",
            What::Withdrawn => "withdrawn",
            What::PutOff => "put_off",
            What::Deleted => "deleted",
            What::WorktreeRemoved => "worktree_removed",
        }
    }

    fn parse(text: &str) -> Option<What> {
        What::ALL.into_iter().find(|what| what.as_str() == text)
    }
}

/// A decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Its number, in order of time.
    pub id: i64,
    /// The item; `None` for one about the whole installation.
    pub item: Option<ItemId>,
    /// What was decided.
    pub what: What,
    /// Why, in words.
    pub why: String,
    /// What it was made from.
    pub inputs: serde_json::Value,
    /// Who decided; `None`: Musher itself.
    #[serde(default)]
    pub origin: Option<Origin>,
    /// When.
    pub at: DateTime<Utc>,
}

const COLUMNS: &str = "id, item, what, why, inputs, origin, at";

fn from_row(row: &Row<'_>) -> rusqlite::Result<Decision> {
    let what: String = row.get(2)?;
    Ok(Decision {
        id: row.get(0)?,
        item: row.get(1)?,
        what: What::parse(&what).ok_or_else(|| {
            rusqlite::Error::FromSqlConversionFailure(
                2,
                rusqlite::types::Type::Text,
                format!("{what:?} is not a known decision").into(),
            )
        })?,
        why: row.get(3)?,
        inputs: row.get::<_, Json<serde_json::Value>>(4)?.0,
        origin: row.get::<_, Option<Json<Origin>>>(5)?.map(|json| json.0),
        at: from_millis(row.get(6)?),
    })
}

/// Records a decision of Musher's own, in the transaction that carries it out.
pub fn record(
    tx: &Tx<'_>,
    item: Option<ItemId>,
    what: What,
    why: &str,
    inputs: &serde_json::Value,
) -> Result<i64, StoreError> {
    insert(tx, item, what, why, inputs, None)
}

/// Records what somebody decided, in the transaction that carries it out.
pub fn record_by(
    tx: &Tx<'_>,
    item: Option<ItemId>,
    what: What,
    why: &str,
    inputs: &serde_json::Value,
    origin: &Origin,
) -> Result<i64, StoreError> {
    insert(tx, item, what, why, inputs, Some(origin))
}

fn insert(
    tx: &Tx<'_>,
    item: Option<ItemId>,
    what: What,
    why: &str,
    inputs: &serde_json::Value,
    origin: Option<&Origin>,
) -> Result<i64, StoreError> {
    tx.prepare_cached(
        "INSERT INTO decisions (item, what, why, inputs, origin, at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![item, what.as_str(), why, Json(inputs), origin.map(Json), tx.now()])?;
    Ok(tx.last_insert_rowid())
}

/// Records what a pass decides again and again, such as not to start an item.
///
/// While the newest decision on the item is the same and of the same `kind`, it is brought up to
/// date instead of another being added: however long something lasts, it is one row. After the item
/// has moved it is another matter, and another row. Says whether a row was added.
pub fn note(
    tx: &Tx<'_>,
    item: ItemId,
    what: What,
    kind: &str,
    why: &str,
    inputs: &serde_json::Value,
) -> Result<bool, StoreError> {
    let newest = of_item(tx, item, 1)?.pop();
    let moved_at = super::items::moved_at(tx, item)?;
    let same = newest.filter(|newest| {
        newest.what == what
            && moved_at.is_none_or(|moved_at| newest.at >= moved_at)
            && newest.inputs.get("kind").and_then(|kind| kind.as_str()) == Some(kind)
    });
    let mut inputs = inputs.clone();
    if let Some(map) = inputs.as_object_mut() {
        map.insert("kind".to_owned(), kind.into());
    }
    let Some(same) = same else {
        record(tx, Some(item), what, why, &inputs)?;
        return Ok(true);
    };
    if same.why != why {
        tx.prepare_cached("UPDATE decisions SET why = ?2, inputs = ?3, at = ?4 WHERE id = ?1")?
            .execute(params![same.id, why, Json(&inputs), tx.now()])?;
    }
    Ok(false)
}

/// An item's decisions of some kinds since a person last gave it another chance, oldest first.
pub fn since_cleared(
    conn: &Connection,
    item: ItemId,
    kinds: &[What],
) -> Result<Vec<Decision>, StoreError> {
    let names: Vec<&str> = kinds.iter().map(|what| what.as_str()).collect();
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM decisions
         WHERE item = ?1 AND what IN (SELECT value FROM json_each(?2))
           AND id > coalesce((SELECT max(id) FROM decisions
                              WHERE item = ?1 AND what = 'cleared'), 0)
         ORDER BY id"
    ))?;
    let rows = statement.query_map(params![item, Json(names)], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// An item's newest decisions, newest first.
pub fn of_item(conn: &Connection, item: ItemId, limit: usize) -> Result<Vec<Decision>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM decisions WHERE item = ?1 ORDER BY id DESC LIMIT ?2"
    ))?;
    let rows = statement.query_map(params![item, limit as i64], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// An item's newest decision of one kind.
pub fn newest_of(
    conn: &Connection,
    item: ItemId,
    what: What,
) -> Result<Option<Decision>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM decisions WHERE item = ?1 AND what = ?2 ORDER BY id DESC LIMIT 1"
    ))?;
    Ok(statement.query_row(params![item, what.as_str()], from_row).optional()?)
}

/// As [`newest_of`], of those that say where they come `from`.
pub fn newest_from(
    conn: &Connection,
    item: ItemId,
    what: What,
    from: &str,
) -> Result<Option<Decision>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM decisions
         WHERE item = ?1 AND what = ?2 AND json_extract(inputs, '$.from') = ?3
         ORDER BY id DESC LIMIT 1"
    ))?;
    Ok(statement.query_row(params![item, what.as_str(), from], from_row).optional()?)
}

/// How many decisions of one kind were made since `since` (milliseconds since the epoch), over all
/// items.
pub fn count_since(conn: &Connection, what: What, since: i64) -> Result<u32, StoreError> {
    let mut statement =
        conn.prepare_cached("SELECT count(*) FROM decisions WHERE what = ?1 AND at > ?2")?;
    Ok(statement.query_row(params![what.as_str(), since], |row| row.get(0))?)
}
