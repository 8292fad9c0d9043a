//! Driving a turn: gives it the prompt and its mail, reads its events, and sees that it ends.

use super::compose::{compose, letter, poke};
use super::settle::stopped;
use super::silent::follow;
use super::waits::{DENIALS_MAX, Waits};
use super::{Begun, Inner, Live, Stop, start};
use crate::agents::budget::{self, Reached, Spender};
use crate::agents::hold;
use crate::agents::process::ExitReport;
use crate::agents::runtime::{Delivery, RuntimeEvent, TurnOutcome, UserMessage};
use crate::agents::watchdog::silence::Silence;
use crate::agents::watchdog::triage::Advice;
use crate::failpoint::failpoint;
use crate::model::agent::{Failure, SessionState, TurnEnd};
use crate::model::event::Event;
use crate::model::ids::{AgentSessionId, TurnId};
use crate::model::llm::Usage;
use crate::model::mail::Mail;
use crate::store::agents::{self as sessions, MoveOutcome};
use crate::store::costs::{self, Cost, Source, Spent};
use crate::store::mail::{self, Claimed};
use crate::store::nudges::{self, Nudge};
use crate::store::{Changes, Store, StoreError, Tx, log};
use chrono::{DateTime, Utc};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

/// `last_activity` is written at most this often.
const TOUCH_EVERY: Duration = Duration::from_secs(2);

/// How long a message that came too late for the turn may take to begin another one.
const AFTERTHOUGHT: Duration = Duration::from_secs(3);

/// How much longer silence is borne while a tool is known to run.
const TOOL_PATIENCE: u32 = 3;

/// How long a turn may take to end by itself after nobody answered what it asked.
const LAPSED_GRACE: Duration = Duration::from_secs(10);

/// Until when a rate limit holds that does not say so.
const BLOCKED_FOR: Duration = Duration::from_secs(60);

/// What is known of a turn while it runs.
#[derive(Default)]
pub(super) struct Progress {
    pub native_id: Option<String>,
    pub resume_mismatch: bool,
    pub model: String,
    pub last_text: String,
    pub spent: Spent,
    pub exit: Option<ExitReport>,
    pub warnings: Vec<String>,
    /// Said before the prompt, such as that the conversation was lost.
    pub note: Option<String>,
    /// Whether anything at all was heard.
    pub heard: bool,
    /// What is told before the prompt: where the work stood that was cut off.
    pub checkpoint: Option<String>,
    /// Tools that run.
    tools: HashSet<String>,
    /// Messages that the model has not taken in yet.
    unconsumed: HashSet<Uuid>,
    /// Questions of ours whether it is there: a turn that ends has answered them.
    pub asked: HashSet<Uuid>,
    last_touch: Option<Instant>,
    blocked: bool,
}

impl Progress {
    /// Whether the model has everything that it was told.
    pub fn consumed(&self) -> bool {
        self.heard && self.unconsumed.is_empty()
    }
}

/// Drives the turn to its end. Whatever ends it, the runtime is idle or gone afterwards.
pub(super) async fn drive(
    inner: &Arc<Inner>,
    begun: &Begun,
    live: &Arc<Live>,
    progress: &mut Progress,
    stop: &mut watch::Receiver<Option<Stop>>,
) -> TurnEnd {
    let mut events = live.events.lock().await;
    let store = &inner.store;
    let waits = Waits::default();
    let mut driver = Driver { inner, begun, live, progress, store, waits, woken: false };
    let end = match driver.give_prompt().await {
        Ok(()) => {
            failpoint("agent-prompted");
            driver.read(&mut events, stop).await
        }
        Err(error) => Over::Failed(Failure::Crash, format!("{error:#}")),
    };
    drop(events);
    let end = driver.finish(end).await;
    *hold(&live.idle_since) = Instant::now();
    end
}

/// Why the reading ended.
pub(super) enum Over {
    /// The runtime said so; it is idle.
    Turn(TurnOutcome),
    /// The process is gone.
    Gone,
    /// We end it: somebody wants it, …
    Stopped(Option<Stop>),
    /// … nothing was heard, …
    Stalled,
    /// … or a limit is reached.
    Limit(Reached),
    /// We failed ourselves.
    Failed(Failure, String),
    /// A person is to decide how it goes on.
    Person,
}

