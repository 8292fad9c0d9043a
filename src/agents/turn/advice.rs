//! What a person should know of a turn and what fails nothing: files outside the declared scope,
//! mail that is polled for.

use crate::config::Config;
use crate::model::ids::{AgentSessionId, ItemId, ProjectName, TurnId};
use crate::project::git::Git;
use crate::store::agents as sessions;
use crate::store::{Store, StoreError, items, projects};
use regex::Regex;
use std::path::Path;
use std::sync::{Arc, LazyLock};

/// How often a turn may look for mail before that is polling: new mail comes by itself.
const CHECKS_MAX: usize = 5;

/// How many files a warning names.
const FILES: usize = 8;

/// A line of an item's text that says where its work belongs: `Scope: src/shop, docs/*.md`.
static SCOPE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?im)^[\s>*_#-]*(?:scope|files)[*_]*\s*:[*_]*\s*(.+)$").expect("it is well formed")
});

/// A loop in a shell line.
static LOOP: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\b(while|until|for|watch|sleep)\b").expect("it is well formed"));

/// A look for mail in a shell line.
static CHECK: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\bmusher\b[^|;&]*\bmail\s+(check|list)\b").expect("it is well formed")
});

/// What is looked at.
pub(super) struct Looked<'a> {
    pub item: ItemId,
    pub project: &'a ProjectName,
    pub session: AgentSessionId,
    pub turn: TurnId,
    pub worktree: &'a Path,
}

/// Warnings about a turn that has ended.
pub(super) async fn of(store: &Store, config: &Arc<Config>, looked: &Looked<'_>) -> Vec<String> {
    let (item, turn, session) = (looked.item, looked.turn, looked.session);
    let (project, config) = (looked.project.clone(), Arc::clone(config));
    let read = store.read(move |conn| {
        let events = sessions::events_of_turn(conn, turn)?;
        let tools: Vec<String> = events
            .into_iter()
            .filter(|event| event.kind == "tool")
            .map(|event| event.text)
            .collect();
        let body = items::find(conn, item)?.map(|item| item.body).unwrap_or_default();
        let reports = sessions::reports_of_item(conn, item)?;
        let reason = reports.into_iter().rev().find(|report| report.session == Some(session));
        let base = match config.projects.iter().find(|known| known.name == project) {
            Some(settings) => Some(settings.base.clone()),
            None => projects::find(conn, &project)?.map(|row| row.settings.base),
        };
        Ok::<_, StoreError>((tools, body, reason.map(|report| report.summary), base))
    });
    let (tools, body, reason, base) = match read.await {
        Ok(read) => read,
        Err(error) => {
            tracing::warn!(%error, "a turn was not looked over");
            return vec![];
        }
    };
    let mut warnings: Vec<String> = polls(&tools).into_iter().collect();
    if let (Some(scope), Some(base)) = (Scope::declared(&body), base) {
        let git = Git::at(looked.worktree);
        let mut changed = git.diff_names(&base, "HEAD").await.unwrap_or_default();
        let dirty = git.changed_files(true).await.unwrap_or_default();
        changed.extend(dirty.into_iter().map(|file| file.path));
        changed.sort();
        changed.dedup();
        warnings.extend(scope.left(&changed, reason.as_deref().unwrap_or_default()));
    }
    warnings
}

/// The warning about mail that is polled for, from what was called in a turn.
fn polls(tools: &[String]) -> Option<String> {
    let in_a_loop = tools.iter().find(|tool| CHECK.is_match(tool) && LOOP.is_match(tool));
    if let Some(line) = in_a_loop {
        let cut = line.floor_char_boundary(120);
        return Some(format!(
            "it looks for mail in a loop (`{}`); new mail comes by itself",
            &line[..cut]
        ));
    }
    let checks =
        tools.iter().filter(|tool| tool.contains("mail_check:") || CHECK.is_match(tool)).count();
    (checks > CHECKS_MAX)
        .then(|| format!("it looked for mail {checks} times in one turn; new mail comes by itself"))
}

/// Where an item's work belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Scope(Vec<String>);

