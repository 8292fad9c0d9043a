//! Carries out calls of the command line: the same function beside the server and inside it.

use super::failure::{Code, Failure};
use super::items;
use super::request::{Call, Request, Response};
use crate::config::Config;
use crate::mail::{self, Directory, MailError, NewMail, Reply};
use crate::model::agent::Role;
use crate::model::ids::{AgentName, ItemId, MailId, ProjectName};
use crate::store::mail as rows;
use crate::store::{Store, StoreError, Tx, agents, calls, costs};
use crate::timers;
use crate::work;
use chrono::TimeDelta;
use rusqlite::Connection;
use serde_json::{Value, json};
use std::sync::Arc;

/// Who sends when nobody is named and nobody is configured: the person at the terminal.
const TERMINAL: &str = "@console:local";
/// Most messages that one `mail check` prints.
const CHECK_MAX: usize = 50;
/// Most bytes that one `mail check` gives to a turn.
const CHECK_BYTES: usize = 200 * 1024;
/// Most messages in an export.
const EXPORT_MAX: u32 = 100_000;

/// What calls are carried out on.
#[derive(Clone)]
pub struct Ctx {
    /// The database.
    pub store: Store,
    /// The configuration.
    pub config: Arc<Config>,
    pub(super) directory: Directory,
}

impl Ctx {
    /// Reads the addresses out of the configuration.
    pub fn new(store: Store, config: Arc<Config>) -> Self {
        let directory = Directory::new(&config);
        Self { store, config, directory }
    }

    /// The person at the terminal: the first administrator.
    pub(super) fn person(&self) -> String {
        let admins = self.config.matrix.as_ref().map(|matrix| matrix.admin_users.as_slice());
        let first = admins.and_then(<[_]>::first);
        first.map_or_else(|| TERMINAL.to_owned(), ToString::to_string)
    }

    /// An agent that files or starts items: a lead; the others hand out nothing.
    pub(super) fn lead(&self, agent: AgentName) -> Result<AgentName, Failure> {
        match self.directory.role_of(agent.as_str()) {
            Some(Role::Lead) => Ok(agent),
            Some(role) => Err(Failure::new(
                Code::Refused,
                format!("a {} files and starts no items", role.as_str()),
            )
            .hint("say in a mail to `coordinator` what should be done, and why")),
            None => Err(Failure::new(Code::NotFound, format!("there is no agent {agent}"))
                .hint("`musher agents` lists them")),
        }
    }

    fn read(
        &self,
        work: impl FnOnce(&Connection) -> Result<Value, Failure>,
    ) -> Result<Value, Failure> {
        self.store.read_blocking(work)
    }

