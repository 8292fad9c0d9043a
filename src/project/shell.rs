//! Runs one shell command of a project (a gate, a set-up command) and leaves nothing behind.
//!
//! **Forces.** These commands run code that agents wrote. They start helpers in sessions of their
//! own, which no signal to a process group reaches; they may print without end, hang, or outlive
//! the server that started them.
//!
//! **Properties.** The command gets a session of its own and an environment built from nothing,
//! with a marker in it. When it ends, is cancelled, runs out of time or its future is dropped, all
//! that carries the marker, its session, its group, or that descended from it is killed until a
//! look at `/proc` finds nothing left. Output is one stream in order; the last 64 KiB are kept,
//! redacted. A server that was killed leaves commands behind: [`sweep_orphans`], called at the next
//! start, finds them by the marker, which names the server's pid and start time, so that the
//! commands of a server that lives are never touched.
//!
//! **Known gap.** A process that leaves the session, drops the marker and whose parents are all
//! gone is not found. Containment by a container or sandbox is what closes it.

use crate::redact::redact;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

/// How much output is kept: the end of it.
pub const OUTPUT_TAIL: usize = 64 * 1024;

/// How long a command that must end may take to do so by itself, before it is killed.
const TERM_GRACE: Duration = Duration::from_secs(2);

/// How long killing what is left may take; a process that survives SIGKILL is stuck in the kernel.
const SWEEP_LIMIT: Duration = Duration::from_secs(3);

/// The pause between two looks of a sweep.
const SWEEP_PAUSE: Duration = Duration::from_millis(20);

/// How long what is still in the pipe may take to be read, after the command is gone.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// The variable that marks a command and all it starts.
const MARKER: &str = "MUSHER_SHELL";

/// Variables of the server's environment that a project's commands see.
const KEPT: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "GOPATH",
    "GOCACHE",
    "GOMODCACHE",
    "JAVA_HOME",
    "NVM_DIR",
    "PYENV_ROOT",
    "RBENV_ROOT",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// As [`KEPT`], but only where the value carries no credentials.
const KEPT_PROXIES: &[&str] = &[
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
];

/// A command to run.
#[derive(Debug, Clone)]
pub struct ShellCommand<'a> {
    /// What `sh -c` is given.
    pub command: &'a str,
    /// Where.
    pub cwd: &'a Path,
    /// How long it may run.
    pub limit: Duration,
    /// Variables beside the inherited ones.
    pub env: &'a [(String, String)],
    /// Ends it early.
    pub cancel: &'a CancellationToken,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this exit code.
    Exited(i32),
    /// By a signal that was not ours; the number, where it is known.
    Signalled(Option<i32>),
    /// It ran out of time and was killed.
    TimedOut,
    /// It was cancelled and killed.
    Cancelled,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// How it ended.
    pub end: End,
    /// The last [`OUTPUT_TAIL`] bytes of stdout and stderr, as they came, redacted.
    pub output: String,
    /// How long it ran.
    pub duration: Duration,
}

/// Runs a command to its end; see the module for what holds then.
pub async fn run(shell: ShellCommand<'_>) -> std::io::Result<Ran> {
    let began = Instant::now();
    let (reader, writer) = std::io::pipe()?;
    let marker = new_marker();
    let mut child = {
        let mut command = command(&shell, &marker);
        command.stdout(writer.try_clone()?).stderr(writer);
        command.spawn()?
        // Dropping the command closes our ends of the pipe's writing side.
    };
    let mut family = Family::of(&child, marker);
    let mut reader = pipe::Receiver::from_owned_fd(reader.into())?;
    let mut tail = Tail::default();
    let end = watch(&mut child, &mut reader, &mut tail, &shell).await?;
    if matches!(end, End::TimedOut | End::Cancelled) {
        family.ask_to_end();
        let _ = tokio::time::timeout(TERM_GRACE, child.wait()).await;
    }
    family.sweep().await;
    // Reaps it: it was killed by now, if it did not end by itself.
    let _ = tokio::time::timeout(SWEEP_LIMIT, child.wait()).await;
    family.0 = None;
    let _ = tokio::time::timeout(DRAIN_LIMIT, tail.fill(&mut reader)).await;
    Ok(Ran { end, output: tail.text(), duration: began.elapsed() })
}

