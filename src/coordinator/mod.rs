//! The coordinator: a model with tools that answers what people say.
//!
//! Forces: an answer must come exactly once and within limits, whatever dies when; what the model
//! did must not be done twice; and the room must see that something goes on. So:
//!
//! - A turn's conversation is stored step by step; its end, its messages' end and its answer are
//!   one transaction. A turn found running after a start goes on where its last row stands
//!   (`turn`).
//! - What happened since the last turn is told once: the session's positions in the logs move in
//!   the transaction that stores what was told.
//! - `stop` drops the model's connection and the tools' futures; the end is then written from what
//!   the store holds.
//!
//! Known races. *Stop against the answer*: whichever transaction ends the turn first, counts.
//! *Steering against the end*: a message that the turn did not take stays open and is asked next.

mod history;
mod input;
mod limits;
mod text;
mod turn;
mod view;

use crate::config::Config;
use crate::failpoint::failpoint;
use crate::llm::prompts::Prompts;
use crate::llm::tools::ToolHost;
use crate::llm::{Llm, LlmError};
use crate::model::chat::Incoming;
use crate::model::ids::{MessageKey, ProjectName, RoomKey, SessionKey};
use crate::model::llm::{LlmMessage, Part, Speaker};
use crate::project::Registry;
use crate::store::conversation::{self, Session, Stored, Turn, TurnState};
use crate::store::{Store, StoreError, Tx, inbox};
use limits::Limit;
use rusqlite::Connection;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use turn::{Broken, Ending, Run};
use view::View;

/// What a turn is run over.
#[derive(Debug)]
pub struct TurnInput {
    /// The conversation.
    pub session: SessionKey,
    /// The messages, in order; empty to go on with the session's turn of before a restart.
    pub batch: Vec<Incoming>,
    /// Messages for the running turn, given to it at its next step. What it does not take stays
    /// open in the inbox.
    pub steer: mpsc::Receiver<Incoming>,
}

/// How a turn ended. The room has been told in every case but `Nothing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnEnd {
    /// With an answer.
    Answered,
    /// Somebody stopped it.
    Cancelled,
    /// With an error or at a limit.
    Failed,
    /// There was nothing to answer.
    Nothing,
}

/// Says which project a room is about.
pub trait Projects: Send + Sync {
    /// The project that the room is switched or bound to, or the only one.
    fn current(&self, conn: &Connection, room: &RoomKey)
    -> Result<Option<ProjectName>, StoreError>;

    /// All projects.
    fn names(&self) -> Vec<ProjectName>;
}

impl Projects for Registry {
    fn current(
        &self,
        conn: &Connection,
        room: &RoomKey,
    ) -> Result<Option<ProjectName>, StoreError> {
        Ok(Registry::current(self, conn, room)?.map(|project| project.name))
    }

    fn names(&self) -> Vec<ProjectName> {
        self.list().into_iter().map(|project| project.name).collect()
    }
}

/// The coordinator. Cloning shares it.
#[derive(Clone)]
pub struct Coordinator {
    inner: Arc<Inner>,
}

/// What turns need.
struct Inner {
    store: Store,
    config: Arc<Config>,
    llm: Llm,
    tools: Arc<dyn ToolHost>,
    prompts: Prompts,
    projects: Arc<dyn Projects>,
}

/// What the transaction that opens a turn found.
struct Opened {
    turn: i64,
    epoch: i64,
    model: Option<String>,
    batch: Vec<Incoming>,
    project: Option<ProjectName>,
    said: Vec<String>,
}

impl Coordinator {
    /// A coordinator that asks `llm` and carries out `tools`.
    pub fn new(
        store: Store,
        config: Arc<Config>,
        llm: Llm,
        tools: Arc<dyn ToolHost>,
        prompts: Prompts,
        projects: Arc<dyn Projects>,
    ) -> Self {
        Self { inner: Arc::new(Inner { store, config, llm, tools, prompts, projects }) }
    }

