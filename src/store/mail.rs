//! Mail as rows: writing, reading, and delivery by claim and acknowledgement.
//!
//! Delivery is at least once up to the acknowledgement and never after it. A turn *claims* unread
//! mail, and *acknowledges* it when the model has taken it in; a turn that dies before that *gives
//! it back*. Claims are named by recipient and turn together, because the turns of agents and those
//! of the coordinator are counted apart.
//!
//! Known race: two claimers of one recipient. The writer is one, so a row is claimed by whichever
//! transaction comes first; the other does not see it any more.
//!
//! Who may write to whom, and what a payload must look like, is decided above, in `mail`.

use super::types::Json;
use super::{StoreError, Tx, outbox};
use crate::clock::from_millis;
use crate::model::chat::Outgoing;
use crate::model::ids::{
    AgentName, ItemId, MailId, MessageKey, ProjectName, RoomKey, SessionKey, TurnId,
};
use crate::model::mail::{Mail, MailType, Priority};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

/// How often delivery may fail before a message is a dead letter.
pub const MAX_ATTEMPTS: u32 = 5;
/// How long a message rests after its first failed delivery; doubled by each further one.
const FIRST_BACKOFF_MS: i64 = 30_000;
/// Most messages that one claim looks at.
const CLAIM_MAX: usize = 200;
/// Counting what waits stops here: the exact number of a flood helps nobody.
const COUNT_MAX: i64 = 1_000;
/// The name under which Musher's own code sends mail.
pub const MUSHER: &str = "musher";
/// The name under which the coordinator gets and sends mail.
pub const COORDINATOR: &str = "coordinator";
/// How far back a person's newest message is looked for, in inbox rows.
const INBOX_LOOK_BACK: i64 = 10_000;

const COLUMNS: &str = "id, thread_id, sender, recipient, subject, body, type, priority, payload, \
                       item, created_at, delivered_at, read_at";

/// What makes a row of `mail` one that its recipient has still to see.
const UNREAD: &str = "read_at IS NULL AND dead = 0";

fn from_row(row: &Row<'_>) -> rusqlite::Result<Mail> {
    let kind: String = row.get(6)?;
    let priority: i64 = row.get(7)?;
    let invalid = |column, what: String| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, what.into())
    };
    Ok(Mail {
        id: row.get(0)?,
        thread_id: row.get(1)?,
        from: row.get(2)?,
        to: row.get(3)?,
        subject: row.get(4)?,
        body: row.get(5)?,
        kind: MailType::parse(&kind)
            .ok_or_else(|| invalid(6, format!("{kind} is no type of mail")))?,
        priority: usize::try_from(priority)
            .ok()
            .and_then(|index| Priority::ALL.get(index).copied())
            .ok_or_else(|| invalid(7, format!("{priority} is no priority")))?,
        payload: row.get::<_, Option<Json<_>>>(8)?.map(|json| json.0),
        item: row.get(9)?,
        created_at: from_millis(row.get(10)?),
        delivered_at: row.get::<_, Option<i64>>(11)?.map(from_millis),
        read_at: row.get::<_, Option<i64>>(12)?.map(from_millis),
    })
}

fn rank(priority: Priority) -> i64 {
    priority as i64
}

/// A checked message, ready to be written.
#[derive(Debug, Clone)]
pub struct NewRow<'a> {
    /// Who sends it.
    pub from: &'a str,
    /// Whom it is for: one address, no group.
    pub to: &'a str,
    /// One line.
    pub subject: &'a str,
    /// Markdown.
    pub body: &'a str,
    /// What sort.
    pub kind: MailType,
    /// How urgent.
    pub priority: Priority,
    /// Its payload.
    pub payload: Option<&'a serde_json::Value>,
    /// The item it is about.
    pub item: Option<ItemId>,
    /// The thread it continues; `None` begins one.
    pub thread: Option<MailId>,
}

