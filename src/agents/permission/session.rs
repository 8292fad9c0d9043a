//! What a person's "for this session" allows: as little as it can, never a program that runs others.
//!
//! "Always allow" for `sh -c …` or `env …` would allow everything from then on. So of a line, the
//! commands that no rule covers are stored word by word; one of them that runs what it is given
//! makes the whole line one that is allowed once at a time.

use super::{Decision, Pattern, Policy, Rule, Sort, shell, sort};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Programs that run what they are given: commands, scripts, programs from elsewhere.
const RUNNERS: &[&str] = &[
    ".",
    "eval",
    "source",
    "trap",
    "ash",
    "awk",
    "bash",
    "builtin",
    "bun",
    "bunx",
    "busybox",
    "chroot",
    "command",
    "csh",
    "dash",
    "deno",
    "docker",
    "doas",
    "ed",
    "emacs",
    "env",
    "ex",
    "exec",
    "expect",
    "find",
    "fish",
    "flock",
    "gawk",
    "gdb",
    "ionice",
    "java",
    "jshell",
    "ksh",
    "lua",
    "m4",
    "mawk",
    "nawk",
    "nice",
    "node",
    "nodejs",
    "nohup",
    "npx",
    "nsenter",
    "osascript",
    "parallel",
    "perl",
    "php",
    "pipx",
    "pkexec",
    "pnpx",
    "podman",
    "psql",
    "pwsh",
    "python",
    "pypy",
    "r",
    "rscript",
    "ruby",
    "screen",
    "script",
    "sed",
    "setpriv",
    "setsid",
    "sh",
    "sqlite",
    "ssh",
    "stdbuf",
    "strace",
    "su",
    "sudo",
    "systemd-run",
    "tclsh",
    "time",
    "timeout",
    "tmux",
    "ts-node",
    "tsx",
    "unshare",
    "uvx",
    "vi",
    "vim",
    "watch",
    "xargs",
    "zsh",
];

/// Programs whose second word says what they do: that is what is allowed, with further words.
const WITH_VERBS: &[&str] =
    &["cargo", "composer", "dotnet", "go", "gradle", "mvn", "npm", "pip", "pnpm", "uv", "yarn"];

/// Verbs of those that run what they are given.
const RUNNING_VERBS: &[&str] = &["dlx", "exec", "explore", "run", "run-script", "tool", "x"];

/// A rule that a person made for one session of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRule {
    /// The tool, by its exact name.
    pub tool: String,
    /// The command, path or input.
    pub text: String,
    /// Whether further words may follow.
    pub further: bool,
}

impl SessionRule {
    /// As a person reads it.
    pub fn shown(&self) -> String {
        if self.further { format!("{} …", self.text) } else { self.text.clone() }
    }
}

impl From<SessionRule> for Rule {
    fn from(rule: SessionRule) -> Self {
        let SessionRule { tool, text, further } = rule;
        Self { tool, pattern: Some(Pattern::Words { text, further }) }
    }
}

impl Policy {
    /// The same, with what was allowed for the session.
    #[must_use]
    pub fn with_session(&self, rules: impl IntoIterator<Item = SessionRule>) -> Self {
        let mut policy = self.clone();
        policy.allow.extend(rules.into_iter().map(Rule::from));
        policy
    }

    /// The rules that would allow this call from now on, or why there are none.
    pub fn for_session(&self, tool: &str, input: &Value) -> Result<Vec<SessionRule>, String> {
        if input.get("outside_of_the_sandbox").is_some() {
            return Err("it leaves the sandbox".to_owned());
        }
        let rules = match sort(tool) {
            Sort::Shell => self.for_line(tool, input)?,
            Sort::Read | Sort::Write => vec![exactly(tool, self.shown_path(input))],
            Sort::Harmless | Sort::Unknown => vec![exactly(tool, input.to_string())],
        };
        if rules.is_empty() {
            return Err("no rule decides about it".to_owned());
        }
        // What would be asked again, or denied, is nothing to offer.
        match self.with_session(rules.clone()).decide(tool, input) {
            Decision::Allow => Ok(rules),
            Decision::Deny(_) | Decision::Ask => Err("no rule can cover it".to_owned()),
        }
    }

