//! The pages in `bot-commands/`: what a command is called, who may use it, and its help.
//!
//! A page is front matter between two lines of `---` (`key: value`, and `examples:` with a line
//! `  - …` each) and then the help text. The pages of the built-in commands are embedded. A file
//! in the user's own `bot-commands/` with the name of a built-in command re-words its help; one
//! with another name is a **prompt command**: its text, with `$1` … `$9` and `$*` filled in, is
//! put to the coordinator as if the person had written it.

use include_dir::{Dir, include_dir};
use std::path::Path;

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/bot-commands");

/// The groups, in the order of `help`, with their headings.
pub const GROUPS: [(&str, &str); 6] = [
    ("see", "See"),
    ("work", "Work"),
    ("projects", "Projects"),
    ("time", "Time"),
    ("talk", "Talk"),
    ("run it", "Run it"),
];

/// The group that pages of the user's own fall into when they name none of ours.
const OWN_GROUP: &str = "talk";

/// One command's page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// What it is called, in lower case; may be two words.
    pub name: String,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// One of [`GROUPS`].
    pub group: String,
    /// Its grammar, for people.
    pub usage: String,
    /// One line.
    pub summary: String,
    /// Whether only administrators may use it.
    pub admin: bool,
    /// Messages, without prefix.
    pub examples: Vec<String>,
    /// The help text, or the template of a prompt command.
    pub text: String,
}

/// What is wrong with a page.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// No front matter.
    #[error("it must begin with a line `---`, then `key: value` lines, then `---`")]
    NoFrontMatter,
    /// A line that is neither `key: value` nor an example.
    #[error("line {0} of the front matter is not `key: value`")]
    Line(usize),
    /// A key that nobody reads.
    #[error("unknown key `{0}`: use name, aliases, group, usage, summary, who, examples")]
    UnknownKey(String),
    /// A value that does not fit its key.
    #[error("`{key}: {value}` does not fit: {remedy}")]
    Value {
        /// The key.
        key: &'static str,
        /// What stands there.
        value: String,
        /// What to write.
        remedy: &'static str,
    },
    /// A page without a name.
    #[error("`name:` is missing")]
    NoName,
}

impl Page {
    /// Reads a page.
    pub fn parse(source: &str) -> Result<Page, PageError> {
        let source = source.replace("\r\n", "\n");
        let rest = source.strip_prefix("---\n").ok_or(PageError::NoFrontMatter)?;
        let (front, text) = rest.split_once("\n---\n").ok_or(PageError::NoFrontMatter)?;
        let mut page = Page {
            name: String::new(),
            aliases: vec![],
            group: OWN_GROUP.to_owned(),
            usage: String::new(),
            summary: String::new(),
            admin: false,
            examples: vec![],
            text: text.trim().to_owned(),
        };
        for (number, line) in front.lines().enumerate() {
            if let Some(example) = line.trim_start().strip_prefix("- ") {
                page.examples.push(example.trim().to_owned());
            } else if !line.trim().is_empty() {
                let (key, value) = line.split_once(':').ok_or(PageError::Line(number + 2))?;
                page.set(key.trim(), value.trim())?;
            }
        }
        if page.name.is_empty() {
            return Err(PageError::NoName);
        }
        if page.usage.is_empty() {
            page.usage.clone_from(&page.name);
        }
        Ok(page)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), PageError> {
        match key {
            "name" => self.name = value.to_lowercase(),
            "aliases" => {
                let names = value.split(',').map(|name| name.trim().to_lowercase());
                self.aliases = names.filter(|name| !name.is_empty()).collect();
            }
            "group" if GROUPS.iter().any(|(group, _)| *group == value) => {
                self.group = value.to_owned();
            }
            "group" => {
                let remedy = "one of see, work, projects, time, talk, run it";
                return Err(PageError::Value { key: "group", value: value.to_owned(), remedy });
            }
            "usage" => self.usage = value.to_owned(),
            "summary" => self.summary = value.to_owned(),
            "who" => match value {
                "anyone" => self.admin = false,
                "admin" => self.admin = true,
                other => {
                    let remedy = "anyone or admin";
                    return Err(PageError::Value { key: "who", value: other.to_owned(), remedy });
                }
            },
            "examples" => {}
            other => return Err(PageError::UnknownKey(other.to_owned())),
        }
        Ok(())
    }

