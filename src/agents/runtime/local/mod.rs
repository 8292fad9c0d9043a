//! The built-in agent's own tools: files, search and shell, confined to the worktree.
//!
//! Whether a call may run was decided before (`permission`); what a path means is decided here
//! again, so that nothing outside is written through a link. Answers are words for the model:
//! what was wrong says how to put it right.

mod files;
mod shell;
#[cfg(test)]
mod tests;

use super::SpawnSpec;
use crate::agents::permission::{Bounds, resolve};
use crate::config::Confinement;
use crate::llm::tools::{ToolOutcome, ToolSpec};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// The tools' names.
const NAMES: [&str; 6] = ["read_file", "list_files", "search", "edit_file", "write_file", "shell"];

/// Carries out calls in one worktree.
pub(super) struct LocalTools {
    worktree: PathBuf,
    env: BTreeMap<String, String>,
    marker: String,
    stderr_log: PathBuf,
    confinement: Confinement,
    bounds: Bounds,
}

impl LocalTools {
    pub fn new(spec: &SpawnSpec) -> Self {
        Self {
            worktree: spec.cwd.clone(),
            env: spec.env.clone(),
            marker: spec.marker.clone(),
            stderr_log: spec.stderr_log.clone(),
            confinement: spec.confinement,
            bounds: spec.policy.bounds.clone(),
        }
    }

    /// Whether a tool is one of these.
    pub fn has(name: &str) -> bool {
        NAMES.contains(&name)
    }

    /// What a model is told of them.
    pub fn specs(&self) -> Vec<ToolSpec> {
        let path = json!({"type": "string", "description": "Relative to the worktree"});
        let spec = |name: &str, description: &str, properties: Value, required: Value| ToolSpec {
            name: name.to_owned(),
            description: description.to_owned(),
            schema: json!({
                "type": "object", "properties": properties, "required": required,
                "additionalProperties": false,
            }),
        };
        vec![
            spec(
                "read_file",
                "Reads a text file, with line numbers. Long files: give offset (first line, from 1) \
                 and limit (lines).",
                json!({"path": path, "offset": {"type": "integer"}, "limit": {"type": "integer"}}),
                json!(["path"]),
            ),
            spec(
                "list_files",
                "Lists the files under a directory, without .git and what is usually generated.",
                json!({"path": path}),
                json!([]),
            ),
            spec(
                "search",
                "Finds lines that match a regular expression, in a file or under a directory.",
                json!({"pattern": {"type": "string"}, "path": path}),
                json!(["pattern"]),
            ),
            spec(
                "edit_file",
                "Replaces `old` by `new` in a file. `old` must stand there exactly once, or give \
                 all = true.",
                json!({
                    "path": path, "old": {"type": "string"}, "new": {"type": "string"},
                    "all": {"type": "boolean"},
                }),
                json!(["path", "old", "new"]),
            ),
            spec(
                "write_file",
                "Writes a whole file, making its directories.",
                json!({"path": path, "content": {"type": "string"}}),
                json!(["path", "content"]),
            ),
            spec(
                "shell",
                "Runs a command with sh in the worktree and returns its output and exit code. Use \
                 it for tests, builds and git. timeout_s: default 120, at most 1800.",
                json!({"command": {"type": "string"}, "timeout_s": {"type": "integer"}}),
                json!(["command"]),
            ),
        ]
    }

    /// Carries out a call that may run.
    pub async fn call(&self, name: &str, input: &Value, cancel: &CancellationToken) -> ToolOutcome {
        let text = |key: &str| input.get(key).and_then(Value::as_str).map(str::to_owned);
        if name == "shell" {
            let Some(command) = text("command") else { return missing("command") };
            let timeout = input.get("timeout_s").and_then(Value::as_u64);
            return self.run_shell(&command, timeout, cancel).await;
        }
        let named = text("path").unwrap_or_else(|| ".".to_owned());
        let path = resolve(&self.worktree, &named);
        let root = self.worktree.canonicalize().unwrap_or_else(|_missing| self.worktree.clone());
        let inside = path.starts_with(&root);
        let writes = matches!(name, "edit_file" | "write_file");
        if writes && (!inside || path == root) {
            return ToolOutcome::error(format!("{named} is outside of the worktree"));
        }
        let input = input.clone();
        let name = name.to_owned();
        let done = tokio::task::spawn_blocking(move || match name.as_str() {
            "read_file" => files::read(&path, &input),
            "list_files" => files::list(&root, &path),
            "search" => files::search(&root, &path, &input),
            "edit_file" => files::edit(&path, &input),
            "write_file" => files::write(&path, &input),
            other => ToolOutcome::error(format!("there is no tool {other}")),
        });
        done.await.unwrap_or_else(|_panic| ToolOutcome::error("the tool failed"))
    }
}

fn missing(key: &str) -> ToolOutcome {
    ToolOutcome::error(format!("`{key}` is missing"))
}
