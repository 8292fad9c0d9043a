//! Whether work can be done in a project at all, and whose fault it is when it cannot.

use super::git::GitError;
use super::registry::{Project, ProjectError};
use super::shell;
use super::worktree::WorktreeError;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// How much must fit on the disk for work to go on, in bytes.
const ROOM: usize = 8 << 20;

/// Where the fault for an error lies that is neither the item's nor the agent's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The project: nothing works in it until somebody puts it right.
    Project,
    /// The machine, such as a full disk: nothing works anywhere.
    Machine,
}

impl Fault {
    /// The fault behind an error; `None`: it may go away by itself, or is not known.
    pub fn of(error: &anyhow::Error) -> Option<Fault> {
        if error.chain().any(is_full_disk) {
            return Some(Fault::Machine);
        }
        error.chain().find_map(|cause| {
            let project = match cause.downcast_ref::<ProjectError>() {
                Some(ProjectError::Git(_)) | None => false,
                Some(
                    ProjectError::Name(_)
                    | ProjectError::PathMissing { .. }
                    | ProjectError::NotARepository { .. }
                    | ProjectError::BaseMissing { .. }
                    | ProjectError::CannotRun { .. },
                ) => true,
            };
            let base = matches!(
                cause.downcast_ref::<WorktreeError>(),
                Some(WorktreeError::BaseMissing { .. } | WorktreeError::SetupMissing { .. })
            );
            (project || base).then_some(Fault::Project)
        })
    }
}

fn is_full_disk(cause: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(error) = cause.downcast_ref::<std::io::Error>() {
        return matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
    }
    // Git says it in words; it runs with LC_ALL=C.
    let said = match cause.downcast_ref::<GitError>() {
        Some(GitError::Failed { stderr, .. }) => stderr.as_str(),
        Some(_) | None => return false,
    };
    said.contains("No space left on device") || said.contains("Disk quota exceeded")
}

/// Whether there is room on the disk below `dir`; the error says why not.
pub fn has_room(dir: &Path) -> std::io::Result<()> {
    let path = dir.join("room.tmp");
    let wrote = std::fs::File::create(&path).and_then(|mut file| {
        file.write_all(&vec![0xa5; ROOM])?;
        file.sync_all()
    });
    let _ = std::fs::remove_file(&path);
    wrote
}

impl Project {
    /// As [`Project::check`], and whether the programs of its set-up and gates are there.
    pub async fn ready(&self) -> Result<(), ProjectError> {
        self.check().await?;
        for (what, commands) in [("set-up command", &self.setup), ("gate", &self.gates)] {
            for command in commands {
                if let Some(program) = shell::missing_program(command) {
                    let command = command.clone();
                    return Err(ProjectError::CannotRun { what, command, program });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    fn failed(stderr: &str) -> GitError {
        GitError::Failed { what: "add".to_owned(), code: Some(128), stderr: stderr.to_owned() }
    }

    #[test]
    fn a_fault_is_told_from_what_may_go_away() {
        let full = std::io::Error::from(ErrorKind::StorageFull);
        let base = WorktreeError::BaseMissing { base: "main".to_owned() };
        let setup =
            WorktreeError::SetupMissing { command: "mise install".into(), program: "mise".into() };
        let full_in_git = failed("fatal: sha1 file: write error: No space left on device");
        for (error, expected) in [
            (anyhow::Error::new(full).context("cannot write"), Some(Fault::Machine)),
            (anyhow::Error::new(full_in_git), Some(Fault::Machine)),
            (anyhow::Error::new(base).context("project demo"), Some(Fault::Project)),
            (anyhow::Error::new(setup).context("its worktree"), Some(Fault::Project)),
            (anyhow::Error::new(failed("fatal: index.lock exists")), None),
            (anyhow::anyhow!("item 3 is gone"), None),
        ] {
            assert_eq!(Fault::of(&error), expected, "{error:#}");
        }
        let wrapped: anyhow::Result<()> =
            Err(ProjectError::PathMissing { path: "/x".into() }).context("project demo");
        assert_eq!(Fault::of(&wrapped.unwrap_err()), Some(Fault::Project));
    }

    #[test]
    fn a_disk_with_room_is_found_to_have_it_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        has_room(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(has_room(&dir.path().join("none")).is_err());
    }
}
