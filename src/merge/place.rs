//! The temporary worktree in which a merge is tested.

use crate::model::ids::{ItemId, ProjectName};
use crate::project::git::{Git, GitError};
use std::path::{Path, PathBuf};

/// A worktree on no branch, under the data directory; nothing in it is anybody's work.
pub struct MergePlace {
    git: Git,
    path: PathBuf,
}

impl MergePlace {
    /// Makes it at `commit`, after clearing away what an earlier try left there.
    pub async fn make(
        git: Git,
        data_dir: &Path,
        project: &ProjectName,
        item: ItemId,
        commit: &str,
    ) -> Result<Self, GitError> {
        let parent = data_dir.join("merge").join(project.as_str());
        let io = |source| GitError::Io { what: "worktree add".to_owned(), source };
        std::fs::create_dir_all(&parent).map_err(io)?;
        let path = parent.canonicalize().map_err(io)?.join(item.to_string());
        git.worktree_remove(&path).await?;
        git.worktree_add_detached(&path, commit).await?;
        Ok(Self { git, path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it; one that cannot be removed is cleared away by the next try.
    pub async fn remove(self) {
        if let Err(error) = self.git.worktree_remove(&self.path).await {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove a merge worktree");
        }
    }
}

/// Clears away the temporary worktrees that a server left when it was killed.
pub async fn clear_all(git: &Git, data_dir: &Path, project: &ProjectName) {
    let Ok(entries) = std::fs::read_dir(data_dir.join("merge").join(project.as_str())) else {
        return;
    };
    for entry in entries.flatten() {
        if let Err(error) = git.worktree_remove(&entry.path()).await {
            tracing::warn!(%error, path = %entry.path().display(), "cannot remove a merge worktree");
        }
    }
}
