//! What the board costs as it grows from a hundred items to ten thousand: a pass of what moves
//! items, and what a person is shown.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../tests/support/figures.rs"]
#[allow(dead_code, reason = "other benches use the rest")]
mod figures;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use figures::{Figures, milliseconds, percentile};
use musher::clock::Clock;
use musher::config::Config;
use musher::model::agent::SessionState;
use musher::model::ids::{ItemId, ProjectName};
use musher::model::item::{Item, Kind, Origin, OriginKind};
use musher::model::stage::StageEvent;
use musher::store::pauses::Scope;
use musher::store::{Store, StoreError, Tx, agents as sessions};
use musher::work::{
    self, Checked, DiffSummary, GateOutcome, Kept, NewItem, Trouble, WorkError, WorkService, World,
};
use rusqlite::params;
use tokio_util::sync::CancellationToken;

const SIZES: [usize; 3] = [100, 1_000, 10_000];
const PROJECTS: [&str; 3] = ["alpha", "beta", "gamma"];
const CODERS: usize = 20;
const ROUNDS: usize = 50;
/// The most that a look at the board or a pass may take.
const LIMIT_MS: f64 = 50.0;

fn main() {
    let mut figures = Figures::new("pipeline");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut smallest: Vec<(&str, Duration)> = Vec::new();
    for size in SIZES {
        let measured = runtime.block_on(measure(size));
        for (at, (what, times)) in measured.into_iter().enumerate() {
            let median = percentile(&times, 50);
            let worst = percentile(&times, 95);
            let name = format!("{what}, {size} items, 95th of {}", times.len());
            figures.limit(&name, worst.as_secs_f64() * 1000.0, "ms", LIMIT_MS);
            if size == SIZES[0] {
                smallest.push((what, median));
                continue;
            }
            let before = smallest[at].1;
            let growth = median.as_secs_f64() / before.as_secs_f64().max(1e-9);
            let value = format!("{} ({growth:.1}x that of {})", milliseconds(median), SIZES[0]);
            figures.add(&format!("{what}, {size} items, median"), &value, "");
        }
    }
    figures.print();
}

/// Each thing that is done, with the times that it took.
async fn measure(size: usize) -> Vec<(&'static str, Vec<Duration>)> {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Clock::system()).unwrap();
    let config: Arc<Config> = Arc::new(toml::from_str(&configuration()).unwrap());
    store.write(move |tx| fill(tx, size)).await.unwrap();
    let service = WorkService::new(store.clone(), config, Arc::new(Nowhere));
    // What an upgrade or a start finds is seen to before anything is measured.
    for _ in 0..10 {
        service.pass_once().await.unwrap();
    }
    let mut idle = Vec::new();
    for _ in 0..ROUNDS {
        idle.push(timed(service.pass_once()).await);
    }
    let mut assigning = Vec::new();
    for _ in 0..ROUNDS {
        store.write(free_one).await.unwrap();
        assigning.push(timed(service.pass_once()).await);
    }
    let mut promoting = Vec::new();
    // Of a hundred items, not more than that are waited for.
    for _ in 0..ROUNDS.min(size / 10) {
        store.write(finish_one).await.unwrap();
        promoting.push(timed(service.pass_once()).await);
    }
    let mut shown = Vec::new();
    for round in 0..ROUNDS {
        let (project, now) =
            (ProjectName::from(PROJECTS[round % PROJECTS.len()]), store.clock().millis());
        shown.push(
            timed(store.read(move |conn| work::overview(conn, &project, now).map(drop))).await,
        );
    }
    vec![
        ("a pass that finds nothing to do", idle),
        ("a pass that gives a free agent an item", assigning),
        ("a pass after something is done that others wait for", promoting),
        ("`status` in the store", shown),
    ]
}

async fn timed<T, E: std::fmt::Debug>(what: impl Future<Output = Result<T, E>>) -> Duration {
    let began = Instant::now();
    what.await.unwrap();
    began.elapsed()
}

fn configuration() -> String {
    let mut text = "[llm]\nprovider = \"replay\"\n[limits]\nmax_agents = 100\n\
                    max_starts_per_minute = 100000\n"
        .to_owned();
    for number in 0..CODERS {
        text.push_str(&format!(
            "[[agents]]\nname = \"coder-{number}\"\nrole = \"coder\"\nruntime = \"replay\"\n"
        ));
    }
    text
}

