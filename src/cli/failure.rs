//! How a call fails: exit code, message, and what to do.

use serde::{Deserialize, Serialize};

/// Why a call failed, as scripts branch on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Something went wrong: exit 1.
    Failed,
    /// Wrong use or configuration: exit 2.
    Usage,
    /// What was named is not there: exit 3.
    NotFound,
    /// Not allowed, impossible in this state, or a conflict: exit 4.
    Refused,
}

impl Code {
    /// The exit code.
    pub fn exit(self) -> u8 {
        match self {
            Code::Failed => 1,
            Code::Usage => 2,
            Code::NotFound => 3,
            Code::Refused => 4,
        }
    }
}

/// A failed call; `Display` is for a person, the fields are what `--json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}{}", if hint.is_empty() { String::new() } else { format!("\n  {hint}") })]
pub struct Failure {
    /// For scripts.
    pub code: Code,
    /// What happened and why.
    pub message: String,
    /// What to do; empty when the message says it.
    pub hint: String,
}

impl Failure {
    /// A failure whose message says what to do.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: String::new() }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl From<crate::config::ConfigErrors> for Failure {
    fn from(errors: crate::config::ConfigErrors) -> Self {
        Failure::new(Code::Usage, errors.to_string())
    }
}

impl From<crate::store::StoreError> for Failure {
    fn from(error: crate::store::StoreError) -> Self {
        Failure::new(Code::Failed, error.to_string())
    }
}

impl From<crate::store::OpenError> for Failure {
    fn from(error: crate::store::OpenError) -> Self {
        use crate::store::{LockError, OpenError};
        let code = match &error {
            OpenError::Lock(LockError::Held { .. }) | OpenError::Newer { .. } => Code::Refused,
            OpenError::Lock(LockError::Io(_))
            | OpenError::Directory { .. }
            | OpenError::Database { .. } => Code::Failed,
        };
        Failure::new(code, error.to_string())
    }
}

impl From<crate::mail::MailError> for Failure {
    fn from(error: crate::mail::MailError) -> Self {
        use crate::mail::MailError;
        let code = match &error {
            MailError::UnknownRecipient { .. }
            | MailError::UnknownItem(_)
            | MailError::NotFound(_) => Code::NotFound,
            MailError::EmptyGroup(_) | MailError::NoRoom(_) => Code::Refused,
            MailError::Payload { .. } | MailError::TooLong { .. } | MailError::Invalid(_) => {
                Code::Usage
            }
            MailError::Store(_) => Code::Failed,
        };
        Failure::new(code, error.to_string())
    }
}

impl From<crate::work::WorkError> for Failure {
    fn from(error: crate::work::WorkError) -> Self {
        use crate::work::WorkError;
        let code = match &error {
            WorkError::NotFound(_) => Code::NotFound,
            WorkError::Illegal(..) | WorkError::Conflict { .. } | WorkError::Refused(_) => {
                Code::Refused
            }
            WorkError::Invalid(_) => Code::Usage,
            WorkError::Store(_) => Code::Failed,
        };
        Failure::new(code, error.to_string())
    }
}
