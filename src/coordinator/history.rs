//! A conversation before it outgrows the model: what stays, what becomes a summary.
//!
//! Whole turns are left out, oldest first, so that a call and its result are never parted. What
//! is left out becomes one note: what people asked, what was answered, which items it was about.
//! The note is made by code, not by a model: it costs nothing and cannot fail.

use super::input::harmless;
use crate::model::ids::SessionKey;
use crate::model::llm::{LlmMessage, Part, Speaker};
use crate::store::conversation::{self, Stored};
use crate::store::{StoreError, Tx};
use regex::Regex;
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// Estimated tokens from which on a conversation is compacted before the next turn.
pub const COMPACT_ABOVE: usize = 100_000;
/// Estimated tokens that a compacted conversation may keep.
const KEEP_BELOW: usize = 40_000;
/// Characters a token, for the estimate: low, so that it errs on the safe side.
const CHARS_PER_TOKEN: usize = 3;
/// How much of a message goes into the note.
const EXCERPT: usize = 240;
/// How long the note may become; its oldest lines go first.
const NOTE_MAX: usize = 12_000;

static ITEM: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"#(\d+)").expect("the pattern is constant and compiles"));
static TAGS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"</?(?:message|overheard)[^>]*>").expect("the pattern is constant and compiles")
});

/// How many tokens a message takes, about.
pub fn estimate(message: &LlmMessage) -> usize {
    let chars: usize = message
        .parts
        .iter()
        .map(|part| match part {
            Part::Text { text } | Part::Thinking { text, .. } | Part::ToolResult { text, .. } => {
                text.len()
            }
            Part::ToolCall { name, arguments, .. } => name.len() + arguments.to_string().len(),
        })
        .sum();
    chars / CHARS_PER_TOKEN + 4
}

/// How many tokens a conversation takes, about.
pub fn estimate_all(history: &[Stored]) -> usize {
    history.iter().map(|row| estimate(&row.message)).sum()
}

/// Splits a conversation into what becomes a note and what stays: whole turns.
///
/// Turn `keep` always stays.
fn split(history: Vec<Stored>, keep: Option<i64>, below: usize) -> (Vec<Stored>, Vec<Stored>) {
    let mut left = estimate_all(&history);
    let mut first_kept = 0;
    while left > below && first_kept < history.len() {
        let turn = history[first_kept].turn;
        if Some(turn) == keep {
            break;
        }
        while first_kept < history.len() && history[first_kept].turn == turn {
            left -= estimate(&history[first_kept].message);
            first_kept += 1;
        }
    }
    let mut dropped = history;
    let kept = dropped.split_off(first_kept);
    (dropped, kept)
}

/// The note that stands for what was left out.
fn note(dropped: &[Stored]) -> String {
    let mut items = BTreeSet::new();
    let mut lines: Vec<String> = Vec::new();
    for row in dropped {
        for part in &row.message.parts {
            let text = match part {
                Part::Text { text } | Part::ToolResult { text, .. } => text,
                Part::ToolCall { .. } | Part::Thinking { .. } => continue,
            };
            let numbers = ITEM.captures_iter(text).filter_map(|found| found[1].parse::<i64>().ok());
            items.extend(numbers);
            if let Part::Text { text } = part {
                if row.turn == 0 {
                    // An earlier note goes into this one, line by line.
                    let old = text.lines().filter(|line| line.starts_with("- "));
                    lines.extend(old.map(str::to_owned));
                } else if !text.starts_with("<notes") {
                    let who = match row.message.speaker {
                        Speaker::User => "people",
                        Speaker::Assistant => "you",
                    };
                    lines.push(format!("- {who}: {}", excerpt(text)));
                }
            }
        }
    }
    let mut length: usize = lines.iter().map(String::len).sum();
    let mut skip = 0;
    while length > NOTE_MAX && skip < lines.len() {
        length -= lines[skip].len();
        skip += 1;
    }
    let items: Vec<String> = items.iter().map(|id| format!("#{id}")).collect();
    let items = if items.is_empty() { "none".to_owned() } else { items.join(", ") };
    format!(
        "<summary about=\"the earlier conversation, shortened\">\nItems that came up: {items}\n{}\n</summary>",
        lines[skip..].join("\n")
    )
}

