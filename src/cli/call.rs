//! From arguments to a call: reads types and numbers, stdin and the environment.

use super::args::{
    Command, ItemsCommand, MailCommand, ReplyArgs, ReportArgs, SendArgs, UpdateArgs,
};
use super::client::{Client, print};
use super::failure::{Code, Failure};
use super::request::{Assigned, Call, Fields, Move, NewItem};
use super::show;
use crate::config::nearest;
use crate::mail::{NewMail, Reply, payload};
use crate::model::ids::{AgentName, ItemId, MailId, ProjectName};
use crate::model::item::{Kind, QaMode};
use crate::model::mail::{MailType, Priority};
use crate::store::mail::{COORDINATOR, Filter};
use serde_json::Value;
use std::io::Read;
use std::path::Path;

/// The longest text read from stdin: more than any limit, so that the limit's reason is given.
const STDIN_MAX: u64 = 1024 * 1024;
/// What a field that may be empty is set to when it is to be empty.
const NONE: &str = "none";

/// Carries out a call and prints its result.
pub fn run(given: Option<&Path>, command: Command, json: bool) -> Result<(), Failure> {
    let follow = matches!(&command, Command::Logs { follow: true, .. });
    let call = typed(command)?;
    let mut client = Client::find(given)?;
    let value = client.call(call.clone())?;
    let text = if json { format!("{value}\n") } else { show::text(&call, &value) };
    print(&text)?;
    if let (true, Call::Logs { item, .. }) = (follow, &call) {
        return follow_logs(&mut client, *item, value, json);
    }
    // Printed, so seen; what a turn claimed is acknowledged by that turn.
    if let Call::MailCheck { .. } = &call
        && value["claimed"] == false
    {
        let messages = value["messages"].as_array().into_iter().flatten();
        let ids: Vec<MailId> =
            messages.filter_map(|mail| mail["id"].as_i64()).map(MailId).collect();
        if !ids.is_empty() {
            client.call(Call::MailSeen { ids })?;
        }
    }
    Ok(())
}

/// How often a follower looks for more.
const FOLLOW_PAUSE: std::time::Duration = std::time::Duration::from_millis(250);

/// Most events that a follower asks for at once.
const FOLLOW_COUNT: usize = 500;

/// Prints what comes, until the item has ended and everything was printed.
fn follow_logs(client: &mut Client, item: ItemId, first: Value, json: bool) -> Result<(), Failure> {
    let newest = |value: &Value| {
        let events = value["events"].as_array();
        events.and_then(|events| events.last()).and_then(|event| event["id"].as_i64())
    };
    let mut after = newest(&first).unwrap_or(0);
    let mut ended = first["ended"] == true;
    while !ended {
        std::thread::sleep(FOLLOW_PAUSE);
        let call = Call::Logs { item, count: FOLLOW_COUNT, after: Some(after) };
        let value = client.call(call.clone())?;
        if let Some(id) = newest(&value) {
            after = id;
            let text = if json { format!("{value}\n") } else { show::text(&call, &value) };
            print(&text)?;
        } else {
            ended = value["ended"] == true;
        }
    }
    Ok(())
}

fn typed(command: Command) -> Result<Call, Failure> {
    Ok(match command {
        Command::Mail(mail) => typed_mail(mail)?,
        Command::ReportDone(args) => Call::ReportDone { mail: report(args)? },
        Command::Status { item } => Call::Status { item: item.map(ItemId), project: None },
        Command::Items(items) => typed_items(items)?,
        Command::Agents => Call::Agents,
        Command::Logs { item, lines, follow: _ } => {
            Call::Logs { item: ItemId(item), count: lines, after: None }
        }
        Command::Replay { item } => Call::Replay { item: ItemId(item) },
        Command::Nudge { agent, text, urgent } => {
            let (agent, text) = (AgentName(agent), text.join(" "));
            Call::Nudge { agent, from: sender(None)?, text, urgent }
        }
        Command::Cost { item, days } => Call::Cost { item: item.map(ItemId), days },
        Command::Export => Call::Export,
        Command::Run
        | Command::Console { .. }
        | Command::Check
        | Command::Doctor { .. }
        | Command::Init(_)
        | Command::Mcp { .. }
        | Command::Completions { .. }
        | Command::Version => {
            return Err(Failure::new(Code::Usage, "this is no call to the database"));
        }
    })
}

