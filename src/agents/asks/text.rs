//! How requests of agents are said. Pure.
//!
//! What a person allows is what they see: text from a model cannot end its code block, and letters
//! that do not show are written out.

use super::{Permit, Question, What};
use crate::agents::permission::SessionRule;
use crate::model::ids::{AgentName, ItemId, PersonId};
use crate::store::requests::{Request, RequestKind};
use serde_json::Value;
use std::time::Duration;

/// How much of the beginning and of the end of what is asked for is shown, in bytes.
const HEAD_MAX: usize = 3000;
const TAIL_MAX: usize = 1000;

/// How much of it stands in lists and in prompts.
const BRIEF_MAX: usize = 200;

/// A request for permission, without how to answer it.
pub(super) fn permission(
    agent: &AgentName,
    item: ItemId,
    name: &str,
    tool: &str,
    input: &Value,
) -> String {
    let (language, body) = body(input);
    let tool = visible(tool).replace('`', "'");
    format!(
        "**{agent}** asks for permission on **#{item} {name}**: `{tool}`\n\n{}",
        block(language, &body)
    )
}

/// A question, without how to answer it.
pub(super) fn question(agent: &AgentName, item: ItemId, name: &str, question: &Question) -> String {
    let mut text =
        format!("**{agent}** asks about **#{item} {name}**:\n\n{}", question.text.trim());
    if !question.options.is_empty() {
        text.push('\n');
    }
    for (at, option) in question.options.iter().enumerate() {
        text.push_str(&format!("\n{}. {option}", at + 1));
    }
    text
}

/// What a tool is called with, as a command, a diff or its input.
fn body(input: &Value) -> (&'static str, String) {
    let text = |key: &str| input.get(key).and_then(Value::as_str);
    if let Some(command) = text("command") {
        return ("sh", command.to_owned());
    }
    let path = ["file_path", "notebook_path", "path"].into_iter().find_map(text);
    let lines = |sign: char, text: &str| -> String {
        text.lines().map(|line| format!("{sign}{line}\n")).collect()
    };
    let (Some(path), new) = (path, text("content").or(text("new_string")).or(text("new"))) else {
        return ("json", serde_json::to_string_pretty(input).unwrap_or_default());
    };
    let Some(new) = new else {
        return ("json", serde_json::to_string_pretty(input).unwrap_or_default());
    };
    let old = text("old_string").or(text("old")).unwrap_or_default();
    ("diff", format!("+++ {path}\n{}{}", lines('-', old), lines('+', new)))
}

/// In a few words, on one line.
pub(super) fn brief(tool: &str, input: &Value) -> String {
    let text = |key: &str| input.get(key).and_then(Value::as_str);
    let what = ["command", "file_path", "path", "url"].into_iter().find_map(text);
    let what = what.map_or_else(|| input.to_string(), str::to_owned);
    let line = crate::redact::redact(&visible(&what)).replace('\n', " ").replace('`', "'");
    let cut = &line[..line.floor_char_boundary(BRIEF_MAX)];
    let more = if cut.len() < line.len() { "…" } else { "" };
    format!("{} `{cut}{more}`", visible(tool))
}

