//! The assigner: gives items that wait for an agent to one that is free.
//!
//! One pass is one transaction: it reads who is free, claims (compare-and-swap), creates the
//! session and records the decision. So two assigners, or a crash anywhere, can neither start two
//! agents on an item nor claim an item and forget to start its agent; the table's unique index on
//! live sessions stands behind that.
//!
//! An agent is free when it has no live session and holds no item: while its gates run, the work
//! is still its own, because it gets it back when they fail.

use super::counters::{Counters, MAX_STARTS, note_once};
use super::{WorkError, apply_to, each, prompt, queue, system};
use crate::config::{AgentConfig, Config};
use crate::model::agent::Role;
use crate::model::ids::{AgentName, ItemId, ProjectName};
use crate::model::item::Item;
use crate::model::stage::{Column, Stage, StageEvent};
use crate::store::agents::{self as sessions, CreateError, NewSession};
use crate::store::decisions::{self, What};
use crate::store::{Tx, items, meta};
use serde_json::json;
use std::collections::HashMap;

/// The span of the start rate limit, in milliseconds.
const MINUTE_MS: i64 = 60_000;

/// Who is busy with what.
struct Roster {
    /// Busy agents with the item that they hold.
    busy: HashMap<AgentName, ItemId>,
    /// How many agents are busy in each project.
    in_project: HashMap<ProjectName, usize>,
    /// Items with a live session.
    live: HashMap<ItemId, AgentName>,
}

impl Roster {
    fn read(tx: &Tx<'_>) -> Result<Self, WorkError> {
        let mut roster =
            Self { busy: HashMap::new(), in_project: HashMap::new(), live: HashMap::new() };
        for item in items::in_columns(tx, None, &[Column::Coding, Column::Qa])? {
            if let Some(agent) = item.stage.claim() {
                roster.take(agent.clone(), &item);
            }
        }
        for session in sessions::live_sessions(tx)? {
            roster.live.insert(session.item, session.agent.clone());
            if roster.busy.contains_key(&session.agent) {
                continue;
            }
            if let Some(item) = items::find(tx, session.item)? {
                roster.take(session.agent, &item);
            } else {
                roster.busy.insert(session.agent, session.item);
            }
        }
        Ok(roster)
    }

    fn take(&mut self, agent: AgentName, item: &Item) {
        self.busy.insert(agent, item.id);
        *self.in_project.entry(item.project.clone()).or_default() += 1;
    }
}

/// Gives every waiting item that can have one an agent; notes for the others why not. Returns how
/// many were started.
pub(super) fn assign(tx: &Tx<'_>, config: &Config) -> Result<usize, WorkError> {
    let waiting: Vec<Item> = items::in_columns(tx, None, &[Column::Coding, Column::Qa])?
        .into_iter()
        .filter(|item| item.stage.claim().is_none() && role_of(&item.stage).is_some())
        .collect();
    if waiting.is_empty() {
        return Ok(0);
    }
    let mut roster = Roster::read(tx)?;
    let busy = roster.busy.len();
    each(tx, &waiting, |tx, item| {
        if let Err(why_not) = assign_one(tx, config, &mut roster, item)? {
            note_once(tx, item.id, What::NotStarted, &why_not, &json!({}))?;
        }
        Ok(())
    })?;
    Ok(roster.busy.len() - busy)
}

/// The role that is assigned in a stage. Merging is code, not an agent's.
fn role_of(stage: &Stage) -> Option<Role> {
    stage.wants_role(false).filter(|role| matches!(role, Role::Coder | Role::Qa))
}

/// Starts an agent on `item`; the inner error is why none was started, in words.
fn assign_one(
    tx: &Tx<'_>,
    config: &Config,
    roster: &mut Roster,
    item: &Item,
) -> Result<Result<(), String>, WorkError> {
    let Some(role) = role_of(&item.stage) else { return Ok(Ok(())) };
    let Some(project) = queue::project(tx, &item.project)? else {
        return Ok(Err(format!("its project {} is not registered any more", item.project)));
    };
    if let Some(who) = meta::find(tx, meta::STOPPED_ALL)? {
        return Ok(Err(format!("waits, because everything is stopped (by {who}): `resume all`")));
    }
    if project.paused {
        return Ok(Err(format!("waits, because project {} is paused", item.project)));
    }
    if let Some(agent) = roster.live.get(&item.id) {
        return Ok(Err(format!("waits until {agent}, which worked on it before, has ended")));
    }
    let busy = roster.busy.len();
    if busy >= config.limits.max_agents {
        return Ok(Err(format!(
            "waits, because {busy} agents are busy and limits.max_agents is {}",
            config.limits.max_agents
        )));
    }
    let here = roster.in_project.get(&item.project).copied().unwrap_or(0);
    if let Some(max) = project.settings.max_agents.filter(|max| here >= *max) {
        return Ok(Err(format!(
            "waits, because {here} agents are busy in {} and its max_agents is {max}",
            item.project
        )));
    }
    let starts = decisions::count_since(tx, What::Started, tx.now() - MINUTE_MS)?;
    if starts >= config.limits.max_starts_per_minute {
        return Ok(Err(format!(
            "waits, because {starts} agents were started in the last minute and \
             limits.max_starts_per_minute is {}",
            config.limits.max_starts_per_minute
        )));
    }
    let agent = match choose(tx, config, roster, item, role)? {
        Ok(agent) => agent,
        Err(why_not) => return Ok(Err(why_not)),
    };
    let counters = Counters::of(tx, item.id)?;
    if counters.starts >= MAX_STARTS {
        super::settle::block(
            tx,
            item,
            &format!("agents were started on it {} times without a commit", counters.starts),
        )?;
        return Ok(Ok(()));
    }
    begin(tx, item, agent, role, &project.settings)?;
    roster.take(agent.name.clone(), item);
    roster.live.insert(item.id, agent.name.clone());
    Ok(Ok(()))
}