fn person() -> Origin {
    Origin::new(OriginKind::User, "@you:hs", chrono::DateTime::UNIX_EPOCH).unwrap()
}

/// A quarter done, a quarter that waits for an agent (some pinned), half in the backlog, most of it
/// waiting for others.
fn fill(tx: &Tx<'_>, size: usize) -> Result<(), WorkError> {
    for name in PROJECTS {
        let settings = format!("{{\"name\": \"{name}\", \"path\": \"/{name}\"}}");
        tx.execute(
            "INSERT INTO projects (name, path, base, settings, source, created_at)
             VALUES (?1, ?1, 'main', ?2, 'config', 0)",
            params![name, settings],
        )
        .map_err(StoreError::from)?;
    }
    let mut earlier: Vec<ItemId> = Vec::new();
    for number in 0..size {
        let waits = number % 4 > 1 && number % 8 != 7;
        let depends_on = earlier.iter().rev().skip(number % 3).step_by(3).take(3).copied();
        let new = NewItem {
            project: PROJECTS[number % PROJECTS.len()].into(),
            kind: Kind::Story,
            name: format!("Wish number {number}"),
            body: "What it is about, in a few paragraphs.\n".repeat(50),
            depends_on: if waits { depends_on.collect() } else { vec![] },
            epic: None,
            parent: None,
            agent: (number % 16 == 4).then(|| format!("coder-{}", number % CODERS).into()),
            qa: None,
            origin: person(),
            room: None,
        };
        let item = work::create(tx, new)?;
        match number % 4 {
            0 => drop(work::start(tx, item.id, None, &person())?),
            1 => {
                work::start(tx, item.id, None, &person())?;
                let at = musher::clock::from_millis(tx.now());
                let event = StageEvent::Merged { commit: "c0ffee".to_owned(), at };
                work::apply(tx, item.id, &event, &person(), "landed")?;
            }
            _ => earlier.push(item.id),
        }
    }
    Ok(())
}

/// An agent's item is stopped, its session is over, and the item waits for an agent again: so many
/// wait at any time.
fn free_one(tx: &Tx<'_>) -> Result<(), WorkError> {
    let sessions = sessions::live_sessions(tx)?;
    let session = &sessions[sessions.len() / 2];
    work::stop(tx, session.item, &person())?;
    sessions::move_state(tx, session.id, SessionState::Zombie)?;
    work::start(tx, session.item, None, &person())?;
    Ok(())
}

/// The item that most others wait for is done.
fn finish_one(tx: &Tx<'_>) -> Result<(), WorkError> {
    let id: ItemId = tx
        .query_row(
            "SELECT depends_on FROM item_dependencies JOIN items ON items.id = depends_on
             WHERE col <> 'done' GROUP BY depends_on ORDER BY count(*) DESC LIMIT 1",
            [],
            |row| row.get(0),
        )
        .map_err(StoreError::from)?;
    let at = musher::clock::from_millis(tx.now());
    let event = StageEvent::Merged { commit: "c0ffee".to_owned(), at };
    work::apply(tx, id, &event, &person(), "landed")?;
    Ok(())
}

/// No outside: a pass has none.
struct Nowhere;

#[async_trait]
impl World for Nowhere {
    async fn check(&self, _item: &Item) -> Result<Checked, Trouble> {
        Ok(Checked::default())
    }

    async fn run_gates(
        &self,
        _item: &Item,
        _commit: &str,
        _cancel: &CancellationToken,
    ) -> Result<GateOutcome, Trouble> {
        Ok(GateOutcome::default())
    }

    async fn tip(&self, _item: &Item) -> anyhow::Result<Option<String>> {
        Ok(None)
    }

    async fn diff_summary(&self, _item: &Item, _commit: &str) -> anyhow::Result<DiffSummary> {
        anyhow::bail!("there is no repository")
    }

    async fn stop_agents(&self, _item: ItemId, _why: &str) -> anyhow::Result<()> {
        Ok(())
    }

    async fn remove_worktree(&self, _project: &ProjectName, _item: ItemId) -> anyhow::Result<Kept> {
        Ok(Kept::default())
    }

    async fn still(&self, _scope: &Scope) -> Option<String> {
        None
    }
}
