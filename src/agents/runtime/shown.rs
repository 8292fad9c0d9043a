//! What events show of texts, arguments and errors: the same for every runtime.

use serde_json::Value;

/// How much of a tool's arguments or answer an event holds.
const SUMMARY_MAX: usize = 2000;

/// The text up to what an event holds.
pub fn cut(text: &str) -> String {
    if text.len() <= SUMMARY_MAX {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(SUMMARY_MAX)])
}

/// The argument that says most, or all of them.
pub fn tool_summary(input: &Value) -> String {
    for key in ["command", "file_path", "path", "pattern", "query", "url", "summary"] {
        if let Some(text) = input.get(key).and_then(Value::as_str) {
            return text.to_owned();
        }
    }
    input.to_string()
}

/// A text at a key, or nothing.
pub fn text(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The first line, for a message to people.
pub fn one_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line[..line.floor_char_boundary(300)].to_owned()
}

/// How a process ended that should not have, in words, with the last that it wrote to stderr.
pub fn died(
    who: &str,
    broken: Option<&str>,
    report: &crate::agents::process::ExitReport,
) -> String {
    let how = match (broken, report.code, report.signal) {
        (Some(broken), _, _) => broken.to_owned(),
        (None, Some(code), _) => format!("it exited with code {code} in the middle of a turn"),
        (None, None, Some(signal)) => format!("signal {signal} ended it in the middle of a turn"),
        (None, None, None) => "it ended in the middle of a turn".to_owned(),
    };
    let last = report.stderr_tail.lines().rev().take(3).collect::<Vec<_>>();
    let last = last.into_iter().rev().collect::<Vec<_>>().join(" / ");
    let last = &last[last.ceil_char_boundary(last.len().saturating_sub(600))..];
    if last.is_empty() {
        format!("{who} failed: {how}")
    } else {
        format!("{who} failed: {how} ({last})")
    }
}
