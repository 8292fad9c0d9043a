//! The shell tool: a command in a session of its own, with a time limit and a bounded output.

use super::LocalTools;
use crate::agents::process::{AgentProcess, Ladder, Line, LineReader, Spawn, find_program, spawn};
use crate::config::Confinement;
use crate::llm::tools::ToolOutcome;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::ChildStdout;
use tokio_util::sync::CancellationToken;

/// How long a command may run unless it says otherwise.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(120);

/// How long a command may run at most.
const TIMEOUT_MAX: Duration = Duration::from_secs(1800);

/// How much of the beginning and of the end of the output is kept, each.
const OUTPUT_HALF: usize = 15_000;

/// How long output is waited for that something left behind may still write.
const AFTER_EXIT: Duration = Duration::from_millis(300);

/// The beginning and the end of a long text.
#[derive(Default)]
struct Output {
    head: String,
    tail: String,
    cut: usize,
}

impl Output {
    fn push(&mut self, line: &str) {
        if self.head.len() < OUTPUT_HALF {
            let room = OUTPUT_HALF.min(line.len());
            self.head.push_str(&line[..line.floor_char_boundary(room)]);
            self.head.push('\n');
            return;
        }
        self.tail.push_str(line);
        self.tail.push('\n');
        let excess = self.tail.len().saturating_sub(OUTPUT_HALF);
        if excess > 0 {
            let at = self.tail.ceil_char_boundary(excess);
            self.tail.drain(..at);
            self.cut += at;
        }
    }

    fn text(&self) -> String {
        match self.cut {
            0 => format!("{}{}", self.head, self.tail),
            cut => format!("{}\n[… {cut} bytes left out …]\n{}", self.head, self.tail),
        }
    }
}

/// Why a command ended.
enum End {
    Exited,
    TimedOut,
    Cancelled,
}

impl LocalTools {
    pub(super) async fn run_shell(
        &self,
        command: &str,
        timeout_s: Option<u64>,
        cancel: &CancellationToken,
    ) -> ToolOutcome {
        let timeout = timeout_s.map_or(TIMEOUT_DEFAULT, Duration::from_secs).min(TIMEOUT_MAX);
        let (program, args) = match self.confined(command) {
            Ok(call) => call,
            Err(why) => return ToolOutcome::error(why),
        };
        let spawned = spawn(&Spawn {
            program,
            args,
            cwd: self.worktree.clone(),
            env: self.env.clone(),
            marker: self.marker.clone(),
            stderr_log: self.stderr_log.clone(),
        });
        let (process, stdin, lines) = match spawned {
            Ok(spawned) => spawned,
            Err(error) => return ToolOutcome::error(format!("the shell did not start: {error}")),
        };
        // It reads nothing: a command that waits for input gets its end.
        drop(stdin);
        let mut output = Output::default();
        let end = watch(&process, lines, &mut output, timeout, cancel).await;
        let text = output.text();
        match end {
            End::Exited => {
                let report = process.report(vec![]);
                let how = match (report.code, report.signal) {
                    (Some(0), _) => return ToolOutcome::ok(with(&text, "exit code 0")),
                    (Some(code), _) => format!("exit code {code}"),
                    (None, signal) => format!("killed by signal {}", signal.unwrap_or(0)),
                };
                ToolOutcome::error(with(&text, &how))
            }
            End::TimedOut => {
                process.stop(Ladder::default()).await;
                let how = format!(
                    "killed: it ran longer than {} s. Give a larger timeout_s (at most 1800), or \
                     start what must stay with `&`",
                    timeout.as_secs()
                );
                ToolOutcome::error(with(&text, &how))
            }
            End::Cancelled => {
                process.stop(Ladder::default()).await;
                ToolOutcome::error(with(&text, "killed: the turn was interrupted"))
            }
        }
    }

