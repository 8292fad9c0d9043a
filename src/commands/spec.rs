//! The grammar of every command: one reader each.
//!
//! A reader takes what follows the command's name and makes a [`Command`] of all of it, or says
//! what it misses. The name, the aliases and the help stand on the command's page; a test checks
//! that each spec has a page and each example parses.

use super::command::{
    Command, CostOf, MoveTarget, NewProjectArgs, ProjectAction, StatusOf, StopOf,
};
use crate::agents::asks::Permit;
use crate::model::chat::QueueMode;
use crate::model::ids::{AgentName, ItemId, RequestId, TimerId};
use crate::model::item::{Kind, QaMode};

/// How many events `logs` shows unless told otherwise.
const LOG_LINES: usize = 30;

/// How many events `logs` shows at most.
const LOG_LINES_MAX: usize = 200;

/// How many lines `replay` shows unless told otherwise.
const REPLAY_LINES: usize = 80;

/// How many lines `replay` shows at most.
const REPLAY_LINES_MAX: usize = 300;

/// When a command is recognised without prefix, in a message for the bot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bare {
    /// When the whole message fits its grammar.
    Whole,
    /// Only with a colon after its name: its arguments are free text, and many sentences begin
    /// with such a word.
    Colon,
    /// When the whole message fits its grammar and what follows begins as a time or a person does.
    Reminder,
}

/// What is missing or wrong, as half a sentence for the person.
pub type Misuse = String;

/// A built-in command.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// Its name, which is also its page's.
    pub name: &'static str,
    /// When it is recognised without prefix.
    pub bare: Bare,
    /// Reads its arguments.
    pub read: fn(&str) -> Result<Command, Misuse>,
}

const fn spec(name: &'static str, bare: Bare, read: fn(&str) -> Result<Command, Misuse>) -> Spec {
    Spec { name, bare, read }
}

/// Every built-in command.
pub const SPECS: &[Spec] = &[
    spec("help", Bare::Whole, help),
    spec("status", Bare::Whole, status),
    spec("show", Bare::Whole, |rest| item_only(rest).map(Command::Show)),
    spec("why", Bare::Whole, |rest| item_only(rest).map(Command::Why)),
    spec("agents", Bare::Whole, |rest| nothing(rest, Command::Agents)),
    spec("logs", Bare::Whole, logs),
    spec("replay", Bare::Whole, replay),
    spec("diff", Bare::Whole, |rest| item_only(rest).map(Command::Diff)),
    spec("mail", Bare::Whole, mail),
    spec("cost", Bare::Whole, cost),
    spec("version", Bare::Whole, |rest| nothing(rest, Command::Version)),
    spec("doctor", Bare::Whole, |rest| nothing(rest, Command::Doctor)),
    spec("git", Bare::Whole, |rest| nothing(rest, Command::Git)),
    spec("unreleased", Bare::Whole, |rest| nothing(rest, Command::Unreleased)),
    spec("whoami", Bare::Whole, |rest| nothing(rest, Command::Whoami)),
    spec("story", Bare::Colon, |rest| new_item(rest, Kind::Story)),
    spec("bug", Bare::Colon, |rest| new_item(rest, Kind::Bug)),
    spec("refactor", Bare::Colon, |rest| new_item(rest, Kind::Refactor)),
    spec("spike", Bare::Colon, |rest| new_item(rest, Kind::Spike)),
    spec("epic", Bare::Colon, epic),
    spec("new item", Bare::Colon, |rest| new_item(rest, Kind::Story)),
    spec("start", Bare::Whole, start),
    spec("stop", Bare::Whole, stop),
    spec("resume all", Bare::Whole, |rest| nothing(rest, Command::ResumeAll)),
    spec("move", Bare::Whole, move_item),
    spec("depends", Bare::Whole, depends),
    spec("assign", Bare::Whole, assign),
    spec("priority", Bare::Whole, priority),
    spec("freeze", Bare::Whole, |rest| item_only(rest).map(Command::Freeze)),
    spec("unfreeze", Bare::Whole, |rest| item_only(rest).map(Command::Unfreeze)),
    spec("block", Bare::Whole, |rest| {
        item_and_reason(rest).map(|(item, why)| Command::Block { item, why })
    }),
    spec("unblock", Bare::Whole, |rest| item_only(rest).map(Command::Unblock)),
    spec("approve", Bare::Whole, approve),
    spec("reject", Bare::Whole, |rest| {
        item_and_reason(rest).map(|(item, why)| Command::Reject { item, why })
    }),
    spec("allow", Bare::Whole, allow),
    spec("deny", Bare::Whole, deny),
    spec("answer", Bare::Whole, answer),
    spec("abandon", Bare::Whole, |rest| {
        item_and_reason(rest).map(|(item, why)| Command::Abandon { item, why })
    }),
    spec("supersede", Bare::Whole, supersede),
    spec("qa", Bare::Whole, qa),
    spec("delete", Bare::Whole, delete),
    spec("run tests", Bare::Whole, run_tests),
    spec("tell", Bare::Whole, tell),
    spec("nudge", Bare::Whole, nudge),
    spec("projects", Bare::Whole, |rest| nothing(rest, Command::Projects)),
    spec("switch", Bare::Whole, switch),
    spec("project info", Bare::Whole, |rest| project(&format!("info {rest}"))),
    spec("project", Bare::Whole, project),
    spec("new project", Bare::Whole, new_project),
    spec("worktrees", Bare::Whole, |rest| nothing(rest, Command::Worktrees)),
    spec("worktrees clean", Bare::Whole, worktrees_clean),
    spec("remind", Bare::Reminder, remind),
    spec("timers", Bare::Whole, |rest| nothing(rest, Command::Timers)),
    spec("timer cancel", Bare::Whole, timer_cancel),
    spec("ambient", Bare::Whole, ambient),
    spec("queue", Bare::Whole, queue),
    spec("reset", Bare::Whole, |rest| nothing(rest, Command::Reset)),
    spec("retry", Bare::Whole, |rest| nothing(rest, Command::Retry)),
    spec("rebuild", Bare::Whole, rebuild),
];

