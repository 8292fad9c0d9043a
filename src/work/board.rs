//! The board as data: what a person is shown of a project, and the shape that scripts rely on.

use super::{WorkError, movers};
use crate::model::agent::{SessionState, WaitingFor};
use crate::model::ids::{ItemId, ProjectName};
use crate::model::item::{Item, Kind};
use crate::model::stage::{Column, Stage};
use crate::store::agents as sessions;
use crate::store::items::{self, Progress, Tally};
use crate::store::merge_predictions::{self, Outcome, Prediction};
use crate::store::pauses::{self, Scope};
use crate::store::{merge_pulls, merge_queue, merge_state, projects};
use rusqlite::Connection;
use serde_json::{Value, json};
use std::collections::HashMap;

/// How many items of a column are shown.
const SHOWN: usize = 20;
/// How many done items are shown: they are told when they happen.
const DONE_SHOWN: usize = 8;

/// The columns of the board; what is put away or closed is not on it.
const COLUMNS: [Column; 5] =
    [Column::Backlog, Column::Coding, Column::Qa, Column::Merge, Column::Done];

/// What a person is shown of a project. Only what is shown was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Board {
    /// How many items are open.
    pub open: u64,
    /// What is on the board has cost this, in millionths of a US dollar.
    pub cost_microusd: i64,
    /// Why the merge queue stands still, if it does.
    pub queue_paused: Option<String>,
    /// Why nothing starts in it, or on the whole machine, if so.
    pub held: Vec<String>,
    /// The columns in which something stands, in order.
    pub shelves: Vec<Shelf>,
}

/// A column of the board.
#[derive(Debug, Clone, PartialEq)]
pub struct Shelf {
    /// Which.
    pub column: Column,
    /// How many items stand in it.
    pub items: u64,
    /// Those that are shown, in order.
    pub entries: Vec<Entry>,
}

/// An item on the board.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The item, without its body.
    pub item: Item,
    /// What it depends on and is not done.
    pub waits_for: Vec<ItemId>,
    /// Where it is in the merge queue.
    pub place: Option<QueuePlace>,
    /// How far it has come, for an epic.
    pub progress: Option<Progress>,
    /// The files in which a merge of its commit would conflict, where a trial merge said so.
    pub conflicts: Option<Vec<String>>,
    /// What the agent that holds it waits for, if it does.
    pub agent_waits: Option<WaitingFor>,
    /// The item whose lead handed it out.
    pub part_of: Option<ItemId>,
}

/// An item's place in the merge queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuePlace {
    /// How many are before it.
    pub ahead: usize,
    /// Whether it is being landed at this moment.
    pub landing: bool,
    /// Why it does not go with those before it, if so.
    pub waits: Option<String>,
    /// Its pull request, when that is open.
    pub pull: Option<String>,
}

/// Reads what a person is shown of a project; `now` is in milliseconds since the epoch.
pub fn overview(conn: &Connection, project: &ProjectName, now: i64) -> Result<Board, WorkError> {
    let tallies = items::tally(conn, project)?;
    let on_board = |tally: &&Tally| COLUMNS.contains(&tally.column);
    let beside =
        Beside { places: places(conn, project, now)?, predictions: predictions(conn, project)? };
    let mut shelves = Vec::new();
    for tally in tallies.iter().filter(on_board) {
        let limit = if tally.column == Column::Done { DONE_SHOWN } else { SHOWN };
        let mut entries = Vec::new();
        for item in items::top(conn, project, tally.column, limit)? {
            entries.push(entry(conn, item, &beside)?);
        }
        if tally.column == Column::Merge {
            // Stable: what is not in the queue stays behind it, in its order.
            entries.sort_by_key(|entry| entry.place.as_ref().map_or(usize::MAX, |at| at.ahead));
        }
        shelves.push(Shelf { column: tally.column, items: tally.items, entries });
    }
    let is_open = |tally: &&Tally| on_board(tally) && tally.column != Column::Done;
    Ok(Board {
        open: tallies.iter().filter(is_open).map(|tally| tally.items).sum(),
        cost_microusd: tallies.iter().filter(on_board).map(|tally| tally.cost_microusd).sum(),
        queue_paused: merge_state::pause_of(conn, project)?.map(|pause| pause.reason),
        held: held(conn, project)?,
        shelves,
    })
}

/// Why nothing starts in a project.
fn held(conn: &Connection, project: &ProjectName) -> Result<Vec<String>, WorkError> {
    let mut held = Vec::new();
    for scope in [Scope::Machine, Scope::Project(project.clone())] {
        if let Some(pause) = pauses::find(conn, &scope)? {
            held.push(format!("{} stand still: {}", scope.in_words(), pause.reason));
        }
    }
    Ok(held)
}