/// Writes one message. Use `mail::send`, which checks it first.
pub fn insert(tx: &Tx<'_>, mail: &NewRow<'_>) -> Result<MailId, StoreError> {
    // The id is fixed beforehand because a message that begins a thread names itself.
    let id: i64 = tx
        .prepare_cached(
            "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'mail'), 0) + 1",
        )?
        .query_row([], |row| row.get(0))?;
    tx.prepare_cached(
        "INSERT INTO mail (id, thread_id, sender, recipient, subject, body, type, priority,
                           payload, item, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        id,
        mail.thread.map_or(id, |thread| thread.0),
        mail.from,
        mail.to,
        mail.subject,
        mail.body,
        mail.kind.as_str(),
        rank(mail.priority),
        mail.payload.map(Json),
        mail.item,
        tx.now(),
    ])?;
    Ok(MailId(id))
}

/// One message.
pub fn find(conn: &Connection, id: MailId) -> Result<Option<Mail>, StoreError> {
    let mut statement =
        conn.prepare_cached(&format!("SELECT {COLUMNS} FROM mail WHERE id = ?1"))?;
    Ok(statement.query_row([id], from_row).optional()?)
}

/// Mail given to a turn.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Claimed {
    /// What the turn is given, most urgent first, then in order of sending.
    pub mails: Vec<Mail>,
    /// How many more wait (counted up to a thousand): announced to the model, which fetches them
    /// with `mail_check`.
    pub more: u64,
}

/// Gives a turn the unread mail of `recipient`, at most `byte_cap` bytes of it.
///
/// A message that does not fit ends the batch, also when it is the first: the order of delivery
/// is kept, and nothing is cut.
pub fn claim(
    tx: &Tx<'_>,
    recipient: &str,
    turn: TurnId,
    byte_cap: usize,
) -> Result<Claimed, StoreError> {
    let mut claimed = Claimed::default();
    let mut bytes = 0_usize;
    for mut mail in waiting(tx, recipient, tx.now(), CLAIM_MAX)? {
        bytes = bytes.saturating_add(size_of(&mail));
        if bytes > byte_cap {
            break;
        }
        tx.prepare_cached("UPDATE mail SET claimed_by = ?2, delivered_at = ?3 WHERE id = ?1")?
            .execute(params![mail.id, turn, tx.now()])?;
        mail.delivered_at = Some(from_millis(tx.now()));
        claimed.mails.push(mail);
    }
    claimed.more = count_waiting(tx, recipient, tx.now())?;
    Ok(claimed)
}

fn size_of(mail: &Mail) -> usize {
    let payload = mail.payload.as_ref().map_or(0, |payload| payload.to_string().len());
    mail.subject.len() + mail.body.len() + payload
}

/// The sentence that finds deliverable mail; apart, so that its plan can be tested.
fn waiting_sql(columns: &str, tail: &str) -> String {
    format!(
        "SELECT {columns} FROM mail
         WHERE recipient = ?1 AND {UNREAD} AND claimed_by IS NULL AND not_before <= ?2 {tail}"
    )
}

