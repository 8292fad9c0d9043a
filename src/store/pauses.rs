//! What must not be used now because something is wrong that no retry mends: a runtime that is not
//! installed or not logged in, a project without its base branch or with a gate whose program is
//! missing, a full disk, or agents that start and die without end.
//!
//! A pause is told once, when it begins, and ends by itself. It is looked at again with growing
//! distances ([`due`]); when nothing is seen to be wrong any more it is lifted on trial ([`try_again`]),
//! because only work can tell: what fails then renews it without a word ([`begin`]), what succeeds
//! ends it, and that is told ([`succeeded`]).

use super::{StoreError, Tx, log};
use crate::clock::from_millis;
use crate::config::{AgentConfig, RuntimeKind};
use crate::model::event::Event;
use crate::model::ids::ProjectName;
use chrono::{DateTime, Duration, Utc};
use rusqlite::{Connection, OptionalExtension, Row, params};

/// How long after its beginning a pause is looked at for the first time; doubled each time.
const FIRST_LOOK: Duration = Duration::seconds(30);
/// The longest time between two looks.
const LAST_LOOK: Duration = Duration::minutes(15);
/// A trial that nothing has come of for so long is forgotten: what fails then is news again.
const TRIAL: Duration = Duration::days(1);

/// What is paused.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The agents that run on this runtime by this command (`None`: its usual one).
    Runtime(RuntimeKind, Option<String>),
    /// The work in a project.
    Project(ProjectName),
    /// Everything: the machine itself is in trouble.
    Machine,
    /// The starts of all agents: too many, or too many that die.
    Pool,
}

impl Scope {
    /// The runtime that an agent runs on.
    pub fn of_agent(agent: &AgentConfig) -> Self {
        Scope::Runtime(agent.runtime, agent.command.clone())
    }

    fn key(&self) -> String {
        match self {
            Scope::Runtime(kind, None) => format!("runtime:{}", kind.as_str()),
            Scope::Runtime(kind, Some(command)) => format!("runtime:{}:{command}", kind.as_str()),
            Scope::Project(name) => format!("project:{name}"),
            Scope::Machine => "machine".to_owned(),
            Scope::Pool => "pool".to_owned(),
        }
    }

    fn project(&self) -> Option<ProjectName> {
        match self {
            Scope::Project(name) => Some(name.clone()),
            Scope::Runtime(..) | Scope::Machine | Scope::Pool => None,
        }
    }

    fn parse(key: &str) -> Option<Scope> {
        match key {
            "machine" => return Some(Scope::Machine),
            "pool" => return Some(Scope::Pool),
            _ => {}
        }
        match key.split_once(':')? {
            ("project", name) => Some(Scope::Project(name.into())),
            ("runtime", rest) => {
                let (kind, command) = match rest.split_once(':') {
                    Some((kind, command)) => (kind, Some(command.to_owned())),
                    None => (rest, None),
                };
                let kind = RuntimeKind::ALL.into_iter().find(|known| known.as_str() == kind)?;
                Some(Scope::Runtime(kind, command))
            }
            _ => None,
        }
    }

    /// Who is paused, to begin a sentence with.
    pub fn in_words(&self) -> String {
        match self {
            Scope::Runtime(kind, None) => format!("Agents that run on {}", kind.as_str()),
            Scope::Runtime(kind, Some(command)) => {
                format!("Agents that run on {} by `{command}`", kind.as_str())
            }
            Scope::Project(name) => format!("Agents in project {name}"),
            Scope::Machine | Scope::Pool => "All agents".to_owned(),
        }
    }
}

/// A pause.
#[derive(Debug, Clone, PartialEq)]
pub struct Pause {
    /// What is paused.
    pub scope: Scope,
    /// Why and what to do, in words.
    pub reason: String,
    /// Whether it is lifted on trial: then it holds nothing back.
    pub on_trial: bool,
    /// How often it was looked at.
    pub looks: u32,
    /// When it began.
    pub since: DateTime<Utc>,
    /// When it is looked at again; on trial: when that began.
    pub look_at: DateTime<Utc>,
}

const COLUMNS: &str = "scope, reason, on_trial, looks, since, look_at";

fn from_row(row: &Row<'_>) -> rusqlite::Result<Pause> {
    let key: String = row.get(0)?;
    let scope = Scope::parse(&key).ok_or_else(|| {
        rusqlite::Error::FromSqlConversionFailure(
            0,
            rusqlite::types::Type::Text,
            format!("{key:?} is not a known scope").into(),
        )
    })?;
    Ok(Pause {
        scope,
        reason: row.get(1)?,
        on_trial: row.get(2)?,
        looks: row.get(3)?,
        since: from_millis(row.get(4)?),
        look_at: from_millis(row.get(5)?),
    })
}

