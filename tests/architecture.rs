//! The layers: a module imports only from rows below its own, and each outside thing has one door.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The rows of the design, top to bottom. A module may use what stands in a later row.
const ROWS: &[&[&str]] = &[
    &["app"],
    &["dispatcher", "cli"],
    &["commands", "coordinator", "tools"],
    &["services", "doctor"],
    &["work"],
    &["agents", "merge", "mail", "timers", "chat", "upgrade"],
    &["project"],
    &["store", "llm"],
    &["config"],
    &["model", "clock", "failpoint", "redact", "version"],
];

/// What may be named only behind its door: (text, files that may hold it).
const DOORS: &[(&str, &[&str])] = &[
    // The default log filter names its target.
    ("matrix_sdk::", &["chat/matrix", "config.rs"]),
    ("genai::", &["llm"]),
    ("Connection::open", &["store/open.rs"]),
    ("prepare_cached(", &["store"]),
    (".query_row(", &["store"]),
    (".query_map(", &["store"]),
    ("execute_batch(", &["store"]),
    ("pragma_", &["store"]),
    ("\"SELECT ", &["store"]),
    ("\"INSERT ", &["store"]),
    ("\"UPDATE ", &["store"]),
    ("\"DELETE ", &["store"]),
    ("PRAGMA ", &["store"]),
    // Reading a URL asks nobody.
    ("reqwest::Client", &["llm", "chat/matrix/trial.rs", "agents/gateway"]),
    ("}/_matrix/", &["chat/matrix"]),
    ("Command::new(\"git\")", &["project/git"]),
    // Agents and their tools; what projects run; the CLIs' versions; builds; the terminal's echo.
    (
        "Command::new(",
        &[
            "agents/process",
            "agents/runtime/probe.rs",
            "project/git",
            "project/shell.rs",
            "upgrade",
            "cli/init/ask.rs",
        ],
    ),
    ("UnixListener", &["cli/socket.rs"]),
    ("CARGO_PKG_VERSION", &["version.rs"]),
];

/// The sources of the program, by their paths under src/.
pub fn sources() -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, out: &mut Vec<(PathBuf, String)>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                out.push((path, text));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut out = vec![];
    walk(&root, &mut out);
    for (path, _) in &mut out {
        *path = path.strip_prefix(&root).unwrap().to_owned();
    }
    out.sort();
    out
}

/// The top module that a file belongs to; `None` for the roots.
fn module_of(file: &Path) -> Option<String> {
    let first = file.components().next()?.as_os_str().to_str()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (!matches!(name, "lib" | "main")).then(|| name.to_owned())
}

/// Code without comments: a `crate::` link in a doc is no import.
fn code(text: &str) -> String {
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or(""));
    lines.collect::<Vec<_>>().join("\n")
}

/// Every top module named in a `crate::` path, also in grouped imports.
fn imports(code: &str) -> Vec<String> {
    let mut found = vec![];
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut word = String::new();
            let mut fresh = true;
            for letter in group.chars() {
                match letter {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if letter.is_alphanumeric() || letter == '_' {
                    if depth == 1 && fresh {
                        word.push(letter);
                    }
                    continue;
                }
                if !word.is_empty() {
                    found.push(std::mem::take(&mut word));
                }
                fresh = depth == 1 && (letter == ',' || (fresh && letter.is_whitespace()));
                if depth == 0 {
                    break;
                }
            }
        } else {
            found.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    found
}

#[test]
fn every_module_imports_only_from_rows_below_its_own() {
    let rows: BTreeMap<&str, usize> = ROWS
        .iter()
        .enumerate()
        .flat_map(|(row, names)| names.iter().map(move |name| (*name, row)))
        .collect();
    let mut wrong = vec![];
    for (file, text) in sources() {
        let Some(own) = module_of(&file) else { continue };
        let Some(own_row) = rows.get(own.as_str()) else {
            wrong.push(format!("{}: module `{own}` stands in no row", file.display()));
            continue;
        };
        for import in imports(&code(&text)) {
            let Some(row) = rows.get(import.as_str()) else { continue };
            if import != own && row <= own_row {
                wrong.push(format!("{}: `{own}` imports `{import}`", file.display()));
            }
        }
    }
    wrong.dedup();
    assert!(wrong.is_empty(), "imports up or sideways:\n{}", wrong.join("\n"));
}

#[test]
fn each_outside_thing_has_one_door() {
    let mut wrong = vec![];
    for (file, text) in sources() {
        let shown = file.to_string_lossy().into_owned();
        // What a module's own tests set up is not how the program reaches out.
        let code = code(text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(""));
        if shown.ends_with("tests.rs") || shown.contains("/tests/") {
            continue;
        }
        for (thing, doors) in DOORS {
            if code.contains(thing) && !doors.iter().any(|door| shown.starts_with(door)) {
                wrong.push(format!("{shown}: `{thing}` belongs to {}", doors.join(", ")));
            }
        }
    }
    assert!(wrong.is_empty(), "past the door:\n{}", wrong.join("\n"));
}

#[test]
fn the_reader_of_imports_sees_groups_and_single_paths() {
    let code = "use crate::{app::x, model::{ids, mail}, store};\nlet y = crate::chat::z();";
    assert_eq!(imports(code), ["app", "model", "store", "chat"]);
}
