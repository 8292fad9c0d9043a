//! The watchdog: deterministic code that looks at what can be observed, on a tick.
//!
//! Silence within a turn is the turn runner's own guard; what is left here are sessions whose
//! record and whose processes disagree, and orphans that nobody collects. One action per change of
//! level, never one per tick.

pub(super) mod silence;
pub(super) mod triage;

use super::budget::{self, Spender};
use super::process::{Ident, Marked, find_marked, reap_orphans};
use super::{Inner, Stop, hold, housekeeping, recover, turn};
use crate::model::agent::SessionState;
use crate::model::event::Event;
use crate::model::ids::AgentSessionId;
use crate::store::agents as sessions;
use crate::store::{StoreError, log, told};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Looks until cancelled.
pub(super) async fn run(inner: &Arc<Inner>, cancel: CancellationToken) {
    let tick = Duration::from_secs(inner.config.watchdog.tick_s.max(1));
    let mut orphans: HashSet<Ident> = HashSet::new();
    let mut suspects: HashSet<AgentSessionId> = HashSet::new();
    let mut tidied: Option<Instant> = None;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(tick) => {}
        }
        let last = std::mem::take(&mut orphans);
        orphans =
            tokio::task::spawn_blocking(move || reap_orphans(&last)).await.unwrap_or_default();
        match lost(inner).await {
            Ok(lost) => {
                // Twice in a row: a turn may be between two of its writes.
                for session in lost.intersection(&suspects) {
                    tracing::warn!(%session, "recorded as running, but nothing runs: settled");
                    recover::settle_session(inner, *session).await;
                    if let Err(error) = release(inner, *session).await {
                        tracing::error!(%session, %error, "a lost session could not be settled");
                    }
                }
                suspects = lost;
            }
            Err(error) => tracing::error!(%error, "the watchdog could not read the sessions"),
        }
        if let Err(error) = survivors(inner).await {
            tracing::error!(%error, "the watchdog could not look at processes");
        }
        turn::down_dead(inner).await;
        if tidied.is_none_or(|at| at.elapsed() >= housekeeping::EVERY) {
            tidied = Some(Instant::now());
            housekeeping::round(inner).await;
        }
        if let Err(error) = enforce_limits(inner).await {
            tracing::error!(%error, "the watchdog could not look at the limits");
        }
    }
}

/// Shows processes that live on although their session is over, once each; forgets those that are
/// gone. They are not killed here: whoever ended the session has tried, and a person decides.
async fn survivors(inner: &Arc<Inner>) -> Result<(), StoreError> {
    let recorded = inner.store.read(sessions::live_processes).await?;
    let up: HashSet<AgentSessionId> = {
        let (live, running) = (hold(&inner.live), hold(&inner.running));
        live.keys().chain(running.keys()).copied().collect()
    };
    let left: Vec<_> = recorded.into_iter().filter(|row| !up.contains(&row.session)).collect();
    if left.is_empty() {
        return Ok(());
    }
    let looked = tokio::task::spawn_blocking(move || {
        let alive =
            |row: &sessions::ProcessRow| !find_marked(Marked::Exactly(&row.marker)).is_empty();
        left.into_iter().map(|row| (alive(&row), row)).collect::<Vec<_>>()
    });
    let looked = looked.await.unwrap_or_default();
    let write = inner.store.write(move |tx| {
        for (alive, row) in looked {
            let Some(session) = sessions::find_session(tx, row.session)? else { continue };
            if !session.state.is_over() {
                continue;
            }
            if !alive {
                sessions::end_process(tx, row.id)?;
            } else if told::once(tx, &format!("survivor:{}", row.id))? {
                let (item, agent) = (session.item, session.agent);
                let what = format!(
                    "has ended, but a process of it lives on (pid {}) and could not be killed; \
                     `stop {item}` tries it again",
                    row.pid
                );
                log::append_event(tx, &Event::Watched { item, agent, what })?;
            }
        }
        Ok(())
    });
    write.await
}

/// Ends turns whose limits others have used up: a turn looks itself only when it spends.
async fn enforce_limits(inner: &Arc<Inner>) -> Result<(), StoreError> {
    let running: Vec<AgentSessionId> = hold(&inner.running).keys().copied().collect();
    if running.is_empty() {
        return Ok(());
    }
    let config = Arc::clone(&inner.config);
    let over = inner
        .store
        .write(move |tx| {
            let mut over = vec![];
            for id in running {
                let Some(session) = sessions::find_session(tx, id)? else { continue };
                let agent = config.agents.iter().find(|agent| agent.name == session.agent);
                let spender = Spender { agent, item: Some(session.item), project: None };
                over.extend(budget::check(tx, &config, &spender)?.map(|reached| (id, reached)));
            }
            Ok::<_, StoreError>(over)
        })
        .await?;
    for (session, reached) in over {
        if let Some(turn) = hold(&inner.running).get(&session) {
            turn.stop.send_if_modified(|stop| {
                let first = stop.is_none();
                stop.get_or_insert(Stop::Limit(reached));
                first
            });
        }
    }
    Ok(())
}

/// Sessions that are recorded as running although no turn of theirs runs.
async fn lost(inner: &Arc<Inner>) -> Result<HashSet<AgentSessionId>, StoreError> {
    let live = inner.store.read(sessions::live_sessions).await?;
    let running = hold(&inner.running);
    Ok(live
        .iter()
        .filter(|session| matches!(session.state, SessionState::InTurn | SessionState::Stalled))
        .map(|session| session.id)
        .filter(|session| !running.contains_key(session))
        .collect())
}

async fn release(inner: &Arc<Inner>, session: AgentSessionId) -> Result<(), StoreError> {
    inner
        .store
        .write(move |tx| {
            let Some(found) = sessions::find_session(tx, session)? else { return Ok(()) };
            if matches!(found.state, SessionState::InTurn | SessionState::Stalled) {
                sessions::move_state(tx, session, SessionState::BetweenTurns)?;
            }
            sessions::release_lease(tx, &found.agent, session)
        })
        .await
}
