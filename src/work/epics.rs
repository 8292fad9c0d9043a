//! Epics: collections of items, with progress, that close when all of it is done.
//!
//! An epic has no branch and no agent: it waits in the backlog until every item in it is done, and
//! is archived as finished then, which is what meets a dependency on it. An item that was given up
//! keeps its epic open: that is a person's to decide.

use super::{WorkError, apply_to, each, find, system};
use crate::model::ids::ItemId;
use crate::model::item::{Item, Kind};
use crate::model::stage::StageEvent;
use crate::store::decisions::{self, What};
use crate::store::items::{self, Progress};
use crate::store::{StoreError, Tx};
use rusqlite::Connection;
use serde_json::json;

/// How far an epic has come.
pub fn progress(conn: &Connection, epic: ItemId) -> Result<Progress, WorkError> {
    Ok(items::progress(conn, epic)?)
}

/// A progress in words: "2 of 5 done".
pub fn progress_in_words(progress: &Progress) -> String {
    let Progress { items, done, dropped } = progress;
    match (items, dropped) {
        (0, _) => "no items yet".to_owned(),
        (_, 0) => format!("{done} of {items} done"),
        (_, dropped) => format!("{done} of {items} done, {dropped} given up"),
    }
}

/// Refuses to make an item part of `epic` when that cannot be.
pub(super) fn check(conn: &Connection, id: Option<ItemId>, epic: ItemId) -> Result<(), WorkError> {
    let parent = find(conn, epic)?;
    if parent.kind != Kind::Epic {
        return Err(WorkError::Invalid(format!(
            "item {epic} is a {}, not an epic that could hold this one",
            parent.kind.as_str()
        )));
    }
    if parent.stage.is_terminal() {
        return Err(WorkError::Refused(format!(
            "epic {epic} has ended ({}) and takes nothing more in: file another with `epic NAME`",
            parent.stage.name()
        )));
    }
    let Some(id) = id else { return Ok(()) };
    if id == epic {
        return Err(WorkError::Invalid(format!("epic {epic} cannot be part of itself")));
    }
    let item = find(conn, id)?;
    if item.project != parent.project {
        return Err(WorkError::Invalid(format!(
            "item {id} belongs to {} and epic {epic} to {}: an epic holds items of its own project",
            item.project, parent.project
        )));
    }
    // An epic waits for its items as if it depended on them.
    if let Some(path) = items::path_between(conn, id, epic)? {
        let names: Vec<String> = path.iter().map(ItemId::to_string).collect();
        return Err(WorkError::Invalid(format!(
            "epic {epic} would wait for item {id}, which waits for it: {}. Take one of these \
             dependencies away first",
            names.join(" waits for ")
        )));
    }
    Ok(())
}

/// Closes the epics all of whose items are done.
pub(super) fn close(tx: &Tx<'_>) -> Result<(), WorkError> {
    let mut complete = Vec::new();
    for id in items::open_epics(tx)? {
        if items::progress(tx, id)?.is_complete()
            && let Some(epic) = items::find(tx, id)?
        {
            complete.push(epic);
        }
    }
    each(tx, &complete, |tx, epic| {
        let progress = items::progress(tx, epic.id)?;
        let why = format!("all {} of its items are done", progress.items);
        decisions::record(
            tx,
            Some(epic.id),
            What::Archived,
            &why,
            &json!({"items": progress.items, "done": progress.done}),
        )?;
        let at = crate::clock::from_millis(tx.now());
        apply_to(tx, epic, &StageEvent::Finished { at }, &system(tx), &why)?;
        Ok(())
    })
}

/// Takes what an epic held out of it: the epic is deleted.
pub(super) fn release(tx: &Tx<'_>, epic: ItemId) -> Result<(), StoreError> {
    for mut child in items::children(tx, epic)? {
        child.epic = None;
        if let Err(error) = items::put_fields(tx, &child) {
            tracing::warn!(item = child.id.0, %error, "an item keeps a deleted epic");
        }
    }
    Ok(())
}

/// The items of an epic, in words for `show`.
pub fn children_in_words(conn: &Connection, epic: ItemId) -> Result<Vec<String>, WorkError> {
    let line = |child: Item| {
        let mark = if child.stage.meets_dependency() { "✅" } else { "▫️" };
        let stage = child.stage.name().replace('_', " ");
        format!("{mark} #{} {} ({stage})", child.id, child.name)
    };
    Ok(items::children(conn, epic)?.into_iter().map(line).collect())
}
