//! `worktrees` and `worktrees clean --confirm`: what lies under the data directory for no item that
//! is open, and its removal. Nothing is lost: what no branch holds is saved first, and what cannot
//! be saved stays.

use super::CommandError;
use super::context::{Context, one_line};
use crate::model::ids::ItemId;
use crate::model::stage::Stage;
use crate::project::Project;
use crate::project::git::Git;
use crate::project::worktree;
use crate::store::merge_pulls::{self, Landed};
use crate::store::{StoreError, agents as sessions, items};
use std::fmt::Write;
use std::path::PathBuf;

/// How long an item's name may be here.
const NAME_CHARS: usize = 50;

/// What lies in a project's folder of worktrees.
#[derive(Debug, Default)]
struct Found {
    /// How many belong to open items.
    in_use: usize,
    /// Those of rejected items, which are kept to be looked into.
    kept: Vec<Orphan>,
    /// Those that nobody needs.
    orphans: Vec<Orphan>,
    /// What is no worktree of an item's.
    others: Vec<PathBuf>,
}

/// A worktree without an open item.
#[derive(Debug, Clone)]
struct Orphan {
    item: ItemId,
    /// Its item in words.
    what: String,
    /// Whether an agent is still being ended there.
    busy: bool,
    /// What of it is on the base branch.
    landed: Option<Landed>,
}

/// `worktrees`: a dry run.
pub async fn list(context: &Context) -> Result<String, CommandError> {
    let mut out = String::new();
    let mut orphans = 0;
    for project in context.services.projects.list() {
        let found = look(context, &project).await?;
        orphans += found.orphans.len();
        let _ = writeln!(out, "**{}**: {} in use", project.name, found.in_use);
        for orphan in &found.orphans {
            let dirty = uncommitted(context, &project, orphan.item).await;
            let _ = writeln!(out, "- {}: nobody needs it{dirty}", orphan.what);
        }
        for orphan in &found.kept {
            let _ = writeln!(out, "- {}: kept to be looked into", orphan.what);
        }
        for other in &found.others {
            let _ = writeln!(out, "- `{}`: not an item's; look into it", other.display());
        }
        out.push('\n');
    }
    if out.is_empty() {
        // Says what to do.
        let here = context.clone();
        context.services.store.read(move |conn| here.project(conn)).await?;
    }
    out.push_str(match orphans {
        0 => "There is nothing to clean up.",
        _ => {
            "`worktrees clean --confirm` removes those that nobody needs. What no branch holds is \
             saved under `refs/rescue` first."
        }
    });
    Ok(out)
}

async fn uncommitted(context: &Context, project: &Project, item: ItemId) -> String {
    let path = worktree::path_of(project, item, context.services.store.data_dir());
    match Git::at(path).changed_files(true).await {
        Ok(files) if files.is_empty() => String::new(),
        Ok(files) => format!(", {} uncommitted", files.len()),
        Err(_) => ", cannot be read".to_owned(),
    }
}

/// `worktrees clean --confirm`
pub async fn clean(context: &Context) -> Result<String, CommandError> {
    let mut out = String::new();
    let (mut removed, mut stayed) = (0, 0);
    for project in context.services.projects.list() {
        for orphan in look(context, &project).await?.orphans {
            let what = &orphan.what;
            if orphan.busy {
                stayed += 1;
                let _ = writeln!(out, "- {what} stays: its agent is still being ended");
                continue;
            }
            let data_dir = context.services.store.data_dir();
            let landed = orphan.landed.as_ref();
            match worktree::remove(&project, orphan.item, data_dir, landed).await {
                Ok(done) => {
                    removed += 1;
                    let _ = write!(out, "- {what} is removed");
                    if !done.rescued.is_empty() {
                        let _ =
                            write!(out, "; its work is saved as `{}`", done.rescued.join("`, `"));
                    }
                    if let Some(branch) = done.branch_kept {
                        let _ = write!(
                            out,
                            "; its branch `{branch}` stays, the base has not all of it"
                        );
                    }
                    out.push('\n');
                }
                Err(error) => {
                    stayed += 1;
                    let _ = writeln!(out, "- {what} stays: {error}");
                }
            }
        }
    }
    if removed + stayed == 0 {
        return Ok("There is nothing to clean up.".to_owned());
    }
    let stays = if stayed > 0 { format!(", {stayed} stayed") } else { String::new() };
    Ok(format!("Removed {removed}{stays}.\n\n{}", out.trim_end()))
}

/// Looks at a project's folder of worktrees.
async fn look(context: &Context, project: &Project) -> Result<Found, CommandError> {
    let data_dir = context.services.store.data_dir();
    let folder = worktree::path_of(project, ItemId(0), data_dir);
    let folder = folder.parent().map(PathBuf::from).unwrap_or(folder);
    let mut found = Found::default();
    let mut ids: Vec<ItemId> = vec![];
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if !path.is_dir() {
            continue;
        }
        match entry.file_name().to_string_lossy().parse::<i64>() {
            Ok(id) if id > 0 => ids.push(ItemId(id)),
            Ok(_) | Err(_) => found.others.push(path),
        }
    }
    ids.sort_unstable();
    found.others.sort();
    let name = project.name.clone();
    let read = context.services.store.read(move |conn| {
        for id in ids {
            let item = items::find(conn, id)?.filter(|item| item.project == name);
            let busy = sessions::live_session_of(conn, id)?.is_some();
            let landed = merge_pulls::landed(conn, id)?;
            let orphan = |what: String| Orphan { item: id, what, busy, landed };
            let Some(item) = item else {
                found.orphans.push(orphan(format!("#{id} (deleted)")));
                continue;
            };
            let stage = item.stage.name().replace('_', " ");
            let what = format!("#{id} {} ({stage})", one_line(&item.name, NAME_CHARS));
            if matches!(item.stage, Stage::Rejected { .. }) {
                found.kept.push(orphan(what));
            } else if item.stage.is_terminal() {
                found.orphans.push(orphan(what));
            } else {
                found.in_use += 1;
            }
        }
        Ok::<_, StoreError>(found)
    });
    Ok(read.await?)
}
