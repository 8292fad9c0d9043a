//! A request to the model, whichever wire it came by, and what stories ask about it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::body::Bytes;
use axum::http::{HeaderMap, Uri};
use serde_json::Value;

/// Which of the APIs was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// `/v1/messages`
    Anthropic,
    /// `/v1/messages/count_tokens`
    CountTokens,
    /// `/v1/chat/completions`
    OpenAi,
    /// `/v1/responses`, which Codex speaks
    Responses,
}

/// A recorded request.
#[derive(Debug, Clone)]
pub struct Request {
    pub api: Api,
    /// What stood before `/v1/…`, for those who tell their agents apart by it.
    pub prefix: String,
    pub headers: HeaderMap,
    pub body: Value,
    pub at: Instant,
    scripted: bool,
    abandoned: Arc<AtomicBool>,
}

impl Request {
    /// Recognises the API by the path; other paths are not served.
    pub(super) fn read(uri: &Uri, headers: &HeaderMap, body: &Bytes) -> Option<Self> {
        let path = uri.path();
        let (api, ending) = [
            (Api::CountTokens, "/messages/count_tokens"),
            (Api::Anthropic, "/messages"),
            (Api::OpenAi, "/chat/completions"),
            (Api::Responses, "/responses"),
        ]
        .into_iter()
        .find(|(_, ending)| path.ends_with(ending))?;
        let mut body: Value = serde_json::from_slice(body).ok()?;
        if api == Api::Responses {
            body["messages"] = super::responses::messages(&body["input"]).into();
        }
        let prefix = path.trim_end_matches(ending).trim_end_matches("/v1").to_owned();
        Some(Self {
            api,
            prefix,
            headers: headers.clone(),
            body,
            at: Instant::now(),
            scripted: false,
            abandoned: Arc::default(),
        })
    }

    /// Whether the Claude Code CLI sent it.
    pub fn is_claude_code(&self) -> bool {
        self.header("user-agent").starts_with("claude-cli") || self.header("x-app") == "cli"
    }

    /// Whether the program under test sent it: the coordinator or the built-in agent.
    pub fn is_musher(&self) -> bool {
        !self.is_claude_code() && !self.is_codex()
    }

    /// Whether Codex sent it.
    pub fn is_codex(&self) -> bool {
        self.api == Api::Responses
    }

    /// A request that the CLI makes beside its conversation, as the one for the session's title
    /// (2.1.197; not with `CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1`). They offer no tools.
    pub fn is_auxiliary(&self) -> bool {
        self.is_claude_code() && self.tools().is_empty()
    }

    /// A header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The key that the client identified itself with.
    pub fn api_key(&self) -> &str {
        match self.header("x-api-key") {
            "" => self.header("authorization").trim_start_matches("Bearer "),
            key => key,
        }
    }

    /// The model asked for.
    pub fn model(&self) -> &str {
        self.body["model"].as_str().unwrap_or_default()
    }

    /// Whether the answer is to be streamed.
    pub fn wants_stream(&self) -> bool {
        self.body["stream"] == true
    }

    /// The messages, as sent.
    pub fn messages(&self) -> &[Value] {
        self.body["messages"].as_array().map_or(&[], Vec::as_slice)
    }

