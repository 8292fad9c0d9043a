//! `project info|stop|start|remove NAME`.

use super::CommandError;
use super::command::ProjectAction;
use super::context::{Context, refused};
use crate::model::ids::{ItemId, ProjectName};
use crate::project::Project;
use crate::store::projects::Source;
use crate::store::{StoreError, agents as sessions, items, projects};
use crate::work;
use std::fmt::Write;

/// How many open items a refusal names.
const NAMED: usize = 10;

/// Carries out one of them.
pub async fn run(
    context: &Context,
    name: &ProjectName,
    action: ProjectAction,
) -> Result<String, CommandError> {
    // Removed already when this is a repeat after a crash.
    let repeated = action == (ProjectAction::Remove { confirmed: true });
    let project = match context.named_project(name) {
        Ok(project) => project,
        Err(_gone) if repeated && !is_known(context, name).await? => {
            return Ok(format!("There is no project {name} (any more)."));
        }
        Err(error) => return Err(error),
    };
    match action {
        ProjectAction::Info => info(context, &project).await,
        ProjectAction::Stop => stop(context, &project).await,
        ProjectAction::Start => start(context, &project).await,
        ProjectAction::Remove { confirmed } => remove(context, &project, confirmed).await,
    }
}

async fn is_known(context: &Context, name: &ProjectName) -> Result<bool, StoreError> {
    let name = name.clone();
    context.services.store.read(move |conn| Ok(projects::find(conn, &name)?.is_some())).await
}

async fn info(context: &Context, project: &Project) -> Result<String, CommandError> {
    let name = project.name.clone();
    let read = context.services.store.read(move |conn| {
        let open = work::board(conn, Some(&name))?;
        let open = open.iter().filter(|item| !item.stage.is_terminal()).count();
        Ok::<_, CommandError>((open, projects::find(conn, &name)?.map(|row| row.source)))
    });
    let (open, source) = read.await?;
    let list = |commands: &[String]| match commands {
        [] => "none".to_owned(),
        some => some.iter().map(|one| format!("`{one}`")).collect::<Vec<_>>().join(", "),
    };
    let Project { path, base, gates, setup, room, .. } = project;
    let mut out =
        format!("**{}**{}\n\n", project.name, if project.paused { ", stopped" } else { "" });
    let _ = writeln!(out, "- files: `{}`, base `{base}`", path.display());
    let _ = writeln!(out, "- gates: {}", list(gates));
    if !setup.is_empty() {
        let _ = writeln!(out, "- set-up: {}", list(setup));
    }
    if let Some(room) = room {
        let _ = writeln!(out, "- room: {room}");
    }
    let _ = writeln!(out, "- open items: {open}");
    let agents: Vec<&str> = context
        .services
        .config
        .agents
        .iter()
        .filter(|agent| agent.projects.is_empty() || agent.projects.contains(&project.name))
        .map(|agent| agent.name.as_str())
        .collect();
    let agents = if agents.is_empty() { "none".to_owned() } else { agents.join(", ") };
    let _ = writeln!(out, "- agents: {agents}");
    let _ = writeln!(
        out,
        "- isolation: none of its own; agents, gates and set-up run on the host as Musher does"
    );
    let origin = match source {
        Some(Source::Chat) => "made in the chat",
        Some(Source::Config) | None => "named in the configuration",
    };
    let _ = write!(out, "- {origin}");
    match project.ready().await {
        Ok(()) => {}
        Err(error) => {
            let _ = write!(out, "\n- ⚠️ {error}");
        }
    }
    Ok(out)
}

/// First the mark, so that nobody is started in their place, then the agents.
async fn stop(context: &Context, project: &Project) -> Result<String, CommandError> {
    let services = &context.services;
    services.projects.set_paused(&project.name, true).await?;
    let name = project.name.clone();
    let read = services.store.read(move |conn| {
        let mut here: Vec<ItemId> = Vec::new();
        for session in sessions::live_sessions(conn)? {
            if items::find(conn, session.item)?.is_some_and(|item| item.project == name) {
                here.push(session.item);
            }
        }
        Ok::<_, StoreError>(here)
    });
    let why = format!("project {} was stopped by {}", project.name, context.caller.person);
    let mut ended = Vec::new();
    for item in read.await? {
        let report = services.agents.stop_item(item, &why).await?;
        if let Some(agent) = report.agent {
            ended.push(format!("{agent} on #{item}"));
        }
    }
    let ended = match ended.as_slice() {
        [] => "No agent was at work in it".to_owned(),
        some => format!("Ended {}", some.join(", ")),
    };
    Ok(format!(
        "**{0}** is stopped. {ended}. Nothing starts or is merged in it until `project start {0}`, \
         also after a restart.",
        project.name
    ))
}

async fn start(context: &Context, project: &Project) -> Result<String, CommandError> {
    context.services.projects.set_paused(&project.name, false).await?;
    Ok(if project.paused {
        format!("**{}** goes on: what was interrupted is taken up again.", project.name)
    } else {
        format!("**{}** was not stopped.", project.name)
    })
}

async fn remove(
    context: &Context,
    project: &Project,
    confirmed: bool,
) -> Result<String, CommandError> {
    let name = project.name.clone();
    let read = context.services.store.read(move |conn| {
        let source = projects::find(conn, &name)?.map(|row| row.source);
        let board = work::board(conn, Some(&name))?;
        let open: Vec<String> = board
            .iter()
            .filter(|item| !item.stage.is_terminal())
            .map(|item| format!("#{}", item.id))
            .collect();
        Ok::<_, CommandError>((source, open))
    });
    let (source, open) = read.await?;
    if source != Some(Source::Chat) {
        return refused(format!(
            "{0} stands in the configuration: take its `[[projects]]` out of `musher.toml` and \
             restart. `project stop {0}` has it rest.",
            project.name
        ));
    }
    if !open.is_empty() {
        return refused(format!(
            "{} has open items ({}{}): finish them first, or give them up with `abandon N \
             WHY`.",
            project.name,
            open[..open.len().min(NAMED)].join(", "),
            if open.len() > NAMED { ", …" } else { "" }
        ));
    }
    if !confirmed {
        return Ok(format!(
            "This would take {0} out of the list of projects. Its files in `{1}` stay. \
             `project remove {0} --confirm` does it.",
            project.name,
            project.path.display()
        ));
    }
    context.services.projects.remove(&project.name).await?;
    Ok(format!("Removed {}. Its files are still in `{}`.", project.name, project.path.display()))
}
