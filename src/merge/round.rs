//! One round over a project's queue: what is cut off is ended, then a batch is made, tested and
//! landed as far as it is good.

use super::batch::{self, Link, names};
use super::hold;
use super::land::Attempt;
use super::remote::Remote;
use super::search::{Next, Search};
use super::trial::{Failure, Trial};
use super::{MergeService, Step, Stop};
use crate::config::LandingMode;
use crate::model::chat::Outgoing;
use crate::model::ids::{ItemId, ProjectName, SessionKey};
use crate::model::stage::MergeFailureKind;
use crate::project::Project;
use crate::store::{StoreError, merge_queue, merge_state, meta, outbox};
use nix::sys::statvfs::statvfs;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// How often in a row a batch is made again because the base moved, before it is given back.
const BASE_MOVES: usize = 5;

/// What a round has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    /// Something; there may be more.
    Some,
    /// Something, but the base moved before it could land.
    Lost,
    /// Nothing: there is nothing to do now.
    Nothing,
}

impl MergeService {
    /// Goes round until nothing is due.
    pub(super) async fn rounds(
        &self,
        name: &ProjectName,
        cancel: &CancellationToken,
    ) -> Result<(), StoreError> {
        let mut losses = 0;
        while !cancel.is_cancelled() {
            let round = self.round(name, losses, cancel).await;
            losses = if matches!(round, Ok(Round::Lost)) { losses + 1 } else { 0 };
            match round {
                Ok(Round::Some | Round::Lost) | Err(Stop::Again) => {}
                Ok(Round::Nothing) => {
                    let name = name.clone();
                    self.store.write(move |tx| merge_state::resume(tx, &name)).await?;
                    return Ok(());
                }
                Err(Stop::Pause { reason, program }) => {
                    return self.pause(name, reason, program).await;
                }
                Err(Stop::Cancelled) => return Ok(()),
                Err(Stop::Store(error)) => return Err(error),
            }
        }
        Ok(())
    }

    async fn round(
        &self,
        name: &ProjectName,
        losses: usize,
        cancel: &CancellationToken,
    ) -> Result<Round, Stop> {
        let stopped = self.store.read(|conn| meta::find(conn, meta::STOPPED_ALL)).await?.is_some();
        let Some(project) = self.projects.find(name) else {
            return Err(Stop::pause(format!(
                "there is no project `{name}` any more: configure it again and restart, or delete its items"
            )));
        };
        if stopped || project.paused {
            return Ok(Round::Nothing);
        }
        project.check().await.map_err(|error| Stop::pause(error.to_string()))?;
        self.has_room(&project)?;
        self.resolve(&project).await?;
        let remote = self.read_remote(&project).await?;
        match (project.mode, &remote) {
            (LandingMode::Pr, Some(remote)) => self.look_at_pulls(&project, remote).await?,
            (LandingMode::Pr | LandingMode::Merge, _) => self.forget_pulls(&project).await?,
        }
        let (now, wanted) = (self.store.clock().millis(), name.clone());
        let rows = self.store.read(move |conn| merge_queue::waiting(conn, &wanted, now)).await?;
        let by_people = remote.as_ref().filter(|_| project.mode == LandingMode::Pr);
        // Pull requests do not stand on each other.
        let limit = if by_people.is_some() { 1 } else { self.config.merge_batch };
        let rows = batch::pick(rows, limit);
        if rows.is_empty() {
            return Ok(Round::Nothing);
        }
        let base = match by_people {
            Some(remote) => remote.tip.clone().ok_or_else(|| {
                let (base, name) = (&project.base, &remote.name);
                Stop::pause(format!("{name} has no branch `{base}`: push it once"))
            })?,
            None => project.git().rev_parse(&project.base_ref()).await?,
        };
        let links = self.chain(&project, &base, rows).await?;
        if links.is_empty() {
            // All were given back.
            return Ok(Round::Some);
        }
        self.reached(Step::Squashed).await;
        let mut going = Going { project, remote, base, links, landed: 0 };
        match going.project.mode {
            LandingMode::Pr => self.propose(&going, cancel).await,
            LandingMode::Merge => self.go_through(&mut going, losses, cancel).await,
        }
    }