/// Splits off the first word.
fn word(rest: &str) -> (&str, &str) {
    let rest = rest.trim_start();
    match rest.find(char::is_whitespace) {
        Some(at) => (&rest[..at], rest[at..].trim_start()),
        None => (rest, ""),
    }
}

/// Reads `12` or `#12`.
fn number(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('#').unwrap_or(text);
    let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|number| all_digits && *number > 0)
}

fn item_id(text: &str) -> Result<ItemId, Misuse> {
    match number(text) {
        Some(id) => Ok(ItemId(id)),
        None if text.is_empty() => Err("the item's number is missing".to_owned()),
        None => Err(format!("`{text}` is not an item's number")),
    }
}

fn request_id(text: &str) -> Result<RequestId, Misuse> {
    match number(text) {
        Some(id) => Ok(RequestId(id)),
        None if text.is_empty() => Err("the request's number is missing".to_owned()),
        None => Err(format!("`{text}` is not a request's number")),
    }
}

fn allow(rest: &str) -> Result<Command, Misuse> {
    let (id, rest) = word(rest);
    let request = request_id(id)?;
    let permit = match rest.trim().to_lowercase().as_str() {
        "" | "once" => Permit::Once,
        "session" | "for session" | "for this session" | "always" => Permit::Session,
        other => return Err(format!("I do not know what `{}` means here", first_words(other))),
    };
    Ok(Command::Permit { request, permit })
}

fn deny(rest: &str) -> Result<Command, Misuse> {
    let (id, why) = word(rest);
    let permit = Permit::Deny { why: why.trim().to_owned() };
    Ok(Command::Permit { request: request_id(id)?, permit })
}

fn answer(rest: &str) -> Result<Command, Misuse> {
    let (id, text) = word(rest);
    let request = request_id(id)?;
    match text.trim() {
        "" => Err("the answer is missing".to_owned()),
        text => Ok(Command::Answer { request, text: text.to_owned() }),
    }
}

fn end(rest: &str) -> Result<(), Misuse> {
    match rest.trim() {
        "" => Ok(()),
        more => Err(format!("I do not know what `{}` means here", first_words(more))),
    }
}

fn first_words(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().take(4).collect();
    words.join(" ").replace('`', "'").chars().take(60).collect()
}

fn nothing(rest: &str, command: Command) -> Result<Command, Misuse> {
    end(rest).map(|()| command)
}

fn item_only(rest: &str) -> Result<ItemId, Misuse> {
    let (first, rest) = word(rest);
    let item = item_id(first)?;
    end(rest).map(|()| item)
}

fn item_and_reason(rest: &str) -> Result<(ItemId, String), Misuse> {
    let (first, rest) = word(rest);
    let item = item_id(first)?;
    match rest.trim() {
        "" => Err("say why: the reason is shown on the board".to_owned()),
        why => Ok((item, why.to_owned())),
    }
}

