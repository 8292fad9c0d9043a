//! The assigner: gives items that wait for an agent to one that is free.
//!
//! One pass is one transaction: it reads who is free, claims (compare-and-swap), creates the
//! session and records the decision. So two assigners, or a crash anywhere, can neither start two
//! agents on an item nor claim an item and forget to start its agent; the table's unique index on
//! live sessions stands behind that.
//!
//! An agent is free when it has no live session and holds no item: while its gates run, the work
//! is still its own, because it gets it back when they fail. Work that comes back later (from QA or
//! from the merge queue) goes to the agent that made it, which is waited for a while: it knows it.

use super::counters::{Counters, MAX_STARTS, note_once};
use super::{WorkError, apply_to, each, lead, prompt, queue, system};
use crate::clock::from_millis;
use crate::config::{AgentConfig, Config, ProjectConfig};
use crate::model::agent::Role;
use crate::model::ids::{AgentName, ItemId, ProjectName};
use crate::model::item::Item;
use crate::model::stage::{Column, Stage, StageEvent};
use crate::store::agents::{self as sessions, CreateError, NewSession};
use crate::store::decisions::{self, What};
use crate::store::{Tx, items, meta};
use chrono::Duration;
use rusqlite::Connection;
use serde_json::json;
use std::collections::{HashMap, HashSet};

/// The span of the start rate limit, in milliseconds.
const MINUTE_MS: i64 = 60_000;
/// How long an item that comes back waits for the agent that worked on it before.
const RETURN_WAIT: Duration = Duration::minutes(10);
/// The columns in which agents hold items.
pub(super) const HELD: [Column; 3] = [Column::Coding, Column::Qa, Column::Merge];

/// Who is busy with what.
struct Roster {
    /// Busy agents with the item that they hold.
    busy: HashMap<AgentName, ItemId>,
    /// How many of them take a place of `limits.max_agents`.
    places: usize,
    /// How many take a place in each project.
    in_project: HashMap<ProjectName, usize>,
    /// Items with a live session.
    live: HashMap<ItemId, AgentName>,
}

impl Roster {
    fn read(tx: &Tx<'_>) -> Result<Self, WorkError> {
        let mut roster = Self {
            busy: HashMap::new(),
            places: 0,
            in_project: HashMap::new(),
            live: HashMap::new(),
        };
        // A lead that waits does nothing, and what it waits for needs its place.
        let sessions = sessions::live_sessions(tx)?;
        let resting: HashSet<ItemId> =
            sessions.iter().filter(|session| lead::rests(session)).map(|s| s.item).collect();
        for item in items::in_columns(tx, None, &HELD)? {
            if let Some(agent) = item.stage.claim() {
                if resting.contains(&item.id) {
                    roster.busy.insert(agent.clone(), item.id);
                } else {
                    roster.take(agent.clone(), &item);
                }
            }
        }
        for session in sessions {
            roster.live.insert(session.item, session.agent.clone());
            if roster.busy.contains_key(&session.agent) {
                continue;
            }
            if let Some(item) = items::find(tx, session.item)? {
                roster.take(session.agent, &item);
            } else {
                roster.busy.insert(session.agent, session.item);
                roster.places += 1;
            }
        }
        Ok(roster)
    }

    fn take(&mut self, agent: AgentName, item: &Item) {
        self.busy.insert(agent, item.id);
        self.places += 1;
        *self.in_project.entry(item.project.clone()).or_default() += 1;
    }
}

