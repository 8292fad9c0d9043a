//! What agents ask people: permissions that no rule decides, and questions.
//!
//! **Forces.** People are on telephones: an answer comes after a second, after an hour, or after a
//! restart. A turn that waits holds a process, so it waits for a while only. A model that was told
//! "no answer" asks again for ever, unless its turn ends with it.
//!
//! **Properties.** A request is a row, posted in the transaction that made it, and bound to the
//! room, the agent's session and the exact thing that was asked: an answer counts for that, once.
//! While a turn waits for it (`turn`), the turn takes the answer; when none does any more
//! (`lapsed_at`, a crash, a restart), the answer wakes the session with a prompt, and is kept for
//! the moment in which the agent asks for the same again. The message always shows where its
//! request stands.
//!
//! **Known race.** An answer in the moment in which the wait ends: both are transactions, so either
//! the turn takes it or the session is woken by it.

mod text;

pub(super) use text::denied;

use super::permission::SessionRule;
use crate::model::chat::{Outgoing, OutgoingContent, Weight};
use crate::model::ids::{
    AgentName, AgentSessionId, ItemId, OutboxId, PersonId, RequestId, SessionKey, TurnId,
};
use crate::model::item::OriginKind;
use crate::store::agents as sessions;
use crate::store::requests::{self, NewRequest, Request, RequestKind, RequestState};
use crate::store::{StoreError, Tx, items, outbox, rooms};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

/// Who asks.
#[derive(Debug, Clone)]
pub struct Asker {
    /// The agent.
    pub agent: AgentName,
    /// Its session.
    pub session: AgentSessionId,
    /// The item.
    pub item: ItemId,
    /// The turn that waits for the answer; `None`: the session does, after its turn.
    pub turn: Option<TurnId>,
    /// How long the turn waits.
    pub patience: Duration,
}

/// What a person decided about a permission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "permit", rename_all = "snake_case")]
pub enum Permit {
    /// This once.
    Once,
    /// Now and as often as the agent's session asks for the same.
    Session,
    /// No, with their words.
    Deny {
        /// For the agent; may be empty.
        why: String,
    },
}

/// A question, with what may be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The question.
    pub text: String,
    /// The answers to choose from; a person may say something else.
    pub options: Vec<String>,
    /// Whether several of them may be chosen.
    pub several: bool,
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Asked {
    /// It is open.
    Open(RequestId),
    /// It was answered before it was asked again.
    Answered(Box<Request>),
    /// No room hears of the item.
    Nobody,
}

