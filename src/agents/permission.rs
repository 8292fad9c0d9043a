//! What an agent's runtime may do without asking anybody.
//!
//! Deny rules win, then allow rules, then the role and the mode. A rule is a tool's name, or
//! `Tool(pattern)` with `*` for any text; the pattern is matched with the file's path, or with
//! each command of a shell line. The worktree is what an agent may write.

mod guard;
mod line;
mod session;
mod shell;

pub use guard::Bounds;
pub use session::SessionRule;
pub use shell::commands;

use crate::config::PermissionMode;
use crate::model::agent::Role;
use guard::Guard;
use serde_json::Value;
use std::path::{Component, Path, PathBuf};

/// What decides about an agent's tools.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Scouts and reviewers write nothing.
    pub role: Role,
    /// What happens to what no rule covers.
    pub mode: PermissionMode,
    /// Allowed.
    pub allow: Vec<Rule>,
    /// Denied; wins.
    pub deny: Vec<Rule>,
    /// What may be written.
    pub worktree: PathBuf,
    /// What nobody can allow.
    pub bounds: Bounds,
}

/// Why a line is refused that nobody can check.
const UNCLEAR: &str = "this line cannot be taken apart into its commands, so nobody can check it: \
                       write it more plainly (no arrays, no `eval` of variables, no $'…', no \
                       commands from variables), or put it into a script and run that";

/// `Tool` or `Tool(pattern)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    tool: String,
    pattern: Option<Pattern>,
}

/// What a rule is matched with.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    /// `*` stands for any text.
    Glob(String),
    /// Just this, or this and further words: what a person allowed for a session. A `*` in it is
    /// a `*`.
    Words { text: String, further: bool },
}

impl Rule {
    /// Reads a rule as configured.
    pub fn parse(text: &str) -> Self {
        match text.trim().strip_suffix(')').and_then(|text| text.split_once('(')) {
            Some((tool, pattern)) => {
                let pattern = Pattern::Glob(pattern.trim().to_owned());
                Self { tool: tool.trim().to_owned(), pattern: Some(pattern) }
            }
            None => Self { tool: text.trim().to_owned(), pattern: None },
        }
    }

    fn names(&self, tool: &str) -> bool {
        match &self.pattern {
            Some(Pattern::Words { .. }) => self.tool == tool,
            Some(Pattern::Glob(_)) | None => glob(&self.tool, tool),
        }
    }

    fn fits(&self, text: &str) -> bool {
        match &self.pattern {
            None => true,
            // `cargo *` covers plain `cargo` too; `cargo:*` is how Claude Code writes it.
            Some(Pattern::Words { text: words, further }) => match text.strip_prefix(&**words) {
                Some("") => true,
                Some(more) => *further && more.starts_with(' '),
                None => false,
            },
            Some(Pattern::Glob(pattern)) => {
                let pattern = pattern.replace(":*", " *");
                glob(&pattern, text)
                    || pattern.strip_suffix(" *").is_some_and(|alone| glob(alone, text))
            }
        }
    }
}

/// Whether `text` fits `pattern`, in which `*` stands for any text.
fn glob(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else {
        return rest.is_empty();
    };
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// What the policy says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may run.
    Allow,
    /// It may not, and this is why, for the model.
    Deny(String),
    /// No rule covers it: a person decides.
    Ask,
}

/// What sort of tool it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Read,
    Write,
    Shell,
    Harmless,
    Unknown,
}

fn sort(tool: &str) -> Sort {
    match tool {
        "Read" | "Glob" | "Grep" | "LS" | "NotebookRead" | "read_file" | "list_files"
        | "search" => Sort::Read,
        "Write" | "Edit" | "MultiEdit" | "NotebookEdit" | "write_file" | "edit_file" => Sort::Write,
        "Bash" | "PowerShell" | "shell" => Sort::Shell,
        "Task" | "Agent" | "TodoWrite" | "TaskCreate" | "TaskGet" | "TaskList" | "TaskOutput"
        | "TaskStop" | "TaskUpdate" | "BashOutput" | "KillShell" | "ToolSearch" | "Skill" => {
            Sort::Harmless
        }
        other if other.starts_with("mcp__musher__") => Sort::Harmless,
        _other => Sort::Unknown,
    }
}

impl Policy {
    /// Decides about a call of `tool` with `input`.
    pub fn decide(&self, tool: &str, input: &Value) -> Decision {
        match sort(tool) {
            Sort::Shell => self.decide_shell(tool, input),
            Sort::Read | Sort::Write => self.decide_file(tool, input),
            Sort::Harmless | Sort::Unknown => self.decide_other(tool, input),
        }
    }

    fn writes(&self) -> bool {
        match self.role {
            Role::Coder | Role::Qa | Role::Mergemaster => true,
            Role::Lead | Role::Scout | Role::Reviewer => false,
        }
    }

    /// The path that a file tool is called with: where it leads.
    fn path(&self, input: &Value) -> PathBuf {
        let named = ["file_path", "notebook_path", "path"]
            .into_iter()
            .find_map(|key| input.get(key).and_then(Value::as_str));
        resolve(&self.worktree, named.unwrap_or("."))
    }

