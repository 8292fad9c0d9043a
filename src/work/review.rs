//! A person's verdict on finished work: asked for in the room, bound to one commit, taken once.
//!
//! Level-triggered: an item that stands in [`Stage::ReviewHold`] without an open request for the
//! commit that is to be decided on is asked about, whatever hint came or was lost; and a branch
//! that got another commit meanwhile is checked and asked about anew. The request and the message
//! that asks are one transaction, so is its end with the move that ended it: [`left`] is called
//! wherever an item leaves the hold, and shows what became of the question in the message itself.
//!
//! **Known race.** A commit that is made while a person answers: what is merged is the commit that
//! the request named, never the newer one.

use super::world::{DiffSummary, World};
use super::{WorkError, apply_to, find, queue, system, text};
use crate::config::Config;
use crate::model::chat::{Outgoing, OutgoingContent, Weight};
use crate::model::ids::{ItemId, PersonId, SessionKey};
use crate::model::item::{Item, Origin, OriginKind};
use crate::model::stage::{Stage, StageEvent};
use crate::store::decisions::{self, What};
use crate::store::gate_runs::{self, GateRunRow, Place};
use crate::store::requests::{self, NewRequest, Request, RequestKind, RequestState};
use crate::store::{Store, Tx, items, outbox};
use chrono::Duration;
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// The shortest time between two reminders after the first.
const DAILY: Duration = Duration::hours(24);
/// How many gate runs are read to find those of a commit.
const GATE_RUNS: usize = 40;

/// An item that waits for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hold {
    /// The item.
    pub item: ItemId,
    /// Whether the room was asked about it as it stands.
    pub asked: bool,
}

/// What a person decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is to be merged.
    Approve,
    /// It is turned down, with their words.
    Reject(String),
}

/// The items that wait for a person and can be asked about: somebody hears of them.
pub(super) fn holds(tx: &Tx<'_>) -> Result<Vec<Hold>, WorkError> {
    let mut holds = Vec::new();
    for item in items::standing_since(tx, "review_hold", i64::MAX)? {
        let Stage::ReviewHold { commit, .. } = &item.stage else { continue };
        if queue::room_of(tx, &item)?.is_some() {
            let asked = open_request(tx, item.id, commit)?.is_some();
            holds.push(Hold { item: item.id, asked });
        } else {
            let why = "no room is known in which somebody could be asked: invite the bot to a \
                       room, or name one in the project's `room`";
            let inputs = json!({"commit": commit});
            decisions::note(tx, item.id, What::PutOff, "no_room", why, &inputs)?;
        }
    }
    Ok(holds)
}

fn open_request(
    conn: &Connection,
    item: ItemId,
    commit: &str,
) -> Result<Option<Request>, WorkError> {
    let open = requests::list_open_of(conn, item, RequestKind::Approve)?;
    Ok(open.into_iter().find(|request| commit_of(request) == Some(commit)))
}

fn commit_of(request: &Request) -> Option<&str> {
    request.asked.what.get("commit").and_then(Value::as_str)
}

/// Looks at an item that waits for a person: checks a newer commit, and asks where nobody was
/// asked. Safe to repeat.
pub(super) async fn look(
    store: &Store,
    world: &dyn World,
    id: ItemId,
    cancel: &CancellationToken,
) -> Result<(), WorkError> {
    let Some(mut item) = store.read(move |conn| items::find(conn, id)).await? else {
        return Ok(());
    };
    let Stage::ReviewHold { commit, .. } = &item.stage else { return Ok(()) };
    let mut commit = commit.clone();
    match world.tip(&item).await {
        Ok(Some(tip)) if tip != commit => {
            // So that the person is asked about something that was checked.
            let ran = world.run_gates(&item, &tip, cancel).await;
            if cancel.is_cancelled() {
                return Ok(());
            }
            if let Err(error) = ran {
                let error = format!("{error:#}");
                tracing::warn!(item = id.0, error, "the gates did not run on a newer commit");
            }
            let (before, newer) = (item.clone(), tip.clone());
            match store.write(move |tx| recommitted(tx, &before, &newer)).await? {
                Some(now) => (item, commit) = (now, tip),
                None => return Ok(()),
            }
        }
        Ok(_) => {}
        Err(error) => {
            let error = format!("{error:#}");
            tracing::warn!(item = id.0, error, "cannot see whether a newer commit waits");
        }
    }
    let known = commit.clone();
    if store.read(move |conn| open_request(conn, id, &known)).await?.is_some() {
        return Ok(());
    }
    let summary = world.diff_summary(&item, &commit).await.map_err(|error| {
        let error = format!("{error:#}");
        tracing::warn!(item = id.0, error, "a review is asked for without its summary");
        error
    });
    store.write(move |tx| ask(tx, id, &commit, summary.as_ref().map_err(String::as_str))).await
}

