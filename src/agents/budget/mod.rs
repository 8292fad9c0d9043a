//! What may be spent: limits of an agent on an item, of an item, and of a project and of everybody
//! in a day.
//!
//! A limit is a [`Meter`], read anew from the rows of costs and turns each time: there is no counter
//! beside them that could drift. It is looked at before each start, with each cost that a running
//! turn causes, before each model call of the built-in agent, and on each tick of the watchdog. At
//! `warn_at` it is warned about and at the limit it is told, once each. A limit of a day ends by
//! itself when the day does: what it held goes on then, because the pool looks again; a limit on an
//! item ends the work on it, and the item's block says so.

#[cfg(test)]
mod tests;

use crate::config::{AgentConfig, Config, Day};
use crate::model::event::Event;
use crate::model::ids::{AgentName, ItemId, ProjectName};
use crate::store::agents as sessions;
use crate::store::costs::{self, Span, Spent};
use crate::store::{StoreError, Tx, items, log, projects, told};
use chrono::{DateTime, Utc};
use rusqlite::Connection;
use std::time::Duration;

/// Millionths in a dollar.
const DOLLAR: f64 = 1_000_000.0;

/// For what a limit counts.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Of {
    /// An agent on an item.
    Agent(AgentName, ItemId),
    /// An item, by everybody.
    Item(ItemId),
    /// A project in a day, by everybody.
    Project(ProjectName),
    /// Everybody in a day, the coordinator too.
    Everybody,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Usd,
    Tokens,
    Turns,
    Minutes,
}

impl Unit {
    fn amount(self, of: f64) -> String {
        match self {
            Unit::Usd => format!("${of:.2}"),
            Unit::Tokens => format!("{of:.0} tokens"),
            Unit::Turns => format!("{of:.0} turns"),
            Unit::Minutes => format!("{of:.0} minutes"),
        }
    }
}

/// A limit, and how much of it is used.
#[derive(Debug, Clone, PartialEq)]
pub struct Meter {
    of: Of,
    unit: Unit,
    used: f64,
    max: f64,
    day: Day,
}

/// A limit that is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// Which, in words.
    pub what: String,
    /// Whether it ends by itself with the day; otherwise a person must raise it.
    pub resumes: bool,
}

impl Meter {
    /// The share that is used; 1 and more: it is reached.
    pub fn share(&self) -> f64 {
        if self.max > 0.0 { self.used / self.max } else { 1.0 }
    }

    /// Whether nothing is left.
    pub fn is_full(&self) -> bool {
        self.share() >= 1.0
    }

    fn resumes(&self) -> bool {
        match self.of {
            Of::Project(_) | Of::Everybody => true,
            Of::Agent(..) | Of::Item(_) => false,
        }
    }

    /// The key of the configuration.
    fn key(&self) -> &'static str {
        match (&self.of, self.unit) {
            (Of::Agent(..), Unit::Usd) => "max_usd",
            (Of::Agent(..), Unit::Tokens) => "max_tokens",
            (Of::Agent(..), Unit::Turns) => "max_turns",
            (Of::Agent(..), Unit::Minutes) => "max_minutes",
            (Of::Item(_), Unit::Usd) => "[limits] usd_per_item",
            (Of::Item(_), _tokens) => "[limits] tokens_per_item",
            (Of::Project(_), Unit::Usd) => "[[projects]] usd_per_day",
            (Of::Project(_), _tokens) => "[[projects]] tokens_per_day",
            (Of::Everybody, Unit::Usd) => "[limits] usd_per_day",
            (Of::Everybody, _tokens) => "[limits] tokens_per_day",
        }
    }

    /// Names what is said about it, so that it is said once: a limit that was raised is another one.
    pub fn name(&self, full: bool) -> String {
        let (of, max) = (&self.of, self.max);
        let of = match of {
            Of::Agent(agent, item) => format!("{agent}:{item}"),
            Of::Item(item) => format!("item:{item}"),
            Of::Project(project) => format!("project:{project}:{}", self.day.date),
            Of::Everybody => format!("day:{}", self.day.date),
        };
        let level = if full { "full" } else { "warn" };
        format!("budget:{of}:{}:{max}:{level}", self.key())
    }

    /// How it stands, as an entry of a list.
    pub fn in_words(&self) -> String {
        let (used, max) = (self.unit.amount(self.used), self.unit.amount(self.max));
        format!("{used} of {max} ({:.0}%, {})", (self.share() * 100.0).floor(), self.key())
    }

    /// What is said when most of it is used.
    pub fn warning(&self) -> String {
        let (used, max) = (self.unit.amount(self.used), self.unit.amount(self.max));
        let percent = (self.share() * 100.0).floor();
        let end = self.day.end_in_words();
        let key = self.key();
        match &self.of {
            Of::Agent(agent, item) => format!(
                "⚠️ {agent} has used {percent}% of its limit of {max} on item {item} ({key}). At 100% \
                 it is stopped there."
            ),
            Of::Item(item) => format!(
                "⚠️ Item {item} has used {percent}% of its limit of {max} ({key}). At 100% the work on \
                 it is stopped."
            ),
            Of::Project(project) => format!(
                "⚠️ {used} of today's {max} for project {project} are spent ({percent}%). At 100% \
                 nothing goes on in it until {end}; the limit is `{key}`."
            ),
            Of::Everybody => format!(
                "⚠️ {used} of today's {max} are spent ({percent}%). At 100% nothing goes on until \
                 {end}; the limit is `{key}`."
            ),
        }
    }

    /// That it is reached, as a clause.
    pub fn reached(&self) -> Reached {
        let max = self.unit.amount(self.max);
        let (end, key) = (self.day.end_in_words(), self.key());
        let what = match &self.of {
            Of::Agent(agent, _item) => {
                format!("{agent} reached its limit of {max} on one item ({key})")
            }
            Of::Item(item) => format!("item {item} reached its limit of {max} ({key})"),
            Of::Project(project) => format!(
                "today's {max} for project {project} are spent ({key}): nothing goes on in it until \
                 {end}"
            ),
            Of::Everybody => {
                format!("today's {max} are spent ({key}): nothing goes on until {end}")
            }
        };
        Reached { what, resumes: self.resumes() }
    }
}