    /// Tests a batch and lands what is good, as [`Search`] says.
    async fn go_through(
        &self,
        going: &mut Going,
        losses: usize,
        cancel: &CancellationToken,
    ) -> Result<Round, Stop> {
        let mut search = Search::new(going.links.len());
        let mut failures: Vec<Option<Failure>> = vec![None; going.links.len() + 1];
        loop {
            match search.next() {
                Next::Test(count) => {
                    let links = &going.links[going.landed..count];
                    let second = search.is_second_try();
                    match self.try_out(&going.project, links, cancel).await? {
                        Trial::Passed => {
                            if second {
                                let why = "passed when it was tested once more: it was a flake";
                                let kind = failures[count].take().map(|failure| failure.kind);
                                let inputs = json!({"failed_first_with": kind});
                                self.decide(links, why.to_owned(), inputs).await?;
                            }
                            self.reached(Step::Tested).await;
                            search.passed(count);
                        }
                        Trial::Failed(failure) => {
                            search.failed(count, failure.looks_like_a_flake);
                            self.tell_failed(links, &failure, &search).await?;
                            failures[count] = Some(failure);
                        }
                    }
                }
                Next::Land(count) => {
                    let links = &going.links[going.landed..count];
                    let (project, remote) = (&going.project, going.remote.as_ref());
                    match self.land(project, remote, &going.base, links).await? {
                        Attempt::Done => {
                            hold(&self.refusals).remove(&going.project.name);
                            going.has_landed(count);
                            search.landed(count);
                        }
                        Attempt::Lost => return self.lost(&going.links, losses).await,
                        Attempt::Refused { reason } => {
                            self.refused(&project.name, links, reason).await?;
                            return Ok(Round::Some);
                        }
                    }
                }
                Next::Blame(index) => {
                    let failure = failures[index + 1].take();
                    let failure = failure.expect("who is blamed has been tested");
                    let row = &going.links[index].row;
                    self.give_back(row, failure.kind, failure.output).await?;
                    self.reached(Step::Blamed).await;
                    return Ok(Round::Some);
                }
                Next::Done => return Ok(Round::Some),
            }
        }
    }

    /// Tests an item alone and opens its pull request.
    async fn propose(&self, going: &Going, cancel: &CancellationToken) -> Result<Round, Stop> {
        let (Some(remote), [link]) = (&going.remote, &going.links[..]) else {
            return Ok(Round::Nothing);
        };
        let links = std::slice::from_ref(link);
        let mut trial = self.try_out(&going.project, links, cancel).await?;
        if matches!(&trial, Trial::Failed(failure) if failure.looks_like_a_flake) {
            self.reached(Step::Split).await;
            trial = self.try_out(&going.project, links, cancel).await?;
        }
        match trial {
            Trial::Passed => {
                self.reached(Step::Tested).await;
                self.open_pull(&going.project, remote, link, cancel).await?;
            }
            Trial::Failed(failure) => {
                self.give_back(&link.row, failure.kind, failure.output).await?;
                self.reached(Step::Blamed).await;
            }
        }
        Ok(Round::Some)
    }

    /// Notes that a batch failed and what follows.
    async fn tell_failed(
        &self,
        links: &[Link],
        failure: &Failure,
        search: &Search,
    ) -> Result<(), Stop> {
        let next = search.next();
        let then = match next {
            Next::Test(_) if search.is_second_try() => "the same is tested once more",
            Next::Test(_) => "a part of it is tested",
            Next::Land(_) | Next::Blame(_) | Next::Done => "the last of them is what breaks it",
        };
        let why =
            format!("items {} failed together ({}): {then}", names(links), failure.kind.name());
        if links.len() > 1 || matches!(next, Next::Test(_)) {
            self.decide(links, why, json!({"kind": failure.kind})).await?;
        }
        self.reached(Step::Split).await;
        Ok(())
    }

    /// The base moved before a batch could land; too often, and its items are given back.
    async fn lost(&self, links: &[Link], losses: usize) -> Result<Round, Stop> {
        if losses + 1 < BASE_MOVES {
            return Ok(Round::Lost);
        }
        for link in links {
            let output = format!("the base branch moved during each of {BASE_MOVES} attempts");
            self.give_back(&link.row, MergeFailureKind::BaseMoved, output).await?;
        }
        Ok(Round::Some)
    }

