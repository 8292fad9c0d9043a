//! Requests to people: permissions, approvals, confirmations, questions.
//!
//! A request is bound to the place where it was asked and to the exact thing it asks. It outlives
//! the turn and the process that asked: whoever waits for the answer reads the row again after a
//! restart. Only one answer counts, and none after the deadline.

use super::types::Json;
use super::{StoreError, Tx, outbox};
use crate::clock::from_millis;
use crate::model::ids::{
    AgentSessionId, ItemId, MessageKey, OutboxId, PersonId, RequestId, SessionKey, TurnId,
};
use chrono::{DateTime, Utc};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

/// What sort of answer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestKind {
    /// An agent asks to use a tool.
    Permission,
    /// A person is asked whether they mean what they typed.
    Confirm,
    /// Finished work waits for a person's verdict.
    Approve,
    /// An agent asks something.
    Question,
}

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestState {
    /// Waits for its answer.
    Open,
    /// Has one.
    Answered,
    /// Nobody answered in time.
    Expired,
    /// Whoever asked does not want to know any more.
    Withdrawn,
}

/// Writes the names of an enum as they stand in the database.
macro_rules! stored_as_text {
    ($name:ident { $($variant:ident = $text:literal),+ $(,)? }) => {
        impl $name {
            /// The name as stored.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }
        }

        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                match value.as_str()? {
                    $($text => Ok($name::$variant),)+
                    other => Err(FromSqlError::Other(
                        format!("{other} is no {}", stringify!($name)).into(),
                    )),
                }
            }
        }
    };
}

stored_as_text!(RequestKind {
    Permission = "permission",
    Confirm = "confirm",
    Approve = "approve",
    Question = "question",
});
stored_as_text!(RequestState {
    Open = "open",
    Answered = "answered",
    Expired = "expired",
    Withdrawn = "withdrawn",
});

/// What is asked, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRequest {
    /// What sort of answer is wanted.
    pub kind: RequestKind,
    /// Where it is asked; an answer counts only there.
    pub session: SessionKey,
    /// The message that asks; a reaction or reply to it is an answer.
    pub outbox: Option<OutboxId>,
    /// The item it is about.
    pub item: Option<ItemId>,
    /// The agent session that waits.
    pub agent_session: Option<AgentSessionId>,
    /// The exact request, in the asker's terms.
    pub what: serde_json::Value,
    /// When it is too late.
    pub deadline: Option<DateTime<Utc>>,
}

/// A request as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Its number.
    pub id: RequestId,
    /// What is asked, and where.
    pub asked: NewRequest,
    /// Where it stands.
    pub state: RequestState,
    /// The answer, in the asker's terms.
    pub answer: Option<String>,
    /// Who gave it.
    pub answered_by: Option<PersonId>,
    /// When it was asked.
    pub created_at: DateTime<Utc>,
    /// When people were last reminded of it.
    pub reminded_at: Option<DateTime<Utc>>,
    /// The agent's turn that waits for the answer, or did so last.
    pub turn: Option<TurnId>,
    /// When that turn stopped waiting; the answer still counts, and wakes the agent.
    pub lapsed_at: Option<DateTime<Utc>>,
    /// When the answer was given to the agent.
    pub used_at: Option<DateTime<Utc>>,
}

const COLUMNS: &str = "id, kind, session, outbox, item, agent_session, what, deadline, state, \
                       answer, answered_by, created_at, reminded_at, turn, lapsed_at, used_at";

fn from_row(row: &Row<'_>) -> rusqlite::Result<Request> {
    Ok(Request {
        id: row.get(0)?,
        asked: NewRequest {
            kind: row.get(1)?,
            session: row.get(2)?,
            outbox: row.get(3)?,
            item: row.get(4)?,
            agent_session: row.get(5)?,
            what: row.get::<_, Json<_>>(6)?.0,
            deadline: row.get::<_, Option<i64>>(7)?.map(from_millis),
        },
        state: row.get(8)?,
        answer: row.get(9)?,
        answered_by: row.get(10)?,
        created_at: from_millis(row.get(11)?),
        reminded_at: row.get::<_, Option<i64>>(12)?.map(from_millis),
        turn: row.get(13)?,
        lapsed_at: row.get::<_, Option<i64>>(14)?.map(from_millis),
        used_at: row.get::<_, Option<i64>>(15)?.map(from_millis),
    })
}