fn waiting(
    conn: &Connection,
    recipient: &str,
    now: i64,
    limit: usize,
) -> Result<Vec<Mail>, StoreError> {
    let sql = waiting_sql(COLUMNS, "ORDER BY priority DESC, id LIMIT ?3");
    let mut statement = conn.prepare_cached(&sql)?;
    let rows = statement.query_map(params![recipient, now, limit as i64], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn count_waiting(conn: &Connection, recipient: &str, now: i64) -> Result<u64, StoreError> {
    let sql = format!("SELECT count(*) FROM ({})", waiting_sql("1", "LIMIT ?3"));
    let mut statement = conn.prepare_cached(&sql)?;
    let count: i64 = statement.query_row(params![recipient, now, COUNT_MAX], |row| row.get(0))?;
    Ok(count.unsigned_abs())
}

/// Whether mail waits for `recipient` that a turn could claim now.
pub fn has_waiting(conn: &Connection, recipient: &str, now: i64) -> Result<bool, StoreError> {
    let mut statement = conn.prepare_cached(&waiting_sql("1", "LIMIT 1"))?;
    Ok(statement.exists(params![recipient, now])?)
}

/// Whether urgent mail waits, for which a running turn is interrupted at its next step.
pub fn has_urgent(conn: &Connection, recipient: &str, now: i64) -> Result<bool, StoreError> {
    let mut statement = conn.prepare_cached(&waiting_sql("1", "AND priority = 3 LIMIT 1"))?;
    Ok(statement.exists(params![recipient, now])?)
}

/// Everyone for whom unread, unclaimed mail waits.
pub fn recipients_waiting(conn: &Connection, now: i64) -> Result<Vec<String>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT DISTINCT recipient FROM mail
         WHERE {UNREAD} AND claimed_by IS NULL AND not_before <= ?1"
    ))?;
    let rows = statement.query_map([now], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Marks read what a turn claimed: its model has taken it in. Says how many; safe to repeat.
pub fn acknowledge(tx: &Tx<'_>, recipient: &str, turn: TurnId) -> Result<usize, StoreError> {
    Ok(tx
        .prepare_cached(
            "UPDATE mail SET read_at = ?3, claimed_by = NULL
             WHERE recipient = ?1 AND claimed_by = ?2 AND claimed_by IS NOT NULL
               AND read_at IS NULL",
        )?
        .execute(params![recipient, turn, tx.now()])?)
}

/// Puts back what a turn claimed and did not acknowledge; safe to repeat.
///
/// Each time the message rests twice as long. The fifth time it becomes a dead letter: its sender
/// gets mail about it, and the room sees it.
pub fn give_back(tx: &Tx<'_>, recipient: &str, turn: TurnId) -> Result<(), StoreError> {
    let claimed: Vec<(MailId, u32)> = tx
        .prepare_cached(
            "SELECT id, attempts FROM mail
             WHERE recipient = ?1 AND claimed_by = ?2 AND claimed_by IS NOT NULL
               AND read_at IS NULL",
        )?
        .query_map(params![recipient, turn], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    for (id, attempts) in claimed {
        let attempts = attempts + 1;
        let dead = attempts >= MAX_ATTEMPTS;
        let rest = FIRST_BACKOFF_MS << (attempts - 1).min(10);
        tx.prepare_cached(
            "UPDATE mail SET claimed_by = NULL, delivered_at = NULL, attempts = ?2,
                             not_before = ?3, dead = ?4 WHERE id = ?1",
        )?
        .execute(params![id, attempts, tx.now() + rest, dead])?;
        if dead {
            bury(tx, id)?;
        }
    }
    Ok(())
}

/// Puts back the claims of all agents: for the start, when no agent's turn can be alive.
///
/// Claims of the coordinator stay: its turns are resumed after a crash.
pub fn give_back_orphans(tx: &Tx<'_>) -> Result<(), StoreError> {
    let claims: Vec<(String, TurnId)> = tx
        .prepare(
            "SELECT DISTINCT recipient, claimed_by FROM mail
             WHERE claimed_by IS NOT NULL AND read_at IS NULL AND recipient <> ?1",
        )?
        .query_map([COORDINATOR], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    for (recipient, turn) in claims {
        give_back(tx, &recipient, turn)?;
    }
    Ok(())
}

/// Tells a dead letter's sender and the room.
fn bury(tx: &Tx<'_>, id: MailId) -> Result<(), StoreError> {
    let Some(mail) = find(tx, id)? else { return Ok(()) };
    let text = format!(
        "Mail {id} from {} to {} (\"{}\") could not be delivered {MAX_ATTEMPTS} times: each turn \
         that was given it ended before it was taken in. It will not be tried again; see `mail {}` \
         and send it anew.",
        mail.from, mail.to, mail.subject, mail.to
    );
    // A notice about a notice would go round in circles, and a person reads the room.
    if mail.from != MUSHER && !mail.from.starts_with('@') {
        insert(
            tx,
            &NewRow {
                from: MUSHER,
                to: &mail.from,
                subject: &format!("Not delivered: {}", mail.subject),
                body: &text,
                kind: MailType::Error,
                priority: Priority::High,
                payload: None,
                item: mail.item,
                thread: Some(mail.thread_id),
            },
        )?;
    }
    if let Some(room) = room_of(tx, mail.item, &mail.from)? {
        let mut outgoing = Outgoing::text(SessionKey::main(room), text);
        outgoing.item = mail.item;
        outbox::enqueue(tx, &outgoing, Some(&format!("mail-dead:{id}")))?;
    }
    Ok(())
}

/// The room in which `item` or `person` can be spoken about: the item's, else its project's, else
/// where the person last wrote, else the oldest room.
pub fn room_of(
    conn: &Connection,
    item: Option<ItemId>,
    person: &str,
) -> Result<Option<RoomKey>, StoreError> {
    if let Some(item) = item {
        let mut statement = conn.prepare_cached(
            "SELECT coalesce(i.room, (SELECT r.room FROM rooms r WHERE r.project = i.project
                                      ORDER BY r.joined_at LIMIT 1))
             FROM items i WHERE i.id = ?1",
        )?;
        let room: Option<Option<RoomKey>> =
            statement.query_row([item], |row| row.get(0)).optional()?;
        if let Some(room) = room.flatten() {
            return Ok(Some(room));
        }
    }
    let mut statement = conn.prepare_cached(
        "SELECT session FROM inbox
         WHERE id > (SELECT coalesce(max(id), 0) FROM inbox) - ?2 AND sender = ?1
         ORDER BY id DESC LIMIT 1",
    )?;
    let session: Option<SessionKey> =
        statement.query_row(params![person, INBOX_LOOK_BACK], |row| row.get(0)).optional()?;
    if let Some(session) = session {
        return Ok(Some(session.room));
    }
    let mut statement = conn.prepare_cached(
        "SELECT room FROM rooms WHERE joined_at IS NOT NULL ORDER BY joined_at LIMIT 1",
    )?;
    Ok(statement.query_row([], |row| row.get(0)).optional()?)
}

/// Whether there is such an item.
pub fn item_exists(conn: &Connection, item: ItemId) -> Result<bool, StoreError> {
    Ok(conn.prepare_cached("SELECT 1 FROM items WHERE id = ?1")?.exists([item])?)
}

/// Whether there is such a project in the database.
pub fn project_exists(conn: &Connection, project: &ProjectName) -> Result<bool, StoreError> {
    Ok(conn.prepare_cached("SELECT 1 FROM projects WHERE name = ?1")?.exists([project])?)
}

/// Which messages a list shows.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Filter {
    /// Only those to this address.
    pub to: Option<String>,
    /// Only those from this address.
    pub from: Option<String>,
    /// Only those about this item.
    pub item: Option<ItemId>,
    /// Only those not read yet.
    pub unread: bool,
    /// At most so many; `None`: fifty.
    pub limit: Option<u32>,
}

