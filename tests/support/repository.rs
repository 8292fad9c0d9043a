//! A small git repository for agents to work in.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A repository on `main` with a commit, and a gate: `sh check.sh`.
#[derive(Debug)]
pub struct Repository {
    /// The project's name in the configuration.
    pub name: String,
    pub path: PathBuf,
    _directory: TempDir,
}

impl Repository {
    /// A repository whose gate passes unless a file `broken` is in the tree.
    pub fn new(name: &str) -> Self {
        Self::with_gate(name, "test ! -e broken || { echo 'there is a file: broken'; exit 1; }\n")
    }

    /// A repository whose gate is this shell script.
    pub fn with_gate(name: &str, script: &str) -> Self {
        Self::placed(name, script, &std::env::temp_dir())
    }

    /// As [`Repository::with_gate`], below another directory than the system's for temporary files.
    pub fn placed(name: &str, script: &str, parent: &Path) -> Self {
        let directory = tempfile::Builder::new().prefix("musher-repo-").tempdir_in(parent).unwrap();
        let path = directory.path().join(name);
        std::fs::create_dir(&path).unwrap();
        let repository = Self { name: name.to_owned(), path, _directory: directory };
        repository.git(&["init", "-q", "-b", "main"]);
        repository.write("README.md", &format!("# {name}\n"));
        repository.write("check.sh", script);
        repository.commit("Start");
        repository
    }

    /// Runs git here as the person, and returns what it printed, trimmed.
    pub fn git(&self, arguments: &[&str]) -> String {
        let output = isolated_git(&self.path).args(arguments).output().expect("git runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "git {arguments:?}: {errors}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Writes a file into the checkout.
    pub fn write(&self, path: &str, content: &str) {
        let path = self.path.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Commits all that is in the checkout, and returns the commit's id.
    pub fn commit(&self, message: &str) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", message]);
        self.head("main")
    }

    /// The commit that a branch is at.
    pub fn head(&self, branch: &str) -> String {
        self.git(&["rev-parse", branch])
    }

    /// The subjects of a branch's commits, newest first.
    pub fn subjects(&self, branch: &str) -> Vec<String> {
        self.git(&["log", "--format=%s", branch]).lines().map(str::to_owned).collect()
    }

    /// A file as it is on a branch, if it is there.
    pub fn show(&self, branch: &str, path: &str) -> Option<String> {
        let object = format!("{branch}:{path}");
        let output = isolated_git(&self.path).args(["show", &object]).output().expect("git runs");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Whether the person's checkout has nothing uncommitted, untracked files included.
    pub fn is_clean(&self) -> bool {
        self.git(&["status", "--porcelain"]).is_empty()
    }

    /// Branches, without the markers for the current one and those of worktrees.
    pub fn branches(&self) -> Vec<String> {
        self.git(&["branch", "--format=%(refname:short)"]).lines().map(str::to_owned).collect()
    }
}

/// git that reads no configuration of the machine it runs on.
fn isolated_git(directory: &Path) -> Command {
    let mut git = Command::new("git");
    git.current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_AUTHOR_NAME", "Ann")
        .env("GIT_AUTHOR_EMAIL", "ann@test.local")
        .env("GIT_COMMITTER_NAME", "Ann")
        .env("GIT_COMMITTER_EMAIL", "ann@test.local");
    git
}
