//! A shell line, taken apart into the commands that it would run. Pure.
//!
//! Strict: what is not understood with certainty makes the whole line unclear (`None`), and then
//! nobody may say that it is covered. Nothing hides a command: lists, pipelines, subshells, loops,
//! `case`, functions, substitutions, here-documents, quotes, `sh -c`, `eval`, `trap`, `find -exec`
//! and programs that run their arguments are all looked through.

/// How deep substitutions and scripts in arguments may be nested.
const DEPTH_MAX: usize = 8;

/// Programs that run the rest of their arguments, with their options that take an argument.
const WRAPPERS: &[(&str, &[&str])] = &[
    ("builtin", &[]),
    ("caffeinate", &[]),
    ("chronic", &[]),
    ("command", &[]),
    ("doas", &["-u", "-C"]),
    ("env", &["-u", "-C", "--unset", "--chdir"]),
    ("exec", &["-a"]),
    ("ionice", &["-c", "-n", "-p"]),
    ("nice", &["-n", "--adjustment"]),
    ("nohup", &[]),
    ("pkexec", &["--user"]),
    ("setsid", &[]),
    ("stdbuf", &["-i", "-o", "-e"]),
    ("strace", &["-o", "-e", "-p"]),
    ("sudo", &["-u", "-g", "-p", "-C", "-h", "-U", "-r", "-t"]),
    ("systemd-run", &["-p", "-u", "--unit"]),
    ("time", &["-f", "-o"]),
    ("timeout", &["-s", "-k", "--signal", "--kill-after"]),
    ("unbuffer", &[]),
    ("watch", &["-n", "-d"]),
    ("xargs", &["-I", "-n", "-P", "-d", "-L", "-E", "-s", "-a", "-i"]),
];

/// Programs that run the argument of `-c`, and what they read when they have no script.
pub const SHELLS: &[&str] = &["sh", "bash", "dash", "zsh", "ash", "ksh", "fish", "mksh"];

/// Words that introduce a command or end a group of them.
const KEYWORDS: &[&str] =
    &["if", "then", "else", "elif", "fi", "do", "done", "while", "until", "!", "{", "}", "time"];

/// A word of a command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Word {
    /// Without its quotes; what is expanded stands there as it was written.
    pub text: String,
    /// Whether nothing in it is expanded: the text is what the program gets.
    pub certain: bool,
    /// Whether it holds the output of a command.
    pub substituted: bool,
    /// Whether any of it was quoted: such a word is no keyword.
    pub quoted: bool,
}

/// A command that a line would run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Command {
    /// The program and its arguments.
    pub words: Vec<Word>,
    /// Variables set for it, or by it.
    pub assigned: Vec<Word>,
    /// Files that it is redirected into.
    pub writes: Vec<Word>,
    /// Files that it is redirected from.
    pub reads: Vec<Word>,
    /// Not certainly a command: an argument of a program that runs its arguments. What is
    /// forbidden is forbidden here, too.
    pub maybe: bool,
}

impl Command {
    /// The program's name without its folder.
    pub fn program(&self) -> &str {
        let first = self.words.first().map(|word| word.text.as_str()).unwrap_or_default();
        first.rsplit('/').next().unwrap_or_default()
    }

    /// Its words, joined by spaces.
    pub fn text(&self) -> String {
        let words: Vec<&str> = self.words.iter().map(|word| word.text.as_str()).collect();
        words.join(" ")
    }
}

/// The commands of a line; `None` when it is not clear which they are.
pub fn take_apart(line: &str) -> Option<Vec<Command>> {
    let mut found = vec![];
    parse(line, &mut found, 0)?;
    Some(found)
}

fn parse(line: &str, found: &mut Vec<Command>, depth: usize) -> Option<()> {
    if depth > DEPTH_MAX || line.contains('\0') {
        return None;
    }
    let mut parser = Parser { text: line.chars().collect(), at: 0, found, depth, here: vec![] };
    parser.list(End::Text)?;
    // A here-document without a body is no line that anybody means.
    parser.here.is_empty().then_some(())
}

/// What ends a list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Text,
    Paren,
    CaseItem,
}

