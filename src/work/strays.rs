//! Agents that are at work where they do not belong any more.

use super::{WorkError, text};
use crate::model::ids::{AgentName, ItemId};
use crate::model::stage::Stage;
use crate::store::agents as sessions;
use crate::store::decisions::{self, What};
use crate::store::{Tx, items};
use rusqlite::Connection;
use serde_json::json;

/// An agent that is at work where it does not belong.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stray {
    /// The item.
    pub item: ItemId,
    /// The agent.
    pub agent: AgentName,
    /// Why it is to be stopped, in words.
    pub why: String,
    /// The item's stage, if there is the item.
    pub stage: Option<&'static str>,
}

/// Notes that a stray was stopped.
pub(super) fn withdrawn(tx: &Tx<'_>, stray: &Stray) -> Result<(), WorkError> {
    let inputs = json!({"agent": stray.agent, "stage": stray.stage});
    let why = format!("{} was stopped: {}", stray.agent, stray.why);
    decisions::record(tx, Some(stray.item), What::Withdrawn, &why, &inputs)?;
    Ok(())
}

/// Sessions that do not belong to their item any more: the stage wants no agent, or another.
pub(super) fn strays(conn: &Connection) -> Result<Vec<Stray>, WorkError> {
    let mut strays = Vec::new();
    for session in sessions::live_sessions(conn)? {
        let found = items::find(conn, session.item)?;
        let stage = found.as_ref().map(|item| item.stage.name());
        let why = match found {
            None => "its item was deleted".to_owned(),
            Some(item) if item.stage.claim() == Some(&session.agent) => continue,
            Some(item) => {
                let id = item.id;
                if let Stage::Blocked { reason, .. } = &item.stage {
                    format!("item {id} is blocked: {}", text::first_line(reason))
                } else {
                    format!("item {id} is in {} now", item.stage.name())
                }
            }
        };
        strays.push(Stray { item: session.item, agent: session.agent, why, stage });
    }
    Ok(strays)
}