/// What other tables say of a project's items.
struct Beside {
    places: HashMap<ItemId, QueuePlace>,
    predictions: HashMap<ItemId, Prediction>,
}

/// The files in which a merge of what stands on the item's branch would conflict.
pub(super) fn conflicts(item: &Item, predicted: Option<&Prediction>) -> Option<Vec<String>> {
    let predicted = predicted?;
    let stale = item.stage.commit().is_some_and(|commit| commit != predicted.commit);
    let told = item.stage.is_terminal() || item.stage.name().starts_with("merge_failure");
    match &predicted.outcome {
        Outcome::Conflict { files } if !stale && !told => Some(files.clone()),
        Outcome::Conflict { .. } | Outcome::Clean | Outcome::Nothing | Outcome::NoCommits => None,
    }
}

fn predictions(
    conn: &Connection,
    project: &ProjectName,
) -> Result<HashMap<ItemId, Prediction>, WorkError> {
    let list = merge_predictions::list(conn, project)?;
    Ok(list.into_iter().map(|predicted| (predicted.item, predicted)).collect())
}

fn entry(conn: &Connection, item: Item, beside: &Beside) -> Result<Entry, WorkError> {
    let waits_for = match &item.stage {
        Stage::Backlog => movers::unmet(conn, &item)?.into_iter().map(|unmet| unmet.id).collect(),
        Stage::Upcoming
        | Stage::Coding { .. }
        | Stage::Blocked { .. }
        | Stage::Qa { .. }
        | Stage::ReviewHold { .. }
        | Stage::Merge { .. }
        | Stage::MergeFailure { .. }
        | Stage::MergeFailureFinal { .. }
        | Stage::Done { .. }
        | Stage::Archived { .. }
        | Stage::Frozen { .. }
        | Stage::Abandoned { .. }
        | Stage::Superseded { .. }
        | Stage::Rejected { .. } => vec![],
    };
    let place = beside.places.get(&item.id).cloned();
    let conflicts = conflicts(&item, beside.predictions.get(&item.id));
    let progress = match item.kind {
        Kind::Epic => Some(items::progress(conn, item.id)?),
        Kind::Story | Kind::Bug | Kind::Refactor | Kind::Spike => None,
    };
    let live = match item.stage.claim() {
        Some(_agent) => sessions::live_session_of(conn, item.id)?,
        None => None,
    };
    let waiting = live.filter(|session| session.state == SessionState::Waiting);
    let agent_waits = waiting.and_then(|session| session.waiting).map(|waiting| waiting.what);
    let part_of = item.parent;
    Ok(Entry { item, waits_for, place, progress, conflicts, agent_waits, part_of })
}

/// Where each queued item of a project is.
pub(super) fn places(
    conn: &Connection,
    project: &ProjectName,
    now: i64,
) -> Result<HashMap<ItemId, QueuePlace>, WorkError> {
    let rows = merge_queue::list(conn, project, now)?;
    let pulls = merge_pulls::list(conn, project)?.into_iter();
    let mut pulls: HashMap<(ItemId, String), String> =
        pulls.map(|pull| ((pull.item, pull.commit), pull.url)).collect();
    let mut places = HashMap::new();
    let mut ahead = 0;
    for row in rows {
        let pull = pulls.remove(&(row.item, row.commit));
        // What waits for its pull request holds up nobody.
        let before = if pull.is_some() { 0 } else { ahead };
        ahead += usize::from(pull.is_none());
        let (landing, waits) = (row.landing.is_some(), row.waits);
        places.insert(row.item, QueuePlace { ahead: before, landing, waits, pull });
    }
    Ok(places)
}

/// What `musher status --json` prints: every project with every item, ended ones too.
pub fn board_json(conn: &Connection) -> Result<Value, WorkError> {
    let mut shown = Vec::new();
    for project in projects::list(conn)? {
        let (name, paused) = (project.settings.name, project.paused);
        let mut items = items::in_columns(conn, Some(&name), &Column::ALL)?;
        items.sort_by_key(|item| (item.stage.column(), item.id));
        let items: Vec<Value> = items.iter().map(item_json).collect();
        shown.push(json!({"name": name, "paused": paused, "items": items}));
    }
    Ok(json!({ "projects": shown }))
}

/// One item: `agent` is the one that holds it, or else the one that is pinned to it; `cost` is in
/// US dollars.
pub(super) fn item_json(item: &Item) -> Value {
    json!({
        "id": item.id,
        "kind": item.kind,
        "name": item.name,
        "stage": item.stage.name(),
        "column": item.stage.column().as_str(),
        "badge": item.stage.badge().as_str(),
        "agent": item.stage.claim().or(item.agent.as_ref()),
        "depends_on": item.depends_on,
        "cost": item.cost_microusd as f64 / 1e6,
        "origin": item.origin,
        "updated_at": item.updated_at,
    })
}
