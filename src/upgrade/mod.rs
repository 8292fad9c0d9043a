//! `rebuild`: building the program from its own source, and replacing the running process.
//!
//! Forces: the person who asks is in a chat, perhaps far from the machine; the program must not be
//! lost to a source that does not build or a binary that does not start. So the running binary
//! serves on while another one is built in a directory of its own; the new one must show its
//! version and pass `doctor --quick` before anything is changed; only then it takes the place of
//! the old file (which is kept beside it), and `app` is asked to shut down in order and to
//! [`exec`] it. A build that fails changes nothing.
//!
//! Repeatable: until the request, a crash loses only the build. Which room asked, and the old
//! version, are stored with the command's end; [`announce`] tells the room at the next start,
//! also when the process died before it was replaced. Versions carry the commit they were built
//! from, which the build is told by a variable.

mod build;

use crate::model::chat::Outgoing;
use crate::model::ids::{OutboxId, SessionKey};
use crate::store::{Store, StoreError, Tx, meta, outbox};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{Mutex, watch};

/// Says to the new process that it replaced the one with this id: its own, since `exec` keeps it.
const REPLACED: &str = "MUSHER_REPLACED";

/// The meta row with the [`Announcement`] that is due at the next start.
const ANNOUNCEMENT: &str = "upgrade";

/// Names the source checkout.
pub const SOURCE: &str = "MUSHER_SOURCE";

pub use crate::version::version;

/// Why the program was not rebuilt; the running one goes on.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// There is nothing to build from.
    #[error(
        "I do not know where my source is: start me with {SOURCE} set to a checkout of it \
         (looked at {0})"
    )]
    NoSource(String),
    /// One at a time.
    #[error("a rebuild is already running; its progress is shown where it was asked for")]
    Busy,
    /// A step did not succeed.
    #[error("{step} failed, so nothing was changed. {remedy}\n\n```\n{output}\n```")]
    Step {
        /// Which.
        step: &'static str,
        /// What to do.
        remedy: &'static str,
        /// Its last lines.
        output: String,
    },
    /// A step could not be run.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A program to put in the place of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replacement {
    /// The binary.
    pub program: PathBuf,
    /// Its arguments: ours.
    pub args: Vec<OsString>,
    /// Whether running turns are not waited for.
    pub now: bool,
}

/// A binary that was built and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// Where it stands now.
    pub program: PathBuf,
    /// What it says of itself.
    pub version: String,
    /// Why it could not take the place of the old file; it runs until the next start of the
    /// machine then.
    pub not_installed: Option<String>,
}

/// Who asked for a rebuild, and how.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Where progress is shown.
    pub session: SessionKey,
    /// What progress is tied to, so that a repeat goes into the same message.
    pub key: String,
    /// Fetch the newest source first.
    pub pull: bool,
}

/// What the room is told after the restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Announcement {
    session: SessionKey,
    from: String,
    to: String,
}

/// Rebuilds and replaces the program. Cloning shares it.
#[derive(Clone)]
pub struct Upgrade {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    config_file: Option<PathBuf>,
    cargo: PathBuf,
    source: Option<PathBuf>,
    installed: Option<PathBuf>,
    busy: Mutex<()>,
    wanted: watch::Sender<Option<Replacement>>,
}

impl Upgrade {
    /// For the running program. `config_file` is what the new binary's `doctor` reads.
    pub fn new(store: Store, config_file: Option<PathBuf>) -> Self {
        let baked = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let named = std::env::var_os(SOURCE).map(PathBuf::from);
        let source = named.or_else(|| baked.join("Cargo.toml").is_file().then_some(baked));
        let cargo = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
        Self::with(store, config_file, cargo, source, build::installed())
    }

    fn with(
        store: Store,
        config_file: Option<PathBuf>,
        cargo: PathBuf,
        source: Option<PathBuf>,
        installed: Option<PathBuf>,
    ) -> Self {
        let (busy, wanted) = (Mutex::default(), watch::Sender::new(None));
        Self {
            shared: Arc::new(Shared { store, config_file, cargo, source, installed, busy, wanted }),
        }
    }