fn approve(rest: &str) -> Result<Command, Misuse> {
    let (first, rest) = word(rest);
    let item = item_id(first)?;
    let (commit, rest) = word(rest);
    end(rest)?;
    let is_commit = commit.len() >= 4 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    match commit {
        "" => Ok(Command::Approve { item, commit: None }),
        _ if is_commit => Ok(Command::Approve { item, commit: Some(commit.to_ascii_lowercase()) }),
        other => Err(format!("`{}` is no commit", first_words(other))),
    }
}

fn help(rest: &str) -> Result<Command, Misuse> {
    let topic = rest.trim().to_lowercase();
    if topic.split_whitespace().count() > 2 {
        return Err("give one command's name".to_owned());
    }
    Ok(Command::Help { topic: (!topic.is_empty()).then_some(topic) })
}

fn status(rest: &str) -> Result<Command, Misuse> {
    Ok(Command::Status(match rest.trim() {
        "" => StatusOf::Here,
        all if all.eq_ignore_ascii_case("all") => StatusOf::All,
        other => StatusOf::Item(item_only(other)?),
    }))
}

fn logs(rest: &str) -> Result<Command, Misuse> {
    let (first, rest) = word(rest);
    let item = item_id(first)?;
    let (lines, rest) = word(rest);
    end(rest)?;
    let lines = match lines {
        "" => LOG_LINES,
        text => match number(text).and_then(|lines| usize::try_from(lines).ok()) {
            Some(lines) => lines.min(LOG_LINES_MAX),
            None => return Err(format!("`{text}` is not a number of lines")),
        },
    };
    Ok(Command::Logs { item, lines })
}

fn replay(rest: &str) -> Result<Command, Misuse> {
    let (first, rest) = word(rest);
    let item = item_id(first)?;
    let (lines, rest) = word(rest);
    end(rest)?;
    let lines = match lines {
        "" => REPLAY_LINES,
        text => match number(text).and_then(|lines| usize::try_from(lines).ok()) {
            Some(lines) => lines.min(REPLAY_LINES_MAX),
            None => return Err(format!("`{text}` is not a number of lines")),
        },
    };
    Ok(Command::Replay { item, lines })
}

fn nudge(rest: &str) -> Result<Command, Misuse> {
    let (agent, text) = word(rest);
    if agent.is_empty() {
        return Err("name the agent".to_owned());
    }
    let agent = AgentName::from(agent.trim_end_matches([':', ',']));
    let (first, after) = word(text);
    let urgent = first == "--urgent";
    let text = if urgent { after } else { text };
    Ok(Command::Nudge { agent, urgent, text: text.trim().to_owned() })
}

fn mail(rest: &str) -> Result<Command, Misuse> {
    let (agent, rest) = word(rest);
    end(rest)?;
    Ok(Command::Mail { agent: (!agent.is_empty()).then(|| AgentName::from(agent)) })
}

fn cost(rest: &str) -> Result<Command, Misuse> {
    Ok(Command::Cost(match rest.trim().to_lowercase().as_str() {
        "" | "today" => CostOf::Today,
        "week" => CostOf::Week,
        other => CostOf::Item(item_only(other)?),
    }))
}

fn new_item(rest: &str, kind: Kind) -> Result<Command, Misuse> {
    let rest = rest.trim();
    let (name, body) = rest.split_once('\n').unwrap_or((rest, ""));
    if name.trim().is_empty() {
        return Err(format!("the {}'s name is missing", kind.as_str()));
    }
    Ok(Command::NewItem { kind, name: name.trim().to_owned(), body: body.trim().to_owned() })
}

/// Whether what follows `epic` says which items are part of which one, and names none.
pub fn is_membership(rest: &str) -> bool {
    let mut words = rest.split_whitespace().skip_while(|word| number(word).is_some());
    let (of, epic) = (words.next(), words.next());
    rest.trim_start().starts_with(|c: char| c.is_ascii_digit() || c == '#')
        && of.is_some_and(|of| of.eq_ignore_ascii_case("of"))
        && epic.is_some_and(|epic| number(epic).is_some() || epic.eq_ignore_ascii_case("none"))
        && words.next().is_none()
}

fn epic(rest: &str) -> Result<Command, Misuse> {
    if !is_membership(rest) {
        return new_item(rest, Kind::Epic);
    }
    let words: Vec<&str> = rest.split_whitespace().collect();
    let (items, of) = words.split_at(words.len().saturating_sub(2));
    let items = items.iter().map(|word| item_id(word)).collect::<Result<Vec<_>, _>>()?;
    let epic = of.last().and_then(|word| number(word)).map(ItemId);
    Ok(Command::EpicOf { items, epic })
}

