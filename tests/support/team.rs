//! What scripted agents do, whatever runs them: told by the item that they work on.

use serde_json::{Value, json};

use super::model_server::{ModelServer, Reply, Request};
use super::scene::shell;

/// An agent's request: who asks, and on which item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    pub agent: String,
    pub item: i64,
}

/// Who asks, when it is an agent: its system prompt says it.
pub fn worker(request: &Request) -> Option<Worker> {
    let system = request.system();
    let rest = system.split("Your name is ").nth(1)?;
    let (agent, rest) = rest.split_once(". You work on item ")?;
    let item = rest.split_once(" of project ")?.0.parse().ok()?;
    Some(Worker { agent: agent.to_owned(), item })
}

/// A step of a scripted turn.
#[derive(Debug, Clone)]
pub enum Step {
    /// A line in the shell.
    Shell(String),
    /// A call of one of our tools.
    Call(&'static str, Value),
    /// A mergemaster's report of the commit that the last line printed.
    Merged(&'static str),
    /// QA's verdict on what the last line printed: it passes when that contains the text.
    Verdict { passes_when: &'static str, findings: Vec<&'static str>, summary: &'static str },
}

impl Step {
    /// The model's answer that is this step.
    pub fn reply(&self, request: &Request) -> Reply {
        let call = |tool: &str, arguments: Value| {
            let named = request.tools().into_iter().find(|name| name.ends_with(tool));
            Reply::call(named.unwrap_or_else(|| panic!("there is no tool {tool}")), arguments)
        };
        match self {
            Step::Shell(line) => shell(request, line),
            Step::Call(tool, arguments) => call(tool, arguments.clone()),
            Step::Merged(summary) => {
                let printed = request.last_tool_result();
                let is_commit =
                    |word: &&str| word.len() == 40 && word.chars().all(|c| c.is_ascii_hexdigit());
                let commit = printed.split_whitespace().find(is_commit);
                let commit = commit.unwrap_or_else(|| panic!("no commit in {printed}"));
                call(
                    "report_done",
                    json!({"outcome": "merged", "commit": commit, "summary": summary}),
                )
            }
            Step::Verdict { passes_when, findings, summary } => {
                let passes = request.last_tool_result().contains(passes_when);
                call(
                    "report_done",
                    if passes {
                        json!({"outcome": "qa_passed", "summary": summary})
                    } else {
                        json!({"outcome": "qa_failed", "summary": summary, "findings": findings})
                    },
                )
            }
        }
    }
}

/// A line in the shell.
pub fn sh(line: &str) -> Step {
    Step::Shell(line.to_owned())
}

/// Reports that the work is done.
pub fn done(summary: &str) -> Step {
    Step::Call("report_done", json!({"summary": summary}))
}

/// Writes a file and commits it.
pub fn commit(file: &str, content: &str) -> Step {
    Step::Shell(format!(
        "printf '{content}\\n' > {file} && git add -A && git commit -qm 'Write {file}'"
    ))
}

/// Has agents work as `plan` says: for a worker and the words that began its turn, the steps of
/// that turn; then it says that it is done. A worker without a plan is a mistake of the story.
pub fn play(model: &ModelServer, plan: impl Fn(&Worker, &str) -> Vec<Step> + Send + 'static) {
    model.on(move |request| {
        let worker = worker(request)?;
        let steps = plan(&worker, &request.last_user_text());
        let step = steps.get(request.answers_since_person());
        Some(step.map_or_else(|| Reply::text("That is all."), |step| step.reply(request)))
    });
}
