//! What no rule and nobody can allow: decided on the parsed line, the same for every runtime. Pure
//! but for looking where paths lead.
//!
//! These are rails for a model that means well, not walls against one that does not: what a program
//! does once it runs is for the confinement. So a path that only a variable holds is let pass, and
//! every command that can be seen is looked at, also where it is only perhaps one.

use super::line::{Command, SHELLS, Word, is_bare_shell};
use super::resolve;
use std::path::{Component, Path, PathBuf};

/// What an agent must keep its hands off, and what is its own.
#[derive(Debug, Clone, Default)]
pub struct Bounds {
    /// Nothing in these is read or written: our data, keys of the person.
    pub private: Vec<PathBuf>,
    /// Of those, what belongs to the agent all the same.
    pub own: Vec<PathBuf>,
    /// What `~` and `$HOME` are.
    pub home: Option<PathBuf>,
}

/// In a home directory: what lets somebody in somewhere.
const KEYS: &[&str] = &[
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".kube",
    ".netrc",
    ".pypirc",
    ".git-credentials",
    ".config/gh",
    ".config/git/credentials",
    ".config/gcloud",
    ".docker/config.json",
    ".cargo/credentials.toml",
    ".claude/.credentials.json",
    ".codex/auth.json",
    ".local/share/keyrings",
    ".password-store",
];

impl Bounds {
    /// The usual bounds: our data directory, keys in `home`, and the machine's.
    pub fn new(data_dir: &Path, home: Option<PathBuf>, own: Vec<PathBuf>) -> Self {
        let mut private = vec![data_dir.to_owned(), PathBuf::from("/etc/shadow")];
        private.extend(home.iter().flat_map(|home| KEYS.iter().map(|key| home.join(key))));
        Self { private, own, home }
    }

    /// Whether a path lies in what is private.
    pub fn is_private(&self, path: &Path) -> bool {
        let within = |all: &[PathBuf]| {
            all.iter().any(|one| path.starts_with(one) || path.starts_with(super::canonical(one)))
        };
        is_environment(path) || within(&self.private) && !within(&self.own)
    }

    /// Whether something private lies below a path.
    pub fn holds_private(&self, path: &Path) -> bool {
        let below = |one: &PathBuf| {
            one != path && (one.starts_with(path) || super::canonical(one).starts_with(path))
        };
        self.private.iter().any(below) && !self.own.iter().any(|own| path.starts_with(own))
    }
}

/// `/proc/PID/environ` and the like: what other processes know.
fn is_environment(path: &Path) -> bool {
    let mut parts = path.components().skip(1);
    let proc = parts.next() == Some(Component::Normal("proc".as_ref()));
    proc && parts.any(|part| {
        [Component::Normal("environ".as_ref()), Component::Normal("mem".as_ref())].contains(&part)
    })
}

/// Places outside of the worktree that anybody writes to.
pub fn is_scratch(path: &Path) -> bool {
    ["/tmp", "/var/tmp", "/dev/null", "/dev/stdout", "/dev/stderr", "/dev/tty", "/dev/fd"]
        .iter()
        .any(|scratch| path.starts_with(scratch))
}

/// Programs that give other rights, or reach beyond the agent's processes and worktree.
const FORBIDDEN: &[(&[&str], &str)] = &[
    (&["sudo", "su", "doas", "pkexec", "runuser"], "agents get no other rights"),
    (
        &["pkill", "killall", "killall5", "skill", "slay"],
        "it ends processes by their names, which may be somebody else's: end what you started with \
         `kill %1` or `kill $!`",
    ),
    (
        &["systemctl", "service", "systemd-run", "crontab", "at", "batch"],
        "what it starts outlives you: run it as a child of yours",
    ),
    (
        &["shutdown", "reboot", "halt", "poweroff", "init", "telinit"],
        "the machine is not yours to stop",
    ),
    (
        &["mount", "umount", "fdisk", "parted", "insmod", "modprobe", "rmmod", "nsenter", "chroot"],
        "the machine is not yours to change",
    ),
    (
        &["iptables", "nft", "ufw", "useradd", "usermod", "userdel", "passwd", "visudo"],
        "the machine is not yours to change",
    ),
];

