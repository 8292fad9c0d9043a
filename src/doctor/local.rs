//! The checks that need no network.

use super::Check;
use crate::agents::runtime::probe;
use crate::chat::matrix::UNDECRYPTABLE;
use crate::config::{
    AgentConfig, Config, Confinement, ProjectConfig, RuntimeKind, check_secrets, warnings,
};
use crate::project::Project;
use crate::project::shell::{self, End, ShellCommand};
use crate::store::projects::{self, Source};
use crate::store::{Store, StoreError, inspect, meta, outbox, sound};
use rusqlite::Connection;
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Below this little works for long.
const DISK_WARN_BYTES: u64 = 2 << 30;
/// Below this the next worktree or build fails.
const DISK_FAIL_BYTES: u64 = 200 << 20;
/// The oldest git with `merge-tree --write-tree`.
const GIT_MIN: (u32, u32) = (2, 38);
/// How long `git --version` may take.
const GIT_TIMEOUT: Duration = Duration::from_secs(10);

/// The configuration's secrets and what is odd about it; it was read already.
pub(super) fn config(config: &Config) -> Vec<Check> {
    let mut checks: Vec<Check> = check_secrets(config)
        .into_iter()
        .map(|error| {
            let text = format!("{}: {}", error.key, error.reason);
            Check::failed("config", text, &error.remedy)
        })
        .collect();
    let odd = warnings(config);
    if !odd.is_empty() {
        let remedy = "change the configuration if this is not meant";
        checks.push(Check::warning("config", odd.join("; "), remedy));
    }
    if checks.is_empty() {
        checks.push(Check::ok("config", format!("{} is good", config.file.display())));
    }
    checks
}

pub(super) async fn database(config: &Config, store: Option<&Store>) -> Check {
    if let Some(store) = store {
        if let Some(why) = store.fault() {
            let remedy = "make room, or see to the disk; what waits is written then by itself";
            return Check::failed("database", why, remedy);
        }
        return match store.read(sound).await {
            Ok(text) if text == "ok" => Check::ok("database", "open and sound"),
            Ok(text) => damaged(&text),
            Err(error) => damaged(&error.to_string()),
        };
    }
    let data_dir = config.data_dir.clone();
    match tokio::task::spawn_blocking(move || inspect(&data_dir)).await {
        Ok(Ok(None)) => Check::ok("database", "not there yet; the first start makes it"),
        Ok(Ok(Some(found))) if found.version > found.known => Check::failed(
            "database",
            format!(
                "it has schema version {}, this musher knows only {}",
                found.version, found.known
            ),
            "install the newer musher, or restore the copy that was kept beside the database",
        ),
        Ok(Ok(Some(found))) if found.check == "ok" => {
            Check::ok("database", format!("sound, schema version {}", found.version))
        }
        Ok(Ok(Some(found))) => damaged(&found.check),
        Ok(Err(error)) => damaged(&error.to_string()),
        Err(error) => damaged(&error.to_string()),
    }
}

fn damaged(what: &str) -> Check {
    let remedy = "stop the server, keep a copy of the data directory, and restore a backup of \
                  musher.db or run `sqlite3 musher.db .recover`";
    Check::failed("database", format!("it cannot be read: {what}"), remedy)
}

pub(super) fn disk(data_dir: &Path) -> Check {
    let there = data_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let stat = match nix::sys::statvfs::statvfs(there) {
        Ok(stat) => stat,
        Err(error) => {
            let text = format!("cannot look at {}: {error}", there.display());
            return Check::failed("disk", text, "check `data_dir` in the configuration");
        }
    };
    let free = stat.blocks_available().saturating_mul(stat.fragment_size());
    let text = format!("{} MiB free at {}", free >> 20, there.display());
    if free < DISK_FAIL_BYTES {
        let places = data_dir.display();
        let remedy = format!("make room: `du -sh {places}/*/*` shows what takes most of ours");
        Check::failed("disk", text, &remedy)
    } else if free < DISK_WARN_BYTES {
        Check::warning("disk", text, "make room soon: builds in worktrees need space")
    } else {
        Check::ok("disk", text)
    }
}