    /// Runs one turn to its end. An error means that nothing could be written at all.
    ///
    /// When `cancel` comes it ends within a moment, in words. Dropped midway it stays running in
    /// the store and can be resumed.
    pub async fn run_turn(
        &self,
        input: TurnInput,
        cancel: CancellationToken,
    ) -> Result<TurnEnd, StoreError> {
        let TurnInput { session, batch, steer } = input;
        let resume = batch.is_empty();
        let Some(opened) = self.open(&session, batch, resume).await? else {
            return Ok(TurnEnd::Nothing);
        };
        failpoint("turn-began");
        let view = View::new(opened.said);
        let (system, llm) = (self.system(opened.project.as_ref()), self.llm(opened.model));
        let mut run = Run {
            inner: &self.inner,
            llm: self.inner.llm.clone(),
            id: opened.turn,
            key: session.clone(),
            epoch: opened.epoch,
            system: String::new(),
            project: opened.project,
            steer,
            batch: opened.batch,
            cancel: cancel.clone(),
        };
        let ending = match (system, llm) {
            (Ok(system), Ok(llm)) => {
                (run.system, run.llm) = (system, llm);
                self.until_end(&mut run, &view, &cancel).await
            }
            (Err(error), _) => Ending::Broken(Broken::Error(error)),
            (_, Err(error)) => Ending::Broken(Broken::Error(error.to_string())),
        };
        Ok(match run.settle(ending, &view).await? {
            TurnState::Done | TurnState::Running => TurnEnd::Answered,
            TurnState::Cancelled => TurnEnd::Cancelled,
            TurnState::Failed => TurnEnd::Failed,
        })
    }

    /// Takes steps, shows the answer as it grows, and watches for the stop and the time.
    async fn until_end(
        &self,
        run: &mut Run<'_>,
        view: &View,
        cancel: &CancellationToken,
    ) -> Ending {
        let most = Duration::from_secs(self.inner.config.llm.max_turn_seconds);
        let interval = Duration::from_millis(self.inner.config.chat.stream_edit_ms);
        let (key, id) = (run.key.clone(), run.id);
        tokio::select! {
            biased;
            () = cancel.cancelled() => Ending::Cancelled,
            outcome = run.steps(view) => match outcome {
                Ok(answer) => Ending::Answered(answer),
                Err(_) if cancel.is_cancelled() => Ending::Cancelled,
                Err(broken) => Ending::Broken(broken),
            },
            () = tokio::time::sleep(most) => Ending::Broken(Broken::Limit(Limit::Time(most))),
            never = view.show(&self.inner.store, &key, id, interval) => match never {},
        }
    }

    /// Opens a turn over `batch`, or takes up the one that runs; `None` when there is nothing.
    async fn open(
        &self,
        session: &SessionKey,
        batch: Vec<Incoming>,
        resume: bool,
    ) -> Result<Option<Opened>, StoreError> {
        let key = session.clone();
        let projects = Arc::clone(&self.inner.projects);
        let context = self.inner.config.chat.context_messages;
        let write = self.inner.store.write(move |tx| {
            let project = projects.current(tx, &key.room)?;
            if resume {
                take_up(tx, &key, project)
            } else {
                begin(tx, &key, batch, project, context)
            }
        });
        write.await
    }

    fn system(&self, project: Option<&ProjectName>) -> Result<String, String> {
        let project = project.map(ProjectName::as_str);
        let projects: Vec<String> =
            self.inner.projects.names().into_iter().map(|name| name.0).collect();
        let values = minijinja::context! { project => project, projects => projects };
        self.inner.prompts.render("coordinator", values).map_err(|error| error.to_string())
    }

    fn llm(&self, model: Option<String>) -> Result<Llm, LlmError> {
        match model {
            Some(model) if model != self.inner.llm.name() && !self.inner.llm.is_recorded() => {
                Llm::new(&self.inner.config.llm, Some(&model))
            }
            Some(_) | None => Ok(self.inner.llm.clone()),
        }
    }

    /// The model that answers where no other was chosen.
    pub fn model(&self) -> &Llm {
        &self.inner.llm
    }
}

/// Opens a turn over `batch`: stores what the model is told and takes the messages.
fn begin(
    tx: &Tx<'_>,
    key: &SessionKey,
    batch: Vec<Incoming>,
    project: Option<ProjectName>,
    context: usize,
) -> Result<Option<Opened>, StoreError> {
    let mut open = Vec::new();
    for incoming in batch {
        if !conversation::is_settled(tx, &incoming.key)? {
            open.push(incoming);
        }
    }
    if open.is_empty() {
        return Ok(None);
    }
    let session = conversation::ensure_session(tx, key)?;
    let before = conversation::last_turn(tx, key)?;
    let again = match &before {
        Some(last) => is_retry(tx, key, &session, last, &open)?,
        None => false,
    };
    let epoch = history::compact(tx, key, session.epoch, None, history::Need::IfLong)?;
    let turn = conversation::open_turn(tx, key, epoch)?;
    let mut parts = Vec::new();
    let news = input::news(tx, key, &session, project.as_ref())?;
    parts.extend(news.block);
    parts.extend(input::overheard(&conversation::take_overheard(tx, key, context, turn)?));
    let unanswered = conversation::history(tx, key, epoch)?
        .last()
        .is_some_and(|row| row.message.speaker == Speaker::User);
    if !again {
        parts.push(input::messages(&open));
    } else if parts.is_empty() && !unanswered {
        parts.push(text::GO_ON.to_owned());
    }
    // Asked again right where it broke off: the conversation already ends with the question.
    if !parts.is_empty() {
        let parts = parts.into_iter().map(|text| Part::Text { text }).collect();
        let message = LlmMessage { speaker: Speaker::User, parts };
        conversation::append(tx, key, epoch, turn, &message)?;
    }
    conversation::mark_seen(tx, key, news.transitions, news.events)?;
    let keys: Vec<MessageKey> = open.iter().map(|incoming| incoming.key.clone()).collect();
    inbox::mark_taken(tx, &keys, turn)?;
    let (model, said) = (session.model, vec![]);
    Ok(Some(Opened { turn, epoch, model, batch: open, project, said }))
}

