//! Results as text for a person; scripts take `--json`.

use super::request::Call;
use serde_json::Value;
use std::fmt::Write;

/// The text of a result.
pub fn text(call: &Call, value: &Value) -> String {
    match call {
        Call::MailSend { mail } | Call::ReportDone { mail } => {
            format!("sent mail {} to {}\n", ids(&value["ids"]), mail.to)
        }
        Call::MailReply { .. } => format!("sent mail {}\n", ids(&value["ids"])),
        Call::MailCheck { .. } => check(value),
        Call::MailSeen { .. } => String::new(),
        Call::MailList { .. } => {
            let lines: Vec<String> = each(&value["messages"]).map(mail_line).collect();
            or_nothing(lines.concat(), "no mail\n")
        }
        Call::MailRead { .. } => mail(value),
        Call::MailPurge { .. } => format!("removed {} messages\n", value["purged"]),
        Call::Status { .. } => board(value),
        Call::ItemShow { .. } => item(value),
        Call::ItemCreate { .. } => {
            format!("filed item {}: {}\n", value["id"], field(value, "name"))
        }
        Call::ItemUpdate { .. } => {
            format!("changed item {}: {}\n", value["id"], field(value, "name"))
        }
        Call::ItemMove { .. } => {
            format!("item {} is in {} now\n", value["id"], field(&value["stage"], "stage"))
        }
        Call::ItemStart { .. } => {
            format!("item {} is started: {}\n", value["id"], field(&value["stage"], "stage"))
        }
        Call::Agents => agents(value),
        Call::Logs { .. } => {
            let lines: Vec<String> = each(&value["events"])
                .map(|event| {
                    let (at, kind) = (field(event, "at"), field(event, "kind"));
                    format!("{} {kind:<10} {}\n", seconds(at), field(event, "text"))
                })
                .collect();
            or_nothing(lines.concat(), "no agent has worked on it yet\n")
        }
        Call::Replay { .. } => replay(value),
        Call::Nudge { agent, .. } => match value["item"].as_i64() {
            Some(item) => format!("nudged {agent}, who is on item {item}\n"),
            None => format!("nudged {agent}, who has no work now\n"),
        },
        Call::Cost { .. } => cost(value),
        Call::Export | Call::Tools { .. } | Call::Tool { .. } => {
            format!("{}\n", serde_json::to_string_pretty(value).unwrap_or_default())
        }
    }
}

fn each(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn field<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or("")
}

fn or_nothing(text: String, nothing: &str) -> String {
    if text.is_empty() { nothing.to_owned() } else { text }
}

/// A stored time without its fraction.
fn seconds(at: &str) -> String {
    at.get(..19).unwrap_or(at).replace('T', " ")
}

fn ids(value: &Value) -> String {
    each(value).map(Value::to_string).collect::<Vec<_>>().join(", ")
}

fn about(mail: &Value) -> String {
    mail["item"].as_i64().map_or_else(String::new, |item| format!(" (item {item})"))
}

fn mail_line(mail: &Value) -> String {
    let unread = if mail["read_at"].is_null() { '*' } else { ' ' };
    format!(
        "{unread}{:>5} {} {} -> {} [{}]{}: {}\n",
        mail["id"].to_string(),
        seconds(field(mail, "created_at")),
        field(mail, "from"),
        field(mail, "to"),
        field(mail, "type"),
        about(mail),
        field(mail, "subject"),
    )
}

fn mail(mail: &Value) -> String {
    let mut out = format!(
        "Mail {} from {} to {}, {}, {} priority{}\nSubject: {}\n\n{}\n",
        mail["id"],
        field(mail, "from"),
        field(mail, "to"),
        field(mail, "type"),
        field(mail, "priority"),
        about(mail),
        field(mail, "subject"),
        field(mail, "body"),
    );
    if !mail["payload"].is_null() {
        let _ = writeln!(out, "\nPayload: {}", mail["payload"]);
    }
    let thread = ids(&mail["thread"]);
    if !thread.is_empty() {
        let _ = writeln!(out, "\nIn the same thread: {thread}");
    }
    out
}