    /// Builds, checks and installs the program from its source, with progress in the room. The
    /// running process is not touched.
    pub async fn rebuild(&self, asked: &Asked) -> Result<Built, UpgradeError> {
        let Ok(_alone) = self.shared.busy.try_lock() else {
            return Err(UpgradeError::Busy);
        };
        let source = self.source()?;
        let progress = Progress::begin(&self.shared.store, asked).await?;
        build::build(&self.shared, source, asked.pull, &progress).await
    }

    fn source(&self) -> Result<&Path, UpgradeError> {
        let none = || UpgradeError::NoSource(env!("CARGO_MANIFEST_DIR").to_owned());
        let source = self.shared.source.as_deref().ok_or_else(none)?;
        if source.join("Cargo.toml").is_file() {
            Ok(source)
        } else {
            Err(UpgradeError::NoSource(source.display().to_string()))
        }
    }

    /// Asks `app` to shut down and run `built` in place of this process, with our arguments.
    pub fn request(&self, built: &Built, now: bool) {
        let args = std::env::args_os().skip(1).collect();
        let wanted = Replacement { program: built.program.clone(), args, now };
        self.shared.wanted.send_replace(Some(wanted));
    }

    /// What is to replace this process, once that was asked for; `app` waits for it.
    pub fn replaced(&self) -> watch::Receiver<Option<Replacement>> {
        self.shared.wanted.subscribe()
    }
}

/// Notes whom to tell after the restart, in the transaction that ends the command.
pub fn note(tx: &Tx<'_>, session: &SessionKey, built: &Built) -> Result<(), StoreError> {
    let announcement = Announcement {
        session: session.clone(),
        from: version().to_owned(),
        to: built.version.clone(),
    };
    let text = serde_json::to_string(&announcement).expect("strings can always be written as JSON");
    meta::set(tx, ANNOUNCEMENT, &text)
}

/// Tells the room that asked for a rebuild what runs now. Call once at start.
pub fn announce(tx: &Tx<'_>) -> Result<(), StoreError> {
    let replaced = std::env::var(REPLACED).ok().and_then(|id| id.parse().ok());
    announce_as(tx, replaced == Some(std::process::id()))
}

fn announce_as(tx: &Tx<'_>, replaced: bool) -> Result<(), StoreError> {
    let Some(text) = meta::find(tx, ANNOUNCEMENT)? else { return Ok(()) };
    meta::remove(tx, ANNOUNCEMENT)?;
    let Ok(Announcement { session, from, to }) = serde_json::from_str(&text) else {
        return Ok(());
    };
    let now = version();
    // Without having been replaced, the new file may have been started all the same; of two
    // that call themselves alike nobody can tell.
    let text = if replaced || (now == to && now != from) {
        format!("I am back: musher **{now}** runs now, in place of {from}.")
    } else {
        format!(
            "I was restarted before musher {to} could take over: **{now}** still runs. \
             `rebuild` tries again."
        )
    };
    outbox::enqueue(tx, &Outgoing::text(session, text), None)?;
    Ok(())
}

/// Puts the program in the place of this process; returns only when that fails.
///
/// Call after everything is shut down and the store closed: nothing of this process is left.
pub fn exec(replacement: &Replacement) -> std::io::Error {
    use std::os::unix::process::CommandExt;
    std::process::Command::new(&replacement.program)
        .args(&replacement.args)
        .env(REPLACED, std::process::id().to_string())
        .exec()
}

/// One message in the room that is kept current by edits.
struct Progress {
    store: Store,
    session: SessionKey,
    message: OutboxId,
}

impl Progress {
    async fn begin(store: &Store, asked: &Asked) -> Result<Self, StoreError> {
        let session = asked.session.clone();
        let notice = Outgoing::notice(session.clone(), "Rebuilding: looking at the source.");
        let dedup = format!("rebuild:{}", asked.key);
        let message = store.write(move |tx| outbox::enqueue(tx, &notice, Some(&dedup))).await?;
        Ok(Self { store: store.clone(), session, message })
    }

    async fn say(&self, markdown: String) -> Result<(), StoreError> {
        use crate::model::chat::{OutgoingContent, Weight};
        let content = OutgoingContent::Edit { of: self.message, markdown, weight: Weight::Notice };
        let outgoing = Outgoing { session: self.session.clone(), content, item: None };
        self.store.write(move |tx| outbox::enqueue(tx, &outgoing, None)).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
