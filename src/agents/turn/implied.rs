//! What a session waits for that ended its turn cleanly without saying so: its open children, or a
//! question by mail that nobody has answered. (What a person was asked is in `asks`.)

use crate::model::agent::{Role, Waiting, WaitingFor};
use crate::store::agents::AgentSession;
use crate::store::{StoreError, items, mail};
use chrono::{DateTime, Duration, Utc};
use rusqlite::Connection;

/// After which it is woken at the latest, to look for itself.
const DEADLINE: Duration = Duration::days(1);

/// What the session waits for, as the rows show it.
pub(super) fn implied(
    conn: &Connection,
    session: &AgentSession,
    now: DateTime<Utc>,
) -> Result<Option<Waiting>, StoreError> {
    let wait = |what, detail: String| Some(Waiting { what, until: Some(now + DEADLINE), detail });
    if session.role == Role::Lead {
        let children = items::handed_out(conn, session.item)?;
        let open: Vec<String> = children
            .iter()
            .filter(|child| !child.stage.is_terminal() && child.stage.claim().is_some())
            .map(|child| format!("#{}", child.id))
            .collect();
        if !open.is_empty() {
            return Ok(wait(WaitingFor::Children, open.join(", ")));
        }
    }
    let since = session.created_at.timestamp_millis();
    let asked = mail::unanswered_question(conn, session.agent.as_str(), session.item, since)?;
    Ok(asked.and_then(|id| wait(WaitingFor::Reply, format!("an answer to mail {id}"))))
}
