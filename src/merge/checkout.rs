//! The person's checkouts, when the base branch moves under them.
//!
//! A checkout that stands on the base branch and is clean is taken along. One with changes is left
//! alone, to the byte; the room is told, because its files are then older than its branch and a
//! commit made there would take the merge back. What such a checkout stands at is remembered in
//! `meta`, and as soon as its files are clean again they are brought up to date ([`heal`]).

use crate::project::Project;
use crate::project::git::{Git, GitError};
use crate::store::merge_queue::{self, Landing};
use crate::store::{Store, StoreError, meta};
use std::path::{Path, PathBuf};

/// What a git directory holds while a merge, rebase or the like is under way.
const UNDER_WAY: &[&str] = &[
    "MERGE_HEAD",
    "CHERRY_PICK_HEAD",
    "REVERT_HEAD",
    "BISECT_LOG",
    "rebase-merge",
    "rebase-apply",
    "index.lock",
];

/// Why a checkout with changes is left alone.
const IN_THE_WAY: &str = "it has uncommitted changes or new files in the way";

/// Checkouts on the base branch, before it moves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checkouts {
    /// Those whose files can be taken along.
    pub clean: Vec<PathBuf>,
    /// Those that must be left alone.
    pub dirty: Vec<PathBuf>,
}

/// Looks at the checkouts that stand on the project's base branch, which stands at `old` and is to
/// move to `new`.
pub async fn look(
    store: &Store,
    project: &Project,
    old: &str,
    new: &str,
) -> Result<Checkouts, CheckoutError> {
    let mut checkouts = Checkouts::default();
    let base = project.base_ref();
    for listed in project.git().worktrees().await? {
        if listed.branch.as_deref() != Some(base.as_str()) || !listed.path.is_dir() {
            continue;
        }
        let git = Git::at(&listed.path);
        let stale = stale(store, &listed.path).await?.is_some();
        if !stale && can_advance(&git, old, new).await? {
            checkouts.clean.push(listed.path);
        } else {
            checkouts.dirty.push(listed.path);
        }
    }
    Ok(checkouts)
}

/// Whether a checkout's files are exactly those of `old` and nothing stands in the way of `new`.
async fn can_advance(git: &Git, old: &str, new: &str) -> Result<bool, GitError> {
    let dir = git.git_dir().await?;
    if UNDER_WAY.iter().any(|name| dir.join(name).exists()) {
        return Ok(false);
    }
    Ok(git.files_are_at(old).await? && git.advance_files(old, new, true).await.is_ok())
}

/// Remembers that all checkouts on the base branch are at `commit`, from which it is about to move:
/// [`heal`] then brings those up to date that are clean. Safe to repeat.
pub async fn note_all(store: &Store, project: &Project, commit: &str) -> Result<(), CheckoutError> {
    let base = project.base_ref();
    for listed in project.git().worktrees().await? {
        if listed.branch.as_deref() == Some(base.as_str()) && listed.path.is_dir() {
            remember(store, &listed.path, commit).await?;
        }
    }
    Ok(())
}

/// What the room should be told of checkouts that are behind the base branch, which stands at
/// `commit` now.
pub async fn left_of(
    store: &Store,
    project: &Project,
    commit: &str,
) -> Result<Vec<String>, CheckoutError> {
    let mut notes = Vec::new();
    for listed in project.git().worktrees().await? {
        if let Some(at) = stale(store, &listed.path).await? {
            notes.push(left_behind(&listed.path, &at, commit, IN_THE_WAY));
        }
    }
    Ok(notes)
}

/// Takes the clean checkouts along after the base has moved, and remembers the others. Safe to
/// repeat. Returns what the room should be told.
pub async fn follow(store: &Store, landing: &Landing) -> Result<Vec<String>, CheckoutError> {
    let mut notes = Vec::new();
    for path in &landing.clean {
        let git = Git::at(path);
        if let Err(error) = git.advance_files(&landing.base, landing.tip(), false).await {
            let at = remember(store, path, &landing.base).await?;
            notes.push(left_behind(path, &at, landing.tip(), &format!("git said: {error}")));
        }
    }
    for path in &landing.dirty {
        let at = remember(store, path, &landing.base).await?;
        notes.push(left_behind(path, &at, landing.tip(), IN_THE_WAY));
    }
    Ok(notes)
}

fn left_behind(path: &Path, at: &str, new: &str, why: &str) -> String {
    let short = |id: &str| id.chars().take(10).collect::<String>();
    let (path, old, new) = (path.display(), short(at), short(new));
    format!(
        "The checkout {path} was left as it is, because {why}. Its files are older than its branch \
         now, so **do not commit there** before it is up to date: `git -C {path} read-tree -m -u \
         {old} {new}` does that and keeps your changes. Once its changes are gone, Musher does it \
         by itself."
    )
}

/// What is remembered of a checkout that was left behind.
fn key(path: &Path) -> String {
    format!("stale_checkout:{}", path.display())
}

async fn stale(store: &Store, path: &Path) -> Result<Option<String>, StoreError> {
    let key = key(path);
    store.read(move |conn| meta::find(conn, &key)).await
}

/// Remembers what commit a checkout's files are at, and returns it; the first time counts.
async fn remember(store: &Store, path: &Path, commit: &str) -> Result<String, StoreError> {
    let (key, commit) = (key(path), commit.to_owned());
    store
        .write(move |tx| match meta::find(tx, &key)? {
            Some(known) => Ok(known),
            None => meta::set(tx, &key, &commit).map(|()| commit),
        })
        .await
}

/// Brings checkouts of a project up to date that were left behind and are clean by now, and forgets
/// those that somebody brought up to date. Safe to repeat.
pub async fn heal(store: &Store, project: &Project) -> Result<(), CheckoutError> {
    if !store.read(|conn| merge_queue::any_stale(conn, &key(Path::new("")))).await? {
        return Ok(());
    }
    for listed in project.git().worktrees().await? {
        let Some(at) = stale(store, &listed.path).await? else { continue };
        let git = Git::at(&listed.path);
        let on_base = listed.branch.as_deref() == Some(project.base_ref().as_str());
        let head = listed.head.unwrap_or_default();
        // What the person changed on top of an index that is up to date is theirs alone.
        let current = !on_base || git.index_is_at(&head).await?;
        if !current {
            if !can_advance(&git, &at, &head).await? {
                continue;
            }
            git.advance_files(&at, &head, false).await?;
            tracing::info!(path = %listed.path.display(), "a checkout is clean again and was updated");
        }
        let key = key(&listed.path);
        store.write(move |tx| meta::remove(tx, &key).map(drop)).await?;
    }
    Ok(())
}

/// Why checkouts could not be looked after.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError {
    /// Git failed.
    #[error(transparent)]
    Git(#[from] GitError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
