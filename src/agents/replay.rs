//! What agents did on an item, turn by turn, as it can be read afterwards.

use super::housekeeping::events_of;
use crate::model::agent::TurnEnd;
use crate::model::ids::{AgentName, ItemId, TurnId};
use crate::store::StoreError;
use crate::store::agents::{self as sessions, Turn, TurnEvent};
use chrono::{DateTime, Utc};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How much of what was told or answered one line shows, in characters.
const LINE_CHARS: usize = 200;

/// A turn as it went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TurnStory {
    /// Which.
    pub turn: TurnId,
    /// Whose.
    pub agent: AgentName,
    /// When it began.
    pub began: DateTime<Utc>,
    /// How long it took, in milliseconds; nothing while it runs.
    pub duration_ms: Option<u64>,
    /// How it ended, in words.
    pub end: String,
    /// Tokens, in and out.
    pub tokens: u64,
    /// Money, in US dollars.
    pub usd: f64,
    /// What a person should know of it.
    pub warnings: Vec<String>,
    /// What happened in it.
    pub events: Vec<TurnEvent>,
}

/// Everything that agents did on an item, oldest first. Blocks: what was put away is unpacked.
pub fn replay(
    conn: &Connection,
    data_dir: &Path,
    item: ItemId,
) -> Result<Vec<TurnStory>, StoreError> {
    let mut stories = vec![];
    for session in sessions::sessions_of_item(conn, item)? {
        let mut events = events_of(conn, data_dir, session.id)?;
        for turn in sessions::turns_of_session(conn, session.id)? {
            let (own, rest) = events.into_iter().partition(|event| event.turn == turn.id);
            events = rest;
            stories.push(story(&session.agent, turn, own));
        }
    }
    Ok(stories)
}

fn story(agent: &AgentName, turn: Turn, events: Vec<TurnEvent>) -> TurnStory {
    let result = turn.result.as_ref();
    TurnStory {
        turn: turn.id,
        agent: agent.clone(),
        began: turn.started_at,
        duration_ms: result.map(|result| result.duration_ms),
        end: result.map_or_else(|| "runs".to_owned(), |result| end_in_words(&result.end)),
        tokens: result
            .map_or(0, |result| result.usage.input + result.usage.cached + result.usage.output),
        usd: result.map_or(0.0, |result| result.cost_microusd as f64 / 1e6),
        warnings: result.map(|result| result.warnings.clone()).unwrap_or_default(),
        events,
    }
}

fn end_in_words(end: &TurnEnd) -> String {
    match end {
        TurnEnd::Clean => "ended by itself".to_owned(),
        TurnEnd::Stopped { why } => format!("was stopped: {why}"),
        TurnEnd::Stalled => "was silent for too long and ended".to_owned(),
        TurnEnd::Limit { what, .. } => format!("reached a limit: {what}"),
        TurnEnd::RateLimited { until } => {
            format!("was rate limited until {}", until.format("%H:%M UTC"))
        }
        TurnEnd::Failed { message, .. } => format!("failed: {message}"),
        TurnEnd::CutOff => "was cut off when musher itself ended".to_owned(),
    }
}

impl TurnStory {
    /// The turn as lines of text.
    pub fn lines(&self) -> Vec<String> {
        let mut head = format!(
            "== turn {} of {}, {}",
            self.turn,
            self.agent,
            self.began.format("%-d %b %H:%M:%S")
        );
        if let Some(ms) = self.duration_ms {
            head.push_str(&format!(", {}.{} s", ms / 1000, ms % 1000 / 100));
        }
        if self.tokens > 0 {
            head.push_str(&format!(", {} tokens, ${:.2}", self.tokens, self.usd));
        }
        let mut lines = vec![head];
        lines.extend(self.events.iter().map(line));
        lines.extend(self.warnings.iter().map(|warning| format!("         warning: {warning}")));
        lines.push(format!("         {}", one_line(&self.end)));
        lines
    }
}

/// An event as a line: when, what sort, what.
fn line(event: &TurnEvent) -> String {
    let what = match event.kind.as_str() {
        "prompt" => "told",
        "text" => "said",
        "tool" => "ran",
        "tool_end" => "  gave",
        "tool_failed" => "  failed",
        other => other,
    };
    format!("{} {what}: {}", event.at.format("%H:%M:%S"), one_line(&event.text))
}

fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LINE_CHARS) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}
