//! What the bot tells people to say exists: each command that stands in a text parses.

use super::*;
use std::path::{Path, PathBuf};

/// What stands between backticks in texts and is no command of the chat: settings, programs, files
/// and values. A new word must be put here, or be a command.
const NO_COMMANDS: &[&str] = &[
    "question",
    // A folder, and a word of the shell.
    "transcripts",
    "eval",
    "outcome",
    "summary",
    "commit",
    "minutes",
    "reason",
    "pattern",
    "item",
    // Keys, and their values.
    "key: value",
    "name:",
    "model",
    "info",
    "anthropic",
    "openai",
    "gemini",
    "ollama",
    "codex",
    "acp",
    "api",
    // Stages.
    "upcoming",
    "backlog",
    "coding",
    "merge",
    "archived",
    "abandoned",
    // Words of a verdict.
    "lgtm",
    "base",
    "gates",
    "path",
    "setup",
    "room",
    "name",
    "qa",
    "command",
    "human",
    "agent",
    "main",
    "gate",
    "local",
    "on",
    // Arguments of tools.
    "project",
    "children",
    "none",
    "reject",
    "by",
    "off",
    "collect",
    "steer",
    "interrupt",
    "env",
    "allow",
    "coordinator",
    "findings",
    "doctor --quick",
    // Replies to a message that asks.
    "session",
    "deny why",
];

/// Sources whose texts are for agents, or about times.
const NOT_FOR_PEOPLE: &[&str] =
    &["work/prompt.rs", "agents/runtime", "agents/turn", "timers/when.rs"];

/// Words that a text begins with when it is about another program.
const PROGRAMS: &[&str] =
    &["musher", "sh", "python", "npx", "kill", "git", "cargo", "apt", "apt-get", "chmod", "claude"];

fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|ending| ending == "rs")
            && !path.to_string_lossy().contains("tests")
            && !NOT_FOR_PEOPLE.iter().any(|part| path.to_string_lossy().contains(part))
        {
            out.push(path);
        }
    }
}

/// The string literals of a source, tests and comments left out.
fn texts(source: &str) -> String {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let joined = lines.collect::<Vec<_>>().join("\n");
    // A literal that goes on in the next line.
    joined.split("\\\n").map(str::trim_start).collect::<Vec<_>>().concat()
}

/// What a person would type for a text such as `move {id} backlog` or `reject N why`.
fn typed(text: &str) -> String {
    let text = text.replace("{prefix}", "!");
    let mut out = String::new();
    let mut depth = 0;
    for letter in text.chars() {
        match letter {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                out.push_str("12");
            }
            _ if depth == 0 => out.push(letter),
            _ => {}
        }
    }
    let place = |word: &str| match word {
        "N" | "EPIC" | "M" | "ID" => "12".to_owned(),
        "NAME" | "AGENT" | "TEXT" | "WHY" | "COMMIT" => "abcd".to_owned(),
        "…" => "words".to_owned(),
        word => word.trim_end_matches('…').to_owned(),
    };
    let out = out.split_whitespace().map(place).collect::<Vec<_>>().join(" ");
    if out.trim_start_matches('!').starts_with("remind ") {
        return out.replace("words", "in 2 hours to go");
    }
    out
}

/// Whether a text in backticks looks like something to be said: words in small letters first.
fn looks_said(text: &str) -> bool {
    let text = text.strip_prefix("{prefix}").or(text.strip_prefix('!')).unwrap_or(text);
    let first = text.split([' ', '{', ':']).next().unwrap_or_default();
    !first.is_empty()
        && first.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_')
        && !PROGRAMS.contains(&first)
        && !text.contains(['=', '/', '\\', '"', '(', '[', '*', '.', '\n', '<'])
        // A fence, and the name of a tool or setting.
        && !text.starts_with("diff{")
        && !first.contains('_')
}

