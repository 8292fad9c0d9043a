//! Which commands need no rule. Pure.
//!
//! Rules are decided on the parsed line (`line`), not by searching its text: `ok; rm -rf src` has two
//! commands, and `echo "rm -rf src"` has one, which is harmless. What cannot be taken apart with
//! certainty is `None`, and then nobody may say that it is covered.

use super::line::{Command, take_apart};

/// Commands that only look, and those with which work is committed.
const EVERYDAY: &[&str] = &[
    "ls", "cat", "head", "tail", "wc", "pwd", "echo", "printf", "grep", "rg", "sort", "uniq",
    "cut", "diff", "file", "stat", "which", "true", "false", "test", "[", "cd", "mkdir", "touch",
    "basename", "dirname", "date", "tr", "nl", "tree",
];

/// The parts of git that stay in the worktree and in its branch.
const EVERYDAY_GIT: &[&str] = &[
    "status",
    "diff",
    "log",
    "show",
    "add",
    "commit",
    "blame",
    "grep",
    "ls-files",
    "rev-parse",
    "mv",
    "rm",
    "restore",
    "branch",
    "merge-base",
    "describe",
];

/// Those of git that change nothing.
const READING_GIT: &[&str] = &[
    "status",
    "diff",
    "log",
    "show",
    "blame",
    "grep",
    "ls-files",
    "rev-parse",
    "merge-base",
    "describe",
];

/// The everyday ones that make or change files.
const WRITING: &[&str] = &["mkdir", "touch", "uniq"];

/// What agents do with our own program: mail, their report, and a look at the board.
const OWN: &[&str] = &["mail", "report-done", "status", "agents", "logs"];

/// Whether a line might have our own program take its agent for somebody else.
pub fn is_disguised(line: &str) -> bool {
    line.contains("MUSHER_") || line.split_whitespace().any(|word| word == "env")
}

/// Whether a single command needs no rule: it looks, or it commits.
pub fn is_everyday(command: &str) -> bool {
    // A redirection writes a file, which may be anywhere.
    if command.contains(REDIRECTS) {
        return false;
    }
    let mut words = command.split_whitespace();
    match words.next() {
        Some("git") => {
            let Some(verb) = words.next() else { return false };
            EVERYDAY_GIT.contains(&verb)
        }
        Some("musher") => words.next().is_some_and(|verb| OWN.contains(&verb)),
        Some(program) => EVERYDAY.contains(&program),
        None => true,
    }
}

/// Whether a single command only looks: what a role that writes nothing may run unasked.
pub fn is_reading(command: &str) -> bool {
    let mut words = command.split_whitespace();
    let (first, second) = (words.next(), words.next());
    let looks = match (first, second) {
        (Some("git"), Some(verb)) => READING_GIT.contains(&verb),
        (Some(program), _) => !WRITING.contains(&program),
        (None, _) => true,
    };
    // `sort -o FILE`, `git diff --output=FILE`, `git grep -O`: reading programs that write or run.
    let writes =
        |word: &str| ["-o", "-O", "--output", "--open"].iter().any(|flag| word.starts_with(flag));
    let own = first == Some("musher");
    looks && is_everyday(command) && (own || !command.split_whitespace().any(writes))
}

/// Stands in a command's text for a redirection into a file.
const REDIRECTS: char = '\u{1}';

/// Whether a command writes into a file by a redirection.
pub fn redirects(command: &str) -> bool {
    command.contains(REDIRECTS)
}

/// Variables by which another program runs than the one that is named.
const HIJACKING: &[&str] = &[
    "PATH",
    "IFS",
    "ENV",
    "BASH_ENV",
    "SHELLOPTS",
    "PAGER",
    "EDITOR",
    "VISUAL",
    "LESSOPEN",
    "PROMPT_COMMAND",
    "NODE_OPTIONS",
    "RUBYOPT",
    "PERL5OPT",
    "PERL5LIB",
];