/// The newest messages that pass `filter`, newest first.
pub fn list(conn: &Connection, filter: &Filter) -> Result<Vec<Mail>, StoreError> {
    let sql = list_sql(filter);
    let mut statement = conn.prepare_cached(&sql)?;
    let rows = statement.query_map(
        params![filter.to, filter.from, filter.item, filter.limit.unwrap_or(50)],
        from_row,
    )?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Only the conditions that are asked for, so that the planner sees which index fits. The others'
/// parameters are named all the same, because they are bound by number.
fn list_sql(filter: &Filter) -> String {
    let condition = |given: bool, yes: &'static str, no: &'static str| if given { yes } else { no };
    // Without statistics the planner would walk through all read mail to find the unread.
    let index = if filter.unread && filter.from.is_none() { "INDEXED BY mail_unread" } else { "" };
    format!(
        "SELECT {COLUMNS} FROM mail {index} WHERE {} AND {} AND {} AND {}
         ORDER BY id DESC LIMIT ?4",
        condition(filter.to.is_some(), "recipient = ?1", "?1 IS NULL"),
        condition(filter.from.is_some(), "sender = ?2", "?2 IS NULL"),
        condition(filter.item.is_some(), "item = ?3", "?3 IS NULL"),
        condition(filter.unread, "read_at IS NULL AND dead = 0", "true"),
    )
}

/// What waits for `recipient`, most urgent first; changes nothing.
pub fn check(
    conn: &Connection,
    recipient: &str,
    now: i64,
    limit: usize,
) -> Result<Claimed, StoreError> {
    let mails = waiting(conn, recipient, now, limit)?;
    let more = count_waiting(conn, recipient, now)?.saturating_sub(mails.len() as u64);
    Ok(Claimed { mails, more })
}

/// All messages of a thread, oldest first.
pub fn thread(conn: &Connection, thread: MailId) -> Result<Vec<Mail>, StoreError> {
    let mut statement = conn
        .prepare_cached(&format!("SELECT {COLUMNS} FROM mail WHERE thread_id = ?1 ORDER BY id"))?;
    let rows = statement.query_map([thread], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A question that `sender` has asked about `item` since `since` (milliseconds since the epoch) and
/// that nobody has answered in its thread.
pub fn unanswered_question(
    conn: &Connection,
    sender: &str,
    item: ItemId,
    since: i64,
) -> Result<Option<MailId>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT id FROM mail AS asked
         WHERE sender = ?1 AND item = ?2 AND type = 'question' AND created_at >= ?3 AND dead = 0
           AND NOT EXISTS (SELECT 1 FROM mail AS answer
                           WHERE answer.thread_id = asked.thread_id AND answer.id > asked.id
                             AND answer.sender <> ?1)
         ORDER BY id DESC LIMIT 1",
    )?;
    Ok(statement.query_row(params![sender, item, since], |row| row.get(0)).optional()?)
}

/// Marks one message read by its recipient; says whether it was unread.
///
/// A claim on it is ended with it: its recipient has seen it.
pub fn mark_read(tx: &Tx<'_>, id: MailId) -> Result<bool, StoreError> {
    let changed = tx
        .prepare_cached(
            "UPDATE mail SET read_at = ?2, delivered_at = coalesce(delivered_at, ?2),
                             claimed_by = NULL
             WHERE id = ?1 AND read_at IS NULL",
        )?
        .execute(params![id, tx.now()])?;
    Ok(changed == 1)
}

/// The running turn of an agent, if it has one: mail that it fetches at the command line is
/// claimed by that turn.
pub fn running_turn(conn: &Connection, agent: &AgentName) -> Result<Option<TurnId>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT t.id FROM agent_sessions s JOIN turns t ON t.session = s.id
         WHERE s.state NOT IN ('completed', 'zombie') AND s.agent = ?1 AND t.ended_at IS NULL
         ORDER BY t.id DESC LIMIT 1",
    )?;
    Ok(statement.query_row([agent], |row| row.get(0)).optional()?)
}

