//! Landing: what has passed moves the base, in one step that a kill cannot split.
//!
//! Order: note in the rows what is about to happen; push, where the remote must have it first;
//! move the ref by compare-and-swap; take the checkouts along; remove the rows with the events.
//! After a kill, the rows say what was about to happen, and the ref (or the remote) whether it did.

use super::batch::{Link, names};
use super::checkout;
use super::remote::Remote;
use super::{MergeService, Step, Stop};
use crate::model::chat::Outgoing;
use crate::model::event::Event;
use crate::model::ids::{ItemId, SessionKey};
use crate::model::stage::MergeFailureKind;
use crate::project::Project;
use crate::project::git::{Push, RefUpdate};
use crate::store::merge_pulls::{self, Landed};
use crate::store::merge_queue::{self, Landing, QueueRow};
use crate::store::{StoreError, log, outbox};

/// How an attempt to land came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Attempt {
    /// The base holds it.
    Done,
    /// The base moved meanwhile, here or on the remote: merge again on the new base.
    Lost,
    /// The remote would not take it; the base stands where it stood.
    Refused {
        /// What the remote said.
        reason: String,
    },
}

/// Items that land together: each with the commit on its branch, and what is about to happen.
type Together = [(ItemId, String, Landing)];

impl MergeService {
    /// Moves the base from `base` to the last of `links`, whose tree has passed.
    pub(super) async fn land(
        &self,
        project: &Project,
        remote: Option<&Remote>,
        base: &str,
        links: &[Link],
    ) -> Result<Attempt, Stop> {
        let Some(last) = links.last() else { return Ok(Attempt::Done) };
        let tip = &last.squashed.commit;
        let checkouts = checkout::look(&self.store, project, base, tip).await?;
        let landing = |link: &Link| Landing {
            base: base.to_owned(),
            commit: link.squashed.commit.clone(),
            tip: Some(tip.clone()),
            remote: remote.map(|remote| remote.name.clone()),
            clean: checkouts.clean.clone(),
            dirty: checkouts.dirty.clone(),
        };
        let together: Vec<(ItemId, String, Landing)> = links
            .iter()
            .map(|link| (link.row.item, link.row.commit.clone(), landing(link)))
            .collect();
        let noted = together.clone();
        if !self.store.write(move |tx| merge_queue::set_landings(tx, &noted)).await? {
            return Err(Stop::Again);
        }
        self.reached(Step::Noted).await;
        if let Some(remote) = remote
            && let Some(otherwise) = self.push(project, remote, tip).await?
        {
            self.take_back(&together).await?;
            return Ok(otherwise);
        }
        self.reached(Step::Pushed).await;
        let git = project.git();
        let reason = format!("musher: item {}", names(links));
        let moved = git.update_ref(&project.base_ref(), tip, Some(base), &reason).await;
        if !matches!(moved, Ok(RefUpdate::Moved))
            && remote.is_none()
            && !self.base_holds(project, tip).await?
        {
            // Lost, or git failed without saying how far it got: the ref tells.
            self.take_back(&together).await?;
            return match moved {
                Ok(_lost) => Ok(Attempt::Lost),
                Err(error) => Err(error.into()),
            };
        }
        self.reached(Step::Moved).await;
        self.finish(project, &together).await?;
        Ok(Attempt::Done)
    }

    /// Pushes; `None` when the remote has it. It was decided on the remote's word alone.
    async fn push(
        &self,
        project: &Project,
        remote: &Remote,
        tip: &str,
    ) -> Result<Option<Attempt>, Stop> {
        let git = project.git();
        let expected = remote.tip.as_deref();
        match git.push(&remote.name, tip, &project.base, Some(expected)).await? {
            Push::Done => Ok(None),
            // It may have arrived and somebody went on from there.
            Push::Moved { .. } if self.remote_holds(project, &remote.name, tip).await? => Ok(None),
            Push::Moved { .. } => Ok(Some(Attempt::Lost)),
            Push::Refused { reason } => Ok(Some(Attempt::Refused { reason })),
        }
    }

    /// Goes on with what a kill, or a failure of the machine, cut off while it landed.
    pub(super) async fn resolve(&self, project: &Project) -> Result<(), Stop> {
        loop {
            let (now, name) = (self.store.clock().millis(), project.name.clone());
            let rows = self.store.read(move |conn| merge_queue::list(conn, &name, now)).await?;
            let noted: Vec<(ItemId, String, Landing)> = rows
                .into_iter()
                .filter_map(|row| Some((row.item, row.commit, row.landing?)))
                .collect();
            let Some((_, _, first)) = noted.first() else { return Ok(()) };
            let tip = first.tip().to_owned();
            let (mut together, _others): (Vec<_>, Vec<_>) =
                noted.iter().cloned().partition(|(_, _, landing)| landing.tip() == tip);
            self.in_order(project, &mut together).await;
            let holds = match &first.remote {
                Some(remote) => self.remote_holds(project, remote, &tip).await?,
                None => self.base_holds(project, &tip).await?,
            };
            if !holds {
                self.take_back(&together).await?;
                continue;
            }
            if first.remote.is_some() {
                // The remote has it: the base here follows, unless somebody moved it elsewhere,
                // which the next look at the remote says.
                let git = project.git();
                let reason = "musher: as on the remote";
                git.update_ref(&project.base_ref(), &tip, Some(&first.base), reason).await?;
            }
            self.finish(project, &together).await?;
        }
    }

