//! The pool: starts a turn for every session that has something to be said and may run.
//!
//! Level-triggered: each pass reads the sessions, whatever hint came or was lost. What keeps one
//! from starting is looked at anew each time: the emergency stop, a paused runtime, the limits of
//! the day, of the agent and of the pool, a rate limit not yet over, an item that is being stopped.

use super::budget::{self, Reached, Spender};
use super::runtime::{ProbeReport, probe};
use super::turn::settle::RATE_LIMIT;
use super::turn::{self};
use super::{Agents, Inner, Running, Stop, asks, hold, watchdog};
use crate::config::Config;
use crate::model::agent::{SessionState, WaitingFor};
use crate::model::ids::{AgentName, AgentSessionId, ProjectName};
use crate::store::agents::{self as sessions, AgentSession};
use crate::store::decisions::{self, What};
use crate::store::pauses::{self, Pause, Scope};
use crate::store::{StoreError, Tx, items, mail, meta, nudges, projects, requests};
use chrono::{DateTime, Utc};
use rusqlite::Connection;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long the pool waits for a hint before it looks anyway.
const TICK: Duration = Duration::from_secs(2);

/// The reason of a session that the brake holds.
const BRAKE: &str = "brake";

/// The span of the start brake.
const MINUTE: Duration = Duration::from_secs(60);

/// How long an idle runtime is kept up for a session that waits.
const IDLE: Duration = Duration::from_secs(600);

/// How long a shutdown waits for turns to end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(15);

/// What wakes a session that has nothing to be said but mail.
const NEW_MAIL: &str = "New mail has arrived for you.";

/// What wakes a session that is poked.
const NUDGED: &str = "You are nudged.";

/// What wakes a session whose time has come.
const TIME_IS_UP: &str = "The time until which you waited is over. Look at how things stand, and \
                          go on.";

impl Agents {
    /// Runs turns until cancelled; then ends them, and all runtimes, verified.
    pub async fn run(&self, cancel: CancellationToken) {
        let inner = &self.inner;
        let mut turns: JoinSet<AgentSessionId> = JoinSet::new();
        let mut changed = inner.store.changes("agent_sessions");
        let mut mail_changed = inner.store.changes("mail");
        let mut nudged = inner.store.changes("nudges");
        let watchdog = watchdog::run(inner, cancel.clone());
        tokio::pin!(watchdog);
        let look = look_at_runtimes(inner);
        tokio::pin!(look);
        let mut looked = false;
        loop {
            if let Err(error) = pass(inner, &mut turns).await {
                tracing::error!(%error, "the pool could not look at its sessions");
            }
            tokio::select! {
                () = cancel.cancelled() => break,
                Some(ended) = turns.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a turn's task failed");
                    }
                }
                () = changed.changed() => {}
                () = mail_changed.changed() => {}
                () = nudged.changed() => {}
                () = &mut watchdog => break,
                () = &mut look, if !looked => looked = true,
                () = tokio::time::sleep(TICK) => {}
            }
        }
        shut_down(inner, turns).await;
    }
}

/// Says in the log which agents cannot work here, or work with a version that was not tested.
async fn look_at_runtimes(inner: &Inner) {
    let mut seen = HashSet::new();
    for agent in &inner.config.agents {
        let command = agent.command.as_deref();
        if !seen.insert((agent.runtime, command)) {
            continue;
        }
        match probe(agent.runtime, command).await {
            Ok(ProbeReport { warning: None, .. }) => {}
            Ok(ProbeReport { warning: Some(warning), .. }) => {
                tracing::warn!(agent = %agent.name, "{warning}");
            }
            Err(error) => tracing::warn!(agent = %agent.name, "{error}"),
        }
    }
}

async fn shut_down(inner: &Arc<Inner>, mut turns: JoinSet<AgentSessionId>) {
    for running in hold(&inner.running).values() {
        running.stop.send_if_modified(|stop| {
            let first = stop.is_none();
            stop.get_or_insert(Stop::Shutdown);
            first
        });
    }
    let all = async { while turns.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, all).await.is_err() {
        tracing::error!("turns did not end in time; they are settled at the next start");
    }
    let left: Vec<AgentSessionId> = hold(&inner.live).keys().copied().collect();
    let downs = left.into_iter().map(|session| turn::down(inner, session));
    futures_util::future::join_all(downs).await;
}

