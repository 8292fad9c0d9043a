//! What `help` shows, and the table of commands for the README.

use super::page::{GROUPS, Page};
use super::parse::Registry;
use std::fmt::Write;

impl Registry {
    /// The list of all commands, by group.
    pub fn help(&self, prefix: &str) -> String {
        let mut out = format!(
            "Write what you want in plain words, or use a command: `{prefix}NAME`, or just the \
             name when you write to me.\n"
        );
        for (group, heading) in GROUPS {
            let pages = self.pages().filter(|page| page.group == group);
            let usages: Vec<String> = pages.map(|page| format!("`{}`", short(page))).collect();
            if !usages.is_empty() {
                let _ = write!(out, "\n**{heading}**: {}\n", usages.join(" · "));
            }
        }
        let _ = write!(out, "\n`{prefix}help NAME` explains one.");
        out
    }

    /// One command's page, or the nearest name.
    pub fn help_on(&self, topic: &str, prefix: &str) -> String {
        let Some(page) = self.find_page(topic) else {
            return unknown(topic, self.nearest(Some(topic)).as_deref(), prefix);
        };
        let mut out = format!("`{prefix}{}`: {}", page.usage, page.summary);
        if page.admin {
            out.push_str(" (administrators)");
        }
        if !page.aliases.is_empty() {
            let aliases: Vec<String> =
                page.aliases.iter().map(|alias| format!("`{alias}`")).collect();
            let _ = write!(out, "\n\nAlso: {}", aliases.join(", "));
        }
        let _ = write!(out, "\n\n{}", page.text);
        if !page.examples.is_empty() {
            out.push_str("\n\nFor example:");
            for example in &page.examples {
                let _ = write!(out, "\n- `{prefix}{example}`");
            }
        }
        out
    }

    /// The table of commands, as it stands in the README.
    pub fn table(&self) -> String {
        let mut out = String::from("| command | does | who |\n|---|---|---|\n");
        for (group, _) in GROUPS {
            for page in self.pages().filter(|page| page.group == group) {
                let usage = page.usage.replace('|', "\\|");
                let who = if page.admin { "administrators" } else { "anyone allowed" };
                let _ = writeln!(out, "| `{usage}` | {} | {who} |", page.summary);
            }
        }
        out
    }
}

/// The answer to a command that is none.
pub fn unknown(typed: &str, nearest: Option<&str>, prefix: &str) -> String {
    let typed: String = typed.replace('`', "'").chars().take(40).collect();
    match nearest {
        Some(nearest) => {
            format!("There is no command `{typed}`. Did you mean `{prefix}{nearest}`?")
        }
        None => format!("There is no command `{typed}`. `{prefix}help` lists them all."),
    }
}

/// The usage without what makes it long.
fn short(page: &Page) -> &str {
    match page.usage.find(" [--") {
        Some(at) => &page.usage[..at],
        None => &page.usage,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a laptop's chat window shows without scrolling.
    const SCREEN_LINES: usize = 24;
    const SCREEN_COLUMNS: usize = 110;

    fn lines(text: &str) -> usize {
        let wrapped = |line: &str| line.chars().count().div_ceil(SCREEN_COLUMNS).max(1);
        text.lines().map(wrapped).sum()
    }

    #[test]
    fn help_fits_a_screen() {
        let registry = Registry::builtin();
        let all = registry.help("!");
        assert!(lines(&all) <= SCREEN_LINES, "{} lines:\n{all}", lines(&all));
        for page in registry.pages() {
            let help = registry.help_on(&page.name, "!");
            assert!(lines(&help) <= SCREEN_LINES, "{}: {}", page.name, lines(&help));
            assert!(all.contains(&format!("`{}", page.name)), "{} is not listed", page.name);
        }
    }

    #[test]
    fn help_on_an_unknown_command_suggests_the_nearest() {
        let registry = Registry::builtin();
        let answer = registry.help_on("statsu", "!");
        assert_eq!(answer, "There is no command `statsu`. Did you mean `!status`?");
    }
}
