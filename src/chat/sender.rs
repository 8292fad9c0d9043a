//! The loop that posts what stands in the outbox.
//!
//! Rooms are served beside each other, each by one task at a time, which posts the room's rows
//! strictly in order. A row is cut into pieces, each with a transaction id made of the
//! installation, the row and the piece's number: whatever is repeated after a crash or a lost
//! answer, the homeserver takes it for the message it already has. Pieces that were answered are
//! noted, so a repeat sends only the missing ones.
//!
//! **Errors.** A rate limit is waited out as long as the server says. Everything that may pass
//! (network, overload) backs off from half a second to a minute, for as long as it takes: the row
//! holds back its room. What can never be posted is kept as failed, shown by `doctor`, and the
//! room goes on.
//!
//! **Edits.** An edit names the row that posted the original. It changes the pieces that the row
//! has, adds those that are missing and blanks those that are too many. An edit that a later one
//! in the queue makes pointless is left out, so that a rate limit never builds up a backlog.
//!
//! **Known race.** Homeservers forget transaction ids after a day: a kill between the server's
//! answer and our note of it, followed by more than a day of downtime, posts that piece twice.

use super::split::{self, Cut};
use super::{Part, SendError, Transport, text};
use crate::failpoint::failpoint;
use crate::model::chat::{OutgoingContent, Weight};
use crate::model::ids::{MessageKey, OutboxId, RoomKey, SessionKey};
use crate::store::outbox::{self, Pending};
use crate::store::{Store, StoreError};
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::HashSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often the outbox is looked at without a hint.
const TICK: Duration = Duration::from_secs(30);

/// How long one attempt to post may take before it counts as failed for now.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// How long what is in flight may take when the sender is told to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The first wait after a failure that may pass; doubled each time.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);

/// The longest wait after a failure that may pass.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// How many rows of a room are read at once.
const BATCH: usize = 50;

/// Posts the outbox's rows, in order per room.
#[derive(Clone)]
pub struct Sender {
    store: Store,
    transport: Arc<dyn Transport>,
    /// What all transaction ids begin with, once it was read.
    installation: Arc<OnceLock<String>>,
}

/// What became of a room's oldest row.
#[derive(Clone)]
enum Outcome {
    /// It is posted, or needs no posting; the first piece's key, if there is one.
    Sent(Option<MessageKey>),
    /// It waits.
    Later(DateTime<Utc>, String),
    /// It will never be posted.
    Failed(String),
}

impl Sender {
    /// A sender of `store`'s outbox over `transport`.
    pub fn new(store: Store, transport: Arc<dyn Transport>) -> Self {
        Self { store, transport, installation: Arc::default() }
    }