/// Gives every waiting item that can have one an agent; notes for the others why not. Returns how
/// many were started.
pub(super) fn assign(tx: &Tx<'_>, config: &Config) -> Result<usize, WorkError> {
    let waiting: Vec<Item> = items::in_columns(tx, None, &HELD)?
        .into_iter()
        .filter(|item| item.stage.claim().is_none() && role_for(config, item).is_some())
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

/// The role of the agent that may run `item` now; `None`: nobody may.
///
/// A person who pins an agent to an item that is coded decides with it what is done there: a lead
/// splits it, a scout looks, a reviewer reviews. A conflict is for a mergemaster, or for a coder
/// where no mergemaster is configured.
pub fn role_for(config: &Config, item: &Item) -> Option<Role> {
    let configured = |role| config.agents.iter().any(|agent| fits(agent, role, &item.project));
    Some(match item.stage.wants_role()? {
        Role::Coder if matches!(item.stage, Stage::Coding { .. }) => pinned_role(config, item),
        Role::Mergemaster if !configured(Role::Mergemaster) => Role::Coder,
        role @ (Role::Coder
        | Role::Qa
        | Role::Mergemaster
        | Role::Lead
        | Role::Scout
        | Role::Reviewer) => role,
    })
}

/// What the pinned agent does with an item that is coded.
fn pinned_role(config: &Config, item: &Item) -> Role {
    let pinned = item.agent.as_ref();
    let agent = config.agents.iter().find(|agent| Some(&agent.name) == pinned);
    match agent.map(|agent| agent.role) {
        Some(role @ (Role::Coder | Role::Lead | Role::Scout | Role::Reviewer)) => role,
        Some(Role::Qa | Role::Mergemaster) | None => Role::Coder,
    }
}

/// Whether `agent` is for that role in that project.
fn fits(agent: &AgentConfig, role: Role, project: &ProjectName) -> bool {
    agent.role == role && (agent.projects.is_empty() || agent.projects.contains(project))
}

/// Starts an agent on `item`; the inner error is why none was started, in words.
fn assign_one(
    tx: &Tx<'_>,
    config: &Config,
    roster: &mut Roster,
    item: &Item,
) -> Result<Result<(), String>, WorkError> {
    let Some(role) = role_for(config, item) else { return Ok(Ok(())) };
    if role == Role::Coder && item.stage.column() == Column::Merge {
        // On its way back to a coder.
        return Ok(Ok(()));
    }
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
    let busy = roster.places;
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
    let (agent, why) = match choose(tx, config, roster, item, role)? {
        Ok(chosen) => chosen,
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
    begin(tx, item, agent, &why, &project.settings)?;
    roster.take(agent.name.clone(), item);
    roster.live.insert(item.id, agent.name.clone());
    Ok(Ok(()))
}

/// The agent for `item` and why it: the pinned one, the one that worked on it before, or the first
/// free one in configuration order.
fn choose<'c>(
    tx: &Tx<'_>,
    config: &'c Config,
    roster: &Roster,
    item: &Item,
    role: Role,
) -> Result<Result<(&'c AgentConfig, String), String>, WorkError> {
    // A person pins the one who does the work; QA and conflicts stay with whoever is free.
    let coded = matches!(item.stage, Stage::Coding { .. });
    if let Some(pinned) = item.agent.as_ref().filter(|_| coded) {
        let Some(agent) = config.agents.iter().find(|agent| agent.name == *pinned) else {
            return Ok(Err(format!(
                "is pinned to {pinned}, which is not configured: `assign {} AGENT` names another",
                item.id
            )));
        };
        if !fits(agent, role, &item.project) {
            return Ok(Err(format!(
                "is pinned to {pinned}, which is no {} for project {}",
                role.as_str(),
                item.project
            )));
        }
        let free = free(tx, roster, agent)?;
        return Ok(free.map(|agent| (agent, format!("{} is pinned to it", agent.name))));
    }
    let fitting = || config.agents.iter().filter(|agent| fits(agent, role, &item.project));
    if let Some(before) = worked_before(tx, item, role)?
        && let Some(agent) = fitting().find(|agent| agent.name == before)
    {
        match free(tx, roster, agent)? {
            Ok(agent) => {
                return Ok(Ok((agent, format!("{} worked on it before", agent.name))));
            }
            Err(busy) if coded && roster.busy.contains_key(&agent.name) => {
                let until = item.updated_at + RETURN_WAIT;
                if from_millis(tx.now()) < until {
                    let until = until.format("%H:%M");
                    return Ok(Err(format!(
                        "waits for {before}, which worked on it before: {busy}; another may take \
                         it from {until}"
                    )));
                }
            }
            Err(_paused) => {}
        }
    }
    let mut reasons = Vec::new();
    for agent in fitting() {
        match free(tx, roster, agent)? {
            Ok(agent) => {
                let why = format!("{} was the first free {}", agent.name, role.as_str());
                return Ok(Ok((agent, why)));
            }
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

/// The agent that last worked on `item` in this role.
fn worked_before(
    conn: &Connection,
    item: &Item,
    role: Role,
) -> Result<Option<AgentName>, WorkError> {
    let sessions = sessions::sessions_of_item(conn, item.id)?.into_iter().rev();
    Ok(sessions.filter(|session| session.role == role).map(|session| session.agent).next())
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
    why: &str,
    project: &ProjectConfig,
) -> Result<(), WorkError> {
    decisions::record(
        tx,
        Some(item.id),
        What::Started,
        why,
        &json!({
            "agent": agent.name,
            "role": agent.role,
            "pinned": item.agent,
            "stage": item.stage,
        }),
    )?;
    let prompt = first_prompt(tx, item, agent.role, project)?;
    let event = StageEvent::Claimed { agent: agent.name.clone() };
    let cause = format!("{} took it", agent.name);
    let item = apply_to(tx, item, &event, &system(tx), &cause)?;
    create(tx, &item, agent, prompt, true)
}

/// What the agent is told that is started on `item`.
fn first_prompt(
    conn: &Connection,
    item: &Item,
    role: Role,
    project: &ProjectConfig,
) -> Result<String, WorkError> {
    Ok(match &item.stage {
        Stage::Qa { commit, .. } => prompt::qa(item, &project.base, commit),
        Stage::MergeFailure { kind, output, .. }
        | Stage::MergeFailureFinal { kind, output, .. } => {
            prompt::mergemaster(item, &project.base, &project.gates, kind, output)
        }
        Stage::Coding { note, .. } => match role {
            Role::Lead => prompt::lead(item, &project.base, &items::handed_out(conn, item.id)?),
            Role::Scout | Role::Reviewer => prompt::reader(item, &project.base, note.as_deref()),
            Role::Coder | Role::Qa | Role::Mergemaster => {
                prompt::coder(item, &project.base, &project.gates, note.as_deref())
            }
        },
        // No agent is started on these.
        Stage::Upcoming
        | Stage::Backlog
        | Stage::Blocked { .. }
        | Stage::ReviewHold { .. }
        | Stage::Merge { .. }
        | Stage::Done { .. }
        | Stage::Archived { .. }
        | Stage::Frozen { .. }
        | Stage::Abandoned { .. }
        | Stage::Superseded { .. }
        | Stage::Rejected { .. } => prompt::coder(item, &project.base, &project.gates, None),
    })
}

/// Creates a session; one that goes on where the agent's last one on this item ended, if there was
/// one.
pub(super) fn create(
    tx: &Tx<'_>,
    item: &Item,
    agent: &AgentConfig,
    prompt: String,
    resume: bool,
) -> Result<(), WorkError> {
    let role = agent.role;
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
