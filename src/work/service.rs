//! The loop that keeps items moving: one pass over the rows, then the looks at the outside that it
//! asked for, then a wait for the next hint.
//!
//! A pass is one transaction and repeats harmlessly. Looks at the outside (gates run for minutes)
//! are tasks beside the loop, at most one an item; what they find is written only if the item still
//! stands where it stood. Nothing is remembered here that a restart would miss.

use super::review::Hold;
use super::settle::{self, Due, Verdict};
use super::strays::{self, Stray};
use super::world::World;
use super::{WorkError, assign, epics, keeper, lead, merges, movers, notices, review};
use crate::config::Config;
use crate::failpoint::failpoint;
use crate::model::ids::ItemId;
use crate::store::pauses::{self, Pause};
use crate::store::{Changes, Store, Tx};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The longest time between two passes: what has no hint (back-offs, retention) waits this long.
const TICK: Duration = Duration::from_secs(5);
/// How often the branch of an item that waits for a person is looked at.
const REVIEW_PAUSE: Duration = Duration::from_secs(30);
/// How long a check that failed through no fault of the item waits before it is repeated; doubled
/// each time in a row.
const TROUBLE_FIRST: Duration = Duration::from_secs(30);
/// The longest such wait.
const TROUBLE_LAST: Duration = Duration::from_secs(900);
/// How long shutdown waits for checks that were told to end.
const SHUTDOWN: Duration = Duration::from_secs(10);
/// The tables whose changes are hints.
const WATCHED: [&str; 5] = ["items", "transitions", "events", "agent_sessions", "merge_queue"];

/// Keeps items moving. Cloning shares nothing but handles.
#[derive(Clone)]
pub struct WorkService {
    store: Store,
    config: Arc<Config>,
    world: Arc<dyn World>,
}

/// What a pass leaves to be done outside the database.
#[derive(Debug, Default)]
pub(super) struct Outside {
    /// Items whose work is to be looked at.
    pub due: Vec<Due>,
    /// Agents that are to be stopped.
    pub strays: Vec<Stray>,
    /// Items that wait for a person.
    pub holds: Vec<Hold>,
    /// Pauses whose time for a look has come.
    pub pauses: Vec<Pause>,
    /// How many agents were started.
    pub started: usize,
    /// Whether another pass would find more at once.
    pub more: bool,
}

/// What a task beside the loop has done.
enum Done {
    /// The work of an item was looked at; `true`: the look itself failed.
    Checked(ItemId, bool),
    /// An item's agents were stopped, or could not be.
    Stopped(ItemId),
    /// An item that waits for a person was looked at.
    Reviewed(ItemId),
    /// The worktrees of ended items are gone; `true`: there was something to do.
    Kept(bool),
    /// The pauses that were due were looked at.
    LookedAtPauses,
}

impl WorkService {
    /// Makes the service; nothing runs before [`WorkService::run`].
    pub fn new(store: Store, config: Arc<Config>, world: Arc<dyn World>) -> Self {
        Self { store, config, world }
    }