fn typed_mail(command: MailCommand) -> Result<Call, Failure> {
    Ok(match command {
        MailCommand::Send(args) => Call::MailSend { mail: message(args)? },
        MailCommand::Check { agent } => Call::MailCheck { agent },
        MailCommand::Reply(args) => Call::MailReply { reply: answer(args)? },
        MailCommand::List { to, from, item, unread, limit } => Call::MailList {
            filter: Filter { to, from, item: item.map(ItemId), unread, limit: Some(limit) },
        },
        MailCommand::Read { id, agent } => Call::MailRead { id: MailId(id), reader: agent },
        MailCommand::Purge { older_than } => Call::MailPurge { days: older_than },
    })
}

fn typed_items(command: ItemsCommand) -> Result<Call, Failure> {
    Ok(match command {
        ItemsCommand::List { project } => {
            Call::Status { item: None, project: project.map(ProjectName) }
        }
        ItemsCommand::Show { item } => Call::ItemShow { item: ItemId(item) },
        ItemsCommand::Create { name, project, kind, body, depends_on, epic, qa, agent } => {
            let item = NewItem {
                name,
                project: project.map(ProjectName),
                kind: one_of(&kind, "--kind", Kind::ALL.map(Kind::as_str), Kind::parse)?,
                body: text(body)?,
                depends_on: depends_on.into_iter().map(ItemId).collect(),
                epic: epic.map(ItemId),
                qa: qa_mode(qa)?,
                pinned: agent.map(AgentName),
            };
            Call::ItemCreate { item, agent: environment("MUSHER_AGENT").map(AgentName) }
        }
        ItemsCommand::Update(args) => update(args)?,
        ItemsCommand::Move { item, action, reason, by, expect } => Call::ItemMove {
            item: ItemId(item),
            step: Move { action, reason, replaced_by: by.map(ItemId) },
            version: expect,
            by: environment("MUSHER_AGENT").map(AgentName),
        },
        ItemsCommand::Start { item, agent } => Call::ItemStart {
            item: ItemId(item),
            agent: agent.map(AgentName),
            by: environment("MUSHER_AGENT").map(AgentName),
        },
    })
}

fn update(args: UpdateArgs) -> Result<Call, Failure> {
    let depends_on = match args.depends_on.as_slice() {
        [] => None,
        [none] if none == NONE => Some(Vec::new()),
        some => Some(some.iter().map(|id| number(id, "--depends-on")).collect::<Result<_, _>>()?),
    };
    let fields = Fields {
        name: args.name,
        body: args.body.map(text).transpose()?,
        depends_on,
        epic: args.epic.map(|epic| assigned(epic, |id| number(&id, "--epic"))).transpose()?,
        agent: args.agent.map(|agent| assigned(agent, |name| Ok(AgentName(name)))).transpose()?,
        qa: qa_mode(args.qa)?,
        priority: args.priority,
    };
    let by = environment("MUSHER_AGENT").map(AgentName);
    Ok(Call::ItemUpdate { item: ItemId(args.item), version: args.expect, fields, by })
}

fn assigned<T>(
    given: String,
    read: impl FnOnce(String) -> Result<T, Failure>,
) -> Result<Assigned<T>, Failure> {
    if given == NONE { Ok(Assigned::None) } else { read(given).map(Assigned::To) }
}

fn number(given: &str, flag: &str) -> Result<ItemId, Failure> {
    given.trim_start_matches('#').parse().map(ItemId).map_err(|_not_a_number| {
        Failure::new(Code::Usage, format!("`{given}` is no item's number, which {flag} wants"))
            .hint("`musher items list` shows the numbers; `none` stands for no item")
    })
}

