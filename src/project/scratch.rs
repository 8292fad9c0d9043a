//! A temporary checkout in which somebody's question is answered ("do the tests pass on main?").
//!
//! Nothing in it is anybody's work. Its directory carries the pid of its owner, so that what a
//! killed server left is told from what is in use, and cleared away by the next one.

use super::git::{Git, GitError};
use super::registry::Project;
use std::path::{Path, PathBuf};

/// A worktree on no branch, under the data directory.
pub struct Scratch {
    git: Git,
    path: PathBuf,
}

/// Where a project's temporary checkouts are.
fn parent_of(project: &Project, data_dir: &Path) -> PathBuf {
    data_dir.join("scratch").join(project.name.as_str())
}

impl Scratch {
    /// Makes one at `commit`, after clearing away what earlier servers left.
    pub async fn make(project: &Project, data_dir: &Path, commit: &str) -> Result<Self, GitError> {
        let git = project.git();
        let parent = parent_of(project, data_dir);
        let io = |source| GitError::Io { what: "worktree add".to_owned(), source };
        std::fs::create_dir_all(&parent).map_err(io)?;
        let parent = parent.canonicalize().map_err(io)?;
        let own = format!("{}-", std::process::id());
        for left in left_over(&parent, &own) {
            git.worktree_remove(&left).await?;
        }
        let name = uuid::Uuid::new_v4().simple().to_string();
        let path = parent.join(format!("{own}{}", &name[..8]));
        git.worktree_add_detached(&path, commit).await?;
        Ok(Self { git, path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it; one that cannot be removed is cleared away by the next server.
    pub async fn remove(self) {
        if let Err(error) = self.git.worktree_remove(&self.path).await {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove a checkout");
        }
    }
}

fn left_over(parent: &Path, own: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    entries
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with(own))
        .map(|entry| entry.path())
        .collect()
}