fn supersede(rest: &str) -> Result<Command, Misuse> {
    let (first, rest) = word(rest);
    let item = item_id(first)?;
    let (by, rest) = word(rest);
    if !by.eq_ignore_ascii_case("by") {
        return Err("write `by` and the item that replaces it".to_owned());
    }
    Ok(Command::Supersede { item, by: item_only(rest)? })
}

fn qa(rest: &str) -> Result<Command, Misuse> {
    let (first, rest) = word(rest);
    let item = item_id(first)?;
    let mode = rest.trim().to_lowercase();
    match QaMode::ALL.into_iter().find(|known| known.as_str() == mode) {
        Some(mode) => Ok(Command::Qa { item, mode }),
        None => Err("say who decides: `gates`, `agent` or `human`".to_owned()),
    }
}

fn run_tests(rest: &str) -> Result<Command, Misuse> {
    let item = if rest.trim().is_empty() { None } else { Some(item_only(rest)?) };
    Ok(Command::RunTests { item })
}

fn worktrees_clean(rest: &str) -> Result<Command, Misuse> {
    match rest.trim() {
        "" => Ok(Command::WorktreesClean { confirmed: false }),
        "--confirm" => Ok(Command::WorktreesClean { confirmed: true }),
        other => end(other).map(|()| Command::WorktreesClean { confirmed: false }),
    }
}

fn start(rest: &str) -> Result<Command, Misuse> {
    let (first, rest) = word(rest);
    let item = item_id(first)?;
    let (agent, rest) = word(rest);
    end(rest)?;
    Ok(Command::Start { item, agent: (!agent.is_empty()).then(|| AgentName::from(agent)) })
}

fn stop(rest: &str) -> Result<Command, Misuse> {
    Ok(Command::Stop(match rest.trim() {
        "" => StopOf::Session,
        all if all.eq_ignore_ascii_case("all") => StopOf::All,
        other => StopOf::Item(item_only(other)?),
    }))
}

fn move_item(rest: &str) -> Result<Command, Misuse> {
    let (first, rest) = word(rest);
    let item = item_id(first)?;
    let (mut stage, mut rest) = word(rest);
    if stage.eq_ignore_ascii_case("to") {
        (stage, rest) = word(rest);
    }
    end(rest)?;
    match MoveTarget::parse(&stage.to_lowercase()) {
        Some(to) => Ok(Command::Move { item, to }),
        None if stage.is_empty() => Err(format!("name a stage: {}", MoveTarget::NAMES)),
        None => {
            let (typed, names) = (first_words(stage), MoveTarget::NAMES);
            Err(format!("nobody can move an item to `{typed}`; the stages are {names}"))
        }
    }
}

fn depends(rest: &str) -> Result<Command, Misuse> {
    let (first, rest) = word(rest);
    let item = item_id(first)?;
    let (on, list) = word(rest);
    if !on.eq_ignore_ascii_case("on") {
        return Err("write `on` and the items that must be finished first".to_owned());
    }
    if list.trim().eq_ignore_ascii_case("none") {
        return Ok(Command::Depends { item, on: vec![] });
    }
    let words = list.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty());
    let on = words.map(item_id).collect::<Result<Vec<_>, _>>()?;
    if on.is_empty() {
        return Err("name the items that must be finished first, or `none`".to_owned());
    }
    Ok(Command::Depends { item, on })
}

fn assign(rest: &str) -> Result<Command, Misuse> {
    let (first, rest) = word(rest);
    let item = item_id(first)?;
    let (agent, rest) = word(rest);
    end(rest)?;
    match agent {
        "" => Err("name the agent, or `none`".to_owned()),
        none if none.eq_ignore_ascii_case("none") => Ok(Command::Assign { item, agent: None }),
        agent => Ok(Command::Assign { item, agent: Some(AgentName::from(agent)) }),
    }
}

fn priority(rest: &str) -> Result<Command, Misuse> {
    let (first, rest) = word(rest);
    let item = item_id(first)?;
    match rest.trim().parse::<i64>() {
        Ok(priority @ -1000..=1000) => Ok(Command::Priority { item, priority }),
        Ok(_) | Err(_) => Err("give a whole number from -1000 to 1000; 0 is the usual".to_owned()),
    }
}

fn delete(rest: &str) -> Result<Command, Misuse> {
    let (first, rest) = word(rest);
    let item = item_id(first)?;
    let confirmed = match rest.trim() {
        "" => false,
        "--confirm" => true,
        other => return end(other).map(|()| Command::Delete { item, confirmed: false }),
    };
    Ok(Command::Delete { item, confirmed })
}