/// Why nobody can say this as it stands, in a room where all is for the bot; `None`: they can.
fn wrong(registry: &Registry, said: &str) -> Option<String> {
    // The name alone speaks of the command.
    if registry.find_page(said).is_some() {
        return None;
    }
    let names = || ["abcd", "12"];
    let names =
        Names { agents: names().map(Into::into).into(), projects: names().map(Into::into).into() };
    let line = typed(said);
    match registry.parse(&line, "!", true, &names) {
        Parsed::Command(_) => None,
        other @ (Parsed::Prompt { .. }
        | Parsed::Misused { .. }
        | Parsed::Unknown { .. }
        | Parsed::Talk) => Some(format!("`{said}` ({line}): {other:?}")),
    }
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Counts what can be said, and collects what cannot.
#[derive(Default)]
struct Judge {
    seen: usize,
    wrong: Vec<String>,
}

impl Judge {
    fn hear(&mut self, registry: &Registry, place: &Path, said: &str) {
        if looks_said(said) && !NO_COMMANDS.contains(&said) {
            self.seen += 1;
            self.wrong
                .extend(wrong(registry, said).map(|why| format!("{}: {why}", place.display())));
        }
    }

    fn verdict(self, most: usize) {
        let count = self.wrong.len();
        assert!(count == 0, "{count} texts name what nobody can say:\n{}", self.wrong.join("\n"));
        assert!(self.seen > most, "the texts were not found: {}", self.seen);
    }
}

/// The sources whose texts people read.
fn spoken() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![];
    for folder in [
        "commands",
        "work",
        "dispatcher",
        "agents",
        "merge",
        "chat",
        "llm",
        "timers",
        "coordinator",
        "doctor",
        "project",
        "model",
        "mail",
        "upgrade",
        "store",
        "cli",
        "config",
        "tools",
        "app",
        "main",
    ] {
        sources(&root.join(folder), &mut files);
    }
    files
}

#[test]
fn every_command_that_a_text_names_exists_and_can_be_said_like_that() {
    let registry = Registry::builtin();
    let mut judge = Judge::default();
    for file in spoken() {
        let text = texts(&std::fs::read_to_string(&file).unwrap());
        for literal in literals(&text) {
            quoted(&literal).for_each(|said| judge.hear(&registry, &file, said));
        }
    }
    judge.verdict(60);
}

#[test]
fn every_command_that_a_page_or_the_readme_names_can_be_said_like_that() {
    let registry = Registry::builtin();
    let mut judge = Judge::default();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for entry in std::fs::read_dir(root.join("bot-commands")).unwrap() {
        let path = entry.unwrap().path();
        let page = std::fs::read_to_string(&path).unwrap();
        let (_, text) = page.split_once("\n---\n").unwrap();
        quoted(text).for_each(|said| judge.hear(&registry, &path, said));
    }
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    // The tables are of usages and keys, and fences show files.
    let mut fenced = false;
    for line in readme.lines().filter(|line| !line.starts_with('|')) {
        fenced ^= line.starts_with("```");
        if !fenced {
            quoted(line).for_each(|said| judge.hear(&registry, Path::new("README.md"), said));
        }
    }
    judge.verdict(30);
}

/// The configuration is read once: who is told to change it is told to restart.
#[test]
fn every_remedy_in_the_configuration_says_restart() {
    // These are said by a start or a trial, which ends with them, or are no remedies.
    let not_running = [
        "cli",
        "config",
        "main",
        "app",
        "doctor",
        "upgrade",
        "tools/examples.rs",
        "llm/key.rs",
        "llm/wire.rs",
        "llm/mod.rs",
        "llm/caps.rs",
        "chat/matrix",
        "agents",
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut seen, mut wrong) = (0, vec![]);
    for file in spoken() {
        let place = file.strip_prefix(&root).unwrap();
        if not_running.iter().any(|part| place.starts_with(part)) {
            continue;
        }
        let text = texts(&std::fs::read_to_string(&file).unwrap());
        for literal in literals(&text) {
            let key = ["`base`", "`gates`", "`path`", "`setup`", "`[[agents]]`", "`admin_users`"];
            let named = literal.contains("musher.toml")
                || ["correct the project's", "put [llm]", "[[agents]]"]
                    .iter()
                    .any(|words| literal.contains(words))
                || key.iter().any(|key| literal.contains(key)) && literal.contains("correct ");
            if named {
                seen += 1;
                if !literal.contains("restart") {
                    wrong.push(format!("{}: {literal}", place.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "these leave out the restart:\n{}", wrong.join("\n"));
    assert!(seen > 8, "the remedies were not found: {seen}");
}

/// The string literals of some code, in order.
fn literals(code: &str) -> Vec<String> {
    let mut found = vec![];
    let mut letters = code.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => {
                let mut literal = String::new();
                while let Some(letter) = letters.next() {
                    match letter {
                        '\\' => {
                            letters.next();
                        }
                        '"' => break,
                        letter => literal.push(letter),
                    }
                }
                found.push(literal);
            }
            // '"' as a character.
            '\'' if letters.peek() == Some(&'"') => {
                letters.next();
                letters.next();
            }
            _ => {}
        }
    }
    found
}