    /// The command as it is run: by `sh`, inside what confines it.
    fn confined(&self, command: &str) -> Result<(PathBuf, Vec<String>), String> {
        let sh = find_program("sh").ok_or("there is no `sh` on the PATH")?;
        let script = format!("exec 2>&1\n{command}");
        let plain = vec!["-c".to_owned(), script];
        match self.confinement {
            Confinement::None => Ok((sh, plain)),
            Confinement::Bubblewrap => {
                let bwrap = find_program("bwrap").ok_or(
                    "the configuration wants bubblewrap, which is not installed; nothing was run",
                )?;
                let mut args = self.bubble();
                args.push(sh.display().to_string());
                args.extend(plain);
                Ok((bwrap, args))
            }
        }
    }

    /// Most is readable and nothing writable but the worktree, what git needs for a commit, and a
    /// fresh /tmp; our data and people's keys are not there. Hooks and configuration of git, which
    /// run outside of here, stay as they are.
    fn bubble(&self) -> Vec<String> {
        let mut args: Vec<String> = [
            "--ro-bind",
            "/",
            "/",
            "--dev",
            "/dev",
            "--unshare-pid",
            "--proc",
            "/proc",
            "--tmpfs",
            "/tmp",
            "--die-with-parent",
        ]
        .map(str::to_owned)
        .to_vec();
        let mut put = |how: &str, what: &Path, path: &Path| {
            args.extend([how.to_owned(), what.display().to_string(), path.display().to_string()]);
        };
        let dev_null = Path::new("/dev/null");
        let (mut folders, mut files) = (vec![], vec![]);
        for private in self.bounds.private.iter().filter(|path| path.exists()) {
            if private.is_dir() { &mut folders } else { &mut files }.push(private.clone());
        }
        for file in files {
            put("--ro-bind", dev_null, &file);
        }
        let mut binds: Vec<(&str, PathBuf)> = vec![];
        if let Some((own, common)) = git_dirs(&self.worktree) {
            binds.push(("--ro-bind", common.clone()));
            let parts = ["objects", "refs", "logs"].map(|part| common.join(part));
            binds.extend(
                parts.into_iter().filter(|part| part.exists()).map(|part| ("--bind", part)),
            );
            binds.push(("--bind", own));
        }
        binds.push(("--bind", self.worktree.clone()));
        args.extend(
            folders.iter().flat_map(|folder| ["--tmpfs".to_owned(), folder.display().to_string()]),
        );
        for (how, path) in binds {
            let path = path.display().to_string();
            args.extend([how.to_owned(), path.clone(), path]);
        }
        args.extend(["--chdir".to_owned(), self.worktree.display().to_string()]);
        args
    }
}

/// A worktree's own git directory and that of its repository, from its `.git` file.
fn git_dirs(worktree: &Path) -> Option<(PathBuf, PathBuf)> {
    let text = std::fs::read_to_string(worktree.join(".git")).ok()?;
    let own = PathBuf::from(text.strip_prefix("gitdir:")?.trim());
    let common = own.parent()?.parent()?.to_owned();
    Some((own, common))
}

fn with(output: &str, how: &str) -> String {
    let output = output.trim_end();
    if output.is_empty() { format!("({how})") } else { format!("{output}\n({how})") }
}

/// Reads until the command has ended. What it left running may hold its output open.
async fn watch(
    process: &AgentProcess,
    mut lines: LineReader<ChildStdout>,
    output: &mut Output,
    timeout: Duration,
    cancel: &CancellationToken,
) -> End {
    let deadline = tokio::time::Instant::now() + timeout;
    let mut exited_at = None;
    let mut open = true;
    loop {
        let grace = async {
            match exited_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => return End::Cancelled,
            line = lines.next(), if open => match line {
                Ok(Line::Text(line) | Line::Partial(line)) => output.push(&line),
                Ok(Line::End | Line::TooLong) | Err(_) => open = false,
            },
            _status = process.exited(), if exited_at.is_none() => {
                exited_at = Some(tokio::time::Instant::now() + AFTER_EXIT);
            }
            () = grace => return End::Exited,
            () = tokio::time::sleep_until(deadline) => return End::TimedOut,
        }
        if !open && process.has_exited() {
            return End::Exited;
        }
    }
}
