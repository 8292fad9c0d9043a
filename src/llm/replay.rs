//! A recorded conversation in place of a model: for demos, rehearsals and tests.
//!
//! A recording is a JSON object, or one exchange a line:
//!
//! ```json
//! {"exchanges": [
//!   {"when": ["fix", "tests fail"],
//!    "steps": [
//!      {"text": "I file it.", "calls": [{"name": "item_create", "arguments": {"kind": "bug", "name": "x"}}]},
//!      {"calls": [{"name": "item_start", "arguments": {"item": "{{item}}"}}]},
//!      {"text": "Item #{{item}} is on its way."}]},
//!   {"steps": [{"text": "I only know the recording."}]}
//! ]}
//! ```
//!
//! Nothing is remembered between calls: the exchange is chosen by the message that the turn
//! answers (the first whose `when` stands in its text, in any case; one without `when` fits
//! always), and the step by how many answers stand after that message. So a crash, a second room
//! and asking again all work. In texts and arguments `{{item}}` is the number that follows the
//! last `#` in a tool's result, and `{{result}}` the last result.

use super::{Delta, LlmError, Model, Reply, Request, Stop};
use crate::model::llm::{LlmMessage, Part, Speaker, Usage};
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// Stands under each recorded answer, so that nobody takes it for a model's.
pub const LABEL: &str = "_Recorded answer: no model was asked._";

/// The longest time between two words.
const PACE_MAX: Duration = Duration::from_millis(200);

/// A recorded conversation.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    /// What the recording shows, for who reads the file.
    #[serde(default)]
    pub about: String,
    /// Milliseconds between two words of an answer, as if it were thought up.
    #[serde(default)]
    pub pace_ms: u64,
    /// The exchanges, tried in order.
    pub exchanges: Vec<Exchange>,
}

/// What is answered to one message.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// Any of these must stand in the message; none: fits always.
    #[serde(default)]
    pub when: Vec<String>,
    /// The answers, one a model call.
    pub steps: Vec<Step>,
}

/// One answer.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What is said.
    #[serde(default)]
    pub text: String,
    /// Which tools are called.
    #[serde(default)]
    pub calls: Vec<Call>,
}

/// A call of a tool.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// The tool.
    pub name: String,
    /// Its arguments, an object.
    #[serde(default = "no_arguments")]
    pub arguments: Value,
}

fn no_arguments() -> Value {
    Value::Object(serde_json::Map::new())
}

impl Recording {
    /// Reads a recording.
    pub fn load(path: &Path) -> Result<Self, LlmError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            LlmError::Replay(format!("cannot read {}: {error}", path.display()))
        })?;
        Self::parse(&text).map_err(|error| LlmError::Replay(format!("{}: {error}", path.display())))
    }

    /// Reads a recording from its text: one object, or one exchange a line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let whole = serde_json::from_str::<Recording>(text);
        let recording = match whole {
            Ok(recording) => recording,
            Err(error) => {
                let lines = text.lines().filter(|line| !line.trim().is_empty());
                let exchanges: Result<Vec<Exchange>, _> = lines.map(serde_json::from_str).collect();
                let exchanges = exchanges.map_err(|_| error.to_string())?;
                Recording { about: String::new(), pace_ms: 0, exchanges }
            }
        };
        match recording.exchanges.iter().position(|exchange| exchange.steps.is_empty()) {
            Some(number) => Err(format!("exchange {} has no steps", number + 1)),
            None if recording.exchanges.is_empty() => Err("there is no exchange".to_owned()),
            None => Ok(recording),
        }
    }

    fn step(&self, messages: &[LlmMessage]) -> Result<&Step, LlmError> {
        let is_question = |message: &LlmMessage| {
            message.speaker == Speaker::User
                && !message.parts.iter().any(|part| matches!(part, Part::ToolResult { .. }))
        };
        let asked = messages
            .iter()
            .rposition(is_question)
            .ok_or_else(|| LlmError::Replay("nobody has asked anything".to_owned()))?;
        // The last part is what was said; notes stand before it.
        let text = messages[asked].parts.iter().rev().find_map(|part| match part {
            Part::Text { text } => Some(text.to_lowercase()),
            Part::ToolCall { .. } | Part::ToolResult { .. } | Part::Thinking { .. } => None,
        });
        let text = text.unwrap_or_default();
        let fits = |exchange: &&Exchange| {
            exchange.when.is_empty()
                || exchange.when.iter().any(|when| text.contains(&when.to_lowercase()))
        };
        let exchange = self.exchanges.iter().find(fits).ok_or_else(|| {
            LlmError::Replay("it has no answer to this; commands such as `status` work".to_owned())
        })?;
        let answered = messages[asked..]
            .iter()
            .filter(|message| message.speaker == Speaker::Assistant)
            .count();
        exchange
            .steps
            .get(answered)
            .ok_or_else(|| LlmError::Replay("its steps are used up".to_owned()))
    }
}

#[async_trait]
impl Model for Recording {
    async fn attempt(
        &self,
        request: &Request<'_>,
        on: &mut (dyn FnMut(Delta) + Send),
    ) -> Result<Reply, LlmError> {
        let step = self.step(request.messages)?;
        let known = Known::of(request.messages);
        let mut text = known.fill(&step.text);
        if step.calls.is_empty() {
            text = format!("{text}\n\n{LABEL}");
        }
        let pace = Duration::from_millis(self.pace_ms).min(PACE_MAX);
        for word in text.split_inclusive(' ') {
            if !pace.is_zero() {
                tokio::time::sleep(pace).await;
            }
            on(Delta::Text(word.to_owned()));
        }
        let mut parts = Vec::new();
        if !text.is_empty() {
            parts.push(Part::Text { text });
        }
        for call in &step.calls {
            on(Delta::ToolCall { name: call.name.clone() });
            parts.push(Part::ToolCall {
                id: String::new(),
                name: call.name.clone(),
                arguments: known.fill_value(&call.arguments),
            });
        }
        let stop = if step.calls.is_empty() { Stop::End } else { Stop::ToolCalls };
        Ok(Reply {
            message: LlmMessage { speaker: Speaker::Assistant, parts },
            stop,
            usage: Usage::default(),
            cost_microusd: 0,
        })
    }
}

/// What placeholders stand for.
struct Known {
    item: Option<i64>,
    result: String,
}

impl Known {
    fn of(messages: &[LlmMessage]) -> Self {
        let mut known = Self { item: None, result: String::new() };
        for part in messages.iter().flat_map(|message| &message.parts) {
            if let Part::ToolResult { text, .. } = part {
                known.item = last_number(text).or(known.item);
                known.result.clone_from(text);
            }
        }
        known
    }

    fn fill(&self, text: &str) -> String {
        let item = self.item.map_or_else(|| "?".to_owned(), |item| item.to_string());
        text.replace("{{item}}", &item).replace("{{result}}", &self.result)
    }

    /// As [`Known::fill`], in every string; one that is nothing but `{{item}}` becomes a number.
    fn fill_value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => match self.item {
                Some(item) if text == "{{item}}" => Value::from(item),
                Some(_) | None => Value::from(self.fill(text)),
            },
            Value::Array(values) => values.iter().map(|value| self.fill_value(value)).collect(),
            Value::Object(map) => Value::Object(
                map.iter().map(|(key, value)| (key.clone(), self.fill_value(value))).collect(),
            ),
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }
}

/// The number after the last `#` that is followed by one.
fn last_number(text: &str) -> Option<i64> {
    text.split('#')
        .skip(1)
        .filter_map(|rest| {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().ok()
        })
        .last()
}
