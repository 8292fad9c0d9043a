//! What the payload of each protocol type must hold.
//!
//! An item number may stand in the payload or on the message itself; when it stands in both, they
//! must agree. Keys that a type does not know are refused: they would be lost on the reader.

use crate::model::ids::ItemId;
use crate::model::mail::MailType;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Payloads by type; the message's type stands in no payload.
macro_rules! payload {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $(+ $default:ident)? $field:ident: $ty:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// The item; may stand on the message instead.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub item: Option<ItemId>,
            $($(#[$field_doc])* $(#[serde($default)])? pub $field: $ty,)*
        }
    };
}

payload! {
    /// `dispatch`: a lead hands an item to the pool.
    Dispatch {
        /// The role that should take it.
        + default role: Option<String>,
        /// What to do, beyond the item's own text.
        + default instructions: Option<String>,
    }
}
payload! {
    /// `assign`: an item is given to an agent.
    Assign {
        /// The agent.
        agent: String,
    }
}
payload! {
    /// `worker_done`: a worker reports its item done.
    WorkerDone {
        /// What it did.
        + default summary: Option<String>,
        /// The last commit of its work.
        + default commit: Option<String>,
    }
}
payload! {
    /// `worker_died`: a worker ended without a report.
    WorkerDied {
        /// The agent.
        agent: String,
        /// Its role.
        + default role: Option<String>,
        /// Why, in words.
        reason: String,
        /// When it last did something.
        + default last_activity: Option<DateTime<Utc>>,
        /// Who saw it: `runner` or `watchdog`.
        + default seen_by: Option<String>,
    }
}
payload! {
    /// `qa_passed`: QA's verdict.
    QaPassed {
        /// What was checked.
        + default summary: Option<String>,
    }
}
payload! {
    /// `qa_failed`: QA's verdict, with findings.
    QaFailed {
        /// What is wrong; at least one.
        findings: Vec<String>,
    }
}
payload! {
    /// `merge_ready`: a branch may be merged.
    MergeReady {
        /// The commit that passed its gates.
        commit: String,
        /// The branch.
        + default branch: Option<String>,
    }
}
payload! {
    /// `merged`: a branch was merged.
    Merged {
        /// The commit on the base branch.
        commit: String,
    }
}
payload! {
    /// `merge_failed`: a merge failed.
    MergeFailed {
        /// What failed, such as `conflict`.
        kind: String,
        /// The last lines of output.
        + default output: Option<String>,
    }
}
payload! {
    /// `escalation`: somebody must look.
    Escalation {
        /// At what.
        reason: String,
    }
}
payload! {
    /// `health_check`: are you there.
    HealthCheck {}
}
payload! {
    /// `decision_gate`: a decision is due.
    DecisionGate {
        /// What is to be decided.
        question: String,
        /// The answers to choose from; empty: free text.
        + default options: Vec<String>,
    }
}
payload! {
    /// `rate_limited`: held by a rate limit.
    RateLimited {
        /// When it resumes.
        until: DateTime<Utc>,
        /// The agent.
        + default agent: Option<String>,
    }
}

/// What payload a type wants, for refusals and tool descriptions.
pub fn shape(kind: MailType) -> &'static str {
    match kind {
        MailType::Status | MailType::Question | MailType::Result | MailType::Error => {
            "any JSON object, or none"
        }
        MailType::Dispatch => r#"{"item", "role"?, "instructions"?}"#,
        MailType::Assign => r#"{"item", "agent"}"#,
        MailType::WorkerDone => r#"{"item", "summary"?, "commit"?}"#,
        MailType::WorkerDied => {
            r#"{"item", "agent", "reason", "role"?, "last_activity"?, "seen_by"?}"#
        }
        MailType::QaPassed => r#"{"item", "summary"?}"#,
        MailType::QaFailed => r#"{"item", "findings": ["…"]}"#,
        MailType::MergeReady => r#"{"item", "commit", "branch"?}"#,
        MailType::Merged => r#"{"item", "commit"}"#,
        MailType::MergeFailed => r#"{"item", "kind", "output"?}"#,
        MailType::Escalation => r#"{"reason", "item"?}"#,
        MailType::HealthCheck => "{}",
        MailType::DecisionGate => r#"{"question", "options"?, "item"?}"#,
        MailType::RateLimited => r#"{"until": "2026-01-31T09:00:00Z", "agent"?, "item"?}"#,
    }
}

