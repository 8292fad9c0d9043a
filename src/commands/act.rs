//! The commands that change work, each one call on `work` in the command's transaction.

use super::command::MoveTarget;
use super::context::{Context, refused, sentence};
use super::{Command, CommandError};
use crate::agents::{self, TellError};
use crate::clock::from_millis;
use crate::model::ids::{AgentName, ItemId};
use crate::model::item::{Item, Kind, QaMode};
use crate::model::stage::{Stage, StageEvent};
use crate::store::pauses::{self, Scope};
use crate::store::requests::Request;
use crate::store::{Tx, merge_state, meta};
use crate::work::{self, ItemChange, NewItem, Verdict};

/// `story NAME` and its kin
pub fn new_item(
    context: &Context,
    tx: &Tx<'_>,
    kind: Kind,
    name: &str,
    body: &str,
) -> Result<String, CommandError> {
    let project = context.project(tx)?;
    let new = NewItem {
        project: project.name.clone(),
        kind,
        name: name.to_owned(),
        body: body.to_owned(),
        depends_on: vec![],
        epic: None,
        parent: None,
        agent: None,
        qa: None,
        origin: context.origin_in(tx)?,
        room: Some(context.caller.session.room.clone()),
    };
    let item = work::create(tx, new)?;
    let next = match kind {
        Kind::Epic => String::new(),
        Kind::Story | Kind::Bug | Kind::Refactor | Kind::Spike => {
            format!(" `start {}` gives it to an agent.", item.id)
        }
    };
    Ok(format!("Filed {} **#{} {}** in {}.{next}", kind.as_str(), item.id, item.name, project.name))
}

/// `start N [AGENT]`
pub fn start(
    context: &Context,
    tx: &Tx<'_>,
    id: ItemId,
    agent: Option<&AgentName>,
) -> Result<String, CommandError> {
    if let Some(agent) = agent {
        context.check_pin(tx, agent, id)?;
    }
    let item = work::start(tx, id, agent, &context.origin_in(tx)?)?;
    let (stage, name) = (item.stage.name().replace('_', " "), &item.name);
    if let Some(who) = meta::find(tx, meta::STOPPED_ALL)? {
        return Ok(format!(
            "#{id} {name} is in {stage} now, but everything is stopped (by {who}): it goes on \
             after `resume all`."
        ));
    }
    if context.services.config.agents.is_empty() {
        return Ok(format!(
            "#{id} {name} is in {stage} now, but there are no agents: name some in \
             `musher.toml`, `[[agents]]`, and restart."
        ));
    }
    Ok(match item.stage.claim().or(item.agent.as_ref()) {
        Some(agent) => format!("Started **#{id} {name}**: it is in {stage}, for {agent}."),
        None => format!("Started **#{id} {name}**: it is in {stage}, for the next free agent."),
    })
}

/// `move N STAGE`
pub fn move_item(
    context: &Context,
    tx: &Tx<'_>,
    id: ItemId,
    to: MoveTarget,
) -> Result<String, CommandError> {
    let origin = context.origin_in(tx)?;
    let by = format!("moved by {}", origin.id);
    let event = match to {
        MoveTarget::Stage(to) => StageEvent::Moved { to },
        MoveTarget::Archived => {
            StageEvent::PutAway { reason: by.clone(), at: from_millis(tx.now()) }
        }
        MoveTarget::Abandoned => StageEvent::Abandoned { reason: by.clone() },
    };
    let item = work::apply(tx, id, &event, &origin, &by)?;
    Ok(now_in(&item))
}

fn now_in(item: &Item) -> String {
    format!("#{} {} is in {} now.", item.id, item.name, item.stage.name().replace('_', " "))
}

/// The commands that apply one fact to an item.
pub fn apply(
    context: &Context,
    tx: &Tx<'_>,
    id: ItemId,
    event: &StageEvent,
    done: &str,
) -> Result<String, CommandError> {
    let origin = context.origin_in(tx)?;
    let cause = format!("{done} by {}", origin.id);
    let item = work::apply(tx, id, event, &origin, &cause)?;
    Ok(after(&item))
}

/// What became of an item, and how it is taken back.
fn after(item: &Item) -> String {
    let id = item.id;
    match &item.stage {
        Stage::Blocked { reason, .. } => {
            format!("Blocked #{id} {}: {reason}. `unblock {id}` lets it go on.", item.name)
        }
        Stage::Frozen { .. } => {
            format!("Froze #{id} {}. `unfreeze {id}` puts it back.", item.name)
        }
        Stage::Rejected { .. } => {
            format!(
                "Rejected #{id} {}. Its worktree is kept; `move {id} backlog` takes it up again.",
                item.name
            )
        }
        Stage::Abandoned { .. } => {
            format!("Gave up #{id} {}. `move {id} backlog` takes it up again.", item.name)
        }
        Stage::Superseded { by } => format!(
            "#{id} {} is superseded by #{by}. `move {id} backlog` takes it up again.",
            item.name
        ),
        Stage::Merge { commit, .. } => {
            let commit = commit.get(..8).unwrap_or(commit);
            format!("#{id} {} is in the merge queue with `{commit}`.", item.name)
        }
        Stage::Upcoming
        | Stage::Backlog
        | Stage::Coding { .. }
        | Stage::Qa { .. }
        | Stage::ReviewHold { .. }
        | Stage::MergeFailure { .. }
        | Stage::MergeFailureFinal { .. }
        | Stage::Done { .. }
        | Stage::Archived { .. } => now_in(item),
    }
}

/// `approve N [COMMIT]`
pub fn approve(
    context: &Context,
    tx: &Tx<'_>,
    id: ItemId,
    commit: Option<&str>,
) -> Result<String, CommandError> {
    if let Some(commit) = commit {
        work::check_commit(tx, id, commit)?;
    }
    apply(context, tx, id, &StageEvent::Approved, "approved")
}