fn excerpt(text: &str) -> String {
    let plain = TAGS.replace_all(text, " ");
    let line = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    let cut: String = line.chars().take(EXCERPT).collect();
    harmless(&if cut.len() < line.len() { format!("{cut}…") } else { cut })
}

/// How hard to compact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Only if it has grown too long.
    IfLong,
    /// As far as it goes: the model or a person asks for it.
    Now,
}

/// Compacts the session's conversation, in a new epoch, and returns the epoch that holds now.
///
/// `running` is a turn that stays whole and moves along.
pub fn compact(
    tx: &Tx<'_>,
    key: &SessionKey,
    epoch: i64,
    running: Option<i64>,
    need: Need,
) -> Result<i64, StoreError> {
    let history = conversation::history(tx, key, epoch)?;
    let below = match need {
        Need::IfLong if estimate_all(&history) <= COMPACT_ABOVE => return Ok(epoch),
        Need::IfLong => KEEP_BELOW,
        Need::Now => 0,
    };
    let (dropped, kept) = split(history, running, below);
    if dropped.iter().all(|row| row.turn == 0) {
        return Ok(epoch);
    }
    let next = conversation::begin_epoch(tx, key)?;
    conversation::append(tx, key, next, 0, &LlmMessage::user(note(&dropped)))?;
    for row in &kept {
        conversation::append(tx, key, next, row.turn, &row.message)?;
    }
    if let Some(turn) = running {
        conversation::move_turn(tx, turn, next)?;
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::Store;

    #[test]
    fn old_turns_become_a_note_and_calls_stay_with_their_results() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Clock::system()).unwrap();
        let key = SessionKey::main("!a:hs".into());
        store
            .write_blocking(move |tx| {
                conversation::ensure_session(tx, &key)?;
                let add =
                    |turn, message: &LlmMessage| conversation::append(tx, &key, 0, turn, message);
                let long = "x".repeat(200_000);
                for turn in 1..=3 {
                    add(
                        turn,
                        &LlmMessage::user(format!("<message from=\"A\">\nfix #{turn}\n</message>")),
                    )?;
                    let call = Part::ToolCall {
                        id: format!("c{turn}"),
                        name: "item_show".into(),
                        arguments: serde_json::json!({}),
                    };
                    add(turn, &LlmMessage { speaker: Speaker::Assistant, parts: vec![call] })?;
                    let result = Part::ToolResult {
                        id: format!("c{turn}"),
                        text: long.clone(),
                        is_error: false,
                    };
                    add(turn, &LlmMessage { speaker: Speaker::User, parts: vec![result] })?;
                    add(turn, &LlmMessage::assistant("done"))?;
                }
                let epoch = compact(tx, &key, 0, Some(3), Need::IfLong)?;
                assert_eq!(epoch, 1);
                let history = conversation::history(tx, &key, epoch)?;
                assert_eq!(history.iter().map(|row| row.turn).collect::<Vec<_>>(), [0, 3, 3, 3, 3]);
                let note = history[0].message.text();
                assert!(note.contains("#1, #2") && note.contains("- people: fix #2"), "{note}");
                // Nothing more to leave out: the running turn stays.
                assert_eq!(compact(tx, &key, epoch, Some(3), Need::Now)?, epoch);
                // An earlier note goes into the next one.
                let epoch = compact(tx, &key, epoch, None, Need::Now)?;
                let history = conversation::history(tx, &key, epoch)?;
                assert_eq!(history.len(), 1);
                assert!(history[0].message.text().contains("- people: fix #1"));
                Ok::<(), StoreError>(())
            })
            .unwrap();
    }
}
