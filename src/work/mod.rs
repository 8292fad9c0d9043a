//! The only writer of an item's stage: filing, starting, stopping, moving, and what moves items by
//! itself.
//!
//! Two halves. The functions here are plain and take an open transaction, so that a command can
//! combine them with its reply. [`WorkService`] is the other half: loops that assign agents, check
//! what they made, put it into the merge queue, and tell the room.
//!
//! **Properties.** A stage changes only by [`apply`] (or a function here that ends in the same
//! `enter`): stage machine, compare-and-swap of the version, log row and the merge queue's row in
//! one transaction. Every loop derives what is due from rows, so a crash between two steps repeats
//! a step and never loses or doubles one.
//!
//! **Known races.** A merge that is being landed cannot be called back: leaving the queue is then
//! refused. A merge result that comes after an item left the queue is ignored, unless it is a
//! merge: what stands on the base branch is a fact, and the item is done.

mod assign;
mod board;
mod counters;
mod epics;
mod explain;
mod fields;
mod keeper;
mod lead;
mod merges;
mod movers;
mod notices;
mod pins;
mod prompt;
mod queue;
mod ready;
mod review;
mod service;
mod settle;
mod strays;
mod text;
mod timed;
mod world;

#[cfg(test)]
mod tests;

pub use assign::role_for;
pub use board::{Board, Entry, QueuePlace, Shelf, board_json, overview};
pub use epics::{children_in_words, parts_in_words, progress, progress_in_words};
pub use explain::{explain, prediction_in_words, waits_for, why};
pub use keeper::Kept;
pub use lead::{cannot_wait, file_child, open_children, start_child, unfinished};
pub use pins::check_pin;
pub use ready::ready;
pub use review::{Verdict, check_commit, decide};
pub use service::WorkService;
pub use world::{
    Checked, DiffSummary, FailedGate, GateOutcome, Leftovers, Trouble, Workshop, World,
};

use crate::model::ids::{AgentName, ItemId, ProjectName, RoomKey};
use crate::model::item::{Item, Kind, Origin, OriginKind, QaMode};
use crate::model::stage::{Column, IllegalTransition, MoveTo, Stage, StageEvent, next};
use crate::store::agents as sessions;
use crate::store::decisions::{self, What};
use crate::store::items::{self, ItemError, NewRow};
use crate::store::{StoreError, Tx, changes, log, tidying};
use fields::{check_body, checked_name};
use rusqlite::Connection;
use serde_json::json;

/// Why a change of an item was not made; nothing was written. Each message names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// There is no such item.
    #[error("there is no item {0}: `status` lists the board, `status all` every project's")]
    NotFound(ItemId),
    /// The stage that stands there does not allow it.
    #[error("{}", .1.in_words(&.0.to_string()))]
    Illegal(ItemId, IllegalTransition),
    /// Somebody else was faster.
    #[error(
        "item {id} was changed meanwhile (it is at version {found} now, not {expected}, and stands \
         in {stage}): look at it again with `show {id}`, then repeat"
    )]
    Conflict {
        /// The item.
        id: ItemId,
        /// The version that the writer knew.
        expected: i64,
        /// The version that stands there.
        found: i64,
        /// The stage that stands there.
        stage: &'static str,
    },
    /// What was given does not fit.
    #[error("{0}")]
    Invalid(String),
    /// It fits, but must not be done now.
    #[error("{0}")]
    Refused(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for WorkError {
    fn from(error: rusqlite::Error) -> Self {
        WorkError::Store(error.into())
    }
}

/// An item to be filed.
#[derive(Debug, Clone)]
pub struct NewItem {
    /// The project that it belongs to.
    pub project: ProjectName,
    /// What sort of work.
    pub kind: Kind,
    /// One line.
    pub name: String,
    /// Markdown: description and acceptance criteria.
    pub body: String,
    /// Items that must be finished first.
    pub depends_on: Vec<ItemId>,
    /// Parent epic.
    pub epic: Option<ItemId>,
    /// The item whose lead hands it out; see [`file_child`].
    pub parent: Option<ItemId>,
    /// An agent to pin to it; that it is configured is the caller's to check.
    pub agent: Option<AgentName>,
    /// Who decides that the work is good; `None` is the project's default.
    pub qa: Option<QaMode>,
    /// Who files it.
    pub origin: Origin,
    /// The room that hears about it.
    pub room: Option<RoomKey>,
}

/// What to change of an item; `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct ItemChange {
    /// Its name.
    pub name: Option<String>,
    /// Its text.
    pub body: Option<String>,
    /// All that it depends on.
    pub depends_on: Option<Vec<ItemId>>,
    /// Its epic; `Some(None)` takes it out.
    pub epic: Option<Option<ItemId>>,
    /// Its pinned agent; `Some(None)` unpins.
    pub agent: Option<Option<AgentName>>,
    /// Who decides that the work is good.
    pub qa: Option<QaMode>,
    /// Merge order and order of starting: higher first.
    pub priority: Option<i64>,
    /// The room that hears about it.
    pub room: Option<Option<RoomKey>>,
}

