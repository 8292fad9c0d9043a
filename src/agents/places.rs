//! Where an item's work is done: the seam to projects and worktrees.

use crate::model::ids::{ItemId, ProjectName};
use crate::project::{Registry, worktree};
use crate::store::{Store, items};
use anyhow::{Context, anyhow};
use async_trait::async_trait;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// Where an agent works on an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The item's project.
    pub project: ProjectName,
    /// The worktree.
    pub dir: PathBuf,
}

/// Finds or makes the place for an item. Safe to repeat.
#[async_trait]
pub trait Places: Send + Sync {
    /// The place of `item`, ready to work in.
    async fn place(&self, item: ItemId, cancel: &CancellationToken) -> anyhow::Result<Place>;
}

/// The worktrees of the registered projects.
#[derive(Clone)]
pub struct ProjectPlaces {
    /// The items.
    pub store: Store,
    /// The projects.
    pub projects: Registry,
}

#[async_trait]
impl Places for ProjectPlaces {
    async fn place(&self, item: ItemId, cancel: &CancellationToken) -> anyhow::Result<Place> {
        let found = self.store.read(move |conn| items::find(conn, item)).await?;
        let found = found.ok_or_else(|| anyhow!("item {item} is gone"))?;
        let project = self
            .projects
            .find(&found.project)
            .ok_or_else(|| anyhow!("its project {} is not registered any more", found.project))?;
        // Its words are for a person, git's own are not.
        project.check().await.with_context(|| format!("project {}", found.project))?;
        let data_dir = self.store.data_dir();
        let worktree = worktree::ensure(&project, item, &found.name, data_dir, cancel)
            .await
            .with_context(|| format!("project {}", found.project))?;
        Ok(Place { project: found.project, dir: worktree.path })
    }
}
