//! Mail: how agents, the coordinator and people hand work and results to each other.

use crate::model::ids::{ItemId, MailId};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// What sort of mail it is. The protocol types carry a typed payload, validated on send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MailType {
    /// Conversation: how things stand.
    Status,
    /// Conversation: wants an answer.
    Question,
    /// Conversation: what came out.
    Result,
    /// Conversation: something failed.
    Error,
    /// Protocol: a lead hands an item to the pool.
    Dispatch,
    /// Protocol: an item is given to an agent.
    Assign,
    /// Protocol: a worker reports its item done.
    WorkerDone,
    /// Protocol: a worker ended without a report.
    WorkerDied,
    /// Protocol: QA's verdict.
    QaPassed,
    /// Protocol: QA's verdict, with findings.
    QaFailed,
    /// Protocol: a branch may be merged.
    MergeReady,
    /// Protocol: a branch was merged.
    Merged,
    /// Protocol: a merge failed.
    MergeFailed,
    /// Protocol: somebody must look.
    Escalation,
    /// Protocol: are you there.
    HealthCheck,
    /// Protocol: a decision is due.
    DecisionGate,
    /// Protocol: held by a rate limit.
    RateLimited,
}

impl MailType {
    /// Every type.
    pub const ALL: [MailType; 17] = [
        MailType::Status,
        MailType::Question,
        MailType::Result,
        MailType::Error,
        MailType::Dispatch,
        MailType::Assign,
        MailType::WorkerDone,
        MailType::WorkerDied,
        MailType::QaPassed,
        MailType::QaFailed,
        MailType::MergeReady,
        MailType::Merged,
        MailType::MergeFailed,
        MailType::Escalation,
        MailType::HealthCheck,
        MailType::DecisionGate,
        MailType::RateLimited,
    ];

    /// The name as stored, typed and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            MailType::Status => "status",
            MailType::Question => "question",
            MailType::Result => "result",
            MailType::Error => "error",
            MailType::Dispatch => "dispatch",
            MailType::Assign => "assign",
            MailType::WorkerDone => "worker_done",
            MailType::WorkerDied => "worker_died",
            MailType::QaPassed => "qa_passed",
            MailType::QaFailed => "qa_failed",
            MailType::MergeReady => "merge_ready",
            MailType::Merged => "merged",
            MailType::MergeFailed => "merge_failed",
            MailType::Escalation => "escalation",
            MailType::HealthCheck => "health_check",
            MailType::DecisionGate => "decision_gate",
            MailType::RateLimited => "rate_limited",
        }
    }

    /// Reads a type as typed; `None` when it is none.
    pub fn parse(text: &str) -> Option<MailType> {
        MailType::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// How urgent mail is; urgent mail interrupts a running turn at its next step.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Default,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// When there is nothing else.
    Low,
    /// The usual.
    #[default]
    Normal,
    /// Before the usual.
    High,
    /// At the next step of a running turn.
    Urgent,
}

impl Priority {
    /// Every priority, lowest first.
    pub const ALL: [Priority; 4] =
        [Priority::Low, Priority::Normal, Priority::High, Priority::Urgent];

    /// The name as stored, typed and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Priority::Low => "low",
            Priority::Normal => "normal",
            Priority::High => "high",
            Priority::Urgent => "urgent",
        }
    }

    /// Reads a priority as typed; `None` when it is none.
    pub fn parse(text: &str) -> Option<Priority> {
        Priority::ALL.into_iter().find(|priority| priority.as_str() == text)
    }
}

/// A message as stored and as printed by `musher mail … --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mail {
    /// Its number.
    pub id: MailId,
    /// The first message of its thread.
    pub thread_id: MailId,
    /// Who sent it: an agent, a person, `coordinator` or `musher`.
    pub from: String,
    /// Whom it is for.
    pub to: String,
    /// One line.
    pub subject: String,
    /// Markdown, at most 256 KiB.
    pub body: String,
    /// What sort.
    #[serde(rename = "type")]
    pub kind: MailType,
    /// How urgent.
    pub priority: Priority,
    /// The typed payload of a protocol type.
    pub payload: Option<serde_json::Value>,
    /// The item it is about.
    pub item: Option<ItemId>,
    /// When it was committed.
    pub created_at: DateTime<Utc>,
    /// When a turn claimed it.
    pub delivered_at: Option<DateTime<Utc>>,
    /// When its recipient took it in.
    pub read_at: Option<DateTime<Utc>>,
}