pub(super) async fn git() -> Check {
    let remedy = "install git 2.38 or newer";
    let cancel = CancellationToken::new();
    let ran = shell::run(ShellCommand {
        command: "git --version",
        cwd: Path::new("/"),
        limit: GIT_TIMEOUT,
        env: &[],
        cancel: &cancel,
    });
    match ran.await {
        Ok(ran) if matches!(ran.end, End::Exited(0)) => git_version(ran.output.trim(), remedy),
        Ok(ran) => Check::failed("git", format!("it does not run: {}", ran.output.trim()), remedy),
        Err(error) => Check::failed("git", format!("it does not run: {error}"), remedy),
    }
}

fn git_version(text: &str, remedy: &str) -> Check {
    let mut numbers = text
        .split(|letter: char| !letter.is_ascii_digit())
        .filter_map(|number| number.parse::<u32>().ok());
    let found = numbers.next().zip(numbers.next());
    match found {
        Some(version) if version >= GIT_MIN => Check::ok("git", text),
        Some(_) => Check::failed("git", format!("{text} is too old to merge with"), remedy),
        None => Check::warning("git", format!("its version is not understood: {text}"), remedy),
    }
}

pub(super) fn encryption(config: &Config) -> Check {
    if config.matrix.is_none() {
        return Check::skipped("encryption", "there is no [matrix]");
    }
    let dir = config.data_dir.join("matrix");
    let session = dir.join("session.json").exists();
    let store = dir.join("store").join("matrix-sdk-crypto.sqlite3").exists();
    let begun = dir.join("login-as-device").exists();
    match (session, store) {
        (true, true) => Check::ok("encryption", "the crypto store belongs to the session"),
        (false, false) => Check::ok("encryption", "the first login makes the crypto store"),
        (true, false) => Check::failed(
            "encryption",
            format!("the crypto store in {} is gone, its session is not", dir.display()),
            "restore the directory from a backup; or move it away, and the next start logs in as \
             a new device that reads no older messages",
        ),
        (false, true) if !begun => Check::failed(
            "encryption",
            format!("the session in {} is gone, its crypto store is not", dir.display()),
            "restore session.json from a backup; or move the directory away, and the next start \
             logs in as a new device that reads no older messages",
        ),
        (false, true) => Check::warning(
            "encryption",
            "there is a crypto store without a session: a first login was cut off",
            "start the server: it tries again as the same device",
        ),
    }
}

pub(super) async fn agent(id: &str, agent: &AgentConfig) -> Check {
    match probe(agent.runtime, agent.command.as_deref()).await {
        Ok(report) => match report.warning {
            Some(warning) => Check::warning(
                id,
                format!("{}: {warning}", report.version),
                "use a version that was tested, or try this one with care",
            ),
            None => Check::ok(id, report.version),
        },
        Err(error) => {
            let text = error.to_string();
            let (what, remedy) = text.split_once(": ").unwrap_or((&text, "put it right"));
            Check::failed(id, what, remedy)
        }
    }
}

pub(super) async fn project(id: &str, settings: ProjectConfig) -> Check {
    let project = Project::new(settings, false);
    match project.check().await {
        Ok(()) => {
            Check::ok(id, format!("{} with the base {}", project.path.display(), project.base))
        }
        Err(error) => {
            let text = error.to_string();
            let (what, remedy) = text.split_once(": ").unwrap_or((&text, "put it right"));
            Check::failed(id, what, remedy)
        }
    }
}

