//! Firing: what is due, in one transaction with its effect, then sleep till the next.

use super::{Timer, TimerKind, absolute, next_of, parse_zone};
use crate::model::agent::{SessionState, WaitingFor};
use crate::model::chat::{Incoming, IncomingBody, Outgoing};
use crate::model::event::Event;
use crate::model::ids::PersonId;
use crate::store::{Store, StoreError, Tx, agents as sessions, inbox, log, outbox, timers as rows};
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A timer that fires later than this says so, also while the service runs.
const LATE: TimeDelta = TimeDelta::minutes(1);
/// The longest sleep: the system's clock may be set, or the machine may have slept.
const TICK: Duration = Duration::from_secs(30);
/// How long to rest when the database fails.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// Most timers fired in one transaction.
const BATCH: usize = 50;

/// Fires timers when they are due.
#[derive(Clone)]
pub struct TimerService {
    store: Store,
}

impl TimerService {
    /// A service over the rows of `store`.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Fires what is due until `cancel`. What became due while nothing ran comes first, late.
    pub async fn run(self, cancel: CancellationToken) {
        let mut changes = self.store.changes("timers");
        let began = self.store.clock().now();
        loop {
            let rest = match self.store.write(move |tx| fire_due(tx, began)).await {
                // More than one batch may have been due.
                Ok(fired) if fired == BATCH => continue,
                Ok(_) => self.time_to_next().await,
                Err(error) => {
                    tracing::error!(%error, "cannot fire timers");
                    AFTER_FAILURE
                }
            };
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = changes.changed() => {}
                () = tokio::time::sleep(rest) => {}
            }
        }
    }

    async fn time_to_next(&self) -> Duration {
        match self.store.read(rows::next_due).await {
            Ok(Some(due)) => {
                let wait = due - self.store.clock().now();
                wait.to_std().unwrap_or(Duration::ZERO).min(TICK)
            }
            Ok(None) => TICK,
            Err(error) => {
                tracing::error!(%error, "cannot read timers");
                AFTER_FAILURE
            }
        }
    }
}

/// Fires every timer that is due, at most a batch; says how many.
///
/// What was due before the service `began` was missed by downtime and is marked late.
pub fn fire_due(tx: &Tx<'_>, began: DateTime<Utc>) -> Result<usize, StoreError> {
    let due = rows::due(tx, tx.now(), BATCH)?;
    for timer in &due {
        fire(tx, timer, began)?;
    }
    Ok(due.len())
}

fn fire(tx: &Tx<'_>, timer: &Timer, began: DateTime<Utc>) -> Result<(), StoreError> {
    let now = crate::clock::from_millis(tx.now());
    let zone = parse_zone(&timer.set.zone).unwrap_or(Tz::UTC);
    let next = timer.set.cron.as_deref().and_then(|cron| match next_of(cron, now, zone) {
        Ok(next) => Some(next),
        Err(error) => {
            tracing::warn!(timer = %timer.id, %error, "a timer will not come again");
            None
        }
    });
    let missed = timer.set.due_at < began || now - timer.set.due_at > LATE;
    let late = missed.then(|| absolute(timer.set.due_at, zone));
    effect(tx, timer, late.as_deref())?;
    rows::fired(tx, timer.id, next)
}

/// The name of one firing: the same timer at the same time has no effect twice.
fn key(timer: &Timer) -> String {
    format!("timer:{}:{}", timer.id, timer.set.due_at.timestamp_millis())
}

fn effect(tx: &Tx<'_>, timer: &Timer, late: Option<&str>) -> Result<(), StoreError> {
    match timer.set.kind {
        TimerKind::Reminder => remind(tx, timer, late),
        TimerKind::Prompt => prompt(tx, timer, late),
        TimerKind::Resume => resume(tx, timer),
        TimerKind::Start => {
            log::append_event(tx, &Event::TimerFired { timer: timer.id })?;
            Ok(())
        }
    }
}

/// Lets a session go on that a rate limit held; one that went on since, or ended, is left alone.
fn resume(tx: &Tx<'_>, timer: &Timer) -> Result<(), StoreError> {
    let Some(item) = timer.set.item else { return Ok(()) };
    let Some(session) = sessions::live_session_of(tx, item)? else { return Ok(()) };
    let limited = session.waiting.is_some_and(|waiting| waiting.what == WaitingFor::RateLimit);
    if limited && session.state == SessionState::Waiting {
        sessions::move_state(tx, session.id, SessionState::BetweenTurns)?;
    }
    Ok(())
}

fn remind(tx: &Tx<'_>, timer: &Timer, late: Option<&str>) -> Result<(), StoreError> {
    let Some(session) = timer.set.session.clone() else { return Ok(()) };
    let text = reminder_text(timer.set.person.as_ref(), &timer.set.text, late);
    let mut outgoing = Outgoing::text(session, text);
    if let Some(person) = timer.set.person.clone() {
        outgoing = outgoing.mentioning(person);
    }
    outgoing.item = timer.set.item;
    outbox::enqueue(tx, &outgoing, Some(&key(timer)))?;
    Ok(())
}

fn reminder_text(person: Option<&PersonId>, text: &str, late: Option<&str>) -> String {
    let whom = person.map_or_else(String::new, |person| format!("{person}: "));
    let late = late.map_or_else(String::new, |due| format!(" (late: it was due {due})"));
    format!("⏰ {whom}{text}{late}")
}

fn prompt(tx: &Tx<'_>, timer: &Timer, late: Option<&str>) -> Result<(), StoreError> {
    let Some(session) = timer.set.session.clone() else { return Ok(()) };
    let sender =
        timer.set.person.clone().unwrap_or_else(|| PersonId::from(timer.set.created_by.as_str()));
    let late = late.map_or_else(String::new, |due| format!(", late: it was due {due}"));
    let incoming = Incoming {
        key: key(timer).as_str().into(),
        session,
        sender_name: sender.to_string(),
        sender,
        sent_at: at(tx),
        addressed: true,
        body: IncomingBody::Text {
            text: format!("(timer {}{late}) {}", timer.id, timer.set.text),
            reply_to: None,
        },
    };
    inbox::insert(tx, &incoming)?;
    Ok(())
}

fn at(tx: &Tx<'_>) -> DateTime<Utc> {
    crate::clock::from_millis(tx.now())
}
