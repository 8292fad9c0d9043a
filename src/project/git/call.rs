//! One call of git: its environment, its limits, its end.

use super::{Git, OUTPUT_MAX, QUERY_TIMEOUT};
use crate::redact::redact;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// How much of git's stderr is kept: its end says what went wrong.
const STDERR_TAIL: usize = 4096;

/// Variables of the server's environment that git sees: where it and its helpers are, whose
/// configuration counts, and how the network is reached.
const KEPT: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TMPDIR",
    "XDG_CONFIG_HOME",
    "SSH_AUTH_SOCK",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_SSH_COMMAND",
    "GIT_SSL_CAINFO",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
];

/// Settings that hold for every call, whatever the repository's own configuration says.
const SETTINGS: &[&str] = &[
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "core.quotePath=false",
    "advice.detachedHead=false",
];

/// Why a call of git failed.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// There is no git.
    #[error("git is not installed, or not on the PATH: install git 2.38 or newer")]
    NotInstalled,
    /// The directory is missing.
    #[error("the directory {} does not exist", .0.display())]
    NoDirectory(PathBuf),
    /// The directory holds no repository.
    #[error("{} is not the top directory of a git repository", .0.display())]
    NotARepository(PathBuf),
    /// Git took too long and was killed.
    #[error("`git {what}` took longer than {} s and was stopped", after.as_secs())]
    Timeout {
        /// The subcommand.
        what: String,
        /// The limit.
        after: Duration,
    },
    /// Git said no.
    #[error("`git {what}` failed{}: {stderr}", code.map_or_else(String::new, |code| format!(" (exit {code})")))]
    Failed {
        /// The subcommand.
        what: String,
        /// Its exit code; `None` when a signal ended it.
        code: Option<i32>,
        /// The end of its stderr, redacted.
        stderr: String,
    },
    /// Git answered something that it never should.
    #[error("`git {what}` answered something unexpected: {answer}")]
    Unexpected {
        /// The subcommand.
        what: String,
        /// The beginning of its answer.
        answer: String,
    },
    /// The machine failed: no process, no pipe, no file.
    #[error("cannot run `git {what}`: {source}")]
    Io {
        /// The subcommand.
        what: String,
        /// Why.
        source: std::io::Error,
    },
}

/// A call being put together.
pub(super) struct Call {
    dir: PathBuf,
    what: String,
    args: Vec<OsString>,
    env: Vec<(&'static str, OsString)>,
    stdin: Option<Vec<u8>>,
    limit: Duration,
    cap: usize,
}

/// How a call ended.
pub(super) struct Finished {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it wrote, up to the cap.
    pub stdout: Vec<u8>,
    /// Whether it wrote more than that.
    pub truncated: bool,
    /// The end of what it complained.
    pub stderr: String,
}

impl Git {
    /// Begins a call of the subcommand `what`.
    pub(super) fn call(&self, what: &str) -> Call {
        Call {
            dir: self.dir.clone(),
            what: what.to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            stdin: None,
            limit: QUERY_TIMEOUT,
            cap: OUTPUT_MAX,
        }
    }
}

impl Call {
    pub(super) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub(super) fn args<const N: usize>(mut self, args: [&str; N]) -> Self {
        self.args.extend(args.iter().map(OsString::from));
        self
    }

    pub(super) fn env(mut self, name: &'static str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name, value.as_ref().to_owned()));
        self
    }

    pub(super) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    pub(super) fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Reads at most `cap` bytes of the answer and drops the rest.
    pub(super) fn cap(mut self, cap: usize) -> Self {
        self.cap = cap;
        self
    }

    /// Runs to the end, whatever the exit code.
    pub(super) async fn finish(self) -> Result<Finished, GitError> {
        self.finish_with(&mut |_line| {}).await
    }