/// Writes a request down.
pub fn open(tx: &Tx<'_>, request: &NewRequest) -> Result<RequestId, StoreError> {
    tx.prepare_cached(
        "INSERT INTO requests (kind, session, outbox, item, agent_session, what, deadline,
                               created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        request.kind.as_str(),
        request.session,
        request.outbox,
        request.item,
        request.agent_session,
        Json(&request.what),
        request.deadline.map(|at| at.timestamp_millis()),
        tx.now(),
    ])?;
    Ok(RequestId(tx.last_insert_rowid()))
}

/// Notes which message asks, when it was enqueued after the request.
pub fn asked_by(tx: &Tx<'_>, id: RequestId, outbox: OutboxId) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE requests SET outbox = ?2 WHERE id = ?1")?
        .execute(params![id, outbox])?;
    Ok(())
}

/// Notes that people were reminded, and by which message: an answer to that counts as well.
pub fn reminded_by(tx: &Tx<'_>, id: RequestId, outbox: OutboxId) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE requests SET reminded_at = ?2, reminder = ?3 WHERE id = ?1")?
        .execute(params![id, tx.now(), outbox])?;
    Ok(())
}

/// One request.
pub fn find(conn: &Connection, id: RequestId) -> Result<Option<Request>, StoreError> {
    let mut statement =
        conn.prepare_cached(&format!("SELECT {COLUMNS} FROM requests WHERE id = ?1"))?;
    Ok(statement.query_row([id], from_row).optional()?)
}

/// The open requests, oldest first.
pub fn list_open(conn: &Connection) -> Result<Vec<Request>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM requests WHERE state = 'open' ORDER BY id"
    ))?;
    let rows = statement.query_map([], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The open requests of one kind about an item, oldest first.
pub fn list_open_of(
    conn: &Connection,
    item: ItemId,
    kind: RequestKind,
) -> Result<Vec<Request>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM requests
         WHERE state = 'open' AND item = ?1 AND kind = ?2 ORDER BY id"
    ))?;
    let rows = statement.query_map(params![item, kind.as_str()], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The open requests asked in a conversation, oldest first.
pub fn list_open_in(conn: &Connection, session: &SessionKey) -> Result<Vec<Request>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM requests WHERE state = 'open' AND session = ?1 ORDER BY id"
    ))?;
    let rows = statement.query_map([session], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The request that a posted message asks, whatever its state.
pub fn find_by_message(
    conn: &Connection,
    message: &MessageKey,
) -> Result<Option<Request>, StoreError> {
    let outbox = outbox::row_of_key(conn, message)?;
    let Some(outbox) = outbox else { return Ok(None) };
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM requests WHERE outbox = ?1 OR reminder = ?1
         ORDER BY id DESC LIMIT 1"
    ))?;
    Ok(statement.query_row([outbox], from_row).optional()?)
}

/// Answers an open request; `false` when it has an answer, was withdrawn, or is past its deadline.
pub fn answer(tx: &Tx<'_>, id: RequestId, answer: &str, by: &PersonId) -> Result<bool, StoreError> {
    let changed = tx
        .prepare_cached(
            "UPDATE requests SET state = 'answered', answer = ?2, answered_by = ?3,
                                 answered_at = ?4
             WHERE id = ?1 AND state = 'open' AND (deadline IS NULL OR deadline > ?4)",
        )?
        .execute(params![id, answer, by, tx.now()])?;
    Ok(changed == 1)
}