fn qa_mode(given: Option<String>) -> Result<Option<QaMode>, Failure> {
    let parse = |text: &str| QaMode::ALL.into_iter().find(|mode| mode.as_str() == text);
    given.map(|text| one_of(&text, "--qa", QaMode::ALL.map(QaMode::as_str), parse)).transpose()
}

fn message(args: SendArgs) -> Result<NewMail, Failure> {
    let kind = mail_type(&args.kind)?;
    Ok(NewMail {
        from: sender(args.from)?,
        to: args.to,
        subject: args.subject,
        body: text(args.body)?,
        kind,
        priority: priority(&args.priority)?,
        payload: json_of(args.payload, kind)?,
        item: args.item.map(ItemId),
        reply_to: None,
    })
}

fn answer(args: ReplyArgs) -> Result<Reply, Failure> {
    let kind = mail_type(&args.kind)?;
    Ok(Reply {
        to_mail: MailId(args.id),
        from: sender(args.from)?,
        body: text(args.body)?,
        to: args.to,
        subject: args.subject,
        kind: Some(kind),
        priority: Some(priority(&args.priority)?),
        payload: json_of(args.payload, kind)?,
    })
}

fn report(args: ReportArgs) -> Result<NewMail, Failure> {
    let kind = mail_type(&args.kind)?;
    let summary = text(args.summary)?;
    let first = summary.lines().find(|line| !line.trim().is_empty()).unwrap_or("done");
    let subject: String = first.chars().take(100).collect();
    Ok(NewMail {
        from: sender(Some(args.agent))?,
        to: COORDINATOR.to_owned(),
        subject,
        body: summary,
        kind,
        priority: Priority::Normal,
        payload: json_of(args.payload, kind)?,
        item: Some(ItemId(args.item)),
        reply_to: None,
    })
}

/// Who sends; empty: the person at the terminal, whom the configuration names.
///
/// An agent speaks under its own name only.
fn sender(given: Option<String>) -> Result<String, Failure> {
    match (given, environment("MUSHER_AGENT")) {
        (Some(given), Some(own)) if given != own => Err(Failure::new(
            Code::Refused,
            format!("{own} cannot speak as `{given}`; leave --from out"),
        )),
        (Some(given), _) => Ok(given),
        (None, own) => Ok(own.unwrap_or_default()),
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn mail_type(text: &str) -> Result<MailType, Failure> {
    one_of(text, "--type", MailType::ALL.map(MailType::as_str), MailType::parse)
}

fn priority(text: &str) -> Result<Priority, Failure> {
    one_of(text, "--priority", Priority::ALL.map(Priority::as_str), Priority::parse)
}

fn one_of<T, const N: usize>(
    text: &str,
    flag: &str,
    known: [&'static str; N],
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, Failure> {
    parse(text).ok_or_else(|| {
        let near = nearest(text, known.into_iter());
        let near = near.map_or_else(String::new, |near| format!("did you mean `{near}`? "));
        Failure::new(Code::Usage, format!("`{text}` is no value of {flag}"))
            .hint(format!("{near}It is one of {}", known.join(", ")))
    })
}

fn json_of(text: Option<String>, kind: MailType) -> Result<Option<Value>, Failure> {
    let parse =
        |text: String| {
            serde_json::from_str(&text).map_err(|error| {
                Failure::new(Code::Usage, format!("the payload is not JSON: {error}"))
                    .hint(format!("the type {} wants {}", kind.as_str(), payload::shape(kind)))
            })
        };
    text.map(parse).transpose()
}

/// The text given, or with `-` the text on stdin.
fn text(given: String) -> Result<String, Failure> {
    if given != "-" {
        return Ok(given);
    }
    let mut text = String::new();
    match std::io::stdin().lock().take(STDIN_MAX).read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(error) => Err(Failure::new(Code::Failed, format!("cannot read stdin: {error}"))),
    }
}