/// Who spends, as far as it is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spender<'a> {
    /// The agent.
    pub agent: Option<&'a AgentConfig>,
    /// The item.
    pub item: Option<ItemId>,
    /// The project; that of the item when left out.
    pub project: Option<&'a ProjectName>,
}

/// The limits in money and tokens that hold for a spender, widest last.
pub fn meters(
    conn: &Connection,
    config: &Config,
    now: DateTime<Utc>,
    spender: &Spender<'_>,
) -> Result<Vec<Meter>, StoreError> {
    let day = config.day(now);
    let mut found = Meters { day, all: vec![] };
    let limits = &config.limits;
    if let Some(item) = spender.item {
        if let Some(agent) = spender.agent {
            let of = Of::Agent(agent.name.clone(), item);
            found.add(of, agent.max_usd, agent.max_tokens, || {
                costs::of_name_on_item(conn, agent.name.as_str(), item)
            })?;
        }
        found.add(Of::Item(item), limits.usd_per_item, limits.tokens_per_item, || {
            costs::of_item(conn, item)
        })?;
    }
    let project = match (spender.project, spender.item) {
        (Some(project), _) => Some(project.clone()),
        (None, Some(item)) => items::find(conn, item)?.map(|item| item.project),
        (None, None) => None,
    };
    if let Some(project) = project {
        // The configuration's settings win over the row's, which may be of an earlier one.
        let settings = match config.projects.iter().find(|known| known.name == project) {
            Some(settings) => Some(settings.clone()),
            None => projects::find(conn, &project)?.map(|row| row.settings),
        };
        if let Some(settings) = settings {
            let span =
                Span { from: Some(day.begin), project: Some(project.clone()), ..Span::default() };
            let of = Of::Project(project);
            found.add(of, settings.usd_per_day, settings.tokens_per_day, || {
                costs::sum(conn, &span)
            })?;
        }
    }
    found.add(Of::Everybody, limits.usd_per_day, limits.tokens_per_day, || {
        costs::since(conn, day.begin)
    })?;
    Ok(found.all)
}

/// Meters as they are collected.
struct Meters {
    day: Day,
    all: Vec<Meter>,
}

impl Meters {
    /// Adds the limits that there are; `spent` is asked only if there is one.
    fn add(
        &mut self,
        of: Of,
        usd: Option<f64>,
        tokens: Option<u64>,
        spent: impl FnOnce() -> Result<Spent, StoreError>,
    ) -> Result<(), StoreError> {
        if usd.is_none() && tokens.is_none() {
            return Ok(());
        }
        let spent = spent()?;
        let day = self.day;
        if let Some(max) = usd {
            let (of, used) = (of.clone(), spent.microusd as f64 / DOLLAR);
            self.all.push(Meter { of, unit: Unit::Usd, used, max, day });
        }
        if let Some(max) = tokens {
            let (used, max) = (spent.tokens() as f64, max as f64);
            self.all.push(Meter { of, unit: Unit::Tokens, used, max, day });
        }
        Ok(())
    }
}

