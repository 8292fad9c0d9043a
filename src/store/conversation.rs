//! The coordinator's conversations: sessions, turns, messages and calls of tools.
//!
//! A turn is `running` from the transaction that stores the message that it answers to the one
//! that stores its end with the answer in the outbox. What is `running` after a start is taken up
//! again where its last stored message or call stands.
//!
//! `reset` and compaction begin a new **epoch** of a session: the rows of earlier ones stay, but
//! are not the conversation any more.

use super::types::Json;
use super::{StoreError, Tx, log};
use crate::model::chat::Incoming;
use crate::model::ids::{MessageKey, OutboxId, SessionKey, TurnId};
use crate::model::llm::{LlmMessage, Usage};
use rusqlite::{Connection, OptionalExtension, Row, params};

/// What is remembered of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Which of its conversations is the present one.
    pub epoch: i64,
    /// Transitions up to here were told to the model.
    pub notes_seen: i64,
    /// Events up to here were told to the model.
    pub events_seen: i64,
    /// The model that somebody chose for it.
    pub model: Option<String>,
}

/// The session, if it ever spoke with the coordinator.
pub fn find_session(conn: &Connection, key: &SessionKey) -> Result<Option<Session>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT epoch, notes_seen, events_seen, model FROM chat_sessions WHERE session = ?1",
    )?;
    let row = |row: &Row<'_>| {
        Ok(Session {
            epoch: row.get(0)?,
            notes_seen: row.get(1)?,
            events_seen: row.get(2)?,
            model: row.get(3)?,
        })
    };
    Ok(statement.query_row([key], row).optional()?)
}

/// The session, made when it is new: what happened before it is no news to it.
pub fn ensure_session(tx: &Tx<'_>, key: &SessionKey) -> Result<Session, StoreError> {
    if let Some(found) = find_session(tx, key)? {
        return Ok(found);
    }
    let session = Session {
        epoch: 0,
        notes_seen: log::newest(tx, log::Log::Transitions)?,
        events_seen: log::newest(tx, log::Log::Events)?,
        model: None,
    };
    tx.prepare_cached(
        "INSERT INTO chat_sessions (session, epoch, notes_seen, events_seen) VALUES (?1, 0, ?2, ?3)",
    )?
    .execute(params![key, session.notes_seen, session.events_seen])?;
    Ok(session)
}

/// Notes up to where the logs were told to the model.
pub fn mark_seen(
    tx: &Tx<'_>,
    key: &SessionKey,
    transitions: i64,
    events: i64,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "UPDATE chat_sessions SET notes_seen = max(notes_seen, ?2),
             events_seen = max(events_seen, ?3) WHERE session = ?1",
    )?
    .execute(params![key, transitions, events])?;
    Ok(())
}

/// Begins a new conversation and returns its epoch.
pub fn begin_epoch(tx: &Tx<'_>, key: &SessionKey) -> Result<i64, StoreError> {
    let epoch = ensure_session(tx, key)?.epoch + 1;
    tx.prepare_cached("UPDATE chat_sessions SET epoch = ?2 WHERE session = ?1")?
        .execute(params![key, epoch])?;
    Ok(epoch)
}

/// Where a turn stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnState {
    /// It runs, or a crash cut it off.
    Running,
    /// It gave its answer.
    Done,
    /// Somebody stopped it.
    Cancelled,
    /// It ended with an error or at a limit.
    Failed,
}

impl TurnState {
    const ALL: [TurnState; 4] =
        [TurnState::Running, TurnState::Done, TurnState::Cancelled, TurnState::Failed];

    fn as_str(self) -> &'static str {
        match self {
            TurnState::Running => "running",
            TurnState::Done => "done",
            TurnState::Cancelled => "cancelled",
            TurnState::Failed => "failed",
        }
    }
}

/// A run of the coordinator over a batch of messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Its number.
    pub id: i64,
    /// Its session.
    pub session: SessionKey,
    /// The conversation that it belongs to.
    pub epoch: i64,
    /// Where it stands.
    pub state: TurnState,
    /// What it used so far.
    pub usage: Usage,
    /// What that cost, in millionths of a US dollar.
    pub cost_microusd: i64,
}

