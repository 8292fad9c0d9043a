//! The loop: feeds the session machine, and does what it says.

use super::condense::condense;
use super::ports::{Abandoned, TurnRequest};
use super::route::{Route, route};
use super::sessions::{Act, Sessions, Stopped};
use super::{Dispatcher, Ends};
use crate::chat::Transport;
use crate::commands::command::StopOf;
use crate::commands::{Caller, Command, Lane};
use crate::failpoint::failpoint;
use crate::model::chat::{Incoming, IncomingBody, Outgoing};
use crate::model::ids::{MessageKey, PersonId, RoomKey, SessionKey};
use crate::store::{StoreError, Tx, inbox, meta, outbox, rooms};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a turn may take to end after it was cancelled, before it is dropped where it stands.
const CANCEL_LIMIT: Duration = Duration::from_millis(1500);

/// How often the inbox is read without a hint.
const TICK: Duration = Duration::from_secs(10);

/// How long to wait after the store failed.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// How often the typing notice is shown again while a turn runs.
const TYPING_AGAIN: Duration = Duration::from_secs(3);

/// How long a typing notice or receipt may take.
const COURTESY_LIMIT: Duration = Duration::from_secs(10);

/// How many steered messages a turn may leave lying; more wait for the next turn.
const STEER_CAP: usize = 256;

/// A turn under way.
struct Running {
    cancel: CancellationToken,
    abort: AbortHandle,
    /// When it is dropped where it stands, once it was cancelled.
    abort_at: Option<Instant>,
    steer: mpsc::Sender<Incoming>,
    batch: Vec<MessageKey>,
}

/// A `stop` or `reset` that is answered when the turn has ended.
struct Stopping {
    key: MessageKey,
    session: SessionKey,
    stopped: Stopped,
    /// Checks that were started here and are ended.
    runs: Vec<String>,
    reset: bool,
}

/// What is to be written of the inbox at the end of a pass.
#[derive(Default, Clone)]
struct Marks {
    rewritten: Vec<Incoming>,
    edited: Vec<(MessageKey, PersonId, String)>,
    batched: Vec<MessageKey>,
    dropped: Vec<MessageKey>,
    done: Vec<MessageKey>,
    notices: Vec<(Outgoing, String)>,
}

impl Marks {
    fn is_empty(&self) -> bool {
        self.rewritten.is_empty()
            && self.edited.is_empty()
            && self.batched.is_empty()
            && self.dropped.is_empty()
            && self.done.is_empty()
            && self.notices.is_empty()
    }

    fn write(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        for incoming in &self.rewritten {
            inbox::rewrite(tx, incoming)?;
        }
        for (of, sender, text) in &self.edited {
            inbox::replace_text(tx, of, sender, text)?;
        }
        inbox::mark_batched(tx, &self.batched)?;
        inbox::mark_dropped(tx, &self.dropped)?;
        for (outgoing, dedup) in &self.notices {
            outbox::enqueue(tx, outgoing, Some(dedup))?;
        }
        inbox::mark_done(tx, &self.done)?;
        Ok(())
    }
}

struct Loop {
    world: Dispatcher,
    sessions: Sessions,
    /// The newest inbox row that was taken in hand.
    seen: i64,
    marks: Marks,
    turns: JoinSet<anyhow::Result<()>>,
    session_of: HashMap<Id, SessionKey>,
    running: HashMap<SessionKey, Running>,
    stopping: Vec<Stopping>,
    outside: JoinSet<()>,
    /// Set while nothing may start.
    stopped_all: bool,
    /// Set when nothing new is begun, because the program is about to be replaced.
    quiet: bool,
}

impl Dispatcher {
    /// Runs until it is told to end.
    pub async fn run(self, ends: Ends) {
        let limits = self.settings.limits.clone();
        let mut this = Loop {
            world: self,
            sessions: Sessions::new(limits),
            seen: 0,
            marks: Marks::default(),
            turns: JoinSet::new(),
            session_of: HashMap::new(),
            running: HashMap::new(),
            stopping: vec![],
            outside: JoinSet::new(),
            stopped_all: false,
            quiet: false,
        };
        this.serve(&ends).await;
        this.settle(&ends.hurry).await;
    }
}