/// Notes a newer commit, if the item still stands where it stood.
fn recommitted(tx: &Tx<'_>, before: &Item, tip: &str) -> Result<Option<Item>, WorkError> {
    let item = find(tx, before.id)?;
    if item.stage != before.stage {
        return Ok(None);
    }
    let cause = format!("its branch has a newer commit, {}", text::short(tip));
    let event = StageEvent::Recommitted { commit: tip.to_owned() };
    apply_to(tx, &item, &event, &system(tx), &cause).map(Some)
}

/// Asks the room about the commit, if that is still what is to be decided and nobody has asked.
fn ask(
    tx: &Tx<'_>,
    id: ItemId,
    commit: &str,
    summary: Result<&DiffSummary, &str>,
) -> Result<(), WorkError> {
    let Some(item) = items::find(tx, id)? else { return Ok(()) };
    let waits = matches!(&item.stage, Stage::ReviewHold { commit: held, .. } if held == commit);
    if !waits || open_request(tx, id, commit)?.is_some() {
        return Ok(());
    }
    let Some(room) = queue::room_of(tx, &item)? else { return Ok(()) };
    let session = SessionKey::main(room);
    let gates = gates_on(tx, id, commit)?;
    let head = text::review(&item, commit, summary, &gates);
    let request = requests::open(
        tx,
        &NewRequest {
            kind: RequestKind::Approve,
            session: session.clone(),
            outbox: None,
            item: Some(id),
            agent_session: None,
            what: json!({"commit": commit, "text": head}),
            deadline: None,
        },
    )?;
    let markdown = format!("{head}\n\n{}", text::how_to_decide(id));
    let outgoing = addressed(&item, Outgoing::text(session, markdown).about(id));
    let row = outbox::enqueue(tx, &outgoing, Some(&format!("work.review:{request}")))?;
    requests::asked_by(tx, request, row)?;
    Ok(())
}

/// The same, pinging who filed the item, if that is a person.
fn addressed(item: &Item, outgoing: Outgoing) -> Outgoing {
    match item.origin.kind {
        OriginKind::User => outgoing.mentioning(PersonId(item.origin.id.clone())),
        OriginKind::Agent | OriginKind::Bot | OriginKind::Timer | OriginKind::System => outgoing,
    }
}

/// The newest run of each gate in the item's worktree on `commit`, in the order in which they ran.
fn gates_on(conn: &Connection, id: ItemId, commit: &str) -> Result<Vec<GateRunRow>, WorkError> {
    let mut found: Vec<GateRunRow> = Vec::new();
    for run in gate_runs::newest_of(conn, id, GATE_RUNS)? {
        let here = run.place == Place::Worktree && run.commit.as_deref() == Some(commit);
        if here && found.iter().all(|known| known.gate != run.gate) {
            found.push(run);
        }
    }
    found.reverse();
    Ok(found)
}

/// Closes what was asked about an item that has left the hold, or stands in it with another
/// commit, and shows the outcome in the message that asked.
pub(super) fn left(
    tx: &Tx<'_>,
    item: ItemId,
    to: Option<&Stage>,
    cause: &str,
    origin: &Origin,
) -> Result<(), WorkError> {
    for request in requests::list_open_of(tx, item, RequestKind::Approve)? {
        let held = match to {
            Some(Stage::ReviewHold { commit, .. }) => Some(commit.as_str()),
            Some(_) | None => None,
        };
        if held.is_some() && held == commit_of(&request) {
            continue;
        }
        let outcome = text::verdict(to, cause, origin);
        let answer = match (to, origin.kind) {
            (Some(Stage::Merge { .. }), OriginKind::User) => Some("yes"),
            (Some(Stage::Rejected { .. }), OriginKind::User) => Some("no"),
            (Some(_) | None, _) => None,
        };
        match answer {
            Some(word) => {
                requests::answer(tx, request.id, word, &PersonId(origin.id.clone()))?;
            }
            None => {
                let why = match held {
                    Some(newer) => format!("there is a newer commit, {}", text::short(newer)),
                    None => text::first_line(cause).to_owned(),
                };
                requests::withdraw_one(tx, request.id, &why)?;
            }
        }
        show(tx, &request, &outcome)?;
    }
    Ok(())
}

/// Puts the outcome into the message that asked, in place of how to answer.
fn show(tx: &Tx<'_>, request: &Request, outcome: &str) -> Result<(), WorkError> {
    let Some(of) = request.asked.outbox else { return Ok(()) };
    let head = request.asked.what.get("text").and_then(Value::as_str).unwrap_or_default();
    let markdown = format!("{head}\n\n{outcome}");
    let content = OutgoingContent::Edit { of, markdown, weight: Weight::Text };
    let session = request.asked.session.clone();
    let edit = Outgoing { session, content, item: request.asked.item };
    outbox::enqueue(tx, &edit, Some(&format!("work.review:{}:outcome", request.id)))?;
    Ok(())
}

