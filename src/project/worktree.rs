//! Worktrees of work items: made, checked, repaired, and removed without losing work.
//!
//! **Forces.** A kill can come between any two steps. Agents may leave a worktree in any state:
//! on another branch, dirty, with stashes, with its `.git` file gone. A worktree that is reused
//! must not silently be on old code or on the wrong branch, and one that is removed must not take
//! work with it.
//!
//! **Properties.** Paths and branch names are built from the item's number (and, for the branch, an
//! ASCII slug); an item whose name changes keeps its branch. [`ensure`] may be repeated after a
//! kill at any step: a half-made worktree is finished, and the set-up commands run once, until they
//! have succeeded, which a file beside the worktree says. [`remove`] first saves what no branch
//! holds under `refs/rescue/ITEM/TIME`; when that fails, the worktree stays.
//!
//! **Known races.** Two calls for one item at the same moment: git lets one win and the other gets
//! an error; the caller (one agent an item) makes that rare. A process that writes while a worktree
//! is removed: stop the agents first.

use super::git::{Git, GitError, Identity, RefUpdate};
use super::registry::Project;
use super::shell::{self, End, ShellCommand};
use crate::model::ids::ItemId;
use crate::store::merge_pulls::Landed;
use chrono::Utc;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long one set-up command may take.
pub const SETUP_TIMEOUT: Duration = Duration::from_secs(1800);

/// How many lines of a failed set-up command are shown.
const SETUP_LINES: usize = 30;

/// Longest slug in a branch's name.
const SLUG_MAX: usize = 40;

/// Who makes the commits that rescue refs point at.
const RESCUER: &str = "Musher <musher@localhost>";

/// An item's worktree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worktree {
    /// Where it is.
    pub path: PathBuf,
    /// Its branch, such as `item/12-add-a-calculator`.
    pub branch: String,
    /// Whether it was made just now.
    pub created: bool,
    /// How many commits the base branch is ahead of it.
    pub behind: u64,
}

/// What was done with a worktree that had to go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removed {
    /// Refs that now hold what no branch held.
    pub rescued: Vec<String>,
    /// The branch, when it was kept because the base does not hold all of it.
    pub branch_kept: Option<String>,
}

