//! Tools for mail, and for asking people.

use super::args::Item as Number;
use super::{Answer, Context, Tool, Who, data, reading, refuse, sender, writing};
use crate::llm::tools::ToolCaller;
use crate::mail::{self, NewMail, Reply};
use crate::model::chat::Outgoing;
use crate::model::ids::{MailId, PersonId};
use crate::model::mail::{Mail, MailType, Priority};
use crate::store::mail::{self as rows, Filter};
use crate::store::{Tx, outbox};
use rusqlite::Connection;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use std::fmt::Write as _;

/// How many bytes of mail one check gives.
const CHECK_BYTES: usize = 24_000;
/// How much of a message a list shows, in characters.
const EXCERPT: usize = 160;

pub fn tools() -> Vec<Tool> {
    vec![
        writing(
            "mail_send",
            Who::Everybody,
            "Sends mail to an agent, `coordinator`, a person (@name:server) or a group (@all, @coders, @qa, @mergers, @project:NAME). Urgent mail reaches a running agent at its next step.",
            mail_send,
        ),
        reading("mail_list", Who::Everybody, "Lists mail, newest first.", mail_list),
        writing(
            "mail_check",
            Who::Agents,
            "Gives you your unread mail. New mail comes with your next prompt by itself: do not poll.",
            mail_check,
        ),
        writing("mail_reply", Who::Agents, "Answers a message in its thread.", mail_reply),
        writing(
            "ask_person",
            Who::Coordinator,
            "Asks a person a question in this room, with a mention. Their answer comes as their next message: end your turn after it.",
            ask_person,
        ),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MailSend {
    /// Whom it is for.
    to: String,
    /// One line.
    subject: String,
    /// Markdown.
    #[serde(default)]
    body: String,
    /// What sort; status when left out.
    #[serde(rename = "type")]
    kind: Option<MailType>,
    /// How urgent; normal when left out.
    priority: Option<Priority>,
    /// The item it is about.
    item: Option<Number>,
    /// What the type wants to know, as an object; most types want none.
    payload: Option<Value>,
}

fn mail_send(context: &Context, tx: &Tx<'_>, caller: &ToolCaller, args: MailSend) -> Answer {
    let own_item = match caller {
        ToolCaller::Agent { item, .. } => Some(*item),
        ToolCaller::Coordinator { .. } => None,
    };
    let new = NewMail {
        from: sender(caller),
        to: args.to,
        subject: args.subject,
        body: args.body,
        kind: args.kind.unwrap_or(MailType::Status),
        priority: args.priority.unwrap_or_default(),
        payload: args.payload,
        item: args.item.map(|number| number.0).or(own_item),
        reply_to: None,
    };
    let sent = match caller {
        ToolCaller::Agent { session, .. } => {
            mail::send_reporting(tx, &context.services.directory, new, Some(*session))?
        }
        ToolCaller::Coordinator { .. } => mail::send(tx, &context.services.directory, new)?,
    };
    Ok(sent_text(&sent))
}

fn sent_text(sent: &[MailId]) -> String {
    let ids: Vec<String> = sent.iter().map(|id| id.to_string()).collect();
    format!("Sent: mail {}.", ids.join(", "))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MailList {
    /// Only mail to this address.
    to: Option<String>,
    /// Only mail from this address.
    from: Option<String>,
    /// Only mail about this item.
    item: Option<Number>,
    /// Only unread mail.
    #[serde(default)]
    unread: bool,
    /// At most so many; 20 when left out.
    limit: Option<u32>,
}

fn mail_list(_: &Context, conn: &Connection, _: &ToolCaller, args: MailList) -> Answer {
    let filter = Filter {
        to: args.to,
        from: args.from,
        item: args.item.map(|number| number.0),
        unread: args.unread,
        limit: Some(args.limit.unwrap_or(20).clamp(1, 100)),
    };
    let found = rows::list(conn, &filter)?;
    if found.is_empty() {
        return Ok("There is no such mail.".to_owned());
    }
    let lines: Vec<String> = found.iter().map(excerpt).collect();
    Ok(data(&lines.join("\n")))
}

fn excerpt(mail: &Mail) -> String {
    let unread = if mail.read_at.is_none() { ", unread" } else { "" };
    let item = mail.item.map(|item| format!(", #{item}")).unwrap_or_default();
    let body = mail.body.split_whitespace().collect::<Vec<_>>().join(" ");
    let body: String = body.chars().take(EXCERPT).collect();
    format!(
        "mail {} {} {} -> {} ({}{item}{unread}): {} | {body}",
        mail.id,
        mail.created_at.format("%d %b %H:%M"),
        mail.from,
        mail.to,
        mail.kind.as_str(),
        mail.subject
    )
}

/// A message in full.
fn letter(mail: &Mail) -> String {
    let mut text = format!(
        "Mail {} from {} ({}, {}): {}\n",
        mail.id,
        mail.from,
        mail.kind.as_str(),
        mail.priority.as_str(),
        mail.subject
    );
    if let Some(item) = mail.item {
        let _ = writeln!(text, "About #{item}.");
    }
    let _ = writeln!(text, "{}", mail.body);
    if let Some(payload) = &mail.payload {
        let _ = writeln!(text, "Payload: {payload}");
    }
    text
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MailCheck {}

fn mail_check(_: &Context, tx: &Tx<'_>, caller: &ToolCaller, _: MailCheck) -> Answer {
    let ToolCaller::Agent { agent, turn, .. } = caller else {
        return refuse("Use mail_list.");
    };
    // Claimed by the turn, and acknowledged when it ends well.
    let claimed = rows::claim(tx, agent.as_str(), *turn, CHECK_BYTES)?;
    let letters: Vec<String> = claimed.mails.iter().map(letter).collect();
    if letters.is_empty() && claimed.more == 0 {
        return Ok("No new mail.".to_owned());
    }
    let more = match claimed.more {
        0 => String::new(),
        more => format!("\n{more} more wait: call mail_check again."),
    };
    Ok(format!("{}{more}", data(&letters.join("\n"))))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MailReply {
    /// The number of the mail that is answered.
    mail: i64,
    /// Markdown.
    body: String,
    /// What sort; status when left out.
    #[serde(rename = "type")]
    kind: Option<MailType>,
    /// How urgent; normal when left out.
    priority: Option<Priority>,
}

fn mail_reply(context: &Context, tx: &Tx<'_>, caller: &ToolCaller, args: MailReply) -> Answer {
    let reply = Reply {
        to_mail: MailId(args.mail),
        from: sender(caller),
        body: args.body,
        to: None,
        subject: None,
        kind: args.kind,
        priority: args.priority,
        payload: None,
    };
    Ok(sent_text(&mail::reply(tx, &context.services.directory, reply)?))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AskPerson {
    /// The question, complete in itself.
    question: String,
    /// The answers to choose from, if there are such.
    #[serde(default)]
    options: Vec<String>,
    /// Whom to ask (@name:server); who wrote last when left out.
    person: Option<String>,
}

fn ask_person(context: &Context, tx: &Tx<'_>, caller: &ToolCaller, args: AskPerson) -> Answer {
    let ToolCaller::Coordinator { session, people, .. } = caller else {
        return refuse("Agents ask with ask_human.");
    };
    if args.question.trim().is_empty() {
        return refuse("Give `question`.");
    }
    let person = match &args.person {
        Some(name) => match crate::timers::find_person(&context.services.config, name) {
            Some(person) => Some(person),
            None => return refuse(format!("Nobody here is called {name}. Give @name:server.")),
        },
        None => people.last().cloned(),
    };
    let name = person.as_ref().map(PersonId::as_str).unwrap_or_default();
    let text = super::agents::question(&args.question, &args.options);
    let mut outgoing = Outgoing::text(session.clone(), format!("{name} {text}").trim().to_owned());
    if let Some(person) = person {
        outgoing = outgoing.mentioning(person);
    }
    outbox::enqueue(tx, &outgoing, None)?;
    Ok("Asked. End your turn with at most a short sentence: the answer comes as a message."
        .to_owned())
}
