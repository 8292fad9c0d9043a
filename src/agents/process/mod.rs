//! The one door to agent processes: spawning, reading, killing, and proving that nothing is left.
//!
//! **Spawning.** In a session of its own and with an environment built from nothing, marked with
//! [`MARKER`]. The caller records number, start time and marker *before* anything is written to
//! the process, so that a start after a crash knows what may be alive.
//!
//! **Killing.** No single signal stops an agent and its tools, which run in sessions of their own.
//! The ladder: (interrupt, by the runtime) → close stdin and SIGTERM → SIGKILL to process and
//! group → a sweep by marker until two looks find nothing. Start times are compared, so that a
//! reused number is never killed. [`Ladder`] bounds each rung; the whole stays under 8 s.
//!
//! **Not done.** Agents run as the server's user: dropping to another one needs `setuid` between
//! fork and exec, which is safe Rust only through a helper program. A server that must not run its
//! agents as root is started as a non-root user; `doctor` says so.

mod env;
mod lines;
mod sweep;
#[cfg(test)]
mod tests;
mod usage;

pub use env::{base_env, find_program};
pub use lines::{LINE_MAX, Line, LineReader};
pub use sweep::{
    Ident, MARKER, Marked, become_subreaper, find_marked, kill_marked, reap_orphans, signal,
};
pub use usage::{TreeUsage, usage_by_session};

use crate::store::start_time;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;

/// How much of stderr is kept for the failure message.
const STDERR_TAIL: usize = 8 * 1024;

/// How much of stderr goes into the log file; what follows is only drained.
const STDERR_LOG_MAX: usize = 1024 * 1024;

/// How long one write to a process may take before it counts as hung.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long each rung of the ladder waits.
#[derive(Debug, Clone, Copy)]
pub struct Ladder {
    /// For an interrupt to be followed.
    pub interrupt: Duration,
    /// For an idle process to end by itself after its stdin was closed.
    pub close: Duration,
    /// Between SIGTERM and SIGKILL.
    pub terminate: Duration,
    /// For the sweep to find nothing.
    pub sweep: Duration,
}

impl Default for Ladder {
    fn default() -> Self {
        Self {
            interrupt: Duration::from_secs(3),
            close: Duration::from_millis(500),
            terminate: Duration::from_secs(2),
            sweep: Duration::from_secs(2),
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExitReport {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The last that it wrote to stderr, redacted.
    pub stderr_tail: String,
    /// What carries its marker and could not be killed: empty when it is verified gone.
    pub survivors: Vec<i32>,
}

/// What is to be spawned.
#[derive(Debug, Clone)]
pub struct Spawn {
    /// The program, as an absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Where it runs.
    pub cwd: PathBuf,
    /// All of its environment; the marker is added.
    pub env: BTreeMap<String, String>,
    /// The marker.
    pub marker: String,
    /// Where stderr is logged.
    pub stderr_log: PathBuf,
}

/// A spawned process. Dropping it kills the process itself; [`AgentProcess::stop`] kills all.
pub struct AgentProcess {
    ident: Ident,
    marker: String,
    exited: watch::Receiver<Option<ExitStatus>>,
    kill: tokio::sync::mpsc::Sender<()>,
    stderr: Arc<Mutex<Tail>>,
}

/// What is written to a process; writes have a time-out, and a dead reader is an error.
pub struct Stdin(ChildStdin);

impl Stdin {
    /// Writes one line.
    pub async fn write_line(&mut self, line: &str) -> std::io::Result<()> {
        let write = async {
            self.0.write_all(line.as_bytes()).await?;
            self.0.write_all(b"\n").await?;
            self.0.flush().await
        };
        match tokio::time::timeout(WRITE_TIMEOUT, write).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                "the process does not read its input",
            )),
        }
    }
}

/// Spawns a process with pipes on all three streams.
pub fn spawn(spec: &Spawn) -> std::io::Result<(AgentProcess, Stdin, LineReader<ChildStdout>)> {
    let mut child = command(spec).spawn()?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0);
    let ident = Ident { pid, start: start_time(pid).unwrap_or(0) };
    let missing = || std::io::Error::other("a pipe of the process is missing");
    let stdin = child.stdin.take().ok_or_else(missing)?;
    let stdout = child.stdout.take().ok_or_else(missing)?;
    let stderr = child.stderr.take().ok_or_else(missing)?;
    let tail = Arc::new(Mutex::new(Tail::default()));
    tokio::spawn(drain_stderr(stderr, Arc::clone(&tail), spec.stderr_log.clone()));
    let (report, exited) = watch::channel(None);
    let (kill, killed) = tokio::sync::mpsc::channel(1);
    tokio::spawn(wait(child, killed, report));
    let process = AgentProcess { ident, marker: spec.marker.clone(), exited, kill, stderr: tail };
    Ok((process, Stdin(stdin), LineReader::new(stdout)))
}