/// A verdict given by a reaction or a reply to the message that asked for it.
pub fn decide(
    context: &Context,
    tx: &Tx<'_>,
    request: &Request,
    verdict: &Verdict,
) -> Result<String, CommandError> {
    let item = work::decide(tx, request, verdict, &context.origin_in(tx)?)?;
    Ok(after(&item))
}

/// The commands that change a field of an item.
pub fn update(context: &Context, tx: &Tx<'_>, command: &Command) -> Result<String, CommandError> {
    let (id, change, said) = if let Command::Depends { item, on } = command {
        let list: Vec<String> = on.iter().map(|id| format!("#{id}")).collect();
        let said = if list.is_empty() {
            "depends on nothing now".to_owned()
        } else {
            format!("waits for {} now", list.join(", "))
        };
        let depends_on = Some(on.clone());
        (*item, ItemChange { depends_on, ..ItemChange::default() }, said)
    } else if let Command::Assign { item, agent } = command {
        if let Some(agent) = agent {
            context.check_pin(tx, agent, *item)?;
        }
        let said = match agent {
            Some(agent) => format!("is for {agent} now"),
            None => "is for any free agent now".to_owned(),
        };
        (*item, ItemChange { agent: Some(agent.clone()), ..ItemChange::default() }, said)
    } else if let Command::Priority { item, priority } = command {
        let change = ItemChange { priority: Some(*priority), ..ItemChange::default() };
        (*item, change, format!("has priority {priority} now"))
    } else if let Command::Qa { item, mode } = command {
        let said = match mode {
            QaMode::Gates => "is merged as soon as its gates pass",
            QaMode::Agent => "is checked by a QA agent after its gates",
            QaMode::Human => "waits for a person's verdict after its gates",
        };
        (*item, ItemChange { qa: Some(*mode), ..ItemChange::default() }, said.to_owned())
    } else {
        return Err(anyhow::anyhow!("{command:?} changes no field").into());
    };
    let item = work::update(tx, id, None, change, &context.origin_in(tx)?)?;
    Ok(format!("#{id} {} {said}.", item.name))
}

/// `epic N… of M`
pub fn epic_of(
    context: &Context,
    tx: &Tx<'_>,
    items: &[ItemId],
    epic: Option<ItemId>,
) -> Result<String, CommandError> {
    let origin = context.origin_in(tx)?;
    for item in items {
        let change = ItemChange { epic: Some(epic), ..ItemChange::default() };
        work::update(tx, *item, None, change, &origin)?;
    }
    let list: Vec<String> = items.iter().map(|id| format!("#{id}")).collect();
    let (list, verb) = (list.join(", "), if items.len() == 1 { "is" } else { "are" });
    let Some(epic) = epic else { return Ok(format!("{list} {verb} part of no epic now.")) };
    let (name, progress) = (context.item(tx, epic)?.name, work::progress(tx, epic)?);
    let progress = work::progress_in_words(&progress);
    Ok(format!("{list} {verb} part of **#{epic} {name}** now ({progress})."))
}

/// `tell AGENT TEXT`: urgent mail, which steers the turn that runs, or starts one.
pub fn tell(
    context: &Context,
    tx: &Tx<'_>,
    agent: &AgentName,
    text: &str,
) -> Result<String, CommandError> {
    context.check_agent(agent)?;
    match agents::tell(tx, agent, context.caller.person.as_str(), text) {
        Ok(item) => Ok(format!("Told {agent}, who is on #{item}; it reads it at its next step.")),
        Err(TellError::Store(error)) => Err(error.into()),
        Err(refusal) => refused(sentence(&refusal.to_string())),
    }
}

/// `nudge AGENT [--urgent] [TEXT]`
pub fn nudge(
    context: &Context,
    tx: &Tx<'_>,
    agent: &AgentName,
    text: &str,
    urgent: bool,
) -> Result<String, CommandError> {
    context.check_agent(agent)?;
    match agents::nudge(tx, agent, context.caller.person.as_str(), text, urgent) {
        Ok(Some(item)) => {
            Ok(format!("Nudged {agent}, who is on #{item}; it reads it at its next step."))
        }
        Ok(None) => Ok(format!(
            "Nudged {agent}. It has no work now: it reads this if it gets some within {}.",
            if urgent { "two hours" } else { "30 minutes" }
        )),
        Err(TellError::Store(error)) => Err(error.into()),
        Err(refusal) => refused(sentence(&refusal.to_string())),
    }
}

/// `resume all`
pub fn resume_all(tx: &Tx<'_>) -> Result<String, CommandError> {
    let stopped = meta::remove(tx, meta::STOPPED_ALL)?;
    let paused: Vec<String> = pauses::try_all(tx)?.iter().map(Scope::in_words).collect();
    let queues: Vec<String> =
        merge_state::paused(tx)?.into_iter().map(|(project, _pause)| project.0).collect();
    for project in &queues {
        merge_state::try_now(tx, &project.as_str().into())?;
    }
    let mut said = Vec::new();
    if stopped {
        said.push(
            "Going on: agents and answers may start again. Items that were stopped one by one stay \
             blocked until `unblock N`."
                .to_owned(),
        );
    }
    if !paused.is_empty() {
        said.push(format!("{} are no longer paused: they try again now.", paused.join("; ")));
    }
    if !queues.is_empty() {
        said.push(format!("The merge queue of {} is tried again now.", queues.join(", ")));
    }
    Ok(if said.is_empty() { "Nothing was stopped.".to_owned() } else { said.join(" ") })
}