/// The agent for `item`: the pinned one, or the first free one in configuration order.
fn choose<'c>(
    tx: &Tx<'_>,
    config: &'c Config,
    roster: &Roster,
    item: &Item,
    role: Role,
) -> Result<Result<&'c AgentConfig, String>, WorkError> {
    let fits = |agent: &&AgentConfig| {
        agent.role == role && (agent.projects.is_empty() || agent.projects.contains(&item.project))
    };
    // A person pins the one who does the work; QA stays with whoever is free.
    if let (Some(pinned), Role::Coder) = (&item.agent, role) {
        let Some(agent) = config.agents.iter().find(|agent| agent.name == *pinned) else {
            return Ok(Err(format!(
                "is pinned to {pinned}, which is not configured: `assign {} AGENT` names another",
                item.id
            )));
        };
        if !fits(&agent) {
            return Ok(Err(format!(
                "is pinned to {pinned}, which is no {} for project {}",
                role.as_str(),
                item.project
            )));
        }
        return free(tx, roster, agent);
    }
    let mut reasons = Vec::new();
    for agent in config.agents.iter().filter(fits) {
        match free(tx, roster, agent)? {
            Ok(agent) => return Ok(Ok(agent)),
            Err(why_not) => reasons.push(why_not),
        }
    }
    let role = role.as_str();
    Ok(Err(if reasons.is_empty() {
        format!("waits for a {role}, but none is configured for project {}", item.project)
    } else {
        format!("waits for a free {role}: {}", reasons.join("; "))
    }))
}

/// Says whether `agent` can take an item now, or what keeps it.
fn free<'c>(
    tx: &Tx<'_>,
    roster: &Roster,
    agent: &'c AgentConfig,
) -> Result<Result<&'c AgentConfig, String>, WorkError> {
    if let Some(item) = roster.busy.get(&agent.name) {
        let since = sessions::newest_session_of(tx, &agent.name)?
            .map(|session| format!(" since {}", session.created_at.format("%H:%M")))
            .unwrap_or_default();
        return Ok(Err(format!("{} is on {item}{since}", agent.name)));
    }
    if let Some(reason) = queue::pool_pause(tx, agent.runtime)? {
        return Ok(Err(format!("{} is paused ({reason})", agent.name)));
    }
    Ok(Ok(agent))
}

/// Claims the item for `agent` and creates its session.
fn begin(
    tx: &Tx<'_>,
    item: &Item,
    agent: &AgentConfig,
    role: Role,
    project: &crate::config::ProjectConfig,
) -> Result<(), WorkError> {
    let (mut prompt, mut note) = (String::new(), None);
    if let Stage::Qa { commit, .. } = &item.stage {
        prompt = prompt::qa(item, &project.base, commit);
    } else if let Stage::Coding { note: left, .. } = &item.stage {
        note = left.as_deref();
        prompt = prompt::coder(item, &project.base, &project.gates, note);
    }
    let why = format!("{} was the first free {}", agent.name, role.as_str());
    decisions::record(
        tx,
        Some(item.id),
        What::Started,
        &why,
        &json!({"agent": agent.name, "role": role, "pinned": item.agent, "note": note}),
    )?;
    let event = StageEvent::Claimed { agent: agent.name.clone() };
    let cause = format!("{} took it", agent.name);
    let item = apply_to(tx, item, &event, &system(tx), &cause)?;
    create(tx, &item, agent, role, prompt, true)
}

/// Creates a session; one that goes on where the agent's last one on this item ended, if there was
/// one.
pub(super) fn create(
    tx: &Tx<'_>,
    item: &Item,
    agent: &AgentConfig,
    role: Role,
    prompt: String,
    resume: bool,
) -> Result<(), WorkError> {
    let before = sessions::sessions_of_item(tx, item.id)?.into_iter().rev().find(|session| {
        session.agent == agent.name && session.role == role && session.runtime == agent.runtime
    });
    let new = NewSession {
        agent: agent.name.clone(),
        role,
        runtime: agent.runtime,
        item: item.id,
        prompt,
        resume_native: before.filter(|_| resume).and_then(|session| session.native_id),
    };
    match sessions::create_session(tx, &new) {
        Ok(_session) => Ok(()),
        Err(CreateError::Store(error)) => Err(WorkError::Store(error)),
        Err(refused @ (CreateError::AlreadyLive { .. } | CreateError::EmptyPrompt)) => {
            Err(WorkError::Refused(refused.to_string()))
        }
    }
}