/// Pauses `scope`, or renews its pause; what is news is written into the log of events. Says whether
/// it was news.
pub fn begin(tx: &Tx<'_>, scope: &Scope, reason: &str) -> Result<bool, StoreError> {
    let before = any(tx, scope)?
        .filter(|pause| !pause.on_trial || from_millis(tx.now()) - pause.look_at < TRIAL);
    let looks = before.as_ref().map_or(0, |pause| pause.looks);
    if before.as_ref().is_none_or(|pause| pause.on_trial) {
        let since = before.as_ref().map_or(tx.now(), |pause| pause.since.timestamp_millis());
        tx.prepare_cached(
            "INSERT OR REPLACE INTO pauses (scope, reason, looks, since, look_at)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![scope.key(), reason, looks, since, tx.now() + wait(looks)])?;
    }
    if before.is_none() {
        let (what, project) = (scope.in_words(), scope.project());
        log::append_event(tx, &Event::Paused { what, reason: reason.to_owned(), project })?;
    }
    Ok(before.is_none())
}

/// How long the next look waits, in milliseconds.
fn wait(looks: u32) -> i64 {
    (FIRST_LOOK * 2_i32.pow(looks.min(10))).min(LAST_LOOK).num_milliseconds()
}

/// The pause of `scope` that holds now.
pub fn find(conn: &Connection, scope: &Scope) -> Result<Option<Pause>, StoreError> {
    Ok(any(conn, scope)?.filter(|pause| !pause.on_trial))
}

fn any(conn: &Connection, scope: &Scope) -> Result<Option<Pause>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM pauses WHERE scope = ?1");
    Ok(conn.prepare_cached(&sql)?.query_row([scope.key()], from_row).optional()?)
}