/// Whether mail of a type is about an item in every case.
fn needs_item(kind: MailType) -> bool {
    match kind {
        MailType::Dispatch
        | MailType::Assign
        | MailType::WorkerDone
        | MailType::WorkerDied
        | MailType::QaPassed
        | MailType::QaFailed
        | MailType::MergeReady
        | MailType::Merged
        | MailType::MergeFailed => true,
        MailType::Status
        | MailType::Question
        | MailType::Result
        | MailType::Error
        | MailType::Escalation
        | MailType::HealthCheck
        | MailType::DecisionGate
        | MailType::RateLimited => false,
    }
}

/// Checks a payload against its type and returns the item that the message is about.
///
/// A protocol type without a payload counts as one with an empty object.
pub fn check(
    kind: MailType,
    payload: Option<&Value>,
    item: Option<ItemId>,
) -> Result<Option<ItemId>, String> {
    let empty = Value::Object(serde_json::Map::new());
    let value = payload.unwrap_or(&empty);
    if !value.is_object() {
        return Err("it must be a JSON object".to_owned());
    }
    let inside = match kind {
        MailType::Status | MailType::Question | MailType::Result | MailType::Error => None,
        MailType::Dispatch => read::<Dispatch>(value)?.item,
        MailType::Assign => read::<Assign>(value)?.item,
        MailType::WorkerDone => read::<WorkerDone>(value)?.item,
        MailType::WorkerDied => read::<WorkerDied>(value)?.item,
        MailType::QaPassed => read::<QaPassed>(value)?.item,
        MailType::QaFailed => qa_failed(value)?,
        MailType::MergeReady => read::<MergeReady>(value)?.item,
        MailType::Merged => read::<Merged>(value)?.item,
        MailType::MergeFailed => read::<MergeFailed>(value)?.item,
        MailType::Escalation => read::<Escalation>(value)?.item,
        MailType::HealthCheck => read::<HealthCheck>(value)?.item,
        MailType::DecisionGate => read::<DecisionGate>(value)?.item,
        MailType::RateLimited => read::<RateLimited>(value)?.item,
    };
    match (item, inside) {
        (Some(outside), Some(inside)) if outside != inside => {
            Err(format!("it names item {inside}, but the message is about item {outside}"))
        }
        (None, None) if needs_item(kind) => {
            Err("it names no item, and neither does the message".to_owned())
        }
        (outside, inside) => Ok(outside.or(inside)),
    }
}

fn qa_failed(value: &Value) -> Result<Option<ItemId>, String> {
    let payload = read::<QaFailed>(value)?;
    if payload.findings.iter().all(|finding| finding.trim().is_empty()) {
        return Err("`findings` must hold at least one finding".to_owned());
    }
    Ok(payload.item)
}

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T, String> {
    T::deserialize(value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_payload_fits_its_type_or_is_refused_with_the_reason() {
        let item = Some(ItemId(7));
        for (kind, payload, about, expected) in [
            (MailType::Status, None, None, Ok(None)),
            (MailType::Status, Some(json!({"anything": 1})), item, Ok(item)),
            (MailType::Status, Some(json!([1])), item, Err("JSON object")),
            (MailType::WorkerDone, None, item, Ok(item)),
            (MailType::WorkerDone, Some(json!({"item": 7})), None, Ok(item)),
            (MailType::WorkerDone, None, None, Err("names no item")),
            (MailType::WorkerDone, Some(json!({"item": 8})), item, Err("names item 8")),
            (MailType::WorkerDone, Some(json!({"sumary": "x"})), item, Err("sumary")),
            (MailType::MergeReady, Some(json!({"item": 7})), None, Err("commit")),
            (MailType::QaFailed, Some(json!({"findings": [" "]})), item, Err("at least one")),
            (MailType::QaFailed, Some(json!({"findings": ["it crashes"]})), item, Ok(item)),
            (MailType::Escalation, Some(json!({"reason": "stuck"})), None, Ok(None)),
            (MailType::RateLimited, Some(json!({"until": "soon"})), None, Err("invalid")),
        ] {
            match (check(kind, payload.as_ref(), about), expected) {
                (Ok(got), Ok(wanted)) => assert_eq!(got, wanted, "{kind:?} {payload:?}"),
                (Err(got), Err(wanted)) => assert!(got.contains(wanted), "{kind:?}: {got}"),
                (got, wanted) => panic!("{kind:?} {payload:?}: {got:?} instead of {wanted:?}"),
            }
        }
    }
}