    /// Every name it goes by.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.aliases.iter().map(String::as_str))
    }

    /// The template of a prompt command, filled in.
    pub fn fill(&self, arguments: &str) -> String {
        let words: Vec<&str> = arguments.split_whitespace().collect();
        let mut out = String::with_capacity(self.text.len() + arguments.len());
        let mut rest = self.text.as_str();
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            match after.chars().next() {
                Some('*') => out.push_str(arguments.trim()),
                Some(digit @ '1'..='9') => {
                    let index = digit as usize - '1' as usize;
                    out.push_str(words.get(index).copied().unwrap_or_default());
                }
                Some(_) | None => {
                    out.push('$');
                    rest = after;
                    continue;
                }
            }
            rest = &after[1..];
        }
        out.push_str(rest);
        if !self.text.contains('$') && !arguments.trim().is_empty() {
            out.push_str("\n\n");
            out.push_str(arguments.trim());
        }
        out
    }
}

/// The pages of the built-in commands.
///
/// A page that cannot be read is left out here and fails the tests.
pub fn embedded() -> Vec<Page> {
    let sources = EMBEDDED.files().filter_map(include_dir::File::contents_utf8);
    sources.filter_map(|source| Page::parse(source).ok()).collect()
}

/// The user's own pages in `dir`, and a sentence for each file that cannot be used.
pub fn own(dir: &Path) -> (Vec<Page>, Vec<String>) {
    let mut pages = vec![];
    let mut problems = vec![];
    let Ok(entries) = std::fs::read_dir(dir) else {
        return (pages, problems);
    };
    let mut paths: Vec<_> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.sort();
    for path in paths {
        let page = std::fs::read_to_string(&path)
            .map_err(|error| error.to_string())
            .and_then(|source| Page::parse(&source).map_err(|error| error.to_string()));
        match page {
            Ok(page) => pages.push(page),
            Err(problem) => problems.push(format!("{}: {problem}", path.display())),
        }
    }
    (pages, problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_embedded_page_can_be_read_and_is_complete() {
        for file in EMBEDDED.files() {
            let page = Page::parse(file.contents_utf8().unwrap())
                .unwrap_or_else(|error| panic!("{}: {error}", file.path().display()));
            assert_eq!(
                format!("{}.md", page.name.replace(' ', "-")),
                file.path().display().to_string()
            );
            for (what, value) in [("summary", &page.summary), ("text", &page.text)] {
                assert!(!value.is_empty(), "{}: {what} is missing", page.name);
            }
            assert!(!page.examples.is_empty(), "{} has no example", page.name);
        }
    }

    #[test]
    fn a_template_takes_words_and_the_rest() {
        let page = |text: &str| Page::parse(&format!("---\nname: review\n---\n{text}")).unwrap();
        for (text, arguments, expected) in [
            ("Review $1 for $2.", "src bugs", "Review src for bugs."),
            ("Review $1 for $2.", "src", "Review src for ."),
            ("Look at: $*", " a  b ", "Look at: a  b"),
            ("It costs $5 and $", "1 2 3 4 five", "It costs five and $"),
            ("Review the last commit.", "gently", "Review the last commit.\n\ngently"),
            ("Review the last commit.", "", "Review the last commit."),
        ] {
            assert_eq!(page(text).fill(arguments), expected, "{text} / {arguments}");
        }
    }

    #[test]
    fn a_wrong_page_says_what_is_wrong() {
        for (source, expected) in [
            ("hello", "it must begin with a line `---`"),
            ("---\nname: x\n", "it must begin"),
            ("---\nname: x\nfoo\n---\n", "line 3 of the front matter"),
            ("---\nname: x\ncolour: red\n---\n", "unknown key `colour`"),
            ("---\nname: x\nwho: me\n---\n", "anyone or admin"),
            ("---\nname: x\ngroup: y\n---\n", "one of see, work"),
            ("---\nusage: x\n---\n", "`name:` is missing"),
        ] {
            let error = Page::parse(source).unwrap_err().to_string();
            assert!(error.contains(expected), "{source:?}: {error}");
        }
    }
}
