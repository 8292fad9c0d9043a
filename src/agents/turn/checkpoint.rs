//! Where work stood that was cut off: what a resumed session is told before it goes on.
//!
//! Nothing is kept for this: it is read from the rows of the turn that ended and from the worktree
//! as it stands.

use crate::model::agent::{SessionState, TurnEnd};
use crate::model::ids::{AgentName, ItemId};
use crate::project::git::Git;
use crate::store::agents as sessions;
use crate::store::{Store, StoreError};
use rusqlite::Connection;
use std::path::Path;

/// How many changed files are named.
const FILES: usize = 20;

/// How much of what was said last is repeated, in bytes.
const NOTE_BYTES: usize = 600;

/// The end of an agent's last turn on an item, if it was cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Last {
    native_id: Option<String>,
    /// What it said last.
    note: String,
}

fn last(conn: &Connection, agent: &AgentName, item: ItemId) -> Result<Option<Last>, StoreError> {
    for session in sessions::sessions_of_item(conn, item)?.iter().rev() {
        if session.agent != *agent {
            continue;
        }
        let turns = sessions::turns_of_session(conn, session.id)?;
        let Some(result) = turns.into_iter().rev().find_map(|turn| turn.result) else { continue };
        if result.end == TurnEnd::Clean || session.state == SessionState::Completed {
            return Ok(None);
        }
        return Ok(Some(Last { native_id: result.native_id, note: result.last_text }));
    }
    Ok(None)
}

/// What the agent is told of where its work on the item stood, if it was cut off.
pub(super) async fn of(
    store: &Store,
    agent: &AgentName,
    item: ItemId,
    worktree: &Path,
) -> Option<String> {
    let agent = agent.clone();
    let found = store.read(move |conn| last(conn, &agent, item)).await;
    let last = match found {
        Ok(last) => last?,
        Err(error) => {
            tracing::warn!(%error, "where the work stood could not be read");
            return None;
        }
    };
    let git = Git::at(worktree);
    let branch = git.head_branch().await.ok().flatten();
    let changed = git.changed_files(true).await.unwrap_or_default();
    let files = changed.into_iter().map(|file| file.path).collect();
    Some(in_words(item, branch.as_deref(), files, &last))
}

fn in_words(item: ItemId, branch: Option<&str>, mut files: Vec<String>, last: &Last) -> String {
    let mut text = format!("Where your work on item {item} stood when it was cut off:\n");
    if let Some(branch) = branch {
        text.push_str(&format!("- branch: {branch}\n"));
    }
    let more = files.len().saturating_sub(FILES);
    files.truncate(FILES);
    text.push_str(&match (files.is_empty(), more) {
        (true, _) => "- nothing is changed that is not committed\n".to_owned(),
        (false, 0) => format!("- changed and not committed: {}\n", files.join(", ")),
        (false, more) => {
            format!("- changed and not committed: {} and {more} more\n", files.join(", "))
        }
    });
    if let Some(id) = &last.native_id {
        text.push_str(&format!("- session: {id}\n"));
    }
    let note = last.note.trim();
    if !note.is_empty() {
        let cut = note.floor_char_boundary(NOTE_BYTES);
        text.push_str(&format!("- you said last: {}\n", note[..cut].replace('\n', " ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_names_branch_files_session_and_the_last_words() {
        let last = Last { native_id: Some("n-1".to_owned()), note: "half\ndone".to_owned() };
        let files: Vec<String> = (0..25).map(|number| format!("f{number}")).collect();
        let text = in_words(ItemId(3), Some("item/3-x"), files, &last);
        for part in ["item 3", "branch: item/3-x", "f0, f1", "f19 and 5 more", "n-1", "half done"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let nothing = Last { native_id: None, note: String::new() };
        let text = in_words(ItemId(3), None, vec![], &nothing);
        assert!(text.contains("nothing is changed") && !text.contains("said"), "{text}");
    }
}