impl Scope {
    /// What an item's text declares; `None` when it declares nothing.
    fn declared(body: &str) -> Option<Self> {
        let patterns: Vec<String> = SCOPE
            .captures_iter(body)
            .flat_map(|found| {
                let list = found[1].to_owned();
                let parts = list.split([',', ' ', '\t']).map(|part| {
                    let part = part.trim_matches(['`', '"', '\'', ';']).trim_start_matches("./");
                    part.trim_end_matches(['.', '/', '`']).to_owned()
                });
                parts.collect::<Vec<_>>()
            })
            .filter(|part| !part.is_empty() && part != "and")
            .collect();
        (!patterns.is_empty()).then_some(Self(patterns))
    }

    fn holds(&self, path: &str) -> bool {
        self.0.iter().any(|pattern| {
            if !pattern.contains(['*', '?']) {
                let below = path.strip_prefix(pattern.as_str());
                return below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            }
            // Two stars cross folders, one does not.
            let escaped = regex::escape(pattern)
                .replace(r"\*\*/", "(?:.*/)?")
                .replace(r"\*\*", ".*")
                .replace(r"\*", "[^/]*")
                .replace(r"\?", "[^/]");
            Regex::new(&format!("^{escaped}(?:/.*)?$")).is_ok_and(|regex| regex.is_match(path))
        })
    }

    /// The warning about files outside, but for those that the report gives a reason for.
    fn left(&self, changed: &[String], reason: &str) -> Option<String> {
        let stated = |path: &str| {
            let name = path.rsplit('/').next().unwrap_or(path);
            reason.contains(path) || reason.contains(name)
        };
        let outside: Vec<&str> = changed
            .iter()
            .map(String::as_str)
            .filter(|path| !self.holds(path) && !stated(path))
            .collect();
        if outside.is_empty() {
            return None;
        }
        let shown = outside.iter().take(FILES).copied().collect::<Vec<_>>().join(", ");
        let more = match outside.len().saturating_sub(FILES) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(format!(
            "it changed files outside the declared scope ({}) and gives no reason: {shown}{more}",
            self.0.join(", ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_declared_in_a_line_of_the_items_text() {
        for (body, scope) in [
            ("Add it.\n\nScope: `src/shop/`, docs/*.md", vec!["src/shop", "docs/*.md"]),
            ("- **Files:** ./a.rs and b.rs.", vec!["a.rs", "b.rs"]),
            ("> scope: src/**/x.rs", vec!["src/**/x.rs"]),
        ] {
            assert_eq!(Scope::declared(body).unwrap().0, scope, "{body}");
        }
        assert_eq!(Scope::declared("The scope is large: everything"), None);
        assert_eq!(Scope::declared(""), None);
    }

    #[test]
    fn files_outside_are_named_unless_the_report_gives_a_reason() {
        let scope = Scope::declared("Scope: src/shop, docs/*.md, lib/**/x.rs").unwrap();
        let changed =
            |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
        let inside = changed(&["src/shop/a.rs", "docs/b.md", "lib/x.rs", "lib/y/z/x.rs"]);
        assert_eq!(scope.left(&inside, ""), None);
        let outside = changed(&["src/shopping/a.rs", "docs/deep/b.md", "Cargo.toml"]);
        let warning = scope.left(&outside, "").unwrap();
        for path in &outside {
            assert!(warning.contains(path), "{path} in {warning}");
        }
        let warning = scope.left(&outside, "Cargo.toml needs the new crate").unwrap();
        assert!(!warning.contains("Cargo.toml"), "{warning}");
    }

    #[test]
    fn polling_is_seen_in_a_loop_or_by_its_number() {
        let tools =
            |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        let looped = tools(&["Bash: while true; do musher mail check; sleep 5; done"]);
        assert!(polls(&looped).unwrap().contains("in a loop"));
        assert_eq!(
            polls(&tools(&["Bash: musher mail check", "Bash: for f in *; do cat $f; done"])),
            None
        );
        assert_eq!(polls(&tools(&["mcp__musher__mail_check: {}"; 5])), None);
        assert!(polls(&tools(&["mcp__musher__mail_check: {}"; 6])).unwrap().contains("6 times"));
    }
}
