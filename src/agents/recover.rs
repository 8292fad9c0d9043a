//! The start after a crash: what the last run left behind is ended, then settled.

use super::process::{Ident, Marked, become_subreaper, kill_marked, signal};
use super::turn::settle::{Asked, settle_cut_off};
use super::{Agents, Inner, hold};
use crate::model::agent::{SessionState, TurnEnd};
use crate::model::ids::AgentSessionId;
use crate::store::agents::{self as sessions, Turn};
use crate::store::{StoreError, Tx, mail, pauses};
use nix::sys::signal::Signal;
use std::sync::Arc;
use std::time::Duration;

/// How long the sweep at the start may take.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(5);

impl Agents {
    /// Ends what the last run of the server left behind, and settles its turns: a session goes on
    /// where it was cut off, or is given up. Before anything else touches a worktree.
    pub async fn reconcile(&self) -> Result<(), StoreError> {
        become_subreaper();
        let inner = &self.inner;
        let instance = inner.store.write(sessions::instance_id).await?;
        let recorded = inner.store.read(sessions::live_processes).await?;
        let idents: Vec<Ident> =
            recorded.iter().map(|row| Ident { pid: row.pid, start: row.pid_start }).collect();
        let survivors = tokio::task::spawn_blocking(move || {
            // By number for those whose environment cannot be read, and by marker for the rest.
            for ident in idents {
                signal(ident, Signal::SIGKILL);
            }
            kill_marked(Marked::Prefix(&format!("{instance}-")), SWEEP_TIMEOUT)
        })
        .await
        .unwrap_or_default();
        if !survivors.is_empty() {
            tracing::error!(?survivors, "processes of the last run could not be killed");
        }
        let max_recoveries = inner.config.watchdog.max_recoveries;
        let now = inner.store.clock().now();
        inner
            .store
            .write(move |tx| {
                // What a person must put right may be right by now.
                pauses::try_all(tx)?;
                for row in recorded {
                    sessions::end_process(tx, row.id)?;
                }
                for turn in sessions::unfinished_turns(tx)? {
                    settle_turn(tx, &turn, max_recoveries, now)?;
                }
                mail::give_back_orphans(tx)?;
                settle_silent(tx)
            })
            .await
    }
}

fn settle_turn(
    tx: &Tx<'_>,
    turn: &Turn,
    max_recoveries: u32,
    now: chrono::DateTime<chrono::Utc>,
) -> Result<(), StoreError> {
    let events = sessions::events_of_turn(tx, turn.id)?;
    let asked = Asked {
        session: turn.session,
        baseline: sessions::report_before(tx, turn)?,
        end: TurnEnd::CutOff,
        // Whatever it said or did, it had its prompt.
        consumed: events.iter().any(|event| matches!(event.kind.as_str(), "text" | "tool")),
        max_recoveries,
        now,
    };
    // Whoever waited for a person did not fail at anything either.
    let progressed = events
        .iter()
        .any(|event| matches!(event.kind.as_str(), "tool_end" | "permission" | "question"));
    settle_cut_off(tx, &asked, turn, progressed)
}

/// Sessions that are recorded as running without a turn: the crash came between two writes.
fn settle_silent(tx: &Tx<'_>) -> Result<(), StoreError> {
    for session in sessions::live_sessions(tx)? {
        if matches!(session.state, SessionState::InTurn | SessionState::Stalled) {
            sessions::move_state(tx, session.id, SessionState::BetweenTurns)?;
        }
        sessions::release_lease(tx, &session.agent, session.id)?;
    }
    Ok(())
}

/// Settles the turn of a task that panicked; its processes are gone.
pub(super) async fn settle_session(inner: &Arc<Inner>, session: AgentSessionId) {
    let max_recoveries = inner.config.watchdog.max_recoveries;
    let now = inner.store.clock().now();
    let settled = inner
        .store
        .write(move |tx| {
            for turn in sessions::unfinished_turns(tx)? {
                if turn.session == session {
                    settle_turn(tx, &turn, max_recoveries, now)?;
                }
            }
            Ok::<(), StoreError>(())
        })
        .await;
    if let Err(error) = settled {
        tracing::error!(%session, %error, "a turn that failed could not be settled");
    }
    hold(&inner.live).remove(&session);
}