/// A code block that its content cannot end.
fn block(language: &str, content: &str) -> String {
    let content = crate::redact::redact(&visible(content));
    let content = cut(content.trim_end());
    let mut longest = 0;
    let mut run = 0;
    for c in content.chars() {
        run = if c == '`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    let fence = "`".repeat((longest + 1).max(3));
    format!("{fence}{language}\n{content}\n{fence}")
}

fn cut(text: &str) -> String {
    if text.len() <= HEAD_MAX + TAIL_MAX {
        return text.to_owned();
    }
    let head = &text[..text.floor_char_boundary(HEAD_MAX)];
    let tail = &text[text.ceil_char_boundary(text.len() - TAIL_MAX)..];
    let left = text.len() - head.len() - tail.len();
    format!("{head}\n[… {left} bytes are NOT shown here …]\n{tail}")
}

/// The text with everything that does not show written out.
fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        let hidden = c.is_control() && c != '\n' && c != '\t'
            || matches!(
                u32::from(c),
                0xad | 0x61c
                    | 0x180e
                    | 0x200b..=0x200f
                    | 0x2028..=0x202e
                    | 0x2060..=0x206f
                    | 0x3164
                    | 0xfeff
                    | 0xfff9..=0xfffb
                    | 0xe0000..=0xe007f
            );
        if hidden {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// How to answer, and what happens when nobody does.
pub(super) fn how(request: &Request, what: &What, patience: Duration) -> String {
    let (answers, agent) = (answers(request, what), &what.agent);
    match (request.asked.kind, request.turn) {
        (RequestKind::Permission, _) => format!(
            "{answers} Without an answer in {} it is denied, and {agent} waits for you.",
            span(patience)
        ),
        (_, Some(_)) => format!(
            "{answers} After {} {agent} ends its turn and waits for your answer.",
            span(patience)
        ),
        (_, None) => format!("{answers} {agent} waits for it."),
    }
}

fn answers(request: &Request, what: &What) -> String {
    let id = request.id;
    if request.asked.kind != RequestKind::Permission {
        let number = if what.options.is_empty() { "" } else { " (or react) with its number" };
        return format!("Reply to this message{number}, or say `answer {id} …`.");
    }
    match &what.only_once {
        None => {
            let rules: Vec<String> = what
                .rules
                .iter()
                .map(SessionRule::shown)
                .map(|rule| format!("`{}`", brief_rule(&rule)))
                .collect();
            format!(
                "**✅ allows it once, 🔁 for this session ({}), ❌ denies it.** Or reply `allow`, \
                 `session` or `deny why`, or say `allow {id}`, `allow {id} session` or \
                 `deny {id} why`.",
                rules.join(", ")
            )
        }
        Some(why) => format!(
            "**✅ allows it once, ❌ denies it** (it cannot be allowed for the session: {why}). Or \
             reply `allow` or `deny why`, or say `allow {id}` or `deny {id} why`."
        ),
    }
}

fn brief_rule(rule: &str) -> String {
    let line = visible(rule).replace('\n', " ").replace('`', "'");
    let cut = &line[..line.floor_char_boundary(BRIEF_MAX)];
    if cut.len() < line.len() { format!("{cut}… and just that") } else { line }
}

/// The turn waits no longer.
pub(super) fn lapsed(request: &Request, what: &What, patience: Duration) -> String {
    let denied =
        if request.asked.kind == RequestKind::Permission { "it was denied, and " } else { "" };
    format!(
        "⏳ Nobody answered within {}: {denied}{} waits. An answer still counts. {}",
        span(patience),
        what.agent,
        answers(request, what)
    )
}

/// What was decided, for the room.
pub(super) fn decided(permit: &Permit, by: &PersonId) -> String {
    match permit {
        Permit::Once => format!("✅ **Allowed once** by {by}."),
        Permit::Session => format!("🔁 **Allowed for this session** by {by}."),
        Permit::Deny { why } if why.is_empty() => format!("❌ **Denied** by {by}."),
        Permit::Deny { why } => format!("❌ **Denied** by {by}: {why}"),
    }
}

/// What was decided, for an agent whose turn did not wait for it.
pub(super) fn decided_for_agent(permit: &Permit, by: &PersonId, brief: &str) -> String {
    match permit {
        Permit::Once => format!(
            "{by} allows what you asked for: {brief}. It is allowed once and exactly as you asked \
             for it: do it again now, and go on."
        ),
        Permit::Session => {
            format!("{by} allows what you asked for: {brief}. Do it again now, and go on.")
        }
        Permit::Deny { .. } => {
            format!("{by} denies what you asked for: {brief}. {}", denied(permit, by))
        }
    }
}

/// A denial, for the model.
pub(in crate::agents) fn denied(permit: &Permit, by: &PersonId) -> String {
    match permit {
        Permit::Deny { why } if !why.is_empty() => {
            format!("{by} denied it: {why}\nDo not try to reach the same by other means.")
        }
        Permit::Deny { .. } | Permit::Once | Permit::Session => format!(
            "{by} denied it. Do without it, and do not try to reach the same by other means; if it \
             cannot be done without, ask with ask_human."
        ),
    }
}

/// What is said to who decided by words.
pub(super) fn taken(permit: &Permit, agent: &AgentName) -> String {
    match permit {
        Permit::Once => format!("Allowed; {agent} goes on."),
        Permit::Session => format!("Allowed for this session; {agent} goes on."),
        Permit::Deny { .. } => format!("Denied; {agent} is told."),
    }
}

fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds < 120 => format!("{seconds} seconds"),
        seconds => format!("{} minutes", seconds / 60),
    }
}