/// Files an item into the backlog.
pub fn create(tx: &Tx<'_>, new: NewItem) -> Result<Item, WorkError> {
    check_origin(&new.origin)?;
    let name = checked_name(&new.name)?;
    check_body(&new.body)?;
    let Some(project) = queue::project(tx, &new.project)? else {
        return Err(WorkError::Invalid(format!(
            "there is no project {:?}: `projects` lists them, `new project NAME` makes one",
            new.project.as_str()
        )));
    };
    if let Some(epic) = new.epic {
        epics::check(tx, None, &new.project, epic)?;
    }
    let row = NewRow {
        project: &new.project,
        kind: new.kind,
        name: &name,
        body: &new.body,
        epic: new.epic,
        parent: new.parent,
        agent: new.agent.as_ref(),
        qa: new.qa.unwrap_or(project.settings.qa),
        origin: &new.origin,
        room: new.room.as_ref(),
        stage: &Stage::Backlog,
    };
    let id = items::insert(tx, &row, &format!("filed by {}", new.origin.id))?;
    if !new.depends_on.is_empty() {
        items::set_dependencies(tx, id, &new.depends_on).map_err(|error| translate(tx, error))?;
    }
    find(tx, id)
}

/// Starts an item: from here on it waits for a free agent, which the assigner gives it.
///
/// With `agent`, that agent is pinned to it first. Whatever was counted against the item (retries,
/// starts without progress) is forgotten: who starts it gives it another chance.
pub fn start(
    tx: &Tx<'_>,
    id: ItemId,
    agent: Option<&AgentName>,
    origin: &Origin,
) -> Result<Item, WorkError> {
    check_origin(origin)?;
    let mut item = find(tx, id)?;
    refuse_epic(&item)?;
    // The stage is asked first: a done item is not told about its dependencies.
    let to = next(&item.stage, &StageEvent::Started).map_err(|no| WorkError::Illegal(id, no))?;
    let waits_for = movers::unmet(tx, &item)?;
    if !waits_for.is_empty() {
        return Err(WorkError::Refused(movers::unmet_in_words(&item, &waits_for)));
    }
    if let Some(agent) = agent
        && item.agent.as_ref() != Some(agent)
    {
        let before = item.agent.replace(agent.clone());
        let before = before.as_ref().map(AgentName::as_str);
        changes::record(tx, id, "agent", before, Some(agent.as_str()), origin)?;
        item = items::put_fields(tx, &item).map_err(|error| translate(tx, error))?;
    }
    let cause = format!("started by {}", origin.id);
    let inputs = json!({"agent": agent, "from": item.stage.name()});
    let item = enter(tx, &item, to, &cause, origin)?;
    decisions::record_by(tx, Some(id), What::Cleared, &cause, &inputs, origin)?;
    Ok(item)
}

/// Stops an item: it is blocked until somebody starts it again.
///
/// Call it **before** its agents are killed (`Agents::stop_item`): the stop is then durable, the
/// loops start nobody in its place, and should the process die in between, they end the agent at
/// the next start, because a blocked item wants none. Called after the kill it works as well.
pub fn stop(tx: &Tx<'_>, id: ItemId, origin: &Origin) -> Result<Item, WorkError> {
    check_origin(origin)?;
    let item = find(tx, id)?;
    if matches!(item.stage, Stage::Upcoming | Stage::Backlog) {
        return Err(WorkError::Refused(format!(
            "item {id} is not started, so there is nothing to stop: `start {id}` starts it"
        )));
    }
    let reason = format!("stopped by {}", origin.id);
    let inputs = json!({"stage": item.stage.name(), "agent": item.stage.claim()});
    let item =
        apply_to(tx, &item, &StageEvent::Blocked { reason: reason.clone() }, origin, &reason)?;
    decisions::record_by(tx, Some(id), What::Stopped, &reason, &inputs, origin)?;
    Ok(item)
}

/// Applies a fact to an item. `cause` goes into the log, in words.
pub fn apply(
    tx: &Tx<'_>,
    id: ItemId,
    event: &StageEvent,
    origin: &Origin,
    cause: &str,
) -> Result<Item, WorkError> {
    check_origin(origin)?;
    let item = find(tx, id)?;
    apply_to(tx, &item, event, origin, cause)
}