/// A here-document whose body comes after the line.
struct Here {
    delimiter: String,
    /// Nothing in it is expanded.
    quoted: bool,
    /// Leading tabs are dropped.
    tabs: bool,
    /// A shell reads it as its script.
    script: bool,
}

struct Parser<'a> {
    text: Vec<char>,
    at: usize,
    found: &'a mut Vec<Command>,
    depth: usize,
    here: Vec<Here>,
}

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn follows(&self, text: &str) -> bool {
        let mut at = self.at;
        text.chars().all(|c| {
            at += 1;
            self.text.get(at - 1) == Some(&c)
        })
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += 1;
        Some(next)
    }

    fn blanks(&mut self) {
        loop {
            match self.peek() {
                Some(' ' | '\t') => self.at += 1,
                Some('\\') if self.follows("\\\n") => self.at += 2,
                Some('#') if self.begins_word() => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.at += 1;
                    }
                }
                _other => return,
            }
        }
    }

    /// Whether a word may begin here: `a#b` is no comment.
    fn begins_word(&self) -> bool {
        let before = self.at.checked_sub(1).and_then(|at| self.text.get(at));
        before.is_none_or(|c| matches!(c, ' ' | '\t' | '\n' | ';' | '&' | '|' | '(' | ')'))
    }

    fn list(&mut self, end: End) -> Option<()> {
        loop {
            self.blanks();
            match self.peek() {
                None => return (end == End::Text).then_some(()),
                Some('\n') => {
                    self.at += 1;
                    self.bodies()?;
                }
                Some(')') if end == End::Paren => {
                    self.at += 1;
                    return Some(());
                }
                Some(')') => return None,
                Some(';') if end == End::CaseItem && self.follows(";;") => {
                    self.at += 2;
                    if self.peek() == Some('&') {
                        self.at += 1;
                    }
                    return Some(());
                }
                Some(';' | '&' | '|') => self.at += 1,
                Some(_) if end == End::CaseItem && self.keyword("esac") => return Some(()),
                Some(_) => self.command()?,
            }
        }
    }

    /// Whether this unquoted word comes next, alone.
    fn keyword(&self, word: &str) -> bool {
        let after = self.text.get(self.at + word.len());
        let ends = after
            .is_none_or(|c| c.is_whitespace() || matches!(c, ';' | '&' | '|' | ')' | '<' | '>'));
        self.follows(word) && ends
    }

    /// One command, up to what separates it from the next.
    fn command(&mut self) -> Option<()> {
        let here = self.here.len();
        let mut command = Command::default();
        loop {
            self.blanks();
            let Some(c) = self.peek() else { break };
            match c {
                '\n' | ';' | '|' | ')' => break,
                '&' if self.follows("&>") => self.redirect(&mut command)?,
                '&' => break,
                '<' | '>' if !self.is_substituted_file() => self.redirect(&mut command)?,
                '(' if command.words.is_empty() && command.assigned.is_empty() => {
                    if self.follows("((") {
                        return None;
                    }
                    self.at += 1;
                    self.list(End::Paren)?;
                }
                // A function: its body is looked at like everything else.
                '(' if command.words.len() == 1 && self.follows("()") => {
                    self.at += 2;
                    command.words.clear();
                }
                '(' => return None,
                _begins => {
                    let word = self.word()?;
                    if self.descriptor(&word) {
                        continue;
                    }
                    if command.words.is_empty() {
                        if !word.quoted && KEYWORDS.contains(&word.text.as_str()) {
                            continue;
                        }
                        if is_assignment(&word) {
                            if self.peek() == Some('(') {
                                return None; // an array
                            }
                            command.assigned.push(word);
                            continue;
                        }
                        match word.text.as_str() {
                            "case" if !word.quoted => return self.case(),
                            "[[" if !word.quoted => return self.test(),
                            "for" | "select" if !word.quoted => return self.head(),
                            "function" if !word.quoted => {
                                self.blanks();
                                self.word()?;
                                if self.follows("()") {
                                    self.at += 2;
                                }
                                continue;
                            }
                            _program => {}
                        }
                    }
                    command.words.push(word);
                }
            }
        }
        let reads_script = is_bare_shell(&command.words);
        for one in self.here.iter_mut().skip(here) {
            one.script = reads_script;
        }
        self.push(command)
    }

    /// The head of a loop: it runs nothing, but for what its words do.
    fn head(&mut self) -> Option<()> {
        loop {
            self.blanks();
            match self.peek() {
                None | Some('\n' | ';') => return Some(()),
                Some('(' | ')' | '<' | '>' | '&' | '|') => return None,
                Some(_) => {
                    let word = self.word()?;
                    if word.text == "do" && !word.quoted {
                        return Some(());
                    }
                }
            }
        }
    }

    fn case(&mut self) -> Option<()> {
        self.blanks();
        self.word()?;
        self.gap();
        if self.word()?.text != "in" {
            return None;
        }
        loop {
            self.gap();
            if self.keyword("esac") {
                self.at += "esac".len();
                return Some(());
            }
            if self.peek() == Some('(') {
                self.at += 1;
            }
            loop {
                self.blanks();
                match self.peek()? {
                    ')' => break,
                    '|' => self.at += 1,
                    '\n' | ';' | '&' | '(' | '<' | '>' => return None,
                    _pattern => {
                        self.word()?;
                    }
                }
            }
            self.at += 1;
            self.list(End::CaseItem)?;
        }
    }

    fn gap(&mut self) {
        loop {
            self.blanks();
            if self.peek() != Some('\n') {
                return;
            }
            self.at += 1;
        }
    }

    /// `[[ … ]]`, in which `<`, `>`, `&&`, `||` and parentheses are words.
    fn test(&mut self) -> Option<()> {
        loop {
            self.gap();
            match self.peek()? {
                '<' | '>' | '&' | '|' | '(' | ')' | ';' => self.at += 1,
                _word => {
                    if self.word()?.text == "]]" {
                        return Some(());
                    }
                }
            }
        }
    }

    /// `<(…)` or `>(…)`: a word.
    fn is_substituted_file(&self) -> bool {
        self.follows("<(") || self.follows(">(")
    }

    /// `2>`: the number is no word.
    fn descriptor(&self, word: &Word) -> bool {
        let number = !word.text.is_empty() && word.text.chars().all(|c| c.is_ascii_digit());
        number
            && !word.quoted
            && matches!(self.peek(), Some('<' | '>'))
            && !self.is_substituted_file()
    }

    fn redirect(&mut self, command: &mut Command) -> Option<()> {
        for sign in ["<<<", "<<-", "<<", "<>", "<&", "&>>", "&>", ">>", ">|", ">&", "<", ">"] {
            if !self.follows(sign) {
                continue;
            }
            self.at += sign.len();
            self.blanks();
            if matches!(sign, "<<" | "<<-") {
                let (delimiter, quoted) = self.delimiter()?;
                self.here.push(Here { delimiter, quoted, tabs: sign == "<<-", script: false });
                return Some(());
            }
            let target = self.word()?;
            if target.text.is_empty() {
                return None;
            }
            match sign {
                "<<<" => {
                    if is_bare_shell(&command.words) && !command.words.is_empty() {
                        self.script(&target)?;
                    }
                }
                "<" => command.reads.push(target),
                "<&" => {}
                ">&" if target.text.chars().all(|c| c.is_ascii_digit() || c == '-') => {}
                _into => command.writes.push(target),
            }
            return Some(());
        }
        None
    }

    /// The delimiter of a here-document, and whether it is quoted.
    fn delimiter(&mut self) -> Option<(String, bool)> {
        let begin = self.at;
        let word = self.word()?;
        let raw: String = self.text[begin..self.at].iter().collect();
        // `<<$(x)` is not expanded by a shell: it is nothing that anybody means.
        (word.certain && !word.text.is_empty())
            .then_some((word.text, raw.contains(['\'', '"', '\\'])))
    }

    /// The bodies of the here-documents of the line that has just ended.
    fn bodies(&mut self) -> Option<()> {
        for here in std::mem::take(&mut self.here) {
            let mut body = String::new();
            loop {
                let mut line = String::new();
                let more = loop {
                    match self.next() {
                        Some('\n') => break true,
                        Some(c) => line.push(c),
                        None => break false,
                    }
                };
                let shown = if here.tabs { line.trim_start_matches('\t') } else { &line };
                if shown == here.delimiter {
                    break;
                }
                if !more {
                    return None;
                }
                body.push_str(shown);
                body.push('\n');
            }
            let expands = !here.quoted && body.contains(['$', '`', '\\']);
            if here.script {
                if expands {
                    return None;
                }
                parse(&body, self.found, self.depth + 1)?;
            } else if expands {
                self.expansions_of(&body)?;
            }
        }
        Some(())
    }

    /// The substitutions in text that is expanded like a double-quoted one.
    fn expansions_of(&mut self, text: &str) -> Option<()> {
        let mut parser = Parser {
            text: text.chars().collect(),
            at: 0,
            found: &mut *self.found,
            depth: self.depth,
            here: vec![],
        };
        parser.quoted(&mut Word::default(), None)
    }

    /// One word; it may be empty (`""`).
    fn word(&mut self) -> Option<Word> {
        let mut word = Word { certain: true, ..Word::default() };
        if self.is_substituted_file() {
            self.at += 2;
            self.list(End::Paren)?;
            word.text.push_str("<()");
            (word.certain, word.substituted) = (false, true);
        }
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' | '\n' | ';' | '&' | '|' | '(' | ')' | '<' | '>' => break,
                '\\' => {
                    self.at += 1;
                    match self.next()? {
                        '\n' => {}
                        c => {
                            word.text.push(c);
                            word.quoted = true;
                        }
                    }
                }
                '\'' => {
                    self.at += 1;
                    word.quoted = true;
                    let text = self.until('\'')?;
                    word.text.push_str(&text);
                }
                '"' => {
                    self.at += 1;
                    word.quoted = true;
                    self.quoted(&mut word, Some('"'))?;
                }
                '$' | '`' => self.expansion(&mut word)?,
                '*' | '?' | '[' | '{' => {
                    // A pattern or a brace expansion, unless it stands alone (`[`, `{`).
                    let alone = word.text.is_empty()
                        && self
                            .text
                            .get(self.at + 1)
                            .is_none_or(|c| c.is_whitespace() || matches!(c, '[' | ';'));
                    word.certain &= alone && matches!(c, '[' | '{') || self.follows("{}");
                    word.text.push(c);
                    self.at += 1;
                }
                '~' if word.text.is_empty() => {
                    word.certain = false;
                    word.text.push('~');
                    self.at += 1;
                }
                c => {
                    word.text.push(c);
                    self.at += 1;
                }
            }
        }
        Some(word)
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

    /// Text in which only `$`, backticks and some escapes mean something, up to `end` or to the end.
    fn quoted(&mut self, word: &mut Word, end: Option<char>) -> Option<()> {
        loop {
            let Some(c) = self.peek() else { return end.is_none().then_some(()) };
            match c {
                c if Some(c) == end => {
                    self.at += 1;
                    return Some(());
                }
                '\\' => {
                    self.at += 1;
                    match self.next() {
                        Some('\n') => {}
                        Some(c @ ('$' | '`' | '"' | '\\')) => word.text.push(c),
                        Some(c) => word.text.extend(['\\', c]),
                        None => word.text.push('\\'),
                    }
                }
                '$' | '`' => self.expansion(word)?,
                c => {
                    word.text.push(c);
                    self.at += 1;
                }
            }
        }
    }

    /// An expansion: substitutions are taken apart, a variable stands as it was written.
    fn expansion(&mut self, word: &mut Word) -> Option<()> {
        if self.next()? == '`' {
            return self.backticks(word);
        }
        match self.peek() {
            // $'…' and $"…" have rules of their own.
            Some('\'' | '"') => None,
            Some('(') if self.follows("((") => self.arithmetic(word),
            Some('(') => {
                self.at += 1;
                self.list(End::Paren)?;
                word.text.push_str("$()");
                (word.certain, word.substituted) = (false, true);
                Some(())
            }
            Some('{') => {
                self.at += 1;
                let name = self.until('}')?;
                // What it expands to may be given in it, with substitutions of its own.
                let plain = name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "_#%*@/.:-?!+^,=[] ".contains(c));
                if !plain {
                    return None;
                }
                word.text.push_str(&format!("${{{name}}}"));
                word.certain = false;
                Some(())
            }
            Some(c) if c.is_ascii_alphanumeric() || "_@*#?$!-".contains(c) => {
                word.text.push('$');
                word.certain = false;
                Some(())
            }
            // A dollar at the end of a word is a dollar.
            Some(_) | None => {
                word.text.push('$');
                Some(())
            }
        }
    }

    fn backticks(&mut self, word: &mut Word) -> Option<()> {
        let mut inner = String::new();
        loop {
            match self.next()? {
                '`' => break,
                '\\' => match self.next()? {
                    c @ ('`' | '\\' | '$') => inner.push(c),
                    c => inner.extend(['\\', c]),
                },
                c => inner.push(c),
            }
        }
        parse(&inner, self.found, self.depth + 1)?;
        word.text.push_str("$()");
        (word.certain, word.substituted) = (false, true);
        Some(())
    }

    /// `$(( … ))`, if that is what it is: `$((a) )` and `$((a b))` might run something.
    fn arithmetic(&mut self, word: &mut Word) -> Option<()> {
        self.at += 2;
        let begin = self.at;
        let mut depth = 2;
        while depth > 0 {
            match self.next()? {
                '(' => depth += 1,
                ')' => depth -= 1,
                c if c.is_ascii_alphanumeric() || " _+-*/%<>=!&|^~?:,\n".contains(c) => {}
                '$' if self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_') => {}
                _other => return None,
            }
        }
        let inner: String = self.text[begin..self.at].iter().collect();
        let inner = inner.strip_suffix("))")?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$';
        let two_names = inner
            .split(|c: char| !is_name(c) && !c.is_whitespace())
            .any(|part| part.split_whitespace().count() > 1);
        if two_names {
            return None;
        }
        word.text.push_str("$(())");
        word.certain = false;
        Some(())
    }

    /// A script in an argument.
    fn script(&mut self, word: &Word) -> Option<()> {
        if !word.certain && word.text.contains(['$', '<', '~']) {
            return None;
        }
        parse(&word.text, self.found, self.depth + 1)
    }

    /// Notes a command, and what it runs in its turn.
    fn push(&mut self, command: Command) -> Option<()> {
        if command.words.is_empty() {
            if !command.assigned.is_empty()
                || !command.writes.is_empty()
                || !command.reads.is_empty()
            {
                self.found.push(command);
            }
            return Some(());
        }
        let words = command.words.clone();
        let first = &words[0];
        if first.text.contains(['$', '`']) || first.substituted || !first.certain {
            // What a variable or a pattern runs is anybody's guess.
            return None;
        }
        let program = command.program().to_owned();
        let maybe = command.maybe;
        self.found.push(command);
        match program.as_str() {
            "alias" | "coproc" | "enable" => return (words.len() == 1).then_some(()),
            "eval" => {
                let joined: Vec<&str> = words[1..].iter().map(|word| word.text.as_str()).collect();
                let certain = words[1..].iter().all(|word| word.certain);
                let script = Word { text: joined.join(" "), certain, ..Word::default() };
                return if certain { self.script(&script) } else { None };
            }
            "trap" => {
                return match words.iter().skip(1).find(|word| !word.text.starts_with('-')) {
                    Some(script) => self.script(script),
                    None => Some(()),
                };
            }
            "find" | "fd" => return self.executed(&words),
            "git" => return self.run_by_git(&words),
            "env"
                if words
                    .iter()
                    .any(|w| w.text.starts_with("-S") || w.text.starts_with("--split")) =>
            {
                return None;
            }
            _other => {}
        }
        if SHELLS.contains(&program.as_str()) {
            let flag = |word: &&Word| {
                word.text.starts_with('-')
                    && !word.text.starts_with("--")
                    && word.text.contains('c')
            };
            let at = words.iter().skip(1).position(|word| flag(&word));
            return match at {
                Some(at) => {
                    let script =
                        words.iter().skip(at + 2).find(|w| !w.text.starts_with(['-', '+']))?;
                    self.script(script)
                }
                None => Some(()),
            };
        }
        let Some((_, with_value)) = WRAPPERS.iter().find(|(name, _)| *name == program) else {
            return Some(());
        };
        self.wrapped(&words, with_value, maybe)
    }

    /// What a program runs that runs its arguments.
    fn wrapped(&mut self, words: &[Word], with_value: &[&str], maybe: bool) -> Option<()> {
        let mut at = 1;
        let mut command = Command { maybe, ..Command::default() };
        while let Some(word) = words.get(at) {
            if with_value.contains(&word.text.as_str()) {
                at += 2;
            } else if is_assignment(word) {
                command.assigned.push(word.clone());
                at += 1;
            } else if word.text.starts_with('-')
                || word.text.starts_with(|c: char| c.is_ascii_digit())
            {
                at += 1;
            } else {
                break;
            }
        }
        // Should an option have been misread, the command stands behind it: what is forbidden is
        // looked for from each word on.
        for from in 1..words.len() {
            if from != at && !words[from].text.starts_with('-') && words[from].certain {
                let words = words[from..].to_vec();
                self.found.push(Command { words, maybe: true, ..Command::default() });
            }
        }
        command.words = words.get(at..).unwrap_or_default().to_vec();
        if command.words.is_empty() { Some(()) } else { self.push(command) }
    }

    /// `git rebase --exec …`, `git bisect run …`, `git submodule foreach …`.
    fn run_by_git(&mut self, words: &[Word]) -> Option<()> {
        let at = |text: &str| words.iter().position(|word| word.text == text);
        if at("rebase").is_some() {
            for (here, word) in words.iter().enumerate() {
                if matches!(word.text.as_str(), "-x" | "--exec") {
                    self.script(words.get(here + 1)?)?;
                } else if let Some(script) = word.text.strip_prefix("--exec=") {
                    self.script(&Word { text: script.to_owned(), ..word.clone() })?;
                }
            }
        }
        let run = at("bisect").and(at("run")).or(at("submodule").and(at("foreach")));
        let Some(run) = run else { return Some(()) };
        let rest: Vec<Word> = words[run + 1..]
            .iter()
            .skip_while(|word| word.text.starts_with('-'))
            .cloned()
            .collect();
        match rest.as_slice() {
            [] => Some(()),
            // One word is a script.
            [script] => self.script(script),
            _several => self.push(Command { words: rest, ..Command::default() }),
        }
    }

    /// The commands of `find -exec`.
    fn executed(&mut self, words: &[Word]) -> Option<()> {
        let mut rest = words;
        let starts = ["-exec", "-execdir", "-ok", "-okdir", "-x", "-X", "--exec", "--exec-batch"];
        while let Some(at) = rest.iter().position(|word| starts.contains(&word.text.as_str())) {
            rest = &rest[at + 1..];
            let end = rest.iter().position(|word| word.text == ";" || word.text == "+");
            let (command, after) = rest.split_at(end.unwrap_or(rest.len()));
            if !command.is_empty() {
                self.push(Command { words: command.to_vec(), ..Command::default() })?;
            }
            rest = after;
        }
        Some(())
    }
}

fn is_assignment(word: &Word) -> bool {
    word.text.split_once('=').is_some_and(|(name, _)| {
        let name = name.trim_end_matches('+');
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

/// Whether a shell would read its script from its input.
pub fn is_bare_shell(words: &[Word]) -> bool {
    let mut words = words.iter();
    // `env sh`, `sudo bash -s`: the last word of the call that is no option says it.
    let Some(first) = words.next() else { return false };
    let name = first.text.rsplit('/').next().unwrap_or_default();
    if WRAPPERS.iter().any(|(wrapper, _)| *wrapper == name) {
        let rest: Vec<Word> = words
            .skip_while(|word| !SHELLS.contains(&word.text.rsplit('/').next().unwrap_or_default()))
            .cloned()
            .collect();
        return !rest.is_empty() && is_bare_shell(&rest);
    }
    SHELLS.contains(&name)
        && (words.clone().all(|word| word.text.starts_with(['-', '+']))
            || words.any(|word| word.text == "-s" || word.text == "-" || word.text == "/dev/stdin"))
}
