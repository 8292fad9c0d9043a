//! Tools about items: the board, one item, filing, changing, moving, starting, stopping.

use super::args::{Item as Number, Nothing};
use super::{
    Answer, Context, Refusal, Tool, Who, acting, confirm, data, origin, reading, refuse, room,
    writing,
};
use crate::llm::tools::ToolCaller;
use crate::model::agent::Role;
use crate::model::ids::{AgentName, ItemId};
use crate::model::item::{Item, Kind, QaMode};
use crate::model::stage::{MoveTo, Stage, StageEvent};
use crate::store::{Tx, agents as sessions, gate_runs, log};
use crate::work::{self, ItemChange, NewItem};
use futures_util::future::BoxFuture;
use rusqlite::Connection;
use schemars::JsonSchema;
use serde::Deserialize;
use std::fmt::Write as _;
use std::sync::Arc;

/// How many rows of each history `item_show` tells.
const HISTORY: usize = 8;

pub fn tools() -> Vec<Tool> {
    vec![
        reading(
            "items_list",
            Who::Planners,
            "The board: every open item with its number, stage, agent and what it waits for.",
            items_list,
        ),
        reading(
            "item_show",
            Who::Everybody,
            "One item with its text, stage, history, gates' last results and agents' reports.",
            item_show,
        ),
        reading(
            "why",
            Who::Planners,
            "Why an item stands where it stands, and what it waits for.",
            why,
        ),
        writing(
            "item_create",
            Who::Planners,
            "Files a work item into the backlog. Does not start it: item_start does. A lead's is a child of the item that it leads.",
            item_create,
        ),
        writing(
            "item_update",
            Who::Coordinator,
            "Changes an item's name, text, dependencies, epic, agent, QA or priority. What is left out stays.",
            item_update,
        ),
        writing(
            "item_move",
            Who::Coordinator,
            "Moves an item: block, unblock, freeze, unfreeze, approve, reject, abandon, supersede, or to a column. Starting is item_start, stopping item_stop.",
            item_move,
        ),
        writing(
            "item_start",
            Who::Planners,
            "Starts an item: an agent codes it, the gates check it, and what passes is merged, all by itself. Also starts a blocked or failed item again. A lead starts its own child items.",
            item_start,
        )
        .after(ready_to_start),
        acting(
            "item_stop",
            Who::Coordinator,
            "Stops an item: its agents are ended and it stays where it is until it is started again.",
            item_stop,
        ),
        reading(
            "merge_status",
            Who::Coordinator,
            "The merge queue: what is queued or being merged, and what failed.",
            merge_status,
        ),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ItemsList {
    /// Only this project; without it, this room's project, or all.
    project: Option<String>,
    /// All projects.
    #[serde(default)]
    all: bool,
}

fn items_list(
    context: &Context,
    conn: &Connection,
    caller: &ToolCaller,
    args: ItemsList,
) -> Answer {
    let project = match (&args.project, caller) {
        (None, _) if args.all => None,
        (None, ToolCaller::Coordinator { project: None, .. }) => None,
        (named, _) => Some(context.project(caller, named.as_deref())?.name),
    };
    let items = work::board(conn, project.as_ref())?;
    if items.is_empty() {
        return Ok("The board is empty.".to_owned());
    }
    let lines: Vec<String> = items.iter().map(line).collect();
    Ok(lines.join("\n"))
}

/// An item in a line.
pub fn line(item: &Item) -> String {
    let mut text = format!(
        "#{} {} \"{}\" [{}] {}",
        item.id,
        item.kind.as_str(),
        item.name,
        item.project,
        stage(&item.stage)
    );
    if let Some(parent) = item.parent {
        let _ = write!(text, ", child of #{parent}");
    }
    if let Some(agent) = &item.agent {
        let _ = write!(text, ", pinned to {agent}");
    }
    if !item.depends_on.is_empty() {
        let _ = write!(text, ", depends on {}", numbers(&item.depends_on));
    }
    if item.priority != 0 {
        let _ = write!(text, ", priority {}", item.priority);
    }
    if let Some(epic) = item.epic {
        let _ = write!(text, ", part of epic #{epic}");
    }
    if item.cost_microusd > 0 {
        let _ = write!(text, ", {:.2} USD", item.cost_microusd as f64 / 1e6);
    }
    let _ = write!(text, ", version {}", item.version);
    text
}

fn numbers(ids: &[ItemId]) -> String {
    ids.iter().map(|id| format!("#{id}")).collect::<Vec<_>>().join(", ")
}

/// A stage with what matters of it.
fn stage(stage: &Stage) -> String {
    let name = stage.name();
    match stage {
        Stage::Coding { claim: Some(agent), .. } | Stage::Qa { claim: Some(agent), .. } => {
            format!("{name} by {agent}")
        }
        Stage::Coding { claim: None, .. } | Stage::Qa { claim: None, .. } => {
            format!("{name}, waits for a free agent")
        }
        Stage::Blocked { reason, .. } => format!("{name}: {reason}"),
        Stage::ReviewHold { reason, .. }
        | Stage::Abandoned { reason }
        | Stage::Rejected { reason } => {
            format!("{name}: {reason}")
        }
        Stage::MergeFailure { kind, .. } | Stage::MergeFailureFinal { kind, .. } => {
            format!("{name} ({})", kind.name())
        }
        Stage::Done { commit, .. } => {
            format!("{name}, commit {}", commit.get(..10).unwrap_or(commit))
        }
        Stage::Superseded { by } => format!("{name} by #{by}"),
        Stage::Upcoming
        | Stage::Backlog
        | Stage::Merge { .. }
        | Stage::Archived { .. }
        | Stage::Frozen { .. } => name.to_owned(),
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OneItem {
    /// The item's number.
    item: Number,
}

fn item_show(_: &Context, conn: &Connection, _: &ToolCaller, args: OneItem) -> Answer {
    let id = args.item.0;
    let item = work::find(conn, id)?;
    let mut text =
        format!("{}\nQA: {}. Filed by {}.\n", line(&item), item.qa.as_str(), item.origin.id);
    if item.kind == Kind::Epic {
        let progress = work::progress(conn, id)?;
        let _ = writeln!(text, "Its items: {}.", work::progress_in_words(&progress));
        for child in work::children_in_words(conn, id)? {
            let _ = writeln!(text, "- {child}");
        }
    }
    if !item.body.trim().is_empty() {
        let _ = writeln!(text, "Text:\n{}", data(&item.body));
    }
    let moves = log::transitions_of(conn, id)?;
    if !moves.is_empty() {
        let _ = writeln!(text, "History:");
    }
    for moved in moves.iter().skip(moves.len().saturating_sub(HISTORY)) {
        let at = moved.at.format("%d %b %H:%M");
        let _ =
            writeln!(text, "- {at} to {}: {} ({})", moved.to.name(), moved.cause, moved.origin.id);
    }
    for run in gate_runs::newest_of(conn, id, HISTORY)?.iter().rev() {
        let outcome = if run.passed { "passed" } else { "failed" };
        let _ = writeln!(text, "Gate `{}` {outcome} ({})", run.gate, run.at.format("%d %b %H:%M"));
        if !run.passed {
            let _ = writeln!(text, "{}", data(tail(&run.output, 2000)));
        }
    }
    for report in sessions::reports_of_item(conn, id)?.iter().rev().take(HISTORY).rev() {
        let _ = writeln!(
            text,
            "Report of {} ({}):\n{}",
            report.agent,
            report.kind.as_str(),
            data(tail(&report.summary, 2000))
        );
    }
    Ok(text)
}

/// The last `most` bytes of a text, at a character's boundary.
pub fn tail(text: &str, most: usize) -> &str {
    &text[text.ceil_char_boundary(text.len().saturating_sub(most))..]
}

fn why(context: &Context, conn: &Connection, _: &ToolCaller, args: OneItem) -> Answer {
    let services = &context.services;
    Ok(work::why(conn, &services.config, services.store.clock().now(), args.item.0)?)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ItemCreate {
    /// One line that says what is wanted.
    name: String,
    /// What sort of work; story when left out.
    kind: Option<Kind>,
    /// Markdown: what is wrong or wanted, how to see it, when it is done. Enough for an agent
    /// that knows nothing of this conversation.
    #[serde(default)]
    body: String,
    /// The project; this room's when left out.
    project: Option<String>,
    /// Items that must be finished first.
    #[serde(default)]
    depends_on: Vec<Number>,
    /// The epic it is part of.
    epic: Option<Number>,
    /// The only agent that may work on it; any when left out.
    agent: Option<String>,
    /// Who decides that the work is good; the project's default when left out.
    qa: Option<QaMode>,
}

fn item_create(context: &Context, tx: &Tx<'_>, caller: &ToolCaller, args: ItemCreate) -> Answer {
    let agent = args.agent.map(|name| context.agent(&name)).transpose()?;
    let pinned = agent.as_ref().and_then(|agent| context.role_of(agent));
    let new = NewItem {
        project: context.project(caller, args.project.as_deref())?.name,
        kind: args.kind.unwrap_or(Kind::Story),
        name: args.name,
        body: args.body,
        depends_on: args.depends_on.into_iter().map(|number| number.0).collect(),
        epic: args.epic.map(|number| number.0),
        parent: None,
        agent: agent.clone(),
        qa: args.qa,
        origin: origin(caller, tx),
        room: room(caller),
    };
    let item = match caller {
        ToolCaller::Coordinator { .. } => work::create(tx, new)?,
        ToolCaller::Agent { agent, item, .. } => work::file_child(tx, agent, *item, new, pinned)?,
    };
    if let Some(agent) = &agent {
        work::check_pin(&context.services.config, agent, &item)?;
    }
    Ok(format!("Filed: {}. item_start starts it.", line(&item)))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ItemUpdate {
    /// The item's number.
    item: Number,
    /// A new name.
    name: Option<String>,
    /// A new text; replaces the old one.
    body: Option<String>,
    /// All items that must be finished first; replaces the old list.
    depends_on: Option<Vec<Number>>,
    /// The epic it is part of; 0 takes it out.
    epic: Option<i64>,
    /// The only agent that may work on it; an empty text lets any.
    agent: Option<String>,
    /// Who decides that the work is good.
    qa: Option<QaMode>,
    /// Order of starting and merging: higher first, 0 is usual.
    priority: Option<i64>,
    /// The version that you have seen: refused when the item was changed since.
    version: Option<i64>,
}

fn item_update(context: &Context, tx: &Tx<'_>, caller: &ToolCaller, args: ItemUpdate) -> Answer {
    let agent = match args.agent.as_deref() {
        None => None,
        Some("") => Some(None),
        Some(name) => {
            let agent = context.agent(name)?;
            let item = work::find(tx, args.item.0)?;
            work::check_pin(&context.services.config, &agent, &item)?;
            Some(Some(agent))
        }
    };
    let change = ItemChange {
        name: args.name,
        body: args.body,
        depends_on: args.depends_on.map(|list| list.into_iter().map(|number| number.0).collect()),
        epic: args.epic.map(|epic| (epic != 0).then_some(ItemId(epic))),
        agent,
        qa: args.qa,
        priority: args.priority,
        room: None,
    };
    let item = work::update(tx, args.item.0, args.version, change, &origin(caller, tx))?;
    Ok(format!("Changed: {}", line(&item)))
}

/// What to do with an item.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum MoveAction {
    /// Stop it until a person clears what `reason` says.
    Block,
    /// Clear what blocks it.
    Unblock,
    /// Put it on ice.
    Freeze,
    /// Take it off the ice.
    Unfreeze,
    /// A person approves the work.
    Approve,
    /// A person turns the work down, with `reason`.
    Reject,
    /// Give it up, with `reason`.
    Abandon,
    /// End it, because the item `by` replaces it.
    Supersede,
    /// To the backlog.
    Backlog,
    /// To the column of what comes later.
    Upcoming,
    /// To a QA agent.
    Qa,
    /// To a person's review.
    ReviewHold,
    /// Into the merge queue.
    Merge,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ItemMove {
    /// The item's number.
    item: Number,
    /// What to do.
    action: MoveAction,
    /// Why, in a sentence; needed for block, reject and abandon.
    #[serde(default)]
    reason: String,
    /// The item that replaces it; needed for supersede.
    by: Option<Number>,
    /// The version that you have seen: refused when the item was changed since.
    version: Option<i64>,
}

fn item_move(_: &Context, tx: &Tx<'_>, caller: &ToolCaller, args: ItemMove) -> Answer {
    let id = args.item.0;
    let reason = args.reason.trim().to_owned();
    let needs_reason =
        matches!(args.action, MoveAction::Block | MoveAction::Reject | MoveAction::Abandon);
    if needs_reason && reason.is_empty() {
        return refuse("Give `reason`: why, in a sentence.");
    }
    work::expect_version(tx, id, args.version)?;
    let number = id.to_string();
    let demand = |what: &str, verbs: &[&str]| -> Result<(), Refusal> {
        confirm::demand(tx, caller, &format!("{what} #{id}"), &[verbs, &[&number]])
    };
    let event = match args.action {
        MoveAction::Block => StageEvent::Blocked { reason: reason.clone() },
        MoveAction::Unblock => StageEvent::Unblocked,
        MoveAction::Freeze => StageEvent::Frozen,
        MoveAction::Unfreeze => StageEvent::Unfrozen,
        MoveAction::Approve => {
            demand(
                "approve the work on",
                &["approve", "approved", "lgtm", "genehmige", "approuve"],
            )?;
            StageEvent::Approved
        }
        MoveAction::Reject => {
            demand("reject the work on", &["reject", "rejected", "lehne", "ablehnen", "rejette"])?;
            StageEvent::Rejected { reason: reason.clone() }
        }
        MoveAction::Abandon => {
            let verbs =
                ["abandon", "drop", "delete", "remove", "cancel", "verwirf", "lösche", "give up"];
            demand("abandon", &verbs)?;
            StageEvent::Abandoned { reason: reason.clone() }
        }
        MoveAction::Supersede => {
            let Some(by) = args.by.map(|number| number.0) else {
                return refuse("Give `by`: the item that replaces it.");
            };
            let verbs =
                ["supersede", "replace", "replaces", "superseded", "replaced", "drop", "ersetzt"];
            demand("supersede", &verbs)?;
            StageEvent::Superseded { by }
        }
        MoveAction::Merge => {
            demand("put into the merge queue", &["merge", "land", "ship"])?;
            StageEvent::Moved { to: MoveTo::Merge }
        }
        MoveAction::Backlog => StageEvent::Moved { to: MoveTo::Backlog },
        MoveAction::Upcoming => StageEvent::Moved { to: MoveTo::Upcoming },
        MoveAction::Qa => StageEvent::Moved { to: MoveTo::Qa },
        MoveAction::ReviewHold => StageEvent::Moved { to: MoveTo::ReviewHold },
    };
    let origin = origin(caller, tx);
    let cause = if reason.is_empty() { format!("moved by {}", origin.id) } else { reason };
    let item = work::apply(tx, id, &event, &origin, &cause)?;
    Ok(format!("Now: {}", line(&item)))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ItemStart {
    /// The item's number.
    item: Number,
    /// The agent that shall do it; a free one when left out.
    agent: Option<String>,
    /// The version that you have seen: refused when the item was changed since.
    version: Option<i64>,
}

/// Refuses to start what could not even begin.
fn ready_to_start(
    context: Arc<Context>,
    arguments: &serde_json::Value,
) -> BoxFuture<'static, Result<(), Refusal>> {
    // What is wrong with the arguments the tool itself says.
    let item = arguments.get("item").and_then(|item| serde_json::from_value(item.clone()).ok());
    Box::pin(async move {
        let Some(Number(item)) = item else { return Ok(()) };
        Ok(work::ready(&context.services.store, item).await?)
    })
}

fn item_start(context: &Context, tx: &Tx<'_>, caller: &ToolCaller, args: ItemStart) -> Answer {
    work::expect_version(tx, args.item.0, args.version)?;
    let agent = args.agent.map(|name| context.agent(&name)).transpose()?;
    if let Some(agent) = &agent {
        let item = work::find(tx, args.item.0)?;
        work::check_pin(&context.services.config, agent, &item)?;
    }
    let by = origin(caller, tx);
    let item = match caller {
        ToolCaller::Coordinator { .. } => work::start(tx, args.item.0, agent.as_ref(), &by)?,
        ToolCaller::Agent { agent: lead, item: led, .. } => {
            let agent = agent.as_ref();
            let agent = agent.and_then(|agent| Some((agent, context.role_of(agent)?)));
            work::start_child(tx, lead, *led, args.item.0, agent, &by)?
        }
    };
    Ok(format!("Started: {}. The room hears how it goes on.", line(&item)))
}

async fn item_stop(context: Arc<Context>, caller: ToolCaller, args: OneItem) -> Answer {
    let id = args.item.0;
    // Durable first: whatever dies now, nobody starts it again.
    let stop = move |tx: &Tx<'_>| {
        let origin = origin(&caller, tx);
        Ok::<_, Refusal>((work::stop(tx, id, &origin)?, origin.id))
    };
    let (item, who) = context.services.store.write(stop).await?;
    let report = context.services.agents.stop_item(id, &format!("stopped by {who}")).await?;
    if !report.survivors.is_empty() {
        let pids: Vec<String> = report.survivors.iter().map(ToString::to_string).collect();
        return refuse(format!(
            "#{id} is blocked now, but processes of its agent cannot be killed: {}. Tell the person.",
            pids.join(", ")
        ));
    }
    let agent = report.agent.map(|agent| format!(" {agent} was ended.")).unwrap_or_default();
    Ok(format!("Stopped: {}.{agent}", line(&item)))
}

fn merge_status(context: &Context, conn: &Connection, _: &ToolCaller, _: Nothing) -> Answer {
    let now = context.services.store.clock().millis();
    let mut lines = Vec::new();
    for project in context.services.projects.list() {
        for row in crate::store::merge_queue::list(conn, &project.name, now)? {
            let state = if row.landing.is_some() { "landing now" } else { "queued" };
            let error = row.waits.map(|why| format!(", waits: {why}")).unwrap_or_default();
            lines.push(format!(
                "#{} [{}] {state}, priority {}{error}",
                row.item, row.project, row.priority
            ));
        }
    }
    for item in work::board(conn, None)? {
        if matches!(item.stage, Stage::MergeFailure { .. } | Stage::MergeFailureFinal { .. }) {
            lines.push(line(&item));
        }
    }
    Ok(if lines.is_empty() { "The merge queue is empty.".to_owned() } else { lines.join("\n") })
}

impl Context {
    /// The role of a configured agent.
    fn role_of(&self, agent: &AgentName) -> Option<Role> {
        self.services.directory.role_of(agent.as_str())
    }

    /// A configured agent.
    pub(super) fn agent(&self, name: &str) -> Result<AgentName, Refusal> {
        let agents = &self.services.config.agents;
        match agents.iter().find(|agent| agent.name.as_str() == name) {
            Some(agent) => Ok(agent.name.clone()),
            None => {
                let names: Vec<&str> = agents.iter().map(|agent| agent.name.as_str()).collect();
                refuse(format!("There is no agent `{name}`. There are: {}.", names.join(", ")))
            }
        }
    }
}
