//! `git` and `unreleased`: how a project's repository stands, and what its base branch holds that
//! was not released.

use super::CommandError;
use super::board::names;
use super::context::{Context, one_line, refused};
use crate::project::Project;
use crate::project::git::Landed;
use crate::store::items;
use std::fmt::Write;

/// How many commits `git` shows.
const COMMITS: usize = 5;

/// How many commits `unreleased` reads, and how many lines it shows of each sort.
const READ: usize = 500;
const SHOWN: usize = 30;

/// How long a commit's first line may be.
const SUBJECT_CHARS: usize = 80;

/// The projects that a command is about: the room's, or all.
async fn projects(context: &Context) -> Result<Vec<Project>, CommandError> {
    let here = context.clone();
    let read = context.services.store.read(move |conn| here.find_project(conn));
    let projects = match read.await? {
        Some(project) => vec![project],
        None => context.services.projects.list(),
    };
    if projects.is_empty() {
        let here = context.clone();
        // Says what to do.
        context.services.store.read(move |conn| here.project(conn)).await?;
    }
    Ok(projects)
}

/// `git`
pub async fn git(context: &Context) -> Result<String, CommandError> {
    let mut sections = vec![];
    for project in projects(context).await? {
        sections.push(stands(&project).await?);
    }
    Ok(sections.join("\n\n"))
}

async fn stands(project: &Project) -> Result<String, CommandError> {
    let git = project.git();
    let base = &project.base;
    let mut out = format!("**{}** in `{}`\n", project.name, project.path.display());
    let dirty: Vec<String> =
        git.changed_files(true).await?.into_iter().map(|file| file.path).collect();
    let on = match git.head_branch().await? {
        Some(branch) => format!("on `{branch}`"),
        None => "on no branch".to_owned(),
    };
    let _ = match dirty.len() {
        0 => writeln!(out, "- your checkout is {on}, clean"),
        1 => writeln!(out, "- your checkout is {on}, 1 file changed: {}", names(&dirty)),
        count => writeln!(out, "- your checkout is {on}, {count} files changed: {}", names(&dirty)),
    };
    if !git.branch_exists(base).await? {
        let _ = write!(
            out,
            "- the base branch `{base}` is missing: correct the project's `base` and restart"
        );
        return Ok(out);
    }
    let _ = match git.upstream_of(base).await? {
        None => writeln!(out, "- `{base}` follows no remote branch"),
        Some(upstream) => match git.ahead_behind(&project.base_ref(), &upstream).await? {
            Some((0, 0)) => writeln!(out, "- `{base}` is level with `{upstream}`"),
            Some((ahead, behind)) => {
                writeln!(out, "- `{base}` is {ahead} ahead of and {behind} behind `{upstream}`")
            }
            None => writeln!(out, "- `{base}` follows `{upstream}`, which was never fetched"),
        },
    };
    let items = git.refs_under("refs/heads/item/").await?.len();
    let rescued = git.refs_under("refs/rescue/").await?.len();
    if items > 0 {
        let _ = writeln!(out, "- branches of items: {items}");
    }
    if rescued > 0 {
        let _ = writeln!(out, "- saved under `refs/rescue`: {rescued}");
    }
    let _ = writeln!(out, "\nLast on `{base}`:");
    for commit in git.landed(None, &project.base_ref(), COMMITS).await? {
        let _ = writeln!(out, "- {}", line(&commit));
    }
    Ok(out.trim_end().to_owned())
}

fn line(commit: &Landed) -> String {
    let subject = one_line(&commit.subject, SUBJECT_CHARS);
    format!("`{}` {subject} ({})", commit.short, commit.day)
}

/// `unreleased`
pub async fn unreleased(context: &Context) -> Result<String, CommandError> {
    let mut sections = vec![];
    for project in projects(context).await? {
        sections.push(waiting(context, &project).await?);
    }
    Ok(sections.join("\n\n"))
}

async fn waiting(context: &Context, project: &Project) -> Result<String, CommandError> {
    let git = project.git();
    let (name, base) = (&project.name, &project.base);
    if !git.branch_exists(base).await? {
        return refused(format!(
            "The base branch `{base}` of {name} is missing: create it, or correct the project's \
             `base` and restart."
        ));
    }
    let tag = git.newest_tag(&project.base_ref()).await?;
    let landed = git.landed(tag.as_deref(), &project.base_ref(), READ).await?;
    let since = match &tag {
        Some(tag) => format!("since `{tag}`"),
        None => "and nothing was ever released (there is no tag)".to_owned(),
    };
    if landed.is_empty() {
        return Ok(format!("**{name}**: nothing new on `{base}` {since}."));
    }
    let (by_item, others): (Vec<&Landed>, Vec<&Landed>) =
        landed.iter().partition(|commit| commit.item.is_some());
    let more = if landed.len() == READ { " or more" } else { "" };
    let mut out = format!("**{name}**: {}{more} on `{base}` {since}.\n", landed.len());
    if !by_item.is_empty() {
        out.push_str("\nItems:\n");
        for commit in by_item.iter().take(SHOWN) {
            let _ = writeln!(out, "- {}", item_line(context, commit).await?);
        }
        rest(&mut out, by_item.len());
    }
    if !others.is_empty() {
        out.push_str("\nOther commits:\n");
        for commit in others.iter().take(SHOWN) {
            let _ = writeln!(out, "- {}", line(commit));
        }
        rest(&mut out, others.len());
    }
    Ok(out.trim_end().to_owned())
}

fn rest(out: &mut String, count: usize) {
    if count > SHOWN {
        let _ = writeln!(out, "- … and {} more", count - SHOWN);
    }
}

/// A commit as its item, if the board knows it (its name may have been changed since).
async fn item_line(context: &Context, commit: &Landed) -> Result<String, CommandError> {
    let Some(id) = commit.item else { return Ok(line(commit)) };
    let found = context.services.store.read(move |conn| items::find(conn, id)).await?;
    Ok(match found {
        Some(item) => format!(
            "#{id} {} {} `{}` ({})",
            item.kind.as_str(),
            one_line(&item.name, SUBJECT_CHARS),
            commit.short,
            commit.day
        ),
        None => line(commit),
    })
}
