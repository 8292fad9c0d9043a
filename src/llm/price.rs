//! What models cost: list prices, unless the configuration says otherwise.

use crate::config::{LlmConfig, Provider};

/// A model's price in US dollars per million tokens (= millionths of a dollar per token).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Price {
    /// Input that was not in the cache.
    pub input: f64,
    /// Input that was read from the cache.
    pub cached: f64,
    /// Input that was written to the cache.
    pub cache_write: f64,
    /// Output.
    pub output: f64,
}

impl Price {
    /// Costs nothing: a local model, or a recording.
    pub const FREE: Price = Price { input: 0.0, cached: 0.0, cache_write: 0.0, output: 0.0 };

    /// The list price of a model; `None` when it is not known.
    pub fn listed(model: &str) -> Option<Self> {
        let &(_, input, cached, output) = entry(model)?;
        Some(Self { input, cached, cache_write: input, output })
    }

    /// What a call cost, in millionths of a US dollar, rounded up: a limit is never overrun by
    /// rounding.
    pub fn microusd(&self, fresh: u64, cached: u64, cache_write: u64, output: u64) -> i64 {
        let sum = fresh as f64 * self.input
            + cached as f64 * self.cached
            + cache_write as f64 * self.cache_write
            + output as f64 * self.output;
        // Beyond any bill; the cast saturates.
        sum.ceil() as i64
    }
}

/// List prices by the beginning of the model's name, as published by the providers in late 2025:
/// (name, input, cached input, output). The longest match counts. They change: the configuration
/// overrides them (`usd_per_million_input`, `usd_per_million_output`).
const LIST: &[(&str, f64, f64, f64)] = &[
    ("claude-opus-4-5", 5.0, 0.5, 25.0),
    ("claude-opus-4", 15.0, 1.5, 75.0),
    ("claude-sonnet-4", 3.0, 0.3, 15.0),
    ("claude-haiku-4", 1.0, 0.1, 5.0),
    ("claude-3-7-sonnet", 3.0, 0.3, 15.0),
    ("claude-3-5-sonnet", 3.0, 0.3, 15.0),
    ("claude-3-5-haiku", 0.8, 0.08, 4.0),
    ("claude-3-haiku", 0.25, 0.03, 1.25),
    ("gpt-5", 1.25, 0.125, 10.0),
    ("gpt-5-mini", 0.25, 0.025, 2.0),
    ("gpt-5-nano", 0.05, 0.005, 0.4),
    ("gpt-5-pro", 15.0, 15.0, 120.0),
    ("gpt-4.1", 2.0, 0.5, 8.0),
    ("gpt-4.1-mini", 0.4, 0.1, 1.6),
    ("gpt-4.1-nano", 0.1, 0.025, 0.4),
    ("gpt-4o", 2.5, 1.25, 10.0),
    ("gpt-4o-mini", 0.15, 0.075, 0.6),
    ("o3", 2.0, 0.5, 8.0),
    ("o4-mini", 1.1, 0.275, 4.4),
    ("gemini-2.5-pro", 1.25, 0.125, 10.0),
    ("gemini-2.5-flash", 0.3, 0.03, 2.5),
    ("gemini-2.5-flash-lite", 0.1, 0.01, 0.4),
];

fn entry(model: &str) -> Option<&'static (&'static str, f64, f64, f64)> {
    let named = LIST.iter().filter(|(name, ..)| model.starts_with(name));
    named.max_by_key(|(name, ..)| name.len())
}

/// The price of `model`; `None` when it is not known.
pub fn of(config: &LlmConfig, model: &str) -> Option<Price> {
    let listed = entry(model);
    if let (Some(input), Some(output)) =
        (config.usd_per_million_input, config.usd_per_million_output)
    {
        // The discount for cached input follows the list, or is not counted on.
        let discount = listed.map_or(1.0, |(_, full, cached, _)| cached / full);
        return Some(Price {
            input,
            cached: input * discount,
            cache_write: input * write_surcharge(config.provider),
            output,
        });
    }
    if config.provider == Provider::Ollama {
        return Some(Price::FREE);
    }
    listed.map(|&(_, input, cached, output)| Price {
        input,
        cached,
        cache_write: input * write_surcharge(config.provider),
        output,
    })
}

/// Anthropic charges a quarter more for what it writes to its cache.
fn write_surcharge(provider: Provider) -> f64 {
    match provider {
        Provider::Anthropic => 1.25,
        Provider::Openai
        | Provider::Gemini
        | Provider::Ollama
        | Provider::ClaudeCode
        | Provider::Replay => 1.0,
    }
}
