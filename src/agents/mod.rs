//! Agents: sessions, turns, and the processes that carry them out.
//!
//! **Forces.** A session is a row; what is to be said next is a column of it. The pool
//! ([`Agents::run`]) starts a turn for every session that has something to be said and may run, so
//! nothing is lost when a hint, a task or the whole process is: the next pass finds the row. A
//! turn's result and its event are written in one transaction, after everything that it started is
//! verified gone or kept on purpose.
//!
//! **Properties.** One turn at a time an agent (a mutex in the process, a lease between processes).
//! Kill first, then write: while an item's agent is stopped, starts for it are refused. A report
//! counts only if it is newer than the newest one when the turn began.
//!
//! **Known races.** A turn that ends by itself while it is being stopped: whoever settles first
//! wins, the other's compare-and-swap is refused and logged. A message to a turn that has just
//! ended: it is mail, is given back, and wakes the session again.

mod budget;
mod holds;
pub mod permission;
mod places;
mod pool;
pub mod process;
mod recover;
pub mod runtime;
mod stop;
#[cfg(test)]
mod tests;
mod turn;
mod watchdog;

pub use holds::holds;
pub use places::{Place, Places, ProjectPlaces};
pub use stop::StopReport;

use crate::config::{AgentConfig, Config, RuntimeKind};
use crate::llm::tools::ToolHost;
use crate::model::ids::{AgentName, AgentSessionId, ItemId};
use crate::model::mail::{MailType, Priority};
use crate::store::agents::{self as sessions, AgentSession, TurnEvent};
use crate::store::mail::{self, NewRow};
use crate::store::{Store, StoreError};
use runtime::{AgentTools, Runtime, RuntimeEvent, Session};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// The agents of this server. Cloning shares them.
#[derive(Clone)]
pub struct Agents {
    inner: Arc<Inner>,
}

/// What the parts of this module share.
struct Inner {
    store: Store,
    config: Arc<Config>,
    places: Arc<dyn Places>,
    runtimes: HashMap<RuntimeKind, Arc<dyn Runtime>>,
    tools: OnceLock<Arc<dyn ToolHost>>,
    /// Sessions whose runtime is up, running a turn or not.
    live: Mutex<HashMap<AgentSessionId, Arc<Live>>>,
    /// Turns that run, and how to stop each.
    running: Mutex<HashMap<AgentSessionId, Running>>,
    /// Items for which nothing may start, because they are being stopped.
    stopping: Mutex<HashSet<ItemId>>,
    /// When runtimes were started lately: for the brake.
    starts: Mutex<VecDeque<Instant>>,
}

/// A runtime's session that is up.
struct Live {
    session: Arc<dyn Session>,
    tools: Arc<AgentTools>,
    /// Locked by the turn that runs, or by nobody.
    events: tokio::sync::Mutex<mpsc::Receiver<RuntimeEvent>>,
    /// Its row in `agent_processes`, once recorded.
    process: Arc<Mutex<Option<i64>>>,
    /// Its marker.
    marker: String,
    /// When its last turn ended, for the idle timer.
    idle_since: Mutex<Instant>,
}

/// A turn that runs.
struct Running {
    agent: AgentName,
    stop: watch::Sender<Option<Stop>>,
    done: watch::Receiver<bool>,
}

/// Why a turn is to end.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stop {
    /// Somebody stopped the item: by whom or why, in words.
    Operator(String),
    /// The server goes down: the session goes on after the next start.
    Shutdown,
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn agent(&self, name: &AgentName) -> Option<&AgentConfig> {
        self.config.agents.iter().find(|agent| agent.name == *name)
    }
}

/// An agent as `agents` and `status` show it.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentStatus {
    /// Its configuration.
    pub config: AgentConfig,
    /// Its newest session, over or not.
    pub session: Option<AgentSession>,
    /// Whether a turn of it runs now.
    pub in_turn: bool,
    /// The last that it did.
    pub last: Option<TurnEvent>,
    /// Why no agent of its runtime may start, if so.
    pub paused: Option<String>,
}

/// How something said to an agent reaches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// At the next step of the turn that runs.
    Steering,
    /// In a turn that starts for it.
    NextTurn,
}

