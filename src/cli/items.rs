//! Items from the command line: filed, changed, moved, started. What a script does here counts as
//! done by the person at the terminal; agents have their tools, and only a lead hands out work.

use super::args::MoveAction;
use super::failure::{Code, Failure};
use super::request::{Assigned, Fields, Move, NewItem};
use super::serve::{Ctx, to_json};
use crate::model::agent::Role;
use crate::model::ids::{AgentName, ItemId};
use crate::model::item::{Origin, OriginKind};
use crate::model::stage::{MoveTo, StageEvent};
use crate::project::configure;
use crate::store::{Store, Tx, agents};
use crate::work;
use rusqlite::Connection;
use serde_json::Value;
use std::sync::Arc;

/// Agents report; what their item becomes is for others to say.
fn not_by_an_agent(by: Option<&AgentName>) -> Result<(), Failure> {
    match by {
        None => Ok(()),
        Some(agent) => Err(Failure::new(
            Code::Refused,
            format!("{agent} is an agent, and agents do not change items"),
        )
        .hint("say in a mail to `coordinator` what should be changed, and why")),
    }
}

/// `items create`
pub(super) fn create(
    ctx: &Ctx,
    key: Option<String>,
    new: NewItem,
    by: Option<AgentName>,
) -> Result<Value, Failure> {
    let person = ctx.person();
    let only = match ctx.config.projects.as_slice() {
        [only] => Some(only.name.clone()),
        _ => None,
    };
    let project = new.project.or(only).ok_or_else(|| {
        Failure::new(Code::Usage, "say which project: `--project NAME`")
            .hint("`musher status` shows the projects")
    })?;
    let lead = by.map(|agent| ctx.lead(agent)).transpose()?;
    let role = new.pinned.as_ref().map(|agent| role_of(ctx, agent)).transpose()?;
    let configured = ctx.config.projects.iter().find(|known| known.name == project).cloned();
    let config = Arc::clone(&ctx.config);
    ctx.write(key, move |tx| {
        // Before the first start nothing but the configuration knows it.
        if let Some(settings) = configured {
            configure(tx, settings)?;
        }
        let row = work::NewItem {
            project,
            kind: new.kind,
            name: new.name,
            body: new.body,
            depends_on: new.depends_on,
            epic: new.epic,
            parent: None,
            agent: new.pinned.clone(),
            qa: new.qa,
            origin: origin(tx, lead.as_ref(), &person),
            room: None,
        };
        let item = match &lead {
            Some(lead) => work::file_child(tx, lead, led_by(tx, lead)?, row, role)?,
            None => work::create(tx, row)?,
        };
        if let Some(agent) = &new.pinned {
            work::check_pin(&config, agent, &item)?;
        }
        to_json(&item)
    })
}

/// `items update N`
pub(super) fn update(
    ctx: &Ctx,
    key: Option<String>,
    id: ItemId,
    version: Option<i64>,
    fields: Fields,
    by: Option<&AgentName>,
) -> Result<Value, Failure> {
    not_by_an_agent(by)?;
    if let Some(Assigned::To(agent)) = &fields.agent {
        role_of(ctx, agent)?;
    }
    let (person, config) = (ctx.person(), Arc::clone(&ctx.config));
    ctx.write(key, move |tx| {
        if let Some(Assigned::To(agent)) = &fields.agent {
            work::check_pin(&config, agent, &work::find(tx, id)?)?;
        }
        let change = work::ItemChange {
            name: fields.name,
            body: fields.body,
            depends_on: fields.depends_on,
            epic: fields.epic.map(Assigned::into_option),
            agent: fields.agent.map(Assigned::into_option),
            qa: fields.qa,
            priority: fields.priority,
            room: None,
        };
        let item = work::update(tx, id, version, change, &origin(tx, None, &person))?;
        to_json(&item)
    })
}

