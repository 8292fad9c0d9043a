//! Limits of an agent on an item, and of all agents in a day.

use crate::config::{AgentConfig, LimitsConfig};
use crate::model::event::Event;
use crate::model::ids::{AgentName, ItemId};
use crate::store::agents as sessions;
use crate::store::costs::{self, Spent};
use crate::store::{StoreError, Tx, log, meta};
use chrono::{DateTime, Utc};
use rusqlite::Connection;
use std::time::Duration;

/// The share of a limit at which a running turn is not yet warned about, when none is configured.
const DOLLAR: f64 = 1_000_000.0;

/// What an agent may still use on an item.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    agent: AgentName,
    max_turns: u32,
    turns: u32,
    max_time: Duration,
    time: Duration,
    max_tokens: Option<u64>,
    max_microusd: Option<i64>,
    spent: Spent,
}

/// What `agent` has used of its limits on `item`.
pub(super) fn of(
    conn: &Connection,
    agent: &AgentConfig,
    item: ItemId,
) -> Result<Budget, StoreError> {
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
    Ok(Budget {
        agent: agent.name.clone(),
        max_turns: agent.max_turns,
        turns,
        max_time: Duration::from_secs(agent.max_minutes * 60),
        time,
        max_tokens: agent.max_tokens,
        max_microusd: agent.max_usd.map(|dollars| (dollars * DOLLAR) as i64),
        spent: costs::of_name_on_item(conn, agent.name.as_str(), item)?,
    })
}

impl Budget {
    /// How much of the time is left.
    pub(super) fn time_left(&self) -> Duration {
        self.max_time.saturating_sub(self.time)
    }

    /// The limit of time, in words.
    pub(super) fn minutes_in_words(&self) -> String {
        let minutes = self.max_time.as_secs() / 60;
        format!("{} reached its limit of {minutes} minutes on one item (max_minutes)", self.agent)
    }

    /// The limit that is reached when a turn has used `more`, in words.
    pub(super) fn reached(&self, more: &Spent) -> Option<String> {
        let agent = &self.agent;
        if let Some(max) = self.max_tokens
            && self.spent.tokens() + more.tokens() >= max
        {
            return Some(format!(
                "{agent} reached its limit of {max} tokens on one item (max_tokens)"
            ));
        }
        if let Some(max) = self.max_microusd
            && self.spent.microusd + more.microusd >= max
        {
            let dollars = max as f64 / DOLLAR;
            return Some(format!(
                "{agent} reached its limit of ${dollars:.2} on one item (max_usd)"
            ));
        }
        None
    }

    /// The limit that forbids another turn, in words.
    pub(super) fn exhausted(&self) -> Option<String> {
        if self.turns >= self.max_turns {
            return Some(format!(
                "{} reached its limit of {} turns on one item (max_turns)",
                self.agent, self.max_turns
            ));
        }
        if self.time_left().is_zero() {
            return Some(self.minutes_in_words());
        }
        self.reached(&Spent::default())
    }

    /// The largest share of a limit that is used, in hundredths, for the warning.
    pub(super) fn percent(&self) -> u64 {
        let share = |used: f64, max: f64| if max > 0.0 { (used * 100.0 / max) as u64 } else { 100 };
        let mut percent = share(f64::from(self.turns), f64::from(self.max_turns))
            .max(share(self.time.as_secs_f64(), self.max_time.as_secs_f64()));
        if let Some(max) = self.max_tokens {
            percent = percent.max(share(self.spent.tokens() as f64, max as f64));
        }
        if let Some(max) = self.max_microusd {
            percent = percent.max(share(self.spent.microusd as f64, max as f64));
        }
        percent
    }
}

/// Says, once, that an agent has used most of a limit on an item.
pub(super) fn warn(
    tx: &Tx<'_>,
    budget: &Budget,
    limits: &LimitsConfig,
    item: ItemId,
) -> Result<(), StoreError> {
    let percent = budget.percent();
    let key = format!("budget_warned:{}:{item}", budget.agent);
    if percent < (limits.warn_at * 100.0) as u64 || meta::find(tx, &key)?.is_some() {
        return Ok(());
    }
    meta::set(tx, &key, &percent.to_string())?;
    let what = format!("{} has used {percent}% of a limit on item {item}", budget.agent);
    log::append_event(tx, &Event::BudgetReached { what, room: None })?;
    Ok(())
}

/// What is used of the limits of a day.
struct Day {
    midnight: DateTime<Utc>,
    /// The largest share of a limit; 1 and more: it is reached.
    share: f64,
    used: String,
}

impl Day {
    fn is_full(&self) -> bool {
        self.share >= 1.0
    }

    fn in_words(&self) -> String {
        let used = &self.used;
        if self.is_full() {
            format!("The limit of the day is reached ({used}): nothing starts until midnight UTC")
        } else {
            format!("{:.0}% of the day's limit is used ({used})", self.share * 100.0)
        }
    }
}

fn used_today(
    conn: &Connection,
    limits: &LimitsConfig,
    now: DateTime<Utc>,
) -> Result<Option<Day>, StoreError> {
    if limits.usd_per_day.is_none() && limits.tokens_per_day.is_none() {
        return Ok(None);
    }
    let midnight = now.date_naive().and_hms_opt(0, 0, 0).unwrap_or_default().and_utc();
    let spent = costs::since(conn, midnight)?;
    let dollars = spent.microusd as f64 / DOLLAR;
    let mut share: f64 = 0.0;
    if let Some(max) = limits.usd_per_day {
        share = share.max(dollars / max.max(f64::MIN_POSITIVE));
    }
    if let Some(max) = limits.tokens_per_day {
        share = share.max(spent.tokens() as f64 / max.max(1) as f64);
    }
    let used = format!("${dollars:.2} and {} tokens today (UTC)", spent.tokens());
    Ok(Some(Day { midnight, share, used }))
}

/// The limit of the day that forbids to start anything, in words.
pub(super) fn day_is_full(
    conn: &Connection,
    limits: &LimitsConfig,
    now: DateTime<Utc>,
) -> Result<Option<String>, StoreError> {
    Ok(used_today(conn, limits, now)?.filter(Day::is_full).map(|day| day.in_words()))
}

/// As [`day_is_full`]; warns and tells once a day each.
pub(super) fn day(
    tx: &Tx<'_>,
    limits: &LimitsConfig,
    now: DateTime<Utc>,
) -> Result<Option<String>, StoreError> {
    let Some(day) = used_today(tx, limits, now)? else { return Ok(None) };
    if day.share < limits.warn_at {
        return Ok(None);
    }
    let (full, what, used) = (day.is_full(), day.in_words(), &day.used);
    let key =
        format!("budget_day:{}:{}", day.midnight.date_naive(), if full { "full" } else { "warn" });
    if meta::find(tx, &key)?.is_none() {
        meta::set(tx, &key, used)?;
        let event = Event::BudgetReached { what: what.clone(), room: None };
        log::append_event(tx, &event)?;
    }
    Ok(full.then_some(what))
}