/// The mail that a message in a room carries, if it carries one: a reply to that message is a
/// reply to the mail.
pub fn of_message(conn: &Connection, message: &MessageKey) -> Result<Option<MailId>, StoreError> {
    let Some(row) = outbox::row_of_key(conn, message)? else { return Ok(None) };
    let mut statement =
        conn.prepare_cached("SELECT dedup FROM outbox WHERE id = ?1 AND dedup LIKE 'mail:%'")?;
    let dedup: Option<String> = statement.query_row([row], |row| row.get(0)).optional()?;
    Ok(dedup.and_then(|dedup| dedup.strip_prefix("mail:")?.parse().ok()).map(MailId))
}

/// Removes read and dead mail older than `before`, except protocol mail of open items.
///
/// Unread mail stays whatever its age.
pub fn purge(tx: &Tx<'_>, before: i64) -> Result<usize, StoreError> {
    Ok(tx
        .prepare_cached(
            "DELETE FROM mail
             WHERE created_at < ?1 AND (read_at IS NOT NULL OR dead = 1)
               AND NOT (type NOT IN ('status', 'question', 'result', 'error')
                        AND item IN (SELECT id FROM items WHERE col NOT IN
                                     ('done', 'archived', 'closed')))",
        )?
        .execute([before])?)
}

#[cfg(test)]
mod tests;