fn check(value: &Value) -> String {
    let mails: Vec<String> = each(&value["messages"]).map(mail).collect();
    let mut out = or_nothing(mails.join("\n---\n"), "no new mail\n");
    if value["more"].as_u64().is_some_and(|more| more > 0) {
        let _ = writeln!(out, "\n{} more wait; call again for them", value["more"]);
    }
    out
}

fn board(value: &Value) -> String {
    let mut out = String::new();
    for project in each(&value["projects"]) {
        let paused = if project["paused"] == true { " (paused)" } else { "" };
        let _ = writeln!(out, "{}{paused}", field(project, "name"));
        for item in each(&project["items"]) {
            let agent = item["agent"].as_str().map_or_else(String::new, |it| format!(", {it}"));
            let badge = match field(item, "badge") {
                "active" | "done" => String::new(),
                badge => format!(", {badge}"),
            };
            let _ = writeln!(
                out,
                "  {:>4} {:<9} {:<8} {} ({}{agent}{badge})",
                item["id"].to_string(),
                field(item, "column"),
                field(item, "kind"),
                field(item, "name"),
                field(item, "stage"),
            );
        }
    }
    or_nothing(out, "no projects yet\n")
}

fn item(value: &Value) -> String {
    let mut out = format!(
        "Item {} ({}) in {}: {}\n",
        value["id"],
        field(value, "kind"),
        field(value, "project"),
        field(value, "name")
    );
    for text in [field(value, "body"), field(value, "explanation")] {
        if !text.trim().is_empty() {
            let _ = writeln!(out, "\n{}", text.trim());
        }
    }
    out
}

fn agents(value: &Value) -> String {
    let mut out = String::new();
    for agent in each(&value["agents"]) {
        if out.is_empty() {
            let _ = writeln!(
                out,
                "{:<16} {:<11} {:<12} {:<13} {:>5} {:>9} {:>9} {:>7} {:>7}  last heard",
                "AGENT", "ROLE", "RUNTIME", "STATE", "ITEM", "TOKENS", "USD", "MB", "CPU s"
            );
        }
        let item = agent["item"].as_i64().map_or_else(|| "-".to_owned(), |item| item.to_string());
        let number = |name: &str| agent[name].as_u64().unwrap_or(0);
        let last = match (field(agent, "waits_for"), field(agent, "last_event")) {
            ("", last) => last.to_owned(),
            (waits, _) => format!("waits: {waits}"),
        };
        let line = format!(
            "{:<16} {:<11} {:<12} {:<13} {item:>5} {:>9} {:>9.4} {:>7} {:>7}  {last}",
            field(agent, "name"),
            field(agent, "role"),
            field(agent, "runtime"),
            field(agent, "state"),
            number("tokens"),
            agent["usd"].as_f64().unwrap_or(0.0),
            number("memory") >> 20,
            number("cpu_ms") / 1000,
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
    or_nothing(out, "no agents are configured\n")
}

fn replay(value: &Value) -> String {
    let turns: Vec<crate::agents::TurnStory> =
        serde_json::from_value(value["turns"].clone()).unwrap_or_default();
    let lines: Vec<String> =
        turns.iter().flat_map(crate::agents::TurnStory::lines).map(|line| line + "\n").collect();
    or_nothing(lines.concat(), "no agent has worked on it yet\n")
}

fn cost(value: &Value) -> String {
    let line = |spent: &Value| {
        format!("{:>10.4} USD {:>12} tokens", spent["usd"].as_f64().unwrap_or(0.0), spent["tokens"])
    };
    let of = match value["item"].as_i64() {
        Some(item) => format!("on item {item}"),
        None => format!("in {} days ({})", value["days"], field(value, "zone")),
    };
    let mut out = format!("{}  {of}\n", line(&value["total"]));
    for (title, key, prefix) in [
        ("by item", "items", "item "),
        ("by agent", "agents", ""),
        ("by project", "projects", ""),
        ("by model", "models", ""),
        ("by day", "by_day", ""),
    ] {
        let rows: Vec<&Value> = each(&value[key]).collect();
        if rows.is_empty() {
            continue;
        }
        let _ = writeln!(out, "{title}");
        for row in rows {
            let name = match field(row, "name") {
                "" => "-".to_owned(),
                name => format!("{prefix}{name}"),
            };
            let _ = writeln!(out, "{}  {name}", line(row));
        }
    }
    out
}
