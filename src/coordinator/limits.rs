//! What ends a turn before its answer: limits, and calls that go in circles.

use crate::config::{LimitsConfig, LlmConfig};
use crate::model::llm::{LlmMessage, Part, Usage};
use crate::store::costs::Spent;
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
    /// The day's money, in US dollars.
    DayMoney(f64),
    /// The day's tokens.
    DayTokens(u64),
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
            Limit::DayMoney(most) => write!(
                f,
                "today's {most:.2} USD are spent ([limits] usd_per_day); `retry` after midnight UTC"
            ),
            Limit::DayTokens(most) => write!(
                f,
                "today's {most} tokens are spent ([limits] tokens_per_day); `retry` after \
                 midnight UTC"
            ),
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

/// Where the day's budget stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Day {
    /// Enough is left.
    Fine,
    /// Little is left: the sum, the limit, and the share that is spent.
    Low {
        /// `usd` or `tokens`.
        what: &'static str,
        /// What was spent, in words.
        spent: String,
        /// The limit, in words.
        limit: String,
        /// Between 0 and 1.
        share: f64,
    },
    /// Nothing is left.
    Over(Limit),
}

/// Where the day's budget stands after `spent`.
pub fn of_day(config: &LimitsConfig, spent: &Spent) -> Day {
    let usd = spent.microusd as f64 / 1e6;
    let tokens = spent.tokens();
    let mut day = Day::Fine;
    if let Some(most) = config.usd_per_day {
        if usd >= most {
            return Day::Over(Limit::DayMoney(most));
        }
        if usd >= most * config.warn_at {
            let (spent, limit) = (format!("{usd:.2} USD"), format!("{most:.2} USD"));
            day = Day::Low { what: "usd", spent, limit, share: usd / most };
        }
    }
    if let Some(most) = config.tokens_per_day {
        if tokens >= most {
            return Day::Over(Limit::DayTokens(most));
        }
        if tokens as f64 >= most as f64 * config.warn_at {
            let (spent, limit) = (format!("{tokens} tokens"), format!("{most} tokens"));
            day = Day::Low { what: "tokens", spent, limit, share: tokens as f64 / most as f64 };
        }
    }
    day
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_fine_then_low_then_over() {
        let config = LimitsConfig {
            usd_per_day: Some(10.0),
            tokens_per_day: Some(100),
            ..LimitsConfig::default()
        };
        let spent = |usd: f64, output| Spent {
            usage: Usage { output, ..Usage::default() },
            microusd: (usd * 1e6) as i64,
        };
        assert_eq!(of_day(&config, &spent(7.9, 79)), Day::Fine);
        assert!(matches!(of_day(&config, &spent(8.0, 0)), Day::Low { what: "usd", .. }));
        assert!(matches!(of_day(&config, &spent(0.0, 80)), Day::Low { what: "tokens", .. }));
        assert_eq!(of_day(&config, &spent(10.0, 0)), Day::Over(Limit::DayMoney(10.0)));
        assert_eq!(of_day(&config, &spent(8.0, 100)), Day::Over(Limit::DayTokens(100)));
        assert_eq!(of_day(&LimitsConfig::default(), &spent(1e6, u64::MAX / 2)), Day::Fine);
    }
}
