//! The commands that show something out of the database.

use super::CommandError;
use super::command::CostOf;
use super::context::{Context, fenced, money, one_line, refused};
use crate::agents::budget::{self, Spender};
use crate::agents::{self, AgentRow, TurnStory, table};
use crate::clock::from_millis;
use crate::config::Config;
use crate::model::ids::{AgentName, ItemId};
use crate::model::item::{Item, Kind};
use crate::services::Services;
use crate::store::costs::{self, By, Span, Spent};
use crate::store::mail::{Filter, list};
use crate::store::{agents as sessions, items, rooms};
use crate::{upgrade, work};
use chrono::{DateTime, Utc};
use rusqlite::Connection;
use std::fmt::Write;

/// How many messages `mail` shows.
const MAIL_SHOWN: u32 = 15;

/// How many items of an epic `show` lists.
const CHILDREN_SHOWN: usize = 40;

/// How long one event may be in `logs`.
const EVENT_CHARS: usize = 160;

/// How many lines of `cost` a group has at most.
const COST_LINES: usize = 8;

/// The days of `cost week`.
const WEEK: u64 = 7;

/// `show N`
pub fn show(context: &Context, conn: &Connection, id: ItemId) -> Result<String, CommandError> {
    let item = context.item(conn, id)?;
    let Item { kind, name, project, stage, qa, priority, origin, .. } = &item;
    let mut out = format!("**#{id} {name}**\n\n");
    let _ = writeln!(out, "- {} in {project}, {}", kind.as_str(), stage.name().replace('_', " "));
    let filed = origin.at.format("%-d %b %Y, %H:%M UTC");
    let _ = writeln!(out, "- filed by {} on {filed}", origin.id);
    if let Some(epic) = item.epic {
        let name = items::find(conn, epic)?.map(|epic| epic.name).unwrap_or_default();
        let _ = writeln!(out, "- part of epic #{epic} {name}");
    }
    if !item.depends_on.is_empty() {
        let list: Vec<String> = item.depends_on.iter().map(|id| format!("#{id}")).collect();
        let _ = writeln!(out, "- depends on {}", list.join(", "));
    }
    if let Some(agent) = &item.agent {
        let _ = writeln!(out, "- assigned to {agent}");
    }
    if *priority != 0 {
        let _ = writeln!(out, "- priority {priority}");
    }
    let _ = writeln!(out, "- checked by {}", qa.as_str());
    if item.cost_microusd > 0 {
        let _ = writeln!(out, "- cost {}", money(item.cost_microusd));
    }
    if let Some(parent) = item.parent {
        let name = items::find(conn, parent)?.map(|parent| parent.name).unwrap_or_default();
        let _ = writeln!(out, "- handed out by the lead of #{parent} {name}");
    }
    let children = children(conn, &item)?;
    if item.kind == Kind::Epic {
        let progress = work::progress(conn, id)?;
        let _ = writeln!(out, "- its items: {}", work::progress_in_words(&progress));
    } else if !children.is_empty() {
        let _ = writeln!(out, "- its lead handed out:");
    }
    for child in children.iter().take(CHILDREN_SHOWN) {
        let _ = writeln!(out, "- {child}");
    }
    for warning in sessions::warnings_of_item(conn, id)? {
        let _ = writeln!(out, "- ⚠️ {warning}");
    }
    if !item.body.trim().is_empty() {
        let _ = write!(out, "\n{}", item.body.trim());
    }
    Ok(out.trim_end().to_owned())
}

/// The items of an epic, or those that an item's lead handed out, a line each.
pub(super) fn children(conn: &Connection, item: &Item) -> Result<Vec<String>, CommandError> {
    Ok(match item.kind {
        Kind::Epic => work::children_in_words(conn, item.id)?,
        Kind::Story | Kind::Bug | Kind::Refactor | Kind::Spike => {
            work::parts_in_words(conn, item.id)?
        }
    })
}

/// `why N`
pub fn why(context: &Context, conn: &Connection, id: ItemId) -> Result<String, CommandError> {
    let services = &context.services;
    Ok(work::why(conn, &services.config, services.store.clock().now(), id)?)
}

/// `agents`
pub async fn agents(context: &Context) -> Result<String, CommandError> {
    let Services { store, config, .. } = &context.services;
    let rows = table(store, config).await?;
    if rows.is_empty() {
        return refused(
            "There are no agents. Add some to `musher.toml`, \
             `[[agents]]`, and restart.",
        );
    }
    let now = store.clock().now();
    Ok(rows.iter().map(|row| agent_entry(row, now)).collect::<Vec<_>>().join("\n"))
}