pub(super) struct Driver<'a> {
    pub inner: &'a Arc<Inner>,
    pub begun: &'a Begun,
    pub live: &'a Arc<Live>,
    pub progress: &'a mut Progress,
    pub store: &'a Store,
    pub waits: Waits,
    /// Whether it was silent for too long and is heard again.
    woken: bool,
}

impl Driver<'_> {
    /// Claims mail and sends prompt and mail as one message.
    async fn give_prompt(&mut self) -> anyhow::Result<()> {
        let (agent, turn) = (self.begun.session.agent.clone(), self.begun.turn);
        let session = self.begun.session.id;
        let most = self.inner.config.mail.inject_bytes;
        let (claimed, poked): (Claimed, Vec<Nudge>) = self
            .store
            .write(move |tx| {
                let claimed = mail::claim(tx, agent.as_str(), turn, most)?;
                let poked = nudges::take(tx, agent.as_str(), turn)?;
                note_given(tx, turn, session, &claimed.mails, &poked)?;
                Ok((claimed, poked))
            })
            .await
            .map_err(|error: StoreError| anyhow::anyhow!(error))?;
        let mut text = compose(&self.begun.prompt, &claimed, &poked);
        for note in [&self.progress.checkpoint, &self.progress.note].into_iter().flatten() {
            text = format!("{note}\n\n{text}");
        }
        self.send("Musher says:".to_owned(), text, Delivery::NextTurn).await
    }

    async fn send(&mut self, header: String, text: String, how: Delivery) -> anyhow::Result<()> {
        let id = Uuid::new_v4();
        self.progress.unconsumed.insert(id);
        self.live.session.send(UserMessage { id, header, text }, how).await?;
        Ok(())
    }

    async fn read(
        &mut self,
        events: &mut mpsc::Receiver<RuntimeEvent>,
        stop: &mut watch::Receiver<Option<Stop>>,
    ) -> Over {
        let mut mail_hints = self.store.changes("mail");
        let mut request_hints = self.store.changes("requests");
        // Set when nobody answered: the turn is to end by itself until then.
        let mut ends_by: Option<Instant> = None;
        let mut nudge_hints = self.store.changes("nudges");
        let wall = self.begun.at + self.begun.effort.time_left();
        let mut silence = self.silence();
        let mut triage: Option<JoinHandle<Advice>> = None;
        // Set when the turn is over but a message of ours still waits in the runtime.
        let mut afterthought: Option<(Instant, TurnOutcome)> = None;
        loop {
            let step = silence.next(self.patience_factor());
            tokio::select! {
                biased;
                why = told_to_stop(stop) => return Over::Stopped(why),
                event = events.recv() => {
                    let heard_at = Instant::now();
                    self.woken |= silence.heard(heard_at);
                    if let Some(asked) = triage.take() {
                        asked.abort();
                    }
                    match event {
                        None => return Over::Gone,
                        Some(RuntimeEvent::Exited(report)) => {
                            self.progress.exit = Some(report);
                            return match afterthought {
                                Some((_, outcome)) => Over::Turn(outcome),
                                None => Over::Gone,
                            };
                        }
                        Some(RuntimeEvent::TurnEnd(outcome)) => {
                            self.take_back_questions().await;
                            let all_said = self.progress.unconsumed.is_empty()
                                && self.progress.asked.is_empty();
                            if outcome != TurnOutcome::Done || all_said {
                                return Over::Turn(outcome);
                            }
                            afterthought = Some((heard_at + AFTERTHOUGHT, outcome));
                        }
                        Some(event) => {
                            let goes_on = matches!(
                                event,
                                RuntimeEvent::Running | RuntimeEvent::Consumed(_)
                            );
                            if goes_on {
                                afterthought = None;
                            }
                            if let Some(over) = self.take_in(event).await {
                                return over;
                            }
                        }
                    }
                }
                () = either(&mut mail_hints, &mut nudge_hints) => {
                    self.steer().await;
                }
                () = request_hints.changed(), if self.waits.is_waiting() => {
                    self.woken |= silence.heard(Instant::now());
                    let delivered = self.deliver().await;
                    if let Some(over) = self.after(delivered.map(|()| None)).await {
                        return over;
                    }
                }
                () = sleep_until(self.waits.until()) => {
                    self.woken |= silence.heard(Instant::now());
                    if let Err(error) = self.lapse().await {
                        return Over::Failed(Failure::Crash, format!("{error:#}"));
                    }
                    if self.waits.lapsed {
                        ends_by.get_or_insert(Instant::now() + LAPSED_GRACE);
                    }
                }
                () = sleep_until(ends_by) => return Over::Person,
                () = sleep_until(afterthought.as_ref().map(|(at, _)| *at)) => {
                    if let Some((_, outcome)) = afterthought.take() {
                        return Over::Turn(outcome);
                    }
                }
                () = sleep_until(step.map(|(at, _)| at)), if !self.waits.is_waiting() => {
                    let step = step.map(|(_, step)| step);
                    if let Err(over) = self.step(step, &mut silence, &mut triage).await {
                        return over;
                    }
                }
                advice = answer_of(&mut triage) => {
                    triage = None;
                    if let Err(over) = follow(advice, &mut silence) {
                        return over;
                    }
                }
                // The time of people is not the agent's.
                () = tokio::time::sleep_until(wall + self.waits.waited),
                    if !self.waits.is_waiting() =>
                {
                    let now = self.store.clock().now();
                    let reached = self.begun.effort.out_of_time(&self.inner.config, now);
                    return Over::Limit(reached);
                }
            }
        }
    }

    /// Takes in an event; returns how the turn ends with it, if it does.
    async fn take_in(&mut self, event: RuntimeEvent) -> Option<Over> {
        let outcome = self.handle(event).await;
        self.after(outcome).await
    }

    /// How the turn ends after something was handled, if it does.
    async fn after(&mut self, outcome: anyhow::Result<Option<Reached>>) -> Option<Over> {
        match outcome {
            Ok(None) => {}
            Ok(Some(reached)) => return Some(Over::Limit(reached)),
            Err(error) => return Some(Over::Failed(Failure::Crash, format!("{error:#}"))),
        }
        if self.waits.denials >= DENIALS_MAX {
            self.ask_about_denials().await;
            return Some(Over::Person);
        }
        None
    }

    fn silence(&self) -> Silence {
        let watchdog = &self.inner.config.watchdog;
        let seconds = self.begun.config.stall_timeout_s.unwrap_or(watchdog.stall_timeout_s).max(1);
        Silence::new(watchdog, Duration::from_secs(seconds), Instant::now())
    }

    /// How much longer than usual silence is borne: while a tool is known to run.
    fn patience_factor(&self) -> u32 {
        let busy = !self.progress.tools.is_empty() || self.progress.blocked;
        if busy { TOOL_PATIENCE } else { 1 }
    }

    /// Takes in an event; returns the limit that is reached with it, if one is.
    async fn handle(&mut self, event: RuntimeEvent) -> anyhow::Result<Option<Reached>> {
        let first = !self.progress.heard;
        self.progress.heard = true;
        let mut kept = self.keep(&event);
        match event {
            RuntimeEvent::Ready { native_id, model, bad_tools } => {
                self.ready(native_id, model, &bad_tools, &mut kept);
            }
            RuntimeEvent::Consumed(id) => self.consumed(id).await?,
            RuntimeEvent::Text(text) => self.progress.last_text = text,
            RuntimeEvent::ToolStart { id, .. } => {
                self.progress.tools.insert(id);
            }
            RuntimeEvent::ToolEnd { id, ok, .. } => {
                self.progress.tools.remove(&id);
                if ok {
                    self.waits.denials = 0;
                }
            }
            RuntimeEvent::Ask { request, tool, input } => {
                self.permission(request, tool, input, &mut kept).await?;
            }
            RuntimeEvent::Question { request, questions } => {
                self.questions(request, questions).await?;
            }
            RuntimeEvent::AskWithdrawn(request) => self.withdrawn(&request).await?,
            RuntimeEvent::Denied { why, .. } => self.count_denial(&why),
            RuntimeEvent::Metered { usage, microusd } => {
                self.progress.spent.usage += usage;
                self.progress.spent.microusd += microusd;
                kept.check = true;
            }
            // What was counted at the gateway is the truth; the CLI's own word would be twice.
            RuntimeEvent::Used { .. } if self.live.token.is_some() => {}
            RuntimeEvent::Used { usage, microusd, model } => {
                self.used(usage, microusd, model, &mut kept);
            }
            RuntimeEvent::RateLimit { blocked, .. } => self.progress.blocked |= blocked,
            RuntimeEvent::Running
            | RuntimeEvent::Retry { .. }
            | RuntimeEvent::TurnEnd(_)
            | RuntimeEvent::Opaque(_)
            | RuntimeEvent::Exited(_) => {}
        }
        let now = Instant::now();
        kept.touch = first || self.progress.last_touch.is_none_or(|at| now - at >= TOUCH_EVERY);
        if kept.touch {
            self.progress.last_touch = Some(now);
        }
        kept.first = first || std::mem::take(&mut self.woken);
        self.write(kept).await
    }

    /// What an event leaves in the log.
    fn keep(&self, event: &RuntimeEvent) -> Kept {
        let line = match event {
            RuntimeEvent::Text(text) => Some(("text", text.clone())),
            RuntimeEvent::ToolStart { name, summary, .. } => {
                Some(("tool", format!("{name}: {summary}")))
            }
            RuntimeEvent::ToolEnd { ok: true, summary, .. } => Some(("tool_end", summary.clone())),
            RuntimeEvent::ToolEnd { ok: false, summary, .. } => {
                Some(("tool_failed", summary.clone()))
            }
            RuntimeEvent::Ask { tool, input, .. } => {
                Some(("permission", format!("{tool}: {input}")))
            }
            RuntimeEvent::Question { questions, .. } => {
                let texts: Vec<&str> = questions.iter().map(|one| one.text.as_str()).collect();
                Some(("question", texts.join(" / ")))
            }
            RuntimeEvent::Denied { tool, why } => Some(("denied", format!("{tool}: {why}"))),
            RuntimeEvent::Retry { attempt, error } => {
                Some(("retry", format!("attempt {attempt}: {error}")))
            }
            RuntimeEvent::RateLimit { blocked: true, until } => {
                Some(("rate_limit", format!("blocked until {until:?}")))
            }
            RuntimeEvent::Opaque(kind) => Some(("other", kind.clone())),
            RuntimeEvent::Ready { .. }
            | RuntimeEvent::Running
            | RuntimeEvent::Consumed(_)
            | RuntimeEvent::AskWithdrawn(_)
            | RuntimeEvent::Used { .. }
            | RuntimeEvent::Metered { .. }
            | RuntimeEvent::RateLimit { blocked: false, .. }
            | RuntimeEvent::TurnEnd(_)
            | RuntimeEvent::Exited(_) => None,
        };
        Kept { line, ..Kept::default() }
    }

    fn ready(&mut self, native_id: String, model: String, bad: &[String], kept: &mut Kept) {
        let asked = self.begun.session.native_id.as_ref();
        if self.progress.native_id.is_none()
            && asked.is_some_and(|asked| *asked != native_id)
            && self.progress.note.is_none()
        {
            tracing::warn!(agent = %self.begun.session.agent, "it resumed another session");
            self.progress.resume_mismatch = true;
        }
        if self.progress.native_id.as_ref() != Some(&native_id) {
            kept.native_id = Some(native_id.clone());
        }
        self.progress.native_id = Some(native_id);
        self.progress.model = model;
        for server in bad {
            let warning = format!("its tool server {server} failed to start");
            if !self.progress.warnings.contains(&warning) {
                self.progress.warnings.push(warning);
            }
        }
    }

    fn used(&mut self, usage: Usage, microusd: i64, model: String, kept: &mut Kept) {
        self.progress.spent.usage += usage;
        self.progress.spent.microusd += microusd;
        kept.cost = Some(Cost {
            source: Source::Agent,
            name: self.begun.session.agent.to_string(),
            model,
            item: Some(self.begun.session.item),
            project: Some(self.live.tools.project.clone()),
            usage,
            microusd,
        });
    }

    /// The model has a message: when it has all, the mail in them is acknowledged.
    async fn consumed(&mut self, id: Uuid) -> anyhow::Result<()> {
        self.progress.asked.remove(&id);
        if !self.progress.unconsumed.remove(&id) || !self.progress.unconsumed.is_empty() {
            return Ok(());
        }
        let (agent, turn) = (self.begun.session.agent.clone(), self.begun.turn);
        self.store.write(move |tx| mail::acknowledge(tx, agent.as_str(), turn)).await.map_err(
            |error: StoreError| anyhow::anyhow!("mail could not be acknowledged: {error}"),
        )?;
        Ok(())
    }

    async fn steer(&mut self) {
        if let Err(error) = self.steer_urgent().await {
            tracing::warn!(%error, "urgent mail could not be given to a running turn");
        }
    }

    /// Gives urgent mail and nudges to the turn at its next step.
    async fn steer_urgent(&mut self) -> anyhow::Result<()> {
        let (agent, turn) = (self.begun.session.agent.clone(), self.begun.turn);
        let session = self.begun.session.id;
        let most = self.inner.config.mail.inject_bytes;
        let (urgent, poked): (Vec<Mail>, Vec<Nudge>) = self
            .store
            .write(move |tx| {
                let poked = nudges::take(tx, agent.as_str(), turn)?;
                let mut urgent = vec![];
                if mail::has_urgent(tx, agent.as_str(), tx.now())? {
                    urgent = mail::claim(tx, agent.as_str(), turn, most)?.mails;
                }
                note_given(tx, turn, session, &urgent, &poked)?;
                Ok((urgent, poked))
            })
            .await
            .map_err(|error: StoreError| anyhow::anyhow!(error))?;
        let header = match (urgent.is_empty(), poked.is_empty()) {
            (true, true) => return Ok(()),
            (true, false) => "You are nudged:",
            (false, _) => "Musher has urgent mail for you:",
        };
        let text: Vec<String> = poked.iter().map(poke).chain(urgent.iter().map(letter)).collect();
        self.send(header.to_owned(), text.join("\n"), Delivery::Steer).await
    }

    async fn write(&self, kept: Kept) -> anyhow::Result<Option<Reached>> {
        if kept.is_nothing() {
            return Ok(None);
        }
        let (session, turn) = (self.begun.session.id, self.begun.turn);
        let (config, agent) = (Arc::clone(&self.inner.config), self.begun.config.clone());
        let (item, project) = (self.begun.session.item, self.live.tools.project.clone());
        let reached = self
            .store
            .write(move |tx| {
                if kept.first {
                    let moved = sessions::move_state(tx, session, SessionState::InTurn)?;
                    if moved != MoveOutcome::Ok {
                        tracing::warn!(%session, ?moved, "a turn runs that its session forbids");
                    }
                }
                if let Some(native_id) = &kept.native_id {
                    sessions::set_native_id(tx, session, native_id)?;
                }
                if let Some((kind, text)) = &kept.line {
                    sessions::append_turn_event(tx, turn, session, kind, text)?;
                }
                let mut reached = None;
                if let Some(cost) = &kept.cost {
                    costs::record(tx, cost)?;
                }
                if kept.cost.is_some() || kept.check {
                    let spender =
                        Spender { agent: Some(&agent), item: Some(item), project: Some(&project) };
                    reached = budget::check(tx, &config, &spender)?;
                }
                if let Some(event) = &kept.event {
                    log::append_event(tx, event)?;
                }
                if kept.touch {
                    sessions::touch(tx, session)?;
                }
                Ok::<_, StoreError>(reached)
            })
            .await?;
        Ok(reached)
    }

    /// Turns what ended the reading into what ended the turn; what must not live on is killed.
    async fn finish(&mut self, over: Over) -> TurnEnd {
        let end = match over {
            Over::Turn(outcome) => return self.outcome(outcome),
            Over::Gone => TurnEnd::Failed {
                failure: Failure::Crash,
                message: "the agent's process ended in the middle of a turn".to_owned(),
            },
            Over::Stopped(why) => stopped(why.as_ref()),
            Over::Stalled => TurnEnd::Stalled,
            Over::Limit(reached) => reached.into(),
            Over::Failed(failure, message) => TurnEnd::Failed { failure, message },
            // Nothing failed: the session waits for an answer, which wakes it.
            Over::Person => TurnEnd::Clean,
        };
        if let Some(report) = start::down(self.inner, self.begun.session.id).await {
            if !report.survivors.is_empty() {
                let survivors = format!("could not be killed: {:?}", report.survivors);
                self.progress.warnings.push(survivors);
            }
            self.progress.exit = Some(report);
        }
        end
    }

    fn outcome(&self, outcome: TurnOutcome) -> TurnEnd {
        if self.waits.lapsed {
            // We ended it, whatever the runtime calls that.
            return TurnEnd::Clean;
        }
        match outcome {
            TurnOutcome::Done => TurnEnd::Clean,
            // Only we interrupt, and then the reading ended otherwise.
            TurnOutcome::Interrupted => TurnEnd::Stopped { why: "it was interrupted".to_owned() },
            TurnOutcome::Limit(what) => TurnEnd::Limit {
                what: format!("{} reached {what}", self.begun.session.agent),
                resumes: false,
            },
            TurnOutcome::Spent(reached) => reached.into(),
            TurnOutcome::RateLimited(until) => {
                TurnEnd::RateLimited { until: self.blocked_until(until) }
            }
            TurnOutcome::Failed { failure, message } => TurnEnd::Failed { failure, message },
        }
    }

    fn blocked_until(&self, until: Option<DateTime<Utc>>) -> DateTime<Utc> {
        let now = self.store.clock().now();
        until.filter(|until| *until > now).unwrap_or(now + BLOCKED_FOR)
    }
}