impl Loop {
    async fn serve(&mut self, ends: &Ends) {
        let cancel = &ends.cancel;
        let mut inbox = self.world.store.changes("inbox");
        let mut typing = self.world.typing.subscribe();
        while let Err(error) = self.take_up().await {
            tracing::error!(error = format!("{error:#}"), "cannot take up the inbox");
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(STORE_RETRY) => {}
            }
        }
        loop {
            let mut wake_at = Instant::now() + TICK;
            if let Err(error) = self.pass().await {
                tracing::error!(error = format!("{error:#}"), "cannot dispatch");
                wake_at = Instant::now() + STORE_RETRY;
            }
            let aborts = self.running.values().filter_map(|running| running.abort_at);
            let wake_at = aborts.chain(self.sessions.deadline()).fold(wake_at, Instant::min);
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = ends.quiet.cancelled(), if !self.quiet => {
                    self.quiet = true;
                    self.sessions.set_paused(true);
                }
                () = inbox.changed() => {}
                Some(ended) = self.turns.join_next_with_id() => self.turn_ended(ended).await,
                Some(_) = self.outside.join_next() => {}
                Ok(()) = typing.changed() => {
                    let typists = typing.borrow_and_update().clone();
                    self.typists_changed(typists);
                }
                () = tokio::time::sleep_until(wake_at) => {}
            }
            self.abort_overdue();
            self.sessions.tick(Instant::now());
            if self.quiet && self.turns.is_empty() {
                ends.idle.cancel();
            }
        }
    }

    /// The end of the program: running turns may finish, until `hurry`.
    async fn settle(&mut self, hurry: &CancellationToken) {
        self.sessions.set_paused(true);
        while !self.turns.is_empty() {
            tokio::select! {
                biased;
                () = hurry.cancelled() => break,
                Some(ended) = self.turns.join_next_with_id() => self.turn_ended(ended).await,
            }
        }
        self.turns.shutdown().await;
        self.outside.shutdown().await;
    }

    /// What was under way when the program ended goes on, unless everything is stopped.
    async fn take_up(&mut self) -> anyhow::Result<()> {
        let taken = self.world.store.write(|tx| {
            inbox::reopen(tx)?;
            Ok::<_, StoreError>(meta::find(tx, meta::STOPPED_ALL)?.is_some())
        });
        let stopped = taken.await?;
        for session in self.world.turns.unfinished().await? {
            if stopped {
                self.end_unfinished(session).await?;
            } else if !self.sessions.is_running(&session) {
                self.sessions.resumed(&session);
                self.start_turn(session, vec![]);
            }
        }
        Ok(())
    }

    /// Ends what the emergency stop had no time to end; `retry` asks it again.
    async fn end_unfinished(&self, session: SessionKey) -> anyhow::Result<()> {
        let turns = Arc::clone(&self.world.turns);
        let end = move |tx: &Tx<'_>| turns.abandon(tx, &session, Abandoned::Cancelled);
        Ok(self.world.store.write(end).await?)
    }

    /// Takes what is new in the inbox to where it goes.
    async fn pass(&mut self) -> anyhow::Result<()> {
        let seen = self.seen;
        let read = self.world.store.read(move |conn| {
            let stopped = meta::find(conn, meta::STOPPED_ALL)?.is_some();
            Ok::<_, StoreError>((stopped, inbox::take_new(conn, seen)?))
        });
        let (stopped, rows) = read.await?;
        self.stopped_all = stopped;
        self.sessions.set_paused(stopped || self.quiet);
        let mut newest: HashMap<SessionKey, MessageKey> = HashMap::new();
        for (id, incoming) in rows {
            if incoming.addressed && matches!(incoming.body, IncomingBody::Text { .. }) {
                newest.insert(incoming.session.clone(), incoming.key.clone());
            }
            self.take(incoming).await?;
            self.seen = id;
        }
        self.write_marks().await?;
        self.act().await?;
        for (session, key) in newest {
            let transport = Arc::clone(&self.world.transport);
            self.courtesy(async move { transport.receipt(&session, &key).await });
        }
        Ok(())
    }

    async fn write_marks(&mut self) -> anyhow::Result<()> {
        if self.marks.is_empty() {
            return Ok(());
        }
        let marks = self.marks.clone();
        self.world.store.write(move |tx| marks.write(tx)).await?;
        self.marks = Marks::default();
        Ok(())
    }

    /// Takes one row to where it goes.
    async fn take(&mut self, incoming: Incoming) -> anyhow::Result<()> {
        if self.is_verdict(&incoming).await? {
            return Ok(());
        }
        let names = self.world.commands.names();
        let prefix = &self.world.settings.prefix;
        match route(&incoming, &self.world.registry, prefix, &names) {
            Route::Command(command) => self.command(incoming, command).await?,
            Route::Answer(text) => {
                let outgoing = Outgoing::text(incoming.session, text);
                self.marks.notices.push((outgoing, format!("answer:{}", incoming.key)));
                self.marks.done.push(incoming.key);
            }
            Route::Talk => {
                if !self.is_answered_mail(&incoming).await? {
                    self.talk(incoming).await?;
                }
            }
            Route::Prompt(filled) => {
                let mut incoming = incoming;
                incoming.body = IncomingBody::Text { text: filled, reply_to: None };
                self.marks.rewritten.push(incoming.clone());
                self.talk(incoming).await?;
            }
            Route::Context => self.marks.done.push(incoming.key),
            Route::Edit { of, text } => {
                if self.sessions.edit(&of, &incoming.sender, &text) {
                    self.marks.edited.push((of, incoming.sender, text));
                }
                self.marks.done.push(incoming.key);
            }
            Route::Redaction { of } => {
                if self.sessions.redact(&of) {
                    self.marks.dropped.push(of);
                }
                self.marks.done.push(incoming.key);
            }
            Route::Reaction { to, key } => {
                let caller = self.caller(&incoming);
                self.world.commands.react(caller, to, key).await?;
            }
        }
        Ok(())
    }

    /// Whether the message was a verdict on what it replies to, and has been taken as one. Asked
    /// before anything else: in a reply, `reject 2 tests fail` is not about item 2.
    async fn is_verdict(&mut self, incoming: &Incoming) -> anyhow::Result<bool> {
        let IncomingBody::Text { text, reply_to: Some(to) } = &incoming.body else {
            return Ok(false);
        };
        let prefix = &self.world.settings.prefix;
        let is_command = !prefix.is_empty() && text.trim_start().starts_with(prefix.as_str());
        if is_command || !incoming.addressed {
            return Ok(false);
        }
        // What was said before it is answered before it.
        self.write_marks().await?;
        let caller = self.caller(incoming);
        self.world.commands.answer_request(caller, to.clone(), text.clone()).await
    }

    /// Whether the message was the answer to mail that stands in the room, and has gone there: in
    /// a reply, or in the thread that begins with it.
    async fn is_answered_mail(&self, incoming: &Incoming) -> anyhow::Result<bool> {
        let IncomingBody::Text { text, reply_to } = &incoming.body else { return Ok(false) };
        for to in reply_to.iter().chain(&incoming.session.thread) {
            let caller = self.caller(incoming);
            if self.world.commands.answer_mail(caller, to.clone(), text.clone()).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn talk(&mut self, incoming: Incoming) -> anyhow::Result<()> {
        let mut mode = self.world.settings.queue_mode;
        if self.sessions.is_running(&incoming.session) {
            let room = incoming.session.room.clone();
            let read = self.world.store.read(move |conn| rooms::settings(conn, &room));
            mode = read.await?.queue_mode.unwrap_or(mode);
        }
        if self.stopped_all {
            let text = "Everything is stopped. I keep your message and answer it after \
                        `resume all`.";
            let notice = Outgoing::notice(incoming.session.clone(), text);
            self.marks.notices.push((notice, format!("held:{}", incoming.key)));
        }
        self.marks.batched.push(incoming.key.clone());
        self.sessions.talk(Instant::now(), incoming, mode);
        Ok(())
    }

    fn caller(&self, incoming: &Incoming) -> Caller {
        Caller {
            person: incoming.sender.clone(),
            name: incoming.sender_name.clone(),
            session: incoming.session.clone(),
            admin: self.world.settings.admins.contains(&incoming.sender),
            key: incoming.key.clone(),
        }
    }

    async fn command(&mut self, incoming: Incoming, command: Command) -> anyhow::Result<()> {
        let caller = self.caller(&incoming);
        if command == Command::Stop(StopOf::All) && caller.admin {
            let dropped = self.sessions.stop_all();
            self.marks.dropped.extend(dropped.into_iter().map(|message| message.key));
            self.sessions.set_paused(true);
        }
        let commands = Arc::clone(&self.world.commands);
        match command.lane() {
            Lane::Store => {
                // What was said before it is answered before it.
                self.write_marks().await?;
                failpoint("command-began");
                let rest = commands.execute(caller, command).await?;
                failpoint("command-done");
                if let Some(rest) = rest {
                    self.outside.spawn(rest);
                }
                Ok(())
            }
            Lane::Outside => {
                self.outside.spawn(async move {
                    let key = caller.key.clone();
                    match commands.execute(caller, command).await {
                        Ok(Some(rest)) => rest.await,
                        Ok(None) => {}
                        Err(error) => {
                            let error = format!("{error:#}");
                            tracing::error!(%key, error, "a command is left for the next start");
                        }
                    }
                });
                Ok(())
            }
            Lane::Session if command == Command::Retry => self.retry(incoming).await,
            Lane::Session => {
                let stopped = self.sessions.stop(&incoming.session);
                let reset = command == Command::Reset;
                let runs = if reset { vec![] } else { commands.stop_runs(&incoming.session) };
                let stopping =
                    Stopping { key: incoming.key, session: incoming.session, stopped, runs, reset };
                // A window or queue may just have been noted as batched in this pass.
                self.write_marks().await?;
                if stopping.stopped.running {
                    self.stopping.push(stopping);
                    self.act().await
                } else {
                    self.finish_stop(stopping, vec![]).await
                }
            }
        }
    }

    /// Answers a `stop` or `reset`, and drops what waited, when nothing runs any more.
    async fn finish_stop(&self, stopping: Stopping, batch: Vec<MessageKey>) -> anyhow::Result<()> {
        let turns = Arc::clone(&self.world.turns);
        let write = self.world.store.write(move |tx| {
            let Stopping { key, session, stopped, runs, reset } = stopping;
            let mut keys: Vec<MessageKey> =
                stopped.dropped.iter().map(|message| message.key.clone()).collect();
            keys.extend(batch);
            inbox::mark_dropped(tx, &keys)?;
            if reset {
                turns.reset(tx, &session)?;
            }
            let text = if reset { reset_text(&stopped) } else { stop_text(&stopped, &runs) };
            outbox::enqueue(tx, &Outgoing::text(session, text), Some(&format!("answer:{key}")))?;
            inbox::mark_done(tx, &[key])?;
            Ok::<(), StoreError>(())
        });
        Ok(write.await?)
    }

    /// Asks the messages of the last failed turn again.
    async fn retry(&mut self, incoming: Incoming) -> anyhow::Result<()> {
        let Incoming { session, key, .. } = incoming;
        if self.sessions.is_running(&session) {
            let text = "I am still answering. `stop` ends that.";
            self.marks.notices.push((Outgoing::text(session, text), format!("answer:{key}")));
            self.marks.done.push(key);
            return Ok(());
        }
        let write = self.world.store.write(move |tx| {
            let again = inbox::reopen_last_turn(tx, &session)?;
            if again.is_empty() {
                let text = "There is nothing to `retry`: the last answer here was finished.";
                let outgoing = Outgoing::text(session, text);
                outbox::enqueue(tx, &outgoing, Some(&format!("answer:{key}")))?;
            }
            inbox::mark_done(tx, &[key])?;
            Ok::<_, StoreError>(again)
        });
        let mode = self.world.settings.queue_mode;
        for message in write.await? {
            self.sessions.talk(Instant::now(), message, mode);
        }
        Ok(())
    }

    /// Does what the session machine says.
    async fn act(&mut self) -> anyhow::Result<()> {
        for act in self.sessions.take_acts() {
            match act {
                Act::Start { session, batch, queued } => {
                    let batch = if queued { self.condensed(batch).await } else { batch };
                    self.start_turn(session, batch);
                }
                Act::Steer { session, incoming } => {
                    if let Some(running) = self.running.get(&session) {
                        // Full or gone: the turn did not take it, so it is asked next.
                        let _ = running.steer.try_send(incoming);
                    }
                }
                Act::Cancel { session } => {
                    if let Some(running) = self.running.get_mut(&session) {
                        running.cancel.cancel();
                        running.abort_at.get_or_insert(Instant::now() + CANCEL_LIMIT);
                    }
                }
            }
        }
        Ok(())
    }

    /// The batch within `queue_cap`; as it is when the note cannot be stored.
    async fn condensed(&self, batch: Vec<Incoming>) -> Vec<Incoming> {
        let Some(short) = condense(&batch, self.world.settings.queue_cap) else { return batch };
        let (note, folded) = (short.batch[0].clone(), short.folded);
        let write = self.world.store.write(move |tx| {
            inbox::rewrite(tx, &note)?;
            inbox::mark_dropped(tx, &folded)
        });
        match write.await {
            Ok(_) => short.batch,
            Err(error) => {
                tracing::error!(%error, "cannot condense a queue");
                batch
            }
        }
    }

    fn start_turn(&mut self, session: SessionKey, batch: Vec<Incoming>) {
        let (steer, steered) = mpsc::channel(STEER_CAP);
        let cancel = CancellationToken::new();
        let keys = batch.iter().map(|incoming| incoming.key.clone()).collect();
        let request = TurnRequest { session: session.clone(), batch, steer: steered };
        let turns = Arc::clone(&self.world.turns);
        let transport = Arc::clone(&self.world.transport);
        let room = session.room.clone();
        let token = cancel.clone();
        let abort = self.turns.spawn(async move {
            while_typing(&*transport, &room, turns.run(request, token)).await
        });
        self.session_of.insert(abort.id(), session.clone());
        let running = Running { cancel, abort, abort_at: None, steer, batch: keys };
        self.running.insert(session, running);
    }

    /// Drops the turns that were cancelled and did not end.
    fn abort_overdue(&mut self) {
        let now = Instant::now();
        for (session, running) in &self.running {
            if running.abort_at.is_some_and(|at| at <= now) {
                tracing::warn!(%session, "a cancelled turn did not end; it is dropped");
                running.abort.abort();
            }
        }
    }

    async fn turn_ended(&mut self, ended: Result<(Id, anyhow::Result<()>), JoinError>) {
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, outcome),
            Err(error) => (error.id(), Err(anyhow::Error::new(error).context("the turn broke"))),
        };
        let Some(session) = self.session_of.remove(&id) else { return };
        let Some(running) = self.running.remove(&session) else { return };
        let transport = Arc::clone(&self.world.transport);
        let room = session.room.clone();
        self.courtesy(async move { transport.typing(&room, false).await });
        let cancelled = running.cancel.is_cancelled();
        if let Err(error) = &outcome
            && !cancelled
        {
            tracing::error!(%session, error = format!("{error:#}"), "a turn failed");
        }
        let untaken = self.close_turn(&session, &running.batch, cancelled, outcome.is_err()).await;
        let mine: Vec<Stopping> =
            self.stopping.extract_if(.., |stopping| stopping.session == session).collect();
        for stopping in mine {
            if let Err(error) = self.finish_stop(stopping, running.batch.clone()).await {
                tracing::error!(error = format!("{error:#}"), "a stop is left for the next start");
            }
        }
        self.sessions.ended(&session, &untaken);
    }

    /// Leaves nothing of an ended turn open, and returns which messages no turn has taken.
    async fn close_turn(
        &self,
        session: &SessionKey,
        batch: &[MessageKey],
        cancelled: bool,
        failed: bool,
    ) -> HashSet<MessageKey> {
        let turns = Arc::clone(&self.world.turns);
        let (key, batch) = (session.clone(), batch.to_vec());
        let write = self.world.store.write(move |tx| {
            if failed {
                let how = if cancelled { Abandoned::Cancelled } else { Abandoned::Failed };
                turns.abandon(tx, &key, how)?;
            }
            let left = inbox::mark_dropped(tx, &batch)?;
            if !cancelled && (failed || left > 0) {
                let again = if left > 0 { "Please send it again" } else { "`retry` asks it again" };
                let text = format!(
                    "Something went wrong on my side, and your message was not answered. \
                     {again}; the log has the details."
                );
                outbox::enqueue(tx, &Outgoing::text(key.clone(), text), None)?;
            }
            let untaken = inbox::untaken(tx, &key)?;
            Ok::<_, StoreError>(untaken.into_iter().collect())
        });
        write.await.unwrap_or_else(|error: StoreError| {
            tracing::error!(%error, "cannot note the end of a turn");
            HashSet::new()
        })
    }

    fn typists_changed(&mut self, typists: HashMap<RoomKey, BTreeSet<PersonId>>) {
        let now = Instant::now();
        let rooms: HashSet<RoomKey> =
            self.sessions.rooms_with_typists().chain(typists.keys()).cloned().collect();
        for room in rooms {
            let persons = typists.get(&room).cloned().unwrap_or_default();
            self.sessions.typing(now, &room, persons);
        }
    }

    /// Does something that matters little and must hold up nothing.
    fn courtesy(&mut self, what: impl Future<Output = ()> + Send + 'static) {
        self.outside.spawn(async move {
            let _ = tokio::time::timeout(COURTESY_LIMIT, what).await;
        });
    }
}

