//! What the driver does about a turn that is silent: tells, nudges, asks, ends.

use super::drive::{Driver, Over};
use crate::agents::budget::{self, Spender};
use crate::agents::runtime::{Delivery, UserMessage};
use crate::agents::watchdog::silence::{Silence, Step};
use crate::agents::watchdog::triage::{Advice, EVENTS, TRIAGE_TIMEOUT, Triage, Triaged};
use crate::model::agent::{Failure, SessionState};
use crate::model::event::Event;
use crate::store::agents as sessions;
use crate::store::costs::{self, Cost, Source};
use crate::store::{Store, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

/// The name under which the watchdog's own model calls are counted.
const WATCHDOG: &str = "watchdog";

/// How often a silent turn is borne longer because a model says so.
const EXTENSIONS_MAX: u32 = 3;

/// What a silent agent is asked.
const ARE_YOU_THERE: &str = "Nothing has been heard from you for a while. If you wait for a command \
    that hangs, end it and go on; if you are done, report.";

/// What follows from what a model advises.
pub(super) fn follow(advice: Advice, silence: &mut Silence) -> Result<(), Over> {
    match advice {
        Advice::Extend => {
            silence.extend(Instant::now());
            Ok(())
        }
        Advice::Retry => {
            let why = "it hung, and is started again".to_owned();
            Err(Over::Failed(Failure::Crash, why))
        }
        Advice::Terminate => Err(Over::Stalled),
    }
}

impl Driver<'_> {
    /// The next step about a silent turn is due.
    pub(super) async fn step(
        &mut self,
        step: Option<Step>,
        silence: &mut Silence,
        triage: &mut Option<JoinHandle<Advice>>,
    ) -> Result<(), Over> {
        let Some(step) = step else { return Ok(()) };
        let lasts = silence.lasts(Instant::now());
        silence.take(step);
        if let Some(asked) = self.silent(step, lasts).await? {
            if silence.extended() >= EXTENSIONS_MAX {
                asked.abort();
                return Err(Over::Stalled);
            }
            *triage = Some(asked);
        }
        Ok(())
    }

    /// Takes one step about a turn that has been silent for so long; returns the task that asks a
    /// model, or how the turn ends.
    async fn silent(
        &mut self,
        step: Step,
        lasts: Duration,
    ) -> Result<Option<JoinHandle<Advice>>, Over> {
        match step {
            Step::Warn => self.warn_of_silence(lasts).await.map(|()| None),
            Step::Nudge => self.nudge_silent().await.map(|()| None),
            Step::End => match self.inner.triage.get() {
                Some(triage) => Ok(Some(self.ask_about_silence(Arc::clone(triage), lasts))),
                None => Err(Over::Stalled),
            },
        }
    }

    async fn warn_of_silence(&mut self, lasts: Duration) -> Result<(), Over> {
        let (session, turn) = (self.begun.session.id, self.begun.turn);
        let (item, agent) = (self.begun.session.item, self.begun.session.agent.clone());
        let minutes = in_words(lasts);
        self.write_step(move |tx| {
            sessions::move_state(tx, session, SessionState::Stalled)?;
            let what = format!(
                "has not been heard for {minutes}. It is asked whether it is there, and ended if it \
                 stays silent; `logs {item}` shows what it did last, `stop {item}` ends it now"
            );
            sessions::append_turn_event(tx, turn, session, WATCHDOG, &format!("silent for {minutes}"))?;
            crate::store::log::append_event(tx, &Event::Watched { item, agent, what })?;
            Ok(())
        })
        .await
    }

    async fn nudge_silent(&mut self) -> Result<(), Over> {
        let (session, turn) = (self.begun.session.id, self.begun.turn);
        self.write_step(move |tx| {
            sessions::append_turn_event(tx, turn, session, WATCHDOG, "asked whether it is there")
        })
        .await?;
        let id = Uuid::new_v4();
        self.progress.asked.insert(id);
        let (header, text) = ("Musher asks:".to_owned(), ARE_YOU_THERE.to_owned());
        // One that is gone is seen by the end of its events.
        let _gone = self.live.session.send(UserMessage { id, header, text }, Delivery::Steer).await;
        Ok(())
    }

    /// Takes back questions that the model has not seen when its turn is over.
    pub(super) async fn take_back_questions(&mut self) {
        for id in self.progress.asked.clone() {
            if self.live.session.withdraw(id).await.unwrap_or(true) {
                self.progress.asked.remove(&id);
            }
        }
    }

    fn ask_about_silence(&self, triage: Arc<dyn Triage>, lasts: Duration) -> JoinHandle<Advice> {
        let (store, config) = (self.store.clone(), Arc::clone(&self.inner.config));
        let (session, turn) = (self.begun.session.id, self.begun.turn);
        let (item, project) = (self.begun.session.item, self.live.tools.project.clone());
        let now = store.clock().now();
        tokio::spawn(async move {
            let looked = store.read(move |conn| {
                let spender = Spender { item: Some(item), ..Spender::default() };
                let reached = budget::reached(conn, &config, now, &spender)?;
                Ok::<_, StoreError>((reached, sessions::session_events(conn, session, EVENTS)?))
            });
            let asked = match looked.await {
                Ok((None, events)) => {
                    tokio::time::timeout(TRIAGE_TIMEOUT, triage.ask(lasts, &events)).await
                }
                // Nothing may be spent on it: the turn ends as it would without a model.
                Ok((Some(_reached), _events)) => return Advice::Terminate,
                Err(error) => {
                    tracing::warn!(%error, "nobody could be asked about a silent agent");
                    return Advice::Extend;
                }
            };
            let triaged = match asked {
                Ok(Ok(triaged)) => triaged,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the model that was asked about a silent agent failed");
                    return Advice::Extend;
                }
                Err(_elapsed) => {
                    tracing::warn!("the model that was asked about a silent agent was too slow");
                    return Advice::Extend;
                }
            };
            let advice = triaged.advice;
            let kept = note_advice(&store, (turn, session), (item, project), triaged).await;
            if let Err(error) = kept {
                tracing::warn!(%error, "what a model said of a silent agent was not kept");
            }
            advice
        })
    }

    async fn write_step(
        &self,
        work: impl FnOnce(&crate::store::Tx<'_>) -> Result<(), StoreError> + Clone + Send + 'static,
    ) -> Result<(), Over> {
        let written: Result<(), StoreError> = self.store.write(work).await;
        written.map_err(|error| Over::Failed(Failure::Crash, error.to_string()))
    }
}

/// Keeps what a model said of a silent turn, and what that cost.
async fn note_advice(
    store: &Store,
    (turn, session): (crate::model::ids::TurnId, crate::model::ids::AgentSessionId),
    (item, project): (crate::model::ids::ItemId, crate::model::ids::ProjectName),
    triaged: Triaged,
) -> Result<(), StoreError> {
    store
        .write(move |tx| {
            let said = format!("{} says: {:?}", triaged.model, triaged.advice).to_lowercase();
            sessions::append_turn_event(tx, turn, session, WATCHDOG, &said)?;
            let cost = Cost {
                source: Source::Agent,
                name: WATCHDOG.to_owned(),
                model: triaged.model,
                item: Some(item),
                project: Some(project),
                usage: triaged.spent.usage,
                microusd: triaged.spent.microusd,
            };
            costs::record(tx, &cost)
        })
        .await
}

/// A time of silence, as people say it.
fn in_words(lasts: Duration) -> String {
    match lasts.as_secs() {
        seconds @ ..120 => format!("{seconds} seconds"),
        seconds => format!("{} minutes", seconds / 60),
    }
}
