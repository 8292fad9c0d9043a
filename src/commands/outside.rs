//! The commands that wait for something outside: agents, git, builds. Safe to repeat.

use super::command::{NewProjectArgs, StatusOf, StopOf};
use super::context::{Context, fenced, refused, sentence};
use super::execute::{answer, post};
use super::{Command, CommandError, board, checks, project, repo, see, triage, worktrees};
use crate::doctor;
use crate::model::chat::Outgoing;
use crate::model::ids::ItemId;
use crate::model::stage::Stage;
use crate::project::bootstrap::{self, BootstrapError, NewProject};
use crate::services::Services;
use crate::store::{StoreError, agents as sessions, inbox, meta, outbox, rooms};
use crate::upgrade::{self, Asked, UpgradeError};
use crate::work;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// Carries out a command that waits for something outside.
pub async fn run(context: &Context, command: Command) -> Result<(), CommandError> {
    #[allow(clippy::wildcard_enum_match_arm, reason = "the lane decides which come here")]
    let text = match command {
        Command::Status(StatusOf::Here) => board::board(context, false).await?,
        Command::Status(StatusOf::All) => board::board(context, true).await?,
        Command::Status(StatusOf::Item(item)) => triage::status(context, item).await?,
        Command::Agents => see::agents(context).await?,
        Command::Replay { item, lines } => see::replay(context, item, lines).await?,
        Command::Git => repo::git(context).await?,
        Command::Unreleased => repo::unreleased(context).await?,
        Command::RunTests { item } => checks::run_tests(context, item).await?,
        Command::Worktrees => worktrees::list(context).await?,
        Command::WorktreesClean { confirmed: false } => {
            format!("Nothing is removed yet.\n\n{}", worktrees::list(context).await?)
        }
        Command::WorktreesClean { confirmed: true } => worktrees::clean(context).await?,
        Command::Diff(item) => triage::diff(context, item).await?,
        Command::Doctor => {
            let Services { config, store, .. } = &context.services;
            fenced(&doctor::text(&doctor::run(config, Some(store), false).await))
        }
        Command::Stop(StopOf::Item(item)) => stop_item(context, item).await?,
        Command::Stop(StopOf::All) => stop_all(context).await?,
        Command::Delete { item, confirmed: false } => about_to_delete(context, item).await?,
        Command::Delete { item, confirmed: true } => return delete(context, item).await,
        Command::NewProject(args) => return new_project(context, args).await,
        Command::Project { name, action } => project::run(context, &name, action).await?,
        Command::Rebuild { pull, now } => return rebuild(context, pull, now).await,
        other => return Err(anyhow::anyhow!("{other:?} is not an outside command").into()),
    };
    Ok(answer(context, text).await?)
}

/// `stop N`: first the item, so that nobody is started in its place, then its agents.
async fn stop_item(context: &Context, id: ItemId) -> Result<String, CommandError> {
    let runs = context.services.runs.stop_item(id);
    match stop_work(context, id).await {
        Ok(said) if runs.is_empty() => Ok(said),
        Ok(said) => Ok(format!("{said} Also stopped {}.", runs.join(", "))),
        // Nobody was at work: what was stopped are the gates that somebody ran by hand.
        Err(CommandError::Refused(_)) if !runs.is_empty() => {
            Ok(format!("Stopped {}.", runs.join(", ")))
        }
        Err(error) => Err(error),
    }
}

async fn stop_work(context: &Context, id: ItemId) -> Result<String, CommandError> {
    let here = context.clone();
    let write = context.services.store.write(move |tx| {
        let item = here.item(tx, id)?;
        // Blocked already when this is a repeat after a crash.
        if !matches!(item.stage, Stage::Blocked { .. }) {
            work::stop(tx, id, &here.origin_in(tx)?)?;
        }
        Ok::<_, CommandError>(item.name)
    });
    let name = write.await?;
    let ended = stop_agents(context, id).await?;
    Ok(format!("Stopped #{id} {name}: {ended}. `unblock {id}` goes on."))
}