    /// Runs `work` in a transaction, once for each `key`.
    pub(super) fn write(
        &self,
        key: Option<String>,
        work: impl FnOnce(&Tx<'_>) -> Result<Value, Failure> + Send + 'static,
    ) -> Result<Value, Failure> {
        self.store.write_blocking(move |tx| {
            let Some(key) = key else { return work(tx) };
            if let Some(done) = calls::find(tx, &key)? {
                return Ok(done);
            }
            let answer = work(tx)?;
            calls::remember(tx, &key, &answer)?;
            Ok(answer)
        })
    }
}

/// Carries out one call. Blocks on the database.
pub fn handle(ctx: &Ctx, request: Request) -> Response {
    let key = request.key;
    let outcome = match request.call {
        Call::MailSend { mail } => send(ctx, key, mail),
        Call::MailCheck { agent } => check(ctx, key, agent),
        Call::MailSeen { ids } => seen(ctx, ids),
        Call::MailReply { reply } => answer(ctx, key, reply),
        Call::MailList { filter } => ctx.read(|conn| {
            let messages = rows::list(conn, &filter)?;
            Ok(json!({ "messages": messages }))
        }),
        Call::MailRead { id, reader } => read_one(ctx, id, reader),
        Call::MailPurge { days } => ctx.write(key, move |tx| {
            let before = tx.now() - TimeDelta::days(i64::from(days)).num_milliseconds();
            Ok(json!({ "purged": rows::purge(tx, before)? }))
        }),
        Call::ReportDone { mail } => report_done(ctx, key, mail),
        Call::Status { item, project } => status(ctx, item, project),
        Call::ItemShow { item } => show(ctx, item),
        Call::ItemCreate { item, agent } => items::create(ctx, key, item, agent),
        Call::ItemUpdate { item, version, fields, by } => {
            items::update(ctx, key, item, version, fields, by.as_ref())
        }
        Call::ItemMove { item, step, version, by } => {
            items::move_item(ctx, key, item, step, version, by.as_ref())
        }
        Call::ItemStart { item, agent, by } => items::start(ctx, key, item, agent, by),
        Call::Agents => list_agents(ctx),
        Call::Logs { item, count, after } => logs(ctx, item, count, after),
        Call::Replay { item } => ctx.read(|conn| {
            work::find(conn, item)?;
            let turns = crate::agents::replay(conn, ctx.store.data_dir(), item)?;
            Ok(json!({ "item": item, "turns": turns }))
        }),
        Call::Nudge { agent, from, text, urgent } => nudge(ctx, key, agent, from, text, urgent),
        Call::Cost { item, days } => cost(ctx, item, days),
        Call::Export => export(ctx),
        Call::Tools { .. } | Call::Tool { .. } => Err(Failure::new(
            Code::Failed,
            "no server runs, so there is nobody to carry out tools; start one with `musher run`",
        )),
    };
    outcome.into()
}

fn sent(ids: &[MailId]) -> Value {
    json!({ "id": ids.first(), "ids": ids })
}

fn send(ctx: &Ctx, key: Option<String>, mut mail: NewMail) -> Result<Value, Failure> {
    if mail.from.trim().is_empty() {
        mail.from = ctx.person();
    }
    let directory = ctx.directory.clone();
    ctx.write(key, move |tx| Ok(sent(&mail::send_reporting(tx, &directory, mail, None)?)))
}

fn answer(ctx: &Ctx, key: Option<String>, mut reply: Reply) -> Result<Value, Failure> {
    if reply.from.trim().is_empty() {
        reply.from = ctx.person();
    }
    let directory = ctx.directory.clone();
    ctx.write(key, move |tx| Ok(sent(&mail::reply(tx, &directory, reply)?)))
}

/// Inside an agent's turn the mail is claimed by that turn, which acknowledges it at its end;
/// outside it is only read, and marked when it was printed.
fn check(ctx: &Ctx, key: Option<String>, agent: String) -> Result<Value, Failure> {
    ctx.write(key, move |tx| {
        let turn = rows::running_turn(tx, &AgentName::from(agent.as_str()))?;
        let claimed = match turn {
            Some(turn) => rows::claim(tx, &agent, turn, CHECK_BYTES)?,
            None => rows::check(tx, &agent, tx.now(), CHECK_MAX)?,
        };
        Ok(json!({
            "messages": claimed.mails, "more": claimed.more, "claimed": turn.is_some(),
        }))
    })
}

fn seen(ctx: &Ctx, ids: Vec<MailId>) -> Result<Value, Failure> {
    ctx.write(None, move |tx| {
        for id in &ids {
            rows::mark_read(tx, *id)?;
        }
        Ok(json!({ "seen": ids }))
    })
}

fn read_one(ctx: &Ctx, id: MailId, reader: Option<String>) -> Result<Value, Failure> {
    ctx.write(None, move |tx| {
        let mail = rows::find(tx, id)?.ok_or(MailError::NotFound(id))?;
        if reader.is_some_and(|reader| reader == mail.to) {
            rows::mark_read(tx, id)?;
        }
        let thread = rows::thread(tx, mail.thread_id)?;
        let others: Vec<MailId> =
            thread.iter().map(|other| other.id).filter(|other| *other != id).collect();
        let mail = rows::find(tx, id)?.ok_or(MailError::NotFound(id))?;
        let mut value = to_json(&mail)?;
        value["thread"] = json!(others);
        Ok(value)
    })
}

fn report_done(ctx: &Ctx, key: Option<String>, mail: NewMail) -> Result<Value, Failure> {
    let Some(role) = ctx.directory.role_of(&mail.from) else {
        return Err(Failure::new(
            Code::NotFound,
            format!("`{}` is no configured agent, and only an agent reports", mail.from),
        )
        .hint("name the agent with --agent, or send mail with `musher mail send`"));
    };
    if !mail::terminal_types(role).contains(&mail.kind) {
        let known: Vec<&str> =
            mail::terminal_types(role).iter().map(|kind| kind.as_str()).collect();
        return Err(Failure::new(
            Code::Usage,
            format!(
                "`{}` is not how a {} reports; it is one of {}",
                mail.kind.as_str(),
                role.as_str(),
                known.join(", ")
            ),
        ));
    }
    send(ctx, key, mail)
}

fn status(ctx: &Ctx, item: Option<ItemId>, project: Option<ProjectName>) -> Result<Value, Failure> {
    ctx.read(|conn| {
        if let Some(item) = item {
            work::find(conn, item)?;
        }
        let mut board = work::board_json(conn)?;
        let Some(projects) = board["projects"].as_array_mut() else { return Ok(board) };
        if let Some(project) = project {
            projects.retain(|entry| entry["name"] == project.as_str());
            if projects.is_empty() {
                return Err(Failure::new(Code::NotFound, format!("there is no project {project}"))
                    .hint("`musher status` shows them all"));
            }
        }
        if let Some(item) = item {
            for entry in projects.iter_mut() {
                if let Some(items) = entry["items"].as_array_mut() {
                    items.retain(|shown| shown["id"] == item.0);
                }
            }
            projects.retain(|entry| entry["items"].as_array().is_some_and(|all| !all.is_empty()));
        }
        Ok(board)
    })
}

fn show(ctx: &Ctx, item: ItemId) -> Result<Value, Failure> {
    ctx.read(|conn| {
        let found = work::find(conn, item)?;
        let mut value = to_json(&found)?;
        let now = ctx.store.clock().now();
        value["explanation"] = json!(work::why(conn, &ctx.config, now, item)?);
        Ok(value)
    })
}

/// The live table; `sessions` says the same of each for scripts that look at all of them.
fn list_agents(ctx: &Ctx) -> Result<Value, Failure> {
    let instance = ctx.store.read_blocking(agents::known_instance)?;
    let trees = crate::agents::trees(instance.as_deref());
    ctx.read(|conn| {
        let now = ctx.store.clock().millis();
        let mut all = vec![];
        for row in crate::agents::table_rows(conn, &ctx.config, &trees, now)? {
            let live = agents::live_sessions_of_agent(conn, &row.name.as_str().into())?;
            let sessions: Vec<Value> = live
                .iter()
                .map(|session| {
                    json!({
                        "item": session.item,
                        "state": session.state.as_str(),
                        "last_activity": session.last_activity,
                    })
                })
                .collect();
            let mut value = to_json(&row)?;
            value["sessions"] = json!(sessions);
            all.push(value);
        }
        Ok(json!({ "agents": all }))
    })
}

fn logs(ctx: &Ctx, item: ItemId, count: usize, after: Option<i64>) -> Result<Value, Failure> {
    ctx.read(|conn| {
        let found = work::find(conn, item)?;
        let mut events = match after {
            Some(after) => agents::turn_events_after(conn, item, after, count)?,
            None => agents::turn_events(conn, item, count)?,
        };
        if events.is_empty() && after.is_none() {
            // Put away since: the newest of what was kept.
            for session in agents::sessions_of_item(conn, item)? {
                events.extend(crate::agents::events_of(conn, ctx.store.data_dir(), session.id)?);
            }
            events.drain(..events.len().saturating_sub(count));
        }
        let live = agents::live_session_of(conn, item)?.is_some();
        let ended = found.stage.is_terminal() && !live;
        Ok(json!({ "item": item, "events": to_json(&events)?, "ended": ended }))
    })
}

fn nudge(
    ctx: &Ctx,
    key: Option<String>,
    agent: AgentName,
    from: String,
    text: String,
    urgent: bool,
) -> Result<Value, Failure> {
    if ctx.directory.role_of(agent.as_str()).is_none() {
        return Err(Failure::new(Code::NotFound, format!("there is no agent {agent}"))
            .hint("`musher agents` lists them"));
    }
    let from = if from.trim().is_empty() { ctx.person() } else { from };
    ctx.write(key, move |tx| {
        let item = crate::agents::nudge(tx, &agent, &from, &text, urgent)
            .map_err(|error| Failure::new(Code::Refused, error.to_string()))?;
        Ok(json!({ "agent": agent, "item": item }))
    })
}

fn cost(ctx: &Ctx, item: Option<ItemId>, days: u32) -> Result<Value, Failure> {
    ctx.read(|conn| {
        let today = ctx.config.day(ctx.store.clock().now());
        let span = match item {
            Some(item) => {
                work::find(conn, item)?;
                costs::Span::of_item(item)
            }
            None => costs::Span::since(today.before(u64::from(days.saturating_sub(1))).begin),
        };
        let grouped = |by| -> Result<Vec<Value>, StoreError> {
            let rows = costs::grouped(conn, &span, by)?;
            let line = |(name, spent): (String, costs::Spent)| {
                let mut value = spent_json(&spent);
                value["name"] = json!(name);
                value
            };
            Ok(rows.into_iter().map(line).collect())
        };
        let by_day = costs::by_day(conn, &span, today.zone)?;
        let by_day: Vec<Value> = by_day
            .into_iter()
            .map(|(date, spent)| {
                let mut value = spent_json(&spent);
                value["name"] = json!(date);
                value
            })
            .collect();
        Ok(json!({
            "days": item.is_none().then_some(days),
            "item": item,
            "zone": today.zone.name(),
            "total": spent_json(&costs::sum(conn, &span)?),
            "by_day": by_day,
            "items": grouped(costs::By::Item)?,
            "agents": grouped(costs::By::Name)?,
            "projects": grouped(costs::By::Project)?,
            "models": grouped(costs::By::Model)?,
        }))
    })
}

fn spent_json(spent: &costs::Spent) -> Value {
    json!({ "usd": spent.microusd as f64 / 1e6, "tokens": spent.tokens() })
}

fn export(ctx: &Ctx) -> Result<Value, Failure> {
    ctx.read(|conn| {
        let mut board = work::board_json(conn)?;
        let mut history = vec![];
        let ids: Vec<i64> = board["projects"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|project| project["items"].as_array().into_iter().flatten())
            .filter_map(|item| item["id"].as_i64())
            .collect();
        for id in ids {
            let transitions = crate::store::log::transitions_of(conn, ItemId(id))?;
            let item = work::find(conn, ItemId(id))?;
            history.push(json!({ "item": item, "transitions": transitions }));
        }
        let filter = rows::Filter { limit: Some(EXPORT_MAX), ..rows::Filter::default() };
        board["items"] = json!(history);
        board["mail"] = to_json(&rows::list(conn, &filter)?)?;
        board["timers"] = timers::list(conn)?
            .iter()
            .map(|timer| {
                json!({
                    "id": timer.id,
                    "kind": timer.set.kind,
                    "due_at": timer.set.due_at,
                    "cron": timer.set.cron,
                    "person": timer.set.person,
                    "item": timer.set.item,
                    "text": timer.set.text,
                })
            })
            .collect();
        Ok(board)
    })
}

pub(super) fn to_json(value: &impl serde::Serialize) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(|error| Failure::new(Code::Failed, error.to_string()))
}