fn new_marker() -> String {
    let own = format!("{}:{};", owner(), uuid::Uuid::new_v4().simple());
    // A musher that itself runs under a gate hands the outer marker on, so that the outer one's
    // sweep still finds everything.
    std::env::var(MARKER).unwrap_or_default() + own.as_str()
}

/// This process, as the marker names it.
fn owner() -> String {
    let pid = nix::unistd::getpid().as_raw();
    format!("{pid}-{}", stat_of(pid).map_or(0, |stat| stat.started))
}

fn command(shell: &ShellCommand<'_>, marker: &str) -> Command {
    // `setsid` becomes the command in the same process and makes it lead a session. Where there is
    // none (it is part of every Linux), a process group has to do.
    let has_setsid = on_path("setsid");
    let mut command = if has_setsid {
        let mut command = Command::new("setsid");
        command.arg("/bin/sh");
        command
    } else {
        let mut command = Command::new("/bin/sh");
        command.process_group(0);
        command
    };
    command.arg("-c").arg(shell.command).current_dir(shell.cwd).env_clear();
    for name in KEPT {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    for name in KEPT_PROXIES {
        if let Some(value) = std::env::var(name).ok().filter(|value| !value.contains('@')) {
            command.env(name, value);
        }
    }
    command
        .env("GIT_TERMINAL_PROMPT", "0")
        .envs(shell.env.iter().map(|(name, value)| (name, value)))
        .env(MARKER, marker)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// What the shell does itself: no program of these names has to be there.
const BUILT_IN: &[&str] = &[
    "!", ".", ":", "[", "alias", "break", "case", "cd", "command", "continue", "eval", "exec",
    "exit", "export", "false", "for", "if", "local", "printf", "echo", "pwd", "read", "readonly",
    "return", "set", "shift", "test", "times", "trap", "true", "type", "ulimit", "umask", "unset",
    "until", "wait", "while", "{",
];

/// The program with which a command begins, if it is one that the machine should have and has not.
///
/// A path such as `./check.sh` belongs to the project: that it is missing is the item's doing. What
/// else a command does is only seen when it runs.
pub fn missing_program(command: &str) -> Option<String> {
    let is_assignment = |word: &&str| word.contains('=') && !word.starts_with('=');
    let program = command.split_whitespace().find(|word| !is_assignment(word))?;
    let plain = program.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+".contains(c));
    let missing = plain && !BUILT_IN.contains(&program) && !on_path(program);
    missing.then(|| program.to_owned())
}

/// Whether a program is found on the PATH.
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

async fn watch(
    child: &mut Child,
    reader: &mut pipe::Receiver,
    tail: &mut Tail,
    shell: &ShellCommand<'_>,
) -> std::io::Result<End> {
    use std::os::unix::process::ExitStatusExt;
    let deadline = tokio::time::sleep(shell.limit);
    tokio::pin!(deadline);
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            () = shell.cancel.cancelled() => return Ok(End::Cancelled),
            status = child.wait() => {
                let status = status?;
                return Ok(match status.code() {
                    Some(code) => End::Exited(code),
                    None => End::Signalled(status.signal()),
                });
            }
            () = &mut deadline => return Ok(End::TimedOut),
            read = tail.read(reader), if open => open = read? > 0,
        }
    }
}

/// The end of an output.
#[derive(Default)]
struct Tail {
    kept: Vec<u8>,
    cut: bool,
}

impl Tail {
    /// Reads once; 0 is the end. Cancel-safe: a read that was not finished took nothing.
    async fn read(&mut self, reader: &mut pipe::Receiver) -> std::io::Result<usize> {
        let mut buffer = [0; 8192];
        let read = reader.read(&mut buffer).await?;
        self.kept.extend_from_slice(&buffer[..read]);
        if self.kept.len() > OUTPUT_TAIL * 2 {
            self.cut = true;
            self.kept.drain(..self.kept.len() - OUTPUT_TAIL);
        }
        Ok(read)
    }

    async fn fill(&mut self, reader: &mut pipe::Receiver) -> std::io::Result<()> {
        while self.read(reader).await? > 0 {}
        Ok(())
    }

    fn text(&self) -> String {
        let from = self.kept.len().saturating_sub(OUTPUT_TAIL);
        let text = redact(&String::from_utf8_lossy(&self.kept[from..]));
        if self.cut || from > 0 { format!("[…]\n{text}") } else { text }
    }
}

/// What `/proc/PID/stat` says of a process.
#[derive(Debug, Clone, Copy)]
struct Stat {
    parent: i32,
    group: i32,
    session: i32,
    started: u64,
    zombie: bool,
}

