//! What work says in a room.

/// A commit as people write it.
pub(super) fn short(commit: &str) -> String {
    format!("`{}`", commit.get(..8).unwrap_or(commit))
}