/// Why nothing was said to an agent.
#[derive(Debug, thiserror::Error)]
pub enum TellError {
    /// There is no such agent.
    #[error("there is no agent {name}; there are: {known}")]
    Unknown {
        /// As typed.
        name: AgentName,
        /// Those that there are.
        known: String,
    },
    /// It has nothing to do.
    #[error("{0} has no work now: `start` an item for it, or send it mail")]
    NoWork(AgentName),
    /// There is nothing to say.
    #[error("say something to it: `tell AGENT what to say`")]
    Empty,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Agents {
    /// The agents of `config`, working in `places`, with the built-in runtimes.
    pub fn new(store: Store, config: Arc<Config>, places: Arc<dyn Places>) -> Self {
        let runtimes = runtime::built_in(&store, &config);
        Self::with_runtimes(store, config, places, runtimes)
    }

    /// As [`Agents::new`], with other runtimes: for tests.
    pub fn with_runtimes(
        store: Store,
        config: Arc<Config>,
        places: Arc<dyn Places>,
        runtimes: Vec<Arc<dyn Runtime>>,
    ) -> Self {
        let runtimes = runtimes.into_iter().map(|runtime| (runtime.kind(), runtime)).collect();
        Self {
            inner: Arc::new(Inner {
                store,
                config,
                places,
                runtimes,
                tools: OnceLock::new(),
                live: Mutex::default(),
                running: Mutex::default(),
                stopping: Mutex::default(),
                starts: Mutex::default(),
            }),
        }
    }

    /// Gives the agents their tools, which know the agents: called once, before [`Agents::run`].
    pub fn set_tools(&self, tools: Arc<dyn ToolHost>) {
        if self.inner.tools.set(tools).is_err() {
            tracing::error!("the agents' tools were set twice");
        }
    }

    /// Says something to an agent at work: urgent mail, which steers the turn that runs or starts
    /// one. Durable when it returns.
    pub async fn tell(&self, agent: &AgentName, from: &str, text: &str) -> Result<Told, TellError> {
        if self.inner.agent(agent).is_none() {
            let known: Vec<&str> =
                self.inner.config.agents.iter().map(|agent| agent.name.as_str()).collect();
            return Err(TellError::Unknown { name: agent.clone(), known: known.join(", ") });
        }
        if text.trim().is_empty() {
            return Err(TellError::Empty);
        }
        let (name, from, body) = (agent.clone(), from.to_owned(), text.to_owned());
        let session = self
            .inner
            .store
            .write(move |tx| {
                let live = sessions::live_sessions_of_agent(tx, &name)?;
                let Some(session) = live.into_iter().next() else {
                    return Err(TellError::NoWork(name));
                };
                let subject = body.lines().next().unwrap_or_default();
                let subject = &subject[..subject.floor_char_boundary(120)];
                mail::insert(
                    tx,
                    &NewRow {
                        from: &from,
                        to: name.as_str(),
                        subject,
                        body: &body,
                        kind: MailType::Status,
                        priority: Priority::Urgent,
                        payload: None,
                        item: Some(session.item),
                        thread: None,
                    },
                )?;
                Ok(session)
            })
            .await?;
        let steering = hold(&self.inner.running).contains_key(&session.id);
        Ok(if steering { Told::Steering } else { Told::NextTurn })
    }

    /// Every configured agent, in configuration order.
    pub async fn list(&self) -> Result<Vec<AgentStatus>, StoreError> {
        let running: HashSet<AgentSessionId> = hold(&self.inner.running).keys().copied().collect();
        let config = Arc::clone(&self.inner.config);
        self.inner
            .store
            .read(move |conn| {
                let statuses = config.agents.iter().map(|agent| {
                    let session = sessions::newest_session_of(conn, &agent.name)?;
                    let last = match &session {
                        Some(session) => sessions::session_events(conn, session.id, 1)?.pop(),
                        None => None,
                    };
                    Ok(AgentStatus {
                        config: agent.clone(),
                        in_turn: session.as_ref().is_some_and(|s| running.contains(&s.id)),
                        session,
                        last,
                        paused: sessions::pool_pause(conn, agent.runtime)?,
                    })
                });
                statuses.collect()
            })
            .await
    }
}