/// Programs of which each argument is a file that they change.
const CHANGE_ALL: &[&str] = &[
    "rm", "rmdir", "unlink", "shred", "truncate", "touch", "mkdir", "chmod", "chown", "chgrp",
    "tee", "mkfifo", "mknod", "mv",
];

/// Programs of which the last argument is what they make.
const CHANGE_LAST: &[&str] = &["cp", "ln", "install", "rsync", "scp"];

/// Programs that read all that lies below their arguments.
const READ_BELOW: &[&str] = &["tar", "zip", "rsync", "rg", "ag", "ack", "7z", "cpio"];

/// Programs that fetch what others have written.
const DOWNLOADERS: &[&str] = &["curl", "wget", "fetch", "aria2c", "http", "https", "nc", "ncat"];

/// Interpreters, which run their input when they are given nothing else.
const INTERPRETERS: &[&str] = &["python", "python3", "perl", "ruby", "node", "php", "lua"];

/// Where the guards stand while they walk a line.
pub struct Guard<'a> {
    pub worktree: &'a Path,
    pub bounds: &'a Bounds,
    /// Where relative paths begin; `None`: that is not known.
    cwd: Option<PathBuf>,
}

impl<'a> Guard<'a> {
    pub fn new(worktree: &'a Path, bounds: &'a Bounds) -> Self {
        Self { worktree, bounds, cwd: Some(super::canonical(worktree)) }
    }

    /// Why none of this may run, if so.
    pub fn forbids(mut self, commands: &[Command]) -> Option<String> {
        if let Some(why) = runs_downloads(commands) {
            return Some(why);
        }
        for command in commands {
            if let Some(why) = self.one(command) {
                let text: String = command.text().chars().take(200).collect();
                return Some(format!("`{text}` is not allowed to any agent: {why}"));
            }
        }
        None
    }

    fn one(&mut self, command: &Command) -> Option<String> {
        let program = command.program();
        if let Some((_, why)) = FORBIDDEN.iter().find(|(names, _)| names.contains(&program)) {
            return Some((*why).to_owned());
        }
        if program.starts_with("mkfs") {
            return Some("the machine is not yours to change".to_owned());
        }
        let args = command.words.get(1..).unwrap_or_default();
        self.private(program, command)
            .or_else(|| marker(program, command, args))
            .or_else(|| kills(program, args))
            .or_else(|| self.git(program, args))
            .or_else(|| self.writes(program, command, args))
            .or_else(|| {
                self.change_directory(program, command, args);
                None
            })
    }

    fn change_directory(&mut self, program: &str, command: &Command, args: &[Word]) {
        if command.maybe || !matches!(program, "cd" | "pushd" | "popd") {
            return;
        }
        let target = args.iter().find(|word| !word.text.starts_with('-'));
        self.cwd = match target {
            Some(word) => self.path(word),
            None => self.bounds.home.clone().filter(|_| program == "cd"),
        };
    }

    /// Where a word leads, if it is a path that can be known.
    fn path(&self, word: &Word) -> Option<PathBuf> {
        let text = self.expanded(&word.text);
        if text.contains(['$', '`']) || text.starts_with('~') || text.starts_with("<(") {
            return None;
        }
        if Path::new(&text).is_absolute() {
            return Some(resolve(Path::new("/"), &text));
        }
        let cwd = self.cwd.as_ref()?;
        Some(resolve(cwd, &text))
    }

    /// What is known of a word's expansion: the home directory.
    fn expanded(&self, text: &str) -> String {
        let Some(home) = self.bounds.home.as_ref().map(|home| home.display().to_string()) else {
            return text.to_owned();
        };
        for begin in ["${HOME}", "$HOME", "~"] {
            if let Some(rest) = text.strip_prefix(begin)
                && (rest.is_empty() || rest.starts_with('/'))
            {
                return format!("{home}{rest}");
            }
        }
        text.to_owned()
    }