    /// The system prompt, all parts of it.
    pub fn system(&self) -> String {
        let roles = ["system", "developer"];
        let inline =
            self.messages().iter().filter(|message| roles.iter().any(|r| message["role"] == *r));
        let parts = texts(&self.body["system"]).into_iter();
        parts
            .chain(inline.flat_map(|message| texts(&message["content"])))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// All texts of all user messages, in order; tool results are not among them.
    pub fn user_texts(&self) -> Vec<String> {
        let users = self.messages().iter().filter(|message| message["role"] == "user");
        users.flat_map(|message| texts(&message["content"])).collect()
    }

    /// The texts of the last message that a person's words are in.
    pub fn last_user_text(&self) -> String {
        let from_user = |message: &&Value| message["role"] == "user" && !is_tool_result(message);
        let last = self.messages().iter().rev().find(from_user);
        last.map(|message| texts(&message["content"]).join("\n")).unwrap_or_default()
    }

    /// Whether any part of the conversation, tool results included, contains `part`.
    pub fn mentions(&self, part: &str) -> bool {
        self.system().contains(part)
            || self.user_texts().iter().any(|text| text.contains(part))
            || self.tool_results().iter().any(|(_, text)| text.contains(part))
    }

    /// Id and text of every tool result, in order.
    pub fn tool_results(&self) -> Vec<(String, String)> {
        let mut results = vec![];
        for message in self.messages() {
            if message["role"] == "tool" {
                let id = message["tool_call_id"].as_str().unwrap_or_default();
                results.push((id.to_owned(), texts(&message["content"]).join("\n")));
            }
            for block in message["content"].as_array().into_iter().flatten() {
                if block["type"] == "tool_result" {
                    let id = block["tool_use_id"].as_str().unwrap_or_default();
                    results.push((id.to_owned(), texts(&block["content"]).join("\n")));
                }
            }
        }
        results
    }

    /// The text of the last tool result; empty when there is none.
    pub fn last_tool_result(&self) -> String {
        self.tool_results().pop().map(|(_, text)| text).unwrap_or_default()
    }

    /// Whether the last message brings a tool's result.
    pub fn brings_tool_result(&self) -> bool {
        self.messages().last().is_some_and(is_tool_result)
    }

    /// The names of the tools offered.
    pub fn tools(&self) -> Vec<&str> {
        let tools = self.body["tools"].as_array().into_iter().flatten();
        let name = |tool: &'_ Value| match &tool["name"] {
            Value::String(_) => "/name",
            _ => "/function/name",
        };
        tools.filter_map(|tool| tool.pointer(name(tool))?.as_str()).collect()
    }

    /// Whether a tool of this name is offered.
    pub fn offers(&self, tool: &str) -> bool {
        self.tools().contains(&tool)
    }

    /// The session of Claude Code that it belongs to; empty for other clients.
    pub fn claude_session(&self) -> &str {
        self.header("x-claude-code-session-id")
    }

    /// How many answers the model has given since the last message of a person.
    pub fn answers_since_person(&self) -> usize {
        let mut answers = 0;
        for message in self.messages() {
            if message["role"] == "assistant" {
                answers += 1;
            } else if message["role"] == "user" && !is_tool_result(message) {
                answers = 0;
            }
        }
        answers
    }

    /// Whether a rule answered it.
    pub fn was_scripted(&self) -> bool {
        self.scripted
    }

    /// Whether the client went away before the answer was complete.
    pub fn was_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::SeqCst)
    }

    pub(super) fn set_scripted(&mut self, scripted: bool) {
        self.scripted = scripted;
    }

    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::SeqCst);
    }

    /// One line about it.
    pub fn summary(&self) -> String {
        let who = match (self.is_claude_code(), self.is_codex()) {
            (true, _) => "claude",
            (_, true) => "codex",
            (false, false) => "musher",
        };
        let kind = if self.is_auxiliary() { " (auxiliary)" } else { "" };
        let fate = match (self.scripted, self.was_abandoned()) {
            (_, true) => " (client went away)",
            (false, false) => " (NO RULE)",
            (true, false) => "",
        };
        let (model, answers) = (self.model(), self.answers_since_person());
        let asked: String = self.last_user_text().chars().rev().take(160).collect();
        let asked: String = asked.chars().rev().collect();
        let result: String = self.last_tool_result().chars().take(160).collect();
        format!(
            "{:?} {who}{kind}{fate} {model} answers={answers} messages={} tools={} user={asked:?} result={result:?}",
            self.api,
            self.messages().len(),
            self.tools().len(),
        )
    }
}

fn is_tool_result(message: &Value) -> bool {
    let blocks = message["content"].as_array().into_iter().flatten();
    message["role"] == "tool" || blocks.into_iter().any(|block| block["type"] == "tool_result")
}

/// The texts in a content that is a string or a list of blocks.
fn texts(content: &Value) -> Vec<String> {
    match content {
        Value::String(text) => vec![text.clone()],
        Value::Array(blocks) => {
            let text = |block: &Value| block["text"].as_str().map(str::to_owned);
            blocks.iter().filter_map(text).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => vec![],
    }
}
