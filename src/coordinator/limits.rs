//! What ends a turn before its answer: limits, and calls that go in circles.

use crate::config::LlmConfig;
use crate::model::llm::{LlmMessage, Part, Usage};
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

/// How often the same call may give the same result in one turn.
pub const SAME_CALL_MAX: usize = 3;

/// A limit that was reached.
#[derive(Debug, Clone, PartialEq)]
pub enum Limit {
    /// Model calls in the turn.
    Steps(u32),
    /// The turn's time.
    Time(Duration),
    /// The turn's tokens.
    Tokens(u64),
    /// The turn's money, in US dollars.
    Money(f64),
    /// The same call with the same result.
    Circle {
        /// The tool that was called.
        tool: String,
    },
    /// A limit of the day, in words.
    Day(String),
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Steps(most) => {
                write!(f, "this turn took {most} steps ([llm] max_steps); `retry` goes on")
            }
            Limit::Time(most) => {
                let seconds = most.as_secs();
                write!(f, "this turn took {seconds} s ([llm] max_turn_seconds); `retry` goes on")
            }
            Limit::Tokens(most) => {
                write!(f, "this turn used {most} tokens ([llm] max_turn_tokens); `retry` goes on")
            }
            Limit::Money(most) => {
                write!(f, "this turn cost {most:.2} USD ([llm] max_turn_usd); `retry` goes on")
            }
            Limit::Circle { tool } => write!(
                f,
                "{tool} was called {SAME_CALL_MAX} times with the same result; say differently \
                 what you want, or `reset`"
            ),
            Limit::Day(what) => write!(f, "{what}; `retry` then"),
        }
    }
}

/// The limit that a turn has reached before its next model call, if any.
pub fn of_turn(config: &LlmConfig, steps: u32, usage: Usage, microusd: i64) -> Option<Limit> {
    if steps >= config.max_steps {
        return Some(Limit::Steps(config.max_steps));
    }
    if usage.input + usage.cached + usage.output >= config.max_turn_tokens {
        return Some(Limit::Tokens(config.max_turn_tokens));
    }
    (microusd as f64 >= config.max_turn_usd * 1e6 && microusd > 0)
        .then_some(Limit::Money(config.max_turn_usd))
}

/// The tool that a turn calls in circles, if any.
pub fn circle(messages: &[LlmMessage]) -> Option<Limit> {
    let mut calls: HashMap<&str, (&str, String)> = HashMap::new();
    let mut seen: HashMap<(&str, String, &str), usize> = HashMap::new();
    for part in messages.iter().flat_map(|message| &message.parts) {
        match part {
            Part::ToolCall { id, name, arguments } => {
                calls.insert(id, (name, arguments.to_string()));
            }
            Part::ToolResult { id, text, .. } => {
                let Some((name, arguments)) = calls.remove(id.as_str()) else { continue };
                let count = seen.entry((name, arguments, text)).or_default();
                *count += 1;
                if *count >= SAME_CALL_MAX {
                    return Some(Limit::Circle { tool: name.to_owned() });
                }
            }
            Part::Text { .. } | Part::Thinking { .. } => {}
        }
    }
    None
}