    fn for_line(&self, tool: &str, input: &Value) -> Result<Vec<SessionRule>, String> {
        let line = input.get("command").and_then(Value::as_str).unwrap_or_default();
        let Some(parts) = commands(line) else {
            return Err("it cannot be taken apart into its commands".to_owned());
        };
        let mut rules = Vec::new();
        for part in parts {
            if self.covers(tool, line, &part, false) {
                continue;
            }
            let rule = of_command(tool, &part)?;
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        Ok(rules)
    }
}

/// The commands of a line whose words stand there as they are: what a variable or a quote hides
/// could be something else the next time.
fn commands(line: &str) -> Option<Vec<String>> {
    let plain = !line.contains(['$', '`', '\\', '"', '\'']);
    if plain { shell::commands(line) } else { None }
}

fn exactly(tool: &str, text: String) -> SessionRule {
    SessionRule { tool: tool.to_owned(), text, further: false }
}

fn of_command(tool: &str, part: &str) -> Result<SessionRule, String> {
    let mut words = part.split_whitespace();
    let program = words.next().unwrap_or_default();
    let name = program.rsplit('/').next().unwrap_or_default().to_lowercase();
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    if RUNNERS.contains(&stem) || RUNNERS.contains(&name.as_str()) {
        return Err(format!("`{name}` runs what it is given"));
    }
    if shell::redirects(part) {
        return Err("it writes a file".to_owned());
    }
    let Some(verb) = words.next().filter(|_| WITH_VERBS.contains(&name.as_str())) else {
        return Ok(exactly(tool, part.to_owned()));
    };
    if RUNNING_VERBS.contains(&verb) {
        return Err(format!("`{name} {verb}` runs what it is given"));
    }
    let plain = verb.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == ':');
    if !plain || verb.starts_with('-') {
        return Ok(exactly(tool, part.to_owned()));
    }
    Ok(SessionRule { tool: tool.to_owned(), text: format!("{program} {verb}"), further: true })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PermissionMode;
    use crate::model::agent::Role;
    use serde_json::json;

    fn policy() -> Policy {
        Policy {
            role: Role::Coder,
            mode: PermissionMode::Ask,
            allow: vec![],
            deny: vec![Rule::parse("Bash(cargo publish *)")],
            worktree: std::env::temp_dir(),
            bounds: super::super::Bounds::default(),
        }
    }

    fn rules(line: &str) -> Result<Vec<String>, String> {
        let rules = policy().for_session("Bash", &json!({"command": line}))?;
        Ok(rules.iter().map(SessionRule::shown).collect())
    }

    #[test]
    fn what_is_stored_is_as_narrow_as_the_line() {
        for (line, expected) in [
            ("cargo test --all", vec!["cargo test …"]),
            ("ls && cargo build | tail -3", vec!["cargo build …"]),
            ("curl https://example.org/x", vec!["curl https://example.org/x"]),
            ("make install; make install", vec!["make install"]),
        ] {
            let expected = expected.into_iter().map(str::to_owned).collect();
            assert_eq!(rules(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn wrappers_and_interpreters_are_never_stored() {
        for line in [
            "sh -c ls",
            "bash x.sh",
            "python -c pass",
            "/usr/bin/python3.11 -m http.server",
            "env A=b curl x",
            "sudo make install",
            "find . -name x -exec rm {} +",
            "xargs rm",
            "npx cowsay",
            "npm exec cowsay",
            "npm run deploy",
            "node -e 1",
            "perl -e 1",
            "timeout 5 curl x",
            "nice -n 5 curl x",
            "ls; ssh host rm x",
            "sed -i e x",
            "awk x",
            "curl x > y",
            "curl \"$X\"",
            "eval x",
            "cargo publish",
        ] {
            assert!(rules(line).is_err(), "{line}: {:?}", rules(line));
        }
    }

    #[test]
    fn a_stored_rule_allows_that_and_nothing_beside_it() {
        let line = |line: &str| json!({"command": line});
        let allowed =
            policy().for_session("Bash", &line("curl https://a.b/*; cargo test")).unwrap();
        let policy = policy().with_session(allowed);
        for (text, expected) in [
            ("curl https://a.b/*", Decision::Allow),
            ("cargo test --lib && ls", Decision::Allow),
            ("cargo test", Decision::Allow),
            ("cargo testament", Decision::Ask),
            ("curl https://a.b/c", Decision::Ask),
            ("curl https://a.b/* -o x", Decision::Ask),
            ("cargo test; curl x", Decision::Ask),
        ] {
            assert_eq!(policy.decide("Bash", &line(text)), expected, "{text}");
        }
        let other = policy.decide("WebFetch", &json!({"url": "x"}));
        assert_eq!(other, Decision::Ask);
        let fetch = policy.for_session("WebFetch", &json!({"url": "x"})).unwrap();
        let policy = policy.with_session(fetch);
        assert_eq!(policy.decide("WebFetch", &json!({"url": "x"})), Decision::Allow);
        assert_eq!(policy.decide("WebFetch", &json!({"url": "y"})), Decision::Ask);
    }
}