/// Whether a batch is the one that the session's last turn failed to answer.
fn is_retry(
    conn: &Connection,
    key: &SessionKey,
    session: &Session,
    last: &Turn,
    batch: &[Incoming],
) -> Result<bool, StoreError> {
    match last.state {
        TurnState::Failed | TurnState::Cancelled => {}
        TurnState::Running | TurnState::Done => return Ok(false),
    }
    let asked = input::messages(batch);
    let history = conversation::history(conn, key, session.epoch)?;
    let is_asked = |part: &Part| matches!(part, Part::Text { text } if *text == asked);
    Ok(history.iter().rev().any(|row| row.message.parts.iter().any(is_asked)))
}

/// Takes up the session's turn of before a restart.
fn take_up(
    tx: &Tx<'_>,
    key: &SessionKey,
    project: Option<ProjectName>,
) -> Result<Option<Opened>, StoreError> {
    let Some(turn) = running_turn(tx, key)? else { return Ok(None) };
    let said = |row: &Stored| {
        let mine = row.turn == turn.id && row.message.speaker == Speaker::Assistant;
        mine.then(|| row.message.text()).filter(|text| !text.trim().is_empty())
    };
    let said = conversation::history(tx, key, turn.epoch)?.iter().filter_map(said).collect();
    let model = conversation::find_session(tx, key)?.and_then(|session| session.model);
    let batch = conversation::batch_of(tx, turn.id)?;
    Ok(Some(Opened { turn: turn.id, epoch: turn.epoch, model, batch, project, said }))
}

fn running_turn(conn: &Connection, key: &SessionKey) -> Result<Option<Turn>, StoreError> {
    Ok(conversation::running_turns(conn)?.into_iter().find(|turn| turn.session == *key))
}

/// The sessions whose turn was cut off by the end of the program: each is to be run with an empty
/// batch.
pub fn resume_turns(conn: &Connection) -> Result<Vec<SessionKey>, StoreError> {
    let mut sessions: Vec<SessionKey> =
        conversation::running_turns(conn)?.into_iter().map(|turn| turn.session).collect();
    sessions.dedup();
    Ok(sessions)
}

/// Ends the session's running turn in the store, with its messages: for a turn that broke or did
/// not listen. Says nothing in the room.
pub fn abandon(tx: &Tx<'_>, key: &SessionKey, cancelled: bool) -> Result<(), StoreError> {
    let Some(turn) = running_turn(tx, key)? else { return Ok(()) };
    let (state, error) = if cancelled {
        (TurnState::Cancelled, None)
    } else {
        (TurnState::Failed, Some("the turn broke"))
    };
    if conversation::end_turn(tx, turn.id, state, error)? {
        turn::close_calls(tx, key, turn.epoch, turn.id)?;
        let keys: Vec<MessageKey> =
            conversation::batch_of(tx, turn.id)?.into_iter().map(|incoming| incoming.key).collect();
        inbox::mark_done(tx, &keys)?;
    }
    Ok(())
}

/// Begins a new conversation. What was said so far is kept, and not told to the model any more.
pub fn reset(tx: &Tx<'_>, key: &SessionKey) -> Result<(), StoreError> {
    conversation::begin_epoch(tx, key)?;
    Ok(())
}

/// Shortens the session's conversation to a summary now; says whether there was something to
/// shorten. Not while a turn runs.
pub fn compact(tx: &Tx<'_>, key: &SessionKey) -> Result<bool, StoreError> {
    let Some(session) = conversation::find_session(tx, key)? else { return Ok(false) };
    if running_turn(tx, key)?.is_some() {
        return Ok(false);
    }
    Ok(history::compact(tx, key, session.epoch, None, history::Need::Now)? != session.epoch)
}

#[cfg(test)]
mod tests;
