//! Recordings: turns from a file, for demonstrations and rehearsals, named as such.
//!
//! A file of JSON lines, played in order with the same confined tools as the built-in agent's:
//! `{"say": "…"}` is said, `{"tool": "edit_file", "input": {…}}` is carried out, `{"end": true}`
//! ends a turn; `{"note": "…"}` is for the reader. How far it was played is a row a line, so that a
//! crash goes on at the line that was cut off.

use super::api::root;
use super::in_process::{Brain, Hands, start};
use super::{Caps, Runtime, RuntimeEvent, Session, SpawnError, SpawnSpec, TurnOutcome};
use crate::config::RuntimeKind;
use crate::model::agent::Failure;
use crate::model::ids::AgentSessionId;
use crate::model::llm::LlmMessage;
use crate::store::agents as sessions;
use crate::store::{Store, StoreError};
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// What stands before the number of the first session in the session's id.
const NATIVE: &str = "replay-";

/// The model's name, wherever it shows.
const MODEL: &str = "recording (no model is called)";

/// The pause between two lines, so that a watcher can follow.
const PACE: Duration = Duration::from_millis(300);

/// A line of a recording.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Play {
    /// Carries out a tool.
    Tool {
        /// Its name.
        tool: String,
        /// Its arguments.
        #[serde(default)]
        input: Value,
    },
    /// Says something.
    Say {
        /// What.
        say: String,
    },
    /// Ends the turn.
    End {
        /// Always `true`.
        #[serde(rename = "end")]
        _end: bool,
    },
    /// For the reader.
    Note {
        /// What.
        #[serde(rename = "note")]
        _note: String,
    },
}

/// Starts agents that play a recording.
pub struct Replay {
    store: Store,
}

impl Replay {
    /// Recordings whose positions are kept in `store`.
    pub fn new(store: Store) -> Self {
        Self { store }
    }
}

/// Whether a recording can be played; if not, why.
pub fn check(path: &Path) -> Result<(), String> {
    load(path).map(drop)
}

fn load(path: &Path) -> Result<Vec<Play>, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("the recording {} cannot be read: {error}", path.display()))?;
    parse(&text).map_err(|why| format!("the recording {}: {why}", path.display()))
}

fn parse(text: &str) -> Result<Vec<Play>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            serde_json::from_str(line).map_err(|_error| {
                format!(
                    "line {} is none of {{\"say\"}}, {{\"tool\", \"input\"}}, {{\"end\"}}, {{\"note\"}}",
                    index + 1
                )
            })
        })
        .collect()
}

#[async_trait]
impl Runtime for Replay {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Replay
    }

    fn caps(&self) -> Caps {
        Caps { steer: true, approve: true, resume: true, cost: false }
    }

    async fn spawn(
        &self,
        spec: SpawnSpec,
        events: mpsc::Sender<RuntimeEvent>,
    ) -> Result<Arc<dyn Session>, SpawnError> {
        let path = spec.replay_file.clone().ok_or_else(|| {
            SpawnError::unusable(format!(
                "agent {} has runtime = \"replay\" but no replay_file: name the recording",
                spec.tools.agent
            ))
        })?;
        let plays = load(&path).map_err(SpawnError::unusable)?;
        let root = root(spec.resume.as_deref(), NATIVE).unwrap_or(spec.tools.session);
        let played = self
            .store
            .read(move |conn| sessions::messages(conn, root))
            .await
            .map_err(|error: StoreError| SpawnError {
                failure: Failure::Crash,
                message: format!("the recording's position could not be read: {error}"),
            })?
            .len();
        let brain = ReplayBrain { store: self.store.clone(), root, plays, played };
        Ok(start(spec, Box::new(brain), events))
    }
}

struct ReplayBrain {
    store: Store,
    root: AgentSessionId,
    plays: Vec<Play>,
    played: usize,
}

#[async_trait]
impl Brain for ReplayBrain {
    fn introduce(&self) -> (String, String) {
        (format!("{NATIVE}{}", self.root), MODEL.to_owned())
    }

    async fn turn(&mut self, hands: &Hands) -> TurnOutcome {
        loop {
            for message in hands.take_messages() {
                hands.emit(RuntimeEvent::Consumed(message.id)).await;
            }
            let Some(play) = self.plays.get(self.played).cloned() else {
                let over = "(This agent plays a recording, and the recording is over.)".to_owned();
                hands.emit(RuntimeEvent::Text(over)).await;
                return TurnOutcome::Done;
            };
            let ends = matches!(play, Play::End { .. });
            self.play(hands, play).await;
            if hands.cancel.is_cancelled() {
                return TurnOutcome::Interrupted;
            }
            if let Err(error) = self.advance().await {
                return TurnOutcome::Failed { failure: Failure::Crash, message: error.to_string() };
            }
            if ends {
                return TurnOutcome::Done;
            }
        }
    }
}

impl ReplayBrain {
    async fn play(&self, hands: &Hands, play: Play) {
        match play {
            Play::Say { say } => hands.emit(RuntimeEvent::Text(say)).await,
            Play::Tool { tool, input } => {
                let id = format!("replay-{}-{}", self.root, self.played);
                hands.call(&id, &tool, &input).await;
            }
            Play::End { .. } | Play::Note { .. } => return,
        }
        tokio::select! {
            () = hands.cancel.cancelled() => {}
            () = tokio::time::sleep(PACE) => {}
        }
    }

    /// Notes that a line was played.
    async fn advance(&mut self) -> Result<(), StoreError> {
        let (root, line) = (self.root, format!("played line {}", self.played + 1));
        let message = LlmMessage::assistant(line);
        self.store.write(move |tx| sessions::append_message(tx, root, &message)).await?;
        self.played += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_is_read_and_a_bad_line_is_named() {
        let text = "{\"note\": \"x\"}\n\n{\"say\": \"hi\"}\n{\"tool\": \"shell\", \"input\": {}}\n{\"end\": true}";
        assert_eq!(parse(text).unwrap().len(), 4);
        assert!(parse("{\"say\": \"a\"}\n{\"sing\": 1}").unwrap_err().starts_with("line 2 "));
    }
}