/// Carries out a person's verdict on what a message asked; the message binds it to a commit.
pub fn decide(
    tx: &Tx<'_>,
    request: &Request,
    verdict: &Verdict,
    origin: &Origin,
) -> Result<Item, WorkError> {
    let Some(id) = request.asked.item else {
        return Err(WorkError::Refused("that message asks about no item".to_owned()));
    };
    let item = find(tx, id)?;
    let commit = commit_of(request).unwrap_or_default();
    if request.state != RequestState::Open {
        let how = match (request.answer.as_deref(), &request.answered_by) {
            (Some("yes"), Some(who)) => format!("{who} approved it"),
            (Some("no"), Some(who)) => format!("{who} rejected it"),
            (Some(words), _) => words.to_owned(),
            (None, _) => "it was withdrawn".to_owned(),
        };
        return Err(WorkError::Refused(format!(
            "that question about item {id} ({}) is closed: {how}. `status {id}` shows where it \
             stands",
            text::short(commit)
        )));
    }
    let held = matches!(&item.stage, Stage::ReviewHold { commit: held, .. } if held == commit);
    if !held {
        return Err(WorkError::Refused(format!(
            "item {id} does not wait for a verdict on {} any more: it is in {}",
            text::short(commit),
            item.stage.name().replace('_', " ")
        )));
    }
    let (event, cause) = match verdict {
        Verdict::Approve => (StageEvent::Approved, format!("approved by {}", origin.id)),
        Verdict::Reject(why) => {
            (StageEvent::Rejected { reason: why.clone() }, format!("rejected by {}", origin.id))
        }
    };
    apply_to(tx, &item, &event, origin, &cause)
}

/// Refuses when `commit` (or its beginning) is not what a person has to decide on now.
pub fn check_commit(conn: &Connection, id: ItemId, commit: &str) -> Result<(), WorkError> {
    let item = find(conn, id)?;
    match &item.stage {
        Stage::ReviewHold { commit: held, .. } if !held.starts_with(commit) => {
            Err(WorkError::Refused(format!(
                "what waits for your verdict on item {id} is {}, not `{commit}`: `diff {id}` \
                 shows it",
                text::short(held)
            )))
        }
        // Whatever else stands there is refused by the stage machine, in its own words.
        Stage::ReviewHold { .. }
        | Stage::Upcoming
        | Stage::Backlog
        | Stage::Coding { .. }
        | Stage::Blocked { .. }
        | Stage::Qa { .. }
        | Stage::Merge { .. }
        | Stage::MergeFailure { .. }
        | Stage::MergeFailureFinal { .. }
        | Stage::Done { .. }
        | Stage::Archived { .. }
        | Stage::Frozen { .. }
        | Stage::Abandoned { .. }
        | Stage::Superseded { .. }
        | Stage::Rejected { .. } => Ok(()),
    }
}

/// Reminds people of what has waited for their verdict for long.
pub(super) fn remind(tx: &Tx<'_>, config: &Config) -> Result<(), WorkError> {
    let first = i64::try_from(config.chat.review_reminder_s).unwrap_or(i64::MAX / 1000);
    if first == 0 {
        return Ok(());
    }
    let first = Duration::try_seconds(first).unwrap_or(Duration::MAX);
    let now = crate::clock::from_millis(tx.now());
    for request in requests::list_open(tx)? {
        let (RequestKind::Approve, Some(id)) = (request.asked.kind, request.asked.item) else {
            continue;
        };
        let due = match request.reminded_at {
            None => now - request.created_at >= first,
            Some(at) => now - at >= first.max(DAILY),
        };
        if !due {
            continue;
        }
        let Some(item) = items::find(tx, id)? else { continue };
        let waited = text::span(now - request.created_at);
        let commit = commit_of(&request).unwrap_or_default();
        let words = text::review_reminder(&item, commit, &waited);
        let session = request.asked.session.clone();
        let mut outgoing = addressed(&item, Outgoing::text(session, words).about(id));
        if let OutgoingContent::Message { reply_to, .. } = &mut outgoing.content
            && let Some(asked) = request.asked.outbox
        {
            *reply_to = outbox::sent_key(tx, asked)?;
        }
        let key = format!("work.review:{}:remind:{}", request.id, tx.now());
        let row = outbox::enqueue(tx, &outgoing, Some(&key))?;
        requests::reminded_by(tx, request.id, row)?;
    }
    Ok(())
}