fn tell(rest: &str) -> Result<Command, Misuse> {
    let (agent, text) = word(rest);
    if agent.is_empty() {
        return Err("name the agent and say what".to_owned());
    }
    let agent = AgentName::from(agent.trim_end_matches([':', ',']));
    match text.trim() {
        "" => Err(format!("say what to tell {agent}")),
        text => Ok(Command::Tell { agent, text: text.to_owned() }),
    }
}

fn switch(rest: &str) -> Result<Command, Misuse> {
    let (name, rest) = word(rest);
    end(rest)?;
    match name {
        "" => Err("name the project; `projects` lists them".to_owned()),
        name => Ok(Command::Switch(name.into())),
    }
}

fn project(rest: &str) -> Result<Command, Misuse> {
    let (verb, rest) = word(rest);
    let (name, rest) = word(rest);
    let (flag, end_of_line) = word(rest);
    end(end_of_line)?;
    let action = match (verb.to_lowercase().as_str(), flag) {
        ("info", "") => ProjectAction::Info,
        ("stop", "") => ProjectAction::Stop,
        ("start", "") => ProjectAction::Start,
        ("remove", "") => ProjectAction::Remove { confirmed: false },
        ("remove", "--confirm") => ProjectAction::Remove { confirmed: true },
        ("info" | "stop" | "start" | "remove", more) => {
            return Err(format!("I do not know what `{}` means here", first_words(more)));
        }
        _ => return Err("say whether to stop, start or remove, and the project".to_owned()),
    };
    match name {
        "" => Err("name the project; `projects` lists them".to_owned()),
        name => Ok(Command::Project { name: name.into(), action }),
    }
}

fn new_project(rest: &str) -> Result<Command, Misuse> {
    let mut args = NewProjectArgs::default();
    let mut words = rest.split_whitespace();
    while let Some(next) = words.next() {
        let (flag, inline) = match next.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag, Some(value)),
            Some(_) | None => (next, None),
        };
        let slot = match flag {
            "--stack" => &mut args.stack,
            "--git" => &mut args.git,
            "--path" => &mut args.path,
            "--host-only" => {
                args.host_only = true;
                continue;
            }
            unknown if unknown.starts_with("--") => {
                return Err(format!("`{}` is no option here", first_words(unknown)));
            }
            name if args.name.is_empty() => {
                name.clone_into(&mut args.name);
                continue;
            }
            more => {
                return Err(format!("I do not know what `{}` means here", first_words(more)));
            }
        };
        match inline.or_else(|| words.next()).filter(|value| !value.is_empty()) {
            Some(value) => *slot = Some(value.to_owned()),
            None => return Err(format!("`{flag}` wants a value")),
        }
    }
    if args.name.is_empty() {
        return Err("the project's name is missing".to_owned());
    }
    Ok(Command::NewProject(args))
}

fn remind(rest: &str) -> Result<Command, Misuse> {
    match rest.trim() {
        "" => Err("say whom, when and what".to_owned()),
        text => Ok(Command::Remind { text: text.to_owned() }),
    }
}

fn timer_cancel(rest: &str) -> Result<Command, Misuse> {
    let (id, rest) = word(rest);
    end(rest)?;
    match number(id) {
        Some(id) => Ok(Command::TimerCancel(TimerId(id))),
        None => Err("give the timer's number; `timers` shows it".to_owned()),
    }
}

fn ambient(rest: &str) -> Result<Command, Misuse> {
    match rest.trim().to_lowercase().as_str() {
        "on" => Ok(Command::Ambient(true)),
        "off" => Ok(Command::Ambient(false)),
        _other => Err("say `on` or `off`".to_owned()),
    }
}

fn queue(rest: &str) -> Result<Command, Misuse> {
    match rest.trim().to_lowercase().as_str() {
        "collect" => Ok(Command::Queue(QueueMode::Collect)),
        "steer" => Ok(Command::Queue(QueueMode::Steer)),
        "interrupt" => Ok(Command::Queue(QueueMode::Interrupt)),
        _other => Err("say `collect`, `steer` or `interrupt`".to_owned()),
    }
}

fn rebuild(rest: &str) -> Result<Command, Misuse> {
    let (mut pull, mut now) = (false, false);
    for flag in rest.split_whitespace() {
        match flag {
            "--pull" => pull = true,
            "--now" => now = true,
            other => return Err(format!("`{}` is no option here", first_words(other))),
        }
    }
    Ok(Command::Rebuild { pull, now })
}