    /// Posts rows as they come, until `cancel`; what is in flight then is awaited for a moment.
    pub async fn run(self, cancel: CancellationToken) {
        let mut changes = self.store.changes("outbox");
        let mut busy = HashSet::new();
        let mut tasks = JoinSet::new();
        loop {
            let next = self.start_rooms(&mut busy, &mut tasks, &cancel).await;
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                Some(done) = tasks.join_next() => forget(&mut busy, done),
                () = changes.changed() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
        // What is cut off here was perhaps posted; it is repeated under the same transaction id.
        let rest = async { while tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(STOP_TIMEOUT, rest).await;
    }

    /// Posts what is left, for shutdown, and says how many rows still wait at the deadline.
    ///
    /// Rows that were put off stay so. Nothing is lost by giving up: the next start posts what is
    /// left.
    pub async fn flush(&self, deadline: Duration) -> usize {
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        self.start_rooms(&mut HashSet::new(), &mut tasks, &cancel).await;
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(deadline, all).await.is_err() {
            tracing::warn!("messages are left to be posted at the next start");
        }
        self.store.read(outbox::count_pending).await.unwrap_or(0)
    }

    /// Starts a task for every room that something is due for and none works on; says when to
    /// look again.
    async fn start_rooms(
        &self,
        busy: &mut HashSet<RoomKey>,
        tasks: &mut JoinSet<RoomKey>,
        cancel: &CancellationToken,
    ) -> Instant {
        let mut next = Instant::now() + TICK;
        let waiting = match self.store.read(outbox::waiting_rooms).await {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::error!(%error, "cannot read the outbox");
                return Instant::now() + BACKOFF_FIRST;
            }
        };
        let now = self.store.clock().now();
        for (room, due) in waiting {
            if busy.contains(&room) || !self.transport.serves(&room) {
                continue;
            }
            if let Ok(wait) = (due - now).to_std()
                && !wait.is_zero()
            {
                next = next.min(Instant::now() + wait);
                continue;
            }
            busy.insert(room.clone());
            let (sender, cancel) = (self.clone(), cancel.clone());
            tasks.spawn(async move {
                if let Err(error) = sender.serve(&room, &cancel).await {
                    tracing::error!(%room, %error, "cannot work on the outbox");
                    tokio::time::sleep(BACKOFF_FIRST).await;
                }
                room
            });
        }
        next
    }

    /// Posts the rows of one room until none is left or one must wait.
    async fn serve(&self, room: &RoomKey, cancel: &CancellationToken) -> Result<(), StoreError> {
        let installation = self.installation().await?;
        loop {
            let of = room.clone();
            let rows = self.store.read(move |conn| outbox::pending_of(conn, &of, BATCH)).await?;
            if rows.is_empty() {
                return Ok(());
            }
            for (index, row) in rows.iter().enumerate() {
                if cancel.is_cancelled() || row.not_before > self.store.clock().now() {
                    return Ok(());
                }
                let outcome = if is_superseded(row, &rows[index + 1..]) {
                    Outcome::Sent(None)
                } else {
                    self.post(row, installation).await?
                };
                let waits = matches!(outcome, Outcome::Later(..));
                self.record(row.id, room, outcome).await?;
                if waits {
                    return Ok(());
                }
            }
        }
    }

    /// What all transaction ids begin with.
    async fn installation(&self) -> Result<&str, StoreError> {
        if let Some(known) = self.installation.get() {
            return Ok(known);
        }
        let found = self.store.write(outbox::installation_id).await?;
        Ok(self.installation.get_or_init(|| found))
    }

    async fn record(
        &self,
        id: OutboxId,
        room: &RoomKey,
        outcome: Outcome,
    ) -> Result<(), StoreError> {
        match &outcome {
            Outcome::Sent(_) => {}
            Outcome::Later(until, error) => {
                tracing::warn!(outbox = %id, %room, %until, %error, "a message waits to be posted");
            }
            Outcome::Failed(error) => {
                tracing::error!(outbox = %id, %room, %error, "a message cannot be posted");
            }
        }
        self.store
            .write(move |tx| match outcome {
                Outcome::Sent(key) => outbox::mark_sent(tx, id, key.as_ref()),
                Outcome::Later(until, error) => outbox::mark_retry(tx, id, until, &error),
                Outcome::Failed(error) => outbox::mark_failed(tx, id, &error),
            })
            .await
    }

    /// Posts what of a row is not posted yet.
    async fn post(&self, row: &Pending, installation: &str) -> Result<Outcome, StoreError> {
        let session = &row.outgoing.session;
        // The row whose pieces these are: an edit's are those of the row that it edits.
        let (owner, parts) = match &row.outgoing.content {
            OutgoingContent::Message { markdown, weight, mentions, reply_to } => {
                let mut parts = self.cut(row.id, markdown, *weight);
                if let Some(Part::Message { mentions: to, reply_to: answers, .. }) =
                    parts.first_mut()
                {
                    to.clone_from(mentions);
                    answers.clone_from(reply_to);
                }
                (row.id, parts)
            }
            OutgoingContent::Edit { of, markdown, weight } => {
                let (of, wanted) = (*of, session.room.clone());
                let room = self.store.read(move |conn| outbox::room_of(conn, of)).await?;
                if room.as_ref() != Some(&wanted) {
                    return Ok(Outcome::Failed(format!(
                        "it corrects message {of}, which is not in this room"
                    )));
                }
                (of, self.cut(of, markdown, *weight))
            }
            OutgoingContent::Reaction { to, key } => {
                let part = Part::Reaction { to: to.clone(), key: key.clone() };
                (row.id, vec![part])
            }
        };
        let editing = owner != row.id;
        self.post_parts(row, session, Plan { owner, editing, parts, installation }).await
    }

    /// The messages that a text becomes.
    fn cut(&self, id: OutboxId, markdown: &str, weight: Weight) -> Vec<Part> {
        let message =
            |markdown: String| Part::Message { markdown, weight, mentions: vec![], reply_to: None };
        match split::cut(markdown, self.transport.part_limit()) {
            Cut::Messages(pieces) => pieces.into_iter().map(message).collect(),
            Cut::File { summary } => vec![
                message(summary),
                Part::File {
                    name: format!("answer-{id}.md"),
                    media_type: "text/markdown",
                    content: markdown.to_owned(),
                },
            ],
        }
    }

    async fn post_parts(
        &self,
        row: &Pending,
        session: &SessionKey,
        plan: Plan<'_>,
    ) -> Result<Outcome, StoreError> {
        let owner = plan.owner;
        let known = self.store.read(move |conn| outbox::parts_of(conn, owner)).await?;
        let mut first = known.iter().find(|(part, _)| *part == 0).map(|(_, key)| key.clone());
        let surplus = known.len().saturating_sub(plan.parts.len());
        let blanks = std::iter::repeat_n(blank(), if plan.editing { surplus } else { 0 });
        for (number, part) in (0u32..).zip(plan.parts.iter().cloned().chain(blanks)) {
            let earlier = known.iter().find(|(part, _)| *part == number).map(|(_, key)| key);
            let part = match (earlier, plan.editing) {
                (Some(_), false) => continue,
                (Some(key), true) => match into_edit(part, key) {
                    Some(edit) => edit,
                    None => continue,
                },
                (None, _) => part,
            };
            let is_new = earlier.is_none();
            let txn_id = format!("{}-{}-{number}", plan.installation, row.id);
            match self.post_part(&txn_id, session, part).await {
                Ok(key) => {
                    failpoint("sent");
                    if number == 0 && first.is_none() {
                        first = Some(key.clone());
                    }
                    // The note of a row's only message is its being marked as sent.
                    if is_new && (plan.editing || plan.parts.len() > 1) {
                        self.store
                            .write(move |tx| outbox::record_part(tx, owner, number, &key))
                            .await?;
                    }
                }
                Err(SendError::RetryAfter(wait)) => {
                    return Ok(self.later(wait, "the server limits how much is posted".to_owned()));
                }
                Err(SendError::Temporary(error)) => {
                    return Ok(self.later(backoff(row.attempts), error));
                }
                Err(SendError::Permanent(error)) => return Ok(Outcome::Failed(error)),
            }
        }
        // An edit has no message of its own.
        Ok(Outcome::Sent(first.filter(|_| !plan.editing)))
    }

    async fn post_part(
        &self,
        txn_id: &str,
        session: &SessionKey,
        part: Part,
    ) -> Result<MessageKey, SendError> {
        let sent = self.try_part(txn_id, session, &part).await;
        match (sent, part) {
            // The text is kept in the outbox; the room at least learns that it is missing.
            (Err(SendError::Permanent(error)), Part::File { .. }) => {
                let note = Part::Message {
                    markdown: text::file_failed(&error),
                    weight: Weight::Text,
                    mentions: vec![],
                    reply_to: None,
                };
                self.try_part(&format!("{txn_id}-note"), session, &note).await
            }
            (sent, _) => sent,
        }
    }

    async fn try_part(
        &self,
        txn_id: &str,
        session: &SessionKey,
        part: &Part,
    ) -> Result<MessageKey, SendError> {
        let sent = self.transport.send(txn_id, session, part);
        tokio::time::timeout(SEND_TIMEOUT, sent).await.unwrap_or_else(|_elapsed| {
            Err(SendError::Temporary(format!("no answer within {} s", SEND_TIMEOUT.as_secs())))
        })
    }

    fn later(&self, wait: Duration, error: String) -> Outcome {
        let wait = TimeDelta::from_std(wait).unwrap_or(TimeDelta::hours(1));
        Outcome::Later(self.store.clock().now() + wait, error)
    }
}

/// What is to be posted of a row.
struct Plan<'a> {
    /// The row that the pieces belong to.
    owner: OutboxId,
    /// Whether pieces that are there already are to be changed.
    editing: bool,
    /// All pieces, in order.
    parts: Vec<Part>,
    /// What transaction ids begin with.
    installation: &'a str,
}

