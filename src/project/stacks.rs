//! Stacks: what a project is built with, as folders of small files.
//!
//! `config/stacks/NAME/` holds `markers` (how to recognise it), `gates`, and perhaps `setup` and
//! `gitignore`; adding a stack needs no code. The folders are embedded; a file at the same place in
//! the person's configuration directory (`stacks/NAME/gates`) wins, and a new folder there is a new
//! stack.

use include_dir::{Dir, include_dir};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

static EMBEDDED: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/config/stacks");

/// How many entries of a project are looked at to weigh several stacks against each other.
const ENTRIES_MAX: usize = 5000;

/// A kind of project.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stack {
    /// Its name: the folder's.
    pub name: String,
    /// Files that a project of this stack has in its top directory.
    pub markers: Vec<String>,
    /// Endings of its source files, with the dot.
    pub endings: Vec<String>,
    /// Sensible gates.
    pub gates: Vec<String>,
    /// Sensible set-up commands.
    pub setup: Vec<String>,
    /// What git should ignore, as lines.
    pub gitignore: String,
}

/// Why the stacks cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// There is no such stack.
    #[error("there is no stack `{name}`: take one of {}", known.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
        /// Those there are.
        known: Vec<String>,
    },
    /// A file of the person's configuration directory cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// What a project's files say about its stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    /// The stack; `None` when nothing is known about the files.
    pub stack: Option<Stack>,
    /// Other stacks that it has markers of, which the first one outweighs.
    pub others: Vec<String>,
}

/// All stacks.
#[derive(Debug, Clone)]
pub struct Stacks {
    stacks: Vec<Stack>,
}

impl Stacks {
    /// Reads the embedded stacks and those of the person's configuration directory.
    pub fn load(config_dir: Option<&Path>) -> Result<Self, StackError> {
        let own = config_dir.map(|dir| dir.join("stacks"));
        let mut names: BTreeSet<String> =
            EMBEDDED.dirs().filter_map(|dir| name_of(dir.path())).collect();
        if let Some(entries) = own.as_ref().and_then(|own| std::fs::read_dir(own).ok()) {
            let folders = entries.flatten().filter(|entry| entry.path().is_dir());
            names.extend(folders.filter_map(|entry| name_of(&entry.path())));
        }
        let stacks = names.into_iter().map(|name| read(name, own.as_deref()));
        Ok(Self { stacks: stacks.collect::<Result<_, _>>()? })
    }

    /// The names of the stacks.
    pub fn names(&self) -> Vec<String> {
        self.stacks.iter().map(|stack| stack.name.clone()).collect()
    }

    /// The stack of that name.
    pub fn get(&self, name: &str) -> Result<Stack, StackError> {
        let found = self.stacks.iter().find(|stack| stack.name == name).cloned();
        found.ok_or_else(|| StackError::Unknown { name: name.to_owned(), known: self.names() })
    }

    /// Recognises a project by its files. Of several stacks the one with most source files wins,
    /// then the one with most markers, then the first by name.
    pub fn detect(&self, project: &Path) -> Detected {
        let matching: Vec<(usize, &Stack)> = self
            .stacks
            .iter()
            .map(|stack| (stack.markers.iter().filter(|m| project.join(m).exists()).count(), stack))
            .filter(|(markers, _)| *markers > 0)
            .collect();
        let files = if matching.len() > 1 { endings_in(project) } else { Vec::new() };
        let mut ranked: Vec<((usize, usize), &Stack)> = matching
            .into_iter()
            .map(|(markers, stack)| {
                let own = |name: &&String| stack.endings.iter().any(|e| name.ends_with(e.as_str()));
                ((files.iter().filter(own).count(), markers), stack)
            })
            .collect();
        ranked.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
        let mut ranked = ranked.into_iter().map(|(_, stack)| stack.clone());
        Detected { stack: ranked.next(), others: ranked.map(|stack| stack.name).collect() }
    }
}

fn name_of(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}

fn read(name: String, own: Option<&Path>) -> Result<Stack, StackError> {
    let file = |part: &str| -> Result<String, StackError> {
        if let Some(path) = own.map(|own| own.join(&name).join(part)) {
            match std::fs::read_to_string(&path) {
                Ok(text) => return Ok(text),
                Err(source) if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(StackError::Io { path, source }),
            }
        }
        let embedded = EMBEDDED.get_file(format!("{name}/{part}"));
        Ok(embedded.and_then(|file| file.contents_utf8()).unwrap_or_default().to_owned())
    };
    let (endings, markers) =
        lines(&file("markers")?).into_iter().partition::<Vec<_>, _>(|line| line.starts_with("*."));
    Ok(Stack {
        markers,
        endings: endings.into_iter().map(|ending| ending[1..].to_owned()).collect(),
        gates: lines(&file("gates")?),
        setup: lines(&file("setup")?),
        gitignore: file("gitignore")?,
        name,
    })
}

/// The lines of a file that say something.
fn lines(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

/// The names of a project's files, hidden and installed ones aside.
fn endings_in(project: &Path) -> Vec<String> {
    let (mut names, mut folders, mut seen) = (Vec::new(), vec![project.to_owned()], 0);
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        for entry in entries.flatten() {
            seen += 1;
            if seen > ENTRIES_MAX {
                return names;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            let skipped =
                name.starts_with('.') || ["node_modules", "target"].contains(&name.as_str());
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && !skipped => folders.push(entry.path()),
                Ok(kind) if kind.is_file() => names.push(name),
                Ok(_) | Err(_) => {}
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_embedded_stack_can_be_recognised_and_has_gates_and_a_fragment() {
        let stacks = Stacks::load(None).unwrap();
        assert_eq!(stacks.names(), ["go", "jvm", "node", "python", "ruby", "rust"]);
        for stack in &stacks.stacks {
            assert!(!stack.markers.is_empty() && !stack.gates.is_empty(), "{}", stack.name);
            assert!(EMBEDDED.get_file(format!("{}/Dockerfile.fragment", stack.name)).is_some());
        }
        let error = stacks.get("cobol").unwrap_err().to_string();
        assert!(error.contains("go, jvm, node, python, ruby, rust"), "{error}");
    }

    #[test]
    fn a_project_is_recognised_by_its_files_and_the_dominant_stack_wins() {
        let stacks = Stacks::load(None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(stacks.detect(dir.path()).stack, None);
        for file in ["requirements.txt", "package.json", "tsconfig.json", "a.py", "b.py", "c.ts"] {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        let detected = stacks.detect(dir.path());
        assert_eq!(detected.stack.unwrap().name, "python");
        assert_eq!(detected.others, ["node"]);
    }

    #[test]
    fn a_file_of_the_configuration_directory_wins_and_a_folder_there_is_a_stack() {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("rust/gates", "cargo nextest run\n"),
            ("zig/markers", "build.zig\n"),
            ("zig/gates", "zig build test\n"),
        ] {
            let path = dir.path().join("stacks").join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let stacks = Stacks::load(Some(dir.path())).unwrap();
        assert_eq!(stacks.get("rust").unwrap().gates, ["cargo nextest run"]);
        assert_eq!(stacks.get("rust").unwrap().markers, ["Cargo.toml"]);
        assert_eq!(stacks.get("zig").unwrap().gates, ["zig build test"]);
    }
}