/// An agent as an entry of a list: what it does, and what that takes.
fn agent_entry(row: &AgentRow, now: DateTime<Utc>) -> String {
    let model = row.model.as_ref().map(|model| format!(" {model}")).unwrap_or_default();
    let mut out =
        format!("- **{}** ({}, {}{model}) {}", row.name, row.role, row.runtime, doing(row));
    let mut facts = Vec::new();
    if row.turns > 0 {
        facts.push(format!("{} turns", row.turns));
    }
    if row.tokens > 0 {
        facts.push(format!("{} tokens", thousands(row.tokens)));
    }
    if row.usd > 0.0 {
        facts.push(money((row.usd * 1e6) as i64));
    }
    if let Some(at) = row.last_activity.filter(|_| row.state == "in_turn" || row.state == "stalled")
    {
        facts.push(format!("heard {} s ago", (now - at).num_seconds().max(0)));
    }
    if row.processes > 0 {
        facts.push(format!(
            "{} processes, {} MB, {} s of CPU",
            row.processes,
            row.memory >> 20,
            row.cpu_ms / 1000
        ));
    }
    if row.unread_mail > 0 {
        facts.push(format!("{} mails wait", row.unread_mail));
    }
    if !facts.is_empty() {
        let _ = write!(out, " · {}", facts.join(" · "));
    }
    if let Some(event) = row.last_event.as_ref().filter(|_| row.state == "in_turn") {
        let _ = write!(out, "\n  {}", one_line(event, 100));
    }
    out
}

fn doing(row: &AgentRow) -> String {
    let Some(item) = row.item else { return "is free".to_owned() };
    let since = row.since.map(moment).unwrap_or_default();
    match row.state {
        "booting" => format!("begins #{item} (since {since})"),
        "in_turn" => format!("works on #{item} since {since}"),
        "between_turns" => format!("is on #{item} since {since}, between turns"),
        "waiting" => {
            let what = one_line(row.waits_for.as_deref().unwrap_or_default(), 80);
            let until = row.waits_until.map(|at| format!(", until {} at the latest", moment(at)));
            format!("waits on #{item}: {what}{}", until.unwrap_or_default())
        }
        "stalled" => format!("is silent on #{item}"),
        _zombie => format!(
            "has ended on #{item}, but processes of it live on: `stop {item}` tries to end them"
        ),
    }
}

fn moment(at: DateTime<Utc>) -> String {
    at.format("%-d %b %H:%M UTC").to_string()
}

/// `replay N [LINES]`
pub async fn replay(context: &Context, id: ItemId, lines: usize) -> Result<String, CommandError> {
    let here = context.clone();
    let read = context.services.store.read(move |conn| {
        let item = here.item(conn, id)?;
        let stories = agents::replay(conn, here.services.store.data_dir(), id)?;
        Ok::<_, CommandError>((item.name, stories))
    });
    let (name, stories) = read.await?;
    if stories.is_empty() {
        return Ok(format!("No agent has worked on #{id} {name} yet."));
    }
    let all: Vec<String> = stories.iter().flat_map(TurnStory::lines).collect();
    let left = all.len().saturating_sub(lines);
    let more = match left {
        0 => String::new(),
        left => format!("\n\n{left} lines before these: `musher replay {id}` shows all."),
    };
    Ok(format!("**#{id} {name}**\n\n{}{more}", fenced(&all[left..].join("\n"))))
}

/// `logs N [LINES]`
pub fn logs(
    context: &Context,
    conn: &Connection,
    id: ItemId,
    lines: usize,
) -> Result<String, CommandError> {
    let item = context.item(conn, id)?;
    let events = sessions::turn_events(conn, id, lines)?;
    if events.is_empty() {
        return Ok(format!("No agent has worked on #{id} {} yet.", item.name));
    }
    Ok(format!("**#{id} {}**\n\n{}", item.name, fenced(&event_lines(&events))))
}