/// The projects that were made in a chat: the configuration knows nothing of them.
pub(super) async fn made_in_chat(config: &Config, store: Option<&Store>) -> Vec<ProjectConfig> {
    let rows = match store {
        Some(store) => store.read(projects::list).await,
        None => {
            let data_dir = config.data_dir.clone();
            let read = move || crate::store::read_beside(&data_dir, projects::list);
            match tokio::task::spawn_blocking(read).await {
                Ok(rows) => rows.map(Option::unwrap_or_default),
                Err(_panic) => Err(StoreError::Panicked),
            }
        }
    };
    // A database that cannot be read has its own check.
    let rows = rows.unwrap_or_default();
    rows.into_iter().filter(|row| row.source == Source::Chat).map(|row| row.settings).collect()
}

pub(super) fn confinement(config: &Config) -> Check {
    match config.containers.confinement {
        Confinement::None => Check::warning(
            "confinement",
            "nothing keeps agents' commands inside their worktrees",
            "install bubblewrap and set containers.confinement = \"bubblewrap\", or run Musher \
             as a user who may touch nothing else",
        ),
        Confinement::Bubblewrap if shell::on_path("bwrap") => in_bubblewrap(config),
        Confinement::Bubblewrap => Check::failed(
            "confinement",
            "bubblewrap is configured and not installed",
            "install it (`apt install bubblewrap`), or set containers.confinement = \"none\"",
        ),
    }
}

/// Which agents' commands bubblewrap holds, and which it does not.
fn in_bubblewrap(config: &Config) -> Check {
    let free: Vec<&str> = config
        .agents
        .iter()
        .filter(|agent| match agent.runtime {
            // Codex has a sandbox of its own, which is on; a recording runs what it says.
            RuntimeKind::Api | RuntimeKind::Codex | RuntimeKind::Replay => false,
            RuntimeKind::ClaudeCode | RuntimeKind::Acp => true,
        })
        .map(|agent| agent.name.as_str())
        .collect();
    if free.is_empty() {
        return Check::ok("confinement", "agents' commands run in a sandbox");
    }
    Check::warning(
        "confinement",
        format!(
            "the commands of built-in agents run in bubblewrap, but those of {} run as Musher does",
            free.join(", ")
        ),
        "keep `permissions = \"ask\"` for these, or run Musher as a user who may touch nothing \
         else",
    )
}

/// What went wrong earlier and still stands: messages that were not sent or not read.
pub(super) async fn left_over(config: &Config, store: Option<&Store>) -> Vec<Check> {
    let counted = match store {
        Some(store) => store.read(count).await,
        None => {
            let data_dir = config.data_dir.clone();
            let read = move || crate::store::read_beside(&data_dir, count);
            match tokio::task::spawn_blocking(read).await {
                Ok(counted) => counted.map(Option::unwrap_or_default),
                Err(_panic) => Err(StoreError::Panicked),
            }
        }
    };
    // A database that cannot be read has its own check.
    let Ok((failed, undecryptable)) = counted else {
        let unknown = |id| Check::skipped(id, "the database cannot be read");
        return vec![unknown("outbox_failed"), unknown("undecryptable")];
    };
    let outbox = match failed {
        0 => Check::ok("outbox_failed", "every message was posted or waits"),
        many => Check::warning(
            "outbox_failed",
            format!("{many} messages could not be posted; the log says why"),
            "check that the bot is in the rooms and may write there",
        ),
    };
    let undecryptable = match undecryptable {
        0 => Check::ok("undecryptable", "every message could be read"),
        many => Check::warning(
            "undecryptable",
            format!("{many} encrypted messages could not be read"),
            "ask their senders to send them again; see to it that the bot's device is verified",
        ),
    };
    vec![outbox, undecryptable]
}

/// How many messages failed to be posted, and to be read.
fn count(conn: &Connection) -> Result<(usize, u64), StoreError> {
    let failed = outbox::failed(conn, 1000)?.len();
    let undecryptable = meta::find(conn, UNDECRYPTABLE)?.and_then(|text| text.parse().ok());
    Ok((failed, undecryptable.unwrap_or(0)))
}
