//! Whether a tool may run: what the CLI asks, what the policy says, and how it is answered.

use super::super::shown::text;
use super::wire::{EDIT, SHELL, script};
use crate::agents::permission::{Decision, Policy};
use serde_json::{Value, json};
use std::collections::HashMap;

/// What a command is called that is to run outside of the sandbox.
const OUTSIDE: &str = "Bash outside of the sandbox";

/// How a request for approval is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may run, this once.
    Accept,
    /// It may not; the turn goes on.
    Decline,
    /// It may not, and the turn ends.
    Cancel,
}

impl Verdict {
    /// The answer on the wire.
    pub fn answer(self) -> Value {
        let word = match self {
            Self::Accept => "accept",
            Self::Decline => "decline",
            Self::Cancel => "cancel",
        };
        json!({"decision": word})
    }
}

/// A command as the model wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    pub command: String,
    pub escalated: bool,
}

/// What the CLI told about calls before it asks about them.
#[derive(Debug, Default)]
pub struct Calls {
    pub raw: HashMap<String, Raw>,
    pub changes: HashMap<String, Vec<String>>,
}

/// A request, as the policy and people see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    pub tool: String,
    pub input: Value,
    pub decision: Decision,
}

impl Calls {
    /// Forgets a call that is over.
    pub fn forget(&mut self, id: &str) {
        self.raw.remove(id);
        self.changes.remove(id);
    }

    /// A command. To run outside of the sandbox is for people to allow, whatever the command is.
    pub fn command(&self, policy: &Policy, params: &Value) -> Question {
        let raw = self.raw.get(&text(params, "itemId"));
        let command = match raw {
            Some(raw) if !raw.command.is_empty() => raw.command.clone(),
            Some(_) | None => script(&text(params, "command")),
        };
        // Without the raw call a reason is the sign of one that wants out.
        let reason = text(params, "reason");
        let escalated = raw.map_or(!reason.is_empty(), |raw| raw.escalated);
        let special = escalated
            || text(params, "kind") != "command"
            || ["networkApprovalContext", "additionalPermissions"]
                .iter()
                .any(|key| !params.get(*key).unwrap_or(&Value::Null).is_null());
        let mut input = json!({"command": command});
        if special {
            input["outside_of_the_sandbox"] = json!(true);
            input["reason"] = json!(reason);
        }
        let decision = match policy.decide(SHELL, &input) {
            Decision::Allow if special => Decision::Ask,
            decision @ (Decision::Allow | Decision::Deny(_) | Decision::Ask) => decision,
        };
        // By another name, so that nothing that was allowed inside covers it.
        let tool = if special { OUTSIDE } else { SHELL };
        Question { tool: tool.to_owned(), input, decision }
    }

    /// A patch: the least that the policy allows for any of its files.
    pub fn patch(&self, policy: &Policy, params: &Value) -> Question {
        let paths = self.changes.get(&text(params, "itemId")).cloned().unwrap_or_default();
        let mut decision = if paths.is_empty() { Decision::Ask } else { Decision::Allow };
        for path in &paths {
            match policy.decide(EDIT, &json!({"file_path": path})) {
                Decision::Allow => {}
                Decision::Ask => decision = Decision::Ask,
                Decision::Deny(why) => {
                    decision = Decision::Deny(why);
                    break;
                }
            }
        }
        let input = match paths.as_slice() {
            [path] => json!({"file_path": path}),
            paths => json!({"file_paths": paths}),
        };
        Question { tool: EDIT.to_owned(), input, decision }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::permission::Rule;
    use crate::config::PermissionMode;
    use crate::model::agent::Role;

    fn policy() -> Policy {
        Policy {
            role: Role::Coder,
            mode: PermissionMode::Auto,
            allow: vec![],
            deny: vec![Rule::parse("Bash(rm *)"), Rule::parse("Edit(secret*)")],
            worktree: "/w".into(),
            bounds: crate::agents::permission::Bounds::default(),
        }
    }

    fn asked(id: &str, command: &str) -> Value {
        json!({"kind": "command", "itemId": id, "command": format!("bash -lc '{command}'")})
    }

    #[test]
    fn a_command_that_leaves_the_sandbox_is_for_people_to_allow() {
        let mut calls = Calls::default();
        assert_eq!(calls.command(&policy(), &asked("1", "make x")).decision, Decision::Allow);
        let denied = calls.command(&policy(), &asked("1", "ls && rm -rf x")).decision;
        assert!(matches!(denied, Decision::Deny(_)), "{denied:?}");
        let raw = |escalated| Raw { command: "make x".to_owned(), escalated };
        calls.raw.insert("2".to_owned(), raw(true));
        calls.raw.insert("3".to_owned(), raw(false));
        assert_eq!(calls.command(&policy(), &asked("2", "ls")).decision, Decision::Ask);
        assert_eq!(calls.command(&policy(), &asked("3", "ls")).decision, Decision::Allow);
        let mut reasoned = asked("4", "make x");
        reasoned["reason"] = json!("I need the network");
        assert_eq!(calls.command(&policy(), &reasoned).decision, Decision::Ask);
    }

    #[test]
    fn a_patch_is_judged_by_each_of_its_files() {
        let mut calls = Calls::default();
        let mut decide = |paths: &[&str]| {
            let paths = paths.iter().map(|path| (*path).to_owned()).collect();
            calls.changes.insert("1".to_owned(), paths);
            calls.patch(&policy(), &json!({"itemId": "1"})).decision
        };
        assert_eq!(decide(&["/w/a", "/w/b"]), Decision::Allow);
        assert!(matches!(decide(&["/w/a", "/etc/passwd"]), Decision::Deny(_)));
        assert!(matches!(decide(&["/w/a", "/w/secret.txt", "/etc/x"]), Decision::Deny(_)));
        let unknown = Calls::default().patch(&policy(), &json!({"itemId": "9"}));
        assert_eq!(unknown.decision, Decision::Ask, "what is not known is not allowed");
    }
}
