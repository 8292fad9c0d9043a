//! What a merge would say: a trial merge in memory of everything that has a commit.
//!
//! For items in coding, QA and merge, so that a conflict is seen before they are queued. One
//! question to git gives the base's tip and those of all items' branches; only what differs from
//! what was predicted is merged, so that a look at which nothing moved costs no more than that.

use super::MergeService;
use crate::model::ids::ItemId;
use crate::project::Project;
use crate::project::git::{Git, GitError, MergeTree};
use crate::store::decisions::{self, What};
use crate::store::merge_predictions::{self, Outcome, Prediction};
use crate::store::{StoreError, Tx};
use serde_json::json;
use std::collections::HashMap;

/// Why nothing could be predicted.
#[derive(Debug, thiserror::Error)]
pub(super) enum PredictError {
    /// Git failed.
    #[error(transparent)]
    Git(#[from] GitError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl MergeService {
    /// Brings a project's predictions up to date; returns how many trial merges that took.
    pub(super) async fn predict(&self, project: &Project) -> Result<usize, PredictError> {
        let name = project.name.clone();
        let (open, known) = self
            .store
            .read(move |conn| {
                let open = merge_predictions::open_items(conn, &name)?;
                Ok::<_, StoreError>((open, merge_predictions::list(conn, &name)?))
            })
            .await?;
        if open.is_empty() && known.is_empty() {
            return Ok(0);
        }
        let git = project.git();
        let tips = git.branch_tips("item/", &project.base).await?;
        let Some(base) = tips.iter().find(|(name, _)| *name == project.base) else { return Ok(0) };
        let base = base.1.clone();
        let mut known: HashMap<ItemId, Prediction> =
            known.into_iter().map(|known| (known.item, known)).collect();
        let mut merged = 0;
        for (item, commit) in open {
            let before = known.remove(&item);
            let Some(commit) = commit.or_else(|| branch_tip(&tips, item)) else {
                if before.is_some() {
                    self.store.write(move |tx| merge_predictions::remove(tx, item)).await?;
                }
                continue;
            };
            if before.is_some_and(|before| before.commit == commit && before.base == base) {
                continue;
            }
            merged += 1;
            let outcome = match foresee(&git, &base, &commit).await {
                Ok(outcome) => outcome,
                Err(error) => {
                    // One item's broken branch must not hide what is known of the others.
                    tracing::debug!(%item, %error, "no trial merge");
                    continue;
                }
            };
            let (project, base) = (project.name.clone(), base.clone());
            self.store
                .write(move |tx| {
                    let before =
                        merge_predictions::put(tx, item, &project, &commit, &base, &outcome)?;
                    note_change(tx, item, before.as_ref(), &outcome, &base)
                })
                .await?;
        }
        let gone: Vec<ItemId> = known.into_keys().collect();
        if !gone.is_empty() {
            self.store
                .write(move |tx| {
                    gone.iter().try_for_each(|item| merge_predictions::remove(tx, *item))
                })
                .await?;
        }
        Ok(merged)
    }
}

/// The tip of an item's branch, `item/ID-SLUG`.
fn branch_tip(tips: &[(String, String)], item: ItemId) -> Option<String> {
    let prefix = format!("item/{item}-");
    let tip = tips.iter().find(|(name, _)| name.starts_with(&prefix));
    tip.map(|(_, tip)| tip.clone())
}

async fn foresee(git: &Git, base: &str, commit: &str) -> Result<Outcome, GitError> {
    if git.is_ancestor(commit, base).await? {
        return Ok(Outcome::NoCommits);
    }
    Ok(match git.merge_tree(base, commit).await? {
        MergeTree::Clean(tree) if tree == git.tree_of(base).await? => Outcome::Nothing,
        MergeTree::Clean(_) => Outcome::Clean,
        MergeTree::Conflict(files) => Outcome::Conflict { files },
    })
}

/// Notes that a conflict came or went.
fn note_change(
    tx: &Tx<'_>,
    item: ItemId,
    before: Option<&Outcome>,
    now: &Outcome,
    base: &str,
) -> Result<(), StoreError> {
    let was = before.is_some_and(Outcome::is_conflict);
    if before == Some(now) || !(was || now.is_conflict()) {
        return Ok(());
    }
    let short = base.get(..8).unwrap_or(base);
    let why = format!("a merge into the base at {short} {}", now.in_words());
    let inputs = json!({ "base": base, "before": before, "now": now });
    decisions::record(tx, Some(item), What::Predicted, &why, &inputs).map(drop)
}
