//! What can go wrong with a model, each with what to do about it.

use std::time::Duration;

/// Why a model did not answer. Each message is a sentence with the remedy, fit for a room.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LlmError {
    /// The configuration cannot work.
    #[error("{0}")]
    Setup(String),
    /// 401 or 403.
    #[error(
        "the model API refused the key ({detail}): check the key that [llm] api_key_env or \
         api_key_file names, then restart"
    )]
    Unauthorised {
        /// What the API said.
        detail: String,
    },
    /// No credit or quota is left.
    #[error("the model account has no credit left ({detail}): add credit, then say `retry`")]
    NoCredit {
        /// What the API said.
        detail: String,
    },
    /// 429.
    #[error("the model API limits the rate of requests{}: say `retry` later", again(*retry_after))]
    RateLimited {
        /// How long it asks to wait.
        retry_after: Option<Duration>,
    },
    /// 5xx, 529, or an overload told in the stream.
    #[error("the model API is overloaded or failing ({detail}): say `retry` in a while")]
    Overloaded {
        /// What the API said.
        detail: String,
        /// How long it asks to wait.
        retry_after: Option<Duration>,
    },
    /// No connection, or one that broke or went silent.
    #[error(
        "the model API cannot be reached ({detail}): check the network and say `retry`, or put [llm] \
         base_url right and restart"
    )]
    Unreachable {
        /// What failed.
        detail: String,
    },
    /// The answer broke off before its end.
    #[error("the model's answer broke off ({detail}): say `retry`")]
    BrokenOff {
        /// What is known.
        detail: String,
    },
    /// 404: the model or the address is not known there.
    #[error(
        "the model API knows no such model or address ({detail}): put [llm] model and base_url right, \
         and restart"
    )]
    NotFound {
        /// What the API said.
        detail: String,
    },
    /// 400 and its kin.
    #[error("the model API refused the request ({detail}): `reset` begins a new conversation")]
    BadRequest {
        /// What the API said.
        detail: String,
    },
    /// The conversation does not fit into the model any more.
    #[error(
        "the conversation has outgrown the model ({detail}): `reset` begins a new one, and items, \
         agents and timers stay"
    )]
    ContextFull {
        /// What the API said.
        detail: String,
    },
    /// The caller ended the call.
    #[error("the model call was cancelled")]
    Cancelled,
    /// The recording cannot be read or does not go on.
    #[error("the recorded conversation does not fit: {0}")]
    Replay(String),
}

fn again(retry_after: Option<Duration>) -> String {
    match retry_after {
        Some(wait) => format!(", for another {} s", wait.as_secs().max(1)),
        None => String::new(),
    }
}

impl LlmError {
    /// Whether the same request may succeed a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            LlmError::RateLimited { .. }
            | LlmError::Overloaded { .. }
            | LlmError::Unreachable { .. }
            | LlmError::BrokenOff { .. } => true,
            LlmError::Setup(_)
            | LlmError::Unauthorised { .. }
            | LlmError::NoCredit { .. }
            | LlmError::NotFound { .. }
            | LlmError::BadRequest { .. }
            | LlmError::ContextFull { .. }
            | LlmError::Cancelled
            | LlmError::Replay(_) => false,
        }
    }

    /// How long the server asked to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            LlmError::RateLimited { retry_after } | LlmError::Overloaded { retry_after, .. } => {
                *retry_after
            }
            LlmError::Setup(_)
            | LlmError::Unauthorised { .. }
            | LlmError::NoCredit { .. }
            | LlmError::Unreachable { .. }
            | LlmError::BrokenOff { .. }
            | LlmError::NotFound { .. }
            | LlmError::BadRequest { .. }
            | LlmError::ContextFull { .. }
            | LlmError::Cancelled
            | LlmError::Replay(_) => None,
        }
    }
}