/// Why there is no usable worktree, or why it was not removed.
#[derive(Debug, thiserror::Error)]
pub enum WorktreeError {
    /// Git failed.
    #[error(transparent)]
    Git(#[from] GitError),
    /// The base branch is missing.
    #[error(
        "the base branch `{base}` is missing: create it, or correct the project's `base` and \
             restart"
    )]
    BaseMissing {
        /// The base branch.
        base: String,
    },
    /// It stands on something else than its branch, with work in it.
    #[error(
        "the worktree {} stands on {found} instead of `{expected}` and has uncommitted work: \
         commit or discard it there, then `git switch {expected}`", path.display()
    )]
    WrongBranch {
        /// Where it is.
        path: PathBuf,
        /// The branch it should be on.
        expected: String,
        /// What it is on.
        found: String,
    },
    /// The branch is checked out somewhere else.
    #[error(
        "the branch `{branch}` is checked out at {}: switch that checkout to another branch",
        path.display()
    )]
    BranchElsewhere {
        /// The branch.
        branch: String,
        /// Where.
        path: PathBuf,
    },
    /// A set-up command failed.
    #[error("the set-up command `{command}` {how}; its last lines:\n{tail}")]
    SetupFailed {
        /// The command.
        command: String,
        /// How it ended.
        how: String,
        /// Its last lines.
        tail: String,
    },
    /// The program of a set-up command is not there.
    #[error(
        "the set-up command `{command}` cannot run: `{program}` is not installed: install it, or \
         correct the project's `setup` and restart"
    )]
    SetupMissing {
        /// The command.
        command: String,
        /// Its program.
        program: String,
    },
    /// Work could not be saved, so nothing was removed.
    #[error("the worktree {} is kept, because its work cannot be saved: {why}", path.display())]
    CannotRescue {
        /// Where it is.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// It was cancelled.
    #[error("preparing the worktree was cancelled")]
    Cancelled,
    /// The machine failed.
    #[error("cannot prepare {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Where an item's worktree is, or would be.
pub fn path_of(project: &Project, item: ItemId, data_dir: &Path) -> PathBuf {
    data_dir.join("worktrees").join(project.name.as_str()).join(item.to_string())
}

/// The branch of a new item: its number and what is left of its name in plain letters.
pub fn branch_of(item: ItemId, name: &str) -> String {
    let mut slug = String::new();
    for letter in name.chars() {
        if letter.is_ascii_alphanumeric() {
            slug.push(letter.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
        if slug.len() >= SLUG_MAX {
            break;
        }
    }
    let slug = slug.trim_end_matches('-');
    format!("item/{item}-{}", if slug.is_empty() { "work" } else { slug })
}

/// The branch that an item has, if it has one.
pub async fn find_branch(git: &Git, item: ItemId) -> Result<Option<String>, GitError> {
    let names = git.refs_under(&format!("refs/heads/item/{item}-")).await?;
    Ok(names.first().and_then(|name| name.strip_prefix("refs/heads/")).map(str::to_owned))
}

/// Has the item's worktree ready: makes it, finishes it, or checks the one that is there.
///
/// `name` is the item's name; it only matters when the branch is made. Safe to repeat.
pub async fn ensure(
    project: &Project,
    item: ItemId,
    name: &str,
    data_dir: &Path,
    cancel: &CancellationToken,
) -> Result<Worktree, WorktreeError> {
    let git = project.git();
    let place = Place::of(project, item, data_dir);
    let base = git.branch_tip(&project.base).await?;
    let base = base.ok_or_else(|| WorktreeError::BaseMissing { base: project.base.clone() })?;
    let branch = find_branch(&git, item).await?.unwrap_or_else(|| branch_of(item, name));
    let usable = place.is_worktree_of(&git).await?;
    if usable {
        place.check_branch(&git, item, &branch, &base).await?;
    } else {
        place.clear_away(&git).await?;
        make_branch(&git, &branch, &base, &place).await?;
        place.make_parent()?;
        git.worktree_add(&place.path, &branch).await?;
    }
    if !place.ready.exists() {
        setup(&project.setup, &place.path, cancel).await?;
        let io = |source| WorktreeError::Io { path: place.ready.clone(), source };
        std::fs::write(&place.ready, &branch).map_err(io)?;
    }
    let behind = Git::at(&place.path).commits_ahead("HEAD", &project.base_ref()).await?;
    Ok(Worktree { path: place.path, branch, created: !usable, behind })
}

/// Runs set-up commands in a worktree, in order; the first that fails ends it.
pub async fn setup(
    commands: &[String],
    cwd: &Path,
    cancel: &CancellationToken,
) -> Result<(), WorktreeError> {
    for command in commands {
        let shell = ShellCommand { command, cwd, limit: SETUP_TIMEOUT, env: &[], cancel };
        let io = |source| WorktreeError::Io { path: cwd.to_owned(), source };
        let ran = shell::run(shell).await.map_err(io)?;
        let how = match ran.end {
            End::Exited(0) => continue,
            End::Exited(127) if let Some(program) = shell::missing_program(command) => {
                return Err(WorktreeError::SetupMissing { command: command.clone(), program });
            }
            End::Cancelled => return Err(WorktreeError::Cancelled),
            End::Exited(code) => format!("failed with exit {code}"),
            End::Signalled(_) => "was killed by a signal".to_owned(),
            End::TimedOut => format!("took longer than {} s", SETUP_TIMEOUT.as_secs()),
        };
        let tail = last_lines(&ran.output, SETUP_LINES);
        return Err(WorktreeError::SetupFailed { command: command.clone(), how, tail });
    }
    Ok(())
}

/// The last `count` lines of a text.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

async fn make_branch(
    git: &Git,
    branch: &str,
    base: &str,
    place: &Place,
) -> Result<(), WorktreeError> {
    let full = format!("refs/heads/{branch}");
    if git.branch_exists(branch).await? {
        let mut listed = git.worktrees().await?.into_iter();
        return match listed.find(|listed| listed.branch.as_deref() == Some(full.as_str())) {
            Some(listed) if listed.path != place.path && listed.path.exists() => {
                let branch = branch.to_owned();
                Err(WorktreeError::BranchElsewhere { branch, path: listed.path })
            }
            Some(_) | None => Ok(()),
        };
    }
    git.update_ref(&full, base, None, "musher: new item").await?;
    Ok(())
}

/// Where things of one worktree are.
struct Place {
    path: PathBuf,
    /// Says that the set-up commands have run; holds the branch's name.
    ready: PathBuf,
}

impl Place {
    fn of(project: &Project, item: ItemId, data_dir: &Path) -> Self {
        let path = path_of(project, item, data_dir);
        // Git records worktrees by their real paths.
        let path = match path.parent().and_then(|parent| parent.canonicalize().ok()) {
            Some(parent) => parent.join(item.to_string()),
            None => path,
        };
        Self { ready: path.with_extension("ready"), path }
    }

    fn make_parent(&self) -> Result<(), WorktreeError> {
        let parent = self.path.parent().unwrap_or(&self.path);
        let io = |source| WorktreeError::Io { path: parent.to_owned(), source };
        std::fs::create_dir_all(parent).map_err(io)
    }

    /// Whether it is a finished worktree of this repository (and not, say, a half-made one, or a
    /// repository that an agent put in its place).
    async fn is_worktree_of(&self, git: &Git) -> Result<bool, GitError> {
        let here = Git::at(&self.path);
        if !self.path.join(".git").exists() || !here.is_repo().await? {
            return Ok(false);
        }
        if here.common_dir().await? != git.common_dir().await? {
            return Ok(false);
        }
        // Git locks a worktree while it makes it, and leaves the lock behind when it is killed.
        let lock = here.git_dir().await?.join("locked");
        let reason = std::fs::read_to_string(lock).unwrap_or_default();
        Ok(self.ready.exists() || reason.trim() != "initializing")
    }

    /// Puts what lies in the way aside (never deletes what an agent may have made), and has git
    /// forget a worktree that is not there any more.
    async fn clear_away(&self, git: &Git) -> Result<(), WorktreeError> {
        let io = |source| WorktreeError::Io { path: self.path.clone(), source };
        if self.ready.exists() && self.path.exists() {
            let time = Utc::now().format("%Y%m%dT%H%M%S%3fZ");
            let aside = self.path.with_extension(format!("broken-{time}"));
            tracing::warn!(path = %aside.display(), "a broken worktree was put aside");
            std::fs::rename(&self.path, aside).map_err(io)?;
        }
        if self.ready.exists() {
            std::fs::remove_file(&self.ready).map_err(io)?;
        }
        git.worktree_remove(&self.path).await?;
        Ok(())
    }

    /// Has a worktree that is there stand on its branch, and on today's base if it holds nothing of
    /// its own yet.
    async fn check_branch(
        &self,
        git: &Git,
        item: ItemId,
        branch: &str,
        base: &str,
    ) -> Result<(), WorktreeError> {
        let here = Git::at(&self.path);
        let head = here.head_branch().await?;
        if head.as_deref() != Some(branch) {
            let found = head.map_or("no branch".to_owned(), |found| format!("`{found}`"));
            if here.is_dirty().await? {
                let (path, expected) = (self.path.clone(), branch.to_owned());
                return Err(WorktreeError::WrongBranch { path, expected, found });
            }
            rescue(&here, item).await?;
            if !git.branch_exists(branch).await? {
                git.update_ref(&format!("refs/heads/{branch}"), base, None, "musher").await?;
            }
            here.switch(branch).await?;
        }
        let own = here.commits_ahead(base, "HEAD").await?;
        if own == 0 && !here.is_dirty().await? {
            here.fast_forward(base).await?;
        }
        Ok(())
    }
}

/// Removes an item's worktree, and its branch when the base holds all that it changed: `landed`
/// says what of it was merged, if it was. What no branch holds is saved first; when that fails,
/// everything stays. Safe to repeat.
pub async fn remove(
    project: &Project,
    item: ItemId,
    data_dir: &Path,
    landed: Option<&Landed>,
) -> Result<Removed, WorktreeError> {
    let git = project.git();
    let place = Place::of(project, item, data_dir);
    let mut removed = Removed::default();
    if place.path.exists() {
        if place.is_worktree_of(&git).await? {
            removed.rescued = rescue(&Git::at(&place.path), item).await?;
        } else if place.ready.exists() {
            // It was in use and is broken: it cannot be asked what it holds.
            let why = "it is no working worktree any more; look into it and delete it by hand";
            let (path, why) = (place.path.clone(), why.to_owned());
            return Err(WorktreeError::CannotRescue { path, why });
        }
    }
    git.worktree_remove(&place.path).await?;
    match std::fs::remove_file(&place.ready) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            return Err(WorktreeError::Io { path: place.ready, source });
        }
        Ok(()) | Err(_) => {}
    }
    if let Some(branch) = find_branch(&git, item).await?
        && !drop_branch(&git, &branch, project, landed).await?
    {
        removed.branch_kept = Some(branch);
    }
    Ok(removed)
}

/// Deletes a branch that the base holds: its tip was merged, or merging it would change nothing.
/// Says whether it did.
async fn drop_branch(
    git: &Git,
    branch: &str,
    project: &Project,
    landed: Option<&Landed>,
) -> Result<bool, GitError> {
    let (Some(tip), Some(base)) =
        (git.branch_tip(branch).await?, git.branch_tip(&project.base).await?)
    else {
        return Ok(false);
    };
    // What was merged is held also when the base has changed the same lines again since.
    let merged = match landed {
        // Either commit may be gone from the repository: then it says nothing.
        Some(landed) => {
            matches!(git.is_ancestor(&tip, &landed.commit).await, Ok(true))
                && matches!(git.is_ancestor(&landed.landed, &base).await, Ok(true))
        }
        None => false,
    };
    let held = merged
        || match git.merge_tree(&base, &tip).await {
            Ok(super::git::MergeTree::Clean(tree)) => tree == git.tree_of(&base).await?,
            Ok(super::git::MergeTree::Conflict(_)) | Err(_) => false,
        };
    if held {
        git.delete_ref(&format!("refs/heads/{branch}"), &tip).await?;
    }
    Ok(held)
}

/// Saves what no branch of a worktree holds (uncommitted and new files, commits on a detached HEAD,
/// stashes made on its branch) under `refs/rescue/ITEM/TIME`. Returns the refs; none when there is
/// nothing to save. Changes neither files nor index; saving the same thing again makes no new ref.
pub async fn rescue(here: &Git, item: ItemId) -> Result<Vec<String>, WorktreeError> {
    let fail = |why: String| WorktreeError::CannotRescue { path: here.dir().to_owned(), why };
    let mut found: Vec<(String, &str)> = Vec::new();
    let branch = here.head_branch().await?;
    let head = here.find_commit("HEAD").await?;
    if here.is_dirty().await? {
        let commit = commit_of_files(here, head.as_deref(), item).await.map_err(fail)?;
        found.push((commit, ""));
    } else if let (None, Some(head)) = (&branch, head)
        && !here.is_on_a_branch(&head).await?
    {
        found.push((head, ""));
    }
    if let Some(branch) = &branch {
        let marks = [format!("WIP on {branch}:"), format!("On {branch}:")];
        for (commit, subject) in here.stashes().await? {
            if marks.iter().any(|mark| subject.starts_with(mark)) {
                found.push((commit, "-stash"));
            }
        }
    }
    let time = Utc::now().format("%Y%m%dT%H%M%S%3fZ");
    let known = here.refs_under(&format!("refs/rescue/{item}/")).await?;
    let mut refs = Vec::new();
    for (number, (commit, suffix)) in found.into_iter().enumerate() {
        if let Some(same) = same_rescue(here, &known, &commit).await? {
            refs.push(same);
            continue;
        }
        let number = if number == 0 { String::new() } else { format!("-{number}") };
        let name = format!("refs/rescue/{item}/{time}{suffix}{number}");
        match here.update_ref(&name, &commit, None, "musher: rescue").await? {
            RefUpdate::Moved => refs.push(name),
            RefUpdate::Lost => return Err(fail(format!("{name} already exists"))),
        }
    }
    Ok(refs)
}

/// A ref among `known` that holds the same files on the same parents as `commit`.
async fn same_rescue(
    git: &Git,
    known: &[String],
    commit: &str,
) -> Result<Option<String>, GitError> {
    let (tree, parents) = (git.tree_of(commit).await?, git.parents_of(commit).await?);
    for name in known {
        if git.tree_of(name).await? == tree && git.parents_of(name).await? == parents {
            return Ok(Some(name.clone()));
        }
    }
    Ok(None)
}

/// Makes a commit of all files as they lie there; the error says why that is not possible.
async fn commit_of_files(here: &Git, head: Option<&str>, item: ItemId) -> Result<String, String> {
    let words = |error: GitError| error.to_string();
    let index = here.git_dir().await.map_err(words)?.join("musher-rescue-index");
    let _ = std::fs::remove_file(&index);
    let tree = here.tree_of_files(&index).await;
    let _ = std::fs::remove_file(&index);
    let tree = tree.map_err(words)?;
    let nested = here.nested_repositories(&tree).await.map_err(words)?;
    let before = match head {
        Some(head) => here.nested_repositories(head).await.map_err(words)?,
        None => Vec::new(),
    };
    if let Some(path) = nested.into_iter().find(|path| !before.contains(path)) {
        return Err(format!("`{path}` in it is a git repository of its own; move it elsewhere"));
    }
    let message = format!("Uncommitted work on item {item}\n");
    let parents: Vec<&str> = head.into_iter().collect();
    let author = Identity::parse(RESCUER);
    here.commit_tree(&tree, &parents, &message, &author).await.map_err(words)
}
