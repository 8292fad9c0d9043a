//! Tools about projects and their repositories.

use super::args::{Item as Number, Nothing};
use super::{Answer, Context, Refusal, Tool, Who, acting, confirm, data, reading, refuse, writing};
use crate::llm::tools::ToolCaller;
use crate::merge::gates;
use crate::model::ids::PersonId;
use crate::project::bootstrap::{self, NewProject};
use crate::project::worktree;
use crate::store::{Tx, rooms};
use crate::work;
use rusqlite::Connection;
use schemars::JsonSchema;
use serde::Deserialize;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How many lines `repo_read` shows unless asked, and at most.
const LINES: usize = 200;
const LINES_MAX: usize = 800;
/// How many hits `repo_search` shows.
const HITS_MAX: usize = 60;

pub fn tools() -> Vec<Tool> {
    vec![
        reading(
            "project_list",
            Who::Coordinator,
            "The projects, with path, base branch and gates.",
            project_list,
        ),
        writing(
            "project_switch",
            Who::Coordinator,
            "Chooses the project that this room works on.",
            project_switch,
        ),
        acting(
            "project_create",
            Who::Coordinator,
            "Makes a project: a new git repository, or a clone. Only when an administrator asked for it.",
            project_create,
        ),
        acting(
            "repo_search",
            Who::Coordinator,
            "Searches the base branch of a project for a regular expression.",
            repo_search,
        ),
        acting(
            "repo_read",
            Who::Coordinator,
            "Reads a file of a project's base branch, or lists a folder.",
            repo_read,
        ),
        acting(
            "gates_run",
            Who::Coordinator,
            "Runs the project's gates in an item's worktree and shows what they say. Changes nothing on the board.",
            gates_run,
        ),
    ]
}

