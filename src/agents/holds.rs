//! What keeps sessions from going on at this moment, for `why`: the pool's own reasons, read from
//! the rows that it decides from.

use super::budget::{self, Spender};
use super::pool;
use crate::config::Config;
use crate::model::agent::SessionState;
use crate::store::agents::{self as sessions, AgentSession};
use crate::store::{StoreError, meta};
use chrono::{DateTime, Duration, Utc};
use rusqlite::Connection;

/// Why nothing starts now, or why `session` does not go on although it has something to be said;
/// empty when nothing holds it.
pub fn holds(
    conn: &Connection,
    config: &Config,
    now: DateTime<Utc>,
    session: Option<&AgentSession>,
) -> Result<Vec<String>, StoreError> {
    let mut reasons = Vec::new();
    if let Some(who) = meta::find(conn, meta::STOPPED_ALL)? {
        reasons.push(format!("everything is stopped (by {who}): `resume all` goes on"));
    }
    let spender = Spender { item: session.map(|session| session.item), ..Spender::default() };
    let reached = budget::reached(conn, config, now, &spender)?;
    reasons.extend(reached.map(|reached| reached.what));
    let limits = &config.limits;
    if let Some(session) = session {
        if session.pending_prompt.is_none() {
            return Ok(reasons);
        }
        let agent = &session.agent;
        if let Some(pause) = pool::paused(conn, config, session)? {
            reasons.push(format!("{} are paused: {}", pause.scope.in_words(), pause.reason));
        }
        if !config.agents.iter().any(|known| known.name == *agent) {
            reasons.push(format!("{agent} is not configured any more"));
        }
        let in_turn: Vec<AgentSession> = sessions::live_sessions(conn)?
            .into_iter()
            .filter(|other| other.state == SessionState::InTurn && other.id != session.id)
            .collect();
        if let Some(other) = in_turn.iter().find(|other| other.agent == *agent) {
            reasons.push(format!("{agent} is at work on #{}", other.item));
        }
        if in_turn.len() >= limits.max_agents {
            reasons.push(format!(
                "{} agents are at work and limits.max_agents is {}",
                in_turn.len(),
                limits.max_agents
            ));
        }
    }
    let minute = (now - Duration::minutes(1)).timestamp_millis();
    let started = sessions::turns_since(conn, minute, limits.max_starts_per_minute)?;
    if started >= limits.max_starts_per_minute {
        reasons.push(format!(
            "so many turns were started in the last minute: {started}, and \
             limits.max_starts_per_minute is {}",
            limits.max_starts_per_minute
        ));
    }
    Ok(reasons)
}
