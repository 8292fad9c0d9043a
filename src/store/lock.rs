//! The lock on a data directory: one server, or one command-line call, at a time.

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Who holds a data directory, as written in its lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The process.
    pub pid: i32,
    /// When it started, in clock ticks since boot (`/proc/PID/stat`, field 22): tells it from a
    /// later process with the same number.
    pub started: u64,
}

impl Owner {
    /// This process.
    pub fn this_process() -> Self {
        let pid = nix::unistd::getpid().as_raw();
        Self { pid, started: start_time(pid).unwrap_or(0) }
    }

    /// Whether that very process still runs.
    pub fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }
}

/// Why the lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("another musher (pid {}) is running on this data directory", owner.as_ref().map_or_else(|| "unknown".to_owned(), |owner| owner.pid.to_string()))]
    Held {
        /// As far as its lock file tells.
        owner: Option<Owner>,
    },
    /// The lock file cannot be made.
    #[error("cannot lock the data directory: {0}")]
    Io(#[from] std::io::Error),
}

/// Held while the database is open; dropping it, or the death of the process, frees it.
pub struct DataLock {
    _file: Flock<File>,
}

/// Takes the lock, without waiting.
pub fn take(data_dir: &Path) -> Result<DataLock, LockError> {
    let path = data_dir.join("lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut file) => {
            let owner = Owner::this_process();
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(
                serde_json::to_string(&owner).map_err(std::io::Error::from)?.as_bytes(),
            )?;
            Ok(DataLock { _file: file })
        }
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            Err(LockError::Held { owner: serde_json::from_str(&text).ok() })
        }
        Err((_, errno)) => Err(LockError::Io(errno.into())),
    }
}

/// When a process started, in clock ticks since boot; `None` when there is no such process.
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses and may itself hold spaces and parentheses.
    let after = &stat[stat.rfind(')')? + 2..];
    after.split(' ').nth(19)?.parse().ok()
}
