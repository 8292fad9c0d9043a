//! The one door to the `git` command.
//!
//! **Forces.** Repositories belong to people, but the agents that work in their worktrees can write
//! to the shared `.git` directory: a hook or an fsmonitor program that one of them leaves there
//! must not run with the server's rights. And a directory that lost its `.git` must never make git
//! walk up and act on whatever repository lies above it.
//!
//! **Properties.** Every call has an environment built from nothing (an allow-list, so no `GIT_DIR`
//! of a caller leaks in), no hooks, no fsmonitor, no background maintenance, no terminal prompt, a
//! time limit, and a process group of its own that is killed when the time is up or the future is
//! dropped. Repositories are looked for in the given directory only, never above it. Paths are read
//! NUL-terminated. What git says on stderr is redacted before it is kept.

mod call;
mod history;
mod query;
mod read;
mod refs;
mod remote;
mod worktrees;

pub use call::GitError;
pub use history::Landed;
pub use query::{ChangedFile, DiffText, FileChange};
pub use refs::{Identity, MergeTree, RefUpdate};
pub use remote::Push;
pub use worktrees::{ListedWorktree, check_url};

use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a question to a local repository may take.
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long git may take to write out files: a new worktree, an updated checkout.
pub const CHECKOUT_TIMEOUT: Duration = Duration::from_secs(600);

/// How long a clone may take.
pub const CLONE_TIMEOUT: Duration = Duration::from_secs(1800);

/// How long a push, or asking a remote for its refs, may take.
pub const REMOTE_TIMEOUT: Duration = Duration::from_secs(300);

/// The most that is read of one answer of git; more is an error, or cut where that makes sense.
pub const OUTPUT_MAX: usize = 32 * 1024 * 1024;

/// Git in one directory: a repository, or one of its worktrees.
#[derive(Debug, Clone)]
pub struct Git {
    dir: PathBuf,
}

impl Git {
    /// Git in `dir`. Nothing is looked up or checked yet.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}