/// One look at all sessions.
async fn pass(inner: &Arc<Inner>, turns: &mut JoinSet<AgentSessionId>) -> Result<(), StoreError> {
    reap_idle(inner).await;
    if !inner.store.read(requests::open_of_ended_sessions).await?.is_empty() {
        inner.store.write(asks::close_ended).await?;
    }
    let due = inner.store.read(sessions::live_sessions).await?;
    let now = inner.store.clock().now();
    if !due.iter().any(|session| wants(session, now) || may_be_woken(session)) {
        return Ok(());
    }
    let config = Arc::clone(&inner.config);
    let (running, at_work): (HashSet<AgentSessionId>, HashSet<AgentName>) =
        hold(&inner.running).iter().map(|(id, turn)| (*id, turn.agent.clone())).unzip();
    let may_start = inner
        .store
        .write(move |tx| {
            brake_on_deaths(tx, &config)?;
            let everybody = held_for_all(tx, &config)?;
            let limited = limited(&due, &config, now);
            let mut may_start = vec![];
            let mut busy = Busy::read(tx, &due, &running)?;
            for session in due {
                if running.contains(&session.id) {
                    continue;
                }
                if let Some(held) = &everybody {
                    if wants(&session, now) {
                        note(tx, &session, held)?;
                    }
                    continue;
                }
                let session = wake(tx, session, now)?;
                if !wants(&session, now) {
                    continue;
                }
                let project = items::find(tx, session.item)?.map(|item| item.project);
                let held = match busy.full(tx, project.as_ref())? {
                    Some(held) => Some(held),
                    None => held_alone(tx, &config, &session)?
                        .or_else(|| behind(&limited, &config, &session)),
                };
                match held {
                    Some(held) => note(tx, &session, &held)?,
                    None => {
                        busy.add(project);
                        may_start.push(session);
                    }
                }
            }
            Ok::<_, StoreError>(may_start)
        })
        .await?;
    let mut held_back = vec![];
    for session in may_start {
        // Its agent's turn may have ended since, and badly: that is looked at first, in the next pass.
        if at_work.contains(&session.agent) {
            continue;
        }
        if let Some(held) = start(inner, turns, session.clone()) {
            held_back.push((session, held));
        }
    }
    if !held_back.is_empty() {
        let write = inner.store.write(move |tx| {
            for (session, held) in &held_back {
                note(tx, session, held)?;
                if held.kind == BRAKE {
                    pauses::begin(tx, &Scope::Pool, &held.why)?;
                }
            }
            Ok::<(), StoreError>(())
        });
        write.await?;
    }
    Ok(())
}

/// How many turns run in each project.
#[derive(Default)]
struct Busy(HashMap<ProjectName, usize>);

impl Busy {
    fn read(
        tx: &Tx<'_>,
        sessions: &[AgentSession],
        running: &HashSet<AgentSessionId>,
    ) -> Result<Self, StoreError> {
        let mut busy = Self::default();
        for session in sessions.iter().filter(|session| running.contains(&session.id)) {
            busy.add(items::find(tx, session.item)?.map(|item| item.project));
        }
        Ok(busy)
    }

    fn add(&mut self, project: Option<ProjectName>) {
        if let Some(project) = project {
            *self.0.entry(project).or_default() += 1;
        }
    }

    /// Why no further turn may begin in a project: whoever waited for others and is woken counts
    /// like one that is new.
    fn full(
        &self,
        conn: &Connection,
        project: Option<&ProjectName>,
    ) -> Result<Option<Held>, StoreError> {
        let Some(name) = project else { return Ok(None) };
        let here = self.0.get(name).copied().unwrap_or(0);
        let max = projects::find(conn, name)?.and_then(|project| project.settings.max_agents);
        Ok(max.filter(|max| here >= *max).map(|max| Held {
            kind: "project_full",
            why: format!("{here} agents are at work in {name} and its max_agents is {max}"),
            inputs: json!({"busy_here": here, "max_agents": max}),
        }))
    }
}

/// Pauses all agents when too many have died lately: what kills them kills the next, too.
fn brake_on_deaths(tx: &Tx<'_>, config: &Config) -> Result<(), StoreError> {
    let (most, seconds) = (config.watchdog.storm_deaths, config.watchdog.storm_window_s);
    let window = i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX);
    let deaths = sessions::deaths_since(tx, tx.now().saturating_sub(window))?;
    if deaths >= most {
        let why = format!(
            "{deaths} turns of agents died within {seconds} seconds, and [watchdog] storm_deaths is \
             {most}; `agents` and `logs N` show which and why"
        );
        pauses::begin(tx, &Scope::Pool, &why)?;
    }
    Ok(())
}

/// Providers that refuse until a moment: what runs on them and the model would be refused, too.
type Limited = Vec<(Scope, Option<String>, DateTime<Utc>)>;