const TURN: &str = "id, session, epoch, state, input, cached, output, cost_microusd";

fn turn(row: &Row<'_>) -> rusqlite::Result<Turn> {
    let state: String = row.get(3)?;
    let tokens =
        |column: usize| row.get::<_, i64>(column).map(|count| count.max(0).cast_unsigned());
    Ok(Turn {
        id: row.get(0)?,
        session: row.get(1)?,
        epoch: row.get(2)?,
        state: TurnState::ALL
            .into_iter()
            .find(|known| known.as_str() == state)
            .unwrap_or(TurnState::Failed),
        usage: Usage { input: tokens(4)?, cached: tokens(5)?, output: tokens(6)? },
        cost_microusd: row.get(7)?,
    })
}

/// Opens a turn and returns its number.
pub fn open_turn(tx: &Tx<'_>, key: &SessionKey, epoch: i64) -> Result<i64, StoreError> {
    tx.prepare_cached("INSERT INTO chat_turns (session, epoch, started_at) VALUES (?1, ?2, ?3)")?
        .execute(params![key, epoch, tx.now()])?;
    Ok(tx.last_insert_rowid())
}

/// One turn.
pub fn find_turn(conn: &Connection, id: i64) -> Result<Option<Turn>, StoreError> {
    let mut statement =
        conn.prepare_cached(&format!("SELECT {TURN} FROM chat_turns WHERE id = ?1"))?;
    Ok(statement.query_row([id], turn).optional()?)
}

/// The turns that run, or that a crash cut off, oldest first.
pub fn running_turns(conn: &Connection) -> Result<Vec<Turn>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {TURN} FROM chat_turns WHERE state = 'running' ORDER BY id"
    ))?;
    let rows = statement.query_map([], turn)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The newest turn of the session's present conversation.
pub fn last_turn(conn: &Connection, key: &SessionKey) -> Result<Option<Turn>, StoreError> {
    let Some(session) = find_session(conn, key)? else { return Ok(None) };
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {TURN} FROM chat_turns WHERE session = ?1 AND epoch = ?2 ORDER BY id DESC LIMIT 1"
    ))?;
    Ok(statement.query_row(params![key, session.epoch], turn).optional()?)
}

/// Adds to what a turn used.
pub fn add_usage(tx: &Tx<'_>, id: i64, usage: Usage, microusd: i64) -> Result<(), StoreError> {
    tx.prepare_cached(
        "UPDATE chat_turns SET input = input + ?2, cached = cached + ?3, output = output + ?4,
             cost_microusd = cost_microusd + ?5 WHERE id = ?1",
    )?
    .execute(params![
        id,
        usage.input.cast_signed(),
        usage.cached.cast_signed(),
        usage.output.cast_signed(),
        microusd
    ])?;
    Ok(())
}

/// Ends a turn, if it still runs; says whether it did. Of two that end it, one succeeds.
pub fn end_turn(
    tx: &Tx<'_>,
    id: i64,
    state: TurnState,
    error: Option<&str>,
) -> Result<bool, StoreError> {
    let ended = tx
        .prepare_cached(
            "UPDATE chat_turns SET state = ?2, error = ?3, ended_at = ?4
             WHERE id = ?1 AND state = 'running'",
        )?
        .execute(params![id, state.as_str(), error, tx.now()])?;
    Ok(ended == 1)
}

/// Moves a turn into another epoch of its session, after a compaction.
pub fn move_turn(tx: &Tx<'_>, id: i64, epoch: i64) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE chat_turns SET epoch = ?2 WHERE id = ?1")?
        .execute(params![id, epoch])?;
    Ok(())
}

/// A stored message.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// The turn that it belongs to; 0 for a summary of turns that were left out.
    pub turn: i64,
    /// What was said.
    pub message: LlmMessage,
}

/// Appends a message to a conversation.
pub fn append(
    tx: &Tx<'_>,
    key: &SessionKey,
    epoch: i64,
    turn: i64,
    message: &LlmMessage,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO chat_messages (session, epoch, turn, message, at) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![key, epoch, turn, Json(message), tx.now()])?;
    Ok(())
}

