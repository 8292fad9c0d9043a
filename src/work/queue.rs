//! Where work meets other tables: projects, the merge queue, pauses, verdicts, rooms.

use super::{WorkError, board};
use crate::model::ids::{AgentName, ItemId, ProjectName, RoomKey};
use crate::model::item::Item;
use crate::model::mail::MailType;
use crate::store::projects::{self, ProjectRow};
use crate::store::{Tx, mail, merge_queue, merge_state, rooms};
use chrono::{DateTime, Utc};
use rusqlite::Connection;

/// Reads a project.
pub(super) fn project(
    conn: &Connection,
    name: &ProjectName,
) -> Result<Option<ProjectRow>, WorkError> {
    Ok(projects::find(conn, name)?)
}

/// Puts an item into the merge queue, or renews its row.
pub(super) fn enter(tx: &Tx<'_>, item: &Item, commit: &str) -> Result<(), WorkError> {
    Ok(merge_queue::enqueue(tx, item.id, &item.project, commit, item.priority)?)
}

/// Takes an item out of the queue; `false` when it is being landed and cannot be called back.
pub(super) fn leave(tx: &Tx<'_>, item: ItemId) -> Result<bool, WorkError> {
    Ok(merge_queue::withdraw(tx, item)? || !is_queued(tx, item)?)
}

/// Whether an item has a row in the queue.
pub(super) fn is_queued(conn: &Connection, item: ItemId) -> Result<bool, WorkError> {
    Ok(merge_queue::find(conn, item)?.is_some())
}

/// Whether an item is being landed at this moment.
pub(super) fn is_landing(conn: &Connection, item: ItemId) -> Result<bool, WorkError> {
    Ok(merge_queue::find(conn, item)?.is_some_and(|row| row.landing.is_some()))
}

/// What the queue says of an item: its place, and why it was put off, if it was.
pub(super) fn place_of(
    conn: &Connection,
    item: &Item,
    now: DateTime<Utc>,
) -> Result<String, WorkError> {
    let places = board::places(conn, &item.project, now.timestamp_millis())?;
    let Some(place) = places.get(&item.id) else {
        return Ok("its result is being taken in".to_owned());
    };
    if let Some(url) = &place.pull {
        return Ok(format!("its pull request is open: {url}"));
    }
    let pause = merge_state::pause_of(conn, &item.project)?;
    let still = pause.map(|pause| format!("; the queue stands still: {}", pause.reason));
    let waits = place.waits.as_ref().map(|why| format!("; {why}"));
    let why = still.or(waits).unwrap_or_default();
    Ok(match (place.landing, place.ahead) {
        (true, _) => "it is being landed".to_owned(),
        (false, 0) => format!("it is the next{why}"),
        (false, ahead) => format!("{ahead} before it{why}"),
    })
}

/// A QA agent's verdict by mail on an item since `since`: whether it passed, and the findings.
pub(super) fn verdict_mail(
    conn: &Connection,
    agent: &AgentName,
    item: ItemId,
    since: DateTime<Utc>,
) -> Result<Option<(bool, String)>, WorkError> {
    let filter =
        mail::Filter { from: Some(agent.0.clone()), item: Some(item), ..Default::default() };
    let newest = mail::list(conn, &filter)?.into_iter().find(|mail| {
        mail.created_at >= since && matches!(mail.kind, MailType::QaPassed | MailType::QaFailed)
    });
    Ok(newest
        .map(|mail| (mail.kind == MailType::QaPassed, findings(&mail.body, mail.payload.as_ref()))))
}

/// What QA found: its words, and each of its findings that they do not hold already.
pub(super) fn findings(words: &str, payload: Option<&serde_json::Value>) -> String {
    let listed = payload.and_then(|payload| payload.get("findings")?.as_array());
    let mut text = words.trim().to_owned();
    for finding in listed.into_iter().flatten().filter_map(serde_json::Value::as_str) {
        let finding = finding.trim();
        if !finding.is_empty() && !words.contains(finding) {
            let gap = if text.is_empty() { "" } else { "\n" };
            text.push_str(&format!("{gap}- {finding}"));
        }
    }
    text
}

/// The room that hears about an item: its own, the one bound to its project, or the nearest that
/// is known.
pub(super) fn room_of(conn: &Connection, item: &Item) -> Result<Option<RoomKey>, WorkError> {
    Ok(rooms::of_item(conn, item)?)
}