fn limited(sessions: &[AgentSession], config: &Config, now: DateTime<Utc>) -> Limited {
    let found = sessions.iter().filter_map(|session| {
        let waiting = session.waiting.as_ref().filter(|_| held(session, now))?;
        let until = waiting.until.filter(|_| waiting.detail == RATE_LIMIT)?;
        let agent = config.agents.iter().find(|agent| agent.name == session.agent)?;
        Some((Scope::of_agent(agent), agent.model.clone(), until))
    });
    found.collect()
}

/// The rate limit of another session that would hit this one, too.
fn behind(limited: &Limited, config: &Config, session: &AgentSession) -> Option<Held> {
    let agent = config.agents.iter().find(|agent| agent.name == session.agent)?;
    let scope = Scope::of_agent(agent);
    let same = limited.iter().filter(|(of, model, _)| *of == scope && *model == agent.model);
    let until = same.map(|(_, _, until)| *until).max()?;
    let why = format!("its provider is rate limited until {}", until.format("%H:%M UTC"));
    Some(Held { kind: "rate_limit", why, inputs: json!({"until": until}) })
}

/// Why a session does not go on now although it has something to be said.
#[derive(Clone)]
struct Held {
    /// The sort of reason: while it stays the same, it is one decision.
    kind: &'static str,
    why: String,
    /// What it was decided from.
    inputs: Value,
}

/// Writes down why a session does not go on, once for as long as that lasts.
fn note(tx: &Tx<'_>, session: &AgentSession, held: &Held) -> Result<(), StoreError> {
    let mut inputs = held.inputs.clone();
    inputs["agent"] = json!(session.agent);
    inputs["session"] = json!(session.id);
    decisions::note(tx, session.item, What::PutOff, held.kind, &held.why, &inputs)?;
    Ok(())
}

/// What keeps one session from going on: a pause, or a limit of the day in its project. Other limits
/// end its work, which the turn runner does.
fn held_alone(
    tx: &Tx<'_>,
    config: &Config,
    session: &AgentSession,
) -> Result<Option<Held>, StoreError> {
    if let Some(pause) = paused(tx, config, session)? {
        let why = format!("{} are paused: {}", pause.scope.in_words(), pause.reason);
        let inputs = json!({"since": pause.since, "looks": pause.looks});
        return Ok(Some(Held { kind: "pause", why, inputs }));
    }
    let spender = Spender { item: Some(session.item), ..Spender::default() };
    let reached = budget::check(tx, config, &spender)?.filter(|reached| reached.resumes);
    Ok(reached.map(|reached| over_budget(config, reached)))
}

fn over_budget(config: &Config, reached: Reached) -> Held {
    let limits = &config.limits;
    let inputs =
        json!({"usd_per_day": limits.usd_per_day, "tokens_per_day": limits.tokens_per_day});
    Held { kind: "budget", why: reached.what, inputs }
}

/// What keeps every session from going on: the emergency stop, or a limit of the day.
fn held_for_all(tx: &Tx<'_>, config: &Config) -> Result<Option<Held>, StoreError> {
    if let Some(who) = meta::find(tx, meta::STOPPED_ALL)? {
        let why = format!("everything is stopped (by {who}): `resume all`");
        return Ok(Some(Held { kind: "stopped", why, inputs: json!({"stopped_by": who}) }));
    }
    Ok(budget::check_day(tx, config)?.map(|reached| over_budget(config, reached)))
}

/// The pause that keeps a session from going on: of its runtime, its project or the machine.
pub(super) fn paused(
    conn: &Connection,
    config: &Config,
    session: &AgentSession,
) -> Result<Option<Pause>, StoreError> {
    let mut scopes = vec![Scope::Machine, Scope::Pool];
    let agent = config.agents.iter().find(|agent| agent.name == session.agent);
    scopes.extend(agent.map(Scope::of_agent));
    let item = items::find(conn, session.item)?;
    scopes.extend(item.map(|item| Scope::Project(item.project)));
    for scope in scopes {
        if let Some(pause) = pauses::find(conn, &scope)? {
            return Ok(Some(pause));
        }
    }
    Ok(None)
}

/// Whether a session has something to be said and does not wait for a moment.
fn wants(session: &AgentSession, now: DateTime<Utc>) -> bool {
    session.pending_prompt.is_some() && !session.state.is_over() && !held(session, now)
}

/// Whether a session waits for a moment that has not come.
fn held(session: &AgentSession, now: DateTime<Utc>) -> bool {
    session.state == SessionState::Waiting
        && session.waiting.as_ref().is_some_and(|waiting| {
            waiting.what == WaitingFor::RateLimit && waiting.until.is_some_and(|at| at > now)
        })
}

/// Whether mail or a moment may wake it.
fn may_be_woken(session: &AgentSession) -> bool {
    session.pending_prompt.is_none()
        && matches!(session.state, SessionState::BetweenTurns | SessionState::Waiting)
}