    /// Runs to the end and hands on what git says on stderr, piece by piece.
    pub(super) async fn finish_with(
        mut self,
        on_stderr: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Finished, GitError> {
        if !self.dir.is_dir() {
            return Err(GitError::NoDirectory(self.dir));
        }
        let mut child = self.command().spawn().map_err(|source| {
            if source.kind() == std::io::ErrorKind::NotFound {
                GitError::NotInstalled
            } else {
                GitError::Io { what: self.what.clone(), source }
            }
        })?;
        let mut guard = Group::of(&child);
        let stdin = self.stdin.take();
        let ended = tokio::time::timeout(self.limit, work(&mut child, stdin, self.cap, on_stderr));
        match ended.await {
            Ok(Ok(finished)) => {
                guard.disarm();
                Ok(finished)
            }
            Ok(Err(source)) => Err(GitError::Io { what: self.what, source }),
            Err(_elapsed) => Err(GitError::Timeout { what: self.what, after: self.limit }),
        }
    }

    /// Runs to the end; any exit code but 0 is an error. Returns stdout as it is.
    pub(super) async fn bytes(self) -> Result<Vec<u8>, GitError> {
        let (what, dir) = (self.what.clone(), self.dir.clone());
        let finished = self.finish().await?;
        if finished.code != Some(0) {
            return Err(finished.failure(&what, &dir));
        }
        if finished.truncated {
            let answer = "more than 32 MiB".to_owned();
            return Err(GitError::Unexpected { what, answer });
        }
        Ok(finished.stdout)
    }

    /// As [`Call::bytes`], as text without the final line break.
    pub(super) async fn text(self) -> Result<String, GitError> {
        let bytes = self.bytes().await?;
        Ok(String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned())
    }

    fn command(&self) -> Command {
        let mut command = Command::new("git");
        for setting in SETTINGS {
            command.arg("-c").arg(setting);
        }
        command.arg(&self.what).args(&self.args).current_dir(&self.dir).env_clear();
        for name in KEPT {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        // Never looks for a repository above the given directory.
        if let Some(parent) = self.dir.canonicalize().unwrap_or_default().parent() {
            command.env("GIT_CEILING_DIRECTORIES", parent);
        }
        if std::env::var_os("GIT_SSH_COMMAND").is_none() {
            command.env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes");
        }
        command
            .env("LC_ALL", "C.UTF-8")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_PAGER", "cat")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command
    }
}

impl Finished {
    /// The error that a failing exit code stands for.
    pub(super) fn failure(self, what: &str, dir: &Path) -> GitError {
        if self.stderr.contains("not a git repository") {
            return GitError::NotARepository(dir.to_owned());
        }
        GitError::Failed { what: what.to_owned(), code: self.code, stderr: self.stderr }
    }
}

async fn work(
    child: &mut Child,
    stdin: Option<Vec<u8>>,
    cap: usize,
    on_stderr: &mut (dyn FnMut(&str) + Send),
) -> std::io::Result<Finished> {
    let (to, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let (Some(mut to), Some(bytes)) = (to, stdin) {
            // Git may end without reading it all; its exit code tells.
            let _ = to.write_all(&bytes).await;
        }
    };
    let (status, (), out, err) =
        tokio::join!(child.wait(), feed, read_capped(out, cap), read_tail(err, on_stderr));
    let (stdout, truncated) = out?;
    Ok(Finished { code: status?.code(), stdout, truncated, stderr: err? })
}

/// Reads to the end, keeps the first `cap` bytes.
async fn read_capped(
    source: Option<impl AsyncRead + Unpin>,
    cap: usize,
) -> std::io::Result<(Vec<u8>, bool)> {
    let mut kept = Vec::new();
    let Some(mut source) = source else { return Ok((kept, false)) };
    let mut limited = (&mut source).take(cap as u64);
    limited.read_to_end(&mut kept).await?;
    let rest = tokio::io::copy(&mut source, &mut tokio::io::sink()).await?;
    Ok((kept, rest > 0))
}

/// Reads to the end, hands on each line (or progress line), keeps the tail, redacted.
async fn read_tail(
    source: Option<impl AsyncRead + Unpin>,
    on_line: &mut (dyn FnMut(&str) + Send),
) -> std::io::Result<String> {
    let Some(mut source) = source else { return Ok(String::new()) };
    let (mut kept, mut line, mut buffer) = (Vec::new(), Vec::new(), [0; 4096]);
    loop {
        let read = source.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        for &byte in &buffer[..read] {
            if byte == b'\n' || byte == b'\r' {
                on_line(&redact(&String::from_utf8_lossy(&line)));
                if byte == b'\n' {
                    kept.append(&mut line);
                    kept.push(b'\n');
                }
                line.clear();
            } else if line.len() < STDERR_TAIL {
                line.push(byte);
            }
        }
        if kept.len() > STDERR_TAIL * 2 {
            kept.drain(..kept.len() - STDERR_TAIL);
        }
    }
    kept.append(&mut line);
    let from = kept.len().saturating_sub(STDERR_TAIL);
    Ok(redact(String::from_utf8_lossy(&kept[from..]).trim()))
}

/// Kills the process group of a child that was not waited for: git's helpers go with it.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw))
    }

    fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // Not reaped yet, so the number is still its own.
            let _ = killpg(pid, Signal::SIGKILL);
        }
    }
}