/// What one event leaves in the database.
#[derive(Default)]
pub(super) struct Kept {
    line: Option<(&'static str, String)>,
    native_id: Option<String>,
    cost: Option<Cost>,
    /// Whether the limits are to be looked at.
    check: bool,
    pub event: Option<Event>,
    first: bool,
    touch: bool,
}

impl Kept {
    fn is_nothing(&self) -> bool {
        self.line.is_none()
            && self.native_id.is_none()
            && self.cost.is_none()
            && !self.check
            && self.event.is_none()
            && !self.first
            && !self.touch
    }
}

/// Waits until somebody wants the turn to end. Cancel-safe.
async fn told_to_stop(stop: &mut watch::Receiver<Option<Stop>>) -> Option<Stop> {
    let told = stop.wait_for(Option::is_some).await.map(|why| (*why).clone());
    match told {
        Ok(why) => why,
        // Nobody can tell any more.
        Err(_closed) => std::future::pending().await,
    }
}

/// Keeps what a turn was given beside its prompt, for the replay.
fn note_given(
    tx: &Tx<'_>,
    turn: TurnId,
    session: AgentSessionId,
    mails: &[Mail],
    nudges: &[Nudge],
) -> Result<(), StoreError> {
    for nudge in nudges {
        let text = format!("from {}: {}", nudge.from, nudge.text);
        sessions::append_turn_event(tx, turn, session, "nudge", &text)?;
    }
    for mail in mails {
        let text = format!("{} from {}: {}", mail.id, mail.from, mail.subject);
        sessions::append_turn_event(tx, turn, session, "mail", &text)?;
    }
    Ok(())
}

/// Waits for a hint of either. Cancel-safe.
async fn either(one: &mut Changes, other: &mut Changes) {
    tokio::select! {
        () = one.changed() => {}
        () = other.changed() => {}
    }
}

/// Waits for an answer; for ever when nobody is asked. A failure means to wait. Cancel-safe.
async fn answer_of(triage: &mut Option<JoinHandle<Advice>>) -> Advice {
    match triage {
        Some(asked) => asked.await.unwrap_or(Advice::Extend),
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
