//! How the CLI is called.

use super::super::SpawnSpec;
use super::super::mcp::SERVER;
use crate::model::agent::Role;
use std::collections::BTreeMap;
use uuid::Uuid;

/// The program, on the PATH.
pub const DEFAULT_PROGRAM: &str = "claude";

/// How often the CLI itself asks a failing API again, before it gives up on a turn.
const MAX_RETRIES: u32 = 3;

/// Tools of the CLI that make no sense here: they wait for a terminal, leave the worktree, or
/// start turns at times of their own.
const NOT_HERE: &[&str] = &[
    "CronCreate",
    "CronDelete",
    "CronList",
    "EnterPlanMode",
    "EnterWorktree",
    "ExitPlanMode",
    "ExitWorktree",
    "ScheduleWakeup",
    "SendMessage",
    "Workflow",
];

/// Tools that write files, withheld from roles that do not.
const WRITERS: &[&str] = &["Edit", "NotebookEdit", "Write"];

/// Variables by which the CLI is let in without a login of the person's own.
const KEYS: &[&str] = &[
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_VERTEX",
];

/// Whether the CLI works with the login of the person who runs Musher, which stands in their own
/// folder: so it is when the agent's environment has nothing else to be let in by.
fn uses_login(spec: &SpawnSpec) -> bool {
    !KEYS.iter().chain(&["CLAUDE_CONFIG_DIR"]).any(|name| spec.env.contains_key(*name))
}

pub(super) fn arguments(spec: &SpawnSpec) -> Vec<String> {
    let mut args: Vec<String> = [
        "-p",
        "--input-format",
        "stream-json",
        "--output-format",
        "stream-json",
        "--verbose",
        "--replay-user-messages",
        "--permission-mode",
        "default",
        "--permission-prompt-tool",
        "stdio",
        "--strict-mcp-config",
        "--disable-slash-commands",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut push = |name: &str, value: String| args.extend([name.to_owned(), value]);
    match &spec.resume {
        Some(native) => push("--resume", native.clone()),
        None => push("--session-id", Uuid::new_v4().to_string()),
    }
    // A resumed session forgets its model's variant, so it is said every time.
    if let Some(model) = &spec.model {
        push("--model", model.clone());
    }
    push("--allowedTools", format!("mcp__{SERVER}"));
    let mut withheld = NOT_HERE.to_vec();
    match spec.tools.role {
        Role::Coder | Role::Qa | Role::Mergemaster => {}
        Role::Lead | Role::Scout | Role::Reviewer => withheld.extend(WRITERS),
    }
    push("--disallowedTools", withheld.join(","));
    push("--append-system-prompt", spec.role_prompt.clone());
    if uses_login(spec) {
        // Of the person's folder the login is wanted, not their hooks and permissions.
        push("--setting-sources", "project,local".to_owned());
    }
    args
}

/// The environment: what the agent has anyway, and what makes the CLI behave as a part.
pub fn environment(spec: &SpawnSpec) -> BTreeMap<String, String> {
    let mut env = spec.env.clone();
    for (name, value) in [
        ("CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS", "1"),
        ("CLAUDE_CODE_DISABLE_ATTACHMENTS", "1"),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
        ("DISABLE_AUTOUPDATER", "1"),
    ] {
        env.insert(name.to_owned(), value.to_owned());
    }
    env.entry("CLAUDE_CODE_MAX_RETRIES".to_owned()).or_insert(MAX_RETRIES.to_string());
    if !uses_login(spec) {
        env.entry("CLAUDE_CONFIG_DIR".to_owned())
            .or_insert_with(|| spec.state_dir.display().to_string());
    }
    env
}
