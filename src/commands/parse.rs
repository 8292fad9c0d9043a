//! From text to a command, or to talk.
//!
//! Grammar: a message is a command when it begins with the prefix and a command's name
//! (`!status`), or, in a message for the bot, with `/` and the name, or when, in a message for
//! the bot, **all of it** is a command without prefix (`status`, `stop 12`). A sentence that
//! merely begins with such a word ("status of the shop page is odd") is talk. Names are looked up
//! longest first, in any case; `#12` is `12`; free text runs to the end, unparsed and unquoted.
//!
//! Pure: what exists (agents, projects) is handed in.

use super::command::Command;
use super::page::{self, Page};
use super::spec::{Bare, Misuse, SPECS, Spec, is_membership};
use crate::model::ids::{AgentName, ProjectName};
use regex::Regex;
use std::path::Path;
use std::sync::LazyLock;

/// How alike a typed name and a known one must be for a suggestion (Jaro-Winkler, 0 to 1).
const ALIKE: f64 = 0.78;

/// How a reminder begins; other sentences with "remind me" are talk.
static REMINDER: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?ix)^(?:(?:me|room|us|@\S+)[,:]?\s+)?
        (?:in\s+(?:\d|an?\s|half\s) | at\s+(?:\d|noon|midnight) | on\s+\S | every\s+\S | daily\b
         | tomorrow\b | tonight\b | today\b | next\s+\S | \d
         | (?:mon|tues|wednes|thurs|fri|satur|sun)day\b )",
    )
    .expect("the pattern is constant and compiles")
});

/// What exists: a bare `mail X` or `switch X` is a command only when there is an X.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// The agents.
    pub agents: Vec<AgentName>,
    /// The projects.
    pub projects: Vec<ProjectName>,
}

/// What a message's text is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// A command.
    Command(Command),
    /// A prompt command: this text goes to the coordinator in place of what was typed.
    Prompt {
        /// The filled-in template.
        text: String,
    },
    /// A command's name with arguments that do not fit: the sentence to answer with.
    Misused {
        /// The sentence, with the usage.
        answer: String,
    },
    /// Our prefix and a name that is no command.
    Unknown {
        /// What was typed, without prefix.
        typed: String,
        /// The command that looks most like it.
        nearest: Option<String>,
    },
    /// Not a command.
    Talk,
}

/// The commands that there are, with their pages.
#[derive(Debug, Clone)]
pub struct Registry {
    /// The built-in commands with their pages, in the order of the specs.
    pub(super) builtin: Vec<(Spec, Page)>,
    /// The user's prompt commands.
    pub(super) prompts: Vec<Page>,
}

impl Registry {
    /// The built-in commands.
    pub fn builtin() -> Self {
        let mut pages = page::embedded();
        let page_of = |spec: &Spec| {
            let at = pages.iter().position(|page| page.name == spec.name)?;
            Some((*spec, pages.swap_remove(at)))
        };
        Self { builtin: SPECS.iter().filter_map(page_of).collect(), prompts: vec![] }
    }

    /// The built-in commands and what the user's `bot-commands/` in `config_dir` adds; and a
    /// sentence for each page that cannot be used.
    pub fn load(config_dir: Option<&Path>) -> (Self, Vec<String>) {
        let mut registry = Self::builtin();
        let Some(dir) = config_dir else {
            return (registry, vec![]);
        };
        let (own, mut problems) = page::own(&dir.join("bot-commands"));
        for page in own {
            if let Some((_, known)) =
                registry.builtin.iter_mut().find(|(spec, _)| spec.name == page.name)
            {
                // Words only: who may use a command and what it is called is not theirs to change.
                known.summary = page.summary;
                known.text = page.text;
            } else if registry.is_taken(&page) {
                problems.push(format!(
                    "bot-commands: `{}` or one of its aliases is taken by another command",
                    page.name
                ));
            } else {
                registry.prompts.push(page);
            }
        }
        (registry, problems)
    }

    fn is_taken(&self, page: &Page) -> bool {
        page.names().any(|name| self.pages().any(|known| known.names().any(|taken| taken == name)))
    }

    /// Every command's page.
    pub fn pages(&self) -> impl Iterator<Item = &Page> {
        self.builtin.iter().map(|(_, page)| page).chain(&self.prompts)
    }

    /// The page of the command that goes by `name`.
    pub fn find_page(&self, name: &str) -> Option<&Page> {
        self.pages().find(|page| page.names().any(|known| known == name))
    }

    /// Reads a message. `addressed`: it is meant for the bot.
    pub fn parse(&self, text: &str, prefix: &str, addressed: bool, names: &Names) -> Parsed {
        let text = text.trim();
        if !prefix.is_empty()
            && let Some(rest) = text.strip_prefix(prefix)
        {
            return self.prefixed(rest, addressed);
        }
        if !addressed {
            return Parsed::Talk;
        }
        if let Some(rest) = text.strip_prefix('/') {
            return match self.prefixed(rest, addressed) {
                Parsed::Unknown { .. } => Parsed::Talk,
                parsed @ (Parsed::Command(_)
                | Parsed::Prompt { .. }
                | Parsed::Misused { .. }
                | Parsed::Talk) => parsed,
            };
        }
        self.bare(text, names).map_or(Parsed::Talk, Parsed::Command)
    }

