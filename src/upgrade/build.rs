//! The steps of a rebuild: fetch, build, check, install.

use super::{Built, Progress, Shared, UpgradeError};
use crate::project::git::Git;
use crate::redact::redact;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// How long a build may take: a release build on a small machine takes over ten minutes.
const BUILD_LIMIT: Duration = Duration::from_secs(90 * 60);

/// How long the new binary may take to show its version or to examine itself.
const CHECK_LIMIT: Duration = Duration::from_secs(120);

/// How often the room sees progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(15);

/// How many of a step's last lines are shown when it fails.
const TAIL_LINES: usize = 25;

/// How long a line of output may be in the room.
const LINE_CHARS: usize = 300;

/// The file of the running program; `None` when it cannot be told.
pub fn installed() -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?;
    // Linux says so of a file that was replaced while it ran.
    let text = path.to_str()?;
    Some(PathBuf::from(text.strip_suffix(" (deleted)").unwrap_or(text)))
}

/// Builds and checks the program in `source`, and puts it in the place of the old file.
pub(super) async fn build(
    shared: &Shared,
    source: &Path,
    pull: bool,
    progress: &Progress,
) -> Result<Built, UpgradeError> {
    if pull {
        Git::at(source).pull_ff().await.map_err(|error| UpgradeError::Step {
            step: "fetching the newest source",
            remedy: "Put the checkout in order, or rebuild without `--pull`.",
            output: error.to_string(),
        })?;
    }
    let version = version_of(source).await;
    let target = shared.store.data_dir().join("rebuild");
    let mut cargo = Command::new(&shared.cargo);
    cargo
        .args(["build", "--locked", "--bin", "musher"])
        .current_dir(source)
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_TERM_COLOR", "never")
        .env("MUSHER_VERSION", &version);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let remedy = "Correct the source, then `rebuild` again.";
    run("the build", remedy, cargo, BUILD_LIMIT, Some(progress)).await?;
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let binary = target.join(profile).join("musher");
    progress.say("Rebuilding: built; the new program examines itself.".to_owned()).await?;
    let version = check(shared, &binary).await?;
    let (program, not_installed) = install(&binary, shared.installed.as_deref());
    progress.say(format!("Rebuilt: musher {version} is ready.")).await?;
    Ok(Built { program, version, not_installed })
}

/// What the new binary will call itself: our version and the commit it is built from.
async fn version_of(source: &Path) -> String {
    let plain = crate::version::plain().to_owned();
    match Git::at(source).describe().await {
        Ok(commit) => format!("{plain}+{commit}"),
        Err(_no_checkout) => plain,
    }
}

/// Lets the new binary show its version and examine itself; returns the version.
async fn check(shared: &Shared, binary: &Path) -> Result<String, UpgradeError> {
    let remedy = "The new program does not run here; the old one goes on.";
    let mut version = Command::new(binary);
    version.arg("--version");
    let said = run("starting the new program", remedy, version, CHECK_LIMIT, None).await?;
    let mut doctor = Command::new(binary);
    doctor.args(["doctor", "--quick"]);
    if let Some(config) = &shared.config_file {
        doctor.arg("--config").arg(config);
    }
    run("the new program's `doctor --quick`", remedy, doctor, CHECK_LIMIT, None).await?;
    let version = said.lines().next().unwrap_or_default().trim();
    Ok(version.strip_prefix("musher ").unwrap_or(version).to_owned())
}

/// Puts `binary` in the place of the file of the running program, which is kept beside it.
///
/// Each step is a rename inside one directory: at every moment there is a whole program.
fn install(binary: &Path, installed: Option<&Path>) -> (PathBuf, Option<String>) {
    let Some(place) = installed else {
        return (binary.to_owned(), Some("its place could not be told".to_owned()));
    };
    let beside = |suffix: &str| place.with_extension(suffix);
    let put = || -> std::io::Result<()> {
        std::fs::copy(binary, beside("new"))?;
        if place.exists() {
            std::fs::copy(place, beside("previous"))?;
        }
        std::fs::rename(beside("new"), place)
    };
    match put() {
        Ok(()) => (place.to_owned(), None),
        Err(error) => {
            let _ = std::fs::remove_file(beside("new"));
            (binary.to_owned(), Some(format!("{}: {error}", place.display())))
        }
    }
}

/// Runs one step and returns its output; fails with its last lines.
async fn run(
    step: &'static str,
    remedy: &'static str,
    mut command: Command,
    limit: Duration,
    progress: Option<&Progress>,
) -> Result<String, UpgradeError> {
    let io = |source| UpgradeError::Io { what: format!("run {step}"), source };
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own: the compiler's children end with it.
    command.kill_on_drop(true).process_group(0);
    let mut child = command.spawn().map_err(io)?;
    let group = child.id();
    let (tell, mut lines) = mpsc::channel(256);
    tokio::spawn(read_lines(child.stdout.take(), tell.clone()));
    tokio::spawn(read_lines(child.stderr.take(), tell));
    let mut tail: VecDeque<String> = VecDeque::new();
    let follow = async {
        let mut next = Instant::now() + PROGRESS_EVERY;
        let mut compiled = 0_u32;
        while let Some(line) = lines.recv().await {
            compiled += u32::from(line.trim_start().starts_with("Compiling"));
            if let Some(progress) = progress
                && Instant::now() >= next
            {
                let text = format!("Rebuilding: {compiled} crates compiled; `{}`", line.trim());
                progress.say(text).await?;
                next = Instant::now() + PROGRESS_EVERY;
            }
            tail.push_back(line);
            if tail.len() > TAIL_LINES {
                tail.pop_front();
            }
        }
        Ok::<_, UpgradeError>(child.wait().await)
    };
    let ended = timeout(limit, follow).await;
    let output = |tail: &VecDeque<String>| {
        let lines: Vec<&str> = tail.iter().map(String::as_str).collect();
        redact(&lines.join("\n")).replace("```", "'''")
    };
    match ended {
        Ok(status) => {
            if status?.map_err(io)?.success() {
                Ok(output(&tail))
            } else {
                Err(UpgradeError::Step { step, remedy, output: output(&tail) })
            }
        }
        Err(_late) => {
            kill_group(group);
            tail.push_back(format!("(ended after {} minutes)", limit.as_secs() / 60));
            Err(UpgradeError::Step { step, remedy, output: output(&tail) })
        }
    }
}

fn kill_group(leader: Option<u32>) {
    use nix::sys::signal::{Signal, killpg};
    use nix::unistd::Pid;
    if let Some(leader) = leader.and_then(|id| i32::try_from(id).ok()) {
        // It may have ended by itself.
        let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
    }
}

async fn read_lines(from: Option<impl AsyncRead + Unpin>, tell: mpsc::Sender<String>) {
    let Some(from) = from else { return };
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let line = line.chars().filter(|c| !c.is_control()).take(LINE_CHARS).collect();
        if tell.send(line).await.is_err() {
            return;
        }
    }
}