    /// Sorts items that landed together as they stand on the base, so that they are told in order.
    async fn in_order(&self, project: &Project, together: &mut Together) {
        let Some((_, _, landing)) = together.first() else { return };
        let (base, tip) = (landing.base.clone(), landing.tip().to_owned());
        if let Ok(path) = project.git().path_between(&base, &tip, usize::from(u16::MAX)).await {
            together.sort_by_key(|(_, _, landing)| {
                path.iter().position(|commit| *commit == landing.commit)
            });
        }
    }

    async fn base_holds(&self, project: &Project, commit: &str) -> Result<bool, Stop> {
        let git = project.git();
        if git.find_commit(commit).await?.is_none() {
            return Ok(false);
        }
        match git.branch_tip(&project.base).await? {
            Some(tip) => Ok(git.is_ancestor(commit, &tip).await?),
            None => Ok(false),
        }
    }

    async fn remote_holds(
        &self,
        project: &Project,
        remote: &str,
        commit: &str,
    ) -> Result<bool, Stop> {
        let git = project.git();
        if git.find_commit(commit).await?.is_none() {
            return Ok(false);
        }
        match git.fetch(remote, &project.base).await? {
            Some(tip) => Ok(git.is_ancestor(commit, &tip).await?),
            None => Ok(false),
        }
    }

    /// The base did not move: the items are queued as before.
    async fn take_back(&self, together: &Together) -> Result<(), Stop> {
        let items: Vec<ItemId> = together.iter().map(|(item, _, _)| *item).collect();
        self.store
            .write(move |tx| {
                items.iter().try_for_each(|item| merge_queue::clear_landing(tx, *item))
            })
            .await?;
        Ok(())
    }

    /// Does what follows when the base has moved; each part may be repeated.
    async fn finish(&self, project: &Project, together: &Together) -> Result<(), Stop> {
        let Some((_, _, landing)) = together.first() else { return Ok(()) };
        let notes = match self.base_holds(project, landing.tip()).await? {
            true => checkout::follow(&self.store, landing).await?,
            false => Vec::new(),
        };
        self.reached(Step::Followed).await;
        let (together, name) = (together.to_vec(), project.name.clone());
        let bound = project.room.clone();
        let items: Vec<i64> = together.iter().map(|(item, _, _)| item.0).collect();
        self.store
            .write(move |tx| {
                for (place, (item, commit, landing)) in together.iter().enumerate() {
                    let room = merge_queue::room_for(tx, *item, &name, bound.clone())?;
                    if !merge_queue::remove(tx, *item)? {
                        continue;
                    }
                    let landed = Landed { commit: commit.clone(), landed: landing.commit.clone() };
                    merge_pulls::put_landed(tx, *item, &name, &landed)?;
                    merge_pulls::remove(tx, *item)?;
                    if let Some(room) = room.filter(|_| place == 0) {
                        for (number, note) in notes.iter().enumerate() {
                            let session = SessionKey::main(room.clone());
                            let outgoing = Outgoing::text(session, note).about(*item);
                            let key = format!("merge-note:{}:{number}", landing.tip());
                            outbox::enqueue(tx, &outgoing, Some(&key))?;
                        }
                    }
                    let commit = landing.commit.clone();
                    log::append_event(tx, &Event::Merged { item: *item, commit })?;
                }
                Ok::<(), StoreError>(())
            })
            .await?;
        tracing::info!(?items, tip = landing.tip(), "merged");
        self.reached(Step::Recorded).await;
        Ok(())
    }

    /// Takes an item out of the queue with what made its merge fail.
    pub(super) async fn give_back(
        &self,
        row: &QueueRow,
        kind: MergeFailureKind,
        output: String,
    ) -> Result<(), StoreError> {
        tracing::info!(item = %row.item, kind = kind.name(), "the merge failed");
        let (item, wanted) = (row.item, row.commit.clone());
        self.store
            .write(move |tx| {
                let current = merge_queue::find(tx, item)?;
                // Meanwhile stopped, or queued again with another commit: this failure is old news.
                if current.is_none_or(|current| current.commit != wanted) {
                    return Ok(());
                }
                merge_queue::remove(tx, item)?;
                log::append_event(tx, &Event::MergeFailed { item, kind, output }).map(drop)
            })
            .await
    }
}
