//! How an agent is called, and how it is told of our tools.

use super::super::SpawnSpec;
use super::super::mcp::SERVER;
use super::super::mcp_http::Ticket;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// How often Claude's adapter asks a failing API again, before it gives up on a turn.
const MAX_RETRIES: &str = "3";

/// The configured command: a program, and its arguments between blanks.
pub fn program_and_arguments(command: Option<&str>) -> (String, Vec<String>) {
    let mut words = command.unwrap_or_default().split_whitespace().map(str::to_owned);
    (words.next().unwrap_or_default(), words.collect())
}

/// The environment: what the agent has anyway, and what makes Claude's adapter behave as a part.
pub(super) fn environment(spec: &SpawnSpec, program: &str) -> BTreeMap<String, String> {
    let mut env = spec.env.clone();
    if !program.rsplit('/').next().unwrap_or_default().contains("claude") {
        return env;
    }
    for (name, value) in [
        // `@path` in what people write stays text.
        ("CLAUDE_CODE_DISABLE_ATTACHMENTS", "1"),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
        ("CLAUDE_CODE_ENABLE_PROMPT_SUGGESTION", "false"),
        ("DISABLE_AUTOUPDATER", "1"),
        // Our tools are few, and are to be seen without a search for them.
        ("ENABLE_TOOL_SEARCH", "false"),
    ] {
        env.insert(name.to_owned(), value.to_owned());
    }
    env.entry("CLAUDE_CODE_MAX_RETRIES".to_owned()).or_insert(MAX_RETRIES.to_owned());
    let keys = ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"];
    if keys.iter().any(|key| env.contains_key(*key)) {
        // Without a key the login of the person who runs Musher is used, which stands in theirs.
        env.entry("CLAUDE_CONFIG_DIR".to_owned())
            .or_insert_with(|| spec.state_dir.display().to_string());
    }
    env
}

/// Our tools as an MCP server: by URL, or as a program where the agent takes no URLs.
pub(super) fn server(spec: &SpawnSpec, ticket: &Ticket, takes_urls: bool) -> Value {
    if takes_urls {
        let bearer = format!("Bearer {}", ticket.token);
        return json!({
            "type": "http", "name": SERVER, "url": ticket.url,
            "headers": [{"name": "Authorization", "value": bearer}],
        });
    }
    let own = std::env::current_exe()
        .map_or_else(|_unknown| "musher".to_owned(), |path| path.display().to_string());
    let given = ["MUSHER_DATA_DIR", "MUSHER_AGENT", "PATH", "HOME"];
    let env =
        given.iter().filter_map(|name| Some(json!({"name": name, "value": spec.env.get(*name)?})));
    json!({
        "name": SERVER, "command": own, "args": ["mcp", "--agent", spec.tools.agent],
        "env": env.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_may_have_arguments() {
        let words = |command| program_and_arguments(Some(command));
        assert_eq!(words("claude-agent-acp"), ("claude-agent-acp".to_owned(), vec![]));
        let (program, arguments) = words("/opt/gemini --acp  --yolo=false");
        assert_eq!((program.as_str(), arguments.len()), ("/opt/gemini", 2));
    }
}