/// Ends the agents of an item that was taken from them.
pub async fn end_agents(context: &Context, item: ItemId) {
    let read = context.services.store.read(move |conn| {
        let live = sessions::live_session_of(conn, item)?;
        let stage = crate::store::items::find(conn, item)?.map(|item| item.stage);
        Ok::<_, StoreError>(live.is_some() && stage.is_none_or(|stage| stage.claim().is_none()))
    });
    let outcome = match read.await {
        Ok(true) => stop_agents(context, item).await.map(drop),
        Ok(false) => Ok(()),
        Err(error) => Err(error.into()),
    };
    if let Err(error) = outcome {
        // The loops of `work` end what works on an item that wants nobody.
        tracing::error!(%item, error = format!("{error:#}"), "cannot end an item's agents");
    }
}

/// Ends an item's agents, and says what that was.
async fn stop_agents(context: &Context, item: ItemId) -> Result<String, CommandError> {
    let why = format!("stopped by {}", context.caller.person);
    let report = context.services.agents.stop_item(item, &why).await?;
    Ok(match (report.agent, report.was_running, report.survivors.len()) {
        (None, _, _) => "nobody was at work on it".to_owned(),
        (Some(agent), true, 0) => format!("{agent} was at work, and is ended with its processes"),
        (Some(agent), false, 0) => format!("{agent} was between two turns, and is ended"),
        (Some(agent), _, left) => format!(
            "{agent} is ended, but {left} of its processes could not be: end them by hand (the log \
             has their numbers)"
        ),
    })
}

/// `stop all`: the emergency stop. The dispatcher has ended the answers already.
async fn stop_all(context: &Context) -> Result<String, CommandError> {
    let who = context.caller.person.0.clone();
    let write = context.services.store.write(move |tx| meta::set(tx, meta::STOPPED_ALL, &who));
    write.await?;
    context.services.runs.stop_all();
    let why = format!("everything was stopped by {}", context.caller.person);
    let stopped = context.services.agents.stop_all(&why).await?;
    let agents: Vec<String> = stopped
        .iter()
        .filter_map(|(item, report)| Some(format!("{} on #{item}", report.agent.as_ref()?)))
        .collect();
    let agents = if agents.is_empty() {
        "No agent was at work".to_owned()
    } else {
        format!("Ended {}", agents.join(", "))
    };
    Ok(format!(
        "**Everything is stopped.** {agents}. Nothing starts until `resume all`, also after a \
         restart."
    ))
}

/// `delete N` without `--confirm`
async fn about_to_delete(context: &Context, id: ItemId) -> Result<String, CommandError> {
    let here = context.clone();
    let item = context.services.store.read(move |conn| here.item(conn, id)).await?;
    Ok(format!(
        "This would remove #{id} {} for good, with its text and its worktree, and end its agents. \
         `delete {id} --confirm` does it.",
        item.name
    ))
}

/// `delete N --confirm`: what would be refused is refused before anybody is stopped.
async fn delete(context: &Context, id: ItemId) -> Result<(), CommandError> {
    let here = context.clone();
    let check = context.services.store.read(move |conn| {
        // Gone already when this is a repeat after a crash.
        if inbox::is_open(conn, &here.caller.key)? {
            work::may_be_deleted(conn, id)?;
        }
        Ok::<_, CommandError>(())
    });
    check.await?;
    let why = format!("stopped by {}", context.caller.person);
    let report = context.services.agents.stop_item(id, &why).await?;
    if let (Some(agent), false) = (report.agent, report.survivors.is_empty()) {
        return refused(format!(
            "Item {id} is not deleted: processes of {agent}, which worked on it, could not be \
             ended ({:?}). End them by hand, then repeat.",
            report.survivors
        ));
    }
    let here = context.clone();
    let write = context.services.store.write(move |tx| {
        if inbox::is_open(tx, &here.caller.key)? {
            let name = here.item(tx, id)?.name;
            work::delete(tx, id, &here.origin_in(tx)?)?;
            post(tx, &here.caller, format!("Deleted #{id} {name}."))?;
        }
        Ok(())
    });
    write.await
}