/// Events, a line each.
pub fn event_lines(events: &[sessions::TurnEvent]) -> String {
    let line = |event: &sessions::TurnEvent| {
        let text = one_line(&event.text, EVENT_CHARS);
        format!("{} {:<8} {text}", event.at.format("%H:%M:%S"), event.kind)
    };
    events.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// `mail [AGENT]`
pub fn mail(
    context: &Context,
    conn: &Connection,
    agent: Option<&AgentName>,
) -> Result<String, CommandError> {
    let of = |to: Option<&AgentName>, from: Option<&AgentName>| {
        let filter = Filter {
            to: to.map(|name| name.0.clone()),
            from: from.map(|name| name.0.clone()),
            limit: Some(MAIL_SHOWN),
            ..Filter::default()
        };
        list(conn, &filter)
    };
    let mut found = match agent {
        None => of(None, None)?,
        Some(name) => {
            let mut both = of(Some(name), None)?;
            both.extend(of(None, Some(name))?);
            both.sort_by_key(|mail| std::cmp::Reverse(mail.id));
            both.dedup_by_key(|mail| mail.id);
            both.truncate(MAIL_SHOWN as usize);
            both
        }
    };
    if found.is_empty() {
        if let Some(name) = agent {
            context.check_agent(name)?;
            return Ok(format!("No mail to or from {name} yet."));
        }
        return Ok("No mail yet.".to_owned());
    }
    found.reverse();
    let mut out = String::new();
    for mail in found {
        let item = mail.item.map(|item| format!(" (#{item})")).unwrap_or_default();
        let unread = if mail.read_at.is_none() { " · unread" } else { "" };
        let _ = writeln!(
            out,
            "- {} {} → {}{item}, {}: **{}**{unread}",
            moment(mail.created_at),
            mail.from,
            mail.to,
            mail.kind.as_str().replace('_', " "),
            one_line(&mail.subject, 100),
        );
    }
    Ok(out.trim_end().to_owned())
}

/// `cost [N|today|week]`
pub fn cost(
    context: &Context,
    conn: &Connection,
    of: CostOf,
    now: i64,
) -> Result<String, CommandError> {
    let config = &context.services.config;
    let today = config.day(from_millis(now));
    let zone = today.zone;
    let (span, title) = match of {
        CostOf::Today => (Span::since(today.begin), format!("Today ({zone})")),
        CostOf::Week => {
            let since = today.before(WEEK - 1).begin;
            (Span::since(since), format!("The last seven days ({zone})"))
        }
        CostOf::Item(id) => (Span::of_item(id), format!("#{id} {}", context.item(conn, id)?.name)),
    };
    let mut out = format!("**{title}**: {}\n", spent(&costs::sum(conn, &span)?));
    for (by, heading) in [(By::Name, "By whom"), (By::Item, "By item"), (By::Model, "By model")] {
        if by == By::Item && span.item.is_some() {
            continue;
        }
        let groups = costs::grouped(conn, &span, by)?;
        let name = |key: &str| match by {
            By::Item if key.is_empty() => "no item".to_owned(),
            By::Item => format!("#{key}"),
            By::Name | By::Project | By::Model => key.to_owned(),
        };
        let lines = groups.iter().map(|(key, sum)| (name(key), *sum));
        cost_lines(&mut out, heading, lines.collect());
    }
    if of != CostOf::Today {
        let days = costs::by_day(conn, &span, zone)?;
        let lines = days.iter().map(|(date, sum)| (date.format("%a %-d %b").to_string(), *sum));
        cost_lines(&mut out, "By day", lines.collect());
    }
    let here = context.find_project(conn)?;
    let project = here.as_ref().filter(|_| span.item.is_none()).map(|project| &project.name);
    let spender = Spender { agent: None, item: span.item, project };
    with_limits(conn, config, now, out, &spender)
}

/// A group of `cost`, nothing when it is empty.
fn cost_lines(out: &mut String, heading: &str, lines: Vec<(String, Spent)>) {
    if lines.is_empty() {
        return;
    }
    let _ = write!(out, "\n{heading}:\n");
    for (name, sum) in lines.iter().take(COST_LINES) {
        let _ = writeln!(out, "- {name}: {}", spent(sum));
    }
    if lines.len() > COST_LINES {
        let _ = writeln!(out, "- … and {} more", lines.len() - COST_LINES);
    }
}

/// Adds the limits that hold, and how much of each is used.
fn with_limits(
    conn: &Connection,
    config: &Config,
    now: i64,
    mut out: String,
    spender: &Spender<'_>,
) -> Result<String, CommandError> {
    let meters = budget::meters(conn, config, from_millis(now), spender)?;
    if !meters.is_empty() {
        out.push_str("\nLimits:\n");
    }
    for meter in meters {
        let _ = writeln!(out, "- {}", meter.in_words());
    }
    Ok(out.trim_end().to_owned())
}

fn spent(sum: &Spent) -> String {
    if sum.tokens() == 0 && sum.microusd == 0 {
        return "nothing yet".to_owned();
    }
    let usd = match money(sum.microusd) {
        unknown if unknown.is_empty() => "price not known".to_owned(),
        known => known,
    };
    let (input, output) = (sum.usage.input + sum.usage.cached, sum.usage.output);
    format!("{usd} ({} tokens in, {} out)", thousands(input), thousands(output))
}

fn thousands(count: u64) -> String {
    match count {
        0..10_000 => count.to_string(),
        10_000..1_000_000 => format!("{}k", count / 1000),
        _ => format!("{:.1}M", count as f64 / 1_000_000.0),
    }
}

/// `version`
pub fn version() -> String {
    let built = if cfg!(debug_assertions) { ", quick build" } else { "" };
    format!("musher {}{built}.", upgrade::version())
}

/// `whoami`
pub fn whoami(context: &Context, conn: &Connection) -> Result<String, CommandError> {
    let caller = &context.caller;
    let settings = rooms::settings(conn, &caller.session.room)?;
    let mut out = format!("You are `{}`", caller.person);
    out.push_str(if caller.admin { ", an administrator.\n" } else { ".\n" });
    match context.find_project(conn)? {
        Some(project) => {
            let _ = writeln!(out, "- this room's project: {}", project.name);
        }
        None => out.push_str("- this room has no project; `switch NAME` chooses one\n"),
    }
    let mode = settings.queue_mode.unwrap_or(context.services.config.chat.queue_mode);
    let _ = writeln!(out, "- ambient: {}", if settings.ambient { "on" } else { "off" });
    let _ = write!(out, "- messages during an answer: {}", super::room::mode_name(mode));
    Ok(out)
}