/// What an action makes of an item.
fn event(step: &Move) -> Result<StageEvent, Failure> {
    let (reason, by) = (step.reason.trim(), step.replaced_by);
    let why = || match reason {
        "" => Err(Failure::new(Code::Usage, "say why: `--reason \"…\"`")),
        reason => Ok(reason.to_owned()),
    };
    Ok(match step.action {
        MoveAction::Block => StageEvent::Blocked { reason: why()? },
        MoveAction::Unblock => StageEvent::Unblocked,
        MoveAction::Freeze => StageEvent::Frozen,
        MoveAction::Unfreeze => StageEvent::Unfrozen,
        MoveAction::Approve => StageEvent::Approved,
        MoveAction::Reject => StageEvent::Rejected { reason: why()? },
        MoveAction::Abandon => StageEvent::Abandoned { reason: why()? },
        MoveAction::Supersede => match by {
            Some(by) => StageEvent::Superseded { by },
            None => return Err(Failure::new(Code::Usage, "say what replaces it: `--by ITEM`")),
        },
        MoveAction::Backlog => StageEvent::Moved { to: MoveTo::Backlog },
        MoveAction::Upcoming => StageEvent::Moved { to: MoveTo::Upcoming },
        MoveAction::Qa => StageEvent::Moved { to: MoveTo::Qa },
        MoveAction::ReviewHold => StageEvent::Moved { to: MoveTo::ReviewHold },
        MoveAction::Merge => StageEvent::Moved { to: MoveTo::Merge },
    })
}

/// `items move N ACTION`
pub(super) fn move_item(
    ctx: &Ctx,
    key: Option<String>,
    id: ItemId,
    step: Move,
    version: Option<i64>,
    by: Option<&AgentName>,
) -> Result<Value, Failure> {
    not_by_an_agent(by)?;
    let event = event(&step)?;
    let reason = step.reason.trim().to_owned();
    let person = ctx.person();
    ctx.write(key, move |tx| {
        work::expect_version(tx, id, version)?;
        let origin = origin(tx, None, &person);
        let cause = if reason.is_empty() { format!("moved by {}", origin.id) } else { reason };
        to_json(&work::apply(tx, id, &event, &origin, &cause)?)
    })
}

/// The role of a configured agent.
fn role_of(ctx: &Ctx, agent: &AgentName) -> Result<Role, Failure> {
    ctx.directory.role_of(agent.as_str()).ok_or_else(|| {
        Failure::new(Code::NotFound, format!("there is no agent {agent}"))
            .hint("`musher agents` lists them")
    })
}

/// The item that a lead works on.
fn led_by(conn: &Connection, lead: &AgentName) -> Result<ItemId, Failure> {
    let live = agents::live_sessions_of_agent(conn, lead)?;
    live.first().map(|session| session.item).ok_or_else(|| {
        Failure::new(Code::Refused, format!("{lead} leads no item now, so it hands out nothing"))
    })
}

/// Refuses what could not even begin. Calls are carried out on threads that may block.
fn ready(ctx: &Ctx, item: ItemId) -> Result<(), Failure> {
    let asked = |store: Store| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok::<_, std::io::Error>(runtime.block_on(work::ready(&store, item)))
    };
    // A thread of its own: the caller's may belong to a runtime.
    let answer = std::thread::scope(|scope| {
        scope.spawn(|| asked(ctx.store.clone())).join().unwrap_or(Ok(Ok(())))
    });
    match answer {
        Ok(ready) => Ok(ready?),
        Err(error) => Err(Failure::new(Code::Failed, format!("cannot look at git: {error}"))),
    }
}

/// `items start N`
pub(super) fn start(
    ctx: &Ctx,
    key: Option<String>,
    item: ItemId,
    agent: Option<AgentName>,
    by: Option<AgentName>,
) -> Result<Value, Failure> {
    let role = agent.as_ref().map(|agent| role_of(ctx, agent)).transpose()?;
    let (person, config) = (ctx.person(), Arc::clone(&ctx.config));
    let lead = by.map(|by| ctx.lead(by)).transpose()?;
    let ready = ready(ctx, item);
    ctx.write(key, move |tx| {
        let origin = origin(tx, lead.as_ref(), &person);
        if let Some(agent) = &agent {
            work::check_pin(&config, agent, &work::find(tx, item)?)?;
        }
        let started = match &lead {
            Some(lead) => {
                let agent = agent.as_ref().zip(role);
                work::start_child(tx, lead, led_by(tx, lead)?, item, agent, &origin)?
            }
            None => work::start(tx, item, agent.as_ref(), &origin)?,
        };
        // What is wrong with the call itself is said first; nothing is kept.
        ready?;
        to_json(&started)
    })
}

fn origin(tx: &Tx<'_>, agent: Option<&AgentName>, person: &str) -> Origin {
    let at = crate::clock::from_millis(tx.now());
    match agent {
        Some(agent) => Origin { kind: OriginKind::Agent, id: agent.0.clone(), at },
        None => Origin { kind: OriginKind::User, id: person.to_owned(), at },
    }
}
