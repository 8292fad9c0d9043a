//! Reading, listing, searching, editing and writing files. Blocks.

use super::missing;
use crate::llm::tools::ToolOutcome;
use regex::Regex;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The longest file that is read or searched, in bytes.
const FILE_MAX: u64 = 5 * 1024 * 1024;

/// Most lines that one reading returns.
const LINES_MAX: usize = 2000;

/// The longest line that is shown, in bytes.
const LINE_MAX: usize = 1000;

/// Most files that are listed, and most that are searched.
const FILES_MAX: usize = 2000;

/// Most matches that a search returns.
const MATCHES_MAX: usize = 200;

/// Directories that are not looked into: not the project's own text.
const PASSED_OVER: &[&str] =
    &[".git", "target", "node_modules", ".venv", "__pycache__", "dist", "build", ".cache"];

fn failed(what: &str, path: &Path, error: &std::io::Error) -> ToolOutcome {
    ToolOutcome::error(format!("cannot {what} {}: {error}", path.display()))
}

fn text_of(path: &Path) -> Result<String, ToolOutcome> {
    let data = path.metadata().map_err(|error| failed("read", path, &error))?;
    if data.is_dir() {
        return Err(ToolOutcome::error(format!(
            "{} is a directory: use list_files",
            path.display()
        )));
    }
    if data.len() > FILE_MAX {
        return Err(ToolOutcome::error(format!("{} is larger than 5 MiB", path.display())));
    }
    let bytes = std::fs::read(path).map_err(|error| failed("read", path, &error))?;
    String::from_utf8(bytes)
        .map_err(|_binary| ToolOutcome::error(format!("{} is not text", path.display())))
}

pub(super) fn read(path: &Path, input: &Value) -> ToolOutcome {
    let text = match text_of(path) {
        Ok(text) => text,
        Err(outcome) => return outcome,
    };
    let number = |key: &str| {
        input.get(key).and_then(Value::as_u64).and_then(|number| usize::try_from(number).ok())
    };
    let offset = number("offset").unwrap_or(1).max(1);
    let limit = number("limit").unwrap_or(LINES_MAX).min(LINES_MAX);
    let total = text.lines().count();
    let mut shown = String::new();
    for (index, line) in text.lines().enumerate().skip(offset - 1).take(limit) {
        let line = &line[..line.floor_char_boundary(LINE_MAX)];
        shown.push_str(&format!("{:>6}\t{line}\n", index + 1));
    }
    let last = (offset - 1).saturating_add(limit);
    if last < total {
        shown.push_str(&format!("({} more lines: offset {})\n", total - last, last + 1));
    }
    if shown.is_empty() {
        shown = format!("(nothing: the file has {total} lines)");
    }
    ToolOutcome::ok(shown)
}

/// The files under `path`, in order; links to directories are not followed.
fn walk(path: &Path) -> Vec<PathBuf> {
    let mut files = vec![];
    let mut waiting = vec![path.to_owned()];
    while let Some(next) = waiting.pop() {
        if files.len() >= FILES_MAX {
            break;
        }
        let Ok(entries) = std::fs::read_dir(&next) else {
            files.push(next);
            continue;
        };
        let mut entries: Vec<_> = entries.flatten().collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries.into_iter().rev() {
            let name = entry.file_name();
            let kind = entry.file_type();
            if kind.as_ref().is_ok_and(std::fs::FileType::is_symlink) {
                continue;
            }
            if !PASSED_OVER.contains(&name.to_string_lossy().as_ref()) {
                waiting.push(entry.path());
            }
        }
    }
    files
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

pub(super) fn list(root: &Path, path: &Path) -> ToolOutcome {
    if !path.exists() {
        return ToolOutcome::error(format!("there is no {}", relative(root, path)));
    }
    let files = walk(path);
    let mut names: Vec<String> = files.iter().map(|file| relative(root, file)).collect();
    if files.len() >= FILES_MAX {
        names.push("(and more: list a directory below)".to_owned());
    }
    if names.is_empty() {
        return ToolOutcome::ok("(no files)");
    }
    ToolOutcome::ok(names.join("\n"))
}

pub(super) fn search(root: &Path, path: &Path, input: &Value) -> ToolOutcome {
    let Some(pattern) = input.get("pattern").and_then(Value::as_str) else {
        return missing("pattern");
    };
    let pattern = match Regex::new(pattern) {
        Ok(pattern) => pattern,
        Err(error) => return ToolOutcome::error(format!("not a regular expression: {error}")),
    };
    if !path.exists() {
        return ToolOutcome::error(format!("there is no {}", relative(root, path)));
    }
    let mut matches = vec![];
    for file in walk(path) {
        let Ok(text) = text_of(&file) else { continue };
        for (index, line) in text.lines().enumerate().filter(|(_, line)| pattern.is_match(line)) {
            let line = &line[..line.floor_char_boundary(LINE_MAX)];
            matches.push(format!("{}:{}: {line}", relative(root, &file), index + 1));
        }
        if matches.len() >= MATCHES_MAX {
            matches.truncate(MATCHES_MAX);
            matches.push("(and more: narrow the pattern or the path)".to_owned());
            break;
        }
    }
    if matches.is_empty() {
        return ToolOutcome::ok("(no match)");
    }
    ToolOutcome::ok(matches.join("\n"))
}

pub(super) fn edit(path: &Path, input: &Value) -> ToolOutcome {
    let (Some(old), Some(new)) = (
        input.get("old").and_then(Value::as_str).filter(|old| !old.is_empty()),
        input.get("new").and_then(Value::as_str),
    ) else {
        return missing("old` or `new");
    };
    let text = match text_of(path) {
        Ok(text) => text,
        Err(outcome) => return outcome,
    };
    let all = input.get("all").and_then(Value::as_bool).unwrap_or(false);
    match text.matches(old).count() {
        0 => ToolOutcome::error("`old` does not stand in the file: read it again"),
        many if many > 1 && !all => ToolOutcome::error(format!(
            "`old` stands in the file {many} times: give more of what is around it, or all = true"
        )),
        count => match put(path, &text.replace(old, new)) {
            Ok(()) => ToolOutcome::ok(format!("replaced {count} times")),
            Err(error) => failed("write", path, &error),
        },
    }
}

pub(super) fn write(path: &Path, input: &Value) -> ToolOutcome {
    let Some(content) = input.get("content").and_then(Value::as_str) else {
        return missing("content");
    };
    if let Some(parent) = path.parent()
        && let Err(error) = std::fs::create_dir_all(parent)
    {
        return failed("make the directory of", path, &error);
    }
    match put(path, content) {
        Ok(()) => ToolOutcome::ok(format!("written, {} bytes", content.len())),
        Err(error) => failed("write", path, &error),
    }
}

/// Writes in place: the file keeps its permissions.
fn put(path: &Path, content: &str) -> std::io::Result<()> {
    std::fs::write(path, content)
}