    /// The same as rules name it: relative to the worktree, if it is inside.
    fn shown_path(&self, input: &Value) -> String {
        let path = self.path(input);
        match path.strip_prefix(canonical(&self.worktree)) {
            Ok(relative) => relative.display().to_string(),
            Err(_outside) => path.display().to_string(),
        }
    }

    fn decide_file(&self, tool: &str, input: &Value) -> Decision {
        let inside = self.path(input).starts_with(canonical(&self.worktree));
        let shown = self.shown_path(input);
        if let Some(rule) = self.denying(tool, &shown) {
            return Decision::Deny(denied(rule));
        }
        let path = self.path(input);
        let searches = matches!(tool, "Glob" | "Grep" | "search");
        if self.bounds.is_private(&path) || searches && self.bounds.holds_private(&path) {
            return Decision::Deny("keys and Musher's own data are for no agent".to_owned());
        }
        if sort(tool) == Sort::Write && !inside && !guard::is_scratch(&path) {
            return Decision::Deny(format!("{shown} is outside of your worktree"));
        }
        if sort(tool) == Sort::Write {
            if !self.writes() {
                return Decision::Deny(format!("a {} writes no files", self.role.as_str()));
            }
            // Hooks and configuration of git run code outside of the worktree.
            if shown == ".git" || shown.starts_with(".git/") {
                return Decision::Deny("git's own files are not edited by hand".to_owned());
            }
        }
        if inside || self.allowed(tool, &shown) { Decision::Allow } else { Decision::Ask }
    }

    fn decide_shell(&self, tool: &str, input: &Value) -> Decision {
        let line = input.get("command").and_then(Value::as_str).unwrap_or_default();
        let Some(commands) = line::take_apart(line) else {
            // What cannot be taken apart cannot be checked. A person may, looking at it.
            return match (self.mode, self.writes()) {
                (PermissionMode::Auto, true) => Decision::Deny(UNCLEAR.to_owned()),
                (PermissionMode::Auto, false) | (PermissionMode::Ask, _) => Decision::Ask,
            };
        };
        let text = |command: &line::Command| shell::shown(command);
        if let Some(rule) = commands.iter().find_map(|one| self.denying(tool, &text(one))) {
            return Decision::Deny(denied(rule));
        }
        if let Some(why) = Guard::new(&self.worktree, &self.bounds).forbids(&commands) {
            return Decision::Deny(why);
        }
        let hijacked = commands.iter().any(shell::hijacks);
        let certain = || commands.iter().filter(|command| !command.maybe);
        if certain().all(|one| self.covers(tool, line, &text(one), hijacked)) {
            return Decision::Allow;
        }
        match self.mode {
            PermissionMode::Auto => self.shell_by_role(),
            PermissionMode::Ask => Decision::Ask,
        }
    }

    /// Whether a command of a line may run unasked.
    fn covers(&self, tool: &str, line: &str, part: &str, hijacked: bool) -> bool {
        let unasked = if self.writes() { shell::is_everyday } else { shell::is_reading };
        let own = part.split_whitespace().next() == Some("musher");
        let disguised = own && shell::is_disguised(line);
        self.allowed(tool, part) || (unasked(part) && !hijacked && !disguised)
    }

    /// A shell can write: a role that writes nothing has only what rules allow.
    fn shell_by_role(&self) -> Decision {
        if self.writes() { Decision::Allow } else { Decision::Ask }
    }

    fn decide_other(&self, tool: &str, input: &Value) -> Decision {
        let shown = input.to_string();
        if let Some(rule) = self.denying(tool, &shown) {
            return Decision::Deny(denied(rule));
        }
        if sort(tool) == Sort::Harmless || self.allowed(tool, &shown) {
            return Decision::Allow;
        }
        Decision::Ask
    }

    fn denying(&self, tool: &str, text: &str) -> Option<&Rule> {
        self.deny.iter().find(|rule| rule.names(tool) && rule.fits(text))
    }

    fn allowed(&self, tool: &str, text: &str) -> bool {
        self.allow.iter().any(|rule| rule.names(tool) && rule.fits(text))
    }
}

fn denied(rule: &Rule) -> String {
    match &rule.pattern {
        Some(Pattern::Glob(text) | Pattern::Words { text, .. }) => {
            format!("denied by the rule {}({text})", rule.tool)
        }
        None => format!("denied by the rule {}", rule.tool),
    }
}

fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_missing| path.to_owned())
}

/// Where `named` leads, seen from `root`: symbolic links of what exists are followed, `..` is
/// taken literally in what does not exist yet.
pub fn resolve(root: &Path, named: &str) -> PathBuf {
    let mut resolved = PathBuf::from("/");
    let root = canonical(root);
    let path = root.join(named);
    for component in path.components() {
        match component {
            Component::ParentDir => {
                resolved.pop();
            }
            Component::Normal(name) => {
                resolved.push(name);
                // A dangling link leads somewhere too: its target would be written.
                if let Ok(target) = std::fs::read_link(&resolved) {
                    resolved.pop();
                    resolved = canonical(&resolved.join(target));
                }
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    resolved
}

#[cfg(test)]
mod tests;