/// As [`apply`], for an item that was just read.
fn apply_to(
    tx: &Tx<'_>,
    item: &Item,
    event: &StageEvent,
    origin: &Origin,
    cause: &str,
) -> Result<Item, WorkError> {
    if let StageEvent::Superseded { by } = event {
        if *by == item.id {
            return Err(WorkError::Invalid(format!("item {by} cannot be superseded by itself")));
        }
        find(tx, *by)?;
    }
    let to = next(&item.stage, event).map_err(|no| WorkError::Illegal(item.id, no))?;
    if let StageEvent::Moved { to } = event {
        check_move(tx, item, *to)?;
    }
    if matches!(event, StageEvent::Unblocked | StageEvent::Moved { .. })
        && origin.kind != OriginKind::System
    {
        let inputs = json!({"from": item.stage.name(), "to": to.name()});
        decisions::record_by(tx, Some(item.id), What::Cleared, cause, &inputs, origin)?;
    }
    enter(tx, item, to, cause, origin)
}

/// What a start refuses, a move to where the start would lead refuses as well.
fn check_move(tx: &Tx<'_>, item: &Item, to: MoveTo) -> Result<(), WorkError> {
    match to {
        MoveTo::Upcoming | MoveTo::Backlog => return Ok(()),
        MoveTo::Coding | MoveTo::Qa | MoveTo::ReviewHold | MoveTo::Merge => {}
    }
    refuse_epic(item)?;
    let waits_for = movers::unmet(tx, item)?;
    if !waits_for.is_empty() {
        return Err(WorkError::Refused(movers::unmet_in_words(item, &waits_for)));
    }
    Ok(())
}

fn refuse_epic(item: &Item) -> Result<(), WorkError> {
    if item.kind == Kind::Epic {
        return Err(WorkError::Refused(format!(
            "item {} is an epic and no agent works on an epic itself: start its items instead",
            item.id
        )));
    }
    Ok(())
}

/// Writes a stage that the stage machine gave, and keeps the merge queue in step with it.
fn enter(
    tx: &Tx<'_>,
    item: &Item,
    to: Stage,
    cause: &str,
    origin: &Origin,
) -> Result<Item, WorkError> {
    let was_queued = matches!(item.stage, Stage::Merge { .. });
    let queues = if let Stage::Merge { commit, .. } = &to { Some(commit.clone()) } else { None };
    if was_queued && queues.is_none() && !queue::leave(tx, item.id)? {
        return Err(WorkError::Refused(format!(
            "item {0} is being landed on the base branch at this moment and cannot be called back: \
             wait until `status {0}` shows it done",
            item.id
        )));
    }
    let (now, _seq) =
        items::put_stage(tx, item, to, cause, origin).map_err(|error| translate(tx, error))?;
    if let (false, Some(commit)) = (was_queued, queues) {
        queue::enter(tx, &now, &commit)?;
    }
    if matches!(item.stage, Stage::ReviewHold { .. }) {
        review::left(tx, item.id, Some(&now.stage), cause, origin)?;
    }
    Ok(now)
}

/// Refuses, and says what stands there now, when an item is not at the version that was seen.
pub fn expect_version(
    conn: &Connection,
    id: ItemId,
    expected: Option<i64>,
) -> Result<(), WorkError> {
    let Some(expected) = expected else { return Ok(()) };
    let item = find(conn, id)?;
    if item.version == expected {
        return Ok(());
    }
    let (found, stage) = (item.version, item.stage.name());
    Err(WorkError::Conflict { id, expected, found, stage })
}

/// Changes an item's fields. With `expected_version`, only if nobody changed it since.
pub fn update(
    tx: &Tx<'_>,
    id: ItemId,
    expected_version: Option<i64>,
    change: ItemChange,
    origin: &Origin,
) -> Result<Item, WorkError> {
    check_origin(origin)?;
    expect_version(tx, id, expected_version)?;
    let before = find(tx, id)?;
    let mut item = before.clone();
    if let Some(name) = change.name {
        item.name = checked_name(&name)?;
    }
    if let Some(body) = change.body {
        check_body(&body)?;
        item.body = body;
    }
    if let Some(epic) = change.epic {
        if let Some(epic) = epic {
            epics::check(tx, Some(id), &item.project, epic)?;
        }
        item.epic = epic;
    }
    if let Some(agent) = change.agent {
        item.agent = agent;
    }
    item.qa = change.qa.unwrap_or(item.qa);
    item.priority = change.priority.unwrap_or(item.priority);
    item.room = change.room.unwrap_or(item.room);
    let item = items::put_fields(tx, &item).map_err(|error| translate(tx, error))?;
    if let Stage::Merge { commit, .. } = &item.stage {
        queue::enter(tx, &item, commit)?;
    }
    if let Some(depends_on) = change.depends_on {
        items::set_dependencies(tx, id, &depends_on).map_err(|error| translate(tx, error))?;
    }
    let item = find(tx, id)?;
    fields::note_changes(tx, &before, &item, origin)?;
    Ok(item)
}