fn project_list(context: &Context, _: &Connection, caller: &ToolCaller, _: Nothing) -> Answer {
    let current = match caller {
        ToolCaller::Coordinator { project, .. } => project.as_ref(),
        ToolCaller::Agent { project, .. } => Some(project),
    };
    let mut text = String::new();
    for project in context.services.projects.list() {
        let here = if current == Some(&project.name) { " (this room's)" } else { "" };
        let paused = if project.paused { ", paused" } else { "" };
        let gates =
            if project.gates.is_empty() { "none".to_owned() } else { project.gates.join("; ") };
        let _ = writeln!(
            text,
            "{}{here}: {}, base {}, gates: {gates}{paused}",
            project.name,
            project.path.display(),
            project.base
        );
    }
    Ok(if text.is_empty() { context.project_names() } else { text })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ProjectSwitch {
    /// The project's name.
    project: String,
}

fn project_switch(
    context: &Context,
    tx: &Tx<'_>,
    caller: &ToolCaller,
    args: ProjectSwitch,
) -> Answer {
    let ToolCaller::Coordinator { session, .. } = caller else {
        return refuse("Agents stay in their project.");
    };
    let project = context.project(caller, Some(&args.project))?;
    rooms::set_project(tx, &session.room, Some(&project.name))?;
    Ok(format!("This room works on {} now.", project.name))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ProjectCreate {
    /// Its name: lower-case letters, digits and dashes.
    name: String,
    /// What to clone; a new repository when left out.
    git_url: Option<String>,
    /// Its stack, such as rust or node; recognised by its files when left out.
    stack: Option<String>,
}

/// Who speaks through the caller; nobody speaks through an agent.
fn people(caller: &ToolCaller) -> &[PersonId] {
    match caller {
        ToolCaller::Coordinator { people, .. } => people,
        ToolCaller::Agent { .. } => &[],
    }
}

async fn project_create(context: Arc<Context>, caller: ToolCaller, args: ProjectCreate) -> Answer {
    let config = &context.services.config;
    if !people(&caller).iter().any(|person| config.is_admin(person)) {
        return refuse(
            "Not done: only an administrator may have a project made, and none of those who spoke \
             is one. Tell them so: `admin_users` in `musher.toml` names the \
             administrators, and takes a restart.",
        );
    }
    let (name, asker) = (args.name.clone(), caller.clone());
    let what = match &args.git_url {
        Some(url) => format!("create the project {name} from {url}"),
        None => format!("create the project {name}"),
    };
    let demand = move |tx: &Tx<'_>| {
        let verbs = [
            "create", "new", "make", "clone", "set up", "setup", "add", "start", "neues",
            "erstelle", "crée", "nouveau",
        ];
        confirm::demand(tx, &asker, &what, &[&verbs, &[name.as_str()]])
    };
    context.services.store.write(demand).await?;
    let surroundings = context.services.surroundings();
    let new = NewProject {
        name: args.name,
        stack: args.stack,
        git_url: args.git_url,
        path: None,
        host_only: true,
        room: None,
    };
    let created = bootstrap::create(&context.services.projects, &surroundings, new, |_| {}).await?;
    let project = created.project;
    if let ToolCaller::Coordinator { session, .. } = &caller {
        let (room, name) = (session.room.clone(), project.name.clone());
        let switch = move |tx: &Tx<'_>| rooms::set_project(tx, &room, Some(&name));
        context.services.store.write(switch).await?;
    }
    let stack = created.stack.unwrap_or_else(|| "not recognised".to_owned());
    let gates = if project.gates.is_empty() { "none".to_owned() } else { project.gates.join("; ") };
    Ok(format!(
        "Created {} in {} (base {}, stack {stack}, gates: {gates}). This room works on it now.",
        project.name,
        project.path.display(),
        project.base
    ))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RepoSearch {
    /// An extended regular expression.
    pattern: String,
    /// Only below this path.
    path: Option<String>,
    /// The project; this room's when left out.
    project: Option<String>,
    /// Upper and lower case are the same.
    #[serde(default)]
    ignore_case: bool,
}

async fn repo_search(context: Arc<Context>, caller: ToolCaller, args: RepoSearch) -> Answer {
    let project = context.project(&caller, args.project.as_deref())?;
    if args.pattern.is_empty() {
        return refuse("Give `pattern`.");
    }
    let path = args.path.as_deref();
    let hits =
        project.git().grep(&project.base_ref(), &args.pattern, path, args.ignore_case).await?;
    let lines: Vec<&str> = hits.lines().collect();
    if lines.is_empty() {
        return Ok(format!("Nothing in {} ({}) fits.", project.name, project.base));
    }
    let shown = lines[..lines.len().min(HITS_MAX)].join("\n");
    let more = lines.len().saturating_sub(HITS_MAX);
    let more = if more == 0 { String::new() } else { format!("\n{more} more: narrow the search.") };
    Ok(format!("{}{more}", data(&shown)))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RepoRead {
    /// The file or folder, from the repository's root; empty lists the root.
    #[serde(default)]
    path: String,
    /// The first line; 1 when left out.
    from_line: Option<usize>,
    /// How many lines; 200 when left out.
    lines: Option<usize>,
    /// The project; this room's when left out.
    project: Option<String>,
}

async fn repo_read(context: Arc<Context>, caller: ToolCaller, args: RepoRead) -> Answer {
    let project = context.project(&caller, args.project.as_deref())?;
    let path = args.path.trim().trim_matches('/');
    let text = project.git().show_path(&project.base_ref(), path).await?;
    let from = args.from_line.unwrap_or(1).max(1);
    let count = args.lines.unwrap_or(LINES).clamp(1, LINES_MAX);
    let total = text.lines().count();
    let shown: Vec<&str> = text.lines().skip(from - 1).take(count).collect();
    let last = from - 1 + shown.len();
    let place = if path.is_empty() { "the root folder" } else { path };
    Ok(format!("{place}, lines {from} to {last} of {total}:\n{}", data(&shown.join("\n"))))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GatesRun {
    /// The item in whose worktree they run.
    item: Number,
}

async fn gates_run(context: Arc<Context>, caller: ToolCaller, args: GatesRun) -> Answer {
    let id = args.item.0;
    let item = context
        .services
        .store
        .read(move |conn| work::find(conn, id).map_err(Refusal::from))
        .await?;
    let project = context.project(&caller, Some(item.project.as_str()))?;
    let place = worktree::path_of(&project, id, context.services.store.data_dir());
    if !place.is_dir() {
        return refuse(format!("#{id} has no worktree yet: it was never started."));
    }
    if project.gates.is_empty() {
        return refuse(format!("The project {} has no gates.", project.name));
    }
    let limit = Duration::from_secs(context.services.config.merge.gate_timeout_s);
    // Dropping the future, as a stop does, kills the gate that runs.
    let cancel = CancellationToken::new();
    let report = gates::run(&project.gates, &place, limit, &[], &cancel, &|_| {}).await;
    Ok(match report.failure() {
        Some(run) => format!("{}\n{}", run.in_words(), data(&run.tail())),
        None => report.summary(),
    })
}
