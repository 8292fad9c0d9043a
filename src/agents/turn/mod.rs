//! One turn, end to end: lease, prompt and mail, runtime, events, settling.
//!
//! The steps are those of spec/agents.md, "One turn, end to end". What a step leaves behind when
//! the process dies after it: a turn row without a result, perhaps a process row without an end.
//! `recover` reads both at the next start.

mod advice;
mod checkpoint;
mod compose;
mod drive;
mod implied;
pub(super) mod settle;
mod silent;
mod start;
#[cfg(test)]
mod tests;
mod waits;

use super::budget::{self, Effort, Reached, Spender};
use super::{Inner, Live, Place, Stop};
use crate::config::AgentConfig;
use crate::failpoint::failpoint;
use crate::model::agent::{Failure, TurnEnd};
use crate::model::ids::{AgentSessionId, TurnId};
use crate::project::Fault;
use crate::store::agents::{self as sessions, AgentSession, LeaseOutcome};
use crate::store::{Owner, StoreError, meta, start_time, timers};
use advice::Looked;
use drive::Progress;
use std::sync::{Arc, LazyLock};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// This process, as the owner of leases.
static ME: LazyLock<Owner> = LazyLock::new(|| {
    let pid = nix::unistd::getpid().as_raw();
    Owner { pid, started: start_time(pid).unwrap_or(0) }
});

/// A turn that was begun: everything that it was begun with.
struct Begun {
    session: AgentSession,
    config: AgentConfig,
    turn: TurnId,
    prompt: String,
    /// The newest report when it began: only later ones count.
    baseline: Option<i64>,
    effort: Effort,
    /// A limit that was reached before it began.
    exhausted: Option<Reached>,
    at: Instant,
}

/// How a turn ended, before it is settled.
struct Ended {
    end: TurnEnd,
    progress: Progress,
}

/// Runs the turn that `session` has a prompt for, if it may. Settles it whatever happens.
pub(super) async fn run(
    inner: &Arc<Inner>,
    session: AgentSessionId,
    stop: watch::Receiver<Option<Stop>>,
) -> anyhow::Result<()> {
    let Some(begun) = begin(inner, session).await? else {
        return Ok(());
    };
    tracing::info!(agent = %begun.session.agent, item = %begun.session.item, turn = %begun.turn,
                   "turn begins");
    failpoint("agent-turn-began");
    let ended = match begun.exhausted.clone() {
        Some(reached) => Ended { end: reached.into(), progress: Progress::default() },
        None => go(inner, &begun, stop).await,
    };
    failpoint("agent-turn-over");
    settle::settle(inner, &begun, ended).await?;
    failpoint("agent-turn-settled");
    Ok(())
}

/// Takes the lease and begins the turn, in one transaction; `None` when there is nothing to do.
async fn begin(inner: &Arc<Inner>, id: AgentSessionId) -> anyhow::Result<Option<Begun>> {
    let config = Arc::clone(&inner.config);
    let begun = inner
        .store
        .write(move |tx| {
            let Some(session) = sessions::find_session(tx, id)? else { return Ok(None) };
            let over = session.state.is_over();
            if over || meta::find(tx, meta::STOPPED_ALL)?.is_some() {
                return Ok(None);
            }
            let Some(agent) = config.agents.iter().find(|agent| agent.name == session.agent) else {
                return Ok(None);
            };
            if let LeaseOutcome::Held(owner) = sessions::take_lease(tx, &agent.name, id, &ME)? {
                tracing::warn!(agent = %agent.name, pid = owner.pid, "another process drives it");
                return Ok(None);
            }
            let baseline = sessions::newest_report(tx, &agent.name, session.item)?;
            let effort = budget::effort(tx, agent, session.item)?;
            let spender = Spender { agent: Some(agent), item: Some(session.item), project: None };
            let exhausted = match effort.check(tx, &config)? {
                Some(reached) => Some(reached),
                None => budget::check(tx, &config, &spender)?,
            };
            let Some(turn) = sessions::begin_turn(tx, id)? else {
                sessions::release_lease(tx, &agent.name, id)?;
                return Ok(None);
            };
            timers::cancel_resumes(tx, session.item)?;
            let prompt = session.pending_prompt.clone().unwrap_or_default();
            sessions::append_turn_event(tx, turn, id, "prompt", &prompt)?;
            Ok::<_, StoreError>(Some(Begun {
                baseline: baseline.map(|report| report.id),
                config: agent.clone(),
                effort,
                exhausted,
                turn,
                prompt,
                session,
                at: Instant::now(),
            }))
        })
        .await?;
    Ok(begun)
}