/// Refuses what [`delete`] would refuse whoever is at work: to be asked before agents are ended.
pub fn may_be_deleted(conn: &Connection, id: ItemId) -> Result<Item, WorkError> {
    let item = find(conn, id)?;
    let hanging: Vec<String> =
        items::dependents(conn, id)?.iter().map(|other| other.id.to_string()).collect();
    if !hanging.is_empty() {
        return Err(WorkError::Refused(format!(
            "item {id} cannot be deleted because {} depends on it: change that first",
            hanging.join(", ")
        )));
    }
    if queue::is_landing(conn, id)? {
        return Err(WorkError::Refused(format!(
            "item {id} is being landed on the base branch at this moment: wait until it is done"
        )));
    }
    Ok(item)
}

/// Deletes an item with its content; its number stays taken, and its worktree is removed afterwards
/// (work in it that is on no branch is rescued first). The items of an epic stay, without it.
///
/// Refused while an agent works on it, and while others depend on it: see [`may_be_deleted`].
pub fn delete(tx: &Tx<'_>, id: ItemId, origin: &Origin) -> Result<(), WorkError> {
    check_origin(origin)?;
    let item = may_be_deleted(tx, id)?;
    if let Some(session) = sessions::live_session_of(tx, id)? {
        return Err(WorkError::Refused(format!(
            "{} works on item {id}: `stop {id}` first, then delete it",
            session.agent
        )));
    }
    queue::leave(tx, id)?;
    let why = format!("deleted by {}", origin.id);
    epics::release(tx, id, origin)?;
    tidying::add(tx, id, &item.project, &item.name, item.room.as_ref())?;
    // The log keeps its end: whoever follows the log reads it there.
    let gone = Stage::Abandoned { reason: why.clone() };
    log::append_transition(tx, id, Some(&item.stage), &gone, &why, origin)?;
    review::left(tx, id, None, &why, origin)?;
    items::delete(tx, id)?;
    let inputs = json!({
        "project": item.project,
        "kind": item.kind,
        "stage": item.stage.name(),
        "parent": item.parent,
    });
    decisions::record_by(tx, Some(id), What::Deleted, &why, &inputs, origin)?;
    Ok(())
}

/// Reads an item that must be there.
pub fn find(conn: &Connection, id: ItemId) -> Result<Item, WorkError> {
    items::find(conn, id)?.ok_or(WorkError::NotFound(id))
}

/// What stands on the board of one project, or of all: by column, most urgent first.
pub fn board(conn: &Connection, project: Option<&ProjectName>) -> Result<Vec<Item>, WorkError> {
    let shown = [Column::Backlog, Column::Coding, Column::Qa, Column::Merge, Column::Done];
    let mut items = items::in_columns(conn, project, &shown)?;
    // Stable: within a column the order of the store stays.
    items.sort_by_key(|item| item.stage.column());
    Ok(items)
}

/// Does something for each of a list; one that fails by itself is logged with its item, undone, and
/// holds up nobody.
fn each<T>(
    tx: &Tx<'_>,
    list: &[T],
    id: impl Fn(&T) -> ItemId,
    mut work: impl FnMut(&Tx<'_>, &T) -> Result<(), WorkError>,
) -> Result<(), WorkError> {
    for one in list {
        match tx.nested(|tx| work(tx, one)) {
            Ok(()) => {}
            Err(WorkError::Store(error)) => return Err(error.into()),
            Err(error) => {
                let (item, why) = (id(one), format!("passed over: {error}"));
                tracing::warn!(item = item.0, %error, "an item was passed over");
                decisions::note(tx, item, What::PutOff, "skipped", &why, &json!({}))?;
            }
        }
    }
    Ok(())
}

/// The origin of what the loops here do.
fn system(tx: &Tx<'_>) -> Origin {
    Origin {
        kind: OriginKind::System,
        id: "musher".to_owned(),
        at: crate::clock::from_millis(tx.now()),
    }
}

fn check_origin(origin: &Origin) -> Result<(), WorkError> {
    if origin.id.trim().is_empty() {
        return Err(WorkError::Invalid(crate::model::item::EmptyOrigin.to_string()));
    }
    Ok(())
}

/// Turns the store's refusals into ours, which know the remedy.
fn translate(conn: &Connection, error: ItemError) -> WorkError {
    match error {
        ItemError::NotFound(id) => WorkError::NotFound(id),
        ItemError::Stale { id, expected, found } => {
            let stage = find(conn, id).map_or("an unknown stage", |item| item.stage.name());
            WorkError::Conflict { id, expected, found, stage }
        }
        ItemError::UnknownDependency(id) => WorkError::Invalid(format!(
            "there is no item {id} to depend on: `status all` lists them"
        )),
        ItemError::Cycle(_) => {
            WorkError::Invalid(format!("{error}. Leave one of these dependencies out"))
        }
        ItemError::Store(error) => WorkError::Store(error),
    }
}