/// A conversation, oldest message first.
pub fn history(conn: &Connection, key: &SessionKey, epoch: i64) -> Result<Vec<Stored>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT turn, message FROM chat_messages WHERE session = ?1 AND epoch = ?2 ORDER BY id",
    )?;
    let rows = statement.query_map(params![key, epoch], |row| {
        Ok(Stored { turn: row.get(0)?, message: row.get::<_, Json<LlmMessage>>(1)?.0 })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// In whose turn a tool is called. Chat turns and agents' turns are counted apart; the table of
/// calls holds the latter as negative numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallOwner {
    /// The coordinator's turn.
    Chat(i64),
    /// An agent's turn.
    Agent(TurnId),
}

impl CallOwner {
    fn number(self) -> i64 {
        match self {
            CallOwner::Chat(turn) => turn,
            CallOwner::Agent(turn) => -turn.0,
        }
    }
}

/// What is known of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallState {
    /// It was never begun.
    Unknown,
    /// It was begun; whether it took effect is not known.
    Begun,
    /// It answered.
    Answered {
        /// What.
        text: String,
        /// Whether it failed.
        is_error: bool,
    },
}

/// Notes that a call is about to be carried out. Safe to repeat.
pub fn begin_call(
    tx: &Tx<'_>,
    owner: CallOwner,
    call_id: &str,
    name: &str,
    arguments: &serde_json::Value,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO tool_calls (turn, call_id, name, arguments, started_at)
         VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (turn, call_id) DO NOTHING",
    )?
    .execute(params![owner.number(), call_id, name, Json(arguments), tx.now()])?;
    Ok(())
}

/// Notes what a call answered, in the transaction of its effect where it has one. The first
/// answer stays.
pub fn finish_call(
    tx: &Tx<'_>,
    owner: CallOwner,
    call_id: &str,
    text: &str,
    is_error: bool,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "UPDATE tool_calls SET result = ?3, is_error = ?4, ended_at = ?5
         WHERE turn = ?1 AND call_id = ?2 AND result IS NULL",
    )?
    .execute(params![owner.number(), call_id, text, is_error, tx.now()])?;
    Ok(())
}

/// What is known of a call.
pub fn call_state(
    conn: &Connection,
    owner: CallOwner,
    call_id: &str,
) -> Result<CallState, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT result, is_error FROM tool_calls WHERE turn = ?1 AND call_id = ?2",
    )?;
    let found = statement
        .query_row(params![owner.number(), call_id], |row| {
            Ok(match row.get::<_, Option<String>>(0)? {
                Some(text) => CallState::Answered { text, is_error: row.get(1)? },
                None => CallState::Begun,
            })
        })
        .optional()?;
    Ok(found.unwrap_or(CallState::Unknown))
}

/// The messages that a turn took, in the order of arrival.
pub fn batch_of(conn: &Connection, turn: i64) -> Result<Vec<Incoming>, StoreError> {
    let mut statement =
        conn.prepare_cached("SELECT incoming FROM inbox WHERE turn = ?1 ORDER BY id")?;
    let rows = statement.query_map([turn], |row| row.get::<_, Json<Incoming>>(0))?;
    Ok(rows.map(|row| row.map(|json| json.0)).collect::<Result<_, _>>()?)
}

/// The row of the outbox that holds the turn's answer, or what was streamed of it.
pub fn answer_row(conn: &Connection, turn: i64) -> Result<Option<OutboxId>, StoreError> {
    let mut statement = conn.prepare_cached("SELECT id FROM outbox WHERE dedup = ?1")?;
    Ok(statement.query_row([answer_dedup(turn)], |row| row.get(0)).optional()?)
}

/// The outbox's key for the turn's answer: it is one message, whoever writes it first.
pub fn answer_dedup(turn: i64) -> String {
    format!("chat-turn:{turn}:answer")
}

/// Whether a message is already dealt with, so that a turn must not answer it (again).
pub fn is_settled(conn: &Connection, key: &MessageKey) -> Result<bool, StoreError> {
    let mut statement =
        conn.prepare_cached("SELECT 1 FROM inbox WHERE key = ?1 AND state IN ('done', 'dropped')")?;
    Ok(statement.exists([key])?)
}

