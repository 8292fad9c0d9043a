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
//!
//! **What a pass costs** depends on who is free and not on how much waits: for each role the waiting
//! rows are read from one covering index, in order, and no longer than one of them may still get an
//! agent. Only the first [`NOTED`] that get none have the reason written down; those behind them
//! wait for the same.

mod roster;

use super::counters::{Counters, MAX_STARTS};
use super::{WorkError, apply_to, each, prompt, system};
use crate::config::{AgentConfig, Config, ProjectConfig};
use crate::model::agent::Role;
use crate::model::event::Event;
use crate::model::ids::{AgentName, ItemId, ProjectName};
use crate::model::item::Item;
use crate::model::stage::{Column, Stage, StageEvent};
use crate::store::Tx;
use crate::store::agents::{self as sessions, CreateError, NewSession};
use crate::store::decisions::{self, What};
use crate::store::items::{self, Waiting};
use crate::store::log;
use chrono::Duration;
use roster::{Hold, Roster};
use serde_json::json;
use std::ops::ControlFlow;

/// How long an item that comes back waits for the agent that worked on it before.
const RETURN_WAIT: Duration = Duration::minutes(10);
/// How many waiting items are told in each pass why they wait.
pub(super) const NOTED: usize = 50;

/// An agent for an item, and why it.
struct Chosen<'c> {
    item: ItemId,
    agent: &'c AgentConfig,
    project: ProjectConfig,
    why: String,
}

/// Gives every waiting item that can have one an agent; notes for the others why not. Returns how
/// many were started. What is nearly done goes first: conflicts, then QA, then coding.
pub(super) fn assign(tx: &Tx<'_>, config: &Config) -> Result<usize, WorkError> {
    let mut roster = Roster::read(tx, config)?;
    let (mut chosen, mut held) = (Vec::new(), Vec::new());
    for wants in [Role::Mergemaster, Role::Qa, Role::Coder] {
        choose_all(tx, &mut roster, wants, &mut chosen, &mut held)?;
    }
    for (item, hold) in &held {
        let news =
            decisions::note(tx, *item, What::NotStarted, hold.kind, &hold.why, &hold.inputs)?;
        if news && hold.wants_a_person() {
            let what = format!("it {}", hold.why);
            log::append_event(tx, &Event::Trouble { item: *item, what })?;
        }
    }
    let mut started = 0;
    each(
        tx,
        &chosen,
        |one| one.item,
        |tx, one| {
            started += usize::from(begin(tx, one)?);
            Ok(())
        },
    )?;
    Ok(started)
}

/// Chooses agents for the items that wait for a role, in order.
fn choose_all<'c>(
    tx: &Tx<'_>,
    roster: &mut Roster<'c>,
    wants: Role,
    chosen: &mut Vec<Chosen<'c>>,
    held: &mut Vec<(ItemId, Hold)>,
) -> Result<(), WorkError> {
    let (mut noted, mut outcome) = (0, Ok(()));
    items::waiting(tx, wants, |row| {
        match choose(tx, roster, row) {
            Ok(Ok(one)) => chosen.push(one),
            Ok(Err(hold)) if noted < NOTED => {
                noted += 1;
                held.push((row.id, hold));
            }
            Ok(Err(_as_those_before)) => {}
            Err(error) => {
                outcome = Err(error);
                return ControlFlow::Break(());
            }
        }
        if noted >= NOTED && roster.nobody_is_left(wants) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    outcome
}

/// The role of the agent that may run `item` now; `None`: nobody may.
///
/// A person who pins an agent to an item that is coded decides with it what is done there: a lead
/// splits it, a scout looks, a reviewer reviews. A conflict is for a mergemaster, or for a coder
/// where no mergemaster is configured.
pub fn role_for(config: &Config, item: &Item) -> Option<Role> {
    let wants = item.stage.wants_role()?;
    let coded = item.stage.column() == Column::Coding;
    Some(fitted(config, wants, coded, item.agent.as_ref(), &item.project))
}

/// The role that `wants` means with these agents.
fn fitted(
    config: &Config,
    wants: Role,
    coded: bool,
    pinned: Option<&AgentName>,
    project: &ProjectName,
) -> Role {
    match wants {
        Role::Coder if coded => {
            let agent = config.agents.iter().find(|agent| Some(&agent.name) == pinned);
            match agent.map(|agent| agent.role) {
                Some(role @ (Role::Coder | Role::Lead | Role::Scout | Role::Reviewer)) => role,
                Some(Role::Qa | Role::Mergemaster) | None => Role::Coder,
            }
        }
        Role::Mergemaster
            if !config.agents.iter().any(|agent| fits(agent, Role::Mergemaster, project)) =>
        {
            Role::Coder
        }
        role @ (Role::Coder
        | Role::Qa
        | Role::Mergemaster
        | Role::Lead
        | Role::Scout
        | Role::Reviewer) => role,
    }
}

/// Whether `agent` is for that role in that project.
fn fits(agent: &AgentConfig, role: Role, project: &ProjectName) -> bool {
    agent.role == role && (agent.projects.is_empty() || agent.projects.contains(project))
}

/// Chooses an agent for a waiting item and takes it off the roster; the inner error is why there is
/// none.
fn choose<'c>(
    tx: &Tx<'_>,
    roster: &mut Roster<'c>,
    row: &Waiting,
) -> Result<Result<Chosen<'c>, Hold>, WorkError> {
    let coded = row.wants == Role::Coder;
    let config = roster.config;
    let role = fitted(config, row.wants, coded, row.agent.as_ref(), &row.project);
    let project = match roster.room_in(tx, &row.project)? {
        Ok(project) => project,
        Err(hold) => return Ok(Err(hold)),
    };
    if let Some(hold) = roster.still_ends(row.id) {
        return Ok(Err(hold));
    }
    let picked = match pick(tx, roster, row, role, coded)? {
        Ok(picked) => picked,
        Err(hold) => return Ok(Err(hold)),
    };
    roster.take(&picked.0.name, row.id, &row.project);
    let (agent, why) = picked;
    Ok(Ok(Chosen { item: row.id, agent, project, why }))
}

