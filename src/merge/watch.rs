//! What is looked after beside the merging itself: predictions, the age of what waits, and whether
//! a program that was missing is there by now.

use super::{MergeService, TICK, hold};
use crate::model::chat::Outgoing;
use crate::model::ids::{ItemId, ProjectName, SessionKey};
use crate::project::shell;
use crate::store::merge_pulls::{self, Pull};
use crate::store::{Changes, StoreError, merge_queue, merge_state, outbox};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The tables whose changes may move a branch or the queue.
const WATCHED: [&str; 3] = ["items", "events", "merge_queue"];

/// The shortest time between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// How much longer than an item may wait for the queue a pull request may wait for people.
const PULL_PATIENCE: u32 = 24;

impl MergeService {
    /// Looks around at every hint and tick, until it is cancelled.
    pub(super) async fn watch(self, cancel: CancellationToken) {
        let mut changes: Vec<Changes> =
            WATCHED.iter().map(|table| self.store.changes(table)).collect();
        let look = async {
            loop {
                self.look_around().await;
                tokio::time::sleep(PAUSE).await;
                let hint = futures_util::future::select_all(
                    changes.iter_mut().map(|table| Box::pin(table.changed())),
                );
                // In time or not: the next look is due.
                let _ = tokio::time::timeout(TICK, hint).await;
            }
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = look => {}
        }
    }

    /// One look.
    pub(super) async fn look_around(&self) {
        for project in self.projects.list() {
            if let Err(error) = self.predict(&project).await {
                tracing::debug!(%error, project = %project.name, "nothing was predicted");
            }
        }
        if let Err(error) = self.warn_of_age().await {
            tracing::error!(%error, "cannot look after the age of the merge queues");
        }
        if let Err(error) = self.remind_of_pulls().await {
            tracing::error!(%error, "cannot look after open pull requests");
        }
        if let Err(error) = self.look_for_programs().await {
            tracing::error!(%error, "cannot look after the merge queues that stand still");
        }
    }

    /// Tells rooms whose oldest item waits too long: once when it does, and each time that it has
    /// doubled since.
    async fn warn_of_age(&self) -> Result<(), StoreError> {
        let (oldest, alarmed) = self
            .store
            .read(|conn| {
                let alarmed = merge_state::alarmed(conn)?;
                Ok::<_, StoreError>((merge_queue::oldest(conn)?, alarmed))
            })
            .await?;
        for (project, _level) in alarmed {
            if !oldest.iter().any(|(name, _, _)| *name == project) {
                self.store.write(move |tx| merge_state::set_age_level(tx, &project, 0)).await?;
            }
        }
        let now = self.store.clock().millis();
        for (project, item, since) in oldest {
            let waited = Duration::from_millis((now - since).max(0).unsigned_abs());
            let level = age_level(waited, Duration::from_secs(self.config.merge_age_warn_s));
            let name = project.clone();
            let told = self.store.read(move |conn| merge_state::age_level(conn, &name)).await?;
            if level != told {
                self.set_age_level(project, item, waited, level, level > told).await?;
            }
        }
        Ok(())
    }

    async fn set_age_level(
        &self,
        project: ProjectName,
        item: ItemId,
        waited: Duration,
        level: u32,
        tell: bool,
    ) -> Result<(), StoreError> {
        let bound = self.projects.find(&project).and_then(|project| project.room);
        self.store
            .write(move |tx| {
                merge_state::set_age_level(tx, &project, level)?;
                let room = merge_queue::room_for(tx, item, &project, bound)?;
                let Some(room) = room.filter(|_| tell) else { return Ok(()) };
                let queue = merge_queue::list(tx, &project, tx.now())?;
                let since =
                    queue.iter().find(|row| row.item == item).map_or(0, |row| row.queued_at);
                let why = match merge_state::pause_of(tx, &project)? {
                    Some(pause) => format!("the queue stands still: {}", pause.reason),
                    None => format!("`why {item}` says what it waits for"),
                };
                let text = format!(
                    "Item {item} has waited for {} in the merge queue of {project}, in which {} \
                     stand: {why}.",
                    in_words(waited),
                    queue.len()
                );
                let outgoing = Outgoing::text(SessionKey::main(room), text).about(item);
                let key = format!("merge-age:{item}:{since}:{level}");
                outbox::enqueue(tx, &outgoing, Some(&key)).map(drop)
            })
            .await
    }

    /// Tells rooms of pull requests that stay open: nobody but people can say whether one was closed
    /// without being merged. Once when it is old, and each time that it has become twice as old.
    async fn remind_of_pulls(&self) -> Result<(), StoreError> {
        let now = self.store.clock().millis();
        let warn = Duration::from_secs(self.config.merge_age_warn_s) * PULL_PATIENCE;
        for open in self.store.read(merge_pulls::open).await? {
            let age = Duration::from_millis((now - open.since).max(0).unsigned_abs());
            let level = age_level(age, warn);
            let key = (open.pull.item, open.pull.commit.clone());
            if level == 0 || hold(&self.pulls_told).get(&key) == Some(&level) {
                continue;
            }
            let bound = self.projects.find(&open.project).and_then(|project| project.room);
            self.store
                .write(move |tx| {
                    let Pull { item, url, commit, .. } = open.pull;
                    let room = merge_queue::room_for(tx, item, &open.project, bound)?;
                    let Some(room) = room else { return Ok(()) };
                    let text = format!(
                        "The pull request of item {item} has been open for {}: {url}. If it was \
                         closed without being merged, say so: `move {item} coding` has it worked \
                         on again, `reject {item} WHY` turns it down.",
                        in_words(age)
                    );
                    let outgoing = Outgoing::text(SessionKey::main(room), text).about(item);
                    let key = format!("merge-pull-open:{item}:{commit}:{level}");
                    outbox::enqueue(tx, &outgoing, Some(&key)).map(drop)
                })
                .await?;
            hold(&self.pulls_told).insert(key, level);
        }
        Ok(())
    }

    /// Has queues go on whose missing program was installed.
    async fn look_for_programs(&self) -> Result<(), StoreError> {
        for (project, pause) in self.store.read(merge_state::paused).await? {
            if pause.program.as_deref().is_some_and(shell::on_path) {
                self.store.write(move |tx| merge_state::try_now(tx, &project)).await?;
            }
        }
        Ok(())
    }
}

/// 0 before `warn`; then 1, and one more each time that the wait has doubled.
fn age_level(waited: Duration, warn: Duration) -> u32 {
    let times = waited.as_secs() / warn.as_secs().max(1);
    times.checked_ilog2().map_or(0, |doublings| doublings + 1)
}

fn in_words(time: Duration) -> String {
    let minutes = time.as_secs() / 60;
    match (minutes / 60, minutes % 60) {
        (0, minutes) => format!("{minutes} min"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alarm_rises_with_each_doubling_of_the_wait() {
        let warn = Duration::from_secs(600);
        for (waited, level) in
            [(0, 0), (599, 0), (600, 1), (1199, 1), (1200, 2), (2399, 2), (2400, 3), (86_400, 8)]
        {
            assert_eq!(age_level(Duration::from_secs(waited), warn), level, "{waited} s");
        }
    }
}
