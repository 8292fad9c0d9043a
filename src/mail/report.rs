//! Reporting done: terminal mail of an agent is recorded as its report on the item.
//!
//! The report is bound to agent, item and live session; the turn runner counts only one that is
//! newer than its turn. A reply never reports by accident: its type is `status` unless given.

use super::{Directory, MailError, NewMail, payload, send};
use crate::model::agent::Role;
use crate::model::ids::{AgentName, AgentSessionId, MailId};
use crate::model::mail::MailType;
use crate::store::Tx;
use crate::store::agents::{self as sessions, NewReport};

/// The types by which an agent of a role finishes.
pub fn terminal_types(role: Role) -> &'static [MailType] {
    match role {
        Role::Coder | Role::Lead | Role::Scout | Role::Reviewer => {
            &[MailType::WorkerDone, MailType::Result]
        }
        Role::Qa => {
            &[MailType::WorkerDone, MailType::Result, MailType::QaPassed, MailType::QaFailed]
        }
        Role::Mergemaster => &[MailType::Merged, MailType::MergeFailed],
    }
}

/// Sends mail, and when it is an agent's terminal mail about an item, records it as its report.
///
/// `session` is the session that speaks, when the caller knows it; otherwise the item's live
/// session counts, if it is this agent's.
pub fn send_reporting(
    tx: &Tx<'_>,
    directory: &Directory,
    mail: NewMail,
    session: Option<AgentSessionId>,
) -> Result<Vec<MailId>, MailError> {
    let agent = AgentName::from(mail.from.as_str());
    let (kind, sent) = (mail.kind, send(tx, directory, mail.clone())?);
    let item = payload::check(kind, mail.payload.as_ref(), mail.item).ok().flatten();
    let terminal =
        directory.role_of(&mail.from).is_some_and(|role| terminal_types(role).contains(&kind));
    if let (true, Some(item)) = (terminal, item) {
        let session = match session {
            Some(session) => Some(session),
            None => sessions::live_session_of(tx, item)?
                .filter(|live| live.agent == agent)
                .map(|live| live.id),
        };
        let summary = if mail.body.trim().is_empty() { mail.subject } else { mail.body };
        let payload = mail.payload;
        sessions::record_report(tx, &NewReport { agent, item, session, kind, summary, payload })?;
    }
    Ok(sent)
}