    /// Runs until it is cancelled. Its first pass is the reconciliation after a start.
    pub async fn run(self, cancel: CancellationToken) {
        let mut changes: Vec<Changes> =
            WATCHED.iter().map(|table| self.store.changes(table)).collect();
        let mut beside = Beside::new(self.clone(), cancel.child_token());
        loop {
            let mut more = false;
            match self.pass().await {
                Ok(outside) => {
                    more = outside.more;
                    beside.start(outside);
                }
                Err(error) => tracing::error!(%error, "a pass over the items failed"),
            }
            let hint = futures_util::future::select_all(
                changes.iter_mut().map(|table| Box::pin(table.changed())),
            );
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                () = std::future::ready(()), if more => {}
                () = beside.next() => {}
                _hint = hint => {}
                () = tokio::time::sleep(TICK) => {}
            }
        }
        beside.shut_down().await;
    }

    /// One pass over the rows and nothing beside it, for whoever measures what that costs.
    pub async fn pass_once(&self) -> Result<(), WorkError> {
        self.pass().await.map(drop)
    }

    /// One pass over the rows, in one transaction.
    pub(super) async fn pass(&self) -> Result<Outside, WorkError> {
        let config = Arc::clone(&self.config);
        let outside = self.store.write(move |tx| pass(tx, &config)).await?;
        if outside.started > 0 {
            failpoint("assigned");
        }
        Ok(outside)
    }

    /// Looks at an item's work and writes what follows; `true` when the look itself failed.
    pub(super) async fn check(&self, due: Due, cancel: &CancellationToken) -> bool {
        let Some(verdict) = settle::verify(self.world.as_ref(), &due, cancel).await else {
            return false;
        };
        let trouble = matches!(verdict, Verdict::Trouble(_));
        let (config, id) = (Arc::clone(&self.config), due.item.id);
        let written =
            self.store.write(move |tx| settle::conclude(tx, &config, &due, verdict)).await;
        if let Err(error) = written {
            tracing::error!(item = id.0, %error, "the result of a check was not written");
            return true;
        }
        failpoint("checked");
        trouble
    }

    /// Looks at an item that waits for a person, and asks where nobody was asked.
    pub(super) async fn review(&self, item: ItemId, cancel: &CancellationToken) {
        if let Err(error) = review::look(&self.store, self.world.as_ref(), item, cancel).await {
            tracing::error!(item = item.0, %error, "cannot ask for a review");
        }
    }

    /// Stops an agent that is at work where it does not belong, and notes that.
    pub(super) async fn stop(&self, stray: Stray) {
        let (item, why) = (stray.item, stray.why.clone());
        tracing::info!(item = item.0, why, "stopping an agent that its item does not want");
        if let Err(error) = self.world.stop_agents(item, &why).await {
            tracing::error!(item = item.0, error = format!("{error:#}"), "cannot stop its agent");
            return;
        }
        if let Err(error) = self.store.write(move |tx| strays::withdrawn(tx, &stray)).await {
            tracing::error!(item = item.0, %error, "that its agent was stopped was not noted");
        }
    }

    /// Looks whether what was paused is still so; lifts on trial what seems to be over.
    pub(super) async fn look_at_pauses(&self, due: Vec<Pause>) {
        for pause in due {
            let still = self.world.still(&pause.scope).await;
            let written = self.store.write(move |tx| match still {
                Some(reason) => pauses::look_later(tx, &pause.scope, &reason),
                None => pauses::try_again(tx, &pause.scope),
            });
            if let Err(error) = written.await {
                tracing::error!(%error, "a look at a pause was not noted");
            }
        }
    }
}

/// All that moves items without a look at the outside.
pub(super) fn pass(tx: &Tx<'_>, config: &Config) -> Result<Outside, WorkError> {
    let mut more = merges::take_results(tx)?;
    let due = settle::settle(tx, config)?;
    movers::promote(tx)?;
    merges::go_on(tx, config)?;
    movers::archive(tx, retention(config))?;
    epics::close(tx)?;
    let started = assign::assign(tx, config)?;
    review::remind(tx, config)?;
    more |= lead::tell(tx)?;
    more |= notices::post(tx)?;
    let (strays, pauses) = (strays::strays(tx)?, pauses::due(tx, tx.now())?);
    Ok(Outside { due, strays, holds: review::holds(tx)?, pauses, started, more })
}

fn retention(config: &Config) -> chrono::Duration {
    let seconds = i64::try_from(config.merge.done_retention_s).unwrap_or(i64::MAX / 1000);
    chrono::Duration::try_seconds(seconds).unwrap_or(chrono::Duration::MAX)
}

/// The tasks beside the loop: at most one check and one stop an item, and one removal.
struct Beside {
    service: WorkService,
    cancel: CancellationToken,
    tasks: JoinSet<Done>,
    checking: HashSet<ItemId>,
    stopping: HashSet<ItemId>,
    reviewing: HashSet<ItemId>,
    reviewed: HashMap<ItemId, Instant>,
    keeping: bool,
    looking: bool,
    /// Items whose last looks failed: when they are looked at again, and how often they failed.
    troubled: HashMap<ItemId, (Instant, u32)>,
}

impl Beside {
    fn new(service: WorkService, cancel: CancellationToken) -> Self {
        Self {
            service,
            cancel,
            tasks: JoinSet::new(),
            checking: HashSet::new(),
            stopping: HashSet::new(),
            reviewing: HashSet::new(),
            reviewed: HashMap::new(),
            keeping: false,
            looking: false,
            troubled: HashMap::new(),
        }
    }