/// The limit that forbids a spender to spend more; changes nothing.
pub fn reached(
    conn: &Connection,
    config: &Config,
    now: DateTime<Utc>,
    spender: &Spender<'_>,
) -> Result<Option<Reached>, StoreError> {
    let all = meters(conn, config, now, spender)?;
    Ok(all.iter().find(|meter| meter.is_full()).map(Meter::reached))
}

/// As [`reached`]; what is worth telling is told, once.
pub(super) fn check(
    tx: &Tx<'_>,
    config: &Config,
    spender: &Spender<'_>,
) -> Result<Option<Reached>, StoreError> {
    let now = crate::clock::from_millis(tx.now());
    tell(tx, config, &meters(tx, config, now, spender)?)
}

/// Tells what is to be told of these limits, once each; returns the first that is reached.
fn tell(tx: &Tx<'_>, config: &Config, all: &[Meter]) -> Result<Option<Reached>, StoreError> {
    let mut full = None;
    for meter in all {
        if meter.share() < config.limits.warn_at && !meter.is_full() {
            continue;
        }
        // That an agent's or an item's limit is reached is said by the block that follows.
        let silent = meter.is_full() && !meter.resumes();
        let key = meter.name(meter.is_full());
        if !silent && told::once(tx, &key)? {
            let what = if meter.is_full() {
                format!("⛔ {}. Then it goes on by itself.", sentence(&meter.reached().what))
            } else {
                meter.warning()
            };
            let (item, project) = match &meter.of {
                Of::Agent(_, item) | Of::Item(item) => (Some(*item), None),
                Of::Project(project) => (None, Some(project.clone())),
                Of::Everybody => (None, None),
            };
            log::append_event(tx, &Event::BudgetReached { what, room: None, item, project, key })?;
        }
        if meter.is_full() && full.is_none() {
            full = Some(meter.reached());
        }
    }
    Ok(full)
}

fn sentence(clause: &str) -> String {
    let mut letters = clause.chars();
    let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    first + letters.as_str()
}

/// What keeps everybody from spending more: the limits of the day.
pub(super) fn check_day(tx: &Tx<'_>, config: &Config) -> Result<Option<Reached>, StoreError> {
    check(tx, config, &Spender::default())
}

/// How much an agent has worked on an item, beside what it cost.
#[derive(Debug, Clone)]
pub(super) struct Effort {
    agent: AgentName,
    item: ItemId,
    max_turns: u32,
    turns: u32,
    max_time: Duration,
    time: Duration,
}

/// What `agent` has used of its turns and minutes on `item`.
pub(super) fn effort(
    conn: &Connection,
    agent: &AgentConfig,
    item: ItemId,
) -> Result<Effort, StoreError> {
    let mut turns = 0;
    let mut time = Duration::ZERO;
    for session in sessions::sessions_of_item(conn, item)? {
        if session.agent != agent.name {
            continue;
        }
        for turn in sessions::turns_of_session(conn, session.id)? {
            let Some(result) = turn.result else { continue };
            // Ends that are not the agent's doing are not counted against it.
            turns += u32::from(!result.is_forced());
            time += Duration::from_millis(result.duration_ms);
        }
    }
    Ok(Effort {
        agent: agent.name.clone(),
        item,
        max_turns: agent.max_turns,
        turns,
        max_time: Duration::from_secs(agent.max_minutes * 60),
        time,
    })
}

impl Effort {
    /// How much of the time is left.
    pub(super) fn time_left(&self) -> Duration {
        self.max_time.saturating_sub(self.time)
    }

    fn meters(&self, day: Day) -> [Meter; 2] {
        let meter = |unit, used, max| {
            let of = Of::Agent(self.agent.clone(), self.item);
            Meter { of, unit, used, max, day }
        };
        let minutes = |time: Duration| time.as_secs_f64() / 60.0;
        [
            meter(Unit::Turns, f64::from(self.turns), f64::from(self.max_turns)),
            meter(Unit::Minutes, minutes(self.time), minutes(self.max_time)),
        ]
    }

    /// The limit of time, reached.
    pub(super) fn out_of_time(&self, config: &Config, now: DateTime<Utc>) -> Reached {
        let [_turns, minutes] = self.meters(config.day(now));
        minutes.reached()
    }

    /// The limit that forbids another turn; warns about one that is nearly reached, once.
    pub(super) fn check(
        &self,
        tx: &Tx<'_>,
        config: &Config,
    ) -> Result<Option<Reached>, StoreError> {
        let now = crate::clock::from_millis(tx.now());
        tell(tx, config, &self.meters(config.day(now)))
    }
}