/// Whether a command sets a variable that may have another program run than the one named.
pub fn hijacks(command: &Command) -> bool {
    let assigned = command.assigned.iter().map(|word| word.text.as_str());
    let exported = match command.program() {
        "export" | "declare" | "typeset" | "readonly" => command.words.get(1..).unwrap_or_default(),
        _other => &[],
    };
    assigned.chain(exported.iter().map(|word| word.text.as_str())).any(|text| {
        let name = text.split(['=', '+']).next().unwrap_or_default();
        HIJACKING.contains(&name)
            || ["LD_", "DYLD_", "GIT_", "PYTHON"].iter().any(|begin| name.starts_with(begin))
    })
}

/// A command as rules and people read it: its words, and a sign when it writes into a file.
pub fn shown(command: &Command) -> String {
    let harmless = ["/dev/null", "/dev/stderr", "/dev/stdout"];
    let mut text = command.text();
    if command.writes.iter().any(|file| !harmless.contains(&file.text.as_str())) {
        text.push(' ');
        text.push(REDIRECTS);
    }
    text
}

/// The commands of a shell line, each as its words joined by spaces; `None` when it is not clear.
pub fn commands(line: &str) -> Option<Vec<String>> {
    let found = take_apart(line)?;
    let certain = found.iter().filter(|command| !command.maybe);
    Some(certain.map(shown).filter(|text| !text.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_a_line_is_found() {
        for (line, expected) in [
            ("ok; rm -rf src", vec!["ok", "rm -rf src"]),
            ("echo \"rm -rf src\"", vec!["echo rm -rf src"]),
            ("cat x 2>&1 | tail -3", vec!["cat x", "tail -3"]),
            ("a && b || c & d\ne", vec!["a", "b", "c", "d", "e"]),
            ("echo $(git push) `id`", vec!["git push", "id", "echo $() $()"]),
            (
                "FOO=1 env A=b nice -n 5 make",
                vec!["env A=b nice -n 5 make", "nice -n 5 make", "make"],
            ),
            ("bash -lc 'rm x; ls'", vec!["bash -lc rm x; ls", "rm x", "ls"]),
            ("if true; then rm y; fi", vec!["true", "rm y"]),
            ("for f in *; do rm $f; done", vec!["rm $f"]),
            ("(cd a; rm b)", vec!["cd a", "rm b"]),
            ("timeout 5 rm z # rm q", vec!["timeout 5 rm z", "rm z"]),
            ("ls > /dev/null", vec!["ls"]),
            ("cat <<EOF\nrm x\nEOF\nls", vec!["cat", "ls"]),
            ("diff <(a) <(b)", vec!["a", "b", "diff <() <()"]),
        ] {
            assert_eq!(
                commands(line).as_deref(),
                Some(&expected.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()[..]),
                "{line}"
            );
        }
    }

    #[test]
    fn what_is_not_clear_is_not_taken_apart() {
        for line in
            ["$CMD x", "eval \"$x\"", "cat <<EOF\nrm", "'open", "bash -c \"$X\"", "echo $'a'"]
        {
            assert_eq!(commands(line), None, "{line}");
        }
    }

    #[test]
    fn looking_and_committing_are_everyday_and_writing_elsewhere_is_not() {
        let everyday = |line: &str| commands(line).unwrap().iter().all(|part| is_everyday(part));
        assert!(everyday("git add -A && git commit -m 'x' && git status | head"));
        assert!(everyday("ls 2>&1"));
        assert!(!everyday("echo x > /etc/passwd"));
        assert!(!everyday("git push origin main"));
        assert!(!everyday("find . -delete"));
        assert!(everyday("musher report-done --summary 'done' && musher mail check"));
        assert!(!everyday("musher run") && !everyday("musher items start 1"));
        assert!(is_disguised("MUSHER_AGENT=coder-2 musher report-done --summary x"));
        assert!(is_disguised("env -i musher mail send --to coder-2"));
        assert!(!is_disguised("musher mail send --to coder-2 --body environment"));
    }

    #[test]
    fn a_role_that_writes_nothing_only_looks() {
        let looks = |line: &str| commands(line).unwrap().iter().all(|part| is_reading(part));
        for line in ["git log --oneline | head -3", "grep -rn x src", "musher mail check"] {
            assert!(looks(line), "{line}");
        }
        for line in [
            "git commit -m x",
            "git branch -D main",
            "touch x",
            "sort -o x y",
            "git diff --output=x",
            "ls > x",
            "cargo test",
        ] {
            assert!(!looks(line), "{line}");
        }
    }
}