fn stat_of(pid: i32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses and may itself hold spaces and parentheses.
    let fields: Vec<&str> = text[text.rfind(')')? + 2..].split(' ').collect();
    Some(Stat {
        zombie: matches!(*fields.first()?, "Z" | "X"),
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

fn processes() -> HashMap<i32, Stat> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return HashMap::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| stat_of(pid).map(|stat| (pid, stat))).collect()
}

fn marker_of(pid: i32) -> Option<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    bytes.split(|&byte| byte == 0).find_map(|variable| {
        let text = String::from_utf8_lossy(variable);
        text.strip_prefix(MARKER)?.strip_prefix('=').map(str::to_owned)
    })
}

/// A command with all that it started. Dropped before the end, it is killed at once.
struct Family(Option<Members>);

struct Members {
    leader: i32,
    /// Tells the leader from a later process with its number.
    leader_started: Option<u64>,
    marker: String,
    /// Descendants seen so far, with their start times: they may lose their parents later.
    seen: HashSet<(i32, u64)>,
}

impl Family {
    fn of(child: &Child, marker: String) -> Self {
        let leader = child.id().and_then(|pid| i32::try_from(pid).ok());
        Self(leader.map(|leader| {
            // Not reaped yet, so the number is still its own.
            let leader_started = stat_of(leader).map(|stat| stat.started);
            Members { leader, leader_started, marker, seen: HashSet::new() }
        }))
    }

    fn ask_to_end(&mut self) {
        if let Some(members) = &mut self.0 {
            members.look();
            let _ = killpg(Pid::from_raw(members.leader), Signal::SIGTERM);
        }
    }

    /// Kills until two looks in a row find nothing.
    async fn sweep(&mut self) {
        let Some(members) = &mut self.0 else { return };
        let began = Instant::now();
        let mut quiet = 0;
        while quiet < 2 && began.elapsed() < SWEEP_LIMIT {
            quiet = if members.kill_all() == 0 { quiet + 1 } else { 0 };
            tokio::time::sleep(SWEEP_PAUSE).await;
        }
        if quiet < 2 {
            tracing::error!(leader = members.leader, "processes of a command survive SIGKILL");
        }
    }
}

impl Members {
    /// All that belongs to the command now.
    fn look(&mut self) -> Vec<i32> {
        let all = processes();
        let own = nix::unistd::getpid().as_raw();
        // Once the leader is reaped, its number may belong to a stranger.
        let stranger =
            all.get(&self.leader).is_some_and(|stat| Some(stat.started) != self.leader_started);
        let by_number = |pid: i32, stat: &Stat| {
            !stranger && [pid, stat.session, stat.group].contains(&self.leader)
        };
        let mut found: HashSet<i32> = all
            .iter()
            .filter(|(pid, stat)| {
                by_number(**pid, stat)
                    || self.seen.contains(&(**pid, stat.started))
                    || marker_of(**pid).is_some_and(|marker| marker.contains(&self.marker))
            })
            .map(|(pid, _)| *pid)
            .collect();
        loop {
            let more: Vec<i32> = all
                .iter()
                .filter(|(pid, stat)| !found.contains(pid) && found.contains(&stat.parent))
                .map(|(pid, _)| *pid)
                .collect();
            if more.is_empty() {
                break;
            }
            found.extend(more);
        }
        found.remove(&own);
        self.seen.extend(found.iter().map(|pid| (*pid, all[pid].started)));
        found.into_iter().filter(|pid| !all[pid].zombie).collect()
    }