/// The agent for a waiting item and why it: the pinned one, the one that worked on it before, or
/// the first free one in configuration order.
fn pick<'c>(
    tx: &Tx<'_>,
    roster: &Roster<'c>,
    row: &Waiting,
    role: Role,
    coded: bool,
) -> Result<Result<(&'c AgentConfig, String), Hold>, WorkError> {
    let agents = &roster.config.agents;
    // A person pins the one who does the work; QA and conflicts stay with whoever is free.
    if let Some(pinned) = row.agent.as_ref().filter(|_| coded) {
        let agent = match agents.iter().find(|agent| agent.name == *pinned) {
            Some(agent) if fits(agent, role, &row.project) => agent,
            found => return Ok(Err(Hold::wrong_pin(row, pinned, role, found.is_some()))),
        };
        return Ok(match roster.why_not(agent) {
            None => Ok((agent, format!("{} is pinned to it", agent.name))),
            Some(why_not) => Err(Hold::pinned(why_not)),
        });
    }
    let fitting = || agents.iter().filter(|agent| fits(agent, role, &row.project));
    let before = if coded { row.coder.clone() } else { last_in_role(tx, row.id, role)? };
    if let Some(agent) = fitting().find(|agent| Some(&agent.name) == before.as_ref()) {
        let until = row.moved_at + RETURN_WAIT;
        match roster.why_not(agent) {
            None => return Ok(Ok((agent, format!("{} worked on it before", agent.name)))),
            Some(busy) if coded && busy.is_busy && roster.now < until => {
                return Ok(Err(Hold::returning(&agent.name, busy, until)));
            }
            Some(_not_soon) => {}
        }
    }
    let mut reasons = Vec::new();
    for agent in fitting() {
        match roster.why_not(agent) {
            None => {
                let why = format!("{} was the first free {}", agent.name, role.as_str());
                return Ok(Ok((agent, why)));
            }
            Some(why_not) => reasons.push(why_not),
        }
    }
    Ok(Err(Hold::nobody_free(role, &row.project, &reasons)))
}

/// The agent that last worked on the item in this role.
fn last_in_role(tx: &Tx<'_>, item: ItemId, role: Role) -> Result<Option<AgentName>, WorkError> {
    let sessions = sessions::sessions_of_item(tx, item)?.into_iter().rev();
    Ok(sessions.filter(|session| session.role == role).map(|session| session.agent).next())
}

/// Claims the item for its agent and creates the session; `false`: it was started too often.
fn begin(tx: &Tx<'_>, chosen: &Chosen<'_>) -> Result<bool, WorkError> {
    let (agent, item) = (chosen.agent, super::find(tx, chosen.item)?);
    let counters = Counters::of(tx, item.id)?;
    if counters.starts >= MAX_STARTS {
        let why = format!("agents were started on it {} times without a commit", counters.starts);
        super::settle::block(tx, &item, &why)?;
        return Ok(false);
    }
    decisions::record(
        tx,
        Some(item.id),
        What::Started,
        &chosen.why,
        &json!({
            "agent": agent.name,
            "role": agent.role,
            "pinned": item.agent,
            "stage": item.stage.name(),
            "starts": counters.starts + 1,
        }),
    )?;
    let prompt = first_prompt(tx, &item, agent.role, &chosen.project)?;
    let event = StageEvent::Claimed { agent: agent.name.clone() };
    let cause = format!("{} took it", agent.name);
    let item = apply_to(tx, &item, &event, &system(tx), &cause)?;
    create(tx, &item, agent, prompt, true)?;
    Ok(true)
}

/// What the agent is told that is started on `item`.
fn first_prompt(
    tx: &Tx<'_>,
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
            Role::Lead => prompt::lead(item, &project.base, &items::handed_out(tx, item.id)?),
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
