//! What a model call used, read from its answer while it passes through. Pure.
//!
//! Anthropic's messages, OpenAI's responses and chat completions; streamed or not. An answer that is
//! cut off counts with what was seen of it: its input exactly, its output by its length.

use crate::llm::Price;
use crate::model::llm::Usage;
use serde_json::Value;

/// How many letters make a token, where nobody has counted.
const LETTERS_A_TOKEN: u64 = 4;

/// The longest line or answer that is read; longer ones pass unread.
const LINE_MAX: usize = 16 * 1024 * 1024;

/// Reads an answer piece by piece.
#[derive(Debug, Default)]
pub struct Meter {
    streamed: bool,
    /// The line, or the whole answer, as far as it has come.
    pending: Vec<u8>,
    model: String,
    fresh: u64,
    cached: u64,
    written: u64,
    output: Option<u64>,
    /// Letters of the answer so far.
    letters: u64,
    seen: bool,
}

/// What a call came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Metered {
    /// Tokens.
    pub usage: Usage,
    /// Money, in millionths of a US dollar; 0 where the price is not known.
    pub microusd: i64,
    /// The model.
    pub model: String,
}

impl Meter {
    /// For an answer to a call that asked for `model`.
    pub fn new(streamed: bool, model: String) -> Self {
        Self { streamed, model, ..Self::default() }
    }

    /// Takes a piece of the answer in.
    pub fn read(&mut self, piece: &[u8]) {
        for byte in piece {
            if self.streamed && *byte == b'\n' {
                self.line();
            } else if self.pending.len() < LINE_MAX {
                self.pending.push(*byte);
            }
        }
    }

    fn line(&mut self) {
        let line = std::mem::take(&mut self.pending);
        let Some(data) = line.strip_prefix(b"data:") else { return };
        if let Ok(event) = serde_json::from_slice::<Value>(data) {
            self.event(&event);
        }
    }

    fn event(&mut self, event: &Value) {
        // Where the provider puts it: the event itself, or what it tells of.
        for holder in [Some(event), event.get("message"), event.get("response")] {
            let Some(holder) = holder else { continue };
            if let Some(model) = holder.get("model").and_then(Value::as_str) {
                model.clone_into(&mut self.model);
            }
            if let Some(usage) = holder.get("usage").filter(|usage| usage.is_object()) {
                self.usage(usage);
            }
        }
        let choices = event.get("choices").and_then(Value::as_array);
        let deltas = choices.into_iter().flatten().filter_map(|choice| choice.get("delta"));
        for delta in deltas.chain(event.get("delta")) {
            self.letters += letters(delta);
        }
    }

    fn usage(&mut self, usage: &Value) {
        self.seen = true;
        let at = |path: &str| usage.pointer(path).and_then(Value::as_u64);
        if let Some(input) = at("/input_tokens").or(at("/prompt_tokens")) {
            // OpenAI counts what was cached with the input, Anthropic beside it.
            let within = at("/input_tokens_details/cached_tokens")
                .or(at("/prompt_tokens_details/cached_tokens"));
            self.fresh = input.saturating_sub(within.unwrap_or(0));
            self.cached = within.unwrap_or(self.cached);
        }
        self.cached = at("/cache_read_input_tokens").unwrap_or(self.cached);
        self.written = at("/cache_creation_input_tokens").unwrap_or(self.written);
        self.output = at("/output_tokens").or(at("/completion_tokens")).or(self.output);
    }

    /// What the call came to; `None` when the answer says nothing of it, such as an error.
    pub fn finish(mut self) -> Option<Metered> {
        if self.streamed {
            self.line();
        } else if let Ok(answer) =
            serde_json::from_slice::<Value>(&std::mem::take(&mut self.pending))
        {
            self.event(&answer);
        }
        if !self.seen && self.letters == 0 {
            return None;
        }
        // The provider's first word on the output is no more than that it has begun.
        let output = self
            .output
            .unwrap_or(0)
            .max(self.letters.div_ceil(LETTERS_A_TOKEN) * u64::from(self.cut_off()));
        let price = Price::listed(&self.model);
        let microusd =
            price.map_or(0, |price| price.microusd(self.fresh, self.cached, self.written, output));
        let usage = Usage { input: self.fresh + self.written, cached: self.cached, output };
        Some(Metered { usage, microusd, model: self.model })
    }

    /// Whether fewer tokens were counted than letters can have come of.
    fn cut_off(&self) -> bool {
        self.output.is_none_or(|output| output * 16 < self.letters)
    }
}

/// How much text a piece of an answer holds.
fn letters(delta: &Value) -> u64 {
    match delta {
        Value::String(text) => text.chars().count() as u64,
        Value::Object(fields) => {
            let texts = [
                "text",
                "partial_json",
                "thinking",
                "content",
                "arguments",
                "tool_calls",
                "function",
            ];
            texts.iter().filter_map(|key| fields.get(*key)).map(letters).sum()
        }
        Value::Array(parts) => parts.iter().map(letters).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn streamed(events: &[Value]) -> Option<Metered> {
        let text: String =
            events.iter().map(|event| format!("event: x\ndata: {event}\n\n")).collect();
        let mut meter = Meter::new(true, "asked-for".to_owned());
        // However the network cuts it.
        for piece in text.as_bytes().chunks(7) {
            meter.read(piece);
        }
        meter.finish()
    }

    fn begin() -> Value {
        json!({"type": "message_start", "message": {"model": "claude-sonnet-4-5", "usage": {
            "input_tokens": 10, "cache_read_input_tokens": 100,
            "cache_creation_input_tokens": 5, "output_tokens": 1}}})
    }

    #[test]
    fn every_wire_is_counted() {
        let end = json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"},
                         "usage": {"output_tokens": 20}});
        let found = streamed(&[begin(), end]).unwrap();
        assert_eq!(found.usage, Usage { input: 15, cached: 100, output: 20 });
        assert_eq!(found.microusd, (15.0 * 3.0 + 100.0 * 0.3 + 20.0 * 15.0) as i64);
        let responses = json!({"type": "response.completed", "response": {
            "model": "gpt-5", "usage": {"input_tokens": 30, "output_tokens": 4,
            "input_tokens_details": {"cached_tokens": 10}}}});
        let found = streamed(&[responses]).unwrap();
        assert_eq!(found.usage, Usage { input: 20, cached: 10, output: 4 });
        assert_eq!((found.model.as_str(), found.microusd > 0), ("gpt-5", true));
        let chat = json!({"model": "gpt-4o", "choices": [],
            "usage": {"prompt_tokens": 8, "completion_tokens": 2}});
        let mut meter = Meter::new(false, String::new());
        meter.read(chat.to_string().as_bytes());
        assert_eq!(meter.finish().unwrap().usage, Usage { input: 8, cached: 0, output: 2 });
    }

    #[test]
    fn an_answer_that_is_cut_off_counts_with_what_came() {
        let delta = json!({"type": "content_block_delta", "delta": {"text": "a".repeat(400)}});
        let found = streamed(&[begin(), delta]).unwrap();
        assert_eq!(found.usage, Usage { input: 15, cached: 100, output: 100 });
    }

    #[test]
    fn an_error_costs_nothing() {
        let mut meter = Meter::new(false, "m".to_owned());
        meter.read(br#"{"type":"error","error":{"type":"overloaded_error"}}"#);
        assert_eq!(meter.finish(), None);
        assert_eq!(Meter::new(true, "m".to_owned()).finish(), None);
    }
}