/// Every pause that holds now, oldest first.
pub fn list(conn: &Connection) -> Result<Vec<Pause>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM pauses WHERE NOT on_trial ORDER BY since, scope");
    let mut statement = conn.prepare_cached(&sql)?;
    let rows = statement.query_map([], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The pauses whose time for a look has come.
pub fn due(conn: &Connection, now: i64) -> Result<Vec<Pause>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM pauses WHERE NOT on_trial AND look_at <= ?1");
    let mut statement = conn.prepare_cached(&sql)?;
    let rows = statement.query_map([now], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Notes that a look found it unchanged; the next one waits longer.
pub fn look_later(tx: &Tx<'_>, scope: &Scope, reason: &str) -> Result<(), StoreError> {
    let looks = any(tx, scope)?.map_or(0, |pause| pause.looks) + 1;
    tx.prepare_cached("UPDATE pauses SET reason = ?2, looks = ?3, look_at = ?4 WHERE scope = ?1")?
        .execute(params![scope.key(), reason, looks, tx.now() + wait(looks)])?;
    Ok(())
}

/// Lifts a pause on trial; what fails now renews it without a word.
pub fn try_again(tx: &Tx<'_>, scope: &Scope) -> Result<(), StoreError> {
    tx.prepare_cached(
        "UPDATE pauses SET on_trial = 1, looks = looks + 1, look_at = ?2
         WHERE scope = ?1 AND NOT on_trial",
    )?
    .execute(params![scope.key(), tx.now()])?;
    Ok(())
}

/// Notes that something in `scope` worked: a pause on trial is over, which is told. Safe to call
/// whenever something works.
pub fn succeeded(tx: &Tx<'_>, scope: &Scope) -> Result<(), StoreError> {
    let ended = tx
        .prepare_cached("DELETE FROM pauses WHERE scope = ?1 AND on_trial")?
        .execute([scope.key()])?;
    if ended > 0 {
        let (what, project) = (scope.in_words(), scope.project());
        log::append_event(tx, &Event::GoesOn { what, project })?;
    }
    Ok(())
}

/// Lifts every pause on trial, because a person says that the cause is gone or because the server
/// has just started; returns what was paused.
pub fn try_all(tx: &Tx<'_>) -> Result<Vec<Scope>, StoreError> {
    let paused = list(tx)?.into_iter().map(|pause| pause.scope).collect();
    tx.prepare_cached(
        "UPDATE pauses SET on_trial = 1, looks = 0, look_at = ?1 WHERE NOT on_trial",
    )?
    .execute([tx.now()])?;
    Ok(paused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::Store;

    const BEGIN_MS: i64 = 1_780_000_000_000;

    struct Bench {
        _dir: tempfile::TempDir,
        store: Store,
        clock: Clock,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let clock = Clock::fixed(from_millis(BEGIN_MS));
            let store = Store::open(dir.path(), clock.clone()).unwrap();
            Self { _dir: dir, store, clock }
        }

        fn at(&self, seconds: i64) {
            self.clock.set(from_millis(BEGIN_MS + seconds * 1000));
        }

        fn write<T: Send + 'static>(
            &self,
            work: impl FnOnce(&Tx<'_>) -> Result<T, StoreError> + Send + 'static,
        ) -> T {
            self.store.write_blocking(work).unwrap()
        }

        fn told(&self) -> Vec<&'static str> {
            let rows = self.store.read_blocking(|conn| log::events_after(conn, 0, 100)).unwrap();
            let name = |event: &Event| {
                let paused = matches!(event, Event::Paused { .. });
                assert!(paused || matches!(event, Event::GoesOn { .. }), "{event:?}");
                if paused { "paused" } else { "goes on" }
            };
            rows.iter().map(|row| name(&row.event)).collect()
        }

        fn holds(&self, scope: &Scope) -> bool {
            let scope = scope.clone();
            self.store.read_blocking(move |conn| find(conn, &scope)).unwrap().is_some()
        }

        fn due(&self) -> usize {
            let now = self.clock.millis();
            self.store.read_blocking(move |conn| due(conn, now)).unwrap().len()
        }
    }

    #[test]
    fn a_scope_is_read_as_it_was_written() {
        for scope in [
            Scope::Runtime(RuntimeKind::ClaudeCode, None),
            Scope::Runtime(RuntimeKind::ClaudeCode, Some("/opt/a:b/claude".to_owned())),
            Scope::Project("demo".into()),
            Scope::Machine,
            Scope::Pool,
        ] {
            assert_eq!(Scope::parse(&scope.key()), Some(scope));
        }
    }

    #[test]
    fn a_pause_is_told_once_however_often_it_is_found_and_tried() {
        let bench = Bench::new();
        let scope = Scope::Runtime(RuntimeKind::ClaudeCode, None);
        let other = Scope::Runtime(RuntimeKind::ClaudeCode, Some("/opt/claude".to_owned()));
        let begin_it = |bench: &Bench| {
            let scope = scope.clone();
            bench.write(move |tx| begin(tx, &scope, "not logged in"))
        };
        assert!(begin_it(&bench));
        assert!(!begin_it(&bench));
        assert!(bench.holds(&scope) && !bench.holds(&other), "another command is another scope");
        bench.at(29);
        assert_eq!(bench.due(), 0);
        bench.at(30);
        assert_eq!(bench.due(), 1);
        let tried = scope.clone();
        bench.write(move |tx| try_again(tx, &tried));
        assert!(!bench.holds(&scope));
        assert!(!begin_it(&bench), "what fails on trial is no news");
        assert!(bench.holds(&scope));
        bench.at(89);
        assert_eq!(bench.due(), 0, "the next look waits longer");
        bench.at(90);
        assert_eq!(bench.due(), 1);
        let (tried, worked) = (scope.clone(), scope.clone());
        bench.write(move |tx| try_again(tx, &tried));
        bench.write(move |tx| succeeded(tx, &worked));
        assert_eq!(bench.told(), ["paused", "goes on"]);
        let worked = scope.clone();
        bench.write(move |tx| succeeded(tx, &worked));
        assert_eq!(bench.told().len(), 2);
    }

    #[test]
    fn work_that_ends_well_while_the_pause_holds_does_not_end_it() {
        let bench = Bench::new();
        bench.write(|tx| begin(tx, &Scope::Machine, "the disk is full"));
        bench.write(|tx| succeeded(tx, &Scope::Machine));
        assert!(bench.holds(&Scope::Machine));
    }

    #[test]
    fn a_person_has_everything_tried_at_once_and_an_old_trial_is_forgotten() {
        let bench = Bench::new();
        bench.write(|tx| begin(tx, &Scope::Machine, "the disk is full"));
        assert_eq!(bench.write(try_all), [Scope::Machine]);
        assert!(!bench.holds(&Scope::Machine));
        assert!(bench.write(try_all).is_empty());
        bench.at(24 * 3600);
        assert!(bench.write(|tx| begin(tx, &Scope::Machine, "the disk is full")));
        assert_eq!(bench.told(), ["paused", "paused"]);
    }
}
