//! Shell lines, taken apart into the commands that they would run. Pure.
//!
//! Rules are decided on the parsed line, not by searching its text: `ok; rm -rf src` has two
//! commands, and `echo "rm -rf src"` has one, which is harmless. What cannot be taken apart with
//! certainty is `None`, and then nobody may say that it is covered.

/// Programs that run the rest of their arguments.
const WRAPPERS: &[&str] =
    &["env", "nohup", "time", "nice", "command", "exec", "xargs", "sudo", "setsid", "builtin"];

/// Programs that run the argument of `-c`.
const SHELLS: &[&str] = &["sh", "bash", "dash", "zsh", "/bin/sh", "/bin/bash"];

/// Words that introduce a command.
const KEYWORDS: &[&str] =
    &["if", "then", "else", "elif", "fi", "do", "done", "while", "until", "!", "{", "}"];

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

/// The commands of a shell line, each as its words joined by spaces; `None` when it is not clear.
pub fn commands(line: &str) -> Option<Vec<String>> {
    let mut found = vec![];
    take_apart(line, &mut found, 0)?;
    Some(found)
}

/// How deep substitutions and `sh -c` may be nested.
const DEPTH_MAX: usize = 5;

fn take_apart(line: &str, found: &mut Vec<String>, depth: usize) -> Option<()> {
    if depth > DEPTH_MAX {
        return None;
    }
    let mut parser = Parser { rest: line.chars().collect(), at: 0, found, depth };
    parser.list()
}

struct Parser<'a> {
    rest: Vec<char>,
    at: usize,
    found: &'a mut Vec<String>,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek();
        self.at += 1;
        next
    }

    /// A list of commands up to the end.
    fn list(&mut self) -> Option<()> {
        let mut words: Vec<String> = vec![];
        let mut word: Option<String> = None;
        while let Some(c) = self.next() {
            match c {
                ' ' | '\t' => words.extend(word.take()),
                '\n' | ';' | '&' | '|' | '(' | ')' => {
                    words.extend(word.take());
                    // `2>&1`, `>&2`: no end of a command.
                    if c == '&' && words.last().is_some_and(|last| last.ends_with(REDIRECTS)) {
                        words.pop();
                        while self.peek().is_some_and(|c| c.is_ascii_digit() || c == '-') {
                            self.at += 1;
                        }
                        continue;
                    }
                    self.command(std::mem::take(&mut words))?;
                }
                '#' if word.is_none() => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.at += 1;
                    }
                }
                '>' | '<' => self.redirect(c, &mut words, &mut word)?,
                '\\' => match self.next() {
                    Some('\n') => {}
                    Some(c) => word.get_or_insert_default().push(c),
                    None => return None,
                },
                '\'' => {
                    let text = self.until('\'')?;
                    word.get_or_insert_default().push_str(&text);
                }
                '"' => {
                    let text = self.double_quoted()?;
                    word.get_or_insert_default().push_str(&text);
                }
                '$' | '`' => {
                    let text = self.expansion(c)?;
                    word.get_or_insert_default().push_str(&text);
                }
                c => word.get_or_insert_default().push(c),
            }
        }
        words.extend(word.take());
        self.command(words)
    }

    /// A redirection: into a file it is marked in the command, from one or to a descriptor it is
    /// dropped. Here-documents and process substitutions are not taken apart.
    fn redirect(
        &mut self,
        c: char,
        words: &mut Vec<String>,
        word: &mut Option<String>,
    ) -> Option<()> {
        if self.peek() == Some('(') || (c == '<' && self.peek() == Some('<')) {
            return None;
        }
        // `2>`: the number is no word.
        if word.as_ref().is_some_and(|word| !word.chars().all(|c| c.is_ascii_digit())) {
            words.extend(word.take());
        }
        *word = None;
        if c == '<' {
            return Some(());
        }
        if matches!(self.peek(), Some('>' | '|')) {
            self.at += 1;
        }
        let rest: String = self.rest[self.at.min(self.rest.len())..].iter().take(20).collect();
        if rest.trim_start().starts_with("/dev/null") {
            self.at += rest.find("/dev/null")? + "/dev/null".len();
            return Some(());
        }
        words.push(REDIRECTS.to_string());
        Some(())
    }

    fn until(&mut self, end: char) -> Option<String> {
        let mut text = String::new();
        loop {
            match self.next()? {
                c if c == end => return Some(text),
                c => text.push(c),
            }
        }
    }

    fn double_quoted(&mut self) -> Option<String> {
        let mut text = String::new();
        loop {
            match self.next()? {
                '"' => return Some(text),
                '\\' => text.push(self.next()?),
                c @ ('$' | '`') => text.push_str(&self.expansion(c)?),
                c => text.push(c),
            }
        }
    }

    /// A substitution is taken apart too; a variable stands for itself.
    fn expansion(&mut self, c: char) -> Option<String> {
        if c == '`' {
            let inner = self.until('`')?;
            take_apart(&inner, self.found, self.depth + 1)?;
            return Some("$()".to_owned());
        }
        if self.peek() == Some('\'') {
            return None; // $'…' has escapes of its own
        }
        if self.peek() != Some('(') {
            return Some("$".to_owned());
        }
        self.at += 1;
        let mut depth = 1;
        let mut inner = String::new();
        loop {
            match self.next()? {
                '\'' => {
                    let text = self.until('\'')?;
                    inner.push_str(&format!("'{text}'"));
                }
                '(' => {
                    depth += 1;
                    inner.push('(');
                }
                ')' => {
                    depth -= 1;
                    if depth == 0 {
                        break;
                    }
                    inner.push(')');
                }
                c => inner.push(c),
            }
        }
        take_apart(&inner, self.found, self.depth + 1)?;
        Some("$()".to_owned())
    }

    /// One simple command: keywords, assignments and wrappers before it are looked through.
    fn command(&mut self, words: Vec<String>) -> Option<()> {
        let mut words = words.as_slice();
        while let Some(first) = words.first() {
            if !KEYWORDS.contains(&first.as_str()) && !is_assignment(first) {
                break;
            }
            words = &words[1..];
        }
        let Some(first) = words.first() else { return Some(()) };
        // The loop's head runs nothing; what a variable or `eval` runs is anybody's guess.
        if first == "for" || first == "select" {
            return Some(());
        }
        if first.contains('$')
            || matches!(first.as_str(), "eval" | "case" | "function" | "source" | ".")
        {
            return None;
        }
        self.found.push(words.join(" "));
        if SHELLS.contains(&first.as_str()) {
            return match words.iter().position(|word| word.starts_with('-') && word.ends_with('c'))
            {
                Some(at) => {
                    let script = words.get(at + 1)?;
                    if script.contains('$') {
                        return None;
                    }
                    take_apart(script, self.found, self.depth + 1)
                }
                None => Some(()),
            };
        }
        if WRAPPERS.contains(&first.as_str()) || first == "timeout" {
            let mut rest = &words[1..];
            while let Some(word) = rest.first() {
                let skip = word.starts_with('-')
                    || is_assignment(word)
                    || word.starts_with(|c: char| c.is_ascii_digit());
                if !skip {
                    break;
                }
                rest = &rest[1..];
            }
            return self.command(rest.to_vec());
        }
        Some(())
    }
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
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
        for line in [
            "$CMD x",
            "eval \"$x\"",
            "cat <<EOF\nrm\nEOF",
            "diff <(a) <(b)",
            "'open",
            "bash -c \"$X\"",
            "echo $'a'",
        ] {
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