/// Messages of a session that were not meant for the bot and were not told to the model yet, at
/// most the newest `limit`, oldest first; turn `turn` tells them.
pub fn take_overheard(
    tx: &Tx<'_>,
    key: &SessionKey,
    limit: usize,
    turn: i64,
) -> Result<Vec<Incoming>, StoreError> {
    let mut found: Vec<(i64, Incoming)> = {
        let mut statement = tx.prepare_cached(
            "SELECT id, incoming FROM inbox
             WHERE session = ?1 AND addressed = 0 AND state <> 'dropped' AND turn IS NULL
             ORDER BY id DESC LIMIT ?2",
        )?;
        let rows = statement.query_map(params![key, limit as i64], |row| {
            Ok((row.get(0)?, row.get::<_, Json<Incoming>>(1)?.0))
        })?;
        rows.collect::<Result<_, _>>()?
    };
    found.reverse();
    // Negative: told in this turn, but not what it answers.
    let mut update = tx.prepare_cached("UPDATE inbox SET turn = -?2 WHERE id = ?1")?;
    for (id, _) in &found {
        update.execute([*id, turn])?;
    }
    Ok(found.into_iter().map(|(_, incoming)| incoming).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::Store;

    fn in_tx(work: impl FnOnce(&Tx<'_>) -> Result<(), StoreError> + Send + 'static) {
        let dir = tempfile::tempdir().unwrap();
        Store::open(dir.path(), Clock::system()).unwrap().write_blocking(work).unwrap();
    }

    fn room() -> SessionKey {
        SessionKey::main("!a:hs".into())
    }

    #[test]
    fn a_turn_ends_once_and_counts_what_it_used() {
        in_tx(|tx| {
            ensure_session(tx, &room())?;
            let id = open_turn(tx, &room(), 0)?;
            add_usage(tx, id, Usage { input: 5, cached: 2, output: 1 }, 40)?;
            add_usage(tx, id, Usage { input: 5, cached: 0, output: 1 }, 2)?;
            assert_eq!(running_turns(tx)?.len(), 1);
            assert!(end_turn(tx, id, TurnState::Failed, Some("x"))?);
            assert!(!end_turn(tx, id, TurnState::Done, None)?);
            let turn = last_turn(tx, &room())?.unwrap();
            assert_eq!((turn.state, turn.cost_microusd), (TurnState::Failed, 42));
            assert_eq!(turn.usage, Usage { input: 10, cached: 2, output: 2 });
            assert!(running_turns(tx)?.is_empty());
            Ok(())
        });
    }

    #[test]
    fn a_new_epoch_is_a_new_conversation() {
        in_tx(|tx| {
            ensure_session(tx, &room())?;
            append(tx, &room(), 0, 1, &LlmMessage::user("old"))?;
            let epoch = begin_epoch(tx, &room())?;
            append(tx, &room(), epoch, 2, &LlmMessage::user("new"))?;
            let texts: Vec<_> =
                history(tx, &room(), epoch)?.iter().map(|row| row.message.text()).collect();
            assert_eq!(texts, ["new"]);
            assert_eq!(history(tx, &room(), 0)?.len(), 1);
            Ok(())
        });
    }

    #[test]
    fn the_first_answer_of_a_call_stays_and_owners_are_kept_apart() {
        in_tx(|tx| {
            let (chat, agent) = (CallOwner::Chat(1), CallOwner::Agent(TurnId(1)));
            let arguments = serde_json::json!({});
            begin_call(tx, chat, "c", "x", &arguments)?;
            begin_call(tx, chat, "c", "x", &arguments)?;
            assert_eq!(call_state(tx, chat, "c")?, CallState::Begun);
            assert_eq!(call_state(tx, agent, "c")?, CallState::Unknown);
            finish_call(tx, chat, "c", "first", false)?;
            finish_call(tx, chat, "c", "second", true)?;
            let answered = CallState::Answered { text: "first".into(), is_error: false };
            assert_eq!(call_state(tx, chat, "c")?, answered);
            Ok(())
        });
    }
}