/// `new project NAME …`
async fn new_project(context: &Context, args: NewProjectArgs) -> Result<(), CommandError> {
    let Context { services, caller, .. } = context;
    let name = args.name.clone();
    let new = NewProject {
        name: args.name,
        stack: args.stack,
        git_url: args.git,
        path: args.path.map(PathBuf::from),
        host_only: args.host_only,
        room: None,
    };
    let (tell, mut told) = tokio::sync::mpsc::channel::<String>(16);
    let progress = move |line: String| {
        // Progress that nobody has time for is no loss.
        let _ = tell.try_send(line);
    };
    let show = async {
        let shown = AtomicU32::new(0);
        while let Some(line) = told.recv().await {
            let number = shown.fetch_add(1, Ordering::Relaxed);
            let notice = Outgoing::notice(caller.session.clone(), line);
            let dedup = format!("progress:{}:{number}", caller.key);
            let write = services.store.write(move |tx| outbox::enqueue(tx, &notice, Some(&dedup)));
            if let Err(error) = write.await {
                tracing::warn!(%error, "cannot show progress");
            }
        }
    };
    let surroundings = services.surroundings();
    let make = bootstrap::create(&services.projects, &surroundings, new, progress);
    let (made, ()) = tokio::join!(make, show);
    let created = match made {
        Ok(created) => created,
        Err(BootstrapError::Store(error)) => return Err(error.into()),
        Err(error) => return refused(sentence(&error.to_string())),
    };
    let mut text = format!(
        "**{name}** is ready at `{}`.\n\n- stack: {}\n- gates: {}\n",
        created.project.path.display(),
        created.stack.as_deref().unwrap_or("none recognised"),
        if created.project.gates.is_empty() {
            "none: what agents commit there is merged unchecked, unless an item wants a person \
             (`qa N human`)"
                .to_owned()
        } else {
            let gates: Vec<String> =
                created.project.gates.iter().map(|gate| format!("`{gate}`")).collect();
            gates.join(", ")
        }
    );
    if !created.other_stacks.is_empty() {
        text.push_str(&format!("- also has files of: {}\n", created.other_stacks.join(", ")));
    }
    let prefix = &services.config.chat.prefix;
    text.push_str(&format!(
        "\nThis room is about it now. `{prefix}story NAME` files the first item."
    ));
    let (caller, project) = (caller.clone(), created.project.name);
    let write = services.store.write(move |tx| {
        if inbox::is_open(tx, &caller.key)? {
            rooms::set_project(tx, &caller.session.room, Some(&project))?;
            post(tx, &caller, text)?;
        }
        Ok::<_, CommandError>(())
    });
    write.await
}

/// `rebuild [--pull] [--now]`
async fn rebuild(context: &Context, pull: bool, now: bool) -> Result<(), CommandError> {
    let Context { services, caller, .. } = context;
    let asked = Asked { session: caller.session.clone(), key: caller.key.0.clone(), pull };
    let built = match services.upgrade.rebuild(&asked).await {
        Ok(built) => built,
        Err(UpgradeError::Store(error)) => return Err(error.into()),
        Err(error) => return refused(sentence(&error.to_string())),
    };
    let wait = if now { "now" } else { "as soon as running answers are finished" };
    let mut text =
        format!("Built musher **{}**; it replaces {} {wait}.", built.version, upgrade::version());
    if let Some(why) = &built.not_installed {
        text.push_str(&format!(
            " It could not take the place of the old file ({why}), so the next start of the \
             machine brings the old version back."
        ));
    }
    let (caller, noted) = (caller.clone(), built.clone());
    let write = services.store.write(move |tx| {
        upgrade::note(tx, &caller.session, &noted)?;
        post(tx, &caller, text)
    });
    write.await?;
    services.upgrade.request(&built, now);
    Ok(())
}