/// Gives a session that has nothing to be said a prompt, if mail or its moment has come.
fn wake(
    tx: &Tx<'_>,
    session: AgentSession,
    now: DateTime<Utc>,
) -> Result<AgentSession, StoreError> {
    if !may_be_woken(&session) || held(&session, now) {
        return Ok(session);
    }
    let until = session.waiting.as_ref().and_then(|waiting| waiting.until);
    let prompt = if mail::has_waiting(tx, session.agent.as_str(), tx.now())? {
        NEW_MAIL
    } else if nudges::has_waiting(tx, session.agent.as_str(), tx.now())? {
        NUDGED
    } else if until.is_some_and(|until| until <= now) {
        TIME_IS_UP
    } else {
        return Ok(session);
    };
    sessions::set_prompt(tx, session.id, prompt)?;
    Ok(sessions::find_session(tx, session.id)?.unwrap_or(session))
}

/// Starts a turn, unless the pool is full, the brake holds, or the item is being stopped; says what
/// holds it back for longer than a moment.
fn start(
    inner: &Arc<Inner>,
    turns: &mut JoinSet<AgentSessionId>,
    session: AgentSession,
) -> Option<Held> {
    let limits = &inner.config.limits;
    if inner.agent(&session.agent).is_none() {
        let why = format!("{} is not configured any more", session.agent);
        return Some(Held { kind: "no_agent", why, inputs: json!({}) });
    }
    if hold(&inner.stopping).contains(&session.item) {
        return None;
    }
    let (stop, stopped) = watch::channel(None);
    let (tell_done, done) = watch::channel(false);
    {
        let mut running = hold(&inner.running);
        let busy = running.values().any(|turn| turn.agent == session.agent);
        if busy {
            return None;
        }
        if running.len() >= limits.max_agents {
            let (busy, max) = (running.len(), limits.max_agents);
            let why = format!("{busy} agents are at work and limits.max_agents is {max}");
            return Some(Held {
                kind: "full",
                why,
                inputs: json!({"busy": busy, "max_agents": max}),
            });
        }
        if !brake(inner) {
            let max = limits.max_starts_per_minute;
            let why = format!(
                "{max} turns were started in the last minute, as many as \
                 limits.max_starts_per_minute allows"
            );
            let inputs = json!({"max_starts_per_minute": max});
            return Some(Held { kind: BRAKE, why, inputs });
        }
        let turn = Running { agent: session.agent.clone(), stop, done };
        running.insert(session.id, turn);
    }
    let (inner, id) = (Arc::clone(inner), session.id);
    turns.spawn(async move {
        let _guard = Forget { inner: Arc::clone(&inner), id, tell_done };
        // A task of its own: a panic in it must not leave the session as running.
        let turn = tokio::spawn({
            let inner = Arc::clone(&inner);
            async move { turn::run(&inner, id, stopped).await }
        });
        match turn.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(session = %id, error = format!("{error:#}"), "a turn failed")
            }
            Err(error) => {
                tracing::error!(session = %id, %error, "a turn panicked");
                turn::down(&inner, id).await;
                super::recover::settle_session(&inner, id).await;
            }
        }
        id
    });
    None
}

/// Takes a turn out of the running ones on every path out.
struct Forget {
    inner: Arc<Inner>,
    id: AgentSessionId,
    tell_done: watch::Sender<bool>,
}

impl Drop for Forget {
    fn drop(&mut self) {
        hold(&self.inner.running).remove(&self.id);
        self.tell_done.send_replace(true);
    }
}

/// Whether another start is allowed in this minute; counts it if so.
fn brake(inner: &Inner) -> bool {
    let mut starts = hold(&inner.starts);
    let now = Instant::now();
    while starts.front().is_some_and(|at| now.duration_since(*at) >= MINUTE) {
        starts.pop_front();
    }
    // A turn of a runtime that is up is a start too: it costs as much.
    let allowed = starts.len() < inner.config.limits.max_starts_per_minute as usize;
    if allowed {
        starts.push_back(now);
    }
    allowed
}

/// Ends runtimes that have been idle for long; their sessions are resumed when they go on.
async fn reap_idle(inner: &Arc<Inner>) {
    let idle: Vec<AgentSessionId> = {
        let running = hold(&inner.running);
        let live = hold(&inner.live);
        live.iter()
            .filter(|(id, live)| {
                !running.contains_key(id) && hold(&live.idle_since).elapsed() >= IDLE
            })
            .map(|(id, _)| *id)
            .collect()
    };
    for session in idle {
        turn::down(inner, session).await;
    }
}
