//! The board as data, in the shape that scripts rely on.

use super::WorkError;
use crate::model::item::Item;
use crate::model::stage::Column;
use crate::store::{items, projects};
use rusqlite::Connection;
use serde_json::{Value, json};

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
