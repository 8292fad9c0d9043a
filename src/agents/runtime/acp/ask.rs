//! Whether a tool may run: what the agent asks, what the policy says, and how it is answered.

use super::super::shown::text;
use super::wire::tool_name;
use crate::agents::permission::{Decision, Policy};
use serde_json::{Value, json};

/// What an agent asks.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    pub tool: String,
    pub input: Value,
    pub decision: Decision,
}

/// The options that came with a request: which allows once, which rejects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    allow_once: Option<String>,
    reject: Option<String>,
}

impl Options {
    /// Reads them by kind: ids differ between agents and versions.
    pub fn read(params: &Value) -> Self {
        let of = |kind: &str| {
            let options = params["options"].as_array()?;
            let option = options.iter().find(|option| option["kind"] == kind)?;
            Some(text(option, "optionId"))
        };
        Self { allow_once: of("allow_once"), reject: of("reject_once") }
    }

    /// The answer that lets the tool run this once; `None` when there is no such option.
    pub fn allow(&self) -> Option<Value> {
        self.allow_once.as_deref().map(selected)
    }

    /// The answer that does not.
    pub fn refuse(&self) -> Value {
        self.reject.as_deref().map_or_else(cancelled, selected)
    }
}

fn selected(option: &str) -> Value {
    json!({"outcome": {"outcome": "selected", "optionId": option}})
}

/// The answer to a request whose turn was cancelled.
pub fn cancelled() -> Value {
    json!({"outcome": {"outcome": "cancelled"}})
}

/// Judges a call. `ours` are the names of our tools.
pub fn question(policy: &Policy, call: &Value, ours: &[String]) -> Question {
    let tool = tool_name(call);
    let raw = &call["rawInput"];
    let input = if raw.is_object() { raw.clone() } else { json!({}) };
    if is_ours(call, &tool, ours) {
        return Question { tool, input, decision: Decision::Allow };
    }
    match text(call, "kind").as_str() {
        "execute" => {
            let input = json!({"command": command(call)});
            let decision = policy.decide("Bash", &input);
            Question { tool: "Bash".to_owned(), input, decision }
        }
        "edit" | "delete" | "move" => files(policy, "Edit", call, input),
        "read" => files(policy, "Read", call, input),
        _other => {
            let decision = policy.decide(&tool, &input);
            Question { tool, input, decision }
        }
    }
}

/// One of our tools: they have checks of their own.
fn is_ours(call: &Value, tool: &str, ours: &[String]) -> bool {
    if tool.starts_with("mcp__musher__") {
        return true;
    }
    let kind = text(call, "kind");
    let title = text(call, "title");
    let words: Vec<&str> =
        title.split(|letter: char| !letter.is_alphanumeric() && letter != '_').collect();
    let plain = matches!(kind.as_str(), "" | "other") && call["rawInput"]["command"].is_null();
    plain && words.contains(&"musher") && ours.iter().any(|own| words.contains(&own.as_str()))
}

/// The shell line of a call: a text, or words of which the last is the line.
fn command(call: &Value) -> String {
    match &call["rawInput"]["command"] {
        Value::String(line) => line.clone(),
        Value::Array(words) => {
            let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
            match words.as_slice() {
                [_shell, "-c" | "-lc", line] => (*line).to_owned(),
                words => words.join(" "),
            }
        }
        // What stands nowhere cannot be checked, and the title is what a person sees.
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => text(call, "title"),
    }
}

/// Files: the least that the policy allows for any of them.
fn files(policy: &Policy, tool: &str, call: &Value, input: Value) -> Question {
    let named = ["file_path", "path", "abs_path", "notebook_path"];
    let mut paths: Vec<String> =
        named.iter().map(|key| text(&input, key)).filter(|path| !path.is_empty()).collect();
    let locations = call["locations"].as_array().into_iter().flatten();
    let diffs = call["content"].as_array().into_iter().flatten();
    let diffs = diffs.filter(|content| content["type"] == "diff");
    paths.extend(locations.chain(diffs).map(|place| text(place, "path")));
    paths.retain(|path| !path.is_empty());
    let mut decision = if paths.is_empty() { Decision::Ask } else { Decision::Allow };
    for path in &paths {
        match policy.decide(tool, &json!({"file_path": path})) {
            Decision::Allow => {}
            Decision::Ask => decision = Decision::Ask,
            Decision::Deny(why) => {
                decision = Decision::Deny(why);
                break;
            }
        }
    }
    Question { tool: tool.to_owned(), input, decision }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::permission::Rule;
    use crate::config::PermissionMode;
    use crate::model::agent::Role;

    fn decide(call: Value) -> Decision {
        let policy = Policy {
            role: Role::Coder,
            mode: PermissionMode::Ask,
            allow: vec![Rule::parse("Bash(make *)")],
            deny: vec![Rule::parse("Bash(rm *)")],
            worktree: "/w".into(),
            bounds: crate::agents::permission::Bounds::default(),
        };
        question(&policy, &call, &["report_done".to_owned()]).decision
    }

    #[test]
    fn only_what_allows_once_is_ever_chosen_and_by_its_kind() {
        let options = Options::read(&json!({"options": [
            {"optionId": "1", "kind": "allow_always"},
            {"optionId": "2", "kind": "reject_once"},
            {"optionId": "3", "kind": "allow_once"},
        ]}));
        assert_eq!(options.allow(), Some(selected("3")));
        assert_eq!(options.refuse(), selected("2"));
        let always =
            Options::read(&json!({"options": [{"optionId": "1", "kind": "allow_always"}]}));
        assert_eq!(always.allow(), None);
        assert_eq!(always.refuse(), cancelled());
    }

    #[test]
    fn commands_are_judged_whatever_shape_they_have() {
        let run =
            |command: Value| decide(json!({"kind": "execute", "rawInput": {"command": command}}));
        assert_eq!(run(json!("make all")), Decision::Allow);
        assert_eq!(run(json!(["bash", "-lc", "make all"])), Decision::Allow);
        assert!(matches!(run(json!("make; rm -rf x")), Decision::Deny(_)));
        assert!(matches!(run(json!(["rm", "x"])), Decision::Deny(_)));
        assert_eq!(decide(json!({"kind": "execute", "title": "Terminal"})), Decision::Ask);
    }

    #[test]
    fn files_are_judged_by_all_places_that_are_named() {
        let edit = |call: Value| {
            decide(
                json!({"kind": "edit", "rawInput": call["raw"].clone(), "content": call["content"].clone()}),
            )
        };
        assert_eq!(edit(json!({"raw": {"file_path": "/w/a"}})), Decision::Allow);
        let hidden =
            json!({"raw": {"file_path": "/w/a"}, "content": [{"type": "diff", "path": "/etc/x"}]});
        assert!(matches!(edit(hidden), Decision::Deny(_)));
        assert_eq!(edit(json!({"raw": {}})), Decision::Ask);
    }

    #[test]
    fn our_own_tools_need_no_permission_and_nothing_can_pretend_to_be_one() {
        let named = json!({"name": "mcp__musher__report_done", "kind": "other", "rawInput": {}});
        assert_eq!(decide(named), Decision::Allow);
        let titled = json!({"title": "report_done (musher MCP Server)", "kind": "other"});
        assert_eq!(decide(titled), Decision::Allow);
        let shell =
            json!({"title": "musher report_done", "kind": "execute", "rawInput": {"command": "x"}});
        assert_eq!(decide(shell), Decision::Ask);
        let other = json!({"title": "musher evil", "kind": "other"});
        assert_eq!(decide(other), Decision::Ask);
    }
}
