//! Tools for timers and for what was spent.

use super::args::{Item as Number, Nothing};
use super::{Answer, Context, Tool, Who, reading, refuse, writing};
use crate::llm::tools::ToolCaller;
use crate::model::ids::{PersonId, TimerId};
use crate::store::Tx;
use crate::store::costs::{self, By, Span, Spent};
use crate::store::timers::{NewTimer, TimerKind};
use crate::timers::{self, When};
use crate::work;
use chrono::{DateTime, Days, Utc};
use rusqlite::Connection;
use schemars::JsonSchema;
use serde::Deserialize;
use std::fmt::Write as _;

pub fn tools() -> Vec<Tool> {
    vec![
        writing(
            "timer_set",
            Who::Coordinator,
            "Sets a reminder, or a time at which an item is started or you are asked something. Survives restarts.",
            timer_set,
        ),
        reading("timer_list", Who::Coordinator, "The timers that wait, next first.", timer_list),
        writing("timer_cancel", Who::Coordinator, "Cancels a timer.", timer_cancel),
        reading(
            "cost_report",
            Who::Coordinator,
            "What models and agents have cost, in money and tokens.",
            cost_report,
        ),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TimerSet {
    /// When: RFC 3339 such as 2026-01-31T09:00:00+01:00, or words such as `in 2 hours`,
    /// `tomorrow 9am`, `every weekday at 09:00`. Words are read in the person's time zone.
    when: String,
    /// For a repeated one: a cron pattern of five fields, in place of `when`'s words.
    cron: Option<String>,
    /// What to remind of, or to ask.
    #[serde(default)]
    text: String,
    /// What it does; reminder when left out, start when `item` is given.
    kind: Option<Kind>,
    /// The item to start.
    item: Option<Number>,
    /// Whom to remind (@name:server); who asked when left out.
    person: Option<String>,
}

/// What a timer does.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// Posts `text` and mentions the person.
    Reminder,
    /// Puts `text` to you as if the person had said it.
    Prompt,
    /// Starts `item`.
    Start,
}

fn timer_set(context: &Context, tx: &Tx<'_>, caller: &ToolCaller, args: TimerSet) -> Answer {
    let ToolCaller::Coordinator { session, people, .. } = caller else {
        return refuse("Agents wait with wait_for.");
    };
    let config = &context.services.config;
    let person: Option<PersonId> = match &args.person {
        Some(name) => match timers::find_person(config, name) {
            Some(person) => Some(person),
            None => return refuse(format!("Nobody here is called {name}. Give @name:server.")),
        },
        None => people.last().cloned(),
    };
    let zone = timers::zone_of(tx, config, person.as_ref())?;
    let now = crate::clock::from_millis(tx.now());
    let when = match (&args.cron, DateTime::parse_from_rfc3339(args.when.trim())) {
        (Some(cron), _) => timers::parse_cron(cron, now, zone)?,
        (None, Ok(at)) => When::Once(at.with_timezone(&Utc)),
        (None, Err(_)) => timers::parse_when(&args.when, now, zone)?,
    };
    let item = args.item.map(|number| number.0);
    if let Some(item) = item {
        work::find(tx, item)?;
    }
    let kind = match (args.kind, item) {
        (Some(Kind::Start) | None, Some(_)) => TimerKind::Start,
        (Some(Kind::Start), None) => return refuse("Give `item`: which to start."),
        (Some(Kind::Prompt), _) => TimerKind::Prompt,
        (Some(Kind::Reminder) | None, _) => TimerKind::Reminder,
    };
    let timer = NewTimer {
        kind,
        session: Some(session.clone()),
        created_by: person
            .as_ref()
            .map_or_else(|| "coordinator".to_owned(), |person| person.0.clone()),
        person,
        item,
        text: args.text,
        due_at: when.first(),
        cron: match when {
            When::Once(_) => None,
            When::Every { cron, .. } => Some(cron),
        },
        zone: zone.name().to_owned(),
    };
    let (id, at) = timers::set(tx, &timer)?;
    let every = timer.cron.map(|cron| format!(", then again by `{cron}`")).unwrap_or_default();
    Ok(format!("Timer {id} is set for {at}{every}. Tell the person this time."))
}

fn timer_list(_: &Context, conn: &Connection, _: &ToolCaller, _: Nothing) -> Answer {
    let waiting = timers::list(conn)?;
    if waiting.is_empty() {
        return Ok("No timer waits.".to_owned());
    }
    Ok(waiting.iter().map(timers::line).collect::<Vec<_>>().join("\n"))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TimerCancel {
    /// Its number.
    timer: i64,
}

fn timer_cancel(_: &Context, tx: &Tx<'_>, _: &ToolCaller, args: TimerCancel) -> Answer {
    let timer = timers::cancel(tx, TimerId(args.timer))?;
    Ok(format!("Cancelled: {}", timers::line(&timer)))
}

/// Since when.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Since {
    /// Midnight UTC.
    #[default]
    Today,
    /// Seven days ago.
    Week,
    /// Ever.
    All,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CostReport {
    /// Since when; today when left out.
    #[serde(default)]
    since: Since,
    /// Only this item, since ever.
    item: Option<Number>,
}

fn cost_report(context: &Context, conn: &Connection, _: &ToolCaller, args: CostReport) -> Answer {
    if let Some(number) = args.item {
        let item = work::find(conn, number.0)?;
        return Ok(format!(
            "#{} {}: {}",
            item.id,
            item.name,
            spent(&costs::of_item(conn, item.id)?)
        ));
    }
    let now = context.services.store.clock().now();
    let from = match args.since {
        Since::Today => context.services.config.day(now).begin,
        Since::Week => now.checked_sub_days(Days::new(7)).unwrap_or(now),
        Since::All => DateTime::UNIX_EPOCH,
    };
    let mut text = format!("In all: {}\n", spent(&costs::since(conn, from)?));
    for (title, by) in [("By agent", By::Name), ("By item", By::Item), ("By model", By::Model)] {
        let _ = writeln!(text, "{title}:");
        for (key, sum) in costs::grouped(conn, &Span::since(from), by)? {
            let key = if key.is_empty() { "none".to_owned() } else { key };
            let _ = writeln!(text, "- {key}: {}", spent(&sum));
        }
    }
    let limits = &context.services.config.limits;
    if let Some(usd) = limits.usd_per_day {
        let _ = writeln!(text, "Limit: {usd:.2} USD a day.");
    }
    if let Some(tokens) = limits.tokens_per_day {
        let _ = writeln!(text, "Limit: {tokens} tokens a day.");
    }
    Ok(text)
}

fn spent(sum: &Spent) -> String {
    format!(
        "{:.4} USD, {} tokens in ({} of them cached), {} out",
        sum.microusd as f64 / 1e6,
        sum.usage.input + sum.usage.cached,
        sum.usage.cached,
        sum.usage.output
    )
}