    /// Starts what a pass asked for and what does not run yet.
    fn start(&mut self, outside: Outside) {
        let now = Instant::now();
        for due in outside.due {
            let id = due.item.id;
            let waits = self.troubled.get(&id).is_some_and(|(until, _)| *until > now);
            if waits || !self.checking.insert(id) {
                continue;
            }
            let (service, cancel) = (self.service.clone(), self.cancel.clone());
            self.tasks.spawn(async move { Done::Checked(id, service.check(due, &cancel).await) });
        }
        for stray in outside.strays {
            let id = stray.item;
            if self.stopping.insert(id) {
                let service = self.service.clone();
                self.tasks.spawn(async move {
                    service.stop(stray).await;
                    Done::Stopped(id)
                });
            }
        }
        self.start_reviews(&outside.holds, now);
        if !self.looking && !outside.pauses.is_empty() {
            self.looking = true;
            let service = self.service.clone();
            self.tasks.spawn(async move {
                service.look_at_pauses(outside.pauses).await;
                Done::LookedAtPauses
            });
        }
        if !self.keeping {
            self.keeping = true;
            let service = self.service.clone();
            self.tasks.spawn(async move {
                let mut moved = false;
                loop {
                    match keeper::step(&service.store, service.world.as_ref()).await {
                        Ok(true) => moved = true,
                        Ok(false) => return Done::Kept(moved),
                        Err(error) => {
                            tracing::error!(%error, "the worktree keeper failed");
                            return Done::Kept(false);
                        }
                    }
                }
            });
        }
    }

    /// Looks at what waits for a person: at once where nobody was asked, else now and then.
    fn start_reviews(&mut self, holds: &[Hold], now: Instant) {
        self.reviewed.retain(|item, _at| holds.iter().any(|hold| hold.item == *item));
        for Hold { item: id, asked } in holds {
            let lately = self.reviewed.get(id).is_some_and(|at| now - *at < REVIEW_PAUSE);
            if *asked && lately || !self.reviewing.insert(*id) {
                continue;
            }
            self.reviewed.insert(*id, now);
            let (service, cancel, id) = (self.service.clone(), self.cancel.clone(), *id);
            self.tasks.spawn(async move {
                service.review(id, &cancel).await;
                Done::Reviewed(id)
            });
        }
    }

    /// Waits for a task to end; for ever when there is none. Cancel-safe.
    async fn next(&mut self) {
        loop {
            match self.tasks.join_next().await {
                None => std::future::pending::<()>().await,
                Some(Ok(Done::Kept(moved))) => {
                    self.keeping = false;
                    if moved {
                        return;
                    }
                }
                Some(Ok(Done::Stopped(id))) => {
                    self.stopping.remove(&id);
                    return;
                }
                // What it wrote is a hint of its own.
                Some(Ok(Done::Reviewed(id))) => {
                    self.reviewing.remove(&id);
                }
                Some(Ok(Done::Checked(id, trouble))) => {
                    self.checking.remove(&id);
                    self.note_trouble(id, trouble);
                    return;
                }
                Some(Ok(Done::LookedAtPauses)) => {
                    self.looking = false;
                    return;
                }
                Some(Err(panicked)) => {
                    // Which item it was is not known: all are looked at again.
                    tracing::error!(%panicked, "a check of an item panicked");
                    self.checking.clear();
                    self.stopping.clear();
                    self.reviewing.clear();
                    self.keeping = false;
                    self.looking = false;
                    return;
                }
            }
        }
    }

    /// Has an item whose look failed wait, longer each time.
    fn note_trouble(&mut self, id: ItemId, trouble: bool) {
        if !trouble {
            self.troubled.remove(&id);
            return;
        }
        let failed = self.troubled.get(&id).map_or(0, |(_, failed)| *failed);
        let wait = TROUBLE_FIRST.saturating_mul(1 << failed.min(10)).min(TROUBLE_LAST);
        self.troubled.insert(id, (Instant::now() + wait, failed + 1));
    }

    /// Tells the tasks to end and waits for them, for a while.
    async fn shut_down(mut self) {
        self.cancel.cancel();
        let drained = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN, drained).await.is_err() {
            tracing::warn!("checks of items did not end in time and are dropped");
        }
    }
}
