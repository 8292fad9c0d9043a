//! Where an item's work is done: the seam to projects and worktrees.

use crate::model::ids::{ItemId, ProjectName};
use async_trait::async_trait;
use std::path::PathBuf;

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
    async fn place(&self, item: ItemId) -> anyhow::Result<Place>;
}
