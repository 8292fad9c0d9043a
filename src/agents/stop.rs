//! Stopping an item's agent: kill first, verified, then write the record.

use super::process::{Marked, kill_marked};
use super::{Agents, Inner, Stop, hold, turn};
use crate::model::agent::SessionState;
use crate::model::ids::{AgentName, AgentSessionId, ItemId};
use crate::store::agents::{self as sessions, AgentSession};
use crate::store::{StoreError, mail};
use std::sync::Arc;
use std::time::Duration;

/// How long a turn may take to end and be settled after it was told to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(12);

/// How long the sweep behind a stop may take.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(2);

/// What a stop did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StopReport {
    /// The agent that was at work, if any.
    pub agent: Option<AgentName>,
    /// Whether a turn was running.
    pub was_running: bool,
    /// Processes that could not be killed: empty when everything is verified gone.
    pub survivors: Vec<i32>,
}

/// Refuses starts for an item while it lives.
struct Refusing<'a> {
    inner: &'a Inner,
    item: ItemId,
}

impl Drop for Refusing<'_> {
    fn drop(&mut self) {
        hold(&self.inner.stopping).remove(&self.item);
    }
}

impl Agents {
    /// Ends the agent at work on `item` and its session, verified. Safe to repeat; nothing happens
    /// when there is none. `why` says by whom, in words.
    pub async fn stop_item(&self, item: ItemId, why: &str) -> Result<StopReport, StoreError> {
        let inner = &self.inner;
        hold(&inner.stopping).insert(item);
        let _refusing = Refusing { inner, item };
        let session = inner.store.read(move |conn| sessions::live_session_of(conn, item)).await?;
        let Some(session) = session else { return Ok(StopReport::default()) };
        let was_running = end_turn(inner, session.id, Stop::Operator(why.to_owned())).await;
        let mut survivors = match turn::down(inner, session.id).await {
            Some(report) => report.survivors,
            None => vec![],
        };
        survivors.extend(sweep(inner, &session).await?);
        close(inner, &session).await?;
        Ok(StopReport { agent: Some(session.agent), was_running, survivors })
    }

    /// Ends every agent, all at once; returns what was stopped.
    pub async fn stop_all(&self, why: &str) -> Result<Vec<(ItemId, StopReport)>, StoreError> {
        let live = self.inner.store.read(sessions::live_sessions).await?;
        let stops = live.into_iter().map(|session| async move {
            Ok((session.item, self.stop_item(session.item, why).await?))
        });
        futures_util::future::join_all(stops).await.into_iter().collect()
    }
}

/// Tells a running turn to stop and waits until it is settled; says whether one ran.
async fn end_turn(inner: &Inner, session: AgentSessionId, why: Stop) -> bool {
    let done = {
        let running = hold(&inner.running);
        let Some(turn) = running.get(&session) else { return false };
        turn.stop.send_replace(Some(why));
        turn.done.clone()
    };
    let mut done = done;
    if tokio::time::timeout(STOP_TIMEOUT, done.wait_for(|done| *done)).await.is_err() {
        tracing::error!(%session, "a turn did not end in time; its processes are swept");
    }
    true
}

/// Kills everything that any runtime of the session has started, whatever is recorded of it.
async fn sweep(inner: &Arc<Inner>, session: &AgentSession) -> Result<Vec<i32>, StoreError> {
    let instance = inner.store.write(sessions::instance_id).await?;
    let prefix = format!("{instance}-{}-", session.id);
    let left =
        tokio::task::spawn_blocking(move || kill_marked(Marked::Prefix(&prefix), SWEEP_TIMEOUT));
    Ok(left.await.unwrap_or_default().iter().map(|ident| ident.pid).collect())
}

/// Writes that the session is over, if its turn has not done so.
async fn close(inner: &Arc<Inner>, session: &AgentSession) -> Result<(), StoreError> {
    let (id, agent) = (session.id, session.agent.clone());
    inner
        .store
        .write(move |tx| {
            sessions::move_state(tx, id, SessionState::Zombie)?;
            sessions::close_zombie(tx, id)?;
            sessions::clear_prompt(tx, id)?;
            for turn in sessions::turns_of_session(tx, id)? {
                mail::give_back(tx, agent.as_str(), turn.id)?;
            }
            sessions::release_lease(tx, &agent, id)
        })
        .await
}