/// Builds the command: own session where `setsid` is installed, else an own process group.
fn command(spec: &Spawn) -> Command {
    let mut command = match env::setsid_program() {
        Some(setsid) => {
            // It calls setsid() and then *becomes* the program: same number, own session.
            let mut command = Command::new(setsid);
            command.arg(&spec.program);
            command
        }
        None => {
            let mut command = Command::new(&spec.program);
            command.process_group(0);
            command
        }
    };
    command
        .args(&spec.args)
        .current_dir(&spec.cwd)
        .env_clear()
        .envs(&spec.env)
        .env(MARKER, &spec.marker)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Owns the child until it ends, so that its exit is seen by all who ask.
async fn wait(
    mut child: Child,
    mut kill: tokio::sync::mpsc::Receiver<()>,
    report: watch::Sender<Option<ExitStatus>>,
) {
    let status = tokio::select! {
        status = child.wait() => status,
        // A request, or the handle was dropped: nobody drives the process any more.
        _ = kill.recv() => {
            let _ = child.start_kill();
            child.wait().await
        }
    };
    match status {
        Ok(status) => report.send_replace(Some(status)),
        Err(error) => {
            tracing::error!(%error, "cannot wait for an agent's process");
            report.send_replace(Some(std::os::unix::process::ExitStatusExt::from_raw(0xff00)))
        }
    };
}

#[derive(Default)]
struct Tail {
    bytes: VecDeque<u8>,
}

async fn drain_stderr(
    mut stderr: tokio::process::ChildStderr,
    tail: Arc<Mutex<Tail>>,
    log: PathBuf,
) {
    let mut file = match open_log(&log).await {
        Ok(file) => Some(file),
        Err(error) => {
            tracing::warn!(%error, path = %log.display(), "cannot log an agent's stderr");
            None
        }
    };
    let mut logged = 0;
    let mut chunk = vec![0; 16 * 1024];
    while let Ok(read) = stderr.read(&mut chunk).await {
        if read == 0 {
            break;
        }
        if let Some(file) = file.as_mut()
            && logged < STDERR_LOG_MAX
        {
            let text = crate::redact::redact(&String::from_utf8_lossy(&chunk[..read]));
            logged += read;
            // A full disk must not stop the draining.
            let _ = file.write_all(text.as_bytes()).await;
            let _ = file.flush().await;
        }
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.bytes.extend(&chunk[..read]);
        let excess = tail.bytes.len().saturating_sub(STDERR_TAIL);
        tail.bytes.drain(..excess);
    }
}

async fn open_log(path: &Path) -> std::io::Result<tokio::fs::File> {
    if let Some(parent) = path.parent() {
        tokio::fs::create_dir_all(parent).await?;
    }
    tokio::fs::OpenOptions::new().create(true).append(true).open(path).await
}

impl AgentProcess {
    /// Which process it is.
    pub fn ident(&self) -> Ident {
        self.ident
    }

    /// Its marker.
    pub fn marker(&self) -> &str {
        &self.marker
    }

    /// The last that it wrote to stderr, redacted.
    pub fn stderr_tail(&self) -> String {
        let tail = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: Vec<u8> = tail.bytes.iter().copied().collect();
        crate::redact::redact(String::from_utf8_lossy(&bytes).trim())
    }

    /// Whether it has ended.
    pub fn has_exited(&self) -> bool {
        self.exited.borrow().is_some()
    }

    /// Waits for its end. Cancel-safe.
    pub async fn exited(&self) -> Option<ExitStatus> {
        let mut exited = self.exited.clone();
        let status = exited.wait_for(Option::is_some).await.ok()?;
        *status
    }

    /// Ends it and everything with its marker, rung by rung; the caller has closed stdin.
    ///
    /// Safe to repeat, also after it ended: what it left behind is swept all the same.
    pub async fn stop(&self, ladder: Ladder) -> ExitReport {
        let _ = tokio::time::timeout(ladder.close, self.exited()).await;
        if !self.has_exited() {
            self.signal(Signal::SIGTERM);
            let _ = tokio::time::timeout(ladder.terminate, self.exited()).await;
        }
        if !self.has_exited() {
            let _ = self.kill.try_send(());
        }
        self.kill_group();
        let marker = self.marker.clone();
        let survivors = tokio::task::spawn_blocking(move || {
            kill_marked(Marked::Exactly(&marker), ladder.sweep)
        })
        .await
        .unwrap_or_default();
        // SIGKILL was sent: what is still there waits in the kernel, and shows as a survivor.
        let _ = tokio::time::timeout(Duration::from_millis(500), self.exited()).await;
        self.report(survivors.iter().map(|ident| ident.pid).collect())
    }

    /// How it ended, as far as it has.
    pub fn report(&self, survivors: Vec<i32>) -> ExitReport {
        let status = *self.exited.borrow();
        ExitReport {
            code: status.and_then(|status| status.code()),
            signal: status
                .and_then(|status| std::os::unix::process::ExitStatusExt::signal(&status)),
            stderr_tail: self.stderr_tail(),
            survivors,
        }
    }

    fn signal(&self, which: Signal) {
        signal(self.ident, which);
    }

    /// Kills its process group, which it leads, unless the number belongs to somebody else by now.
    fn kill_group(&self) {
        // After the leader was collected its number may be reused as a process, but not as a group
        // while a member lives; without members there is nobody to hit but a new group, so look.
        let leader = start_time(self.ident.pid);
        if self.ident.pid > 1 && (leader == Some(self.ident.start)) {
            let _ = nix::sys::signal::killpg(Pid::from_raw(self.ident.pid), Signal::SIGKILL);
        }
    }
}
