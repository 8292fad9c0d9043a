//! Epics: collections of items, with progress, that close when all of it is done.
//!
//! An epic has no branch and no agent: it waits in the backlog until every item in it is done, and
//! is archived as finished then, which is what meets a dependency on it. An item that was given up
//! keeps its epic open: that is a person's to decide.

use super::{WorkError, apply_to, each, find, system};
use crate::model::ids::{ItemId, ProjectName};
use crate::model::item::{Item, Kind, Origin};
use crate::model::stage::StageEvent;
use crate::store::decisions::{self, What};
use crate::store::items::{self, Progress};
use crate::store::{StoreError, Tx, changes};
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
/// `id` and `project` are the item's; a new one has no number yet.
pub(super) fn check(
    conn: &Connection,
    id: Option<ItemId>,
    project: &ProjectName,
    epic: ItemId,
) -> Result<(), WorkError> {
    let parent = find(conn, epic)?;
    if parent.kind != Kind::Epic {
        return Err(WorkError::Invalid(format!(
            "item {epic} is a {}, not an epic that could hold this one",
            parent.kind.as_str()
        )));
    }
    if parent.stage.is_terminal() {
        return Err(WorkError::Refused(format!(
            "epic {epic} has ended ({}) and takes nothing more in: file another with `epic: NAME`",
            parent.stage.name()
        )));
    }
    if id == Some(epic) {
        return Err(WorkError::Invalid(format!("epic {epic} cannot be part of itself")));
    }
    if *project != parent.project {
        let item = id.map_or_else(|| "the new item".to_owned(), |id| format!("item {id}"));
        return Err(WorkError::Invalid(format!(
            "{item} belongs to {project} and epic {epic} to {}: an epic holds items of its own \
             project",
            parent.project
        )));
    }
    let Some(id) = id else { return Ok(()) };
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
    each(
        tx,
        &complete,
        |epic| epic.id,
        |tx, epic| {
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
        },
    )
}

/// Takes what an epic held out of it: the epic is deleted.
pub(super) fn release(tx: &Tx<'_>, epic: ItemId, origin: &Origin) -> Result<(), StoreError> {
    for child in items::clear_epic(tx, epic)? {
        changes::record(tx, child.id, "epic", Some(&epic.to_string()), None, origin)?;
    }
    Ok(())
}

/// The items of an epic, in words for `show`.
pub fn children_in_words(conn: &Connection, epic: ItemId) -> Result<Vec<String>, WorkError> {
    Ok(items::children(conn, epic)?.into_iter().map(line).collect())
}

/// What an item's lead handed out, in words for `show`.
pub fn parts_in_words(conn: &Connection, parent: ItemId) -> Result<Vec<String>, WorkError> {
    Ok(items::handed_out(conn, parent)?.into_iter().map(line).collect())
}

fn line(child: Item) -> String {
    let mark = if child.stage.meets_dependency() { "✅" } else { "▫️" };
    let stage = child.stage.name().replace('_', " ");
    format!("{mark} #{} {} ({stage})", child.id, child.name)
}