    /// A push was refused. Several items are tried one by one from now on, because a hook may mean
    /// only one of them.
    async fn refused(
        &self,
        name: &ProjectName,
        links: &[Link],
        reason: String,
    ) -> Result<(), Stop> {
        if let [link] = links {
            self.refused_whatever_it_is(name, link.row.item, &reason)?;
            let kind = MergeFailureKind::PushRefused { reason: reason.clone() };
            return Ok(self.give_back(&link.row, kind, reason).await?);
        }
        let why = format!("the remote refused them together ({reason}): tried one by one");
        self.decide(links, why, json!({"reason": reason})).await?;
        let items: Vec<_> = links.iter().map(|link| link.row.item).collect();
        self.store
            .write(move |tx| items.iter().try_for_each(|item| merge_queue::set_alone(tx, *item)))
            .await?;
        Ok(())
    }

    /// Has the queue stand still when the remote refuses two items in a row with the same words:
    /// then it means none of them, such as a protected branch, and each further one would only cost
    /// its gates.
    fn refused_whatever_it_is(
        &self,
        name: &ProjectName,
        item: ItemId,
        reason: &str,
    ) -> Result<(), Stop> {
        let mut refusals = hold(&self.refusals);
        let before = refusals.entry(name.clone()).or_insert_with(|| (item, reason.to_owned()));
        if before.0 != item && before.1 == reason {
            return Err(Stop::pause(format!(
                "the remote refuses every push, whichever item it is: {reason}. Let Musher's \
                 account push there, or set `mode = \"pr\"` and restart"
            )));
        }
        *before = (item, reason.to_owned());
        Ok(())
    }

    /// Fails when there is too little room on a disk that a merge writes to.
    pub(super) fn has_room(&self, project: &Project) -> Result<(), Stop> {
        for place in [self.store.data_dir(), &project.path] {
            let Ok(stat) = statvfs(place) else { continue };
            let free = stat.blocks_available() * stat.fragment_size();
            if free < self.disk_min {
                return Err(Stop::pause(format!(
                    "only {} MiB are left on the disk of {}, and {} are needed: make room",
                    free >> 20,
                    place.display(),
                    self.disk_min >> 20
                )));
            }
        }
        Ok(())
    }

    /// Has the project's queue stand still, and tells the room once.
    async fn pause(
        &self,
        name: &ProjectName,
        reason: String,
        program: Option<String>,
    ) -> Result<(), StoreError> {
        tracing::warn!(project = %name, reason, "the merge queue stands still");
        let (name, now) = (name.clone(), self.store.clock().millis());
        let bound = self.projects.find(&name).and_then(|project| project.room);
        self.store
            .write(move |tx| {
                let (pause, news) = merge_state::pause(tx, &name, &reason, program.as_deref())?;
                let first = merge_queue::list(tx, &name, now)?.into_iter().next();
                let Some(first) = first.filter(|_| news) else { return Ok(()) };
                let room = merge_queue::room_for(tx, first.item, &name, bound)?;
                let Some(room) = room else { return Ok(()) };
                let text = format!(
                    "The merge queue of {name} stands still, through no fault of its items: \
                     {reason}. It is tried again by itself."
                );
                let outgoing = Outgoing::text(SessionKey::main(room), text);
                let key = format!("merge-paused:{name}:{}", pause.since);
                outbox::enqueue(tx, &outgoing, Some(&key)).map(drop)
            })
            .await
    }
}

/// A batch that is being worked.
struct Going {
    project: Project,
    remote: Option<Remote>,
    /// Where the base stands: at what has landed of it.
    base: String,
    links: Vec<Link>,
    landed: usize,
}

impl Going {
    /// The first `count` items have landed: the base stands at the last of them.
    fn has_landed(&mut self, count: usize) {
        self.landed = count;
        self.base.clone_from(&self.links[count - 1].squashed.commit);
        if let Some(remote) = &mut self.remote {
            remote.tip = Some(self.base.clone());
        }
    }
}