    fn prefixed(&self, rest: &str, addressed: bool) -> Parsed {
        // "!!!" and "! no" are exclamations.
        if !rest.starts_with(|c: char| c.is_alphanumeric() || c == '?') {
            return Parsed::Talk;
        }
        if let Some((spec, page, arguments)) = self.lookup(rest) {
            return match (spec.read)(arguments.trim_start_matches([':', ' '])) {
                Ok(command) => Parsed::Command(command),
                Err(problem) => Parsed::Misused { answer: misuse(page, &problem) },
            };
        }
        let prompt = self.prompts.iter().find_map(|page| {
            let arguments = page.names().find_map(|name| after_name(rest, name))?;
            Some(Parsed::Prompt { text: page.fill(arguments) })
        });
        match prompt {
            Some(prompt) => prompt,
            None if addressed => self.unknown(rest),
            None => Parsed::Talk,
        }
    }

    /// The command whose name the text begins with, longest name first, and what follows.
    fn lookup<'a>(&self, text: &'a str) -> Option<(&Spec, &Page, &'a str)> {
        let found = self.builtin.iter().flat_map(|(spec, page)| {
            page.names().filter_map(move |name| {
                after_name(text, name).map(|rest| (name.len(), spec, page, rest))
            })
        });
        found.max_by_key(|(length, ..)| *length).map(|(_, spec, page, rest)| (spec, page, rest))
    }

    fn bare(&self, text: &str, names: &Names) -> Option<Command> {
        let (spec, _, rest) = self.lookup(text)?;
        match spec.bare {
            Bare::Whole => {
                let free = matches!(spec.name, "tell" | "block" | "reject" | "abandon");
                if text.contains('\n') && !free {
                    return None;
                }
                let rest = if free { rest } else { rest.trim_end_matches(['!', '.', '?', ' ']) };
                let command = (spec.read)(rest).ok()?;
                self.exists(&command, names).then_some(command)
            }
            Bare::Colon if spec.name == "epic" && is_membership(rest) => (spec.read)(rest).ok(),
            Bare::Colon => (spec.read)(rest.strip_prefix(':')?).ok(),
            Bare::Reminder => {
                REMINDER.is_match(rest.trim_start()).then(|| (spec.read)(rest).ok())?
            }
        }
    }

    /// Whether the agent, project or page that a bare command names is there.
    fn exists(&self, command: &Command, names: &Names) -> bool {
        let agent = |name: &AgentName| names.agents.contains(name);
        #[allow(clippy::wildcard_enum_match_arm, reason = "only these name something")]
        match command {
            Command::Help { topic: Some(topic) } => self.find_page(topic).is_some(),
            Command::Mail { agent: Some(name) }
            | Command::Start { agent: Some(name), .. }
            | Command::Assign { agent: Some(name), .. }
            | Command::Tell { agent: name, .. } => agent(name),
            Command::Switch(project) | Command::Project { name: project, .. } => {
                names.projects.contains(project)
            }
            _ => true,
        }
    }

    fn unknown(&self, rest: &str) -> Parsed {
        let mut words = rest.split_whitespace();
        let first = words.next().unwrap_or_default().to_lowercase();
        let two = words.next().map(|second| format!("{first} {}", second.to_lowercase()));
        let nearest = self.nearest(two.as_deref()).or_else(|| self.nearest(Some(&first)));
        Parsed::Unknown { typed: first, nearest }
    }

    /// The command that looks most like `typed`.
    pub(super) fn nearest(&self, typed: Option<&str>) -> Option<String> {
        let typed = typed?;
        let likeness = |name: &str| {
            let first = name.split(' ').next().unwrap_or(name);
            let whole = strsim::jaro_winkler(typed, name);
            // `resume` is near to `resume all`.
            if typed == first { whole.max(0.95) } else { whole }
        };
        let names = self.pages().flat_map(Page::names);
        let best = names.max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
        (likeness(best) >= ALIKE).then(|| best.to_owned())
    }
}

/// What follows `name` in `text`, if `text` begins with just that name.
fn after_name<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = text;
    for (index, word) in name.split(' ').enumerate() {
        if index > 0 {
            let trimmed = rest.trim_start_matches([' ', '\t']);
            if trimmed.len() == rest.len() {
                return None;
            }
            rest = trimmed;
        }
        let head = rest.get(..word.len())?;
        if !head.eq_ignore_ascii_case(word) {
            return None;
        }
        rest = &rest[word.len()..];
    }
    let ends = match rest.chars().next() {
        None => true,
        Some(c) => c.is_whitespace() || matches!(c, ':' | '!' | '.' | '?' | '#'),
    };
    ends.then_some(rest)
}

fn misuse(page: &Page, problem: &Misuse) -> String {
    let example = page.examples.last().map(|example| format!(" For example `{example}`."));
    format!("`{}`: {problem}. Usage: `{}`.{}", page.name, page.usage, example.unwrap_or_default())
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