/// Prepares and drives; a runtime that lost or never made its session is started once more, cold.
async fn go(inner: &Arc<Inner>, begun: &Begun, mut stop: watch::Receiver<Option<Stop>>) -> Ended {
    let mut progress = Progress::default();
    let cancel = CancellationToken::new();
    let _cancelled = cancel_when_stopped(&stop, &cancel);
    let place = match inner.places.place(begun.session.item, &cancel).await {
        Ok(place) => place,
        Err(_cancelled) if stop.borrow().is_some() => {
            let why = stop.borrow_and_update().clone();
            return Ended { end: settle::stopped(why.as_ref()), progress };
        }
        Err(error) => {
            // Not the runtime's fault: its pool goes on.
            let failure = match Fault::of(&error) {
                Some(Fault::Project) => Failure::Project,
                Some(Fault::Machine) => Failure::Machine,
                None => Failure::Crash,
            };
            let message = format!("the worktree could not be made ready: {error:#}");
            return Ended::failed(failure, message, progress);
        }
    };
    let session = &begun.session;
    progress.checkpoint =
        checkpoint::of(&inner.store, &session.agent, session.item, &place.dir).await;
    for attempt in 0..2 {
        let cold = attempt > 0;
        let live = match start::up(inner, begun, &place, cold, &stop).await {
            Ok(Some(live)) => live,
            Ok(None) => {
                let why = stop.borrow_and_update().clone();
                return Ended { end: settle::stopped(why.as_ref()), progress };
            }
            Err(error) => return Ended::failed(error.failure, error.message, progress),
        };
        let resumed = live.resumed;
        let end = drive::drive(inner, begun, &live.live, &mut progress, &mut stop).await;
        if cold || !resumed || !never_made(&end, &progress) {
            if end == TurnEnd::Clean {
                let looked = Looked {
                    item: session.item,
                    project: &place.project,
                    session: session.id,
                    turn: begun.turn,
                    worktree: &place.dir,
                };
                let advice = advice::of(&inner.store, &inner.config, &looked).await;
                progress.warnings.extend(advice);
            }
            return Ended { end, progress };
        }
        tracing::warn!(agent = %begun.session.agent, "its session is lost; starting it cold");
        start::down(inner, begun.session.id).await;
        let checkpoint = progress.checkpoint.take();
        progress = Progress::default();
        (progress.checkpoint, progress.note) = (checkpoint, Some(start::COLD.to_owned()));
    }
    Ended::failed(Failure::SessionLost, "its session is lost".to_owned(), progress)
}

/// Cancels the token when the turn is told to stop; the task ends with the guard.
fn cancel_when_stopped(
    stop: &watch::Receiver<Option<Stop>>,
    cancel: &CancellationToken,
) -> DropGuard {
    let over = CancellationToken::new();
    let guard = over.clone().drop_guard();
    let (mut stop, cancel) = (stop.clone(), cancel.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = over.cancelled() => {}
            _told = stop.wait_for(Option::is_some) => cancel.cancel(),
        }
    });
    guard
}

/// Whether a runtime ended before it had the session that it was to resume.
fn never_made(end: &TurnEnd, progress: &Progress) -> bool {
    match end {
        TurnEnd::Failed { failure: Failure::SessionLost, .. } => true,
        TurnEnd::Failed { failure: Failure::Crash, .. } => progress.native_id.is_none(),
        TurnEnd::Failed { .. }
        | TurnEnd::Clean
        | TurnEnd::Stopped { .. }
        | TurnEnd::Stalled
        | TurnEnd::Limit { .. }
        | TurnEnd::RateLimited { .. }
        | TurnEnd::CutOff => false,
    }
}

impl From<Reached> for TurnEnd {
    fn from(reached: Reached) -> Self {
        TurnEnd::Limit { what: reached.what, resumes: reached.resumes }
    }
}

impl Ended {
    fn failed(failure: Failure, message: String, progress: Progress) -> Self {
        Self { end: TurnEnd::Failed { failure, message }, progress }
    }
}

pub(super) use start::{down, down_dead};
