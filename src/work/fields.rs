//! An item's fields: what may stand in them, and the log of their changes.

use super::WorkError;
use crate::model::ids::{AgentName, ItemId, RoomKey};
use crate::model::item::{Item, Origin};
use crate::store::{StoreError, Tx, changes};

/// The longest name of an item, in characters.
const NAME_MAX: usize = 300;
/// The longest body of an item, in bytes.
const BODY_MAX: usize = 256 * 1024;

pub(super) fn checked_name(name: &str) -> Result<String, WorkError> {
    let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
    if name.is_empty() {
        return Err(WorkError::Invalid(
            "an item needs a name: `story: Add a calculator`".to_owned(),
        ));
    }
    let length = name.chars().count();
    if length > NAME_MAX {
        return Err(WorkError::Invalid(format!(
            "the name has {length} characters and at most {NAME_MAX} are allowed: put the details \
             into the description"
        )));
    }
    Ok(name)
}

pub(super) fn check_body(body: &str) -> Result<(), WorkError> {
    if body.len() > BODY_MAX {
        return Err(WorkError::Invalid(format!(
            "the description has {} bytes and at most {BODY_MAX} are allowed: put long material \
             into a file of the repository",
            body.len()
        )));
    }
    Ok(())
}

/// Writes into the log which fields differ.
pub(super) fn note_changes(
    tx: &Tx<'_>,
    before: &Item,
    after: &Item,
    origin: &Origin,
) -> Result<(), StoreError> {
    let agent = |item: &Item| item.agent.as_ref().map(AgentName::to_string);
    let epic = |item: &Item| item.epic.as_ref().map(ItemId::to_string);
    let room = |item: &Item| item.room.as_ref().map(RoomKey::to_string);
    let depends_on = |item: &Item| {
        let list: Vec<String> = item.depends_on.iter().map(ItemId::to_string).collect();
        (!list.is_empty()).then(|| list.join(", "))
    };
    let some = |text: String| Some(text);
    for (field, old, new) in [
        ("name", some(before.name.clone()), some(after.name.clone())),
        ("body", some(before.body.clone()), some(after.body.clone())),
        ("depends_on", depends_on(before), depends_on(after)),
        ("epic", epic(before), epic(after)),
        ("agent", agent(before), agent(after)),
        ("qa", some(before.qa.as_str().to_owned()), some(after.qa.as_str().to_owned())),
        ("priority", some(before.priority.to_string()), some(after.priority.to_string())),
        ("room", room(before), room(after)),
    ] {
        if old != new {
            changes::record(tx, after.id, field, old.as_deref(), new.as_deref(), origin)?;
        }
    }
    Ok(())
}