fn forget(busy: &mut HashSet<RoomKey>, done: Result<RoomKey, tokio::task::JoinError>) {
    match done {
        Ok(room) => {
            busy.remove(&room);
        }
        Err(error) => {
            // Which room it was died with the task: all are looked at again. A room that is still
            // being served is safe: its rows have fixed transaction ids.
            tracing::error!(%error, "posting panicked");
            busy.clear();
        }
    }
}

/// What an edit leaves of a piece that is not needed any more.
fn blank() -> Part {
    Part::Message {
        markdown: text::SEE_ABOVE.to_owned(),
        weight: Weight::Notice,
        mentions: vec![],
        reply_to: None,
    }
}

/// The piece as a change of the message `key`; `None` when that cannot be changed.
fn into_edit(part: Part, key: &MessageKey) -> Option<Part> {
    match part {
        Part::Message { markdown, weight, .. } => {
            Some(Part::Edit { of: key.clone(), markdown, weight })
        }
        Part::Edit { .. } | Part::Reaction { .. } | Part::File { .. } => None,
    }
}

/// Whether `row` is an edit of a message that a later row edits again.
fn is_superseded(row: &Pending, later: &[Pending]) -> bool {
    let OutgoingContent::Edit { of, .. } = &row.outgoing.content else { return false };
    later.iter().any(|other| {
        matches!(&other.outgoing.content, OutgoingContent::Edit { of: same, .. } if same == of)
    })
}

/// How long to wait after the attempt that follows `attempts` others, give or take a quarter.
fn backoff(attempts: u32) -> Duration {
    let wait = BACKOFF_FIRST.saturating_mul(1 << attempts.min(10)).min(BACKOFF_MAX);
    wait.mul_f64(rand::random_range(0.75..1.25))
}

#[cfg(test)]
mod tests;