    /// Reading or naming what is private.
    fn private(&self, program: &str, command: &Command) -> Option<String> {
        let why = || Some("it touches keys or Musher's own data".to_owned());
        let all = command.words.iter().chain(&command.assigned);
        for word in all.chain(&command.reads).chain(&command.writes) {
            for candidate in candidates(&word.text) {
                let candidate = Word { text: candidate.to_owned(), ..word.clone() };
                if candidate.text.starts_with("$MUSHER_DATA_DIR")
                    || candidate.text.starts_with("${MUSHER_DATA_DIR")
                {
                    return why();
                }
                let Some(path) = self.path(&candidate) else { continue };
                if self.bounds.is_private(&path) || self.fits_private(&path) {
                    return why();
                }
                let flags = command.words.iter().any(|word| is_recursive(&word.text));
                let below = READ_BELOW.contains(&program)
                    || matches!(program, "grep" | "cp" | "scp" | "cat") && flags;
                if below && candidate.text != *program && self.bounds.holds_private(&path) {
                    return Some("keys or Musher's own data lie below it".to_owned());
                }
            }
        }
        None
    }

    /// Whether a pattern such as `/root/.s*/*` fits something private.
    fn fits_private(&self, pattern: &Path) -> bool {
        if !pattern.to_string_lossy().contains(['*', '?', '[', '{']) {
            return false;
        }
        let pattern: Vec<String> = parts(pattern);
        let own = |all: &[PathBuf]| {
            all.iter().any(|one| {
                let one = parts(one);
                pattern.len() >= one.len()
                    && one.iter().zip(&pattern).all(|(part, own)| own == part)
            })
        };
        !own(&self.bounds.own)
            && self.bounds.private.iter().any(|private| {
                let private = parts(private);
                pattern.len() >= private.len()
                    && private.iter().zip(&pattern).all(|(part, pattern)| wild(pattern, part))
            })
    }

    /// Writing outside of the worktree, or into git's own files.
    fn writes(&self, program: &str, command: &Command, args: &[Word]) -> Option<String> {
        let mut targets: Vec<&Word> = command.writes.iter().collect();
        let plain = || args.iter().filter(|word| !word.text.starts_with('-') || word.text == "-");
        let removes = program == "rm" && args.iter().any(|word| is_recursive(&word.text));
        if CHANGE_ALL.contains(&program) {
            targets.extend(plain());
        } else if CHANGE_LAST.contains(&program) {
            targets.extend(plain().next_back());
        }
        let in_place =
            |word: &Word| word.text.starts_with("-i") || word.text.starts_with("--in-place");
        if matches!(program, "sed" | "perl") && args.iter().any(in_place) {
            targets.extend(plain().skip(1));
        }
        if program == "find" && args.iter().any(|word| word.text == "-delete") {
            targets.extend(args.iter().take_while(|word| !word.text.starts_with('-')));
        }
        let given: Vec<Word> = named_targets(program, args);
        targets.extend(&given);
        for target in targets {
            let text = self.expanded(&target.text);
            if removes && text.starts_with('$') && text.contains('/') {
                return Some(
                    "should the variable be empty, it removes far more: write the path out"
                        .to_owned(),
                );
            }
            let Some(path) = self.path(target) else { continue };
            let worktree = super::canonical(self.worktree);
            if path == worktree.join(".git") || path.starts_with(worktree.join(".git")) {
                return Some("git's own files are not changed by hand".to_owned());
            }
            if removes && worktree.starts_with(&path) {
                return Some("it removes your worktree".to_owned());
            }
            if !path.starts_with(&worktree) && !is_scratch(&path) {
                return Some(format!("{} is outside of your worktree", path.display()));
            }
        }
        None
    }

    /// What git does beyond the worktree and its branch.
    fn git(&self, program: &str, args: &[Word]) -> Option<String> {
        if program != "git" {
            return None;
        }
        let mut at = 0;
        while let Some(word) = args.get(at).map(|word| word.text.as_str()) {
            let (name, given) = match word.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
                Some(_) | None => (word, None),
            };
            match name {
                "-c" => {
                    let setting =
                        args.get(at + 1).map(|word| word.text.as_str()).unwrap_or_default();
                    if !is_harmless(setting) {
                        return Some(
                            "that setting can run programs or reach other places".to_owned(),
                        );
                    }
                    at += 2;
                }
                "-C" | "--git-dir" | "--work-tree" | "--namespace" => {
                    let text = given.clone().or_else(|| Some(args.get(at + 1)?.text.clone()))?;
                    let word = Word { text, ..Word::default() };
                    let inside = |path: &PathBuf| {
                        path.starts_with(super::canonical(self.worktree)) || is_scratch(path)
                    };
                    if self.path(&word).is_some_and(|path| !inside(&path)) {
                        return Some("it works outside of your worktree".to_owned());
                    }
                    at += if given.is_some() { 1 } else { 2 };
                }
                "--exec-path" if given.is_some() => {
                    return Some("it runs other programs".to_owned());
                }
                "--config-env" => return Some("that setting may reach other places".to_owned()),
                flag if flag.starts_with('-') => at += 1,
                _verb => break,
            }
        }
        let verb = args.get(at)?.text.as_str();
        let rest: Vec<&str> = args[at + 1..].iter().map(|word| word.text.as_str()).collect();
        verb_forbidden(verb, &rest)
    }
}

