//! What the bot tells people to say exists: each command that stands in a text parses.

use super::*;
use std::path::{Path, PathBuf};

/// What stands between backticks in texts and is no command of the chat: settings, programs, files
/// and values. A new word must be put here, or be a command.
const NO_COMMANDS: &[&str] = &[
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
const PROGRAMS: &[&str] = &["git", "musher", "cargo", "apt", "apt-get", "chmod", "claude"];

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
    out.split_whitespace().map(place).collect::<Vec<_>>().join(" ")
}

/// Whether a text in backticks looks like something to be said: words in small letters first.
fn looks_said(text: &str) -> bool {
    let first = text.split([' ', '{']).next().unwrap_or_default();
    !first.is_empty()
        && first.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_')
        && !PROGRAMS.contains(&first)
        && !text.contains(['=', '/', '\\', '"', '(', '[', '*', '.', '\n'])
        // A fence, and the name of a tool or setting.
        && !text.starts_with("diff{")
        && !first.contains('_')
}

#[test]
fn every_command_that_a_text_names_exists_and_can_be_said_like_that() {
    let registry = Registry::builtin();
    let mut files = vec![];
    for folder in ["commands", "work", "dispatcher", "agents", "merge", "chat", "llm", "timers"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(folder), &mut files);
    }
    for folder in ["coordinator", "doctor", "project", "model", "mail", "upgrade", "store"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(folder), &mut files);
    }
    let (mut seen, mut wrong) = (0, vec![]);
    for file in files {
        let text = texts(&std::fs::read_to_string(&file).unwrap());
        for literal in literals(&text) {
            for said in literal.split('`').skip(1).step_by(2) {
                if !looks_said(said) || NO_COMMANDS.contains(&said) {
                    continue;
                }
                seen += 1;
                let line = format!("!{}", typed(said));
                let parsed = registry.parse(&line, "!", true, &Names::default());
                if !matches!(parsed, Parsed::Command(_)) {
                    wrong.push(format!("{}: `{said}` ({line}): {parsed:?}", file.display()));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} texts name what nobody can say:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(seen > 60, "the texts were not found: {seen}");
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