/// Shows the typing notice while `work` goes on.
async fn while_typing<T>(
    transport: &dyn Transport,
    room: &RoomKey,
    work: impl Future<Output = T>,
) -> T {
    let show = async {
        loop {
            let _ = tokio::time::timeout(COURTESY_LIMIT, transport.typing(room, true)).await;
            tokio::time::sleep(TYPING_AGAIN).await;
        }
    };
    tokio::select! {
        biased;
        done = work => done,
        never = show => never,
    }
}

fn waiting_text(stopped: &Stopped) -> Option<String> {
    let words = |incoming: &Incoming| match &incoming.body {
        IncomingBody::Text { text, .. } => text.chars().take(60).collect::<String>(),
        IncomingBody::Edit { .. }
        | IncomingBody::Redaction { .. }
        | IncomingBody::Reaction { .. } => String::new(),
    };
    let first = words(stopped.dropped.first()?).replace(['`', '\n'], " ");
    Some(match stopped.dropped.len() {
        1 => format!("the waiting message `{first}`"),
        many => format!("{many} waiting messages, from `{first}` on"),
    })
}

fn stop_text(stopped: &Stopped, runs: &[String]) -> String {
    if !runs.is_empty() {
        let rest = match (stopped.running, &stopped.dropped[..]) {
            (false, []) => String::new(),
            _ => format!(" {}", stop_text(stopped, &[])),
        };
        return format!("Stopped {}.{rest}", runs.join(", "));
    }
    match (stopped.running, waiting_text(stopped)) {
        (true, None) => "Stopped the answer that I was writing. Nothing was waiting.".to_owned(),
        (true, Some(waiting)) => {
            format!("Stopped the answer that I was writing, and dropped {waiting}.")
        }
        (false, Some(waiting)) => format!("Stopped: dropped {waiting}."),
        (false, None) => "Nothing runs here. `stop N` stops an item's agents, `stop all` \
                          everything."
            .to_owned(),
    }
}

fn reset_text(stopped: &Stopped) -> String {
    let begun = "A new conversation begins here. Items, agents and timers stay.";
    match (stopped.running, waiting_text(stopped)) {
        (false, None) => begun.to_owned(),
        (true, None) | (_, Some(_)) => format!("{} {begun}", stop_text(stopped, &[])),
    }
}