/// Settings of `git -c` that only change how things look, or who commits.
fn is_harmless(setting: &str) -> bool {
    let name = setting.split('=').next().unwrap_or_default().to_lowercase();
    ["user.", "color.", "advice.", "author.", "committer.", "column.", "diff.algorithm"]
        .iter()
        .any(|begin| name.starts_with(begin))
        || [
            "core.quotepath",
            "core.autocrlf",
            "core.filemode",
            "commit.gpgsign",
            "tag.gpgsign",
            "init.defaultbranch",
            "merge.conflictstyle",
            "diff.renames",
            "core.abbrev",
            "rebase.autosquash",
            "core.commentchar",
            "diff.noprefix",
            "pull.rebase",
        ]
        .contains(&name.as_str())
}

fn verb_forbidden(verb: &str, rest: &[&str]) -> Option<String> {
    let has = |flags: &[&str]| rest.iter().any(|word| flags.contains(word));
    let short = |letters: &str| {
        rest.iter().any(|word| {
            word.starts_with('-')
                && !word.starts_with("--")
                && word.contains(|c| letters.contains(c))
        })
    };
    let first = rest.iter().find(|word| !word.starts_with('-')).copied().unwrap_or_default();
    let why = match verb {
        "push" | "send-pack" | "send-email" | "svn" | "p4" => "Musher pushes what was merged",
        "worktree" if first != "list" && !first.is_empty() => {
            "worktrees are Musher's to make and to remove"
        }
        "remote" if !matches!(first, "" | "show" | "get-url" | "-v") => {
            "remotes are not yours to change"
        }
        "config" if !reads_config(rest) => {
            "the repository's configuration is shared: use `git -c user.name=…` for one command"
        }
        "branch" if short("dDmMcCf") || has(&["--delete", "--move", "--copy", "--force"]) => {
            "other branches are other people's work"
        }
        "tag" if short("df") || has(&["--delete", "--force"]) => "tags are shared",
        "update-ref" | "filter-branch" | "filter-repo" | "replace" | "fast-import" => {
            "it rewrites what others have"
        }
        "symbolic-ref" if rest.iter().filter(|word| !word.starts_with('-')).count() > 1 => {
            "it rewrites what others have"
        }
        "gc" | "prune" | "maintenance" | "repack" => {
            "the repository is shared, and so is its cleaning"
        }
        "reflog" if matches!(first, "expire" | "delete") => "it throws away what others may need",
        "hook" | "daemon" | "instaweb" | "http-backend" | "shell" => "it runs programs for others",
        "credential" | "credential-store" | "credential-cache" => "keys are not for agents",
        "checkout" | "switch" if has(&["--ignore-other-worktrees"]) => {
            "a branch is checked out once"
        }
        _other => return None,
    };
    Some(why.to_owned())
}

fn reads_config(rest: &[&str]) -> bool {
    let reading =
        ["--get", "--get-all", "--get-regexp", "--list", "-l", "--get-urlmatch", "get", "list"];
    let writing = [
        "--unset",
        "--unset-all",
        "--add",
        "--replace-all",
        "--rename-section",
        "--remove-section",
        "-e",
        "--edit",
        "set",
        "unset",
        "edit",
    ];
    if rest.iter().any(|word| writing.contains(word)) {
        return false;
    }
    rest.iter().any(|word| reading.contains(word))
        || rest.iter().filter(|word| !word.starts_with('-')).count() == 1
}

