//! What the stories stand on: a homeserver, people, a model and the program under test.
//!
//! Nothing here uses the Matrix SDK or any code of the program: a fault in either must not be
//! able to hide behind the same fault in its test.

#![allow(dead_code)]

pub mod desk;
pub mod disk;
pub mod encrypted_person;
pub mod event;
pub mod figures;
pub mod model_server;
pub mod musher;
pub mod person;
pub mod processes;
pub mod repository;
pub mod scene;
pub mod synapse;
pub mod team;
pub mod terminal;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a story waits for something that should happen at once on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How often [`until`] looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A tool that `scripts/test` installs; panics with the remedy when it is missing.
pub fn installed(relative: &str) -> PathBuf {
    let path = repository().join(".cache").join(relative);
    assert!(
        path.exists(),
        "{} is missing: run ./scripts/test once, it installs it",
        path.display()
    );
    path
}

/// Names that differ between tests, binaries and runs.
pub fn unique(prefix: &str) -> String {
    let id = uuid::Uuid::new_v4().simple().to_string();
    format!("{prefix}-{}", &id[..10])
}

/// Looks until `look` finds something; panics with `what` after [`PATIENCE`].
pub async fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, look).await
}

/// As [`until`], with its own time limit.
pub async fn until_within<T>(
    limit: Duration,
    what: &str,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < limit, "waited {limit:?} in vain for: {what}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The last lines of a text file, for a message about what went wrong.
pub fn tail(path: &Path, lines: usize) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
