//! A batch: queued items as a chain of squash commits, each on top of the one before.

use super::squash::{self, SquashError, Squashed};
use super::{MergeService, Stop};
use crate::model::ids::ItemId;
use crate::model::stage::MergeFailureKind;
use crate::project::Project;
use crate::project::git::{GitError, Identity};
use crate::store::decisions::{self, What};
use crate::store::merge_queue::{self, ItemFacts, QueueRow};
use serde_json::json;

/// One item of a batch.
#[derive(Debug, Clone)]
pub(super) struct Link {
    /// Its row, as it was when the chain was made.
    pub row: QueueRow,
    /// What the pull request or the commit says of it.
    pub facts: ItemFacts,
    /// Its commit on top of the link before, or of the base.
    pub squashed: Squashed,
}

/// The items of some links, for people: "3", "3 and 4", "3, 4 and 5".
pub(super) fn names(links: &[Link]) -> String {
    let names: Vec<String> = links.iter().map(|link| link.row.item.to_string()).collect();
    match names.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

/// The rows of the next batch: the first ones in order, and one that goes alone by itself.
pub(super) fn pick(rows: Vec<QueueRow>, limit: usize) -> Vec<QueueRow> {
    match rows.first() {
        Some(first) if first.alone => rows.into_iter().take(1).collect(),
        Some(_) | None => rows.into_iter().filter(|row| !row.alone).take(limit.max(1)).collect(),
    }
}

impl MergeService {
    /// Puts rows on top of `base`, one after the other. What cannot be merged into the base is
    /// given back. What only does not go with those before it is left in the queue: they land
    /// first, and then it is judged against a base that has them.
    pub(super) async fn chain(
        &self,
        project: &Project,
        base: &str,
        rows: Vec<QueueRow>,
    ) -> Result<Vec<Link>, Stop> {
        let mut links: Vec<Link> = Vec::new();
        for row in rows {
            let item = row.item;
            let facts = self.store.read(move |conn| merge_queue::facts_of(conn, item)).await?;
            let Some(facts) = facts else {
                tracing::warn!(%item, "a queued item is gone; its row is removed");
                self.store.write(move |tx| merge_queue::remove(tx, item)).await?;
                continue;
            };
            let tip = links.last().map_or(base, |link| &link.squashed.commit).to_owned();
            let failure = match self.squash_on(project, &tip, &row, &facts).await {
                Ok(squashed) => {
                    links.push(Link { row, facts, squashed });
                    continue;
                }
                Err(failure) => failure,
            };
            if !links.is_empty()
                && let SquashError::Failed { output, .. } = &failure
                && self.squash_on(project, base, &row, &facts).await.is_ok()
            {
                self.leave_waiting(&row, &links, output).await?;
                continue;
            }
            self.refuse(project, &row, failure).await?;
        }
        Ok(links)
    }

    async fn squash_on(
        &self,
        project: &Project,
        tip: &str,
        row: &QueueRow,
        facts: &ItemFacts,
    ) -> Result<Squashed, SquashError> {
        let message = squash::message(row.item, facts);
        let author = Identity::parse(&self.config.author);
        squash::squash(&project.git(), tip, &row.commit, &message, &author).await
    }

    /// Gives back an item of which no squash commit can be made.
    async fn refuse(
        &self,
        project: &Project,
        row: &QueueRow,
        failure: SquashError,
    ) -> Result<(), Stop> {
        let (kind, output) = match failure {
            SquashError::Failed { kind, output } => (kind, output),
            SquashError::Git(error) => {
                works(project).await?;
                // Git is fine but for this item: it must not hold up the others.
                let what = error.to_string();
                (MergeFailureKind::Infrastructure { what: what.clone() }, what)
            }
        };
        Ok(self.give_back(row, kind, output).await?)
    }

    /// Leaves an item in the queue until those that go before it have landed.
    async fn leave_waiting(
        &self,
        row: &QueueRow,
        before: &[Link],
        output: &str,
    ) -> Result<(), Stop> {
        let item = row.item;
        let why = format!(
            "it waits until what goes before it ({}) has landed: with that, {output}",
            names(before)
        );
        let ahead: Vec<ItemId> = before.iter().map(|link| link.row.item).collect();
        self.store
            .write(move |tx| {
                if merge_queue::set_waits(tx, item, &why)? {
                    let inputs = json!({ "before": ahead });
                    decisions::record(tx, Some(item), What::Batched, &why, &inputs)?;
                }
                Ok::<(), crate::store::StoreError>(())
            })
            .await?;
        Ok(())
    }

    /// Notes a decision about all items of a batch.
    pub(super) async fn decide(
        &self,
        links: &[Link],
        why: String,
        inputs: serde_json::Value,
    ) -> Result<(), Stop> {
        let items: Vec<ItemId> = links.iter().map(|link| link.row.item).collect();
        self.store
            .write(move |tx| {
                items.iter().try_for_each(|item| {
                    decisions::record(tx, Some(*item), What::Batched, &why, &inputs).map(drop)
                })
            })
            .await?;
        Ok(())
    }
}

/// Fails when the project's repository cannot be worked in at all.
async fn works(project: &Project) -> Result<(), Stop> {
    let broken = |why: String| Stop::pause(why);
    project.check().await.map_err(|error| broken(error.to_string()))?;
    let git = project.git();
    let probe = async {
        let base = git.rev_parse(&project.base_ref()).await?;
        git.merge_tree(&base, &base).await?;
        Ok::<(), GitError>(())
    };
    probe.await.map_err(|error| broken(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(item: i64, alone: bool) -> QueueRow {
        QueueRow {
            item: ItemId(item),
            project: "shop".into(),
            commit: String::new(),
            priority: 0,
            queued_at: 0,
            alone,
            waits: None,
            landing: None,
        }
    }

    #[test]
    fn a_batch_is_the_first_few_and_one_that_goes_alone_goes_alone() {
        for (rows, limit, expected) in [
            (vec![], 5, vec![]),
            (vec![(1, false), (2, false), (3, false)], 2, vec![1, 2]),
            (vec![(1, true), (2, false), (3, false)], 2, vec![1]),
            (vec![(1, false), (2, true), (3, false)], 5, vec![1, 3]),
            (vec![(1, false), (2, false)], 1, vec![1]),
        ] {
            let rows = rows.into_iter().map(|(item, alone)| row(item, alone)).collect();
            let picked: Vec<i64> = pick(rows, limit).iter().map(|row| row.item.0).collect();
            assert_eq!(picked, expected);
        }
    }
}
