//! The answer as it grows in the room: one message, edited.
//!
//! A short answer is simply posted at the end. One that takes longer shows after
//! [`FIRST_AFTER`] and then grows by edits, ever more seldom and not more than [`EDITS_MAX`]: a
//! room full of edits is slow to load. The last state is written by the turn's end, as an edit of
//! the same message, found by its key in the outbox: also after a crash.

use super::text;
use crate::llm::Delta;
use crate::model::chat::{Outgoing, OutgoingContent, Weight};
use crate::model::ids::SessionKey;
use crate::redact::redact;
use crate::store::conversation::{answer_dedup, answer_row};
use crate::store::{Store, StoreError, Tx, outbox};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::sleep;

/// How long an answer takes before it is shown half done.
const FIRST_AFTER: Duration = Duration::from_secs(3);
/// The longest time between two edits.
const EDIT_INTERVAL_MAX: Duration = Duration::from_secs(15);
/// How often a message is edited, the last time included.
const EDITS_MAX: u32 = 25;
/// How much of a long answer is shown while it grows, in characters: its end.
const SHOWN_MAX: usize = 6000;

#[derive(Debug, Default)]
struct State {
    /// What the earlier steps of the turn said.
    done: Vec<String>,
    /// What the present step has said so far.
    current: String,
    /// The tool that is called or run.
    tool: Option<String>,
}

/// What a turn has said so far.
#[derive(Debug, Default)]
pub struct View {
    state: Mutex<State>,
}

impl View {
    /// A view of a turn whose earlier steps said `done`.
    pub fn new(done: Vec<String>) -> Self {
        Self { state: Mutex::new(State { done, ..State::default() }) }
    }

    fn hold(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what the model streams.
    pub fn on(&self, delta: Delta) {
        let mut state = self.hold();
        match delta {
            Delta::Text(more) => {
                state.tool = None;
                state.current.push_str(&more);
            }
            Delta::ToolCall { name } => state.tool = Some(name),
            Delta::Retrying { .. } => state.current.clear(),
        }
    }

    /// Shows that a tool runs.
    pub fn tool(&self, name: &str) {
        self.hold().tool = Some(name.to_owned());
    }

    /// Ends a step that said `text`.
    pub fn step_done(&self, text: &str) {
        let mut state = self.hold();
        state.current.clear();
        if !text.trim().is_empty() {
            state.done.push(text.to_owned());
        }
    }

    /// All that was said so far, without secrets.
    pub fn said(&self) -> String {
        let state = self.hold();
        let mut all: Vec<&str> = state.done.iter().map(|text| text.trim()).collect();
        let current = state.current.trim();
        if !current.is_empty() {
            all.push(current);
        }
        redact(&all.join("\n\n"))
    }

    fn growing(&self) -> String {
        let mut text = self.said();
        let count = text.chars().count();
        if count > SHOWN_MAX {
            let end: String = text.chars().skip(count - SHOWN_MAX).collect();
            text = format!("…{end}");
        }
        match &self.hold().tool {
            Some(name) if text.is_empty() => text::using_tool(name),
            Some(name) => format!("{text}\n\n{}", text::using_tool(name)),
            None => text,
        }
    }

    /// Shows the answer as it grows; never ends. Dropped when the turn does.
    pub async fn show(
        &self,
        store: &Store,
        key: &SessionKey,
        turn: i64,
        first_interval: Duration,
    ) -> std::convert::Infallible {
        sleep(FIRST_AFTER).await;
        let mut interval = first_interval;
        let mut shown = String::new();
        let mut edits = 0;
        loop {
            let text = self.growing();
            // The last edit is the turn's end's.
            if !text.is_empty() && text != shown && edits < EDITS_MAX - 1 {
                let (key, now) = (key.clone(), text.clone());
                match store.write(move |tx| post(tx, &key, turn, &now)).await {
                    Ok(()) => {
                        shown = text;
                        edits += 1;
                    }
                    Err(error) => tracing::warn!(%error, "cannot show a growing answer"),
                }
            }
            sleep(interval).await;
            interval = (interval * 5 / 4).min(EDIT_INTERVAL_MAX);
        }
    }
}

/// Posts the turn's answer, or edits it where it stands already.
pub fn post(tx: &Tx<'_>, key: &SessionKey, turn: i64, markdown: &str) -> Result<(), StoreError> {
    match answer_row(tx, turn)? {
        Some(of) => {
            let content =
                OutgoingContent::Edit { of, markdown: markdown.to_owned(), weight: Weight::Text };
            let edit = Outgoing { session: key.clone(), content, item: None };
            outbox::enqueue(tx, &edit, None)?;
        }
        None => {
            let message = Outgoing::text(key.clone(), markdown);
            outbox::enqueue(tx, &message, Some(&answer_dedup(turn)))?;
        }
    }
    Ok(())
}