/// Closes the open requests whose deadline has passed, and returns them.
pub fn expire_due(tx: &Tx<'_>) -> Result<Vec<Request>, StoreError> {
    let mut statement = tx.prepare_cached(&format!(
        "UPDATE requests SET state = 'expired', answered_at = ?1
         WHERE state = 'open' AND deadline <= ?1 RETURNING {COLUMNS}"
    ))?;
    let rows = statement.query_map([tx.now()], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Closes an open request that nobody has answered, with what became of it in words; `false` when
/// it is closed already.
pub fn withdraw_one(tx: &Tx<'_>, id: RequestId, outcome: &str) -> Result<bool, StoreError> {
    let changed = tx
        .prepare_cached(
            "UPDATE requests SET state = 'withdrawn', answer = ?2, answered_at = ?3
             WHERE id = ?1 AND state = 'open'",
        )?
        .execute(params![id, outcome, tx.now()])?;
    Ok(changed == 1)
}

/// Requests of an agent session whose answer it has not had yet: open ones and answered ones,
/// oldest first.
pub fn unused_of(
    conn: &Connection,
    session: AgentSessionId,
    kind: RequestKind,
) -> Result<Vec<Request>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM requests
         WHERE agent_session = ?1 AND kind = ?2 AND state IN ('open', 'answered')
               AND used_at IS NULL
         ORDER BY id"
    ))?;
    let rows = statement.query_map(params![session, kind.as_str()], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The open requests of agent sessions that are over: nobody waits for their answers.
pub fn open_of_ended_sessions(conn: &Connection) -> Result<Vec<Request>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM requests
         WHERE state = 'open' AND agent_session IN
               (SELECT id FROM agent_sessions WHERE state IN ('completed', 'zombie'))
         ORDER BY id"
    ))?;
    let rows = statement.query_map([], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Notes which turn waits for the answer of an open request.
pub fn bind(tx: &Tx<'_>, id: RequestId, turn: TurnId) -> Result<(), StoreError> {
    tx.prepare_cached(
        "UPDATE requests SET turn = ?2, lapsed_at = NULL WHERE id = ?1 AND state = 'open'",
    )?
    .execute(params![id, turn])?;
    Ok(())
}

/// Notes that the turn waits no longer; `false` when there is an answer by now.
pub fn lapse(tx: &Tx<'_>, id: RequestId) -> Result<bool, StoreError> {
    let changed = tx
        .prepare_cached("UPDATE requests SET lapsed_at = ?2 WHERE id = ?1 AND state = 'open'")?
        .execute(params![id, tx.now()])?;
    Ok(changed == 1)
}

/// Notes that the agent has the answer: it does not count for another request.
pub fn used(tx: &Tx<'_>, id: RequestId) -> Result<(), StoreError> {
    tx.prepare_cached(
        "UPDATE requests SET used_at = ?2 WHERE id = ?1 AND state = 'answered' AND used_at IS NULL",
    )?
    .execute(params![id, tx.now()])?;
    Ok(())
}

/// Stores what a person allowed for as long as an agent's session lasts. Safe to repeat.
pub fn allow_for_session(
    tx: &Tx<'_>,
    session: AgentSessionId,
    rule: &serde_json::Value,
    request: RequestId,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO session_rules (agent_session, rule, request, created_at)
         VALUES (?1, ?2, ?3, ?4) ON CONFLICT (agent_session, rule) DO NOTHING",
    )?
    .execute(params![session, Json(rule), request, tx.now()])?;
    Ok(())
}

/// What people allowed for as long as an agent's session lasts.
pub fn allowed_for_session(
    conn: &Connection,
    session: AgentSessionId,
) -> Result<Vec<serde_json::Value>, StoreError> {
    let mut statement = conn
        .prepare_cached("SELECT rule FROM session_rules WHERE agent_session = ?1 ORDER BY rowid")?;
    let rows = statement.query_map([session], |row| Ok(row.get::<_, Json<_>>(0)?.0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::Store;
    use chrono::TimeDelta;

    #[test]
    fn only_the_first_answer_counts_and_none_after_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::fixed(Utc::now());
        let store = Store::open(dir.path(), clock.clone()).unwrap();
        let request = NewRequest {
            kind: RequestKind::Permission,
            session: SessionKey::main("!r:hs".into()),
            outbox: None,
            item: None,
            agent_session: Some(AgentSessionId(3)),
            what: serde_json::json!({"tool": "Bash"}),
            deadline: Some(clock.now() + TimeDelta::minutes(15)),
        };
        let write =
            |work: fn(&Tx<'_>) -> Result<bool, StoreError>| store.write_blocking(work).unwrap();
        for _ in 0..3 {
            let request = request.clone();
            store.write_blocking(move |tx| open(tx, &request)).unwrap();
        }
        assert!(write(|tx| answer(tx, RequestId(1), "yes", &"@you:hs".into())));
        assert!(!write(|tx| answer(tx, RequestId(1), "no", &"@you:hs".into())));
        clock.set(clock.now() + TimeDelta::minutes(15));
        assert!(!write(|tx| answer(tx, RequestId(2), "yes", &"@you:hs".into())));
        let expired = store.write_blocking(expire_due).unwrap();
        assert_eq!(expired.iter().map(|one| one.id.0).collect::<Vec<_>>(), [2, 3]);
        let first = store.read_blocking(|conn| find(conn, RequestId(1))).unwrap().unwrap();
        assert_eq!((first.asked, first.answer.as_deref()), (request, Some("yes")));
    }
}