/// Why an answer was not taken.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// For the person who answered.
    #[error("{0}")]
    Refused(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The exact thing that is asked, in the terms of this module: what `requests.what` holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct What {
    /// Names the exact request; the same one again has the same key.
    key: String,
    agent: AgentName,
    /// The message, without how to answer it.
    head: String,
    /// A permission: what "for this session" would store, or why it cannot.
    #[serde(default)]
    rules: Vec<SessionRule>,
    #[serde(default)]
    only_once: Option<String>,
    /// A question: what may be chosen.
    #[serde(default)]
    options: Vec<String>,
    #[serde(default)]
    several: bool,
    /// In a few words, for the agent and for lists.
    brief: String,
}

fn what(request: &Request) -> Option<What> {
    serde_json::from_value(request.asked.what.clone()).ok()
}

/// Asks whether a tool may run.
pub(super) fn permission(
    tx: &Tx<'_>,
    asker: &Asker,
    tool: &str,
    input: &Value,
    for_session: Result<Vec<SessionRule>, String>,
) -> Result<Asked, StoreError> {
    let (rules, only_once) = match for_session {
        Ok(rules) => (rules, None),
        Err(why) => (vec![], Some(why)),
    };
    let head = |name: &str| text::permission(&asker.agent, asker.item, name, tool, input);
    let what = What {
        key: key(tool, input),
        agent: asker.agent.clone(),
        head: String::new(),
        rules,
        only_once,
        options: vec![],
        several: false,
        brief: text::brief(tool, input),
    };
    ask(tx, asker, RequestKind::Permission, what, head)
}

/// Asks a question.
pub(super) fn question(
    tx: &Tx<'_>,
    asker: &Asker,
    question: &Question,
) -> Result<Asked, StoreError> {
    let head = |name: &str| text::question(&asker.agent, asker.item, name, question);
    let what = What {
        key: format!("question:{}", question.text.trim()),
        agent: asker.agent.clone(),
        head: String::new(),
        rules: vec![],
        only_once: None,
        options: question.options.clone(),
        several: question.several,
        brief: question.text.chars().take(300).collect(),
    };
    ask(tx, asker, RequestKind::Question, what, head)
}

/// Asks a question after which the agent ends its turn; says whether anybody will hear it.
pub fn ask_after_turn(tx: &Tx<'_>, asker: &Asker, asked: &Question) -> Result<bool, StoreError> {
    Ok(question(tx, asker, asked)? != Asked::Nobody)
}

/// Names an exact call of a tool. What only describes it does not count.
fn key(tool: &str, input: &Value) -> String {
    let mut exact = input.clone();
    if let Some(fields) = exact.as_object_mut() {
        for note in ["description", "timeout", "reason"] {
            fields.shift_remove(note);
        }
    }
    let exact = exact.to_string();
    // Inputs may be files: the row holds what is shown, and this.
    let name = Uuid::new_v5(&Uuid::NAMESPACE_OID, exact.as_bytes());
    format!("{tool}:{}:{name}", exact.len())
}

fn ask(
    tx: &Tx<'_>,
    asker: &Asker,
    kind: RequestKind,
    mut asked: What,
    head: impl Fn(&str) -> String,
) -> Result<Asked, StoreError> {
    let same = |request: &Request| what(request).is_some_and(|what| what.key == asked.key);
    let known = requests::unused_of(tx, asker.session, kind)?.into_iter().find(same);
    if let Some(request) = known {
        if request.state == RequestState::Answered {
            requests::used(tx, request.id)?;
            return Ok(Asked::Answered(Box::new(request)));
        }
        if let Some(turn) = asker.turn {
            requests::bind(tx, request.id, turn)?;
            if request.lapsed_at.is_some() {
                let how = text::how(&request, &what_of(&request, &asked), asker.patience);
                show(tx, &request, &format!("again:{turn}"), &how)?;
            }
        }
        return Ok(Asked::Open(request.id));
    }
    let Some(item) = items::find(tx, asker.item)? else { return Ok(Asked::Nobody) };
    let Some(room) = rooms::of_item(tx, &item)? else { return Ok(Asked::Nobody) };
    asked.head = head(&item.name);
    let session = SessionKey::main(room);
    let new = NewRequest {
        kind,
        session: session.clone(),
        outbox: None,
        item: Some(item.id),
        agent_session: Some(asker.session),
        what: json!(asked),
        // It may be answered as long as the agent's session lasts.
        deadline: None,
    };
    let id = requests::open(tx, &new)?;
    if let Some(turn) = asker.turn {
        requests::bind(tx, id, turn)?;
    }
    let Some(request) = requests::find(tx, id)? else { return Ok(Asked::Nobody) };
    let markdown = format!("{}\n\n{}", asked.head, text::how(&request, &asked, asker.patience));
    let mut outgoing = Outgoing::text(session, markdown).about(item.id);
    if item.origin.kind == OriginKind::User {
        outgoing = outgoing.mentioning(PersonId(item.origin.id.clone()));
    }
    let row = outbox::enqueue(tx, &outgoing, Some(&format!("agents.ask:{id}")))?;
    requests::asked_by(tx, id, row)?;
    Ok(Asked::Open(id))
}

/// What a stored request asks; `asked` where it cannot be read.
fn what_of(request: &Request, asked: &What) -> What {
    what(request).unwrap_or_else(|| asked.clone())
}

/// Shows in the message where its request stands. `step` names the state: each is shown once.
fn show(tx: &Tx<'_>, request: &Request, step: &str, words: &str) -> Result<(), StoreError> {
    let (Some(of), Some(what)) = (message(tx, request)?, what(request)) else { return Ok(()) };
    let content = OutgoingContent::Edit {
        of,
        markdown: format!("{}\n\n{words}", what.head),
        weight: Weight::Text,
    };
    let session = request.asked.session.clone();
    let edit = Outgoing { session, content, item: request.asked.item };
    outbox::enqueue(tx, &edit, Some(&format!("agents.ask:{}:{step}", request.id)))?;
    Ok(())
}

fn message(conn: &Connection, request: &Request) -> Result<Option<OutboxId>, StoreError> {
    match request.asked.outbox {
        Some(outbox) => Ok(Some(outbox)),
        // It was read before its message was noted.
        None => Ok(requests::find(conn, request.id)?.and_then(|found| found.asked.outbox)),
    }
}

/// The turn waits no longer: says so in the message. `false` when there is an answer by now.
pub(super) fn lapse(tx: &Tx<'_>, id: RequestId, patience: Duration) -> Result<bool, StoreError> {
    if !requests::lapse(tx, id)? {
        return Ok(false);
    }
    if let Some(request) = requests::find(tx, id)?
        && let Some(asked) = what(&request)
    {
        let at = request.lapsed_at.map_or(0, |at| at.timestamp_millis());
        show(tx, &request, &format!("lapsed:{at}"), &text::lapsed(&request, &asked, patience))?;
    }
    Ok(true)
}

/// The runtime does not want to know any more: closes the request in the room.
pub(super) fn withdraw(tx: &Tx<'_>, id: RequestId, why: &str) -> Result<(), StoreError> {
    if requests::withdraw_one(tx, id, why)?
        && let Some(request) = requests::find(tx, id)?
    {
        show(tx, &request, "closed", &format!("*Closed: {why}.*"))?;
    }
    Ok(())
}

/// Closes what was asked by sessions that are over.
pub(super) fn close_ended(tx: &Tx<'_>) -> Result<(), StoreError> {
    for request in requests::open_of_ended_sessions(tx)? {
        withdraw(tx, request.id, "the agent's work on this has ended")?;
    }
    Ok(())
}

/// What a session waits for a person to say, in a few words; `None`: nothing.
pub(super) fn open_of(
    conn: &Connection,
    session: AgentSessionId,
) -> Result<Option<String>, StoreError> {
    for kind in [RequestKind::Permission, RequestKind::Question] {
        let open = requests::unused_of(conn, session, kind)?;
        let open = open.into_iter().find(|request| request.state == RequestState::Open);
        if let Some(request) = open {
            return Ok(Some(detail(&request)));
        }
    }
    Ok(None)
}

/// What is waited for, as the board shows it.
pub(super) fn detail(request: &Request) -> String {
    let brief = what(request).map(|what| what.brief).unwrap_or_default();
    match request.asked.kind {
        RequestKind::Permission => {
            format!("permission for {brief} (`allow {0}` or `deny {0}`)", request.id)
        }
        RequestKind::Question | RequestKind::Confirm | RequestKind::Approve => {
            format!("an answer (`answer {} …`): {brief}", request.id)
        }
    }
}

/// What a person decided about an answered request; `None` when it is none of that kind.
pub(super) fn permit_of(request: &Request) -> Option<Permit> {
    serde_json::from_str(request.answer.as_deref()?).ok()
}

/// Takes a person's decision about a permission; returns what to say.
pub fn decide(
    tx: &Tx<'_>,
    request: &Request,
    permit: &Permit,
    by: &PersonId,
) -> Result<String, AnswerError> {
    let asked = still_open(tx, request, RequestKind::Permission)?;
    if let (Permit::Session, Some(why)) = (permit, &asked.only_once) {
        return Err(AnswerError::Refused(format!(
            "that can be allowed only once at a time, because {why}: ✅, or `allow {}`",
            request.id
        )));
    }
    let stored = json!(permit).to_string();
    if !requests::answer(tx, request.id, &stored, by)? {
        return Err(closed(request));
    }
    if let (Permit::Session, Some(session)) = (permit, request.asked.agent_session) {
        for rule in &asked.rules {
            requests::allow_for_session(tx, session, &json!(rule), request.id)?;
        }
    }
    show(tx, request, "answered", &text::decided(permit, by))?;
    wake(tx, request, &text::decided_for_agent(permit, by, &asked.brief))?;
    Ok(text::taken(permit, &asked.agent))
}

/// Takes a person's answer to a question; returns what to say.
pub fn reply(
    tx: &Tx<'_>,
    request: &Request,
    said: &str,
    by: &PersonId,
) -> Result<String, AnswerError> {
    let asked = still_open(tx, request, RequestKind::Question)?;
    let said = chosen(said, &asked);
    if said.is_empty() {
        return Err(AnswerError::Refused("say what the answer is".to_owned()));
    }
    if !requests::answer(tx, request.id, &said, by)? {
        return Err(closed(request));
    }
    show(tx, request, "answered", &format!("💬 {by}: {said}"))?;
    wake(tx, request, &format!("{by} answers your question “{}”: {said}", asked.brief))?;
    Ok(format!("Passed on to {}.", asked.agent))
}

/// The answer that a number stands for, where there are options; else what was said.
fn chosen(said: &str, asked: &What) -> String {
    let said = said.trim();
    let number = |text: &str| {
        let digits = text.trim().trim_start_matches('#').trim_end_matches(['.', ')', '\u{20e3}']);
        let at = digits.parse::<usize>().ok()?.checked_sub(1)?;
        asked.options.get(at).cloned()
    };
    let parts: Vec<&str> =
        if asked.several { said.split([',', ' ']).collect() } else { vec![said] };
    let parts = parts.into_iter().filter(|part| !part.trim().is_empty());
    let chosen: Option<Vec<String>> = parts.map(number).collect();
    match chosen {
        Some(chosen) if !chosen.is_empty() => chosen.join(", "),
        Some(_) | None => said.to_owned(),
    }
}

/// What is asked, if it is of that kind and still waits for an answer.
fn still_open(
    conn: &Connection,
    request: &Request,
    kind: RequestKind,
) -> Result<What, AnswerError> {
    let refused = |why: String| Err(AnswerError::Refused(why));
    if request.asked.kind != kind {
        let how = match request.asked.kind {
            RequestKind::Permission => format!("`allow {0}` or `deny {0} why`", request.id),
            RequestKind::Question => format!("`answer {} …`", request.id),
            RequestKind::Approve => "`approve N` or `reject N why`".to_owned(),
            RequestKind::Confirm => "yes or no".to_owned(),
        };
        return refused(format!("request {} wants another answer: {how}", request.id));
    }
    if request.state != RequestState::Open {
        return Err(closed(request));
    }
    let session = match request.asked.agent_session {
        Some(session) => sessions::find_session(conn, session)?,
        None => None,
    };
    if session.is_none_or(|session| session.state.is_over()) {
        return refused(format!("the agent that asked request {} has ended its work", request.id));
    }
    what(request).ok_or_else(|| {
        AnswerError::Refused(format!("request {} cannot be read any more", request.id))
    })
}

fn closed(request: &Request) -> AnswerError {
    let how = match (request.state, &request.answered_by) {
        (RequestState::Answered, Some(who)) => format!("{who} has answered it"),
        (RequestState::Withdrawn, _) => {
            request.answer.clone().unwrap_or_else(|| "it was withdrawn".to_owned())
        }
        (RequestState::Open | RequestState::Expired | RequestState::Answered, _) => {
            "it is over".to_owned()
        }
    };
    AnswerError::Refused(format!("request {} is closed: {how}", request.id))
}

/// Tells the session about an answer, unless a turn waits for it and takes it by itself.
fn wake(tx: &Tx<'_>, request: &Request, words: &str) -> Result<(), StoreError> {
    let Some(session) = request.asked.agent_session else { return Ok(()) };
    let waits = match request.turn {
        Some(turn) if request.lapsed_at.is_none() => {
            sessions::turn(tx, turn)?.is_some_and(|turn| turn.result.is_none())
        }
        Some(_) | None => false,
    };
    if waits {
        return Ok(());
    }
    if request.asked.kind == RequestKind::Question {
        // The prompt is the answer.
        requests::used(tx, request.id)?;
    }
    sessions::set_prompt(tx, session, words)?;
    Ok(())
}