    /// Sends SIGKILL to all that is left, and says how many that were.
    fn kill_all(&mut self) -> usize {
        let left = self.look();
        for pid in &left {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        left.len()
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        if let Some(members) = &mut self.0 {
            // Twice: what was started between the first look and the kill.
            if members.kill_all() > 0 {
                members.kill_all();
            }
        }
    }
}

/// Kills the commands of servers that are gone; says how many processes that were.
///
/// Safe to repeat, and safe beside other servers: only what is marked by a process that no longer
/// lives is touched.
pub fn sweep_orphans() -> usize {
    let mut killed = 0;
    for pid in processes().into_keys() {
        let Some(marker) = marker_of(pid) else { continue };
        // The innermost owner counts: it started the process.
        let last = marker.trim_end_matches(';').rsplit(';').next().unwrap_or_default();
        let Some((owner, _)) = last.split_once(':') else { continue };
        let Some((owner_pid, started)) = owner.split_once('-') else { continue };
        let (Ok(owner_pid), Ok(started)) = (owner_pid.parse::<i32>(), started.parse::<u64>())
        else {
            continue;
        };
        let lives = stat_of(owner_pid).is_some_and(|stat| stat.started == started && !stat.zombie);
        if !lives && kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok() {
            killed += 1;
        }
    }
    killed
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sh(command: &str, limit: Duration) -> Ran {
        let cancel = CancellationToken::new();
        let cwd = std::env::temp_dir();
        run(ShellCommand { command, cwd: &cwd, limit, env: &[], cancel: &cancel }).await.unwrap()
    }

    fn alive(pid: i32) -> bool {
        stat_of(pid).is_some_and(|stat| !stat.zombie)
    }

    #[tokio::test]
    async fn output_is_one_stream_in_order_and_its_end_is_kept() {
        let ran = sh("echo one; echo two >&2; exit 3", Duration::from_secs(20)).await;
        assert_eq!((ran.end, ran.output.as_str()), (End::Exited(3), "one\ntwo\n"));
        let ran =
            sh("head -c 400000 /dev/zero | tr '\\0' x; echo end", Duration::from_secs(20)).await;
        assert!(ran.output.len() < OUTPUT_TAIL + 20 && ran.output.ends_with("xend\n"));
    }

    #[tokio::test]
    async fn the_environment_is_built_from_nothing() {
        let ran = sh("env | cut -d= -f1 | sort", Duration::from_secs(20)).await;
        assert!(!ran.output.contains("CARGO_PKG_NAME"), "{}", ran.output);
        assert!(ran.output.contains("MUSHER_SHELL"), "{}", ran.output);
    }

    #[tokio::test]
    async fn a_child_in_a_session_of_its_own_is_gone_after_the_time_limit() {
        let ran = sh(
            "setsid sleep 300 & echo $!; env -i setsid sleep 301 & echo $!; \
             trap '' TERM; sleep 302 & wait; wait",
            Duration::from_millis(500),
        )
        .await;
        assert_eq!(ran.end, End::TimedOut);
        let pids: Vec<i32> = ran.output.lines().filter_map(|line| line.parse().ok()).collect();
        assert_eq!(pids.len(), 2, "{}", ran.output);
        assert!(pids.iter().all(|pid| !alive(*pid)), "{pids:?}");
    }

    #[tokio::test]
    async fn what_a_command_leaves_running_is_gone_when_it_ends_or_is_dropped() {
        let ran = sh("setsid sleep 303 >/dev/null 2>&1 & echo $!", Duration::from_secs(20)).await;
        assert_eq!(ran.end, End::Exited(0));
        assert!(!alive(ran.output.trim().parse().unwrap()));

        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let command = format!("setsid sleep 304 & echo $! >{}; wait", file.display());
        let dropped = tokio::spawn(async move { sh(&command, Duration::from_secs(60)).await });
        let pid = loop {
            if let Ok(pid) = std::fs::read_to_string(&file).unwrap_or_default().trim().parse() {
                break pid;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        dropped.abort();
        assert!(dropped.await.is_err());
        // Killed at once; the kernel may take a moment to end it.
        let gone = async {
            while alive(pid) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();
    }

    #[tokio::test]
    async fn commands_of_a_dead_server_are_swept_and_those_of_a_live_one_are_not() {
        let spawn = |marker: String| {
            let mut command = Command::new("sleep");
            command.arg("305").env(MARKER, marker).kill_on_drop(true).spawn().unwrap()
        };
        let pid = nix::unistd::getpid().as_raw();
        // A pid with another start time is a stranger that has the number now.
        let mut of_dead = spawn(format!("{pid}-1:x;"));
        let mut of_live = spawn(format!("{pid}-1:x;{}:y;", owner()));
        // Until the new program runs, its environment is still ours.
        for child in [&of_dead, &of_live] {
            let pid = i32::try_from(child.id().unwrap()).unwrap();
            while marker_of(pid).is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        assert!(sweep_orphans() >= 1);
        let ended = tokio::time::timeout(Duration::from_secs(10), of_dead.wait()).await;
        assert!(!ended.unwrap().unwrap().success());
        assert!(of_live.try_wait().unwrap().is_none());
    }
}