/// Taking off the mark by which the agent's processes are known, or somebody else's name on.
fn marker(program: &str, command: &Command, args: &[Word]) -> Option<String> {
    let why = || Some("by these variables Musher knows your processes".to_owned());
    let ours = |text: &str| text.starts_with("MUSHER_");
    if command.assigned.iter().any(|word| ours(&word.text)) {
        return why();
    }
    let named = args.iter().any(|word| ours(&word.text) || word.text.starts_with("-uMUSHER_"));
    match program {
        "export" | "unset" | "declare" | "typeset" | "readonly" if named => why(),
        "env" if named => why(),
        "env"
            if args
                .iter()
                .any(|word| matches!(word.text.as_str(), "-" | "-i" | "--ignore-environment")) =>
        {
            why()
        }
        _other => None,
    }
}

fn kills(program: &str, args: &[Word]) -> Option<String> {
    if program == "fuser" {
        let kills = args.iter().any(|word| word.text.starts_with('-') && word.text.contains('k'));
        return kills.then(|| "it ends processes that may be somebody else's".to_owned());
    }
    if program != "kill" {
        return None;
    }
    let mut words = args.iter().map(|word| word.text.as_str()).peekable();
    match words.peek() {
        Some(&("-s" | "-n")) => {
            words.nth(1);
        }
        Some(&("-l" | "-L")) => return None,
        Some(flag) if flag.starts_with('-') => {
            words.next();
        }
        Some(_) | None => {}
    }
    let number = |word: &str| {
        let digits = word.trim_start_matches('-');
        !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit())
    };
    words.any(number).then(|| {
        "the process may be somebody else's: end what you started with `kill %1` or `kill $!`"
            .to_owned()
    })
}

/// `curl … | sh` and its like: running what a stranger wrote, unseen.
fn runs_downloads(commands: &[Command]) -> Option<String> {
    let downloads = commands.iter().any(|command| DOWNLOADERS.contains(&command.program()));
    if !downloads {
        return None;
    }
    let runs = |command: &Command| {
        let (program, args) = (command.program(), command.words.get(1..).unwrap_or_default());
        let runner = SHELLS.contains(&program)
            || INTERPRETERS.contains(&program)
            || matches!(program, "source" | "." | "eval");
        is_bare_shell(&command.words) && command.reads.is_empty()
            || INTERPRETERS.contains(&program) && args.iter().all(|word| word.text == "-")
            || runner && args.iter().any(|word| word.substituted)
    };
    commands.iter().any(runs).then(|| {
        "what comes from the network is not run unseen: fetch it into a file, and read that first".to_owned()
    })
}

fn is_recursive(word: &str) -> bool {
    word == "--recursive"
        || word.starts_with('-') && !word.starts_with("--") && word.contains(['r', 'R', 'a'])
}

/// The parts of a word that may be paths: all of it, what stands behind `=`, `@` or `:`, and what an
/// option has glued to it.
fn candidates(text: &str) -> Vec<&str> {
    let mut found = vec![text];
    for (at, sign) in text.match_indices(['=', '@', ':', ',']) {
        found.push(&text[at + sign.len()..]);
    }
    if text.starts_with('-')
        && let Some(at) = text.find(['/', '~', '$'])
    {
        found.push(&text[at..]);
    }
    found
}

/// Targets that are named by an option.
fn named_targets(program: &str, args: &[Word]) -> Vec<Word> {
    let flags: &[&str] = match program {
        "tar" => &["-C", "--directory"],
        "unzip" => &["-d"],
        "curl" => &["-o", "--output", "--output-dir"],
        "wget" => &["-O", "--output-document", "-P"],
        "cp" | "mv" | "ln" | "install" => &["-t", "--target-directory"],
        "sort" => &["-o", "--output"],
        "dd" => &["of"],
        _other => &[],
    };
    let mut found = vec![];
    for (at, word) in args.iter().enumerate() {
        for flag in flags {
            if word.text == *flag {
                found.extend(args.get(at + 1).cloned());
            } else if let Some(value) = word.text.strip_prefix(&format!("{flag}=")) {
                found.push(Word { text: value.to_owned(), ..word.clone() });
            }
        }
    }
    found
}

fn parts(path: &Path) -> Vec<String> {
    let normal = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => {
            None
        }
    };
    path.components().filter_map(normal).collect()
}

/// Whether a part of a pattern may stand for `name`.
fn wild(pattern: &str, name: &str) -> bool {
    if pattern.contains(['[', '{']) {
        return true;
    }
    super::glob(&pattern.replace('?', "*"), name)
}
