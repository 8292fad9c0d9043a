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

pub mod asks;
pub mod budget;
mod gateway;
mod holds;
mod housekeeping;
pub mod permission;
mod places;
mod pool;
pub mod process;
mod recover;
mod replay;
pub mod runtime;
mod stop;
mod table;
#[cfg(test)]
mod tests;
mod turn;
mod watchdog;

pub use holds::holds;
pub use housekeeping::events_of;
pub use places::{Place, Places, ProjectPlaces};
pub use replay::{TurnStory, replay};
pub use stop::StopReport;
pub use table::{AgentRow, Trees, rows as table_rows, table, trees};

use crate::config::{AgentConfig, Config, RuntimeKind};
use crate::llm::tools::ToolHost;
use crate::model::ids::{AgentName, AgentSessionId, ItemId};
use crate::model::mail::{MailType, Priority};
use crate::store::agents as sessions;
use crate::store::mail::{self, NewRow};
use crate::store::{Store, StoreError, Tx, nudges};
use runtime::{AgentTools, Runtime, RuntimeEvent, Session};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use watchdog::triage::Triage;

/// How much of what is told stands in the mail's subject, in bytes.
const SUBJECT_BYTES: usize = 120;

/// What a nudge says that says nothing.
const LOOK_AT_MAIL: &str = "Look at your mail (`mail_check`) and at where you stand.";

/// The longest nudge, in bytes.
const NUDGE_BYTES: usize = 1000;

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
    /// Who is asked about silent agents, if anybody is.
    triage: OnceLock<Arc<dyn Triage>>,
    /// Where CLIs call models; up from the first agent on that needs it.
    gateway: tokio::sync::OnceCell<gateway::Gateway>,
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
    /// Its token for the model gateway; works as long as this lives.
    token: Option<gateway::Token>,
    /// What it may do without asking.
    policy: permission::Policy,
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
    /// A limit is reached.
    Limit(budget::Reached),
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

/// Why nothing was said to an agent.
#[derive(Debug, thiserror::Error)]
pub enum TellError {
    /// It has nothing to do.
    #[error("{0} has no work now, so nobody would read it: `start N {0}` gives it some")]
    NoWork(AgentName),
    /// So many nudges wait for it that another would say nothing new.
    #[error("{max} nudges wait for {0} already: it will see them at its next step", max = nudges::WAITING_MAX)]
    Full(AgentName),
    /// A nudge is a line or two.
    #[error("a nudge has at most {NUDGE_BYTES} bytes: send mail, or use `tell`")]
    TooLong,
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
        let triage = OnceLock::new();
        if let Some(model) = watchdog::triage::configured(&config) {
            let _fresh = triage.set(model);
        }
        Self {
            inner: Arc::new(Inner {
                store,
                config,
                places,
                runtimes,
                tools: OnceLock::new(),
                triage,
                gateway: tokio::sync::OnceCell::new(),
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
}

/// Pokes an agent: it is told at its next step, or when it is next told anything, unless that comes
/// too late. Returns the item that it is on, if it is on one.
pub fn nudge(
    tx: &Tx<'_>,
    agent: &AgentName,
    from: &str,
    text: &str,
    urgent: bool,
) -> Result<Option<ItemId>, TellError> {
    let text = match text.trim() {
        "" => LOOK_AT_MAIL,
        text if text.len() > NUDGE_BYTES => return Err(TellError::TooLong),
        text => text,
    };
    if !nudges::insert(tx, agent.as_str(), from, text, urgent)? {
        return Err(TellError::Full(agent.clone()));
    }
    let live = sessions::live_sessions_of_agent(tx, agent)?;
    Ok(live.first().map(|session| session.item))
}

/// Says something to an agent at work: urgent mail, which steers the turn that runs or starts one.
/// Returns the item that it is on.
pub fn tell(tx: &Tx<'_>, agent: &AgentName, from: &str, text: &str) -> Result<ItemId, TellError> {
    if text.trim().is_empty() {
        return Err(TellError::Empty);
    }
    let live = sessions::live_sessions_of_agent(tx, agent)?;
    let Some(session) = live.into_iter().next() else {
        return Err(TellError::NoWork(agent.clone()));
    };
    let subject = text.lines().next().unwrap_or_default();
    mail::insert(
        tx,
        &NewRow {
            from,
            to: agent.as_str(),
            subject: &subject[..subject.floor_char_boundary(SUBJECT_BYTES)],
            body: text,
            kind: MailType::Status,
            priority: Priority::Urgent,
            payload: None,
            item: Some(session.item),
            thread: None,
        },
    )?;
    Ok(session.item)
}
