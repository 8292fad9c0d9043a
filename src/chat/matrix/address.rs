//! Whether a message is for the bot, and what of it is the request.

use std::sync::LazyLock;

/// What decides whether a message is for the bot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts<'a> {
    /// The room is a direct one, or has only this person and the bot in it.
    pub direct: bool,
    /// The room is set to `ambient on`.
    pub ambient: bool,
    /// It stands in a thread that the bot has written into.
    pub own_thread: bool,
    /// It replies to a message of the bot.
    pub reply_to_bot: bool,
    /// `m.mentions` names the bot.
    pub mentioned: bool,
    /// The text.
    pub body: &'a str,
    /// Its HTML, where pills are.
    pub formatted_body: Option<&'a str>,
}

/// Whom messages may call by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Myself {
    /// `@musher:example.org`.
    pub user_id: String,
    /// The display name, if one is set.
    pub display_name: Option<String>,
    /// What begins a command.
    pub prefix: String,
}

/// The verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addressing {
    /// Whether it is for the bot.
    pub addressed: bool,
    /// The text without the name at its start.
    pub text: String,
}

/// Decides whether a message is for the bot.
pub fn decide(facts: &Facts<'_>, myself: &Myself) -> Addressing {
    let body = facts.body.trim();
    let named = strip_name(body, myself);
    let text = named.unwrap_or(body);
    let addressed = facts.direct
        || facts.ambient
        || facts.own_thread
        || facts.reply_to_bot
        || facts.mentioned
        || named.is_some()
        || facts.formatted_body.is_some_and(|html| has_pill(html, &myself.user_id))
        || starts_with_command(body, &myself.prefix);
    // Nothing but the name is a call without a request: keep it, so that it gets an answer.
    let text = if text.is_empty() { body } else { text };
    Addressing { addressed, text: text.to_owned() }
}

/// The prefix, followed at once by a word: `!status`, but not `! wait` or `!!!`.
fn starts_with_command(body: &str, prefix: &str) -> bool {
    !prefix.is_empty()
        && body
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.chars().next().is_some_and(char::is_alphabetic))
}

/// The text after the bot's name, if it begins with it.
fn strip_name<'b>(body: &'b str, myself: &Myself) -> Option<&'b str> {
    let local = localpart(&myself.user_id);
    // A pill as clients write it in Markdown: `[Musher](https://matrix.to/#/@musher:hs)`.
    let link = format!("](https://matrix.to/#/{})", myself.user_id);
    if let Some(rest) = body.strip_prefix('[')
        && let Some(at) = rest.find(&link)
        && !rest[..at].contains(']')
    {
        return after_name(&rest[at + link.len()..], false);
    }
    if let Some(rest) = strip_ignoring_case(body, &myself.user_id) {
        return after_name(rest, false);
    }
    if let Some(name) = &myself.display_name {
        let bare = body.strip_prefix('@').unwrap_or(body);
        if let Some(rest) = strip_ignoring_case(bare, name)
            && let Some(rest) = after_name(rest, false)
        {
            return Some(rest);
        }
    }
    let (bare, is_called) = match body.strip_prefix('@') {
        Some(bare) => (bare, true),
        None => (body, false),
    };
    // The bare local part is a common word as often as a name: it needs the mark of an address.
    strip_ignoring_case(bare, local).and_then(|rest| after_name(rest, !is_called))
}

/// What follows a name, if the name ends here; with `marked`, only after `:` or `,`.
fn after_name(rest: &str, marked: bool) -> Option<&str> {
    match rest.chars().next() {
        Some(':' | ',') => Some(rest[1..].trim_start()),
        Some(c) if c.is_whitespace() && !marked => Some(rest.trim_start()),
        None if !marked => Some(rest),
        Some(_) | None => None,
    }
}

fn strip_ignoring_case<'b>(body: &'b str, name: &str) -> Option<&'b str> {
    if name.is_empty() {
        return None;
    }
    let mut rest = body.chars();
    for expected in name.chars() {
        let found = rest.next()?;
        if found != expected && !found.to_lowercase().eq(expected.to_lowercase()) {
            return None;
        }
    }
    Some(rest.as_str())
}

/// The part of a user id before the server.
pub fn localpart(user_id: &str) -> &str {
    let bare = user_id.strip_prefix('@').unwrap_or(user_id);
    bare.split_once(':').map_or(bare, |(local, _)| local)
}

static PILL: LazyLock<regex::Regex> = LazyLock::new(|| {
    regex::Regex::new(r#"href\s*=\s*["'](?:https?://matrix\.to/#/|matrix:u/)([^"'?/]+)"#)
        .expect("the pattern is constant and compiles")
});

/// Whether some HTML holds a pill of `user_id`.
fn has_pill(html: &str, user_id: &str) -> bool {
    PILL.captures_iter(html).any(|found| {
        let target = found[1].replace("%40", "@").replace("%3A", ":").replace("%3a", ":");
        target == user_id || format!("@{target}") == user_id
    })
}

#[cfg(test)]
mod tests;
